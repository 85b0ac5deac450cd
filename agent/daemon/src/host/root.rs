//! A directory handle that every path of the host is resolved beneath: `/`, or a folder that plays it (`--root`).
//!
//! Guarantees: no path leaves the root, whatever symlinks and `..` lie in it; no symlink that an ordinary user could have made or put
//! there redirects root's work. The last part of a path is never followed: callers operate on it with `*at` calls relative to the
//! handle of its directory.
//!
//! How: `openat2` refuses every symlink in one system call. Only when it meets one (or the kernel has no `openat2`) the path is walked
//! part by part, and a symlink is followed if it is owned by root, in a directory that only root can rearrange. In a sandbox that belongs to an
//! ordinary user, that user counts like root.
//!
//! Limit: members of the group of a group-writable directory are trusted with what lies in it (Debian's `staff` in `/usr/local`).

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat, openat2, readlinkat};
use nix::sys::stat::{FileStat, Mode, fstat, mkdirat};
use trimtab_model::names::HostPath;

/// As many symlinks as the kernel follows in one path.
const MAX_LINKS: u32 = 40;

pub(super) const S_IFMT: u32 = 0o170_000;
pub(super) const S_IFREG: u32 = 0o100_000;
pub(super) const S_IFLNK: u32 = 0o120_000;
pub(super) const S_IFDIR: u32 = 0o040_000;

/// Why a directory could not be reached. Each text names the path.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// It does not exist.
    #[error("{path} does not exist")]
    Missing {
        /// The first directory on the way that is missing.
        path: String,
    },
    /// Something on the way is no directory.
    #[error("{path} is not a directory")]
    NotDirectory {
        /// What is in the way.
        path: String,
    },
    /// A symlink on the way cannot be trusted.
    #[error("the symlink {link} is not followed: {why}; let root own it, or name the real path")]
    UntrustedLink {
        /// The symlink.
        link: String,
        /// What is wrong with it.
        why: String,
    },
    /// Too many symlinks: most likely a circle.
    #[error("{path} leads through more than {MAX_LINKS} symlinks")]
    TooManyLinks {
        /// The path asked for.
        path: String,
    },
    /// The system refused.
    #[error("cannot {operation} {path}{}", advice(operation, Errno::from_raw(.source.raw_os_error().unwrap_or(0))))]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: String,
        /// What the system said.
        source: io::Error,
    },
}

/// What a person can do about a refusal of the system, in brackets; may be empty.
pub(super) fn advice(operation: &str, errno: Errno) -> &'static str {
    match errno {
        Errno::ENOSPC => " (the file system is full: free some space, `df -h`, or inodes, `df -i`)",
        Errno::EDQUOT => " (the disk quota is used up)",
        Errno::EROFS => " (the file system is mounted read-only: see `mount` and the kernel's log for why)",
        Errno::EPERM if operation == "set the owner of" => {
            " (only root can give a file to another owner: run as root, or want it owned by root)"
        }
        Errno::EPERM => " (the file or its directory may be immutable or append-only: see `lsattr`, undo with `chattr -i`)",
        Errno::EACCES => " (permission denied: see the mode of its directory, and the audit log for SELinux or AppArmor)",
        Errno::EBUSY => " (a file system is mounted on it, or it is in use as one: unmount it first)",
        Errno::ENOTDIR => " (something on the way to it is not a directory)",
        Errno::EISDIR => " (a directory stands there)",
        Errno::ELOOP => " (a symlink stands where a directory should)",
        Errno::ENAMETOOLONG => " (the name is too long for this file system)",
        Errno::EINVAL if operation == "set the owner of" => " (this user namespace has no such number)",
        Errno::EIO => " (the disk reports an error: see the kernel's log)",
        _ => "",
    }
}

/// Where all paths of the host begin. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Root(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    fd: OwnedFd,
    path: PathBuf,
    euid: u32,
    // False once the kernel (or a seccomp filter) has said that it knows no openat2.
    openat2: AtomicBool,
}

