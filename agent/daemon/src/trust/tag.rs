//! An annotated tag object, taken apart so strictly that it has one reading only.
//!
//! Guarantees: exactly the four headers that git writes (`object`, `type commit`, `tag`, `tagger`), in git's order, a blank line, a message; no NUL and
//! no carriage return; nothing that git would leave out of what it verifies (a tag has no `gpgsig` header here).
//! Limits: a tag of anything but a commit is refused. Who tagged it and when is the signer's own word and is used for nothing.

use gix_hash::ObjectId;

use super::commit::Malformed;

/// The largest tag that is looked at, in bytes.
pub const MAX_TAG: u64 = 64 << 10;
/// The longest name of a tag.
const MAX_NAME: usize = 200;

/// A well-formed tag. Nothing is said yet about who signed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tag {
    /// The commit that it names.
    pub object: ObjectId,
    /// Its name, as its own header says it.
    pub name: String,
    /// Where its message starts: after the blank line.
    pub message: usize,
}

impl Tag {
    /// Takes the content of a tag object apart, in a repository with ids of this kind.
    pub fn parse(kind: gix_hash::Kind, bytes: &[u8]) -> Result<Self, Malformed> {
        let refuse = |what| Err(Malformed { what });
        if bytes.len() as u64 > MAX_TAG {
            return refuse("it is larger than 64 KiB");
        }
        if bytes.iter().any(|byte| matches!(byte, 0 | b'\r')) {
            return refuse("it contains a NUL byte or a carriage return");
        }
        let mut rest = bytes;
        let mut header = |name: &str| {
            let end = rest.iter().position(|byte| *byte == b'\n')?;
            let (line, after) = (&rest[..end], &rest[end + 1..]);
            rest = after;
            line.strip_prefix(name.as_bytes())
        };
        let object = header("object ").and_then(|hex| {
            let lower = hex.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
            ObjectId::from_hex(hex).ok().filter(|id| lower && id.kind() == kind)
        });
        let Some(object) = object else { return refuse("it does not start with the id of what it names") };
        if header("type ") != Some(b"commit") {
            return refuse("it does not name a commit");
        }
        let name = header("tag ").and_then(|name| std::str::from_utf8(name).ok());
        let Some(name) =
            name.filter(|name| !name.is_empty() && name.len() <= MAX_NAME && name.bytes().all(|b| b.is_ascii_graphic()))
        else {
            return refuse("its name is missing, too long or not plain");
        };
        if !header("tagger ").is_some_and(super::commit::is_identity) {
            return refuse("after its name it must name one tagger");
        }
        if header("") != Some(b"") {
            return refuse("it has a header that a tag does not have");
        }
        Ok(Self { object, name: name.to_owned(), message: bytes.len() - rest.len() })
    }

    /// The headers of such a tag and the blank line, as git writes them; its message follows. `tagger` is `Name <mail> seconds zone`.
    pub fn head(object: ObjectId, name: &str, tagger: &str) -> String {
        format!("object {object}\ntype commit\ntag {name}\ntagger {tagger}\n\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Tag, Malformed> {
        Tag::parse(gix_hash::Kind::Sha1, text.as_bytes())
    }

    #[test]
    fn a_tag_as_git_writes_it_and_nothing_else() {
        let object = ObjectId::from_hex(b"b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0").unwrap();
        let head = Tag::head(object, "production/1.5", "A U <a@b> 1700000000 +0000");
        let good = format!("{head}text\n");
        assert_eq!(parse(&good).unwrap(), Tag { object, name: "production/1.5".into(), message: head.len() });
        let second = "object b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0\n";
        for bad in [
            String::new(),
            head.trim_end().to_owned(),
            format!("{second}{good}"),
            good.replace("type commit", "type tree"),
            good.replace("type commit", "type tag"),
            good.replace("b6fc", "B6FC"),
            good.replace("a1b0\n", "a1b000\n"),
            good.replace("tag production/1.5\n", "tag \n"),
            good.replace("tag production/1.5\n", "tag a b\n"),
            good.replace("tag production/1.5\n", ""),
            good.replace("tagger", "tagged"),
            good.replace("\n\n", "\ngpgsig x\n\n"),
            good.replace("\n\n", "\nencoding x\n\n"),
            good.replace("text", "te\0xt"),
            good.replace("text", "te\rxt"),
            good.replace("text", &"x".repeat(64 << 10)),
        ] {
            assert!(parse(&bad).is_err(), "{}", &bad[..bad.len().min(300)]);
        }
        assert!(Tag::parse(gix_hash::Kind::Sha256, good.as_bytes()).is_err());
    }
}
