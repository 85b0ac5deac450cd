//! Commits signed with OpenPGP: every key and signature is gpg's own, and the odd ones are bent by hand from those.

use std::io::Write as _;
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use trimtab::trust::keys::TrustConfig;
use trimtab::trust::prove::prove;
use trimtab::trust::verdict::Verdict;
use trimtab_tests::git::{Repo, command, header_of, insert, payload, run};

use super::{NOW, accept, assert_code, judge};

/// When keys and signatures are made, where a test does not say otherwise: a day before [`NOW`].
const MADE: u64 = NOW - 86_400;

/// A keyring of its own; its agent ends with it.
struct Gpg(tempfile::TempDir);

impl Drop for Gpg {
    fn drop(&mut self) {
        let _ = Command::new("gpgconf").env("GNUPGHOME", self.0.path()).args(["--kill", "gpg-agent"]).status();
    }
}

impl Gpg {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        Self(folder)
    }

    fn at(&self, time: u64, args: &[&str], input: &[u8]) -> Vec<u8> {
        let mut gpg = command("gpg", self.0.path());
        gpg.env("GNUPGHOME", self.0.path()).args([
            "--batch",
            "--quiet",
            "--no-tty",
            "--pinentry-mode",
            "loopback",
            "--passphrase",
            "",
        ]);
        run(gpg.arg(format!("--faked-system-time={time}")).args(args), input)
    }

    /// A new primary key of this kind; its fingerprint.
    fn key(&self, kind: &str, usage: &str, expires: &str) -> String {
        self.at(MADE, &["--quick-gen-key", "Ann <ann@example.org>", kind, usage, expires], b"");
        self.prints(None)[0].clone()
    }

    fn subkey(&self, primary: &str, kind: &str, expires: &str) -> String {
        self.at(MADE, &["--quick-add-key", primary, kind, "sign", expires], b"");
        self.prints(Some(primary)).last().unwrap().clone()
    }

    fn prints(&self, of: Option<&str>) -> Vec<String> {
        let list = self.at(MADE, &[&["--list-keys", "--with-colons"][..], &of.into_iter().collect::<Vec<_>>()].concat(), b"");
        let text = String::from_utf8(list).unwrap();
        text.lines().filter_map(|line| Some(line.strip_prefix("fpr:")?.trim_matches(':').to_owned())).collect()
    }

    fn export(&self, key: &str) -> String {
        String::from_utf8(self.at(MADE, &["--armor", "--export", key], b"")).unwrap()
    }

    /// What somebody types into `gpg --edit-key`.
    fn edit(&self, key: &str, words: &str) {
        self.at(MADE + 60, &["--command-fd", "0", "--expert", "--edit-key", key], words.as_bytes());
    }

    fn sign_at(&self, time: u64, key: &str, payload: &[u8], more: &[&str]) -> Vec<u8> {
        self.at(time, &[more, &["--armor", "--detach-sign", "-u", key]].concat(), payload)
    }

    fn sign(&self, key: &str, payload: &[u8]) -> Vec<u8> {
        self.sign_at(MADE + 3600, &format!("{key}!"), payload, &[])
    }

    /// Whether gpg itself calls a signature good.
    fn accepts(&self, payload: &[u8], armor: &[u8]) -> bool {
        let file = self.0.path().join("signature.asc");
        std::fs::write(&file, armor).unwrap();
        let mut gpg = command("gpg", self.0.path());
        gpg.env("GNUPGHOME", self.0.path()).args(["--batch", "--quiet", &format!("--faked-system-time={NOW}"), "--verify"]);
        let mut child =
            gpg.arg(file).arg("-").stdin(std::process::Stdio::piped()).stderr(std::process::Stdio::null()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(payload).unwrap();
        child.wait().unwrap().success()
    }
}

