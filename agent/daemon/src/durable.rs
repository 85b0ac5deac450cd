//! What has been written and is not yet known to be on the disk.
//!
//! Guarantee: after [`Unsynced::sync`] came back well, everything that was added survives a power cut.
//! A few files and directories are synced side by side; beyond [`FEW`] the whole file system is synced once instead, which on the slow
//! flash of an edge device is the difference between a second and a minute.
//! Limit: `syncfs` reports lost writes since Linux 5.8 only; older kernels tell them for single files alone.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use nix::sys::stat::fstat;
use nix::unistd::{fsync, syncfs};

/// Up to this many are synced each for itself. It also bounds the handles that are held open.
const FEW: usize = 16;

/// A thread that waits for the disk needs next to none.
const STACK: usize = 64 << 10;

/// Handles of files and directories that must still be synced.
#[derive(Debug, Default)]
pub struct Unsynced {
    single: Vec<(u64, OwnedFd)>,
    // By device number: one handle is enough to sync all that is on it.
    whole: BTreeMap<u64, OwnedFd>,
}

impl Unsynced {
    /// Nothing to sync.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether there is nothing to sync.
    pub fn is_empty(&self) -> bool {
        self.single.is_empty() && self.whole.is_empty()
    }

    /// Remembers a file or directory on device `dev`. It must have been opened for reading or writing: an `O_PATH` handle cannot be synced.
    pub fn add(&mut self, dev: u64, fd: OwnedFd) {
        if self.whole.contains_key(&dev) {
            return;
        }
        self.single.push((dev, fd));
        if self.single.len() > FEW {
            for (dev, fd) in self.single.drain(..) {
                self.whole.entry(dev).or_insert(fd);
            }
        }
    }

    /// As [`Unsynced::add`], asking the handle for its device.
    pub fn add_fd(&mut self, fd: OwnedFd) -> io::Result<()> {
        let dev = fstat(&fd)?.st_dev;
        self.add(dev, fd);
        Ok(())
    }

    /// Waits until all of it is on the disk. After an error nothing is remembered any more: what was written must be written again, for
    /// the kernel tells a lost write only once.
    pub fn sync(&mut self) -> io::Result<()> {
        let (single, whole) = (std::mem::take(&mut self.single), std::mem::take(&mut self.whole));
        side_by_side(&single)?;
        for fd in whole.values() {
            syncfs(fd)?;
        }
        Ok(())
    }
}

/// Syncs all of them at once. A journalling file system writes what is asked for at the same time in one commit, and one after the other each would wait
/// for a commit of its own: on flash and spinning disks that is most of what a small change takes.
fn side_by_side(list: &[(u64, OwnedFd)]) -> io::Result<()> {
    let Some(((_, first), rest)) = list.split_first() else { return Ok(()) };
    std::thread::scope(|scope| {
        let one = |fd: &'_ OwnedFd| fsync(fd).map_err(io::Error::from);
        let mut here = vec![first];
        let mut threads = Vec::new();
        for (_, fd) in rest {
            match std::thread::Builder::new().stack_size(STACK).spawn_scoped(scope, move || one(fd)) {
                Ok(thread) => threads.push(thread),
                // No thread to be had: it is done here, one after the other.
                Err(_) => here.push(fd),
            }
        }
        let here = here.into_iter().map(one).collect::<Vec<_>>();
        let there = threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err(io::ErrorKind::Other.into())));
        // All have been asked for, whatever came of the first: nothing of it is remembered any more.
        here.into_iter().chain(there.collect::<Vec<_>>()).collect()
    })
}

/// Replaces a file as a whole, without waiting for the disk: after a power cut it may be the old one. For what can be made again.
/// The folder may be somebody else's: what stands at either name is never followed.
pub fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".new");
    let beside = path.with_file_name(name);
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
        // The umask is the unit's, not this file's.
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.write_all(bytes)?;
        fs::rename(&beside, path)
    };
    write().inspect_err(|_| {
        let _ = fs::remove_file(&beside);
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kernel refuses to sync a pipe: whichever of them fails, on whichever thread, it is told.
    #[test]
    fn a_sync_that_fails_is_told_wherever_it_stands() {
        let file = || OwnedFd::from(tempfile::tempfile().expect("because the temporary folder can be written"));
        for count in [1, 2, 5, FEW] {
            for bad in 0..count {
                let mut unsynced = Unsynced::new();
                for at in 0..count {
                    let pipe = || nix::unistd::pipe().expect("because there are handles left").0;
                    unsynced.add_fd(if at == bad { pipe() } else { file() }).expect("because it is open");
                }
                let error = unsynced.sync().expect_err("because a pipe cannot be synced");
                assert_eq!(error.raw_os_error(), Some(nix::libc::EINVAL), "{bad} of {count}: {error}");
                assert!(unsynced.is_empty() && unsynced.sync().is_ok(), "what was lost is not asked for again");
            }
        }
        let mut unsynced = Unsynced::new();
        (0..FEW).for_each(|_| unsynced.add_fd(file()).expect("because it is open"));
        unsynced.sync().expect("because these are files");
    }
}
