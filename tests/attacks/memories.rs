//! Attacks on what a host remembers: a trust that began in the wrong place, a memory that is lost, words that outlive the keys that said them.
//!
//! Each of them was found on a host that looked well: what is asserted is that it goes on, and that it says so.

use gix_hash::ObjectId;
use trimtab::trust::decide::decide;
use trimtab::trust::fresh::{Freshness, freshness};
use trimtab::trust::keys::TrustConfig;
use trimtab::trust::memory::{Memory, Moment, built};
use trimtab::trust::policy::RootFile;
use trimtab::trust::release::Rules;
use trimtab::trust::statement::show_time;
use trimtab_tests::git::{Key, Repo};
use trimtab_tests::release::{Hand, REPO_ID, RootText, Say};

use super::releases::{DAY, Fleet, kept, place};
use super::{NOW, assert_code};

/// The largest number that a statement can have.
const LAST: u64 = (1 << 63) - 1;

/// A host between two polls.
struct Host {
    trust: TrustConfig,
    memory: Memory,
    /// What it was told beside, at the last poll.
    remarks: Vec<String>,
}

impl Host {
    fn new(trust: TrustConfig) -> Self {
        Self { trust, memory: Memory::default(), remarks: Vec::new() }
    }

    /// One poll; what it remembers goes over the disk.
    fn sees(&mut self, repo: &Repo, tip: ObjectId, alive: Option<ObjectId>, moment: Moment) -> String {
        let judged = decide(tip, alive, &mut repo.source(), &self.trust, &self.memory, moment);
        if let Some(memory) = judged.memory {
            self.memory = Memory::from_text(&memory.to_text()).unwrap();
            assert_eq!(self.memory, memory);
        }
        self.remarks = judged.remarks;
        judged.verdict.code().to_owned()
    }

    #[track_caller]
    fn takes(&mut self, repo: &Repo, tip: ObjectId) {
        assert_eq!(self.sees(repo, tip, None, kept(NOW)), "accepted", "{:?} after {:?}", self.remarks, self.memory.release);
    }

    #[track_caller]
    fn refuses(&mut self, repo: &Repo, tip: ObjectId, code: &str) {
        let before = (self.memory.release.clone(), self.memory.accepted.clone());
        assert_eq!(self.sees(repo, tip, None, kept(NOW)), code);
        assert_eq!((self.memory.release.clone(), self.memory.accepted.clone()), before);
    }

    fn freshness(&self, moment: Moment) -> Freshness {
        freshness(&self.memory, Rules::of(&self.trust).unwrap(), moment)
    }
}

/// What pins this root: by its digest, or as the file.
fn pinning(root: &str, by_digest: bool) -> TrustConfig {
    pinning_in("production", root, by_digest)
}

fn pinning_in(channel: &str, root: &str, by_digest: bool) -> TrustConfig {
    let begin = format!("mode = \"release\"\nchannel = \"{channel}\"\nrepo = \"{REPO_ID}\"\n");
    let digest = RootFile::parse("root", root).unwrap().digest();
    if by_digest {
        return TrustConfig::parse("trust.toml", &format!("{begin}root-digest = \"{digest}\"\n")).unwrap();
    }
    TrustConfig::parse("trust.toml", &format!("{begin}root = \"root.toml\"\n")).unwrap().with_root("root.toml", root).unwrap()
}

/// A repository that calls itself by the genuine one's id, and is eve's.
struct Evil {
    repo: Repo,
    eve: Key,
}

impl Evil {
    fn new() -> Self {
        let (repo, eve) = (Repo::new(), Key::new("eve"));
        let evil = Self { repo, eve };
        evil.root(1);
        evil.repo.commit("one", None);
        evil
    }

    fn text(&self, version: u64) -> RootText<'_> {
        let one: &[&str] = &["eve"];
        let roles = [("root", 1, one), ("release.production", 1, one), ("commit.main", 0, one)];
        RootText { version, ..RootText::new(&[("eve", Hand::Ssh(&self.eve))], &roles) }
    }

    /// One more root of her own.
    fn root(&self, version: u64) {
        self.text(version).write(&self.repo, &[Hand::Ssh(&self.eve)]);
    }

    fn release(&self, seq: u64) -> ObjectId {
        Say::of(&self.repo, "production", (1, seq)).release(&self.repo, &[Hand::Ssh(&self.eve)])
    }
}

