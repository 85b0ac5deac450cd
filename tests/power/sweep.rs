//! One sweep: a pass is recorded, cut at each point, and each cut is judged.

use std::collections::HashSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::stat::{Mode, umask};

use crate::disk::{Cut, Dice, Event, Image, cuts};
use crate::fleet::{DRIFT, Fleet, ORIGINALS};
use crate::judge::{Judge, Known};
use crate::mounts::{Mounted, apart};
use crate::recorder::Recorder;
use crate::run::{disturbed_pass, pass};
use crate::tree::{self, Tree};

const SIZE: u64 = 32 << 20;
/// Random parts of what was not flushed, for each flush.
const RANDOM: usize = 6;
/// So many disks are judged in an ordinary run.
const SAMPLE: usize = 20;
/// So often a pass is killed, each time somewhere else, when all is swept.
const KILLS: usize = 8;
/// A pass on a busy machine has at least so many stops.
const LIVES: usize = 250;
/// More failures than these say nothing new.
const ENOUGH: usize = 5;

/// What happens while the plug is pulled.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Story {
    /// trimtab comes to a machine.
    First,
    /// A new revision, and drift, on a machine that is managed.
    Change,
    /// As [`Story::Change`], but a pass before it was killed in the middle.
    Killed,
}

/// What is swept.
pub(crate) struct Case {
    /// For messages.
    pub(crate) name: &'static str,
    /// What happens.
    pub(crate) story: Story,
    /// How ext4 is mounted.
    pub(crate) options: &'static str,
    /// So many files more than the few of each kind.
    pub(crate) many: usize,
    /// The repository is fetched from a server, not read where it lies.
    pub(crate) fetched: bool,
    /// The host follows releases, and the new revision is one, with a new root in it.
    pub(crate) released: bool,
    /// The journal is committed in the middle of everything.
    pub(crate) disturbed: bool,
    /// Of chance.
    pub(crate) seed: u64,
}

/// A recorded pass.
struct Recording {
    base: Image,
    log: Vec<Event>,
    /// The event with which the pass had ended and told its success.
    reported: usize,
    old: Tree,
    new: Tree,
    /// The passes after the cut ask it again.
    fleet: Fleet,
}

/// Where a sweep works: memory of its own, gone with it.
struct Bench {
    memory: Mounted,
    // Dropped after what is mounted on it.
    _folder: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        apart();
        // As the agent's unit has it.
        umask(Mode::from_bits_truncate(0o077));
        let folder = tempfile::tempdir().expect("because the temporary folder can be written");
        let bench = Self { memory: Mounted::memory(folder.path()), _folder: folder };
        for name in ["disk", "root"] {
            fs::create_dir(bench.at(name)).expect("because the folder is ours");
        }
        bench
    }

    fn at(&self, name: &str) -> PathBuf {
        self.memory.path().join(name)
    }

    /// A machine's disk with an empty file system.
    fn format(&self) -> PathBuf {
        let file = self.at("base");
        File::create(&file).and_then(|file| file.set_len(SIZE)).expect("because the folder is ours");
        let options = ["-q", "-F", "-b", "4096", "-E", "lazy_itable_init=0,lazy_journal_init=0"];
        let output = Command::new("mkfs.ext4").args(options).arg(&file).output().expect("because e2fsprogs is there");
        assert!(output.status.success(), "mkfs.ext4: {}", String::from_utf8_lossy(&output.stderr));
        file
    }

    /// A disk with the machine on it, and with `/run` in memory as machines have it.
    fn boot(&self, disk: &Path, options: &str) -> Result<(Mounted, Mounted), String> {
        let root = self.at("root");
        let mounted = Mounted::disk(disk, &root, options)?;
        // In this order, for a tuple is dropped from the first to the last.
        Ok((Mounted::memory(&root.join("run")), mounted))
    }

    /// The disk before the pass that is recorded.
    fn prepare(&self, case: &Case, fleet: &Fleet) -> Image {
        let disk = self.format();
        let mounted = Mounted::disk(&disk, &self.at("root"), "").expect("because it was just made");
        fleet.furnish(&self.at("root"));
        mounted.unmount();
        if case.story != Story::First {
            let (run, mounted) = self.boot(&disk, "").expect("because it was just made");
            let ended = pass(&self.at("root"));
            assert_eq!(ended.outcome, "converged", "{}", ended.said);
            Fleet::tamper(&self.at("root"));
            run.unmount();
            mounted.unmount();
        }
        let image = Image::load(&disk).expect("because it was just made");
        fs::remove_file(disk).expect("because it is ours");
        image
    }

    fn record(&self, case: &Case, dice: &mut Dice) -> Recording {
        let fleet = Fleet::new(case.many, case.fetched, case.released);
        let base = self.prepare(case, &fleet);
        fleet.renew();
        let root = self.at("root");
        let recorder = Recorder::mount(base.clone(), &self.at("disk")).expect("because root may mount a file system of its own");
        let (run, mounted) = self.boot(&recorder.file(), case.options).expect("because the disk is sound");
        let old = tree::visible(&tree::read(&root).expect("because the disk is sound"));
        if case.story == Story::Killed {
            let lives = Some(dice.below(LIVES));
            // `Some`: it was quicker than usual. Then there is nothing to go on with, and the next pass finds that.
            disturbed_pass(&root, self.memory.path(), lives, dice);
        }
        let ended = if case.disturbed {
            disturbed_pass(&root, self.memory.path(), None, dice).expect("because nobody killed it")
        } else {
            pass(&root)
        };
        let reported = recorder.mark();
        let fine = ended.outcome == "converged" || case.story == Story::Killed && ended.outcome == "unchanged";
        assert!(fine, "{}", ended.said);
        let new = tree::visible(&tree::read(&root).expect("because the disk is sound"));
        run.unmount();
        mounted.unmount();
        Recording { base, log: recorder.log(), reported, old, new, fleet }
    }

    /// `None`: it is as it must be.
    fn look(&self, cut: &Cut<'_>, case: &Case, judge: &Judge<'_>, known: &mut Known, reported: usize) -> Option<String> {
        let disk = self.at("cut");
        cut.image.store(&disk).expect("because there is memory");
        let judged = self.look_at(&disk, case, judge, known, cut.at >= reported);
        fs::remove_file(disk).expect("because it is ours");
        judged.err()
    }

    fn look_at(&self, disk: &Path, case: &Case, judge: &Judge<'_>, known: &mut Known, reported: bool) -> Result<(), String> {
        let root = self.at("root");
        let mounted = Mounted::disk(disk, &root, case.options).map_err(|why| format!("it cannot be mounted: {why}"))?;
        let judged = judge.look(&root, reported, known).and_then(|go_on| {
            if !go_on {
                return Ok(());
            }
            let run = Mounted::memory(&root.join("run"));
            let judged = judge.go_on(&root, reported);
            drop(run);
            judged
        });
        drop(mounted);
        judged
    }
}

