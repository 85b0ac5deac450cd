//! The executor: carries out a plan and makes no choices of its own.
//!
//! The order: check, pull images, accounts, stage every file beside its target, write down the intent durably, switch by rename,
//! then the plan's remaining steps as they stand, then write down what was done.
//!
//! Guarantees: a refused check or an intent that cannot be saved leaves the machine untouched; SIGKILL at any instant leaves each file old
//! or new and a ledger from which the next pass finishes the work; a step that fails takes with it the later steps of its component and
//! of those that depend on it, and nothing else; nothing is removed while the unit that uses it could not be stopped.
//! What drift repair overwrites is kept in the store first.
//! Limits: what a failed step did half (a unit stopped but not started) is the next pass's to mend; there is no undo here.

mod artifacts;
mod capable;
mod check;
mod failures;
mod files;
mod intent;
mod kept;
mod network;
mod services;
mod verify;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufReader};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use trimtab_model::desired::{Desired, Role};
use trimtab_model::digest::Digest;
use trimtab_model::ledger::Ledger;
use trimtab_model::names::{ComponentName, HostPath};
use trimtab_model::plan::{Action, Plan, Step};

pub use self::artifacts::{fetch_to, hash_file};
pub use self::capable::on_this_host;
pub use self::check::CheckError;
use self::failures::Failures;
pub(crate) use self::services::last_words;
pub use self::verify::{Complaint, Verdict};
use crate::bundle::{Opened, archive};
use crate::courier::Way;
use crate::host::accounts::Accounts;
use crate::host::command::Runner;
use crate::host::images;
use crate::host::place::Batch;
use crate::host::root::Root;
use crate::host::units::Systemd;
use crate::log::chain;
use crate::store::{Store, StoreError};

/// Where the content of a wanted file comes from: what was rendered in this pass, or the store.
pub type Contents<'a> = dyn Fn(Digest) -> io::Result<Vec<u8>> + 'a;

/// How long slow things may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// One start, stop, restart or reload of a unit; systemd goes on with a job that takes longer.
    pub unit: Duration,
    /// The pull of one image.
    pub pull: Duration,
}

/// The machine that a plan is carried out on.
#[derive(Debug)]
pub struct Machine {
    /// `/`, or a sandbox.
    pub root: Root,
    /// Its users and groups.
    pub accounts: Accounts,
    /// Its systemd; `None` in a sandbox, where units and the machine's own appliers are left alone.
    pub systemd: Option<Arc<Systemd>>,
    /// Who runs commands.
    pub runner: Runner,
    /// How long slow things may take, as `agent.toml` says.
    pub patience: Patience,
    /// A folder of ours for copies that checkers read; on a tmpfs if there is one.
    pub scratch: PathBuf,
    /// How many bytes of what drift repair overwrites are kept in all.
    pub keep: u64,
    /// How artifacts are fetched; `None`: they are not.
    pub way: Option<Way>,
    /// A bundle that artifacts and images are taken from first.
    pub bundle: Option<Arc<Opened>>,
}

/// How one step ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// As planned.
    Done,
    /// It was tried and did not work; the whole chain of causes.
    Failed {
        /// For a person.
        message: String,
    },
    /// It was not tried, because something that it needs failed.
    Skipped {
        /// What failed.
        because: String,
    },
    /// Somebody changed the path since it was looked at; it was left alone, and the next pass looks again.
    Raced {
        /// For a person.
        message: String,
    },
    /// It does not apply here: a step for systemd in a sandbox without one.
    NotRun {
        /// Why.
        because: &'static str,
    },
}

/// Something that drift repair overwrote or removed, kept in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Where it stood.
    pub path: HostPath,
    /// Under which digest the store has it.
    pub digest: Digest,
}

