//! Drift: what somebody changed on the machine, what the repository wants done about it, and what is remembered of it.
//!
//! Three-way, always: the ledger against what is found is drift, what is wanted against the ledger is an update
//! ([`Cause`](crate::plan::Cause)). A [`Drift`] is one resource that was found changed, from when it was found until it is mended or gone; the
//! [`DriftBook`] holds those that stand and the last of those that passed. It is written down before anything is repaired, so a drift that was
//! found is told once, and only once, whatever is killed afterwards.

mod book;
mod contend;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::desired::Origin;
use crate::digest::Digest;
use crate::event::{Event, Said};
use crate::fleet::selector::matches_pattern;
use crate::names::{ComponentName, HostPath, UnitName};
use crate::plan::Difference;
use crate::report::PassLine;
use crate::status::Since;
pub use book::{Look, Takes};
pub use contend::MAX_CONTENDED;

/// What is done about drift of a resource. Updates from the repository are carried out whatever it says, but for `create-once`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DriftPolicy {
    /// It is repaired.
    #[default]
    Enforce,
    /// It is told and left alone.
    Report,
    /// It is neither told nor repaired.
    Ignore,
    /// What is missing is made; what is there is nobody's business any more, also when the repository wants something else.
    CreateOnce,
}

impl DriftPolicy {
    /// Whether it is the default: not written down, so that what never said anything keeps its digest.
    #[allow(clippy::trivially_copy_pass_by_ref)] // serde's signature
    pub fn is_default(&self) -> bool {
        *self == Self::Enforce
    }
}

/// What happens to files that nobody declared, in a directory that is declared `exclusive`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Extra {
    /// They are told as drift (property `extra`).
    Report,
    /// They are told, kept in the blob store, and removed; what may not be kept stays.
    Purge,
}

/// The format of a structured file, for keys that are not trimtab's business.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)] // the formats' own names
pub enum Structure {
    Ini,
    Toml,
    Json,
    Yaml,
    /// A unit file or drop-in, or a Quadlet file: sections, repeated keys, continued lines.
    Systemd,
}

/// Keys of one file that belong to somebody else: their values are as found, in comparing and in writing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IgnoredKeys {
    /// How the file is read.
    pub format: Structure,
    /// Each the path to a key, outermost first: `["server", "port"]`; `*` stands for any one key or index.
    pub keys: Vec<Vec<String>>,
}

/// Who changed something, where the kernel or systemd told. What is not known is absent: never a guess.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Actor {
    /// The process, as fanotify named it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Its command name (`comm`).
    #[serde(skip_serializing_if = "String::is_empty")]
    pub command: String,
    /// Path of its program. Arguments are not kept: a secret may be among them.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub program: String,
    /// The user that it ran as, by name or number.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub user: String,
    /// The user who logged in, where the audit session says (`loginuid`).
    #[serde(skip_serializing_if = "String::is_empty")]
    pub login: String,
    /// The audit session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<u32>,
    /// The systemd unit or scope that it ran in, or that changed the state.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub unit: String,
    /// Where the unit changed its state by itself, without a job: how systemd says that it ended (`signal`, `exit-code`, `oom-kill`, …).
    #[serde(skip_serializing_if = "String::is_empty")]
    pub result: String,
}

impl Actor {
    /// In a few words: `sed (pid 4711) as root, login alice, in session-3.scope`; `unknown` when nothing is known.
    pub fn words(&self) -> String {
        let mut parts = Vec::new();
        match (&self.command, self.pid) {
            (command, Some(pid)) if !command.is_empty() => parts.push(format!("{command} (pid {pid})")),
            (command, None) if !command.is_empty() => parts.push(command.clone()),
            (_, Some(pid)) => parts.push(format!("pid {pid}, which was gone before it could be looked at")),
            _ => {}
        }
        let mut part = |word: &str, value: &str| {
            if !value.is_empty() {
                parts.push(format!("{word} {value}"));
            }
        };
        part("as", &self.user);
        part("login", &self.login);
        if self.result.is_empty() {
            part("in", &self.unit);
        } else {
            parts.push(format!("{} itself (it ended: {})", self.unit, self.result));
        }
        if parts.is_empty() { "unknown".to_owned() } else { parts.join(" ") }
    }
}

/// Something that an event source saw change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sighting {
    /// As in [`Change::resource`](crate::plan::Change::resource).
    pub resource: String,
    /// When, milliseconds since 1970.
    pub at_ms: u64,
    /// Who, where that is known.
    pub actor: Option<Actor>,
}

/// How a drift stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DriftState {
    /// Found, and not (yet) repaired.
    Standing,
    /// Put right by trimtab.
    Repaired,
    /// Gone without trimtab: somebody put it back, or the repository now wants it so, or the resource left.
    Gone,
}

