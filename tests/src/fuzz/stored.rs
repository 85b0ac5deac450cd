//! What the agent reads back from its own disk, which may have lied about a write: it reads as the same, or it is refused.

use serde::Serialize;
use serde::de::DeserializeOwned;
use trimtab::trust::memory::{EARLIER, Memory, Released};
use trimtab_model::drift::DriftBook;
use trimtab_model::hold::{Clocks, HoldBook};
use trimtab_model::ledger::Ledger;
use trimtab_model::outbound::Report;
use trimtab_model::report::Pass;
use trimtab_model::status::Status;

use super::parts;

/// What is remembered of what was believed: two copies with a NUL byte between.
pub fn memory(bytes: &[u8]) {
    let both: [&[u8]; 2] = parts(bytes);
    let read = |bytes| std::str::from_utf8(bytes).ok().and_then(|text| Memory::from_text(text).ok());
    let [one, other] = both.map(read);
    for memory in [&one, &other].into_iter().flatten() {
        assert_eq!(Memory::from_text(&memory.to_text()).ok().as_ref(), Some(memory), "it is remembered as something else");
        assert_eq!(memory.clone().merge(memory.clone()), *memory);
    }
    let (Some(one), Some(other)) = (one, other) else { return };
    let merged = one.clone().merge(other.clone());
    assert!(merged.lost == one.lost.max(other.lost));
    if one.turn != other.turn {
        // The operator began anew: nothing of before counts.
        let later = if one.turn > other.turn { one } else { other };
        assert_eq!(merged, Memory { lost: merged.lost, ..later });
        return;
    }
    // Whatever is larger in one of them is in what comes of both: nothing goes back.
    for part in [&one, &other] {
        let time = |memory: &Memory| (memory.time_epoch, memory.time_floor);
        let version = |memory: &Memory| memory.root.as_ref().map(|file| file.root.version);
        assert!(time(&merged) >= time(part) && merged.last_poll >= part.last_poll && version(&merged) >= version(part));
        // Each channel for itself; of many channels only some are kept.
        let few = one.earlier.len() + other.earlier.len() < EARLIER;
        for known in part.release.iter().map(Released::passed).chain(part.earlier.iter().cloned()).filter(|_| few) {
            let is = merged.passed(&known.repo, &known.channel).map(|is| is.place);
            assert!(is >= Some(known.place), "{} of {} is at {is:?} and was at {}", known.channel, known.repo, known.place);
        }
    }
}

/// The other documents; the first byte says which.
pub fn stored(bytes: &[u8]) {
    let Some((which, text)) = bytes.split_first() else { return };
    match which {
        b'l' => drop(again::<Ledger>(text)),
        b'd' => drop(again::<DriftBook>(text)),
        b's' => drop(again::<Status>(text)),
        b'p' => drop(again::<Pass>(text)),
        b'r' => {
            if let Some(report) = again::<Report>(text) {
                assert!(report.to_bytes().len() <= trimtab_model::outbound::MAX_REPORT);
            }
        }
        _ => {
            let Some(mut book) = again::<HoldBook>(text) else { return };
            let now = Clocks { wall: 1_800_000_000, boot: "b".to_owned(), uptime: 3600 };
            let before = book.holds.pins.len();
            let (ended, _) = book.review(&now);
            assert!(ended.len() + book.holds.pins.len() <= before + 1);
            // Looked at again at the same time, nothing more ends.
            assert_eq!(book.review(&now), (Vec::new(), false));
            let _ = (book.next_end(&now), book.holds.at(now.wall));
        }
    }
}

fn again<T: DeserializeOwned + Serialize + PartialEq>(bytes: &[u8]) -> Option<T> {
    let value: T = serde_json::from_slice(bytes).ok()?;
    let written = serde_json::to_vec(&value).expect("because plain data with string keys always serialises");
    let read: T = serde_json::from_slice(&written).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&written)));
    assert!(read == value, "it is stored as something else: {}", String::from_utf8_lossy(&written));
    Some(value)
}
