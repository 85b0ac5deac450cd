//! Policies, pins and exclusive directories, on a host in memory: what is only told is never touched, what is ignored is never told.

use proptest::prelude::*;

use super::host::{Host, entry, path, unit};
use super::properties::{any_desired, any_host};
use super::{one_service, verbs};
use crate::desired::{Desired, Role};
use crate::drift::{DriftPolicy, Exclusive, Extra, LeftAlone};
use crate::names::HostPath;
use crate::observed::{Found, Purge};
use crate::plan::{Action, Cause, Plan, Step, Verb, purges};

const CONF: &str = "/etc/conf";

fn left_alone(plan: &Plan) -> Vec<(&str, Option<&LeftAlone>)> {
    plan.changes.iter().map(|change| (change.resource.as_str(), change.left_alone.as_ref())).collect()
}

fn with_policy(desired: &Desired, policy: DriftPolicy) -> Desired {
    let mut desired = desired.clone();
    desired.entries.values_mut().for_each(|entry| entry.drift = policy);
    desired.units.values_mut().for_each(|unit| unit.drift = policy);
    desired
}

fn content(host: &Host, at: &str) -> Option<Found> {
    host.files.get(&path(at)).cloned()
}

#[test]
fn reported_drift_is_told_and_its_reader_is_not_restarted_and_an_update_overwrites_it() {
    let (mut host, desired) = one_service();
    let mut desired = with_policy(&desired, DriftPolicy::Report);
    host.converge(&desired);
    host.file(CONF, "edited", 0o644);
    let plan = host.plan(&desired);
    assert_eq!(left_alone(&plan), [("file /etc/conf", Some(&LeftAlone::Policy))]);
    assert!(plan.steps.is_empty() && plan.changes[0].cause == Cause::Drift, "{plan:#?}");
    // A unit that starts for another reason does not count as having read the wanted one, nor is it restarted for that later.
    host.found(&unit("a.service")).active = "inactive".to_owned();
    let plan = host.plan(&desired);
    assert_eq!(left_alone(&plan)[1], ("unit a.service", Some(&LeftAlone::Policy)));
    assert!(plan.steps.is_empty(), "{plan:#?}");
    host.found(&unit("a.service")).active = "active".to_owned();

    let drift = desired.entries[CONF].drift;
    desired.entries.insert(path(CONF), crate::desired::Entry { drift, ..entry("new", Role::Plain) });
    let plan = host.plan(&desired);
    assert_eq!((plan.changes[0].cause, &plan.changes[0].left_alone), (Cause::UpdateAndDrift, &None));
    host.converge(&desired);
    assert!(host.plan(&desired).is_empty());
}

#[test]
fn ignored_drift_is_not_told_and_an_update_of_it_is_an_update() {
    let (mut host, desired) = one_service();
    let mut desired = with_policy(&desired, DriftPolicy::Ignore);
    host.converge(&desired);
    host.file(CONF, "edited", 0o600);
    host.found(&unit("a.service")).active = "inactive".to_owned();
    let plan = host.plan(&desired);
    assert!(plan.is_empty() && plan.bookkeeping.is_empty(), "{plan:#?}");
    host.found(&unit("a.service")).active = "active".to_owned();
    desired.entries.get_mut(CONF).unwrap().state = entry("new", Role::Plain).state;
    let plan = host.plan(&desired);
    assert_eq!(plan.changes[0].cause, Cause::Update);
    let put = plan.steps.iter().find(|step| matches!(step.action, Action::Put { .. })).unwrap();
    assert_eq!(put.cause, Cause::UpdateAndDrift, "so that what stood there is kept");
}

