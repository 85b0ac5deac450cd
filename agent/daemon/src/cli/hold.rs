//! `suspend`, `resume`, `pin`, `unpin`, `holds`: what a person tells this host to leave alone, for a while.
//!
//! A running agent takes it at once, also in the middle of an outage: nothing is waited for but that it is written down. Where none runs it
//! is written down here, and the next one keeps to it.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

use clap::Args;
use trimtab_model::fleet::read::did_you_mean;
use trimtab_model::hold::{HOST, Held, HoldBook, LONGEST, MAX_PINS};
use trimtab_model::names::HostPath;

use super::ask::{agent_pid, error_code, reason, remembered};
use super::machine::Json;
use super::{complain, fail, print_json, say};
use crate::config::Places;
use crate::cycle::holds::clocks;
use crate::host::accounts::Accounts;
use crate::host::root::Root;
use crate::store::{Request, Store};

/// How long an agent may take to take a wish: a change that is being tried is brought to its end first.
const PATIENCE: Duration = Duration::from_secs(15 * 60);

/// Between two signals to an agent that has not taken the wish yet.
const AGAIN: Duration = Duration::from_secs(2);

/// Why and until when.
#[derive(Debug, Args)]
pub(super) struct While {
    /// Why: stands in every report until it is over.
    #[arg(long, value_name = "TEXT", value_parser = reason)]
    reason: String,
    /// Until when: a time from now such as `2h` or `3days`, or a date such as `2026-12-24T18:00:00+01:00` (without an offset, or without a
    /// time, in UTC). Ninety days at most.
    #[arg(long, value_name = "TIME")]
    until: String,
}

/// `trimtab suspend`.
#[derive(Debug, Args)]
pub(super) struct SuspendArgs {
    #[command(flatten)]
    bounds: While,
    #[command(flatten)]
    json: Json,
}

/// `trimtab pin`.
#[derive(Debug, Args)]
pub(super) struct PinArgs {
    /// What: `/etc/app.conf`, `app.service`, or as a plan names it (`"file /etc/app.conf"`, `"unit app.service"`).
    #[arg(value_name = "RESOURCE")]
    resource: String,
    #[command(flatten)]
    bounds: While,
    #[command(flatten)]
    json: Json,
}

/// `trimtab unpin`.
#[derive(Debug, Args)]
pub(super) struct UnpinArgs {
    /// What was pinned, as `trimtab holds` names it.
    #[arg(value_name = "RESOURCE")]
    resource: String,
    #[command(flatten)]
    json: Json,
}

pub(super) fn suspend(places: &Places, args: &SuspendArgs) -> ExitCode {
    match held(places, &args.bounds) {
        Ok(held) => done(places, &Request::Hold { name: HOST.to_owned(), held }, args.json),
        Err(code) => code,
    }
}

pub(super) fn resume(places: &Places, json: Json) -> ExitCode {
    // A book that cannot be read is replaced by an empty one.
    if current(places).is_ok_and(|book| book.holds.suspended.is_none()) {
        complain("this host is not suspended; `trimtab holds` lists what is pinned");
        return ExitCode::FAILURE;
    }
    done(places, &Request::Release { name: HOST.to_owned() }, json)
}

pub(super) fn pin(places: &Places, args: &PinArgs) -> ExitCode {
    let name = match resource(places, &args.resource) {
        Ok(name) => name,
        Err(code) => return code,
    };
    if current(places).is_ok_and(|book| book.holds.pins.len() >= MAX_PINS && !book.holds.pins.contains_key(&name)) {
        complain(&format!("{MAX_PINS} resources are pinned already, and more cannot be: `trimtab suspend` holds the whole host"));
        return ExitCode::FAILURE;
    }
    match held(places, &args.bounds) {
        Ok(held) => done(places, &Request::Hold { name, held }, args.json),
        Err(code) => code,
    }
}

pub(super) fn unpin(places: &Places, args: &UnpinArgs) -> ExitCode {
    let book = match current(places) {
        Ok(book) => book,
        Err(code) => return code,
    };
    let asked = args.resource.trim();
    let pinned: BTreeSet<String> = book.holds.pins.into_keys().collect();
    let Some(name) = find(asked, &pinned) else {
        let near = did_you_mean(asked, pinned.iter().flat_map(|name| [name.as_str(), bare(name)]));
        complain(format!("{asked} is not pinned; {near}").trim_end_matches([';', ' ']));
        return ExitCode::FAILURE;
    };
    done(places, &Request::Release { name }, args.json)
}

pub(super) fn holds(places: &Places, json: Json) -> ExitCode {
    match current(places) {
        Ok(book) => show(&book, json),
        Err(code) => code,
    }
}

/// What is held now, what has ended left out.
fn current(places: &Places) -> Result<HoldBook, ExitCode> {
    let load = || Store::look(places.store())?.load_holds();
    let mut book = load().map_err(|error| fail(&error, error_code(&error)))?;
    book.review(&clocks(&root(places)?));
    Ok(book)
}

