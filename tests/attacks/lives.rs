//! Whole lives of a host, at random: releases, rotations, replays, thieves with too few keys, clocks that jump, memories that are lost, sources that hide roots.
//!
//! Whatever happens in whatever order: epoch and sequence never go down while the host remembers, the root neither; nothing counts that fewer than the
//! threshold signed; a refusal leaves what was accepted as it was; and an honest release is taken. Keys sign in this process, so that a life is short.

use std::collections::{BTreeSet, HashMap};

use gix_hash::ObjectId;
use proptest::prelude::*;
use trimtab::trust::decide::decide;
use trimtab::trust::keys::TrustConfig;
use trimtab::trust::memory::{Memory, Moment};
use trimtab::trust::statement::show_time;
use trimtab::wire::{ObjectError, ObjectKind, ObjectSource};
use trimtab_tests::git::IDENTITY;
use trimtab_tests::release::{Hand, Quick, REPO_ID, RootText, Say};

use super::NOW;

const NAMES: [&str; 5] = ["k0", "k1", "k2", "k3", "k4"];
const DAY: u64 = 86_400;
const FLOOR: (u64, u64) = (1, 3);

/// Objects in memory.
#[derive(Default)]
struct Objects(HashMap<ObjectId, (ObjectKind, Vec<u8>)>);

impl Objects {
    fn put(&mut self, kind: ObjectKind, bytes: Vec<u8>) -> ObjectId {
        let mut hasher = gix_hash::hasher(gix_hash::Kind::Sha1);
        hasher.update(format!("{} {}\0", format!("{kind:?}").to_lowercase(), bytes.len()).as_bytes());
        hasher.update(&bytes);
        let id = hasher.try_finalize().unwrap();
        self.0.insert(id, (kind, bytes));
        id
    }

    fn tree(&mut self, entries: &[(&str, String, ObjectId)]) -> ObjectId {
        let mut entries = entries.to_vec();
        entries.sort_by(|one, other| one.1.cmp(&other.1));
        let bytes =
            entries.iter().flat_map(|(mode, name, id)| [mode.as_bytes(), b" ", name.as_bytes(), b"\0", id.as_slice()].concat());
        self.put(ObjectKind::Tree, bytes.collect())
    }

    /// A commit whose tree holds these roots: text and signatures by version.
    fn commit(&mut self, roots: &[(u64, String, Vec<u8>)]) -> (ObjectId, ObjectId) {
        let mut files = Vec::new();
        for (version, text, signatures) in roots {
            files.push(("100644", format!("{version}.toml"), self.put(ObjectKind::Blob, text.clone().into_bytes())));
            files.push(("100644", format!("{version}.sig"), self.put(ObjectKind::Blob, signatures.clone())));
        }
        let folder = self.tree(&files);
        let above = self.tree(&[("40000", "root".to_owned(), folder)]);
        let tree = self.tree(&[("40000", ".trimtab".to_owned(), above)]);
        let text = format!("tree {tree}\nauthor {IDENTITY}\ncommitter {IDENTITY}\n\nx\n");
        (self.put(ObjectKind::Commit, text.into_bytes()), tree)
    }
}

impl ObjectSource for Objects {
    fn objects(&mut self, kind: ObjectKind, ids: &[ObjectId], _: u64) -> Result<Vec<Vec<u8>>, ObjectError> {
        let one = |id: &ObjectId| match self.0.get(id) {
            Some((found, bytes)) if *found == kind => Ok(bytes.clone()),
            _ => Err(ObjectError::Missing { kind, id: *id }),
        };
        ids.iter().map(one).collect()
    }
}

/// What happens next.
#[derive(Debug, Clone)]
enum Event {
    /// A statement is signed by some keys and served, over a tree that shows so many of the genuine roots.
    Release { by: u8, ahead: u64, epoch_off: u64, hidden: usize },
    /// An honest release: by all keys of the newest root, with the next number.
    Honest,
    /// A release of before is served again.
    Replay(prop::sample::Index),
    /// The next root names these keys; some sign it. Genuine when it should be taken.
    Rotate { keys: u8, raise: bool, by: u8 },
    /// Days pass, or the clock jumps; something keeps it or not.
    Clock { days: u64, back: bool, synchronised: bool },
    /// Both copies of the memory are gone.
    Lost,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        3 => (any::<u8>(), 0u64..4, 0u64..3, 0usize..3).prop_map(|(by, ahead, epoch_off, hidden)| Event::Release { by, ahead, epoch_off, hidden }),
        4 => Just(Event::Honest),
        3 => any::<prop::sample::Index>().prop_map(Event::Replay),
        3 => (any::<u8>(), prop::bool::weighted(0.2), any::<u8>()).prop_map(|(keys, raise, by)| Event::Rotate { keys, raise, by }),
        2 => (0u64..40, any::<bool>(), any::<bool>()).prop_map(|(days, back, synchronised)| Event::Clock { days, back, synchronised }),
        1 => Just(Event::Lost),
    ];
    proptest::collection::vec(event, 1..40)
}

