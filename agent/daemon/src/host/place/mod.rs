//! All changes of files: staged beside the target, synced, switched by rename.
//!
//! Guarantees: at any instant a path holds its old content or its new one, with the mode and owner that belong to it, never half of either.
//! Nothing that somebody else changed since it was looked at is overwritten or removed: each change carries what it expects to find, and a
//! difference is [`PlaceError::Raced`]. A [`Staged`] that is dropped leaves nothing behind; what a crash leaves behind is found by
//! [`sweep`]. After [`Batch::finish`] all of it survives a power cut.
//!
//! Limits: between the last look and the rename lie some microseconds in which an edit would be lost, for no system call compares and renames.
//! A path that turns from a directory into a file or back is missing for a moment. Extended attributes, ACLs and SELinux labels are
//! what the directory gives to a new file.

mod error;
mod temp;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, renameat};
use nix::sys::stat::{FileStat, Mode, fchmod, fstat, fstatat, mkdirat};
use nix::unistd::{UnlinkatFlags, fchown, fchownat, linkat, symlinkat, unlinkat};
use trimtab_model::desired::Node;
use trimtab_model::digest::Digest;
use trimtab_model::ledger::Before;
use trimtab_model::names::HostPath;
use trimtab_model::observed::{Expected, Identity, Meta};
use trimtab_model::xattr::Xattrs;

pub use self::error::PlaceError;
use self::error::{failed, io_failed, unsynced};
pub(super) use self::temp::is_temp;
pub(super) use self::temp::make_temp;
pub use self::temp::sweep;
use super::observe::{identity, meta};
use super::root::{Parents, Root, RootError, S_IFDIR, S_IFMT, inode};
use super::xattr;
use crate::durable::Unsynced;

/// What shall stand at a path. Owners are numbers: names are resolved by [`super::accounts::Accounts`].
pub struct New<'a> {
    /// The thing itself.
    pub node: NewNode<'a>,
    /// Permission bits; not used for symlinks.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// The thing that shall stand at a path.
