//! Which system calls change something, and on what.
//!
//! Counted are calls that make, write, rename, remove, resize or sync a file, or change its mode, owner, times or attributes. Not
//! counted are what goes to the standard outputs or to anything that is no file (pipes, event counters), and files of `/dev` and `/proc`.

use std::fmt;
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use nix::libc::{self, c_long, user_regs_struct};
use nix::unistd::Pid;

use super::Watch;

/// A system call that is about to change something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// As manual pages call it.
    pub name: &'static str,
    /// On which paths, as far as they are known; for people, and to know one place from another.
    pub paths: Vec<String>,
    /// What it does, for choosing errors that it can have.
    pub kind: Kind,
}

/// What a call does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Opens a file for writing or makes it.
    Open,
    /// Writes or makes longer.
    Write,
    /// Makes a name: a directory, a link, a rename.
    Name,
    /// Takes something away.
    Remove,
    /// Mode, owner, times, attributes.
    Meta,
    /// Waits for the disk.
    Sync,
    /// Says something over a socket.
    Say,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.paths.join(" -> "))
    }
}

/// How the object of a call is told.
#[derive(Clone, Copy)]
enum On {
    /// The handle in this argument; the call counts when that is a file.
    File(usize),
    /// The path in this argument.
    Path(usize),
    /// The handle in the first and the path in the second of these arguments.
    At(usize, usize),
    /// From one such pair to another.
    AtAt(usize, usize, usize, usize),
    /// From one path to another.
    PathPath(usize, usize),
}

const AT_FDCWD: u32 = libc::AT_FDCWD.cast_unsigned();
// Newer than the table of the `libc` crate for some targets.
const FCHMODAT2: c_long = 452;

/// The calls that change something whatever their arguments are.
const TABLE: &[(c_long, &str, Kind, On)] = &[
    (libc::SYS_creat, "creat", Kind::Open, On::Path(0)),
    (libc::SYS_write, "write", Kind::Write, On::File(0)),
    (libc::SYS_pwrite64, "pwrite64", Kind::Write, On::File(0)),
    (libc::SYS_writev, "writev", Kind::Write, On::File(0)),
    (libc::SYS_pwritev, "pwritev", Kind::Write, On::File(0)),
    (libc::SYS_pwritev2, "pwritev2", Kind::Write, On::File(0)),
    (libc::SYS_sendfile, "sendfile", Kind::Write, On::File(0)),
    (libc::SYS_splice, "splice", Kind::Write, On::File(2)),
    (libc::SYS_copy_file_range, "copy_file_range", Kind::Write, On::File(2)),
    (libc::SYS_fallocate, "fallocate", Kind::Write, On::File(0)),
    (libc::SYS_ftruncate, "ftruncate", Kind::Write, On::File(0)),
    (libc::SYS_truncate, "truncate", Kind::Write, On::Path(0)),
    (libc::SYS_rename, "rename", Kind::Name, On::PathPath(0, 1)),
    (libc::SYS_renameat, "renameat", Kind::Name, On::AtAt(0, 1, 2, 3)),
    (libc::SYS_renameat2, "renameat2", Kind::Name, On::AtAt(0, 1, 2, 3)),
    (libc::SYS_link, "link", Kind::Name, On::PathPath(0, 1)),
    (libc::SYS_linkat, "linkat", Kind::Name, On::AtAt(0, 1, 2, 3)),
    (libc::SYS_symlink, "symlink", Kind::Name, On::Path(1)),
    (libc::SYS_symlinkat, "symlinkat", Kind::Name, On::At(1, 2)),
    (libc::SYS_mkdir, "mkdir", Kind::Name, On::Path(0)),
    (libc::SYS_mkdirat, "mkdirat", Kind::Name, On::At(0, 1)),
    (libc::SYS_mknod, "mknod", Kind::Name, On::Path(0)),
    (libc::SYS_mknodat, "mknodat", Kind::Name, On::At(0, 1)),
    (libc::SYS_unlink, "unlink", Kind::Remove, On::Path(0)),
    (libc::SYS_unlinkat, "unlinkat", Kind::Remove, On::At(0, 1)),
    (libc::SYS_rmdir, "rmdir", Kind::Remove, On::Path(0)),
    (libc::SYS_chmod, "chmod", Kind::Meta, On::Path(0)),
    (libc::SYS_fchmod, "fchmod", Kind::Meta, On::File(0)),
    (libc::SYS_fchmodat, "fchmodat", Kind::Meta, On::At(0, 1)),
    (FCHMODAT2, "fchmodat2", Kind::Meta, On::At(0, 1)),
    (libc::SYS_chown, "chown", Kind::Meta, On::Path(0)),
    (libc::SYS_lchown, "lchown", Kind::Meta, On::Path(0)),
    (libc::SYS_fchown, "fchown", Kind::Meta, On::File(0)),
    (libc::SYS_fchownat, "fchownat", Kind::Meta, On::At(0, 1)),
    (libc::SYS_utimensat, "utimensat", Kind::Meta, On::At(0, 1)),
    (libc::SYS_setxattr, "setxattr", Kind::Meta, On::Path(0)),
    (libc::SYS_lsetxattr, "lsetxattr", Kind::Meta, On::Path(0)),
    (libc::SYS_fsetxattr, "fsetxattr", Kind::Meta, On::File(0)),
    (libc::SYS_removexattr, "removexattr", Kind::Meta, On::Path(0)),
    (libc::SYS_lremovexattr, "lremovexattr", Kind::Meta, On::Path(0)),
    (libc::SYS_fremovexattr, "fremovexattr", Kind::Meta, On::File(0)),
    (libc::SYS_fsync, "fsync", Kind::Sync, On::File(0)),
    (libc::SYS_fdatasync, "fdatasync", Kind::Sync, On::File(0)),
    (libc::SYS_syncfs, "syncfs", Kind::Sync, On::File(0)),
    (libc::SYS_sync_file_range, "sync_file_range", Kind::Sync, On::File(0)),
];

