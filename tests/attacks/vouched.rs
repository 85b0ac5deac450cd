//! `verify = "all-since-trusted"`: every commit since the last accepted one is signed, whichever way it came in.

use gix_hash::ObjectId;
use trimtab::trust::Class;
use trimtab::trust::keys::TrustConfig;
use trimtab::trust::state::TrustState;
use trimtab::trust::vouch::MAX_COMMITS;
use trimtab_tests::git::{Key, Repo, insert, payload};

use super::{accept, assert_code, judge, trust, trust_with};

/// A repository with one accepted commit, under a configuration that asks for all signatures.
struct Scene {
    repo: Repo,
    key: Key,
    trust: TrustConfig,
    state: TrustState,
}

impl Scene {
    fn new() -> Self {
        let (repo, key) = (Repo::new(), Key::new("ann"));
        let trust = trust_with(&[&key], "verify = \"all-since-trusted\"");
        repo.commit("unsigned, from before anything was trusted", None);
        let state = accept(&repo, repo.commit("first", Some(&key)), &trust, None).state().clone();
        Self { repo, key, trust, state }
    }

    /// A commit of the same tree, signed or not.
    fn on(&self, parents: &[ObjectId], key: Option<&Key>, message: &str) -> ObjectId {
        let tree = self.repo.resolve("HEAD^{tree}");
        match key {
            Some(key) => self.repo.signed(key, tree, parents, message),
            None => self.repo.object("commit", &payload(tree, parents, message)),
        }
    }

    fn signed(&self, parents: &[ObjectId], message: &str) -> ObjectId {
        self.on(parents, Some(&self.key), message)
    }

    #[track_caller]
    fn accepts(&self, tip: ObjectId) {
        accept(&self.repo, tip, &self.trust, Some(&self.state));
    }

    /// Refused, naming `commit` as the first.
    #[track_caller]
    fn refuses(&self, tip: ObjectId, commit: ObjectId, words: &[&str]) {
        let verdict = judge(&self.repo, tip, &self.trust, Some(&self.state));
        assert_code(&verdict, "unvouched");
        assert_eq!(verdict.class(), Some(Class::Hold));
        for word in words.iter().copied().chain([commit.to_string().as_str(), "git rebase --exec", "verify = \"tip\""]) {
            assert!(verdict.to_string().contains(word), "{word}: {verdict}");
        }
        // The same is taken where only the tip has to be signed.
        accept(&self.repo, tip, &trust(&[&self.key]), Some(&self.state));
    }
}

#[test]
fn c08_unsigned_and_foreign_commits_between_are_refused_and_the_first_is_named() {
    let scene = Scene::new();
    let base = scene.state.commit;
    let one = scene.signed(&[base], "one");
    scene.accepts(scene.signed(&[one], "two"));
    let unsigned = scene.on(&[one], None, "unsigned");
    let foreign = scene.on(&[unsigned], Some(&Key::new("eve")), "foreign");
    let tip = scene.signed(&[foreign], "tip");
    scene.refuses(tip, unsigned, &["2 commits carry", "not signed", "Ann Example <ann@example.org>"]);
    let foreign = scene.on(&[one], Some(&Key::new("eve")), "foreign");
    scene.refuses(scene.signed(&[foreign], "tip"), foreign, &["not in trust.toml"]);
}

#[test]
fn a_forged_or_malformed_commit_between() {
    let scene = Scene::new();
    let base = scene.state.commit;
    let tree = scene.repo.resolve("HEAD^{tree}");
    let genuine = scene.key.sign("git", &payload(tree, &[base], "genuine"));
    let forged = scene.repo.object("commit", &insert(&payload(tree, &[base], "forged"), "gpgsig", &genuine));
    scene.refuses(scene.signed(&[forged], "tip"), forged, &["altered after signing"]);
    let signed = insert(&payload(tree, &[base], "genuine"), "gpgsig", &genuine);
    let twice = scene.repo.object("commit", &insert(&signed, "gpgsig", &genuine));
    scene.refuses(scene.signed(&[twice], "tip"), twice, &["not as git writes it"]);
}

#[test]
fn a_commit_that_the_source_keeps_back_is_not_passed_over() {
    let scene = Scene::new();
    let hidden = scene.on(&[scene.repo.resolve("HEAD~1")], None, "unsigned, and kept back");
    let side = scene.signed(&[hidden], "side");
    let tip = scene.signed(&[scene.state.commit, side], "merge");
    scene.refuses(tip, hidden, &["not signed"]);
    let name = hidden.to_string();
    std::fs::remove_file(scene.repo.path().join(".git/objects").join(&name[..2]).join(&name[2..])).unwrap();
    let verdict = judge(&scene.repo, tip, &scene.trust, Some(&scene.state));
    assert_code(&verdict, "unavailable");
}

#[test]
fn an_authors_name_cannot_write_on_the_terminal() {
    let scene = Scene::new();
    let tree = scene.repo.resolve("HEAD^{tree}");
    let hostile = String::from_utf8(payload(tree, &[scene.state.commit], "m")).unwrap().replace("Ann", "\u{1b}[2J\u{9b}\u{202e}");
    let hostile = scene.repo.object("commit", hostile.as_bytes());
    let tip = scene.signed(&[hostile], "tip");
    let verdict = judge(&scene.repo, tip, &scene.trust, Some(&scene.state));
    assert_code(&verdict, "unvouched");
    assert!(!verdict.to_string().contains(|c: char| c.is_control() || c == '\u{202e}'), "{verdict}");
}

