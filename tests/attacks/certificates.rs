//! Commits signed with SSH certificates: which count, and every way in which one does not. All are made by `ssh-keygen -s`.

use std::path::Path;

use gix_hash::ObjectId;
use trimtab::trust::decide::decide;
use trimtab::trust::keys::TrustConfig;
use trimtab::trust::memory::{Memory, Moment};
use trimtab::trust::prove::prove;
use trimtab::trust::state::TrustState;
use trimtab::trust::verdict::Verdict;
use trimtab_tests::git::{Key, Repo, armor, command, dearmor, insert, payload, run, signature_blob, strings};

use super::{NOW, accept, assert_code, judge, trust};

/// Trusts this authority, with these options after `cert-authority`.
fn authority(key: &Key, options: &str) -> TrustConfig {
    let line = format!("cert-authority{options} {}", key.line());
    TrustConfig::parse("trust.toml", &format!("mode = \"commit\"\nbranch = \"main\"\nkeys = [{line:?}]\n"))
        .unwrap_or_else(|findings| panic!("{}", findings.draw(false)))
}

/// A certificate for `key`, made with these options of ssh-keygen; the line of its file.
fn certify(authority: &Key, key: &Path, options: &[&str]) -> String {
    let mut sign = command("ssh-keygen", key.parent().unwrap());
    run(
        sign.args(["-q", "-s"]).arg(authority.path()).args(["-I", "ann of site 3"]).args(options).arg(key.with_extension("pub")),
        b"",
    );
    std::fs::read_to_string(key.with_file_name("key-cert.pub")).unwrap().trim().to_owned()
}

/// What a certificate is made of, and a commit that it signed.
struct Scene {
    repo: Repo,
    authority: Key,
    key: Key,
}

impl Scene {
    fn new() -> Self {
        Self { repo: Repo::new(), authority: Key::new("site CA"), key: Key::new("ann") }
    }

    /// A commit that git itself signed with a certificate made with these options.
    fn commit(&self, options: &[&str]) -> ObjectId {
        certify(&self.authority, &self.key.path(), options);
        let signing = format!("user.signingkey={}", self.key.path().with_file_name("key-cert.pub").display());
        self.repo.git(&["-c", &signing, "commit", "--quiet", "--allow-empty", "-S", "-m", "certified"]);
        self.repo.head()
    }

    /// Whether git itself verifies a commit, when the authority's certificates for `principal` are allowed to sign.
    fn git_accepts(&self, commit: ObjectId, principal: &str) -> bool {
        self.repo.write("signers", format!("{principal} cert-authority {}\n", self.authority.line()));
        let mut verify = command("git", self.repo.path());
        verify.arg("-C").arg(self.repo.path()).args(["-c", "gpg.ssh.allowedSignersFile=signers", "verify-commit"]);
        verify.arg(commit.to_string()).output().unwrap().status.success()
    }

    #[track_caller]
    fn refused(&self, commit: ObjectId, trust: &TrustConfig, words: &str) {
        let verdict = judge(&self.repo, commit, trust, None);
        assert_code(&verdict, "certificate");
        assert!(verdict.to_string().contains(words), "{verdict}");
    }
}

const VALID: [&str; 2] = ["-V", "20270101:20280101"];

#[test]
fn a_certificate_of_a_trusted_authority_counts() {
    let scene = Scene::new();
    let commit = scene.commit(&[&VALID[..], &["-n", "ann,release"]].concat());
    assert!(scene.git_accepts(commit, "ann"));
    for options in ["", ",principals=\"ann\"", ",principals=\"bob,release\""] {
        let proven = accept(&scene.repo, commit, &authority(&scene.authority, options), None);
        assert_eq!(proven.signer().name, "ann of site 3, certified by site CA");
        let own = trimtab::trust::pubkey::Fingerprint::of(&scene.key.blob());
        assert_eq!(proven.signer().fingerprint, own);
    }
    // Who trusts the key trusts it without its certificate, and who trusts the authority does not trust it as a signer.
    assert_code(&judge(&scene.repo, commit, &trust(&[&scene.key]), None), "unknown-authority");
    let bare = scene.repo.commit("by the key itself", Some(&scene.key));
    accept(&scene.repo, bare, &trust(&[&scene.key]), None);
    assert_code(&judge(&scene.repo, bare, &authority(&scene.authority, ""), None), "unknown-signer");
    let own = scene.repo.commit("by the authority itself", Some(&scene.authority));
    assert_code(&judge(&scene.repo, own, &authority(&scene.authority, ""), None), "unknown-signer");
}

