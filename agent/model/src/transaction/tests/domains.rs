//! What falls together, and states put together of two.

use std::collections::BTreeSet;

use super::{components, digest};
use crate::desired::{Confirm, Desired, Enablement, Node, Role};
use crate::health::{HealthCheck, Probe, Timing};
use crate::hook::{Hook, HookPhase};
use crate::plan::Plan;
use crate::plan::tests::host::{Host, component, entry_of, origin, path, service_of, unit};
use crate::transaction::*;

/// Components and what each needs: `"app: base"`.
fn needs(list: &[&str]) -> Desired {
    let mut desired = Desired::default();
    for line in list {
        let (own, needs) = line.split_once(':').unwrap();
        desired.components.insert(component(own), needs.split_whitespace().map(component).collect());
    }
    desired
}

fn put(desired: &mut Desired, of: &str, at: &str, text: &str) {
    desired.entries.insert(path(at), entry_of(of, text, Role::Plain));
    desired.components.entry(component(of)).or_default();
}

/// A service with its unit file.
fn serve(desired: &mut Desired, of: &str, name: &str, text: &str, uses: &[&str]) {
    let at = format!("/etc/systemd/system/{name}");
    desired.entries.insert(path(&at), entry_of(of, text, Role::Unit(unit(name))));
    desired.units.insert(unit(name), service_of(of, &at, uses));
    desired.components.entry(component(of)).or_default();
}

fn drop_in(desired: &mut Desired, of: &str, for_unit: &str, text: &str) {
    let at = path(&format!("/etc/systemd/system/{for_unit}.d/{of}.conf"));
    desired.entries.insert(at.clone(), entry_of(of, text, Role::Unit(unit(for_unit))));
    for (name, unit_of) in &mut desired.units {
        if name.reads_drop_ins_of(&unit(for_unit)) {
            unit_of.definition.insert(at.clone());
        }
    }
    desired.components.entry(component(of)).or_default();
}

fn check(of: &str) -> HealthCheck {
    let timing = Timing { timeout_ms: 1, interval_ms: 1, settle_ms: 0, retries: 0 };
    HealthCheck { probe: Probe::Unit { unit: unit("a.service") }, timing, origin: origin(of) }
}

fn hook(of: &str) -> Hook {
    Hook { on: HookPhase::PreApply, run: vec!["/bin/true".to_owned()], timeout_ms: 1, user: None, origin: origin(of) }
}

fn check_spread(failed: &[&str], new: &Desired, old: &Desired, expected: &[&str]) {
    assert_eq!(spread(&components(failed), new, old), components(expected), "{failed:?}");
}

#[test]
fn a_failure_reaches_what_needs_it_and_what_it_needs() {
    let state = needs(&["base:", "app: base", "web: app", "other:", "lonely: nothing"]);
    check_spread(&["app"], &state, &state, &["base", "app", "web"]);
    check_spread(&["base"], &state, &state, &["base", "app", "web"]);
    check_spread(&["other"], &state, &state, &["other"]);
    check_spread(&["other", "web"], &state, &state, &["base", "app", "web", "other"]);
    check_spread(&[], &state, &state, &[]);
    let ring = needs(&["one: two", "two: three", "three: one", "other:"]);
    check_spread(&["two"], &ring, &ring, &["one", "two", "three"]);
}

#[test]
fn what_was_needed_before_the_change_counts_as_well() {
    let (new, old) = (needs(&["base:", "app:"]), needs(&["base:", "app: base"]));
    check_spread(&["app"], &new, &old, &["base", "app"]);
    check_spread(&["app"], &old, &new, &["base", "app"]);
    check_spread(&["app"], &new, &new, &["app"]);
}

#[test]
fn an_isolated_component_does_not_take_with_it_what_it_needs_but_what_needs_it() {
    let mut state = needs(&["base:", "app: base", "web: app"]);
    state.isolated.insert(component("app"));
    check_spread(&["app"], &state, &state, &["app", "web"]);
    check_spread(&["base"], &state, &state, &["base", "app", "web"]);
    check_spread(&["web"], &state, &state, &["app", "web"]);
    // What it said before the change is no matter.
    let plain = needs(&["base:", "app: base", "web: app"]);
    check_spread(&["app"], &plain, &state, &["base", "app", "web"]);
}

