//! One job of systemd's from queueing to its judged end.
//!
//! Guarantees: the signal that ends a job is subscribed to before the job is queued and kept if it overtakes the reply;
//! "done" is not believed: the unit's state is read again, for it can mean "condition not met", and a service may have died since.
//! Limits: a service of `Type=simple` counts as started when its process was made; that it dies a moment later is the next look's to see.

use std::time::Duration;

use trimtab_model::names::UnitName;
use trimtab_model::observed::UnitFound;
use zbus::{DynamicType, Message};

use super::bus::{self, Bus, End, Ends, Properties};
use super::{UnitError, found};

/// A signal can be lost with its sender; this often the unit is asked whether its job still exists.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// What systemd is asked to do with a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // systemctl's own words
pub enum JobVerb {
    Start,
    Stop,
    Restart,
    Reload,
}

impl JobVerb {
    /// As people say it.
    pub fn word(self) -> &'static str {
        match self {
            JobVerb::Start => "start",
            JobVerb::Stop => "stop",
            JobVerb::Restart => "restart",
            JobVerb::Reload => "reload",
        }
    }

    fn method(self) -> &'static str {
        match self {
            JobVerb::Start => "StartUnit",
            JobVerb::Stop => "StopUnit",
            JobVerb::Restart => "RestartUnit",
            JobVerb::Reload => "ReloadUnit",
        }
    }
}

/// How a job ended that did what was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobOutcome {
    /// The unit's state after the job.
    pub found: UnitFound,
    /// False when systemd skipped the unit because a `Condition…=` of it does not hold.
    pub condition_met: bool,
    /// The run that it is now in; empty when it does not run.
    pub invocation: String,
}

/// What was read of a unit after its job.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct After {
    pub(super) found: UnitFound,
    pub(super) condition_met: bool,
    /// The type's own `Result` property: `success`, `exit-code`, `start-limit-hit`, …
    pub(super) result: String,
    pub(super) invocation: String,
    /// The required unit because of which systemd gave the job up, and the run in which that one failed.
    pub(super) culprit: Option<(String, String)>,
}

/// Ends that arrived before anybody knew which job they belong to.
#[derive(Debug, Default)]
pub(super) struct Early(Vec<End>);

impl Early {
    pub(super) fn keep(&mut self, end: End) {
        self.0.push(end);
    }

    pub(super) fn of(&self, job: &str) -> Option<String> {
        self.0.iter().find(|end| end.job == job).map(|end| end.result.clone())
    }
}

/// Queues a job with a manager's method and waits for its end; gives the job's result in systemd's word.
pub(super) async fn queue_and_wait<B>(
    bus: &Bus,
    method: &'static str,
    unit: &str,
    body: &B,
    timeout: Duration,
) -> Result<String, UnitError>
where
    B: serde::Serialize + DynamicType + Sync,
{
    let connection = bus.connection().await?;
    // systemd sends job signals to whoever queued the job, but older ones only to subscribers.
    match bus::call(&connection, "Subscribe", unit, &()).await {
        Err(error) if error.is_lost() => return Err(error),
        _ => {}
    }
    let mut ends = Ends::subscribe(&connection).await?;
    let mut early = Early::default();
    let deadline = tokio::time::Instant::now() + timeout;
    let job = {
        let queueing = bus::call(&connection, method, unit, body);
        tokio::pin!(queueing);
        loop {
            tokio::select! {
                reply = &mut queueing => break job_path(&reply?, method, unit)?,
                Some(end) = ends.next() => early.keep(end),
            }
        }
    };
    bus.remember_job(&job);
    if let Some(result) = early.of(&job) {
        return Ok(result);
    }
    loop {
        tokio::select! {
            end = ends.next() => match end {
                Some(end) if end.job == job => return Ok(end.result),
                Some(_) => {}
                None => return Err(UnitError::Lost { unit: unit.to_owned() }),
            },
            () = tokio::time::sleep(LOOK_AGAIN) => {
                // Work that runs as a unit of our own tells of itself, by a better name.
                if !unit.starts_with("trimtab-") {
                    tracing::info!(target: crate::log::PROGRESS, "still at it: waiting for {unit}");
                }
                // Its signal was lost (systemd re-executed itself, perhaps): the state that is read next tells what became of it.
                if !bus.properties(unit, "org.freedesktop.systemd1.Unit").await?.has_job() {
                    return Ok("done".to_owned());
                }
            }
            () = tokio::time::sleep_until(deadline) => {
                return Err(UnitError::Slow { unit: unit.to_owned(), after: timeout });
            }
        }
    }
}

