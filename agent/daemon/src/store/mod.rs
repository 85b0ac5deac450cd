//! What trimtab remembers: the ledger, the contents behind it, the generations, the trust state, the status.
//!
//! Guarantees: one process at a time may write (a lock names the holder); a document on disk is the old one or the new one, never half,
//! also after a power cut or on a full disk; a ledger is never on disk before the contents that it names; what is unreadable is an error
//! that says what to do, never silently empty; a full disk does not keep the ledger from being saved, for it has room set aside. The folder belongs to the agent alone, and is refused if others could have written to it.
//!
//! Limits: the status document is not synced, for it is made anew after a boot. A disk that forgets what it said it wrote can lose the last
//! change; the ledger before it is kept for that.

mod blobs;
mod documents;
mod generations;
mod holds;
mod ledger;
mod parts;
mod requests;
mod reserve;
mod watch;

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::sys::statvfs::fstatvfs;
use trimtab_model::digest::Digest;

pub use self::documents::TrustCopies;
pub use self::generations::contents_of;
pub use self::ledger::Loaded;
pub use self::requests::{Request, Taken};
pub use self::reserve::allocate;
use crate::durable::Unsynced;

/// Below this much free space nothing new is begun: the ledger must still be written when the disk is nearly full.
const RESERVE_BYTES: u64 = 4 << 20;
/// Likewise for inodes.
const RESERVE_INODES: u64 = 64;
/// No document is larger; a ledger of 10,000 files has some 5 MiB.
const MAX_DOCUMENT: u64 = 64 << 20;

/// Why something could not be remembered or recalled.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Others could have written to it.
    #[error("{path} cannot be trusted: {why}")]
    Untrusted {
        /// The folder.
        path: PathBuf,
        /// What is wrong, and what to do.
        why: String,
    },
    /// Another process works with it.
    #[error("{path} is in use by {holder}; only one trimtab may work on a machine at a time")]
    Locked {
        /// The folder.
        path: PathBuf,
        /// The other process, as far as it is known.
        holder: String,
    },
    /// It was opened for looking only.
    #[error("{path} was opened for looking only")]
    LookingOnly {
        /// The folder.
        path: PathBuf,
    },
    /// A document makes no sense, and there is no other copy.
    #[error("{path} is damaged; {advice}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What to do.
        advice: &'static str,
        /// What the parser said.
        source: serde_json::Error,
    },
    /// A document that can be made again makes no sense: damaged, or of another version of trimtab.
    #[error("{path} cannot be read; it is made anew from the repository")]
    Stale {
        /// The file.
        path: PathBuf,
        /// What the parser said.
        source: serde_json::Error,
    },
    /// What somebody asked for makes no sense.
    #[error("{path} is no request that this trimtab knows; it was taken away")]
    Request {
        /// The file.
        path: PathBuf,
        /// What the parser said.
        source: serde_json::Error,
    },
    /// A document is of a later version of trimtab.
    #[error("{path} has format {found}, and this trimtab knows {known}: install the version that wrote it, or a later one")]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u64,
        /// The latest format known here.
        known: u32,
    },
    /// A content is not there.
    #[error("the content {digest} is not in {path}")]
    NoBlob {
        /// The folder.
        path: PathBuf,
        /// Its digest.
        digest: Digest,
    },
    /// A content is not what its name says.
    #[error("the content {digest} in {path} is damaged")]
    DamagedBlob {
        /// The file.
        path: PathBuf,
        /// The digest it should have.
        digest: Digest,
    },
    /// There is not enough room to begin.
    #[error(
        "{path} has {bytes} bytes and {inodes} inodes free, and {needed} bytes are needed: free some space on its file system (`df -h`, `df -i`)"
    )]
    NoSpace {
        /// The folder.
        path: PathBuf,
        /// Free bytes.
        bytes: u64,
        /// Free inodes.
        inodes: u64,
        /// Needed bytes, with the reserve.
        needed: u64,
    },
    /// The system refused. The old file is as it was.
    #[error("cannot {operation} {path}{advice}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// What to do, in brackets; may be empty.
        advice: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl StoreError {
    /// Whether a person must look before the agent may go on: what it knows of this machine cannot be trusted.
    pub fn must_halt(&self) -> bool {
        matches!(self, Self::Untrusted { .. } | Self::Damaged { .. } | Self::Newer { .. })
    }

    fn io(operation: &'static str, path: &Path) -> impl Fn(io::Error) -> Self {
        move |source| {
            let advice = match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                    " (the disk is full: free some space on its file system, `df -h`, or inodes, `df -i`; the old file is intact)"
                }
                io::ErrorKind::ReadOnlyFilesystem => " (the file system is mounted read-only: see the kernel's log for why)",
                io::ErrorKind::PermissionDenied => " (is trimtab running as root?)",
                _ => "",
            };
            Self::Io { operation, path: path.to_owned(), advice, source }
        }
    }
}

