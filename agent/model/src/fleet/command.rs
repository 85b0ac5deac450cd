//! Programs that component.toml names: `command` of a check, `[[hook]]`, and who runs them.

use super::component::name;
use super::read::{Item, Place, Table, brief, did_you_mean};
use super::time;
use crate::finding::Findings;
use crate::hook::HookPhase;
use crate::names::{AccountName, HostPath};

/// Without `timeout`.
const TIMEOUT: u64 = 60_000;
/// The most words of a command line, and the most bytes of one.
const MAX_WORDS: usize = 100;
const MAX_WORD: usize = 4000;

/// `[[hook]]`.
#[derive(Debug, Clone)]
pub struct DeclaredHook<'s> {
    /// When it runs.
    pub on: HookPhase,
    /// The program and its arguments.
    pub run: Vec<String>,
    /// Milliseconds that it has.
    pub timeout_ms: u64,
    /// Who runs it, if not root.
    pub user: Option<AccountName>,
    /// The command line in the table.
    pub place: Place<'s>,
}

/// Reads one `[[hook]]`.
pub(super) fn read_hook<'s>(mut table: Table<'_, 's>, findings: &mut Findings) -> Option<DeclaredHook<'s>> {
    let words = HookPhase::ALL.map(HookPhase::word);
    let known = words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ");
    let on = table.required("on", &format!("one of {known}"), findings).and_then(|item| {
        let text = item.string("on", findings)?;
        let phase = HookPhase::ALL.into_iter().find(|phase| phase.word() == text.value);
        if phase.is_none() {
            let help = did_you_mean(&text.value, words);
            let help = if help.is_empty() { format!("one of {known}") } else { help };
            findings.at_with(text.place, format!("no hook runs on `{}`", brief(&text.value)), help);
        }
        phase
    });
    let item = table.required("run", "a list: the program, then its arguments", findings);
    let run = item.and_then(|item| read_run(item, "run", findings));
    let before = findings.list.len() + findings.more;
    let timeout = time::read(&mut table, "timeout", 1000, findings);
    let user = read_user(&mut table, findings);
    let sound = findings.list.len() + findings.more == before;
    let place = item.map_or(table.place, |item| item.place);
    table.finish(findings);
    let timeout_ms = timeout.map_or(TIMEOUT, |(ms, _)| ms);
    Some(DeclaredHook { on: on?, run: run?, timeout_ms, user, place }).filter(|_| sound)
}

/// A command line: an absolute program and its arguments, each a word of its own, for no shell stands in between.
pub(super) fn read_run(item: Item<'_, '_>, what: &'static str, findings: &mut Findings) -> Option<Vec<String>> {
    if item.value.as_str().is_some() {
        let help = format!("each word by itself, for no shell reads it: {what} = [\"/usr/local/bin/program\", \"argument\"]");
        findings.at_with(item.place, format!("`{what}` must be a list, and this is a string"), help);
        return None;
    }
    let items = item.list(what, findings)?;
    let count = items.len();
    let words: Vec<_> = items.into_iter().filter_map(|word| word.string(what, findings)).collect();
    if words.len() < count {
        return None;
    }
    let Some(program) = words.first() else {
        findings.at(item.place, format!("`{what}` is empty: its first word is the program"));
        return None;
    };
    if let Err(error) = program.value.parse::<HostPath>() {
        let help = "an absolute path; for a shell's own syntax, ship a script";
        findings.at_with(program.place, format!("`{}` cannot be the program: {}", brief(&program.value), error.why), help);
        return None;
    }
    if let Some(wrong) = words.iter().find(|word| word.value.contains('\0') || word.value.len() > MAX_WORD) {
        findings.at(wrong.place, format!("a word may have at most {MAX_WORD} bytes, and none of them 0"));
        return None;
    }
    if words.len() > MAX_WORDS {
        findings.at(item.place, format!("a command line may have at most {MAX_WORDS} words"));
        return None;
    }
    Some(words.into_iter().map(|word| word.value).collect())
}

/// `user`.
pub(super) fn read_user(table: &mut Table<'_, '_>, findings: &mut Findings) -> Option<AccountName> {
    name(table, "user", false, findings).map(|user| user.value)
}
