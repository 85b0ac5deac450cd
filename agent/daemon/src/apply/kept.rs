//! What somebody wrote over a managed path is kept before it is taken away, for the operator to look at: `trimtab drift`.
//!
//! Guarantees: never a reason to leave drift of what is managed in place, for what cannot be kept is told and overwritten; what is kept is bounded in
//! number ([`MAX_KEPT`]) and in size (`drift.keep-mib`), and the oldest goes first. What is private is never kept: not what not everybody may
//! read, by the mode that it had or was to have, nor what the repository calls sensitive, in this state or the last one that had the path. A copy of a
//! secret that nobody knows of outlives the secret's rotation. What nobody declared is taken away only when it is kept, for nobody has another copy
//! of it: what of that is private stays where it is, and is told.
//! Limits: that a file lies in a directory that not everybody may enter does not make it private.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::time::{SystemTime, UNIX_EPOCH};

use trimtab_model::desired::Node;
use trimtab_model::digest::Digest;
use trimtab_model::drift::KEEP_LIMIT;
use trimtab_model::ledger::{KeptDrift, MAX_KEPT};
use trimtab_model::names::HostPath;
use trimtab_model::observed::{Expected, Found};
use trimtab_model::plan::{Action, Cause};

use super::files::failed;
use super::{Kept, Outcome, Pass, Refusal, chain};
use crate::host::strays::is_private;
use crate::host::{keys, observe};

/// Of the kept generations that had a path, whether the newest one showed its content.
pub(super) type Shown = BTreeMap<HostPath, bool>;

