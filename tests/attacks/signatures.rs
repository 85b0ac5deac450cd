//! Every kind of key that is taken, and every way to spoil its signature.

use trimtab::trust::keys::TrustConfig;
use trimtab_tests::git::{
    Key, Repo, TOUCHED, armor, command, dearmor, envelope, header_of, insert, payload, run, signature_blob, strings,
};

use super::{accept, assert_code, judge, judge_bytes, trust};

const RSA: [&str; 4] = ["-t", "rsa", "-b", "2048"];

/// A key of each kind that is taken.
fn keys() -> Vec<Key> {
    vec![
        Key::new("ed25519"),
        Key::made(&["-t", "ecdsa", "-b", "256"], "p256"),
        Key::made(&["-t", "ecdsa", "-b", "384"], "p384"),
        Key::made(&RSA, "rsa"),
        Key::sk_ed25519("sk-ed25519"),
        Key::sk_ecdsa("sk-ecdsa"),
    ]
}

/// A commit whose signature is this blob over the payload.
fn verdict_on(repo: &Repo, key: &Key, payload: &[u8], blob: &[u8]) -> trimtab::trust::verdict::Verdict {
    let header = header_of(repo.tree(&[]));
    judge(repo, repo.object("commit", &insert(payload, header, &armor(blob))), &trust(&[key]), None)
}

#[test]
fn every_kind_of_key_is_taken_and_its_tampered_copies_are_not() {
    let (repo, keys) = (Repo::new(), keys());
    let trust = trust(&keys.iter().collect::<Vec<_>>());
    for key in &keys {
        let payload = payload(repo.tree(&[]), &[], "message");
        let armor = key.sign("git", &payload);
        assert!(key.openssh_accepts("git", &payload, &armor), "{}", key.line());
        let commit = repo.object("commit", &insert(&payload, "gpgsig", &armor));
        let proven = accept(&repo, commit, &trust, None);
        assert!(key.line().ends_with(&proven.signer().name));

        let altered = String::from_utf8(payload.clone()).unwrap().replace("message", "massage");
        let commit = repo.object("commit", &insert(altered.as_bytes(), "gpgsig", &armor));
        assert_code(&judge(&repo, commit, &trust, None), "forged");
        // The last byte of the signature proper: for a security key its counter comes behind it.
        let mut blob = dearmor(&armor);
        let last = blob.len() - if key.line().starts_with("sk-") { 6 } else { 1 };
        blob[last] ^= 1;
        assert_code(&verdict_on(&repo, key, &payload, &blob), "forged");
    }
}

#[test]
fn what_git_itself_signs_is_taken_in_both_kinds_of_repository() {
    let keys = [Key::new("a"), Key::made(&["-t", "ecdsa", "-b", "384"], "b"), Key::made(&RSA, "c")];
    let trust = trust(&keys.iter().collect::<Vec<_>>());
    for format in ["sha1", "sha256"] {
        let repo = Repo::with_format(format);
        let mut state = None;
        for key in &keys {
            repo.write("fleet.toml", key.line());
            let proven = accept(&repo, repo.commit("message", Some(key)), &trust, state.as_ref());
            assert_eq!(proven.commit().kind(), repo.head().kind());
            state = Some(proven.state().clone());
        }
        assert_code(&judge(&repo, repo.resolve("HEAD~1"), &trust, state.as_ref()), "rolled-back");
        assert_code(&judge(&repo, repo.commit("unsigned", None), &trust, state.as_ref()), "unsigned");
    }
}

#[test]
fn a_sha256_repository_with_the_other_kinds_signature_header() {
    let (repo, key) = (Repo::with_format("sha256"), Key::new("ann"));
    let payload = payload(repo.tree(&[]), &[], "message");
    let armor = key.sign("git", &payload);
    let commit = repo.object("commit", &insert(&payload, "gpgsig", &armor));
    assert_code(&judge(&repo, commit, &trust(&[&key]), None), "malformed");
    let both = insert(&insert(&payload, "gpgsig", &armor), "gpgsig-sha256", &armor);
    assert_code(&judge(&repo, repo.object("commit", &both), &trust(&[&key]), None), "malformed");
}

