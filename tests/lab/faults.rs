//! What a machine does to the agent: full and read-only disks, no bus, no courier, no registry, units that hang, kills everywhere.
//!
//! In each the same must hold: one clear error that names the resource, the rest converges, nothing is half-written, the agent lives.

use std::process::Command;

use trimtab_tests::lab::trimtab::{converge, enrol, refused, settled, start_agent, undone};
use trimtab_tests::lab::{self, Machine, Person, Watched, eventually};

use crate::fleet;

/// A machine on which `one` and `two` run.
fn two_services(m: &Machine) -> Person<'_> {
    let ana = fleet::two_services(m);
    enrol(m, &ana, "");
    converge(m);
    ana
}

fn status(m: &Machine) -> String {
    m.try_sh("trimtab status").out
}

/// Has systemd called the agent dead, or started it anew?
fn assert_lives(m: &Machine) {
    assert_eq!(m.sh("systemctl show -p ActiveState -p NRestarts trimtab | sort"), "ActiveState=active\nNRestarts=0");
}

#[test]
fn targets_that_take_nothing_are_named_and_the_rest_converges() {
    let Some(m) = lab::boot("edge-1") else { return };
    let ana = two_services(&m);
    m.sh("mkdir -p /srv/full /srv/ro /srv/fixed /var/lib/containers/fixed; mount -t tmpfs -o size=64k,mode=755 none /srv/full; \
          mount -t tmpfs -o mode=755 none /srv/ro; mount -o remount,ro /srv/ro; mount --bind /var/lib/containers/fixed /srv/fixed; \
          echo theirs > /srv/full/old; echo theirs > /srv/fixed/f");
    let chattr = |how: &str| Command::new("chattr").arg(how).arg(m.outside("/srv/fixed/f")).status();
    let fixed = chattr("+i").is_ok_and(|status| status.success());
    fleet::assign(&ana, &["one", "two", "full", "ro", "fixed", "who"]);
    let noise = m.sh("head -c 40000 /dev/urandom | base64 -w 0");
    ana.write("components/full/files/srv/full/a", &noise).write("components/full/files/srv/full/b", &noise);
    ana.write("components/full/files/srv/full/old", "ours\n").write("components/ro/files/srv/ro/f", "ours\n");
    ana.write("components/fixed/files/srv/fixed/f", "ours\n").write("components/who/files/etc/who", "ours\n");
    ana.write("components/who/component.toml", "[[file]]\npath = \"/etc/who\"\nowner = \"nosuchuser\"\n");
    fleet::service(&ana, "one", "2");
    ana.push("Targets that take nothing");
    let said = refused(&m);
    for (resource, why) in [
        ("file /srv/full/", "the file system is full"),
        ("file /srv/ro/f", "mounted read-only"),
        ("file /etc/who", "user nosuchuser does not exist"),
    ] {
        assert!(said.lines().any(|line| line.contains(resource) && line.contains(why)), "{resource}: {why}\n{said}");
    }
    assert!(!fixed || said.lines().any(|line| line.contains("file /srv/fixed/f") && line.contains("chattr -i")), "{said}");
    assert_eq!(m.sh("cat /etc/one.conf; systemctl is-active one two"), "SETTING=2\nactive\nactive");
    assert_eq!(m.sh("ls -A /srv/full /srv/ro; cat /srv/full/old; ls -A /srv/fixed"), "/srv/full:\nold\n\n/srv/ro:\ntheirs\nf");

    m.sh("mount -o remount,rw /srv/ro; mount -o remount,size=1m /srv/full; useradd -M nosuchuser");
    assert!(!fixed || chattr("-i").is_ok_and(|status| status.success()));
    converge(&m);
    assert_eq!(
        m.sh("stat -c %U /etc/who; cat /srv/full/old /srv/ro/f /srv/fixed/f; ls -A /srv/full | wc -l"),
        "nosuchuser\nours\nours\nours\n3"
    );
    settled(&m);
}

