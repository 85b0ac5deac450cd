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
        since: 1_800_000_000,
        signers: vec!["ann".into()],
    };
    let alive = Heard { place, issued: 1, expires: 2, tag, role: None };
    Memory {
        accepted: Some(accepted(5)),
        release: Some(release),
        root: Some(root(version)),
        alive: Some(alive),
        time_floor: 9,
        time_epoch: 1,
        pin: Some(root(1).digest()),
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
    assert!(matches!(change("\"format\": 3", "\"format\": 4"), Err(StateError::Format { format: 4 })));
    for (from, to) in [
        ("trimtab-root", "root"),
        ("\"seq\"", "\"sec\""),
        ("sha256:", "sha1:"),
        ("time-floor", "floor"),
        ("time-epoch", "epoch"),
        ("\"pin\"", "\"pins\""),
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
    for merged in [one.clone().merge(other.clone()), other.clone().merge(one.clone())] {
        assert_eq!(merged.release.unwrap().place.seq, 4);
        assert_eq!(merged.root.unwrap().root.version, 5);
        assert_eq!((merged.time_floor, merged.lost, merged.alive), (100, Some(1), other.alive.clone()));
    }
    assert_eq!(Memory::default().merge(other.clone()), other);
    // In commit mode there is no number: the one that was written more often is the later, though the clock was set back in between.
    let commits = |at, written| Memory { release: None, accepted: Some(accepted(at)), written, ..memory(1, 1) };
    for merged in [commits(900, 4).merge(commits(100, 5)), commits(100, 5).merge(commits(900, 4))] {
        assert_eq!(merged.accepted.unwrap().accepted_at, 100);
    }
    // What is told, and where to go on from, is told whichever copy says it; and each writing counts.
    (one, other) = (memory(3, 1), memory(4, 1));
    (one.lost, one.base) = (Some(1), Some(ObjectId::null(gix_hash::Kind::Sha1)));
    for merged in [one.clone().merge(other.clone()), other.clone().merge(one.clone())] {
        assert_eq!((merged.release.unwrap().place.seq, merged.lost, merged.base), (4, Some(1), one.base));
    }
    assert_eq!(memory(4, 1).after(&Memory { written: 6, ..one }).written, 7);
    // A state of commit mode is smaller than any release, whatever its clock said.
    let merged = Memory::of(accepted(u64::MAX)).merge(memory(1, 1));
    assert_eq!(merged.release.unwrap().place.seq, 1);
}

#[test]
fn the_floor_of_time_is_written_once_a_day_and_only_by_a_clock_that_is_kept() {
    let mut own = memory(3, 1);
    (own.time_floor, own.alive) = (0, None);
    let moment = |clock, synchronised| Moment { clock, synchronised };
    assert!(!own.passes(moment(1_810_000_000, false)));
    assert!(own.passes(moment(1_810_000_000, true)));
    assert!(!own.passes(moment(1_810_086_399, true)));
    assert!(own.passes(moment(1_810_086_400, true)));
    assert!(!own.passes(moment(1_800_000_000, true)), "never back");
    assert_eq!(own.floor_now(), 1_810_086_400);
    assert_eq!(Memory::default().floor(1, None), built());
    // Past the end of what is accepted it decides nothing: one wrong day does not make every later release too old.
    assert!(own.passes(moment(u64::MAX, true)));
    assert!(!own.passes(moment(u64::MAX, true)));
    assert_eq!((own.floor_now(), own.last_poll), (1_900_000_001, u64::MAX));
    // Another epoch makes a thief's word about time good for nothing.
    let mut stolen = memory(9, 1);
    stolen.release.as_mut().unwrap().issued = u64::MAX / 2;
    let passed = stolen.release.as_ref().map(Released::passed);
    assert_eq!((stolen.floor(1, passed.as_ref()), stolen.floor(2, passed.as_ref())), (u64::MAX / 2, built()));
}

/// As the version before wrote it.
const FORMAT_2: &str = r#"{
  "format": 2,
  "accepted": {
    "format": 1,
    "mode": "release",
    "branch": "refs/trimtab/production",
    "commit": "b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0",
    "payload": "sha256:2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881",
    "signer": "SHA256:uNiVztksCsDhcc0u9e8BrrabCVyVUZo8aCOw9XmXFCo",
    "signer-name": "ann, bob",
    "accepted-at": 1800000000,
    "time-floor": 0
  },
  "release": {
    "repo": "1b4e28ba-2fa1-11d2-883f-0016d3cca427",
    "channel": "production",
    "place": { "epoch": 1, "seq": 7 },
    "statement": "sha256:2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881",
    "tag": "b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0",
    "root": 1,
    "issued": 1800000000,
    "expires": 1805000000,
    "signers": ["ann", "bob"]
  },
  "root": "ROOT",
  "alive": { "place": { "epoch": 1, "seq": 7 }, "issued": 1800000000, "expires": 1800086400, "tag": "b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0" },
  "time-floor": 4102444800,
  "last-poll": 1800000000
}"#;

#[test]
fn format_2_is_read_without_what_it_could_not_say() {
    let text = FORMAT_2.replace("ROOT", &root(1).text.escape_default().to_string());
    let read = Memory::from_text(&text).unwrap();
    let release = read.release.as_ref().unwrap();
    assert_eq!((release.place.seq, release.since, read.time_epoch, read.turn), (7, release.issued, 1, 0));
    assert_eq!((read.pin, &read.former, read.earlier.len(), read.base), (None, &None, 0, None));
    // One wrong day had written the year 2100.
    assert_eq!(read.time_floor, 1_805_000_001);
    // Whose word that was is not known, so it is asked for again.
    assert_eq!((read.alive.is_some(), read.heard("production")), (true, None));
    assert_eq!(Memory::from_text(&read.to_text()).unwrap(), read);
    assert!(matches!(Memory::from_text(&text.replace("\"format\": 2", "\"format\": 3")), Err(StateError::Damaged(_))));
}

#[test]
fn a_copy_that_is_behind_brings_nothing_back_that_was_forgotten() {
    let (mut one, mut other) = (memory(3, 1), memory(9, 5));
    one.turn = 1;
    other.lost = Some(4);
    for merged in [one.clone().merge(other.clone()), other.clone().merge(one.clone())] {
        assert_eq!(merged, Memory { lost: Some(4), ..one.clone() });
    }
    // Of two channels neither number says anything about the other; the later one is in force, and both are known.
    let (mut here, mut there) = (memory(3, 1), memory(9, 1));
    there.release.as_mut().unwrap().channel = "staging".into();
    here.accepted = Some(accepted(6));
    for merged in [here.clone().merge(there.clone()), there.clone().merge(here.clone())] {
        assert_eq!(merged.release.as_ref().unwrap().place.seq, 3);
        let repo = merged.release.as_ref().unwrap().repo.clone();
        assert_eq!(merged.passed(&repo, "staging").unwrap().place.seq, 9);
    }
    // The one that says that it has left the other's channel is the later, whatever the clock said then.
    there.earlier.push(here.release.as_ref().unwrap().passed());
    for merged in [here.clone().merge(there.clone()), there.clone().merge(here.clone())] {
        assert_eq!(merged.release.unwrap().channel, "staging");
    }
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
