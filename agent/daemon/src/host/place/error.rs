//! Why a change was not made, and what a person can do about it.

use std::io;

use nix::errno::Errno;
use trimtab_model::digest::Digest;
use trimtab_model::names::HostPath;

use crate::host::root::{RootError, advice};

/// Why a path was not changed. It is as it was before, unless the text says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// Its directory could not be reached.
    #[error(transparent)]
    Parent(#[from] RootError),
    /// Something else stands there than when the plan was made; it was left as it is.
    #[error("{path} was changed by somebody else after it was looked at, and was left alone: {what}")]
    Raced {
        /// The path.
        path: HostPath,
        /// What is different.
        what: &'static str,
    },
    /// A directory would have to go that has something in it.
    #[error("{path} is a directory with something in it that trimtab does not own, and was left alone")]
    NotEmpty {
        /// The path.
        path: HostPath,
    },
    /// The content that was given is not the one that was announced.
    #[error("the content kept for {path} is damaged: expected {expected}, got {found}; nothing was changed")]
    Content {
        /// The path.
        path: HostPath,
        /// The announced digest.
        expected: Digest,
        /// The digest of what came.
        found: Digest,
    },
    /// The disk did not take what was written. What is staged is not switched any more; what was switched may be lost in a power cut.
    #[error("cannot write changes to the disk{advice}")]
    Sync {
        /// What a person can do about it, in brackets; may be empty.
        advice: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The system refused.
    #[error("cannot {operation} {path}{advice}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: HostPath,
        /// What a person can do about it, in brackets; may be empty.
        advice: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

pub(super) fn failed(operation: &'static str, path: &HostPath, errno: Errno) -> PlaceError {
    io_failed(operation, path, errno.into())
}

pub(super) fn io_failed(operation: &'static str, path: &HostPath, source: io::Error) -> PlaceError {
    let errno = Errno::from_raw(source.raw_os_error().unwrap_or(0));
    PlaceError::Io { operation, path: path.clone(), advice: advice(operation, errno), source }
}

pub(super) fn unsynced(source: io::Error) -> PlaceError {
    PlaceError::Sync { advice: advice("", Errno::from_raw(source.raw_os_error().unwrap_or(0))), source }
}
