//! Attacks in the tree of a commit that is validly signed: by a signer who was tricked, or whose laptop was.

use gix_hash::ObjectId;
use trimtab::trust::Class;
use trimtab::trust::tree::{self, MAX_ENTRIES, TreeError};
use trimtab_model::bundle::{BlobKind, Bundle};
use trimtab_model::names::RepoPath;
use trimtab_tests::git::{Counted, Key, Repo};

use super::{accept, trust};

fn paths(paths: &[&str]) -> Vec<RepoPath> {
    paths.iter().map(|path| path.parse().unwrap()).collect()
}

/// Reads all of `components/web` of a signed commit of this tree.
fn read(repo: &Repo, key: &Key, tree: ObjectId) -> Result<Bundle, TreeError> {
    let proven = accept(repo, repo.signed(key, tree, &[], "message"), &trust(&[key]), None);
    tree::read(&proven, &mut repo.source(), &paths(&["components/web"]), |_| Vec::new())
}

/// What is odd about a folder, and its entries.
type Hostile<'a> = (&'a str, &'a [(&'a str, &'a [u8], ObjectId)]);

/// A root that holds `tree` as `components/web`.
fn component(repo: &Repo, tree: ObjectId) -> ObjectId {
    let components = repo.tree(&[("40000", b"web", tree)]);
    repo.tree(&[("40000", b"components", components)])
}

#[test]
fn the_slice_of_a_host_is_read_in_few_calls() {
    let (repo, key) = (Repo::new(), Key::new("ann"));
    for (path, content) in [
        ("fleet.toml", "f"),
        ("hosts/a.toml", "a"),
        ("hosts/b.toml", "b"),
        ("components/README.md", "not a component"),
        ("components/web/files/etc/web.conf", "w"),
        ("components/web/systemd/web@.service", "u"),
        ("components/web/systemd/dev-sda\\x2d1:x.mount", "colon and backslash"),
        ("components/base/component.toml", "same"),
        ("components/base/files/etc/copy", "same"),
        ("components/other/component.toml", "never asked for"),
        ("docs/huge", "never asked for either"),
    ] {
        repo.write(path, content);
    }
    repo.git(&["add", "--all"]);
    repo.git(&["update-index", "--chmod=+x", "components/web/files/etc/web.conf"]);
    std::os::unix::fs::symlink("/etc/web.conf", repo.path().join("components/web/files/etc/link")).unwrap();
    repo.git(&["add", "components/web/files/etc/link"]);
    let signing = format!("user.signingkey={}", key.path().display());
    repo.git(&["-c", &signing, "-c", "core.fileMode=false", "commit", "--quiet", "-S", "-m", "fleet"]);
    let proven = accept(&repo, repo.head(), &trust(&[&key]), None);

    let mut source = Counted::new(repo.source());
    let mut rounds = 0;
    let first = paths(&["fleet.toml", "hosts/a.toml", "hosts/none.toml", "none/at/all", "fleet.toml/below"]);
    let bundle = tree::read(&proven, &mut source, &first, |bundle| {
        rounds += 1;
        assert_eq!(bundle.components.iter().map(ToString::to_string).collect::<Vec<_>>(), ["base", "other", "web"]);
        match rounds {
            1 => {
                assert_eq!(bundle.files.len(), 2);
                paths(&["components/web", "components/base", "fleet.toml"])
            }
            // The same again is nothing new.
            _ => paths(&["components/base"]),
        }
    })
    .unwrap();
    assert_eq!(rounds, 2);
    let expected = [
        ("components/base/component.toml", BlobKind::Regular, "same"),
        ("components/base/files/etc/copy", BlobKind::Regular, "same"),
        ("components/web/files/etc/link", BlobKind::Symlink, "/etc/web.conf"),
        ("components/web/files/etc/web.conf", BlobKind::Executable, "w"),
        ("components/web/systemd/dev-sda\\x2d1:x.mount", BlobKind::Regular, "colon and backslash"),
        ("components/web/systemd/web@.service", BlobKind::Regular, "u"),
        ("fleet.toml", BlobKind::Regular, "f"),
        ("hosts/a.toml", BlobKind::Regular, "a"),
    ];
    let found: Vec<_> =
        bundle.files.iter().map(|(path, blob)| (path.as_str(), blob.kind, std::str::from_utf8(&blob.bytes).unwrap())).collect();
    assert_eq!(found, expected);
    // root; components and hosts; blobs; then three levels of trees; blobs. No call without ids but the last one of nothing.
    let sizes: Vec<_> = source.calls.iter().map(|(_, ids)| ids.len()).collect();
    assert_eq!(sizes, [1, 2, 2, 2, 3, 2, 5], "{:?}", source.calls);
}

