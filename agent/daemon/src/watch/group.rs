//! The kernel's side: a group of watches on directories, through fanotify where that is permitted and inotify otherwise.
//!
//! fanotify tells which process it was; it takes `CAP_SYS_ADMIN` and, for names in events, Linux 5.9. A directory whose file system it does not
//! serve is watched by inotify beside it. A group is never changed: another set of directories is another group, and the old one is read to its
//! end before it is closed, so that nothing falls between the two.
//!
//! Guarantees: directories are resolved like every path of the host, beneath the root and through trusted symlinks only; no more than the given number of
//! watches is made. Limits: overlayfs gives a directory another handle when something is first written in it: its next event is one of a
//! directory that nobody knows, and is a reason to arm anew ([`Event::strange`]).

use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::fanotify::{EventFFlags, Fanotify, InitFlags, MarkFlags, MaskFlags};
use nix::sys::inotify::{AddWatchFlags, InitFlags as InotifyFlags, Inotify};
use nix::sys::stat::{Mode, fstatat};
use nix::sys::statvfs::fstatvfs;

use super::index::{Directory, Index};
use super::records::{self, Record};
use crate::host::root::Root;
use crate::host::sys::file_handle;

/// `FAN_REPORT_DIR_FID | FAN_REPORT_NAME`: events name the directory by its handle, and the name in it. nix has no name for them.
const NAMES: u32 = 0x400 | 0x800;

/// One read takes this many bytes of events at most.
const BUFFER: usize = 16 << 10;

const S_IFMT: u32 = 0o170_000;
const S_IFDIR: u32 = 0o040_000;

/// Which of the kernel's two ways tells of files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Fanotify,
    Inotify,
}

/// A directory as fanotify's events name it.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    /// The first half of the file system's id: all that every libc's `statvfs` tells.
    pub(super) fs: u32,
    pub(super) kind: i32,
    pub(super) handle: Vec<u8>,
}

/// One event, of either way.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Event {
    /// Where in the index; several, where two paths lead to one directory.
    pub(super) directories: Vec<usize>,
    /// The name in it; empty: the directory itself, whose path is `itself`.
    pub(super) name: String,
    /// The path of a managed directory that is itself meant.
    pub(super) itself: Vec<String>,
    /// The name came or went.
    pub(super) moved: bool,
    /// The process; `None` where inotify tells, or where it is not one that we can see.
    pub(super) pid: Option<u32>,
    /// Of a directory that is not known (any more).
    pub(super) strange: bool,
}

/// What one read gave.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) events: Vec<Event>,
    /// Events were lost.
    pub(super) overflow: bool,
}

/// Watches on directories.
#[derive(Debug)]
pub(super) struct Group {
    fan: Option<Fanotify>,
    ino: Option<Inotify>,
    keys: HashMap<Key, Known>,
    watches: HashMap<i32, Vec<usize>>,
    pub(super) index: Arc<Index>,
    /// Managed paths that are watched.
    pub(super) watched: usize,
    /// Those that are not, for the bound on watches.
    pub(super) unwatched: usize,
}

/// What a handle stands for.
#[derive(Debug, Default)]
struct Known {
    directories: Vec<usize>,
    /// Paths of managed directories.
    itself: Vec<String>,
}

impl Group {
    /// Watches all of it, as far as `most` watches go. `Err`: neither way is there.
    pub(super) fn arm(root: &Root, index: &Arc<Index>, way: Way, most: usize) -> Result<Self, Errno> {
        let fan = match way {
            Way::Fanotify => Some(fanotify()?),
            Way::Inotify => None,
        };
        let mut group =
            Self { fan, ino: None, keys: HashMap::new(), watches: HashMap::new(), index: index.clone(), watched: 0, unwatched: 0 };
        if group.fan.is_none() {
            group.ino = Some(inotify()?);
        }
        let mut left = most;
        for (at, directory) in index.directories().iter().enumerate() {
            let count = directory.managed().count();
            // What is missing is seen when it comes: the one above it is watched for its name.
            let Ok(fd) = root.directory(&directory.path) else {
                group.watched += count;
                continue;
            };
            if left > 0 && group.watch(at, directory, &fd) {
                left -= 1;
                group.watched += count;
            } else {
                group.unwatched += count;
            }
        }
        Ok(group)
    }

    fn watch(&mut self, at: usize, directory: &Directory, fd: &OwnedFd) -> bool {
        let Some(fan) = &self.fan else { return self.watch_by_inotify(at, directory, fd) };
        let marked = key(fd).and_then(|key| {
            fan.mark(MarkFlags::FAN_MARK_ADD | MarkFlags::FAN_MARK_ONLYDIR, mask(directory), fd, None::<&str>)?;
            Ok(key)
        });
        let Ok(key) = marked else { return self.watch_by_inotify(at, directory, fd) };
        let known = self.keys.entry(key).or_default();
        known.directories.push(at);
        known.itself.push(directory.path.clone());
        // A change of a directory's own mode is told by its own handle, though it is the one above that is watched.
        for name in directory.managed() {
            let Some(key) = own_key(fd, name) else { continue };
            self.keys.entry(key).or_default().itself.push(if directory.path.is_empty() {
                name.to_owned()
            } else {
                format!("{}/{name}", directory.path)
            });
        }
        true
    }

