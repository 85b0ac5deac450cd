//! `/etc/trimtab/trust.toml`: the only place that says whom this host trusts. Never read from the repository.
//!
//! ```toml
//! mode = "commit"
//! branch = "main"
//! keys = ["ssh-ed25519 AAAA… ann@example.org"]
//! trailer = "production"   # optional: require `Trimtab-Channel: production`
//! min-commit = "<id>"       # optional: where nothing is remembered, a commit must be this one or descend from it
//! verify = "tip"           # or "all-since-trusted": every commit since the last accepted one is signed, too
//! ```
//!
//! Instead of `keys`, a root file may be pinned (`repo` with `root` or `root-digest`): then `[commit.<branch>]` of the newest root has the keys.
//! Release mode's keys are in [`super::policy`].
//!
//! Guarantees: every key in a loaded configuration can verify; nothing unknown is skipped; every refusal names line and column, all at once.
//! Limits: what a key's line may say is for [`signers`](super::signers).

use std::path::{Path, PathBuf};

use gix_hash::ObjectId;
use serde::Deserialize;
use toml::Spanned;
use trimtab_model::digest::Digest;
use trimtab_model::finding::{Finding, Findings, Spot};

use super::Class;
use super::owner::{OwnerError, read_owned};
use super::policy::{self, Anchor, Mode, RawAnchor};
use super::signers::{Line, Signers};
pub use super::signers::{Signer, TrustedKey};

/// The largest `trust.toml`, in bytes.
pub const MAX_FILE: u64 = 256 << 10;
/// The trailer that `trailer = …` asks for.
pub const TRAILER: &str = "Trimtab-Channel";

/// What this host trusts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustConfig {
    reference: String,
    signers: Signers,
    verify: Verify,
    trailer: Option<String>,
    min_commit: Option<ObjectId>,
    mode: Mode,
    anchor: Option<Anchor>,
}

/// Of which commits a signature is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Verify {
    /// Of the one that a branch points to: its tree is what is deployed.
    #[default]
    Tip,
    /// Of each commit that came since the last accepted one, on all sides of merges.
    AllSinceTrusted,
}

/// Why a host's trust configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TrustFileError {
    /// It cannot be read, or others could have written it.
    #[error("the trust configuration cannot be used")]
    Owner(#[from] OwnerError),
    /// What it says is wrong.
    #[error("{0}")]
    Content(Findings),
}

impl TrustFileError {
    /// A person's turn, but for a bad moment ([`OwnerError::class`]).
    pub fn class(&self) -> Class {
        match self {
            Self::Owner(error) => error.class(),
            Self::Content(_) => Class::Halt,
        }
    }
}

#[derive(Deserialize)]
struct Head {
    mode: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct File {
    #[serde(rename = "mode")]
    _mode: String,
    branch: Spanned<String>,
    keys: Option<Spanned<Vec<Spanned<String>>>>,
    openpgp: Option<Vec<Spanned<OpenPgp>>>,
    verify: Option<Spanned<String>>,
    trailer: Option<Spanned<String>>,
    min_commit: Option<Spanned<String>>,
    repo: Option<Spanned<String>>,
    root: Option<Spanned<PathBuf>>,
    root_digest: Option<Spanned<String>>,
}

/// A table `[[openpgp]]`. A build without OpenPGP reads it to refuse it at its place.
#[derive(Deserialize)]
#[cfg_attr(not(feature = "openpgp"), allow(dead_code))]
#[serde(deny_unknown_fields)]
struct OpenPgp {
    fingerprint: Spanned<String>,
    certificate: Spanned<String>,
    name: Option<String>,
}

impl TrustConfig {
    /// A digest over all of it: what was accepted under another one is judged anew.
    pub fn digest(&self) -> Digest {
        let mut text = format!("{}\n{}\n", self.reference, self.trailer.as_deref().unwrap_or_default());
        if self.verify == Verify::AllSinceTrusted {
            text.push_str("all-since-trusted\n");
        }
        if let Some(id) = self.min_commit {
            text.push_str(&format!("min-commit {id}\n"));
        }
        for line in self.signers.lines() {
            text.push_str(&format!("{line}\n"));
        }
        if let Some(anchor) = &self.anchor {
            text.push_str(&format!("{}\n", anchor.text()));
        }
        if let Mode::Release(policy) = &self.mode {
            text.push_str(&format!("{policy:?}\n"));
        }
        Digest::of(text.as_bytes())
    }

