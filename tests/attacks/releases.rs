//! Attacks with releases: genuine statements in another order or place than their signers meant, and statements that nobody meant.

use gix_hash::ObjectId;
use trimtab::trust::decide::decide;
use trimtab::trust::fresh::{Freshness, freshness};
use trimtab::trust::keys::TrustConfig;
use trimtab::trust::memory::{Memory, Moment};
use trimtab::trust::release::{Judged, Rules};
use trimtab::trust::statement::Place;
use trimtab::trust::tree;
use trimtab::wire::ObjectSource;
use trimtab_tests::git::{IDENTITY, Key, Liar, Repo, command};
use trimtab_tests::release::{Hand, Mini, REPO_ID, RootText, Say, signed_tag};

use super::{NOW, assert_code};

pub(super) const DAY: u64 = 86_400;

/// The clock of a host that something keeps in step.
pub(super) fn kept(clock: u64) -> Moment {
    Moment { clock, synchronised: true }
}

/// The clock of a host that nothing keeps.
fn loose(clock: u64) -> Moment {
    Moment { clock, synchronised: false }
}

/// Three people's keys, one of them minisign's, and one of nobody's.
pub(super) struct People {
    pub(super) ann: Key,
    pub(super) bob: Key,
    pub(super) safe: Mini,
    pub(super) ci: Key,
    pub(super) eve: Key,
}

impl People {
    pub(super) fn new() -> Self {
        let key = Key::new;
        Self { ann: key("ann"), bob: key("bob"), safe: Mini::new(), ci: key("ci"), eve: key("eve") }
    }

    pub(super) fn ann(&self) -> Hand<'_> {
        Hand::Ssh(&self.ann)
    }

    pub(super) fn bob(&self) -> Hand<'_> {
        Hand::Ssh(&self.bob)
    }

    pub(super) fn safe(&self) -> Hand<'_> {
        Hand::Mini(&self.safe)
    }

    pub(super) fn ci(&self) -> Hand<'_> {
        Hand::Ssh(&self.ci)
    }

    pub(super) fn eve(&self) -> Hand<'_> {
        Hand::Ssh(&self.eve)
    }

    /// Root 1: two of three for everything, one for staging and for `alive`.
    pub(super) fn root(&self) -> RootText<'_> {
        let all: &[&str] = &["ann", "bob", "safe"];
        RootText::new(
            &[("ann", self.ann()), ("bob", self.bob()), ("safe", self.safe()), ("ci", self.ci())],
            &[
                ("root", 2, all),
                ("release.production", 2, all),
                ("release.staging", 2, all),
                ("alive.production", 1, &["ci"]),
                ("commit.main", 0, &["ann"]),
            ],
        )
    }
}

/// A repository with root 1 in its tree, and a host that pinned it.
pub(super) struct Fleet {
    pub(super) repo: Repo,
    pub(super) people: People,
}

impl Fleet {
    pub(super) fn new() -> Self {
        Self::of(People::new())
    }

    pub(super) fn of(people: People) -> Self {
        let repo = Repo::new();
        repo.write("fleet.toml", "format = 1\n");
        people.root().write(&repo, &[people.ann(), people.safe()]);
        repo.commit("one", None);
        Self { repo, people }
    }

    /// What a host of the channel trusts.
    pub(super) fn trust(&self, more: &str) -> TrustConfig {
        self.trust_in("production", more)
    }

    pub(super) fn trust_in(&self, channel: &str, more: &str) -> TrustConfig {
        let text = format!("mode = \"release\"\nchannel = \"{channel}\"\nrepo = \"{REPO_ID}\"\nroot = \"root.toml\"\n{more}\n");
        let trust = TrustConfig::parse("trust.toml", &text).unwrap_or_else(|findings| panic!("{}", findings.draw(false)));
        trust.with_root("root.toml", &self.people.root().text()).unwrap()
    }

    pub(super) fn judge(&self, tag: ObjectId, memory: &Memory, moment: Moment) -> Judged {
        self.judge_with(&self.trust(""), tag, memory, moment)
    }

