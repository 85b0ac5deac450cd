//! Attacks on the chain of roots: who may say whose keys count.

use trimtab::trust::decide::decide;
use trimtab::trust::keys::TrustConfig;
use trimtab::trust::memory::Memory;
use trimtab::trust::policy::RootFile;
use trimtab_tests::git::Repo;
use trimtab_tests::release::{Hand, Mini, REPO_ID, RootText, Say};

use super::releases::{DAY, Fleet, kept, place};
use super::{NOW, assert_code};

impl Fleet {
    /// Puts the next root into the tree and releases it; what a host with this memory makes of it.
    #[track_caller]
    fn rotates(&self, root: &RootText<'_>, hands: &[Hand<'_>], memory: &Memory, code: &str) -> Memory {
        root.write(&self.repo, hands);
        self.repo.commit("the next root", None);
        let judged = self.judge(self.release(9), memory, kept(NOW));
        assert_code(&judged.verdict, code);
        judged.memory.unwrap_or_else(|| memory.clone())
    }
}

fn version(memory: &Memory) -> u64 {
    memory.root.as_ref().map_or(0, |file| file.root.version)
}

/// A root that follows, otherwise the same.
fn next<'k>(root: &RootText<'k>) -> RootText<'k> {
    RootText { version: root.version + 1, ..root.clone() }
}

#[test]
fn a_rotation_is_followed_and_the_old_key_counts_no_more() {
    let fleet = Fleet::new();
    let people = &fleet.people;
    let memory = fleet.accept(fleet.release(1), &Memory::default(), kept(NOW));
    // bob leaves, ci's key comes in his place.
    let all: &[&str] = &["ann", "safe", "ci"];
    let keys = [("ann", people.ann()), ("safe", people.safe()), ("ci", people.ci())];
    let root = RootText { version: 2, ..RootText::new(&keys, &[("root", 2, all), ("release.production", 2, all)]) };
    root.write(&fleet.repo, &[people.ann(), people.safe()]);
    fleet.repo.commit("two", None);
    // R25: with the root that comes with it, the release is judged: bob counts for nobody.
    let by_bob = Say { root: 2, ..Say::of(&fleet.repo, "production", (1, 2)) };
    let judged = fleet.judge(by_bob.release(&fleet.repo, &[people.ann(), people.bob()]), &memory, kept(NOW));
    assert_code(&judged.verdict, "below-threshold");
    // The root is believed all the same, and the release before stays what was accepted.
    let memory = judged.memory.unwrap();
    assert_eq!((version(&memory), place(&memory)), (2, (1, 1)));
    let memory = fleet.accept(by_bob.release(&fleet.repo, &[people.ann(), people.ci()]), &memory, kept(NOW));
    assert_eq!((version(&memory), place(&memory)), (2, (1, 2)));
    // R32: a tree without root 2, by those who counted under root 1.
    fleet.repo.git(&["checkout", "--quiet", "HEAD~1"]);
    let hidden = Say::of(&fleet.repo, "production", (1, 3));
    let judged = fleet.judge(hidden.release(&fleet.repo, &[people.ann(), people.bob()]), &memory, kept(NOW));
    assert_code(&judged.verdict, "below-threshold");
    let memory = fleet.accept(hidden.release(&fleet.repo, &[people.ann(), people.ci()]), &memory, kept(NOW));
    assert_eq!(version(&memory), 2, "never back");
}

#[test]
fn r22_r23_a_rotation_by_too_few_or_by_others() {
    let fleet = Fleet::new();
    let (people, memory) = (&fleet.people, Memory::default());
    let root = next(&people.root());
    fleet.rotates(&root, &[people.ann()], &memory, "root-below-threshold");
    fleet.rotates(&root, &[people.ann(), people.ann()], &memory, "root-below-threshold");
    fleet.rotates(&root, &[people.eve(), people.ci()], &memory, "root-unknown-signer");
    fleet.rotates(&root, &[], &memory, "root-malformed");
    let kept = fleet.rotates(&root, &[people.ann(), people.eve(), people.bob()], &memory, "accepted");
    assert_eq!(version(&kept), 2);
}

