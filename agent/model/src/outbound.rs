//! What leaves the host: a report is the status document and the events since the last one, under a number of this device's own.
//!
//! It is signed as it is written ([`Signed`]), so that any receiver can check it with public tools (`minisign -V`), and delivered at least
//! once: the device and [`Report::sequence`] (or the device and [`Event::id`]) are the keys to take it once by.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::event::{Event, EventKind};
use crate::report::Failure;
use crate::status::Status;

/// The format of a report.
pub const REPORT_FORMAT: u32 = 1;

/// Why a report was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Occasion {
    /// A pass that did, found or failed at something.
    Pass,
    /// Nothing happened for a while.
    Heartbeat,
}

/// One report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// [`REPORT_FORMAT`].
    pub format: u32,
    /// The device: the id of its key, 16 hexadecimal digits as minisign prints them.
    pub device: String,
    /// The host's name in the fleet.
    pub host: String,
    /// Counts up by one with each report of this device.
    pub sequence: u64,
    /// The first sequence that this one stands for, when older ones were merged into it for want of room; else the same as `sequence`.
    pub since_sequence: u64,
    /// When it was made, milliseconds since 1970.
    pub at_ms: u64,
    /// When the next one is made at the latest, if nothing keeps the agent from it, milliseconds since 1970; 0: that is not known.
    #[serde(default)]
    pub next_ms: u64,
    /// Why.
    pub occasion: Occasion,
    /// The host as it was then.
    pub status: Status,
    /// What happened since the last report, oldest first.
    pub events: Vec<Event>,
    /// How many events lost their detail for want of room (their numbers are in [`Event::count`] of the others).
    #[serde(default)]
    pub merged: u64,
}

/// A report as it is spooled and sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    /// The [`Report`] as JSON: exactly these bytes are signed.
    pub report: Vec<u8>,
    /// The minisign signature over them (the text of a `.minisig` file).
    pub signature: String,
}

/// How many events one report tells one by one; beyond that the oldest lose their detail.
pub const MAX_EVENTS: usize = 500;

/// The most bytes of one report as JSON. One that would be larger loses detail, the least telling first.
pub const MAX_REPORT: usize = 1 << 20;

/// How many changes of the last pass a report tells when it must be made smaller.
const FEW: usize = 20;

impl Report {
    /// This report and the one right after it as one, when there is no room for both: what happened is counted, the status is the newer one's.
    #[must_use]
    pub fn absorb(self, newer: Report) -> Report {
        let merged = self.merged.saturating_add(newer.merged);
        let mut events = self.events;
        events.extend(newer.events);
        let mut one = Report { since_sequence: self.since_sequence.min(newer.since_sequence), events: Vec::new(), merged, ..newer };
        one.events = events;
        one.condense(|event| (event.kind, event.resource.clone()), 0);
        one.bound();
        one
    }

    /// Not more than [`MAX_EVENTS`] events: first those of one kind and resource become one, then those of one kind.
    pub fn bound(&mut self) {
        self.condense(|event| (event.kind, event.resource.clone()), MAX_EVENTS);
        self.condense(|event| (event.kind, String::new()), MAX_EVENTS);
    }

    /// Makes each event one with the next one that `same` says the same of, oldest first, until there are not more than `most`.
    fn condense(&mut self, same: impl Fn(&Event) -> (EventKind, String), most: usize) {
        let mut excess = self.events.len().saturating_sub(most);
        if excess == 0 {
            return;
        }
        let mut newest: BTreeMap<(EventKind, String), usize> = BTreeMap::new();
        for (at, event) in self.events.iter().enumerate() {
            newest.insert(same(event), at);
        }
        let mut kept: BTreeMap<usize, Event> = BTreeMap::new();
        for (at, event) in std::mem::take(&mut self.events).into_iter().enumerate() {
            let into = newest.get(&same(&event)).copied().unwrap_or(at);
            // What was taken in already stands at its successor's place, and waits for it there.
            let event = match kept.remove(&at) {
                Some(older) => older.into_newer(event),
                None => event,
            };
            if into == at || excess == 0 {
                kept.insert(at, event);
                continue;
            }
            excess -= 1;
            self.merged += 1;
            let event = match kept.remove(&into) {
                Some(older) => older.into_newer(event),
                None => event,
            };
            kept.insert(into, event);
        }
        self.events = kept.into_values().collect();
    }

