//! When to try a sink again: pure, the random part is given.
//!
//! Full jitter (each pause is drawn from nothing to the whole span): ten thousand devices whose receiver comes back are spread over the span
//! they had grown to, and do not come at once.

use std::time::Duration;

/// The least pause.
const LEAST: Duration = Duration::from_secs(1);
/// The longest span after failures that may pass by themselves.
const LONGEST: Duration = Duration::from_secs(900);
/// Likewise after those that want a change, here or there; also the longest that a receiver may ask for.
const LONGEST_LASTING: Duration = Duration::from_secs(3600);
/// The first span after those.
const FIRST_LASTING: Duration = Duration::from_secs(60);
/// Over so long the first attempts of agents that start with full spools are spread.
pub(super) const START: Duration = Duration::from_secs(20);

/// How long to leave a sink alone after it failed so often in a row (1: the first time). `draw` is from 0 up to, not including, 1.
pub(super) fn pause(failures: u32, lasting: bool, retry_after: Option<Duration>, draw: f64) -> Duration {
    let (first, longest) = if lasting { (FIRST_LASTING, LONGEST_LASTING) } else { (LEAST, LONGEST) };
    let span = first.saturating_mul(1 << failures.min(16)).min(longest);
    let drawn = span.mul_f64(draw).max(LEAST);
    match retry_after {
        // Never before it asked for, and not all at the moment that it named.
        Some(asked) => drawn.max(asked.min(LONGEST_LASTING).mul_f64(1.0 + draw / 4.0)),
        None => drawn,
    }
}

/// A heartbeat's pause: a tenth more or less, so that a fleet that was started at once does not beat at once.
pub(super) fn beat(every: Duration, draw: f64) -> Duration {
    every.mul_f64(0.9 + draw / 5.0)
}

/// After so many milliseconds it came.
pub(super) fn latest_beat(every: Duration) -> u64 {
    u64::try_from(beat(every, 1.0).as_millis()).unwrap_or(u64::MAX)
}

/// A number from 0 up to, not including, 1.
pub(super) fn draw() -> f64 {
    let mut bytes = [0; 4];
    let random = ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes);
    if random.is_err() { 0.5 } else { f64::from(u32::from_be_bytes(bytes)) / 4_294_967_296.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_are_bounded_and_are_drawn_from_the_whole_span() {
        let seconds =
            |failures, lasting, after: Option<u64>, draw| pause(failures, lasting, after.map(Duration::from_secs), draw).as_secs();
        assert_eq!([1, 2, 3, 9, 10, 40].map(|n| seconds(n, false, None, 0.999)), [1, 3, 7, 511, 899, 899]);
        assert_eq!([1, 2, 6, 40].map(|n| seconds(n, true, None, 0.5)), [60, 120, 1800, 1800]);
        assert_eq!(seconds(40, false, None, 0.0), 1);
        // A receiver may ask for more than that, but not for ever, and never gets less.
        assert_eq!((seconds(1, false, Some(120), 0.0), seconds(1, false, Some(120), 0.8)), (120, 144));
        assert!(seconds(1, false, Some(u64::MAX / 4), 0.999) <= 4500);
        assert_eq!((beat(Duration::from_secs(100), 0.0).as_secs(), beat(Duration::from_secs(100), 0.999).as_secs()), (90, 109));
    }

    #[test]
    fn a_fleet_that_comes_back_is_spread_over_the_span() {
        // Ten thousand devices after a long outage: no second of the fifteen minutes sees more than a few dozen of them.
        let mut seconds = [0_u32; 901];
        for _ in 0..10_000 {
            let at = pause(30, false, None, draw()).as_secs();
            seconds[usize::try_from(at).unwrap()] += 1;
        }
        assert!(seconds.iter().all(|devices| *devices < 60), "{seconds:?}");
    }
}