/// Why a plan was not even begun; the machine is as it was.
#[derive(Debug, thiserror::Error)]
pub enum NotBegun {
    /// A checker refused what was about to be written: this revision is bad.
    #[error("{}", refusal(.0))]
    Refused(Verdict),
    /// Nothing could be checked.
    #[error("nothing was changed, for what was about to be written could not be checked")]
    Unchecked(#[source] CheckError),
    /// What is about to be done could not be written down first.
    #[error("nothing was changed, for the ledger could not be saved first")]
    Unsaved(#[source] StoreError),
}

fn refusal(verdict: &Verdict) -> String {
    let first = verdict.errors.first().map_or_else(String::new, Complaint::to_string);
    match verdict.errors.len() {
        0 | 1 => format!("nothing was changed, for a check refused {first}"),
        more => format!("nothing was changed, for checks refused {more} things, the first: {first}"),
    }
}

/// What became of a plan.
#[derive(Debug, Default)]
pub struct Applied {
    /// How each step ended, in the order of [`Plan::steps`] and as many.
    pub outcomes: Vec<Outcome>,
    /// Set when nothing at all was done.
    pub not_begun: Option<NotBegun>,
    /// What drift repair overwrote.
    pub kept: Vec<Kept>,
    /// What was kept earlier had to go for that: the store holds contents that nothing names any more.
    pub outgrown: bool,
    /// Worth telling, but no failure.
    pub remarks: Vec<String>,
    /// Components of which a step failed, by fault of what was wanted or of the machine; a lost race is no such failure.
    pub failed: BTreeSet<ComponentName>,
    /// Something failed that everything needs.
    pub all_failed: bool,
    /// A unit or an applier refused what it was given: what failed is the revision's fault. Otherwise it is this machine's (a full disk, a
    /// file that cannot be replaced, a bus that is gone), and may well go through later.
    pub blamed: bool,
    /// Somebody changed a path in between: the next pass looks again.
    pub raced: bool,
    /// What was done could not be written down. The ledger on disk still says that it was about to be done, so the next pass looks again.
    pub unsaved: Option<StoreError>,
}

impl Applied {
    /// Whether something was tried and did not work.
    pub fn has_failed(&self) -> bool {
        self.all_failed || !self.failed.is_empty()
    }

    /// Whether everything was done.
    pub fn is_complete(&self) -> bool {
        self.not_begun.is_none()
            && self.unsaved.is_none()
            && self.outcomes.iter().all(|outcome| matches!(outcome, Outcome::Done | Outcome::NotRun { .. }))
    }
}

/// What a refused check takes with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The whole plan: a new revision is taken as a whole or not at all.
    Whole,
    /// The component of what was refused, and those that depend on it: for the state in force, of which the rest is held on to.
    Component,
}

/// Fetches the artifacts that a plan asks for, before anything of the machine is touched. What could not be fetched, by resource.
pub async fn fetch(
    machine: &Machine,
    plan: &Plan,
    wanted: &Desired,
    ledger: &Ledger,
    store: &mut Store,
) -> BTreeMap<String, (ComponentName, String)> {
    let mut failed = BTreeMap::new();
    for step in &plan.steps {
        let (Action::Fetch { path, .. }, Some(component)) = (&step.action, &step.component) else { continue };
        if let Err(error) = artifacts::fetch(path, wanted, ledger, machine, store).await {
            failed.insert(step.action.resource(), (component.clone(), chain(&error)));
        }
    }
    failed
}

/// Pulls the images that a plan asks for, before anything of the machine is touched. What could not be pulled, by image.
pub async fn prefetch(machine: &Machine, plan: &Plan) -> BTreeMap<String, (ComponentName, String)> {
    let mut failed = BTreeMap::new();
    for step in &plan.steps {
        let (Action::Pull { image }, Some(component)) = (&step.action, &step.component) else { continue };
        if let Err(message) = pull(image, machine).await {
            failed.insert(image.clone(), (component.clone(), message));
        }
    }
    failed
}

/// One image, from the bundle if there is one that has it, else from its registry. The error as a sentence.
async fn pull(image: &str, machine: &Machine) -> Result<(), String> {
    let Some((bundle, part)) = machine.bundle.as_ref().and_then(|bundle| Some((bundle, bundle.image(image)?))) else {
        return images::pull(image, &machine.runner, machine.patience.pull).await.map_err(|error| chain(&error));
    };
    let file = tempfile_in(&machine.scratch).map_err(|error| format!("cannot lay {image} down to load it: {error}"))?;
    let mut to = std::fs::File::create(&file.0).map_err(|error| format!("cannot lay {image} down to load it: {error}"))?;
    // Podman gets what was asked for and no byte of the stick's own words.
    archive::take(image, &mut BufReader::with_capacity(1 << 20, bundle.part(part)), &mut to).map_err(|error| chain(&error))?;
    images::load(image, &file.0, &machine.runner, machine.patience.pull).await.map_err(|error| chain(&error))
}

/// A name in a folder of ours; what is there is removed when this is dropped.
struct Laid(PathBuf);

impl Drop for Laid {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn tempfile_in(scratch: &std::path::Path) -> io::Result<Laid> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(scratch)?;
    Ok(Laid(scratch.join("image.tar")))
}

/// Carries out a plan. The ledger is edited and saved along the way; after a plan that was not begun it is as it was.
pub async fn apply(
    machine: &mut Machine,
    plan: &Plan,
    wanted: &Desired,
    contents: &Contents<'_>,
    ledger: &mut Ledger,
    store: &mut Store,
    refusal: Refusal,
) -> Applied {
    if plan.steps.is_empty() && plan.bookkeeping.is_empty() && files::orphans(ledger).is_empty() {
        return Applied::default();
    }
    let untouched = ledger.clone();
    let mut pass = Pass {
        machine,
        plan,
        wanted,
        contents,
        ledger,
        store,
        outcomes: vec![None; plan.steps.len()],
        failures: Failures::new(wanted),
        applied: Applied::default(),
        reload_due: false,
        reload_failed: false,
        appliers_failed: Vec::new(),
        repairs: false,
        unasked: false,
        refusal,
        shown: None,
    };
    match pass.run().await {
        Ok(()) => pass.end(),
        Err(reason) => {
            *pass.ledger = untouched;
            // Who made the plan tells of it, once for as long as it lasts.
            tracing::debug!(trimtab_outcome = "not-begun", "{}", chain(&reason));
            let because = "nothing of this plan was begun".to_owned();
            let outcomes = vec![Outcome::Skipped { because }; plan.steps.len()];
            Applied { not_begun: Some(reason), outcomes, ..pass.applied }
        }
    }
}

/// One plan being carried out.
struct Pass<'a> {
    machine: &'a mut Machine,
    plan: &'a Plan,
    wanted: &'a Desired,
    contents: &'a Contents<'a>,
    ledger: &'a mut Ledger,
    store: &'a mut Store,
    /// By step; `None`: not yet tried.
    outcomes: Vec<Option<Outcome>>,
    failures: Failures,
    applied: Applied,
    /// Links of units changed on disk; systemd must read them before the next start.
    reload_due: bool,
    /// A daemon-reload failed: nobody knows with which definitions systemd runs.
    reload_failed: bool,
    /// Roles whose applier failed; their files stay pending, so that it is run again.
    appliers_failed: Vec<Role>,
    /// The ledger on the disk already says all that this plan leads to.
    repairs: bool,
    /// systemd could not be asked: the step that is about to end has failed for that.
    unasked: bool,
    refusal: Refusal,
    /// Read when it is first asked for.
    shown: Option<kept::Shown>,
}

