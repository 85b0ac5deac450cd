//! What trimtab owns on this host, and what was there before: the third leg of the plan.
//!
//! Only what stands in here is ever removed. It is written before the machine is touched and again afterwards, so that a
//! crash in between is told apart from drift ([`Owned::pending`]) and from a unit that still runs with old input ([`OwnedUnit::inputs`]).
//! It is also the journal of intent: [`Ledger::trial`] says which change is being tried, so each transition of that is one atomic write.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::desired::{FileState, Origin, Role};
use crate::digest::Digest;
use crate::drift::{Drift, DriftPolicy, DriftState, Takes};
use crate::names::{HostPath, UnitName};
use crate::transaction::{Denied, Line, Trial};
use crate::xattr::Xattrs;

/// The format of the file; a ledger of a newer format halts the agent instead of being guessed at.
pub const FORMAT: u32 = 2;

/// Everything that trimtab owns on this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ledger {
    /// [`FORMAT`].
    pub format: u32,
    /// The generation in force: what the host is held to; 0 before the first.
    pub generation: u64,
    /// The last generation that was converged to whole and healthy; 0 before the first. It is in force but for a first one that is not whole.
    #[serde(default)]
    pub good: u64,
    /// The highest number that a generation was ever given; a number is not given twice.
    #[serde(default)]
    pub last: u64,
    /// The commit last converged to whole; empty before the first.
    pub revision: String,
    /// [`crate::desired::Desired::effect`] of the generation in force.
    pub desired: Option<Digest>,
    /// The change that is being tried, confirmed or undone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trial: Option<Trial>,
    /// What went wrong and is not tried again, newest first, at most [`MAX_DENIED`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub denied: Vec<Denied>,
    /// States that were acquitted ([`DeniedBy::Reach`](crate::transaction::DeniedBy::Reach)), one entry for each time, newest first, at most
    /// [`MAX_DENIED`]: a source that comes and goes must not have one of them tried for ever.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub acquitted: Vec<Digest>,
    /// How past changes ended, newest first, at most [`MAX_LINES`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<Line>,
    /// States that a person allowed to take away more than the local limit, by [`crate::desired::Desired::effect`]; at most [`MAX_APPROVED`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub approved: Vec<Digest>,
    /// Files, symlinks and directories by path.
    pub entries: BTreeMap<HostPath, Owned>,
    /// Units by name.
    pub units: BTreeMap<UnitName, OwnedUnit>,
    /// Directories that were made on the way to a file and are removed again when they are empty and nothing of ours is left in them.
    pub made: BTreeSet<HostPath>,
    /// What somebody wrote over managed paths and a repair took away, newest first, at most [`MAX_KEPT`]; the contents lie in the blob store.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kept: Vec<KeptDrift>,
}

/// How many denied states are remembered.
pub const MAX_DENIED: usize = 32;
/// How many ends of changes are remembered.
pub const MAX_LINES: usize = 50;
/// How many approvals are remembered.
pub const MAX_APPROVED: usize = 8;

/// How many overwritten contents are remembered.
pub const MAX_KEPT: usize = 100;

/// One overwritten content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeptDrift {
    /// Where it stood.
    pub path: HostPath,
    /// Its name in the blob store.
    pub digest: Digest,
    /// When the repair took it away, seconds since 1970.
    pub at: u64,
}

impl Ledger {
    /// What a repair took away of a drift, if it is still kept. A kill between a repair and its note leaves a drift that names no content: what was
    /// kept of its path between its begin and its end is it.
    pub fn kept_of(&self, drift: &Drift) -> Option<&KeptDrift> {
        let path = drift.resource.strip_prefix("file ")?;
        let meanwhile = drift.found_ms / 1000..=drift.ended_ms / 1000;
        let is_it = |kept: &&KeptDrift| match drift.kept {
            Some(digest) => kept.digest == digest,
            None => drift.state == DriftState::Repaired && drift.takes() == Takes::Content && meanwhile.contains(&kept.at),
        };
        self.kept.iter().filter(|kept| kept.path.as_str() == path).find(is_it)
    }
}

impl Default for Ledger {
    fn default() -> Self {
        Self {
            format: FORMAT,
            generation: 0,
            good: 0,
            last: 0,
            revision: String::new(),
            desired: None,
            trial: None,
            denied: Vec::new(),
            acquitted: Vec::new(),
            history: Vec::new(),
            approved: Vec::new(),
            entries: BTreeMap::new(),
            units: BTreeMap::new(),
            made: BTreeSet::new(),
            kept: Vec::new(),
        }
    }
}

/// One path that trimtab owns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Owned {
    /// What trimtab wrote there (or is about to, while `pending`).
    pub state: FileState,
    /// What the file is for.
    pub role: Role,
    /// What stood there before trimtab came; restored when the path leaves the repository.
    pub before: Before,
    /// The extended attributes that were on it after it was written; `None`: an older trimtab wrote it and did not look. What nobody looked at
    /// is not judged before the file is written the next time: an ACL that an operator set must not go with an upgrade.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub xattrs: Option<Xattrs>,
    /// The write was announced and not yet confirmed: a difference found now is unfinished work, not drift.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pending: bool,
    /// What was done about drift of it: what somebody else wrote to a path of theirs stays when the path leaves the repository.
    #[serde(default, skip_serializing_if = "DriftPolicy::is_default")]
    pub drift: DriftPolicy,
    /// Where it comes from.
    pub origin: Origin,
}

/// What stood at a path before trimtab came.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "was", rename_all = "kebab-case")]
pub enum Before {
    /// Nothing.
    Absent,
    /// A file (its content is kept in the blob store), symlink or directory of the operator's.
    Original {
        /// What stood there; owner and group by number, for the account may be gone when it is restored.
        #[serde(flatten)]
        node: crate::desired::Node,
        /// Permission bits.
        mode: u32,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
    },
}

/// One unit that trimtab manages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OwnedUnit {
    /// Whether it was enabled before trimtab came: `Some` only for units whose file is not ours; given back when it leaves.
    pub was_enabled: Option<bool>,
    /// Whether it was active before trimtab came, likewise.
    pub was_active: Option<bool>,
    /// Whether it was masked before, likewise.
    #[serde(default)]
    pub was_masked: bool,
    /// What it was last told to be, to tell drift from an update.
    pub enabled: Option<crate::desired::Enablement>,
    /// Likewise.
    pub active: Option<bool>,
    /// [`crate::desired::Desired::inputs`] at its last start, restart or reload through us; `None` when a change of its inputs was begun and
    /// not yet followed by that: it runs with old input and must be restarted, also after a crash.
    pub inputs: Option<Digest>,
    /// Made by Quadlet's generator.
    pub generated: bool,
    /// Where it comes from.
    pub origin: Origin,
}
