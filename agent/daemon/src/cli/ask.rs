//! Asking for a pass and waiting for its end: `sync`, and what a person asks for by name: `rollback`, `retry`, `approve`.
//!
//! A running agent makes the pass: it is left a note in the store and woken. Where none runs, this process makes it.

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use trimtab_model::ledger::Ledger;
use trimtab_model::report::{Outcome, Pass, Wake};
use trimtab_model::status::Status;

use super::machine::{answer, block_on, exit_of, refuse};
use super::{complain, fail, say, status};
use crate::config::Places;
use crate::cycle::{Cycle, Hold, OpenError};
use crate::log;
use crate::store::{Request, Store, StoreError};

/// How a command that waits for a pass answers.
#[derive(Debug, Clone, Copy, Args)]
pub(super) struct Wait {
    /// Answer in JSON: the pass.
    #[arg(long)]
    pub(super) json: bool,
    /// How long to wait for the pass to end.
    #[arg(long, value_name = "TIME", default_value = "15min", value_parser = humantime::parse_duration)]
    pub(super) timeout: Duration,
}

/// `trimtab rollback`.
#[derive(Debug, Args)]
pub(super) struct RollbackArgs {
    /// The generation, as `trimtab history` numbers it; the one that was in force before if none is given.
    #[arg(value_name = "GEN", value_parser = clap::value_parser!(u64).range(1..))]
    generation: Option<u64>,
    /// Why: stands in the history and in every report until a newer revision comes.
    #[arg(long, value_name = "TEXT", value_parser = reason)]
    reason: String,
    #[command(flatten)]
    wait: Wait,
}

/// `trimtab retry`.
#[derive(Debug, Args)]
pub(super) struct RetryArgs {
    /// The commit or the begin of it; everything that is denied if none is given.
    #[arg(value_name = "REV", value_parser = revision)]
    revision: Option<String>,
    #[command(flatten)]
    wait: Wait,
}

/// `trimtab approve`.
#[derive(Debug, Args)]
pub(super) struct ApproveArgs {
    /// The commit or the begin of it, at least seven digits.
    #[arg(value_name = "REV", value_parser = revision)]
    revision: String,
    #[command(flatten)]
    wait: Wait,
}

/// A commit, or the begin of one that is long enough to mean one.
fn revision(text: &str) -> Result<String, String> {
    let is_hex = text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_hex && (7..=64).contains(&text.len()) {
        return Ok(text.to_ascii_lowercase());
    }
    Err("a revision is a commit, or the first seven or more hexadecimal digits of one".to_owned())
}

/// A line that a person will read in a year.
pub(super) fn reason(text: &str) -> Result<String, String> {
    let text = text.trim();
    match text.chars().count() {
        0 => Err("say why: who finds this host so in a year must understand it".to_owned()),
        1..=500 if !text.chars().any(char::is_control) => Ok(text.to_owned()),
        _ => Err("a reason is one line of 500 characters at most".to_owned()),
    }
}

pub(super) fn sync(places: &Places, wait: Wait) -> ExitCode {
    let deadline = Instant::now() + wait.timeout;
    let Some(mut agent) = Agent::running(places, deadline) else {
        complain("no agent is running: `systemctl start trimtab`, or make a single pass with `trimtab once`");
        return ExitCode::from(75);
    };
    match agent.pass(places, deadline, wait.timeout) {
        Ok(pass) => ready(&pass, wait.json),
        Err(code) => code,
    }
}

/// For `sync && …`: what was asked for is a host that is as the repository says, whether or not that took a change.
fn ready(pass: &Pass, json: bool) -> ExitCode {
    let code = answer(pass, json);
    if pass.outcome.is_ready() { ExitCode::SUCCESS } else { code }
}

pub(super) fn rollback(places: &Places, args: &RollbackArgs) -> ExitCode {
    let number = match target(places, args.generation) {
        Ok(number) => number,
        Err(code) => return code,
    };
    let request = Request::Rollback { generation: Some(number), reason: args.reason.clone() };
    let pass = match fulfil(places, &request, args.wait) {
        Ok(pass) => pass,
        Err(code) => return code,
    };
    answer(&pass, args.wait.json);
    if pass.generation != number {
        complain(&format!("generation {number} is not in force, generation {} is", pass.generation));
        let code = exit_of(pass.outcome);
        return if [0, 2].map(ExitCode::from).contains(&code) { ExitCode::FAILURE } else { code };
    }
    if !pass.outcome.is_ready() {
        complain(&format!("generation {number} is in force, but not all of it is in place; each pass tries the rest again"));
        return exit_of(pass.outcome);
    }
    if !args.wait.json {
        say(&format!(
            "Generation {number} is in force. The revision that was left is not tried again by itself; a newer one is (or `trimtab retry`).\n"
        ));
    }
    ExitCode::SUCCESS
}

