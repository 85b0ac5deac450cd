//! A change as a trial: prefetched, switched, judged, committed, and only then what left is taken away.
//!
//! The ledger is the journal: the trial stands in it from the write that announces the switch to the write that commits it. A first state
//! has nothing good to go back to and is no trial: what fails is told and tried again (unless it could cut the host off).

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use trimtab_model::drift::Extra;
use trimtab_model::hook::HookPhase;
use trimtab_model::names::ComponentName;
use trimtab_model::plan::{Action, Change, Plan, Step};
use trimtab_model::report::{Failure, Outcome, PartTime, Pass};
use trimtab_model::transaction::{self, DeniedBy, End, Ended, GENERATION_FORMAT, Generation, ITSELF, InForce, Phase, Trial};

use super::carry::tell;
use super::undo::Fallen;
use super::{Current, Cycle, Refused, Wanted, now_ms, worsen};
use crate::apply;
use crate::config::ConfirmWhen;
use crate::log::chain;
use crate::probe;

/// What a checker or a hook refused is tried again after this long; at once when a person asks.
const CHECK_AGAIN: Duration = Duration::from_secs(10 * 60);

/// With less than this many bytes free no pull is begun: how large an image is unpacked, only its pull tells.
const PULL_ROOM: u64 = 64 << 20;

/// How an attempt ended.
pub(super) enum Attempt {
    /// The machine was worked on, or had nothing to be done; the pass says how that ended.
    Ended,
    /// Nothing of it was begun: the state in force is held on to.
    NotBegun(Box<Wanted>),
}

impl Cycle {
    /// Tries a state that is not the one in force.
    pub(super) async fn attempt(&mut self, wanted: Wanted, plan: Plan, pass: &mut Pass) -> Attempt {
        if let Err(error) = self.keep_contents(&wanted) {
            pass.failures.push(Failure { resource: "store".to_owned(), message: chain(&error), skipped: false });
            worsen(pass, Outcome::Partial);
            return Attempt::NotBegun(Box::new(wanted));
        }
        self.sweep(&wanted.desired);
        let (wanted, plan) = match self.prefetch(wanted, plan, pass).await {
            Ok(both) => both,
            Err(wanted) => return Attempt::NotBegun(wanted),
        };
        if !plan.steps.is_empty() && !self.may_begin(&wanted, pass).await {
            return Attempt::NotBegun(Box::new(wanted));
        }
        let is_same = self.current.as_ref().is_some_and(|current| current.number > 0 && current.effect == wanted.desired.effect());
        let number = match &wanted.asked {
            Some(asked) => asked.number,
            None if is_same => self.current.as_ref().map_or(0, |current| current.number),
            None => self.ledger.next_number(),
        };
        if wanted.asked.is_none()
            && let Err(error) = self.store.save_generation(&generation(number, &wanted, pass.started))
        {
            pass.failures.push(Failure { resource: "store".to_owned(), message: chain(&error), skipped: false });
            worsen(pass, Outcome::Partial);
            return Attempt::NotBegun(Box::new(wanted));
        }
        let first = plan.without_prune();
        let mut guarded = self.guarded(&plan);
        if self.changes_itself(&first) {
            guarded.push(ITSELF.to_owned());
        }
        let in_force = self.current.as_ref().map(|current| &current.desired);
        let is_something = !first.steps.is_empty() || !transaction::newly_checked(&wanted.desired, in_force).is_empty();
        // The state in force under another commit is no change: what is done is repair of drift, and a failure of that denies nothing.
        let is_change = is_something && !is_same && (self.ledger.good > 0 || !guarded.is_empty());
        // One that takes the place of an unfinished trial is a trial, too: what becomes of it must not be told of the other.
        if is_change || self.ledger.trial.is_some() {
            self.ledger.trial = Some(self.trial(number, &wanted, &first, guarded, pass));
        }
        // On the heap: few passes need the room.
        Box::pin(self.go_forward(wanted, number, &first, pass)).await
    }

