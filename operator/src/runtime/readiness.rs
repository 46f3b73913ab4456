//! What the process waits for before it can do its work, told truthfully at `/readyz`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// All gates of the process. It is ready when every gate is open.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<Mutex<BTreeMap<&'static str, Option<String>>>>);

/// One thing that the process waits for.
#[derive(Clone, Debug)]
pub struct Gate {
    readiness: Readiness,
    name: &'static str,
}

impl Readiness {
    /// A gate that is closed for now.
    pub fn gate(&self, name: &'static str, why: &str) -> Gate {
        self.lock().insert(name, Some(why.to_owned()));
        Gate { readiness: self.clone(), name }
    }

    /// Gates that are closed, and why.
    pub fn pending(&self) -> Vec<String> {
        let gates = self.lock();
        gates.iter().filter_map(|(name, why)| why.as_ref().map(|why| format!("{name}: {why}"))).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, Option<String>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Gate {
    /// It is there. Returns whether it was not before.
    pub fn open(&self) -> bool {
        self.readiness.lock().insert(self.name, None).flatten().is_some()
    }

    /// It is missing.
    pub fn close(&self, why: &str) {
        self.readiness.lock().insert(self.name, Some(why.to_owned()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_when_every_gate_is_open() {
        let readiness = Readiness::default();
        let (a, b) = (readiness.gate("a", "not yet"), readiness.gate("b", "not yet"));
        assert!(a.open());
        assert_eq!(readiness.pending(), ["b: not yet"]);
        assert!(b.open() && !b.open());
        assert!(readiness.pending().is_empty());
        a.close("lost");
        assert_eq!(readiness.pending(), ["a: lost"]);
    }
}
