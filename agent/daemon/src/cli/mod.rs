//! The command line: what a person types, and what a script reads.
//!
//! Answers go to standard output, remarks and errors to standard error; colour only on terminals. Exit codes are the same
//! everywhere: 0 done or nothing to do, 1 error, 2 changes (plan, once, diff), 3 the newest revision was tried and undone, 4 and not all
//! of it could be undone, 5 something differs and is left as it is, or a person holds something back, 64 wrong usage, 75 busy or try again
//! later, 78 a person must look at the local configuration or memory.

use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

use crate::log::chain;

mod ask;
mod backups;
mod bundle;
mod demo;
mod drift;
mod endpoint;
mod enrol;
mod explain;
mod follow;
mod hold;
mod init;
mod machine;
mod own;
mod past;
mod probe;
mod release;
mod reports;
mod repository;
mod status;
mod trust;
mod uninstall;
mod verify;

/// Pull-based GitOps agent for edge devices and bare VMs, without Kubernetes.
#[derive(Debug, Parser)]
#[command(name = "trimtab", version, propagate_version = true, max_term_width = 100)]
#[command(after_help = "Try `trimtab demo` first: it needs no root and no configuration.")]
struct Line {
    /// Manage a sandbox folder instead of this machine: configuration, state and every managed path lie beneath it, and no unit
    /// is touched.
    #[arg(long, global = true, value_name = "DIR", default_value = "/")]
    root: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// See it work: a throw-away fleet repository, a convergence and a repaired drift, without root.
    #[command(after_help = "Example:\n  trimtab demo --keep")]
    Demo(demo::Args),
    /// Enrol this host: write /etc/trimtab/agent.toml and trust.toml from a URL and a public key.
    #[command(
        after_help = "Example:\n  trimtab init --url https://git.example.org/fleet.git --key ~/.ssh/id_ed25519.pub --label role=kiosk\n  trimtab init --url https://git.example.org/fleet.git --mode release --channel production --root-digest sha256:…"
    )]
    Init(init::Args),
    /// Run the agent: poll, prove, converge, repair, until it is told to stop.
    #[command(after_help = "Example:\n  systemctl enable --now trimtab    (it runs `trimtab agent`)")]
    Agent,
    /// One pass, then leave: exit 0 when nothing was to do, 2 when something was changed, 1 when something went wrong.
    #[command(after_help = "Example:\n  trimtab once --json | jq .outcome")]
    Once(machine::OnceArgs),
    /// Show what a pass would do, and do nothing: exit 0 nothing, 2 changes, 1 error.
    #[command(after_help = "Example:\n  trimtab plan --json | jq '.changes[].resource'")]
    Plan(machine::PlanArgs),
    /// What differs between two kept generations, from local storage; without any, what a pass would change (as `plan`). Exit 0 nothing,
    /// 2 differences, 1 error.
    #[command(after_help = "Example:\n  trimtab diff 41 42")]
    Diff(past::DiffArgs),
    /// The generations: when each was put in force or undone and why, which is in force, which are kept; and what is denied.
    #[command(after_help = "Example:\n  trimtab history --json | jq '.history[] | select(.inForce)'")]
    History(machine::Json),
    /// Go back to a kept generation, without a network. Exit 0 when it is in force then, whole; the revision that was left is not tried again
    /// by itself, so later passes report `rolled-back` until a newer one comes.
    #[command(
        after_help = "Example:\n  trimtab rollback --reason \"the pumps stand still\"\n  trimtab rollback 41 --reason \"ticket 1234\""
    )]
    Rollback(ask::RollbackArgs),
    /// Try again what was undone or gone back from: one revision, or all. Exit as `sync`.
    #[command(after_help = "Example:\n  trimtab retry 3f1c0de4")]
    Retry(ask::RetryArgs),
    /// Allow one revision what the guards refused it: to take away more than `guard.max-removals`, or to replace files of yours with
    /// `guard.adopt = \"report\"`. Exit as `sync`.
    #[command(after_help = "Example:\n  trimtab approve 3f1c0de4")]
    Approve(ask::ApproveArgs),
    /// Leave the whole host as it is for a while: the repository is still looked at, and what differs is told, but nothing is updated, repaired
    /// or removed (a change that was begun is brought to its end first). Ends by itself; while it lasts the host is not ready.
    #[command(after_help = "Example:\n  trimtab suspend --reason \"disk is being replaced, ticket 1234\" --until 2h")]
    Suspend(hold::SuspendArgs),
    /// End a suspension, and do at once what waited for that.
    #[command(after_help = "Example:\n  trimtab resume")]
    Resume(machine::Json),
    /// Leave one file or unit as it is for a while: no update, repair, removal or restart touches it; everything else goes on.
    #[command(after_help = "Example:\n  trimtab pin /etc/app.conf --reason \"trying another limit\" --until 3days")]
    Pin(hold::PinArgs),
    /// End a pin.
    #[command(after_help = "Example:\n  trimtab unpin /etc/app.conf")]
    Unpin(hold::UnpinArgs),
    /// What is suspended or pinned on this host: until when, by whom, and why.
    #[command(after_help = "Example:\n  trimtab holds --json | jq '.pins | keys'")]
    Holds(machine::Json),
    /// What somebody changed on this host, who it was, and what became of it.
    #[command(after_help = "Example:\n  trimtab drift list --all\n  trimtab drift show 17")]
    Drift(drift::DriftArgs),
    /// Why a file, a unit or an image is as it is: which commit, signer, component, file and line put it here, what reads it, what changed it last,
    /// its drift, and what stands there now. Exit 0 when it is as wanted, 2 when not, 1 when nothing is known of it or it cannot be looked at.
    #[command(after_help = "Example:\n  trimtab explain /etc/app.conf\n  trimtab explain app.service --json | jq .origin")]
    Explain(explain::ExplainArgs),
    /// What of yours was replaced: originals, and what a repair took away.
    #[command(after_help = "Example:\n  trimtab backups restore /etc/motd --to /root/motd.before")]
    Backups(backups::BackupsArgs),
    /// Offline updates: commits, artifacts and images in one file, for hosts that no network reaches.
    #[command(
        after_help = "Example:\n  trimtab bundle create --output plant-7.bundle --host plant-7 --arch aarch64\n  trimtab bundle apply /media/stick/plant-7.bundle"
    )]
    Bundle(bundle::Args),
    /// Leave this host: stop and disable the agent, and forget. Says first what it will do, and asks.
    #[command(after_help = "Example:\n  trimtab uninstall --remove --yes")]
    Uninstall(uninstall::UninstallArgs),
    /// Ask the running agent to read its settings again and make a pass now, and wait for its end: exit 0 when the host is then as
    /// the repository says, 1 when not, 75 when no agent runs or the time is over.
    #[command(after_help = "Example:\n  trimtab sync && systemctl is-active app.service")]
    Sync(ask::Wait),
    /// How this host is: what is the matter, since when, and what to do. Exit 0 when it is ready, 5 when all is well but for what the
    /// repository or a person wants left alone, 1 when it is not ready or its agent does not run.
    #[command(after_help = "Example:\n  trimtab status --json | jq .ready\n  trimtab status --watch")]
    Status(status::StatusArgs),
    /// The reports that wait to be sent to the sinks of agent.toml.
    #[command(after_help = "Example:\n  trimtab reports list")]
    Reports(reports::ReportsArgs),
    /// Check a fleet repository, as CI would: every file, every component, every host; all problems at once.
    #[command(after_help = "Example:\n  trimtab validate .")]
    Validate(repository::ValidateArgs),
    /// Render one host from a fleet repository, exactly as the device would.
    #[command(after_help = "Example:\n  trimtab render . --host kiosk-1 --labels role=kiosk,site=lyon --out /tmp/kiosk-1")]
    Render(repository::RenderArgs),
    /// Release a commit to a channel: make the statement, show what each host and group would get, sign it, add a signature to somebody else's,
    /// push it. What hosts would refuse is never published.
    #[command(
        after_help = "Example:\n  trimtab release production --push\n  trimtab release production --countersign --push\n  trimtab release production --rollback-to HEAD~1 --sign minisign:safe.key"
    )]
    Release(Box<release::ReleaseArgs>),
    /// The root files: which keys may release, and how many of them it takes.
    #[command(after_help = "Example:\n  trimtab trust init --key ann=~/.ssh/id_ed25519.pub\n  trimtab trust show")]
    Trust(Box<trust::TrustArgs>),
    /// What a host would say of a repository, and why, step by step: each rule, what it expected, what it found. Exit 0 when a host would take
    /// it, 3 when not, 1 when it could not be looked at.
    #[command(
        after_help = "Example:\n  trimtab verify https://git.example.org/fleet.git --channel production --root-digest sha256:…\n  trimtab verify . --trust trust.toml --json | jq .verdict"
    )]
    Verify(Box<verify::VerifyArgs>),
    /// The facts of this host as JSON, as templates see them; `render --facts` takes them elsewhere.
    #[command(after_help = "Example:\n  trimtab facts > facts.json && trimtab render . --host kiosk-1 --facts facts.json")]
    Facts,
    /// The version of this program.
    #[command(after_help = "Example:\n  trimtab version --json")]
    Version(machine::Json),
    /// The unprivileged process that fetches; started by systemd or the agent, speaks on its standard input.
    #[command(hide = true)]
    Courier {
        /// Where `[source]` is read from.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// The cache of Git objects.
        #[arg(long, value_name = "DIR")]
        cache: Option<PathBuf>,
    },
    /// The unprivileged process that serves the status document over HTTP; started by systemd, leaves when nobody asks.
    #[command(hide = true, after_help = "Example:\n  trimtab endpoint --listen 127.0.0.1:9464")]
    Endpoint(endpoint::EndpointArgs),
    /// The guard over a new trimtab; started by systemd from the program before it (trimtab-guard.service).
    #[command(hide = true)]
    RestoreSelf,
    /// The unprivileged process that renders; started by the agent, speaks on its standard input and output.
    #[command(hide = true)]
    RenderWorker,
    /// The unprivileged process that asks the network for a health check; started by the agent, exits with 0 when the service is healthy.
    #[command(hide = true, subcommand)]
    Probe(probe::Probe),
}

