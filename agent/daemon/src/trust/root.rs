//! A root file: which keys may sign what, and how many of them it takes. Each version is signed by those of the one before and by its own.
//!
//! ```toml
//! type = "trimtab-root"
//! repo = "1b4e28ba-2fa1-11d2-883f-0016d3cca427"
//! version = 2
//! epoch = 1
//! [keys]
//! ann = "ssh-ed25519 AAAA…"
//! safe = "minisign:RW…"
//! [root]
//! threshold = 2
//! keys = ["ann", "safe"]
//! [release.production]
//! threshold = 2
//! keys = ["ann", "safe"]
//! [alive.production]
//! threshold = 1
//! keys = ["ann"]
//! [commit.main]
//! keys = ["ann"]          # threshold is always 1
//! ```
//!
//! Guarantees: every key can verify, has one name and stands once; every threshold can be met; nothing unknown is skipped; every refusal names line
//! and column, all at once. What is written ([`Root::to_text`]) parses to the same value.
//! Limits: who signed it is for [`chain`](super::chain) to say. Whoever parses a text has checked a digest of it or signatures over it before.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use toml::Spanned;
use trimtab_model::digest::Digest;
use trimtab_model::finding::{Finding, Findings, Spot};

use super::blocks::AnyKey;
use super::keys::{Source, one};
use super::minisign::MinisignError;
use super::statement::{Channel, MAX_NUMBER, RepoId};
use super::threshold::{NamedKey, Quorum};

/// The largest root file, and the largest file of its signatures, in bytes.
pub const MAX_ROOT: u64 = 64 << 10;
/// The most keys in one.
const MAX_KEYS: usize = 100;
/// What `type` must say.
const TYPE: &str = "trimtab-root";
/// Where root files are in the tree.
pub const FOLDER: &str = ".trimtab/root";
/// What a minisign key begins with.
const MINISIGN: &str = "minisign:";

/// How many of which keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Role {
    /// How many distinct keys it takes; at least one, and not more than there are.
    pub threshold: usize,
    /// Their names.
    pub keys: Vec<String>,
}

/// A root file that was understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    /// The repository it is for.
    pub repo: RepoId,
    /// Its version: the name of its file.
    pub version: u64,
    /// The epoch: a release of another one does not count.
    pub epoch: u64,
    /// All keys, by name.
    pub keys: Vec<NamedKey>,
    /// Who may replace it.
    pub root: Role,
    /// Who may release to which channel.
    pub release: BTreeMap<Channel, Role>,
    /// Who may say how far a channel has come.
    pub alive: BTreeMap<Channel, Role>,
    /// Who may sign commits of which branch; one of them is enough.
    pub commit: BTreeMap<String, Role>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(rename = "type")]
    kind: Spanned<String>,
    repo: Spanned<String>,
    version: Spanned<i64>,
    epoch: Spanned<i64>,
    keys: BTreeMap<Spanned<String>, Spanned<String>>,
    root: Spanned<RawRole>,
    #[serde(default)]
    release: BTreeMap<Spanned<String>, Spanned<RawRole>>,
    #[serde(default)]
    alive: BTreeMap<Spanned<String>, Spanned<RawRole>>,
    #[serde(default)]
    commit: BTreeMap<Spanned<String>, Spanned<RawBranch>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRole {
    threshold: Spanned<i64>,
    keys: Spanned<Vec<Spanned<String>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawBranch {
    keys: Spanned<Vec<Spanned<String>>>,
}

impl Root {
    /// Reads the text of a file that is called `file` in what is refused.
    pub fn parse(file: &str, text: &str) -> Result<Self, Findings> {
        let source = Source { file, text };
        if text.len() as u64 > MAX_ROOT {
            return Err(one(Finding::new("it is larger than 64 KiB", source.spot(0..0, ""))));
        }
        let raw: File = toml::from_str(text).map_err(|error| source.syntax(&error))?;
        Reading { source, findings: Findings::default(), keys: Vec::new() }.root(raw)
    }

    /// The key with this name.
    pub fn key(&self, name: &str) -> Option<&NamedKey> {
        self.keys.iter().find(|named| named.name == name)
    }

    /// Who must sign for a role of this file.
    pub fn quorum(&self, role: &Role) -> Quorum<'_> {
        Quorum { threshold: role.threshold, keys: role.keys.iter().filter_map(|name| self.key(name)).collect() }
    }

    /// Which keys, and how many of them, may say how far a channel has come: one digest over all of it, and over what it is for. `None`: nobody.
    pub fn alive_print(&self, channel: &str) -> Option<Digest> {
        let (_, role) = self.alive.iter().find(|(name, _)| name.as_str() == channel)?;
        let mut keys: Vec<String> = self.quorum(role).keys.iter().map(|named| key_text(&named.key)).collect();
        keys.sort_unstable();
        Some(Digest::of(format!("{}\n{channel}\n{}\n{}", self.repo, role.threshold, keys.join("\n")).as_bytes()))
    }

    /// Where it lies in the tree.
    pub fn path(version: u64) -> String {
        format!("{FOLDER}/{version}.toml")
    }

    /// The text of the file; comments of one that was read are not kept.
    pub fn to_text(&self) -> String {
        let quote = |text: &str| serde_json::to_string(text).expect("because a string always serialises");
        let list = |names: &[String]| names.iter().map(|name| quote(name)).collect::<Vec<_>>().join(", ");
        let mut text =
            format!("type = \"{TYPE}\"\nrepo = \"{}\"\nversion = {}\nepoch = {}\n\n[keys]\n", self.repo, self.version, self.epoch);
        for NamedKey { name, key } in &self.keys {
            let _ = writeln!(text, "{} = {}", quote(name), quote(&key_text(key)));
        }
        let mut role = |table: &str, role: &Role| {
            let _ = write!(text, "\n[{table}]\nthreshold = {}\nkeys = [{}]\n", role.threshold, list(&role.keys));
        };
        role("root", &self.root);
        for (channel, keys) in &self.release {
            role(&format!("release.{}", quote(channel.as_str())), keys);
        }
        for (channel, keys) in &self.alive {
            role(&format!("alive.{}", quote(channel.as_str())), keys);
        }
        for (branch, keys) in &self.commit {
            let _ = write!(text, "\n[commit.{}]\nkeys = [{}]\n", quote(branch), list(&keys.keys));
        }
        text
    }
}

