//! The plan against a model of a host: carried out and made again, it must be empty, from any start.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::desired::{Desired, Enablement, Entry, FileState, Node, OnChange, Role, Unit};
use crate::digest::Digest;
use crate::ledger::{Ledger, Owned, OwnedUnit};
use crate::observed::{Found, Identity, Meta, Observed, UnitFound};

/// A host that lives in memory and carries out plans as the executor does.
#[derive(Debug, Clone, Default)]
struct Host {
    files: BTreeMap<HostPath, Found>,
    units: BTreeMap<UnitName, UnitFound>,
    ledger: Ledger,
    tick: i128,
    /// What each unit really read when it was last started: what a service would run with.
    running: BTreeMap<UnitName, Vec<Found>>,
}

fn path(text: &str) -> HostPath {
    text.parse().unwrap()
}

fn unit(text: &str) -> UnitName {
    text.parse().unwrap()
}

fn origin(component: &str) -> Origin {
    Origin { component: component.parse().unwrap(), file: format!("components/{component}/x"), line: 0 }
}

fn entry(content: &str, role: Role) -> Entry {
    let node = Node::File { digest: Digest::of(content.as_bytes()), size: content.len() as u64 };
    let state = FileState { node, mode: 0o644, owner: "root".parse().unwrap(), group: "root".parse().unwrap() };
    Entry { state, role, shown: true, origin: origin("c") }
}

fn service(definition: &str, uses: &[&str]) -> Unit {
    Unit {
        enabled: Some(Enablement::Enabled),
        active: Some(true),
        oneshot: false,
        on_change: OnChange::Restart,
        definition: BTreeSet::from([path(definition)]),
        uses: uses.iter().map(|text| path(text)).collect(),
        after: BTreeSet::new(),
        generated: false,
        origin: origin("c"),
    }
}

impl Host {
    fn meta(&mut self, mode: u32, uid: u32) -> Meta {
        self.tick += 1;
        Meta { mode, uid, gid: 0, identity: Identity { dev: 1, ino: 1, ctime: self.tick } }
    }

    fn file(&mut self, at: &str, content: &str, mode: u32) {
        let meta = self.meta(mode, 0);
        self.files.insert(path(at), Found::File { digest: Digest::of(content.as_bytes()), size: content.len() as u64, meta });
    }

    fn observe(&self) -> Observed {
        Observed {
            entries: self.files.clone(),
            units: self.units.clone(),
            images: BTreeSet::new(),
            users: BTreeMap::from([("root".to_owned(), Some(0))]),
            groups: BTreeMap::from([("root".to_owned(), Some(0))]),
            has_units: true,
        }
    }

    fn plan(&self, desired: &Desired) -> Plan {
        plan(desired, &self.observe(), &self.ledger)
    }

    /// Carries a plan out up to `cut` steps (a crash after that many), as apply does: intent first, then steps, then confirmation.
    fn apply(&mut self, desired: &Desired, plan: &Plan, cut: usize) {
        self.intend(desired, plan);
        for (count, step) in plan.steps.iter().enumerate() {
            if count == cut {
                return;
            }
            self.step(desired, &step.action);
        }
        if cut < plan.steps.len() {
            return;
        }
        for owned in self.ledger.entries.values_mut() {
            owned.pending = false;
        }
        for note in &plan.bookkeeping {
            let Note::Unit { unit, settled, .. } = note else { continue };
            let want = &desired.units[unit];
            let owned = self.ledger.units.get_mut(unit).unwrap();
            (owned.enabled, owned.active, owned.origin) = (want.enabled, want.active, want.origin.clone());
            if *settled {
                owned.inputs = Some(desired.inputs(want));
            }
        }
    }

