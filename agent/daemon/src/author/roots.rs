//! The root files of a tree as people work on them: all versions, complete or not, and who signed what.
//!
//! Guarantees: a version counts as complete by the rule of the devices: enough keys of the version before, and enough of its own, signed it.
//! Limits: the first version has nobody before it: a device pins it.

use trimtab_model::finding::Findings;

use super::AuthorError;
use crate::trust::blocks::{self, AnyKey, OPENPGP};
use crate::trust::minisign::MinisignKey;
use crate::trust::pubkey::PublicKey;
use crate::trust::root::{FOLDER, Role, Root};
use crate::trust::threshold::{NamedKey, Quorum, ROOT_NAMESPACE};

use super::draft::not_counted;

/// More versions than this are no history of keys.
const MAX_VERSIONS: u64 = 10_000;

/// One version.
#[derive(Debug, Clone)]
pub struct Version {
    /// What it says.
    pub root: Root,
    /// Its text, of which the signatures are.
    pub text: String,
    /// The content of its `.sig` file; empty when there is none.
    pub signatures: Vec<u8>,
}

/// How far one of the quorums of a version has come.
#[derive(Debug, Clone)]
pub struct Progress {
    /// What is counted, e.g. `the keys of root 1`.
    pub role: String,
    /// How many it takes.
    pub need: usize,
    /// The names of those who may.
    pub of: Vec<String>,
    /// The names of those who did.
    pub have: Vec<String>,
}

impl Progress {
    /// Whether it is enough.
    pub fn is_met(&self) -> bool {
        self.have.len() >= self.need
    }
}

/// All versions of a tree, from the first in a row.
#[derive(Debug, Clone)]
pub struct Roots(pub Vec<Version>);

/// Where the signatures of a version lie in the tree.
pub fn signatures_path(version: u64) -> String {
    format!("{FOLDER}/{version}.sig")
}

impl Roots {
    /// Reads them, by a function that has the content of a file of the tree.
    pub fn read(mut file: impl FnMut(&str) -> Result<Option<Vec<u8>>, AuthorError>) -> Result<Self, AuthorError> {
        let mut versions = Vec::new();
        for version in 1..=MAX_VERSIONS {
            let path = Root::path(version);
            let Some(bytes) = file(&path)? else { break };
            let text = String::from_utf8(bytes).map_err(|_| AuthorError::refused(format!("{path} is not UTF-8")))?;
            let root = Root::parse(&path, &text).map_err(|findings: Findings| AuthorError::refused(findings.draw(false)))?;
            if root.version != version {
                return Err(AuthorError::refused(format!(
                    "{path} says that it is version {}; a root's file has the name of its version",
                    root.version
                )));
            }
            versions.push(Version { root, text, signatures: file(&signatures_path(version))?.unwrap_or_default() });
        }
        Ok(Self(versions))
    }

    /// The newest version, complete or not.
    pub fn newest(&self) -> Result<&Version, AuthorError> {
        self.0.last().ok_or_else(|| {
            AuthorError::refused(format!(
                "there is no {}: make it with `trimtab trust init`, commit it, and try again",
                Root::path(1)
            ))
        })
    }

    /// Who has to sign a version, and who did: the keys of the one before, and its own.
    pub fn progress(&self, version: &Version) -> Vec<Progress> {
        let number = version.root.version;
        let before = self.0.iter().find(|other| other.root.version + 1 == number);
        let mut list = Vec::new();
        for judge in before.into_iter().chain([version]) {
            let quorum = judge.root.quorum(&judge.root.root);
            let have = signers(version, &quorum).into_iter().map(|named| named.name).collect();
            let of = quorum.keys.iter().map(|named| named.name.clone()).collect();
            list.push(Progress { role: format!("the keys of root {}", judge.root.version), need: quorum.threshold, of, have });
        }
        list
    }

    /// Whether a version is signed as it must be, and follows the one before it.
    pub fn is_complete(&self, version: &Version) -> bool {
        self.fault(version).is_none() && self.progress(version).iter().all(Progress::is_met)
    }

    /// What no signature can mend: another repository, an epoch that goes back.
    pub fn fault(&self, version: &Version) -> Option<String> {
        let before = self.0.iter().find(|other| other.root.version + 1 == version.root.version)?;
        if before.root.repo != version.root.repo {
            return Some(format!(
                "it is for the repository {}, and root {} is for {}",
                version.root.repo, before.root.version, before.root.repo
            ));
        }
        (version.root.epoch < before.root.epoch)
            .then(|| format!("its epoch {} is smaller than the {} before it", version.root.epoch, before.root.epoch))
    }

    /// The newest version, which must be complete: what a release is signed under.
    pub fn in_force(&self) -> Result<&Version, AuthorError> {
        let newest = self.newest()?;
        if let Some(fault) = self.fault(newest) {
            return Err(AuthorError::refused(format!("root {} can follow no other: {fault}", newest.root.version)));
        }
        let missing: Vec<String> = self.progress(newest).iter().filter(|one| !one.is_met()).map(Self::missing).collect();
        if missing.is_empty() {
            return Ok(newest);
        }
        Err(AuthorError::refused(format!(
            "root {} is not signed by enough of those who must: {}; have it signed (`trimtab trust sign`), commit it, and try again",
            newest.root.version,
            missing.join("; ")
        )))
    }

