//! Transient units: work that needs a process, run by systemd under limits of its own and never as the agent's child.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use zbus::{Fd, Variant};

use super::bus::{Bus, Properties};
use super::{Systemd, UnitError, jobs};

/// systemd kills the work itself when its time is over; the agent waits this much longer before it calls systemd stuck.
const GRACE: Duration = Duration::from_secs(30);

/// One piece of work as systemd is told it.
#[derive(Debug)]
pub(crate) struct TransientUnit<'a> {
    /// `trimtab-<what>-<random>.service`.
    pub(crate) name: &'a str,
    /// For `systemctl status`.
    pub(crate) description: &'a str,
    /// An absolute path first.
    pub(crate) argv: &'a [String],
    /// `NAME=value`.
    pub(crate) environment: &'a [String],
    /// Killed after this.
    pub(crate) timeout: Duration,
    /// Bytes.
    pub(crate) memory_max: Option<u64>,
    /// User name; root if none.
    pub(crate) user: Option<&'a str>,
    /// Working directory.
    pub(crate) directory: Option<&'a str>,
    /// Whether set-user-id programs and file capabilities are off.
    pub(crate) no_new_privileges: bool,
    /// Where its output goes.
    pub(crate) output: TransientOutput<'a>,
    /// A folder of the host that it sees, read-only, at another path.
    pub(crate) bound: Option<(&'a str, &'a str)>,
}

/// Where the output of a piece of work goes.
#[derive(Debug)]
pub(crate) enum TransientOutput<'a> {
    /// To whoever holds the other ends.
    Pipes {
        /// Its output.
        stdout: BorrowedFd<'a>,
        /// Its errors.
        stderr: BorrowedFd<'a>,
    },
    /// To the journal.
    Journal {
        /// `SYSLOG_IDENTIFIER=`.
        identifier: &'a str,
        /// Further fields of every line, `NAME=value`.
        fields: &'a [String],
    },
}

/// How the work ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TransientEnd {
    /// It exited with this status.
    Exited(i32),
    /// A signal ended it.
    Killed(i32),
    /// It ran out of time and was killed.
    TimedOut,
    /// Anything else, in systemd's word: `oom-kill`, `resources`, …
    Other(String),
}

impl Systemd {
    /// Runs it to its end.
    pub(crate) async fn transient(&self, unit: &TransientUnit<'_>) -> Result<TransientEnd, UnitError> {
        type Auxiliary<'a> = Vec<(&'a str, Vec<(&'a str, Variant<'a>)>)>;
        let body = (unit.name, "fail", unit.properties(), Auxiliary::new());
        let outcome = jobs::queue_and_wait(&self.bus, "StartTransientUnit", unit.name, &body, unit.timeout + GRACE).await;
        let end = match outcome {
            Ok(result) => self.end_of(unit.name, &result).await,
            Err(error) => {
                if matches!(error, UnitError::Slow { .. }) {
                    self.stop_stuck(unit.name).await;
                }
                Err(error)
            }
        };
        // It was pinned by AddRef so that its end could be read; without this it would stay until the agent disconnects.
        if let Err(error) = self.bus.manager("UnrefUnit", unit.name, &(unit.name)).await {
            tracing::debug!(unit = unit.name, %error, "could not let go of a transient unit");
        }
        end
    }

    /// Ends work that nobody waits for any more, and lets go of it.
    pub(crate) async fn abandon(&self, name: &str) {
        for method in ["StopUnit", "UnrefUnit"] {
            let told = match method {
                "StopUnit" => self.bus.manager(method, name, &(name, "replace")).await,
                _ => self.bus.manager(method, name, &(name)).await,
            };
            if let Err(error) = told {
                tracing::debug!(unit = name, %error, "could not end work that nobody waits for");
            }
        }
    }

    async fn stop_stuck(&self, name: &str) {
        if let Err(error) = self.bus.manager("StopUnit", name, &(name, "replace")).await {
            tracing::warn!(unit = name, %error, "could not stop work that ran out of time");
        }
    }

    async fn end_of(&self, name: &str, job: &str) -> Result<TransientEnd, UnitError> {
        let service = properties(&self.bus, name).await?;
        Ok(judge(&service.text("Result"), service.number("ExecMainCode"), service.number("ExecMainStatus"), job))
    }
}

async fn properties(bus: &Bus, name: &str) -> Result<Properties, UnitError> {
    bus.properties(name, "org.freedesktop.systemd1.Service").await
}

