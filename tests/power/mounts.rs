//! Mounts that are nobody else's business and that go away whatever happens.
//!
//! Guarantee: a test's mounts are in a mount namespace of the test's own thread and of what it starts, so a killed test leaves none: the
//! namespace goes with its last process, and each loop device with its file system (`mount -o loop` sets it to clear itself).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

/// From here on this thread, and what it starts, mounts for itself alone.
pub(crate) fn apart() {
    unshare(CloneFlags::CLONE_NEWNS).expect("because root may have a mount namespace");
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).expect("because the namespace is ours");
}

/// Something mounted; dropping it unmounts it.
#[must_use = "it is unmounted when it is dropped"]
pub(crate) struct Mounted(PathBuf);

impl Mounted {
    /// Memory as a file system.
    pub(crate) fn memory(at: &Path) -> Self {
        fs::create_dir_all(at).expect("because the folder is ours");
        mount(Some("power"), at, Some("tmpfs"), MsFlags::empty(), Some("mode=755")).expect("because root may mount a tmpfs");
        Self(at.to_owned())
    }

    /// A disk in a file, with ext4 on it; the error is what mount(8) said.
    pub(crate) fn disk(file: &Path, at: &Path, options: &str) -> Result<Self, String> {
        fs::create_dir_all(at).expect("because the folder is ours");
        let options = format!("loop{}{options}", if options.is_empty() { "" } else { "," });
        let output = Command::new("mount").args(["-t", "ext4", "-o", &options]).arg(file).arg(at).output();
        let output = output.expect("because util-linux is there");
        if output.status.success() { Ok(Self(at.to_owned())) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Unmounts it and waits for all that is to be written. A child of a pass that has ended may hold it for a moment.
    pub(crate) fn unmount(self) {
        let mut tries = 0;
        while let Err(errno) = umount2(&self.0, MntFlags::empty()) {
            tries += 1;
            assert!(errno == Errno::EBUSY && tries < 2000, "{} cannot be unmounted: {errno}", self.0.display());
            std::thread::sleep(Duration::from_millis(5));
        }
        std::mem::forget(self);
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // A process that is about to end may still hold it: then it goes with that.
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}
