//! `trimtab status`: the status document, for people first.

use std::fmt::Write as _;
use std::process::ExitCode;

use trimtab_model::report::{Outcome, Pass, Undone};
use trimtab_model::status::{Clock, Condition, ConditionKind, Status, Truth};
use trimtab_model::transaction::Phase;

use super::{color, complain, follow, past, print_json, say};
use crate::config::Places;
use crate::log::many;

/// The document as the agent last wrote it.
pub(super) fn read(places: &Places) -> Result<Status, String> {
    let path = places.runtime().join("status.json");
    let text = std::fs::read(&path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            "no pass has ended since this machine started: the first one may be on its way (`journalctl -fu trimtab`), or no agent runs (`systemctl status trimtab`)".to_owned()
        }
        _ => format!("{}: {error}", path.display()),
    })?;
    serde_json::from_slice(&text).map_err(|error| format!("{}: {error}", path.display()))
}

/// `trimtab status`.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(super) struct StatusArgs {
    /// Answer in JSON: the status document.
    #[arg(long)]
    pub(super) json: bool,
    /// Show it again whenever it changes, until Ctrl-C; without a terminal as a line each time.
    #[arg(long)]
    watch: bool,
    /// Print the JSON Schema of the document, and nothing else.
    #[arg(long, conflicts_with_all = ["json", "watch"])]
    schema: bool,
}

/// What the document is held to; published beside the examples.
const SCHEMA: &str = include_str!("../../../../examples/monitoring/status.schema.json");

pub(super) fn run(places: &Places, args: StatusArgs) -> ExitCode {
    if args.schema {
        return say(SCHEMA);
    }
    if args.watch {
        return follow::run(places, args.json);
    }
    let status = match read(places) {
        Ok(status) => status,
        Err(message) => {
            complain(&message);
            return ExitCode::FAILURE;
        }
    };
    let gone = is_gone(&status);
    if args.json {
        print_json(&document(&status));
    } else {
        say(&human(&status, gone, crate::cycle::now_ms() / 1000));
    }
    exit(&status, gone)
}

/// The document, and whether the agent that wrote it still runs.
pub(super) fn document(status: &Status) -> serde_json::Value {
    let mut document = serde_json::to_value(status).expect("because plain data with string keys always serialises");
    document["agentRunning"] = is_trimtab(status.agent_pid).into();
    document
}

/// Whether the agent that wrote it ended. A single pass by hand (pid 0) leaves no agent behind; that is no fault.
pub(super) fn is_gone(status: &Status) -> bool {
    status.agent_pid > 0 && !is_trimtab(status.agent_pid)
}

/// 5 where all is well but for what somebody wants left alone.
fn exit(status: &Status, gone: bool) -> ExitCode {
    let is_held = status.condition(ConditionKind::Suspended).is_some_and(|held| held.status == Truth::True);
    match status.outcome() {
        _ if gone => ExitCode::FAILURE,
        _ if status.ready => ExitCode::SUCCESS,
        Some(Outcome::Drifted | Outcome::Paused) => ExitCode::from(5),
        Some(outcome) if outcome.is_ready() && is_held => ExitCode::from(5),
        _ => ExitCode::FAILURE,
    }
}

/// Whether this process is a trimtab: the number of one that ended may belong to anybody by now.
pub(super) fn is_trimtab(pid: u32) -> bool {
    pid > 0 && std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim_end() == "trimtab")
}

/// The state in a word, coloured for a terminal.
pub(super) fn headline(status: &Status, gone: bool, now: u64) -> String {
    let (word, tint) = match (status.ready, gone) {
        (true, false) => ("ready", "32"),
        (true, true) => ("WAS READY", "31"),
        (false, _) => ("NOT READY", "31"),
    };
    let word = if color() { format!("\x1b[{tint}m{word}\x1b[0m") } else { word.to_owned() };
    let since = status
        .condition(ConditionKind::Ready)
        .map_or_else(String::new, |ready| format!(" for {}", ago(now, ready.last_transition_time)));
    format!("{}  {word}{since}: {}\n", status.host, status.reason)
}

