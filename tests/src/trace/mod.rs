//! Runs a program under ptrace and stops before each system call that changes something, to kill it there or to make the call fail.
//!
//! A *place* is such a stop: numbered from 1, in the order in which the program's threads come to it. Children of the program are let go
//! (they run untraced), its threads are not. What counts as a change is said in [`calls`].
//!
//! Guarantees: a program that is killed at a place has not made that call, nor any after it; a call that is made to fail is not made at
//! all. When the thread that traces ends, the kernel kills the program.
//! Limits: x86-64 only, for it reads and writes registers. Who traces must be root, or the program's parent where Yama allows that. Two
//! runs of one program need not come to the same places in the same order: a sweep runs until the program outlives its place.

pub mod calls;
pub mod possess;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::Write as _;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

pub use calls::Call;

/// What becomes of a program at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on.
    Go,
    /// SIGKILL, before the call.
    Kill,
    /// The call is not made, and this is its answer.
    Fail(Errno),
}

/// How a traced program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// By itself, with this exit code.
    Exited(i32),
    /// By a signal.
    Killed(Signal),
}

impl End {
    /// Of a program that nobody traced.
    ///
    /// # Panics
    /// When the system says neither.
    pub fn of(status: std::process::ExitStatus) -> Self {
        use std::os::unix::process::ExitStatusExt as _;
        let signal = || status.signal().and_then(|number| Signal::try_from(number).ok());
        status.code().map_or_else(|| Self::Killed(signal().expect("because it has no exit code")), Self::Exited)
    }
}

/// What counts as a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Watch {
    /// Changes of files.
    Files,
    /// Those, and what is said over sockets: a call of systemd changes the machine too.
    FilesAndSockets,
}

/// A program that waits for leave to begin.
#[derive(Debug)]
pub struct Gate {
    child: Child,
}

/// What a shell does before it becomes the program: it waits for a line, so that it can be seized before the first instruction counts.
const GATE: &str = "read _; exec \"$0\" \"$@\"";

impl Gate {
    /// Makes `program` ready to be traced. The outputs go where `command` sends them; its standard input is the gate's.
    ///
    /// # Panics
    /// When no shell can be started.
    pub fn new(program: &OsStr, args: &[&OsStr], outputs: impl FnOnce(&mut Command)) -> Self {
        let mut command = Command::new("sh");
        command.arg("-c").arg(GATE).arg(program).args(args);
        outputs(&mut command);
        Self::behind(command)
    }

    /// As [`Gate::new`], for a command that at last becomes `sh -c` with [`Gate::script`], the program and its arguments, in whatever
    /// namespaces.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn behind(mut command: Command) -> Self {
        Self { child: command.stdin(Stdio::piped()).spawn().expect("because the base system has it") }
    }

    /// The script that [`Gate::behind`] expects, with a word by which [`shell_with`] finds its process.
    pub fn script(token: &str) -> String {
        format!(": {token}; {GATE}")
    }

    /// Lets it begin and asks `decide` at each place (its number, and the call) until it has ended.
    ///
    /// # Panics
    /// When tracing is not permitted.
    pub fn run(self, watch: Watch, decide: impl FnMut(usize, &Call) -> Verdict) -> End {
        let pid = Pid::from_raw(self.child.id().cast_signed());
        self.run_as(pid, watch, decide)
    }

    /// As [`Gate::run`], where the shell at the gate is not the child itself but this process, as numbered here.
    ///
    /// # Panics
    /// When tracing is not permitted.
    pub fn run_as(mut self, shell: Pid, watch: Watch, decide: impl FnMut(usize, &Call) -> Verdict) -> End {
        let options = Options::PTRACE_O_TRACESYSGOOD
            | Options::PTRACE_O_TRACECLONE
            | Options::PTRACE_O_TRACEEXEC
            | Options::PTRACE_O_EXITKILL;
        ptrace::seize(shell, options).unwrap_or_else(|errno| {
            panic!("ptrace is not permitted here ({errno}): see /proc/sys/kernel/yama/ptrace_scope, or run as root")
        });
        ptrace::interrupt(shell).expect("because it was just seized");
        let mut stdin = self.child.stdin.take().expect("because it is piped");
        stdin.write_all(b"\n").expect("because the shell waits for it");
        drop(stdin);
        // Its end is reaped below, whether it is the tracee itself or the one who started it.
        Tracer { leader: shell, watch, decide, begun: false, places: 0, failing: BTreeMap::new(), dying: false }.run()
    }
}

