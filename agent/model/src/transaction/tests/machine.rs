//! The passes of the daemon re-enacted without a disk, a clock or systemd: the same decisions in the same order (`cycle` in the daemon:
//! resume, aim, attempt, confirm, undo), with a kill possible at every durable step, and with what must hold checked on the way.
//!
//! Limits: guards that ask a person, hooks, pulls that fail and lost races are not re-enacted.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::desired::Desired;
use crate::digest::Digest;
use crate::health::Probe;
use crate::names::{ComponentName, HostPath, UnitName};
use crate::plan::Plan;
use crate::plan::tests::host::{Host, Killed};
use crate::report::{Failure, Outcome};
use crate::transaction::*;

/// A state that is about to be put in force.
#[derive(Debug, Clone)]
struct Wanted {
    revision: String,
    desired: Desired,
    /// Of all that the commit wants.
    effect: Digest,
    whole: bool,
}

/// A host, its store, its agent, and its source.
#[derive(Clone)]
pub(super) struct Machine {
    pub(super) host: Host,
    pub(super) store: BTreeMap<u64, Generation>,
    /// The newest commit.
    pub(super) tip: (String, Desired),
    /// The source can be reached.
    pub(super) reachable: bool,
    /// The state with which the source cannot be reached.
    pub(super) cut_off_by: Option<Digest>,
    /// Every change must be confirmed.
    pub(super) guarded: bool,
    /// Every change asks for a reboot.
    pub(super) reboots: bool,
    /// What the host is held to, in the memory of this process.
    pub(super) current: Option<Generation>,
    resumed: bool,
    boot: u32,
    passes: u64,
    /// What was found healthy and committed, by generation.
    pub(super) proven: BTreeMap<u64, Digest>,
    /// What was denied and not asked for again.
    banned: BTreeSet<Digest>,
    /// What was healthy once is not any more: a commit is not to blame for that.
    pub(super) broken: bool,
    /// What this machine came by, for a test that the walks go everywhere.
    pub(super) seen: BTreeSet<&'static str>,
}

impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, guarded, reboots, .. } = self;
        let files: Vec<&str> = host.files.keys().map(HostPath::as_str).collect();
        write!(f, "guarded {guarded}, reboots {reboots}, dim {}, files {files:?}", host.dim)
    }
}

impl Machine {
    pub(super) fn new(host: Host) -> Self {
        Self {
            host,
            store: BTreeMap::new(),
            tip: (String::new(), Desired::default()),
            reachable: true,
            cut_off_by: None,
            guarded: false,
            reboots: false,
            current: None,
            resumed: false,
            boot: 0,
            passes: 0,
            proven: BTreeMap::new(),
            banned: BTreeSet::new(),
            broken: false,
            seen: BTreeSet::new(),
        }
    }

    /// A new commit.
    pub(super) fn push(&mut self, desired: Desired) {
        let number: u32 = self.tip.0.parse().unwrap_or(0);
        self.tip = ((number + 1).to_string(), desired);
    }

    /// A new process, after a kill or a power cut.
    pub(super) fn restart(&mut self, reboot: bool) {
        self.host.restart(reboot);
        if reboot {
            let dormant = std::mem::take(&mut self.host.faults_of_the_boot);
            self.host.faults.deadly.extend(dormant);
        }
        self.boot += u32::from(reboot);
        self.resumed = false;
        let number = match &self.host.ledger.trial {
            Some(trial) if matches!(trial.phase, Phase::AwaitingReboot | Phase::Degraded) => trial.generation,
            _ => self.host.ledger.generation,
        };
        self.current = self.store.get(&number).cloned();
        assert!(number == 0 || self.current.is_some(), "generation {number} is lost");
    }

    /// A person asks for what was denied.
    pub(super) fn retry(&mut self) {
        if self.host.ledger.retry(None) {
            self.banned.clear();
        }
        let _ = self.host.save();
    }

