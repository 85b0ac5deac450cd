//! The whole repository at once: what `trimtab validate` tells in CI, before any host sees it.
//!
//! Every file is parsed, every template compiled, and every host rendered: those of `hosts/*.toml` with their labels, and for each group
//! that means none of them a placeholder that it does mean. Facts are placeholders throughout.

use std::collections::{BTreeMap, BTreeSet};

use super::layout::{self, What};
use super::template::Engine;
use super::{Pass, artifact, resolve};
use crate::bundle::Bundle;
use crate::desired::Rendered;
use crate::facts::{Facts, Host, OsRelease, PathPolicy};
use crate::finding::Findings;
use crate::fleet::read::Place;
use crate::fleet::selector::{HOST, Requirement, Selector};
use crate::fleet::{Component, FleetFile, HostFile};
use crate::names::{ComponentName, HostName};

/// What is to be said about a whole repository.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// What must change before it can be applied.
    pub errors: Findings,
    /// What should be looked at.
    pub warnings: Findings,
    /// How many hosts were rendered, placeholders not among them.
    pub hosts: usize,
    /// How many components there are.
    pub components: usize,
}

/// Validates a whole repository.
pub fn validate(bundle: &Bundle, policy: &PathPolicy) -> Report {
    let mut report = Report { components: bundle.components.len(), ..Report::default() };
    top_level(bundle, &mut report);
    let Some(fleet) = FleetFile::read(bundle, &mut report.errors) else {
        report.errors.settle();
        return report;
    };
    let mut used = BTreeSet::new();
    let names = host_names(bundle, &mut report.errors);
    report.hosts = names.len();
    let (members, nobody) = members(bundle, &fleet, &names, policy, &mut report.errors);
    for (place, select) in nobody {
        report.warnings.at(place, format!("no host can be meant by `{select}`"));
    }
    for member in &members {
        pass(bundle, member, &mut used, &mut report);
    }
    for name in &bundle.components {
        component(bundle, name, policy, used.contains(name), &mut report);
    }
    report.errors.settle();
    report.warnings.settle();
    report
}

/// Somebody that a repository speaks of: a host with a file of its own, or a placeholder for a group that means none of these.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The name of the host or of the group.
    pub name: String,
    /// It stands for a group.
    pub is_group: bool,
    /// The host, with placeholders for facts; for a group, with labels that its selector means.
    pub host: Host,
}

impl Member {
    /// What it would get from a repository, or why nothing.
    pub fn render(&self, bundle: &Bundle) -> Result<Rendered, Findings> {
        let mut pass = Pass::new(bundle, &self.host, self.is_group);
        let rendered = pass.run(&mut |_| {});
        pass.findings.settle();
        rendered.ok_or(pass.findings)
    }
}

/// Everybody that a repository speaks of, hosts first; nobody where `fleet.toml` cannot be read ([`validate`] tells why).
pub fn everybody(bundle: &Bundle, policy: &PathPolicy) -> Vec<Member> {
    let mut unheard = Findings::default();
    let Some(fleet) = FleetFile::read(bundle, &mut unheard) else { return Vec::new() };
    let names = host_names(bundle, &mut unheard);
    members(bundle, &fleet, &names, policy, &mut unheard).0
}

