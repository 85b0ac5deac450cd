//! What stands at the paths that a plan asks about.
//!
//! Guarantees: nothing is changed, not even access times where the kernel allows that; nothing blocks (a FIFO is never opened, a
//! device neither); a content and its digest belong to the inode state that is returned with it, for the inode is looked at before and after.
//! The cost for a file is the least that hashing it can have, plus one system call; the directory is opened once for all files in it.
//!
//! Limit: an inode state is told by its change time, which before Linux 6.13 moves in steps of some milliseconds: two writes within
//! one step, with our look between them, are not told apart.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2, readlinkat};
use nix::sys::stat::{FileStat, Mode, fstat, fstatat};
use sha2::Digest as _;
use trimtab_model::digest::Digest;
use trimtab_model::names::HostPath;
use trimtab_model::observed::{Found, Identity, Meta};
use trimtab_model::xattr::Xattrs;

use super::root::{Parents, Root, RootError, S_IFDIR, S_IFLNK, S_IFMT, S_IFREG, inode, retry};
use super::xattr;

/// What is read at once; also the size up to which a content is hashed in one go.
const BUFFER: usize = 64 << 10;

/// Why a file could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Its directory could not be reached.
    #[error(transparent)]
    Parent(#[from] RootError),
    /// It is no regular file.
    #[error("{path} is not a regular file")]
    NotRegular {
        /// The path.
        path: HostPath,
    },
    /// It is larger than the reader wants to hold.
    #[error("{path} has {size} bytes, more than the {limit} that are read")]
    TooLarge {
        /// The path.
        path: HostPath,
        /// Its size.
        size: u64,
        /// The bound.
        limit: u64,
    },
    /// The system refused.
    #[error("cannot read {path}")]
    Io {
        /// The path.
        path: HostPath,
        /// What the system said.
        source: io::Error,
    },
}

/// Looks at each path. Sorted paths are the fast ones: neighbours share the handle of their directory.
pub fn observe<'p>(root: &Root, paths: impl IntoIterator<Item = &'p HostPath>) -> BTreeMap<HostPath, Found> {
    let mut look = Look::new(root);
    paths.into_iter().map(|path| (path.clone(), look.at(path))).collect()
}

/// As [`observe`], with the extended attributes that count of files that have some.
pub fn observe_whole<'p>(
    root: &Root,
    paths: impl IntoIterator<Item = &'p HostPath>,
) -> (BTreeMap<HostPath, Found>, BTreeMap<HostPath, Xattrs>) {
    let mut look = Look { xattrs: Some(BTreeMap::new()), ..Look::new(root) };
    let found = paths.into_iter().map(|path| (path.clone(), look.at(path))).collect();
    (found, look.xattrs.unwrap_or_default())
}

/// Reads a regular file of at most `limit` bytes, for diffs and backups.
pub fn read(root: &Root, path: &HostPath, limit: u64) -> Result<Vec<u8>, ReadError> {
    let file = open(root, path)?;
    let io = |source| ReadError::Io { path: path.clone(), source };
    let size = file.metadata().map_err(io)?.len();
    if size > limit {
        return Err(ReadError::TooLarge { path: path.clone(), size, limit });
    }
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(io)?;
    let size = bytes.len() as u64;
    if size > limit { Err(ReadError::TooLarge { path: path.clone(), size, limit }) } else { Ok(bytes) }
}

/// Opens a regular file for reading; never through a symlink at its end, never a FIFO or a device.
pub fn open(root: &Root, path: &HostPath) -> Result<File, ReadError> {
    let parent = root.parent(path)?;
    let name = path.file_name();
    let io = |errno: Errno| ReadError::Io { path: path.clone(), source: errno.into() };
    let regular = |stat: &FileStat| stat.st_mode & S_IFMT == S_IFREG;
    // Looked at before it is opened: opening a device can already do something.
    if !regular(&fstatat(&parent, name, AtFlags::AT_SYMLINK_NOFOLLOW).map_err(io)?) {
        return Err(ReadError::NotRegular { path: path.clone() });
    }
    let fd = without_atime(|flags| openat(&parent, name, flags, Mode::empty())).map_err(io)?;
    if !regular(&fstat(&fd).map_err(io)?) {
        return Err(ReadError::NotRegular { path: path.clone() });
    }
    Ok(fd.into())
}

/// Which state of which inode stands at a path, and whether it is a regular file; `None`: nothing does.
pub fn identity_at(root: &Root, path: &HostPath) -> Result<Option<(Identity, bool)>, ReadError> {
    let parent = match root.parent(path) {
        Ok(parent) => parent,
        Err(RootError::Missing { .. }) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    match fstatat(&parent, path.file_name(), AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some((identity(&stat), stat.st_mode & S_IFMT == S_IFREG))),
        Err(Errno::ENOENT) => Ok(None),
        Err(errno) => Err(ReadError::Io { path: path.clone(), source: errno.into() }),
    }
}

