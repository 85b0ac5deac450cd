//! The status document: how this host is, as versioned JSON. `trimtab status --json`, the status endpoint, every report and the metrics are made of it.
//!
//! Flux's words where they fit. Its JSON Schema is `examples/monitoring/status.schema.json` (`trimtab status --schema` prints it); a test holds
//! the two together. Nothing in here may hold a secret; contents appear as digests only.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::drift::{Drift, DriftBook};
use crate::hold::Holds;
use crate::report::{Outcome, Pass, PassLine};
use crate::transaction::{Denied, Line, Phase};

/// Version of the status document's format.
pub const STATUS_FORMAT: u32 = 2;

/// How many passes the status document remembers besides the last.
pub const HISTORY: usize = 10;

/// How many units the status document tells one by one.
pub const UNITS: usize = 500;

/// How many drifts that stand, and how many that passed, the status document tells one by one.
pub const DRIFTS: usize = 50;

/// The status document.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// [`STATUS_FORMAT`].
    pub format: u32,
    /// Version of the agent.
    pub agent_version: String,
    /// Process id of the running agent; 0 for a single pass by hand.
    pub agent_pid: u32,
    /// The host's name in the fleet.
    pub host: String,
    /// The device: id of its key; empty where none was made yet.
    #[serde(default)]
    pub device: String,
    /// When this document was written, milliseconds since 1970.
    #[serde(default)]
    pub at_ms: u64,
    /// When there is a newer one at the latest, milliseconds since 1970: after that the agent hangs or is gone. 0: nobody is to write one.
    #[serde(default)]
    pub next_ms: u64,
    /// Whether the host is as the newest accepted revision wants it, and nobody holds anything back: the same as the condition `Ready`.
    pub ready: bool,
    /// One sentence: what is the matter, or that nothing is.
    pub reason: String,
    /// What is true of the host, each with since when.
    #[serde(default)]
    pub conditions: Vec<Condition>,
    /// The revision that was last converged to without failures.
    pub last_applied_revision: String,
    /// The newest revision that was looked at.
    pub last_attempted_revision: String,
    /// [`crate::ledger::Ledger::generation`].
    pub generation: u64,
    /// The last generation that was whole and healthy.
    #[serde(default)]
    pub good_generation: u64,
    /// Whether it enforces or only observes (`agent.mode`).
    #[serde(default)]
    pub mode: Mode,
    /// What is known of the source and of who signs.
    #[serde(default)]
    pub trust: TrustStatus,
    /// How far the clock can be believed.
    #[serde(default)]
    pub clock: Clock,
    /// The process that asks the source.
    #[serde(default)]
    pub courier: CourierStatus,
    /// How many files and units are managed.
    pub managed_files: usize,
    /// Likewise.
    pub managed_units: usize,
    /// How the managed units (containers are units) are, at most [`UNITS`], as the last look at them saw them.
    #[serde(default)]
    pub units: Vec<UnitStatus>,
    /// The last pass, whole.
    pub last_pass: Option<Pass>,
    /// Passes before it that did or found something, newest first, at most [`HISTORY`].
    pub history: Vec<PassLine>,
    /// The change that is being tried, confirmed or undone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trial: Option<TrialLine>,
    /// What is not tried again by itself, newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub denied: Vec<Denied>,
    /// How past changes ended, newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<Line>,
    /// Drift that stands, oldest first, at most [`DRIFTS`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub drift: Vec<Drift>,
    /// How many drifts stand, those included that [`Status::drift`] has no room for.
    #[serde(default)]
    pub drift_standing: usize,
    /// Drift that passed, newest first, at most [`DRIFTS`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub past_drift: Vec<Drift>,
    /// What a person suspended or pinned.
    #[serde(default, skip_serializing_if = "Holds::is_empty")]
    pub holds: Holds,
    /// Reports that are not delivered yet.
    #[serde(default)]
    pub queue: Queue,
    /// What is watched by events.
    #[serde(default)]
    pub watch: WatchStatus,
    /// What was counted since boot.
    #[serde(default)]
    pub counters: Counters,
}

/// Whether differences are mended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// They are.
    #[default]
    Enforce,
    /// They are told; nothing on this host is ever written but trimtab's own memory.
    Observe,
}

/// One thing that is true of the host or not, in Kubernetes' and Flux's words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// Which.
    #[serde(rename = "type")]
    pub kind: ConditionKind,
    /// Whether.
    pub status: Truth,
    /// One word in CamelCase, for programs.
    pub reason: String,
    /// One sentence, for people.
    pub message: String,
    /// When `status` last changed, seconds since 1970; a new reason does not move it.
    pub last_transition_time: u64,
}

