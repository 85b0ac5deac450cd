//! Room that is set aside for the ledger, so that a full disk cannot lose it.
//!
//! A file of the store that holds nothing. When the ledger finds no room it is given up, which frees its blocks and its inode, and made
//! again once there is room for it and for what else is kept free.
//! Limits: who fills the disk in the instant between the two takes the room; a file system that stores a file of no content in less room
//! (compression without preallocation) sets less aside.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::fcntl::posix_fallocate;

use super::{RESERVE_BYTES, Store, StoreError, beside, create, sync_folder};

const NAME: &str = "reserve";
/// A ledger and a generation of a thousand files.
const LEAST: u64 = 1 << 20;

impl Store {
    /// Sets room aside for a ledger of so many bytes and the generation beside it, where there is some; nothing is written when that was done
    /// before. It is a precaution: that it cannot be taken is no error.
    pub(super) fn set_aside(&self, ledger: u64) {
        let size = ledger.saturating_mul(2).max(LEAST).next_multiple_of(LEAST);
        let path = self.file(NAME);
        let is_there = fs::symlink_metadata(&path).is_ok_and(|seen| seen.is_file() && seen.len() >= size);
        let has_room = || self.space().is_ok_and(|space| space.bytes >= size.saturating_add(RESERVE_BYTES));
        if is_there || !has_room() {
            return;
        }
        let new = beside(&path);
        let made = create(&new, 0o600).and_then(|file| allocate(&file, size)).and_then(|()| fs::rename(&new, &path));
        if let Err(error) = made {
            let _ = fs::remove_file(&new);
            tracing::debug!("no room could be set aside for the ledger: {error}");
        }
    }

    /// Gives the room up. Whether there was any.
    pub(super) fn give_up_reserve(&self) -> bool {
        let path = self.file(NAME);
        let given = fs::remove_file(&path).is_ok();
        if given {
            // Some file systems free what was removed only once that is on the disk. Whether that helped is seen when the room is used.
            let _ = sync_folder(&path);
            tracing::warn!("the disk is full: the room that was set aside for the ledger is used");
        }
        given
    }
}

impl StoreError {
    /// Whether more room would have helped.
    pub(super) fn is_full(&self) -> bool {
        matches!(self, Self::Io { source, .. }
            if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
    }
}

/// Gives a file that is empty so many bytes: blocks of its own, not a hole.
pub fn allocate(mut file: &File, size: u64) -> io::Result<()> {
    let length = size.try_into().map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
    match posix_fallocate(file.as_fd(), 0, length) {
        Ok(()) => {}
        // A file system that cannot (or a C library that does not make up for it).
        Err(Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::EINVAL) => {
            let zeros = vec![0; 1 << 16];
            for _ in 0..size.div_ceil(zeros.len() as u64) {
                file.write_all(&zeros)?;
            }
        }
        Err(errno) => return Err(errno.into()),
    }
    file.sync_all()
}
