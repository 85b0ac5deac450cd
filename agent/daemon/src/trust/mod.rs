//! Trust: from bytes that nobody believes to a commit that this host may act on, and the slice of its tree that it needs.
//!
//! [`prove::prove`] asks an untrusted [`ObjectSource`](crate::wire::ObjectSource) for the tip, re-hashes it, parses it strictly, checks
//! its signature against the keys and authorities pinned in `/etc/trimtab/trust.toml` and its descent from what was accepted before, and gives a
//! [`verdict::Verdict`]. Only an accepted (or unchanged) verdict carries a [`prove::Proven`], and only a `Proven` opens the tree
//! ([`tree::read`]).
//!
//! Guarantees: no byte is used before it has been hashed to the id that was asked for; no file content is returned before the commit
//! that names it is proven; everything is bounded in count, size and depth; nothing here writes to disk, runs a program or opens a
//! socket. The repository cannot loosen the rules by which it is judged: they are read from the local file only.
//!
//! Two modes. In *commit mode* it is signed commits of one branch that count; it has no expiry (a frozen source is only seen by reporting), and any
//! descendant that a trusted key signed can be deployed unless `trailer` is set. In *release mode* it is a [`statement`] in a signed [`tag`], by the
//! threshold of the channel's keys ([`threshold`]), bound to all that it is about, ordered and with an end ([`release`], [`fresh`]). In both the keys may
//! come from a [`chain`] of [`root`] files that begins at a pinned one. [`decide`] is where both meet, and [`memory`] what they leave behind.
//!
//! Order of imports inside this room: `pubkey`, `minisign`, `hash`, `statement` <- `cert` and `sshsig`, `blocks`, `commit`, `openpgp`, `tag`, `threshold`
//! <- `signers` <- `keys`, `root`, `policy`, `owner`, `state` <- `memory`, `fault`, `verdict`, `ancestry` <- `vouch` <- `prove` <- `tree` <- `chain` <- `begin`
//! <- `fresh`, `release` <- `decide`.

pub mod ancestry;
pub mod begin;
pub mod blocks;
pub mod cert;
pub mod chain;
pub mod commit;
pub mod decide;
pub mod fault;
pub mod fresh;
pub mod hash;
pub mod keys;
pub mod memory;
pub mod minisign;
#[cfg(feature = "openpgp")]
pub mod openpgp;
pub mod owner;
pub mod policy;
pub mod prove;
pub mod pubkey;
pub mod release;
pub mod root;
pub mod signers;
pub mod sshsig;
pub mod state;
pub mod statement;
pub mod tag;
pub mod threshold;
pub mod tree;
pub mod verdict;
pub mod vouch;

/// What to do when something is not accepted. `Halt` is for what only a person at this machine can mend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// It may work later without anybody doing anything: back off and try again.
    Retry,
    /// This revision is bad: stay on the last good one, report, wait for another.
    Hold,
    /// Local configuration or state cannot be trusted: a person must look.
    Halt,
}
