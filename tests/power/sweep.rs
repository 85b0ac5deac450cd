//! One sweep: a pass is recorded, cut at each point, and each cut is judged.

use std::collections::HashSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use trimtab_tests::lab;

use crate::disk::{Cut, Dice, Event, Image, cuts};
use crate::fleet::{DRIFT, Fleet, ORIGINALS};
use crate::judge::Judge;
use crate::mounts::{Mounted, apart};
use crate::recorder::Recorder;
use crate::run::{disturbed_pass, pass};
use crate::tree::{self, Tree};

const SIZE: u64 = 64 << 20;
/// Random parts of what was not flushed, for each flush.
const RANDOM: usize = 6;
/// So many disks are judged in an ordinary run.
const SAMPLE: usize = 40;
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
    folder: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        apart();
        let folder = tempfile::tempdir().expect("because the temporary folder can be written");
        let bench = Self { memory: Mounted::memory(folder.path()), folder };
        for name in ["disk", "root"] {
            fs::create_dir(bench.at(name)).expect("because the folder is ours");
        }
        bench
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
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
        let fleet = Fleet::new(case.many);
        let base = self.prepare(case, &fleet);
        fleet.renew();
        let root = self.at("root");
        let recorder = Recorder::mount(base.clone(), &self.at("disk")).expect("because root may mount a file system of its own");
        let (run, mounted) = self.boot(&recorder.file(), case.options).expect("because the disk is sound");
        let old = tree::visible(&tree::read(&root).expect("because the disk is sound"));
        let mut again = |lives| disturbed_pass(&root, self.folder.path(), lives, dice);
        if case.story == Story::Killed {
            for lives in [40, 80, 160] {
                assert!(again(Some(lives)).is_none(), "a pass has more than {lives} stops");
            }
        }
        let ended = if case.disturbed { again(None).expect("because nobody killed it") } else { pass(&root) };
        let reported = recorder.mark();
        assert_eq!(ended.outcome, "converged", "{}", ended.said);
        let new = tree::visible(&tree::read(&root).expect("because the disk is sound"));
        run.unmount();
        mounted.unmount();
        Recording { base, log: recorder.log(), reported, old, new, fleet }
    }

    /// `None`: it is as it must be.
    fn look(&self, cut: &Cut, case: &Case, judge: &Judge<'_>, reported: usize) -> Option<String> {
        let disk = self.at("cut");
        cut.image.store(&disk).expect("because there is memory");
        let judged = self.boot(&disk, case.options).map_err(|why| format!("it cannot be mounted: {why}")).and_then(|booted| {
            let judged = judge.judge(&self.at("root"), cut.at >= reported);
            drop(booted);
            judged
        });
        fs::remove_file(disk).expect("because it is ours");
        judged.err()
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
    let recording = bench.record(case, &mut dice);
    let Recording { base, log, reported, old, new, fleet } = &recording;
    let treasures: Vec<(&str, &str)> = match case.story {
        Story::First => ORIGINALS.to_vec(),
        Story::Change | Story::Killed => ORIGINALS.into_iter().chain(DRIFT).collect(),
    };
    let judge = Judge { old, new, treasures: &treasures, revision: &fleet.head() };
    let points = log.len() + 1;
    let flushes = log.iter().filter(|event| matches!(event, Event::Flush)).count();
    let (mut known, mut chosen) = (HashSet::new(), Vec::new());
    cuts(base, log, RANDOM, &mut dice, &mut |cut| {
        if known.insert((cut.image.key(), cut.at >= *reported)) {
            chosen.push(cut);
        }
    });
    let disks = chosen.len();
    if !all {
        chosen = sample(chosen, &mut dice);
    }
    let judged = chosen.len();
    let mut failures = Vec::new();
    for cut in &chosen {
        if let Some(why) = bench.look(cut, case, &judge, *reported) {
            failures.push(format!("{}: {why}", cut.what));
            if failures.len() == 1 {
                keep(case.name, &cut.image);
            }
        }
    }
    let told = format!("{}: {points} points, {flushes} flushes, {reported} before the report; {judged} of {disks} disks judged", case.name);
    println!("{told}, {} failures", failures.len());
    let shown = failures.iter().take(ENOUGH).cloned().collect::<Vec<_>>().join("\n  ");
    assert!(failures.is_empty(), "{told}; {} were not as they must be:\n  {shown}", failures.len());
}

/// As many as an ordinary run looks at, from all over the pass.
fn sample(all: Vec<Cut>, dice: &mut Dice) -> Vec<Cut> {
    let mut left = SAMPLE.min(all.len());
    let mut of = all.len();
    let mut chosen = Vec::new();
    for cut in all {
        // Each of the rest has the same chance, and exactly as many as are wanted are taken.
        if dice.below(of) < left {
            chosen.push(cut);
            left -= 1;
        }
        of -= 1;
    }
    chosen
}

/// The first disk that is not as it must be stays for a person to mount.
fn keep(name: &str, image: &Image) {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("power-{name}.img"));
    if image.store(&path).is_ok() {
        println!("the disk is in {}", path.display());
    }
}

fn open() -> bool {
    if std::env::var_os("TRIMTAB_LAB").is_some_and(|value| value == "skip") {
        return false;
    }
    lab::cache(); // placeholder
    true
}
