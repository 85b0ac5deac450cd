//! The delivery: one batch for one sink at a time, through the courier, beside the passes.
//!
//! It holds nothing while it waits, and what it holds while it sends is one batch. Dropping it in the middle loses nothing: what was not told to
//! be taken is sent again, and the receiver knows it by its keys.
//!
//! A receiver that will not have what it was sent (400, 413, 422) is sent less: half of the reports, then the one alone, then that with less
//! detail. What it refuses even so [`REFUSALS`] times, with growing pauses, is passed over for it, and told: one report must not keep back all
//! that come after it. What says something of the receiver and nothing of the report (401, 403, 404, 429, 5xx, no answer) passes nothing over.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use trimtab_model::outbound::Signed;

use super::spool::{Loss, MAX_LOSSES, SpoolError};
use super::{Desk, Next, Outbox, OutboxError};
use crate::config::Places;
use crate::courier::protocol::Class;
use crate::courier::{Client, ClientError, Delivery};
use crate::log::chain;

/// Longer than the courier gives itself for one delivery.
const PATIENCE: Duration = Duration::from_secs(45);
/// A spool that cannot be read is looked at again after so long.
const TROUBLE: Duration = Duration::from_secs(60);

/// The sizes of a report that was too much as it is, bytes of JSON; a webhook has each event twice, and one of them by four thirds.
const LESS: [usize; 2] = [64 << 10, 8 << 10];
/// So often a receiver refuses the least of a report before it is passed over: with the pauses in between a quarter of an hour, and hours where
/// it refused the ones before as well.
const REFUSALS: u32 = 5;

/// A report that a sink would not have, though it was alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stuck {
    /// A sequence of those that it stands for.
    sequence: u64,
    /// With how much detail it is tried next: an index into [`LESS`]; `None`: with all.
    detail: Option<usize>,
    /// How often the least was refused.
    refusals: u32,
}

/// How the courier is reached.
#[derive(Debug, Clone)]
pub struct Reach {
    /// This program, which is the courier as well.
    pub program: PathBuf,
    /// Where everything lies.
    pub places: Places,
    /// As whom a courier runs that is started from here.
    pub user: Option<(u32, u32)>,
    /// Couriers are started by systemd and by nobody else.
    pub only_socket: bool,
}

impl Reach {
    fn open(&self) -> Result<Client, ClientError> {
        let socket = self.places.courier_socket();
        if self.only_socket || socket.exists() {
            Client::connect(&socket, PATIENCE)
        } else {
            Client::spawn_as(self.user, &self.program, &self.places.agent_toml(), &self.places.cache(), PATIENCE)
        }
    }
}

impl Outbox {
    /// Delivers whatever comes, until it is dropped.
    pub async fn deliver(self, reach: Reach) {
        let mut client = None;
        loop {
            let next = self.desk().next(Instant::now());
            match next {
                Ok(Next::Send { sink, reports, last }) => {
                    let (reach, mut held) = (reach.clone(), client.take());
                    let name = sink.clone();
                    let attempt = tokio::task::spawn_blocking(move || {
                        let said = attempt(&mut held, &reach, &name, &reports);
                        (held, said, reports.len())
                    });
                    // The thread ends by itself within its patience; what it was told is told again to the next one.
                    let Ok((held, said, count)) = attempt.await else { continue };
                    client = held;
                    self.heard(&sink, last, count, said);
                }
                Ok(Next::At(at)) => {
                    client = None;
                    tokio::select! {
                        () = tokio::time::sleep_until(at.into()) => {}
                        () = self.wake.notified() => {}
                    }
                }
                Ok(Next::Nothing) => {
                    client = None;
                    self.wake.notified().await;
                }
                Err(error) => {
                    tracing::warn!("reports cannot be delivered: {}", chain(&error));
                    client = None;
                    tokio::time::sleep(TROUBLE).await;
                }
            }
        }
    }

