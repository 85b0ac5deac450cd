//! What the people who release need at their own desk: the system's git, ssh-keygen and minisign as programs, and a clone to work in.
//!
//! Nothing of this room runs on a device, and nothing in it believes anything: what it makes is judged by the device's own code
//! (`trust`) before anybody sees it.
//!
//! Guarantees: no secret key is read by this process (the programs read it, or the agent or the token that holds it), none is an argument,
//! and what is signed lies in a folder of this user's alone while it is signed. Limits: git's own configuration of the clone counts, its
//! hooks and credentials among it, as for every push of that person's.
//!
//! Order of imports inside this room: `programs` <- `desk`, `signing`, `draft` <- `roots` <- `reach`.

use std::path::PathBuf;

pub mod desk;
pub mod draft;
pub mod programs;
pub mod reach;
pub mod roots;
pub mod signing;

/// What went wrong at somebody's desk.
#[derive(Debug, thiserror::Error)]
pub enum AuthorError {
    /// A program that is needed is not there.
    #[error("`{program}` cannot be started; install it, e.g. `apt-get install {package}`")]
    Missing {
        /// Its name.
        program: &'static str,
        /// The Debian package that has it.
        package: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// A program said no.
    #[error("`{command}` failed: {said}")]
    Failed {
        /// What was run, as a person would type it.
        command: String,
        /// Its last words.
        said: String,
    },
    /// A file cannot be read or written.
    #[error("{}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The courier cannot be had.
    #[error(transparent)]
    Courier(#[from] crate::courier::ClientError),
    /// An object cannot be had or not be believed.
    #[error(transparent)]
    Object(#[from] crate::trust::hash::FetchError),
    /// A tree cannot be used.
    #[error(transparent)]
    Tree(#[from] crate::trust::tree::TreeError),
    /// A rule of trimtab's that what is asked for would break: which rule, what was expected, what to do.
    #[error("{0}")]
    Refused(String),
}

impl AuthorError {
    /// A refusal by a rule.
    pub fn refused(why: impl Into<String>) -> Self {
        Self::Refused(why.into())
    }
}
