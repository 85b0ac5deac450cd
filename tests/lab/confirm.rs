//! Changes that could cut the host off: kept only when the repository was reached with them, whatever comes in between.

use trimtab_tests::lab::trimtab::{converge, enrol, settled, start_agent, undone};
use trimtab_tests::lab::{self, Machine, Person, eventually};

use crate::fleet;

const OPEN: &str = "#!/usr/sbin/nft -f\nflush ruleset\n";
/// Nothing reaches the Git host any more.
const SHUT: &str = "#!/usr/sbin/nft -f\nflush ruleset\ntable inet filter {\nchain output {\ntype filter hook output priority 0; tcp dport 443 drop\n}\n}\n";

fn firewall(ana: &Person<'_>, rules: &str) {
    ana.write("components/firewall/files/etc/nftables.conf", rules);
    ana.write(
        "components/firewall/component.toml",
        "[[unit]]\nname = \"nftables.service\"\nenabled = true\nactive = true\nuses = [\"/etc/nftables.conf\"]\n",
    );
}

/// A machine with an open firewall and a service `one`, both from the repository.
fn guarded(m: &Machine) -> Person<'_> {
    let ana = Person::new(m, "ana");
    fleet::assign(&ana, &["firewall", "one"]);
    fleet::service(&ana, "one", "1");
    firewall(&ana, OPEN);
    ana.push("An open firewall");
    enrol(m, &ana, "");
    set(m, "confirm-timeout", "10s");
    converge(m);
    settled(m);
    ana
}

/// A key of `[guard]`.
fn set(m: &Machine, key: &str, value: &str) {
    m.sh(&format!("sed -i '/^{key} = /d; s/^settle = .*/&\\n{key} = \"{value}\"/' /etc/trimtab/agent.toml"));
}

fn ledger(m: &Machine, field: &str) -> String {
    m.sh(&format!("jq -r '{field}' /var/lib/trimtab/ledger.json"))
}

fn reaches(m: &Machine) -> bool {
    m.try_sh("timeout 5 git ls-remote -q https://localhost/fleet.git main").code == 0
}

/// The agent works on a change and has come this far with it.
#[track_caller]
fn until_phase(m: &Machine, phase: &str) {
    eventually(&format!("the trial is {phase}"), 20, || ledger(m, ".trial.phase") == phase);
}

#[test]
fn a_firewall_that_shuts_out_the_repository_is_opened_again() {
    let Some(m) = lab::boot("edge-1") else { return };
    let ana = guarded(&m);
    assert_eq!(m.sh("trimtab history --json | jq -r '.history[] | select(.inForce) | .generation'"), "1");
    fleet::service(&ana, "one", "2");
    firewall(&ana, SHUT);
    let bad = ana.push("Nobody gets in or out");
    let said = undone(&m);
    assert!(said.contains("the source was not reached within 10s with what was changed (file /etc/nftables.conf"), "{said}");
    assert!(reaches(&m), "the machine is not cut off");
    assert_eq!(m.sh("cat /etc/one.conf /etc/nftables.conf"), format!("SETTING=1\n{}", OPEN.trim_end()));
    assert_eq!(
        ledger(&m, "[.trial, .generation, .good, .denied[0].revision, .denied[0].back_to] | @json"),
        format!("[null,1,1,\"{bad}\",1]")
    );
    // Told again and not tried again; the first poll that succeeds at once says that it was the change.
    let said = undone(&m);
    assert!(said.contains("generation 1 is in force"), "{said}");
    assert_eq!(ledger(&m, ".denied[0].by.by"), "health");

    // What touches the network and does no harm is confirmed by the same poll.
    firewall(&ana, &format!("{OPEN}table inet mine {{}}\n"));
    ana.push("Harmless");
    assert_eq!(m.try_sh("trimtab once --json > /tmp/pass.json").code, 2);
    assert_eq!(m.sh("jq -r '[.parts[].part] | index(\"confirm\") != null' /tmp/pass.json"), "true");
    assert_eq!(ledger(&m, "[.trial, .generation == .good] | @json"), "[null,true]");
    assert_eq!(m.sh("cat /etc/one.conf"), "SETTING=2");
    settled(&m);
}

