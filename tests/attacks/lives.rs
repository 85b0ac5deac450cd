//! Whole lives of a host, at random: releases, rotations, replays, twins, thieves with too few keys, `alive` statements by whoever has the key, clocks that
//! jump though something keeps them, memories that are lost, spoiled or cut in two by a power cut, sources that hide roots, and an operator who changes
//! channel and pin, once to a wrong one.
//!
//! Whatever happens in whatever order: of each channel epoch and sequence never go down while the host remembers, and never say two things; the root does
//! not go back under one pin; nothing counts that fewer than the threshold signed; a refusal leaves what was accepted as it was; and an honest release is
//! taken, if need be after what the words of the refusal advise. Keys sign in this process, so that a life is short.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use gix_hash::ObjectId;
use proptest::prelude::*;
use trimtab::trust::decide::decide;
use trimtab::trust::keys::TrustConfig;
use trimtab::trust::memory::{Memory, Moment};
use trimtab::trust::policy::RootFile;
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
    /// A statement is signed by some keys and served, over a tree that shows so many of the genuine roots; its twin says something else.
    Release { by: u8, ahead: u64, epoch_off: u64, hidden: usize, twin: bool },
    /// An honest release: by all keys of the newest root, with the next number.
    Honest,
    /// A release of before is served again.
    Replay(prop::sample::Index),
    /// The next root names these keys; some sign it. Genuine when it should be taken.
    Rotate { keys: u8, raise: bool, by: u8 },
    /// Days pass, or the clock jumps; something keeps it or not, and what keeps it may be wrong.
    Clock { days: u64, back: bool, synchronised: bool, wrong: bool },
    /// Whoever has the key for it, now or formerly, says how far the channel has come.
    Alive { ahead: u64, days: u64, former: bool },
    /// Both copies of the memory are gone.
    Lost,
    /// One copy is spoiled.
    Spoiled { second: bool },
    /// The power is cut between the two copies of what is written next.
    Cut,
    /// The operator follows the other channel.
    Channel,
    /// The operator pins another root of the chain, as a file or by its digest.
    Pin { which: prop::sample::Index, digest: bool },
    /// The operator pins eve's root, and puts it right after so many of her releases.
    Wrong(u64),
    /// The operator changes `on-stale`.
    Hold(bool),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let index = any::<prop::sample::Index>;
    let event = prop_oneof![
        6 => (any::<u8>(), 0u64..4, 0u64..3, 0usize..3, any::<bool>())
            .prop_map(|(by, ahead, epoch_off, hidden, twin)| Event::Release { by, ahead, epoch_off, hidden, twin }),
        8 => Just(Event::Honest),
        6 => index().prop_map(Event::Replay),
        6 => (any::<u8>(), prop::bool::weighted(0.2), any::<u8>()).prop_map(|(keys, raise, by)| Event::Rotate { keys, raise, by }),
        4 => (0u64..40, any::<bool>(), any::<bool>(), prop::bool::weighted(0.3))
            .prop_map(|(days, back, synchronised, wrong)| Event::Clock { days, back, synchronised, wrong }),
        4 => (0u64..3, 1u64..500, prop::bool::weighted(0.3)).prop_map(|(ahead, days, former)| Event::Alive { ahead, days, former }),
        1 => Just(Event::Lost),
        1 => any::<bool>().prop_map(|second| Event::Spoiled { second }),
        2 => Just(Event::Cut),
        2 => Just(Event::Channel),
        2 => (index(), any::<bool>()).prop_map(|(which, digest)| Event::Pin { which, digest }),
        1 => (1u64..3).prop_map(Event::Wrong),
        1 => any::<bool>().prop_map(Event::Hold),
    ];
    proptest::collection::vec(event, 1..40)
}

/// One genuine root as the world knows it.
#[derive(Clone)]
struct Known {
    epoch: u64,
    keys: BTreeSet<usize>,
    /// Which of the two keys says how far channels have come.
    alive: usize,
    text: String,
    signatures: Vec<u8>,
}

/// A tag that was served, and what is true of it.
#[derive(Clone)]
struct Served {
    tag: ObjectId,
    channel: &'static str,
    place: (u64, u64),
    said: String,
    by: BTreeSet<usize>,
    /// How many of the genuine roots its tree shows.
    roots: usize,
}

