//! Formats of lines: INI as most programs read it, and systemd's unit files (Quadlet's too).
//!
//! In both, a section may come several times and a key may be repeated; all assignments of one key are one value, in their order. In INI, a
//! line that is indented deeper than its key goes on with that key's value; in unit files, one after a backslash does. What starts with `#` or
//! `;` is a comment. In INI a key may stand alone, and `:` is as good as `=`.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::path::Keys;
use super::{MAX_NODES, Unreadable};
use crate::drift::Structure;

/// A content, line by line.
pub(super) struct Lines<'t> {
    text: &'t str,
    assignments: Vec<Assignment<'t>>,
    /// Headers of sections with their lines.
    headers: Vec<(&'t str, Range<usize>)>,
}

struct Assignment<'t> {
    /// `None`: before the first section.
    section: Option<&'t str>,
    key: &'t str,
    value: String,
    /// Its lines, with their ends.
    span: Range<usize>,
}

/// Where lines are added to a section.
struct End<'t> {
    at: usize,
    indent: &'t str,
}

/// A key, in a section or before the first.
type Name<'t> = (Option<&'t str>, &'t str);

/// Each key's values in their order.
type Values<'t, 'l> = BTreeMap<Name<'t>, Vec<&'l str>>;

impl<'t> Lines<'t> {
    pub(super) fn read(format: Structure, text: &'t str) -> Result<Self, Unreadable> {
        let mut lines = Self { text, assignments: Vec::new(), headers: Vec::new() };
        let is_unit = format == Structure::Systemd;
        // The indentation of the key whose value may go on.
        let mut open: Option<usize> = None;
        let mut start = 0;
        for (number, raw) in text.split_inclusive('\n').enumerate() {
            let span = start..start + raw.len();
            start = span.end;
            let line = raw.trim_end_matches(['\n', '\r']);
            let (content, indent) = (line.trim(), line.len() - line.trim_start().len());
            if content.starts_with(['#', ';']) {
                continue;
            }
            if let Some(last) = lines.assignments.last_mut()
                && open.is_some_and(|depth| is_unit || (indent > depth && !content.is_empty()))
            {
                let (content, goes_on) = carried(is_unit, content);
                last.value.push(if is_unit { ' ' } else { '\n' });
                last.value.push_str(content);
                last.span.end = span.end;
                open = open.filter(|_| goes_on);
                continue;
            }
            if content.is_empty() {
                continue;
            }
            let format = if is_unit { "as a unit file" } else { "INI" };
            let malformed = |()| Unreadable::Malformed { format, line: Some(number + 1) };
            open = lines.line(content, span, is_unit).map_err(malformed)?.then_some(indent);
            if lines.assignments.len() + lines.headers.len() > MAX_NODES {
                return Err(Unreadable::Deep);
            }
        }
        Ok(lines)
    }