    /// Reads the file, and the root file that it pins, after checking who can write them.
    pub fn load(path: &Path) -> Result<Self, TrustFileError> {
        let text = read_owned(path, MAX_FILE)?;
        let config = Self::parse(&path.display().to_string(), &text).map_err(TrustFileError::Content)?;
        let folder = path.parent().unwrap_or(Path::new("/"));
        let Some(root) = config.anchor.as_ref().and_then(|anchor| anchor.path(folder)) else { return Ok(config) };
        let text = read_owned(&root, super::root::MAX_ROOT)?;
        config.with_root(&root.display().to_string(), &text).map_err(TrustFileError::Content)
    }

    /// The same with the root file that it pins by its path: `text` is what lies there, `file` its name in what is refused.
    pub fn with_root(self, file: &str, text: &str) -> Result<Self, Findings> {
        let anchor = self.anchor.map(|anchor| anchor.with_root(file, text)).transpose()?;
        Ok(Self { anchor, ..self })
    }

    /// Reads the text of a file that is called `file` in what is refused. A root file that it names is not read: see [`TrustConfig::load`].
    pub fn parse(file: &str, text: &str) -> Result<Self, Findings> {
        let source = Source { file, text };
        if source.is_release()? {
            let (policy, anchor) = policy::release(&source)?;
            let (reference, signers, verify) = (policy.channel.reference(), Signers::default(), Verify::Tip);
            let (mode, anchor) = (Mode::Release(policy), Some(anchor));
            return Ok(Self { reference, signers, verify, trailer: None, min_commit: None, mode, anchor });
        }
        let raw: File = toml::from_str(text).map_err(|error| source.syntax(&error))?;
        let mut findings = Findings::default();
        let reference = source.branch(&raw.branch).unwrap_or_else(|finding| {
            findings.push(finding);
            String::new()
        });
        let (signers, anchor) = source.signers(&raw, &mut findings);
        let trailer = raw.trailer.map(|trailer| source.trailer(&trailer));
        let trailer = trailer.transpose().unwrap_or_else(|finding| {
            findings.push(finding);
            None
        });
        let verify = raw.verify.map_or(Ok(Verify::Tip), |verify| source.verify(&verify)).unwrap_or_else(|finding| {
            findings.push(finding);
            Verify::Tip
        });
        let min_commit = raw.min_commit.map(|id| source.commit(&id)).transpose().unwrap_or_else(|finding| {
            findings.push(finding);
            None
        });
        findings.or(Self { reference, signers, verify, trailer, min_commit, mode: Mode::Commit, anchor })
    }

    /// The same in commit mode with these keys: those that the newest root names for its branch.
    pub(crate) fn with_keys(&self, keys: Vec<TrustedKey>) -> Self {
        Self { signers: Signers { keys, ..Signers::default() }, ..self.clone() }
    }

    /// How this host decides what to believe.
    pub fn mode(&self) -> &Mode {
        &self.mode
    }

    /// The root that is pinned; always there in release mode.
    pub fn anchor(&self) -> Option<&Anchor> {
        self.anchor.as_ref()
    }

    /// The reference beside the first whose `alive` statements prolong freshness, in release mode.
    pub fn alive_reference(&self) -> Option<String> {
        match &self.mode {
            Mode::Release(policy) => Some(policy.channel.alive_reference()),
            Mode::Commit => None,
        }
    }

    /// The ref to follow, in full, e.g. `refs/heads/main`.
    pub fn reference(&self) -> &str {
        &self.reference
    }

    /// The plain keys whose signatures count; empty where a pinned root has them.
    pub fn keys(&self) -> &[TrustedKey] {
        &self.signers.keys
    }

    /// All whose signatures count; empty where a pinned root has the keys.
    pub fn signers(&self) -> &Signers {
        &self.signers
    }