impl Pass<'_> {
    async fn run(&mut self) -> Result<(), NotBegun> {
        self.check().await?;
        self.repairs = self.only_repairs();
        self.pull().await;
        let (accounts, others): (Vec<usize>, Vec<usize>) = self.puts().into_iter().partition(|at| self.brings_accounts(*at));
        self.note();
        if !accounts.is_empty() {
            self.round(&accounts)?;
        }
        let is_sysusers = |step: &Step| matches!(step.action, Action::Sysusers { .. });
        if let Some(at) = self.plan.steps.iter().position(is_sysusers) {
            self.step(at).await;
            // The owners of the files to come may have come just now.
            self.machine.accounts.refresh();
        }
        self.keep_leaving();
        let touched = !accounts.is_empty();
        match self.round(&others) {
            // The account files are switched already: what was done so far stays, and is told.
            Err(reason) if touched => {
                self.applied.all_failed = true;
                self.failures.all(chain(&reason));
            }
            other => other?,
        }
        let mut batch = Batch::new(&self.machine.root);
        for at in 0..self.plan.steps.len() {
            if self.outcomes[at].is_none() {
                match &self.plan.steps[at].action {
                    Action::Remove { .. } | Action::Restore { .. } => self.give_back(at, &mut batch),
                    Action::Purge { .. } => self.purge(at, &mut batch),
                    _ => self.step(at).await,
                }
            }
        }
        self.prune_dropped(&mut batch);
        if let Err(error) = batch.finish() {
            self.applied.remarks.push(format!("removals may come back after a power cut, for they could not be synced: {error}"));
        }
        self.reload_if_due().await;
        Ok(())
    }

    async fn check(&mut self) -> Result<(), NotBegun> {
        if self.machine.systemd.is_none() {
            return Ok(());
        }
        let checking =
            check::check(self.plan, self.wanted, self.contents, &self.machine.root, &self.machine.runner, &self.machine.scratch);
        let verdict = checking.await.map_err(NotBegun::Unchecked)?;
        for warning in &verdict.warnings {
            self.applied.remarks.push(warning.to_string());
        }
        let steps: Vec<Option<usize>> = verdict.errors.iter().map(|complaint| self.put_of(&complaint.path)).collect();
        if verdict.errors.is_empty() {
            return Ok(());
        }
        if self.refusal == Refusal::Whole || steps.contains(&None) {
            return Err(NotBegun::Refused(verdict));
        }
        for (at, complaint) in steps.into_iter().flatten().zip(&verdict.errors) {
            if self.outcomes[at].is_none() {
                self.ended(at, Outcome::Failed { message: format!("a check refused it: {complaint}") });
            }
        }
        Ok(())
    }

    fn put_of(&self, path: &HostPath) -> Option<usize> {
        self.plan.steps.iter().position(|step| matches!(&step.action, Action::Put { path: put, .. } if put == path))
    }

    async fn pull(&mut self) {
        for at in 0..self.plan.steps.len() {
            if !matches!(self.plan.steps[at].action, Action::Pull { .. } | Action::Fetch { .. }) || self.skip(at) {
                continue;
            }
            if let Action::Fetch { path, .. } = &self.plan.steps[at].action {
                let fetched = artifacts::fetch(path, self.wanted, self.ledger, self.machine, self.store).await;
                self.ended(at, fetched.map_or_else(|error| Outcome::Failed { message: chain(&error) }, |()| Outcome::Done));
                continue;
            }
            let Action::Pull { image } = &self.plan.steps[at].action else { continue };
            let pulled = pull(image, self.machine).await;
            self.ended(at, pulled.map_or_else(|message| Outcome::Failed { message }, |()| Outcome::Done));
        }
    }

    fn puts(&self) -> Vec<usize> {
        let is_put = |at: &usize| matches!(self.plan.steps[*at].action, Action::Put { .. }) && self.outcomes[*at].is_none();
        (0..self.plan.steps.len()).filter(is_put).collect()
    }

    fn brings_accounts(&self, at: usize) -> bool {
        let Action::Put { path, .. } = &self.plan.steps[at].action else { return false };
        self.wanted.entries.get(path).is_some_and(|entry| entry.role == Role::Sysusers)
    }

    /// Whether a step must be left out; then that is its outcome.
    fn skip(&mut self, at: usize) -> bool {
        let component = self.plan.steps[at].component.as_ref();
        let Some(because) = self.failures.because(component) else { return false };
        let skipped = Outcome::Skipped { because };
        self.ended(at, skipped);
        true
    }

    /// Writes down how a step ended, and tells it.
    fn ended(&mut self, at: usize, outcome: Outcome) {
        let step = &self.plan.steps[at];
        let resource = step.action.resource();
        let done = format!("{} {resource}", services::done_word(&step.action));
        match &outcome {
            Outcome::Done => {
                tracing::info!(trimtab_resource = resource, trimtab_outcome = "done", "{}", done.trim_end());
            }
            Outcome::NotRun { because } => tracing::debug!(trimtab_resource = resource, "{resource}: {because}"),
            // What went wrong is told by the end of the pass, once for as long as it lasts; here only as it happens.
            Outcome::Skipped { because } => tracing::debug!(trimtab_resource = resource, "{resource}: left out, because {because}"),
            Outcome::Failed { message } | Outcome::Raced { message } => {
                tracing::debug!(trimtab_resource = resource, "{resource}: {message}");
            }
        }
        // What nobody declared and does not go keeps nothing else from being done.
        let is_purge = matches!(step.action, Action::Purge { .. });
        if matches!(outcome, Outcome::Failed { .. } | Outcome::Raced { .. }) && !is_purge {
            self.failures.add(step, self.wanted);
        }
        match outcome {
            // What leaves and will not go yet holds up its own removal, and nothing of what comes.
            Outcome::Failed { .. } if matches!(step.action, Action::Stop { leaving: true, .. }) => {}
            Outcome::Failed { .. } => {
                let is_machines = matches!(
                    step.action,
                    Action::Put { .. } | Action::Remove { .. } | Action::Purge { .. } | Action::Restore { .. }
                );
                self.applied.blamed |= !is_machines && !std::mem::take(&mut self.unasked);
                match Failures::of(step, self.wanted) {
                    Some(components) => self.applied.failed.extend(components),
                    None => self.applied.all_failed = true,
                }
            }
            Outcome::Raced { .. } => self.applied.raced = true,
            _ => {}
        }
        self.outcomes[at] = Some(outcome);
    }

    fn end(mut self) -> Applied {
        self.settle();
        if let Err(error) = self.store.save_ledger(self.ledger) {
            tracing::error!("{}", chain(&error));
            self.applied.unsaved = Some(error);
        }
        let never = || Outcome::Skipped { because: "the pass ended before it".to_owned() };
        self.applied.outcomes = self.outcomes.into_iter().map(|outcome| outcome.unwrap_or_else(never)).collect();
        self.applied
    }
}

#[cfg(test)]
mod tests;
