//! What is known of Podman's storage, and when it is asked anew.
//!
//! Each question costs a process or two, so it is asked at the start and when a person asks, when a container unit was started, stopped or is new,
//! when the storage's own list of images was written (a pull, a tag, a removal), and hourly: what tells none of that is found then.
//! Guarantees: a Podman that hangs holds up one pass in [`HUNG`], and what was last known goes on to count; whatever is wrong with it, files and
//! units are put right. Limits: a container is judged by the label that Quadlet puts on it, and of several of one unit it is enough that one is as
//! declared; the images of a `.kube` unit are not known.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use trimtab_model::desired::Desired;
use trimtab_model::drift::LeftAlone;
use trimtab_model::names::UnitName;
use trimtab_model::observed::{Observed, Running};
use trimtab_model::report::{Failure, Outcome, Pass};

use super::{Cycle, worsen};
use crate::host::images::{self, Ids, ImageError};
use crate::log::chain;

/// However quiet it is, Podman is asked again after this long.
const EVERY: Duration = Duration::from_secs(3600);

/// A Podman that had to be stopped is not asked again for this long.
const HUNG: Duration = Duration::from_secs(10 * 60);

/// Where the storage keeps its list of images unless somebody moved it; replaced whenever an image comes, goes or is named.
const LIST: &str = "var/lib/containers/storage/overlay-images/images.json";

/// What Podman said last.
#[derive(Debug, Default)]
pub(super) struct Stored {
    last: Option<Answer>,
    /// It hung: when, and what was told.
    hung: Option<(Instant, String)>,
}

/// What was asked, and what came back.
#[derive(Debug)]
struct Answer {
    question: Question,
    at: Instant,
    present: BTreeMap<String, Ids>,
    /// By unit.
    running: BTreeMap<String, Ids>,
}

/// What the answer depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Question {
    /// As the Quadlet files name them.
    images: BTreeSet<String>,
    /// The starts of the container units that run.
    running: BTreeMap<UnitName, String>,
    list: Option<Stamp>,
}

/// Which state of which file it was: inode, length and change.
type Stamp = (u64, u64, i64, i64);

impl Stored {
    /// What was known counts no more.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }

    /// What is known, if it is the answer to this.
    fn answer(&self, question: &Question, now: Instant) -> Option<&Answer> {
        let is_current = |answer: &&Answer| answer.question == *question && now.saturating_duration_since(answer.at) < EVERY;
        self.last.as_ref().filter(is_current)
    }

    /// What was once known of all these images, for want of better.
    fn old(&self, question: &Question) -> Option<&Answer> {
        self.last.as_ref().filter(|answer| question.images.is_subset(&answer.question.images))
    }

    fn trouble(&self, now: Instant) -> Option<&str> {
        let (at, message) = self.hung.as_ref()?;
        (now.saturating_duration_since(*at) < HUNG).then_some(message)
    }
}

impl Answer {
    fn tell(&self, desired: &Desired, observed: &mut Observed) {
        observed.images = desired.images.keys().filter(|image| self.present.contains_key(*image)).cloned().collect();
        let runs = |unit: &UnitName| observed.units.get(unit).is_some_and(|found| found.active == "active");
        let of = |unit: &UnitName| {
            let (means, runs) = (self.present.get(desired.image_of(unit)?)?, self.running.get(unit.as_str())?);
            let both = runs.intersection(means).next();
            Some(Running { runs: both.or(runs.first())?.clone(), means: both.or(means.first())?.clone() })
        };
        let running = desired.units.keys().filter(|unit| runs(unit)).filter_map(|unit| Some((unit.clone(), of(unit)?)));
        observed.containers = running.collect();
    }
}