/// Why something that differs is left as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "why")]
pub enum LeftAlone {
    /// The repository says `drift = "report"` (or `exclusive = "report"`).
    Policy,
    /// The host only observes (`agent.mode = "observe"`).
    Observing,
    /// Somebody suspended the host.
    Suspended,
    /// Somebody pinned the resource.
    Pinned,
    /// Something keeps changing it back; it is repaired again later.
    Contended {
        /// When, seconds since 1970.
        again: u64,
    },
}

impl LeftAlone {
    /// Why, in a few words for people.
    pub fn words(&self) -> &'static str {
        match self {
            LeftAlone::Policy => "only reported, as the repository says",
            LeftAlone::Observing => "this host only observes",
            LeftAlone::Suspended => "this host is suspended",
            LeftAlone::Pinned => "it is pinned",
            LeftAlone::Contended { .. } => "something keeps changing it back; repaired again later",
        }
    }

    /// Whether a person of this host holds it back, and not the repository.
    pub fn is_held(&self) -> bool {
        matches!(self, LeftAlone::Observing | LeftAlone::Suspended | LeftAlone::Pinned)
    }
}

/// One resource that somebody changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drift {
    /// A number that no other drift on this host has.
    pub id: u64,
    /// As in [`Change::resource`](crate::plan::Change::resource).
    pub resource: String,
    /// Where the resource comes from.
    pub origin: Origin,
    /// What differs, by property; contents as digests, never as text.
    pub differs: Vec<Difference>,
    /// When it was seen first, milliseconds since 1970: the event's time where an event told, else the look's.
    pub seen_ms: u64,
    /// When a pass found it, milliseconds since 1970.
    pub found_ms: u64,
    /// When it was repaired or found gone; 0 while it stands.
    #[serde(default)]
    pub ended_ms: u64,
    /// Who did it.
    #[serde(default)]
    pub actor: Option<Actor>,
    /// How it stands.
    pub state: DriftState,
    /// Why it is not repaired.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_alone: Option<LeftAlone>,
    /// A repair of it did not work (yet): if it is well one day without another one, that was somebody else.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub failed: bool,
    /// The overwritten content in the blob store, when it was kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<Digest>,
    /// The pass that found it.
    pub pass: u64,
    /// The revision in force.
    pub revision: String,
}

/// What somebody wrote is kept up to this size, in bytes. What is larger is told when a repair overwrites it, and never purged.
pub const KEEP_LIMIT: u64 = 4 << 20;
/// How many names of an exclusive directory are told one by one.
pub const MAX_STRAYS: usize = 1000;
/// How many drifts that passed are remembered.
pub const MAX_PAST: usize = 100;
/// How many that stand are remembered one by one; beyond that they are found, told as a number, and repaired.
pub const MAX_STANDING: usize = 1000;
/// How many events wait for the spool at most.
pub const MAX_UNSENT: usize = 500;

/// What is remembered of drift, and of events that are not in the spool yet; a document of its own beside the ledger.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DriftBook {
    /// The highest [`Drift::id`] given.
    pub last_id: u64,
    /// The highest [`Event::id`] given.
    pub last_event: u64,
    /// Those that stand, by resource.
    pub standing: BTreeMap<String, Drift>,
    /// Those that passed, newest first, at most [`MAX_PAST`].
    pub past: Vec<Drift>,
    /// What something keeps changing back, and since when that is known (milliseconds since 1970); at most [`MAX_CONTENDED`].
    pub contended: BTreeMap<String, u64>,
    /// How many more stand than are remembered one by one.
    pub beyond: usize,
    /// What was told last of what lasts.
    pub said: Said,
    /// Events that are not in the spool yet, oldest first, at most [`MAX_UNSENT`].
    pub unsent: Vec<Event>,
    /// The number of the pass that wrote this: after a boot the next one is above it.
    pub pass: u64,
    /// Passes up to that one that did or found something, as in [`Status::history`](crate::status::Status::history).
    pub passes: Vec<PassLine>,
    /// Since when the conditions are as they are.
    pub since: Vec<Since>,
    /// Events that were not said to the journal yet, each of them, oldest first: taken by who says them once the book is on the disk.
    #[serde(skip)]
    pub unsaid: Vec<Event>,
}

/// What the event sources are to watch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Watched {
    /// Managed paths.
    pub paths: Vec<HostPath>,
    /// Directories in which everything is trimtab's business.
    pub exclusive: Vec<HostPath>,
    /// Managed units.
    pub units: Vec<UnitName>,
}

/// A directory in which only declared files are wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exclusive {
    /// What happens to the others.
    pub extra: Extra,
    /// Names (globs with `*` and `?`) in it that are nobody's business.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub except: Vec<String>,
    /// Who declared it.
    pub origin: Origin,
}

impl Exclusive {
    /// The component that declared it.
    pub fn component(&self) -> &ComponentName {
        &self.origin.component
    }

    /// Whether a name in the directory is nobody's business.
    pub fn excepts(&self, name: &str) -> bool {
        self.except.iter().any(|pattern| matches_pattern(pattern, name))
    }
}
