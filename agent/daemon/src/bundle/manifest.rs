//! What a bundle says that it holds: one line for each part, in the order in which they lie.
//!
//! ```text
//! trimtab-bundle v1
//! created: 2026-11-21T15:00:00Z
//! part: sha256:<64 hex> <bytes> repository.bundle
//! part: sha256:<64 hex> <bytes> artifacts/<64 hex>
//! part: sha256:<64 hex> <bytes> artifacts/<64 hex>.minisig
//! part: sha256:<64 hex> <bytes> images/1.tar localhost:5000/app@sha256:<64 hex>
//! ```
//!
//! Guarantees: what parses is written again as the same bytes; at most [`MAX_PARTS`] parts, each named once, the repository first and always there.

use std::collections::BTreeSet;

use trimtab_model::digest::Digest;

/// The most parts.
pub const MAX_PARTS: usize = 4096;
/// The longest manifest.
pub const MAX_MANIFEST: u64 = 1 << 20;
/// The part with the commits.
pub const REPOSITORY: &str = "repository.bundle";
const FIRST: &str = "trimtab-bundle v1";

/// What a bundle holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// When it was made, in UTC, as its maker says.
    pub created: String,
    /// What lies in it, in order.
    pub parts: Vec<Part>,
}

/// One of its files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Its name in the tar file.
    pub name: String,
    /// Its digest.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// The image that it is, as `Image=` names it.
    pub image: Option<String>,
}

impl Manifest {
    /// Reads the text; a sentence with the line if it is none.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(text).map_err(|_| "the manifest is not UTF-8")?;
        let text = text.strip_suffix('\n').ok_or("the manifest's last line does not end")?;
        let mut lines = text.split('\n');
        if lines.next() != Some(FIRST) {
            return Err(format!(
                "the manifest does not begin with `{FIRST}`: another version of trimtab may have made this bundle"
            ));
        }
        let created = lines.next().and_then(|line| line.strip_prefix("created: ")).filter(|text| is_time(text));
        let created = created.ok_or("line 2 of the manifest does not say when it was created")?.to_owned();
        let mut parts = Vec::new();
        let mut names = BTreeSet::new();
        for (at, line) in lines.enumerate() {
            let part =
                line.strip_prefix("part: ").and_then(part).ok_or_else(|| format!("line {} of the manifest is no part", at + 3))?;
            if !names.insert(part.name.clone()) {
                return Err(format!("line {} of the manifest names {} again", at + 3, part.name));
            }
            if parts.len() >= MAX_PARTS {
                return Err(format!("the manifest has more than {MAX_PARTS} parts"));
            }
            parts.push(part);
        }
        if parts.first().is_none_or(|part| part.name != REPOSITORY) {
            return Err(format!("the first part of the manifest is not {REPOSITORY}"));
        }
        Ok(Self { created, parts })
    }

    /// The text.
    pub fn text(&self) -> String {
        let mut text = format!("{FIRST}\ncreated: {}\n", self.created);
        for part in &self.parts {
            let image = part.image.as_ref().map(|image| format!(" {image}")).unwrap_or_default();
            text.push_str(&format!("part: {} {} {}{image}\n", part.digest, part.size, part.name));
        }
        text
    }
}

fn is_time(text: &str) -> bool {
    let shape = "dddd-dd-ddTdd:dd:ddZ";
    text.len() == shape.len() && text.bytes().zip(shape.bytes()).all(|(b, s)| if s == b'd' { b.is_ascii_digit() } else { b == s })
}

fn part(line: &str) -> Option<Part> {
    let mut words = line.split(' ');
    let (digest, size, name, image) = (words.next()?.parse().ok()?, words.next()?, words.next()?, words.next());
    let number = size.parse::<u64>().ok().filter(|number| number.to_string() == size)?;
    let rest = name.strip_prefix("artifacts/");
    let is_hex = |hex: &str| format!("sha256:{hex}").parse::<Digest>().is_ok();
    let is_artifact = rest.is_some_and(|rest| is_hex(rest.strip_suffix(".minisig").unwrap_or(rest)));
    let is_image = name
        .strip_prefix("images/")
        .and_then(|rest| rest.strip_suffix(".tar"))
        .is_some_and(|n| n.parse::<u16>().is_ok_and(|m| m.to_string() == n));
    // The bytes of an artifact are named by their digest twice: both must be the same.
    let is_itself = rest.is_none_or(|rest| rest.ends_with(".minisig") || format!("sha256:{rest}") == Digest::to_string(&digest));
    let is_known = name == REPOSITORY || is_artifact && is_itself || is_image;
    let is_whole = words.next().is_none() && is_image == image.is_some() && image.is_none_or(is_pinned);
    (is_known && is_whole).then(|| Part { name: name.to_owned(), digest, size: number, image: image.map(str::to_owned) })
}

/// An image by digest: with a tag, whoever made the bundle would say what it is, and not the commit.
pub fn is_pinned(image: &str) -> bool {
    let plain = image.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-/:@".contains(&b));
    plain
        && !image.starts_with('-')
        && image.split_once('@').is_some_and(|(name, digest)| !name.is_empty() && digest.parse::<Digest>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text() -> String {
        let (one, two) = (Digest::of(b"1"), Digest::of(b"2"));
        format!(
            "trimtab-bundle v1\ncreated: 2026-11-21T15:00:00Z\npart: {one} 17 repository.bundle\npart: {two} 1 artifacts/{}\npart: {one} 9 artifacts/{}.minisig\n\
             part: {one} 5 images/1.tar localhost:5000/app@{two}\n",
            two.hex(),
            two.hex()
        )
    }

    #[test]
    fn what_is_read_is_written_again_as_the_same_bytes() {
        let manifest = Manifest::parse(text().as_bytes()).unwrap();
        assert_eq!((manifest.parts.len(), manifest.text()), (4, text()));
    }

    #[test]
    fn every_other_text_is_refused() {
        let good = text();
        for (from, to) in [
            ("v1\n", "v2\n"),
            ("T15", " 15"),
            (" 17 ", " 017 "),
            (" 17 ", " +17 "),
            ("repository.bundle", "other.bundle"),
            ("artifacts/", "artifacts/../"),
            ("images/1.tar", "images/01.tar"),
            ("images/1.tar ", "images/1.tar  "),
            ("app@sha256", "app:1@sha25"),
            ("localhost:5000/app@", "--help@"),
            ("part: ", "part:"),
            ("\npart", "\r\npart"),
            ("5 images/1.tar", "5 repository.bundle"),
            (".minisig", ".sig"),
            ("17 repository.bundle", "17 repository.bundle x"),
        ] {
            let bad = good.replacen(from, to, 1);
            assert!(bad != good && Manifest::parse(bad.as_bytes()).is_err(), "{from:?} -> {to:?}");
        }
        assert!(Manifest::parse(good.trim_end().as_bytes()).is_err());
        // An artifact under the name of another one's digest.
        let named = |content: &[u8]| format!("artifacts/{}\n", Digest::of(content).hex());
        let other = good.replacen(&named(b"2"), &named(b"3"), 1);
        assert!(other != good && Manifest::parse(other.as_bytes()).is_err());
        assert!(Manifest::parse(format!("{good}part: {} 1 repository.bundle\n", Digest::of(b"1")).as_bytes()).is_err());
    }
}
