//! Symlinks on the way: followed when root made them, refused when somebody else could have.

use std::fs;
use std::os::unix::fs::{PermissionsExt, lchown, symlink};

use trimtab::host::place::{Batch, NewNode, PlaceError};
use trimtab::host::root::RootError;
use trimtab_model::observed::{Expected, Found};

use crate::common::{Sandbox, chain, inside, is_root, ours, path};

/// A victim outside the root, and the root.
fn with_victim() -> (Sandbox, tempfile::TempDir) {
    let victim = tempfile::tempdir().unwrap();
    fs::write(victim.path().join("x.conf"), "precious").unwrap();
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.real("/etc")).unwrap();
    (sandbox, victim)
}

fn refused(sandbox: &Sandbox, host: &str, needle: &str) {
    let Found::Unfit(why) = sandbox.found(host) else { panic!("{host}: {:?}", sandbox.found(host)) };
    assert!(why.contains(needle), "{why}");
    let error = sandbox.put(host, NewNode::File(b"ours"), 0o644, Expected::Absent).unwrap_err();
    assert!(matches!(error, PlaceError::Parent(RootError::UntrustedLink { .. })), "{error:?}");
    assert!(chain(&error).contains(needle), "{}", chain(&error));
    assert_eq!(sandbox.leftovers(), Vec::<std::path::PathBuf>::new());
}

#[test]
fn a_users_symlink_does_not_redirect_root() {
    if !is_root("a symlink of another user") {
        return;
    }
    let (sandbox, victim) = with_victim();
    symlink(victim.path(), sandbox.real("/etc/app")).unwrap();
    lchown(sandbox.real("/etc/app"), Some(1000), Some(1000)).unwrap();
    refused(&sandbox, "/etc/app/x.conf", "the symlink /etc/app is not followed: it belongs to user 1000");
    // Also one that stays inside the root.
    fs::create_dir(sandbox.real("/etc/other")).unwrap();
    symlink("other", sandbox.real("/etc/inner")).unwrap();
    lchown(sandbox.real("/etc/inner"), Some(1000), Some(1000)).unwrap();
    refused(&sandbox, "/etc/inner/x.conf", "user 1000");
    assert_eq!(fs::read_to_string(victim.path().join("x.conf")).unwrap(), "precious");
    assert_eq!(fs::read_dir(sandbox.real("/etc/other")).unwrap().count(), 0);
}

#[test]
fn a_symlink_of_roots_that_others_can_move_is_refused() {
    if !is_root("folders of another user") {
        return;
    }
    let (sandbox, victim) = with_victim();
    for (folder, mode, owner) in [("/etc/theirs", 0o755, 1000), ("/etc/open", 0o777, 0)] {
        fs::create_dir(sandbox.real(folder)).unwrap();
        fs::set_permissions(sandbox.real(folder), fs::Permissions::from_mode(mode)).unwrap();
        std::os::unix::fs::chown(sandbox.real(folder), Some(owner), None).unwrap();
        symlink(victim.path(), sandbox.real(folder).join("link")).unwrap();
    }
    refused(&sandbox, "/etc/theirs/link/x.conf", "its directory belongs to user 1000");
    refused(&sandbox, "/etc/open/link/x.conf", "everybody may write to its directory");
    // Sticky, as /tmp: nobody can move what is root's.
    fs::set_permissions(sandbox.real("/etc/open"), fs::Permissions::from_mode(0o1777)).unwrap();
    assert_eq!(sandbox.found("/etc/open/link/x.conf"), Found::Missing, "the absolute target starts again at the root");
    // A real folder of a user's is no redirection.
    assert_eq!(sandbox.found("/etc/theirs/x"), Found::Missing);
}

#[test]
fn a_trusted_symlink_is_followed_and_stays_beneath_the_root() {
    let (sandbox, victim) = with_victim();
    fs::create_dir_all(sandbox.real("/usr/lib/deep")).unwrap();
    let outside = format!("../../../../../../../../..{}", victim.path().display());
    let links = [
        ("rel", "../usr/lib"),
        ("abs", "/usr/lib"),
        ("up", "../../../../usr/lib/deep/.."),
        ("chain", "rel/deep/../"),
        ("out", &outside),
    ];
    for (name, target) in links {
        symlink(target, sandbox.real("/etc").join(name)).unwrap();
    }
    for name in ["rel", "abs", "up", "chain"] {
        let host = format!("/etc/{name}/{name}.conf");
        sandbox.put(&host, NewNode::File(name.as_bytes()), 0o644, Expected::Absent).unwrap();
        assert_eq!(sandbox.text(&format!("/usr/lib/{name}.conf")), name);
        assert!(matches!(sandbox.found(&host), Found::File { .. }));
    }
    // `..` beyond the root is the root: the victim's path is looked for inside, where there is none.
    assert_eq!(sandbox.found("/etc/out/x.conf"), Found::Missing);
    assert_eq!(fs::read_to_string(victim.path().join("x.conf")).unwrap(), "precious");
    // The links are the operator's and stay as they are.
    assert_eq!(fs::read_link(sandbox.real("/etc/abs")).unwrap().to_str(), Some("/usr/lib"));
}