    fn watch_by_inotify(&mut self, at: usize, directory: &Directory, fd: &OwnedFd) -> bool {
        if self.ino.is_none() {
            self.ino = inotify().ok();
        }
        let Some(ino) = &self.ino else { return false };
        // By its descriptor: the path could lead elsewhere by now.
        let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
        match ino.add_watch(path.as_str(), inotify_mask(directory)) {
            Ok(watch) => {
                self.watches.entry(watch.as_raw()).or_default().push(at);
                true
            }
            Err(errno) => {
                tracing::debug!("/{} cannot be watched: {errno}", directory.path);
                false
            }
        }
    }

    /// What to wait on.
    pub(super) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.fan.as_ref().map(AsFd::as_fd).into_iter().chain(self.ino.as_ref().map(AsFd::as_fd))
    }

    /// What has happened since, at most one buffer full; `None`: nothing.
    pub(super) fn read(&self, buffer: &mut Vec<u8>) -> Option<Batch> {
        buffer.resize(BUFFER, 0);
        let mut batch = Batch::default();
        let mut any = false;
        if let Some(fan) = &self.fan
            && let Ok(length @ 1..) = nix::unistd::read(fan, buffer)
        {
            any = true;
            for record in records::parse(&buffer[..length]) {
                match record {
                    Record::Overflow => batch.overflow = true,
                    Record::Name { key, name, mask, pid } => batch.events.push(self.event(&key, name, mask, pid)),
                }
            }
        }
        if let Some(events) = self.ino.as_ref().and_then(|ino| ino.read_events().ok()) {
            any = true;
            for event in events {
                if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
                    batch.overflow = true;
                    continue;
                }
                // A watch that ended with its directory; an event on the directory itself, which the one above tells by name.
                let (Some(name), Some(at)) = (event.name, self.watches.get(&event.wd.as_raw())) else { continue };
                let moved = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_DELETE | AddWatchFlags::IN_MOVE;
                batch.events.push(Event {
                    directories: at.clone(),
                    name: name.to_string_lossy().into_owned(),
                    itself: Vec::new(),
                    moved: event.mask.intersects(moved),
                    pid: None,
                    strange: false,
                });
            }
        }
        any.then_some(batch)
    }

    fn event(&self, key: &Key, name: &str, mask: u64, pid: Option<u32>) -> Event {
        let moved = MaskFlags::from_bits_retain(mask).intersects(NAMED);
        let known = self.keys.get(key);
        let itself = name == ".";
        Event {
            directories: known.filter(|_| !itself).map(|known| known.directories.clone()).unwrap_or_default(),
            name: if itself { String::new() } else { name.to_owned() },
            itself: known.filter(|_| itself).map(|known| known.itself.clone()).unwrap_or_default(),
            moved,
            pid,
            strange: known.is_none_or(|known| known.directories.is_empty()) && !itself,
        }
    }
}

/// A name came or went.
const NAMED: MaskFlags =
    MaskFlags::FAN_CREATE.union(MaskFlags::FAN_DELETE).union(MaskFlags::FAN_MOVED_FROM).union(MaskFlags::FAN_MOVED_TO);

fn mask(directory: &Directory) -> MaskFlags {
    let named = NAMED | MaskFlags::FAN_ONDIR;
    if directory.is_only_a_way() {
        return named;
    }
    named | MaskFlags::FAN_MODIFY | MaskFlags::FAN_ATTRIB | MaskFlags::FAN_EVENT_ON_CHILD
}

fn inotify_mask(directory: &Directory) -> AddWatchFlags {
    // Two paths may lead to one directory: what the first one wants stays.
    let named = AddWatchFlags::IN_CREATE
        | AddWatchFlags::IN_DELETE
        | AddWatchFlags::IN_MOVE
        | AddWatchFlags::IN_ONLYDIR
        // IN_MASK_ADD, which nix does not know.
        | AddWatchFlags::from_bits_retain(0x2000_0000);
    if directory.is_only_a_way() { named } else { named | AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_ATTRIB }
}

fn fanotify() -> Result<Fanotify, Errno> {
    let flags = InitFlags::FAN_CLASS_NOTIF | InitFlags::FAN_CLOEXEC | InitFlags::FAN_NONBLOCK | InitFlags::FAN_UNLIMITED_MARKS;
    Fanotify::init(flags | InitFlags::from_bits_retain(NAMES), EventFFlags::O_RDONLY | EventFFlags::O_CLOEXEC)
}

fn inotify() -> Result<Inotify, Errno> {
    Inotify::init(InotifyFlags::IN_CLOEXEC | InotifyFlags::IN_NONBLOCK)
}

fn key(fd: &OwnedFd) -> Result<Key, Errno> {
    let (kind, handle) = file_handle(fd.as_fd())?;
    // Its lower half, on all processors: see the module `records`.
    #[allow(clippy::cast_possible_truncation)]
    let fs = fstatvfs(fd)?.filesystem_id() as u32;
    Ok(Key { fs, kind, handle })
}

/// The key of a directory beneath another; `None` when there is none under that name.
fn own_key(parent: &OwnedFd, name: &str) -> Option<Key> {
    let stat = fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW).ok()?;
    if stat.st_mode & S_IFMT != S_IFDIR {
        return None;
    }
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    key(&openat(parent, name, flags, Mode::empty()).ok()?).ok()
}
