//! File systems that refuse: full, read-only, immutable, mounted over. One clear error each, and the old content as it was.

use std::fs;
use std::process::Command;

use trimtab::host::place::{Batch, NewNode};
use trimtab::store::{Places, Store, StoreError};
use trimtab_model::ledger::Ledger;
use trimtab_model::observed::{Expected, Found};

use crate::common::{Sandbox, chain, is_root, ours, own_mounts, path, run};

fn told(error: &impl std::error::Error, parts: &[&str]) {
    let text = chain(error);
    for part in parts {
        assert!(text.contains(part), "{text:?} does not say {part:?}");
    }
    // The cause stands in the chain once.
    assert_eq!(text.matches("os error").count(), 1, "{text}");
}

#[test]
fn a_full_disk() {
    if !own_mounts("trouble::a_full_disk") {
        return;
    }
    let disk = tempfile::tempdir().unwrap();
    run("mount", &["-t", "tmpfs", "-o", "size=256k,mode=755", "none", &disk.path().display().to_string()]);
    let sandbox = Sandbox::in_folder(disk.path());
    sandbox.write("/etc/a", "old");
    let places = Places { state: sandbox.real("/state"), trust_copy: sandbox.real("/second"), runtime: sandbox.real("/run") };
    let mut store = Store::open(places).unwrap();
    let mut ledger = Ledger { generation: 7, ..Ledger::default() };
    store.save_ledger(&ledger).unwrap();
    assert!(matches!(store.require(0), Err(StoreError::NoSpace { .. })), "256 KiB are less than the reserve");

    let error = sandbox.put("/etc/a", NewNode::File(&vec![b'x'; 1 << 20]), 0o644, sandbox.expected("/etc/a")).unwrap_err();
    told(&error, &["cannot write /etc/a", "the file system is full", "No space left"]);
    assert_eq!(sandbox.text("/etc/a"), "old");
    assert!(sandbox.leftovers().is_empty(), "and it is as empty as before");

    let error = store.put(&vec![b'x'; 1 << 20]).unwrap_err();
    told(&error, &["blobs", "the disk is full", "No space left"]);
    ledger.generation = 8;
    ledger.revision = "x".repeat(1 << 20);
    let error = store.save_ledger(&ledger).unwrap_err();
    told(&error, &["cannot save", "ledger.json", "free some space", "the old file is intact"]);
    assert!(!sandbox.real("/state/.ledger.json.new").exists() && !sandbox.real("/state/blobs/.new").exists());
    let loaded = store.load_ledger().unwrap();
    assert_eq!((loaded.ledger.generation, loaded.warning), (7, None));
    // Once there is room again all goes on.
    ledger.revision.clear();
    store.save_ledger(&ledger).unwrap();
    assert_eq!(store.load_ledger().unwrap().ledger.generation, 8);
    sandbox.put("/etc/a", NewNode::File(b"new"), 0o644, sandbox.expected("/etc/a")).unwrap();
    run("umount", &["--lazy", &disk.path().display().to_string()]);
}