/// One genuine root as the world knows it.
struct Known {
    epoch: u64,
    keys: BTreeSet<usize>,
    text: String,
    signatures: Vec<u8>,
}

/// A tag that was served, and what is true of it.
#[derive(Clone)]
struct Served {
    tag: ObjectId,
    place: (u64, u64),
    by: BTreeSet<usize>,
}

/// The world and one host in it.
struct Life {
    keys: Vec<Quick>,
    objects: Objects,
    roots: Vec<Known>,
    served: Vec<Served>,
    trust: TrustConfig,
    memory: Memory,
    moment: Moment,
    /// What time it is in truth.
    time: u64,
    number: u64,
    accepted: usize,
}

const THRESHOLD: usize = 2;

fn members(mask: u8) -> BTreeSet<usize> {
    (0..NAMES.len()).filter(|at| mask & (1 << at) != 0).collect()
}

impl Life {
    fn new() -> Self {
        let keys: Vec<Quick> = (1..=5).map(Quick::new).collect();
        let text = format!(
            "mode = \"release\"\nchannel = \"production\"\nrepo = \"{REPO_ID}\"\nroot = \"root.toml\"\nmin-epoch = {}\nmin-seq = {}\n",
            FLOOR.0, FLOOR.1
        );
        let mut life = Self {
            keys,
            objects: Objects::default(),
            roots: Vec::new(),
            served: Vec::new(),
            trust: TrustConfig::parse("trust.toml", &text).unwrap(),
            memory: Memory::default(),
            moment: Moment { clock: NOW, synchronised: true },
            time: NOW,
            number: FLOOR.1,
            accepted: 0,
        };
        let first = life.root(1, 1, &members(0b00111), &members(0b00111));
        life.trust = life.trust.clone().with_root("root.toml", &first.text).unwrap();
        life.roots.push(first);
        life
    }

