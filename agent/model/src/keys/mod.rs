//! Keys of structured files that belong to somebody else: comparing without them, and writing around them.
//!
//! A file is wanted with a content, but some of its keys are set by the machine (a program that remembers a window's place, a tool that puts
//! in a token). They are named by [`IgnoredKeys`]. [`same`] says whether a found content says the same as the wanted one but for them;
//! [`splice`] gives the wanted bytes with the values of those keys as found, and everything else byte for byte.
//!
//! What is compared is what a file *says*: layout, comments and the order of keys are no difference (programs that set one key mostly write the
//! whole file anew), the order of list elements and of repeated keys is one. A key that is only found stays as found, one that is only wanted
//! comes as wanted.
//!
//! Guarantees: pure, never panics (`tests` throw garbage at it), at most [`MAX_FILE`] bytes, [`MAX_DEPTH`] levels and [`MAX_NODES`] values are
//! read. What is spliced is read again before it is handed out: it is well-formed and says, but for the ignored keys, what is wanted. Where
//! that cannot be had (a found content that cannot be read, a key whose place cannot be worked out), the wanted bytes stand.
//!
//! Limits: elements of lists are told apart by their position. JSON is plain JSON (no comments). YAML is one document; a value that is taken
//! over is written on one line, and nothing is taken over into an anchored value through its alias. A plain value
//! cannot take the place of a TOML table that has a header.

mod json;
mod lines;
mod node;
mod path;
#[cfg(test)]
mod tests;
mod toml;
mod yaml;

pub use path::{PathError, parse as parse_path};

use crate::drift::{IgnoredKeys, Structure};
use node::Node;
use path::Keys;

/// Larger contents are not read: what is found is then judged as any other file.
pub const MAX_FILE: usize = 256 << 10;
/// Deeper values are not read.
pub const MAX_DEPTH: usize = 64;
/// Contents of more values are not read; an alias in YAML counts as all that it stands for, and so does an anchor. Three contents are held at once,
/// and all of them together must stay below 32 MiB.
pub const MAX_NODES: usize = 50_000;
/// So many keys may be ignored in one file.
pub const MAX_KEYS: usize = 64;

/// Why a content cannot be read as its format. Says where, never what: a content may be a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// More than [`MAX_FILE`] bytes.
    #[error("it is larger than {} KiB", MAX_FILE >> 10)]
    Large,
    /// Deeper than [`MAX_DEPTH`], or of more than [`MAX_NODES`] values.
    #[error("it is nested too deeply, or has too many values")]
    Deep,
    /// It is no UTF-8.
    #[error("it is not UTF-8 text")]
    Text,
    /// It is not well-formed.
    #[error("it is not valid {format}{}", .line.map(|line| format!(" (line {line})")).unwrap_or_default())]
    Malformed {
        /// The format's name.
        format: &'static str,
        /// From 1.
        line: Option<usize>,
    },
}

impl Structure {
    /// The format that a file's name tells; `None` where it tells none.
    pub fn of_name(name: &str) -> Option<Self> {
        const UNITS: [&str; 18] = [
            "service",
            "socket",
            "timer",
            "target",
            "path",
            "mount",
            "automount",
            "swap",
            "slice",
            "container",
            "pod",
            "network",
            "volume",
            "image",
            "build",
            "kube",
            "link",
            "netdev",
        ];
        match name.rsplit_once('.')?.1 {
            "ini" => Some(Self::Ini),
            "toml" => Some(Self::Toml),
            "json" => Some(Self::Json),
            "yaml" | "yml" => Some(Self::Yaml),
            ending if UNITS.contains(&ending) => Some(Self::Systemd),
            _ => None,
        }
    }

    /// The word for it in `component.toml`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ini => "ini",
            Self::Toml => "toml",
            Self::Json => "json",
            Self::Yaml => "yaml",
            Self::Systemd => "systemd",
        }
    }

    /// All of them, by [`Structure::word`].
    pub const ALL: [Self; 5] = [Self::Ini, Self::Toml, Self::Json, Self::Yaml, Self::Systemd];
}

