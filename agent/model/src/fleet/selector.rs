//! Label selectors: which hosts a group is for.
//!
//! Requirements separated by commas, all of which must hold, in Kubernetes' words: `key=value`, `key!=value`, `key in (a, b)`,
//! `key notin (a, b)`, `key` (it exists), `!key` (it does not); and `*` for every host. A host without the label satisfies
//! `!=` and `notin`, as in Kubernetes. `host` is built in: the host's name, the only key whose values may hold `*` and `?`.
//!
//! What is parsed prints in one canonical form that parses to the same.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::str::FromStr;

/// The label that every host has: its name.
pub const HOST: &str = "host";

/// One condition on one label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Requirement {
    /// `key=value`, or `key!=value` when `not`.
    Equals {
        /// The label.
        key: String,
        /// Its value (a pattern for `host`).
        value: String,
        /// The opposite is meant.
        not: bool,
    },
    /// `key in (…)`, or `key notin (…)` when `not`.
    In {
        /// The label.
        key: String,
        /// Its values (patterns for `host`); never empty.
        values: Vec<String>,
        /// The opposite is meant.
        not: bool,
    },
    /// `key`, or `!key` when `not`.
    Exists {
        /// The label.
        key: String,
        /// The opposite is meant.
        not: bool,
    },
}

/// Conditions that must all hold; none of them: every host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selector {
    /// The conditions, in the order written.
    pub requirements: Vec<Requirement>,
}

/// Why a selector could not be read, and where in its text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SelectorError {
    /// What is wrong.
    pub message: String,
    /// Bytes of the selector's text.
    pub span: Range<usize>,
}

