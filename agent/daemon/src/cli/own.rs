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
    /// In seconds since the boot: when the new one was first seen to have been started anew.
    crashing_since: Option<u64>,
    not_before: Instant,
}

impl Guard {
    fn open(places: &Places) -> Result<Self, GuardError> {
        let unit = AGENT.parse().expect("because it is the name of a unit");
        let root = Root::open(&places.root)?;
        let systemd = if places.is_sandbox() { None } else { Systemd::of_this_machine() };
        Ok(Self { root, places: places.store(), systemd, unit, started: false, crashing_since: None, not_before: Instant::now() })
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
        if look.as_ref().is_some_and(|look| watch.restarts_of(look) > 0) {
            self.crashing_since.get_or_insert(now.uptime);
        }
        if let Some(reason) = watch.verdict(&now, look.as_ref()) {
            let invocation = look.map(|look| look.invocation).unwrap_or_default();
            let restored = Restored { reason, invocation, crashing_since: self.crashing_since, stopped: now.uptime };
            self.restore(watch, restored).await;
        }
    }

    async fn restore(&mut self, watch: &mut Watch, mut restored: Restored) {
        tracing::warn!(
            trimtab_revision = watch.revision,
            trimtab_outcome = "restoring",
            "the new trimtab is given up: {}; the one before it is put back",
            restored.reason
        );
        // Stopped first: two of them must not write at once.
        self.job(JobVerb::Stop).await;
        restored.stopped = uptime();
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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};
    use std::path::Path;

    use trimtab_model::digest::Digest;
    use trimtab_model::names::HostPath;
    use trimtab_model::transaction::WATCH_FORMAT;

    use super::*;

    const OLD: &[u8] = b"the old program";

    /// A sandbox in which a new trimtab stands, and a watch over it whose time is over `in_seconds`.
    fn sandbox(in_seconds: u64) -> (tempfile::TempDir, Guard, Watch) {
        let folder = tempfile::tempdir().unwrap();
        let at = |path: &str| folder.path().join(path);
        fs::create_dir_all(at("etc/units")).unwrap();
        fs::create_dir_all(at("usr/bin")).unwrap();
        fs::create_dir_all(at("var/lib")).unwrap();
        fs::DirBuilder::new().mode(0o700).create(at("var/lib/trimtab")).unwrap();
        fs::write(at("var/lib/trimtab/ledger.json"), "{}").unwrap();
        fs::write(at("usr/bin/trimtab"), "the new program").unwrap();
        fs::write(at("etc/units/came"), "came with the new").unwrap();
        let places = Places::new(folder.path());
        let guard = Guard::open(&places).unwrap();
        guard.places.keep_program().unwrap();
        guard.places.keep_previous(&Digest::of(OLD), &mut &*OLD).unwrap();
        let own = fs::metadata(at("usr/bin"))
            .map(|meta| (std::os::unix::fs::MetadataExt::uid(&meta), std::os::unix::fs::MetadataExt::gid(&meta)));
        let (uid, gid) = own.unwrap();
        let original = |node, mode| Before::Original { node, mode, uid, gid };
        let file = |path: &str, was| Previous { path: path.parse::<HostPath>().unwrap(), was };
        let watch = Watch {
            format: WATCH_FORMAT,
            revision: "r".to_owned(),
            window: 60,
            boot: boot_id(&guard.root),
            deadline: uptime() + in_seconds,
            boots: 1,
            restarts: 0,
            files: vec![
                file("/usr/bin/trimtab", original(Node::File { digest: Digest::of(OLD), size: OLD.len() as u64 }, 0o755)),
                file("/etc/units/link", original(Node::Symlink { target: "elsewhere".to_owned() }, 0o777)),
                file("/etc/units/came", Before::Absent),
            ],
            restored: None,
        };
        guard.places.save_watch(&watch).unwrap();
        (folder, guard, watch)
    }

    #[track_caller]
    fn is_as_before(root: &Path) {
        let program = root.join("usr/bin/trimtab");
        assert_eq!(fs::read(&program).unwrap(), OLD);
        assert_eq!(fs::metadata(program).unwrap().permissions().mode() & 0o7777, 0o755);
        assert_eq!(fs::read_link(root.join("etc/units/link")).unwrap(), Path::new("elsewhere"));
        assert!(fs::symlink_metadata(root.join("etc/units/came")).is_err());
        assert_eq!(fs::read_dir(root.join("etc/units")).unwrap().count(), 1, "nothing is left lying about");
    }

    #[tokio::test]
    async fn it_waits_for_its_time_and_then_puts_everything_back() {
        let (folder, mut guard, mut watch) = sandbox(1000);
        guard.look(&mut watch).await;
        assert_eq!(fs::read(folder.path().join("usr/bin/trimtab")).unwrap(), b"the new program");
        assert_eq!(guard.places.load_watch().unwrap().unwrap().restored, None);
        watch.deadline = uptime();
        guard.look(&mut watch).await;
        is_as_before(folder.path());
        let restored = guard.places.load_watch().unwrap().unwrap().restored.unwrap();
        assert!(restored.reason.contains("within 60 s"), "{restored:?}");
        // The old agent has not ended the watch yet: nothing more is done.
        fs::write(folder.path().join("etc/units/came"), "somebody's").unwrap();
        guard.look(&mut watch).await;
        assert!(folder.path().join("etc/units/came").exists());
    }

    #[tokio::test]
    async fn ended_after_any_file_it_does_the_rest() {
        for done in 0..=3 {
            let (folder, mut guard, mut watch) = sandbox(0);
            let mut batch = Batch::new(&guard.root);
            for file in &watch.files[..done] {
                guard.put_back(file, &mut batch).unwrap();
            }
            drop(batch);
            guard.look(&mut watch).await;
            is_as_before(folder.path());
            assert!(guard.places.load_watch().unwrap().unwrap().restored.is_some(), "after {done}");
        }
    }

    #[tokio::test]
    async fn what_has_proven_itself_in_the_last_moment_stays() {
        let (folder, mut guard, mut watch) = sandbox(0);
        guard.places.end_watch().unwrap();
        guard.look(&mut watch).await;
        assert_eq!(fs::read(folder.path().join("usr/bin/trimtab")).unwrap(), b"the new program");
        assert!(!guard.places.has_watch() && folder.path().join("etc/units/came").exists());
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_put_back_leaves_the_watch_open() {
        let (folder, mut guard, mut watch) = sandbox(0);
        let kept = folder.path().join("var/lib/trimtab/previous").join(Digest::of(OLD).to_string());
        fs::rename(&kept, kept.with_extension("away")).unwrap();
        symlink("x", folder.path().join("etc/units/link")).unwrap();
        guard.look(&mut watch).await;
        assert_eq!(guard.places.load_watch().unwrap().unwrap().restored, None);
        fs::rename(kept.with_extension("away"), &kept).unwrap();
        guard.look(&mut watch).await;
        is_as_before(folder.path());
    }

    #[tokio::test]
    async fn a_ledger_of_a_later_format_gives_way_to_the_one_before() {
        let (folder, mut guard, mut watch) = sandbox(0);
        let ledger = folder.path().join("var/lib/trimtab/ledger.json");
        let was = serde_json::to_string(&trimtab_model::ledger::Ledger::default()).unwrap();
        fs::write(folder.path().join("var/lib/trimtab/previous/ledger.json"), &was).unwrap();
        fs::write(&ledger, r#"{"format": 99}"#).unwrap();
        guard.look(&mut watch).await;
        assert_eq!(fs::read_to_string(&ledger).unwrap(), was);
        assert!(watch.restored.is_some());
    }
}
