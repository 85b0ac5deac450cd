//! Undoing a change: back to the last good generation through the same engine, and going on where an earlier process was ended.
//!
//! The denial is written down before anything is undone, so that a crash in between cannot walk into the same state again. Nothing that
//! tells somebody of it stands in the way: hooks have their time limits, and what they say is a remark.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use trimtab_model::desired::Desired;
use trimtab_model::hook::HookPhase;
use trimtab_model::names::ComponentName;
use trimtab_model::report::{Failure, Outcome, Pass, Wake};
use trimtab_model::transaction::{self, DeniedBy, End, Generation, Phase, Resume, Trial};

use super::attempt::{Attempt, in_force, part, since};
use super::hooks::About;
use super::source::Key;
use super::{Current, Cycle, Hold, Refused, Wanted, worsen};
use crate::log::chain;

/// What falls.
pub(super) enum Fallen {
    /// Everything.
    All,
    /// These components, and those that share their fate.
    Components(BTreeSet<ComponentName>),
}

impl Cycle {
    /// Goes on with a trial that an earlier pass or process did not end; `None`: there is none, or it leaves room for an ordinary pass.
    pub(super) async fn resume(&mut self, wake: Wake) -> Option<Pass> {
        if self.hold == Hold::ReadOnly {
            return None;
        }
        let first = !std::mem::replace(&mut self.resumed, true);
        let boot = crate::host::facts::boot_id(&self.machine.root);
        let trial = self.ledger.trial.as_mut()?;
        // In the process that began it, only what a race left open is gone forward with; in a later one, the start counts.
        let what = match (first, trial.phase) {
            (true, _) => trial.resume(&boot),
            (false, Phase::Trying | Phase::Confirming) => Resume::Forward,
            (false, Phase::RollingBack) => Resume::GoOnUndoing,
            (false, Phase::AwaitingReboot | Phase::Degraded) => return None,
        };
        let trial = trial.clone();
        if what == Resume::Wait || trial.phase == Phase::Degraded {
            return None;
        }
        let what = self.after_the_guard(&trial, what);
        let mut pass = self.begin(wake);
        pass.revision.clone_from(&trial.revision);
        if first {
            pass.remarks.push(found(&trial, &what));
        }
        self.go_on(what, &trial, &mut pass).await;
        self.matter = super::Matter::of(&pass);
        Some(pass)
    }

    async fn go_on(&mut self, what: Resume, trial: &Trial, pass: &mut Pass) {
        let tried = match self.recall(trial.generation) {
            Ok(tried) => tried,
            Err(message) => {
                // Nothing is known of what was being done: the ordinary pass holds the state in force.
                pass.failures.push(Failure { resource: format!("generation {}", trial.generation), message, skipped: false });
                worsen(pass, Outcome::Partial);
                self.ledger.trial = None;
                self.save_ledger(pass);
                return;
            }
        };
        // Counted on the disk before anything is done: a change that ends the machine each time must not be tried for ever.
        self.save_ledger(pass);
        let desired = tried.desired.clone();
        let number = tried.number;
        let wanted = Self::again(tried, trial);
        self.sweep(&wanted.desired);
        match what {
            // A new trimtab that came this far has shown all that it can show but this.
            Resume::Forward if proves_itself(trial) => {
                worsen(pass, Outcome::Converged);
                self.confirm(wanted, number, true, pass).await;
            }
            Resume::Forward => {
                let plan = self.plan(&wanted, pass.wake, pass).await;
                pass.changes.clone_from(&plan.changes);
                let first = plan.without_prune();
                if let Some(open) = &mut self.ledger.trial {
                    open.cover(&first, &desired, self.current.as_ref().map(|current| &current.desired));
                }
                worsen(pass, Outcome::Converged);
                let held = self.ledger.trial.clone();
                if let Attempt::NotBegun(_) = self.go_forward(wanted, number, &first, pass).await {
                    self.ledger.trial = held;
                    let causes = pass.failures.clone();
                    // A checker refuses now what it let pass before; anything else may go through in the next pass.
                    if pass.outcome >= Outcome::Held {
                        self.undo(&desired, Fallen::All, causes, Some(DeniedBy::Health), pass).await;
                    }
                }
            }
            Resume::Undo(why) => {
                let (fallen, cause) = self.blame(why, trial, &desired).await;
                self.undo(&desired, fallen, vec![cause], Some(DeniedBy::Health), pass).await;
            }
            Resume::GoOnUndoing | Resume::Wait => self.go_back(pass).await,
        }
    }

