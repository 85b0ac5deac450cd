//! What to do about one unit: at boot (enabled), now (active), and because of what it reads (inputs).
//!
//! The rules, all level-triggered so that a crash needs no case of its own:
//! - a unit whose inputs differ from those of its last start through us runs with old input and is restarted or reloaded;
//! - drift of what it reads counts only when content was touched: nobody restarts a service over a repaired mode;
//! - a container of another image than its declared name means by now is drift of the unit: only a restart makes it anew;
//! - a unit that leaves is stopped and disabled before its file goes, or given back the state that it had before.

use std::collections::BTreeSet;

use super::paths::plain_change;
use super::policy::{self, Stance};
use super::{Action, Cause, Note, Plan, Problem, Step, Verb, Was};
use crate::desired::{Enablement, OnChange, Origin, Unit};
use crate::digest::Digest;
use crate::drift::LeftAlone;
use crate::ledger::OwnedUnit;
use crate::names::{HostPath, UnitName};
use crate::observed::{Running, UnitFound};

/// What the plan for the paths means for the units.
pub(super) struct Touched<'a> {
    /// Paths whose content (or existence) this plan changes.
    pub(super) changed: &'a BTreeSet<HostPath>,
    /// Paths that this plan puts back to what stood there before, or removes.
    pub(super) leaving: &'a BTreeSet<HostPath>,
    /// Paths among the wanted ones that replaced something of the operator's.
    pub(super) replaced: &'a BTreeSet<HostPath>,
    /// Wanted units that lose a drop-in.
    pub(super) undefined: &'a BTreeSet<UnitName>,
}

/// One unit and all that is known of it.
pub(super) struct Subject<'a> {
    pub(super) name: &'a UnitName,
    pub(super) found: &'a UnitFound,
    pub(super) owned: Option<&'a OwnedUnit>,
    pub(super) container: Option<&'a Running>,
}