    /// Pulls what is needed while the old state runs. What cannot be pulled, or cannot be converged as things stand, is withheld with all
    /// that shares its fate; without a good state to withhold it in, its steps fail one by one.
    async fn prefetch(&mut self, wanted: Wanted, mut plan: Plan, pass: &mut Pass) -> Result<(Wanted, Plan), Box<Wanted>> {
        if self.ledger.good == 0 || wanted.asked.is_some() {
            return Ok((wanted, plan));
        }
        let begun = Instant::now();
        self.lead_way();
        let missing = self.pull(&plan).await;
        self.stored.forget();
        let unfetched = apply::fetch(&self.machine, &plan, &wanted.desired, &self.ledger, &mut self.store).await;
        let left = plan.steps.iter().filter_map(|step| match &step.action {
            Action::Fetch { digest, .. } if !self.store.has(digest) => Some(*digest),
            _ => None,
        });
        self.unfetched = left.collect();
        self.forget_parts(&wanted.desired);
        part(pass, "prefetch", begun);
        let mut failed: BTreeMap<ComponentName, Option<Failure>> = BTreeMap::new();
        for (image, (component, message)) in missing {
            failed.insert(component, Some(Failure { resource: format!("image {image}"), message, skipped: false }));
        }
        for (resource, (component, message)) in unfetched {
            failed.insert(component, Some(Failure { resource, message, skipped: false }));
        }
        let outside: Vec<Failure> = failed.values().flatten().cloned().collect();
        for problem in &plan.problems {
            let failure = Failure { resource: problem.resource.clone(), message: problem.message.clone(), skipped: false };
            failed.entry(problem.origin.component.clone()).or_insert(Some(failure));
        }
        if let Some((components, failure)) = self.unguarded(&plan, &wanted).await {
            pass.failures.push(failure.clone());
            failed.extend(components.into_iter().map(|component| (component, Some(failure.clone()))));
        }
        if failed.is_empty() {
            plan.without_pulls();
            return Ok((wanted, plan));
        }
        pass.failures.extend(outside);
        worsen(pass, Outcome::Partial);
        let key = wanted.key.clone();
        let again = Some(self.try_again_later(&key.commit));
        let nothing_left = |cycle: &mut Self, pass: &mut Pass| cycle.refuse(key.clone(), Outcome::Partial, again, pass);
        let Some(wanted) = self.withhold(wanted, &failed, true) else {
            let message = "the rest of this revision cannot be told apart from what failed; nothing of it was changed".to_owned();
            pass.failures.push(Failure { resource: "prefetch".to_owned(), message, skipped: false });
            nothing_left(self, pass);
            return Err(Box::new(self.in_force().expect("because there is a good generation")));
        };
        if self.current.as_ref().is_some_and(|current| current.effect == wanted.desired.effect()) {
            nothing_left(self, pass);
            return Err(Box::new(wanted));
        }
        let mut plan = self.plan(&wanted, pass.wake, pass).await;
        pass.changes.clone_from(&plan.changes);
        pass.problems.extend(plan.problems.iter().cloned());
        pass.problems.dedup();
        plan.without_pulls();
        Ok((wanted, plan))
    }

    /// Pulls, if there is room to begin with; what could not be pulled, by image.
    async fn pull(&self, plan: &Plan) -> BTreeMap<String, (ComponentName, String)> {
        let storage = self.places.root.join("var/lib/containers");
        let room = if storage.exists() { crate::store::require_at(&storage, PULL_ROOM) } else { Ok(()) };
        let Err(full) = room else { return apply::prefetch(&self.machine, plan).await };
        let pull = |step: &Step| match (&step.action, &step.component) {
            (Action::Pull { image }, Some(component)) => Some((image.clone(), (component.clone(), chain(&full)))),
            _ => None,
        };
        plan.steps.iter().filter_map(pull).collect()
    }

