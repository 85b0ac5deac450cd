//! The metrics of a host: a pure table made of the status document. The endpoint, the node exporter's text file and OTLP all tell these, by
//! these names.
//!
//! Guarantees: every name is in [`NAMES`] and keeps its meaning; no label takes a value that a stranger could choose or that grows with time
//! (revisions are told as numbers, resources not at all). Limits: what is not known has no point, and a family without points is left out.

use crate::report::Outcome;
use crate::status::{Clock, Condition, ConditionKind, Landlock, Mode, Status, Truth};

/// What kind of value it is, in OpenMetrics' words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Goes up and down.
    Gauge,
    /// Only goes up, from the host's boot on. The name ends in `_total`.
    Counter,
    /// Always 1; its labels are what it tells. The name ends in `_info`.
    Info,
}

/// One family.
#[derive(Debug, Clone, PartialEq)]
pub struct Metric {
    /// One of [`NAMES`].
    pub name: &'static str,
    /// One sentence.
    pub help: &'static str,
    /// Which kind.
    pub kind: Kind,
    /// At least one.
    pub points: Vec<Point>,
}

/// One value.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    /// Names and values.
    pub labels: Vec<(&'static str, String)>,
    /// The value.
    pub value: f64,
}

/// Name, kind and help of every family, in the order in which they are told.
const TABLE: [(&str, Kind, &str); 47] = [
    ("trimtab_build_info", Kind::Info, "Version of the agent."),
    ("trimtab_ready", Kind::Gauge, "1 when the host is as the newest accepted revision wants it and nobody holds anything back."),
    ("trimtab_condition", Kind::Gauge, "The conditions of the host: 1 for the status that each has."),
    ("trimtab_condition_transition_timestamp_seconds", Kind::Gauge, "When the status of a condition last changed."),
    ("trimtab_outcome", Kind::Gauge, "How the last pass ended: 1 for the one that it was."),
    ("trimtab_observe_mode", Kind::Gauge, "1 when the host only observes."),
    ("trimtab_generation", Kind::Gauge, "Number of the generation in force."),
    ("trimtab_good_generation", Kind::Gauge, "Number of the last generation that was whole and healthy."),
    ("trimtab_applied_revision_prefix", Kind::Gauge, "The first 12 hexadecimal digits of the revision in force, as a number."),
    (
        "trimtab_attempted_revision_prefix",
        Kind::Gauge,
        "The first 12 hexadecimal digits of the newest revision looked at, as a number.",
    ),
    ("trimtab_revision_accepted_timestamp_seconds", Kind::Gauge, "When the newest revision was accepted."),
    ("trimtab_last_contact_timestamp_seconds", Kind::Gauge, "When the source last answered; 0 if never."),
    ("trimtab_last_pass_timestamp_seconds", Kind::Gauge, "When the last pass began."),
    ("trimtab_last_pass_duration_seconds", Kind::Gauge, "How long the last pass took."),
    ("trimtab_statement_expires_timestamp_seconds", Kind::Gauge, "When the source's last statement runs out."),
    ("trimtab_trust_epoch", Kind::Gauge, "The epoch of the newest accepted release, in release mode."),
    ("trimtab_trust_sequence", Kind::Gauge, "Its sequence in that epoch."),
    ("trimtab_trust_root_version", Kind::Gauge, "The version of the root whose keys count, where a root is pinned."),
    ("trimtab_trust_freshness", Kind::Gauge, "1 for how fresh the newest accepted release is, 0 for the others."),
    ("trimtab_trust_state_lost", Kind::Gauge, "1 while what was remembered of accepted releases is lost."),
    ("trimtab_clock_synchronised", Kind::Gauge, "1 when the kernel says that something keeps the clock in step."),
    ("trimtab_courier_confined", Kind::Gauge, "1 when Landlock confines the courier as a whole, as it says of itself."),
    ("trimtab_managed_resources", Kind::Gauge, "How many resources are managed."),
    ("trimtab_units", Kind::Gauge, "How the managed units are."),
    ("trimtab_drift_standing", Kind::Gauge, "How many resources differ and are not repaired."),
    ("trimtab_drift_oldest_timestamp_seconds", Kind::Gauge, "When the oldest of them was found."),
    ("trimtab_denied_revisions", Kind::Gauge, "How many revisions are not tried again by themselves."),
    ("trimtab_suspended_until_timestamp_seconds", Kind::Gauge, "Until when a person suspended the host."),
    ("trimtab_pinned_resources", Kind::Gauge, "How many resources a person pinned."),
    ("trimtab_trial_in_progress", Kind::Gauge, "1 while a change is being tried, confirmed or undone."),
    ("trimtab_spool_reports", Kind::Gauge, "How many reports are not delivered yet."),
    ("trimtab_spool_bytes", Kind::Gauge, "How many bytes they take."),
    ("trimtab_spool_oldest_timestamp_seconds", Kind::Gauge, "When the oldest of them was made."),
    ("trimtab_sink_failures", Kind::Gauge, "How often in a row a sink failed."),
    ("trimtab_sink_last_delivery_timestamp_seconds", Kind::Gauge, "When a sink last took a report."),
    ("trimtab_watched_paths", Kind::Gauge, "How many managed paths are watched by events."),
    ("trimtab_unwatched_paths", Kind::Gauge, "How many are not, and are looked at at intervals."),
    ("trimtab_passes_total", Kind::Counter, "Passes, by how they ended."),
    ("trimtab_pass_seconds_total", Kind::Counter, "Seconds that passes took in all."),
    ("trimtab_updates_total", Kind::Counter, "Resources changed because the repository wanted it."),
    ("trimtab_drift_found_total", Kind::Counter, "Drifts found."),
    ("trimtab_drift_repaired_total", Kind::Counter, "Drifts repaired."),
    ("trimtab_rollbacks_total", Kind::Counter, "Changes undone."),
    ("trimtab_polls_total", Kind::Counter, "Times that the source was asked."),
    ("trimtab_poll_failures_total", Kind::Counter, "Times that it could not be used."),
    ("trimtab_events_total", Kind::Counter, "Events told, by kind."),
    ("trimtab_watch_overflows_total", Kind::Counter, "Times that the kernel lost events; a full look followed each."),
];

