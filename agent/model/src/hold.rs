//! What a person told this host to leave alone for a while: `trimtab suspend`, `resume`, `pin`, `unpin`.
//!
//! With a reason and an end, always: what has no end is forgotten for ever. While one is in force the host is not `Ready`.
//!
//! A hold ends by the wall clock, and never lasts longer than it was made for on the clock that counts from the boot: a wall clock that is
//! set back does not prolong it ([`HoldBook`] keeps the anchor). Limits: one that is set forward ends it early, so a hold is best made with the
//! clock right; a host that comes up with its clock behind counts the whole length anew in each boot, until the clock is set.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The format of the document.
pub const FORMAT: u32 = 1;

/// Everything that is held, a document of its own beside the ledger (`holds.json`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Holds {
    /// [`FORMAT`].
    pub format: u32,
    /// The whole host: nothing is updated, repaired or removed; it is looked at, and what differs is told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suspended: Option<Held>,
    /// Single resources, by [`Change::resource`](crate::plan::Change::resource).
    pub pins: BTreeMap<String, Held>,
}

/// Who holds something, why, and until when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Held {
    /// Why, in the person's words.
    pub reason: String,
    /// Since when, seconds since 1970.
    pub since: u64,
    /// Until when, seconds since 1970; from there on it is as if it had never been.
    pub until: u64,
    /// Who: the login user where known, else the user.
    pub by: String,
}

impl Held {
    /// Whether it is in force at a time, seconds since 1970.
    pub fn holds(&self, now: u64) -> bool {
        now < self.until
    }
}

impl Holds {
    /// What is in force at a time (seconds since 1970), without what has ended.
    #[must_use]
    pub fn at(&self, now: u64) -> Holds {
        Holds {
            format: FORMAT,
            suspended: self.suspended.clone().filter(|held| held.holds(now)),
            pins: self.pins.iter().filter(|(_, held)| held.holds(now)).map(|(name, held)| (name.clone(), held.clone())).collect(),
        }
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.suspended.is_none() && self.pins.is_empty()
    }
}

/// The longest hold, seconds: ninety days.
pub const LONGEST: u64 = 90 * 86_400;

/// How many resources may be pinned at a time.
pub const MAX_PINS: usize = 100;

/// What is held, and from where in this boot each of it is counted; the document on the disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HoldBook {
    /// What is held.
    pub holds: Holds,
    /// By [`Change::resource`](crate::plan::Change::resource), and by [`HOST`] for the whole host.
    pub anchors: BTreeMap<String, Anchor>,
}

/// The name under which a suspension is counted.
pub const HOST: &str = "host";

/// From where in a boot a hold is counted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Anchor {
    /// The boot (`/proc/sys/kernel/random/boot_id`).
    pub boot: String,
    /// When in it, seconds since its begin, time asleep included.
    pub at: u64,
    /// How much of the hold was left then, seconds.
    pub left: u64,
}

/// What the clocks say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clocks {
    /// Seconds since 1970.
    pub wall: u64,
    /// The boot.
    pub boot: String,
    /// Seconds since its begin.
    pub uptime: u64,
}

impl HoldBook {
    /// Holds a resource, or the whole host ([`HOST`]); what held it before is replaced. False: too much is pinned already.
    pub fn hold(&mut self, name: &str, held: Held, now: &Clocks) -> bool {
        let left = held.until.saturating_sub(now.wall).min(LONGEST);
        if name == HOST {
            self.holds.suspended = Some(held);
        } else {
            if self.holds.pins.len() >= MAX_PINS && !self.holds.pins.contains_key(name) {
                return false;
            }
            self.holds.pins.insert(name.to_owned(), held);
        }
        self.holds.format = FORMAT;
        self.anchors.insert(name.to_owned(), Anchor { boot: now.boot.clone(), at: now.uptime, left });
        true
    }

    /// Holds it no longer; what held it, if anything did.
    pub fn release(&mut self, name: &str) -> Option<Held> {
        self.anchors.remove(name);
        if name == HOST { self.holds.suspended.take() } else { self.holds.pins.remove(name) }
    }

    /// Takes out what has ended, which is returned by name, and counts from this boot what was made in an earlier one. The second value:
    /// whether the book is another one than before.
    pub fn review(&mut self, now: &Clocks) -> (Vec<(String, Held)>, bool) {
        let before = self.clone();
        let mut ended = Vec::new();
        for (name, held) in self.all() {
            let anchor = self.anchors.entry(name.clone()).or_insert_with(|| anchor(&held, now));
            if anchor.boot != now.boot {
                *anchor = self::anchor(&held, now);
            }
            if left(&held, anchor, now) == 0 {
                self.release(&name);
                ended.push((name, held));
            }
        }
        let names: Vec<String> = self.all().into_iter().map(|(name, _)| name).collect();
        self.anchors.retain(|name, _| names.contains(name));
        (ended, *self != before)
    }

