//! The outbox as a pass and a delivery use it, on a temporary root.

use super::*;
use trimtab_model::event::{EventKind, Severity};

fn sinks(names: &[&str]) -> Vec<SinkConfig> {
    let one = |name: &&str| toml::from_str(&format!("name = '{name}'\ntype = 'webhook'\nurl = 'https://x/'")).unwrap();
    names.iter().map(one).collect()
}

fn event(id: u64) -> Event {
    Event {
        id,
        at_ms: id,
        kind: EventKind::DriftFound,
        severity: Severity::Warning,
        pass: 1,
        revision: String::new(),
        resource: format!("file /{id}"),
        message: "so".to_owned(),
        drift: None,
        count: 1,
    }
}

fn take(outbox: &Outbox, id: u64) -> Option<u64> {
    outbox.take(Status { host: "box".to_owned(), ..Status::default() }, vec![event(id)], Occasion::Pass, 9_000 + id).unwrap()
}

struct Scene {
    folder: tempfile::TempDir,
    settings: ReportSettings,
}

impl Scene {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), settings: ReportSettings::default() }
    }

    fn open(&self, names: &[&str]) -> Outbox {
        Outbox::open(&Places::new(self.folder.path()), &self.settings, &sinks(names), 9_000).unwrap()
    }

    fn files(&self) -> usize {
        let folder = std::fs::read_dir(Places::new(self.folder.path()).spool());
        folder.map_or(0, |list| list.flatten().filter(|entry| entry.path().extension().is_some_and(|end| end == "report")).count())
    }
}

/// What is to be sent to whom now: sink, first and last sequence of the batch.
fn next(outbox: &Outbox) -> Option<(String, u64, usize)> {
    let mut desk = outbox.desk();
    desk.sinks.values_mut().for_each(|sink| sink.again = sink.again.filter(|_| sink.failures > 0));
    match desk.next(Instant::now()).unwrap() {
        Next::Send { sink, reports, last } => Some((sink, last, reports.len())),
        _ => None,
    }
}

#[test]
fn without_a_sink_nothing_is_written_but_the_key() {
    let scene = Scene::new();
    let outbox = scene.open(&[]);
    assert_eq!((take(&outbox, 1), outbox.beats_at(), scene.files()), (None, None, 0));
    assert!(!Places::new(scene.folder.path()).spool().exists());
    assert_eq!(scene.open(&[]).device(), outbox.device());
}

#[test]
fn each_sink_has_its_own_cursor_and_a_dead_one_holds_only_the_spool() {
    let scene = Scene::new();
    let outbox = scene.open(&["good", "dead"]);
    let (first, second) = (take(&outbox, 1).unwrap(), take(&outbox, 2).unwrap());
    assert_eq!((second, outbox.last_event(), scene.files()), (first + 1, 2, 2));
    outbox.desk().refused("dead", "no route", false, Some(Duration::from_secs(100)), Instant::now());
    assert_eq!(next(&outbox), Some(("good".to_owned(), second, 2)));
    outbox.desk().taken("good", second, 9_100).unwrap();
    assert_eq!((next(&outbox), scene.files()), (None, 2));
    let told = outbox.queue();
    let told: Vec<_> =
        told.sinks.iter().map(|sink| (sink.name.as_str(), sink.waiting, sink.failures, sink.error.as_str())).collect();
    assert_eq!(told, [("dead", 2, 1, "no route"), ("good", 0, 0, "")]);
    assert_eq!(outbox.waiting()[0].waits_for, ["dead"]);
    // A new agent knows who has what; a new sink gets what is still there.
    drop(outbox);
    let outbox = scene.open(&["good", "dead", "new"]);
    outbox.desk().taken("dead", second, 9_200).unwrap();
    assert_eq!((next(&outbox), scene.files()), (Some(("new".to_owned(), second, 2)), 2));
    outbox.desk().taken("new", second, 9_300).unwrap();
    assert_eq!((next(&outbox), scene.files(), outbox.queue().reports), (None, 0, 0));
    assert_eq!(take(&scene.open(&["good"]), 3), Some(second + 1));
}

