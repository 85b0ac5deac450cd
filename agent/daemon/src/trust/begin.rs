//! Where the chain of roots begins, and what becomes of a memory when trust.toml pins another root than the one it began with.
//!
//! What was believed under one pin says nothing under another: a host that was enrolled on the wrong root, and is told the right one, begins anew there.
//! Only where the two turn out to be of one chain (a root that is pinned anew because it is newer, say) does what was accepted go on counting, so that
//! no old release comes back with a new pin. That is asked of a tree that the keys under the *new* pin have vouched for: the folder of its roots holds
//! every root of their chain. In any other tree somebody could lay whatever he likes side by side.
//!
//! Guarantees: trust.toml outranks the memory. Until it is settled, nothing of the memory is lost; once it is, it is told.
//! Limits: a release that was made before the root that was pinned earlier was in the tree does not show that the two belong together: the order of
//! releases begins anew then, above the floor in trust.toml. A memory of format 2 does not say what was pinned: there it does not.

use gix_hash::ObjectId;
use trimtab_model::digest::Digest;

use super::chain::{self, ChainError, RootFault};
use super::memory::{Former, Memory};
use super::policy::{Anchor, Pin, RootFile};
use crate::wire::ObjectSource;

/// Where the chain begins: with what was believed before, as long as that began with the root that trust.toml pins.
pub(crate) fn first(
    tree: ObjectId,
    source: &mut impl ObjectSource,
    anchor: &Anchor,
    memory: &Memory,
) -> Result<RootFile, ChainError> {
    let pin = pin_of(anchor)?;
    let remembered = memory.root.as_ref().filter(|file| file.root.repo == anchor.repo);
    match (&anchor.pin, remembered) {
        (_, Some(remembered)) if memory.pin == Some(pin) || remembered.digest() == pin => Ok(remembered.clone()),
        (Pin::File(pinned), _) => Ok(pinned.clone()),
        _ => chain::pinned(pin, &anchor.repo, tree, source),
    }
}

/// The digest of the root that is pinned.
fn pin_of(anchor: &Anchor) -> Result<Digest, RootFault> {
    let unread = || match &anchor.pin {
        Pin::Path(path) => RootFault::Tree(format!("{} was not read", path.display())),
        Pin::Digest(digest) => RootFault::Unpinned(*digest),
        Pin::File(file) => RootFault::Unpinned(file.digest()),
    };
    anchor.digest().ok_or_else(unread)
}

/// Remembers the root that the chain led to; what a person should know of it.
pub(super) fn believe(newest: &RootFile, anchor: &Anchor, memory: &mut Memory, remarks: &mut Vec<String>) -> Result<(), RootFault> {
    let (pin, was) = (pin_of(anchor)?, memory.pin);
    if let (true, Some(was)) = (memory.believe(newest.clone(), pin), was) {
        remarks.push(format!(
            "trust.toml pins the root {}, and what this host believed began with {}: it begins anew, and what it has in force stays until a release or \
             commit counts under the new one",
            pin.short(),
            was.short()
        ));
    }
    Ok(())
}

/// Whether what was accepted under an earlier pin counts, now that the keys under the present one vouch for this tree. If not, it is forgotten.
pub(super) fn settle(
    tree: ObjectId,
    source: &mut impl ObjectSource,
    memory: &mut Memory,
    remarks: &mut Vec<String>,
) -> Result<(), ChainError> {
    let Some(former) = memory.former.clone() else { return Ok(()) };
    let pin = memory.pin;
    let is_pin = pin == Some(former.root) || former.pin.is_some() && former.pin == pin;
    if is_pin || is_of_one_chain(&former, tree, source)? {
        memory.former = None;
        return Ok(());
    }
    let what = match &memory.release {
        Some(release) => format!("release {} of {}", release.place, release.channel),
        None => "what it accepted".to_owned(),
    };
    remarks.push(format!(
        "{what} counts no more: root {} ({}), under which it was accepted, is not of the chain of the root that trust.toml pins; set min-epoch and min-seq \
         there if you know how far the right repository has come",
        former.version,
        former.root.short()
    ));
    memory.forget();
    memory.former = None;
    Ok(())
}

fn is_of_one_chain(former: &Former, tree: ObjectId, source: &mut impl ObjectSource) -> Result<bool, ChainError> {
    let there = chain::digests(tree, source)?;
    let holds = |digest: Digest| there.values().any(|found| *found == digest);
    // Of a memory of format 2 nobody knows what was pinned, and an update of trimtab is no reason to let an old release in.
    let cannot_say = former.pin.is_none() && !there.contains_key(&former.version);
    Ok(holds(former.root) || former.pin.is_some_and(holds) || cannot_say)
}