    pub(super) fn judge_with(&self, trust: &TrustConfig, tag: ObjectId, memory: &Memory, moment: Moment) -> Judged {
        let judged = decide(tag, None, &mut self.repo.source(), trust, memory, moment);
        assert_eq!(judged.verdict.class().is_none(), judged.verdict.proven().is_some(), "{:?}", judged.verdict);
        judged
    }

    /// A release of what is checked out, by two of three.
    pub(super) fn release(&self, seq: u64) -> ObjectId {
        Say::of(&self.repo, "production", (1, seq)).release(&self.repo, &[self.people.safe(), self.people.ann()])
    }

    /// What a host remembers that accepts this tag.
    #[track_caller]
    pub(super) fn accept(&self, tag: ObjectId, memory: &Memory, moment: Moment) -> Memory {
        let judged = self.judge(tag, memory, moment);
        assert_code(&judged.verdict, "accepted");
        // As it comes back from the disk.
        Memory::from_text(&judged.memory.expect("because something was accepted").to_text()).unwrap()
    }

    /// Asserts that a tag of these bytes is refused, and that nothing is remembered of it; what is said.
    #[track_caller]
    pub(super) fn refuses(&self, bytes: &[u8], memory: &Memory, code: &str) -> String {
        let judged = self.judge(self.repo.object("tag", bytes), memory, kept(NOW));
        assert_code(&judged.verdict, code);
        let remembered = judged.memory.unwrap_or_else(|| memory.clone());
        assert_eq!((remembered.release, remembered.accepted), (memory.release.clone(), memory.accepted.clone()));
        judged.verdict.to_string()
    }
}

pub(super) fn place(memory: &Memory) -> (u64, u64) {
    let Place { epoch, seq } = memory.release.as_ref().expect("because a release was accepted").place;
    (epoch, seq)
}

#[test]
fn r01_r02_r03_the_first_the_same_and_the_next_release_are_taken() {
    let fleet = Fleet::new();
    let one = fleet.release(1);
    let memory = fleet.accept(one, &Memory::default(), kept(NOW));
    assert_eq!(place(&memory), (1, 1));
    assert_eq!(memory.accepted.as_ref().unwrap().commit, fleet.repo.head());
    assert_eq!(memory.release.as_ref().unwrap().signers.len(), 2);
    let same = fleet.judge(one, &memory, kept(NOW));
    assert_code(&same.verdict, "unchanged");
    assert_eq!(same.memory, None);
    fleet.repo.write("fleet.toml", "format = 1\n# two\n");
    fleet.repo.commit("two", None);
    assert_eq!(place(&fleet.accept(fleet.release(2), &memory, kept(NOW))), (1, 2));
    // What is proven opens the tree.
    let judged = fleet.judge(one, &Memory::default(), kept(NOW));
    let proven = judged.verdict.proven().unwrap();
    let bundle = tree::read(proven, &mut fleet.repo.source(), &["fleet.toml".parse().unwrap()], |_| Vec::new()).unwrap();
    assert_eq!(bundle.files.values().next().unwrap().bytes, b"format = 1\n");
}

#[test]
fn plain_git_makes_the_last_signature_and_git_verifies_it() {
    let fleet = Fleet::new();
    let say = Say::of(&fleet.repo, "production", (1, 7));
    // What an offline minisign key signs is what `git tag` will write: its headers and the text.
    let mini = fleet.people.safe().block(
        "git",
        format!("object {}\ntype commit\ntag {}\ntagger {IDENTITY}\n\n{}", say.commit, say.name(), say.text()).as_bytes(),
    );
    let message = fleet.repo.path().join("message");
    std::fs::write(&message, [say.text().as_bytes(), &mini].concat()).unwrap();
    let key = format!("user.signingkey={}", fleet.people.ann.path().display());
    let (name, commit) = (say.name(), say.commit.to_string());
    fleet.repo.git(&["-c", &key, "tag", "-s", "--cleanup=verbatim", "-F", message.to_str().unwrap(), &name, &commit]);
    let tag = fleet.repo.resolve(&format!("refs/tags/{name}"));
    assert_eq!(place(&fleet.accept(tag, &Memory::default(), kept(NOW))), (1, 7));
    // The same bytes as those that are put together by hand.
    assert_eq!(fleet.repo.content("tag", tag), say.tag(&[fleet.people.safe(), fleet.people.ann()]));
    let signers = fleet.repo.path().join("signers");
    std::fs::write(&signers, format!("ann@example.org {}\n", fleet.people.ann.line())).unwrap();
    let allowed = format!("gpg.ssh.allowedSignersFile={}", signers.display());
    let mut verify = command("git", fleet.repo.path());
    verify.arg("-C").arg(fleet.repo.path()).args(["-c", "gpg.format=ssh", "-c", &allowed, "verify-tag", &name]);
    let verified = verify.output().unwrap();
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
    fleet.repo.git(&["fsck", "--strict", "--no-dangling"]);
}

