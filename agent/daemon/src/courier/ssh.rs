//! Git over the system's `ssh` program: never prompting, never waiting for ever.
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
}

impl Ssh {
    /// Starts the program. That it reaches the server shows at the first read.
    pub(super) fn start(config: &SourceConfig, scratch: &Path, meter: &Rc<Meter>) -> Result<(Self, SshConnection), CourierError> {
        let Location::Ssh { user, host, port, path } = &config.url else {
            return Err(CourierError::Request("ssh to a location that is not ssh"));
        };
        let (ours, theirs) = UnixStream::pair().map_err(CourierError::Runtime)?;
        let log = scratch.join(format!("{}-ssh", std::process::id()));
        let errors = File::create(&log).map_err(|source| CourierError::Cache { path: log.clone(), source })?;
        let mut command = Command::new("ssh");
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
        let target = user.as_ref().map_or(host.clone(), |user| format!("{user}@{host}"));
        command.arg("--").arg(target).arg(format!("git-upload-pack {}", quoted(path)));
        command.env("GIT_PROTOCOL", "version=2").env_remove("SSH_ASKPASS");
        let input = theirs.try_clone().map_err(CourierError::Runtime)?;
        command.stdin(Stdio::from(OwnedFd::from(input))).stdout(Stdio::from(OwnedFd::from(theirs))).stderr(errors);
        let child = command.spawn().map_err(LinkError::NoSsh)?;
        let half = |stream: &UnixStream| -> Result<Half, CourierError> {
            Ok(Half { stream: stream.try_clone().map_err(CourierError::Runtime)?, meter: meter.clone(), host: host.clone() })
        };
        let (read, write) = (half(&ours)?, half(&ours)?);
        let connection = Connection::new(
            read,
            write,
            gix_transport::Protocol::V2,
            path.as_str(),
            None::<(&str, _)>,
            ConnectMode::Process,
            false,
        );
        Ok((Self { child, stream: ours, log, host: host.clone() }, connection))
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
        Some(LinkError::Ssh { host: self.host.clone(), detail })
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
