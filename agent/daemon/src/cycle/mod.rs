//! One pass, from poll to report.
//!
//! A pass cannot fail, it can only end: every error becomes part of its [`Pass`]. It is level-triggered: each one recomputes from what is
//! wanted, found and owned, and what a killed pass left undone is simply what this one finds to do.
//!
//! What is kept in memory between passes is small: the desired state (contents lie in the store as blobs), the ledger, and one connection
//! to systemd.

mod aim;
mod attempt;
mod book;
mod carry;
mod confirm;
mod contend;
mod flap;
mod heed;
mod history;
pub(crate) mod holds;
mod hooks;
mod images;
mod judge;
mod known;
mod leave;
mod look;
mod offline;
mod open;
mod own;
mod recall;
mod requests;
mod send;
mod source;
mod tell;
mod textfile;
mod texts;
mod undo;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Instant;

use trimtab_model::desired::Desired;
use trimtab_model::digest::Digest;
use trimtab_model::drift::{Actor, Sighting, Watched};
use trimtab_model::facts::Host;
use trimtab_model::finding::Findings;
use trimtab_model::ledger::Ledger;
use trimtab_model::names::UnitName;
use trimtab_model::plan::Plan;
use trimtab_model::report::{Failure, Outcome, Pass, TrustReport, Undone, Wake};
use trimtab_model::status::{UnitStatus, WatchStatus};
use trimtab_model::transaction::{self, Denied, Generation, Withheld};

use crate::apply::Machine;
use crate::config::{Places, Settings};
use crate::courier::Way;
use crate::host::units::JobVerb;
use crate::log::chain;
pub(crate) use crate::log::now_ms;
use crate::store::Store;
use crate::trust::Class;
use crate::trust::keys::TrustConfig;
use crate::trust::memory::Memory;
use history::History;
pub use offline::OfflineError;
pub use open::{Hold, OpenError};
use source::{Answer, Answered, Ask, Key};

/// The user that the courier runs as.
const COURIER: &str = "trimtab-courier";

/// So often it is said that something long still goes on.
const STILL: std::time::Duration = std::time::Duration::from_secs(3);

/// The generation that the host is held to, and the key it was rendered under.
#[derive(Debug, Clone)]
struct Current {
    key: Key,
    number: u64,
    effect: Digest,
    withheld: Vec<Withheld>,
    /// [`Desired::effect`] of all that its commit wants, when something is withheld.
    wants: Option<Digest>,
    desired: Desired,
}

impl Current {
    fn of(generation: Generation) -> Self {
        Self {
            key: Key { commit: generation.revision, inputs: generation.inputs },
            number: generation.number,
            effect: generation.desired.effect(),
            withheld: generation.withheld,
            wants: generation.wants,
            desired: generation.desired,
        }
    }
}

/// A revision that was looked at and not put in force; remembered so that it is told again without being tried again.
struct Refused {
    key: Key,
    pass: Box<Pass>,
    /// How each pass ends while it is the newest.
    outcome: Outcome,
    /// When to try it all the same: a checker judges by what is on this host, and a program that was missing may be installed by then.
    again: Option<Instant>,
}

/// What the last answer of the source was, for the passes that do not ask: a matter that lasts does not go away by not asking.
#[derive(Default)]
struct Matter {
    outcome: Option<Outcome>,
    source_error: String,
    trust: TrustReport,
    findings: Findings,
    failures: Vec<Failure>,
    undone: Option<Undone>,
}

impl Matter {
    fn of(pass: &Pass) -> Self {
        Self {
            outcome: Some(pass.outcome),
            source_error: pass.source_error.clone(),
            trust: pass.trust.clone(),
            findings: pass.findings.clone(),
            failures: pass.failures.clone(),
            undone: pass.undone.clone(),
        }
    }

    fn tell_again(&self, pass: &mut Pass) {
        pass.source_error.clone_from(&self.source_error);
        pass.trust.clone_from(&self.trust);
        pass.findings.clone_from(&self.findings);
        pass.undone.clone_from(&self.undone);
        for failure in &self.failures {
            if !pass.failures.contains(failure) {
                pass.failures.push(failure.clone());
            }
        }
        if let Some(outcome) = self.outcome {
            worsen(pass, outcome);
        }
    }
}

