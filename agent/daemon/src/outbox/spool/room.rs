//! Room for reports on a disk that has none: of all that a host could say, that its disk is full must not be what it cannot say.
//!
//! A file of the spool that holds nothing is given up when there is little room, and made again of what reports give back when they are
//! delivered. What is written meanwhile is small, and what waits does not grow beyond what the room was.
//!
//! Guarantees: while there is plenty, no report takes what is kept free for the ledger; while there is not, the spool takes no more than
//! [`WAITING`] and the report that is being written, or no more than it had before.
//! Limits: who fills the disk in the instant between two reports takes the room; the next report is told by what the journal has, and by the
//! condition `Silenced`.

use std::io;
use std::path::Path;

use super::{MAX_FILE, Spool, SpoolError};
use crate::store::{allocate, space_at};

const NAME: &str = "reserve";
/// What is set aside: [`WAITING`], a report that is written and two that become one.
const SIZE: u64 = 1 << 20;
/// Less than this is of no use.
const LEAST: u64 = 16 << 10;
/// What may wait on a full disk.
pub(super) const WAITING: u64 = 512 << 10;
/// The sizes of a report on a full disk, bytes: what does not fit is tried with less detail.
pub(super) const SMALL: [usize; 2] = [128 << 10, 8 << 10];
/// On a full disk so many reports become one at most with each that is written: each step is a write.
pub(super) const STEPS: usize = 16;

impl Spool {
    /// Whether a report of any size leaves enough for the rest of trimtab. What cannot be asked is found out by writing.
    pub(super) fn has_room(&self) -> bool {
        let asked = crate::store::require_at(&self.folder, MAX_FILE);
        !matches!(asked, Err(crate::store::StoreError::NoSpace { .. }))
    }

    /// Sets room aside where there is some. It is a precaution: that it cannot be taken is no error.
    pub(super) fn set_aside(&mut self) {
        let path = self.folder.join(NAME);
        let there = std::fs::symlink_metadata(&path).map_or(0, |data| data.len());
        // A part of it is made whole where there is plenty, and is what there is where there is not.
        if there >= SIZE || (there > 0 && self.short) {
            return;
        }
        let Ok(free) = space_at(&self.folder).map(|space| space.bytes) else { return };
        let size = match () {
            () if crate::store::require_at(&self.folder, SIZE).is_ok() => SIZE,
            // It comes back from the reports that it was given up for.
            () if self.given_up => free.min(SIZE),
            () => (free / 2).min(SIZE),
        };
        if size < LEAST || size <= there {
            return;
        }
        let beside = self.folder.join(".room");
        let made = fresh(&beside).and_then(|file| allocate(&file, size)).and_then(|()| std::fs::rename(&beside, &path));
        if let Err(error) = made {
            let _ = std::fs::remove_file(&beside);
            tracing::debug!("no room could be set aside for reports: {error}");
        }
    }

    /// Gives the room up.
    pub(super) fn give_up(&mut self) {
        if std::fs::remove_file(self.folder.join(NAME)).is_ok() {
            self.given_up = true;
            // Some file systems free what was removed only once that is on the disk.
            let _ = std::fs::File::open(&self.folder).and_then(|folder| folder.sync_all());
        }
    }
}

impl SpoolError {
    /// Whether more room would have helped.
    pub(super) fn is_full(&self) -> bool {
        matches!(self.source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }
}

fn fresh(path: &Path) -> io::Result<std::fs::File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let _ = std::fs::remove_file(path);
    std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}
