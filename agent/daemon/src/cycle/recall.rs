//! What this host remembers of what it believed, read at the start: from both copies, checked, and put right again.
//!
//! Guarantees: a copy that others could have written is not read; a damaged copy is passed over while the other one is whole. A memory that is lost, or
//! damaged in both copies, falls back to the floor in trust.toml and the pinned root, in commit mode to the commit that the ledger says is in force; it is
//! told for as long as it matters, stops nothing (but where `require-state` asks for it), and never means "trust anything".
//! Limits: a host that has lost its ledger as well looks like a new one.

use trimtab_model::ledger::Ledger;

use super::open::OpenError;
use crate::log::{chain, now_ms};
use crate::store::Store;
use crate::trust::keys::TrustConfig;
use crate::trust::memory::Memory;
use crate::trust::owner::{OwnerError, check_owner};
use crate::trust::policy::Mode;
use crate::trust::state::StateError;

/// What is remembered, or what counts in its place.
pub(super) fn recall(store: &Store, trust: &TrustConfig, ledger: &Ledger, remarks: &mut Vec<String>) -> Result<Memory, OpenError> {
    for path in store.trust_paths() {
        match check_owner(&path) {
            Err(OwnerError::Open { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {}
            other => other.map_err(OpenError::StateOwner)?,
        }
    }
    let copies = store.load_trust_state()?;
    // The first copy is written first: only a loss of the whole folder, and of the ledger with it, leaves the second alone.
    if copies.main.is_none() && copies.second.is_some() {
        let advice = "what trimtab remembered of this host is lost but for the last accepted commit: what the repository has is taken \
                      over as it stands, and what has left it stays";
        remarks.push(advice.to_owned());
    }
    let (mut whole, mut damage) = (None::<Memory>, None);
    for text in [copies.main, copies.second].into_iter().flatten() {
        match Memory::from_text(&text) {
            Ok(memory) => whole = Some(whole.take().map_or(memory.clone(), |other| other.merge(memory))),
            Err(error) => damage = Some(error),
        }
    }
    let memory = match (whole, damage) {
        (Some(memory), damage) => {
            if let Some(error) = damage {
                remarks.push(format!("one copy of the trust state cannot be used, the other one is: {}", chain(&error)));
            }
            memory
        }
        (None, damage) => lost(trust, ledger, damage, remarks)?,
    };
    check_mode(&memory, trust)?;
    Ok(memory)
}

/// Nothing is remembered: on a new host, or on one that lost it.
fn lost(trust: &TrustConfig, ledger: &Ledger, damage: Option<StateError>, remarks: &mut Vec<String>) -> Result<Memory, OpenError> {
    // A later version's text is no damage: that version is what must come back.
    if let Some(error @ StateError::Format { .. }) = damage {
        return Err(error.into());
    }
    // This host has been converged before, so that it must have remembered something.
    let had = ledger.generation > 0;
    if !had && damage.is_none() {
        return Ok(Memory::default());
    }
    let why = damage.map_or("it is gone".to_owned(), |error| chain(&error));
    let memory = Memory { lost: Some(now_ms() / 1000), ..Memory::default() };
    let policy = match trust.mode() {
        Mode::Release(policy) => policy,
        Mode::Commit => {
            let base = ledger.revision.parse().ok();
            let rest = match (base, trust.min_commit()) {
                (None, None) => "the next signed commit is taken as the first".to_owned(),
                (None, Some(least)) => format!("the next signed commit that descends from {least} (min-commit) is taken"),
                (Some(_), _) => format!("what comes next must descend from {}, which is in force", ledger.revision),
            };
            remarks.push(format!("the memory of the last accepted commit is lost ({why}): {rest}"));
            return Ok(Memory { base, ..memory });
        }
    };
    if policy.require_state {
        return Err(OpenError::StateLost);
    }
    remarks.push(format!(
        "the memory of the accepted releases is lost ({why}): whatever is at least {}, the floor in trust.toml, counts as new, under the pinned root and \
         those that follow it",
        policy.floor
    ));
    Ok(memory)
}

/// A host that has believed statements does not go back to believing commits because a line was changed.
pub(super) fn check_mode(memory: &Memory, trust: &TrustConfig) -> Result<(), OpenError> {
    match (&memory.release, trust.mode()) {
        (Some(_), Mode::Commit) => Err(StateError::Mode { mode: "release".to_owned() }.into()),
        _ => Ok(()),
    }
}

/// Both copies say the same again after one of them was lost or damaged.
pub(super) fn mend(store: &mut Store, memory: &Memory, remarks: &mut Vec<String>) {
    let text = memory.to_text();
    let whole = |copy: Option<String>| copy.as_deref() == Some(text.as_str());
    let both = store.load_trust_state().is_ok_and(|copies| whole(copies.main) && whole(copies.second));
    if !both && let Err(error) = store.save_trust_state(&text) {
        remarks.push(format!("the second copy of the trust state could not be written: {}", chain(&error)));
    }
}
