//! `trimtab init`: enrol this host, and say what it will trust from now on.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args as ClapArgs;
use trimtab_model::names::HostName;

use super::{complain, enrol, fail, say};
use crate::config::{Places, Settings};
use crate::outbox::DeviceKey;
use crate::trust::keys::TrustConfig;

/// `trimtab init`.
#[derive(Debug, ClapArgs)]
pub(super) struct Args {
    /// The fleet repository: https://, ssh://, file:// or a path.
    #[arg(long)]
    url: String,
    /// What is followed: the signed commits of a branch, or the signed releases of a channel.
    #[arg(long, value_enum, default_value_t = Mode::Commit)]
    mode: Mode,
    /// Commit mode: a public key that may sign, a file such as ~/.ssh/id_ed25519.pub, or the key itself; with `cert-authority` before it, one whose
    /// certificates may. May be given several times.
    #[arg(long = "key", value_name = "FILE|KEY", required_if_eq("mode", "commit"), conflicts_with_all = ["root_file", "root_digest", "tofu", "channel"])]
    keys: Vec<String>,
    /// Commit mode: the branch to follow.
    #[arg(long, default_value = "main")]
    branch: String,
    #[command(flatten)]
    pin: enrol::Pin,
    /// The certificate authority of the server, if it is not one of the system's.
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// The host's name in the fleet; its host name when it is not given.
    #[arg(long, value_name = "NAME")]
    host: Option<HostName>,
    /// A label of this host. May be given several times.
    #[arg(long = "label", value_name = "K=V", value_parser = super::repository::label)]
    labels: Vec<(String, String)>,
    /// How often to look, e.g. 60s or 5min.
    #[arg(long, default_value = "60s")]
    interval: String,
    /// Only look: tell what differs from the repository, and change nothing on this host (`mode = "observe"` under [agent]).
    #[arg(long)]
    observe: bool,
    /// Allow http:// without TLS (the signatures still hold; who reads along sees your configuration).
    #[arg(long)]
    allow_http: bool,
    /// Replace an existing enrolment. The memory of what was accepted before stays, so this cannot roll the host back.
    #[arg(long)]
    force: bool,
}

/// `--mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Mode {
    Commit,
    Release,
}

pub(super) fn run(places: &Places, args: &Args) -> ExitCode {
    let keys: Result<Vec<String>, String> = args.keys.iter().map(|key| read_key(key)).collect();
    let keys = match keys {
        Ok(keys) => keys,
        Err(message) => {
            complain(&message);
            return ExitCode::from(64);
        }
    };
    let ca_file = match args.ca_file.as_deref().map(certificate).transpose() {
        Ok(ca_file) => ca_file,
        Err(message) => {
            complain(&message);
            return ExitCode::from(64);
        }
    };
    if args.url.starts_with("http://") && !args.allow_http {
        complain("--url: http:// is refused: use https://, or add --allow-http and accept that others can read along");
        return ExitCode::from(64);
    }
    let agent_text = agent_toml(args, ca_file.as_deref());
    let (trust_text, root) = match args.mode {
        Mode::Commit => (trust_toml(&args.branch, &keys), None),
        Mode::Release => match args.pin.settle(&agent_text) {
            Ok(enrolled) => (enrolled.trust, enrolled.root),
            Err(error) => return fail(&error, 1),
        },
    };
    // What is written must be what the agent will accept.
    if let Err(message) = Settings::check(&agent_text) {
        complain(&message);
        return ExitCode::from(64);
    }
    let trust = TrustConfig::parse("trust.toml", &trust_text);
    let trust = match (trust, &root) {
        (Ok(trust), Some(root)) => trust.with_root("root.toml", root),
        (trust, _) => trust,
    };
    let trust = match trust {
        Ok(trust) => trust,
        Err(findings) => {
            complain(&findings.draw(false));
            return ExitCode::from(64);
        }
    };
    record(places, args, &agent_text, &trust_text, root.as_deref(), &trust)
}

/// Writes it all down, and says what was written.
fn record(places: &Places, args: &Args, agent_text: &str, trust_text: &str, root: Option<&str>, trust: &TrustConfig) -> ExitCode {
    let (agent_path, trust_path) = (places.agent_toml(), places.trust_toml());
    if !args.force
        && let Some(existing) = [&agent_path, &trust_path].into_iter().find(|path| path.exists())
    {
        complain(&format!("{} exists: this host is enrolled already; --force replaces the enrolment", existing.display()));
        return ExitCode::FAILURE;
    }
    let root_path = places.root_toml();
    // What trust.toml names lies there before it does.
    let root = root.map(|text| (&root_path, text));
    for (path, text) in root.into_iter().chain([(&agent_path, agent_text), (&trust_path, trust_text)]) {
        if let Err(error) = write(path, text) {
            return fail(&error, 1);
        }
    }
    let device = match DeviceKey::obtain(&places.device_key(), &places.device_pub()) {
        Ok(device) => device,
        Err(error) => return fail(&error, 1),
    };
    say(&explain(places, args, trust, &device))
}