    /// Whether the hooks let it begin.
    async fn may_begin(&mut self, wanted: &Wanted, pass: &mut Pass) -> bool {
        for (hook, end) in self.hooks(&wanted.about(pass.number), HookPhase::PreApply, None).await {
            let (message, again) = match end {
                probe::HookEnd::Done => continue,
                probe::HookEnd::Later { message } => (message, self.settings.agent.retry_interval),
                probe::HookEnd::Veto { message } | probe::HookEnd::Failed { message } => (message, CHECK_AGAIN),
            };
            let message = format!("nothing was changed, for the pre-apply hook asked for that: {message}");
            pass.failures.push(Failure { resource: hook, message, skipped: false });
            let again = Some(Instant::now() + again);
            self.refuse(wanted.key.clone(), Outcome::Held, again, pass);
            return false;
        }
        true
    }

    /// What of a plan could cut the host off, as far as that must be confirmed.
    fn guarded(&self, plan: &Plan) -> Vec<String> {
        match self.settings.guard.confirm {
            ConfirmWhen::Never => Vec::new(),
            ConfirmWhen::Network => transaction::network_shaped(plan),
            ConfirmWhen::Always => plan.changes.iter().map(|change| change.resource.clone()).collect(),
        }
    }

    fn trial(&self, number: u64, wanted: &Wanted, plan: &Plan, guarded: Vec<String>, pass: &Pass) -> Trial {
        let mut trial = Trial {
            phase: Phase::Trying,
            generation: number,
            back_to: self.ledger.good,
            revision: wanted.key.commit.clone(),
            effect: wanted.effect,
            watch: BTreeSet::new(),
            affected: BTreeSet::new(),
            guarded,
            reboot: false,
            starts: 1,
            boot: crate::host::facts::boot_id(&self.machine.root),
            pass: pass.number,
            at: pass.started,
            fallen: BTreeSet::new(),
            blameless: false,
            causes: Vec::new(),
            amiss: Vec::new(),
        };
        trial.cover(plan, &wanted.desired, self.current.as_ref().map(|current| &current.desired));
        for (component, when) in wanted.desired.confirm.iter().filter(|(component, _)| trial.affected.contains(*component)) {
            trial.reboot |= *when == trimtab_model::desired::Confirm::AfterReboot;
            if self.settings.guard.confirm != ConfirmWhen::Never {
                trial.guarded.push(format!("component {component}"));
            }
        }
        trial
    }

    /// Switches, judges, and commits or undoes. Also from where an earlier process was ended.
    pub(super) async fn go_forward(&mut self, wanted: Wanted, number: u64, first: &Plan, pass: &mut Pass) -> Attempt {
        let begun = Instant::now();
        let is_trial = self.ledger.trial.is_some();
        let (others, own) = self.own_apart(first).unzip();
        let first = others.as_ref().unwrap_or(first);
        let applied = self.apply(first, &wanted).await;
        part(pass, "apply", begun);
        if let Some(reason) = &applied.not_begun {
            self.ledger.trial = None;
            self.not_begun(reason, &wanted, pass);
            return Attempt::NotBegun(Box::new(wanted));
        }
        let (failed, all_failed, raced) = (applied.failed.clone(), applied.all_failed, applied.raced);
        let (has_failed, complete, blamed) = (applied.has_failed(), applied.is_complete(), applied.blamed);
        let before = pass.failures.len();
        tell(first, applied, pass);
        if !is_trial {
            self.first_state(wanted, number, complete && first.problems.is_empty(), first, begun, pass).await;
            return Attempt::Ended;
        }
        if has_failed {
            let causes: Vec<Failure> = pass.failures[before..].iter().filter(|failure| !failure.skipped).cloned().collect();
            let fallen = if all_failed { Fallen::All } else { Fallen::Components(failed) };
            self.undo(&wanted.desired, fallen, causes, blamed.then_some(DeniedBy::Health), pass).await;
            return Attempt::Ended;
        }
        if !complete {
            worsen(pass, Outcome::Partial);
        }
        if raced {
            // Somebody works on this host: the trial stays, and the next pass goes forward with it.
            return Attempt::Ended;
        }
        self.write_status();
        let judged = Instant::now();
        let sick = self.sick(&wanted, pass).await;
        part(pass, "health", judged);
        if !sick.is_empty() {
            let fallen = sick.iter().filter_map(|(component, _)| component.clone()).collect();
            let causes = sick.into_iter().map(|(_, failure)| failure).collect();
            self.undo(&wanted.desired, Fallen::Components(fallen), causes, Some(DeniedBy::Health), pass).await;
            return Attempt::Ended;
        }
        if let Some(own) = own {
            return self.succeed(wanted, &own, pass).await;
        }
        self.confirm_or_commit(wanted, number, first.problems.is_empty(), begun, pass).await;
        Attempt::Ended
    }