/// The names of all metrics.
pub const NAMES: [&str; TABLE.len()] = {
    let mut names = [""; TABLE.len()];
    let mut at = 0;
    while at < TABLE.len() {
        names[at] = TABLE[at].0;
        at += 1;
    }
    names
};

/// What [`crate::status::TrustStatus::freshness`] may say.
const FRESHNESS: [&str; 4] = ["fresh", "expired", "unknown", "withheld"];

/// The metrics of a host, in the order of [`NAMES`], without families that have nothing to tell.
pub fn metrics(status: &Status) -> Vec<Metric> {
    let families = TABLE.iter().map(|(name, kind, help)| Metric { name, help, kind: *kind, points: points(name, status) });
    families.filter(|metric| !metric.points.is_empty()).collect()
}

fn points(name: &str, status: &Status) -> Vec<Point> {
    if name.ends_with("_total") {
        return counted(name, status);
    }
    let pass = status.last_pass.as_ref();
    let trust = &status.trust;
    match name {
        "trimtab_build_info" => vec![labelled("version", &status.agent_version, 1.0)],
        "trimtab_ready" => one(flag(status.ready)),
        "trimtab_condition" => status.conditions.iter().flat_map(condition).collect(),
        "trimtab_condition_transition_timestamp_seconds" => {
            status.conditions.iter().map(|one| labelled("type", kind(one.kind), whole(one.last_transition_time))).collect()
        }
        "trimtab_outcome" => pass.map_or_else(Vec::new, |pass| {
            Outcome::ALL.iter().map(|one| labelled("outcome", one.word(), flag(*one == pass.outcome))).collect()
        }),
        "trimtab_observe_mode" => one(flag(status.mode == Mode::Observe)),
        "trimtab_generation" => one(whole(status.generation)),
        "trimtab_good_generation" => one(whole(status.good_generation)),
        "trimtab_applied_revision_prefix" => prefix(&status.last_applied_revision),
        "trimtab_attempted_revision_prefix" => prefix(&status.last_attempted_revision),
        "trimtab_revision_accepted_timestamp_seconds" => known(trust.accepted_at),
        "trimtab_last_contact_timestamp_seconds" => one(whole(trust.last_contact)),
        "trimtab_last_pass_timestamp_seconds" => pass.map_or_else(Vec::new, |pass| one(whole(pass.started))),
        "trimtab_last_pass_duration_seconds" => pass.map_or_else(Vec::new, |pass| one(whole(pass.duration_ms) / 1000.0)),
        "trimtab_statement_expires_timestamp_seconds" => known(trust.expires.unwrap_or(0)),
        "trimtab_trust_epoch" => known(trust.epoch.unwrap_or(0)),
        "trimtab_trust_sequence" => known(trust.sequence.unwrap_or(0)),
        "trimtab_trust_root_version" => known(trust.root_version.unwrap_or(0)),
        "trimtab_trust_freshness" if trust.freshness.is_empty() => Vec::new(),
        "trimtab_trust_freshness" => {
            FRESHNESS.iter().map(|word| labelled("freshness", word, flag(*word == trust.freshness))).collect()
        }
        "trimtab_trust_state_lost" => one(flag(trust.state_lost)),
        "trimtab_clock_synchronised" => match status.clock {
            Clock::Unknown => Vec::new(),
            clock => one(flag(clock == Clock::Synchronised)),
        },
        "trimtab_courier_confined" => match status.courier.landlock {
            Landlock::Unknown => Vec::new(),
            landlock => one(flag(landlock == Landlock::Whole)),
        },
        _ => standing(name, status),
    }
}

