//! The paths of keys: how they are written, and following them into a file.

/// Keys beyond this many levels are not in any configuration that a person writes.
const MAX_PARTS: usize = 16;

/// A text that is no path of a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct PathError {
    /// What is wrong with it.
    pub why: &'static str,
    /// Where, in bytes.
    pub at: usize,
}

/// Reads `server.port`, `section."dotted.key"`, `*.password`: parts with dots between them, in quotes where they have dots, quotes or white
/// space of their own; `*` stands for any one key.
pub fn parse(text: &str) -> Result<Vec<String>, PathError> {
    let mut parts = Vec::new();
    let mut rest = text;
    let at = |rest: &str| text.len() - rest.len();
    loop {
        let wrong = |rest: &str, why| Err(PathError { why, at: at(rest) });
        let part;
        (part, rest) = match rest.chars().next() {
            Some('"') => match quoted(&rest[1..]) {
                Some(found) => found,
                None => return wrong(rest, "this quote is not closed"),
            },
            Some('\'') => match rest[1..].split_once('\'') {
                Some((part, rest)) => (part.to_owned(), rest),
                None => return wrong(rest, "this quote is not closed"),
            },
            _ => {
                let end = rest.find(['.', '"', '\'']).unwrap_or(rest.len());
                if rest[..end].contains(|c: char| c.is_whitespace() || c.is_control()) {
                    return wrong(rest, "a key with white space stands in quotes");
                }
                if end == 0 {
                    return wrong(rest, "a key is missing here");
                }
                (rest[..end].to_owned(), &rest[end..])
            }
        };
        if part == "*" && text.as_bytes().get(at(rest).saturating_sub(1)) != Some(&b'*') {
            return wrong(rest, "a key that is called * cannot be told from the one that stands for any");
        }
        parts.push(part);
        if parts.len() > MAX_PARTS {
            return wrong(rest, "there are too many levels");
        }
        match rest.strip_prefix('.') {
            Some(more) => rest = more,
            None if rest.is_empty() => return Ok(parts),
            None => return wrong(rest, "a dot must stand between two keys"),
        }
    }
}

fn quoted(text: &str) -> Option<(String, &str)> {
    let mut part = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((part, &text[at + 1..])),
            '\\' => part.push(chars.next()?.1),
            c => part.push(c),
        }
    }
    None
}

/// What of the ignored paths is left at one place in a file.
#[derive(Debug, Clone)]
pub(super) struct Keys<'k>(Vec<&'k [String]>);

impl<'k> Keys<'k> {
    pub(super) fn new(keys: &'k [Vec<String>]) -> Self {
        Self(keys.iter().map(Vec::as_slice).filter(|path| !path.is_empty()).collect())
    }

    /// One level down: whether `key` itself is ignored, and what is left beneath it.
    pub(super) fn step(&self, key: &str) -> (bool, Self) {
        let below = self.0.iter().filter(|path| path[0] == "*" || path[0] == key).map(|path| &path[1..]);
        let (ends, rest): (Vec<_>, Vec<_>) = below.partition(|path| path.is_empty());
        (!ends.is_empty(), Self(rest))
    }

    /// Whether nothing here or beneath is ignored.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read_as_they_are_written() {
        let parts = |text: &str| parse(text).map(|parts| parts.join("|"));
        assert_eq!(parts("server.port").as_deref(), Ok("server|port"));
        assert_eq!(parts("section.\"dotted.key\"").as_deref(), Ok("section|dotted.key"));
        assert_eq!(parts("*.password").as_deref(), Ok("*|password"));
        assert_eq!(parts("'remote \"origin\"'.url").as_deref(), Ok("remote \"origin\"|url"));
        assert_eq!(parts(r#""a \"b\" \\".c"#).as_deref(), Ok(r#"a "b" \|c"#));
        assert_eq!(parts("münze.größe").as_deref(), Ok("münze|größe"));
        for (bad, at) in [
            ("", 0),
            (".a", 0),
            ("a.", 2),
            ("a..b", 2),
            ("\"a", 0),
            ("'a", 0),
            ("a\"b\"", 1),
            ("a b", 0),
            ("\"*\".x", 3),
            ("x.'*'", 5),
        ] {
            assert_eq!(parse(bad).map_err(|error| error.at), Err(at), "{bad}");
        }
    }

    #[test]
    fn steps_lead_down() {
        let keys: Vec<Vec<String>> = ["a.b", "*.c", "d"].iter().map(|text| parse(text).expect("because it is one")).collect();
        let keys = Keys::new(&keys);
        let (itself, below) = keys.step("a");
        assert!(!itself && below.step("b").0 && below.step("c").0 && !below.step("d").0);
        assert!(keys.step("d").0 && keys.step("d").1.step("c").0);
        assert!(keys.step("x").1.step("y").1.is_empty());
    }
}
