//! The pass that accepts the next release, which brings the next root as well, killed at its places and with what it remembers failing to be
//! written: what this host is held to is never below what it accepted nor above what was proven, and stands in both places before anything
//! of the host is touched.
//!
//! Every place around the two copies of the trust state is tried in each run, and a sample of the others.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::sync::{PoisonError, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};

use gix_hash::ObjectId;
use nix::errno::Errno;
use serde_json::Value;
use trimtab::trust::statement::show_time;
use trimtab_tests::git::{Key, Repo};
use trimtab_tests::release::{Floor, Hand, Mini, REPO_ID, RootText, Say};
use trimtab_tests::sweep::{self, sweep};
use trimtab_tests::trace::Verdict;
use trimtab_tests::trace::calls::Kind;

use crate::scene::{Host, Ran};
use crate::tree::{Tree, leftovers};

const CHANNEL: &str = "production";
const COPIES: [&str; 2] = ["var/lib/trimtab/trust-state.json", "etc/trimtab/state/trust-state.json"];
const BEFORE: Floor = Floor { place: (1, 1), root: 1 };
const AFTER: Floor = Floor { place: (1, 2), root: 2 };

/// A host on release 1 under root 1, with release 2 and root 2 in its repository.
struct Scene {
    repo: Repo,
    folder: tempfile::TempDir,
    /// Who reads it follows the newest release; who writes it serves an older one meanwhile.
    serving: RwLock<()>,
    first: ObjectId,
    second: ObjectId,
    old: Tree,
    new: Tree,
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

impl Scene {
    fn new() -> Self {
        let (repo, folder) = (Repo::new(), tempfile::tempdir_in(crate::scene::disk()).unwrap());
        let (ann, bob, safe) = (Key::new("ann"), Key::new("bob"), Mini::new());
        let (by_ann, by_safe) = (Hand::Ssh(&ann), Hand::Mini(&safe));
        let say = |seq: u64, root: u64| {
            let times = (show_time(now() - 60), show_time(now() + 60 * 86_400));
            let say = Say { root, times, ..Say::of(&repo, CHANNEL, (1, seq)) };
            say.release(&repo, &[by_safe, by_ann])
        };
        let all: &[&str] = &["ann", "bob", "safe"];
        let keys = [("ann", by_ann), ("bob", Hand::Ssh(&bob)), ("safe", by_safe)];
        let root = RootText::new(&keys, &[("root", 2, all), ("release.production", 2, all)]);
        let base = folder.path().join("base");
        let etc = base.join("etc/trimtab");
        fs::create_dir_all(&etc).unwrap();
        let url = repo.path().display();
        fs::write(etc.join("agent.toml"), format!("[source]\nurl = \"{url}\"\n[host]\nname = \"box\"\n")).unwrap();
        fs::write(etc.join("root.toml"), root.text()).unwrap();
        let trust = format!("mode = \"release\"\nchannel = \"{CHANNEL}\"\nrepo = \"{REPO_ID}\"\nroot = \"root.toml\"\n");
        fs::write(etc.join("trust.toml"), trust).unwrap();
        let write = |word: &str| {
            for number in 0..4 {
                repo.write(&format!("components/one/files/etc/app/{number}.conf"), format!("{word} {number}\n"));
            }
        };
        repo.write("fleet.toml", "format = 1\n[[group]]\nname = \"all\"\nselect = \"*\"\ncomponents = [\"one\"]\n");
        root.write(&repo, &[by_ann, by_safe]);
        write("old");
        repo.commit("Release 1", Some(&ann));
        let first = say(1, 1);
        let host = Host::copied(&base, &folder.path().join("first"), folder.path());
        host.expect(2, "converged");
        host.expect(0, "unchanged");
        fs::remove_dir_all(&base).unwrap();
        fs::rename(&host.root, &base).unwrap();
        let old = Tree::of(&base);
        // Bob is gone.
        let both: &[&str] = &["ann", "safe"];
        let root = RootText::new(&[("ann", by_ann), ("safe", by_safe)], &[("root", 2, both), ("release.production", 2, both)]);
        RootText { version: 2, ..root }.write(&repo, &[by_ann, by_safe]);
        write("new, and longer");
        repo.commit("Release 2", Some(&ann));
        let second = say(2, 2);
        let mut scene = Self { repo, folder, serving: RwLock::new(()), first, second, new: old.clone(), old };
        let host = scene.copy("reference");
        assert_eq!(floors(&host), Ok([BEFORE; 2]));
        host.expect(2, "converged");
        assert_eq!(floors(&host), Ok([AFTER; 2]));
        scene.new = Tree::of(&host.root);
        assert_ne!(scene.old, scene.new);
        scene
    }

