//! For any start and any state: carried out and made again, the plan is empty; cut off anywhere, the next pass finishes it.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::host::{Host, artifact_of, component, entry_of, origin, path, service_of, unit};
use crate::desired::{Desired, Entry, OnChange, Role};
use crate::drift::{Exclusive, Extra};
use crate::ledger::Before;
use crate::names::{HostPath, UnitName};
use crate::observed::Found;
use crate::plan::{Action, Cause, Plan, paths};

/// A service of `app` and one of `web`; files of `base`, `app` and `web` that they read; a drop-in of `web` for the service of `app`; a path
/// that changes hands. Each present or not, with one of three contents.
pub(crate) fn any_desired() -> impl Strategy<Value = Desired> {
    let content = || prop::option::weighted(0.8, 0..3u8);
    let files = (content(), content(), content(), content(), content(), content());
    let shape = (any::<[bool; 8]>(), any::<bool>());
    (files, shape).prop_map(|((a, b, base, own, drop_in, shared), (flags, contained))| {
        let mut desired = Desired::default();
        let [base_is_read, own_is_read, shared_by_web, app_needs, web_needs, isolated, reload, no_base] = flags;
        let base = base.filter(|_| !no_base);
        // Named by the definition: another image is another definition.
        let image = a.filter(|_| contained).map(|version| format!("image:{version}"));
        let mut put = |of: &str, at: &str, version: Option<u8>, role: Role| {
            if let Some(version) = version {
                desired.entries.insert(path(at), entry_of(of, &text(at, version), role));
            }
        };
        put("app", "/etc/systemd/system/a.service", a, Role::Unit(unit("a.service")));
        put("web", "/etc/systemd/system/b.service", b, Role::Unit(unit("b.service")));
        put("web", DROP_IN, drop_in, Role::Unit(unit("a.service")));
        put("base", "/etc/conf", base, Role::Plain);
        put("app", "/etc/own", own, Role::Plain);
        put(if shared_by_web { "web" } else { "app" }, "/etc/shared", shared, Role::Plain);
        if a.is_some() {
            let uses: Vec<&str> = [("/etc/conf", base.is_some() && base_is_read), ("/etc/own", own.is_some() && own_is_read)]
                .into_iter()
                .filter_map(|(at, read)| read.then_some(at))
                .collect();
            let mut service = service_of("app", "/etc/systemd/system/a.service", &uses);
            service.image.clone_from(&image);
            service.definition.extend(drop_in.map(|_| path(DROP_IN)));
            service.on_change = if reload { OnChange::Reload } else { OnChange::Restart };
            desired.units.insert(unit("a.service"), service);
        }
        if b.is_some() {
            let uses: &[&str] = if shared.is_some() && shared_by_web { &["/etc/shared"] } else { &[] };
            desired.units.insert(unit("b.service"), service_of("web", "/etc/systemd/system/b.service", uses));
        }
        desired.images.extend(image.map(|image| (image, origin("app"))));
        let needs = |wanted: bool, on: &str| wanted.then(|| component(on)).into_iter().collect();
        desired.components.insert(component("base"), BTreeSet::new());
        desired.components.insert(component("app"), needs(app_needs, "base"));
        desired.components.insert(component("web"), needs(web_needs, "app"));
        // Of either component, so that a mix must tell whose it is.
        let exclusive = |of: &str| Exclusive { extra: Extra::Purge, except: Vec::new(), origin: origin(of) };
        desired.exclusive.extend(own_is_read.then(|| (path("/etc/app.d"), exclusive("app"))));
        desired.exclusive.extend(shared_by_web.then(|| (path("/etc/web.d"), exclusive("web"))));
        for (at, is_fetched) in [("/etc/own", isolated), ("/etc/shared", reload)] {
            if let Some(entry) = desired.entries.get_mut(&path(at)).filter(|_| is_fetched) {
                entry.artifact = artifact_of("app", at).artifact;
            }
        }
        desired.isolated.extend(isolated.then(|| component("web")));
        desired
    })
}

pub(crate) const DROP_IN: &str = "/etc/systemd/system/a.service.d/web.conf";