fn text_of(certificate: &str, fingerprint: &str) -> String {
    format!(
        "mode = \"commit\"\nbranch = \"main\"\n[[openpgp]]\nname = \"ann\"\nfingerprint = \"{fingerprint}\"\ncertificate = '''\n{certificate}'''\n"
    )
}

fn pinned(certificate: &str, fingerprint: &str) -> TrustConfig {
    let parsed = TrustConfig::parse("trust.toml", &text_of(certificate, fingerprint));
    parsed.unwrap_or_else(|findings| panic!("{}", findings.draw(false)))
}

#[track_caller]
fn not_pinned(certificate: &str, fingerprint: &str, words: &str) {
    let drawn = TrustConfig::parse("trust.toml", &text_of(certificate, fingerprint)).unwrap_err().draw(false);
    assert!(drawn.contains(words) && drawn.contains("trust.toml:5:15"), "{drawn}");
}

/// What a host says of a commit of this payload with this armor.
fn verdict(repo: &Repo, trust: &TrustConfig, payload: &[u8], armor: &[u8]) -> Verdict {
    judge(repo, repo.object("commit", &insert(payload, header_of(repo.tree(&[])), armor)), trust, None)
}

fn of(repo: &Repo) -> Vec<u8> {
    payload(repo.tree(&[]), &[], "message")
}

/// The bytes in an armor, and an armor around bytes.
fn dearmor(armor: &str) -> Vec<u8> {
    let body = armor.split_once("\n\n").unwrap().1;
    STANDARD.decode(body.lines().take_while(|line| !line.starts_with(['=', '-'])).collect::<String>()).unwrap()
}

fn armor(bytes: &[u8], kind: &str, columns: usize) -> String {
    let base64 = STANDARD.encode(bytes);
    let lines: Vec<_> = base64.as_bytes().chunks(columns).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN PGP {kind}-----\n\n{}\n-----END PGP {kind}-----\n", lines.join("\n"))
}

#[test]
fn what_git_signs_with_gpg_is_taken_by_every_kind_of_key() {
    for (format, kind) in [("sha1", "ed25519"), ("sha256", "rsa2048"), ("sha1", "nistp256"), ("sha1", "nistp384")] {
        let (gpg, repo) = (Gpg::new(), Repo::with_format(format));
        let key = gpg.key(kind, "cert,sign", "never");
        let trust = pinned(&gpg.export(&key), &key);
        let mut commit = command("git", repo.path());
        commit.env("GNUPGHOME", gpg.0.path()).arg("-C").arg(repo.path()).args(["-c", "gpg.format=openpgp"]);
        std::fs::write(gpg.0.path().join("gpg.conf"), format!("faked-system-time {}\n", MADE + 60)).unwrap();
        run(commit.args(["-c", &format!("user.signingkey={key}"), "commit", "-q", "--allow-empty", "-S", "-m", "signed"]), b"");
        let proven = accept(&repo, repo.head(), &trust, None);
        assert_eq!(proven.signer().to_string(), format!("ann (openpgp:{key})"));
        // The memory of it can be read back, and the next commit descends from it.
        let state = trimtab::trust::state::TrustState::from_text(&proven.state().to_text()).unwrap();
        assert_code(&judge(&repo, repo.head(), &trust, Some(&state)), "unchanged");
        let text = payload(repo.tree(&[]), &[repo.head()], "next");
        let tip = repo.object("commit", &insert(&text, header_of(repo.head()), &gpg.sign(&key, &text)));
        accept(&repo, tip, &trust, Some(&state));

        let altered = String::from_utf8(text.clone()).unwrap().replace("next", "text");
        assert_code(&verdict(&repo, &trust, altered.as_bytes(), &gpg.sign(&key, &text)), "forged");
    }
}

