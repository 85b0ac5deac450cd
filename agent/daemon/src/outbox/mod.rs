//! The device's key, the spool of signed reports, and handing them to the courier.
//!
//! A report is on the disk and signed before [`Outbox::take`] comes back; [`deliver`](Outbox::deliver) brings them to each sink beside the
//! passes, never inside one. Where no sink is configured, nothing is spooled.
//!
//! Guarantees: at least once for each sink, in order, whatever is killed; a sink that is down, slow or hostile costs spool and nothing else; an
//! idle agent writes nothing here but its heartbeats.
//! Limits: what does not fit loses detail, the oldest first; what a receiver claims to have taken is believed.

mod deliver;
mod key;
mod pace;
mod spool;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use trimtab_model::event::Event;
use trimtab_model::outbound::{Occasion, REPORT_FORMAT, Report, Signed};
use trimtab_model::status::{Queue, SinkStatus, Status};

pub use deliver::{Reach, flush};
pub use key::{DeviceKey, KeyError};
pub use spool::{Loss, SpoolError};

use crate::config::{Places, ReportSettings};
use crate::courier::protocol::MAX_REPORTS;
use crate::sinks::{SinkConfig, SinkKind};
use spool::{Bounds, Cursor, Spool};

/// From here on a batch is sent although more waits.
const COMFORTABLE_BATCH: u64 = 1 << 20;

/// Reports cannot be made or kept.
#[derive(Debug, thiserror::Error)]
pub enum OutboxError {
    /// There is no key to sign with.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The spool cannot be used.
    #[error("the spool of reports cannot be used")]
    Spool(#[from] SpoolError),
}

/// Reports on their way out. Clones are the same outbox: a pass fills it and the delivery empties it.
#[derive(Debug, Clone)]
pub struct Outbox {
    desk: Arc<Mutex<Desk>>,
    /// Something new is there, or somebody asked.
    wake: Arc<Notify>,
}

#[derive(Debug)]
struct Desk {
    key: DeviceKey,
    spool: Spool,
    settings: ReportSettings,
    sinks: BTreeMap<String, Sink>,
    /// When the next heartbeat is due.
    beat_at: Instant,
    remarks: Vec<String>,
    /// Why the last report could not be written; empty when it could.
    unwritten: String,
    /// Why what sinks took could not be noted; empty when it could.
    unnoted: String,
    /// The first of the numbers that were given to reports which could not be written: the next one stands for them.
    skipped: Option<u64>,
}

/// A sink between two attempts.
#[derive(Debug, Clone)]
struct Sink {
    cursor: Cursor,
    failures: u32,
    error: String,
    /// Not before; `None`: at once.
    again: Option<Instant>,
    /// How many reports one request may have.
    batch: usize,
    /// The report that it would not have, though it was alone.
    stuck: Option<deliver::Stuck>,
    /// What it gets is larger the more a report tells, so that telling less may help.
    shrinks: bool,
}

/// A report that waits, for who looks.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Waiting {
    /// Its sequence.
    pub sequence: u64,
    /// The first one that it stands for.
    pub since_sequence: u64,
    /// When the oldest of it was made, milliseconds since 1970.
    pub at_ms: u64,
    /// Bytes.
    pub bytes: u64,
    /// The sinks that did not take it yet.
    pub waits_for: Vec<String>,
}

/// What to do next.
enum Next {
    /// Nothing waits.
    Nothing,
    /// Something waits for a time.
    At(Instant),
    /// This, now.
    Send { sink: String, reports: Vec<Signed>, last: u64 },
}

impl Outbox {
    /// The outbox of this host. Its key is made if there is none; nothing else is written.
    pub fn open(places: &Places, settings: &ReportSettings, sinks: &[SinkConfig], now_ms: u64) -> Result<Self, OutboxError> {
        let key = DeviceKey::obtain(&places.device_key(), &places.device_pub())?;
        Self::with(key, places, settings, sinks, now_ms)
    }

