//! What tells of a change at once: the kernel's file events, systemd's signals, and who it was where they tell.
//!
//! A hint, never the truth: what is seen makes the loop look, and the look decides. Guarantees: nothing that happens after [`Watch::arm`] is
//! missed without being counted ([`WatchStatus::overflows`]) and followed by a look at everything; what is new after it was armed
//! is looked at once more, for it may have changed before. The number of watches is bounded; what is beyond is counted, and found by the full look at
//! the interval. Limits: what lies beyond a symlink, or on a network's file system, is told only as far as this kernel sees it.

mod group;
mod index;
mod pace;
mod reader;
mod records;
mod units;
mod who;

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use trimtab_model::drift::{Actor, Sighting, Watched};
use trimtab_model::status::WatchStatus;

use crate::host::accounts::Accounts;
use crate::host::root::Root;
use group::{Group, Way};
use index::Index;
use pace::Pace;
use reader::Reader;

/// A job that ended this long before a unit's change may be what changed it.
const JOB: Duration = Duration::from_secs(5);

/// So many new paths are looked at one by one; more are a reason to look at everything.
const MAX_NEW: usize = 64;

/// What was seen.
#[derive(Debug, Default)]
pub struct Glimpse {
    /// Of which resources, and who it was. A unit that changed without a job names itself.
    pub sightings: Vec<Sighting>,
    /// More than that: everything is to be looked at.
    pub everything: bool,
}

impl Glimpse {
    /// Whether it is nothing at all.
    pub fn is_empty(&self) -> bool {
        self.sightings.is_empty() && !self.everything
    }
}

/// The event sources of one agent.
#[derive(Debug)]
pub struct Watch {
    root: Root,
    way: Way,
    reader: Option<Reader>,
    units: units::Listener,
    /// What it is armed for.
    index: Arc<Index>,
    armed: Option<u64>,
    pace: Pace,
    accounts: Accounts,
    status: WatchStatus,
}

impl Watch {
    /// Nothing is watched until it is armed.
    pub fn new(root: &Root) -> Self {
        let reader = Reader::new().and_then(|reader| match reader.start() {
            Ok(()) => Ok(reader),
            Err(_) => Err(nix::errno::Errno::last()),
        });
        if let Err(errno) = &reader {
            tracing::warn!("changes are not seen as they happen, but at the interval: {errno}");
        }
        Self {
            root: root.clone(),
            way: Way::Fanotify,
            reader: reader.ok(),
            units: units::Listener::default(),
            index: Arc::default(),
            armed: None,
            pace: Pace::default(),
            accounts: Accounts::load(root),
            status: WatchStatus::default(),
        }
    }

    /// Never by fanotify: as on a kernel that has none, or where it is not permitted.
    #[must_use]
    pub fn without_fanotify(self) -> Self {
        Self { way: Way::Inotify, ..self }
    }

    /// Watches these from now on, with at most that many watches on directories. Costs next to nothing when they are what is watched already.
    /// To be called before a look, or what changed between the look and this is found by the next one only; and after each pass.
    pub fn arm(&mut self, watched: &Watched, most: usize, has_systemd: bool) {
        let Some(reader) = &self.reader else { return };
        let shared = reader.shared.clone();
        if has_systemd {
            self.units.listen(&watched.units, &shared);
        }
        let (moved, is_blind) = {
            let mut inbox = shared.inbox();
            (std::mem::take(&mut inbox.moved), inbox.is_blind())
        };
        if is_blind && self.way == Way::Fanotify {
            self.fall_back("its events do not lead back to what is watched");
        }
        let digest = digest(watched, most);
        let before = self.armed.replace(digest);
        if before == Some(digest) && !moved {
            return;
        }
        let index = Arc::new(Index::of(watched));
        let Some(group) = self.group(&index, most) else { return };
        (self.status.watched, self.status.unwatched) = (group.watched, group.unwatched);
        if let Some(reader) = &self.reader {
            reader.change_to(group);
        }
        if before.is_some() {
            let new = index.beyond(&self.index, MAX_NEW);
            let mut inbox = shared.inbox();
            match new {
                Some(new) => {
                    for resource in new {
                        inbox.note(resource, None);
                    }
                }
                None => inbox.note_everything(),
            }
        }
        self.index = index;
    }

    fn group(&mut self, index: &Arc<Index>, most: usize) -> Option<Group> {
        let made = Group::arm(&self.root, index, self.way, most);
        let made = match made {
            Err(errno) if self.way == Way::Fanotify => {
                self.fall_back(errno.desc());
                Group::arm(&self.root, index, self.way, most)
            }
            known => known,
        };
        match made {
            Ok(group) => {
                let way = if self.way == Way::Fanotify { "fanotify" } else { "inotify" };
                way.clone_into(&mut self.status.files);
                Some(group)
            }
            Err(errno) => {
                if !self.status.files.is_empty() || self.armed.is_none() {
                    tracing::warn!("changes of files are not seen as they happen, but at the interval: {errno}");
                }
                self.status.files.clear();
                None
            }
        }
    }

    fn fall_back(&mut self, why: &str) {
        tracing::info!("changes of files are told by inotify, which does not say who it was; fanotify cannot be used: {why}");
        self.way = Way::Inotify;
    }

