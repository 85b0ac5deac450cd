//! What is true of a host, in Kubernetes' and Flux's words: worked out of the rest of the status document, always anew, always all of them.
//!
//! Guarantees: a pure function of the document, the book of drift and the clock; every condition is there each time, so that what reads
//! them never has to tell "false" from "missing". A message is one line and quotes no more than the first one of what a program said.
//! Limits: they are as true as the document is fresh ([`Status::next_ms`]); an agent that is gone changes no condition.

use crate::drift::{DriftBook, LeftAlone};
use crate::plan::Cause;
use crate::report::{Outcome, Pass};
use crate::status::{Clock, Condition, ConditionKind, Mode, Status, Truth};
use crate::transaction::Phase;

/// When things happened, as far as conditions depend on it; all in seconds since 1970 by this host's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// Now.
    pub now: u64,
    /// When this boot began. A host that was switched off for a week has not been waiting for its source all that time.
    pub booted: u64,
    /// How long the source may be silent before the host counts as stale, seconds.
    pub stale_after: u64,
}

/// All conditions. Each is as if it had changed now: [`crate::status::transition`] keeps the time of what did not.
pub fn conditions(status: &Status, book: &DriftBook, at: Moment) -> Vec<Condition> {
    let pass = status.last_pass.as_ref();
    let all = [
        (ConditionKind::Ready, ready(status, pass)),
        (ConditionKind::Reconciling, reconciling(status, pass)),
        (ConditionKind::Stalled, stalled(pass)),
        (ConditionKind::Drifted, drifted(pass, book)),
        (ConditionKind::Contended, contended(pass, book)),
        (ConditionKind::Suspended, suspended(status)),
        (ConditionKind::Stale, stale(status, at)),
        (ConditionKind::RolledBack, rolled_back(pass)),
        (ConditionKind::Silenced, silenced(status)),
    ];
    let condition = |(kind, (truth, reason, message)): (ConditionKind, Told)| Condition {
        kind,
        status: truth,
        reason: reason.to_owned(),
        message: first_line(&message).to_owned(),
        last_transition_time: at.now,
    };
    all.into_iter().map(condition).collect()
}

/// Whether, one word why, one line why.
type Told = (Truth, &'static str, String);

fn yes(reason: &'static str, message: impl Into<String>) -> Told {
    (Truth::True, reason, message.into())
}

fn no(reason: &'static str, message: impl Into<String>) -> Told {
    (Truth::False, reason, message.into())
}

fn unknown() -> Told {
    (Truth::Unknown, "NoPassYet", "no pass has been made yet".to_owned())
}

fn ready(status: &Status, pass: Option<&Pass>) -> Told {
    let Some(pass) = pass else { return unknown() };
    if !pass.outcome.is_ready() {
        return no(word(pass.outcome), pass.reason());
    }
    if let (Truth::True, reason, message) = suspended(status) {
        return no(reason, message);
    }
    match &status.trial {
        Some(trial) => no(phase(trial.phase), in_progress(trial.phase, &trial.revision)),
        None => yes(word(pass.outcome), pass.reason()),
    }
}

fn reconciling(status: &Status, pass: Option<&Pass>) -> Told {
    if let Some(trial) = &status.trial {
        return yes(phase(trial.phase), in_progress(trial.phase, &trial.revision));
    }
    match pass.map(|pass| (pass.outcome, pass)) {
        None => yes("NoPassYet", "the first pass is being made"),
        Some((Outcome::Unreachable | Outcome::Partial, pass)) => yes("Retrying", format!("tried again: {}", pass.reason())),
        Some(_) => no("Idle", "nothing is being changed"),
    }
}

fn stalled(pass: Option<&Pass>) -> Told {
    let Some(pass) = pass else { return unknown() };
    match pass.outcome {
        Outcome::Held | Outcome::RolledBack | Outcome::Degraded | Outcome::Halted => yes(word(pass.outcome), pass.reason()),
        _ => no("Moving", "nothing waits for a person or for another revision"),
    }
}

/// Resource and why, of each difference that nobody mends: the book's, and what the last pass left alone.
fn unmended<'a>(pass: Option<&'a Pass>, book: &'a DriftBook) -> Vec<(&'a str, Option<&'a LeftAlone>)> {
    let mut list: Vec<_> = book.standing.values().map(|drift| (drift.resource.as_str(), drift.left_alone.as_ref())).collect();
    let changes = pass.into_iter().flat_map(|pass| &pass.changes);
    let drift =
        changes.filter(|change| matches!(change.cause, Cause::Drift | Cause::UpdateAndDrift) && change.left_alone.is_some());
    for change in drift {
        if !book.standing.contains_key(&change.resource) {
            list.push((change.resource.as_str(), change.left_alone.as_ref()));
        }
    }
    list
}

