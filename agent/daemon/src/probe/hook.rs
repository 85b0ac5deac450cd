//! Hooks: a component's programs at fixed places of a pass, each a transient unit with a time limit.
//!
//! A program that is a managed file is run with the wanted content, whatever stands at its path now: a `pre-apply` hook comes before
//! the switch. It is laid into the state folder for that, which only root can enter; for another user that one folder is shown to the unit at
//! [`SHOWN`], where nobody else sees it.
//!
//! Guarantees: the output goes to the journal as `trimtab-hook`, each line with `TRIMTAB_PASS`, `TRIMTAB_PHASE` and `TRIMTAB_COMPONENT`; it ends, by itself
//! or killed when its time is over; what was laid down for it is removed. Limits: set-user-id programs and file capabilities are
//! off (`NoNewPrivileges=`); where there is no systemd (a sandbox) it is not run.

use std::fs::{self, DirBuilder, OpenOptions};
use std::hash::{BuildHasher as _, Hasher as _};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use trimtab_model::desired::{Desired, Node};
use trimtab_model::digest::Digest;
use trimtab_model::hook::{Hook, HookPhase};

use crate::host::command::{self, Command, CommandError, Exit, Runner};
use crate::log::chain;

/// Where the program of another user than root lies, for the unit alone.
const SHOWN: &str = "/run/trimtab-hook";
/// Under which name its output is in the journal.
const IDENTIFIER: &str = "trimtab-hook";
/// The exit status that asks for another time, as in sysexits(3): EX_TEMPFAIL.
const LATER: i32 = 75;
/// systemd's own exit status when it cannot become the user.
const NO_USER: i32 = 217;
/// How many of its last lines are told of a hook that failed.
const LINES: usize = 5;

/// In which pass, and between what, a hook runs.
#[derive(Debug, Clone)]
pub struct Context {
    /// The revision that is applied (or, going back, that is left).
    pub revision: String,
    /// The revision in force before; empty when there was none.
    pub previous: String,
    /// The pass's number.
    pub pass: u64,
    /// The agent's state folder, `/var/lib/trimtab`: a managed program is laid down in it for the time that it runs.
    pub state: PathBuf,
}

/// How a hook ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HookEnd {
    /// With status 0; or it was not run, for there is no systemd here.
    Done,
    /// A `pre-apply` or `pre-remove` that refused, with any other status.
    Veto {
        /// Its status, and its last lines.
        message: String,
    },
    /// It asks for another time: status 75, of a `pre-apply` or `pre-remove`.
    Later {
        /// Its last lines.
        message: String,
    },
    /// It did not do what it should: it could not be run, was killed because its time was over or by something else, or (where it has
    /// nothing to refuse) exited otherwise than with 0.
    Failed {
        /// Why, and its last lines.
        message: String,
    },
}

impl HookEnd {
    /// What went wrong, if anything did.
    pub fn trouble(&self) -> Option<&str> {
        match self {
            Self::Done => None,
            Self::Veto { message } | Self::Later { message } | Self::Failed { message } => Some(message),
        }
    }

    fn add(&mut self, words: &str) {
        if let Self::Veto { message } | Self::Later { message } | Self::Failed { message } = self
            && !words.is_empty()
        {
            message.push_str("; its last words:\n");
            message.push_str(words);
        }
    }
}

/// Runs one hook to its end. `desired` is the state that it comes from, and `contents` has the contents of that state's files.
pub async fn run_hook(
    hook: &Hook,
    desired: &Desired,
    contents: &dyn Fn(Digest) -> io::Result<Vec<u8>>,
    context: &Context,
    runner: &Runner,
) -> HookEnd {
    if matches!(runner, Runner::Child) {
        tracing::debug!("a hook was not run, for there is no systemd here");
        return HookEnd::Done;
    }
    let laid = match lay(hook, desired, contents, &context.state) {
        Ok(laid) => laid,
        Err(error) => return HookEnd::Failed { message: format!("its program could not be laid down: {}", chain(&error)) },
    };
    // A word of its own finds the lines of this very run again.
    let run = format!("{:016x}", std::hash::RandomState::new().build_hasher().finish());
    let outcome = command::run(&command(hook, context, laid.as_ref(), &run), runner).await;
    drop(laid);
    let mut end = judge(hook, outcome);
    if end != HookEnd::Done {
        end.add(&last_words(runner, &run).await);
    }
    end
}

