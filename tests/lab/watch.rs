//! Drift is found and repaired as it happens, and told with who did it. The interval is an hour in all of these: nothing but events wakes the agent.

use std::time::{Duration, Instant};

use trimtab_tests::lab::trimtab::{converge, enrol};
use trimtab_tests::lab::{self, Machine, Person, eventually};

use crate::fleet;
use crate::trial::status;

/// Starts an agent that looks by itself once an hour, and waits for its first pass.
fn start(m: &Machine) {
    m.sh("sed -i 's/^interval = .*/interval = \"1h\"/' /etc/trimtab/agent.toml && systemctl enable --quiet --now trimtab.service");
    eventually("the first pass, and ears", 20, || {
        status(m, "[.agentPid > 0, .lastPass.wake, .watch.files, .watch.units]") == r#"[true,"start","fanotify",true]"#
    });
}

fn passes(m: &Machine) -> u64 {
    status(m, ".lastPass.number").parse().expect("because passes are numbered")
}

/// Waits for the pass that a change brings, and for what must hold again; then for calm: no further pass.
#[track_caller]
fn repaired(m: &Machine, spoil: &str, holds: impl Fn() -> bool) {
    let before = passes(m);
    m.sh(spoil);
    let began = Instant::now();
    eventually(&format!("it is repaired after {spoil}"), 8, || passes(m) > before && holds());
    let took = began.elapsed();
    assert_eq!(status(m, ".lastPass.wake"), "event", "after {spoil}");
    // Starting a unit is followed by signals of that.
    std::thread::sleep(Duration::from_millis(1200));
    assert_eq!(passes(m), before + 1, "one pass and no more after {spoil}: {}", m.sh("journalctl -u trimtab -o cat | tail -n 12"));
    println!("{:>6} ms  {spoil}", took.as_millis());
}

fn scene(m: &Machine) -> Person<'_> {
    let ana = Person::new(m, "ana");
    fleet::assign(&ana, &["one", "web"]);
    fleet::service(&ana, "one", "1");
    fleet::container(&ana, "web", &m.read("/var/lib/lab/busybox-1"));
    ana.push("A service and a container");
    enrol(m, &ana, "");
    converge(m);
    ana
}

#[test]
fn drift_of_files_and_units_is_repaired_as_it_happens() {
    let Some(m) = lab::boot("edge-1") else { return };
    scene(&m);
    start(&m);
    let first = passes(&m);
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(passes(&m), first, "nothing happened");

    let setting = || m.read("/etc/one.conf") == "SETTING=1";
    repaired(&m, "echo SETTING=mine > /etc/one.conf", setting);
    repaired(&m, "sed -i s/1/2/ /etc/one.conf", setting);
    repaired(&m, "rm /etc/one.conf", setting);
    repaired(&m, "chmod 666 /etc/systemd/system/one.service", || m.sh("stat -c %a /etc/systemd/system/one.service") == "644");
    let active = |unit: &str| m.try_sh(&format!("systemctl is-active {unit}")).out == "active";
    repaired(&m, "systemctl stop one", || active("one"));
    repaired(&m, "systemctl kill -s KILL one", || active("one"));
    repaired(&m, "systemctl disable -q one", || m.try_sh("systemctl is-enabled one").out == "enabled");
    repaired(&m, "podman stop -t 0 systemd-web >/dev/null", || {
        active("web") && m.try_sh("curl -sf http://localhost:8080/version").out == "1"
    });

    // What differs in nothing is followed by no pass.
    let before = passes(&m);
    m.sh("touch /etc/one.conf; cp -p /etc/one.conf /etc/x; cat /etc/x > /etc/one.conf; chmod 600 /etc/x; systemctl restart one; systemctl daemon-reload");
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(passes(&m), before, "{}", m.sh("journalctl -u trimtab -o cat | tail -n 12"));
    m.sh("rm /etc/x");

    // Killed, it goes on.
    m.sh("systemctl kill -s KILL trimtab");
    eventually("it is back", 20, || status(&m, ".lastPass.wake") == "start" && active("trimtab"));
    repaired(&m, "echo SETTING=again > /etc/one.conf", setting);
}