    /// A generation from local storage; 0 is the host as trimtab found it.
    pub(super) fn recall(&self, number: u64) -> Result<Generation, String> {
        if number == 0 {
            return Ok(Generation {
                format: transaction::GENERATION_FORMAT,
                number: 0,
                revision: String::new(),
                inputs: self.inputs,
                at: 0,
                withheld: Vec::new(),
                wants: None,
                desired: Desired::default(),
            });
        }
        match self.store.load_generation(number) {
            Ok(Some(generation)) => Ok(generation),
            Ok(None) => Err("it is not kept any more".to_owned()),
            Err(error) => Err(chain(&error)),
        }
    }

    /// A kept generation as something to converge to; its contents are in the store.
    fn again(generation: Generation, trial: &Trial) -> Wanted {
        Wanted {
            key: Key { commit: generation.revision, inputs: generation.inputs },
            effect: trial.effect,
            desired: generation.desired,
            contents: BTreeMap::new(),
            fresh: true,
            all: None,
            withheld: generation.withheld,
            asked: None,
        }
    }

    /// The trial failed: what fell goes back to the last good generation, and the state is denied.
    pub(super) async fn undo(
        &mut self,
        tried: &Desired,
        fallen: Fallen,
        causes: Vec<Failure>,
        by: Option<DeniedBy>,
        pass: &mut Pass,
    ) {
        let Some(trial) = self.ledger.trial.clone() else { return };
        self.renew_watch(super::own::SWITCHING);
        pass.failures.retain(|failure| !causes.contains(failure));
        let good = match self.recall(trial.back_to) {
            Ok(good) => good,
            Err(message) => return self.stay(trial.back_to, message, causes, pass),
        };
        let reason = causes.first().map(|cause| format!("{}: {}", cause.resource, cause.message)).unwrap_or_default();
        tracing::warn!(
            trimtab_pass = pass.number,
            trimtab_revision = trial.revision,
            trimtab_outcome = "rolling-back",
            "revision {} did not come up and is undone: {reason}",
            trial.revision
        );
        let again = by.is_none();
        let (target, components) = self.target(tried, fallen, good, again.then_some(causes.as_slice()), pass);
        let end = End { at: pass.started, duration_ms: since(trial.at), reason };
        self.ledger.undo(target.number, components, causes, by, end);
        // Also when it cannot be written down (a full disk): better undone twice than not at all.
        self.save_ledger(pass);
        self.write_status();
        self.failure_hooks(&trial, tried, pass).await;
        self.go_back(pass).await;
    }

    /// What is gone back to: the new state without what fell, where that can be told apart; the whole good generation otherwise.
    fn target(
        &mut self,
        tried: &Desired,
        fallen: Fallen,
        good: Generation,
        again: Option<&[Failure]>,
        pass: &mut Pass,
    ) -> (Generation, BTreeSet<ComponentName>) {
        let failed = match fallen {
            Fallen::Components(failed) if good.number > 0 && !failed.is_empty() => failed,
            _ => return (good, BTreeSet::new()),
        };
        let trial = self.ledger.trial.as_ref().map(|trial| (trial.revision.clone(), trial.effect));
        let target = transaction::target(tried, &good.desired, &failed, &self.ledger.denied);
        let Some((desired, components)) = target else { return (good, BTreeSet::new()) };
        let withheld = components.iter().map(|component| transaction::Withheld {
            component: component.clone(),
            because: again.filter(|_| failed.contains(component)).and_then(|causes| causes.first().cloned()),
            again: again.is_some(),
        });
        let mixed = Generation {
            number: self.ledger.next_number(),
            revision: trial.as_ref().map(|(revision, _)| revision.clone()).unwrap_or_default(),
            inputs: self.inputs,
            at: pass.started,
            withheld: withheld.collect(),
            wants: trial.as_ref().map(|(_, effect)| *effect),
            desired,
            ..good.clone()
        };
        match self.store.save_generation(&mixed) {
            Ok(()) => (mixed, components),
            Err(error) => {
                pass.remarks.push(format!("all of the change is undone and not only what failed: {}", chain(&error)));
                (good, BTreeSet::new())
            }
        }
    }

