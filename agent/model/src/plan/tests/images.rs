//! Images that are gone, and containers that are of another one than their name means.

use super::host::{Host, origin, path, service, unit};
use super::{entry, verbs};
use crate::desired::{Desired, OnChange, Role};
use crate::drift::{DriftPolicy, LeftAlone};
use crate::plan::{Action, Cause, Change, Plan, Verb};

const IMAGE: &str = "r/app:1";
const FILE: &str = "/etc/systemd/system/a.service";

/// A container that runs.
fn one_container() -> (Host, Desired) {
    let mut desired = Desired::default();
    desired.entries.insert(path(FILE), entry("container", Role::Unit(unit("a.service"))));
    let mut service = service(FILE, &[]);
    service.image = Some(IMAGE.to_owned());
    desired.units.insert(unit("a.service"), service);
    desired.images.insert(IMAGE.to_owned(), origin("c"));
    let mut host = Host::default();
    let first = host.plan(&desired);
    assert_eq!(verbs(&first)[0], (format!("image {IMAGE}"), Verb::Pull, Cause::Update), "the first need");
    host.converge(&desired);
    host.had = host.images.clone();
    (host, desired)
}

fn with_policy(desired: &Desired, drift: DriftPolicy) -> Desired {
    let mut desired = desired.clone();
    desired.units.get_mut("a.service").unwrap().drift = drift;
    desired
}

fn told(plan: &Plan) -> Vec<(&str, Cause, Option<&LeftAlone>)> {
    plan.changes.iter().map(|change| (change.resource.as_str(), change.cause, change.left_alone.as_ref())).collect()
}

fn differs(change: &Change) -> (&str, &str, &str) {
    let one = &change.differs[0];
    (&one.property, &one.found, &one.wanted)
}

#[test]
fn an_image_that_was_there_is_drift_and_one_that_was_not_is_an_update() {
    let (mut host, desired) = one_container();
    host.images.clear();
    let plan = host.plan(&desired);
    assert_eq!(told(&plan), [("image r/app:1", Cause::Drift, None)]);
    assert_eq!(differs(&plan.changes[0]), ("missing", "not in local storage", "present"));
    assert!(plan.steps.len() == 1 && plan.steps[0].cause == Cause::Drift, "{plan:#?}");
    host.had.clear();
    assert_eq!(told(&host.plan(&desired)), [("image r/app:1", Cause::Update, None)]);
    host.converge(&desired);
    assert!(host.plan(&desired).is_empty(), "what runs is what was pulled");
}

#[test]
fn a_missing_image_is_treated_as_those_who_need_it_are() {
    let (mut host, desired) = one_container();
    host.images.clear();
    for (policy, left) in [(DriftPolicy::Report, Some(LeftAlone::Policy)), (DriftPolicy::Enforce, None)] {
        let plan = host.plan(&with_policy(&desired, policy));
        assert_eq!(told(&plan), [("image r/app:1", Cause::Drift, left.as_ref())]);
        assert_eq!(plan.steps.is_empty(), left.is_some());
    }
    assert!(host.plan(&with_policy(&desired, DriftPolicy::Ignore)).is_empty());
    // The strictest of two.
    let mut two = with_policy(&desired, DriftPolicy::Ignore);
    let mut other = service("/etc/systemd/system/b.service", &[]);
    (other.enabled, other.active, other.image, other.drift) = (None, None, Some(IMAGE.to_owned()), DriftPolicy::Report);
    two.units.insert(unit("b.service"), other);
    assert_eq!(told(&host.plan(&two))[0], ("image r/app:1", Cause::Drift, Some(&LeftAlone::Policy)));
    // Pinned itself (or fought over), or with all that needs it.
    for pin in ["image r/app:1", "unit a.service"] {
        host.pinned = [pin.to_owned()].into();
        let plan = host.plan(&desired);
        assert_eq!(told(&plan), [("image r/app:1", Cause::Drift, Some(&LeftAlone::Pinned))], "{pin}");
        assert!(plan.steps.is_empty(), "{plan:#?}");
    }
}

