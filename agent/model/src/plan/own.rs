//! What of a plan is trimtab itself: its program, its own unit and its guard.
//!
//! Guarantees: such steps come after all others of a change, the program before the units that name it; no plan starts, restarts, stops,
//! disables or masks the unit that carries it out, for that would end the pass in the middle: [`Plan::succeeds`] says instead that the
//! running agent must hand over to a new one when the pass is over.
//! Limits: the courier's units are none of these: no pass runs in them.

use std::collections::BTreeSet;

use super::paths::is_substantial;
use super::{Action, Cause, Note, Plan, Problem, Step, Verb};
use crate::desired::{Desired, Enablement, Role};
use crate::ledger::Ledger;
use crate::names::{HostPath, UnitName};

/// The unit that the agent runs as.
pub const AGENT: &str = "trimtab.service";

/// The unit that puts the previous trimtab back when a new one does not prove itself.
pub const GUARD: &str = "trimtab-guard.service";

/// What starts the guard, also after a boot.
pub const GUARD_PATH: &str = "trimtab-guard.path";

/// Where the packages put the program.
pub const PROGRAM: &str = "/usr/bin/trimtab";

/// What kind of own path it is: decides the order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Own {
    Program,
    Unit,
}

/// Knows what is trimtab's own.
struct Eye<'a> {
    programs: &'a [HostPath],
    desired: &'a Desired,
    ledger: &'a Ledger,
}

impl Eye<'_> {
    fn path(&self, path: &HostPath) -> Option<Own> {
        let roles =
            [self.desired.entries.get(path).map(|entry| &entry.role), self.ledger.entries.get(path).map(|owned| &owned.role)];
        let is_unit = |role: &&Role| matches!(role, Role::Unit(unit) if [AGENT, GUARD, GUARD_PATH].contains(&unit.as_str()));
        if roles.iter().flatten().any(is_unit) {
            return Some(Own::Unit);
        }
        let agent = self.desired.units.iter().find(|(name, _)| name.as_str() == AGENT);
        let is_program = self.programs.contains(path) || agent.is_some_and(|(_, unit)| unit.uses.contains(path));
        is_program.then_some(Own::Program)
    }

    fn step(&self, step: &Step) -> Option<(Own, bool)> {
        match &step.action {
            Action::Put { path, .. } => self.path(path).map(|own| (own, false)),
            Action::Remove { path, .. } | Action::Restore { path, .. } => self.path(path).map(|own| (own, true)),
            _ => None,
        }
    }
}

/// A unit that a pass must not touch while it runs.
fn is_untouchable(unit: &UnitName) -> bool {
    [AGENT, GUARD].contains(&unit.as_str())
}

impl Plan {
    /// Puts what is trimtab's own after everything else but what is taken away. `programs` are the paths of its program on this host.
    pub fn own_last(&mut self, programs: &[HostPath], desired: &Desired, ledger: &Ledger) {
        let eye = Eye { programs, desired, ledger };
        self.refuse_to_end(desired);
        let pruning = self.steps.split_off(self.prune_from.min(self.steps.len()));
        let mut own: Vec<(u8, Step)> = Vec::new();
        let mut dropped: BTreeSet<UnitName> = BTreeSet::new();
        let mut renewed = false;
        let mut apart = |steps: Vec<Step>| -> Vec<Step> {
            let mut others = Vec::new();
            for step in steps {
                if let Some((kind, leaves)) = eye.step(&step) {
                    own.push((order(kind, leaves), step));
                } else if let Some(unit) = untouchable(&step.action) {
                    renewed |= unit.as_str() == AGENT
                        && !matches!(step.action, Action::Start { .. } | Action::Disable { .. } | Action::Mask { .. });
                    dropped.insert(unit.clone());
                } else {
                    others.push(step);
                }
            }
            others
        };
        self.steps = apart(std::mem::take(&mut self.steps));
        let pruning = apart(pruning);
        if own.iter().any(|(order, _)| [UNIT_COMES, UNIT_LEAVES].contains(order)) {
            own.push((RELOAD, Step { action: Action::DaemonReload, component: None, cause: Cause::Follows }));
        }
        own.sort_by_key(|(order, _)| *order);
        self.succeeds = renewed || self.replaces(&eye);
        self.own_from = self.steps.len();
        self.steps.extend(own.into_iter().map(|(_, step)| step));
        self.prune_from = self.steps.len();
        self.steps.extend(pruning);
        for note in &mut self.bookkeeping {
            // Whoever starts next reads what is there then; nothing of this plan tells it to.
            if let Note::Unit { unit, settled, .. } = note {
                *settled |= dropped.contains(unit);
            }
        }
    }

