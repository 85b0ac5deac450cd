//! `restore-self`: the guard over a new trimtab. It is the program before it, run from where that was kept.
//!
//! Guarantees: it does nothing while the watch says that the new one has time, and ends when the watch is gone; what it puts back is on the
//! disk before the watch says so; ended at any instant, it does the rest when it is started again.
//! Limits: it puts back files of trimtab's own, and a ledger that it could not read; the rest of the change is the old agent's to undo.

use std::io;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use trimtab_model::desired::Node;
use trimtab_model::ledger::Before;
use trimtab_model::names::UnitName;
use trimtab_model::plan::{AGENT, before};
use trimtab_model::transaction::{Now, Previous, Restored, Watch};

use super::fail;
use super::machine::block_on;
use crate::config::Places;
use crate::host::facts::{boot_id, uptime};
use crate::host::observe;
use crate::host::place::{Batch, PlaceError};
use crate::host::root::{Root, RootError};
use crate::host::units::{JobVerb, Systemd};
use crate::log::{self, chain};
use crate::store::{self, Store, StoreError};

/// So often it looks at the new agent.
const LOOK: Duration = Duration::from_secs(1);

/// So long after something did not work it is tried again.
const AGAIN: Duration = Duration::from_secs(15);

/// How long an agent may take to stop or to start: longer than its unit lets it.
const JOB: Duration = Duration::from_secs(120);

/// Why the guard cannot do its work now; systemd starts it again.
#[derive(Debug, thiserror::Error)]
enum GuardError {
    #[error("the guard over a new trimtab cannot work")]
    Root(#[from] RootError),
    #[error("the watch over a new trimtab cannot be used")]
    Store(#[from] StoreError),
    #[error("the guard over a new trimtab cannot wait")]
    Wait(#[source] io::Error),
}

/// What keeps one file from being put back.
#[derive(Debug, thiserror::Error)]
enum RestoreError {
    #[error(transparent)]
    Kept(#[from] StoreError),
    #[error(transparent)]
    Place(#[from] PlaceError),
}

pub(super) fn guard(places: &Places) -> ExitCode {
    log::start(log::Audience::Journal);
    let guarded = block_on(async { Guard::open(places)?.run().await }).map_err(GuardError::Wait);
    match guarded.and_then(|ended| ended) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error, 1),
    }
}

struct Guard {
    root: Root,
    places: store::Places,
    systemd: Option<Systemd>,
    unit: UnitName,
    /// The agent was asked to start after everything was put back.
    started: bool,
    not_before: Instant,
}

impl Guard {
    fn open(places: &Places) -> Result<Self, GuardError> {
        let unit = AGENT.parse().expect("because it is the name of a unit");
        let (root, systemd) = (Root::open(&places.root)?, Systemd::of_this_machine());
        Ok(Self { root, places: places.store(), systemd, unit, started: false, not_before: Instant::now() })
    }

    async fn run(mut self) -> Result<(), GuardError> {
        let Some(mut watch) = self.places.load_watch()? else { return Ok(()) };
        // The agent changes itself only when it has been told that its guard is there.
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
        tracing::info!(trimtab_revision = watch.revision, "watching over a new trimtab: it has {} s to prove itself", watch.window);
        loop {
            if Instant::now() >= self.not_before {
                self.look(&mut watch).await;
            }
            tokio::time::sleep(LOOK).await;
            match self.places.load_watch() {
                Ok(Some(newer)) => watch = newer,
                Ok(None) => return Ok(()),
                // What the new one made of it does not matter: it is still there, so nothing is proven.
                Err(error) => tracing::debug!("{}", chain(&error)),
            }
        }
    }

    async fn look(&mut self, watch: &mut Watch) {
        let now = Now { boot: boot_id(&self.root), uptime: uptime() };
        if watch.restored.is_some() {
            self.start_again().await;
            return;
        }
        if watch.wake(&now) {
            self.save(watch);
        }
        let look = match &self.systemd {
            Some(systemd) => systemd.fares(&self.unit).await.ok(),
            None => None,
        };
        if let Some(reason) = watch.verdict(&now, look.as_ref()) {
            let invocation = look.map(|look| look.invocation).unwrap_or_default();
            self.restore(watch, Restored { reason, invocation }).await;
        }
    }

    async fn restore(&mut self, watch: &mut Watch, restored: Restored) {
        tracing::warn!(
            trimtab_revision = watch.revision,
            trimtab_outcome = "restoring",
            "the new trimtab is given up: {}; the one before it is put back",
            restored.reason
        );
        // Stopped first: two of them must not write at once.
        self.job(JobVerb::Stop).await;
        if !self.places.has_watch() {
            // It has proven itself in the last moment.
            self.job(JobVerb::Start).await;
            return;
        }
        let mut failed = false;
        let mut batch = Batch::new(&self.root);
        for file in &watch.files {
            if let Err(error) = self.put_back(file, &mut batch) {
                failed = true;
                tracing::error!(trimtab_resource = format!("file {}", file.path), "{}", chain(&error));
            }
        }
        if let Err(error) = batch.finish() {
            failed = true;
            tracing::error!("{}", chain(&error));
        }
        failed |= !self.readable_ledger();
        if failed {
            // Whatever runs now is better than nothing; the rest is tried again.
            self.start_agent().await;
            self.not_before = Instant::now() + AGAIN;
            return;
        }
        watch.restored = Some(restored);
        self.save(watch);
        self.start_again().await;
    }

    fn put_back(&self, file: &Previous, batch: &mut Batch) -> Result<(), RestoreError> {
        let found =
            observe::observe(&self.root, [&file.path]).remove(&file.path).unwrap_or(trimtab_model::observed::Found::Missing);
        if before(&found) == file.was {
            return Ok(());
        }
        let mut content: Box<dyn io::Read> = match &file.was {
            Before::Original { node: Node::File { digest, .. }, .. } => Box::new(self.places.open_previous(digest)?),
            _ => Box::new(io::empty()),
        };
        batch.restore(&file.path, &file.was, &mut *content, found.expectation())?;
        Ok(())
    }

    /// A later version may have written a ledger that this one cannot read: then the one of before the change is taken.
    fn readable_ledger(&self) -> bool {
        let loaded = Store::look(self.places.clone()).and_then(|store| store.load_ledger());
        match loaded {
            Err(StoreError::Newer { .. } | StoreError::Damaged { .. }) => match self.places.restore_ledger() {
                Ok(()) => true,
                Err(error) => {
                    tracing::error!("{}", chain(&error));
                    false
                }
            },
            // Anything else is not for the guard to mend.
            _ => true,
        }
    }

    /// Everything is back: the old agent must run. Until it does it is asked to, for the one that it replaces may have been left failed.
    async fn start_again(&mut self) {
        if !self.started {
            self.started = self.start_agent().await;
            self.not_before = Instant::now() + AGAIN;
        }
    }

    async fn start_agent(&self) -> bool {
        if let Some(systemd) = &self.systemd
            && let Err(error) = systemd.daemon_reload().await
        {
            tracing::error!("{}", chain(&error));
        }
        self.job(JobVerb::Start).await
    }

    async fn job(&self, verb: JobVerb) -> bool {
        let Some(systemd) = &self.systemd else { return true };
        match systemd.job(verb, &self.unit, JOB).await {
            Ok(_) => true,
            Err(error) => {
                tracing::warn!("{}", chain(&error));
                false
            }
        }
    }

    fn save(&self, watch: &Watch) {
        if let Err(error) = self.places.save_watch(watch) {
            tracing::error!("{}", chain(&error));
        }
    }
}