#[test]
fn every_kind_of_key_can_be_certified_and_certify() {
    let kinds: [&[&str]; 4] =
        [&["-t", "ed25519"], &["-t", "ecdsa", "-b", "256"], &["-t", "ecdsa", "-b", "384"], &["-t", "rsa", "-b", "2048"]];
    for (number, kind) in kinds.iter().enumerate() {
        let other = kinds[(number + 1) % kinds.len()];
        let scene = Scene { repo: Repo::new(), authority: Key::made(other, "CA"), key: Key::made(kind, "ann") };
        accept(&scene.repo, scene.commit(&VALID), &authority(&scene.authority, ""), None);
    }
}

#[test]
fn a_certified_security_key_has_to_be_touched() {
    for key in [Key::sk_ed25519("ann"), Key::sk_ecdsa("ann")] {
        let (repo, ca) = (Repo::new(), Key::new("CA"));
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("key");
        std::fs::write(file.with_extension("pub"), key.line()).unwrap();
        // The extension says to an SSH server that no touch is needed; here it says nothing.
        let certificate = Key::from_line(&certify(&ca, &file, &["-O", "no-touch-required"])).blob();
        let payload = payload(repo.tree(&[]), &[], "message");
        let commit = |flags: u8| {
            let plain = dearmor(&key.sign_with_flags("git", &payload, flags));
            // The same signature with the certificate in the place of the key.
            let inner = plain.windows(6).rposition(|bytes| bytes == b"sha512").unwrap() + 6;
            let blob = signature_blob(&certificate, "git", b"", "sha512", &plain[inner + 4..]);
            repo.object("commit", &insert(&payload, "gpgsig", &armor(&blob)))
        };
        accept(&repo, commit(1), &authority(&ca, ""), None);
        assert_code(&judge(&repo, commit(0), &authority(&ca, ""), None), "untouched");
    }
}

#[test]
fn a_certificate_of_another_authority() {
    let scene = Scene::new();
    let commit = scene.commit(&VALID);
    let verdict = judge(&scene.repo, commit, &authority(&Key::new("other"), ""), None);
    assert_code(&verdict, "unknown-authority");
    let print = trimtab::trust::pubkey::Fingerprint::of(&scene.authority.blob()).to_string();
    assert!(verdict.to_string().contains(&print), "{verdict}");
}

#[test]
fn a_certificate_that_is_for_others_or_for_something_else() {
    let scene = Scene::new();
    let host = scene.commit(&["-h", "-n", "ann"]);
    scene.refused(host, &authority(&scene.authority, ""), "host's certificate");
    let bob = scene.commit(&["-n", "bob"]);
    assert!(!scene.git_accepts(bob, "ann"));
    scene.refused(bob, &authority(&scene.authority, ",principals=\"ann\""), "[\"bob\"]");
    // A certificate without principals is for anybody, and for nobody in particular.
    let nobody = scene.commit(&[]);
    scene.refused(nobody, &authority(&scene.authority, ",principals=\"ann\""), "principals []");
    accept(&scene.repo, nobody, &authority(&scene.authority, ""), None);
    for option in ["force-command=/bin/true", "source-address=10.0.0.0/8", "verify-required"] {
        let critical = scene.commit(&["-O", option]);
        scene.refused(critical, &authority(&scene.authority, ""), option.split('=').next().unwrap());
    }
    let unknown = scene.commit(&["-O", "critical:x@example.org=1"]);
    scene.refused(unknown, &authority(&scene.authority, ""), "x@example.org");
}

#[test]
fn validity_is_asked_of_this_hosts_time_and_never_of_the_committers() {
    let scene = Scene::new();
    let trusted = authority(&scene.authority, "");
    let at = |commit, state: Option<&TrustState>, now| prove(commit, &mut scene.repo.source(), &trusted, state, now);
    // Over since 2026-06-01; the committer writes a date at which it was valid, and git believes him.
    certify(&scene.authority, &scene.key.path(), &["-n", "ann", "-V", "20260101:20260601"]);
    let signing = format!("user.signingkey={}", scene.key.path().with_file_name("key-cert.pub").display());
    let mut commit = command("git", scene.repo.path());
    commit.env("GIT_COMMITTER_DATE", "1770000000 +0000").arg("-C").arg(scene.repo.path());
    run(commit.args(["-c", &signing, "commit", "-q", "--allow-empty", "-S", "-m", "back-dated"]), b"");
    let dated = scene.repo.head();
    assert!(scene.git_accepts(dated, "ann"));
    scene.refused(dated, &trusted, "valid until 2026-06-01T00:00:00Z");
    assert_code(&at(dated, None, 1_780_272_000), "certificate");
    assert_code(&at(dated, None, 1_780_271_999), "accepted");
    assert_code(&at(dated, None, 1_767_225_600), "accepted");
    let early = at(dated, None, 1_767_225_599);
    assert!(early.code() == "certificate" && early.to_string().contains("only from 2026-01-01T00:00:00Z"), "{early}");

    // A clock that fell back to 1970 does not make it valid again: the floor of time stands in for it.
    let first = at(dated, None, 1_770_000_000);
    let mut state = first.proven().unwrap().state().clone();
    let next = scene.commit(&["-n", "ann", "-V", "20260101:20260601"]);
    state.time_floor = 1_790_000_000;
    for clock in [0, 1_770_000_001] {
        let over = at(next, Some(&state), clock);
        assert!(over.code() == "certificate" && over.to_string().contains("valid until 2026-06-01T00:00:00Z"), "{clock}: {over}");
    }
    state.time_floor = 0;
    assert_code(&at(next, Some(&state), 1_770_000_001), "accepted");
    // Where nothing is remembered, the time at which this program was written has passed.
    for synchronised in [true, false] {
        let moment = Moment { clock: 1_770_000_001, synchronised };
        let judged = decide(dated, None, &mut scene.repo.source(), &trusted, &Memory::default(), moment);
        assert_code(&judged.verdict, "certificate");
    }

    // What was accepted while it was valid stays so: a restart in the year after does not take the commit in force for a bad one.
    assert_code(&at(dated, Some(&state), NOW), "unchanged");
    // But an authority that is not trusted any more vouches for nothing, the commit in force included.
    let other = authority(&Key::new("other"), "");
    assert_code(&prove(dated, &mut scene.repo.source(), &other, Some(&state), NOW), "unknown-authority");
}

