//! Tests of domains: who falls with whom, and the state in which only they are as before.

use std::collections::BTreeSet;

use super::*;
use crate::desired::Role;
use crate::plan::tests::host::{component, entry, origin, path, service, unit};

/// One file for each component, with what it depends on.
fn state(version: &str, components: &[(&str, &[&str])]) -> Desired {
    let mut state = Desired::default();
    for (name, needs) in components {
        state.components.insert(component(name), needs.iter().map(|need| component(need)).collect());
        let mut file = entry(&format!("{name} {version}"), Role::Plain);
        file.origin = origin(name);
        state.entries.insert(path(&format!("/etc/{name}.conf")), file);
    }
    state
}

fn names(names: &[&str]) -> BTreeSet<ComponentName> {
    names.iter().map(|name| component(name)).collect()
}

fn fallen(failed: &[&str], new: &Desired, old: &Desired) -> Vec<String> {
    spread(&names(failed), new, old).iter().map(ToString::to_string).collect()
}

#[test]
fn what_needs_it_and_what_it_needs_falls_and_nothing_else() {
    let all = [("base", &[][..]), ("app", &["base"]), ("web", &["app"]), ("other", &[])];
    let new = state("2", &all);
    assert_eq!(fallen(&["app"], &new, &new), ["app", "base", "web"]);
    assert_eq!(fallen(&["other"], &new, &new), ["other"]);
    // An edge that only the old state had counts as well.
    let loose = state("2", &[("base", &[]), ("app", &[]), ("web", &[]), ("other", &[])]);
    assert_eq!(fallen(&["web"], &loose, &new), ["app", "base", "web"]);
    let mut alone = new.clone();
    alone.isolated = names(&["app"]);
    assert_eq!(fallen(&["app"], &alone, &new), ["app", "web"], "it does not take with it what it needs");
    assert_eq!(fallen(&["base"], &alone, &new), ["app", "base", "web"], "and falls with it all the same");
}

#[test]
fn who_reads_a_file_of_another_falls_with_it() {
    let mut new = state("2", &[("base", &[]), ("app", &[]), ("other", &[])]);
    let mut reader = service("/etc/app.conf", &["/etc/base.conf"]);
    reader.origin = origin("app");
    new.units.insert(unit("a.service"), reader);
    assert_eq!(fallen(&["base"], &new, &Desired::default()), ["app", "base"]);
    assert_eq!(fallen(&["app"], &Desired::default(), &new), ["app", "base"]);
}

#[test]
fn a_mix_has_each_component_once_and_whole() {
    let all = [("base", &[][..]), ("app", &["base"]), ("gone", &[])];
    let old = state("1", &all);
    let mut new = state("2", &[("base", &[]), ("app", &["base"]), ("new", &[])]);
    new.images.insert("img".to_owned(), origin("app"));
    new.isolated = names(&["base", "app"]);
    new.confirm.insert(component("app"), crate::desired::Confirm::Always);
    let mixed = mix(&new, &old, &names(&["app"])).unwrap();
    let digest_of = |state: &Desired, at: &str| state.entries.get(&path(at)).map(|entry| entry.state.clone());
    assert_eq!(digest_of(&mixed, "/etc/base.conf"), digest_of(&new, "/etc/base.conf"));
    assert_eq!(digest_of(&mixed, "/etc/app.conf"), digest_of(&old, "/etc/app.conf"));
    assert!(digest_of(&mixed, "/etc/new.conf").is_some() && digest_of(&mixed, "/etc/gone.conf").is_none());
    assert!(mixed.images.is_empty() && mixed.confirm.is_empty());
    assert_eq!(mixed.isolated, names(&["base"]));
    assert_eq!(mix(&new, &old, &BTreeSet::new()).unwrap(), new);
    // What the new state does not have any more stays when it is held back.
    assert!(mix(&new, &old, &names(&["gone"])).unwrap().entries.contains_key("/etc/gone.conf"));
}

#[test]
fn what_two_claim_cannot_be_mixed() {
    let old = state("1", &[("app", &[]), ("web", &[])]);
    let moved = |at: &str| {
        let mut new = state("2", &[("app", &[]), ("web", &[])]);
        let mut file = entry("moved", Role::Plain);
        file.origin = origin("web");
        new.entries.remove("/etc/app.conf");
        new.entries.insert(path(at), file);
        mix(&new, &old, &names(&["app"]))
    };
    let conflict = moved("/etc/app.conf").unwrap_err();
    assert_eq!(
        (conflict.resource.as_str(), conflict.kept, conflict.withheld),
        ("file /etc/app.conf", component("web"), component("app"))
    );
    // A file where the other has a folder, from either side.
    assert!(moved("/etc/app.conf/below").is_err());
    assert!(moved("/etc/app.conf.d").is_ok());
    assert!(moved("/etc").is_err());
}

#[test]
fn a_unit_of_two_components_is_defined_by_what_is_there() {
    let drop_in = path("/etc/systemd/system/a.service.d/web.conf");
    let build = |with: bool| {
        let mut state = state("1", &[("app", &[]), ("web", &[])]);
        let mut file = entry("unit", Role::Unit(unit("a.service")));
        file.origin = origin("app");
        state.entries.insert(path("/etc/systemd/system/a.service"), file);
        let mut a = service("/etc/systemd/system/a.service", &[]);
        a.origin = origin("app");
        if with {
            let mut file = entry("drop-in", Role::Unit(unit("a.service")));
            file.origin = origin("web");
            state.entries.insert(drop_in.clone(), file);
            a.definition.insert(drop_in.clone());
        }
        state.units.insert(unit("a.service"), a);
        state
    };
    let (with, without) = (build(true), build(false));
    assert!(mix(&with, &without, &names(&["app"])).unwrap().units["a.service"].definition.contains(&drop_in));
    assert!(!mix(&with, &without, &names(&["web"])).unwrap().units["a.service"].definition.contains(&drop_in));
}
