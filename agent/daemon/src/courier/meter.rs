//! The bounds of one operation: when it must end, how long it may be silent, how much it may bring, and what stopped it.
//!
//! Every byte of every transport passes the [`Meter`]. It also keeps the typed reason of the first failure: the transports
//! speak through gix, which carries only `io::Error`s, and a reason that has to be guessed from text is no reason.

use std::cell::{Cell, RefCell};
use std::io;
use std::time::{Duration, Instant};

use super::protocol::{Class, Traffic};

/// What stopped a transport.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// No connection, or it broke.
    #[error("cannot talk to {host}{}", if *certificate { ", for a certificate is not trusted: its own (name its authority with ca-file) or this host's (client-cert)" } else { "" })]
    Broken {
        /// Whom.
        host: String,
        /// Whether it is a certificate that is not trusted, here or there.
        certificate: bool,
        /// What the layers below said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Silence.
    #[error("the server was silent for {} (idle-timeout)", humantime::format_duration(*.0))]
    Idle(Duration),
    /// Too slow.
    #[error("not done within {} (total-timeout)", humantime::format_duration(*.0))]
    Deadline(Duration),
    /// Too much.
    #[error("the answer has more than the {0} bytes that are allowed here (max-bytes)")]
    TooMuch(u64),
    /// The server said no.
    #[error("{host} answered {code}{advice}{detail}")]
    Status {
        /// Who.
        host: String,
        /// The HTTP status.
        code: u16,
        /// What that usually means.
        advice: &'static str,
        /// The first printable characters of the body, with ": " before them.
        detail: String,
    },
    /// The server points elsewhere.
    #[error("{host} redirects to {location}; redirects are not followed: if that is right, set it as url")]
    Redirect {
        /// Who.
        host: String,
        /// Where to.
        location: String,
    },
    /// The ssh program could not be started.
    #[error("cannot start the ssh program, which ssh:// needs (Debian: package openssh-client)")]
    NoSsh(#[source] io::Error),
    /// The git program could not be started.
    #[error("cannot start the git program, which a push to a repository on this machine needs (Debian: package git)")]
    NoGit(#[source] io::Error),
    /// The git program ended.
    #[error("git in {path} failed{detail}")]
    Git {
        /// Which repository.
        path: String,
        /// What it wrote on its standard error, with ": " before it.
        detail: String,
    },
    /// The ssh program ended.
    #[error("ssh to {host} failed{detail}")]
    Ssh {
        /// Whom.
        host: String,
        /// What it wrote on its standard error, with ": " before it.
        detail: String,
    },
}

impl LinkError {
    /// What to do about it.
    pub fn class(&self) -> Class {
        match self {
            Self::Status { code: 401 | 403 | 404 | 407, .. }
            | Self::Redirect { .. }
            | Self::NoSsh(_)
            | Self::NoGit(_)
            | Self::Git { .. }
            | Self::Broken { certificate: true, .. } => Class::Configuration,
            Self::TooMuch(_) => Class::Hold,
            _ => Class::Retry,
        }
    }
}

/// The bounds and the counters of what is going on.
pub(super) struct Meter {
    idle: Duration,
    total: Cell<Duration>,
    deadline: Cell<Instant>,
    limit: Cell<u64>,
    taken: Cell<u64>,
    traffic: Cell<Traffic>,
    failure: RefCell<Option<LinkError>>,
}

impl Meter {
    pub(super) fn new(idle: Duration, total: Duration) -> Self {
        let deadline = Cell::new(Instant::now() + total);
        let (limit, taken) = (Cell::new(0), Cell::new(0));
        Self { idle, total: Cell::new(total), deadline, limit, taken, traffic: Cell::default(), failure: RefCell::default() }
    }

    /// A new operation: its time starts now, its traffic at nothing.
    pub(super) fn begin(&self, total: Duration) {
        self.total.set(total);
        self.deadline.set(Instant::now() + total);
        self.traffic.set(Traffic::default());
    }

    /// From now on at most `limit` more bytes.
    pub(super) fn allow(&self, limit: u64) {
        self.limit.set(limit);
        self.taken.set(0);
        self.failure.take();
    }

    pub(super) fn traffic(&self) -> Traffic {
        self.traffic.get()
    }

    pub(super) fn deadline(&self) -> Instant {
        self.deadline.get()
    }

    /// How long the next step may take, or that there is no time left.
    pub(super) fn patience(&self) -> Result<Duration, LinkError> {
        match self.deadline.get().saturating_duration_since(Instant::now()) {
            Duration::ZERO => Err(LinkError::Deadline(self.total.get())),
            left => Ok(left.min(self.idle)),
        }
    }

    /// The error for a step that took longer than [`Meter::patience`] allowed.
    pub(super) fn timed_out(&self) -> LinkError {
        if Instant::now() >= self.deadline.get() { LinkError::Deadline(self.total.get()) } else { LinkError::Idle(self.idle) }
    }

    pub(super) fn sent(&self, requests: u64, bytes: u64) {
        let mut traffic = self.traffic.get();
        traffic.requests += requests;
        traffic.up += bytes;
        self.traffic.set(traffic);
    }

    pub(super) fn received(&self, bytes: u64) -> Result<(), LinkError> {
        let mut traffic = self.traffic.get();
        traffic.down += bytes;
        self.traffic.set(traffic);
        self.taken.set(self.taken.get() + bytes);
        if self.taken.get() > self.limit.get() { Err(LinkError::TooMuch(self.limit.get())) } else { Ok(()) }
    }

    /// Keeps the reason and gives gix an error that stops it. Never of kind `Interrupted`: std would retry for ever.
    pub(super) fn stop(&self, reason: LinkError) -> io::Error {
        let error = io::Error::other(reason.to_string());
        self.failure.borrow_mut().get_or_insert(reason);
        error
    }

    /// The first reason since [`Meter::allow`], if there was one.
    pub(super) fn failure(&self) -> Option<LinkError> {
        self.failure.take()
    }
}
