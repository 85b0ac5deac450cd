//! trimtab itself as a part of what it manages: switched last, handed over to, and proven by the successor.
//!
//! The story: everything else of a change is in place and healthy. The running program and what stands at its own paths are kept aside, a
//! [`Watch`] is written down and the guard started; only with the guard up the own files are switched. The trial is left open as one to be
//! confirmed, the pass is reported, and systemd is asked for a restart. The new agent finds the trial, reaches the source, commits, and
//! ends the watch. If it cannot, it undoes the change like any other; if it cannot even that, the guard puts the old files back and starts
//! the old agent, which finds the trial and a watch that says so, and undoes the rest.
//!
//! Guarantees: the process that switched never confirms; no own file is switched without a guard that runs.
//! Limits: only the agent that systemd runs hands over. `trimtab once` changes trimtab like any other file, for the person who runs it is
//! there; nothing that a new trimtab does to other things than its own files and the ledger is undone by the guard.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use trimtab_model::desired::{Desired, Node};
use trimtab_model::ledger::Before;
use trimtab_model::names::{ComponentName, HostPath, UnitName};
use trimtab_model::observed::Found;
use trimtab_model::plan::{AGENT, GUARD, PROGRAM, Plan, before};
use trimtab_model::report::{Failure, Outcome, Pass};
use trimtab_model::transaction::{DeniedBy, ITSELF, Now, Phase, Previous, Restored, Resume, Trial, WATCH_FORMAT, Watch};

use super::attempt::Attempt;
use super::carry::tell;
use super::undo::Fallen;
use super::{Cycle, Hold, Wanted, worsen};
use crate::apply::{Applied, NotBegun, last_words};
use crate::host::facts::{boot_id, uptime};
use crate::host::observe;
use crate::host::units::JobVerb;
use crate::log::chain;
use crate::store::{self, StoreError};

/// The guard has little to do before it says that it is there.
const GUARD_START: Duration = Duration::from_secs(30);

/// How long it may take to switch trimtab's own files, and to begin with undoing them after the last second of confirming.
pub(super) const SWITCHING: Duration = Duration::from_secs(60);

/// What a trimtab said in this time before it was given up is told.
const SPOKE: Duration = Duration::from_secs(3600);

/// So long before the guard saw it start again its first run may have spoken.
const BEFORE_SEEN: Duration = Duration::from_secs(4);

/// systemd ends this process long before that.
const HAND_OVER: Duration = Duration::from_secs(60);

/// What a cycle knows of itself.
pub(super) struct Itself {
    /// Where its program lies on this host.
    programs: Vec<HostPath>,
    /// This process is the agent that systemd runs: it can be followed by another.
    is_agent: bool,
    /// The watch over a trimtab that has not proven itself yet: this one, or the one that the guard put this one back for.
    watch: Option<Watch>,
    /// A new agent is to take over.
    leaves: bool,
}

impl Itself {
    pub(super) fn open(program: &Path, hold: Hold, has_systemd: bool, places: &store::Places) -> Self {
        let program = program.to_string_lossy();
        // The kernel's word when it was replaced after the start.
        let program = program.strip_suffix(" (deleted)").unwrap_or(&program);
        let programs: BTreeSet<HostPath> = [PROGRAM, program].iter().filter_map(|path| path.parse().ok()).collect();
        let loaded = places.load_watch();
        // What makes no sense watches over nothing. One that cannot be read today is left to the guard, which can do no harm.
        let is_over = matches!(loaded, Ok(None) | Err(StoreError::Stale { .. }));
        let watch = loaded.unwrap_or_else(|error| {
            tracing::warn!("there is a watch over a new trimtab that cannot be read: {}", chain(&error));
            None
        });
        if is_over && hold != Hold::ReadOnly {
            let _ = places.end_watch();
        }
        let is_agent = hold == Hold::Agent && has_systemd && runs_as(AGENT);
        Self { programs: programs.into_iter().collect(), is_agent, watch, leaves: false }
    }

    fn is_restored(&self) -> bool {
        self.watch.as_ref().is_some_and(|watch| watch.restored.is_some())
    }
}

/// Whether systemd runs this process as the unit.
fn runs_as(unit: &str) -> bool {
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    groups.lines().any(|line| line.rsplit('/').next() == Some(unit))
}

