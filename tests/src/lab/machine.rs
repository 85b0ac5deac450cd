//! One disposable machine: boot it, act in it, cut its power, boot it again.

use std::fmt;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::layer::Layer;
use super::tree::{Suite, Tree};

/// A boot takes about two seconds; on a machine that builds something else beside it, ten times that.
const BOOT: Duration = Duration::from_secs(60);

/// No command of a scenario takes longer, so that one that hangs names itself.
const COMMAND: &str = "60";

const SUPERVISE: &str = include_str!("supervise.sh");

/// How a machine is to be.
#[derive(Debug, Clone, Copy, Default)]
pub struct Boot<'a> {
    /// Its host name.
    pub name: &'a str,
    /// Without trimtab: the scenario installs it.
    pub bare: bool,
    /// Which Debian it is.
    pub suite: Suite,
    /// The Git host's folder (with `fleet.git` in it), shared with other machines; its own one otherwise.
    pub git: Option<&'a Path>,
}

/// A running (or switched off) machine. Dropping it ends it and removes every trace.
#[derive(Debug)]
pub struct Machine {
    name: String,
    folder: PathBuf,
    /// The folders below its own, as overlayfs takes them.
    lower: String,
    group: String,
    share: String,
    running: Mutex<Option<Running>>,
    _folder_lock: File,
    _below: (Tree, Option<Layer>),
}

#[derive(Debug)]
struct Running {
    supervisor: Child,
    leader: i32,
}

/// What a command in a machine answered.
#[derive(Debug, Clone)]
pub struct Ran {
    /// Its exit code; 124 when it took more than a minute.
    pub code: i32,
    /// Standard output, without the last line's end.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl fmt::Display for Ran {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "exit code {}\n--- output\n{}\n--- errors\n{}", self.code, self.out, self.err)
    }
}

