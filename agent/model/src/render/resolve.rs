//! What one host is given: its labels, the groups that mean it, its components with what they need, and the value of every
//! variable.
//!
//! Order of precedence, lowest first: a variable's default, the groups in the order of `fleet.toml`, the host's file. Local
//! labels win over those of the host's file, and `host` is always its name.

use std::collections::{BTreeMap, BTreeSet};

use crate::bundle::Bundle;
use crate::facts::Host;
use crate::finding::{Finding, Findings};
use crate::fleet::read::{Located, Place, brief, did_you_mean};
use crate::fleet::selector::HOST;
use crate::fleet::value::{Type, Value};
use crate::fleet::{Component, FleetFile, HostFile, Settings, Variable, Variables};
use crate::names::ComponentName;

/// What one host is given.
pub(super) struct Choice<'b> {
    pub(super) fleet: FleetFile<'b>,
    pub(super) file: Option<HostFile<'b>>,
    pub(super) labels: BTreeMap<String, String>,
    /// The groups that mean this host, by their place in the file.
    pub(super) groups: Vec<usize>,
    /// Its components, those that are needed by others among them.
    pub(super) components: BTreeMap<ComponentName, Component<'b>>,
    /// Components that it needs and whose folders are not in the bundle.
    pub(super) missing: BTreeSet<ComponentName>,
}

/// The values of all variables; `None` where something about them is wrong, so that no template is rendered with half of them.
pub(super) struct Values {
    pub(super) fleet: Option<BTreeMap<String, Value>>,
    pub(super) components: BTreeMap<ComponentName, Option<BTreeMap<String, Value>>>,
}

/// Works out the components of a host; `None` when there is no usable `fleet.toml`.
pub(super) fn choose<'b>(bundle: &'b Bundle, host: &Host, findings: &mut Findings) -> Option<Choice<'b>> {
    let fleet = FleetFile::read(bundle, findings)?;
    let file = HostFile::read(bundle, &host.name, &fleet.variables, findings);
    let mut labels = file.as_ref().map(|file| file.labels.clone()).unwrap_or_default();
    labels.extend(host.labels.clone());
    labels.insert(HOST.to_owned(), host.name.to_string());
    let meant =
        |select: &Option<Located<'_, crate::fleet::selector::Selector>>| select.as_ref().is_some_and(|s| s.value.matches(&labels));
    let groups: Vec<usize> = (0..fleet.groups.len()).filter(|at| meant(&fleet.groups[*at].select)).collect();

    let mut roots: BTreeSet<&ComponentName> =
        groups.iter().flat_map(|at| &fleet.groups[*at].components).map(|c| &c.value).collect();
    let assigned = roots.clone();
    if let Some(file) = &file {
        roots.extend(file.components.iter().map(|c| &c.value));
        file.without.iter().for_each(|out| {
            roots.remove(&out.value);
        });
    }
    let (components, missing) = close(bundle, roots.into_iter().cloned().collect(), findings);
    if let Some(file) = &file {
        judge_without(file, &assigned, &components, findings);
    }
    judge_rings(&components, findings);
    Some(Choice { fleet, file, labels, groups, components, missing })
}

fn close<'b>(
    bundle: &'b Bundle,
    mut queue: Vec<ComponentName>,
    findings: &mut Findings,
) -> (BTreeMap<ComponentName, Component<'b>>, BTreeSet<ComponentName>) {
    let mut components = BTreeMap::new();
    let mut missing = BTreeSet::new();
    while let Some(name) = queue.pop() {
        if components.contains_key(&name) || missing.contains(&name) {
            continue;
        }
        if super::layout::is_loaded(bundle, &name) {
            let component = Component::read(bundle, &name, findings);
            queue.extend(component.depends.iter().map(|d| d.value.clone()));
            components.insert(name, component);
        } else {
            missing.insert(name);
        }
    }
    (components, missing)
}

fn judge_without(
    file: &HostFile<'_>,
    assigned: &BTreeSet<&ComponentName>,
    components: &BTreeMap<ComponentName, Component<'_>>,
    findings: &mut Findings,
) {
    for out in &file.without {
        let needs = components.values().flat_map(|c| c.depends.iter().map(move |d| (c, d))).find(|(_, d)| d.value == out.value);
        if let Some((component, need)) = needs {
            let message = format!("`{}` cannot be left out on this host: `{}` needs it", out.value, component.name);
            findings.at_both(out.place, message, need.place, "needed here", "leave out both, or none");
        } else if !assigned.contains(&out.value) {
            let message = format!("no group gives `{}` to this host, so it cannot be left out", out.value);
            findings.at_with(out.place, message, "remove it from `without`");
        }
    }
}