impl Cycle {
    /// Orders what is trimtab's own in a plan.
    pub(super) fn order_own(&self, plan: &mut Plan, desired: &Desired) {
        if self.machine.systemd.is_some() {
            plan.own_last(&self.itself.programs, desired, &self.ledger);
        }
    }

    /// Why a change of trimtab itself cannot be guarded here, and the components that it belongs to.
    pub(super) async fn unguarded(&mut self, plan: &Plan, wanted: &Wanted) -> Option<(BTreeSet<ComponentName>, Failure)> {
        if !self.changes_itself(plan) {
            return None;
        }
        let guard = self.machine.systemd.as_ref()?.look(&name(GUARD)).await;
        let message = match guard {
            _ if self.is_cut_off() => "a bundle brought it, and a new trimtab proves itself by reaching the source, which is not reached from here: with \
                                       somebody beside the host, `systemctl stop trimtab; trimtab bundle apply FILE; systemctl start trimtab`"
                .to_owned(),
            Ok(found) if found.load == "loaded" => match self.store.require(kept_size()) {
                Ok(()) => return None,
                Err(error) => chain(&error),
            },
            Ok(_) => format!("{GUARD} is not on this host: without it nobody would put the old trimtab back"),
            Err(error) => chain(&error),
        };
        let message = format!("it was not changed: {message}");
        Some((components(plan, &wanted.desired), Failure { resource: ITSELF.to_owned(), message, skipped: false }))
    }

    /// Whether a plan needs a successor that this process can have.
    pub(super) fn changes_itself(&self, plan: &Plan) -> bool {
        self.itself.is_agent && plan.succeeds
    }

    /// What of a plan is done only when the rest is healthy.
    pub(super) fn own_apart(&self, plan: &Plan) -> Option<(Plan, Plan)> {
        (self.changes_itself(plan) && self.ledger.trial.is_some()).then(|| plan.clone().own_apart())
    }

    /// The rest of a trial is in place and healthy: switches trimtab's own under the eyes of its guard, and leaves.
    pub(super) async fn succeed(&mut self, wanted: Wanted, own: &Plan, pass: &mut Pass) -> Attempt {
        let fallen = Fallen::Components(components(own, &wanted.desired));
        let failed = match self.arm(own).await {
            // The machine's fault, and not the revision's.
            Err(message) => Some((about_itself(format!("nothing could be kept to go back to: {message}")), None)),
            Ok(()) => match self.switch_own(own, &wanted, pass).await {
                Switched::Done => None,
                // Somebody works on this host: the trial stays, and the next pass goes forward with it.
                Switched::Raced => return Attempt::Ended,
                Switched::Failed(causes, by) => Some((causes, by)),
            },
        };
        if let Some((causes, by)) = failed {
            self.undo(&wanted.desired, fallen, causes, by, pass).await;
            return Attempt::Ended;
        }
        if let Some(trial) = &mut self.ledger.trial {
            trial.phase = Phase::Confirming;
        }
        self.save_ledger(pass);
        // From here on the time is the new one's.
        self.renew_watch(Duration::ZERO);
        let window = humantime::format_duration(self.settings.guard.confirm_timeout);
        pass.remarks
            .push(format!("trimtab itself is another now: the new one takes over, and must reach the source within {window}"));
        self.itself.leaves = true;
        Attempt::Ended
    }

    async fn switch_own(&mut self, own: &Plan, wanted: &Wanted, pass: &mut Pass) -> Switched {
        let before = pass.failures.len();
        let applied = self.apply(own, wanted).await;
        if let Some(reason) = &applied.not_begun {
            let by = matches!(reason, NotBegun::Refused(_)).then_some(DeniedBy::Health);
            return Switched::Failed(about_itself(chain(reason)), by);
        }
        let (failed, raced, by) = (applied.has_failed(), applied.raced, applied.blamed.then_some(DeniedBy::Health));
        tell(own, applied, pass);
        if failed {
            return Switched::Failed(pass.failures[before..].iter().filter(|failure| !failure.skipped).cloned().collect(), by);
        }
        if raced {
            worsen(pass, Outcome::Partial);
            return Switched::Raced;
        }
        Switched::Done
    }

