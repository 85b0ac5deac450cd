//! What a release says, and what an `alive` statement says: the text that is signed.
//!
//! ```text
//! trimtab-release v1
//! repo: 1b4e28ba-2fa1-11d2-883f-0016d3cca427
//! channel: production
//! epoch: 1
//! seq: 50
//! commit: b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0
//! tree: 4b825dc642cb6eb9a060e54bf8d69288fbee4904
//! root: 1
//! issued: 2026-11-20T00:00:00Z
//! expires: 2027-01-20T00:00:00Z
//! x-ticket: OPS-7
//! ```
//!
//! Guarantees: every field is there once, in this order; `x-…` fields may follow them, nothing else; numbers and times have one form only. What is
//! written parses to the same value. A blank line may stand at the end (`git tag` cuts it off or leaves it, as it was told).
//! Limits: whether what it says is true is for those who compare it.

use std::fmt::Write as _;
use std::time::{Duration, UNIX_EPOCH};

use gix_hash::ObjectId;

/// The largest statement, in bytes.
pub const MAX_STATEMENT: usize = 16 << 10;
/// The longest line of one.
const MAX_LINE: usize = 1000;
/// The largest epoch, sequence or version: what TOML can hold.
pub const MAX_NUMBER: u64 = i64::MAX as u64;
/// The first line of a release.
pub const RELEASE: &str = "trimtab-release v1";
/// The first line of an `alive` statement.
pub const ALIVE: &str = "trimtab-alive v1";
/// What the ref and the tag of an `alive` statement end in.
pub const ALIVE_ENDING: &str = ".alive";
/// Under which references channels are.
pub const REFS: &str = "refs/trimtab/";

/// Why a text is not a statement.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of the statement: {why}")]
pub struct StatementError {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong, and what was expected.
    pub why: String,
}

/// A repository's own name: a UUID in lower case.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RepoId(String);

impl RepoId {
    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for RepoId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::str::FromStr for RepoId {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let plain = |at: usize, byte: u8| {
            if matches!(at, 8 | 13 | 18 | 23) { byte == b'-' } else { matches!(byte, b'0'..=b'9' | b'a'..=b'f') }
        };
        if text.len() == 36 && text.bytes().enumerate().all(|(at, byte)| plain(at, byte)) {
            Ok(Self(text.to_owned()))
        } else {
            Err("the id of a repository is a UUID in lower case, as `uuidgen` prints it")
        }
    }
}

/// The name of a channel: one component of a reference, and no other channel's `alive` statement.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Channel(String);

impl Channel {
    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The reference at which its releases are.
    pub fn reference(&self) -> String {
        format!("{REFS}{self}")
    }

    /// The reference at which its `alive` statements are. It begins with the other one, so that one question brings both.
    pub fn alive_reference(&self) -> String {
        format!("{REFS}{self}{ALIVE_ENDING}")
    }
}

impl std::fmt::Display for Channel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::str::FromStr for Channel {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        let shape = (1..=60).contains(&text.len()) && text.bytes().all(plain) && text.as_bytes()[0].is_ascii_alphanumeric();
        let dots = text.contains("..") || text.ends_with('.') || text.ends_with(".lock") || text.ends_with(ALIVE_ENDING);
        // Below these references other things of trimtab's are: unfinished releases, and what hosts report.
        let taken = matches!(text, "draft" | "status");
        if shape && !dots && !taken {
            Ok(Self(text.to_owned()))
        } else {
            Err(
                "the name of a channel is a word of at most 60 letters, digits, `-`, `_` and `.`, such as `production`; it does not end in `.alive`, and is neither `draft` nor `status`",
            )
        }
    }
}

/// Epoch and sequence: releases of one channel are ordered by it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// The epoch of the root under which it was signed.
    pub epoch: u64,
    /// Its number in that epoch.
    pub seq: u64,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.epoch, self.seq)
    }
}

