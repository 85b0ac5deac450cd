//! What a unit's state, seen now and again, says about its health.
//!
//! Definite, whatever time is left: it failed, it could not be loaded, it was started anew more often than is borne, it ended by itself.
//! Retried: it is still starting or stopping, or waits for something else to start it.

use super::Answer;

/// A unit as systemd tells of it at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UnitLook {
    /// `LoadState`.
    pub load: String,
    /// `ActiveState`.
    pub active: String,
    /// `SubState`.
    pub sub: String,
    /// The `Result` of its kind: `success`, `exit-code`, `start-limit-hit`, …; empty where the kind has none.
    pub result: String,
    /// `NRestarts`: how often systemd has started it anew by itself.
    pub restarts: u32,
    /// The run that it is in; empty: never ran.
    pub invocation: String,
    /// False when its last start was skipped for a `Condition…=` that does not hold.
    pub condition_met: bool,
}

/// What is expected of a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// To be active; a `Condition…=` that does not hold is no excuse.
    Active,
    /// To be active, if its conditions hold: the check that every unit gets without asking.
    ActiveIfAllowed,
    /// To run to its end, and well.
    Ended,
    /// Not to have failed: a unit that somebody else starts and stops.
    NotFailed,
}

/// A unit under watch.
#[derive(Debug, Clone)]
pub struct UnitCourse {
    expected: Expected,
    /// Restarts that are borne.
    retries: u32,
    /// It is known to have been started: being inactive is then an end, not a beginning.
    started: bool,
    /// The run and the count of restarts that were seen last.
    seen: Option<(String, u32)>,
    restarts: u32,
    /// systemd has counted the restart that it is about to make: the new run is not another one.
    announced: bool,
}

impl UnitCourse {
    /// Begins to watch. `started`: a job of ours has just started it.
    pub fn new(expected: Expected, retries: u32, started: bool) -> Self {
        Self { expected, retries, started, seen: None, restarts: 0, announced: false }
    }

    /// What a look at the unit answers.
    pub fn judge(&mut self, look: &UnitLook) -> Answer {
        let because = if ["", "success"].contains(&look.result.as_str()) { String::new() } else { format!(" ({})", look.result) };
        if !["loaded", "merged"].contains(&look.load.as_str()) {
            return Answer::Never(format!("systemd cannot load it ({})", look.load));
        }
        // In this one it stays for no time that anybody could see, on its way to a restart.
        if look.active == "failed" && !look.sub.ends_with("before-auto-restart") {
            return Answer::Never(format!("it failed{because}"));
        }
        let again = self.count(look);
        if self.restarts > self.retries {
            let times = if self.restarts == 1 { "once".to_owned() } else { format!("{} times", self.restarts) };
            return Answer::Never(format!("it ended and was started anew {times}{because}"));
        }
        if look.sub.contains("auto-restart") {
            let why = format!("it ended{because}, and systemd is about to start it again");
            return if self.restarts + u32::from(!self.announced) > self.retries { Answer::Never(why) } else { Answer::Bad(why) };
        }
        if again {
            return Answer::Bad(format!("it was started anew{because}"));
        }
        self.state(look, because)
    }

    /// Counts restarts since the last look; whether there was one.
    fn count(&mut self, look: &UnitLook) -> bool {
        let now = (look.invocation.clone(), look.restarts);
        // One that has ended and stays so has no new run, and a oneshot's next run is a timer's business.
        let Some((run, restarts)) = self.seen.replace(now) else { return false };
        let by_systemd = look.restarts.saturating_sub(restarts);
        let another = !run.is_empty() && !look.invocation.is_empty() && run != look.invocation;
        let counts = matches!(self.expected, Expected::Active | Expected::ActiveIfAllowed) || by_systemd > 0;
        let more = if another && counts && !self.announced { by_systemd.max(1) } else { by_systemd };
        // The first of them led to this run, if that was not told before it.
        let told = by_systemd > u32::from(another && !self.announced);
        self.announced = look.sub.contains("auto-restart") && (told || (self.announced && !another));
        self.restarts = self.restarts.saturating_add(more);
        more > 0
    }

