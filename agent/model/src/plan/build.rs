//! Puts the decisions about paths, units and images together, in the one order in which a pass does things.

use std::collections::{BTreeMap, BTreeSet};

use super::paths::{Accounts, Place, is_substantial};
use super::policy::{self, Pins};
use super::units::{Subject, Touched};
use super::{Action, Cause, Note, Plan, Step};
use super::{artifacts, images};
use crate::desired::{Desired, Node, Role, Unit};
use crate::ledger::{Before, Ledger};
use crate::names::{HostPath, UnitName};
use crate::observed::{Found, Observed, UnitFound};

/// The plan: a pure function of what is wanted, what was found, and what is owned.
///
/// Planning again after a plan was carried out yields nothing (a property test holds this).
pub fn plan(desired: &Desired, observed: &Observed, ledger: &Ledger) -> Plan {
    let mut plan = Plan::default();
    let paths = paths(desired, observed, ledger, &mut plan);
    artifacts::fetches(desired, observed, &mut plan);
    appliers(desired, observed, ledger, &mut plan);
    let mut leaving = Plan::default();
    if observed.has_units {
        units(desired, observed, ledger, &paths, &mut plan, &mut leaving);
        reloads(desired, observed, ledger, &mut plan);
        images::images(desired, observed, &mut plan);
    }
    let ranks = ranks(desired);
    plan.steps.sort_by_cached_key(|step| order(step, desired, ledger, &ranks));
    join(plan, leaving, desired, ledger)
}

/// The sets of paths that the units ask about.
struct Paths {
    changed: BTreeSet<HostPath>,
    leaving: BTreeSet<HostPath>,
    replaced: BTreeSet<HostPath>,
}

fn paths(desired: &Desired, observed: &Observed, ledger: &Ledger, plan: &mut Plan) -> Paths {
    let may_come = desired.entries.values().any(|entry| entry.role == Role::Sysusers);
    let accounts = Accounts::new(observed, may_come);
    let all: BTreeSet<&HostPath> = desired.entries.keys().chain(ledger.entries.keys()).collect();
    for path in all {
        let found = observed.entries.get(path).unwrap_or(&Found::Missing);
        let (want, owned) = (desired.entries.get(path), ledger.entries.get(path));
        let pinned = policy::is_pinned(path, want, owned, observed);
        let alike = observed.alike.get(path).copied().unwrap_or_default();
        let xattrs = observed.xattrs.get(path);
        Place { path, want, found, owned, pinned, alike, xattrs }.decide(&accounts, plan);
    }
    policy::keep_parents(desired, observed, ledger, plan);
    let purged = policy::strays(desired, observed, plan);
    let substantial: BTreeSet<&str> = plan
        .changes
        .iter()
        .filter(|change| is_substantial(&change.differs))
        .filter_map(|change| change.resource.strip_prefix("file "))
        .collect();
    let mut sets = Paths { changed: purged, leaving: BTreeSet::new(), replaced: BTreeSet::new() };
    let is_original = |before: &Before| matches!(before, Before::Original { node: Node::File { .. } | Node::Symlink { .. }, .. });
    for (path, owned) in &ledger.entries {
        if is_original(&owned.before) {
            sets.replaced.insert(path.clone());
        }
    }
    for step in &plan.steps {
        match &step.action {
            Action::Put { path, before, .. } => {
                if substantial.contains(path.as_str()) {
                    sets.changed.insert(path.clone());
                }
                if before.as_ref().is_some_and(is_original) {
                    sets.replaced.insert(path.clone());
                }
            }
            Action::Remove { path, .. } | Action::Restore { path, .. } => {
                sets.leaving.insert(path.clone());
            }
            _ => {}
        }
    }
    sets
}

/// The machine's own declarative formats are applied when they change, and again when a crash may have come in between.
fn appliers(desired: &Desired, observed: &Observed, ledger: &Ledger, plan: &mut Plan) {
    let put: BTreeSet<&HostPath> =
        plan.steps.iter().filter_map(|step| if let Action::Put { path, .. } = &step.action { Some(path) } else { None }).collect();
    let due = |role: &Role| -> Vec<HostPath> {
        let pending = |path: &HostPath| ledger.entries.get(path).is_some_and(|owned| owned.pending);
        desired
            .entries
            .iter()
            .filter(|(path, entry)| entry.role == *role && (put.contains(path) || pending(path)))
            .map(|(path, _)| path.clone())
            .collect()
    };
    let (mut sysusers, tmpfiles, sysctl) = (due(&Role::Sysusers), due(&Role::Tmpfiles), due(&Role::Sysctl));
    // An account that somebody deleted comes back before the files that it owns.
    let lost = |map: &BTreeMap<String, Option<u32>>| map.values().any(Option::is_none);
    if sysusers.is_empty() && (lost(&observed.users) || lost(&observed.groups)) {
        sysusers = desired.entries.iter().filter(|(_, entry)| entry.role == Role::Sysusers).map(|(path, _)| path.clone()).collect();
    }
    let steps = [
        (!sysusers.is_empty()).then_some(Action::Sysusers { paths: sysusers }),
        (!tmpfiles.is_empty()).then_some(Action::Tmpfiles { paths: tmpfiles }),
        (!sysctl.is_empty()).then_some(Action::Sysctl { paths: sysctl }),
    ];
    for action in steps.into_iter().flatten() {
        plan.steps.push(Step { action, component: None, cause: Cause::Follows });
    }
}