/// The codes are waitid(2)'s: 1 exited, 2 killed, 3 dumped.
fn judge(result: &str, code: Option<i32>, status: Option<i32>, job: &str) -> TransientEnd {
    match (result, code, status) {
        ("timeout", ..) => TransientEnd::TimedOut,
        ("success" | "exit-code", Some(1), Some(status)) => TransientEnd::Exited(status),
        ("signal" | "core-dump", Some(2 | 3), Some(signal)) => TransientEnd::Killed(signal),
        ("success", ..) => TransientEnd::Other(format!("it never ran (its job ended as {job})")),
        (other, ..) => TransientEnd::Other(other.to_owned()),
    }
}

impl TransientUnit<'_> {
    fn properties(&self) -> Vec<(&str, Variant<'_>)> {
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let path = self.argv.first().map_or("", String::as_str);
        // systemd puts variables into the arguments of every ExecStart=; a doubled sign is one that it leaves alone. (The flag that turns
        // this off is younger than the oldest systemd that is served.)
        let argv: Vec<String> = self.argv.iter().map(|argument| argument.replace('$', "$$")).collect();
        let mut list = vec![
            ("Description", Variant::from(self.description)),
            ("Type", Variant::from("oneshot")),
            ("ExecStart", Variant::new(vec![(path, argv, false)])),
            ("Environment", Variant::new(self.environment.to_vec())),
            ("TimeoutStartUSec", Variant::from(micros(self.timeout))),
            ("TimeoutStopUSec", Variant::from(micros(Duration::from_secs(10)))),
            ("CollectMode", Variant::from("inactive-or-failed")),
            ("AddRef", Variant::from(true)),
            // A question may well be answered with status 1 (`podman image exists`): that is ours to judge and no failure of a unit.
            ("SuccessExitStatus", Variant::new(((1..=255).collect::<Vec<i32>>(), Vec::<i32>::new()))),
            ("NoNewPrivileges", Variant::from(self.no_new_privileges)),
        ];
        match &self.output {
            TransientOutput::Pipes { stdout, stderr } => {
                // "Starting …" and "Finished …" for each small piece of work would drown the journal of a quiet device.
                list.push(("LogLevelMax", Variant::from(4i32)));
                list.push(("StandardOutputFileDescriptor", Variant::Fd(Fd::from(stdout.as_fd()))));
                list.push(("StandardErrorFileDescriptor", Variant::Fd(Fd::from(stderr.as_fd()))));
            }
            // No LogLevelMax: it would hold back what the program itself writes.
            TransientOutput::Journal { identifier, fields } => {
                list.push(("StandardOutput", Variant::from("journal")));
                list.push(("StandardError", Variant::from("journal")));
                list.push(("SyslogIdentifier", Variant::from(*identifier)));
                let fields: Vec<Vec<u8>> = fields.iter().map(|field| field.clone().into_bytes()).collect();
                list.push(("LogExtraFields", Variant::new(fields)));
            }
        }
        if let Some((folder, at)) = self.bound {
            // Source, destination, whether a missing source is borne, mount flags (none: this folder only).
            list.push(("BindReadOnlyPaths", Variant::new(vec![(folder, at, false, 0u64)])));
        }
        if let Some(bytes) = self.memory_max {
            list.push(("MemoryMax", Variant::from(bytes)));
        }
        if let Some(user) = self.user {
            list.push(("User", Variant::from(user)));
        }
        if let Some(directory) = self.directory {
            list.push(("WorkingDirectory", Variant::from(directory)));
        }
        list
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_told_apart() {
        assert_eq!(judge("success", Some(1), Some(0), "done"), TransientEnd::Exited(0));
        assert_eq!(judge("exit-code", Some(1), Some(125), "failed"), TransientEnd::Exited(125));
        assert_eq!(judge("signal", Some(2), Some(9), "failed"), TransientEnd::Killed(9));
        // Killed by systemd for its time: the code says "killed", the result says why.
        assert_eq!(judge("timeout", Some(2), Some(15), "timeout"), TransientEnd::TimedOut);
        assert_eq!(judge("oom-kill", Some(2), Some(9), "failed"), TransientEnd::Other("oom-kill".to_owned()));
        assert!(matches!(judge("success", Some(0), Some(0), "canceled"), TransientEnd::Other(_)));
    }
}
