//! The commands that touch this machine: `agent`, `once`, `plan`, `sync`.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use trimtab_model::report::{Outcome, Pass, Status, Wake};

use super::{color, complain, fail, print_json, say, status};
use crate::config::Places;
use crate::cycle::{Cycle, Hold, OpenError};
use crate::log;
use crate::trust::keys::TrustFileError;

/// `--json`, for every command that a script reads.
#[derive(Debug, Clone, Copy, Args)]
pub(super) struct Json {
    /// Answer in JSON.
    #[arg(long)]
    pub(super) json: bool,
}

/// `trimtab plan`.
#[derive(Debug, Args)]
pub(super) struct PlanArgs {
    /// Answer in JSON: the pass as `once --json` tells it, not carried out, and its steps.
    #[arg(long)]
    json: bool,
    /// Do not ask the source: what differs from the last accepted revision (drift).
    #[arg(long)]
    offline: bool,
}

/// `trimtab sync`.
#[derive(Debug, Args)]
pub(super) struct SyncArgs {
    /// Answer in JSON: the pass.
    #[arg(long)]
    json: bool,
    /// How long to wait for the pass to end.
    #[arg(long, value_name = "TIME", default_value = "15min", value_parser = humantime::parse_duration)]
    timeout: Duration,
}

pub(super) fn block_on<T>(work: impl Future<Output = T>) -> std::io::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let value = runtime.block_on(work);
    // A fetch may still wait for a server; its courier ends with us.
    runtime.shutdown_background();
    Ok(value)
}

fn refuse(error: &OpenError) -> ExitCode {
    if let OpenError::Trust(TrustFileError::Content(findings)) = error {
        complain(&findings.draw(false));
        return ExitCode::from(error.exit_code());
    }
    fail(error, error.exit_code())
}

pub(super) fn agent(places: &Places) -> ExitCode {
    log::start(log::Audience::Journal);
    let ended = block_on(async {
        let mut cycle = Cycle::open(places, Hold::Agent)?;
        Ok::<_, OpenError>(crate::run::run(&mut cycle).await)
    });
    match ended {
        Ok(Ok(Ok(crate::run::End::Asked))) => ExitCode::SUCCESS,
        // Nobody ended it: systemd starts the new one all the same, by Restart=.
        Ok(Ok(Ok(crate::run::End::Replaced))) => ExitCode::from(75),
        Ok(Ok(Ok(crate::run::End::Halted))) => ExitCode::from(78),
        Ok(Ok(Err(error))) | Err(error) => fail(&error, 1),
        Ok(Err(error)) => refuse(&error),
    }
}

pub(super) fn once(places: &Places, json: Json) -> ExitCode {
    log::start(log::Audience::Person);
    let passed = block_on(async {
        let mut cycle = Cycle::open(places, Hold::Once)?;
        Ok::<_, OpenError>(cycle.pass(Wake::Asked, true).await)
    });
    match passed {
        Ok(Ok(pass)) => answer(&pass, json.json),
        Ok(Err(error)) => refuse(&error),
        Err(error) => fail(&error, 1),
    }
}

fn answer(pass: &Pass, json: bool) -> ExitCode {
    if json {
        print_json(pass);
    } else {
        let mut text = format!("{}: {} ({} ms)\n", pass.outcome.word(), pass.reason(), pass.duration_ms);
        for change in &pass.changes {
            let word = |value: &dyn erased::Word| value.word();
            text.push_str(&format!("  {} {} ({})\n", word(&change.verb), change.resource, word(&change.cause)));
        }
        status::details(pass, &mut text);
        say(&text);
    }
    exit_of(pass.outcome)
}

/// The kebab-case words of the model's enums, as JSON writes them.
mod erased {
    pub(super) trait Word {
        fn word(&self) -> String;
    }
    impl<T: serde::Serialize> Word for T {
        fn word(&self) -> String {
            serde_json::to_value(self).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
        }
    }
}