    /// A section or an assignment; whether a further line may go on with it.
    fn line(&mut self, content: &'t str, span: Range<usize>, is_unit: bool) -> Result<bool, ()> {
        if let Some(name) = content.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            self.headers.push((name.trim(), span));
            return Ok(false);
        }
        let section = self.headers.last().map(|(name, _)| *name);
        let (content, goes_on) = carried(is_unit, content);
        let (key, value) = match content.split_once(if is_unit { &['='][..] } else { &['=', ':'][..] }) {
            Some((key, value)) => (key.trim(), value.trim()),
            None if !is_unit => (content, ""),
            None => return Err(()),
        };
        if key.is_empty() || (is_unit && section.is_none()) {
            return Err(());
        }
        self.assignments.push(Assignment { section, key, value: value.to_owned(), span });
        Ok(goes_on)
    }

    fn values<'l>(&'l self, counts: impl Fn(&Assignment<'t>) -> bool) -> Values<'t, 'l> {
        let mut all = Values::new();
        for one in self.assignments.iter().filter(|one| counts(one)) {
            all.entry(one.name()).or_default().push(one.value.trim_end());
        }
        all
    }

    pub(super) fn same(&self, other: &Self, keys: &Keys<'_>) -> bool {
        self.values(|one| !one.is_ignored(keys)) == other.values(|one| !one.is_ignored(keys))
    }

    /// Whether the ignored values of `found` are in it; those only that `within` has as well, when it is given.
    pub(super) fn holds(&self, found: &Self, within: Option<&Self>, keys: &Keys<'_>) -> bool {
        let (is, has) = (self.values(|_| true), within.map(|within| within.values(|_| true)));
        let mut due = found.values(|one| one.is_ignored(keys)).into_iter();
        due.all(|(name, values)| has.as_ref().is_some_and(|has| !has.contains_key(&name)) || is.get(&name) == Some(&values))
    }

    /// This text, with all lines of each ignored key as `found` has them.
    pub(super) fn splice(&self, found: &Self, keys: &Keys<'_>, adds: bool) -> String {
        let mut theirs: BTreeMap<Name<'_>, Vec<&Assignment<'_>>> = BTreeMap::new();
        let mut order = Vec::new();
        for one in found.assignments.iter().filter(|one| one.is_ignored(keys)) {
            let list = theirs.entry(one.name()).or_default();
            if list.is_empty() {
                order.push(one.name());
            }
            list.push(one);
        }
        let lines = |name: &Name<'_>, indent: &str| theirs[name].iter().map(|one| found.lines_of(one, indent)).collect::<String>();
        let mut edits: Vec<(Range<usize>, String)> = Vec::new();
        // What is the same already stays as it is written.
        let (is, has) = (self.values(|one| one.is_ignored(keys)), found.values(|one| one.is_ignored(keys)));
        let same: BTreeSet<Name<'_>> =
            is.iter().filter(|(name, values)| has.get(*name) == Some(*values)).map(|(name, _)| *name).collect();
        let mut met = same.clone();
        for one in self.assignments.iter().filter(|one| one.is_ignored(keys)) {
            let name = one.name();
            if !theirs.contains_key(&name) || same.contains(&name) {
                continue;
            }
            let new = if met.insert(name) { lines(&name, self.indent(one)) } else { String::new() };
            edits.push((one.span.clone(), new));
        }
        if adds {
            let ends = self.ends();
            // By section, in the order in which they are found.
            let mut added: Vec<(Option<&str>, String)> = Vec::new();
            let mut places: BTreeMap<Option<&str>, usize> = BTreeMap::new();
            for name in order.into_iter().filter(|name| !met.contains(name)) {
                let lines = lines(&name, ends.get(&name.0).map_or("", |end| end.indent));
                let at = *places.entry(name.0).or_insert_with(|| {
                    added.push((name.0, String::new()));
                    added.len() - 1
                });
                added[at].1.push_str(&lines);
            }
            // Sections that are missing come last, behind what is added to the last one that is there.
            added.sort_by_key(|(section, _)| section.is_some() && !ends.contains_key(section));
            edits.extend(added.into_iter().map(|(section, lines)| self.place(section, ends.get(&section), lines)));
        }
        self.carry_out(edits)
    }

    /// Where each section ends, and how its last assignment is indented.
    fn ends(&self) -> BTreeMap<Option<&'t str>, End<'t>> {
        let headers = self.headers.iter().map(|(name, span)| (Some(*name), End { at: span.end, indent: "" }));
        let mut ends: BTreeMap<_, _> = headers.collect();
        // An assignment says more than a header: lines are added behind the last one, even where the header comes again without any.
        ends.extend(self.assignments.iter().map(|one| (one.section, End { at: one.span.end, indent: self.indent(one) })));
        ends
    }

    fn indent(&self, one: &Assignment<'_>) -> &'t str {
        let line = &self.text[one.span.clone()];
        &line[..line.len() - line.trim_start().len()]
    }

    /// The lines of an assignment beneath another indentation: in INI, what is indented deeper would go on with what stands above it.
    fn lines_of(&self, one: &Assignment<'_>, indent: &str) -> String {
        let own = self.indent(one);
        let line = |raw: &str| {
            let raw = raw.trim_end_matches(['\n', '\r']);
            format!("{indent}{}\n", raw.strip_prefix(own).unwrap_or(raw))
        };
        self.text[one.span.clone()].split_inclusive('\n').map(line).collect()
    }

    /// Where lines are added to a section: behind the last assignment in it, or its header; a section that is missing comes last.
    fn place(&self, section: Option<&str>, end: Option<&End<'_>>, lines: String) -> (Range<usize>, String) {
        let top = || section.is_none().then(|| self.headers.first().map_or(self.text.len(), |(_, span)| span.start));
        if let Some(at) = end.map(|end| end.at).or_else(top) {
            return (at..at, lines);
        }
        let (gap, end) = (if self.text.is_empty() { "" } else { "\n" }, self.text.len());
        (end..end, format!("{gap}[{}]\n{lines}", section.unwrap_or_default()))
    }

    fn carry_out(&self, mut edits: Vec<(Range<usize>, String)>) -> String {
        // Stable: what is added behind lines that are replaced comes after those.
        edits.sort_by_key(|(at, _)| at.start);
        let mut text = String::with_capacity(self.text.len());
        let mut done = 0;
        for (at, new) in edits {
            text.push_str(&self.text[done..at.start]);
            if !new.is_empty() && !text.is_empty() && !text.ends_with('\n') {
                text.push('\n');
            }
            text.push_str(&new);
            done = at.end;
        }
        text.push_str(&self.text[done..]);
        text
    }
}

impl<'t> Assignment<'t> {
    fn name(&self) -> Name<'t> {
        (self.section, self.key)
    }

    fn is_ignored(&self, keys: &Keys<'_>) -> bool {
        match self.section {
            None => keys.step(self.key).0,
            Some(section) => {
                let (whole, rest) = keys.step(section);
                whole || rest.step(self.key).0
            }
        }
    }
}

/// A line without the backslash that carries it on in a unit file, and whether it is carried on. In INI any line may be.
fn carried(is_unit: bool, content: &str) -> (&str, bool) {
    match content.strip_suffix('\\') {
        Some(content) if is_unit => (content.trim_end(), true),
        _ => (content, !is_unit),
    }
}
