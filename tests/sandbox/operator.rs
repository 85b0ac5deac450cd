//! What belongs to the operator: adopted, kept, given back; and a machine that trimtab leaves.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use trimtab_model::report::Outcome;

use crate::{FLEET, Sandbox, until};

impl Sandbox {
    fn place(&self, path: &str, text: &str) {
        let at = self.root().join(path);
        fs::create_dir_all(at.parent().unwrap()).unwrap();
        fs::write(at, text).unwrap();
    }
}

/// All that is beneath a folder: mode, and content or target.
pub(crate) fn tree(folder: &Path) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut open = vec![folder.to_owned()];
    while let Some(at) = open.pop() {
        for entry in fs::read_dir(&at).unwrap() {
            let path = entry.unwrap().path();
            let seen = fs::symlink_metadata(&path).unwrap();
            let content = if seen.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
            if seen.is_dir() {
                open.push(path.clone());
            }
            found.insert(path, (seen.mode(), content));
        }
    }
    found
}

#[test]
fn what_stands_there_is_shown_before_it_is_replaced() {
    let sandbox = Sandbox::new("[guard]\nadopt = \"report\"\n");
    sandbox.place("etc/two.conf", "the operator's\n");
    // The same content: adopted without a word.
    sandbox.place("etc/one.conf", "one\n");
    fs::set_permissions(sandbox.root().join("etc/one.conf"), fs::Permissions::from_mode(0o644)).unwrap();
    let (_, text, _) = sandbox.said(&["plan"]);
    assert!(text.contains("replaces what stands there; kept in the backup") && !text.contains("one.conf"), "{text}");
    let pass = sandbox.once();
    assert_eq!(pass.outcome, Outcome::Held);
    assert!(pass.reason().contains("/etc/two.conf") && pass.reason().contains("approve"), "{}", pass.reason());
    assert_eq!(sandbox.read("etc/two.conf"), "the operator's\n");
    // The flag stands in place of the setting, both ways.
    let (code, _, _) = sandbox.said(&["once", "--adopt=report"]);
    assert_eq!((code, sandbox.read("etc/two.conf")), (1, "the operator's\n".to_owned()));
    let (code, text, err) = sandbox.said(&["once", "--adopt=replace"]);
    assert!(code == 2 && text.contains("what stood there is kept in the backup"), "{code} {text}{err}");
    assert_eq!(sandbox.read("etc/two.conf"), "two\n");
    assert_eq!(sandbox.said(&["once", "--adopt=maybe"]).0, 64);

    let free = Sandbox::new("");
    free.place("etc/two.conf", "the operator's\n");
    let (code, _, _) = free.said(&["once", "--adopt=report"]);
    assert_eq!((code, free.read("etc/two.conf")), (1, "the operator's\n".to_owned()));
    let revision = free.repo.head().to_string();
    assert_eq!(free.said(&["once"]).0, 2, "without the flag the setting counts: {revision}");
}

