//! The end of a pass: said to the journal when it is news, and written to the status document.

use trimtab_model::plan::{Cause, Change};
use trimtab_model::report::{Outcome, Pass};

use super::{Cycle, Hold};

impl Cycle {
    /// Says and records how the pass ended. What lasts is said once, and what is well is not said at all.
    pub(super) fn conclude(&mut self, pass: &mut Pass) {
        if self.hold == Hold::ReadOnly {
            return;
        }
        let (number, revision) = (pass.number, pass.revision.as_str());
        let failed = |change: &&Change| pass.failures.iter().any(|failure| failure.resource == change.resource);
        let news = self.history.is_news(&matter(pass));
        // What is left as it is lasts, and is told once.
        let is_told = |change: &&Change| news || change.left_alone.is_none();
        for change in pass.changes.iter().filter(|change| change.cause != Cause::Drift && !failed(change)).filter(is_told) {
            let (resource, outcome) = (change.resource.as_str(), word(change));
            tracing::info!(
                trimtab_pass = number,
                trimtab_revision = revision,
                trimtab_resource = resource,
                trimtab_outcome = outcome,
                "{resource}: {outcome}, {}{}",
                differences(change),
                change.left_alone.as_ref().map_or_else(String::new, |why| format!(" ({})", why.words()))
            );
        }
        let (outcome, reason) = (pass.outcome.word(), pass.reason());
        // The level of an event is part of its call site.
        macro_rules! tell {
            ($level:ident, $($words:tt)+) => {
                tracing::$level!(trimtab_pass = number, trimtab_revision = revision, trimtab_outcome = outcome, $($words)+)
            };
        }
        match pass.outcome {
            Outcome::Converged => tell!(info, "{outcome}: {reason}"),
            Outcome::Unchanged if news && pass.number > 1 => tell!(info, "{outcome}: {reason}"),
            Outcome::Unchanged | Outcome::Planned => tell!(debug, "{outcome}: {reason}"),
            _ if !news => tell!(debug, "still {outcome}: {reason}"),
            Outcome::Drifted | Outcome::Paused | Outcome::Unreachable | Outcome::Partial | Outcome::Held => {
                tell!(warn, "{outcome}: {reason}");
            }
            Outcome::RolledBack => tell!(error, "{outcome}: {reason}"),
            Outcome::Degraded | Outcome::Halted => tell!(error, "{outcome}: {reason}"),
        }
        if news {
            for failure in &pass.failures {
                let (resource, word) = (failure.resource.as_str(), if failure.skipped { "skipped" } else { "failed" });
                tracing::warn!(
                    trimtab_pass = number,
                    trimtab_revision = revision,
                    trimtab_resource = resource,
                    trimtab_outcome = word,
                    "{resource}: {word}: {}",
                    failure.message
                );
            }
        }
        for remark in &pass.remarks {
            tracing::warn!(trimtab_pass = number, "{remark}");
        }
        self.history.record(pass);
        let events = self.note_pass(pass);
        self.report(pass, events);
        self.write_status();
    }
}

/// What distinguishes one lasting matter from another; empty when all is well.
fn matter(pass: &Pass) -> String {
    if pass.outcome.is_ready() { String::new() } else { format!("{} {} {}", pass.outcome.word(), pass.revision, pass.reason()) }
}

fn word(change: &Change) -> &'static str {
    match change.cause {
        Cause::Update => "update",
        Cause::Drift => "drift",
        Cause::UpdateAndDrift => "update-and-drift",
        Cause::Follows => "follows",
    }
}

fn differences(change: &Change) -> String {
    let one = |d: &trimtab_model::plan::Difference| format!("{} {} -> {}", d.property, d.found, d.wanted);
    change.differs.iter().map(one).collect::<Vec<_>>().join(", ")
}