/// What stands in a file of that version.
pub(crate) fn text(at: &str, version: u8) -> String {
    format!("{at} {version}")
}

/// A host that an operator already used.
pub(crate) fn any_host() -> impl Strategy<Value = Host> {
    let content = || prop::option::of(0..4u8);
    (content(), content(), any::<bool>(), any::<bool>()).prop_map(|(conf, own, loose, dim)| {
        let mut host = Host { dim, ..Host::default() };
        let mode = if loose { 0o600 } else { 0o644 };
        for (at, version) in [("/etc/conf", conf), ("/etc/own", own), ("/etc/strange", own)] {
            if let Some(version) = version {
                host.file(at, &text(at, version), mode);
            }
        }
        host
    })
}

fn contents(host: &Host) -> BTreeMap<HostPath, Before> {
    host.files.iter().map(|(at, found)| (at.clone(), paths::before(found))).collect()
}

/// The host is as wanted, all of it, and nothing is left to do.
pub(crate) fn check_converged(host: &Host, desired: &Desired) -> Result<(), TestCaseError> {
    let plan = host.plan(desired);
    prop_assert!(plan.is_empty() && plan.bookkeeping.is_empty(), "{plan:#?}");
    for (at, Entry { state, .. }) in &desired.entries {
        let Some(Found::File { digest, meta, .. }) = host.files.get(at) else { panic!("{at} is no file") };
        let crate::desired::Node::File { digest: wanted, .. } = state.node else { panic!("only files here") };
        prop_assert_eq!((*digest, meta.mode), (wanted, state.mode), "{}", at);
    }
    for (name, want) in &desired.units {
        prop_assert_eq!(host.ledger.units[name].inputs, Some(desired.inputs(want)));
        prop_assert_eq!(&host.running[name], &host.read_by(want), "{} runs with old input", name);
        prop_assert_eq!(host.units[name].active.as_str(), "active");
    }
    prop_assert!(host.ledger.entries.keys().eq(desired.entries.keys()) && host.ledger.units.keys().eq(desired.units.keys()));
    prop_assert!(host.ledger.entries.values().all(|owned| !owned.pending));
    Ok(())
}

