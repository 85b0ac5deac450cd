//! YAML, through the events of saphyr-parser, each with its place.

use std::collections::BTreeMap;
use std::ops::Range;

use saphyr_parser::{Event, Parser, ScalarStyle, Span, StrInput, Tag};

use super::json::quoted;
use super::node::{Member, NULL, Node, Style, What};
use super::{MAX_DEPTH, MAX_FILE, MAX_NODES, Unreadable};

/// Reads a content of one document.
pub(super) fn read(text: &str) -> Result<Node, Unreadable> {
    // The parser holds all of a list in brackets before it tells the first value of it.
    if text.contains(['[', '{']) && text.bytes().filter(|byte| *byte == b',').count() > MAX_NODES {
        return Err(Unreadable::Deep);
    }
    let mut reader = Reader {
        text,
        // The parser counts characters.
        bytes: text.char_indices().map(|(at, _)| at).chain([text.len()]).collect(),
        parser: Parser::new_from_str(text),
        anchors: BTreeMap::new(),
        spent: Cost::default(),
    };
    let mut root = None;
    loop {
        let (event, span) = reader.next()?;
        match event {
            Event::StreamStart | Event::DocumentEnd | Event::Nothing => {}
            // Of several documents, a path says not which.
            Event::DocumentStart(_) if root.is_some() => return Err(reader.malformed(&span)),
            Event::DocumentStart(_) => {
                let (event, span) = reader.next()?;
                root = Some(reader.node(event, &span, 0)?);
            }
            Event::StreamEnd => return Ok(root.unwrap_or(Node { span: 0..0, what: What::Leaf(NULL.to_owned()) })),
            _ => return Err(reader.malformed(&span)),
        }
    }
}

struct Reader<'t> {
    text: &'t str,
    bytes: Vec<usize>,
    parser: Parser<'t, StrInput<'t>>,
    /// What stands under an anchor, and what it costs.
    anchors: BTreeMap<usize, (Node, Cost)>,
    spent: Cost,
}

/// What was read so far: a small text may stand for much. An alias is all that it stands for, an anchor is kept beside what it stands on, and a tag's
/// name is written out wherever its handle is.
#[derive(Debug, Clone, Copy, Default)]
struct Cost {
    values: usize,
    bytes: usize,
}

/// All texts together, as they are read.
const MAX_BYTES: usize = 4 * MAX_FILE;

impl<'t> Reader<'t> {
    fn spend(&mut self, cost: Cost) -> Result<(), Unreadable> {
        self.spent.values += cost.values;
        self.spent.bytes += cost.bytes;
        if self.spent.values > MAX_NODES || self.spent.bytes > MAX_BYTES { Err(Unreadable::Deep) } else { Ok(()) }
    }

    fn next(&mut self) -> Result<(Event<'t>, Span), Unreadable> {
        match self.parser.next_event() {
            Some(Ok(next)) => Ok(next),
            Some(Err(error)) => Err(Unreadable::Malformed { format: "YAML", line: Some(error.marker().line()) }),
            None => Err(Unreadable::Malformed { format: "YAML", line: None }),
        }
    }

    #[allow(clippy::unused_self)] // the place is the parser's
    fn malformed(&self, span: &Span) -> Unreadable {
        Unreadable::Malformed { format: "YAML", line: Some(span.start.line()) }
    }

    // Without the white space after it: a block ends where the next thing begins.
    fn range(&self, span: &Span) -> Range<usize> {
        let byte = |at: usize| self.bytes.get(at).copied().unwrap_or(self.text.len());
        let (start, end) = (byte(span.start.index()), byte(span.end.index()));
        let text = self.text.get(start..end).unwrap_or_default();
        start..start + text.trim_end().len()
    }

    fn node(&mut self, event: Event<'t>, span: &Span, depth: usize) -> Result<Node, Unreadable> {
        let before = self.spent;
        self.spend(Cost { values: 1, bytes: 0 })?;
        if depth > MAX_DEPTH {
            return Err(Unreadable::Deep);
        }
        let mut range = self.range(span);
        let (anchor, what) = match event {
            Event::Scalar(says, style, anchor, tag) => {
                if matches!(style, ScalarStyle::Literal | ScalarStyle::Folded) {
                    // The place that is told begins behind the sign.
                    range.start = self.text.get(..range.start).and_then(|text| text.rfind(['|', '>'])).unwrap_or(range.start);
                }
                let name = tag.as_deref().map_or(0, |tag| tag.handle.len() + tag.suffix.len());
                self.spend(Cost { values: 0, bytes: says.len() + name })?;
                (anchor, What::Leaf(leaf(&says, style, tag.as_deref())))
            }
            Event::Alias(anchor) => {
                let cost = self.anchors.get(&anchor).map(|(_, cost)| *cost).ok_or_else(|| self.malformed(span))?;
                self.spend(cost)?;
                // Its inside is somewhere else: what would be edited there is refused when the result is read again.
                return Ok(Node { span: range, what: self.anchors[&anchor].0.what.clone() });
            }
            Event::SequenceStart(anchor, None) => {
                let mut list = Vec::new();
                loop {
                    let (event, span) = self.next()?;
                    if event == Event::SequenceEnd {
                        range = ended(range, self.range(&span), list.last());
                        break (anchor, What::List(list));
                    }
                    list.push(self.node(event, &span, depth + 1)?);
                }
            }
            Event::MappingStart(anchor, None) => {
                let mut members: Vec<Member> = Vec::new();
                loop {
                    let (event, span) = self.next()?;
                    if event == Event::MappingEnd {
                        range = ended(range, self.range(&span), members.last().map(|member| &member.node));
                        break (anchor, What::Map(members));
                    }
                    let Event::Scalar(key, ..) = event else { return Err(self.malformed(&span)) };
                    let at = self.range(&span);
                    let (event, span) = self.next()?;
                    self.spend(Cost { values: 0, bytes: key.len() })?;
                    members.push(Member { key: key.into_owned(), at, node: self.node(event, &span, depth + 1)? });
                }
            }
            // Among them collections with a tag: what that makes of them, nobody here knows.
            _ => return Err(self.malformed(span)),
        };
        let node = Node { span: range, what };
        if anchor > 0 {
            let cost = Cost { values: self.spent.values - before.values, bytes: self.spent.bytes - before.bytes };
            self.spend(cost)?;
            self.anchors.insert(anchor, (node.clone(), cost));
        }
        Ok(node)
    }
}