    /// A state with nothing good to go back to: in force whatever becomes of it, and good when all of it is in place and healthy.
    async fn first_state(&mut self, wanted: Wanted, number: u64, complete: bool, first: &Plan, begun: Instant, pass: &mut Pass) {
        let mut good = complete;
        // What was never found healthy is judged whole, also when there is nothing left to be done: an earlier pass or process may have done
        // it, and ended before it could judge.
        let (affected, watch) = if self.ledger.good == number {
            (transaction::affected(first, &wanted.desired, Some(&wanted.desired)), transaction::watched(first))
        } else {
            transaction::everything(&wanted.desired)
        };
        if good && (!first.steps.is_empty() || self.ledger.good != number) {
            let judged = Instant::now();
            let sick = self.judge_health(&wanted.desired, &affected, &watch, pass).await;
            part(pass, "health", judged);
            good = sick.is_empty();
            pass.failures.extend(sick.into_iter().map(|(_, failure)| failure));
        }
        if !good {
            worsen(pass, Outcome::Partial);
        }
        self.commit(&wanted, number, good, begun, pass);
        if good && !first.steps.is_empty() {
            self.tell_hooks(&wanted.about(pass.number), HookPhase::PostApply, None, pass).await;
        }
        self.prune(pass).await;
    }

    /// Healthy: committed now, or when it has been confirmed; `good` when nothing of it could not be planned.
    async fn confirm_or_commit(&mut self, wanted: Wanted, number: u64, good: bool, begun: Instant, pass: &mut Pass) {
        if self.awaits_reboot(&wanted, number, pass) {
            return;
        }
        let Some(trial) = &mut self.ledger.trial else { return };
        if trial.guarded.is_empty() {
            self.commit(&wanted, number, good, begun, pass);
            self.after(&wanted, pass).await;
            return;
        }
        trial.phase = Phase::Confirming;
        self.save_ledger(pass);
        self.confirm(wanted, number, good, pass).await;
    }

    /// Whether the change asks for a reboot that has not been yet; then it waits for that.
    pub(super) fn awaits_reboot(&mut self, wanted: &Wanted, number: u64, pass: &mut Pass) -> bool {
        let boot = crate::host::facts::boot_id(&self.machine.root);
        let Some(trial) = self.ledger.trial.as_mut().filter(|trial| trial.reboot && trial.boot == boot) else { return false };
        trial.phase = Phase::AwaitingReboot;
        self.save_ledger(pass);
        self.current = Some(Current::of(generation(number, wanted, pass.started)));
        pass.remarks.push("this change is in place, and waits for a reboot of the host to be confirmed".to_owned());
        true
    }

    /// What comes after a commit: hooks, and taking away what left.
    pub(super) async fn after(&mut self, wanted: &Wanted, pass: &mut Pass) {
        self.tell_hooks(&wanted.about(pass.number), HookPhase::PostApply, None, pass).await;
        self.prune(pass).await;
    }

