//! Why a resource is as it is: what put it here, what is done about drift of it, what depends on it, and what became of it.
//!
//! From what a host remembers alone (ledger, kept generations, drift book, holds): no network, no repository. Pure: what stands on the host is
//! added by who can look.
//! Limits: generations that are not kept any more tell nothing, so a change that is older than them is only known to be older.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::desired::{Desired, Entry, Node, Origin, Unit};
use crate::drift::{Drift, DriftBook, DriftPolicy};
use crate::hold::{Held, Holds};
use crate::ledger::{Ledger, MAX_LINES};
use crate::names::{ComponentName, HostPath, UnitName};
use crate::plan::{Difference, PRIVATE, Verb, compare};
use crate::transaction::{Ended, Generation};

/// What a host remembers.
#[derive(Debug, Clone, Copy)]
pub struct Memory<'a> {
    /// What is owned, and how past changes ended.
    pub ledger: &'a Ledger,
    /// The generation in force, if it can be read.
    pub generation: Option<&'a Generation>,
    /// What drifted.
    pub book: &'a DriftBook,
    /// What a person holds.
    pub holds: &'a Holds,
}

/// All that is known of one resource.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// As in [`Change::resource`](crate::plan::Change::resource).
    pub resource: String,
    /// Whether the state in force wants it; otherwise it left, and is still remembered.
    pub wanted: bool,
    /// Whether trimtab owns it: it was written, or taken over.
    pub owned: bool,
    /// What is wanted, in a few words a line; contents by digest, and private ones not at all.
    pub state: Vec<Difference>,
    /// Component, file and line that ask for it.
    pub origin: Option<Origin>,
    /// The generation in force.
    pub generation: u64,
    /// The commit that the state in force was made from.
    pub revision: String,
    /// Its component is not as that commit has it but as an earlier generation had it.
    pub withheld: bool,
    /// What is done about drift.
    pub policy: DriftPolicy,
    /// Keys that are somebody else's business, each as `a.b.c`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ignored_keys: Vec<String>,
    /// A person holds it as it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pinned: Option<Held>,
    /// A person holds the whole host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suspended: Option<Held>,
    /// Managed files that it is made of or reads.
    pub reads: BTreeSet<HostPath>,
    /// Units that are restarted or reloaded when it changes.
    pub read_by: BTreeSet<UnitName>,
    /// Components that its component needs.
    pub needs: BTreeSet<ComponentName>,
    /// Components that need its component.
    pub needed_by: BTreeSet<ComponentName>,
    /// What past generations did to it, newest first.
    pub history: Vec<Came>,
    /// Older generations are not kept: it may have been there for longer than [`Explanation::history`] says.
    pub history_is_cut: bool,
    /// Its drift, newest first.
    pub drift: Vec<Drift>,
}

/// One generation that changed a resource.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Came {
    /// The generation.
    pub generation: u64,
    /// Its commit.
    pub revision: String,
    /// When it was put in force, seconds since 1970.
    pub at: u64,
    /// `create`, `update` or `remove`.
    pub verb: Verb,
    /// What it changed, by property.
    pub differs: Vec<Difference>,
}

/// The resource that a person means, by its name with or without its kind; a service also without its ending.
pub fn find(asked: &str, names: &BTreeSet<String>) -> Option<String> {
    let asked = asked.trim();
    let forms = [
        asked.to_owned(),
        format!("file {asked}"),
        format!("unit {asked}"),
        format!("unit {asked}.service"),
        format!("image {asked}"),
    ];
    forms.into_iter().find(|form| names.contains(form))
}

