//! The book under kills: what it says must be true and said once, whatever was lost in between.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::event::{EventKind, View};
use crate::plan::tests::host::origin;
use crate::plan::{Cause, Change, Problem, Verb};
use crate::report::{Outcome, Pass, Wake};

fn change(resource: &str, found: &str, left_alone: Option<LeftAlone>) -> Change {
    let differs = vec![Difference { property: "content".to_owned(), found: found.to_owned(), wanted: "w".to_owned() }];
    Change {
        resource: resource.to_owned(),
        verb: Verb::Update,
        cause: Cause::Drift,
        differs,
        replaces: false,
        left_alone,
        origin: origin("c"),
    }
}

fn look(pass: u64) -> Look<'static> {
    Look { now_ms: pass * 1000, pass, revision: "r", has_units: true, problems: &[] }
}

fn kinds(book: &DriftBook) -> Vec<(EventKind, String)> {
    book.unsent.iter().map(|event| (event.kind, event.resource.clone())).collect()
}

#[test]
fn a_drift_is_found_once_and_ends_once() {
    let mut book = DriftBook::default();
    let file = "file /etc/a".to_owned();
    assert!(book.find(&[change(&file, "1", None)], &[], &look(1)));
    assert!(!book.find(&[change(&file, "1", None)], &[], &look(2)), "the same again is nothing new");
    assert!(book.find(&[change(&file, "2", None)], &[], &look(3)), "it looks different: written down");
    assert_eq!(kinds(&book), [(EventKind::DriftFound, file.clone())], "and told once all the same");
    assert!(book.settle(|_| Some(None), &look(3)));
    assert_eq!(kinds(&book)[1], (EventKind::DriftRepaired, file.clone()));
    assert!(!book.find(&[], &[], &look(4)));
    assert!(book.find(&[change(&file, "1", None)], &[], &look(5)));
    assert_eq!(book.standing[&file].id, 2, "again is another one");
    assert_eq!((book.past.len(), book.past[0].id, book.past[0].found_ms, book.past[0].ended_ms), (1, 1, 1000, 3000));
}

#[test]
fn what_is_left_alone_and_goes_away_is_gone_and_not_repaired() {
    let mut book = DriftBook::default();
    book.find(&[change("file /etc/a", "1", Some(LeftAlone::Policy))], &[], &look(1));
    book.settle(|drift| drift.left_alone.is_none().then_some(None), &look(1));
    assert_eq!(book.standing.len(), 1);
    book.find(&[], &[], &look(2));
    assert_eq!(book.past[0].state, DriftState::Gone);
    assert_eq!(kinds(&book)[1].0, EventKind::DriftGone);
}

#[test]
fn what_still_differs_is_not_repaired_whatever_it_is_called_by_now() {
    let mut book = DriftBook::default();
    let file = "file /etc/a".to_owned();
    book.find(&[change(&file, "1", None)], &[], &look(1));
    // Killed after the intent was written down and before the switch: unfinished work, by the plan.
    let unfinished = Change { cause: Cause::Update, ..change(&file, "1", None) };
    assert!(!book.find(&[unfinished], &[], &look(2)));
    // Somebody put a directory in its place.
    let problem = Problem { resource: file.clone(), message: "a directory".to_owned(), origin: origin("c") };
    assert!(!book.find(&[], &[], &Look { problems: &[problem], ..look(3) }));
    assert_eq!(kinds(&book), [(EventKind::DriftFound, file.clone())]);
    assert!(book.settle(|_| Some(None), &look(4)));
    assert_eq!((book.standing.len(), book.past[0].state), (0, DriftState::Repaired));
}