fn root(places: &Places) -> Result<Root, ExitCode> {
    Root::open(&places.root).map_err(|error| fail(&error, 1))
}

fn show(book: &HoldBook, json: Json) -> ExitCode {
    if json.json {
        return print_json(&book.holds);
    }
    if book.holds.is_empty() {
        return say("Nothing is held: this host is kept as the repository says.\n");
    }
    let now = crate::cycle::now_ms() / 1000;
    let mut text = String::new();
    let suspended = book.holds.suspended.iter().map(|held| ("the whole host", held));
    for (name, held) in suspended.chain(book.holds.pins.iter().map(|(name, held)| (name.as_str(), held))) {
        let left = humantime::format_duration(Duration::from_secs(held.until.saturating_sub(now)));
        let _ = writeln!(text, "{name}\n    until {} ({left} more), said {}: {}", date(held.until), held.by, held.reason);
    }
    say(&text)
}

fn date(seconds: u64) -> String {
    humantime::format_rfc3339_seconds(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)).to_string()
}

fn held(places: &Places, bounds: &While) -> Result<Held, ExitCode> {
    let since = crate::cycle::now_ms() / 1000;
    let until = until(&bounds.until, since).map_err(|message| {
        complain(&message);
        ExitCode::from(64)
    })?;
    Ok(Held { reason: bounds.reason.clone(), since, until, by: by(&root(places)?) })
}

/// A time from now, or a date; seconds since 1970.
fn until(text: &str, now: u64) -> Result<u64, String> {
    let text = text.trim();
    let until = match humantime::parse_duration(text) {
        Ok(duration) => now.saturating_add(duration.as_secs()),
        Err(_) => at(text).ok_or_else(|| {
            format!("--until {text:?} is neither a time from now such as 2h or 3days nor a date such as 2026-12-24T18:00:00Z")
        })?,
    };
    if until <= now {
        return Err(format!("--until {text:?} is over already: it is {} now", date(now)));
    }
    if until - now > LONGEST {
        return Err(format!(
            "--until {text:?} is more than ninety days from now: what is held for longer belongs into the repository"
        ));
    }
    Ok(until)
}

/// RFC 3339, its offset too; a date alone is its begin.
fn at(text: &str) -> Option<u64> {
    let seconds = |text: &str| {
        let time = humantime::parse_rfc3339_weak(text).ok()?;
        time.duration_since(SystemTime::UNIX_EPOCH).ok().map(|since| since.as_secs())
    };
    if text.len() == 10 {
        return seconds(&format!("{text} 00:00:00"));
    }
    let sign = text.get(text.len().checked_sub(6)?..)?;
    let offset = |sign: &str| {
        let (hours, minutes) = sign.get(1..)?.split_once(':')?;
        let (hours, minutes) = (hours.parse::<u64>().ok()?, minutes.parse::<u64>().ok()?);
        (hours < 24 && minutes < 60).then_some(hours * 3600 + minutes * 60)
    };
    match sign.as_bytes().first() {
        Some(b'+') => seconds(&format!("{}Z", &text[..text.len() - 6]))?.checked_sub(offset(sign)?),
        // A date has dashes as well, but no time follows them.
        Some(b'-') if text.contains(':') => seconds(&format!("{}Z", &text[..text.len() - 6]))?.checked_add(offset(sign)?),
        _ => seconds(text),
    }
}

/// Who says so: who logged in, where the kernel knows (sudo does not hide it), else as whom this runs.
fn by(root: &Root) -> String {
    let login = std::fs::read_to_string("/proc/self/loginuid").ok().and_then(|text| text.trim().parse::<u32>().ok());
    let uid = login.filter(|uid| *uid != u32::MAX).unwrap_or_else(|| nix::unistd::getuid().as_raw());
    Accounts::load(root).user_name(uid).unwrap_or_else(|| uid.to_string())
}

/// The name of a managed resource, as plans write it.
fn resource(places: &Places, asked: &str) -> Result<String, ExitCode> {
    let asked = asked.trim();
    let (store, ledger) = remembered(places).map_err(|error| fail(&error, error_code(&error)))?;
    let desired = store.load_generation(ledger.generation).ok().flatten().map(|generation| generation.desired).unwrap_or_default();
    let files = ledger.entries.keys().chain(desired.entries.keys()).map(|path| format!("file {path}"));
    let units = ledger.units.keys().chain(desired.units.keys()).map(|unit| format!("unit {unit}"));
    let managed: BTreeSet<String> = files.chain(units).collect();
    if let Some(name) = find(asked, &managed) {
        return Ok(name);
    }
    // What nobody declared, in a directory where that is told or purged.
    let path = bare(asked).parse::<HostPath>().ok();
    if let Some(path) = path.filter(|path| path.parent().is_some_and(|folder| desired.exclusive.contains_key(&folder))) {
        return Ok(format!("file {path}"));
    }
    let near = did_you_mean(asked, managed.iter().flat_map(|name| [name.as_str(), bare(name)]));
    let near = if near.is_empty() { "`trimtab status` tells what is managed".to_owned() } else { near };
    complain(&format!("{asked} is not managed on this host: there is nothing to pin; {near}"));
    Err(ExitCode::FAILURE)
}