#[test]
fn r04_an_older_release_is_served_again() {
    let fleet = Fleet::new();
    let (one, two) = (fleet.release(1), fleet.release(2));
    let memory = fleet.accept(two, &Memory::default(), kept(NOW));
    assert_code(&fleet.judge(one, &memory, kept(NOW)).verdict, "rolled-back");
    // Also when nobody knows what time it is.
    assert_code(&fleet.judge(one, &memory, loose(0)).verdict, "rolled-back");
}

#[test]
fn r05_two_releases_with_one_number() {
    let fleet = Fleet::new();
    let memory = fleet.accept(fleet.release(2), &Memory::default(), kept(NOW));
    fleet.repo.commit("another", None);
    assert_code(&fleet.judge(fleet.release(2), &memory, kept(NOW)).verdict, "equivocation");
}

#[test]
fn a_further_signature_changes_nothing_about_the_release() {
    let fleet = Fleet::new();
    let say = Say::of(&fleet.repo, "production", (1, 1));
    let memory = fleet.accept(say.release(&fleet.repo, &[fleet.people.safe(), fleet.people.ann()]), &Memory::default(), kept(NOW));
    let more = say.release(&fleet.repo, &[fleet.people.safe(), fleet.people.ann(), fleet.people.eve(), fleet.people.bob()]);
    let judged = fleet.judge(more, &memory, kept(NOW));
    assert_code(&judged.verdict, "unchanged");
    let release = judged.memory.unwrap().release.unwrap();
    assert_eq!((release.tag, release.signers.len()), (more, 3));
}

#[test]
fn r06_r07_r08_r09_unsigned_foreign_too_few_and_the_same_twice() {
    let fleet = Fleet::new();
    let (people, memory) = (&fleet.people, Memory::default());
    let say = Say::of(&fleet.repo, "production", (1, 1));
    fleet.refuses(&say.tag(&[]), &memory, "unsigned");
    fleet.refuses(&say.tag(&[people.eve()]), &memory, "unknown-signer");
    fleet.refuses(&say.tag(&[people.ann()]), &memory, "below-threshold");
    fleet.refuses(&say.tag(&[people.safe()]), &memory, "below-threshold");
    fleet.refuses(&say.tag(&[people.ann(), people.ann()]), &memory, "below-threshold");
    fleet.refuses(&say.tag(&[people.ann(), people.eve(), people.ci()]), &memory, "below-threshold");
    let verdict = fleet.judge(fleet.repo.object("tag", &say.tag(&[people.ann()])), &memory, kept(NOW)).verdict.to_string();
    assert!(verdict.contains("1 of 2") && verdict.contains("ann, bob, safe"), "{verdict}");
}

#[test]
fn r10_a_release_of_another_channel_by_the_same_people() {
    let fleet = Fleet::new();
    let staging = Say::of(&fleet.repo, "staging", (1, 1)).release(&fleet.repo, &[fleet.people.ann(), fleet.people.bob()]);
    assert_code(&fleet.judge(staging, &Memory::default(), kept(NOW)).verdict, "wrong-channel");
    assert_code(&fleet.judge_with(&fleet.trust_in("staging", ""), staging, &Memory::default(), kept(NOW)).verdict, "accepted");
    assert_code(&fleet.judge_with(&fleet.trust_in("other", ""), staging, &Memory::default(), kept(NOW)).verdict, "no-role");
}

#[test]
fn r11_a_release_of_another_repository_by_the_same_people() {
    let fleet = Fleet::new();
    let mut say = Say::of(&fleet.repo, "production", (1, 1));
    say.repo = REPO_ID.replace("1b4e", "2b4e");
    fleet.refuses(&say.tag(&[fleet.people.ann(), fleet.people.bob()]), &Memory::default(), "wrong-repository");
}

