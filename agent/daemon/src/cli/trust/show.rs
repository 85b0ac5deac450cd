//! `trimtab trust show`: the chain of roots, in words.

use std::fmt::Write as _;
use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};

use super::{Common, roots_of};
use crate::author::AuthorError;
use crate::author::desk::Desk;
use crate::author::reach::{Reach, Reached};
use crate::author::roots::{Progress, Roots, Version};
use crate::cli::{print_json, say};
use crate::trust::root::{Role, key_text, pin_of};

/// `trimtab trust show`.
#[derive(Debug, Args)]
pub(super) struct ShowArgs {
    /// The repository: a URL that hosts could follow, or a clone; the clone of --repo, with what is not committed yet, when it is not given.
    #[arg(value_name = "URL|PATH")]
    place: Option<String>,
    /// The reference of a repository whose tree is looked at.
    #[arg(long, value_name = "REF", default_value = "refs/heads/main")]
    reference: String,
    #[command(flatten)]
    reach: Reach,
    #[command(flatten)]
    common: Common,
}

pub(super) fn run(args: &ShowArgs) -> Result<ExitCode, AuthorError> {
    let roots = match &args.place {
        None => roots_of(&Desk::open(&args.common.repo)?)?,
        Some(place) => Reached::new(place, &args.reach)?.roots(&args.reference)?,
    };
    roots.newest()?;
    tell(&roots, &[], args.common.json)
}

/// Tells of all versions, and of who just signed.
pub(super) fn tell(roots: &Roots, signed: &[String], as_json: bool) -> Result<ExitCode, AuthorError> {
    let newest = roots.newest()?;
    if as_json {
        return Ok(print_json(&json!({
            "repo": newest.root.repo.as_str(),
            "pin": pin_of(&roots.0[0].text),
            "newest": newest.root.version,
            "complete": roots.is_complete(newest),
            "signed": signed,
            "roots": roots.0.iter().map(|version| machine(roots, version)).collect::<Vec<_>>(),
        })));
    }
    let mut text = format!("Repository {}\n", newest.root.repo);
    for version in &roots.0 {
        let mark = if roots.is_complete(version) { "complete" } else { "not complete" };
        let _ = writeln!(text, "\nRoot {} (epoch {}), {mark}", version.root.version, version.root.epoch);
        if version.root.version == newest.root.version {
            who(version, &mut text);
        }
        for progress in roots.progress(version) {
            let have = if progress.have.is_empty() { "nobody yet".to_owned() } else { progress.have.join(", ") };
            let _ = writeln!(text, "  signed by {have}: {} of {} needed, {}", progress.have.len(), progress.need, progress.role);
        }
        if let Some(fault) = roots.fault(version) {
            let _ = writeln!(text, "  no device takes it: {fault}");
        }
    }
    let _ = writeln!(text, "\nA device pins root 1: {}", pin_of(&roots.0[0].text));
    text.push_str(&next(roots, newest));
    Ok(say(&text))
}

fn who(version: &Version, text: &mut String) {
    for named in &version.root.keys {
        let _ = writeln!(text, "  key {:<12} {}", named.name, named.key.print());
    }
    let words = |role: &Role| {
        let names = role.keys.join(", ");
        if role.keys.len() == role.threshold { names } else { format!("any {} of {names}", role.threshold) }
    };
    let _ = writeln!(text, "  {:<28} {}", "replace the root:", words(&version.root.root));
    for (channel, role) in &version.root.release {
        let _ = writeln!(text, "  {:<28} {}", format!("release to {channel}:"), words(role));
    }
    for (channel, role) in &version.root.alive {
        let _ = writeln!(text, "  {:<28} {}", format!("keep {channel} alive:"), words(role));
    }
    for (branch, role) in &version.root.commit {
        let _ = writeln!(text, "  {:<28} {}", format!("sign commits of {branch}:"), words(role));
    }
}

fn next(roots: &Roots, newest: &Version) -> String {
    let number = newest.root.version;
    let open: Vec<Progress> = roots.progress(newest).into_iter().filter(|one| !one.is_met()).collect();
    if open.is_empty() {
        return "Next: commit and push .trimtab, then `trimtab release CHANNEL` signs under this root.\n".to_owned();
    }
    let mut text = String::from("Missing:\n");
    for progress in &open {
        let left: Vec<&str> = progress.of.iter().filter(|name| !progress.have.contains(name)).map(String::as_str).collect();
        let _ = writeln!(text, "  {} more of {}, by {}", progress.need - progress.have.len(), left.join(", "), progress.role);
    }
    let _ = writeln!(
        text,
        "Next: each of them runs `trimtab trust sign`; or, without a network, `minisign -S -m {number}.toml`, and somebody else\n`trimtab trust sign --attach {number}.toml.minisig`. Then commit and push .trimtab. Until it is complete, nothing can be released."
    );
    text
}

fn machine(roots: &Roots, version: &Version) -> Value {
    let role = |role: &Role| json!({ "threshold": role.threshold, "keys": role.keys });
    let root = &version.root;
    json!({
        "version": root.version,
        "epoch": root.epoch,
        "digest": pin_of(&version.text),
        "complete": roots.is_complete(version),
        "fault": roots.fault(version),
        "keys": root.keys.iter().map(|named| (named.name.clone(), Value::from(key_text(&named.key)))).collect::<serde_json::Map<_, _>>(),
        "root": role(&root.root),
        "release": root.release.iter().map(|(name, one)| (name.to_string(), role(one))).collect::<serde_json::Map<_, _>>(),
        "alive": root.alive.iter().map(|(name, one)| (name.to_string(), role(one))).collect::<serde_json::Map<_, _>>(),
        "commit": root.commit.iter().map(|(name, one)| (name.clone(), role(one))).collect::<serde_json::Map<_, _>>(),
        "signatures": roots.progress(version).iter().map(|one| json!({
            "role": one.role, "threshold": one.need, "keys": one.of, "signed": one.have,
        })).collect::<Vec<_>>(),
    })
}
