//! The transitions of a trial, as edits of the ledger: who saves the ledger afterwards has made the transition, all of it at once.

use std::collections::BTreeSet;

use crate::digest::Digest;
use crate::ledger::{Ledger, MAX_DENIED, MAX_LINES};
use crate::names::ComponentName;
use crate::report::{Failure, Undone};

use super::{ACQUIT_AFTER, Denied, DeniedBy, Ended, Line, MAX_ACQUITTALS, Phase, Trial};

/// What is in force from now on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InForce {
    /// The generation.
    pub generation: u64,
    /// Its commit.
    pub revision: String,
    /// [`crate::desired::Desired::effect`] of it.
    pub effect: Digest,
    /// Nothing of the commit is withheld: the host is as it says.
    pub whole: bool,
    /// All of it is in place and healthy.
    pub good: bool,
}

/// Why and when something ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// Seconds since 1970.
    pub at: u64,
    /// Milliseconds since its begin.
    pub duration_ms: u64,
    /// Why; empty when it was a matter of course.
    pub reason: String,
}

impl Ledger {
    /// A number that no generation ever had.
    pub fn next_number(&mut self) -> u64 {
        self.last = self.last.max(self.generation) + 1;
        self.last
    }

    /// The generation that was in force before the one that is, of those that `is_kept`; two calls with a rollback between them lead back.
    pub fn before(&self, is_kept: impl Fn(u64) -> bool) -> Option<u64> {
        let was_in_force = |line: &&Line| line.end != Ended::RolledBack && line.generation != self.generation;
        self.history.iter().filter(was_in_force).map(|line| line.generation).find(|number| is_kept(*number))
    }

    /// A state is in force, and no trial any more.
    pub fn commit(&mut self, state: InForce, ended: Ended, end: End) {
        self.trial = None;
        self.generation = state.generation;
        if state.good {
            self.good = state.generation;
        }
        if state.whole && state.good {
            self.revision.clone_from(&state.revision);
            // What the same commit meant before (under other labels, say) is no matter any more; what a person went back from is.
            self.acquitted.retain(|effect| *effect != state.effect);
            self.denied.retain(|entry| entry.revision != state.revision || matches!(entry.by, DeniedBy::Person { .. }));
        }
        self.desired = Some(state.effect);
        // A first state that needs several passes is one line, with its last end.
        self.history.retain(|line| line.generation != state.generation || line.end != ended);
        self.tell(Line {
            generation: state.generation,
            revision: state.revision,
            effect: state.effect,
            at: end.at,
            duration_ms: end.duration_ms,
            end: ended,
            reason: end.reason,
        });
    }

    /// The trial failed: from here on it is undone, and denied by `by`; `None`: it is not its fault, and it is tried again. `fallen` empty:
    /// all of it. `target` is the generation gone back to.
    pub fn undo(&mut self, target: u64, fallen: BTreeSet<ComponentName>, causes: Vec<Failure>, by: Option<DeniedBy>, end: End) {
        let Some(trial) = &mut self.trial else { return };
        let tried = trial.generation;
        trial.phase = Phase::RollingBack;
        trial.generation = target;
        trial.fallen.clone_from(&fallen);
        trial.causes.clone_from(&causes);
        trial.blameless = by.is_none();
        let (revision, effect, pass) = (trial.revision.clone(), trial.effect, trial.pass);
        if let Some(by) = by {
            self.deny(Denied {
                revision: revision.clone(),
                effect,
                components: fallen,
                back_to: target,
                at: end.at,
                pass,
                causes,
                by,
                tries: 1,
            });
        }
        self.tell(Line {
            generation: tried,
            revision,
            effect,
            at: end.at,
            duration_ms: end.duration_ms,
            end: Ended::RolledBack,
            reason: end.reason,
        });
    }

    /// What was left of the trial does not work either: all of it falls, and the good generation is gone back to. Returns whether there
    /// was anything left to fall.
    pub fn fall(&mut self, amiss: &[Failure]) -> bool {
        let Some(trial) = &mut self.trial else { return false };
        if trial.generation == trial.back_to {
            return false;
        }
        trial.phase = Phase::RollingBack;
        trial.generation = trial.back_to;
        trial.fallen.clear();
        trial.causes.extend(amiss.iter().cloned());
        if let Some(entry) = self.denied.iter_mut().find(|entry| entry.effect == trial.effect) {
            entry.components.clear();
            entry.back_to = trial.back_to;
            entry.causes.clone_from(&trial.causes);
        }
        true
    }