fn units(desired: &Desired, observed: &Observed, ledger: &Ledger, paths: &Paths, plan: &mut Plan, leaving: &mut Plan) {
    let undefined: BTreeSet<UnitName> = paths.leaving.iter().flat_map(|path| undefines(path, desired, ledger)).cloned().collect();
    let touched = Touched { changed: &paths.changed, leaving: &paths.leaving, replaced: &paths.replaced, undefined: &undefined };
    let nothing = UnitFound::default();
    let pins = Pins::new(desired, observed);
    for (name, want) in &desired.units {
        let found = observed.units.get(name).unwrap_or(&nothing);
        let mut planned = Plan::default();
        let reads = plan.inputs(desired, ledger, want);
        let container = observed.containers.get(name);
        Subject { name, found, owned: ledger.units.get(name), container }.keep(want, reads, &touched, &mut planned);
        pins.take(name, planned, plan);
    }
    for (name, owned) in &ledger.units {
        if !desired.units.contains_key(name) {
            let found = observed.units.get(name).unwrap_or(&nothing);
            let mut planned = Plan::default();
            Subject { name, found, owned: Some(owned), container: None }.leave(owned, &touched, &mut planned);
            pins.take(name, planned, leaving);
        }
    }
}

/// The wanted units of whose definition a leaving path is a part: such a drop-in goes before the unit is restarted, not at the end, or the
/// unit would go on running with it.
fn undefines<'a>(path: &HostPath, desired: &'a Desired, ledger: &Ledger) -> Vec<&'a UnitName> {
    match ledger.entries.get(path).map(|owned| &owned.role) {
        Some(Role::Unit(of) | Role::Quadlet(of)) => desired.units.keys().filter(|unit| unit.reads_drop_ins_of(of)).collect(),
        _ => Vec::new(),
    }
}

fn leaving_path(step: &Step) -> Option<&HostPath> {
    match &step.action {
        Action::Remove { path, .. } | Action::Restore { path, .. } => Some(path),
        _ => None,
    }
}

/// One daemon-reload after the writes, if systemd's picture of a wanted unit is (or may be) out of date.
fn reloads(desired: &Desired, observed: &Observed, ledger: &Ledger, plan: &mut Plan) {
    let is_definition =
        |path: &HostPath| desired.entries.get(path).is_some_and(|entry| matches!(entry.role, Role::Unit(_) | Role::Quadlet(_)));
    let written = plan.steps.iter().any(|step| match &step.action {
        Action::Put { path, .. } => is_definition(path),
        _ => leaving_path(step).is_some_and(|path| !undefines(path, desired, ledger).is_empty()),
    });
    let unfinished = ledger.entries.iter().any(|(path, owned)| owned.pending && is_definition(path));
    // What somebody did to a definition that is left as it is does not come into force by us, nor is it waited for.
    let ours = |unit: &Unit| !unit.definition.iter().any(|path| plan.left.contains(path));
    let outdated = desired.units.iter().filter(|(_, unit)| ours(unit)).any(|(name, unit)| {
        observed.units.get(name).is_some_and(|found| {
            found.needs_reload || (found.load == "not-found" && !unit.definition.is_empty() && !name.is_template())
        })
    });
    if written || unfinished || outdated {
        plan.steps.push(Step { action: Action::DaemonReload, component: None, cause: Cause::Follows });
    }
}

/// How far each unit is from the ones that must be started before it.
fn ranks(desired: &Desired) -> BTreeMap<&UnitName, usize> {
    let mut ranks: BTreeMap<&UnitName, usize> = desired.units.keys().map(|name| (name, 0)).collect();
    // Longest path by relaxation; a cycle (which systemd would break anyway) ends with the rounds.
    for _ in 0..desired.units.len().min(64) {
        let mut moved = false;
        for (name, unit) in &desired.units {
            let above = unit.after.iter().filter_map(|other| ranks.get(other)).max().map_or(0, |rank| rank + 1);
            if above > ranks[name] && above < 64 {
                ranks.insert(name, above);
                moved = true;
            }
        }
        if !moved {
            break;
        }
    }
    ranks
}

