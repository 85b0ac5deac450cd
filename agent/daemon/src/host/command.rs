//! Work that needs a process: as a transient systemd unit with limits of its own; where there is no systemd, as a plain child.
//!
//! Guarantees: it ends (by itself, or killed when its time is over); of its output only the last part is kept, however much it writes;
//! its environment is ours, not the agent's. Limits: no input; memory is bounded only under systemd.

use std::fmt;
use std::hash::{BuildHasher as _, Hasher as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;

use super::units::{Systemd, TransientEnd, TransientOutput, TransientUnit, UnitError};

/// Where programs are looked for; never in the PATH of whoever started the agent.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How much of each of its outputs is kept unless more is asked for.
pub const OUTPUT_LIMIT: usize = 64 << 10;

/// Long work says that it lives this often.
const PROGRESS: Duration = Duration::from_secs(5);

/// Why a piece of work did not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The program is not on this machine.
    #[error("{program} is not installed on this host")]
    Missing {
        /// Its name.
        program: String,
    },
    /// No pipe, no process: the machine is out of something.
    #[error("could not start {program}")]
    Start {
        /// Its name.
        program: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// systemd did not run it.
    #[error("systemd did not run {program}")]
    Unit {
        /// Its name.
        program: String,
        /// What systemd said.
        source: Box<UnitError>,
    },
    /// It took too long and was killed.
    #[error("{program} was stopped because it had not ended after {}", humantime::format_duration(*after))]
    TimedOut {
        /// Its name.
        program: String,
        /// The time that it had.
        after: Duration,
    },
    /// It ended otherwise than with success.
    #[error("{program} {how}{}", words(said))]
    Failed {
        /// Its name.
        program: String,
        /// "exited with status 1", "was killed by signal 9".
        how: String,
        /// The end of what it wrote to its error output.
        said: String,
    },
}

fn words(said: &str) -> String {
    if said.is_empty() { String::new() } else { format!(": {said}") }
}

/// Who runs commands.
#[derive(Debug, Clone)]
pub enum Runner {
    /// systemd, as transient units.
    Systemd(Arc<Systemd>),
    /// The agent itself: the demo, tests, a sandbox.
    Child,
}

/// A piece of work.
#[derive(Debug, Clone)]
pub struct Command {
    what: &'static str,
    about: String,
    argv: Vec<String>,
    environment: Vec<(String, String)>,
    timeout: Duration,
    memory_max: Option<u64>,
    user: Option<String>,
    directory: Option<String>,
    output_limit: usize,
    tied: bool,
    journal: Option<(&'static str, Vec<String>)>,
    bound: Option<(String, String)>,
}

impl Command {
    /// `what` is a short word for the unit's name (`pull`); the first of `argv` is a program's name or absolute path.
    pub fn new<S: Into<String>>(what: &'static str, argv: impl IntoIterator<Item = S>) -> Self {
        let argv: Vec<String> = argv.into_iter().map(Into::into).collect();
        Self {
            what,
            about: argv.join(" ").chars().take(200).collect(),
            argv,
            environment: Vec::new(),
            timeout: Duration::from_secs(60),
            memory_max: None,
            user: None,
            directory: None,
            output_limit: OUTPUT_LIMIT,
            tied: false,
            journal: None,
            bound: None,
        }
    }

    /// What it is for, in the unit's description and in progress messages; without it, its command line.
    #[must_use]
    pub fn about(mut self, about: impl Into<String>) -> Self {
        self.about = about.into();
        self
    }

    /// Adds to its environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.environment.push((name.to_owned(), value.into()));
        self
    }

    /// Killed after this; a minute if not said otherwise.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Killed when it needs more memory, in bytes. Only under systemd.
    #[must_use]
    pub fn memory_max(mut self, bytes: u64) -> Self {
        self.memory_max = Some(bytes);
        self
    }

    /// Run as this user. Only under systemd.
    #[must_use]
    pub fn user(mut self, name: impl Into<String>) -> Self {
        self.user = Some(name.into());
        self
    }

    /// Its working directory; `/` if not said otherwise.
    #[must_use]
    pub fn directory(mut self, path: impl Into<String>) -> Self {
        self.directory = Some(path.into());
        self
    }

    /// Keeps this much of each output instead of [`OUTPUT_LIMIT`].
    #[must_use]
    pub fn output_limit(mut self, bytes: usize) -> Self {
        self.output_limit = bytes;
        self
    }

    /// Ended when nobody waits for it any more, as long as the agent itself goes on. Without this, work whose future is dropped goes on under
    /// systemd until its time is over.
    #[must_use]
    pub fn tied(mut self) -> Self {
        self.tied = true;
        self
    }

    /// Has its output written to the journal under an identifier and with further fields (`NAME=value`), instead of kept. Only under
    /// systemd.
    #[must_use]
    pub fn to_journal(mut self, identifier: &'static str, fields: Vec<String>) -> Self {
        self.journal = Some((identifier, fields));
        self
    }

    /// Shows it a folder of the host, read-only, at another path, where nobody else sees it; its program may lie there. Only under
    /// systemd.
    #[must_use]
    pub fn bound(mut self, folder: impl Into<String>, at: impl Into<String>) -> Self {
        self.bound = Some((folder.into(), at.into()));
        self
    }

    /// Where its program is, if it is anywhere.
    fn find(&self) -> Option<String> {
        let program = self.argv.first()?;
        match &self.bound {
            Some((_, at)) if program.strip_prefix(at.as_str()).is_some_and(|rest| rest.starts_with('/')) => Some(program.clone()),
            _ => find(program),
        }
    }

    fn program(&self) -> String {
        self.argv.first().map_or_else(String::new, |name| name.rsplit('/').next().unwrap_or(name).to_owned())
    }

    fn environment(&self) -> Vec<(String, String)> {
        let fixed = [("PATH", PATH), ("LC_ALL", "C.UTF-8"), ("HOME", "/root")];
        // Another user's home is systemd's to tell.
        let count = if self.user.is_some() { 2 } else { 3 };
        let fixed = fixed.iter().take(count).filter(|(name, _)| !self.environment.iter().any(|(own, _)| own == name));
        fixed.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).chain(self.environment.iter().cloned()).collect()
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// With this status.
    Status(i32),
    /// By this signal.
    Signal(i32),
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Exit::Status(status) => write!(f, "exited with status {status}"),
            Exit::Signal(signal) => write!(f, "was killed by signal {signal}"),
        }
    }
}

