//! From the plan to a changed host: the ways to get there, and what is remembered of them.

use std::collections::BTreeSet;
use std::io;

use trimtab_model::desired::{Desired, Node};
use trimtab_model::digest::Digest;
use trimtab_model::hook::HookPhase;
use trimtab_model::ledger::Before;
use trimtab_model::names::HostPath;
use trimtab_model::plan::{Action, Plan};
use trimtab_model::report::{Failure, Outcome, Pass};

use super::attempt::Attempt;
use super::{Cycle, Looked, Refused, Wanted, worsen};
use crate::apply::{self, Applied, NotBegun, Refusal};
use crate::host::place;
use crate::log::{Laps, chain};
use crate::store::{Store, StoreError};

impl Cycle {
    /// Carries out what a look found. When nothing of a new state could be begun, the state in force is held on to in the same pass: a
    /// commit that must wait for room or for a checker must not leave drift in place for as long as it waits.
    pub(super) async fn carry_out(&mut self, looked: Looked) -> Pass {
        let Looked { mut pass, plan, wanted: Some(wanted) } = looked else { return looked.pass };
        if self.is_paused() {
            self.note_drift(&pass);
            return pass;
        }
        if !wanted.fresh {
            self.sweep(&wanted.desired);
            let plan = self.without_flapping(plan, &wanted.key.commit, &mut pass);
            self.note_drift(&pass);
            if !self.repair(&plan, &wanted, &mut pass).await {
                pass.changes.clear();
            }
            self.note_repairs(&pass);
            self.settle(&wanted, &mut pass).await;
            return pass;
        }
        self.note_drift(&pass);
        let tried = match self.attempt(wanted, plan, &mut pass).await {
            Attempt::Ended => {
                self.note_repairs(&pass);
                if pass.undone.is_some() {
                    self.matter.undone.clone_from(&pass.undone);
                    self.matter.outcome = Some(pass.outcome);
                }
                return pass;
            }
            Attempt::NotBegun(tried) => tried,
        };
        self.matter = super::Matter::of(&pass);
        pass.changes.clear();
        let Some(held) = self.in_force().filter(|held| held.desired != tried.desired || !tried.fresh || held.key != tried.key)
        else {
            return pass;
        };
        pass.revision.clone_from(&held.key.commit);
        let plan = self.plan(&held, pass.wake, &mut pass).await;
        pass.changes.clone_from(&plan.changes);
        pass.problems.clone_from(&plan.problems);
        self.note_drift(&pass);
        if !self.repair(&plan, &held, &mut pass).await {
            pass.changes.clear();
        }
        self.note_repairs(&pass);
        pass
    }

    /// Puts the state in force right. False: nothing was touched, and the pass says why.
    pub(super) async fn repair(&mut self, plan: &Plan, wanted: &Wanted, pass: &mut Pass) -> bool {
        let clock = Laps::start();
        let vetoed = self.vetoed_removals(plan, wanted, pass).await;
        let kept;
        let plan = if vetoed {
            kept = plan.without_prune();
            &kept
        } else {
            plan
        };
        let applied = self.apply(plan, wanted).await;
        clock.lap("applied");
        if let Some(reason) = &applied.not_begun {
            self.not_begun(reason, wanted, pass);
            return false;
        }
        if !applied.is_complete() {
            worsen(pass, Outcome::Partial);
        }
        self.note_own(plan, &applied);
        // Else the store would only be tidied with the next revision, and something that drifts for ever would fill the disk until then.
        let outgrown = applied.outgrown && applied.unsaved.is_none();
        tell(plan, applied, pass);
        if outgrown {
            self.collect();
        }
        true
    }

    /// A first state that took several passes to converge is good from the one that completed it.
    async fn settle(&mut self, wanted: &Wanted, pass: &mut Pass) {
        let Some(number) = self.current.as_ref().map(|current| current.number).filter(|number| *number > 0) else { return };
        let complete = pass.failures.is_empty() && pass.problems.is_empty();
        if self.ledger.trial.is_some() {
            self.settle_trial(complete, pass).await;
            return;
        }
        if complete && self.ledger.good != number && self.ledger.generation == number {
            let (all, units) = trimtab_model::transaction::everything(&wanted.desired);
            let sick = self.judge_health(&wanted.desired, &all, &units, pass).await;
            if !sick.is_empty() {
                pass.failures.extend(sick.into_iter().map(|(_, failure)| failure));
                worsen(pass, Outcome::Partial);
                return;
            }
            self.commit(wanted, number, true, std::time::Instant::now(), pass);
        }
    }

    /// Whether hooks keep something from being removed; then nothing is removed in this pass.
    async fn vetoed_removals(&mut self, plan: &Plan, wanted: &Wanted, pass: &mut Pass) -> bool {
        let leaving: BTreeSet<_> =
            plan.steps[plan.prune_from.min(plan.steps.len())..].iter().filter_map(|step| step.component.clone()).collect();
        if leaving.is_empty() {
            return false;
        }
        let mut vetoed = false;
        for (hook, end) in self.hooks(&wanted.about(pass.number), HookPhase::PreRemove, Some(&leaving)).await {
            if let Some(message) = end.trouble() {
                let message = format!("nothing was removed, for the pre-remove hook asked for that: {message}");
                pass.failures.push(Failure { resource: hook, message, skipped: false });
                worsen(pass, Outcome::Partial);
                vetoed = true;
            }
        }
        vetoed
    }

    /// The contents go to the store before anything is switched: a repair without a network needs them.
    pub(super) fn keep_contents(&mut self, wanted: &Wanted) -> Result<(), StoreError> {
        let missing: Vec<&Vec<u8>> =
            wanted.contents.iter().filter(|(digest, _)| !self.store.has(digest)).map(|(_, bytes)| bytes).collect();
        if missing.is_empty() {
            return Ok(());
        }
        self.store.require(missing.iter().map(|bytes| bytes.len() as u64).sum())?;
        for bytes in missing {
            self.store.put(bytes)?;
        }
        self.store.sync()
    }

