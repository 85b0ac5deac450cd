//! `bundle create`: what some hosts need, gathered where the repository and a network are.
//!
//! git makes the bundle of commits, podman the archives of images, minisign or ssh-keygen the signature: what they write is what anybody can check
//! without trimtab. Artifacts come through a courier, proven as on a host. Limits: which images and artifacts a host needs is found by rendering it
//! from the commit, with its labels from `hosts/` and `--labels`, and with `--arch` for all that its facts say.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use trimtab_model::bundle::Bundle;
use trimtab_model::desired::{Artifact, Desired};
use trimtab_model::digest::Digest;
use trimtab_model::facts::{Facts, Host, PathPolicy};
use trimtab_model::names::HostName;

use super::super::{complain, print_json, say};
use super::commits::Commits;
use crate::apply::{fetch_to, hash_file};
use crate::author::AuthorError;
use crate::author::desk::Desk;
use crate::author::reach::{Reach, Reached};
use crate::bundle::{MANIFEST, MINISIG, Manifest, Part, SSHSIG, archive, manifest, tar};
use crate::cli::release::preview::fleet;
use crate::courier::Way;
use crate::log::{chain, many};
use crate::trust::statement::Channel;

/// `trimtab bundle create`.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct CreateArgs {
    /// The file to write.
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
    /// The repository.
    #[arg(long, value_name = "DIR", default_value = ".")]
    repo: PathBuf,
    /// The branch.
    #[arg(long, value_name = "BRANCH", default_value = "main", conflicts_with = "channel")]
    rev: String,
    /// The newest release of this channel, instead of a branch: what the remote serves, or this clone has.
    #[arg(long, value_name = "NAME")]
    channel: Option<Channel>,
    /// The remote that hosts follow, which is asked for the release.
    #[arg(long, value_name = "NAME", default_value = "origin", requires = "channel")]
    remote: String,
    /// Take the release that this clone has, and do not ask the remote.
    #[arg(long, requires = "channel")]
    offline: bool,
    /// A host that it is for; may be given several times. Without any: those of hosts/*.toml.
    #[arg(long = "host", value_name = "NAME")]
    hosts: Vec<HostName>,
    /// Labels that the hosts' own agent.toml say.
    #[arg(long, value_name = "K=V,…", value_delimiter = ',', value_parser = super::super::repository::label)]
    labels: Vec<(String, String)>,
    /// Their architectures, as `trimtab facts` says them.
    #[arg(long = "arch", value_name = "ARCH", default_value = std::env::consts::ARCH)]
    arches: Vec<String>,
    /// One more image, by digest; may be given several times.
    #[arg(long = "image", value_name = "IMAGE")]
    images: Vec<String>,
    /// Leave images out: the hosts have them, or reach a registry.
    #[arg(long)]
    no_images: bool,
    /// Sign it with this minisign or SSH secret key (which asks for its own password).
    #[arg(long, value_name = "FILE")]
    sign_key: Option<PathBuf>,
    /// Trust the certificate authorities of this PEM file when artifacts are fetched, instead of the system's.
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// Answer in JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &CreateArgs) -> ExitCode {
    crate::log::start(crate::log::Audience::Person);
    match create(args) {
        Ok((manifest, commits)) => {
            let (size, parts) = (fs::metadata(&args.output).map_or(0, |seen| seen.len()), manifest.parts.len());
            if args.json {
                let (release, expires) = (commits.release, commits.expires);
                return print_json(&serde_json::json!({
                    "output": args.output, "size": size, "parts": parts, "release": release, "expires": expires,
                }));
            }
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |passed| passed.as_secs());
            say(&format!("{}: {}, {} KiB{}\n", args.output.display(), many(parts, "part"), size.div_ceil(1024), commits.words(now)))
        }
        Err(message) => {
            complain(&message);
            ExitCode::FAILURE
        }
    }
}

/// A folder for what is not finished, beside the output; gone with this.
struct Work(PathBuf);

