//! `fleet.toml`: fleet variables and groups; and the `set` tables that groups and hosts share.

use std::collections::{BTreeMap, BTreeSet};

use super::read::{Document, Item, Located, Place, Table, brief, did_you_mean};
use super::selector::Selector;
use super::value::Value;
use super::variable::{Variables, read_variables};
use crate::bundle::Bundle;
use crate::finding::Findings;
use crate::names::ComponentName;

/// The parsed `fleet.toml`.
#[derive(Debug)]
pub struct FleetFile<'s> {
    /// The file as a whole.
    pub place: Place<'s>,
    /// Fleet variables, `fleet.<name>` in templates.
    pub variables: Variables<'s>,
    /// Groups in the order of the file: later ones win.
    pub groups: Vec<Group<'s>>,
}

/// A selector and what the hosts that it means get.
#[derive(Debug)]
pub struct Group<'s> {
    /// Its name, unique.
    pub name: Located<'s, String>,
    /// Which hosts; `None` when it could not be read.
    pub select: Option<Located<'s, Selector>>,
    /// Components that these hosts get.
    pub components: Vec<Located<'s, ComponentName>>,
    /// Values that these hosts get.
    pub set: Settings<'s>,
}

/// A `set` table: values for fleet variables, and one table for each component that is given values.
#[derive(Debug, Default)]
pub struct Settings<'s> {
    /// Fleet variables by name.
    pub fleet: BTreeMap<String, Located<'s, Value>>,
    /// Variables of components, by component and name.
    pub components: BTreeMap<ComponentName, BTreeMap<String, Located<'s, Value>>>,
    /// The keys in the components' tables, for findings about names.
    pub keys: Vec<(ComponentName, Located<'s, String>)>,
}

impl<'s> FleetFile<'s> {
    /// Reads `fleet.toml`; `None` when it is not there, cannot be parsed, or is of another format.
    pub fn read(bundle: &'s Bundle, findings: &mut Findings) -> Option<Self> {
        const NAME: &str = "fleet.toml";
        let Some(blob) = bundle.get(NAME) else {
            findings.at_with(
                Place::file(NAME),
                "there is no such file at the top of the repository",
                "it starts with `format = 1`",
            );
            return None;
        };
        let document = Document::parse(NAME, &blob.bytes, findings)?;
        let mut root = document.root();
        let place = Place { start: 0, end: 0, ..root.place };
        match root.integer("format", findings) {
            Some(format) if format.value == super::FORMAT => {}
            Some(format) => {
                let message =
                    format!("this repository is of format {}, and this trimtab reads format {}", format.value, super::FORMAT);
                findings.at_with(format.place, message, "upgrade trimtab, or write the repository in the older format");
                return None;
            }
            None => {
                if root.item("format").is_none() {
                    findings.at_with(Place::file(NAME), "`format` is missing", "write `format = 1` as the first line");
                }
                return None;
            }
        }
        let variables = read_variables(root.table("variables", findings), findings);
        for (name, variable) in &variables {
            if bundle.components.contains(name.as_str()) {
                findings.at_with(
                    variable.place,
                    format!("`{name}` is also a component, so `set.{name}` would have two meanings"),
                    "rename the variable",
                );
            }
        }
        let mut groups: Vec<Group<'s>> = Vec::new();
        for table in root.tables("group", findings) {
            groups.extend(Group::read(table, bundle, &variables, findings));
        }
        let mut seen = BTreeMap::new();
        for group in &groups {
            if let Some(first) = seen.insert(group.name.value.as_str(), group.name.place) {
                let message = format!("there are two groups called `{}`", brief(&group.name.value));
                findings.at_both(group.name.place, message, first, "the first", "");
            }
        }
        root.finish(findings);
        Some(Self { place, variables, groups })
    }
}

