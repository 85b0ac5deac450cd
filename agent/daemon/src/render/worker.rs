//! The child's side: give up everything, render, answer.

use std::io::{self, Read, Write};

use nix::errno::Errno;
use nix::sys::resource::{Resource, setrlimit};
use nix::unistd::{Gid, Uid, geteuid, setgroups, setresgid, setresuid};
use trimtab_model::bundle::{Blob, Bundle};
use trimtab_model::render::render_watched;

use super::{Answer, Head, Request};
use crate::wire::{self, WireError};

/// The user that nothing belongs to.
const NOBODY: u32 = 65534;
/// The largest request: a bundle and its list.
const MAX_REQUEST: u64 = 256 << 20;

/// Why the child ended without an answer.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The agent went away, or this is not the agent.
    #[error("no work from the agent")]
    Wire(#[from] WireError),
    /// The request is not one.
    #[error("the agent's request makes no sense: {0}")]
    Request(&'static str),
    /// The child could not bind itself, and does not work unbound.
    #[error("cannot limit {what}")]
    Limit {
        /// What was to be limited.
        what: &'static str,
        /// What the system said.
        source: Errno,
    },
}

/// Renders one request from `stdin` to `stdout`, after giving up privileges and setting limits on this whole process.
/// Says on standard error which template it is at, for whoever finds it dead.
pub fn worker(mut stdin: impl Read, mut stdout: impl Write) -> Result<(), WorkerError> {
    let (head, mut body): (Head, Vec<u8>) = wire::receive(&mut stdin, "agent", MAX_REQUEST)?;
    let index =
        usize::try_from(head.index).ok().filter(|n| *n <= body.len()).ok_or(WorkerError::Request("its index is too long"))?;
    let request: Request =
        serde_json::from_slice(&body[..index]).map_err(|source| WireError::Malformed { peer: "agent", source })?;
    give_up(&request)?;
    body.drain(..index);
    let host = request.host;
    let bundle = unpack(request.components, request.files, body)?;

    let rendered = render_watched(&bundle, &host, &mut |file| {
        // Nobody may be listening, and that is no reason to stop.
        let _ = writeln!(io::stderr(), "at {file}");
    });
    drop(bundle);
    let (answer, contents) = match rendered {
        Ok(rendered) => {
            let list = rendered.contents.iter().map(|(digest, bytes)| (*digest, bytes.len() as u64)).collect();
            (Answer::Rendered { desired: Box::new(rendered.desired), contents: list }, rendered.contents)
        }
        Err(findings) => (Answer::Refused(findings), std::collections::BTreeMap::new()),
    };
    let mut body = serde_json::to_vec(&answer).map_err(|source| WireError::Malformed { peer: "agent", source })?;
    let head = Head { index: body.len() as u64 };
    for bytes in contents.into_values() {
        body.extend_from_slice(&bytes);
    }
    wire::send(&mut stdout, "agent", &head, &body)?;
    Ok(())
}

fn unpack(
    components: Vec<trimtab_model::names::ComponentName>,
    files: Vec<(trimtab_model::names::RepoPath, trimtab_model::bundle::BlobKind, u64)>,
    body: Vec<u8>,
) -> Result<Bundle, WorkerError> {
    let mut bundle = Bundle { components: components.into_iter().collect(), ..Bundle::default() };
    let mut rest = body.as_slice();
    for (path, kind, size) in files {
        let size = usize::try_from(size).map_err(|_| WorkerError::Request("a file is too long"))?;
        let Some((bytes, after)) = rest.split_at_checked(size) else { return Err(WorkerError::Request("a file is cut short")) };
        rest = after;
        bundle.files.insert(path, Blob { kind, bytes: bytes.to_vec() });
    }
    if rest.is_empty() { Ok(bundle) } else { Err(WorkerError::Request("bytes are left over")) }
}

fn give_up(request: &Request) -> Result<(), WorkerError> {
    let limit = |what, resource, value| setrlimit(resource, value, value).map_err(|source| WorkerError::Limit { what, source });
    limit("memory", Resource::RLIMIT_AS, request.memory)?;
    // The soft limit sends SIGXCPU, which says why; the hard one, a second later, SIGKILL.
    setrlimit(Resource::RLIMIT_CPU, request.cpu_seconds, request.cpu_seconds + 1)
        .map_err(|source| WorkerError::Limit { what: "processor time", source })?;
    limit("open files", Resource::RLIMIT_NOFILE, 16)?;
    limit("core dumps", Resource::RLIMIT_CORE, 0)?;
    limit("file sizes", Resource::RLIMIT_FSIZE, 0)?;
    limit("processes", Resource::RLIMIT_NPROC, 0)?;
    if !geteuid().is_root() {
        return Ok(());
    }
    let (user, group) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
    let dropped = setgroups(&[]).and_then(|()| setresgid(group, group, group)).and_then(|()| setresuid(user, user, user));
    match dropped {
        // Not permitted, or no such id in this user namespace: see the limits above.
        Ok(()) | Err(Errno::EPERM | Errno::EINVAL) => Ok(()),
        Err(source) => Err(WorkerError::Limit { what: "privileges", source }),
    }
}
