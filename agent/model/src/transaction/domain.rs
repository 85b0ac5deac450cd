//! Who shares whose fate: what falls when a component fails, and the state in which only that is as it was.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use crate::desired::{Desired, Node, Role, Unit};
use crate::health::HealthCheck;
use crate::names::{ComponentName, HostPath, UnitName};
use crate::plan::{Action, Plan};

use super::{Denied, denied};

/// Why two states cannot be put together; everything has to fall then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{resource} would belong to both {kept} and {withheld}")]
pub struct Conflict {
    /// `file /etc/…` or `unit …`.
    pub resource: String,
    /// The component that has it in the new state.
    pub kept: ComponentName,
    /// The component that had it before and is held back.
    pub withheld: ComponentName,
}

/// All that falls when `failed` fail: what needs them, and what they need, for it may have been changed for their sake. A component that
/// isolates itself does not take with it what it needs.
///
/// One component needs another when it depends on it, and when a unit of it reads the other's files, before or after the change.
pub fn spread(failed: &BTreeSet<ComponentName>, new: &Desired, old: &Desired) -> BTreeSet<ComponentName> {
    let mut needs: BTreeMap<&ComponentName, BTreeSet<&ComponentName>> = BTreeMap::new();
    for state in [new, old] {
        for (component, needed) in &state.components {
            needs.entry(component).or_default().extend(needed);
        }
        for unit in state.units.values() {
            let readers = needs.entry(&unit.origin.component).or_default();
            let read = unit.definition.iter().chain(&unit.uses).filter_map(|path| state.entries.get(path));
            readers.extend(read.map(|entry| &entry.origin.component).filter(|other| **other != unit.origin.component));
        }
    }
    let mut fallen = failed.clone();
    let mut open: Vec<ComponentName> = failed.iter().cloned().collect();
    while let Some(at) = open.pop() {
        let needing = needs.iter().filter(|(_, needed)| needed.contains(&at)).map(|(component, _)| *component);
        let needed = needs.get(&at).into_iter().flatten().copied().filter(|_| !new.isolated.contains(&at));
        for next in needing.chain(needed) {
            if fallen.insert(next.clone()) {
                open.push(next.clone());
            }
        }
    }
    fallen
}

/// The new state, with the components `withheld` as the old one has them.
pub fn mix(new: &Desired, old: &Desired, withheld: &BTreeSet<ComponentName>) -> Result<Desired, Conflict> {
    let is_new = |component: &ComponentName| !withheld.contains(component);
    let mut mixed = Desired::default();
    for (source, wanted) in [(new, true), (old, false)] {
        let ours = |component: &ComponentName| is_new(component) == wanted;
        for (path, entry) in source.entries.iter().filter(|(_, entry)| ours(&entry.origin.component)) {
            if let Some(other) = overlapping(&mixed, path, &entry.state.node) {
                return Err(conflict(format!("file {path}"), other, &entry.origin.component));
            }
            mixed.entries.insert(path.clone(), entry.clone());
        }
        for (name, unit) in source.units.iter().filter(|(_, unit)| ours(&unit.origin.component)) {
            if let Some(other) = mixed.units.get(name) {
                return Err(conflict(format!("unit {name}"), &other.origin.component, &unit.origin.component));
            }
            mixed.units.insert(name.clone(), unit.clone());
        }
        let images = source.images.iter().filter(|(_, origin)| ours(&origin.component));
        mixed.images.extend(images.map(|(image, origin)| (image.clone(), origin.clone())));
        let components = source.components.iter().filter(|(component, _)| ours(component));
        mixed.components.extend(components.map(|(component, needs)| (component.clone(), needs.clone())));
        mixed.health.extend(source.health.iter().filter(|check| ours(&check.origin.component)).cloned());
        mixed.hooks.extend(source.hooks.iter().filter(|hook| ours(&hook.origin.component)).cloned());
        let confirm = source.confirm.iter().filter(|(component, _)| ours(component));
        mixed.confirm.extend(confirm.map(|(component, when)| (component.clone(), *when)));
        let exclusive = source.exclusive.iter().filter(|(_, exclusive)| ours(exclusive.component()));
        mixed.exclusive.extend(exclusive.map(|(path, exclusive)| (path.clone(), exclusive.clone())));
        mixed.isolated.extend(source.isolated.iter().filter(|component| ours(component)).cloned());
    }
    // As a rendering has them: the same state must have the same effect, whichever way it came about.
    mixed.health.sort_by(|one, other| one.origin.component.cmp(&other.origin.component));
    mixed.hooks.sort_by(|one, other| one.origin.component.cmp(&other.origin.component));
    complete(&mut mixed);
    Ok(mixed)
}

