//! What release mode costs: a poll, a change, and the proof alone (that one by the same code in this process, so without the release's optimisation).

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use gix_hash::ObjectId;
use nix::sys::resource::UsageWho;
use trimtab::trust::decide::decide;
use trimtab::trust::keys::TrustConfig;
use trimtab::trust::memory::{Memory, Moment};
use trimtab::trust::statement::show_time;
use trimtab::wire::{ObjectError, ObjectKind, ObjectSource};
use trimtab_tests::git::RepoSource;
use trimtab_tests::release::{Hand, Mini, Quick, REPO_ID, RootText, Say};

use crate::fleet::{FILES, Fleet};
use crate::process::{measure, usage};
use crate::{median, poll, repeat};

const DAY: u64 = 86_400;

pub(crate) fn rows(runs: usize, binary: &Path, row: &mut impl FnMut(&'static str, f64, &'static str, Option<f64>)) {
    let (ann, safe) = (Quick::new(1), Mini::new());
    let hands = [Hand::Quick(&ann), Hand::Mini(&safe)];
    let names = ["ann", "safe"];
    let keys: Vec<_> = names.into_iter().zip(hands).collect();
    let root = RootText::new(&keys, &[("root", 2, &names), ("release.production", 2, &names)]);
    let fleet = Fleet::new(binary, FILES);
    let etc = fleet.root().join("etc/trimtab");
    let write = |name: &str, text: String| fs::write(etc.join(name), text).expect("because the folder is ours");
    write("root.toml", root.text());
    write(
        "trust.toml",
        format!(
            "mode = \"release\"\nchannel = \"production\"\nrepo = \"{REPO_ID}\"\nroot = \"{}\"\n",
            etc.join("root.toml").display()
        ),
    );
    root.write(&fleet.repo, &hands);
    fleet.push("The first root");
    let mut seq = 0;
    let mut release = || {
        seq += 1;
        let mut say = Say::of(&fleet.repo, "production", (1, seq));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |passed| passed.as_secs());
        say.times = (show_time(now - 60), show_time(now + 60 * DAY));
        let tag = say.release(&fleet.repo, &hands);
        fleet.repo.git(&["push", "--quiet", "origin", "+refs/trimtab/production"]);
        tag
    };
    let one = release();
    measure(&mut fleet.trimtab("once"), &[2]);

    let (requests, bytes) = poll(&fleet);
    row("release mode: a poll without change, requests", requests, "", Some(1.0));
    row("release mode: a poll without change, bytes with TLS", bytes, "B", Some(3072.0));

    fleet.write(3, 1);
    fleet.push("One file");
    let two = release();
    fleet.server.reset();
    measure(&mut fleet.trimtab("once"), &[2]);
    row("release mode: a release that changes one file, requests", fleet.server.requests() as f64, "", None);
    let bytes = fleet.server.bytes_up() + fleet.server.bytes_down();
    row("release mode: a release that changes one file, bytes with TLS", bytes as f64, "B", None);

    let still = repeat(runs, || measure(&mut fleet.trimtab("once"), &[0]));
    // Another statement about the same commit is fetched, proven and remembered; nothing is rendered for it.
    let proven = repeat(runs, || {
        release();
        measure(&mut fleet.trimtab("once"), &[0])
    });
    let more = median(&proven, |cost| cost.cpu) - median(&still, |cost| cost.cpu);
    row("release mode: fetching and proving a release of two signatures, CPU with courier", more, "ms", None);
    row(
        "release mode: proving a release of two signatures, CPU",
        proof(&fleet, (one, two), runs * 20, &root.text()),
        "ms",
        Some(5.0),
    );
}

/// Milliseconds of processor time for one decision about a release that is new to a host which has the one before.
fn proof(fleet: &Fleet, (one, two): (ObjectId, ObjectId), times: usize, root: &str) -> f64 {
    let text = format!("mode = \"release\"\nchannel = \"production\"\nrepo = \"{REPO_ID}\"\nroot = \"root.toml\"\n");
    let trust = TrustConfig::parse("trust.toml", &text).expect("because a host took the same");
    let trust = trust.with_root("root.toml", root).expect("because a host took the same");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |passed| passed.as_secs());
    let moment = Moment { clock: now, synchronised: true };
    let mut source = Kept { honest: fleet.repo.source(), known: BTreeMap::new() };
    let mut judge = |tag: ObjectId, memory: &Memory| decide(tag, None, &mut source, &trust, memory, moment);
    let first = judge(one, &Memory::default()).memory.expect("because a host took it");
    judge(two, &first);
    let before = usage(UsageWho::RUSAGE_SELF);
    for _ in 0..times {
        let judged = judge(two, &first);
        assert_eq!(judged.verdict.code(), "accepted");
    }
    usage(UsageWho::RUSAGE_SELF).saturating_sub(before).as_secs_f64() * 1e3 / times as f64
}

/// A source that asks another one once for each object.
struct Kept {
    honest: RepoSource,
    known: BTreeMap<ObjectId, Vec<u8>>,
}

impl ObjectSource for Kept {
    fn objects(&mut self, kind: ObjectKind, ids: &[ObjectId], limit: u64) -> Result<Vec<Vec<u8>>, ObjectError> {
        for id in ids {
            if !self.known.contains_key(id) {
                self.known.insert(*id, self.honest.objects(kind, &[*id], limit)?.remove(0));
            }
        }
        Ok(ids.iter().map(|id| self.known[id].clone()).collect())
    }
}
