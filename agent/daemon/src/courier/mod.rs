//! The courier: an unprivileged process of its own, the only one with a network, and believed by nobody.
//!
//! It serves raw Git objects by id over a socket ([`serve`]); the agent's end is [`Client`], which re-hashes nothing itself:
//! that is the trust room's work. gix is used in this module and nowhere else.
//!
//! Guarantees: every operation ends within its total time and its bytes; the cache on disk stays under its quota over
//! years; a damaged cache heals by fetching again; no message holds a secret.
//! Limits: one source per process; HTTP/1.1; no submodules, no bundle URIs, no redirects.

mod client;
mod confine;
mod deliver;
mod fetch;
mod http;
mod local;
mod meter;
mod offering;
mod pack;
mod process;
pub mod protocol;
mod push;
mod reach;
mod remote;
mod serve;
mod session;
mod source;
mod ssh;
mod store;
mod way;

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

pub use gix_hash::ObjectId;

pub use self::client::{Client, ClientError, Delivery, Polled};
pub use self::confine::{Wall, confine, confine_to};
pub use self::fetch::Artifacts;
pub use self::meter::LinkError;
pub use self::process::{run_as_process, source_of};
pub use self::protocol::{Class, Part, Traffic};
pub use self::push::push_status;
pub use self::reach::{Duty, Reach};
pub use self::serve::serve;
pub use self::source::{Location, SourceConfig, SourceError};
pub use self::way::Way;
pub(crate) use source::masked;

use crate::sinks::{Flaw, ShapeError, SinkConfig};
use crate::wire::WireError;

/// What a courier works with.
#[derive(Debug, Clone)]
pub struct CourierConfig {
    /// Where the repository is.
    pub source: SourceConfig,
    /// Where reports may be sent.
    pub sinks: Vec<SinkConfig>,
    /// Where artifacts may be fetched from.
    pub artifacts: Artifacts,
    /// Where objects are kept between polls; nobody else writes there.
    pub cache: PathBuf,
}