/// Whether a text matches a pattern in which `*` is any text and `?` any one character. Linear in memory, and in time at
/// worst the product of the lengths: the last star is the only one that is ever tried again.
pub fn matches_pattern(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let (mut p, mut t, mut star) = (0, 0, None);
    while t < text.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(c) if *c == '?' || *c == text[t] => (p, t) = (p + 1, t + 1),
            _ => {
                let Some((at, from)) = star else { return false };
                star = Some((at, from + 1));
                (p, t) = (at + 1, from + 1);
            }
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

/// Whether a text may be a label's name: a selector must be able to say it.
pub fn is_label_key(text: &str) -> bool {
    (1..=128).contains(&text.len()) && text.chars().all(is_word) && text != "in" && text != "notin"
}

/// Whether a text may be a label's value in the repository: a selector must be able to say it.
pub fn is_label_value(text: &str) -> bool {
    (1..=256).contains(&text.len()) && text.chars().all(is_word)
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || "-_./:@+".contains(c)
}

impl Requirement {
    /// The label that it is about.
    pub fn key(&self) -> &str {
        match self {
            Self::Equals { key, .. } | Self::In { key, .. } | Self::Exists { key, .. } => key,
        }
    }

    fn holds(&self, labels: &BTreeMap<String, String>) -> bool {
        let label = labels.get(self.key());
        let same = |value: &String| {
            label.is_some_and(|label| if self.key() == HOST { matches_pattern(value, label) } else { label == value })
        };
        match self {
            Self::Equals { value, not, .. } => same(value) != *not,
            Self::In { values, not, .. } => values.iter().any(same) != *not,
            Self::Exists { not, .. } => label.is_some() != *not,
        }
    }
}

impl Selector {
    /// Whether a host with these labels (its name among them, as `host`) is meant.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.requirements.iter().all(|requirement| requirement.holds(labels))
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Equals { key, value, not } => write!(f, "{key}{}{value}", if *not { "!=" } else { "=" }),
            Self::In { key, values, not } => {
                write!(f, "{key} {} ({})", if *not { "notin" } else { "in" }, values.join(", "))
            }
            Self::Exists { key, not } => write!(f, "{}{key}", if *not { "!" } else { "" }),
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.requirements.is_empty() {
            return f.write_str("*");
        }
        for (at, requirement) in self.requirements.iter().enumerate() {
            write!(f, "{}{requirement}", if at == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

impl FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        if text.trim() == "*" {
            return Ok(Self::default());
        }
        let mut cursor = Cursor { text, at: 0 };
        let mut requirements = Vec::new();
        loop {
            requirements.push(cursor.requirement()?);
            if cursor.peek().is_none() {
                return Ok(Self { requirements });
            }
            cursor.expect(',', "a comma, or the end")?;
        }
    }
}

struct Cursor<'t> {
    text: &'t str,
    at: usize,
}

impl<'t> Cursor<'t> {
    fn peek(&mut self) -> Option<char> {
        let rest = &self.text[self.at..];
        self.at += rest.len() - rest.trim_start().len();
        self.text[self.at..].chars().next()
    }

    fn take(&mut self, token: &str) -> bool {
        self.peek();
        let there = self.text[self.at..].starts_with(token);
        if there {
            self.at += token.len();
        }
        there
    }

    fn expect(&mut self, c: char, wanted: &str) -> Result<(), SelectorError> {
        if self.peek() == Some(c) {
            self.at += c.len_utf8();
            return Ok(());
        }
        Err(self.wrong(wanted))
    }

    fn wrong(&mut self, wanted: &str) -> SelectorError {
        let found = match self.peek() {
            None => "the end".to_owned(),
            Some(c) => format!("`{}`", if c.is_control() { '\u{fffd}' } else { c }),
        };
        let width = self.peek().map_or(1, char::len_utf8);
        SelectorError { message: format!("expected {wanted} here, found {found}"), span: self.at..self.at + width }
    }

    fn word(&mut self, wanted: &str, wild: bool) -> Result<&'t str, SelectorError> {
        self.peek();
        let rest = &self.text[self.at..];
        let length = rest.find(|c: char| !(is_word(c) || c == '*' || c == '?')).unwrap_or(rest.len());
        if length == 0 {
            return Err(self.wrong(wanted));
        }
        let span = self.at..self.at + length;
        let word = &rest[..length];
        if length > 256 {
            return Err(SelectorError { message: "a word of a selector may have at most 256 characters".to_owned(), span });
        }
        if !wild && word.contains(['*', '?']) {
            return Err(SelectorError { message: format!("`*` and `?` work only in values of `{HOST}`"), span });
        }
        self.at += length;
        Ok(word)
    }

    fn requirement(&mut self) -> Result<Requirement, SelectorError> {
        let not = self.take("!");
        let start = self.at;
        let key = self.word("a label", false)?.to_owned();
        if !is_label_key(&key) {
            return Err(SelectorError { message: format!("`{key}` cannot be a label"), span: start..self.at });
        }
        if not {
            return Ok(Requirement::Exists { key, not });
        }
        let wild = key == HOST;
        let not = self.take("!=");
        if not || self.take("=") {
            if self.peek() == Some('=') {
                let span = self.at..self.at + 1;
                return Err(SelectorError { message: "one `=` is enough".to_owned(), span });
            }
            let value = self.word("a value", wild)?.to_owned();
            return Ok(Requirement::Equals { key, value, not });
        }
        if matches!(self.peek(), None | Some(',')) {
            return Ok(Requirement::Exists { key, not: false });
        }
        let start = self.at;
        let not = match self.word("`=`, `!=`, `in`, `notin` or a comma", false)? {
            "in" => false,
            "notin" => true,
            _ => {
                self.at = start;
                return Err(self.wrong("`=`, `!=`, `in`, `notin` or a comma"));
            }
        };
        self.expect('(', "`(`")?;
        let mut values = vec![self.word("a value", wild)?.to_owned()];
        while self.take(",") {
            values.push(self.word("a value", wild)?.to_owned());
        }
        self.expect(')', "a comma or `)`")?;
        Ok(Requirement::In { key, values, not })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn labels(text: &[(&str, &str)]) -> BTreeMap<String, String> {
        text.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn selects_as_kubernetes_does() {
        let kiosk = labels(&[("host", "kiosk-7"), ("role", "kiosk"), ("site", "lyon")]);
        let bare = labels(&[("host", "x")]);
        for (text, on_kiosk, on_bare) in [
            ("*", true, true),
            ("role=kiosk", true, false),
            ("role!=kiosk", false, true),
            ("role = kiosk , site != lab", true, false),
            ("site in (lyon, paris)", true, false),
            ("site notin (lyon,paris)", false, true),
            ("site", true, false),
            ("!site", false, true),
            ("host=kiosk-*", true, false),
            ("host=kiosk-?", true, false),
            ("host=kiosk-??", false, false),
            ("host notin (kiosk-*, y)", false, true),
        ] {
            let selector: Selector = text.parse().expect(text);
            assert_eq!((selector.matches(&kiosk), selector.matches(&bare)), (on_kiosk, on_bare), "{text}");
        }
    }

    #[test]
    fn refusals_point_at_the_spot() {
        for (text, span) in [
            ("", 0..1),
            ("role=", 5..6),
            ("role==kiosk", 5..6),
            ("role=kiosk,", 11..12),
            ("role=kiosk site=x", 11..12),
            ("site in lyon", 8..9),
            ("site in (lyon", 13..14),
            ("site in ()", 9..10),
            ("role=ki*", 5..8),
            ("role of (a)", 5..6),
            ("rôle=a", 1..3),
            ("!", 1..2),
        ] {
            let error = text.parse::<Selector>().expect_err(text);
            assert_eq!(error.span, span, "{text}: {error}");
        }
    }

    fn requirement() -> impl Strategy<Value = Requirement> {
        let key = "[a-z][a-z0-9./_-]{0,6}".prop_filter("a keyword", |key| is_label_key(key) && key != HOST);
        let value = "[A-Za-z0-9@:+._/-]{1,6}";
        prop_oneof![
            (key.clone(), value, any::<bool>()).prop_map(|(key, value, not)| Requirement::Equals { key, value, not }),
            (key.clone(), proptest::collection::vec(value, 1..4), any::<bool>()).prop_map(|(key, values, not)| Requirement::In {
                key,
                values,
                not
            }),
            (key, any::<bool>()).prop_map(|(key, not)| Requirement::Exists { key, not }),
            "[a-z*?-]{1,8}".prop_map(|value| Requirement::Equals { key: HOST.to_owned(), value, not: false }),
        ]
    }

    proptest! {
        #[test]
        fn prints_what_it_parses(requirements in proptest::collection::vec(requirement(), 0..5)) {
            let selector = Selector { requirements };
            prop_assert_eq!(selector.to_string().parse(), Ok(selector));
        }

        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,40}|[a-z=!,() *?]{0,40}") {
            if let Err(error) = text.parse::<Selector>() {
                prop_assert!(error.span.start <= text.len());
            }
        }

        #[test]
        fn a_pattern_without_wildcards_is_equality(a in "[a-c]{0,5}", b in "[a-c]{0,5}") {
            prop_assert_eq!(matches_pattern(&a, &b), a == b);
            let (star, suffix) = (format!("{a}*"), format!("*{a}"));
            prop_assert_eq!(matches_pattern(&star, &b), b.starts_with(&a));
            prop_assert_eq!(matches_pattern(&suffix, &b), b.ends_with(&a));
        }
    }
}