/// What a process left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Its program's name, for messages.
    pub program: String,
    /// How it ended.
    pub exit: Exit,
    /// The last part of its output.
    pub stdout: Vec<u8>,
    /// The last part of its error output.
    pub stderr: Vec<u8>,
    /// Whether something was cut off at the front of either.
    pub cut: bool,
}

impl Output {
    /// Whether it exited with status 0.
    pub fn is_success(&self) -> bool {
        self.exit == Exit::Status(0)
    }

    /// Both outputs, errors first, as text.
    pub fn text(&self) -> String {
        let (errors, output) = (String::from_utf8_lossy(&self.stderr), String::from_utf8_lossy(&self.stdout));
        format!("{}\n{}", errors.trim_end(), output.trim_end()).trim().to_owned()
    }

    /// Itself if it succeeded; otherwise an error that carries the end of what it said.
    pub fn successful(self) -> Result<Self, CommandError> {
        if self.is_success() {
            return Ok(self);
        }
        let said = last_lines(&self.text(), 5);
        Err(CommandError::Failed { program: self.program, how: self.exit.to_string(), said })
    }
}

/// The last few lines of a text, each cut to a readable length.
pub fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let from = lines.len().saturating_sub(count);
    let cut = |line: &&str| line.trim_end().chars().take(300).collect::<String>();
    lines[from..].iter().map(cut).collect::<Vec<_>>().join("\n")
}

/// Runs a command to its end. An error means that it did not run or did not end by itself; a failing exit is an [`Output`].
pub async fn run(command: &Command, runner: &Runner) -> Result<Output, CommandError> {
    let program = command.program();
    let path = command.find().ok_or_else(|| CommandError::Missing { program: program.clone() })?;
    let working = async {
        match runner {
            Runner::Systemd(systemd) => as_unit(command, path, systemd).await,
            Runner::Child => as_child(command, &path).await,
        }
    };
    tokio::pin!(working);
    let started = tokio::time::Instant::now();
    loop {
        tokio::select! {
            outcome = &mut working => return outcome,
            () = tokio::time::sleep(PROGRESS) => {
                tracing::info!(target: crate::log::PROGRESS, seconds = started.elapsed().as_secs(), "still at it: {}", command.about);
            }
        }
    }
}

/// The program's absolute path, if there is one.
pub fn find(program: &str) -> Option<String> {
    if program.starts_with('/') {
        return Path::new(program).is_file().then(|| program.to_owned());
    }
    PATH.split(':').map(|folder| format!("{folder}/{program}")).find(|path| Path::new(path).is_file())
}

