//! Reports at the places that they go to: a real Prometheus, a real Alertmanager, and the fleet's own repository.

use trimtab_tests::lab::trimtab::{enrol, start_agent};
use trimtab_tests::lab::{self, Machine, Person, eventually};

use crate::fleet;

const PROMETHEUS: &str = "http://127.0.0.1:9090";
const ALERTMANAGER: &str = "http://127.0.0.1:9093";

/// Starts both, as their packages do, and tells the agent of them.
fn furnish(m: &Machine) {
    m.write("/etc/prometheus/prometheus.yml", "global: {}\n");
    m.write(
        "/etc/default/prometheus",
        "ARGS=\"--web.listen-address=127.0.0.1:9090 --enable-feature=otlp-write-receiver --storage.tsdb.path=/var/lib/prometheus/metrics2\"\n",
    );
    m.write("/etc/prometheus/alertmanager.yml", "route:\n  receiver: nobody\nreceivers:\n- name: nobody\n");
    m.write(
        "/etc/default/prometheus-alertmanager",
        "ARGS=\"--web.listen-address=127.0.0.1:9093 --cluster.listen-address= --storage.path=/var/lib/prometheus/alertmanager\"\n",
    );
    m.sh("systemctl start --no-block prometheus.service prometheus-alertmanager.service");
    m.write("/etc/trimtab/token", "t0ken-geheim\n");
    m.sh("chgrp trimtab-courier /etc/trimtab/token && chmod 0640 /etc/trimtab/token");
    let http = "allow-http = true\ntoken-file = \"/etc/trimtab/token\"\n";
    let sinks = format!(
        "\n[reports]\nheartbeat = \"5s\"\n\n[[sink]]\nname = \"metrics\"\ntype = \"otlp\"\nurl = \"{PROMETHEUS}/api/v1/otlp\"\n\
         signals = [\"metrics\"]\n{http}\n[[sink]]\nname = \"alerts\"\ntype = \"alertmanager\"\nurl = \"{ALERTMANAGER}\"\n{http}\n\
         [[sink]]\nname = \"fleet\"\ntype = \"git\"\n"
    );
    let toml = m.read("/etc/trimtab/agent.toml");
    m.write("/etc/trimtab/agent.toml", format!("{toml}\n{sinks}"));
    for url in [PROMETHEUS, ALERTMANAGER] {
        eventually("both are ready", 30, || m.try_sh(&format!("curl -sf -m 5 {url}/-/ready")).code == 0);
    }
}

/// What Prometheus answers to a query, by jq.
fn query(m: &Machine, promql: &str, jq: &str) -> String {
    m.try_sh(&format!("curl -sf -m 5 -G {PROMETHEUS}/api/v1/query --data-urlencode 'query={promql}' | jq -r '{jq}'")).out
}

fn value(m: &Machine, promql: &str) -> String {
    query(m, promql, ".data.result[0].value[1]")
}

/// The alerts that fire, by name.
fn alerts(m: &Machine) -> String {
    m.sh(&format!("curl -sf -m 5 '{ALERTMANAGER}/api/v2/alerts?active=true' | jq -r '[.[].labels.alertname] | sort | join(\" \")'"))
}

fn status(m: &Machine, field: &str) -> String {
    m.sh(&format!("trimtab status --json | jq -r '{field}'"))
}

#[test]
fn prometheus_alertmanager_and_the_repository_know_how_the_host_is() {
    let Some(m) = lab::boot("edge-1") else { return };
    let ana = Person::new(&m, "ana");
    fleet::assign(&ana, &["one"]);
    fleet::service(&ana, "one", "1-private-geheim");
    let good = ana.push("One service");
    enrol(&m, &ana, "");
    furnish(&m);
    start_agent(&m);
    eventually("Prometheus has it", 30, || value(&m, "trimtab_ready") == "1");
    as_the_endpoint_tells_it(&m);

    // A service that fails, and says something first that is nobody's business elsewhere.
    ana.write("components/one/files/etc/one.conf", "SETTING=2-private-geheim\n");
    let unit = "[Unit]\nStartLimitIntervalSec=0\n\n[Service]\nType=oneshot\nExecStart=/bin/sh -c 'echo last-words-geheim; exit 3'\n\n\
                [Install]\nWantedBy=multi-user.target\n";
    ana.write("components/one/systemd/one.service", unit);
    let bad = ana.push("A service that fails");
    let rolled_back = r#"trimtab_condition{type="RolledBack",status="true"}"#;
    eventually("Prometheus knows that it was undone", 60, || value(&m, rolled_back) == "1");
    assert_eq!(value(&m, "trimtab_rollbacks_total"), "1");
    assert_eq!(value(&m, "trimtab_attempted_revision_prefix"), u64::from_str_radix(&bad[..12], 16).unwrap().to_string());
    assert_eq!(value(&m, "trimtab_applied_revision_prefix"), u64::from_str_radix(&good[..12], 16).unwrap().to_string());
    eventually("Alertmanager fires", 20, || alerts(&m).contains("TrimtabRolledBack"));
    fires_once(&m);
    the_repository_tells_it(&m, &ana);
    nothing_private_left(&m, &ana);

    ana.git("revert --no-edit HEAD && git push -q origin HEAD:main");
    eventually("it is over", 60, || alerts(&m).is_empty());
    eventually("Prometheus has that as well", 20, || value(&m, rolled_back) == "0" && value(&m, "trimtab_ready") == "1");
    // All of it was taken: nothing waits, nothing failed.
    eventually("every report was taken", 20, || status(&m, ".queue.reports") == "0");
    assert_eq!(status(&m, "[.queue.sinks[] | .failures] | add"), "0", "{}", m.sh("trimtab status --json | jq .queue"));
}