    /// Whether something of trimtab's own becomes another: not only its mode or owner.
    fn replaces(&self, eye: &Eye<'_>) -> bool {
        let path = |resource: &str| resource.strip_prefix("file ").and_then(|path| path.parse::<HostPath>().ok());
        let mut substantial = self.changes.iter().filter(|change| is_substantial(&change.differs));
        substantial.any(|change| path(&change.resource).is_some_and(|path| eye.path(&path).is_some()))
    }

    /// A repository that wants trimtab stopped would be obeyed once and never again.
    fn refuse_to_end(&mut self, desired: &Desired) {
        for (name, unit) in desired.units.iter().filter(|(name, _)| is_untouchable(name)) {
            let off = matches!(unit.enabled, Some(Enablement::Disabled | Enablement::Masked)) || unit.active == Some(false);
            if off && name.as_str() == AGENT {
                let message =
                    "trimtab does not stop, disable or mask itself: nobody would be there to start it again. On the host, \
                               `systemctl disable --now trimtab` does it"
                        .to_owned();
                self.problems.push(Problem { resource: format!("unit {name}"), message, origin: unit.origin.clone() });
            }
        }
        let resource = format!("unit {AGENT}");
        let undone = |verb| matches!(verb, Verb::Start | Verb::Stop | Verb::Disable | Verb::Mask);
        self.changes.retain(|change| change.resource != resource || !undone(change.verb));
    }

    /// The plan (one [`Plan::without_prune`]) in two: what is not trimtab's own, and what is.
    pub fn own_apart(mut self) -> (Plan, Plan) {
        let mut own = Plan { succeeds: self.succeeds, ..Plan::default() };
        let prune = self.steps.split_off(self.prune_from.min(self.steps.len()));
        own.steps = self.steps.split_off(self.own_from.min(self.steps.len()));
        own.prune_from = own.steps.len();
        self.steps.extend(prune);
        self.prune_from = self.own_from;
        self.succeeds = false;
        let notes = std::mem::take(&mut self.bookkeeping);
        let is_own = |note: &Note| matches!(note, Note::Unit { unit, .. } if is_untouchable(unit));
        (own.bookkeeping, self.bookkeeping) = notes.into_iter().partition(is_own);
        (self, own)
    }

    /// The paths of trimtab's own that the plan changes.
    pub fn own_paths(&self) -> BTreeSet<HostPath> {
        let path = |action: &Action| match action {
            Action::Put { path, .. } | Action::Remove { path, .. } | Action::Restore { path, .. } => Some(path.clone()),
            _ => None,
        };
        self.steps[self.own_from.min(self.prune_from)..self.prune_from].iter().filter_map(|step| path(&step.action)).collect()
    }
}

const UNIT_COMES: u8 = 1;
const UNIT_LEAVES: u8 = 2;
const RELOAD: u8 = 3;

/// The program is there before a unit names it, and goes after the unit that named it.
fn order(kind: Own, leaves: bool) -> u8 {
    match (kind, leaves) {
        (Own::Program, false) => 0,
        (Own::Unit, false) => UNIT_COMES,
        (Own::Unit, true) => UNIT_LEAVES,
        (Own::Program, true) => RELOAD + 1,
    }
}

