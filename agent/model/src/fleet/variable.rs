//! Declared variables: a name, a type, perhaps a default and bounds. What is not declared cannot be set, and what is not set
//! and has no default cannot be rendered: both are found before anything is touched.

use std::collections::BTreeMap;

use super::read::{Located, Place, Table, brief, did_you_mean};
use super::value::{Type, Value};
use crate::finding::Findings;

/// Names that mean something else in a template.
const RESERVED: [&str; 27] = [
    "fleet",
    "facts",
    "labels",
    "host",
    "loop",
    "self",
    "super",
    "caller",
    "varargs",
    "kwargs",
    "range",
    "dict",
    "namespace",
    "debug",
    "true",
    "false",
    "none",
    "True",
    "False",
    "None",
    "and",
    "or",
    "not",
    "in",
    "is",
    "if",
    "else",
];

/// One declared variable.
#[derive(Debug, Clone)]
pub struct Variable<'s> {
    /// The type.
    pub kind: Type,
    /// The value where nothing else is set; `None`: it must be set.
    pub default: Option<Value>,
    /// If not empty, the only values allowed.
    pub choices: Vec<Value>,
    /// The least number allowed.
    pub min: Option<Value>,
    /// The greatest number allowed.
    pub max: Option<Value>,
    /// What it is for.
    pub description: String,
    /// The key that declares it.
    pub place: Place<'s>,
    /// The declaration itself is wrong: nothing is said about values that are set for it.
    pub broken: bool,
}

/// Declared variables by name.
pub type Variables<'s> = BTreeMap<String, Variable<'s>>;

/// Reads a `[variables]` table.
pub fn read_variables<'s>(table: Option<Table<'_, 's>>, findings: &mut Findings) -> Variables<'s> {
    let mut variables = Variables::new();
    let Some(table) = table else { return variables };
    for (name, item) in table.entries() {
        let shown = brief(name.value);
        if !is_identifier(name.value) {
            findings.at_with(
                name.place,
                format!("`{shown}` cannot be the name of a variable"),
                "a letter or `_` first, then letters, digits and `_`, at most 64: templates use it as it stands",
            );
        } else if RESERVED.contains(&name.value) {
            findings.at(name.place, format!("`{shown}` already means something in a template; choose another name"));
        }
        if let Some(declared) = item.table(name.value, findings) {
            variables.insert(name.value.to_owned(), read_variable(declared, &name, findings));
        }
    }
    variables
}

fn is_identifier(name: &str) -> bool {
    name.len() <= 64
        && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

fn read_variable<'s>(mut table: Table<'_, 's>, name: &Located<'s, &str>, findings: &mut Findings) -> Variable<'s> {
    let before = findings.list.len() + findings.more;
    let kind = table.required_string("type", findings).and_then(|kind| {
        let known = Type::named(&kind.value);
        if known.is_none() {
            let mut help = did_you_mean(&kind.value, Type::NAMES.map(|(name, _)| name));
            if help.is_empty() {
                "one of string, integer, number, boolean, list, map".clone_into(&mut help);
            }
            findings.at_with(kind.place, format!("`{}` is not a type", brief(&kind.value)), help);
        }
        known
    });
    let mut variable = Variable {
        kind: kind.unwrap_or(Type::String),
        default: None,
        choices: Vec::new(),
        min: None,
        max: None,
        description: table.string("description", findings).map(|text| text.value).unwrap_or_default(),
        place: name.place,
        broken: false,
    };
    for item in table.item("choices").and_then(|item| item.list("choices", findings)).unwrap_or_default() {
        let value = Value::read(item, "choices", findings);
        variable.choices.extend(value.and_then(|value| kind.and_then(|_| variable.typed(value, item.place, name.value, findings))));
    }
    for key in ["min", "max"] {
        let Some(item) = table.item(key) else { continue };
        let value = Value::read(item, key, findings);
        if !matches!(kind, Some(Type::Integer | Type::Number) | None) {
            findings.at(item.place, format!("`{key}` is for integers and numbers only"));
        } else if let Some(value) = value.and_then(|value| variable.typed(value, item.place, name.value, findings)) {
            *(if key == "min" { &mut variable.min } else { &mut variable.max }) = Some(value);
        }
    }
    if let Some(item) = table.item("default")
        && let Some(value) = Value::read(item, "default", findings)
        && kind.is_some()
    {
        variable.default = variable.judge(value, item.place, name.value, findings);
    }
    table.finish(findings);
    variable.broken = findings.list.len() + findings.more > before;
    variable
}

impl Variable<'_> {
    fn typed(&self, value: Value, place: Place<'_>, name: &str, findings: &mut Findings) -> Option<Value> {
        match value.of_type(self.kind) {
            Ok(value) => Some(value),
            Err(value) => {
                let (wanted, is) = (self.kind.name(), value.kind());
                findings.at(place, format!("`{}` is declared as {wanted}, and this is {is}", brief(name)));
                None
            }
        }
    }

    /// The value as the declaration wants it, or findings. Every layer is judged by itself, so that the caret is under the
    /// one that is wrong; a map that is merged from right layers is right.
    pub fn judge(&self, value: Value, place: Place<'_>, name: &str, findings: &mut Findings) -> Option<Value> {
        let value = self.typed(value, place, name, findings)?;
        let name = brief(name);
        if !self.choices.is_empty() && !self.choices.contains(&value) {
            let choices: Vec<_> = self.choices.iter().take(20).map(ToString::to_string).collect();
            findings.at_with(
                place,
                format!("{value} is not one of the choices for `{name}`"),
                format!("one of {}", choices.join(", ")),
            );
            return None;
        }
        let beyond = |bound: &Option<Value>, less: bool| {
            let (bound, value) = (bound.as_ref()?.as_f64()?, value.as_f64()?);
            (if less { value < bound } else { value > bound }).then_some(bound)
        };
        if let Some(min) = beyond(&self.min, true) {
            findings.at(place, format!("{value} is less than the least value of `{name}`, {min}"));
            return None;
        }
        if let Some(max) = beyond(&self.max, false) {
            findings.at(place, format!("{value} is more than the greatest value of `{name}`, {max}"));
            return None;
        }
        Some(value)
    }
}