#[test]
fn a_state_folder_that_is_full_or_read_only_keeps_no_drift_in_place_and_takes_nothing_new() {
    let Some(m) = lab::boot("edge-1") else { return };
    let ana = two_services(&m);
    m.sh("mkdir /srv/s; mount -t tmpfs -o size=12m,mode=700 none /srv/s; cp -a /var/lib/trimtab/. /srv/s; mount --bind /srv/s /var/lib/trimtab");
    let spoil = || m.sh("echo SETTING=mine > /etc/two.conf; systemctl stop one");
    let held = || m.sh("cat /etc/one.conf /etc/two.conf; systemctl is-active one two");
    fleet::service(&ana, "one", "2");
    ana.push("There is no room for this");
    // Not a byte left, and too few for a new revision.
    for (fill, what) in
        [("dd if=/dev/zero of=/srv/s/fill bs=1k 2>/dev/null; true", "are needed"), ("truncate -s 9m /srv/s/fill", "are needed")]
    {
        m.sh(fill);
        spoil();
        let said = refused(&m);
        assert!(said.contains("/var/lib/trimtab") && said.contains(what), "{said}");
        assert_eq!(held(), "SETTING=1\nSETTING=1\nactive\nactive", "{said}");
    }
    m.sh("rm /srv/s/fill");
    converge(&m);
    assert_eq!(held(), "SETTING=2\nSETTING=1\nactive\nactive");

    // Read-only already when the agent starts, as after a disk error and a reboot.
    m.sh("mount -o remount,ro,bind /var/lib/trimtab");
    spoil();
    start_agent(&m);
    eventually("drift is repaired on a read-only state", 20, || {
        m.try_sh("systemctl is-active one two").code == 0 && m.read("/etc/two.conf") == "SETTING=1"
    });
    fleet::service(&ana, "one", "3");
    ana.push("It cannot be written down that this was accepted");
    eventually("it says so", 20, || status(&m).contains("mounted read-only"));
    assert_eq!(m.read("/etc/one.conf"), "SETTING=2");
    assert_lives(&m);
    m.sh("mount -o remount,rw,bind /var/lib/trimtab");
    eventually("it goes on by itself", 20, || m.read("/etc/one.conf") == "SETTING=3");
    assert_lives(&m);
}

#[test]
fn without_a_bus_files_are_held_and_units_are_taken_up_again_with_it() {
    let Some(m) = lab::boot("edge-1") else { return };
    let ana = two_services(&m);
    m.sh("systemctl stop dbus.socket dbus.service one");
    start_agent(&m);
    m.sh("echo SETTING=mine > /etc/two.conf");
    eventually("files are repaired", 20, || m.read("/etc/two.conf") == "SETTING=1");
    eventually("a host whose units nobody looks at is not ready", 20, || {
        status(&m).contains("systemd: cannot reach systemd over the system bus")
    });
    let before = Watched::new(&m, &["/etc/systemd/system/one.service"], &[]);
    ana.write(
        "components/one/systemd/one.service",
        "[Service]\nExecStart=/bin/sleep infinity\n[Install]\nWantedBy=multi-user.target\n",
    );
    ana.push("A unit that nobody can check");
    eventually("it was looked at", 20, || status(&m).contains("could not be checked"));
    before.assert_same(&Watched::new(&m, &["/etc/systemd/system/one.service"], &[]));
    m.sh("systemctl start dbus.socket dbus.service");
    eventually("the unit runs again, by its new definition", 30, || {
        m.try_sh("systemctl is-active one && systemctl cat one | grep -q sleep").code == 0
    });
    eventually("all is well", 20, || m.try_sh("trimtab status").code == 0);
    assert_lives(&m);
}

