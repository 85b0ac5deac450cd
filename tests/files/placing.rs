//! Changes of files: whole or not at all, only over what was expected.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use proptest::prelude::*;
use trimtab::host::place::{Batch, New, NewNode, PlaceError, sweep};
use trimtab_model::desired::Node;
use trimtab_model::digest::Digest;
use trimtab_model::ledger::Before;
use trimtab_model::names::HostPath;
use trimtab_model::observed::{Expected, Found};

use crate::common::{Sandbox, inside, is_root, ours, path};

#[test]
fn a_file_is_old_until_it_is_new() {
    let sandbox = Sandbox::new();
    sandbox.write("/etc/a", "old");
    let mut batch = Batch::new(&sandbox.root);
    let staged = batch.stage(&path("/etc/a"), ours(NewNode::File(b"new"), 0o4711)).unwrap();
    assert_eq!(sandbox.text("/etc/a"), "old");
    assert_eq!(sandbox.text(staged.temporary().unwrap().as_str()), "new");
    let meta = batch.switch(staged, sandbox.expected("/etc/a")).unwrap();
    assert!(batch.finish().unwrap().is_empty());
    assert_eq!((sandbox.text("/etc/a").as_str(), meta.mode), ("new", 0o4711));
    assert_eq!(sandbox.found("/etc/a").meta(), Some(&meta), "what switch says is what stands there");
    assert!(sandbox.leftovers().is_empty());
}

#[test]
fn what_is_dropped_leaves_nothing() {
    let sandbox = Sandbox::new();
    sandbox.write("/etc/a", "old");
    let mut batch = Batch::new(&sandbox.root);
    let file = batch.stage(&path("/etc/a"), ours(NewNode::File(b"new"), 0o644)).unwrap();
    let link = batch.stage(&path("/etc/b"), ours(NewNode::Symlink("a"), 0o777)).unwrap();
    assert_eq!(sandbox.leftovers().len(), 2);
    drop((file, link));
    assert!(sandbox.leftovers().is_empty());
    assert_eq!(sandbox.text("/etc/a"), "old");
    assert!(!sandbox.real("/etc/b").exists());
}

#[test]
fn a_symlink_at_the_target_is_replaced_and_not_followed() {
    let sandbox = Sandbox::new();
    let shadow = tempfile::NamedTempFile::new().unwrap();
    fs::write(shadow.path(), "secret").unwrap();
    fs::create_dir(sandbox.real("/etc")).unwrap();
    symlink(shadow.path(), sandbox.real("/etc/a")).unwrap();
    let before = shadow.path().metadata().unwrap().ctime_nsec();
    sandbox.put("/etc/a", NewNode::File(b"ours"), 0o666, sandbox.expected("/etc/a")).unwrap();
    assert!(fs::symlink_metadata(sandbox.real("/etc/a")).unwrap().is_file());
    assert_eq!((fs::read_to_string(shadow.path()).unwrap().as_str(), sandbox.text("/etc/a").as_str()), ("secret", "ours"));
    assert_eq!(shadow.path().metadata().unwrap().ctime_nsec(), before, "neither mode nor owner of it was touched");
}

fn raced<T: std::fmt::Debug>(result: Result<T, PlaceError>) {
    assert!(matches!(result, Err(PlaceError::Raced { .. })), "{result:?}");
}