/// Whether a content can be read as its format at all.
pub fn judge(format: Structure, bytes: &[u8]) -> Result<(), Unreadable> {
    Document::read(format, bytes).map(drop)
}

/// Whether `found` says the same as `wanted` but for the ignored keys. What cannot be read is the same only if it is, byte for byte.
pub fn same(ignored: &IgnoredKeys, wanted: &[u8], found: &[u8]) -> bool {
    if wanted == found {
        return true;
    }
    let read = |bytes| Document::read(ignored.format, bytes);
    match (read(wanted), read(found)) {
        (Ok(wanted), Ok(found)) => wanted.same(&found, &Keys::new(&ignored.keys)),
        _ => false,
    }
}

/// The wanted bytes with the values of the ignored keys as found.
pub fn splice(ignored: &IgnoredKeys, wanted: &[u8], found: &[u8]) -> Vec<u8> {
    spliced(ignored, wanted, found).unwrap_or_else(|| wanted.to_vec())
}

fn spliced(ignored: &IgnoredKeys, wanted: &[u8], found: &[u8]) -> Option<Vec<u8>> {
    let read = |bytes| Document::read(ignored.format, bytes).ok();
    let (wanted, found) = (read(wanted)?, read(found)?);
    let keys = Keys::new(&ignored.keys);
    // Adding a key can go wrong where changing one cannot (a table that TOML does not let be opened twice): then without additions.
    [true, false].into_iter().find_map(|adds| {
        let text = wanted.splice(&found, &keys, adds)?;
        let result = Document::read(ignored.format, text.as_bytes()).ok()?;
        (result.same(&wanted, &keys) && result.holds(&found, &wanted, &keys, adds)).then(|| text.into_bytes())
    })
}

/// A content that could be read.
enum Document<'t> {
    Tree(Structure, &'t str, Node),
    Lines(lines::Lines<'t>),
}

impl<'t> Document<'t> {
    fn read(format: Structure, bytes: &'t [u8]) -> Result<Self, Unreadable> {
        if bytes.len() > MAX_FILE {
            return Err(Unreadable::Large);
        }
        let text = std::str::from_utf8(bytes).map_err(|_| Unreadable::Text)?;
        Ok(match format {
            Structure::Json => Self::Tree(format, text, json::read(text)?),
            Structure::Toml => Self::Tree(format, text, toml::read(text)?),
            Structure::Yaml => Self::Tree(format, text, yaml::read(text)?),
            Structure::Ini | Structure::Systemd => Self::Lines(lines::Lines::read(format, text)?),
        })
    }

    fn same(&self, other: &Self, keys: &Keys<'_>) -> bool {
        match (self, other) {
            (Self::Tree(_, _, a), Self::Tree(_, _, b)) => node::same(a, b, keys),
            (Self::Lines(a), Self::Lines(b)) => a.same(b, keys),
            _ => false,
        }
    }

    fn splice(&self, found: &Self, keys: &Keys<'_>, adds: bool) -> Option<String> {
        match (self, found) {
            (Self::Tree(format, text, wanted), Self::Tree(_, from, found)) => {
                let style: &dyn node::Style = match format {
                    Structure::Json => &json::Json,
                    Structure::Toml => &toml::Toml,
                    _ => &yaml::Yaml,
                };
                node::splice(style, (text, wanted), (from, found), keys, adds)
            }
            (Self::Lines(wanted), Self::Lines(found)) => Some(wanted.splice(found, keys, adds)),
            _ => None,
        }
    }

    /// Whether every ignored value of `found` is in it (those that `wanted` has a place for, when nothing was added).
    fn holds(&self, found: &Self, wanted: &Self, keys: &Keys<'_>, adds: bool) -> bool {
        match (self, found, wanted) {
            (Self::Tree(_, _, a), Self::Tree(_, _, b), Self::Tree(_, _, wanted)) => {
                node::holds(a, b, (!adds).then_some(wanted), keys)
            }
            (Self::Lines(a), Self::Lines(b), Self::Lines(wanted)) => a.holds(b, (!adds).then_some(wanted), keys),
            _ => false,
        }
    }
}
