//! What to aim at: all that the newest revision wants, or what of it may be tried.
//!
//! Everything that stands between a proven rendering and the machine before anything is touched: what was denied, a state that wants
//! nothing or takes away too much, originals that nobody has allowed to be replaced. Each refusal says how to allow it.

use std::collections::BTreeMap;
use std::time::Instant;

use trimtab_model::desired::Desired;
use trimtab_model::finding::{Finding, Spot};
use trimtab_model::ledger::{Before, MAX_APPROVED};
use trimtab_model::names::ComponentName;
use trimtab_model::observed::{Observed, Purge};
use trimtab_model::plan::{self, Action, Plan};
use trimtab_model::report::{Failure, Outcome, Pass};
use trimtab_model::transaction::{self, Withheld};

use super::{Cycle, Wanted, worsen};
use crate::config::Adopt;

/// Names in a message, at most.
const NAMED: usize = 5;

impl Cycle {
    /// What of a revision may be tried; `None`: nothing, and the pass says why.
    pub(super) fn aim(&mut self, wanted: Wanted, pass: &mut Pass) -> Option<Wanted> {
        let wanted = self.something(wanted, pass)?;
        let wanted = self.not_denied(wanted, pass)?;
        self.not_too_much(wanted, pass)
    }

    /// A revision that wants nothing at all where something is managed is a mistake until somebody proves otherwise: it is refused.
    fn something(&mut self, wanted: Wanted, pass: &mut Pass) -> Option<Wanted> {
        let managed = self.ledger.entries.len() + self.ledger.units.len();
        if !wanted.desired.entries.is_empty() || !wanted.desired.units.is_empty() || managed == 0 {
            return Some(wanted);
        }
        let message = format!("this revision wants nothing at all on this host, where {managed} files and units are managed");
        let finding = Finding::new(message, Spot::file("fleet.toml"));
        pass.findings
            .push(finding.help("assign at least one component to this host (labels and groups decide; see `trimtab render`)"));
        self.refuse(wanted.key, Outcome::Held, None, pass);
        None
    }

    /// What was tried and undone is not tried again: the whole of it, or the components that fell.
    fn not_denied(&mut self, wanted: Wanted, pass: &mut Pass) -> Option<Wanted> {
        let Some(denied) = transaction::denied(&self.ledger.denied, &wanted.effect).cloned() else { return Some(wanted) };
        // The state in force, after a person went back to it or a trial was acquitted by what came later.
        if self.current.as_ref().is_some_and(|current| current.effect == wanted.effect) {
            return Some(wanted);
        }
        pass.undone = Some(denied.told());
        worsen(pass, Outcome::RolledBack);
        if denied.is_whole() {
            self.refuse(wanted.key, Outcome::RolledBack, None, pass);
            return None;
        }
        let fallen = denied.components.iter().map(|component| (component.clone(), None)).collect();
        let key = wanted.key.clone();
        let withheld = self.withhold(wanted, &fallen, false);
        if withheld.is_none() {
            self.refuse(key, Outcome::RolledBack, None, pass);
        }
        withheld
    }

    /// The same revision with some components as they are in force; `None`: they cannot be told apart from the rest, or the rest is denied
    /// itself.
    pub(super) fn withhold(
        &self,
        wanted: Wanted,
        failed: &BTreeMap<ComponentName, Option<Failure>>,
        again: bool,
    ) -> Option<Wanted> {
        let current = self.current.as_ref()?;
        let Wanted { key, desired, contents, fresh, effect, all, mut withheld, asked } = wanted;
        let all = all.unwrap_or_else(|| Box::new(desired));
        let names = failed.keys().chain(withheld.iter().map(|held| &held.component)).cloned().collect();
        let (desired, held) = transaction::without(&all, &current.desired, &names, &self.ledger.denied)?;
        for component in held {
            if !withheld.iter().any(|held| held.component == component) {
                let because = failed.get(&component).cloned().flatten();
                withheld.push(Withheld { component, because, again });
            }
        }
        Some(Wanted { key, desired, contents, fresh, effect, all: Some(all), withheld, asked })
    }

    /// Many removals at once are a mistake until somebody proves otherwise.
    fn not_too_much(&mut self, wanted: Wanted, pass: &mut Pass) -> Option<Wanted> {
        let managed = self.ledger.entries.len() + self.ledger.units.len();
        let removals = transaction::removals(&wanted.desired, &self.ledger);
        let limit = self.settings.guard.max_removals;
        if self.is_approved(&wanted) || !transaction::too_many(removals.len(), managed, limit) {
            return Some(wanted);
        }
        let short: String = wanted.key.commit.chars().take(12).collect();
        let message = format!(
            "nothing was changed, for this revision takes away {} of {managed} managed files and units ({}), more than guard.max-removals \
             ({limit}) allows. If that is meant: `trimtab approve {short}` on this host, or take them away in smaller steps",
            removals.len(),
            few(&removals),
        );
        pass.failures.push(Failure { resource: "guard".to_owned(), message, skipped: false });
        self.refuse(wanted.key, Outcome::Held, None, pass);
        None
    }

