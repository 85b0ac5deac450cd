//! From the plan to a changed host, and what is remembered of it.

use std::collections::BTreeSet;
use std::io;
use std::time::{Duration, Instant};

use trimtab_model::desired::Desired;
use trimtab_model::digest::Digest;
use trimtab_model::names::HostPath;
use trimtab_model::plan::Plan;
use trimtab_model::report::{Failure, Outcome, Pass};

use super::look::needed;
use super::{Current, Cycle, Looked, Refused, Wanted, worsen};
use crate::apply::{self, Applied, NotBegun, Refusal};
use crate::host::place;
use crate::log::{Laps, chain};
use crate::store::{Kept, Store, StoreError};

/// What a checker refused is checked again after this long; at once when a person asks.
const CHECK_AGAIN: Duration = Duration::from_secs(10 * 60);

impl Cycle {
    /// Carries a plan out and takes its wanted state as the one in force. When nothing of it could be begun, the state in force is held on to
    /// in the same pass: a commit that must wait for room or for a checker must not leave drift in place for as long as it waits.
    pub(super) async fn carry_out(&mut self, looked: Looked) -> Looked {
        let Looked { mut pass, plan, wanted: Some(wanted) } = looked else { return looked };
        if self.begin_and_end(&plan, &wanted, &mut pass).await {
            return Looked { pass, plan, wanted: Some(wanted) };
        }
        pass.changes.clear();
        let Some(held) = self.in_force().filter(|held| held.key != wanted.key) else {
            return Looked { pass, plan, wanted: Some(wanted) };
        };
        pass.revision.clone_from(&held.key.commit);
        let plan = self.plan(&held, pass.wake, &mut pass).await;
        pass.changes.clone_from(&plan.changes);
        pass.problems.clone_from(&plan.problems);
        if !self.begin_and_end(&plan, &held, &mut pass).await {
            pass.changes.clear();
        }
        Looked { pass, plan, wanted: Some(held) }
    }

    /// False: nothing was touched, and the pass says why.
    async fn begin_and_end(&mut self, plan: &Plan, wanted: &Wanted, pass: &mut Pass) -> bool {
        let clock = Laps::start();
        if let Err(error) = self.keep_contents(wanted) {
            pass.failures.push(Failure { resource: "store".to_owned(), message: chain(&error), skipped: false });
            worsen(pass, Outcome::Partial);
            return false;
        }
        clock.lap("kept contents");
        self.sweep(wanted);
        let applied = self.apply(plan, wanted).await;
        clock.lap("applied");
        if let Some(reason) = &applied.not_begun {
            self.not_begun(reason, wanted, pass);
            return false;
        }
        let complete = applied.is_complete();
        tell(plan, applied, pass);
        if !complete {
            worsen(pass, Outcome::Partial);
        }
        self.take_in_force(wanted, pass, complete && plan.problems.is_empty());
        clock.lap("remembered");
        true
    }

    /// The contents go to the store before anything is switched: a repair without a network needs them.
    fn keep_contents(&mut self, wanted: &Wanted) -> Result<(), StoreError> {
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
    fn sweep(&mut self, wanted: &Wanted) {
        if std::mem::replace(&mut self.swept, true) {
            return;
        }
        let paths: BTreeSet<&HostPath> = wanted.desired.entries.keys().chain(self.ledger.entries.keys()).collect();
        let (removed, errors) = place::sweep(&self.machine.root, paths);
        if !removed.is_empty() {
            tracing::info!("{} files that an interrupted pass had staged were removed", removed.len());
        }
        for error in errors {
            tracing::warn!("what an interrupted pass had staged could not be removed: {}", chain(&error));
        }
    }

    async fn apply(&mut self, plan: &Plan, wanted: &Wanted) -> Applied {
        let refusal = if wanted.fresh { Refusal::Whole } else { Refusal::Component };
        let reader = Store::look(self.store.places().clone());
        let contents = |digest: Digest| match (wanted.contents.get(&digest), &reader) {
            (Some(bytes), _) => Ok(bytes.clone()),
            (None, Ok(store)) => store.read(&digest).map_err(io::Error::other),
            (None, Err(error)) => Err(io::Error::other(chain(error))),
        };
        apply::apply(&mut self.machine, plan, &wanted.desired, &contents, &mut self.ledger, &mut self.store, refusal).await
    }

    fn not_begun(&mut self, reason: &NotBegun, wanted: &Wanted, pass: &mut Pass) {
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
                let again = Some(Instant::now() + CHECK_AGAIN);
                self.refused = Some(Refused { key: wanted.key.clone(), pass: Box::new(pass.clone()), again });
            }
        } else {
            // A full disk, a checker that did not run: the same revision may well go through later.
            worsen(pass, Outcome::Partial);
        }
    }

    fn take_in_force(&mut self, wanted: &Wanted, pass: &mut Pass, complete: bool) {
        let changed = self.current.as_ref().is_none_or(|current| current.key != wanted.key);
        // Also without a change: what took several passes to converge is in force from the one that completed it.
        let due = changed || (complete && self.ledger.revision != wanted.key.commit);
        let digest = due.then(|| wanted.desired.digest());
        if wanted.fresh {
            self.refused = None;
        }
        if changed {
            let kept = Kept { commit: wanted.key.commit.clone(), host: wanted.key.inputs, desired: wanted.desired.clone() };
            if let Err(error) = self.store.save_desired(&kept) {
                pass.failures.push(Failure { resource: "store".to_owned(), message: chain(&error), skipped: false });
                worsen(pass, Outcome::Partial);
            }
            self.current = Some(Current { key: wanted.key.clone(), desired: wanted.desired.clone() });
        }
        let revision_due =
            complete && (self.ledger.revision != wanted.key.commit || digest.is_some_and(|d| self.ledger.desired != Some(d)));
        if revision_due {
            self.ledger.generation += u64::from(digest.is_some_and(|d| self.ledger.desired != Some(d)));
            self.ledger.revision.clone_from(&wanted.key.commit);
            self.ledger.desired = digest.or(self.ledger.desired);
            self.save_ledger(pass);
        }
        if changed {
            self.collect(&wanted.desired);
        }
    }

    fn save_ledger(&mut self, pass: &mut Pass) {
        if let Err(error) = self.store.save_ledger(&self.ledger) {
            pass.failures.push(Failure { resource: "ledger".to_owned(), message: chain(&error), skipped: false });
            worsen(pass, Outcome::Partial);
        }
    }

    /// Contents that nothing names any more leave the store; what drift repair kept stays for as long as it is among the newest.
    fn collect(&mut self, desired: &Desired) {
        let mut keep = needed(Some(desired), &self.ledger);
        keep.extend(self.ledger.kept.iter().map(|kept| kept.digest));
        if let Err(error) = self.store.gc(&keep) {
            tracing::warn!("the store could not be tidied: {}", chain(&error));
        }
    }
}

/// How the steps ended, into the pass.
fn tell(plan: &Plan, applied: Applied, pass: &mut Pass) {
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
    pass.kept = applied.kept.iter().map(|kept| (kept.path.to_string(), kept.digest.to_string())).collect();
    pass.remarks.extend(applied.remarks);
    if let Some(error) = applied.unsaved {
        pass.failures.push(Failure { resource: "ledger".to_owned(), message: chain(&error), skipped: false });
    }
}