#[test]
fn r35_enrolled_on_the_wrong_root_and_told_the_right_one() {
    for by_digest in [true, false] {
        let (fleet, evil) = (Fleet::new(), Evil::new());
        let mut host = Host::new(pinning(&evil.text(1).text(), true));
        // Of a higher version than the genuine one, with the largest number there is.
        evil.root(2);
        evil.repo.commit("two", None);
        host.takes(&evil.repo, evil.release(LAST - 1));
        let one_behind = host.memory.clone();
        host.trust = pinning(&fleet.people.root().text(), by_digest);
        // The URL is still hers: what she releases next counts no more, and what is in force stays.
        host.refuses(&evil.repo, evil.release(LAST), if by_digest { "root-not-found" } else { "root-unknown-signer" });
        if !by_digest {
            assert!(host.remarks.iter().any(|remark| remark.contains("pins the root")), "{:?}", host.remarks);
        }
        let unsettled = host.memory.clone();
        // The genuine one has come to 7.
        let seven = fleet.release(7);
        host.takes(&fleet.repo, seven);
        assert_eq!((place(&host.memory), host.memory.root.as_ref().unwrap().root.keys.len()), ((1, 7), 4));
        assert!(host.remarks.iter().any(|remark| remark.contains("counts no more")), "{:?}", host.remarks);
        // A copy that the power cut left behind brings her back in neither order.
        for behind in [one_behind, unsettled] {
            for merged in [host.memory.clone().merge(behind.clone()), behind.clone().merge(host.memory.clone())] {
                assert_eq!(merged, host.memory);
            }
        }
        host.refuses(&fleet.repo, fleet.release(6), "rolled-back");
        host.refuses(&evil.repo, evil.release(LAST), "root-unknown-signer");
        assert_eq!(host.sees(&fleet.repo, seven, None, kept(NOW)), "unchanged");
    }
}

#[test]
fn r35_a_pin_that_moves_within_one_chain_lets_no_old_release_in() {
    let fleet = Fleet::new();
    let people = &fleet.people;
    // One whose tree has no root at all, and one with the first alone: both were good in their time.
    fleet.repo.git(&["checkout", "--quiet", "--orphan", "bare"]);
    fleet.repo.git(&["rm", "--quiet", "-r", "--cached", ".trimtab"]);
    fleet.repo.git(&["commit", "--quiet", "-m", "without roots"]);
    let bare = fleet.release(3);
    fleet.repo.git(&["checkout", "--quiet", "--force", "main"]);
    let old = fleet.release(5);
    let two = RootText { version: 2, ..people.root() };
    two.write(&fleet.repo, &[people.ann(), people.bob()]);
    fleet.repo.commit("root 2", None);
    let six = fleet.release(6);
    let three = RootText { version: 3, ..people.root() };
    three.write(&fleet.repo, &[people.ann(), people.bob()]);
    fleet.repo.commit("root 3", None);
    let (replayed, seven) = (fleet.release(4), fleet.release(7));
    // What becomes of the two: where neither the former pin nor what was believed is in a tree, the order begins anew (the limit of `begin`).
    let (refused, unknown, anew) = ("rolled-back", "root-not-found", "accepted");
    // Forward to one that the host has, forward to one that it has not, and back to the first; pinned by digest, and as a file.
    for (first, then, by_digest, as_file) in [
        (people.root(), two.clone(), [refused, refused], [refused, refused]),
        (people.root(), three.clone(), [unknown, unknown], [refused, anew]),
        (two.clone(), people.root(), [anew, unknown], [anew, anew]),
    ] {
        for (is_by_digest, [of_old, of_bare]) in [(true, by_digest), (false, as_file)] {
            let mut host = Host::new(pinning(&first.text(), is_by_digest));
            host.takes(&fleet.repo, six);
            host.trust = pinning(&then.text(), is_by_digest);
            let before = host.memory.clone();
            // Each as the first that it sees under the new pin.
            for (tag, code) in [(replayed, refused), (old, of_old), (bare, of_bare)] {
                host.memory = before.clone();
                assert_eq!(
                    host.sees(&fleet.repo, tag, None, kept(NOW)),
                    code,
                    "{is_by_digest}: {} to {}",
                    first.version,
                    then.version
                );
                assert_eq!(host.remarks.iter().any(|remark| remark.contains("counts no more")), code == anew, "{:?}", host.remarks);
                host.takes(&fleet.repo, seven);
                assert_eq!((place(&host.memory), host.memory.former.is_none()), ((1, 7), true));
            }
        }
    }
}

