//! Which artifacts must be got into the store before anything is switched.

use super::paths::difference;
use super::{Action, Cause, Plan, Step};
use crate::desired::Desired;
use crate::observed::{Found, Observed};

/// One step for each artifact that the store lacks and that is about to be written, or stands on the host already: without its content in
/// the store it could neither be repaired nor be gone back to without a network.
pub(super) fn fetches(desired: &Desired, observed: &Observed, plan: &mut Plan) {
    for (path, entry, artifact, digest, size) in desired.artifacts() {
        if observed.contents.contains(&digest) {
            continue;
        }
        let is_put = plan.steps.iter().any(|step| matches!(&step.action, Action::Put { path: put, .. } if put == path));
        let stands = matches!(observed.entries.get(path), Some(Found::File { digest: is, .. }) if *is == digest);
        let resource = format!("file {path}");
        if !is_put && (!stands || observed.pinned.contains(&resource)) {
            continue;
        }
        if let Some(change) = plan.changes.iter_mut().find(|change| is_put && change.resource == resource) {
            let from = format!("{} from {}", in_words(size), artifact.shown_url());
            change.differs.push(difference("artifact", "not in the store", from));
        }
        plan.steps.push(Step {
            action: Action::Fetch { path: path.clone(), digest },
            component: Some(entry.origin.component.clone()),
            cause: Cause::Update,
        });
    }
}

/// A length as a person reads it.
fn in_words(bytes: u64) -> String {
    match bytes {
        0..=9_999 => format!("{bytes} bytes"),
        10_000..=9_999_999 => format!("{} KiB", bytes >> 10),
        _ => format!("{} MiB", bytes >> 20),
    }
}