#[test]
fn r12_every_byte_of_the_statement_and_the_headers_is_signed() {
    let fleet = Fleet::new();
    fleet.repo.commit("two", None);
    let (head, before) = (fleet.repo.head().to_string(), fleet.repo.resolve("HEAD~1").to_string());
    let tag = Say::of(&fleet.repo, "production", (1, 1)).tag(&[fleet.people.safe(), fleet.people.ann()]);
    let text = String::from_utf8(tag).unwrap();
    for (from, to) in [
        (format!("object {head}"), format!("object {before}")),
        (format!("commit: {head}"), format!("commit: {before}")),
        ("seq: 1".to_owned(), "seq: 2".to_owned()),
        ("tag production/1.1".to_owned(), "tag production/1.2".to_owned()),
        ("tagger Ann".to_owned(), "tagger Bob".to_owned()),
        ("expires: 2027".to_owned(), "expires: 2037".to_owned()),
    ] {
        assert!(text.contains(&from), "{from}");
        fleet.refuses(text.replacen(&from, &to, 1).as_bytes(), &Memory::default(), "forged");
    }
    // The first block is covered by the second; only minisign's untrusted comment is nobody's in the last one.
    let comment = text.replacen("untrusted comment: ", "untrusted comment: x ", 1);
    fleet.refuses(comment.as_bytes(), &Memory::default(), "forged");
}

#[test]
fn r13_signed_and_inconsistent() {
    let fleet = Fleet::new();
    fleet.repo.write("other", "x");
    fleet.repo.commit("two", None);
    let hands = [fleet.people.ann(), fleet.people.bob()];
    let say = Say::of(&fleet.repo, "production", (1, 1));
    let elsewhere = Say { commit: fleet.repo.resolve("HEAD~1"), ..say.clone() };
    // Commit, name and tree each say something else than what they are attached to.
    fleet.refuses(&signed_tag(say.commit, &say.name(), &elsewhere.text(), &hands), &Memory::default(), "mismatch");
    fleet.refuses(&signed_tag(say.commit, "production/1.2", &say.text(), &hands), &Memory::default(), "mismatch");
    let tree = Say { tree: fleet.repo.resolve("HEAD~1^{tree}"), ..say.clone() };
    fleet.refuses(&tree.tag(&hands), &Memory::default(), "mismatch");
    fleet.refuses(&Say { root: 2, ..say.clone() }.tag(&hands), &Memory::default(), "root-missing");
    fleet.refuses(&Say { place: (2, 1), ..say }.tag(&hands), &Memory::default(), "wrong-epoch");
}

#[test]
fn r14_r15_r16_r17_time() {
    let fleet = Fleet::new();
    let one = fleet.release(1);
    let (trust, empty) = (fleet.trust(""), Memory::default());
    let fresh = |memory: &Memory, moment| {
        // Without the root's `alive` role: what the release itself says.
        let mut memory = memory.clone();
        memory.root.as_mut().unwrap().root.alive.clear();
        freshness(&memory, Rules::of(&trust).unwrap(), moment)
    };
    // R14: never seen, and run out.
    assert_code(&fleet.judge(one, &empty, kept(NOW + 61 * DAY)).verdict, "expired");
    // R15: frozen. It stays what it is, and is told.
    let memory = fleet.accept(one, &empty, kept(NOW));
    assert_eq!(fresh(&memory, kept(NOW)), Freshness::Fresh);
    assert_code(&fleet.judge(one, &memory, kept(NOW + 61 * DAY)).verdict, "unchanged");
    assert_eq!(fresh(&memory, kept(NOW + 61 * DAY)), Freshness::Expired);
    // R16: a clock that nobody keeps refuses nothing.
    let behind = fleet.accept(one, &empty, loose(0));
    assert_eq!(fresh(&behind, loose(0)), Freshness::Unknown);
    let ahead = fleet.accept(one, &empty, loose(2_060_000_000));
    assert_eq!(fresh(&ahead, loose(2_060_000_000)), Freshness::Unknown);
    assert_eq!(fresh(&ahead, kept(NOW)), Freshness::Fresh, "a clock that was wrong leaves nothing behind");
    // What has certainly passed counts without any clock.
    let certain = Memory { time_floor: NOW + 61 * DAY, time_epoch: 1, ..Memory::default() };
    assert_code(&fleet.judge(one, &certain, loose(0)).verdict, "expired");
    // R17: dated into the future.
    let mut late = Say::of(&fleet.repo, "production", (1, 2));
    late.times = ("2027-01-15T08:12:00Z".into(), "2027-03-16T08:00:00Z".into());
    let late = late.release(&fleet.repo, &[fleet.people.ann(), fleet.people.bob()]);
    assert_code(&fleet.judge(late, &empty, kept(NOW)).verdict, "post-dated");
    assert_code(&fleet.judge(late, &empty, kept(NOW + 120)).verdict, "accepted");
    assert_code(&fleet.judge(late, &empty, loose(NOW)).verdict, "accepted");
}