fn explain(places: &Places, args: &Args, trust: &TrustConfig, device: &DeviceKey) -> String {
    let mut text = match args.mode {
        Mode::Release => args.pin.explain(&args.url, trust),
        Mode::Commit => by_commit(args, trust),
    };
    text.push_str(&format!("Written: {} and {}\n", places.agent_toml().display(), places.trust_toml().display()));
    let (name, public) = (device.device(), device.public());
    text.push_str(&format!("Device:  {name}; its reports are checked with `minisign -V -P {public}`\n"));
    if places.is_sandbox() {
        text.push_str(&format!("Next:    trimtab --root {} plan    (what would change)\n", places.root.display()));
        return text;
    }
    text.push_str("Next:    trimtab plan                       (what would change)\n");
    text.push_str("         systemctl enable --now trimtab     (let it)\n");
    text
}

fn by_commit(args: &Args, trust: &TrustConfig) -> String {
    let mut text = format!(
        "Enrolled. This host will follow branch {} of\n  {}\nand converge to nothing but commits signed by:\n",
        args.branch, args.url
    );
    for key in trust.keys() {
        text.push_str(&format!("  {}  {}\n", key.key.fingerprint(), key.comment));
    }
    for authority in &trust.signers().authorities {
        let who = authority.principals.as_ref().map_or_else(|| "anybody".to_owned(), |names| names.join(", "));
        text.push_str(&format!("  {who} with a certificate by {}  {}\n", authority.key.fingerprint(), authority.comment));
    }
    text.push_str(
        "A commit must descend from the last one accepted. Commit mode has no expiry and no branch binding:\n\
         any descendant that one of these keys signed can be served as this branch.\n",
    );
    text
}

/// A certificate's file as the courier will find it, whose working folder is another one; that it is there is best known now.
fn certificate(given: &Path) -> Result<PathBuf, String> {
    let named = |error: std::io::Error| format!("--ca-file {}: {error}", given.display());
    let path = std::path::absolute(given).map_err(named)?;
    std::fs::File::open(&path).map_err(named)?;
    Ok(path)
}

/// The public key itself, from a file or as it stands.
fn read_key(given: &str) -> Result<String, String> {
    let is_key = |text: &str| {
        let kinds = ["ssh-", "ecdsa-", "sk-", "cert-authority", "principals="];
        text.split(' ').next().is_some_and(|first| kinds.iter().any(|kind| first.starts_with(kind)))
    };
    if is_key(given) && given.contains(' ') {
        return Ok(given.trim().to_owned());
    }
    let text = std::fs::read_to_string(given).map_err(|error| format!("--key {given}: {error}"))?;
    if text.contains("PRIVATE KEY") {
        return Err(format!("--key {given}: this is a private key; give the public one ({given}.pub)"));
    }
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    match (lines.next(), lines.next()) {
        (Some(line), None) if is_key(line) => Ok(line.to_owned()),
        (Some(_), Some(_)) => Err(format!("--key {given}: it holds several keys; give each with a --key of its own")),
        _ => Err(format!("--key {given}: it does not hold an SSH public key (ssh-ed25519 AAAA…)")),
    }
}

pub(super) fn quote(text: &str) -> String {
    // JSON's strings are TOML's basic strings.
    serde_json::to_string(text).expect("because a string always serialises")
}

fn agent_toml(args: &Args, ca_file: Option<&Path>) -> String {
    let mut text = String::from("# How this host follows its fleet repository. Local: it outranks the repository.\n\n[source]\n");
    text.push_str(&format!("url = {}\n", quote(&args.url)));
    if let Some(file) = ca_file {
        text.push_str(&format!("ca-file = {}\n", quote(&file.to_string_lossy())));
    }
    if args.allow_http {
        text.push_str("allow-http = true\n");
    }
    text.push_str("\n[host]\n");
    if let Some(host) = &args.host {
        text.push_str(&format!("name = {}\n", quote(host.as_str())));
    }
    let labels: Vec<String> = args.labels.iter().map(|(key, value)| format!("{} = {}", quote(key), quote(value))).collect();
    let labels = if labels.is_empty() { "{}".to_owned() } else { format!("{{ {} }}", labels.join(", ")) };
    text.push_str(&format!("labels = {labels}\n"));
    text.push_str(&format!("\n[agent]\ninterval = {}\n", quote(&args.interval)));
    if args.observe {
        text.push_str("# Nothing on this host is changed; \"enforce\" does what the repository says.\nmode = \"observe\"\n");
    }
    text
}

fn trust_toml(branch: &str, keys: &[String]) -> String {
    let mut text = String::from("# Who may tell this host what to be. Never taken from the repository.\nmode = \"commit\"\n");
    text.push_str(&format!("branch = {}\nkeys = [\n", quote(branch)));
    for key in keys {
        text.push_str(&format!("  {},\n", quote(key)));
    }
    text.push_str("]\n");
    text
}

/// A file that could not be written.
#[derive(Debug, thiserror::Error)]
#[error("{} cannot be written", path.display())]
struct WriteError {
    path: PathBuf,
    source: std::io::Error,
}

/// Written beside and renamed: an enrolment that is cut short leaves the old one.
fn write(path: &Path, text: &str) -> Result<(), WriteError> {
    use std::io::Write as _;
    use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
    let attempt = || {
        let folder = path.parent().expect("because the places are always beneath a folder");
        std::fs::DirBuilder::new().recursive(true).mode(0o755).create(folder)?;
        let beside = path.with_extension("toml.new");
        let _ = std::fs::remove_file(&beside);
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o644).open(&beside)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&beside, path)?;
        std::fs::File::open(folder)?.sync_all()
    };
    attempt().map_err(|source| WriteError { path: path.to_owned(), source })
}
