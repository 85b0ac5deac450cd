//! Enrolment in release mode: where trust begins. A root file, its digest, or, by name only, whatever the repository shows first.
//!
//! Guarantees: nothing of the repository is believed but what a pinned digest names; `--tofu` is the one exception, and says all that it pinned.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;
use trimtab_model::digest::Digest;
use trimtab_model::finding::Findings;

use super::init::quote;
use crate::author::AuthorError;
use crate::author::programs::{Scratch, read};
use crate::author::reach::Reached;
use crate::author::roots::Roots;
use crate::trust::keys::TrustConfig;
use crate::trust::policy::{Mode, Pin as Pinned};
use crate::trust::root::{MAX_ROOT, Root, pin_of};
use crate::trust::statement::{Channel, RepoId};

/// Which channel, and where trust begins.
#[derive(Debug, Args)]
pub(super) struct Pin {
    /// Release mode: the channel to follow.
    #[arg(long, value_name = "NAME", required_if_eq("mode", "release"))]
    channel: Option<Channel>,
    #[command(flatten)]
    begin: Begin,
}

/// Where trust begins.
#[derive(Debug, Args)]
pub(super) struct Begin {
    /// Release mode: begin with this root file (N.toml of .trimtab/root), got from a place that you trust.
    #[arg(long, value_name = "FILE", group = "pin")]
    pub(super) root_file: Option<PathBuf>,
    /// Release mode: begin with the root file that has this digest, as `trimtab trust show` prints it.
    #[arg(long, value_name = "sha256:…", group = "pin")]
    pub(super) root_digest: Option<Digest>,
    /// Release mode: begin with whatever root the repository shows now. Whoever can answer in its name today decides what is trusted from then on.
    #[arg(long, group = "pin")]
    pub(super) tofu: bool,
    /// With --root-digest: the id of the repository, so that the root need not be fetched for it.
    #[arg(long, value_name = "UUID", requires = "root_digest")]
    repo_id: Option<RepoId>,
}

/// What an enrolment writes.
pub(super) struct Enrolled {
    /// trust.toml.
    pub(super) trust: String,
    /// The root file beside it.
    pub(super) root: Option<String>,
}

impl Pin {
    /// Settles what is pinned, asking the source of this agent.toml where it must.
    pub(super) fn settle(&self, agent_toml: &str) -> Result<Enrolled, AuthorError> {
        let channel = self.channel.as_ref().ok_or_else(|| AuthorError::refused("--channel is missing"))?;
        if !self.begin.is_given() {
            return Err(AuthorError::refused(
                "release mode begins with a root: say which with --root-digest (`trimtab trust show` prints it) or --root-file; --tofu takes whatever is there",
            ));
        }
        self.begin.settle(channel, || {
            let folder = Scratch::new()?;
            let config = folder.write("agent.toml", agent_toml.as_bytes())?;
            Reached::of_config(&config)?.roots_of_channel(channel)
        })
    }

    /// What this host trusts from now on.
    pub(super) fn explain(&self, url: &str, trust: &TrustConfig) -> String {
        let mut text = String::new();
        if let (Mode::Release(policy), Some(anchor)) = (trust.mode(), trust.anchor()) {
            let _ = writeln!(text, "Enrolled. This host will follow the channel {} of\n  {url}", policy.channel);
            let _ = writeln!(
                text,
                "and converge to nothing but releases that its root (or one that follows it) asks for.\nRepository: {}",
                anchor.repo
            );
            let pin = match &anchor.pin {
                Pinned::Digest(digest) => digest.to_string(),
                Pinned::File(file) => file.digest().to_string(),
                Pinned::Path(path) => path.display().to_string(),
            };
            let _ = writeln!(text, "Pinned:     {pin}");
        }
        if self.begin.tofu {
            text.push_str(
                "! Trusted on first use: nothing vouched for this root. Compare the digest with what `trimtab trust show` prints where\n\
                 ! the repository is at home; until then whoever answered today could be anybody.\n",
            );
        }
        text
    }
}

impl Begin {
    /// Whether any of them was given.
    pub(super) fn is_given(&self) -> bool {
        self.root_file.is_some() || self.root_digest.is_some() || self.tofu
    }

    /// Settles it; `fetch` brings the roots of the repository, believed by nobody, where they are needed.
    pub(super) fn settle(
        &self,
        channel: &Channel,
        fetch: impl FnOnce() -> Result<Roots, AuthorError>,
    ) -> Result<Enrolled, AuthorError> {
        if let Some(file) = &self.root_file {
            let text = String::from_utf8(read(file, MAX_ROOT)?).map_err(|_| AuthorError::refused("the root file is not UTF-8"))?;
            let root =
                Root::parse(&file.display().to_string(), &text).map_err(|findings| AuthorError::refused(findings.draw(false)))?;
            has_channel(&root, channel)?;
            // Relative: from the folder of trust.toml.
            return Ok(Enrolled { trust: trust_toml(channel, &root.repo, "root = \"root.toml\""), root: Some(text) });
        }
        if let (Some(digest), Some(repo)) = (&self.root_digest, &self.repo_id) {
            return Ok(Enrolled { trust: trust_toml(channel, repo, &by_digest(digest)), root: None });
        }
        let roots = fetch()?;
        let found = roots.0.iter().find(|version| self.root_digest.is_none_or(|digest| pin_of(&version.text) == digest));
        let there: Vec<String> =
            roots.0.iter().map(|version| format!("root {}: {}", version.root.version, pin_of(&version.text))).collect();
        let version = found.ok_or_else(|| {
            AuthorError::refused(format!(
                "no root file of the repository has the digest that is to be pinned; it has {}. Either this is another repository, or the digest is an old one: look at it with `trimtab trust show`, on a machine that you trust",
                if there.is_empty() { "none at all".to_owned() } else { there.join(", ") }
            ))
        })?;
        has_channel(&version.root, channel)?;
        Ok(Enrolled { trust: trust_toml(channel, &version.root.repo, &by_digest(&pin_of(&version.text))), root: None })
    }
}

impl Enrolled {
    /// What is written, read again as a host reads it.
    pub(super) fn config(&self) -> Result<TrustConfig, Findings> {
        let trust = TrustConfig::parse("trust.toml", &self.trust)?;
        match &self.root {
            Some(root) => trust.with_root("root.toml", root),
            None => Ok(trust),
        }
    }
}

/// The configuration of a host that follows this channel from this root.
pub(super) fn trust_by_digest(channel: &Channel, repo: &RepoId, digest: &Digest) -> Result<TrustConfig, AuthorError> {
    let enrolled = Enrolled { trust: trust_toml(channel, repo, &by_digest(digest)), root: None };
    enrolled.config().map_err(|findings| AuthorError::refused(findings.draw(false)))
}

fn by_digest(digest: &Digest) -> String {
    format!("root-digest = {}", quote(&digest.to_string()))
}

fn has_channel(root: &Root, channel: &Channel) -> Result<(), AuthorError> {
    if root.release.contains_key(channel) {
        return Ok(());
    }
    let names: Vec<&str> = root.release.keys().map(Channel::as_str).collect();
    Err(AuthorError::refused(format!("root {} has no channel {channel}; it has {}", root.version, names.join(", "))))
}

fn trust_toml(channel: &Channel, repo: &RepoId, pin: &str) -> String {
    format!(
        "# Who may tell this host what to be. Never taken from the repository.\nmode = \"release\"\nchannel = {}\nrepo = \"{repo}\"\n{pin}\n",
        quote(channel.as_str())
    )
}
