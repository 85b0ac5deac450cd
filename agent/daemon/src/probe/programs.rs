//! Checks that are programs: a component's own one, started for each question; and `trimtab probe`, which asks until it is decided.

use std::path::Path;
use std::time::Duration;

use trimtab_model::health::{Answer, Probe, Timing};
use trimtab_model::names::AccountName;

use super::Clocked;
use crate::host::command::{self, Command, CommandError, Exit, Output, Runner};
use crate::log::chain;

/// Who asks the network: nobody in particular.
const NOBODY: &str = "nobody";
/// Enough for TLS with all of the system's authorities.
const PROBE_MEMORY: u64 = 128 << 20;
/// Beyond its own timeout, until the process is killed.
const GRACE: Duration = Duration::from_secs(15);
/// systemd's own exit status when it cannot become the user.
const NO_USER: i32 = 217;

/// Asks with a component's program until it is decided.
pub(super) async fn command(
    runner: &Runner,
    run: &[String],
    user: Option<&AccountName>,
    memory_max: Option<u64>,
    timing: Timing,
) -> Result<(), String> {
    let mut clocked = Clocked::new(timing);
    loop {
        let mut command = Command::new("check", run).tied().timeout(clocked.left());
        if let Some(user) = user {
            command = command.user(user.as_str());
        }
        if let Some(bytes) = memory_max {
            command = command.memory_max(bytes);
        }
        let answer = judge(command::run(&command, runner).await, user);
        if let Some(decided) = clocked.take(Some(answer)) {
            return decided;
        }
        tokio::time::sleep_until(clocked.next()).await;
    }
}

fn judge(outcome: Result<Output, CommandError>, user: Option<&AccountName>) -> Answer {
    match outcome {
        Ok(output) if output.is_success() => Answer::Good,
        Ok(output) => {
            if let (Exit::Status(NO_USER), Some(user)) = (output.exit, user) {
                return Answer::Never(format!("it could not be run as {user} (is there such a user?)"));
            }
            let said = command::last_lines(&output.text(), 1);
            Answer::Bad(if said.is_empty() { output.exit.to_string() } else { format!("{}: {said}", output.exit) })
        }
        Err(error @ CommandError::Missing { .. }) => Answer::Never(error.to_string()),
        Err(error) => Answer::Bad(chain(&error)),
    }
}

/// Has `trimtab probe` ask the network until it is decided.
pub(super) async fn network(runner: &Runner, program: &Path, probe: &Probe, timing: Timing) -> Result<(), String> {
    let mut argv = vec![program.to_string_lossy().into_owned(), "probe".to_owned()];
    match probe {
        Probe::Http { url, status, body } => {
            argv.extend(["http".to_owned(), url.clone()]);
            argv.extend(status.iter().map(|status| format!("--status={status}")));
            argv.extend(body.iter().map(|body| format!("--body={body}")));
        }
        Probe::Tcp { address } => argv.extend(["tcp".to_owned(), address.clone()]),
        Probe::Unit { .. } | Probe::Command { .. } | Probe::Container { .. } => return Ok(()),
    }
    let (timeout, interval) = (timing.timeout_ms, timing.interval_ms);
    argv.extend([format!("--timeout-ms={timeout}"), format!("--interval-ms={interval}")]);
    argv.extend([format!("--settle-ms={}", timing.settle_ms), format!("--retries={}", timing.retries)]);
    let command = Command::new("probe", argv)
        .about("ask whether a service is healthy")
        .tied()
        .timeout(Duration::from_millis(timeout) + GRACE)
        .memory_max(PROBE_MEMORY)
        .user(NOBODY);
    match command::run(&command, runner).await {
        Ok(output) if output.is_success() => Ok(()),
        // Its reason is the last that it says.
        Ok(output) => {
            let said = command::last_lines(&output.text(), 1);
            Err(if said.is_empty() { format!("the probe {}", output.exit) } else { said })
        }
        Err(error) => Err(chain(&error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_answers_by_its_exit_and_a_missing_one_for_good() {
        let output = |exit, said: &str| {
            Ok(Output { program: "check".into(), exit, stdout: said.as_bytes().to_vec(), stderr: Vec::new(), cut: false })
        };
        let user: AccountName = "app".parse().unwrap();
        assert_eq!(judge(output(Exit::Status(0), "fine"), None), Answer::Good);
        assert_eq!(
            judge(output(Exit::Status(3), "one\nno database\n"), None),
            Answer::Bad("exited with status 3: no database".to_owned())
        );
        assert_eq!(judge(output(Exit::Signal(9), ""), None), Answer::Bad("was killed by signal 9".to_owned()));
        assert!(matches!(judge(output(Exit::Status(217), ""), Some(&user)), Answer::Never(_)));
        assert!(matches!(judge(output(Exit::Status(217), ""), None), Answer::Bad(_)));
        assert!(matches!(judge(Err(CommandError::Missing { program: "check".into() }), None), Answer::Never(_)));
        let slow = CommandError::TimedOut { program: "check".into(), after: Duration::from_secs(1) };
        assert!(matches!(judge(Err(slow), None), Answer::Bad(_)));
    }
}