#[test]
fn what_is_created_once_is_made_again_when_it_is_missing_and_else_never_touched() {
    let mut desired = Desired::default();
    desired.entries.insert(path(CONF), entry("first", Role::Plain));
    let mut desired = with_policy(&desired, DriftPolicy::CreateOnce);
    let mut host = Host::default();
    host.converge(&desired);
    assert!(host.plan(&desired).is_empty() && content(&host, CONF).is_some());
    host.file(CONF, "the database's own", 0o600);
    desired.entries.get_mut(CONF).unwrap().state = entry("second", Role::Plain).state;
    let plan = host.plan(&desired);
    assert!(plan.is_empty() && plan.bookkeeping.is_empty(), "{plan:#?}");
    host.files.remove(CONF);
    assert_eq!(verbs(&host.plan(&desired)), [("file /etc/conf".to_owned(), Verb::Create, Cause::UpdateAndDrift)]);
    host.converge(&desired);
    assert!(host.plan(&desired).is_empty());
    // It leaves as what trimtab wrote, and stays as what somebody else wrote.
    let mut other = host.clone();
    other.converge(&Desired::default());
    assert_eq!(content(&other, CONF), None);
    host.file(CONF, "the database's own", 0o600);
    let plan = host.plan(&Desired::default());
    assert!(plan.steps.is_empty() && plan.changes.is_empty(), "{plan:#?}");
    host.converge(&Desired::default());
    assert!(content(&host, CONF).is_some() && host.ledger.entries.is_empty());
    // One that somebody made before is theirs from the start, and never ours to give back.
    host.converge(&desired);
    assert!(host.plan(&desired).is_empty() && host.ledger.entries.is_empty());
}

#[test]
fn a_directory_of_what_was_left_behind_is_forgotten_and_not_failed_over() {
    let mut desired = Desired::default();
    let mut folder = entry("", Role::Plain);
    folder.state.node = crate::desired::Node::Directory;
    desired.entries.insert(path("/etc/dir"), folder);
    desired.entries.insert(path("/etc/dir/db"), entry("first", Role::Plain));
    desired.entries.get_mut("/etc/dir/db").unwrap().drift = DriftPolicy::CreateOnce;
    let mut host = Host::default();
    let meta = host.meta(0o644, 0);
    host.files.insert(path("/etc/dir"), Found::Directory { meta, mount: false });
    host.file("/etc/dir/db", "first", 0o644);
    for (at, entry) in &desired.entries {
        let owned = crate::ledger::Owned {
            state: entry.state.clone(),
            role: Role::Plain,
            before: crate::ledger::Before::Absent,
            xattrs: None,
            pending: false,
            drift: entry.drift,
            origin: entry.origin.clone(),
        };
        host.ledger.entries.insert(at.clone(), owned);
    }
    assert_eq!(host.plan(&Desired::default()).steps.len(), 2);
    host.file("/etc/dir/db", "theirs", 0o644);
    let plan = host.plan(&Desired::default());
    assert!(plan.steps.is_empty() && plan.changes.is_empty(), "{plan:#?}");
    assert_eq!(plan.bookkeeping.len(), 2);
    // With a pin it stays managed.
    host.pinned.insert("file /etc/dir/db".to_owned());
    let plan = host.plan(&Desired::default());
    let pinned = Some(&LeftAlone::Pinned);
    assert_eq!(left_alone(&plan), [("file /etc/dir", pinned), ("file /etc/dir/db", pinned)]);
    assert!(plan.steps.is_empty() && plan.bookkeeping.is_empty(), "{plan:#?}");
}

#[test]
fn a_pinned_file_is_told_and_its_reader_is_restarted_when_it_is_free_again() {
    let (mut host, mut desired) = one_service();
    host.pinned.insert("file /etc/conf".to_owned());
    desired.entries.insert(path(CONF), entry("new", Role::Plain));
    for _ in 0..2 {
        let plan = host.plan(&desired);
        assert_eq!(left_alone(&plan), [("file /etc/conf", Some(&LeftAlone::Pinned))]);
        assert!(plan.steps.is_empty() && plan.changes[0].cause == Cause::Update, "{plan:#?}");
        host.apply(&desired, &plan).unwrap();
    }
    // Started for another reason meanwhile, it has read the old one.
    host.found(&unit("a.service")).active = "inactive".to_owned();
    host.converge(&desired);
    assert_eq!(host.units["a.service"].active, "active");
    host.pinned.clear();
    let plan = host.plan(&desired);
    assert_eq!(verbs(&plan)[1], ("unit a.service".to_owned(), Verb::Restart, Cause::Follows));
    host.converge(&desired);
    super::properties::check_converged(&host, &desired).unwrap();
}

