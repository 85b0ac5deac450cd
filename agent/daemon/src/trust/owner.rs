//! Who could have written a file that this host trusts.
//!
//! Guarantees: what is checked is the opened file and the opened folder, not their names, so that nothing can be exchanged in between.
//! The file and its folder belong to root (or, where the process is not root, to its own user) and nobody else may write to them.
//! Limits: folders further up are not looked at; access lists (ACLs) show only as far as the kernel folds them into the group bits.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat};
use nix::unistd::geteuid;

use super::Class;

/// Why a file is not believed.
#[derive(Debug, thiserror::Error)]
pub enum OwnerError {
    /// It cannot be opened or looked at.
    #[error("cannot open {}", path.display())]
    Open {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A symlink, a pipe, a device.
    #[error("{} is not a regular file; put the file itself there", path.display())]
    NotAFile {
        /// The file.
        path: PathBuf,
    },
    /// Somebody else owns it.
    #[error("{} belongs to user {owner}, who could change what this host trusts; run `chown root:root {}`", path.display(), path.display())]
    Owner {
        /// The file or folder.
        path: PathBuf,
        /// Its owner.
        owner: u32,
    },
    /// Others may write to it.
    #[error("{} can be written by others than its owner (mode {mode:04o}); run `chmod go-w {}`", path.display(), path.display())]
    Writable {
        /// The file or folder.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is larger than any file of its kind.
    #[error("{} is larger than {limit} bytes", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The bound.
        limit: u64,
    },
}

impl OwnerError {
    /// A person's turn, unless only the moment was bad: a host that has no handle or no memory to spare has them again later.
    pub fn class(&self) -> Class {
        match self {
            Self::Open { source, .. } | Self::Read { source, .. } if is_shortage(source) => Class::Retry,
            _ => Class::Halt,
        }
    }
}

/// Whether the system refused for want of handles or memory.
pub fn is_shortage(error: &io::Error) -> bool {
    let errno = Errno::from_raw(error.raw_os_error().unwrap_or(0));
    matches!(errno, Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM | Errno::EAGAIN | Errno::EINTR)
}

/// Checks who can write to a file, and to the folder that it lies in.
pub fn check_owner(path: &Path) -> Result<(), OwnerError> {
    open_owned(path).map(drop)
}

/// Opens a file for reading once it is certain that only root (or this process's own user) could have written it.
pub fn open_owned(path: &Path) -> Result<File, OwnerError> {
    let failed = |path: &Path, errno: Errno| OwnerError::Open { path: path.to_owned(), source: errno.into() };
    let not_a_file = || OwnerError::NotAFile { path: path.to_owned() };
    let parent = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let name = path.file_name().ok_or_else(not_a_file)?;
    let folder = open(parent, OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
        .map_err(|errno| failed(parent, errno))?;
    check(parent, &fstat(&folder).map_err(|errno| failed(parent, errno))?)?;
    // Not blocking: a pipe in this place must not hang the agent.
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let file: OwnedFd = match openat(&folder, name, flags, Mode::empty()) {
        Err(Errno::ELOOP) => return Err(not_a_file()),
        opened => opened.map_err(|errno| failed(path, errno))?,
    };
    let stat = fstat(&file).map_err(|errno| failed(path, errno))?;
    if SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()) != SFlag::S_IFREG {
        return Err(not_a_file());
    }
    check(path, &stat)?;
    Ok(file.into())
}

/// The text of a file that only root (or this process's own user) could have written, of at most `limit` bytes.
pub fn read_owned(path: &Path, limit: u64) -> Result<String, OwnerError> {
    let mut text = String::new();
    let read = open_owned(path)?.take(limit + 1).read_to_string(&mut text);
    read.map_err(|source| OwnerError::Read { path: path.to_owned(), source })?;
    if text.len() as u64 > limit {
        return Err(OwnerError::TooLarge { path: path.to_owned(), limit });
    }
    Ok(text)
}

fn check(path: &Path, stat: &FileStat) -> Result<(), OwnerError> {
    if stat.st_uid != 0 && stat.st_uid != geteuid().as_raw() {
        return Err(OwnerError::Owner { path: path.to_owned(), owner: stat.st_uid });
    }
    let others = Mode::S_IWGRP | Mode::S_IWOTH;
    if stat.st_mode & others.bits() != 0 {
        return Err(OwnerError::Writable { path: path.to_owned(), mode: stat.st_mode & 0o7777 });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{Permissions, create_dir, set_permissions, write};
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    #[test]
    fn a_shortage_passes_and_a_refusal_does_not() {
        let class = |errno: Errno| OwnerError::Open { path: "trust.toml".into(), source: errno.into() }.class();
        assert_eq!((class(Errno::EMFILE), class(Errno::ENOMEM)), (Class::Retry, Class::Retry));
        assert_eq!((class(Errno::ENOENT), class(Errno::EACCES), class(Errno::EIO)), (Class::Halt, Class::Halt, Class::Halt));
    }

    #[test]
    fn only_what_others_cannot_write_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("trust.toml");
        write(&file, "text").unwrap();
        let chmod = |path: &Path, mode| set_permissions(path, Permissions::from_mode(mode)).unwrap();
        for (of_file, of_folder, good) in [
            (0o644, 0o755, true),
            (0o600, 0o700, true),
            (0o664, 0o755, false),
            (0o646, 0o755, false),
            (0o644, 0o775, false),
            (0o644, 0o1777, false),
        ] {
            chmod(&file, of_file);
            chmod(folder.path(), of_folder);
            let found = read_owned(&file, 4);
            assert_eq!(found.is_ok(), good, "{of_file:o} {of_folder:o} {found:?}");
            assert!(good || matches!(found, Err(OwnerError::Writable { .. })));
        }
    }

    #[test]
    fn only_regular_files_within_their_bound_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        write(path("file"), "12345").unwrap();
        symlink(path("file"), path("link")).unwrap();
        create_dir(path("folder")).unwrap();
        nix::unistd::mkfifo(&path("pipe"), Mode::S_IRUSR).unwrap();
        assert_eq!(read_owned(&path("file"), 5).unwrap(), "12345");
        assert!(matches!(read_owned(&path("file"), 4), Err(OwnerError::TooLarge { limit: 4, .. })));
        for name in ["link", "folder", "pipe"] {
            assert!(matches!(read_owned(&path(name), 5), Err(OwnerError::NotAFile { .. })), "{name}");
        }
        assert!(matches!(read_owned(&path("none"), 5), Err(OwnerError::Open { .. })));
    }

    #[test]
    fn somebody_elses_file_is_refused() {
        if !geteuid().is_root() {
            eprintln!("skipped: only root can give files away");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("trust.toml");
        write(&file, "").unwrap();
        std::os::unix::fs::chown(&file, Some(65534), None).unwrap();
        assert!(matches!(check_owner(&file), Err(OwnerError::Owner { owner: 65534, .. })));
    }
}