#[test]
fn what_is_left_alone_is_pulled_all_the_same_before_something_is_stopped_for_it() {
    let (mut host, desired) = one_container();
    for (policy, cause) in [(DriftPolicy::Report, Cause::UpdateAndDrift), (DriftPolicy::Ignore, Cause::Update)] {
        let mut desired = with_policy(&desired, policy);
        host.converge(&desired);
        host.images.clear();
        desired.entries.insert(path(FILE), entry(&format!("container {policy:?}"), Role::Unit(unit("a.service"))));
        let plan = host.plan(&desired);
        assert_eq!(told(&plan)[0], ("image r/app:1", cause, None));
        assert!(matches!(plan.steps[0].action, Action::Pull { .. }), "{plan:#?}");
        host.converge(&desired);
        assert!(host.plan(&desired).is_empty());
    }
}

#[test]
fn a_container_of_another_image_is_made_anew_once() {
    let (mut host, desired) = one_container();
    host.made_of.get_mut("a.service").unwrap().1 = "sha256:0123456789abcdef".to_owned();
    host.tags.insert(IMAGE.to_owned(), "fedcba9876543210".to_owned());
    let plan = host.plan(&desired);
    assert_eq!(verbs(&plan), [("unit a.service".to_owned(), Verb::Restart, Cause::Drift)]);
    assert_eq!(differs(&plan.changes[0]), ("image", "0123456789ab", "fedcba987654"));
    let mut repaired = host.clone();
    repaired.converge(&desired);
    assert_eq!(repaired.made_of["a.service"].1, "fedcba9876543210");
    let again = repaired.plan(&desired);
    assert!(again.is_empty() && again.bookkeeping.is_empty(), "{again:#?}");

    let plan = host.plan(&with_policy(&desired, DriftPolicy::Report));
    assert_eq!(told(&plan), [("unit a.service", Cause::Drift, Some(&LeftAlone::Policy))]);
    assert!(plan.steps.is_empty(), "{plan:#?}");
    assert!(host.plan(&with_policy(&desired, DriftPolicy::Ignore)).is_empty());
    let mut chosen = desired.clone();
    chosen.units.get_mut("a.service").unwrap().on_change = OnChange::Nothing;
    let plan = host.plan(&chosen);
    assert_eq!(told(&plan), [("unit a.service", Cause::Drift, Some(&LeftAlone::Policy))], "who chooses when it is restarted");
    assert!(plan.steps.is_empty(), "{plan:#?}");
    host.pinned = ["unit a.service".to_owned()].into();
    let plan = host.plan(&desired);
    assert_eq!(told(&plan), [("unit a.service", Cause::Drift, Some(&LeftAlone::Pinned))]);
    assert!(plan.steps.is_empty(), "{plan:#?}");
}

#[test]
fn one_restart_is_enough_and_what_does_not_run_has_no_other_image() {
    let (mut host, mut desired) = one_container();
    host.tags.insert(IMAGE.to_owned(), "another".to_owned());
    let mut stopped = host.clone();
    stopped.found(&unit("a.service")).active = "inactive".to_owned();
    assert_eq!(verbs(&stopped.plan(&desired)), [("unit a.service".to_owned(), Verb::Start, Cause::Drift)]);
    desired.entries.insert(path(FILE), entry("container 2", Role::Unit(unit("a.service"))));
    let expected =
        [(format!("file {FILE}"), Verb::Update, Cause::Update), ("unit a.service".to_owned(), Verb::Restart, Cause::Follows)];
    assert_eq!(verbs(&host.plan(&desired)), expected);
    host.converge(&desired);
    assert!(host.plan(&desired).is_empty());
}

#[test]
fn what_a_unit_runs_is_no_part_of_what_a_state_is_known_by() {
    let (_, desired) = one_container();
    let mut older = desired.clone();
    let unit_of = older.units.get_mut("a.service").unwrap();
    (unit_of.image, unit_of.generated) = (None, true);
    assert_eq!(older.image_of(&unit("a.service")), Some(IMAGE), "an older trimtab did not write it down");
    let mut newer = older.clone();
    newer.units.get_mut("a.service").unwrap().image = Some(IMAGE.to_owned());
    assert_eq!(older.effect(), newer.effect());
}