#[test]
fn the_new_keys_must_have_signed_too() {
    let fleet = Fleet::new();
    let people = &fleet.people;
    let fresh = Mini::new();
    let keys = [("ann", people.ann()), ("new", Hand::Mini(&fresh))];
    let both: &[&str] = &["ann", "new"];
    let root = RootText { version: 2, ..RootText::new(&keys, &[("root", 2, both), ("release.production", 1, both)]) };
    let memory = Memory::default();
    fleet.rotates(&root, &[people.ann(), people.bob()], &memory, "root-below-threshold");
    fleet.rotates(&root, &[Hand::Mini(&fresh), people.ann()], &memory, "root-below-threshold");
    let memory = fleet.rotates(&root, &[people.ann(), people.bob(), Hand::Mini(&fresh)], &memory, "accepted");
    assert_eq!(version(&memory), 2);
}

#[test]
fn r24_versions_repositories_and_epochs_of_roots() {
    let fleet = Fleet::new();
    let people = &fleet.people;
    let hands = [people.ann(), people.bob()];
    let root = next(&people.root());
    // A version is left out.
    let third = RootText { version: 3, ..root.clone() };
    fleet.rotates(&third, &hands, &Memory::default(), "root-version");
    // A file that says that it is another version, and no other that would show it.
    std::fs::remove_file(fleet.repo.path().join(".trimtab/root/3.toml")).unwrap();
    fleet.repo.write(".trimtab/root/2.toml", third.text());
    fleet.repo.write(".trimtab/root/2.sig", third.signatures(&hands));
    fleet.repo.commit("renamed", None);
    assert_code(&fleet.judge(fleet.release(1), &Memory::default(), kept(NOW)).verdict, "root-version");
    // Of another repository, by the same people.
    let other = RootText { repo: REPO_ID.replace("1b4e", "2b4e"), ..root.clone() };
    fleet.rotates(&other, &hands, &Memory::default(), "root-wrong-repository");
    // Altered after signing.
    root.write(&fleet.repo, &hands);
    fleet.repo.write(".trimtab/root/2.toml", root.text().replace("threshold = 2", "threshold = 1"));
    fleet.repo.commit("altered", None);
    assert_code(&fleet.judge(fleet.release(1), &Memory::default(), kept(NOW)).verdict, "root-forged");
    // Signed for another purpose: as a release is.
    let mut blocks = people.ann().block("git", root.text().as_bytes());
    blocks.extend(people.bob().block("git", root.text().as_bytes()));
    fleet.repo.write(".trimtab/root/2.toml", root.text());
    fleet.repo.write(".trimtab/root/2.sig", blocks);
    fleet.repo.commit("purpose", None);
    assert_code(&fleet.judge(fleet.release(1), &Memory::default(), kept(NOW)).verdict, "root-forged");
    // No signatures, and more than a root may be.
    std::fs::remove_file(fleet.repo.path().join(".trimtab/root/2.sig")).unwrap();
    fleet.repo.commit("no signatures", None);
    assert_code(&fleet.judge(fleet.release(1), &Memory::default(), kept(NOW)).verdict, "root-unsigned");
    fleet.repo.write(".trimtab/root/2.toml", "#".repeat(65 << 10));
    fleet.repo.commit("large", None);
    assert_code(&fleet.judge(fleet.release(1), &Memory::default(), kept(NOW)).verdict, "root-malformed");
    // An epoch never goes back.
    let raised = RootText { epoch: 2, ..root.clone() };
    let mut memory = fleet.rotates(&raised, &hands, &Memory::default(), "rolled-back");
    assert_eq!(version(&memory), 2);
    let lowered = RootText { version: 3, epoch: 1, ..root };
    memory = fleet.rotates(&lowered, &hands, &memory, "root-epoch");
    assert_eq!(version(&memory), 2);
}

