//! Offline bundles: commits, artifacts and images in one file, from a stick, under the same proof as from a network.
//!
//! A bundle is a tar file: `manifest`, perhaps its signature (`manifest.minisig` or `manifest.sig`, as minisign and ssh-keygen write them), then the parts in
//! the order of the manifest, which has the digest and length of each. A plain `git bundle` is a bundle without artifacts and images.
//!
//! Guarantees: [`open`] has read and hashed every byte before anything follows from it; what is cut short, swapped, mixed or added is refused with
//! the place. Nothing is believed for being in a bundle: commits are proven as ever, artifacts are what the commit says by digest, of images
//! only the one of that digest is handed on ([`archive`]). So the signature of a manifest is told, and asked for only where somebody names a key.
//! Limits: bytes may change under us on a stick; what is used is hashed again when it is used.

pub mod archive;
pub mod manifest;
pub(crate) mod tar;

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::Digest as _;
use trimtab_model::digest::Digest;

pub use self::manifest::{Manifest, Part};
use crate::trust::blocks::{self, AnyKey, BlockFault};
use crate::trust::pubkey::PublicKey;

/// The SSH namespace of a manifest's signature.
pub const NAMESPACE: &[u8] = b"trimtab-bundle";
/// The manifest in the tar file.
pub const MANIFEST: &str = "manifest";
/// Its signature by minisign.
pub const MINISIG: &str = "manifest.minisig";
/// Its signature by ssh-keygen.
pub const SSHSIG: &str = "manifest.sig";
const MAX_SIGNATURE: u64 = 32 << 10;
/// Before a minisign key in a root file.
const MINISIGN_KEY: &str = "minisign:";

/// Why a file is no bundle that can be used. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// It could not be read.
    #[error("cannot read {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is not what a bundle is.
    #[error("{} is no bundle that can be used: at byte {at}: {why}", path.display())]
    Wrong {
        /// The file.
        path: PathBuf,
        /// Where.
        at: u64,
        /// What is wrong there.
        why: String,
    },
    /// Its signature does not count.
    #[error("the signature of {} does not count", path.display())]
    Signature {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: BlockFault,
    },
    /// It has none, and somebody asks for one.
    #[error("{} is not signed, and a signature by {wanted} was asked for", path.display())]
    Unsigned {
        /// The file.
        path: PathBuf,
        /// By whom.
        wanted: String,
    },
}

/// A bundle that was read to its end.
#[derive(Debug)]
pub struct Opened {
    path: PathBuf,
    file: File,
    /// What it says that it holds; `None`: a plain git bundle.
    pub manifest: Option<Manifest>,
    text: Vec<u8>,
    signature: Option<Vec<u8>>,
    /// Where each part begins, in the order of the manifest.
    places: Vec<u64>,
}

/// The public key in a text: a file of ssh-keygen's or minisign's, or a key as root files write it.
pub fn key_in(text: &str) -> Option<AnyKey> {
    let minisign = |line: &str| line.trim().trim_start_matches(MINISIGN_KEY).parse().ok().map(AnyKey::Minisign);
    let blob = |line: &str| STANDARD.decode(line.split_whitespace().nth(1)?).ok();
    let ssh = || text.lines().find_map(|line| PublicKey::parse(&blob(line)?).ok().map(AnyKey::Ssh));
    text.lines().find_map(minisign).or_else(ssh)
}

/// Reads and hashes all of a file. `tell` is told how many bytes of how many were read.
pub fn open(path: &Path, tell: &mut dyn FnMut(u64, u64)) -> Result<Opened, BundleError> {
    let failed = |source| BundleError::Io { path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    let length = file.metadata().map_err(failed)?.len();
    let mut begin = [0; 16];
    let is_git = file.read_exact_at(&mut begin, 0).is_ok() && matches!(&begin, b"# v2 git bundle\n" | b"# v3 git bundle\n");
    let empty =
        |file| Opened { path: path.to_owned(), file, manifest: None, text: Vec::new(), signature: None, places: Vec::new() };
    if is_git {
        return Ok(empty(file));
    }
    let mut reader = Reader { path, from: BufReader::new(file.try_clone().map_err(failed)?), at: 0, length, tell };
    let (text, signature) = reader.begin()?;
    let manifest = Manifest::parse(&text).map_err(|why| reader.wrong(0, why))?;
    let mut places = Vec::new();
    for part in &manifest.parts {
        places.push(reader.part(part)?);
    }
    reader.end()?;
    Ok(Opened { manifest: Some(manifest), text, signature, places, ..empty(file) })
}

struct Reader<'a> {
    path: &'a Path,
    from: BufReader<File>,
    at: u64,
    length: u64,
    tell: &'a mut dyn FnMut(u64, u64),
}