impl Subject<'_> {
    /// A unit that is wanted; `reads` is what it is to be running with ([`Plan::inputs`]). The plan is of this unit alone.
    pub(super) fn keep(&self, want: &Unit, reads: Digest, touched: &Touched<'_>, plan: &mut Plan) {
        let steps_before = plan.steps.len();
        if let Some(message) = self.unfit(want, touched) {
            plan.problems.push(Problem { resource: self.resource(), message, origin: want.origin.clone() });
            return;
        }
        self.at_boot(want, touched, plan);
        let stale = self.stale(want, reads, touched);
        self.now(want, stale, touched, plan);
        let no_steps = plan.steps.len() == steps_before;
        if no_steps && self.is_starting(want) {
            let message =
                format!("it is still starting (systemd calls it {}); see `systemctl status {}`", self.found.sub, self.name);
            plan.problems.push(Problem { resource: self.resource(), message, origin: want.origin.clone() });
        }
        let settled = no_steps && self.nothing_pending(want, stale);
        if self.owned.is_none_or(|owned| !no_steps || record_differs(owned, want, reads)) {
            let was = (self.owned.is_none() && not_ours_alone(want, touched)).then(|| self.was());
            plan.bookkeeping.push(Note::Unit { unit: self.name.clone(), was, settled });
        }
    }

    /// Nothing runs with old input: it is up to date, or it does not run (and is not to be run once for it), or is not to be told.
    fn nothing_pending(&self, want: &Unit, stale: bool) -> bool {
        let runs_once = want.oneshot && want.active == Some(true);
        !stale || want.on_change == OnChange::Nothing || (!self.is_active() && !runs_once)
    }

    fn was(&self) -> Was {
        Was { enabled: self.is_enabled(), active: self.is_active(), masked: self.is_masked() }
    }

    /// A unit that cannot become what is wanted, whatever we do.
    fn unfit(&self, want: &Unit, touched: &Touched<'_>) -> Option<String> {
        if self.name.is_template() && want.active.is_some() {
            return Some("a template cannot be started; name an instance of it, e.g. `name@one.service`".to_owned());
        }
        let coming = want.definition.iter().any(|path| touched.changed.contains(path));
        if !coming && want.definition.is_empty() && self.found.load == "not-found" && want.enabled != Some(Enablement::Masked) {
            let wanted = want.active == Some(true) || want.enabled == Some(Enablement::Enabled);
            return wanted.then(|| "there is no such unit on this host and the repository does not bring it".to_owned());
        }
        let cannot = matches!(self.found.file_state.as_str(), "static" | "generated" | "transient");
        if !coming && cannot && want.enabled == Some(Enablement::Enabled) {
            return Some(format!("it cannot be enabled: it has no [Install] section (systemd calls it {})", self.found.file_state));
        }
        None
    }

    fn at_boot(&self, want: &Unit, touched: &Touched<'_>, plan: &mut Plan) {
        if want.enabled == Some(Enablement::Masked) {
            if !self.is_masked() {
                if self.is_active() {
                    self.step(plan, Verb::Stop, self.told_cause(want), ("active", &self.found.active, "masked"), want);
                }
                self.step(plan, Verb::Mask, self.told_cause(want), ("enabled", &self.found.file_state, "masked"), want);
            }
            return;
        }
        let wants_it = want.enabled == Some(Enablement::Enabled) || want.active == Some(true);
        if self.is_masked() && wants_it {
            self.step(plan, Verb::Unmask, self.told_cause(want), ("enabled", "masked", "not masked"), want);
        }
        let redefined = self.is_redefined(want, touched);
        match want.enabled {
            Some(Enablement::Enabled) if !self.is_enabled() => {
                self.step(plan, Verb::Enable, self.told_cause(want), ("enabled", self.file_state(), "enabled"), want);
            }
            // Its [Install] section may have changed: enabled anew, or links of the old one would stay.
            Some(Enablement::Enabled) if redefined => self.push(plan, Verb::Enable, Cause::Follows, &want.origin),
            Some(Enablement::Disabled) if self.is_enabled() => {
                self.step(plan, Verb::Disable, self.told_cause(want), ("enabled", "enabled", "disabled"), want);
            }
            _ => {}
        }
    }

    fn now(&self, want: &Unit, stale: bool, touched: &Touched<'_>, plan: &mut Plan) {
        if want.enabled == Some(Enablement::Masked) || self.name.is_template() {
            return;
        }
        match want.active {
            Some(false) => {
                if self.is_active() {
                    self.step(plan, Verb::Stop, self.told_cause(want), ("active", &self.found.active, "inactive"), want);
                }
            }
            Some(true) if want.oneshot => {
                if stale {
                    self.step(plan, Verb::Start, Cause::Follows, ("inputs", "old", "current"), want);
                }
            }
            Some(true) if !self.is_active() => {
                let found = if self.found.active.is_empty() { "inactive" } else { &self.found.active };
                self.step(plan, Verb::Start, self.told_cause(want), ("active", found, "active"), want);
            }
            Some(true) | None => {
                if stale && self.is_active() {
                    self.follow(want, touched, plan);
                } else if let Some(container) = self.container.filter(|container| container.runs != container.means) {
                    self.make_anew(want, container, plan);
                }
            }
        }
    }

    /// Its container runs, and is of another image than it would be if it were started now.
    fn make_anew(&self, want: &Unit, container: &Running, plan: &mut Plan) {
        let cause = self.told_cause(want);
        let stance = policy::stance(want.drift, cause);
        if !self.is_active() || want.oneshot || (self.is_masked() && stance != Stance::Mend) {
            return;
        }
        let (runs, means) = (short(&container.runs), short(&container.means));
        let differs = ("image", runs.as_str(), means.as_str());
        if want.on_change == OnChange::Nothing && stance == Stance::Mend {
            // Whoever declared that wants to choose when it is restarted.
            let mut change = plain_change(self.resource(), Verb::Restart, Cause::Drift, differs, &want.origin);
            change.left_alone = Some(LeftAlone::Policy);
            plan.changes.push(change);
            return;
        }
        self.step(plan, Verb::Restart, cause, differs, want);
    }

    fn follow(&self, want: &Unit, touched: &Touched<'_>, plan: &mut Plan) {
        if self.is_masked() && policy::stance(want.drift, self.told_cause(want)) != Stance::Mend {
            // Somebody masked it, and that is left as it is: systemd would refuse, and what it would have read is fine.
            return;
        }
        let redefined = self.is_redefined(want, touched);
        // After a crash nobody knows which input it missed: only a restart is sure.
        let unknown = self.owned.is_some_and(|owned| owned.inputs.is_none());
        let verb = match want.on_change {
            OnChange::Nothing => return,
            OnChange::Reload if self.found.can_reload && !redefined && !unknown => Verb::Reload,
            OnChange::Reload | OnChange::Restart => Verb::Restart,
        };
        let because = want.definition.iter().chain(&want.uses).find(|path| touched.changed.contains(*path));
        let because = because.map_or("old", |path| path.as_str());
        self.step(plan, verb, Cause::Follows, ("inputs", because, "current"), want);
    }

    fn is_redefined(&self, want: &Unit, touched: &Touched<'_>) -> bool {
        touched.undefined.contains(self.name) || want.definition.iter().any(|path| touched.changed.contains(path))
    }

    /// Whether it runs (or would run) with input that is not the wanted one.
    fn stale(&self, want: &Unit, reads: Digest, touched: &Touched<'_>) -> bool {
        let changed = touched.undefined.contains(self.name)
            || want.definition.iter().chain(&want.uses).any(|path| touched.changed.contains(path));
        match self.owned {
            Some(owned) => changed || owned.inputs != Some(reads),
            None => changed || want.oneshot,
        }
    }

    /// Ours and told the same before: somebody changed it. Otherwise we are asking for something new.
    fn told_cause(&self, want: &Unit) -> Cause {
        match self.owned {
            Some(owned) if owned.inputs.is_some() && owned.active == want.active && owned.enabled == want.enabled => Cause::Drift,
            _ => Cause::Update,
        }
    }

    /// A unit that left the repository.
    pub(super) fn leave(&self, owned: &OwnedUnit, touched: &Touched<'_>, plan: &mut Plan) {
        let origin = &owned.origin;
        let change = |plan: &mut Plan, verb: Verb, found: &str, wanted: &str| {
            plan.changes.push(plain_change(self.resource(), verb, Cause::Update, ("wanted", found, wanted), origin));
            self.push(plan, verb, Cause::Update, origin);
        };
        let was = owned.was_enabled.zip(owned.was_active);
        match was {
            None => {
                // One that is still on its way down is waited for: its file must not go before it.
                if self.is_active() || matches!(self.found.active.as_str(), "failed" | "deactivating") {
                    change(plan, Verb::Stop, &self.found.active, "no longer in the repository");
                }
                if self.is_enabled() && !owned.generated {
                    change(plan, Verb::Disable, "enabled", "no longer in the repository");
                }
            }
            Some((enabled, active)) => {
                if owned.was_masked && !self.is_masked() {
                    change(plan, Verb::Mask, "not masked", "as before trimtab");
                } else if !owned.was_masked && self.is_masked() {
                    change(plan, Verb::Unmask, "masked", "as before trimtab");
                }
                if enabled != self.is_enabled() {
                    let verb = if enabled { Verb::Enable } else { Verb::Disable };
                    change(plan, verb, self.file_state(), "as before trimtab");
                }
                let redefined = touched.leaving.iter().any(|path| path.as_str().contains(self.name.as_str()));
                match (active, self.is_active()) {
                    (false, true) => change(plan, Verb::Stop, "active", "as before trimtab"),
                    (true, true) if redefined => change(plan, Verb::Restart, "active", "as before trimtab"),
                    (true, false) => change(plan, Verb::Start, "inactive", "as before trimtab"),
                    _ => {}
                }
            }
        }
        plan.steps.push(Step {
            action: Action::Forget { unit: self.name.clone() },
            component: Some(origin.component.clone()),
            cause: Cause::Update,
        });
    }

    fn step(&self, plan: &mut Plan, verb: Verb, cause: Cause, differs: (&str, &str, &str), want: &Unit) {
        let stance = policy::stance(want.drift, cause);
        if stance == Stance::Ignore {
            return;
        }
        let mut change = plain_change(self.resource(), verb, cause, differs, &want.origin);
        if let Stance::Tell(why) = stance {
            change.left_alone = Some(why);
            plan.changes.push(change);
            return;
        }
        plan.changes.push(change);
        self.push(plan, verb, cause, &want.origin);
    }

    fn push(&self, plan: &mut Plan, verb: Verb, cause: Cause, origin: &Origin) {
        let unit = self.name.clone();
        let action = match verb {
            Verb::Enable => Action::Enable { unit },
            Verb::Disable => Action::Disable { unit },
            Verb::Mask => Action::Mask { unit },
            Verb::Unmask => Action::Unmask { unit },
            Verb::Stop => Action::Stop { unit, leaving: false },
            Verb::Restart => Action::Restart { unit },
            Verb::Reload => Action::Reload { unit },
            _ => Action::Start { unit },
        };
        plan.steps.push(Step { action, component: Some(origin.component.clone()), cause });
    }

    fn resource(&self) -> String {
        format!("unit {}", self.name)
    }

    /// Wanted running, and neither running nor failed: a host is not ready with it, but there is nothing to do but wait.
    fn is_starting(&self, want: &Unit) -> bool {
        let waits = self.found.active == "activating" && !self.found.sub.starts_with("auto-restart");
        waits && want.active == Some(true) && !want.oneshot
    }

    fn is_active(&self) -> bool {
        matches!(self.found.active.as_str(), "active" | "reloading" | "activating" | "refreshing")
    }

    fn is_enabled(&self) -> bool {
        matches!(self.found.file_state.as_str(), "enabled" | "alias" | "indirect")
    }

    fn is_masked(&self) -> bool {
        self.found.file_state == "masked" || self.found.load == "masked"
    }

    fn file_state(&self) -> &str {
        if self.found.file_state.is_empty() { "no unit file" } else { &self.found.file_state }
    }
}

/// An id of an image as Podman shows it.
fn short(id: &str) -> String {
    id.trim_start_matches("sha256:").chars().take(12).collect()
}

fn record_differs(owned: &OwnedUnit, want: &Unit, reads: Digest) -> bool {
    owned.inputs != Some(reads)
        || owned.enabled != want.enabled
        || owned.active != want.active
        || owned.generated != want.generated
        || owned.origin != want.origin
}

/// The distribution's or the operator's unit: what it was before is remembered and given back.
fn not_ours_alone(want: &Unit, touched: &Touched<'_>) -> bool {
    let has_fragment = want.definition.iter().any(|path| !path.as_str().contains(".d/"));
    !has_fragment || want.definition.iter().any(|path| touched.replaced.contains(path))
}