#[test]
fn a_read_only_file_system_and_a_mount_point_in_the_way() {
    if !own_mounts("trouble::a_read_only_file_system_and_a_mount_point_in_the_way") {
        return;
    }
    let sandbox = Sandbox::new();
    sandbox.write("/etc/ro/a", "old");
    sandbox.write("/etc/over", "below");
    sandbox.write("/etc/source", "above");
    fs::create_dir(sandbox.real("/etc/mount")).unwrap();
    let real = |host: &str| sandbox.real(host).display().to_string();
    run("mount", &["--bind", &real("/etc/ro"), &real("/etc/ro")]);
    run("mount", &["-o", "remount,bind,ro", &real("/etc/ro")]);
    run("mount", &["--bind", &real("/etc/source"), &real("/etc/over")]);
    run("mount", &["-t", "tmpfs", "none", &real("/etc/mount")]);

    let mut batch = Batch::new(&sandbox.root);
    let error = batch.stage(&path("/etc/ro/a"), ours(NewNode::File(b"x"), 0o644)).unwrap_err();
    told(&error, &["/etc/ro/a", "mounted read-only"]);
    let error = batch.stage(&path("/etc/ro/new/b"), ours(NewNode::File(b"x"), 0o644)).unwrap_err();
    told(&error, &["cannot make the directory /etc/ro/new", "Read-only file system"]);
    let error = batch.remove(&path("/etc/ro/a"), sandbox.expected("/etc/ro/a")).unwrap_err();
    told(&error, &["cannot remove /etc/ro/a", "mounted read-only"]);
    assert_eq!(sandbox.text("/etc/ro/a"), "old");

    // A plan never gets this far, for what is found there is unfit. If it did, the kernel has the last word.
    let bare = fs::metadata(sandbox.real("/etc/over")).map(|m| {
        use std::os::unix::fs::MetadataExt;
        let ctime = i128::from(m.ctime()) * 1_000_000_000 + i128::from(m.ctime_nsec());
        Expected::Same(trimtab_model::observed::Identity { dev: m.dev(), ino: m.ino(), ctime })
    });
    let error = sandbox.put("/etc/over", NewNode::File(b"x"), 0o644, bare.unwrap()).unwrap_err();
    told(&error, &["cannot replace /etc/over", "a file system is mounted on it"]);
    let error = batch.remove(&path("/etc/mount"), sandbox.expected("/etc/mount")).unwrap_err();
    told(&error, &["cannot remove /etc/mount", "a file system is mounted on it"]);
    assert_eq!(sandbox.text("/etc/over"), "above");
    assert!(sandbox.leftovers().is_empty());
    run("umount", &["--lazy", &real("/etc/ro"), &real("/etc/over"), &real("/etc/mount")]);
}

#[test]
fn an_immutable_file() {
    if !is_root("chattr") {
        return;
    }
    let sandbox = Sandbox::new();
    sandbox.write("/etc/a", "old");
    let real = sandbox.real("/etc/a");
    if !Command::new("chattr").arg("+i").arg(&real).status().is_ok_and(|status| status.success()) {
        eprintln!("skipped: {} is on a file system without chattr", real.display());
        return;
    }
    let expected = sandbox.expected("/etc/a");
    let replaced = sandbox.put("/etc/a", NewNode::File(b"new"), 0o644, expected);
    let removed = Batch::new(&sandbox.root).remove(&path("/etc/a"), expected);
    Command::new("chattr").arg("-i").arg(&real).status().unwrap();
    told(&replaced.unwrap_err(), &["cannot replace /etc/a", "immutable", "chattr -i"]);
    told(&removed.unwrap_err(), &["cannot remove /etc/a", "immutable"]);
    assert_eq!(sandbox.text("/etc/a"), "old");
    assert!(sandbox.leftovers().is_empty());
}

#[test]
fn a_name_that_is_too_long_for_the_disk() {
    let sandbox = Sandbox::new();
    // 255 bytes are what the model allows and what ext4 and tmpfs take: it must just work.
    let host = format!("/{}", "n".repeat(255));
    sandbox.put(&host, NewNode::File(b"x"), 0o644, Expected::Absent).unwrap();
    assert!(matches!(sandbox.found(&host), Found::File { .. }));
    // Deeper than PATH_MAX when the folder of the sandbox is counted in, never when resolved beneath the handle.
    let deep = format!("{}/x", format!("/{}", "d".repeat(200)).repeat(19));
    sandbox.put(&deep, NewNode::File(b"x"), 0o644, Expected::Absent).unwrap();
    assert!(matches!(sandbox.found(&deep), Found::File { .. }));
}