/// What a release says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// The repository.
    pub repo: RepoId,
    /// The channel.
    pub channel: Channel,
    /// Epoch and sequence.
    pub place: Place,
    /// The commit.
    pub commit: ObjectId,
    /// The commit's tree.
    pub tree: ObjectId,
    /// The version of the root file that the signers used.
    pub root: u64,
    /// When it was made, seconds since 1970.
    pub issued: u64,
    /// Until when it says that it is the newest, seconds since 1970.
    pub expires: u64,
    /// Fields of the operator's own, each name beginning with `x-`.
    pub own: Vec<(String, String)>,
}

/// What an `alive` statement says: so far its channel had come at that time. It installs nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alive {
    /// The repository.
    pub repo: RepoId,
    /// The channel.
    pub channel: Channel,
    /// The newest release.
    pub place: Place,
    /// When it was made, seconds since 1970.
    pub issued: u64,
    /// Until when it holds, seconds since 1970.
    pub expires: u64,
}

impl Statement {
    /// Reads the text of a statement (a tag's message before its first signature).
    pub fn parse(text: &[u8]) -> Result<Self, StatementError> {
        let mut fields = Fields::open(text, RELEASE)?;
        let statement = Self {
            repo: fields.next("repo", str::parse)?,
            channel: fields.next("channel", str::parse)?,
            place: Place { epoch: fields.next("epoch", number)?, seq: fields.next("seq", number)? },
            commit: fields.next("commit", object)?,
            tree: fields.next("tree", object)?,
            root: fields.next("root", number)?,
            issued: fields.next("issued", time)?,
            expires: fields.next("expires", time)?,
            own: fields.own()?,
        };
        if statement.commit.kind() != statement.tree.kind() {
            return Err(StatementError { line: 7, why: "commit and tree have ids of different kinds".to_owned() });
        }
        ordered(statement.issued, statement.expires)?;
        Ok(statement)
    }

    /// The text to sign, with a blank line at its end.
    pub fn to_text(&self) -> String {
        let mut text = format!("{RELEASE}\n{}", opening(&self.repo, &self.channel, self.place));
        let _ =
            write!(text, "commit: {}\ntree: {}\nroot: {}\n{}", self.commit, self.tree, self.root, span(self.issued, self.expires));
        for (name, value) in &self.own {
            let _ = writeln!(text, "{name}: {value}");
        }
        text.push('\n');
        text
    }

    /// The name that its tag must have.
    pub fn tag_name(&self) -> String {
        format!("{}/{}", self.channel, self.place)
    }
}

impl Alive {
    /// Reads the text of a statement (a tag's message before its first signature).
    pub fn parse(text: &[u8]) -> Result<Self, StatementError> {
        let mut fields = Fields::open(text, ALIVE)?;
        let alive = Self {
            repo: fields.next("repo", str::parse)?,
            channel: fields.next("channel", str::parse)?,
            place: Place { epoch: fields.next("epoch", number)?, seq: fields.next("seq", number)? },
            issued: fields.next("issued", time)?,
            expires: fields.next("expires", time)?,
        };
        if let Some((line, _)) = fields.line() {
            return Err(StatementError { line, why: "nothing follows `expires`".to_owned() });
        }
        ordered(alive.issued, alive.expires)?;
        Ok(alive)
    }

    /// The text to sign, with a blank line at its end.
    pub fn to_text(&self) -> String {
        format!("{ALIVE}\n{}{}\n", opening(&self.repo, &self.channel, self.place), span(self.issued, self.expires))
    }

    /// The name that its tag must have.
    pub fn tag_name(&self) -> String {
        format!("{}{ALIVE_ENDING}", self.channel)
    }
}

/// Seconds since 1970 as `2026-11-20T00:00:00Z`, as far as the year has four digits.
pub fn show_time(seconds: u64) -> String {
    const LAST: u64 = 253_402_300_799;
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(seconds.min(LAST))).to_string()
}

fn opening(repo: &RepoId, channel: &Channel, place: Place) -> String {
    format!("repo: {repo}\nchannel: {channel}\nepoch: {}\nseq: {}\n", place.epoch, place.seq)
}

fn span(issued: u64, expires: u64) -> String {
    format!("issued: {}\nexpires: {}\n", show_time(issued), show_time(expires))
}