#[test]
fn r20_entries_that_no_configuration_needs() {
    let (repo, key) = (Repo::new(), Key::new("ann"));
    let blob = repo.object("blob", b"x");
    let folder = repo.tree(&[("100644", b"x", blob)]);
    let commit = repo.signed(&key, folder, &[], "a submodule's commit");
    let hostile: &[Hostile<'_>] = &[
        ("a .git file", &[("100644", b".git", blob)]),
        ("a .git folder", &[("40000", b".git", folder)]),
        ("its capitals", &[("40000", b".GIT", folder)]),
        ("its short name", &[("40000", b"git~1", folder)]),
        ("its NTFS stream", &[("40000", b".git::$INDEX_ALLOCATION", folder)]),
        ("its HFS form", &[("40000", ".g\u{200c}it".as_bytes(), folder)]),
        ("the parent", &[("40000", b"..", folder)]),
        ("itself", &[("40000", b".", folder)]),
        ("no name", &[("40000", b"", folder)]),
        ("a slash", &[("100644", b"a/b", blob)]),
        ("a way out", &[("100644", b"../../etc/shadow", blob)]),
        ("a submodule", &[("160000", b"module", commit)]),
        ("a symlinked .gitmodules", &[("120000", b".gitmodules", blob)]),
        ("a name twice", &[("100644", b"a", blob), ("100755", b"a", blob)]),
        ("a name twice, apart", &[("100644", b"a", blob), ("100644", b"a.b", blob), ("40000", b"a", folder)]),
        ("not sorted", &[("100644", b"b", blob), ("100644", b"a", blob)]),
        ("not sorted as folders are", &[("40000", b"a", folder), ("100644", b"a.b", blob)]),
        ("group-writable", &[("100664", b"a", blob)]),
        ("mode with a zero in front", &[("040000", b"a", folder)]),
        ("setuid", &[("104755", b"a", blob)]),
        ("a device", &[("20644", b"a", blob)]),
        ("no mode", &[("", b"a", blob)]),
        ("a control byte", &[("100644", b"a\nb", blob)]),
        ("an escape", &[("100644", b"a\x1b[2J", blob)]),
        ("a C1 control", &[("100644", "a\u{9b}2J".as_bytes(), blob)]),
        ("not UTF-8", &[("100644", b"caf\xe9", blob)]),
        ("too long", &[("100644", &[b'a'; 256], blob)]),
    ];
    assert_eq!(read(&repo, &key, component(&repo, folder)).unwrap().files.len(), 1);
    for (what, entries) in hostile {
        // In a folder that is read, and at the root, where nobody asked for it.
        for tree in [component(&repo, repo.tree(entries)), repo.tree(entries)] {
            let error = read(&repo, &key, tree).expect_err(what);
            assert!(matches!(error, TreeError::Entry { .. }), "{what}: {error:?}");
            assert_eq!(error.class(), Class::Hold);
            assert!(!error.to_string().contains(char::is_control), "{what}: {error}");
        }
        let error = read(&repo, &key, component(&repo, repo.tree(entries))).expect_err(what);
        assert!(error.to_string().contains("components/web/"), "{what}: {error}");
    }
}

#[test]
fn damaged_trees() {
    let (repo, key) = (Repo::new(), Key::new("ann"));
    let blob = repo.object("blob", b"x");
    let good = [&b"100644 a\0"[..], blob.as_slice()].concat();
    for bad in [&good[..good.len() - 1], &good[..7], &good[..3], b"\0", b"no space\0", &[&good[..], b"1"].concat()] {
        let error = read(&repo, &key, component(&repo, repo.object("tree", bad))).unwrap_err();
        assert!(matches!(&error, TreeError::Entry { path, .. } if path.starts_with("components/web")), "{error:?}");
    }
}

