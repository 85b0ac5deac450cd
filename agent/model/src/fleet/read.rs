//! Strict reading of TOML: every value with its place, every problem of a file at once, no key ignored.
//!
//! serde stops at the first thing that does not fit, which on a repository of a hundred files means a hundred pushes. So a
//! document is parsed into spanned values and walked by hand: each accessor of [`Table`] hands out what fits, records what
//! does not, and [`Table::finish`] refuses the keys that nobody asked for.
//!
//! Guarantees: a file over [`MAX_FILE`] bytes is refused before it is parsed; nesting is bounded by the parser; a file with syntax
//! errors yields those and nothing else, because what is recovered from it would only produce echoes.

use std::collections::BTreeSet;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::finding::{Finding, Findings, MAX_FINDINGS, Spot};

/// No configuration that a person writes is larger; measured before a parser sees it.
pub const MAX_FILE: usize = 1 << 20;

/// A stretch of a source text: what a caret can be drawn under.
#[derive(Debug, Clone, Copy)]
pub struct Place<'s> {
    /// The file, as the repository names it.
    pub file: &'s str,
    /// Its whole text; empty when only the file is meant.
    pub text: &'s str,
    /// First byte.
    pub start: usize,
    /// After the last byte.
    pub end: usize,
}

impl<'s> Place<'s> {
    /// A file as a whole.
    pub fn file(file: &'s str) -> Self {
        Self { file, text: "", start: 0, end: 0 }
    }

    /// The spot that a finding points at.
    pub fn spot(&self, label: impl Into<String>) -> Spot {
        if self.text.is_empty() {
            return Spot { label: label.into(), ..Spot::file(self.file) };
        }
        Spot::at(self.file, self.text, self.start..self.end, label)
    }

    /// The line, from 1; 0 for a file as a whole.
    pub fn line(&self) -> u32 {
        if self.text.is_empty() {
            return 0;
        }
        let before = self.text.get(..self.start).unwrap_or(self.text);
        u32::try_from(before.matches('\n').count()).unwrap_or(u32::MAX - 1) + 1
    }

    /// A part of this place, by bytes from its start: a spot inside of a TOML string. The whole place where the string has
    /// escapes, for then the bytes of its value are not the bytes of its text.
    #[must_use]
    pub fn within(&self, value: &str, start: usize, end: usize) -> Self {
        let raw = self.text.get(self.start..self.end).unwrap_or_default();
        let quotes = if raw.starts_with("\"\"\"") || raw.starts_with("'''") { 3 } else { 1 };
        if !raw.get(quotes..).is_some_and(|inner| inner.starts_with(value)) {
            return *self;
        }
        Self { start: self.start + quotes + start, end: self.start + quotes + end.max(start + 1), ..*self }
    }
}

/// A value and where it stands.
#[derive(Debug, Clone)]
pub struct Located<'s, T> {
    /// The value.
    pub value: T,
    /// Where it stands.
    pub place: Place<'s>,
}

/// Text from a repository as it may stand in a message: short, and without anything that a terminal would obey.
pub fn brief(text: &str) -> String {
    let mut shown: String = text.chars().take(80).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if text.chars().nth(80).is_some() {
        shown.push('…');
    }
    shown
}