    /// Of which commits a signature is asked.
    pub fn verify(&self) -> Verify {
        self.verify
    }

    /// The commit that a first one must be or descend from, where nothing is remembered.
    pub fn min_commit(&self) -> Option<ObjectId> {
        self.min_commit
    }

    /// The channel that the trailer `Trimtab-Channel` must name, if one is required.
    pub fn trailer(&self) -> Option<&str> {
        self.trailer.as_deref()
    }
}

/// The text, for pointing into it.
pub(super) struct Source<'a> {
    pub(super) file: &'a str,
    pub(super) text: &'a str,
}

impl Source<'_> {
    pub(super) fn spot(&self, span: std::ops::Range<usize>, label: &str) -> Spot {
        Spot::at(self.file, self.text, span, label)
    }

    pub(super) fn syntax(&self, error: &toml::de::Error) -> Findings {
        let spot = error.span().map_or_else(|| Spot::file(self.file), |span| self.spot(span, ""));
        one(Finding::new(error.message().trim_end().replace('\n', ", "), spot))
    }

    // Before the rest: the keys of another mode are unknown to this one, and that would be told instead of the cause.
    fn is_release(&self) -> Result<bool, Findings> {
        let modes: Head = toml::from_str(self.text).map_err(|error| self.syntax(&error))?;
        let Some(mode) = modes.mode else {
            let finding = Finding::new("`mode` is missing", Spot::file(self.file));
            return Err(one(finding.help("add `mode = \"commit\"` or `mode = \"release\"`")));
        };
        match mode.get_ref().as_str() {
            "commit" => Ok(false),
            "release" => Ok(true),
            _ => {
                let finding = Finding::new("this mode is not known", self.spot(mode.span(), ""));
                Err(one(finding.help("write `mode = \"commit\"` or `mode = \"release\"`")))
            }
        }
    }

    /// Whom commit mode trusts: whoever is listed here, or whom a pinned root names.
    fn signers(&self, raw: &File, findings: &mut Findings) -> (Signers, Option<Anchor>) {
        let pins = RawAnchor { repo: raw.repo.as_ref(), root: raw.root.as_ref(), digest: raw.root_digest.as_ref() };
        let openpgp = raw.openpgp.as_deref().unwrap_or_default();
        let mut signers = Signers::default();
        for table in openpgp {
            self.openpgp(table, &mut signers).unwrap_or_else(|finding| findings.push(finding));
        }
        match (&raw.keys, pins.is_given()) {
            (None, true) if openpgp.is_empty() => return (signers, pins.read(self, findings)),
            (keys, true) => {
                let span = keys.as_ref().map_or_else(|| openpgp.first().map_or(0..0, Spanned::span), Spanned::span);
                let message = "keys are listed here, and a root is pinned that has keys of its own";
                let finding = Finding::new(message, self.spot(span, ""));
                findings.push(finding.help("keep `keys`, or `repo` with `root` or `root-digest`"));
            }
            (Some(keys), false) => {
                self.keys(keys, !openpgp.is_empty(), findings).into_iter().for_each(|line| signers.push(line));
            }
            (None, false) if openpgp.is_empty() => {
                let message = "`keys` is missing: no key is trusted, so no commit could ever be accepted";
                findings.push(
                    Finding::new(message, Spot::file(self.file))
                        .help("add `keys = [\"ssh-ed25519 AAAA… name\"]`, or pin a root (`repo` with `root` or `root-digest`)"),
                );
            }
            (None, false) => {}
        }
        (signers, None)
    }

    /// The lines of a list, each key once.
    fn keys(&self, lines: &Spanned<Vec<Spanned<String>>>, others: bool, findings: &mut Findings) -> Vec<Line> {
        let mut keys: Vec<(Line, std::ops::Range<usize>)> = Vec::new();
        if lines.get_ref().is_empty() && !others {
            let empty = Finding::new("no key is trusted, so no commit could ever be accepted", self.spot(lines.span(), ""));
            findings.push(empty.help("add the line of at least one public key (`cat ~/.ssh/id_ed25519.pub`)"));
        }
        for line in lines.get_ref() {
            match self.line(line) {
                Err(finding) => findings.push(finding),
                Ok(key) => match keys.iter().find(|(known, _)| known.key() == key.key()) {
                    Some((_, first)) => findings.push(
                        Finding::new("this key is listed twice", self.spot(line.span(), ""))
                            .also(self.spot(first.clone(), "first here"))
                            .help("remove one of the two lines"),
                    ),
                    None => keys.push((key, line.span())),
                },
            }
        }
        keys.into_iter().map(|(key, _)| key).collect()
    }

    pub(super) fn branch(&self, branch: &Spanned<String>) -> Result<String, Finding> {
        let name = branch.get_ref();
        let reference = if name.starts_with("refs/") { name.clone() } else { format!("refs/heads/{name}") };
        match gix_validate::reference::name(reference.as_bytes().into()) {
            Ok(_) if !name.is_empty() && reference.len() <= 1000 => Ok(reference),
            _ => Err(Finding::new("this is not the name of a branch", self.spot(branch.span(), ""))
                .help("write a name such as `main`, or a full ref such as `refs/heads/main`")),
        }
    }

    /// A plain key, where no authority can stand.
    pub(super) fn key(&self, line: &Spanned<String>) -> Result<TrustedKey, Finding> {
        match self.line(line)? {
            Line::Key(key) => Ok(key),
            Line::Authority(_) => Err(Finding::new("an authority of certificates cannot stand here", self.spot(line.span(), ""))
                .help("write the plain key; authorities are trusted by `keys` in trust.toml only")),
        }
    }

    fn line(&self, line: &Spanned<String>) -> Result<Line, Finding> {
        Line::parse(line.get_ref()).map_err(|error| {
            let spot = self.spot(line.span(), "");
            // Without the text of the line: it would end in a log.
            let spot = if error.secret { Spot { text: String::new(), ..spot } } else { spot };
            Finding::new(error.message, spot).help(error.help)
        })
    }

    #[cfg(feature = "openpgp")]
    fn openpgp(&self, table: &Spanned<OpenPgp>, signers: &mut Signers) -> Result<(), Finding> {
        use super::openpgp::Certificate;
        let OpenPgp { fingerprint, certificate, name } = table.get_ref();
        let name = name.as_deref().unwrap_or_default();
        if name.chars().any(char::is_control) || name.len() > 200 {
            let spot = self.spot(table.span(), "");
            return Err(
                Finding::new("this name has control characters or more than 200 bytes", spot).help("one short name is enough")
            );
        }
        if certificate.get_ref().contains("PRIVATE KEY") {
            let spot = Spot { text: String::new(), ..self.spot(certificate.span(), "") };
            return Err(Finding::new("this is a private key", spot)
                .help("put what `gpg --armor --export` prints here, and replace the key: it has been exposed"));
        }
        let parsed = Certificate::parse(certificate.get_ref(), fingerprint.get_ref(), name);
        let parsed = parsed.map_err(|error| Finding::new(error.message, self.spot(fingerprint.span(), "")).help(error.help))?;
        if signers.openpgp.iter().any(|known| known.fingerprint() == parsed.fingerprint()) {
            return Err(
                Finding::new("this certificate is listed twice", self.spot(fingerprint.span(), "")).help("remove one of the two")
            );
        }
        signers.openpgp.push(parsed);
        Ok(())
    }

    #[cfg(not(feature = "openpgp"))]
    fn openpgp(&self, table: &Spanned<OpenPgp>, _: &mut Signers) -> Result<(), Finding> {
        let OpenPgp { fingerprint, certificate: _, name: _ } = table.get_ref();
        Err(Finding::new("this build of trimtab does not check OpenPGP", self.spot(fingerprint.span(), ""))
            .help("sign with SSH keys (`git config gpg.format ssh`), or build trimtab with `--features openpgp`"))
    }

    fn verify(&self, verify: &Spanned<String>) -> Result<Verify, Finding> {
        match verify.get_ref().as_str() {
            "tip" => Ok(Verify::Tip),
            "all-since-trusted" => Ok(Verify::AllSinceTrusted),
            _ => Err(Finding::new("this is not a way to verify", self.spot(verify.span(), ""))
                .help("write `\"tip\"` (what is deployed is signed) or `\"all-since-trusted\"` (every commit since the last accepted one is, too)")),
        }
    }

    fn commit(&self, id: &Spanned<String>) -> Result<ObjectId, Finding> {
        ObjectId::from_hex(id.get_ref().as_bytes()).map_err(|_| {
            Finding::new("this is not the whole id of a commit", self.spot(id.span(), ""))
                .help("write all 40 (or 64) hexadecimal digits, as `git rev-parse` prints them")
        })
    }

    fn trailer(&self, trailer: &Spanned<String>) -> Result<String, Finding> {
        let name = trailer.get_ref();
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
        if name.is_empty() || name.len() > 100 || !name.chars().all(plain) {
            return Err(Finding::new("this is not the name of a channel", self.spot(trailer.span(), ""))
                .help(format!("write the word that `{TRAILER}:` must name, such as `production`")));
        }
        Ok(name.clone())
    }
}

