//! Values of variables: what they may be, how layers of them become one, and how a declaration judges them.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use toml::de::DeValue;

use super::read::{Item, Table, brief};
use crate::finding::Findings;

/// A value as templates see it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Value {
    /// `true`, `false`.
    Boolean(bool),
    /// A whole number of 64 bits.
    Integer(i64),
    /// A finite number.
    Number(f64),
    /// Text.
    String(String),
    /// Values in order.
    List(Vec<Value>),
    /// Values by name.
    Map(BTreeMap<String, Value>),
}

/// The type that a variable is declared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    /// `string`.
    String,
    /// `integer`.
    Integer,
    /// `number`: with or without a fraction.
    Number,
    /// `boolean`.
    Boolean,
    /// `list`, of anything.
    List,
    /// `map`, of anything; the only type whose layers are merged.
    Map,
}

impl Type {
    /// Every type by its name in a declaration.
    pub const NAMES: [(&'static str, Type); 6] = [
        ("string", Type::String),
        ("integer", Type::Integer),
        ("number", Type::Number),
        ("boolean", Type::Boolean),
        ("list", Type::List),
        ("map", Type::Map),
    ];

    /// The type of that name.
    pub fn named(name: &str) -> Option<Type> {
        Self::NAMES.iter().find(|(known, _)| *known == name).map(|(_, kind)| *kind)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, kind)| *kind == self).map_or("", |(name, _)| name)
    }
}

impl Value {
    /// The value in a TOML document. A date has no place in templates, nor has infinity.
    pub fn read(item: Item<'_, '_>, what: &str, findings: &mut Findings) -> Option<Value> {
        match item.value {
            DeValue::String(text) => Some(Value::String(text.to_string())),
            DeValue::Boolean(value) => Some(Value::Boolean(*value)),
            DeValue::Integer(_) => match item.as_integer() {
                Some(value) => Some(Value::Integer(value)),
                None => wrong(item, findings, "this integer does not fit into 64 bits", ""),
            },
            DeValue::Float(number) => match number.as_str().parse::<f64>() {
                Ok(value) if value.is_finite() => Some(Value::Number(value)),
                _ => wrong(item, findings, "a number must be finite", ""),
            },
            DeValue::Datetime(_) => wrong(item, findings, "dates have no type of their own here", "write it as a string"),
            DeValue::Array(_) => {
                // Every element is read, so that every problem is told; one bad element makes the list no value.
                let read: Vec<_> = item.list(what, findings)?.into_iter().map(|item| Value::read(item, what, findings)).collect();
                read.into_iter().collect::<Option<_>>().map(Value::List)
            }
            DeValue::Table(_) => Value::read_map(&item.table(what, findings)?, findings).map(Value::Map),
        }
    }

    fn read_map(table: &Table<'_, '_>, findings: &mut Findings) -> Option<BTreeMap<String, Value>> {
        let read: Vec<_> = table
            .entries()
            .map(|(key, item)| Value::read(item, key.value, findings).map(|value| (key.value.to_owned(), value)))
            .collect();
        read.into_iter().collect()
    }

    /// What it is, with an article.
    pub fn kind(&self) -> &'static str {
        match self {
            Value::String(_) => "a string",
            Value::Integer(_) => "an integer",
            Value::Number(_) => "a number",
            Value::Boolean(_) => "a boolean",
            Value::List(_) => "a list",
            Value::Map(_) => "a map",
        }
    }

    /// The value as the declared type has it; an integer is also a number, and that is the only conversion.
    pub fn of_type(self, kind: Type) -> Result<Value, Value> {
        match (kind, self) {
            #[allow(clippy::cast_precision_loss)] // a number is what was asked for
            (Type::Number, Value::Integer(n)) => Ok(Value::Number(n as f64)),
            (Type::String, value @ Value::String(_))
            | (Type::Integer, value @ Value::Integer(_))
            | (Type::Number, value @ Value::Number(_))
            | (Type::Boolean, value @ Value::Boolean(_))
            | (Type::List, value @ Value::List(_))
            | (Type::Map, value @ Value::Map(_)) => Ok(value),
            (_, value) => Err(value),
        }
    }

    /// `over` laid over `self`: two maps are merged key by key, to any depth; everything else, lists too, is replaced whole.
    #[must_use]
    pub fn merge(self, over: Value) -> Value {
        match (self, over) {
            (Value::Map(mut low), Value::Map(high)) => {
                for (key, value) in high {
                    let merged = match low.remove(&key) {
                        Some(under) => under.merge(value),
                        None => value,
                    };
                    low.insert(key, merged);
                }
                Value::Map(low)
            }
            (_, over) => over,
        }
    }

    /// Its place in the order of numbers.
    #[allow(clippy::cast_precision_loss)] // bounds beyond 2^53 are nobody's
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Value::Integer(n) => Some(*n as f64),
            Value::Number(n) => Some(*n),
            _ => None,
        }
    }
}

fn wrong<T>(item: Item<'_, '_>, findings: &mut Findings, message: &str, help: &str) -> Option<T> {
    findings.at_with(item.place, message, help);
    None
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::String(text) => write!(f, "\"{}\"", brief(text)),
            Value::Integer(n) => write!(f, "{n}"),
            Value::Number(n) => write!(f, "{n}"),
            Value::Boolean(b) => write!(f, "{b}"),
            Value::List(_) | Value::Map(_) => f.write_str(self.kind()),
        }
    }
}
