//! Bundles for hosts in release mode: what a stick brings is judged as what the network brings, in the same words, with real keys.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use gix_hash::ObjectId;
use serde_json::Value;
use trimtab::trust::statement::show_time;
use trimtab_model::report::{Outcome, Pass, Wake};
use trimtab_model::status::Status;
use trimtab_tests::git::{Key, command, run};
use trimtab_tests::release::{Hand, RootText, Say};
use trimtab_tests::trimtab_binary;

use crate::releases::{DAY, Released, copy, now};

const PRODUCTION: &str = "refs/trimtab/production";
const ALIVE: &str = "refs/trimtab/production.alive";
const STATE: &str = "var/lib/trimtab/trust-state.json";

/// A host, and copies of it that reach nothing but a stick.
struct Stick {
    host: Released,
    folder: tempfile::TempDir,
}

impl Stick {
    fn new() -> Self {
        Self { host: Released::new(""), folder: tempfile::tempdir().unwrap() }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A copy of the host as it is now, without a network.
    fn lonely(&self, name: &str) -> PathBuf {
        let root = self.file(name);
        copy(&self.host.sandbox.root(), &root);
        let text = "[source]\nurl = \"https://127.0.0.1:1/fleet.git\"\n[host]\nname = \"box\"\n";
        fs::write(root.join("etc/trimtab/agent.toml"), text).unwrap();
        root
    }

    /// `trimtab bundle create` of the channel; what it answers.
    fn create(&self, name: &str, repo: &Path, more: &[&str]) -> (bool, Value, String) {
        let mut create = command(trimtab_binary().to_str().unwrap(), self.folder.path());
        create.args(["bundle", "create", "--json", "--channel", "production", "--host", "box", "--repo"]).arg(repo);
        let output = create.arg("--output").arg(self.file(name)).args(more).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.success(), serde_json::from_slice(&output.stdout).unwrap_or_default(), said)
    }

    #[track_caller]
    fn created(&self, name: &str) {
        let (good, _, said) = self.create(name, self.host.sandbox.repo.path(), &[]);
        assert!(good, "{said}");
    }

    /// A plain git bundle of these references.
    fn plain(&self, name: &str, references: &[&str]) {
        let file = self.file(name);
        self.host.sandbox.repo.git(&[&["bundle", "create", "--quiet", file.to_str().unwrap()], references].concat());
    }

    #[track_caller]
    fn apply(&self, root: &Path, name: &str) -> Pass {
        pass(root, &["bundle", "apply", "--json", self.file(name).to_str().unwrap()])
    }
}

#[track_caller]
fn pass(root: &Path, words: &[&str]) -> Pass {
    let output = Command::new(trimtab_binary()).arg("--root").arg(root).args(words).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {said}"))
}

fn one(root: &Path) -> String {
    fs::read_to_string(root.join("etc/one.conf")).unwrap_or_default()
}

fn status(root: &Path) -> Status {
    serde_json::from_slice(&fs::read(root.join("run/trimtab/status.json")).unwrap()).unwrap()
}

fn remembered(root: &Path) -> Value {
    serde_json::from_slice(&fs::read(root.join(STATE)).unwrap()).unwrap()
}