impl Machine {
    pub(super) fn boot(tree: Tree, layer: Option<Layer>, cache: &Path, boot: &Boot<'_>) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        sweep(cache);
        let group = format!("lab-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let folder = cache.join("run").join(&group);
        for part in ["upper/etc", "work", "root", "containers"] {
            fs::create_dir_all(folder.join(part)).unwrap_or_else(|error| panic!("cannot make {}: {error}", folder.display()));
        }
        let lock = claim(&folder);
        let id = fs::read_to_string("/proc/sys/kernel/random/uuid").expect("because Linux has it").replace('-', "");
        fs::write(folder.join("upper/etc/machine-id"), id).expect("because the folder was just made");
        fs::write(folder.join("supervise.sh"), SUPERVISE).expect("because the folder was just made");
        let share = boot.git.map(|path| path.display().to_string()).unwrap_or_default();
        let above = layer.iter().map(|layer| &layer.root);
        let lower = above.chain([&tree.root]).map(|root| root.display().to_string()).collect::<Vec<_>>().join(":");
        let (name, below) = (boot.name.to_owned(), (tree, layer));
        let machine = Self { name, folder, lower, group, share, running: Mutex::default(), _folder_lock: lock, _below: below };
        machine.start();
        machine
    }

    /// Its host name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Switches it on and waits until systemd says that everything is up.
    pub fn start(&self) {
        let mut slot = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(slot.is_none(), "{} is running already", self.name);
        let _ = fs::remove_file(self.folder.join("keep"));
        let supervisor = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "bash"])
            .arg(self.folder.join("supervise.sh"))
            .arg(&self.folder)
            .args([&self.lower, &self.name, &self.group, &self.share])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(File::create(self.folder.join("supervise.log")).expect("because the folder is ours"))
            .spawn()
            .expect("because unshare was found before");
        let running = slot.insert(Running { supervisor, leader: 0 });
        let began = Instant::now();
        let mut state = String::new();
        while began.elapsed() < BOOT {
            if running.leader == 0 {
                running.leader = leader(running.supervisor.id().cast_signed()).unwrap_or(0);
            } else {
                state = enter(running.leader, "systemctl is-system-running 2>&1", b"", "10").out;
            }
            match state.as_str() {
                "running" => return,
                "degraded" => break,
                _ => sleep(Duration::from_millis(50)),
            }
        }
        let failed = if running.leader == 0 { String::new() } else { enter(running.leader, "systemctl --failed", b"", "10").out };
        let log = |name| fs::read_to_string(self.folder.join(name)).unwrap_or_default();
        panic!("{} did not boot: {state}\n{failed}\n{}{}", self.name, log("supervise.log"), log("console.log"));
    }

    /// Runs a shell command in it, which must succeed; its standard output without the last line's end.
    #[track_caller]
    pub fn sh(&self, command: &str) -> String {
        let ran = self.try_sh(command);
        assert!(ran.code == 0, "on {}: {command}\n{ran}", self.name);
        ran.out
    }

    /// Runs a shell command in it, whatever comes of it.
    #[must_use]
    pub fn try_sh(&self, command: &str) -> Ran {
        self.try_sh_with(command, b"")
    }

    /// As [`Machine::try_sh`], with something on its standard input.
    #[must_use]
    pub fn try_sh_with(&self, command: &str, input: &[u8]) -> Ran {
        enter(self.leader(), command, input, COMMAND)
    }

    /// A command that runs in it, to be given its program and arguments and started by the caller.
    #[must_use]
    pub fn command(&self) -> Command {
        inside(self.leader())
    }

    /// Writes a file (mode 0644, root's), with the folders above it.
    #[track_caller]
    pub fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        let ran = self.try_sh_with(&format!("install -D -m 0644 /dev/stdin '{path}'"), content.as_ref());
        assert!(ran.code == 0, "on {}: writing {path}\n{ran}", self.name);
    }

    /// The content of a file.
    #[track_caller]
    #[must_use]
    pub fn read(&self, path: &str) -> String {
        self.sh(&format!("cat '{path}'"))
    }

    /// Whether something is at this path (a dangling link counts).
    #[must_use]
    pub fn has(&self, path: &str) -> bool {
        self.try_sh(&format!("test -e '{path}' -o -L '{path}'")).code == 0
    }

    /// Its first process, as this host numbers it.
    #[must_use]
    pub fn leader(&self) -> i32 {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.as_ref().map_or_else(|| panic!("{} is switched off", self.name), |running| running.leader)
    }

    /// A path of it as this host sees it, while it runs. Only for paths without links in them: those would lead astray.
    #[must_use]
    pub fn outside(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.leader()))
    }

    /// What it has written over the tree; for looking at a machine that is switched off.
    #[must_use]
    pub fn upper(&self) -> PathBuf {
        self.folder.join("upper")
    }

    /// Shuts it down in good order; its disk stays.
    pub fn halt(&self) {
        // SIGRTMIN+4 to systemd: power off. nix knows no real-time signals.
        let leader = self.leader().to_string();
        let number = (nix::libc::SIGRTMIN() + 4).to_string();
        let status = Command::new("kill").args([format!("-{number}"), leader]).status();
        assert!(status.is_ok_and(|status| status.success()), "cannot signal {}", self.name);
        self.off(Duration::from_secs(100));
    }

    /// Every process of it dies at this instant; its disk stays as it is.
    pub fn power_cut(&self) {
        kill(Pid::from_raw(self.leader()), Signal::SIGKILL).expect("because the machine runs");
        self.off(Duration::from_secs(10));
    }

    /// A shutdown in good order, and a boot: for everything above the kernel a reboot.
    pub fn reboot(&self) {
        self.halt();
        self.start();
    }

    fn off(&self, patience: Duration) {
        fs::write(self.folder.join("keep"), "").expect("because the folder is ours");
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut running = running.expect("because its leader was just signalled");
        let began = Instant::now();
        while running.supervisor.try_wait().expect("because it is our child").is_none() {
            if began.elapsed() > patience {
                end(&mut running);
                panic!("{} did not go down within {} s", self.name, patience.as_secs());
            }
            sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let running = self.running.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut running) = running {
            if std::thread::panicking() && running.leader != 0 {
                const LAST: &str = "journalctl --no-pager -o short-monotonic -b -n 80; systemctl --failed --no-legend";
                let journal = enter(running.leader, LAST, b"", "10");
                let _ = writeln!(std::io::stderr(), "--- the journal of {}\n{}", self.name, journal.out);
            }
            let _ = fs::remove_file(self.folder.join("keep"));
            end(&mut running);
        }
        remove(&self.folder);
    }
}

