//! `trimtab release`: the statement that a channel is at a commit, made, signed by as many as it takes, and published.
//!
//! A statement that is not signed by enough lies at `refs/trimtab/draft/<channel>`, here and, with `--push`, at the remote: no device looks there,
//! and the next person finds it. One flag pushes: where to is decided by what the statement is worth, so that nobody can publish half of one.
//!
//! Guarantees: what a device would refuse is never published: the device's own code judges it before. What is pushed replaces exactly what was
//! seen at the remote. Limits: the fleet is judged with placeholders for facts, as by `trimtab validate`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::trust::Signing;
use super::{fail, warn};
use crate::author::AuthorError;
use crate::author::draft::Draft;
use crate::author::signing::read_block;
use crate::trust::statement::Channel;

mod judge;
mod make;
pub(super) mod preview;
mod session;
mod tell;

use session::Session;

/// `trimtab release`.
#[derive(Debug, Args)]
pub(super) struct ReleaseArgs {
    /// The channel, as the root file names it.
    channel: Channel,
    /// The commit to release.
    #[arg(value_name = "REV", default_value = "HEAD")]
    revision: String,
    /// Release this older commit: a rollback is a release like any other, with a new number.
    #[arg(long, value_name = "REV", conflicts_with = "revision")]
    rollback_to: Option<String>,
    /// For how long hosts take this to be the newest; then they hold it, and report that it is stale.
    #[arg(long, value_name = "TIME", default_value = "90d", value_parser = humantime::parse_duration)]
    expires: Duration,
    /// Say that the release in force is still the newest, instead of making another (`[alive.CHANNEL]` of the root).
    #[arg(long, conflicts_with_all = ["revision", "rollback_to"])]
    alive: bool,
    /// Add a signature to the statement that is not signed by enough yet.
    #[arg(long, group = "pending", conflicts_with_all = ["revision", "rollback_to"])]
    countersign: bool,
    /// Add this signature to it, made elsewhere from what --export wrote. May be given several times.
    #[arg(long, value_name = "FILE", group = "pending", conflicts_with_all = ["revision", "rollback_to"])]
    attach: Vec<PathBuf>,
    /// Write what the next signature must cover into this file, for a key on a machine without a network.
    #[arg(long, value_name = "FILE", group = "pending", conflicts_with_all = ["revision", "rollback_to", "push"])]
    export: Option<PathBuf>,
    /// Look at it, and sign nothing.
    #[arg(long, group = "pending", conflicts_with_all = ["revision", "rollback_to", "sign"])]
    draft: bool,
    /// Push: what is signed by enough to the channel, where hosts look; anything else to the draft, where the next signer finds it.
    #[arg(long)]
    push: bool,
    /// The remote that hosts follow; `.` for this very clone.
    #[arg(long, value_name = "NAME", default_value = "origin")]
    remote: String,
    /// Do not ask the remote what it has.
    #[arg(long, conflicts_with = "push")]
    offline: bool,
    /// Show what differs in each file as well.
    #[arg(long)]
    diff: bool,
    #[command(flatten)]
    signing: Signing,
    /// The clone to work in.
    #[arg(long, value_name = "DIR", default_value = ".")]
    repo: PathBuf,
    /// Answer in JSON.
    #[arg(long)]
    json: bool,
}

impl ReleaseArgs {
    fn is_pending(&self) -> bool {
        self.countersign || self.draft || self.export.is_some() || !self.attach.is_empty()
    }
}

pub(super) fn run(args: &ReleaseArgs) -> ExitCode {
    release(args).unwrap_or_else(|error| fail(&error, 1))
}

fn release(args: &ReleaseArgs) -> Result<ExitCode, AuthorError> {
    let session = Session::open(args)?;
    for remark in &session.remarks {
        warn(remark);
    }
    let mut draft = if args.is_pending() { session.pending()? } else { make::statement(&session, args)? };
    let role = session.role(&draft)?;
    if let Some(file) = &args.export {
        return export(&draft, file);
    }
    session.is_newest(&draft)?;
    let rows = match &draft.said {
        crate::author::draft::Said::Release(_) => match session.preview(&draft)? {
            Ok(rows) => rows,
            Err(findings) => return Ok(super::repository::refuse(&findings, args.json)),
        },
        crate::author::draft::Said::Alive(_) => Vec::new(),
    };
    if !args.json {
        super::say(&tell::before(&session, &draft, &rows, args.diff));
    }
    let signed = sign(args, &session, &mut draft, &role)?;
    let (signers, _) = draft.signers(&role.quorum());
    let is_complete = signers.len() >= role.role.threshold;
    let object = session.store(&draft)?;
    if is_complete {
        judge::judge(&session, &draft, object)?;
    }
    let pushed = if args.push { Some(session.push(object, is_complete)?) } else { None };
    Ok(tell::after(&tell::Done { session: &session, draft: &draft, object, role: &role, signed, signers, pushed, rows }, args.json))
}

/// Signs with each key; the names of who signed.
fn sign(args: &ReleaseArgs, session: &Session, draft: &mut Draft, role: &session::Rule) -> Result<Vec<String>, AuthorError> {
    let mut signed = Vec::new();
    for file in &args.attach {
        signed.push(draft.add(&read_block(file)?, &role.quorum(), &role.words, &role.root)?.name);
    }
    if args.draft || (!args.attach.is_empty() && args.signing.sign.is_empty()) {
        return Ok(signed);
    }
    let (keys, named) = args.signing.keys(&session.desk);
    for key in keys {
        // Nobody asked for git's own key: where it does not count, or has signed, it is not used.
        let quorum = role.quorum();
        let counts = |public| quorum.keys.iter().any(|one| one.key == public && !draft.signers(&quorum).0.contains(one));
        if !named && !key.public().is_some_and(counts) {
            continue;
        }
        let about = format!("{} {}", role.kind, draft.said.tag_name());
        let block = key.sign("git", &draft.bytes, &about)?;
        signed.push(draft.add(&block, &role.quorum(), &role.words, &role.root)?.name);
    }
    if signed.is_empty() && args.countersign {
        let who: Vec<String> = role.quorum().keys.iter().map(ToString::to_string).collect();
        return Err(AuthorError::refused(format!(
            "no key to sign with: {} takes signatures by {}; name a key that has not signed yet with --sign ssh:FILE or --sign minisign:FILE",
            role.words,
            who.join(", ")
        )));
    }
    Ok(signed)
}

fn export(draft: &Draft, file: &std::path::Path) -> Result<ExitCode, AuthorError> {
    std::fs::write(file, &draft.bytes).map_err(|source| AuthorError::File { path: file.to_owned(), source })?;
    let (shown, channel) = (file.display(), draft.said.channel());
    let alive = if matches!(draft.said, crate::author::draft::Said::Alive(_)) { " --alive" } else { "" };
    Ok(super::say(&format!(
        "Written: {shown}, {} bytes of {}\nThere:   minisign -S -m {shown}      (or ssh-keygen -Y sign -n git -f KEY {shown})\nHere:    trimtab release {channel}{alive} --attach {shown}.minisig --push\nA signature covers all that stands before it: nobody else may sign in between.\n",
        draft.bytes.len(),
        draft.said.tag_name(),
    )))
}
