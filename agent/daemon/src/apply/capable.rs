//! What this host cannot do at all, told per component before anything is planned: containers without Podman's Quadlet generator.
//!
//! Guarantees: a component that cannot work here is one problem, and the others converge; a component that owns something on the host
//! already is never left out, for leaving it out would take it down (its next change is refused by the check instead).
//! A component that needs one that is left out is left out with it.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use trimtab_model::desired::{Desired, Entry, Origin, Role};
use trimtab_model::ledger::Ledger;
use trimtab_model::names::ComponentName;
use trimtab_model::plan::Problem;

use super::check::quadlet_generator;

/// The part of a desired state that this host can be, and a problem for each component that is left out.
pub fn on_this_host<'d>(desired: &'d Desired, ledger: &Ledger) -> (Cow<'d, Desired>, Vec<Problem>) {
    // Looked for only where there is a Quadlet file to make something of.
    if !desired.entries.values().any(is_quadlet) || quadlet_generator().is_some() {
        return (Cow::Borrowed(desired), Vec::new());
    }
    without_quadlets(desired, ledger)
}

fn is_quadlet(entry: &Entry) -> bool {
    matches!(entry.role, Role::Quadlet(_))
}

fn without_quadlets<'d>(desired: &'d Desired, ledger: &Ledger) -> (Cow<'d, Desired>, Vec<Problem>) {
    let owning: BTreeSet<&ComponentName> = ledger.entries.values().map(|owned| &owned.origin.component).collect();
    let mut out: BTreeMap<ComponentName, Problem> = BTreeMap::new();
    for entry in desired.entries.values().filter(|entry| is_quadlet(entry)) {
        let origin = &entry.origin;
        if !owning.contains(&origin.component) {
            let message = "it runs containers through Podman Quadlet, and this host has no Quadlet generator (it comes with podman 4.4 \
                           or newer): left out here; everything else goes on";
            out.entry(origin.component.clone()).or_insert_with(|| problem(origin, message.to_owned()));
        }
    }
    loop {
        let needing = desired.components.iter().find_map(|(name, needs)| {
            let needed = needs.iter().find(|needed| out.contains_key(*needed))?;
            (!out.contains_key(name) && !owning.contains(name)).then_some((name, needed))
        });
        let Some((name, needed)) = needing else { break };
        let origin = Origin { component: name.clone(), file: format!("components/{name}/component.toml"), line: 0 };
        let message = format!("it depends on {needed}, which is left out on this host");
        out.insert(name.clone(), problem(&origin, message));
    }
    if out.is_empty() {
        return (Cow::Borrowed(desired), Vec::new());
    }
    let mut rest = desired.clone();
    rest.entries.retain(|_, entry| !out.contains_key(&entry.origin.component));
    rest.units.retain(|_, unit| !out.contains_key(&unit.origin.component));
    rest.images.retain(|_, origin| !out.contains_key(&origin.component));
    rest.components.retain(|name, _| !out.contains_key(name));
    rest.exclusive.retain(|_, exclusive| !out.contains_key(exclusive.component()));
    (Cow::Owned(rest), out.into_values().collect())
}

fn problem(origin: &Origin, message: String) -> Problem {
    Problem { resource: format!("component {}", origin.component), message, origin: origin.clone() }
}

#[cfg(test)]
mod tests {
    use trimtab_model::drift::DriftPolicy;
    use trimtab_model::ledger::{Before, Owned};

    use super::*;

    /// One file for each component, a Quadlet file for those whose name begins with `web`.
    fn wanted(components: &[(&str, &[&str])]) -> Desired {
        let mut desired = Desired::default();
        for (name, needs) in components {
            let name: ComponentName = name.parse().unwrap();
            let quadlet = name.as_str().starts_with("web");
            let role = if quadlet {
                serde_json::json!({"is": "quadlet", "of": format!("{name}.service")})
            } else {
                serde_json::json!({"is": "plain"})
            };
            let path = if quadlet { format!("/etc/containers/systemd/{name}.container") } else { format!("/etc/{name}") };
            let entry = serde_json::json!({
                "state": { "kind": "directory", "mode": 420, "owner": "root", "group": "root" },
                "role": role, "shown": true, "origin": { "component": name, "file": format!("components/{name}/x") },
            });
            desired.entries.insert(path.parse().unwrap(), serde_json::from_value(entry).unwrap());
            desired.components.insert(name, needs.iter().map(|need| need.parse().unwrap()).collect());
        }
        desired
    }

    fn left(desired: &Desired, ledger: &Ledger) -> (Vec<String>, Vec<String>) {
        let (rest, problems) = without_quadlets(desired, ledger);
        (rest.components.keys().map(ToString::to_string).collect(), problems.into_iter().map(|one| one.resource).collect())
    }

    #[test]
    fn only_components_with_quadlets_and_what_needs_them_are_left_out() {
        let desired = wanted(&[("base", &[]), ("web", &["base"]), ("page", &["web"]), ("deep", &["page"])]);
        let (rest, problems) = left(&desired, &Ledger::default());
        assert_eq!(rest, ["base"]);
        assert_eq!(problems, ["component deep", "component page", "component web"]);
    }

    #[test]
    fn what_owns_something_here_already_is_not_taken_down() {
        let desired = wanted(&[("web", &[]), ("web2", &[])]);
        let (path, entry) = desired.entries.iter().next().unwrap();
        let (state, role, origin) = (entry.state.clone(), entry.role.clone(), entry.origin.clone());
        let mut ledger = Ledger::default();
        ledger.entries.insert(
            path.clone(),
            Owned { state, role, before: Before::Absent, xattrs: None, pending: false, drift: DriftPolicy::Enforce, origin },
        );
        assert_eq!(left(&desired, &ledger), (vec!["web".to_owned()], vec!["component web2".to_owned()]));
    }
}