/// Takes away components that need nothing (any more) until none is left, or only rings and what hangs on them.
fn judge_rings(components: &BTreeMap<ComponentName, Component<'_>>, findings: &mut Findings) {
    let mut left: BTreeSet<&ComponentName> = components.keys().collect();
    loop {
        let open = |name: &ComponentName, left: &BTreeSet<&ComponentName>| {
            components.get(name).and_then(|c| c.depends.iter().find(|d| left.contains(&d.value))).cloned()
        };
        let free: Vec<_> = left.iter().copied().filter(|name| open(name, &left).is_none()).collect();
        if !free.is_empty() {
            for name in free {
                left.remove(name);
            }
            continue;
        }
        let Some(start) = left.first().copied() else { return };
        // Each of what is left needs another of it, so walking on must come back to somewhere.
        let (mut trail, mut at) = (Vec::<(&ComponentName, Located<'_, ComponentName>)>::new(), start);
        while !trail.iter().any(|(name, _)| *name == at) {
            let Some(need) = open(at, &left) else { return };
            let Some((next, _)) = components.get_key_value(&need.value) else { return };
            trail.push((at, need));
            at = next;
        }
        let ring = &trail[trail.iter().position(|(name, _)| *name == at).unwrap_or(0)..];
        let names: Vec<_> = ring.iter().map(|(name, _)| name.as_str()).chain([at.as_str()]).take(12).collect();
        let mut finding =
            Finding::new(format!("components need each other in a ring: {}", names.join(" → ")), ring[0].1.place.spot(""))
                .help("take one `depends` out of the ring");
        for (_, need) in ring.iter().skip(1).take(10) {
            finding = finding.also(need.place.spot("and here"));
        }
        findings.push(finding);
        for (name, _) in ring {
            left.remove(*name);
        }
    }
}

impl<'b> Choice<'b> {
    /// The `set` tables that count for this host, lowest first, and the others, which are only judged.
    fn settings(&self) -> Vec<(bool, &Settings<'b>)> {
        let groups = self.fleet.groups.iter().enumerate().map(|(at, group)| (self.groups.contains(&at), &group.set));
        groups.chain(self.file.iter().map(|file| (true, &file.set))).collect()
    }

    /// Works out every variable's value.
    pub(super) fn values(&self, host: &Host, findings: &mut Findings) -> Values {
        let settings = self.settings();
        let layers: Vec<_> = settings.iter().map(|(counts, set)| (*counts, Some(&set.fleet))).collect();
        let fleet = resolve(&self.fleet.variables, &layers, &Owner { component: None, host }, findings);
        let mut components = BTreeMap::new();
        for (name, component) in &self.components {
            let mut sound = true;
            for (owner, key) in settings.iter().flat_map(|(_, set)| &set.keys).filter(|(owner, _)| owner == name) {
                if !component.variables.contains_key(&key.value) {
                    sound = false;
                    let help = did_you_mean(&key.value, component.variables.keys().map(String::as_str));
                    let help = if help.is_empty() { format!("declare it in components/{owner}/component.toml") } else { help };
                    findings.at_with(key.place, format!("`{owner}` has no variable `{}`", brief(&key.value)), help);
                }
            }
            let layers: Vec<_> = settings.iter().map(|(counts, set)| (*counts, set.components.get(name))).collect();
            let values = resolve(&component.variables, &layers, &Owner { component: Some(name), host }, findings);
            components.insert(name.clone(), values.filter(|_| sound));
        }
        Values { fleet, components }
    }
}

struct Owner<'o> {
    component: Option<&'o ComponentName>,
    host: &'o Host,
}

type Layer<'l, 'b> = (bool, Option<&'l BTreeMap<String, Located<'b, Value>>>);

fn resolve(
    variables: &Variables<'_>,
    layers: &[Layer<'_, '_>],
    owner: &Owner<'_>,
    findings: &mut Findings,
) -> Option<BTreeMap<String, Value>> {
    let mut values = BTreeMap::new();
    let mut sound = true;
    for (name, variable) in variables {
        if variable.broken {
            sound = false;
            continue;
        }
        match resolve_one(name, variable, layers, findings) {
            Ok(Some(value)) => {
                values.insert(name.clone(), value);
            }
            Ok(None) => {
                sound = false;
                missing(name, variable.place, owner, findings);
            }
            Err(Judged) => sound = false,
        }
    }
    sound.then_some(values)
}

/// A value was refused, and the finding is made.
struct Judged;

fn resolve_one(
    name: &str,
    variable: &Variable<'_>,
    layers: &[Layer<'_, '_>],
    findings: &mut Findings,
) -> Result<Option<Value>, Judged> {
    let mut value = variable.default.clone();
    let mut sound = true;
    for (counts, layer) in layers {
        let Some(set) = layer.and_then(|layer| layer.get(name)) else { continue };
        let Some(judged) = variable.judge(set.value.clone(), set.place, name, findings) else {
            sound = false;
            continue;
        };
        if *counts {
            value = Some(match value {
                Some(under) if variable.kind == Type::Map => under.merge(judged),
                _ => judged,
            });
        }
    }
    if sound { Ok(value) } else { Err(Judged) }
}

fn missing(name: &str, place: Place<'_>, owner: &Owner<'_>, findings: &mut Findings) {
    let host = &owner.host.name;
    let (message, table) = match owner.component {
        Some(component) => {
            (format!("`{component}` needs a value for `{name}` on the host {host}, and there is none"), format!("set.{component}"))
        }
        None => (format!("the fleet variable `{name}` has no value on the host {host}"), "set".to_owned()),
    };
    findings.at_with(
        place,
        message,
        format!("give it a `default`, or a value under [{table}] in hosts/{host}.toml or [group.{table}] in fleet.toml"),
    );
}
