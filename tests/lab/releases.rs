//! A fleet in release mode on a real machine: two people release with the installed commands, over TLS, and the device follows nobody else.

use trimtab_tests::lab::trimtab::start_agent;
use trimtab_tests::lab::{self, Machine, Person, eventually};

use crate::fleet;

/// A signature of this person's, as the commands ask for one.
fn sign(person: &Person<'_>) -> String {
    format!("--sign ssh:{}", person.key_file().trim_end_matches(".pub"))
}

/// `trimtab` in a person's clone.
fn desk(person: &Person<'_>, words: &str) -> String {
    person.machine().sh(&format!("cd {} && trimtab {words}", person.working_copy()))
}

fn status(m: &Machine, field: &str) -> String {
    m.try_sh(&format!("trimtab status --json | jq -r '{field}'")).out
}

#[test]
fn two_of_two_release_and_neither_one_nor_the_past_does() {
    let Some(m) = lab::boot("edge-1") else { return };
    let (ana, bob) = (Person::new(&m, "ana"), Person::new(&m, "bob"));
    fleet::service(&ana, "one", "one");
    fleet::assign(&ana, &["one"]);
    let keys = format!("--key ana={} --key bob={}", ana.key_file(), bob.key_file());
    desk(&ana, &format!("trust init {keys} --threshold 2 --channel production=2 {}", sign(&ana)));
    ana.push("Root 1");
    bob.git("pull -q origin main");
    desk(&bob, &format!("trust sign {}", sign(&bob)));
    bob.push("Root 1, signed by bob");
    let pin = desk(&bob, "trust show --json | jq -r .pin");

    m.sh(&format!(
        "trimtab init --mode release --channel production --root-digest {pin} --url https://localhost/fleet.git \
         --ca-file /etc/ssl/lab-ca.pem --host edge-1"
    ));
    m.sh("sed -i 's/^\\[agent\\]$/[guard]\\nsettle = \"1s\"\\n\\n[agent]/' /etc/trimtab/agent.toml");
    start_agent(&m);
    let version = || m.try_sh("cat /etc/one.conf").out;
    ana.git("pull -q origin main");
    desk(&ana, &format!("release production {} --push", sign(&ana)));
    let _ = m.try_sh("trimtab sync");
    assert_eq!(version(), "", "half a release lies where no device looks");
    bob.git("pull -q origin main");
    desk(&bob, &format!("release production --countersign {} --push", sign(&bob)));
    eventually("the first release is in force", 20, || version() == "SETTING=one");
    eventually("it is known how fresh that is", 20, || status(&m, ".trust.freshness") == "fresh");
    assert_eq!(status(&m, ".trust.mode"), "release");
    let first = ana.git("ls-remote origin refs/trimtab/production | cut -f1");

    fleet::service(&ana, "one", "two");
    ana.push("Two");
    m.sh("trimtab sync");
    assert_eq!(version(), "SETTING=one", "what is pushed is not released");
    // The host of the repository puts what one of two signed where devices look.
    bob.git("pull -q origin main");
    desk(&bob, &format!("release production {} --push", sign(&bob)));
    m.sh("git -C /srv/git/fleet.git update-ref refs/trimtab/production refs/trimtab/draft/production");
    eventually("it is refused, and told", 20, || status(&m, ".lastPass.trust.verdict") == "below-threshold");
    assert_eq!(version(), "SETTING=one");
    m.sh(&format!("git -C /srv/git/fleet.git update-ref refs/trimtab/production {first}"));
    ana.git("pull -q origin main");
    desk(&ana, &format!("release production --countersign {} --push", sign(&ana)));
    eventually("the second release is in force", 20, || version() == "SETTING=two");

    // The host of the repository serves the first release again.
    m.sh(&format!("git -C /srv/git/fleet.git update-ref refs/trimtab/production {first}"));
    eventually("it is refused, and told", 20, || status(&m, ".lastPass.trust.verdict") == "rolled-back");
    assert_eq!((version().as_str(), status(&m, ".ready").as_str()), ("SETTING=two", "false"));
    let verdict = m.try_sh(&format!(
        "trimtab verify https://localhost/fleet.git --ca-file /etc/ssl/lab-ca.pem --channel production --root-digest {pin} \
         --memory /var/lib/trimtab/trust-state.json --json | jq -r '.accepted, .verdict'"
    ));
    assert_eq!(verdict.out, "false\nrolled-back", "the desk says what the device says\n{verdict}");
    let explained = m.sh("trimtab trust explain");
    assert!(explained.contains("1.2"), "{explained}");
}

#[test]
fn what_has_run_out_is_refused_and_told_by_a_clock_that_is_kept() {
    let Some(m) = lab::boot("edge-1") else { return };
    let ana = Person::new(&m, "ana");
    fleet::service(&ana, "one", "one");
    fleet::assign(&ana, &["one"]);
    desk(&ana, &format!("trust init --key ana={} --channel production=1 {}", ana.key_file(), sign(&ana)));
    ana.push("Root 1");
    let pin = desk(&ana, "trust show --json | jq -r .pin");
    m.sh(&format!(
        "trimtab init --mode release --channel production --root-digest {pin} --url https://localhost/fleet.git \
         --ca-file /etc/ssl/lab-ca.pem --host edge-1"
    ));
    m.sh("sed -i 's/^\\[agent\\]$/[guard]\\nsettle = \"1s\"\\n\\n[agent]/' /etc/trimtab/agent.toml");
    fleet::no_asking_for_the_clock(&m);
    fleet::keep_the_clock(&m);
    let release = |expires: &str| desk(&ana, &format!("release production {} --expires {expires} --push", sign(&ana)));
    let stale = || status(&m, ".conditions[] | select(.type == \"Stale\") | .status + \" \" + .reason");
    let version = || m.try_sh("cat /etc/one.conf").out;

    // It ran out before the host ever saw it.
    release("1s");
    m.sh("sleep 2");
    start_agent(&m);
    eventually("it is refused, and told", 20, || status(&m, ".lastPass.trust.verdict") == "expired");
    assert_eq!(version(), "");
    // One that lives for a while is taken, runs out in force, and stays.
    release("25s");
    eventually("it is in force, and fresh", 24, || version() == "SETTING=one" && status(&m, ".trust.freshness") == "fresh");
    eventually("it has run out, and that is told", 40, || stale() == "True Expired");
    assert_eq!((version().as_str(), status(&m, ".trust.freshness").as_str()), ("SETTING=one", "expired"));
    // Nobody keeps the clock any more: then it is not certain, and that is told as well.
    m.sh("rm /run/systemd/timesync/synchronized");
    eventually("it is not certain", 10, || stale() == "Unknown FreshnessUnknown");
}
