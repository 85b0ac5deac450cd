//! From how things were and are to events: each matter is told once, when it begins, and once when it is over.
//!
//! What was said last is remembered in the book ([`Said`]), durably, so that a restarted agent does not say it again.

use serde::{Deserialize, Serialize};

use super::{Event, EventKind, Severity};
use crate::drift::{Drift, DriftBook, MAX_UNSENT};
use crate::hold::Holds;
use crate::report::{Outcome, Pass};

/// What was last told, so that what lasts is told once.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Said {
    /// How passes end, while they do not end well: outcome, revision, cause. Empty: all is well.
    pub matter: String,
    /// The revision that was last told as accepted.
    pub accepted: String,
    /// The generation that was last told as in force.
    pub generation: u64,
    /// The source was told to be stale.
    pub stale: bool,
    /// What was told to be held.
    pub holds: Holds,
}

/// An event before it has its number.
#[derive(Debug)]
pub struct Telling<'a> {
    /// As in [`Event`], like all of these.
    pub at_ms: u64,
    #[allow(missing_docs)]
    pub kind: EventKind,
    #[allow(missing_docs)]
    pub severity: Severity,
    #[allow(missing_docs)]
    pub pass: u64,
    #[allow(missing_docs)]
    pub revision: &'a str,
    #[allow(missing_docs)]
    pub resource: &'a str,
    #[allow(missing_docs)]
    pub message: String,
    #[allow(missing_docs)]
    pub drift: Option<Drift>,
}

/// What is known at the end of a pass besides the pass.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// Now, milliseconds since 1970.
    pub now_ms: u64,
    /// The pass.
    pub pass: &'a Pass,
    /// The newest revision that was looked at.
    pub attempted: &'a str,
    /// What is held now.
    pub holds: &'a Holds,
    /// The source was last heard longer ago than it should: since when it was not heard, seconds since 1970.
    pub stale_since: Option<u64>,
}

impl DriftBook {
    /// Gives an event its number and lets it wait for the journal and for the spool. When too many wait for the spool, the older ones of a kind are
    /// told as one there; the journal has each.
    pub fn tell(&mut self, telling: Telling<'_>) {
        self.last_event += 1;
        let event = Event {
            id: self.last_event,
            at_ms: telling.at_ms,
            kind: telling.kind,
            severity: telling.severity,
            pass: telling.pass,
            revision: telling.revision.to_owned(),
            resource: telling.resource.to_owned(),
            message: telling.message,
            drift: telling.drift.map(Box::new),
            count: 1,
        };
        self.unsaid.push(event.clone());
        self.unsent.push(event);
        if self.unsent.len() > MAX_UNSENT {
            merge_oldest(&mut self.unsent);
        }
    }

    /// What is in a report already need not wait any more. True: something left.
    pub fn sent(&mut self, up_to: u64) -> bool {
        let before = self.unsent.len();
        self.unsent.retain(|event| event.id > up_to);
        before != self.unsent.len()
    }

    /// Tells what a pass brought beyond drift. True: something was told, and must be saved.
    pub fn tell_pass(&mut self, view: &View<'_>) -> bool {
        let (before, said) = (self.last_event, self.said.clone());
        self.tell_revision(view);
        self.tell_outcome(view);
        self.tell_stale(view);
        self.tell_holds(view);
        self.last_event != before || self.said != said
    }

    fn tell_of(&mut self, view: &View<'_>, kind: EventKind, severity: Severity, resource: &str, message: String) {
        let revision = if matches!(kind, EventKind::RevisionAccepted | EventKind::RevisionRefused) {
            view.attempted
        } else {
            view.pass.revision.as_str()
        };
        self.tell(Telling { at_ms: view.now_ms, kind, severity, pass: view.pass.number, revision, resource, message, drift: None });
    }

    fn tell_revision(&mut self, view: &View<'_>) {
        if view.pass.trust.verdict == "accepted" && self.said.accepted != view.attempted {
            view.attempted.clone_into(&mut self.said.accepted);
            let message = format!("revision {} accepted, signed by {}", view.attempted, view.pass.trust.signer);
            self.tell_of(view, EventKind::RevisionAccepted, Severity::Info, "", message);
        }
        let made = view.pass.generation != self.said.generation && view.pass.outcome.is_ready();
        if made {
            let message = format!("{}, generation {}", view.pass.reason(), view.pass.generation);
            self.tell_of(view, EventKind::Converged, Severity::Info, "", message);
        }
        if view.pass.outcome.is_ready() {
            self.said.generation = view.pass.generation;
        }
    }

