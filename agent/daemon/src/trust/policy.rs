//! What `trust.toml` says beside keys: the mode, the root that is pinned, and what release mode asks for.
//!
//! ```toml
//! mode = "release"
//! channel = "production"
//! repo = "1b4e28ba-2fa1-11d2-883f-0016d3cca427"
//! root = "/etc/trimtab/root.toml"      # or: root-digest = "sha256:…"
//! min-epoch = 1                        # optional: nothing below is ever accepted
//! min-seq = 40
//! require-state = false
//! on-stale = "continue"                # or "hold"
//! ```
//!
//! Guarantees: as in [`super::keys`]: nothing unknown is skipped, every refusal names line and column, all at once.
//! Limits: a pinned root file is named here and read by [`TrustConfig::load`](super::keys::TrustConfig::load).

use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;
use trimtab_model::digest::Digest;
use trimtab_model::finding::{Finding, Findings};

use super::keys::{Source, one};
use super::root::Root;
use super::statement::{Channel, MAX_NUMBER, Place, RepoId};

/// How a host decides what to believe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// Signed commits of one branch.
    Commit,
    /// Signed statements of one channel.
    Release(ReleasePolicy),
}

/// What release mode asks for beside the root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReleasePolicy {
    /// The channel that this host follows.
    pub channel: Channel,
    /// Nothing below is ever accepted, whatever this host remembers. Zero: no floor.
    pub floor: Place,
    /// A host that has lost its memory waits for a person instead of falling back to the floor.
    pub require_state: bool,
    /// What an expired statement means for what is new.
    pub on_stale: OnStale,
}

/// What is done with a release that is not known to be fresh. The host is held on the last good state in either case.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnStale {
    /// It is taken, and told as stale.
    #[default]
    Continue,
    /// It is not taken.
    Hold,
}

/// Where trust begins: a repository, and a root file of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Anchor {
    /// The repository's own name.
    pub repo: RepoId,
    /// The root file.
    pub pin: Pin,
}

/// Which root file is the first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pin {
    /// The file with these bytes; it is taken from the tree.
    Digest(Digest),
    /// This one.
    File(RootFile),
    /// The one that lies here, not read yet.
    Path(PathBuf),
}

/// A root file that is believed, as it is: its bytes are what was signed.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RootFile {
    /// What it says.
    pub root: Root,
    /// Its text.
    pub text: String,
}

impl RootFile {
    /// Reads the text of a root file that is called `file` in what is refused. Whether it is to be believed was settled before.
    pub fn parse(file: &str, text: &str) -> Result<Self, Findings> {
        Root::parse(file, text).map(|root| Self { root, text: text.to_owned() })
    }

    /// By what it can be pinned.
    pub fn digest(&self) -> Digest {
        super::root::pin_of(&self.text)
    }
}

impl TryFrom<String> for RootFile {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        Self::parse("root", &text).map_err(|findings| findings.to_string())
    }
}

impl From<RootFile> for String {
    fn from(file: RootFile) -> Self {
        file.text
    }
}

/// The three keys that pin a root, as any mode has them.
pub(super) struct RawAnchor<'a> {
    pub(super) repo: Option<&'a Spanned<String>>,
    pub(super) root: Option<&'a Spanned<PathBuf>>,
    pub(super) digest: Option<&'a Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct File {
    #[serde(rename = "mode")]
    _mode: String,
    channel: Spanned<String>,
    repo: Spanned<String>,
    root: Option<Spanned<PathBuf>>,
    root_digest: Option<Spanned<String>>,
    min_epoch: Option<Spanned<i64>>,
    min_seq: Option<Spanned<i64>>,
    #[serde(default)]
    require_state: bool,
    #[serde(default)]
    on_stale: OnStale,
}

