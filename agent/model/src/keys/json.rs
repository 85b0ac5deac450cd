//! JSON, through serde_json's raw values: slices of the text itself, whose place in it is their address.

use std::fmt;
use std::ops::Range;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::node::{Member, NULL, Node, Style, What};
use super::{MAX_DEPTH, MAX_NODES, Unreadable};

/// The members of an object in their order, doubles and all.
struct Members<'t>(Vec<(String, &'t RawValue)>);

impl<'t> Deserialize<'t> for Members<'t> {
    fn deserialize<D: Deserializer<'t>>(deserializer: D) -> Result<Self, D::Error> {
        struct Walk;
        impl<'t> Visitor<'t> for Walk {
            type Value = Members<'t>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'t>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    if members.len() >= MAX_NODES {
                        return Err(A::Error::custom("too many"));
                    }
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Walk)
    }
}

/// Reads a content.
pub(super) fn read(text: &str) -> Result<Node, Unreadable> {
    let malformed = |error: serde_json::Error| Unreadable::Malformed { format: "JSON", line: Some(error.line()) };
    let raw: &RawValue = serde_json::from_str(text).map_err(malformed)?;
    node(text, raw, 0, &mut 0)
}

fn node(text: &str, raw: &RawValue, depth: usize, count: &mut usize) -> Result<Node, Unreadable> {
    *count += 1;
    if depth > MAX_DEPTH || *count > MAX_NODES {
        return Err(Unreadable::Deep);
    }
    let malformed = |_| Unreadable::Malformed { format: "JSON", line: None };
    let span = place(text, raw.get()).ok_or(Unreadable::Malformed { format: "JSON", line: None })?;
    let what = match raw.get().as_bytes().first() {
        Some(b'{') => {
            let members: Members<'_> = serde_json::from_str(raw.get()).map_err(malformed)?;
            let one = |(key, raw): (String, &RawValue)| {
                let node = node(text, raw, depth + 1, count)?;
                Ok(Member { key, at: span.start..span.start, node })
            };
            What::Map(members.0.into_iter().map(one).collect::<Result<_, Unreadable>>()?)
        }
        Some(b'[') => {
            let elements: Vec<&RawValue> = serde_json::from_str(raw.get()).map_err(malformed)?;
            What::List(elements.into_iter().map(|raw| node(text, raw, depth + 1, count)).collect::<Result<_, _>>()?)
        }
        Some(b'"') => What::Leaf(format!("\"{}", serde_json::from_str::<String>(raw.get()).map_err(malformed)?)),
        // A number, or a word; `null` is NULL.
        _ => What::Leaf(raw.get().to_owned()),
    };
    debug_assert!(what != What::Leaf(NULL.to_owned()) || raw.get() == "null");
    Ok(Node { span, what })
}

// A raw value is a slice of the text that it was read from.
fn place(text: &str, part: &str) -> Option<Range<usize>> {
    let start = (part.as_ptr() as usize).checked_sub(text.as_ptr() as usize)?;
    let end = start + part.len();
    (text.get(start..end)? == part).then_some(start..end)
}

pub(super) struct Json;

/// A text as JSON writes it (and YAML and TOML read it).
pub(super) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

impl Style for Json {
    fn value(&self, text: &str, node: &Node) -> String {
        match &node.what {
            // Picked out of the found one: no text of it is this map.
            What::Map(members) => {
                let one = |member: &Member| format!("{}: {}", quoted(&member.key), self.value(text, &member.node));
                format!("{{{}}}", members.iter().map(one).collect::<Vec<_>>().join(", "))
            }
            _ => text.get(node.span.clone()).unwrap_or(NULL).to_owned(),
        }
    }

    fn add(&self, text: &str, map: &Node, _path: &[String], members: &[(String, String)]) -> Option<(usize, String)> {
        let at = map.span.start + 1;
        let rest = text.get(at..)?;
        // What stands before the first key stands before each new one as well.
        let space = &rest[..rest.len() - rest.trim_start().len()];
        let is_empty = matches!(&map.what, What::Map(members) if members.is_empty());
        let space = if is_empty { "" } else { space };
        let list: Vec<String> = members.iter().map(|(key, value)| format!("{space}{}: {value}", quoted(key))).collect();
        let between = if space.contains('\n') { "," } else { ", " };
        let mut new = list.join(between);
        if !is_empty {
            new.push_str(between);
        }
        Some((at, new))
    }
}