fn exit_of(outcome: Outcome) -> ExitCode {
    match outcome {
        Outcome::Unchanged => ExitCode::SUCCESS,
        Outcome::Converged | Outcome::Planned => ExitCode::from(2),
        Outcome::Unreachable | Outcome::Partial | Outcome::Held => ExitCode::FAILURE,
        Outcome::RolledBack => ExitCode::from(3),
        Outcome::Degraded => ExitCode::from(4),
        Outcome::Halted => ExitCode::from(78),
    }
}

pub(super) fn plan(places: &Places, args: &PlanArgs) -> ExitCode {
    log::start(log::Audience::Person);
    let looked = block_on(async {
        let mut cycle = Cycle::open(places, Hold::ReadOnly)?;
        let looked = cycle.look(!args.offline).await;
        let shown = if args.json { String::new() } else { cycle.show(&looked, color()) };
        Ok::<_, OpenError>((looked, shown))
    });
    let (looked, shown) = match looked {
        Ok(Ok(looked)) => looked,
        Ok(Err(error)) => return refuse(&error),
        Err(error) => return fail(&error, 1),
    };
    if args.json {
        let mut document = serde_json::to_value(&looked.pass).expect("because plain data with string keys always serialises");
        document["steps"] =
            serde_json::to_value(&looked.plan.steps).expect("because plain data with string keys always serialises");
        print_json(&document);
    } else {
        let mut text = shown;
        status::details(&Pass { problems: Vec::new(), ..looked.pass.clone() }, &mut text);
        say(&text);
    }
    // Without a revision nothing was compared: that is no "nothing to do".
    if !looked.plan.problems.is_empty() || looked.wanted.is_none() {
        return ExitCode::from(if looked.pass.outcome == Outcome::Halted { 78 } else { 1 });
    }
    exit_of(looked.pass.outcome)
}

pub(super) fn facts(places: &Places) -> ExitCode {
    match crate::host::root::Root::open(&places.root) {
        Ok(root) => print_json(&crate::host::facts::gather(&root)),
        Err(error) => fail(&error, 1),
    }
}

pub(super) fn sync(places: &Places, args: &SyncArgs) -> ExitCode {
    use std::io::IsTerminal as _;
    let begun = Instant::now();
    let deadline = begun + args.timeout;
    let Some(before) = first_status(places, deadline) else {
        complain("no agent is running: `systemctl start trimtab`, or make a single pass with `trimtab once`");
        return ExitCode::from(75);
    };
    // A pass that was running when the signal came looked at the repository before: it is not the answer.
    let asked = crate::cycle::now_ms();
    let pid = nix::unistd::Pid::from_raw(i32::try_from(before.agent_pid).unwrap_or(0));
    if let Err(error) = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGHUP) {
        complain(&format!("the agent (process {pid}) cannot be asked: {error}"));
        return ExitCode::FAILURE;
    }
    let known = before.last_pass.map_or(0, |pass| pass.number);
    let mut remark = std::io::stderr().is_terminal();
    while Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
        if remark && begun.elapsed() > Duration::from_secs(3) {
            remark = false;
            eprintln_quietly("the pass goes on; `journalctl -fu trimtab` tells what it does");
        }
        if !status::is_trimtab(before.agent_pid) {
            complain("the agent ended before the pass did: `systemctl status trimtab` tells why; systemd starts it again");
            return ExitCode::from(75);
        }
        let Ok(status) = status::read(places) else { continue };
        if let Some(pass) = status.last_pass
            && pass.number > known
            && pass.wake == Wake::Asked
            && pass.started_ms >= asked
        {
            // For `sync && …`: what was asked for is a host that is as the repository says, whether or not that took a change.
            let code = answer(&pass, args.json);
            return if pass.outcome.is_ready() { ExitCode::SUCCESS } else { code };
        }
    }
    complain(&format!(
        "no pass ended within {}; `journalctl -u trimtab` tells what it is doing",
        humantime::format_duration(args.timeout)
    ));
    ExitCode::from(75)
}

/// A remark to the person who waits. That it cannot be written is no reason to end.
fn eprintln_quietly(text: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// The status of the running agent; one that has just started is waited for, its first pass has not ended yet. `None`: none runs.
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
