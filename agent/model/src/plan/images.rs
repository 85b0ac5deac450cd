//! Images that are not in local storage: what is needed for the first time is an update; what was there and is gone is drift.
//!
//! The policy is that of the units whose Quadlet files name the image, the strictest of them; an image that nobody names by its own name is
//! enforced. Guarantees: a drift that is left alone is pulled all the same when a unit that needs it is started by the same plan: that start
//! would pull it anyway, after something was stopped for it. Limits: an image that leaves the repository stays in storage.

use std::collections::BTreeSet;

use super::paths::plain_change;
use super::policy::{self, Stance};
use super::{Action, Cause, Plan, Step, Verb};
use crate::desired::Desired;
use crate::drift::LeftAlone;
use crate::names::UnitName;
use crate::observed::Observed;

/// The pulls, told before everything else of the plan; what is planned for the units must be in it already.
pub(super) fn images(desired: &Desired, observed: &Observed, plan: &mut Plan) {
    let mut changes = Vec::new();
    for (image, origin) in desired.images.iter().filter(|(image, _)| !observed.images.contains(*image)) {
        let resource = format!("image {image}");
        let users: BTreeSet<&UnitName> =
            desired.units.keys().filter(|unit| desired.image_of(unit) == Some(image.as_str())).collect();
        let (cause, stance) = judge(observed.had.contains(image), &users, desired, plan);
        let pinned = |resource: &str| observed.pinned.contains(resource);
        let are_pinned = cause == Cause::Drift && !users.is_empty() && users.iter().all(|unit| pinned(&format!("unit {unit}")));
        let left_alone = match stance {
            Stance::Ignore => continue,
            _ if are_pinned || pinned(&resource) => Some(LeftAlone::Pinned),
            Stance::Tell(why) => Some(why),
            Stance::Mend => None,
        };
        let mut change = plain_change(resource, Verb::Pull, cause, ("missing", "not in local storage", "present"), origin);
        if left_alone.is_none() {
            let action = Action::Pull { image: image.clone() };
            plan.steps.push(Step { action, component: Some(origin.component.clone()), cause });
        }
        change.left_alone = left_alone;
        changes.push(change);
    }
    plan.changes.splice(0..0, changes);
}

/// Why a missing image is missing, and what is done about it.
fn judge(was_there: bool, users: &BTreeSet<&UnitName>, desired: &Desired, plan: &Plan) -> (Cause, Stance) {
    if !was_there {
        return (Cause::Update, Stance::Mend);
    }
    let policy = users.iter().map(|unit| desired.units[*unit].drift).min().unwrap_or_default();
    let starts = |step: &Step| match &step.action {
        Action::Start { unit } | Action::Restart { unit } => users.contains(unit),
        _ => false,
    };
    match policy::stance(policy, Cause::Drift) {
        Stance::Mend => (Cause::Drift, Stance::Mend),
        _ if plan.steps.iter().any(starts) => (policy::told(policy, Cause::UpdateAndDrift), Stance::Mend),
        stance => (Cause::Drift, stance),
    }
}
