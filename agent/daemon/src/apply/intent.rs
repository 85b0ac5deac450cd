//! The ledger's part of carrying out a plan: what is about to be done before it is done, and what was done after it.
//!
//! The model of this is `trimtab_model::plan`'s own test host, whose crash tests hold for what is written here.

use trimtab_model::desired::{Node, Role};
use trimtab_model::digest::Digest;
use trimtab_model::ledger::{Before, Owned, OwnedUnit};
use trimtab_model::names::{HostPath, UnitName};
use trimtab_model::plan::{Action, Note, Was};
use trimtab_model::xattr::Xattrs;

use super::{Outcome, Pass, chain};
use crate::host::observe;

impl Pass<'_> {
    /// The edits that go with no step, and each unit's entry; what is dropped goes last ([`Pass::prune_dropped`]). Paths that turn out to be as wanted stay pending until the end if they were.
    pub(super) fn note(&mut self) {
        for note in &self.plan.bookkeeping {
            match note {
                Note::Adopt { path, before } => self.adopt(path, before),
                Note::Confirm { path } => {
                    let pending = self.ledger.entries.get(path).is_some_and(|owned| owned.pending);
                    self.own(path, None, pending, None);
                }
                Note::Drop { .. } => {}
                Note::Unit { unit, was, .. } => self.manage(unit, *was),
            }
        }
    }

    /// What stood there is the same as what is wanted, but the wanted may change and the original must still be given back one day.
    fn adopt(&mut self, path: &HostPath, before: &Before) {
        if let Before::Original { node: Node::File { digest, .. }, .. } = before {
            let kept = self.keep_adopted(path, *digest);
            if let Err(why) = kept {
                // Without its content it could not be given back; not owned, it is looked at again in the next pass.
                self.applied.remarks.push(format!("file {path} is as wanted but cannot be kept in mind yet: {why}"));
                return;
            }
        }
        let xattrs = observe::observe_whole(&self.machine.root, [path]).1.remove(path);
        self.own(path, Some(before.clone()), false, Some(xattrs.unwrap_or_default()));
    }

    /// What is adopted is mostly what is wanted; with keys of others in it, it is only on the disk.
    fn keep_adopted(&mut self, path: &HostPath, digest: Digest) -> Result<(), String> {
        // An artifact's is there by now, and too large to be held here.
        if self.wanted.entries.get(path).is_some_and(|want| want.artifact.is_some()) && self.store.has(&digest) {
            return Ok(());
        }
        if let Ok(bytes) = (self.contents)(digest) {
            return self.store.put(&bytes).map(drop).map_err(|error| chain(&error));
        }
        let mut from = observe::open(&self.machine.root, path).map_err(|error| chain(&error))?;
        match self.store.put_file(&mut from).map_err(|error| chain(&error))? {
            kept if kept == digest => Ok(()),
            _ => Err("it was changed while it was backed up".to_owned()),
        }
    }

    /// Makes or renews the entry of a path from what is wanted. `xattrs` as they stand on what is written; `None`: as they were.
    pub(super) fn own(&mut self, path: &HostPath, before: Option<Before>, pending: bool, xattrs: Option<Xattrs>) {
        let Some(want) = self.wanted.entries.get(path) else { return };
        let before = before.or_else(|| self.ledger.entries.get(path).map(|owned| owned.before.clone())).unwrap_or(Before::Absent);
        // What is left as it is was not written: what is owned there is what was.
        let written = self.ledger.entries.get(path).filter(|_| self.plan.left.contains(path)).map(|owned| owned.state.clone());
        let state = written.unwrap_or_else(|| want.state.clone());
        let xattrs = xattrs.or_else(|| self.ledger.entries.get(path).and_then(|owned| owned.xattrs.clone()));
        let (role, drift, origin) = (want.role.clone(), want.drift, want.origin.clone());
        let owned = Owned { state, role, before, xattrs, pending, drift, origin };
        self.ledger.entries.insert(path.clone(), owned);
    }

    fn manage(&mut self, unit: &UnitName, was: Option<Was>) {
        let Some(want) = self.wanted.units.get(unit) else { return };
        let owned = self.ledger.units.entry(unit.clone()).or_insert_with(|| OwnedUnit {
            was_enabled: was.map(|was| was.enabled),
            was_active: was.map(|was| was.active),
            was_masked: was.is_some_and(|was| was.masked),
            enabled: None,
            active: None,
            inputs: None,
            generated: want.generated,
            origin: want.origin.clone(),
        });
        owned.generated = want.generated;
    }

    /// Units that are about to get new input run with old input until they got it, also when the agent dies in between.
    pub(super) fn intend_units(&mut self) {
        for step in &self.plan.steps {
            if let Action::Start { unit } | Action::Restart { unit } | Action::Reload { unit } = &step.action
                && self.failures.because(step.component.as_ref()).is_none()
                && let Some(owned) = self.ledger.units.get_mut(unit)
            {
                owned.inputs = None;
            }
        }
    }

    /// The unit was just started, restarted or reloaded: it has read what is there now.
    pub(super) fn has_read(&mut self, unit: &UnitName) {
        let Some(want) = self.wanted.units.get(unit) else { return };
        let inputs = self.plan.inputs(self.wanted, self.ledger, want);
        if let Some(owned) = self.ledger.units.get_mut(unit) {
            owned.inputs = Some(inputs);
        }
    }

    /// The unit was started, but not with what it should have read.
    pub(super) fn has_not_read(&mut self, unit: &UnitName) {
        if let Some(owned) = self.ledger.units.get_mut(unit) {
            owned.inputs = None;
        }
    }

    /// What was done is no longer pending, and what was told is what the next pass judges drift by.
    pub(super) fn settle(&mut self) {
        let mut done: Vec<&HostPath> = Vec::new();
        for (at, step) in self.plan.steps.iter().enumerate() {
            if let (Action::Put { path, .. }, Some(Outcome::Done)) = (&step.action, &self.outcomes[at]) {
                done.push(path);
            }
        }
        for note in &self.plan.bookkeeping {
            match note {
                Note::Confirm { path } => done.push(path),
                Note::Unit { unit, settled, .. } => self.settle_unit(unit, *settled),
                Note::Adopt { .. } | Note::Drop { .. } => {}
            }
        }
        for path in done {
            let Some(owned) = self.ledger.entries.get_mut(path) else { continue };
            let unread = self.reload_failed && matches!(owned.role, Role::Unit(_) | Role::Quadlet(_));
            owned.pending = owned.pending && (unread || self.appliers_failed.contains(&owned.role));
        }
        let owned = &self.ledger.entries;
        self.ledger.made.retain(|path| !owned.contains_key(path));
    }

    fn settle_unit(&mut self, unit: &UnitName, settled: bool) {
        let Some(want) = self.wanted.units.get(unit) else { return };
        let about = |action: &Action| match action {
            Action::Enable { unit: other }
            | Action::Disable { unit: other }
            | Action::Mask { unit: other }
            | Action::Unmask { unit: other }
            | Action::Stop { unit: other, .. }
            | Action::Start { unit: other }
            | Action::Restart { unit: other }
            | Action::Reload { unit: other } => other == unit,
            _ => false,
        };
        let mut own = self.plan.steps.iter().zip(&self.outcomes).filter(|(step, _)| about(&step.action));
        if !own.all(|(_, outcome)| matches!(outcome, Some(Outcome::Done))) {
            return;
        }
        // A unit without steps whose files could not be written has not settled either.
        let held = settled && self.failures.because(Some(&want.origin.component)).is_some();
        // What was stopped, or is masked, runs with no input at all: the next start reads what is there then.
        let is_down =
            |action: &Action| matches!(action, Action::Stop { unit: other, .. } | Action::Mask { unit: other } if other == unit);
        let down = self.plan.steps.iter().any(|step| is_down(&step.action));
        let inputs = self.plan.inputs(self.wanted, self.ledger, want);
        if let Some(owned) = self.ledger.units.get_mut(unit) {
            (owned.enabled, owned.active, owned.origin) = (want.enabled, want.active, want.origin.clone());
            if (settled && !held) || down {
                owned.inputs = Some(inputs);
            }
        }
    }
}
