//! The texts that a plan's diffs are made of, and nothing private among them.

use std::collections::BTreeMap;

use trimtab_model::desired::Node;
use trimtab_model::digest::Digest;
use trimtab_model::names::HostPath;
use trimtab_model::observed::Found;
use trimtab_model::plan::Texts;

use super::{Cycle, Looked, Wanted};
use crate::host::{keys, observe};

/// Longer files are told by their digests.
const MAX_TEXT: u64 = 256 << 10;

struct Both<'a> {
    cycle: &'a Cycle,
    wanted: &'a Wanted,
}

impl Texts for Both<'_> {
    fn texts(&self, path: &str) -> Option<(String, String)> {
        let path: HostPath = path.parse().ok()?;
        let entry = self.wanted.desired.entries.get(&path).filter(|entry| entry.shown)?;
        let Node::File { digest, size } = &entry.state.node else { return None };
        if *size > MAX_TEXT {
            return None;
        }
        let wanted = self.cycle.content(&self.wanted.contents, *digest).ok()?;
        let settled = keys::is_settled(self.cycle.ledger.entries.get(&path), entry);
        let wanted = keys::around(&self.cycle.machine.root, &path, entry, wanted, settled);
        let was_shown =
            self.cycle.current.as_ref().and_then(|current| current.desired.entries.get(&path)).is_none_or(|was| was.shown);
        if !was_shown || is_private(self.cycle, &path) {
            return None;
        }
        let found = match observe::read(&self.cycle.machine.root, &path, MAX_TEXT) {
            Ok(bytes) => bytes,
            Err(_) if !looked_at(self.cycle, &path) => Vec::new(),
            Err(_) => return None,
        };
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).ok().filter(|text| !text.contains('\0'));
        Some((text(found)?, text(wanted)?))
    }
}

/// Whether anything stands at the path at all.
fn looked_at(cycle: &Cycle, path: &HostPath) -> bool {
    !matches!(observe::observe(&cycle.machine.root, [path]).get(path), None | Some(Found::Missing))
}

/// Whether what stands there now is not for everybody's eyes, however open the repository wants it to be.
fn is_private(cycle: &Cycle, path: &HostPath) -> bool {
    observe::observe(&cycle.machine.root, [path]).get(path).is_some_and(Found::is_private)
}

impl Cycle {
    /// A look as a person reads it.
    pub fn show(&self, looked: &Looked, color: bool) -> String {
        let Some(wanted) = &looked.wanted else {
            return if self.current.is_some() {
                "Nothing is planned.\n".to_owned()
            } else {
                "There is nothing to compare with: this host has accepted no revision yet.\n".to_owned()
            };
        };
        let mut text = String::new();
        if !wanted.fresh && looked.pass.trust.verdict != "unchanged" {
            let short: String = wanted.key.commit.chars().take(12).collect();
            text.push_str(&format!("Compared with revision {short}, the last one accepted, and not with the source:\n"));
        }
        text + &trimtab_model::plan::show(&looked.plan, &Both { cycle: self, wanted }, color)
    }

    /// A content by digest: of this rendering, or from the store.
    pub(super) fn content(&self, fresh: &BTreeMap<Digest, Vec<u8>>, digest: Digest) -> Result<Vec<u8>, crate::store::StoreError> {
        match fresh.get(&digest) {
            Some(bytes) => Ok(bytes.clone()),
            None => self.store.read(&digest),
        }
    }
}
