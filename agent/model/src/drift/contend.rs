//! What is fought over, in the book: told once when repairs begin to wait, and once when it is over.
//!
//! When repairs wait is for the daemon to say ([`LeftAlone::Contended`]); here is only what is remembered and told of it. It outlives a restart of
//! the agent, and a new revision that begins the pauses anew: the same fight is not told twice.

use crate::drift::{DriftBook, LeftAlone, Look};
use crate::event::{EventKind, Severity, Telling};

/// How many are remembered one by one. A host on which more than this is fought over has one opponent, and who looks finds it with the first.
pub const MAX_CONTENDED: usize = 100;

impl DriftBook {
    /// Tells what stands and waits to be repaired, because something keeps changing it back. True: it must be saved.
    pub fn contend(&mut self, look: &Look<'_>) -> bool {
        let fought = |left: &Option<LeftAlone>| matches!(left, Some(LeftAlone::Contended { .. }));
        let new: Vec<_> = self.standing.values().filter(|drift| fought(&drift.left_alone)).cloned().collect();
        let before = self.contended.len();
        for drift in new {
            if self.contended.len() >= MAX_CONTENDED || self.contended.contains_key(&drift.resource) {
                continue;
            }
            self.contended.insert(drift.resource.clone(), look.now_ms);
            let resource = drift.resource.clone();
            let message =
                format!("{resource}: something keeps changing it back, by {}; it is repaired ever more seldom", drift.by());
            let told = look.telling(EventKind::Contended, Severity::Warning, &resource, message);
            self.tell(Telling { drift: Some(drift), ..told });
        }
        self.contended.len() != before
    }

    /// Tells that nobody changes back any more what `is_over` says so of, and what nobody manages any more. What stands is not over.
    /// True: it must be saved.
    pub fn calm(&mut self, is_over: impl Fn(&str) -> bool, look: &Look<'_>) -> bool {
        let over = |resource: &&String| !self.standing.contains_key(*resource) && is_over(resource);
        let over: Vec<String> = self.contended.keys().filter(over).cloned().collect();
        for resource in &over {
            self.contended.remove(resource);
            let message = format!("{resource}: nothing changes it back any more");
            self.tell(look.telling(EventKind::Recovered, Severity::Info, resource, message));
        }
        !over.is_empty()
    }
}