/// Where a walk ended: the directory, and the name of what is no directory if that was wanted.
struct Walked {
    dir: OwnedFd,
    file: Option<String>,
}

/// One directory on the way of a walk, with its name, so that `..` in a symlink's target goes back and not out.
struct Step {
    fd: OwnedFd,
    stat: FileStat,
    name: String,
}

impl Root {
    /// Opens the folder that paths are resolved beneath. The path itself is the operator's word and is followed as it is.
    pub fn open(path: &Path) -> Result<Self, RootError> {
        let io = |source: io::Error| RootError::Io { operation: "open", path: path.display().to_string(), source };
        let real = path.canonicalize().map_err(io)?;
        let fd = nix::fcntl::open(&real, DIRECTORY, Mode::empty()).map_err(|errno| io(errno.into()))?;
        let euid = nix::unistd::geteuid().as_raw();
        Ok(Self(Arc::new(Inner { fd, path: real, euid, openat2: AtomicBool::new(true) })))
    }

    /// The folder, as a real path. For messages and for tools that take one, never for opening what is beneath it.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Whether this is the machine itself, not a sandbox.
    pub fn is_host(&self) -> bool {
        self.0.path == Path::new("/")
    }

    /// The user that everything is done as.
    pub fn euid(&self) -> u32 {
        self.0.euid
    }

    /// The numbers of the user and group that root's things have here: 0, except in a sandbox of an ordinary user, where they are that
    /// user's own. An ordinary user who looks at the machine itself sees it as root does.
    pub fn root_ids(&self) -> (u32, u32) {
        if self.is_host() || self.is_privileged() { (0, 0) } else { (self.0.euid, nix::unistd::getegid().as_raw()) }
    }

    /// Whether owners can be set: false for a sandbox of an ordinary user.
    pub fn is_privileged(&self) -> bool {
        self.0.euid == 0
    }

    /// The root directory itself.
    pub fn handle(&self) -> &OwnedFd {
        &self.0.fd
    }

    /// Opens the directory that holds `path`.
    pub fn parent(&self, path: &HostPath) -> Result<OwnedFd, RootError> {
        self.directory(parent_of(path))
    }

    /// Opens the directory at `relative`, which is a normal path without its leading slash; empty for the root.
    pub(crate) fn directory(&self, relative: &str) -> Result<OwnedFd, RootError> {
        if relative.is_empty() {
            return openat(&self.0.fd, ".", DIRECTORY, Mode::empty()).map_err(|errno| failed("open", "/", errno));
        }
        if self.has_openat2() {
            let how = OpenHow::new().flags(DIRECTORY).resolve(ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_BENEATH);
            match retry(|| openat2(&self.0.fd, relative, how)) {
                Ok(fd) => return Ok(fd),
                Err(Errno::ENOSYS | Errno::EPERM) => self.0.openat2.store(false, Ordering::Relaxed),
                // A symlink on the way; a missing part or a file in the way is named by the walk.
                Err(Errno::ELOOP | Errno::ENOENT | Errno::ENOTDIR) => {}
                Err(errno) => return Err(failed("open", &format!("/{relative}"), errno)),
            }
        }
        let walked = self.walk(relative, false)?;
        openat(&walked.dir, ".", DIRECTORY, Mode::empty()).map_err(|errno| failed("open", &format!("/{relative}"), errno))
    }

    /// Opens the directory that holds `path`, and makes it and those above it (0755, root's) where they are missing. Each one made is
    /// appended to `made`, outermost first, also when a later one fails: the ledger must know them. They are not synced here.
    pub fn make_parent(&self, path: &HostPath, made: &mut Vec<HostPath>) -> Result<OwnedFd, RootError> {
        match self.parent(path) {
            Err(RootError::Missing { .. }) => {}
            known => return known,
        }
        let (mut dir, missing) = self.nearest(path)?;
        for path in missing.into_iter().rev() {
            let name = path.file_name().to_owned();
            // With its mode from the start, as far as the umask lets it: nobody would put it right after a crash before the next line.
            match mkdirat(&dir, name.as_str(), MADE) {
                Ok(()) => {
                    made.push(path.clone());
                    dir = self.finish_made(&dir, &name).map_err(|errno| failed("make the directory", path.as_str(), errno))?;
                }
                // Somebody was quicker, or a symlink that leads nowhere stands there: opening it tells which.
                Err(Errno::EEXIST) => dir = self.directory(path.relative())?,
                Err(errno) => return Err(failed("make the directory", path.as_str(), errno)),
            }
        }
        Ok(dir)
    }

