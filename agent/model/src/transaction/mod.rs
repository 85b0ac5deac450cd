//! A change of the host as a transaction: tried, judged, and kept or undone.
//!
//! Everything about it that must outlive a crash is a plain value in the [`crate::ledger::Ledger`], replaced as a whole by one rename: a
//! transition is one atomic write, and what a start finds is exactly one of the states of [`TABLE`].
//!
//! Guarantees: a trial is begun only with a good generation to go back to (or the host as it was found, when what changes could cut
//! it off); a state that was undone is known again by what it means for the host ([`crate::desired::Desired::effect`]), and not tried
//! again until that changes or a person asks.
//! Limits: what a hook or a unit did outside of what is managed is not undone.

mod domain;
mod guard;
mod steps;
#[cfg(test)]
mod tests;
mod watch;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::desired::Desired;
use crate::digest::Digest;
use crate::names::{ComponentName, UnitName};
use crate::plan::Plan;
use crate::report::Failure;

pub use self::domain::{Conflict, affected, everything, mix, newly_checked, spread, target, watched, without};
pub use self::guard::{ALWAYS, Limit, network_shaped, removals, too_many};
pub use self::steps::{End, InForce};
pub use self::watch::{ITSELF, MAX_BOOTS, MAX_RESTARTS, Now, Previous, Restored, WATCH_FORMAT, Watch};

/// The format of a generation's file.
pub const GENERATION_FORMAT: u32 = 1;

/// A trial is begun by this many processes at most: a change that ends the agent or the machine each time is undone.
pub const MAX_STARTS: u32 = 3;

/// One whole state of the host that was in force, is, or is being tried; its contents lie in the store by digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Generation {
    /// [`GENERATION_FORMAT`].
    pub format: u32,
    /// Its number, from 1.
    pub number: u64,
    /// The commit that it was rendered from (in the main; see [`Generation::withheld`]).
    pub revision: String,
    /// What it was rendered from beside the commit: host, local trust, version.
    pub inputs: Digest,
    /// When it was made, seconds since 1970.
    pub at: u64,
    /// Components that are not as the commit has them but as an earlier generation had them, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub withheld: Vec<Withheld>,
    /// [`Desired::effect`] of all that the commit wants here, when something of that is withheld.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wants: Option<Digest>,
    /// What is wanted.
    pub desired: Desired,
}

/// A component that is held back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Withheld {
    /// Which.
    pub component: ComponentName,
    /// Why; `None`: what it shares its fate with failed.
    pub because: Option<Failure>,
    /// Whether it is tried again by itself: nothing of it was touched yet, and what failed (a registry, say) is not the revision's fault.
    pub again: bool,
}

/// How far a trial has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// It is being switched to, or was, and its health is being judged.
    Trying,
    /// It is in place and healthy, and is judged again after the reboot that it asks for.
    AwaitingReboot,
    /// It is in place and healthy, and the source must be reached with it.
    Confirming,
    /// It is being undone.
    RollingBack,
    /// It was undone, but not all of that could be done.
    Degraded,
}