/// Units stopped or gone before the files that define them; the first part takes nothing away that is still defined by.
fn check_order(plan: &Plan, host: &Host, desired: &Desired) -> Result<(), TestCaseError> {
    let mut stopped: BTreeSet<UnitName> = BTreeSet::new();
    for (at, step) in plan.steps.iter().enumerate() {
        match &step.action {
            Action::Stop { unit, .. } => {
                stopped.insert(unit.clone());
            }
            Action::Remove { path, .. } | Action::Restore { path, .. } => {
                let role = &host.ledger.entries[path].role;
                let is_drop_in = path.as_str().contains(".d/");
                if at < plan.prune_from {
                    let of_wanted = matches!(role, Role::Unit(unit) if desired.units.contains_key(unit));
                    prop_assert!(of_wanted, "{} goes before what came is up: {:#?}", path, plan);
                } else if let (Role::Unit(unit), false) = (role, is_drop_in) {
                    let runs = host.units.get(unit).is_some_and(|found| found.active == "active");
                    prop_assert!(!runs || stopped.contains(unit), "{} loses its file while it runs", unit);
                }
            }
            Action::Put { .. }
            | Action::Start { .. }
            | Action::Restart { .. }
            | Action::Reload { .. }
            | Action::Pull { .. }
            | Action::Fetch { .. } => {
                prop_assert!(at < plan.prune_from, "{:?} comes after what only takes away", step.action);
            }
            _ => {}
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn a_plan_carried_out_leaves_nothing_to_plan(start in any_host(), desired in any_desired()) {
        let mut host = start;
        host.converge(&desired);
        check_converged(&host, &desired)?;
    }

    #[test]
    fn images_that_somebody_took_away_or_named_anew_come_back_once(
        start in any_host(), desired in any_desired(), removed: bool, tagged: bool, cut in 0..8usize,
    ) {
        let mut host = start;
        host.converge(&desired);
        host.had = host.images.clone();
        if tagged {
            host.tags = host.images.iter().map(|image| (image.clone(), "another".to_owned())).collect();
        }
        if removed {
            host.images.clear();
        }
        let plan = host.plan(&desired);
        let is_about = |resource: &str| resource.starts_with("image ") || resource == "unit a.service";
        prop_assert!(plan.changes.iter().all(|change| change.cause == Cause::Drift && is_about(&change.resource)), "{plan:#?}");
        let expected = desired.images.len() * usize::from(removed || tagged);
        prop_assert_eq!(plan.drift_count(), expected, "{:#?}", plan);
        host.fuel = Some(cut);
        let _ = host.apply(&desired, &plan);
        host.restart(false);
        host.converge(&desired);
        check_converged(&host, &desired)?;
    }

    #[test]
    fn a_kill_at_any_step_is_finished_by_the_next_pass(
        start in any_host(), first in any_desired(), then in any_desired(), reboot: bool,
    ) {
        let mut before = start;
        before.converge(&first);
        let plan = before.plan(&then);
        check_order(&plan, &before, &then)?;
        // Every prefix: before and after the intent, after each step, before what was done is written down.
        for cut in 0..plan.steps.len() + 2 {
            let mut host = Host { fuel: Some(cut), ..before.clone() };
            prop_assert!(host.apply(&then, &plan).is_err() || plan.is_empty() && plan.bookkeeping.is_empty(), "{} is not enough fuel", cut);
            host.restart(reboot);
            let next = host.plan(&then);
            prop_assert!(reboot || next.drift_count() == 0, "unfinished work is not drift: {:#?}", next);
            host.apply(&then, &next).unwrap();
            check_converged(&host, &then)?;
        }
    }

    #[test]
    fn a_kill_in_the_middle_leaves_the_way_back_open(
        start in any_host(), first in any_desired(), then in any_desired(), cut in 0..30usize,
    ) {
        let mut host = start;
        host.converge(&first);
        let plan = host.plan(&then).without_prune();
        host.fuel = Some(cut);
        let killed = host.apply(&then, &plan).is_err();
        host.restart(false);
        if !killed {
            // Nothing that was wanted before is gone until what came has proven healthy, but for drop-ins of units that stay.
            for at in first.entries.keys().filter(|at| at.as_str() != DROP_IN) {
                prop_assert!(host.files.contains_key(at), "{} is gone", at);
            }
        }
        let back = host.plan(&first);
        host.apply(&first, &back).unwrap();
        check_converged(&host, &first)?;
    }

    #[test]
    fn what_leaves_is_as_it_was_before(start in any_host(), first in any_desired(), then in any_desired(), cut in 0..30usize) {
        let mut host = start.clone();
        host.converge(&first);
        let plan = host.plan(&then);
        host.fuel = Some(cut);
        // Killed or not, everything can be given back.
        let _ = host.apply(&then, &plan);
        host.restart(false);
        host.converge(&Desired::default());
        prop_assert_eq!(contents(&host), contents(&start));
        prop_assert!(host.ledger.entries.is_empty() && host.ledger.units.is_empty());
        prop_assert!(host.units.values().all(|unit| unit.active != "active"));
    }

    #[test]
    fn a_plan_without_its_prune_and_then_the_rest_is_the_whole(start in any_host(), first in any_desired(), then in any_desired()) {
        let mut host = start;
        host.converge(&first);
        let mut plan = host.plan(&then).without_prune();
        plan.without_pulls();
        let pulls = plan.steps.iter().filter(|step| matches!(step.action, Action::Pull { .. } | Action::Fetch { .. })).count();
        prop_assert_eq!((pulls, plan.prune_from), (0, plan.steps.len()));
        host.images.extend(then.images.keys().cloned());
        host.contents.extend(then.artifacts().map(|(_, _, _, digest, _)| digest));
        host.apply(&then, &plan).unwrap();
        let rest = host.plan(&then);
        prop_assert_eq!(rest.prune_from, 0, "{:#?}", rest);
        host.apply(&then, &rest).unwrap();
        check_converged(&host, &then)?;
    }
}