fn command(hook: &Hook, context: &Context, laid: Option<&Laid>, run: &str) -> Command {
    let mut argv = hook.run.clone();
    let component = &hook.origin.component;
    if let (Some(laid), Some(program)) = (laid, argv.first_mut()) {
        *program = match &hook.user {
            Some(_) => format!("{SHOWN}/{}", laid.name),
            None => laid.folder.join(&laid.name).to_string_lossy().into_owned(),
        };
    }
    let phase = hook.on.word();
    let fields = vec![
        format!("TRIMTAB_PASS={}", context.pass),
        format!("TRIMTAB_PHASE={phase}"),
        format!("TRIMTAB_COMPONENT={component}"),
        format!("TRIMTAB_HOOK={run}"),
    ];
    let mut command = Command::new("hook", argv)
        .about(format!("{phase} hook of {component}"))
        .env("TRIMTAB_PHASE", phase)
        .env("TRIMTAB_REVISION", context.revision.as_str())
        .env("TRIMTAB_PREVIOUS", context.previous.as_str())
        .env("TRIMTAB_PASS", context.pass.to_string())
        .env("TRIMTAB_COMPONENT", component.as_str())
        .timeout(Duration::from_millis(hook.timeout_ms))
        .tied()
        .to_journal(IDENTIFIER, fields);
    if let Some(user) = &hook.user {
        command = command.user(user.as_str());
        if let Some(laid) = laid {
            command = command.bound(laid.folder.to_string_lossy(), SHOWN);
        }
    }
    command
}

fn judge(hook: &Hook, outcome: Result<command::Output, CommandError>) -> HookEnd {
    let may_refuse = matches!(hook.on, HookPhase::PreApply | HookPhase::PreRemove);
    match outcome {
        Ok(output) => match (output.exit, &hook.user) {
            (Exit::Status(0), _) => HookEnd::Done,
            (Exit::Status(NO_USER), Some(user)) => {
                HookEnd::Failed { message: format!("it could not be run as {user} (is there such a user?)") }
            }
            (Exit::Status(LATER), _) if may_refuse => HookEnd::Later { message: "it asks for another time".to_owned() },
            (exit @ Exit::Status(_), _) if may_refuse => HookEnd::Veto { message: exit.to_string() },
            (exit, _) => HookEnd::Failed { message: exit.to_string() },
        },
        Err(CommandError::TimedOut { after, .. }) => {
            HookEnd::Failed { message: format!("it had not ended after {} and was killed", humantime::format_duration(after)) }
        }
        Err(error) => HookEnd::Failed { message: chain(&error) },
    }
}

async fn last_words(runner: &Runner, run: &str) -> String {
    // What it said a moment ago may still be on its way into the journal.
    let flush = Command::new("journal", ["journalctl", "--sync"]).timeout(Duration::from_secs(10));
    if let Err(error) = command::run(&flush, runner).await {
        tracing::debug!("the journal could not be waited for: {}", chain(&error));
    }
    let (field, count) = (format!("TRIMTAB_HOOK={run}"), LINES.to_string());
    // By the identifier as well: systemd's own lines about the unit have the field, too.
    let words = ["journalctl", "-t", IDENTIFIER, &field, "-n", &count, "--no-pager", "-q", "-o", "cat"];
    match command::run(&Command::new("journal", words).timeout(Duration::from_secs(10)), runner).await {
        Ok(output) if output.is_success() => command::last_lines(&String::from_utf8_lossy(&output.stdout), LINES),
        _ => String::new(),
    }
}

/// A program that was laid down for one run; dropping it removes it.
#[derive(Debug)]
struct Laid {
    folder: PathBuf,
    name: String,
}

impl Drop for Laid {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            tracing::debug!(%error, "a hook's program could not be removed");
        }
    }
}

/// Lays the wanted content of a managed program down; `None` when the program is none of ours and lies where it lies.
fn lay(hook: &Hook, desired: &Desired, contents: &dyn Fn(Digest) -> io::Result<Vec<u8>>, state: &Path) -> io::Result<Option<Laid>> {
    let Some((path, entry)) = hook.run.first().and_then(|program| desired.entries.get_key_value(program.as_str())) else {
        return Ok(None);
    };
    let Node::File { digest, .. } = &entry.state.node else { return Ok(None) };
    let content = contents(*digest)?;
    let hooks = state.join("hooks");
    match DirBuilder::new().mode(0o700).create(&hooks) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let folder = hooks.join(digest.to_string());
    // What a killed agent left.
    match fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::create_dir(&folder)?;
    let laid = Laid { folder, name: path.file_name().to_owned() };
    // Whoever runs it must come to it and read it (scripts are read); root's folder above keeps everybody else out. Set afterwards,
    // for the process's umask would take bits away.
    fs::set_permissions(&laid.folder, fs::Permissions::from_mode(0o755))?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o700).open(laid.folder.join(&laid.name))?;
    file.write_all(&content)?;
    file.set_permissions(fs::Permissions::from_mode(0o555))?;
    // No sync: it is laid down anew for each run.
    Ok(Some(laid))
}