#[test]
fn a_unit_needs_whose_files_it_reads() {
    let mut state = Desired::default();
    put(&mut state, "base", "/etc/conf", "conf");
    serve(&mut state, "app", "a.service", "a", &["/etc/conf", "/etc/nobodys"]);
    drop_in(&mut state, "web", "a.service", "drop-in");
    serve(&mut state, "other", "b.service", "b", &[]);
    check_spread(&["app"], &state, &state, &["app", "base", "web"]);
    check_spread(&["base"], &state, &state, &["app", "base", "web"]);
    check_spread(&["web"], &state, &state, &["app", "base", "web"]);
    check_spread(&["other"], &state, &state, &["other"]);
    state.isolated.insert(component("app"));
    check_spread(&["app"], &state, &state, &["app"]);
}

fn mixed(new: &Desired, old: &Desired, withheld: &[&str]) -> Desired {
    mix(new, old, &components(withheld)).unwrap()
}

#[test]
fn a_mix_has_each_component_from_its_own_state() {
    let (mut new, mut old) = (Desired::default(), Desired::default());
    for (state, version) in [(&mut new, "new"), (&mut old, "old")] {
        put(state, "base", "/etc/base", version);
        serve(state, "app", "a.service", version, &[]);
        serve(state, "web", "b.service", version, &[]);
        for of in ["app", "web"] {
            state.images.insert(format!("{of}:{version}"), origin(of));
            state
                .health
                .push(HealthCheck { timing: Timing { retries: u32::from(version == "new"), ..check(of).timing }, ..check(of) });
            state.hooks.push(Hook { run: vec![format!("/bin/{version}")], ..hook(of) });
        }
    }
    new.isolated.extend(components(&["app"]));
    old.isolated.extend(components(&["web"]));
    old.confirm.insert(component("web"), Confirm::Always);
    new.confirm.insert(component("app"), Confirm::AfterReboot);
    new.confirm.insert(component("web"), Confirm::AfterReboot);
    new.components.insert(component("web"), components(&["app"]));
    let mix = mixed(&new, &old, &["web"]);
    let is =
        |at: &str, version: &str| assert_eq!(mix.entries[at].state.node, entry_of("x", version, Role::Plain).state.node, "{at}");
    is("/etc/base", "new");
    is("/etc/systemd/system/a.service", "new");
    is("/etc/systemd/system/b.service", "old");
    assert_eq!(mix.images.keys().collect::<Vec<_>>(), ["app:new", "web:old"]);
    assert_eq!(mix.hooks.iter().map(|hook| hook.run[0].as_str()).collect::<Vec<_>>(), ["/bin/new", "/bin/old"]);
    assert_eq!(mix.isolated, components(&["app", "web"]));
    assert_eq!(mix.confirm, [(component("app"), Confirm::AfterReboot), (component("web"), Confirm::Always)].into());
    assert_eq!(mix.components["web"].len(), 0);
    assert_eq!(mix.health.iter().map(|check| check.timing.retries).collect::<Vec<_>>(), [1, 0]);
    assert_eq!(mixed(&new, &old, &[]), new);
    assert_eq!(mixed(&new, &old, &["app", "base", "web"]), old);
}

#[test]
fn the_same_state_has_the_same_effect_whichever_way_it_came_about() {
    // `app` stays old and `web` is new: rendered, the checks of `app` come first.
    let (mut new, mut old) = (Desired::default(), Desired::default());
    for state in [&mut new, &mut old] {
        put(state, "app", "/etc/app", "app");
        put(state, "web", "/etc/web", "web");
        state.health.extend([check("app"), check("app"), check("web")]);
        state.hooks.extend([hook("app"), hook("web"), hook("web")]);
    }
    put(&mut new, "app", "/etc/app", "new");
    assert_eq!(mixed(&new, &old, &["app"]), old);
    // Checks of one component keep their order.
    old.health[1].timing.retries = 7;
    assert_eq!(mixed(&new, &old, &["app"]).health, old.health);
}

#[test]
fn a_component_that_left_stays_and_one_that_came_does_not() {
    let (mut new, mut old) = (Desired::default(), Desired::default());
    put(&mut old, "gone", "/etc/gone", "x");
    put(&mut new, "came", "/etc/came", "x");
    assert_eq!(mixed(&new, &old, &["gone"]).entries.len(), 2);
    assert!(mixed(&new, &old, &["came"]).entries.is_empty());
}

