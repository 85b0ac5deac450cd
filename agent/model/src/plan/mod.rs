//! The plan: what differs, why, and the steps that mend it, as a plain value.
//!
//! A plan can be printed, compared, counted and cut in half by a test; the executor (`apply` in the daemon) makes no choices of its own.
//! Three-way: what the ledger says against what was found is *drift*; what is wanted against the ledger is an *update*. They are
//! never told as the same thing.

mod artifacts;
mod build;
mod compare;
mod images;
mod own;
mod paths;
mod policy;
mod show;
#[cfg(test)]
pub(crate) mod tests;
mod units;

pub use build::plan;
pub use compare::compare;
pub use own::{AGENT, GUARD, GUARD_PATH, PROGRAM};
pub use paths::{before, has_drifted};
pub use policy::{is_stray, purges};
pub use show::{Texts, show, show_compared, show_diff};

use serde::{Deserialize, Serialize};

use std::collections::BTreeSet;

use crate::desired::{Desired, Origin, Unit};
use crate::digest::Digest;
use crate::drift::LeftAlone;
use crate::ledger::{Before, Ledger};
use crate::names::{ComponentName, HostPath, UnitName};
use crate::observed::Expected;

/// What differs and what to do about it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Each resource that is not as wanted, for people and reports.
    pub changes: Vec<Change>,
    /// Resources that cannot be converged as they stand; their components' later steps are left out, everything else goes on.
    pub problems: Vec<Problem>,
    /// What to do, in the order in which it must be done.
    pub steps: Vec<Step>,
    /// From here up to [`Plan::prune_from`] the steps are about trimtab itself ([`Plan::own_last`]).
    #[serde(default)]
    pub own_from: usize,
    /// trimtab itself becomes another: the agent that carries this out must hand over to a new one.
    #[serde(default)]
    pub succeeds: bool,
    /// From here on [`Plan::steps`] only take away what left the repository: done last, when what came has proven healthy.
    #[serde(default)]
    pub prune_from: usize,
    /// Edits of the ledger that go with no step: adopted paths that were already right, entries whose path is gone.
    pub bookkeeping: Vec<Note>,
    /// Wanted paths that are left as they are, by a policy or a pin: what stands there is what the ledger says, or somebody else's.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub left: BTreeSet<HostPath>,
}

/// What is told in place of a content's digest when the content is not for everybody's eyes.
pub const PRIVATE: &str = "private";

/// Why something differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// The repository wants something else than before: an intended change.
    Update,
    /// Somebody changed the machine.
    Drift,
    /// Both at once.
    UpdateAndDrift,
    /// The unit itself is as wanted; something that it reads changes.
    Follows,
}

/// What happens to a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)] // the words say it
pub enum Verb {
    Create,
    Update,
    Remove,
    /// What stood there before trimtab came is put back.
    Restore,
    Pull,
    Start,
    Stop,
    Restart,
    Reload,
    Enable,
    Disable,
    Mask,
    Unmask,
}

/// One resource that is not as wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// `file /etc/motd`, `unit app.service`, `image …`.
    pub resource: String,
    /// What happens to it.
    pub verb: Verb,
    /// Why.
    pub cause: Cause,
    /// What differs, by property; contents as digests, never as text.
    pub differs: Vec<Difference>,
    /// Something of the operator's stands there and is replaced; it is kept in the backup and put back when the path leaves.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub replaces: bool,
    /// Why nothing is done about it, when nothing is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_alone: Option<LeftAlone>,
    /// Where it comes from in the repository.
    pub origin: Origin,
}

/// One property that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// `content`, `mode`, `owner`, `xattr`, `group`, `kind`, `target`, `missing`, `enabled`, `active`, `image`, `inputs`, …
    pub property: String,
    /// As found.
    pub found: String,
    /// As wanted.
    pub wanted: String,
}

/// A resource that cannot be converged as things stand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// As in [`Change::resource`].
    pub resource: String,
    /// What is wrong and what to do.
    pub message: String,
    /// Where it comes from in the repository.
    pub origin: Origin,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// What to do.
    pub action: Action,
    /// The component that it belongs to: when a step fails, the later ones of its component and of those that depend on it are left out.
    /// `None` for steps that belong to all (daemon-reload).
    pub component: Option<ComponentName>,
    /// Why.
    pub cause: Cause,
}

/// What a step does. Every action carries what it expects to find; anything else is a race, reported and left alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum Action {
    /// Pull an image into local storage.
    Pull {
        /// As `Image=` names it.
        image: String,
    },
    /// Get the content of an artifact into the store: from the host if it is there already, else from where it lies.
    Fetch {
        /// The path that it is for.
        path: HostPath,
        /// Its digest.
        digest: Digest,
    },
    /// Make the path as `Desired.entries` has it: file or symlink by rename, directory by mkdir or chmod and chown.
    Put {
        /// The path.
        path: HostPath,
        /// What must stand there.
        expected: Expected,
        /// What to remember as having been there before, when the path becomes ours with this step; its content goes to the blob store first.
        before: Option<Before>,
    },
    /// Remove a file, symlink or (empty) directory that is ours.
    Remove {
        /// The path.
        path: HostPath,
        /// What must stand there.
        expected: Expected,
    },
    /// Remove what nobody declared from a directory that is declared exclusive; a content is kept first.
    Purge {
        /// The path.
        path: HostPath,
        /// What must stand there.
        expected: Expected,
    },
    /// Put back what stood there before.
    Restore {
        /// The path.
        path: HostPath,
        /// What must stand there.
        expected: Expected,
        /// What to put back.
        before: Before,
    },
    /// Run systemd-sysusers over what was just written.
    Sysusers {
        /// The files under /etc/sysusers.d.
        paths: Vec<HostPath>,
    },
    /// Run systemd-tmpfiles --create over what was just written.
    Tmpfiles {
        /// The files under /etc/tmpfiles.d.
        paths: Vec<HostPath>,
    },
    /// Run systemd-sysctl over what was just written.
    Sysctl {
        /// The files under /etc/sysctl.d.
        paths: Vec<HostPath>,
    },
    /// `systemctl daemon-reload`.
    DaemonReload,
    /// `systemctl enable`, after an unmask if it is masked.
    Enable {
        /// The unit.
        unit: UnitName,
    },
    /// `systemctl disable`.
    Disable {
        /// The unit.
        unit: UnitName,
    },
    /// `systemctl mask`.
    Mask {
        /// The unit.
        unit: UnitName,
    },
    /// `systemctl unmask`.
    Unmask {
        /// The unit.
        unit: UnitName,
    },
    /// Stop it.
    Stop {
        /// The unit.
        unit: UnitName,
        /// It leaves the repository: forget it once it is stopped (and disabled).
        leaving: bool,
    },
    /// Start it.
    Start {
        /// The unit.
        unit: UnitName,
    },
    /// Restart it.
    Restart {
        /// The unit.
        unit: UnitName,
    },
    /// Reload it.
    Reload {
        /// The unit.
        unit: UnitName,
    },
    /// Strike a unit off the ledger: everything of it is undone.
    Forget {
        /// The unit.
        unit: UnitName,
    },
}

