//! What an answer of the source means for this host: accepted, refused, wrong, the same as before.

use std::time::Instant;

use trimtab_model::report::{Failure, Outcome, Pass};
use trimtab_model::transaction::Denied;

use super::source::{Answer, Answered, Key};
use super::{Cycle, Hold, Refused, Wanted, attempt, worsen};
use crate::log::chain;
use crate::trust::Class;
use crate::trust::memory::Memory;
use crate::trust::prove::Proven;

impl Cycle {
    pub(super) fn judge(&mut self, answered: Answered, pass: &mut Pass) -> Option<Wanted> {
        pass.remarks.extend(answered.remarks);
        // Before anything follows from it, and also when nothing does: a root that was seen is never gone behind again.
        let kept = answered.memory.is_none_or(|memory| self.remember(memory, pass));
        match answered.answer {
            Answer::Same { key } => {
                "unchanged".clone_into(&mut pass.trust.verdict);
                pass.trust.signer = self.signer();
                self.tell_known_again(&key, pass);
                None
            }
            Answer::Renewed { proven, new, key } => {
                self.accept(&proven, new && kept, pass);
                self.tell_known_again(&key, pass);
                None
            }
            Answer::Rendered { proven, proven_at, new, key, rendered } => {
                attempt::part(pass, "render", proven_at);
                if new && !kept {
                    return None;
                }
                self.accept(&proven, new, pass);
                let rendered = *rendered;
                let effect = rendered.desired.effect();
                Some(Wanted {
                    key,
                    desired: rendered.desired,
                    contents: rendered.contents,
                    fresh: true,
                    effect,
                    all: None,
                    withheld: Vec::new(),
                    asked: None,
                })
            }
            Answer::Wrong { proven, new, key, findings } => {
                if new && !kept {
                    return None;
                }
                self.accept(&proven, new, pass);
                pass.findings = findings;
                worsen(pass, Outcome::Held);
                self.history.attempted(&key.commit);
                self.refuse(key, Outcome::Held, None, pass);
                None
            }
            Answer::Refused { verdict, commit } => {
                verdict.code().clone_into(&mut pass.trust.verdict);
                pass.trust.message =
                    verdict.cause().map_or_else(|| verdict.to_string(), |cause| format!("{verdict}: {}", chain(cause)));
                self.history.attempted(&commit);
                worsen(pass, outcome_of(verdict.class().unwrap_or(Class::Hold)));
                if pass.outcome == Outcome::Unreachable {
                    pass.source_error.clone_from(&pass.trust.message);
                }
                self.tell_undone(pass);
                None
            }
            Answer::Full { message, commit } => {
                self.history.attempted(&commit);
                let message = format!("there is a new revision, and no room to fetch it: {message}");
                pass.failures.push(Failure { resource: "store".to_owned(), message, skipped: false });
                worsen(pass, Outcome::Partial);
                None
            }
            Answer::Trouble { message, class, commit } => {
                pass.source_error = message;
                if !commit.is_empty() {
                    self.history.attempted(&commit);
                }
                worsen(pass, outcome_of(class));
                self.tell_undone(pass);
                None
            }
        }
    }

    /// The newest revision that was ever accepted is not in force, for it was undone: that stays so while the source cannot be asked.
    pub(super) fn tell_undone(&self, pass: &mut Pass) {
        let newest = self.memory.accepted.as_ref().map(|state| state.commit.to_string());
        let denied = self.ledger.denied.iter().find(|denied| Some(&denied.revision) == newest.as_ref());
        if let Some(denied) = denied {
            pass.undone = Some(denied.told());
            worsen(pass, Outcome::RolledBack);
        }
    }

    /// Remembers, durably, before anything follows from it. `false`: it could not be remembered, so what is new is not acted on.
    fn remember(&mut self, memory: Memory, pass: &mut Pass) -> bool {
        if self.hold == Hold::ReadOnly {
            return true;
        }
        if self.memory.is_like(&memory) {
            self.memory = memory;
            return true;
        }
        let memory = memory.after(&self.memory);
        if let Err(error) = self.store.save_trust_state(&memory.to_text()) {
            pass.failures.push(Failure { resource: "trust state".to_owned(), message: chain(&error), skipped: false });
            worsen(pass, Outcome::Held);
            return false;
        }
        let version = |memory: &Memory| memory.root.as_ref().map_or(0, |file| file.root.version);
        let (was, is) = (version(&self.memory), version(&memory));
        if is > was {
            tracing::info!(
                trimtab_pass = pass.number,
                trimtab_outcome = "root",
                "the keys of root {is} count from now on (before: root {was})"
            );
        }
        self.memory = memory;
        true
    }

