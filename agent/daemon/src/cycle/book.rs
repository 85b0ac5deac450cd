//! Keeping the drift book: written down before a repair and after it, and said to the journal.
//!
//! Guarantees: what a look found is on the disk before anything is done about it; an event has its number on the disk before it is said or
//! sent. What is to be known of passes after a boot goes with it. A pass that finds nothing, and changes no condition, writes nothing. A book
//! that cannot be written (a full disk) holds up nothing: it is told, and what stands in memory goes on.

use trimtab_model::digest::Digest;
use trimtab_model::drift::{Drift, DriftBook, Look};
use trimtab_model::event::{Event, EventKind, Severity, Telling, View};
use trimtab_model::hold::Holds;
use trimtab_model::names::HostPath;
use trimtab_model::report::{Failure, Pass};
use trimtab_model::status::ConditionKind;

use super::{Cycle, Hold, now_ms};
use crate::log::chain;
use crate::outbox::{Loss, Outbox};
use crate::store::Store;

/// The book, and whether it is on the disk.
#[derive(Debug, Default)]
pub(super) struct Kept {
    pub(super) book: DriftBook,
    /// It could not be saved: why.
    trouble: String,
}

impl Kept {
    /// The book as it was left; `sent`: the highest event that is in a report already.
    pub(super) fn open(store: &Store, sent: u64, now_ms: u64, remarks: &mut Vec<String>) -> Self {
        let mut book = match store.load_book() {
            Ok(Some(book)) => book,
            // Nothing was told yet, or it was lost and the device's key was not: no number is given twice. A pass tells thousands of events at most,
            // and takes seconds for that: of milliseconds there are more.
            Ok(None) => DriftBook { last_event: now_ms, ..DriftBook::default() },
            Err(error) => {
                remarks.push(format!("the book of drift is damaged and begun anew: {}", chain(&error)));
                DriftBook { last_id: now_ms / 1000, last_event: now_ms, ..DriftBook::default() }
            }
        };
        book.last_event = book.last_event.max(sent);
        book.sent(sent);
        Self { book, trouble: String::new() }
    }
}

impl Cycle {
    /// Writes down the drift that a look found, before anything is done about it.
    pub(super) fn note_drift(&mut self, pass: &Pass) {
        if self.hold == Hold::ReadOnly {
            return;
        }
        let sightings = std::mem::take(&mut self.sightings);
        let look = self.book_look(pass);
        let found = self.kept.book.find(&pass.changes, &sightings, &look);
        if self.kept.book.contend(&look) || found {
            self.save_book();
        }
        self.say_events(pass);
    }

    /// Writes down what became of it: what was to be repaired, and did not fail.
    pub(super) fn note_repairs(&mut self, pass: &Pass) {
        if self.hold == Hold::ReadOnly {
            return;
        }
        let failed = |failure: &Failure, drift: &Drift| failure.resource == drift.resource;
        let mended = |drift: &Drift| {
            let done = drift.left_alone.is_none()
                && pass.changes.iter().any(|change| change.resource == drift.resource && change.left_alone.is_none())
                && !pass.failures.iter().any(|failure| failed(failure, drift))
                && !pass.problems.iter().any(|problem| problem.resource == drift.resource);
            done.then(|| overwritten(pass, drift))
        };
        let look = self.book_look(pass);
        let counted: Vec<Drift> = self.kept.book.standing.values().filter(|drift| mended(drift).is_some()).cloned().collect();
        if self.kept.book.settle(mended, &look) {
            self.save_book();
        }
        self.count_repairs(counted.iter());
        self.say_events(pass);
    }

    /// Writes down what else the pass brought, and returns what is to be reported.
    pub(super) fn note_pass(&mut self, pass: &Pass) -> Vec<Event> {
        let status = self.status();
        self.history.told(&status);
        let stale = status.condition(ConditionKind::Stale).filter(|stale| stale.status == trimtab_model::status::Truth::True);
        let holds: Holds = self.holds().clone();
        let view = View {
            now_ms: now_ms(),
            pass,
            attempted: &status.last_attempted_revision,
            holds: &holds,
            stale_since: stale.map(|_| status.trust.last_contact),
        };
        let lost = self.tell_losses(pass);
        if self.kept.book.tell_pass(&view) || lost > 0 || self.history.is_beyond(&self.kept.book) {
            self.save_book();
        }
        if let (Some(outbox), 1..) = (&self.sending.outbox, lost) {
            outbox.told(lost);
        }
        self.calm_fights(pass);
        self.say_events(pass);
        self.kept.book.unsent.clone()
    }

    /// Tells what a receiver never took. How much that was.
    fn tell_losses(&mut self, pass: &Pass) -> usize {
        let losses = self.sending.outbox.as_ref().map(Outbox::losses).unwrap_or_default();
        for Loss { sink, since_sequence, sequence, why } in &losses {
            let which = if since_sequence == sequence { sequence.to_string() } else { format!("{since_sequence} to {sequence}") };
            self.kept.book.tell(Telling {
                at_ms: now_ms(),
                kind: EventKind::ReportLost,
                severity: Severity::Error,
                pass: pass.number,
                revision: &pass.revision,
                resource: "",
                message: format!(
                    "sink {sink} never took report {which}, not with less detail either, and it was passed over: {why}"
                ),
                drift: None,
            });
        }
        losses.len()
    }