/// The conditions of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ConditionKind {
    /// It is as the newest accepted revision wants it, and nobody holds anything back.
    Ready,
    /// A change is being tried, confirmed or undone, or something is tried again.
    Reconciling,
    /// It will not become ready without a person or a new revision.
    Stalled,
    /// Something differs that is not repaired.
    Drifted,
    /// Something keeps changing back what trimtab repairs.
    Contended,
    /// A person suspended the host, pinned something, or lets it observe only.
    Suspended,
    /// The source was last heard longer ago than it should.
    Stale,
    /// The last change was undone.
    RolledBack,
    /// Reports cannot be written, or what was delivered cannot be noted.
    Silenced,
}

/// Kubernetes' three values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[allow(missing_docs)] // the words say it
pub enum Truth {
    True,
    False,
    Unknown,
}

/// What is known of the source and of who signs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TrustStatus {
    /// `commit` or `release`.
    pub mode: String,
    /// Who signed the newest accepted revision.
    pub signer: String,
    /// What trust last said, as in [`crate::report::TrustReport::verdict`].
    pub verdict: String,
    /// The epoch of the newest accepted release, in release mode.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    /// Its sequence, in release mode.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sequence: Option<u64>,
    /// The newest accepted revision.
    pub revision: String,
    /// When it was accepted, seconds since 1970; 0 if unknown.
    pub accepted_at: u64,
    /// When the source last answered, seconds since 1970; 0: never since it was installed.
    pub last_contact: u64,
    /// When a statement of the source runs out, seconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires: Option<u64>,
    /// Whether the newest accepted release still counts as the newest: `fresh`, `expired`, `unknown` (the clock cannot tell), or `withheld` (a newer
    /// one exists and is not served). Empty in commit mode.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub freshness: String,
    /// The version of the root whose keys count, where a root is pinned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub root_version: Option<u64>,
    /// The digest of that root. Two hosts of one channel with one version and two digests are told different things.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub root_digest: Option<String>,
    /// The digest of the newest accepted release's statement, in release mode. Two hosts of one channel with one epoch and sequence and two digests are
    /// told different things.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub statement: Option<String>,
    /// What was remembered of accepted revisions was lost; the floor in trust.toml counts instead, or the commit that was in force.
    pub state_lost: bool,
}

/// How far the clock can be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Clock {
    /// The kernel says that something keeps it in step.
    Synchronised,
    /// Nothing does; it is not before what was seen earlier.
    Unsynchronised,
    /// It is before something that was seen earlier: it is wrong.
    Behind,
    /// The kernel did not say.
    #[default]
    Unknown,
}

/// The courier, as it says of itself when it polls the source.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CourierStatus {
    /// Whether Landlock confines it.
    pub landlock: Landlock,
    /// Why that is not `whole`, in one line; empty where it is, and where nothing is known.
    pub detail: String,
}

/// How far Landlock confines the courier to what it needs, beside what systemd's directives do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Landlock {
    /// Wholly.
    Whole,
    /// As far as this kernel can.
    Partial,
    /// This kernel has none, or it is not switched on.
    Missing,
    /// Not at all, for what this host is configured to do cannot be confined.
    None,
    /// No courier has said it in this boot, or a newer one says what has no name here.
    #[default]
    #[serde(other)]
    Unknown,
}

impl Landlock {
    /// Whether less than all of it is known to stand.
    pub fn lacks(self) -> bool {
        !matches!(self, Self::Whole | Self::Unknown)
    }
}

/// One managed unit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitStatus {
    /// Its name.
    pub name: String,
    /// As wanted: `active`, `inactive`, or empty when that is not managed.
    pub wanted: String,
    /// As systemd says: `active`, `inactive`, `failed`, …
    pub active: String,
    /// Likewise, finer.
    pub sub: String,
    /// The image, where it is a container.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub image: String,
}

/// The change in progress, as the status document tells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrialLine {
    /// How far it has come.
    pub phase: Phase,
    /// Its commit.
    pub revision: String,
    /// The generation that is being switched (or gone back) to.
    pub generation: u64,
    /// What could cut the host off, when it must be confirmed.
    pub guarded: Vec<String>,
}

/// Reports that are not delivered yet.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Queue {
    /// How many reports are in the spool.
    pub reports: usize,
    /// How many bytes they take.
    pub bytes: u64,
    /// When the oldest of them was made, milliseconds since 1970; 0: there is none.
    pub oldest_ms: u64,
    /// Why the last report could not be written, or what a sink took could not be noted; empty when it could.
    pub trouble: String,
    /// How each sink is.
    pub sinks: Vec<SinkStatus>,
}

