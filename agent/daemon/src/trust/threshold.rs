//! m of n: how many distinct keys of a role signed a text.
//!
//! Guarantees: a key counts once, however often it signed; a key that is not the role's counts for nobody; a signature that names a key of the role
//! and does not match refuses the whole text, whatever the other signatures are worth; one by a security key that nobody touched counts for nobody.
//! Limits: signatures by other keys are passed over: a key that was taken out may still stand beside the others.

use std::collections::BTreeSet;

use super::blocks::{AnyKey, Block, BlockFault};

/// The SSH namespace of releases and `alive` statements: git's own, so that `git tag -s` makes one.
pub const RELEASE_NAMESPACE: &[u8] = b"git";
/// The SSH namespace of root files.
pub const ROOT_NAMESPACE: &[u8] = b"trimtab-root";

/// A key under the name that its root file gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedKey {
    /// Its name there.
    pub name: String,
    /// The key.
    pub key: AnyKey,
}

impl std::fmt::Display for NamedKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.name, self.key.print())
    }
}

/// Who may do something, and how many of them it takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quorum<'r> {
    /// How many distinct keys.
    pub threshold: usize,
    /// Of these.
    pub keys: Vec<&'r NamedKey>,
}

/// What a block covers.
#[derive(Debug, Clone, Copy)]
pub enum Over<'a> {
    /// Everything that stands before it in these bytes.
    Before(&'a [u8]),
    /// These bytes, whatever it stands in.
    All(&'a [u8]),
}

/// Who signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tally {
    /// The names of the keys that count, in the role's order.
    pub signers: Vec<NamedKey>,
    /// What else signed, as it calls itself.
    pub others: Vec<String>,
}

/// Why a text is not signed as it must be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QuorumFault {
    /// There is no signature at all.
    #[error("it carries no signature, and {need} of {} must sign it", of.join(", "))]
    Unsigned {
        /// How many it takes.
        need: usize,
        /// Of these.
        of: Vec<String>,
    },
    /// Signed, and by none of those who may.
    #[error("it is signed by {} alone, and {need} of {} must sign it", others.join(", "), of.join(", "))]
    Strangers {
        /// Who signed.
        others: Vec<String>,
        /// How many it takes.
        need: usize,
        /// Of these.
        of: Vec<String>,
    },
    /// Signed by too few.
    #[error("it is signed by {} ({} of {need}){}; it takes {need} of {}", have.join(", "), have.len(), and(others), of.join(", "))]
    TooFew {
        /// Who signed.
        have: Vec<String>,
        /// Who else did, and does not count.
        others: Vec<String>,
        /// How many it takes.
        need: usize,
        /// Of these.
        of: Vec<String>,
    },
    /// A signature that is bad in itself.
    #[error(transparent)]
    Bad(#[from] BlockFault),
}

impl Quorum<'_> {
    /// Counts the signatures in these blocks; who signed, when they are enough.
    pub fn count(&self, blocks: &[Block<'_>], over: Over<'_>, namespace: &[u8]) -> Result<Tally, QuorumFault> {
        let (mut signed, mut others) = (BTreeSet::new(), Vec::new());
        for block in blocks {
            let payload = match over {
                Over::Before(bytes) => &bytes[..block.start],
                Over::All(bytes) => bytes,
            };
            match block.signer(payload, namespace, self.keys.iter().map(|named| &named.key)) {
                Ok(key) => {
                    let at = self.keys.iter().position(|named| named.key == *key);
                    signed.extend(at);
                }
                Err(BlockFault::Unknown(who)) => others.push(who),
                Err(BlockFault::Unsupported(what)) => others.push(what.to_owned()),
                Err(BlockFault::Untouched(key)) => others.push(format!("{key} (a security key that nobody touched)")),
                Err(fault) => return Err(fault.into()),
            }
        }
        let signers: Vec<NamedKey> = signed.into_iter().map(|at| self.keys[at].clone()).collect();
        let of = || self.keys.iter().map(|named| named.name.clone()).collect::<Vec<_>>();
        let need = self.threshold;
        if signers.len() >= need.max(1) {
            return Ok(Tally { signers, others });
        }
        let have: Vec<String> = signers.iter().map(|named| named.name.clone()).collect();
        Err(match (have.is_empty(), others.is_empty()) {
            (false, _) => QuorumFault::TooFew { have, others, need, of: of() },
            (true, false) => QuorumFault::Strangers { others, need, of: of() },
            (true, true) => QuorumFault::Unsigned { need, of: of() },
        })
    }
}

/// Those who signed and do not count.
fn and(others: &[String]) -> String {
    if others.is_empty() { String::new() } else { format!(", and by {}, which does not count", others.join(", ")) }
}

impl QuorumFault {
    /// The stable name, for journal and status.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unsigned { .. } => "unsigned",
            Self::Strangers { .. } => "unknown-signer",
            Self::TooFew { .. } => "below-threshold",
            Self::Bad(_) => "forged",
        }
    }
}