fn drifted(pass: Option<&Pass>, book: &DriftBook) -> Told {
    if pass.is_none() {
        return unknown();
    }
    let list = unmended(pass, book);
    let Some((resource, left_alone)) = list.first() else { return no("AsWanted", "nothing differs that was not mended") };
    let (reason, why) = match left_alone {
        None => ("NotRepaired", "it could not be repaired yet"),
        Some(LeftAlone::Policy) => ("Reported", "the repository asks only to tell it"),
        Some(LeftAlone::Observing) => ("Observing", "this host only observes"),
        Some(LeftAlone::Suspended) => ("Suspended", "this host is suspended"),
        Some(LeftAlone::Pinned) => ("Pinned", "it is pinned"),
        Some(LeftAlone::Contended { .. }) => ("Contended", "something keeps changing it back"),
    };
    yes(reason, format!("{} {resource}: {why}", differ(list.len())))
}

fn contended(pass: Option<&Pass>, book: &DriftBook) -> Told {
    if pass.is_none() {
        return unknown();
    }
    // Until it is over, and not only while a repair waits: in between it is as wanted for a moment.
    let list = unmended(pass, book);
    let waits = list.iter().filter(|(_, why)| matches!(why, Some(LeftAlone::Contended { .. }))).map(|(resource, _)| *resource);
    let fought: std::collections::BTreeSet<&str> = waits.chain(book.contended.keys().map(String::as_str)).collect();
    let Some(first) = fought.first() else { return no("Uncontended", "nothing changes back what is repaired") };
    let actor = book.of(first).find_map(|drift| drift.actor.as_ref()).map_or("unknown".to_owned(), crate::drift::Actor::words);
    yes("Contended", format!("{} {first} is changed back again and again, by: {actor}", differ(fought.len())))
}

fn differ(count: usize) -> String {
    if count == 1 { "1 resource:".to_owned() } else { format!("{count} resources, the first:") }
}

fn suspended(status: &Status) -> Told {
    if let Some(held) = &status.holds.suspended {
        return yes("Suspended", format!("{} suspended this host: {}", held.by, held.reason));
    }
    if status.mode == Mode::Observe {
        return yes("Observing", "this host only observes: nothing is changed on it");
    }
    match status.holds.pins.iter().next() {
        Some((name, held)) => {
            let more = match status.holds.pins.len() - 1 {
                0 => String::new(),
                more => format!(", and {more} more"),
            };
            yes("Pinned", format!("{} pinned {name}{more}: {}", held.by, held.reason))
        }
        None => no("NotHeld", "nobody holds anything back"),
    }
}