/// What stands, waits and is watched.
fn standing(name: &str, status: &Status) -> Vec<Point> {
    let (holds, queue) = (&status.holds, &status.queue);
    match name {
        "trimtab_managed_resources" => {
            vec![labelled("kind", "file", count(status.managed_files)), labelled("kind", "unit", count(status.managed_units))]
        }
        "trimtab_units" => units(status),
        "trimtab_drift_standing" => one(count(status.drift_standing.max(status.drift.len()))),
        "trimtab_drift_oldest_timestamp_seconds" => known(status.drift.first().map_or(0, |drift| drift.found_ms / 1000)),
        "trimtab_denied_revisions" => one(count(status.denied.len())),
        "trimtab_suspended_until_timestamp_seconds" => known(holds.suspended.as_ref().map_or(0, |held| held.until)),
        "trimtab_pinned_resources" => one(count(holds.pins.len())),
        "trimtab_trial_in_progress" => one(flag(status.trial.is_some())),
        "trimtab_spool_reports" => one(count(queue.reports)),
        "trimtab_spool_bytes" => one(whole(queue.bytes)),
        "trimtab_spool_oldest_timestamp_seconds" => known(queue.oldest_ms / 1000),
        "trimtab_sink_failures" => queue.sinks.iter().map(|sink| labelled("sink", &sink.name, f64::from(sink.failures))).collect(),
        "trimtab_sink_last_delivery_timestamp_seconds" => {
            let delivered = queue.sinks.iter().filter(|sink| sink.last_delivery_ms > 0);
            delivered.map(|sink| labelled("sink", &sink.name, whole(sink.last_delivery_ms / 1000))).collect()
        }
        "trimtab_watched_paths" => one(count(status.watch.watched)),
        "trimtab_unwatched_paths" => one(count(status.watch.unwatched)),
        _ => Vec::new(),
    }
}

fn counted(name: &str, status: &Status) -> Vec<Point> {
    let counters = &status.counters;
    let known = |label, list: &std::collections::BTreeMap<String, u64>| -> Vec<Point> {
        list.iter().map(|(word, times)| labelled(label, word, whole(*times))).collect()
    };
    match name {
        "trimtab_passes_total" => known("outcome", &counters.passes),
        "trimtab_pass_seconds_total" => one(counters.pass_seconds),
        "trimtab_updates_total" => one(whole(counters.updates)),
        "trimtab_drift_found_total" => one(whole(counters.drift_found)),
        "trimtab_drift_repaired_total" => one(whole(counters.drift_repaired)),
        "trimtab_rollbacks_total" => one(whole(counters.rolled_back)),
        "trimtab_polls_total" => one(whole(counters.polls)),
        "trimtab_poll_failures_total" => one(whole(counters.poll_failures)),
        "trimtab_events_total" => known("kind", &counters.events),
        "trimtab_watch_overflows_total" => one(whole(status.watch.overflows)),
        _ => Vec::new(),
    }
}

fn units(status: &Status) -> Vec<Point> {
    let mut found = [0usize; 4];
    const STATES: [&str; 4] = ["active", "inactive", "failed", "other"];
    for unit in &status.units {
        found[STATES.iter().position(|state| *state == unit.active).unwrap_or(3)] += 1;
    }
    STATES.iter().zip(found).map(|(state, number)| labelled("state", state, count(number))).collect()
}

fn condition(one: &Condition) -> [Point; 3] {
    [("true", Truth::True), ("false", Truth::False), ("unknown", Truth::Unknown)].map(|(word, truth)| Point {
        labels: vec![("type", kind(one.kind).to_owned()), ("status", word.to_owned())],
        value: flag(one.status == truth),
    })
}

/// The condition as it is serialised.
pub fn kind(kind: ConditionKind) -> &'static str {
    match kind {
        ConditionKind::Ready => "Ready",
        ConditionKind::Reconciling => "Reconciling",
        ConditionKind::Stalled => "Stalled",
        ConditionKind::Drifted => "Drifted",
        ConditionKind::Contended => "Contended",
        ConditionKind::Suspended => "Suspended",
        ConditionKind::Stale => "Stale",
        ConditionKind::RolledBack => "RolledBack",
        ConditionKind::Silenced => "Silenced",
    }
}