    /// There is nothing to go back to: what was tried stays, and is told as what it is.
    fn stay(&mut self, good: u64, message: String, causes: Vec<Failure>, pass: &mut Pass) {
        pass.failures.extend(causes);
        pass.failures.push(Failure { resource: format!("generation {good}"), message, skipped: false });
        if let Some(trial) = &mut self.ledger.trial {
            trial.phase = Phase::Degraded;
            trial.amiss.clone_from(&pass.failures);
        }
        self.save_ledger(pass);
        worsen(pass, Outcome::Degraded);
    }

    /// Converges to what is gone back to, as far as that goes. What was left of the change without what fell is judged like any state: when
    /// it does not work either, all of it falls.
    async fn go_back(&mut self, pass: &mut Pass) {
        while !self.gone_back(pass).await {}
    }

    /// False: what was to be gone back to fell, too, and there is another to go back to.
    async fn gone_back(&mut self, pass: &mut Pass) -> bool {
        let Some(trial) = self.ledger.trial.clone() else { return true };
        let begun = Instant::now();
        let target = match self.recall(trial.generation) {
            Ok(target) => target,
            Err(message) => {
                self.stay(trial.generation, message, Vec::new(), pass);
                return true;
            }
        };
        let number = target.number;
        self.current = Some(Current::of(target.clone()));
        let wanted =
            Wanted { fresh: false, effect: target.wants.unwrap_or_else(|| target.desired.effect()), ..Self::again(target, &trial) };
        let before = pass.failures.len();
        let plan = self.plan(&wanted, pass.wake, pass).await;
        pass.changes.extend(plan.changes.iter().cloned());
        // Also what the change started and the way back leaves running: nobody has found it healthy yet.
        let watch = trial.watch.union(&transaction::watched(&plan)).cloned().collect();
        let affected = trial.affected.union(&transaction::affected(&plan, &wanted.desired, None)).cloned().collect();
        let done = self.repair(&plan, &wanted, pass).await;
        if done && pass.failures.len() == before {
            let sick = self.judge_health(&wanted.desired, &affected, &watch, pass).await;
            pass.failures.extend(sick.into_iter().map(|(_, failure)| failure));
        }
        let problems = plan.problems.iter().map(|problem| Failure {
            resource: problem.resource.clone(),
            message: problem.message.clone(),
            skipped: false,
        });
        let amiss: Vec<Failure> = pass.failures.split_off(before).into_iter().chain(problems).collect();
        part(pass, "rollback", begun);
        if !amiss.is_empty() && self.recall(trial.back_to).is_ok() && self.ledger.fall(&amiss) {
            self.save_ledger(pass);
            return false;
        }
        self.settle_back(&wanted, number, amiss, pass);
        if self.ledger.trial.is_none() {
            self.rollback_hooks(&trial, &wanted, pass).await;
        }
        true
    }

