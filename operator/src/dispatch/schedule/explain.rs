//! What would be decided now about each job that waits.

use std::collections::HashMap;

use buildpools_crds::v1alpha1::JobPhase;
use jiff::Timestamp;

use super::notice::Waiting;
use super::snapshot::{Entry, Snapshot};
use super::{Action, Decision, Hold, retry, schedule};
use crate::dispatch::explain::Explained;

impl Snapshot {
    /// The jobs that wait: first those in the queue in their order, then the others by age.
    pub fn explain(&self, now: Timestamp) -> Vec<Explained> {
        let plan = schedule(self, now);
        let decisions: HashMap<&str, &Decision> =
            plan.decisions.iter().map(|decision| (decision.job.uid.as_ref(), decision)).collect();
        let ledger = self.ledger(now);
        let queue = self.queue.order(&ledger, now).filter_map(|next| self.jobs.get(&next.place.2));
        let mut positions: HashMap<&str, i32> = HashMap::new();
        for (position, entry) in (1..).zip(queue) {
            positions.insert(&entry.job.uid, position);
        }
        let mut all: Vec<Explained> = self
            .jobs
            .values()
            .filter(|entry| entry.job.status.phase == JobPhase::Pending)
            .map(|entry| {
                let uid = entry.job.uid.as_ref();
                self.explain_one(entry, decisions.get(uid).copied(), positions.get(uid).copied(), now)
            })
            .collect();
        all.sort_by(|one, other| {
            let rank = |job: &Explained| (job.position.unwrap_or(i32::MAX), job.since);
            rank(one).cmp(&rank(other)).then_with(|| one.job.cmp(&other.job))
        });
        all
    }

    fn explain_one(
        &self,
        entry: &Entry,
        decision: Option<&Decision>,
        position: Option<i32>,
        now: Timestamp,
    ) -> Explained {
        let job = &entry.job;
        let back = retry::not_before(&job.status, &job.uid).filter(|when| *when > now);
        let (decision, reason) = match (self.held.get(&job.uid), decision, back) {
            (Some(Hold::Writing(_)), ..) => ("Write", "its status is being written".to_owned()),
            (Some(Hold::Outdated), ..) => ("Write", "it has changed, and its new version is not here yet".to_owned()),
            (Some(Hold::Until(when)), ..) => ("Write", format!("the last write failed and is tried again at {when}")),
            (None, Some(Decision { action, reason, .. }), _) => (action.name(), explain(action, reason)),
            (None, None, _) if job.deleting => ("Wait", "it is being deleted".to_owned()),
            (None, None, Some(when)) => ("BackOff", format!("the last attempt was lost; the next begins after {when}")),
            (None, None, None) => {
                let wait = Waiting::of(self, position.unwrap_or(1));
                ("Wait", format!("{}: {}", wait.reason, wait.message(self, job)))
            }
        };
        Explained {
            namespace: job.key.0.clone(),
            job: job.key.1.clone(),
            pool: self.key.1.clone(),
            group: entry.group.clone(),
            priority: job.priority,
            position,
            decision,
            reason,
            since: job.queued(),
        }
    }
}

fn explain(action: &Action, reason: &str) -> String {
    match action {
        Action::Bind { member, .. } => format!("{reason}: a slot of {}", member.pod),
        Action::Refuse { message, .. } | Action::Cancel { message } | Action::Wait { message, .. } => {
            format!("{reason}: {message}")
        }
        Action::Unbind { why, .. } => format!("{reason}: {why}"),
        Action::Lost { gone, .. } => format!("{reason}: {}", gone.message),
        Action::Node { unreachable } => format!("{reason}: {}", unreachable.as_deref().unwrap_or_default()),
    }
}
