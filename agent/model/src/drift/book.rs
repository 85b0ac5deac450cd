//! Keeping the book: from what passes find and do to records of drift, each told once.
//!
//! [`DriftBook::find`] comes before a repair and is saved before it; [`DriftBook::settle`] comes after. Between the two a record stands; whatever
//! is killed then, the next look finds it standing and goes on with it, so no drift is told as new twice and none is lost.
//!
//! Limits: a drift that trimtab was about to repair for the first time and that the next look no longer finds counts as repaired, for that is
//! what a kill between the repair and its note leaves. Once a repair of it did not work, only one that is seen to work counts.

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::drift::{Actor, Drift, DriftBook, DriftState, LeftAlone, MAX_PAST, MAX_STANDING, Sighting};
use crate::event::{EventKind, Severity, Telling};
use crate::plan::{Cause, Change, Difference, PRIVATE, Problem};

/// A sighting from longer ago tells nothing about a drift that is found only now.
const SIGHTED_MS: u64 = 15 * 60 * 1000;

/// What repairing a drift takes away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Takes {
    /// Nothing of anybody's: a mode, a missing file, the state of a unit.
    Nothing,
    /// What somebody wrote.
    Content,
    /// What somebody wrote, and not for everybody's eyes: it is not kept.
    Private,
}

/// The look that finds something.
#[derive(Debug, Clone, Copy)]
pub struct Look<'a> {
    /// Now, milliseconds since 1970.
    pub now_ms: u64,
    /// The pass.
    pub pass: u64,
    /// The revision in force.
    pub revision: &'a str,
    /// Whether units could be looked at: if not, a unit's drift that was not found is not gone.
    pub has_units: bool,
    /// What cannot be converged as it stands: not as wanted either, whatever stood there before.
    pub problems: &'a [Problem],
}

impl Look<'_> {
    pub(super) fn telling<'t>(&'t self, kind: EventKind, severity: Severity, resource: &'t str, message: String) -> Telling<'t> {
        Telling { at_ms: self.now_ms, kind, severity, pass: self.pass, revision: self.revision, resource, message, drift: None }
    }
}

impl DriftBook {
    /// Writes down what a look found, before anything is done about it. True: it must be saved first.
    pub fn find(&mut self, changes: &[Change], sightings: &[Sighting], look: &Look<'_>) -> bool {
        let mut changed = false;
        let mut seen = Vec::new();
        let mut beyond = 0;
        for change in changes.iter().filter(|change| change.cause.is_drift()) {
            let first = !seen.contains(&change.resource.as_str());
            seen.push(change.resource.as_str());
            if let Some(standing) = self.standing.get_mut(&change.resource) {
                changed |= renew(standing, change, first, sightings);
            } else if self.standing.len() < MAX_STANDING {
                self.begin(change, sightings, look);
                changed = true;
            } else {
                beyond += 1;
            }
        }
        changed |= self.too_many(beyond, look);
        // Whatever the cause by now: a repair that a kill cut short is unfinished work and no drift to the plan, and still to be done.
        let differs = |resource: &str| {
            changes.iter().any(|change| change.resource == resource) || look.problems.iter().any(|one| one.resource == resource)
        };
        let is_gone = |resource: &&String| !differs(resource) && (look.has_units || resource.starts_with("file "));
        let gone: Vec<String> = self.standing.keys().filter(is_gone).cloned().collect();
        for resource in gone {
            let repaired = self.standing.get(&resource).is_some_and(|drift| drift.left_alone.is_none() && !drift.failed);
            self.end(&resource, if repaired { DriftState::Repaired } else { DriftState::Gone }, None, look);
            changed = true;
        }
        changed
    }

    /// Writes down what became of it. `mended` says of a resource whether the pass put it right, with the digest of what was overwritten
    /// when that was kept. True: it must be saved.
    pub fn settle(&mut self, mended: impl Fn(&Drift) -> Option<Option<Digest>>, look: &Look<'_>) -> bool {
        let ended = |(resource, drift): (&String, &Drift)| mended(drift).map(|kept| (resource.clone(), kept));
        let list: Vec<(String, Option<Digest>)> = self.standing.iter().filter_map(ended).collect();
        for (resource, kept) in &list {
            self.end(resource, DriftState::Repaired, *kept, look);
        }
        let mut changed = !list.is_empty();
        for drift in self.standing.values_mut().filter(|drift| drift.left_alone.is_none() && !drift.failed) {
            drift.failed = true;
            changed = true;
        }
        changed
    }

    /// The record of a drift, standing or passed.
    pub fn drift(&self, id: u64) -> Option<&Drift> {
        self.standing.values().chain(&self.past).find(|drift| drift.id == id)
    }

    /// All records of a resource, newest first.
    pub fn of<'a>(&'a self, resource: &'a str) -> impl Iterator<Item = &'a Drift> {
        self.standing.get(resource).into_iter().chain(self.past.iter().filter(move |drift| drift.resource == resource))
    }

