//! The thread that reads the kernel's events as they come: a process such as `sed -i` lives for milliseconds, and who it was can only be read
//! while it does.
//!
//! Guarantees: names that matter to nobody are dropped before anything else is done; our own writes are dropped where the kernel tells whose they are;
//! what is remembered is bounded ([`MAX_SEEN`]), beyond that everything is looked at. When nothing new comes of reading, the next read waits
//! a little longer each time, up to [`SLOWEST`]: a busy neighbour, or a file that is written all the time, costs a few wake-ups a second. Limits:
//! who it was is then more often gone.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::EventFd;
use tokio::sync::Notify;
use trimtab_model::drift::Actor;

use super::group::{Event, Group};
use super::index::Meaning;
use super::who;

/// So many resources are told one by one.
const MAX_SEEN: usize = 1024;

/// Between two reads, while nothing new comes of them.
const FASTEST: Duration = Duration::from_millis(1);
const SLOWEST: Duration = Duration::from_millis(64);

/// So many reads in a row may bring nothing before the next one waits: an editor makes its temporary files before it touches ours.
const PATIENT: u32 = 16;

/// So much is read in a row: more than the kernel's queues hold.
const MOST_READS: usize = 512;

/// Without an event for this long, all is calm again.
const CALM: Duration = Duration::from_millis(100);

/// Events of directories that nobody knows, one set of watches after the other: these handles cannot be relied on.
const MAX_STRANGE: u32 = 16;

/// What it needs of stack, which is little; a thread's usual two megabytes are only reserved, but a small one says so.
const STACK: usize = 128 << 10;

/// What was seen of one resource since it was last asked for.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    /// Milliseconds since 1970.
    pub(super) at_ms: u64,
    /// The last one that changed it, where that is known.
    pub(super) actor: Option<Actor>,
}

/// A job of systemd's that ended: who asked for it is not told.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) unit: String,
    /// Its object path.
    pub(super) job: String,
    pub(super) at: Instant,
}

/// Between the thread and the loop.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    /// By resource.
    pub(super) seen: HashMap<String, Seen>,
    /// When the first and the last of it came.
    pub(super) span: Option<(Instant, Instant)>,
    /// More than can be told one by one: everything is to be looked at.
    pub(super) everything: bool,
    /// Directories came, went or were exchanged: the watches are to be made anew.
    pub(super) moved: bool,
    /// How often the kernel lost events.
    pub(super) overflows: u64,
    /// How many events in a row were of directories that nobody knows.
    strange: u32,
    /// Jobs of managed units that ended lately, oldest first.
    pub(super) jobs: VecDeque<Job>,
    /// systemd's signals are heard.
    pub(super) hears_units: bool,
    /// The group that the thread is to change to.
    next: Option<Group>,
    ends: bool,
}

impl Inbox {
    /// Something happened to this; true: that is news.
    pub(super) fn note(&mut self, resource: String, actor: Option<Actor>) -> bool {
        self.note_now();
        let len = self.seen.len();
        match self.seen.entry(resource) {
            Entry::Occupied(mut seen) => {
                let before = &mut seen.get_mut().actor;
                let same = before.as_ref().and_then(|actor| actor.pid) == actor.as_ref().and_then(|actor| actor.pid);
                // A process that ended since it was first looked at is no news.
                let better = !same || (actor.as_ref().is_some_and(who::is_known) && *before != actor);
                if better {
                    *before = actor;
                }
                better
            }
            Entry::Vacant(_) if len == MAX_SEEN => !std::mem::replace(&mut self.everything, true),
            Entry::Vacant(place) => {
                place.insert(Seen { at_ms: now_ms(), actor });
                true
            }
        }
    }

    /// Everything is to be looked at.
    pub(super) fn note_everything(&mut self) {
        self.note_now();
        self.everything = true;
    }

    /// The watches are to be made anew; true: that is news.
    pub(super) fn note_moved(&mut self) -> bool {
        self.note_now();
        !std::mem::replace(&mut self.moved, true)
    }

    /// The loop is to be woken.
    pub(super) fn note_now(&mut self) {
        let now = Instant::now();
        self.span = Some((self.span.map_or(now, |(first, _)| first), now));
    }

    /// Whether fanotify's handles do not lead back to what is watched, time after time.
    pub(super) fn is_blind(&self) -> bool {
        self.strange >= MAX_STRANGE
    }
}

/// The thread, and what it has seen.
#[derive(Debug)]
pub(super) struct Reader {
    pub(super) shared: Arc<Shared>,
}

#[derive(Debug)]
pub(super) struct Shared {
    inbox: Mutex<Inbox>,
    pub(super) notify: Notify,
    bell: EventFd,
}

