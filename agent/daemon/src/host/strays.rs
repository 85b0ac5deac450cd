//! What lies in directories that are declared exclusive, and that nobody declared.
//!
//! Guarantees: nothing is opened but the directory itself, and no symlink followed; contents are not read. However many names there are, at
//! most [`MAX_STRAYS`] are held and looked at; the others are counted. What trimtab is just staging is none of them.
//! Limit: names that are no UTF-8 text, or hold control characters, are counted and never touched.

use std::collections::BTreeSet;
use std::io;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, readlinkat};
use nix::sys::stat::{FileStat, Mode, fstatat};
use trimtab_model::drift::MAX_STRAYS;
use trimtab_model::names::HostPath;
use trimtab_model::observed::{Stray, StrayKind, Strays};

use super::observe::identity;
use super::place::is_temp;
use super::root::{Root, RootError, S_IFDIR, S_IFLNK, S_IFMT, S_IFREG};

/// Looks into a directory. `is_stray` says of each path in it whether nobody declared it.
pub fn look(root: &Root, folder: &HostPath, is_stray: impl Fn(&HostPath) -> bool) -> Strays {
    let mut strays = Strays::default();
    if let Err(trouble) = list(root, folder, is_stray, &mut strays) {
        strays.trouble = trouble;
    }
    strays
}

fn list(root: &Root, folder: &HostPath, is_stray: impl Fn(&HostPath) -> bool, strays: &mut Strays) -> Result<(), String> {
    let directory = match root.directory(folder.relative()) {
        Ok(directory) => directory,
        // It comes with this plan, or something else stands there: that is told of the path itself.
        Err(RootError::Missing { .. } | RootError::NotDirectory { .. }) => return Ok(()),
        Err(RootError::Io { source, path, .. }) => return Err(format!("{path}: {source}")),
        Err(error) => return Err(error.to_string()),
    };
    let told = |errno: Errno| io::Error::from(errno).to_string();
    let mut listing = nix::dir::Dir::openat(&directory, ".", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()).map_err(told)?;
    // The first of them by name, so that a look finds the same ones as the look before it.
    let mut names: BTreeSet<HostPath> = BTreeSet::new();
    for entry in listing.iter() {
        let entry = entry.map_err(told)?;
        let name = entry.file_name().to_str().unwrap_or_default();
        if matches!(name, "." | "..") || is_temp(name) {
            continue;
        }
        let Ok(path) = folder.join(name) else {
            strays.more += 1;
            continue;
        };
        if !is_stray(&path) {
            continue;
        }
        names.insert(path);
        if names.len() > MAX_STRAYS {
            names.pop_last();
            strays.more += 1;
        }
    }
    for path in names {
        match fstatat(&directory, path.file_name(), AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => {
                let kind = kind(&directory, &path, &stat);
                strays.found.insert(path, Stray { kind, identity: identity(&stat) });
            }
            // Gone again.
            Err(Errno::ENOENT) => {}
            Err(errno) => return Err(format!("{path}: {}", told(errno))),
        }
    }
    Ok(())
}

/// Whether a file of this mode is not for everybody's eyes.
pub(crate) fn is_private(mode: u32) -> bool {
    mode & 0o004 == 0
}

fn kind(directory: &std::os::fd::OwnedFd, path: &HostPath, stat: &FileStat) -> StrayKind {
    match stat.st_mode & S_IFMT {
        S_IFREG if is_private(stat.st_mode) => StrayKind::Private,
        S_IFREG => StrayKind::File(u64::try_from(stat.st_size).unwrap_or(0)),
        S_IFDIR => StrayKind::Directory,
        S_IFLNK => match readlinkat(directory, path.file_name()).map(std::ffi::OsString::into_string) {
            Ok(Ok(target)) if !target.chars().any(char::is_control) => StrayKind::Symlink(target),
            _ => StrayKind::Other,
        },
        _ => StrayKind::Other,
    }
}
