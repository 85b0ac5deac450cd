//! What is remembered of past passes: the part of the status document that grows with them.
//!
//! It goes on where the last process of this boot ended, from the document itself; after a boot from what the book of drift took along
//! of it: the number of the pass, past passes, and since when the conditions are as they are. Limits: the book is written when something
//! happened, so numbers of passes that found nothing may be given again after a boot.

use trimtab_model::drift::DriftBook;
use trimtab_model::event::{Event, EventKind};
use trimtab_model::plan::Cause;
use trimtab_model::report::{Outcome, Pass, PassLine};
use trimtab_model::status::{Counters, CourierStatus, HISTORY, Landlock, STATUS_FORMAT, Since, Status, TrustStatus, Truth};

/// Past passes, as far as the status document tells of them.
#[derive(Debug, Default)]
pub(super) struct History {
    number: u64,
    attempted: String,
    last: Option<Pass>,
    lines: Vec<PassLine>,
    /// Of the conditions as they were told last, for the times of those that did not change.
    since: Vec<Since>,
    counters: Counters,
    /// When the source last answered, seconds since 1970; 0: not in this boot.
    last_contact: u64,
    /// What trust said when it last said something.
    verdict: String,
    /// How the courier was when it last said so.
    courier: CourierStatus,
    /// What was last said to the journal, so that a matter that lasts is not said every minute.
    said: String,
}

impl History {
    /// Goes on where the last process of this boot ended, or where the book was written in the boot before.
    pub(super) fn resume(earlier: Option<Status>, book: &DriftBook) -> Self {
        let Some(earlier) = earlier else {
            let (lines, since) = (book.passes.clone(), book.since.clone());
            return Self { number: book.pass, lines, since, ..Self::default() };
        };
        Self {
            number: earlier.last_pass.as_ref().map_or(0, |pass| pass.number).max(book.pass),
            since: earlier.since(),
            attempted: earlier.last_attempted_revision,
            last: earlier.last_pass,
            lines: earlier.history,
            counters: earlier.counters,
            last_contact: earlier.trust.last_contact,
            verdict: earlier.trust.verdict,
            courier: earlier.courier,
            said: String::new(),
        }
    }

    pub(super) fn next_number(&mut self) -> u64 {
        self.number += 1;
        self.number
    }

    pub(super) fn attempted(&mut self, revision: &str) {
        revision.clone_into(&mut self.attempted);
    }

    /// Whether this has not been said already; remembers it as said.
    pub(super) fn is_news(&mut self, what: &str) -> bool {
        let news = self.said != what;
        what.clone_into(&mut self.said);
        news
    }

    /// Whether there was a pass to tell of.
    pub(super) fn is_begun(&self) -> bool {
        self.last.is_some()
    }

    /// Whether the last pass left this as it should not be.
    pub(super) fn left(&self, resource: &str) -> bool {
        self.all_left().any(|left| left == resource)
    }

    /// What the last pass left as it should not be.
    pub(super) fn all_left(&self) -> impl Iterator<Item = &str> {
        fn of(pass: &Pass) -> Vec<&str> {
            let failed = |resource: &str| pass.failures.iter().any(|failure| failure.resource == resource);
            let changes = pass.changes.iter().filter(|change| change.left_alone.is_some() || failed(&change.resource));
            let changes: Vec<&str> = changes.map(|change| change.resource.as_str()).collect();
            let problems = pass.problems.iter().map(|problem| problem.resource.as_str());
            changes.into_iter().chain(problems).collect()
        }
        self.last.as_ref().map(of).unwrap_or_default().into_iter()
    }

    /// The last pass becomes history when it did or found something; a row of passes that found nothing is one line.
    pub(super) fn record(&mut self, pass: &Pass) {
        self.count(pass);
        if !pass.trust.verdict.is_empty() {
            self.verdict.clone_from(&pass.trust.verdict);
        }
        if let Some(last) = self.last.replace(pass.clone()) {
            self.lines = self.lines_with(&last);
        }
    }

    /// The history with a pass, if it did or found something.
    fn lines_with(&self, pass: &Pass) -> Vec<PassLine> {
        let quiet = pass.outcome == Outcome::Unchanged
            || (pass.changes.iter().all(|change| change.left_alone.is_some())
                && self.lines.first().is_some_and(|line| line.outcome == pass.outcome));
        let own = (!quiet).then(|| pass.line());
        own.into_iter().chain(self.lines.iter().cloned()).take(HISTORY).collect()
    }

    /// Whether the book does not know since when the conditions are as they are.
    pub(super) fn is_beyond(&self, book: &DriftBook) -> bool {
        self.since != book.since
    }

    /// What the book takes along over a boot.
    pub(super) fn enter(&self, book: &mut DriftBook) {
        book.pass = self.number;
        book.passes = self.last.as_ref().map_or_else(|| self.lines.clone(), |last| self.lines_with(last));
        book.since.clone_from(&self.since);
    }

    /// What the document says of passes; the rest is the cycle's.
    pub(super) fn status(&self) -> Status {
        Status {
            format: STATUS_FORMAT,
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            last_attempted_revision: self.attempted.clone(),
            last_pass: self.last.clone(),
            history: self.lines.clone(),
            counters: self.counters.clone(),
            courier: self.courier.clone(),
            ..Status::default()
        }
    }

    /// What is known of the source from having asked it.
    pub(super) fn trust(&self) -> TrustStatus {
        TrustStatus { verdict: self.verdict.clone(), last_contact: self.last_contact, ..TrustStatus::default() }
    }

    /// Since when the conditions are as they were told last.
    pub(super) fn since(&self) -> &[Since] {
        &self.since
    }

