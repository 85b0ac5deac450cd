//! What is left as it is, though it differs: by the repository's `drift` policies, by a person's pins, and in directories declared `exclusive`.
//!
//! Guarantees: a drift that is only reported, and whatever is pinned, has no step and is told; one that is ignored has neither; a path that
//! is created once is nobody's business from then on. An update of what is reported or ignored is carried out, whatever else differs.
//! A unit is never restarted for a path that is left as it is ([`Plan::left`]).
//! Limits: systemd's own dependencies (`Requires=`, `PartOf=`) can take a pinned unit down with another one; only those that trimtab knows
//! (a container's network or pod) are held with it. A pin of a directory holds the directory, and what nobody declared in it, but not the
//! managed files in it.

use std::collections::BTreeSet;
use std::ops::Bound;

use super::paths::difference;
use super::{Action, Cause, Change, Note, Plan, Problem, Step, Verb};
use crate::desired::{Desired, Entry, Node, Role};
use crate::drift::{DriftPolicy, Exclusive, Extra, KEEP_LIMIT, LeftAlone};
use crate::ledger::{Before, Ledger, Owned};
use crate::names::{HostPath, UnitName};
use crate::observed::{Expected, Found, Observed, Purge, Stray, StrayKind, Strays};

/// What is done about something that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stance {
    /// It is mended.
    Mend,
    /// It is told.
    Tell(LeftAlone),
    /// Nothing.
    Ignore,
}

/// What is done about a difference of this cause.
pub(super) fn stance(policy: DriftPolicy, cause: Cause) -> Stance {
    match (policy, cause) {
        (DriftPolicy::Report, Cause::Drift) => Stance::Tell(LeftAlone::Policy),
        (DriftPolicy::Ignore, Cause::Drift) => Stance::Ignore,
        _ => Stance::Mend,
    }
}

/// How a change is told that is carried out: of what is ignored nobody hears as drift, also when an update overwrites it.
pub(super) fn told(policy: DriftPolicy, cause: Cause) -> Cause {
    match (policy, cause) {
        (DriftPolicy::Ignore, Cause::UpdateAndDrift) => Cause::Update,
        _ => cause,
    }
}

/// A path that is made once, and is there.
pub(super) fn is_past(want: &Entry, found: &Found) -> bool {
    want.drift == DriftPolicy::CreateOnce && !matches!(found, Found::Missing)
}

/// The ledger's entry of a path that is left as it is: all but what was written there is brought up to date.
pub(super) fn remember(path: &HostPath, want: &Entry, owned: Option<&Owned>, plan: &mut Plan) {
    plan.left.insert(path.clone());
    let is_old =
        |owned: &Owned| owned.pending || owned.role != want.role || owned.origin != want.origin || owned.drift != want.drift;
    if owned.is_some_and(is_old) {
        plan.bookkeeping.push(Note::Confirm { path: path.clone() });
    }
}

/// A path that leaves the repository and holds what somebody else wrote, which the repository allowed: it stays, and is forgotten.
pub(super) fn stays(owned: &Owned, found: &Found) -> bool {
    let allowed = matches!(owned.drift, DriftPolicy::Ignore | DriftPolicy::CreateOnce) && owned.before == Before::Absent;
    let is_ours = match (&owned.state.node, found) {
        (Node::File { digest, .. }, Found::File { digest: is, .. }) => digest == is,
        (Node::Symlink { target }, Found::Symlink { target: is, .. }) => target == is,
        // A directory is removed only when nothing is in it.
        (Node::Directory, _) | (_, Found::Missing | Found::Unfit(_)) => true,
        _ => false,
    };
    allowed && !owned.pending && !is_ours
}

/// Whether a path is pinned: by itself, or as a part of a pinned unit's definition that would be taken away.
pub(super) fn is_pinned(path: &HostPath, want: Option<&Entry>, owned: Option<&Owned>, observed: &Observed) -> bool {
    let defines = owned.filter(|_| want.is_none()).and_then(|owned| match &owned.role {
        Role::Unit(unit) | Role::Quadlet(unit) => Some(format!("unit {unit}")),
        _ => None,
    });
    observed.pinned.contains(&format!("file {path}")) || defines.is_some_and(|unit| observed.pinned.contains(&unit))
}