/// A resource by its name, with or without its kind; a service also without its ending.
fn find(asked: &str, names: &BTreeSet<String>) -> Option<String> {
    let forms = [asked.to_owned(), format!("file {asked}"), format!("unit {asked}"), format!("unit {asked}.service")];
    forms.into_iter().find(|form| names.contains(form))
}

fn bare(name: &str) -> &str {
    name.strip_prefix("file ").or_else(|| name.strip_prefix("unit ")).unwrap_or(name)
}

fn done(places: &Places, request: &Request, json: Json) -> ExitCode {
    if let Err(code) = deliver(places, request) {
        return code;
    }
    let book = match current(places) {
        Ok(book) => book,
        Err(code) => return code,
    };
    if !is_in(&book, request) {
        complain("it was not written down; `journalctl -u trimtab` and `trimtab status` tell why");
        return ExitCode::FAILURE;
    }
    show(&book, json)
}

/// Hands the wish to the agent that runs, or writes it down where none does.
fn deliver(places: &Places, request: &Request) -> Result<(), ExitCode> {
    let deadline = Instant::now() + PATIENCE;
    let Some(pid) = agent_pid(places, deadline) else { return write_down(places, request) };
    let left = request.leave(&places.store()).map_err(|error| fail(&error, 1))?;
    let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap_or(0));
    let mut asked: Option<Instant> = None;
    while left.exists() {
        if asked.is_none_or(|asked| asked.elapsed() > AGAIN) {
            asked = Some(Instant::now());
            if let Err(error) = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGHUP) {
                let _ = std::fs::remove_file(&left);
                complain(&format!("the agent (process {pid}) cannot be asked: {error}; try again"));
                return Err(ExitCode::from(75));
            }
        }
        if Instant::now() > deadline {
            complain(
                "the agent is still at work with something else, and takes this when that has ended; `trimtab holds` tells when",
            );
            return Err(ExitCode::from(75));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    // Taken away first, then written down.
    for _ in 0..200 {
        if current(places).is_ok_and(|book| is_in(&book, request)) {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// Whether the book says what was asked for: this very hold, not one that was there before.
fn is_in(book: &HoldBook, request: &Request) -> bool {
    match request {
        Request::Hold { name, held } if name == HOST => book.holds.suspended.as_ref() == Some(held),
        Request::Hold { name, held } => book.holds.pins.get(name) == Some(held),
        Request::Release { name } if name == HOST => book.holds.suspended.is_none(),
        Request::Release { name } => !book.holds.pins.contains_key(name),
        _ => true,
    }
}

fn write_down(places: &Places, request: &Request) -> Result<(), ExitCode> {
    let failed = |error: crate::store::StoreError| fail(&error, if error.must_halt() { 78 } else { 75 });
    let mut store = Store::open(places.store()).map_err(failed)?;
    let now = clocks(&root(places)?);
    // What cannot be read is replaced: a person says anew what is to be held.
    let mut book = store.load_holds().unwrap_or_default();
    book.review(&now);
    match request {
        Request::Hold { name, held } => drop(book.hold(name, held.clone(), &now)),
        Request::Release { name } => drop(book.release(name)),
        _ => {}
    }
    store.save_holds(&book).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_from_now_or_dates_and_bounded() {
        let now = at("2026-11-21T12:00:00Z").unwrap();
        for (text, seconds) in [
            ("2h", 7200),
            ("3days", 3 * 86_400),
            ("2026-11-21T14:00:00Z", 7200),
            ("2026-11-21T14:00:00+01:00", 3600),
            ("2026-11-21T12:00:00-00:30", 1800),
            ("2026-11-21 13:00:00", 3600),
            ("2026-11-22", 43_200),
            ("90days", LONGEST),
        ] {
            assert_eq!(until(text, now).map(|until| until - now), Ok(seconds), "{text}");
        }
        for (text, says) in [
            ("tomorrow", "neither"),
            ("", "neither"),
            ("2026-13-01", "neither"),
            ("2026-11-21T14:00:00+25:00", "neither"),
            ("0s", "over already"),
            ("2026-11-21T11:59:59Z", "over already"),
            ("91days", "ninety days"),
            ("5000years", "ninety days"),
        ] {
            let error = until(text, now).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn resources_are_found_by_any_of_their_names() {
        let names = BTreeSet::from(["file /etc/a".to_owned(), "unit a.service".to_owned()]);
        for (asked, found) in [
            ("file /etc/a", Some("file /etc/a")),
            ("/etc/a", Some("file /etc/a")),
            ("a.service", Some("unit a.service")),
            ("unit a.service", Some("unit a.service")),
            ("a", Some("unit a.service")),
            ("b", None),
            ("", None),
        ] {
            assert_eq!(find(asked, &names).as_deref(), found, "{asked}");
        }
    }
}
