//! Attacks with commits that nobody signed, that somebody else signed, or that were altered around their signature.

use trimtab::trust::Class;
use trimtab_tests::git::{Key, Repo, armor_folded, dearmor, insert, payload};

use super::{accept, assert_code, judge, judge_bytes, trust};

/// A signed commit in its parts: repository, key, the bytes that are signed, the armor.
fn signed() -> (Repo, Key, Vec<u8>, Vec<u8>) {
    let (repo, key) = (Repo::new(), Key::new("ann"));
    let payload = payload(repo.tree(&[]), &[], "message");
    let armor = key.sign("git", &payload);
    (repo, key, payload, armor)
}

#[track_caller]
fn assert_malformed(repo: &Repo, key: &Key, commit: &[u8], why: &str) {
    let verdict = judge(repo, repo.object("commit", commit), &trust(&[key]), None);
    assert_code(&verdict, "malformed");
    assert_eq!(verdict.class(), Some(Class::Hold));
    assert!(verdict.to_string().contains(why), "{verdict}");
}

#[test]
fn what_is_put_together_here_is_what_git_writes() {
    let (repo, key, payload, armor) = signed();
    let commit = repo.object("commit", &insert(&payload, "gpgsig", &armor));
    accept(&repo, commit, &trust(&[&key]), None);
    repo.write("signers", format!("ann@example.org {}\n", key.line()));
    repo.git(&["-c", "gpg.ssh.allowedSignersFile=signers", "verify-commit", &commit.to_string()]);
}

#[test]
fn c04_unsigned_on_top() {
    let (repo, key) = (Repo::new(), Key::new("ann"));
    let trust = trust(&[&key]);
    let state = accept(&repo, repo.commit("one", Some(&key)), &trust, None).state().clone();
    let tip = repo.commit("two", None);
    assert_code(&judge(&repo, tip, &trust, Some(&state)), "unsigned");
    assert_code(&judge(&repo, tip, &trust, None), "unsigned");
}

#[test]
fn c05_a_stranger_on_top() {
    let (repo, key, stranger) = (Repo::new(), Key::new("ann"), Key::new("eve"));
    let trust = trust(&[&key]);
    let state = accept(&repo, repo.commit("one", Some(&key)), &trust, None).state().clone();
    let verdict = judge(&repo, repo.commit("two", Some(&stranger)), &trust, Some(&state));
    assert_code(&verdict, "unknown-signer");
    let fingerprint = trimtab::trust::pubkey::Fingerprint::of(&stranger.blob()).to_string();
    assert!(verdict.to_string().contains(&fingerprint), "{verdict}");
}

#[test]
fn c10_armor_folded_anew() {
    let (repo, key, payload, armor) = signed();
    let blob = dearmor(&armor);
    assert_eq!(armor_folded(&blob, 70), armor);
    for columns in [40, 64, 76, 4000] {
        assert_malformed(&repo, &key, &insert(&payload, "gpgsig", &armor_folded(&blob, columns)), "folded");
    }
    let spaced = String::from_utf8(armor.clone()).unwrap().replace("-----END", "\n-----END");
    assert_malformed(&repo, &key, &insert(&payload, "gpgsig", spaced.as_bytes()), "folded");
    let trailing = String::from_utf8(armor).unwrap() + "x\n";
    assert_malformed(&repo, &key, &insert(&payload, "gpgsig", trailing.as_bytes()), "armor");
}

#[test]
fn c11a_a_stray_header_that_git_leaves_out_of_what_it_verifies() {
    let (repo, key, payload, armor) = signed();
    let genuine = insert(&payload, "gpgsig", &armor);
    // Behind the signature, and before it.
    let behind = insert(&genuine, "gpgsigX-evil", b"payload");
    assert_malformed(&repo, &key, &behind, "follows the signature");
    let before = insert(&insert(&payload, "gpgsigX-evil", b"payload"), "gpgsig", &armor);
    assert_malformed(&repo, &key, &before, "second signature header");
    // git itself calls it good: this is why we look ourselves.
    let commit = repo.object("commit", &behind);
    repo.write("signers", format!("ann@example.org {}\n", key.line()));
    repo.git(&["-c", "gpg.ssh.allowedSignersFile=signers", "verify-commit", &commit.to_string()]);
}

#[test]
fn c11b_two_signatures() {
    let (repo, key, payload, armor) = signed();
    let genuine = insert(&payload, "gpgsig", &armor);
    assert_malformed(&repo, &key, &insert(&genuine, "gpgsig", &armor), "follows the signature");
    assert_malformed(&repo, &key, &insert(&genuine, "gpgsig-sha256", &armor), "follows the signature");
    assert_malformed(&repo, &key, &insert(&payload, "gpgsig-sha256", &armor), "not of its repository's kind");
    assert_malformed(&repo, &key, &insert(&genuine, "x-note", b"unsigned"), "follows the signature");
}

