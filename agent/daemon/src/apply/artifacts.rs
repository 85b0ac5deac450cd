//! Artifacts: into the store, from this host where it has them already, else through the courier; before anything is switched.
//!
//! Guarantees: nothing is a content of the store before its length, its SHA-256 and (where one is asked for) its minisign signature were found to be
//! right; memory does not grow with the artifact; a break in the middle is gone on from, also by a later pass; room is made sure of before, and what is
//! kept free for the rest of the host is not written into: who runs short of it meanwhile gets back what came.
//! Limits: a file that lies there under the right length and digest is not asked for its signature again: the digest is the commit's.

use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use blake2::Digest as _;
use trimtab_model::desired::{Artifact, Desired, Node};
use trimtab_model::digest::Digest;
use trimtab_model::ledger::Ledger;
use trimtab_model::names::HostPath;

use super::Machine;
use crate::bundle::Opened;
use crate::courier::protocol::MAX_PIECE;
use crate::courier::{Class, Client, ClientError, Part, Way};
use crate::host::observe;
use crate::store::{Store, StoreError, require_at};
use crate::trust::minisign::{MinisignError, MinisignKey, MinisignSignature};

/// So often it is said that one is still on its way.
const STILL: Duration = Duration::from_secs(3);
/// Failures in a row without a byte between them, after which it is left to a later pass.
const IN_VAIN: u32 = 3;
/// From one failure to the next try.
const PAUSE: Duration = Duration::from_secs(1);
/// So much is written before it is waited for.
const AT_ONCE: u64 = 32 << 20;

/// Why an artifact is not in the store.
#[derive(Debug, thiserror::Error)]
pub(super) enum ArtifactError {
    /// It did not come.
    #[error("could not fetch {url}")]
    Fetch { url: String, source: ClientError },
    /// It takes longer than it may.
    #[error("could not fetch {url}: {got} of {size} bytes came within {} (agent.pull-timeout); it goes on from there", humantime::format_duration(*.patience))]
    Slow { url: String, got: u64, size: u64, patience: Duration },
    /// Other bytes.
    #[error(
        "what lies at {url} is not what is declared: its digest is {found}, and not {expected}; nothing of it was used. If it is meant to be another, write its new size and sha256 into component.toml"
    )]
    Other { url: String, expected: Digest, found: Digest },
    /// Not signed, or by somebody else.
    #[error("{url} is not signed as `minisign` in component.toml asks for; nothing of it was used")]
    Unsigned { url: String, source: MinisignError },
    /// The signature is no text.
    #[error("{url}.minisig is no text; nothing of {url} was used")]
    NoText { url: String },
    /// There is no room.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The part could not be written.
    #[error("could not write what came of {url}{}", advice(.source))]
    Write { url: String, source: io::Error },
    /// There is no way to a courier.
    #[error("{url} ({digest}) is not in the bundle, and nobody else is asked")]
    NoWay { url: String, digest: Digest },
    /// The bundle cannot be read.
    #[error("could not read {url} from the bundle")]
    Bundle { url: String, source: io::Error },
    /// The work itself broke.
    #[error("fetching {url} ended unexpectedly")]
    Died { url: String },
}

/// What to do about it, in brackets.
fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            " (the disk is full: free some space on its file system, `df -h`, or inodes, `df -i`)"
        }
        io::ErrorKind::ReadOnlyFilesystem => " (the file system is mounted read-only: see the kernel's log for why)",
        _ => "",
    }
}