#[test]
fn a_pinned_unit_keeps_its_state_its_definition_and_what_carries_it() {
    let (mut host, mut desired) = one_service();
    let net = unit("b.service");
    desired.units.insert(net.clone(), super::host::service("/etc/systemd/system/b.service", &["/etc/conf"]));
    desired.entries.insert(path("/etc/systemd/system/b.service"), entry("net", Role::Unit(net.clone())));
    desired.units.get_mut("a.service").unwrap().after.insert(net);
    host.converge(&desired);
    host.pinned.insert("unit a.service".to_owned());
    host.found(&unit("a.service")).active = "inactive".to_owned();
    host.file(CONF, "edited", 0o644);
    let plan = host.plan(&desired);
    let pinned = Some(&LeftAlone::Pinned);
    assert_eq!(left_alone(&plan), [("file /etc/conf", None), ("unit a.service", pinned), ("unit b.service", pinned)]);
    let steps: Vec<String> = plan.steps.iter().map(|step: &Step| step.action.resource()).collect();
    assert_eq!(steps, ["file /etc/conf"], "a restart of what carries it would take it down");
    // All of it leaves: the unit's own file stays for as long as the unit does.
    let plan = host.plan(&Desired::default());
    let steps: Vec<String> = plan.steps.iter().map(|step: &Step| step.action.resource()).collect();
    assert!(!steps.contains(&"file /etc/systemd/system/a.service".to_owned()), "{steps:?}");
    assert!(!steps.contains(&"unit a.service".to_owned()) && steps.contains(&"unit b.service".to_owned()), "{steps:?}");
}

#[test]
fn a_masked_unit_that_is_only_reported_is_not_restarted() {
    let (mut host, desired) = one_service();
    let mut desired = with_policy(&desired, DriftPolicy::Report);
    host.converge(&desired);
    let found = host.found(&unit("a.service"));
    (found.load, found.file_state) = ("masked".to_owned(), "masked".to_owned());
    desired.entries.get_mut(CONF).unwrap().state = entry("new", Role::Plain).state;
    let plan = host.plan(&desired);
    assert!(plan.steps.iter().all(|step| matches!(step.action, Action::Put { .. } | Action::DaemonReload)), "{plan:#?}");
}

fn exclusive(extra: Extra) -> (Host, Desired) {
    let mut desired = Desired::default();
    for at in ["/etc/d/one", "/etc/d/sub/two", "/etc/d-e"] {
        desired.entries.insert(path(at), entry(at, Role::Plain));
    }
    let origin = desired.entries["/etc/d/one"].origin.clone();
    desired.exclusive.insert(path("/etc/d"), Exclusive { extra, except: vec!["*.bak".to_owned()], origin });
    let mut host = Host::default();
    host.converge(&desired);
    for at in ["/etc/d/sub", "/etc/d/a.bak", "/etc/d/theirs", "/etc/d/su"] {
        host.file(at, "x", 0o644);
    }
    (host, desired)
}

#[test]
fn what_nobody_declared_is_told_or_purged_and_nothing_else() {
    let (mut host, desired) = exclusive(Extra::Report);
    let told = [("file /etc/d/su", Some(&LeftAlone::Policy)), ("file /etc/d/theirs", Some(&LeftAlone::Policy))];
    let plan = host.plan(&desired);
    assert_eq!(left_alone(&plan), told);
    assert!(plan.steps.is_empty() && plan.changes.iter().all(|change| change.differs[0].property == "extra"));

    let (_, desired) = exclusive(Extra::Purge);
    host.pinned.insert("file /etc/d/su".to_owned());
    let plan = host.plan(&desired);
    assert_eq!(left_alone(&plan), [("file /etc/d/su", Some(&LeftAlone::Pinned)), ("file /etc/d/theirs", None)]);
    host.converge(&desired);
    assert!(!host.files.contains_key("/etc/d/theirs"));
    assert_eq!(host.files.keys().filter(|at| at.is_within("/etc/d")).count(), 5);
    host.pinned = ["file /etc/d".to_owned()].into();
    host.file("/etc/d/more", "x", 0o644);
    assert!(host.plan(&desired).steps.is_empty(), "a pinned directory keeps what is in it");
}

