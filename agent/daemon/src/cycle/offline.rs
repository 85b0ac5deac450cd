//! A pass whose source is a bundle: everything else is as ever.
//!
//! The commits go to a courier as a plain git bundle, for only there packs are taken apart; artifacts and images are read from the bundle here, by
//! digest. What the bundle lacks is not asked for elsewhere (but images, which Podman may have a mirror of).
//!
//! A running agent takes a bundle when a person asks it to, for that one pass: it reads all of the file itself, whoever looked at it before. It waits
//! for no word of a stick's where its own word is what counts: a change that could cut the host off is confirmed by the source, if that was
//! reached before.
//!
//! Guarantee: what is laid out for the courier lies in a folder of root's, which the courier reads and cannot change: in one of its own, a courier
//! that was taken over could put a link in the place of what root is about to write.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use trimtab_model::report::{Failure, Outcome, Pass, Wake};

use super::source::Answered;
use super::{Cycle, Hold, worsen};
use crate::bundle::{self, BundleError, Opened};
use crate::courier::Way;
use crate::log::{self, chain};
use crate::trust::blocks::AnyKey;

/// Why a bundle cannot be handed to a courier.
#[derive(Debug, thiserror::Error)]
#[error("cannot hand the bundle's commits to the courier, in {}", folder.display())]
pub struct OfflineError {
    folder: PathBuf,
    source: io::Error,
}

/// What is laid out for one pass; taken away with it.
pub(super) struct Offline {
    way: Way,
    folder: PathBuf,
    scratch: PathBuf,
    /// The source is asked again from here on.
    is_past: bool,
}

impl Offline {
    /// How to come by a courier that has the bundle's commits.
    pub(super) fn way(&self) -> Option<&Way> {
        (!self.is_past).then_some(&self.way)
    }
}

impl Drop for Offline {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.scratch);
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            tracing::debug!(%error, "what was laid out for a bundle could not be removed");
        }
    }
}

/// A bundle that the running agent is to take.
pub(super) struct Stick {
    pub(super) file: String,
    /// The key that must have signed it.
    pub(super) key: Option<String>,
}

impl Stick {
    /// Reads all of it, and who signed it. Blocking.
    fn open(&self) -> Result<Opened, String> {
        let wanted =
            self.key.as_deref().map(|key| bundle::key_in(key).ok_or("the key that must have signed it is none")).transpose()?;
        let read = || -> Result<Opened, BundleError> {
            let opened = bundle::open(Path::new(&self.file), &mut |_, _| {})?;
            opened.signer(&[] as &[AnyKey], wanted.as_ref())?;
            Ok(opened)
        };
        read().map_err(|error| chain(&error))
    }
}

impl Cycle {
    /// From here on the source is this bundle.
    pub fn take_bundle(&mut self, bundle: Arc<Opened>) -> Result<(), OfflineError> {
        let mut way = self.way();
        let folder = self.places.applying();
        let failed = |source| OfflineError { folder: folder.clone(), source };
        match fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let group = way.user.map(|(_, gid)| gid);
        let lay = || -> io::Result<()> {
            let above = folder.parent().unwrap_or(&folder);
            fs::DirBuilder::new().recursive(true).mode(0o755).create(above)?;
            fs::DirBuilder::new().mode(0o700).create(&folder)?;
            let git = folder.join("repository.bundle");
            bundle.copy_repository(&mut readable_by(group, &git)?)?;
            let limit = bundle.repository_size()?.max(64 << 10);
            let (total, idle) = (self.settings.source.total_timeout, self.settings.source.idle_timeout);
            let time = |span| humantime::format_duration(span).to_string();
            let url = toml_string(&git.display().to_string());
            let (total, idle) = (time(total), time(idle));
            let text =
                format!("[source]\nurl = {url}\nmax-bytes = {limit}\ntotal-timeout = \"{total}\"\nidle-timeout = \"{idle}\"\n");
            readable_by(group, &folder.join("source.toml"))?.write_all(text.as_bytes())?;
            // What a file is to the courier, its folder must be: something to go through, and not to write in.
            opened_to(group, &fs::File::open(&folder)?, 0o710)
        };
        lay().map_err(failed)?;
        // Nobody's socket: the couriers behind that have another source.
        (way.config, way.cache) = (folder.join("source.toml"), folder.join("cache"));
        (way.socket, way.only_socket) = (folder.join("none"), false);
        // Images are larger than /run may be.
        self.machine.scratch = self.places.store().state.join("applying");
        self.offline = Some(Offline { way, folder, scratch: self.machine.scratch.clone(), is_past: false });
        self.machine.bundle = Some(bundle);
        Ok(())
    }

