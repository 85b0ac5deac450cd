//! `trimtab trust explain`: what this host trusts, since when and why, from its own files.
//!
//! Limits: it reads what the agent wrote last and asks nobody: whether the source has something newer is for `trimtab status` or `trimtab verify`.

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use serde_json::json;

use crate::author::AuthorError;
use crate::cli::{print_json, say, status};
use crate::config::Places;
use crate::log::chain;
use crate::trust::fresh::{Freshness, freshness};
use crate::trust::keys::TrustConfig;
use crate::trust::memory::{Memory, Moment, Released};
use crate::trust::policy::{Anchor, Mode, OnStale, Pin, ReleasePolicy, RootFile};
use crate::trust::release::Rules;
use crate::trust::root::Role;
use crate::trust::statement::show_time;

/// The file of each copy of the memory.
const MEMORY: &str = "trust-state.json";

/// `trimtab trust explain`.
#[derive(Debug, Args)]
pub(super) struct ExplainArgs {
    /// Answer in JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(places: &Places, args: &ExplainArgs) -> Result<ExitCode, AuthorError> {
    let trust = TrustConfig::load(&places.trust_toml()).map_err(|error| AuthorError::refused(chain(&error)))?;
    let (memory, copies, damaged) = remembered(places);
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |passed| passed.as_secs());
    let moment = Moment { clock, synchronised: crate::host::sys::is_clock_kept().unwrap_or(false) };
    let look = last_look(places);
    let is_its = |rules: &Rules<'_>| memory.release.as_ref().is_some_and(|release| is_of(release, rules.policy, &trust));
    let fresh = Rules::of(&trust).filter(is_its).map(|rules| freshness(&memory, rules, moment));
    if args.json {
        let root = memory.root.as_ref();
        return Ok(print_json(&json!({
            "mode": if matches!(trust.mode(), Mode::Commit) { "commit" } else { "release" },
            "reference": trust.reference(),
            "pin": trust.anchor().map(pin),
            "repo": trust.anchor().map(|anchor| anchor.repo.as_str()),
            "root": root.map(|file| json!({ "version": file.root.version, "epoch": file.root.epoch, "digest": file.digest() })),
            "release": memory.release,
            "earlier": memory.earlier,
            "former": memory.former,
            "alive": memory.alive,
            "commit": memory.accepted.as_ref().map(|accepted| accepted.commit.to_string()),
            "freshness": fresh.map(Freshness::code),
            "timeFloor": memory.time_floor,
            "lost": memory.lost,
            "copies": copies,
            "damaged": damaged,
            "lastLook": look.as_ref().map(|(verdict, message)| json!({ "verdict": verdict, "message": message })),
        })));
    }
    let mut text = match trust.mode() {
        Mode::Release(policy) => release(policy, &trust, &memory),
        Mode::Commit => commit(&trust, &memory),
    };
    if let Some(fresh) = fresh {
        let _ = writeln!(text, "Freshness  {} ({}){}", fresh.code(), fresh.words(), what_then(fresh));
    }
    if let Some((verdict, message)) = &look {
        let said = if message.is_empty() { String::new() } else { format!(": {message}") };
        let _ = writeln!(text, "Last look  {verdict}{said}");
    }
    for words in &damaged {
        let _ = writeln!(text, "! {words}");
    }
    if copies == 0 && !damaged.is_empty() {
        text.push_str(
            "! Nothing of what this host remembered can be read: the next pass begins with the floor in trust.toml, and reports that (with `require-state = true` it waits for a person)\n",
        );
    }
    if copies < 2 && memory != Memory::default() {
        let _ = writeln!(text, "! {copies} of 2 copies of what this host remembers can be read; the next pass writes both");
    }
    if let Some(lost) = memory.lost {
        let _ = writeln!(
            text,
            "! An earlier memory was lost ({} ago): until the next one {} is what keeps old ones out",
            status::ago(clock, lost),
            memory.base.map_or("the floor in trust.toml".to_owned(), |base| format!("{base}, which is in force,"))
        );
    }
    Ok(say(&text))
}