/// A memory as the version before wrote it.
fn format_2(memory: &Memory) -> Memory {
    let mut value: serde_json::Value = serde_json::from_str(&memory.to_text()).unwrap();
    let map = value.as_object_mut().unwrap();
    for name in ["pin", "former", "earlier", "time-epoch", "base", "turn"] {
        map.remove(name);
    }
    map.insert("format".to_owned(), 2.into());
    for (name, field) in [("release", "since"), ("alive", "role")] {
        if let Some(part) = map.get_mut(name) {
            part.as_object_mut().unwrap().remove(field);
        }
    }
    Memory::from_text(&value.to_string()).unwrap()
}

#[test]
fn r35_a_memory_that_does_not_say_what_was_pinned() {
    let (fleet, evil) = (Fleet::new(), Evil::new());
    let people = &fleet.people;
    let five = fleet.release(5);
    RootText { version: 2, ..people.root() }.write(&fleet.repo, &[people.ann(), people.bob()]);
    fleet.repo.commit("root 2", None);
    // A genuine one: an update of trimtab lets nothing old in, whether its tree shows the newest root or not.
    let mut host = Host::new(pinning(&people.root().text(), true));
    host.takes(&fleet.repo, fleet.release(6));
    let before = format_2(&host.memory);
    assert_eq!(before.pin, None);
    for old in [five, fleet.release(4)] {
        // Each as the first that it sees: whether the two pins belong together is settled by one look.
        host.memory = before.clone();
        host.refuses(&fleet.repo, old, "rolled-back");
        host.takes(&fleet.repo, fleet.release(7));
    }
    // Eve's, told the right one since.
    let mut host = Host::new(pinning(&evil.text(1).text(), true));
    host.takes(&evil.repo, evil.release(LAST));
    host.memory = format_2(&host.memory);
    host.trust = pinning(&people.root().text(), false);
    host.refuses(&evil.repo, evil.release(LAST), "unknown-signer");
    host.takes(&fleet.repo, fleet.release(7));
}

#[test]
fn r35_a_pin_that_is_put_back_before_anything_came_of_it() {
    let (fleet, evil) = (Fleet::new(), Evil::new());
    fleet.repo.git(&["rm", "--quiet", "-r", "--cached", ".trimtab"]);
    fleet.repo.git(&["commit", "--quiet", "-m", "without roots"]);
    let mut host = Host::new(pinning(&fleet.people.root().text(), false));
    host.takes(&fleet.repo, fleet.release(6));
    host.trust = pinning(&evil.text(1).text(), false);
    host.refuses(&fleet.repo, fleet.release(7), "unknown-signer");
    assert!(host.memory.former.is_some());
    host.trust = pinning(&fleet.people.root().text(), false);
    host.refuses(&fleet.repo, fleet.release(5), "rolled-back");
    host.takes(&fleet.repo, fleet.release(7));
}

