//! Units that do not stay up: started again and again, but ever more seldom.
//!
//! A unit of the state in force that needs a start in pass after pass is not helped by one more each minute, and each start costs the
//! machine something. After [`FREE`] passes in a row the pauses double, up to `agent.retry-max`. A pass that finds the unit as it should be
//! some time after its start, a unit that stayed up for long, a new revision, and a person who asks (`trimtab sync`) start anew. A restart after
//! a repair of what the unit reads is none of these: it was up. In memory only: a restarted agent tries at once.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use trimtab_model::names::UnitName;
use trimtab_model::plan::{Action, Cause, Plan, Step};
use trimtab_model::report::{Failure, Outcome, Pass};

use super::{Cycle, worsen};

/// So many starts in a row are made without a pause.
const FREE: u32 = 3;

/// A unit that was found down later than this after its start did stay up.
const STAYED: Duration = Duration::from_secs(5 * 60);

/// Sooner than this after its start nobody can say that a unit stays up: events make passes within the second.
const EARLY: Duration = Duration::from_secs(30);

/// The first pause is no longer than this, however seldom the host is looked at.
const FIRST_PAUSE: Duration = Duration::from_secs(60);

/// Starts in a row, by unit.
#[derive(Debug, Default)]
pub(super) struct Flaps {
    revision: String,
    units: BTreeMap<UnitName, Flap>,
}

#[derive(Debug, Clone, Copy)]
struct Flap {
    starts: u32,
    /// Not before this.
    next: Instant,
    /// Its last start, until it was found down again.
    started: Option<Instant>,
}

impl Flaps {
    /// Takes the starts out of a plan whose time has not come, and counts the others. Returns the units that wait, with how often they
    /// were started and for how long they wait.
    fn judge(
        &mut self,
        revision: &str,
        plan: &mut Plan,
        asked: bool,
        pauses: (Duration, Duration),
        now: Instant,
    ) -> Vec<(UnitName, u32, Duration)> {
        if self.revision != revision || asked {
            revision.clone_into(&mut self.revision);
            self.units.clear();
        }
        let started: Vec<UnitName> = counted(plan);
        let is_early = |flap: &Flap| flap.started.is_some_and(|at| now.saturating_duration_since(at) < EARLY);
        self.units.retain(|unit, flap| started.contains(unit) || is_early(flap));
        let mut waiting = Vec::new();
        for unit in started {
            let flap = self.units.entry(unit.clone()).or_insert(Flap { starts: 0, next: now, started: None });
            if flap.started.take().is_some_and(|at| now.saturating_duration_since(at) > STAYED) {
                *flap = Flap { starts: 0, next: now, started: None };
            }
            if flap.next > now {
                waiting.push((unit, flap.starts, flap.next - now));
                continue;
            }
            flap.starts += 1;
            flap.started = Some(now);
            let (interval, longest) = pauses;
            let doubled = interval.saturating_mul(1 << flap.starts.saturating_sub(FREE).min(16)).min(longest.max(interval));
            flap.next = if flap.starts < FREE { now } else { now + doubled };
        }
        let kept = |action: &Action| starts(action).is_none_or(|unit| !waiting.iter().any(|(waits, ..)| waits == unit));
        plan.prune_from -= plan.steps[..plan.prune_from].iter().filter(|step| !kept(&step.action)).count();
        plan.steps.retain(|step| kept(&step.action));
        waiting
    }
}

/// Units that are started because they are down, or again because that went wrong before; not those whose files this plan mends.
fn counted(plan: &Plan) -> Vec<UnitName> {
    let writes = |step: &Step| matches!(step.action, Action::Put { .. });
    let mended: BTreeSet<_> = plan.steps.iter().filter(|step| writes(step)).filter_map(|step| step.component.as_ref()).collect();
    let counts = |step: &&Step| match step.action {
        // What runs another image was up; whether somebody fights over that, `contend` knows.
        Action::Restart { .. } if step.cause == Cause::Drift => false,
        Action::Restart { .. } => !step.component.as_ref().is_some_and(|component| mended.contains(component)),
        _ => true,
    };
    plan.steps.iter().filter(counts).filter_map(|step| starts(&step.action).cloned()).collect()
}

fn starts(action: &Action) -> Option<&UnitName> {
    match action {
        Action::Start { unit } | Action::Restart { unit } => Some(unit),
        _ => None,
    }
}

impl Cycle {
    /// When something that waits is to be tried again, before the next look at the interval.
    pub fn wakes_at(&self) -> Option<Instant> {
        let now = Instant::now();
        let flapping = self.flaps.units.values().filter(|flap| flap.started.is_none() && flap.next > now).map(|flap| flap.next);
        flapping.chain(self.repairs_at()).min()
    }

