//! Which job goes to which member: a pure function from what is known of one pool to decisions.
//!
//! | step | where |
//! |---|---|
//! | single jobs that have changed, or whose time has come: cancelled, refused | [`pending`] |
//! | jobs that have a slot: lost with their pod, not started | [`assigned`] |
//! | free slots: whose turn it is, and where it goes | [`order`], [`placement`] |
//! | what waiting jobs are told | [`notice`] |
//!
//! A job may be bound while its member starts, so that a cold start costs the pod's start and nothing else.

mod assigned;
mod explain;
mod notice;
pub mod order;
mod pending;
pub mod placement;
pub mod retry;
mod slots;
mod snapshot;
pub mod usage;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use buildpools_crds::lifecycle::{self, Policy};
use buildpools_crds::v1alpha1::{Attempt, FailureReason};
use jiff::{SignedDuration, Timestamp};

pub use self::assigned::START_WITHIN;
pub use self::notice::{Notices, TELL_AGAIN, WAIT_GRACE};
pub use self::pending::POOL_GRACE;
use self::pending::Verdict;
use self::slots::Slots;
use self::snapshot::Entry;
pub use self::snapshot::Snapshot;
use super::job::Job;
use super::view::Gone;

#[cfg(test)]
mod figures;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

/// Time by which the kubelet's word for the end of a daemon may be later than the runner's.
const OUT_OF_MEMORY_MARGIN: Duration = Duration::from_secs(30);

/// Why nothing can be decided about a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hold {
    /// A write is under way.
    Writing(Claim),
    /// The job has changed since the version that is known. The watch brings the newer one.
    Outdated,
    /// The last write failed.
    Until(Timestamp),
}

/// What a job has of the members' slots while a write about it is under way, beside what its status says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// Nothing.
    Nothing,
    /// A slot of the pod with this UID.
    Slot(String),
    /// One that is free: it comes back to the queue, and a younger job must not overtake it meanwhile.
    Next,
    /// Its turn in the queue.
    Turn,
}

/// Something to write.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// The job.
    pub job: Job,
    /// What is to become of it.
    pub action: Action,
    /// Why, in one word.
    pub reason: &'static str,
}

/// What is to become of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// A slot was found.
    Bind {
        /// Name of the pool.
        pool: String,
        /// Where.
        member: lifecycle::Member,
        /// What is known now of the last attempt: it ran out of memory.
        amend: Option<String>,
    },
    /// The member has not started the job and will not.
    Unbind {
        /// Why.
        why: String,
        /// To be done only if the pod is really gone: the watch may be behind.
        verify: Option<Gone>,
    },
    /// The member is gone with the build. To be done only if the pod is really gone.
    Lost {
        /// Why it is gone.
        gone: Gone,
        /// What follows.
        policy: Policy,
    },
    /// The job can never run, or may not wait any longer.
    Refuse {
        /// Reason of the failure.
        reason: FailureReason,
        /// What is wrong and what to do.
        message: String,
        /// What is known now of the last attempt: it ran out of memory.
        amend: Option<String>,
    },
    /// The node of a running build is not heard of any more, or is again.
    Node {
        /// What the job is told; `None` when the node is heard of.
        unreachable: Option<String>,
    },
    /// The job is to be cancelled, and no build of it runs.
    Cancel {
        /// What it was doing.
        message: String,
    },
    /// The job waits.
    Wait {
        /// Reason of the condition.
        reason: &'static str,
        /// What it waits for.
        message: String,
        /// The pool that it waits for, if there is one.
        pool: Option<String>,
        /// Its place in the queue there, from 1.
        position: Option<i32>,
    },
}

impl Action {
    /// What the job has of the slots while this is being written.
    pub fn claim(&self) -> Claim {
        match self {
            Self::Bind { member, .. } => Claim::Slot(member.uid.clone()),
            Self::Unbind { .. } => Claim::Next,
            Self::Wait { .. } => Claim::Turn,
            Self::Refuse { .. } | Self::Cancel { .. } | Self::Lost { .. } | Self::Node { .. } => Claim::Nothing,
        }
    }

    /// One word for it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Bind { .. } => "Bind",
            Self::Unbind { .. } => "Unbind",
            Self::Lost { .. } => "Lost",
            Self::Refuse { .. } => "Refuse",
            Self::Cancel { .. } => "Cancel",
            Self::Node { .. } => "Node",
            Self::Wait { .. } => "Wait",
        }
    }
}

/// Decisions, and when to look again even if nothing changes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Decisions.
    pub decisions: Vec<Decision>,
    /// The next time at which time alone changes a decision.
    pub look_again: Option<Timestamp>,
    /// Jobs that were looked at one by one, and when to do that again.
    pub looked: Vec<(Arc<str>, Option<Timestamp>)>,
    /// The waiting jobs were told about their places.
    pub round: Option<Notices>,
    decided: HashSet<Arc<str>>,
}

impl Plan {
    /// Whether `when` has come; if not, it is a time to look again.
    fn reached(&mut self, when: Timestamp, now: Timestamp) -> bool {
        if when <= now {
            return true;
        }
        self.look_again = earlier(self.look_again, Some(when));
        false
    }

