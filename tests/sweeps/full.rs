//! Disks that fill up, run out of inodes or turn read-only, before the pass or in the middle of it: real file systems of the test's own, in
//! mounts that only its own threads see.
//!
//! A tmpfs can be given another size at any time, so that "N bytes are left" costs one system call. Needs root.

use std::fmt;
use std::fs;
use std::path::Path;
use std::process::Command;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::statvfs::statvfs;
use trimtab_tests::sweep::{pick, sweep};
use trimtab_tests::trace::Verdict;

use crate::faults::{Hurt, ended_well};
use crate::kill::places;
use crate::scene::{Host, Scene};

/// tmpfs gives out whole pages.
const PAGE: u64 = 4096;
/// Room for everything.
const PLENTY: Left = Left { bytes: 64 << 20, inodes: 10_000 };

/// What is left on a disk.
#[derive(Debug, Clone, Copy)]
struct Left {
    bytes: u64,
    inodes: u64,
}

impl fmt::Display for Left {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes and {} inodes left", self.bytes, self.inodes)
    }
}

/// A file system that is this thread's alone, and of the programs that it starts.
struct Disk {
    folder: tempfile::TempDir,
}

impl Disk {
    fn new() -> Self {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
        let folder = tempfile::tempdir().unwrap();
        memory(folder.path());
        Self { folder }
    }

    /// Leaves this much from now on.
    fn leave(&self, left: Left) {
        let stat = statvfs(self.folder.path()).unwrap();
        let used = (stat.blocks() - stat.blocks_free()) * stat.fragment_size();
        let files = stat.files() - stat.files_free();
        let size = format!("size={},nr_inodes={}", used + left.bytes, files + left.inodes);
        mount(None::<&str>, self.folder.path(), None::<&str>, MsFlags::MS_REMOUNT, Some(size.as_str())).unwrap();
    }

    /// False while somebody writes to it.
    fn read_only(&self, read_only: bool) -> bool {
        let flags = if read_only { MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY } else { MsFlags::MS_REMOUNT };
        mount(None::<&str>, self.folder.path(), None::<&str>, flags, None::<&str>).is_ok()
    }

    fn host(&self, scene: &Scene) -> Host {
        scene.copy_to(&self.folder.path().join("root"))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = umount2(self.folder.path(), MntFlags::MNT_DETACH);
    }
}

fn memory(on: &Path) {
    mount(Some("sweep"), on, Some("tmpfs"), MsFlags::empty(), Some("mode=755,size=64m")).unwrap();
}

fn may_mount() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("skipped: mounting needs root");
    }
    root
}

/// After the pass on a bad disk: it told, nothing is half, and with a good disk the work is finished.
fn check(
    scene: &Scene,
    host: &Host,
    advice: &[&str],
    hurt: &Hurt,
    ended: (trimtab_tests::trace::End, crate::scene::Ran),
    mend: impl FnOnce(),
) -> Result<(), String> {
    let (end, ran) = ended;
    hurt.count(&ran);
    ended_well(end, &ran)?;
    let said = format!("{}{}", ran.out, ran.err);
    if ran.is_bad() && !advice.iter().any(|advice| said.contains(advice)) {
        return Err(format!("it says nothing of what to do: {ran}"));
    }
    scene.is_whole(host, true)?;
    mend();
    scene.recovers(host)
}

const FULL: [&str; 2] = ["free some space", "df -h"];

/// Little from the start: pages, then inodes.
fn little(pages: u64) -> Vec<Left> {
    let by_bytes = (0..=pages).map(|pages| Left { bytes: pages * PAGE, ..PLENTY });
    let by_inodes = (0..=80).map(|inodes| Left { inodes, ..PLENTY });
    by_bytes.chain(by_inodes).collect()
}

#[test]
fn a_disk_with_little_left_takes_the_change_or_nothing_of_it_and_the_next_pass_finishes() {
    if !may_mount() {
        return;
    }
    let scene = Scene::new();
    // Beyond the agent's reserve of 4 MiB, in steps of a page near both ends.
    let mut cases = little(40);
    cases.extend((1..=64).map(|step| Left { bytes: step * (80 << 10), ..PLENTY }));
    let hurt = Hurt::default();
    sweep("disk full, all on one", &pick(cases, 12), |left| {
        let disk = Disk::new();
        let host = disk.host(&scene);
        disk.leave(*left);
        let ended = host.traced(|_, _| Verdict::Go);
        check(&scene, &host, &FULL, &hurt, ended, || disk.leave(PLENTY))
    });
    hurt.assert_some();
}

#[test]
fn targets_with_little_left_beside_a_state_with_plenty() {
    if !may_mount() {
        return;
    }
    let scene = Scene::new();
    let hurt = Hurt::default();
    sweep("disk full, targets alone", &pick(little(130), 12), |left| {
        let disk = Disk::new();
        let host = disk.host(&scene);
        let state = host.root.join("var/lib/trimtab");
        memory(&state);
        fs::set_permissions(&state, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        let below = scene.base().join("var/lib/trimtab/.");
        assert!(Command::new("cp").arg("-a").arg(below).arg(&state).status().unwrap().success());
        disk.leave(*left);
        let ended = host.traced(|_, _| Verdict::Go);
        let checked = check(&scene, &host, &FULL, &hurt, ended, || disk.leave(PLENTY));
        let _ = umount2(&state, MntFlags::MNT_DETACH);
        checked
    });
    hurt.assert_some();
}

/// A disk that goes bad at a place.
struct Between {
    place: usize,
    /// `None`: it turns read-only.
    left: Option<Left>,
}

impl fmt::Display for Between {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.left {
            Some(left) => write!(f, "from {} on {left}", self.place),
            None => write!(f, "from {} on read-only", self.place),
        }
    }
}

#[test]
fn a_disk_that_fills_up_or_turns_read_only_in_the_middle_of_a_pass() {
    if !may_mount() {
        return;
    }
    let scene = Scene::new();
    let total = places(&scene).len();
    let lefts = [0, 1, 2, 4, 26].map(|pages| Left { bytes: pages * PAGE, ..PLENTY });
    let lefts = lefts.into_iter().chain([0, 1, 3].map(|inodes| Left { inodes, ..PLENTY }));
    let hows: Vec<Option<Left>> = lefts.map(Some).chain([None]).collect();
    let cases = (1..=total).flat_map(|place| hows.iter().map(move |left| Between { place, left: *left })).collect();
    let hurt = Hurt::default();
    sweep("disk full or read-only in between", &pick(cases, 20), |between| {
        let disk = Disk::new();
        let host = disk.host(&scene);
        let mut bad = false;
        let ended = host.traced(|place, _| {
            if place >= between.place && !bad {
                bad = match between.left {
                    Some(left) => {
                        disk.leave(left);
                        true
                    }
                    None => disk.read_only(true),
                };
            }
            Verdict::Go
        });
        let advice = if between.left.is_some() { &FULL[..] } else { &["read-only", "Read-only"] };
        check(&scene, &host, advice, &hurt, ended, || {
            assert!(disk.read_only(false));
            disk.leave(PLENTY);
        })
    });
    hurt.assert_some();
}
