//! `verify = "all-since-trusted"`: does every commit that came since the last accepted one carry a signature that counts?
//!
//! What came since is what git's `accepted..tip` names: whatever the tip descends from, by any parent, and the accepted commit does not. The
//! other side's word is not taken for it: a commit is left out only when it was found by walking back from the accepted one.
//!
//! Guarantees: a tip is vouched for only when each of those commits was fetched, hashed, parsed as strictly as the tip and checked; bounded
//! by [`MAX_COMMITS`] and by [`ancestry`]'s bytes. Commits are fetched in hundreds and dropped when they were looked at.
//! Limits: keys count as they do now: a commit by a key that was taken away meanwhile is refused, and so is one by a certificate that ran out
//! meanwhile (the date in a commit proves nothing). At the first contact nothing is trusted yet and only the tip is looked at.

use std::collections::{HashMap, HashSet};

use gix_hash::ObjectId;

use super::ancestry::{self, Accepted, Descent, MAX_BYTES, Walk};
use super::commit::{self, Commit, MAX_COMMIT};
use super::hash::{FetchError, Proved, Verified};
use super::verdict::{Unvouched, Verdict};
use crate::wire::{ObjectKind, ObjectSource};

/// The most commits that are looked at in one step. A team that commits forty times a working day takes two years for as many, so a
/// host that slept for long still catches up in one; checking them costs about two seconds on a small x86 and a minute on a small ARM.
/// What is remembered of each is 200 bytes: 4 MB for all.
pub const MAX_COMMITS: usize = 20_000;
/// How many commits are fetched at once: many, for each question costs, and not so many that large ones fill the memory.
const AT_ONCE: usize = 256;
/// So often the two walks are compared at each step; further back that would cost more than it saves.
const CLOSE: usize = 64;

/// Finds out how `tip` stands to the accepted commit, and whether each commit between the two passes `check`. The tip itself was checked.
pub fn descent(
    tip: &Commit,
    accepted: Accepted,
    source: &mut impl ObjectSource,
    check: impl Fn(&Commit) -> Result<(), Verdict>,
) -> Result<Result<Descent, Unvouched>, FetchError> {
    let (descent, mut back, mut other) = ancestry::walk(tip, accepted, MAX_COMMITS, source)?;
    if descent != Descent::Descends {
        return Ok(Ok(descent));
    }
    finish(&mut back, &mut other, tip, accepted, source)?;
    if let Some(error) = back.missing.take() {
        return Err(error.into());
    }
    if back.bounded {
        return Ok(Ok(Descent::TooFar));
    }
    let old = back.behind(&other, accepted.commit);
    let new: Vec<ObjectId> = back.links.iter().map(|(id, _)| *id).filter(|id| !old.contains(id)).collect();
    let mut bad = Vec::new();
    let mut checked = Verified::new(source, MAX_BYTES);
    for ids in new.chunks(AT_ONCE) {
        let objects = checked.many(ObjectKind::Commit, ids, MAX_COMMIT)?;
        bad.extend(objects.iter().filter(|object| judge(object, &check).is_err()).map(Proved::id));
    }
    if bad.is_empty() {
        return Ok(Ok(Descent::Descends));
    }
    let Some(bad) = settle(bad, &back, &mut other, tip, accepted, source) else { return Ok(Ok(Descent::TooFar)) };
    let Some(oldest) = bad.last() else { return Ok(Ok(Descent::Descends)) };
    let object = Verified::new(source, MAX_COMMIT).one(ObjectKind::Commit, *oldest, MAX_COMMIT)?;
    let why = judge(&object, &check).err().map_or_else(|| Box::new(Verdict::Unsigned), Box::new);
    let author = commit::author(&object);
    Ok(Err(Unvouched { commit: *oldest, author, count: bad.len(), why }))
}

fn judge(object: &Proved, check: &impl Fn(&Commit) -> Result<(), Verdict>) -> Result<(), Verdict> {
    let commit = Commit::parse(object).map_err(|malformed| Verdict::Malformed { what: malformed.what.to_owned() })?;
    check(&commit)
}

/// Follows what is left when the accepted commit was met: side branches, each to where it left the history of the accepted commit.
fn finish(
    back: &mut Walk,
    other: &mut Walk,
    tip: &Commit,
    accepted: Accepted,
    source: &mut impl ObjectSource,
) -> Result<(), FetchError> {
    let mut round = 0;
    while !back.is_over() {
        // Twice as fast, to catch up with what has the lead.
        other.tell(source, &tip.digest);
        other.tell(source, &tip.digest);
        round += 1;
        if round < CLOSE || round % CLOSE == 0 {
            back.leave(other, accepted.commit);
        }
        back.step(source, &accepted.payload)?;
    }
    Ok(())
}

/// Which of the bad commits came since the accepted one; `None` when that cannot be told within the bound. What has the accepted commit
/// behind it certainly did; of the others the walk back from the accepted commit tells.
fn settle(
    mut bad: Vec<ObjectId>,
    back: &Walk,
    other: &mut Walk,
    tip: &Commit,
    accepted: Accepted,
    source: &mut impl ObjectSource,
) -> Option<Vec<ObjectId>> {
    let after = after(back);
    if bad.iter().any(|id| after.contains(id)) {
        bad.retain(|id| after.contains(id));
        return Some(bad);
    }
    while !bad.is_empty() && !other.is_over() {
        for _ in 0..CLOSE {
            other.tell(source, &tip.digest);
        }
        let old = back.behind(other, accepted.commit);
        bad.retain(|id| !old.contains(id));
    }
    (bad.is_empty() || (!other.bounded && other.missing.is_none())).then_some(bad)
}

/// The commits from which the accepted one can be reached.
fn after(back: &Walk) -> HashSet<ObjectId> {
    let mut children: HashMap<ObjectId, Vec<ObjectId>> = HashMap::new();
    for (id, parents) in &back.links {
        for parent in parents {
            children.entry(*parent).or_default().push(*id);
        }
    }
    let mut queue = back.met.clone();
    let mut after = HashSet::new();
    while let Some(id) = queue.pop() {
        queue.extend(children.get(&id).into_iter().flatten().copied().filter(|id| after.insert(*id)));
    }
    after
}
