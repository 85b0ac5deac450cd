//! What changed in a machine between two looks, told by the file system and systemd and not by trimtab.

use std::collections::BTreeMap;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::Machine;

/// The state of files and units at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watched(BTreeMap<String, String>);

impl Watched {
    /// Looks at `paths` (with all below them) and `units` (each run of a unit has its own invocation id).
    ///
    /// A write that leaves the same bytes shows in the inode, the times or both; a restart in the invocation id.
    #[must_use]
    #[track_caller]
    pub fn new(machine: &Machine, paths: &[&str], units: &[&str]) -> Self {
        let mut state = BTreeMap::new();
        if !paths.is_empty() {
            let each = "%p\\tinode=%i mtime=%T@ ctime=%C@ mode=%m owner=%U:%G size=%s link=%l\\n";
            let found = machine.sh(&format!("find {} -printf '{each}'", paths.join(" ")));
            let lines = found.lines().filter_map(|line| line.split_once('\t'));
            state.extend(lines.map(|(path, rest)| (path.to_owned(), rest.to_owned())));
        }
        for unit in units {
            let what = "-p ActiveState -p InvocationID -p MainPID -p NRestarts -p StateChangeTimestampMonotonic";
            state.insert((*unit).to_owned(), machine.sh(&format!("systemctl show {what} {unit}")).replace('\n', " "));
        }
        Self(state)
    }

    /// The names of what differs from a later look, each path and unit once.
    #[must_use]
    pub fn changes(&self, later: &Self) -> Vec<String> {
        let all: std::collections::BTreeSet<_> = self.0.keys().chain(later.0.keys()).collect();
        all.into_iter().filter(|name| self.0.get(*name) != later.0.get(*name)).cloned().collect()
    }

    /// Fails when anything differs, and says how.
    #[track_caller]
    pub fn assert_same(&self, later: &Self) {
        let told = |name: &String| format!("{name}\n  was {:?}\n  is  {:?}", self.0.get(name), later.0.get(name));
        let told: Vec<_> = self.changes(later).iter().map(told).collect();
        assert!(told.is_empty(), "this changed:\n{}", told.join("\n"));
    }
}

/// Waits until `condition` holds.
///
/// # Panics
/// When it does not within `seconds`.
#[track_caller]
pub fn eventually(what: &str, seconds: u64, mut condition: impl FnMut() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < Duration::from_secs(seconds), "not within {seconds} s: {what}");
        sleep(Duration::from_millis(100));
    }
}