async fn as_unit(command: &Command, path: String, systemd: &Arc<Systemd>) -> Result<Output, CommandError> {
    let program = command.program();
    let start = |source: std::io::Error| CommandError::Start { program: program.clone(), source };
    let (stdout_reader, stdout) = capture(command.output_limit).map_err(start)?;
    let (stderr_reader, stderr) = capture(command.output_limit).map_err(start)?;
    let mut argv = command.argv.clone();
    argv[0] = path;
    let environment: Vec<String> = command.environment().into_iter().map(|(name, value)| format!("{name}={value}")).collect();
    let random = std::hash::RandomState::new().build_hasher().finish();
    let name = format!("trimtab-{}-{random:016x}.service", command.what);
    let mut tie = Tie { systemd, name: command.tied.then(|| name.clone()) };
    let ended = systemd
        .transient(&TransientUnit {
            name: &name,
            description: &command.about,
            argv: &argv,
            environment: &environment,
            timeout: command.timeout,
            memory_max: command.memory_max,
            user: command.user.as_deref(),
            directory: command.directory.as_deref(),
            no_new_privileges: true,
            output: match &command.journal {
                Some((identifier, fields)) => TransientOutput::Journal { identifier, fields },
                None => TransientOutput::Pipes { stdout: stdout.as_fd(), stderr: stderr.as_fd() },
            },
            bound: command.bound.as_ref().map(|(folder, at)| (folder.as_str(), at.as_str())),
        })
        .await;
    tie.name = None;
    // The readers end when the last writer is gone, and we are one.
    drop((stdout, stderr));
    let (stdout, stderr) = tokio::join!(stdout_reader.finish(), stderr_reader.finish());
    let exit = match ended {
        Ok(TransientEnd::Exited(status)) => Exit::Status(status),
        Ok(TransientEnd::Killed(signal)) => Exit::Signal(signal),
        Ok(TransientEnd::TimedOut) => return Err(CommandError::TimedOut { program, after: command.timeout }),
        Ok(TransientEnd::Other(how)) => {
            let said = last_lines(&String::from_utf8_lossy(&stderr.0), 5);
            return Err(CommandError::Failed { program, how: format!("did not run to its end ({how})"), said });
        }
        Err(source) => return Err(CommandError::Unit { program, source: Box::new(source) }),
    };
    Ok(Output { program, exit, cut: stdout.1 || stderr.1, stdout: stdout.0, stderr: stderr.0 })
}

/// Ends a unit whose end nobody waits for any more.
struct Tie<'a> {
    systemd: &'a Arc<Systemd>,
    name: Option<String>,
}

impl Drop for Tie<'_> {
    fn drop(&mut self) {
        let Some(name) = self.name.take() else { return };
        let systemd = Arc::clone(self.systemd);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { systemd.abandon(&name).await });
        }
    }
}

async fn as_child(command: &Command, path: &str) -> Result<Output, CommandError> {
    let program = command.program();
    let start = |source: std::io::Error| CommandError::Start { program: program.clone(), source };
    let (stdout_reader, stdout) = capture(command.output_limit).map_err(start)?;
    let (stderr_reader, stderr) = capture(command.output_limit).map_err(start)?;
    let mut child = {
        // In a block of its own: the builder holds the pipes' write ends, and the readers end only when all are closed.
        let mut building = tokio::process::Command::new(path);
        building.args(&command.argv[1..]).env_clear().envs(command.environment());
        building.current_dir(command.directory.as_deref().unwrap_or("/")).stdin(Stdio::null());
        building.stdout(stdout).stderr(stderr).process_group(0).kill_on_drop(true);
        building.spawn().map_err(start)?
    };
    let group = child.id();
    let Ok(waited) = tokio::time::timeout(command.timeout, child.wait()).await else {
        kill_group(group);
        let _ = child.wait().await;
        return Err(CommandError::TimedOut { program, after: command.timeout });
    };
    let status = waited.map_err(start)?;
    // What it left running must not hold our pipes, nor outlive its purpose; under systemd its control group ends with it as well.
    kill_group(group);
    let (stdout, stderr) = tokio::join!(stdout_reader.finish(), stderr_reader.finish());
    let exit = status.code().map_or_else(|| Exit::Signal(status.signal().unwrap_or_default()), Exit::Status);
    Ok(Output { program, exit, cut: stdout.1 || stderr.1, stdout: stdout.0, stderr: stderr.0 })
}