/// Lets go of the cord: the supervisor ends the machine and removes its folder.
fn end(running: &mut Running) {
    drop(running.supervisor.stdin.take());
    let _ = running.supervisor.wait();
}

/// The lock that says that the folder has an owner. Locked before it has its name: a sweep must not see it free.
fn claim(folder: &Path) -> File {
    let (new, name) = (folder.with_extension("new"), folder.with_extension("lock"));
    let lock = File::create(&new).unwrap_or_else(|error| panic!("cannot make {}: {error}", new.display()));
    lock.try_lock().expect("because the name is this process's alone");
    fs::rename(&new, &name).expect("because the file was just made");
    lock
}

/// Folders of machines that were switched off when their owner was killed. Who still lives holds the lock.
fn sweep(cache: &Path) {
    for entry in fs::read_dir(cache.join("run")).into_iter().flatten().flatten() {
        let lock = entry.path();
        if lock.extension().is_some_and(|extension| extension == "lock")
            && File::open(&lock).is_ok_and(|file| file.try_lock().is_ok())
        {
            remove(&lock.with_extension(""));
        }
    }
}

fn remove(folder: &Path) {
    let _ = Command::new("rm").args(["-rf", "--one-file-system", "--"]).arg(folder).status();
    let _ = fs::remove_file(folder.with_extension("lock"));
}

/// The machine's PID 1: the descendant that is process 1 of a PID namespace below the supervisor's.
fn leader(of: i32) -> Option<i32> {
    let children = fs::read_to_string(format!("/proc/{of}/task/{of}/children")).ok()?;
    children.split_whitespace().filter_map(|pid| pid.parse().ok()).find_map(|pid: i32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let numbers: Vec<_> = status.lines().find(|line| line.starts_with("NSpid:"))?.split_whitespace().skip(1).collect();
        // Numbered by the host, by the supervisor's namespace, by its own.
        let inside = numbers.len() > levels() + 1 && numbers.last() == Some(&"1");
        if inside { Some(pid) } else { leader(pid) }
    })
}

/// How many PID namespaces this process itself is seen in (more than one in a container).
fn levels() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().find(|line| line.starts_with("NSpid:")).map_or(1, |line| line.split_whitespace().count() - 1)
}

/// A command that runs in the machine with nothing of this host's environment; its program and arguments are still to be given.
fn inside(leader: i32) -> Command {
    const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let mut command = Command::new("nsenter");
    command.args(["--target", &leader.to_string(), "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--"]);
    command.args(["env", "--chdir=/root", "-i", PATH, "HOME=/root", "LANG=C.UTF-8"]);
    command
}

fn enter(leader: i32, command: &str, input: &[u8], seconds: &str) -> Ran {
    let mut child = inside(leader)
        .args(["timeout", "-k", "5", seconds, "bash", "-c", command])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("because nsenter was found before");
    let mut stdin = child.stdin.take().expect("because it is piped");
    let output = std::thread::scope(|scope| {
        // A command that does not read its input closes the pipe; that is its right.
        scope.spawn(move || stdin.write_all(input).ok());
        child.wait_with_output().expect("because it is our child")
    });
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end_matches('\n').to_owned();
    Ran { code: output.status.code().unwrap_or(-1), out: text(&output.stdout), err: text(&output.stderr) }
}