impl Question {
    fn new(desired: &Desired, observed: &Observed, root: &Path) -> Self {
        let named = desired.units.keys().filter_map(|unit| Some((unit, desired.image_of(unit)?)));
        let images = desired.images.keys().map(String::as_str).chain(named.clone().map(|(_, image)| image));
        let start = |unit: &UnitName| {
            let found = observed.units.get(unit).filter(|found| found.active == "active")?;
            Some((unit.clone(), found.invocation.clone()))
        };
        Self {
            images: images.map(str::to_owned).collect(),
            running: named.filter_map(|(unit, _)| start(unit)).collect(),
            list: stamp(&root.join(LIST)),
        }
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    use std::os::unix::fs::MetadataExt as _;
    let meta = std::fs::metadata(path).ok()?;
    Some((meta.ino(), meta.len(), meta.mtime(), meta.mtime_nsec()))
}

impl Cycle {
    /// Which images are there, and which of them run.
    pub(super) async fn images(&mut self, desired: &Desired, fresh: bool, observed: &mut Observed, pass: &mut Pass) {
        observed.images = desired.images.keys().cloned().collect();
        let question = Question::new(desired, observed, &self.places.root);
        if !observed.has_units || question.images.is_empty() {
            return;
        }
        observed.had = self.had();
        let now = Instant::now();
        if let Some(answer) = self.stored.answer(&question, now) {
            answer.tell(desired, observed);
            return;
        }
        // Podman writes where it only reads, and a host that observes is written by nobody for us.
        let asked = match self.stored.trouble(now) {
            _ if self.left_alone() == Some(LeftAlone::Observing) => Ok(None),
            Some(message) => Err(message.to_owned()),
            None => self.ask_podman(&question).await.map(Some).map_err(|error| self.note_podman(&error)),
        };
        match asked {
            Ok(Some(answer)) => {
                answer.tell(desired, observed);
                self.stored = Stored { last: Some(answer), hung: None };
                return;
            }
            Ok(None) => {}
            // What needs an image is held back by the pull that fails for the same reason. Which are missing, nobody can say.
            Err(message) if fresh => {
                tracing::debug!("{message}");
                (observed.images, observed.had) = (BTreeSet::new(), BTreeSet::new());
                return;
            }
            Err(message) => {
                pass.failures.push(Failure { resource: "images".to_owned(), message, skipped: false });
                worsen(pass, Outcome::Partial);
            }
        }
        if let Some(answer) = self.stored.old(&question) {
            answer.tell(desired, observed);
        }
    }

    /// The images of the state in force, if that was once whole and healthy: so they were there.
    fn had(&self) -> BTreeSet<String> {
        let good = self.current.as_ref().filter(|current| current.number > 0 && current.number == self.ledger.good);
        good.map(|current| current.desired.images.keys().cloned().collect()).unwrap_or_default()
    }

    async fn ask_podman(&self, question: &Question) -> Result<Answer, ImageError> {
        let runner = &self.machine.runner;
        let present = images::present(question.images.iter().map(String::as_str), runner).await?;
        let running = if question.running.is_empty() { BTreeMap::new() } else { images::running(runner).await? };
        Ok(Answer { question: question.clone(), at: Instant::now(), present, running })
    }

    fn note_podman(&mut self, error: &ImageError) -> String {
        let message = chain(error);
        self.stored.hung = error.is_hang().then(|| (Instant::now(), message.clone()));
        message
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(of: &[&str]) -> Ids {
        of.iter().map(|id| (*id).to_owned()).collect()
    }

    fn question(start: &str, list: i64) -> Question {
        let running = BTreeMap::from([("web.service".parse().unwrap(), start.to_owned())]);
        Question { images: ids(&["r/a:1"]), running, list: Some((1, 1, list, 0)) }
    }

    fn stored(at: Instant) -> Stored {
        let (present, running) = (BTreeMap::new(), BTreeMap::new());
        Stored { last: Some(Answer { question: question("1", 1), at, present, running }), hung: None }
    }

    #[test]
    fn podman_is_asked_when_something_was_started_or_stored_and_hourly() {
        let now = Instant::now();
        let stored = stored(now);
        let is_known = |question: &Question, later: Duration| stored.answer(question, now + later).is_some();
        let last = EVERY.saturating_sub(Duration::from_secs(1));
        assert!(is_known(&question("1", 1), Duration::ZERO) && is_known(&question("1", 1), last));
        assert!(!is_known(&question("1", 1), EVERY), "hourly");
        assert!(!is_known(&question("2", 1), Duration::ZERO), "started anew");
        assert!(!is_known(&question("1", 2), Duration::ZERO), "an image came, went or was named");
        let gone = Question { running: BTreeMap::new(), ..question("1", 1) };
        assert!(!is_known(&gone, Duration::ZERO), "stopped");
        let more = Question { images: ids(&["r/a:1", "r/b:1"]), ..question("1", 1) };
        assert!(!is_known(&more, Duration::ZERO) && stored.old(&more).is_none(), "nothing is known of another image");
        assert!(stored.old(&question("2", 2)).is_some());
    }

    #[test]
    fn one_that_hangs_is_left_alone_for_a_while() {
        let now = Instant::now();
        let stored = Stored { hung: Some((now, "hangs".to_owned())), ..stored(now) };
        assert_eq!(stored.trouble(now + HUNG.saturating_sub(Duration::from_secs(1))), Some("hangs"));
        assert_eq!(stored.trouble(now + HUNG), None);
        assert!(stored.old(&question("2", 2)).is_some(), "what it said before still counts");
    }
}
