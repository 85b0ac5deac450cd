//! The commands that touch this machine: `agent`, `once`, `plan`.

use std::process::ExitCode;

use clap::Args;
use trimtab_model::report::{Outcome, Pass, Wake};

use super::{color, complain, fail, print_json, say, status};
use crate::config::{Adopt, Places};
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

/// `trimtab once`.
#[derive(Debug, Args)]
pub(super) struct OnceArgs {
    /// What to do where the repository wants to replace files that stand there already, in place of `guard.adopt`: `report` changes nothing
    /// and names them, `replace` keeps them in the backup (`trimtab backups`) and replaces them.
    #[arg(long, value_enum, value_name = "HOW")]
    adopt: Option<Adopt>,
    /// Answer in JSON: the pass.
    #[arg(long)]
    json: bool,
}

/// `trimtab plan`.
#[derive(Debug, Args)]
pub(super) struct PlanArgs {
    /// Answer in JSON: the pass as `once --json` tells it, not carried out, and its steps.
    #[arg(long)]
    pub(super) json: bool,
    /// Do not ask the source: what differs from the last accepted revision (drift).
    #[arg(long)]
    pub(super) offline: bool,
}

pub(super) fn block_on<T>(work: impl Future<Output = T>) -> std::io::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let value = runtime.block_on(work);
    // A fetch may still wait for a server; its courier ends with us.
    runtime.shutdown_background();
    Ok(value)
}

pub(super) fn refuse(error: &OpenError) -> ExitCode {
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
        Ok::<_, OpenError>(Box::pin(crate::run::run(&mut cycle)).await)
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

pub(super) fn once(places: &Places, args: &OnceArgs) -> ExitCode {
    log::start(log::Audience::Person);
    let passed = block_on(async {
        let mut cycle = Cycle::open(places, Hold::Once)?;
        if let Some(adopt) = args.adopt {
            cycle.adopt(adopt);
        }
        Ok::<_, OpenError>(cycle.pass(Wake::Asked, true).await)
    });
    match passed {
        Ok(Ok(pass)) => answer(&pass, args.json),
        Ok(Err(error)) => refuse(&error),
        Err(error) => fail(&error, 1),
    }
}

pub(super) fn answer(pass: &Pass, json: bool) -> ExitCode {
    if json {
        print_json(pass);
    } else {
        let mut text = format!("{}: {} ({} ms)\n", pass.outcome.word(), pass.reason(), pass.duration_ms);
        for change in &pass.changes {
            let word = |value: &dyn erased::Word| value.word();
            let kept = if change.replaces { ", what stood there is kept in the backup" } else { "" };
            let left = change.left_alone.as_ref().map_or_else(String::new, |why| format!(", left alone: {}", why.words()));
            text.push_str(&format!("  {} {} ({}){kept}{left}\n", word(&change.verb), change.resource, word(&change.cause)));
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

pub(super) fn exit_of(outcome: Outcome) -> ExitCode {
    match outcome {
        Outcome::Unchanged => ExitCode::SUCCESS,
        Outcome::Converged | Outcome::Planned => ExitCode::from(2),
        Outcome::Unreachable | Outcome::Partial | Outcome::Held => ExitCode::FAILURE,
        Outcome::RolledBack => ExitCode::from(3),
        Outcome::Degraded => ExitCode::from(4),
        Outcome::Drifted | Outcome::Paused => ExitCode::from(5),
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
