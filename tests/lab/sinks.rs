//! Reports at the places that they go to: a real Alertmanager, and the fleet's own repository.
//!
//! OTLP is not among them: Debian builds Prometheus without its OTLP receiver (2.53 in 13, and 3.5 in unstable), and packages no collector.

use trimtab_tests::lab::trimtab::{enrol, start_agent};
use trimtab_tests::lab::{self, Machine, Person, eventually};

use crate::fleet;

const ALERTMANAGER: &str = "http://127.0.0.1:9093";

/// Starts it, as its package does, and tells the agent of both.
fn furnish(m: &Machine) {
    m.write("/etc/prometheus/alertmanager.yml", "route:\n  receiver: nobody\nreceivers:\n- name: nobody\n");
    m.write(
        "/etc/default/prometheus-alertmanager",
        "ARGS=\"--web.listen-address=127.0.0.1:9093 --cluster.listen-address= --storage.path=/var/lib/prometheus/alertmanager\"\n",
    );
    m.sh("systemctl start --no-block prometheus-alertmanager.service");
    m.write("/etc/trimtab/token", "t0ken-geheim\n");
    m.sh("chgrp trimtab-courier /etc/trimtab/token && chmod 0640 /etc/trimtab/token");
    let http = "allow-http = true\ntoken-file = \"/etc/trimtab/token\"\n";
    let sinks = format!(
        "\n[reports]\nheartbeat = \"5s\"\n\n[[sink]]\nname = \"alerts\"\ntype = \"alertmanager\"\nurl = \"{ALERTMANAGER}\"\n{http}\n\
         [[sink]]\nname = \"fleet\"\ntype = \"git\"\n"
    );
    let toml = m.read("/etc/trimtab/agent.toml");
    m.write("/etc/trimtab/agent.toml", format!("{toml}\n{sinks}"));
    eventually("it is ready", 30, || m.try_sh(&format!("curl -sf -m 5 {ALERTMANAGER}/-/ready")).code == 0);
}

/// The alerts that fire, by name.
fn alerts(m: &Machine) -> String {
    m.sh(&format!("curl -sf -m 5 '{ALERTMANAGER}/api/v2/alerts?active=true' | jq -r '[.[].labels.alertname] | sort | join(\" \")'"))
}

fn status(m: &Machine, field: &str) -> String {
    m.sh(&format!("trimtab status --json | jq -r '{field}'"))
}

#[test]
fn alertmanager_and_the_repository_know_how_the_host_is() {
    let Some(m) = lab::boot("edge-1") else { return };
    let ana = Person::new(&m, "ana");
    fleet::assign(&ana, &["one"]);
    fleet::service(&ana, "one", "1-private-geheim");
    ana.push("One service");
    enrol(&m, &ana, "");
    furnish(&m);
    start_agent(&m);
    eventually("the repository has it", 30, || subject(&ana).starts_with("edge-1 ready at "));
    assert_eq!(alerts(&m), "");

    // A service that fails, and says something first that is nobody's business elsewhere.
    ana.write("components/one/files/etc/one.conf", "SETTING=2-private-geheim\n");
    let unit = "[Unit]\nStartLimitIntervalSec=0\n\n[Service]\nExecStart=/bin/sh -c 'echo last-words-geheim; exit 3'\n\n\
                [Install]\nWantedBy=multi-user.target\n";
    ana.write("components/one/systemd/one.service", unit);
    ana.push("A service that fails");
    eventually("Alertmanager fires", 60, || alerts(&m).contains("TrimtabRolledBack"));
    fires_once(&m);
    the_repository_tells_it(&m, &ana);
    nothing_private_left(&m, &ana);

    ana.git("revert --no-edit HEAD && git push -q origin HEAD:main");
    eventually("it is over", 60, || alerts(&m).is_empty());
    eventually("the repository has that as well", 20, || subject(&ana).starts_with("edge-1 ready at "));
    // All of it was taken: nothing waits, nothing failed.
    eventually("every report was taken", 20, || status(&m, ".queue.reports") == "0");
    assert_eq!(status(&m, "[.queue.sinks[] | .failures] | add"), "0", "{}", m.sh("trimtab status --json | jq .queue"));
}

