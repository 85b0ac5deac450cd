//! `trimtab demo`: the whole thing in a throw-away sandbox, with nothing faked.
//!
//! A key by ssh-keygen, a fleet repository with a signed commit by git, the real agent with its courier and render worker on a
//! sandbox root. No root, no systemd, no configuration, and nothing outside of one temporary folder is touched.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::Args as ClapArgs;
use trimtab_model::report::Outcome;
use trimtab_model::status::Status;

use super::{complain, fail, status};
use crate::config::Places;
use crate::log::chain;

/// `trimtab demo`.
#[derive(Debug, ClapArgs)]
pub(super) struct Args {
    /// Keep the folder, to look around and to play on.
    #[arg(long)]
    keep: bool,
}

/// The repository of the demonstration: one group, one component, a template and a plain file.
const FILES: [(&str, &str); 4] = [
    (
        "fleet.toml",
        "format = 1\n\n[[group]]\nname = \"everyone\"\nselect = \"*\"\ncomponents = [\"hello\"]\n\n[group.set.hello]\ngreeting = \"Ahoy\"\n",
    ),
    (
        "components/hello/component.toml",
        "description = \"A greeting, so that there is something to see\"\n\n[variables.greeting]\ntype = \"string\"\ndefault = \"Hello\"\n",
    ),
    ("components/hello/files/etc/motd.j2", "{{ greeting }} from {{ host }}, held on course by trimtab.\n"),
    ("components/hello/files/etc/app/app.conf", "listen = 8080\nworkers = 2\n"),
];

/// What went wrong in the demonstration.
#[derive(Debug, thiserror::Error)]
enum DemoError {
    #[error("the demonstration needs `{tool}`: install it, e.g. `apt-get install {package}`")]
    Tool { tool: &'static str, package: &'static str },
    #[error("{what} failed: {output}")]
    Step { what: String, output: String },
    #[error("{}", path.display())]
    File { path: PathBuf, source: std::io::Error },
    #[error("cannot make the folder {}", path.display())]
    Folder { path: PathBuf, source: std::io::Error },
    #[error("ended by a signal")]
    Interrupted,
    #[error("the agent did not {what} within {seconds} seconds; its words are in {}", log.display())]
    Late { what: &'static str, seconds: u64, log: PathBuf },
}

pub(super) fn run(args: &Args) -> ExitCode {
    let name = format!("trimtab-demo-{}", std::process::id());
    let folder = std::env::temp_dir().join(name);
    watch_for_signals();
    if let Err(error) = make_folder(&folder) {
        return fail(&error, 1);
    }
    let ended = play(&folder);
    if args.keep {
        tell(&format!("\nKept: {}\n", folder.display()));
    } else {
        let _ = std::fs::remove_dir_all(&folder);
    }
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&chain(&error));
            ExitCode::FAILURE
        }
    }
}

/// Somebody pressed Ctrl-C, or ended us otherwise: the agent must end and the folder go all the same.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

fn watch_for_signals() {
    use tokio::signal::unix::{SignalKind, signal};
    let wait = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let mut interrupt = signal(SignalKind::interrupt())?;
            let mut terminate = signal(SignalKind::terminate())?;
            let mut hangup = signal(SignalKind::hangup())?;
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hangup.recv() => {}
            }
            INTERRUPTED.store(true, Ordering::Relaxed);
            Ok::<(), std::io::Error>(())
        })
    };
    std::thread::spawn(wait);
}

/// A folder of this process's alone: in /tmp others could have laid one (or a link) of that name.
fn make_folder(folder: &Path) -> Result<(), DemoError> {
    use std::os::unix::fs::DirBuilderExt as _;
    let made = std::fs::DirBuilder::new().mode(0o700).create(folder);
    made.map_err(|source| DemoError::Folder { path: folder.to_owned(), source })
}

fn tell(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes());
    let _ = out.flush();
}

fn headline(text: &str) {
    if super::color() {
        tell(&format!("\n\x1b[1m{text}\x1b[0m\n"));
    } else {
        tell(&format!("\n{text}\n"));
    }
}

/// The agent's process, ended with the demonstration however that ends.
struct Agent(Child);

