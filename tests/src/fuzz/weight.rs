//! How much memory a call holds and how much processor time it takes.
//!
//! Guarantees: only the calling thread is weighed. Limits: memory is seen only in a program that declares [`Scale`] as its allocator
//! ([`is_live`] says so).

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;

/// How much longer than a release build this one may take. The engine's build counts every edge and checks every assertion.
pub const SLOWNESS: u32 = if cfg!(fuzzing) {
    8
} else if cfg!(debug_assertions) {
    10
} else {
    1
};

thread_local! {
    static LIVE: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

/// The system's allocator, counted.
#[derive(Debug)]
pub struct Scale;

fn put(change: isize) {
    let _ = LIVE.try_with(|live| {
        live.set(live.get() + change);
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(live.get())));
    });
}

fn size(layout: Layout) -> isize {
    isize::try_from(layout.size()).unwrap_or(isize::MAX)
}

#[allow(unsafe_code)] // there is no other way to count what is allocated; all calls are handed on as they are
unsafe impl GlobalAlloc for Scale {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        put(size(layout));
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        put(-size(layout));
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        put(size(layout));
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, new: usize) -> *mut u8 {
        put(isize::try_from(new).unwrap_or(isize::MAX) - size(layout));
        unsafe { System.realloc(at, layout, new) }
    }
}

/// Whether memory is counted in this program.
pub fn is_live() -> bool {
    weigh(|| drop(std::hint::black_box(Vec::<u8>::with_capacity(1000)))).0 >= 1000
}

/// Calls it: the most bytes that it held at once beyond what was there before, and the processor time it took.
pub fn weigh(call: impl FnOnce()) -> (usize, Duration) {
    let before = LIVE.get();
    PEAK.set(before);
    let start = spent();
    call();
    let time = spent().saturating_sub(start);
    (usize::try_from(PEAK.get() - before).unwrap_or(0), time)
}

/// The processor time of this thread so far. Not the time on the wall: other programs of a busy machine are nobody's fault.
fn spent() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_THREAD).expect("because every thread may ask for its own");
    let time = |value: TimeVal| {
        let micros = value.tv_sec() * 1_000_000 + value.tv_usec();
        Duration::from_micros(u64::try_from(micros).unwrap_or(0))
    };
    time(usage.user_time()) + time(usage.system_time())
}