/// Gets the content of a path into the store.
pub(super) async fn fetch(
    path: &HostPath,
    wanted: &Desired,
    ledger: &Ledger,
    machine: &Machine,
    store: &mut Store,
) -> Result<(), ArtifactError> {
    let Some((_, _, artifact, digest, size)) = wanted.artifacts().find(|(at, ..)| *at == path) else { return Ok(()) };
    if store.has(&digest) && store.size(&digest) == size {
        return Ok(());
    }
    require_room(path, digest, size, machine, store)?;
    if from_this_host(path, digest, size, wanted, ledger, machine, store)? {
        return Ok(());
    }
    let url = artifact.shown_url().to_owned();
    let file = store.part(&digest)?;
    let folder = store.parts();
    let cancelled = Cancelled(Arc::new(AtomicBool::new(false)));
    let got = Arc::new(AtomicU64::new(0));
    let job = Job {
        way: machine.way.clone(),
        bundle: machine.bundle.clone(),
        artifact: artifact.clone(),
        digest,
        size,
        file,
        folder: Some(folder),
        deadline: Instant::now() + machine.patience.pull,
        patience: machine.patience.pull,
        cancelled: cancelled.0.clone(),
        got: got.clone(),
    };
    let begun = Instant::now();
    let mut working = tokio::task::spawn_blocking(move || job.run());
    let ended = loop {
        tokio::select! {
            ended = &mut working => break ended,
            () = tokio::time::sleep(STILL) => {
                let got = got.load(Ordering::Relaxed);
                tracing::info!(target: crate::log::PATIENCE, "still at it: fetching {url} ({} of {} KiB)", got >> 10, size >> 10);
            }
        }
    };
    match ended.map_err(|_| ArtifactError::Died { url: url.clone() })? {
        Ok((file, _)) => {
            store.take_part(&digest, file)?;
            tracing::info!(target: crate::log::PROGRESS, url, bytes = size, seconds = begun.elapsed().as_secs(), "fetched");
            Ok(())
        }
        Err(error) => {
            let is_wrong = matches!(error, ArtifactError::Other { .. } | ArtifactError::Unsigned { .. });
            // On a full disk it may be what keeps others from their work, and fetching it again costs only time.
            if is_wrong || store.is_short() {
                store.drop_part(&digest);
            }
            Err(error)
        }
    }
}

/// Fetches an artifact into a file, proven as on a host; its signature, where it has one.
pub fn fetch_to(
    to: &Path,
    artifact: &Artifact,
    digest: Digest,
    size: u64,
    way: &Way,
) -> Result<Option<String>, impl std::error::Error + use<>> {
    let url = artifact.shown_url().to_owned();
    let patience = Duration::from_secs(24 * 3600);
    let file = std::fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(to);
    let job = |file| Job {
        way: Some(way.clone()),
        bundle: None,
        artifact: artifact.clone(),
        digest,
        size,
        file,
        folder: None,
        deadline: Instant::now() + patience,
        patience,
        cancelled: Arc::default(),
        got: Arc::default(),
    };
    file.map_err(|source| ArtifactError::Write { url, source }).and_then(|file| job(file).run()).map(|(_, signature)| signature)
}

/// Digest and length of a file.
pub fn hash_file(path: &Path) -> io::Result<(Digest, u64)> {
    let mut file = std::fs::File::open(path)?;
    Ok((hash(&mut file)?, file.metadata()?.len()))
}

/// The content is needed twice, in the store and in its place.
fn require_room(path: &HostPath, digest: Digest, size: u64, machine: &Machine, store: &Store) -> Result<(), StoreError> {
    let missing = size.saturating_sub(store.part_size(&digest));
    let state = &store.places().state;
    let mut folder = path.parent();
    let target = loop {
        let at =
            folder.as_ref().map_or_else(|| machine.root.path().to_owned(), |folder| machine.root.path().join(folder.relative()));
        if at.is_dir() || folder.is_none() {
            break at;
        }
        folder = folder.and_then(|folder| folder.parent());
    };
    if device(&target).is_some_and(|device| Some(device) == self::device(state)) {
        return store.require(missing.saturating_add(size));
    }
    store.require(missing)?;
    require_at(&target, size)
}

fn device(path: &Path) -> Option<u64> {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata(path).ok().map(|seen| seen.dev())
}

/// The same bytes stand on this host already: at the path itself, or where something else of ours is.
fn from_this_host(
    path: &HostPath,
    digest: Digest,
    size: u64,
    wanted: &Desired,
    ledger: &Ledger,
    machine: &Machine,
    store: &mut Store,
) -> Result<bool, StoreError> {
    let is_it = |node: &Node| matches!(node, Node::File { digest: is, .. } if *is == digest);
    let owned = ledger.entries.iter().filter(|(_, owned)| is_it(&owned.state.node)).map(|(at, _)| at);
    let others = wanted.entries.iter().filter(|(_, entry)| is_it(&entry.state.node)).map(|(at, _)| at);
    for at in std::iter::once(path).chain(owned).chain(others) {
        let Ok(mut file) = observe::open(&machine.root, at) else { continue };
        let is_alike = file.metadata().is_ok_and(|seen| seen.len() == size) && hash(&mut file).ok() == Some(digest);
        if is_alike && file.seek(SeekFrom::Start(0)).is_ok() {
            let kept = store.put_file(&mut file)?;
            if kept == digest {
                return Ok(true);
            }
            store.discard(&kept);
        }
    }
    Ok(false)
}