pub(super) fn one(finding: Finding) -> Findings {
    let mut findings = Findings::default();
    findings.push(finding);
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIL5H6lzyyka+0EO7qctF56zGtbUFLZ0zN7GBeWfO6y/6";

    fn parse(text: &str) -> Result<TrustConfig, String> {
        TrustConfig::parse("trust.toml", text).map_err(|findings| findings.draw(false))
    }

    #[test]
    fn a_file_is_read() {
        let config = parse(&format!("mode = \"commit\"\nbranch = \"main\"\nkeys = [\"{KEY} ann of site 3\"]\n")).unwrap();
        assert_eq!(config.reference(), "refs/heads/main");
        assert_eq!(config.keys()[0].comment, "ann of site 3");
        assert_eq!(config.trailer(), None);
        let full = format!("mode = \"commit\"\nbranch = \"refs/heads/x/y\"\ntrailer = \"production\"\nkeys = [\"{KEY}\"]\n");
        let config = parse(&full).unwrap();
        assert_eq!((config.reference(), config.trailer()), ("refs/heads/x/y", Some("production")));
    }

    #[test]
    fn refusals_name_the_spot_and_what_to_do() {
        let with = |keys: &str| format!("mode = \"commit\"\nbranch = \"main\"\nkeys = [{keys}]\n");
        let cases = [
            ("mode = \"tofu\"\n".to_owned(), "1:8", "or `mode = \"release\"`"),
            ("mode = \"commit\"\nbranch = \"main\"\n".to_owned(), "trust.toml", "`keys` is missing"),
            (with(&format!("\"{KEY}\"")) + "repo = \"x\"\n", "3:8", "has keys of its own"),
            ("branch = \"main\"\n".to_owned(), "trust.toml", "`mode` is missing"),
            (with(""), "3:8", "no key is trusted"),
            (with(&format!("\"{KEY}\", \"{KEY} again\"")), &format!("3:{}", 8 + KEY.len() + 5), "listed twice"),
            (with("\"ssh-ed25519\""), "3:9", "not a public key"),
            (with("\"ssh-ed25519 A\""), "3:9", "not base64"),
            (with(&format!("\"{}\"", KEY.replace("ssh-ed25519", "ssh-rsa"))), "3:9", "but it is ssh-ed25519"),
            (with("\"ssh-dss AAAAB3NzaC1kc3M=\""), "3:9", "too weak"),
            (with(&format!("\"{KEY} a\\u0007b\"")), "3:9", "control characters"),
            (with(&format!("\"cert-authority,no-pty {KEY}\"")), "3:9", "is not known"),
            (with(&format!("\"{KEY}\"")) + "verify = \"all\"\n", "4:10", "not a way to verify"),
            (with(&format!("\"{KEY}\"")).replace("main", "ma in"), "2:10", "not the name of a branch"),
            (with(&format!("\"{KEY}\"")).replace("main", "../x"), "2:10", "not the name of a branch"),
            (with(&format!("\"{KEY}\"")) + "trailer = \"a b\"\n", "4:11", "not the name of a channel"),
            (with(&format!("\"{KEY}\"")) + "min-commit = \"b6fc4c6\"\n", "4:14", "whole id"),
            (with(&format!("\"{KEY}\"")) + "thresold = 2\n", "4:1", "unknown field"),
            (with(&format!("\"{KEY}\"")) + "x = [", "4:6", ""),
        ];
        for (text, place, words) in cases {
            let drawn = parse(&text).expect_err(&text);
            assert!(drawn.contains(place) && drawn.contains(words), "{place} {words}\n{text}\n{drawn}");
        }
    }

    const REPO: &str = "1b4e28ba-2fa1-11d2-883f-0016d3cca427";

    fn release(more: &str) -> String {
        format!("mode = \"release\"\nchannel = \"production\"\nrepo = \"{REPO}\"\n{more}")
    }

    #[test]
    fn release_mode_pins_a_root_by_file_or_digest() {
        let digest = format!("root-digest = \"sha256:{}\"\n", "0a".repeat(32));
        let config = parse(&release(&digest)).unwrap();
        assert_eq!((config.reference(), config.keys().len()), ("refs/trimtab/production", 0));
        assert_eq!(config.alive_reference().as_deref(), Some("refs/trimtab/production.alive"));
        let Mode::Release(policy) = config.mode() else { panic!("because it says so") };
        assert_eq!((policy.floor, policy.require_state, policy.on_stale), Default::default());
        let all = digest.clone() + "min-epoch = 2\nmin-seq = 40\nrequire-state = true\non-stale = \"hold\"\n";
        let strict = parse(&release(&all)).unwrap();
        let Mode::Release(policy) = strict.mode() else { panic!("because it says so") };
        assert_eq!((policy.floor.epoch, policy.floor.seq, policy.require_state), (2, 40, true));
        assert_ne!(strict.digest(), config.digest());
        let commit = parse(&format!("mode = \"commit\"\nbranch = \"main\"\nrepo = \"{REPO}\"\n{digest}")).unwrap();
        assert!(commit.keys().is_empty() && commit.anchor().is_some());
        for (text, place, words) in [
            (release(""), "1:1", "no root is pinned"),
            (release(&(digest.clone() + "root = \"/x\"\n")), "4:15", "pinned twice"),
            (release("root-digest = \"md5:1\"\n"), "4:15", "not a digest"),
            (release(&digest).replace("1b4e", "1B4E"), "3:8", "UUID"),
            (release(&digest).replace("production", "a/b"), "2:11", "name of a channel"),
            (release(&digest) + "min-seq = -1\n", "5:11", "negative"),
            (release(&digest) + "on-stale = \"stop\"\n", "5:12", "unknown variant"),
            (release(&digest) + "branch = \"main\"\n", "5:1", "unknown field"),
        ] {
            let drawn = parse(&text).expect_err(&text);
            assert!(drawn.contains(place) && drawn.contains(words), "{place} {words}\n{text}\n{drawn}");
        }
    }

    #[test]
    fn all_problems_are_told_at_once() {
        let found =
            TrustConfig::parse("t", "mode = \"commit\"\nbranch = \"\"\ntrailer = \"\"\nkeys = [\"a\", \"b c\"]\n").unwrap_err();
        assert_eq!(found.list.len(), 4, "{found:?}");
    }

    #[test]
    #[cfg(not(feature = "openpgp"))]
    fn a_build_without_openpgp_says_so() {
        let text = "mode = \"commit\"\nbranch = \"main\"\n[[openpgp]]\nfingerprint = \"A\"\ncertificate = \"B\"\n";
        let drawn = parse(text).unwrap_err();
        assert!(drawn.contains("4:15") && drawn.contains("--features openpgp"), "{drawn}");
    }

    #[test]
    fn a_private_key_is_not_repeated_in_the_refusal() {
        let text = "mode = \"commit\"\nbranch = \"main\"\nkeys = [\"-----BEGIN OPENSSH PRIVATE KEY-----\\nb3BlbnNzaC1rZXk\"]\n";
        let drawn = parse(text).unwrap_err();
        assert!(drawn.contains("this is a private key") && !drawn.contains("b3BlbnNzaC1rZXk"), "{drawn}");
    }
}
