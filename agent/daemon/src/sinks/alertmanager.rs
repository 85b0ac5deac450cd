//! Alerts for Alertmanager: `POST /api/v2/alerts` (its `api/v2/openapi.yaml`, `postableAlerts`), made of the conditions of the newest report.
//!
//! One alert for each condition, under labels that never change while it stands, so that it fires once however often it is sent. One that
//! stands ends by itself after [`patience`]: a host that fell silent must not look as if it still said something (that it is silent is an
//! alert of its own, see `examples/monitoring`). One that is over is sent with the time at which it ended; Alertmanager makes nothing of an
//! end that had no begin.
//!
//! Limits: a host whose clock is known to be wrong sends no times: Alertmanager then takes its own, and ends the alert after its
//! `resolve_timeout`.

use serde_json::{Value, json};
use trimtab_model::event::{EventKind, Severity};
use trimtab_model::outbound::Report;
use trimtab_model::status::{Clock, Condition, ConditionKind, Truth};

use super::{HttpRequest, Outgoing, Parcel, Secrets, SinkConfig, authorization, first_line, time};

/// How long an alert stands without being sent again, where a report does not say when the next one is due.
const PATIENCE: u64 = 45 * 60 * 1000;
/// The least that it stands: a delivery may be tried again, and Alertmanager itself waits for so long.
const LEAST: u64 = 5 * 60 * 1000;

/// One alert for one condition.
struct Rule {
    kind: ConditionKind,
    /// The status at which it fires.
    fires: Truth,
    name: &'static str,
    severity: Severity,
    /// What the sink's filter knows it by.
    event: EventKind,
    summary: &'static str,
}

/// `Reconciling` is no alert: it is what a healthy host does.
const RULES: [Rule; 7] = [
    Rule {
        kind: ConditionKind::Ready,
        fires: Truth::False,
        name: "TrimtabNotReady",
        severity: Severity::Warning,
        event: EventKind::Failed,
        summary: "is not as the newest accepted revision wants it",
    },
    Rule {
        kind: ConditionKind::Stalled,
        fires: Truth::True,
        name: "TrimtabStalled",
        severity: Severity::Error,
        event: EventKind::Held,
        summary: "will not become ready without a person or a new revision",
    },
    Rule {
        kind: ConditionKind::Drifted,
        fires: Truth::True,
        name: "TrimtabDrifted",
        severity: Severity::Warning,
        event: EventKind::DriftFound,
        summary: "differs from its repository and is not repaired",
    },
    Rule {
        kind: ConditionKind::Contended,
        fires: Truth::True,
        name: "TrimtabContended",
        severity: Severity::Warning,
        event: EventKind::Contended,
        summary: "has something that keeps changing back what is repaired",
    },
    Rule {
        kind: ConditionKind::Suspended,
        fires: Truth::True,
        name: "TrimtabSuspended",
        severity: Severity::Info,
        event: EventKind::Suspended,
        summary: "is held back by a person",
    },
    Rule {
        kind: ConditionKind::Stale,
        fires: Truth::True,
        name: "TrimtabStale",
        severity: Severity::Warning,
        event: EventKind::Stale,
        summary: "has not heard its source for longer than it should",
    },
    Rule {
        kind: ConditionKind::RolledBack,
        fires: Truth::True,
        name: "TrimtabRolledBack",
        severity: Severity::Error,
        event: EventKind::RolledBack,
        summary: "undid its last change",
    },
];

/// At most one request: the alerts of the newest of these reports. Older ones are history, and an alert is about now.
pub(super) fn shape(sink: &SinkConfig, parcels: &[Parcel], secrets: &Secrets) -> Vec<Outgoing> {
    let Some(Parcel { report, .. }) = parcels.last() else { return Vec::new() };
    let wanted = |rule: &&Rule| rule.severity >= sink.severity && (sink.kinds.is_empty() || sink.kinds.contains(&rule.event));
    let alerts: Vec<Value> = RULES.iter().filter(wanted).filter_map(|rule| alert(rule, report)).collect();
    if alerts.is_empty() {
        return Vec::new();
    }
    let body = serde_json::to_vec(&alerts).expect("because plain data with string keys always serialises");
    let mut headers = vec![("Content-Type", "application/json".to_owned())];
    headers.extend(authorization(sink, secrets));
    let url = format!("{}/api/v2/alerts", sink.url.trim_end_matches('/'));
    vec![Outgoing::Http(HttpRequest { method: "POST", url, headers, body, also_fine: &[] })]
}

fn alert(rule: &Rule, report: &Report) -> Option<Value> {
    let condition = report.status.condition(rule.kind)?;
    let fires = match condition.status {
        // What is not known neither begins nor ends anything: an alert that stands runs out by itself.
        Truth::Unknown => return None,
        status => status == rule.fires,
    };
    let mut alert = json!({
        "labels": {
            "alertname": rule.name,
            "host": report.host,
            "device": report.device,
            "severity": match rule.severity { Severity::Info => "info", Severity::Warning => "warning", Severity::Error => "critical" },
        },
        "annotations": {
            "summary": format!("{} {}", report.host, rule.summary),
            "description": first_line(&condition.message),
            "reason": condition.reason,
        },
    });
    let (starts, ends) = times(condition, report, fires);
    for (key, at) in [("startsAt", starts), ("endsAt", ends)] {
        if let Some(at) = at {
            alert[key] = time(at).into();
        }
    }
    Some(alert)
}

