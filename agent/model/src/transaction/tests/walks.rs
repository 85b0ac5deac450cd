//! Random walks of the machine: commits, faults, kills, reboots, a source that goes away, drift, and people who ask again. Whatever
//! happened, once it stops the host is as the newest commit says, or as the last good state with that commit denied, or as the mix that the
//! denial names; and nothing else.

use std::collections::BTreeSet;
use std::fmt;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use super::digest;
use super::machine::Machine;
use crate::desired::{Desired, Node, Role};
use crate::health::{HealthCheck, Probe, Timing};
use crate::names::{ComponentName, HostPath};
use crate::plan::tests::host::{Faults, entry_of, origin, unit};
use crate::plan::tests::properties::{DROP_IN, any_desired, any_host, check_converged, text};
use crate::report::Outcome;
use crate::transaction::*;

/// A commit's state, told in short when a walk goes wrong.
#[derive(Clone)]
struct State(Desired);

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, entry) in &self.0.entries {
            let version = (0..3).find(|version| entry_of("x", &text(at.as_str(), *version), Role::Plain).state == entry.state);
            write!(f, "{}:{at}={} ", entry.origin.component, version.unwrap_or(9))?;
        }
        for (name, unit) in &self.0.units {
            let reads: Vec<&str> = unit.uses.iter().map(HostPath::as_str).collect();
            write!(f, "{name} reads {reads:?} {:?} ", unit.on_change)?;
        }
        let checks: Vec<&str> = self.0.health.iter().map(|check| check.origin.component.as_str()).collect();
        let needs: Vec<String> = self.0.components.iter().map(|(own, needs)| format!("{own}>{needs:?}")).collect();
        write!(f, "checks {checks:?} needs {needs:?} alone {:?}", self.0.isolated)
    }
}

/// What happens to a machine.
#[derive(Debug, Clone)]
enum Event {
    Push(State),
    /// The newest commit with another version of one of its files, and a pass.
    Change(&'static str, u8),
    /// Another commit that wants the same as the newest.
    Again,
    /// An earlier commit again.
    Revert(prop::sample::Index),
    Pass,
    /// A pass that is killed after so many durable steps, perhaps with a reboot.
    Kill(usize, bool),
    Reboot,
    /// Killed again and again, after so many durable steps each time.
    Loop(usize),
    Retry,
    /// The newest commit cuts the host off; or seems to, for after it the source is away for so many polls more.
    Cut(u8),
    /// What that file has in the state in force is no longer borne by who reads it, at its next start.
    Break(&'static str),
    Source(bool),
    Edit(&'static str),
    Stop,
}

const FILES: [&str; 6] =
    ["/etc/systemd/system/a.service", "/etc/systemd/system/b.service", DROP_IN, "/etc/conf", "/etc/own", "/etc/shared"];

fn any_file() -> impl Strategy<Value = &'static str> {
    prop::sample::select(&FILES[..])
}

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => any_state().prop_map(|desired| Event::Push(State(desired))),
        6 => (any_file(), 0..3u8).prop_map(|(at, version)| Event::Change(at, version)),
        1 => any_file().prop_map(Event::Break),
        2 => Just(Event::Again),
        1 => (0..5u8).prop_map(Event::Cut),
        1 => (2..30usize).prop_map(Event::Loop),
        2 => any::<prop::sample::Index>().prop_map(Event::Revert),
        7 => Just(Event::Pass),
        6 => (0..40usize, any::<bool>()).prop_map(|(fuel, reboot)| Event::Kill(fuel, reboot)),
        1 => Just(Event::Reboot),
        1 => Just(Event::Retry),
        2 => any::<bool>().prop_map(Event::Source),
        1 => any_file().prop_map(Event::Edit),
        1 => Just(Event::Stop),
    ]
}

/// A state with checks: `app` and, where it needs that, `web` ask whether a.service answers.
fn any_state() -> impl Strategy<Value = Desired> {
    (any_desired(), any::<[bool; 2]>()).prop_map(|(mut desired, asks)| {
        let timing = Timing { timeout_ms: 1000, interval_ms: 1000, settle_ms: 0, retries: 0 };
        if desired.units.contains_key("a.service") {
            let web_needs_it = desired.components["web"].contains("app");
            for (of, asked) in [("app", asks[0]), ("web", asks[1] && web_needs_it)] {
                if asked {
                    let probe = Probe::Unit { unit: unit("a.service") };
                    desired.health.push(HealthCheck { probe, timing, origin: origin(of) });
                }
            }
        }
        desired
    })
}

