//! Pauses between tries.

use std::time::Duration;

use super::Refusal;

const FIRST: Duration = Duration::from_millis(50);
/// An outcome waits at most this long after the API server is back.
const LONGEST: Duration = Duration::from_secs(5);

/// Doubles from a twentieth of a second to five seconds, with jitter, so that the runners of a cluster do not come back
/// to a restarted API server at once.
#[derive(Debug)]
pub struct Backoff {
    next: Duration,
}

impl Backoff {
    /// Starts at the shortest pause.
    pub fn new() -> Self {
        Self { next: FIRST }
    }

    /// Says why, and waits. What is soon repaired is no news.
    pub async fn pause(&mut self, doing: &str, refusal: &Refusal) {
        let pause = self.next.mul_f64(rand::random_range(0.75..=1.25));
        if self.next >= Duration::from_secs(1) {
            tracing::warn!("{doing}: {refusal}; trying again in {:.1} s", pause.as_secs_f64());
        } else {
            tracing::debug!("{doing}: {refusal}; trying again");
        }
        self.next = (self.next * 2).min(LONGEST);
        tokio::time::sleep(pause).await;
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self::new()
    }
}