/// Directories that leave cannot go while something stays in them: with what is pinned they stay managed, with what somebody else may keep
/// they are forgotten.
pub(super) fn keep_parents(desired: &Desired, observed: &Observed, ledger: &Ledger, plan: &mut Plan) {
    let is_there = |path: &HostPath| !matches!(observed.entries.get(path), None | Some(Found::Missing));
    let dropped = |path: &HostPath| plan.bookkeeping.iter().any(|note| matches!(note, Note::Drop { path: other } if other == path));
    let leaving = || ledger.entries.iter().filter(|(path, _)| !desired.entries.contains_key(*path));
    let pinned: Vec<&HostPath> =
        leaving().filter(|(path, owned)| is_pinned(path, None, Some(owned), observed)).map(|(path, _)| path).collect();
    let stay: Vec<&HostPath> = leaving()
        .filter(|(path, owned)| owned.before == Before::Absent && is_there(path) && dropped(path))
        .map(|(path, _)| path)
        .collect();
    if pinned.is_empty() && stay.is_empty() {
        return;
    }
    let holds = |list: &[&HostPath], folder: &HostPath| list.iter().any(|path| *path != folder && path.is_within(folder.as_str()));
    let mut kept = BTreeSet::new();
    for step in &plan.steps {
        if let Action::Remove { path, .. } = &step.action
            && (holds(&pinned, path) || holds(&stay, path))
        {
            kept.insert(path.clone());
        }
    }
    plan.steps.retain(|step| !matches!(&step.action, Action::Remove { path, .. } if kept.contains(path)));
    for path in kept {
        let resource = format!("file {path}");
        if holds(&pinned, &path) {
            let told = plan.changes.iter_mut().filter(|change| change.resource == resource);
            told.for_each(|change| change.left_alone = Some(LeftAlone::Pinned));
        } else {
            plan.changes.retain(|change| change.resource != resource);
            plan.bookkeeping.push(Note::Drop { path });
        }
    }
}

/// The units that a person pinned, and those whose stop would take a pinned one down.
pub(super) struct Pins<'a> {
    observed: &'a Observed,
    carriers: BTreeSet<&'a UnitName>,
}

impl<'a> Pins<'a> {
    pub(super) fn new(desired: &'a Desired, observed: &'a Observed) -> Self {
        let mut carriers = BTreeSet::new();
        let is_pinned = |unit: &UnitName| observed.pinned.contains(&format!("unit {unit}"));
        let mut open: Vec<&UnitName> = desired.units.keys().filter(|unit| is_pinned(unit)).collect();
        while let Some(unit) = open.pop() {
            for carrier in desired.units.get(unit).into_iter().flat_map(|unit| &unit.after) {
                if carriers.insert(carrier) {
                    open.push(carrier);
                }
            }
        }
        Self { observed, carriers }
    }

    /// Takes over what was planned for one unit, or only tells it.
    pub(super) fn take(&self, unit: &UnitName, planned: Plan, plan: &mut Plan) {
        let stops = |step: &Step| matches!(step.action, Action::Stop { .. } | Action::Restart { .. } | Action::Mask { .. });
        let held = self.observed.pinned.contains(&format!("unit {unit}"))
            || self.carriers.contains(unit) && planned.steps.iter().any(stops);
        let hold = |mut change: Change| {
            if held {
                change.left_alone = Some(LeftAlone::Pinned);
            }
            change
        };
        plan.changes.extend(planned.changes.into_iter().map(hold));
        plan.problems.extend(planned.problems);
        if !held {
            plan.steps.extend(planned.steps);
            plan.bookkeeping.extend(planned.bookkeeping);
        }
    }
}

/// Whether something directly in an exclusive directory was declared by nobody: neither it, nor anything beneath it, is wanted, owned or was
/// made on the way to something, and its name is not excepted.
pub fn is_stray(path: &HostPath, exclusive: &Exclusive, desired: &Desired, ledger: &Ledger) -> bool {
    // Not simply the next path: `a-b` sorts between `a` and `a/b`.
    let inside = format!("{path}/");
    let bound = (Bound::Included(inside.as_str()), Bound::Unbounded);
    let is_beneath = |next: Option<&HostPath>| next.is_some_and(|next| next.is_within(path.as_str()));
    let is_wanted =
        desired.entries.contains_key(path) || is_beneath(desired.entries.range::<str, _>(bound).next().map(|(at, _)| at));
    let is_owned = ledger.entries.contains_key(path) || is_beneath(ledger.entries.range::<str, _>(bound).next().map(|(at, _)| at));
    let is_made = ledger.made.contains(path);
    !(exclusive.excepts(path.file_name()) || is_wanted || is_owned || is_made)
}