    fn hands(&self, by: &BTreeSet<usize>) -> Vec<Hand<'_>> {
        by.iter().map(|at| Hand::Quick(&self.keys[*at])).collect()
    }

    fn root(&self, version: u64, epoch: u64, keys: &BTreeSet<usize>, by: &BTreeSet<usize>) -> Known {
        let all: Vec<(&'static str, Hand<'_>)> = keys.iter().map(|at| (NAMES[*at], Hand::Quick(&self.keys[*at]))).collect();
        let names: Vec<&'static str> = keys.iter().map(|at| NAMES[*at]).collect();
        let text = RootText {
            version,
            epoch,
            ..RootText::new(&all, &[("root", THRESHOLD, &names), ("release.production", THRESHOLD, &names)])
        };
        Known { epoch, keys: keys.clone(), signatures: text.signatures(&self.hands(by)), text: text.text() }
    }

    /// Roots as they lie in a tree, without the last few, and perhaps with one more that is not genuine.
    fn shown(&self, hidden: usize, more: Option<Known>) -> Vec<(u64, String, Vec<u8>)> {
        let shown = self.roots.len().saturating_sub(hidden).max(1);
        let all = self.roots[..shown].iter().chain(&more);
        (1..).zip(all).map(|(version, root)| (version, root.text.clone(), root.signatures.clone())).collect()
    }

    fn release(&mut self, place: (u64, u64), by: &BTreeSet<usize>, shown: &[(u64, String, Vec<u8>)]) -> Served {
        let (commit, tree) = self.objects.commit(shown);
        let say = Say {
            repo: REPO_ID.to_owned(),
            channel: "production".to_owned(),
            place,
            commit,
            tree,
            root: 1,
            times: (show_time(self.time), show_time(self.time + 60 * DAY)),
            more: String::new(),
        };
        let bytes = say.tag(&self.hands(by));
        let served = Served { tag: self.objects.put(ObjectKind::Tag, bytes), place, by: by.clone() };
        self.served.push(served.clone());
        served
    }

    fn version(&self) -> usize {
        self.memory.root.as_ref().map_or(1, |file| usize::try_from(file.root.version).unwrap())
    }

    fn place(&self) -> Option<(u64, u64)> {
        self.memory.release.as_ref().map(|release| (release.place.epoch, release.place.seq))
    }

    /// The host polls, and this is served.
    fn poll(&mut self, served: &Served) -> &'static str {
        let (before, version) = (self.place(), self.version());
        let judged = decide(served.tag, None, &mut self.objects, &self.trust, &self.memory, self.moment);
        let code = judged.verdict.code();
        if let Some(memory) = judged.memory {
            self.memory = Memory::from_text(&memory.to_text()).unwrap();
        }
        assert!(self.version() >= version && self.version() <= self.roots.len(), "root {version} -> {}", self.version());
        if judged.verdict.proven().is_none() {
            assert_eq!(self.place(), before, "{code}");
            return code;
        }
        self.accepted += 1;
        assert_eq!(self.place(), Some(served.place));
        assert!(Some(served.place) >= before && served.place >= FLOOR, "{before:?} -> {:?}", served.place);
        let root = &self.roots[self.version() - 1];
        assert!(served.by.intersection(&root.keys).count() >= THRESHOLD, "by {:?} of {:?}", served.by, root.keys);
        assert_eq!(served.place.0, root.epoch);
        code
    }

    fn happens(&mut self, event: &Event) {
        match event {
            Event::Release { by, ahead, epoch_off, hidden } => {
                let epoch = (self.roots[self.roots.len() - 1].epoch + epoch_off).saturating_sub(1).max(1);
                let place = (epoch, (self.number + ahead).saturating_sub(1).max(1));
                let shown = self.shown(*hidden, None);
                let served = self.release(place, &members(*by), &shown);
                self.number = self.number.max(place.1);
                self.poll(&served);
            }
            Event::Honest => self.honest(),
            Event::Replay(index) => {
                if !self.served.is_empty() {
                    let served = index.get(&self.served).clone();
                    self.poll(&served);
                }
            }
            Event::Rotate { keys, raise, by } => self.rotate(&members(*keys), *raise, &members(*by)),
            Event::Clock { days, back, synchronised } => {
                self.time += if *synchronised { days * DAY / 4 } else { 0 };
                let clock = if *back { self.time.saturating_sub(days * 40 * DAY) } else { self.time + days * 40 * DAY };
                // Something that keeps the clock keeps it right.
                self.moment = Moment { clock: if *synchronised { self.time } else { clock }, synchronised: *synchronised };
                self.memory.passes(self.moment);
            }
            Event::Lost => self.memory = Memory { lost: Some(self.moment.clock), ..Memory::default() },
        }
    }

    fn honest(&mut self) {
        let newest = &self.roots[self.roots.len() - 1];
        let (epoch, by) = (newest.epoch, newest.keys.clone());
        self.number += 1;
        let shown = self.shown(0, None);
        let served = self.release((epoch, self.number), &by, &shown);
        if self.moment.synchronised {
            self.moment.clock = self.time;
        }
        assert_eq!(self.poll(&served), "accepted", "{:?} after {:?}", served.place, self.memory.release);
    }

    fn rotate(&mut self, keys: &BTreeSet<usize>, raise: bool, by: &BTreeSet<usize>) {
        if keys.len() < THRESHOLD {
            return;
        }
        let newest = &self.roots[self.roots.len() - 1];
        let genuine = by.intersection(&newest.keys).count() >= THRESHOLD && by.intersection(keys).count() >= THRESHOLD;
        let (epoch, version) = (newest.epoch + u64::from(raise), self.roots.len() as u64 + 1);
        let next = self.root(version, epoch, keys, by);
        if genuine {
            self.roots.push(next);
            return;
        }
        // Somebody without the keys for it puts it into the tree, under a release by whoever would then count.
        let shown = self.shown(0, Some(next));
        self.number += 1;
        let served = self.release((epoch, self.number), keys, &shown);
        let code = self.poll(&served);
        assert!(code.starts_with("root-"), "{code}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_nothing_goes_back_and_nothing_counts_below_the_threshold(events in events()) {
        let mut life = Life::new();
        for event in &events {
            life.happens(event);
        }
        // And it is never stuck.
        life.honest();
        prop_assert!(life.accepted > 0);
    }
}

#[test]
fn what_signs_here_signs_as_ssh_keygen_does() {
    let quick = Quick::new(1);
    let key = trimtab_tests::git::Key::from_line(&quick.line());
    assert!(key.openssh_accepts("git", b"text", &Hand::Quick(&quick).block("git", b"text")));
}
