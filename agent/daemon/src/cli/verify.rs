//! `trimtab verify`: what a device would say of a repository, and why, step by step.
//!
//! The steps are the device's own functions, one by one, each told with what it expected and found; the verdict is the device's own, on all of it
//! at once. The source is asked through the real courier.
//!
//! Limits: a host's memory is not known here, unless `--memory` brings it: without it the repository is judged as by a host that was just enrolled.

mod commit;
mod steps;

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use gix_hash::ObjectId;
use serde_json::json;

use super::enrol::Begin;
use super::{color, fail, print_json, say};
use crate::author::AuthorError;
use crate::author::reach::{Reach, Reached};
use crate::config::Places;
use crate::log::chain;
use crate::trust::Class;
use crate::trust::decide::decide;
use crate::trust::keys::TrustConfig;
use crate::trust::memory::{Memory, Moment};
use crate::trust::release::Rules;
use crate::trust::statement::{Channel, show_time};
use crate::trust::verdict::Verdict;
use steps::Steps;

/// `trimtab verify`.
#[derive(Debug, Args)]
pub(super) struct VerifyArgs {
    /// The repository: a URL that hosts follow, or a clone. Without it, the one that this host follows.
    #[arg(value_name = "URL|PATH")]
    place: Option<String>,
    /// Judge by this trust.toml; /etc/trimtab/trust.toml where neither this nor a channel is given.
    #[arg(long, value_name = "FILE", conflicts_with = "channel")]
    trust: Option<PathBuf>,
    /// Judge as a host that follows this channel, and begins with the root that is named beside.
    #[arg(long, value_name = "NAME")]
    channel: Option<Channel>,
    #[command(flatten)]
    begin: Begin,
    /// Judge as the host that remembers this (its trust-state.json).
    #[arg(long, value_name = "FILE")]
    memory: Option<PathBuf>,
    #[command(flatten)]
    reach: Reach,
    /// Answer in JSON.
    #[arg(long)]
    json: bool,
}

/// The exit code of a refusal; 1 is for what could not be looked at.
const REFUSED: u8 = 3;

pub(super) fn run(places: &Places, args: &VerifyArgs) -> ExitCode {
    verify(places, args).unwrap_or_else(|error| fail(&error, 1))
}

fn verify(places: &Places, args: &VerifyArgs) -> Result<ExitCode, AuthorError> {
    let mut reached = match &args.place {
        Some(place) => Reached::new(place, &args.reach)?,
        None => Reached::of_config(&places.agent_toml())?,
    };
    let trust = trust(places, args, &mut reached)?;
    let memory = memory(args)?;
    let mut steps = Steps::default();
    let polled = reached.courier().poll(trust.reference())?;
    let Some(tip) = polled.id else {
        steps.add("reference", false, format!("the repository has {}", trust.reference()), "it has not");
        return Ok(tell(args, &trust, steps, None, "missing", "nothing was released there yet, or the name is another one"));
    };
    steps.add("reference", true, format!("the repository has {}", trust.reference()), tip.to_string());
    let have = memory.accepted.as_ref().map(|accepted| accepted.commit).filter(|have| *have != tip);
    reached.courier().advance(&tip, have.as_ref())?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |passed| passed.as_secs());
    let moment = Moment { clock: now, synchronised: true };
    steps.add("clock", true, "a time to judge by".to_owned(), format!(
        "{} by the clock here, as a host whose clock is kept in step (one whose clock nobody keeps does not refuse for time alone)",
        show_time(now)
    ));
    let alive = match trust.alive_reference() {
        Some(reference) => reached.courier().poll(&reference)?.id,
        None => None,
    };
    match Rules::of(&trust) {
        Some(rules) => steps.release(tip, alive, &mut reached, rules, &memory, moment),
        None => steps.commit(tip, &mut reached, &trust, &memory, moment),
    }
    let judged = decide(tip, alive, reached.courier(), &trust, &memory, moment);
    let verdict = judged.verdict;
    for remark in judged.remarks {
        steps.add("alive", false, "an `alive` statement that counts".to_owned(), remark);
    }
    steps.fleet(&verdict, &mut reached);
    if verdict.class() == Some(Class::Retry) {
        let cause = verdict.cause().map(chain).unwrap_or_default();
        return Err(AuthorError::refused(format!("{verdict}: {cause}")));
    }
    let words = verdict.to_string();
    Ok(tell(args, &trust, steps, Some((&verdict, tip)), verdict.code(), &words))
}

