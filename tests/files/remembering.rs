//! The store: one holder, whole documents, contents that are what their names say.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;

use trimtab::store::{Places, Store, StoreError, TrustCopies};
use trimtab_model::digest::Digest;
use trimtab_model::ledger::Ledger;

use crate::common::is_root;

fn places() -> (tempfile::TempDir, Places) {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let places = Places { state: at("lib/state"), trust_copy: at("etc/second"), runtime: at("run") };
    (dir, places)
}

fn open() -> (tempfile::TempDir, Store) {
    let (dir, places) = places();
    (dir, Store::open(places).unwrap())
}

fn generation(generation: u64) -> Ledger {
    Ledger { generation, ..Ledger::default() }
}

fn files_beneath(folder: PathBuf) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap().path();
        if entry.is_dir() { found.extend(files_beneath(entry)) } else { found.push(entry) }
    }
    found
}

#[test]
fn what_a_killed_process_left_half_written_goes_when_the_next_one_opens() {
    let (_dir, places) = places();
    let mut store = Store::open(places.clone()).unwrap();
    let kept = store.put(b"whole").unwrap();
    store.save_ledger(&generation(3)).unwrap();
    drop(store);
    let half = [
        places.state.join(".ledger.json.new"),
        places.state.join(".ledger.json.old.new"),
        places.state.join("blobs/.new"),
        places.trust_copy.join(".trust-state.json.new"),
        places.runtime.join(".status.json.new"),
    ];
    for path in &half {
        fs::write(path, "ha").unwrap();
    }
    // Who only looks may stand beside one that is writing just now.
    Store::look(places.clone()).unwrap();
    assert!(half.iter().all(|path| path.exists()));
    let store = Store::open(places).unwrap();
    assert!(!half.iter().any(|path| path.exists()));
    assert_eq!((store.read(&kept).unwrap().as_slice(), store.load_ledger().unwrap().ledger.generation), (&b"whole"[..], 3));
}

#[test]
fn one_holder_at_a_time() {
    let (_dir, places) = places();
    let mut store = Store::open(places.clone()).unwrap();
    for private in [&places.state, &places.trust_copy] {
        assert_eq!(fs::metadata(private).unwrap().mode() & 0o7777, 0o700);
    }
    let error = Store::open(places.clone()).unwrap_err();
    assert!(error.to_string().contains(&format!("in use by process {}", std::process::id())), "{error}");
    assert!(!error.must_halt());
    // Looking is free, and only looking.
    store.save_ledger(&generation(3)).unwrap();
    let mut look = Store::look(places.clone()).unwrap();
    assert_eq!(look.load_ledger().unwrap().ledger.generation, 3);
    assert!(matches!(look.save_ledger(&generation(4)), Err(StoreError::LookingOnly { .. })));
    assert!(matches!(look.put(b"x"), Err(StoreError::LookingOnly { .. })));
    assert!(matches!(look.save_status(b"x", None), Err(StoreError::LookingOnly { .. })));
    drop(store);
    assert_eq!(Store::open(places).unwrap().load_ledger().unwrap().ledger.generation, 3);
}

#[test]
fn a_folder_that_others_could_write_to_is_refused() {
    let (_dir, places) = places();
    drop(Store::open(places.clone()).unwrap());
    for (folder, mode) in [(&places.state, 0o770), (&places.trust_copy, 0o707), (&places.state.parent().unwrap().to_owned(), 0o777)]
    {
        fs::set_permissions(folder, fs::Permissions::from_mode(mode)).unwrap();
        let error = Store::open(places.clone()).unwrap_err();
        assert!(matches!(error, StoreError::Untrusted { .. }) && error.must_halt(), "{error:?}");
        fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).unwrap();
    }
    if is_root("a folder of another user") {
        std::os::unix::fs::chown(&places.state, Some(1000), None).unwrap();
        let error = Store::look(places.clone()).unwrap_err().to_string();
        assert!(error.contains("belongs to user 1000"), "{error}");
        std::os::unix::fs::chown(&places.state, Some(0), None).unwrap();
    }
    // Nor through a symlink.
    let elsewhere = places.state.with_file_name("elsewhere");
    fs::rename(&places.state, &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &places.state).unwrap();
    assert!(matches!(Store::open(places), Err(StoreError::Untrusted { .. })));
}

#[test]
fn the_ledger_is_never_silently_empty() {
    let (_dir, mut store) = open();
    assert_eq!(store.load_ledger().unwrap().ledger, Ledger::default());
    store.save_ledger(&generation(1)).unwrap();
    store.save_ledger(&generation(2)).unwrap();
    let newest = store.places().state.join("ledger.json");
    let old = store.places().state.join("ledger.json.old");
    assert_eq!(fs::metadata(&newest).unwrap().mode() & 0o7777, 0o600);
    let whole = fs::read(&newest).unwrap();
    // A disk that lied: short, empty, zeros, gone. The one before it is taken, and that is said.
    for torn in [&whole[..whole.len() / 2], b"", &vec![0; whole.len()]] {
        fs::write(&newest, torn).unwrap();
        let loaded = store.load_ledger().unwrap();
        assert_eq!(loaded.ledger.generation, 1);
        assert!(loaded.warning.unwrap().contains("is damaged; the ledger before it (generation 1) is used"));
    }
    fs::remove_file(&newest).unwrap();
    assert!(store.load_ledger().unwrap().warning.unwrap().contains("is missing"));
    // Saving over a torn one does not push out the last whole one.
    fs::write(&newest, &whole[..9]).unwrap();
    store.save_ledger(&generation(3)).unwrap();
    fs::write(&newest, &whole[..9]).unwrap();
    assert_eq!(store.load_ledger().unwrap().ledger.generation, 1);
    fs::write(&old, b"{").unwrap();
    let error = store.load_ledger().unwrap_err();
    assert!(matches!(error, StoreError::Damaged { .. }) && error.must_halt(), "{error:?}");
    fs::remove_file(&newest).unwrap();
    assert!(store.load_ledger().unwrap_err().must_halt());
}