impl Command {
    /// Whether it looks at the whole machine, at what only root may see, or changes something.
    fn is_for_root(&self) -> bool {
        if let Command::Trust(args) = self {
            return args.is_for_root();
        }
        !matches!(
            self,
            Command::Demo(_)
                | Command::Status(_)
                | Command::Validate(_)
                | Command::Render(_)
                | Command::Facts
                | Command::Release(_)
                | Command::Verify(_)
                | Command::Version(_)
                | Command::Bundle(bundle::Args { command: bundle::Command::Create(_) | bundle::Command::Show(_) })
                | Command::Courier { .. }
                | Command::Endpoint(_)
                | Command::Probe(_)
                | Command::RenderWorker
        )
    }
}

/// The whole command line, for what is generated from it: man pages and completions (packaging/pages).
pub fn command() -> clap::Command {
    Line::command()
}

/// Runs the program.
pub fn main() -> ExitCode {
    // Processes of ours that another one started know no better name than the path by which it did so.
    let _ = nix::sys::prctl::set_name(crate::wire::NAME);
    let line = match Line::try_parse() {
        Ok(line) => line,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(64) } else { ExitCode::SUCCESS };
        }
    };
    let places = crate::config::Places::new(&line.root);
    if line.command.is_for_root() && !places.is_sandbox() && !nix::unistd::geteuid().is_root() {
        complain(
            "this needs root, for it looks at the whole machine or changes it: run it with sudo, or on a sandbox with --root DIR",
        );
        return ExitCode::FAILURE;
    }
    match line.command {
        Command::Demo(args) => demo::run(&args),
        Command::Init(args) => init::run(&places, &args),
        Command::Agent => machine::agent(&places),
        Command::Once(args) => machine::once(&places, &args),
        Command::Plan(args) => machine::plan(&places, &args),
        Command::Diff(args) => past::diff(&places, &args),
        Command::History(json) => past::history(&places, json),
        Command::Rollback(args) => ask::rollback(&places, &args),
        Command::Retry(args) => ask::retry(&places, &args),
        Command::Approve(args) => ask::approve(&places, &args),
        Command::Suspend(args) => hold::suspend(&places, &args),
        Command::Resume(json) => hold::resume(&places, json),
        Command::Pin(args) => hold::pin(&places, &args),
        Command::Unpin(args) => hold::unpin(&places, &args),
        Command::Holds(json) => hold::holds(&places, json),
        Command::Drift(args) => drift::run(&places, &args),
        Command::Explain(args) => explain::run(&places, &args),
        Command::Backups(args) => backups::run(&places, &args),
        Command::Bundle(args) => bundle::run(&places, &args),
        Command::Uninstall(args) => uninstall::run(&places, &args),
        Command::Sync(wait) => ask::sync(&places, wait),
        Command::Status(args) => status::run(&places, args),
        Command::Reports(args) => reports::run(&places, &args),
        Command::Validate(args) => repository::validate(&args),
        Command::Render(args) => repository::render(&args),
        Command::Release(args) => release::run(&args),
        Command::Verify(args) => verify::run(&places, &args),
        Command::Trust(args) => trust::run(&places, &args),
        Command::Facts => machine::facts(&places),
        Command::Version(json) => version(json),
        Command::Courier { config, cache } => crate::courier::run_as_process(&config, &cache.unwrap_or_else(|| places.cache())),
        Command::Probe(asked) => probe::run(asked),
        Command::Endpoint(args) => endpoint::run(&places, &args),
        Command::RestoreSelf => own::guard(&places),
        Command::RenderWorker => match crate::render::worker(std::io::stdin().lock(), std::io::stdout().lock()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&error, 1),
        },
    }
}