/// The one order of a pass: prefetch, accounts, files, appliers, reload, boot states, stops, starts.
fn order(step: &Step, desired: &Desired, ledger: &Ledger, ranks: &BTreeMap<&UnitName, usize>) -> (u8, usize, String) {
    let rank = |unit: &UnitName| ranks.get(unit).copied().unwrap_or(0);
    let (phase, rank) = match &step.action {
        Action::Pull { .. } | Action::Fetch { .. } => (0, 0),
        Action::Put { path, .. } => match desired.entries.get(path) {
            Some(entry) if entry.role == Role::Sysusers => (1, 0),
            Some(entry) if matches!(entry.state.node, Node::Directory) => (3, 0),
            _ => (4, 0),
        },
        Action::Sysusers { .. } => (2, 0),
        Action::Tmpfiles { .. } => (5, 0),
        Action::Sysctl { .. } => (6, 0),
        Action::DaemonReload => (7, 0),
        Action::Unmask { .. } => (8, 0),
        Action::Disable { .. } => (9, 0),
        Action::Enable { .. } => (10, 0),
        Action::Stop { unit, .. } => (11, usize::MAX - rank(unit)),
        Action::Mask { .. } => (12, 0),
        Action::Start { unit } | Action::Restart { unit } | Action::Reload { unit } => (13, rank(unit)),
        Action::Remove { path, .. } | Action::Restore { path, .. } if !undefines(path, desired, ledger).is_empty() => (4, 1),
        Action::Purge { .. } => (4, 2),
        Action::Remove { .. } | Action::Restore { .. } => (15, 0),
        Action::Forget { .. } => (18, 0),
    };
    (phase, rank, step.action.resource())
}

/// What leaves is stopped before anything is started (it may hold what the new needs), and removed last, in reverse order.
fn join(mut plan: Plan, leaving: Plan, desired: &Desired, ledger: &Ledger) -> Plan {
    let mut stops = Vec::new();
    let mut disables = Vec::new();
    let mut give_back = Vec::new();
    let mut forgets = Vec::new();
    for mut step in leaving.steps {
        match &mut step.action {
            Action::Stop { leaving, .. } => {
                *leaving = true;
                stops.push(step);
            }
            Action::Disable { .. } => disables.push(step),
            Action::Forget { .. } => forgets.push(step),
            _ => give_back.push(step),
        }
    }
    let is_removal = |step: &Step| leaving_path(step).is_some_and(|path| undefines(path, desired, ledger).is_empty());
    let (mut removals, mut steps): (Vec<Step>, Vec<Step>) = plan.steps.into_iter().partition(is_removal);
    removals.reverse();
    let first_late = |step: &Step| {
        matches!(
            step.action,
            Action::Stop { .. } | Action::Mask { .. } | Action::Start { .. } | Action::Restart { .. } | Action::Reload { .. }
        )
    };
    let at = steps.iter().position(first_late).unwrap_or(steps.len());
    stops.reverse();
    steps.splice(at..at, stops);
    plan.prune_from = steps.len();
    plan.own_from = plan.prune_from;
    steps.extend(disables);
    let undefines = removals.iter().any(|step| match &step.action {
        Action::Remove { path, .. } | Action::Restore { path, .. } => {
            ledger.entries.get(path).is_some_and(|owned| matches!(owned.role, Role::Unit(_) | Role::Quadlet(_)))
        }
        _ => false,
    });
    steps.extend(removals);
    if undefines {
        steps.push(Step { action: Action::DaemonReload, component: None, cause: Cause::Follows });
    }
    steps.extend(give_back);
    steps.extend(forgets);
    plan.steps = steps;
    plan.changes.extend(leaving.changes);
    plan.problems.extend(leaving.problems);
    plan.bookkeeping.extend(leaving.bookkeeping);
    // Notes are applied in path order whatever made them.
    plan.bookkeeping.sort_by_key(note_key);
    plan
}

fn note_key(note: &Note) -> (u8, String) {
    match note {
        Note::Adopt { path, .. } => (0, path.to_string()),
        Note::Confirm { path } => (1, path.to_string()),
        Note::Drop { path } => (2, path.to_string()),
        Note::Unit { unit, .. } => (3, unit.to_string()),
    }
}