fn hash(file: &mut dyn Read) -> io::Result<Digest> {
    let mut hashes = Hashes::new(false);
    hashes.take(file, u64::MAX)?;
    Ok(hashes.sha256())
}

/// Tells the thread that works for it that nobody waits any more.
struct Cancelled(Arc<AtomicBool>);

impl Drop for Cancelled {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Where the bytes come from.
enum From {
    Courier(Client),
    Bundle { bundle: Arc<Opened>, content: usize, signature: Option<usize> },
}

/// One fetch, by value: it runs on a thread of its own.
struct Job {
    way: Option<Way>,
    bundle: Option<Arc<Opened>>,
    artifact: Artifact,
    digest: Digest,
    size: u64,
    file: std::fs::File,
    /// Where room is to be left for others.
    folder: Option<PathBuf>,
    deadline: Instant,
    patience: Duration,
    cancelled: Arc<AtomicBool>,
    got: Arc<AtomicU64>,
}

impl Job {
    /// The file with all of the content, proven, and the signature that it was asked to have.
    fn run(mut self) -> Result<(std::fs::File, Option<String>), ArtifactError> {
        let url = self.artifact.shown_url().to_owned();
        let key = self.artifact.minisign.as_ref().map(|key| key.parse::<MinisignKey>()).transpose();
        let key = key.map_err(|source| ArtifactError::Unsigned { url: url.clone(), source })?;
        let mut hashes = Hashes::new(key.is_some());
        let written = self.go_on(&mut hashes).map_err(|source| ArtifactError::Write { url: url.clone(), source })?;
        self.got.store(written, Ordering::Relaxed);
        let mut courier = self.from()?;
        // First, for it is small: what nobody signed need not be fetched.
        let signature = key.map(|_| self.signature(&mut courier)).transpose()?;
        self.content(&mut courier, written, &mut hashes)?;
        drop(courier);
        if let (Some(key), Some(signature)) = (&key, &signature) {
            let proven =
                MinisignSignature::parse(signature).and_then(|signature| key.verify_hash(&hashes.blake2b(), &signature).map(drop));
            proven.map_err(|source| ArtifactError::Unsigned { url: url.clone(), source })?;
        }
        let found = hashes.sha256();
        if found != self.digest {
            return Err(ArtifactError::Other { url, expected: self.digest, found });
        }
        Ok((self.file, signature))
    }

    /// Where it comes from: the bundle, if it has it, else a courier.
    fn from(&self) -> Result<From, ArtifactError> {
        let url = || self.artifact.shown_url().to_owned();
        let name = format!("artifacts/{}", self.digest.hex());
        if let Some((bundle, content)) = self.bundle.as_ref().and_then(|bundle| Some((bundle, bundle.find(&name)?))) {
            return Ok(From::Bundle { content, signature: bundle.find(&format!("{name}.minisig")), bundle: bundle.clone() });
        }
        let way = self.way.as_ref().ok_or_else(|| ArtifactError::NoWay { url: url(), digest: self.digest })?;
        way.open().map(From::Courier).map_err(|source| ArtifactError::Fetch { url: url(), source })
    }

    /// How far an earlier try came; hashed anew, for nothing is known of what lies there.
    fn go_on(&mut self, hashes: &mut Hashes) -> io::Result<u64> {
        let length = self.file.metadata()?.len();
        if length > self.size {
            self.file.set_len(0)?;
            return Ok(0);
        }
        self.file.seek(SeekFrom::Start(0))?;
        hashes.take(&mut self.file, length)?;
        self.file.seek(SeekFrom::Start(length))
    }

    fn signature(&self, courier: &mut From) -> Result<String, ArtifactError> {
        let url = self.artifact.shown_url().to_owned();
        let (path, query) =
            self.artifact.url.split_once('?').map_or((self.artifact.url.as_str(), None), |(path, query)| (path, Some(query)));
        let at = format!("{path}.minisig{}", query.map(|query| format!("?{query}")).unwrap_or_default());
        let mut bytes = Vec::new();
        loop {
            let piece = self.piece(courier, &at, Part::Signature, bytes.len() as u64);
            let (more, end) = piece?;
            bytes.extend_from_slice(&more);
            if end || more.is_empty() || bytes.len() as u64 > Part::Signature.limit() {
                return String::from_utf8(bytes).map_err(|_| ArtifactError::NoText { url });
            }
        }
    }