/// Everything between two passes.
pub struct Cycle {
    settings: Settings,
    /// Why the local configuration could not be read again; what was read before is in force.
    misread: Option<String>,
    places: Places,
    program: PathBuf,
    itself: own::Itself,
    hold: Hold,
    machine: Machine,
    host: Host,
    inputs: Digest,
    store: Store,
    ledger: Ledger,
    trust: TrustConfig,
    /// What was ever believed; on disk before anything follows from it.
    memory: Memory,
    current: Option<Current>,
    refused: Option<Refused>,
    matter: Matter,
    stored: images::Stored,
    /// What a killed process left beside its targets has been taken away.
    swept: bool,
    history: History,
    remarks: Vec<String>,
    /// The last ledger that this process wanted to save is on the disk.
    is_saved: bool,
    /// A trial that an earlier process left has been looked at by this one.
    resumed: bool,
    /// What is being tried again only from here on: a registry that did not answer is not asked with each poll.
    withheld_again: Option<Instant>,
    /// The revision for which something is tried again and again, and how often it was in vain.
    waiting_for: String,
    /// The bundle that is the source of this one pass.
    offline: Option<offline::Offline>,
    /// The bundle that a person asked this agent to take.
    stick: Option<offline::Stick>,
    /// The source answered when it was asked last.
    is_source_open: bool,
    /// Artifacts that could not be fetched: what came of them is kept.
    unfetched: BTreeSet<Digest>,
    in_vain: u32,
    flaps: flap::Flaps,
    fights: contend::Fights,
    /// A revision (or the begin of one) that a person allowed what the guards refuse.
    approving: Option<String>,
    /// What event sources saw change since the last pass.
    sightings: Vec<Sighting>,
    /// How event sources watch.
    watch: WatchStatus,
    sending: send::Sending,
    kept: book::Kept,
    /// The managed units as they were seen last.
    seen: Vec<UnitStatus>,
    textfile: textfile::Textfile,
    held: holds::HeldBack,
    /// What the newest revision wants, while nothing is done about it because the host is held.
    aimed: Option<Wanted>,
}

/// What a look found: the pass so far, and the plan.
pub struct Looked {
    /// The pass as far as it went.
    pub pass: Pass,
    /// What to do.
    pub plan: Plan,
    /// What the plan is made for; nothing before the first accepted revision.
    pub(crate) wanted: Option<Wanted>,
}

/// A desired state that is about to be put in force, or is in force already.
pub(crate) struct Wanted {
    key: Key,
    /// What the host is to be held to: what the commit wants, but for what is withheld.
    desired: Desired,
    contents: BTreeMap<Digest, Vec<u8>>,
    /// It is to be tried: it is not the one in force.
    fresh: bool,
    /// [`Desired::effect`] of all that the commit wants.
    effect: Digest,
    /// All that the commit wants, when something is withheld.
    all: Option<Box<Desired>>,
    withheld: Vec<Withheld>,
    /// Somebody asked to go back to it: why, and what is denied with that.
    asked: Option<Box<Asked>>,
}

/// A person's wish to go back.
#[derive(Debug, Clone)]
struct Asked {
    number: u64,
    reason: String,
    denies: Option<Denied>,
}

impl Wanted {
    /// The same, with other contents at hand.
    fn with(&self, contents: BTreeMap<Digest, Vec<u8>>) -> Self {
        Self {
            key: self.key.clone(),
            desired: self.desired.clone(),
            contents,
            fresh: self.fresh,
            effect: self.effect,
            all: self.all.clone(),
            withheld: self.withheld.clone(),
            asked: None,
        }
    }
}

impl Cycle {
    /// The settings that this cycle runs with.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What event sources saw change; the next pass tells it with what it finds.
    pub fn saw(&mut self, sightings: Vec<Sighting>) {
        for Sighting { resource, actor, .. } in &sightings {
            let who = actor.as_ref().map_or_else(|| "unknown".to_owned(), Actor::words);
            tracing::debug!(trimtab_resource = resource.as_str(), trimtab_actor = who.as_str(), "{resource}: changed by {who}");
        }
        self.sightings.extend(sightings);
    }

    /// What event sources are to watch: everything that is managed now, and what a host that only observes would manage.
    pub fn watched(&self) -> Watched {
        let desired = self.current.as_ref().map(|current| &current.desired);
        let paths: BTreeSet<_> =
            self.ledger.entries.keys().chain(desired.into_iter().flat_map(|desired| desired.entries.keys())).collect();
        let units: BTreeSet<_> =
            self.ledger.units.keys().chain(desired.into_iter().flat_map(|desired| desired.units.keys())).collect();
        Watched {
            paths: paths.into_iter().cloned().collect(),
            exclusive: desired.into_iter().flat_map(|desired| desired.exclusive.keys().cloned()).collect(),
            units: units.into_iter().cloned().collect(),
        }
    }

    /// One pass. With `ask` false the source is left alone, and what it last said is said again.
    pub async fn pass(&mut self, wake: Wake, ask: bool) -> Pass {
        let begun = Instant::now();
        let mut pass = if let Some(pass) = self.resume(wake).await {
            pass
        } else {
            let looked = self.examine(wake, ask).await;
            self.carry_out(looked).await
        };
        self.put_bundle_away();
        self.end_watch();
        self.tell_held(&mut pass);
        pass.generation = self.ledger.generation;
        pass.duration_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        if !pass.changes.is_empty() {
            self.look_again().await;
        }
        self.conclude(&mut pass);
        if let Some(systemd) = &self.machine.systemd {
            systemd.rest();
        }
        if self.hold == Hold::Agent {
            crate::host::sys::give_back();
        }
        pass
    }

