//! The status page: one HTML document with nothing to fetch, no script, and everything escaped (maud does it where it is put in).
//!
//! For a phone first, for light and dark; it loads itself anew each minute. What matters most stands on top: whether all is well, what is the
//! matter and since when, what is wanted, what is, what differs and who did that.

use std::sync::OnceLock;

use base64::Engine as _;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use sha2::Digest as _;
use trimtab_model::drift::Drift;
use trimtab_model::plan::{Change, Difference};
use trimtab_model::report::{Failure, Pass};
use trimtab_model::status::{Clock, Condition, ConditionKind, Mode, Status, Truth};

use super::timeline::{timeline, tint};

const STYLE: &str = include_str!("style.css");

/// A tab's picture; data, for the page fetches nothing.
const ICON: &str = "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E%3Cpath d='M2 12h12l-4-8z' fill='%23157347'/%3E%3C/svg%3E";

/// More than this of one kind is told as a number.
const MOST: usize = 50;

/// What the page may do: show this one style sheet and its picture, and nothing else.
pub(super) fn policy() -> String {
    static POLICY: OnceLock<String> = OnceLock::new();
    let make = || {
        let digest = base64::engine::general_purpose::STANDARD.encode(sha2::Sha256::digest(STYLE.as_bytes()));
        format!(
            "default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
    };
    POLICY.get_or_init(make).clone()
}

fn frame(title: &str, body: Markup) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta http-equiv="refresh" content="60";
                title { (title) " · trimtab" }
                link rel="icon" href=(ICON);
                style { (PreEscaped(STYLE)) }
            }
            body { (body) }
        }
    };
    page.into_string()
}

/// The page of a host of which nothing is known.
pub(super) fn empty(why: &str) -> String {
    let body = html! {
        header { h1 { "trimtab" } span class="pill bad" { "unknown" } }
        section { p class="reason" { (why) } p class="soft" { code { "systemctl status trimtab" } " tells whether the agent runs." } }
    };
    frame("unknown", body)
}

/// The page of a host; `doubt`: why the document must not be believed any more. `now` in seconds since 1970.
pub(super) fn page(status: &Status, doubt: Option<&str>, now: u64) -> String {
    let (word, class) = match (status.ready, doubt) {
        (true, None) => ("ready", "good"),
        (true, Some(_)) => ("was ready", "bad"),
        (false, _) => ("not ready", "bad"),
    };
    let ago = |then: u64| ago(now, then);
    let body = html! {
        header { h1 { (status.host) } span class=(format!("pill {class}")) { (word) } @if status.mode == Mode::Observe { span class="pill warn" { "only observes" } } }
        @if let Some(doubt) = doubt { section class="banner" { (doubt) } }
        p class="reason" { (status.reason) }
        (conditions(status, &ago))
        div class="two" { (wanted(status, &ago)) (is(status, &ago)) }
        (differs(status, &ago))
        (wrong(status.last_pass.as_ref()))
        (held(status, now))
        (units(status))
        (passes(status, &ago))
        (past(status, &ago))
        footer { "trimtab " (status.agent_version) ", as of " (ago(status.at_ms / 1000)) " ago" @if !status.device.is_empty() { " · device " (status.device) } " · " a href="/status" { "JSON" } " · " a href="/metrics" { "metrics" } }
    };
    frame(&format!("{} {word}", status.host), body)
}

/// Those that say something; Ready is the headline already.
fn conditions(status: &Status, ago: &dyn Fn(u64) -> String) -> Markup {
    let speaks = |one: &&Condition| one.kind != ConditionKind::Ready && one.status != Truth::False;
    let list: Vec<&Condition> = status.conditions.iter().filter(speaks).collect();
    let class = |one: &Condition| match (one.status, one.kind) {
        (Truth::Unknown, _) | (_, ConditionKind::Reconciling | ConditionKind::Suspended | ConditionKind::Drifted) => "pill warn",
        _ => "pill bad",
    };
    let since = status.condition(ConditionKind::Ready).map(|ready| ready.last_transition_time);
    html! {
        @if let Some(since) = since { p class="soft" { "for " (ago(since)) } }
        @if !list.is_empty() {
            section { h2 { "What is the matter" }
                ul { @for one in list { li {
                    span class=(class(one)) { (trimtab_model::metric::kind(one.kind)) @if one.status == Truth::Unknown { "?" } } " " (one.message)
                    div class="soft" { "for " (ago(one.last_transition_time)) }
                } } }
            }
        }
    }
}