#[test]
fn a_signing_subkey_counts_until_it_is_revoked_or_expires() {
    let (gpg, repo) = (Gpg::new(), Repo::new());
    let primary = gpg.key("ed25519", "cert", "never");
    let subkey = gpg.subkey(&primary, "ed25519", "never");
    let short = gpg.subkey(&primary, "rsa2048", "1d");
    let text = of(&repo);
    let (by_subkey, by_short) = (gpg.sign(&subkey, &text), gpg.sign(&short, &text));
    let before = gpg.export(&primary);
    let trust = pinned(&before, &primary);
    let proven = accept(&repo, repo.object("commit", &insert(&text, "gpgsig", &by_subkey)), &trust, None);
    assert_eq!(proven.signer().fingerprint.to_string(), format!("openpgp:{primary}"));

    // Expired meanwhile: gpg calls the signature good, for it is older. Its date is the signer's own word.
    assert!(gpg.accepts(&text, &by_short));
    let late = verdict(&repo, &trust, &text, &by_short);
    assert_code(&late, "unusable-key");
    assert!(late.to_string().contains("expired") && late.to_string().contains(&short), "{late}");
    let commit = repo.object("commit", &insert(&text, "gpgsig", &by_short));
    assert_code(&prove(commit, &mut repo.source(), &trust, None, MADE + 86_399), "accepted");
    assert_code(&prove(commit, &mut repo.source(), &trust, None, MADE + 86_400), "unusable-key");

    // Revoked: gpg says so and yet calls the signature good.
    gpg.edit(&primary, "key 1\nrevkey\ny\n0\n\ny\nsave\n");
    assert!(gpg.accepts(&text, &by_subkey));
    let trust = pinned(&gpg.export(&primary).replace('\r', ""), &primary);
    let revoked = verdict(&repo, &trust, &text, &by_subkey);
    assert_code(&revoked, "unusable-key");
    assert!(revoked.to_string().contains("revoked"), "{revoked}");
}

#[test]
fn a_whole_certificate_that_expired_or_was_revoked() {
    let (gpg, repo) = (Gpg::new(), Repo::new());
    let primary = gpg.key("ed25519", "cert,sign", "seconds=43200");
    let subkey = gpg.subkey(&primary, "ed25519", "never");
    let text = of(&repo);
    let trust = pinned(&gpg.export(&primary), &primary);
    for key in [&primary, &subkey] {
        assert_code(&verdict(&repo, &trust, &text, &gpg.sign(key, &text)), "unusable-key");
    }
    // Prolonged by its owner: the newest word holds.
    gpg.at(MADE + 60, &["--quick-set-expire", &primary, "1y"], b"");
    let trust = pinned(&gpg.export(&primary), &primary);
    for key in [&primary, &subkey] {
        assert_code(&verdict(&repo, &trust, &text, &gpg.sign(key, &text)), "accepted");
    }
    let revocation = gpg.0.path().join(format!("openpgp-revocs.d/{primary}.rev"));
    let revocation = std::fs::read_to_string(revocation).unwrap().replace(":-----BEGIN", "-----BEGIN");
    gpg.at(MADE + 60, &["--import"], revocation.as_bytes());
    not_pinned(&gpg.export(&primary), &primary, "it is revoked");
}

#[test]
fn sha_1_is_refused_in_signatures_and_in_certificates() {
    let (gpg, repo) = (Gpg::new(), Repo::new());
    let key = gpg.key("rsa2048", "cert,sign", "never");
    let (text, trust) = (of(&repo), pinned(&gpg.export(&key), &key));
    let weak = ["--digest-algo", "SHA1", "--allow-weak-digest-algos"];
    let by_sha1 = gpg.sign_at(MADE + 60, &key, &text, &weak);
    assert!(gpg.accepts(&text, &by_sha1));
    let refused = verdict(&repo, &trust, &text, &by_sha1);
    assert_code(&refused, "unsupported-signature");
    assert!(refused.to_string().contains("SHA-1"), "{refused}");
    for hash in ["SHA256", "SHA384", "SHA512"] {
        let armor = gpg.sign_at(MADE + 60, &key, &text, &["--digest-algo", hash]);
        assert_code(&verdict(&repo, &trust, &text, &armor), "accepted");
    }
    assert_code(
        &verdict(&repo, &trust, &text, &gpg.sign_at(MADE + 60, &key, &text, &["--digest-algo", "SHA224"])),
        "unsupported-signature",
    );

    let old = Gpg::new();
    old.at(MADE, &["--cert-digest-algo", "SHA1", "--quick-gen-key", "Old <old@example.org>", "rsa2048", "cert,sign", "never"], b"");
    let print = old.prints(None)[0].clone();
    not_pinned(&old.export(&print), &print, "SHA-1");
}

