//! Git over the system's `ssh` program (or, for a push to a repository on this machine, its `git`): never prompting, never waiting for ever.
//!
//! The program's standard input and output are one socket, so that the kernel's socket timeouts bound every read and
//! write. What it says on standard error goes to a file that is read only when it failed.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::rc::Rc;

use gix_transport::client::git::ConnectMode;
use gix_transport::client::git::blocking_io::Connection;
use gix_transport::{Protocol, Service};

use super::CourierError;
use super::meter::{LinkError, Meter};
use super::source::{Location, SourceConfig};

/// The transport that gix speaks through.
pub(super) type SshConnection = Connection<Half, Half>;

/// A running ssh program; ended and reaped when dropped.
pub(super) struct Ssh {
    child: Child,
    stream: UnixStream,
    log: PathBuf,
    host: String,
    is_local: bool,
}

impl Ssh {
    /// Starts the program. That it reaches the server shows at the first read.
    pub(super) fn start(
        config: &SourceConfig,
        service: Service,
        scratch: &Path,
        meter: &Rc<Meter>,
    ) -> Result<(Self, SshConnection), CourierError> {
        let (mut command, host, path) = match &config.url {
            Location::Ssh { user, host, port, path } => {
                (ssh(config, service, user.as_deref(), host, *port, path), host.clone(), path.clone())
            }
            Location::Local(path) => (local(service, path), path.display().to_string(), path.display().to_string()),
            Location::Http { .. } => return Err(CourierError::Request("ssh to a location that is not ssh")),
        };
        let (ours, theirs) = UnixStream::pair().map_err(CourierError::Runtime)?;
        let log = scratch.join(format!("{}-{}", std::process::id(), service.as_str()));
        let errors = File::create(&log).map_err(|source| CourierError::Cache { path: log.clone(), source })?;
        let input = theirs.try_clone().map_err(CourierError::Runtime)?;
        command.stdin(Stdio::from(OwnedFd::from(input))).stdout(Stdio::from(OwnedFd::from(theirs))).stderr(errors);
        let is_local = matches!(config.url, Location::Local(_));
        let child = command.spawn().map_err(if is_local { LinkError::NoGit } else { LinkError::NoSsh })?;
        let half = |stream: &UnixStream| -> Result<Half, CourierError> {
            Ok(Half { stream: stream.try_clone().map_err(CourierError::Runtime)?, meter: meter.clone(), host: host.clone() })
        };
        let (read, write) = (half(&ours)?, half(&ours)?);
        let version = if service == Service::UploadPack { Protocol::V2 } else { Protocol::V1 };
        let connection = Connection::new(read, write, version, path, None::<(&str, _)>, ConnectMode::Process, false);
        Ok((Self { child, stream: ours, log, host, is_local }, connection))
    }

    /// Why it failed, if it has ended by now.
    pub(super) fn verdict(&mut self) -> Option<LinkError> {
        // It closes its output a moment before it ends.
        let mut tries = 0;
        while let Ok(None) = self.child.try_wait() {
            if tries == 20 {
                return None;
            }
            tries += 1;
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        if matches!(self.child.try_wait(), Ok(Some(status)) if status.success()) {
            return None;
        }
        let mut bytes = Vec::new();
        let _ = File::open(&self.log).and_then(|file| file.take(2000).read_to_end(&mut bytes));
        let text: Vec<_> = String::from_utf8_lossy(&bytes).split_whitespace().map(str::to_owned).collect();
        let text: String = text.join(" ").chars().filter(|c| !c.is_control()).take(300).collect();
        let advice = if text.contains("Host key verification failed") {
            " (put the server's key into the file that ssh-known-hosts names)"
        } else if text.contains("Permission denied") {
            " (see ssh-key; the public half must be allowed on the server)"
        } else {
            ""
        };
        let detail = if text.is_empty() { String::new() } else { format!(": {text}{advice}") };
        let host = self.host.clone();
        Some(if self.is_local { LinkError::Git { path: host, detail } } else { LinkError::Ssh { host, detail } })
    }
}

impl Drop for Ssh {
    fn drop(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Both);
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_file(&self.log);
    }
}