/// Which state of which inode this is.
pub(crate) fn identity(stat: &FileStat) -> Identity {
    let (dev, ino) = inode(stat);
    Identity { dev, ino, ctime: i128::from(stat.st_ctime) * 1_000_000_000 + i128::from(stat.st_ctime_nsec) }
}

/// Mode, owner and identity of an inode.
pub(crate) fn meta(stat: &FileStat) -> Meta {
    Meta { mode: stat.st_mode & 0o7777, uid: stat.st_uid, gid: stat.st_gid, identity: identity(stat) }
}

/// What one pass over the paths keeps: the last directory, the buffer, the mount table if it was needed.
struct Look {
    root: Root,
    parents: Parents,
    buffer: Vec<u8>,
    mounts: Option<BTreeSet<PathBuf>>,
    // Of the files looked at so far, when they are asked for.
    xattrs: Option<BTreeMap<HostPath, Xattrs>>,
}

/// Why one look gave no answer.
enum Miss {
    /// It changed under our eyes.
    Changed,
    /// The answer is that there is nothing to manage.
    Unfit(String),
    /// The system refused.
    System(&'static str, Errno),
}

impl Look {
    fn new(root: &Root) -> Self {
        Self { root: root.clone(), parents: Parents::new(root), buffer: vec![0; BUFFER], mounts: None, xattrs: None }
    }

    fn at(&mut self, path: &HostPath) -> Found {
        for _ in 0..2 {
            match self.once(path) {
                Ok(found) => return found,
                Err(Miss::Changed) => {}
                Err(Miss::Unfit(why)) => return Found::Unfit(why),
                Err(Miss::System(operation, errno)) => {
                    return Found::Unfit(format!("it cannot be {operation}: {}", io::Error::from(errno)));
                }
            }
        }
        Found::Unfit("it is being written to at this moment: it changed twice while it was read".into())
    }

    fn once(&mut self, path: &HostPath) -> Result<Found, Miss> {
        let parent = match self.parents.at(path) {
            Ok(parent) => parent,
            Err(RootError::Missing { .. }) => return Ok(Found::Missing),
            Err(error) => return Err(Miss::Unfit(told(&error))),
        };
        let name = path.file_name();
        let stat = match fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::ENOENT) => return Ok(Found::Missing),
            Err(errno) => return Err(Miss::System("looked at", errno)),
        };
        let special = match stat.st_mode & S_IFMT {
            S_IFREG => return self.file(path, &stat),
            S_IFLNK => return symlink(parent, name, &stat),
            S_IFDIR => {
                let mount = self.is_mount(path, &stat)?;
                return Ok(Found::Directory { meta: meta(&stat), mount });
            }
            0o010_000 => "a FIFO",
            0o140_000 => "a socket",
            0o020_000 | 0o060_000 => "a device",
            _ => "something unknown",
        };
        Err(Miss::Unfit(format!("{special} stands there; trimtab neither replaces nor removes it")))
    }

    fn file(&mut self, path: &HostPath, before: &FileStat) -> Result<Found, Miss> {
        let openat2 = self.root.has_openat2();
        if !openat2 && self.is_mount(path, before)? {
            return Err(Miss::Unfit(MOUNTED_OVER.into()));
        }
        let parent = self.parents.at(path).map_err(|error| Miss::Unfit(told(&error)))?;
        let fd = without_atime(|flags| {
            if openat2 { inside(parent, path.file_name(), flags) } else { openat(parent, path.file_name(), flags, Mode::empty()) }
        });
        let fd = match fd {
            Ok(fd) => fd,
            Err(Errno::EXDEV) => return Err(Miss::Unfit(MOUNTED_OVER.into())),
            // It was there a moment ago, as a file.
            Err(Errno::ENOENT | Errno::ELOOP | Errno::ENXIO) => return Err(Miss::Changed),
            Err(errno) => return Err(Miss::System("opened", errno)),
        };
        let size = u64::try_from(before.st_size).unwrap_or(0);
        let digest = hash(&fd, size, &mut self.buffer)?;
        // Before the second look at the inode: setting an attribute moves its change time as well.
        if let Some(all) = &mut self.xattrs {
            match xattr::read(&fd, &mut self.buffer) {
                Ok(found) if found.is_empty() => drop(all.remove(path)),
                Ok(found) => drop(all.insert(path.clone(), found)),
                Err(_) => return Err(Miss::Changed),
            }
        }
        let after = fstat(&fd).map_err(|errno| Miss::System("looked at", errno))?;
        if identity(before) != identity(&after) || before.st_size != after.st_size {
            return Err(Miss::Changed);
        }
        Ok(Found::File { digest, size, meta: meta(&after) })
    }

    // Whether a file system is mounted right there. openat2 knows, also for bind mounts; without it the mount table does.
    fn is_mount(&mut self, path: &HostPath, stat: &FileStat) -> Result<bool, Miss> {
        let parent = self.parents.at(path).map_err(|error| Miss::Unfit(told(&error)))?;
        let system = |errno| Miss::System("looked at", errno);
        if self.root.has_openat2() {
            return match inside(parent, path.file_name(), OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC) {
                Ok(_) => Ok(false),
                Err(Errno::EXDEV) => Ok(true),
                Err(Errno::ENOENT | Errno::ELOOP) => Err(Miss::Changed),
                Err(errno) => Err(system(errno)),
            };
        }
        if fstat(parent).map_err(system)?.st_dev != stat.st_dev {
            return Ok(true);
        }
        let place = std::fs::read_link(format!("/proc/self/fd/{}", parent.as_raw_fd()));
        let mounts = self.mounts.get_or_insert_with(mount_points);
        Ok(place.is_ok_and(|place| mounts.contains(&place.join(path.file_name()))))
    }
}