#[test]
fn on_stale_hold_takes_nothing_that_is_not_known_to_be_fresh() {
    let fleet = Fleet::new();
    let hold = fleet.trust_in("staging", "on-stale = \"hold\"");
    let tag = Say::of(&fleet.repo, "staging", (1, 1)).release(&fleet.repo, &[fleet.people.ann(), fleet.people.bob()]);
    assert_code(&fleet.judge_with(&hold, tag, &Memory::default(), kept(NOW)).verdict, "accepted");
    let judged = fleet.judge_with(&hold, tag, &Memory::default(), loose(2_060_000_000));
    assert_code(&judged.verdict, "stale");
    let memory = judged.memory.unwrap();
    assert!(memory.release.is_none() && memory.accepted.is_none() && memory.root.is_some());
}

#[test]
fn r19_r31_a_source_that_lies_about_the_tag_the_commit_or_a_root() {
    let fleet = Fleet::new();
    let (tag, trust) = (fleet.release(1), fleet.trust(""));
    let commit = fleet.repo.head();
    let folder = fleet.repo.resolve("HEAD:.trimtab/root");
    for wanted in [tag, commit, folder] {
        let mut liar = Liar {
            honest: fleet.repo.source(),
            lie: |_, id, bytes: &mut Vec<u8>| {
                if id == wanted {
                    bytes[50] ^= 1;
                }
            },
        };
        assert_code(&decide(tag, None, &mut liar, &trust, &Memory::default(), kept(NOW)).verdict, "wrong-object");
    }
    let mut endless = Liar { honest: fleet.repo.source(), lie: |_, _, bytes: &mut Vec<u8>| bytes.resize(17 << 20, 0) };
    assert_code(&decide(tag, None, &mut endless, &trust, &Memory::default(), kept(NOW)).verdict, "malformed");
}

#[test]
fn r28_r29_the_reference_names_something_else() {
    let fleet = Fleet::new();
    assert_code(&fleet.judge(fleet.repo.head(), &Memory::default(), kept(NOW)).verdict, "not-a-tag");
    let ordinary = signed_tag(fleet.repo.head(), "v1", "version one\n", &[fleet.people.ann(), fleet.people.bob()]);
    fleet.refuses(&ordinary, &Memory::default(), "not-a-release");
    let nothing = fleet.judge(trimtab_tests::git::id(&"0a".repeat(20)), &Memory::default(), kept(NOW));
    assert_code(&nothing.verdict, "unavailable");
}

#[test]
fn r30_bytes_around_the_signatures_and_fields_that_are_not_known() {
    let fleet = Fleet::new();
    let hands = [fleet.people.ann(), fleet.people.bob()];
    let say = Say::of(&fleet.repo, "production", (1, 1));
    let tag = say.tag(&hands);
    for after in ["x", "\n", "text\n"] {
        fleet.refuses(&[&tag, after.as_bytes()].concat(), &Memory::default(), "malformed");
    }
    for more in ["x: 1\n", "extra: 1\n", "seq: 1\n", "x-a: 1\nx-a: 2\n"] {
        fleet.refuses(&Say { more: more.to_owned(), ..say.clone() }.tag(&hands), &Memory::default(), "malformed-statement");
    }
    let own = Say { more: "x-ticket: OPS-7\n".to_owned(), ..say }.tag(&hands);
    assert_code(&fleet.judge(fleet.repo.object("tag", &own), &Memory::default(), kept(NOW)).verdict, "accepted");
}

