//! Two states of a host against each other, without a host: for `trimtab diff GEN GEN`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use super::paths::{difference, kind_word};
use super::{Cause, Change, Difference, PRIVATE, Verb};
use crate::desired::{Desired, Entry, Node, Origin, Unit};
use crate::drift::Exclusive;
use crate::names::ComponentName;

/// What differs between two states: files, units, images, and how each component is judged. Where it comes from in the repository is no
/// difference.
pub fn compare(old: &Desired, new: &Desired) -> Vec<Change> {
    let mut list = both(&old.entries, &new.entries, "file", |entry| &entry.origin, files);
    list.extend(both(&old.units, &new.units, "unit", |unit| &unit.origin, units));
    list.extend(both(&old.images, &new.images, "image", |origin| origin, |_, _| Vec::new()));
    list.extend(both(&old.exclusive, &new.exclusive, "exclusive", |exclusive| &exclusive.origin, exclusives));
    let (was, is) = (components(old), components(new));
    list.extend(both(&was, &is, "component", |about| &about.origin, about));
    list
}

fn both<K: Ord + ToString, V>(
    old: &BTreeMap<K, V>,
    new: &BTreeMap<K, V>,
    kind: &str,
    origin: impl Fn(&V) -> &Origin,
    differs: impl Fn(&V, &V) -> Vec<Difference>,
) -> Vec<Change> {
    let keys: BTreeSet<&K> = old.keys().chain(new.keys()).collect();
    let one = |key: &K| {
        let (verb, differs, from) = match (old.get(key), new.get(key)) {
            (Some(was), Some(is)) => (Verb::Update, differs(was, is), is),
            (None, Some(is)) => (Verb::Create, vec![difference("missing", "nothing", kind)], is),
            (Some(was), None) => (Verb::Remove, vec![difference("wanted", kind, "nothing")], was),
            (None, None) => return None,
        };
        let change = || Change {
            resource: format!("{kind} {}", key.to_string()),
            verb,
            cause: Cause::Update,
            differs: differs.clone(),
            replaces: false,
            left_alone: None,
            origin: origin(from).clone(),
        };
        (!differs.is_empty()).then(change)
    };
    keys.into_iter().filter_map(one).collect()
}

fn files(was: &Entry, is: &Entry) -> Vec<Difference> {
    let mut list = Vec::new();
    match (&was.state.node, &is.state.node) {
        (Node::File { digest: old, .. }, Node::File { digest: new, .. }) if old == new => {}
        (Node::File { .. }, Node::File { .. }) if !(was.shown && is.shown) => {
            list.push(difference("content", PRIVATE, "other, and not shown"));
        }
        (Node::File { digest: old, .. }, Node::File { digest: new, .. }) => {
            list.push(difference("content", old.short(), new.short()));
        }
        (Node::Symlink { target: old }, Node::Symlink { target: new }) => list.extend(property("target", old, new)),
        (Node::Directory, Node::Directory) => {}
        (old, new) => list.push(difference("kind", kind_word(old), kind_word(new))),
    }
    list.extend(property("mode", &format!("{:04o}", was.state.mode), &format!("{:04o}", is.state.mode)));
    list.extend(property("owner", was.state.owner.as_str(), is.state.owner.as_str()));
    list.extend(property("group", was.state.group.as_str(), is.state.group.as_str()));
    list.extend(property("use", &words(&was.role), &words(&is.role)));
    list.extend(property("drift", &words(&was.drift), &words(&is.drift)));
    list.extend(property("ignore", &ignored(was), &ignored(is)));
    list
}

fn exclusives(was: &Exclusive, is: &Exclusive) -> Vec<Difference> {
    let pairs = [("extra", words(&was.extra), words(&is.extra)), ("except", words(&was.except), words(&is.except))];
    pairs.iter().filter_map(|(name, old, new)| property(name, old, new)).collect()
}

/// The keys of others, as a person reads them.
fn ignored(entry: &Entry) -> String {
    let keys = entry.ignored.iter().flat_map(|ignored| &ignored.keys);
    let keys: Vec<String> = keys.map(|path| path.join(".")).collect();
    if keys.is_empty() { "nothing".to_owned() } else { keys.join(", ") }
}

fn units(was: &Unit, is: &Unit) -> Vec<Difference> {
    let pairs = [
        ("enabled", words(&was.enabled), words(&is.enabled)),
        ("active", words(&was.active), words(&is.active)),
        ("on-change", words(&was.on_change), words(&is.on_change)),
        ("oneshot", words(&was.oneshot), words(&is.oneshot)),
        ("definition", words(&was.definition), words(&is.definition)),
        ("uses", words(&was.uses), words(&is.uses)),
        ("drift", words(&was.drift), words(&is.drift)),
    ];
    pairs.iter().filter_map(|(name, old, new)| property(name, old, new)).collect()
}

/// How a component is judged and ordered; each value as the text that differs.
struct About {
    origin: Origin,
    values: BTreeMap<&'static str, String>,
}

fn components(state: &Desired) -> BTreeMap<ComponentName, About> {
    let one = |(name, needs): (&ComponentName, &BTreeSet<ComponentName>)| {
        let file = format!("components/{name}/component.toml");
        let bare = Origin { component: name.clone(), file: String::new(), line: 0 };
        let health = state.health.iter().filter(|check| check.origin.component == *name).cloned();
        let health: Vec<_> = health.map(|mut check| (check.origin = bare.clone(), words(&check)).1).collect();
        let hooks = state.hooks.iter().filter(|hook| hook.origin.component == *name).cloned();
        let hooks: Vec<_> = hooks.map(|mut hook| (hook.origin = bare.clone(), words(&hook)).1).collect();
        let values = BTreeMap::from([
            ("depends", words(needs)),
            ("isolate", words(&state.isolated.contains(name))),
            ("confirm", words(&state.confirm.get(name))),
            ("health", counted(&health)),
            ("hooks", counted(&hooks)),
        ]);
        (name.clone(), About { origin: Origin { file, ..bare }, values })
    };
    state.components.iter().map(one).collect()
}

fn about(was: &About, is: &About) -> Vec<Difference> {
    is.values.iter().filter_map(|(name, new)| property(name, was.values.get(name)?, new)).collect()
}

/// Checks and hooks are long, and may name what is not for everybody: how many there are, and a digest that tells them apart.
fn counted(list: &[String]) -> String {
    match list.len() {
        0 => "none".to_owned(),
        count => format!("{count} ({})", crate::digest::Digest::of(list.join("\n").as_bytes()).short()),
    }
}

fn property(name: &str, old: &str, new: &str) -> Option<Difference> {
    (old != new).then(|| difference(name, old, new))
}

/// A value of the model as a person reads it: `None` is nobody's business.
fn words(value: &(impl Debug + serde::Serialize)) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::Null) => "as it is".to_owned(),
        Ok(serde_json::Value::String(text)) => text,
        Ok(serde_json::Value::Array(list)) if list.is_empty() => "nothing".to_owned(),
        Ok(serde_json::Value::Array(list)) => {
            let texts = list.iter().map(|one| one.as_str().map_or_else(|| one.to_string(), str::to_owned));
            texts.collect::<Vec<_>>().join(", ")
        }
        Ok(other) => other.to_string(),
        Err(_) => format!("{value:?}"),
    }
}
