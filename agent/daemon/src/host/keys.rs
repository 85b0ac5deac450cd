//! Keys of structured files that belong to others, on this machine: what stands at a path read, and judged by [`trimtab_model::keys`].
//!
//! Guarantees: nothing is changed; a file larger than [`keys::MAX_FILE`] is not read, and is then judged and replaced like any other; what is
//! read is handed to nobody but the one who writes that very file.

use trimtab_model::desired::{Entry, Node};
use trimtab_model::drift::IgnoredKeys;
use trimtab_model::keys;
use trimtab_model::ledger::Owned;
use trimtab_model::names::HostPath;

use super::observe;
use super::root::Root;

/// What stands at a path, for comparing; `None`: nothing that could hold somebody's keys.
pub fn found(root: &Root, path: &HostPath) -> Option<Vec<u8>> {
    observe::read(root, path, keys::MAX_FILE as u64).ok()
}

/// Whether what is wanted is in force already: only what somebody did to the file can differ, and then its layout does not count.
/// An update is another matter: the repository's comments are meant to arrive.
pub fn is_settled(owned: Option<&Owned>, want: &Entry) -> bool {
    owned.is_some_and(|owned| !owned.pending && owned.state.node == want.state.node)
}

/// Whether a found content needs no write.
pub fn is_alike(ignored: &IgnoredKeys, wanted: &[u8], found: &[u8], settled: bool) -> bool {
    if settled { keys::same(ignored, wanted, found) } else { keys::splice(ignored, wanted, found) == found }
}

/// The bytes that shall stand at a path: the wanted ones around the keys of others, as they are found there now. A change since the plan was
/// made is caught where the file is switched, by what the step expects to find.
pub fn around(root: &Root, path: &HostPath, want: &Entry, wanted: Vec<u8>, settled: bool) -> Vec<u8> {
    let (Some(ignored), Node::File { .. }) = (&want.ignored, &want.state.node) else { return wanted };
    match found(root, path) {
        Some(found) if is_alike(ignored, &wanted, &found, settled) => found,
        Some(found) => keys::splice(ignored, &wanted, &found),
        None => wanted,
    }
}