/// The whole of a collection: to its bracket, or to the end of what is last in it.
fn ended(start: Range<usize>, end: Range<usize>, last: Option<&Node>) -> Range<usize> {
    let to = if end.is_empty() { last.map_or(start.end, |node| node.span.end) } else { end.end };
    start.start..to.max(start.start)
}

/// Stands around a tag in what a scalar says; no text of YAML has it.
const TAG: char = '\0';

/// What a scalar says: the same text for the same value of YAML's core schema. A number is as it is written.
fn leaf(says: &str, style: ScalarStyle, tag: Option<&Tag>) -> String {
    if let Some(tag) = tag {
        return format!("{TAG}{}{}{TAG}{says}", tag.handle, tag.suffix);
    }
    if style != ScalarStyle::Plain {
        return format!("\"{says}");
    }
    match says {
        "" | "~" | "null" | "Null" | "NULL" => NULL.to_owned(),
        "true" | "True" | "TRUE" => "true".to_owned(),
        "false" | "False" | "FALSE" => "false".to_owned(),
        // What older readers take for something else than a text stays apart from the quoted text.
        _ if is_text(says) => format!("\"{says}"),
        other => other.to_owned(),
    }
}

/// A plain scalar that no reader takes for anything but a text, and that can stand anywhere without quotes.
fn is_text(says: &str) -> bool {
    const WORDS: [&str; 11] = ["y", "n", "yes", "no", "on", "off", "true", "false", "null", "nan", "inf"];
    says.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/' || c == '_')
        && says.bytes().all(|b| b.is_ascii_alphanumeric() || b"_./-".contains(&b))
        && !WORDS.contains(&says.to_ascii_lowercase().as_str())
}

pub(super) struct Yaml;

impl Style for Yaml {
    fn value(&self, text: &str, node: &Node) -> String {
        match &node.what {
            What::Map(members) => {
                let one = |member: &Member| format!("{}: {}", key(&member.key), self.value(text, &member.node));
                format!("{{{}}}", members.iter().map(one).collect::<Vec<_>>().join(", "))
            }
            What::List(list) => {
                format!("[{}]", list.iter().map(|node| self.value(text, node)).collect::<Vec<_>>().join(", "))
            }
            What::Leaf(says) => match says.strip_prefix('"') {
                Some(says) if is_text(says) => says.to_owned(),
                Some(says) => quoted(says),
                None if says.starts_with(TAG) => {
                    let (tag, says) = says[1..].split_once(TAG).unwrap_or_default();
                    if tag.starts_with('!') { format!("{tag} {}", quoted(says)) } else { format!("!<{tag}> {}", quoted(says)) }
                }
                None => text.get(node.span.clone()).filter(|raw| !raw.is_empty()).unwrap_or(NULL).to_owned(),
            },
        }
    }

    fn add(&self, text: &str, map: &Node, _path: &[String], members: &[(String, String)]) -> Option<(usize, String)> {
        let What::Map(own) = &map.what else { return None };
        if text.get(map.span.start..)?.starts_with('{') {
            let list: Vec<String> = members.iter().map(|(name, value)| format!("{}: {value}", key(name))).collect();
            return Some((map.span.start + 1, format!("{}{}", list.join(", "), if own.is_empty() { "" } else { ", " })));
        }
        let at = own.first()?.at.start;
        // The first key's column: it may stand behind a dash.
        let line = text.get(..at)?.rfind('\n').map_or(0, |end| end + 1);
        let indent = " ".repeat(text[line..at].chars().count());
        let lines = members.iter().map(|(name, value)| format!("{}: {value}\n{indent}", key(name)));
        Some((at, lines.collect()))
    }

    fn place(&self, text: &str, node: &Node, key: Option<&Range<usize>>) -> (Range<usize>, &'static str) {
        let colon = || {
            let after = key?.end;
            let rest = text.get(after..)?;
            rest.trim_start().starts_with(':').then(|| after + rest.len() - rest.trim_start().len() + 1)
        };
        // Nothing is written there: the new value comes right behind the colon.
        match colon().filter(|_| node.span.is_empty()) {
            Some(at) => (at..at, " "),
            None => (node.span.clone(), if node.span.is_empty() { " " } else { "" }),
        }
    }
}

fn key(name: &str) -> String {
    if is_text(name) { name.to_owned() } else { quoted(name) }
}
