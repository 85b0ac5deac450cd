//! What a replaced trimtab leaves behind for its guard: the watch, its own program, and what stood at the paths that change.
//!
//! Guarantees: the watch is on the disk only after all that it names; once it is gone nothing is put back any more. The program can be run
//! from here as it ran. The guard and the agent both write the watch, without a lock between them: each write is whole, and the guard has
//! stopped the agent before the write that counts.
//! Limits: a file system mounted `noexec` has no guard, and so no change of trimtab itself.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use sha2::Digest as _;
use trimtab_model::digest::Digest;
use trimtab_model::transaction::Watch;

use super::{Places, StoreError, beside, create, judge, read_document, sync_folder, write_beside};

const WATCH: &str = "selfupdate.json";
const FOLDER: &str = "previous";
const PROGRAM: &str = "trimtab";
const LEDGER: &str = "ledger.json";

impl Places {
    /// The watch over a new trimtab, if there is one.
    pub fn load_watch(&self) -> Result<Option<Watch>, StoreError> {
        let path = self.state.join(WATCH);
        let Some(bytes) = read_document(&path)? else { return Ok(None) };
        serde_json::from_slice(&bytes).map(Some).map_err(|source| StoreError::Stale { path, source })
    }

    /// Whether there is a watch, readable or not.
    pub fn has_watch(&self) -> bool {
        fs::symlink_metadata(self.state.join(WATCH)).is_ok()
    }

    /// Writes the watch down, durably.
    pub fn save_watch(&self, watch: &Watch) -> Result<(), StoreError> {
        let bytes = serde_json::to_vec(watch).expect("because plain data with string keys always serialises");
        write_beside(&self.state.join(WATCH), &bytes, 0o600, true)
    }

    /// Ends the watch: from here on nothing is put back. What was kept for it goes as well, also when only that is left.
    pub fn end_watch(&self) -> Result<(), StoreError> {
        let path = self.state.join(WATCH);
        match fs::remove_file(&path) {
            Ok(()) => sync_folder(&path)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(StoreError::io("remove", &path)(error)),
        }
        match fs::remove_dir_all(self.previous()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StoreError::io("remove", &self.previous())(error)),
            _ => Ok(()),
        }
    }

    fn previous(&self) -> PathBuf {
        self.state.join(FOLDER)
    }

    /// The program that was kept.
    pub fn previous_program(&self) -> PathBuf {
        self.previous().join(PROGRAM)
    }

    /// Keeps the running program where the guard runs it from, and the ledger as it is: a later version may write one that this one cannot
    /// read. What was kept before stays.
    pub fn keep_program(&self) -> Result<(), StoreError> {
        let folder = self.previous();
        if fs::symlink_metadata(&folder).is_err() {
            let io = StoreError::io("make the folder", &folder);
            fs::DirBuilder::new().mode(0o700).create(&folder).map_err(io)?;
            sync_folder(&folder)?;
        }
        judge(&folder)?;
        for (name, from, mode) in [(PROGRAM, PathBuf::from("/proc/self/exe"), 0o700), (LEDGER, self.state.join(LEDGER), 0o600)] {
            let to = folder.join(name);
            match File::open(&from) {
                Ok(mut from) => keep(&to, &mut from, mode)?,
                // Before the first change there is none.
                Err(error) if error.kind() == io::ErrorKind::NotFound && name == LEDGER => {}
                Err(error) => return Err(StoreError::io("read", &from)(error)),
            }
        }
        Ok(())
    }

    /// Keeps a content of a file that is about to be replaced.
    pub fn keep_previous(&self, digest: &Digest, from: &mut dyn Read) -> Result<(), StoreError> {
        let path = self.previous().join(digest.to_string());
        keep(&path, from, 0o600)?;
        if File::open(&path).and_then(|mut kept| digest_of(&mut kept)).map_err(StoreError::io("read", &path))? == *digest {
            return Ok(());
        }
        let _ = fs::remove_file(&path);
        Err(StoreError::DamagedBlob { path, digest: *digest })
    }

    /// Opens a content that was kept.
    pub fn open_previous(&self, digest: &Digest) -> Result<File, StoreError> {
        let path = self.previous().join(digest.to_string());
        File::open(&path).map_err(StoreError::io("read", &path))
    }

    /// Puts the ledger back that was kept: for a version that cannot read the newest.
    pub fn restore_ledger(&self) -> Result<(), StoreError> {
        let kept = self.previous().join(LEDGER);
        let bytes = read_document(&kept)?.unwrap_or_default();
        if bytes.is_empty() {
            return Ok(());
        }
        write_beside(&self.state.join(LEDGER), &bytes, 0o600, true)
    }
}

