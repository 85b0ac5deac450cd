//! A commit object, taken apart so strictly that it has one reading only.
//!
//! git itself is lenient: it leaves every header that starts with `gpgsig` out of what it verifies, takes the first of several
//! signatures, and accepts an armor whose base64 was folded anew. Each of these lets anybody without a key mint further ids for a
//! signed commit, or hide bytes in it. Here they are refused.
//!
//! Guarantees: the payload is byte for byte what was signed; nothing outside the payload but the one signature header, which is the last.
//! Limits: a commit id is still no unique name of signed content (an ECDSA signature has a twin), which is why descent is proven by
//! [`Commit::digest`] of the payload, not by id.

use gix_hash::ObjectId;
use trimtab_model::digest::Digest;

use super::hash::Proved;

/// The largest commit that is looked at, in bytes.
pub const MAX_COMMIT: u64 = 256 << 10;
/// More parents than this has no merge that a person made.
const MAX_PARENTS: usize = 64;

/// Why bytes are not a commit as git writes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct Malformed {
    /// What is wrong with it, as a sentence without a full stop.
    pub what: &'static str,
}

fn refuse<T>(what: &'static str) -> Result<T, Malformed> {
    Err(Malformed { what })
}

/// A well-formed commit. Nothing is said yet about who signed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// Its id.
    pub id: ObjectId,
    /// Its tree.
    pub tree: ObjectId,
    /// Its parents, in order.
    pub parents: Vec<ObjectId>,
    /// The bytes that are signed: the commit without its signature header.
    pub payload: Vec<u8>,
    /// The armored signature, without the header's name and indentation; lines end with `\n`.
    pub armor: Option<Vec<u8>>,
    /// The SHA-256 of the payload: the commit's identity for all that follows.
    pub digest: Digest,
    message: usize,
}

impl Commit {
    /// Takes a commit apart.
    pub fn parse(object: &Proved) -> Result<Self, Malformed> {
        let bytes = object.bytes();
        if bytes.len() as u64 > MAX_COMMIT {
            return refuse("it is larger than 256 KiB");
        }
        if bytes.contains(&0) {
            return refuse("it contains a NUL byte");
        }
        let mut lines = Lines(bytes);
        let links = links(object.id().kind(), &mut lines)?;
        if links.parents.len() > MAX_PARENTS {
            return refuse("it has more than 64 parents");
        }
        if links.parents.iter().enumerate().any(|(at, parent)| links.parents[..at].contains(parent)) {
            return refuse("it names a parent twice");
        }
        for name in ["author ", "committer "] {
            let line = lines.next_line().and_then(|line| line.strip_prefix(name.as_bytes()));
            if !line.is_some_and(is_identity) {
                return refuse("after tree and parents it must name one author and one committer");
            }
        }
        let signature = signature(object.id().kind(), &mut lines, bytes.len())?;
        let (payload, armor) = match signature {
            None => (bytes.to_vec(), None),
            Some((at, armor)) => ([&bytes[..at.start], &bytes[at.end..]].concat(), Some(armor)),
        };
        let message = payload.len() - lines.0.len();
        Ok(Self {
            id: object.id(),
            tree: links.tree,
            parents: links.parents,
            digest: Digest::of(&payload),
            payload,
            armor,
            message,
        })
    }

    /// The values of the trailers with this name: lines `Name: value` of the last paragraph of the message, if it is not the first.
    pub fn trailers<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        let message = self.payload[self.message..].trim_ascii_end();
        let last = message.windows(2).rposition(|pair| pair == b"\n\n").map_or(&[][..], |at| &message[at + 2..]);
        last.split(|byte| *byte == b'\n')
            .filter_map(move |line| line.strip_prefix(name.as_bytes())?.strip_prefix(b":").map(<[u8]>::trim_ascii))
    }
}

/// The parents of a commit, which may be any commit that git takes: an ancestor need not be signed, nor well formed in the rest.
pub fn parents(object: &Proved) -> Result<Vec<ObjectId>, Malformed> {
    links(object.id().kind(), &mut Lines(object.bytes())).map(|links| links.parents)
}