    /// Makes the bundle that was asked for the source of this pass; why it wakes, and whether the source is asked.
    pub(super) async fn go_by_bundle(&mut self, stick: Option<Stick>, (wake, ask): (Wake, bool), pass: &mut Pass) -> (Wake, bool) {
        let Some(stick) = stick else { return (wake, ask) };
        if wake != Wake::Asked || self.hold != Hold::Agent {
            // Who asked for it does not wait any more: it was another agent that was asked.
            pass.remarks.push(format!("an agent that ended was asked to take the bundle {}: ask again", stick.file));
            return (wake, ask);
        }
        pass.wake = Wake::Bundle;
        let file = stick.file.clone();
        let mut reading = tokio::task::spawn_blocking(move || stick.open());
        let opened = loop {
            tokio::select! {
                opened = &mut reading => break opened.unwrap_or_else(|error| Err(format!("reading it ended unexpectedly: {error}"))),
                () = tokio::time::sleep(super::STILL) => tracing::info!(target: log::PATIENCE, "still at it: reading {file}"),
            }
        };
        let taken = opened.and_then(|opened| self.take_bundle(Arc::new(opened)).map_err(|error| chain(&error)));
        let Err(message) = taken else { return (Wake::Bundle, true) };
        pass.failures.push(Failure { resource: "bundle".to_owned(), message, skipped: false });
        worsen(pass, Outcome::Partial);
        (Wake::Bundle, false)
    }

    /// The next pass has another source.
    pub(super) fn put_bundle_away(&mut self) {
        if self.hold != Hold::Agent || self.offline.take().is_none() {
            return;
        }
        self.machine.bundle = None;
        self.machine.scratch = self.places.runtime().join("scratch");
    }

    /// To reach a stick proves nothing about the way to the source: where that was open before, it must be open still.
    pub(super) fn look_past_bundle(&mut self) {
        if let Some(offline) = &mut self.offline {
            offline.is_past = self.is_source_open;
        }
    }

    /// A bundle is the source, and nothing else was reached lately.
    pub(super) fn is_cut_off(&self) -> bool {
        self.offline.is_some() && !self.is_source_open
    }

    /// What came of asking the source; to read a stick is no contact with it.
    pub(super) fn note_contact(&mut self, answered: &Answered) {
        if self.offline.as_ref().is_some_and(|offline| !offline.is_past) {
            return;
        }
        self.is_source_open = answered.answer.is_reached();
        self.history.polled(self.is_source_open, super::now_ms() / 1000);
        if let Some(courier) = &answered.courier {
            self.history.heard(courier);
        }
    }

    /// Tells those who apply how to come by a courier: with a bundle there is none to ask.
    pub(super) fn lead_way(&mut self) {
        let way = self.way();
        self.machine.way = self.offline.is_none().then_some(way);
    }
}

/// A new file that the courier's group may read.
fn readable_by(group: Option<u32>, path: &Path) -> io::Result<fs::File> {
    let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    opened_to(group, &file, 0o640)?;
    Ok(file)
}

fn opened_to(group: Option<u32>, file: &fs::File, mode: u32) -> io::Result<()> {
    if group.is_none() {
        return Ok(());
    }
    std::os::unix::fs::fchown(file, None, group)?;
    file.set_permissions(fs::Permissions::from_mode(mode))
}

fn toml_string(text: &str) -> String {
    serde_json::to_string(text).expect("because a string always serialises")
}
