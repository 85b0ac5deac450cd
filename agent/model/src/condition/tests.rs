//! Every outcome, hold, trial and clock has its conditions; times move only with the status.

use super::*;
use crate::status::{sample, transition};

const NOW: u64 = 1_795_264_800;
const AT: Moment = Moment { now: NOW, booted: NOW - 600, stale_after: 3600 };

/// A host that is as it should be.
fn well() -> Status {
    let mut status = Status { trial: None, holds: crate::hold::Holds::default(), clock: Clock::Synchronised, ..sample() };
    let pass = status.last_pass.as_mut().unwrap();
    (pass.outcome, pass.undone) = (Outcome::Unchanged, None);
    pass.changes.clear();
    (status.trust.last_contact, status.trust.expires) = (NOW - 30, None);
    status
}

fn with(outcome: Outcome) -> Status {
    let mut status = well();
    status.last_pass.as_mut().unwrap().outcome = outcome;
    status
}

/// The conditions that are true, and those that are unknown with a question mark.
fn told(status: &Status, book: &DriftBook, at: Moment) -> Vec<String> {
    let all = conditions(status, book, at);
    assert_eq!(all.len(), 9, "all of them, always");
    for condition in &all {
        assert!(
            !condition.reason.is_empty() && !condition.message.is_empty() && !condition.message.contains('\n'),
            "{condition:?}"
        );
        assert!(condition.reason.chars().all(char::is_alphanumeric), "{condition:?}");
    }
    let mark = |condition: &Condition| match condition.status {
        Truth::True => Some(format!("{:?}/{}", condition.kind, condition.reason)),
        Truth::False => None,
        Truth::Unknown => Some(format!("{:?}?", condition.kind)),
    };
    all.iter().filter_map(mark).collect()
}

#[test]
fn each_outcome_has_its_conditions() {
    for (outcome, want) in [
        (Outcome::Unchanged, &["Ready/AsWanted"][..]),
        (Outcome::Converged, &["Ready/Converged"]),
        (Outcome::Planned, &[]),
        (Outcome::Drifted, &[]),
        (Outcome::Paused, &[]),
        (Outcome::Unreachable, &["Reconciling/Retrying"]),
        (Outcome::Partial, &["Reconciling/Retrying"]),
        (Outcome::Held, &["Stalled/Held"]),
        (Outcome::RolledBack, &["Stalled/RolledBack", "RolledBack/RolledBack"]),
        (Outcome::Degraded, &["Stalled/Degraded", "RolledBack/Degraded"]),
        (Outcome::Halted, &["Stalled/Halted"]),
    ] {
        assert_eq!(told(&with(outcome), &DriftBook::default(), AT), want, "{outcome:?}");
        let ready = want.first().is_some_and(|first| first.starts_with("Ready"));
        assert_eq!(outcome.is_ready(), ready, "{outcome:?}");
    }
}

#[test]
fn before_the_first_pass_little_is_known() {
    let status = Status { last_pass: None, ..well() };
    let want = ["Ready?", "Reconciling/NoPassYet", "Stalled?", "Drifted?", "Contended?", "RolledBack?"];
    assert_eq!(told(&status, &DriftBook::default(), AT), want);
}

#[test]
fn a_trial_is_not_ready_until_it_is_over() {
    let mut status = well();
    status.trial = sample().trial;
    for (phase, reason) in [
        (Phase::Trying, "Trying"),
        (Phase::AwaitingReboot, "AwaitingReboot"),
        (Phase::Confirming, "Confirming"),
        (Phase::RollingBack, "RollingBack"),
        (Phase::Degraded, "Degraded"),
    ] {
        status.trial.as_mut().unwrap().phase = phase;
        assert_eq!(told(&status, &DriftBook::default(), AT), [format!("Reconciling/{reason}")], "{phase:?}");
    }
}

#[test]
fn what_a_person_holds_back_is_never_ready() {
    let holds = sample().holds;
    let (mut suspended, mut pinned, mut observing) = (well(), well(), well());
    suspended.holds.suspended.clone_from(&holds.suspended);
    pinned.holds.pins.clone_from(&holds.pins);
    observing.mode = Mode::Observe;
    for (status, reason) in [(suspended, "Suspended"), (pinned, "Pinned"), (observing, "Observing")] {
        assert_eq!(told(&status, &DriftBook::default(), AT), [format!("Suspended/{reason}")]);
        assert_eq!(conditions(&status, &DriftBook::default(), AT)[0].reason, reason, "and why it is not ready");
    }
}

#[test]
fn drift_that_stands_is_told_with_why_and_who() {
    let drift = sample().drift.remove(0);
    for (why, want) in [
        (None, "NotRepaired"),
        (Some(LeftAlone::Policy), "Reported"),
        (Some(LeftAlone::Observing), "Observing"),
        (Some(LeftAlone::Suspended), "Suspended"),
        (Some(LeftAlone::Pinned), "Pinned"),
    ] {
        let mut book = DriftBook::default();
        book.standing.insert(drift.resource.clone(), crate::drift::Drift { left_alone: why, ..drift.clone() });
        assert_eq!(told(&with(Outcome::Drifted), &book, AT), [format!("Drifted/{want}")]);
    }
    let mut book = DriftBook::default();
    let fought = crate::drift::Drift { left_alone: Some(LeftAlone::Contended { again: NOW + 60 }), ..drift };
    book.standing.insert(fought.resource.clone(), fought);
    assert_eq!(told(&with(Outcome::Drifted), &book, AT), ["Drifted/Contended", "Contended/Contended"]);
    let all = conditions(&with(Outcome::Drifted), &book, AT);
    assert!(all[4].message.ends_with("by: chmod (pid 4711) as root login bob in session-3.scope"), "{}", all[4].message);

    // Between two repairs it is as wanted, and fought over all the same.
    let contended = std::collections::BTreeMap::from([("file /etc/a".to_owned(), 1)]);
    let book = DriftBook { contended, ..DriftBook::default() };
    assert_eq!(told(&with(Outcome::Unchanged), &book, AT), ["Ready/AsWanted", "Contended/Contended"]);

    // A host that only looks has no book: what its pass left alone counts.
    let mut status = with(Outcome::Drifted);
    status.last_pass.as_mut().unwrap().changes = sample().last_pass.unwrap().changes;
    assert_eq!(told(&status, &DriftBook::default(), AT), ["Drifted/Reported", "Contended/Contended"]);
}

