//! The course of one check: answers and times go in, "still open", "passed" or "failed" comes out.
//!
//! The rules, in the order in which they are asked:
//! 1. an answer that no waiting can change ([`Answer::Never`]) ends it at once;
//! 2. until the first good answer, bad ones are only remembered: what was just started may take its time, up to the timeout;
//! 3. it passes with a good answer at least `settle` after the first good one of an unbroken row;
//! 4. after the first good answer, a bad one breaks the row, and more than `retries` of them one after the other end it;
//! 5. when the timeout is over, whatever has not passed has failed, with the last bad answer as the reason.
//!
//! Guarantees: no clock inside; times that go backwards only make it wait. Limits: a check is bounded by its timeout only if somebody asks at
//! that time ([`Course::next`] says when).

use super::Timing;
use crate::fleet::time::tell;

/// One answer to one question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// As it should be.
    Good,
    /// Not (yet), and why.
    Bad(String),
    /// Not, and no waiting will change it.
    Never(String),
}

/// Where a check stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Nothing is decided.
    Open,
    /// It is good and has settled.
    Passed,
    /// It failed, and why.
    Failed(String),
}

/// A check under way. All times are milliseconds on one clock of the caller's.
#[derive(Debug, Clone)]
pub struct Course {
    timing: Timing,
    deadline: u64,
    /// The first of an unbroken row of good answers.
    good_since: Option<u64>,
    was_good: bool,
    bad_in_a_row: u32,
    last: String,
}

impl Course {
    /// A check that begins now.
    pub fn new(timing: Timing, now: u64) -> Self {
        let deadline = now.saturating_add(timing.timeout_ms);
        Self { timing, deadline, good_since: None, was_good: false, bad_in_a_row: 0, last: String::new() }
    }

    /// When the time is over.
    pub fn deadline(&self) -> u64 {
        self.deadline
    }

    /// When the next question should be asked, the last one having been answered now: after the interval, but no later than the moment in
    /// which the answer would decide it.
    pub fn next(&self, now: u64) -> u64 {
        let settled = self.good_since.map_or(u64::MAX, |since| since.saturating_add(self.timing.settle_ms));
        // A moment that has gone by decides nothing any more.
        let settled = if settled > now { settled } else { u64::MAX };
        now.saturating_add(self.timing.interval_ms).min(settled).min(self.deadline.max(now))
    }

    /// What becomes of it by an answer.
    pub fn answer(&mut self, now: u64, answer: Answer) -> Standing {
        match answer {
            Answer::Never(why) => return Standing::Failed(why),
            Answer::Good => {
                let since = *self.good_since.get_or_insert(now);
                self.was_good = true;
                self.bad_in_a_row = 0;
                if now.saturating_sub(since) >= self.timing.settle_ms {
                    return Standing::Passed;
                }
            }
            Answer::Bad(why) => {
                self.good_since = None;
                self.last = why;
                if self.was_good {
                    self.bad_in_a_row += 1;
                    if self.bad_in_a_row > self.timing.retries {
                        return Standing::Failed(self.broke_off());
                    }
                }
            }
        }
        self.time(now)
    }

    /// What becomes of it by time alone: it fails when its time is over.
    pub fn time(&self, now: u64) -> Standing {
        if now < self.deadline {
            return Standing::Open;
        }
        let whole = tell(self.timing.timeout_ms);
        Standing::Failed(match (self.good_since, self.last.as_str()) {
            (Some(_), "") => format!("it was good for less than {} when {whole} were over", tell(self.timing.settle_ms)),
            (Some(_), last) => {
                let settle = tell(self.timing.settle_ms);
                format!("it was good for less than {settle} when {whole} were over; before that: {last}")
            }
            (None, "") => format!("it gave no answer within {whole}"),
            (None, last) => format!("it was not good within {whole}: {last}"),
        })
    }