    /// Generations that must not be collected: a crash, or an undoing, goes on from one of these.
    pub fn held(&self) -> BTreeSet<u64> {
        let trial = self.trial.iter().flat_map(|trial| [trial.generation, trial.back_to]);
        [self.generation, self.good].into_iter().chain(trial).collect()
    }

    /// It was undone as far as that went; `amiss` is what is left of it.
    pub fn undone(&mut self, state: InForce, amiss: Vec<Failure>, end: End) {
        let Some(trial) = &mut self.trial else { return };
        let back_to = trial.back_to;
        if !amiss.is_empty() {
            trial.phase = Phase::Degraded;
            trial.amiss = amiss;
            return;
        }
        if state.generation == back_to {
            // What is gone back to has its line already.
            self.trial = None;
            self.generation = back_to;
            self.good = back_to;
            self.desired = (back_to > 0).then_some(state.effect);
            return;
        }
        self.commit(state, Ended::Committed, end);
    }

    /// Remembers a state as denied; one that was denied before is told with its newest cause, and how often it was tried.
    pub fn deny(&mut self, entry: Denied) {
        let before = self.denied.iter().position(|old| old.effect == entry.effect).map(|at| self.denied.remove(at));
        let tries = before.map_or(0, |old| old.tries) + entry.tries;
        self.denied.insert(0, Denied { tries, ..entry });
        self.denied.truncate(MAX_DENIED);
    }

    /// A person asks for what was denied to be tried again. Returns whether there was such an entry.
    pub fn retry(&mut self, revision: Option<&str>) -> bool {
        let before = self.denied.len();
        let is_meant = |entry: &Denied| revision.is_none_or(|begin| entry.revision.starts_with(begin));
        self.denied.retain(|entry| !is_meant(entry));
        self.denied.len() != before
    }

    /// A poll was made. A change that was undone because the source could not be reached with it is acquitted by a poll that succeeds after
    /// several in vain: it could not be reached without it either. Returns the revision, and whether anything must be saved.
    pub fn polled(&mut self, reached: bool) -> (Option<String>, bool) {
        let mut dirty = false;
        for entry in &mut self.denied {
            if let (DeniedBy::Reach { unreached }, false) = (&mut entry.by, reached)
                && *unreached < ACQUIT_AFTER
            {
                *unreached += 1;
                dirty = true;
            }
        }
        if !reached {
            return (None, dirty);
        }
        let times = |effect: &Digest| self.acquitted.iter().filter(|acquitted| *acquitted == effect).count();
        let innocent = |entry: &Denied| {
            let in_vain = matches!(entry.by, DeniedBy::Reach { unreached } if unreached >= ACQUIT_AFTER);
            in_vain && times(&entry.effect) < MAX_ACQUITTALS as usize
        };
        let acquitted = self.denied.iter().position(innocent).map(|at| self.denied.remove(at));
        if let Some(entry) = &acquitted {
            self.acquitted.insert(0, entry.effect);
            self.acquitted.truncate(MAX_DENIED);
        }
        // The first poll that succeeds at once is the verdict: it was the change.
        for entry in &mut self.denied {
            if matches!(entry.by, DeniedBy::Reach { .. }) {
                entry.by = DeniedBy::Health;
                dirty = true;
            }
        }
        let saved = acquitted.is_some() || dirty;
        (acquitted.map(|entry| entry.revision), saved)
    }

    fn tell(&mut self, line: Line) {
        self.history.insert(0, line);
        self.history.truncate(MAX_LINES);
    }
}

impl Denied {
    /// As a report tells it.
    pub fn told(&self) -> Undone {
        Undone {
            revision: self.revision.clone(),
            components: self.components.iter().cloned().collect(),
            back_to: self.back_to,
            at: self.at,
            causes: self.causes.clone(),
            amiss: Vec::new(),
        }
    }
}

impl Trial {
    /// As a report tells it.
    pub fn told(&self) -> Undone {
        Undone {
            revision: self.revision.clone(),
            components: self.fallen.iter().cloned().collect(),
            back_to: self.generation,
            at: self.at,
            causes: self.causes.clone(),
            amiss: self.amiss.clone(),
        }
    }
}
