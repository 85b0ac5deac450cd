//! `trimtab uninstall`: leave this host, with what it manages in place or given back.
//!
//! The package is the package manager's; what is removed here is what trimtab made while it ran. Nothing is forgotten before all of it is
//! given back: what cannot be stays known, so that it can be tried again.

use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use trimtab_model::names::UnitName;
use trimtab_model::plan::Verb;
use trimtab_model::report::Pass;

use super::ask::remembered;
use super::machine::{block_on, refuse};
use super::{complain, fail, say, status};
use crate::config::Places;
use crate::cycle::{Cycle, Hold, OpenError};
use crate::host::units::{BootState, JobVerb, Systemd, UnitError};
use crate::log::{self, chain};
use crate::store::Store;

/// `trimtab uninstall`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("what").required(true).args(["keep", "remove"]))]
pub(super) struct UninstallArgs {
    /// Leave everything that is managed as it is; only what trimtab remembers goes, originals that it kept among it.
    #[arg(long)]
    keep: bool,
    /// Give everything back first: originals come back, units are stopped and removed, files and made directories go.
    #[arg(long)]
    remove: bool,
    /// Also how this host was enrolled: agent.toml, trust.toml, the device's key, and /etc/trimtab when nothing else is in it.
    #[arg(long)]
    purge: bool,
    /// Do not ask.
    #[arg(long, short)]
    yes: bool,
}

/// The units of this program, in the order in which they are stopped.
const UNITS: [&str; 3] = ["trimtab.service", "trimtab-courier.socket", "trimtab-status.socket"];
/// How long one of them may take to stop.
const PATIENCE: Duration = Duration::from_secs(120);

pub(super) fn run(places: &Places, args: &UninstallArgs) -> ExitCode {
    log::start(log::Audience::Person);
    if !args.yes && !std::io::stdin().is_terminal() {
        complain(
            "this is not a terminal, so nobody can be asked: add --yes if it is meant (`trimtab uninstall --help` says what it does)",
        );
        return ExitCode::from(64);
    }
    let shown = if args.remove { what_leaves(places) } else { Ok(what_stays(places)) };
    let text = match shown {
        Ok(text) => text,
        Err(code) => return code,
    };
    say(&(text + &what_is_forgotten(places, args.purge)));
    if !args.yes && !is_meant() {
        complain("nothing was changed");
        return ExitCode::FAILURE;
    }
    let stopped = if places.is_sandbox() { Ok(Ok(())) } else { block_on(stop()) };
    match stopped {
        Ok(Ok(())) => {}
        Ok(Err(error)) => return fail(&error, 1),
        Err(error) => return fail(&error, 1),
    }
    if args.remove { remove(places, args.purge) } else { keep(places, args.purge) }
}

fn what_leaves(places: &Places) -> Result<String, ExitCode> {
    let looked = block_on(async {
        let mut cycle = Cycle::open(places, Hold::ReadOnly)?;
        Ok::<_, OpenError>(cycle.look_at_leaving().await)
    });
    let pass = match looked {
        Ok(Ok(looked)) => looked.pass,
        Ok(Err(error)) => return Err(refuse(&error)),
        Err(error) => return Err(fail(&error, 1)),
    };
    let mut text = "This is given back:\n".to_owned();
    for change in &pass.changes {
        let word = match change.verb {
            Verb::Restore => "restore what was there before:",
            Verb::Remove => "remove",
            Verb::Stop => "stop",
            Verb::Start => "start again",
            Verb::Enable => "enable again",
            Verb::Disable => "disable",
            Verb::Mask => "mask again",
            Verb::Unmask => "unmask",
            Verb::Create | Verb::Update | Verb::Pull | Verb::Restart | Verb::Reload => "change",
        };
        let _ = writeln!(text, "  {word} {}", change.resource);
    }
    if pass.changes.is_empty() {
        text.push_str("  nothing: nothing is managed\n");
    }
    for problem in &pass.problems {
        let _ = writeln!(text, "  NOT {}: {}", problem.resource, problem.message);
    }
    Ok(text)
}

/// Also with a memory that cannot be read: that may be why somebody leaves.
fn what_stays(places: &Places) -> String {
    match remembered(places) {
        Ok((_, ledger)) => {
            let (files, units) = (ledger.entries.len(), ledger.units.len());
            format!(
                "{files} files and {units} units stay as they are, and are nobody's from now on.\nOriginals that trimtab replaced are \
                 forgotten; `trimtab backups` has them until then.\n"
            )
        }
        Err(error) => format!("What is managed stays as it is ({}).\n", chain(&error)),
    }
}

fn what_is_forgotten(places: &Places, purge: bool) -> String {
    let mut text = "This is removed:\n".to_owned();
    for path in memory(places).into_iter().chain(enrolment(places).into_iter().filter(|_| purge)).filter(|path| path.exists()) {
        let _ = writeln!(text, "  {}", path.display());
    }
    if !places.is_sandbox() {
        let _ = writeln!(text, "{} are stopped and disabled.", UNITS.join(", "));
    }
    text
}