    fn intend(&mut self, desired: &Desired, plan: &Plan) {
        for note in &plan.bookkeeping {
            match note {
                Note::Adopt { path, before } => self.own(desired, path, Some(before.clone()), false),
                Note::Confirm { path } => self.own(desired, path, None, self.ledger.entries[path].pending),
                Note::Drop { path } => {
                    self.ledger.entries.remove(path);
                }
                Note::Unit { unit, was, .. } => {
                    self.ledger.units.entry(unit.clone()).or_insert(OwnedUnit {
                        was_enabled: was.map(|was| was.enabled),
                        was_active: was.map(|was| was.active),
                        was_masked: was.is_some_and(|was| was.masked),
                        enabled: None,
                        active: None,
                        inputs: None,
                        generated: false,
                        origin: origin("c"),
                    });
                }
            }
        }
        for step in &plan.steps {
            match &step.action {
                Action::Put { path, before, .. } => self.own(desired, path, before.clone(), true),
                Action::Start { unit } | Action::Restart { unit } | Action::Reload { unit } => {
                    if let Some(owned) = self.ledger.units.get_mut(unit) {
                        owned.inputs = None;
                    }
                }
                _ => {}
            }
        }
    }

    fn own(&mut self, desired: &Desired, path: &HostPath, before: Option<Before>, pending: bool) {
        let want = &desired.entries[path];
        let before = before.unwrap_or_else(|| self.ledger.entries[path].before.clone());
        let owned = Owned { state: want.state.clone(), role: want.role.clone(), before, pending, origin: want.origin.clone() };
        self.ledger.entries.insert(path.clone(), owned);
    }

    fn step(&mut self, desired: &Desired, action: &Action) {
        match action {
            Action::Put { path, expected, .. } => {
                assert_eq!(*expected, self.files.get(path).map_or(Found::Missing.expectation(), Found::expectation));
                let Node::File { digest, size } = desired.entries[path].state.node else { panic!("only files here") };
                let meta = self.meta(0o644, 0);
                self.files.insert(path.clone(), Found::File { digest, size, meta });
            }
            Action::Remove { path, .. } => {
                self.files.remove(path);
                self.ledger.entries.remove(path);
            }
            Action::Restore { path, before, .. } => {
                let Before::Original { node: Node::File { digest, size }, mode, uid, .. } = before else {
                    panic!("only files here")
                };
                let meta = self.meta(*mode, *uid);
                self.files.insert(path.clone(), Found::File { digest: *digest, size: *size, meta });
                self.ledger.entries.remove(path);
            }
            Action::DaemonReload => self.reload(),
            Action::Enable { unit } => self.found(unit).file_state = "enabled".to_owned(),
            Action::Disable { unit } | Action::Unmask { unit } => self.found(unit).file_state = "disabled".to_owned(),
            Action::Mask { unit } => self.found(unit).file_state = "masked".to_owned(),
            Action::Stop { unit, .. } => self.found(unit).active = "inactive".to_owned(),
            Action::Start { unit } | Action::Restart { unit } | Action::Reload { unit } => {
                self.found(unit).active = "active".to_owned();
                if let Some(want) = desired.units.get(unit) {
                    self.running.insert(unit.clone(), self.read_by(want));
                }
                if let Some(want) = desired.units.get(unit) {
                    self.ledger.units.get_mut(unit).unwrap().inputs = Some(desired.inputs(want));
                }
            }
            Action::Forget { unit } => {
                self.ledger.units.remove(unit);
            }
            Action::Pull { .. } | Action::Sysusers { .. } | Action::Tmpfiles { .. } | Action::Sysctl { .. } => {}
        }
    }

    fn read_by(&self, want: &Unit) -> Vec<Found> {
        want.definition.iter().chain(&want.uses).filter_map(|at| self.files.get(at).cloned()).collect()
    }

    fn found(&mut self, unit: &UnitName) -> &mut UnitFound {
        self.units.entry(unit.clone()).or_default()
    }

    /// systemd's picture of its units is made anew from the files.
    fn reload(&mut self) {
        for at in ["a.service", "b.service"] {
            let exists = self.files.contains_key(format!("/etc/systemd/system/{at}").as_str());
            let found = self.found(&unit(at));
            found.load = if exists { "loaded" } else { "not-found" }.to_owned();
            if exists && found.file_state.is_empty() {
                found.file_state = "disabled".to_owned();
            }
            if !exists {
                found.file_state = String::new();
            }
        }
    }
}