#[test]
fn what_both_would_have_is_a_conflict() {
    let conflict = |new: &Desired, old: &Desired| mix(new, old, &components(&["old"])).unwrap_err().to_string();
    let (mut new, mut old) = (Desired::default(), Desired::default());
    put(&mut new, "new", "/etc/x", "x");
    put(&mut old, "old", "/etc/x", "x");
    assert_eq!(conflict(&new, &old), "file /etc/x would belong to both new and old");

    // Beneath a file nothing can stand, whichever of them is the new one.
    let (mut file, mut below) = (Desired::default(), Desired::default());
    put(&mut file, "new", "/etc/x", "x");
    put(&mut below, "old", "/etc/x/deep/y", "y");
    assert_eq!(conflict(&file, &below), "file /etc/x/deep/y would belong to both new and old");
    let (mut file, mut below) = (Desired::default(), Desired::default());
    put(&mut file, "old", "/etc/x", "x");
    put(&mut below, "new", "/etc/x/deep/y", "y");
    assert_eq!(conflict(&below, &file), "file /etc/x would belong to both new and old");

    let (mut new, mut old) = (Desired::default(), Desired::default());
    serve(&mut new, "new", "a.service", "a", &[]);
    serve(&mut old, "old", "a.service", "a", &[]);
    new.entries.clear();
    old.entries.clear();
    assert_eq!(conflict(&new, &old), "unit a.service would belong to both new and old");
}

#[test]
fn a_directory_may_have_something_beneath_it_and_look_alikes_are_no_conflict() {
    let (mut new, mut old) = (Desired::default(), Desired::default());
    put(&mut new, "new", "/etc/x", "x");
    new.entries.get_mut("/etc/x").unwrap().state.node = Node::Directory;
    put(&mut old, "old", "/etc/x/y", "y");
    put(&mut old, "old", "/etc/xy", "y");
    assert_eq!(mixed(&new, &old, &["old"]).entries.len(), 3);
    put(&mut new, "old", "/etc/x", "x");
    assert_eq!(mixed(&new, &Desired::default(), &["old"]).entries.len(), 0);
}

#[test]
fn a_unit_is_defined_by_what_the_mix_has() {
    // `web` is held back: its new drop-in does not come, and its old one stays.
    let (mut new, mut old) = (Desired::default(), Desired::default());
    for (state, version) in [(&mut new, "new"), (&mut old, "old")] {
        serve(state, "app", "a@1.service", version, &[]);
        state.units.get_mut("a@1.service").unwrap().enabled = Some(Enablement::Disabled);
    }
    drop_in(&mut new, "web", "a@1.service", "new");
    drop_in(&mut old, "web", "a@.service", "old");
    let names =
        |state: &Desired| -> Vec<String> { state.units["a@1.service"].definition.iter().map(ToString::to_string).collect() };
    let (own, template) = ("/etc/systemd/system/a@1.service", "/etc/systemd/system/a@.service.d/web.conf");
    assert_eq!(names(&mixed(&new, &old, &["web"])), [template, own]);
    assert_eq!(names(&mixed(&new, &old, &["app"])), [own, "/etc/systemd/system/a@1.service.d/web.conf"]);
}

/// `app` and `web` know nothing of each other.
fn two(app: &str, web: &str) -> Desired {
    let mut state = Desired::default();
    put(&mut state, "app", "/etc/app", app);
    put(&mut state, "web", "/etc/web", web);
    state
}

fn deny(list: &mut Vec<Denied>, state: &Desired) {
    list.push(Denied {
        revision: String::new(),
        effect: state.effect(),
        components: BTreeSet::new(),
        back_to: 1,
        at: 0,
        pass: 0,
        causes: Vec::new(),
        by: DeniedBy::Health,
        tries: 1,
    });
}

#[test]
fn only_what_failed_is_gone_back_to_where_it_can_be_told_apart() {
    let (tried, good) = (two("new", "new"), two("old", "old"));
    let target = |failed: &[&str]| target(&tried, &good, &components(failed), &[]);
    assert_eq!(target(&["web"]), Some((two("new", "old"), components(&["web"]))));
    assert_eq!(target(&["web", "app"]), None, "that is the good state");
    assert_eq!(target(&[]), None, "nobody knows what failed: everything");
}

