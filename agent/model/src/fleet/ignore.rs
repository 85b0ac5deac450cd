//! `ignore` and `format` of a `[[file]]`: keys in it that belong to somebody else.

use super::read::{Located, Place, Table, brief, did_you_mean};
use crate::drift::{IgnoredKeys, Structure};
use crate::finding::Findings;
use crate::keys::{MAX_KEYS, parse_path};
use crate::names::HostPath;

/// The keys that are ignored in one file, and where that is said.
pub type DeclaredKeys<'s> = Located<'s, IgnoredKeys>;

/// Reads both keys of a `[[file]]`; `None` when it ignores none, or they cannot be used.
pub(super) fn read_ignored<'s>(
    table: &mut Table<'_, 's>,
    path: Option<&HostPath>,
    findings: &mut Findings,
) -> Option<DeclaredKeys<'s>> {
    let place = table.item("ignore").map(|item| item.place);
    let texts = table.strings("ignore", findings);
    let format = table.string("format", findings);
    let declared = format.as_ref().map(|text| (text.place, read_format(text, findings)));
    let Some(place) = place else {
        if let Some((place, Some(_))) = declared {
            findings.at_with(place, "`format` says how keys to ignore are found, and none are", "add `ignore = [\"…\"]`");
        }
        return None;
    };
    let known = path.and_then(|path| Structure::of_name(path.file_name()));
    let format = match (declared, known) {
        (Some((_, format)), _) => format,
        (None, Some(format)) => Some(format),
        (None, None) => {
            if let Some(path) = path {
                let message = format!("the ending of {} does not say how it is read", brief(path.file_name()));
                findings.at_with(place, message, format!("add `format = \"…\"`: {}", words()));
            }
            None
        }
    };
    if texts.len() > MAX_KEYS {
        findings.at(place, format!("{} keys are ignored here; there may be at most {MAX_KEYS}", texts.len()));
        return None;
    }
    let keys = texts.iter().filter_map(|text| read_key(text, format, findings)).collect::<Vec<_>>();
    if texts.is_empty() {
        findings.at_with(place, "no key is ignored here", "name one, e.g. \"server.port\", or take the list away");
    }
    if keys.is_empty() {
        return None;
    }
    Some(Located { value: IgnoredKeys { format: format?, keys }, place })
}

fn read_format(text: &Located<'_, String>, findings: &mut Findings) -> Option<Structure> {
    let format = Structure::ALL.into_iter().find(|format| format.word() == text.value);
    if format.is_none() {
        let help = did_you_mean(&text.value, Structure::ALL.map(Structure::word));
        let help = if help.is_empty() { words() } else { help };
        findings.at_with(text.place, format!("`{}` is not a format in which keys can be ignored", brief(&text.value)), help);
    }
    format
}

fn words() -> String {
    let words: Vec<String> = Structure::ALL.iter().map(|format| format!("`{}`", format.word())).collect();
    format!("one of {}", words.join(", "))
}

fn read_key(text: &Located<'_, String>, format: Option<Structure>, findings: &mut Findings) -> Option<Vec<String>> {
    let path = match parse_path(&text.value) {
        Ok(path) => path,
        Err(error) => {
            let place = text.place.within(&text.value, error.at, error.at + 1);
            findings.at_with(place, error.why, "a path like server.port, section.\"dotted.key\" or *.password");
            return None;
        }
    };
    let of = |wrong: &str, help: &str, findings: &mut Findings| {
        findings.at_with(text.place, wrong, help);
        None
    };
    match format {
        Some(Structure::Ini | Structure::Systemd) if path.len() > 2 => {
            of("in this format there are only sections and keys", "section.key; a name with dots stands in quotes", findings)
        }
        _ if path.iter().all(|part| part == "*") && path.len() == 1 => {
            of("this would ignore everything", "leave the file to the one who writes it", findings)
        }
        _ => Some(path),
    }
}

/// A wanted content must be readable, or nothing could ever be ignored in it.
pub(crate) fn judge_content(declared: &DeclaredKeys<'_>, bytes: &[u8], from: Place<'_>, findings: &mut Findings) {
    if let Err(why) = crate::keys::judge(declared.value.format, bytes) {
        let message = format!("keys are to be ignored in this file, but what it comes to on this host cannot be read: {why}");
        findings.at_both(from, message, declared.place, "ignored here", "");
    }
}