    fn begin(&mut self, change: &Change, sightings: &[Sighting], look: &Look<'_>) {
        let sighting = witness(sightings, &change.resource, look.now_ms);
        self.last_id += 1;
        let drift = Drift {
            id: self.last_id,
            resource: change.resource.clone(),
            origin: change.origin.clone(),
            differs: change.differs.clone(),
            seen_ms: sighting.map_or(look.now_ms, |sighting| sighting.at_ms),
            found_ms: look.now_ms,
            ended_ms: 0,
            actor: sighting.and_then(|sighting| sighting.actor.clone()),
            state: DriftState::Standing,
            left_alone: change.left_alone.clone(),
            failed: false,
            kept: None,
            pass: look.pass,
            revision: look.revision.to_owned(),
        };
        let message = format!("{}: drift, {}, by {}", drift.resource, drift.words(), drift.by());
        let told = look.telling(EventKind::DriftFound, Severity::Warning, &change.resource, message);
        self.tell(Telling { drift: Some(drift.clone()), ..told });
        self.standing.insert(change.resource.clone(), drift);
    }

    fn end(&mut self, resource: &str, state: DriftState, kept: Option<Digest>, look: &Look<'_>) {
        let Some(mut drift) = self.standing.remove(resource) else { return };
        (drift.state, drift.ended_ms, drift.kept, drift.left_alone) = (state, look.now_ms, kept.or(drift.kept), None);
        let (kind, message) = match state {
            DriftState::Gone => (EventKind::DriftGone, format!("{resource}: is as it should be again, without trimtab")),
            _ => (EventKind::DriftRepaired, format!("{resource}: repaired")),
        };
        self.tell(Telling { drift: Some(drift.clone()), ..look.telling(kind, Severity::Info, resource, message) });
        self.past.insert(0, drift);
        self.past.truncate(MAX_PAST);
    }

    /// More stands than is remembered one by one: told as a number, when there first is such a number.
    fn too_many(&mut self, beyond: usize, look: &Look<'_>) -> bool {
        let before = std::mem::replace(&mut self.beyond, beyond);
        if before == 0 && beyond > 0 {
            let message = format!("{beyond} more resources drifted than are told one by one");
            self.tell(look.telling(EventKind::DriftFound, Severity::Warning, "", message));
        }
        before != beyond
    }
}

/// A drift that stands was looked at again: it is the same one, whatever it looks like by now.
fn renew(standing: &mut Drift, change: &Change, first: bool, sightings: &[Sighting]) -> bool {
    let before = standing.clone();
    if first {
        standing.differs.clear();
        standing.left_alone = None;
    }
    for differs in &change.differs {
        if !standing.differs.contains(differs) {
            standing.differs.push(differs.clone());
        }
    }
    standing.left_alone = standing.left_alone.take().or_else(|| change.left_alone.clone());
    if let Some(actor) = sightings.iter().rev().find(|s| s.resource == change.resource).and_then(|s| s.actor.clone()) {
        standing.actor = Some(actor);
    }
    *standing != before
}

/// The newest sighting of a resource that is not from long ago.
fn witness<'a>(sightings: &'a [Sighting], resource: &str, now_ms: u64) -> Option<&'a Sighting> {
    sightings.iter().rev().find(|sighting| sighting.resource == resource && now_ms.saturating_sub(sighting.at_ms) < SIGHTED_MS)
}

impl Drift {
    /// In what it differs, in one line: `content 1a2b -> 3c4d, mode 0600 -> 0644`.
    pub fn words(&self) -> String {
        let one = |d: &Difference| format!("{} {} -> {}", d.property, d.found, d.wanted);
        self.differs.iter().map(one).collect::<Vec<_>>().join(", ")
    }

    /// What repairing it takes away.
    pub fn takes(&self) -> Takes {
        let is_private = |differs: &Difference| differs.property == "content" && differs.found == PRIVATE;
        let holds = |differs: &Difference| matches!(differs.property.as_str(), "content" | "kind" | "wanted" | "extra");
        match () {
            () if self.differs.iter().any(is_private) => Takes::Private,
            () if self.resource.starts_with("file ") && self.differs.iter().any(holds) => Takes::Content,
            () => Takes::Nothing,
        }
    }

    /// Who did it, in a few words; `unknown` when that is not known.
    pub fn by(&self) -> String {
        self.actor.as_ref().map_or_else(|| "unknown".to_owned(), Actor::words)
    }

    /// Why it is left as it is, in a few words; empty when it is not.
    pub fn left_alone_words(&self) -> &'static str {
        self.left_alone.as_ref().map_or("", LeftAlone::words)
    }
}

impl Cause {
    /// Whether somebody changed the machine.
    pub fn is_drift(self) -> bool {
        matches!(self, Cause::Drift | Cause::UpdateAndDrift)
    }
}
