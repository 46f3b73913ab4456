//! Back-off of single objects: exponential, jittered, capped, over with the first success.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Limits of a back-off.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Delay after the first failure.
    pub first: Duration,
    /// Longest delay.
    pub most: Duration,
}

/// Consecutive failures of each object.
#[derive(Debug)]
pub struct Backoff<Key> {
    limits: Limits,
    failures: Mutex<HashMap<Key, u32>>,
}

impl<Key: Hash + Eq> Backoff<Key> {
    /// Nothing has failed yet.
    pub fn new(limits: Limits) -> Self {
        Self { limits, failures: Mutex::default() }
    }

    /// One more failure: when to try again. `jitter` is from 0 to 1.
    pub fn failed(&self, key: Key, jitter: f64) -> Duration {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let count = failures.entry(key).or_default();
        let delay = delay(self.limits, *count, jitter);
        *count = count.saturating_add(1);
        delay
    }

    /// The object is well, or gone.
    pub fn reset(&self, key: &Key) {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }
}

/// The delay after so many failures before this one. Half of the exponential delay is fixed, half is chance, so that
/// objects that failed together do not come back together.
pub fn delay(limits: Limits, failures: u32, jitter: f64) -> Duration {
    let full = limits.first.saturating_mul(2_u32.saturating_pow(failures)).min(limits.most);
    full.mul_f64(0.5 + 0.5 * jitter.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { first: Duration::from_secs(1), most: Duration::from_mins(1) };

    #[test]
    fn delays_double_up_to_the_cap_and_start_again_after_success() {
        let backoff = Backoff::new(LIMITS);
        let delays: Vec<u64> = (0..8).map(|_| backoff.failed("a", 1.0).as_secs()).collect();
        assert_eq!(delays, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(backoff.failed("b", 1.0).as_secs(), 1, "objects do not share their failures");
        backoff.reset(&"a");
        assert_eq!(backoff.failed("a", 1.0).as_secs(), 1);
    }

    #[test]
    fn jitter_stays_within_half_and_whole() {
        assert_eq!(delay(LIMITS, 3, 0.0), Duration::from_secs(4));
        assert_eq!(delay(LIMITS, 3, 1.0), Duration::from_secs(8));
        assert_eq!(delay(LIMITS, u32::MAX, 0.5), Duration::from_secs(45));
    }
}
