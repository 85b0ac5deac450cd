//! Why a release is not accepted.
//!
//! Guarantees: each has a stable code for journal and status, and says which rule, what was expected and what to do, in one sentence without a full
//! stop. Text of the repository is cut short and quoted.

use super::chain::RootFault;
use super::statement::{Place, StatementError, show_time};
use super::threshold::QuorumFault;

/// Why a release is not accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReleaseFault {
    /// The reference names a commit, not a tag.
    NotATag {
        /// The reference.
        reference: String,
    },
    /// A tag that says nothing about a release.
    NotARelease,
    /// Not a tag as git writes it, or something between its signatures.
    Malformed {
        /// What is wrong with it.
        what: String,
    },
    /// Too few of those who must have signed it, or a signature that does not match.
    Quorum {
        /// The channel.
        channel: String,
        /// The version of the root that says who must sign.
        root: u64,
        /// What is missing.
        why: QuorumFault,
    },
    /// The root names nobody for this channel.
    NoRole {
        /// The channel.
        channel: String,
        /// The version of the root.
        root: u64,
    },
    /// The root names nobody for this branch.
    NoBranch {
        /// The branch.
        branch: String,
        /// The version of the root.
        root: u64,
    },
    /// The next root in the tree is not accepted.
    Root(RootFault),
    /// The statement is not understood.
    Statement(StatementError),
    /// It is for another repository.
    Repo {
        /// What this host follows.
        want: String,
        /// What it says.
        found: String,
    },
    /// It is for another channel.
    Channel {
        /// What this host follows.
        want: String,
        /// What it says.
        found: String,
    },
    /// What it says does not fit what it is attached to.
    Mismatch {
        /// Which field.
        field: &'static str,
        /// What stands there in truth.
        want: String,
        /// What it says.
        found: String,
    },
    /// It asks for a newer root than the tree leads to.
    RootMissing {
        /// What it asks for.
        want: u64,
        /// What this host has.
        have: u64,
    },
    /// It is of another epoch than the root.
    Epoch {
        /// The root's.
        want: u64,
        /// Its own.
        found: u64,
    },
    /// It is older than what was accepted before.
    Older {
        /// What was accepted.
        have: Place,
        /// What is served.
        found: Place,
    },
    /// It is below the floor of trust.toml.
    BelowFloor {
        /// The floor.
        floor: Place,
        /// What is served.
        found: Place,
    },
    /// Two different statements with one number.
    Equivocation {
        /// The number.
        place: Place,
    },
    /// It had run out when it was first seen.
    Expired {
        /// When it ran out.
        expires: u64,
        /// What time it is at least.
        now: u64,
        /// What the clock of this host says.
        clock: u64,
    },
    /// It says that it was made later than now.
    Future {
        /// When it says that it was made.
        issued: u64,
        /// What time it is.
        now: u64,
    },
    /// It is not known to be fresh, and trust.toml says to hold then.
    Stale {
        /// Why.
        why: &'static str,
    },
    /// The root file that trust.toml names was not read.
    Unread,
}

impl ReleaseFault {
    /// The stable name, for journal and status.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotATag { .. } => "not-a-tag",
            Self::NotARelease => "not-a-release",
            Self::Malformed { .. } => "malformed",
            Self::Quorum { why, .. } => why.code(),
            Self::NoRole { .. } | Self::NoBranch { .. } => "no-role",
            Self::Root(fault) => fault.code(),
            Self::Statement(_) => "malformed-statement",
            Self::Repo { .. } => "wrong-repository",
            Self::Channel { .. } => "wrong-channel",
            Self::Mismatch { .. } => "mismatch",
            Self::RootMissing { .. } => "root-missing",
            Self::Epoch { want, found } if found < want => "rolled-back",
            Self::Epoch { .. } => "wrong-epoch",
            Self::Older { .. } | Self::BelowFloor { .. } => "rolled-back",
            Self::Equivocation { .. } => "equivocation",
            Self::Expired { .. } => "expired",
            Self::Future { .. } => "post-dated",
            Self::Stale { .. } => "stale",
            Self::Unread => "root-not-read",
        }
    }
}