#[test]
fn a_full_spool_keeps_its_bounds_and_every_event_by_count() {
    let mut scene = Scene::new();
    scene.settings.max_count = 4;
    let outbox = scene.open(&["dead"]);
    for id in 1..=30 {
        take(&outbox, id);
        assert!(scene.files() <= 4, "{}", scene.files());
    }
    let (mut ids, mut since) = (Vec::new(), None);
    for waiting in outbox.waiting() {
        let (report, signed) = outbox.show(waiting.sequence).unwrap().unwrap();
        assert!(outbox.desk().key.verifies(&signed.report, &signed.signature));
        assert_eq!(since.replace(report.sequence).map_or(report.since_sequence, |last| last + 1), report.since_sequence);
        ids.extend(report.events.iter().map(|event| event.id));
    }
    assert_eq!(ids, (1..=30).collect::<Vec<_>>(), "each at a resource of its own: none had to be merged");
}

#[test]
fn a_spool_that_cannot_be_written_is_told_and_the_number_is_not_given_again() {
    let scene = Scene::new();
    let outbox = scene.open(&["one"]);
    let first = take(&outbox, 1).unwrap();
    let spool = Places::new(scene.folder.path()).spool();
    let elsewhere = spool.with_extension("gone");
    std::fs::rename(&spool, &elsewhere).unwrap();
    std::fs::write(&spool, "in the way").unwrap();
    let status = Status::default();
    let error = outbox.take(status, vec![event(2)], Occasion::Pass, 9_500).unwrap_err();
    assert!(crate::log::chain(&error).contains("cannot write"), "{}", crate::log::chain(&error));
    assert_eq!(outbox.last_event(), 1, "what could not be written is still to be told");
    std::fs::remove_file(&spool).unwrap();
    std::fs::rename(&elsewhere, &spool).unwrap();
    assert_eq!(take(&outbox, 2), Some(first + 2));
    let (report, _) = outbox.show(first + 2).unwrap().unwrap();
    assert_eq!(report.since_sequence, first + 1, "no number is missing for whoever receives them");
    take(&outbox, 3);
    assert_eq!(outbox.show(first + 3).unwrap().unwrap().0.since_sequence, first + 3);
}

#[test]
fn what_is_too_much_at_once_is_sent_in_smaller_parts() {
    let scene = Scene::new();
    let outbox = scene.open(&["small"]);
    let last = (1..=8).filter_map(|id| take(&outbox, id)).max().unwrap();
    let refused = || refused(true, "413");
    let mut sizes = Vec::new();
    while let Some((_, upto, count)) = next(&outbox) {
        sizes.push(count);
        if count > 1 {
            outbox.heard("small", upto, count, Ok(refused()));
        } else {
            outbox.heard("small", upto, count, Ok(crate::courier::Delivery::Taken { traffic: crate::courier::Traffic::default() }));
            outbox.desk().sinks.get_mut("small").unwrap().batch = 1;
        }
    }
    assert_eq!(sizes, [8, 4, 2, 1, 1, 1, 1, 1, 1, 1, 1]);
    assert_eq!(outbox.queue().sinks[0].delivered, last);
    // Alone, and so small already that there is no less of it: that is told, and not tried all the time.
    take(&outbox, 9);
    outbox.heard("small", last + 1, 1, Ok(refused()));
    assert!(next(&outbox).is_none() && outbox.queue().sinks[0].error == "413");
}

fn refused(unfit: bool, message: &str) -> crate::courier::Delivery {
    crate::courier::Delivery::Refused { lasting: true, unfit, retry_after: None, message: message.to_owned() }
}

/// Whatever the pauses: what this sink is to get next, and how large that is.
fn at_once(outbox: &Outbox, name: &str) -> Option<(u64, Vec<usize>)> {
    let mut desk = outbox.desk();
    desk.sinks.iter_mut().for_each(|(known, sink)| sink.again = (known != name).then(|| Instant::now() + Duration::from_secs(900)));
    match desk.next(Instant::now()).unwrap() {
        Next::Send { reports, last, .. } => Some((last, reports.iter().map(|signed| signed.report.len()).collect())),
        _ => None,
    }
}

