//! What lies in an exclusive directory: told for what it is, bounded, and never followed or opened.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use nix::sys::stat::Mode;
use trimtab::host::strays::look;
use trimtab_model::drift::MAX_STRAYS;
use trimtab_model::observed::StrayKind;

use crate::common::{Sandbox, path, stamps};

#[test]
fn each_kind_is_told_and_nothing_is_opened() {
    let sandbox = Sandbox::new();
    sandbox.write("/d/file", "content");
    sandbox.write("/d/ours", "ours");
    for (at, mode) in [("/d/key", 0o600), ("/d/group", 0o640)] {
        sandbox.write(at, "secret");
        fs::set_permissions(sandbox.real(at), fs::Permissions::from_mode(mode)).unwrap();
    }
    sandbox.write("/d/folder/deep", "deep");
    sandbox.write("/d/.trimtab-0123456789abcdef", "staged");
    symlink("/etc/shadow", sandbox.real("/d/link")).unwrap();
    symlink("a\nb", sandbox.real("/d/odd")).unwrap();
    // Opened, it would block.
    nix::unistd::mkfifo(&sandbox.real("/d/fifo"), Mode::S_IRWXU).unwrap();
    fs::write(sandbox.real("/d").join(OsStr::from_bytes(b"no\xfftext")), "x").unwrap();
    let before = stamps(&sandbox.real("/d"));
    let strays = look(&sandbox.root, &path("/d"), |at| at.as_str() != "/d/ours");
    let kinds: Vec<(&str, &StrayKind)> = strays.found.iter().map(|(at, stray)| (at.as_str(), &stray.kind)).collect();
    let expected = [
        ("/d/fifo", &StrayKind::Other),
        ("/d/file", &StrayKind::File(7)),
        ("/d/folder", &StrayKind::Directory),
        ("/d/group", &StrayKind::Private),
        ("/d/key", &StrayKind::Private),
        ("/d/link", &StrayKind::Symlink("/etc/shadow".to_owned())),
        ("/d/odd", &StrayKind::Other),
    ];
    assert_eq!(
        (kinds.as_slice(), strays.more, strays.trouble.as_str()),
        (&expected[..], 1, ""),
        "the one without a text is counted"
    );
    assert_eq!(stamps(&sandbox.real("/d")), before);
    assert!(look(&sandbox.root, &path("/none"), |_| true).found.is_empty());
    assert!(look(&sandbox.root, &path("/d/file"), |_| true).trouble.is_empty(), "that it is no directory is told of the path");
}

#[test]
fn however_many_there_are_so_many_are_told_and_the_same_ones_each_time() {
    let sandbox = Sandbox::new();
    for number in 0..MAX_STRAYS + 20 {
        sandbox.write(&format!("/d/{number:05}"), "");
    }
    let strays = look(&sandbox.root, &path("/d"), |_| true);
    assert_eq!((strays.found.len(), strays.more), (MAX_STRAYS, 20));
    assert_eq!(strays.found.keys().next_back().map(|at| at.as_str().to_owned()), Some(format!("/d/{:05}", MAX_STRAYS - 1)));
}
