//! Taking a pack apart under bounds: into single objects in the store, each hashed.
//!
//! A pack of a kilobyte can demand a gigabyte of memory or hours of CPU, so: the number of objects is read from the first
//! twelve bytes and refused before anything else, every buffer has an upper size, the sum of all contents too, and a
//! watch ends the work when its time or its CPU time is over. The pack itself is gone when this returns.

use std::fs;
use std::io::{BufRead, Cursor, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use gix::progress::Discard;
use gix_pack::index::traverse::SafetyCheck;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::{TimeVal, TimeValLike as _};

use super::CourierError;
use super::meter::Meter;
use super::store::Store;

/// The CPU time that one pack may take.
pub(super) const CPU: Duration = Duration::from_secs(60);

/// What a pack may be at most.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Objects in it.
    pub(super) objects: u32,
    /// Bytes of any one of them, unpacked.
    pub(super) object: u64,
    /// Bytes of all of them, unpacked.
    pub(super) total: u64,
    /// CPU time that it may take.
    pub(super) cpu: Duration,
}

/// Reads one pack and stores what is in it.
pub(super) fn unpack(
    from: &mut dyn BufRead,
    store: &mut Store,
    hash: gix_hash::Kind,
    bounds: Bounds,
    meter: &Meter,
) -> Result<(), CourierError> {
    let mut head = [0; 12];
    from.read_exact(&mut head).map_err(|error| CourierError::Pack(error.into()))?;
    let count = u32::from_be_bytes([head[8], head[9], head[10], head[11]]);
    if &head[..8] != b"PACK\0\0\0\x02" {
        return Err(CourierError::Pack("it does not start as a pack of version 2 does".into()));
    }
    if count == 0 {
        return Ok(());
    }
    if count > bounds.objects {
        let most = bounds.objects;
        return Err(CourierError::Bound(format!("the server wants to send {count} objects where at most {most} are expected")));
    }
    let watch = Watch::start(meter.deadline(), bounds.cpu)?;
    let result = explode(&mut Cursor::new(head).chain(from), store, hash, bounds, &watch.interrupt);
    match result {
        Err(_) if watch.interrupt.load(Ordering::Relaxed) => match meter.patience() {
            Ok(_) => Err(CourierError::Costly(bounds.cpu)),
            Err(late) => Err(late.into()),
        },
        other => other,
    }
}

/// Reads one pack into a folder, as it is, with an index beside it: for one that is read more than once.
pub(super) fn index(
    from: &mut dyn BufRead,
    folder: &Path,
    hash: gix_hash::Kind,
    objects: u32,
    object: u64,
    meter: &Meter,
) -> Result<(), CourierError> {
    let mut head = [0; 12];
    from.read_exact(&mut head).map_err(|error| CourierError::Pack(error.into()))?;
    let count = u32::from_be_bytes([head[8], head[9], head[10], head[11]]);
    if &head[..8] != b"PACK\0\0\0\x02" || count == 0 {
        return Err(CourierError::Pack("it does not start as a pack of version 2 with objects in it does".into()));
    }
    if count > objects {
        return Err(CourierError::Bound(format!("the pack has {count} objects where at most {objects} are allowed")));
    }
    let watch = Watch::start(meter.deadline(), CPU)?;
    let options = gix_pack::bundle::write::Options {
        thread_limit: Some(1),
        alloc_limit_bytes: usize::try_from(object.saturating_add(4096)).ok(),
        ..gix_pack::bundle::write::Options::default()
    };
    let (interrupt, no_bases) = (&watch.interrupt, None::<gix_object::find::Never>);
    let mut pack = Cursor::new(head).chain(from);
    let written = gix_pack::Bundle::write_to_directory(&mut pack, Some(folder), &mut Discard, interrupt, no_bases, hash, options);
    match written {
        Ok(_) => Ok(()),
        Err(_) if watch.interrupt.load(Ordering::Relaxed) => match meter.patience() {
            Ok(_) => Err(CourierError::Costly(CPU)),
            Err(late) => Err(late.into()),
        },
        Err(error) => Err(fault(error)),
    }
}