#[test]
fn what_reads_a_purged_directory_is_restarted_and_a_try_takes_nothing_away() {
    let (mut host, mut desired) = exclusive(Extra::Purge);
    let mut reader = super::host::service("/etc/systemd/system/a.service", &["/etc/d"]);
    reader.definition.clear();
    desired.units.insert(unit("a.service"), reader);
    let found = host.found(&unit("a.service"));
    (found.load, found.active, found.file_state) = ("loaded".into(), "active".into(), "enabled".into());
    let words: Vec<String> = host.plan(&desired).steps.iter().map(super::word).collect();
    assert_eq!(words, ["purge", "purge", "restart"]);
    let mut observed = host.observe();
    observed.purge = Purge::Later;
    let strays = observed.strays.entry(path("/etc/d")).or_default();
    let identity = crate::observed::Identity { dev: 1, ino: 9, ctime: 9 };
    for (at, kind) in [
        ("/etc/d/file", crate::observed::StrayKind::File(1)),
        ("/etc/d/huge", crate::observed::StrayKind::File(5 << 20)),
        ("/etc/d/key", crate::observed::StrayKind::Private),
        ("/etc/d/folder", crate::observed::StrayKind::Directory),
        ("/etc/d/fifo", crate::observed::StrayKind::Other),
    ] {
        strays.found.insert(path(at), crate::observed::Stray { kind, identity });
    }
    strays.more = 7;
    let count = |plan: &Plan| plan.steps.iter().filter(|step| matches!(step.action, Action::Purge { .. })).count();
    let plan = crate::plan::plan(&desired, &observed, &host.ledger);
    assert_eq!((count(&plan), purges(&desired, &observed)), (0, 8), "the guard counts them before");
    observed.purge = Purge::Now;
    let plan = crate::plan::plan(&desired, &observed, &host.ledger);
    let free: Vec<&str> =
        left_alone(&plan).into_iter().filter(|(at, why)| at.contains("/d/") && why.is_none()).map(|(at, _)| at).collect();
    assert_eq!((count(&plan), free), (1, vec!["file /etc/d/file"]), "what is not kept is not taken away");
    assert!(plan.changes.iter().any(|change| change.resource == "file /etc/d" && change.differs[0].found.starts_with("7 more")));
    let meta = host.meta(0o755, 0);
    observed.entries.insert(path("/etc/d"), Found::Directory { meta, mount: true });
    let plan = crate::plan::plan(&desired, &observed, &host.ledger);
    assert_eq!((count(&plan), plan.problems.len()), (0, 1));
}

fn any_policy() -> impl Strategy<Value = DriftPolicy> {
    prop_oneof![Just(DriftPolicy::Enforce), Just(DriftPolicy::Report), Just(DriftPolicy::Ignore), Just(DriftPolicy::CreateOnce)]
}

/// Some state with a policy for each path and unit, in the order of their names.
fn any_policed() -> impl Strategy<Value = Desired> {
    (any_desired(), prop::collection::vec(any_policy(), 8)).prop_map(|(mut desired, policies)| {
        let mut next = policies.into_iter().cycle();
        desired.entries.values_mut().for_each(|entry| entry.drift = next.next().unwrap_or_default());
        for unit in desired.units.values_mut() {
            unit.drift =
                Some(next.next().unwrap_or_default()).filter(|policy| *policy != DriftPolicy::CreateOnce).unwrap_or_default();
        }
        desired
    })
}

/// Paths that somebody edits, takes away or stops.
fn any_harm() -> impl Strategy<Value = Vec<(bool, u8)>> {
    prop::collection::vec((any::<bool>(), 0..8u8), 0..5)
}

fn harm(host: &mut Host, harm: &[(bool, u8)]) {
    for (removes, which) in harm {
        let at = host.files.keys().nth(usize::from(*which) % host.files.len().max(1)).cloned();
        match at {
            Some(at) if *removes => drop(host.files.remove(&at)),
            Some(at) => host.file(at.as_str(), "somebody's", 0o600),
            None => {}
        }
        if *which == 7 {
            host.units.values_mut().for_each(|unit| unit.active = "inactive".to_owned());
        }
    }
}