/// The unit that a pass must not touch, if the action would.
fn untouchable(action: &Action) -> Option<&UnitName> {
    match action {
        Action::Start { unit }
        | Action::Restart { unit }
        | Action::Reload { unit }
        | Action::Stop { unit, .. }
        | Action::Disable { unit }
        | Action::Mask { unit } => Some(unit).filter(|unit| is_untouchable(unit)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desired::{Entry, FileState, Node, OnChange, Origin, Unit};
    use crate::digest::Digest;
    use crate::ledger::{Before, Owned, OwnedUnit};
    use crate::observed::{Found, Identity, Meta, Observed, UnitFound};
    use crate::plan::{Verb, plan};

    const NEW: &str = "/opt/trimtab/trimtab";
    const DROP_IN: &str = "/etc/systemd/system/trimtab.service.d/50-program.conf";
    const MOTD: &str = "/etc/motd";

    fn path(text: &str) -> HostPath {
        text.parse().unwrap()
    }

    fn unit(text: &str) -> UnitName {
        text.parse().unwrap()
    }

    fn origin() -> Origin {
        Origin { component: "trimtab".parse().unwrap(), file: "f".to_owned(), line: 0 }
    }

    fn state(content: &str) -> FileState {
        let node = Node::File { digest: Digest::of(content.as_bytes()), size: 1 };
        FileState { node, mode: 0o755, owner: "root".parse().unwrap(), group: "root".parse().unwrap() }
    }

    fn entry(content: &str, role: Role) -> Entry {
        Entry {
            state: state(content),
            role,
            shown: true,
            drift: crate::drift::DriftPolicy::default(),
            ignored: None,
            artifact: None,
            origin: origin(),
        }
    }

    fn agent(uses: &[&str]) -> Unit {
        Unit {
            enabled: None,
            active: None,
            oneshot: false,
            on_change: OnChange::Restart,
            definition: BTreeSet::from([path(DROP_IN)]),
            uses: uses.iter().map(|text| path(text)).collect(),
            after: BTreeSet::new(),
            generated: false,
            image: None,
            drift: crate::drift::DriftPolicy::default(),
            origin: origin(),
        }
    }

    /// A repository that brings a program, the drop-in that names it, another file and another service.
    fn wanted(version: &str) -> Desired {
        let mut desired = Desired::default();
        let role = || Role::Unit(unit(AGENT));
        desired.entries.insert(path(NEW), entry(version, Role::Plain));
        desired.entries.insert(path(DROP_IN), entry("drop-in", role()));
        desired.entries.insert(path(MOTD), entry(version, Role::Plain));
        desired.entries.insert(path("/etc/systemd/system/app.service"), entry("app", Role::Unit(unit("app.service"))));
        desired.units.insert(unit(AGENT), agent(&[NEW]));
        let definition = BTreeSet::from([path("/etc/systemd/system/app.service")]);
        desired
            .units
            .insert(unit("app.service"), Unit { active: Some(true), definition, uses: BTreeSet::from([path(MOTD)]), ..agent(&[]) });
        desired
    }

    fn observed(files: &[(&str, &str)]) -> Observed {
        let meta = Meta { mode: 0o755, uid: 0, gid: 0, identity: Identity { dev: 1, ino: 1, ctime: 1 } };
        let found = |content: &str| Found::File { digest: Digest::of(content.as_bytes()), size: 1, meta };
        let active = UnitFound { load: "loaded".into(), active: "active".into(), sub: "running".into(), ..UnitFound::default() };
        Observed {
            entries: files.iter().map(|(at, content)| (path(at), found(content))).collect(),
            units: [AGENT, "app.service"].map(|name| (unit(name), active.clone())).into(),
            users: [("root".to_owned(), Some(0))].into(),
            groups: [("root".to_owned(), Some(0))].into(),
            has_units: true,
            ..Observed::default()
        }
    }

    /// What a host that is as `desired` says has in its ledger.
    fn settled(desired: &Desired) -> Ledger {
        let mut ledger = Ledger::default();
        for (at, entry) in &desired.entries {
            let owned = Owned {
                state: entry.state.clone(),
                role: entry.role.clone(),
                before: Before::Absent,
                xattrs: None,
                pending: false,
                drift: entry.drift,
                origin: origin(),
            };
            ledger.entries.insert(at.clone(), owned);
        }
        for (name, want) in &desired.units {
            let owned = OwnedUnit {
                was_enabled: None,
                was_active: None,
                was_masked: false,
                enabled: want.enabled,
                active: want.active,
                inputs: Some(desired.inputs(want)),
                generated: false,
                origin: origin(),
            };
            ledger.units.insert(name.clone(), owned);
        }
        ledger
    }

    fn planned(desired: &Desired, observed: &Observed, ledger: &Ledger) -> Plan {
        let mut plan = plan(desired, observed, ledger);
        plan.own_last(&[path(PROGRAM), path(NEW)], desired, ledger);
        plan
    }

    fn told(plan: &Plan) -> Vec<String> {
        let word = |step: &Step| serde_json::to_value(&step.action).unwrap()["do"].as_str().unwrap().to_owned();
        plan.steps.iter().map(|step| format!("{} {}", word(step), step.action.resource()).trim_end().to_owned()).collect()
    }

    const HAS: [(&str, &str); 4] = [(NEW, "1"), (DROP_IN, "drop-in"), (MOTD, "1"), ("/etc/systemd/system/app.service", "app")];

    #[test]
    fn its_own_is_switched_last_and_its_own_unit_is_left_alone() {
        let plan = planned(&wanted("1"), &observed(&[]), &Ledger::default());
        let own = [format!("put file {NEW}"), format!("put file {DROP_IN}"), "daemon-reload".to_owned()];
        assert_eq!(told(&plan)[plan.own_from..plan.prune_from], own, "{:?}", told(&plan));
        assert!(plan.own_from > 3 && plan.prune_from == plan.steps.len() && plan.succeeds, "{:?}", told(&plan));
        assert!(!told(&plan).iter().any(|step| step.contains(AGENT) && !step.starts_with("put")), "{:?}", told(&plan));
        assert!(
            plan.bookkeeping.iter().any(|note| matches!(note, Note::Unit { unit, settled: true, .. } if unit.as_str() == AGENT))
        );
    }

    #[test]
    fn a_new_program_asks_for_a_successor_and_a_mode_does_not() {
        let (old, new) = (wanted("1"), wanted("2"));
        let plan = planned(&new, &observed(&HAS), &settled(&old));
        assert_eq!(told(&plan), [format!("put file {MOTD}"), "restart unit app.service".to_owned(), format!("put file {NEW}")]);
        assert!(plan.succeeds);
        let mut drifted = observed(&HAS);
        if let Some(Found::File { meta, .. }) = drifted.entries.get_mut(&path(NEW)) {
            meta.mode = 0o700;
        }
        let plan = planned(&old, &drifted, &settled(&old));
        assert_eq!((told(&plan), plan.succeeds), (vec![format!("put file {NEW}")], false));
        let plan = planned(&old, &observed(&HAS), &settled(&old));
        assert!(plan.is_empty() && !plan.succeeds, "{:?}", told(&plan));
    }

    #[test]
    fn the_packaged_program_is_its_own_without_any_unit() {
        let mut desired = Desired::default();
        desired.entries.insert(path(PROGRAM), entry("2", Role::Plain));
        let plan = planned(&desired, &observed(&[(PROGRAM, "1")]), &Ledger::default());
        assert_eq!((told(&plan), plan.own_from, plan.succeeds), (vec![format!("put file {PROGRAM}")], 0, true));
    }

    #[test]
    fn what_leaves_of_it_is_part_of_the_change_and_not_of_the_end() {
        let plan = planned(&Desired::default(), &observed(&HAS), &settled(&wanted("1")));
        let own = [format!("remove file {DROP_IN}"), "daemon-reload".to_owned(), format!("remove file {NEW}")];
        assert_eq!(told(&plan)[plan.own_from..plan.prune_from], own, "{:?}", told(&plan));
        assert!(plan.succeeds && told(&plan)[plan.prune_from..].contains(&format!("remove file {MOTD}")), "{:?}", told(&plan));
        assert!(!told(&plan).iter().any(|step| step.starts_with("stop") && step.contains(AGENT)), "{:?}", told(&plan));
    }

    #[test]
    fn it_does_not_end_itself_when_asked() {
        let mut desired = wanted("1");
        let ledger = settled(&desired);
        for (enabled, active) in [(None, Some(false)), (Some(Enablement::Masked), None), (Some(Enablement::Disabled), None)] {
            let own = desired.units.get_mut(&unit(AGENT)).unwrap();
            (own.enabled, own.active) = (enabled, active);
            let mut observed = observed(&HAS);
            observed.units.get_mut(&unit(AGENT)).unwrap().file_state = "enabled".to_owned();
            let plan = planned(&desired, &observed, &ledger);
            assert_eq!(told(&plan), Vec::<String>::new());
            assert!(plan.changes.is_empty(), "{:?}", plan.changes);
            assert!(plan.problems.iter().any(|problem| problem.message.contains("does not stop, disable or mask itself")));
        }
    }

    #[test]
    fn in_two_halves_nothing_is_lost() {
        let whole = planned(&wanted("1"), &observed(&[]), &Ledger::default());
        let (others, own) = whole.clone().own_apart();
        assert_eq!([others.steps.clone(), own.steps.clone()].concat(), whole.steps);
        assert_eq!(others.bookkeeping.len() + own.bookkeeping.len(), whole.bookkeeping.len());
        assert_eq!(own.bookkeeping.len(), 1, "the note that records what the agent reads goes with what it reads");
        assert!(own.succeeds && !others.succeeds);
        assert_eq!(own.own_paths(), [path(NEW), path(DROP_IN)].into());
        assert_eq!(others.own_paths(), BTreeSet::new());
        let restarts = |plan: &Plan| plan.changes.iter().any(|change| change.verb == Verb::Restart);
        assert!(!restarts(&own));
    }
}