    /// The outbox as it is, for who only looks; `None`: this host has no key yet.
    pub fn look(
        places: &Places,
        settings: &ReportSettings,
        sinks: &[SinkConfig],
        now_ms: u64,
    ) -> Result<Option<Self>, OutboxError> {
        let key = DeviceKey::load(&places.device_key())?;
        key.map(|key| Self::with(key, places, settings, sinks, now_ms)).transpose()
    }

    fn with(
        key: DeviceKey,
        places: &Places,
        settings: &ReportSettings,
        sinks: &[SinkConfig],
        now_ms: u64,
    ) -> Result<Self, OutboxError> {
        let spool = Spool::open(&places.spool(), now_ms)?;
        let mut desk = Desk {
            key,
            spool,
            settings: settings.clone(),
            sinks: BTreeMap::new(),
            beat_at: Instant::now(),
            remarks: Vec::new(),
            unwritten: String::new(),
            unnoted: String::new(),
            skipped: None,
        };
        desk.configure(settings, sinks);
        // After a power cut at a whole site all its agents start at once, each with a report or more to send.
        let start = Instant::now() + pace::START.mul_f64(pace::draw());
        let Desk { sinks, spool, .. } = &mut desk;
        for sink in sinks.values_mut().filter(|sink| spool.entries().any(|entry| entry.sequence > sink.cursor.delivered)) {
            sink.again = Some(start);
        }
        Ok(Self { desk: Arc::new(Mutex::new(desk)), wake: Arc::new(Notify::new()) })
    }

    /// Takes over other settings, as SIGHUP asks for.
    pub fn configure(&self, settings: &ReportSettings, sinks: &[SinkConfig]) {
        self.desk().configure(settings, sinks);
        self.urge();
    }

    /// Lets every sink be tried now.
    pub fn urge(&self) {
        self.desk().sinks.values_mut().for_each(|sink| sink.again = None);
        self.wake.notify_one();
    }

    /// Makes a report, writes it durably, and lets it be delivered; its sequence, or `None` where there is nobody to send it to.
    pub fn take(&self, status: Status, events: Vec<Event>, occasion: Occasion, now_ms: u64) -> Result<Option<u64>, OutboxError> {
        let mut desk = self.desk();
        if desk.sinks.is_empty() {
            return Ok(None);
        }
        // One that cannot be written is due again like any other, and not with each pass.
        desk.beat_at = Instant::now() + pace::beat(desk.settings.heartbeat, pace::draw());
        let written = desk.write(status, events, occasion, now_ms);
        desk.unwritten = written.as_ref().err().map(|error| crate::log::chain(error)).unwrap_or_default();
        let sequence = written?;
        drop(desk);
        self.wake.notify_one();
        Ok(Some(sequence))
    }

    /// The highest id of an event that is in a report.
    pub fn last_event(&self) -> u64 {
        self.desk().spool.state.last_event
    }

    /// What was passed over and not told yet.
    pub fn losses(&self) -> Vec<Loss> {
        self.desk().spool.state.losses.clone()
    }

    /// The first so many of them were told. Where that cannot be written down, a later process tells them again.
    pub fn told(&self, losses: usize) {
        let mut desk = self.desk();
        let known = desk.spool.state.losses.len();
        desk.spool.state.losses.drain(..losses.min(known));
        if let Err(error) = desk.note() {
            desk.remarks.push(crate::log::chain(&error));
        }
    }

    /// The device's name.
    pub fn device(&self) -> String {
        self.desk().key.device()
    }

    /// When a heartbeat is due; `None` where there is nobody to send it to.
    pub fn beats_at(&self) -> Option<Instant> {
        let desk = self.desk();
        (!desk.sinks.is_empty()).then_some(desk.beat_at)
    }

