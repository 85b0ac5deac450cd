//! An image on its way between a stick and Podman: an archive in OCI's layout, read strictly and written anew.
//!
//! Podman loads as root whatever an archive holds, by the names that the archive says: docker's own kind restores any number of tags, and a container
//! that is named by tag would run what a stranger's stick has put there. So Podman never sees the stranger's file.
//!
//! Format: the image layout of OCI 1.0 in a tar file, as `podman save --format oci-archive` writes it. Guarantees: what [`take`] has written holds one
//! image, of the digest that was asked for, under a name with that digest; each blob is what its name says; nothing else of what was read is in it.
//! Limits: plain headers only (no pax, no GNU extensions), SHA-256 only; images of several architectures in one are not taken, each has a digest of its own.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};

use serde::Deserialize;
use sha2::Digest as _;
use trimtab_model::digest::Digest;

use super::tar;

/// The most blobs: a manifest, a configuration and layers, of which no Podman takes more.
const MAX_BLOBS: usize = 1024;
/// The longest index and the longest layout.
const MAX_SMALL: u64 = 64 << 10;
const INDEX: &str = "index.json";
const LAYOUT: &str = "oci-layout";
const BLOBS: &str = "blobs/sha256/";
/// What names an image in an index; the second one is containerd's, and Podman prefers it.
const NAMES: [&str; 2] = ["org.opencontainers.image.ref.name", "io.containerd.image.name"];
/// One image for one architecture.
const MANIFESTS: [&str; 2] = ["application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json"];

/// Why an archive is not taken.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// It could not be read, or what is taken of it not be written.
    #[error("cannot copy the archive of the image {image}")]
    Io {
        /// The image that was asked for.
        image: String,
        /// What the system said.
        source: io::Error,
    },
    /// It is not what was asked for, or more than that.
    #[error("the archive of the image {image} is not loaded: {why}")]
    Wrong {
        /// The image that was asked for.
        image: String,
        /// What is wrong with it.
        why: String,
    },
}

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

