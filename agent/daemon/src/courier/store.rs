//! The cache: raw objects that were fetched, one file each, named by their id.
//!
//! Guarantees: what is read is what was asked for (every read is hashed again, a wrong file is removed and fetched anew);
//! after [`Store::trim`] there are at most the quota's bytes and files, the least recently used having gone first.
//! Nothing is synced: after a power cut a file may be damaged, and a damaged file is as good as none.
//! Limits: a file per object is meant for the few hundred objects that one host needs, not for a whole monorepo's history.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use gix_hash::ObjectId;
use gix_object::Kind;

use super::CourierError;

/// A file's use is written down at most this often: flash wears out.
const TOUCH_EVERY: Duration = Duration::from_secs(24 * 3600);

/// How much the cache may hold.
#[derive(Debug, Clone, Copy)]
pub(super) struct Quota {
    pub(super) bytes: u64,
    pub(super) objects: usize,
}

/// What a look into the cache found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    Here(Vec<u8>),
    OtherKind,
    TooLarge,
    Nothing,
}

/// The cache's folder.
pub(super) struct Store {
    root: PathBuf,
    quota: Quota,
    /// What was stored since the last trim, or `None` before the first.
    fresh: Option<(u64, usize)>,
    known: (u64, usize),
}

impl Store {
    /// Opens the folder, makes it if need be, and sweeps what a killed courier left.
    pub(super) fn open(root: &Path, quota: Quota) -> Result<Self, CourierError> {
        let store = Self { root: root.to_owned(), quota, fresh: None, known: (0, 0) };
        for folder in [root.to_owned(), store.objects(), store.scratch()] {
            if folder != root && folder.symlink_metadata().is_ok_and(|found| !found.is_dir()) {
                // Not a folder of ours: a damaged cache must not stop polling for ever.
                let _ = fs::remove_file(&folder);
            }
            let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder);
            made.map_err(|source| CourierError::Cache { path: folder.clone(), source })?;
        }
        store.sweep();
        Ok(store)
    }

    fn objects(&self) -> PathBuf {
        self.root.join("objects")
    }

    /// The folder for what is not finished.
    pub(super) fn scratch(&self) -> PathBuf {
        self.root.join("tmp")
    }

    /// A new name in the scratch folder; it carries the process id, so that [`Store::sweep`] knows whose it is.
    pub(super) fn scratch_name(&self) -> PathBuf {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        self.scratch().join(format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)))
    }

    fn sweep(&self) {
        for entry in fs::read_dir(self.scratch()).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let owner = name.to_str().and_then(|name| name.split('-').next()).and_then(|pid| pid.parse::<u32>().ok());
            // Another courier may be at work beside this one.
            if owner.is_some_and(|pid| pid != std::process::id() && Path::new("/proc").join(pid.to_string()).exists()) {
                continue;
            }
            let path = entry.path();
            let _ = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        }
    }

    fn path(&self, id: &ObjectId) -> PathBuf {
        let hex = id.to_hex().to_string();
        self.objects().join(&hex[..2]).join(&hex[2..])
    }

    /// Whether there is a file for it. Whether it is sound shows when it is read.
    pub(super) fn has(&self, id: &ObjectId) -> bool {
        self.path(id).is_file()
    }

    /// Looks for an object of this kind and at most this many bytes.
    pub(super) fn read(&self, kind: Kind, id: &ObjectId, limit: u64) -> Result<Found, CourierError> {
        let path = self.path(id);
        let failed = |source| CourierError::Cache { path: path.clone(), source };
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(Found::Nothing);
            }
            Err(error) => return Err(failed(error)),
        };
        let about = file.metadata().map_err(failed)?;
        // The head is `<kind> <size>\0`: at most 6 + 1 + 20 + 1 bytes.
        if about.len() > limit.saturating_add(28) {
            return Ok(Found::TooLarge);
        }
        let mut bytes = Vec::new();
        // A disk that cannot read the file back is the same as a damaged file.
        let sound = file.read_to_end(&mut bytes).ok().and_then(|_| Self::checked(id, &bytes));
        let Some((found, start)) = sound else {
            fs::remove_file(&path).map_err(failed)?;
            return Ok(Found::Nothing);
        };
        if found != kind {
            return Ok(Found::OtherKind);
        }
        if (bytes.len() - start) as u64 > limit {
            return Ok(Found::TooLarge);
        }
        if about.modified().ok().and_then(|then| then.elapsed().ok()).is_some_and(|age| age > TOUCH_EVERY) {
            let _ = file.set_modified(SystemTime::now());
        }
        bytes.drain(..start);
        Ok(Found::Here(bytes))
    }

    /// The kind and where the content starts, if the file is what its name says.
    fn checked(id: &ObjectId, bytes: &[u8]) -> Option<(Kind, usize)> {
        let end = bytes.iter().take(28).position(|b| *b == 0)?;
        let (kind, size) = std::str::from_utf8(&bytes[..end]).ok()?.split_once(' ')?;
        let kind = Kind::from_bytes(kind.as_bytes()).ok()?;
        let content = &bytes[end + 1..];
        let fits = size.parse() == Ok(content.len());
        (fits && gix_object::compute_hash(id.kind(), kind, content).is_ok_and(|hash| hash == *id)).then_some((kind, end + 1))
    }

    /// Stores an object whose hash was checked. Atomic: another courier may read at the same time.
    pub(super) fn insert(&mut self, kind: Kind, id: &ObjectId, content: &[u8]) -> Result<(), CourierError> {
        let path = self.path(id);
        if path.is_file() {
            return Ok(());
        }
        let failed = |source| CourierError::Cache { path: path.clone(), source };
        let beside = self.scratch_name();
        let write = || {
            let mut file = File::create(&beside)?;
            file.write_all(format!("{kind} {}\0", content.len()).as_bytes())?;
            file.write_all(content)?;
            match fs::rename(&beside, &path) {
                Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                    let fan = path.parent().unwrap_or(&self.root);
                    let _ = fs::remove_file(fan);
                    fs::create_dir_all(fan)?;
                    fs::rename(&beside, &path)
                }
                other => other,
            }
        };
        write().inspect_err(|_| drop(fs::remove_file(&beside))).map_err(failed)?;
        if let Some((bytes, objects)) = &mut self.fresh {
            *bytes += content.len() as u64;
            *objects += 1;
        }
        Ok(())
    }

    /// Brings the cache back under its quota. To be called after every fetch; looks at the disk only when there is need.
    pub(super) fn trim(&mut self) -> Result<(), CourierError> {
        let within = |(bytes, objects): (u64, usize)| bytes <= self.quota.bytes && objects <= self.quota.objects;
        if let Some((bytes, objects)) = self.fresh
            && within((self.known.0 + bytes, self.known.1 + objects))
        {
            return Ok(());
        }
        let mut files = self.files()?;
        let mut held = (files.iter().map(|file| file.size).sum::<u64>(), files.len());
        if !within(held) {
            files.sort_unstable_by_key(|file| file.used);
            // Somewhat below the quota, or every fetch would have to look again.
            let goal = (self.quota.bytes / 4 * 3, self.quota.objects / 4 * 3);
            for file in files {
                if held.0 <= goal.0 && held.1 <= goal.1 {
                    break;
                }
                match fs::remove_file(&file.path) {
                    Err(source) if source.kind() != io::ErrorKind::NotFound => {
                        return Err(CourierError::Cache { path: file.path, source });
                    }
                    _ => held = (held.0 - file.size, held.1 - 1),
                }
            }
        }
        self.known = held;
        self.fresh = Some((0, 0));
        let _ = fs::remove_file(self.mark());
        Ok(())
    }

    /// As [`Store::trim`], but only if something was stored by this process.
    pub(super) fn trim_if_grown(&mut self) -> Result<(), CourierError> {
        if self.fresh.is_some() { self.trim() } else { Ok(()) }
    }

    /// As [`Store::trim`], but only if a courier stored something and ended before its trim: so a fetch need not wait for a look at the
    /// whole cache, and couriers that are killed each time cannot make it grow without end.
    pub(super) fn trim_if_left(&mut self) -> Result<(), CourierError> {
        if self.fresh.is_some() || self.mark().exists() {
            return self.trim();
        }
        let path = self.mark();
        File::create(&path).map_err(|source| CourierError::Cache { path, source })?;
        // Nobody has looked yet, so nothing counts as within the quota: the next trim looks.
        (self.known, self.fresh) = ((u64::MAX / 2, usize::MAX / 2), Some((0, 0)));
        Ok(())
    }

    /// Stands while something was stored that no trim has seen.
    fn mark(&self) -> PathBuf {
        self.root.join("untrimmed")
    }

    fn files(&self) -> Result<Vec<CachedFile>, CourierError> {
        let mut files = Vec::new();
        let list = |path: &Path| {
            let failed = |source| CourierError::Cache { path: path.to_owned(), source };
            fs::read_dir(path).map_err(failed)?.collect::<io::Result<Vec<_>>>().map_err(failed)
        };
        for fan in list(&self.objects())? {
            if !fan.path().is_dir() {
                let _ = fs::remove_file(fan.path());
                continue;
            }
            for entry in list(&fan.path())? {
                if let Ok(about) = entry.metadata() {
                    let used = about.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                    files.push(CachedFile { path: entry.path(), size: about.len(), used });
                }
            }
        }
        Ok(files)
    }
}

