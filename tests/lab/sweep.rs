//! The kill sweep on a machine with a real systemd: a pass that changes files, units and a container is killed before each system call that
//! changes a file or says something to systemd. `TRIMTAB_SWEEP=all` tries every place, by default a few.

use std::process::Stdio;

use trimtab_tests::lab::trimtab::{converge, enrol, settled};
use trimtab_tests::lab::{self, Machine, Person, eventually};
use trimtab_tests::sweep;
use trimtab_tests::trace::{Call, End, Gate, Verdict, Watch, shell_with};

use crate::fleet;

/// The two revisions between which the machine goes to and fro. Each has a unit that the other has not.
const VERSIONS: [&str; 2] = ["1", "2"];

fn push(ana: &Person<'_>, version: &str) {
    let m = ana.machine();
    let other = if version == "1" { "2" } else { "1" };
    fleet::assign(ana, &["one", "web", "files", &format!("only{version}")]);
    fleet::service(ana, "one", version);
    fleet::service(ana, &format!("only{version}"), version);
    fleet::container(ana, "web", &m.read(&format!("/var/lib/lab/busybox-{version}")));
    m.sh(&format!("rm -rf {}/components/files {0}/components/only{other}", ana.working_copy()));
    ana.write("components/files/files/etc/app/always.conf", &format!("version {version}\n"));
    ana.write(&format!("components/files/files/srv/only/{version}/file.conf"), "in a directory of its own\n");
    ana.push(&format!("Version {version}"));
}

/// `trimtab once` in the machine, stopped at each place.
fn traced(m: &Machine, decide: impl FnMut(usize, &Call) -> Verdict) -> End {
    let token = format!("sweep-{}-{}", m.name(), std::process::id());
    let mut command = m.command();
    command.args(["sh", "-c", &Gate::script(&token), "trimtab", "once"]).stdout(Stdio::null()).stderr(Stdio::null());
    let gate = Gate::behind(command);
    gate.run_as(shell_with(&token), Watch::FilesAndSockets, decide)
}

/// Each file old or new, with its mode; what the agent remembers can be read.
fn assert_whole(m: &Machine, at: &str) {
    let text = |path: &str| m.try_sh(&format!("cat {path} 2>/dev/null; stat -c %a {path} 2>/dev/null")).out;
    let whole = |path: &str, texts: &[&str]| {
        let found = text(path);
        assert!(texts.contains(&found.as_str()), "{at}: {path} is {found:?}");
    };
    whole("/etc/one.conf", &["SETTING=1\n644", "SETTING=2\n644"]);
    whole("/etc/app/always.conf", &["version 1\n644", "version 2\n644"]);
    for version in VERSIONS {
        whole(&format!("/etc/only{version}.conf"), &["", &format!("SETTING={version}\n644")]);
        whole(&format!("/srv/only/{version}/file.conf"), &["", "in a directory of its own\n644"]);
    }
    let containers = m.sh("grep -h ^Image= /etc/containers/systemd/web.container");
    assert!(
        VERSIONS.iter().any(|v| containers.ends_with(m.read(&format!("/var/lib/lab/busybox-{v}")).trim())),
        "{at}: {containers}"
    );
    let status = m.try_sh("trimtab status");
    assert!(status.code < 2 && !status.err.contains("damaged"), "{at}: {status}");
}

/// The machine is as this version says, and what runs was started with it.
fn assert_is(m: &Machine, version: &str, at: &str) {
    let other = if version == "1" { "2" } else { "1" };
    let environment = format!(
        "for unit in one only{version}; do tr '\\0' '\\n' < /proc/$(systemctl show -p MainPID --value $unit)/environ | grep ^SETTING=; done"
    );
    assert_eq!(m.try_sh(&environment).out, format!("SETTING={version}\nSETTING={version}"), "{at}");
    assert_eq!(m.read("/etc/app/always.conf"), format!("version {version}"), "{at}");
    assert_eq!(m.sh("podman ps -a --format '{{.Names}}'"), "systemd-web", "{at}");
    eventually(&format!("{at}: the container serves version {version}"), 20, || {
        m.try_sh("curl -sf --max-time 2 http://localhost:8080/version").out == version
    });
    let gone = format!(
        "systemctl show -p LoadState --value only{other}; ls -d /etc/only{other}.conf /etc/systemd/system/only{other}.service \
                        /srv/only/{other} 2>/dev/null; systemctl --failed --no-legend; find /etc /srv -name '.trimtab-*'; \
                        find /etc/trimtab /var/lib/trimtab -name '.*new'"
    );
    assert_eq!(m.try_sh(&gone).out, "not-found", "{at}");
}

#[test]
fn sweep_a_pass_with_units_and_a_container_is_killed_at_many_places() {
    let Some(m) = lab::boot("edge-1") else { return };
    let ana = Person::new(&m, "ana");
    push(&ana, "1");
    enrol(&m, &ana, "");
    converge(&m);
    settled(&m);
    push(&ana, "2");
    let mut total = 0;
    let end = traced(&m, |place, _| {
        total = place;
        Verdict::Go
    });
    assert_eq!(end, End::Exited(2));
    assert_is(&m, "2", "undisturbed");
    assert!(total > 60, "a pass with units has more places than {total}");

    let places = sweep::spaced(total, 6);
    for (round, place) in places.iter().enumerate() {
        let version = VERSIONS[round % 2];
        push(&ana, version);
        let mut at = String::new();
        let end = traced(&m, |now, call| {
            at = format!("killed at {place}, {call}");
            if now == *place { Verdict::Kill } else { Verdict::Go }
        });
        // The two directions need not have the same number of places.
        assert!(matches!(end, End::Killed(_) | End::Exited(2)), "{at}: {end:?}");
        assert_whole(&m, &at);
        let next = m.try_sh("trimtab once");
        assert!([0, 2].contains(&next.code), "{at}: the next pass does not converge\n{next}");
        let empty = m.try_sh("trimtab once");
        assert!(empty.code == 0, "{at}: the pass after the next one is not empty\n{empty}");
        assert_is(&m, version, &at);
        if sweep::all() {
            eprintln!("{at}: well");
        }
    }
    eprintln!("kill sweep in the lab ({total} places in a pass): {} places, 0 failed", places.len());
}
