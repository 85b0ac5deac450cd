//! What is found at a path, and that looking changes nothing and never blocks.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use nix::sys::stat::Mode;
use trimtab::host::accounts::Accounts;
use trimtab::host::observe::{self, ReadError, observe};
use trimtab::host::root::Root;
use trimtab_model::digest::Digest;
use trimtab_model::names::HostPath;
use trimtab_model::observed::Found;

use crate::common::{Sandbox, own_mounts, path, run, stamps};

#[test]
fn each_kind_is_told_for_what_it_is() {
    let sandbox = Sandbox::new();
    sandbox.write("/etc/file", "content");
    fs::set_permissions(sandbox.real("/etc/file"), fs::Permissions::from_mode(0o4750)).unwrap();
    symlink("/etc/shadow", sandbox.real("/etc/link")).unwrap();
    let _socket = UnixListener::bind(sandbox.real("/etc/socket")).unwrap();
    sandbox.write("/etc/large", vec![7; 200_000]);
    let Found::File { digest, size, meta } = sandbox.found("/etc/file") else { panic!("a file") };
    assert_eq!((digest, size, meta.mode), (Digest::of(b"content"), 7, 0o4750));
    assert!(
        matches!(sandbox.found("/etc/large"), Found::File { digest, size: 200_000, .. } if digest == Digest::of(&vec![7; 200_000]))
    );
    assert!(matches!(sandbox.found("/etc/link"), Found::Symlink { target, .. } if target == "/etc/shadow"));
    assert!(matches!(sandbox.found("/etc"), Found::Directory { mount: false, .. }));
    assert!(matches!(sandbox.found("/etc/socket"), Found::Unfit(why) if why.starts_with("a socket")));
    assert_eq!(sandbox.found("/etc/none"), Found::Missing);
    assert_eq!(sandbox.found("/no/such/folder"), Found::Missing);
    assert!(matches!(sandbox.found("/etc/file/below"), Found::Unfit(_)));
}

#[test]
fn a_fifo_does_not_block() {
    let sandbox = Sandbox::new();
    nix::unistd::mkfifo(&sandbox.real("/fifo"), Mode::S_IRWXU).unwrap();
    let (tell, told) = mpsc::channel();
    let root = sandbox.root.clone();
    std::thread::spawn(move || {
        let found = observe(&root, [&path("/fifo")]).remove(&path("/fifo"));
        let _ = tell.send((found, observe::open(&root, &path("/fifo")).map(drop)));
    });
    let (found, opened) = told.recv_timeout(Duration::from_secs(5)).expect("because a FIFO is never opened");
    assert!(matches!(&found, Some(Found::Unfit(why)) if why.starts_with("a FIFO")), "{found:?}");
    assert!(matches!(opened, Err(ReadError::NotRegular { .. })));
}

#[test]
fn a_file_that_never_rests_is_not_guessed_at() {
    let sandbox = Sandbox::new();
    // Large enough that a write falls into each look at it.
    sandbox.write("/busy", vec![0; 4 << 20]);
    let (file, stop) = (sandbox.real("/busy"), mpsc::channel::<()>());
    let writer = std::thread::spawn(move || {
        use std::os::unix::fs::FileExt;
        let file = fs::OpenOptions::new().write(true).open(file).unwrap();
        while stop.1.try_recv() == Err(mpsc::TryRecvError::Empty) {
            file.write_all_at(b"x", 5).unwrap();
        }
    });
    // Where nobody gives the writer a processor, it rests: then it is told as a file, and rightly. Not for ever, though.
    let given_up = Instant::now() + Duration::from_secs(20);
    let found = loop {
        match sandbox.found("/busy") {
            Found::File { .. } if Instant::now() < given_up => {}
            found => break found,
        }
    };
    drop(stop.0);
    writer.join().unwrap();
    assert!(matches!(&found, Found::Unfit(why) if why.contains("changed twice")), "{found:?}");
    assert!(matches!(sandbox.found("/busy"), Found::File { .. }), "at rest it is a file");
}

#[test]
fn mount_points_are_seen_and_left_alone() {
    if !own_mounts("observing::mount_points_are_seen_and_left_alone") {
        return;
    }
    let sandbox = Sandbox::new();
    sandbox.write("/etc/over", "below");
    sandbox.write("/etc/source", "above");
    for folder in ["/srv/tmpfs", "/srv/bind"] {
        fs::create_dir_all(sandbox.real(folder)).unwrap();
    }
    let real = |host: &str| sandbox.real(host).display().to_string();
    run("mount", &["-t", "tmpfs", "none", &real("/srv/tmpfs")]);
    // The same file system mounted again: the device number says nothing.
    run("mount", &["--bind", &real("/etc"), &real("/srv/bind")]);
    run("mount", &["--bind", &real("/etc/source"), &real("/etc/over")]);
    for folder in ["/srv/tmpfs", "/srv/bind"] {
        assert!(matches!(sandbox.found(folder), Found::Directory { mount: true, .. }), "{folder}: {:?}", sandbox.found(folder));
    }
    assert!(matches!(sandbox.found("/srv"), Found::Directory { mount: false, .. }));
    assert!(matches!(sandbox.found("/etc/over"), Found::Unfit(why) if why.contains("mounted over it")));
    assert!(matches!(sandbox.found("/srv/bind/source"), Found::File { .. }), "beneath a mount point all is as usual");
    run("umount", &["--lazy", &real("/srv/tmpfs"), &real("/srv/bind"), &real("/etc/over")]);
}

