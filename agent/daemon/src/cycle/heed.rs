//! Whether what event sources saw is worth a pass.
//!
//! Level-triggered: what counts is how things are now, not what happened. Our own writes, a `touch`, or an edit that was taken back differ in
//! nothing from what was put there, and are followed by no pass; and a change that somebody made during a pass is seen here, whatever the pass saw of it.
//! Guarantees: nothing is changed, written or said. Limits: a unit is judged by a whole look; files by themselves.

use std::collections::BTreeSet;

use trimtab_model::drift::{Actor, Sighting};
use trimtab_model::observed::{Found, Observed};
use trimtab_model::plan::{self, Plan};
use trimtab_model::report::Wake;
use trimtab_model::status::WatchStatus;

use super::Cycle;
use crate::host::observe;
use crate::host::root::Root;
use crate::watch::{Glimpse, path_of};

impl Cycle {
    /// What the paths of the host are resolved beneath.
    pub fn root(&self) -> &Root {
        &self.machine.root
    }

    /// Whether there is a systemd whose signals can be heard.
    pub fn has_systemd(&self) -> bool {
        self.machine.systemd.is_some()
    }

    /// The last jobs that were queued by us.
    pub fn own_jobs(&self) -> Vec<String> {
        self.machine.systemd.as_ref().map(|systemd| systemd.own_jobs()).unwrap_or_default()
    }

    /// How event sources watch, for the status document.
    pub fn watch_status(&mut self, status: WatchStatus) {
        let is_news = self.watch != status && self.history.is_begun();
        self.watch = status;
        if is_news {
            self.write_status();
        }
    }

    /// Takes note of what event sources saw; true: a pass is worth it.
    pub async fn heed(&mut self, mut glimpse: Glimpse) -> bool {
        if glimpse.is_empty() || self.current.is_none() {
            return false;
        }
        let by_whole = glimpse.everything || glimpse.sightings.iter().any(|sighting| path_of(&sighting.resource).is_none());
        let worth = self.files_differ(&glimpse.sightings) || (by_whole && self.anything_differs(&glimpse).await);
        if worth {
            self.name_units(&mut glimpse.sightings).await;
            self.saw(glimpse.sightings);
        } else if by_whole {
            if let Some(systemd) = &self.machine.systemd {
                systemd.rest();
            }
            crate::host::sys::give_back();
        }
        worth
    }

    /// Whether any of these files is not as it was put there, or was left in another state by the last pass.
    fn files_differ(&mut self, sightings: &[Sighting]) -> bool {
        let paths: BTreeSet<_> = sightings.iter().filter_map(|sighting| path_of(&sighting.resource)).collect();
        let mut observed = Observed { entries: observe::observe(&self.machine.root, &paths), ..Observed::default() };
        self.machine.accounts.refresh();
        paths.iter().any(|path| {
            let found = observed.entries.get(path).cloned().unwrap_or(Found::Missing);
            let Some(owned) = self.ledger.entries.get(path) else { return !matches!(found, Found::Missing) };
            let (user, group) = (owned.state.owner.as_str(), owned.state.group.as_str());
            observed.users.insert(user.to_owned(), self.machine.accounts.user(user));
            observed.groups.insert(group.to_owned(), self.machine.accounts.group(group));
            plan::has_drifted(&owned.state, &found, &observed) || self.is_left(&format!("file {path}"))
        })
    }

    /// Whether a whole look finds anything that the last pass did not leave so.
    async fn anything_differs(&mut self, glimpse: &Glimpse) -> bool {
        let Some(wanted) = self.in_force() else { return false };
        let mut scratch = self.blank(Wake::Event);
        let Plan { changes, problems, .. } = self.plan(&wanted, Wake::Event, &mut scratch).await;
        let found = changes.iter().map(|change| &change.resource).chain(problems.iter().map(|problem| &problem.resource));
        let found: BTreeSet<&String> = found.collect();
        let sighted: BTreeSet<&String> = glimpse.sightings.iter().map(|sighting| &sighting.resource).collect();
        // What was seen to change is looked at by a pass when it differs, or did.
        let news = found.iter().any(|resource| sighted.contains(*resource) || !self.is_left(resource));
        let left = self.history.all_left().chain(self.kept.book.standing.keys().map(String::as_str));
        news || left.into_iter().any(|resource| !found.iter().any(|found| *found == resource))
    }

    /// Whether this was not as it should be when it was looked at last.
    fn is_left(&self, resource: &str) -> bool {
        self.kept.book.standing.contains_key(resource) || self.history.left(resource)
    }

    /// A unit that changed without a job is told with how it ended, if it did.
    async fn name_units(&self, sightings: &mut [Sighting]) {
        let Some(systemd) = &self.machine.systemd else { return };
        for sighting in sightings {
            let Some(actor) = sighting.actor.take_if(|_| sighting.resource.starts_with("unit ")) else { continue };
            let Ok(unit) = actor.unit.parse() else { continue };
            let Ok(fares) = systemd.fares(&unit).await else { continue };
            let ended = fares.result != "success" || matches!(fares.active.as_str(), "inactive" | "failed");
            sighting.actor = (ended && !fares.result.is_empty()).then_some(Actor { result: fares.result, ..actor });
        }
    }
}
