//! Health checks and hooks: whether a change is good, and programs of a component around it.
//!
//! [`watch`] asks all checks at once and says which failed; [`run_hook`] runs one hook. What an answer means is judged in the model
//! (`trimtab_model::health`); here the questions are asked: of systemd over D-Bus, of Podman and of programs by transient units, of the network
//! by `trimtab probe` ([`ask`]), an unprivileged process of its own, for the agent has no socket.
//!
//! Guarantees: each check ends by its timeout, give or take one question; when nobody waits any more, what runs for a check is ended.
//! Limits: where there is no systemd (a sandbox), nothing is asked and a remark says so.

pub mod ask;
mod containers;
mod hook;
mod programs;
mod units;

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::time::Instant;
use trimtab_model::desired::Desired;
use trimtab_model::health::{Answer, Course, Expected, HealthCheck, Probe, Standing, Timing};
use trimtab_model::names::{ComponentName, UnitName};

use crate::host::command::Runner;
use crate::host::units::Systemd;
use crate::log::many;
pub use hook::{Context, HookEnd, run_hook};

/// For the checks that nobody wrote: what was just started has this long beside its settle time.
const PATIENCE: Duration = Duration::from_secs(60);
/// A unit is looked at this often even when systemd announces nothing.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// A long wait says that it lives this often.
const PROGRESS: Duration = Duration::from_secs(5);

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    /// The checks that failed, in the order in which they did.
    pub failed: Vec<Failed>,
    /// How many passed.
    pub passed: usize,
    /// How many were given up because what they could have said was decided: their component, or one that it depends on, had failed.
    pub given_up: usize,
    /// Worth telling, but no failure: what could not be asked here.
    pub remarks: Vec<String>,
}

impl Verdict {
    /// Whether nothing failed.
    pub fn is_good(&self) -> bool {
        self.failed.is_empty()
    }
}

/// One check that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed {
    /// What was asked: `unit app.service`, `http http://…`, as in reports.
    pub resource: String,
    /// Whose check it is.
    pub component: Option<ComponentName>,
    /// Why it failed, for a person.
    pub message: String,
}

/// One check, ready to be asked.
struct Job<'a> {
    resource: String,
    component: Option<&'a ComponentName>,
    timing: Timing,
    what: What<'a>,
}

