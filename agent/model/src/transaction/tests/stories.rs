//! Courses of events of the machine that random walks seldom take.

use super::machine::Machine;
use super::{components, digest};
use crate::desired::{Desired, Role};
use crate::plan::tests::host::{Faults, Host, entry_of, path, service_of, unit};
use crate::report::Outcome;
use crate::transaction::*;

/// Two services that know nothing of each other; a component that is empty is not there.
fn state(app: &str, web: &str) -> Desired {
    let mut desired = Desired::default();
    for (of, name, text) in [("app", "a.service", app), ("web", "b.service", web)] {
        if !text.is_empty() {
            let at = format!("/etc/systemd/system/{name}");
            desired.entries.insert(path(&at), entry_of(of, text, Role::Unit(unit(name))));
            desired.units.insert(unit(name), service_of(of, &at, &[]));
            desired.components.insert(of.parse().unwrap(), components(&[]));
        }
    }
    desired
}

/// `app1` and `web1` are in force; some contents do not start, some die.
fn machine(refused: &[&str], deadly: &[&str]) -> Machine {
    let mut machine = Machine::new(Host::default());
    let digests = |list: &[&str]| list.iter().map(|text| digest(text)).collect();
    machine.host.faults = Faults { refused: digests(refused), deadly: digests(deadly), ..Faults::default() };
    assert_eq!(push(&mut machine, state("app1", "web1")), Outcome::Converged);
    machine
}

fn push(machine: &mut Machine, desired: Desired) -> Outcome {
    machine.push(desired);
    machine.pass().unwrap()
}

fn is_in_force(machine: &Machine, desired: &Desired) {
    assert_eq!(machine.current.as_ref().map(|current| &current.desired), Some(desired));
    assert_eq!(machine.host.ledger.good, machine.host.ledger.generation);
    assert!(machine.host.plan(desired).is_empty());
}

#[test]
fn only_the_component_that_fails_is_held_back() {
    let mut machine = machine(&[], &["web2"]);
    assert_eq!(push(&mut machine, state("app2", "web2")), Outcome::RolledBack);
    is_in_force(&machine, &state("app2", "web1"));
    // Another commit that wants the same holds it back without trying it; one that mends it is taken over.
    let generation = machine.host.ledger.generation;
    assert_eq!(push(&mut machine, state("app2", "web2")), Outcome::RolledBack);
    is_in_force(&machine, &state("app2", "web1"));
    assert_eq!(machine.host.ledger.generation, generation, "that is the state in force already");
    assert_eq!(push(&mut machine, state("app2", "web3")), Outcome::Converged);
    is_in_force(&machine, &state("app2", "web3"));
}

#[test]
fn what_was_started_and_not_judged_yet_is_judged_on_the_way_back() {
    // web2 fails the switch before anybody looks whether app2 stays up.
    let mut machine = machine(&["web2"], &["app2"]);
    assert_eq!(push(&mut machine, state("app2", "web2")), Outcome::RolledBack);
    assert!(machine.seen.contains("undone in part, and then the rest"));
    is_in_force(&machine, &state("app1", "web1"));
    assert!(machine.host.ledger.denied[0].is_whole());
}

#[test]
fn what_is_left_is_not_what_was_denied_before() {
    let mut machine = machine(&["web2"], &["app2"]);
    assert_eq!(push(&mut machine, state("app2", "web1")), Outcome::RolledBack);
    machine.host.faults.deadly.clear();
    assert_eq!(push(&mut machine, state("app2", "web2")), Outcome::RolledBack);
    assert!(!machine.seen.contains("undone in part"));
    is_in_force(&machine, &state("app1", "web1"));
}

#[test]
fn what_cannot_be_told_apart_from_what_is_denied_is_not_tried() {
    let mut machine = machine(&["web2"], &[]);
    assert_eq!(push(&mut machine, state("app2", "web2")), Outcome::RolledBack);
    machine.host.faults = Faults::default();
    assert_eq!(push(&mut machine, state("app1", "web2")), Outcome::Converged);
    assert_eq!(push(&mut machine, state("app2", "web2")), Outcome::RolledBack);
    assert!(machine.seen.contains("not told apart"));
    is_in_force(&machine, &state("app1", "web2"));
    machine.retry();
    assert_eq!(machine.pass(), Ok(Outcome::Converged));
    is_in_force(&machine, &state("app2", "web2"));
}

#[test]
fn an_asking_again_is_not_lost_with_the_process() {
    let mut machine = machine(&[], &["web2"]);
    assert_eq!(push(&mut machine, state("app2", "web2")), Outcome::RolledBack);
    machine.host.faults = Faults::default();
    machine.retry();
    machine.restart(false);
    assert_eq!(machine.pass(), Ok(Outcome::Converged));
    is_in_force(&machine, &state("app2", "web2"));
}

#[test]
fn a_bad_commit_and_its_revert_end_where_it_began() {
    let mut machine = machine(&[], &["app2"]);
    assert_eq!(push(&mut machine, state("app2", "web1")), Outcome::RolledBack);
    assert_eq!(machine.host.ledger.denied.len(), 1);
    push(&mut machine, state("app1", "web1"));
    is_in_force(&machine, &state("app1", "web1"));
    assert_eq!((machine.host.ledger.generation, machine.pass()), (1, Ok(Outcome::Unchanged)));
}

#[test]
fn drift_that_cannot_be_repaired_under_another_commit_denies_nothing() {
    let mut machine = machine(&[], &[]);
    machine.host.faults.refused.insert(digest("app1"));
    machine.broken = true;
    machine.host.found(&unit("a.service")).active = "failed".to_owned();
    assert_eq!(push(&mut machine, state("app1", "web1")), Outcome::Partial);
    assert!(machine.host.ledger.denied.is_empty() && machine.host.ledger.trial.is_none());
    machine.host.faults = Faults::default();
    machine.pass().unwrap();
    is_in_force(&machine, &state("app1", "web1"));
}

#[test]
fn what_could_not_be_undone_is_healthy_before_it_counts_as_undone() {
    let mut machine = machine(&[], &["app2"]);
    machine.host.faults.deadly.insert(digest("app1"));
    machine.broken = true;
    assert_eq!(push(&mut machine, state("app2", "web1")), Outcome::Degraded);
    // It is started again each time, and dies again each time.
    for _ in 0..3 {
        assert_eq!(machine.pass(), Ok(Outcome::Degraded));
        assert!(machine.host.ledger.trial.as_ref().is_some_and(|trial| trial.phase == Phase::Degraded));
    }
    machine.host.faults = Faults::default();
    assert_eq!(machine.pass(), Ok(Outcome::RolledBack));
    is_in_force(&machine, &state("app1", "web1"));
}
