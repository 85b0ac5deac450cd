//! Does a new tip come after the commit that was accepted last?
//!
//! Commits are compared by the digest of what was signed, not by id: anybody can mint a second id for a signed commit (an ECDSA
//! signature has a twin), and a host that was fed the twin first must still accept the genuine commit's children.
//!
//! Two walks, breadth first: from the tip back, and, only to tell *why* it is not a descendant, from the accepted commit back. What
//! both reach cannot lead the first walk to the accepted commit any more, so a rewritten branch is told after the few commits
//! that were rewritten, not after the whole history.
//!
//! Guarantees: at most as many commits as the caller says and [`MAX_BYTES`] bytes per walk; every commit is hashed; "descends" is never guessed.
//! Limits: ancestors need no signature here: what is deployed is the tip's tree, for which the tip's signer vouches ([`vouch`](super::vouch)
//! asks for more). Telling a roll-back from a rewritten branch is best effort.

use std::collections::{HashMap, HashSet};

use gix_hash::ObjectId;
use trimtab_model::digest::Digest;

use super::commit::{self, Commit, MAX_COMMIT};
use super::hash::{FetchError, Verified};
use crate::wire::{ObjectError, ObjectKind, ObjectSource};

/// The most commits that one walk looks at where only the tip has to be signed.
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

/// The commit that was accepted last.
#[derive(Debug, Clone, Copy)]
pub struct Accepted {
    /// The digest of what was signed.
    pub payload: Digest,
    /// Its id as it was served then.
    pub commit: ObjectId,
}

/// Finds out how `tip` stands to the accepted commit. The tip itself is not it: the caller has looked.
pub fn descent(tip: &Commit, accepted: Accepted, source: &mut impl ObjectSource) -> Result<Descent, FetchError> {
    walk(tip, accepted, MAX_COMMITS, source).map(|(descent, ..)| descent)
}

/// As [`descent`], with a bound of its own; and both walks as they stand then, the tip's and the accepted commit's.
pub(super) fn walk(
    tip: &Commit,
    accepted: Accepted,
    most: usize,
    source: &mut impl ObjectSource,
) -> Result<(Descent, Walk, Walk), FetchError> {
    let Accepted { payload, commit } = accepted;
    let mut back = Walk::new(tip.parents.clone(), most);
    let mut other = Walk::new(vec![commit], most);
    let mut generation = 0;
    let mut forked = false;
    while !back.is_over() {
        if back.step(source, &payload)? {
            return Ok((Descent::Descends, back, other));
        }
        generation += 1;
        if (back.is_over() || generation > TIP_ALONE) && other.count < BESIDE {
            if other.tell(source, &tip.digest) {
                return Ok((Descent::RolledBack, back, other));
            }
            forked |= back.leave(&other, commit);
        }
    }
    // Where the two sides met, an ancestor of the accepted commit is near or there is none.
    let look = if forked { other.count + BESIDE } else { most };
    while !other.is_over() && other.count < look {
        if other.tell(source, &tip.digest) {
            return Ok((Descent::RolledBack, back, other));
        }
    }
    match back.missing.take() {
        Some(error) => Err(error.into()),
        None if back.bounded => Ok((Descent::TooFar, back, other)),
        None => Ok((Descent::Rewritten, back, other)),
    }
}

/// One breadth-first walk back through history.
pub(super) struct Walk {
    frontier: Vec<ObjectId>,
    pub(super) seen: HashSet<ObjectId>,
    /// The commits that were looked at, in that order, each with its parents; but not the one that was looked for.
    pub(super) links: Vec<(ObjectId, Vec<ObjectId>)>,
    /// Where in `links` each commit stands.
    places: HashMap<ObjectId, usize>,
    /// The commits that were looked for, as they were found: one, or one and its twins.
    pub(super) met: Vec<ObjectId>,
    most: usize,
    count: usize,
    bytes: u64,
    pub(super) bounded: bool,
    pub(super) missing: Option<ObjectError>,
}

impl Walk {
    fn new(frontier: Vec<ObjectId>, most: usize) -> Self {
        let seen = frontier.iter().copied().collect();
        let (links, places, met) = (Vec::new(), HashMap::new(), Vec::new());
        Self { frontier, seen, links, places, met, most, count: 0, bytes: 0, bounded: false, missing: None }
    }

    pub(super) fn is_over(&self) -> bool {
        self.frontier.is_empty()
    }

    /// One generation further back; whether a commit with this payload is in it, behind which the walk does not go.
    pub(super) fn step(&mut self, source: &mut impl ObjectSource, want: &Digest) -> Result<bool, FetchError> {
        let mut ids = std::mem::take(&mut self.frontier);
        // At the bound nothing is left to be asked for, and the walk is over.
        if ids.len() > self.most - self.count {
            ids.truncate(self.most - self.count);
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
        let mut found = false;
        for object in objects {
            self.bytes += object.bytes().len() as u64;
            if Commit::parse(&object).is_ok_and(|commit| commit.digest == *want) {
                found = true;
                self.met.push(object.id());
                continue;
            }
            // An ancestor that is no commit to us leads nowhere.
            let parents = commit::parents(&object).unwrap_or_default();
            self.frontier.extend(parents.iter().copied().filter(|id| self.seen.insert(*id)));
            self.places.insert(object.id(), self.links.len());
            self.links.push((object.id(), parents));
        }
        Ok(found)
    }

    /// A step of the walk that only explains: whatever goes wrong ends it, and the answer stays "not found".
    pub(super) fn tell(&mut self, source: &mut impl ObjectSource, want: &Digest) -> bool {
        self.step(source, want).unwrap_or_else(|_| {
            self.frontier.clear();
            false
        })
    }

    /// Stops following what lies behind the strict ancestors of `commit`, from which the other walk started: history has no
    /// circles, so `commit` is not among them. Whether the two walks have met.
    pub(super) fn leave(&mut self, other: &Walk, commit: ObjectId) -> bool {
        let behind = self.behind(other, commit);
        self.frontier.retain(|id| !behind.contains(id));
        !behind.is_empty()
    }

    /// Of what this walk has seen, the ancestors of `commit`, from which the other walk started: as far as that one has come.
    pub(super) fn behind(&self, other: &Walk, commit: ObjectId) -> HashSet<ObjectId> {
        let mut common: Vec<_> = self.seen.intersection(&other.seen).copied().filter(|id| *id != commit).collect();
        let mut behind: HashSet<_> = common.iter().copied().collect();
        while let Some(id) = common.pop() {
            let parents = self.places.get(&id).into_iter().flat_map(|place| self.links[*place].1.iter().copied());
            common.extend(parents.filter(|id| behind.insert(*id)));
        }
        behind
    }
}