pub enum NewNode<'a> {
    /// A file with this content.
    File(&'a [u8]),
    /// A file with the content that is read here, which must have this digest.
    Stream(&'a mut dyn Read, Digest),
    /// A symlink to this target.
    Symlink(&'a str),
    /// A directory; what is in it stays.
    Directory,
}

/// Something made ready beside its target. Dropping it removes it again.
#[must_use = "what is staged is removed again unless it is switched"]
#[derive(Debug)]
pub struct Staged {
    root: Root,
    path: HostPath,
    // The directory it was staged in: another one under the same name later is a race.
    parent: (u64, u64),
    form: Form,
}

#[derive(Debug)]
enum Form {
    Temp { name: String, identity: Identity, xattrs: Xattrs },
    Directory { mode: u32, uid: u32, gid: u32 },
    Switched,
}

impl Staged {
    /// The path that it is for.
    pub fn path(&self) -> &HostPath {
        &self.path
    }

    /// Where it lies until then, for checkers that take a path; `None` for a directory.
    pub fn temporary(&self) -> Option<HostPath> {
        let Form::Temp { name, .. } = &self.form else { return None };
        match self.path.parent() {
            Some(parent) => parent.join(name).ok(),
            None => format!("/{name}").parse().ok(),
        }
    }
}

impl Staged {
    /// The extended attributes that its directory gave it; a directory has none of its own here.
    pub fn xattrs(&self) -> Xattrs {
        if let Form::Temp { xattrs, .. } = &self.form { xattrs.clone() } else { Xattrs::new() }
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if let Form::Temp { name, .. } = &self.form
            && let Ok(parent) = self.root.parent(&self.path)
        {
            // What cannot be removed now is swept at the next start.
            let _ = unlinkat(&parent, name.as_str(), UnlinkatFlags::NoRemoveDir);
        }
    }
}

/// A number of changes that become durable together.
#[must_use = "changes are durable only after `finish`"]
#[derive(Debug)]
pub struct Batch {
    root: Root,
    parents: Parents,
    contents: Unsynced,
    // Set when contents could not be synced: what is staged may be lost, so nothing of it is switched any more.
    lost: bool,
    directories: Unsynced,
    remembered: BTreeSet<(u64, u64)>,
    made: BTreeMap<HostPath, (u64, u64)>,
}

impl Batch {
    /// Nothing staged, nothing changed.
    pub fn new(root: &Root) -> Self {
        Self {
            root: root.clone(),
            parents: Parents::new(root),
            contents: Unsynced::new(),
            lost: false,
            directories: Unsynced::new(),
            remembered: BTreeSet::new(),
            made: BTreeMap::new(),
        }
    }

    /// The directories that were made on the way to something, outermost first; the ledger must remember them.
    pub fn made(&self) -> impl Iterator<Item = &HostPath> {
        self.made.keys()
    }

    /// Makes something ready beside `path`; missing directories above it are made. `path` itself is not touched.
    pub fn stage(&mut self, path: &HostPath, new: New<'_>) -> Result<Staged, PlaceError> {
        let parent = self.make_parent(path)?;
        let at = fstat(&parent).map_err(|errno| failed("look at the directory of", path, errno))?;
        let form = match new.node {
            NewNode::Directory => Form::Directory { mode: new.mode, uid: new.uid, gid: new.gid },
            NewNode::Symlink(target) => stage_symlink(path, &parent, target, new.uid, new.gid)?,
            NewNode::File(mut bytes) => self.stage_file(path, &parent, &mut bytes, None, (new.mode, new.uid, new.gid))?,
            NewNode::Stream(from, digest) => self.stage_file(path, &parent, from, Some(digest), (new.mode, new.uid, new.gid))?,
        };
        Ok(Staged { root: self.root.clone(), path: path.clone(), parent: inode(&at), form })
    }

    /// Waits until the content of all that is staged is on the disk. [`Batch::switch`] does it too if it was not done; once for many is cheaper.
    pub fn sync_staged(&mut self) -> Result<(), PlaceError> {
        if !self.lost && self.contents.is_empty() {
            return Ok(());
        }
        let synced = if self.lost { Err(io::Error::from(Errno::EIO)) } else { self.contents.sync() };
        // Checks and prefetching may have taken minutes since: resolve each directory anew.
        self.parents.forget();
        self.lost = synced.is_err();
        synced.map_err(unsynced)
    }

    /// Puts what is staged in its place, if there is still what is expected. Returns what stands there now.
    pub fn switch(&mut self, mut staged: Staged, expected: Expected) -> Result<Meta, PlaceError> {
        let path = staged.path.clone();
        self.sync_staged()?;
        let parent = self.parents.at(&path)?.try_clone().map_err(|source| io_failed("open the directory of", &path, source))?;
        let at = fstat(&parent).map_err(|errno| failed("look at the directory of", &path, errno))?;
        if inode(&at) != staged.parent {
            return Err(PlaceError::Raced { path, what: "its directory is another one now" });
        }
        let found = look(&parent, path.file_name()).map_err(|errno| failed("look at", &path, errno))?;
        match &staged.form {
            Form::Temp { name, identity, .. } => {
                unchanged(&path, &parent, name, identity)?;
                switch_temp(&path, &parent, name, found, expected)?;
            }
            &Form::Directory { mode, uid, gid } => {
                let expected = self.expected_made(&path, found.as_ref(), expected);
                let fd = switch_directory(&path, &parent, found, expected)?;
                set_owner(&fd, uid, gid).map_err(|errno| failed("set the owner of", &path, errno))?;
                fchmod(&fd, bits(mode)).map_err(|errno| failed("set the mode of", &path, errno))?;
                self.remember(&fd, &path)?;
                self.made.remove(&path);
            }
            Form::Switched => unreachable!("because switch takes it by value"),
        }
        staged.form = Form::Switched;
        self.remember(&parent, &path)?;
        let stat = look(&parent, path.file_name()).map_err(|errno| failed("look at", &path, errno))?;
        stat.map(|stat| meta(&stat)).ok_or(PlaceError::Raced { path, what: "it is gone again already" })
    }

    /// Removes a file, a symlink or an empty directory, if it is still what is expected. `false`: there was nothing any more.
    pub fn remove(&mut self, path: &HostPath, expected: Expected) -> Result<bool, PlaceError> {
        let parent = match self.parents.at(path) {
            Ok(parent) => parent,
            Err(RootError::Missing { .. }) => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        let parent = parent.try_clone().map_err(|source| io_failed("open the directory of", path, source))?;
        let Some(found) = look(&parent, path.file_name()).map_err(|errno| failed("look at", path, errno))? else {
            return Ok(false);
        };
        if !is_expected(&found, expected) {
            return Err(PlaceError::Raced { path: path.clone(), what: "something else stands there now" });
        }
        match take_away(path, &parent, &found) {
            Ok(()) => {}
            Err(PlaceError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        }
        self.remember(&parent, path)?;
        Ok(true)
    }

    /// Removes a directory that was once made on the way to something, if nothing is in it any more; one that is gone already (a killed pass
    /// came this far) counts as removed. `false`: it stays, or is no directory any more.
    pub fn prune(&mut self, path: &HostPath) -> Result<bool, PlaceError> {
        let parent = match self.parents.at(path) {
            Ok(parent) => parent.try_clone().map_err(|source| io_failed("open the directory of", path, source))?,
            Err(RootError::Missing { .. }) => return Ok(true),
            Err(error) => return Err(error.into()),
        };
        match unlinkat(&parent, path.file_name(), UnlinkatFlags::RemoveDir) {
            // Unsynced, if a killed pass removed it: the directory above is remembered all the same.
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(Errno::ENOTDIR | Errno::ENOTEMPTY | Errno::EEXIST | Errno::EBUSY) => return Ok(false),
            Err(errno) => return Err(failed("remove the directory", path, errno)),
        }
        self.made.remove(path);
        self.parents.forget();
        self.remember(&parent, path)?;
        Ok(true)
    }

    /// Brings back what stood at a path before trimtab came. `content` is read for files only.
    pub fn restore(
        &mut self,
        path: &HostPath,
        before: &Before,
        content: &mut dyn Read,
        expected: Expected,
    ) -> Result<Option<Meta>, PlaceError> {
        let Before::Original { node, mode, uid, gid } = before else {
            self.remove(path, expected)?;
            return Ok(None);
        };
        let node = match node {
            Node::File { digest, .. } => NewNode::Stream(content, *digest),
            Node::Symlink { target } => NewNode::Symlink(target),
            Node::Directory => NewNode::Directory,
        };
        let staged = self.stage(path, New { node, mode: *mode, uid: *uid, gid: *gid })?;
        self.switch(staged, expected).map(Some)
    }

    /// Waits until every change of this batch is on the disk. Returns the directories that were made, as [`Batch::made`].
    pub fn finish(mut self) -> Result<Vec<HostPath>, PlaceError> {
        self.directories.sync().map_err(unsynced)?;
        Ok(self.made.into_keys().collect())
    }

    fn make_parent(&mut self, path: &HostPath) -> Result<OwnedFd, PlaceError> {
        match self.parents.at(path) {
            Ok(parent) => return parent.try_clone().map_err(|source| io_failed("open the directory of", path, source)),
            Err(RootError::Missing { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        let mut made = Vec::new();
        let parent = self.root.make_parent(path, &mut made);
        // Each one is told, whatever fails here: a directory that the ledger does not know stays for ever.
        let mut failure = None;
        for path in made {
            let known = self.note_made(&path).unwrap_or_else(|error| {
                failure.get_or_insert(error);
                (0, 0)
            });
            self.made.insert(path, known);
        }
        match failure {
            Some(error) => Err(error),
            None => Ok(parent?),
        }
    }

    fn note_made(&mut self, path: &HostPath) -> Result<(u64, u64), PlaceError> {
        self.remember(&self.root.parent(path)?, path)?;
        let stat = self.root.directory(path.relative()).and_then(|fd| {
            fstat(&fd).map_err(|errno| RootError::Io { operation: "look at", path: path.to_string(), source: errno.into() })
        })?;
        Ok(inode(&stat))
    }

    fn stage_file(
        &mut self,
        path: &HostPath,
        parent: &OwnedFd,
        from: &mut dyn Read,
        digest: Option<Digest>,
        (mode, uid, gid): (u32, u32, u32),
    ) -> Result<Form, PlaceError> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        // Nobody but us may read it before its owner and mode are set.
        let (name, fd) = make_temp(|name| openat(parent, name, flags, bits(0o600)))
            .map_err(|errno| failed("make a file beside", path, errno))?;
        let mut fill = || -> Result<(FileStat, Xattrs), PlaceError> {
            let mut file = File::from(fd.try_clone().map_err(|source| io_failed("open", path, source))?);
            copy(path, from, digest, &mut file)?;
            set_owner(&fd, uid, gid).map_err(|errno| failed("set the owner of", path, errno))?;
            // After the owner: a change of owner takes the setuid bits away.
            fchmod(&fd, bits(mode)).map_err(|errno| failed("set the mode of", path, errno))?;
            // After the mode, which is a part of an ACL.
            let xattrs = xattr::read(&fd, &mut Vec::new()).map_err(|source| io_failed("look at", path, source))?;
            let stat = fstat(&fd).map_err(|errno| failed("look at", path, errno))?;
            Ok((stat, xattrs))
        };
        match fill() {
            Ok((stat, xattrs)) => {
                self.contents.add(stat.st_dev, fd);
                Ok(Form::Temp { name, identity: identity(&stat), xattrs })
            }
            Err(error) => {
                let _ = unlinkat(parent, name.as_str(), UnlinkatFlags::NoRemoveDir);
                Err(error)
            }
        }
    }

    // A directory that this very batch made on the way to something is no surprise to the step that wants it.
    fn expected_made(&self, path: &HostPath, found: Option<&FileStat>, expected: Expected) -> Expected {
        match (expected, found, self.made.get(path)) {
            (Expected::Absent, Some(stat), Some(made)) if inode(stat) == *made => Expected::Same(identity(stat)),
            _ => expected,
        }
    }

    fn remember(&mut self, directory: &OwnedFd, path: &HostPath) -> Result<(), PlaceError> {
        let failed = |source| io_failed("keep open the directory of", path, source);
        let stat = fstat(directory).map_err(|errno| failed(errno.into()))?;
        if self.remembered.insert(inode(&stat)) {
            self.directories.add(stat.st_dev, directory.try_clone().map_err(failed)?);
        }
        Ok(())
    }
}

fn stage_symlink(path: &HostPath, parent: &OwnedFd, target: &str, uid: u32, gid: u32) -> Result<Form, PlaceError> {
    let (name, ()) =
        make_temp(|name| symlinkat(target, parent, name)).map_err(|errno| failed("make a symlink beside", path, errno))?;
    let own = || -> nix::Result<FileStat> {
        let stat = fstatat(parent, name.as_str(), AtFlags::AT_SYMLINK_NOFOLLOW)?;
        if (stat.st_uid, stat.st_gid) == (uid, gid) {
            return Ok(stat);
        }
        fchownat(parent, name.as_str(), Some(uid.into()), Some(gid.into()), AtFlags::AT_SYMLINK_NOFOLLOW)?;
        fstatat(parent, name.as_str(), AtFlags::AT_SYMLINK_NOFOLLOW)
    };
    match own() {
        Ok(stat) => Ok(Form::Temp { identity: identity(&stat), name, xattrs: Xattrs::new() }),
        Err(errno) => {
            let _ = unlinkat(parent, name.as_str(), UnlinkatFlags::NoRemoveDir);
            Err(failed("set the owner of", path, errno))
        }
    }
}

/// So much is written before it is waited for: a large file would take minutes all at once, in which nobody could tell that it goes on.
const AT_ONCE: usize = 32 << 20;

fn copy(path: &HostPath, from: &mut dyn Read, expected: Option<Digest>, to: &mut File) -> Result<(), PlaceError> {
    use sha2::Digest as _;
    let mut hasher = expected.map(|_| sha2::Sha256::new());
    let (mut buffer, mut waiting) = ([0; 16 << 10], 0);
    loop {
        let got = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(got) => got,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(source) => return Err(io_failed("read the content for", path, source)),
        };
        to.write_all(&buffer[..got]).map_err(|source| io_failed("write", path, source))?;
        waiting += got;
        if waiting >= AT_ONCE {
            to.sync_data().map_err(|source| io_failed("write to the disk", path, source))?;
            waiting = 0;
        }
        crate::log::alive();
        if let Some(hasher) = &mut hasher {
            hasher.update(&buffer[..got]);
        }
    }
    let Some((expected, hasher)) = expected.zip(hasher) else { return Ok(()) };
    let found = Digest::from_bytes(hasher.finalize().into());
    if found == expected { Ok(()) } else { Err(PlaceError::Content { path: path.clone(), expected, found }) }
}

// In a directory that others may write to, the staged copy could have been exchanged.
fn unchanged(path: &HostPath, parent: &OwnedFd, name: &str, staged: &Identity) -> Result<(), PlaceError> {
    let found = look(parent, name).map_err(|errno| failed("look at what is staged for", path, errno))?;
    if found.is_some_and(|stat| identity(&stat) == *staged) {
        return Ok(());
    }
    Err(PlaceError::Raced { path: path.clone(), what: "the copy staged beside it was tampered with" })
}

fn switch_temp(
    path: &HostPath,
    parent: &OwnedFd,
    name: &str,
    found: Option<FileStat>,
    expected: Expected,
) -> Result<(), PlaceError> {
    match found {
        Some(found) if !is_expected(&found, expected) => {
            return Err(PlaceError::Raced { path: path.clone(), what: "something else stands there now" });
        }
        Some(found) if is_directory(&found) => take_away(path, parent, &found)?,
        Some(_) => return renameat(parent, name, parent, path.file_name()).map_err(|errno| failed("replace", path, errno)),
        None if expected != Expected::Absent => {
            return Err(PlaceError::Raced { path: path.clone(), what: "it is gone" });
        }
        None => {}
    }
    // A link fails where something stands, a rename would replace it.
    match linkat(parent, name, parent, path.file_name(), AtFlags::empty()) {
        Ok(()) => {
            unlinkat(parent, name, UnlinkatFlags::NoRemoveDir).map_err(|errno| failed("remove the second name of", path, errno))
        }
        Err(Errno::EEXIST) => Err(PlaceError::Raced { path: path.clone(), what: "something appeared there" }),
        // File systems without hard links.
        Err(Errno::EPERM | Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::EMLINK) => {
            renameat(parent, name, parent, path.file_name()).map_err(|errno| failed("make", path, errno))
        }
        Err(errno) => Err(failed("make", path, errno)),
    }
}

fn switch_directory(path: &HostPath, parent: &OwnedFd, found: Option<FileStat>, expected: Expected) -> Result<OwnedFd, PlaceError> {
    let name = path.file_name();
    let raced = |what| Err(PlaceError::Raced { path: path.clone(), what });
    match &found {
        Some(found) if !is_expected(found, expected) => return raced("something else stands there now"),
        Some(found) if !is_directory(found) => take_away(path, parent, found)?,
        None if expected != Expected::Absent => return raced("it is gone"),
        _ => {}
    }
    let stands = found.as_ref().filter(|found| is_directory(found));
    if stands.is_none() {
        match mkdirat(parent, name, bits(0o700)) {
            Ok(()) => {}
            Err(Errno::EEXIST) => return raced("something appeared there"),
            Err(errno) => return Err(failed("make the directory", path, errno)),
        }
    }
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let fd = openat(parent, name, flags, Mode::empty()).map_err(|errno| failed("open the directory", path, errno))?;
    let opened = fstat(&fd).map_err(|errno| failed("look at", path, errno))?;
    if stands.is_some_and(|found| inode(found) != inode(&opened)) {
        return raced("something else stands there now");
    }
    Ok(fd)
}

fn take_away(path: &HostPath, parent: &OwnedFd, found: &FileStat) -> Result<(), PlaceError> {
    let flag = if is_directory(found) { UnlinkatFlags::RemoveDir } else { UnlinkatFlags::NoRemoveDir };
    unlinkat(parent, path.file_name(), flag).map_err(|errno| match errno {
        Errno::ENOTEMPTY | Errno::EEXIST => PlaceError::NotEmpty { path: path.clone() },
        errno => failed("remove", path, errno),
    })
}

fn look(parent: &OwnedFd, name: &str) -> nix::Result<Option<FileStat>> {
    match fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::ENOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

fn is_directory(stat: &FileStat) -> bool {
    stat.st_mode & S_IFMT == S_IFDIR
}

// A directory's change time moves with everything that is put into it, by us too: for it only the inode counts.
fn is_expected(found: &FileStat, expected: Expected) -> bool {
    match expected {
        Expected::Absent => false,
        Expected::Same(known) if is_directory(found) => inode(found) == (known.dev, known.ino),
        Expected::Same(known) => identity(found) == known,
    }
}

// Only if it is another: an ordinary user may not even "change" an owner to what it is.
fn set_owner(fd: impl AsFd, uid: u32, gid: u32) -> nix::Result<()> {
    let stat = fstat(&fd)?;
    if (stat.st_uid, stat.st_gid) == (uid, gid) {
        return Ok(());
    }
    fchown(fd, Some(uid.into()), Some(gid.into()))
}

fn bits(mode: u32) -> Mode {
    Mode::from_bits_truncate(mode & 0o7777)
}