/// The members, and the selectors that can mean nobody, each with its place.
fn members<'b>(
    bundle: &'b Bundle,
    fleet: &FleetFile<'b>,
    names: &[HostName],
    policy: &PathPolicy,
    errors: &mut Findings,
) -> (Vec<Member>, Vec<(Place<'b>, String)>) {
    let (mut members, mut nobody, mut known) = (Vec::new(), Vec::new(), Vec::new());
    for name in names {
        let file = HostFile::read(bundle, name, &fleet.variables, errors);
        let mut labels = file.map(|file| file.labels).unwrap_or_default();
        labels.insert(HOST.to_owned(), name.to_string());
        known.push(labels);
        let host = placeholder(name, BTreeMap::new(), policy);
        members.push(Member { name: name.to_string(), is_group: false, host });
    }
    for group in &fleet.groups {
        let Some(select) = &group.select else { continue };
        if known.iter().any(|labels| select.value.matches(labels)) {
            continue;
        }
        match somebody(&select.value, policy) {
            Some(host) => members.push(Member { name: group.name.value.clone(), is_group: true, host }),
            None => nobody.push((select.place, select.value.to_string())),
        }
    }
    (members, nobody)
}

fn pass(bundle: &Bundle, member: &Member, used: &mut BTreeSet<ComponentName>, report: &mut Report) {
    let mut pass = Pass::new(bundle, &member.host, member.is_group);
    pass.run(&mut |_| {});
    for (to, from) in [(&mut report.errors, pass.findings), (&mut report.warnings, pass.warnings)] {
        to.more += from.more;
        // What is wrong with a component is wrong on a thousand hosts, and told once.
        from.list.into_iter().for_each(|finding| {
            if !to.list.contains(&finding) {
                to.push(finding);
            }
        });
    }
    if let Some(choice) = resolve::choose(bundle, &member.host, &mut Findings::default()) {
        used.extend(choice.components.into_keys());
    }
}

/// A component by itself: its files, and its templates as far as they can be judged without values.
fn component(bundle: &Bundle, name: &ComponentName, policy: &PathPolicy, used: bool, report: &mut Report) {
    if used {
        return;
    }
    report.warnings.at(Place::file(&format!("components/{name}")), "no host gets this component");
    let read = Component::read(bundle, name, &mut report.errors);
    let engine = Engine::new();
    for draft in layout::lay_out(bundle, &read, policy, &mut report.errors) {
        match draft.what {
            What::Template(bytes) => drop(engine.compile(draft.place.file, bytes, &mut report.errors)),
            What::Artifact(declared) => artifact::compile(&engine, &declared, &mut report.errors),
            _ => {}
        }
    }
}

fn host_names(bundle: &Bundle, errors: &mut Findings) -> Vec<HostName> {
    let mut names = Vec::new();
    for path in bundle.files.keys() {
        let Some(file) = path.as_str().strip_prefix("hosts/") else { continue };
        if file.starts_with("README") || file == ".gitkeep" || file == ".gitignore" {
            continue;
        }
        match file.strip_suffix(".toml").map(str::parse::<HostName>) {
            Some(Ok(name)) => names.push(name),
            Some(Err(error)) => errors.at(Place::file(path.as_str()), format!("this cannot be the name of a host: {}", error.why)),
            None => errors.at_with(
                Place::file(path.as_str()),
                "this file means nothing in hosts/",
                "a host's file is hosts/<name>.toml",
            ),
        }
    }
    names
}

fn top_level(bundle: &Bundle, report: &mut Report) {
    for path in bundle.files.keys() {
        // Folders directly under components/ are components; a file there would be ignored.
        if let Some(rest) = path.as_str().strip_prefix("components/")
            && !rest.contains('/')
            && !rest.starts_with("README")
            && rest != ".gitkeep"
        {
            report.errors.at(Place::file(path.as_str()), "a component is a folder, and this is a file");
        }
    }
}

fn placeholder(name: &HostName, labels: BTreeMap<String, String>, policy: &PathPolicy) -> Host {
    let os = OsRelease {
        id: "debian".to_owned(),
        id_like: Vec::new(),
        version_id: "13".to_owned(),
        version_codename: "trixie".to_owned(),
        variant_id: "server".to_owned(),
        pretty_name: "Debian GNU/Linux 13 (trixie)".to_owned(),
    };
    let facts = Facts {
        hostname: name.to_string(),
        machine_id: "0123456789abcdef0123456789abcdef".to_owned(),
        arch: "x86_64".to_owned(),
        os,
        kernel: "6.12.0".to_owned(),
        virtualization: "none".to_owned(),
        memory_mib: 2048,
        cpus: 2,
    };
    Host { name: name.clone(), labels, facts, policy: policy.clone() }
}

/// A host that a selector means; `None` when none was found, which for a selector that somebody wrote on purpose says that there is none.
fn somebody(selector: &Selector, policy: &PathPolicy) -> Option<Host> {
    let mut labels = BTreeMap::new();
    let mut name = "any-host".to_owned();
    for requirement in &selector.requirements {
        let value = match requirement {
            Requirement::Equals { value, not: false, .. } => value.clone(),
            Requirement::In { values, not: false, .. } => values.first()?.clone(),
            Requirement::Exists { not: false, .. } => "placeholder".to_owned(),
            _ => continue,
        };
        if requirement.key() == HOST {
            name = value.replace(['*', '?'], "x");
        } else {
            labels.entry(requirement.key().to_owned()).or_insert(value);
        }
    }
    let host = placeholder(&name.parse().ok()?, labels.clone(), policy);
    labels.insert(HOST.to_owned(), name);
    selector.matches(&labels).then_some(host)
}