#[test]
fn a_host_without_a_network_follows_releases_alive_statements_and_roots_from_sticks() {
    let stick = Stick::new();
    let (host, repo) = (&stick.host, &stick.host.sandbox.repo);
    let root = stick.lonely("root");
    assert_eq!(pass(&root, &["once", "--json"]).outcome, Outcome::Unreachable);
    // A branch is no release, whoever signed its commits.
    stick.plain("branch", &["main"]);
    let refused = stick.apply(&root, "branch");
    assert!(
        refused.outcome == Outcome::Held && refused.source_error.contains("has no refs/trimtab/production; make a release"),
        "{refused:?}"
    );

    host.release(1);
    let alive = repo.object("tag", &host.say(1).alive(&[host.bob()]));
    repo.git(&["update-ref", ALIVE, &alive.to_string()]);
    stick.created("first");
    let taken = stick.apply(&root, "first");
    assert_eq!(
        (taken.outcome, taken.wake, taken.trust.verdict.as_str(), one(&root).as_str()),
        (Outcome::Converged, Wake::Bundle, "accepted", "one\n"),
        "{taken:?}"
    );
    assert!(taken.trust.signer.contains("ann (SHA256:") && taken.trust.signer.contains("safe (minisign:"), "{taken:?}");
    let trust = status(&root).trust;
    assert_eq!((trust.mode.as_str(), trust.epoch, trust.sequence, trust.root_version), ("release", Some(1), Some(1), Some(1)));
    assert_eq!(remembered(&root)["alive"]["tag"], alive.to_string(), "who keeps the channel alive is heard from a stick, too");
    assert_eq!(stick.apply(&root, "first").outcome, Outcome::Unchanged);

    // As git writes it, without anything of trimtab's around it; and the same as the source.
    host.sandbox.revise("two\n");
    host.release(2);
    stick.plain("second", &[PRODUCTION]);
    assert_eq!((stick.apply(&root, "second").outcome, one(&root).as_str()), (Outcome::Converged, "two\n"));
    host.sandbox.revise("three\n");
    host.release(3);
    stick.plain("third", &[PRODUCTION]);
    let url = format!("[source]\nurl = \"file://{}\"\n[host]\nname = \"box\"\n", stick.file("third").display());
    fs::write(root.join("etc/trimtab/agent.toml"), url).unwrap();
    let third = pass(&root, &["once", "--json"]);
    assert_eq!((third.outcome, one(&root).as_str()), (Outcome::Converged, "three\n"), "{third:?}");

    // A root travels in the tree of the release, as ever; who left with it does not count any more.
    let keys = [("ann", host.ann()), ("safe", host.safe())];
    let both: &[&str] = &["ann", "safe"];
    let second = RootText { version: 2, ..RootText::new(&keys, &[("root", 2, both), ("release.production", 2, both)]) };
    second.write(repo, &[host.ann(), host.safe()]);
    host.sandbox.revise("four\n");
    host.say(4).release(repo, &[host.ann(), host.bob()]);
    let (good, _, said) = stick.create("left", repo.path(), &[]);
    assert!(!good && said.contains("below-threshold") && said.contains("no host would take"), "{said}");
    stick.plain("left", &[PRODUCTION]);
    let left = stick.apply(&root, "left");
    assert_eq!(
        (left.outcome, left.trust.verdict.as_str(), one(&root).as_str()),
        (Outcome::Held, "below-threshold", "three\n"),
        "{left:?}"
    );
    assert_eq!(status(&root).trust.root_version, Some(2), "what was believed stays so");
    host.release(5);
    stick.created("fifth");
    assert_eq!((stick.apply(&root, "fifth").outcome, one(&root).as_str()), (Outcome::Converged, "four\n"));
    // The first stick again.
    let old = stick.apply(&root, "first");
    assert_eq!((old.outcome, old.trust.verdict.as_str(), one(&root).as_str()), (Outcome::Held, "rolled-back", "four\n"));
    assert!(old.trust.message.contains("1.1") && old.trust.message.contains("1.5"), "{old:?}");
}

/// A release that a host which has 1.2 must not take: its name, what it is called, and how it is made.
type Case = (&'static str, &'static str, fn(&Released) -> ObjectId);