/// The first 12 hexadecimal digits: 48 bits, which a double holds exactly.
fn prefix(revision: &str) -> Vec<Point> {
    let digits: String = revision.chars().take(12).collect();
    u64::from_str_radix(&digits, 16).map_or_else(|_| Vec::new(), |number| one(whole(number)))
}

fn one(value: f64) -> Vec<Point> {
    vec![Point { labels: Vec::new(), value }]
}

/// A time; 0 stands for none.
fn known(time: u64) -> Vec<Point> {
    if time == 0 { Vec::new() } else { one(whole(time)) }
}

fn labelled(label: &'static str, word: &str, value: f64) -> Point {
    Point { labels: vec![(label, word.to_owned())], value }
}

fn flag(is: bool) -> f64 {
    f64::from(u8::from(is))
}

#[allow(clippy::cast_precision_loss)] // counts and seconds stay far below 2^53; beyond that Prometheus itself could not tell them apart
fn whole(number: u64) -> f64 {
    number as f64
}

fn count(number: usize) -> f64 {
    whole(number as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::UnitStatus;

    #[test]
    fn every_name_has_its_points_and_every_kind_its_ending() {
        let mut names = NAMES.to_vec();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), NAMES.len(), "no name twice");
        for (name, kind, help) in TABLE {
            assert_eq!(name.ends_with("_total"), kind == Kind::Counter, "{name}");
            assert_eq!(name.ends_with("_info"), kind == Kind::Info, "{name}");
            assert!(name.starts_with("trimtab_") && help.ends_with('.') && !help.contains('\n'), "{name}");
        }
        let told: Vec<&str> = metrics(&crate::status::sample()).iter().map(|metric| metric.name).collect();
        assert_eq!(told, NAMES, "a host of which everything is known tells every family");
        let bare: Vec<&str> = metrics(&Status::default()).iter().map(|metric| metric.name).collect();
        assert!(!bare.contains(&"trimtab_outcome") && !bare.contains(&"trimtab_spool_oldest_timestamp_seconds"), "{bare:?}");
        assert!(bare.contains(&"trimtab_ready") && bare.contains(&"trimtab_drift_standing"), "{bare:?}");
    }

    fn value(status: &Status, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let metric = metrics(status).into_iter().find(|metric| metric.name == name)?;
        let is = |point: &&Point| point.labels.iter().map(|(name, word)| (*name, word.as_str())).eq(labels.iter().copied());
        metric.points.iter().find(is).map(|point| point.value)
    }

    #[test]
    fn values_are_those_of_the_document() {
        let unit = |active: &str| UnitStatus {
            name: "a.service".to_owned(),
            wanted: String::new(),
            active: active.to_owned(),
            sub: String::new(),
            image: String::new(),
        };
        let status = Status {
            last_applied_revision: "00000000000fffff".to_owned(),
            last_attempted_revision: "ffffffffffff0".to_owned(),
            units: vec![unit("active"), unit("failed"), unit("activating"), unit("active")],
            drift_standing: 70,
            ..crate::status::sample()
        };
        let at = |name: &str, labels: &[(&str, &str)]| value(&status, name, labels);
        assert_eq!(at("trimtab_applied_revision_prefix", &[]), Some(15.0));
        assert_eq!(at("trimtab_attempted_revision_prefix", &[]), Some(281_474_976_710_655.0));
        for (state, number) in [("active", 2.0), ("inactive", 0.0), ("failed", 1.0), ("other", 1.0)] {
            assert_eq!(at("trimtab_units", &[("state", state)]), Some(number), "{state}");
        }
        assert_eq!(at("trimtab_drift_standing", &[]), Some(70.0));
        assert_eq!(at("trimtab_condition", &[("type", "Ready"), ("status", "false")]), Some(1.0));
        assert_eq!(at("trimtab_condition", &[("type", "Ready"), ("status", "true")]), Some(0.0));
        assert_eq!(at("trimtab_outcome", &[("outcome", "partial")]), Some(1.0));
        assert_eq!(at("trimtab_outcome", &[("outcome", "unchanged")]), Some(0.0));
        assert_eq!(at("trimtab_clock_synchronised", &[]), Some(0.0));
        assert_eq!(
            value(&Status { last_applied_revision: "no hex".into(), ..status.clone() }, "trimtab_applied_revision_prefix", &[]),
            None
        );
    }
}