    /// The directories above `path` that [`Root::make_parent`] would make now; none when that cannot be said.
    pub fn missing_above(&self, path: &HostPath) -> Vec<HostPath> {
        self.nearest(path).map(|(_, missing)| missing).unwrap_or_default()
    }

    /// The nearest directory above `path` that is there, and those below it that are not, innermost first.
    fn nearest(&self, path: &HostPath) -> Result<(OwnedFd, Vec<HostPath>), RootError> {
        let mut missing = Vec::new();
        let mut at = path.parent();
        loop {
            let Some(here) = at else { return Ok((self.directory("")?, missing)) };
            match self.directory(here.relative()) {
                Err(RootError::Missing { .. }) => {
                    at = here.parent();
                    missing.push(here);
                }
                known => return Ok((known?, missing)),
            }
        }
    }

    // A setgid parent gives its group to what is made in it, and the umask takes from the mode: say both plainly.
    fn finish_made(&self, dir: &OwnedFd, name: &str) -> Result<OwnedFd, Errno> {
        let made = openat(dir, name, DIRECTORY | OFlag::O_NOFOLLOW, Mode::empty())?;
        if self.is_privileged() {
            nix::unistd::fchown(&made, Some(0.into()), Some(0.into()))?;
        }
        nix::sys::stat::fchmod(&made, MADE)?;
        Ok(made)
    }

    /// Opens a file for reading, following trusted symlinks also at the end: for the system's own files (`/etc/os-release`), never for managed ones.
    pub fn open_trusted(&self, path: &HostPath) -> Result<File, RootError> {
        let walked = self.walk(path.relative(), true)?;
        let name = walked.file.ok_or_else(|| failed("read", path.as_str(), Errno::EISDIR))?;
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        let fd = openat(&walked.dir, name.as_str(), flags, Mode::empty()).map_err(|errno| failed("read", path.as_str(), errno))?;
        let regular = fstat(&fd).is_ok_and(|stat| stat.st_mode & S_IFMT == S_IFREG);
        if regular { Ok(fd.into()) } else { Err(failed("read", path.as_str(), Errno::EINVAL)) }
    }

    pub(crate) fn has_openat2(&self) -> bool {
        self.0.openat2.load(Ordering::Relaxed)
    }