impl Reader<'_> {
    fn wrong(&self, at: u64, why: impl Into<String>) -> BundleError {
        BundleError::Wrong { path: self.path.to_owned(), at, why: why.into() }
    }

    fn failed(&self, source: io::Error) -> BundleError {
        BundleError::Io { path: self.path.to_owned(), source }
    }

    fn head(&mut self) -> Result<Option<(String, u64)>, BundleError> {
        let at = self.at;
        let head = tar::read_header(&mut self.from).map_err(|error| self.failed(error))?;
        self.at += tar::BLOCK;
        let head = head.map_err(|why| self.wrong(at, why))?;
        match &head {
            Some((name, size)) if self.at.saturating_add(*size) > self.length => Err(self.wrong(
                at,
                format!(
                    "{name} is cut short: it has {size} bytes, and the file ends after {}",
                    self.length.saturating_sub(self.at)
                ),
            )),
            _ => Ok(head),
        }
    }

    /// A short file, whole.
    fn small(&mut self, name: &str, size: u64, most: u64) -> Result<Vec<u8>, BundleError> {
        if size > most {
            return Err(self.wrong(self.at, format!("{name} has {size} bytes, more than {most}")));
        }
        let mut bytes = Vec::new();
        let all = size + tar::padding(size);
        self.from
            .by_ref()
            .take(all)
            .read_to_end(&mut bytes)
            .map_err(|error| BundleError::Io { path: self.path.to_owned(), source: error })?;
        if bytes.len() as u64 != all {
            return Err(self.wrong(self.at, format!("{name} is cut short")));
        }
        self.at += all;
        bytes.truncate(usize::try_from(size).unwrap_or(0));
        Ok(bytes)
    }

    fn begin(&mut self) -> Result<(Vec<u8>, Option<Vec<u8>>), BundleError> {
        let Some((name, size)) = self.head()? else { return Err(self.wrong(0, "it is empty")) };
        if name != MANIFEST {
            return Err(self.wrong(0, format!("the first file in it is {name}, and not {MANIFEST}")));
        }
        let text = self.small(&name, size, manifest::MAX_MANIFEST)?;
        // A signature comes next, or the first part.
        let mut ahead = [0; 512];
        self.from.get_ref().read_exact_at(&mut ahead, self.at).map_err(|_| self.wrong(self.at, "it is cut short here"))?;
        let signature = match tar::read_header(&mut ahead.as_slice()).map_err(|error| self.failed(error))? {
            Ok(Some((name, size))) if name == MINISIG || name == SSHSIG => {
                self.head()?;
                let bytes = self.small(&name, size, MAX_SIGNATURE)?;
                let minisign = || std::str::from_utf8(&bytes).ok().and_then(|text| blocks::of_minisig(text).ok());
                let block = if name == MINISIG { minisign() } else { Some(bytes.clone()) };
                Some(block.ok_or_else(|| self.wrong(self.at, format!("{name} is no minisign signature")))?)
            }
            _ => None,
        };
        Ok((text, signature))
    }

    /// One part, hashed; where it begins.
    fn part(&mut self, part: &Part) -> Result<u64, BundleError> {
        let at = self.at;
        let Some((name, size)) = self.head()? else {
            return Err(self.wrong(at, format!("it ends here, and {} is missing", part.name)));
        };
        if name != part.name {
            return Err(self.wrong(at, format!("{name} lies here where the manifest has {}", part.name)));
        }
        if size != part.size {
            return Err(self.wrong(at, format!("{name} has {size} bytes, and the manifest says {}", part.size)));
        }
        let place = self.at;
        let mut hash = sha2::Sha256::new();
        let mut buffer = vec![0; 256 << 10];
        let mut left = size;
        while left > 0 {
            let want = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
            let got =
                self.from.read(&mut buffer[..want]).map_err(|source| BundleError::Io { path: self.path.to_owned(), source })?;
            if got == 0 {
                return Err(self.wrong(self.at, format!("{name} is cut short")));
            }
            hash.update(&buffer[..got]);
            (left, self.at) = (left - got as u64, self.at + got as u64);
            (self.tell)(self.at, self.length);
        }
        let found = Digest::from_bytes(hash.finalize().into());
        if found != part.digest {
            return Err(
                self.wrong(place, format!("{name} is not what the manifest says: its digest is {found}, and not {}", part.digest))
            );
        }
        let padding = tar::padding(size);
        let skipped = io::copy(&mut self.from.by_ref().take(padding), &mut io::sink());
        if skipped.map_err(|error| self.failed(error))? != padding {
            return Err(self.wrong(self.at, format!("{name} is cut short")));
        }
        self.at += padding;
        Ok(place)
    }

    fn end(&mut self) -> Result<(), BundleError> {
        let at = self.at;
        match self.head()? {
            None => Ok(()),
            Some((name, _)) => Err(self.wrong(at, format!("{name} lies here, and the manifest does not have it"))),
        }
    }
}

