//! More changes that could cut the host off than a firewall (see `confirm`): names and authorities, with all that their undoing promises;
//! and what a reboot or a power cut makes of a confirmation, of a change that waits for a reboot, and of an undoing.

use trimtab_tests::lab::trimtab::{converge, enrol, settled, start_agent};
use trimtab_tests::lab::{self, Machine, Person, Watched, eventually};

use crate::fleet;
use crate::trial::{denied, ends, entry, guard, history, in_force, nothing_more, pass, phase, status, undone};

/// A machine with the service `one` and the files of a component `net`, in force; a change of those has the shortest time to be confirmed.
fn begun<'m>(m: &'m Machine, files: &[(&str, &str)], more: &str) -> Person<'m> {
    let ana = Person::new(m, "ana");
    fleet::assign(&ana, &["net", "one"]);
    fleet::service(&ana, "one", "1");
    for (path, text) in files {
        ana.write(&format!("components/net/files/{path}"), text);
    }
    ana.write("components/net/component.toml", more);
    ana.push("Good");
    enrol(m, &ana, "");
    guard(m, "confirm-timeout = \"10s\"");
    converge(m);
    settled(m);
    ana
}

const HOSTS: &str = "127.0.0.1 localhost\n::1 localhost\n";
/// Nothing answers there: the machine has no such network.
const ASTRAY: &str = "192.0.2.1 localhost\n";

#[test]
fn names_and_authorities_that_cut_the_host_off_are_undone() {
    let Some(m) = lab::boot("edge-1") else { return };
    let wall = |more: &str| {
        format!("flush ruleset\ntable inet wall {{\n chain out {{ type filter hook output priority 0;\n {more}\n }}\n}}\n")
    };
    let authority = m.read("/etc/ssl/lab-ca.pem") + "\n";
    let reload = "[[unit]]\nname = \"nftables.service\"\nenabled = true\non-change = \"reload\"\nuses = [\"/etc/nftables.conf\"]\n";
    let ana = begun(&m, &[("etc/nftables.conf", &wall("")), ("etc/ssl/lab-ca.pem", &authority), ("etc/hosts", HOSTS)], reload);
    let files = ["/etc/nftables.conf", "/etc/ssl/lab-ca.pem", "/etc/hosts", "/etc/one.conf", "/etc/systemd/system/one.service"];

    // Shaped like what could cut it off, and harmless.
    ana.write("components/net/files/etc/nftables.conf", &wall("tcp dport 444 drop"));
    ana.write("components/net/files/etc/hosts", &format!("{HOSTS}127.0.0.1 box\n"));
    let good = ana.push("Harmless");
    ends(&m, "converged", 2);
    assert!(pass(&m, "[.parts[].part] | join(\" \")").contains("confirm"), "{}", m.read("/tmp/pass.json"));
    assert!(m.sh("nft list ruleset").contains("dport 444"));
    assert_eq!((denied(&m).len(), history(&m)), (0, "2 committed *, 1 committed".to_owned()));

    let content = || m.sh(&format!("cat {}", files.join(" ")));
    let before = (content(), m.sh("systemctl show -p MainPID --value one"));
    let bad: [(&str, &str, String, &str); 2] = [
        (
            "the authorities",
            "ssl/lab-ca.pem",
            m.sh("openssl req -x509 -newkey ed25519 -nodes -keyout /dev/null -subj /CN=another 2>/dev/null") + "\n",
            "the source was not reached within 10s with what was changed (file /etc/ssl/lab-ca.pem",
        ),
        ("the names", "hosts", ASTRAY.to_owned(), "with what was changed (file /etc/hosts"),
    ];
    let mut lines = "2 committed *, 1 committed".to_owned();
    for (number, (what, file, text, because)) in (3..).zip(bad) {
        ana.write(&format!("components/net/files/etc/{file}"), &text);
        // What comes with it is good, and falls with it: nobody knows what of it cut the host off.
        fleet::service(&ana, "one", what);
        let revision = ana.push(what);
        ends(&m, "rolled-back", 3);
        assert_eq!(pass(&m, "[.undone.revision, .undone.causes[].resource] | join(\" \")"), format!("{revision} source"));
        assert!(pass(&m, ".undone.causes[].message").contains(because), "{what}: {}", m.read("/tmp/pass.json"));
        assert_eq!(content(), before.0, "{what}");
        assert_eq!(m.sh("systemctl is-active one nftables; nft list ruleset | grep -c 'dport 444'"), "active\nactive\n1");
        assert_eq!(denied(&m)[0], entry(&revision, "", "reach"), "{what}");
        lines = format!("{number} rolled-back, {lines}");
        assert_eq!(history(&m), lines);

        // The source is reached again, which is the verdict; and what is denied is told and not tried again.
        let now = Watched::new(&m, &files, &["one.service", "nftables.service"]);
        ends(&m, "rolled-back", 3);
        assert_eq!(pass(&m, ".sourceError // .source_error"), "");
        assert_eq!((denied(&m)[0].clone(), history(&m)), (entry(&revision, "", "health"), lines.clone()), "{what}");
        now.assert_same(&Watched::new(&m, &files, &["one.service", "nftables.service"]));
        ana.git(&format!("checkout -q {good} -- ."));
    }
    ana.push("As it was");
    settled(&m);
}

