//! What the cluster is doing, and how long it took.

use std::time::{Duration, Instant};

/// Prints a step's duration when it is over.
#[derive(Debug)]
pub struct Step {
    what: String,
    start: Instant,
}

impl Step {
    /// Starts a step, silently.
    pub fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), start: Instant::now() }
    }

    /// Starts a step that takes long enough to be announced.
    pub fn announced(what: impl Into<String>) -> Self {
        let step = Self::new(what);
        println!("cluster: {} …", step.what);
        step
    }

    /// Prints the step with its duration.
    pub fn done(self) {
        println!("cluster: {} ({})", self.what, seconds(self.start.elapsed()));
    }
}

/// `1.2 s`.
pub fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}
