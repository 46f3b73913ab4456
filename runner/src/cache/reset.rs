//! When the cache is emptied because `spec.cache.reset` asks for it. Pure.

use std::time::Duration;

/// How long a reset waits for a moment without builds. Then no build begins until those that run have ended.
pub const PATIENCE: Duration = Duration::from_mins(10);

/// What is known.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// The volume has seen this reset.
    pub done: bool,
    /// There was nothing in the cache when this runner began.
    pub new_volume: bool,
    /// The pool asked for it already when this runner began.
    pub initial: bool,
    /// Builds that run.
    pub builds: usize,
    /// How long the reset has waited.
    pub waited: Duration,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Nothing,
    /// There is nothing to empty: note that it is done.
    Note,
    /// Wait for the builds that run.
    Wait,
    /// Wait for the builds that run, and let no other begin.
    Hold,
    /// Empty it.
    Empty,
}

/// Decides about a reset that the pool asks for.
pub fn next(facts: Facts) -> Step {
    match facts {
        Facts { done: true, .. } => Step::Nothing,
        Facts { new_volume: true, initial: true, .. } => Step::Note,
        Facts { builds: 0, .. } => Step::Empty,
        Facts { waited, .. } if waited >= PATIENCE => Step::Hold,
        _ => Step::Wait,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reset_happens_once_and_without_builds() {
        let facts = Facts { done: false, new_volume: false, initial: true, builds: 0, waited: Duration::ZERO };
        for (facts, expected) in [
            (facts, Step::Empty),
            (Facts { done: true, ..facts }, Step::Nothing),
            (Facts { builds: 1, ..facts }, Step::Wait),
            (Facts { builds: 1, waited: PATIENCE, ..facts }, Step::Hold),
            (Facts { waited: PATIENCE, ..facts }, Step::Empty),
            // A pool that is created with the field does not begin with a reset, whatever its first build has left.
            (Facts { new_volume: true, builds: 1, ..facts }, Step::Note),
            // Later, it is a reset like any other.
            (Facts { new_volume: true, initial: false, ..facts }, Step::Empty),
        ] {
            assert_eq!(next(facts), expected, "{facts:?}");
        }
    }
}
