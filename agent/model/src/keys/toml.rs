//! TOML, through the spans of the toml crate.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::json::quoted;
use super::node::{Member, Node, Style, What};
use super::{MAX_DEPTH, MAX_NODES, Unreadable};

/// Contents of more tables with a header are not read: each costs the parser over a kilobyte before anything can be counted.
const MAX_HEADERS: usize = 8_000;

/// Reads a content.
pub(super) fn read(text: &str) -> Result<Node, Unreadable> {
    if text.lines().filter(|line| line.trim_start().starts_with('[')).count() > MAX_HEADERS {
        return Err(Unreadable::Deep);
    }
    let root = DeTable::parse(text).map_err(|error| {
        let line = error.span().and_then(|span| text.get(..span.start)).map(|before| before.matches('\n').count() + 1);
        Unreadable::Malformed { format: "TOML", line }
    })?;
    let map = members(text, root.get_ref(), 0, &mut 0)?;
    Ok(Node { span: 0..0, what: map })
}

fn members(text: &str, table: &DeTable<'_>, depth: usize, count: &mut usize) -> Result<What, Unreadable> {
    let one = |(key, value): (&Spanned<std::borrow::Cow<'_, str>>, &Spanned<DeValue<'_>>)| {
        let node = node(text, value, depth + 1, count)?;
        Ok(Member { key: key.get_ref().to_string(), at: key.span(), node })
    };
    Ok(What::Map(table.iter().map(one).collect::<Result<_, Unreadable>>()?))
}

fn node(text: &str, value: &Spanned<DeValue<'_>>, depth: usize, count: &mut usize) -> Result<Node, Unreadable> {
    *count += 1;
    if depth > MAX_DEPTH || *count > MAX_NODES {
        return Err(Unreadable::Deep);
    }
    let what = match value.get_ref() {
        DeValue::Table(table) => members(text, table, depth, count)?,
        DeValue::Array(list) => What::List(list.iter().map(|value| node(text, value, depth + 1, count)).collect::<Result<_, _>>()?),
        DeValue::String(says) => What::Leaf(format!("\"{says}")),
        DeValue::Integer(number) => What::Leaf(
            i64::from_str_radix(number.as_str(), number.radix()).map_or_else(|_| number.as_str().to_owned(), |n| n.to_string()),
        ),
        // As written: 1.0 and 1.00 are told apart, and so are times in two zones.
        DeValue::Float(number) => What::Leaf(format!("float {}", number.as_str())),
        DeValue::Boolean(yes) => What::Leaf(yes.to_string()),
        DeValue::Datetime(at) => What::Leaf(at.to_string()),
    };
    Ok(Node { span: value.span(), what })
}

pub(super) struct Toml;

impl Style for Toml {
    fn value(&self, text: &str, node: &Node) -> String {
        match &node.what {
            What::Map(members) => {
                let one = |member: &Member| format!("{} = {}", key(&member.key), self.value(text, &member.node));
                let list: Vec<String> = members.iter().map(one).collect();
                if list.is_empty() { "{}".to_owned() } else { format!("{{ {} }}", list.join(", ")) }
            }
            What::List(elements) => {
                format!("[{}]", elements.iter().map(|node| self.value(text, node)).collect::<Vec<_>>().join(", "))
            }
            What::Leaf(_) => text.get(node.span.clone()).unwrap_or_default().to_owned(),
        }
    }

    fn add(&self, text: &str, map: &Node, path: &[String], members: &[(String, String)]) -> Option<(usize, String)> {
        let list: Vec<String> = members.iter().map(|(name, value)| format!("{} = {value}", key(name))).collect();
        let mut lines = list.join("\n") + "\n";
        if path.is_empty() {
            return Some((0, lines));
        }
        let own = text.get(map.span.clone())?;
        if own.starts_with('{') {
            let is_empty = matches!(&map.what, What::Map(members) if members.is_empty());
            return Some((map.span.start + 1, format!(" {}{}", list.join(", "), if is_empty { " " } else { "," })));
        }
        if own.starts_with('[') {
            // After the header's line; the keys of a table stand between it and the next header.
            return Some(match text.get(map.span.end..)?.find('\n') {
                Some(at) => (map.span.end + at + 1, lines),
                None => (text.len(), format!("\n{lines}")),
            });
        }
        // A table that only the headers of tables in it tell of. (One that dotted keys make cannot be opened again: nothing is added then.)
        let header: Vec<String> = path.iter().map(|part| key(part)).collect();
        lines.insert_str(0, &format!("{}[{}]\n", if text.ends_with('\n') { "\n" } else { "\n\n" }, header.join(".")));
        Some((text.len(), lines))
    }
}

fn key(name: &str) -> String {
    let is_bare = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    if is_bare { name.to_owned() } else { quoted(name) }
}