/// The command that reaches the far end of the service.
fn ssh(config: &SourceConfig, service: Service, user: Option<&str>, host: &str, port: Option<u16>, path: &str) -> Command {
    let mut command = Command::new("ssh");
    options(&mut command, config, port);
    target(&mut command, user, host);
    command.arg(format!("{} {}", service.as_str(), quoted(path)));
    command.env_remove("SSH_ASKPASS");
    // There is no version 2 of pushing.
    if service == Service::UploadPack {
        command.env("GIT_PROTOCOL", "version=2")
    } else {
        command.env_remove("GIT_PROTOCOL")
    };
    command
}

/// What it is told of the configuration, before the host.
pub(super) fn options(command: &mut Command, config: &SourceConfig, port: Option<u16>) {
    command.args(["-T", "-oBatchMode=yes", "-oSendEnv=GIT_PROTOCOL", "-oForwardAgent=no", "-oClearAllForwardings=yes"]);
    command.arg(format!("-oConnectTimeout={}", config.idle_timeout.as_secs().max(1)));
    if let Some(port) = port {
        command.arg(format!("-p{port}"));
    }
    if let Some(key) = &config.ssh_key {
        command.arg("-oIdentitiesOnly=yes").arg("-i").arg(SourceConfig::secret_path(key));
    }
    if let Some(known) = &config.ssh_known_hosts {
        command.arg(format!("-oUserKnownHostsFile={}", known.display()));
    }
}

/// Who it is to reach: never an option, whatever it looks like.
pub(super) fn target(command: &mut Command, user: Option<&str>, host: &str) {
    command.arg("--").arg(user.map_or(host.to_owned(), |user| format!("{user}@{host}")));
}

/// The same for a repository on this machine, with nothing of this process's environment that would lead Git elsewhere.
fn local(service: Service, path: &Path) -> Command {
    let mut command = Command::new("git");
    command.arg(service.as_str().trim_start_matches("git-")).arg("--").arg(path);
    for name in ["GIT_DIR", "GIT_WORK_TREE", "GIT_OBJECT_DIRECTORY", "GIT_PROTOCOL"] {
        command.env_remove(name);
    }
    command
}

/// The path as one word for the shell at the other end; `~` stays outside the quotes, or it would mean itself.
fn quoted(path: &str) -> String {
    let (home, rest) = match path.strip_prefix('~').and_then(|rest| rest.split_once('/')) {
        Some((user, rest)) if user.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-') => {
            (format!("~{user}/"), rest)
        }
        _ => (String::new(), path),
    };
    format!("{home}'{}'", rest.replace('\'', r"'\''"))
}

/// One direction of the socket, under the meter's bounds.
pub(super) struct Half {
    stream: UnixStream,
    meter: Rc<Meter>,
    host: String,
}

impl Half {
    fn failed(&self, error: io::Error) -> io::Error {
        self.meter.stop(match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => self.meter.timed_out(),
            _ => LinkError::Broken { host: self.host.clone(), certificate: false, source: error.into() },
        })
    }
}

impl Read for Half {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let patience = self.meter.patience().map_err(|reason| self.meter.stop(reason))?;
        let size = loop {
            match self.stream.set_read_timeout(Some(patience)).and_then(|()| self.stream.read(into)) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other.map_err(|error| self.failed(error))?,
            }
        };
        self.meter.received(size as u64).map_err(|reason| self.meter.stop(reason))?;
        Ok(size)
    }
}

impl Write for Half {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let patience = self.meter.patience().map_err(|reason| self.meter.stop(reason))?;
        let written = self.stream.set_write_timeout(Some(patience)).and_then(|()| self.stream.write(bytes));
        let size = written.map_err(|error| self.failed(error))?;
        self.meter.sent(0, size as u64);
        Ok(size)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn a_path_is_one_word_for_the_far_shell() {
        assert_eq!(quoted("/srv/it's; rm -rf"), r"'/srv/it'\''s; rm -rf'");
        assert_eq!(quoted("~ops/fleet git"), "~ops/'fleet git'");
        assert_eq!(quoted("~$(x)/y"), "'~$(x)/y'");
    }
}