#[test]
fn everything_is_gone_back_to_when_what_failed_was_not_changed() {
    let (tried, good) = (two("new", "old"), two("old", "old"));
    assert_eq!(target(&tried, &good, &components(&["web"]), &[]), None);
}

#[test]
fn what_is_denied_is_no_way_out() {
    let (tried, good) = (two("new", "new"), two("old", "old"));
    let mut list = Vec::new();
    deny(&mut list, &tried);
    assert!(without(&tried, &good, &components(&["web"]), &list).is_some());
    deny(&mut list, &two("new", "old"));
    assert_eq!(without(&tried, &good, &components(&["web"]), &list), None);
    assert_eq!(target(&tried, &good, &components(&["web"]), &list), None);
    // The state in force has the failed component as the denied one has it: what is left is the denied one.
    assert_eq!(without(&tried, &two("old", "new"), &components(&["web"]), &list), None);
}

#[test]
fn what_cannot_be_put_together_is_no_way_out() {
    let (mut tried, mut good) = (two("new", "new"), two("old", "old"));
    put(&mut tried, "app", "/etc/shared", "x");
    put(&mut good, "web", "/etc/shared", "x");
    assert_eq!(without(&tried, &good, &components(&["web"]), &[]), None);
    assert_eq!(target(&tried, &good, &components(&["web"]), &[]), None);
}

#[test]
fn a_change_is_judged_by_what_it_touches_and_by_new_checks() {
    let mut old = Desired::default();
    serve(&mut old, "app", "a.service", "old", &[]);
    serve(&mut old, "web", "b.service", "old", &[]);
    put(&mut old, "other", "/etc/other", "x");
    let mut host = Host::default();
    host.converge(&old);
    let mut new = old.clone();
    serve(&mut new, "app", "a.service", "new", &[]);
    let plan = host.plan(&new);
    assert_eq!((affected(&plan, &new, Some(&old)), watched(&plan)), (components(&["app"]), BTreeSet::from([unit("a.service")])));
    new.components.insert(component("web"), components(&["app"]));
    assert_eq!(affected(&plan, &new, Some(&old)), components(&["app", "web"]));
    // A new check, or one that is asked otherwise, of what is not touched.
    let mut checked = old.clone();
    checked.health.push(check("other"));
    assert_eq!(affected(&Plan::default(), &checked, Some(&old)), components(&["other"]));
    assert_eq!(affected(&Plan::default(), &checked, Some(&checked)), components(&[]));
    assert_eq!(affected(&Plan::default(), &checked, None), components(&["other"]));
    let mut other = checked.clone();
    other.health[0].timing.retries = 9;
    assert_eq!(newly_checked(&other, Some(&checked)), components(&["other"]));
    other.health[0] = HealthCheck { origin: crate::desired::Origin { line: 99, ..origin("other") }, ..check("other") };
    assert_eq!(newly_checked(&other, Some(&checked)), components(&[]), "a line that moved is no new check");
    // A trial is judged by all that any process did of it.
    let mut open = super::trial();
    open.cover(&plan, &new, Some(&old));
    open.cover(&Plan::default(), &checked, Some(&old));
    assert_eq!((open.watch, open.affected), (BTreeSet::from([unit("a.service")]), components(&["app", "other", "web"])));
}

#[test]
fn everything_that_is_to_run_is_watched_when_all_is_judged() {
    let mut state = Desired::default();
    for (name, active, oneshot) in [
        ("a.service", Some(true), false),
        ("b.service", Some(false), false),
        ("c.service", None, false),
        ("d.service", Some(true), true),
    ] {
        serve(&mut state, "app", name, "x", &[]);
        let service = state.units.get_mut(name).unwrap();
        (service.active, service.oneshot) = (active, oneshot);
    }
    assert_eq!(everything(&state), (components(&["app"]), BTreeSet::from([unit("a.service")])));
}

#[test]
fn a_line_that_moves_has_no_effect() {
    let state = two("new", "new");
    let mut moved = state.clone();
    moved.entries.get_mut("/etc/app").unwrap().origin.line = 7;
    assert_eq!(moved.effect(), state.effect());
    assert_ne!(moved.digest(), state.digest());
    moved.entries.get_mut("/etc/app").unwrap().origin.component = component("web");
    assert_ne!(moved.effect(), state.effect(), "whose it is decides what falls");
    assert_ne!(digest("x"), state.effect());
}