/// The candidate that a typing error away from `word` would be, as a sentence; empty when none is near.
pub fn did_you_mean<'c>(word: &str, candidates: impl IntoIterator<Item = &'c str>) -> String {
    let short: String = word.chars().take(64).collect();
    let bound = (short.chars().count() / 3).max(1);
    candidates
        .into_iter()
        // Lengths first: they rule out nearly all, and hostile input brings thousands of both.
        .filter(|candidate| candidate.len().abs_diff(short.len()) <= bound * 4)
        .take(1000)
        .map(|candidate| (strsim::osa_distance(&short, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= bound && *candidate != word)
        .min()
        .map_or_else(String::new, |(_, candidate)| format!("did you mean `{candidate}`?"))
}

impl Findings {
    /// Whether a further finding would only be counted.
    pub fn is_full(&self) -> bool {
        self.list.len() >= MAX_FINDINGS
    }

    /// Adds a finding at a place. Beyond the bound the spot is not even worked out: a million findings must not cost a million scans.
    pub fn at(&mut self, place: Place<'_>, message: impl Into<String>) {
        self.at_with(place, message, "");
    }

    /// As [`Findings::at`], with what to do about it.
    pub fn at_with(&mut self, place: Place<'_>, message: impl Into<String>, help: impl Into<String>) {
        if self.is_full() {
            self.more += 1;
        } else {
            self.push(Finding::new(message, place.spot("")).help(help));
        }
    }

    /// Adds a finding with a second, related place.
    pub fn at_both(&mut self, place: Place<'_>, message: impl Into<String>, other: Place<'_>, label: &str, help: &str) {
        if self.is_full() {
            self.more += 1;
        } else {
            self.push(Finding::new(message, place.spot("")).also(other.spot(label)).help(help));
        }
    }

    /// Puts them in the order of files and lines, and drops repetitions.
    pub fn settle(&mut self) {
        self.list.sort_by(|a, b| {
            let key = |f: &Finding| f.spots.first().map(|s| (s.file.clone(), s.line, s.column));
            key(a).cmp(&key(b)).then_with(|| a.message.cmp(&b.message))
        });
        self.list.dedup();
    }

    /// Takes over all of another's.
    pub fn extend(&mut self, other: Findings) {
        self.more += other.more;
        other.list.into_iter().for_each(|finding| self.push(finding));
    }
}

/// A parsed file.
#[derive(Debug)]
pub struct Document<'s> {
    place: Place<'s>,
    root: Spanned<DeTable<'s>>,
}

impl<'s> Document<'s> {
    /// Parses a file; `None` when it has no usable content, with the reasons in `findings`.
    pub fn parse(file: &'s str, bytes: &'s [u8], findings: &mut Findings) -> Option<Self> {
        let text = text(file, bytes, findings)?;
        let place = Place { file, text, start: 0, end: 0 };
        let (root, errors) = DeTable::parse_recoverable(text);
        if errors.is_empty() {
            return Some(Self { place, root });
        }
        // One broken line makes the parser stumble several times; the first of each line is the true one.
        let mut spans: Vec<_> = errors.iter().map(|e| (e.span().unwrap_or(0..0), e.message())).collect();
        spans.sort_by_key(|(span, _)| span.start);
        let mut line_end = None;
        for (span, message) in spans {
            if findings.is_full() {
                findings.more += 1;
                continue;
            }
            if line_end.is_some_and(|end| span.start <= end) {
                continue;
            }
            line_end = Some(text.get(span.start..).and_then(|rest| rest.find('\n')).map_or(text.len(), |at| span.start + at));
            findings.at(Place { start: span.start, end: span.end, ..place }, format!("this is not valid TOML: {message}"));
        }
        None
    }

    /// The top table.
    pub fn root(&self) -> Table<'_, 's> {
        Table { values: self.root.get_ref(), place: self.place, asked: BTreeSet::new() }
    }
}

/// The text of a file that must be one: bounded, and UTF-8.
pub fn text<'s>(file: &'s str, bytes: &'s [u8], findings: &mut Findings) -> Option<&'s str> {
    if bytes.len() > MAX_FILE {
        let size = bytes.len();
        findings.at(Place::file(file), format!("it has {size} bytes; a configuration file may have at most {MAX_FILE}"));
        return None;
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => Some(text),
        Err(error) => {
            let good = std::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default();
            let line = good.matches('\n').count() + 1;
            findings.at(Place::file(file), format!("line {line} is not UTF-8 text"));
            None
        }
    }
}

/// One table of a file; remembers which keys were asked for.
#[derive(Debug, Clone)]
pub struct Table<'d, 's> {
    values: &'d DeTable<'s>,
    /// Its header, or the inline table.
    pub place: Place<'s>,
    asked: BTreeSet<&'static str>,
}

/// A value that was not yet looked into.
#[derive(Debug, Clone, Copy)]
pub struct Item<'d, 's> {
    /// The value.
    pub value: &'d DeValue<'s>,
    /// Where it stands.
    pub place: Place<'s>,
}

impl<'d, 's> Item<'d, 's> {
    fn of(value: &'d Spanned<DeValue<'s>>, place: Place<'s>) -> Self {
        let span = value.span();
        Self { value: value.get_ref(), place: Place { start: span.start, end: span.end, ..place } }
    }

    /// A string, or a finding.
    pub fn string(self, what: &str, findings: &mut Findings) -> Option<Located<'s, String>> {
        let found = self.value.as_str().map(|text| Located { value: text.to_owned(), place: self.place });
        self.or_wrong(found, what, "a string", findings)
    }

    /// A table, or a finding.
    pub fn table(self, what: &str, findings: &mut Findings) -> Option<Table<'d, 's>> {
        let found = self.value.as_table().map(|table| Table { values: table, place: self.place, asked: BTreeSet::new() });
        self.or_wrong(found, what, "a table", findings)
    }

    /// The elements of a list, or a finding.
    pub fn list(self, what: &str, findings: &mut Findings) -> Option<Vec<Item<'d, 's>>> {
        let found = self.value.as_array().map(|list| list.iter().map(|value| Item::of(value, self.place)).collect());
        self.or_wrong(found, what, "a list", findings)
    }

    fn or_wrong<T>(self, found: Option<T>, what: &str, wanted: &str, findings: &mut Findings) -> Option<T> {
        if found.is_none() {
            let is = self.kind();
            findings.at(self.place, format!("`{}` must be {wanted}, and this is {is}", brief(what)));
        }
        found
    }

    /// What it is, with an article.
    pub fn kind(&self) -> &'static str {
        match self.value {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) => "an integer",
            DeValue::Float(_) => "a number",
            DeValue::Boolean(_) => "a boolean",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        }
    }

    /// The integer, where it is one that fits.
    pub fn as_integer(&self) -> Option<i64> {
        self.value.as_integer().and_then(|n| i64::from_str_radix(n.as_str(), n.radix()).ok())
    }
}