fn job_path(reply: &Message, method: &'static str, unit: &str) -> Result<String, UnitError> {
    let body = reply.body();
    let path = body.deserialize::<zbus::ObjectPath<'_>>().map_err(|source| UnitError::from_zbus(method, unit, source))?;
    Ok(path.to_string())
}

/// Runs one job to its judged end.
pub(super) async fn run(bus: &Bus, verb: JobVerb, unit: &UnitName, timeout: Duration) -> Result<JobOutcome, UnitError> {
    if matches!(verb, JobVerb::Start | JobVerb::Restart) {
        // This also empties the unit's start limit. Otherwise a handful of commits within seconds would have systemd refuse the last restart
        // and leave a healthy service stopped; and a unit that ran into its limit under an old definition would refuse the new one.
        reset_failed(bus, unit).await;
    }
    let body = (unit.as_str(), "replace");
    let result = match queue_and_wait(bus, verb.method(), unit.as_str(), &body, timeout).await {
        Err(error) if error.is_lost() => {
            bus.rest();
            tokio::time::sleep(Duration::from_millis(200)).await;
            queue_and_wait(bus, verb.method(), unit.as_str(), &body, timeout).await?
        }
        other => other?,
    };
    let mut after = read(bus, unit).await?;
    if result == "dependency" {
        after.culprit = culprit(bus, unit).await?;
    }
    if verb == JobVerb::Stop && after.found.active == "failed" {
        // It is stopped, which was asked for; the failure of its last moments must not keep it loaded for ever.
        reset_failed(bus, unit).await;
    }
    judge(verb, unit, &result, after)
}

async fn reset_failed(bus: &Bus, unit: &UnitName) {
    if let Err(error) = bus.manager("ResetFailedUnit", unit.as_str(), &(unit.as_str())).await {
        tracing::debug!(unit = unit.as_str(), %error, "could not reset the failed state");
    }
}

async fn read(bus: &Bus, unit: &UnitName) -> Result<After, UnitError> {
    let properties = bus.properties(unit.as_str(), "org.freedesktop.systemd1.Unit").await?;
    let result = match kind_interface(unit.kind()) {
        Some(interface) => bus.properties(unit.as_str(), interface).await.map(|own| own.text("Result")).unwrap_or_default(),
        None => String::new(),
    };
    Ok(After {
        condition_met: condition_met(&properties),
        invocation: invocation(&properties),
        found: found(&properties, String::new()),
        result,
        culprit: None,
    })
}

/// The first required unit that does not run: systemd says only that there is one.
async fn culprit(bus: &Bus, unit: &UnitName) -> Result<Option<(String, String)>, UnitError> {
    const UNIT: &str = "org.freedesktop.systemd1.Unit";
    let own = bus.properties(unit.as_str(), UNIT).await?;
    for required in ["Requires", "BindsTo", "Requisite"].iter().flat_map(|name| own.texts(name)) {
        let its = bus.properties(&required, UNIT).await?;
        if its.text("ActiveState") != "active" {
            return Ok(Some((required, invocation(&its))));
        }
    }
    Ok(None)
}

fn condition_met(properties: &Properties) -> bool {
    // Before the first start both the result and its time are zero; "not met" needs a time.
    properties.flag("ConditionResult") || properties.text("ActiveState") != "inactive"
}

pub(super) fn invocation(properties: &Properties) -> String {
    use std::fmt::Write as _;
    properties.bytes("InvocationID").iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

pub(super) fn kind_interface(kind: &str) -> Option<&'static str> {
    Some(match kind {
        "service" => "org.freedesktop.systemd1.Service",
        "socket" => "org.freedesktop.systemd1.Socket",
        "timer" => "org.freedesktop.systemd1.Timer",
        "path" => "org.freedesktop.systemd1.Path",
        "mount" => "org.freedesktop.systemd1.Mount",
        "automount" => "org.freedesktop.systemd1.Automount",
        "swap" => "org.freedesktop.systemd1.Swap",
        _ => return None,
    })
}

