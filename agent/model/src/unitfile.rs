//! A reader for the syntax of systemd's unit files, which Quadlet files share: sections, assignments, comments, continuation
//! lines, repeated keys and empty assignments that reset a list.
//!
//! It answers what rendering must know (is there an `[Install]` section, which files does the unit read) and judges nothing
//! else: what an option means, and whether it exists, is systemd's to say.

use crate::names::UnitName;

/// One `key=value`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// The section, without brackets.
    pub section: String,
    /// The key.
    pub key: String,
    /// The value, continuation lines joined by a space, trimmed.
    pub value: String,
    /// Byte where its first line starts.
    pub start: usize,
    /// Byte after its first line.
    pub end: usize,
    /// Its line, from 1.
    pub line: u32,
}

/// The assignments of a unit file, or of one with its drop-ins, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UnitFile {
    /// All of them.
    pub assignments: Vec<Assignment>,
}

/// A line that is none of the things that a line may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stray {
    /// Byte where it starts.
    pub start: usize,
    /// Byte after it.
    pub end: usize,
    /// What is wrong with it.
    pub message: &'static str,
}

impl UnitFile {
    /// Reads a text: what can be made of it, and the lines of which nothing can be made (systemd ignores those with a
    /// message in a journal that nobody reads).
    pub fn parse(text: &str) -> (Self, Vec<Stray>) {
        let mut file = Self::default();
        let mut strays = Vec::new();
        let mut section: Option<&str> = None;
        // The assignment that the previous line's backslash left open.
        let mut open = false;
        let mut start = 0;
        for (at, raw) in text.split_inclusive('\n').enumerate() {
            let (from, line) = (start, raw.trim_end_matches(['\n', '\r']));
            start += raw.len();
            let content = line.trim();
            if content.starts_with(['#', ';']) || (content.is_empty() && !open) {
                // A comment in the middle of a continued line is skipped, and the line goes on after it.
                continue;
            }
            let (content, continues) = match content.strip_suffix('\\') {
                Some(content) => (content.trim_end(), true),
                None => (content, false),
            };
            if open {
                if let Some(last) = file.assignments.last_mut() {
                    last.value.push(' ');
                    last.value.push_str(content);
                }
                open = continues;
                continue;
            }
            let span = (from, from + line.len());
            if let Some(rest) = content.strip_prefix('[') {
                match rest.strip_suffix(']').filter(|_| !continues) {
                    Some(name) => section = Some(name),
                    // systemd joins lines before it looks at them, and gives up the whole file at such a one.
                    None => strays.push(Stray {
                        start: span.0,
                        end: span.1,
                        message: "this begins like a [Section] and does not end like one",
                    }),
                }
                continue;
            }
            match (content.split_once('='), section) {
                (Some((key, value)), Some(section)) if !key.trim().is_empty() => {
                    file.assignments.push(Assignment {
                        section: section.to_owned(),
                        key: key.trim().to_owned(),
                        value: value.trim().to_owned(),
                        start: span.0,
                        end: span.1,
                        line: u32::try_from(at).unwrap_or(u32::MAX - 1) + 1,
                    });
                    open = continues;
                }
                (Some(_), None) => strays.push(Stray { start: span.0, end: span.1, message: "this stands before any [Section]" }),
                _ => strays.push(Stray {
                    start: span.0,
                    end: span.1,
                    message: "this is neither a [Section], a Key=value nor a comment",
                }),
            }
        }
        for assignment in &mut file.assignments {
            // `Type= \` and the word in the next line.
            assignment.value = assignment.value.trim().to_owned();
        }
        (file, strays)
    }

    /// Appends a drop-in.
    pub fn lay_over(&mut self, drop_in: &UnitFile) {
        self.assignments.extend(drop_in.assignments.iter().cloned());
    }

    /// The values of a key in a section that are in force: an empty assignment drops those before it.
    pub fn values(&self, section: &str, key: &str) -> Vec<&Assignment> {
        self.live(|a| a.section == section && a.key == key)
    }

    /// As [`UnitFile::values`], in any section.
    pub fn anywhere(&self, key: &str) -> Vec<&Assignment> {
        self.live(|a| a.key == key)
    }

    fn live(&self, wanted: impl Fn(&Assignment) -> bool) -> Vec<&Assignment> {
        let mut live = Vec::new();
        for assignment in self.assignments.iter().filter(|a| wanted(a)) {
            if assignment.value.is_empty() {
                live.clear();
            } else {
                live.push(assignment);
            }
        }
        live
    }

    /// The last value of a key: what is in force where only one can be.
    pub fn last(&self, section: &str, key: &str) -> Option<&str> {
        self.values(section, key).last().map(|a| a.value.as_str())
    }

    /// Whether `systemctl enable` would do something: its `[Install]` section names somebody.
    pub fn is_installable(&self) -> bool {
        ["WantedBy", "RequiredBy", "UpheldBy", "Alias", "Also"].iter().any(|key| !self.values("Install", key).is_empty())
    }

    /// Whether it runs to its end and is then inactive.
    pub fn is_oneshot(&self) -> bool {
        let remains = self.last("Service", "RemainAfterExit").is_some_and(|v| ["yes", "true", "on", "1"].contains(&v));
        self.last("Service", "Type") == Some("oneshot") && !remains
    }
}

