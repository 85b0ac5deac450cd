//! Attacks with commits that are genuine, in another order than the signer meant.

use trimtab::trust::ancestry::MAX_COMMITS;
use trimtab::trust::state::TrustState;
use trimtab_model::digest::Digest;
use trimtab_tests::git::{Counted, Key, Repo, armor, dearmor, header_of, insert, payload, strings};

use super::{NOW, accept, assert_code, judge, trust, trust_with};

#[test]
fn r01_the_first_the_same_and_the_next_commit_are_taken() {
    let (repo, key) = (Repo::new(), Key::new("ann"));
    let trust = trust(&[&key]);
    repo.write("fleet.toml", "format = 1\n");
    let one = repo.commit("one", Some(&key));
    let first = accept(&repo, one, &trust, None);
    assert!(first.is_first());
    assert_eq!((first.commit(), first.tree()), (one, repo.resolve("HEAD^{tree}")));
    assert_eq!(first.signer().name, "ann");
    let state = TrustState::from_text(&first.state().to_text()).unwrap();
    assert_eq!((state.branch.as_str(), state.accepted_at, state.payload), ("refs/heads/main", NOW, first.payload()));

    let same = judge(&repo, one, &trust, Some(&state));
    assert_code(&same, "unchanged");
    assert_eq!(same.proven().unwrap().state(), &state);

    for number in 0..3 {
        repo.commit(&format!("between {number}"), None);
    }
    let next = accept(&repo, repo.commit("next", Some(&key)), &trust, Some(&state));
    assert!(!next.is_first());
}

#[test]
fn c03_rollback_to_an_older_signed_commit() {
    let (repo, key) = (Repo::new(), Key::new("ann"));
    let trust = trust(&[&key]);
    let old = repo.commit("old", Some(&key));
    repo.commit("between", None);
    let older = repo.commit("older", Some(&key));
    for number in 0..30 {
        repo.commit(&format!("between {number}"), None);
    }
    let state = accept(&repo, repo.commit("new", Some(&key)), &trust, None).state().clone();
    assert_code(&judge(&repo, older, &trust, Some(&state)), "rolled-back");
    assert_code(&judge(&repo, old, &trust, Some(&state)), "rolled-back");
}

#[test]
fn c06_teleport_to_a_sibling_branch() {
    let (repo, key) = (Repo::new(), Key::new("ann"));
    let trust = trust(&[&key]);
    repo.commit("base", Some(&key));
    repo.git(&["branch", "other"]);
    let state = accept(&repo, repo.commit("main", Some(&key)), &trust, None).state().clone();
    repo.git(&["checkout", "--quiet", "other"]);
    assert_code(&judge(&repo, repo.commit("sibling", Some(&key)), &trust, Some(&state)), "rewritten");
}

#[test]
fn a_rewritten_branch_is_told_after_few_commits() {
    let (repo, key) = (Repo::new(), Key::new("ann"));
    let trust = trust(&[&key]);
    let stream: String = (1..=1000).map(commit_for_import).collect();
    repo.feed(&["fast-import", "--quiet"], stream.as_bytes());
    let base = repo.resolve("main");
    let tree = repo.resolve("main^{tree}");
    let state = accept(&repo, repo.signed(&key, tree, &[base], "main"), &trust, None).state().clone();
    let amended = repo.signed(&key, tree, &[base], "amended");
    let mut source = Counted::new(repo.source());
    assert_code(&trimtab::trust::prove::prove(amended, &mut source, &trust, Some(&state), NOW), "rewritten");
    assert!(source.calls.len() < 120, "{}", source.calls.len());
}

#[test]
fn c07_staging_ahead_of_main_is_taken_without_a_trailer() {
    // The documented hole of commit mode: `trailer` closes it.
    let (repo, key) = (Repo::new(), Key::new("ann"));
    let trust = trust(&[&key]);
    let state = accept(&repo, repo.commit("main", Some(&key)), &trust, None).state().clone();
    repo.git(&["checkout", "--quiet", "-b", "staging"]);
    accept(&repo, repo.commit("staging", Some(&key)), &trust, Some(&state));
}

#[test]
fn c07c_staging_ahead_of_main_is_refused_with_a_trailer() {
    let (repo, key) = (Repo::new(), Key::new("ann"));
    let trust = trust_with(&[&key], "trailer = \"production\"");
    let good = repo.commit("main\n\nWhy.\n\nTrimtab-Channel: production\nSigned-off-by: a", Some(&key));
    let state = accept(&repo, good, &trust, None).state().clone();
    for message in [
        "no trailer",
        "other\n\nTrimtab-Channel: staging",
        "in the text\n\nTrimtab-Channel: production\n\nand on",
        "Trimtab-Channel: production",
        "longer\n\nTrimtab-Channel: production-2",
        "other name\n\nX-Trimtab-Channel: production",
    ] {
        let verdict = judge(&repo, repo.commit(message, Some(&key)), &trust, Some(&state));
        assert_code(&verdict, "wrong-channel");
        assert_eq!(verdict.to_string().contains("staging"), message.contains("staging"), "{verdict}");
    }
}

