//! Generations on disk, and what a person asked for: bounded, whole, and never in the way of the ones that are needed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;

use trimtab::store::{Places, Request, Store, StoreError};
use trimtab_model::desired::{Desired, Entry, FileState, Node, Origin, Role};
use trimtab_model::digest::Digest;
use trimtab_model::transaction::{GENERATION_FORMAT, Generation};

use crate::common::path;

fn open() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let places = Places { state: at("lib/state"), trust_copy: at("etc/second"), runtime: at("run") };
    (dir, Store::open(places).unwrap())
}

/// A generation that has these contents as files, kept in the store.
fn keep(store: &mut Store, number: u64, contents: &[&[u8]]) -> BTreeSet<Digest> {
    let mut desired = Desired::default();
    let mut digests = BTreeSet::new();
    for (at, content) in contents.iter().enumerate() {
        let digest = store.put(content).unwrap();
        digests.insert(digest);
        let node = Node::File { digest, size: content.len() as u64 };
        let state = FileState { node, mode: 0o644, owner: "root".parse().unwrap(), group: "root".parse().unwrap() };
        let origin = Origin { component: "one".parse().unwrap(), file: "components/one/x".into(), line: 0 };
        desired.entries.insert(
            path(&format!("/etc/{at}")),
            Entry {
                state,
                role: Role::Plain,
                shown: true,
                drift: trimtab_model::drift::DriftPolicy::default(),
                ignored: None,
                artifact: None,
                origin,
            },
        );
    }
    store.save_generation(&generation(number, desired)).unwrap();
    digests
}

fn generation(number: u64, desired: Desired) -> Generation {
    let (revision, inputs) = ("c0ffee".to_owned(), Digest::of(b"host"));
    Generation { format: GENERATION_FORMAT, number, revision, inputs, at: 7, withheld: Vec::new(), wants: None, desired }
}

fn numbers(store: &Store) -> Vec<u64> {
    store.generations().unwrap().into_keys().collect()
}

const PLENTY: u64 = u64::MAX / 2;

#[test]
fn a_generation_comes_back_as_it_was_saved() {
    let (_dir, mut store) = open();
    assert_eq!(store.generations().unwrap(), BTreeMap::new());
    assert_eq!(store.load_generation(1).unwrap(), None);
    let contents = keep(&mut store, 1, &[b"a", b"b"]);
    let first = store.load_generation(1).unwrap().unwrap();
    assert_eq!((first.number, first.at, first.desired.entries.len()), (1, 7, 2));
    assert_eq!(trimtab::store::contents_of(&first).collect::<BTreeMap<_, _>>().len(), 2);
    assert!(contents.iter().all(|digest| store.has(digest)));
    let file = store.places().state.join("generations/1.json");
    let seen = fs::metadata(&file).unwrap();
    assert_eq!(seen.mode() & 0o7777, 0o600);
    assert_eq!(fs::metadata(file.parent().unwrap()).unwrap().mode() & 0o7777, 0o700);
    assert_eq!(store.generations().unwrap(), BTreeMap::from([(1, seen.len())]));
    // The same number again, with another commit: replaced as a whole.
    let again = Generation { revision: "beef".into(), ..first };
    store.save_generation(&again).unwrap();
    assert_eq!(store.load_generation(1).unwrap(), Some(again.clone()));
    let mut look = Store::look(store.places().clone()).unwrap();
    assert_eq!(look.load_generation(1).unwrap(), Some(again.clone()));
    assert!(matches!(look.save_generation(&again), Err(StoreError::LookingOnly { .. })));
    assert!(matches!(look.retain_generations(&BTreeSet::new(), 0, 0), Err(StoreError::LookingOnly { .. })));
    assert!(matches!(look.take_requests(), Err(StoreError::LookingOnly { .. })));
    assert_eq!(numbers(&store), [1]);
}

