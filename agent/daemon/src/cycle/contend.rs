//! What something keeps changing back: repaired at once, but not for ever as fast as it can be changed.
//!
//! After [`FREE`] repairs of one resource, none of them long after the one before, the pauses before the next double from
//! `agent.retry-interval` up to `agent.retry-max`; meanwhile it is left as it is, held like a pinned one (so nothing that reads it is
//! restarted for it) and told as [`LeftAlone::Contended`]. The agent wakes when a pause is over. A new revision and a person who asks
//! (`trimtab sync`) begin the pauses anew; a quiet time ends the matter. A unit that is down again and again is no fight: see `flap`.
//! Limits: in memory only: a restarted agent repairs at once; what was told is in the book.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use trimtab_model::drift::{Drift, LeftAlone};
use trimtab_model::plan::Plan;
use trimtab_model::report::{Pass, Wake};

use super::{Cycle, Wanted, now_ms};

/// So many repairs are made at once.
const FREE: u32 = 5;

/// What nobody changed back for so long (and for twice its last pause) is not fought over.
const QUIET: Duration = Duration::from_secs(10 * 60);

/// Repairs that follow one another, by resource.
#[derive(Debug)]
pub(super) struct Fights {
    revision: String,
    /// Since when repairs are counted.
    born: Instant,
    list: BTreeMap<String, Fight>,
}

#[derive(Debug, Clone, Copy)]
struct Fight {
    repairs: u32,
    last: Instant,
    pause: Duration,
    /// When the pause is over, seconds since 1970: the same in each pass, so that none has to write it down anew.
    again: u64,
}

impl Fight {
    fn is_quiet(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.last) > QUIET.max(self.pause.saturating_mul(2))
    }

    fn waits(&self, now: Instant) -> bool {
        self.last + self.pause > now
    }
}

impl Fights {
    pub(super) fn new(now: Instant) -> Self {
        Self { revision: String::new(), born: now, list: BTreeMap::new() }
    }

    /// What is not repaired yet, and when it is, seconds since 1970.
    fn waiting(&mut self, revision: &str, asked: bool, now: Instant) -> BTreeMap<String, u64> {
        self.list.retain(|_, fight| !fight.is_quiet(now));
        if self.revision != revision || asked {
            revision.clone_into(&mut self.revision);
            // When it was repaired last is known all the same: asking does not end a fight.
            self.list.values_mut().for_each(|fight| (fight.repairs, fight.pause) = (0, Duration::ZERO));
        }
        self.list.iter().filter(|(_, fight)| fight.waits(now)).map(|(resource, fight)| (resource.clone(), fight.again)).collect()
    }

    /// One more repair; `pauses`: the first and the longest.
    fn repaired(&mut self, resource: &str, pauses: (Duration, Duration), now: Instant, now_ms: u64) {
        let new = Fight { repairs: 0, last: now, pause: Duration::ZERO, again: 0 };
        let fight = self.list.entry(resource.to_owned()).or_insert(new);
        let repairs = if fight.is_quiet(now) { 1 } else { fight.repairs.saturating_add(1) };
        let (first, longest) = pauses;
        let doubled = || first.saturating_mul(1 << (repairs - FREE).min(16)).min(longest.max(first));
        let pause = if repairs < FREE { Duration::ZERO } else { doubled() };
        *fight = Fight { repairs, last: now, pause, again: (now_ms / 1000).saturating_add(pause.as_secs()) };
    }

    /// Whether nobody changed it back for long.
    fn is_over(&self, resource: &str, now: Instant) -> bool {
        match self.list.get(resource) {
            Some(fight) => fight.is_quiet(now),
            None => now.saturating_duration_since(self.born) > QUIET,
        }
    }

    /// When the first of these is to be repaired.
    fn next<'a>(&self, resources: impl Iterator<Item = &'a str>, now: Instant) -> Option<Instant> {
        let fights = resources.filter_map(|resource| self.list.get(resource)).filter(|fight| fight.waits(now));
        fights.map(|fight| fight.last + fight.pause).min()
    }
}

impl Cycle {
    /// What is left alone in this plan for being fought over. Nothing of a state that is only tried: it is another revision.
    pub(super) fn fought_over(&mut self, wanted: &Wanted, wake: Wake) -> BTreeMap<String, u64> {
        if wanted.fresh {
            return BTreeMap::new();
        }
        self.fights.waiting(&wanted.key.commit, wake.is_asked(), Instant::now())
    }

    /// Tells what the plan holds like a pinned resource for what it is.
    pub(super) fn tell_fought(&self, waiting: &BTreeMap<String, u64>, plan: &mut Plan) {
        let Some(first) = waiting.values().min() else { return };
        let pins = &self.holds().pins;
        // A network is held with its container; with pins in force nobody can say for whose sake.
        let other = pins.is_empty().then_some(first);
        for change in plan.changes.iter_mut().filter(|change| change.left_alone == Some(LeftAlone::Pinned)) {
            let again = waiting.get(&change.resource).or(other).filter(|_| !pins.contains_key(&change.resource));
            change.left_alone = again.map_or(Some(LeftAlone::Pinned), |again| Some(LeftAlone::Contended { again: *again }));
        }
    }