    fn decide(&mut self, decision: Decision) {
        self.decided.insert(decision.job.uid.clone());
        self.decisions.push(decision);
    }

    fn is_decided(&self, uid: &str) -> bool {
        self.decided.contains(uid)
    }
}

/// Decides about a pool. Costs as much as the jobs that have a slot, those that get one and those whose time has come.
pub fn schedule(snapshot: &Snapshot, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    look_at_single_jobs(snapshot, now, &mut plan);
    let mut slots = Slots::of(snapshot, now, &mut plan);
    for entry in snapshot.assigned_entries() {
        match snapshot.held.get(&entry.job.uid) {
            Some(Hold::Writing(Claim::Next)) => {
                slots.find(&entry.job, false);
            }
            Some(_) => {}
            None if plan.is_decided(&entry.job.uid) => {}
            None => assigned::keep(snapshot, &entry.job, now, &mut slots, &mut plan),
        }
    }
    if !snapshot.queue.is_empty() {
        let ledger = snapshot.ledger(now);
        let mut order = snapshot.queue.order(&ledger, now);
        let passed = give_slots(snapshot, &mut order, &mut slots, &mut plan);
        notice::tell(snapshot, passed, order, now, &mut plan);
    }
    if let Some(next) = snapshot.looks.iter().find(|(when, _)| *when > now) {
        plan.reached(next.0, now);
    }
    let next = plan.looked.iter().filter_map(|(_, next)| *next).min();
    plan.look_again = earlier(plan.look_again, next);
    plan
}

fn look_at_single_jobs(snapshot: &Snapshot, now: Timestamp, plan: &mut Plan) {
    for (_, uid) in snapshot.looks.iter().take_while(|(when, _)| *when <= now) {
        let free = !snapshot.held.contains_key(uid);
        let verdict = snapshot.job(uid).filter(|_| free).map(|job| (job, pending::look(snapshot, job, now)));
        let next = match verdict {
            Some((job, Verdict::End(action))) => {
                let reason = match &action {
                    Action::Refuse { reason, .. } => reason.as_str(),
                    _ => FailureReason::Cancelled.as_str(),
                };
                plan.decide(Decision { job: job.clone(), action, reason });
                None
            }
            Some((_, Verdict::Wait(next))) => next,
            // It is looked at when it is released.
            None => None,
        };
        plan.looked.push((uid.clone(), next));
    }
}

/// Gives the free slots to those whose turn it is. The jobs that were in turn and got none.
fn give_slots<'a>(
    snapshot: &'a Snapshot,
    order: &mut order::Order<'a>,
    slots: &mut Slots<'_>,
    plan: &mut Plan,
) -> Vec<&'a Entry> {
    let mut passed = Vec::new();
    while slots.any() {
        let Some(next) = order.next() else { break };
        let Some(entry) = snapshot.jobs.get(&next.place.2) else { continue };
        let job = &entry.job;
        if plan.is_decided(&job.uid) {
            continue;
        }
        let amend = out_of_memory(snapshot, job);
        let alone = job.alone() || amend.is_some();
        if let Some(message) = amend.as_ref().filter(|_| job.alone()) {
            let reason = FailureReason::OutOfMemory;
            let action = Action::Refuse { reason, message: message.clone(), amend };
            plan.decide(Decision { job: job.clone(), action, reason: reason.as_str() });
            continue;
        }
        let Some(slot) = slots.find(job, alone) else {
            passed.push(entry);
            continue;
        };
        if snapshot.held.contains_key(&job.uid) {
            // It is being told that it waits. The slot stays free until that is written.
            passed.push(entry);
            continue;
        }
        let member = lifecycle::Member { pod: slot.member.pod.clone(), uid: slot.member.uid.clone() };
        let action = Action::Bind { pool: snapshot.key.1.clone(), member, amend };
        plan.decide(Decision { job: job.clone(), action, reason: slot.reason });
    }
    passed
}

/// Whether the last attempt, of which the runner could only say that its daemon was lost, had run out of memory: with
/// cgroup v2 the kernel kills all of the daemon's container at once.
fn out_of_memory(snapshot: &Snapshot, job: &Job) -> Option<String> {
    let Attempt { pod_uid, pod, started_at, finished_at, result, .. } = job.status.attempts.last()?;
    let killed = snapshot.members.get(pod_uid)?.daemon_out_of_memory?;
    let during = started_at.0 <= killed && killed <= after(finished_at.as_ref()?.0, OUT_OF_MEMORY_MARGIN);
    (during && result.as_deref() == Some(FailureReason::DaemonLost.as_str()))
        .then(|| format!("the daemon of pod {pod} was killed for its use of memory, with all its builds"))
}

fn after(time: Timestamp, duration: Duration) -> Timestamp {
    time.saturating_add(duration).unwrap_or(Timestamp::MAX)
}

fn earlier(one: Option<Timestamp>, other: Option<Timestamp>) -> Option<Timestamp> {
    one.into_iter().chain(other).min()
}

/// `1h 30m`.
fn text(duration: Duration) -> String {
    SignedDuration::try_from(duration).map_or_else(|_| format!("{duration:?}"), |duration| format!("{duration:#}"))
}