#[test]
fn a_later_or_foreign_ledger_halts_and_is_not_replaced_by_the_one_before() {
    let (_dir, mut store) = open();
    store.save_ledger(&generation(1)).unwrap();
    store.save_ledger(&generation(2)).unwrap();
    let newest = store.places().state.join("ledger.json");
    fs::write(&newest, r#"{"format":3,"new-field":true}"#).unwrap();
    let error = store.load_ledger().unwrap_err();
    assert!(matches!(error, StoreError::Newer { found: 3, known: 2, .. }) && error.must_halt(), "{error:?}");
    assert!(error.to_string().contains("install the version that wrote it"));
    fs::write(&newest, r#"{"format":2,"surprise":true}"#).unwrap();
    let error = store.load_ledger().unwrap_err();
    assert!(matches!(error, StoreError::Damaged { .. }) && error.must_halt(), "{error:?}");
}

#[test]
fn contents_are_what_their_names_say() {
    let (_dir, mut store) = open();
    let a = store.put(b"content a").unwrap();
    let b = store.put_file(&mut &vec![b'b'; 100_000][..]).unwrap();
    let empty = store.put(b"").unwrap();
    assert_eq!((a, b, empty), (Digest::of(b"content a"), Digest::of(&vec![b'b'; 100_000]), Digest::of(b"")));
    assert_eq!(store.read(&a).unwrap(), b"content a");
    assert_eq!(store.read(&b).unwrap().len(), 100_000);
    let blobs = store.places().state.join("blobs");
    let file = blobs.join(&a.hex()[..2]).join(&a.hex()[2..]);
    assert!(store.has(&a) && !file.exists(), "a content gets its name when it is on the disk, and not before");
    store.sync().unwrap();
    assert_eq!(store.read(&a).unwrap(), b"content a");
    let ino = fs::metadata(&file).unwrap().ino();
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o7777, 0o600);
    store.put(b"content a").unwrap();
    store.sync().unwrap();
    assert_eq!(fs::metadata(&file).unwrap().ino(), ino, "what is there and whole is not written again");
    // A power cut left zeros of the right length: told when read, mended when put.
    fs::write(&file, vec![0; 9]).unwrap();
    assert!(matches!(store.read(&a), Err(StoreError::DamagedBlob { .. })));
    store.put(b"content a").unwrap();
    store.sync().unwrap();
    assert_eq!(fs::read(&file).unwrap(), b"content a");
    let unknown = Digest::of(b"unknown");
    assert!(!store.has(&unknown) && store.has(&a));
    assert!(matches!(store.read(&unknown), Err(StoreError::NoBlob { .. })));
    // Crumbs of a crash go too.
    fs::write(blobs.join(".new"), "half").unwrap();
    assert_eq!(store.gc(&BTreeSet::from([b])).unwrap(), 2);
    assert!(store.has(&b) && !store.has(&a) && !store.has(&empty));
    assert_eq!(files_beneath(blobs).len(), 1);
    store.sync().unwrap();
}

#[test]
fn many_contents_before_one_ledger() {
    let (_dir, mut store) = open();
    let digests: Vec<_> = (0..300u32).map(|n| store.put(&n.to_be_bytes()).unwrap()).collect();
    store.save_ledger(&generation(1)).unwrap();
    for (n, digest) in (0..300u32).zip(&digests) {
        assert_eq!(store.read(digest).unwrap(), n.to_be_bytes());
    }
}

#[test]
fn the_small_documents_come_back() {
    let (_dir, mut store) = open();
    assert_eq!(store.load_trust_state().unwrap(), TrustCopies::default());
    store.save_trust_state("seen = 4").unwrap();
    let both = TrustCopies { main: Some("seen = 4".into()), second: Some("seen = 4".into()) };
    assert_eq!(store.load_trust_state().unwrap(), both);
    fs::remove_file(store.places().state.join("trust-state.json")).unwrap();
    assert_eq!(store.load_trust_state().unwrap(), TrustCopies { main: None, ..both });
    let second = fs::metadata(store.places().trust_copy.join("trust-state.json")).unwrap();
    assert_eq!(second.mode() & 0o7777, 0o600);

    assert_eq!(store.load_status().unwrap(), None);
    store.save_status(b"{\"ok\":true}", None).unwrap();
    assert_eq!(store.load_status().unwrap().as_deref(), Some(&b"{\"ok\":true}"[..]));
    assert_eq!(
        fs::metadata(store.places().runtime.join("status.json")).unwrap().mode() & 0o7777,
        0o640,
        "it may hold the last words of a failed unit"
    );
    let left: Vec<_> = files_beneath(store.places().state.parent().unwrap().to_owned());
    assert!(!left.iter().any(|file| file.to_string_lossy().ends_with(".new")), "{left:?}");
}

#[test]
fn room_is_asked_for_before() {
    let (_dir, store) = open();
    let space = store.space().unwrap();
    store.require(0).unwrap();
    let error = store.require(space.bytes).unwrap_err();
    assert!(matches!(error, StoreError::NoSpace { .. }) && !error.must_halt(), "{error:?}");
    assert!(error.to_string().contains("free some space"), "{error}");
}