impl Work {
    fn new(output: &Path) -> Result<Self, String> {
        let name = format!(".{}.{}", output.file_name().unwrap_or_default().to_string_lossy(), std::process::id());
        let folder = output.with_file_name(name);
        fs::create_dir(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let folder = folder.canonicalize().map_err(|error| format!("{}: {error}", folder.display()))?;
        Ok(Self(folder))
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn create(args: &CreateArgs) -> Result<(Manifest, Commits), String> {
    let work = Work::new(&args.output)?;
    let told = |error: AuthorError| chain(&error);
    let desk = Desk::open(&args.repo).map_err(told)?;
    let remote = Some(args.remote.as_str()).filter(|_| !args.offline);
    let commits = match &args.channel {
        Some(channel) => Commits::of_channel(&desk, channel, remote),
        None => Commits::of_branch(&desk, &args.rev),
    };
    let commits = commits.map_err(told)?;
    let repository = work.0.join(manifest::REPOSITORY);
    commits.write(&desk, &work.0, &repository).map_err(told)?;
    let needs = Needs::of(args, &tree(&desk, &commits)?)?;
    let mut parts = vec![(manifest::REPOSITORY.to_owned(), repository, None)];
    let way = way(&needs, args, &work.0)?;
    for (digest, (artifact, size)) in &needs.artifacts {
        let (name, file) = (format!("artifacts/{}", digest.hex()), work.0.join(digest.hex()));
        tracing::info!(target: crate::log::PATIENCE, "fetching {}", artifact.shown_url());
        let signature = fetch_to(&file, artifact, *digest, *size, &way).map_err(|error| chain(&error))?;
        parts.push((name.clone(), file.clone(), None));
        if let Some(signature) = signature {
            let beside = file.with_extension("minisig");
            fs::write(&beside, signature).map_err(|error| error.to_string())?;
            parts.push((format!("{name}.minisig"), beside, None));
        }
    }
    for (at, image) in needs.images.iter().enumerate() {
        let file = work.0.join(format!("image-{at}"));
        save(image, &file)?;
        parts.push((format!("images/{}.tar", at + 1), file, Some(image.clone())));
    }
    write(args, &work.0, parts).map(|manifest| (manifest, commits))
}

/// The fleet as a host reads it, object by object: attributes and configuration of git change nothing in it.
fn tree(desk: &Desk, commits: &Commits) -> Result<Bundle, String> {
    let told = |error: AuthorError| chain(&error);
    let tree = desk.tree_of(commits.tip()).map_err(told)?;
    let mut reached = Reached::new(&desk.git_dir().to_string_lossy(), &Reach::default()).map_err(told)?;
    fleet(tree, reached.courier()).map_err(|error| chain(&error))
}

/// What the hosts need.
#[derive(Default)]
struct Needs {
    artifacts: BTreeMap<Digest, (Artifact, u64)>,
    images: Vec<String>,
}

impl Needs {
    fn of(args: &CreateArgs, bundle: &Bundle) -> Result<Self, String> {
        let mut hosts = args.hosts.clone();
        if hosts.is_empty() {
            let names =
                bundle.files.keys().filter_map(|path| path.as_str().strip_prefix("hosts/")?.strip_suffix(".toml")?.parse().ok());
            hosts.extend(names);
        }
        if hosts.is_empty() {
            return Err("the repository has no hosts/*.toml: say for whom the bundle is, with --host NAME".to_owned());
        }
        let mut needs = Self { images: args.images.clone(), ..Self::default() };
        for name in &hosts {
            for arch in &args.arches {
                let facts = Facts { hostname: name.to_string(), arch: arch.clone(), ..Facts::default() };
                let policy = PathPolicy { self_update: true, ..PathPolicy::default() };
                let host = Host { name: name.clone(), labels: args.labels.iter().cloned().collect(), facts, policy };
                let rendered = trimtab_model::render::render(bundle, &host)
                    .map_err(|findings| format!("{name} ({arch}) cannot be rendered:\n{}", findings.draw(false)))?;
                needs.add(&rendered.desired, args.no_images);
            }
        }
        needs.images.sort();
        needs.images.dedup();
        match needs.images.iter().find(|image| !manifest::is_pinned(image)) {
            Some(image) => Err(format!(
                "the image {image} is not named by digest: a bundle can only hold what the commit itself says the bytes of; pin it (name@sha256:…), or leave images out with --no-images"
            )),
            None => Ok(needs),
        }
    }

    fn add(&mut self, desired: &Desired, no_images: bool) {
        for (_, _, artifact, digest, size) in desired.artifacts() {
            let known = self.artifacts.entry(digest).or_insert_with(|| (artifact.clone(), size));
            // Where one component asks for a signature and another does not, the signature comes along.
            if known.0.minisign.is_none() && artifact.minisign.is_some() {
                known.0 = artifact.clone();
            }
        }
        if !no_images {
            self.images.extend(desired.images.keys().cloned());
        }
    }
}

/// A courier of this person's own: it may ask where the artifacts lie, for a person asked for that.
fn way(needs: &Needs, args: &CreateArgs, work: &Path) -> Result<Way, String> {
    let origin = |url: &str| {
        let (scheme, rest) = url.split_once("://")?;
        let host = rest.split('/').next()?;
        Some(format!("\"{scheme}://{host}/\""))
    };
    let mut allow: Vec<String> = needs.artifacts.values().filter_map(|(artifact, _)| origin(&artifact.url)).collect();
    allow.sort();
    allow.dedup();
    let ca = args
        .ca_file
        .as_deref()
        .map(|file| fs::canonicalize(file).map_err(|error| format!("{}: {error}", file.display())))
        .transpose()?;
    let ca = ca.map(|file| format!("ca-file = {:?}\n", file.display().to_string())).unwrap_or_default();
    let (config, cache) = (work.join("courier.toml"), work.join("cache"));
    let text = format!("[source]\nurl = \"/nothing/here\"\nallow-http = true\n[artifacts]\nallow = [{}]\n{ca}", allow.join(", "));
    fs::write(&config, text).map_err(|error| error.to_string())?;
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let patience = std::time::Duration::from_secs(900);
    Ok(Way { program, config, cache, socket: work.join("none"), only_socket: false, user: None, patience })
}

fn save(image: &str, file: &Path) -> Result<(), String> {
    tracing::info!(target: crate::log::PATIENCE, "saving {image}");
    let podman = |words: &[&str]| {
        let mut command = Command::new("podman");
        command.args(words);
        ran(command, "podman")
    };
    podman(&["pull", "--quiet", "--", image])?;
    let saved = file.with_extension("saved");
    podman(&["save", "--quiet", "--format", "oci-archive", "--output", path(&saved)?, image])?;
    let failed = |error: io::Error| format!("{}: {error}", saved.display());
    let mut from = io::BufReader::with_capacity(1 << 20, File::open(&saved).map_err(failed)?);
    archive::take(image, &mut from, &mut File::create(file).map_err(failed)?).map_err(|error| {
        // Podman packs the layers anew; only what a Podman pushed comes out as the bytes that it was.
        format!(
            "{}; podman wrote another image than it pulled, as it does with images for several architectures and with layers that another program packed: name the digest of one architecture, push the image with podman, or leave images out with --no-images",
            chain(&error)
        )
    })?;
    fs::remove_file(&saved).map_err(failed)
}

fn write(args: &CreateArgs, work: &Path, parts: Vec<(String, PathBuf, Option<String>)>) -> Result<Manifest, String> {
    let failed = |error: io::Error| format!("{}: {error}", args.output.display());
    let now = std::time::SystemTime::now();
    let created = humantime::format_rfc3339_seconds(now).to_string();
    let mut manifest = Manifest { created, parts: Vec::new() };
    for (name, file, image) in &parts {
        let (digest, size) = hash_file(file).map_err(failed)?;
        manifest.parts.push(Part { name: name.clone(), digest, size, image: image.clone() });
    }
    let text = manifest.text();
    let plain = work.join(MANIFEST);
    fs::write(&plain, &text).map_err(failed)?;
    let new = work.join("bundle");
    let mut to = File::create(&new).map_err(failed)?;
    tar::write(&mut to, MANIFEST, text.len() as u64, &mut text.as_bytes()).map_err(failed)?;
    if let Some(key) = &args.sign_key {
        let (name, signature) = sign(key, &plain)?;
        tar::write(&mut to, name, signature.len() as u64, &mut signature.as_slice()).map_err(failed)?;
    }
    for (part, (_, file, _)) in manifest.parts.iter().zip(&parts) {
        tar::write(&mut to, &part.name, part.size, &mut File::open(file).map_err(failed)?).map_err(failed)?;
    }
    tar::finish(&mut to).and_then(|()| to.sync_all()).and_then(|()| fs::rename(&new, &args.output)).map_err(failed)?;
    // What is written must be what a host takes.
    crate::bundle::open(&args.output, &mut |_, _| {}).map_err(|error| chain(&error))?;
    Ok(manifest)
}

/// Signed by the tool whose key it is.
fn sign(key: &Path, plain: &Path) -> Result<(&'static str, Vec<u8>), String> {
    let text = fs::read_to_string(key).map_err(|error| format!("{}: {error}", key.display()))?;
    let is_minisign = text.starts_with("untrusted comment:");
    let mut command;
    let name = if is_minisign {
        command = Command::new("minisign");
        command.arg("-S").arg("-s").arg(key).arg("-m").arg(plain);
        MINISIG
    } else {
        command = Command::new("ssh-keygen");
        command.args(["-q", "-Y", "sign", "-n", "trimtab-bundle", "-f"]).arg(key).arg(plain);
        SSHSIG
    };
    // It may ask for a password.
    let status = command.stdout(Stdio::null()).status();
    let program = command.get_program().to_string_lossy().into_owned();
    let status = status.map_err(|error| format!("{program}: {error}"))?;
    if !status.success() {
        return Err(format!("{program} did not sign it ({status})"));
    }
    let file = plain.with_file_name(name);
    fs::read(&file).map(|bytes| (name, bytes)).map_err(|error| format!("{}: {error}", file.display()))
}

fn path(path: &Path) -> Result<&str, String> {
    path.to_str().ok_or_else(|| format!("{} is no UTF-8", path.display()))
}

fn ran(mut command: Command, program: &str) -> Result<(), String> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{program} failed ({}): {}", output.status, said.trim().chars().take(2000).collect::<String>()))
}