impl Drop for Agent {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.0.id()).unwrap_or(0));
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let _ = self.0.wait();
    }
}

struct Stage {
    folder: PathBuf,
    host: PathBuf,
    work: PathBuf,
}

impl Stage {
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        // The person's own git settings stay out of it: this must work the same for everybody.
        command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_SYSTEM", "/dev/null").env("HOME", &self.folder);
        command.stdin(Stdio::null());
        command
    }

    fn git(&self, words: &[&str]) -> Result<(), DemoError> {
        let key = self.folder.join("person.pub");
        let mut command = self.command("git");
        command.arg("-C").arg(&self.work).args(["-c", "user.name=A Person", "-c", "user.email=person@example.org"]);
        command.args(["-c", "gpg.format=ssh", "-c"]).arg(format!("user.signingkey={}", key.display())).args(words);
        done(command, &format!("git {}", words.join(" ")))
    }

    fn write(&self, at: &str, text: &str) -> Result<(), DemoError> {
        put(&self.work.join(at), text)
    }
}

fn put(path: &Path, text: &str) -> Result<(), DemoError> {
    let fail = |source| DemoError::File { path: path.to_owned(), source };
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(fail)?;
    }
    std::fs::write(path, text).map_err(fail)
}

fn done(mut command: Command, what: &str) -> Result<(), DemoError> {
    let fail = |output: String| DemoError::Step { what: what.to_owned(), output };
    let output = command.output().map_err(|error| fail(error.to_string()))?;
    if output.status.success() { Ok(()) } else { Err(fail(String::from_utf8_lossy(&output.stderr).trim().to_owned())) }
}

fn need(tool: &'static str, package: &'static str) -> Result<(), DemoError> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|folder| folder.join(tool).is_file());
    if found { Ok(()) } else { Err(DemoError::Tool { tool, package }) }
}

fn play(folder: &Path) -> Result<(), DemoError> {
    need("git", "git")?;
    need("ssh-keygen", "openssh-client")?;
    let stage = Stage { folder: folder.to_owned(), host: folder.join("host"), work: folder.join("work") };
    for path in [&stage.host, &stage.work] {
        std::fs::create_dir_all(path).map_err(|source| DemoError::File { path: path.clone(), source })?;
    }
    headline("1. A person makes a key and a fleet repository, commits, signs and pushes");
    repository(&stage)?;
    headline("2. The host is enrolled: it will believe that key and nobody else");
    enrol(&stage)?;
    headline("3. The agent runs: it fetches, proves the signature, renders, converges");
    let log = folder.join("agent.log");
    let agent = start(&stage, &log)?;
    let first = wait(&stage, &log, "converge", |status| status.ready && status.generation > 0)?;
    tell(&format!("   converged: {}\n", first.reason));
    look(&stage);
    headline("4. Somebody edits a file on the host by hand …");
    let motd = stage.host.join("etc/motd");
    put(&motd, "pwned\n")?;
    tell("   $ echo pwned > etc/motd\n");
    let known = first.last_pass.map_or(0, |pass| pass.number);
    let repaired = |status: &Status| {
        let recent = status.history.first().filter(|line| line.number > known && line.drift > 0);
        let last = status.last_pass.as_ref().filter(|pass| pass.number > known && pass.line().drift > 0);
        recent.is_some() || last.is_some()
    };
    wait(&stage, &log, "repair the file", repaired)?;
    tell("   … and the next look finds the drift and repairs it:\n");
    look(&stage);
    headline("5. A stranger pushes a commit that nobody trusts signed");
    intrude(&stage)?;
    let held = wait(&stage, &log, "refuse the commit", |status| {
        status.last_pass.as_ref().is_some_and(|pass| pass.outcome == Outcome::Held)
    })?;
    tell(&format!("   {}\n", held.reason));
    look(&stage);
    drop(agent);
    headline("That was the real agent on a sandbox. What to look at next");
    tell("   trimtab demo --keep      the same, and the folder stays: host/ work/ fleet.git/ agent.log\n");
    tell("   examples/                fleet repositories to copy, and examples/FORMAT.md\n");
    tell("   trimtab init --help      enrol a real machine\n");
    Ok(())
}

