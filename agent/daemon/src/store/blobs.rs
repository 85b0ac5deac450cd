//! Contents by digest, in `blobs/ab/cdef…`: what was rendered, and what stood on the host before trimtab came.
//!
//! A content is under its name only whole, also after a power cut, and is judged by its digest each time it is read. It is on the disk
//! after the next [`Store::sync`], which each save of a document begins with; only there it gets its name. A name that came before its
//! content could stand there with nothing in it for ever: it would count as kept. Until then this [`Store`] alone can read it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use sha2::Digest as _;
use trimtab_model::digest::Digest;

use super::{Store, StoreError, create};

pub(super) const FOLDER: &str = "blobs";
const NEW: &str = ".new";

impl Store {
    /// Keeps a content. One that is there already, whole, is left as it is.
    pub fn put(&mut self, bytes: &[u8]) -> Result<Digest, StoreError> {
        self.writable()?;
        let digest = Digest::of(bytes);
        if !self.holds(&digest, bytes.len() as u64) {
            self.put_new(&mut &*bytes)?;
        }
        Ok(digest)
    }

    /// Keeps what is read here, however long, without holding it in memory; for originals that are replaced.
    pub fn put_file(&mut self, from: &mut dyn Read) -> Result<Digest, StoreError> {
        self.writable()?;
        self.put_new(from)
    }

    /// Whether a content is there. Whether it is whole is told when it is read.
    pub fn has(&self, digest: &Digest) -> bool {
        self.fresh.contains_key(digest) || self.blob(digest).is_file()
    }

    /// The length of a content in bytes; 0 for one that is not there.
    pub fn size(&self, digest: &Digest) -> u64 {
        let path = self.fresh.get(digest).cloned().unwrap_or_else(|| self.blob(digest));
        fs::symlink_metadata(path).map_or(0, |seen| seen.len())
    }

    /// Reads a content and judges it by its digest.
    pub fn read(&self, digest: &Digest) -> Result<Vec<u8>, StoreError> {
        let path = self.blob(digest);
        let mut bytes = Vec::new();
        self.open_blob(digest)?.read_to_end(&mut bytes).map_err(StoreError::io("read", &path))?;
        if Digest::of(&bytes) == *digest { Ok(bytes) } else { Err(StoreError::DamagedBlob { path, digest: *digest }) }
    }

    /// Opens a content to be read piece by piece; the reader judges it by its digest.
    pub fn open_blob(&self, digest: &Digest) -> Result<File, StoreError> {
        let path = self.fresh.get(digest).cloned().unwrap_or_else(|| self.blob(digest));
        match OpenOptions::new().read(true).custom_flags(OFlag::O_NOFOLLOW.bits()).open(&path) {
            Ok(file) => Ok(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(StoreError::NoBlob { path: self.file(FOLDER), digest: *digest })
            }
            Err(error) => Err(StoreError::io("read", &path)(error)),
        }
    }

    /// Removes every content that is not in `keep`, and what a crash left half-written. Returns how many.
    pub fn gc(&mut self, keep: &BTreeSet<Digest>) -> Result<usize, StoreError> {
        self.writable()?;
        // What has no name yet would count as left by a crash.
        self.sync()?;
        let folder = self.file(FOLDER);
        let mut removed = 0;
        for shelf in list(&folder)? {
            if shelf.is_dir() {
                for blob in list(&shelf)? {
                    if !digest_of(&blob).is_some_and(|digest| keep.contains(&digest)) {
                        fs::remove_file(&blob).map_err(StoreError::io("remove", &blob))?;
                        removed += 1;
                    }
                }
                // Only an empty one goes.
                let _ = fs::remove_dir(&shelf);
            } else {
                fs::remove_file(&shelf).map_err(StoreError::io("remove", &shelf))?;
            }
        }
        Ok(removed)
    }

    pub(super) fn blob(&self, digest: &Digest) -> PathBuf {
        let hex = digest.hex();
        let (shelf, name) = hex.split_at(2);
        self.file(FOLDER).join(shelf).join(name)
    }