    // The slow way: part by part, each symlink judged. `file`: the last part may be something else than a directory.
    fn walk(&self, relative: &str, file: bool) -> Result<Walked, RootError> {
        let mut left: VecDeque<String> = relative.split('/').filter(|part| !part.is_empty()).map(str::to_owned).collect();
        let mut way = vec![self.first_step()?];
        let mut links = 0;
        while let Some(part) = left.pop_front() {
            match part.as_str() {
                "" | "." => continue,
                // At the root `..` is the root, as in a chroot.
                ".." => {
                    way.truncate((way.len() - 1).max(1));
                    continue;
                }
                _ => {}
            }
            let here = way.last().expect("because the root is never taken off");
            let place = || place_of(&way, &part);
            let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let fd = openat(&here.fd, part.as_str(), flags, Mode::empty()).map_err(|errno| failed("open", &place(), errno))?;
            let stat = fstat(&fd).map_err(|errno| failed("look at", &place(), errno))?;
            match stat.st_mode & S_IFMT {
                S_IFLNK => {
                    self.judge_link(&here.stat, &stat).map_err(|why| RootError::UntrustedLink { link: place(), why })?;
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(RootError::TooManyLinks { path: format!("/{relative}") });
                    }
                    // Read from the handle that was judged, not from the name: the name may be another link by now.
                    let target = readlinkat(&fd, "").map_err(|errno| failed("read the symlink", &place(), errno))?;
                    let target = target
                        .into_string()
                        .map_err(|_| RootError::UntrustedLink { link: place(), why: "its target is not valid UTF-8".into() })?;
                    if target.starts_with('/') {
                        way.truncate(1);
                    }
                    for part in target.split('/').rev() {
                        left.push_front(part.to_owned());
                    }
                }
                S_IFDIR => way.push(Step { fd, stat, name: part }),
                _ if file && left.iter().all(String::is_empty) => {
                    let dir = way.pop().expect("because the root is never taken off").fd;
                    return Ok(Walked { dir, file: Some(part) });
                }
                _ => return Err(RootError::NotDirectory { path: place() }),
            }
        }
        let dir = way.pop().expect("because the root is never taken off").fd;
        Ok(Walked { dir, file: None })
    }

    fn first_step(&self) -> Result<Step, RootError> {
        let fd = openat(&self.0.fd, ".", OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
            .map_err(|errno| failed("open", "/", errno))?;
        let stat = fstat(&fd).map_err(|errno| failed("look at", "/", errno))?;
        Ok(Step { fd, stat, name: String::new() })
    }

    // Who could have made this link, or put it there? Only those whom root trusts anyway.
    fn judge_link(&self, dir: &FileStat, link: &FileStat) -> Result<(), String> {
        let trusted = |uid: u32| uid == 0 || uid == self.root_ids().0;
        if !trusted(link.st_uid) {
            return Err(format!("it belongs to user {}", link.st_uid));
        }
        if !trusted(dir.st_uid) {
            return Err(format!("its directory belongs to user {}, who could exchange it", dir.st_uid));
        }
        if dir.st_mode & 0o002 != 0 && dir.st_mode & 0o1000 == 0 {
            return Err("everybody may write to its directory".into());
        }
        Ok(())
    }
}

/// The handle of the directory of the last path asked for, kept because the next one is mostly in the same.
#[derive(Debug)]
pub(crate) struct Parents {
    root: Root,
    last: Option<(String, OwnedFd)>,
}

impl Parents {
    pub(crate) fn new(root: &Root) -> Self {
        Self { root: root.clone(), last: None }
    }

    /// The directory of `path`.
    pub(crate) fn at(&mut self, path: &HostPath) -> Result<&OwnedFd, RootError> {
        let parent = parent_of(path);
        if self.last.as_ref().is_none_or(|(known, _)| known != parent) {
            let fd = self.root.directory(parent)?;
            self.last = Some((parent.to_owned(), fd));
        }
        Ok(&self.last.as_ref().expect("because it was just set").1)
    }

    /// Makes the next question resolve anew.
    pub(crate) fn forget(&mut self) {
        self.last = None;
    }
}

/// The flags of a directory that is worked in: readable, for an `O_PATH` handle cannot be synced.
const DIRECTORY: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC);

/// The mode of a directory that is made on the way to something.
const MADE: Mode = Mode::S_IRWXU.union(Mode::S_IRGRP).union(Mode::S_IXGRP).union(Mode::S_IROTH).union(Mode::S_IXOTH);

fn parent_of(path: &HostPath) -> &str {
    path.relative().rsplit_once('/').map_or("", |(parent, _)| parent)
}

fn place_of(way: &[Step], part: &str) -> String {
    let mut text = String::new();
    for name in way.iter().skip(1).map(|step| step.name.as_str()).chain([part]) {
        text.push('/');
        text.push_str(name);
    }
    text
}

fn failed(operation: &'static str, path: &str, errno: Errno) -> RootError {
    let path = path.to_owned();
    match errno {
        Errno::ENOENT => RootError::Missing { path },
        Errno::ENOTDIR => RootError::NotDirectory { path },
        errno => RootError::Io { operation, path, source: errno.into() },
    }
}

