//! `bundle`: offline updates. `create` where the repository is, `show` anywhere, `apply` on the host.

mod commits;
mod create;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Subcommand;
use trimtab_model::report::{Pass, Wake};

use super::ask::{Agent, Wait, by_agent};
use super::{complain, fail, machine, print_json, say};
use crate::bundle::{self, BundleError, Opened};
use crate::config::Places;
use crate::cycle::{Cycle, Hold, OfflineError, OpenError};
use crate::log;
use crate::store::Request;
use crate::trust::blocks::AnyKey;
use crate::trust::keys::TrustConfig;
use crate::trust::root::key_text;

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
    /// One pass whose source is a bundle (or a plain `git bundle`), proven as from the network; exit as `once`. The running agent makes it;
    /// without one, this command does.
    #[command(
        after_help = "Example:\n  trimtab bundle apply /media/stick/plant.bundle\n  trimtab bundle apply /media/stick/plant.bundle --key maker.pub"
    )]
    Apply(ApplyArgs),
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

/// `trimtab bundle apply`.
#[derive(Debug, clap::Args)]
pub(super) struct ApplyArgs {
    #[command(flatten)]
    read: ReadArgs,
    /// How long to wait for the running agent's pass to end.
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = humantime::parse_duration)]
    timeout: Duration,
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
    bundle::key_in(&text).ok_or_else(|| format!("{} holds no SSH and no minisign public key", path.display()))
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

fn apply(places: &Places, args: &ApplyArgs) -> ExitCode {
    log::start(log::Audience::Person);
    let ApplyArgs { read: args, timeout } = args;
    // Here first: whoever waits is told of a torn file at once, and by name.
    let (opened, _) = match read(places, args) {
        Ok(read) => read,
        Err(code) => return code,
    };
    if Agent::running(places, Instant::now()).is_some() {
        return match handed_over(places, args, *timeout) {
            Ok(pass) => answer(pass, args.json),
            Err(code) => code,
        };
    }
    let passed = machine::block_on(async {
        let mut cycle = Cycle::open(places, Hold::Once)?;
        cycle.take_bundle(Arc::new(opened))?;
        Ok::<_, ApplyError>(Box::pin(cycle.pass(Wake::Bundle, true)).await)
    });
    match passed {
        Ok(Ok(pass)) => answer(pass, args.json),
        Ok(Err(ApplyError::Open(error))) => machine::refuse(&error),
        Ok(Err(error)) => fail(&error, 1),
        Err(error) => fail(&error, 1),
    }
}

/// The pass that the running agent makes of it.
fn handed_over(places: &Places, args: &ReadArgs, timeout: Duration) -> Result<Pass, ExitCode> {
    let refuse = |message: String| {
        complain(&message);
        Err(ExitCode::FAILURE)
    };
    let file = match args.file.canonicalize() {
        Ok(file) => file,
        Err(error) => return refuse(format!("{}: {error}", args.file.display())),
    };
    let Some(file) = file.to_str().map(str::to_owned) else {
        return refuse(format!(
            "the running agent cannot be told of {}: its name is not UTF-8; copy it to another",
            file.display()
        ));
    };
    let key = args.key.as_deref().and_then(|path| key(path).ok()).map(|key| key_text(&key));
    let pass = by_agent(places, &Request::Bundle { file, key }, Wait { json: args.json, timeout })?;
    if pass.wake == Wake::Bundle {
        return Ok(pass);
    }
    let remarks: Vec<&str> = pass.remarks.iter().map(String::as_str).collect();
    let why = if remarks.is_empty() { String::new() } else { format!(" ({})", remarks.join("; ")) };
    refuse(format!(
        "the running agent did something else that it was asked for{why}: try again, or, if it is an older trimtab, `systemctl stop trimtab; trimtab bundle apply {}; systemctl start trimtab`",
        args.file.display()
    ))
}

fn answer(mut pass: Pass, json: bool) -> ExitCode {
    // The advice that goes with it is for a source that is followed: an old stick is the likelier reason.
    if pass.trust.verdict == "rewritten" {
        let older = "the bundle does not hold the commit that was accepted last: most likely it is an older one; take the newest";
        older.clone_into(&mut pass.trust.message);
    }
    machine::answer(&pass, json)
}