    /// Counts what this pass put right.
    pub(super) fn count_repairs<'a>(&mut self, mended: impl Iterator<Item = &'a Drift>) {
        let pauses = (self.settings.agent.retry_interval, self.settings.agent.retry_max);
        for drift in mended.filter(|drift| !is_down(drift)) {
            self.fights.repaired(&drift.resource, pauses, Instant::now(), now_ms());
        }
    }

    /// Tells what is over.
    pub(super) fn calm_fights(&mut self, pass: &Pass) {
        let (look, now) = (self.book_look(pass), Instant::now());
        if self.kept.book.calm(|resource| self.fights.is_over(resource, now), &look) {
            self.save_book();
        }
    }

    /// When something that is left alone for being fought over is to be repaired.
    pub(super) fn repairs_at(&self) -> Option<Instant> {
        let fought = |drift: &&Drift| matches!(drift.left_alone, Some(LeftAlone::Contended { .. }));
        let standing = self.kept.book.standing.values().filter(fought).map(|drift| drift.resource.as_str());
        self.fights.next(standing, Instant::now())
    }
}

/// A unit that should run and does not: who stopped it, if anybody did, is not known to be an opponent.
fn is_down(drift: &Drift) -> bool {
    let down = |differs: &trimtab_model::plan::Difference| differs.property == "active" && differs.wanted == "active";
    drift.resource.starts_with("unit ") && drift.differs.iter().all(down)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "file /etc/a";
    const PAUSES: (Duration, Duration) = (Duration::from_secs(15), Duration::from_secs(60));

    /// Changed back each second for so long; when it was repaired.
    fn fought(fights: &mut Fights, begun: Instant, seconds: std::ops::Range<u64>) -> Vec<u64> {
        let mut repairs = Vec::new();
        for second in seconds {
            let now = begun + Duration::from_secs(second);
            if !fights.waiting("1", false, now).contains_key(FILE) {
                fights.repaired(FILE, PAUSES, now, second * 1000);
                repairs.push(second);
            }
        }
        repairs
    }

    #[test]
    fn the_pauses_double_and_end_at_the_longest() {
        let begun = Instant::now();
        let mut fights = Fights::new(begun);
        assert_eq!(fought(&mut fights, begun, 0..300), [0, 1, 2, 3, 4, 19, 49, 109, 169, 229, 289]);
        let at = |second| begun + Duration::from_secs(second);
        assert_eq!(fights.waiting("1", false, at(299)), BTreeMap::from([(FILE.to_owned(), 349)]));
        assert_eq!(fights.next([FILE, "file /etc/b"].into_iter(), at(299)), Some(at(349)));
        assert_eq!(fights.next(["file /etc/b"].into_iter(), at(299)), None);
        assert_eq!(fights.next([FILE].into_iter(), at(350)), None, "it is not waited for what is due");
    }

    #[test]
    fn a_person_who_asks_and_a_new_revision_begin_anew_and_end_nothing() {
        for (revision, asked) in [("1", true), ("2", false)] {
            let begun = Instant::now();
            let mut fights = Fights::new(begun);
            fought(&mut fights, begun, 0..10);
            let now = begun + Duration::from_secs(10);
            assert_eq!(fights.waiting(revision, asked, now), BTreeMap::new());
            assert!(!fights.is_over(FILE, now + QUIET.saturating_sub(Duration::from_secs(10))));
            fights.revision = "1".to_owned();
            assert_eq!(fought(&mut fights, begun, 10..20), [10, 11, 12, 13, 14]);
        }
    }

    #[test]
    fn a_quiet_time_ends_it_and_what_comes_seldom_is_none() {
        let begun = Instant::now();
        let mut fights = Fights::new(begun);
        fought(&mut fights, begun, 0..5);
        let last = begun + Duration::from_secs(4);
        assert!(!fights.is_over(FILE, last + QUIET) && fights.is_over(FILE, last + QUIET + Duration::from_secs(1)));
        assert!(fights.waiting("1", false, last + QUIET + Duration::from_secs(1)).is_empty() && fights.list.is_empty());
        let mut fights = Fights::new(begun);
        for time in 0..20 {
            let now = begun + (QUIET + Duration::from_secs(1)) * time;
            fights.repaired(FILE, PAUSES, now, 0);
            assert!(!fights.waiting("1", false, now).contains_key(FILE), "the {time}th");
        }
        // A pause that is longer than that does not end what it is made for.
        let long = (QUIET, QUIET * 4);
        let mut fights = Fights::new(begun);
        (0..7).for_each(|_| fights.repaired(FILE, long, begun, 0));
        assert!(!fights.is_over(FILE, begun + QUIET * 8) && fights.is_over(FILE, begun + QUIET * 9));
    }

    #[test]
    fn what_an_earlier_process_told_is_over_when_it_stays_quiet() {
        let begun = Instant::now();
        let fights = Fights::new(begun);
        assert!(!fights.is_over(FILE, begun + QUIET) && fights.is_over(FILE, begun + QUIET * 2));
    }
}
