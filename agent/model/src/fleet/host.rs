//! `hosts/<name>.toml`: what only one host has; the last word.

use std::collections::BTreeMap;

use super::file::{Settings, read_components};
use super::read::{Document, Located, Place, brief};
use super::selector::{HOST, is_label_key, is_label_value};
use super::variable::Variables;
use crate::bundle::Bundle;
use crate::finding::Findings;
use crate::names::{ComponentName, HostName};

/// The parsed file of one host.
#[derive(Debug)]
pub struct HostFile<'s> {
    /// The file as a whole.
    pub place: Place<'s>,
    /// Labels, beneath those of the host's own configuration.
    pub labels: BTreeMap<String, String>,
    /// Components beside those of its groups.
    pub components: Vec<Located<'s, ComponentName>>,
    /// Components that its groups name and that it does not get.
    pub without: Vec<Located<'s, ComponentName>>,
    /// Values, over those of its groups.
    pub set: Settings<'s>,
}

/// The path of a host's file.
pub(crate) fn path(name: &HostName) -> String {
    format!("hosts/{name}.toml")
}

impl<'s> HostFile<'s> {
    /// Reads the file of a host; `None` when it has none or when it cannot be parsed (`findings` then says so).
    pub fn read(bundle: &'s Bundle, name: &HostName, variables: &Variables<'s>, findings: &mut Findings) -> Option<Self> {
        let (file, blob) = bundle.files.get_key_value(path(name).as_str())?;
        let document = Document::parse(file.as_str(), &blob.bytes, findings)?;
        let mut root = document.root();
        let mut labels = BTreeMap::new();
        if let Some(table) = root.table("labels", findings) {
            for (key, item) in table.entries() {
                let Some(value) = item.string(key.value, findings) else { continue };
                if key.value == HOST {
                    findings.at(key.place, "`host` is built in: it is always the host's name");
                } else if !is_label_key(key.value) {
                    findings.at_with(key.place, format!("`{}` cannot be a label", brief(key.value)), LABEL);
                } else if !is_label_value(&value.value) {
                    findings.at_with(value.place, format!("`{}` cannot be a label's value", brief(&value.value)), LABEL);
                } else {
                    labels.insert(key.value.to_owned(), value.value);
                }
            }
        }
        let components = read_components(&mut root, "components", bundle, findings);
        let without = read_components(&mut root, "without", bundle, findings);
        for out in &without {
            if let Some(both) = components.iter().find(|c| c.value == out.value) {
                let message = format!("`{}` is both added and left out", out.value);
                findings.at_both(out.place, message, both.place, "added here", "remove one of the two");
            }
        }
        let set = Settings::read(root.table("set", findings), bundle, variables, findings);
        let place = Place { start: 0, end: 0, ..root.place };
        root.finish(findings);
        Some(Self { place, labels, components, without, set })
    }
}

const LABEL: &str = "letters, digits and `-_./:@+`, so that a selector can name it";
