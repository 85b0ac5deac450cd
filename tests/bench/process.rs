//! What a process costs, from the kernel's own accounts.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};

/// Wall time, and CPU time of a process with all its descendants that were waited for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cost {
    pub(crate) wall: Duration,
    pub(crate) cpu: Duration,
}

/// Runs a command to its end. Only one at a time: CPU time is what the children of this process have used up since.
pub(crate) fn measure(command: &mut Command, codes: &[i32]) -> Cost {
    let (cpu, began) = (children_cpu(), Instant::now());
    let output = command.stdin(Stdio::null()).output().expect("because the binary was found before");
    let cost = Cost { wall: began.elapsed(), cpu: children_cpu().saturating_sub(cpu) };
    let code = output.status.code().unwrap_or(-1);
    assert!(
        codes.contains(&code),
        "{command:?} ended with {code}\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    cost
}

fn children_cpu() -> Duration {
    usage(UsageWho::RUSAGE_CHILDREN)
}

/// User and system time.
pub(crate) fn usage(who: UsageWho) -> Duration {
    let usage = getrusage(who).expect("because the kernel always tells it");
    let time = |value: nix::sys::time::TimeVal| {
        let micros = value.tv_sec() * 1_000_000 + value.tv_usec();
        Duration::from_micros(micros.unsigned_abs())
    };
    time(usage.user_time()) + time(usage.system_time())
}

/// A running agent; it ends with this.
#[derive(Debug)]
pub(crate) struct Agent(Child);

impl Agent {
    pub(crate) fn start(command: &mut Command) -> Self {
        // `TRIMTAB_LOG=debug` shows where the time goes.
        let words = if std::env::var_os("TRIMTAB_LOG").is_some() { Stdio::inherit() } else { Stdio::null() };
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(words).spawn();
        Self(child.expect("because the binary was found before"))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Asks for a pass now.
    pub(crate) fn wake(&self) {
        let pid = nix::unistd::Pid::from_raw(self.0.id().cast_signed());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGHUP).expect("because the agent runs");
    }

    /// CPU time of the agent and of its children that have ended. In ticks of 10 ms: only for sums over many passes.
    pub(crate) fn cpu(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).expect("because the agent runs");
        let fields: Vec<u64> = stat.rsplit(')').next().unwrap_or("").split_whitespace().map(|f| f.parse().unwrap_or(0)).collect();
        // utime, stime, cutime and cstime are fields 14 to 17; the name's bracket ended field 2.
        let ticks: u64 = fields.get(11..15).map_or(0, |times| times.iter().sum());
        Duration::from_millis(ticks * 10)
    }

    /// CPU time of the agent's threads that are there now, as the scheduler counts it: for what takes less than a tick.
    pub(crate) fn cpu_exact(&self) -> Duration {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid())).into_iter().flatten().flatten();
        let of = |path: std::path::PathBuf| -> Option<u64> { fs::read_to_string(path).ok()?.split(' ').next()?.parse().ok() };
        Duration::from_nanos(tasks.filter_map(|task| of(task.path().join("schedstat"))).sum())
    }

    /// A field of `status`, such as `VmHWM`, in KiB.
    pub(crate) fn status(&self, field: &str) -> u64 {
        field_of(format!("/proc/{}/status", self.pid()), field).unwrap_or(0)
    }

    /// A field of `smaps_rollup`, such as `Pss`, in KiB.
    pub(crate) fn memory(&self, field: &str) -> u64 {
        field_of(format!("/proc/{}/smaps_rollup", self.pid()), field).unwrap_or(0)
    }

    /// Bytes that it and its ended children caused to be written to a disk.
    pub(crate) fn written(&self) -> u64 {
        field_of(format!("/proc/{}/io", self.pid()), "write_bytes").unwrap_or(0)
    }

    /// How often its threads have given up the CPU of their own accord: each is a wake-up.
    pub(crate) fn wake_ups(&self) -> u64 {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid())).into_iter().flatten().flatten();
        tasks.filter_map(|task| field_of(task.path().join("status"), "voluntary_ctxt_switches")).sum()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn field_of(file: impl AsRef<Path>, field: &str) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find(|line| line.split(':').next() == Some(field))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// Watches the children of a process and keeps the highest memory of each role (the first argument of `trimtab`).
#[derive(Debug)]
pub(crate) struct Watch {
    over: Arc<AtomicBool>,
    peaks: Arc<Mutex<BTreeMap<String, u64>>>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    pub(crate) fn children_of(pid: u32) -> Self {
        let (over, peaks) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(BTreeMap::<String, u64>::new())));
        let (their_over, their_peaks) = (over.clone(), peaks.clone());
        let thread = std::thread::spawn(move || {
            while !their_over.load(Ordering::Relaxed) {
                for (role, peak) in look(pid) {
                    let mut peaks = their_peaks.lock().unwrap_or_else(PoisonError::into_inner);
                    let highest = peaks.entry(role).or_default();
                    *highest = peak.max(*highest);
                }
                // The kernel keeps the high-water mark itself: one look shortly before the end is enough.
                sleep(Duration::from_micros(300));
            }
        });
        Self { over, peaks, thread: Some(thread) }
    }

    pub(crate) fn peaks(mut self) -> BTreeMap<String, u64> {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("because it only reads");
        }
        self.peaks.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn look(pid: u32) -> Vec<(String, u64)> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let children = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    let pids: Vec<String> = children.flat_map(|text| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>()).collect();
    pids.iter()
        .filter_map(|child| {
            let line = fs::read_to_string(format!("/proc/{child}/cmdline")).ok()?;
            let role = line.split('\0').skip(1).find(|word| ["courier", "render-worker"].contains(word))?.to_owned();
            Some((role, field_of(format!("/proc/{child}/status"), "VmHWM")?))
        })
        .collect()
}