/// The two files of the memory.
struct Copies {
    main: String,
    second: String,
    written: u64,
    cut: bool,
}

impl Copies {
    /// As a pass remembers something new.
    fn save(&mut self, memory: &Memory) {
        self.written += 1;
        self.put(&Memory { written: self.written, ..memory.clone() });
    }

    /// As the store writes them, one after the other.
    fn put(&mut self, memory: &Memory) {
        self.main = memory.to_text();
        if !std::mem::take(&mut self.cut) {
            self.second.clone_from(&self.main);
        }
    }

    /// As a start of the agent reads them, and puts them right.
    fn load(&mut self) -> Memory {
        let whole: Vec<Memory> = [&self.main, &self.second].iter().filter_map(|text| Memory::from_text(text).ok()).collect();
        let merged = whole.iter().cloned().reduce(Memory::merge).expect("because one of them is whole");
        // In either order nothing goes back. Who signed the same statement, say, may be either copy's.
        let other_way = whole.iter().rev().cloned().reduce(Memory::merge).unwrap();
        let far = |memory: &Memory| {
            let places = CHANNELS.map(|channel| memory.passed(REPO_ID, channel).map(|passed| passed.place));
            (places, memory.root.as_ref().map(|file| file.root.version), (memory.time_epoch, memory.time_floor))
        };
        assert_eq!(far(&other_way), far(&merged));
        self.put(&merged);
        merged
    }
}

/// The world and one host in it.
struct Life {
    keys: Vec<Quick>,
    /// The two that may be named for `alive`.
    heralds: [Quick; 2],
    eve: Quick,
    objects: Objects,
    roots: Vec<Known>,
    served: Vec<Served>,
    alive: Option<ObjectId>,
    channel: &'static str,
    pin: (usize, bool),
    /// The newest that ever was.
    pinned: usize,
    /// Eve's root is pinned.
    deceived: bool,
    /// One of hers was accepted last.
    hers: bool,
    hold: bool,
    memory: Memory,
    copies: Copies,
    moment: Moment,
    /// What time it is in truth.
    time: u64,
    number: u64,
    accepted: usize,
    /// Something kept the clock in step with a wrong time, or a herald said more than there was: then the advice has to be followed.
    troubled: bool,
    /// What this host accepted of each channel last, and the newest root it believed: as we keep the books.
    book: BTreeMap<&'static str, ((u64, u64), String)>,
    newest: u64,
}

const THRESHOLD: usize = 2;
const CHANNELS: [&str; 2] = ["production", "staging"];

fn members(mask: u8) -> BTreeSet<usize> {
    (0..NAMES.len()).filter(|at| mask & (1 << at) != 0).collect()
}

impl Life {
    fn new() -> Self {
        let mut life = Self {
            keys: (1..=5).map(Quick::new).collect(),
            heralds: [Quick::new(6), Quick::new(7)],
            eve: Quick::new(8),
            objects: Objects::default(),
            roots: Vec::new(),
            served: Vec::new(),
            alive: None,
            channel: CHANNELS[0],
            pin: (0, false),
            pinned: 0,
            deceived: false,
            hers: false,
            hold: false,
            memory: Memory::default(),
            copies: Copies { main: Memory::default().to_text(), second: Memory::default().to_text(), written: 0, cut: false },
            moment: Moment { clock: NOW, synchronised: true },
            time: NOW,
            number: FLOOR.1,
            accepted: 0,
            troubled: false,
            book: BTreeMap::new(),
            newest: 0,
        };
        let first = life.root(1, 1, &members(0b00111), 0, &members(0b00111));
        life.roots.push(first);
        life
    }

    /// What this host trusts now.
    fn trust(&self) -> TrustConfig {
        let (root, digest) = if self.deceived { (self.evil(1), true) } else { (self.roots[self.pin.0].clone(), self.pin.1) };
        let pinned = RootFile::parse("root.toml", &root.text).unwrap();
        let how = if digest { format!("root-digest = \"{}\"", pinned.digest()) } else { "root = \"root.toml\"".to_owned() };
        let stale = if self.hold { "hold" } else { "continue" };
        let text = format!(
            "mode = \"release\"\nchannel = \"{}\"\nrepo = \"{REPO_ID}\"\n{how}\nmin-epoch = {}\nmin-seq = {}\non-stale = \"{stale}\"\n",
            self.channel, FLOOR.0, FLOOR.1
        );
        let trust = TrustConfig::parse("trust.toml", &text).unwrap();
        if digest { trust } else { trust.with_root("root.toml", &root.text).unwrap() }
    }