/// Whether a job did what was asked, by the state that it left and not by its own word alone.
pub(super) fn judge(verb: JobVerb, unit: &UnitName, result: &str, after: After) -> Result<JobOutcome, UnitError> {
    let invocation = after.invocation.clone();
    let failed = |why: String| UnitError::Job {
        verb: verb.word(),
        unit: unit.to_string(),
        why,
        blamed: unit.to_string(),
        invocation: invocation.clone(),
    };
    let state = &after.found;
    let own = if after.result.is_empty() || after.result == "success" { String::new() } else { format!(" ({})", after.result) };
    if verb == JobVerb::Stop {
        return match state.active.as_str() {
            "active" | "activating" | "reloading" | "refreshing" => Err(failed(format!(
                "it is {} again after the stop ({result}); something starts it: look for a socket, path, timer or unit that wants it",
                state.active
            ))),
            "deactivating" => Err(failed(format!("it has not stopped yet ({result})"))),
            _ => Ok(JobOutcome { found: after.found, condition_met: true, invocation: String::new() }),
        };
    }
    match state.load.as_str() {
        "loaded" | "merged" | "" => {}
        other => return Err(failed(format!("systemd could not load it ({other})"))),
    }
    if state.active == "failed" {
        return Err(failed(format!("it failed{own}")));
    }
    if state.sub.starts_with("auto-restart") {
        return Err(failed(format!("it failed{own}, and systemd is about to try again")));
    }
    match result {
        "done" => {}
        "dependency" => return Err(by_dependency(verb, unit, after)),
        "timeout" => return Err(failed("it did not answer in time".to_owned())),
        "canceled" => return Err(failed("something else cancelled the job".to_owned())),
        other => return Err(failed(format!("the job ended as {other}{own}"))),
    }
    Ok(JobOutcome { found: after.found, condition_met: after.condition_met, invocation: after.invocation })
}

fn by_dependency(verb: JobVerb, unit: &UnitName, after: After) -> UnitError {
    let (why, blamed, invocation) = match after.culprit {
        Some((culprit, invocation)) => (format!("it requires {culprit}, which could not be started"), culprit, invocation),
        None => ("a unit that it requires could not be started".to_owned(), unit.to_string(), after.invocation),
    };
    UnitError::Job { verb: verb.word(), unit: unit.to_string(), why, blamed, invocation }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(active: &str, sub: &str, result: &str) -> After {
        let found = UnitFound { load: "loaded".into(), active: active.into(), sub: sub.into(), ..UnitFound::default() };
        After { found, condition_met: true, result: result.into(), ..After::default() }
    }

    fn judged(verb: JobVerb, result: &str, after: After) -> Result<bool, String> {
        let unit = "a.service".parse().unwrap();
        judge(verb, &unit, result, after).map(|outcome| outcome.condition_met).map_err(|error| error.to_string())
    }

    #[test]
    fn done_is_not_believed() {
        assert_eq!(judged(JobVerb::Start, "done", after("active", "running", "success")), Ok(true));
        // A oneshot that ran to its end.
        assert_eq!(judged(JobVerb::Start, "done", after("inactive", "dead", "success")), Ok(true));
        let unmet = After { condition_met: false, ..after("inactive", "dead", "success") };
        assert_eq!(judged(JobVerb::Start, "done", unmet), Ok(false));
        let died = judged(JobVerb::Start, "done", after("failed", "failed", "exit-code"));
        assert_eq!(died, Err("could not start a.service: it failed (exit-code)".to_owned()));
        let again = judged(JobVerb::Restart, "done", after("activating", "auto-restart", "exit-code"));
        assert_eq!(again, Err("could not restart a.service: it failed (exit-code), and systemd is about to try again".to_owned()));
        assert!(judged(JobVerb::Start, "dependency", after("inactive", "dead", "success")).is_err());
        assert!(judged(JobVerb::Reload, "skipped", after("active", "running", "success")).is_err());
    }

    #[test]
    fn a_stop_is_judged_by_what_runs_afterwards() {
        assert_eq!(judged(JobVerb::Stop, "done", after("inactive", "dead", "success")), Ok(true));
        // It died of the stop: stopped all the same.
        assert_eq!(judged(JobVerb::Stop, "done", after("failed", "failed", "signal")), Ok(true));
        assert!(judged(JobVerb::Stop, "done", after("active", "running", "success")).unwrap_err().contains("active again"));
        assert!(judged(JobVerb::Stop, "timeout", after("deactivating", "stop-sigterm", "timeout")).is_err());
    }

    #[test]
    fn an_end_that_overtakes_the_reply_is_not_lost() {
        let mut early = Early::default();
        early.keep(End { job: "/job/7".to_owned(), result: "failed".to_owned() });
        early.keep(End { job: "/job/8".to_owned(), result: "done".to_owned() });
        assert_eq!(early.of("/job/8").as_deref(), Some("done"));
        assert_eq!(early.of("/job/9"), None);
    }
}