#[test]
fn a_key_that_is_not_for_signing() {
    let (gpg, repo) = (Gpg::new(), Repo::new());
    let primary = gpg.key("ed25519", "cert", "never");
    let (one, two) = (gpg.subkey(&primary, "ed25519", "never"), gpg.subkey(&primary, "ed25519", "never"));
    let text = of(&repo);
    let armor = gpg.sign(&one, &text);
    assert_code(&verdict(&repo, &pinned(&gpg.export(&primary), &primary), &text, &armor), "accepted");
    // Its owner takes the flag away, and leaves it for logins.
    gpg.edit(&primary, "key 1\nchange-usage\ns\na\nq\nsave\n");
    let trust = pinned(&gpg.export(&primary), &primary);
    let refused = verdict(&repo, &trust, &text, &armor);
    assert_code(&refused, "unusable-key");
    assert!(refused.to_string().contains("no signing flag"), "{refused}");
    assert_code(&verdict(&repo, &trust, &text, &gpg.sign(&two, &text)), "accepted");

    let bare = Gpg::new();
    let only = bare.key("ed25519", "cert", "never");
    not_pinned(&bare.export(&only), &only, "no key of this certificate may sign");
}

#[test]
fn a_subkey_that_has_not_signed_back() {
    // Eve binds Ann's signing key to her own certificate: she can sign the binding, and nobody signs back.
    let (gpg, repo) = (Gpg::new(), Repo::new());
    let primary = gpg.key("ed25519", "cert,sign", "never");
    let subkey = gpg.subkey(&primary, "ed25519", "never");
    let text = of(&repo);
    let armor_of = gpg.sign(&subkey, &text);
    let certificate = dearmor(&gpg.export(&primary));
    assert_code(&verdict(&repo, &pinned(&armor(&certificate, "PUBLIC KEY BLOCK", 64), &primary), &text, &armor_of), "accepted");
    // The part of the binding that is not covered holds the issuer (10 bytes) and the answer (the rest): the rest is taken out.
    let packets = packets(&certificate);
    let (tag, binding) = packets.last().unwrap();
    assert_eq!(*tag, 2);
    let covered = 6 + usize::from(u16::from_be_bytes([binding[4], binding[5]]));
    let open = usize::from(u16::from_be_bytes([binding[covered], binding[covered + 1]]));
    assert!(open > 100);
    let bare = [&binding[..covered], &[0, 10], &binding[covered + 2..covered + 12], &binding[covered + 2 + open..]].concat();
    let mut without: Vec<u8> = packets[..packets.len() - 1].iter().flat_map(|(tag, body)| packet(*tag, body)).collect();
    without.extend(packet(2, &bare));
    let trust = pinned(&armor(&without, "PUBLIC KEY BLOCK", 64), &primary);
    let refused = verdict(&repo, &trust, &text, &armor_of);
    assert_code(&refused, "unusable-key");
    assert!(refused.to_string().contains("signed back"), "{refused}");
    // And one whose answer was spoiled.
    let mut spoiled = certificate.clone();
    let place = spoiled.len() - 80;
    spoiled[place] ^= 1;
    let trust = TrustConfig::parse("t", &text_of(&armor(&spoiled, "PUBLIC KEY BLOCK", 64), &primary));
    if let Ok(trust) = trust {
        assert_code(&verdict(&repo, &trust, &text, &armor_of), "unusable-key");
    }
}

