//! The transitions of a trial as edits of the ledger.

use super::{components, digest, failure, trial};
use crate::ledger::{Ledger, MAX_DENIED, MAX_LINES};
use crate::plan::tests::host::component;
use crate::transaction::*;

fn end() -> End {
    End { at: 2000, duration_ms: 5, reason: "because".to_owned() }
}

fn in_force(generation: u64, whole: bool, good: bool) -> InForce {
    InForce { generation, revision: format!("r{generation}"), effect: digest(&format!("e{generation}")), whole, good }
}

/// Generation 7 is good and in force; 8 is being tried.
fn trying() -> Ledger {
    let mut ledger = Ledger::default();
    ledger.commit(in_force(7, true, true), Ended::Committed, end());
    ledger.last = 8;
    ledger.trial = Some(trial());
    ledger
}

fn denial(effect: &str, by: DeniedBy) -> Denied {
    Denied {
        revision: format!("r-{effect}"),
        effect: digest(effect),
        components: components(&[]),
        back_to: 7,
        at: 1,
        pass: 1,
        causes: Vec::new(),
        by,
        tries: 1,
    }
}

#[test]
fn a_number_is_not_given_twice() {
    let mut ledger = Ledger { generation: 4, ..Ledger::default() };
    assert_eq!((ledger.next_number(), ledger.next_number()), (5, 6));
    ledger.generation = 2;
    assert_eq!(ledger.next_number(), 7);
}

#[test]
fn a_commit_is_in_force_good_and_told() {
    let mut ledger = trying();
    ledger.commit(in_force(8, true, true), Ended::Committed, end());
    assert_eq!((ledger.generation, ledger.good, ledger.revision.as_str()), (8, 8, "r8"));
    assert_eq!((ledger.trial.as_ref(), ledger.desired), (None, Some(digest("e8"))));
    let lines: Vec<(u64, Ended)> = ledger.history.iter().map(|line| (line.generation, line.end)).collect();
    assert_eq!(lines, [(8, Ended::Committed), (7, Ended::Committed)]);
    assert_eq!(ledger.history[0].reason, "because");
}

#[test]
fn what_is_not_good_or_not_whole_does_not_count_as_that() {
    let mut ledger = trying();
    ledger.commit(in_force(8, true, false), Ended::Committed, end());
    assert_eq!((ledger.generation, ledger.good, ledger.revision.as_str()), (8, 7, "r7"));
    ledger.commit(in_force(8, false, true), Ended::Committed, end());
    assert_eq!((ledger.generation, ledger.good, ledger.revision.as_str()), (8, 8, "r7"));
    // Two ends of one generation of the same kind are one line.
    assert_eq!(ledger.history.iter().filter(|line| line.generation == 8).count(), 1);
}

#[test]
fn a_commit_acquits_what_its_commit_meant_before_but_not_what_a_person_went_back_from() {
    let mut ledger = trying();
    for (effect, by) in
        [("old", DeniedBy::Health), ("person", DeniedBy::Person { reason: "no".to_owned() }), ("other", DeniedBy::Health)]
    {
        ledger.deny(denial(effect, by));
    }
    ledger.denied.iter_mut().filter(|entry| entry.effect != digest("other")).for_each(|entry| entry.revision = "r8".to_owned());
    let mut part = ledger.clone();
    part.commit(in_force(8, false, true), Ended::Committed, end());
    assert_eq!(part.denied.len(), 3, "what is withheld of it stays denied");
    ledger.commit(in_force(8, true, true), Ended::Committed, end());
    let effects: Vec<Digest> = ledger.denied.iter().map(|entry| entry.effect).collect();
    assert_eq!(effects, [digest("other"), digest("person")]);
}

#[test]
fn history_is_bounded() {
    let mut ledger = Ledger::default();
    for number in 1..=60 {
        ledger.commit(in_force(number, true, true), Ended::Committed, end());
    }
    assert_eq!((ledger.history.len(), ledger.history[0].generation), (MAX_LINES, 60));
}

#[test]
fn the_generation_before_is_the_last_other_one_that_was_in_force() {
    let mut ledger = trying();
    ledger.undo(7, components(&[]), vec![failure("unit a.service")], Some(DeniedBy::Health), end());
    ledger.undone(in_force(7, true, true), Vec::new(), end());
    ledger.commit(in_force(9, true, true), Ended::Committed, end());
    assert_eq!(ledger.before(|_| true), Some(7));
    assert_eq!(ledger.before(|number| number == 8), None, "8 was never in force");
}

