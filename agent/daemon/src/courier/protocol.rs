//! What the agent and the courier say to each other, as heads of [`wire`](crate::wire) frames on one connected stream.
//!
//! One request, one reply, in order; the agent speaks first and the courier ends when the agent hangs up. Only [`Request::Deliver`] has a
//! body (the reports, each followed by its signature), and only replies to
//! [`Request::Fetch`] (a piece of a file) and to [`Request::Objects`]: the raw contents, one after the other. A reply may bring fewer objects than were asked
//! for (at least one), always from the front of the list: the asker asks again for the rest. So neither side ever holds
//! more than [`MAX_BODY`] bytes of objects.
//!
//! systemd starts the courier that lies on the disk, and an agent that nobody restarted after an upgrade goes on asking it. So this only grows: a
//! courier knows every request that a released agent makes, and an agent passes over fields and classes that it does not know. (The courier refuses
//! what it does not know: what asks it is never newer than it is.)

use serde::{Deserialize, Serialize};
use trimtab_model::status::CourierStatus;

use crate::wire::ObjectKind;

/// The most bytes of objects in one reply.
pub const MAX_BODY: u64 = 64 << 20;
/// From here on a reply is sent although more was asked for: it keeps the courier's memory small.
pub const COMFORTABLE_BODY: u64 = 8 << 20;
/// The most bytes of an artifact in one reply.
pub const MAX_PIECE: usize = 1 << 20;
/// The most bytes of a minisign signature.
pub const MAX_SIGNATURE: u64 = 4 << 10;
/// The most ids in one [`Request::Objects`].
pub const MAX_IDS: usize = 4096;

/// The most bytes of reports and signatures in one [`Request::Deliver`].
pub const MAX_DELIVERY: u64 = 2 << 20;
/// The most reports in one.
pub const MAX_REPORTS: usize = 50;

/// A report and its signature in the body of a [`Request::Deliver`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Piece {
    /// Bytes of the report.
    pub report: u64,
    /// Bytes of the signature right after it.
    pub signature: u64,
}

/// What the agent asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Where does this one reference point?
    Poll {
        /// Its full name, e.g. `refs/heads/main`.
        reference: String,
        /// Another one whose name begins with the first, e.g. `refs/trimtab/production.alive`: the same question brings both.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        beside: Option<String>,
    },
    /// Bring the commits from `have` (which the agent knows) to `tip` into the cache.
    Advance {
        /// The commit to reach.
        tip: String,
        /// The last one known, if any.
        have: Option<String>,
    },
    /// Hand over these objects.
    Objects {
        /// The kind of all of them.
        kind: ObjectKind,
        /// Their ids, at most [`MAX_IDS`].
        ids: Vec<String>,
        /// The most bytes that one of them may have.
        limit: u64,
    },
    /// Hand over the next bytes of a file that is no Git object. Asked for from where the last piece ended, it costs no new request.
    Fetch {
        /// Where it lies.
        url: String,
        /// What of it.
        part: Part,
        /// The first byte.
        from: u64,
    },
    /// Send these reports to a sink of agent.toml: all of them are taken, or none.
    Deliver {
        /// Its name.
        sink: String,
        /// What the body holds, oldest first; at least one, at most [`MAX_REPORTS`].
        pieces: Vec<Piece>,
    },
}

/// What of an artifact is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Part {
    /// Its bytes: exactly so many.
    Content {
        /// How many.
        size: u64,
    },
    /// Its minisign signature: at most [`MAX_SIGNATURE`] bytes.
    Signature,
}

impl Part {
    /// The most bytes.
    pub fn limit(self) -> u64 {
        match self {
            Self::Content { size } => size,
            Self::Signature => MAX_SIGNATURE,
        }
    }

    /// The fewest bytes.
    pub fn least(self) -> u64 {
        match self {
            Self::Content { size } => size,
            Self::Signature => 1,
        }
    }

    /// Whether a file of this length can be it; a sentence if not.
    pub fn judge(self, length: Option<u64>) -> Result<(), String> {
        match length {
            Some(length) if length > self.limit() => Err(self.longer()),
            Some(length) if length < self.least() => Err(self.shorter(length)),
            _ => Ok(()),
        }
    }

    /// The sentence for a file that ends too early.
    pub fn shorter(self, length: u64) -> String {
        format!("what lies there has {length} bytes, and {} are declared (size)", self.least())
    }

    /// The sentence for a file that goes on and on.
    pub fn longer(self) -> String {
        match self {
            Self::Content { size } => format!("what lies there has more than the {size} bytes that are declared (size)"),
            Self::Signature => format!("what lies there has more than {MAX_SIGNATURE} bytes and is no minisign signature"),
        }
    }
}

/// What the courier answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    /// To [`Request::Poll`].
    Polled {
        /// The object that the reference names; `None` if there is no such reference.
        id: Option<String>,
        /// The commit behind it, if it names an annotated tag.
        peeled: Option<String>,
        /// The object that the other reference names, if one was asked for and is there.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        beside: Option<String>,
        /// What it took.
        traffic: Traffic,
        /// Whether its walls stand, as it says of itself: for the operator's eyes, nothing follows from it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        courier: Option<Box<CourierStatus>>,
    },
    /// To [`Request::Advance`].
    Advanced {
        /// What it took.
        traffic: Traffic,
    },
    /// To [`Request::Objects`]: the contents are the frame's body.
    Objects {
        /// The size of each, in the order asked; may be shorter than the list of ids.
        sizes: Vec<u64>,
    },
    /// The source says it has no such object, or one of another kind.
    Missing {
        /// Which.
        id: String,
    },
    /// An object is larger than the asker's limit.
    TooLarge {
        /// Which.
        id: String,
    },
    /// To [`Request::Fetch`]: the bytes are the frame's body, at most [`MAX_PIECE`].
    Fetched {
        /// There are no more after these.
        end: bool,
    },
    /// To [`Request::Deliver`]: the sink took all of it, or none of it was for it.
    Delivered {
        /// What it took.
        traffic: Traffic,
    },
    /// To [`Request::Deliver`]: the sink took nothing.
    Undelivered {
        /// The sink will say the same again until somebody changes something, here or there.
        lasting: bool,
        /// What was sent is what it will not have (400, 413, 422): it is too much at once, or something in it is wrong.
        #[serde(default)]
        unfit: bool,
        /// For so many seconds it wants to be left alone.
        retry_after: Option<u64>,
        /// Why, in one line, without secrets.
        message: String,
    },
    /// It could not be done.
    Failed {
        /// What to do about it.
        class: Class,
        /// The whole chain of causes in one line, without secrets.
        message: String,
    },
}

/// What a failure asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// This revision is the trouble: it breaks a bound, or the server sends rubbish for it.
    Hold,
    /// Somebody has to change the configuration, here or on the server. Not a reason to stop trying: what the server
    /// refuses today it may grant tomorrow, without anybody touching this machine.
    Configuration,
    /// Trying again later may help: network, server, time, disk. Also what a newer courier says that has no name here.
    #[serde(other)]
    Retry,
}

/// Requests and bytes of one operation: HTTP heads and bodies, or the ssh stream, without TLS and TCP.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Requests made.
    pub requests: u64,
    /// Bytes sent.
    pub up: u64,
    /// Bytes received.
    pub down: u64,
}