    fn broke_off(&self) -> String {
        match self.bad_in_a_row {
            1 => format!("it was good and is no more: {}", self.last),
            count => format!("it was good, and then not {count} times in a row: {}", self.last),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn timing(timeout: u64, settle: u64, retries: u32) -> Timing {
        Timing { timeout_ms: timeout, interval_ms: 100, settle_ms: settle, retries }
    }

    /// Feeds answers, `g`ood, `b`ad or `n`ever, one each 100 ms; where it stood after the last that was taken, and how many were.
    fn run(timing: Timing, answers: &str) -> (Standing, usize) {
        let mut course = Course::new(timing, 0);
        for (at, answer) in answers.chars().enumerate() {
            let answer = match answer {
                'g' => Answer::Good,
                'b' => Answer::Bad("no".to_owned()),
                _ => Answer::Never("dead".to_owned()),
            };
            let standing = course.answer(at as u64 * 100, answer);
            if standing != Standing::Open {
                return (standing, at + 1);
            }
        }
        (Standing::Open, answers.len())
    }

    fn failed(why: &str) -> Standing {
        Standing::Failed(why.to_owned())
    }

    #[test]
    fn the_rules() {
        // Without a settle time the first good answer is enough, however many were bad before it.
        assert_eq!(run(timing(10_000, 0, 0), "bbbbg"), (Standing::Passed, 5));
        // With one, the row must last.
        assert_eq!(run(timing(10_000, 300, 0), "bggg"), (Standing::Open, 4));
        assert_eq!(run(timing(10_000, 300, 0), "bgggg"), (Standing::Passed, 5));
        // A bad answer after a good one breaks it off, or is borne; then the row begins anew.
        assert_eq!(run(timing(10_000, 300, 0), "ggb"), (failed("it was good and is no more: no"), 3));
        assert_eq!(run(timing(10_000, 300, 1), "ggbggg"), (Standing::Open, 6));
        assert_eq!(run(timing(10_000, 300, 1), "ggbgggg"), (Standing::Passed, 7));
        assert_eq!(run(timing(10_000, 300, 1), "gbgbgbb"), (failed("it was good, and then not 2 times in a row: no"), 7));
        // What cannot become good ends it at once, whatever else is borne.
        assert_eq!(run(timing(10_000, 300, 9), "bgn"), (failed("dead"), 3));
        // The time is over.
        assert_eq!(run(timing(400, 0, 0), "bbbbb"), (failed("it was not good within 400ms: no"), 5));
        assert_eq!(
            run(timing(500, 400, 5), "bbbgggggg"),
            (failed("it was good for less than 400ms when 500ms were over; before that: no"), 6)
        );
        assert_eq!(Course::new(timing(500, 0, 0), 7).time(507), failed("it gave no answer within 500ms"));
        assert_eq!(Course::new(timing(500, 0, 0), 7).time(506), Standing::Open);
        // An answer that settles it in the last moment counts.
        assert_eq!(run(timing(300, 300, 0), "gggg"), (Standing::Passed, 4));
    }

    #[test]
    fn the_next_question_comes_when_it_can_decide() {
        let mut course = Course::new(timing(1000, 250, 0), 0);
        assert_eq!(course.next(0), 100);
        assert_eq!(course.answer(100, Answer::Good), Standing::Open);
        assert_eq!((course.next(100), course.next(300)), (200, 350));
        // Never after the end, and never before now.
        assert_eq!((course.next(950), course.next(1200)), (1000, 1200));
    }

    proptest! {
        /// Whatever is answered, at whatever pace: asking when it says so, it ends by its deadline.
        #[test]
        fn it_always_ends(
            timeout in 1_u64..5000, settle in 0_u64..5000, retries in 0_u32..4, interval in 1_u64..3000,
            answers in proptest::collection::vec((any::<bool>(), 0_u64..400), 1..40),
        ) {
            let mut course = Course::new(Timing { timeout_ms: timeout, interval_ms: interval, settle_ms: settle, retries }, 0);
            let (mut now, mut asked) = (0, 0);
            for (good, takes) in answers.iter().cycle() {
                now += takes;
                asked += 1;
                let answer = if *good { Answer::Good } else { Answer::Bad("no".to_owned()) };
                let standing = course.answer(now, answer);
                if standing != Standing::Open {
                    prop_assert!(settle == 0 || now >= settle || matches!(standing, Standing::Failed(_)));
                    return Ok(());
                }
                prop_assert!(now < timeout && asked <= 6000);
                let next = course.next(now);
                prop_assert!(next >= now && next <= timeout);
                now = next;
            }
        }
    }
}