fn wanted(status: &Status, ago: &dyn Fn(u64) -> String) -> Markup {
    let trust = &status.trust;
    html! {
        section { h2 { "Wanted" }
            dl {
                dt { "newest" } dd { code { (short(&status.last_attempted_revision)) } }
                // The newest may be a stranger's: these two are of the last one that was accepted.
                @if trust.accepted_at > 0 { dt { "last accepted" } dd { (ago(trust.accepted_at)) " ago" } }
                @if !trust.signer.is_empty() { dt { "its signer" } dd { (trust.signer) } }
                dt { "source" } dd { @if trust.last_contact == 0 { "not heard yet" } @else { "heard " (ago(trust.last_contact)) " ago" } }
                @if let (Some(epoch), Some(sequence)) = (trust.epoch, trust.sequence) {
                    dt { "release" } dd { (epoch) "." (sequence) ", " (trust.freshness) }
                    @if let Some(statement) = &trust.statement { dt { "its statement" } dd { code { (short(statement.trim_start_matches("sha256:"))) } } }
                }
                @if let Some(expires) = trust.expires { dt { "statement" } dd { "runs out in " (ago_or_now(expires, status.at_ms / 1000)) } }
                @if let Some(trial) = &status.trial {
                    dt { "trial" } dd { "generation " (trial.generation) ", revision " code { (short(&trial.revision)) } }
                }
            }
            @if !status.denied.is_empty() {
                p class="soft" { "Undone, and not tried again by itself:" }
                ul { @for one in status.denied.iter().take(MOST) { li {
                    code { (short(&one.revision)) } " " @for cause in &one.causes { div { (cause.resource) ": " (cause.message) } }
                    div class="soft" { (ago(one.at)) " ago" }
                } } }
            }
        }
    }
}

fn is(status: &Status, ago: &dyn Fn(u64) -> String) -> Markup {
    let clock = match status.clock {
        Clock::Synchronised => "in step",
        Clock::Unsynchronised => "nothing keeps it in step",
        Clock::Behind => "behind what this host has seen",
        Clock::Unknown => "not known",
    };
    html! {
        section { h2 { "Is" }
            dl {
                dt { "in force" } dd { code { (short(&status.last_applied_revision)) } }
                dt { "generation" } dd { (status.generation) @if status.good_generation != status.generation { ", the last good one is " (status.good_generation) } }
                dt { "managed" } dd { (status.managed_files) " files, " (status.managed_units) " units" }
                dt { "clock" } dd { (clock) }
                @if status.courier.landlock.lacks() { dt { "courier" } dd { "not wholly confined by Landlock: " (status.courier.detail) } }
                @if let Some(pass) = &status.last_pass {
                    dt { "last pass" } dd { (ago(pass.started)) " ago, " (pass.duration_ms) " ms " span class=(format!("pill {}", tint(pass.outcome))) { (pass.outcome.word()) } }
                }
                @if status.watch.watched > 0 { dt { "watched" } dd { (status.watch.watched) " paths by " (status.watch.files) @if status.watch.unwatched > 0 { ", " (status.watch.unwatched) " not" } } }
                @if !status.queue.sinks.is_empty() {
                    dt { "reports" } dd { (status.queue.reports) " not delivered"
                        @if !status.queue.trouble.is_empty() { div { (status.queue.trouble) } }
                        @for sink in &status.queue.sinks { div { (sink.name) ": " @if sink.failures > 0 { "failed " (sink.failures) " times, " (sink.error) } @else { "delivers" } } }
                    }
                }
            }
        }
    }
}

/// Drift that stands, and what the last pass changed.
fn differs(status: &Status, ago: &dyn Fn(u64) -> String) -> Markup {
    let standing = |change: &&Change| !status.drift.iter().any(|drift| drift.resource == change.resource);
    let changes: Vec<&Change> = status.last_pass.iter().flat_map(|pass| &pass.changes).filter(standing).collect();
    html! {
        section { h2 { "What differs" }
            @if status.drift.is_empty() && changes.is_empty() { p { "Nothing." } }
            ul {
                @for drift in &status.drift { (one_drift(drift, ago)) }
                @for change in changes.iter().take(MOST) { li {
                    b { (change.resource) } " "
                    span class="pill calm" { @if change.left_alone.is_some() { "left alone" } @else { "changed by the last pass" } }
                    (differences(&change.differs))
                    div class="soft" { "from " (change.origin.file) }
                } }
            }
            @let more = changes.len().saturating_sub(MOST) + status.drift_standing.saturating_sub(status.drift.len());
            @if more > 0 { p class="soft" { "and " (more) " more" } }
        }
    }
}

