//! That nothing of it is lost or made smaller on its way.

use super::*;
use crate::trust::pubkey::Fingerprint;

fn accepted(at: u64) -> TrustState {
    let id = ObjectId::from_hex(b"b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0").unwrap();
    TrustState::new("refs/heads/main".into(), id, Digest::of(b"x"), (Fingerprint::of(b"k"), "ann".into()), at, 7)
}

fn root(version: u64) -> RootFile {
    let text = format!(
        "type = \"trimtab-root\"\nrepo = \"1b4e28ba-2fa1-11d2-883f-0016d3cca427\"\nversion = {version}\nepoch = 1\n[keys]\n\
         ann = \"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIL5H6lzyyka+0EO7qctF56zGtbUFLZ0zN7GBeWfO6y/6\"\n[root]\nthreshold = 1\nkeys = [\"ann\"]\n"
    );
    RootFile::parse("1.toml", &text).unwrap()
}

fn memory(seq: u64, version: u64) -> Memory {
    let tag = ObjectId::null(gix_hash::Kind::Sha1);
    let place = Place { epoch: 1, seq };
    let release = Released {
        repo: "1b4e28ba-2fa1-11d2-883f-0016d3cca427".into(),
        channel: "production".into(),
        place,
        statement: Digest::of(b"s"),
        tag,
        root: 1,
        issued: 1_800_000_000,
        expires: 1_900_000_000,
        signers: vec!["ann".into()],
    };
    let alive = Heard { place, issued: 1, expires: 2, tag };
    Memory {
        accepted: Some(accepted(5)),
        release: Some(release),
        root: Some(root(version)),
        alive: Some(alive),
        time_floor: 9,
        ..Memory::default()
    }
}

#[test]
fn both_formats_are_read_and_the_older_one_is_written_while_it_says_all() {
    let plain = Memory::of(accepted(5));
    assert_eq!(plain.to_text(), accepted(5).to_text());
    for memory in [plain, memory(3, 2), Memory { root: Some(root(1)), ..Memory::default() }] {
        assert_eq!(Memory::from_text(&memory.to_text()).unwrap(), memory);
    }
}

#[test]
fn damage_is_never_an_empty_memory() {
    let text = memory(3, 2).to_text();
    for length in 0..text.len() - 1 {
        assert!(Memory::from_text(&text[..length]).is_err() || text[length..].trim().is_empty(), "{length}");
    }
    let change = |from: &str, to: &str| {
        assert!(text.contains(from), "{from}");
        Memory::from_text(&text.replace(from, to))
    };
    assert!(matches!(change("\"format\": 2", "\"format\": 3"), Err(StateError::Format { format: 3 })));
    for (from, to) in [
        ("trimtab-root", "root"),
        ("\"seq\"", "\"sec\""),
        ("sha256:", "sha1:"),
        ("time-floor", "floor"),
        ("epoch = 1", "epoch = 0"),
    ] {
        assert!(matches!(change(from, to), Err(StateError::Damaged(_))), "{from}");
    }
}

#[test]
fn of_two_copies_the_larger_of_each_thing_counts() {
    let (mut one, mut other) = (memory(3, 5), memory(4, 2));
    (one.time_floor, other.time_floor) = (100, 50);
    (one.lost, other.lost) = (None, Some(1));
    for merged in [one.clone().merge(other.clone()), other.clone().merge(one)] {
        assert_eq!(merged.release.unwrap().place.seq, 4);
        assert_eq!(merged.root.unwrap().root.version, 5);
        assert_eq!((merged.time_floor, merged.lost, merged.alive), (100, Some(1), other.alive.clone()));
    }
    assert_eq!(Memory::default().merge(other.clone()), other);
    // A state of commit mode is smaller than any release, whatever its clock said.
    let merged = Memory::of(accepted(u64::MAX)).merge(memory(1, 1));
    assert_eq!(merged.release.unwrap().place.seq, 1);
}

#[test]
fn the_floor_of_time_is_written_once_a_day_and_only_by_a_clock_that_is_kept() {
    let mut own = Memory::default();
    let moment = |clock, synchronised| Moment { clock, synchronised };
    assert!(!own.passes(moment(1_900_000_000, false)));
    assert!(own.passes(moment(1_900_000_000, true)));
    assert!(!own.passes(moment(1_900_086_399, true)));
    assert!(own.passes(moment(1_900_086_400, true)));
    assert!(!own.passes(moment(1_800_000_000, true)), "never back");
    assert_eq!(own.floor(1), 1_900_086_400);
    assert_eq!(Memory::default().floor(1), built());
    // Another epoch makes a thief's word about time good for nothing.
    let mut stolen = memory(9, 1);
    stolen.release.as_mut().unwrap().issued = u64::MAX / 2;
    assert_eq!((stolen.floor(1), stolen.floor(2)), (u64::MAX / 2, built()));
}

#[test]
fn further_signatures_are_nothing_to_write_down() {
    let one = memory(3, 2);
    let mut other = one.clone();
    let release = other.release.as_mut().unwrap();
    release.tag = ObjectId::from_hex(b"b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0").unwrap();
    release.signers.push("bob".into());
    assert!(one.is_like(&other) && one != other);
    other.release.as_mut().unwrap().expires += 1;
    assert!(!one.is_like(&other));
    assert!(!one.is_like(&memory(4, 2)) && !one.is_like(&memory(3, 3)) && !one.is_like(&Memory::default()));
}
