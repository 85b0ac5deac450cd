//! `history` and `diff`: the states that were in force, from local storage alone.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;
use trimtab_model::desired::Node;
use trimtab_model::digest::Digest;
use trimtab_model::ledger::Ledger;
use trimtab_model::plan::{Texts, compare, show_compared};
use trimtab_model::transaction::{Denied, DeniedBy, Ended, Generation};

use super::ask::{error_code, remembered, short};
use super::machine::{self, Json};
use super::{color, complain, fail, print_json, say, status};
use crate::config::Places;
use crate::store::Store;

/// Longer files are told by their digests.
const MAX_TEXT: u64 = 256 << 10;

/// `trimtab diff`.
#[derive(Debug, Args)]
pub(super) struct DiffArgs {
    /// Two generations, as `trimtab history` numbers them; without any, what a pass would change (as `trimtab plan`).
    #[arg(value_name = "GEN", num_args = 2)]
    generations: Vec<u64>,
    #[command(flatten)]
    plan: machine::PlanArgs,
}

/// One line of the history.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    generation: u64,
    /// When it ended, or when it was made; seconds since 1970.
    at: u64,
    revision: String,
    effect: Digest,
    /// `committed`, `rolled-back`, `restored`; `trying` (and so on) while it is being tried; nothing for one whose end is forgotten.
    end: Option<String>,
    reason: String,
    duration_ms: Option<u64>,
    in_force: bool,
    good: bool,
    kept: bool,
}

pub(super) fn history(places: &Places, json: Json) -> ExitCode {
    let looked = remembered(places).and_then(|(store, ledger)| Ok((rows(&store, &ledger)?, ledger)));
    let (rows, ledger) = match looked {
        Ok(looked) => looked,
        Err(error) => return fail(&error, error_code(&error)),
    };
    if json.json {
        return print_json(&serde_json::json!({
            "generation": ledger.generation,
            "good": ledger.good,
            "trial": ledger.trial,
            "history": rows,
            "denied": ledger.denied,
        }));
    }
    say(&human(&rows, &ledger, crate::cycle::now_ms() / 1000))
}

/// What ended, newest first, then what is kept and has no line (any more).
fn rows(store: &Store, ledger: &Ledger) -> Result<Vec<Row>, crate::store::StoreError> {
    let kept = store.generations()?;
    let mut newest = BTreeSet::new();
    let mut rows = Vec::new();
    for line in &ledger.history {
        // A generation may have several lines: it is in force by the newest of them.
        let first = newest.insert(line.generation);
        rows.push(Row {
            generation: line.generation,
            at: line.at,
            revision: line.revision.clone(),
            effect: line.effect,
            end: Some(word(line.end).to_owned()),
            reason: line.reason.clone(),
            duration_ms: Some(line.duration_ms),
            in_force: first && line.generation == ledger.generation,
            good: first && line.generation == ledger.good,
            kept: kept.contains_key(&line.generation),
        });
    }
    for number in kept.keys().rev().filter(|number| !newest.contains(number)) {
        // One that cannot be read is of no use to anybody.
        let Ok(Some(generation)) = store.load_generation(*number) else { continue };
        let trial = ledger.trial.as_ref().filter(|trial| trial.generation == *number);
        let row = Row {
            generation: *number,
            at: generation.at,
            effect: generation.desired.effect(),
            revision: generation.revision,
            end: trial.map(|trial| status::phase(trial.phase).to_owned()),
            reason: String::new(),
            duration_ms: None,
            in_force: *number == ledger.generation,
            good: *number == ledger.good,
            kept: true,
        };
        if trial.is_some() { rows.insert(0, row) } else { rows.push(row) }
    }
    Ok(rows)
}

fn word(end: Ended) -> &'static str {
    match end {
        Ended::Committed => "committed",
        Ended::RolledBack => "rolled-back",
        Ended::Restored => "restored",
    }
}

fn human(rows: &[Row], ledger: &Ledger, now: u64) -> String {
    if rows.is_empty() {
        return "No generation yet: nothing was converged on this host.\n".to_owned();
    }
    let mut text = String::new();
    for row in rows {
        let mut marks = Vec::new();
        marks.extend(row.in_force.then_some("in force"));
        marks.extend(row.good.then_some("last good"));
        marks.extend((!row.kept).then_some("not kept"));
        let marks = if marks.is_empty() { String::new() } else { format!("  ({})", marks.join(", ")) };
        let _ = writeln!(
            text,
            "{} {:>4}  {:>8} ago  {:<12}  {:<15}  {}{marks}",
            if row.in_force { "*" } else { " " },
            row.generation,
            status::ago(now, row.at),
            short(&row.revision),
            row.effect.short(),
            row.end.as_deref().unwrap_or("kept"),
        );
        for line in row.reason.lines().take(1) {
            let _ = writeln!(text, "        {line}");
        }
    }
    denied(&ledger.denied, now, &mut text);
    text
}