#[test]
fn reading_has_a_bound_and_follows_nothing() {
    let sandbox = Sandbox::new();
    sandbox.write("/etc/a", "12345");
    symlink("a", sandbox.real("/etc/link")).unwrap();
    assert_eq!(observe::read(&sandbox.root, &path("/etc/a"), 5).unwrap(), b"12345");
    assert!(matches!(observe::read(&sandbox.root, &path("/etc/a"), 4), Err(ReadError::TooLarge { size: 5, limit: 4, .. })));
    assert!(matches!(observe::read(&sandbox.root, &path("/etc/link"), 5), Err(ReadError::NotRegular { .. })));
    assert!(matches!(observe::read(&sandbox.root, &path("/etc"), 5), Err(ReadError::NotRegular { .. })));
}

#[test]
fn a_thousand_files() {
    let sandbox = Sandbox::new();
    let paths: Vec<HostPath> = (0..1000).map(|n| path(&format!("/etc/{:02}/{n:04}.conf", n / 50))).collect();
    for (n, host) in paths.iter().enumerate() {
        sandbox.write(host.as_str(), vec![b'x'; 1000 + 3 * n]);
    }
    let before: Vec<_> = (0..20).map(|n| stamps(&sandbox.real(&format!("/etc/{n:02}")))).collect();
    let start = Instant::now();
    let found = observe(&sandbox.root, &paths);
    println!("1,000 files looked at in {:?}", start.elapsed());
    assert_eq!(found.len(), 1000);
    for (n, host) in paths.iter().enumerate() {
        assert!(matches!(found[host], Found::File { digest, .. } if digest == Digest::of(&vec![b'x'; 1000 + 3 * n])), "{host}");
    }
    let after: Vec<_> = (0..20).map(|n| stamps(&sandbox.real(&format!("/etc/{n:02}")))).collect();
    assert_eq!(before, after);
}

#[test]
fn the_machine_itself_has_mount_points_and_facts() {
    let root = Root::open(std::path::Path::new("/")).unwrap();
    assert!(root.is_host());
    assert!(matches!(observe(&root, [&path("/proc")])[&path("/proc")], Found::Directory { mount: true, .. }));
    let facts = trimtab::host::facts::gather(&root);
    assert_eq!(facts.memory_mib % 64, 0);
    assert!(facts.cpus >= 1 && facts.memory_mib > 0 && !facts.hostname.is_empty() && !facts.kernel.is_empty(), "{facts:?}");
    // The real thing says the same, where there is one.
    if let Ok(output) = std::process::Command::new("systemd-detect-virt").output() {
        let said = String::from_utf8(output.stdout).unwrap();
        assert_eq!(facts.virtualization, said.trim());
    }
}

#[test]
fn accounts_are_read_beneath_the_root_and_again_when_they_change() {
    let sandbox = Sandbox::new();
    sandbox.write("/etc/passwd", "root:x:0:0::/:/bin/sh\nbroken\n+nis:::::\napp:x:5001:5002::/:\napp:x:1:1::/:\nbad:x:no:1::/:\n");
    sandbox.write("/etc/group", "root:x:0:\nstaff:x:50:app\n");
    let mut accounts = Accounts::load(&sandbox.root);
    assert_eq!((accounts.user("app"), accounts.group("staff")), (Some(5001), Some(50)));
    for unknown in ["nobody-at-all", "+nis", "bad", "broken", "", "4294967295", "99999999999"] {
        assert_eq!(accounts.user(unknown), None, "{unknown}");
    }
    assert_eq!(accounts.user("1234"), Some(1234));
    assert_eq!((accounts.user_name(5001).as_deref(), accounts.group_name(50).as_deref()), (Some("app"), Some("staff")));
    // As useradd does: a new file over the old one.
    sandbox.write("/etc/passwd.new", "new:x:5003:1::/:\n");
    fs::rename(sandbox.real("/etc/passwd.new"), sandbox.real("/etc/passwd")).unwrap();
    assert_eq!(accounts.user("new"), None, "not before it is asked to look again");
    accounts.refresh();
    assert_eq!((accounts.user("new"), accounts.user("app")), (Some(5003), None));
}