/// An edit of the ledger that goes with no step on the machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "note", rename_all = "kebab-case")]
pub enum Note {
    /// The path is as wanted already: own it, remembering what stood there (which is the same).
    Adopt {
        /// The path.
        path: HostPath,
        /// What stood there.
        before: Before,
    },
    /// The path is as wanted and ours; its entry in the ledger is brought up to date (a pending write that turned out done, a new origin).
    Confirm {
        /// The path.
        path: HostPath,
    },
    /// The path left the repository and is gone from the host: strike it off.
    Drop {
        /// The path.
        path: HostPath,
    },
    /// The unit is managed from now on (or still): make or keep its entry, and record what it is told to be once its steps are done.
    Unit {
        /// The unit.
        unit: UnitName,
        /// What it was before trimtab came; only in the note that makes the entry, and only when its file is not ours alone.
        was: Option<Was>,
        /// No step of this plan is about it and nothing runs with old input: its inputs are recorded as current.
        settled: bool,
    },
}

/// What a unit was before trimtab came, given back when it leaves the repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Was {
    /// Enabled at boot.
    pub enabled: bool,
    /// Active.
    pub active: bool,
    /// Masked.
    pub masked: bool,
}

impl Plan {
    /// Whether there is nothing to do and nothing wrong.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.problems.is_empty() && self.steps.is_empty()
    }

    /// The plan without what only takes away: steps, and the notes that strike paths off. What it leaves undone is planned anew afterwards.
    #[must_use]
    pub fn without_prune(&self) -> Plan {
        let mut plan = self.clone();
        plan.steps.truncate(self.prune_from);
        plan.bookkeeping.retain(|note| !matches!(note, Note::Drop { .. }));
        plan
    }

    /// Takes out the pulls and fetches: they were made before.
    pub fn without_pulls(&mut self) {
        let is_pull = |step: &Step| matches!(step.action, Action::Pull { .. } | Action::Fetch { .. });
        let before = |at: usize| self.steps[..at].iter().filter(|step| is_pull(step)).count();
        (self.own_from, self.prune_from) = (self.own_from - before(self.own_from), self.prune_from - before(self.prune_from));
        self.steps.retain(|step| !is_pull(step));
    }

    /// The plan with nothing to be done: all that differs is told as left alone, for the whole host is.
    pub fn leave_alone(&mut self, why: &LeftAlone) {
        self.changes.iter_mut().for_each(|change| change.left_alone = Some(why.clone()));
        *self =
            Plan { changes: std::mem::take(&mut self.changes), problems: std::mem::take(&mut self.problems), ..Plan::default() };
    }

    /// What a unit reads when it is started after this plan ([`Desired::inputs`]): where a path is left as it is, what trimtab wrote there last.
    pub fn inputs(&self, desired: &Desired, ledger: &Ledger, unit: &Unit) -> Digest {
        desired.inputs_of(unit, |path| {
            if self.left.contains(path) {
                return ledger.entries.get(path).map(|owned| &owned.state);
            }
            desired.entries.get(path).map(|entry| &entry.state)
        })
    }

    /// How many changes are drift (alone or together with an update).
    pub fn drift_count(&self) -> usize {
        self.changes.iter().filter(|c| matches!(c.cause, Cause::Drift | Cause::UpdateAndDrift)).count()
    }
}

impl Action {
    /// The resource that the action is about, as [`Change::resource`] writes it; empty for daemon-reload.
    pub fn resource(&self) -> String {
        match self {
            Action::Pull { image } => format!("image {image}"),
            Action::Fetch { path, .. }
            | Action::Put { path, .. }
            | Action::Remove { path, .. }
            | Action::Purge { path, .. }
            | Action::Restore { path, .. } => {
                format!("file {path}")
            }
            Action::Sysusers { .. } => "sysusers".to_owned(),
            Action::Tmpfiles { .. } => "tmpfiles".to_owned(),
            Action::Sysctl { .. } => "sysctl".to_owned(),
            Action::DaemonReload => String::new(),
            Action::Enable { unit }
            | Action::Disable { unit }
            | Action::Mask { unit }
            | Action::Unmask { unit }
            | Action::Stop { unit, .. }
            | Action::Start { unit }
            | Action::Restart { unit }
            | Action::Reload { unit }
            | Action::Forget { unit } => format!("unit {unit}"),
        }
    }
}