    /// Keeps what there is, and has the guard watch.
    async fn arm(&mut self, own: &Plan) -> Result<(), String> {
        let revision = self.ledger.trial.as_ref().map(|trial| trial.revision.clone()).unwrap_or_default();
        let watch = match self.itself.watch.take() {
            // Begun by a process that was ended: what it kept is older than what stands there now.
            Some(watch) if watch.revision == revision && watch.restored.is_none() => watch,
            _ => self.keep(revision).map_err(|error| chain(&error))?,
        };
        let watch = self.itself.watch.insert(watch);
        let paths: Vec<HostPath> =
            own.own_paths().into_iter().filter(|path| watch.files.iter().all(|file| file.path != *path)).collect();
        let places = self.store.places();
        for (path, found) in observe::observe(&self.machine.root, &paths) {
            if let Found::Unfit(why) = &found {
                return Err(format!("{path}: {why}"));
            }
            let was = before(&found);
            if let Before::Original { node: Node::File { digest, .. }, .. } = &was {
                let mut content = observe::open(&self.machine.root, &path).map_err(|error| chain(&error))?;
                places.keep_previous(digest, &mut content).map_err(|error| chain(&error))?;
            }
            watch.files.push(Previous { path, was });
        }
        let Some(systemd) = self.machine.systemd.clone() else { return Err("systemd does not run here".to_owned()) };
        watch.restarts = systemd.fares(&name(AGENT)).await.map(|look| look.restarts).unwrap_or_default();
        watch.renew(&Now { boot: boot_id(&self.machine.root), uptime: uptime() }, SWITCHING);
        places.save_watch(watch).map_err(|error| chain(&error))?;
        match systemd.job(JobVerb::Start, &name(GUARD), GUARD_START).await {
            Ok(outcome) if outcome.found.active == "active" => Ok(()),
            Ok(outcome) => Err(format!("{GUARD} does not run ({})", outcome.found.active)),
            Err(error) => Err(match error.invocation() {
                Some((unit, invocation)) => {
                    format!(
                        "{}{}",
                        chain(&error),
                        last_words(&self.machine.runner, Some(unit), invocation, GUARD_START, None).await
                    )
                }
                None => chain(&error),
            }),
        }
    }

    fn keep(&self, revision: String) -> Result<Watch, StoreError> {
        let places = self.store.places();
        // What an earlier watch may have left: it is of another trimtab.
        places.end_watch()?;
        self.store.require(kept_size())?;
        places.keep_program()?;
        Ok(Watch {
            format: WATCH_FORMAT,
            revision,
            window: self.settings.guard.confirm_timeout.as_secs(),
            boot: String::new(),
            deadline: 0,
            boots: 1,
            restarts: 0,
            files: Vec::new(),
            restored: None,
        })
    }

    /// The whole time again, and some more for what is being done meanwhile: the guard must not take work for a trimtab that hangs.
    pub(super) fn renew_watch(&mut self, more: Duration) {
        let now = Now { boot: boot_id(&self.machine.root), uptime: uptime() };
        let Some(watch) = self.itself.watch.as_mut().filter(|watch| watch.restored.is_none()) else { return };
        watch.renew(&now, more);
        if let Err(error) = self.store.places().save_watch(watch) {
            tracing::warn!("the guard could not be told that trimtab is at work: {}", chain(&error));
        }
    }

    /// The watch is over with the trial; also one that a process left which was ended in between.
    pub(super) fn end_watch(&mut self) {
        let is_open = self.ledger.trial.as_ref().is_some_and(|trial| trial.phase != Phase::AwaitingReboot);
        if self.itself.watch.is_none() || is_open || self.hold == Hold::ReadOnly {
            return;
        }
        match self.store.places().end_watch() {
            Ok(()) => self.itself.watch = None,
            // The next pass tries again; until then the guard may put back a trimtab that is just as good.
            Err(error) => tracing::warn!("the watch over a new trimtab could not be ended: {}", chain(&error)),
        }
    }

    /// What a start does with a trial that the guard has put an end to.
    pub(super) fn after_the_guard(&self, trial: &Trial, what: Resume) -> Resume {
        let was_tried = matches!(trial.phase, Phase::Trying | Phase::Confirming | Phase::AwaitingReboot);
        match self.itself.watch.as_ref().and_then(|watch| watch.restored.as_ref()) {
            Some(restored) if was_tried => {
                Resume::Undo(format!("the new trimtab was given up and the one before it put back: {}", restored.reason))
            }
            _ => what,
        }
    }

