//! Reports at the places that they go to: a real Alertmanager, the fleet's own repository, and an OTLP receiver.
//!
//! The receiver is VictoriaMetrics: Debian builds Prometheus without its own (2.53 in 13, and 3.5 in unstable), and packages no collector. It takes
//! metrics; what takes logs is not packaged.

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

const VICTORIA: &str = "http://127.0.0.1:8428";

/// The samples of a metric: its labels, and every value with its time.
fn samples(m: &Machine, metric: &str) -> Vec<(String, String)> {
    m.sh(&format!("curl -sf -m 5 {VICTORIA}/internal/force_flush"));
    let found = m.sh(&format!("curl -sfG -m 5 {VICTORIA}/api/v1/export --data-urlencode 'match[]={metric}'"));
    let rows = m.sh(&format!(
        "printf '%s' '{found}' | jq -r '. as $series | range(.values | length) | \"\\($series.metric) \\($series.values[.])\t\\($series.timestamps[.])\"'"
    ));
    rows.lines().filter_map(|row| row.split_once('\t')).map(|(value, at)| (value.to_owned(), at.to_owned())).collect()
}

#[test]
fn metrics_arrive_at_an_otlp_receiver_under_the_names_of_the_endpoint() {
    let Some(m) = lab::boot("edge-1") else { return };
    let ana = Person::new(&m, "ana");
    fleet::assign(&ana, &["one"]);
    fleet::service(&ana, "one", "1");
    ana.push("One service");
    enrol(&m, &ana, "");
    m.sh("systemd-run -q --unit=victoria /usr/bin/victoria-metrics -storageDataPath=/var/tmp/victoria -httpListenAddr=127.0.0.1:8428");
    let sinks = format!(
        "\n[reports]\nheartbeat = \"5s\"\n\n[[sink]]\nname = \"metrics\"\ntype = \"otlp\"\nurl = \"{VICTORIA}/opentelemetry\"\n\
         signals = [\"metrics\"]\nallow-http = true\n"
    );
    let toml = m.read("/etc/trimtab/agent.toml");
    m.write("/etc/trimtab/agent.toml", format!("{toml}\n{sinks}"));
    eventually("it is ready", 30, || m.try_sh(&format!("curl -sf -m 5 {VICTORIA}/health")).code == 0);
    start_agent(&m);
    eventually("the host is ready, and it is known there", 30, || {
        let ready = samples(&m, "trimtab_ready");
        ready.iter().any(|(series, _)| series.ends_with(" 1"))
    });
    let (series, _) = samples(&m, "trimtab_ready").pop().expect("because it was there");
    assert!(series.contains("edge-1") && series.contains("trimtab"), "it says whose it is: {series}");
    let managed = samples(&m, "trimtab_managed_resources{kind=\"unit\"}");
    assert!(managed.iter().any(|(series, _)| series.ends_with(" 1")), "{managed:?}");

    m.write("/etc/one.conf", "SETTING=mine\n");
    eventually("a repaired drift is counted there", 30, || {
        let repaired = samples(&m, "trimtab_drift_repaired_total");
        repaired.iter().any(|(series, _)| series.ends_with(" 1"))
    });
    // What is sent twice is one sample: no two of a series have one time.
    let mut all = samples(&m, "trimtab_ready");
    let sent = all.len();
    all.sort();
    all.dedup_by(|a, b| a.1 == b.1);
    assert_eq!(all.len(), sent);
    // Every name that it knows is one that the endpoint tells.
    let told = m.sh("curl -sf -m 5 --unix-socket /run/trimtab-status/status.sock -H 'Accept: text/plain' http://localhost/metrics");
    let known =
        m.sh(&format!("curl -sf -m 5 {VICTORIA}/api/v1/label/__name__/values | jq -r '.data[] | select(startswith(\"trimtab\"))'"));
    assert!(known.lines().count() > 20, "{known}");
    for name in known.lines() {
        assert!(told.contains(name), "{name} is told by OTLP only");
    }
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