fn version(json: machine::Json) -> ExitCode {
    let version = env!("CARGO_PKG_VERSION");
    let target = format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS);
    if json.json {
        print_json(&serde_json::json!({ "version": version, "target": target, "format": 1 }))
    } else {
        say(&format!("trimtab {version} ({target}), fleet repository format 1\n"))
    }
}

/// Writes an answer. A closed pipe (`| head`) is the reader's choice and no error.
fn say(text: &str) -> ExitCode {
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
    ExitCode::SUCCESS
}

fn print_json(value: &impl serde::Serialize) -> ExitCode {
    let text = serde_json::to_string_pretty(value).expect("because plain data with string keys always serialises");
    say(&(text + "\n"))
}

/// Writes an error with its whole chain of causes, once.
fn fail(error: &dyn std::error::Error, code: u8) -> ExitCode {
    complain(&chain(error));
    ExitCode::from(code)
}

fn complain(message: &str) {
    // What a parser drew has the word already.
    let message = message.strip_prefix("error: ").unwrap_or(message).trim_end();
    let sign = if error_color() { "\x1b[31merror:\x1b[0m" } else { "error:" };
    let _ = writeln!(std::io::stderr().lock(), "{sign} {message}");
}

fn warn(message: &str) {
    let sign = if error_color() { "\x1b[33mwarning:\x1b[0m" } else { "warning:" };
    let _ = writeln!(std::io::stderr().lock(), "{sign} {message}");
}

/// Whether standard output wants colour: a terminal, and nobody said no (no-color.org).
fn color() -> bool {
    std::io::stdout().is_terminal() && is_color_welcome()
}

/// Likewise for standard error.
fn error_color() -> bool {
    std::io::stderr().is_terminal() && is_color_welcome()
}

fn is_color_welcome() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}