/// Records a pass and judges what its cuts leave: all of them with `TRIMTAB_SWEEP=all`, else a sample.
pub(crate) fn sweep(case: &Case) {
    if !open() {
        return;
    }
    let bench = Bench::new();
    let all = std::env::var_os("TRIMTAB_SWEEP").is_some_and(|value| value == "all");
    let mut dice = Dice(case.seed);
    let rounds = if case.story == Story::Killed && all { KILLS } else { 1 };
    let (mut told, mut failures) = (String::new(), Vec::new());
    for round in 0..rounds {
        let recording = bench.record(case, &mut dice);
        let swept = bench.sweep(case, &recording, dice.below(usize::MAX) as u64, !all);
        told.push_str(&format!("{}, round {round}: {}\n", case.name, swept.told));
        failures.extend(swept.failures);
    }
    println!("{told}{} failures", failures.len());
    let shown = failures.iter().take(ENOUGH).cloned().collect::<Vec<_>>().join("\n  ");
    assert!(failures.is_empty(), "{told}{} were not as they must be:\n  {shown}", failures.len());
}

/// What came of one recording.
struct Swept {
    told: String,
    failures: Vec<String>,
}

impl Bench {
    fn sweep(&self, case: &Case, recording: &Recording, seed: u64, sample: bool) -> Swept {
        let Recording { log, reported, old, new, fleet, .. } = recording;
        let treasures: Vec<(&str, &str)> = match case.story {
            Story::First => ORIGINALS.to_vec(),
            Story::Change | Story::Killed => ORIGINALS.into_iter().chain(DRIFT).collect(),
        };
        let judge = Judge { old, new, treasures: &treasures, revision: &fleet.head(), released: case.released };
        // Twice the same walk: the disks of a whole sweep are too many to be held at once.
        let mut disks = 0;
        each(recording, seed, &mut |_| disks += 1);
        let (mut left, mut of, mut dice) = (if sample { SAMPLE.min(disks) } else { disks }, disks, Dice(seed));
        let judged = left;
        let (mut known, mut failures) = (Known::default(), Vec::new());
        each(recording, seed, &mut |cut| {
            // Each of the rest has the same chance, and exactly as many as are wanted are taken.
            let chosen = dice.below(of) < left;
            of -= 1;
            if !chosen {
                return;
            }
            left -= 1;
            if let Some(why) = self.look(cut, case, &judge, &mut known, *reported) {
                failures.push(format!("{}: {why}", cut.what));
                if failures.len() == 1 {
                    keep(case.name, cut.image);
                }
            }
        });
        let flushes = log.iter().filter(|event| matches!(event, Event::Flush)).count();
        let told = format!(
            "{} points with {flushes} flushes, {reported} before the report; {judged} of {disks} disks mounted and judged, {} gone on from",
            log.len() + 1,
            known.count()
        );
        Swept { told, failures }
    }
}

/// Every different disk that a cut of the recording can leave.
fn each(recording: &Recording, seed: u64, take: &mut dyn FnMut(&Cut<'_>)) {
    let mut known = HashSet::new();
    cuts(&recording.base, &recording.log, RANDOM, &mut Dice(seed), &mut |cut| {
        if known.insert((cut.image.key(), cut.at >= recording.reported)) {
            take(cut);
        }
    });
}

/// The first disk that is not as it must be stays for a person to mount.
fn keep(name: &str, image: &Image) {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("power-{name}.img"));
    if image.store(&path).is_ok() {
        println!("the disk is in {}", path.display());
    }
}

/// Whether the sweep may be made: it is left out with the lab.
fn open() -> bool {
    if std::env::var_os("TRIMTAB_LAB").is_some_and(|value| value == "skip") {
        return false;
    }
    let mut missing = Vec::new();
    if !nix::unistd::geteuid().is_root() {
        missing.push("root");
    }
    missing.extend(["/dev/fuse", "/dev/loop-control"].into_iter().filter(|path| !Path::new(path).exists()));
    missing.extend(["mkfs.ext4", "mount"].into_iter().filter(|tool| Command::new(tool).arg("-V").output().is_err()));
    assert!(
        missing.is_empty(),
        "no disk can be played here, it needs {}. `sudo tests/run` brings the packages; TRIMTAB_LAB=skip leaves these tests out.",
        missing.join(", ")
    );
    true
}