#[test]
fn r35_numbers_of_the_wrong_root_count_in_no_channel() {
    let (fleet, evil) = (Fleet::new(), Evil::new());
    let people = &fleet.people;
    // Under hers the host had come as far as there are numbers, and was moved to another channel then.
    let mut root = evil.text(1);
    root.roles.push(("release.staging", 1, vec!["eve"]));
    root.write(&evil.repo, &[Hand::Ssh(&evil.eve)]);
    evil.repo.commit("two channels", None);
    let mut host = Host::new(pinning(&root.text(), true));
    host.takes(&evil.repo, evil.release(LAST));
    host.trust = pinning_in("staging", &root.text(), true);
    host.takes(&evil.repo, Say::of(&evil.repo, "staging", (1, LAST)).release(&evil.repo, &[Hand::Ssh(&evil.eve)]));
    assert_eq!(host.memory.earlier.len(), 1);
    // Told the right root, it begins anew in either.
    let hands = [people.ann(), people.bob()];
    host.trust = pinning_in("staging", &people.root().text(), false);
    host.takes(&fleet.repo, Say::of(&fleet.repo, "staging", (1, 7)).release(&fleet.repo, &hands));
    host.trust = pinning(&people.root().text(), false);
    host.takes(&fleet.repo, fleet.release(7));
    assert_eq!(place(&host.memory), (1, 7));
}

#[test]
fn r35_commits_under_the_wrong_root() {
    let (repo, fleet, evil) = (Repo::new(), Fleet::new(), Evil::new());
    let people = &fleet.people;
    let trust = |root: &str| {
        let text = format!("mode = \"commit\"\nbranch = \"main\"\nrepo = \"{REPO_ID}\"\nroot = \"root.toml\"\n");
        TrustConfig::parse("trust.toml", &text).unwrap().with_root("root.toml", root).unwrap()
    };
    people.root().write(&repo, &[people.ann(), people.safe()]);
    repo.commit("one", Some(&people.ann));
    let genuine = repo.head();
    let mut host = Host::new(trust(&evil.text(1).text()));
    evil.repo.commit("hers", Some(&evil.eve));
    host.takes(&evil.repo, evil.repo.head());
    host.trust = trust(&people.root().text());
    evil.repo.commit("hers again", Some(&evil.eve));
    host.refuses(&evil.repo, evil.repo.head(), "unknown-signer");
    host.takes(&repo, genuine);
    // A pin that moves within the chain forgets nothing.
    let two = RootText { version: 2, ..people.root() };
    two.write(&repo, &[people.ann(), people.safe()]);
    repo.commit("two", Some(&people.ann));
    host.takes(&repo, repo.head());
    host.trust = trust(&two.text());
    host.refuses(&repo, genuine, "rolled-back");
    repo.git(&["checkout", "--quiet", "--orphan", "other"]);
    repo.commit("beside", Some(&people.ann));
    host.refuses(&repo, repo.head(), "rewritten");
}

#[test]
fn r36_the_memory_of_commits_is_lost_and_an_old_one_is_served() {
    let (repo, ann) = (Repo::new(), Key::new("ann"));
    let trust = |more: &str| super::trust_with(&[&ann], more);
    let all: Vec<ObjectId> = ["one", "two", "three", "four"]
        .iter()
        .map(|text| {
            repo.commit(text, Some(&ann));
            repo.head()
        })
        .collect();
    let lost = |base: Option<ObjectId>| Memory { lost: Some(NOW), base, ..Memory::default() };
    // What was in force when it was lost is what the next one descends from.
    let mut host = Host::new(trust(""));
    host.memory = lost(Some(all[1]));
    host.refuses(&repo, all[0], "rolled-back");
    host.takes(&repo, all[2]);
    assert_eq!((host.memory.lost, host.memory.base), (Some(NOW), None), "told until a second one was accepted");
    host.takes(&repo, all[3]);
    assert_eq!(host.memory.lost, None);
    // The very one that is in force, and one that the source has no more.
    host.memory = lost(Some(all[1]));
    host.takes(&repo, all[1]);
    host.refuses(&repo, all[0], "rolled-back");
    host.memory = lost(Some(trimtab_tests::git::id(&"0a".repeat(20))));
    host.refuses(&repo, all[3], "rewritten");
    // Not even the ledger is left, or it is a new host: the floor in trust.toml.
    let mut host = Host::new(trust(&format!("min-commit = \"{}\"", all[2])));
    host.refuses(&repo, all[1], "rolled-back");
    host.memory = lost(Some(all[0]));
    host.refuses(&repo, all[1], "rolled-back");
    host.takes(&repo, all[2]);
    host.memory = Memory::default();
    host.takes(&repo, all[3]);
    // A branch that was rewritten on purpose: the very commit that a person names.
    repo.git(&["checkout", "--quiet", "--orphan", "anew"]);
    repo.commit("anew", Some(&ann));
    let anew = repo.head();
    repo.commit("and on", Some(&ann));
    host.trust = trust(&format!("min-commit = \"{anew}\""));
    host.refuses(&repo, anew, "rewritten");
    host.memory = lost(Some(all[3]));
    host.refuses(&repo, repo.head(), "rewritten");
    host.takes(&repo, anew);
    host.takes(&repo, repo.head());
    // Whoever has no key is nobody here either.
    repo.commit("by eve", Some(&Key::new("eve")));
    host.memory = lost(Some(anew));
    host.refuses(&repo, repo.head(), "unknown-signer");
}