enum What<'a> {
    Unit { unit: &'a UnitName, expected: Expected, started: bool },
    Asked(&'a Probe),
}

type Going<'a> = Pin<Box<dyn Future<Output = Result<(), String>> + 'a>>;

/// Asks all checks of the `affected` components at once, and after each unit in `touched` (those that were started, restarted or reloaded)
/// that is to run and has no check of its own, until each has passed, failed, or cannot change any more what is decided about its component.
/// Units without a check of their own must stay active for `settle`.
pub async fn watch(
    wanted: &Desired,
    affected: &BTreeSet<ComponentName>,
    touched: &BTreeSet<UnitName>,
    settle: Duration,
    systemd: &Option<Arc<Systemd>>,
    runner: &Runner,
) -> Verdict {
    let jobs = jobs(wanted, affected, touched, settle);
    let mut verdict = Verdict::default();
    let Some(systemd) = systemd else {
        if !jobs.is_empty() {
            verdict.remarks.push(format!("{} not asked, for there is no systemd here", many(jobs.len(), "health check")));
        }
        return verdict;
    };
    let mut open: Vec<(usize, Going<'_>)> =
        jobs.iter().enumerate().map(|(at, job)| (at, Box::pin(ask_one(job, systemd, runner)) as Going<'_>)).collect();
    let begun = Instant::now();
    while !open.is_empty() {
        let (at, outcome) = tokio::select! {
            ended = next_end(&mut open) => ended,
            () = tokio::time::sleep(PROGRESS) => {
                let seconds = begun.elapsed().as_secs();
                tracing::info!(target: crate::log::PROGRESS, seconds, "still at it: {}", many(open.len(), "health check"));
                continue;
            }
        };
        let job = &jobs[at];
        match outcome {
            Ok(()) => verdict.passed += 1,
            Err(message) => {
                tracing::debug!(resource = job.resource, message, "a health check failed");
                verdict.failed.push(Failed { resource: job.resource.clone(), component: job.component.cloned(), message });
                let fallen = fallen(wanted, job.component);
                let before = open.len();
                // Dropping one ends what runs for it.
                open.retain(|(other, _)| !jobs[*other].component.is_some_and(|component| fallen.contains(component)));
                verdict.given_up += before - open.len();
            }
        }
    }
    verdict
}

/// The next check that ends.
async fn next_end(open: &mut Vec<(usize, Going<'_>)>) -> (usize, Result<(), String>) {
    poll_fn(|context| {
        for slot in 0..open.len() {
            if let Poll::Ready(outcome) = open[slot].1.as_mut().poll(context) {
                let (at, _) = open.swap_remove(slot);
                return Poll::Ready((at, outcome));
            }
        }
        Poll::Pending
    })
    .await
}

/// The components about which nothing is left to say once this one has failed: itself, and all that depend on it.
fn fallen<'a>(wanted: &'a Desired, failed: Option<&'a ComponentName>) -> BTreeSet<&'a ComponentName> {
    let mut fallen: BTreeSet<&ComponentName> = failed.into_iter().collect();
    loop {
        let more: Vec<_> = wanted
            .components
            .iter()
            .filter(|(name, needs)| !fallen.contains(name) && needs.iter().any(|need| fallen.contains(need)))
            .map(|(name, _)| name)
            .collect();
        if more.is_empty() {
            return fallen;
        }
        fallen.extend(more);
    }
}

/// The checks that are written, and one for each touched unit that has none.
fn jobs<'a>(
    wanted: &'a Desired,
    affected: &BTreeSet<ComponentName>,
    touched: &'a BTreeSet<UnitName>,
    settle: Duration,
) -> Vec<Job<'a>> {
    let checks = || wanted.health.iter().filter(|check| affected.contains(&check.origin.component));
    let mut jobs: Vec<Job<'a>> = checks().map(|check| written(wanted, check, touched)).collect();
    let asked = |unit: &UnitName| checks().any(|check| matches!(&check.probe, Probe::Unit { unit: own } if own == unit));
    for unit in touched {
        let Some(own) = wanted.units.get(unit).filter(|own| own.active != Some(false) && !asked(unit)) else { continue };
        let expected = match own.active {
            _ if own.oneshot => Expected::Ended,
            Some(true) => Expected::ActiveIfAllowed,
            _ => Expected::NotFailed,
        };
        let timing = Timing {
            timeout_ms: millis(settle.saturating_add(PATIENCE)),
            interval_ms: millis(LOOK_AGAIN),
            settle_ms: millis(settle),
            retries: 0,
        };
        let what = What::Unit { unit, expected, started: true };
        jobs.push(Job { resource: format!("unit {unit}"), component: Some(&own.origin.component), timing, what });
    }
    jobs
}

fn written<'a>(wanted: &Desired, check: &'a HealthCheck, touched: &BTreeSet<UnitName>) -> Job<'a> {
    let what = match &check.probe {
        Probe::Unit { unit } => {
            let oneshot = wanted.units.get(unit).is_some_and(|own| own.oneshot);
            let expected = if oneshot { Expected::Ended } else { Expected::Active };
            What::Unit { unit, expected, started: touched.contains(unit) }
        }
        probe => What::Asked(probe),
    };
    let resource = match &check.probe {
        Probe::Unit { unit } => format!("unit {unit}"),
        Probe::Http { url, .. } => format!("http {url}"),
        Probe::Tcp { address } => format!("tcp {address}"),
        Probe::Command { run, .. } => format!("command {}", run.first().map_or("", String::as_str)),
        Probe::Container { name, .. } => format!("container {name}"),
    };
    Job { resource, component: Some(&check.origin.component), timing: check.timing, what }
}

async fn ask_one(job: &Job<'_>, systemd: &Arc<Systemd>, runner: &Runner) -> Result<(), String> {
    match &job.what {
        What::Unit { unit, expected, started } => units::unit(systemd, unit, job.timing, *expected, *started).await,
        What::Asked(Probe::Container { name, unit }) => containers::container(systemd, runner, name, unit, job.timing).await,
        What::Asked(Probe::Command { run, user, memory_max }) => {
            programs::command(runner, run, user.as_ref(), *memory_max, job.timing).await
        }
        What::Asked(probe @ (Probe::Http { .. } | Probe::Tcp { .. })) => {
            programs::network(runner, &own_program(), probe, job.timing).await
        }
        What::Asked(Probe::Unit { .. }) => Ok(()),
    }
}

/// This program, as systemd can start it. After an upgrade the kernel calls the one that runs deleted, and the new one is where it was.
fn own_program() -> PathBuf {
    let program = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("/usr/bin/trimtab"));
    let text = program.to_string_lossy();
    text.strip_suffix(" (deleted)").map_or_else(|| program.clone(), PathBuf::from)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// A course on the clock of this process.
struct Clocked {
    begun: Instant,
    course: Course,
}

impl Clocked {
    fn new(timing: Timing) -> Self {
        Self { begun: Instant::now(), course: Course::new(timing, 0) }
    }

    fn now(&self) -> u64 {
        millis(self.begun.elapsed())
    }

    /// What is left of its time, at least a second: a question that is asked at all must be answerable.
    fn left(&self) -> Duration {
        Duration::from_millis(self.course.deadline().saturating_sub(self.now()).max(1000))
    }

    /// Takes an answer (or, without one, the time); `Some` when it is decided.
    fn take(&mut self, answer: Option<Answer>) -> Option<Result<(), String>> {
        let now = self.now();
        let standing = match answer {
            Some(answer) => self.course.answer(now, answer),
            None => self.course.time(now),
        };
        match standing {
            Standing::Open => None,
            Standing::Passed => Some(Ok(())),
            Standing::Failed(why) => Some(Err(why)),
        }
    }

    /// When to ask again.
    fn next(&self) -> Instant {
        self.begun + Duration::from_millis(self.course.next(self.now()))
    }
}

#[cfg(test)]
mod tests;