/// The words of a value as systemd splits them: at white space, with single and double quotes, and a backslash that keeps the
/// next character. Numeric escapes, which no path in a repository needs, stay as they are.
pub fn words(value: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match (c, quote) {
            (c, Some(open)) if c == open => quote = None,
            ('"' | '\'', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            ('\\', _) => word.get_or_insert_default().push(chars.next().unwrap_or('\\')),
            (c, None) if c.is_whitespace() => words.extend(word.take()),
            (c, _) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// Replaces systemd's specifiers (`%n`, `%i`, …) for a system unit; `None` where one depends on something that only the running
/// manager knows.
pub fn expand(text: &str, unit: &UnitName) -> Option<String> {
    if !text.contains('%') {
        return Some(text.to_owned());
    }
    let full = unit.as_str();
    let stem = full.rsplit_once('.').map_or(full, |(stem, _)| stem);
    let (prefix, instance) = stem.split_once('@').unwrap_or((stem, ""));
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        out.push_str(match chars.next()? {
            '%' => "%",
            'n' => full,
            'N' => stem,
            'p' => prefix,
            'i' => instance,
            // Unescaped: equal to the escaped form as long as there is nothing to unescape.
            'P' if !prefix.contains(['-', '\\']) => prefix,
            'I' if !instance.contains(['-', '\\']) => instance,
            'j' => prefix.rsplit('-').next().unwrap_or(prefix),
            'E' => "/etc",
            'S' => "/var/lib",
            'C' => "/var/cache",
            'L' => "/var/log",
            't' => "/run",
            'T' => "/tmp",
            'V' => "/var/tmp",
            'h' => "/root",
            'u' | 'g' => "root",
            'U' | 'G' => "0",
            _ => return None,
        });
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_what_systemd_reads() {
        let text = "# c\n[Unit]\nDescription = a  b \n; c\n[Service]\nExecStart=/bin/a \\\n  # inside\n  --x \\\n  --y\nEnvironmentFile=/a\nEnvironmentFile=\nEnvironmentFile=/b\r\n";
        let (file, strays) = UnitFile::parse(text);
        assert_eq!(strays, []);
        assert_eq!(file.last("Unit", "Description"), Some("a  b"));
        assert_eq!(file.last("Service", "ExecStart"), Some("/bin/a --x --y"));
        let live: Vec<_> = file.values("Service", "EnvironmentFile").iter().map(|a| (a.value.as_str(), a.line)).collect();
        assert_eq!(live, [("/b", 12)]);
    }

    #[test]
    fn strays_are_told_with_their_place() {
        let text = "A=1\n[Unit]\nnonsense\n=x\n";
        let (_, strays) = UnitFile::parse(text);
        let told: Vec<_> = strays.iter().map(|s| &text[s.start..s.end]).collect();
        assert_eq!(told, ["A=1", "nonsense", "=x"]);
    }

    /// systemd 257 says "Invalid section header" of the first two, and gives the whole file up; the third is a section that it does not know.
    #[test]
    fn what_begins_like_a_section_and_is_none_is_told() {
        for text in ["[Unit]\n[Instal=x\n", "[Service] \\\nExecStart=/bin/true\n", "[Service \\\n]\nExecStart=/bin/true\n"] {
            let (_, strays) = UnitFile::parse(text);
            assert_eq!(
                strays.first().map(|stray| stray.message),
                Some("this begins like a [Section] and does not end like one"),
                "{text}"
            );
        }
    }

    #[test]
    fn install_and_oneshot() {
        let of = |text| UnitFile::parse(text).0;
        assert!(of("[Install]\nWantedBy=multi-user.target\n").is_installable());
        assert!(!of("[Install]\nWantedBy=a\nWantedBy=\n").is_installable());
        assert!(!of("[Install]\nDefaultInstance=a\n").is_installable());
        assert!(of("[Service]\nType=oneshot\n").is_oneshot());
        assert!(of("[Service]\nType= \\\n  oneshot \\\n\n").is_oneshot());
        assert!(!of("[Service]\nType=oneshot\nRemainAfterExit=yes\n").is_oneshot());
    }

    #[test]
    fn words_and_specifiers() {
        assert_eq!(words(r#"a "b c" 'd "e' f\ g"#), ["a", "b c", "d \"e", "f g"]);
        let unit: UnitName = "app@one.service".parse().expect("because it is a unit");
        assert_eq!(expand("%E/%p/%i.conf %%", &unit).as_deref(), Some("/etc/app/one.conf %"));
        assert_eq!(expand("/x/%b", &unit), None);
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "(\\[[A-Z]\\]|[a-z=\\\\ %'\"#;]|\\PC|\n|\r){0,60}") {
            let (file, strays) = UnitFile::parse(&text);
            for stray in strays {
                prop_assert!(text.get(stray.start..stray.end).is_some());
            }
            let unit: UnitName = "a.service".parse().expect("because it is a unit");
            for assignment in file.assignments {
                prop_assert!(text.get(assignment.start..assignment.end).is_some());
                words(&assignment.value);
                expand(&assignment.value, &unit);
            }
        }
    }
}