/// The generation to go back to, refused here and now where that is certain to fail.
fn target(places: &Places, asked: Option<u64>) -> Result<u64, ExitCode> {
    let (store, ledger) = remembered(places).map_err(|error| fail(&error, error_code(&error)))?;
    let kept = store.generations().map_err(|error| fail(&error, 1))?;
    let refuse = |message: String| {
        complain(&message);
        Err(ExitCode::FAILURE)
    };
    let before = ledger.before(|number| kept.contains_key(&number));
    match asked.or(before) {
        None => refuse("there is no older generation to go back to; `trimtab history` lists what is kept".to_owned()),
        Some(number) if number == ledger.generation && ledger.trial.is_none() => {
            refuse(format!("generation {number} is in force already"))
        }
        Some(number) if !kept.contains_key(&number) => {
            let list: Vec<String> = kept.keys().map(u64::to_string).collect();
            refuse(format!("generation {number} is not kept (any more); kept are: {}", list.join(", ")))
        }
        Some(number) => Ok(number),
    }
}

pub(super) fn retry(places: &Places, args: &RetryArgs) -> ExitCode {
    let ledger = match remembered(places) {
        Ok((_, ledger)) => ledger,
        Err(error) => return fail(&error, error_code(&error)),
    };
    let is_meant = |revision: &str| args.revision.as_deref().is_none_or(|begin| revision.starts_with(begin));
    if !ledger.denied.iter().any(|denied| is_meant(&denied.revision)) {
        let denied: Vec<String> = ledger.denied.iter().map(|denied| short(&denied.revision)).collect();
        let Some(revision) = args.revision.as_ref().filter(|_| !denied.is_empty()) else {
            complain("nothing is denied on this host: there is nothing to try again");
            return ExitCode::FAILURE;
        };
        complain(&format!("revision {revision} is not denied on this host; denied are: {}", denied.join(", ")));
        return ExitCode::FAILURE;
    }
    match fulfil(places, &Request::Retry { revision: args.revision.clone() }, args.wait) {
        Ok(pass) => ready(&pass, args.wait.json),
        Err(code) => code,
    }
}

pub(super) fn approve(places: &Places, args: &ApproveArgs) -> ExitCode {
    let request = Request::Approve { revision: args.revision.clone() };
    let pass = match fulfil(places, &request, args.wait) {
        Ok(pass) => pass,
        Err(code) => return code,
    };
    // A process that ends forgets what it was allowed; the next one finds it.
    if pass.outcome == Outcome::Unreachable && Agent::running(places, Instant::now()).is_none() {
        if let Err(error) = request.leave(&places.store()) {
            return fail(&error, 1);
        }
        complain("the source was not reached; the approval is kept for the next pass (`trimtab once`, or the agent's start)");
        answer(&pass, args.wait.json);
        return ExitCode::from(75);
    }
    ready(&pass, args.wait.json)
}

/// What the store knows, without holding it.
pub(super) fn remembered(places: &Places) -> Result<(Store, Ledger), StoreError> {
    let store = Store::look(places.store())?;
    let ledger = store.load_ledger()?.ledger;
    Ok((store, ledger))
}

/// 78 where a person must look at the memory of the host.
pub(super) fn error_code(error: &StoreError) -> u8 {
    if error.must_halt() { 78 } else { 1 }
}

/// The first digits of a commit or digest, as people name it.
pub(super) fn short(revision: &str) -> String {
    revision.chars().take(12).collect()
}

/// Has the pass made that takes the request.
fn fulfil(places: &Places, request: &Request, wait: Wait) -> Result<Pass, ExitCode> {
    if Agent::running(places, Instant::now() + wait.timeout).is_some() {
        return by_agent(places, request, wait);
    }
    log::start(log::Audience::Person);
    match block_on(alone(places, request)) {
        Ok(Ok(pass)) => Ok(pass),
        Ok(Err(error)) => Err(refuse(&error)),
        Err(error) => Err(fail(&error, 1)),
    }
}