fn stale(status: &Status, at: Moment) -> Told {
    if status.clock == Clock::Behind {
        return (Truth::Unknown, "ClockBehind", "the clock of this host is behind what it has seen".to_owned());
    }
    let trust = &status.trust;
    match trust.freshness.as_str() {
        "expired" => return yes("Expired", "the source's last statement has run out; the host is held on the last good state"),
        "withheld" => {
            return yes("Withheld", "a newer release exists than the source serves; the host is held on the last good state");
        }
        // Where nothing says how fresh it is, what is known of its end does.
        "" if trust.expires.is_some_and(|expires| expires < at.now) => {
            return yes("Expired", "the source's last statement has run out; the host is held on the last good state");
        }
        _ => {}
    }
    if trust.freshness == "unknown" && trust.expires.is_some_and(|expires| expires < at.now) {
        let why = "the source's last statement has run out by the clock of this host, but nothing keeps that clock in step";
        return (Truth::Unknown, "FreshnessUnknown", why.to_owned());
    }
    if trust.state_lost {
        let floor = match trust.mode.as_str() {
            "release" => "whatever is above the floor in trust.toml counts as new",
            _ => "whatever descends from what was in force counts as new",
        };
        return yes("MemoryLost", format!("what this host had accepted is forgotten: {floor}"));
    }
    let silent = at.now.saturating_sub(status.trust.last_contact.max(at.booted));
    if silent <= at.stale_after {
        return match status.trust.last_contact {
            0 => no("NotHeardYet", "the source has not answered yet since this host was started"),
            _ => no("Heard", "the source answers"),
        };
    }
    yes("NotHeard", format!("the source has not answered for {}", span(silent)))
}

fn rolled_back(pass: Option<&Pass>) -> Told {
    let Some(pass) = pass else { return unknown() };
    match (pass.outcome, &pass.undone) {
        (Outcome::RolledBack | Outcome::Degraded, _) => yes(word(pass.outcome), pass.reason()),
        (_, Some(undone)) => {
            let revision: String = undone.revision.chars().take(12).collect();
            yes("RolledBack", format!("revision {revision} was undone"))
        }
        _ => no("InForce", "the last change was not undone"),
    }
}

/// Who looks from afar cannot tell a host without a voice from a dead one; who looks at the host itself can.
fn silenced(status: &Status) -> Told {
    let queue = &status.queue;
    match queue.trouble.as_str() {
        "" if queue.sinks.is_empty() => no("NoSinks", "no reports are to leave this host"),
        "" => no("Reporting", "reports are written as they should be"),
        trouble => yes("NotWritten", format!("reports do not leave this host as they should: {trouble}")),
    }
}

/// The outcome as Kubernetes writes its reasons.
fn word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Unchanged => "AsWanted",
        Outcome::Converged => "Converged",
        Outcome::Planned => "Planned",
        Outcome::Drifted => "Drifted",
        Outcome::Paused => "Paused",
        Outcome::Unreachable => "Unreachable",
        Outcome::Partial => "Partial",
        Outcome::Held => "Held",
        Outcome::RolledBack => "RolledBack",
        Outcome::Degraded => "Degraded",
        Outcome::Halted => "Halted",
    }
}

fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Trying => "Trying",
        Phase::AwaitingReboot => "AwaitingReboot",
        Phase::Confirming => "Confirming",
        Phase::RollingBack => "RollingBack",
        Phase::Degraded => "Degraded",
    }
}

fn in_progress(phase: Phase, revision: &str) -> String {
    let revision: String = revision.chars().take(12).collect();
    match phase {
        Phase::Trying => format!("revision {revision} is being tried"),
        Phase::AwaitingReboot => format!("revision {revision} waits for a reboot of this host"),
        Phase::Confirming => format!("revision {revision} is in place, and the source must be reached with it"),
        Phase::RollingBack => format!("revision {revision} is being undone"),
        Phase::Degraded => format!("revision {revision} was undone but not all of it; each pass tries the rest again"),
    }
}

/// Rounded down to what a person needs, so that a message of a lasting matter seldom changes.
fn span(seconds: u64) -> String {
    match seconds {
        0..=7199 => format!("{} min", seconds / 60),
        7200..=172_799 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

#[cfg(test)]
mod tests;