impl<'d, 's> Table<'d, 's> {
    /// The value at a key, whatever it is.
    pub fn item(&mut self, key: &'static str) -> Option<Item<'d, 's>> {
        self.asked.insert(key);
        self.values.get(key).map(|value| Item::of(value, self.place))
    }

    /// A string.
    pub fn string(&mut self, key: &'static str, findings: &mut Findings) -> Option<Located<'s, String>> {
        self.item(key)?.string(key, findings)
    }

    /// A string that must be there.
    pub fn required_string(&mut self, key: &'static str, findings: &mut Findings) -> Option<Located<'s, String>> {
        self.required(key, "", findings)?.string(key, findings)
    }

    /// A value that must be there, whatever it is.
    pub fn required(&mut self, key: &'static str, help: &str, findings: &mut Findings) -> Option<Item<'d, 's>> {
        let item = self.item(key);
        if item.is_none() {
            findings.at_with(self.place, format!("`{key}` is missing here"), help);
        }
        item
    }

    /// A boolean.
    pub fn boolean(&mut self, key: &'static str, findings: &mut Findings) -> Option<Located<'s, bool>> {
        let item = self.item(key)?;
        let found = item.value.as_bool().map(|value| Located { value, place: item.place });
        item.or_wrong(found, key, "true or false", findings)
    }

    /// An integer.
    pub fn integer(&mut self, key: &'static str, findings: &mut Findings) -> Option<Located<'s, i64>> {
        let item = self.item(key)?;
        let found = item.as_integer().map(|value| Located { value, place: item.place });
        item.or_wrong(found, key, "an integer of at most 64 bits", findings)
    }

    /// A list of strings; empty when the key is missing.
    pub fn strings(&mut self, key: &'static str, findings: &mut Findings) -> Vec<Located<'s, String>> {
        let list = self.item(key).and_then(|item| item.list(key, findings)).unwrap_or_default();
        list.into_iter().filter_map(|item| item.string(key, findings)).collect()
    }

    /// A table.
    pub fn table(&mut self, key: &'static str, findings: &mut Findings) -> Option<Table<'d, 's>> {
        self.item(key)?.table(key, findings)
    }

    /// A list of tables (`[[key]]`); empty when the key is missing.
    pub fn tables(&mut self, key: &'static str, findings: &mut Findings) -> Vec<Table<'d, 's>> {
        let list = self.item(key).and_then(|item| item.list(key, findings)).unwrap_or_default();
        list.into_iter().filter_map(|item| item.table(key, findings)).collect()
    }

    /// All keys and values, for tables whose keys are the operator's own.
    pub fn entries(&self) -> impl Iterator<Item = (Located<'s, &'d str>, Item<'d, 's>)> + use<'d, 's> {
        let place = self.place;
        self.values.iter().map(move |(key, value)| {
            let span = key.span();
            let key = Located { value: key.get_ref().as_ref(), place: Place { start: span.start, end: span.end, ..place } };
            (key, Item::of(value, place))
        })
    }

    /// Refuses the keys that nobody asked for.
    pub fn finish(self, findings: &mut Findings) {
        for (key, _) in self.entries() {
            if self.asked.contains(key.value) {
                continue;
            }
            if findings.is_full() {
                findings.more += 1;
                continue;
            }
            let mut help = did_you_mean(key.value, self.asked.iter().copied());
            if help.is_empty() {
                let known: Vec<_> = self.asked.iter().map(|known| format!("`{known}`")).collect();
                help = format!("known here: {}", known.join(", "));
            }
            findings.at_with(key.place, format!("unknown key `{}`", brief(key.value)), help);
        }
    }
}
