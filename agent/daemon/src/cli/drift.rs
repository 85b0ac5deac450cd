//! `trimtab drift`: what somebody changed on this host, who it was, and how to have back what a repair overwrote.
//!
//! Guarantees: nothing private is shown; what a program or a person on the host could write (names, commands) cannot steer the terminal.
//! Nothing is put over a managed path without saying that it will be repaired again.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde::Serialize;
use trimtab_model::desired::Node;
use trimtab_model::digest::Digest;
use trimtab_model::drift::{Drift, DriftState, Takes};
use trimtab_model::names::HostPath;
use trimtab_model::observed::Found;
use trimtab_model::plan::show_diff;

use super::explain::{Remembered, place, plain};
use super::machine::Json;
use super::status::ago;
use super::{backups, color, complain, fail, print_json, say};
use crate::config::Places;
use crate::cycle::now_ms;
use crate::host::observe;
use crate::host::root::Root;

/// Longer contents are not shown.
const MAX_TEXT: u64 = 256 << 10;

/// `trimtab drift`.
#[derive(Debug, Args)]
pub(super) struct DriftArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List what somebody changed on this host and what stands so now; with --all also what is over.
    #[command(
        after_help = "Example:\n  trimtab drift list --all --json | jq -r '.past[] | [.id, .resource, .actor.command] | @tsv'"
    )]
    List(ListArgs),
    /// One drift: what differed, who did it, what became of it, and what was overwritten.
    #[command(after_help = "Example:\n  trimtab drift show 17\n\n\
        What differs is told by property: content, mode, owner, group, target (of a symlink), kind, missing, extra (nobody declared it), wanted\n\
        (it left the repository), and for units enabled, active and masked.")]
    Show(ShowArgs),
    /// Write what a repair overwrote to a new file: beside its old place, or anywhere.
    #[command(after_help = "Example:\n  trimtab drift restore 17 --to /root/app.conf.lost\n\n\
        The new file is readable for root alone. The managed path itself would be repaired again: commit what is to stay, or\n\
        `trimtab pin` the path first. --to that path says so, and does it with --yes.")]
    Restore(RestoreArgs),
}

#[derive(Debug, Args)]
struct ListArgs {
    /// Also what was repaired or is gone: the last hundred.
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    json: Json,
}

#[derive(Debug, Args)]
struct ShowArgs {
    /// Its number, as `list` shows it.
    id: u64,
    #[command(flatten)]
    json: Json,
}

#[derive(Debug, Args)]
struct RestoreArgs {
    /// Its number, as `list` shows it.
    id: u64,
    /// The new file; without it, the old place with `.drift-ID` behind it.
    #[arg(long, value_name = "PATH")]
    to: Option<PathBuf>,
    /// Also where it will not stay: over the managed path, or where nothing undeclared may stand.
    #[arg(long)]
    yes: bool,
}

/// What became of what a repair took away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "state", content = "digest")]
enum Overwritten {
    /// There is nothing: it is not repaired, or nothing of anybody's was taken away.
    Nothing,
    /// It can be had back.
    Kept(Digest),
    /// It was kept, and is not any more.
    Outgrown,
    /// It was not kept, for it is private.
    Private,
    /// It was not kept.
    NotKept,
}

#[derive(Serialize)]
struct Told<'a> {
    #[serde(flatten)]
    drift: &'a Drift,
    overwritten: Overwritten,
}

pub(super) fn run(places: &Places, args: &DriftArgs) -> ExitCode {
    let memory = match Remembered::load(places) {
        Ok(memory) => memory,
        Err(code) => return code,
    };
    let with = |id: u64, done: &dyn Fn(&Drift) -> ExitCode| {
        memory.book.drift(id).map_or_else(
            || {
                complain(&format!("there is no drift {id} (any more); `trimtab drift list --all` lists what is remembered"));
                ExitCode::FAILURE
            },
            done,
        )
    };
    match &args.command {
        Command::List(args) => list(&memory, args),
        Command::Show(args) => with(args.id, &|drift| show(places, &memory, drift, args.json)),
        Command::Restore(args) => with(args.id, &|drift| restore(places, &memory, drift, args)),
    }
}

fn overwritten(memory: &Remembered, drift: &Drift) -> Overwritten {
    match (memory.ledger.kept_of(drift), drift.kept, drift.takes()) {
        (Some(kept), ..) if memory.store.has(&kept.digest) => Overwritten::Kept(kept.digest),
        (None, None, _) if drift.state != DriftState::Repaired => Overwritten::Nothing,
        (None, None, Takes::Nothing) => Overwritten::Nothing,
        (None, None, Takes::Private) => Overwritten::Private,
        (None, None, Takes::Content) => Overwritten::NotKept,
        _ => Overwritten::Outgrown,
    }
}