#[test]
fn a_certificate_as_an_authority_and_in_trust_toml() {
    // ssh-keygen makes no chain; one put together by hand: a certificate whose signing key is a certificate.
    let scene = Scene::new();
    let line = certify(&scene.authority, &scene.key.path(), &[]);
    for entry in [line.clone(), format!("cert-authority {line}")] {
        let refused = TrustConfig::parse("t", &format!("mode = \"commit\"\nbranch = \"main\"\nkeys = [{entry:?}]\n"));
        assert!(refused.unwrap_err().draw(false).contains("trust who signs certificates"));
    }
    let middle = Key::from_line(&line).blob();
    let lower = Key::new("lower");
    let lower_line = certify(&scene.key, &lower.path(), &[]);
    let blob = Key::from_line(&lower_line).blob();
    let (plain, nested) = (scene.key.blob(), middle);
    let at = blob.windows(plain.len()).rposition(|bytes| bytes == plain).unwrap();
    let length = u32::try_from(nested.len()).unwrap().to_be_bytes();
    let blob = [&blob[..at - 4], &length, &nested, &blob[at + plain.len()..]].concat();
    let payload = payload(scene.repo.tree(&[]), &[], "message");
    let genuine = dearmor(&lower.sign("git", &payload));
    let inner = strings(&[b"ssh-ed25519", &genuine[genuine.len() - 64..]]);
    let commit = insert(&payload, "gpgsig", &armor(&signature_blob(&blob, "git", b"", "sha512", &inner)));
    let commit = scene.repo.object("commit", &commit);
    for trusted in [&scene.authority, &scene.key] {
        assert_code(&judge(&scene.repo, commit, &authority(trusted, ""), None), "unknown-authority");
    }
}

#[test]
fn a_certificate_that_was_altered_or_taken_from_somebody_else() {
    let scene = Scene::new();
    let trusted = authority(&scene.authority, "");
    let certificate = Key::from_line(&certify(&scene.authority, &scene.key.path(), &VALID)).blob();
    let payload = payload(scene.repo.tree(&[]), &[], "message");
    let verdict = |certificate: &[u8], signer: &Key, namespace: &str| -> Verdict {
        let genuine = dearmor(&signer.sign(namespace, &payload));
        let inner = strings(&[b"ssh-ed25519", &genuine[genuine.len() - 64..]]);
        let blob = signature_blob(certificate, namespace, b"", "sha512", &inner);
        judge(&scene.repo, scene.repo.object("commit", &insert(&payload, "gpgsig", &armor(&blob))), &trusted, None)
    };
    assert_code(&verdict(&certificate, &scene.key, "git"), "accepted");
    assert_code(&verdict(&certificate, &scene.key, "file"), "wrong-namespace");
    // Ann's certificate with Eve's signature.
    assert_code(&verdict(&certificate, &Key::new("eve"), "git"), "forged");
    // Its time prolonged: the authority did not sign that.
    let until = 1_830_297_600u64.to_be_bytes();
    let at = certificate.windows(8).position(|bytes| bytes == until).unwrap();
    let longer = [&certificate[..at], &u64::MAX.to_be_bytes(), &certificate[at + 8..]].concat();
    assert_code(&verdict(&longer, &scene.key, "git"), "forged");
    for cut in [1, 40, 120] {
        assert_code(&verdict(&certificate[..certificate.len() - cut], &scene.key, "git"), "malformed");
    }
    assert_code(&verdict(&[&certificate[..], b"x"].concat(), &scene.key, "git"), "malformed");
}