#[test]
fn a_merged_branch_is_asked_for_signatures_too() {
    let scene = Scene::new();
    let base = scene.state.commit;
    // A side branch that left before the accepted commit: what came with it is new, what lies behind its start is not.
    let before = scene.repo.resolve("HEAD~1");
    for (first, second) in [(true, true), (true, false), (false, true)] {
        let by = |signed: bool| signed.then_some(&scene.key);
        let one = scene.on(&[before], by(first), "side one");
        let two = scene.on(&[one], by(second), "side two");
        for parents in [[base, two], [two, base]] {
            let merge = scene.signed(&parents, "merge");
            match (first, second) {
                (true, true) => scene.accepts(merge),
                (false, _) => scene.refuses(merge, one, &["1 commit carries"]),
                (_, false) => scene.refuses(merge, two, &["1 commit carries"]),
            }
        }
    }
    // A history of its own is new as a whole.
    let orphan = scene.on(&[], None, "another root");
    scene.refuses(scene.signed(&[base, orphan], "merge"), orphan, &["1 commit carries"]);
    scene.accepts(scene.signed(&[base, scene.signed(&[], "a signed root")], "merge"));
}

#[test]
fn old_unsigned_history_behind_a_side_branch_is_not_held_against_it() {
    // 200 unsigned commits, then signed ones. Side branches leave far back, near, and at the root.
    let scene = Scene::new();
    let mut line = vec![scene.repo.resolve("HEAD~1")];
    for number in 0..200 {
        line.push(scene.on(&[line[number]], None, &format!("old {number}")));
    }
    let accepted = scene.signed(&[line[200]], "accepted");
    let state = accept(&scene.repo, accepted, &scene.trust, None).state().clone();
    let scene = Scene { state, ..scene };
    for start in [200, 199, 150, 20, 0] {
        let side = scene.signed(&[line[start]], "side");
        let mut tip = accepted;
        for number in 0..3 {
            tip = scene.signed(&[tip], &format!("new {number}"));
        }
        scene.accepts(scene.signed(&[tip, side], "merge"));
        let side = scene.on(&[line[start]], None, "unsigned side");
        scene.refuses(scene.signed(&[tip, side], "merge"), side, &["1 commit carries"]);
    }
    // An old commit merged again brings nothing new.
    scene.accepts(scene.signed(&[accepted, line[100]], "merge of the past"));
}

#[test]
fn a_twin_of_the_accepted_commit_is_the_accepted_commit() {
    let (repo, key) = (Repo::new(), Key::made(&["-t", "ecdsa", "-b", "256"], "ann"));
    let trusted = trust_with(&[&key], "verify = \"all-since-trusted\"");
    repo.commit("unsigned", None);
    let genuine = repo.commit("one", Some(&key));
    let twin = super::history::twin_of(&repo, genuine);
    let state = accept(&repo, twin, &trusted, None).state().clone();
    accept(&repo, repo.commit("two", Some(&key)), &trusted, Some(&state));
}

#[test]
fn rolled_back_and_rewritten_are_told_as_ever() {
    let scene = Scene::new();
    let old = scene.state.commit;
    let state = accept(&scene.repo, scene.signed(&[old], "new"), &scene.trust, Some(&scene.state)).state().clone();
    assert_code(&judge(&scene.repo, old, &scene.trust, Some(&state)), "rolled-back");
    let beside = scene.signed(&[old], "beside");
    assert_code(&judge(&scene.repo, beside, &scene.trust, Some(&state)), "rewritten");
}

#[test]
fn a_key_that_was_taken_away_counts_for_no_commit_between() {
    let (repo, old, new) = (Repo::new(), Key::new("old"), Key::new("new"));
    let all = "verify = \"all-since-trusted\"";
    let both = trust_with(&[&old, &new], all);
    let state = accept(&repo, repo.commit("first", Some(&new)), &both, None).state().clone();
    let between = repo.commit("between", Some(&old));
    let tip = repo.commit("tip", Some(&new));
    accept(&repo, tip, &both, Some(&state));
    let verdict = judge(&repo, tip, &trust_with(&[&new], all), Some(&state));
    assert_code(&verdict, "unvouched");
    assert!(verdict.to_string().contains(&between.to_string()), "{verdict}");
}

#[test]
fn the_bound_of_commits_holds_in_this_mode_too() {
    let scene = Scene::new();
    let mut stream = format!("reset refs/heads/main\nfrom {}\n\n", scene.state.commit);
    stream.extend((1..=MAX_COMMITS).map(super::history::commit_for_import));
    scene.repo.feed(&["fast-import", "--quiet", "--force"], stream.as_bytes());
    let tip = scene.signed(&[scene.repo.resolve("main")], "too far");
    let verdict = judge(&scene.repo, tip, &scene.trust, Some(&scene.state));
    assert_code(&verdict, "too-far");
    assert!(verdict.to_string().contains("20000"), "{verdict}");
}
