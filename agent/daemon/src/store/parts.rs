//! Contents that are on their way: written piece by piece, perhaps over several passes, and contents only when they are whole and proven.
//!
//! A part lies in `parts/`, named by the digest that it is to have; nothing reads it but who goes on with it, and who does hashes it anew.
//!
//! Guarantee: parts are of what the newest revision that was tried wants, and none is there while the disk is full ([`Store::give_up_parts`]): they can be
//! fetched again, and what others have to write cannot.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::PathBuf;

use nix::fcntl::OFlag;
use trimtab_model::digest::Digest;

use super::blobs::{FOLDER, nameless};
use super::{Store, StoreError};

const PARTS: &str = "parts";

impl Store {
    /// Opens what there is of a content, or begins it. Only its owner may read it.
    pub fn part(&mut self, digest: &Digest) -> Result<File, StoreError> {
        self.writable()?;
        let folder = self.file(PARTS);
        match DirBuilder::new().mode(0o700).create(&folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(StoreError::io("make the folder", &folder)(error));
            }
            _ => {}
        }
        let path = self.part_file(digest);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(OFlag::O_NOFOLLOW.bits());
        options.open(&path).map_err(StoreError::io("write", &path))
    }

    /// Where they lie.
    pub fn parts(&self) -> PathBuf {
        self.file(PARTS)
    }

    /// Whether less room is left than is to be kept free.
    pub fn is_short(&self) -> bool {
        self.require(0).is_err()
    }

    /// Gives up all parts, so that their room is there for who needs it more. Whether there was one.
    pub fn give_up_parts(&mut self) -> bool {
        let had = fs::read_dir(self.file(PARTS)).is_ok_and(|mut parts| parts.next().is_some());
        self.keep_parts(&BTreeSet::new());
        had
    }

    /// How many bytes there are of a content that is on its way.
    pub fn part_size(&self, digest: &Digest) -> u64 {
        fs::symlink_metadata(self.part_file(digest)).map_or(0, |seen| seen.len())
    }

    /// A part that is whole and was found to be what it should becomes a content. On the disk after the next [`Store::sync`].
    pub fn take_part(&mut self, digest: &Digest, file: File) -> Result<(), StoreError> {
        self.writable()?;
        let folder = self.file(FOLDER);
        self.make_shelf(&folder)?;
        let to = nameless(&folder, digest);
        let taken = fs::rename(self.part_file(digest), &to).and_then(|()| {
            self.fresh.insert(*digest, to);
            self.unsynced.add_fd(file.into())
        });
        taken.map_err(StoreError::io("keep a content in", &folder))
    }

    /// What came of a content is not what it should be.
    pub fn drop_part(&mut self, digest: &Digest) {
        // What stays is found to be wrong again.
        let _ = fs::remove_file(self.part_file(digest));
    }

    /// Removes parts that nobody waits for.
    pub fn keep_parts(&mut self, keep: &BTreeSet<Digest>) {
        for entry in fs::read_dir(self.file(PARTS)).into_iter().flatten().flatten() {
            let digest = entry.file_name().to_str().and_then(|hex| format!("sha256:{hex}").parse::<Digest>().ok());
            if !digest.is_some_and(|digest| keep.contains(&digest)) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    /// A content turned out to be damaged: it is not there any more, and can be brought again.
    pub fn discard(&mut self, digest: &Digest) {
        if let Some(path) = self.fresh.remove(digest) {
            let _ = fs::remove_file(path);
        }
        let _ = fs::remove_file(self.blob(digest));
    }

    fn part_file(&self, digest: &Digest) -> PathBuf {
        self.file(PARTS).join(digest.hex())
    }
}