const REFUSED: [Case; 8] = [
    ("one of two", "below-threshold", |host| host.say(3).release(&host.sandbox.repo, &[host.ann()])),
    ("one, twice", "below-threshold", |host| host.say(3).release(&host.sandbox.repo, &[host.ann(), host.ann()])),
    ("an older one", "rolled-back", |host| host.release(1)),
    ("another one of the same number", "equivocation", |host| host.release(2)),
    ("one that ran out", "expired", |host| {
        let times = (show_time(now() - 10 * DAY), show_time(now() - 5 * DAY));
        Say { times, ..host.say(3) }.release(&host.sandbox.repo, &[host.safe(), host.ann()])
    }),
    ("of another repository", "wrong-repository", |host| {
        let repo = "00000000-2fa1-11d2-883f-0016d3cca427".to_owned();
        Say { repo, ..host.say(3) }.release(&host.sandbox.repo, &[host.safe(), host.ann()])
    }),
    ("for another channel", "wrong-channel", |host| {
        let repo = &host.sandbox.repo;
        let tag = Say { channel: "staging".to_owned(), ..host.say(3) }.release(repo, &[host.safe(), host.ann()]);
        repo.git(&["update-ref", PRODUCTION, &tag.to_string()]);
        tag
    }),
    ("altered after it was signed", "forged", |host| {
        let repo = &host.sandbox.repo;
        let tag = String::from_utf8(host.say(3).tag(&[host.safe(), host.ann()])).unwrap();
        let tag = repo.object("tag", tag.replace("production/1.3", "production/1.4").replace("seq: 3", "seq: 4").as_bytes());
        repo.git(&["update-ref", PRODUCTION, &tag.to_string()]);
        tag
    }),
];

#[test]
fn what_is_refused_from_the_network_is_refused_from_a_stick_in_the_same_words() {
    let stick = Stick::new();
    let host = &stick.host;
    host.release(1);
    host.release(2);
    assert_eq!(host.sandbox.once().outcome, Outcome::Converged);
    host.sandbox.revise("two\n");
    let lonely = stick.lonely("lonely");
    let before = fs::read(lonely.join(STATE)).unwrap();
    for (at, (what, verdict, make)) in REFUSED.iter().enumerate() {
        make(host);
        let name = format!("stick-{at}");
        // What no host at all takes does not come onto a stick by ours: somebody else wrote that one.
        let any = ["rolled-back", "equivocation", "expired"].contains(verdict);
        let (good, _, said) = stick.create(&name, host.sandbox.repo.path(), &[]);
        assert_eq!(good, any, "{what}: {said}");
        assert!(any || said.contains(&format!("({verdict})")), "{what}: {said}");
        if !any || at % 2 == 0 {
            stick.plain(&name, &[PRODUCTION]);
        }
        let (near, far) = (host.sandbox.once(), stick.apply(&lonely, &name));
        assert_eq!((near.outcome, near.trust.verdict.as_str()), (Outcome::Held, *verdict), "{what}: {near:?}");
        assert_eq!((far.outcome, &far.trust), (Outcome::Held, &near.trust), "{what}");
        assert_eq!((one(&lonely).as_str(), far.changes.len()), ("one\n", 0), "{what}");
        assert_eq!(fs::read(lonely.join(STATE)).unwrap(), before, "{what}: nothing of it is remembered");
    }
    // The next good one is taken as if nothing had been.
    host.release(3);
    stick.created("good");
    assert_eq!((stick.apply(&lonely, "good").outcome, one(&lonely).as_str()), (Outcome::Converged, "two\n"));
}

#[test]
fn a_bundle_of_a_channel_holds_the_newest_release_of_clone_and_remote() {
    let stick = Stick::new();
    let host = &stick.host;
    let clone = stick.file("clone");
    let git = |words: &[&str]| run(command("git", stick.folder.path()).arg("-C").arg(&clone).args(words), b"");
    let (good, _, said) = stick.create("none", host.sandbox.repo.path(), &[]);
    assert!(!good && said.contains("nothing was released to production") && said.contains("trimtab release production"), "{said}");

    let first = host.release(1);
    let from = host.sandbox.repo.path().display().to_string();
    run(command("git", stick.folder.path()).args(["clone", "--quiet", &from]).arg(&clone), b"");
    git(&["fetch", "--quiet", "origin", "refs/trimtab/*:refs/trimtab/*"]);
    host.sandbox.revise("two\n");
    host.release(2);
    let release = |more: &[&str]| {
        let (good, said, error) = stick.create("made", &clone, more);
        assert!(good, "{error}");
        said["release"].as_str().unwrap().to_owned()
    };
    assert_eq!(release(&["--offline"]), "production/1.1", "what this clone fetched once");
    assert_eq!(release(&[]), "production/1.2", "a clone does not follow releases: its remote is asked");
    assert_eq!(git(&["rev-parse", PRODUCTION]), format!("{first}\n").as_bytes(), "the clone is as it was");
    let root = stick.lonely("root");
    assert_eq!((stick.apply(&root, "made").outcome, one(&root).as_str()), (Outcome::Converged, "two\n"));
    // The remote serves less than this clone has, and then nothing at all.
    host.release(3);
    git(&["fetch", "--quiet", "origin", "refs/trimtab/*:refs/trimtab/*"]);
    host.serve(first);
    assert_eq!(release(&[]), "production/1.3");
    git(&["remote", "set-url", "origin", "/nowhere"]);
    let (good, _, said) = stick.create("none", &clone, &[]);
    assert!(!good && said.contains("/nowhere") && said.contains("--offline"), "{said}");
}