    /// Whether what nobody declared is taken away. Never while something new is tried: it could not be brought back with the rest. Many such
    /// files at once are a mistake until somebody proves otherwise.
    pub(super) fn purge(&mut self, desired: &Desired, wanted: &Wanted, observed: &Observed, pass: &mut Pass) -> Purge {
        let purges = plan::purges(desired, observed);
        if wanted.fresh && self.hold != super::Hold::ReadOnly && !self.is_paused() {
            return Purge::Later;
        }
        // What is only looked at is shown as it would be.
        if wanted.fresh || purges == 0 || self.may_take(purges, desired, wanted) {
            return Purge::Now;
        }
        let failure = self.too_much(purges, desired, wanted);
        if !pass.failures.contains(&failure) {
            pass.failures.push(failure);
        }
        worsen(pass, Outcome::Partial);
        Purge::Guarded
    }

    /// Whether as many undeclared files, beside what leaves, are within the limit, or allowed.
    fn may_take(&mut self, purges: usize, desired: &Desired, wanted: &Wanted) -> bool {
        let managed = self.ledger.entries.len() + self.ledger.units.len();
        let all = purges + transaction::removals(desired, &self.ledger).len();
        !transaction::too_many(all, managed.max(all), self.settings.guard.max_removals) || self.is_approved(wanted)
    }

    fn too_much(&self, purges: usize, desired: &Desired, wanted: &Wanted) -> Failure {
        let folders: Vec<String> = desired.exclusive.keys().map(ToString::to_string).collect();
        let (limit, short) = (self.settings.guard.max_removals, wanted.key.commit.chars().take(12).collect::<String>());
        let message = format!(
            "nothing was taken away from directories that are declared exclusive ({}), for {purges} files there are not declared, more than \
             guard.max-removals ({limit}) allows. If they are to go: `trimtab approve {short}` on this host; \"report\" in place of \"purge\" \
             only tells of them",
            few(&folders),
        );
        Failure { resource: "guard".to_owned(), message, skipped: false }
    }

    /// Whether a person allowed this state; an approval by name becomes one of what it means here, and outlives this process.
    fn is_approved(&mut self, wanted: &Wanted) -> bool {
        if self.approving.as_ref().is_some_and(|begin| wanted.key.commit.starts_with(begin.as_str())) {
            self.approving = None;
            self.ledger.approved.insert(0, wanted.effect);
            self.ledger.approved.truncate(MAX_APPROVED);
        }
        self.ledger.approved.contains(&wanted.effect)
    }

    /// What can be judged only with the plan at hand. What is refused gives way to the state in force.
    pub(super) async fn guard(&mut self, wanted: Wanted, plan: Plan, pass: &mut Pass) -> (Wanted, Plan) {
        let originals = if self.settings.guard.adopt == Adopt::Report { replaced(&plan) } else { Vec::new() };
        if !wanted.fresh || originals.is_empty() || self.is_approved(&wanted) {
            return (wanted, plan);
        }
        let short: String = wanted.key.commit.chars().take(12).collect();
        let message = format!(
            "nothing was changed, for this revision would replace what stands on this host already ({}), and guard.adopt is \"report\". \
             See `trimtab plan`; then `trimtab approve {short}`, or set guard.adopt = \"replace\" (replaced files are kept: `trimtab backups`)",
            few(&originals),
        );
        pass.failures.push(Failure { resource: "guard".to_owned(), message, skipped: false });
        if self.hold == super::Hold::ReadOnly {
            worsen(pass, Outcome::Held);
            return (wanted, plan);
        }
        self.refuse(wanted.key.clone(), Outcome::Held, None, pass);
        self.matter = super::Matter::of(pass);
        let Some(held) = self.in_force() else {
            let nothing = Wanted { desired: Desired::default(), fresh: false, ..wanted };
            return (nothing, Plan::default());
        };
        let plan = self.plan(&held, pass.wake, pass).await;
        (held, plan)
    }

    /// When to try again what waits for something outside of the repository: each time twice as long, until it succeeds or another
    /// revision comes.
    pub(super) fn try_again_later(&mut self, revision: &str) -> Instant {
        if self.waiting_for != revision {
            revision.clone_into(&mut self.waiting_for);
            self.in_vain = 0;
        }
        let agent = &self.settings.agent;
        let pause = agent.interval.saturating_mul(1 << self.in_vain.min(16)).min(agent.retry_max.max(agent.interval));
        self.in_vain += 1;
        let at = Instant::now() + pause;
        self.withheld_again = Some(at);
        at
    }
}

/// Files of the operator's that a plan replaces by something else.
fn replaced(plan: &Plan) -> Vec<String> {
    let is_original = |action: &Action| match action {
        Action::Put { path, before: Some(Before::Original { .. }), .. } => Some(path.to_string()),
        _ => None,
    };
    plan.steps.iter().filter_map(|step| is_original(&step.action)).collect()
}

fn few(names: &[String]) -> String {
    let mut text = names.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    if names.len() > NAMED {
        text.push_str(&format!(" and {} more", names.len() - NAMED));
    }
    text
}