/// What the agent said of the source when it looked last, in this boot: a verdict, or why there is none; and a sentence.
fn last_look(places: &Places) -> Option<(String, String)> {
    let pass = status::read(places).ok()?.last_pass?;
    if !pass.source_error.is_empty() {
        return Some(("not reached".to_owned(), pass.source_error));
    }
    (!pass.trust.verdict.is_empty()).then_some((pass.trust.verdict, pass.trust.message))
}

/// What that means for this host, and what to do.
fn what_then(fresh: Freshness) -> &'static str {
    match fresh {
        Freshness::Fresh => "",
        Freshness::Expired => {
            ": what it brought stays in force; a new release, of the same commit if nothing changed, makes it fresh"
        }
        Freshness::Unknown => {
            ": what it brought stays in force; see `trimtab status` for the clock, and whether somebody keeps the channel alive"
        }
        Freshness::Withheld(_) => ": what it brought stays in force; find out why the source does not serve the newer one",
    }
}

/// Both copies, taken together; how many could be read, and what is wrong with the others.
fn remembered(places: &Places) -> (Memory, usize, Vec<String>) {
    let store = places.store();
    let (mut memory, mut copies, mut damaged) = (None::<Memory>, 0, Vec::new());
    for folder in [store.state, store.trust_copy] {
        let path = folder.join(MEMORY);
        match read(&path) {
            Ok(None) => {}
            Ok(Some(one)) => {
                copies += 1;
                memory = Some(match memory {
                    Some(other) => other.merge(one),
                    None => one,
                });
            }
            Err(why) => damaged.push(format!("{}: {why}", path.display())),
        }
    }
    (memory.unwrap_or_default(), copies, damaged)
}

