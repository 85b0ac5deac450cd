//! The status document as anybody on the host may see it: over HTTP it goes to whoever asks.
//!
//! Guarantees: what a program said is cut to its first line, for its last words may be anything; lines of the repository's files, digests of
//! contents that were kept (which can be guessed at) and what a sink answered are left out. Everything else is as in the document.

use crate::finding::Findings;
use crate::report::{Failure, Pass};
use crate::status::Status;

/// No line is longer, in characters.
const LINE: usize = 500;

/// The document without what is not for everybody.
#[must_use]
pub fn for_everybody(mut status: Status) -> Status {
    cut(&mut status.reason);
    for condition in &mut status.conditions {
        cut(&mut condition.message);
    }
    if let Some(pass) = &mut status.last_pass {
        of_pass(pass);
    }
    for denied in &mut status.denied {
        failures(&mut denied.causes);
    }
    for line in &mut status.changes {
        cut(&mut line.reason);
    }
    for drift in status.drift.iter_mut().chain(&mut status.past_drift) {
        drift.kept = None;
    }
    cut(&mut status.courier.detail);
    cut(&mut status.queue.trouble);
    for sink in &mut status.queue.sinks {
        cut(&mut sink.error);
    }
    status
}

fn of_pass(pass: &mut Pass) {
    cut(&mut pass.trust.message);
    cut(&mut pass.source_error);
    cut(&mut pass.paused);
    findings(&mut pass.findings);
    failures(&mut pass.failures);
    for problem in &mut pass.problems {
        cut(&mut problem.message);
    }
    for (_, digest) in &mut pass.kept {
        digest.clear();
    }
    for remark in &mut pass.remarks {
        cut(remark);
    }
    if let Some(undone) = &mut pass.undone {
        failures(&mut undone.causes);
        failures(&mut undone.amiss);
    }
}

fn failures(list: &mut [Failure]) {
    for failure in list {
        cut(&mut failure.message);
    }
}

fn findings(findings: &mut Findings) {
    for finding in &mut findings.list {
        cut(&mut finding.message);
        cut(&mut finding.help);
        for spot in &mut finding.spots {
            // The line itself: it may be one that should never have been in a repository.
            spot.text.clear();
            spot.width = 1;
        }
    }
}

fn cut(text: &mut String) {
    let line = text.lines().next().unwrap_or_default();
    if line.len() != text.len() || line.len() > LINE {
        let line: String = line.chars().take(LINE).collect();
        line.trim_end_matches(':').clone_into(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every string of a document that is longer than one line, with where it stands.
    fn long(value: &serde_json::Value, at: &str, found: &mut Vec<String>) {
        match value {
            serde_json::Value::String(text) if text.contains('\n') || text.chars().count() > LINE => {
                found.push(format!("{at}: {text}"));
            }
            serde_json::Value::Array(list) => list.iter().for_each(|one| long(one, at, found)),
            serde_json::Value::Object(map) => map.iter().for_each(|(key, one)| long(one, &format!("{at}/{key}"), found)),
            _ => {}
        }
    }

    #[test]
    fn no_last_words_no_lines_of_files_and_no_digests_of_what_was_kept() {
        let text = serde_json::to_string(&crate::status::sample()).unwrap();
        // In what a program said, in a line of a file, in what a sink answered.
        let hide = [
            ("panicked at main.rs:7", "password=hunter2"),
            ("retsart = \\\"nothing\\\"", "password = hunter2"),
            ("refused", "\\nhunter2"),
        ];
        let text = hide.iter().fold(text, |text, (what, by)| {
            assert!(text.contains(what), "{what}");
            text.replace(what, by)
        });
        let full: Status = serde_json::from_str(&text).unwrap();
        let public = for_everybody(full);
        let value = serde_json::to_value(&public).unwrap();
        let mut found = Vec::new();
        long(&value, "", &mut found);
        assert!(found.is_empty(), "{found:#?}");
        let text = value.to_string();
        assert!(!text.contains("hunter2"), "{text}");
        assert!(text.contains("it failed; its last words\""), "the first line is told: {text}");
        assert_eq!(for_everybody(public.clone()), public);
    }
}