#[test]
fn signatures_of_another_kind_or_purpose_do_not_count() {
    let fleet = Fleet::new();
    let say = Say::of(&fleet.repo, "production", (1, 1));
    let bytes = say.tag(&[]);
    let with = |block: &[u8]| [&bytes[..], block].concat();
    // Signed as a root, and as a file.
    fleet.refuses(&with(&fleet.people.ann().block("trimtab-root", &bytes)), &Memory::default(), "forged");
    fleet.refuses(&with(&fleet.people.ann().block("file", &bytes)), &Memory::default(), "forged");
    // minisign's old kind, and another key under a trusted one's name.
    let legacy = fleet.people.safe.minisig(&bytes, &["-l"]);
    fleet.refuses(
        &with(format!("-----BEGIN MINISIGN SIGNATURE-----\n{legacy}-----END MINISIGN SIGNATURE-----\n").as_bytes()),
        &Memory::default(),
        "forged",
    );
    let stranger = Mini::new();
    fleet.refuses(&with(&Hand::Mini(&stranger).block("git", &bytes)), &Memory::default(), "unknown-signer");
    let pgp = b"-----BEGIN PGP SIGNATURE-----\n\niQ\n-----END PGP SIGNATURE-----\n";
    let words = fleet.refuses(&with(pgp), &Memory::default(), "unknown-signer");
    assert!(words.contains("an OpenPGP key (which counts for nobody in releases and roots: sign with an SSH key"), "{words}");
    let one = [&with(&fleet.people.ann().block("git", &bytes))[..], pgp].concat();
    let words = fleet.refuses(&one, &Memory::default(), "below-threshold");
    assert!(words.contains("signed by ann (1 of 2), and by an OpenPGP key") && words.contains("--countersign"), "{words}");
    // A block taken from another release.
    let other = Say { place: (1, 2), ..say }.tag(&[fleet.people.ann()]);
    let at = other.windows(10).position(|window| window == b"-----BEGIN").unwrap();
    fleet.refuses(&with(&other[at..]), &Memory::default(), "forged");
}

#[test]
fn r33_going_back_on_purpose_is_a_new_release_of_an_old_commit() {
    let fleet = Fleet::new();
    let old = fleet.repo.head();
    fleet.repo.write("fleet.toml", "format = 1\n# bad\n");
    fleet.repo.commit("bad", None);
    let memory = fleet.accept(fleet.release(1), &Memory::default(), kept(NOW));
    let mut back = Say::of(&fleet.repo, "production", (1, 2));
    (back.commit, back.tree) = (old, fleet.repo.resolve("HEAD~1^{tree}"));
    let memory = fleet.accept(back.release(&fleet.repo, &[fleet.people.ann(), fleet.people.safe()]), &memory, kept(NOW));
    assert_eq!((memory.accepted.as_ref().unwrap().commit, place(&memory)), (old, (1, 2)));
}

#[test]
fn r34_a_lost_memory_falls_back_to_the_floor_of_trust_toml() {
    let fleet = Fleet::new();
    let (below, at) = (fleet.release(39), fleet.release(40));
    let trust = fleet.trust("min-epoch = 1\nmin-seq = 40");
    let lost = Memory { lost: Some(NOW), ..Memory::default() };
    assert_code(&fleet.judge_with(&trust, below, &lost, kept(NOW)).verdict, "rolled-back");
    let judged = fleet.judge_with(&trust, at, &lost, kept(NOW));
    assert_code(&judged.verdict, "accepted");
    // Told until a second release was accepted.
    let memory = judged.memory.unwrap();
    assert_eq!(memory.lost, Some(NOW));
    let next = fleet.judge_with(&trust, fleet.release(41), &memory, kept(NOW));
    assert_eq!(next.memory.unwrap().lost, None);
}

