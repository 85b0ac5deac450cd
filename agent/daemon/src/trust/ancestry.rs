//! Does a new tip come after the commit that was accepted last?
//!
//! Commits are compared by the digest of what was signed, not by id: anybody can mint a second id for a signed commit (an ECDSA
//! signature has a twin), and a host that was fed the twin first must still accept the genuine commit's children.
//!
//! Two walks, breadth first: from the tip back, and, only to tell *why* it is not a descendant, from the accepted commit back. What
//! both reach cannot lead the first walk to the accepted commit any more, so a rewritten branch is told after the few commits
//! that were rewritten, not after the whole history.
//!
//! Guarantees: at most [`MAX_COMMITS`] commits and [`MAX_BYTES`] bytes per walk; every commit is hashed; "descends" is never guessed.
//! Limits: ancestors need no signature: what is deployed is the tip's tree, for which the tip's signer vouches. Telling a roll-back
//! from a rewritten branch is best effort.

use std::collections::{HashMap, HashSet};

use gix_hash::ObjectId;
use trimtab_model::digest::Digest;

use super::commit::{self, Commit, MAX_COMMIT};
use super::hash::{FetchError, Verified};
use crate::wire::{ObjectError, ObjectKind, ObjectSource};

/// The most commits that one walk looks at.
pub const MAX_COMMITS: usize = 5_000;
/// The most bytes of commits that one walk holds.
pub const MAX_BYTES: u64 = 64 << 20;
/// For so many generations only the tip's side is walked: a descendant is nearly always near, and the other side may have to be fetched.
const TIP_ALONE: usize = 16;
/// For so many commits both sides are walked in turn, to find where a rewritten branch left the old one.
const BESIDE: usize = 64;

/// How a tip stands to the commit that was accepted last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Descent {
    /// It comes after it.
    Descends,
    /// It comes before it: an old commit is served again.
    RolledBack,
    /// Neither: the branch was rewritten, or another branch is served.
    Rewritten,
    /// The bound was reached before an answer was found.
    TooFar,
}

/// Finds out how `tip` stands to the accepted commit, whose payload has the digest `payload` and which was last seen as `commit`.
/// The tip itself is not the accepted commit: the caller has looked.
pub fn descent(tip: &Commit, payload: &Digest, commit: ObjectId, source: &mut impl ObjectSource) -> Result<Descent, FetchError> {
    let mut back = Walk::new(tip.parents.clone());
    let mut other = Walk::new(vec![commit]);
    let mut generation = 0;
    let mut forked = false;
    while !back.is_over() {
        if back.step(source, payload)? {
            return Ok(Descent::Descends);
        }
        generation += 1;
        if (back.is_over() || generation > TIP_ALONE) && other.count < BESIDE {
            if other.tell(source, &tip.digest) {
                return Ok(Descent::RolledBack);
            }
            forked |= back.leave(&other, commit);
        }
    }
    // Where the two sides met, an ancestor of the accepted commit is near or there is none.
    let look = if forked { other.count + BESIDE } else { MAX_COMMITS };
    while !other.is_over() && other.count < look {
        if other.tell(source, &tip.digest) {
            return Ok(Descent::RolledBack);
        }
    }
    match back {
        Walk { missing: Some(error), .. } => Err(error.into()),
        Walk { bounded: true, .. } => Ok(Descent::TooFar),
        _ => Ok(Descent::Rewritten),
    }
}

/// One breadth-first walk back through history.
struct Walk {
    frontier: Vec<ObjectId>,
    seen: HashSet<ObjectId>,
    /// The parents of each commit that was looked at.
    links: HashMap<ObjectId, Vec<ObjectId>>,
    count: usize,
    bytes: u64,
    bounded: bool,
    missing: Option<ObjectError>,
}

impl Walk {
    fn new(frontier: Vec<ObjectId>) -> Self {
        let seen = frontier.iter().copied().collect();
        Self { frontier, seen, links: HashMap::new(), count: 0, bytes: 0, bounded: false, missing: None }
    }

    fn is_over(&self) -> bool {
        self.frontier.is_empty()
    }

    /// One generation further back; whether a commit with this payload is in it.
    fn step(&mut self, source: &mut impl ObjectSource, want: &Digest) -> Result<bool, FetchError> {
        let mut ids = std::mem::take(&mut self.frontier);
        // At the bound nothing is left to be asked for, and the walk is over.
        if ids.len() > MAX_COMMITS - self.count {
            ids.truncate(MAX_COMMITS - self.count);
            self.bounded = true;
        }
        let mut checked = Verified::new(source, MAX_BYTES - self.bytes);
        let objects = loop {
            match checked.many(ObjectKind::Commit, &ids, MAX_COMMIT) {
                // One side of a merge may lie behind a shallow boundary while the other leads on.
                Err(FetchError::Source(ObjectError::Missing { kind, id })) if ids.contains(&id) => {
                    ids.retain(|other| *other != id);
                    self.missing = Some(ObjectError::Missing { kind, id });
                }
                Err(FetchError::Budget { .. }) => {
                    self.bounded = true;
                    return Ok(false);
                }
                answer => break answer?,
            }
        };
        self.count += objects.len();
        for object in objects {
            self.bytes += object.bytes().len() as u64;
            if Commit::parse(&object).is_ok_and(|commit| commit.digest == *want) {
                return Ok(true);
            }
            // An ancestor that is no commit to us leads nowhere.
            let parents = commit::parents(&object).unwrap_or_default();
            self.frontier.extend(parents.iter().copied().filter(|id| self.seen.insert(*id)));
            self.links.insert(object.id(), parents);
        }
        Ok(false)
    }

    /// A step of the walk that only explains: whatever goes wrong ends it, and the answer stays "not found".
    fn tell(&mut self, source: &mut impl ObjectSource, want: &Digest) -> bool {
        self.step(source, want).unwrap_or_else(|_| {
            self.frontier.clear();
            false
        })
    }

    /// Stops following what lies behind the strict ancestors of `commit`, from which the other walk started: history has no
    /// circles, so `commit` is not among them. Whether the two walks have met.
    fn leave(&mut self, other: &Walk, commit: ObjectId) -> bool {
        let mut common: Vec<_> = self.seen.intersection(&other.seen).copied().filter(|id| *id != commit).collect();
        let mut behind: HashSet<_> = common.iter().copied().collect();
        while let Some(id) = common.pop() {
            let parents = self.links.get(&id).into_iter().flatten().copied();
            common.extend(parents.filter(|id| behind.insert(*id)));
        }
        self.frontier.retain(|id| !behind.contains(id));
        !behind.is_empty()
    }
}
