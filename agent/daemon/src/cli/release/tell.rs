//! What `trimtab release` says: before anybody signs, and after.

use std::fmt::Write as _;
use std::process::ExitCode;

use gix_hash::ObjectId;
use serde_json::json;

use super::preview::{self, Row};
use super::session::{Rule, Session};
use crate::author::draft::{Draft, Said};
use crate::cli::{color, print_json, say};
use crate::trust::statement::show_time;
use crate::trust::threshold::NamedKey;

/// The most commits whose subjects are shown.
const MAX_SUBJECTS: usize = 20;

/// What is about to be signed: the statement, the commits, and what becomes of whom.
pub(super) fn before(session: &Session, draft: &Draft, rows: &[Row], diff: bool) -> String {
    let name = draft.said.tag_name();
    let mut text = String::new();
    let (issued, expires) = match &draft.said {
        Said::Release(statement) => {
            let _ = writeln!(text, "{name}: commit {}, tree {}, root {}", statement.commit, statement.tree, statement.root);
            (statement.issued, statement.expires)
        }
        Said::Alive(alive) => {
            let _ = writeln!(text, "{name}: {}/{} is the newest release", alive.channel, alive.place);
            (alive.issued, alive.expires)
        }
    };
    let _ = writeln!(text, "  issued {}, expires {}", show_time(issued), show_time(expires));
    if let Some(warning) = rolled_back(session) {
        let _ = writeln!(text, "  ! {warning}");
    }
    if matches!(draft.said, Said::Alive(_)) {
        return text;
    }
    let old = session.in_force.as_ref().map(|current| (current.draft.said.tag_name(), current.draft.commit));
    match &old {
        None => text.push_str("First release of this channel. Each would get:\n"),
        Some((old, commit)) if *commit == draft.commit => {
            let _ = writeln!(text, "The commit is the one of {old}: only number and time are new.");
        }
        Some((old, commit)) => {
            let is_back = session.desk.is_ancestor(draft.commit, *commit);
            let (from, to) = if is_back { (draft.commit, *commit) } else { (*commit, draft.commit) };
            let _ = writeln!(text, "Against {old}, {}:", if is_back { "taken back" } else { "new" });
            for subject in session.desk.subjects(from, to, MAX_SUBJECTS) {
                let _ = writeln!(text, "  {} {subject}", if is_back { "-" } else { "+" });
            }
            text.push_str("Each would get:\n");
        }
    }
    text + &preview::show(rows, (old.as_ref().map(|(name, _)| name.as_str()), &name), diff, color())
}

/// The remote serves less than was published from here: the host of the repository, or somebody else, took it back.
fn rolled_back(session: &Session) -> Option<String> {
    let seen = session.seen.as_ref()?;
    let current = session.in_force.as_ref().map(|current| current.draft.said.place());
    if session.remote.is_none() || current >= Some(seen.draft.said.place()) {
        return None;
    }
    let serves = session.in_force.as_ref().map_or("nothing".to_owned(), |current| current.draft.said.tag_name());
    Some(format!(
        "{} was published from here, and the remote serves {serves}: somebody took it back there; find out who. Hosts that had it refuse the older one",
        seen.draft.said.tag_name()
    ))
}

/// What was done.
pub(super) struct Done<'a> {
    pub(super) session: &'a Session,
    pub(super) draft: &'a Draft,
    pub(super) object: ObjectId,
    pub(super) role: &'a Rule,
    pub(super) signed: Vec<String>,
    pub(super) signers: Vec<NamedKey>,
    pub(super) pushed: Option<String>,
    pub(super) rows: Vec<Row>,
}

/// Tells what was done, and what comes next.
pub(super) fn after(done: &Done<'_>, as_json: bool) -> ExitCode {
    let need = done.role.role.threshold;
    let names: Vec<&str> = done.signers.iter().map(|named| named.name.as_str()).collect();
    let missing: Vec<&str> = done.role.role.keys.iter().map(String::as_str).filter(|name| !names.contains(name)).collect();
    let is_complete = names.len() >= need;
    if as_json {
        let place = done.draft.said.place();
        let (root, times) = match &done.draft.said {
            Said::Release(statement) => (Some(statement.root), (statement.issued, statement.expires)),
            Said::Alive(alive) => (None, (alive.issued, alive.expires)),
        };
        return print_json(&json!({
            "channel": done.session.channel.as_str(),
            "kind": done.role.kind,
            "epoch": place.epoch,
            "seq": place.seq,
            "commit": done.draft.commit.to_string(),
            "root": root,
            "issued": times.0,
            "expires": times.1,
            "statement": done.draft.digest(),
            "tag": done.object.to_string(),
            "signed": done.signed,
            "signers": names,
            "threshold": need,
            "missing": missing,
            "complete": is_complete,
            "pushed": done.pushed,
            "preview": done.rows,
        }));
    }
    let mut text = String::new();
    for name in &done.signed {
        let _ = writeln!(text, "Signed by {name}.");
    }
    let have = if names.is_empty() { "nobody".to_owned() } else { names.join(", ") };
    let _ = writeln!(text, "{} of {need} signatures: {have}.", names.len());
    let alive = if done.role.kind == "trimtab-alive" { " --alive" } else { "" };
    let channel = &done.session.channel;
    match (&done.pushed, is_complete) {
        (Some(reference), true) => {
            let _ = writeln!(text, "Published at {reference}: hosts take it with their next poll.");
        }
        (None, true) => {
            let _ = writeln!(text, "A host would take it. Next: trimtab release {channel}{alive} --draft --push");
        }
        (pushed, false) => {
            if let Some(reference) = pushed {
                let _ = writeln!(text, "Pushed to {reference}, where no host looks.");
            }
            let _ = writeln!(text, "Missing: {} of {}.", need - names.len(), missing.join(", "));
            let first = if pushed.is_some() { "" } else { "push it with `--draft --push`; then " };
            let _ = writeln!(text, "Next: {first}one of them runs trimtab release {channel}{alive} --countersign --push");
        }
    }
    say(&text)
}