#[test]
fn c08_a_signed_tip_over_unsigned_and_foreign_ancestors_is_taken() {
    let (repo, key, stranger) = (Repo::new(), Key::new("ann"), Key::new("eve"));
    let trust = trust(&[&key]);
    let state = accept(&repo, repo.commit("one", Some(&key)), &trust, None).state().clone();
    repo.commit("unsigned", None);
    repo.commit("foreign", Some(&stranger));
    accept(&repo, repo.commit("tip", Some(&key)), &trust, Some(&state));
}

#[test]
fn a_merge_descends_from_each_of_its_parents() {
    let (repo, key) = (Repo::new(), Key::new("ann"));
    let trust = trust(&[&key]);
    repo.commit("base", Some(&key));
    repo.git(&["branch", "other"]);
    let main = accept(&repo, repo.commit("main", Some(&key)), &trust, None).state().clone();
    repo.git(&["checkout", "--quiet", "other"]);
    let other = accept(&repo, repo.commit("other", Some(&key)), &trust, None).state().clone();
    let signing = format!("user.signingkey={}", key.path().display());
    repo.git(&["-c", &signing, "merge", "--quiet", "-S", "-m", "merge", "main"]);
    let merge = repo.head();
    accept(&repo, merge, &trust, Some(&main));
    accept(&repo, merge, &trust, Some(&other));
}

#[test]
fn c14_another_repository_of_the_same_signer() {
    // Before the first contact nothing tells the two apart in commit mode; afterwards descent does.
    let (repo, foreign, key) = (Repo::new(), Repo::new(), Key::new("ann"));
    let trust = trust(&[&key]);
    let state = accept(&repo, repo.commit("ours", Some(&key)), &trust, None).state().clone();
    let theirs = foreign.commit("theirs", Some(&key));
    // The source of that repository does not have our commit: it still is a rewritten branch, and not "try again".
    assert_code(&judge(&foreign, theirs, &trust, Some(&state)), "rewritten");
}

#[test]
fn c15_a_removed_key_stops_counting_whatever_date_it_writes() {
    let (repo, old, new) = (Repo::new(), Key::new("old"), Key::new("new"));
    let both = trust(&[&old, &new]);
    let rotated = trust(&[&new]);
    let force = repo.commit("by the old key", Some(&old));
    let state = accept(&repo, force, &both, None).state().clone();
    assert_code(&judge(&repo, force, &rotated, Some(&state)), "unknown-signer");

    let text = payload(repo.resolve("HEAD^{tree}"), &[force], "back-dated");
    let text = String::from_utf8(text).unwrap().replace("1800000000", "1500000000").into_bytes();
    let dated = repo.object("commit", &insert(&text, "gpgsig", &old.sign("git", &text)));
    assert_code(&judge(&repo, dated, &rotated, Some(&state)), "unknown-signer");
    accept(&repo, dated, &both, Some(&state));

    let next = accept(&repo, repo.commit("by the new key", Some(&new)), &rotated, Some(&state));
    assert_eq!(next.signer().name, "new");
}

#[test]
fn c12_an_ecdsa_twin_does_not_shut_out_the_genuine_children() {
    let (repo, key) = (Repo::new(), Key::made(&["-t", "ecdsa", "-b", "256"], "ann"));
    let trust = trust(&[&key]);
    let genuine = repo.commit("one", Some(&key));
    let twin = twin_of(&repo, genuine);
    assert_ne!(genuine, twin);
    let child = repo.commit("two", Some(&key));

    // The host is fed the twin first: the genuine commit and its child are still taken.
    let fed = accept(&repo, twin, &trust, None).state().clone();
    assert_code(&judge(&repo, genuine, &trust, Some(&fed)), "unchanged");
    accept(&repo, child, &trust, Some(&fed));

    // C12b: the host has the genuine one, and is served the twin: nothing changes, and its state does not move.
    let state = accept(&repo, genuine, &trust, None).state().clone();
    let served = judge(&repo, twin, &trust, Some(&state));
    assert_code(&served, "unchanged");
    assert_eq!(served.proven().unwrap().state(), &state);
    accept(&repo, child, &trust, Some(&state));
    // Back from the child to the twin is still going back.
    let state = accept(&repo, child, &trust, Some(&state)).state().clone();
    assert_code(&judge(&repo, twin, &trust, Some(&state)), "rolled-back");
}