#[test]
fn r26_r27_a_thief_and_the_way_back() {
    let fleet = Fleet::new();
    let people = &fleet.people;
    let hands = [people.ann(), people.bob()];
    // R27a: with a threshold of stolen keys he takes the largest number there is, and says that it is 2099.
    let mut last = Say::of(&fleet.repo, "production", (1, (1 << 63) - 1));
    last.times = ("2099-01-01T00:00:00Z".into(), "2099-12-31T00:00:00Z".into());
    let loose = trimtab::trust::memory::Moment { clock: NOW, synchronised: false };
    let memory = fleet.accept(last.release(&fleet.repo, &hands), &Memory::default(), loose);
    assert_code(&fleet.judge(fleet.release(5), &memory, kept(NOW)).verdict, "rolled-back");
    // R27b: root 2 raises the epoch; ann's and bob's keys are replaced.
    let fresh = Mini::new();
    let keys = [("safe", people.safe()), ("ci", people.ci()), ("new", Hand::Mini(&fresh))];
    let all: &[&str] = &["safe", "ci", "new"];
    let roles: &[(&str, usize, &[&str])] = &[("root", 2, all), ("release.production", 2, all)];
    let root = RootText { version: 2, epoch: 2, ..RootText::new(&keys, roles) };
    root.write(&fleet.repo, &[people.safe(), people.ann(), Hand::Mini(&fresh)]);
    fleet.repo.commit("after the theft", None);
    let say = Say { root: 2, ..Say::of(&fleet.repo, "production", (2, 1)) };
    let after = fleet.accept(say.release(&fleet.repo, &[people.safe(), people.ci()]), &memory, loose);
    assert_eq!((place(&after), version(&after)), ((2, 1), 2));
    // What the thief said of time counts no more: the next one, made today, is not too old.
    let next = Say { place: (2, 2), ..say.clone() };
    let after = fleet.accept(next.release(&fleet.repo, &[people.safe(), Hand::Mini(&fresh)]), &after, loose);
    // R26: the epoch before, by the old keys and by keys that still count.
    assert_code(&fleet.judge(last.release(&fleet.repo, &hands), &after, kept(NOW)).verdict, "unknown-signer");
    let old = Say { place: (1, 6), ..say };
    assert_code(&fleet.judge(old.release(&fleet.repo, &[people.safe(), people.ci()]), &after, kept(NOW)).verdict, "rolled-back");
}

#[test]
fn a_host_that_slept_for_years_catches_up_in_one_poll() {
    let fleet = Fleet::new();
    let people = &fleet.people;
    let memory = fleet.accept(fleet.release(1), &Memory::default(), kept(NOW));
    let mut root = people.root();
    for _ in 0..30 {
        root = next(&root);
        root.write(&fleet.repo, &[people.ann(), people.safe()]);
    }
    fleet.repo.commit("thirty rotations", None);
    let tag = Say { root: 31, ..Say::of(&fleet.repo, "production", (1, 2)) }.release(&fleet.repo, &[people.ann(), people.bob()]);
    let mut counted = trimtab_tests::git::Counted::new(fleet.repo.source());
    let judged = decide(tag, None, &mut counted, &fleet.trust(""), &memory, kept(NOW));
    assert_code(&judged.verdict, "accepted");
    assert_eq!(version(judged.memory.as_ref().unwrap()), 31);
    // The tag, its commit, three folders, all texts, all signatures.
    assert_eq!(counted.calls.len(), 7, "{:?}", counted.calls);
}

#[test]
fn a_root_pinned_by_its_digest_is_taken_from_the_tree() {
    let fleet = Fleet::new();
    let (tag, root) = (fleet.release(1), fleet.people.root().text());
    let digest = RootFile::parse("1.toml", &root).unwrap().digest();
    let trust = |digest: &str, repo: &str| {
        let text = format!("mode = \"release\"\nchannel = \"production\"\nrepo = \"{repo}\"\nroot-digest = \"{digest}\"\n");
        TrustConfig::parse("trust.toml", &text).unwrap()
    };
    let judged = fleet.judge_with(&trust(&digest.to_string(), REPO_ID), tag, &Memory::default(), kept(NOW));
    assert_code(&judged.verdict, "accepted");
    let memory = judged.memory.unwrap();
    assert_eq!(memory.root.as_ref().unwrap().text, root);
    let other = format!("sha256:{}", "0b".repeat(32));
    assert_code(&fleet.judge_with(&trust(&other, REPO_ID), tag, &Memory::default(), kept(NOW)).verdict, "root-not-found");
    let elsewhere = REPO_ID.replace("1b4e", "2b4e");
    let text = format!("mode = \"release\"\nchannel = \"production\"\nrepo = \"{elsewhere}\"\nroot = \"root.toml\"\n");
    let foreign = TrustConfig::parse("trust.toml", &text).unwrap().with_root("root.toml", &root).unwrap_err().draw(false);
    assert!(foreign.contains("of another repository") && foreign.contains(&elsewhere), "{foreign}");
    // Whoever signed for it, and also on a host that has believed that root before.
    let foreign = Say { repo: elsewhere.clone(), ..Say::of(&fleet.repo, "production", (1, 2)) };
    let foreign = foreign.release(&fleet.repo, &[fleet.people.ann(), fleet.people.bob()]);
    for (tag, memory) in [(tag, &Memory::default()), (foreign, &Memory::default()), (foreign, &memory)] {
        let judged = fleet.judge_with(&trust(&digest.to_string(), &elsewhere), tag, memory, kept(NOW));
        assert_code(&judged.verdict, "root-wrong-repository");
    }
}