    /// In how many seconds the next of them ends.
    pub fn next_end(&self, now: &Clocks) -> Option<u64> {
        let of = |(name, held): (String, Held)| self.anchors.get(&name).map(|anchor| left(&held, anchor, now));
        self.all().into_iter().filter_map(of).min()
    }

    fn all(&self) -> Vec<(String, Held)> {
        let host = self.holds.suspended.iter().map(|held| (HOST.to_owned(), held.clone()));
        host.chain(self.holds.pins.iter().map(|(name, held)| (name.clone(), held.clone()))).collect()
    }
}

/// A hold of an earlier boot. A clock that is behind its begin says nothing of how much of it is over.
fn anchor(held: &Held, now: &Clocks) -> Anchor {
    let left = held.until.saturating_sub(now.wall.max(held.since)).min(LONGEST);
    Anchor { boot: now.boot.clone(), at: now.uptime, left }
}

fn left(held: &Held, anchor: &Anchor, now: &Clocks) -> u64 {
    let by_wall = held.until.saturating_sub(now.wall);
    let by_boot = anchor.left.saturating_sub(now.uptime.saturating_sub(anchor.at));
    by_wall.min(by_boot)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clocks(wall: u64, boot: &str, uptime: u64) -> Clocks {
        Clocks { wall, boot: boot.to_owned(), uptime }
    }

    fn held(since: u64, until: u64) -> Held {
        Held { reason: "because".to_owned(), since, until, by: "ana".to_owned() }
    }

    fn book(since: u64, until: u64, now: &Clocks) -> HoldBook {
        let mut book = HoldBook::default();
        assert!(book.hold(HOST, held(since, until), now) && book.hold("file /etc/x", held(since, until + 100), now));
        book
    }

    #[test]
    fn a_hold_ends_by_the_wall_clock_or_by_its_length_whichever_comes_first() {
        let start = clocks(1000, "a", 50);
        let ended = |now: &Clocks| {
            let mut book = book(1000, 1600, &start);
            let (ended, changed) = book.review(now);
            assert_eq!(changed, !ended.is_empty());
            assert_eq!(book.anchors.len() + ended.len(), 2);
            ended.into_iter().map(|(name, _)| name).collect::<Vec<_>>()
        };
        assert!(ended(&clocks(1599, "a", 649)).is_empty());
        assert_eq!(ended(&clocks(1600, "a", 600)), [HOST]);
        assert_eq!(ended(&clocks(1700, "a", 600)), [HOST, "file /etc/x"]);
        // Set back by a year, it ends all the same.
        assert!(ended(&clocks(1, "a", 649)).is_empty());
        assert_eq!(ended(&clocks(1, "a", 650)), [HOST]);
        assert_eq!(book(1000, 1600, &start).next_end(&clocks(1, "a", 640)), Some(10));
    }

    #[test]
    fn a_boot_with_a_clock_that_is_behind_does_not_hold_for_ever() {
        let mut book = book(1000, 1600, &clocks(1000, "a", 50));
        let (ended, changed) = book.review(&clocks(7, "b", 5));
        assert!(ended.is_empty() && changed);
        assert_eq!(book.anchors[HOST].left, 600, "its whole length, and no more");
        assert!(!book.review(&clocks(10, "b", 8)).1, "an idle pass writes nothing");
        assert_eq!(book.clone().review(&clocks(700, "b", 605)).0.len(), 1);
        assert_eq!(book.review(&clocks(1600, "b", 9)).0.len(), 1, "the clock was put right");
        // A book that lost its anchors, or one that says more than anybody may ask for.
        let mut long = HoldBook::default();
        long.hold(HOST, held(0, u64::MAX), &clocks(0, "a", 0));
        long.anchors.clear();
        assert!(long.review(&clocks(5, "a", 5)).0.is_empty());
        assert_eq!(long.review(&clocks(5, "a", 5 + LONGEST)).0.len(), 1);
    }

    #[test]
    fn what_is_pinned_is_bounded_and_released_by_name() {
        let now = clocks(0, "a", 0);
        let mut book = HoldBook::default();
        for number in 0..MAX_PINS {
            assert!(book.hold(&format!("file /{number}"), held(0, 10), &now));
        }
        assert!(!book.hold("file /more", held(0, 10), &now));
        assert!(book.hold("file /1", held(0, 20), &now) && book.hold(HOST, held(0, 10), &now));
        assert_eq!(book.release("file /1").map(|held| held.until), Some(20));
        assert!(book.release("file /1").is_none() && book.release(HOST).is_some());
    }
}