/// An `alive` statement about this release, made at this time, good for a day.
fn alive(fleet: &Fleet, place: (u64, u64), at: u64, hand: Hand<'_>) -> ObjectId {
    let mut say = Say::of(&fleet.repo, "production", place);
    say.times = (show_time(at), show_time(at + DAY));
    fleet.repo.object("tag", &say.alive(&[hand]))
}

#[test]
fn r37_the_first_word_about_a_release_is_kept_back() {
    let fleet = Fleet::new();
    let ci = fleet.people.ci();
    let mut host = Host::new(fleet.trust(""));
    let one = fleet.release(1);
    let first = alive(&fleet, (1, 1), NOW, ci);
    assert_eq!(host.sees(&fleet.repo, one, Some(first), kept(NOW)), "accepted");
    assert_eq!(host.freshness(kept(NOW)), Freshness::Fresh);
    // Half a day later there is a second one, and from then on nothing is heard.
    let later = NOW + DAY / 2;
    assert_eq!(host.sees(&fleet.repo, fleet.release(2), Some(first), kept(later)), "accepted");
    assert_eq!(host.freshness(kept(later)), Freshness::Unknown);
    assert_eq!(host.freshness(kept(later + DAY)), Freshness::Unknown, "he has a day's time");
    assert_eq!(host.freshness(kept(later + DAY + 1)), Freshness::Expired);
    assert_eq!(host.memory.ends(), Some(later + DAY));
    // By a clock that nobody keeps it is not certain; and when the word comes, all is well.
    assert_eq!(host.freshness(Moment { clock: later + 2 * DAY, synchronised: false }), Freshness::Unknown);
    let second = alive(&fleet, (1, 2), later + 2 * DAY, ci);
    host.sees(&fleet.repo, fleet.release(2), Some(second), kept(later + 2 * DAY));
    assert_eq!(host.freshness(kept(later + 2 * DAY)), Freshness::Fresh);
    // No longer than the release itself says.
    let mut short = Say::of(&fleet.repo, "production", (1, 3));
    short.times = (show_time(NOW), show_time(NOW + 3600));
    let mut hasty = Host::new(fleet.trust(""));
    hasty.takes(&fleet.repo, short.release(&fleet.repo, &[fleet.people.ann(), fleet.people.bob()]));
    assert_eq!(hasty.freshness(kept(NOW + 3601)), Freshness::Expired);
    // From the very first release on, whatever the clock said when it was accepted.
    for moment in [kept(NOW), Moment { clock: 2_060_000_000, synchronised: false }] {
        let mut host = Host::new(fleet.trust(""));
        assert_eq!(host.sees(&fleet.repo, one, None, moment), "accepted");
        // Whoever puts one more signature behind it at each poll gains no time by that.
        let tag = fleet.repo.content("tag", one);
        let more = fleet.repo.object("tag", &[&tag[..], &fleet.people.eve().block("git", &tag)].concat());
        assert_eq!(host.sees(&fleet.repo, more, None, kept(NOW + DAY / 2)), "unchanged");
        assert_eq!(host.freshness(kept(NOW + DAY + DAY / 4)), Freshness::Expired);
        // What has certainly passed is past, though the clock fell back since.
        assert!(host.memory.passes(kept(NOW + 3 * DAY)));
        assert_eq!(host.freshness(Moment { clock: 0, synchronised: false }), Freshness::Expired);
    }
}