pub(super) fn human(status: &Status, gone: bool, now: u64) -> String {
    let mut text = headline(status, gone, now);
    if gone {
        text.push_str("agent       not running, so nothing holds this host: `systemctl start trimtab`\n");
    }
    let _ = writeln!(text, "revision    {}", or_none(&status.last_applied_revision));
    let _ = writeln!(text, "generation  {}", generation(status));
    if !status.last_attempted_revision.is_empty() && status.last_attempted_revision != status.last_applied_revision {
        let _ = writeln!(text, "attempted   {}", or_none(&status.last_attempted_revision));
    }
    conditions(status, now, &mut text);
    trial(status, &mut text);
    let _ = writeln!(text, "managed     {}, {}", many(status.managed_files, "file"), many(status.managed_units, "unit"));
    drift(status, now, &mut text);
    outside(status, now, &mut text);
    if let Some(pass) = &status.last_pass {
        let _ = writeln!(text, "last pass   {} ago, {} ms, {}", ago(now, pass.started), pass.duration_ms, pass.outcome.word());
        if !pass.trust.signer.is_empty() {
            let _ = writeln!(text, "signed by   {}", pass.trust.signer);
        }
        details(pass, &mut text);
    }
    past::denied(&status.denied, now, &mut text);
    if !status.history.is_empty() {
        text.push_str("history\n");
    }
    for line in &status.history {
        let revision: String = line.revision.chars().take(12).collect();
        let _ = writeln!(
            text,
            "  {:>8} ago  {:<11} {revision}  {} updated, {} drift, {} ms",
            ago(now, line.started),
            line.outcome.word(),
            line.updates,
            line.drift,
            line.duration_ms
        );
    }
    text
}

/// What is the matter, since when, and what to do; Ready is the headline, and a trial tells of itself.
fn conditions(status: &Status, now: u64, text: &mut String) {
    let speaks = |one: &&Condition| {
        one.status != Truth::False
            && one.kind != ConditionKind::Ready
            && !(one.kind == ConditionKind::Reconciling && status.trial.is_some())
    };
    for one in status.conditions.iter().filter(speaks) {
        let doubt = if one.status == Truth::Unknown { "?" } else { "" };
        let name = match one.kind {
            ConditionKind::RolledBack => "rolled-back".to_owned(),
            kind => trimtab_model::metric::kind(kind).to_lowercase() + doubt,
        };
        let _ = writeln!(text, "{name:<11} {} (for {})", one.message, ago(now, one.last_transition_time));
        if let Some(advice) = advice(one, status.last_pass.as_ref().is_some_and(|pass| !pass.trust.message.is_empty())) {
            let _ = writeln!(text, "{:<11} {advice}", "do");
        }
    }
}

/// What a person can do about it; `unbelieved`: what the source serves was not believed.
fn advice(one: &Condition, unbelieved: bool) -> Option<&'static str> {
    match (one.kind, one.reason.as_str()) {
        (ConditionKind::Stalled, "Held") if unbelieved => {
            Some("find out who put that there: `trimtab verify URL` on any machine tells rule by rule what a host would say")
        }
        (_, "NoPassYet") => None,
        (ConditionKind::Stalled, "Held") => Some("mend the repository: `trimtab validate` in a clone tells what is wrong with it"),
        (ConditionKind::Stalled, "RolledBack") => Some("push another revision, or try this one again: `trimtab retry`"),
        (ConditionKind::Stalled, "Halted") => {
            Some("look at the local configuration: `journalctl -u trimtab` says what cannot be trusted")
        }
        (ConditionKind::Drifted, "Reported") => Some("put it back, or commit it"),
        (ConditionKind::Contended, _) => Some("end what changes it, or leave it alone for a while: `trimtab pin`"),
        (ConditionKind::Suspended, "Suspended") => Some("`trimtab resume` ends it"),
        (ConditionKind::Suspended, "Pinned") => Some("`trimtab unpin` ends it"),
        (ConditionKind::Suspended, "Observing") => Some("`mode = \"enforce\"` under [agent] in agent.toml ends it"),
        (ConditionKind::Silenced, _) => Some("free some space (`df -h /var/lib/trimtab`), or see why nothing can be written there"),
        (ConditionKind::Stale, "NotHeard") => Some("look at the network and the source: `trimtab sync` tells what fails"),
        (ConditionKind::Stale, "Expired") => Some("have the source publish a new statement"),
        (ConditionKind::Stale, "Withheld") => Some("find out why the source does not serve its newest release"),
        (ConditionKind::Stale, "MemoryLost") => Some(
            "set min-epoch and min-seq in trust.toml to the newest release that you know; it is over with the second release from now",
        ),
        (ConditionKind::Stale, "ClockBehind" | "FreshnessUnknown") => Some("set the clock, and have something keep it in step"),
        _ => None,
    }
}

