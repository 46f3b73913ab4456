//! Liveness: from every state that can be reached, all jobs can come to their end without another fault, and nothing
//! is left running.
//!
//! Stateright's `eventually` does not see cycles, such as bind and give back for ever, so this is checked as an
//! invariant: from every state a schedule that is fair to everybody is followed until all is settled. Together with
//! the finite number of states this says that every strongly fair run in which faults come to an end settles.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Mutex, PoisonError};

use crate::actions::{Action, Move};
use crate::state::{Build, Job, Object, Phase, Pod, State, Write};
use crate::{JOBS, Protocol};

/// States from which everything settles, as their fingerprints.
#[derive(Debug, Default)]
pub struct Good(Mutex<HashSet<u64>>);

/// More steps than any way to the end has.
const LONG: usize = 500;

impl Protocol {
    /// Whether all jobs can come to their end from here.
    pub fn can_settle(&self, state: &State) -> bool {
        let mut way = Vec::new();
        let mut current = state.clone();
        let mut actions = Vec::new();
        loop {
            let mut hasher = DefaultHasher::new();
            current.hash(&mut hasher);
            let fingerprint = hasher.finish();
            let mut good = self.good.0.lock().unwrap_or_else(PoisonError::into_inner);
            // What is broken on the way is told by its invariant.
            let settled = current.jobs == [Job::ABSENT; JOBS] || current.broken.is_some();
            if settled || good.contains(&fingerprint) {
                good.extend(way);
                return true;
            }
            drop(good);
            way.push(fingerprint);
            actions.clear();
            self.possible(&current, &mut actions);
            let next = actions
                .iter()
                .filter_map(|action| Some((self.urgency(&current, *action)?, action)))
                .min_by_key(|(urgency, _)| *urgency);
            match next {
                Some((_, action)) if way.len() < LONG => current = self.after(&current, *action),
                _ => return false,
            }
        }
    }

    /// Who comes first in a schedule without faults; `None` for what need not happen.
    fn urgency(&self, state: &State, action: Action) -> Option<u8> {
        let usable = |pod: Pod| match pod {
            Pod::Replaced => false,
            Pod::Of(name) => {
                let member = &state.members[usize::from(name)];
                member.object == Object::Present && member.up && !member.used
            }
        };
        let free = |pod: Pod| state.jobs.iter().filter(|job| job.pod == Some(pod)).count() < self.bounds.slots;
        Some(match action {
            Action::Deliver(..) => 0,
            Action::Heal(_) | Action::KubeletKills(_) | Action::Replace(_) | Action::Drained(_) | Action::Retire(_) => {
                1
            }
            Action::Runner(Move::Take, ..) => 5,
            Action::Runner(Move::Return, ..) => 6,
            Action::Runner(..) => 2,
            Action::Cut(..) => 3,
            Action::Finish(job, member) => match state.jobs[usize::from(job)].builds[usize::from(member)] {
                Build::Active { client: true, .. } => 3,
                _ => return None,
            },
            Action::Decide(_, Write::Lost | Write::Cancel, _) => 4,
            Action::Decide(_, Write::Unbind, pod) if !usable(pod) => 4,
            Action::Decide(job, Write::Bind, pod)
                if usable(pod) && free(pod) && state.jobs[usize::from(job)].phase == Phase::Pending =>
            {
                7
            }
            _ => return None,
        })
    }
}