const MOUNTED_OVER: &str = "a file system is mounted over it; unmount it first";

fn symlink(parent: &OwnedFd, name: &str, before: &FileStat) -> Result<Found, Miss> {
    let target = match readlinkat(parent, name) {
        Ok(target) => target,
        Err(Errno::ENOENT | Errno::EINVAL) => return Err(Miss::Changed),
        Err(errno) => return Err(Miss::System("read", errno)),
    };
    match fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(after) if identity(&after) == identity(before) => {}
        Ok(_) | Err(Errno::ENOENT) => return Err(Miss::Changed),
        Err(errno) => return Err(Miss::System("looked at", errno)),
    }
    match target.into_string() {
        Ok(target) => Ok(Found::Symlink { target, meta: meta(before) }),
        Err(_) => Err(Miss::Unfit("a symlink whose target is not valid UTF-8 stands there".into())),
    }
}

// Exactly `size` bytes and then the end, or it is changing.
fn hash(fd: &OwnedFd, size: u64, buffer: &mut [u8]) -> Result<Digest, Miss> {
    let mut have = 0;
    let mut hasher: Option<sha2::Sha256> = None;
    let mut filled = 0;
    loop {
        let got = match nix::unistd::read(fd, &mut buffer[filled..]) {
            Ok(got) => got,
            Err(Errno::EINTR) => continue,
            Err(errno) => return Err(Miss::System("read", errno)),
        };
        filled += got;
        have += got as u64;
        // A full count saves the read that would only say "the end": the second look at the inode says it as well.
        if got == 0 || have >= size {
            break;
        }
        if filled == buffer.len() {
            hasher.get_or_insert_default().update(&*buffer);
            crate::log::alive();
            filled = 0;
        }
    }
    if have != size {
        return Err(Miss::Changed);
    }
    let rest = &buffer[..filled];
    Ok(match hasher {
        None => Digest::of(rest),
        Some(hasher) => Digest::from_bytes(hasher.chain_update(rest).finalize().into()),
    })
}

// One part, no symlink, no mount point: EXDEV for the last.
fn inside(parent: &OwnedFd, name: &str, flags: OFlag) -> nix::Result<OwnedFd> {
    let how = OpenHow::new().flags(flags).resolve(ResolveFlag::RESOLVE_NO_XDEV | ResolveFlag::RESOLVE_NO_SYMLINKS);
    retry(|| openat2(parent, name, how))
}

// Only the owner and root may leave the access time alone.
fn without_atime(open: impl Fn(OFlag) -> nix::Result<OwnedFd>) -> nix::Result<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    match open(flags | OFlag::O_NOATIME) {
        Err(Errno::EPERM) => open(flags),
        known => known,
    }
}

// Field 5 of each line, with the octal escapes of getmntent(3).
fn mount_points() -> BTreeSet<PathBuf> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = table.lines().filter_map(|line| line.split(' ').nth(4));
    points.map(|point| Path::new(&unescape(point)).to_path_buf()).collect()
}

fn unescape(text: &str) -> String {
    let escapes = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    escapes.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

// A found state is data without a source, so the chain is told here.
fn told(error: &RootError) -> String {
    match error {
        RootError::Io { source, .. } => format!("{error}: {source}"),
        known => known.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_found_without_openat2_too() {
        let points = mount_points();
        assert!(points.contains(Path::new("/proc")), "{points:?}");
        assert_eq!(unescape("/a\\040b\\134c"), "/a b\\c");
    }

    #[test]
    fn a_content_is_hashed_whole_whatever_its_length() {
        let mut buffer = vec![0; 8];
        for size in [0usize, 1, 7, 8, 9, 16, 17, 100] {
            let bytes: Vec<u8> = (0..u8::try_from(size).expect("because it is small")).collect();
            let file = tempfile::NamedTempFile::new().expect("because /tmp is writable");
            std::fs::write(file.path(), &bytes).expect("because it is ours");
            let fd: OwnedFd = File::open(file.path()).expect("because it is there").into();
            let digest = hash(&fd, size as u64, &mut buffer).ok();
            assert_eq!(digest, Some(Digest::of(&bytes)), "{size}");
        }
    }
}
