//! Rendering, in a process of its own.
//!
//! A template is signed content, and yet an accident in it must not take the agent down: `{% set a = a ~ a %}` in a loop needs
//! few steps and all the memory there is. So the agent hands bundle and host to a child with no privileges, a bound on memory,
//! processor time, files and the clock, and takes from it one frame, every digest of which it computes again. What the child held
//! is given back to the system with it.
//!
//! Guarantees: [`render_in_child`] returns within its deadline, and no process is left behind. Nothing from the repository is
//! executed. Limits: where the system does not let the child change its user (a container without the right, a user namespace
//! without that id), it keeps that of the agent; its other bounds hold all the same.

mod child;
mod folder;
mod worker;

use serde::{Deserialize, Serialize};
use trimtab_model::bundle::BlobKind;
use trimtab_model::desired::Desired;
use trimtab_model::digest::Digest;
use trimtab_model::facts::Host;
use trimtab_model::finding::Findings;
use trimtab_model::names::{ComponentName, RepoPath};

pub use child::{Death, Limits, RenderError, render_in_child};
pub use folder::{FolderError, read_dir};
pub use trimtab_model::render::{Report, needs, render, validate};
pub use worker::{WorkerError, worker};

/// The argument that makes this program a render worker.
pub const WORKER: &str = "render-worker";

/// The head of both frames: everything else is in the body, for a head is too small for the lists of a large host.
#[derive(Debug, Serialize, Deserialize)]
struct Head {
    /// How many bytes of the body are JSON; contents follow.
    index: u64,
}

/// What the child is asked for.
#[derive(Debug, Serialize, Deserialize)]
struct Request {
    host: Host,
    components: Vec<ComponentName>,
    files: Vec<(RepoPath, BlobKind, u64)>,
    memory: u64,
    cpu_seconds: u64,
}

/// What the child answers.
#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    Rendered { desired: Box<Desired>, contents: Vec<(Digest, u64)> },
    Refused(Findings),
}