    /// What the trimtab that was given up said at the end.
    async fn words_of(&self, restored: &Restored) -> String {
        let (runner, now) = (&self.machine.runner, uptime());
        let ago = |then: u64| Duration::from_secs(now.saturating_sub(then));
        let in_this_boot = self.itself.watch.as_ref().is_some_and(|watch| watch.boot == boot_id(&self.machine.root));
        match (restored.invocation.as_str(), restored.crashing_since) {
            ("", _) => String::new(),
            // It was seen at most a second or two after it had been started anew, and systemd waits for one before that.
            (invocation, Some(since)) if in_this_boot => {
                let (since, stopped) = (ago(since) + BEFORE_SEEN, ago(restored.stopped));
                last_words(runner, Some(AGENT), invocation, since, Some(stopped)).await
            }
            (invocation, _) => last_words(runner, None, invocation, SPOKE, None).await,
        }
    }

    /// What falls, and why, when a trial is undone at a start.
    pub(super) async fn blame(&self, why: String, trial: &Trial, tried: &Desired) -> (Fallen, Failure) {
        let Some(restored) = self.itself.watch.as_ref().and_then(|watch| watch.restored.clone()) else {
            return (Fallen::All, Failure { resource: "trial".to_owned(), message: why, skipped: false });
        };
        let words = self.words_of(&restored).await;
        let cause = Failure { resource: ITSELF.to_owned(), message: format!("{why}{words}"), skipped: false };
        // Where more than trimtab could have cut the host off, nobody knows whether that was it.
        let others = trial
            .guarded
            .iter()
            .any(|resource| resource != ITSELF && !resource.contains("/trimtab") && !resource.contains(" trimtab"));
        let watched = self.itself.watch.iter().flat_map(|watch| &watch.files);
        let good = self.current.as_ref().map(|current| &current.desired);
        let owner = |path: &HostPath| [Some(tried), good].into_iter().flatten().find_map(|state| state.entries.get(path));
        let own: BTreeSet<ComponentName> =
            watched.filter_map(|file| owner(&file.path)).map(|entry| entry.origin.component.clone()).collect();
        (if others || own.is_empty() { Fallen::All } else { Fallen::Components(own) }, cause)
    }

    /// After a repair: what it put right may be trimtab itself, which then runs with something else than what stands there.
    pub(super) fn note_own(&mut self, plan: &Plan, applied: &Applied) {
        // What the guard has put back has just been started by it.
        if self.changes_itself(plan) && applied.is_complete() && !self.itself.is_restored() {
            self.itself.leaves = true;
        }
    }

    /// Whether a new agent is to take over now that the pass is over.
    pub fn leaves(&self) -> bool {
        self.itself.leaves
    }

    /// Has systemd start the new agent, which ends this process. Comes back only when it does not.
    pub async fn hand_over(&self) {
        tracing::info!(trimtab_outcome = "handing-over", "trimtab itself was changed: a new agent takes over");
        let Some(systemd) = &self.machine.systemd else { return };
        if let Err(error) = systemd.job(JobVerb::Restart, &name(AGENT), HAND_OVER).await {
            tracing::warn!("systemd was asked to start the new agent: {}", chain(&error));
        }
    }
}

/// How the switch of trimtab's own ended.
enum Switched {
    Done,
    Raced,
    Failed(Vec<Failure>, Option<DeniedBy>),
}

/// The program twice: where it runs from, and where the guard runs it from.
fn kept_size() -> u64 {
    std::fs::metadata("/proc/self/exe").map_or(0, |program| program.len().saturating_mul(2))
}

fn about_itself(message: String) -> Vec<Failure> {
    vec![Failure { resource: ITSELF.to_owned(), message, skipped: false }]
}

/// The components that what is trimtab's own in a plan belongs to.
fn components(plan: &Plan, desired: &Desired) -> BTreeSet<ComponentName> {
    let own = plan.own_paths();
    let origins = own.iter().filter_map(|path| desired.entries.get(path)).map(|entry| &entry.origin);
    let unit = desired.units.get(&name(AGENT)).map(|unit| &unit.origin);
    let steps = plan.steps[plan.own_from.min(plan.prune_from)..plan.prune_from].iter().filter_map(|step| step.component.clone());
    origins.chain(unit).map(|origin| origin.component.clone()).chain(steps).collect()
}

fn name(unit: &str) -> UnitName {
    unit.parse().expect("because it is the name of a unit")
}