#[test]
fn a_repair_that_failed_is_nobodys_merit_afterwards() {
    let mut book = DriftBook::default();
    book.find(&[change("file /etc/a", "1", None)], &[], &look(1));
    assert!(book.settle(|_| None, &look(1)), "written down once");
    assert!(!book.settle(|_| None, &look(2)), "and not with each further try");
    book.find(&[], &[], &look(3));
    assert_eq!((book.past[0].state, book.past[0].id), (DriftState::Gone, 1));
    book.find(&[change("file /etc/a", "1", None)], &[], &look(4));
    book.settle(|_| None, &look(4));
    book.settle(|_| Some(None), &look(5));
    assert_eq!((book.past[0].state, book.past[0].id), (DriftState::Repaired, 2));
}

#[test]
fn what_is_fought_over_is_told_once_and_ends_once() {
    let mut book = DriftBook::default();
    let file = "file /etc/a".to_owned();
    let actor = Some(Actor { unit: "cron.service".to_owned(), ..Actor::default() });
    let seen = [Sighting { resource: file.clone(), at_ms: 900, actor }];
    for number in 1..4 {
        let at = look(number * 3);
        book.find(&[change(&file, "1", Some(LeftAlone::Contended { again: 9 }))], &seen, &at);
        assert_eq!(book.contend(&at), number == 1, "once, whatever is repaired in between");
        assert!(!book.calm(|_| true, &at), "it stands");
        // Its time has come.
        assert!(book.find(&[change(&file, "1", None)], &[], &look(number * 3 + 1)));
        book.settle(|_| Some(None), &look(number * 3 + 1));
        assert!(!book.calm(|_| false, &at));
    }
    let told = |book: &DriftBook, kind| book.unsent.iter().filter(|event| event.kind == kind).cloned().collect::<Vec<_>>();
    let fought = told(&book, EventKind::Contended);
    assert_eq!(fought.len(), 1);
    assert!(fought[0].message.contains("by in cron.service"), "{}", fought[0].message);
    assert!(fought[0].drift.as_ref().is_some_and(|drift| drift.id == 1));
    assert!(book.calm(|resource| resource == file, &look(20)) && !book.calm(|_| true, &look(21)));
    assert_eq!((told(&book, EventKind::Recovered).len(), book.contended.len()), (1, 0));
}

#[test]
fn a_host_that_is_fought_over_as_a_whole_has_a_bounded_book() {
    let mut book = DriftBook::default();
    let why = || Some(LeftAlone::Contended { again: 9 });
    let changes: Vec<Change> = (0..MAX_CONTENDED + 7).map(|n| change(&format!("file /etc/{n}"), "1", why())).collect();
    book.find(&changes, &[], &look(1));
    assert!(book.contend(&look(1)) && !book.contend(&look(2)));
    assert_eq!(book.contended.len(), MAX_CONTENDED);
}

#[test]
fn a_unit_that_could_not_be_looked_at_is_not_gone() {
    let mut book = DriftBook::default();
    book.find(&[change("unit a.service", "1", None), change("file /etc/a", "1", None)], &[], &look(1));
    book.find(&[], &[], &Look { has_units: false, ..look(2) });
    assert_eq!(book.standing.keys().collect::<Vec<_>>(), ["unit a.service"]);
}

#[test]
fn the_witness_is_the_newest_one_and_nobody_is_made_up() {
    let actor = |pid| Some(Actor { pid: Some(pid), ..Actor::default() });
    let sighting = |resource: &str, at_ms, actor| Sighting { resource: resource.to_owned(), at_ms, actor };
    let seen = [sighting("file /etc/a", 500, actor(1)), sighting("file /etc/a", 700, actor(2)), sighting("file /etc/b", 600, None)];
    let mut book = DriftBook::default();
    let files = ["file /etc/a", "file /etc/b", "file /etc/c"];
    book.find(&files.map(|file| change(file, "1", None)), &seen, &look(1));
    let told = files.map(|file| (book.standing[file].seen_ms, book.standing[file].by()));
    let gone = "pid 2, which was gone before it could be looked at";
    assert_eq!(told, [(700, gone.to_owned()), (600, "unknown".to_owned()), (1000, "unknown".to_owned())]);
}