/// The author line of a commit, for people: escaped, cut short, and the author's own word.
pub fn author(object: &Proved) -> String {
    let mut headers = object.bytes().split(|byte| *byte == b'\n').take_while(|line| !line.is_empty());
    let line = headers.find_map(|line| line.strip_prefix(b"author ")).unwrap_or_default();
    let cut = if line.len() > 120 { "…" } else { "" };
    format!("{}{cut}", String::from_utf8_lossy(&line[..line.len().min(120)]).escape_debug())
}

/// The tree of a commit, which may be any commit that git takes: in release mode it is the statement that is signed.
pub fn tree(object: &Proved) -> Result<ObjectId, Malformed> {
    links(object.id().kind(), &mut Lines(object.bytes())).map(|links| links.tree)
}

struct Links {
    tree: ObjectId,
    parents: Vec<ObjectId>,
}

/// The lines `tree` and `parent`, which git puts first; the rest of the lines stays in `lines`.
fn links(kind: gix_hash::Kind, lines: &mut Lines<'_>) -> Result<Links, Malformed> {
    let id = |hex: &[u8]| {
        let lower = hex.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        ObjectId::from_hex(hex).ok().filter(|id| lower && id.kind() == kind)
    };
    let Some(tree) = lines.next_line().and_then(|line| line.strip_prefix(b"tree ")).and_then(id) else {
        return refuse("it does not start with the id of its tree");
    };
    let mut parents = Vec::new();
    while let Some(hex) = lines.peek().and_then(|line| line.strip_prefix(b"parent ")) {
        lines.next_line();
        match id(hex) {
            Some(id) => parents.push(id),
            None => return refuse("the id of a parent is damaged"),
        }
    }
    Ok(Links { tree, parents })
}

// Who and when prove nothing here; only the shape is held, so that no other header hides in it.
pub(super) fn is_identity(value: &[u8]) -> bool {
    let once = |mark: u8| value.split(|byte| *byte == mark).count() == 2;
    once(b'<') && once(b'>') && !value.contains(&b'\r') && value.last().is_some_and(u8::is_ascii_digit)
}

/// Where the signature header lies, and what is in it.
type Place = (std::ops::Range<usize>, Vec<u8>);

/// Reads the headers after `committer` up to the blank line; where the signature header lies and what is in it.
fn signature(kind: gix_hash::Kind, lines: &mut Lines<'_>, total: usize) -> Result<Option<Place>, Malformed> {
    let own: &[u8] = match kind {
        gix_hash::Kind::Sha256 => b"gpgsig-sha256",
        _ => b"gpgsig",
    };
    let mut found = None;
    let mut encoding = false;
    loop {
        let start = total - lines.0.len();
        let Some(line) = lines.next_line() else { return refuse("it ends within its headers") };
        if line.is_empty() {
            return Ok(found);
        }
        let Some(space) = line.iter().position(|byte| *byte == b' ') else { return refuse("a header has no value") };
        let (name, value) = (&line[..space], &line[space + 1..]);
        if name.is_empty() || !name.iter().all(u8::is_ascii_graphic) {
            return refuse("a header has no proper name");
        }
        if found.is_some() {
            return refuse("something follows the signature in its headers");
        }
        let mut text = [value, b"\n"].concat();
        while let Some(more) = lines.peek().and_then(|line| line.strip_prefix(b" ")) {
            lines.next_line();
            text.extend(more);
            text.push(b'\n');
        }
        if text.contains(&b'\r') {
            return refuse("a header contains a carriage return");
        }
        match name {
            b"tree" | b"parent" | b"author" | b"committer" => return refuse("a header is repeated or out of order"),
            b"encoding" if encoding => return refuse("a header is repeated or out of order"),
            b"encoding" => encoding = true,
            name if name == own => found = Some((start..total - lines.0.len(), text)),
            name if name.starts_with(b"gpgsig") => {
                return refuse("it has a second signature header, or one that is not of its repository's kind");
            }
            _ => {}
        }
    }
}

/// Lines that end with `\n`, from the front of a slice; what is behind the last `\n` is no line.
struct Lines<'a>(&'a [u8]);