/// After Prometheus' translation every series has the name, the labels and the value that the endpoint tells.
fn as_the_endpoint_tells_it(m: &Machine) {
    m.sh("systemctl start trimtab-status.socket");
    let told = m.sh("curl -sf -m 5 --unix-socket /run/trimtab-status/status.sock http://localhost/metrics");
    let mut names: Vec<&str> =
        told.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split(['{', ' ']).next()).collect();
    names.sort_unstable();
    names.dedup();
    assert!(names.len() > 20, "{told}");
    let found = query(m, r#"{job="trimtab"}"#, r#"[.data.result[].metric.__name__] | unique | join(" ")"#);
    assert_eq!(found.replace("target_info ", ""), names.join(" "));
    let device = status(m, ".device");
    let labels = query(m, "trimtab_ready", ".data.result[0].metric | [.job, .instance] | join(\" \")");
    assert_eq!(labels, format!("trimtab {device}"));
    assert_eq!(
        query(m, "target_info", ".data.result[0].metric | [.host_name, .service_version] | join(\" \")"),
        format!("edge-1 {}", status(m, ".agentVersion"))
    );
    assert_eq!(value(m, "trimtab_generation"), status(m, ".generation"));
    assert_eq!(value(m, r#"trimtab_managed_resources{kind="file"}"#), status(m, ".managedFiles"));
    assert_eq!(value(m, r#"trimtab_passes_total{outcome="converged"}"#), "1");
    assert_eq!(query(m, "trimtab_build_info", ".data.result[0].metric.version"), status(m, ".agentVersion"));
}

/// However often it is sent, it is one alert that began when the condition did.
fn fires_once(m: &Machine) {
    let sent = r#"trimtab_sink_last_delivery_timestamp_seconds{sink="alerts"}"#;
    let before = value(m, sent);
    eventually("it is sent again", 30, || value(m, sent) != before);
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
    person.git("fetch -q origin '+refs/trimtab/status/*:refs/trimtab/status/*'");
    let line = person.git("for-each-ref --format='%(refname:lstrip=3) %(contents:subject)' refs/trimtab/status");
    assert!(line.starts_with("edge-1 NOT READY at "), "{line}");
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
    assert!(m.sh("trimtab status --json").contains("last-words-geheim"), "and this host's own status tells it");
    let commits = "for c in $(git log --format=%H refs/trimtab/status/edge-1); do git ls-tree -r $c --format='%(objectname)'; done";
    let seen = person.git(&format!("--version && ({commits}) | git cat-file --batch"));
    let alerts = m.sh(&format!("curl -sf -m 5 {ALERTMANAGER}/api/v2/alerts"));
    let series = m.sh(&format!("curl -sf -m 5 {PROMETHEUS}/api/v1/series?match[]=%7Bjob%3D%22trimtab%22%7D"));
    assert!(seen.contains("RolledBack") && alerts.contains("edge-1") && series.contains("trimtab_ready"));
    for (place, text) in [("git", seen), ("alertmanager", alerts), ("prometheus", series)] {
        assert!(!text.contains("geheim"), "{place}: {text}");
    }
    // What waits to be sent, and what the courier says of it, as well.
    assert_eq!(m.try_sh("grep -rl geheim /var/lib/trimtab/spool").out, "");
    assert_eq!(m.sh("journalctl -t trimtab-courier | grep -c geheim || true"), "0");
}