fn is_meant() -> bool {
    let mut err = std::io::stderr().lock();
    let _ = write!(err, "Go on? [y/N] ").and_then(|()| err.flush());
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).is_ok() && matches!(line.trim(), "y" | "Y" | "yes")
}

/// Stops the agent and its socket, now and at boot. Units that are not there need not be stopped.
async fn stop() -> Result<(), UnitError> {
    let Some(systemd) = Systemd::of_this_machine() else { return Ok(()) };
    for name in UNITS {
        let unit: UnitName = name.parse().expect("because it is the name of a unit");
        if systemd.look(&unit).await?.load == "not-found" {
            continue;
        }
        systemd.job(JobVerb::Stop, &unit, PATIENCE).await?;
        systemd.boot_state(&unit, BootState::Disabled).await?;
    }
    systemd.daemon_reload().await
}

fn remove(places: &Places, purge: bool) -> ExitCode {
    let ended = block_on(async {
        let mut cycle = Cycle::open(places, Hold::Once)?;
        let (pass, gone) = cycle.leave().await;
        // Under the lock: no agent can start between the two.
        let forgotten = if gone { forget(places, purge) } else { Vec::new() };
        Ok::<_, OpenError>((pass, gone, forgotten))
    });
    match ended {
        Ok(Ok((_, true, left))) => end(places, purge, &left, "Everything was given back"),
        Ok(Ok((pass, false, _))) => not_all(places, &pass),
        Ok(Err(error)) => refuse(&error),
        Err(error) => fail(&error, 1),
    }
}

fn not_all(places: &Places, pass: &Pass) -> ExitCode {
    let mut text = String::new();
    status::details(pass, &mut text);
    say(&text);
    let again = if places.is_sandbox() { "" } else { ", or take the host over again with `systemctl enable --now trimtab`" };
    complain(&format!(
        "not everything could be given back, so what trimtab knows of this host stays in {}: put the above right and run this again{again}",
        places.store().state.display()
    ));
    ExitCode::FAILURE
}

fn keep(places: &Places, purge: bool) -> ExitCode {
    // Whoever holds it is still at work.
    let held = match Store::open(places.store()) {
        Ok(store) => Some(store),
        Err(error @ crate::store::StoreError::Locked { .. }) => return fail(&error, 75),
        // It is about to be removed anyway.
        Err(_) => None,
    };
    let left = forget(places, purge);
    drop(held);
    end(places, purge, &left, "What was managed stays as it is")
}

fn end(places: &Places, purge: bool, left: &[String], what: &str) -> ExitCode {
    if !left.is_empty() {
        complain(&format!("{what}, but this could not be removed: {}", left.join("; ")));
        return ExitCode::FAILURE;
    }
    let mut text = format!("{what}, and trimtab remembers nothing of this host.\n");
    let stays: Vec<String> = enrolment(places).iter().filter(|path| path.exists()).map(|path| path.display().to_string()).collect();
    if !stays.is_empty() {
        let why = if purge { "other files are in it" } else { "--purge removes it" };
        let _ = writeln!(text, "{} stays: {why}.", stays.join(" and "));
    }
    if !places.is_sandbox() {
        text.push_str("The package is the package manager's: `apt purge trimtab` or `dnf remove trimtab`.\n");
    }
    say(&text)
}

/// What trimtab made while it ran.
fn memory(places: &Places) -> [PathBuf; 5] {
    let store = places.store();
    [store.state, store.trust_copy, places.cache(), places.applying(), store.runtime]
}

fn enrolment(places: &Places) -> Vec<PathBuf> {
    let folder = places.agent_toml().parent().map(PathBuf::from);
    let files = [places.agent_toml(), places.trust_toml(), places.root_toml(), places.device_key(), places.device_pub()];
    files.into_iter().filter(|file| file.exists()).chain(folder).collect()
}

/// What could not be removed, and why.
fn forget(places: &Places, purge: bool) -> Vec<String> {
    let mut left = Vec::new();
    let mut told = |path: PathBuf, ended: std::io::Result<()>| match ended {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => left.push(format!("{}: {error}", path.display())),
        _ => {}
    };
    for folder in memory(places) {
        let ended = std::fs::remove_dir_all(&folder);
        told(folder, ended);
    }
    if purge {
        for file in [places.agent_toml(), places.trust_toml(), places.root_toml(), places.device_key(), places.device_pub()] {
            let ended = std::fs::remove_file(&file);
            told(file, ended);
        }
        // Keys and authorities that somebody put beside them stay, and the folder with them.
        if let Some(folder) = places.agent_toml().parent() {
            let _ = std::fs::remove_dir(folder);
        }
    }
    left
}
