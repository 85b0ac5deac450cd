//! Sweeps: one experiment at many places, each of which must end well.
//!
//! A sample of the places is tried unless `TRIMTAB_SWEEP=all` asks for every one (`tests/run sweep`). All are tried even when some fail:
//! the list of the failures says what they have in common.

use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};

/// More failures than this are only counted.
const TOLD: usize = 12;

/// Whether every place is to be tried.
#[must_use]
pub fn all() -> bool {
    std::env::var_os("TRIMTAB_SWEEP").is_some_and(|value| value == "all")
}

/// The places of `1..=total` to try: all of them, or about `sample` with the first and the last among them.
#[must_use]
pub fn spaced(total: usize, sample: usize) -> Vec<usize> {
    if all() || total <= sample {
        return (1..=total).collect();
    }
    let steps = sample.max(2) - 1;
    (0..=steps).map(|step| 1 + step * (total - 1) / steps).collect()
}

/// Of these cases, all of them or about `sample`.
#[must_use]
pub fn pick<T>(cases: Vec<T>, sample: usize) -> Vec<T> {
    let wanted = spaced(cases.len(), sample);
    let chosen = cases.into_iter().enumerate().filter(|(at, _)| wanted.contains(&(at + 1)));
    chosen.map(|(_, case)| case).collect()
}

/// Tries every case, on two threads, and says how many there were.
///
/// # Panics
/// When one did not end well, after all were tried, with what was wrong.
pub fn sweep<T: Display + Sync>(what: &str, cases: &[T], attempt: impl Fn(&T) -> Result<(), String> + Sync) {
    let (next, failures) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || {
        while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
            let ended = catch_unwind(AssertUnwindSafe(|| attempt(case)));
            let wrong = match ended {
                Ok(Ok(())) => continue,
                Ok(Err(wrong)) => wrong,
                Err(panic) => panic.downcast_ref::<String>().cloned().unwrap_or_else(|| "a panic, told above".to_owned()),
            };
            failures.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{case}: {wrong}"));
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(work);
        scope.spawn(work);
    });
    let failures = failures.into_inner().unwrap_or_else(PoisonError::into_inner);
    assert!(!cases.is_empty(), "{what}: there was no place to try");
    eprintln!("{what}: {} places, {} failed", cases.len(), failures.len());
    let told: Vec<&str> = failures.iter().take(TOLD).map(String::as_str).collect();
    assert!(failures.is_empty(), "{what}: {} of {} places failed, such as\n{}", failures.len(), cases.len(), told.join("\n\n"));
}