/// Contents that do not start, die, or do not answer.
fn any_faults() -> impl Strategy<Value = [Vec<String>; 3]> {
    let texts: Vec<String> = FILES.iter().flat_map(|at| (0..3).map(|version| text(at, version))).collect();
    let some = move || prop::sample::subsequence(texts.clone(), 0..3);
    [some(), some(), some()]
}

fn faults([refused, deadly, mute]: &[Vec<String>; 3]) -> Faults {
    let digests = |list: &[String]| list.iter().map(|text| digest(text)).collect();
    Faults { refused: digests(refused), deadly: digests(deadly), mute: digests(mute) }
}

fn any_machine() -> impl Strategy<Value = Machine> {
    (any_host(), prop::bool::weighted(0.3), prop::bool::weighted(0.2)).prop_map(|(host, guarded, reboots)| {
        let mut machine = Machine::new(host);
        (machine.guarded, machine.reboots) = (guarded, reboots);
        machine
    })
}

fn happen(machine: &mut Machine, pushed: &mut Vec<Desired>, event: &Event) {
    match event {
        Event::Push(State(desired)) => {
            pushed.push(desired.clone());
            machine.push(desired.clone());
        }
        Event::Change(at, version) => {
            let mut desired = machine.tip.1.clone();
            if let Some(entry) = desired.entries.get_mut(*at) {
                entry.state.node = entry_of("x", &text(at, *version), Role::Plain).state.node;
                pushed.push(desired.clone());
                machine.push(desired);
                machine.pass().unwrap();
            }
        }
        Event::Again => machine.push(machine.tip.1.clone()),
        Event::Revert(index) if !pushed.is_empty() => machine.push(index.get(pushed).clone()),
        Event::Pass => {
            machine.pass().unwrap();
        }
        Event::Kill(fuel, reboot) => {
            machine.host.fuel = Some(*fuel);
            // The pass may end before it can be killed; the process is ended all the same.
            let _ = machine.pass();
            machine.restart(*reboot);
        }
        Event::Loop(fuel) => {
            for _ in 0..5 {
                machine.host.fuel = Some(*fuel);
                let _ = machine.pass();
                machine.restart(false);
            }
        }
        Event::Cut(polls) => {
            machine.cut_off_by = Some(machine.tip.1.effect());
            machine.pass().unwrap();
            machine.cut_off_by = None;
            machine.reachable = false;
            for _ in 0..*polls {
                machine.pass().unwrap();
            }
            machine.reachable = true;
        }
        Event::Break(at) => {
            let entry = machine.current.as_ref().and_then(|current| current.desired.entries.get(*at));
            if let Some(Node::File { digest, .. }) = entry.map(|entry| &entry.state.node) {
                machine.broken = true;
                machine.host.faults.refused.insert(*digest);
            }
        }
        Event::Reboot => machine.restart(true),
        Event::Retry => machine.retry(),
        Event::Source(reachable) => machine.reachable = *reachable,
        Event::Edit(at) if machine.host.files.contains_key(*at) => machine.host.file(at, "edited", 0o644),
        Event::Revert(_) | Event::Edit(_) => {}
        Event::Stop => machine.host.found(&unit("a.service")).active = "inactive".to_owned(),
    }
}

/// Passes, and reboots where one is waited for, until nothing moves any more.
fn rest(machine: &mut Machine) -> Result<Outcome, TestCaseError> {
    let mut last = None;
    for _ in 0..12 {
        let before = (machine.host.ledger.clone(), machine.host.files.clone(), machine.host.units.clone());
        last = Some(machine.pass().unwrap());
        if machine.host.ledger.trial.as_ref().is_some_and(|trial| trial.phase == Phase::AwaitingReboot) {
            machine.restart(true);
        } else if before == (machine.host.ledger.clone(), machine.host.files.clone(), machine.host.units.clone()) {
            return Ok(last.unwrap());
        }
    }
    Err(TestCaseError::fail(format!("it does not come to rest: {last:?} {:#?}", machine.host.ledger)))
}

/// What of a state is of one component.
fn part(desired: &Desired, component: &ComponentName) -> Desired {
    let mut part = desired.clone();
    part.entries.retain(|_, entry| entry.origin.component == *component);
    part.units.retain(|_, unit| unit.origin.component == *component);
    part.images.clear();
    part.components.clear();
    part.isolated.clear();
    part.health.retain(|check| check.origin.component == *component);
    part.exclusive.retain(|_, exclusive| exclusive.component() == component);
    // A drop-in of another component may come and go.
    part.units.values_mut().for_each(|unit| unit.definition.retain(|at| at.as_str() != DROP_IN));
    part
}