/// Two services, one of them reading a file, and two plain files; each present or not, with one of three contents.
fn any_desired() -> impl Strategy<Value = Desired> {
    let content = || prop::option::of(0..3u8);
    (content(), content(), content(), content(), any::<bool>()).prop_map(|(a, b, conf, plain, uses)| {
        let mut desired = Desired::default();
        let mut put = |at: &str, version: Option<u8>, role: Role| {
            if let Some(version) = version {
                desired.entries.insert(path(at), entry(&format!("{at} {version}"), role));
            }
        };
        put("/etc/systemd/system/a.service", a, Role::Unit(unit("a.service")));
        put("/etc/systemd/system/b.service", b, Role::Unit(unit("b.service")));
        put("/etc/conf", conf, Role::Plain);
        put("/etc/plain", plain, Role::Plain);
        for (name, there) in [("a.service", a), ("b.service", b)] {
            if there.is_some() {
                let uses: &[&str] = if uses && name == "a.service" && conf.is_some() { &["/etc/conf"] } else { &[] };
                desired.units.insert(unit(name), service(&format!("/etc/systemd/system/{name}"), uses));
            }
        }
        desired
    })
}

/// A host that an operator already used.
fn any_host() -> impl Strategy<Value = Host> {
    (prop::option::of(0..4u8), prop::option::of(0..4u8), any::<bool>()).prop_map(|(conf, plain, loose)| {
        let mut host = Host::default();
        let mode = if loose { 0o600 } else { 0o644 };
        for (at, version) in [("/etc/conf", conf), ("/etc/plain", plain)] {
            if let Some(version) = version {
                host.file(at, &format!("{at} {version}"), mode);
            }
        }
        host
    })
}

proptest! {
    #[test]
    fn a_plan_carried_out_leaves_nothing_to_plan(start in any_host(), desired in any_desired()) {
        let mut host = start;
        let first = host.plan(&desired);
        host.apply(&desired, &first, usize::MAX);
        let second = host.plan(&desired);
        prop_assert!(second.is_empty() && second.bookkeeping.is_empty(), "{second:#?}");
    }

    #[test]
    fn a_crash_after_any_step_is_finished_by_the_next_pass(
        start in any_host(), first in any_desired(), then in any_desired(), cut in 0..30usize,
    ) {
        let mut host = start;
        let plan = host.plan(&first);
        host.apply(&first, &plan, usize::MAX);
        let plan = host.plan(&then);
        host.apply(&then, &plan, cut);
        let plan = host.plan(&then);
        prop_assert_eq!(plan.drift_count(), 0, "unfinished work is not drift: {:#?}", plan);
        host.apply(&then, &plan, usize::MAX);
        let last = host.plan(&then);
        prop_assert!(last.is_empty() && last.bookkeeping.is_empty(), "{last:#?}");
        for (name, want) in &then.units {
            prop_assert_eq!(host.ledger.units[name].inputs, Some(then.inputs(want)));
            let digests = |list: &[Found]| list.iter().map(before).collect::<Vec<_>>();
            prop_assert_eq!(digests(&host.running[name]), digests(&host.read_by(want)), "{} runs with old input", name);
        }
    }

    #[test]
    fn what_leaves_is_as_it_was_before(start in any_host(), desired in any_desired()) {
        let mut host = start.clone();
        for wanted in [&desired, &Desired::default()] {
            let plan = host.plan(wanted);
            host.apply(wanted, &plan, usize::MAX);
        }
        let contents = |host: &Host| -> BTreeMap<HostPath, _> {
            host.files.iter().map(|(at, found)| (at.clone(), before(found))).collect()
        };
        prop_assert_eq!(contents(&host), contents(&start));
        prop_assert!(host.ledger.entries.is_empty() && host.ledger.units.is_empty());
        prop_assert!(host.units.values().all(|unit| unit.active != "active"));
    }
}

fn one_service() -> (Host, Desired) {
    let mut desired = Desired::default();
    desired.entries.insert(path("/etc/systemd/system/a.service"), entry("unit", Role::Unit(unit("a.service"))));
    desired.entries.insert(path("/etc/conf"), entry("conf", Role::Plain));
    desired.units.insert(unit("a.service"), service("/etc/systemd/system/a.service", &["/etc/conf"]));
    let mut host = Host::default();
    let plan = host.plan(&desired);
    host.apply(&desired, &plan, usize::MAX);
    (host, desired)
}