fn ordered(issued: u64, expires: u64) -> Result<(), StatementError> {
    if issued < expires {
        return Ok(());
    }
    Err(StatementError { line: 1, why: "it expires before it was issued".to_owned() })
}

/// A whole number from 1 to [`MAX_NUMBER`] in its only form.
fn number(text: &str) -> Result<u64, &'static str> {
    let number = text.parse::<u64>().ok().filter(|number| (1..=MAX_NUMBER).contains(number) && number.to_string() == text);
    number.ok_or("this is not a whole number from 1 to 9223372036854775807 as it is written plainly")
}

fn object(text: &str) -> Result<ObjectId, &'static str> {
    let lower = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let id = ObjectId::from_hex(text.as_bytes()).ok().filter(|_| lower);
    id.ok_or("this is not the whole id of an object in lower case")
}

fn time(text: &str) -> Result<u64, &'static str> {
    let wrong = "this is not a time in UTC such as `2026-11-20T00:00:00Z`";
    let time = humantime::parse_rfc3339(text).map_err(|_| wrong)?;
    let seconds = time.duration_since(UNIX_EPOCH).map_err(|_| wrong)?.as_secs();
    if show_time(seconds) == text { Ok(seconds) } else { Err(wrong) }
}

/// The lines of a statement, one after the other.
struct Fields<'a> {
    lines: std::iter::Peekable<std::iter::Enumerate<std::str::Split<'a, char>>>,
    last: usize,
}

impl<'a> Fields<'a> {
    fn open(text: &'a [u8], first: &str) -> Result<Self, StatementError> {
        let refuse = |line, why: &str| Err(StatementError { line, why: why.to_owned() });
        if text.len() > MAX_STATEMENT {
            return refuse(1, "it is longer than 16 KiB");
        }
        let Ok(text) = std::str::from_utf8(text) else { return refuse(1, "it is not UTF-8") };
        let Some(whole) = text.strip_suffix('\n') else { return refuse(1, "its last line does not end") };
        // One blank line may part it from the signatures.
        let whole = whole.strip_suffix('\n').unwrap_or(whole);
        for (at, line) in whole.split('\n').enumerate() {
            if line.len() > MAX_LINE || line.chars().any(char::is_control) {
                return refuse(at + 1, "it is longer than 1,000 bytes or has control characters");
            }
        }
        let mut lines = whole.split('\n').enumerate().peekable();
        match lines.next() {
            Some((_, line)) if line == first => Ok(Self { lines, last: 1 }),
            _ => Err(StatementError { line: 1, why: format!("expected `{first}`") }),
        }
    }

    fn line(&mut self) -> Option<(usize, &'a str)> {
        let (at, line) = self.lines.next()?;
        self.last = at + 1;
        Some((at + 1, line))
    }

    fn next<T, E: Into<String>>(&mut self, name: &str, read: impl FnOnce(&'a str) -> Result<T, E>) -> Result<T, StatementError> {
        let Some((line, text)) = self.line() else {
            return Err(StatementError { line: self.last + 1, why: format!("expected `{name}: …`, and it ends") });
        };
        let value = text.strip_prefix(name).and_then(|rest| rest.strip_prefix(": "));
        let value = value.ok_or_else(|| StatementError { line, why: format!("expected `{name}: …`") })?;
        read(value).map_err(|why| StatementError { line, why: why.into() })
    }

    /// The fields whose names begin with `x-`, up to the end.
    fn own(&mut self) -> Result<Vec<(String, String)>, StatementError> {
        let mut own: Vec<(String, String)> = Vec::new();
        while let Some((line, text)) = self.line() {
            let refuse = |why: &str| Err(StatementError { line, why: why.to_owned() });
            let plain = |name: &str| {
                name.starts_with("x-")
                    && name.len() > 2
                    && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            };
            let Some((name, value)) = text.split_once(": ").filter(|(name, _)| plain(name)) else {
                return refuse("this field is not known, or stands twice; fields of your own begin with `x-`");
            };
            if own.iter().any(|(known, _)| known == name) {
                return refuse("this field stands twice");
            }
            own.push((name.to_owned(), value.to_owned()));
        }
        Ok(own)
    }
}

#[cfg(test)]
mod tests;