#[test]
fn a_courier_that_is_stopped_masked_or_killed_costs_a_poll_and_no_more() {
    let Some(m) = lab::boot("edge-1") else { return };
    let ana = two_services(&m);
    let strangers = "find /var/cache/trimtab ! -user trimtab-courier | wc -l";
    m.sh("systemctl stop trimtab-courier.socket");
    fleet::service(&ana, "one", "2");
    ana.push("By hand, with no socket");
    converge(&m);
    assert_eq!(m.sh(strangers), "0", "what root started leaves nothing of root's in the courier's cache");

    start_agent(&m);
    fleet::service(&ana, "one", "3");
    ana.push("The agent raises the socket");
    eventually("the socket is there again", 20, || m.read("/etc/one.conf") == "SETTING=3");
    m.sh("systemctl mask --now trimtab-courier.socket 2>/dev/null; rm -f /run/trimtab-courier/courier.sock");
    eventually("it says what is missing", 20, || status(&m).contains("is trimtab-courier.socket active?"));
    m.sh("echo SETTING=mine > /etc/two.conf");
    eventually("drift is repaired meanwhile", 20, || m.read("/etc/two.conf") == "SETTING=1");
    m.sh("systemctl unmask trimtab-courier.socket 2>/dev/null");
    fleet::service(&ana, "one", "4");
    ana.push("Unmasked");
    eventually("it is raised again", 20, || m.read("/etc/one.conf") == "SETTING=4");

    // Whatever the agent has started is shot at while commits go by.
    for round in 0..4 {
        fleet::service(&ana, "one", &format!("k{round}"));
        ana.push("A commit under fire");
        m.sh("agent=$(systemctl show -p MainPID --value trimtab); for shot in 1 2 3 4 5 6 7 8 9 10; do sleep 0.0$((RANDOM % 9 + 1)); \
              systemctl kill -s KILL 'trimtab-courier@*' 2>/dev/null; kill -KILL $(cat /proc/$agent/task/*/children) 2>/dev/null; done; true");
    }
    eventually("the last commit arrives", 30, || m.read("/etc/one.conf") == "SETTING=k3");
    eventually("all is well", 20, || m.try_sh("trimtab status").code == 0);
    assert_eq!(m.sh("systemctl --failed --no-legend; systemctl is-active one two"), "active\nactive");
    assert_eq!(m.sh(strangers), "0");
    assert_lives(&m);
}

#[test]
fn units_that_fail_hang_or_will_not_go_are_named_and_hold_nobody_up() {
    let Some(m) = lab::boot("edge-1") else { return };
    let ana = two_services(&m);
    m.sh("sed -i 's/^interval/unit-timeout = \"2s\"\\ninterval/' /etc/trimtab/agent.toml");
    let unit = |name: &str, service: &str| {
        let text = format!("[Service]\n{service}\n[Install]\nWantedBy=multi-user.target\n");
        ana.write(&format!("components/{name}/systemd/{name}.service"), &text);
    };
    unit("fails", "ExecStart=/bin/sh -c 'echo my last words; exit 3'\nType=oneshot\nRemainAfterExit=yes");
    unit("never", "Type=notify\nTimeoutStartSec=infinity\nExecStart=/bin/sleep infinity");
    unit("slow", "Type=notify\nNotifyAccess=all\nExecStart=/bin/sh -c 'sleep 4; systemd-notify --ready; sleep infinity'");
    unit("deaf", "TimeoutStopSec=5\nExecStart=/bin/sh -c 'trap \"\" TERM; while :; do sleep 1; done'");
    fleet::assign(&ana, &["deaf", "fails", "never", "slow", "one", "two"]);
    fleet::service(&ana, "two", "2");
    ana.push("Units of all kinds");
    let said = undone(&m);
    assert!(said.contains("unit fails.service: could not start") && said.contains("my last words"), "{said}");
    assert!(said.contains("unit never.service: never.service was still at it after 2s"), "{said}");
    assert_eq!(m.sh("cat /etc/two.conf; systemctl is-active one two deaf"), "SETTING=2\nactive\nactive\nactive");
    assert_eq!(m.sh("ls /etc/systemd/system/{fails,never,slow}.service 2>/dev/null || true"), "", "what failed is taken back");
    let before = m.sh("systemctl show -p ExecMainPID --value one two deaf; stat -c %Z /etc/two.conf");
    assert!(undone(&m).contains("fails, never, slow of revision"), "told again");
    assert_eq!(m.sh("systemctl show -p ExecMainPID --value one two deaf; stat -c %Z /etc/two.conf"), before, "and not tried again");

    fleet::assign(&ana, &["one", "two"]);
    ana.push("They leave");
    let said = refused(&m);
    assert!(said.contains("unit deaf.service: deaf.service was still at it after 2s"), "{said}");
    assert!(m.has("/etc/systemd/system/deaf.service"), "its file stays for as long as it runs");
    eventually("it was killed and is gone", 20, || m.try_sh("trimtab once").code == 0);
    assert_eq!(
        m.sh("systemctl show -p LoadState --value deaf never fails; systemctl --failed --no-legend"),
        "not-found\n\nnot-found\n\nnot-found"
    );
}