    /// Writes down what a sink said.
    pub(super) fn heard(&self, sink: &str, last: u64, count: usize, said: Result<Delivery, ClientError>) {
        let now = Instant::now();
        let mut desk = self.desk();
        match said {
            Ok(Delivery::Taken { traffic }) => {
                tracing::debug!("sink {sink} took {count} reports, up to {last}, in {} bytes", traffic.up);
                if let Err(error) = desk.taken(sink, last, crate::log::now_ms()) {
                    // It is known here; only after a crash it would be sent again.
                    tracing::warn!("what sink {sink} took cannot be written down: {}", chain(&error));
                }
            }
            Ok(Delivery::Refused { unfit: true, .. }) if count > 1 => {
                if let Some(sink) = desk.sinks.get_mut(sink) {
                    sink.batch = (count / 2).max(1);
                }
            }
            Ok(Delivery::Refused { unfit: true, retry_after, message, .. }) => {
                if !desk.lessen(sink, last) && !desk.gives_up(sink, last, &message) {
                    desk.refused(sink, &message, true, retry_after, now);
                }
            }
            Ok(Delivery::Refused { lasting, retry_after, message, .. }) => {
                desk.refused(sink, &message, lasting, retry_after, now);
            }
            // The courier itself: it may be that its socket is stopped, or that it is an older one than this agent.
            Err(error) => desk.refused(sink, &chain(&error), error.class() == Class::Configuration, None, now),
        }
    }
}

impl Desk {
    /// The report that a sink is stuck at, as it is tried next.
    pub(super) fn less(&mut self, after: u64, stuck: Stuck) -> Result<(Vec<Signed>, u64), SpoolError> {
        let first = self.spool.entries().find(|entry| entry.sequence > after).copied();
        // It may have been made one with others meanwhile.
        let first = first.filter(|entry| (entry.since..=entry.sequence).contains(&stuck.sequence));
        match (first, stuck.detail) {
            (Some(entry), Some(detail)) => {
                let less = self.spool.less(entry.sequence, LESS[detail], &self.key)?;
                Ok((less.into_iter().collect(), entry.sequence))
            }
            _ => self.batch(after, 1),
        }
    }

    /// Has the report that a sink would not have tried with less detail; `false`: there is no less.
    fn lessen(&mut self, name: &str, last: u64) -> bool {
        let Some(entry) = self.spool.entries().find(|entry| entry.sequence == last).copied() else { return false };
        let Some(sink) = self.sinks.get_mut(name) else { return false };
        let known = sink.stuck.filter(|stuck| (entry.since..=entry.sequence).contains(&stuck.sequence));
        let mut stuck = known.unwrap_or(Stuck { sequence: last, detail: None, refusals: 0 });
        let from = stuck.detail.map_or(0, |detail| detail + 1);
        let next = (from..LESS.len()).find(|detail| sink.shrinks && (LESS[*detail] as u64) < entry.bytes);
        stuck.detail = next.or(stuck.detail);
        stuck.refusals += u32::from(next.is_none());
        sink.stuck = Some(stuck);
        next.is_some()
    }

    /// Passes over what a sink refused too often; `false`: it is tried again.
    fn gives_up(&mut self, name: &str, last: u64, why: &str) -> bool {
        let Some(sink) = self.sinks.get_mut(name).filter(|sink| sink.stuck.is_some_and(|stuck| stuck.refusals >= REFUSALS)) else {
            return false;
        };
        // The failures stay: a receiver that refuses the next one as well is left alone for longer.
        (sink.stuck, sink.again) = (None, None);
        sink.cursor.delivered = last;
        sink.cursor.passed_over += 1;
        let since_sequence = self.spool.entries().find(|entry| entry.sequence == last).map_or(last, |entry| entry.since);
        let losses = &mut self.spool.state.losses;
        losses.push(Loss { sink: name.to_owned(), since_sequence, sequence: last, why: why.to_owned() });
        let excess = losses.len().saturating_sub(MAX_LOSSES);
        losses.drain(..excess);
        if let Err(error) = self.note() {
            tracing::warn!("that sink {name} passed over report {last} cannot be written down: {}", chain(&error));
        }
        true
    }
}

fn attempt(held: &mut Option<(String, Client)>, reach: &Reach, sink: &str, reports: &[Signed]) -> Result<Delivery, ClientError> {
    // A courier that has spoken to one sink has its secrets, and is confined to it: another sink gets another courier.
    let mut client = match held.take() {
        Some((of, client)) if of == sink => client,
        _ => reach.open()?,
    };
    let said = client.deliver(sink, reports)?;
    *held = Some((sink.to_owned(), client));
    Ok(said)
}

/// Tries every sink once with all that waits, for where no agent runs; how many reports still wait then.
pub fn flush(outbox: &Outbox, reach: &Reach) -> Result<usize, OutboxError> {
    outbox.urge();
    let (mut client, begun) = (None, Instant::now());
    loop {
        // Who failed since is not due at the moment when this began.
        let Next::Send { sink, reports, last } = outbox.desk().next(begun)? else { break };
        let said = attempt(&mut client, reach, &sink, &reports);
        outbox.heard(&sink, last, reports.len(), said);
    }
    Ok(outbox.queue().sinks.iter().map(|sink| sink.waiting).max().unwrap_or_default())
}