    /// Takes away what a killed process left staged: once, for only a process that held the lock before this one can have left any.
    pub(super) fn sweep(&mut self, wanted: &Desired) {
        if std::mem::replace(&mut self.swept, true) {
            return;
        }
        let paths: BTreeSet<&HostPath> = wanted.entries.keys().chain(self.ledger.entries.keys()).collect();
        let (removed, errors) = place::sweep(&self.machine.root, paths);
        if !removed.is_empty() {
            tracing::info!("{} files that an interrupted pass had staged were removed", removed.len());
        }
        for error in errors {
            tracing::warn!("what an interrupted pass had staged could not be removed: {}", chain(&error));
        }
    }

    pub(super) async fn apply(&mut self, plan: &Plan, wanted: &Wanted) -> Applied {
        self.lead_way();
        let refusal = if wanted.fresh { Refusal::Whole } else { Refusal::Component };
        let reader = Store::look(self.store.places().clone());
        let contents = |digest: Digest| match (wanted.contents.get(&digest), &reader) {
            (Some(bytes), _) => Ok(bytes.clone()),
            (None, Ok(store)) => store.read(&digest).map_err(io::Error::other),
            (None, Err(error)) => Err(io::Error::other(chain(error))),
        };
        if plan.steps.iter().any(|step| matches!(step.action, Action::Pull { .. })) {
            self.stored.forget();
        }
        apply::apply(&mut self.machine, plan, &wanted.desired, &contents, &mut self.ledger, &mut self.store, refusal).await
    }

    pub(super) fn not_begun(&mut self, reason: &NotBegun, wanted: &Wanted, pass: &mut Pass) {
        let resource = match reason {
            NotBegun::Refused(_) => "check",
            NotBegun::Unchecked(_) | NotBegun::Unsaved(_) => "apply",
        };
        pass.failures.push(Failure { resource: resource.to_owned(), message: chain(reason), skipped: false });
        if let NotBegun::Refused(verdict) = reason {
            for complaint in verdict.errors.iter().skip(1) {
                let message = complaint.message.clone();
                pass.failures.push(Failure { resource: format!("file {}", complaint.path), message, skipped: false });
            }
            worsen(pass, Outcome::Held);
            // The state in force is looked at in each pass anyway, and must not take the place of a newer one that was refused.
            if wanted.fresh {
                self.refuse(wanted.key.clone(), Outcome::Held, Some(Refused::again()), pass);
            }
        } else {
            // A full disk, a checker that did not run: the same revision may well go through later.
            worsen(pass, Outcome::Partial);
        }
    }

    pub(super) fn save_ledger(&mut self, pass: &mut Pass) {
        let saved = self.store.save_ledger(&self.ledger);
        self.is_saved = saved.is_ok();
        if let Err(error) = saved {
            pass.failures.push(Failure { resource: "ledger".to_owned(), message: chain(&error), skipped: false });
            worsen(pass, Outcome::Partial);
        }
    }

    /// What nothing names any more leaves the store: generations beyond the bounds, and contents that neither a kept generation nor the
    /// ledger names.
    pub(super) fn collect(&mut self) {
        // The ledger on the disk may still name what the one in memory does not.
        if !self.is_saved {
            return;
        }
        if let Err(error) = self.try_to_collect() {
            tracing::warn!("the store could not be tidied: {}", chain(&error));
        }
    }

    fn try_to_collect(&mut self) -> Result<(), StoreError> {
        let settings = &self.settings.generations;
        let mut keep = self.store.retain_generations(&self.ledger.held(), settings.keep, settings.max_mib << 20)?;
        keep.extend(self.ledger.kept.iter().map(|kept| kept.digest));
        let original = |before: &Before| match before {
            Before::Original { node: Node::File { digest, .. }, .. } => Some(*digest),
            _ => None,
        };
        keep.extend(self.ledger.entries.values().filter_map(|owned| original(&owned.before)));
        self.store.gc(&keep)?;
        self.forget_parts(&Desired::default());
        Ok(())
    }

    /// What came of artifacts that neither the state in force nor the one that is tried wants takes room for nothing.
    pub(super) fn forget_parts(&mut self, tried: &Desired) {
        let in_force = self.current.iter().flat_map(|current| current.desired.artifacts());
        let wanted = in_force.chain(tried.artifacts()).map(|(_, _, _, digest, _)| digest);
        self.store.keep_parts(&wanted.chain(self.unfetched.iter().copied()).collect());
    }
}

/// How the steps ended, into the pass.
pub(super) fn tell(plan: &Plan, applied: Applied, pass: &mut Pass) {
    for (step, outcome) in plan.steps.iter().zip(applied.outcomes) {
        let (message, skipped) = match outcome {
            apply::Outcome::Done | apply::Outcome::NotRun { .. } => continue,
            apply::Outcome::Failed { message } | apply::Outcome::Raced { message } => (message, false),
            apply::Outcome::Skipped { because } => (because, true),
        };
        let resource = match step.action.resource() {
            empty if empty.is_empty() => "daemon-reload".to_owned(),
            resource => resource,
        };
        pass.failures.push(Failure { resource, message, skipped });
    }
    pass.kept.extend(applied.kept.iter().map(|kept| (kept.path.to_string(), kept.digest.to_string())));
    pass.remarks.extend(applied.remarks);
    if let Some(error) = applied.unsaved {
        pass.failures.push(Failure { resource: "ledger".to_owned(), message: chain(&error), skipped: false });
    }
}