    fn copy(&self, name: &str) -> Host {
        Host::copied(&self.folder.path().join("base"), &self.folder.path().join(name), self.folder.path())
    }

    fn serve(&self, tag: ObjectId) {
        self.repo.git(&["update-ref", &format!("refs/trimtab/{CHANNEL}"), &tag.to_string()]);
    }

    /// A pass while the newest release is served.
    fn pass(&self, host: &Host) -> Ran {
        let _newest = self.serving.read().unwrap_or_else(PoisonError::into_inner);
        host.run(&["once", "--json"])
    }

    /// What a pass that did not come to its end left: each file old or new, and what it is held to as it must be.
    fn is_held(&self, host: &Host) -> Result<[Floor; 2], String> {
        let found = Tree::of(&host.root);
        let wrong = found.strangers(&self.old, &self.new, true);
        if !wrong.is_empty() {
            return Err(format!("half-done: {wrong:?}"));
        }
        let floors = floors(host)?;
        // Each copy is of before or of after: both are whole, and nothing between or beyond was ever proven.
        if floors.iter().any(|floor| *floor != BEFORE && *floor != AFTER) {
            return Err(format!("it is held to what was never accepted: {floors:?}"));
        }
        let ledger = fs::read_to_string(host.root.join("var/lib/trimtab/ledger.json")).map_err(|error| error.to_string())?;
        let begun = found != self.old || ledger.contains(&self.repo.head().to_string());
        if begun && floors != [AFTER; 2] {
            return Err(format!("the host was touched before both copies said why: {floors:?}"));
        }
        Ok(floors)
    }

    /// The release of before is served again: a host that wrote down anything of the next one does not go behind it.
    fn replay(&self, host: &Host, floors: [Floor; 2]) -> Result<(), String> {
        let older = self.serving.write().unwrap_or_else(PoisonError::into_inner);
        self.serve(self.first);
        let ran = host.run(&["once", "--json"]);
        self.serve(self.second);
        drop(older);
        let pass: Value = serde_json::from_str(&ran.out).map_err(|error| format!("{error}: {ran}"))?;
        let verdict = pass["trust"]["verdict"].as_str().unwrap_or_default();
        let most = if floors.contains(&AFTER) { AFTER } else { BEFORE };
        // One that goes on with what it had begun may not ask at all.
        let legal: &[&str] = if most == AFTER { &["rolled-back", ""] } else { &["unchanged", ""] };
        if !legal.contains(&verdict) {
            return Err(format!("the older release served again is {verdict:?} for a host held to {floors:?}: {ran}"));
        }
        match self::floors(host)? {
            now if now == [most; 2] => Ok(()),
            now => Err(format!("it was held to {floors:?} and is to {now:?}")),
        }
    }