#[test]
fn a_silent_source_is_stale_by_what_this_boot_could_know() {
    let silent = |last_contact: u64, booted: u64, clock: Clock, expires: Option<u64>| {
        let mut status = Status { clock, ..with(Outcome::Unreachable) };
        (status.trust.last_contact, status.trust.expires) = (last_contact, expires);
        status.trust.freshness.clear();
        let all = conditions(&status, &DriftBook::default(), Moment { booted, ..AT });
        (all[6].status, all[6].reason.clone())
    };
    let is = |truth: Truth, reason: &str| (truth, reason.to_owned());
    let synchronised = Clock::Synchronised;
    assert_eq!(silent(NOW - 3600, 0, synchronised, None), is(Truth::False, "Heard"));
    assert_eq!(silent(NOW - 3601, 0, synchronised, None), is(Truth::True, "NotHeard"));
    assert_eq!(silent(NOW - 90_000, NOW - 60, synchronised, None), is(Truth::False, "Heard"), "it was switched off");
    assert_eq!(silent(0, NOW - 60, synchronised, None), is(Truth::False, "NotHeardYet"));
    assert_eq!(silent(0, NOW - 3601, synchronised, None), is(Truth::True, "NotHeard"));
    assert_eq!(silent(NOW, 0, synchronised, Some(NOW - 1)), is(Truth::True, "Expired"));
    assert_eq!(silent(NOW, 0, synchronised, Some(NOW)), is(Truth::False, "Heard"));
    assert_eq!(silent(NOW + 90_000, 0, Clock::Unsynchronised, None), is(Truth::False, "Heard"), "no underflow");
    assert_eq!(silent(1, 0, Clock::Behind, None), is(Truth::Unknown, "ClockBehind"));
}

#[test]
fn a_condition_keeps_its_time_while_its_status_stays() {
    let book = DriftBook::default();
    let later = Moment { now: NOW + 60, ..AT };
    let told = |before: &[Condition], status: &Status, at: Moment, latest: Option<u64>| {
        let before = Status { conditions: before.to_vec(), ..Status::default() }.since();
        transition(&before, conditions(status, &book, at), latest)
    };
    let first = told(&[], &well(), AT, Some(NOW));
    let mut second = told(&first, &with(Outcome::Converged), later, Some(NOW + 60));
    assert_eq!(second[0].last_transition_time, NOW, "another reason is no transition");
    assert_eq!(second[0].reason, "Converged");
    second = told(&second, &with(Outcome::Held), later, Some(NOW + 60));
    assert_eq!(
        (second[0].last_transition_time, second[2].last_transition_time, second[3].last_transition_time),
        (NOW + 60, NOW + 60, NOW)
    );
    // The clock went back: a time that has not been yet is as late as can be, and stays from then on.
    let earlier = Moment { now: NOW - 500, ..AT };
    let unsure = told(&first, &well(), earlier, None);
    assert_eq!(unsure[0].last_transition_time, NOW, "by a clock that is known to be behind nothing is judged");
    let back = told(&first, &well(), earlier, Some(NOW - 500));
    let after = told(&back, &well(), AT, Some(NOW));
    assert_eq!((back[0].last_transition_time, after[0].last_transition_time), (NOW - 500, NOW - 500));
}

#[test]
fn what_trust_says_of_freshness_goes_before_the_clock() {
    let stale = |freshness: &str, lost: bool| {
        let mut status = with(Outcome::Unchanged);
        (status.trust.last_contact, status.trust.expires) = (NOW, Some(NOW - 1));
        (status.trust.freshness, status.trust.state_lost) = (freshness.to_owned(), lost);
        let all = conditions(&status, &DriftBook::default(), AT);
        (all[6].status, all[6].reason.clone())
    };
    let is = |truth: Truth, reason: &str| (truth, reason.to_owned());
    assert_eq!(stale("expired", false), is(Truth::True, "Expired"));
    assert_eq!(stale("withheld", false), is(Truth::True, "Withheld"));
    // A clock that cannot tell makes nothing stale, whatever it shows; and nothing fresh either.
    assert_eq!(stale("unknown", false), is(Truth::Unknown, "FreshnessUnknown"));
    assert_eq!(stale("fresh", false), is(Truth::False, "Heard"));
    assert_eq!(stale("fresh", true), is(Truth::True, "MemoryLost"));
}

#[test]
fn reports_that_cannot_be_written_are_told_where_a_person_looks_and_change_nothing_else() {
    let mut status = well();
    status.queue.trouble = "cannot write /var/lib/trimtab/spool: no room\nand more".to_owned();
    assert_eq!(told(&status, &DriftBook::default(), AT), ["Ready/AsWanted", "Silenced/NotWritten"]);
    let all = conditions(&status, &DriftBook::default(), AT);
    assert!(all.last().unwrap().message.ends_with("/spool: no room"), "{all:?}");
    (status.queue.trouble, status.queue.sinks) = (String::new(), Vec::new());
    assert_eq!(conditions(&status, &DriftBook::default(), AT).last().unwrap().reason, "NoSinks");
}
