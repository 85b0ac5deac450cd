//! What leaves the host: a report at the end of each pass that matters, and a heartbeat when none did for a while.
//!
//! A report that cannot be written changes nothing about a pass: it is told once, and what it would have told is told by the next one.

use std::time::Instant;

use trimtab_model::event::Event;
use trimtab_model::outbound::Occasion;
use trimtab_model::report::{Outcome, Pass};
use trimtab_model::status::Queue;

use super::{Cycle, Hold, now_ms};
use crate::config::{Places, Settings};
use crate::log::chain;
use crate::outbox::{Outbox, Reach};

/// The outbox, and what was last put into it.
#[derive(Debug, Default)]
pub(super) struct Sending {
    pub(super) outbox: Option<Outbox>,
    /// What distinguishes how the host was then: a report without events is made when that changes.
    told: String,
    /// Why the last report could not be written, or why there is no outbox though there should be one.
    trouble: String,
}

impl Sending {
    pub(super) fn open(places: &Places, settings: &Settings, hold: Hold, remarks: &mut Vec<String>) -> Self {
        let mut sending = Self::default();
        sending.reread(places, settings, hold, remarks);
        sending
    }

    /// Takes over other settings; a key that could not be used may be in order again.
    pub(super) fn reread(&mut self, places: &Places, settings: &Settings, hold: Hold, remarks: &mut Vec<String>) {
        match &self.outbox {
            Some(outbox) => outbox.configure(&settings.reports, &settings.sinks),
            None if hold == Hold::ReadOnly => {}
            None => match Outbox::open(places, &settings.reports, &settings.sinks, now_ms()) {
                Ok(outbox) => (self.outbox, self.trouble) = (Some(outbox), String::new()),
                Err(error) => {
                    let trouble = chain(&error);
                    if trouble != self.trouble {
                        remarks.push(format!("no reports leave this host: {trouble}"));
                    }
                    // Where nobody is to hear anything, nothing is kept from anybody.
                    self.trouble = if settings.sinks.is_empty() { String::new() } else { trouble };
                }
            },
        }
    }

    /// Whether nobody will ever ask for what happened: no outbox, and none that only cannot be used now.
    pub(super) fn is_off(&self) -> bool {
        self.outbox.is_none() && self.trouble.is_empty()
    }

    /// What waits, and what keeps it.
    pub(super) fn queue(&self) -> Queue {
        let none = || Queue { trouble: self.trouble.clone(), ..Queue::default() };
        self.outbox.as_ref().map_or_else(none, Outbox::queue)
    }
}

impl Cycle {
    /// Where reports wait, for who delivers them.
    pub fn outbox(&self) -> Option<Outbox> {
        self.sending.outbox.clone()
    }

    /// How the courier is reached, for who delivers.
    pub fn reach(&mut self) -> Reach {
        let only_socket = self.hold == Hold::Agent && self.machine.systemd.is_some();
        Reach { program: self.program.clone(), places: self.places.clone(), user: self.courier_user(), only_socket }
    }

    /// When a heartbeat is due, if nothing is reported before.
    pub fn beats_at(&self) -> Option<Instant> {
        self.sending.outbox.as_ref().and_then(Outbox::beats_at)
    }

    /// Reports that nothing happened.
    pub fn beat(&mut self) {
        self.take(self.kept.book.unsent.clone(), Occasion::Heartbeat);
        self.write_status();
    }

    /// The report of a pass, if it matters: something happened, or the host is otherwise than the last report said.
    pub(super) fn report(&mut self, pass: &Pass, events: Vec<Event>) {
        if self.sending.outbox.is_none() && !self.sending.is_off() {
            // What kept it (a disk that was full, a key that was wrong) may be over.
            self.sending.reread(&self.places, &self.settings, self.hold, &mut self.remarks);
            if self.sending.outbox.is_none() {
                return;
            }
        }
        let Some(due) = self.beats_at() else {
            // Nobody is there to take them; the journal has them.
            self.reported(u64::MAX);
            return;
        };
        let conditions: Vec<_> =
            self.status().conditions.iter().map(|one| format!("{:?} {:?} {}", one.kind, one.status, one.reason)).collect();
        let now = format!("{} {} {} {}", pass.outcome.word(), pass.revision, pass.generation, conditions.join(" "));
        // That something was mended in this pass is an event; that nothing was in the next one is none.
        let now = if pass.outcome == Outcome::Converged {
            now.replacen(Outcome::Converged.word(), Outcome::Unchanged.word(), 1)
        } else {
            now
        };
        if !events.is_empty() || now != self.sending.told {
            if self.take(events, Occasion::Pass) {
                self.sending.told = now;
            }
        } else if Instant::now() >= due {
            self.take(Vec::new(), Occasion::Heartbeat);
        }
    }

    fn take(&mut self, events: Vec<Event>, occasion: Occasion) -> bool {
        let Some(outbox) = self.outbox() else { return false };
        self.remarks.extend(outbox.take_remarks());
        let last = events.last().map_or(0, |event| event.id);
        let trouble = match outbox.take(self.status(), events, occasion, now_ms()) {
            Ok(_) => {
                self.reported(last);
                String::new()
            }
            Err(error) => chain(&error),
        };
        if !trouble.is_empty() && trouble != self.sending.trouble {
            tracing::warn!("a report could not be written, the next one tells what it would have told: {trouble}");
        }
        self.sending.trouble = trouble;
        self.sending.trouble.is_empty()
    }
}