fn trust(places: &Places, args: &VerifyArgs, reached: &mut Reached) -> Result<TrustConfig, AuthorError> {
    let refused = |findings: trimtab_model::finding::Findings| AuthorError::refused(findings.draw(false));
    if let Some(channel) = &args.channel {
        if !args.begin.is_given() {
            return Err(AuthorError::refused(
                "where does trust begin? Say --root-digest (`trimtab trust show` prints it) or --root-file; --tofu takes whatever root is there",
            ));
        }
        let enrolled = args.begin.settle(channel, || reached.roots_of_channel(channel))?;
        return enrolled.config().map_err(refused);
    }
    let path = args.trust.clone().unwrap_or_else(|| places.trust_toml());
    // Whose file it is matters on the host; here it is a question.
    let text = crate::author::programs::read(&path, crate::trust::keys::MAX_FILE)?;
    let text = String::from_utf8(text).map_err(|_| AuthorError::refused(format!("{} is not UTF-8", path.display())))?;
    let trust = TrustConfig::parse(&path.display().to_string(), &text).map_err(refused)?;
    let Some(crate::trust::policy::Pin::Path(root)) = trust.anchor().map(|anchor| anchor.pin.clone()) else { return Ok(trust) };
    let root = path.parent().map(|folder| folder.join(&root)).unwrap_or(root);
    let text = String::from_utf8(crate::author::programs::read(&root, crate::trust::root::MAX_ROOT)?);
    let text = text.map_err(|_| AuthorError::refused(format!("{} is not UTF-8", root.display())))?;
    trust.with_root(&root.display().to_string(), &text).map_err(refused)
}

fn memory(args: &VerifyArgs) -> Result<Memory, AuthorError> {
    let Some(path) = &args.memory else { return Ok(Memory::default()) };
    let text = String::from_utf8_lossy(&crate::author::programs::read(path, 1 << 20)?).into_owned();
    Memory::from_text(&text).map_err(|error| AuthorError::refused(format!("{}: {}", path.display(), chain(&error))))
}

fn tell(
    args: &VerifyArgs,
    trust: &TrustConfig,
    steps: Steps,
    seen: Option<(&Verdict, ObjectId)>,
    code: &str,
    words: &str,
) -> ExitCode {
    let accepted = seen.is_some_and(|(verdict, _)| verdict.proven().is_some()) && steps.is_usable();
    let exit = if accepted { ExitCode::SUCCESS } else { ExitCode::from(REFUSED) };
    if args.json {
        let proven = seen.and_then(|(verdict, _)| verdict.proven());
        print_json(&json!({
            "accepted": accepted,
            "verdict": code,
            "message": words,
            "reference": trust.reference(),
            "object": seen.map(|(_, tip)| tip.to_string()),
            "commit": proven.map(|proven| proven.commit().to_string()),
            "signedBy": proven.map(crate::trust::prove::Proven::signed_by),
            "steps": steps.list,
        }));
        return exit;
    }
    let mut text = String::new();
    for step in &steps.list {
        let (sign, tint) = if step.ok { ("ok", "32") } else { ("NO", "31") };
        let sign = if color() { format!("\x1b[{tint}m{sign}\x1b[0m") } else { sign.to_owned() };
        let _ = writeln!(text, "{sign}  {:<12} {}", step.rule, step.expected);
        for line in step.found.lines() {
            let _ = writeln!(text, "                 {line}");
        }
    }
    let _ = match (accepted, seen.is_some_and(|(verdict, _)| verdict.proven().is_some())) {
        (true, _) => writeln!(text, "\nA host would take it: {words}."),
        (false, true) => writeln!(text, "\nA host would believe it, and could not use it: {words}."),
        (false, false) => writeln!(text, "\nA host would refuse it ({code}): {words}."),
    };
    say(&text);
    exit
}