    /// What came again and again counts as new: a person asked for a look.
    pub fn calm(&mut self) {
        self.pace = Pace::default();
    }

    /// How it watches.
    pub fn status(&self) -> WatchStatus {
        let mut status = self.status.clone();
        if let Some(reader) = &self.reader {
            let inbox = reader.shared.inbox();
            (status.overflows, status.units) = (inbox.overflows, inbox.hears_units);
        }
        status
    }

    /// Until something was seen that is to be looked at now; for ever when nothing is. May be dropped at any time.
    pub async fn due(&self) {
        let Some(reader) = &self.reader else { return std::future::pending().await };
        loop {
            let at = {
                let inbox = reader.shared.inbox();
                let all = inbox.everything.then_some(EVERYTHING);
                let seen = inbox.seen.keys().map(String::as_str).chain(all);
                inbox.span.map(|(first, last)| self.pace.due(first, last, seen))
            };
            match at {
                Some(at) if at <= Instant::now() => return,
                Some(at) => tokio::select! {
                    () = tokio::time::sleep_until(at.into()) => {}
                    () = reader.shared.notify.notified() => {}
                },
                None => reader.shared.notify.notified().await,
            }
        }
    }

    /// These units were just started, stopped or changed by us: the signals of that, once each, are no sign of trouble.
    pub fn expect<'a>(&mut self, resources: impl Iterator<Item = &'a str>) {
        self.pace.expect(Instant::now(), resources);
    }

    /// What was seen since it was last asked, with the names of those who did it. `own`: jobs of systemd's that were ours.
    pub fn take(&mut self, own: &[String]) -> Glimpse {
        let Some(reader) = &self.reader else { return Glimpse::default() };
        let (seen, everything, asked) = {
            let mut inbox = reader.shared.inbox();
            inbox.span = None;
            inbox.jobs.retain(|job| job.at.elapsed() < JOB && !own.contains(&job.job));
            let asked: BTreeSet<String> = inbox.jobs.iter().map(|job| job.unit.clone()).collect();
            (std::mem::take(&mut inbox.seen), std::mem::take(&mut inbox.everything), asked)
        };
        if seen.is_empty() && !everything {
            return Glimpse::default();
        }
        self.pace.looked(Instant::now(), seen.keys().map(String::as_str).chain(everything.then_some(EVERYTHING)));
        self.accounts.refresh();
        let mut sightings = Vec::with_capacity(seen.len());
        for (resource, seen) in seen {
            let actor = match resource.strip_prefix("unit ") {
                // Without a job it was the unit that changed; how, who looks at it finds out.
                Some(unit) if !asked.contains(unit) => Some(Actor { unit: unit.to_owned(), ..Actor::default() }),
                Some(_) => None,
                None => seen.actor.map(|actor| who::named(actor, |uid| self.accounts.user_name(uid))),
            };
            sightings.push(Sighting { resource, at_ms: seen.at_ms, actor });
        }
        sightings.sort_by(|one, two| one.resource.cmp(&two.resource));
        Glimpse { sightings, everything }
    }
}

/// What stands for everything in the pace; no resource is called so.
const EVERYTHING: &str = "*";

fn digest(watched: &Watched, most: usize) -> u64 {
    let mut hasher = DefaultHasher::new();
    most.hash(&mut hasher);
    for path in &watched.paths {
        path.as_str().hash(&mut hasher);
    }
    0_u8.hash(&mut hasher);
    for path in &watched.exclusive {
        path.as_str().hash(&mut hasher);
    }
    hasher.finish()
}

/// Whether a resource is a path, and which.
pub fn path_of(resource: &str) -> Option<trimtab_model::names::HostPath> {
    index::path_of(resource)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[tokio::test(flavor = "current_thread")]
    async fn lost_events_are_counted_and_everything_is_looked_at() {
        for way in [Way::Fanotify, Way::Inotify] {
            // In memory: twenty thousand files are made at once.
            let folder = tempfile::tempdir_in("/dev/shm").unwrap();
            std::fs::create_dir(folder.path().join("d")).unwrap();
            let run = |command: &str| Command::new("sh").args(["-c", command]).current_dir(folder.path()).status().unwrap();
            let mut watch = Watch::new(&Root::open(folder.path()).unwrap());
            watch.way = way;
            let watched = Watched { paths: vec!["/d/a".parse().unwrap()], ..Watched::default() };
            watch.arm(&watched, 10, false);
            let shared = watch.reader.as_ref().unwrap().shared.clone();
            {
                // The reader waits for this at the first event that matters, as it would for a processor.
                let _held = shared.inbox();
                assert!(run("echo x > d/a; seq 0 40000 | sed 's|^|d/n|' | xargs touch").success());
            }
            // The first event may be due before the reader has come to the end of the queue, where the loss is written.
            let lost = async {
                while !watch.take(&[]).everything {
                    watch.due().await;
                }
            };
            tokio::time::timeout(Duration::from_secs(30), lost).await.expect("because the queue holds less");
            assert_eq!(watch.status().overflows, 1);
            assert!(run("echo y > d/a").success());
            tokio::time::timeout(Duration::from_secs(3), watch.due()).await.expect("because it goes on");
            assert_eq!(watch.take(&[]).sightings.len(), 1);
        }
    }
}
