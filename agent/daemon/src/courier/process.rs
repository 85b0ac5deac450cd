//! The courier as a process: what it may use, where its configuration comes from, and that its socket is descriptor 0.

use std::fs;
use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;

use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use trimtab_model::status::CourierStatus;

use super::confine::confine;
use super::reach::Duty;
use super::serve::{refuse, serve_behind};
use super::{Artifacts, CourierConfig, CourierError, SourceConfig, chain, remark};
use crate::sinks::SinkConfig;

/// The most memory, mapped files included.
const MEMORY: u64 = 1 << 30;
/// The largest file that it may write.
const FILE: u64 = 512 << 20;
/// Seconds of CPU for one life; a life is one pass of the agent.
const CPU: u64 = 900;

/// What `trimtab courier --config PATH` does: serves the connection on descriptor 0 until it is closed.
pub fn run_as_process(config: &Path, cache: &Path) -> ExitCode {
    let outcome = limit_self().and_then(|()| {
        // systemd (Accept=yes, StandardInput=socket) and the agent alike put the connection there.
        let stream = std::io::stdin().as_fd().try_clone_to_owned().map(UnixStream::from).map_err(CourierError::Runtime)?;
        stream.local_addr().map_err(CourierError::NoSocket)?;
        match config_of(config) {
            Ok((source, sinks, artifacts)) => {
                let config = CourierConfig { source, sinks, artifacts, cache: cache.to_owned() };
                serve_behind(stream, config, cache, confine_self)
            }
            Err(error) => refuse(stream, error),
        }
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The journal gets it: nobody may be left at the other end of the socket.
            remark(&chain(&error));
            ExitCode::FAILURE
        }
    }
}

/// Puts up the wall for this life, and says whether it stands. Where there is none it goes on without: systemd's stands all the same, and a device
/// that no longer follows its repository would be the greater harm.
#[allow(clippy::print_stderr)]
fn confine_self(config: &CourierConfig, duty: &Duty) -> CourierStatus {
    let wall = confine(config, duty).told();
    // The agent tells of the source's courier, once. This is for who looks in the journal for the others; on a terminal it would be told with each.
    if wall.landlock.lacks() && std::env::var_os("JOURNAL_STREAM").is_some() {
        eprintln!("<7>trimtab courier: Landlock does not wholly confine the courier for {duty}: {}", wall.detail);
    }
    wall
}

/// The `[source]` table of agent.toml.
pub fn source_of(config: &Path) -> Result<SourceConfig, CourierError> {
    config_of(config).map(|(source, _, _)| source)
}

/// The `[source]`, `[[sink]]` and `[artifacts]` tables of agent.toml; the rest of the file is the agent's business.
fn config_of(config: &Path) -> Result<(SourceConfig, Vec<SinkConfig>, Artifacts), CourierError> {
    #[derive(serde::Deserialize)]
    struct Ours {
        source: SourceConfig,
        #[serde(default)]
        sink: Vec<SinkConfig>,
        #[serde(default)]
        artifacts: Artifacts,
    }
    let wrong = |source: Box<dyn std::error::Error + Send + Sync>| CourierError::Config { path: config.to_owned(), source };
    let mut text = String::new();
    fs::File::open(config).and_then(|file| file.take(1 << 20).read_to_string(&mut text)).map_err(|error| wrong(error.into()))?;
    toml::from_str::<Ours>(&text).map(|ours| (ours.source, ours.sink, ours.artifacts)).map_err(|error| {
        // Not its own text: that quotes the line, and with it a password that somebody wrote into the URL.
        let line = error.span().map_or(1, |span| 1 + text.bytes().take(span.start).filter(|b| *b == b'\n').count());
        wrong(format!("line {line}: {}", error.message()).into())
    })
}

/// Whatever a server sends, this process stays within these. Lower limits that are there already are kept.
fn limit_self() -> Result<(), CourierError> {
    let cap = |resource, most: u64| {
        let (_, hard) = nix::sys::resource::getrlimit(resource)?;
        let most = most.min(hard);
        setrlimit(resource, most, most)
    };
    let all = || -> nix::Result<()> {
        cap(Resource::RLIMIT_AS, MEMORY)?;
        cap(Resource::RLIMIT_CPU, CPU)?;
        cap(Resource::RLIMIT_FSIZE, FILE)?;
        cap(Resource::RLIMIT_NOFILE, 128)?;
        cap(Resource::RLIMIT_CORE, 0)?;
        prctl::set_dumpable(false)?;
        prctl::set_no_new_privs()
    };
    all().map_err(|errno| CourierError::Runtime(errno.into()))
}
