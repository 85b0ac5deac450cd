//! `trimtab backups`: what of the operator's trimtab replaced, and how to have it back.
//!
//! Two kinds: originals, which stood at a path before trimtab came and are put back by themselves when the path leaves the repository, and
//! drift, which somebody wrote over a managed file and a repair took away (the last hundred).

use std::fmt::Write as _;
use std::io::{IsTerminal as _, Read, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde::Serialize;
use trimtab_model::desired::Node;
use trimtab_model::digest::Digest;
use trimtab_model::ledger::{Before, Ledger};
use trimtab_model::names::HostPath;
use trimtab_model::observed::Found;

use super::ask::{error_code, remembered};
use super::machine::Json;
use super::{complain, fail, print_json, say, status};
use crate::config::Places;
use crate::host::accounts::Accounts;
use crate::host::observe::observe;
use crate::host::place::{Batch, PlaceError};
use crate::host::root::Root;
use crate::log::chain;
use crate::store::Store;

/// `trimtab backups`.
#[derive(Debug, Args)]
pub(super) struct BackupsArgs {
    #[command(subcommand)]
    command: Backups,
}

#[derive(Debug, Subcommand)]
enum Backups {
    /// List what is kept: path, kind, when it was taken away, content.
    #[command(after_help = "Example:\n  trimtab backups list --json | jq -r '.[].path'")]
    List(Json),
    /// Write a kept content to standard output.
    #[command(after_help = "Example:\n  trimtab backups show /etc/motd | diff - /etc/motd")]
    Show(Which),
    /// Have it back: at its place with its mode and owner, or in another file.
    #[command(after_help = "Example:\n  trimtab backups restore /etc/motd --to /root/motd.before\n\n\
        At its place only what is not managed (any more) comes back to stay: over a managed path the next pass writes what the\n\
        repository says. Without --force that is refused, and so is replacing what stands there.")]
    Restore(RestoreArgs),
}

/// Which content is meant.
#[derive(Debug, Args)]
struct Which {
    /// The path on the host.
    path: HostPath,
    /// Which of several: `original`, or the begin of a digest as `list` shows it. The one taken away last if not given.
    #[arg(long, value_name = "original|DIGEST")]
    which: Option<String>,
}

#[derive(Debug, Args)]
struct RestoreArgs {
    #[command(flatten)]
    which: Which,
    /// Write it to this new file instead, readable for root alone.
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
    /// Also over a managed path, or over what stands there now.
    #[arg(long, conflicts_with = "to")]
    force: bool,
}

/// One kept thing.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct Backup {
    path: HostPath,
    kind: Kind,
    /// When it was taken away, seconds since 1970; nothing for originals.
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<u64>,
    /// Its content; nothing for symlinks.
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<Digest>,
    /// The target of a symlink.
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
    /// Whether the repository still manages the path.
    managed: bool,
    #[serde(skip)]
    before: Option<Before>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Kind {
    Original,
    Drift,
}

pub(super) fn run(places: &Places, args: &BackupsArgs) -> ExitCode {
    let (store, ledger) = match remembered(places) {
        Ok(remembered) => remembered,
        Err(error) => return fail(&error, error_code(&error)),
    };
    let all = backups(&ledger);
    match &args.command {
        Backups::List(json) if json.json => print_json(&all),
        Backups::List(_) => say(&list(&all, crate::cycle::now_ms() / 1000)),
        Backups::Show(which) => with(&all, which, |backup| show(&store, backup)),
        Backups::Restore(args) => with(&all, &args.which, |backup| match &args.to {
            Some(to) => copy(&store, backup, to),
            None => restore(places, &store, &ledger, backup, args.force),
        }),
    }
}

/// Everything that is kept, the one that was taken away last first for each path. What is the same as what trimtab put there was not replaced.
fn backups(ledger: &Ledger) -> Vec<Backup> {
    let mut list: Vec<Backup> = Vec::new();
    for kept in &ledger.kept {
        let managed = ledger.entries.contains_key(&kept.path);
        let (path, digest) = (kept.path.clone(), Some(kept.digest));
        list.push(Backup { path, kind: Kind::Drift, at: Some(kept.at), digest, target: None, managed, before: None });
    }
    for (path, owned) in &ledger.entries {
        let Before::Original { node, .. } = &owned.before else { continue };
        let (digest, target) = match node {
            _ if *node == owned.state.node => continue,
            Node::File { digest, .. } => (Some(*digest), None),
            Node::Symlink { target } => (None, Some(target.clone())),
            Node::Directory => continue,
        };
        let before = Some(owned.before.clone());
        list.push(Backup { path: path.clone(), kind: Kind::Original, at: None, digest, target, managed: true, before });
    }
    // Stable: within a path the order of above stays.
    list.sort_by(|one, other| one.path.cmp(&other.path));
    list
}

fn list(all: &[Backup], now: u64) -> String {
    if all.is_empty() {
        return "Nothing is kept: nothing of the operator's was replaced.\n".to_owned();
    }
    let mut text = String::new();
    for backup in all {
        let when = match (backup.kind, backup.at) {
            (Kind::Drift, Some(at)) => format!("drift, {} ago", status::ago(now, at)),
            _ => "original".to_owned(),
        };
        let what = match (&backup.digest, &backup.target) {
            (Some(digest), _) => digest.short(),
            (None, target) => format!("-> {}", target.as_deref().unwrap_or_default()),
        };
        let managed = if backup.managed { "" } else { "  (not managed any more)" };
        let _ = writeln!(text, "{}  {when}  {what}{managed}", backup.path);
    }
    text
}

fn with(all: &[Backup], which: &Which, done: impl Fn(&Backup) -> ExitCode) -> ExitCode {
    let of_path: Vec<&Backup> = all.iter().filter(|backup| backup.path == which.path).collect();
    let is_meant = |backup: &&&Backup| match which.which.as_deref() {
        None => true,
        Some("original") => backup.kind == Kind::Original,
        Some(begin) => backup.digest.is_some_and(|digest| {
            let begin = begin.strip_prefix("sha256:").unwrap_or(begin);
            begin.len() >= 4 && digest.hex().starts_with(begin)
        }),
    };
    match (of_path.iter().find(is_meant), of_path.is_empty()) {
        (Some(backup), _) => done(backup),
        (None, true) => {
            complain(&format!("nothing of {} is kept; `trimtab backups list` lists what is", which.path));
            ExitCode::FAILURE
        }
        (None, false) => {
            let name = which.which.as_deref().unwrap_or_default();
            complain(&format!("nothing of {} is kept as {name:?}; `trimtab backups list` lists what is", which.path));
            ExitCode::FAILURE
        }
    }
}

/// The content, judged by its digest.
fn content(store: &Store, backup: &Backup) -> Result<Vec<u8>, ExitCode> {
    match (&backup.digest, &backup.target) {
        (Some(digest), _) => store.read(digest).map_err(|error| fail(&error, 1)),
        (None, target) => Ok(target.clone().unwrap_or_default().into_bytes()),
    }
}

fn show(store: &Store, backup: &Backup) -> ExitCode {
    let bytes = match content(store, backup) {
        Ok(bytes) => bytes,
        Err(code) => return code,
    };
    let steers = |byte: &u8| byte.is_ascii_control() && !matches!(byte, b'\n' | b'\t' | b'\r');
    if std::io::stdout().is_terminal() && (bytes.iter().any(steers) || std::str::from_utf8(&bytes).is_err()) {
        complain("it is no plain text, and could steer this terminal: redirect it, or write it to a file with `restore --to`");
        return ExitCode::FAILURE;
    }
    // A closed pipe is the reader's choice.
    let _ = std::io::stdout().lock().write_all(&bytes);
    ExitCode::SUCCESS
}

fn copy(store: &Store, backup: &Backup, to: &Path) -> ExitCode {
    content(store, backup).map_or_else(|code| code, |bytes| write_new(&bytes, to))
}

/// Writes a content to a new file, readable for its owner alone.
pub(super) fn write_new(bytes: &[u8], to: &Path) -> ExitCode {
    let write = || -> std::io::Result<()> {
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    match write() {
        Ok(()) => say(&format!("{} written, {} bytes\n", to.display(), bytes.len())),
        Err(error) => {
            complain(&format!("{} cannot be written: {error}", to.display()));
            ExitCode::FAILURE
        }
    }
}

fn restore(places: &Places, store: &Store, ledger: &Ledger, backup: &Backup, force: bool) -> ExitCode {
    let path = &backup.path;
    let root = match Root::open(&places.root) {
        Ok(root) => root,
        Err(error) => return fail(&error, 1),
    };
    let Some(found) = observe(&root, [path]).remove(path) else { return ExitCode::FAILURE };
    if !force && backup.managed {
        complain(&format!(
            "{path} is managed: the next pass would put back what the repository says. Take it out of the repository (an original comes \
             back by itself then), write the content elsewhere with --to FILE, or insist with --force"
        ));
        return ExitCode::FAILURE;
    }
    if !force && !matches!(found, Found::Missing) {
        complain(&format!(
            "something stands at {path}: move it away, write the content elsewhere with --to FILE, or replace it with --force"
        ));
        return ExitCode::FAILURE;
    }
    let content = match backup.digest.map(|digest| store.open_blob(&digest)).transpose() {
        Ok(content) => content,
        Err(error) => return fail(&error, 1),
    };
    let before = match as_it_was(&root, ledger, backup, &found) {
        Ok(before) => before,
        Err(message) => {
            complain(&message);
            return ExitCode::FAILURE;
        }
    };
    let mut content: Box<dyn Read> = content.map_or_else(|| Box::new(std::io::empty()) as Box<dyn Read>, |file| Box::new(file));
    match put(&root, path, &before, &mut *content, &found) {
        Ok(()) if backup.managed => {
            say(&format!("{path} restored; it is managed, so the next pass puts back what the repository says\n"))
        }
        Ok(()) => say(&format!("{path} restored\n")),
        Err(error) => {
            complain(&chain(&error));
            ExitCode::FAILURE
        }
    }
}

/// Puts what drifted back over its managed path, as a person insisted.
pub(super) fn put_back(places: &Places, store: &Store, ledger: &Ledger, path: &HostPath, digest: Digest) -> ExitCode {
    let path = path.clone();
    let backup = Backup { path, kind: Kind::Drift, at: None, digest: Some(digest), target: None, managed: true, before: None };
    restore(places, store, ledger, &backup, true)
}

/// What to put there: an original with all that was known of it; drift with the mode and owner that the path has now, or had as a managed one.
fn as_it_was(root: &Root, ledger: &Ledger, backup: &Backup, found: &Found) -> Result<Before, String> {
    if let Some(before) = &backup.before {
        return Ok(before.clone());
    }
    let Some(digest) = backup.digest else { return Err(format!("{} has no content to restore", backup.path)) };
    let original = |mode, uid, gid| Before::Original { node: Node::File { digest, size: 0 }, mode, uid, gid };
    if let Some(meta) = found.meta().filter(|_| matches!(found, Found::File { .. })) {
        return Ok(original(meta.mode, meta.uid, meta.gid));
    }
    match ledger.entries.get(&backup.path).map(|owned| &owned.state) {
        Some(state) => {
            let mut accounts = Accounts::load(root);
            let (user, group) = (accounts.user(state.owner.as_str()), accounts.group(state.group.as_str()));
            user.zip(group)
                .map(|(user, group)| original(state.mode, user, group))
                .ok_or_else(|| format!("user {} or group {} does not exist on this host; use --to FILE", state.owner, state.group))
        }
        // Nobody knows who might read it: nobody else may.
        None => Ok(original(0o600, nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw())),
    }
}

fn put(root: &Root, path: &HostPath, before: &Before, content: &mut dyn Read, found: &Found) -> Result<(), PlaceError> {
    let mut batch = Batch::new(root);
    batch.restore(path, before, content, found.expectation())?;
    batch.finish().map(drop)
}
