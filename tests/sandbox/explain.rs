//! What people are told of drift and of resources: `trimtab drift`, `trimtab explain`.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use serde_json::Value;
use trimtab_model::report::Outcome;

use crate::{FLEET, Sandbox};

impl Sandbox {
    fn spoil(&self, path: &str, text: &str) {
        fs::write(self.root().join(path), text).unwrap();
        assert_eq!(self.once().outcome, Outcome::Converged);
    }

    fn told(&self, words: &[&str]) -> Value {
        let (code, out, err) = self.said(words);
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{words:?} ended with {code}: {error}\n{out}{err}"))
    }

    /// Whether a text is in any file of the store.
    fn remembers(&self, text: &str) -> bool {
        let found = std::process::Command::new("grep").args(["-rqF", text]).arg(self.root().join("var/lib/trimtab")).status();
        found.unwrap().success()
    }

    fn with_key() -> Self {
        let sandbox = Self::new("");
        sandbox.repo.write("components/one/files/etc/key", "ours\n");
        sandbox.repo.write("components/one/component.toml", "[[file]]\npath = \"/etc/key\"\nmode = \"0600\"\n");
        sandbox.push();
        assert_eq!(sandbox.once().outcome, Outcome::Converged);
        sandbox
    }
}

#[test]
fn drift_is_listed_and_shown_with_what_was_overwritten() {
    let sandbox = Sandbox::with_key();
    let (code, text, _) = sandbox.said(&["drift", "list", "--all"]);
    assert_eq!((code, text.as_str()), (0, "No drift stands on this host.\n"));
    sandbox.spoil("etc/one.conf", "a night's work\n\u{1b}[2J\n");
    sandbox.spoil("etc/two.conf", "other\n");
    let (_, text, _) = sandbox.said(&["drift", "list"]);
    assert_eq!(text, "No drift stands on this host.\n2 passed; `trimtab drift list --all` lists them.\n");
    let list = sandbox.told(&["drift", "list", "--all", "--json"]);
    let past: Vec<(u64, &str, &str)> = list["past"].as_array().unwrap().iter().map(line).collect();
    assert_eq!(past, [(2, "file /etc/two.conf", "kept"), (1, "file /etc/one.conf", "kept")]);
    let (code, text, _) = sandbox.said(&["drift", "show", "1"]);
    let parts = ["file /etc/one.conf", "changed by  unknown", "content: ", "--- what was overwritten", "-a night's work", "+one\n"];
    for part in parts {
        assert!(code == 0 && text.contains(part), "{part:?} is not in:\n{text}");
    }
    assert!(!text.contains('\u{1b}'), "what somebody wrote steers no terminal: {text:?}");
    assert!(sandbox.told(&["drift", "show", "1", "--json"])["diff"].as_str().unwrap().contains("-a night's work"));
    let (code, _, err) = sandbox.said(&["drift", "show", "7"]);
    assert!(code == 1 && err.contains("there is no drift 7"), "{err}");
    // A mode takes nothing of anybody's away.
    fs::set_permissions(sandbox.root().join("etc/one.conf"), fs::Permissions::from_mode(0o666)).unwrap();
    assert_eq!(sandbox.once().outcome, Outcome::Converged);
    assert_eq!(sandbox.told(&["drift", "show", "3", "--json"])["overwritten"]["state"], "nothing");
}

fn line(told: &Value) -> (u64, &str, &str) {
    (told["id"].as_u64().unwrap(), told["resource"].as_str().unwrap(), told["overwritten"]["state"].as_str().unwrap())
}

