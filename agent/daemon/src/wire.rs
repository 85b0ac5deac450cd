//! How the processes of one host speak to each other: frames of a JSON head and raw bytes, over a socket or a pipe.
//!
//! A frame is `u32` big-endian length of the head, `u64` big-endian length of the body, the head (JSON), the body (raw).
//! Both lengths are checked against the reader's own bounds before a byte is allocated: the peer is believed by nobody.

use std::ffi::CStr;
use std::io::{self, Read, Write};

use gix_hash::ObjectId;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// What each of our processes is called, wherever its program lies.
pub const NAME: &CStr = c"trimtab";

/// The largest head of a frame, in bytes. Heads carry lists of at most a few thousand ids.
pub const MAX_HEAD: u32 = 4 << 20;
/// The most characters of what is said about a head that is not understood.
const MAX_COMPLAINT: usize = 300;

/// What went wrong between two processes of this host.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The peer went away in the middle, or never came.
    #[error("the connection to the {peer} broke")]
    Broken {
        /// Who was spoken to, e.g. "courier".
        peer: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The peer announced more than the reader is willing to hold.
    #[error("the {peer} sent {size} bytes where at most {limit} are allowed")]
    TooLarge {
        /// Who was spoken to.
        peer: &'static str,
        /// What it announced.
        size: u64,
        /// The bound.
        limit: u64,
    },
    /// The head is not what this version of the protocol says.
    #[error("the {peer} does not speak this protocol")]
    Malformed {
        /// Who was spoken to.
        peer: &'static str,
        /// What the parser said.
        source: serde_json::Error,
    },
}

/// Writes one frame and flushes it.
pub fn send(to: &mut impl Write, peer: &'static str, head: &impl Serialize, body: &[u8]) -> Result<(), WireError> {
    let head = serde_json::to_vec(head).map_err(|source| WireError::Malformed { peer, source })?;
    let size = head.len() as u64;
    let length =
        u32::try_from(size).ok().filter(|n| *n <= MAX_HEAD).ok_or(WireError::TooLarge { peer, size, limit: MAX_HEAD.into() })?;
    let mut write = || {
        to.write_all(&length.to_be_bytes())?;
        to.write_all(&(body.len() as u64).to_be_bytes())?;
        to.write_all(&head)?;
        to.write_all(body)?;
        to.flush()
    };
    write().map_err(|source| WireError::Broken { peer, source })
}

/// Reads one frame whose body may have at most `limit` bytes.
pub fn receive<T: DeserializeOwned>(from: &mut impl Read, peer: &'static str, limit: u64) -> Result<(T, Vec<u8>), WireError> {
    let broken = |source| WireError::Broken { peer, source };
    let mut length = [0; 12];
    from.read_exact(&mut length).map_err(broken)?;
    let [a, b, c, d, body @ ..] = length;
    let (head_size, body_size) = (u32::from_be_bytes([a, b, c, d]), u64::from_be_bytes(body));
    if head_size > MAX_HEAD {
        return Err(WireError::TooLarge { peer, size: head_size.into(), limit: MAX_HEAD.into() });
    }
    if body_size > limit {
        return Err(WireError::TooLarge { peer, size: body_size, limit });
    }
    let mut head = vec![0; head_size as usize];
    from.read_exact(&mut head).map_err(broken)?;
    let head = serde_json::from_slice(&head).map_err(|error| WireError::Malformed { peer, source: short(&error) })?;
    // Grown as bytes arrive: an announced gigabyte that never comes costs nothing.
    let mut bytes = Vec::new();
    from.take(body_size).read_to_end(&mut bytes).map_err(broken)?;
    if (bytes.len() as u64) < body_size {
        return Err(broken(io::ErrorKind::UnexpectedEof.into()));
    }
    Ok((head, bytes))
}

/// The same error in one short line: serde repeats a word that it does not know, and the peer may make it megabytes long.
fn short(error: &serde_json::Error) -> serde_json::Error {
    let said: String = error.to_string().chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_COMPLAINT).collect();
    serde::de::Error::custom(said)
}

/// The Git object kinds that the agent asks for one by one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)] // Git's own words
pub enum ObjectKind {
    Commit,
    Tree,
    Blob,
    Tag,
}

/// Why an object could not be had. Never a verdict about the object: the asker re-hashes what it gets.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    /// The source says that it has no such object.
    #[error("the source has no {kind:?} {id}")]
    Missing {
        /// The kind asked for.
        kind: ObjectKind,
        /// The id asked for.
        id: ObjectId,
    },
    /// An object is larger than the asker allows.
    #[error("{kind:?} {id} is larger than {limit} bytes")]
    TooLarge {
        /// The kind asked for.
        kind: ObjectKind,
        /// The id asked for.
        id: ObjectId,
        /// The asker's bound.
        limit: u64,
    },
    /// The source could not be reached or failed; trying again later may help.
    #[error("{message}")]
    Unavailable {
        /// The whole chain of causes, as the courier tells it.
        message: String,
    },
    /// The processes could not speak to each other.
    #[error("no answer from the courier")]
    Wire(#[from] WireError),
}

/// Where raw objects come from, believed by nobody: a courier, a repository on disk, a test's liar.
pub trait ObjectSource {
    /// The raw content (without Git's `kind size\0` header) of each object, in the order asked. Every object is at most `limit` bytes.
    fn objects(&mut self, kind: ObjectKind, ids: &[ObjectId], limit: u64) -> Result<Vec<Vec<u8>>, ObjectError>;

    /// The same for as many as come at once, from the front of the list, at least one: so that who does not believe them can look at them
    /// before there are more, and never holds more than one answer of what may be rubbish.
    fn some(&mut self, kind: ObjectKind, ids: &[ObjectId], limit: u64) -> Result<Vec<Vec<u8>>, ObjectError> {
        self.objects(kind, ids, limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_back() {
        let mut pipe = Vec::new();
        send(&mut pipe, "test", &vec![1, 2], b"body").expect("because a Vec takes everything");
        let (head, body): (Vec<u8>, _) = receive(&mut pipe.as_slice(), "test", 4).expect("because it was just written");
        assert_eq!((head, body), (vec![1, 2], b"body".to_vec()));
    }

    #[test]
    fn an_announced_gigabyte_is_refused_before_it_is_allocated() {
        let mut frame = 2u32.to_be_bytes().to_vec();
        frame.extend((1u64 << 30).to_be_bytes());
        frame.extend(b"{}");
        let error = receive::<serde_json::Value>(&mut frame.as_slice(), "test", 1024).map(|_| ());
        assert!(matches!(error, Err(WireError::TooLarge { .. })), "{error:?}");
    }
}