#[test]
fn more_than_can_be_told_one_by_one_is_told_as_a_number_once() {
    let changes: Vec<Change> = (0..MAX_STANDING + 7).map(|n| change(&format!("file /etc/{n}"), "1", None)).collect();
    let mut book = DriftBook::default();
    book.find(&changes, &[], &look(1));
    assert_eq!((book.standing.len(), book.beyond), (MAX_STANDING, 7));
    let numbers = |book: &DriftBook| book.unsent.iter().filter(|event| event.message.contains("more resources")).count();
    assert_eq!(numbers(&book), 1);
    assert!(!book.find(&changes, &[], &look(2)));
    assert!(book.unsent.len() <= MAX_UNSENT);
    let all: u32 = book.unsent.iter().map(|event| event.count).sum();
    assert_eq!(all as usize, MAX_STANDING + 1, "merged, not lost");
    for event in book.unsent.iter().filter(|event| event.count > 1) {
        assert_eq!(event.message, format!("{} of this kind, at several resources", event.count));
        assert_eq!((event.resource.as_str(), event.drift.is_none()), ("", true));
    }
    // The journal has each of them, under its own number.
    let said: Vec<(u64, u32)> = book.unsaid.iter().map(|event| (event.id, event.count)).collect();
    assert_eq!(said, (1..=MAX_STANDING as u64 + 1).map(|id| (id, 1)).collect::<Vec<_>>());
    assert!(
        book.unsaid.iter().all(|event| event.count == 1 && event.resource.is_empty() == event.message.contains("more resources"))
    );
}

fn pass(number: u64, outcome: Outcome) -> Pass {
    let text = r#"{"number":1,"wake":"timer","started":0,"duration_ms":0,"outcome":"unchanged","revision":"r","trust":{"verdict":"","message":"","signer":""},"source_error":"","findings":{"list":[],"more":0},"changes":[],"problems":[],"failures":[]}"#;
    let pass: Pass = serde_json::from_str(text).unwrap();
    assert_eq!(pass.wake, Wake::Timer);
    Pass { number, outcome, ..pass }
}

#[test]
fn what_lasts_is_told_when_it_begins_and_when_it_is_over() {
    let mut book = DriftBook::default();
    let holds = crate::hold::Holds::default();
    let view = |pass| View { now_ms: 1, pass, attempted: "n", holds: &holds, stale_since: None };
    let down = Pass { source_error: "no route".to_owned(), ..pass(1, Outcome::Unreachable) };
    let down_otherwise = Pass { source_error: "timed out".to_owned(), ..down.clone() };
    let well = pass(2, Outcome::Unchanged);
    for (pass, told) in [(&well, 0), (&down, 1), (&down, 0), (&down_otherwise, 0), (&well, 1), (&well, 0)] {
        let before = book.last_event;
        assert_eq!(book.tell_pass(&view(pass)), told > 0);
        assert_eq!(book.last_event - before, told);
    }
    let kinds: Vec<EventKind> = book.unsent.iter().map(|event| event.kind).collect();
    assert_eq!(kinds, [EventKind::Unreachable, EventKind::Recovered]);
    let stale = View { stale_since: Some(1), ..view(&well) };
    assert!(book.tell_pass(&stale) && !book.tell_pass(&stale) && book.tell_pass(&view(&well)));
    let mut suspended = crate::hold::Holds::default();
    let held = crate::hold::Held { reason: "work".into(), since: 0, until: 9, by: "ana".into() };
    suspended.pins.insert("file /etc/a".into(), held.clone());
    suspended.suspended = Some(held);
    assert!(book.tell_pass(&View { holds: &suspended, ..view(&well) }) && book.tell_pass(&view(&well)));
    let last: Vec<EventKind> = book.unsent.iter().rev().take(4).map(|event| event.kind).collect();
    assert_eq!(last, [EventKind::Resumed, EventKind::Resumed, EventKind::Suspended, EventKind::Suspended]);
}

