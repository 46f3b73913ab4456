//! The model as Stateright's checker takes it.

use ::stateright::{Model, Property};

use crate::{Action, Invariant, Protocol, State};

/// Name of the property that every job can come to its end.
pub const PROGRESS: &str = "Progress";

impl Model for Protocol {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![self.start()]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        self.possible(state, actions);
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        Some(self.after(state, action))
    }

    fn properties(&self) -> Vec<Property<Self>> {
        macro_rules! invariants {
            ($($name:ident),* $(,)?) => {
                vec![$(Property::always(stringify!($name), |_: &Self, state: &State| {
                    state.broken != Some(Invariant::$name)
                })),*]
            };
        }
        let mut properties = invariants![
            OneSolve,
            OneLiveAttempt,
            Slots,
            EphemeralOnce,
            TerminalIsFinal,
            OutcomeOfThisAttempt,
            AttemptMonotone,
            OwnJobsOnly,
            NoStartAfterCancel,
            RetryBound,
        ];
        // An attacker may keep the jobs that are bound to it for ever.
        if !self.bounds.rogue {
            properties.push(Property::always(PROGRESS, |protocol: &Self, state: &State| {
                state.broken.is_some() || protocol.can_settle(state)
            }));
        }
        properties
    }
}
