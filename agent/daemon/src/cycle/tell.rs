//! The end of a pass: said to the journal when it is news, and written to the status document.

use trimtab_model::plan::{Cause, Change};
use trimtab_model::report::{Outcome, Pass};
use trimtab_model::status::Status;

use super::{Cycle, Hold, now_ms};
use crate::log::chain;

impl Cycle {
    /// Says and records how the pass ended. What lasts is said once, and what is well is not said at all.
    pub(super) fn conclude(&mut self, pass: &mut Pass) {
        if self.hold == Hold::ReadOnly {
            return;
        }
        let (number, revision) = (pass.number, pass.revision.as_str());
        let failed = |change: &&Change| pass.failures.iter().any(|failure| failure.resource == change.resource);
        for change in pass.changes.iter().filter(|change| !failed(change)) {
            let (resource, outcome) = (change.resource.as_str(), word(change));
            tracing::info!(
                trimtab_pass = number,
                trimtab_revision = revision,
                trimtab_resource = resource,
                trimtab_outcome = outcome,
                "{resource}: {outcome}, {}",
                differences(change)
            );
        }
        let news = self.history.is_news(&matter(pass));
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
        let events = self.happened(pass, news);
        self.report(pass, events);
        self.write_status();
    }

    /// The status document as it is now.
    pub(super) fn status(&self) -> Status {
        let pid = if self.hold == Hold::Agent { std::process::id() } else { 0 };
        let mut status = self.history.status(self.host.name.as_str(), pid, &self.ledger);
        status.at_ms = now_ms();
        status.watch.clone_from(&self.watch);
        if let Some(outbox) = &self.sending.outbox {
            (status.device, status.queue) = (outbox.device(), outbox.queue());
        }
        status
    }

    /// For who looks: at the end of a pass, and when a trial in the middle of one begins to wait for something.
    pub(super) fn write_status(&mut self) {
        let text = serde_json::to_vec_pretty(&self.status()).expect("because plain data with string keys always serialises");
        if let Err(error) = self.store.save_status(&text) {
            // The report of a pass must not be what makes the next one fail.
            // Not among what `once` answers, so it must not be filtered away with it.
            tracing::warn!(target: "trimtab", "the status document cannot be written: {}", chain(&error));
        }
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