fn kill_group(leader: Option<u32>) {
    if let Some(group) = leader.and_then(|id| i32::try_from(id).ok()) {
        // ESRCH when nothing of it is left, which is the usual case.
        let _ = nix::sys::signal::killpg(nix::unistd::Pid::from_raw(group), nix::sys::signal::Signal::SIGKILL);
    }
}

/// The last bytes that came out of a pipe.
#[derive(Debug, Default)]
struct Tail {
    bytes: Vec<u8>,
    cut: bool,
}

impl Tail {
    fn add(&mut self, more: &[u8], limit: usize) {
        self.bytes.extend_from_slice(more);
        // Cut only when it has doubled, so that a chatty program costs no copy per read.
        if self.bytes.len() > limit.saturating_mul(2) {
            self.trim(limit);
        }
    }

    fn trim(&mut self, limit: usize) {
        let excess = self.bytes.len().saturating_sub(limit);
        if excess > 0 {
            self.bytes.drain(..excess);
            self.cut = true;
        }
    }
}

/// A reader of one pipe, at work since the pipe was made.
struct Capture {
    tail: Arc<Mutex<Tail>>,
    limit: usize,
    task: tokio::task::JoinHandle<()>,
}

fn capture(limit: usize) -> std::io::Result<(Capture, OwnedFd)> {
    let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
    // Our end only: the flag belongs to the open end, and a program does not expect its output not to block.
    let flags = nix::fcntl::OFlag::O_NONBLOCK;
    nix::fcntl::fcntl(&read, nix::fcntl::FcntlArg::F_SETFL(flags))?;
    let mut receiver = pipe::Receiver::from_owned_fd(read)?;
    let tail = Arc::new(Mutex::new(Tail::default()));
    let shared = Arc::clone(&tail);
    let task = tokio::spawn(async move {
        let mut buffer = vec![0; 8 << 10];
        while let Ok(count @ 1..) = receiver.read(&mut buffer).await {
            shared.lock().unwrap_or_else(PoisonError::into_inner).add(&buffer[..count], limit);
        }
    });
    Ok((Capture { tail, limit, task }, write))
}

impl Capture {
    /// What came, and whether its front was cut off.
    async fn finish(mut self) -> (Vec<u8>, bool) {
        // The writers are gone with the process; one that escaped its group is not waited for.
        if tokio::time::timeout(Duration::from_secs(2), &mut self.task).await.is_err() {
            self.task.abort();
        }
        let mut tail = std::mem::take(&mut *self.tail.lock().unwrap_or_else(PoisonError::into_inner));
        tail.trim(self.limit);
        (tail.bytes, tail.cut)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        Command::new("test", ["sh", "-c", script])
    }

    #[tokio::test]
    async fn status_and_both_outputs_come_back() {
        let output = run(&shell("echo out; echo err >&2; exit 3"), &Runner::Child).await.unwrap();
        assert_eq!(
            (output.exit, output.stdout.as_slice(), output.stderr.as_slice()),
            (Exit::Status(3), &b"out\n"[..], &b"err\n"[..])
        );
        let error = output.successful().unwrap_err().to_string();
        assert_eq!(error, "sh exited with status 3: err\nout");
    }

    #[tokio::test]
    async fn only_the_end_of_a_flood_is_kept() {
        let command = shell("head -c 1000000 /dev/zero; printf END").output_limit(1000);
        let output = run(&command, &Runner::Child).await.unwrap();
        assert_eq!(output.stdout.len(), 1000);
        assert!(output.cut && output.stdout.ends_with(b"END"));
    }

    #[tokio::test]
    async fn time_ends_it_and_all_that_it_started() {
        let command = shell("sleep 60 & echo $!; wait").timeout(Duration::from_millis(200));
        let started = std::time::Instant::now();
        let error = run(&command, &Runner::Child).await.unwrap_err();
        assert!(matches!(error, CommandError::TimedOut { .. }), "{error}");
        assert!(started.elapsed() < Duration::from_secs(5));
    }

    #[tokio::test]
    async fn a_missing_program_is_named_and_the_environment_is_ours() {
        let error = run(&Command::new("test", ["no-such-program"]), &Runner::Child).await.unwrap_err();
        assert_eq!(error.to_string(), "no-such-program is not installed on this host");
        let output = run(&Command::new("test", ["env"]).env("A", "b c"), &Runner::Child).await.unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains("A=b c\n") && text.contains(&format!("PATH={PATH}\n")), "{text}");
        assert!(!text.contains("CARGO"), "{text}");
    }
}