#[test]
fn what_is_undone_is_denied_before_it_is_undone() {
    let mut ledger = trying();
    let causes = vec![failure("unit a.service")];
    ledger.undo(9, components(&["web"]), causes.clone(), Some(DeniedBy::Health), end());
    let open = ledger.trial.clone().unwrap();
    assert_eq!((open.phase, open.generation, open.back_to), (Phase::RollingBack, 9, 7));
    assert_eq!((open.fallen, open.causes, open.blameless), (components(&["web"]), causes.clone(), false));
    let entry = denied(&ledger.denied, &digest("beef")).unwrap();
    assert_eq!((&entry.revision, &entry.components, entry.back_to), (&"beef".to_owned(), &components(&["web"]), 9));
    assert_eq!((&entry.causes, &entry.by, entry.tries, entry.pass, entry.at), (&causes, &DeniedBy::Health, 1, 3, 2000));
    assert!(!entry.is_whole());
    assert_eq!((ledger.history[0].generation, ledger.history[0].end), (8, Ended::RolledBack));
    assert_eq!((ledger.generation, ledger.good), (7, 7), "what is in force changes only when it is undone");
}

#[test]
fn what_is_nobodys_fault_is_undone_and_not_denied() {
    let mut ledger = trying();
    ledger.undo(7, components(&[]), vec![failure("file /etc/x")], None, end());
    assert!(ledger.denied.is_empty() && ledger.trial.as_ref().is_some_and(|open| open.blameless));
}

#[test]
fn without_a_trial_nothing_is_undone() {
    let mut ledger = Ledger::default();
    ledger.undo(7, components(&[]), Vec::new(), Some(DeniedBy::Health), end());
    ledger.undone(in_force(7, true, true), Vec::new(), end());
    assert!(!ledger.fall(&[]));
    assert_eq!(ledger, Ledger::default());
}

#[test]
fn an_undoing_that_went_well_is_in_force_again() {
    let mut ledger = trying();
    ledger.undo(7, components(&[]), vec![failure("unit a.service")], Some(DeniedBy::Health), end());
    let lines = ledger.history.clone();
    ledger.undone(in_force(7, true, true), Vec::new(), end());
    assert_eq!((ledger.trial.as_ref(), ledger.generation, ledger.good), (None, 7, 7));
    assert_eq!((ledger.desired, ledger.revision.as_str()), (Some(digest("e7")), "r7"));
    assert_eq!(ledger.history, lines, "it has its line already");
    // To the host as it was found: nothing is in force.
    let mut first = Ledger { trial: Some(Trial { back_to: 0, ..trial() }), ..Ledger::default() };
    first.undo(0, components(&[]), Vec::new(), Some(DeniedBy::Health), end());
    first.undone(in_force(0, true, true), Vec::new(), end());
    assert_eq!((first.trial, first.generation, first.good, first.desired), (None, 0, 0, None));
}

#[test]
fn an_undoing_to_what_was_left_is_a_commit() {
    let mut ledger = trying();
    ledger.undo(9, components(&["web"]), vec![failure("unit a.service")], Some(DeniedBy::Health), end());
    ledger.undone(in_force(9, false, true), Vec::new(), end());
    assert_eq!((ledger.trial.as_ref(), ledger.generation, ledger.good), (None, 9, 9));
    assert_eq!((ledger.history[0].generation, ledger.history[0].end), (9, Ended::Committed));
    assert_eq!(ledger.revision, "r7", "not all of the commit is in force");
}

#[test]
fn an_undoing_that_did_not_go_well_is_degraded_until_it_does() {
    let mut ledger = trying();
    ledger.undo(7, components(&[]), vec![failure("unit a.service")], Some(DeniedBy::Health), end());
    ledger.undone(in_force(7, true, true), vec![failure("unit b.service")], end());
    let open = ledger.trial.clone().unwrap();
    assert_eq!((open.phase, open.amiss.clone()), (Phase::Degraded, vec![failure("unit b.service")]));
    assert_eq!(open.told().amiss, open.amiss);
    assert!(!ledger.fall(&open.amiss), "there is nothing else to go back to");
    ledger.undone(in_force(7, true, true), Vec::new(), end());
    assert_eq!((ledger.trial, ledger.generation), (None, 7));
}

#[test]
fn what_was_left_falls_with_the_rest_when_it_does_not_work_either() {
    let mut ledger = trying();
    ledger.undo(9, components(&["web"]), vec![failure("unit a.service")], Some(DeniedBy::Health), end());
    assert_eq!(ledger.held(), [7, 9].into());
    assert!(ledger.fall(&[failure("unit b.service")]));
    let open = ledger.trial.clone().unwrap();
    assert_eq!((open.phase, open.generation, open.fallen.len()), (Phase::RollingBack, 7, 0));
    let entry = denied(&ledger.denied, &digest("beef")).unwrap();
    assert_eq!((entry.is_whole(), entry.back_to), (true, 7));
    assert_eq!((&entry.causes, entry.causes.clone()), (&open.causes, vec![failure("unit a.service"), failure("unit b.service")]));
    assert!(!ledger.fall(&[]));
}