/// Nothing but what may be there at rest.
fn check_end(machine: &Machine, pushed: &[Desired]) -> Result<(), TestCaseError> {
    let ledger = &machine.host.ledger;
    prop_assert_eq!(&machine.host.ledger, &machine.host.disk);
    prop_assert!(ledger.trial.is_none(), "{:#?}", ledger.trial);
    let (_, tip) = &machine.tip;
    let entry = denied(&ledger.denied, &tip.effect());
    let Some(current) = &machine.current else {
        prop_assert!(pushed.is_empty() || entry.is_some(), "nothing is in force, and nothing is denied");
        return check_converged(&machine.host, &Desired::default());
    };
    prop_assert_eq!((ledger.generation, ledger.good), (current.number, current.number));
    check_converged(&machine.host, &current.desired)?;
    let effect = current.desired.effect();
    if effect == tip.effect() {
        return Ok(());
    }
    let Some(entry) = entry else {
        return Err(TestCaseError::fail(format!("neither the newest commit is in force nor is it denied: {ledger:#?}")));
    };
    prop_assert!(machine.proven.get(&current.number) == Some(&effect), "what is in force was never found healthy");
    if entry.is_whole() {
        return Ok(());
    }
    for component in tip.components.keys() {
        let held = part(&current.desired, component);
        let is_new = held.effect() == part(tip, component).effect();
        let is_old =
            pushed.iter().any(|old| part(old, component).effect() == held.effect()) || held.effect() == Desired::default().effect();
        prop_assert!(is_new || is_old, "{component} is as no commit had it");
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn once_faults_stop_the_newest_is_in_force_or_denied_and_the_last_good_one_is(
        start in any_machine(), bad in any_faults(), events in prop::collection::vec(any_event(), 1..14), retried: bool,
    ) {
        let (mut machine, mut pushed) = (start, Vec::new());
        machine.host.faults = faults(&bad);
        for event in &events {
            happen(&mut machine, &mut pushed, event);
        }
        machine.restart(false);
        machine.host.faults = Faults::default();
        machine.reachable = true;
        if retried {
            machine.retry();
        }
        rest(&mut machine)?;
        check_end(&machine, &pushed)?;
        if retried && !pushed.is_empty() {
            prop_assert_eq!(machine.current.unwrap().desired.effect(), machine.tip.1.effect(), "asked for again, it is in force");
        }
    }

    #[test]
    fn faults_that_last_leave_a_good_state_in_force_or_a_stated_mess(
        start in any_machine(), bad in any_faults(), events in prop::collection::vec(any_event(), 1..14),
    ) {
        let (mut machine, mut pushed) = (start, Vec::new());
        machine.host.faults = faults(&bad);
        for event in &events {
            happen(&mut machine, &mut pushed, event);
        }
        machine.restart(false);
        machine.reachable = true;
        let mut outcomes = BTreeSet::new();
        for _ in 0..6 {
            outcomes.insert(machine.pass().unwrap());
            if machine.host.ledger.trial.as_ref().is_some_and(|trial| trial.phase == Phase::AwaitingReboot) {
                machine.restart(true);
            }
        }
        let ledger = &machine.host.ledger;
        match &ledger.trial {
            // Only a good state whose own units fail cannot be gone back to.
            Some(trial) => {
                prop_assert_eq!((trial.phase, trial.generation), (Phase::Degraded, trial.back_to));
                prop_assert!(!trial.amiss.is_empty());
            }
            None if ledger.good > 0 && ledger.generation == ledger.good && !outcomes.contains(&Outcome::Partial) => {
                check_end(&machine, &pushed)?;
            }
            None => {}
        }
    }
}

#[test]
fn the_walks_go_everywhere() {
    let mut runner = TestRunner::deterministic();
    let walks = (any_machine(), any_faults(), prop::collection::vec(any_event(), 10..20));
    let mut seen = BTreeSet::new();
    for _ in 0..1000 {
        let (mut machine, bad, events) = walks.new_tree(&mut runner).unwrap().current();
        machine.host.faults = faults(&bad);
        let mut pushed = Vec::new();
        for event in &events {
            happen(&mut machine, &mut pushed, event);
        }
        seen.extend(machine.seen);
    }
    let all = [
        "acquitted",
        "awaiting a reboot",
        "cut off",
        "degraded",
        "gone forward with by another process",
        "undone",
        "undone by another process",
        "undone in part",
        "withheld",
        "worn out",
    ];
    let missed: Vec<_> = all.iter().filter(|place| !seen.contains(**place)).collect();
    assert!(missed.is_empty(), "no walk came by {missed:?}");
}
