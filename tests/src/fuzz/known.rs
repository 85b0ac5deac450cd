//! Keys that are known to everybody, and every signature that they ever made: whatever else counts is a forgery.
//!
//! The files in `tests/fuzz/known` were made by ssh-keygen, git, gpg and minisign (`tests/replay/make.rs`), whose secret keys are gone. Where
//! thousands of texts are needed, keys of this process sign ([`Quick`]): they sign only what stands here.

use std::sync::OnceLock;

use gix_hash::ObjectId;
use trimtab::trust::blocks::AnyKey;
use trimtab::trust::cert::Authority;
use trimtab::trust::minisign::MinisignKey;
use trimtab::trust::policy::RootFile;
use trimtab::trust::pubkey::PublicKey;
use trimtab::trust::signers::{Line, Signers};
use trimtab::trust::threshold::NamedKey;

use crate::release::{Hand, Quick, REPO_ID};

/// What every signature in `known` is over, but for commits and tags.
pub const PAYLOAD: &[u8] = b"what was signed\n";
/// When certificates and OpenPGP keys are asked: within the life of those in `known`.
pub const NOW: u64 = 1_800_000_000;

/// A file of `tests/fuzz/known`.
///
/// # Panics
/// If it is not there.
pub fn file(name: &str) -> Vec<u8> {
    let path = super::folder().join("known").join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn text(name: &str) -> String {
    String::from_utf8(file(name)).expect("because it was made as text")
}

/// The kinds of SSH keys in `known`, as NAME.pub and NAME.sig.
pub const SSH: [&str; 6] = ["ed25519", "rsa", "p256", "p384", "sk-ed25519", "sk-p256"];
/// A signature with a certificate by `authority.pub`.
pub const CERTIFIED: &str = "certified";

/// Whom commits may be signed by: all kinds of keys, an authority, an OpenPGP certificate.
pub fn signers() -> &'static Signers {
    static SIGNERS: OnceLock<Signers> = OnceLock::new();
    SIGNERS.get_or_init(|| {
        let mut signers = Signers::default();
        for name in SSH {
            signers.push(line(&text(&format!("{name}.pub"))));
        }
        signers.push(line(&format!("cert-authority,principals=\"ann\" {}", text("authority.pub"))));
        signers.openpgp.push(openpgp());
        signers
    })
}

fn line(text: &str) -> Line {
    Line::parse(text.trim_end()).expect("because ssh-keygen wrote it")
}

/// The authority of certificates alone.
pub fn authority() -> &'static Authority {
    signers().authorities.first().expect("because it was pushed")
}

fn openpgp() -> trimtab::trust::openpgp::Certificate {
    let (armor, print) = (text("openpgp.asc"), text("openpgp.fingerprint"));
    trimtab::trust::openpgp::Certificate::parse(&armor, print.trim_end(), "ann").expect("because gpg wrote it")
}

/// The SSH keys as those of releases.
pub fn any_keys() -> &'static [AnyKey] {
    static KEYS: OnceLock<Vec<AnyKey>> = OnceLock::new();
    KEYS.get_or_init(|| {
        let ssh = signers().keys.iter().map(|trusted| AnyKey::Ssh(trusted.key.clone()));
        ssh.chain([AnyKey::Minisign(minisign())]).collect()
    })
}

/// The minisign key.
pub fn minisign() -> MinisignKey {
    let text = text("minisign.pub");
    text.lines().nth(1).and_then(|line| line.parse().ok()).expect("because minisign wrote it")
}

/// The signatures over [`PAYLOAD`] by SSH keys and the certificate, as they were made.
pub fn signatures() -> &'static [(&'static str, Vec<u8>)] {
    static ALL: OnceLock<Vec<(&str, Vec<u8>)>> = OnceLock::new();
    ALL.get_or_init(|| SSH.iter().chain([&CERTIFIED]).map(|name| (*name, file(&format!("{name}.sig")))).collect())
}

