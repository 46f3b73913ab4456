//! The claim protocol of BuildJobs as a model that [Stateright](https://docs.rs/stateright) explores exhaustively.
//!
//! `docs/protocol.md` tells the protocol, and what was explored. A world ([`State`]) is jobs in the API, messages in
//! flight, members with a runner and a daemon each. What can happen next is a list of [`Action`]s; [`Invariant`]s hold
//! after each of them, and from every state that can be reached, jobs come to their end without another fault.
//! Every rule can be left out ([`Protocol::without`]), to see that it is needed.

mod actions;
mod api_server;
mod effects;
mod progress;
mod rules;
mod runner;
mod state;
#[cfg(feature = "stateright")]
mod stateright;

#[cfg(feature = "stateright")]
pub use self::stateright::PROGRESS;
pub use actions::{Action, Forgery, Move};
pub use api_server::{Answer, transition, write_over};
pub use rules::{Invariant, Rule};
pub use state::{
    Build, IN_FLIGHT, JOBS, Job, MEMBERS, Member, Message, Object, Outcome, Phase, Pod, State, Task, Write,
};

use progress::Good;

/// Within which bounds everything is explored.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Jobs, at most [`JOBS`].
    pub jobs: usize,
    /// Builds that a member runs at a time.
    pub slots: usize,
    /// Whether a pod UID runs one job in its life.
    pub ephemeral: bool,
    /// How often a lost attempt is followed by another.
    pub retries: u8,
    /// Faults that may come, of any kind and at any time.
    pub faults: u8,
    /// Cancellations and deletions that may come, at any time.
    pub wishes: u8,
    /// Messages of operators in flight at a time, over all jobs. Two operators that both believe to lead are two
    /// messages; one operator that was replaced while its last write was on its way, too.
    pub in_flight: usize,
    /// What of pods that the API does not know any more and that still run.
    pub zombies: Zombies,
    /// Whether member 1 is in the hands of an attacker who writes whatever the API server lets it.
    pub rogue: bool,
}

/// Pods that the API does not know any more and that still run: somebody forced their deletion, or called their node
/// out of service while it was not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Zombies {
    /// Deletion may be forced; what zombies build does not count as live.
    Excepted,
    /// Deletion may be forced; what zombies build counts as live.
    Counted,
    /// Nobody forces a deletion; what zombies build counts as live.
    Unforced,
}

/// The protocol, with all its rules or without some.
#[derive(Debug)]
pub struct Protocol {
    bounds: Bounds,
    removed: u32,
    good: Good,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            jobs: 1,
            slots: 1,
            ephemeral: false,
            retries: 1,
            faults: 1,
            wishes: 1,
            in_flight: 2,
            zombies: Zombies::Excepted,
            rogue: false,
        }
    }
}

impl Protocol {
    /// With all its rules.
    pub fn new(bounds: Bounds) -> Self {
        Self { bounds, removed: 0, good: Good::default() }
    }

    /// The same without this rule.
    #[must_use]
    pub fn without(mut self, rule: Rule) -> Self {
        self.removed |= rule.bit();
        self
    }

    /// Whether this rule is in force.
    pub fn has(&self, rule: Rule) -> bool {
        self.removed & rule.bit() == 0
    }
}

impl Protocol {
    /// Where it begins: all jobs are new and all members ready.
    pub fn start(&self) -> State {
        let mut jobs = [Job::ABSENT; JOBS];
        jobs[..self.bounds.jobs].fill(Job::NEW);
        let state = State {
            jobs,
            members: [Member::NEW; MEMBERS],
            faults: self.bounds.faults,
            wishes: self.bounds.wishes,
            broken: None,
        };
        state.canonical(self.bounds.rogue)
    }
}