/// Fills a file system to its last byte.
fn fill(folder: &std::path::Path) -> std::path::PathBuf {
    use std::io::Write;
    let at = folder.join("filler");
    let mut file = fs::File::create(&at).unwrap();
    for size in [1 << 16, 1 << 12, 1] {
        while file.write_all(&vec![b'f'; size]).and_then(|()| file.sync_all()).is_ok() {}
    }
    at
}

fn the_ledger_has_room_of_its_own(disk: &std::path::Path) {
    let at = |name: &str| disk.join(name);
    let places = Places { state: at("state"), trust_copy: at("second"), runtime: at("run") };
    let reserve = at("state/reserve");
    let mut store = Store::open(places.clone()).unwrap();
    let allocated = |at: &std::path::Path| fs::metadata(at).map_or(0, |seen| MetadataExt::blocks(&seen) * 512);
    assert!(allocated(&reserve) >= 1 << 20, "{}", allocated(&reserve));
    // A ledger that is longer than what is set aside at first: the reserve grows with it.
    let mut ledger = Ledger { generation: 1, revision: "x".repeat(700_000), ..Ledger::default() };
    store.save_ledger(&ledger).unwrap();
    assert!(allocated(&reserve) >= 2 << 20, "{}", allocated(&reserve));

    let filler = fill(disk);
    assert!(fs::write(at("more"), vec![b'x'; 1 << 16]).is_err(), "it is full");
    assert!(matches!(store.require(0), Err(StoreError::NoSpace { .. })), "nothing new is begun");
    told(&store.put(&vec![b'x'; 1 << 16]).unwrap_err(), &["the disk is full"]);
    assert!(reserve.exists(), "contents do not take it");
    ledger.generation = 2;
    store.save_ledger(&ledger).unwrap();
    assert!(!reserve.exists(), "the ledger does");
    drop(store);
    let mut store = Store::open(places).unwrap();
    let loaded = store.load_ledger().unwrap();
    assert_eq!((loaded.ledger.generation, loaded.warning), (2, None));
    assert!(!reserve.exists(), "and it is not made of the last room there is");

    fs::remove_file(filler).unwrap();
    let _ = fs::remove_file(at("more"));
    ledger.generation = 3;
    store.save_ledger(&ledger).unwrap();
    assert!(allocated(&reserve) >= 2 << 20, "made again when there is room");
    let before = fs::metadata(&reserve).unwrap();
    store.save_ledger(&ledger).unwrap();
    use std::os::unix::fs::MetadataExt;
    assert_eq!(fs::metadata(&reserve).unwrap().ino(), before.ino(), "and left alone then");
}

#[test]
fn a_full_disk_does_not_lose_the_ledger() {
    if !own_mounts("trouble::a_full_disk_does_not_lose_the_ledger") {
        return;
    }
    let disk = tempfile::tempdir().unwrap();
    let at = disk.path().display().to_string();
    run("mount", &["-t", "tmpfs", "-o", "size=12m,mode=755", "none", &at]);
    the_ledger_has_room_of_its_own(disk.path());
    run("umount", &["--lazy", &at]);
}

#[test]
fn a_full_ext4_does_not_lose_the_ledger() {
    if !own_mounts("trouble::a_full_ext4_does_not_lose_the_ledger") {
        return;
    }
    let disk = tempfile::tempdir().unwrap();
    let image = disk.path().join("image");
    fs::File::create(&image).unwrap().set_len(24 << 20).unwrap();
    let mount = disk.path().join("mount");
    fs::create_dir(&mount).unwrap();
    let words = |program: &str, words: &[&str]| Command::new(program).args(words).status().is_ok_and(|status| status.success());
    let (image, at) = (image.display().to_string(), mount.display().to_string());
    // A journal, as a device has it: what was removed is free only when that was committed.
    if !words("mkfs.ext4", &["-q", "-m", "0", "-J", "size=4", &image]) || !words("mount", &["-o", "loop", &image, &at]) {
        eprintln!("skipped: no ext4 on a loop device here");
        return;
    }
    the_ledger_has_room_of_its_own(&mount);
    run("umount", &[&at]);
}