/// A change that is being tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trial {
    /// How far it has come.
    pub phase: Phase,
    /// The generation that is being switched to: the candidate, and from [`Phase::RollingBack`] on the one that is gone back to.
    pub generation: u64,
    /// The good generation; 0: the host as trimtab found it.
    pub back_to: u64,
    /// The commit that is tried.
    pub revision: String,
    /// [`Desired::effect`] of the whole of what that commit wants here; what is denied when it is undone.
    pub effect: Digest,
    /// Units that this change starts, restarts or reloads: their health decides.
    #[serde(default)]
    pub watch: BTreeSet<UnitName>,
    /// Components that this change works on, and those that share their fate: their checks decide. Written down, for what a later process
    /// finds left to be done says nothing about what was done.
    #[serde(default)]
    pub affected: BTreeSet<ComponentName>,
    /// What could cut the host off, if it must be confirmed by reaching the source; empty: it need not.
    #[serde(default)]
    pub guarded: Vec<String>,
    /// It asks for a reboot, and is confirmed after that.
    #[serde(default)]
    pub reboot: bool,
    /// Processes that have worked on it.
    pub starts: u32,
    /// The boot during which it was begun (`/proc/sys/kernel/random/boot_id`).
    pub boot: String,
    /// Number of the pass that began it.
    pub pass: u64,
    /// When it was begun, seconds since 1970.
    pub at: u64,
    /// Components that failed and those that fall with them; empty with [`Trial::causes`]: all.
    #[serde(default)]
    pub fallen: BTreeSet<ComponentName>,
    /// What went wrong is not the revision's fault (a full disk, a file that cannot be replaced): it is undone, not denied, and tried again.
    #[serde(default)]
    pub blameless: bool,
    /// Why it is undone.
    #[serde(default)]
    pub causes: Vec<Failure>,
    /// What could not be undone.
    #[serde(default)]
    pub amiss: Vec<Failure>,
}

/// A state that was undone, and is not tried again by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Denied {
    /// The commit.
    pub revision: String,
    /// [`Desired::effect`] of all that it wants here.
    pub effect: Digest,
    /// Which of its components are held back; empty: all.
    #[serde(default)]
    pub components: BTreeSet<ComponentName>,
    /// The generation that was gone back to; 0: the host as trimtab found it.
    pub back_to: u64,
    /// When, seconds since 1970.
    pub at: u64,
    /// Number of the pass that undid it.
    pub pass: u64,
    /// Why: the whole chain.
    pub causes: Vec<Failure>,
    /// Who denied it.
    pub by: DeniedBy,
    /// How often it was tried, by itself or because somebody asked.
    pub tries: u32,
}

/// Who denied a state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "kebab-case")]
pub enum DeniedBy {
    /// It did not become healthy.
    Health,
    /// The source could not be reached with it. While it cannot be reached without it either, the change is not to blame: after
    /// `unreached` polls in vain the next one that succeeds acquits it.
    Reach {
        /// Polls in vain since it was undone.
        unreached: u32,
    },
    /// Somebody went back.
    Person {
        /// Why.
        reason: String,
    },
}

/// So many polls in vain after a change was undone acquit it.
pub const ACQUIT_AFTER: u32 = 3;

/// A state is acquitted this often at most; a good end of it makes that forgotten.
pub const MAX_ACQUITTALS: u32 = 3;

/// How a past change ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Line {
    /// The generation.
    pub generation: u64,
    /// Its commit.
    pub revision: String,
    /// [`Desired::effect`] of the generation.
    pub effect: Digest,
    /// When it ended, seconds since 1970.
    pub at: u64,
    /// How long it took from its begin, milliseconds.
    pub duration_ms: u64,
    /// How it ended.
    pub end: Ended,
    /// Why it ended so, or why it was asked for; empty when it was a matter of course.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// How a change ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ended {
    /// It is (or was) in force.
    Committed,
    /// It was undone.
    RolledBack,
    /// Somebody went back to it.
    Restored,
}

/// What a start does with the trial that it finds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resume {
    /// Goes forward: what is missing is switched, and its health judged; then it is confirmed, with a new window, if it must be.
    Forward,
    /// Waits on for the reboot.
    Wait,
    /// Undoes it, for this reason.
    Undo(String),
    /// Goes on undoing it.
    GoOnUndoing,
}

/// Whether the commit of a generation ([`Generation::withheld`], [`Generation::wants`]) needs no second look while that is in force: nothing
/// of it is withheld, or what is withheld stays denied (or is tried again by time). What was denied and is no longer, because a person
/// asked or it was acquitted, is to be tried, also by a process that does not remember the asking.
pub fn is_settled(withheld: &[Withheld], wants: Option<&Digest>, list: &[Denied]) -> bool {
    withheld.iter().all(|held| held.again) || wants.is_some_and(|wants| denied(list, wants).is_some())
}