    /// Remembers what was told. Before the first pass of a boot most is unknown, and no transition: what it was before is what it may be again.
    pub(super) fn told(&mut self, status: &Status) {
        let before = |kind| self.since.iter().find(|since| since.kind == kind).copied();
        let is_early = |since: &Since| !self.is_begun() && since.status == Truth::Unknown;
        let keep = |since: Since| if is_early(&since) { before(since.kind).unwrap_or(since) } else { since };
        self.since = status.since().into_iter().map(keep).collect();
    }

    /// The source was asked.
    pub(super) fn polled(&mut self, reached: bool, now: u64) {
        self.counters.polls += 1;
        if reached {
            self.last_contact = now;
        } else {
            self.counters.poll_failures += 1;
        }
    }

    /// The courier told how it is. That a wall is missing is said once, and once more when it stands again.
    pub(super) fn heard(&mut self, courier: &CourierStatus) {
        let before = std::mem::replace(&mut self.courier, courier.clone());
        if before.landlock == courier.landlock {
            return;
        }
        if courier.landlock.lacks() {
            tracing::warn!("Landlock does not wholly confine the courier (systemd's directives do): {}", courier.detail);
        } else if before.landlock.lacks() && courier.landlock == Landlock::Whole {
            tracing::info!("Landlock confines the courier as a whole again");
        }
    }

    /// An event was told: what is found and what is repaired is counted where it is told once, not where each pass sees it again.
    pub(super) fn count_event(&mut self, event: &Event) {
        let (counters, count) = (&mut self.counters, u64::from(event.count));
        *counters.events.entry(event.kind.word().to_owned()).or_default() += count;
        match event.kind {
            EventKind::DriftFound => counters.drift_found += count,
            EventKind::DriftRepaired => counters.drift_repaired += count,
            _ => {}
        }
    }

    fn count(&mut self, pass: &Pass) {
        let counters = &mut self.counters;
        *counters.passes.entry(pass.outcome.word().to_owned()).or_default() += 1;
        #[allow(clippy::cast_precision_loss)] // milliseconds of one pass
        let seconds = pass.duration_ms as f64 / 1000.0;
        counters.pass_seconds += seconds;
        let failed = |resource: &str| pass.failures.iter().any(|failure| failure.resource == resource);
        for change in pass.changes.iter().filter(|change| change.left_alone.is_none()) {
            let done = !failed(&change.resource);
            counters.updates += u64::from(done && matches!(change.cause, Cause::Update | Cause::UpdateAndDrift));
        }
        // A pass that finds an earlier one's change undone tells it again.
        counters.rolled_back += u64::from(pass.undone.as_ref().is_some_and(|undone| undone.at >= pass.started));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use trimtab_model::report::Wake;
    use trimtab_model::status::{Condition, ConditionKind};

    fn pass(number: u64, outcome: Outcome) -> Pass {
        let text = format!(
            r#"{{"number":{number},"wake":"timer","started":0,"duration_ms":0,"outcome":"unchanged","revision":"","trust":{{"verdict":"","message":"","signer":""}},"source_error":"","findings":{{"list":[],"more":0}},"changes":[],"problems":[],"failures":[]}}"#
        );
        let pass: Pass = serde_json::from_str(&text).unwrap();
        assert_eq!(pass.wake, Wake::Timer);
        Pass { outcome, ..pass }
    }

    #[test]
    fn history_keeps_what_happened_and_not_the_quiet() {
        let mut history = History::default();
        let outcomes = [
            Outcome::Converged,
            Outcome::Unchanged,
            Outcome::Held,
            Outcome::Held,
            Outcome::Held,
            Outcome::Unchanged,
            Outcome::Converged,
        ];
        for (number, outcome) in outcomes.into_iter().enumerate() {
            history.record(&pass(number as u64, outcome));
        }
        let kept: Vec<(u64, Outcome)> = history.lines.iter().map(|line| (line.number, line.outcome)).collect();
        assert_eq!(kept, [(2, Outcome::Held), (0, Outcome::Converged)]);
        assert_eq!(history.last.as_ref().map(|pass| pass.number), Some(6));
    }

    #[test]
    fn after_a_boot_it_goes_on_where_the_book_was_written() {
        let ready = |status: Truth, at: u64| Status {
            conditions: vec![Condition {
                kind: ConditionKind::Ready,
                status,
                reason: String::new(),
                message: String::new(),
                last_transition_time: at,
            }],
            ..Status::default()
        };
        let mut history = History::default();
        for outcome in [Outcome::Converged, Outcome::Unchanged, Outcome::Held] {
            let number = history.next_number();
            history.record(&pass(number, outcome));
        }
        history.told(&ready(Truth::True, 100));
        let mut book = DriftBook::default();
        assert!(history.is_beyond(&book));
        history.enter(&mut book);
        assert!(!history.is_beyond(&book));

        let mut history = History::resume(None, &book);
        let kept: Vec<(u64, Outcome)> = history.status().history.iter().map(|line| (line.number, line.outcome)).collect();
        assert_eq!((history.next_number(), kept), (4, vec![(3, Outcome::Held), (1, Outcome::Converged)]));
        assert!(!history.is_begun() && history.status().last_pass.is_none(), "of this boot there is no pass yet");
        // Told in the middle of the first one, it is not known; that is no transition.
        history.told(&ready(Truth::Unknown, 900));
        assert!(!history.is_beyond(&book));
        history.record(&pass(4, Outcome::Unchanged));
        history.told(&ready(Truth::Unknown, 901));
        assert_eq!(history.since()[0].at, 901);
    }

    #[test]
    fn a_matter_that_lasts_is_said_once() {
        let mut history = History::default();
        assert!(history.is_news("down"));
        assert!(!history.is_news("down"));
        assert!(history.is_news(""));
        assert!(history.is_news("down"));
    }
}