#[test]
fn no_registry_or_no_podman_holds_up_the_container_alone() {
    let Some(m) = lab::boot("edge-1") else { return };
    let ana = two_services(&m);
    fleet::assign(&ana, &["one", "two", "web"]);
    fleet::container(&ana, "web", &m.read("/var/lib/lab/busybox-1"));
    fleet::service(&ana, "one", "2");
    ana.push("A container");
    m.sh("systemctl stop docker-registry");
    let said = refused(&m);
    assert!(said.contains("could not pull localhost:5000/busybox@sha256:") && said.contains("connection refused"), "{said}");
    assert_eq!(m.read("/etc/one.conf"), "SETTING=2");
    assert!(!m.has("/etc/containers/systemd/web.container"), "nothing of the container before its image");
    m.sh("systemctl start docker-registry; mv /usr/bin/podman /usr/bin/podman.away; echo SETTING=mine > /etc/two.conf");
    start_agent(&m);
    eventually("it says that podman is missing", 20, || status(&m).contains("podman is not installed on this host"));
    eventually("drift is repaired meanwhile", 20, || m.read("/etc/two.conf") == "SETTING=1");
    // Nobody commits anything: that podman is there must be enough.
    m.sh("mv /usr/bin/podman.away /usr/bin/podman");
    eventually("the container serves", 10, || m.try_sh("curl -sf --max-time 2 http://localhost:8080/version").out == "1");
    assert_lives(&m);
}