fn read(path: &Path) -> Result<Option<Memory>, String> {
    match std::fs::read_to_string(path) {
        Ok(text) => Memory::from_text(&text).map(Some).map_err(|error| chain(&error)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}

fn pin(anchor: &Anchor) -> String {
    match &anchor.pin {
        Pin::Digest(digest) => digest.to_string(),
        Pin::File(file) => file.digest().to_string(),
        Pin::Path(path) => path.display().to_string(),
    }
}

fn release(policy: &ReleasePolicy, trust: &TrustConfig, memory: &Memory) -> String {
    let mut text = format!("This host follows the channel {} and believes signed releases only.\n", policy.channel);
    if let Some(anchor) = trust.anchor() {
        let _ = writeln!(text, "Repository {}\nPinned     {} (trust.toml)", anchor.repo, pin(anchor));
    }
    match &memory.root {
        None => text.push_str("No root was seen yet: the first look at the source begins with the pinned one.\n"),
        Some(file) => who(file, policy, &mut text),
    }
    match &memory.release {
        None => text.push_str("Nothing was accepted yet.\n"),
        Some(release) if !is_of(release, policy, trust) => {
            let _ = writeln!(
                text,
                "Before     {}/{} of {}: it is of another channel or repository than trust.toml names now, and says nothing about this one",
                release.channel, release.place, release.repo
            );
        }
        Some(release) => {
            let name = format!("{}/{}", release.channel, release.place);
            let _ = writeln!(text, "Accepted   {name}, signed by {}", release.signers.join(", "));
            let _ = writeln!(
                text,
                "           issued {}, runs out {}, judged under root {}",
                show_time(release.issued),
                show_time(release.expires),
                release.root
            );
            let _ = writeln!(text, "           statement {}", release.statement);
            let _ = writeln!(text, "           so no release below {} is taken, whoever signs it", release.place);
        }
    }
    for passed in &memory.earlier {
        let _ = writeln!(
            text,
            "Earlier    {}/{}: if this host follows that channel again, nothing below is taken",
            passed.channel, passed.place
        );
    }
    if memory.former.is_some() {
        text.push_str(
            "! Another root is pinned than that under which this was accepted: whether it counts is settled by the next release\n",
        );
    }
    if let (Some(alive), true) =
        (memory.heard(policy.channel.as_str()), memory.release.as_ref().is_none_or(|release| is_of(release, policy, trust)))
    {
        let _ = writeln!(
            text,
            "Alive      {} was the newest on {}, and counts so until {}",
            alive.place,
            show_time(alive.issued),
            show_time(alive.expires)
        );
    }
    let zero = crate::trust::statement::Place::default();
    if policy.floor != zero {
        let _ = writeln!(text, "Floor      {} (min-epoch, min-seq): holds even if this host loses its memory", policy.floor);
    } else if memory.release.as_ref().is_some_and(|release| is_of(release, policy, trust)) {
        text.push_str(
            "Floor      none in trust.toml: a host that loses its memory takes any release that is signed and has not run out\n",
        );
    }
    if policy.on_stale == OnStale::Hold {
        text.push_str("Stale      on-stale = \"hold\": what is not known to be fresh is not taken\n");
    }
    text
}

/// Whether a release is of the channel that this host follows now.
fn is_of(release: &Released, policy: &ReleasePolicy, trust: &TrustConfig) -> bool {
    release.channel == policy.channel.as_str() && trust.anchor().is_some_and(|anchor| anchor.repo.as_str() == release.repo)
}

/// Who may do what, by the newest root that was believed.
fn who(file: &RootFile, policy: &ReleasePolicy, text: &mut String) {
    let root = &file.root;
    let _ = writeln!(text, "Root       {} (epoch {}), {}", root.version, root.epoch, file.digest());
    let words = |role: &Role| format!("{} of {}", role.threshold, role.keys.join(", "));
    match root.release.get(&policy.channel) {
        Some(role) => {
            let _ = writeln!(text, "           a release takes {}", words(role));
            for named in root.quorum(role).keys {
                let _ = writeln!(text, "             {named}");
            }
        }
        None => {
            let _ = writeln!(
                text,
                "           nobody may release to {}: add [release.{}] with `trimtab trust rotate`",
                policy.channel, policy.channel
            );
        }
    }
    let _ = writeln!(text, "           the next root takes {} and its own", words(&root.root));
}

fn commit(trust: &TrustConfig, memory: &Memory) -> String {
    let mut text = format!("This host follows {} and believes signed commits only.\n", trust.reference());
    if let Some(anchor) = trust.anchor() {
        let _ = writeln!(text, "Repository {}\nPinned     {}; the newest root says whose commits count", anchor.repo, pin(anchor));
    }
    for key in trust.keys() {
        let _ = writeln!(text, "Key        {} {}", key.key.fingerprint(), key.comment);
    }
    if let Some(trailer) = trust.trailer() {
        let _ = writeln!(text, "Trailer    a commit must say `Trimtab-Channel: {trailer}`");
    }
    if let Some(least) = trust.min_commit() {
        let _ = writeln!(
            text,
            "Floor      {least} (min-commit): what a first commit must be or descend from, even if this host loses its memory"
        );
    }
    match &memory.accepted {
        None => text.push_str("Nothing was accepted yet.\n"),
        Some(accepted) => {
            let name = if accepted.signer_name.is_empty() {
                accepted.signer.to_string()
            } else {
                format!("{} ({})", accepted.signer_name, accepted.signer)
            };
            let _ = writeln!(text, "Accepted   {} on {}, signed by {name}", accepted.commit, show_time(accepted.accepted_at));
            text.push_str("           so only what descends from it is taken\n");
        }
    }
    text.push_str(
        "Commit mode has no expiry: a frozen source is seen by its silence only (`trimtab trust init` begins release mode).\n",
    );
    text
}