    /// What a person should hear of since it was last asked.
    pub fn take_remarks(&self) -> Vec<String> {
        let mut desk = self.desk();
        let mut remarks = desk.spool.take_remarks();
        remarks.append(&mut desk.remarks);
        remarks
    }

    /// What waits, for the status document.
    pub fn queue(&self) -> Queue {
        let desk = self.desk();
        let sinks = desk.sinks.iter().map(|(name, sink)| SinkStatus {
            name: name.clone(),
            delivered: sink.cursor.delivered,
            waiting: desk.spool.entries().filter(|entry| entry.sequence > sink.cursor.delivered).count(),
            last_delivery_ms: sink.cursor.at_ms,
            failures: sink.failures,
            error: sink.error.clone(),
            passed_over: sink.cursor.passed_over,
        });
        let trouble = if desk.unwritten.is_empty() { &desk.unnoted } else { &desk.unwritten };
        Queue {
            trouble: trouble.clone(),
            reports: desk.spool.entries().count(),
            bytes: desk.spool.bytes(),
            oldest_ms: desk.spool.entries().next().map_or(0, |entry| entry.at_ms),
            sinks: sinks.collect(),
        }
    }

    /// What waits, one by one, oldest first.
    pub fn waiting(&self) -> Vec<Waiting> {
        let desk = self.desk();
        let waits = |sequence: u64| desk.sinks.iter().filter(move |(_, sink)| sink.cursor.delivered < sequence);
        desk.spool
            .entries()
            .map(|entry| Waiting {
                sequence: entry.sequence,
                since_sequence: entry.since,
                at_ms: entry.at_ms,
                bytes: entry.bytes,
                waits_for: waits(entry.sequence).map(|(name, _)| name.clone()).collect(),
            })
            .collect()
    }

    /// One report that waits, as it will be sent. One that is torn is `None`, and is left where it is.
    pub fn show(&self, sequence: u64) -> Result<Option<(Report, Signed)>, OutboxError> {
        let desk = self.desk();
        Ok(desk.spool.peek(sequence, &desk.key)?)
    }