impl<'s> Group<'s> {
    fn read(mut table: Table<'_, 's>, bundle: &Bundle, variables: &Variables<'s>, findings: &mut Findings) -> Option<Self> {
        let name = table.required_string("name", findings);
        if let Some(name) = &name
            && let Err(error) = name.value.parse::<ComponentName>()
        {
            findings.at(name.place, format!("`{}` cannot be the name of a group: {}", brief(&name.value), error.why));
        }
        let select = table.required("select", "`select = \"*\"` is every host", findings);
        let select = select.and_then(|item| item.string("select", findings)).and_then(|text| read_selector(&text, findings));
        let components = read_components(&mut table, "components", bundle, findings);
        let set = Settings::read(table.table("set", findings), bundle, variables, findings);
        table.finish(findings);
        Some(Self { name: name?, select, components, set })
    }
}

fn read_selector<'s>(text: &Located<'s, String>, findings: &mut Findings) -> Option<Located<'s, Selector>> {
    match text.value.parse::<Selector>() {
        Ok(value) => Some(Located { value, place: text.place }),
        Err(error) => {
            let place = text.place.within(&text.value, error.span.start, error.span.end);
            findings.at_with(
                place,
                error.message,
                "e.g. `role=kiosk,site!=lab`, `site in (a, b)`, `!canary`, `host=kiosk-*` or `*`",
            );
            None
        }
    }
}

/// Reads a list of component names, each of which must be a folder under `components/`.
pub(super) fn read_components<'s>(
    table: &mut Table<'_, 's>,
    key: &'static str,
    bundle: &Bundle,
    findings: &mut Findings,
) -> Vec<Located<'s, ComponentName>> {
    let mut names = Vec::new();
    let mut seen = BTreeSet::new();
    for text in table.strings(key, findings) {
        let shown = brief(&text.value);
        match text.value.parse::<ComponentName>() {
            Err(error) => findings.at(text.place, format!("`{shown}` cannot be the name of a component: {}", error.why)),
            Ok(name) if !bundle.components.contains(&name) => {
                let help = did_you_mean(name.as_str(), bundle.components.iter().map(ComponentName::as_str));
                findings.at_with(text.place, format!("there is no component `{shown}`: no folder components/{shown}"), help);
            }
            Ok(name) if !seen.insert(name.clone()) => findings.at(text.place, format!("`{shown}` is named twice in this list")),
            Ok(value) => names.push(Located { value, place: text.place }),
        }
    }
    names
}

impl<'s> Settings<'s> {
    /// Reads a `set` table. A key that is a component's name is that component's table; any other is a fleet variable.
    pub(super) fn read(table: Option<Table<'_, 's>>, bundle: &Bundle, variables: &Variables<'s>, findings: &mut Findings) -> Self {
        let mut settings = Self::default();
        let Some(table) = table else { return settings };
        for (key, item) in table.entries() {
            if let Some(component) = bundle.components.get(key.value) {
                settings.read_component(component, item, findings);
            } else if variables.contains_key(key.value) {
                let place = item.place;
                if let Some(value) = Value::read(item, key.value, findings) {
                    settings.fleet.insert(key.value.to_owned(), Located { value, place });
                }
            } else {
                let known = bundle.components.iter().map(ComponentName::as_str).chain(variables.keys().map(String::as_str));
                let help = did_you_mean(key.value, known);
                let help = if help.is_empty() { "declare it under [variables] in fleet.toml".to_owned() } else { help };
                let message = format!("`{}` is neither a component nor a declared fleet variable", brief(key.value));
                findings.at_with(key.place, message, help);
            }
        }
        settings
    }

    fn read_component(&mut self, component: &ComponentName, item: Item<'_, 's>, findings: &mut Findings) {
        let Some(table) = item.table(component.as_str(), findings) else { return };
        for (key, item) in table.entries() {
            self.keys.push((component.clone(), Located { value: key.value.to_owned(), place: key.place }));
            let place = item.place;
            if let Some(value) = Value::read(item, key.value, findings) {
                self.components.entry(component.clone()).or_default().insert(key.value.to_owned(), Located { value, place });
            }
        }
    }
}