/// What differs and is not repaired, and who did it.
fn drift(status: &Status, now: u64, text: &mut String) {
    for one in &status.drift {
        let differs: Vec<&str> = one.differs.iter().map(|difference| difference.property.as_str()).collect();
        let actor = one.actor.as_ref().map_or_else(|| "unknown".to_owned(), trimtab_model::drift::Actor::words);
        let _ = writeln!(
            text,
            "drift       {} ({}), {} ago, by {actor}",
            one.resource,
            differs.join(", "),
            ago(now, one.seen_ms / 1000)
        );
    }
    let more = status.drift_standing.saturating_sub(status.drift.len());
    if more > 0 {
        let _ = writeln!(text, "drift       and {more} more");
    }
}

/// Units that are not as wanted, a clock that cannot be believed, a silent source, reports that wait: only what is not as it should be.
fn outside(status: &Status, now: u64, text: &mut String) {
    for unit in status.units.iter().filter(|unit| !unit.wanted.is_empty() && unit.wanted != unit.active) {
        let _ = writeln!(text, "unit        {} is {} ({}), wanted {}", unit.name, unit.active, unit.sub, unit.wanted);
    }
    if status.trust.last_contact > 0 {
        let _ = writeln!(text, "source      heard {} ago", ago(now, status.trust.last_contact));
    }
    let trust = &status.trust;
    if let (Some(epoch), Some(sequence)) = (trust.epoch, trust.sequence) {
        let end =
            trust.expires.map_or_else(String::new, |expires| format!(", runs out {}", crate::trust::statement::show_time(expires)));
        let root = trust.root_version.unwrap_or_default();
        let _ = writeln!(text, "release     {epoch}.{sequence} under root {root}, freshness {}{end}", trust.freshness);
    }
    match status.clock {
        Clock::Unsynchronised => text.push_str("clock       nothing keeps it in step\n"),
        Clock::Behind => text.push_str("clock       behind what this host has seen\n"),
        Clock::Synchronised | Clock::Unknown => {}
    }
    if status.courier.landlock.lacks() {
        let _ = writeln!(text, "courier     not wholly confined by Landlock: {}", status.courier.detail);
    }
    if status.queue.reports > 0 {
        let _ = writeln!(
            text,
            "reports     {} not delivered, the oldest {} old",
            status.queue.reports,
            ago(now, status.queue.oldest_ms / 1000)
        );
    }
    for sink in status.queue.sinks.iter().filter(|sink| sink.passed_over > 0) {
        let _ = writeln!(text, "sink        {} never took {} reports, which were passed over", sink.name, sink.passed_over);
    }
    for sink in status.queue.sinks.iter().filter(|sink| sink.failures > 0) {
        let _ = writeln!(text, "sink        {} failed {} times in a row: {}", sink.name, sink.failures, sink.error);
    }
}

fn generation(status: &Status) -> String {
    match (status.generation, status.good_generation) {
        (0, _) => "none yet".to_owned(),
        (number, good) if number == good => format!("{number}, in force and whole"),
        (number, 0) => format!("{number}, in force but not whole yet"),
        (number, good) => format!("{number} in force, {good} the last good one"),
    }
}

/// The change in progress, and what it waits for.
fn trial(status: &Status, text: &mut String) {
    let Some(trial) = &status.trial else { return };
    let revision: String = trial.revision.chars().take(12).collect();
    let _ = writeln!(text, "change      revision {revision} is {} (generation {})", phase(trial.phase), trial.generation);
    let waits = match trial.phase {
        Phase::Trying => "for what it started to be healthy".to_owned(),
        Phase::AwaitingReboot => "for a reboot of this host".to_owned(),
        Phase::Confirming => format!("for the source to be reached with it ({})", trial.guarded.join(", ")),
        Phase::RollingBack => "for what it changed to be undone".to_owned(),
        Phase::Degraded => "for what could not be undone; each pass tries it again".to_owned(),
    };
    let _ = writeln!(text, "waits       {waits}");
}

/// A phase as people and scripts read it.
pub(super) fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Trying => "trying",
        Phase::AwaitingReboot => "awaiting-reboot",
        Phase::Confirming => "confirming",
        Phase::RollingBack => "rolling-back",
        Phase::Degraded => "degraded",
    }
}

/// What was undone, with the whole chain, and what to do.
fn undone(undone: &Undone, text: &mut String) {
    let revision: String = undone.revision.chars().take(12).collect();
    let names: Vec<&str> = undone.components.iter().map(trimtab_model::names::ComponentName::as_str).collect();
    let what = if names.is_empty() { String::new() } else { format!("{} of ", names.join(", ")) };
    let back = match undone.back_to {
        0 => "this host is as trimtab found it".to_owned(),
        number => format!("back to generation {number}"),
    };
    let _ = writeln!(text, "undone      {what}revision {revision}, {back}; `trimtab retry {revision}` tries it again");
    for cause in &undone.causes {
        let _ = writeln!(text, "because     {}: {}", cause.resource, cause.message);
    }
    for amiss in &undone.amiss {
        let _ = writeln!(text, "not undone  {}: {}", amiss.resource, amiss.message);
    }
}