    /// Which units and checks of what was touched are not as they should be.
    async fn sick(&mut self, wanted: &Wanted, pass: &mut Pass) -> Vec<(Option<ComponentName>, Failure)> {
        let Some(trial) = self.ledger.trial.clone() else { return Vec::new() };
        self.judge_health(&wanted.desired, &trial.affected, &trial.watch, pass).await
    }

    /// A state is in force from now on.
    pub(super) fn commit(&mut self, wanted: &Wanted, number: u64, good: bool, begun: Instant, pass: &mut Pass) {
        let (ended, reason) = match &wanted.asked {
            Some(asked) => (Ended::Restored, asked.reason.clone()),
            None => (Ended::Committed, String::new()),
        };
        let is_known = self.ledger.generation == number && self.ledger.good == number && self.ledger.revision == wanted.key.commit;
        let state = in_force(number, wanted, good);
        if let Some(denied) = wanted.asked.as_ref().and_then(|asked| asked.denies.clone()) {
            self.ledger.deny(denied);
        }
        if !is_known || self.ledger.trial.is_some() {
            self.ledger.commit(state, ended, End { at: pass.started, duration_ms: millis(begun), reason });
            self.save_ledger(pass);
        }
        self.current = Some(Current::of(generation(number, wanted, pass.started)));
        self.refused = None;
        if self.current.as_ref().is_some_and(|current| current.withheld.is_empty()) {
            self.in_vain = 0;
        }
        self.collect();
    }

    /// Takes away what left the repository, now that what came is healthy. What cannot be taken away is told and tried again.
    pub(super) async fn prune(&mut self, pass: &mut Pass) {
        let Some(held) = self.in_force() else { return };
        let begun = Instant::now();
        // Nothing left: the look is spared.
        let purges = held.desired.exclusive.values().any(|exclusive| exclusive.extra == Extra::Purge);
        if transaction::removals(&held.desired, &self.ledger).is_empty() && !purges {
            return;
        }
        let plan = self.plan(&held, pass.wake, pass).await;
        let takes = plan.steps.iter().any(|step| matches!(step.action, Action::Purge { .. }));
        let purged = plan.changes.iter().filter(|change| change.left_alone.is_none() && is_extra(change));
        pass.changes.extend(purged.cloned());
        if takes {
            self.note_drift(pass);
        }
        if takes || plan.steps.len() > plan.prune_from || !plan.bookkeeping.is_empty() {
            self.repair(&plan, &held, pass).await;
        }
        part(pass, "prune", begun);
    }
}

/// Something that nobody declared.
fn is_extra(change: &Change) -> bool {
    change.differs.iter().any(|differs| differs.property == "extra")
}

/// The generation that a state is kept as.
pub(super) fn generation(number: u64, wanted: &Wanted, at: u64) -> Generation {
    Generation {
        format: GENERATION_FORMAT,
        number,
        revision: wanted.key.commit.clone(),
        inputs: wanted.key.inputs,
        at,
        withheld: wanted.withheld.clone(),
        wants: (!wanted.withheld.is_empty()).then_some(wanted.effect),
        desired: wanted.desired.clone(),
    }
}

pub(super) fn in_force(number: u64, wanted: &Wanted, good: bool) -> InForce {
    InForce {
        generation: number,
        revision: wanted.key.commit.clone(),
        effect: wanted.desired.effect(),
        whole: wanted.withheld.is_empty(),
        good,
    }
}

pub(super) fn part(pass: &mut Pass, name: &str, begun: Instant) {
    pass.parts.push(PartTime { part: name.to_owned(), ms: millis(begun) });
}

pub(super) fn millis(begun: Instant) -> u64 {
    u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// How long ago something began that another process may have begun; 0 when the clock went back meanwhile.
pub(super) fn since(at: u64) -> u64 {
    now_ms().saturating_sub(at.saturating_mul(1000))
}

impl Refused {
    /// When what a checker refused is looked at again.
    pub(super) fn again() -> Instant {
        Instant::now() + CHECK_AGAIN
    }
}