impl Overwritten {
    /// In a few words; empty when there is nothing to say.
    fn words(self, id: u64) -> String {
        match self {
            Overwritten::Nothing => String::new(),
            Overwritten::Kept(digest) => {
                format!("kept as {}; `trimtab drift restore {id}` writes it to a file", digest.short())
            }
            Overwritten::Outgrown => "not kept any more: the oldest go first (drift.keep-mib)".to_owned(),
            Overwritten::Private => "not kept: it is private".to_owned(),
            Overwritten::NotKept => "not kept: it was no plain file, too large, or private, or there was no room".to_owned(),
        }
    }
}

fn list(memory: &Remembered, args: &ListArgs) -> ExitCode {
    let book = &memory.book;
    let mut standing: Vec<&Drift> = book.standing.values().collect();
    standing.sort_by_key(|drift| std::cmp::Reverse(drift.id));
    let told = |drift: &'_ &'_ Drift| serde_json::json!(Told { drift, overwritten: overwritten(memory, drift) });
    if args.json.json {
        let mut document = serde_json::json!({ "standing": standing.iter().map(told).collect::<Vec<_>>(), "beyond": book.beyond });
        if args.all {
            document["past"] = book.past.iter().map(|drift| told(&drift)).collect();
        }
        return print_json(&document);
    }
    let now = now_ms();
    let mut text = String::new();
    for drift in standing.into_iter().chain(book.past.iter().filter(|_| args.all)) {
        one(memory, drift, now, &mut text);
    }
    if book.standing.is_empty() {
        text.insert_str(0, "No drift stands on this host.\n");
    }
    if book.beyond > 0 {
        let _ = writeln!(text, "{} more stand than are remembered one by one.", book.beyond);
    }
    if !args.all && !book.past.is_empty() {
        let _ = writeln!(text, "{} passed; `trimtab drift list --all` lists them.", book.past.len());
    }
    say(&text)
}

fn one(memory: &Remembered, drift: &Drift, now: u64, text: &mut String) {
    let _ = writeln!(text, "{:>4}  {}  {}, by {}", drift.id, plain(&drift.resource), course(drift, now), plain(&drift.by()));
    differences(drift, "      ", text);
    let overwritten = overwritten(memory, drift).words(drift.id);
    for words in [drift.left_alone_words(), &overwritten].into_iter().filter(|words| !words.is_empty()) {
        let _ = writeln!(text, "      {words}");
    }
}

/// How it stands, and since when.
fn course(drift: &Drift, now: u64) -> String {
    let (seen, ended) = (ago(now / 1000, drift.seen_ms / 1000), ago(now / 1000, drift.ended_ms / 1000));
    let took = drift.ended_ms.saturating_sub(drift.seen_ms);
    match drift.state {
        DriftState::Standing => format!("seen {seen} ago, stands"),
        DriftState::Repaired => format!("seen {seen} ago, repaired after {took} ms"),
        DriftState::Gone => format!("seen {seen} ago, gone by itself {ended} ago"),
    }
}

fn differences(drift: &Drift, indent: &str, text: &mut String) {
    for differs in &drift.differs {
        let _ = writeln!(text, "{indent}{}: {} -> {}", differs.property, plain(&differs.found), plain(&differs.wanted));
    }
}

fn show(places: &Places, memory: &Remembered, drift: &Drift, json: Json) -> ExitCode {
    let overwritten = overwritten(memory, drift);
    let diff = texts(places, memory, drift, overwritten);
    if json.json {
        let mut document = serde_json::json!(Told { drift, overwritten });
        document["diff"] = diff.map(|(names, old, new)| show_diff(&old, &new, names, false)).into();
        return print_json(&document);
    }
    let mut text = String::new();
    let mut line = |word: &str, value: &str| {
        let _ = writeln!(text, "{word:<12}{}", plain(value));
    };
    line("drift", &drift.id.to_string());
    line("resource", &drift.resource);
    line("course", &course(drift, now_ms()));
    line("changed by", &drift.by());
    if let Some(program) = drift.actor.as_ref().map(|actor| &actor.program).filter(|program| !program.is_empty()) {
        line("program", program);
    }
    line("from", &place(&drift.origin));
    line("revision", if drift.revision.is_empty() { "none" } else { &drift.revision });
    line("pass", &drift.pass.to_string());
    for (word, words) in [("left alone", drift.left_alone_words()), ("overwritten", &overwritten.words(drift.id))] {
        if !words.is_empty() {
            line(word, words);
        }
    }
    text.push_str("differed\n");
    differences(drift, "    ", &mut text);
    if let Some((names, old, new)) = diff {
        text.push_str(&show_diff(&old, &new, names, color()));
    }
    say(&text)
}

