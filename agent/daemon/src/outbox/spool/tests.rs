//! What the spool keeps, whatever is killed when.

use super::*;
use proptest::prelude::*;
use trimtab_model::event::{EventKind, Severity};
use trimtab_model::outbound::Occasion;
use trimtab_model::status::Status;

fn event(id: u64) -> trimtab_model::event::Event {
    trimtab_model::event::Event {
        id,
        at_ms: id,
        kind: EventKind::ALL[usize::try_from(id % 3).unwrap()],
        severity: Severity::Info,
        pass: 1,
        revision: String::new(),
        resource: format!("file /{}", id % 5),
        message: "x".repeat(200),
        drift: None,
        count: 1,
    }
}

fn report(sequence: u64, events: Vec<trimtab_model::event::Event>, key: &DeviceKey) -> Report {
    Report {
        format: 1,
        device: key.device(),
        host: "box".to_owned(),
        sequence,
        since_sequence: sequence,
        next_ms: 0,
        at_ms: sequence,
        occasion: Occasion::Pass,
        status: Status::default(),
        events,
        merged: 0,
    }
}

fn scene() -> (tempfile::TempDir, DeviceKey, PathBuf) {
    // Thousands of syncs: of them it is the order that counts here, not the disk.
    let memory = Path::new("/dev/shm");
    let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
    let key = DeviceKey::obtain(&folder.path().join("device.key"), &folder.path().join("device.pub")).unwrap();
    let spool = folder.path().join("lib/spool");
    (folder, key, spool)
}

#[test]
fn what_is_torn_or_not_ours_is_set_aside_and_the_rest_goes_on() {
    let (folder, key, place) = scene();
    let other = DeviceKey::obtain(&folder.path().join("other.key"), &folder.path().join("other.pub")).unwrap();
    let mut spool = Spool::open(&place, 5_000).unwrap();
    for id in 1..=4 {
        let sequence = spool.next_sequence();
        assert_eq!(sequence, 5 + id);
        let by = if id == 3 { &other } else { &key };
        spool.put(report(sequence, vec![event(id)], by), by).unwrap();
    }
    let first = spool.entries().next().unwrap().name();
    let whole = std::fs::read(place.join(&first)).unwrap();
    std::fs::write(place.join(&first), &whole[..whole.len() - 7]).unwrap();
    std::fs::write(place.join("somebodys.txt"), "x").unwrap();
    std::fs::write(place.join("0000000000000001-0000000000000000-0-0.report"), "x").unwrap();
    let mut spool = Spool::open(&place, 0).unwrap();
    let read: Vec<bool> = (6..=9).map(|sequence| spool.read(sequence, &key).unwrap().is_some()).collect();
    assert_eq!(read, [false, true, false, true]);
    assert_eq!((spool.take_remarks().len(), std::fs::read_dir(place.join(ASIDE)).unwrap().count()), (2, 2));
    assert_eq!((spool.next_sequence(), spool.state.last_event), (10, 4));
    assert_eq!(Spool::open(&place, 0).unwrap().entries().count(), 2);
}

#[test]
fn a_lost_memory_is_told_and_gives_no_number_twice() {
    let (_folder, key, place) = scene();
    let mut spool = Spool::open(&place, 1_000_000).unwrap();
    let sequence = spool.next_sequence();
    spool.put(report(sequence, vec![], &key), &key).unwrap();
    spool.save_state().unwrap();
    spool.forget(sequence).unwrap();
    assert_eq!(Spool::open(&place, 1_000_000).unwrap().next_sequence(), sequence + 1);
    std::fs::write(place.join(STATE), "{").unwrap();
    let mut spool = Spool::open(&place, 1_002_000).unwrap();
    assert!(spool.take_remarks()[0].contains("damaged"));
    assert!(spool.next_sequence() > sequence);
}

#[test]
fn a_merge_that_is_cut_at_any_step_leaves_each_report_once() {
    for fuse in 0..8 {
        let (_folder, key, place) = scene();
        let mut spool = Spool::open(&place, 5_000).unwrap();
        for id in 1..=3 {
            let sequence = spool.next_sequence();
            spool.put(report(sequence, vec![event(id)], &key), &key).unwrap();
        }
        spool.fuse.set(fuse);
        let ended = spool.keep_within(Bounds { bytes: 1 << 20, count: 2 }, &key);
        assert_eq!(ended.is_ok(), fuse >= 5, "five steps: written, renamed, synced, and two go: {fuse}");
        let mut spool = Spool::open(&place, 5_000).unwrap();
        let spans: Vec<_> = spool.entries().map(|entry| (entry.since, entry.sequence)).collect();
        assert!(spans == [(6, 6), (7, 7), (8, 8)] || spans == [(6, 7), (8, 8)], "{fuse}: {spans:?}");
        let ids = |spool: &mut Spool, at: u64| spool.read(at, &key).unwrap().map(|(report, _)| report.events.len());
        let told: usize = (6..=8).filter_map(|sequence| ids(&mut spool, sequence)).sum();
        assert_eq!(told, 3, "{fuse}");
        spool.forget(8).unwrap();
        assert_eq!(Spool::open(&place, 5_000).unwrap().entries().count(), 0, "nothing is left over");
    }
}

#[test]
fn reports_that_wait_know_the_numbers_though_nothing_was_delivered_yet() {
    let (_folder, key, place) = scene();
    for life in 0..3 {
        // Days later, each time.
        let mut spool = Spool::open(&place, 5_000 + life * 90_000_000).unwrap();
        let sequence = spool.next_sequence();
        assert_eq!(sequence, 6 + life);
        spool.put(report(sequence, vec![], &key), &key).unwrap();
    }
}