    /// A look without a touch, for `trimtab plan`. `ask` false leaves the source alone: only drift is seen.
    pub async fn look(&mut self, ask: bool) -> Looked {
        let mut looked = self.examine(Wake::Asked, ask).await;
        self.tell_held(&mut looked.pass);
        if looked.pass.outcome == Outcome::Converged {
            looked.pass.outcome = Outcome::Planned;
        }
        looked
    }

    /// From the source to the plan. The outcome is the one that the pass will have when every step of the plan is done.
    async fn examine(&mut self, wake: Wake, ask: bool) -> Looked {
        let mut pass = self.begin(wake);
        let asked = if matches!(wake, Wake::Asked | Wake::Start) { self.take_requests(&mut pass) } else { None };
        let stick = self.stick.take().filter(|_| asked.is_none());
        let (wake, ask) = self.go_by_bundle(stick, (wake, ask), &mut pass).await;
        if !self.is_paused() {
            // What is held no longer is put in force by being rendered again.
            self.aimed = None;
        }
        let wanted = if asked.is_some() {
            asked
        } else if ask {
            let asking = Instant::now();
            let wanted = self.ask(&mut pass).await;
            if wanted.is_some() {
                attempt::part(&mut pass, "source", asking);
            }
            let is_new = wanted.is_some();
            let wanted = wanted.and_then(|wanted| self.aim(wanted, &mut pass));
            if is_new {
                self.keep_aim(wanted.as_ref());
            }
            // What a stick was worth is no word of the source's.
            if self.offline.is_none() || is_new {
                self.matter = Matter::of(&pass);
            }
            wanted
        } else {
            self.matter.tell_again(&mut pass);
            None
        };
        let aimed = |cycle: &Self| cycle.aimed.as_ref().map(|aimed| aimed.with(aimed.contents.clone()));
        let Some(wanted) = wanted.or_else(|| aimed(self)).or_else(|| self.in_force()) else {
            return Looked { pass, plan: Plan::default(), wanted: None };
        };
        let mut plan = self.plan(&wanted, wake, &mut pass).await;
        let (wanted, plan) = if let Some(why) = self.left_alone() {
            plan.leave_alone(&why);
            (wanted, plan)
        } else {
            self.guard(wanted, plan, &mut pass).await
        };
        pass.revision.clone_from(&wanted.key.commit);
        pass.changes.clone_from(&plan.changes);
        pass.problems.clone_from(&plan.problems);
        if !plan.problems.is_empty() {
            worsen(&mut pass, Outcome::Partial);
        } else if !plan.steps.is_empty() {
            worsen(&mut pass, Outcome::Converged);
        }
        Looked { pass, plan, wanted: Some(wanted) }
    }

    fn begin(&mut self, wake: Wake) -> Pass {
        self.review_holds();
        if wake == Wake::Asked {
            self.stored.forget();
        }
        Pass { number: self.history.next_number(), remarks: std::mem::take(&mut self.remarks), ..self.blank(wake) }
    }

    /// A pass that nothing is known of yet.
    fn blank(&self, wake: Wake) -> Pass {
        let now_ms = now_ms();
        let misread = self.misread.iter().map(|message| Failure {
            resource: "local configuration".to_owned(),
            message: message.clone(),
            skipped: false,
        });
        Pass {
            number: 0,
            wake,
            started: now_ms / 1000,
            started_ms: now_ms,
            duration_ms: 0,
            outcome: if self.misread.is_some() { Outcome::Partial } else { Outcome::Unchanged },
            revision: String::new(),
            trust: TrustReport::default(),
            source_error: String::new(),
            findings: Findings::default(),
            changes: Vec::new(),
            problems: Vec::new(),
            failures: misread.collect(),
            kept: Vec::new(),
            remarks: Vec::new(),
            undone: None,
            generation: self.ledger.generation,
            paused: String::new(),
            parts: Vec::new(),
        }
    }

    /// The state in force, with its contents in the store.
    fn in_force(&self) -> Option<Wanted> {
        self.current.as_ref().map(|current| Wanted {
            key: current.key.clone(),
            desired: current.desired.clone(),
            contents: BTreeMap::new(),
            fresh: false,
            effect: current.wants.unwrap_or(current.effect),
            all: None,
            withheld: current.withheld.clone(),
            asked: None,
        })
    }