type Compared = ((&'static str, &'static str), String, String);

/// What was overwritten against what stands there now; while it stands, what stands there against what is wanted. `None`: there is no such
/// text, or it is not for everybody's eyes.
fn texts(places: &Places, memory: &Remembered, drift: &Drift, overwritten: Overwritten) -> Option<Compared> {
    let path: HostPath = drift.resource.strip_prefix("file ")?.parse().ok()?;
    // Of what nobody declares (any more) nobody says that it may be shown.
    let entry = memory.generation.as_ref()?.desired.entries.get(&path).filter(|entry| entry.shown)?;
    let root = Root::open(&places.root).ok()?;
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).ok().filter(|text| !text.contains('\0'));
    let stored = |digest: &Digest| {
        let small = memory.store.size(digest) <= MAX_TEXT;
        memory.store.read(digest).ok().filter(|_| small).and_then(text)
    };
    let found = observe::observe(&root, [&path]).remove(&path)?;
    let now = match found {
        Found::Missing => Some(String::new()),
        _ if found.is_private() => None,
        _ => observe::read(&root, &path, MAX_TEXT).ok().and_then(text),
    };
    match (drift.state, overwritten, &entry.state.node) {
        (_, Overwritten::Kept(digest), _) => Some((("what was overwritten", "on the host now"), stored(&digest)?, now?)),
        (DriftState::Standing, _, Node::File { digest, .. }) => Some((("on the host", "in the repository"), now?, stored(digest)?)),
        _ => None,
    }
}

fn restore(places: &Places, memory: &Remembered, drift: &Drift, args: &RestoreArgs) -> ExitCode {
    let refuse = |message: String| {
        complain(&message);
        ExitCode::FAILURE
    };
    let id = drift.id;
    let digest = match overwritten(memory, drift) {
        Overwritten::Kept(digest) => digest,
        Overwritten::Nothing if drift.state == DriftState::Standing => {
            return refuse(format!(
                "drift {id} still stands: nothing was overwritten, {} is as somebody left it",
                plain(&drift.resource)
            ));
        }
        Overwritten::Nothing => return refuse(format!("drift {id} had no content: there is nothing to restore")),
        other => return refuse(format!("what drift {id} was is {}", other.words(id))),
    };
    let Some(path) = drift.resource.strip_prefix("file ").and_then(|path| path.parse::<HostPath>().ok()) else {
        return refuse(format!("drift {id} is no file's"));
    };
    let to = args.to.clone().unwrap_or_else(|| places.root.join(format!("{}.drift-{id}", path.relative())));
    // Where it really lies: a symlink on the way must not hide a managed path.
    let Some(to) = really(&to) else {
        return refuse(format!("{} cannot be written: there is no such folder", to.display()));
    };
    let root = std::fs::canonicalize(&places.root).unwrap_or_else(|_| places.root.clone());
    let inside = to.strip_prefix(&root).ok().and_then(|inside| format!("/{}", inside.display()).parse::<HostPath>().ok());
    let desired = memory.generation.as_ref().map(|generation| &generation.desired);
    if let Some(inside) = &inside {
        if memory.ledger.entries.contains_key(inside) {
            if !args.yes {
                return refuse(format!(
                    "{inside} is managed, and would be repaired again: commit it to the repository, or have it left alone for a while \
                     first (`trimtab pin {inside} --reason … --until …`); --yes writes it there all the same"
                ));
            }
            return backups::put_back(places, &memory.store, &memory.ledger, inside, digest);
        }
        let exclusive = inside.parent().filter(|folder| desired.is_some_and(|desired| desired.exclusive.contains_key(folder)));
        if let Some(folder) = exclusive.filter(|_| !args.yes) {
            return refuse(format!(
                "only what is declared may stand in {folder}: write it elsewhere with --to FILE; --yes writes it there all the same"
            ));
        }
    }
    match memory.store.read(&digest) {
        Ok(bytes) => backups::write_new(&bytes, &to),
        Err(error) => fail(&error, 1),
    }
}

/// A path whose file need not exist, without a symlink on the way to it.
fn really(path: &Path) -> Option<PathBuf> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name()?;
    Some(std::fs::canonicalize(folder).ok()?.join(name))
}