#[test]
fn a_job_that_its_timer_starts_is_recorded_and_then_left_alone() {
    let mut desired = Desired::default();
    desired.entries.insert(path("/etc/systemd/system/a.service"), entry("unit", Role::Unit(unit("a.service"))));
    let mut job = service("/etc/systemd/system/a.service", &[]);
    (job.enabled, job.active, job.oneshot) = (None, None, true);
    desired.units.insert(unit("a.service"), job);
    let mut host = Host::default();
    let plan = host.plan(&desired);
    host.apply(&desired, &plan, usize::MAX);
    assert!(host.units["a.service"].active.is_empty());
    let again = host.plan(&desired);
    assert!(again.is_empty() && again.bookkeeping.is_empty(), "{again:#?}");
}

fn verbs(plan: &Plan) -> Vec<(String, Verb, Cause)> {
    plan.changes.iter().map(|change| (change.resource.clone(), change.verb, change.cause)).collect()
}

#[test]
fn an_edited_file_is_drift_and_its_reader_is_restarted() {
    let (mut host, desired) = one_service();
    host.file("/etc/conf", "edited", 0o644);
    let expected = vec![
        ("file /etc/conf".to_owned(), Verb::Update, Cause::Drift),
        ("unit a.service".to_owned(), Verb::Restart, Cause::Follows),
    ];
    assert_eq!(verbs(&host.plan(&desired)), expected);
}

#[test]
fn a_mode_put_right_restarts_nobody() {
    let (mut host, desired) = one_service();
    host.file("/etc/conf", "conf", 0o666);
    assert_eq!(verbs(&host.plan(&desired)), vec![("file /etc/conf".to_owned(), Verb::Update, Cause::Drift)]);
}

#[test]
fn an_edit_and_an_update_at_once_are_told_as_both() {
    let (mut host, mut desired) = one_service();
    host.file("/etc/conf", "edited", 0o644);
    desired.entries.insert(path("/etc/conf"), entry("new", Role::Plain));
    assert_eq!(host.plan(&desired).changes[0].cause, Cause::UpdateAndDrift);
}

#[test]
fn a_stopped_unit_is_drift() {
    let (mut host, desired) = one_service();
    host.found(&unit("a.service")).active = "inactive".to_owned();
    assert_eq!(verbs(&host.plan(&desired)), vec![("unit a.service".to_owned(), Verb::Start, Cause::Drift)]);
}

#[test]
fn an_edited_file_that_leaves_is_removed_as_update_and_drift() {
    let (mut host, mut desired) = one_service();
    host.file("/etc/conf", "edited", 0o644);
    desired.entries.remove("/etc/conf");
    desired.units.get_mut("a.service").unwrap().uses.clear();
    let plan = host.plan(&desired);
    assert_eq!(plan.changes[0].verb, Verb::Remove);
    assert_eq!(plan.changes[0].cause, Cause::UpdateAndDrift);
}

#[test]
fn a_directory_in_the_way_is_a_problem_and_the_rest_goes_on() {
    let (mut host, mut desired) = one_service();
    let meta = host.meta(0o755, 0);
    host.files.insert(path("/etc/dir"), Found::Directory { meta, mount: false });
    desired.entries.insert(path("/etc/dir"), entry("x", Role::Plain));
    desired.entries.insert(path("/etc/other"), entry("x", Role::Plain));
    let plan = host.plan(&desired);
    assert_eq!(plan.problems.len(), 1);
    assert!(plan.problems[0].message.contains("a directory stands"), "{}", plan.problems[0].message);
    assert_eq!(plan.steps.len(), 1);
}

#[test]
fn an_unknown_user_is_a_problem_unless_sysusers_may_bring_it() {
    let mut desired = Desired::default();
    let mut file = entry("x", Role::Plain);
    file.state.owner = "app".parse().unwrap();
    desired.entries.insert(path("/etc/x"), file);
    let mut observed = Host::default().observe();
    observed.users.insert("app".to_owned(), None);
    let refused = plan(&desired, &observed, &Ledger::default());
    assert!(refused.problems[0].message.contains("user app does not exist"), "{:?}", refused.problems);
    desired.entries.insert(path("/etc/sysusers.d/app.conf"), entry("u app -", Role::Sysusers));
    let planned = plan(&desired, &observed, &Ledger::default());
    assert!(planned.problems.is_empty());
    let kinds: Vec<String> = planned.steps.iter().map(|step| step.action.resource()).collect();
    assert_eq!(kinds, ["file /etc/sysusers.d/app.conf", "sysusers", "file /etc/x"]);
}

