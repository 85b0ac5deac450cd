//! How soon drift is found and repaired, and what watching for it costs.
//!
//! A thousand managed files, an interval of an hour: only events wake the agent. What is done to a file is drawn at random (another content, a mode,
//! deleted, renamed over), at random times, by another process. Found is when the pass that repairs it begins, by its own account; repaired is when
//! the file is again what it should be, looked at from here.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::fleet::{FILES, Fleet};
use crate::process::{Agent, measure};
use crate::until;

pub(crate) fn rows(runs: usize, idle: u64, binary: &Path, row: &mut impl FnMut(&'static str, f64, &'static str, Option<f64>)) {
    let fleet = Fleet::new(binary, FILES);
    fleet.run_in_memory();
    measure(&mut fleet.trimtab("once"), &[2]);
    let agent = Agent::start(&mut fleet.trimtab("agent"));
    until("the agent's first pass", || fleet.status().is_some_and(|status| status["lastPass"]["wake"] == "start"));
    sleep(Duration::from_secs(1));

    let mut random = Random(0x7_12_34);
    let (mut found, mut repaired) = (Vec::new(), Vec::new());
    for _ in 0..runs * 5 {
        let (one, two) = drift(&fleet, &mut random);
        found.push(one);
        repaired.push(two);
        sleep(Duration::from_millis(50 + random.below(700)));
    }
    for (list, what, goal) in [
        (&mut found, ["drift of a file found, p50", "drift of a file found, p99"], 1000.0),
        (&mut repaired, ["drift of a file repaired, p50", "drift of a file repaired, p99"], 2000.0),
    ] {
        list.sort_by(f64::total_cmp);
        row(what[0], list[list.len() / 2], "ms", None);
        row(what[1], list[(list.len() * 99).div_ceil(100) - 1], "ms", Some(goal));
    }

    // The threads of the last passes end by themselves after ten idle seconds.
    sleep(Duration::from_secs(12));
    let before = (agent.cpu_exact(), agent.written(), agent.wake_ups());
    sleep(Duration::from_secs(idle));
    let cpu = agent.cpu_exact().saturating_sub(before.0).as_secs_f64() / idle as f64 * 100.0;
    row("idle with 1,000 files watched, CPU", cpu, "%", Some(0.1));
    row("idle with 1,000 files watched, bytes written", (agent.written() - before.1) as f64, "B", Some(0.0));
    row("idle with 1,000 files watched, RSS", agent.memory("Rss") as f64 / 1024.0, "MiB", Some(6.0));

    // A neighbour that nobody manages, in a managed folder.
    let log = fleet.managed(0).with_file_name("busy.log");
    let mut busy = Command::new("sh")
        .args(["-c", "while :; do echo line; done >> \"$0\""])
        .arg(&log)
        .spawn()
        .expect("because there is a shell");
    sleep(Duration::from_secs(1));
    let before = (agent.cpu_exact(), agent.wake_ups());
    let seconds = 5;
    sleep(Duration::from_secs(seconds));
    let cpu = agent.cpu_exact().saturating_sub(before.0).as_secs_f64() / seconds as f64 * 100.0;
    row("beside a file that is written without end in a managed folder, CPU", cpu, "%", None);
    row("beside it, wake-ups a second", agent.wake_ups().saturating_sub(before.1) as f64 / seconds as f64, "", None);
    let _ = busy.kill();
    let _ = busy.wait();
}

/// Has a file changed; milliseconds until the pass that repaired it began, and until it was repaired.
fn drift(fleet: &Fleet, random: &mut Random) -> (f64, f64) {
    let number = usize::try_from(random.below(FILES as u64)).expect("because it is small");
    let path = fleet.managed(number);
    let want = Fleet::wants(number, 0);
    let is_right = || {
        fs::symlink_metadata(&path).is_ok_and(|meta| meta.mode() & 0o7777 == 0o644)
            && fs::read_to_string(&path).is_ok_and(|text| text == want)
    };
    assert!(is_right(), "{} is not as it should be to begin with", path.display());
    let beside = path.with_file_name("beside");
    let (at, began) = (now_ms(), Instant::now());
    // By another thread of another process than the agent: this one.
    let done = match random.below(4) {
        0 => fs::write(&path, "mine\n"),
        1 => fs::set_permissions(&path, fs::Permissions::from_mode(0o600)),
        2 => fs::remove_file(&path),
        _ => fs::write(&beside, "other\n").and_then(|()| fs::rename(&beside, &path)),
    };
    done.expect("because the folder is ours");
    until("a repair", is_right);
    let repaired = began.elapsed().as_secs_f64() * 1e3;
    let started = || fleet.status().and_then(|status| status["lastPass"]["started_ms"].as_f64()).unwrap_or(0.0);
    until("the report of the repair", || started() >= at);
    (started() - at, repaired)
}

fn now_ms() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64() * 1e3).floor()
}

/// splitmix64: the same on every machine.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }
}
