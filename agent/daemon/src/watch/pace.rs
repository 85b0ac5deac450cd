//! How soon something that was seen is looked at: at once, but never back to back.
//!
//! Pure: the time is handed in. A first event waits a moment for those that belong to it (an editor writes, renames and sets modes). What
//! comes again and again waits longer each time, so that a file that is written a thousand times a second, or something that fights the
//! repair, costs a look now and then. Guarantees: everything that was seen is looked at within [`LONGEST`] of it; something
//! new is never held up by what comes again and again.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// After the last event, this long nothing more must come; at most [`MOST`] after the first.
const QUIET: Duration = Duration::from_millis(100);
const MOST: Duration = Duration::from_millis(400);

/// Between two looks that events asked for.
const APART: Duration = Duration::from_millis(500);

/// The same resource is looked at this often before it has to wait.
const FREE: u32 = 3;

/// The longest that a resource which comes again and again waits.
pub(super) const LONGEST: Duration = Duration::from_secs(30);

/// After this long without an event it counts as new again.
const FORGET: Duration = Duration::from_secs(60);

/// What we did is told of within this.
const SOON: Duration = Duration::from_secs(5);

/// How many resources are remembered; beyond that the coldest are forgotten.
const MAX_HOT: usize = 2048;

/// How often each resource came lately.
#[derive(Debug, Default)]
pub(super) struct Pace {
    hot: BTreeMap<String, Heat>,
    expected: BTreeMap<String, Instant>,
    last: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
struct Heat {
    times: u32,
    last: Instant,
}

impl Heat {
    fn again(&self) -> Instant {
        if self.times < FREE {
            return self.last;
        }
        self.last + Duration::from_secs(1 << (self.times - FREE).min(5)).min(LONGEST)
    }
}

impl Pace {
    /// When to look, for what was seen from `first` to `last`.
    pub(super) fn due<'a>(&self, first: Instant, last: Instant, seen: impl Iterator<Item = &'a str>) -> Instant {
        let settled = (last + QUIET).min(first + MOST);
        let ready = seen.map(|resource| self.hot.get(resource).map_or(first, Heat::again)).min().unwrap_or(first);
        let apart = self.last.map_or(first, |last| last + APART);
        settled.max(ready).max(apart)
    }

    /// The next event of each of these is our own doing, if it comes soon.
    pub(super) fn expect<'a>(&mut self, now: Instant, resources: impl Iterator<Item = &'a str>) {
        self.expected = resources.take(MAX_HOT).map(|resource| (resource.to_owned(), now)).collect();
    }

    /// These are looked at now.
    pub(super) fn looked<'a>(&mut self, now: Instant, seen: impl Iterator<Item = &'a str>) {
        self.last = Some(now);
        self.hot.retain(|_, heat| now.saturating_duration_since(heat.last) < FORGET);
        for resource in seen {
            if self.expected.remove(resource).is_some_and(|at| now.saturating_duration_since(at) < SOON) {
                continue;
            }
            if let Some(heat) = self.hot.get_mut(resource) {
                heat.times = heat.times.saturating_add(1);
                heat.last = now;
            } else if self.hot.len() < MAX_HOT {
                self.hot.insert(resource.to_owned(), Heat { times: 1, last: now });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn something_new_is_looked_at_within_half_a_second() {
        let (pace, now) = (Pace::default(), Instant::now());
        assert_eq!(pace.due(now, now, ["a"].into_iter()), now + QUIET);
        let busy = now + Duration::from_secs(9);
        assert_eq!(pace.due(now, busy, ["a"].into_iter()), now + MOST, "also when it does not end");
    }

    #[test]
    fn what_comes_all_the_time_waits_ever_longer_and_holds_up_nobody() {
        let (mut pace, begin) = (Pace::default(), Instant::now());
        let (mut now, mut looks) = (begin, 0);
        // Seen each millisecond, for five minutes.
        while now < begin + Duration::from_secs(300) {
            let at = pace.due(now, now, ["storm"].into_iter());
            assert!(at <= now + LONGEST);
            if looks == 8 {
                let new = pace.due(now, now, ["storm", "new"].into_iter());
                assert!(new <= now + APART, "{:?}", new - now);
            }
            now = at;
            pace.looked(now, ["storm"].into_iter());
            looks += 1;
        }
        assert!((10..20).contains(&looks), "{looks} looks");
        // Calm again: new again.
        now += FORGET;
        pace.looked(now, ["other"].into_iter());
        assert!(pace.due(now, now, ["storm"].into_iter()) <= now + APART);
    }

    #[test]
    fn what_we_did_ourselves_makes_nothing_hot() {
        let (mut pace, mut now) = (Pace::default(), Instant::now());
        for _ in 0..20 {
            pace.expect(now, ["unit a.service"].into_iter());
            pace.looked(now, ["unit a.service"].into_iter());
            now += APART;
        }
        assert_eq!(pace.due(now, now, ["unit a.service"].into_iter()), now + QUIET);
        // Expected once, not for ever.
        pace.expect(now, ["unit a.service"].into_iter());
        for _ in 0..6 {
            pace.looked(now, ["unit a.service"].into_iter());
        }
        assert!(pace.due(now, now, ["unit a.service"].into_iter()) > now + APART);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        let names: Vec<String> = (0..5000).map(|number| number.to_string()).collect();
        pace.looked(now, names.iter().map(String::as_str));
        assert_eq!(pace.hot.len(), MAX_HOT);
    }
}
