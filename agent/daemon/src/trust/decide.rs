//! What the source's newest is worth to this host, in whichever mode it is.
//!
//! Guarantees: what is to be remembered comes out of here as a whole, to be written before anything follows from it; a root that was believed is
//! remembered whatever becomes of the rest.
//! Limits: those of the mode.

use gix_hash::ObjectId;
use trimtab_model::digest::Digest;

use super::begin;
use super::blocks::AnyKey;
use super::chain::{self, RootFault};
use super::commit::{self, Commit, MAX_COMMIT};
use super::fault::ReleaseFault;
use super::hash::{FetchError, Verified};
use super::keys::{TrustConfig, TrustedKey};
use super::memory::{Memory, Moment};
use super::policy::{Anchor, Mode, RootFile};
use super::prove::prove;
use super::pubkey::Fingerprint;
use super::release::{self, Judged, Rules, of_chain, of_fetch};
use super::state::TrustState;
use super::verdict::Verdict;
use crate::wire::{ObjectError, ObjectKind, ObjectSource};

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
        (Mode::Release(_), None, _) => Judged { verdict: ReleaseFault::Unread.into(), memory: None, remarks: Vec::new() },
        (Mode::Commit, _, anchor) => {
            let (mut memory, mut remarks) = (before.clone(), Vec::new());
            // Whether a certificate is valid is asked of the same time as whether a release is: a clock that fell back makes nothing valid again.
            let now = moment.clock.max(before.floor_now());
            let verdict = match anchor {
                None => commit(tip, source, trust, &mut memory, &mut remarks, now),
                Some(anchor) => rooted(tip, source, trust, anchor, &mut memory, &mut remarks)
                    .and_then(|trust| commit(tip, source, &trust, &mut memory, &mut remarks, now)),
            };
            let verdict = verdict.unwrap_or_else(|verdict| verdict);
            Judged { verdict, memory: (memory != *before).then_some(memory), remarks }
        }
    }
}

fn commit(
    tip: ObjectId,
    source: &mut impl ObjectSource,
    trust: &TrustConfig,
    memory: &mut Memory,
    remarks: &mut Vec<String>,
    now: u64,
) -> Result<Verdict, Verdict> {
    if memory.former.is_some() {
        // Whoever may sign it vouches for its tree; what it descends from is another question.
        match prove(tip, source, trust, None, now) {
            Verdict::Accepted(proven) => begin::settle(proven.tree(), source, memory, remarks).map_err(of_chain)?,
            verdict => return Err(verdict),
        }
    }
    let verdict = match &memory.accepted {
        Some(accepted) => prove(tip, source, trust, Some(accepted), now),
        None => first_again(tip, source, trust, memory.base, now)?,
    };
    if let Verdict::Accepted(proven) = &verdict {
        if memory.accepted.is_some() {
            memory.lost = None;
        }
        memory.accepted = Some(proven.state().clone());
        memory.base = None;
    }
    Ok(verdict)
}

/// Nothing is remembered. What was in force when that was lost, and what trust.toml names, still say what a commit must descend from.
fn first_again(
    tip: ObjectId,
    source: &mut impl ObjectSource,
    trust: &TrustConfig,
    base: Option<ObjectId>,
    now: u64,
) -> Result<Verdict, Verdict> {
    if trust.min_commit() == Some(tip) {
        // A person named this very commit: a branch that was rewritten on purpose goes on from here.
        return Ok(prove(tip, source, trust, None, now));
    }
    let mut verdict = None;
    for base in [base, trust.min_commit()].into_iter().flatten().filter(|base| *base != tip) {
        let payload = payload(base, source)?;
        let state = TrustState::new(trust.reference().to_owned(), base, payload, (Fingerprint::of(b""), String::new()), now, 0);
        match prove(tip, source, trust, Some(&state), now) {
            // A twin of it: the same payload under another id.
            Verdict::Unchanged(_) => {}
            accepted @ Verdict::Accepted(_) => verdict = Some(accepted),
            refused => return Err(refused),
        }
    }
    Ok(verdict.unwrap_or_else(|| prove(tip, source, trust, None, now)))
}

/// What was signed of a commit that was believed once.
fn payload(id: ObjectId, source: &mut impl ObjectSource) -> Result<Digest, Verdict> {
    let object = Verified::new(source, MAX_COMMIT).one(ObjectKind::Commit, id, MAX_COMMIT).map_err(|error| match error {
        // Of a source that has it no more nothing descends from it.
        FetchError::Source(ObjectError::Missing { .. }) => Verdict::Rewritten,
        error => of_fetch(error),
    })?;
    let commit = Commit::parse(&object).map_err(|malformed| Verdict::Malformed { what: malformed.what.to_owned() })?;
    Ok(commit.digest)
}

/// The configuration with the keys that the newest root names for its branch.
fn rooted(
    tip: ObjectId,
    source: &mut impl ObjectSource,
    trust: &TrustConfig,
    anchor: &Anchor,
    memory: &mut Memory,
    remarks: &mut Vec<String>,
) -> Result<TrustConfig, Verdict> {
    let object = Verified::new(source, MAX_COMMIT).one(ObjectKind::Commit, tip, MAX_COMMIT).map_err(of_fetch)?;
    let tree = commit::tree(&object).map_err(|error| Verdict::Malformed { what: error.what.to_owned() })?;
    let first = begin::first(tree, source, anchor, memory).map_err(of_chain)?;
    let followed = chain::follow(first, tree, source).map_err(of_chain)?;
    begin::believe(&followed.newest, anchor, memory, remarks).map_err(ReleaseFault::Root)?;
    if let Some(fault) = followed.fault {
        return Err(ReleaseFault::Root(fault).into());
    }
    // The commit itself names no repository: the roots in its tree do, or another repository of the same people would pass.
    if !chain::is_of(&followed.newest, tree, source).map_err(of_chain)? {
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
