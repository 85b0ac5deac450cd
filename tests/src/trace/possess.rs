//! Makes a program that runs make system calls of a test's choosing: what a program that was taken over could do, tried by that very
//! program, with whatever walls stand around it, and with no door in it for the purpose.
//!
//! It is stopped wherever it waits, its registers are set for one call after the other, and at the end they are put back, so that it goes
//! on as if nothing had been. Guarantees: the calls are made by the process itself, under its own credentials, seccomp filters and
//! Landlock rules. Limits: x86-64 only; its first thread only, which must be waiting in a system call.

use std::ffi::CString;
use std::fs::{self, File};
use std::net::SocketAddrV4;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use nix::errno::Errno;
use nix::libc::{self, c_long, user_regs_struct};
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// The kernel's own errors for "to be made again" (include/linux/errno.h), which no program sees.
const AGAIN: [i64; 4] = [-512, -513, -514, -516];
/// `syscall`, the instruction.
const INSTRUCTION: [u8; 2] = [0x0f, 0x05];

/// A program that does what it is told until this is dropped.
#[derive(Debug)]
pub struct Possessed {
    pid: Pid,
    memory: File,
    before: user_regs_struct,
    /// Where a `syscall` instruction stands in it.
    door: u64,
}

impl Possessed {
    /// Takes over the program with this process id.
    ///
    /// # Panics
    /// When tracing is not permitted, or it is not waiting in a system call.
    #[must_use]
    pub fn new(pid: u32) -> Self {
        let pid = Pid::from_raw(pid.cast_signed());
        ptrace::seize(pid, Options::PTRACE_O_TRACESYSGOOD).expect("because root may trace whom it likes");
        ptrace::interrupt(pid).expect("because it was just seized");
        match waitpid(pid, Some(WaitPidFlag::__WALL)) {
            Ok(WaitStatus::PtraceEvent(..) | WaitStatus::Stopped(..)) => {}
            other => panic!("it does not stop: {other:?}"),
        }
        let mut before = ptrace::getregs(pid).expect("because it is stopped");
        let memory = File::options().read(true).write(true).open(format!("/proc/{pid}/mem")).expect("because it is traced");
        let door = before.rip - 2;
        let mut there = [0; 2];
        memory.read_exact_at(&mut there, door).expect("because it runs there");
        assert_eq!(there, INSTRUCTION, "it was not waiting in a system call");
        if AGAIN.contains(&before.rax.cast_signed()) {
            // What it waited in is made anew: the kernel would only do that at a signal.
            (before.rax, before.rip) = (before.orig_rax, door);
        }
        before.orig_rax = u64::MAX;
        Self { pid, memory, before, door }
    }

    /// Makes one system call.
    ///
    /// # Errors
    /// What the kernel answers.
    ///
    /// # Panics
    /// When the program is gone.
    pub fn call(&self, number: c_long, arguments: [u64; 6]) -> Result<u64, Errno> {
        let [rdi, rsi, rdx, r10, r8, r9] = arguments;
        let rax = number.cast_unsigned();
        let registers = user_regs_struct { rax, rdi, rsi, rdx, r10, r8, r9, rip: self.door, orig_rax: u64::MAX, ..self.before };
        ptrace::setregs(self.pid, registers).expect("because it is stopped");
        for _ in 0..2 {
            ptrace::syscall(self.pid, None::<Signal>).expect("because it is stopped");
            match waitpid(self.pid, Some(WaitPidFlag::__WALL)) {
                Ok(WaitStatus::PtraceSyscall(_)) => {}
                other => panic!("it did not survive system call {number}: {other:?}"),
            }
        }
        let answer = ptrace::getregs(self.pid).expect("because it is stopped").rax.cast_signed();
        match i32::try_from(answer) {
            Ok(errno @ -4095..=-1) => Err(Errno::from_raw(-errno)),
            _ => Ok(answer.cast_unsigned()),
        }
    }

    /// As [`Possessed::call`], with these bytes in its memory and their address as one of the arguments.
    fn call_with(&self, number: c_long, bytes: &[u8], arguments: impl Fn(u64) -> [u64; 6]) -> Result<u64, Errno> {
        // Below its stack, and below the 128 bytes there that may be in use.
        let at = (self.before.rsp - 128 - bytes.len() as u64) & !15;
        self.memory.write_all_at(bytes, at).expect("because there is a stack");
        self.call(number, arguments(at))
    }