#[test]
fn r31_an_oversize_blob() {
    let (repo, key) = (Repo::new(), Key::new("ann"));
    let tree = |size: usize| component(&repo, repo.tree(&[("100644", b"image", repo.object("blob", &vec![0; size]))]));
    let error = read(&repo, &key, tree((16 << 20) + 1)).unwrap_err();
    assert!(matches!(&error, TreeError::TooLarge { path, .. } if path == "components/web/image"), "{error:?}");
    assert_eq!(error.class(), Class::Hold);
    assert_eq!(read(&repo, &key, tree(1 << 20)).unwrap().files.len(), 1);
}

#[test]
fn one_blob_in_many_places_counts_in_each() {
    let (repo, key) = (Repo::new(), Key::new("ann"));
    let blob = repo.object("blob", &vec![0; 3 << 20]);
    let names: Vec<_> = (0..22).map(|number| format!("{number:02}")).collect();
    let tree = |count: usize| {
        let entries: Vec<_> = names[..count].iter().map(|name| ("100644", name.as_bytes(), blob)).collect();
        component(&repo, repo.tree(&entries))
    };
    assert_eq!(read(&repo, &key, tree(21)).unwrap().files.len(), 21);
    assert!(matches!(read(&repo, &key, tree(22)), Err(TreeError::Total { .. })));
}

#[test]
fn a_tree_bomb_ends_at_the_bound_of_entries() {
    // Ten folders in ten folders in ten …: a few hundred bytes that would be ten million files.
    let (repo, key) = (Repo::new(), Key::new("ann"));
    let mut tree = repo.tree(&[("100644", b"x", repo.object("blob", b"x"))]);
    for _ in 0..7 {
        let names: Vec<_> = (b'0'..=b'9').map(|digit| [digit]).collect();
        tree = repo.tree(&names.iter().map(|name| ("40000", &name[..], tree)).collect::<Vec<_>>());
    }
    assert!(matches!(read(&repo, &key, component(&repo, tree)), Err(TreeError::TooMany { .. })));
}

#[test]
fn the_bound_of_entries_is_exact() {
    let (repo, key) = (Repo::new(), Key::new("ann"));
    let blob = repo.object("blob", b"x");
    let names: Vec<_> = (0..MAX_ENTRIES).map(|number| format!("{number:05}")).collect();
    // Two entries lead there.
    for (count, good) in [(MAX_ENTRIES - 2, true), (MAX_ENTRIES - 1, false)] {
        let entries: Vec<_> = names[..count].iter().map(|name| ("100644", name.as_bytes(), blob)).collect();
        let found = read(&repo, &key, component(&repo, repo.tree(&entries)));
        assert_eq!(found.is_ok(), good, "{count}");
        assert!(good || matches!(found, Err(TreeError::TooMany { .. })));
    }
}

#[test]
fn folders_inside_each_other_end_at_the_bound() {
    let (repo, key) = (Repo::new(), Key::new("ann"));
    let mut tree = repo.tree(&[("100644", b"x", repo.object("blob", b"x"))]);
    // components/web/…/x: 32 parts, then 33.
    for _ in 0..29 {
        tree = repo.tree(&[("40000", b"d", tree)]);
    }
    assert_eq!(read(&repo, &key, component(&repo, tree)).unwrap().files.len(), 1);
    tree = repo.tree(&[("40000", b"d", tree)]);
    let error = read(&repo, &key, component(&repo, tree)).unwrap_err();
    assert!(error.to_string().contains("32 folders"), "{error}");
}

#[test]
fn symlinks_to_nowhere() {
    let (repo, key) = (Repo::new(), Key::new("ann"));
    for target in [&b""[..], b"/etc/a\0b", &[b'a'; 4096]] {
        let tree = repo.tree(&[("120000", b"link", repo.object("blob", target))]);
        let error = read(&repo, &key, component(&repo, tree)).unwrap_err();
        assert!(matches!(&error, TreeError::Entry { path, .. } if path == "components/web/link"), "{error:?}");
    }
}

#[test]
fn a_folder_that_cannot_be_a_component() {
    let (repo, key) = (Repo::new(), Key::new("ann"));
    let web = repo.tree(&[("100644", b"x", repo.object("blob", b"x"))]);
    let components = repo.tree(&[("40000", b"my web", web)]);
    let error = read(&repo, &key, repo.tree(&[("40000", b"components", components)])).unwrap_err();
    assert!(error.to_string().contains("components/my web"), "{error}");
}