fn digest_of(from: &mut dyn Read) -> io::Result<Digest> {
    let mut hash = sha2::Sha256::new();
    let mut piece = vec![0; 64 << 10];
    loop {
        match from.read(&mut piece) {
            Ok(0) => return Ok(Digest::from_bytes(hash.finalize().into())),
            Ok(length) => hash.update(&piece[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

// Written beside, synced, renamed: what has the name is whole.
fn keep(path: &Path, from: &mut dyn Read, mode: u32) -> Result<(), StoreError> {
    let io = StoreError::io("keep", path);
    if path.exists() {
        return Ok(());
    }
    let new = beside(path);
    let mut write = || -> io::Result<()> {
        let mut file = create(&new, 0o600)?;
        io::copy(from, &mut file)?;
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.sync_all()?;
        fs::rename(&new, path)
    };
    if let Err(error) = write() {
        let _ = fs::remove_file(&new);
        return Err(io(error));
    }
    sync_folder(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use trimtab_model::transaction::WATCH_FORMAT;

    fn places() -> (tempfile::TempDir, Places) {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        fs::DirBuilder::new().mode(0o700).create(&state).unwrap();
        let places = Places { state, trust_copy: folder.path().join("copy"), runtime: folder.path().join("run") };
        (folder, places)
    }

    fn watch() -> Watch {
        Watch {
            format: WATCH_FORMAT,
            revision: "r".to_owned(),
            window: 60,
            boot: "b".to_owned(),
            deadline: 1,
            boots: 1,
            restarts: 0,
            files: Vec::new(),
            restored: None,
        }
    }

    #[test]
    fn a_watch_is_kept_and_ended_with_all_that_it_names() {
        let (_folder, places) = places();
        assert!(places.load_watch().unwrap().is_none() && !places.has_watch());
        fs::write(places.state.join(LEDGER), "{}").unwrap();
        places.keep_program().unwrap();
        let digest = Digest::of(b"old");
        places.keep_previous(&digest, &mut &b"old"[..]).unwrap();
        places.save_watch(&watch()).unwrap();
        assert_eq!(places.load_watch().unwrap(), Some(watch()));
        let program = fs::metadata(places.previous_program()).unwrap();
        assert_eq!(program.len(), fs::metadata("/proc/self/exe").unwrap().len());
        assert_eq!(program.permissions().mode() & 0o777, 0o700);
        let mut text = String::new();
        places.open_previous(&digest).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "old");
        places.end_watch().unwrap();
        assert!(!places.has_watch() && !places.previous().exists());
        places.end_watch().unwrap();
    }

    #[test]
    fn what_was_kept_first_stays() {
        let (_folder, places) = places();
        fs::write(places.state.join(LEDGER), "first").unwrap();
        places.keep_program().unwrap();
        fs::write(places.state.join(LEDGER), "second").unwrap();
        places.keep_program().unwrap();
        places.restore_ledger().unwrap();
        assert_eq!(fs::read_to_string(places.state.join(LEDGER)).unwrap(), "first");
    }

    #[test]
    fn a_content_that_is_not_what_it_should_be_is_no_guard() {
        let (_folder, places) = places();
        places.keep_program().unwrap();
        assert!(matches!(places.keep_previous(&Digest::of(b"old"), &mut &b"new"[..]), Err(StoreError::DamagedBlob { .. })));
        fs::write(places.state.join(WATCH), "{").unwrap();
        assert!(places.load_watch().is_err() && places.has_watch());
    }
}