#[test]
fn c11c_a_nul_byte() {
    let (repo, key, _, _) = signed();
    let payload = [&payload(repo.tree(&[]), &[], "message")[..], b"\0hidden\n"].concat();
    let commit = insert(&payload, "gpgsig", &key.sign("git", &payload));
    assert_malformed(&repo, &key, &commit, "NUL");
}

#[test]
fn headers_out_of_order_repeated_or_with_carriage_returns() {
    let (repo, key, payload, _) = signed();
    let text = String::from_utf8(payload).unwrap();
    let lines: Vec<_> = text.split_inclusive('\n').collect();
    let author_twice = [lines[0], lines[1], lines[1], lines[2], "\nm\n"].concat();
    let swapped = [lines[0], lines[2], lines[1], "\nm\n"].concat();
    let parent_late = [lines[0], lines[1], lines[2], "parent ", &text[5..45], "\n\nm\n"].concat();
    let carriage = text.replace("+0000\nc", "+0000\r\nc");
    let upper = text.replacen(&text[5..45], &text[5..45].to_uppercase(), 1);
    for odd in [author_twice, swapped, parent_late, carriage, upper] {
        let commit = insert(odd.as_bytes(), "gpgsig", &key.sign("git", odd.as_bytes()));
        assert_malformed(&repo, &key, &commit, "");
    }
}

#[test]
fn an_oversize_commit() {
    let (repo, key) = (Repo::new(), Key::new("ann"));
    let tree = repo.tree(&[]);
    accept(&repo, repo.signed(&key, tree, &[], &"x".repeat(255 << 10)), &trust(&[&key]), None);
    let verdict = judge(&repo, repo.signed(&key, tree, &[], &"x".repeat(256 << 10)), &trust(&[&key]), None);
    assert_code(&verdict, "malformed");
    assert!(verdict.to_string().contains("256 KiB"), "{verdict}");
}

#[test]
fn the_content_altered_under_a_genuine_signature() {
    let (repo, key, payload, armor) = signed();
    let evil = repo.tree(&[("100644", b"fleet.toml", repo.object("blob", b"evil"))]);
    let altered = String::from_utf8(payload).unwrap().replacen(&repo.tree(&[]).to_string(), &evil.to_string(), 1);
    let commit = repo.object("commit", &insert(altered.as_bytes(), "gpgsig", &armor));
    assert_code(&judge(&repo, commit, &trust(&[&key]), None), "forged");
}

#[test]
fn every_byte_of_a_signed_commit_counts() {
    let (_repo, key, payload, armor) = signed();
    let genuine = insert(&payload, "gpgsig", &armor);
    let trust = trust(&[&key]);
    // Under their true id: only the parser and the signature stand in the way.
    for at in 0..genuine.len() {
        let mut altered = genuine.clone();
        altered[at] ^= 1;
        let verdict = judge_bytes(altered, &trust);
        assert!(verdict.proven().is_none(), "byte {at}: {verdict:?}");
    }
}

#[test]
fn an_annotated_tag_is_no_commit() {
    let (repo, key) = (Repo::new(), Key::new("ann"));
    repo.commit("one", Some(&key));
    repo.git(&["tag", "-a", "-m", "tag", "v1"]);
    let verdict = judge(&repo, repo.resolve("v1"), &trust(&[&key]), None);
    assert_code(&verdict, "unavailable");
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { cases: 300, failure_persistence: None, ..Default::default() })]

    // Whatever is cut out, put in or written over: no panic, and nothing is proven.
    #[test]
    fn no_edit_of_a_signed_commit_is_proven(at in 0usize..700, cut in 0usize..80, put in proptest::collection::vec(proptest::num::u8::ANY, 0..80)) {
        static SIGNED: std::sync::OnceLock<(Vec<u8>, String)> = std::sync::OnceLock::new();
        let (genuine, line) = SIGNED.get_or_init(|| {
            let (_, key, payload, armor) = signed();
            (insert(&payload, "gpgsig", &armor), key.line().to_owned())
        });
        let at = at.min(genuine.len());
        let end = (at + cut).min(genuine.len());
        let edited = [&genuine[..at], &put, &genuine[end..]].concat();
        proptest::prop_assume!(edited != *genuine);
        let verdict = judge_bytes(edited, &trust(&[&Key::from_line(line)]));
        proptest::prop_assert!(verdict.proven().is_none(), "{verdict:?}");
    }
}