/// Asks the kernel to share blocks between files: a write by another name.
const FICLONE: u64 = 0x4004_9409;

impl Call {
    pub(super) fn of(pid: Pid, registers: &user_regs_struct, watch: Watch) -> Option<Self> {
        let arguments = [registers.rdi, registers.rsi, registers.rdx, registers.r10, registers.r8, registers.r9];
        let tracee = Tracee { pid, arguments };
        let number = c_long::try_from(registers.orig_rax).ok()?;
        let (name, kind, on) = match number {
            libc::SYS_open => opens(arguments[1]).then_some(("open", Kind::Open, On::Path(0)))?,
            libc::SYS_openat => opens(arguments[2]).then_some(("openat", Kind::Open, On::At(0, 1)))?,
            libc::SYS_openat2 => opens(tracee.word(arguments[2])?).then_some(("openat2", Kind::Open, On::At(0, 1)))?,
            libc::SYS_ioctl => (arguments[1] == FICLONE).then_some(("ioctl", Kind::Write, On::File(0)))?,
            libc::SYS_sendmsg | libc::SYS_sendto if watch == Watch::FilesAndSockets => {
                let socket = tracee.handle(arguments[0])?;
                return Some(Self { name: "sendmsg", paths: vec![socket], kind: Kind::Say });
            }
            _ => TABLE.iter().find(|row| row.0 == number).map(|row| (row.1, row.2, row.3))?,
        };
        let paths = tracee.paths(on)?;
        let machinery = |path: &String| ["/dev/", "/proc/", "/memfd:"].iter().any(|start| path.starts_with(start));
        // What is opened in /dev/shm is a file like any other: the sweeps' own sandboxes lie there.
        (!paths.iter().any(|path| machinery(path) && !path.starts_with("/dev/shm/"))).then_some(Self { name, paths, kind })
    }
}

/// Whether these flags open a file to change it.
fn opens(flags: u64) -> bool {
    let changing = libc::O_WRONLY | libc::O_RDWR | libc::O_CREAT | libc::O_TRUNC;
    flags & u64::from(changing.cast_unsigned()) != 0
}

/// A stopped thread and what it asks for.
struct Tracee {
    pid: Pid,
    arguments: [u64; 6],
}

impl Tracee {
    fn paths(&self, on: On) -> Option<Vec<String>> {
        let of = |at: usize| self.arguments[at];
        match on {
            // Sockets, pipes and the like are called `socket:[…]`.
            // What the program says is no change, wherever its outputs go.
            On::File(handle) if of(handle) <= 2 => None,
            On::File(handle) => self.handle(of(handle)).filter(|path| path.starts_with('/')).map(|path| vec![path]),
            On::Path(path) => Some(vec![self.text(of(path))]),
            On::At(folder, path) => Some(vec![self.at(of(folder), of(path))]),
            On::AtAt(a, b, c, d) => Some(vec![self.at(of(a), of(b)), self.at(of(c), of(d))]),
            On::PathPath(a, b) => Some(vec![self.text(of(a)), self.text(of(b))]),
        }
    }

    /// What a handle leads to. The upper half of the register is not the call's.
    #[allow(clippy::cast_possible_truncation)]
    fn handle(&self, handle: u64) -> Option<String> {
        let link = format!("/proc/{}/fd/{}", self.pid, handle as u32);
        fs::read_link(link).ok().map(|path| path.display().to_string())
    }

    #[allow(clippy::cast_possible_truncation)]
    fn at(&self, folder: u64, path: u64) -> String {
        let text = self.text(path);
        if text.starts_with('/') || folder as u32 == AT_FDCWD {
            return text;
        }
        let folder = self.handle(folder).unwrap_or_default();
        if text.is_empty() { folder } else { Path::new(&folder).join(text).display().to_string() }
    }

    fn text(&self, address: u64) -> String {
        let mut text = Vec::new();
        let Ok(memory) = self.memory() else { return String::new() };
        let mut piece = [0; 64];
        while text.len() < 4096 {
            // A piece may end where the mapping does.
            let got = memory.read_at(&mut piece, address + text.len() as u64).unwrap_or(0);
            let end = piece[..got].iter().position(|byte| *byte == 0);
            text.extend(&piece[..end.unwrap_or(got)]);
            if end.is_some() || got == 0 {
                break;
            }
        }
        String::from_utf8_lossy(&text).into_owned()
    }

    fn word(&self, address: u64) -> Option<u64> {
        let mut bytes = [0; 8];
        self.memory().ok()?.read_exact_at(&mut bytes, address).ok()?;
        Some(u64::from_le_bytes(bytes))
    }

    fn memory(&self) -> std::io::Result<File> {
        File::open(format!("/proc/{}/mem", self.pid))
    }
}