    /// One pass; killed when the host's fuel is used up.
    pub(super) fn pass(&mut self) -> Result<Outcome, Killed> {
        self.passes += 1;
        self.host.wait();
        if let Some(outcome) = self.resume()? {
            return Ok(outcome);
        }
        let mut told = Outcome::Unchanged;
        if let Some(wanted) = self.ask(&mut told)? {
            return self.attempt(wanted).map(|outcome| outcome.max(told));
        }
        self.hold().map(|outcome| outcome.max(told))
    }

    fn boot_id(&self) -> String {
        self.boot.to_string()
    }

    fn resume(&mut self) -> Result<Option<Outcome>, Killed> {
        let first = !std::mem::replace(&mut self.resumed, true);
        let boot = self.boot_id();
        let Some(trial) = self.host.ledger.trial.as_mut() else { return Ok(None) };
        let what = match (first, trial.phase) {
            (true, _) => trial.resume(&boot),
            (false, Phase::AwaitingReboot | Phase::Degraded) => return Ok(None),
            (false, phase) => panic!("{phase:?} is left by no pass that ended"),
        };
        let trial = trial.clone();
        if what == Resume::Wait || trial.phase == Phase::Degraded {
            return Ok(None);
        }
        self.host.save()?;
        let tried = self.recall(trial.generation);
        let whole = tried.withheld.is_empty();
        let wanted = Wanted { revision: trial.revision, desired: tried.desired, effect: trial.effect, whole };
        match what {
            Resume::Forward => {
                self.seen.insert("gone forward with by another process");
                let first = self.host.plan(&wanted.desired).without_prune();
                let in_force = self.current.as_ref().map(|current| &current.desired);
                self.host.ledger.trial.as_mut().unwrap().cover(&first, &wanted.desired, in_force);
                self.go_forward(&wanted, tried.number, &first)
            }
            Resume::Undo(why) => {
                self.seen.insert("worn out");
                let cause = Failure { resource: "trial".to_owned(), message: why, skipped: false };
                self.undo(&wanted.desired, None, cause, DeniedBy::Health)
            }
            Resume::GoOnUndoing | Resume::Wait => {
                self.seen.insert("undone by another process");
                self.go_back()
            }
        }
        .map(Some)
    }

    /// The newest commit, if it is to be tried.
    fn ask(&mut self, told: &mut Outcome) -> Result<Option<Wanted>, Killed> {
        let (acquitted, dirty) = self.host.ledger.polled(self.reachable);
        self.seen.extend(acquitted.map(|_| "acquitted"));
        if dirty {
            self.banned = self.host.ledger.denied.iter().map(|entry| entry.effect).collect();
            self.host.save()?;
        }
        let (revision, desired) = self.tip.clone();
        let list = &self.host.ledger.denied;
        let is_known =
            |current: &Generation| current.revision == revision && is_settled(&current.withheld, current.wants.as_ref(), list);
        if !self.reachable || revision.is_empty() || self.current.as_ref().is_some_and(is_known) {
            return Ok(None);
        }
        let effect = desired.effect();
        let wanted = Wanted { revision, desired, effect, whole: true };
        let Some(entry) = denied(&self.host.ledger.denied, &effect) else { return Ok(Some(wanted)) };
        let Some(current) = &self.current else { return Ok(None) };
        if current.desired.effect() == effect {
            return Ok(Some(wanted));
        }
        *told = Outcome::RolledBack;
        if entry.is_whole() {
            return Ok(None);
        }
        let left = without(&wanted.desired, &current.desired, &entry.components, &self.host.ledger.denied);
        self.seen.insert(if left.is_some() { "withheld" } else { "not told apart" });
        Ok(left.map(|(desired, _)| Wanted { desired, whole: false, ..wanted }))
    }