impl std::fmt::Display for ReleaseFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotATag { reference } => {
                write!(f, "{reference} names a commit, and a release is a signed tag; make one with `trimtab release`")
            }
            Self::NotARelease => f.write_str(
                "the tag holds no `trimtab-release v1` statement: it is an ordinary tag; make a release with `trimtab release`",
            ),
            Self::Malformed { what } => {
                write!(f, "the release's tag is not as git writes it: {what}; make it again with `trimtab release`")
            }
            Self::Quorum { channel, root, why } => match why {
                QuorumFault::Bad(fault) => write!(
                    f,
                    "the release was altered after it was signed, or the signature is broken: {fault}; do not use it, find out who pushed it"
                ),
                why => write!(
                    f,
                    "the release does not count for the channel {channel:?} under root {root}: {why}; let those who are missing countersign it (`trimtab release {channel} --countersign`), or find out who pushed it"
                ),
            },
            Self::NoRole { channel, root } => write!(
                f,
                "root {root} names nobody who may release to the channel {channel:?}; add [release.{channel}] with `trimtab trust rotate`, or correct `channel` in trust.toml"
            ),
            Self::NoBranch { branch, root } => write!(
                f,
                "root {root} names no SSH key for commits of the branch {branch:?}; add [commit.{branch:?}] with `trimtab trust rotate`, or correct `branch` in trust.toml"
            ),
            Self::Root(fault) => write!(
                f,
                "the repository's next root is not accepted: {fault}; what this host trusts stays as it was, `trimtab trust show` says who must sign"
            ),
            Self::Statement(error) => {
                write!(f, "the release is signed and cannot be read: {error}; make it again with `trimtab release`")
            }
            Self::Repo { want, found } => write!(
                f,
                "the release is of the repository {found}, and this host follows {want}: it was taken from somewhere else; find out who pushed it"
            ),
            Self::Channel { want, found } => write!(
                f,
                "the release is for the channel {found:?}, and this host follows {want:?}: the reference was moved; find out who pushed it"
            ),
            Self::Mismatch { field, want, found } => {
                write!(f, "the release says `{field}: {found}`, and it is attached to {want}; make it again with `trimtab release`")
            }
            Self::RootMissing { want, have } => write!(
                f,
                "the release was made under root {want}, and its tree leads to root {have} only; put the root files up to {want} into the tree"
            ),
            Self::Epoch { want, found } => {
                write!(f, "the release is of epoch {found}, and the root is of epoch {want}; make a new release in epoch {want}")
            }
            Self::Older { have, found } => write!(
                f,
                "the source serves release {found} again after {have} was accepted; to go back on purpose, make a new release of the old commit (`trimtab release … --rollback-to REV`)"
            ),
            Self::BelowFloor { floor, found } => write!(
                f,
                "release {found} is below {floor}, the floor in trust.toml (min-epoch, min-seq); make a newer release, or lower the floor if that is meant"
            ),
            Self::Equivocation { place } => write!(
                f,
                "there are two different releases {place}: hosts are told different things under one number; find out who signed them, and make a new release"
            ),
            // The advice to make a new one would not help: the next one would be as old.
            Self::Expired { expires, now, clock } if *clock < *now => write!(
                f,
                "the release ran out at {} by the time that this host has seen ({}), though its clock says {}: if that time was wrong, raise the epoch (`trimtab trust rotate --new-epoch`) and release again; if it was right, set the clock, and make a new release",
                show_time(*expires),
                show_time(*now),
                show_time(*clock)
            ),
            Self::Expired { expires, now, .. } => write!(
                f,
                "the release ran out at {} and it is {} now; make a new release (of the same commit, if nothing changed)",
                show_time(*expires),
                show_time(*now)
            ),
            Self::Future { issued, now } => write!(
                f,
                "the release says that it was made at {} and it is {} now; check the clock of who signed it, and make it again",
                show_time(*issued),
                show_time(*now)
            ),
            Self::Stale { why } => {
                write!(f, "the release is not known to be fresh ({why}), and `on-stale = \"hold\"` in trust.toml takes no such one")
            }
            Self::Unread => {
                f.write_str("the root file that trust.toml names was not read; this is a fault of trimtab, please report it")
            }
        }
    }
}