#[test]
fn backups_are_listed_shown_and_restored() {
    let sandbox = Sandbox::new("");
    let (code, text, _) = sandbox.said(&["backups", "list"]);
    assert!(code == 0 && text.starts_with("Nothing is kept"), "{code} {text}");
    sandbox.place("etc/two.conf", "the operator's\n");
    fs::set_permissions(sandbox.root().join("etc/two.conf"), fs::Permissions::from_mode(0o640)).unwrap();
    sandbox.once();
    for text in ["a night's work\n", "another night's\n"] {
        sandbox.place("etc/two.conf", text);
        sandbox.once();
    }
    let (_, text, _) = sandbox.said(&["backups", "list"]);
    let kinds: Vec<&str> = text.lines().map(|line| line.split_whitespace().nth(1).unwrap()).collect();
    assert_eq!(kinds, ["drift,", "drift,", "original"], "{text}");
    let (_, text, _) = sandbox.said(&["backups", "list", "--json"]);
    let list: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (&list[2]["kind"], &list[2]["path"], &list[2]["managed"]),
        (&"original".into(), &"/etc/two.conf".into(), &true.into())
    );
    let oldest = list[1]["digest"].as_str().unwrap();
    // The newest unless another one is meant.
    assert_eq!(sandbox.said(&["backups", "show", "/etc/two.conf"]).1, "another night's\n");
    assert_eq!(sandbox.said(&["backups", "show", "/etc/two.conf", "--which", "original"]).1, "the operator's\n");
    assert_eq!(sandbox.said(&["backups", "show", "/etc/two.conf", "--which", oldest]).1, "a night's work\n");
    assert_eq!(sandbox.said(&["backups", "show", "/etc/one.conf"]).0, 1);
    assert_eq!(sandbox.said(&["backups", "show", "/etc/two.conf", "--which", "ffffffff"]).0, 1);

    // Elsewhere: a new file for nobody else's eyes, and never over another one.
    let to = sandbox.folder.path().join("before");
    let words = ["backups", "restore", "/etc/two.conf", "--which", "original", "--to", to.to_str().unwrap()];
    assert_eq!(sandbox.said(&words).0, 0);
    assert_eq!(
        (fs::read_to_string(&to).unwrap().as_str(), fs::metadata(&to).unwrap().mode() & 0o7777),
        ("the operator's\n", 0o600)
    );
    assert_eq!(sandbox.said(&words).0, 1);
    // In place: not against the repository, unless somebody insists.
    let (code, _, err) = sandbox.said(&["backups", "restore", "/etc/two.conf"]);
    assert!(code == 1 && err.contains("is managed") && err.contains("--to FILE"), "{code} {err}");
    assert_eq!(sandbox.read("etc/two.conf"), "two\n");
    let (code, text, _) = sandbox.said(&["backups", "restore", "/etc/two.conf", "--which", "original", "--force"]);
    assert!(code == 0 && text.contains("the next pass puts back"), "{code} {text}");
    assert_eq!(sandbox.read("etc/two.conf"), "the operator's\n");
    assert_eq!(fs::metadata(sandbox.root().join("etc/two.conf")).unwrap().mode() & 0o7777, 0o640);
    sandbox.once();
    assert_eq!(sandbox.read("etc/two.conf"), "two\n");

    // Once it is not managed any more it comes back to stay, but over nothing that stands there, and through no link.
    sandbox.repo.write("fleet.toml", FLEET.replace(", \"two\"", ""));
    sandbox.push();
    sandbox.once();
    assert_eq!(sandbox.read("etc/two.conf"), "the operator's\n", "the original came back by itself");
    let words = ["backups", "restore", "/etc/two.conf", "--which", oldest];
    let (code, _, err) = sandbox.said(&words);
    assert!(code == 1 && err.contains("something stands at"), "{code} {err}");
    fs::remove_file(sandbox.root().join("etc/two.conf")).unwrap();
    let victim = sandbox.folder.path().join("victim");
    fs::write(&victim, "untouched").unwrap();
    std::os::unix::fs::symlink(&victim, sandbox.root().join("etc/two.conf")).unwrap();
    assert_eq!(sandbox.said(&words).0, 1);
    assert_eq!(sandbox.said(&[&words[..], &["--force"]].concat()).0, 0);
    assert_eq!(
        (sandbox.read("etc/two.conf"), fs::read_to_string(&victim).unwrap()),
        ("a night's work\n".into(), "untouched".into())
    );
    assert_eq!(sandbox.once().outcome, Outcome::Unchanged);
    assert_eq!(sandbox.read("etc/two.conf"), "a night's work\n");
}