/// What is not tried again by itself, and what a person can do about it.
pub(super) fn denied(list: &[Denied], now: u64, text: &mut String) {
    if list.is_empty() {
        return;
    }
    text.push_str("denied      (not tried again by itself; `trimtab retry REV` does)\n");
    for entry in list {
        let names: Vec<&str> = entry.components.iter().map(trimtab_model::names::ComponentName::as_str).collect();
        let what = if names.is_empty() { String::new() } else { format!(" {} of it,", names.join(", ")) };
        let by = match &entry.by {
            DeniedBy::Health => "by its health".to_owned(),
            DeniedBy::Reach { .. } => "for the source could not be reached with it".to_owned(),
            DeniedBy::Person { reason } => format!("by a person: {reason}"),
        };
        let tried = if entry.tries > 1 { format!(", tried {} times", entry.tries) } else { String::new() };
        let (revision, effect) = (short(&entry.revision), entry.effect.short());
        let _ = writeln!(text, "  {revision} ({effect}),{what} {} ago{tried}, {by}", status::ago(now, entry.at));
        if !matches!(entry.by, DeniedBy::Person { .. }) {
            for cause in &entry.causes {
                let _ = writeln!(text, "      {}: {}", cause.resource, cause.message.lines().next().unwrap_or_default());
            }
        }
    }
}

pub(super) fn diff(places: &Places, args: &DiffArgs) -> ExitCode {
    let (from, to) = match args.generations.as_slice() {
        [] => return machine::plan(places, &args.plan),
        [from, to] => (*from, *to),
        _ => {
            complain("give two generations, as `trimtab history` numbers them, or none");
            return ExitCode::from(64);
        }
    };
    let (store, _) = match remembered(places) {
        Ok(remembered) => remembered,
        Err(error) => return fail(&error, error_code(&error)),
    };
    let (old, new) = match (recall(&store, from), recall(&store, to)) {
        (Ok(old), Ok(new)) => (old, new),
        (Err(code), _) | (_, Err(code)) => return code,
    };
    let changes = compare(&old.desired, &new.desired);
    if args.plan.json {
        let about = |generation: &Generation| {
            serde_json::json!({
                "generation": generation.number,
                "revision": generation.revision,
                "effect": generation.desired.effect(),
                "at": generation.at,
            })
        };
        print_json(&serde_json::json!({ "from": about(&old), "to": about(&new), "changes": changes }));
    } else {
        let names = (format!("generation {from}"), format!("generation {to}"));
        let texts = Both { store: &store, old: &old, new: &new };
        say(&show_compared(&changes, &texts, (&names.0, &names.1), color()));
    }
    if changes.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(2) }
}

fn recall(store: &Store, number: u64) -> Result<Generation, ExitCode> {
    match store.load_generation(number) {
        Ok(Some(generation)) => Ok(generation),
        Ok(None) => {
            complain(&format!("generation {number} is not kept (any more); `trimtab history` lists what is"));
            Err(ExitCode::FAILURE)
        }
        Err(error) => Err(fail(&error, error_code(&error))),
    }
}

struct Both<'a> {
    store: &'a Store,
    old: &'a Generation,
    new: &'a Generation,
}

impl Both<'_> {
    /// The text of a file that everybody may read; empty where there is none.
    fn text(&self, generation: &Generation, path: &str) -> Option<String> {
        let Some(entry) = generation.desired.entries.get(path) else { return Some(String::new()) };
        match &entry.state.node {
            Node::File { digest, size } if entry.shown && *size <= MAX_TEXT => {
                String::from_utf8(self.store.read(digest).ok()?).ok().filter(|text| !text.contains('\0'))
            }
            _ => None,
        }
    }
}

impl Texts for Both<'_> {
    fn texts(&self, path: &str) -> Option<(String, String)> {
        let (old, new) = (self.text(self.old, path)?, self.text(self.new, path)?);
        (old != new).then_some((old, new))
    }
}