    fn desk(&self) -> MutexGuard<'_, Desk> {
        // What a panic left half done is on the disk as a kill would have left it.
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Desk {
    fn configure(&mut self, settings: &ReportSettings, sinks: &[SinkConfig]) {
        self.settings = settings.clone();
        let mut before = std::mem::take(&mut self.sinks);
        for config in sinks {
            let cursor = self.spool.state.sinks.get(&config.name).copied().unwrap_or_default();
            let shrinks = matches!(config.kind, SinkKind::Webhook | SinkKind::Otlp);
            let (failures, error, again, batch, stuck) = (0, String::new(), None, MAX_REPORTS, None);
            let fresh = Sink { cursor, failures, error, again, batch, stuck, shrinks };
            self.sinks.insert(config.name.clone(), Sink { shrinks, ..before.remove(&config.name).unwrap_or(fresh) });
        }
    }

    fn write(&mut self, status: Status, events: Vec<Event>, occasion: Occasion, now_ms: u64) -> Result<u64, OutboxError> {
        if !self.unnoted.is_empty() {
            // If it still cannot be, that is known.
            let _ = self.note();
        }
        let sequence = self.spool.next_sequence();
        let device = self.key.device();
        let mut report = Report {
            format: REPORT_FORMAT,
            host: status.host.clone(),
            sequence,
            since_sequence: *self.skipped.get_or_insert(sequence),
            next_ms: now_ms.saturating_add(pace::latest_beat(self.settings.heartbeat)),
            at_ms: now_ms,
            occasion,
            status: Status { device: device.clone(), ..status },
            device,
            merged: events.iter().map(|event| u64::from(event.count.saturating_sub(1))).sum(),
            events,
        };
        report.bound();
        self.spool.put(report, &self.key)?;
        self.skipped = None;
        let bounds = Bounds { bytes: self.settings.max_mib << 20, count: self.settings.max_count };
        // The report is safe; that the spool is larger than it should be is no reason to say that it is not.
        if let Err(error) = self.spool.keep_within(bounds, &self.key) {
            self.remarks.push(crate::log::chain(&error));
        }
        Ok(sequence)
    }

    /// The sink that has waited longest, and what it is to get.
    fn next(&mut self, now: Instant) -> Result<Next, SpoolError> {
        loop {
            let newest = self.spool.entries().next_back().map_or(0, |entry| entry.sequence);
            let due = self.sinks.iter().filter(|(_, sink)| sink.cursor.delivered < newest).min_by_key(|(_, sink)| sink.again);
            let Some((name, sink)) = due else { return Ok(Next::Nothing) };
            if let Some(again) = sink.again.filter(|again| *again > now) {
                return Ok(Next::At(again));
            }
            let (name, batch, after, stuck) = (name.clone(), sink.batch, sink.cursor.delivered, sink.stuck);
            let (reports, last) = match stuck {
                Some(stuck) => self.less(after, stuck)?,
                None => self.batch(after, batch)?,
            };
            // All of it was torn: what is left is looked at again.
            if !reports.is_empty() {
                return Ok(Next::Send { sink: name, reports, last });
            }
        }
    }

    fn batch(&mut self, after: u64, most: usize) -> Result<(Vec<Signed>, u64), SpoolError> {
        let (mut reports, mut last, mut bytes) = (Vec::new(), after, 0);
        let waiting: Vec<_> = self.spool.entries().filter(|entry| entry.sequence > after).copied().take(most).collect();
        for entry in waiting {
            bytes += entry.bytes;
            if !reports.is_empty() && bytes > COMFORTABLE_BATCH {
                break;
            }
            if let Some((_, signed)) = self.spool.read(entry.sequence, &self.key)? {
                reports.push(signed);
                last = entry.sequence;
            }
        }
        Ok((reports, last))
    }

    /// A sink took everything up to a sequence.
    fn taken(&mut self, name: &str, last: u64, now_ms: u64) -> Result<(), SpoolError> {
        let Some(sink) = self.sinks.get_mut(name) else { return Ok(()) };
        if sink.failures > 0 {
            tracing::info!("sink {name} takes reports again, after {} attempts in vain", sink.failures);
        }
        (sink.failures, sink.error, sink.again, sink.stuck) = (0, String::new(), None, None);
        sink.batch = (sink.batch * 2).min(MAX_REPORTS);
        sink.cursor = Cursor { delivered: sink.cursor.delivered.max(last), at_ms: now_ms, ..sink.cursor };
        self.note()
    }

    /// Writes down how far each sink is, and forgets what all of them have.
    fn note(&mut self) -> Result<(), SpoolError> {
        // Those of sinks that are gone from agent.toml are forgotten with this.
        self.spool.state.sinks = self.sinks.iter().map(|(name, sink)| (name.clone(), sink.cursor)).collect();
        let all = self.sinks.values().map(|sink| sink.cursor.delivered).min().unwrap_or_default();
        let noted = self.spool.settle(all);
        self.unnoted = noted.as_ref().err().map(|error| crate::log::chain(error)).unwrap_or_default();
        noted
    }

    /// A sink took nothing.
    fn refused(&mut self, name: &str, message: &str, lasting: bool, retry_after: Option<Duration>, now: Instant) {
        let Some(sink) = self.sinks.get_mut(name) else { return };
        sink.failures = sink.failures.saturating_add(1);
        if sink.error != message && (sink.failures == 1 || lasting) {
            tracing::warn!("sink {name} takes no reports: {message}");
        } else {
            tracing::debug!("sink {name} takes no reports: {message}");
        }
        message.clone_into(&mut sink.error);
        sink.again = Some(now + pace::pause(sink.failures, lasting, retry_after, pace::draw()));
    }
}

#[cfg(test)]
mod tests;