impl Shared {
    /// What was seen; for a moment only.
    pub(super) fn inbox(&self) -> std::sync::MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reader {
    pub(super) fn new() -> nix::Result<Self> {
        let bell =
            EventFd::from_value_and_flags(0, nix::sys::eventfd::EfdFlags::EFD_CLOEXEC | nix::sys::eventfd::EfdFlags::EFD_NONBLOCK)?;
        Ok(Self { shared: Arc::new(Shared { inbox: Mutex::default(), notify: Notify::new(), bell }) })
    }

    /// Starts the thread.
    pub(super) fn start(&self) -> std::io::Result<()> {
        let shared = self.shared.clone();
        std::thread::Builder::new().name("watch".to_owned()).stack_size(STACK).spawn(move || run(&shared)).map(drop)
    }

    /// Has the thread read this group from now on.
    pub(super) fn change_to(&self, group: Group) {
        self.shared.inbox().next = Some(group);
        // The counter of an eventfd overflows at 2^64.
        let _ = self.shared.bell.write(1);
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.shared.inbox().ends = true;
        let _ = self.shared.bell.write(1);
    }
}

fn run(shared: &Shared) {
    let mut group: Option<Group> = None;
    let mut buffer = Vec::new();
    let mut faces = Faces::default();
    let (mut idle, mut pause, mut last) = (0, FASTEST, Instant::now());
    loop {
        wait(shared, group.as_ref());
        let _ = shared.bell.read();
        let (next, ends) = {
            let mut inbox = shared.inbox();
            (inbox.next.take(), inbox.ends)
        };
        if ends {
            return;
        }
        // What the old one still has is of the time before the new one was made.
        let news = group.as_ref().is_none_or(|group| drain(group, &mut buffer, &mut faces, shared));
        let changes = next.is_some();
        group = next.or(group);
        if news || changes || last.elapsed() > CALM {
            (idle, pause) = (0, FASTEST);
        } else if idle < PATIENT {
            idle += 1;
        } else {
            std::thread::sleep(pause);
            pause = (pause * 2).min(SLOWEST);
        }
        last = Instant::now();
    }
}

fn wait(shared: &Shared, group: Option<&Group>) {
    let own = PollFd::new(std::os::fd::AsFd::as_fd(&shared.bell), PollFlags::POLLIN);
    let theirs = group.into_iter().flat_map(Group::descriptors).map(|fd| PollFd::new(fd, PollFlags::POLLIN));
    let mut all: Vec<PollFd<'_>> = std::iter::once(own).chain(theirs).collect();
    // A signal is for another thread; the next look at the descriptors tells.
    let _ = poll(&mut all, PollTimeout::NONE);
}

/// Reads all that is there, up to a bound; whether something new came of it.
fn drain(group: &Group, buffer: &mut Vec<u8>, faces: &mut Faces, shared: &Shared) -> bool {
    let mut news = false;
    for _ in 0..MOST_READS {
        match read(group, buffer, faces, shared) {
            Some(new) => news |= new,
            None => return news,
        }
    }
    news
}

/// Reads once. `None`: there was nothing; else whether something new came of it.
fn read(group: &Group, buffer: &mut Vec<u8>, faces: &mut Faces, shared: &Shared) -> Option<bool> {
    let batch = group.read(buffer)?;
    let mut news = false;
    for event in batch.events {
        news |= take(group, event, faces, shared);
    }
    if batch.overflow {
        let mut inbox = shared.inbox();
        inbox.overflows += 1;
        inbox.note_everything();
        news = true;
    }
    if news {
        shared.notify.notify_one();
    }
    Some(news)
}

fn take(group: &Group, event: Event, faces: &mut Faces, shared: &Shared) -> bool {
    let own = event.pid == Some(std::process::id());
    if event.strange {
        let mut inbox = shared.inbox();
        inbox.strange = inbox.strange.saturating_add(1);
        if !own {
            inbox.note_everything();
        }
        inbox.note_moved();
        return true;
    }
    let named = event.directories.iter().map(|at| group.index.meaning(*at, &event.name, event.moved));
    let itself = event.itself.iter().map(|path| group.index.itself(path));
    let meanings: Vec<Meaning> = named.chain(itself).filter(|meaning| *meaning != Meaning::Nothing).collect();
    if own {
        let moved = meanings.iter().any(|meaning| matches!(meaning, Meaning::Moved(_)));
        return moved && shared.inbox().note_moved();
    }
    if meanings.is_empty() {
        if event.moved
            && let Some(pid) = event.pid
        {
            faces.glance(pid);
        }
        return false;
    }
    // Looked up only for what matters, at once, and without holding anybody up.
    let who = event.pid.map(|pid| faces.of(pid));
    let mut inbox = shared.inbox();
    inbox.strange = 0;
    let mut news = false;
    for meaning in meanings {
        match meaning {
            Meaning::Nothing => {}
            Meaning::Touched(resource) => news |= inbox.note(resource, who.clone()),
            Meaning::Moved(below) => {
                news |= inbox.note_moved();
                match below {
                    Some(below) => below.into_iter().for_each(|resource| news |= inbox.note(resource, who.clone())),
                    None => inbox.note_everything(),
                }
            }
        }
    }
    news
}

/// Processes that were looked at a moment ago: one that makes a temporary file beside ours is likely to rename it over ours and be gone.
#[derive(Debug, Default)]
struct Faces(HashMap<u32, (Instant, Actor)>);

impl Faces {
    const KEPT: usize = 16;
    /// In less time no number is given to another process.
    const FRESH: Duration = Duration::from_millis(500);

    /// Looks at a process ahead of time; not at more of them than are kept, so that a busy folder costs next to nothing.
    fn glance(&mut self, pid: u32) {
        self.0.retain(|_, (at, _)| at.elapsed() < Self::FRESH);
        if self.0.len() < Self::KEPT && !self.0.contains_key(&pid) {
            self.0.insert(pid, (Instant::now(), who::actor(pid)));
        }
    }

    /// Who it is; who it was a moment ago, if it is gone.
    fn of(&mut self, pid: u32) -> Actor {
        let now = who::actor(pid);
        if who::is_known(&now) {
            return now;
        }
        let before = self.0.get(&pid).filter(|(at, _)| at.elapsed() < Self::FRESH);
        before.map_or(now, |(_, actor)| actor.clone())
    }
}

fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
