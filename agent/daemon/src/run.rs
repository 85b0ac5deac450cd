//! The loop: when to make a pass, and telling systemd that all is well.
//!
//! Sequential on purpose: one pass at a time, on one thread. The watchdog is fed by this loop and not by a thread of its own, so a
//! pass that hangs for good is seen by systemd and ended.
//!
//! What event sources see makes the loop look at once; whether it is worth a pass, the look decides ([`Cycle::heed`]), so that neither our own
//! writes nor a `touch` is followed by one. The look at the interval stays: a lost event costs time, never truth.

use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};
use trimtab_model::report::{Outcome, Pass, Wake};

use crate::config::AgentSettings;
use crate::cycle::Cycle;
use crate::watch::Watch;

/// A pass may wait for many images and units, one after the other; one that takes longer than this hangs, and the watchdog may have it.
const LONGEST_PASS: Duration = Duration::from_secs(3 * 3600);

/// For looking whether what was seen is worth a pass.
const LONGEST_HEED: Duration = Duration::from_secs(20);

/// What ended the loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// SIGTERM or SIGINT.
    Asked,
    /// trimtab itself was changed, and a new agent takes over.
    Replaced,
    /// Local configuration or memory cannot be trusted.
    Halted,
}

/// Passes until somebody asks it to end.
pub async fn run(cycle: &mut Cycle) -> std::io::Result<End> {
    let mut hangup = signal(SignalKind::hangup())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    notify(&[sd_notify::NotifyState::Ready, sd_notify::NotifyState::Status("first pass")]);
    let mut wake = Wake::Start;
    let (mut failures, mut poll_at) = (0, Instant::now());
    let mut watch = Watch::new(cycle.root());
    let mut delivery = None;
    loop {
        // Before the look: what changes after it is seen.
        arm(&mut watch, cycle);
        cycle.saw(watch.take(&cycle.own_jobs()).sightings);
        // Beside the passes: a receiver that is slow must not delay a repair. It ends with the runtime.
        delivery = delivery.or_else(|| cycle.outbox().map(|outbox| tokio::spawn(outbox.deliver(cycle.reach()))));
        let ask = matches!(wake, Wake::Start | Wake::Asked) || Instant::now() >= poll_at;
        let pass = {
            // SIGHUP waits for the end of the pass; SIGTERM ends it where it waits, and the next start finishes what it began.
            let (pass, begun) = (cycle.pass(wake, ask), Instant::now());
            tokio::pin!(pass);
            loop {
                tokio::select! {
                    pass = &mut pass => break pass,
                    () = feed(), if begun.elapsed() < LONGEST_PASS => notify(&[sd_notify::NotifyState::Watchdog]),
                    _ = terminate.recv() => return Ok(leave()),
                    _ = interrupt.recv() => return Ok(leave()),
                }
            }
        };
        notify(&[sd_notify::NotifyState::Watchdog, sd_notify::NotifyState::Status(&status_line(&pass))]);
        if pass.outcome == Outcome::Halted {
            return Ok(End::Halted);
        }
        if cycle.leaves() {
            tokio::select! {
                () = cycle.hand_over() => return Ok(End::Replaced),
                _ = terminate.recv() => return Ok(leave()),
                _ = interrupt.recv() => return Ok(leave()),
            }
        }
        let now = Instant::now();
        if ask {
            failures = if pass.source_error.is_empty() { 0 } else { failures + 1 };
            poll_at = now + pause(&cycle.settings().agent, failures);
        }
        // While the source is asked ever more seldom, the host is looked at as often as always.
        let deadline = if failures == 0 { poll_at } else { poll_at.min(now + pause(&cycle.settings().agent, 0)) };
        // What was held back until then is done then.
        let freed = cycle.next_hold_end().map(|left| now + left);
        let deadline = freed.map_or(deadline, |freed| deadline.min(freed));
        wake = if deadline == poll_at && failures > 0 { Wake::Retry } else { Wake::Timer };
        watch.expect(pass.changes.iter().map(|change| change.resource.as_str()).filter(|resource| resource.starts_with("unit ")));
        arm(&mut watch, cycle);
        let wakes_at = cycle.wakes_at();
        // Arming needed room and code as well.
        crate::host::sys::give_back();
        loop {
            tokio::select! {
                () = watch.due() => {
                    // Before the look, as above; and a change of the way to what is managed says that it must be.
                    arm(&mut watch, cycle);
                    let glimpse = watch.take(&cycle.own_jobs());
                    // One that takes long is better done by a pass, beside which the watchdog is fed.
                    if tokio::time::timeout(LONGEST_HEED, cycle.heed(glimpse)).await.unwrap_or(true) {
                        wake = Wake::Event;
                        break;
                    }
                }
                () = tokio::time::sleep_until(deadline.into()) => break,
                () = until(wakes_at) => {
                    wake = Wake::Timer;
                    break;
                }
                () = until(cycle.beats_at()) => cycle.beat(),
                () = feed() => notify(&[sd_notify::NotifyState::Watchdog]),
                _ = hangup.recv() => {
                    cycle.reread();
                    watch.calm();
                    wake = Wake::Asked;
                    break;
                }
                _ = terminate.recv() => return Ok(leave()),
                _ = interrupt.recv() => return Ok(leave()),
            }
        }
        if freed.is_some_and(|freed| Instant::now() >= freed) {
            poll_at = Instant::now();
        }
    }
}