/// What went wrong in a pass, for `status` and `once`.
pub(super) fn details(pass: &Pass, text: &mut String) {
    if !pass.source_error.is_empty() {
        let _ = writeln!(text, "source      {}", pass.source_error);
    }
    if !pass.trust.message.is_empty() {
        let _ = writeln!(text, "trust       {}: {}", pass.trust.verdict, pass.trust.message);
    }
    if let Some(told) = &pass.undone {
        undone(told, text);
    }
    for problem in &pass.problems {
        let _ = writeln!(text, "problem     {}: {}", problem.resource, problem.message);
    }
    for failure in &pass.failures {
        let word = if failure.skipped { "skipped    " } else { "failed     " };
        let _ = writeln!(text, "{word} {}: {}", failure.resource, failure.message);
    }
    for (path, digest) in &pass.kept {
        let _ = writeln!(text, "kept        what somebody wrote to {path}, as {digest}");
    }
    for remark in &pass.remarks {
        let _ = writeln!(text, "remark      {remark}");
    }
    if !pass.findings.is_empty() {
        text.push('\n');
        text.push_str(&pass.findings.draw(color()));
    }
}

fn or_none(revision: &str) -> &str {
    if revision.is_empty() { "none yet" } else { revision }
}

pub(super) fn ago(now: u64, then: u64) -> String {
    match now.saturating_sub(then) {
        seconds @ 0..=119 => format!("{seconds} s"),
        seconds @ 120..=7199 => format!("{} min", seconds / 60),
        seconds @ 7200..=172_799 => format!("{} h", seconds / 3600),
        seconds => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(more: &serde_json::Value) -> Status {
        let mut document = serde_json::json!({
            "format": 1, "agentVersion": "0", "agentPid": 1, "host": "box", "ready": false, "reason": "so", "lastAppliedRevision": "aa",
            "lastAttemptedRevision": "bb", "generation": 4, "managedFiles": 1, "managedUnits": 0, "lastPass": null, "history": [],
            "goodGeneration": 4
        });
        let fields = more.as_object().unwrap().clone();
        document.as_object_mut().unwrap().extend(fields);
        serde_json::from_value(document).unwrap()
    }

    #[test]
    fn a_change_in_progress_says_what_it_waits_for() {
        for (phase, waits) in [
            ("awaiting-reboot", "for a reboot of this host"),
            ("confirming", "for the source to be reached with it (file /etc/hosts)"),
            ("degraded", "for what could not be undone"),
        ] {
            let trial =
                serde_json::json!({ "phase": phase, "revision": "c0ffee", "generation": 5, "guarded": ["file /etc/hosts"] });
            let text = human(&status(&serde_json::json!({ "trial": trial })), false, 100);
            assert!(text.contains(&format!("change      revision c0ffee is {phase} (generation 5)")), "{text}");
            assert!(text.contains(&format!("waits       {waits}")), "{text}");
        }
        let calm = human(&status(&serde_json::json!({})), false, 100);
        assert!(calm.contains("generation  4, in force and whole") && !calm.contains("waits"), "{calm}");
        for (generation, good, says) in
            [(0, 0, "none yet"), (1, 0, "1, in force but not whole yet"), (5, 4, "5 in force, 4 the last good one")]
        {
            let text = human(&status(&serde_json::json!({ "generation": generation, "goodGeneration": good })), false, 100);
            assert!(text.contains(&format!("generation  {says}\n")), "{text}");
        }
    }

    #[test]
    fn what_was_undone_is_told_with_every_cause_and_what_is_left_of_it() {
        let failure = |resource: &str, message: &str| serde_json::json!({ "resource": resource, "message": message });
        let told: Undone = serde_json::from_value(serde_json::json!({
            "revision": "c0ffee", "components": ["web", "app"], "back_to": 0, "at": 7,
            "causes": [failure("unit a.service", "it died"), failure("unit b.service", "it needs a.service")],
            "amiss": [failure("unit c.service", "it does not start")],
        }))
        .unwrap();
        let mut text = String::new();
        undone(&told, &mut text);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines,
            [
                "undone      web, app of revision c0ffee, this host is as trimtab found it; `trimtab retry c0ffee` tries it again",
                "because     unit a.service: it died",
                "because     unit b.service: it needs a.service",
                "not undone  unit c.service: it does not start",
            ]
        );
    }
}