impl Opened {
    /// Who signed the manifest. A signature that does not verify is an error; one by nobody of these is told as such, unless one is asked for.
    pub fn signer(&self, known: &[AnyKey], wanted: Option<&AnyKey>) -> Result<Option<Result<String, String>>, BundleError> {
        let path = || self.path.clone();
        let Some(signature) = &self.signature else {
            return match wanted {
                Some(wanted) => Err(BundleError::Unsigned { path: path(), wanted: wanted.print() }),
                None => Ok(None),
            };
        };
        let wrong = |source| BundleError::Signature { path: path(), source };
        let blocks = blocks::only(signature).map_err(|error| wrong(BlockFault::Malformed(error.to_string())))?;
        let [block] = blocks.as_slice() else { return Err(wrong(BlockFault::Malformed("there must be one".to_owned()))) };
        let by = block.signer(&self.text, NAMESPACE, wanted.map_or(known, std::slice::from_ref).iter());
        match by {
            Ok(key) => Ok(Some(Ok(key.print()))),
            Err(BlockFault::Unknown(name)) if wanted.is_none() => Ok(Some(Err(name))),
            Err(fault) => Err(wrong(fault)),
        }
    }

    /// How long the part with the commits is.
    pub fn repository_size(&self) -> io::Result<u64> {
        match &self.manifest {
            Some(manifest) => Ok(manifest.parts.first().map_or(0, |part| part.size)),
            None => self.file.metadata().map(|seen| seen.len()),
        }
    }

    /// Copies the commits, as a plain git bundle.
    pub fn copy_repository(&self, to: &mut dyn Write) -> io::Result<()> {
        if !self.places.is_empty() {
            return self.copy(0, to);
        }
        let mut file = self.file.try_clone()?;
        file.seek(SeekFrom::Start(0))?;
        io::copy(&mut file, to).map(drop)
    }

    /// The part with this name.
    pub fn find(&self, name: &str) -> Option<usize> {
        self.parts().iter().position(|part| part.name == name)
    }

    /// The part with this image.
    pub fn image(&self, image: &str) -> Option<usize> {
        self.parts().iter().position(|part| part.image.as_deref() == Some(image))
    }

    fn parts(&self) -> &[Part] {
        self.manifest.as_ref().map_or(&[], |manifest| &manifest.parts)
    }

    /// Some bytes of a part, from a byte on; none at its end. For who hashes them.
    pub fn read(&self, part: usize, from: u64, most: usize) -> io::Result<Vec<u8>> {
        let (Some(about), Some(place)) = (self.parts().get(part), self.places.get(part)) else { return Ok(Vec::new()) };
        let left = usize::try_from(about.size.saturating_sub(from)).unwrap_or(usize::MAX).min(most);
        let mut bytes = vec![0; left];
        self.file.read_exact_at(&mut bytes, place + from)?;
        Ok(bytes)
    }

    /// A part, to be read from its begin.
    pub fn part(&self, part: usize) -> impl Read {
        PartReader { bundle: self, part, at: 0 }
    }

    /// Copies a part, and hashes it again on the way: it may have been exchanged since.
    pub fn copy(&self, part: usize, to: &mut dyn Write) -> io::Result<()> {
        let Some(about) = self.parts().get(part) else { return Ok(()) };
        let (mut at, mut hash) = (0, sha2::Sha256::new());
        while at < about.size {
            let bytes = self.read(part, at, 1 << 20)?;
            hash.update(&bytes);
            to.write_all(&bytes)?;
            at += bytes.len() as u64;
        }
        if Digest::from_bytes(hash.finalize().into()) == about.digest {
            return Ok(());
        }
        Err(io::Error::other(format!("{} was changed while it was used", about.name)))
    }
}

struct PartReader<'a> {
    bundle: &'a Opened,
    part: usize,
    at: u64,
}

impl Read for PartReader<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let bytes = self.bundle.read(self.part, self.at, into.len())?;
        into[..bytes.len()].copy_from_slice(&bytes);
        self.at += bytes.len() as u64;
        Ok(bytes.len())
    }
}