/// Device and inode number: which inode this is.
pub(super) fn inode(stat: &FileStat) -> (u64, u64) {
    // Narrower on some 32-bit targets.
    #[allow(clippy::useless_conversion)]
    (u64::from(stat.st_dev), u64::from(stat.st_ino))
}

/// A signal is no answer.
pub(crate) fn retry<T>(mut call: impl FnMut() -> nix::Result<T>) -> nix::Result<T> {
    loop {
        match call() {
            // openat2 asks for another try when a rename crossed its way.
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // What the tests in tests/files see with openat2, seen without it: an old kernel, or a seccomp filter.
    fn without_openat2(path: &Path) -> Root {
        let root = Root::open(path).expect("because the folder is there");
        root.0.openat2.store(false, Ordering::Relaxed);
        root
    }

    fn path(text: &str) -> HostPath {
        text.parse().expect("because it is normal")
    }

    #[test]
    fn the_slow_way_leads_to_the_same_places() {
        let dir = tempfile::tempdir().expect("because /tmp is writable");
        std::fs::create_dir_all(dir.path().join("etc/deep/er")).expect("because the folder is ours");
        std::fs::write(dir.path().join("etc/file"), "").expect("because the folder is ours");
        std::os::unix::fs::symlink("/etc/deep", dir.path().join("link")).expect("because the folder is ours");
        let (fast, slow) = (Root::open(dir.path()).expect("because it is there"), without_openat2(dir.path()));
        for text in ["/x", "/etc/x", "/etc/deep/er/x", "/link/er/x"] {
            let [a, b] =
                [&fast, &slow].map(|root| inode(&fstat(root.parent(&path(text)).expect(text)).expect("because it is open")));
            assert_eq!(a, b, "{text}");
        }
        for text in ["/none/x", "/etc/file/x", "/link/none/x"] {
            let [a, b] = [&fast, &slow].map(|root| root.parent(&path(text)).map(drop).expect_err(text).to_string());
            assert_eq!(a, b, "{text}");
        }
        assert!(!slow.has_openat2() && fast.has_openat2());
    }

    // In a mount namespace of its own, which needs root: without it only the first half is tried.
    #[test]
    fn mount_points_are_known_without_openat2() {
        use crate::host::observe::observe;
        use trimtab_model::observed::Found;
        const NAME: &str = "host::root::tests::mount_points_are_known_without_openat2";
        let mount = |root: &Root, text: &str| match observe(root, [&path(text)]).remove(&path(text)) {
            Some(Found::Directory { mount, .. }) => mount,
            Some(Found::Unfit(why)) => why.contains("mounted over"),
            other => panic!("{text}: {other:?}"),
        };
        if let Some(folder) = std::env::var_os("TRIMTAB_TEST_FOLDER") {
            // The same file system mounted on itself has no device number of its own: only the mount table tells.
            let root = without_openat2(folder.as_ref());
            assert!(mount(&root, "/a b") && mount(&root, "/file") && !mount(&root, "/plain"));
            return;
        }
        let host = without_openat2(Path::new("/"));
        assert!(mount(&host, "/proc") && !mount(&host, "/proc/sys/kernel"));
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: mounting needs root");
            return;
        }
        let dir = tempfile::tempdir().expect("because /tmp is writable");
        for name in ["a b", "plain"] {
            std::fs::create_dir(dir.path().join(name)).expect("because the folder is ours");
        }
        std::fs::write(dir.path().join("file"), "").expect("because the folder is ours");
        let script = r#"cd "$TRIMTAB_TEST_FOLDER" && mount --bind plain "a b" && mount --bind file file && exec "$0" "$@""#;
        let status = std::process::Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", script])
            .arg(std::env::current_exe().expect("because it runs"))
            .args([NAME, "--exact", "--nocapture"])
            .env("TRIMTAB_TEST_FOLDER", dir.path())
            .status()
            .expect("because util-linux is there");
        assert!(status.success(), "{status}");
    }
}