#[test]
fn c13_a_signature_for_another_namespace() {
    let (repo, key) = (Repo::new(), Key::new("ann"));
    let payload = payload(repo.tree(&[]), &[], "message");
    let commit = |armor: &[u8]| repo.object("commit", &insert(&payload, "gpgsig", armor));
    for namespace in ["file", "trimtab-root", "GIT", "git "] {
        let armor = key.sign(namespace, &payload);
        assert_code(&judge(&repo, commit(&armor), &trust(&[&key]), None), "wrong-namespace");
    }
    // The same signature with the namespace written over.
    let blob = dearmor(&key.sign("fil", &payload));
    let at = blob.windows(3).position(|bytes| bytes == b"fil").unwrap();
    let blob = [&blob[..at], b"git", &blob[at + 3..]].concat();
    assert_code(&verdict_on(&repo, &key, &payload, &blob), "forged");
}

#[test]
fn a_security_key_that_nobody_touched() {
    let repo = Repo::new();
    for key in [Key::sk_ed25519("a"), Key::sk_ecdsa("b")] {
        let payload = payload(repo.tree(&[]), &[], "message");
        let commit = |armor: &[u8]| repo.object("commit", &insert(&payload, "gpgsig", armor));
        let untouched = key.sign_with_flags("git", &payload, 0);
        assert_code(&judge(&repo, commit(&untouched), &trust(&[&key]), None), "untouched");
        // Touched and PIN given; and the flag set afterwards by somebody else.
        accept(&repo, commit(&key.sign_with_flags("git", &payload, TOUCHED | 4)), &trust(&[&key]), None);
        let mut blob = dearmor(&untouched);
        let flags = blob.len() - 5;
        assert_eq!(blob[flags], 0);
        blob[flags] = TOUCHED;
        assert_code(&verdict_on(&repo, &key, &payload, &blob), "forged");
    }
}

#[test]
fn a_signature_in_any_other_form() {
    let (repo, key) = (Repo::new(), Key::new("ann"));
    let payload = payload(repo.tree(&[]), &[], "message");
    let genuine = dearmor(&key.sign("git", &payload));
    let raw = genuine[genuine.len() - 64..].to_vec();
    let inner = strings(&[b"ssh-ed25519", &raw]);
    let blob = |reserved: &[u8], hash: &str, inner: &[u8]| signature_blob(&key.blob(), "git", reserved, hash, inner);
    assert_eq!(blob(b"", "sha512", &inner), genuine, "the parts are put together as ssh-keygen does");
    let mut version = genuine.clone();
    version[9] = 2;
    let mut magic = genuine.clone();
    magic[0] = b'X';
    for (odd, why) in [
        (blob(b"x", "sha512", &inner), "a reserved field that readers are told to ignore"),
        (blob(b"", "sha1", &inner), "another hash"),
        (blob(b"", "", &inner), "no hash"),
        (blob(b"", "sha512", &[&inner[..], b"x"].concat()), "a byte behind the inner signature"),
        ([&genuine[..], b"x"].concat(), "a byte behind all"),
        (blob(b"", "sha512", &strings(&[b"rsa-sha2-512", &raw])), "another algorithm"),
        (
            blob(b"", "sha512", &[strings(&[b"sk-ssh-ed25519@openssh.com", &raw]), vec![1, 0, 0, 0, 1]].concat()),
            "a touch that is none",
        ),
        (version, "another version"),
        (magic, "another magic"),
    ] {
        let verdict = verdict_on(&repo, &key, &payload, &odd);
        assert!(verdict.code() == "malformed", "{why}: {verdict:?}");
    }
    let trusted = trust(&[&key]);
    for length in 0..genuine.len() {
        assert_code(&judge_bytes(insert(&payload, "gpgsig", &armor(&genuine[..length])), &trusted), "malformed");
    }
    assert_code(&verdict_on(&repo, &key, &payload, &blob(b"", "sha512", &strings(&[b"ssh-ed25519", &raw[..63]]))), "forged");
    assert_code(&verdict_on(&repo, &key, &payload, &blob(b"", "sha256", &inner)), "forged");
}