impl Trial {
    /// What a plan of it does is judged with it.
    pub fn cover(&mut self, plan: &Plan, wanted: &Desired, in_force: Option<&Desired>) {
        self.watch.extend(watched(plan));
        self.affected.extend(affected(plan, wanted, in_force));
    }

    /// What to do with a trial that another process left, in the boot `boot`. Counts this process as one that works on it; one that only
    /// waits for the reboot does not, and after that the count begins anew.
    pub fn resume(&mut self, boot: &str) -> Resume {
        if self.phase == Phase::AwaitingReboot {
            if self.boot == boot {
                return Resume::Wait;
            }
            // The reboot itself is not held against it; what ends the agent from here on is.
            (self.phase, self.starts) = (Phase::Trying, 0);
        }
        self.starts += 1;
        match self.phase {
            Phase::RollingBack | Phase::Degraded => Resume::GoOnUndoing,
            _ if self.starts > MAX_STARTS => Resume::Undo(format!(
                "the agent or the machine was ended {MAX_STARTS} times while this change was being {}",
                if self.phase == Phase::Trying { "tried" } else { "confirmed" }
            )),
            // Also one that was confirming: a reboot, or whatever ended the agent, may have ended more than the agent.
            Phase::Trying | Phase::AwaitingReboot | Phase::Confirming => Resume::Forward,
        }
    }
}

impl Denied {
    /// Whether nothing of the state is taken over.
    pub fn is_whole(&self) -> bool {
        self.components.is_empty()
    }
}

/// The entry about a state, if it is denied.
pub fn denied<'a>(list: &'a [Denied], effect: &Digest) -> Option<&'a Denied> {
    list.iter().find(|entry| entry.effect == *effect)
}

/// One state of a host, as a power cut may leave it on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// The trial's phase; `None`: there is none.
    pub phase: Option<Phase>,
    /// What the disk holds.
    pub on_disk: &'static str,
    /// What the next start does.
    pub next_start: &'static str,
    /// How the passes after that end.
    pub ends: &'static str,
}

/// Every state that a stop at any instant can leave, and what becomes of it. `agent/README.md` shows this table; tests hold the two
/// together, and walk it.
pub const TABLE: [Row; 6] = [
    Row {
        phase: None,
        on_disk: "the generation in force; perhaps a candidate's file that nothing names, or removals left over",
        next_start: "an ordinary pass: drift is repaired, left-over removals are done, the newest revision is tried",
        ends: "`unchanged`, or as the newest revision deserves: `converged`, `rolled-back` or `degraded`",
    },
    Row {
        phase: Some(Phase::Trying),
        on_disk: "the candidate, whole; each file old or new; units old or new",
        next_start: "goes forward: switches what is missing, judges health; undoes it when this is the fourth start",
        ends: "`converged`, `rolled-back` or `degraded`",
    },
    Row {
        phase: Some(Phase::AwaitingReboot),
        on_disk: "the candidate in place and healthy",
        next_start: "in the same boot waits on; after a reboot switches what is missing, judges health again, and confirms it",
        ends: "`converged`, `rolled-back` or `degraded`",
    },
    Row {
        phase: Some(Phase::Confirming),
        on_disk: "the candidate in place and healthy",
        next_start: "judges health again, and has `confirm-timeout` again to reach the source; undoes it when that fails, or when this is \
                     the fourth start",
        ends: "`converged`, `rolled-back` or `degraded`",
    },
    Row {
        phase: Some(Phase::RollingBack),
        on_disk: "the bad state denied; each file bad or good; units bad or good",
        next_start: "goes on undoing",
        ends: "`rolled-back`, or `degraded`",
    },
    Row {
        phase: Some(Phase::Degraded),
        on_disk: "the bad state denied; the good one in place but for what the report names",
        next_start: "tries the rest again, each pass",
        ends: "`degraded` until nothing is amiss, then `rolled-back`",
    },
];