#[test]
fn an_edit_after_the_look_is_a_race_and_stays() {
    let sandbox = Sandbox::new();
    sandbox.write("/etc/a", "old");
    let looked = sandbox.expected("/etc/a");
    // In place, same length; then as editors do.
    sandbox.write("/etc/a", "OLD");
    raced(sandbox.put("/etc/a", NewNode::File(b"ours"), 0o644, looked));
    assert_eq!(sandbox.text("/etc/a"), "OLD");
    raced(Batch::new(&sandbox.root).remove(&path("/etc/a"), looked));
    let looked = sandbox.expected("/etc/a");
    sandbox.write("/etc/b", "replaced");
    fs::rename(sandbox.real("/etc/b"), sandbox.real("/etc/a")).unwrap();
    raced(sandbox.put("/etc/a", NewNode::File(b"ours"), 0o644, looked));
    raced(sandbox.put("/etc/a", NewNode::Directory, 0o755, looked));
    // Only its mode.
    let looked = sandbox.expected("/etc/a");
    fs::set_permissions(sandbox.real("/etc/a"), fs::Permissions::from_mode(0o600)).unwrap();
    raced(sandbox.put("/etc/a", NewNode::File(b"ours"), 0o644, looked));
    assert_eq!(sandbox.text("/etc/a"), "replaced");
    // It went, or something came.
    let looked = sandbox.expected("/etc/a");
    fs::remove_file(sandbox.real("/etc/a")).unwrap();
    raced(sandbox.put("/etc/a", NewNode::File(b"ours"), 0o644, looked));
    assert!(!Batch::new(&sandbox.root).remove(&path("/etc/a"), looked).unwrap());
    sandbox.write("/etc/a", "came");
    for node in [NewNode::File(b"ours"), NewNode::Symlink("x"), NewNode::Directory] {
        raced(sandbox.put("/etc/a", node, 0o644, Expected::Absent));
    }
    assert_eq!(sandbox.text("/etc/a"), "came");
    assert!(sandbox.leftovers().is_empty());
}

#[test]
fn what_is_staged_cannot_be_exchanged() {
    let sandbox = Sandbox::new();
    sandbox.write("/etc/a", "old");
    let mut batch = Batch::new(&sandbox.root);
    let staged = batch.stage(&path("/etc/a"), ours(NewNode::File(b"ours"), 0o644)).unwrap();
    sandbox.write(staged.temporary().unwrap().as_str(), "evil");
    raced(batch.switch(staged, sandbox.expected("/etc/a")));
    // Nor the directory that it was staged in.
    let staged = batch.stage(&path("/etc/a"), ours(NewNode::File(b"ours"), 0o644)).unwrap();
    let expected = sandbox.expected("/etc/a");
    fs::rename(sandbox.real("/etc"), sandbox.real("/moved")).unwrap();
    sandbox.write("/etc/a", "another");
    raced(batch.switch(staged, expected));
    assert_eq!((sandbox.text("/etc/a").as_str(), sandbox.text("/moved/a").as_str()), ("another", "old"));
}

#[test]
fn directories_and_files_turn_into_each_other_only_when_nothing_is_lost() {
    let sandbox = Sandbox::new();
    fs::create_dir_all(sandbox.real("/etc/full/sub")).unwrap();
    fs::create_dir_all(sandbox.real("/etc/empty")).unwrap();
    let error = sandbox.put("/etc/full", NewNode::File(b"x"), 0o644, sandbox.expected("/etc/full")).unwrap_err();
    assert!(matches!(error, PlaceError::NotEmpty { .. }), "{error:?}");
    let error = Batch::new(&sandbox.root).remove(&path("/etc/full"), sandbox.expected("/etc/full")).unwrap_err();
    assert!(matches!(error, PlaceError::NotEmpty { .. }), "{error:?}");
    sandbox.put("/etc/empty", NewNode::File(b"x"), 0o644, sandbox.expected("/etc/empty")).unwrap();
    assert_eq!(sandbox.text("/etc/empty"), "x");
    sandbox.put("/etc/empty", NewNode::Directory, 0o711, sandbox.expected("/etc/empty")).unwrap();
    assert!(matches!(sandbox.found("/etc/empty"), Found::Directory { meta, .. } if meta.mode == 0o711));
    assert!(sandbox.real("/etc/full/sub").is_dir() && sandbox.leftovers().is_empty());
}