    fn recovers(&self, host: &Host) -> Result<(), String> {
        let next = self.pass(host);
        if ![0, 2].contains(&next.code) {
            return Err(format!("the next pass does not converge: {next}"));
        }
        let empty = self.pass(host);
        if (empty.code, empty.outcome().as_str()) != (0, "unchanged") {
            return Err(format!("the pass after the next one is not empty: {empty}"));
        }
        let wrong = Tree::of(&host.root).strangers(&self.new, &self.new, false);
        let left = leftovers(&host.root);
        match floors(host)? {
            held if held == [AFTER; 2] && wrong.is_empty() && left.is_empty() => Ok(()),
            held => Err(format!("at last it is held to {held:?}, with {wrong:?} and {left:?}")),
        }
    }
}

fn floors(host: &Host) -> Result<[Floor; 2], String> {
    let read = |path: &str| {
        let path: PathBuf = host.root.join(path);
        let bytes = fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        Floor::read(&bytes).map_err(|why| format!("{}: {why}", path.display()))
    };
    Ok([read(COPIES[0])?, read(COPIES[1])?])
}

/// The places of the pass: its calls, in their order.
fn places(scene: &Scene) -> Vec<(String, Kind)> {
    let host = scene.copy("counting");
    let mut places = Vec::new();
    host.traced(|_, call| {
        places.push((call.to_string(), call.kind));
        Verdict::Go
    });
    host.forget();
    places
}

/// The numbers of the places at which the trust state is written.
fn remembering(places: &[(String, Kind)]) -> Vec<usize> {
    let is_it = |(_, (call, _)): &(usize, &(String, Kind))| call.contains("trust-state");
    places.iter().enumerate().filter(is_it).map(|(at, _)| at + 1).collect()
}

#[test]
fn a_release_that_is_being_accepted_when_the_agent_is_killed_is_accepted_or_was_not() {
    let scene = Scene::new();
    let places = places(&scene);
    let around = remembering(&places);
    assert!(around.len() >= 8, "two copies are written, synced and renamed: {around:?} of {places:?}");
    let around = around.iter().flat_map(|at| [*at, at + 1]);
    let cases: BTreeSet<usize> = around.chain(sweep::spaced(places.len(), 5)).collect();
    let cases: Vec<usize> = cases.into_iter().collect();
    sweep("kill sweep of an accept", &cases, |place| {
        let host = scene.copy(&format!("kill-{place}"));
        {
            let _newest = scene.serving.read().unwrap_or_else(PoisonError::into_inner);
            host.killed_at(*place)?;
        }
        let held = scene.is_held(&host)?;
        scene.replay(&host, held)?;
        scene.recovers(&host)?;
        host.forget();
        Ok(())
    });
}

/// A write of the trust state that fails.
struct Fault(usize, Errno, String);

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?} at {}", self.0, self.1, self.2)
    }
}

#[test]
fn a_release_that_cannot_be_written_down_is_not_put_in_force() {
    let scene = Scene::new();
    let places = places(&scene);
    let fails = |at: &usize| places[at - 1].1 != Kind::Remove;
    let cases = remembering(&places).into_iter().filter(fails);
    let cases = cases.flat_map(|at| [Errno::EIO, Errno::ENOSPC].map(|errno| Fault(at, errno, places[at - 1].0.clone())));
    sweep("faults while a release is written down", &sweep::pick(cases.collect(), 8), |fault| {
        let host = scene.copy(&format!("fault-{}-{:?}", fault.0, fault.1));
        let (_, ran) = {
            let _newest = scene.serving.read().unwrap_or_else(PoisonError::into_inner);
            host.traced(|place, call| {
                if place == fault.0 && call.to_string().contains("trust-state") { Verdict::Fail(fault.1) } else { Verdict::Go }
            })
        };
        let held = scene.is_held(&host)?;
        let reason = std::io::Error::from(fault.1).to_string();
        if ran.is_bad() && (!ran.out.contains(&reason) || Tree::of(&host.root) != scene.old) {
            return Err(format!("it was put in force, or does not say why not ({reason}): {ran}"));
        }
        scene.replay(&host, held)?;
        scene.recovers(&host)?;
        host.forget();
        Ok(())
    });
}