    /// "2 of ann, bob, safe (the keys of root 1) must, and ann has".
    pub fn missing(progress: &Progress) -> String {
        let have = if progress.have.is_empty() { "nobody has".to_owned() } else { format!("{} has", progress.have.join(" and ")) };
        format!("{} of {} ({}) must, and {have}", progress.need, progress.of.join(", "), progress.role)
    }

    /// Puts a signature to a version; who made it.
    pub fn add(&mut self, number: u64, block: &[u8]) -> Result<NamedKey, AuthorError> {
        let at = self.0.iter().position(|version| version.root.version == number);
        let at = at.ok_or_else(|| AuthorError::refused(format!("there is no root {number}")))?;
        let before = at.checked_sub(1).map(|before| &self.0[before].root);
        // Either role's signature brings it further.
        let root = &self.0[at].root;
        let mut quorum = root.quorum(&root.root);
        if let Some(before) = before {
            for named in before.quorum(&before.root).keys {
                if !quorum.keys.iter().any(|known| known.key == named.key) {
                    quorum.keys.push(named);
                }
            }
        }
        let blocks = blocks::only(block).map_err(|error| AuthorError::refused(error.to_string()))?;
        let [one] = blocks.as_slice() else { return Err(AuthorError::refused("expected one signature")) };
        let found = one.signer(self.0[at].text.as_bytes(), ROOT_NAMESPACE, quorum.keys.iter().map(|named| &named.key));
        let role = format!("root {number}");
        let key = found.map_err(|fault| AuthorError::refused(not_counted(&fault, &quorum, &role, root)))?;
        let named = quorum.keys.iter().find(|named| named.key == *key);
        let named = (*named.expect("because it was found among them")).clone();
        if signers(&self.0[at], &quorum).contains(&named) {
            return Err(AuthorError::refused(format!("{} has signed root {number} already, and a key counts once", named.name)));
        }
        self.0[at].signatures.extend(block);
        Ok(named)
    }
}

fn signers(version: &Version, quorum: &Quorum<'_>) -> Vec<NamedKey> {
    let blocks = blocks::only(&version.signatures).unwrap_or_default();
    let signed = |named: &NamedKey| {
        let by =
            |block: &blocks::Block<'_>| block.signer(version.text.as_bytes(), ROOT_NAMESPACE, std::iter::once(&named.key)).is_ok();
        blocks.iter().any(by)
    };
    quorum.keys.iter().filter(|named| signed(named)).map(|named| (*named).clone()).collect()
}

/// A key as people name it: a `.pub` file of ssh-keygen's or minisign's, an SSH line, or `minisign:RW…`.
pub fn key(given: &str) -> Result<AnyKey, AuthorError> {
    let refused = |why: String| AuthorError::refused(format!("the key {given}: {why}"));
    if let Some(minisign) = given.strip_prefix("minisign:") {
        return minisign.parse::<MinisignKey>().map(AnyKey::Minisign).map_err(|error| refused(error.to_string()));
    }
    if given.contains(' ') && ["ssh-", "ecdsa-", "sk-"].iter().any(|begin| given.starts_with(begin)) {
        return ssh(given).map_err(refused);
    }
    if given.starts_with("openpgp:") {
        return Err(refused(format!("it is {OPENPGP}")));
    }
    let path = super::signing::home(given);
    let bytes = super::programs::read(&path, 64 << 10)?;
    let text = String::from_utf8(bytes).map_err(|_| refused("it is not text".to_owned()))?;
    if text.contains("PRIVATE KEY") || text.starts_with("untrusted comment: minisign encrypted secret key") {
        return Err(AuthorError::refused(format!("{} is a secret key; give the public one", path.display())));
    }
    if text.contains("-----BEGIN PGP ") {
        return Err(refused(format!("it is {OPENPGP}")));
    }
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
    match lines.as_slice() {
        [comment, key] if comment.starts_with("untrusted comment:") => {
            key.parse::<MinisignKey>().map(AnyKey::Minisign).map_err(|error| refused(error.to_string()))
        }
        [line] if line.contains(' ') => ssh(line).map_err(refused),
        [line] => line.parse::<MinisignKey>().map(AnyKey::Minisign).map_err(|error| refused(error.to_string())),
        _ => Err(refused("expected one public key, as ssh-keygen or minisign writes it".to_owned())),
    }
}

fn ssh(line: &str) -> Result<AnyKey, String> {
    use base64::Engine as _;
    let mut words = line.split_whitespace();
    let (kind, base64) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let blob = base64::engine::general_purpose::STANDARD.decode(base64).map_err(|_| "its second word is not base64".to_owned())?;
    let key = PublicKey::parse(&blob).map_err(|error| error.to_string())?;
    if key.kind() != kind {
        return Err(format!("it says that it is {kind:?}, but it is {}", key.kind()));
    }
    Ok(AnyKey::Ssh(key))
}

/// A new role: of these keys, this many.
pub fn role(threshold: usize, keys: &[String]) -> Role {
    Role { threshold, keys: keys.to_vec() }
}

/// More than half: two of three, three of five.
pub fn majority(count: usize) -> usize {
    count / 2 + 1
}