    /// The plan for the state in force, without the starts that have to wait; they are told.
    pub(super) fn without_flapping(&mut self, mut plan: Plan, revision: &str, pass: &mut Pass) -> Plan {
        let pauses = (self.settings.agent.interval.min(FIRST_PAUSE), self.settings.agent.retry_max);
        let waiting = self.flaps.judge(revision, &mut plan, pass.wake.is_asked(), pauses, Instant::now());
        for (unit, starts, pause) in waiting {
            let pause = humantime::format_duration(Duration::from_secs(pause.as_secs().max(1)));
            let message = format!(
                "it does not stay up: it was started {starts} times in a row, and is started again in {pause} (`trimtab sync` does it now, \
                 `systemctl status {unit}` tells more)"
            );
            pass.failures.push(Failure { resource: format!("unit {unit}"), message, skipped: false });
            worsen(pass, Outcome::Partial);
        }
        plan
    }
}

#[cfg(test)]
mod tests {
    use trimtab_model::plan::Cause;

    use super::*;

    fn plan(units: &[&str]) -> Plan {
        let step =
            |unit: &&str| Step { action: Action::Start { unit: unit.parse().unwrap() }, component: None, cause: Cause::Drift };
        Plan { steps: units.iter().map(step).collect(), prune_from: units.len(), ..Plan::default() }
    }

    #[test]
    fn the_pauses_double_and_end_with_a_pass_that_finds_it_well() {
        let (pauses, begun) = ((Duration::from_secs(60), Duration::from_secs(300)), Instant::now());
        let at = |seconds: u64| begun + Duration::from_secs(seconds);
        let mut flaps = Flaps::default();
        let mut starts = Vec::new();
        for minute in 0..30 {
            let mut plan = plan(&["a.service"]);
            let waiting = flaps.judge("1", &mut plan, false, pauses, at(minute * 60));
            assert_eq!(waiting.is_empty(), plan.steps.len() == 1);
            assert_eq!(plan.prune_from, plan.steps.len());
            if waiting.is_empty() {
                starts.push(minute);
            }
        }
        assert_eq!(starts, [0, 1, 2, 3, 5, 9, 14, 19, 24, 29]);
        assert!(flaps.judge("1", &mut plan(&["b.service"]), false, pauses, at(1800)).is_empty(), "each for itself");
        assert!(flaps.judge("1", &mut plan(&["a.service"]), false, pauses, at(1800)).is_empty(), "it was well in between");
        for _ in 0..4 {
            flaps.judge("1", &mut plan(&["a.service"]), false, pauses, at(1800));
        }
        assert_eq!(flaps.judge("1", &mut plan(&["a.service"]), false, pauses, at(1801)).len(), 1);
        assert!(flaps.judge("1", &mut plan(&["a.service"]), true, pauses, at(1801)).is_empty(), "somebody asked");
        for _ in 0..4 {
            flaps.judge("1", &mut plan(&["a.service"]), false, pauses, at(1801));
        }
        assert!(flaps.judge("2", &mut plan(&["a.service"]), false, pauses, at(1802)).is_empty(), "another revision");
    }

    #[test]
    fn with_events_it_counts_how_long_a_unit_stayed_up() {
        let (pauses, begun) = ((FIRST_PAUSE, Duration::from_secs(900)), Instant::now());
        let at = |seconds: u64| begun + Duration::from_secs(seconds);
        let mut flaps = Flaps::default();
        // Stopped every ten minutes, found within the second: never a reason to wait.
        for time in 0..20 {
            assert!(flaps.judge("1", &mut plan(&["a.service"]), false, pauses, at(time * 600)).is_empty(), "{time}");
        }
        // It dies two seconds after each start; passes about something else in between change nothing.
        let waited = (0..20).any(|time| {
            flaps.judge("1", &mut plan(&[]), false, pauses, at(20_000 + time * 3));
            !flaps.judge("1", &mut plan(&["a.service"]), false, pauses, at(20_000 + time * 3 + 2)).is_empty()
        });
        assert!(waited);
    }

    #[test]
    fn a_restart_after_its_file_was_mended_is_no_sign_of_trouble() {
        let pauses = (FIRST_PAUSE, Duration::from_secs(900));
        let step = |action| Step { action, component: Some("a".parse().unwrap()), cause: Cause::Follows };
        let put =
            Action::Put { path: "/etc/a".parse().unwrap(), expected: trimtab_model::observed::Expected::Absent, before: None };
        let restart = || Action::Restart { unit: "a.service".parse().unwrap() };
        let mut flaps = Flaps::default();
        let mut judge = |steps: Vec<Step>| {
            let mut plan = Plan { prune_from: steps.len(), steps, ..Plan::default() };
            flaps.judge("1", &mut plan, false, pauses, Instant::now()).is_empty()
        };
        assert!((0..9).all(|_| judge(vec![step(put.clone()), step(restart())])));
        assert!(!(0..9).all(|_| judge(vec![step(restart())])), "one that has to be made again and again is");
        let other_image = Step { cause: Cause::Drift, ..step(restart()) };
        assert!((0..9).all(|_| judge(vec![other_image.clone()])), "one whose image somebody changes was up");
    }
}