    /// Drift of the state in force is put right; what could not be undone is tried again.
    fn hold(&mut self) -> Result<Outcome, Killed> {
        if self.host.ledger.trial.as_ref().is_some_and(|trial| trial.phase == Phase::Degraded) {
            return self.go_back();
        }
        let Some(current) = self.current.clone() else { return Ok(Outcome::Unchanged) };
        let plan = self.host.plan(&current.desired);
        let applied = self.host.apply(&current.desired, &plan)?;
        let complete = applied.failed.is_empty() && plan.problems.is_empty();
        let ledger = &self.host.ledger;
        if complete && ledger.trial.is_none() && ledger.good != current.number && ledger.generation == current.number {
            let (all, units) = everything(&current.desired);
            if !self.sick(&current.desired, &all, &units).is_empty() {
                return Ok(Outcome::Partial);
            }
            let effect = current.desired.effect();
            let whole = current.withheld.is_empty();
            self.commit(&Wanted { revision: current.revision, desired: current.desired, effect, whole }, current.number, true)?;
        }
        Ok(match (complete, plan.is_empty()) {
            (false, _) => Outcome::Partial,
            (true, false) => Outcome::Converged,
            (true, true) => Outcome::Unchanged,
        })
    }

    fn attempt(&mut self, wanted: Wanted) -> Result<Outcome, Killed> {
        let mut plan = self.host.plan(&wanted.desired);
        for image in wanted.desired.images.keys() {
            self.host.burn()?;
            self.host.images.insert(image.clone());
        }
        for (_, _, _, digest, _) in wanted.desired.artifacts() {
            self.host.burn()?;
            self.host.contents.insert(digest);
        }
        plan.without_pulls();
        let is_same = self.current.as_ref().is_some_and(|current| current.desired.effect() == wanted.desired.effect());
        let number = match &self.current {
            Some(current) if is_same => current.number,
            _ => self.host.ledger.next_number(),
        };
        let first = plan.without_prune();
        let good = self.host.ledger.good;
        let is_repair = is_same && self.host.ledger.trial.is_none();
        let in_force = self.current.as_ref().map(|current| &current.desired);
        let is_something = !first.steps.is_empty() || !newly_checked(&wanted.desired, in_force).is_empty();
        let is_trial = (!is_repair && is_something && (good > 0 || self.guarded)) || self.host.ledger.trial.is_some();
        assert!(is_same || !self.banned.contains(&wanted.desired.effect()), "what is denied is tried again");
        if is_trial {
            let mut trial = Trial {
                phase: Phase::Trying,
                generation: number,
                back_to: good,
                revision: wanted.revision.clone(),
                effect: wanted.effect,
                watch: BTreeSet::new(),
                affected: BTreeSet::new(),
                guarded: self.guarded.then(|| "everything".to_owned()).into_iter().collect(),
                reboot: self.reboots,
                starts: 1,
                boot: self.boot_id(),
                pass: self.passes,
                at: 0,
                fallen: BTreeSet::new(),
                blameless: false,
                causes: Vec::new(),
                amiss: Vec::new(),
            };
            trial.cover(&first, &wanted.desired, in_force);
            self.host.ledger.trial = Some(trial);
        }
        self.keep(number, &wanted)?;
        self.go_forward(&wanted, number, &first)
    }

    fn go_forward(&mut self, wanted: &Wanted, number: u64, first: &Plan) -> Result<Outcome, Killed> {
        let applied = self.host.apply(&wanted.desired, first)?;
        let Some(trial) = self.host.ledger.trial.clone() else {
            let mut good = applied.failed.is_empty() && first.problems.is_empty();
            let (affected, watch) = if self.host.ledger.good == number {
                (affected(first, &wanted.desired, Some(&wanted.desired)), watched(first))
            } else {
                everything(&wanted.desired)
            };
            if good && (!first.steps.is_empty() || self.host.ledger.good != number) {
                good = self.sick(&wanted.desired, &affected, &watch).is_empty();
            }
            self.commit(wanted, number, good)?;
            self.prune()?;
            return Ok(if good { Outcome::Converged } else { Outcome::Partial });
        };
        let failed =
            if applied.failed.is_empty() { self.sick(&wanted.desired, &trial.affected, &trial.watch) } else { applied.failed };
        if !failed.is_empty() {
            let cause = Failure { resource: "units".to_owned(), message: format!("{failed:?}"), skipped: false };
            return self.undo(&wanted.desired, Some(failed), cause, DeniedBy::Health);
        }
        let boot = self.boot_id();
        let trial = self.host.ledger.trial.as_mut().unwrap();
        if trial.reboot && trial.boot == boot {
            trial.phase = Phase::AwaitingReboot;
            self.seen.insert("awaiting a reboot");
            self.host.save()?;
            self.current = self.store.get(&number).cloned();
            return Ok(Outcome::Converged);
        }
        if trial.guarded.is_empty() {
            self.commit(wanted, number, true)?;
            self.prune()?;
            return Ok(Outcome::Converged);
        }
        trial.phase = Phase::Confirming;
        self.host.save()?;
        self.confirm(wanted, number)
    }