/// The process whose first word is `sh` and whose script begins with [`Gate::script`]'s `token`: how a shell in other namespaces is found.
///
/// # Panics
/// When none comes within twenty seconds.
pub fn shell_with(token: &str) -> Pid {
    let (deadline, start) = (Instant::now() + Duration::from_secs(20), format!(": {token}; "));
    loop {
        for entry in fs::read_dir("/proc").expect("because Linux has it").flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let words = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let words: Vec<&[u8]> = words.split(|byte| *byte == 0).collect();
            if words.first() == Some(&&b"sh"[..]) && words.get(2).is_some_and(|script| script.starts_with(start.as_bytes())) {
                return Pid::from_raw(pid);
            }
        }
        assert!(Instant::now() < deadline, "no shell came to the gate with {token}");
        sleep(Duration::from_millis(2));
    }
}

struct Tracer<D> {
    leader: Pid,
    watch: Watch,
    decide: D,
    /// The shell has become the program.
    begun: bool,
    places: usize,
    /// Threads within a call that was replaced by nothing, and what it shall answer.
    failing: BTreeMap<Pid, Errno>,
    dying: bool,
}

impl<D: FnMut(usize, &Call) -> Verdict> Tracer<D> {
    fn run(mut self) -> End {
        loop {
            // Only this thread's: other tests trace beside it. Whoever started the shell may be reaped here too.
            let status = match waitpid(None, Some(WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD)) {
                Ok(status) => status,
                Err(Errno::EINTR) => continue,
                Err(errno) => panic!("the traced program is lost: {errno}"),
            };
            match status {
                WaitStatus::Exited(pid, code) if pid == self.leader => return End::Exited(code),
                WaitStatus::Signaled(pid, signal, _) if pid == self.leader => return End::Killed(signal),
                WaitStatus::PtraceSyscall(pid) => self.at_call(pid),
                WaitStatus::PtraceEvent(pid, _, event) => {
                    self.begun |= event == libc::PTRACE_EVENT_EXEC;
                    go_on(pid, None);
                }
                WaitStatus::Stopped(pid, signal) => go_on(pid, Some(signal)),
                // Threads that end.
                _ => {}
            }
        }
    }

    fn at_call(&mut self, pid: Pid) {
        if self.dying {
            return;
        }
        let Ok(info) = ptrace::syscall_info(pid) else { return };
        match info.op {
            libc::PTRACE_SYSCALL_INFO_ENTRY if self.begun => self.entry(pid),
            libc::PTRACE_SYSCALL_INFO_EXIT => self.exit(pid),
            _ => go_on(pid, None),
        }
    }

    fn entry(&mut self, pid: Pid) {
        let Ok(mut registers) = ptrace::getregs(pid) else { return };
        let Some(call) = Call::of(pid, &registers, self.watch) else { return go_on(pid, None) };
        self.places += 1;
        match (self.decide)(self.places, &call) {
            Verdict::Go => go_on(pid, None),
            Verdict::Kill => {
                self.dying = true;
                kill(self.leader, Signal::SIGKILL).expect("because it was not reaped yet");
            }
            Verdict::Fail(errno) => {
                // There is no system call of this number, so none is made.
                registers.orig_rax = u64::MAX;
                ptrace::setregs(pid, registers).expect("because it is stopped");
                self.failing.insert(pid, errno);
                go_on(pid, None);
            }
        }
    }

    fn exit(&mut self, pid: Pid) {
        if let Some(errno) = self.failing.remove(&pid)
            && let Ok(mut registers) = ptrace::getregs(pid)
        {
            registers.rax = (-i64::from(errno as i32)).cast_unsigned();
            ptrace::setregs(pid, registers).expect("because it is stopped");
        }
        go_on(pid, None);
    }
}

fn go_on(pid: Pid, signal: Option<Signal>) {
    match ptrace::syscall(pid, signal) {
        // Killed meanwhile: its end is the next thing that is told.
        Ok(()) | Err(Errno::ESRCH) => {}
        Err(errno) => panic!("cannot go on with {pid}: {errno}"),
    }
}