#[test]
fn a_unit_that_leaves_is_stopped_and_disabled_before_its_file_goes() {
    let (host, _) = one_service();
    let plan = host.plan(&Desired::default());
    let order: Vec<String> =
        plan.steps.iter().map(|step| serde_json::to_value(&step.action).unwrap()["do"].as_str().unwrap().to_owned()).collect();
    assert_eq!(order, ["stop", "disable", "remove", "remove", "daemon-reload", "forget"]);
}

#[test]
fn a_drop_in_that_leaves_is_gone_before_its_unit_is_restarted() {
    let (mut host, mut desired) = one_service();
    let drop_in = path("/etc/systemd/system/a.service.d/x.conf");
    desired.entries.insert(drop_in.clone(), entry("drop-in", Role::Unit(unit("a.service"))));
    let service = desired.units.get_mut("a.service").unwrap();
    service.definition.insert(drop_in.clone());
    service.on_change = OnChange::Reload;
    let plan = host.plan(&desired);
    host.apply(&desired, &plan, usize::MAX);
    host.found(&unit("a.service")).can_reload = true;
    desired.entries.remove(&drop_in);
    desired.units.get_mut("a.service").unwrap().definition.remove(&drop_in);
    let plan = host.plan(&desired);
    let words = |step: &Step| serde_json::to_value(&step.action).unwrap()["do"].as_str().unwrap().to_owned();
    assert_eq!(plan.steps.iter().map(words).collect::<Vec<_>>(), ["remove", "daemon-reload", "enable", "restart"]);
    assert_eq!(plan.prune_from, 4);
}

#[test]
fn what_only_takes_away_is_the_end_of_a_plan() {
    let (mut host, desired) = one_service();
    let mut next = Desired::default();
    next.entries.insert(path("/etc/new"), entry("new", Role::Plain));
    let plan = host.plan(&next);
    let first = plan.without_prune();
    let resources: Vec<String> = first.steps.iter().map(|step| step.action.resource()).collect();
    assert_eq!(resources, ["file /etc/new", "unit a.service"]);
    host.apply(&next, &first, usize::MAX);
    assert!(desired.entries.keys().all(|at| host.files.contains_key(at)), "nothing is removed yet");
    let rest = host.plan(&next);
    assert_eq!(rest.prune_from, 0, "{rest:#?}");
    host.apply(&next, &rest, usize::MAX);
    assert!(host.plan(&next).is_empty() && host.files.len() == 1);
}

#[test]
fn a_distribution_unit_gets_back_what_it_was() {
    let mut desired = Desired::default();
    let mut chrony = service("/etc/x", &[]);
    chrony.definition.clear();
    (chrony.enabled, chrony.active) = (Some(Enablement::Masked), None);
    desired.units.insert(unit("chrony.service"), chrony);
    let mut host = Host::default();
    let found = host.found(&unit("chrony.service"));
    (found.load, found.active, found.file_state) = ("loaded".into(), "active".into(), "enabled".into());
    let plan = host.plan(&desired);
    host.apply(&desired, &plan, usize::MAX);
    assert_eq!(host.units["chrony.service"].file_state, "masked");
    let plan = host.plan(&Desired::default());
    let verbs: Vec<Verb> = plan.changes.iter().map(|change| change.verb).collect();
    assert_eq!(verbs, [Verb::Unmask, Verb::Enable, Verb::Start]);
}

#[test]
fn the_text_shows_the_diff_but_nothing_private() {
    struct Fixed;
    impl Texts for Fixed {
        fn texts(&self, path: &str) -> Option<(String, String)> {
            (path == "/etc/conf").then(|| ("a\nb\n".to_owned(), "a\nc\x1b[2J\n".to_owned()))
        }
    }
    let (mut host, desired) = one_service();
    host.file("/etc/conf", "edited", 0o644);
    let text = show(&host.plan(&desired), &Fixed, false);
    assert!(text.contains("~ file /etc/conf  update (drift)"), "{text}");
    assert!(text.contains("    -b\n    +c\u{fffd}[2J"), "{text}");
    assert!(text.ends_with("2 to change (1 of them drift).\n"), "{text}");
}