    fn confirm(&mut self, wanted: &Wanted, number: u64) -> Result<Outcome, Killed> {
        if !self.reachable || self.cut_off_by == Some(wanted.desired.effect()) {
            let cause = Failure { resource: "source".to_owned(), message: "it was not reached".to_owned(), skipped: false };
            return self.undo(&wanted.desired, None, cause, DeniedBy::Reach { unreached: 0 });
        }
        self.commit(wanted, number, true)?;
        self.prune()?;
        Ok(Outcome::Converged)
    }

    /// Which components have units that do not run, or checks that are not answered.
    fn sick(
        &mut self,
        desired: &Desired,
        affected: &BTreeSet<ComponentName>,
        watch: &BTreeSet<UnitName>,
    ) -> BTreeSet<ComponentName> {
        self.host.wait();
        let mut sick = BTreeSet::new();
        for check in desired.health.iter().filter(|check| affected.contains(&check.origin.component)) {
            let Probe::Unit { unit } = &check.probe else { panic!("only checks of units here") };
            if !self.host.answers(unit) {
                sick.insert(check.origin.component.clone());
            }
        }
        for unit in watch {
            let Some(want) = desired.units.get(unit) else { continue };
            if self.host.units.get(unit).is_none_or(|found| found.active != "active") {
                sick.insert(want.origin.component.clone());
            }
        }
        sick
    }

    fn commit(&mut self, wanted: &Wanted, number: u64, good: bool) -> Result<(), Killed> {
        let was_trial = self.host.ledger.trial.is_some();
        let effect = wanted.desired.effect();
        if good && (was_trial || !self.proven.values().any(|proven| *proven == effect)) {
            self.check_healthy(&wanted.desired);
        }
        let state = InForce { generation: number, revision: wanted.revision.clone(), effect, whole: wanted.whole, good };
        let is_known = {
            let ledger = &self.host.ledger;
            ledger.generation == number && ledger.good == number && ledger.revision == wanted.revision
        };
        if !is_known || was_trial {
            self.host.ledger.commit(state, Ended::Committed, end());
            self.host.save()?;
        }
        if good {
            self.proven.insert(number, effect);
        }
        self.current = self.store.get(&number).cloned();
        self.collect();
        Ok(())
    }

    /// What is committed after a trial is in place and healthy, all of it.
    fn check_healthy(&mut self, desired: &Desired) {
        self.host.wait();
        if self.broken {
            return;
        }
        for (name, want) in desired.units.iter().filter(|(_, want)| want.active == Some(true)) {
            assert_eq!(self.host.units[name].active, "active", "{name} does not run and is committed as good");
            assert_eq!(self.host.running[name], self.host.read_by(want), "{name} runs with old input and is committed as good");
        }
        for check in &desired.health {
            let Probe::Unit { unit } = &check.probe else { panic!("only checks of units here") };
            assert!(self.host.answers(unit), "{unit} does not answer {} and is committed as good", check.origin.component);
        }
    }

    fn prune(&mut self) -> Result<(), Killed> {
        let Some(current) = self.current.clone() else { return Ok(()) };
        if !removals(&current.desired, &self.host.ledger).is_empty() {
            let plan = self.host.plan(&current.desired);
            self.host.apply(&current.desired, &plan)?;
        }
        Ok(())
    }