fn arm(watch: &mut Watch, cycle: &mut Cycle) {
    watch.arm(&cycle.watched(), cycle.settings().drift.max_watches, cycle.has_systemd());
    cycle.watch_status(watch.status());
}

fn leave() -> End {
    notify(&[sd_notify::NotifyState::Stopping]);
    End::Asked
}

/// Until then; for ever when there is no such time.
async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// Until the watchdog wants to be fed; for ever when nobody watches.
async fn feed() {
    match sd_notify::watchdog_enabled() {
        Some(period) => tokio::time::sleep(period / 2).await,
        None => std::future::pending().await,
    }
}

fn notify(states: &[sd_notify::NotifyState<'_>]) {
    // Whether systemd listens changes nothing about the work.
    let _ = sd_notify::notify(states);
}

/// One line whatever happens: systemd takes a further one for a message of its own, and what a failed service said may be in here.
fn status_line(pass: &Pass) -> String {
    let revision: String = pass.revision.chars().take(12).collect();
    let text = format!("{} at {revision}: {}", pass.outcome.word(), pass.reason());
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(400).collect()
}

/// How long until the source is asked again: the interval with jitter, or a back-off with jitter while it cannot be used.
fn pause(settings: &AgentSettings, failures: u32) -> Duration {
    let base = if failures == 0 {
        settings.interval
    } else {
        let back_off = settings.retry_interval.saturating_mul(1 << (failures - 1).min(16));
        back_off.min(settings.retry_max)
    };
    // A fleet that lost its network at once must not come back at once.
    let share = if failures == 0 { 10 } else { 3 };
    let spread = base / share;
    base.saturating_sub(spread) + random_below(spread * 2)
}

fn random_below(limit: Duration) -> Duration {
    let mut bytes = [0; 8];
    let random = ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes);
    if random.is_err() {
        return limit / 2;
    }
    let nanos = u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX).max(1);
    Duration::from_nanos(u64::from_be_bytes(bytes) % nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn back_off_grows_and_is_bounded_and_never_in_step() {
        let settings = AgentSettings::default();
        for failures in 0..40 {
            let base = [60, 15, 30, 60, 120, 240, 480].get(failures as usize).copied().unwrap_or(900);
            let share = if failures == 0 { 10 } else { 3 };
            let (low, high) = (Duration::from_secs(base - base / share), Duration::from_secs(base + base / share));
            let two = (pause(&settings, failures), pause(&settings, failures));
            assert!(two.0 >= low && two.0 <= high, "{failures}: {two:?} outside of {low:?}..{high:?}");
            assert_ne!(two.0, two.1);
        }
    }
}