/// What nobody declared in the exclusive directories. Returns the directories from which something is taken away: what reads them follows.
pub(super) fn strays(desired: &Desired, observed: &Observed, plan: &mut Plan) -> BTreeSet<HostPath> {
    let mut purged = BTreeSet::new();
    for (folder, exclusive) in &desired.exclusive {
        let Some(strays) = observed.strays.get(folder) else { continue };
        let mounted = matches!(observed.entries.get(folder), Some(Found::Directory { mount: true, .. }));
        let trouble = match (exclusive.extra, mounted && !strays.found.is_empty(), strays.trouble.is_empty()) {
            (_, _, false) => Some(format!("what lies in it cannot be looked at: {}", strays.trouble)),
            (Extra::Purge, true, _) => Some(
                "a file system is mounted on it: nothing in it is taken away; unmount it, or declare it `exclusive = \"report\"`"
                    .to_owned(),
            ),
            _ => None,
        };
        if let Some(message) = &trouble {
            let origin = exclusive.origin.clone();
            plan.problems.push(Problem { resource: format!("file {folder}"), message: message.clone(), origin });
        }
        let purges = exclusive.extra == Extra::Purge && trouble.is_none();
        for (path, stray) in &strays.found {
            let pinned = [path, folder].iter().any(|path| observed.pinned.contains(&format!("file {path}")));
            let stays = !purges || !may_go(stray);
            let left_alone = match (pinned, observed.purge) {
                (true, _) => Some(LeftAlone::Pinned),
                (false, Purge::Guarded) => Some(LeftAlone::Policy),
                (false, Purge::Later) if !stays => continue,
                _ => stays.then_some(LeftAlone::Policy),
            };
            if left_alone.is_none() {
                purged.insert(folder.clone());
                let action = Action::Purge { path: path.clone(), expected: Expected::Same(stray.identity) };
                let component = Some(exclusive.component().clone());
                plan.steps.push(Step { action, component, cause: Cause::Drift });
            }
            plan.changes.push(extra(path, words(stray), left_alone, exclusive));
        }
        if strays.more > 0 {
            plan.changes.push(more(folder, strays, exclusive));
        }
    }
    purged
}

/// A content that would not be kept, for its size or because it is private, is not taken away, nor is what may hold any number of them.
fn may_go(stray: &Stray) -> bool {
    matches!(stray.kind, StrayKind::File(size) if size <= KEEP_LIMIT) || matches!(stray.kind, StrayKind::Symlink(_))
}

/// How many things in the exclusive directories a plan would take away, if it may.
pub fn purges(desired: &Desired, observed: &Observed) -> usize {
    let of = |(folder, exclusive): (&HostPath, &Exclusive)| match observed.strays.get(folder) {
        Some(strays) if exclusive.extra == Extra::Purge => {
            strays.found.values().filter(|stray| may_go(stray)).count() + strays.more
        }
        _ => 0,
    };
    desired.exclusive.iter().map(of).sum()
}

fn extra(path: &HostPath, found: String, left_alone: Option<LeftAlone>, exclusive: &Exclusive) -> Change {
    Change {
        resource: format!("file {path}"),
        verb: Verb::Remove,
        cause: Cause::Drift,
        differs: vec![difference("extra", found, "nothing")],
        replaces: false,
        left_alone,
        origin: exclusive.origin.clone(),
    }
}

/// One change for all beyond the bound; the next pass finds the next of them.
fn more(folder: &HostPath, strays: &Strays, exclusive: &Exclusive) -> Change {
    extra(folder, format!("{} more than are told one by one", strays.more), Some(LeftAlone::Policy), exclusive)
}

fn words(stray: &Stray) -> String {
    match &stray.kind {
        StrayKind::File(size) if *size > KEEP_LIMIT => format!("a file of {size} bytes, more than is kept: remove it by hand"),
        StrayKind::File(_) => "a file".to_owned(),
        StrayKind::Private => {
            "a file that not everybody may read, of which no copy is kept: remove it by hand, or name it in `except`".to_owned()
        }
        StrayKind::Symlink(target) => format!("a symlink to {target}"),
        StrayKind::Directory => "a directory".to_owned(),
        StrayKind::Other => "something that is no file".to_owned(),
    }
}
