//! The delivery: one batch for one sink at a time, through the courier, beside the passes.
//!
//! It holds nothing while it waits, and what it holds while it sends is one batch. Dropping it in the middle loses nothing: what was not told to
//! be taken is sent again, and the receiver knows it by its keys.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::{Next, Outbox, OutboxError};
use crate::config::Places;
use crate::courier::protocol::Class;
use crate::courier::{Client, ClientError, Delivery};
use crate::log::chain;

/// Longer than the courier gives itself for one delivery.
const PATIENCE: Duration = Duration::from_secs(45);
/// A spool that cannot be read is looked at again after so long.
const TROUBLE: Duration = Duration::from_secs(60);

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
            Ok(Delivery::Refused { too_large: true, .. }) if count > 1 => {
                if let Some(sink) = desk.sinks.get_mut(sink) {
                    sink.batch = (count / 2).max(1);
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

fn attempt(
    held: &mut Option<(String, Client)>,
    reach: &Reach,
    sink: &str,
    reports: &[trimtab_model::outbound::Signed],
) -> Result<Delivery, ClientError> {
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
