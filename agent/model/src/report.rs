//! How a pass ended.
//!
//! A pass cannot fail, it can only end: every error becomes part of its [`Pass`]. Nothing in here may hold a secret; contents appear as
//! digests only.

use serde::{Deserialize, Serialize};

use crate::drift::LeftAlone;
use crate::finding::Findings;
use crate::names::ComponentName;
use crate::plan::{Cause, Change, Problem};

/// Why a pass was begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Wake {
    /// The agent started.
    Start,
    /// The interval was over.
    Timer,
    /// SIGHUP or `trimtab sync`.
    Asked,
    /// A failed poll is tried again.
    Retry,
    /// Something that is managed was seen to change.
    Event,
    /// `trimtab bundle apply`.
    Bundle,
}

impl Wake {
    /// Whether a person waits for it.
    pub fn is_asked(self) -> bool {
        matches!(self, Self::Asked | Self::Bundle)
    }
}

/// How a pass ended, from best to worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The host was as wanted.
    Unchanged,
    /// Something differed and was mended.
    Converged,
    /// Something differs and was not touched (`plan`).
    Planned,
    /// Something differs, and is left as it is because the repository says so (`drift = "report"`) or something keeps changing it back.
    Drifted,
    /// A person holds something back (`suspend`, `pin`), or the host only observes.
    Paused,
    /// The source could not be reached; the host is held on the last good state.
    Unreachable,
    /// Some resources could not be converged; the others are.
    Partial,
    /// The newest revision was refused; the host is held on the last good state.
    Held,
    /// The newest revision was tried and undone; the host is held on the last good state, and the revision is not tried again by itself.
    RolledBack,
    /// The newest revision was tried, and not all of it could be undone.
    Degraded,
    /// Local configuration or memory cannot be trusted: a person must look.
    Halted,
}

impl Outcome {
    /// All of them.
    pub const ALL: [Outcome; 11] = [
        Outcome::Unchanged,
        Outcome::Converged,
        Outcome::Planned,
        Outcome::Drifted,
        Outcome::Paused,
        Outcome::Unreachable,
        Outcome::Partial,
        Outcome::Held,
        Outcome::RolledBack,
        Outcome::Degraded,
        Outcome::Halted,
    ];

    /// The word for journal fields and tables.
    pub fn word(self) -> &'static str {
        match self {
            Outcome::Unchanged => "unchanged",
            Outcome::Converged => "converged",
            Outcome::Planned => "planned",
            Outcome::Drifted => "drifted",
            Outcome::Paused => "paused",
            Outcome::Unreachable => "unreachable",
            Outcome::Partial => "partial",
            Outcome::Held => "held",
            Outcome::RolledBack => "rolled-back",
            Outcome::Degraded => "degraded",
            Outcome::Halted => "halted",
        }
    }

    /// Whether the host is known to be as the newest accepted revision wants it.
    pub fn is_ready(self) -> bool {
        matches!(self, Outcome::Unchanged | Outcome::Converged)
    }
}

/// What trust said about the newest revision.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrustReport {
    /// A stable code: `accepted`, `unchanged`, `unsigned`, `unknown-signer`, `forged`, `rolled-back`, …
    pub verdict: String,
    /// One sentence for a person; empty when all is well.
    pub message: String,
    /// Who signed: comment and fingerprint of the key.
    pub signer: String,
}

/// One step that did not end well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// As in [`Change::resource`].
    pub resource: String,
    /// The whole chain of causes, or why it was left out.
    pub message: String,
    /// Left out because something that it needs failed.
    #[serde(default)]
    pub skipped: bool,
}

/// A change that was undone, in this pass or in an earlier one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Undone {
    /// The commit.
    pub revision: String,
    /// Which of its components are held back; empty: all.
    pub components: Vec<ComponentName>,
    /// The generation that was gone back to; 0: the host as trimtab found it.
    pub back_to: u64,
    /// When, seconds since 1970.
    pub at: u64,
    /// Why: the whole chain, the first cause first.
    pub causes: Vec<Failure>,
    /// What could not be undone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub amiss: Vec<Failure>,
}

/// How long a part of a pass took.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartTime {
    /// `source` (asked, fetched, proven and rendered; `render` is the part of it after the proof: read and rendered), `prefetch`, `apply`,
    /// `health`, `confirm`, `rollback`, `prune`.
    pub part: String,
    /// Milliseconds.
    pub ms: u64,
}

/// One pass.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pass {
    /// Number of the pass since the agent was installed, as in the journal's `TRIMTAB_PASS`.
    pub number: u64,
    /// Why it was begun.
    pub wake: Wake,
    /// When, seconds since 1970.
    pub started: u64,
    /// The same in milliseconds: `sync` must tell a pass that began before its question from one that began after it.
    #[serde(default)]
    pub started_ms: u64,
    /// How long it took, milliseconds.
    pub duration_ms: u64,
    /// How it ended.
    pub outcome: Outcome,
    /// The revision that the host was held to.
    pub revision: String,
    /// What trust said; empty when the source was not asked or not reached.
    pub trust: TrustReport,
    /// Why the source could not be used; empty when it could.
    pub source_error: String,
    /// What is wrong with the repository; empty when nothing is.
    pub findings: Findings,
    /// What differed.
    pub changes: Vec<Change>,
    /// What could not be planned.
    pub problems: Vec<Problem>,
    /// What could not be done.
    pub failures: Vec<Failure>,
    /// Drift that was overwritten, kept in the blob store: path and digest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kept: Vec<(String, String)>,
    /// Remarks of the machinery: a state file that was restored from its copy, and the like.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remarks: Vec<String>,
    /// What was undone: in this pass, or earlier while the newest revision is still the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undone: Option<Undone>,
    /// The generation in force at the end; 0: none yet.
    #[serde(default)]
    pub generation: u64,
    /// What a person holds back, in one sentence; empty when nothing is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub paused: String,
    /// How long the parts of a change took; empty when there was none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<PartTime>,
}