/// Whoever may push to the remote can put anything there; on a stick it would be found out on site, where nobody has a network.
#[test]
fn what_no_host_would_take_does_not_come_onto_a_stick() {
    let stick = Stick::new();
    let (host, repo) = (&stick.host, &stick.host.sandbox.repo);
    host.release(1);
    let clone = stick.file("clone");
    let git = |words: &[&str]| run(command("git", stick.folder.path()).arg("-C").arg(&clone).args(words), b"");
    run(command("git", stick.folder.path()).args(["clone", "--quiet", &repo.path().display().to_string()]).arg(&clone), b"");
    git(&["fetch", "--quiet", "origin", "refs/trimtab/*:refs/trimtab/*"]);
    let create = |names: &[&str]| {
        let (good, told, said) = stick.create("made", &clone, &[]);
        assert!(good && names.iter().all(|name| said.contains(name)), "{said}");
        let list = command("git", stick.folder.path()).arg("bundle").arg("list-heads").arg(part(&stick, "made")).output().unwrap();
        (told["release"].as_str().unwrap().to_owned(), String::from_utf8(list.stdout).unwrap().lines().count())
    };

    // A number that nobody comes to, signed by one of two.
    host.say(900).release(repo, &[host.ann()]);
    let honest = repo.object("tag", &host.say(1).alive(&[host.bob()]));
    repo.git(&["update-ref", ALIVE, &honest.to_string()]);
    assert_eq!(create(&["refs/trimtab/production of origin", "below-threshold"]), ("production/1.1".to_owned(), 2));
    // Who keeps the channel alive, by somebody who may not.
    let other = repo.object("tag", &host.say(1).alive(&[host.ann()]));
    repo.git(&["update-ref", ALIVE, &other.to_string()]);
    assert_eq!(create(&["refs/trimtab/production.alive of origin"]), ("production/1.1".to_owned(), 1));
    // No statement at all.
    repo.git(&["update-ref", PRODUCTION, "refs/heads/main"]);
    assert_eq!(create(&["refs/trimtab/production of origin"]).0, "production/1.1");
    // Another one with the number of the one that this clone has: somebody signed twice, and hosts that have the first refuse the second.
    host.sandbox.revise("two\n");
    host.release(1);
    assert_eq!(create(&["equivocation"]).0, "production/1.1");
    let root = stick.lonely("root");
    assert_eq!((stick.apply(&root, "made").outcome, one(&root).as_str()), (Outcome::Converged, "one\n"));
    // A chain of somebody else's, from another root 1 on, with numbers of its own.
    let eve = Key::new("eve");
    let keys = [("eve", Hand::Ssh(&eve))];
    let first = RootText::new(&keys, &[("root", 1, &["eve"]), ("release.production", 1, &["eve"])]);
    first.write(repo, &[Hand::Ssh(&eve)]);
    host.sandbox.revise("three\n");
    host.say(7).release(repo, &[Hand::Ssh(&eve)]);
    assert_eq!(create(&["refs/trimtab/production of origin"]).0, "production/1.1");
}

/// The git bundle in a bundle, as a file.
fn part(stick: &Stick, name: &str) -> PathBuf {
    let (file, to) = (stick.file(name), stick.file("part"));
    let output = Command::new("tar").arg("-xOf").arg(file).arg("repository.bundle").output().unwrap();
    assert!(output.status.success(), "{output:?}");
    fs::write(&to, output.stdout).unwrap();
    to
}