#[test]
fn each_kind_has_a_word_and_a_message_id_of_its_own() {
    let words: BTreeSet<&str> = EventKind::ALL.iter().map(|kind| kind.word()).collect();
    let ids: BTreeSet<&str> = EventKind::ALL.iter().map(|kind| kind.message_id()).collect();
    assert_eq!((words.len(), ids.len()), (EventKind::ALL.len(), EventKind::ALL.len()));
    for kind in EventKind::ALL {
        assert_eq!(serde_json::to_value(kind).unwrap(), kind.word());
        assert!(kind.message_id().len() == 32 && kind.message_id().bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')));
    }
}

/// Where a pass is killed.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Kill {
    Nowhere,
    BeforeSaved,
    BeforeRepair,
    BeforeNoted,
}

fn walk() -> impl Strategy<Value = Vec<(Vec<usize>, Kill)>> {
    let kill = prop_oneof![
        5 => Just(Kill::Nowhere),
        1 => Just(Kill::BeforeSaved),
        1 => Just(Kill::BeforeRepair),
        1 => Just(Kill::BeforeNoted)
    ];
    proptest::collection::vec((proptest::collection::vec(0..5_usize, 0..4), kill), 1..30)
}

proptest! {
    /// Resources 3 and 4 are only reported; somebody puts what stands of them back when it is drifted again.
    #[test]
    fn whatever_is_killed_each_drift_is_told_once_and_ends_once(walk in walk()) {
        let name = |n: usize| format!("file /etc/{n}");
        let (mut live, mut disk) = (DriftBook::default(), DriftBook::default());
        let (mut drifted, mut episodes) = (BTreeSet::new(), BTreeMap::<String, usize>::new());
        let mut killed = false;
        for (number, (touched, kill)) in walk.into_iter().chain([(Vec::new(), Kill::Nowhere); 1]).enumerate() {
            for n in touched {
                if !drifted.insert(n) {
                    if n >= 3 { drifted.remove(&n); }
                    continue;
                }
                *episodes.entry(name(n)).or_default() += 1;
            }
            let at = look(number as u64 + 1);
            let alone = |n: usize| (n >= 3).then_some(LeftAlone::Policy);
            let changes: Vec<Change> = drifted.iter().map(|n| change(&name(*n), "1", alone(*n))).collect();
            let must_save = live.find(&changes, &[], &at);
            if kill == Kill::BeforeSaved { live = disk.clone(); killed = true; continue; }
            if must_save { disk = live.clone(); } else { prop_assert_eq!(&live, &disk); }
            if kill == Kill::BeforeRepair { live = disk.clone(); killed = true; continue; }
            drifted.retain(|n| *n >= 3);
            if kill == Kill::BeforeNoted { live = disk.clone(); killed = true; continue; }
            if live.settle(|drift| drift.left_alone.is_none().then_some(None), &at) { disk = live.clone(); }
            prop_assert_eq!(&live, &disk);
        }
        let told = |kinds: &[EventKind]| {
            let mut list: Vec<u64> = disk.unsent.iter().filter(|event| kinds.contains(&event.kind)).map(|event| event.drift.as_ref().unwrap().id).collect();
            let all = list.len();
            list.sort_unstable();
            list.dedup();
            (list.len() == all, list)
        };
        let (once, found) = told(&[EventKind::DriftFound]);
        prop_assert!(once && found.iter().copied().eq(1..=disk.last_id));
        let (once, ended) = told(&[EventKind::DriftRepaired, EventKind::DriftGone]);
        prop_assert!(once);
        let standing: BTreeSet<u64> = disk.standing.values().map(|drift| drift.id).collect();
        prop_assert!(found.iter().all(|id| ended.contains(id) != standing.contains(id)));
        let ids: Vec<u64> = disk.unsent.iter().map(|event| event.id).collect();
        prop_assert!(ids.windows(2).all(|two| two[0] < two[1]));
        for (resource, count) in &episodes {
            let records = disk.of(resource).count();
            // Between two looks that were lost, two drifts of one resource look like one.
            prop_assert!(records <= *count);
            prop_assert!(killed || *resource > name(2) || records == *count, "{resource}: {records} of {count}");
        }
    }
}