/// The packets of a certificate that gpg wrote: tag and body.
fn packets(mut bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut list = Vec::new();
    while !bytes.is_empty() {
        let (width, head) = (1 << (bytes[0] & 3), bytes[0] >> 2 & 0xf);
        let length = bytes[1..=width].iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
        list.push((head, bytes[1 + width..1 + width + length].to_vec()));
        bytes = &bytes[1 + width + length..];
    }
    list
}

fn packet(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).unwrap().to_be_bytes();
    if length[0] == 0 { [&[0x80 | tag << 2, length[1]], body].concat() } else { [&[0x81 | tag << 2], &length[..], body].concat() }
}

#[test]
fn a_signature_in_any_other_form() {
    let (gpg, repo) = (Gpg::new(), Repo::new());
    let key = gpg.key("ed25519", "cert,sign", "never");
    let (text, trust) = (of(&repo), pinned(&gpg.export(&key), &key));
    let genuine = String::from_utf8(gpg.sign(&key, &text)).unwrap();
    let bytes = dearmor(&genuine);
    let check = |odd: &str, code: &str| assert_code(&verdict(&repo, &trust, &text, odd.as_bytes()), code);
    check(&genuine, "accepted");
    check(&armor(&bytes, "SIGNATURE", 64), "accepted"); // the checksum may be left out, as newer programs do
    for odd in [
        armor(&bytes, "SIGNATURE", 60),
        genuine.replacen("\n\n", "\nVersion: GnuPG v2\n\n", 1),
        genuine.replacen("\n\n", "\n \n", 1),
        genuine.replacen('=', "==", 1),
        armor(&[&bytes[..], &bytes].concat(), "SIGNATURE", 64),
        armor(&bytes[..bytes.len() - 1], "SIGNATURE", 64),
        armor(&[&bytes[..], b"x"].concat(), "SIGNATURE", 64),
        armor(&long_length(&bytes), "SIGNATURE", 64),
        armor(b"", "SIGNATURE", 64),
        String::from_utf8(gpg.sign_at(MADE + 60, &key, &text, &["--textmode"])).unwrap(),
        String::from_utf8(gpg.sign_at(MADE + 60, &key, &text, &["--default-sig-expire", "1y"])).unwrap(),
        String::from_utf8(gpg.sign_at(MADE + 60, &key, &text, &["--sig-notation", "!x@example.org=1"])).unwrap(),
    ] {
        check(&odd, "malformed");
    }
    // Notes that nobody has to understand are signed like the rest.
    check(&String::from_utf8(gpg.sign_at(MADE + 60, &key, &text, &["--sig-notation", "x@example.org=1"])).unwrap(), "accepted");
    // Something more where nothing is covered: anybody can put it there.
    let (body, open) = (&bytes[2..], 6 + usize::from(u16::from_be_bytes([bytes[6], bytes[7]])));
    let stray = [&body[..open], &[0, 13], &body[open + 2..open + 12], &[2, 100, 1], &body[open + 12..]].concat();
    check(&armor(&packet(2, &stray), "SIGNATURE", 64), "malformed");
    // Each byte of it counts.
    for at in 0..bytes.len() {
        let mut altered = bytes.clone();
        altered[at] ^= 1;
        let found = super::judge_bytes(insert(&text, "gpgsig", armor(&altered, "SIGNATURE", 64).as_bytes()), &trust);
        assert!(found.proven().is_none(), "byte {at}: {found:?}");
    }
    let stranger = Gpg::new();
    let other = stranger.key("ed25519", "cert,sign", "never");
    let unknown = verdict(&repo, &trust, &text, &stranger.sign(&other, &text));
    assert_code(&unknown, "unknown-signer");
    assert!(unknown.to_string().contains(&other), "{unknown}");
    // Who trusts SSH keys only is told what it is.
    let ssh = super::trust(&[&trimtab_tests::git::Key::new("ann")]);
    assert_code(&verdict(&repo, &ssh, &text, genuine.as_bytes()), "unsupported-signature");
}