/// The same commit with the signature (r, n - s) in the place of (r, s), which everybody can compute.
pub(super) fn twin_of(repo: &Repo, commit: gix_hash::ObjectId) -> gix_hash::ObjectId {
    const N: &str = "ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551";
    let text = String::from_utf8(repo.content("commit", commit)).unwrap();
    let (start, end) = (text.find("gpgsig ").unwrap(), text.find("-----END SSH SIGNATURE-----\n").unwrap());
    let payload = [&text[..start], &text[end + "-----END SSH SIGNATURE-----\n".len()..]].concat();
    let blob = dearmor(text[start + "gpgsig ".len()..end].replace("\n ", "\n").as_bytes());
    // The last string of the last string is s.
    let string = |bytes: &[u8]| {
        let length = usize::try_from(u32::from_be_bytes(bytes[..4].try_into().unwrap())).unwrap();
        (bytes[4..4 + length].to_vec(), bytes[4 + length..].to_vec())
    };
    let (head, mut rest) = (&blob[..10], blob[10..].to_vec());
    let mut fields = Vec::new();
    while !rest.is_empty() {
        let (field, after) = string(&rest);
        fields.push(field);
        rest = after;
    }
    let (algorithm, numbers) = string(&fields[4]);
    let (r, s) = string(&string(&numbers).0);
    let (s, _) = string(&s);
    let mut number = [vec![0; 33 - s.len()], s].concat().split_off(1);
    let n: Vec<u8> = (0..32).map(|at| u8::from_str_radix(&N[2 * at..2 * at + 2], 16).unwrap()).collect();
    let mut borrow = 0;
    for (digit, n) in number.iter_mut().zip(&n).rev() {
        let difference = i16::from(*n) - i16::from(*digit) - borrow;
        borrow = i16::from(difference < 0);
        *digit = u8::try_from(difference.rem_euclid(256)).unwrap();
    }
    let r = [vec![0; 33 - r.len()], r].concat().split_off(1);
    let numbers = trimtab_tests::git::integers(&[r, number].concat());
    fields[4] = strings(&[&algorithm, &numbers]);
    let parts: Vec<&[u8]> = fields.iter().map(Vec::as_slice).collect();
    let armor = armor(&[head, &strings(&parts)].concat());
    repo.object("commit", &insert(payload.as_bytes(), header_of(commit), &armor))
}

pub(super) fn commit_for_import(number: usize) -> String {
    let message = format!("commit {number}\n");
    format!("commit refs/heads/main\ncommitter A <a@b> 1800000000 +0000\ndata {}\n{message}\n", message.len())
}

#[test]
fn every_distance_is_found_and_told() {
    let (repo, key) = (Repo::new(), Key::new("ann"));
    let trust = trust(&[&key]);
    repo.feed(&["fast-import", "--quiet"], (1..=150).map(commit_for_import).collect::<String>().as_bytes());
    let ids: Vec<_> = repo.git(&["rev-list", "main"]).lines().map(trimtab_tests::git::id).collect();
    let tip = repo.signed(&key, repo.resolve("main^{tree}"), &[ids[0]], "tip");
    let mut source = repo.source();
    let state = accept(&repo, tip, &trust, None).state().clone();
    let mut judge = |tip, state: &TrustState| trimtab::trust::prove::prove(tip, &mut source, &trust, Some(state), NOW);
    for (distance, id) in ids.iter().enumerate() {
        // As if that commit had been accepted.
        let bytes = repo.content("commit", *id);
        let mut was = state.clone();
        (was.commit, was.payload) = (*id, Digest::of(&bytes));
        assert_eq!(judge(tip, &was).code(), "accepted", "{distance}");
    }
    for (distance, id) in ids.iter().enumerate().step_by(17) {
        let old = repo.signed(&key, repo.resolve("main^{tree}"), &[*id], "beside");
        assert_eq!(judge(old, &state).code(), "rewritten", "{distance}");
    }
}

#[test]
fn the_walk_back_ends_at_its_bound() {
    let (repo, key) = (Repo::new(), Key::new("ann"));
    let trust = trust(&[&key]);
    let first = repo.commit("first", Some(&key));
    let state = accept(&repo, first, &trust, None).state().clone();
    // From the first to the tip: exactly the bound, and one more.
    let mut stream = format!("reset refs/heads/main\nfrom {first}\n\n");
    stream.extend((1..=MAX_COMMITS).map(commit_for_import));
    repo.feed(&["fast-import", "--quiet", "--force"], stream.as_bytes());
    let (tree, last) = (repo.resolve("main^{tree}"), repo.resolve("main"));
    accept(&repo, repo.signed(&key, tree, &[repo.resolve("main~1")], "near enough"), &trust, Some(&state));
    assert_code(&judge(&repo, repo.signed(&key, tree, &[last], "too far"), &trust, Some(&state)), "too-far");
}