struct CachedFile {
    path: PathBuf,
    size: u64,
    used: SystemTime,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob(text: &[u8]) -> ObjectId {
        gix_object::compute_hash(gix_hash::Kind::Sha1, Kind::Blob, text).unwrap()
    }

    #[test]
    fn a_damaged_file_is_removed_and_not_handed_out() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::open(folder.path(), Quota { bytes: 1000, objects: 10 }).unwrap();
        let id = blob(b"hello");
        store.insert(Kind::Blob, &id, b"hello").unwrap();
        assert_eq!(store.read(Kind::Blob, &id, 5).unwrap(), Found::Here(b"hello".to_vec()));
        assert_eq!(store.read(Kind::Blob, &id, 4).unwrap(), Found::TooLarge);
        assert_eq!(store.read(Kind::Tree, &id, 5).unwrap(), Found::OtherKind);
        for damage in [&b"blob 5\0hellO"[..], b"blob 4\0hello", b"", b"blob 5"] {
            store.insert(Kind::Blob, &id, b"hello").unwrap();
            fs::write(store.path(&id), damage).unwrap();
            assert_eq!(store.read(Kind::Blob, &id, 5).unwrap(), Found::Nothing);
            assert!(!store.has(&id));
        }
    }

    #[test]
    fn the_least_recently_used_go_first_and_the_quota_holds() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::open(folder.path(), Quota { bytes: 1 << 20, objects: 8 }).unwrap();
        let ids: Vec<_> = (0u8..20).map(|n| (blob(&[n]), n)).collect();
        for (id, n) in &ids {
            store.insert(Kind::Blob, id, &[*n]).unwrap();
            let file = File::options().write(true).open(store.path(id)).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(1000 - u64::from(*n))).unwrap();
            store.trim().unwrap();
            assert!(store.files().unwrap().len() <= 8);
        }
        assert!(store.has(&ids[19].0) && !store.has(&ids[0].0));
        let mut store = Store::open(folder.path(), Quota { bytes: 30, objects: 100 }).unwrap();
        store.trim().unwrap();
        assert!(store.files().unwrap().iter().map(|file| file.size).sum::<u64>() <= 30);
    }

    #[test]
    fn what_a_killed_courier_left_is_swept() {
        let folder = tempfile::tempdir().unwrap();
        let quota = Quota { bytes: 1000, objects: 10 };
        let store = Store::open(folder.path(), quota).unwrap();
        fs::create_dir(store.scratch().join("4294967290-0")).unwrap();
        fs::write(store.scratch().join("4294967290-0/x.pack"), "x").unwrap();
        fs::write(store.scratch().join(".tmpAbc"), "x").unwrap();
        fs::write(store.scratch().join("1-0"), "of a process that runs").unwrap();
        Store::open(folder.path(), quota).unwrap();
        let left: Vec<_> = fs::read_dir(store.scratch()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["1-0"]);
    }

    #[test]
    fn a_cache_that_is_no_folder_is_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("objects"), "not a folder").unwrap();
        let mut store = Store::open(folder.path(), Quota { bytes: 1000, objects: 10 }).unwrap();
        store.insert(Kind::Blob, &blob(b"x"), b"x").unwrap();
        assert!(store.has(&blob(b"x")));
    }
}