/// When it began and when it ends, milliseconds since 1970.
fn times(condition: &Condition, report: &Report, fires: bool) -> (Option<u64>, Option<u64>) {
    let changed = condition.last_transition_time.saturating_mul(1000);
    match (fires, report.status.clock) {
        // Its begin is not known any more; Alertmanager keeps the one that it was told when it fired.
        (false, _) => (None, Some(changed)),
        (true, Clock::Behind) => (None, None),
        (true, _) => (Some(changed.min(report.at_ms)), Some(report.at_ms.saturating_add(patience(report)))),
    }
}

/// How long an alert of this report stands without another report, milliseconds: two of them may be late or lost.
fn patience(report: &Report) -> u64 {
    match report.next_ms.saturating_sub(report.at_ms) {
        0 => PATIENCE,
        gap => gap.saturating_mul(3).max(LEAST),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sinks::tests::{http, parcel, sink};

    fn with(kind: ConditionKind, status: Truth) -> Parcel {
        let mut one = parcel(7, vec![]);
        one.report.status.conditions = vec![Condition {
            kind,
            status,
            reason: "Because".to_owned(),
            message: "it is so\nits last words: geheim".to_owned(),
            last_transition_time: 1_600_000_000,
        }];
        one
    }

    fn alerts(sink: &SinkConfig, parcels: &[Parcel]) -> Vec<Value> {
        let requests = shape(sink, parcels, &Secrets::default());
        requests.first().map_or_else(Vec::new, |one| serde_json::from_slice(&http(one).body).unwrap())
    }

    fn plain() -> SinkConfig {
        sink("alertmanager", "")
    }

    #[test]
    fn a_condition_that_stands_fires_from_its_transition_and_runs_out_by_itself() {
        let request = shape(&plain(), &[with(ConditionKind::Stalled, Truth::True)], &Secrets::default());
        assert_eq!(http(&request[0]).url, "https://x/base/api/v2/alerts");
        let alerts = alerts(&plain(), &[with(ConditionKind::Stalled, Truth::True)]);
        assert_eq!(
            alerts,
            [json!({
                "labels": { "alertname": "TrimtabStalled", "host": "edge-1", "device": "0123456789ABCDEF", "severity": "critical" },
                "annotations": {
                    "summary": "edge-1 will not become ready without a person or a new revision",
                    "description": "it is so",
                    "reason": "Because",
                },
                "startsAt": "2020-09-13T12:26:40.000Z",
                "endsAt": "2023-11-14T22:58:20.123Z",
            })]
        );
    }

    #[test]
    fn it_stands_for_three_heartbeats_and_never_for_too_short() {
        let ends = |gap: u64| {
            let mut one = with(ConditionKind::Stalled, Truth::True);
            one.report.next_ms = one.report.at_ms + gap;
            alerts(&plain(), &[one])[0]["endsAt"].as_str().unwrap().to_owned()
        };
        assert_eq!(ends(16 * 60_000), "2023-11-14T23:01:20.123Z");
        assert_eq!(ends(5_000), "2023-11-14T22:18:20.123Z");
    }

    #[test]
    fn what_is_over_ends_when_it_ended_and_what_is_unknown_is_left() {
        let over = alerts(&plain(), &[with(ConditionKind::Stalled, Truth::False)]);
        assert_eq!((over[0].get("startsAt"), &over[0]["endsAt"]), (None, &json!("2020-09-13T12:26:40.000Z")));
        // Ready is the one that alerts when it is not true.
        let ready = alerts(&plain(), &[with(ConditionKind::Ready, Truth::True)]);
        assert_eq!((&ready[0]["labels"]["alertname"], ready[0].get("startsAt")), (&json!("TrimtabNotReady"), None));
        assert!(alerts(&plain(), &[with(ConditionKind::Ready, Truth::False)])[0].get("startsAt").is_some());
        assert!(alerts(&plain(), &[with(ConditionKind::Stalled, Truth::Unknown)]).is_empty());
        assert!(alerts(&plain(), &[with(ConditionKind::Reconciling, Truth::True)]).is_empty());
    }

    #[test]
    fn labels_never_change_with_what_changes() {
        let labels = |at: u64, status| {
            let mut one = with(ConditionKind::Drifted, status);
            one.report.at_ms = at;
            one.report.status.conditions[0].message = at.to_string();
            alerts(&plain(), &[one])[0]["labels"].clone()
        };
        assert_eq!(labels(1, Truth::True), labels(1_700_000_000_000, Truth::False));
    }

    #[test]
    fn a_clock_that_is_known_to_be_wrong_gives_no_times() {
        let mut one = with(ConditionKind::Stalled, Truth::True);
        one.report.status.clock = Clock::Behind;
        let alert = &alerts(&plain(), &[one])[0];
        assert!(alert.get("startsAt").is_none() && alert.get("endsAt").is_none(), "{alert}");
        // A transition that lies ahead of the report begins now.
        let mut ahead = with(ConditionKind::Stalled, Truth::True);
        ahead.report.status.conditions[0].last_transition_time = 1_900_000_000;
        assert_eq!(alerts(&plain(), &[ahead])[0]["startsAt"], "2023-11-14T22:13:20.123Z");
    }

    #[test]
    fn only_the_newest_report_counts_and_filters_hold() {
        let both = [with(ConditionKind::Stalled, Truth::True), with(ConditionKind::Stale, Truth::True)];
        let names: Vec<Value> = alerts(&plain(), &both).iter().map(|one| one["labels"]["alertname"].clone()).collect();
        assert_eq!(names, ["TrimtabStale"]);
        assert!(alerts(&sink("alertmanager", "severity = 'error'"), &both).is_empty());
        assert!(alerts(&sink("alertmanager", "kinds = ['drift-found']"), &both).is_empty());
        assert_eq!(alerts(&sink("alertmanager", "kinds = ['stale']"), &both).len(), 1);
    }
}