#[test]
fn r38_what_a_stolen_alive_key_said_ends_with_the_key() {
    let fleet = Fleet::new();
    let people = &fleet.people;
    let mut host = Host::new(fleet.trust("on-stale = \"hold\""));
    let (one, first) = (fleet.release(1), alive(&fleet, (1, 1), NOW, people.ci()));
    assert_eq!(host.sees(&fleet.repo, one, Some(first), kept(NOW)), "accepted");
    // The thief says that there is a release with the largest number, later than anybody can say anything after him.
    let thief = alive(&fleet, (1, LAST), NOW + 500, people.ci());
    assert_eq!(host.sees(&fleet.repo, one, Some(thief), kept(NOW)), "unchanged");
    assert!(matches!(host.freshness(kept(NOW)), Freshness::Withheld(_)));
    // The next root names another key for it. One that only exists from now on: eve's, who is none of his.
    let mut root = RootText { version: 2, ..people.root() };
    root.keys.push(("new", people.eve()));
    root.roles.iter_mut().filter(|(name, ..)| *name == "alive.production").for_each(|(_, _, keys)| *keys = vec!["new"]);
    root.write(&fleet.repo, &[people.ann(), people.bob()]);
    fleet.repo.commit("root 2", None);
    let honest = alive(&fleet, (1, 2), NOW, people.eve());
    assert_eq!(host.sees(&fleet.repo, fleet.release(2), Some(honest), kept(NOW)), "accepted", "{:?}", host.remarks);
    assert_eq!((place(&host.memory), host.freshness(kept(NOW))), ((1, 2), Freshness::Fresh));
    // He says it again, and to hold for ever.
    assert_eq!(host.sees(&fleet.repo, fleet.release(2), Some(thief), kept(NOW)), "unchanged");
    assert_eq!((host.freshness(kept(NOW)), host.remarks.len()), (Freshness::Fresh, 1));
    let mut say = Say::of(&fleet.repo, "production", (1, 2));
    say.times = (show_time(NOW + 1), show_time(NOW + 401 * DAY));
    let long = fleet.repo.object("tag", &say.alive(&[people.eve()]));
    host.sees(&fleet.repo, fleet.release(2), Some(long), kept(NOW));
    assert!(host.remarks[0].contains("longer than 400 days"), "{:?}", host.remarks);
    let third = alive(&fleet, (1, 3), NOW + 2, people.eve());
    assert_eq!(host.sees(&fleet.repo, fleet.release(3), Some(third), kept(NOW)), "accepted");
}