    /// As JSON of at most [`MAX_REPORT`] bytes, in which nothing is told that only this host may know: these are the bytes to sign.
    pub fn to_bytes(self) -> Vec<u8> {
        self.to_bytes_within(MAX_REPORT)
    }

    /// Likewise, of at most so many bytes as far as leaving out can make it so: what says least goes first, and who speaks stays.
    pub fn to_bytes_within(mut self, most: usize) -> Vec<u8> {
        discreet(&mut self.status);
        for event in &mut self.events {
            first_line(&mut event.message);
        }
        for step in 0.. {
            let bytes = serde_json::to_vec(&self).expect("because plain data with string keys always serialises");
            if bytes.len() <= most || !self.shed(step) {
                return bytes;
            }
        }
        Vec::new()
    }

    /// Leaves something out; `false` when there is nothing left to leave out.
    fn shed(&mut self, step: u32) -> bool {
        let status = &mut self.status;
        match step {
            0 => {
                if let Some(pass) = &mut status.last_pass {
                    pass.changes.truncate(FEW);
                    pass.problems.truncate(FEW);
                    pass.failures.truncate(FEW);
                    pass.kept.truncate(FEW);
                    pass.remarks.truncate(FEW);
                }
            }
            1 => (status.past_drift, status.changes) = (Vec::new(), Vec::new()),
            2 => self.events.iter_mut().for_each(|event| event.drift = None),
            3 => {
                status.units.truncate(FEW);
                status.drift.truncate(FEW);
                status.denied.truncate(FEW);
                status.queue.sinks.truncate(FEW);
            }
            4 => self.condense(|event| (event.kind, String::new()), 0),
            5 => (status.last_pass, status.history) = (None, Vec::new()),
            6 => {
                *status = Status {
                    format: status.format,
                    agent_version: status.agent_version.clone(),
                    host: status.host.clone(),
                    device: status.device.clone(),
                    at_ms: status.at_ms,
                    ready: status.ready,
                    reason: status.reason.chars().take(500).collect(),
                    generation: status.generation,
                    ..Status::default()
                };
            }
            _ => return false,
        }
        true
    }
}

impl Event {
    /// This event, taken into a newer one of its kind.
    pub(crate) fn into_newer(self, newer: Event) -> Event {
        let count = self.count.saturating_add(newer.count);
        let one_resource = self.resource == newer.resource && !self.is_of_several() && !newer.is_of_several();
        let resource = if one_resource { newer.resource } else { String::new() };
        let message = if one_resource { newer.message } else { of_several(count) };
        let drift = newer.drift.filter(|_| one_resource);
        Event { count, resource, message, drift, severity: newer.severity.max(self.severity), ..newer }
    }

    /// Whether it stands for events at several resources; what concerns no resource looks the same but for its message.
    fn is_of_several(&self) -> bool {
        self.count > 1 && self.resource.is_empty() && self.message == of_several(self.count)
    }
}

fn of_several(count: u32) -> String {
    format!("{count} of this kind, at several resources")
}

/// Why a unit failed is told with its last words, and they are for who may read them on the host itself: what leaves it has the first line.
fn discreet(status: &mut Status) {
    let list = |failures: &mut Vec<Failure>| failures.iter_mut().for_each(|failure| first_line(&mut failure.message));
    if let Some(pass) = &mut status.last_pass {
        list(&mut pass.failures);
        pass.problems.iter_mut().for_each(|problem| first_line(&mut problem.message));
        pass.remarks.iter_mut().for_each(first_line);
        first_line(&mut pass.source_error);
        first_line(&mut pass.trust.message);
        if let Some(undone) = &mut pass.undone {
            list(&mut undone.causes);
            list(&mut undone.amiss);
        }
    }
    status.denied.iter_mut().for_each(|denied| list(&mut denied.causes));
    status.changes.iter_mut().for_each(|line| first_line(&mut line.reason));
    status.conditions.iter_mut().for_each(|condition| first_line(&mut condition.message));
    first_line(&mut status.reason);
}