    /// Opens a file, as open(2), and closes it again.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn open(&self, path: &str, flags: i32) -> Result<(), Errno> {
        let path = CString::new(path).expect("because no path has a zero").into_bytes_with_nul();
        let opened = self.call_with(libc::SYS_openat, &path, |at| {
            [i64::from(libc::AT_FDCWD).cast_unsigned(), at, u64::from(flags.cast_unsigned()), 0o600, 0, 0]
        })?;
        self.call(libc::SYS_close, [opened, 0, 0, 0, 0, 0]).map(drop)
    }

    /// Removes a file.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn unlink(&self, path: &str) -> Result<(), Errno> {
        let path = CString::new(path).expect("because no path has a zero").into_bytes_with_nul();
        self.call_with(libc::SYS_unlink, &path, |at| [at, 0, 0, 0, 0, 0]).map(drop)
    }

    /// Becomes another program. Only for where that is refused.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn exec(&self, path: &str) -> Result<(), Errno> {
        let path = CString::new(path).expect("because no path has a zero").into_bytes_with_nul();
        self.call_with(libc::SYS_execve, &path, |at| [at, 0, 0, 0, 0, 0]).map(drop)
    }

    /// Makes a socket, as socket(2), and closes it again.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn socket(&self, family: i32, kind: i32) -> Result<(), Errno> {
        let [family, kind] = [family, kind].map(|number| u64::from(number.cast_unsigned()));
        let socket = self.call(libc::SYS_socket, [family, kind, 0, 0, 0, 0])?;
        self.call(libc::SYS_close, [socket, 0, 0, 0, 0, 0]).map(drop)
    }

    /// Connects over TCP, and hangs up.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn connect(&self, to: SocketAddrV4) -> Result<(), Errno> {
        self.with_address(libc::SYS_connect, to)
    }

    /// Takes a TCP port of its own, and gives it back.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn bind(&self, at: SocketAddrV4) -> Result<(), Errno> {
        self.with_address(libc::SYS_bind, at)
    }

    fn with_address(&self, number: c_long, address: SocketAddrV4) -> Result<(), Errno> {
        let [family, kind] = [libc::AF_INET, libc::SOCK_STREAM].map(|number| u64::from(number.cast_unsigned()));
        let socket = self.call(libc::SYS_socket, [family, kind, 0, 0, 0, 0])?;
        let family = u16::try_from(libc::AF_INET).expect("because it is 2").to_ne_bytes();
        let raw = [&family[..], &address.port().to_be_bytes(), &address.ip().octets(), &[0; 8]].concat();
        let done = self.call_with(number, &raw, |at| [socket, at, raw.len() as u64, 0, 0, 0]);
        self.call(libc::SYS_close, [socket, 0, 0, 0, 0, 0])?;
        done.map(drop)
    }
}

impl Drop for Possessed {
    fn drop(&mut self) {
        // One that was killed has nothing to be put back.
        let _ = ptrace::setregs(self.pid, self.before);
        let _ = ptrace::detach(self.pid, None);
    }
}

/// The process that this machine's first process (as this host numbers it) knows under the number `inside`.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn seen_from_here(leader: i32, inside: u32) -> u32 {
    let space = |pid: &str| fs::read_link(Path::new("/proc").join(pid).join("ns/pid")).ok();
    let wanted = space(&leader.to_string()).expect("because the machine runs");
    let numbers = fs::read_dir("/proc").expect("because Linux has it").flatten();
    let mut pids = numbers.filter_map(|entry| entry.file_name().into_string().ok()).filter(|name| name.parse::<u32>().is_ok());
    let found = pids.find(|pid| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let own = status.lines().find_map(|line| line.strip_prefix("NSpid:")?.split_whitespace().last()?.parse().ok());
        own == Some(inside) && space(pid).as_ref() == Some(&wanted)
    });
    found.and_then(|pid| pid.parse().ok()).unwrap_or_else(|| panic!("there is no process {inside} in that machine"))
}