#[test]
fn a_crash_can_go_on_from_all_that_is_held() {
    let mut ledger = Ledger { generation: 3, good: 2, ..Ledger::default() };
    assert_eq!(ledger.held(), [2, 3].into());
    ledger.trial = Some(trial());
    assert_eq!(ledger.held(), [2, 3, 7, 8].into());
}

#[test]
fn a_denial_is_told_once_with_its_newest_cause_and_how_often_it_was_tried() {
    let mut ledger = Ledger::default();
    ledger.deny(denial("one", DeniedBy::Health));
    ledger.deny(denial("two", DeniedBy::Health));
    ledger.deny(Denied { at: 9, ..denial("one", DeniedBy::Health) });
    let entries: Vec<(Digest, u64, u32)> = ledger.denied.iter().map(|entry| (entry.effect, entry.at, entry.tries)).collect();
    assert_eq!(entries, [(digest("one"), 9, 2), (digest("two"), 1, 1)]);
    for number in 0..100 {
        ledger.deny(denial(&number.to_string(), DeniedBy::Health));
    }
    assert_eq!((ledger.denied.len(), ledger.denied[0].effect), (MAX_DENIED, digest("99")));
}

#[test]
fn a_person_asks_again_for_one_or_for_all() {
    let mut ledger = Ledger::default();
    for effect in ["one", "two", "three"] {
        ledger.deny(denial(effect, DeniedBy::Health));
    }
    assert!(!ledger.retry(Some("r-four")));
    assert!(ledger.retry(Some("r-tw")));
    assert!(denied(&ledger.denied, &digest("two")).is_none() && ledger.denied.len() == 2);
    assert!(ledger.retry(None));
    assert!(ledger.denied.is_empty() && !ledger.retry(None));
}

#[test]
fn a_change_that_cut_the_host_off_stays_denied() {
    let mut ledger = Ledger::default();
    ledger.deny(denial("health", DeniedBy::Health));
    ledger.deny(denial("net", DeniedBy::Reach { unreached: 0 }));
    for _ in 1..ACQUIT_AFTER {
        assert_eq!(ledger.polled(false), (None, true));
    }
    assert_eq!(ledger.polled(true), (None, true), "the first poll that succeeds is the verdict");
    assert_eq!(ledger.denied[0].by, DeniedBy::Health);
    for reached in [false, false, false, false, true] {
        assert_eq!(ledger.polled(reached), (None, false), "there is nothing left to find out");
    }
    assert_eq!(ledger.denied.len(), 2);
}

#[test]
fn a_change_is_acquitted_when_the_source_cannot_be_reached_without_it_either() {
    let mut ledger = Ledger::default();
    ledger.deny(denial("health", DeniedBy::Health));
    ledger.deny(denial("net", DeniedBy::Reach { unreached: 0 }));
    for poll in 0..10 {
        assert_eq!(ledger.polled(false), (None, poll < ACQUIT_AFTER), "no more is written than is needed");
    }
    assert_eq!(ledger.polled(true), (Some("r-net".to_owned()), true));
    assert_eq!((ledger.denied.len(), ledger.polled(true)), (1, (None, false)));
}

#[test]
fn a_change_is_not_acquitted_for_ever() {
    let mut ledger = Ledger::default();
    let mut acquitted = 0;
    for _ in 0..10 {
        if denied(&ledger.denied, &digest("net")).is_none() {
            ledger.deny(denial("net", DeniedBy::Reach { unreached: 0 }));
        }
        for _ in 0..ACQUIT_AFTER {
            ledger.polled(false);
        }
        acquitted += u32::from(ledger.polled(true).0.is_some());
    }
    assert_eq!(acquitted, MAX_ACQUITTALS);
    assert!(ledger.retry(None), "it can still be asked for");
}

#[test]
fn what_is_withheld_is_settled_while_it_is_denied_or_waits() {
    let held = |again| Withheld { component: component("web"), because: None, again };
    let list = [denial("all", DeniedBy::Health)];
    let (wants, other) = (digest("all"), digest("other"));
    assert!(is_settled(&[], None, &[]));
    assert!(is_settled(&[held(true)], None, &[]));
    assert!(is_settled(&[held(false)], Some(&wants), &list));
    assert!(!is_settled(&[held(false)], Some(&wants), &[]));
    assert!(!is_settled(&[held(true), held(false)], Some(&other), &list));
    assert!(!is_settled(&[held(false)], None, &list));
}
