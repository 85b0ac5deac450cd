//! `examples/monitoring/`: every metric, condition and MESSAGE_ID that it names is one that trimtab tells. promtool's word on it is asked for in
//! the lab (`tests/lab/monitoring.rs`), which has one.

use std::collections::BTreeSet;

use serde_json::Value;
use trimtab_model::event::EventKind;
use trimtab_model::metric::NAMES;

use super::repository_root;

const CONDITIONS: [&str; 9] =
    ["Ready", "Reconciling", "Stalled", "Drifted", "Contended", "Suspended", "Stale", "RolledBack", "Silenced"];

fn text(name: &str) -> String {
    std::fs::read_to_string(repository_root().join("examples/monitoring").join(name))
        .unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The words of a text that begin like this.
fn words<'t>(text: &'t str, begin: &'t str) -> BTreeSet<&'t str> {
    let end = |rest: &str| rest.find(|c: char| !c.is_ascii_alphanumeric() && !"_:".contains(c)).unwrap_or(rest.len());
    // `fleet:trimtab_x` is a recorded name, and no metric.
    let is_begin = |at: usize| !text[..at].ends_with(|c: char| c.is_ascii_alphanumeric() || "_:".contains(c));
    text.match_indices(begin).filter(|(at, _)| is_begin(*at)).map(|(at, _)| &text[at..at + end(&text[at..])]).collect()
}

fn recorded() -> BTreeSet<String> {
    let rules = text("rules/recording.yml");
    rules.lines().filter_map(|line| line.trim().strip_prefix("- record: ")).map(str::to_owned).collect()
}

#[test]
fn every_metric_that_is_asked_for_is_told() {
    let recorded = recorded();
    assert!(recorded.len() > 10, "{recorded:?}");
    for file in ["rules/recording.yml", "rules/alerts.yml", "rules/alerts_test.yml", "grafana/trimtab.json", "README.md"] {
        let text = text(file);
        let metrics = words(&text, "trimtab_");
        for metric in &metrics {
            assert!(NAMES.contains(metric), "{file} asks for {metric}, which no host tells");
        }
        for name in words(&text, "trimtab:").into_iter().chain(words(&text, "fleet:trimtab_")) {
            assert!(recorded.contains(name), "{file} asks for {name}, which no rule records");
        }
        for part in text.replace("\\\"", "\"").split("type=\"").skip(1) {
            let kind = part.split('"').next().unwrap();
            assert!(CONDITIONS.contains(&kind), "{file} asks for the condition {kind}, which there is not");
        }
        assert!(file != "rules/recording.yml" || metrics.len() > 10, "{metrics:?}");
    }
}

#[test]
fn every_alert_is_tested_and_explained() {
    let (rules, tests, readme) = (text("rules/alerts.yml"), text("rules/alerts_test.yml"), text("README.md"));
    let alerts: Vec<&str> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() >= 15, "{alerts:?}");
    for alert in alerts {
        assert!(readme.contains(&format!("`{alert}`")), "README.md does not explain {alert}");
        let fires = tests.contains(&format!("alertname=\"{alert}\",alertstate=\"firing\""));
        let fires_whole = tests.split("alertname: ").skip(1).any(|test| {
            test.starts_with(alert)
                && !test.starts_with(&format!("{alert},"))
                && test.split("promql_expr_test").next().unwrap().contains("exp_labels")
        });
        assert!(fires || fires_whole, "no test sees {alert} fire");
    }
}

#[test]
fn the_dashboard_is_one_that_grafana_takes() {
    let board: Value = serde_json::from_str(&text("grafana/trimtab.json")).unwrap();
    let panels = board["panels"].as_array().unwrap();
    let ids: BTreeSet<u64> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len());
    let mut taken = BTreeSet::new();
    for panel in panels {
        let place = |key: &str| panel["gridPos"][key].as_u64().unwrap();
        assert!(place("x") + place("w") <= 24, "{}", panel["title"]);
        for x in place("x")..place("x") + place("w") {
            for y in place("y")..place("y") + place("h") {
                assert!(taken.insert((x, y)), "{} lies over another panel", panel["title"]);
            }
        }
        let targets = panel["targets"].as_array().unwrap();
        assert!(!targets.is_empty() && targets.iter().all(|target| target["expr"].as_str().is_some_and(|expr| !expr.is_empty())));
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "it asks which Prometheus");
    }
}

#[test]
fn the_journal_sheet_knows_every_event_and_no_other() {
    let sheet = text("journal.md");
    for kind in EventKind::ALL {
        assert!(sheet.contains(&format!("| `{}` | `{}` |", kind.word(), kind.message_id())), "{kind:?}");
    }
    // That these are the fields that events have, a test in cycle/book.rs sees.
    let table = sheet.lines().filter_map(|line| line.strip_prefix("| `TRIMTAB_"));
    let fields: BTreeSet<String> = table.map(|line| format!("TRIMTAB_{}", line.split('`').next().unwrap())).collect();
    assert!(fields.len() >= 9, "{fields:?}");
    for field in words(&sheet, "TRIMTAB_") {
        assert!(fields.contains(field), "a question asks for {field}, which no event has");
    }
    let ids: BTreeSet<&str> = EventKind::ALL.iter().map(|kind| kind.message_id()).collect();
    for id in sheet.split("MESSAGE_ID=").skip(1) {
        assert!(ids.contains(&id[..32]), "{}", &id[..32]);
    }
}