#[test]
fn a_power_cut_in_the_middle_of_a_confirmation_confirms_anew_or_undoes() {
    let Some(m) = lab::boot("edge-1") else { return };
    let ana = guarded(&m);
    start_agent(&m);
    firewall(&ana, SHUT);
    ana.push("Nobody gets in or out");
    until_phase(&m, "confirming");
    assert!(!reaches(&m));
    m.power_cut();
    m.start();
    // The firewall is enabled, so the machine comes up shut; nobody but the agent can open it.
    eventually("it was undone after the boot", 40, || ledger(&m, ".denied | length") == "1" && ledger(&m, ".trial") == "null");
    eventually("the machine is reached again", 10, || reaches(&m));
    eventually("the report says so", 20, || m.try_sh("trimtab status").out.contains("rolled-back"));
    assert!(m.try_sh("trimtab status").out.contains("the source was not reached"), "with its cause, over the boot");
    assert_eq!(m.sh("systemctl show -p NRestarts --value trimtab"), "0");

    // Cut again, while it is being undone: it goes on undoing.
    set(&m, "confirm-timeout", "10s");
    firewall(&ana, &SHUT.replace("dport 443", "dport { 443, 80 }"));
    ana.push("Again");
    until_phase(&m, "confirming");
    eventually("it is being undone", 20, || ledger(&m, ".denied | length") == "2");
    m.power_cut();
    m.start();
    eventually("it was undone to the end", 30, || ledger(&m, "[.trial, .generation] | @json") == "[null,1]" && reaches(&m));
    assert_eq!(m.read("/etc/nftables.conf"), OPEN.trim_end());
}

#[test]
fn a_change_that_asks_for_a_reboot_is_confirmed_after_it() {
    let Some(m) = lab::boot("edge-1") else { return };
    let ana = guarded(&m);
    start_agent(&m);
    ana.write("components/kernel/component.toml", "confirm = \"after-reboot\"\n");
    ana.write("components/kernel/files/etc/modules-load.d/x.conf", "# nothing\n");
    fleet::assign(&ana, &["firewall", "one", "kernel"]);
    ana.push("It asks for a reboot");
    until_phase(&m, "awaiting-reboot");
    assert!(m.has("/etc/modules-load.d/x.conf"), "it is in place");
    assert_eq!(ledger(&m, "[.generation, .good] | @json"), "[1,1]", "and not committed");
    // An agent that is started anew in the same boot waits on, and drift of the state in place is repaired.
    m.sh("systemctl restart trimtab; rm /etc/modules-load.d/x.conf");
    eventually("drift is repaired meanwhile", 20, || m.has("/etc/modules-load.d/x.conf"));
    assert_eq!(ledger(&m, ".trial.phase"), "awaiting-reboot");
    assert!(m.try_sh("trimtab status").out.contains("reboot"), "{}", m.try_sh("trimtab status").out);
    m.reboot();
    eventually("it is confirmed and committed", 30, || ledger(&m, "[.trial, .generation, .good] | @json") == "[null,2,2]");
    eventually("all is well", 20, || m.try_sh("trimtab status").code == 0);
}

#[test]
fn a_change_is_acquitted_when_the_source_is_away_without_it_too() {
    let Some(m) = lab::boot("edge-1") else { return };
    let ana = guarded(&m);
    set(&m, "confirm", "always");
    start_agent(&m);
    // The Git host falls ill in the moment of the change, by no fault of it.
    fleet::service(&ana, "one", "2");
    ana.write("components/one/component.toml", "[[hook]]\non = \"pre-apply\"\nrun = [\"/bin/systemctl\", \"stop\", \"nginx\"]\n");
    ana.push("It is not to blame");
    eventually("it was undone", 40, || ledger(&m, ".denied | length") == "1" && ledger(&m, ".trial") == "null");
    assert_eq!(m.read("/etc/one.conf"), "SETTING=1");
    eventually("several polls were in vain", 30, || ledger(&m, ".denied[0].by.unreached") == "3");
    // The hook must not stop it again.
    m.sh("systemctl start nginx; mount --bind /bin/true /bin/systemctl 2>/dev/null || true");
    eventually("it is tried again and stays", 40, || {
        m.read("/etc/one.conf") == "SETTING=2" && ledger(&m, "[.trial, (.denied | length)] | @json") == "[null,0]"
    });
}

#[test]
fn an_agent_that_is_killed_while_it_judges_goes_forward_three_times_and_then_back() {
    let Some(m) = lab::boot("edge-1") else { return };
    let ana = guarded(&m);
    set(&m, "settle", "30s");
    m.sh("sed -i 's/^settle = .*/settle = \"20s\"/' /etc/trimtab/agent.toml");
    start_agent(&m);
    fleet::service(&ana, "one", "2");
    ana.push("Judged for twenty seconds");
    until_phase(&m, "trying");
    for start in 1..=3 {
        eventually("it is at it", 20, || {
            ledger(&m, ".trial.starts") == start.to_string() && m.read("/etc/one.conf") == "SETTING=2"
        });
        m.sh("systemctl kill -s KILL trimtab; sleep 0.2; systemctl start trimtab");
    }
    eventually("the fourth start undoes it", 40, || ledger(&m, "[.trial, (.denied | length)] | @json") == "[null,1]");
    assert_eq!(m.read("/etc/one.conf"), "SETTING=1");
    eventually("and says why", 20, || {
        m.try_sh("trimtab status").out.contains("was ended 3 times while this change was being tried")
    });
    assert_eq!(m.sh("systemctl is-active one"), "active");
}