    /// Asks the source; `None` means that what is in force stays in force.
    async fn ask(&mut self, pass: &mut Pass) -> Option<Wanted> {
        let is_due = |again: Instant| pass.wake.is_asked() || Instant::now() >= again;
        self.refused.take_if(|refused| refused.again.is_some_and(is_due));
        if self.hold == Hold::Agent && self.machine.systemd.is_some() && self.offline.is_none() {
            self.raise_courier().await;
        }
        self.note_time(pass);
        let known = self.known(pass.wake);
        let answer = self.put_question(known).await;
        self.note_poll(&answer.answer, pass);
        self.judge(answer, pass)
    }

    /// The renderings that need no second look. What waits for something outside of the repository is looked at again when that is due.
    fn known(&self, wake: Wake) -> Vec<Key> {
        let waits = self.current.as_ref().is_some_and(|current| current.withheld.iter().any(|withheld| withheld.again));
        let due = wake.is_asked() || self.withheld_again.is_none_or(|at| Instant::now() >= at);
        let current = self.current.as_ref().filter(|current| {
            !(waits && due) && transaction::is_settled(&current.withheld, current.wants.as_ref(), &self.ledger.denied)
        });
        let current = current.map(|current| &current.key);
        let aimed = self.aimed.as_ref().map(|aimed| &aimed.key);
        current.into_iter().chain(aimed).chain(self.refused.as_ref().map(|refused| &refused.key)).cloned().collect()
    }

    async fn put_question(&mut self, known: Vec<Key>) -> Answered {
        let ask = Ask {
            program: self.program.clone(),
            trust: self.trust.clone(),
            memory: self.memory.clone(),
            host: self.host.clone(),
            inputs: self.inputs,
            known,
            way: self.way(),
            moment: self.moment(),
            full: self.no_room(),
        };
        let mut asking = tokio::task::spawn_blocking(move || ask.run());
        let answer = loop {
            tokio::select! {
                answer = &mut asking => break answer,
                // For who waits at a terminal; the journal of an agent whose source is far away would fill with it.
                () = tokio::time::sleep(STILL) => tracing::info!(target: crate::log::PATIENCE, "still at it: asking the source"),
            }
        };
        let answer = answer.unwrap_or_else(|error| {
            let message = format!("looking at the source ended unexpectedly: {error}");
            Answer::Trouble { message, class: Class::Retry, commit: String::new() }.into()
        });
        self.note_contact(&answer);
        answer
    }

    /// Why nothing may be fetched, staged or remembered: a file system of ours is full.
    fn no_room(&mut self) -> Option<String> {
        if self.hold != Hold::ReadOnly && self.store.is_short() && self.store.give_up_parts() {
            tracing::warn!("the disk is full: what had come of artifacts is given up, and fetched again when there is room");
        }
        let cache = self.places.cache();
        let cache = if cache.exists() { crate::store::require_at(&cache, 0) } else { Ok(()) };
        let full = self.store.require(0).and(cache).err();
        full.filter(|error| matches!(error, crate::store::StoreError::NoSpace { .. })).map(|error| chain(&error))
    }

    /// How to come by a courier.
    pub(super) fn way(&mut self) -> Way {
        if let Some(way) = self.offline.as_ref().and_then(offline::Offline::way) {
            return way.clone();
        }
        Way {
            program: self.program.clone(),
            config: self.places.agent_toml(),
            cache: self.places.cache(),
            socket: self.places.courier_socket(),
            only_socket: self.hold == Hold::Agent && self.machine.systemd.is_some(),
            user: self.courier_user(),
            patience: self.settings.source.patience(),
        }
    }

    /// The courier's user, so that what it leaves in its cache is its own whoever started it. A sandbox is all its owner's.
    fn courier_user(&mut self) -> Option<(u32, u32)> {
        if self.places.is_sandbox() || !nix::unistd::geteuid().is_root() {
            return None;
        }
        let accounts = &mut self.machine.accounts;
        accounts.refresh();
        accounts.user(COURIER).zip(accounts.group(COURIER))
    }

    /// Somebody stopped the courier's socket: without it no commit would ever arrive that could put it right.
    async fn raise_courier(&self) {
        let (Some(systemd), false) = (&self.machine.systemd, self.places.courier_socket().exists()) else { return };
        let socket: UnitName = "trimtab-courier.socket".parse().expect("because it is the name of a unit");
        match systemd.job(JobVerb::Start, &socket, self.machine.patience.unit).await {
            Ok(_) => tracing::warn!("{socket} was stopped; it was started again"),
            // The poll that follows fails and is told.
            Err(error) => tracing::debug!("{}", chain(&error)),
        }
    }
}

/// An outcome only ever gets worse in a pass.
fn worsen(pass: &mut Pass, outcome: Outcome) {
    pass.outcome = pass.outcome.max(outcome);
}