    /// Once a day the clock becomes the floor below which no later clock is believed, where something depends on it.
    pub(super) fn note_time(&mut self, pass: &mut Pass) {
        let mut memory = self.memory.clone();
        if self.trust.anchor().is_some() && !memory.is_empty() && memory.passes(self.moment()) {
            self.remember(memory, pass);
        }
    }

    /// Says what was accepted, or that it is the same.
    fn accept(&mut self, proven: &Proven, new: bool, pass: &mut Pass) {
        if new { "accepted" } else { "unchanged" }.clone_into(&mut pass.trust.verdict);
        pass.trust.signer = proven.signed_by();
        self.history.attempted(&proven.commit().to_string());
        if new && self.hold != Hold::ReadOnly {
            let revision = proven.commit().to_string();
            let release = self.memory.release.as_ref().map(|release| format!("release {} of {}, ", release.place, release.channel));
            tracing::info!(
                trimtab_pass = pass.number,
                trimtab_revision = revision,
                trimtab_outcome = "accepted",
                "{}revision {revision} accepted, signed by {}",
                release.unwrap_or_default(),
                proven.signed_by()
            );
        }
    }

    /// Who signed a commit, when it is the last one that was accepted: of others it is not remembered.
    pub fn signer_of(&self, revision: &str) -> Option<String> {
        let id: gix_hash::ObjectId = revision.parse().ok()?;
        let is_it = self.memory.accepted.as_ref().is_some_and(|state| state.commit == id);
        is_it.then(|| self.signer())
    }

    pub(super) fn signer(&self) -> String {
        if let Some(release) = &self.memory.release {
            return release.signers.join(", ");
        }
        self.memory.accepted.as_ref().map_or_else(String::new, |state| {
            if state.signer_name.is_empty() {
                state.signer.to_string()
            } else {
                format!("{} ({})", state.signer_name, state.signer)
            }
        })
    }

    /// A revision is not put in force: the same is told for as long as it is the newest, without trying it again before `again`.
    pub(super) fn refuse(&mut self, key: Key, outcome: Outcome, again: Option<Instant>, pass: &mut Pass) {
        worsen(pass, outcome);
        self.refused = Some(Refused { key, pass: Box::new(pass.clone()), outcome, again });
    }

    /// The tip is a revision that was refused, undone or taken over in part: the same is said again, without walking into it again.
    fn tell_known_again(&self, key: &Key, pass: &mut Pass) {
        if let Some(refused) = self.refused.as_ref().filter(|refused| refused.key == *key) {
            pass.findings.clone_from(&refused.pass.findings);
            pass.failures.clone_from(&refused.pass.failures);
            pass.undone.clone_from(&refused.pass.undone);
            worsen(pass, refused.outcome);
            return;
        }
        // Another commit may want the same as the one that was denied.
        let wants = self.current.as_ref().filter(|current| current.key == *key).and_then(|current| current.wants);
        let is_it = |denied: &&Denied| denied.revision == key.commit || Some(denied.effect) == wants;
        if let Some(denied) = self.ledger.denied.iter().find(is_it) {
            pass.undone = Some(denied.told());
            worsen(pass, Outcome::RolledBack);
        }
        let waiting = self.current.iter().flat_map(|current| &current.withheld).filter(|withheld| withheld.again);
        for failure in waiting.filter_map(|withheld| withheld.because.clone()) {
            pass.failures.push(failure);
            worsen(pass, Outcome::Partial);
        }
    }
}

fn outcome_of(class: Class) -> Outcome {
    match class {
        Class::Retry => Outcome::Unreachable,
        Class::Hold => Outcome::Held,
        Class::Halt => Outcome::Halted,
    }
}