/// The same packet with a length of five bytes where one is enough.
fn long_length(bytes: &[u8]) -> Vec<u8> {
    let body = &bytes[2..];
    [&[0xc2, 0xff], &u32::try_from(body.len()).unwrap().to_be_bytes()[..], body].concat()
}

#[test]
fn what_is_pinned_has_to_be_that_certificate() {
    let gpg = Gpg::new();
    let key = gpg.key("ed25519", "cert,sign", "never");
    let certificate = gpg.export(&key);
    let spaced = format!("{} {}", &key[..4], key[4..].to_lowercase());
    pinned(&certificate, &spaced);
    let other = key.replace(['0', '1'], "2");
    not_pinned(&certificate, &other, "not the one whose fingerprint is pinned");
    not_pinned(&certificate, &key[24..], "not a fingerprint");
    not_pinned("-----BEGIN PGP PUBLIC KEY BLOCK-----\n", &key, "not an armored certificate");
    not_pinned(&certificate.replace("-----END", "mQ==\n-----END"), &key, "not an armored certificate");
    let bytes = dearmor(&certificate);
    not_pinned(&armor(&[&bytes[..], &bytes].concat(), "PUBLIC KEY BLOCK", 64), &key, "more than one certificate");
    not_pinned(&armor(&bytes[..bytes.len() - 3], "PUBLIC KEY BLOCK", 64), &key, "cannot be used");
    // A name that somebody wrote over, or a self-signature that does not match.
    let at = bytes.windows(3).position(|name| name == b"Ann").unwrap();
    let renamed = [&bytes[..at], b"Eve", &bytes[at + 3..]].concat();
    not_pinned(&armor(&renamed, "PUBLIC KEY BLOCK", 64), &key, "does not match");
    let twice = text_of(&certificate, &key) + text_of(&certificate, &key).split_once("main\"\n").unwrap().1;
    assert!(TrustConfig::parse("t", &twice).unwrap_err().draw(false).contains("listed twice"));
    let secret = String::from_utf8(gpg.at(MADE, &["--armor", "--export-secret-keys", &key], b"")).unwrap();
    let drawn = TrustConfig::parse("t", &text_of(&secret, &key)).unwrap_err().draw(false);
    assert!(drawn.contains("private key") && !drawn.contains(secret.lines().nth(3).unwrap()), "{drawn}");
}

#[test]
fn a_tag_is_checked_by_the_same_function() {
    let (gpg, repo) = (Gpg::new(), Repo::new());
    let key = gpg.key("ed25519", "cert,sign", "never");
    repo.commit("one", None);
    let mut tag = command("git", repo.path());
    tag.env("GNUPGHOME", gpg.0.path()).arg("-C").arg(repo.path()).args(["-c", "gpg.format=openpgp", "-c"]);
    std::fs::write(gpg.0.path().join("gpg.conf"), format!("faked-system-time {}\n", MADE + 60)).unwrap();
    run(tag.args([&format!("user.signingkey={key}"), "tag", "-s", "-m", "tag", "v1"]), b"");
    let content = repo.content("tag", repo.resolve("v1^{tag}"));
    let at = content.windows(10).position(|bytes| bytes == b"-----BEGIN").unwrap();
    let trust = pinned(&gpg.export(&key), &key);
    let signer = trust.signers().check(&content[at..], &content[..at], NOW).unwrap();
    assert_eq!(signer.fingerprint.to_string(), format!("openpgp:{key}"));
    assert!(trust.signers().check(&content[at..], &content[1..at], NOW).is_err());
}