fn take_large(outbox: &Outbox) -> u64 {
    let events = (1..=400).map(|id| Event { message: "so ".repeat(100), ..event(id) }).collect();
    outbox.take(Status { host: "box".to_owned(), ..Status::default() }, events, Occasion::Pass, 9_000).unwrap().unwrap()
}

#[test]
fn one_report_that_a_sink_will_not_have_holds_back_no_other() {
    let scene = Scene::new();
    let outbox = scene.open(&["picky", "other"]);
    let large = take_large(&outbox);
    let next = (2..=4).filter_map(|id| take(&outbox, 400 + id)).max().unwrap();
    let (mut sizes, mut requests) = (Vec::new(), 0);
    while let Some((last, parts)) = at_once(&outbox, "picky") {
        requests += 1;
        assert!(requests < 30, "it stands still");
        let delivered = outbox.queue().sinks.iter().find(|sink| sink.name == "picky").unwrap().delivered;
        if delivered < large {
            sizes.push(*parts.first().unwrap());
            outbox.heard("picky", last, parts.len(), Ok(refused(true, "it answered 400: no")));
        } else {
            outbox.heard(
                "picky",
                last,
                parts.len(),
                Ok(crate::courier::Delivery::Taken { traffic: crate::courier::Traffic::default() }),
            );
        }
    }
    let alone: Vec<usize> = sizes.into_iter().skip(2).collect();
    assert_eq!(alone.len(), 3 + 4, "whole, with less, with least, and that four times more: {alone:?}");
    assert!(alone[0] > 100_000 && alone[1] <= 64 << 10 && alone[2..].iter().all(|size| *size <= 8 << 10), "{alone:?}");
    let told = outbox.queue();
    let picky = told.sinks.iter().find(|sink| sink.name == "picky").unwrap();
    assert_eq!((picky.delivered, picky.passed_over, picky.waiting), (next, 1, 0));
    assert!(told.sinks.iter().any(|sink| sink.name == "other" && sink.waiting == 4), "for others it is there");
    // It is told once, also after a kill, and counted for ever.
    drop(outbox);
    let outbox = scene.open(&["picky", "other"]);
    let losses = outbox.losses();
    assert_eq!((losses.len(), losses[0].sink.as_str(), losses[0].sequence), (1, "picky", large));
    assert!(losses[0].why.contains("400"));
    outbox.told(1);
    drop(outbox);
    let outbox = scene.open(&["picky", "other"]);
    assert_eq!((outbox.losses().len(), outbox.queue().sinks[1].passed_over), (0, 1));
}

#[test]
fn what_is_the_receivers_own_state_passes_nothing_over() {
    let scene = Scene::new();
    let outbox = scene.open(&["down"]);
    let large = take_large(&outbox);
    for _ in 0..40 {
        let (last, parts) = at_once(&outbox, "down").unwrap();
        assert_eq!((last, parts.len()), (large, 1));
        assert!(parts[0] > 100_000, "nor is anything left out");
        outbox.heard("down", last, parts.len(), Ok(refused(false, "it answered 403")));
    }
    assert_eq!((outbox.losses().len(), outbox.queue().sinks[0].waiting), (0, 1));
}

#[test]
fn what_becomes_one_with_others_while_it_is_refused_is_refused_no_less_often() {
    let mut scene = Scene::new();
    scene.settings.max_count = 3;
    let outbox = scene.open(&["picky"]);
    let mut passed = 0;
    for id in 1..=40 {
        take(&outbox, id);
        if let Some((last, parts)) = at_once(&outbox, "picky") {
            outbox.heard("picky", last, parts.len(), Ok(refused(true, "400")));
        }
        passed = outbox.queue().sinks[0].passed_over;
    }
    assert!(passed > 0, "a full spool makes one of the two oldest with each report, and it is the same one all the same");
}