    fn content(&mut self, courier: &mut From, mut written: u64, hashes: &mut Hashes) -> Result<(), ArtifactError> {
        let url = self.artifact.shown_url().to_owned();
        let (part, mut waiting) = (Part::Content { size: self.size }, 0);
        while written < self.size {
            if Instant::now() >= self.deadline {
                return Err(ArtifactError::Slow { url, got: written, size: self.size, patience: self.patience });
            }
            let (bytes, end) = self.piece(courier, &self.artifact.url, part, written)?;
            let room = usize::try_from(self.size - written).unwrap_or(usize::MAX);
            if bytes.len() > room || end && bytes.len() < room {
                // The courier itself should have said so.
                return Err(ArtifactError::Fetch { url, source: ClientError::Unexpected });
            }
            if let Some(folder) = &self.folder {
                require_at(folder, bytes.len() as u64)?;
            }
            hashes.update(&bytes);
            self.file.write_all(&bytes).map_err(|source| ArtifactError::Write { url: url.clone(), source })?;
            (written, waiting) = (written + bytes.len() as u64, waiting + bytes.len() as u64);
            if waiting >= AT_ONCE || written == self.size {
                // Here, where nobody has to wait for it; and a power cut costs no more than this.
                self.file.sync_data().map_err(|source| ArtifactError::Write { url: url.clone(), source })?;
                waiting = 0;
            }
            self.got.store(written, Ordering::Relaxed);
        }
        Ok(())
    }

    /// One piece.
    fn piece(&self, from: &mut From, url: &str, part: Part, at: u64) -> Result<(Vec<u8>, bool), ArtifactError> {
        let told = || url.split('?').next().unwrap_or_default().to_owned();
        match from {
            From::Courier(courier) => {
                self.asked(courier, url, part, at).map_err(|source| ArtifactError::Fetch { url: told(), source })
            }
            From::Bundle { bundle, content, signature } => {
                let which = if part == Part::Signature { *signature } else { Some(*content) };
                let which = which.ok_or_else(|| ArtifactError::NoWay { url: told(), digest: self.digest })?;
                let bytes = bundle.read(which, at, MAX_PIECE).map_err(|source| ArtifactError::Bundle { url: told(), source })?;
                let end = bytes.len() < MAX_PIECE;
                Ok((bytes, end))
            }
        }
    }

    /// One piece of the courier's, asked for again when the line breaks.
    fn asked(&self, courier: &mut Client, url: &str, part: Part, from: u64) -> Result<(Vec<u8>, bool), ClientError> {
        let mut failed = 0;
        loop {
            let error = match courier.fetch(url, part, from) {
                Ok((bytes, end)) if end || !bytes.is_empty() => return Ok((bytes, end)),
                Ok(_) => ClientError::Unexpected,
                Err(error) => error,
            };
            failed += 1;
            let is_over = self.cancelled.load(Ordering::Relaxed) || Instant::now() >= self.deadline;
            if error.class() != Class::Retry || failed >= IN_VAIN || is_over {
                return Err(error);
            }
            std::thread::sleep(PAUSE);
        }
    }
}

/// What is computed while it is written.
struct Hashes {
    sha256: sha2::Sha256,
    blake2b: Option<blake2::Blake2b512>,
}

impl Hashes {
    fn new(signed: bool) -> Self {
        Self { sha256: sha2::Sha256::default(), blake2b: signed.then(blake2::Blake2b512::default) }
    }

    fn update(&mut self, bytes: &[u8]) {
        sha2::Digest::update(&mut self.sha256, bytes);
        if let Some(hash) = &mut self.blake2b {
            hash.update(bytes);
        }
    }

    fn take(&mut self, from: &mut dyn Read, length: u64) -> io::Result<()> {
        let mut buffer = vec![0; 64 << 10];
        let mut from = from.take(length);
        loop {
            match from.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(got) => {
                    self.update(&buffer[..got]);
                    crate::log::alive();
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn sha256(&self) -> Digest {
        Digest::from_bytes(sha2::Digest::finalize(self.sha256.clone()).into())
    }

    fn blake2b(&self) -> [u8; 64] {
        self.blake2b.clone().unwrap_or_default().finalize().into()
    }
}