#[test]
fn circles_and_symlinks_to_nothing_are_told() {
    let (sandbox, _victim) = with_victim();
    symlink("b", sandbox.real("/etc/a")).unwrap();
    symlink("a", sandbox.real("/etc/b")).unwrap();
    symlink("nowhere", sandbox.real("/etc/dangling")).unwrap();
    sandbox.write("/etc/file", "");
    let stage = |host: &str| {
        Batch::new(&sandbox.root).stage(&path(host), ours(NewNode::File(b""), 0o644)).map(drop).unwrap_err().to_string()
    };
    assert!(stage("/etc/a/x").contains("more than 40 symlinks"), "{}", stage("/etc/a/x"));
    assert_eq!(stage("/etc/dangling/x"), "/etc/nowhere does not exist");
    assert_eq!(stage("/etc/file/x"), "/etc/file is not a directory");
    assert!(matches!(sandbox.found("/etc/file/x"), Found::Unfit(why) if why == "/etc/file is not a directory"));
    assert_eq!(sandbox.found("/etc/dangling/x"), Found::Missing);
    assert!(!sandbox.real("/etc/nowhere").exists());
}

#[test]
fn a_sandbox_of_an_ordinary_user_is_that_users() {
    if !is_root("becoming an ordinary user") {
        return;
    }
    const NAME: &str = "links::a_sandbox_of_an_ordinary_user_is_that_users";
    let Some(folder) = std::env::var_os("TRIMTAB_TEST_FOLDER") else {
        // Made here, for in the child nobody could remove it any more.
        let sandbox = Sandbox::new();
        fs::create_dir(sandbox.real("/etc")).unwrap();
        symlink("etc", sandbox.real("/link")).unwrap();
        for own in ["/", "/etc", "/link"] {
            lchown(sandbox.real(own), Some(1000), Some(1000)).unwrap();
        }
        let closed = |folder: &std::path::Path| fs::metadata(folder).unwrap().permissions().mode() & 0o001 == 0;
        if let Some(closed) = sandbox.dir.path().ancestors().find(|folder| closed(folder)) {
            eprintln!("skipped: {} is closed to ordinary users; set TMPDIR to an open one", closed.display());
            return;
        }
        inside(NAME, &["env", &format!("TRIMTAB_TEST_FOLDER={}", sandbox.dir.path().display())]);
        assert_eq!(sandbox.text("/etc/new/x"), "x");
        assert!(sandbox.leftovers().is_empty());
        return;
    };
    // In a process of its own: the ids are the whole process's.
    nix::unistd::setgroups(&[]).unwrap();
    nix::unistd::setresgid(1000.into(), 1000.into(), 1000.into()).unwrap();
    nix::unistd::setresuid(1000.into(), 1000.into(), 1000.into()).unwrap();
    let root = trimtab::host::root::Root::open(folder.as_ref()).unwrap();
    let mut accounts = trimtab::host::accounts::Accounts::load(&root);
    assert_eq!((accounts.user("root"), accounts.group("root")), (Some(1000), Some(1000)));
    assert_eq!(accounts.user_name(1000).as_deref(), Some("root"));
    // The machine itself is still root's: a plan made by an ordinary user must be the one that root would make.
    let host = trimtab::host::root::Root::open(std::path::Path::new("/")).unwrap();
    assert_eq!(trimtab::host::accounts::Accounts::load(&host).user("root"), Some(0));
    let mut batch = Batch::new(&root);
    // Our own symlink is followed, and what should be root's is ours.
    let staged = batch.stage(&path("/link/new/x"), ours(NewNode::File(b"x"), 0o644)).unwrap();
    let meta = batch.switch(staged, Expected::Absent).unwrap();
    assert_eq!((meta.uid, meta.gid, meta.mode), (1000, 1000, 0o644));
    let mut foreign = ours(NewNode::File(b"x"), 0o644);
    foreign.uid = 4242;
    let error = batch.stage(&path("/etc/foreign"), foreign).map(drop).unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot set the owner of /etc/foreign (only root can give a file to another owner: run as root, or want it owned by root)"
    );
}