/// Has the running agent make the pass that takes the request.
pub(super) fn by_agent(places: &Places, request: &Request, wait: Wait) -> Result<Pass, ExitCode> {
    let deadline = Instant::now() + wait.timeout;
    let Some(mut agent) = Agent::running(places, deadline) else {
        complain("the agent ended meanwhile: try again");
        return Err(ExitCode::from(75));
    };
    let left = request.leave(&places.store()).map_err(|error| fail(&error, 1))?;
    // A pass that goes on with an unfinished change takes no request: the one after it does.
    loop {
        let pass = agent.pass(places, deadline, wait.timeout);
        if pass.is_ok() && left.exists() {
            continue;
        }
        // A stick may be out of its slot by the time a pass takes it that nobody waits for.
        if pass.is_err() && matches!(request, Request::Bundle { .. }) {
            withdraw(&left);
        }
        return pass;
    }
}

async fn alone(places: &Places, request: &Request) -> Result<Pass, OpenError> {
    // Held before it is asked for: what is refused here must not be done by an agent that starts tomorrow.
    let mut cycle = Cycle::open(places, Hold::Once)?;
    let left = request.leave(&places.store())?;
    let mut pass = cycle.pass(Wake::Asked, true).await;
    if left.exists() {
        pass = cycle.pass(Wake::Asked, true).await;
    }
    withdraw(&left);
    Ok(pass)
}

fn withdraw(left: &Path) {
    // It was taken, as a rule.
    let _ = std::fs::remove_file(left);
}

/// An agent that runs, and the last of its passes that is known.
pub(super) struct Agent {
    pid: u32,
    known: u64,
}

impl Agent {
    /// The running agent; one that has just started is waited for, its first pass has not ended yet. `None`: none runs.
    pub(super) fn running(places: &Places, deadline: Instant) -> Option<Self> {
        let status = first_status(places, deadline)?;
        Some(Self { pid: status.agent_pid, known: status.last_pass.map_or(0, |pass| pass.number) })
    }

    /// Wakes it and waits for the end of the pass that it makes for that; an exit code when there is none.
    pub(super) fn pass(&mut self, places: &Places, deadline: Instant, timeout: Duration) -> Result<Pass, ExitCode> {
        use std::io::IsTerminal as _;
        let begun = Instant::now();
        // A pass that was running when the signal came looked at the repository before: it is not the answer.
        let asked = crate::cycle::now_ms();
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.pid).unwrap_or(0));
        if let Err(error) = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGHUP) {
            complain(&format!("the agent (process {pid}) cannot be asked: {error}"));
            return Err(ExitCode::FAILURE);
        }
        let mut remark = std::io::stderr().is_terminal();
        while Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
            if remark && begun.elapsed() > Duration::from_secs(3) {
                remark = false;
                eprintln_quietly("the pass goes on; `journalctl -fu trimtab` tells what it does");
            }
            if !status::is_trimtab(self.pid) {
                complain("the agent ended before the pass did: `systemctl status trimtab` tells why; systemd starts it again");
                return Err(ExitCode::from(75));
            }
            let Ok(status) = status::read(places) else { continue };
            if let Some(pass) = status.last_pass
                && pass.number > self.known
                && pass.wake.is_asked()
                && pass.started_ms >= asked
            {
                self.known = pass.number;
                return Ok(pass);
            }
        }
        complain(&format!(
            "no pass ended within {}; `journalctl -u trimtab` tells what it is doing",
            humantime::format_duration(timeout)
        ));
        Err(ExitCode::from(75))
    }
}

/// A remark to the person who waits. That it cannot be written is no reason to end.
fn eprintln_quietly(text: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// The process of the running agent, if one runs.
pub(super) fn agent_pid(places: &Places, deadline: Instant) -> Option<u32> {
    first_status(places, deadline).map(|status| status.agent_pid)
}

fn first_status(places: &Places, deadline: Instant) -> Option<Status> {
    let holder = || -> Option<u32> {
        let text = std::fs::read_to_string(places.store().state.join("lock")).ok()?;
        text.split_whitespace().find_map(|word| word.parse().ok()).filter(|pid| status::is_trimtab(*pid))
    };
    loop {
        if let Some(status) = status::read(places).ok().filter(|status| status::is_trimtab(status.agent_pid)) {
            return Some(status);
        }
        holder()?;
        if Instant::now() > deadline {
            return None;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