/// One sink.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SinkStatus {
    /// Its name in agent.toml.
    pub name: String,
    /// The last sequence that it took.
    pub delivered: u64,
    /// How many reports wait for it.
    pub waiting: usize,
    /// When it last took one, milliseconds since 1970.
    pub last_delivery_ms: u64,
    /// How often in a row it failed.
    pub failures: u32,
    /// Why it failed last; empty when it did not.
    pub error: String,
    /// How many reports it never took, whatever was left out of them, and were passed over.
    pub passed_over: u64,
}

/// What is watched by events.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct WatchStatus {
    /// What tells of files: `fanotify`, `inotify`, or empty.
    pub files: String,
    /// How many managed paths are watched.
    pub watched: usize,
    /// How many are not, for the bound on watches; the full look finds their drift.
    pub unwatched: usize,
    /// Whether systemd's signals are heard.
    pub units: bool,
    /// How often events were lost (an overflow); a full look followed each.
    pub overflows: u64,
}

/// What was counted since boot (the document lies in /run): counters as Prometheus means them, that may start anew.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Counters {
    /// Passes by outcome.
    pub passes: BTreeMap<String, u64>,
    /// Seconds that passes took, in all.
    pub pass_seconds: f64,
    /// Resources changed because the repository wanted it.
    pub updates: u64,
    /// Drifts found.
    pub drift_found: u64,
    /// Drifts repaired.
    pub drift_repaired: u64,
    /// Changes undone.
    pub rolled_back: u64,
    /// Times that the source was asked.
    pub polls: u64,
    /// Times that it could not be used.
    pub poll_failures: u64,
    /// Events told, by [`crate::event::EventKind::word`].
    pub events: BTreeMap<String, u64>,
}

/// Since when a condition has its status: what is remembered of it beyond a boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Since {
    /// Which condition.
    pub kind: ConditionKind,
    /// Its status.
    pub status: Truth,
    /// When it became that, seconds since 1970.
    pub at: u64,
}

/// What `ready` and the conditions are worked out from goes through here, so that a condition's time moves only when it changes. `latest` is
/// now, where the clock is not known to be behind: a time after it is of a clock that ran ahead, and would lie in the future for ever.
pub fn transition(before: &[Since], mut after: Vec<Condition>, latest: Option<u64>) -> Vec<Condition> {
    for condition in &mut after {
        let same = before.iter().find(|old| old.kind == condition.kind && old.status == condition.status);
        if let Some(same) = same {
            condition.last_transition_time = same.at.min(latest.unwrap_or(u64::MAX));
        }
    }
    after
}

impl Status {
    /// The condition of a kind.
    pub fn condition(&self, kind: ConditionKind) -> Option<&Condition> {
        self.conditions.iter().find(|condition| condition.kind == kind)
    }

    /// Takes over what the book says of drift, as far as there is room; how much stands is told in any case.
    pub fn tell_drift(&mut self, book: &DriftBook) {
        let mut standing: Vec<&Drift> = book.standing.values().collect();
        standing.sort_by_key(|drift| (drift.found_ms, drift.id));
        self.drift_standing = standing.len();
        self.drift = standing.into_iter().take(DRIFTS).cloned().collect();
        self.past_drift = book.past.iter().take(DRIFTS).cloned().collect();
    }

    /// Since when the conditions are as they are.
    pub fn since(&self) -> Vec<Since> {
        let of = |one: &Condition| Since { kind: one.kind, status: one.status, at: one.last_transition_time };
        self.conditions.iter().map(of).collect()
    }

    /// The outcome of the last pass.
    pub fn outcome(&self) -> Option<Outcome> {
        self.last_pass.as_ref().map(|pass| pass.outcome)
    }
}

/// A document of which everything is known: the published example.
#[cfg(test)]
pub(crate) fn sample() -> Status {
    serde_json::from_str(include_str!("../../../examples/monitoring/status.example.json")).expect("because the example is one")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_drifts_are_told_and_the_others_counted() {
        let one = sample().drift.remove(0);
        let mut book = DriftBook::default();
        for id in 0..DRIFTS as u64 + 20 {
            // By name in another order than by age.
            let resource = format!("file /etc/{:03}", 999 - id);
            book.standing.insert(resource.clone(), Drift { id, resource, found_ms: 1000 + id, ..one.clone() });
            book.past.push(Drift { id: 500 + id, ..one.clone() });
        }
        let mut status = sample();
        status.tell_drift(&book);
        let ids: Vec<u64> = status.drift.iter().map(|drift| drift.id).collect();
        assert_eq!(ids, (0..DRIFTS as u64).collect::<Vec<_>>());
        assert_eq!((status.drift_standing, status.past_drift.len(), status.past_drift[0].id), (DRIFTS + 20, DRIFTS, 500));
    }
}