/// What went wrong, before it is said of which image.
enum Fault {
    Io(io::Error),
    Wrong(String),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<&str> for Fault {
    fn from(why: &str) -> Self {
        Self::Wrong(why.to_owned())
    }
}

/// Copies the archive of an image that is named by digest, and nothing beside it.
pub fn take(image: &str, from: &mut impl Read, to: &mut impl Write) -> Result<(), ArchiveError> {
    copy(image, from, to).map_err(|fault| match fault {
        Fault::Io(source) => ArchiveError::Io { image: image.to_owned(), source },
        Fault::Wrong(why) => ArchiveError::Wrong { image: image.to_owned(), why },
    })
}

fn copy(image: &str, from: &mut impl Read, to: &mut impl Write) -> Result<(), Fault> {
    let mut blobs: BTreeMap<String, u64> = BTreeMap::new();
    let (mut index, mut layout) = (None, None);
    while let Some((name, size)) = tar::read_plain(from)?.map_err(Fault::Wrong)? {
        match name.as_str() {
            INDEX if index.is_none() => index = Some(small(from, &name, size)?),
            LAYOUT if layout.is_none() => layout = Some(small(from, &name, size)?),
            INDEX | LAYOUT => return Err(Fault::Wrong(format!("{name} is in it twice"))),
            _ => {
                let hex = name.strip_prefix(BLOBS).unwrap_or_default().to_owned();
                let digest = format!("sha256:{hex}").parse::<Digest>().map_err(|_| Fault::Wrong(stray(&name)))?;
                if blobs.len() >= MAX_BLOBS || blobs.insert(hex, size).is_some() {
                    return Err(Fault::Wrong(format!("{name} is in it twice, or it has more than {MAX_BLOBS} blobs")));
                }
                let mut hashed = Hashed { from: from.take(size), hash: sha2::Sha256::new() };
                tar::write(to, &name, size, &mut hashed)?;
                if Digest::from_bytes(hashed.hash.finalize().into()) != digest {
                    return Err(Fault::Wrong(format!("{name} is not what its name says")));
                }
            }
        }
        io::copy(&mut from.take(tar::padding(size)), &mut io::sink())?;
    }
    let (Some(index), Some(_)) = (index, layout) else { return Err("it is no image in OCI's layout".into()) };
    let index = judged(image, &index, &blobs)?;
    for (name, text) in [(LAYOUT, "{\"imageLayoutVersion\":\"1.0.0\"}"), (INDEX, index.as_str())] {
        tar::write(to, name, text.len() as u64, &mut text.as_bytes())?;
    }
    Ok(tar::finish(to)?)
}

fn stray(name: &str) -> String {
    let what = match name {
        "manifest.json" | "repositories" => "which is how an archive of docker's own kind names images, any number of them",
        _ => "which is no part of an image in OCI's layout",
    };
    format!("it holds {name:?}, {what}")
}

fn small(from: &mut impl Read, name: &str, size: u64) -> Result<Vec<u8>, Fault> {
    if size > MAX_SMALL {
        return Err(Fault::Wrong(format!("{name} has {size} bytes, more than {MAX_SMALL}")));
    }
    let mut bytes = Vec::new();
    from.take(size).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The index as Podman gets it: the one image that was asked for.
fn judged(image: &str, index: &[u8], blobs: &BTreeMap<String, u64>) -> Result<String, Fault> {
    let pinned = Some(image).filter(|image| super::manifest::is_pinned(image));
    let (_, wanted) = pinned.and_then(|image| image.split_once('@')).ok_or("it is not asked for by digest")?;
    let index: Index = serde_json::from_slice(index).map_err(|error| Fault::Wrong(format!("{INDEX} cannot be read: {error}")))?;
    let [one] = index.manifests.as_slice() else {
        return Err(Fault::Wrong(format!("it holds {} images, and one was asked for", index.manifests.len())));
    };
    if one.digest != wanted {
        return Err(Fault::Wrong(format!("the image in it is {}", shown(&one.digest))));
    }
    if !MANIFESTS.contains(&one.media_type.as_str()) {
        return Err(Fault::Wrong(format!("what it holds is no image for one architecture but {}", shown(&one.media_type))));
    }
    let size = wanted.strip_prefix("sha256:").and_then(|hex| blobs.get(hex)).ok_or("the manifest that it names is not in it")?;
    let ending = format!("@{wanted}");
    let mut names = NAMES.iter().filter_map(|name| one.annotations.get(*name)).map(String::as_str);
    if let Some(other) = names.clone().find(|name| !name.ends_with(&ending) || !super::manifest::is_pinned(name)) {
        return Err(Fault::Wrong(format!("it would be called {} beside its digest, which nobody asked for", shown(other))));
    }
    let name = names.next_back().unwrap_or(image);
    let kind = &one.media_type;
    // No text of these three needs an escape: they were looked at above.
    Ok(format!(
        "{{\"schemaVersion\":2,\"manifests\":[{{\"mediaType\":\"{kind}\",\"digest\":\"{wanted}\",\"size\":{size},\"annotations\":{{\"{}\":\"{name}\"}}}}]}}",
        NAMES[0]
    ))
}

/// A stranger's text, cut short and with nothing in it that a terminal obeys.
fn shown(text: &str) -> String {
    format!("{:?}", text.chars().take(120).collect::<String>())
}

struct Hashed<R> {
    from: R,
    hash: sha2::Sha256,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(into)?;
        self.hash.update(&into[..read]);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REF: &str = NAMES[0];

    /// An archive as `podman save` orders its files.
    struct Made {
        image: String,
        files: Vec<(String, Vec<u8>)>,
    }

    fn hex(bytes: &[u8]) -> String {
        Digest::of(bytes).hex()
    }

    fn index(digest: &str, more: &str) -> Vec<u8> {
        let kind = MANIFESTS[0];
        format!("{{\"schemaVersion\":2,\"manifests\":[{{\"mediaType\":\"{kind}\",\"digest\":\"{digest}\",\"size\":3{more}}}]}}")
            .into_bytes()
    }

    fn made() -> Made {
        let (manifest, layer) = (b"{\"layers\":[]}".to_vec(), vec![7; 1500]);
        let digest = format!("sha256:{}", hex(&manifest));
        let image = format!("localhost:5000/app@{digest}");
        let named = format!(",\"annotations\":{{\"{REF}\":\"{image}\"}}");
        let files = vec![
            (format!("{BLOBS}{}", hex(&manifest)), manifest),
            (format!("{BLOBS}{}", hex(&layer)), layer),
            (INDEX.to_owned(), index(&digest, &named)),
            (LAYOUT.to_owned(), b"{\"imageLayoutVersion\":\"1.0.0\"}".to_vec()),
        ];
        Made { image, files }
    }

    impl Made {
        fn tar(&self) -> Vec<u8> {
            let mut tar = Vec::new();
            for (name, bytes) in &self.files {
                tar::write(&mut tar, name, bytes.len() as u64, &mut bytes.as_slice()).unwrap();
            }
            tar::finish(&mut tar).unwrap();
            tar
        }

        fn taken(&self) -> Result<Vec<u8>, String> {
            let mut out = Vec::new();
            take(&self.image, &mut self.tar().as_slice(), &mut out).map(|()| out).map_err(|error| error.to_string())
        }

        fn digest(&self) -> &str {
            self.image.split_once('@').unwrap().1
        }
    }

    #[test]
    fn an_archive_is_written_anew_and_what_is_written_is_taken_again_as_the_same_bytes() {
        let made = made();
        let once = made.taken().unwrap();
        let mut twice = Vec::new();
        take(&made.image, &mut once.as_slice(), &mut twice).unwrap();
        assert!(once == twice && String::from_utf8_lossy(&once).contains(&format!("\"{REF}\":\"{}\"", made.image)));
        // One that was not named is, by what was asked for.
        let mut bare = self::made();
        bare.files[2].1 = index(bare.digest(), "");
        assert_eq!(bare.taken().unwrap(), once);
    }

    #[test]
    fn whatever_else_an_archive_holds_or_says_is_refused() {
        let named = |name: &str, value: &str| format!(",\"annotations\":{{\"{name}\":\"{value}\"}}");
        let refused = |change: &dyn Fn(&mut Made), expected: &str| {
            let mut made = made();
            change(&mut made);
            let error = made.taken().map(drop).unwrap_err();
            assert!(error.contains(expected) && error.contains(&made.image), "{expected}: {error}");
        };
        let with_index = |more: String| move |made: &mut Made| made.files[2].1 = index(made.digest(), &more);
        refused(&with_index(named(REF, "localhost/other:1")), "it would be called \"localhost/other:1\"");
        refused(&with_index(named(NAMES[1], "localhost/other:1")), "it would be called \"localhost/other:1\"");
        let other = format!("localhost/other:1@sha256:{}", "1".repeat(64));
        refused(&with_index(named(REF, &other)), "it would be called");
        refused(&|made| made.files[2].1 = index(&format!("sha256:{}", "1".repeat(64)), ""), "the image in it is \"sha256:1111");
        refused(
            &|made| {
                let one = String::from_utf8(index(made.digest(), "")).unwrap();
                let (from, to) = (one.find("[{").unwrap() + 1, one.rfind(']').unwrap());
                made.files[2].1 = format!("{},{}]}}", &one[..to], &one[from..to]).into_bytes();
            },
            "it holds 2 images",
        );
        refused(
            &|made| {
                let text = String::from_utf8(made.files[2].1.clone()).unwrap();
                made.files[2].1 = text.replace("image.manifest", "image.index").into_bytes();
            },
            "no image for one architecture",
        );
        refused(&|made| made.files.push(("manifest.json".into(), b"[]".to_vec())), "an archive of docker's own kind");
        refused(&|made| made.files.push(("etc/passwd".into(), b"x".to_vec())), "no part of an image");
        refused(&|made| made.files.push((format!("{BLOBS}../../x"), b"x".to_vec())), "no part of an image");
        refused(&|made| made.files.push(made.files[2].clone()), "index.json is in it twice");
        refused(&|made| made.files.push(made.files[1].clone()), "is in it twice");
        refused(&|made| made.files[1].1[9] ^= 1, "is not what its name says");
        refused(&|made| drop(made.files.remove(0)), "the manifest that it names is not in it");
        refused(&|made| drop(made.files.remove(2)), "no image in OCI's layout");
        refused(&|made| made.files[2].1 = vec![b' '; 70_000], "more than 65536");
        refused(&|made| made.files[2].1 = b"[".to_vec(), "cannot be read");
        refused(&|made| made.files.clear(), "no image in OCI's layout");
    }

    #[test]
    fn headers_that_podman_could_read_otherwise_are_refused() {
        let good = made().tar();
        let take = |tar: &[u8]| take(&made().image, &mut &tar[..], &mut io::sink()).map_err(|error| crate::log::chain(&error));
        take(&good).unwrap();
        for (kind, what) in [(b'1', "link"), (b'2', "symlink"), (b'x', "pax"), (b'g', "pax"), (b'L', "long name"), (b'S', "sparse")]
        {
            let mut tar = good.clone();
            tar[156] = kind;
            let sum: u32 =
                tar[..512].iter().enumerate().map(|(at, b)| if (148..156).contains(&at) { 32 } else { u32::from(*b) }).sum();
            tar[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
            assert!(take(&tar).unwrap_err().contains("neither a plain file nor a folder"), "{what}");
        }
        let mut spoiled = good.clone();
        spoiled[3] ^= 1;
        assert!(take(&spoiled).unwrap_err().contains("checksum"));
        // In what fills a block up, and within a blob.
        assert!(take(&good[..700]).unwrap_err().contains("it is cut short"));
        assert!(take(&good[..1600]).unwrap_err().contains("shorter"));
        assert!(take(&[]).is_err() && take(&[0x1f; 2000]).unwrap_err().contains("no header"));
    }
}
