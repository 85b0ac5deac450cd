//! Attacks with `alive` statements: genuine words of the key that may say them, about something else, and words of keys that may not any more.

use gix_hash::ObjectId;
use trimtab::trust::decide::decide;
use trimtab::trust::fresh::{Freshness, freshness};
use trimtab::trust::memory::{Memory, Moment};
use trimtab::trust::release::Rules;
use trimtab::trust::statement::show_time;
use trimtab_tests::release::{Hand, REPO_ID, RootText, Say, signed_tag};

use super::releases::{DAY, Fleet, kept};
use super::{NOW, assert_code};

/// What a host says that is at this release and hears this word.
fn hears(fleet: &Fleet, (tag, code): (ObjectId, &str), word: ObjectId, memory: &Memory, moment: Moment) -> (Memory, Vec<String>) {
    let judged = decide(tag, Some(word), &mut fleet.repo.source(), &fleet.trust(""), memory, moment);
    assert_code(&judged.verdict, code);
    (judged.memory.unwrap_or_else(|| memory.clone()), judged.remarks)
}

/// A word that is made at this time and good for a day.
fn word(fleet: &Fleet, place: (u64, u64), at: u64) -> Say {
    Say { times: (show_time(at), show_time(at + DAY)), ..Say::of(&fleet.repo, "production", place) }
}

fn fresh(fleet: &Fleet, memory: &Memory) -> Freshness {
    freshness(memory, Rules::of(&fleet.trust("")).unwrap(), kept(NOW))
}

#[test]
fn a_word_about_something_else_says_nothing() {
    let fleet = Fleet::new();
    let ci = [fleet.people.ci()];
    let one = fleet.release(1);
    let memory = fleet.accept(one, &Memory::default(), kept(NOW));
    let honest = word(&fleet, (1, 1), NOW);
    let staging = Say { channel: "staging".to_owned(), ..honest.clone() };
    let bytes = honest.alive(&[]);
    let text = &bytes[bytes.windows(2).position(|two| two == b"\n\n").unwrap() + 2..];
    let renamed = signed_tag(honest.commit, "staging.alive", std::str::from_utf8(text).unwrap(), &ci);
    for (bytes, expected) in [
        (Say { repo: REPO_ID.replace("1b4e", "2b4e"), ..honest.clone() }.alive(&ci), "its repository is"),
        // Of the same key, which may say so of either channel, and perhaps says it of staging more often.
        (staging.alive(&ci), "its channel is \"staging\""),
        (renamed, "its tag's name is \"staging.alive\""),
        (Say { place: (2, 1), ..honest.clone() }.alive(&ci), "its epoch is \"2\""),
        (word(&fleet, (1, 1), NOW + 700).alive(&ci), "dated in the future"),
        (honest.alive(&[]), "it carries no signature"),
    ] {
        let id = fleet.repo.object("tag", &bytes);
        let (same, remarks) = hears(&fleet, (one, "unchanged"), id, &memory, kept(NOW));
        assert!(same == memory && remarks.len() == 1 && remarks[0].contains(expected), "{expected}: {remarks:?}");
        assert_eq!(fresh(&fleet, &same), Freshness::Unknown);
    }
    let (heard, remarks) = hears(&fleet, (one, "unchanged"), fleet.repo.object("tag", &honest.alive(&ci)), &memory, kept(NOW));
    assert_eq!((fresh(&fleet, &heard), remarks.len()), (Freshness::Fresh, 0));
}

#[test]
fn a_word_ends_with_the_role_that_said_it() {
    // Another key is named for it, or two of those that are named are asked for.
    let roles: [[(usize, &[&'static str]); 2]; 2] = [[(1, &["ci"]), (1, &["ann"])], [(1, &["ci", "ann"]), (2, &["ci", "ann"])]];
    for [before, after] in roles {
        let fleet = Fleet::new();
        let people = &fleet.people;
        let rotate = |version, (threshold, keys): (usize, &[&'static str])| {
            let mut root = RootText { version, ..people.root() };
            let role = root.roles.iter_mut().find(|(name, ..)| *name == "alive.production").unwrap();
            (role.1, role.2) = (threshold, keys.to_vec());
            root.write(&fleet.repo, &[people.ann(), people.bob()]);
            fleet.repo.commit("the next root", None);
        };
        rotate(2, before);
        let one = fleet.release(1);
        let ahead = fleet.repo.object("tag", &word(&fleet, (1, 9), NOW).alive(&[people.ci()]));
        let (memory, _) = hears(&fleet, (one, "accepted"), ahead, &Memory::default(), kept(NOW));
        assert!(matches!(fresh(&fleet, &memory), Freshness::Withheld(_)));
        rotate(3, after);
        // It is neither measured by what they said nor told by it, before anybody else has said anything.
        let two = fleet.release(2);
        let memory = fleet.accept(two, &memory, kept(NOW));
        assert_eq!((fresh(&fleet, &memory), memory.heard("production")), (Freshness::Unknown, None));
        let hands: Vec<Hand<'_>> = after.1.iter().map(|name| if *name == "ci" { people.ci() } else { people.ann() }).collect();
        let next = fleet.repo.object("tag", &word(&fleet, (1, 2), NOW).alive(&hands));
        let (memory, remarks) = hears(&fleet, (two, "unchanged"), next, &memory, kept(NOW));
        assert_eq!((fresh(&fleet, &memory), remarks.len()), (Freshness::Fresh, 0), "{remarks:?}");
    }
}

#[test]
fn what_a_word_revealed_is_known_though_its_release_was_held_back() {
    let fleet = Fleet::new();
    let trust = fleet.trust("on-stale = \"hold\"");
    let ci = [fleet.people.ci()];
    let says = |seq, at| fleet.repo.object("tag", &word(&fleet, (1, seq), at).alive(&ci));
    let mut memory = Memory::default();
    let mut sees = |tag, word, code: &str| {
        let judged = decide(tag, Some(word), &mut fleet.repo.source(), &trust, &memory, kept(NOW));
        assert_code(&judged.verdict, code);
        if let Some(found) = judged.memory {
            memory = Memory::from_text(&found.to_text()).unwrap();
        }
    };
    sees(fleet.release(1), says(1, NOW - 60), "accepted");
    let two = fleet.release(2);
    // There is a third one. Whoever keeps it back shows an earlier word beside the second one then: genuine, and overtaken.
    sees(two, says(3, NOW), "stale");
    sees(two, says(2, NOW - 30), "stale");
    sees(fleet.release(3), says(3, NOW), "accepted");
}