#[test]
fn an_alive_statement_prolongs_reveals_and_never_installs() {
    let fleet = Fleet::new();
    let (trust, one) = (fleet.trust(""), fleet.release(1));
    let rules = Rules::of(&trust).unwrap();
    let memory = fleet.accept(one, &Memory::default(), kept(NOW));
    // Somebody is to say so every day, and nobody has yet.
    assert_eq!(freshness(&memory, rules, kept(NOW)), Freshness::Unknown);
    let alive = |seq, issued: &str, expires: &str, hand: Hand<'_>| {
        let mut say = Say::of(&fleet.repo, "production", (1, seq));
        say.times = (issued.to_owned(), expires.to_owned());
        fleet.repo.object("tag", &say.alive(&[hand]))
    };
    let hear = |memory: &Memory, alive, clock| {
        let judged = decide(one, Some(alive), &mut fleet.repo.source(), &trust, memory, kept(clock));
        assert_code(&judged.verdict, "unchanged");
        (judged.memory.unwrap_or_else(|| memory.clone()), judged.remarks)
    };
    let today = alive(1, "2027-01-15T08:00:00Z", "2027-01-16T08:00:00Z", fleet.people.ci());
    let (memory, remarks) = hear(&memory, today, NOW);
    assert_eq!((remarks.len(), freshness(&memory, rules, kept(NOW))), (0, Freshness::Fresh));
    // Frozen: a day later it shows, though the release has two months to go.
    assert_eq!(freshness(&memory, rules, kept(NOW + 2 * DAY)), Freshness::Expired);
    // Beyond the release's own end.
    let long = alive(1, "2027-01-15T08:01:00Z", "2028-01-15T08:00:00Z", fleet.people.ci());
    let (prolonged, _) = hear(&memory, long, NOW);
    assert_eq!(freshness(&prolonged, rules, kept(NOW + 100 * DAY)), Freshness::Fresh);
    // An older word does not undo a newer one.
    assert_eq!(hear(&prolonged, today, NOW).0, prolonged);
    // A newer release exists than the one that is served: told, and not installed.
    let newer = alive(2, "2027-01-15T08:01:00Z", "2027-01-16T08:00:00Z", fleet.people.ci());
    let (withheld, _) = hear(&memory, newer, NOW);
    assert_eq!(freshness(&withheld, rules, kept(NOW)), Freshness::Withheld(Place { epoch: 1, seq: 2 }));
    assert_eq!(place(&withheld), (1, 1));
    // By nobody who may say so: told, and without effect.
    for hand in [fleet.people.eve(), fleet.people.ann()] {
        let (same, remarks) = hear(&memory, alive(9, "2027-01-15T08:01:00Z", "2028-01-15T08:00:00Z", hand), NOW);
        assert_eq!((same, remarks.len()), (memory.clone(), 1));
    }
    // As a release it is none, whoever signed it.
    let say = Say::of(&fleet.repo, "production", (1, 9));
    fleet.refuses(&say.alive(&[fleet.people.ann(), fleet.people.bob()]), &memory, "not-a-release");
}

#[test]
fn two_hosts_that_are_told_different_things_remember_different_digests() {
    let fleet = Fleet::new();
    let (one, hands) = (fleet.release(5), [fleet.people.ann(), fleet.people.bob()]);
    let here = fleet.accept(one, &Memory::default(), kept(NOW));
    fleet.repo.commit("for the other one", None);
    let there =
        fleet.accept(Say::of(&fleet.repo, "production", (1, 5)).release(&fleet.repo, &hands), &Memory::default(), kept(NOW));
    let digest = |memory: &Memory| memory.release.as_ref().unwrap().statement;
    assert_eq!(place(&here), place(&there));
    assert_ne!(digest(&here), digest(&there));
}

#[test]
fn a_source_that_is_asked_for_a_release_is_asked_little() {
    let fleet = Fleet::new();
    let tag = fleet.release(1);
    let mut counted = trimtab_tests::git::Counted::new(fleet.repo.source());
    let judged = decide(tag, None, &mut counted, &fleet.trust(""), &Memory::default(), kept(NOW));
    assert_code(&judged.verdict, "accepted");
    // The tag, its commit, and the three folders down to the roots.
    assert_eq!(counted.calls.len(), 5, "{:?}", counted.calls);
    let _: &mut dyn ObjectSource = &mut counted;
}