fn policy_of(desired: &Desired, resource: &str) -> DriftPolicy {
    let (kind, name) = resource.split_once(' ').unwrap_or_default();
    let policy = match kind {
        "file" => desired.entries.get(name).map(|entry| entry.drift),
        _ => desired.units.get(name).map(|unit| unit.drift),
    };
    policy.unwrap_or_default()
}

proptest! {
    #[test]
    fn policies_hold_and_a_second_plan_has_nothing_to_do(
        start in any_host(), first in any_policed(), then in any_policed(), harms in any_harm(), pins in any::<[bool; 9]>(), cut in 0..40usize,
    ) {
        let mut host = start;
        host.converge(&first);
        harm(&mut host, &harms);
        let names = first.entries.keys().map(|at| format!("file {at}")).chain(first.units.keys().map(|unit| format!("unit {unit}")));
        host.pinned = names.zip(pins).filter(|(_, pinned)| *pinned).map(|(name, _)| name).collect();
        for desired in [&first, &then] {
            let before = host.clone();
            let plan = host.plan(desired);
            for change in &plan.changes {
                let policy = policy_of(desired, &change.resource);
                let drift = matches!(change.cause, Cause::Drift | Cause::UpdateAndDrift);
                let pinned = change.left_alone == Some(LeftAlone::Pinned);
                prop_assert!(pinned || !(drift && policy == DriftPolicy::Ignore), "an ignored drift is told: {:#?}", change);
                let only_told = change.cause == Cause::Drift && policy == DriftPolicy::Report;
                prop_assert!(pinned || !only_told || change.left_alone == Some(LeftAlone::Policy), "{:#?}", change);
                let acts = |step: &Step| step.action.resource() == change.resource;
                let left_whole = change.left_alone.is_some() && change.resource.starts_with("file ");
                prop_assert!(!left_whole || !plan.steps.iter().any(acts), "told as left alone, and touched: {:#?}", change);
            }
            for step in &plan.steps {
                prop_assert!(!host.pinned.contains(&step.action.resource()), "a pinned resource is touched: {:?}", step);
                if let Action::Put { path, .. } = &step.action {
                    let once = desired.entries[path].drift == DriftPolicy::CreateOnce;
                    prop_assert!(!once || !before.files.contains_key(path), "{} is made again", path);
                }
            }
            // Cut off anywhere, the next pass comes to the same end.
            let mut killed = Host { fuel: Some(cut), ..host.clone() };
            let _ = killed.apply(desired, &plan);
            killed.restart(false);
            for host in [&mut host, &mut killed] {
                for _ in 0..2 {
                    let plan = host.plan(desired);
                    host.apply(desired, &plan).unwrap();
                }
                let again = host.plan(desired);
                prop_assert!(again.steps.is_empty() && again.bookkeeping.is_empty(), "{:#?}", again);
            }
            let same = |at: &HostPath| before.files.get(at) == host.files.get(at);
            for at in before.pinned.iter().filter_map(|pin| pin.strip_prefix("file ")) {
                prop_assert!(same(&path(at)), "{} is pinned and touched", at);
            }
        }
    }

    #[test]
    fn a_policy_taken_back_leaves_no_trace(
        start in any_host(), policed in any_policed(), harms in any_harm(), pins in any::<[bool; 9]>(),
    ) {
        let mut host = start;
        host.converge(&policed);
        harm(&mut host, &harms);
        let names = policed.entries.keys().map(|at| format!("file {at}")).chain(policed.units.keys().map(|unit| format!("unit {unit}")));
        host.pinned = names.zip(pins).filter(|(_, pinned)| *pinned).map(|(name, _)| name).collect();
        host.converge(&policed);
        host.pinned.clear();
        let plain = with_policy(&policed, DriftPolicy::Enforce);
        host.converge(&plain);
        super::properties::check_converged(&host, &plain)?;
    }
}