fn one_drift(drift: &Drift, ago: &dyn Fn(u64) -> String) -> Markup {
    html! {
        li {
            b { (drift.resource) } " " span class="pill warn" { @match drift.state { trimtab_model::drift::DriftState::Standing => "drifted", trimtab_model::drift::DriftState::Repaired => "repaired", trimtab_model::drift::DriftState::Gone => "gone" } }
            (differences(&drift.differs))
            div { "by " (drift.actor.as_ref().map_or_else(|| "unknown".to_owned(), trimtab_model::drift::Actor::words)) }
            div class="soft" { (ago(drift.seen_ms / 1000)) " ago, from " (drift.origin.file) }
        }
    }
}

fn differences(list: &[Difference]) -> Markup {
    html! { @for one in list { div { (one.property) ": " code { (brief(&one.found)) } " → " code { (brief(&one.wanted)) } } } }
}

/// What went wrong in the last pass.
fn wrong(pass: Option<&Pass>) -> Markup {
    let Some(pass) = pass else { return html! {} };
    let item = |resource: &str, message: &str| html! { li { b { (resource) } " " (message) } };
    let failures = |list: &[Failure]| html! { @for one in list.iter().take(MOST) { (item(&one.resource, &one.message)) } };
    let undone = pass.undone.as_ref();
    if pass.failures.is_empty()
        && pass.problems.is_empty()
        && pass.findings.is_empty()
        && pass.source_error.is_empty()
        && undone.is_none()
        && pass.trust.message.is_empty()
    {
        return html! {};
    }
    html! {
        section { h2 { "What went wrong" }
            ul {
                @if !pass.source_error.is_empty() { (item("source", &pass.source_error)) }
                @if !pass.trust.message.is_empty() { (item("trust", &pass.trust.message)) }
                @if let Some(undone) = undone { (failures(&undone.causes)) (failures(&undone.amiss)) }
                (failures(&pass.failures))
                @for one in pass.problems.iter().take(MOST) { (item(&one.resource, &one.message)) }
                @for one in pass.findings.list.iter().take(MOST) { li { (one) } }
            }
        }
    }
}

/// What a person holds back, and for how long yet.
fn held(status: &Status, now: u64) -> Markup {
    let (whole, pins) = (status.holds.suspended.as_ref(), &status.holds.pins);
    let list = whole.map(|held| ("this host", held)).into_iter().chain(pins.iter().map(|(name, held)| (name.as_str(), held)));
    let list: Vec<_> = list.collect();
    html! {
        @if !list.is_empty() { section { h2 { "Held back" } ul { @for (what, held) in list { li {
            b { (what) } " " (held.reason) div class="soft" { "by " (held.by) ", for " (ago_or_now(held.until, now)) " more" }
        } } } } }
    }
}

fn units(status: &Status) -> Markup {
    let is_well = |unit: &trimtab_model::status::UnitStatus| unit.wanted.is_empty() || unit.wanted == unit.active;
    let mut list: Vec<_> = status.units.iter().collect();
    list.sort_by_key(|unit| is_well(unit));
    html! {
        @if !list.is_empty() { section { h2 { "Units" } ul { @for unit in list {
            li { span class=(if is_well(unit) { "pill good" } else { "pill bad" }) { (unit.active) } " " b { (unit.name) } " "
                span class="soft" { (unit.sub) @if !is_well(unit) { ", wanted " (unit.wanted) } }
                @if !unit.image.is_empty() { div class="soft" { code { (unit.image) } } } }
        } } } }
    }
}

fn passes(status: &Status, ago: &dyn Fn(u64) -> String) -> Markup {
    let changes: Vec<_> = status.changes.iter().take(10).collect();
    html! {
        section { h2 { "Last passes" }
            (timeline(status.last_pass.as_ref(), &status.history, ago))
            @if !changes.is_empty() { details { summary { "Changes" } ul { @for line in changes { li {
                "generation " (line.generation) ", " code { (short(&line.revision)) } " " @match line.end {
                    trimtab_model::transaction::Ended::Committed => "put in force", trimtab_model::transaction::Ended::RolledBack => "undone", trimtab_model::transaction::Ended::Restored => "gone back to",
                } @if !line.reason.is_empty() { ": " (line.reason) }
                div class="soft" { (ago(line.at)) " ago" }
            } } } } }
        }
    }
}

