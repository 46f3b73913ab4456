//! What the process waits for before it can do its work, told truthfully at `/readyz`.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;

type Gates = BTreeMap<&'static str, Option<String>>;

/// All gates of the process. It is ready when every gate is open.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<watch::Sender<Gates>>);

/// One thing that the process waits for.
#[derive(Clone, Debug)]
pub struct Gate {
    readiness: Readiness,
    name: &'static str,
}

impl Readiness {
    /// A gate that is closed for now.
    pub fn gate(&self, name: &'static str, why: &str) -> Gate {
        self.set(name, Some(why.to_owned()));
        Gate { readiness: self.clone(), name }
    }

    /// Gates that are closed, and why.
    pub fn pending(&self) -> Vec<String> {
        let gates = self.0.borrow();
        gates.iter().filter_map(|(name, why)| why.as_ref().map(|why| format!("{name}: {why}"))).collect()
    }

    /// Returns why it was closed before.
    fn set(&self, name: &'static str, why: Option<String>) -> Option<String> {
        let mut before = None;
        self.0.send_modify(|gates| before = gates.insert(name, why).flatten());
        before
    }
}

impl Gate {
    /// It is there. Returns whether it was not before.
    pub fn open(&self) -> bool {
        self.readiness.set(self.name, None).is_some()
    }

    /// It is missing.
    pub fn close(&self, why: &str) {
        self.readiness.set(self.name, Some(why.to_owned()));
    }

    /// Waits until it is open.
    pub async fn opened(&self) {
        let mut gates = self.readiness.0.subscribe();
        // The sender lives as long as the gate: this cannot fail.
        let _ = gates.wait_for(|gates| gates.get(self.name).is_some_and(Option::is_none)).await;
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

    #[tokio::test]
    async fn a_gate_can_be_waited_for() {
        let readiness = Readiness::default();
        let (a, b) = (readiness.gate("a", "not yet"), readiness.gate("b", "not yet"));
        let waiting = tokio::spawn({
            let a = a.clone();
            async move { a.opened().await }
        });
        b.open();
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        a.open();
        waiting.await.unwrap();
        a.opened().await;
    }
}