#[test]
fn what_is_emptied_on_a_full_disk_keeps_its_numbers_and_is_sent_to_nobody() {
    let (_folder, key, place) = scene();
    let mut spool = Spool::open(&place, 5_000).unwrap();
    for id in 1..=3 {
        let sequence = spool.next_sequence();
        spool.put(report(sequence, vec![event(id)], &key), &key).unwrap();
    }
    spool.make_way(8).unwrap();
    assert_eq!((spool.entries().count(), spool.bytes()), (1, 0), "the newest alone, and nothing of it but its name");
    // The plug is pulled before the state was written.
    let mut spool = Spool::open(&place, 90_000_000).unwrap();
    assert_eq!((spool.entries().count(), spool.state.last_event, spool.next_sequence()), (0, 3, 9));
    assert!(spool.take_remarks().is_empty());
    spool.settle(8).unwrap();
    assert_eq!(
        std::fs::read_dir(&place).unwrap().flatten().filter(|entry| entry.path().extension().is_some()).count(),
        1,
        "the state"
    );
}

/// What a person does to a spool in one life of the agent.
#[derive(Debug, Clone)]
enum Act {
    Put(usize),
    Deliver(usize),
}

fn acts() -> impl Strategy<Value = Vec<(Vec<Act>, u32)>> {
    let act = prop_oneof![3 => (0_usize..4).prop_map(Act::Put), 1 => (1_usize..4).prop_map(Act::Deliver)];
    proptest::collection::vec((proptest::collection::vec(act, 1..8), 0_u32..40), 1..8)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Lives that end by a pulled plug after some step. A receiver that knows reports by sequence and events by id has each sequence with one
    /// content, each event that was put durably is in the spool or was delivered, and no number is given twice.
    #[test]
    fn whatever_is_killed_when_nothing_is_lost_and_no_number_is_given_twice(lives in acts(), tight in any::<bool>()) {
        let (_folder, key, place) = scene();
        let bounds = Bounds { bytes: 1 << 20, count: if tight { 3 } else { 1000 } };
        let (mut given, mut durable) = (0_u64, 0_u64);
        let mut received: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
        let mut delivered = 0_u64;
        let mut ready = lives.len();
        let mut now_ms = 7_000;
        for (life, fuse) in lives {
            ready -= 1;
            // A device is switched on when it is.
            now_ms += 5_000_000;
            let mut spool = Spool::open(&place, now_ms).unwrap();
            prop_assert!(spool.state.sequence >= given, "a start never goes back");
            let spans: Vec<_> = spool.entries().map(|entry| (entry.since, entry.sequence)).collect();
            prop_assert!(spans.windows(2).all(|two| two[0].1 < two[1].0), "what was merged is told twice: {:?}", spans);
            spool.fuse.set(if ready == 0 { u32::MAX } else { fuse });
            'life: for act in life {
                match act {
                    Act::Put(count) => {
                        let sequence = spool.next_sequence();
                        prop_assert!(!received.contains_key(&sequence), "{} was given before", sequence);
                        let first = spool.state.last_event + 1;
                        let list: Vec<_> = (first..first + count as u64).map(event).collect();
                        if spool.put(report(sequence, list, &key), &key).is_err() {
                            break 'life;
                        }
                        (given, durable) = (sequence, durable.max(first + count as u64 - 1));
                        if spool.keep_within(bounds, &key).is_err() {
                            break 'life;
                        }
                        prop_assert!(spool.entries().count() <= bounds.count);
                    }
                    Act::Deliver(count) => {
                        let waiting: Vec<u64> = spool.entries().map(|entry| entry.sequence).take(count).collect();
                        for sequence in waiting {
                            let (found, signed) = spool.read(sequence, &key).unwrap().expect("because nothing is ever torn");
                            prop_assert!(key.verifies(&signed.report, &signed.signature));
                            // Sent: from here on the receiver has it, whatever becomes of the sender.
                            received.insert(sequence, signed.report);
                            delivered = delivered.max(found.sequence);
                        }
                        spool.state.sinks.insert("one".to_owned(), Cursor { delivered, ..Cursor::default() });
                        if spool.save_state().is_err() || spool.forget(delivered).is_err() {
                            break 'life;
                        }
                    }
                }
            }
        }
        let mut spool = Spool::open(&place, now_ms + 5_000_000).unwrap();
        prop_assert!(spool.next_sequence() > given);
        // Everything that was put is in what the receiver has and what still waits: as many events as there were, by count, each id once.
        let mut counts: BTreeMap<u64, u64> = BTreeMap::new();
        let mut spans: Vec<(u64, u64)> = Vec::new();
        let mut tell = |bytes: &[u8]| {
            let report: Report = serde_json::from_slice(bytes).unwrap();
            spans.push((report.since_sequence, report.sequence));
            for event in report.events {
                let known = counts.entry(event.id).or_default();
                *known = (*known).max(u64::from(event.count));
            }
        };
        for bytes in received.values() {
            tell(bytes);
        }
        let waiting: Vec<u64> = spool.entries().map(|entry| entry.sequence).collect();
        for sequence in waiting {
            tell(&spool.read(sequence, &key).unwrap().unwrap().1.report);
        }
        spans.sort_unstable();
        let mut next = spans.first().map_or(0, |first| first.0);
        for (since, sequence) in &spans {
            prop_assert!(*since <= next, "nothing was lost, and a number is missing before {}: {:?}", since, spans);
            next = next.max(sequence + 1);
        }
        prop_assert!(counts.values().sum::<u64>() >= durable, "{} of {}", counts.values().sum::<u64>(), durable);
        if !tight {
            prop_assert!((1..=durable).all(|id| counts.contains_key(&id)), "{:?} of {}", counts.keys(), durable);
        }
    }
}
