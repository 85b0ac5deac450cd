//! A clock that jumps by fifty years, forwards and back, while a change is tried: nothing is committed, undone or forgotten for that.
//!
//! The machine's clock is everybody's and never set: the agent alone runs under libfaketime, with a file that says what it is to see.
//! That takes a binary that is linked dynamically; a static one is left out, and says so.

use trimtab_tests::lab::trimtab::{binary, converge, enrol, package, start_agent};
use trimtab_tests::lab::{self, Machine, Person, eventually};

use crate::fleet;
use crate::trial::{denied, entry, guard, history, in_force, nothing_more, phase, undone};

const SECONDS: u64 = 50 * 365 * 86400;

/// Lets the agent see the time that `/etc/agent-clock` says; `None`: it cannot be done here.
fn fake_clock(m: &Machine) -> Option<()> {
    let folders = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten().map(|entry| entry.path());
    let library = folders.map(|folder| folder.join("faketime/libfaketime.so.1")).find(|path| path.exists());
    let is_dynamic = package("", "_amd64.deb").is_none() && m.try_sh("ldd /usr/bin/trimtab").out.contains("libc.so");
    let (Some(library), true) = (library, is_dynamic) else {
        eprintln!(
            "left out: the clock is faked with libfaketime (package faketime) for a dynamic binary, and {} is none, or there is no libfaketime",
            binary().display()
        );
        return None;
    };
    m.write("/opt/libfaketime.so.1", std::fs::read(library).expect("because it was just found"));
    // Times of files stay as they are: it knows not all calls that ask for them, and a file would change while it is read.
    m.write(
        "/etc/systemd/system/trimtab.service.d/clock.conf",
        "[Service]\nEnvironment=LD_PRELOAD=/opt/libfaketime.so.1 FAKETIME_TIMESTAMP_FILE=/etc/agent-clock FAKETIME_NO_CACHE=1 \
         FAKETIME_DONT_FAKE_MONOTONIC=1 DONT_FAKE_MONOTONIC=1 NO_FAKE_STAT=1\n",
    );
    Some(())
}

#[test]
fn a_clock_that_jumps_by_fifty_years_decides_nothing() {
    let Some(m) = lab::boot("edge-1") else { return };
    let Some(()) = fake_clock(&m) else { return };
    let jump = |offset: &str| m.write("/etc/agent-clock", format!("{offset}\n"));
    let (future, past) = (format!("+{SECONDS}"), format!("-{SECONDS}"));
    let ana = Person::new(&m, "ana");
    fleet::assign(&ana, &["one"]);
    fleet::service(&ana, "one", "1");
    ana.write("components/one/component.toml", "confirm = \"always\"\n");
    ana.push("Good");
    enrol(&m, &ana, "");
    guard(&m, "confirm-timeout = \"10s\"");
    m.sh("sed -i 's/^settle = .*/settle = \"2s\"/' /etc/trimtab/agent.toml");
    converge(&m);
    jump("+0");
    m.sh("systemctl daemon-reload");
    start_agent(&m);
    eventually("the agent is there", 20, || m.try_sh("trimtab status").code == 0);
    // What the agent takes the time to be when it ends a change.
    let year =
        || m.sh("date -u -d @$(trimtab history --json | jq .history[0].at) +%Y").parse::<u64>().expect("because it is a year");
    let now = year();
    let change = |to: &str, unit: &str| {
        fleet::service(&ana, "one", to);
        m.sh(&format!("sed -i 's/exec sleep infinity/{unit}/' {}/components/one/systemd/one.service", ana.working_copy()));
        let revision = ana.push(to);
        eventually("it is switched", 20, || m.read("/etc/one.conf") == format!("SETTING={to}"));
        m.sh("systemctl stop nginx");
        revision
    };

    // While it is confirmed: it has as much time as before, and is confirmed when the source is there.
    let revision = change("2", "exec sleep infinity");
    eventually("it is being confirmed", 20, || phase(&m) == "confirming");
    jump(&future);
    m.sh("sleep 4");
    assert_eq!(phase(&m), "confirming", "fifty years are not ten seconds");
    m.sh("systemctl start nginx");
    in_force(&m, &revision);
    assert_eq!((history(&m), denied(&m).len()), ("2 committed *, 1 committed".to_owned(), 0));

    // Undone in the far future, and remembered in the far past, by an agent that was started there.
    fleet::service(&ana, "one", "3");
    m.sh(&format!("sed -i 's/exec sleep infinity/exit 3/' {}/components/one/systemd/one.service", ana.working_copy()));
    let bad = ana.push("3");
    undone(&m, &bad, "unit one.service: ");
    assert!((now + 49..=now + 50).contains(&year()), "{}", m.sh("trimtab history"));
    jump(&past);
    nothing_more(&m, &["/etc/one.conf"], &["one.service"]);
    m.sh("systemctl restart trimtab");
    nothing_more(&m, &["/etc/one.conf"], &["one.service"]);
    assert_eq!((m.read("/etc/one.conf"), denied(&m)), ("SETTING=2".to_owned(), vec![entry(&bad, "", "health")]));

    // The source is away while the clock jumps from the past to the future: undone after ten seconds, neither at once nor in fifty years.
    let revision = change("4", "exec sleep infinity");
    eventually("it is being confirmed", 20, || phase(&m) == "confirming");
    jump(&future);
    m.sh("sleep 2");
    jump(&past);
    undone(&m, &revision, "source: the source was not reached within 10s");
    assert!((now - 51..=now - 49).contains(&year()), "{}", m.sh("trimtab history"));
    m.sh("systemctl start nginx");
    // And an agent that is killed in the middle goes forward, although the change was begun fifty years from now.
    jump(&future);
    fleet::service(&ana, "one", "5");
    let revision = ana.push("5");
    eventually("it is being tried", 20, || phase(&m) == "trying");
    jump(&past);
    m.sh("systemctl kill -s KILL trimtab; systemctl reset-failed trimtab; systemctl start trimtab");
    in_force(&m, &revision);
    assert_eq!(m.sh("cat /etc/one.conf; systemctl is-active one"), "SETTING=5\nactive");
    jump("+0");
    eventually("all is well", 20, || m.try_sh("trimtab status").code == 0);
    assert_eq!(m.try_sh("trimtab sync").code, 0);
    assert!(history(&m).contains(" committed *, "), "{}", history(&m));
}
