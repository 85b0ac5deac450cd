//! A pass whose source is a bundle: everything else is as ever.
//!
//! The commits go to a courier as a plain git bundle in a folder of the courier's own, for only there packs are taken apart; artifacts and images
//! are read from the bundle here, by digest. What the bundle lacks is not asked for elsewhere (but images, which Podman may have a mirror of).

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use super::Cycle;
use crate::bundle::Opened;
use crate::courier::Way;

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
}

impl Offline {
    pub(super) fn way(&self) -> &Way {
        &self.way
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

impl Cycle {
    /// From here on the source is this bundle.
    pub fn take_bundle(&mut self, bundle: Arc<Opened>) -> Result<(), OfflineError> {
        let mut way = self.way();
        let folder = way.cache.join("applying");
        let failed = |source| OfflineError { folder: folder.clone(), source };
        let user = way.user;
        let own = |path: &PathBuf| user.map_or(Ok(()), |(uid, gid)| std::os::unix::fs::lchown(path, Some(uid), Some(gid)));
        if !way.cache.exists() {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(&way.cache).and_then(|()| own(&way.cache)).map_err(failed)?;
        }
        match fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let lay = || -> io::Result<()> {
            fs::DirBuilder::new().mode(0o700).create(&folder)?;
            let (git, config) = (folder.join("repository.bundle"), folder.join("source.toml"));
            bundle.copy_repository(&mut fs::OpenOptions::new().write(true).create_new(true).open(&git)?)?;
            let limit = bundle.repository_size()?.max(64 << 10);
            let (total, idle) = (self.settings.source.total_timeout, self.settings.source.idle_timeout);
            let time = |span| humantime::format_duration(span).to_string();
            let url = toml_string(&git.display().to_string());
            let (total, idle) = (time(total), time(idle));
            fs::write(
                &config,
                format!("[source]\nurl = {url}\nmax-bytes = {limit}\ntotal-timeout = \"{total}\"\nidle-timeout = \"{idle}\"\n"),
            )?;
            [&git, &config, &folder].into_iter().try_for_each(own)
        };
        lay().map_err(failed)?;
        // Nobody's socket: the couriers behind that have another source.
        (way.config, way.cache) = (folder.join("source.toml"), folder.join("cache"));
        (way.socket, way.only_socket) = (folder.join("none"), false);
        // Images are larger than /run may be.
        self.machine.scratch = self.places.store().state.join("applying");
        self.offline = Some(Offline { way, folder, scratch: self.machine.scratch.clone() });
        self.machine.bundle = Some(bundle);
        Ok(())
    }

    /// Tells those who apply how to come by a courier: with a bundle there is none to ask.
    pub(super) fn lead_way(&mut self) {
        let way = self.way();
        self.machine.way = self.offline.is_none().then_some(way);
    }
}

fn toml_string(text: &str) -> String {
    serde_json::to_string(text).expect("because a string always serialises")
}