/// What is left of a state to be tried when `failed` stay as `old` has them, with all that share their fate; and which those are.
/// `None`: it cannot be told apart from the rest, or what is left was tried before and is denied itself.
pub fn without(
    new: &Desired,
    old: &Desired,
    failed: &BTreeSet<ComponentName>,
    list: &[Denied],
) -> Option<(Desired, BTreeSet<ComponentName>)> {
    let fallen = spread(failed, new, old);
    let left = mix(new, old, &fallen).ok()?;
    denied(list, &left.effect()).is_none().then_some((left, fallen))
}

/// What is gone back to when `failed` of a tried state failed: that state without them. `None`: the good state as a whole, for nothing else
/// can be told apart; or what failed is as it was before, so that something else of the change must have broken it.
pub fn target(
    tried: &Desired,
    good: &Desired,
    failed: &BTreeSet<ComponentName>,
    list: &[Denied],
) -> Option<(Desired, BTreeSet<ComponentName>)> {
    if failed.is_empty() {
        return None;
    }
    let (left, fallen) = without(tried, good, failed, list)?;
    let effect = left.effect();
    (effect != tried.effect() && effect != good.effect()).then_some((left, fallen))
}

/// The components that a plan works on or whose checks are new, and those that share their fate: the checks of these are asked.
pub fn affected(plan: &Plan, wanted: &Desired, in_force: Option<&Desired>) -> BTreeSet<ComponentName> {
    let mut touched: BTreeSet<ComponentName> = plan.steps.iter().filter_map(|step| step.component.clone()).collect();
    touched.extend(newly_checked(wanted, in_force));
    spread(&touched, wanted, wanted)
}

/// All that can be judged of a state whether or not it was just touched: its components, and the units that are to run.
pub fn everything(wanted: &Desired) -> (BTreeSet<ComponentName>, BTreeSet<UnitName>) {
    let runs = |unit: &Unit| unit.active == Some(true) && !unit.oneshot;
    let units = wanted.units.iter().filter(|(_, unit)| runs(unit)).map(|(name, _)| name.clone());
    (wanted.components.keys().cloned().collect(), units.collect())
}

/// Components with a check that the state in force does not have: a commit of nothing else must pass it, too.
pub fn newly_checked(wanted: &Desired, in_force: Option<&Desired>) -> BTreeSet<ComponentName> {
    let known = in_force.map_or(&[][..], |state| &state.health);
    let is_known = |check: &HealthCheck| known.iter().any(|old| old.probe == check.probe && old.timing == check.timing);
    wanted.health.iter().filter(|check| !is_known(check)).map(|check| check.origin.component.clone()).collect()
}

/// Units that a plan starts, restarts or reloads.
pub fn watched(plan: &Plan) -> BTreeSet<UnitName> {
    let unit = |action: &Action| match action {
        Action::Start { unit } | Action::Restart { unit } | Action::Reload { unit } => Some(unit.clone()),
        _ => None,
    };
    plan.steps.iter().filter_map(|step| unit(&step.action)).collect()
}

fn conflict(resource: String, kept: &ComponentName, withheld: &ComponentName) -> Conflict {
    Conflict { resource, kept: kept.clone(), withheld: withheld.clone() }
}

/// The owner of what stands at the path, or of something that cannot stand beside it: above it, or beneath it where it is no directory.
fn overlapping<'a>(state: &'a Desired, path: &HostPath, node: &Node) -> Option<&'a ComponentName> {
    let own = state.entries.get(path);
    let mut above = path.parent();
    let mut in_the_way = None;
    while let Some(folder) = above {
        let entry = state.entries.get(&folder).filter(|entry| !matches!(entry.state.node, Node::Directory));
        in_the_way = in_the_way.or(entry);
        above = folder.parent();
    }
    let below = || {
        let begin = format!("{path}/");
        let next = state.entries.range::<str, _>((Bound::Included(begin.as_str()), Bound::Unbounded)).next();
        next.filter(|(at, _)| !matches!(node, Node::Directory) && at.as_str().starts_with(&begin)).map(|(_, entry)| entry)
    };
    own.or(in_the_way).or_else(below).map(|entry| &entry.origin.component)
}

/// A unit's definition names no path that this state does not have, and each one that it does.
fn complete(state: &mut Desired) {
    let mut defined: BTreeMap<&UnitName, BTreeSet<&HostPath>> = BTreeMap::new();
    for (path, entry) in &state.entries {
        if let Role::Unit(unit) | Role::Quadlet(unit) = &entry.role {
            defined.entry(unit).or_default().insert(path);
        }
    }
    for (name, unit) in &mut state.units {
        unit.definition.retain(|path| state.entries.contains_key(path));
        let parts = defined.iter().filter(|(of, _)| name.reads_drop_ins_of(of)).flat_map(|(_, paths)| paths);
        unit.definition.extend(parts.map(|path| (*path).clone()));
    }
}
