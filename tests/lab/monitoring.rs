//! `examples/monitoring/` before the real promtool.

use std::fs;
use std::path::Path;

use trimtab_tests::lab;

fn carry(m: &lab::Machine, from: &Path, to: &str) {
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = format!("{to}/{}", entry.file_name().to_string_lossy());
        if entry.path().is_dir() {
            carry(m, &entry.path(), &to);
        } else {
            m.sh(&format!("mkdir -p \"$(dirname '{to}')\""));
            m.write(&to, fs::read(entry.path()).unwrap());
        }
    }
}

#[test]
fn promtool_takes_the_examples_and_the_alerts_fire_as_they_say() {
    let Some(m) = lab::boot("monitor") else { return };
    carry(&m, &Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/monitoring"), "/srv/monitoring");
    for config in ["prometheus.yml", "prometheus-otlp.yml"] {
        m.sh(&format!("cd /srv/monitoring && promtool check config --lint=all --lint-fatal {config}"));
    }
    m.sh("cd /srv/monitoring && promtool check rules --lint=all --lint-fatal rules/recording.yml rules/alerts.yml");
    m.sh("cd /srv/monitoring && promtool test rules rules/alerts_test.yml");
    // Each question of the dashboard is one that Prometheus can read.
    let parse = "cd /srv/monitoring && jq -r '.panels[].targets[].expr' grafana/trimtab.json \
                 | sed 's/\\$fleet/.*/g; s/\\$instance/.*/g' | tee /tmp/asked | jq -Rs 'split(\"\\n\") | map(select(. != \"\")) \
                 | {groups: [{name: \"dashboard\", rules: [to_entries[] | {record: \"q\\(.key)\", expr: .value}]}]}' > /tmp/asked.yml && promtool check rules /tmp/asked.yml";
    let said = m.sh(parse);
    let asked: usize = m.sh("wc -l < /tmp/asked").parse().unwrap();
    assert!(asked > 20 && said.contains(&format!("{asked} rules found")), "{asked}: {said}");
    // What promtool would say to a rule that asks for something else than what comes in.
    m.sh("sed -i 's/type=\"Stale\"} == 1/type=\"Stalled\"} == 1/' /srv/monitoring/rules/alerts.yml");
    assert_ne!(m.try_sh("cd /srv/monitoring && promtool test rules rules/alerts_test.yml").code, 0, "the tests see a broken alert");
}