    fn undo(
        &mut self,
        tried: &Desired,
        failed: Option<BTreeSet<ComponentName>>,
        cause: Failure,
        by: DeniedBy,
    ) -> Result<Outcome, Killed> {
        let trial = self.host.ledger.trial.clone().unwrap();
        let good = self.recall(trial.back_to);
        let part =
            failed.filter(|_| good.number > 0).and_then(|failed| target(tried, &good.desired, &failed, &self.host.ledger.denied));
        let (number, fallen) = match part {
            None => (good.number, BTreeSet::new()),
            Some((desired, fallen)) => {
                self.seen.insert("undone in part");
                let number = self.host.ledger.next_number();
                assert!(!self.banned.contains(&desired.effect()), "what is denied is gone back to");
                self.keep(number, &Wanted { revision: trial.revision.clone(), effect: trial.effect, desired, whole: false })?;
                (number, fallen)
            }
        };
        if by != DeniedBy::Health {
            self.seen.insert("cut off");
        }
        self.banned.insert(trial.effect);
        self.host.ledger.undo(number, fallen, vec![cause], Some(by), end());
        self.host.save()?;
        self.go_back()
    }

    fn go_back(&mut self) -> Result<Outcome, Killed> {
        loop {
            let trial = self.host.ledger.trial.clone().unwrap();
            let target = self.recall(trial.generation);
            self.current = Some(target.clone());
            let plan = self.host.plan(&target.desired);
            let applied = self.host.apply(&target.desired, &plan)?;
            let mut sick = applied.failed;
            if sick.is_empty() {
                let watch: BTreeSet<UnitName> = trial.watch.into_iter().chain(watched(&plan)).collect();
                let judged = trial.affected.union(&affected(&plan, &target.desired, None)).cloned().collect();
                sick = self.sick(&target.desired, &judged, &watch);
            }
            let amiss: Vec<Failure> = sick
                .iter()
                .map(|sick| Failure { resource: sick.to_string(), message: String::new(), skipped: false })
                .chain(plan.problems.iter().map(|problem| Failure {
                    resource: problem.resource.clone(),
                    message: problem.message.clone(),
                    skipped: false,
                }))
                .collect();
            if !amiss.is_empty() && self.host.ledger.fall(&amiss) {
                self.seen.insert("undone in part, and then the rest");
                self.host.save()?;
                continue;
            }
            let outcome = if amiss.is_empty() { Outcome::RolledBack } else { Outcome::Degraded };
            self.seen.insert(if amiss.is_empty() { "undone" } else { "degraded" });
            let effect = target.desired.effect();
            if amiss.is_empty() && target.number != trial.back_to {
                self.check_healthy(&target.desired);
                self.proven.insert(target.number, effect);
            }
            let whole = target.withheld.is_empty();
            let state = InForce { generation: target.number, revision: target.revision, effect, whole, good: true };
            self.host.ledger.undone(state, amiss, end());
            self.host.save()?;
            if target.number == 0 && self.host.ledger.trial.is_none() {
                self.current = None;
            }
            self.collect();
            return Ok(outcome);
        }
    }

    fn recall(&self, number: u64) -> Generation {
        let nothing = || Generation {
            format: GENERATION_FORMAT,
            number: 0,
            revision: String::new(),
            inputs: Digest::of(b""),
            at: 0,
            withheld: Vec::new(),
            wants: None,
            desired: Desired::default(),
        };
        if number == 0 { nothing() } else { self.store.get(&number).cloned().expect("a generation that is held is kept") }
    }

    fn keep(&mut self, number: u64, wanted: &Wanted) -> Result<(), Killed> {
        self.host.burn()?;
        let held = Withheld { component: "any".parse().unwrap(), because: None, again: false };
        let generation = Generation {
            format: GENERATION_FORMAT,
            number,
            revision: wanted.revision.clone(),
            inputs: Digest::of(b""),
            at: 0,
            withheld: (!wanted.whole).then_some(held).into_iter().collect(),
            wants: (!wanted.whole).then_some(wanted.effect),
            desired: wanted.desired.clone(),
        };
        self.store.insert(number, generation);
        Ok(())
    }

    /// Nothing is kept but what the ledger holds: the hardest bound.
    fn collect(&mut self) {
        let held = self.host.ledger.held();
        self.store.retain(|number, _| held.contains(number));
        let good = self.host.ledger.good;
        assert!(good == 0 || self.store.contains_key(&good), "the good generation {good} is lost");
    }
}

fn end() -> End {
    End { at: 0, duration_ms: 0, reason: String::new() }
}