#[test]
fn a_fifo_in_the_way_stays() {
    let sandbox = Sandbox::new();
    nix::unistd::mkfifo(&sandbox.real("/fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    raced(sandbox.put("/fifo", NewNode::File(b"x"), 0o644, sandbox.expected("/fifo")));
    assert!(matches!(sandbox.found("/fifo"), Found::Unfit(_)));
}

#[test]
fn directories_on_the_way_are_made_told_and_given_back() {
    let sandbox = Sandbox::new();
    let mut batch = Batch::new(&sandbox.root);
    let file = batch.stage(&path("/opt/app/conf/a"), ours(NewNode::File(b"a"), 0o600)).unwrap();
    let folder = batch.stage(&path("/opt/app"), ours(NewNode::Directory, 0o750)).unwrap();
    assert!(batch.made().map(HostPath::as_str).eq(["/opt", "/opt/app", "/opt/app/conf"]));
    // Wanted as an entry of its own: that the staging made it is no race.
    let meta = batch.switch(folder, Expected::Absent).unwrap();
    assert_eq!(meta.mode, 0o750);
    batch.switch(file, Expected::Absent).unwrap();
    assert!(batch.made().map(HostPath::as_str).eq(["/opt", "/opt/app/conf"]));
    assert!(matches!(sandbox.found("/opt"), Found::Directory { meta, .. } if meta.mode == 0o755));
    assert!(!batch.prune(&path("/opt/app/conf")).unwrap(), "something is in it");
    // The directory changed when the file in it went; it is still the one that was expected.
    let (file, folder) = (sandbox.expected("/opt/app/conf/a"), sandbox.expected("/opt/app"));
    assert!(batch.remove(&path("/opt/app/conf/a"), file).unwrap());
    assert!(batch.prune(&path("/opt/app/conf")).unwrap());
    assert!(batch.remove(&path("/opt/app"), folder).unwrap());
    assert!(batch.prune(&path("/opt")).unwrap());
    assert!(batch.prune(&path("/opt")).unwrap(), "it is gone already, and so is what is above it");
    assert!(batch.finish().unwrap().is_empty());
    assert!(!sandbox.real("/opt").exists());
}

#[test]
fn many_files_at_once() {
    let sandbox = Sandbox::new();
    let mut batch = Batch::new(&sandbox.root);
    let hosts: Vec<_> = (0..200).map(|n| path(&format!("/etc/{}/{n}", n % 40))).collect();
    let staged: Vec<_> =
        hosts.iter().map(|host| batch.stage(host, ours(NewNode::File(host.as_str().as_bytes()), 0o644)).unwrap()).collect();
    batch.sync_staged().unwrap();
    for staged in staged {
        batch.switch(staged, Expected::Absent).unwrap();
    }
    assert_eq!(batch.finish().unwrap().len(), 41);
    for host in &hosts {
        assert_eq!(sandbox.text(host.as_str()), host.as_str());
    }
    assert!(sandbox.leftovers().is_empty());
}

#[test]
fn the_original_comes_back() {
    let sandbox = Sandbox::new();
    sandbox.write("/etc/a", "ours");
    let (uid, gid) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
    let was = |node| Before::Original { node, mode: 0o640, uid, gid };
    let original = was(Node::File { digest: Digest::of(b"theirs"), size: 6 });
    let mut batch = Batch::new(&sandbox.root);
    let error = batch.restore(&path("/etc/a"), &original, &mut &b"rotten"[..], sandbox.expected("/etc/a")).unwrap_err();
    assert!(matches!(error, PlaceError::Content { .. }), "{error:?}");
    assert_eq!(sandbox.text("/etc/a"), "ours");
    let meta = batch.restore(&path("/etc/a"), &original, &mut &b"theirs"[..], sandbox.expected("/etc/a")).unwrap().unwrap();
    assert_eq!((sandbox.text("/etc/a").as_str(), meta.mode), ("theirs", 0o640));
    let link = was(Node::Symlink { target: "b".into() });
    batch.restore(&path("/etc/a"), &link, &mut io::empty(), sandbox.expected("/etc/a")).unwrap();
    assert!(matches!(sandbox.found("/etc/a"), Found::Symlink { target, .. } if target == "b"));
    assert_eq!(batch.restore(&path("/etc/a"), &Before::Absent, &mut io::empty(), sandbox.expected("/etc/a")).unwrap(), None);
    assert_eq!(sandbox.found("/etc/a"), Found::Missing);
    batch.finish().unwrap();
    assert!(sandbox.leftovers().is_empty());
}

#[test]
fn owners_are_set_before_the_mode() {
    if !is_root("giving files away") {
        return;
    }
    let sandbox = Sandbox::new();
    let mut batch = Batch::new(&sandbox.root);
    for (host, node) in [("/file", NewNode::File(b"x")), ("/folder", NewNode::Directory), ("/link", NewNode::Symlink("x"))] {
        let staged = batch.stage(&path(host), New { node, mode: 0o6755, uid: 1234, gid: 4321 }).unwrap();
        let meta = batch.switch(staged, Expected::Absent).unwrap();
        assert_eq!((meta.uid, meta.gid), (1234, 4321), "{host}");
        assert!(host == "/link" || meta.mode == 0o6755, "{host}: {:o}", meta.mode);
    }
    batch.finish().unwrap();
}

#[test]
fn killed_between_staging_and_switching() {
    const NAME: &str = "placing::killed_between_staging_and_switching";
    let folder = std::env::var_os("TRIMTAB_TEST_FOLDER");
    if let Some(folder) = folder {
        let root = trimtab::host::root::Root::open(folder.as_ref()).unwrap();
        let mut batch = Batch::new(&root);
        let _file = batch.stage(&path("/etc/a"), ours(NewNode::File(b"new"), 0o644)).unwrap();
        let _link = batch.stage(&path("/etc/b"), ours(NewNode::Symlink("x"), 0o777)).unwrap();
        nix::sys::signal::kill(nix::unistd::getpid(), nix::sys::signal::SIGKILL).unwrap();
        unreachable!("because it was killed");
    }
    let sandbox = Sandbox::new();
    sandbox.write("/etc/a", "old");
    sandbox.write("/etc/.trimtab-cafe", "the operator's");
    let assign = format!("TRIMTAB_TEST_FOLDER={}", sandbox.dir.path().display());
    let result = std::panic::catch_unwind(|| inside(NAME, &["env", &assign]));
    assert!(result.is_err(), "the child must have been killed");
    assert_eq!(sandbox.text("/etc/a"), "old");
    assert_eq!(sandbox.leftovers().len(), 3);
    let (removed, failures) = sweep(&sandbox.root, &[path("/etc/a"), path("/etc/b"), path("/none/x")]);
    assert_eq!((removed.len(), failures.len()), (2, 0), "{removed:?} {failures:?}");
    assert_eq!(sandbox.leftovers(), [sandbox.real("/etc/.trimtab-cafe")]);
    assert_eq!(sandbox.text("/etc/a"), "old");
}

#[derive(Debug, Clone)]
enum Thing {
    File(Vec<u8>, u32),
    Symlink(String),
    Directory(u32),
}

fn thing() -> impl Strategy<Value = Thing> {
    // Readable by ourselves, for these tests also run without root.
    let mode = || (0u32..0o10000).prop_map(|mode| mode | 0o700);
    prop_oneof![
        (proptest::collection::vec(any::<u8>(), 0..3000), mode()).prop_map(|(bytes, mode)| Thing::File(bytes, mode)),
        "[a-z/.]{1,40}".prop_map(Thing::Symlink),
        mode().prop_map(Thing::Directory),
    ]
}

fn put_and_look(sandbox: &Sandbox, things: &[(String, Thing)]) -> Result<(), TestCaseError> {
    for (host, thing) in things {
        let expected = sandbox.expected(host);
        let (node, mode) = match thing {
            Thing::File(bytes, mode) => (NewNode::File(bytes), *mode),
            Thing::Symlink(target) => (NewNode::Symlink(target), 0o777),
            Thing::Directory(mode) => (NewNode::Directory, *mode),
        };
        let meta = sandbox.put(host, node, mode, expected).map_err(|error| TestCaseError::fail(format!("{host}: {error:?}")))?;
        let found = sandbox.found(host);
        prop_assert_eq!(found.meta(), Some(&meta));
        match (thing, &found) {
            (Thing::File(bytes, mode), Found::File { digest, size, meta }) => {
                prop_assert_eq!((*digest, *size, meta.mode), (Digest::of(bytes), bytes.len() as u64, *mode));
            }
            (Thing::Symlink(target), Found::Symlink { target: found, .. }) => prop_assert_eq!(found, target),
            (Thing::Directory(mode), Found::Directory { meta, mount: false }) => prop_assert_eq!(meta.mode, *mode),
            _ => return Err(TestCaseError::fail(format!("{host}: wanted {thing:?}, found {found:?}"))),
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_put_is_found(
        first in proptest::collection::vec(("/[ab]/[a-d]", thing()), 1..6),
        second in proptest::collection::vec(("/[ab]/[a-d]", thing()), 1..6),
    ) {
        let sandbox = Sandbox::new();
        put_and_look(&sandbox, &first)?;
        put_and_look(&sandbox, &second)?;
        prop_assert!(sandbox.leftovers().is_empty());
    }
}
