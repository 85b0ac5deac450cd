//! `[[artifact]]` in component.toml: a file whose bytes lie elsewhere and are named here by digest.
//!
//! `url`, `size` and `sha256` may be templates, for a program is another one on another architecture; what they come to is judged when they
//! are rendered. Limit: what a URL leads to is not known here, and neither is which servers a host may ask (`[artifacts]` in its agent.toml).

use super::component::{mode, name};
use super::drift::read_policy;
use super::read::{Located, Place, Table, brief};
use crate::digest::Digest;
use crate::drift::DriftPolicy;
use crate::finding::Findings;
use crate::names::{AccountName, HostPath};

/// The largest artifact, in bytes.
pub const MAX_SIZE: u64 = 8 << 30;
/// The longest URL.
const MAX_URL: usize = 2000;
/// A minisign public key as its file has it: 42 bytes in base64.
const KEY_LENGTH: usize = 56;

/// `[[artifact]]`, as it is written.
#[derive(Debug, Clone)]
pub struct DeclaredArtifact<'s> {
    /// Where it goes.
    pub path: HostPath,
    /// Where it is fetched from; a template.
    pub url: Located<'s, String>,
    /// Its length in bytes; a template, or a number's digits.
    pub size: Located<'s, String>,
    /// Its SHA-256 in hex; a template.
    pub sha256: Located<'s, String>,
    /// The minisign public key by which it must be signed.
    pub minisign: Option<String>,
    /// Owner, if not root.
    pub owner: Option<AccountName>,
    /// Group, if not root.
    pub group: Option<AccountName>,
    /// Mode, if not 0644.
    pub mode: Option<u32>,
    /// Nothing of it is shown.
    pub sensitive: bool,
    /// What is done about drift of it.
    pub drift: Option<DriftPolicy>,
    /// The path in the table.
    pub place: Place<'s>,
}

/// Reads one; `None` with the reasons in `findings`.
pub(super) fn read_artifact<'s>(mut table: Table<'_, 's>, findings: &mut Findings) -> Option<DeclaredArtifact<'s>> {
    let path = name::<HostPath>(&mut table, "path", true, findings);
    let url = table.required_string("url", findings);
    let size =
        table.required("size", "its length in bytes: `stat -c %s FILE`", findings).and_then(|item| match item.as_integer() {
            Some(number) => Some(Located { value: number.to_string(), place: item.place }),
            None => item.string("size", findings),
        });
    let sha256 =
        table.required("sha256", "its digest: `sha256sum FILE`", findings).and_then(|item| item.string("sha256", findings));
    let minisign = table.string("minisign", findings);
    if let Some((key, why)) = minisign.as_ref().and_then(|key| Some((key, judge_key(&key.value).err()?))) {
        findings.at_with(key.place, format!("this is no minisign public key: {why}"), "the second line of minisign.pub");
    }
    let minisign = minisign.map(|key| key.value);
    let owner = name(&mut table, "owner", false, findings).map(|n| n.value);
    let group = name(&mut table, "group", false, findings).map(|n| n.value);
    let mode = mode(&mut table, findings);
    let sensitive = table.boolean("sensitive", findings).is_some_and(|asked| asked.value);
    let drift = read_policy(&mut table, findings).map(|policy| policy.value);
    table.finish(findings);
    let (path, url, size, sha256) = (path?, url?, size?, sha256?);
    let place = path.place;
    Some(DeclaredArtifact { path: path.value, url, size, sha256, minisign, owner, group, mode, sensitive, drift, place })
}

fn judge_key(key: &str) -> Result<(), &'static str> {
    let is_base64 = |b: u8| b.is_ascii_alphanumeric() || b"+/".contains(&b);
    match key {
        _ if !key.starts_with("RW") => Err("it begins with RW"),
        _ if key.len() != KEY_LENGTH || !key.bytes().all(is_base64) => Err("it has 56 characters of base64"),
        _ => Ok(()),
    }
}

/// Whether a URL is one that a courier could ask: strict, for it goes into a process with a network.
pub(crate) fn judge_url(url: &str) -> Result<(), &'static str> {
    if url.len() > MAX_URL {
        return Err("it is longer than 2,000 bytes");
    }
    if url.bytes().any(|b| !b.is_ascii_graphic() || b"\"<>\\^`{|}".contains(&b)) {
        return Err("it holds something that must be percent-encoded");
    }
    let Some((scheme, rest)) = url.split_once("://") else { return Err("it begins with https://") };
    if !["https", "http", "file"].contains(&scheme) {
        return Err("it begins with https:// (or, where a host's own settings allow it, http:// or file://)");
    }
    let Some((authority, path)) = rest.split_once('/') else { return Err("it has no path") };
    if authority.contains('@') {
        return Err("a repository is no place for credentials; the source's own are sent to the source's own server");
    }
    if (scheme == "file") != authority.is_empty() {
        return Err(if scheme == "file" { "write file:///absolute/path" } else { "it has no host" });
    }
    if url.contains('#') {
        return Err("it must have no #");
    }
    let path = path.split('?').next().unwrap_or_default().to_ascii_lowercase().replace("%2e", ".");
    if path.is_empty() || path.split('/').any(|part| part == "..") {
        return Err("its path must name a file, without ..");
    }
    Ok(())
}

/// The length that a text says; from 1 to [`MAX_SIZE`].
pub(crate) fn judge_size(text: &str) -> Result<u64, String> {
    let size = text.trim().parse::<u64>().ok().filter(|size| (1..=MAX_SIZE).contains(size));
    size.ok_or_else(|| format!("`{}` is not a number of bytes from 1 to {MAX_SIZE}", brief(text)))
}

/// The digest that a text says, with or without `sha256:` before it.
pub(crate) fn judge_digest(text: &str) -> Result<Digest, String> {
    let text = text.trim();
    let hex = text.strip_prefix("sha256:").unwrap_or(text);
    format!("sha256:{hex}").parse().map_err(|_| format!("`{}` is not a SHA-256 digest: 64 lower-case hex digits", brief(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_judged_strictly() {
        for good in
            ["https://dl.example.org/a/b-1.2.tar.gz", "http://10.0.0.1:8080/x", "file:///media/x", "https://[fe80::1]/x?sig=a%20b"]
        {
            assert_eq!(judge_url(good), Ok(()), "{good}");
        }
        let long = format!("https://x/{}", "a".repeat(2000));
        for bad in [
            "",
            "x",
            "https://",
            "https://host",
            "https://host/",
            "ftp://host/x",
            "https://bob:pw@host/x",
            "https:///x",
            "file://host/x",
            "https://host/a b",
            "https://host/a\nb",
            "https://host/../x",
            "https://host/%2E%2e/x",
            "https://host/x#y",
            "https://h{}/x",
            &long,
        ] {
            assert!(judge_url(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_and_digests_are_judged_strictly() {
        assert_eq!((judge_size("17"), judge_size(" 17\n")), (Ok(17), Ok(17)));
        for bad in ["", "0", "-1", "1e3", "8589934593", "ten"] {
            assert!(judge_size(bad).is_err(), "{bad}");
        }
        let hex = Digest::of(b"x").hex();
        assert_eq!(judge_digest(&hex), Ok(Digest::of(b"x")));
        assert_eq!(judge_digest(&format!("sha256:{hex}")), Ok(Digest::of(b"x")));
        for bad in ["", "abc", &hex.to_uppercase(), &hex[1..]] {
            assert!(judge_digest(bad).is_err(), "{bad}");
        }
    }
}