fn explode(
    pack: &mut dyn BufRead,
    store: &mut Store,
    hash: gix_hash::Kind,
    bounds: Bounds,
    interrupt: &AtomicBool,
) -> Result<(), CourierError> {
    let folder = Scratch::new(store.scratch_name())?;
    // A buffer may be somewhat larger than the object it is for.
    let alloc_limit = usize::try_from(bounds.object.saturating_add(4096)).ok();
    let options = gix_pack::bundle::write::Options {
        thread_limit: Some(1),
        alloc_limit_bytes: alloc_limit,
        ..gix_pack::bundle::write::Options::default()
    };
    let no_bases = None::<gix_object::find::Never>;
    let written = gix_pack::Bundle::write_to_directory(pack, Some(&folder.0), &mut Discard, interrupt, no_bases, hash, options)
        .map_err(fault)?;
    let Some(index) = written.index_path else { return Ok(()) };
    let bundle = gix_pack::Bundle::at(index, hash).map_err(fault)?;
    let sink = Arc::new(Mutex::new(Sink { store, left: bounds.total, failure: None }));
    let result = bundle.index.traverse_with_index(
        &bundle.pack,
        {
            let sink = sink.clone();
            move |kind, content: &[u8], entry: &gix_pack::index::Entry, _: &dyn gix::Progress| {
                sink.lock().unwrap_or_else(PoisonError::into_inner).take(kind, &entry.oid, content, bounds)
            }
        },
        &mut Discard,
        interrupt,
        gix_pack::index::traverse::with_index::Options {
            thread_limit: Some(1),
            // The file was written a moment ago by the same code; the objects are hashed again all the same.
            check: SafetyCheck::SkipFileChecksumVerification,
            alloc_limit_bytes: alloc_limit,
        },
    );
    let failure = sink.lock().unwrap_or_else(PoisonError::into_inner).failure.take();
    match (failure, result) {
        (Some(failure), _) => Err(failure),
        (None, Err(error)) => Err(fault(error)),
        (None, Ok(_)) => Ok(()),
    }
}

/// What gix says about a pack is either that it is too large, or that it is rubbish.
fn fault(error: gix::Error) -> CourierError {
    if error.is_resource_exhausted() {
        return CourierError::Bound("an object is larger than is allowed here".into());
    }
    CourierError::Pack(error.into())
}

/// Where the objects go. gix wants its errors; ours is kept aside.
struct Sink<'a> {
    store: &'a mut Store,
    left: u64,
    failure: Option<CourierError>,
}

impl Sink<'_> {
    fn take(&mut self, kind: gix_object::Kind, id: &gix_hash::ObjectId, content: &[u8], bounds: Bounds) -> gix::Result {
        let size = content.len() as u64;
        let stored = if size > bounds.object {
            Err(CourierError::Bound(format!("object {id} has {size} bytes where at most {} are allowed", bounds.object)))
        } else if size > self.left {
            Err(CourierError::Bound(format!("all in all the objects have more than the {} bytes that are allowed", bounds.total)))
        } else {
            self.left -= size;
            self.store.insert(kind, id, content)
        };
        stored.map_err(|failure| {
            let error = gix::Error::from_error(std::io::Error::other(failure.to_string()));
            self.failure.get_or_insert(failure);
            error
        })
    }
}

/// A folder for the pack, removed whatever happens short of SIGKILL.
struct Scratch(PathBuf);

impl Scratch {
    fn new(path: PathBuf) -> Result<Self, CourierError> {
        fs::create_dir(&path).map_err(|source| CourierError::Cache { path: path.clone(), source })?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all::<&Path>(&self.0);
    }
}

/// Sets the interrupt when the wall clock or the CPU time is over.
struct Watch {
    interrupt: Arc<AtomicBool>,
    done: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    fn start(deadline: Instant, cpu: Duration) -> Result<Self, CourierError> {
        let interrupt = Arc::new(AtomicBool::new(false));
        let (done, told) = mpsc::channel::<()>();
        let flag = interrupt.clone();
        let started = cpu_time();
        let watch = move || {
            while told.recv_timeout(Duration::from_millis(100)) == Err(RecvTimeoutError::Timeout) {
                if Instant::now() >= deadline || cpu_time().saturating_sub(started) > cpu {
                    flag.store(true, Ordering::Relaxed);
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("watch".into()).stack_size(128 << 10).spawn(watch);
        Ok(Self { interrupt, done: Some(done), thread: Some(thread.map_err(CourierError::Runtime)?) })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        drop(self.done.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The CPU time of this process so far.
fn cpu_time() -> Duration {
    let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) else { return Duration::ZERO };
    let time = |value: TimeVal| Duration::from_micros(u64::try_from(value.num_microseconds()).unwrap_or(0));
    time(usage.user_time()) + time(usage.system_time())
}

#[cfg(test)]
mod tests;