    fn state(&mut self, look: &UnitLook, because: String) -> Answer {
        match (look.active.as_str(), self.expected) {
            ("active" | "reloading" | "refreshing", Expected::Ended)
            | ("active" | "reloading" | "refreshing" | "inactive" | "activating" | "deactivating", Expected::NotFailed) => {
                Answer::Good
            }
            ("active" | "reloading" | "refreshing", _) => {
                self.started = true;
                Answer::Good
            }
            ("inactive", Expected::ActiveIfAllowed) if !look.condition_met => Answer::Good,
            ("inactive", Expected::Active) if !look.condition_met => {
                Answer::Never("a condition of it (Condition…=) is not met on this host".to_owned())
            }
            ("inactive", Expected::Ended) if because.is_empty() => Answer::Good,
            ("inactive", Expected::Ended) => Answer::Never(format!("it did not end well{because}")),
            ("inactive", _) if self.started => Answer::Never(format!("it is no longer running, for it ended by itself{because}")),
            ("inactive", _) => Answer::Bad("it is not running".to_owned()),
            ("activating", Expected::Ended) => Answer::Bad("it is still running".to_owned()),
            ("activating", _) => Answer::Bad("it is still starting".to_owned()),
            (other, _) => Answer::Bad(format!("it is {other}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(active: &str, sub: &str, run: &str, restarts: u32) -> UnitLook {
        UnitLook {
            load: "loaded".to_owned(),
            active: active.to_owned(),
            sub: sub.to_owned(),
            result: "success".to_owned(),
            restarts,
            invocation: run.to_owned(),
            condition_met: true,
        }
    }

    fn bad(why: &str) -> Answer {
        Answer::Bad(why.to_owned())
    }

    fn never(why: &str) -> Answer {
        Answer::Never(why.to_owned())
    }

    #[test]
    fn a_failure_is_definite_and_a_start_is_waited_for() {
        let mut unit = UnitCourse::new(Expected::Active, 0, false);
        assert_eq!(unit.judge(&look("inactive", "dead", "", 0)), bad("it is not running"));
        assert_eq!(unit.judge(&look("activating", "start", "a", 0)), bad("it is still starting"));
        assert_eq!(unit.judge(&look("active", "running", "a", 0)), Answer::Good);
        assert_eq!(unit.judge(&look("inactive", "dead", "a", 0)), never("it is no longer running, for it ended by itself"));
        let failed = UnitLook { result: "start-limit-hit".to_owned(), ..look("failed", "failed", "a", 5) };
        assert_eq!(unit.judge(&failed), never("it failed (start-limit-hit)"));
        let gone = UnitLook { load: "not-found".to_owned(), ..UnitLook::default() };
        assert_eq!(unit.judge(&gone), never("systemd cannot load it (not-found)"));
    }

    #[test]
    fn a_restart_is_seen_however_it_is_looked_at() {
        // While systemd waits for the next try; by its count; by the run. What was restarted long ago is no matter.
        let watch = || {
            let mut unit = UnitCourse::new(Expected::ActiveIfAllowed, 0, true);
            assert_eq!(unit.judge(&look("active", "running", "a", 3)), Answer::Good);
            unit
        };
        let waiting = UnitLook { result: "exit-code".to_owned(), ..look("activating", "auto-restart", "a", 3) };
        assert_eq!(watch().judge(&waiting), never("it ended (exit-code), and systemd is about to start it again"));
        assert_eq!(watch().judge(&look("active", "running", "b", 5)), never("it ended and was started anew 2 times"));
        assert_eq!(watch().judge(&look("active", "running", "b", 3)), never("it ended and was started anew once"));
        assert_eq!(watch().judge(&look("active", "running", "a", 3)), Answer::Good);
        // On its way through `failed` it is not taken for one that failed for good.
        let through = look("failed", "failed-before-auto-restart", "a", 3);
        assert_eq!(watch().judge(&through), never("it ended, and systemd is about to start it again"));
    }

    #[test]
    fn a_restart_that_is_counted_before_it_is_made_is_one() {
        let mut unit = UnitCourse::new(Expected::Active, 1, true);
        assert_eq!(unit.judge(&look("active", "running", "a", 0)), Answer::Good);
        for (sub, restarts) in [("auto-restart", 0), ("auto-restart", 1), ("auto-restart-queued", 1)] {
            assert_eq!(
                unit.judge(&look("activating", sub, "a", restarts)),
                bad("it ended, and systemd is about to start it again")
            );
        }
        assert_eq!(unit.judge(&look("active", "running", "b", 1)), Answer::Good);
        let second = look("activating", "auto-restart-queued", "b", 2);
        assert_eq!(unit.judge(&second), never("it ended and was started anew 2 times"));
    }

    #[test]
    fn restarts_are_borne_as_often_as_is_asked() {
        let mut unit = UnitCourse::new(Expected::Active, 2, false);
        assert_eq!(unit.judge(&look("active", "running", "a", 0)), Answer::Good);
        assert!(matches!(unit.judge(&look("activating", "auto-restart", "a", 0)), Answer::Bad(_)));
        assert_eq!(unit.judge(&look("active", "running", "b", 1)), bad("it was started anew"));
        assert_eq!(unit.judge(&look("active", "running", "b", 1)), Answer::Good);
        assert_eq!(unit.judge(&look("active", "running", "c", 2)), bad("it was started anew"));
        assert!(matches!(unit.judge(&look("activating", "auto-restart", "c", 2)), Answer::Never(_)));
        assert_eq!(unit.judge(&look("active", "running", "d", 3)), never("it ended and was started anew 3 times"));
    }

    #[test]
    fn what_is_expected_of_other_units() {
        let mut ended = UnitCourse::new(Expected::Ended, 0, true);
        assert_eq!(ended.judge(&look("activating", "start", "a", 0)), bad("it is still running"));
        assert_eq!(ended.judge(&look("inactive", "dead", "a", 0)), Answer::Good);
        assert_eq!(ended.judge(&look("inactive", "dead", "b", 0)), Answer::Good);
        let badly = UnitLook { result: "exit-code".to_owned(), ..look("inactive", "dead", "a", 0) };
        assert_eq!(ended.judge(&badly), never("it did not end well (exit-code)"));

        let mut other = UnitCourse::new(Expected::NotFailed, 0, true);
        assert_eq!(other.judge(&look("inactive", "dead", "a", 0)), Answer::Good);
        assert_eq!(other.judge(&look("failed", "failed", "a", 0)), never("it failed"));

        let unmet = UnitLook { condition_met: false, ..look("inactive", "dead", "", 0) };
        assert_eq!(UnitCourse::new(Expected::ActiveIfAllowed, 0, true).judge(&unmet), Answer::Good);
        assert!(matches!(UnitCourse::new(Expected::Active, 0, true).judge(&unmet), Answer::Never(_)));
    }
}