impl Memory<'_> {
    /// Every resource that something is known of.
    pub fn names(&self) -> BTreeSet<String> {
        let none = Desired::default();
        let desired = self.generation.map_or(&none, |generation| &generation.desired);
        let files = self.ledger.entries.keys().chain(desired.entries.keys()).map(|path| format!("file {path}"));
        let units = self.ledger.units.keys().chain(desired.units.keys()).map(|unit| format!("unit {unit}"));
        let images = desired.images.keys().map(|image| format!("image {image}"));
        let drifted = self.book.standing.keys().cloned().chain(self.book.past.iter().map(|drift| drift.resource.clone()));
        files.chain(units).chain(images).chain(drifted).collect()
    }

    /// All that is known of a resource, by its whole name. `load` reads a kept generation.
    pub fn explain(&self, resource: &str, load: impl Fn(u64) -> Option<Generation>) -> Explanation {
        let none = Desired::default();
        let desired = self.generation.map_or(&none, |generation| &generation.desired);
        let path = resource.strip_prefix("file ").and_then(|name| name.parse::<HostPath>().ok());
        let name = resource.strip_prefix("unit ").and_then(|name| name.parse::<UnitName>().ok());
        let entry = path.as_ref().and_then(|path| desired.entries.get(path));
        let unit = name.as_ref().and_then(|name| desired.units.get(name));
        let image = resource.strip_prefix("image ").and_then(|image| desired.images.get(image));
        let owned = path.as_ref().and_then(|path| self.ledger.entries.get(path)).map(|owned| &owned.origin);
        let owned = owned.or_else(|| name.as_ref().and_then(|name| self.ledger.units.get(name)).map(|owned| &owned.origin));
        let wanted = entry.map(|entry| &entry.origin).or_else(|| unit.map(|unit| &unit.origin)).or(image);
        let drift: Vec<Drift> = self.book.of(resource).cloned().collect();
        let origin = wanted.or(owned).or_else(|| drift.first().map(|drift| &drift.origin)).cloned();
        let component = origin.as_ref().map(|origin| &origin.component);
        let needs = component.and_then(|component| desired.components.get(component)).cloned().unwrap_or_default();
        let needed_by = desired.components.iter().filter(|(_, needs)| component.is_some_and(|component| needs.contains(component)));
        let held = |generation: &Generation| generation.withheld.iter().any(|held| Some(&held.component) == component);
        let (history, history_is_cut) = self.history(resource, load);
        Explanation {
            resource: resource.to_owned(),
            wanted: wanted.is_some(),
            owned: owned.is_some(),
            state: entry.map(file_words).or_else(|| unit.map(unit_words)).unwrap_or_default(),
            generation: self.ledger.generation,
            revision: self.generation.map(|generation| generation.revision.clone()).unwrap_or_default(),
            withheld: self.generation.is_some_and(held),
            policy: entry.map(|entry| entry.drift).or_else(|| unit.map(|unit| unit.drift)).unwrap_or_default(),
            ignored_keys: entry.map(ignored_keys).unwrap_or_default(),
            pinned: self.holds.pins.get(resource).cloned(),
            suspended: self.holds.suspended.clone(),
            reads: unit.map(|unit| unit.definition.union(&unit.uses).cloned().collect()).unwrap_or_default(),
            read_by: readers(desired, path.as_ref(), name.as_ref()),
            needed_by: needed_by.map(|(name, _)| name.clone()).collect(),
            needs,
            origin,
            history,
            history_is_cut,
            drift,
        }
    }

    /// Which of the generations that were in force changed it, newest first; and whether there were older ones that nobody can ask any more.
    fn history(&self, resource: &str, load: impl Fn(u64) -> Option<Generation>) -> (Vec<Came>, bool) {
        // Only what was in force counts: one that was tried and undone changed nothing that lasted.
        let lines = self.ledger.history.iter().filter(|line| line.end != Ended::RolledBack);
        let mut times: Vec<(u64, u64)> = lines.map(|line| (line.generation, line.at)).collect();
        if times.first().is_none_or(|(number, _)| *number != self.ledger.generation)
            && let Some(generation) = self.generation
        {
            times.insert(0, (generation.number, generation.at));
        }
        let forgotten = self.ledger.history.len() >= MAX_LINES;
        let mut list = Vec::new();
        let mut newer: Option<(Generation, u64)> = None;
        for (number, at) in times {
            let Some(older) = load(number) else { return (list, true) };
            if let Some((newer, at)) = &newer {
                list.extend(came(&older.desired, newer, *at, resource));
            }
            newer = Some((older, at));
        }
        let Some((oldest, at)) = newer else { return (list, false) };
        if !forgotten {
            // Before the first one trimtab wanted nothing here.
            list.extend(came(&Desired::default(), &oldest, at, resource));
        }
        (list, forgotten)
    }
}

fn came(before: &Desired, after: &Generation, at: u64, resource: &str) -> Option<Came> {
    let change = compare(before, &after.desired).into_iter().find(|change| change.resource == resource)?;
    let (generation, revision) = (after.number, after.revision.clone());
    Some(Came { generation, revision, at, verb: change.verb, differs: change.differs })
}

/// Units that run with it: those that read a file, and those that are carried along by a unit.
fn readers(desired: &Desired, path: Option<&HostPath>, name: Option<&UnitName>) -> BTreeSet<UnitName> {
    let reads = |unit: &Unit| {
        path.is_some_and(|path| unit.definition.contains(path) || unit.uses.contains(path))
            || name.is_some_and(|name| unit.after.contains(name))
    };
    desired.units.iter().filter(|(_, unit)| reads(unit)).map(|(name, _)| name.clone()).collect()
}

fn ignored_keys(entry: &Entry) -> Vec<String> {
    entry.ignored.iter().flat_map(|ignored| &ignored.keys).map(|key| key.join(".")).collect()
}

/// A property of what is wanted; nothing was found.
fn wanted(property: &str, wanted: impl Into<String>) -> Difference {
    Difference { property: property.to_owned(), found: String::new(), wanted: wanted.into() }
}

fn file_words(entry: &Entry) -> Vec<Difference> {
    let state = &entry.state;
    let mut list = match &state.node {
        Node::File { .. } if !entry.shown => vec![wanted("kind", "file"), wanted("content", PRIVATE)],
        Node::File { digest, size } => {
            vec![wanted("kind", "file"), wanted("content", format!("{}, {size} bytes", digest.short()))]
        }
        Node::Symlink { target } => vec![wanted("kind", "symlink"), wanted("target", target)],
        Node::Directory => vec![wanted("kind", "directory")],
    };
    if !matches!(state.node, Node::Symlink { .. }) {
        list.push(wanted("mode", format!("{:04o}", state.mode)));
    }
    list.extend([wanted("owner", state.owner.as_str()), wanted("group", state.group.as_str())]);
    list
}

fn unit_words(unit: &Unit) -> Vec<Difference> {
    let enabled = serde_json::to_value(unit.enabled).ok().and_then(|value| value.as_str().map(str::to_owned));
    let active = match unit.active {
        Some(true) => "active",
        Some(false) => "inactive",
        None => "as it is",
    };
    vec![wanted("enabled", enabled.unwrap_or_else(|| "as it is".to_owned())), wanted("active", active)]
}

#[cfg(test)]
mod tests;
