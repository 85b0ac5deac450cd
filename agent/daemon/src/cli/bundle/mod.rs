//! `bundle`: offline updates. `create` where the repository is, `show` anywhere, `apply` on the host.

mod commits;
mod create;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use clap::Subcommand;
use trimtab_model::report::Wake;

use super::{complain, fail, machine, print_json, say};
use crate::bundle::{self, BundleError, Opened};
use crate::config::Places;
use crate::cycle::{Cycle, Hold, OfflineError, OpenError};
use crate::log;
use crate::trust::blocks::AnyKey;
use crate::trust::keys::TrustConfig;
use crate::trust::pubkey::PublicKey;

/// `trimtab bundle`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make a bundle: a branch or a release channel of a repository, and the artifacts and images that its hosts need.
    #[command(
        after_help = "Example:\n  trimtab bundle create --output plant.bundle --host plant-7 --arch aarch64\n  trimtab bundle create --output all.bundle --channel production --sign-key offline.key"
    )]
    Create(create::CreateArgs),
    /// Look into a bundle, and check that it is whole: what it holds, and who signed it. Exit 0 when it is whole, 1 when not.
    #[command(after_help = "Example:\n  trimtab bundle show plant.bundle --key maker.pub")]
    Show(ReadArgs),
    /// One pass whose source is a bundle (or a plain `git bundle`), proven as from the network; exit as `once`. The agent must not run meanwhile:
    /// systemctl stop trimtab.
    #[command(
        after_help = "Example:\n  systemctl stop trimtab; trimtab bundle apply /media/stick/plant.bundle; systemctl start trimtab"
    )]
    Apply(ReadArgs),
}

/// `trimtab bundle show` and `apply`.
#[derive(Debug, clap::Args)]
pub(super) struct ReadArgs {
    /// The bundle.
    file: PathBuf,
    /// Refuse it unless this key signed it: a file with an SSH or minisign public key.
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Answer in JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(places: &Places, args: &Args) -> ExitCode {
    match &args.command {
        Command::Create(args) => create::run(args),
        Command::Show(args) => show(places, args),
        Command::Apply(args) => apply(places, args),
    }
}

/// A bundle that is whole, and what its signature says; or how the command ends.
fn read(places: &Places, args: &ReadArgs) -> Result<(Opened, Option<Result<String, String>>), ExitCode> {
    let wanted = args.key.as_deref().map(key).transpose().map_err(|message| {
        complain(&message);
        ExitCode::FAILURE
    })?;
    let known: Vec<AnyKey> = TrustConfig::load(&places.trust_toml())
        .map(|trust| trust.keys().iter().map(|key| AnyKey::Ssh(key.key.clone())).collect())
        .unwrap_or_default();
    let mut told = Instant::now();
    let mut tell = |at: u64, all: u64| {
        if told.elapsed() > Duration::from_secs(3) {
            told = Instant::now();
            tracing::info!(target: log::PATIENCE, "still at it: reading {} of {} MiB", at >> 20, all >> 20);
        }
    };
    let read = || -> Result<_, BundleError> {
        let opened = bundle::open(&args.file, &mut tell)?;
        let signer = opened.signer(&known, wanted.as_ref())?;
        Ok((opened, signer))
    };
    let mut read = read;
    read().map_err(|error| fail(&error, 1))
}

/// A public key: the first line of a file that is one.
fn key(path: &Path) -> Result<AnyKey, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let minisign = text.lines().find_map(|line| line.trim().parse().ok().map(AnyKey::Minisign));
    let blob = |line: &str| base64::engine::general_purpose::STANDARD.decode(line.split_whitespace().nth(1)?).ok();
    let ssh = || text.lines().find_map(|line| PublicKey::parse(&blob(line)?).ok().map(AnyKey::Ssh));
    minisign.or_else(ssh).ok_or_else(|| format!("{} holds no SSH and no minisign public key", path.display()))
}

fn show(places: &Places, args: &ReadArgs) -> ExitCode {
    log::start(log::Audience::Person);
    let (opened, signer) = match read(places, args) {
        Ok(read) => read,
        Err(code) => return code,
    };
    let (signed_by, is_known) = match &signer {
        None => (None, false),
        Some(Ok(name)) => (Some(name.clone()), true),
        Some(Err(name)) => (Some(name.clone()), false),
    };
    let parts = opened.manifest.as_ref().map(|manifest| manifest.parts.clone()).unwrap_or_default();
    if args.json {
        let list: Vec<_> = parts
            .iter()
            .map(|part| serde_json::json!({ "name": part.name, "digest": part.digest, "size": part.size, "image": part.image }))
            .collect();
        let created = opened.manifest.as_ref().map(|manifest| manifest.created.clone());
        return print_json(&serde_json::json!({
            "format": if opened.manifest.is_some() { "trimtab-bundle v1" } else { "git bundle" },
            "created": created, "signedBy": signed_by, "signerIsKnown": is_known, "parts": list,
        }));
    }
    let Some(manifest) = &opened.manifest else {
        return say("a plain git bundle: commits, and neither artifacts nor images\n");
    };
    let mut text = format!("made {}, ", manifest.created);
    text += &match (&signed_by, is_known) {
        (None, _) => "not signed\n".to_owned(),
        (Some(name), true) => format!("signed by {name}\n"),
        (Some(name), false) => format!("signed by {name}, whom nothing on this machine knows\n"),
    };
    for part in &parts {
        text += &format!(
            "{:>12}  {}  {}{}\n",
            part.size,
            part.digest.short(),
            part.name,
            part.image.as_ref().map(|image| format!("  {image}")).unwrap_or_default()
        );
    }
    say(&text)
}

/// Why a bundle was not applied.
#[derive(Debug, thiserror::Error)]
enum ApplyError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Offline(#[from] OfflineError),
}

fn apply(places: &Places, args: &ReadArgs) -> ExitCode {
    log::start(log::Audience::Person);
    let (opened, _) = match read(places, args) {
        Ok(read) => read,
        Err(code) => return code,
    };
    let passed = machine::block_on(async {
        let mut cycle = Cycle::open(places, Hold::Once)?;
        cycle.take_bundle(Arc::new(opened))?;
        Ok::<_, ApplyError>(Box::pin(cycle.pass(Wake::Bundle, true)).await)
    });
    match passed {
        Ok(Ok(mut pass)) => {
            // The advice that goes with it is for a source that is followed: an old stick is the likelier reason.
            if pass.trust.verdict == "rewritten" {
                let older =
                    "the bundle does not hold the commit that was accepted last: most likely it is an older one; take the newest";
                older.clone_into(&mut pass.trust.message);
            }
            machine::answer(&pass, args.json)
        }
        Ok(Err(ApplyError::Open(error))) => machine::refuse(&error),
        Ok(Err(error)) => fail(&error, 1),
        Err(error) => fail(&error, 1),
    }
}
