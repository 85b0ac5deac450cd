//! What must be left out because something failed: the component of the failed step, and all that depend on it.

use std::collections::{BTreeMap, BTreeSet};

use trimtab_model::desired::Desired;
use trimtab_model::names::{ComponentName, HostPath};
use trimtab_model::plan::{Action, Step};

/// The failures so far.
#[derive(Debug, Default)]
pub(super) struct Failures {
    /// What each component needs, directly and through others, itself left out.
    needs: BTreeMap<ComponentName, BTreeSet<ComponentName>>,
    /// The first failure of each component.
    failed: BTreeMap<ComponentName, String>,
    /// Something that everything needs.
    all: Option<String>,
}

impl Failures {
    pub(super) fn new(wanted: &Desired) -> Self {
        let mut needs = BTreeMap::new();
        for name in wanted.components.keys() {
            let mut reached = BTreeSet::new();
            let mut open = vec![name];
            while let Some(at) = open.pop() {
                for next in wanted.components.get(at).into_iter().flatten() {
                    if next != name && reached.insert(next.clone()) {
                        open.push(next);
                    }
                }
            }
            needs.insert(name.clone(), reached);
        }
        Self { needs, ..Self::default() }
    }

    /// The components that a step belongs to; `None`: to all.
    pub(super) fn of(step: &Step, wanted: &Desired) -> Option<BTreeSet<ComponentName>> {
        match (&step.component, &step.action) {
            (Some(component), _) => Some(BTreeSet::from([component.clone()])),
            (None, Action::Sysusers { paths } | Action::Tmpfiles { paths } | Action::Sysctl { paths }) => {
                Some(owners(paths, wanted))
            }
            (None, _) => None,
        }
    }

    /// A step failed.
    pub(super) fn add(&mut self, step: &Step, wanted: &Desired) {
        let resource = step.action.resource();
        let because = if resource.is_empty() { "daemon-reload failed".to_owned() } else { format!("{resource} failed") };
        // An applier is run once for all: it fails those whose files it was run over.
        match Self::of(step, wanted) {
            Some(components) => components.into_iter().for_each(|component| self.component(component, because.clone())),
            None => self.all(because),
        }
    }

    fn component(&mut self, component: ComponentName, because: String) {
        self.failed.entry(component).or_insert(because);
    }

    /// From here on everything is left out.
    pub(super) fn all(&mut self, because: String) {
        self.all.get_or_insert(because);
    }

    /// Why a step of this component must be left out; `None`: go on.
    pub(super) fn because(&self, component: Option<&ComponentName>) -> Option<String> {
        if let Some(because) = &self.all {
            return Some(because.clone());
        }
        let component = component?;
        if let Some(because) = self.failed.get(component) {
            return Some(because.clone());
        }
        let needed = self.needs.get(component)?.iter().find_map(|need| self.failed.get_key_value(need));
        needed.map(|(need, because)| format!("it depends on component {need}, of which {because}"))
    }
}

fn owners(paths: &[HostPath], wanted: &Desired) -> BTreeSet<ComponentName> {
    paths.iter().filter_map(|path| wanted.entries.get(path)).map(|entry| entry.origin.component.clone()).collect()
}

#[cfg(test)]
mod tests {
    use trimtab_model::plan::Cause;

    use super::*;

    fn name(text: &str) -> ComponentName {
        text.parse().unwrap()
    }

    fn step(component: Option<&str>, action: Action) -> Step {
        Step { action, component: component.map(name), cause: Cause::Update }
    }

    #[test]
    fn a_failure_reaches_all_that_depend_and_nobody_else() {
        let mut wanted = Desired::default();
        for (component, needs) in
            [("base", &[][..]), ("app", &["base"]), ("web", &["app"]), ("other", &[]), ("loop", &["loop2"]), ("loop2", &["loop"])]
        {
            wanted.components.insert(name(component), needs.iter().map(|need| name(need)).collect());
        }
        let mut failures = Failures::new(&wanted);
        let stop = Action::Stop { unit: "a.service".parse().unwrap(), leaving: false };
        failures.add(&step(Some("base"), stop), &wanted);
        assert_eq!(failures.because(Some(&name("base"))).as_deref(), Some("unit a.service failed"));
        assert_eq!(
            failures.because(Some(&name("web"))).as_deref(),
            Some("it depends on component base, of which unit a.service failed")
        );
        assert_eq!(failures.because(Some(&name("other"))), None);
        assert_eq!(failures.because(Some(&name("loop"))), None);
        assert_eq!(failures.because(None), None);
        failures.add(&step(None, Action::DaemonReload), &wanted);
        assert_eq!(failures.because(Some(&name("other"))).as_deref(), Some("daemon-reload failed"));
    }
}