#[test]
fn a_host_that_is_given_back_is_as_it_was() {
    let sandbox = Sandbox::new("");
    sandbox.place("etc/two.conf", "the operator's\n");
    fs::set_permissions(sandbox.root().join("etc/two.conf"), fs::Permissions::from_mode(0o640)).unwrap();
    sandbox.place("var/log/other", "theirs\n");
    sandbox.repo.write("components/one/files/etc/made/deep/file", "made\n");
    sandbox
        .repo
        .write("components/one/systemd/app.service", "[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\n");
    sandbox.push();
    let before = tree(&sandbox.root());
    sandbox.once();
    sandbox.place("etc/made/mine", "mine\n");
    // Nobody there to be asked; nothing said; both at once.
    let (code, _, err) = sandbox.said(&["uninstall", "--remove"]);
    assert!(code == 64 && err.contains("--yes"), "{code} {err}");
    assert_eq!(sandbox.said(&["uninstall", "--yes"]).0, 64);
    assert_eq!(sandbox.said(&["uninstall", "--yes", "--keep", "--remove"]).0, 64);
    assert_eq!(sandbox.read("etc/two.conf"), "two\n");

    let (code, text, err) = sandbox.said(&["uninstall", "--remove", "--yes"]);
    assert_eq!(code, 0, "{text}{err}");
    for part in ["restore what was there before: file /etc/two.conf", "remove file /etc/made/deep/file", "--purge removes it"] {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
    assert_eq!(sandbox.read("etc/made/mine"), "mine\n", "what somebody put into a made folder stays, and the folder with it");
    assert!(!sandbox.root().join("etc/made/deep").exists());
    fs::remove_dir_all(sandbox.root().join("etc/made")).unwrap();
    let mut after = tree(&sandbox.root());
    // The roads to the places of trimtab, empty.
    for road in ["var/lib", "var/cache", "run"] {
        if let Some((_, content)) = after.remove(&sandbox.root().join(road)) {
            assert!(content.is_empty());
        }
    }
    // Who the device is belongs to the enrolment, which stays.
    for name in ["device.key", "device.pub"] {
        assert!(after.remove(&sandbox.root().join("etc/trimtab").join(name)).is_some(), "{name}");
    }
    assert_eq!(after, before);
    let (code, text, _) = sandbox.said(&["uninstall", "--remove", "--purge", "--yes"]);
    assert_eq!(code, 0, "a second time is no harm: {text}");
    assert!(!sandbox.root().join("etc/trimtab").exists());
    assert_eq!(sandbox.read("etc/two.conf"), "the operator's\n");
}

#[test]
fn what_cannot_be_given_back_is_not_forgotten() {
    let sandbox = Sandbox::new("");
    sandbox.place("etc/two.conf", "the operator's\n");
    sandbox.once();
    fs::remove_file(sandbox.root().join("etc/two.conf")).unwrap();
    fs::create_dir(sandbox.root().join("etc/two.conf")).unwrap();
    let (code, text, err) = sandbox.said(&["uninstall", "--remove", "--yes"]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("somebody put a directory in its place") && err.contains("stays in"), "{text}{err}");
    assert!(!sandbox.root().join("etc/one.conf").exists(), "the rest is given back");
    assert_eq!(sandbox.said(&["backups", "show", "/etc/two.conf"]).1, "the operator's\n");
    fs::remove_dir(sandbox.root().join("etc/two.conf")).unwrap();
    let (code, text, err) = sandbox.said(&["uninstall", "--remove", "--yes"]);
    assert_eq!(code, 0, "{text}{err}");
    assert_eq!(sandbox.read("etc/two.conf"), "the operator's\n");
    assert!(!sandbox.root().join("var/lib/trimtab").exists());
}

#[test]
fn a_host_that_is_kept_stays_as_it_is() {
    let sandbox = Sandbox::new("");
    sandbox.once();
    let agent = sandbox.agent();
    until("ready", || sandbox.status().is_some_and(|status| status.ready && status.agent_pid > 0));
    for how in ["--keep", "--remove"] {
        let (code, _, err) = sandbox.said(&["uninstall", how, "--yes"]);
        assert!(code == 75 && err.contains("in use by process"), "{how}: {code} {err}");
    }
    drop(agent);
    // Also with a memory that nobody can read any more.
    fs::write(sandbox.root().join("var/lib/trimtab/ledger.json"), "{").unwrap();
    let _ = fs::remove_file(sandbox.root().join("var/lib/trimtab/ledger.json.old"));
    let (code, text, err) = sandbox.said(&["uninstall", "--keep", "--yes"]);
    assert_eq!(code, 0, "{text}{err}");
    assert_eq!((sandbox.read("etc/one.conf"), sandbox.read("etc/two.conf")), ("one\n".to_owned(), "two\n".to_owned()));
    for gone in ["var/lib/trimtab", "etc/trimtab/state", "var/cache/trimtab", "run/trimtab"] {
        assert!(!sandbox.root().join(gone).exists(), "{gone}");
    }
    assert!(sandbox.root().join("etc/trimtab/agent.toml").exists());
}

#[test]
fn a_pass_with_nothing_to_do_writes_nothing() {
    let sandbox = Sandbox::new("[agent]\ninterval = \"1s\"\n");
    let agent = sandbox.agent();
    let passes = || sandbox.status().and_then(|status| status.last_pass).map_or(0, |pass| pass.number);
    until("ready", || sandbox.status().is_some_and(|status| status.ready && status.generation == 1));
    let first = passes();
    until("settled", || passes() > first);
    let stamps = || {
        let state = sandbox.root().join("var/lib/trimtab");
        let all = tree(&state).into_keys().chain([state, sandbox.root().join("etc/trimtab/state")]);
        let stamp = |path: PathBuf| {
            fs::symlink_metadata(&path).map(|m| (path, m.ino(), m.size(), m.mtime_nsec(), m.ctime(), m.ctime_nsec()))
        };
        all.map(|path| stamp(path).unwrap()).collect::<Vec<_>>()
    };
    let (before, from) = (stamps(), passes());
    until("three more passes", || passes() >= from + 3);
    assert_eq!(stamps(), before, "each write leaves a time behind");
    let (code, _, _) = sandbox.said(&["sync"]);
    assert_eq!((code, stamps()), (0, before));
    drop(agent);
}