fn past(status: &Status, ago: &dyn Fn(u64) -> String) -> Markup {
    html! {
        @if !status.past_drift.is_empty() { section { h2 { "Drift that passed" } details { summary { (status.past_drift.len()) } ul { @for drift in &status.past_drift { (one_drift(drift, ago)) } } } } }
    }
}

fn short(revision: &str) -> String {
    if revision.is_empty() { "none yet".to_owned() } else { revision.chars().take(12).collect() }
}

/// A digest in full helps nobody on a phone.
fn brief(value: &str) -> String {
    match value.strip_prefix("sha256:") {
        Some(hex) => format!("sha256:{}…", hex.chars().take(12).collect::<String>()),
        None => value.chars().take(200).collect(),
    }
}

fn ago(now: u64, then: u64) -> String {
    match now.saturating_sub(then) {
        seconds @ 0..=119 => format!("{seconds} s"),
        seconds @ 120..=7199 => format!("{} min", seconds / 60),
        seconds @ 7200..=172_799 => format!("{} h", seconds / 3600),
        seconds => format!("{} days", seconds / 86_400),
    }
}

/// How long until then; nothing is left of what is past.
fn ago_or_now(then: u64, now: u64) -> String {
    ago(then, now)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTILE: &str = "<script>alert(1)</script>\"><img src=x onerror=alert(2)>'&";

    /// A document in which every text is hostile.
    fn hostile() -> Status {
        fn spoil(value: &mut serde_json::Value) {
            match value {
                serde_json::Value::String(text) => *text = HOSTILE.to_owned(),
                serde_json::Value::Array(list) => list.iter_mut().for_each(spoil),
                serde_json::Value::Object(map) => map.values_mut().for_each(spoil),
                _ => {}
            }
        }
        let mut value: serde_json::Value =
            serde_json::from_str(include_str!("../../../../examples/monitoring/status.example.json")).unwrap();
        let mut status = serde_json::from_value::<Status>(value.clone()).unwrap();
        // Only what may be any text: the rest would not be a document.
        let loose = ["conditions", "units", "queue", "holds", "trust", "watch"];
        for key in loose {
            let before = value[key].clone();
            spoil(&mut value[key]);
            if key == "conditions" {
                for (one, was) in value[key].as_array_mut().unwrap().iter_mut().zip(before.as_array().unwrap()) {
                    (one["type"], one["status"]) = (was["type"].clone(), was["status"].clone());
                }
            }
        }
        for key in ["host", "reason", "lastAppliedRevision", "lastAttemptedRevision", "agentVersion", "device"] {
            value[key] = HOSTILE.into();
        }
        let spoilt: Status = serde_json::from_value(value).unwrap();
        let pass = status.last_pass.as_mut().unwrap();
        for text in [&mut pass.revision, &mut pass.source_error, &mut pass.trust.message, &mut pass.failures[0].message] {
            HOSTILE.clone_into(text);
        }
        pass.findings.list[0].message = HOSTILE.to_owned();
        pass.changes[1].resource = HOSTILE.to_owned();
        pass.changes[1].differs[0].found = HOSTILE.to_owned();
        status.drift[0].resource = HOSTILE.to_owned();
        status.drift[0].actor.as_mut().unwrap().command = HOSTILE.to_owned();
        status.changes[0].reason = HOSTILE.to_owned();
        status.denied[0].causes[0].message = HOSTILE.to_owned();
        Status { last_pass: status.last_pass, drift: status.drift, changes: status.changes, denied: status.denied, ..spoilt }
    }

    #[test]
    fn whatever_a_commit_or_a_program_said_is_text() {
        for page in [page(&hostile(), Some(HOSTILE), 1_795_264_860), empty(HOSTILE)] {
            assert!(page.contains("&lt;script&gt;alert(1)"), "it is told");
            for word in ["<script", "<img", "onerror=alert(2)>"] {
                assert!(!page.contains(word), "{word} in\n{page}");
            }
        }
    }

    #[test]
    fn the_page_fetches_nothing_and_runs_nothing() {
        let page = page(&hostile(), None, 0);
        for word in ["http://", "https://", "<script", "javascript:", "@import", "src="] {
            let rest = page.replace(ICON, "").replace("src=x", "");
            assert!(!rest.contains(word), "{word}");
        }
        assert!(policy().starts_with("default-src 'none'; style-src 'sha256-") && !policy().contains("unsafe"));
    }
}
