//! A file system that holds one file, a disk, and writes down what is done to it.
//!
//! The kernel's loop device sits on the file: each write of the file system above arrives here as it was issued (the file is opened for
//! direct I/O), each flush of the disk's cache as an fsync. One thread answers one request after the other.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    BackgroundSession, BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, Request, Session, TimeOrNow,
    WriteFlags,
};

use crate::disk::{Event, Image};

const DISK: &str = "disk";
const DISK_INODE: INodeNo = INodeNo(2);
const TTL: Duration = Duration::from_secs(3600);

struct Seen {
    image: Image,
    log: Vec<Event>,
}

/// The disk as it is now, and what was done to it.
struct Disk(Arc<Mutex<Seen>>);

/// A mounted disk; unmounted when it is dropped, which must be after what stands on it.
pub(crate) struct Recorder {
    folder: PathBuf,
    seen: Arc<Mutex<Seen>>,
    session: Option<BackgroundSession>,
}

impl Recorder {
    /// Serves a disk in this folder.
    pub(crate) fn mount(image: Image, folder: &Path) -> std::io::Result<Self> {
        let seen = Arc::new(Mutex::new(Seen { image, log: Vec::new() }));
        let session = Session::new(Disk(seen.clone()), folder, &Config::default())?.spawn()?;
        Ok(Self { folder: folder.to_owned(), seen, session: Some(session) })
    }

    /// The file to set up as a loop device.
    pub(crate) fn file(&self) -> PathBuf {
        self.folder.join(DISK)
    }

    /// How much has happened so far.
    pub(crate) fn mark(&self) -> usize {
        hold(&self.seen).log.len()
    }

    /// All that has happened so far.
    pub(crate) fn log(&self) -> Vec<Event> {
        hold(&self.seen).log.clone()
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        if let Some(session) = self.session.take() {
            let _ = session.umount_and_join();
        }
    }
}

fn hold(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Disk {
    fn attributes(&self, inode: INodeNo) -> FileAttr {
        let is_disk = inode == DISK_INODE;
        let size = if is_disk { hold(&self.0).image.size() } else { 0 };
        FileAttr {
            ino: inode,
            size,
            blocks: size / 512,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: if is_disk { FileType::RegularFile } else { FileType::Directory },
            perm: if is_disk { 0o600 } else { 0o700 },
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }
}

impl Filesystem for Disk {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if name == DISK {
            reply.entry(&TTL, &self.attributes(DISK_INODE), Generation(0));
        } else {
            reply.error(Errno::ENOENT);
        }
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&TTL, &self.attributes(inode));
    }

    // Only times are ever set, and nobody asks for them.
    fn setattr(
        &self,
        _: &Request,
        inode: INodeNo,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<std::time::SystemTime>,
        _: Option<FileHandle>,
        _: Option<std::time::SystemTime>,
        _: Option<std::time::SystemTime>,
        _: Option<std::time::SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        reply.attr(&TTL, &self.attributes(inode));
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        reply.data(&hold(&self.0).image.read(offset, size as usize));
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let mut seen = hold(&self.0);
        let Some(blocks) = seen.image.after(offset, data) else { return reply.error(Errno::ENOSPC) };
        for (at, new) in &blocks {
            seen.image.set(*at, new.clone());
        }
        seen.log.push(Event::Write(blocks));
        reply.written(u32::try_from(data.len()).expect("because requests are small"));
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        hold(&self.0).log.push(Event::Flush);
        reply.ok();
    }

    // Of a file handle that is closed: says nothing about the disk.
    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }
}
