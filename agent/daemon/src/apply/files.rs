//! Files: staged all together, written down, switched all together; and what leaves, given back.

use std::io::{self, Read};
use std::ops::Bound;

use trimtab_model::desired::{FileState, Node};
use trimtab_model::digest::Digest;
use trimtab_model::ledger::{Before, Ledger};
use trimtab_model::names::HostPath;
use trimtab_model::plan::{Action, Note, Step};
use trimtab_model::xattr::Xattrs;

use super::{NotBegun, Outcome, Pass, chain};
use crate::host::place::{Batch, New, NewNode, PlaceError, Staged};
use crate::host::{keys, observe};

impl Pass<'_> {
    /// Stages, backs up, writes down the intent, switches. An error: nothing of this round was switched.
    pub(super) fn round(&mut self, puts: &[usize]) -> Result<(), NotBegun> {
        // Nothing new is begun without room to write it down. What only puts right what is written down already needs none.
        match self.require_room(puts) {
            Err(reason) if !self.repairs => return Err(reason),
            _ => {}
        }
        let known = self.ledger.made.clone();
        self.announce_directories(puts)?;
        let mut batch = Batch::new(&self.machine.root);
        let mut staged: Vec<(usize, Staged)> = Vec::new();
        for &at in puts {
            if self.skip(at) {
                continue;
            }
            match self.stage(at, &mut batch).and_then(|one| self.keep_before(at).map(|()| one)) {
                Ok(one) => staged.push((at, one)),
                Err(outcome) => self.ended(at, outcome),
            }
        }
        if let Err(error) = batch.sync_staged() {
            let message = chain(&error);
            for (at, _) in staged.drain(..) {
                self.ended(at, Outcome::Failed { message: message.clone() });
            }
        }
        self.ledger.made = known;
        self.ledger.made.extend(batch.made().cloned());
        self.intend(&staged);
        let saved = self.store.save_ledger(self.ledger);
        if let (Err(error), false) = (saved, self.repairs) {
            drop(staged);
            let mut made: Vec<HostPath> = batch.made().cloned().collect();
            made.reverse();
            for path in made {
                // Best effort: an empty directory left behind is not worth a second error.
                let _ = batch.prune(&path);
            }
            return Err(NotBegun::Unsaved(error));
        }
        for (at, one) in staged {
            if !self.skip(at) {
                self.switch(at, one, &mut batch);
            }
        }
        if let Err(error) = batch.finish() {
            // The renames happened but may not outlive a power cut; the ledger on disk still calls them pending, and so it is left.
            self.applied.remarks.push(format!("what was written may be lost in a power cut: {}", chain(&error)));
            for &at in puts {
                if self.outcomes[at] == Some(Outcome::Done) {
                    self.outcomes[at] = Some(Outcome::Failed { message: chain(&error) });
                }
            }
        }
        Ok(())
    }

    /// Directories that staging makes on the way are written down before: who is killed in between leaves none that nobody knows to be ours.
    fn announce_directories(&mut self, puts: &[usize]) -> Result<(), NotBegun> {
        let before = self.ledger.made.len();
        for &at in puts {
            if let Action::Put { path, .. } = &self.plan.steps[at].action {
                let missing = self.machine.root.missing_above(path);
                self.ledger.made.extend(missing);
            }
        }
        if self.ledger.made.len() == before {
            return Ok(());
        }
        match self.store.save_ledger(self.ledger) {
            Err(error) if !self.repairs => Err(NotBegun::Unsaved(error)),
            _ => Ok(()),
        }
    }

    /// Whether the ledger on the disk already says all that this plan leads to: a full disk must not keep drift or a stopped unit in place.
    pub(super) fn only_repairs(&self) -> bool {
        let is_repair = |step: &Step| match &step.action {
            Action::Put { path, before, .. } => {
                let owned = self.ledger.entries.get(path).map(|owned| &owned.state);
                before.is_none() && owned.is_some() && owned == self.wanted.entries.get(path).map(|entry| &entry.state)
            }
            Action::Enable { unit } | Action::Start { unit } | Action::Restart { unit } | Action::Reload { unit } => {
                self.ledger.units.contains_key(unit)
            }
            Action::DaemonReload => true,
            _ => false,
        };
        let is_known = |note: &Note| match note {
            Note::Confirm { .. } => true,
            Note::Unit { unit, .. } => self.ledger.units.contains_key(unit),
            Note::Adopt { .. } | Note::Drop { .. } => false,
        };
        self.plan.steps.iter().all(is_repair) && self.plan.bookkeeping.iter().all(is_known)
    }

    fn require_room(&self, puts: &[usize]) -> Result<(), NotBegun> {
        let backup = |at: &usize| match &self.plan.steps[*at].action {
            Action::Put { before: Some(Before::Original { node: Node::File { size, .. }, .. }), .. } => *size,
            _ => 0,
        };
        self.store.require(puts.iter().map(backup).sum()).map_err(NotBegun::Unsaved)
    }

    fn stage(&mut self, at: usize, batch: &mut Batch) -> Result<Staged, Outcome> {
        let Action::Put { path, .. } = &self.plan.steps[at].action else { return Err(unplanned()) };
        let Some(entry) = self.wanted.entries.get(path) else { return Err(unplanned()) };
        let (uid, gid) = self.owner(&entry.state)?;
        let bytes;
        let mut blob;
        let node = match &entry.state.node {
            // As it lies in the store, piece by piece: it may be larger than this process should ever be.
            Node::File { digest, .. } if entry.artifact.is_some() => {
                blob = self.store.open_blob(digest).map_err(|error| failed(&error))?;
                NewNode::Stream(&mut blob, *digest)
            }
            Node::File { digest, .. } => {
                let wanted = (self.contents)(*digest).map_err(|error| failed(&error))?;
                // Whoever handed over the content is not believed either: what is written down is this digest.
                if Digest::of(&wanted) != *digest {
                    let message =
                        "the content at hand is not the wanted one (its digest differs); it is rendered anew in the next pass";
                    return Err(Outcome::Failed { message: message.to_owned() });
                }
                let settled = keys::is_settled(self.ledger.entries.get(path), entry);
                bytes = keys::around(&self.machine.root, path, entry, wanted, settled);
                NewNode::File(&bytes)
            }
            Node::Symlink { target } => NewNode::Symlink(target),
            Node::Directory => NewNode::Directory,
        };
        let staged = batch.stage(path, New { node, mode: entry.state.mode, uid, gid });
        if let (Err(PlaceError::Content { expected, .. }), Some(_)) = (&staged, &entry.artifact) {
            // The next pass fetches it again.
            self.store.discard(expected);
        }
        staged.map_err(|error| placed(&error))
    }

    fn owner(&mut self, state: &FileState) -> Result<(u32, u32), Outcome> {
        let missing = |what: &str, name: &str| Outcome::Failed {
            message: format!("{what} {name} does not exist on this host; declare it in the component's sysusers/ folder"),
        };
        let accounts = &mut self.machine.accounts;
        let uid = accounts.user(state.owner.as_str()).ok_or_else(|| missing("user", state.owner.as_str()))?;
        let gid = accounts.group(state.group.as_str()).ok_or_else(|| missing("group", state.group.as_str()))?;
        Ok((uid, gid))
    }

    /// What is about to be replaced goes to the store: the operator's original, to be given back one day; drift, to be looked at.
    fn keep_before(&mut self, at: usize) -> Result<(), Outcome> {
        let step = &self.plan.steps[at];
        let Action::Put { path, before, .. } = &step.action else { return Ok(()) };
        match before {
            Some(Before::Original { node: Node::File { digest, .. }, .. }) => {
                let mut from = observe::open(&self.machine.root, path).map_err(|error| failed(&error))?;
                let kept = self.store.put_file(&mut from).map_err(|error| failed(&error))?;
                if kept == *digest {
                    return Ok(());
                }
                Err(Outcome::Raced { message: format!("{path} was changed while it was backed up; the next pass looks again") })
            }
            Some(_) => Ok(()),
            None => {
                self.keep_drift(path, step.cause);
                Ok(())
            }
        }
    }

    /// Takes away what nobody declared, if it is still what was kept.
    pub(super) fn purge(&mut self, at: usize, batch: &mut Batch) {
        if self.skip(at) {
            return;
        }
        let Action::Purge { path, expected } = &self.plan.steps[at].action else { return };
        let outcome = batch.remove(path, *expected).map_or_else(|error| placed(&error), |_| Outcome::Done);
        self.ended(at, outcome);
    }

    /// A new file has what its directory gives it, and no more: what only the old one had cannot be given back, and is told.
    fn lose(&mut self, path: &HostPath, now: &Xattrs) {
        let owned = self.ledger.entries.get(path).filter(|owned| !owned.pending);
        let lost: Vec<&str> = owned
            .into_iter()
            .flat_map(|owned| owned.xattrs.iter().flatten())
            .map(|(name, _)| name)
            .filter(|name| !now.contains_key(*name))
            .map(String::as_str)
            .collect();
        if !lost.is_empty() {
            self.applied.remarks.push(format!("{path} was written anew without its extended attributes {}", lost.join(", ")));
        }
    }

    fn intend(&mut self, staged: &[(usize, Staged)]) {
        for (at, one) in staged {
            let step = &self.plan.steps[*at];
            if let Action::Put { path, before, .. } = &step.action
                && self.failures.because(step.component.as_ref()).is_none()
            {
                self.lose(path, &one.xattrs());
                self.own(path, before.clone(), true, Some(one.xattrs()));
            }
        }
        self.intend_units();
    }

    fn switch(&mut self, at: usize, staged: Staged, batch: &mut Batch) {
        let Action::Put { expected, .. } = &self.plan.steps[at].action else { return };
        let outcome = match batch.switch(staged, *expected) {
            Ok(_) => Outcome::Done,
            Err(error) => placed(&error),
        };
        self.ended(at, outcome);
    }

    /// A path that leaves: removed, or what stood there before is put back.
    pub(super) fn give_back(&mut self, at: usize, batch: &mut Batch) {
        if self.skip(at) {
            return;
        }
        let step = &self.plan.steps[at];
        let (Action::Remove { path, .. } | Action::Restore { path, .. }) = &step.action else { return };
        let outcome = match &step.action {
            Action::Remove { expected, .. } => batch.remove(path, *expected).map(drop).map_err(|error| placed(&error)),
            Action::Restore { expected, before, .. } => self.content_of(before).and_then(|mut content| {
                batch.restore(path, before, &mut *content, *expected).map(drop).map_err(|error| placed(&error))
            }),
            _ => Ok(()),
        };
        match outcome {
            Ok(()) => {
                self.ledger.entries.remove(path);
                self.prune(path, batch);
                self.ended(at, Outcome::Done);
            }
            Err(outcome) => self.ended(at, outcome),
        }
    }

    fn content_of(&self, before: &Before) -> Result<Box<dyn Read>, Outcome> {
        match before {
            Before::Original { node: Node::File { digest, .. }, .. } => {
                Ok(Box::new(self.store.open_blob(digest).map_err(|error| failed(&error))?))
            }
            _ => Ok(Box::new(io::empty())),
        }
    }

    /// Directories that were made on the way to a path go with the last thing in them.
    fn prune(&mut self, path: &HostPath, batch: &mut Batch) {
        let mut above = path.parent();
        while let Some(folder) = above {
            if !self.ledger.made.contains(&folder) || !matches!(batch.prune(&folder), Ok(true)) {
                return;
            }
            self.ledger.made.remove(&folder);
            above = folder.parent();
        }
    }

    /// Last of all, directories of ours that nothing of ours lies in any more. Paths that were gone already leave the ledger with the directories that were made for them, not before: between the two a kill would
    /// leave directories that no later pass asks about.
    pub(super) fn prune_dropped(&mut self, batch: &mut Batch) {
        for note in &self.plan.bookkeeping {
            if let Note::Drop { path } = note {
                self.ledger.entries.remove(path);
                self.prune(path, batch);
            }
        }
        for folder in orphans(self.ledger) {
            // One that is not empty is somebody else's by now; one that cannot be asked is asked again in the next pass.
            if batch.prune(&folder).is_ok() {
                self.ledger.made.remove(&folder);
            }
        }
    }
}

/// Directories that were made on the way to something that never came (it failed, its pass was killed, it is not wanted any more): nothing
/// that is owned lies beneath them. The innermost first.
pub(super) fn orphans(ledger: &Ledger) -> Vec<HostPath> {
    let holds = |folder: &HostPath| {
        let beneath = format!("{folder}/");
        let mut from = ledger.entries.range::<str, _>((Bound::Excluded(beneath.as_str()), Bound::Unbounded));
        from.next().is_some_and(|(path, _)| path.as_str().starts_with(&beneath))
    };
    ledger.made.iter().rev().filter(|folder| !holds(folder)).cloned().collect()
}

pub(super) fn failed(error: &dyn std::error::Error) -> Outcome {
    Outcome::Failed { message: chain(error) }
}

fn placed(error: &PlaceError) -> Outcome {
    let message = chain(error);
    if matches!(error, PlaceError::Raced { .. }) { Outcome::Raced { message } } else { Outcome::Failed { message } }
}

/// A plan that was made from another desired state than the one at hand.
fn unplanned() -> Outcome {
    Outcome::Failed { message: "the plan and the desired state do not belong together; this is a fault in trimtab".to_owned() }
}