/// The digest by which a root file is pinned: of its bytes.
pub fn pin_of(text: &str) -> Digest {
    Digest::of(text.as_bytes())
}

/// A key as root files write it: `ssh-ed25519 AAAA…`, `minisign:RW…`.
pub fn key_text(key: &AnyKey) -> String {
    match key {
        AnyKey::Ssh(key) => format!("{} {}", key.kind(), STANDARD.encode(key.blob())),
        AnyKey::Minisign(key) => format!("{MINISIGN}{key}"),
    }
}

/// A text on the way to a root, and what is wrong with it so far.
struct Reading<'a> {
    source: Source<'a>,
    findings: Findings,
    keys: Vec<NamedKey>,
}

impl Reading<'_> {
    fn root(mut self, raw: File) -> Result<Root, Findings> {
        if raw.kind.get_ref() != TYPE {
            self.refuse(raw.kind.span(), "this is no root file", "write `type = \"trimtab-root\"`");
        }
        let repo = raw.repo.get_ref().parse::<RepoId>();
        if let Err(why) = &repo {
            self.refuse(raw.repo.span(), why, "run `uuidgen` once, and keep what it prints for ever");
        }
        let version = self.number(&raw.version);
        let epoch = self.number(&raw.epoch);
        self.keys(&raw.keys);
        let root = self.role(&raw.root.get_ref().threshold, &raw.root.get_ref().keys);
        let release = self.channels(&raw.release);
        let alive = self.channels(&raw.alive);
        let mut commit = BTreeMap::new();
        for (name, branch) in &raw.commit {
            if let Err(finding) = self.source.branch(name) {
                self.findings.push(finding);
            }
            let keys = self.names(&branch.get_ref().keys);
            commit.insert(name.get_ref().clone(), Role { threshold: 1, keys });
        }
        let Ok(repo) = repo else { return Err(self.findings) };
        let keys = self.keys;
        self.findings.or(Root { repo, version, epoch, keys, root, release, alive, commit })
    }

    fn refuse(&mut self, span: std::ops::Range<usize>, message: &str, help: &str) {
        self.findings.push(Finding::new(message, self.source.spot(span, "")).help(help));
    }

    fn number(&mut self, number: &Spanned<i64>) -> u64 {
        let value = u64::try_from(*number.get_ref()).ok().filter(|number| (1..=MAX_NUMBER).contains(number));
        if value.is_none() {
            self.refuse(number.span(), "this number must be at least 1", "count from 1");
        }
        value.unwrap_or(1)
    }

    fn keys(&mut self, raw: &BTreeMap<Spanned<String>, Spanned<String>>) {
        let mut lines: Vec<_> = raw.iter().collect();
        lines.sort_by_key(|(name, _)| name.span().start);
        if lines.len() > MAX_KEYS {
            self.refuse(lines[MAX_KEYS].0.span(), "there are more than 100 keys", "keep those that are used");
            return;
        }
        for (name, text) in lines {
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_.@".contains(c);
            if name.get_ref().is_empty() || name.get_ref().len() > 64 || !name.get_ref().chars().all(plain) {
                self.refuse(name.span(), "this is not a plain name", "use at most 64 letters, digits, `-`, `_`, `.` and `@`");
            }
            match self.key(text) {
                Err(finding) => self.findings.push(finding),
                Ok(key) => match self.keys.iter().find(|known| point(&known.key) == point(&key)) {
                    Some(known) => {
                        // One key under two names, or in two forms, would meet a threshold of two alone.
                        let message = format!("this is the key that is called {:?} too", known.name);
                        self.refuse(text.span(), &message, "a key has one name: remove one of the two lines");
                    }
                    None => self.keys.push(NamedKey { name: name.get_ref().clone(), key }),
                },
            }
        }
    }

    fn key(&self, line: &Spanned<String>) -> Result<AnyKey, Finding> {
        let text = line.get_ref();
        let refuse = |message: &str| Finding::new(message, self.source.spot(line.span(), ""));
        if text.starts_with("openpgp:") {
            return Err(refuse("OpenPGP keys do not count in releases").help("use an SSH or a minisign key"));
        }
        match text.strip_prefix(MINISIGN).map(str::parse) {
            Some(Ok(key)) => Ok(AnyKey::Minisign(key)),
            Some(Err(error @ MinisignError::Secret)) => {
                // Without the text of the line: it would end in a log.
                let spot = Spot { text: String::new(), ..self.source.spot(line.span(), "") };
                Err(Finding::new(error.to_string(), spot))
            }
            Some(Err(error)) => Err(refuse(&error.to_string())),
            None => self.source.key(line).map(|trusted| AnyKey::Ssh(trusted.key)),
        }
    }

    fn channels(&mut self, raw: &BTreeMap<Spanned<String>, Spanned<RawRole>>) -> BTreeMap<Channel, Role> {
        let mut channels = BTreeMap::new();
        for (name, role) in raw {
            let role = self.role(&role.get_ref().threshold, &role.get_ref().keys);
            match name.get_ref().parse::<Channel>() {
                Ok(channel) => {
                    channels.insert(channel, role);
                }
                Err(why) => self.refuse(name.span(), why, "rename it"),
            }
        }
        channels
    }

    fn role(&mut self, threshold: &Spanned<i64>, keys: &Spanned<Vec<Spanned<String>>>) -> Role {
        let names = self.names(keys);
        let need = usize::try_from(*threshold.get_ref()).unwrap_or(0);
        if need == 0 || need > keys.get_ref().len() {
            let message = format!("this threshold cannot be met: there are {} keys", keys.get_ref().len());
            self.refuse(threshold.span(), &message, "write a number from 1 to the number of keys");
        }
        Role { threshold: need.max(1), keys: names }
    }

    fn names(&mut self, keys: &Spanned<Vec<Spanned<String>>>) -> Vec<String> {
        if keys.get_ref().is_empty() {
            self.refuse(keys.span(), "no key is named, so nothing could ever be signed", "name at least one of those under [keys]");
        }
        let mut names: Vec<String> = Vec::new();
        for name in keys.get_ref() {
            if names.contains(name.get_ref()) {
                self.refuse(name.span(), "this key is named twice", "a key counts once: remove one of the two");
            } else if !self.keys.iter().any(|known| known.name == *name.get_ref()) {
                // A key that was refused itself is told once.
                self.refuse(name.span(), "there is no usable key with this name", "name one of those under [keys]");
            }
            names.push(name.get_ref().clone());
        }
        names
    }
}

/// What makes two keys the same, in whatever form they are written.
fn point(key: &AnyKey) -> Vec<u8> {
    match key {
        AnyKey::Minisign(key) => key.point().to_vec(),
        AnyKey::Ssh(key) => key.ed25519().map_or_else(|| key.blob().to_vec(), <[u8]>::to_vec),
    }
}

#[cfg(test)]
mod tests;