/// Why the courier could not do something.
#[derive(Debug, thiserror::Error)]
pub enum CourierError {
    /// agent.toml cannot be read.
    #[error("cannot read {}", path.display())]
    Config {
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The source makes no sense.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// There is no such sink.
    #[error("agent.toml has no sink {0:?}")]
    NoSink(String),
    /// A file that no setting of this host lets a commit ask for.
    #[error(
        "this host does not fetch {url}, for its agent.toml allows only {allowed}; add the server under [artifacts] allow there, or put the file where it may be fetched from"
    )]
    Forbidden {
        /// What was asked for, without secrets.
        url: String,
        /// What may be.
        allowed: String,
    },
    /// A file of this machine cannot be read.
    #[error("cannot read {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The sinks make no sense.
    #[error(transparent)]
    Sink(#[from] Flaw),
    /// Nothing can be made of a report for a sink.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// A secret cannot be read.
    #[error("cannot read the secret {}", path.display())]
    Secret {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A secret holds something that cannot be sent.
    #[error("the secret {} must be one line of printable characters", path.display())]
    SecretText {
        /// Which file.
        path: PathBuf,
    },
    /// A certificate or key cannot be used.
    #[error("cannot use the certificate or key {}", path.display())]
    Certificate {
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// There is nothing to check certificates against.
    #[error("this machine has no certificate authorities: install the package ca-certificates, or set ca-file")]
    NoAuthorities,
    /// The proxy's URL is no URL.
    #[error("proxy is neither a URL nor \"environment\"")]
    Proxy(#[source] reqwest::Error),
    /// The HTTP client cannot be built.
    #[error("cannot prepare HTTP")]
    Client(#[source] reqwest::Error),
    /// The system gives no event loop.
    #[error("cannot prepare for the network")]
    Runtime(#[source] io::Error),
    /// The transport failed.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The server answered something that Git's protocol does not allow, or nothing.
    #[error("{host} did not answer {command} as a Git server does")]
    Refused {
        /// Who.
        host: String,
        /// What was asked.
        command: &'static str,
        /// What gix made of it.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The server takes no such push.
    #[error("{host} did not take {reference}: {reason}")]
    Declined {
        /// Who.
        host: String,
        /// The reference.
        reference: String,
        /// Its own words, and those of its hooks.
        reason: String,
    },
    /// The server says it has no such object.
    #[error("the server has no object {0}")]
    Missing(ObjectId),
    /// Something is larger than allowed.
    #[error("{0}")]
    Bound(String),
    /// Unpacking burns more CPU than any honest pack.
    #[error("what the server sent takes more than {} of CPU time to unpack", humantime::format_duration(*.0))]
    Costly(std::time::Duration),
    /// The server can only be asked for whole branches, and this is not in one.
    #[error("the server does not hand out single objects; it needs Git protocol version 2 (git 2.26 or newer)")]
    NoSingleObjects,
    /// What came is no good pack.
    #[error("what the server sent is no sound pack")]
    Pack(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The cache cannot be used.
    #[error("cannot use the cache at {}", path.display())]
    Cache {
        /// What was touched.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A repository on this machine cannot be read.
    #[error("cannot read the repository {}", path.display())]
    Local {
        /// Where.
        path: PathBuf,
        /// What gix said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Somebody started it by hand.
    #[error("the courier's standard input must be the socket of an agent; systemd or the agent starts it, nobody else need")]
    NoSocket(#[source] io::Error),
    /// One life is for one thing.
    #[error("this courier was started for {0} and is confined to that; another is needed")]
    Taken(Duty),
    /// The agent asked something that makes no sense.
    #[error("the request makes no sense: {0}")]
    Request(&'static str),
    /// The agent went away in the middle.
    #[error(transparent)]
    Wire(#[from] WireError),
}

impl CourierError {
    /// What to do about it.
    pub fn class(&self) -> Class {
        match self {
            Self::Config { .. }
            | Self::Source(_)
            | Self::NoSink(_)
            | Self::Forbidden { .. }
            | Self::File { .. }
            | Self::Sink(_)
            | Self::Shape(_)
            | Self::Secret { .. }
            | Self::SecretText { .. }
            | Self::Certificate { .. }
            | Self::NoAuthorities
            | Self::Proxy(_)
            | Self::NoSingleObjects
            | Self::Local { .. }
            | Self::NoSocket(_)
            | Self::Client(_)
            | Self::Declined { .. } => Class::Configuration,
            Self::Missing(_) | Self::Bound(_) | Self::Costly(_) | Self::Pack(_) => Class::Hold,
            Self::Link(link) => link.class(),
            Self::Runtime(_) | Self::Refused { .. } | Self::Cache { .. } | Self::Taken(_) | Self::Request(_) | Self::Wire(_) => {
                Class::Retry
            }
        }
    }
}

/// The whole chain of causes in one line, for a protocol whose messages are lines.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    crate::log::chain(error).replace('\n', " ")
}

/// The first line of a secret's file, which is at most 64 KiB.
fn secret(named: &Path) -> Result<String, CourierError> {
    let path = SourceConfig::secret_path(named);
    let wrong = |source| CourierError::Secret { path: path.clone(), source };
    let mut bytes = Vec::new();
    std::fs::File::open(&path).and_then(|file| file.take(64 << 10).read_to_end(&mut bytes)).map_err(wrong)?;
    let text = String::from_utf8(bytes).ok().map(|text| text.trim_end_matches(['\r', '\n']).to_owned());
    text.filter(|text| !text.is_empty() && !text.chars().any(char::is_control)).ok_or(CourierError::SecretText { path })
}

/// To the courier's own journal, as a warning: what has no place in a reply.
#[allow(clippy::print_stderr)]
fn remark(text: &str) {
    // The journal takes the level from the line; a terminal would only show it.
    let level = if std::env::var_os("JOURNAL_STREAM").is_some() { "<4>" } else { "" };
    eprintln!("{level}trimtab courier: {text}");
}
