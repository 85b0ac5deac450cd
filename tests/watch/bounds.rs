//! What it costs when somebody makes trouble: bounds on watches, lost events, storms and busy neighbours.

use std::fmt::Write as _;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use crate::{Scene, each_way};

#[test]
fn no_more_is_watched_than_allowed_and_the_rest_is_counted() {
    each_way(|way| {
        let make: String = (0..10).fold(String::new(), |mut text, number| {
            let _ = write!(text, "mkdir -p d{number}; echo x > d{number}/a;");
            text
        });
        let paths: Vec<String> = (0..10).map(|number| format!("/d{number}/a")).collect();
        let mut scene = Scene::new(way, &make, &paths.iter().map(String::as_str).collect::<Vec<_>>(), &[]);
        let status = scene.watch.status();
        assert_eq!((status.watched, status.unwatched), (10, 0));
        // The root and three more.
        scene.most = 4;
        scene.arm();
        let status = scene.watch.status();
        assert_eq!((status.watched, status.unwatched), (3, 7));
        scene.ignores("echo y > d7/a");
        assert_eq!(scene.sees("echo y > d1/a"), ["file /d1/a"]);
    });
}

/// A command that goes on until this is dropped.
struct Busy(Child);

impl Busy {
    fn new(scene: &Scene, command: &str) -> Self {
        Self(Command::new("sh").args(["-c", command]).current_dir(scene.folder.path()).spawn().unwrap())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// How often the thread that reads events has woken up.
fn wakes() -> u64 {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    let of = |task: std::fs::DirEntry| {
        let read = |name: &str| std::fs::read_to_string(task.path().join(name)).unwrap_or_default();
        let status = read("status");
        let count = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        if read("comm").trim() == "watch" { count.and_then(|count| count.trim().parse().ok()).unwrap_or(0) } else { 0 }
    };
    tasks.map(of).sum()
}

#[test]
fn a_busy_neighbour_costs_a_few_wake_ups_and_hides_nothing() {
    each_way(|way| {
        let mut scene = Scene::new(way, "mkdir -p log; echo a > log/a", &["/log/a"], &[]);
        let _busy = Busy::new(&scene, "while :; do echo line; done >> log/busy");
        std::thread::sleep(Duration::from_millis(500));
        let before = wakes();
        std::thread::sleep(Duration::from_secs(1));
        let woken = wakes() - before;
        assert!(woken < 60, "{woken} wake-ups in a second");
        let began = Instant::now();
        assert_eq!(scene.sees("echo mine > log/a"), ["file /log/a"]);
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    });
}

#[test]
fn a_storm_is_looked_at_ever_more_seldom() {
    each_way(|way| {
        let mut scene = Scene::new(way, "echo a > a; echo b > b", &["/a", "/b"], &[]);
        let _busy = Busy::new(&scene, "while :; do echo line > a; done");
        let (began, mut looks) = (Instant::now(), 0);
        while began.elapsed() < Duration::from_secs(5) {
            looks += u32::from(!scene.seen().is_empty());
        }
        assert!((3..=7).contains(&looks), "{looks} looks in five seconds");
        // What is new is not held up by it.
        let began = Instant::now();
        let seen = scene.after("echo mine > b").sightings;
        assert!(seen.iter().any(|sighting| sighting.resource == "file /b"), "{seen:?}");
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    });
}