fn first_line(text: &mut String) {
    if let Some(end) = text.find('\n') {
        text.truncate(end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Severity;
    use proptest::prelude::*;

    pub(super) fn event(id: u64, kind: EventKind, resource: &str) -> Event {
        Event {
            id,
            at_ms: id,
            kind,
            severity: Severity::Warning,
            pass: id,
            revision: String::new(),
            resource: resource.to_owned(),
            message: format!("event {id}\nwith a second line"),
            drift: None,
            count: 1,
        }
    }

    fn report(sequence: u64, events: Vec<Event>) -> Report {
        Report {
            format: REPORT_FORMAT,
            device: "0123456789ABCDEF".to_owned(),
            host: "box".to_owned(),
            sequence,
            since_sequence: sequence,
            next_ms: 0,
            at_ms: sequence,
            occasion: Occasion::Pass,
            status: Status { generation: sequence, ..Status::default() },
            events,
            merged: 0,
        }
    }

    #[test]
    fn of_two_reports_the_newer_status_stays_and_every_event_is_counted() {
        let older = report(1, vec![event(1, EventKind::DriftFound, "file /a"), event(2, EventKind::DriftRepaired, "file /a")]);
        let newer = report(2, vec![event(3, EventKind::DriftFound, "file /a"), event(4, EventKind::DriftFound, "file /b")]);
        let one = older.absorb(newer);
        assert_eq!((one.since_sequence, one.sequence, one.status.generation, one.merged), (1, 2, 2, 1));
        let told: Vec<(u64, &str, u32)> = one.events.iter().map(|e| (e.id, e.resource.as_str(), e.count)).collect();
        assert_eq!(told, [(2, "file /a", 1), (3, "file /a", 2), (4, "file /b", 1)]);
    }

    #[test]
    fn what_leaves_the_host_has_no_last_words_and_stays_small() {
        let mut loud = report(1, (0..400).map(|id| event(id, EventKind::DriftFound, &format!("file /{id}"))).collect());
        let text = r#"{"number":1,"wake":"timer","started":0,"duration_ms":0,"outcome":"partial","revision":"","trust":{"verdict":"","message":"","signer":""},"source_error":"","findings":{"list":[],"more":0},"changes":[],"problems":[],"failures":[]}"#;
        let mut pass: crate::report::Pass = serde_json::from_str(text).unwrap();
        for n in 0..4000 {
            let message = format!("it failed {}; its last words:\ngeheim", "x".repeat(900));
            pass.failures.push(Failure { resource: format!("unit {n}.service"), message, skipped: false });
        }
        loud.status.last_pass = Some(pass);
        let bytes = loud.clone().to_bytes();
        assert!(bytes.len() <= MAX_REPORT, "{}", bytes.len());
        let text = String::from_utf8(bytes).unwrap();
        assert!(!text.contains("geheim") && !text.contains("second line") && text.contains("it failed"), "{text:.300}");
        assert_eq!(serde_json::from_str::<Report>(&text).unwrap().events.len(), 400);
        // However large it is, something is said.
        loud.events.iter_mut().for_each(|event| event.message = "y".repeat(10_000));
        loud.status.reason = "z".repeat(5 << 20);
        let bytes = loud.to_bytes();
        assert!(bytes.len() <= MAX_REPORT && serde_json::from_slice::<Report>(&bytes).is_ok(), "{}", bytes.len());
    }

    proptest! {
        #[test]
        fn however_reports_are_merged_the_counts_are_those_of_what_happened(
            sizes in proptest::collection::vec(proptest::collection::vec((0usize..3, 0u8..4), 0..200), 1..12),
        ) {
            let mut id = 0;
            let mut happened: BTreeMap<EventKind, u64> = BTreeMap::new();
            let mut merged: Option<Report> = None;
            let count = sizes.len() as u64;
            for (at, list) in sizes.into_iter().enumerate() {
                let events = list.into_iter().map(|(kind, resource)| {
                    id += 1;
                    *happened.entry(EventKind::ALL[kind]).or_default() += 1;
                    event(id, EventKind::ALL[kind], &format!("file /{}", u64::from(resource) * id.div_ceil(40)))
                });
                let next = report(at as u64 + 1, events.collect());
                merged = Some(match merged { None => next, Some(older) => older.absorb(next) });
            }
            let merged = merged.unwrap();
            let mut told: BTreeMap<EventKind, u64> = BTreeMap::new();
            for event in &merged.events {
                *told.entry(event.kind).or_default() += u64::from(event.count);
            }
            prop_assert_eq!(told, happened);
            prop_assert_eq!((merged.since_sequence, merged.sequence), (1, count));
            prop_assert_eq!(merged.merged + merged.events.len() as u64, id);
            prop_assert!(merged.events.len() <= MAX_EVENTS);
            prop_assert!(merged.events.windows(2).all(|two| two[0].id < two[1].id));
        }
    }
}