impl<'a> Lines<'a> {
    fn peek(&self) -> Option<&'a [u8]> {
        let end = self.0.iter().position(|byte| *byte == b'\n')?;
        Some(&self.0[..end])
    }

    fn next_line(&mut self) -> Option<&'a [u8]> {
        let line = self.peek()?;
        self.0 = &self.0[line.len() + 1..];
        Some(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::ObjectKind;

    const HEAD: &str = "tree 4b825dc642cb6eb9a060e54bf8d69288fbee4904\n\
        parent b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0\n\
        author A U <a@b> 1700000000 +0000\ncommitter A U <a@b> 1700000000 +0000\n";
    const SIGNATURE: &str = "gpgsig -----BEGIN SSH SIGNATURE-----\n AAAA\n -----END SSH SIGNATURE-----\n";

    fn parse(text: &str) -> Result<Commit, Malformed> {
        let id = ObjectId::null(gix_hash::Kind::Sha1);
        Commit::parse(&Proved::for_test(ObjectKind::Commit, id, text.as_bytes()))
    }

    #[test]
    fn the_payload_is_the_commit_without_its_signature() {
        let commit =
            parse(&format!("{HEAD}mergetag object 1\n  \n x\nencoding latin1\n{SIGNATURE}\nTitle\n\nA: b\nC: d\n")).unwrap();
        let unsigned = format!("{HEAD}mergetag object 1\n  \n x\nencoding latin1\n\nTitle\n\nA: b\nC: d\n");
        assert_eq!(commit.payload, unsigned.as_bytes());
        assert_eq!(commit.armor.as_deref(), Some(&b"-----BEGIN SSH SIGNATURE-----\nAAAA\n-----END SSH SIGNATURE-----\n"[..]));
        assert_eq!(parse(&unsigned).unwrap().digest, commit.digest);
        assert_eq!(commit.trailers("C").collect::<Vec<_>>(), [b"d"]);
        assert_eq!(commit.parents.len(), 1);
    }

    #[test]
    fn a_title_is_no_trailer() {
        assert_eq!(parse(&format!("{HEAD}\nA: b\n")).unwrap().trailers("A").count(), 0);
        assert_eq!(parse(&format!("{HEAD}\nTitle\n\nA: b\n\nnot a trailer\n")).unwrap().trailers("A").count(), 0);
    }

    #[test]
    fn what_git_does_not_write_is_refused() {
        let second_parent = "parent b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0\n";
        let bad = [
            format!("{HEAD}{SIGNATURE}{SIGNATURE}\nm\n"),
            format!("{HEAD}gpgsigX-evil x\n{SIGNATURE}\nm\n"),
            format!("{HEAD}{SIGNATURE}gpgsigX-evil x\n\nm\n"),
            format!("{HEAD}{SIGNATURE}gpgsig-sha256 x\n\nm\n"),
            format!("{HEAD}gpgsig-sha256 x\n\nm\n"),
            format!("{HEAD}{SIGNATURE}change-id x\n\nm\n"),
            format!("{HEAD}{SIGNATURE}\nm\0\n"),
            format!("{HEAD}author A U <a@b> 1700000000 +0000\n\nm\n"),
            format!("{HEAD}{second_parent}\nm\n"),
            format!("{HEAD}encoding a\nencoding b\n\nm\n"),
            format!("{HEAD}odd\n\nm\n"),
            format!("{HEAD} continued\n\nm\n"),
            format!("{HEAD}x y\r\n\nm\n"),
            HEAD.to_owned(),
            HEAD.replace("parent", &format!("{second_parent}parent")) + "\nm\n",
            HEAD.replace("4b825dc", "4B825DC") + "\nm\n",
            HEAD.replace("tree 4", "tree ") + "\nm\n",
            HEAD.replace("author", "committer") + "\nm\n",
            HEAD.replace("A U <a@b>", "A U") + "\nm\n",
            String::new(),
        ];
        assert!(parse(&format!("{HEAD}\nm\n")).is_ok());
        for text in bad {
            assert!(parse(&text).is_err(), "{text}");
        }
    }
}