#[test]
fn who_signs_commits_of_one_branch_signs_none_of_another() {
    let (repo, fleet) = (Repo::new(), Fleet::new());
    let people = &fleet.people;
    let mut root = people.root();
    root.roles.push(("commit.staging", 0, vec!["bob"]));
    root.write(&repo, &[people.ann(), people.safe()]);
    let text = format!("mode = \"commit\"\nbranch = \"main\"\nrepo = \"{REPO_ID}\"\nroot = \"root.toml\"\n");
    for (branch, by_ann, by_bob) in [("main", "accepted", "unknown-signer"), ("staging", "unknown-signer", "accepted")] {
        let trust = TrustConfig::parse("trust.toml", &text.replace("main", branch)).unwrap();
        let trust = trust.with_root("root.toml", &root.text()).unwrap();
        for (key, code) in [(&people.ann, by_ann), (&people.bob, by_bob)] {
            let tip = repo.commit(branch, Some(key));
            assert_code(&decide(tip, None, &mut repo.source(), &trust, &Memory::default(), kept(NOW)).verdict, code);
        }
    }
}

#[test]
fn commit_mode_takes_its_keys_from_the_root() {
    let (repo, fleet) = (Repo::new(), Fleet::new());
    let people = &fleet.people;
    let text = format!("mode = \"commit\"\nbranch = \"main\"\nrepo = \"{REPO_ID}\"\nroot = \"root.toml\"\n");
    let trust = TrustConfig::parse("trust.toml", &text).unwrap().with_root("root.toml", &people.root().text()).unwrap();
    let judge = |repo: &Repo, memory: &Memory| decide(repo.head(), None, &mut repo.source(), &trust, memory, kept(NOW));
    people.root().write(&repo, &[people.ann(), people.safe()]);
    repo.commit("one", Some(&people.ann));
    let judged = judge(&repo, &Memory::default());
    assert_code(&judged.verdict, "accepted");
    let memory = Memory::from_text(&judged.memory.unwrap().to_text()).unwrap();
    assert_eq!(version(&memory), 1);
    // A person has another repository followed, and leaves the pin as it was: what is remembered says nothing about that one.
    let digest = memory.root.as_ref().unwrap().digest();
    let elsewhere = text.replace("1b4e", "2b4e").replace("root = \"root.toml\"", &format!("root-digest = \"{digest}\""));
    let elsewhere = TrustConfig::parse("trust.toml", &elsewhere).unwrap();
    let judged = decide(repo.head(), None, &mut repo.source(), &elsewhere, &memory, kept(NOW));
    assert_code(&judged.verdict, "root-wrong-repository");
    // C15: bob takes over from ann; she signs once more, back-dated or not.
    // A tree from which the next root was taken away, so that who counts no more since goes on counting.
    let hidden = RootText { version: 3, ..people.root() };
    hidden.write(&repo, &[people.ann(), people.safe()]);
    repo.commit("root 3 without root 2", Some(&people.ann));
    assert_code(&judge(&repo, &memory).verdict, "root-version");
    repo.git(&["reset", "--quiet", "--hard", "HEAD~1"]);
    repo.commit("by bob, too early", Some(&people.bob));
    assert_code(&judge(&repo, &memory).verdict, "unknown-signer");
    let mut root = next(&people.root());
    root.roles.iter_mut().filter(|(name, ..)| *name == "commit.main").for_each(|(_, _, keys)| *keys = vec!["bob"]);
    root.write(&repo, &[people.ann(), people.safe()]);
    repo.commit("by bob", Some(&people.bob));
    let judged = judge(&repo, &memory);
    assert_code(&judged.verdict, "accepted");
    let memory = judged.memory.unwrap();
    repo.commit("by ann", Some(&people.ann));
    assert_code(&judge(&repo, &memory).verdict, "unknown-signer");
    // C14: another repository of the same people, and a tree without any root.
    let other = Repo::new();
    RootText { repo: REPO_ID.replace("1b4e", "2b4e"), ..people.root() }.write(&other, &[people.ann(), people.safe()]);
    other.commit("one", Some(&people.ann));
    assert_code(&judge(&other, &Memory::default()).verdict, "root-wrong-repository");
    let bare = Repo::new();
    bare.commit("one", Some(&people.ann));
    assert_code(&judge(&bare, &Memory::default()).verdict, "root-wrong-repository");
    let _ = DAY;
}