/// Reads the text of a `trust.toml` whose mode is `release`.
pub(super) fn release(source: &Source<'_>) -> Result<(ReleasePolicy, Anchor), Findings> {
    let raw: File = toml::from_str(source.text).map_err(|error| source.syntax(&error))?;
    let mut findings = Findings::default();
    let channel = raw.channel.get_ref().parse::<Channel>();
    if let Err(why) = &channel {
        findings
            .push(Finding::new(*why, source.spot(raw.channel.span(), "")).help("write the channel's name, such as `production`"));
    }
    let pins = RawAnchor { repo: Some(&raw.repo), root: raw.root.as_ref(), digest: raw.root_digest.as_ref() };
    let anchor = pins.read(source, &mut findings);
    let mut number = |number: Option<&Spanned<i64>>| {
        let Some(number) = number else { return 0 };
        let value = u64::try_from(*number.get_ref()).ok().filter(|value| *value <= MAX_NUMBER);
        if value.is_none() {
            findings.push(
                Finding::new("this number must not be negative", source.spot(number.span(), "")).help("write 0 for no floor"),
            );
        }
        value.unwrap_or(0)
    };
    let floor = Place { epoch: number(raw.min_epoch.as_ref()), seq: number(raw.min_seq.as_ref()) };
    match (channel, anchor) {
        (Ok(channel), Some(anchor)) => {
            let policy = ReleasePolicy { channel, floor, require_state: raw.require_state, on_stale: raw.on_stale };
            findings.or((policy, anchor))
        }
        _ => Err(findings),
    }
}

impl RawAnchor<'_> {
    /// Whether any of them is there.
    pub(super) fn is_given(&self) -> bool {
        self.repo.is_some() || self.root.is_some() || self.digest.is_some()
    }

    /// What is pinned; `None`: what is wrong with it stands in `findings`.
    pub(super) fn read(&self, source: &Source<'_>, findings: &mut Findings) -> Option<Anchor> {
        let repo = match self.repo.map(|repo| (repo.get_ref().parse::<RepoId>(), repo.span())) {
            Some((Ok(repo), _)) => Some(repo),
            Some((Err(why), span)) => {
                let help = "it stands in the root file, `repo = \"…\"`";
                findings.push(Finding::new(why, source.spot(span, "")).help(help));
                None
            }
            None => {
                let spot = source.spot(0..0, "");
                findings.push(
                    Finding::new("`repo` is missing", spot)
                        .help("a pinned root needs the repository's id: it stands in the root file"),
                );
                None
            }
        };
        let pin = match (self.root, self.digest) {
            (Some(root), Some(digest)) => {
                let finding = Finding::new("the root is pinned twice", source.spot(digest.span(), ""));
                findings.push(finding.also(source.spot(root.span(), "first here")).help("keep one of `root` and `root-digest`"));
                None
            }
            (None, None) => {
                let help =
                    "add `root = \"/etc/trimtab/root.toml\"` or `root-digest = \"sha256:…\"` (`trimtab trust show` prints it)";
                findings.push(Finding::new("no root is pinned", source.spot(0..0, "")).help(help));
                None
            }
            (Some(root), None) => Some(Pin::Path(root.get_ref().clone())),
            (None, Some(digest)) => {
                let parsed = digest.get_ref().parse().ok();
                if parsed.is_none() {
                    let finding = Finding::new("this is not a digest", source.spot(digest.span(), ""));
                    let help = "write `sha256:` and 64 hexadecimal digits in lower case, as `trimtab trust show` prints it";
                    findings.push(finding.help(help));
                }
                parsed.map(Pin::Digest)
            }
        };
        Some(Anchor { repo: repo?, pin: pin? })
    }
}

impl Anchor {
    /// The same with its root file read: `text` is what lies where it says, `file` its name in what is refused.
    pub fn with_root(self, file: &str, text: &str) -> Result<Self, Findings> {
        let read = RootFile::parse(file, text)?;
        if read.root.repo != self.repo {
            let at = text.find("repo").unwrap_or_default();
            let source = Source { file, text };
            let message = format!("this root is of another repository than trust.toml names ({})", self.repo);
            return Err(one(Finding::new(message, source.spot(at..at + 4, ""))
                .help("pin the root file of the repository that this host follows")));
        }
        Ok(Self { pin: Pin::File(read), ..self })
    }

    /// The digest of the pinned root file; `None`: it was not read.
    pub fn digest(&self) -> Option<Digest> {
        match &self.pin {
            Pin::Digest(digest) => Some(*digest),
            Pin::File(file) => Some(file.digest()),
            Pin::Path(_) => None,
        }
    }

    /// Where the root file lies, when it is still to be read; a relative path is meant from the folder of trust.toml.
    pub(super) fn path(&self, folder: &Path) -> Option<PathBuf> {
        match &self.pin {
            Pin::Path(path) => Some(folder.join(path)),
            _ => None,
        }
    }

    /// All of it as text, for a digest.
    pub(super) fn text(&self) -> String {
        let pin = match &self.pin {
            Pin::Digest(digest) => digest.to_string(),
            Pin::File(file) => file.digest().to_string(),
            Pin::Path(path) => path.display().to_string(),
        };
        format!("{} {pin}", self.repo)
    }
}