/// Where things are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// `/var/lib/trimtab`.
    pub state: PathBuf,
    /// The folder of the second copy of the trust state, best on another file system: `/etc/trimtab/state`.
    pub trust_copy: PathBuf,
    /// `/run/trimtab`: gone after a boot.
    pub runtime: PathBuf,
}

/// The memory of one agent.
#[derive(Debug)]
pub struct Store {
    places: Places,
    // Held for as long as the store is open; the kernel gives it back when the process ends, however it ends. None: for looking only.
    lock: Option<File>,
    unsynced: Unsynced,
    // Contents that are written and have no name yet, and where they lie until they have one.
    fresh: BTreeMap<Digest, PathBuf>,
    // Of the newest ledger, as this process wrote it.
    saved: Option<Digest>,
}

/// Free room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Bytes that may still be written.
    pub bytes: u64,
    /// Files that may still be made; `None` on file systems that do not count them (btrfs).
    pub inodes: Option<u64>,
}

impl Store {
    /// Opens the store, making its folders if they are missing, and holds it until dropped.
    pub fn open(places: Places) -> Result<Self, StoreError> {
        make_private(&places.state)?;
        make_private(&places.trust_copy)?;
        let io = StoreError::io("make the folder", &places.runtime);
        DirBuilder::new().recursive(true).mode(0o755).create(&places.runtime).map_err(io)?;
        judge(&places.runtime)?;
        let lock = take_lock(&places.state)?;
        for folder in
            [&places.state, &places.state.join("blobs"), &places.state.join("generations"), &places.trust_copy, &places.runtime]
        {
            sweep(folder);
        }
        let store = Self { places, lock: Some(lock), unsynced: Unsynced::new(), fresh: BTreeMap::new(), saved: None };
        store.set_aside(0);
        Ok(store)
    }

    /// Opens the store without holding it, for `plan` and `status` beside a running agent: nothing can be saved.
    pub fn look(places: Places) -> Result<Self, StoreError> {
        for folder in [&places.state, &places.trust_copy] {
            if folder.exists() {
                judge(folder)?;
            }
        }
        Ok(Self { places, lock: None, unsynced: Unsynced::new(), fresh: BTreeMap::new(), saved: None })
    }

    /// Where things are kept.
    pub fn places(&self) -> &Places {
        &self.places
    }

    /// The free room on the file system of the store.
    pub fn space(&self) -> Result<Space, StoreError> {
        space_at(&self.places.state)
    }

    /// Refuses if there is not room for `bytes` more and a small reserve; asked before anything is written.
    pub fn require(&self, bytes: u64) -> Result<(), StoreError> {
        require_at(&self.places.state, bytes)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.places.state.join(name)
    }

    fn writable(&self) -> Result<(), StoreError> {
        match self.lock {
            Some(_) => Ok(()),
            None => Err(StoreError::LookingOnly { path: self.places.state.clone() }),
        }
    }

    // A document is on disk, whole, when this comes back well; until then the old one is.
    fn save(&mut self, path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
        self.writable()?;
        self.sync()?;
        write_beside(path, bytes, 0o600, true)
    }
}

/// The free room on the file system of a folder.
pub fn space_at(path: &Path) -> Result<Space, StoreError> {
    let dir = File::open(path).map_err(StoreError::io("open", path))?;
    let stat = fstatvfs(&dir).map_err(|errno| StoreError::io("ask the free space of", path)(errno.into()))?;
    // The types differ between 32 and 64 bits.
    #[allow(clippy::useless_conversion)]
    let (blocks, size, files, free) = (
        u64::from(stat.blocks_available()),
        u64::from(stat.fragment_size()),
        u64::from(stat.files()),
        u64::from(stat.files_available()),
    );
    Ok(Space { bytes: blocks.saturating_mul(size), inodes: (files > 0).then_some(free) })
}

/// Refuses if there is not room for `bytes` more and a small reserve on the file system of a folder.
pub fn require_at(path: &Path, bytes: u64) -> Result<(), StoreError> {
    let space = space_at(path)?;
    let needed = bytes.saturating_add(RESERVE_BYTES);
    let inodes = space.inodes.unwrap_or(u64::MAX);
    if space.bytes >= needed && inodes >= RESERVE_INODES {
        return Ok(());
    }
    Err(StoreError::NoSpace { path: path.to_owned(), bytes: space.bytes, inodes, needed })
}

/// Reads a file of the store; `None`: there is none.
fn read_document(path: &Path) -> Result<Option<Vec<u8>>, StoreError> {
    let io = StoreError::io("read", path);
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let file = match OpenOptions::new().read(true).custom_flags(flags.bits()).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io(error)),
    };
    let mut bytes = Vec::new();
    file.take(MAX_DOCUMENT + 1).read_to_end(&mut bytes).map_err(&io)?;
    if bytes.len() as u64 > MAX_DOCUMENT {
        return Err(io(io::ErrorKind::FileTooLarge.into()));
    }
    Ok(Some(bytes))
}