    fn hands(&self, by: &BTreeSet<usize>) -> Vec<Hand<'_>> {
        by.iter().map(|at| Hand::Quick(&self.keys[*at])).collect()
    }

    fn root(&self, version: u64, epoch: u64, keys: &BTreeSet<usize>, alive: usize, by: &BTreeSet<usize>) -> Known {
        let mut all: Vec<(&'static str, Hand<'_>)> = keys.iter().map(|at| (NAMES[*at], Hand::Quick(&self.keys[*at]))).collect();
        all.push(("herald", Hand::Quick(&self.heralds[alive])));
        let names: Vec<&'static str> = keys.iter().map(|at| NAMES[*at]).collect();
        let text = RootText {
            version,
            epoch,
            ..RootText::new(
                &all,
                &[
                    ("root", THRESHOLD, &names),
                    ("release.production", THRESHOLD, &names),
                    ("release.staging", THRESHOLD, &names),
                    ("alive.production", 1, &["herald"]),
                    ("alive.staging", 1, &["herald"]),
                ],
            )
        };
        Known { epoch, keys: keys.clone(), alive, signatures: text.signatures(&self.hands(by)), text: text.text() }
    }

    /// Eve's own root, of the same repository by its words.
    fn evil(&self, version: u64) -> Known {
        let (hand, one): (_, &[&str]) = (Hand::Quick(&self.eve), &["eve"]);
        let roles = [("root", 1, one), ("release.production", 1, one), ("release.staging", 1, one)];
        let text = RootText { version, ..RootText::new(&[("eve", hand)], &roles) };
        Known { epoch: 1, keys: BTreeSet::new(), alive: 0, signatures: text.signatures(&[hand]), text: text.text() }
    }

    /// Roots as they lie in a tree, without the last few, and perhaps with one more that is not genuine.
    fn shown(&self, hidden: usize, more: Option<Known>) -> Vec<(u64, String, Vec<u8>)> {
        // Trees that do not show a root that was pinned do not show that they belong to it: then the order begins anew (trust/begin.rs).
        let shown = self.roots.len().saturating_sub(hidden).max(self.pinned + 1);
        let all = self.roots[..shown].iter().chain(&more);
        (1..).zip(all).map(|(version, root)| (version, root.text.clone(), root.signatures.clone())).collect()
    }

    fn say(&mut self, place: (u64, u64), shown: &[(u64, String, Vec<u8>)], twin: bool) -> Say {
        let (commit, tree) = self.objects.commit(shown);
        Say {
            repo: REPO_ID.to_owned(),
            channel: self.channel.to_owned(),
            place,
            commit,
            tree,
            root: 1,
            times: (show_time(self.time), show_time(self.time + 60 * DAY)),
            more: if twin { "x-twin: yes\n".to_owned() } else { String::new() },
        }
    }

    fn release(&mut self, place: (u64, u64), by: &BTreeSet<usize>, shown: &[(u64, String, Vec<u8>)], twin: bool) -> Served {
        let say = self.say(place, shown, twin);
        let bytes = say.tag(&self.hands(by));
        let tag = self.objects.put(ObjectKind::Tag, bytes);
        let served = Served {
            tag,
            channel: self.channel,
            place,
            said: say.text(),
            by: by.clone(),
            roots: shown.len().min(self.roots.len()),
        };
        self.served.push(served.clone());
        served
    }

    fn herald(&mut self, place: (u64, u64), days: u64, key: usize) {
        let mut say = self.say(place, &[], false);
        say.times.1 = show_time(self.time + days * DAY);
        let bytes = say.alive(&[Hand::Quick(&self.heralds[key])]);
        self.alive = Some(self.objects.put(ObjectKind::Tag, bytes));
    }

    fn version(&self) -> u64 {
        self.memory.root.as_ref().map_or(0, |file| file.root.version)
    }

    /// What the host remembers of a channel.
    fn place(&self, channel: &str) -> Option<(u64, u64)> {
        self.memory.passed(REPO_ID, channel).map(|passed| (passed.place.epoch, passed.place.seq))
    }

    fn places(&self) -> Vec<Option<(u64, u64)>> {
        CHANNELS.iter().map(|channel| self.place(channel)).collect()
    }

    /// The host polls, and this is served.
    fn poll(&mut self, served: &Served) -> &'static str {
        let (before, trust) = (self.places(), self.trust());
        let judged = decide(served.tag, self.alive, &mut self.objects, &trust, &self.memory, self.moment);
        let code = judged.verdict.code();
        if let Some(memory) = judged.memory {
            self.copies.save(&memory);
            self.memory = self.copies.load();
            // That an earlier one was lost may be told once more, and of two floors of time the higher one counts.
            let (lost, time_floor, written) = (memory.lost, memory.time_floor, memory.written);
            let again = Memory { lost, time_floor, written, ..self.memory.clone() };
            assert!((self.memory.time_epoch, self.memory.time_floor) >= (memory.time_epoch, memory.time_floor));
            assert_eq!(again, memory, "what is remembered is what comes back, whatever the power did");
        }
        let version = self.version();
        assert!(version >= self.newest && version <= self.roots.len() as u64, "root {} -> {version}", self.newest);
        self.newest = version;
        if judged.verdict.proven().is_none() {
            // Hers, when who is vouched for by the right root says that she is none of theirs.
            let is_hers = self.hers && self.places() == [None, None];
            assert!(self.places() == before || is_hers, "{code}: {before:?} -> {:?}", self.places());
            return code;
        }
        self.hers = false;
        self.accepted += 1;
        assert_eq!((served.channel, self.place(self.channel)), (self.channel, Some(served.place)));
        let said = (served.place, served.said.clone());
        let was = self.book.insert(self.channel, said.clone());
        let is_next = |was: &((u64, u64), String)| served.place > was.0 || *was == said;
        assert!(was.as_ref().is_none_or(is_next) && served.place >= FLOOR, "{was:?} -> {said:?}");
        let root = &self.roots[usize::try_from(version).unwrap() - 1];
        assert!(served.by.intersection(&root.keys).count() >= THRESHOLD, "by {:?} of {:?}", served.by, root.keys);
        assert_eq!(served.place.0, root.epoch);
        code
    }

    fn happens(&mut self, event: &Event) {
        match event {
            Event::Release { by, ahead, epoch_off, hidden, twin } => {
                let epoch = (self.roots[self.roots.len() - 1].epoch + epoch_off).saturating_sub(1).max(1);
                let place = (epoch, (self.number + ahead).saturating_sub(1).max(1));
                let shown = self.shown(*hidden, None);
                let served = self.release(place, &members(*by), &shown, *twin);
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
            Event::Clock { days, back, synchronised, wrong } => {
                self.time += if *synchronised { days * DAY / 4 } else { 0 };
                let clock = if *back { self.time.saturating_sub(days * 40 * DAY) } else { self.time + days * 40 * DAY };
                let is_right = *synchronised && !wrong;
                self.troubled |= *synchronised && *wrong;
                self.moment = Moment { clock: if is_right { self.time } else { clock }, synchronised: *synchronised };
                if self.memory.passes(self.moment) {
                    self.copies.save(&self.memory);
                    self.memory = self.copies.load();
                }
            }
            Event::Alive { ahead, days, former } => {
                let newest = &self.roots[self.roots.len() - 1];
                let (epoch, key) = (newest.epoch, if *former { 1 - newest.alive } else { newest.alive });
                self.herald((epoch, (self.number + ahead).max(1)), *days, key);
                self.troubled |= !former && *ahead > 0 || *days > 1;
            }
            Event::Lost => {
                let memory = Memory { lost: Some(self.moment.clock), ..Memory::default() };
                self.copies = Copies { main: memory.to_text(), second: memory.to_text(), written: memory.written, cut: false };
                self.memory = memory;
                self.begin_anew();
            }
            Event::Spoiled { second } => {
                // No power cut in the mending: with the other copy spoiled after that, nothing would be left, which is `Lost`.
                self.copies.cut = false;
                let copy = if *second { &mut self.copies.second } else { &mut self.copies.main };
                copy.truncate(copy.len() / 2);
                assert_eq!(self.copies.load(), self.memory);
            }
            Event::Cut => self.copies.cut = true,
            Event::Channel => self.channel = CHANNELS[usize::from(self.channel == CHANNELS[0])],
            Event::Pin { which, digest } => {
                // One that every tree shows: older trees than the pin do not show that they belong to it.
                let shown = self.served.iter().map(|served| served.roots).min().unwrap_or(self.roots.len());
                self.pin = (which.index(shown.max(1)), *digest);
                self.pinned = self.pinned.max(self.pin.0);
                self.newest = 0;
            }
            Event::Wrong(times) => self.deceive(*times),
            Event::Hold(hold) => self.hold = *hold,
        }
    }

    /// The books of a host that knows nothing.
    fn begin_anew(&mut self) {
        self.book.clear();
        self.newest = 0;
    }

    /// Eve's root is pinned, her releases are taken with the largest numbers, and then the pin is put right.
    fn deceive(&mut self, times: u64) {
        self.deceived = true;
        let evil: Vec<_> = (1..=times).map(|version| self.evil(version)).collect();
        let shown: Vec<_> = (1..).zip(evil).map(|(version, root)| (version, root.text, root.signatures)).collect();
        let mut last = None;
        for number in 0..times {
            let say = self.say((1, (1 << 62) + number), &shown, false);
            let tag = self.objects.put(ObjectKind::Tag, say.tag(&[Hand::Quick(&self.eve)]));
            let (moment, trust) = (Moment { clock: self.time, synchronised: true }, self.trust());
            let judged = decide(tag, None, &mut self.objects, &trust, &self.memory, moment);
            if let Some(memory) = judged.memory {
                self.copies.save(&memory);
                self.memory = self.copies.load();
            }
            if judged.verdict.proven().is_some() {
                // It is another chain: what this host knew of the genuine one went with it.
                self.book.clear();
                self.hers = true;
            }
            last = Some(tag);
        }
        self.deceived = false;
        self.newest = 0;
        let places = self.places();
        let (tag, trust) = (last.expect("because there is one"), self.trust());
        let judged = decide(tag, None, &mut self.objects, &trust, &self.memory, self.moment);
        assert!(judged.verdict.proven().is_none(), "hers counts no more");
        if let Some(memory) = judged.memory {
            self.copies.save(&memory);
            self.memory = self.copies.load();
        }
        assert_eq!(self.places(), places, "what is in force stays");
    }

    /// An honest release, with an honest word about it.
    fn honestly(&mut self) -> &'static str {
        self.time += 1;
        self.moment = Moment { clock: self.time, synchronised: true };
        self.number += 1;
        let Known { epoch, keys, alive, .. } = self.roots[self.roots.len() - 1].clone();
        let shown = self.shown(0, None);
        let served = self.release((epoch, self.number), &keys, &shown, false);
        self.herald((epoch, self.number), 1, alive);
        self.poll(&served)
    }

    fn honest(&mut self) {
        let code = self.honestly();
        if code == "accepted" {
            return;
        }
        assert!(self.troubled && ["expired", "stale"].contains(&code), "{code} after {:?}", self.memory);
        // As the words advise: the next root, another epoch, and another key for the word.
        let Known { epoch, keys, alive, .. } = self.roots[self.roots.len() - 1].clone();
        let next = self.root(self.roots.len() as u64 + 1, epoch + 1, &keys, 1 - alive, &keys);
        self.roots.push(next);
        assert_eq!(self.honestly(), "accepted", "{:?}", self.memory);
    }

    fn rotate(&mut self, keys: &BTreeSet<usize>, raise: bool, by: &BTreeSet<usize>) {
        if keys.len() < THRESHOLD {
            return;
        }
        let newest = &self.roots[self.roots.len() - 1];
        let genuine = by.intersection(&newest.keys).count() >= THRESHOLD && by.intersection(keys).count() >= THRESHOLD;
        let (epoch, version) = (newest.epoch + u64::from(raise), self.roots.len() as u64 + 1);
        let next = self.root(version, epoch, keys, newest.alive, by);
        if genuine {
            self.roots.push(next);
            return;
        }
        // Somebody without the keys for it puts it into the tree, under a release by whoever would then count.
        let shown = self.shown(0, Some(next));
        self.number += 1;
        let served = self.release((epoch, self.number), keys, &shown, false);
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