impl Pass<'_> {
    /// What somebody wrote over paths that leave. Before the intent is written down, for that puts it on the disk, and names it.
    pub(super) fn keep_leaving(&mut self) {
        for (at, step) in self.plan.steps.iter().enumerate() {
            match (&step.action, &self.outcomes[at]) {
                (Action::Remove { path, .. } | Action::Restore { path, .. }, None) => self.keep_drift(path, step.cause),
                (Action::Purge { path, expected }, None) => {
                    if let Err(outcome) = self.keep_purged(path, *expected) {
                        self.ended(at, outcome);
                    }
                }
                _ => {}
            }
        }
    }

    /// What nobody declared goes only when its content is kept: it is nothing that trimtab ever wrote.
    fn keep_purged(&mut self, path: &HostPath, expected: Expected) -> Result<(), Outcome> {
        let found = observe::identity_at(&self.machine.root, path).map_err(|error| failed(&error))?;
        let raced = || Outcome::Raced { message: format!("{path} was changed since it was looked at; the next pass looks again") };
        match found {
            Some((identity, _)) if expected != Expected::Same(identity) => return Err(raced()),
            Some((_, true)) => {}
            // Gone by itself, or without a content.
            None | Some((_, false)) => return Ok(()),
        }
        let file = observe::open(&self.machine.root, path).map_err(|error| failed(&error))?;
        // The plan leaves alone what its mode closes; that it was called sensitive once, only the generations know.
        let meta = file.metadata().map_err(|error| failed(&error))?;
        if is_private(meta.mode()) || self.was_shown(path) == Some(false) {
            let why = "is private: no copy of it is kept, so it is not taken away";
            return Err(Outcome::Failed { message: format!("{path} {why}; remove it by hand, or name it in `except`") });
        }
        // One byte more than is kept: what grew meanwhile is noticed, and left.
        let digest = self.store.put_file(&mut file.take(KEEP_LIMIT + 1)).map_err(|error| failed(&error))?;
        let after = observe::identity_at(&self.machine.root, path).map_err(|error| failed(&error))?;
        if after.is_none_or(|(identity, _)| expected != Expected::Same(identity)) {
            return Err(raced());
        }
        self.keep(path, digest);
        Ok(())
    }

    pub(super) fn keep_drift(&mut self, path: &HostPath, cause: Cause) {
        if !matches!(cause, Cause::Drift | Cause::UpdateAndDrift) {
            return;
        }
        if self.holds_only_keys_of_others(path) {
            return;
        }
        let Ok(file) = observe::open(&self.machine.root, path) else { return };
        let Ok(meta) = file.metadata() else { return };
        // Before a byte of it is anywhere else.
        if self.is_private(path, meta.mode()) {
            if !self.is_untouched(path) {
                self.applied.remarks.push(format!("what stood at {path} was not kept: it is private"));
            }
            return;
        }
        if meta.len() > KEEP_LIMIT {
            self.applied.remarks.push(format!("what stood at {path} is larger than {KEEP_LIMIT} bytes and was not kept"));
            return;
        }
        match self.store.put_file(&mut file.take(KEEP_LIMIT)) {
            Ok(digest) if !self.is_ours(path, digest) => {
                // On the disk with the intent: a content that the ledger does not name is swept away.
                self.keep(path, digest);
            }
            Ok(_) => {}
            Err(error) => self.applied.remarks.push(format!("what stood at {path} could not be kept: {}", chain(&error))),
        }
    }

    fn keep(&mut self, path: &HostPath, digest: Digest) {
        let at = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        self.ledger.kept.insert(0, KeptDrift { path: path.clone(), digest, at });
        self.applied.kept.push(Kept { path: path.clone(), digest });
        self.bound_kept();
    }

    /// The oldest go, until the rest is within its bounds.
    fn bound_kept(&mut self) {
        let (mut bytes, mut counted) = (0, BTreeSet::new());
        let fits = |kept: &&KeptDrift| {
            if counted.insert(kept.digest) {
                bytes += self.store.size(&kept.digest);
            }
            bytes <= self.machine.keep
        };
        let stays = self.ledger.kept.iter().take(MAX_KEPT).take_while(fits).count();
        self.applied.outgrown |= stays < self.ledger.kept.len();
        self.ledger.kept.truncate(stays);
    }

    /// Whether what stood at a path is not for everybody's eyes.
    fn is_private(&mut self, path: &HostPath, mode: u32) -> bool {
        let owned = self.ledger.entries.get(path).map(|owned| owned.state.mode);
        if is_private(mode) || owned.is_some_and(is_private) {
            return true;
        }
        match self.wanted.entries.get(path) {
            Some(entry) if !entry.shown => true,
            // The state in force: there is no other that says something about it.
            Some(_) if self.refusal == Refusal::Component => false,
            // Of what leaves nobody may know any more whether it was sensitive.
            wanted => !self.was_shown(path).unwrap_or(wanted.is_some()),
        }
    }

    fn was_shown(&mut self, path: &HostPath) -> Option<bool> {
        if self.shown.is_none() {
            let mut shown = Shown::new();
            let mut numbers: Vec<u64> = self.store.generations().unwrap_or_default().into_keys().rev().collect();
            // The newest may be the one that is being tried: what it says of a path is said by `wanted` already.
            numbers.sort_by_key(|number| *number != self.ledger.generation);
            for number in numbers {
                let Ok(Some(generation)) = self.store.load_generation(number) else { continue };
                for (path, entry) in generation.desired.entries {
                    shown.entry(path).or_insert(entry.shown);
                }
            }
            self.shown = Some(shown);
        }
        self.shown.as_ref().and_then(|shown| shown.get(path).copied())
    }

    /// Only its mode or owner drifted: its content is what we wrote, and nothing of anybody's is lost.
    fn is_ours(&self, path: &HostPath, digest: Digest) -> bool {
        let owned = self.ledger.entries.get(path);
        owned.is_some_and(|owned| matches!(owned.state.node, Node::File { digest: ours, .. } if ours == digest))
    }

    /// The same of what stands there now, without a copy of it.
    fn is_untouched(&self, path: &HostPath) -> bool {
        let found = observe::observe(&self.machine.root, [path]).remove(path);
        matches!(found, Some(Found::File { digest, .. }) if self.is_ours(path, digest))
    }
    /// What differs in it is carried over into the new file: nothing is lost.
    fn holds_only_keys_of_others(&self, path: &HostPath) -> bool {
        let Some(want) = self.wanted.entries.get(path) else { return false };
        let (Some(ignored), Node::File { digest, .. }) = (&want.ignored, &want.state.node) else { return false };
        let found = keys::found(&self.machine.root, path);
        found.zip((self.contents)(*digest).ok()).is_some_and(|(found, wanted)| keys::is_alike(ignored, &wanted, &found, true))
    }
}