/// Whether an SSH signature was really made. ECDSA lets anybody make a twin of one: of that only what is before the two numbers is compared.
pub fn was_made(armor: &[u8], made: &[(&str, Vec<u8>)]) -> bool {
    made.iter().any(|(name, one)| {
        if one == armor {
            return true;
        }
        let (one, other) = (crate::git::dearmor(one), crate::git::dearmor(armor));
        // The numbers of P-256 and P-384 with their lengths, and what a security key adds.
        let tail = if *name == "p384" { 112 } else { 82 };
        let is_twin = matches!(*name, "p256" | "p384" | "sk-p256");
        is_twin && one.len().abs_diff(other.len()) <= 2 && one[..one.len() - tail] == other[..one.len() - tail]
    })
}

/// A root of which two of three keys of this process are asked, and the texts of those that follow it with what they signed.
pub struct Roots {
    /// Root 1.
    pub first: RootFile,
    /// Versions 2 and 3: text and signatures.
    pub next: Vec<(String, Vec<u8>)>,
}

/// The names and keys of [`roots`].
pub fn quick() -> [(&'static str, Quick); 3] {
    [("ann", Quick::new(1)), ("bob", Quick::new(2)), ("eve", Quick::new(3))]
}

fn root_text(version: u64) -> String {
    let keys = quick().iter().map(|(name, key)| format!("{name} = \"{}\"\n", key.line())).collect::<Vec<_>>().concat();
    let role = "threshold = 2\nkeys = [\"ann\", \"bob\", \"eve\"]\n";
    format!(
        "type = \"trimtab-root\"\nrepo = \"{REPO_ID}\"\nversion = {version}\nepoch = 1\n[keys]\n{keys}[root]\n{role}[release.production]\n{role}\
         [alive.production]\nthreshold = 1\nkeys = [\"ann\"]\n[commit.main]\nkeys = [\"ann\", \"bob\"]\n"
    )
}

/// The chain.
pub fn roots() -> &'static Roots {
    static ROOTS: OnceLock<Roots> = OnceLock::new();
    ROOTS.get_or_init(|| {
        let first = RootFile::parse("1.toml", &root_text(1)).expect("because it is a root file");
        let signed = |version| {
            let text = root_text(version);
            let hands = quick();
            let blocks =
                hands.iter().take(2).flat_map(|(_, key)| Hand::Quick(key).block("trimtab-root", text.as_bytes())).collect();
            (text, blocks)
        };
        Roots { first, next: vec![signed(2), signed(3)] }
    })
}

/// A release of [`roots`]' production channel, signed by two: the whole tag.
pub fn release() -> &'static [u8] {
    static TAG: OnceLock<Vec<u8>> = OnceLock::new();
    TAG.get_or_init(|| {
        let commit = ObjectId::from_hex(b"b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0").expect("because it is an id");
        let mut tag = format!(
            "object {commit}\ntype commit\ntag production/1.7\ntagger {}\n\ntrimtab-release v1\nrepo: {REPO_ID}\nchannel: production\nepoch: 1\nseq: 7\n\
             commit: {commit}\ntree: 4b825dc642cb6eb9a060e54bf8d69288fbee4904\nroot: 1\nissued: 2027-01-15T08:00:00Z\n\
             expires: 2027-03-16T08:00:00Z\nx-ticket: OPS-7\n\n",
            crate::git::IDENTITY
        )
        .into_bytes();
        for (_, key) in quick().iter().take(2) {
            let block = Hand::Quick(key).block("git", &tag);
            tag.extend(block);
        }
        tag
    })
}

/// The keys of a root's role, by name.
pub fn named_keys(names: &[&str]) -> Vec<NamedKey> {
    let all = &roots().first.root.keys;
    all.iter().filter(|named| names.contains(&named.name.as_str())).cloned().collect()
}

/// An SSH key by its file in `known`.
pub fn ssh_key(name: &str) -> PublicKey {
    match line(&text(&format!("{name}.pub"))) {
        Line::Key(key) => key.key,
        Line::Authority(authority) => authority.key,
    }
}