    // Whole, or not at all: a power cut can leave a file short or full of zeros under its right name.
    fn holds(&self, digest: &Digest, size: u64) -> bool {
        self.fresh.contains_key(digest)
            || fs::symlink_metadata(self.blob(digest)).is_ok_and(|seen| seen.len() == size) && self.read(digest).is_ok()
    }

    // Written under one temporary name, for its digest is known only at the end.
    fn put_new(&mut self, from: &mut dyn Read) -> Result<Digest, StoreError> {
        let folder = self.file(FOLDER);
        self.make_shelf(&folder)?;
        let new = folder.join(NEW);
        let written = write_hashed(&new, from).and_then(|(digest, file)| {
            let nameless = nameless(&folder, &digest);
            fs::rename(&new, &nameless)?;
            self.fresh.insert(digest, nameless);
            self.unsynced.add_fd(file.into())?;
            Ok(digest)
        });
        written.map_err(|error| {
            let _ = fs::remove_file(&new);
            StoreError::io("keep a content in", &folder)(error)
        })
    }

    /// Waits until the contents put so far are on the disk, under their names. Each save of a document does this first.
    /// After an error those that were new must be put again.
    pub fn sync(&mut self) -> Result<(), StoreError> {
        let fresh = std::mem::take(&mut self.fresh);
        let path = self.file(FOLDER);
        let io = StoreError::io("write to the disk", &path);
        let synced = self.unsynced.sync().map_err(&io);
        let named = synced.and_then(|()| self.name(&fresh)).and_then(|()| self.unsynced.sync().map_err(&io));
        if named.is_err() {
            for nameless in fresh.values() {
                let _ = fs::remove_file(nameless);
            }
        }
        named
    }

    fn name(&mut self, fresh: &BTreeMap<Digest, PathBuf>) -> Result<(), StoreError> {
        for (digest, nameless) in fresh {
            let path = self.blob(digest);
            let shelf = path.parent().unwrap_or(Path::new("/"));
            self.make_shelf(shelf)?;
            let named = fs::rename(nameless, &path).and_then(|()| self.unsynced.add_fd(File::open(shelf)?.into()));
            named.map_err(StoreError::io("keep", &path))?;
        }
        Ok(())
    }

    pub(super) fn make_shelf(&mut self, folder: &Path) -> Result<(), StoreError> {
        let io = StoreError::io("make the folder", folder);
        match DirBuilder::new().mode(0o700).create(folder) {
            Ok(()) => {
                let above = folder.parent().unwrap_or(Path::new("/"));
                let above = File::open(above).map_err(&io)?;
                self.unsynced.add_fd(above.into()).map_err(io)
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(io(error)),
        }
    }
}

/// Where a content lies until it has its name.
pub(super) fn nameless(folder: &Path, digest: &Digest) -> PathBuf {
    folder.join(format!(".{}{NEW}", digest.hex()))
}

fn write_hashed(path: &Path, from: &mut dyn Read) -> io::Result<(Digest, File)> {
    let mut file = create(path, 0o600)?;
    let mut hasher = sha2::Sha256::new();
    let mut buffer = [0; 16 << 10];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok((Digest::from_bytes(hasher.finalize().into()), file)),
            Ok(got) => {
                hasher.update(&buffer[..got]);
                file.write_all(&buffer[..got])?;
                crate::log::alive();
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn list(folder: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let io = StoreError::io("list", folder);
    match fs::read_dir(folder) {
        Ok(entries) => entries.map(|entry| entry.map(|entry| entry.path()).map_err(&io)).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(io(error)),
    }
}

fn digest_of(blob: &Path) -> Option<Digest> {
    let name = blob.file_name()?.to_str()?;
    let shelf = blob.parent()?.file_name()?.to_str()?;
    format!("sha256:{shelf}{name}").parse().ok()
}