    fn tell_outcome(&mut self, view: &View<'_>) {
        let pass = view.pass;
        let matter = match trouble(pass) {
            None => String::new(),
            Some((kind, _)) => format!("{} {} {}", kind.word(), view.attempted, steady(pass)),
        };
        if matter == self.said.matter {
            return;
        }
        match trouble(pass) {
            Some((kind, severity)) => self.tell_of(view, kind, severity, "", pass.reason()),
            // Held back by a person or by policy is no recovery and has its own events.
            None if matches!(pass.outcome, Outcome::Drifted | Outcome::Paused) => {}
            None => self.tell_of(view, EventKind::Recovered, Severity::Info, "", format!("it is well again: {}", pass.reason())),
        }
        self.said.matter = matter;
    }

    fn tell_stale(&mut self, view: &View<'_>) {
        match (view.stale_since, self.said.stale) {
            (Some(since), false) => {
                let minutes = (view.now_ms / 1000).saturating_sub(since) / 60;
                let message = format!("the source was not heard for {minutes} minutes; the last good state is held");
                self.tell_of(view, EventKind::Stale, Severity::Error, "", message);
            }
            (None, true) => {
                self.tell_of(view, EventKind::Recovered, Severity::Info, "", "the source is heard again".to_owned());
            }
            _ => {}
        }
        self.said.stale = view.stale_since.is_some();
    }

    fn tell_holds(&mut self, view: &View<'_>) {
        let (was, is) = (std::mem::replace(&mut self.said.holds, view.holds.clone()), view.holds);
        let words = |held: &crate::hold::Held| format!("by {}: {}", held.by, held.reason);
        match (&was.suspended, &is.suspended) {
            (before, Some(held)) if before.as_ref() != Some(held) => {
                self.tell_of(view, EventKind::Suspended, Severity::Warning, "", format!("the host is suspended {}", words(held)));
            }
            (Some(_), None) => {
                self.tell_of(view, EventKind::Resumed, Severity::Info, "", "the host is no longer suspended".to_owned());
            }
            _ => {}
        }
        for (resource, held) in is.pins.iter().filter(|(resource, held)| was.pins.get(*resource) != Some(held)) {
            self.tell_of(view, EventKind::Suspended, Severity::Warning, resource, format!("{resource} is pinned {}", words(held)));
        }
        for resource in was.pins.keys().filter(|resource| !is.pins.contains_key(*resource)) {
            self.tell_of(view, EventKind::Resumed, Severity::Info, resource, format!("{resource} is no longer pinned"));
        }
    }
}

/// What an outcome is told as, when it is not well.
fn trouble(pass: &Pass) -> Option<(EventKind, Severity)> {
    match pass.outcome {
        Outcome::Unchanged | Outcome::Converged | Outcome::Planned | Outcome::Drifted | Outcome::Paused => None,
        Outcome::Unreachable => Some((EventKind::Unreachable, Severity::Warning)),
        Outcome::Partial => Some((EventKind::Failed, Severity::Error)),
        Outcome::Held if refused(pass) => Some((EventKind::RevisionRefused, Severity::Error)),
        Outcome::Held => Some((EventKind::Held, Severity::Error)),
        Outcome::RolledBack => Some((EventKind::RolledBack, Severity::Error)),
        Outcome::Degraded => Some((EventKind::Degraded, Severity::Error)),
        Outcome::Halted => Some((EventKind::Halted, Severity::Error)),
    }
}

/// By what is written in the commit, or by who signed it.
fn refused(pass: &Pass) -> bool {
    !pass.trust.message.is_empty() || !pass.findings.is_empty()
}

/// The cause without what changes from pass to pass: a pause that gets shorter is the same matter.
fn steady(pass: &Pass) -> String {
    match pass.outcome {
        Outcome::Unreachable => String::new(),
        Outcome::Partial => {
            let mut resources: Vec<&str> = pass.failures.iter().filter(|f| !f.skipped).map(|f| f.resource.as_str()).collect();
            resources.extend(pass.problems.iter().map(|problem| problem.resource.as_str()));
            resources.sort_unstable();
            resources.dedup();
            resources.join(", ")
        }
        _ => pass.reason(),
    }
}

/// The older half loses its detail: what is of one kind becomes one event, under the number of the newest of them.
fn merge_oldest(events: &mut Vec<Event>) {
    let newer = events.split_off(events.len() / 2);
    let mut merged: Vec<Event> = Vec::new();
    for event in events.drain(..) {
        match merged.iter_mut().find(|other| other.kind == event.kind) {
            Some(other) => *other = other.clone().into_newer(event),
            None => merged.push(event),
        }
    }
    merged.sort_by_key(|event| event.id);
    *events = merged;
    events.extend(newer);
}