#[test]
fn rsa_signs_with_sha_2_only() {
    let (repo, key) = (Repo::new(), Key::made(&[&RSA[..], &["-m", "PEM"]].concat(), "ann"));
    let payload = payload(repo.tree(&[]), &[], "message");
    let sign = |option: &str, hash: &str| {
        let mut openssl = command("openssl", repo.path());
        run(openssl.args(["dgst", option, "-sign"]).arg(key.path()), &envelope("git", hash, &payload))
    };
    let blob = |algorithm: &str, hash: &str, raw: &[u8]| {
        signature_blob(&key.blob(), "git", b"", hash, &strings(&[algorithm.as_bytes(), raw]))
    };
    for (algorithm, option, hash, code) in [
        ("rsa-sha2-256", "-sha256", "sha256", "accepted"),
        ("rsa-sha2-256", "-sha256", "sha512", "accepted"),
        ("rsa-sha2-512", "-sha512", "sha512", "accepted"),
        ("rsa-sha2-512", "-sha256", "sha512", "forged"),
        ("ssh-rsa", "-sha1", "sha512", "unsupported-signature"),
        ("ssh-ed25519", "-sha512", "sha512", "malformed"),
    ] {
        let verdict = verdict_on(&repo, &key, &payload, &blob(algorithm, hash, &sign(option, hash)));
        assert_eq!(verdict.code(), code, "{algorithm} {option} {hash} {verdict:?}");
    }
}

#[test]
fn ecdsa_numbers_in_their_only_form() {
    let (repo, key) = (Repo::new(), Key::made(&["-t", "ecdsa", "-b", "256"], "ann"));
    let payload = payload(repo.tree(&[]), &[], "message");
    let blob = |numbers: &[u8]| signature_blob(&key.blob(), "git", b"", "sha512", &strings(&[b"ecdsa-sha2-nistp256", numbers]));
    let (one, long) = ([1u8], [vec![1u8], vec![0; 32]].concat());
    for (numbers, code) in [
        (strings(&[&one, &one]), "forged"),
        (strings(&[b"", &one]), "malformed"),
        (strings(&[&[0, 1], &one]), "malformed"),
        (strings(&[&[0x80], &one]), "malformed"),
        (strings(&[&one, &long]), "malformed"),
        (strings(&[&one, &one, b""]), "malformed"),
        (strings(&[&one]), "malformed"),
    ] {
        assert_code(&verdict_on(&repo, &key, &payload, &blob(&numbers)), code);
    }
}

#[test]
fn other_kinds_of_signature_are_told_apart() {
    let (repo, key) = (Repo::new(), Key::new("ann"));
    let payload = payload(repo.tree(&[]), &[], "message");
    for armor in ["-----BEGIN PGP SIGNATURE-----\n\niQ\n-----END PGP SIGNATURE-----\n", "-----BEGIN SIGNED MESSAGE-----\nMI\n"] {
        let commit = repo.object("commit", &insert(&payload, "gpgsig", armor.as_bytes()));
        assert_code(&judge(&repo, commit, &trust(&[&key]), None), "unsupported-signature");
    }
}

#[test]
fn keys_that_are_too_weak_are_not_trusted() {
    for (options, words) in [
        (&["-t", "rsa", "-b", "1024"][..], "only 1024 bits"),
        (&["-t", "dsa"], "too weak"),
        (&["-t", "ecdsa", "-b", "521"], "not known"),
    ] {
        let key = Key::made(options, "weak");
        let text = format!("mode = \"commit\"\nbranch = \"main\"\nkeys = [{:?}]\n", key.line());
        let findings = TrustConfig::parse("trust.toml", &text).unwrap_err();
        assert!(findings.to_string().contains(words), "{findings}");
        assert!(findings.to_string().starts_with("trust.toml:3:9"), "{findings}");
    }
}