    /// What was gone back to is in place, or not all of it.
    fn settle_back(&mut self, wanted: &Wanted, number: u64, amiss: Vec<Failure>, pass: &mut Pass) {
        let Some(trial) = self.ledger.trial.clone() else { return };
        let told = Trial { amiss: amiss.clone(), generation: number, ..trial.clone() }.told();
        let outcome = match (amiss.is_empty(), trial.blameless) {
            (true, false) => Outcome::RolledBack,
            (true, true) => Outcome::Partial,
            (false, _) => Outcome::Degraded,
        };
        let end =
            End { at: pass.started, duration_ms: since(trial.at), reason: format!("without what fell of {}", trial.revision) };
        self.ledger.undone(in_force(number, wanted, true), amiss, end);
        self.save_ledger(pass);
        if number == 0 && self.ledger.trial.is_none() {
            self.current = None;
        }
        let again = trial.blameless.then(|| self.try_again_later(&trial.revision));
        if trial.blameless {
            pass.failures.extend(trial.causes.iter().cloned());
        }
        if outcome != Outcome::Partial {
            pass.undone = Some(told);
        }
        pass.revision.clone_from(&wanted.key.commit);
        // What went on the way here is told by the outcome; a refused check of the way back must not hide it.
        pass.outcome = pass.outcome.max(outcome);
        let key = Key { commit: trial.revision, inputs: self.inputs };
        if self.current.as_ref().is_none_or(|current| current.key != key) {
            self.refused = Some(Refused { key, pass: Box::new(pass.clone()), outcome, again });
        }
        self.collect();
    }

    /// The end of an ordinary pass beside a trial that waits: for a reboot, or for what could not be undone.
    pub(super) async fn settle_trial(&mut self, complete: bool, pass: &mut Pass) {
        let Some(trial) = self.ledger.trial.clone() else { return };
        match trial.phase {
            // In place again; whether it is healthy, too, is judged before it counts.
            Phase::Degraded if complete => self.go_back(pass).await,
            Phase::Degraded => {
                let amiss = if pass.failures.is_empty() { trial.amiss.clone() } else { pass.failures.clone() };
                pass.undone = Some(Trial { amiss, ..trial }.told());
                worsen(pass, Outcome::Degraded);
            }
            // It waits for its reboot; the status document has it.
            _ => {}
        }
    }

    async fn failure_hooks(&mut self, trial: &Trial, tried: &Desired, pass: &mut Pass) {
        let about = About { desired: tried, contents: &BTreeMap::new(), revision: &trial.revision, pass: pass.number };
        self.tell_hooks(&about, HookPhase::OnFailure, None, pass).await;
    }

    async fn rollback_hooks(&mut self, trial: &Trial, wanted: &Wanted, pass: &mut Pass) {
        let only = (!trial.fallen.is_empty()).then_some(&trial.fallen);
        self.tell_hooks(&wanted.about(pass.number), HookPhase::OnRollback, only, pass).await;
    }

    /// A change that could not be confirmed is acquitted when the source cannot be reached without it either.
    pub(super) fn note_poll(&mut self, answer: &super::source::Answer, pass: &mut Pass) {
        let (acquitted, dirty) = self.ledger.polled(answer.is_reached());
        if let Some(revision) = acquitted {
            pass.remarks.push(format!("revision {revision} was undone because the source could not be reached, which it could not without it either: it is tried again"));
            self.refused = None;
        }
        if dirty && self.hold != Hold::ReadOnly {
            self.save_ledger(pass);
        }
    }
}

fn proves_itself(trial: &Trial) -> bool {
    trial.phase == Phase::Confirming && trial.guarded.iter().any(|resource| resource == transaction::ITSELF)
}

fn found(trial: &Trial, what: &Resume) -> String {
    let revision: String = trial.revision.chars().take(12).collect();
    match what {
        Resume::Forward if proves_itself(trial) => {
            format!(
                "revision {revision} brings another trimtab: the agent was started with it, and has the whole time to confirm that"
            )
        }
        Resume::Forward if trial.phase == Phase::Confirming => {
            format!(
                "revision {revision} was being confirmed when the agent ended; it goes on with that, and has the whole time again"
            )
        }
        Resume::Forward => format!("revision {revision} was being put in place when the agent ended; it goes on with that"),
        Resume::Undo(why) => format!("revision {revision} is undone: {why}"),
        Resume::GoOnUndoing | Resume::Wait => {
            format!("revision {revision} was being undone when the agent ended; it goes on with that")
        }
    }
}
