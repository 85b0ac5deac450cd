//! The plug is pulled at every moment of a pass, and the disk is looked at: what the disk was told to keep is kept, of the rest anything.
//!
//! A pass of the real program runs on ext4, on a loop device, on a disk of our own ([`recorder`]) that writes down every write and flush.
//! Then that log is cut at each of its events ([`disk::cuts`]); each disk that such a cut can leave is mounted and judged ([`judge`]):
//! each file is old or new and whole, documents and the contents that they name are whole, nothing of the operator's is lost, the next
//! pass converges and the one after that is empty, and what was reported before the cut is all there. A host in release mode is held to what it
//! accepted, in both places, before anything else of it is new.
//!
//! A sample of the cuts is looked at in every run; all of them with `TRIMTAB_SWEEP=all`. It needs root, `/dev/fuse`, loop devices and
//! `mkfs.ext4`; without root it is left out as the lab is (`TRIMTAB_LAB=skip`).
//!
//! Limits: ext4 only; a sandbox, so files and no units; sectors of 4 KiB that are written whole or not at all; a disk that lies about its
//! flushes is not played.

mod disk;
mod fleet;
mod judge;
mod mounts;
mod recorder;
mod run;
mod sweep;
mod tree;

use sweep::{Case, Story, sweep};

/// As most machines have it.
const ORDERED: &str = "";
/// Nothing of the file system's own mends a sync that was forgotten: neither order between data and names, nor a flush at a rename.
const STRICT: &str = "data=writeback,noauto_da_alloc";

#[test]
fn the_first_pass_on_a_machine() {
    sweep(&Case {
        name: "first",
        story: Story::First,
        options: ORDERED,
        many: 0,
        fetched: false,
        released: false,
        disturbed: false,
        seed: 1,
    });
}

#[test]
fn a_new_revision() {
    sweep(&Case {
        name: "change",
        story: Story::Change,
        options: ORDERED,
        many: 0,
        fetched: false,
        released: false,
        disturbed: false,
        seed: 2,
    });
}

#[test]
fn a_new_revision_on_a_busy_machine() {
    sweep(&Case {
        name: "busy",
        story: Story::Change,
        options: STRICT,
        many: 0,
        fetched: false,
        released: false,
        disturbed: true,
        seed: 3,
    });
}

#[test]
fn a_new_revision_of_many_files_on_a_busy_machine() {
    sweep(&Case {
        name: "many",
        story: Story::Change,
        options: STRICT,
        many: 40,
        fetched: false,
        released: false,
        disturbed: true,
        seed: 4,
    });
}

#[test]
fn the_first_pass_on_a_busy_machine() {
    sweep(&Case {
        name: "first-busy",
        story: Story::First,
        options: STRICT,
        many: 0,
        fetched: false,
        released: false,
        disturbed: true,
        seed: 5,
    });
}

#[test]
fn a_pass_after_one_that_was_killed() {
    sweep(&Case {
        name: "killed",
        story: Story::Killed,
        options: STRICT,
        many: 0,
        fetched: false,
        released: false,
        disturbed: true,
        seed: 6,
    });
}

#[test]
fn a_release_that_is_fetched_and_brings_the_next_root() {
    sweep(&Case {
        name: "released",
        story: Story::Change,
        options: STRICT,
        many: 0,
        fetched: true,
        released: true,
        disturbed: true,
        seed: 7,
    });
}
