//! What it costs to ask every commit for a signature: a host slept through ten thousand commits, all signed, and wakes up.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use gix_hash::ObjectId;
use trimtab_tests::git::{Key, insert, payload};

use crate::fleet::Fleet;
use crate::process::{Cost, measure};
use crate::{median, repeat};

/// How many commits came meanwhile.
const COMMITS: usize = 10_000;

pub(crate) fn rows(runs: usize, binary: &Path, row: &mut impl FnMut(&'static str, f64, &'static str, Option<f64>)) {
    // A key in this process: ssh-keygen would take minutes for so many.
    let key = Key::in_process("many");
    let costs = |count: usize| -> Vec<Cost> {
        repeat(runs.clamp(1, 3), || {
            let fleet = Fleet::new(binary, 10);
            let trust = fleet.root().join("etc/trimtab/trust.toml");
            let text = fs::read_to_string(&trust).expect("because init wrote it");
            let keys = format!("verify = \"all-since-trusted\"\nkeys = [\n  {:?},", key.line());
            fs::write(&trust, text.replace("keys = [", &keys)).expect("because the folder is ours");
            measure(&mut fleet.trimtab("once"), &[2]);
            commits(&fleet, &key, count);
            measure(&mut fleet.trimtab("once"), &[0])
        })
    };
    let (one, many) = (costs(1), costs(COMMITS));
    row("a pass after 1 signed commit, CPU with courier", median(&one, |cost| cost.cpu), "ms", None);
    row("a pass after 10,000, each asked for its signature: CPU with courier", median(&many, |cost| cost.cpu), "ms", Some(2000.0));
    row("a pass after 10,000, each asked for its signature: wall", median(&many, |cost| cost.wall), "ms", None);
}

/// So many signed commits of the same tree, one on the other, pushed.
fn commits(fleet: &Fleet, key: &Key, count: usize) {
    let repo = &fleet.repo;
    let (tree, mut tip) = (repo.resolve("HEAD^{tree}"), repo.head());
    let folder = tempfile::tempdir().expect("because the temporary folder can be written");
    let mut names = String::new();
    for number in 0..count {
        let payload = payload(tree, &[tip], &format!("Commit {number} of many, with a line that says why"));
        let commit = insert(&payload, "gpgsig", &key.sign("git", &payload));
        tip = id_of(&commit);
        let path = folder.path().join(number.to_string());
        fs::write(&path, commit).expect("because the folder is ours");
        writeln!(names, "{}", path.display()).expect("because a String takes everything");
    }
    repo.feed(&["hash-object", "-t", "commit", "-w", "--no-filters", "--stdin-paths"], names.as_bytes());
    repo.git(&["push", "--quiet", "origin", &format!("{tip}:refs/heads/main")]);
}

fn id_of(commit: &[u8]) -> ObjectId {
    let mut hasher = gix_hash::hasher(gix_hash::Kind::Sha1);
    hasher.update(format!("commit {}\0", commit.len()).as_bytes());
    hasher.update(commit);
    hasher.try_finalize().expect("because it is no attack")
}
