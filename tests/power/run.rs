//! `trimtab once` on a mounted disk: undisturbed, or on a busy machine that commits its file system's journal at any moment.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use serde_json::Value;
use trimtab_tests::trimtab_binary;

use crate::disk::Dice;

/// How a pass ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// `converged`, `unchanged`, …; the exit code's text where nothing was printed.
    pub(crate) outcome: String,
    /// How many changes it told.
    pub(crate) changes: usize,
    /// What it remarked.
    pub(crate) remarks: Vec<String>,
    /// All that it printed, for a person.
    pub(crate) said: String,
}

impl Ended {
    fn read(code: i32, printed: &str, errors: &str) -> Self {
        let pass: Value = serde_json::from_str(printed).unwrap_or_default();
        let remarks = pass["remarks"].as_array().into_iter().flatten().map(|remark| remark.as_str().unwrap_or_default().to_owned());
        Self {
            outcome: pass["outcome"].as_str().map_or_else(|| format!("exit code {code}"), str::to_owned),
            changes: pass["changes"].as_array().map_or(0, Vec::len),
            remarks: remarks.collect(),
            said: say(&pass, errors),
        }
    }
}

/// A pass in a few lines.
fn say(pass: &Value, errors: &str) -> String {
    let list = |key: &str| pass[key].as_array().map(Vec::as_slice).unwrap_or_default();
    let changes = list("changes").iter().map(|change| format!("{} {} ({})", change["verb"], change["resource"], change["cause"]));
    let others = ["failures", "problems", "remarks"].into_iter().flat_map(|key| list(key).iter().map(Value::to_string));
    let lines: Vec<String> = changes.chain(others).chain(errors.lines().map(str::to_owned)).collect();
    format!("{}: {}", pass["outcome"], lines.join("; "))
}

fn once(root: &Path) -> Command {
    let mut command = Command::new(trimtab_binary());
    command.arg("--root").arg(root).args(["once", "--json"]).stdin(Stdio::null());
    command
}

/// One pass, undisturbed.
pub(crate) fn pass(root: &Path) -> Ended {
    let output = once(root).output().expect("because it was built");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ended::read(output.status.code().unwrap_or(-1), &text(&output.stdout), &text(&output.stderr))
}

/// One pass that is stopped every few microseconds for another program to write a file and wait for it to be on the disk: so the file
/// system's journal is committed in the middle of everything. With `lives` it is killed after so many stops: `None`.
pub(crate) fn disturbed_pass(root: &Path, scratch: &Path, lives: Option<usize>, dice: &mut Dice) -> Option<Ended> {
    let (printed, errors) = (scratch.join("printed"), scratch.join("errors"));
    let create = |path| File::create(path).expect("because the folder is ours");
    // Waited for below, by its number: the standard library knows of no stops.
    #[allow(clippy::zombie_processes)]
    let child = once(root).stdout(create(&printed)).stderr(create(&errors)).spawn().expect("because it was built");
    let mut running =
        Running { pid: Pid::from_raw(i32::try_from(child.id()).expect("because process ids are small")), over: false };
    let mut stops = 0;
    let code = loop {
        std::thread::sleep(Duration::from_micros(10 + dice.below(40) as u64));
        let end = if lives.is_some_and(|lives| stops >= lives) { Signal::SIGKILL } else { Signal::SIGSTOP };
        match running.signal(end) {
            WaitStatus::Exited(_, code) => break code,
            WaitStatus::Signaled(..) => return None,
            _ => {}
        }
        stops += 1;
        commit(root, stops);
        kill(running.pid, Signal::SIGCONT).expect("because it is our child");
    };
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    Some(Ended::read(code, &read(&printed), &read(&errors)))
}

/// A child that is waited for with its stops. One that is left while it is stopped would hold the disk for ever.
struct Running {
    pid: Pid,
    over: bool,
}

impl Running {
    /// Sends a signal that stops or ends it, and waits for that. It is waited for by nobody else, so its number is still its own.
    fn signal(&mut self, signal: Signal) -> WaitStatus {
        kill(self.pid, signal).expect("because it is our child");
        let status = waitpid(self.pid, Some(WaitPidFlag::WUNTRACED)).expect("because it is our child");
        self.over = matches!(status, WaitStatus::Exited(..) | WaitStatus::Signaled(..));
        status
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.over {
            let _ = kill(self.pid, Signal::SIGKILL);
            let _ = waitpid(self.pid, None);
        }
    }
}

/// Some other program's file, on the disk: and with it the journal, with all that anybody has begun in it.
fn commit(root: &Path, number: usize) {
    let path = root.join(format!("noise/{}", number % 4));
    let written = File::create(path).and_then(|mut file| file.write_all(b"noise").and_then(|()| file.sync_all()));
    written.expect("because there is room");
}