/// One line of history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PassLine {
    /// [`Pass::number`].
    pub number: u64,
    /// [`Pass::started`].
    pub started: u64,
    /// [`Pass::duration_ms`].
    pub duration_ms: u64,
    /// [`Pass::outcome`].
    pub outcome: Outcome,
    /// [`Pass::revision`].
    pub revision: String,
    /// How many resources differed because the repository asked for it.
    pub updates: usize,
    /// How many resources had drifted.
    pub drift: usize,
}

impl Pass {
    /// The line that history keeps.
    pub fn line(&self) -> PassLine {
        let drift = self.changes.iter().filter(|c| matches!(c.cause, Cause::Drift | Cause::UpdateAndDrift)).count();
        let updates = self.changes.iter().filter(|c| c.cause == Cause::Update).count();
        PassLine {
            number: self.number,
            started: self.started,
            duration_ms: self.duration_ms,
            outcome: self.outcome,
            revision: self.revision.clone(),
            updates,
            drift,
        }
    }

    /// One sentence that says how the pass ended and why.
    pub fn reason(&self) -> String {
        match self.outcome {
            Outcome::Unchanged => "the host is as the repository says".to_owned(),
            Outcome::Converged => {
                let line = self.line();
                format!("{} updated, {} repaired", line.updates, line.drift)
            }
            Outcome::Planned => format!("{} to change", self.changes.len()),
            Outcome::Drifted | Outcome::Paused => self.left_alone(),
            Outcome::Unreachable => format!("holding the last good state, the source cannot be used: {}", self.source_error),
            Outcome::Partial => {
                let first = self.failures.iter().find(|f| !f.skipped).map(|f| format!("{}: {}", f.resource, f.message));
                let first = first.or_else(|| self.problems.first().map(|p| format!("{}: {}", p.resource, p.message)));
                format!("not everything could be converged: {}", first_line(&first.unwrap_or_default()))
            }
            Outcome::Held if !self.trust.message.is_empty() => format!("holding the last good state: {}", self.trust.message),
            Outcome::Held if !self.findings.is_empty() => format!("holding the last good state: {}", self.findings),
            Outcome::Held => {
                let first = self.failures.first().map(|f| format!("{}: {}", f.resource, f.message));
                format!("holding the last good state: {}", first_line(&first.unwrap_or_else(|| self.source_error.clone())))
            }
            Outcome::RolledBack | Outcome::Degraded => self.undone_reason(),
            Outcome::Halted => {
                format!("halted, a person must look: {}", self.failures.first().map_or("", |failure| failure.message.as_str()))
            }
        }
    }
}

impl Pass {
    /// What differs and is not mended, and why.
    fn left_alone(&self) -> String {
        let held: Vec<&Change> = self.changes.iter().filter(|change| change.left_alone.is_some()).collect();
        let first = held.first().map_or_else(String::new, |change| format!(": {}", change.resource));
        match self.outcome {
            Outcome::Paused if self.paused.is_empty() => format!("{} differ and are left alone{first}", held.len()),
            Outcome::Paused if held.is_empty() => self.paused.clone(),
            Outcome::Paused => format!("{}; {} differ{first}", self.paused, held.len()),
            _ if held.iter().all(|change| matches!(change.left_alone, Some(LeftAlone::Contended { .. }))) => {
                format!("{} differ, for something keeps changing them back{first}", held.len())
            }
            _ => format!("{} differ and are only reported{first}", held.len()),
        }
    }

    fn undone_reason(&self) -> String {
        let Some(undone) = &self.undone else { return "a change was undone".to_owned() };
        let revision: String = undone.revision.chars().take(12).collect();
        let what = if undone.components.is_empty() {
            format!("revision {revision} was undone")
        } else {
            let names: Vec<&str> = undone.components.iter().map(ComponentName::as_str).collect();
            format!("{} of revision {revision} was undone", names.join(", "))
        };
        let back = match undone.back_to {
            0 => "the host is as trimtab found it".to_owned(),
            number => format!("generation {number} is in force"),
        };
        let first = |list: &[Failure]| list.first().map(|f| format!("{}: {}", f.resource, first_line(&f.message)));
        let why = first(&undone.causes).unwrap_or_default();
        match first(&undone.amiss) {
            Some(amiss) => format!("{what}, but not all of it: {amiss}; undone because of {why}"),
            None => format!("{what}, {back}: {why}"),
        }
    }
}

/// A failure may quote what a command said, over many lines; they are in [`Pass::failures`].
fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default().trim_end_matches(':')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_is_one_line_whatever_a_service_said() {
        let text = r#"{"number":1,"wake":"timer","started":0,"duration_ms":0,"outcome":"partial","revision":"","trust":{"verdict":"","message":"","signer":""},"source_error":"","findings":{"list":[],"more":0},"changes":[],"problems":[],"failures":[]}"#;
        let mut pass: Pass = serde_json::from_str(text).unwrap();
        let message = "it failed; its last words:\nWATCHDOG=trigger\nMAINPID=1".to_owned();
        pass.failures.push(Failure { resource: "unit a.service".to_owned(), message, skipped: false });
        for outcome in [Outcome::Partial, Outcome::Held] {
            pass.outcome = outcome;
            assert!(pass.reason().ends_with("unit a.service: it failed; its last words"), "{}", pass.reason());
        }
    }
}