#[test]
fn r39_one_day_of_a_wrong_clock() {
    let fleet = Fleet::new();
    let people = &fleet.people;
    let year_2100 = 4_102_444_800;
    let say = |seq: u64, from: u64, seconds: u64| {
        let mut say = Say::of(&fleet.repo, "production", (1, seq));
        say.times = (show_time(from), show_time(from + seconds));
        say.release(&fleet.repo, &[people.ann(), people.bob()])
    };
    let mut host = Host::new(fleet.trust(""));
    host.takes(&fleet.repo, say(1, NOW, 60 * DAY));
    // Something keeps the clock in step with the wrong time, for a day.
    assert!(host.memory.passes(kept(year_2100)));
    assert!(!host.memory.passes(kept(year_2100 + 2 * DAY)), "behind the end of what is accepted it decides nothing");
    host.memory = Memory::from_text(&host.memory.to_text()).unwrap();
    // The next release, of the same length, is taken at once, and is fresh.
    let later = NOW + DAY;
    assert_eq!(
        host.sees(&fleet.repo, say(2, later, 60 * DAY), Some(alive(&fleet, (1, 2), later, people.ci())), kept(later)),
        "accepted"
    );
    // One that runs out before what was seen is refused, and the words say what was seen, where, and what helps.
    assert!(host.memory.passes(kept(year_2100)));
    let short = say(3, later + 60, DAY / 2);
    let judged = decide(short, None, &mut fleet.repo.source(), &host.trust, &host.memory, kept(later + 60));
    assert_code(&judged.verdict, "expired");
    let words = judged.verdict.to_string();
    let (seen, says) = (show_time(host.memory.floor_now()), show_time(later + 60));
    assert!(words.contains(&seen) && words.contains(&says) && words.contains("trust rotate --new-epoch"), "{words}");
    // A statement that is dated earlier than the one before does not take back what that one said of time.
    let mut other = Host::new(fleet.trust_in("staging", ""));
    for (seq, from, days, code) in
        [(1, NOW, 60, "accepted"), (2, NOW - 20 * DAY, 60, "accepted"), (3, NOW - 20 * DAY, 10, "expired")]
    {
        let mut say = Say::of(&fleet.repo, "staging", (1, seq));
        say.times = (show_time(from), show_time(from + days * DAY));
        let tag = say.release(&fleet.repo, &[people.ann(), people.bob()]);
        assert_eq!(other.sees(&fleet.repo, tag, None, Moment { clock: 0, synchronised: false }), code, "{seq}");
    }
    // What helps, on a host that accepted something and on one that did not.
    let poisoned = Memory { time_floor: year_2100, time_epoch: 1, ..Memory::default() };
    RootText { version: 2, epoch: 2, ..people.root() }.write(&fleet.repo, &[people.ann(), people.bob()]);
    fleet.repo.commit("epoch 2", None);
    let mut after = Say::of(&fleet.repo, "production", (2, 1));
    after.times = (show_time(later + 60), show_time(later + DAY));
    let after = after.release(&fleet.repo, &[people.ann(), people.bob()]);
    for memory in [host.memory.clone(), poisoned] {
        host.memory = memory;
        assert_eq!(host.sees(&fleet.repo, after, None, kept(later + 60)), "accepted");
        assert!(host.memory.floor_now() <= later + 60);
    }
    // Nothing was accepted yet: a year past the build, and no further.
    let mut fresh = Memory { root: host.memory.root.clone(), ..Memory::default() };
    assert!(fresh.passes(kept(year_2100)));
    assert!(fresh.floor_now() <= built() + 367 * DAY);
}

#[test]
fn r40_another_channel_and_back() {
    let fleet = Fleet::new();
    let people = &fleet.people;
    let hands = [people.ann(), people.bob()];
    let release = |channel: &str, seq| Say::of(&fleet.repo, channel, (1, seq)).release(&fleet.repo, &hands);
    let mut host = Host::new(fleet.trust(""));
    let (five, six) = (release("production", 5), release("production", 6));
    host.takes(&fleet.repo, six);
    host.trust = fleet.trust_in("staging", "");
    host.takes(&fleet.repo, release("staging", 40));
    // The copy that a power cut left behind is of the other channel: its numbers say nothing about this one.
    let stale = host.memory.clone();
    host.trust = fleet.trust("");
    host.refuses(&fleet.repo, five, "rolled-back");
    let (mut twin, say) =
        (Host { trust: fleet.trust(""), memory: stale.clone(), remarks: Vec::new() }, Say::of(&fleet.repo, "production", (1, 6)));
    fleet.repo.commit("another six", None);
    let another = Say { commit: fleet.repo.head(), ..say }.release(&fleet.repo, &hands);
    twin.refuses(&fleet.repo, another, "equivocation");
    // The very one that was in force there is put in force again.
    host.takes(&fleet.repo, six);
    assert_eq!(place(&host.memory), (1, 6));
    host.takes(&fleet.repo, release("production", 7));
    for merged in [host.memory.clone().merge(stale.clone()), stale.clone().merge(host.memory.clone())] {
        let passed = |channel| merged.passed(REPO_ID, channel).unwrap().place.seq;
        assert_eq!((passed("production"), passed("staging")), (7, 40));
    }
    host.trust = fleet.trust_in("staging", "");
    host.refuses(&fleet.repo, release("staging", 39), "rolled-back");
    // However often a person changes it, only so much is remembered.
    for number in 0..40 {
        let mut released = host.memory.release.clone().unwrap();
        released.channel = format!("c{number}");
        host.memory = host.memory.clone().merge(Memory { release: Some(released), turn: host.memory.turn, ..Memory::default() });
    }
    assert!(host.memory.earlier.len() <= 33, "{}", host.memory.earlier.len());
}
