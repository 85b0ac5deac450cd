//! `validate` and `render`: a fleet repository looked at where it is written, without any host.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use trimtab_model::desired::{Node, Rendered};
use trimtab_model::facts::{Facts, Host, PathPolicy};
use trimtab_model::finding::Findings;
use trimtab_model::names::HostName;

use super::{complain, error_color, fail, print_json, say};
use crate::log::many;

/// `trimtab validate`.
#[derive(Debug, Args)]
pub(super) struct ValidateArgs {
    /// The repository: a folder, e.g. a checkout.
    path: PathBuf,
    /// Answer in JSON.
    #[arg(long)]
    json: bool,
}

/// `trimtab render`.
#[derive(Debug, Args)]
pub(super) struct RenderArgs {
    /// The repository: a folder, e.g. a checkout.
    path: PathBuf,
    /// The host's name.
    #[arg(long, value_name = "NAME")]
    host: HostName,
    /// Labels as the host's own agent.toml would say them; they win over those of hosts/<name>.toml.
    #[arg(long, value_name = "K=V,…", value_delimiter = ',', value_parser = label)]
    labels: Vec<(String, String)>,
    /// Facts of the host, as `trimtab facts` prints them there; without them they are empty (the host name is --host's).
    #[arg(long, value_name = "FILE")]
    facts: Option<PathBuf>,
    /// Write the files into this new folder instead of listing them.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Answer in JSON: the whole desired state.
    #[arg(long, conflicts_with = "out")]
    json: bool,
}

/// One `key=value`.
pub(super) fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("a label is written key=value, e.g. role=kiosk")?;
    let is_word = |word: &str| !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric() || "-_./".contains(c));
    if !is_word(key) || !is_word(value) {
        return Err("a label's key and value have letters, digits, `-`, `_`, `.` and `/` only".to_owned());
    }
    Ok((key.to_owned(), value.to_owned()))
}

/// Says what is wrong, with carets, and how many.
pub(super) fn refuse(findings: &Findings, json: bool) -> ExitCode {
    if json {
        print_json(&serde_json::json!({ "ok": false, "findings": findings }));
    } else {
        use std::io::Write as _;
        let drawn = findings.draw(error_color());
        let _ = std::io::stderr().lock().write_all(drawn.as_bytes());
    }
    ExitCode::FAILURE
}

pub(super) fn render(args: &RenderArgs) -> ExitCode {
    let facts = match args.facts.as_deref().map(read_facts).transpose() {
        Ok(facts) => facts.unwrap_or_else(|| Facts { hostname: args.host.to_string(), ..Facts::default() }),
        Err(message) => {
            complain(&message);
            return ExitCode::FAILURE;
        }
    };
    let labels: BTreeMap<String, String> = args.labels.iter().cloned().collect();
    let host = Host { name: args.host.clone(), labels, facts, policy: on_paper() };
    let bundle = match crate::render::read_dir(&args.path) {
        Ok(bundle) => bundle,
        Err(error) => return fail(&error, 1),
    };
    let rendered = match trimtab_model::render::render(&bundle, &host) {
        Ok(rendered) => rendered,
        Err(findings) => return refuse(&findings, args.json),
    };
    match &args.out {
        None if args.json => print_json(&rendered.desired),
        None => say(&list(&rendered)),
        Some(out) => match write_out(&rendered, out) {
            Ok(count) => say(&format!("{count} files written to {}\n", out.display())),
            Err(error) => {
                complain(&format!("{}: {error}", out.display()));
                ExitCode::FAILURE
            }
        },
    }
}

/// Which hosts let the repository bring trimtab itself is theirs to say: here it may.
fn on_paper() -> PathPolicy {
    PathPolicy { self_update: true, ..PathPolicy::default() }
}

fn read_facts(path: &Path) -> Result<Facts, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))
}

fn list(rendered: &Rendered) -> String {
    use std::fmt::Write as _;
    let mut text = String::new();
    for (path, entry) in &rendered.desired.entries {
        let state = &entry.state;
        let what = match &state.node {
            Node::File { digest, size } => format!("{} {size} bytes", digest.short()),
            Node::Symlink { target } => format!("-> {target}"),
            Node::Directory => "directory".to_owned(),
        };
        let fetched =
            entry.artifact.as_ref().map_or_else(String::new, |artifact| format!(" fetched from {}", artifact.shown_url()));
        let _ = writeln!(
            text,
            "{path}  {:04o} {}:{}  {what}{fetched}  from {}",
            state.mode, state.owner, state.group, entry.origin.file
        );
    }
    for (name, unit) in &rendered.desired.units {
        let enabled = unit.enabled.map_or("as it is".to_owned(), |enabled| format!("{enabled:?}").to_lowercase());
        let active = unit.active.map_or("as it is", |active| if active { "active" } else { "stopped" });
        let _ = writeln!(text, "{name}  at boot {enabled}, now {active}  from {}", unit.origin.file);
    }
    for image in rendered.desired.images.keys() {
        let _ = writeln!(text, "{image}  pulled");
    }
    let _ = writeln!(text, "digest {}", rendered.desired.digest());
    text
}

fn write_out(rendered: &Rendered, out: &Path) -> std::io::Result<usize> {
    std::fs::create_dir(out)?;
    let mut count = 0;
    for (path, entry) in &rendered.desired.entries {
        let at = out.join(path.relative());
        let parent = at.parent().expect("because a host path always has a name below the root");
        std::fs::create_dir_all(parent)?;
        match &entry.state.node {
            // Its bytes are not in the repository.
            Node::File { .. } if entry.artifact.is_some() => {}
            Node::File { digest, .. } => {
                use std::os::unix::fs::PermissionsExt as _;
                let content = rendered.contents.get(digest).map(Vec::as_slice).unwrap_or_default();
                std::fs::write(&at, content)?;
                std::fs::set_permissions(&at, std::fs::Permissions::from_mode(entry.state.mode & 0o777 | 0o600))?;
                count += 1;
            }
            Node::Symlink { target } => std::os::unix::fs::symlink(target, &at)?,
            Node::Directory => std::fs::create_dir_all(&at)?,
        }
    }
    Ok(count)
}

pub(super) fn validate(args: &ValidateArgs) -> ExitCode {
    let bundle = match crate::render::read_dir(&args.path) {
        Ok(bundle) => bundle,
        Err(error) => return fail(&error, 1),
    };
    let report = trimtab_model::render::validate(&bundle, &on_paper());
    if !report.errors.is_empty() {
        return refuse(&report.errors, args.json);
    }
    if args.json {
        return print_json(
            &serde_json::json!({ "ok": true, "components": bundle.components, "hosts": report.hosts, "warnings": report.warnings }),
        );
    }
    let mut text = String::new();
    for warning in &report.warnings.list {
        text.push_str(&format!("warning: {warning}\n"));
    }
    let (components, hosts) = (many(bundle.components.len(), "component"), many(report.hosts, "host file"));
    text.push_str(&format!("In order: {components}, {hosts}.\n"));
    say(&text)
}
