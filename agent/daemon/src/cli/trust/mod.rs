//! `trimtab trust`: the root files of a fleet repository, made, signed, replaced and looked at; and what a host trusts.
//!
//! Limits: these commands write files of the work tree and commit nothing: what is signed is seen and pushed by people, with git.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::fail;
use crate::author::AuthorError;
use crate::author::desk::Desk;
use crate::author::programs;
use crate::author::roots::{Roots, signatures_path};
use crate::author::signing::SigningKey;
use crate::config::Places;
use crate::trust::root::Root;

mod change;
mod explain;
mod init;
mod show;
mod sign;

/// `trimtab trust`.
#[derive(Debug, Args)]
pub(super) struct TrustArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make the first root file of a fleet repository: which keys may release, and how many of them it takes.
    #[command(
        after_help = "Example:\n  trimtab trust init --key ann=~/.ssh/id_ed25519.pub\n  trimtab trust init --key ann=ann.pub --key bob=bob.pub --key safe=safe.pub --threshold 2 --channel production=2 --channel staging=1"
    )]
    Init(init::InitArgs),
    /// The root files of a repository: who may do what, who signed which, and the digest that a device pins.
    #[command(after_help = "Example:\n  trimtab trust show\n  trimtab trust show --json | jq -r .pin")]
    Show(show::ShowArgs),
    /// What this host trusts, and why: the pinned root, who may release by the newest one, what was accepted, and how fresh that is.
    #[command(after_help = "Example:\n  trimtab trust explain\n  trimtab trust explain --json | jq .freshness")]
    Explain(explain::ExplainArgs),
    /// Sign the newest root file, or put a signature to it that was made elsewhere.
    #[command(
        after_help = "Example:\n  trimtab trust sign --sign ssh:~/.ssh/id_ed25519\n  trimtab trust sign --attach /media/stick/2.toml.minisig"
    )]
    Sign(sign::SignArgs),
    /// Make the next root file: other keys, other thresholds, or a new epoch after a theft. Says who must sign it.
    #[command(
        after_help = "Example:\n  trimtab trust rotate --remove bob --add bob2=bob2.pub\n  trimtab trust rotate --add carol=carol.pub\n  trimtab trust rotate --channel production=3\n  trimtab trust rotate --channel staging=1:ann,ci --drop-channel nightly\n  trimtab trust rotate --threshold 3"
    )]
    Rotate(change::RotateArgs),
    /// Make the next root file without a key, and tell what stops being accepted.
    #[command(after_help = "Example:\n  trimtab trust revoke bob --add bob2=bob2.pub --new-epoch")]
    Revoke(change::RevokeArgs),
}

/// Which clone, and how it is answered.
#[derive(Debug, Args)]
pub(super) struct Common {
    /// The clone to work in.
    #[arg(long, value_name = "DIR", default_value = ".")]
    repo: PathBuf,
    /// Answer in JSON.
    #[arg(long)]
    json: bool,
}

/// Whose signature is given.
#[derive(Debug, Args)]
pub(super) struct Signing {
    /// Sign with this key: ssh:FILE (a key file, or the .pub of one that is in ssh-agent or a token) or minisign:FILE. Without it, with git's
    /// own signing key if that counts here. May be given several times.
    #[arg(long = "sign", value_name = "KEY")]
    pub(super) sign: Vec<SigningKey>,
    /// Sign with no key.
    #[arg(long, conflicts_with = "sign")]
    pub(super) no_sign: bool,
}

impl Signing {
    /// The keys to sign with, and whether the person named them.
    pub(super) fn keys(&self, desk: &Desk) -> (Vec<SigningKey>, bool) {
        if self.no_sign {
            return (Vec::new(), false);
        }
        if !self.sign.is_empty() {
            return (self.sign.clone(), true);
        }
        (SigningKey::of_git(desk.folder()).into_iter().collect(), false)
    }
}

pub(super) fn run(places: &Places, args: &TrustArgs) -> ExitCode {
    let done = match &args.command {
        Command::Init(args) => init::run(args),
        Command::Show(args) => show::run(args),
        Command::Explain(args) => explain::run(places, args),
        Command::Sign(args) => sign::run(args),
        Command::Rotate(args) => change::rotate(args),
        Command::Revoke(args) => change::revoke(args),
    };
    done.unwrap_or_else(|error| fail(&error, 1))
}

impl TrustArgs {
    /// What a host remembers is for its root alone; everything else is done at a desk.
    pub(super) fn is_for_root(&self) -> bool {
        matches!(self.command, Command::Explain(_))
    }
}

/// The root files as they lie in the work tree, committed or not.
fn roots_of(desk: &Desk) -> Result<Roots, AuthorError> {
    Roots::read(|path| {
        let path = desk.folder().join(path);
        match path.try_exists() {
            Ok(false) => Ok(None),
            _ => programs::read(&path, crate::trust::root::MAX_ROOT).map(Some),
        }
    })
}

/// Writes the text and the signatures of the newest version into the work tree.
fn write(desk: &Desk, roots: &Roots) -> Result<(), AuthorError> {
    let newest = roots.newest()?;
    let number = newest.root.version;
    for (path, content) in [(Root::path(number), newest.text.as_bytes()), (signatures_path(number), newest.signatures.as_slice())] {
        if content.is_empty() {
            continue;
        }
        let path = desk.folder().join(path);
        let write = || {
            std::fs::create_dir_all(path.parent().expect("because it lies in the clone"))?;
            std::fs::write(&path, content)
        };
        write().map_err(|source| AuthorError::File { path: path.clone(), source })?;
    }
    Ok(())
}

/// `NAME=…`, for keys and roles.
fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() && !name.contains(' ') && !value.is_empty() => {
            Ok((name.to_owned(), value.to_owned()))
        }
        _ => Err("write NAME=VALUE".to_owned()),
    }
}