// Write beside, sync, rename, sync the folder. On any error the half-written one is taken away again.
fn write_beside(path: &Path, bytes: &[u8], mode: u32, durable: bool) -> Result<(), StoreError> {
    write_to(path, bytes, mode, durable, None)
}

fn write_to(path: &Path, bytes: &[u8], mode: u32, durable: bool, group: Option<u32>) -> Result<(), StoreError> {
    let io = StoreError::io("save", path);
    let beside = beside(path);
    let write = || -> io::Result<()> {
        let mut file = create(&beside, mode)?;
        if group.is_some() {
            std::os::unix::fs::fchown(&file, None, group)?;
        }
        file.write_all(bytes)?;
        if durable {
            file.sync_all()?;
        }
        fs::rename(&beside, path)
    };
    if let Err(error) = write() {
        let _ = fs::remove_file(&beside);
        return Err(io(error));
    }
    if durable { sync_folder(path) } else { Ok(()) }
}

// What a killed process left half-written, under the names that `beside` gives and the blobs' `.new`. Only for the holder of the lock. Best
// effort: one that stays is thrown away when its document is written next.
fn sweep(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if name.as_encoded_bytes().starts_with(b".") && name.as_encoded_bytes().ends_with(b".new") {
            let _ = fs::remove_file(entry.path());
        }
    }
}

fn sync_folder(of: &Path) -> Result<(), StoreError> {
    let folder = of.parent().unwrap_or(Path::new("/"));
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(StoreError::io("write to the disk the folder", folder))
}

fn beside(path: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".new");
    path.with_file_name(name)
}

// The name is the same each time, so that a crash leaves one file at most; what stands there is thrown away.
fn create(path: &Path, mode: u32) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    if mode != 0o600 {
        file.set_permissions(fs::Permissions::from_mode(mode))?;
    }
    Ok(file)
}

fn make_private(folder: &Path) -> Result<(), StoreError> {
    let io = StoreError::io("make the folder", folder);
    if !folder.exists() {
        if let Some(above) = folder.parent() {
            DirBuilder::new().recursive(true).mode(0o755).create(above).map_err(&io)?;
        }
        DirBuilder::new().mode(0o700).create(folder).map_err(&io)?;
        sync_folder(folder)?;
    }
    judge(folder)
}

// Could somebody else have written here? Then nothing in it may be believed.
fn judge(folder: &Path) -> Result<(), StoreError> {
    let own = nix::unistd::geteuid().as_raw();
    let refuse = |why| Err(StoreError::Untrusted { path: folder.to_owned(), why });
    let seen = fs::symlink_metadata(folder).map_err(StoreError::io("look at", folder))?;
    if !seen.is_dir() {
        return refuse("it is not a directory".to_owned());
    }
    if seen.uid() != own {
        return refuse(format!(
            "it belongs to user {}, and trimtab runs as {own}: see who made it, then `chown {own}` it",
            seen.uid()
        ));
    }
    if seen.mode() & 0o022 != 0 {
        let mode = seen.mode() & 0o7777;
        return refuse(format!("others may write to it (mode {mode:04o}): see what is in it, then `chmod go-w` it"));
    }
    let Some(above) = folder.parent().filter(|above| !above.as_os_str().is_empty()) else { return Ok(()) };
    let seen = fs::metadata(above).map_err(StoreError::io("look at", above))?;
    let sticky = seen.mode() & 0o1000 != 0;
    if seen.uid() != own && seen.uid() != 0 || seen.mode() & 0o022 != 0 && !sticky {
        return refuse(format!("others may exchange it, for they may write to {}", above.display()));
    }
    Ok(())
}

fn take_lock(state: &Path) -> Result<File, StoreError> {
    let path = state.join("lock");
    let io = StoreError::io("lock", &path);
    let flags = OFlag::O_NOFOLLOW.bits();
    let mut file = OpenOptions::new();
    file.read(true).custom_flags(flags);
    let opened = match file.clone().write(true).create(true).truncate(false).mode(0o600).open(&path) {
        // A lock needs no writing: with a disk that turned read-only the agent still holds what it manages as far as it can.
        Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => file.open(&path),
        other => other,
    };
    let mut file = opened.map_err(&io)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            let _ = (&file).take(20).read_to_string(&mut pid);
            let holder = if pid.trim().is_empty() { "another process".to_owned() } else { format!("process {}", pid.trim()) };
            return Err(StoreError::Locked { path: state.to_owned(), holder });
        }
        Err(TryLockError::Error(error)) => return Err(io(error)),
    }
    // Only a courtesy to whoever meets the lock: it must not fail on a full disk.
    let _ = file.set_len(0).and_then(|()| file.write_all(format!("{}\n", std::process::id()).as_bytes()));
    Ok(file)
}