fn repository(stage: &Stage) -> Result<(), DemoError> {
    for name in ["person", "stranger"] {
        let mut keygen = stage.command("ssh-keygen");
        keygen.args(["-q", "-t", "ed25519", "-N", "", "-C", name, "-f"]).arg(stage.folder.join(name));
        done(keygen, "ssh-keygen")?;
    }
    let mut bare = stage.command("git");
    bare.args(["init", "-q", "--bare", "-b", "main"]).arg(stage.folder.join("fleet.git"));
    done(bare, "git init --bare")?;
    stage.git(&["init", "-q", "-b", "main"])?;
    for (path, text) in FILES {
        stage.write(path, text)?;
        tell(&format!("   {path}\n"));
    }
    stage.git(&["add", "-A"])?;
    stage.git(&["commit", "-q", "-S", "-m", "Greet everyone"])?;
    stage.git(&["push", "-q", "../fleet.git", "main"])
}

fn enrol(stage: &Stage) -> Result<(), DemoError> {
    let mut init = Command::new(myself()?);
    init.arg("--root").arg(&stage.host).arg("init");
    init.arg("--url").arg(format!("file://{}", stage.folder.join("fleet.git").display()));
    init.arg("--key").arg(stage.folder.join("person.pub")).args(["--host", "demo-host", "--interval", "1s"]);
    let output = init.output().map_err(|source| DemoError::File { path: stage.host.clone(), source })?;
    if !output.status.success() {
        let output = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(DemoError::Step { what: "trimtab init".to_owned(), output });
    }
    for line in String::from_utf8_lossy(&output.stdout).lines().take(4) {
        tell(&format!("   {line}\n"));
    }
    Ok(())
}

fn myself() -> Result<PathBuf, DemoError> {
    std::env::current_exe().map_err(|source| DemoError::File { path: "/proc/self/exe".into(), source })
}

fn start(stage: &Stage, log: &Path) -> Result<Agent, DemoError> {
    let fail = |source| DemoError::File { path: log.to_owned(), source };
    let words = std::fs::File::create(log).map_err(fail)?;
    let mut agent = Command::new(myself()?);
    agent.arg("--root").arg(&stage.host).arg("agent").stdin(Stdio::null()).stdout(Stdio::null()).stderr(words);
    Ok(Agent(agent.spawn().map_err(fail)?))
}

fn wait(stage: &Stage, log: &Path, what: &'static str, done: impl Fn(&Status) -> bool) -> Result<Status, DemoError> {
    const SECONDS: u64 = 30;
    let places = Places::new(&stage.host);
    let deadline = Instant::now() + Duration::from_secs(SECONDS);
    while Instant::now() < deadline {
        if let Ok(status) = status::read(&places)
            && done(&status)
        {
            return Ok(status);
        }
        if INTERRUPTED.load(Ordering::Relaxed) {
            return Err(DemoError::Interrupted);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    if let Ok(words) = std::fs::read_to_string(log) {
        let _ = std::io::stderr().lock().write_all(words.as_bytes());
    }
    Err(DemoError::Late { what, seconds: SECONDS, log: log.to_owned() })
}

fn look(stage: &Stage) {
    for path in ["etc/motd", "etc/app/app.conf"] {
        let text = std::fs::read_to_string(stage.host.join(path)).unwrap_or_else(|error| error.to_string());
        tell(&format!("   $ cat {path}\n"));
        for line in text.lines() {
            tell(&format!("   | {line}\n"));
        }
    }
}

fn intrude(stage: &Stage) -> Result<(), DemoError> {
    stage.write("components/hello/files/etc/motd.j2", "All your hosts are belong to us.\n")?;
    let key = format!("user.signingkey={}", stage.folder.join("stranger.pub").display());
    let mut commit = stage.command("git");
    commit.arg("-C").arg(&stage.work).args(["-c", "user.name=A Stranger", "-c", "user.email=stranger@example.org"]);
    commit.args(["-c", "gpg.format=ssh", "-c", &key, "commit", "-q", "-S", "-a", "-m", "Greet nobody"]);
    done(commit, "git commit")?;
    stage.git(&["push", "-q", "../fleet.git", "main"])
}
