//! The one module with unsafe code: giving memory back to the system between passes, asking whether something keeps the clock, taking
//! over what systemd opened, and asking what the kernel calls a directory in its file events.
//!
//! A pass touches megabytes that an idle agent does not need. Guarantees: [`give_back`] changes nothing that the program can see; what it
//! lets go is read again from the page cache when it is used. Limits: it is advice; where the kernel or the allocator does not take it,
//! nothing happens.
//!
//! Audit: both calls are without preconditions in the state in which they are made. `malloc_trim` is thread-safe and only releases free
//! memory. `MADV_DONTNEED` is given for mappings of this program's own file that are readable, executable and *not writable*: position
//! independent code has no relocations in its text, so no page of it was ever changed, and discarding the mapping of an unchanged private
//! file page loses nothing. It is never given for data, relocated or not.
//! `adjtimex` with no mode set reads and changes nothing; it needs no privilege. It is given more room than its structure takes, for the
//! layout of that differs between the kernel's versions of it on 32-bit machines, and nothing of it is read.
//! Descriptors from systemd are said to be for this very process (`LISTEN_PID`), begin at 3, and are taken once: they get one owner.
//!
//! `name_to_handle_at` (which neither nix nor every libc has) writes at most `bytes` bytes behind the header that it is given, and `bytes` is
//! the size of the array that stands there; what it says that it wrote is bounded again before it is used. The empty name, the descriptor
//! and the mount id live until the call is back.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::libc;

/// The longest handle that a file system gives (`MAX_HANDLE_SZ`).
const LONGEST_HANDLE: usize = 128;

/// The kernel gives the handle that fanotify uses, also where it could not be opened again (Linux 6.5; `AT_HANDLE_FID`).
const AT_HANDLE_FID: libc::c_int = 0x200;

/// `struct file_handle` of name_to_handle_at(2), with room.
#[repr(C)]
struct RawHandle {
    bytes: u32,
    kind: i32,
    handle: [u8; LONGEST_HANDLE],
}

/// The file handle of an open file or directory, type and bytes: what fanotify names it by.
pub fn file_handle(of: BorrowedFd<'_>) -> nix::Result<(i32, Vec<u8>)> {
    let ask = |flags: libc::c_int| {
        let mut raw = RawHandle { bytes: 128, kind: 0, handle: [0; LONGEST_HANDLE] };
        let mut mount: libc::c_int = 0;
        // SAFETY: every pointer is to a live value of the size that the call writes; see the module's audit.
        let done = unsafe {
            libc::syscall(
                libc::SYS_name_to_handle_at,
                of.as_raw_fd(),
                c"".as_ptr(),
                &raw mut raw,
                &raw mut mount,
                libc::AT_EMPTY_PATH | flags,
            )
        };
        Errno::result(done)?;
        let length = usize::try_from(raw.bytes).unwrap_or(0).min(LONGEST_HANDLE);
        Ok((raw.kind, raw.handle[..length].to_vec()))
    };
    match ask(AT_HANDLE_FID) {
        // Older kernels do not know the flag.
        Err(Errno::EINVAL) => ask(0),
        known => known,
    }
}

/// Gives back what a pass needed and waiting does not: free heap, and the mapped pages of the program's own code.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: no preconditions; see the module's audit.
    unsafe {
        libc::malloc_trim(0);
    }
    let (Ok(maps), Ok(program)) = (std::fs::read_to_string("/proc/self/maps"), std::fs::read_link("/proc/self/exe")) else {
        return;
    };
    let program = program.to_string_lossy();
    for (start, length) in maps.lines().filter_map(|line| code(line, &program)) {
        // SAFETY: the range is a whole mapping of this process, made from a file, never writable; see the module's audit.
        unsafe {
            libc::madvise(start as *mut libc::c_void, length, libc::MADV_DONTNEED);
        }
    }
}

/// Whether something keeps the clock in step, as the kernel says; `None` when it does not say (it was not allowed to be asked).
pub fn is_clock_kept() -> Option<bool> {
    let mut room = std::mem::MaybeUninit::<[libc::timex; 4]>::zeroed();
    // SAFETY: all zero is a valid structure whose `modes` is 0: nothing is set; see the module's audit.
    match unsafe { libc::adjtimex(room.as_mut_ptr().cast()) } {
        -1 => None,
        state => Some(state != libc::TIME_ERROR),
    }
}

/// The descriptors that systemd handed over, for good; at the first call only, later ones get none.
pub fn handed_over() -> std::io::Result<Vec<OwnedFd>> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::Relaxed) {
        return Ok(Vec::new());
    }
    let numbers: Vec<RawFd> = sd_notify::listen_fds()?.collect();
    // That they are open was seen when they were marked as not to be inherited.
    // SAFETY: they are open, and nothing else in this process owns them; see the module's audit.
    Ok(numbers.into_iter().map(|number| unsafe { OwnedFd::from_raw_fd(number) }).collect())
}

/// Start and length of a mapping, if it is code of `program`: `55d0c0a1f000-55d0c0f00000 r-xp 0021f000 fe:00 123   /usr/bin/trimtab`.
fn code(line: &str, program: &str) -> Option<(usize, usize)> {
    let mut words = line.split_ascii_whitespace();
    let (range, rights) = (words.next()?, words.next()?);
    let file = line.find('/').map(|at| &line[at..])?;
    if rights != "r-xp" || file != program {
        return None;
    }
    let (start, end) = range.split_once('-')?;
    let (start, end) = (usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?);
    Some((start, end.checked_sub(start)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_unwritable_code_of_the_program_itself_is_let_go() {
        let line = |rights: &str, file: &str| format!("55d0c0a1f000-55d0c0a20000 {rights} 0021f000 fe:00 123      {file}");
        assert_eq!(code(&line("r-xp", "/usr/bin/trimtab"), "/usr/bin/trimtab"), Some((0x55d0_c0a1_f000, 0x1000)));
        for (rights, file) in
            [("r--p", "/usr/bin/trimtab"), ("rw-p", "/usr/bin/trimtab"), ("rwxp", "/usr/bin/trimtab"), ("r-xp", "/usr/lib/libc.so")]
        {
            assert_eq!(code(&line(rights, file), "/usr/bin/trimtab"), None, "{rights} {file}");
        }
        assert_eq!(code("7ffd1000-7ffd2000 r-xp 00000000 00:00 0      [vdso]", "/usr/bin/trimtab"), None);
    }

    #[test]
    fn the_program_goes_on_as_before() {
        let text: Vec<String> = (0..2000).map(|n| format!("{n:>64}")).collect();
        give_back();
        assert!(text.iter().enumerate().all(|(n, line)| line.trim() == n.to_string()));
    }
}