#[test]
fn what_stands_is_told_as_standing_against_what_is_wanted() {
    let sandbox = Sandbox::with_key();
    let component = "[[file]]\npath = \"/etc/one.conf\"\ndrift = \"report\"\n";
    sandbox.repo.write("components/one/component.toml", component);
    sandbox.push();
    sandbox.once();
    fs::write(sandbox.root().join("etc/one.conf"), "by hand\n").unwrap();
    for _ in 0..3 {
        assert_eq!(sandbox.once().outcome, Outcome::Drifted);
    }
    let counters = sandbox.status().unwrap().counters;
    let found = counters.events.get("drift-found").copied();
    assert_eq!((counters.drift_found, counters.drift_repaired, found), (1, 0, Some(1)), "each is counted once");
    let (_, text, _) = sandbox.said(&["drift", "list"]);
    assert!(text.contains("   1  file /etc/one.conf  seen ") && text.contains("stands, by unknown"), "{text}");
    assert!(text.contains("only reported, as the repository says"), "{text}");
    let (_, text, _) = sandbox.said(&["drift", "show", "1"]);
    assert!(text.contains("--- on the host") && text.contains("-by hand") && text.contains("+one"), "{text}");
    let (code, _, err) = sandbox.said(&["drift", "restore", "1"]);
    assert!(code == 1 && err.contains("still stands"), "{err}");
    let (code, text, _) = sandbox.said(&["explain", "/etc/one.conf"]);
    assert_eq!(code, 2, "{text}");
    for part in ["drift       report: ", "now         content is ", "only reported, as the repository says", "components/one/"] {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
}

#[test]
fn nothing_private_is_kept_or_shown() {
    let sandbox = Sandbox::with_key();
    fs::write(sandbox.root().join("etc/key"), "hunter2\n").unwrap();
    let pass = sandbox.once();
    assert!(pass.remarks.iter().any(|remark| remark == "what stood at /etc/key was not kept: it is private"), "{:?}", pass.remarks);
    assert_eq!((sandbox.read("etc/key").as_str(), pass.kept.is_empty()), ("ours\n", true));
    // Declared open, and closed by whoever wrote a secret into it.
    fs::write(sandbox.root().join("etc/one.conf"), "hunter2\n").unwrap();
    fs::set_permissions(sandbox.root().join("etc/one.conf"), fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(sandbox.once().outcome, Outcome::Converged);
    assert!(!sandbox.remembers("hunter2"), "no file of the store has it");
    for id in ["1", "2"] {
        let (_, text, _) = sandbox.said(&["drift", "show", id]);
        assert!(text.contains("overwritten not kept: it is private") && !text.contains("---"), "{text}");
        let (code, _, err) = sandbox.said(&["drift", "restore", id]);
        assert!(code == 1 && err.contains("not kept: it is private"), "{err}");
    }
    let (code, text, _) = sandbox.said(&["explain", "/etc/key", "--json"]);
    assert!(code == 0 && text.contains("\"wanted\": \"private\""), "{text}");
    assert!(!text.contains(&trimtab_model::digest::Digest::of(b"ours\n").short()), "{text}");
}

#[test]
fn what_was_overwritten_is_had_back_beside_its_place_and_not_over_it_unasked() {
    let sandbox = Sandbox::with_key();
    sandbox.spoil("etc/one.conf", "a night's work\n");
    let (code, text, err) = sandbox.said(&["drift", "restore", "1"]);
    assert!(code == 0 && text.contains("etc/one.conf.drift-1 written"), "{text}{err}");
    let beside = sandbox.root().join("etc/one.conf.drift-1");
    assert_eq!(fs::read_to_string(&beside).unwrap(), "a night's work\n");
    assert_eq!(fs::metadata(&beside).unwrap().permissions().mode() & 0o777, 0o600);
    let (code, _, err) = sandbox.said(&["drift", "restore", "1"]);
    assert!(code == 1 && err.contains("cannot be written"), "nothing is replaced: {err}");
    let elsewhere = sandbox.folder.path().join("lost");
    assert_eq!(sandbox.said(&["drift", "restore", "1", "--to", elsewhere.to_str().unwrap()]).0, 0);
    assert_eq!(fs::read_to_string(&elsewhere).unwrap(), "a night's work\n");
    // The managed path, named straight and through a symlink.
    symlink(sandbox.root().join("etc"), sandbox.folder.path().join("way")).unwrap();
    for to in [sandbox.root().join("etc/one.conf"), sandbox.folder.path().join("way/one.conf")] {
        let (code, _, err) = sandbox.said(&["drift", "restore", "1", "--to", to.to_str().unwrap()]);
        assert!(code == 1 && err.contains("would be repaired again") && err.contains("trimtab pin /etc/one.conf"), "{err}");
        assert_eq!(sandbox.read("etc/one.conf"), "one\n");
        let (code, text, err) = sandbox.said(&["drift", "restore", "1", "--yes", "--to", to.to_str().unwrap()]);
        assert!(code == 0 && text.contains("the next pass puts back"), "{text}{err}");
        assert_eq!(sandbox.read("etc/one.conf"), "a night's work\n");
        assert_eq!(sandbox.once().outcome, Outcome::Converged);
    }
}

#[test]
fn what_outgrows_its_bound_leaves_the_disk_with_the_repair() {
    let sandbox = Sandbox::new("[drift]\nkeep-mib = 4\n");
    sandbox.once();
    let text = |letter: &str| letter.repeat(3 << 20);
    sandbox.spoil("etc/one.conf", &text("a"));
    sandbox.spoil("etc/one.conf", &text("b"));
    let sizes = |sandbox: &Sandbox| {
        let blobs = sandbox.root().join("var/lib/trimtab/blobs");
        let found = std::process::Command::new("find").arg(blobs).args(["-size", "+1M"]).output().unwrap();
        String::from_utf8(found.stdout).unwrap().lines().count()
    };
    assert_eq!(sizes(&sandbox), 1, "no revision came, and the disk does not fill");
    let states = |list: &Value| list["past"].as_array().unwrap().iter().map(|told| line(told).2.to_owned()).collect::<Vec<_>>();
    assert_eq!(states(&sandbox.told(&["drift", "list", "--all", "--json"])), ["kept", "outgrown"]);
    let (code, _, err) = sandbox.said(&["drift", "restore", "1"]);
    assert!(code == 1 && err.contains("drift.keep-mib"), "{err}");
    // What is in force is all there.
    fs::remove_file(sandbox.root().join("etc/one.conf")).unwrap();
    assert_eq!(sandbox.once().outcome, Outcome::Converged);
    assert_eq!(sandbox.read("etc/one.conf"), "one\n");
}

#[test]
fn a_resource_is_explained_without_a_source() {
    let sandbox = Sandbox::new("");
    sandbox.once();
    let second = sandbox.revise("second\n");
    sandbox.once();
    sandbox.repo.write("components/two/files/etc/two.conf", "two more\n");
    sandbox.push();
    let third = sandbox.repo.head().to_string();
    sandbox.once();
    sandbox.spoil("etc/one.conf", "spoiled\n");
    fs::rename(sandbox.repo.path(), sandbox.folder.path().join("away")).unwrap();
    let told = sandbox.told(&["explain", "/etc/one.conf", "--json"]);
    assert_eq!(
        (&told["origin"]["component"], &told["origin"]["file"]),
        (&"one".into(), &"components/one/files/etc/one.conf".into())
    );
    assert_eq!((&told["revision"], &told["generation"]), (&third.as_str().into(), &3.into()));
    assert!(told["signer"].as_str().unwrap().contains("person"), "{told}");
    let came: Vec<(u64, &str)> = told["history"]
        .as_array()
        .unwrap()
        .iter()
        .map(|came| (came["generation"].as_u64().unwrap(), came["verb"].as_str().unwrap()))
        .collect();
    assert_eq!(came, [(2, "update"), (1, "create")], "the third one changed another file");
    assert_eq!(told["history"][0]["revision"], second.as_str());
    assert_eq!((&told["now"]["asWanted"], &told["drift"][0]["id"]), (&true.into(), &1.into()));
    let (code, text, _) = sandbox.said(&["explain", "file", "/etc/one.conf"]);
    assert_eq!(code, 0, "{text}");
    for part in ["now         as wanted", "drift       enforce", "changed by\n    generation 2, ", "signed by person", "    1  "] {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
    // Settings that cannot be read keep nobody from being told what is remembered.
    let settings = sandbox.root().join("etc/trimtab/agent.toml");
    fs::write(&settings, fs::read_to_string(&settings).unwrap() + "no-such-key = 1\n").unwrap();
    let (code, text, _) = sandbox.said(&["explain", "/etc/one.conf"]);
    assert!(code == 1 && text.contains("now         could not be looked at: ") && text.contains("generation 2"), "{text}");
}

#[test]
fn what_nobody_knows_of_is_told_with_what_may_be_meant() {
    let sandbox = Sandbox::new("");
    let (code, _, err) = sandbox.said(&["explain", "/etc/one.conf"]);
    assert!(code == 1 && err.contains("nothing is known of /etc/one.conf"), "{err}");
    sandbox.once();
    let (code, _, err) = sandbox.said(&["explain", "/etc/onne.conf"]);
    assert!(code == 1 && err.contains("did you mean `/etc/one.conf`?"), "{err}");
    // What left is still known by its drift.
    sandbox.spoil("etc/two.conf", "spoiled\n");
    sandbox.repo.write("fleet.toml", FLEET.replace(", \"two\"", ""));
    sandbox.push();
    sandbox.once();
    let (code, text, _) = sandbox.said(&["explain", "/etc/two.conf"]);
    assert!(
        code == 0 && text.contains("not, and not managed") && text.contains("generation 2, ") && text.contains(": left"),
        "{text}"
    );
}