#[test]
fn a_reboot_in_the_middle_of_confirmation_is_no_way_around_it() {
    let Some(m) = lab::boot("edge-1") else { return };
    let ana = begun(&m, &[("etc/hosts", HOSTS)], "");
    start_agent(&m);
    ana.write("components/net/files/etc/hosts", ASTRAY);
    let revision = ana.push("Names that lead astray");
    eventually("it is being confirmed", 20, || phase(&m) == "confirming");
    // Who looks meanwhile sees what goes on.
    let waits = "waits       for the source to be reached with it (file /etc/hosts)";
    eventually("it says so", 3, || m.try_sh("trimtab status").out.contains(waits));
    m.reboot();
    assert_eq!(m.read("/etc/hosts") + "\n", ASTRAY, "it is what the machine came up with");
    undone(&m, &revision, "source: the source was not reached within 10s with what was changed (file /etc/hosts)");
    assert_eq!(m.read("/etc/hosts") + "\n", HOSTS);
    assert!(m.sh("journalctl -q -b -u trimtab -o cat").contains("was being confirmed when the agent ended"));
    eventually("the source is reached again", 20, || {
        status(&m, ".lastPass.source_error").is_empty() && denied(&m)[0] == entry(&revision, "", "health")
    });
    nothing_more(&m, &["/etc/hosts"], &["one.service"]);
    ana.write("components/net/files/etc/hosts", HOSTS);
    let revision = ana.push("Mended");
    in_force(&m, &revision);
}

#[test]
fn a_power_cut_is_the_reboot_that_was_waited_for_and_the_source_must_be_there_after_it() {
    let Some(m) = lab::boot("edge-1") else { return };
    let ana = begun(&m, &[("etc/kernel.conf", "1\n")], "confirm = \"after-reboot\"\n");
    start_agent(&m);
    ana.write("components/net/files/etc/kernel.conf", "2\n");
    let revision = ana.push("After a reboot");
    eventually("it waits for the reboot", 20, || phase(&m) == "awaiting-reboot");
    eventually("it says so", 20, || m.try_sh("trimtab status").out.contains("waits       for a reboot of this host"));
    assert_eq!(m.read("/etc/kernel.conf"), "2");
    assert_ne!(status(&m, ".lastAppliedRevision"), revision, "it is not in force for good yet");
    m.power_cut();
    m.start();
    in_force(&m, &revision);
    assert_eq!(history(&m), "2 committed *, 1 committed");

    // The source is gone after the boot.
    ana.write("components/net/files/etc/kernel.conf", "3\n");
    let revision = ana.push("Never confirmed");
    eventually("it waits for the reboot", 20, || phase(&m) == "awaiting-reboot");
    m.sh("systemctl disable --quiet nginx");
    m.reboot();
    eventually("it is undone", 40, || m.read("/etc/kernel.conf") == "2");
    assert_eq!(denied(&m)[0].split(" reach").next(), Some(format!("{} []", &revision[..12]).as_str()));
}

#[test]
fn a_confirmation_that_a_power_cut_interrupts_begins_anew() {
    let Some(m) = lab::boot("edge-1") else { return };
    let ana = begun(&m, &[("etc/net.conf", "1\n")], "confirm = \"always\"\n");
    m.sh("sed -i 's/^settle = .*/settle = \"3s\"/' /etc/trimtab/agent.toml");
    start_agent(&m);
    ana.write("components/net/files/etc/net.conf", "2\n");
    fleet::service(&ana, "one", "2");
    let revision = ana.push("No fault of it");
    eventually("it is switched", 20, || m.read("/etc/net.conf") == "2");
    m.sh("systemctl stop nginx");
    eventually("it is being confirmed", 20, || phase(&m) == "confirming");
    // The Git host comes back with the machine.
    m.power_cut();
    m.start();
    in_force(&m, &revision);
    assert_eq!((m.sh("cat /etc/net.conf /etc/one.conf"), denied(&m).len()), ("2\nSETTING=2".to_owned(), 0));
    assert_eq!(history(&m), "2 committed *, 1 committed");
}

#[test]
fn an_undoing_that_is_interrupted_goes_on() {
    let Some(m) = lab::boot("edge-1") else { return };
    let slow = "[[hook]]\non = \"on-failure\"\nrun = [\"/bin/sleep\", \"20\"]\n";
    let ana = begun(&m, &[("etc/net.conf", "1\n")], slow);
    start_agent(&m);
    for (round, cut) in [("reboot", false), ("power cut", true)] {
        ana.write("components/net/files/etc/net.conf", round);
        // Not started at boot, for a machine on which something fails then does not count as up.
        ana.write("components/net/systemd/bad.service", "[Service]\nExecStart=/bin/false\n");
        ana.write("components/net/component.toml", &format!("{slow}[[unit]]\nname = \"bad.service\"\nactive = true\n"));
        let revision = ana.push(round);
        eventually("it is being undone", 20, || phase(&m) == "rolling-back");
        assert_eq!(m.read("/etc/net.conf"), round, "nothing is undone yet");
        eventually("it says so", 3, || status(&m, ".trial.phase") == "rolling-back");
        if cut {
            m.power_cut();
            m.start();
        } else {
            m.reboot();
        }
        undone(&m, &revision, "unit bad.service: ");
        assert!(m.sh("journalctl -q -b -u trimtab -o cat").contains("was being undone when the agent ended"));
        assert_eq!(m.sh("cat /etc/net.conf; systemctl is-active one"), "1\nactive");
        assert!(!m.has("/etc/systemd/system/bad.service"));
        assert_eq!(m.sh("systemctl show -p LoadState --value bad; systemctl --failed --no-legend"), "not-found");
        assert_eq!(denied(&m)[0], entry(&revision, "", "health"));
        nothing_more(&m, &["/etc/net.conf", "/etc/systemd/system"], &["one.service"]);
    }
}