    /// What is in the spool need not be kept in the book as well; written with the book's next change.
    pub(super) fn reported(&mut self, up_to: u64) {
        self.kept.book.sent(up_to);
    }

    pub(super) fn book_look<'p>(&self, pass: &'p Pass) -> Look<'p> {
        let has_units = self.machine.systemd.is_some() && !pass.failures.iter().any(|failure| failure.resource == "systemd");
        Look { now_ms: now_ms(), pass: pass.number, revision: &pass.revision, has_units, problems: &pass.problems }
    }

    pub(super) fn save_book(&mut self) {
        self.history.enter(&mut self.kept.book);
        let trouble = self.store.save_book(&self.kept.book).err().map(|error| chain(&error)).unwrap_or_default();
        if !trouble.is_empty() && trouble != self.kept.trouble {
            tracing::warn!("the book of drift cannot be written: {trouble}");
        }
        self.kept.trouble = trouble;
    }

    /// Each event is one entry in the journal, with its MESSAGE_ID.
    fn say_events(&mut self, pass: &Pass) {
        for event in std::mem::take(&mut self.kept.book.unsaid) {
            say(&event, pass);
            self.history.count_event(&event);
        }
        if self.sending.is_off() {
            let last = self.kept.book.last_event;
            self.kept.book.sent(last);
        }
    }
}

/// What a repair took away of a file, when it was kept.
fn overwritten(pass: &Pass, drift: &Drift) -> Option<Digest> {
    let path: HostPath = drift.resource.strip_prefix("file ")?.parse().ok()?;
    pass.kept.iter().find(|(kept, _)| kept == path.as_str()).and_then(|(_, digest)| digest.parse().ok())
}

/// What became of what an event is about: of a drift how it stands, of all else how the pass ended.
fn outcome(event: &Event, pass: &Pass) -> &'static str {
    match event.kind {
        EventKind::DriftFound | EventKind::Contended => "standing",
        EventKind::DriftRepaired => "repaired",
        EventKind::DriftGone => "gone",
        _ => pass.outcome.word(),
    }
}

/// The fields are those of examples/monitoring/journal.md.
fn say(event: &Event, pass: &Pass) {
    let drift = event.drift.as_deref();
    let actor = drift.map_or_else(String::new, Drift::by);
    let component = drift.map_or("", |drift| drift.origin.component.as_str());
    // The level of an event is part of its call site.
    macro_rules! say {
        ($level:ident) => {
            tracing::$level!(
                message_id = event.kind.message_id(),
                trimtab_event = event.kind.word(),
                trimtab_event_id = event.id,
                trimtab_pass = event.pass,
                trimtab_revision = event.revision,
                trimtab_resource = event.resource,
                trimtab_outcome = outcome(event, pass),
                trimtab_component = component,
                trimtab_drift_id = drift.map_or(0, |drift| drift.id),
                trimtab_actor = actor,
                "{}",
                event.message
            )
        };
    }
    match event.severity {
        Severity::Info => say!(info),
        Severity::Warning => say!(warn),
        Severity::Error => say!(error),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::{Arc, Mutex};

    use tracing::field::{Field, Visit};
    use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
    use trimtab_model::status::Status;

    use super::*;

    /// The names of the fields of all that is said.
    #[derive(Default, Clone)]
    struct Names(Arc<Mutex<BTreeSet<String>>>);

    impl Visit for Names {
        fn record_debug(&mut self, field: &Field, _: &dyn std::fmt::Debug) {
            self.0.lock().unwrap().insert(field.name().to_uppercase());
        }
    }

    impl<S: tracing::Subscriber> Layer<S> for Names {
        fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
            event.record(&mut self.clone());
        }
    }

    #[test]
    fn every_event_has_the_fields_that_the_journals_sheet_tells_of() {
        let sheet = include_str!("../../../../examples/monitoring/journal.md");
        let told = sheet.lines().filter_map(|line| line.strip_prefix("| `TRIMTAB_")?.split_once('`'));
        let told = told.map(|(name, _)| format!("TRIMTAB_{name}")).chain(["MESSAGE".to_owned(), "MESSAGE_ID".to_owned()]);
        let told: BTreeSet<String> = told.collect();
        let known: Status = serde_json::from_str(include_str!("../../../../examples/monitoring/status.example.json")).unwrap();
        let pass = known.last_pass.unwrap();
        for kind in EventKind::ALL {
            for severity in [Severity::Info, Severity::Warning, Severity::Error] {
                let (revision, resource, message) = (String::new(), String::new(), "it".to_owned());
                let event = Event { id: 1, at_ms: 1, kind, severity, pass: 7, revision, resource, message, drift: None, count: 1 };
                let names = Names::default();
                let subscriber = tracing_subscriber::registry().with(names.clone());
                tracing::subscriber::with_default(subscriber, || say(&event, &pass));
                assert_eq!(*names.0.lock().unwrap(), told, "{kind:?} {severity:?}");
            }
        }
    }
}