#[test]
fn a_damaged_one_is_told_and_a_later_one_halts() {
    let (_dir, mut store) = open();
    keep(&mut store, 1, &[b"a"]);
    let file = store.places().state.join("generations/1.json");
    let whole = fs::read(&file).unwrap();
    for torn in [&whole[..whole.len() / 2], b"", &vec![0; whole.len()], br#"{"format":1,"surprise":1}"#] {
        fs::write(&file, torn).unwrap();
        let error = store.load_generation(1).unwrap_err();
        assert!(matches!(error, StoreError::Stale { .. }) && !error.must_halt(), "{error:?}");
        assert!(error.to_string().contains("generations/1.json"), "{error}");
    }
    // A later format may have what is unknown here, and must not be taken for a damaged one.
    fs::write(&file, br#"{"format":9,"number":1,"new-field":true}"#).unwrap();
    let error = store.load_generation(1).unwrap_err();
    assert!(matches!(error, StoreError::Newer { found: 9, known: GENERATION_FORMAT, .. }) && error.must_halt(), "{error:?}");
}

#[test]
fn the_newest_stay_and_the_held_ones_whatever_the_bounds_say() {
    let (_dir, mut store) = open();
    let mut contents = BTreeMap::new();
    for number in 1..=12 {
        contents.insert(number, keep(&mut store, number, &[format!("content {number}").as_bytes(), b"shared"]));
    }
    let kept = store.retain_generations(&BTreeSet::from([2, 11]), 3, PLENTY).unwrap();
    assert_eq!(numbers(&store), [2, 9, 10, 11, 12]);
    let named: BTreeSet<Digest> = [2, 9, 10, 11, 12].iter().flat_map(|number| contents[number].clone()).collect();
    assert_eq!(kept, named, "and exactly their contents are named");
    store.gc(&kept).unwrap();
    assert!(named.iter().all(|digest| store.read(digest).is_ok()));
    assert!(!store.has(&Digest::of(b"content 1")) && store.has(&Digest::of(b"shared")));
    // Nothing but the held ones.
    let kept = store.retain_generations(&BTreeSet::from([2, 11]), 0, 0).unwrap();
    assert_eq!(numbers(&store), [2, 11]);
    assert_eq!(kept, contents[&2].union(&contents[&11]).copied().collect());
}

#[test]
fn the_bound_in_bytes_counts_a_shared_content_once_and_a_held_one_never() {
    let (_dir, mut store) = open();
    let big = vec![b'b'; 100_000];
    let held = vec![b'h'; 100_000];
    keep(&mut store, 1, &[&big]);
    keep(&mut store, 2, &[&big, b"two"]);
    keep(&mut store, 3, &[&held]);
    keep(&mut store, 4, &[&held, b"four"]);
    // 4 shares its content with the held 3 and costs nearly nothing; 2 pays for the big one, 1 has it for nothing.
    store.retain_generations(&BTreeSet::from([3]), 10, 110_000).unwrap();
    assert_eq!(numbers(&store), [1, 2, 3, 4]);
    store.retain_generations(&BTreeSet::from([3]), 10, 90_000).unwrap();
    assert_eq!(numbers(&store), [3, 4]);
}

#[test]
fn crumbs_and_damaged_ones_go_but_a_held_one_stays() {
    let (_dir, mut store) = open();
    for number in 1..=3 {
        keep(&mut store, number, &[b"x"]);
    }
    let folder = store.places().state.join("generations");
    fs::write(folder.join(".4.json.new"), "half").unwrap();
    fs::write(folder.join("1.json"), "torn").unwrap();
    fs::write(folder.join("2.json"), "torn").unwrap();
    let kept = store.retain_generations(&BTreeSet::from([2]), 10, PLENTY).unwrap();
    assert_eq!(numbers(&store), [2, 3], "what is held may be looked at by a person yet");
    assert!(!folder.join(".4.json.new").exists());
    assert_eq!(kept, BTreeSet::from([Digest::of(b"x")]));
}

#[test]
fn what_was_asked_for_is_taken_once() {
    let (_dir, mut store) = open();
    assert_eq!(store.take_requests().unwrap().requests, []);
    let places = store.places().clone();
    let wish = Request::Rollback { generation: Some(3), reason: "the pumps".into() };
    wish.leave(&places).unwrap();
    let folder = places.state.join("requests");
    assert_eq!(fs::metadata(&folder).unwrap().mode() & 0o7777, 0o700);
    // Half of one that is being written is not one yet, and is left to its writer.
    let half = folder.join(".9.json.new");
    fs::write(&half, r#"{"ask":"ret"#).unwrap();
    let taken = store.take_requests().unwrap();
    assert_eq!((taken.requests, taken.unread.len()), (vec![wish], 0));
    assert!(half.exists());
    assert_eq!(store.take_requests().unwrap().requests, []);
    // One that cannot be read does not come again, and does not keep the others from being taken.
    for name in ["0.json", "999999999.json"] {
        fs::write(folder.join(name), r#"{"ask":"reboot"}"#).unwrap();
    }
    let retry = Request::Retry { revision: None };
    retry.leave(&places).unwrap();
    let taken = store.take_requests().unwrap();
    assert_eq!(taken.requests, [retry]);
    assert!(taken.unread.len() == 2 && taken.unread[0].to_string().contains("requests/"), "{:?}", taken.unread);
    let taken = store.take_requests().unwrap();
    assert_eq!((taken.requests.len(), taken.unread.len()), (0, 0));
    let approve = Request::Approve { revision: "c0ffee".into() };
    approve.leave(&places).unwrap();
    assert_eq!(store.take_requests().unwrap().requests, [approve]);
}