#[test]
fn commits_that_are_too_much_are_named_fetched_once_and_cost_the_agent_no_memory() {
    let Some(m) = lab::boot("edge-1") else { return };
    let ana = two_services(&m);
    start_agent(&m);
    eventually("it runs", 20, || m.try_sh("trimtab status").code == 0);
    let peak = || -> u64 {
        let line = m.sh("grep VmHWM /proc/$(systemctl show -p MainPID --value trimtab)/status | tr -dc 0-9");
        line.parse().expect("because it is a number of KiB")
    };
    let before = (peak(), Watched::new(&m, &["/etc/one.conf", "/etc/systemd/system"], &["one.service", "two.service"]));
    let copy = ana.working_copy();
    let doubling =
        "{% set n = namespace(a=\"xxxxxxxxxxxxxxxx\") %}{% for i in range(64) %}{% set n.a = n.a ~ n.a %}{% endfor %}{{ n.a }}";
    let bad = [
        (
            format!("head -c 17m /dev/urandom > {copy}/components/one/files/etc/big"),
            "`components/one/files/etc/big` in the commit is larger than",
        ),
        (
            format!(
                "(echo 'description = \"\"\"'; head -c 17m /dev/zero | tr '\\0' x; echo '\"\"\"') > {copy}/components/one/component.toml"
            ),
            "component.toml` in the commit is larger than",
        ),
        (
            format!("cat > {copy}/components/one/files/etc/bomb.j2 <<'X'\n{doubling}\nX"),
            "components/one/files/etc/bomb.j2: the rendering used more than",
        ),
        (
            format!("printf '[[unit]]\\nname = \"../a.service\"\\nactive = true\\n' > {copy}/components/one/component.toml"),
            "component.toml:2:8: `../a.service` is not a valid unit name",
        ),
    ];
    for (make, want) in &bad {
        m.sh(&format!("cd {copy} && git rm -qf --ignore-unmatch components/one/files/etc/big components/one/component.toml components/one/files/etc/bomb.j2; {make}"));
        fleet::service(&ana, "one", "2");
        ana.push("Too much");
        eventually(want, 20, || status(&m).contains(want));
        m.sh(": > /var/log/nginx/access.log");
        let _ = m.try_sh("trimtab sync");
        assert_eq!(m.sh("grep -c . /var/log/nginx/access.log | head -1 | xargs test 4 -ge && awk -F'down=' '{ sub(/ .*/, \"\", $2); n += $2 } END { print (n < 4096) }' /var/log/nginx/access.log"), "1", "{want}: it is not fetched again");
        before.1.assert_same(&Watched::new(&m, &["/etc/one.conf", "/etc/systemd/system"], &["one.service", "two.service"]));
    }
    let grown = peak().saturating_sub(before.0);
    assert!(grown < 24 << 10, "the agent grew by {grown} KiB");
    m.sh(&format!("cd {copy} && git rm -qf components/one/component.toml"));
    fleet::service(&ana, "one", "3");
    ana.push("Mended");
    eventually("it converges again", 20, || m.read("/etc/one.conf") == "SETTING=3");
    assert_lives(&m);
}

#[test]
fn a_terminated_pass_is_finished_by_the_next_and_state_that_others_could_write_halts() {
    let Some(m) = lab::boot("edge-1") else { return };
    let ana = two_services(&m);
    start_agent(&m);
    for round in 0..5 {
        fleet::service(&ana, "one", &format!("t{round}"));
        ana.push("Terminated on the way");
        m.sh("(trimtab sync >/dev/null 2>&1 &) ; sleep 0.$((RANDOM % 2))$((RANDOM % 10)); systemctl restart trimtab");
    }
    eventually("the last commit is there", 20, || m.read("/etc/one.conf") == "SETTING=t4");
    eventually("and is read", 20, || {
        m.sh("systemctl is-active one; journalctl -q -u one -o cat | grep setting | tail -n 1") == "active\nsetting t4"
    });
    assert_eq!(
        m.sh("systemctl show -p Result --value trimtab; ls -A /etc | grep -c '^\\.trimtab'; true"),
        "success\n0",
        "it ends in good order"
    );

    m.sh("systemctl stop trimtab; chmod 0777 /var/lib/trimtab");
    let _ = m.try_sh("systemctl start trimtab");
    eventually("it halts", 10, || m.try_sh("systemctl is-failed trimtab").out == "failed");
    assert_eq!(m.sh("systemctl show -p ExecMainStatus --value trimtab"), "78");
    assert!(
        m.sh("journalctl -q -u trimtab -o cat | tail -n 20").contains("/var/lib/trimtab cannot be trusted: others may write to it")
    );
    m.sh("chmod 0700 /var/lib/trimtab; systemctl restart trimtab");
    // A name that is nobody's own is waited for: the agent is started again and again, and takes the name when there is one.
    m.sh("systemctl stop trimtab; sed -i '/^name = /d' /etc/trimtab/agent.toml; hostname localhost");
    let said = m.try_sh("trimtab once");
    assert!(said.code == 75 && said.err.contains("which is no name of its own"), "{said}");
    let _ = m.try_sh("systemctl start trimtab");
    m.sh("hostname edge-1; echo SETTING=mine > /etc/one.conf");
    eventually("it starts by itself", 20, || m.read("/etc/one.conf") == "SETTING=t4");
}