/// What a person sees of the fleet.
fn subject(person: &Person<'_>) -> String {
    person.git(
        "fetch -q origin '+refs/trimtab/status/*:refs/trimtab/status/*' && \
         git for-each-ref --format='%(refname:lstrip=3) %(contents:subject)' refs/trimtab/status",
    )
}

/// However often it is sent, it is one alert that began when the condition did.
fn fires_once(m: &Machine) {
    let delivered = || status(m, r#".queue.sinks[] | select(.name == "alerts") | .delivered"#);
    let before = delivered();
    eventually("it is sent again", 30, || delivered() != before);
    let one = m.sh("amtool --alertmanager.url=http://127.0.0.1:9093 alert query -o json alertname=TrimtabRolledBack");
    m.write("/root/alert", &one);
    let of = |jq: &str| m.sh(&format!("jq -r '{jq}' /root/alert"));
    assert_eq!(of("length"), "1", "{one}");
    assert_eq!(
        of(".[0].labels | [.alertname, .device, .host, .severity] | join(\" \")"),
        format!("TrimtabRolledBack {} edge-1 critical", status(m, ".device"))
    );
    let began = status(m, r#".conditions[] | select(.type == "RolledBack") | .lastTransitionTime"#);
    assert_eq!(of(".[0].startsAt | sub(\"\\\\.[0-9]+\"; \"\") | fromdate"), began);
}

/// What a person sees who has nothing but Git and minisign.
fn the_repository_tells_it(m: &Machine, person: &Person<'_>) {
    eventually("the repository has it", 20, || subject(person).starts_with("edge-1 NOT READY at "));
    let folder = person.working_copy();
    m.sh(&format!(
        "cd {folder} && mkdir /root/seen && for f in status.json report.json report.json.minisig; do \
         git show refs/trimtab/status/edge-1:$f > /root/seen/$f; done && minisign -Vm /root/seen/report.json -p /etc/trimtab/device.pub"
    ));
    assert_eq!(m.sh("jq -r .lastAttemptedRevision /root/seen/status.json"), status(m, ".lastAttemptedRevision"));
    assert_eq!(person.git("rev-list --count refs/trimtab/status/edge-1"), "1", "it has no history");
    // The agent's own polls bring none of it.
    let tip = person.git("rev-parse refs/trimtab/status/edge-1");
    assert_eq!(m.sh(&format!("find /var/cache/trimtab/objects -name '{}'", &tip[2..])), "");
}

/// Neither a managed file's content, nor a failed service's words, nor a sink's token is anywhere that reports went to.
fn nothing_private_left(m: &Machine, person: &Person<'_>) {
    assert!(m.sh("journalctl -u one.service").contains("last-words-geheim"), "there is something to leak");
    let commits = "for c in $(git log --format=%H refs/trimtab/status/edge-1); do git ls-tree -r $c --format='%(objectname)'; done";
    let seen = person.git(&format!("--version && ({commits}) | git cat-file --batch"));
    let alerts = m.sh(&format!("curl -sf -m 5 {ALERTMANAGER}/api/v2/alerts"));
    assert!(seen.contains("RolledBack") && alerts.contains("edge-1"));
    for (place, text) in [("git", seen), ("alertmanager", alerts)] {
        assert!(!text.contains("geheim"), "{place}: {text}");
    }
    // What waits to be sent, and what the courier says of it, as well.
    assert_eq!(m.try_sh("grep -rl geheim /var/lib/trimtab/spool").out, "");
    assert_eq!(m.sh("journalctl -t trimtab-courier | grep -c geheim || true"), "0");
}
