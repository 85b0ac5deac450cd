//! What the source's newest is worth to this host, in whichever mode it is.
//!
//! Guarantees: what is to be remembered comes out of here as a whole, to be written before anything follows from it; a root that was believed is
//! remembered whatever becomes of the rest.
//! Limits: those of the mode.

use gix_hash::ObjectId;

use super::blocks::AnyKey;
use super::chain::{self, ChainError, RootFault};
use super::commit::{self, MAX_COMMIT};
use super::fault::ReleaseFault;
use super::hash::Verified;
use super::keys::{TrustConfig, TrustedKey};
use super::memory::{Memory, Moment};
use super::policy::{Anchor, Mode, RootFile};
use super::prove::prove;
use super::release::{self, Judged, Rules, of_fetch};
use super::verdict::Verdict;
use crate::wire::{ObjectKind, ObjectSource};

/// What a branch is called in full.
const HEADS: &str = "refs/heads/";

/// Looks at what the source's reference names, and at the `alive` tag beside it where there is one.
pub fn decide(
    tip: ObjectId,
    alive: Option<ObjectId>,
    source: &mut impl ObjectSource,
    trust: &TrustConfig,
    before: &Memory,
    moment: Moment,
) -> Judged {
    match (trust.mode(), Rules::of(trust), trust.anchor()) {
        (Mode::Release(_), Some(rules), _) => release::judge(tip, alive, source, rules, before, moment),
        (Mode::Release(_), None, _) => of(ReleaseFault::Unread.into(), before, before.clone()),
        (Mode::Commit, _, None) => commit(tip, source, trust, before, before.clone(), moment),
        (Mode::Commit, _, Some(anchor)) => {
            let mut memory = before.clone();
            match rooted(tip, source, trust, anchor, &mut memory) {
                Ok(trust) => commit(tip, source, &trust, before, memory, moment),
                Err(verdict) => of(verdict, before, memory),
            }
        }
    }
}

fn of(verdict: Verdict, before: &Memory, memory: Memory) -> Judged {
    Judged { verdict, memory: (memory != *before).then_some(memory), remarks: Vec::new() }
}

fn commit(
    tip: ObjectId,
    source: &mut impl ObjectSource,
    trust: &TrustConfig,
    before: &Memory,
    mut memory: Memory,
    moment: Moment,
) -> Judged {
    // Whether a certificate is valid is asked of the same time as whether a release is: a clock that fell back makes nothing valid again.
    let now = moment.clock.max(before.floor(0));
    let verdict = prove(tip, source, trust, before.accepted.as_ref(), now);
    if let Verdict::Accepted(proven) = &verdict {
        if memory.accepted.is_some() {
            memory.lost = None;
        }
        memory.accepted = Some(proven.state().clone());
    }
    of(verdict, before, memory)
}

/// The configuration with the keys that the newest root names for its branch.
fn rooted(
    tip: ObjectId,
    source: &mut impl ObjectSource,
    trust: &TrustConfig,
    anchor: &Anchor,
    memory: &mut Memory,
) -> Result<TrustConfig, Verdict> {
    let object = Verified::new(source, MAX_COMMIT).one(ObjectKind::Commit, tip, MAX_COMMIT).map_err(of_fetch)?;
    let tree = commit::tree(&object).map_err(|error| Verdict::Malformed { what: error.what.to_owned() })?;
    let fault = |error| match error {
        ChainError::Fetch(error) => of_fetch(error),
        ChainError::Root(fault) => ReleaseFault::Root(fault).into(),
    };
    let first = release::first(tree, source, anchor, memory).map_err(fault)?;
    let followed = chain::follow(first, tree, source).map_err(fault)?;
    memory.root = Some(followed.newest.clone());
    if let Some(fault) = followed.fault {
        return Err(ReleaseFault::Root(fault).into());
    }
    // The commit itself names no repository: the roots in its tree do, or another repository of the same people would pass.
    if !chain::is_of(&followed.newest, tree, source).map_err(fault)? {
        return Err(ReleaseFault::Root(RootFault::Elsewhere { want: anchor.repo.clone() }).into());
    }
    let keys = keys(&followed.newest, trust.reference())?;
    Ok(trust.with_keys(keys))
}

/// The keys that a root names for commits of the branch that this reference is.
pub(crate) fn keys(file: &RootFile, reference: &str) -> Result<Vec<TrustedKey>, Verdict> {
    let branch = reference.strip_prefix(HEADS).unwrap_or(reference);
    let role = file.root.commit.get(branch).or_else(|| file.root.commit.get(reference));
    let ssh = |name: &String| match &file.root.key(name)?.key {
        AnyKey::Ssh(key) => Some(TrustedKey { key: key.clone(), comment: name.clone() }),
        AnyKey::Minisign(_) => None,
    };
    let keys: Vec<TrustedKey> = role.into_iter().flat_map(|role| &role.keys).filter_map(ssh).collect();
    if keys.is_empty() {
        return Err(ReleaseFault::NoBranch { branch: branch.to_owned(), root: file.root.version }.into());
    }
    Ok(keys)
}
