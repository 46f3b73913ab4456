//! Which job goes to which member: a pure function from what is known of one pool to decisions.
//!
//! Jobs are looked at first in, first out. A waiting job takes a slot of the best member: ready before not ready yet
//! (a job may be bound while its member starts, so that a cold start costs the pod's start and nothing else), then the
//! one with the fewest builds, then the lowest ordinal.

use std::collections::BTreeMap;
use std::time::Duration;

use buildpools_crds::lifecycle::{self, reasons};
use buildpools_crds::v1alpha1::{FailureReason, JobPhase};
use jiff::{SignedDuration, Timestamp};

use super::view::{Gone, Job, Key, Member, Pool};

#[cfg(test)]
mod tests;

/// Time that a member has to start a bound job before another member, that could start it at once, gets it.
pub const START_WITHIN: Duration = Duration::from_secs(30);

/// Time that a job waits for a pool that does not exist.
pub const POOL_GRACE: Duration = Duration::from_secs(30);

/// A job that gets its slot sooner than this is not told that it waits: that would cost a write for nothing.
pub const WAIT_GRACE: Duration = Duration::from_secs(2);

/// Place in the queue: creation, then name (namespace is the same), then UID.
pub type Place = (Timestamp, String, String);

/// All that a decision about one pool may depend on.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Namespace and name of the pool.
    pub key: Key,
    /// The pool, if it exists.
    pub pool: Option<Pool>,
    /// Since when it is known not to exist.
    pub missing_since: Option<Timestamp>,
    /// Its members by pod UID, also those that are gone while a job is assigned to them.
    pub members: BTreeMap<String, Member>,
    /// Members that have just turned a job down, and until when they get no other.
    pub declined: BTreeMap<String, Timestamp>,
    /// Jobs that have not ended, first in, first out.
    pub jobs: BTreeMap<Place, Job>,
    /// Jobs about which nothing can be decided now, by UID.
    pub held: BTreeMap<String, Hold>,
}

/// Why nothing can be decided about a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hold {
    /// A write is under way.
    Writing(Claim),
    /// The job has changed since the version that is known. The watch brings the newer one.
    Outdated {
        /// That version.
        version: String,
    },
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
    /// The next that becomes free: it is in the queue or comes back there, and a younger job must not overtake it
    /// meanwhile.
    Next,
}

/// Something to write.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// The job.
    pub job: Job,
    /// What is to become of it.
    pub action: Action,
}

/// What is to become of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// A slot was found.
    Bind(lifecycle::Member),
    /// The member has not started the job and will not.
    Unbind {
        /// Why.
        why: String,
        /// To be done only if the pod is really gone: the watch may be behind.
        verify: Option<Gone>,
    },
    /// The member is gone with the build. To be done only if the pod is really gone.
    Lost(Gone),
    /// The job can never run.
    Refuse {
        /// Reason of the failure.
        reason: FailureReason,
        /// What is wrong and what to do.
        message: String,
    },
    /// The job waits.
    Wait {
        /// Reason of the condition.
        reason: &'static str,
        /// What it waits for.
        message: String,
    },
}

impl Action {
    /// What the job has of the slots while this is being written.
    pub fn claim(&self) -> Claim {
        match self {
            Self::Bind(member) => Claim::Slot(member.uid.clone()),
            Self::Unbind { .. } | Self::Lost(_) | Self::Wait { .. } => Claim::Next,
            Self::Refuse { .. } => Claim::Nothing,
        }
    }
}

/// Decisions, and when to look again even if nothing changes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Decisions, the first job first.
    pub decisions: Vec<Decision>,
    /// The next time at which time alone changes a decision.
    pub look_again: Option<Timestamp>,
}

impl Plan {
    /// Whether `when` has come; if not, it is a time to look again.
    fn reached(&mut self, when: Timestamp, now: Timestamp) -> bool {
        if when <= now {
            return true;
        }
        self.look_again = Some(self.look_again.map_or(when, |earlier| earlier.min(when)));
        false
    }

    fn decide(&mut self, job: &Job, action: Action) {
        self.decisions.push(Decision { job: job.clone(), action });
    }
}

/// Decides about every job of a pool.
pub fn schedule(snapshot: &Snapshot, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let mut slots = Slots::of(snapshot, now, &mut plan);
    for job in snapshot.jobs.values() {
        match snapshot.held.get(&job.uid) {
            Some(Hold::Writing(claim)) => {
                if *claim == Claim::Next {
                    slots.take_next();
                }
                continue;
            }
            Some(Hold::Outdated { version }) if *version == job.version => continue,
            Some(Hold::Until(when)) if !plan.reached(*when, now) => continue,
            _ => {}
        }
        match job.status.phase {
            JobPhase::Pending if job.deleting => {}
            JobPhase::Pending => pending(snapshot, job, now, &mut slots, &mut plan),
            JobPhase::Bound => bound(snapshot, job, now, &mut slots, &mut plan),
            JobPhase::Running => {
                if let Some(gone) = gone(snapshot, job) {
                    slots.take_next();
                    plan.decide(job, Action::Lost(gone));
                }
            }
            JobPhase::Succeeded | JobPhase::Failed | JobPhase::Cancelled => {}
        }
    }
    plan
}

fn pending(snapshot: &Snapshot, job: &Job, now: Timestamp, slots: &mut Slots<'_>, plan: &mut Plan) {
    let (namespace, name) = &snapshot.key;
    let Some(pool) = &snapshot.pool else {
        let message = format!(
            "there is no BuildPool \"{name}\" in namespace \"{namespace}\"; a BuildJob can use only pools of its own \
             namespace: create the pool there or correct spec.poolRef.name"
        );
        let since = snapshot.missing_since.map_or(job.created, |since| since.max(job.created));
        if plan.reached(after(since, POOL_GRACE), now) {
            plan.decide(job, Action::Refuse { reason: FailureReason::PoolNotFound, message });
        } else {
            wait(job, reasons::POOL_NOT_FOUND, message, now, plan);
        }
        return;
    };
    if pool.deleting {
        wait(job, reasons::POOL_NOT_READY, format!("BuildPool \"{name}\" is being deleted"), now, plan);
        return;
    }
    if let Some(timeout) = job.timeout.filter(|timeout| *timeout > pool.max_build_duration) {
        let message = format!(
            "spec.timeout ({}) is longer than spec.maxBuildDuration ({}) of BuildPool \"{name}\": ask for less time, or \
             for a pool that gives more",
            text(timeout),
            text(pool.max_build_duration)
        );
        plan.decide(job, Action::Refuse { reason: FailureReason::PolicyDenied, message });
        return;
    }
    match slots.best(|_| true) {
        Some(member) => {
            slots.take(&member.uid);
            let member = lifecycle::Member { pod: member.pod.clone(), uid: member.uid.clone() };
            plan.decide(job, Action::Bind(member));
        }
        None if slots.members.is_empty() => {
            let message = format!("no member of BuildPool \"{name}\" can take builds; its condition Ready says why");
            wait(job, reasons::POOL_NOT_READY, message, now, plan);
        }
        None => {
            let message = format!("all slots of BuildPool \"{name}\" are taken");
            wait(job, reasons::WAITING_FOR_SLOT, message, now, plan);
        }
    }
}

fn bound(snapshot: &Snapshot, job: &Job, now: Timestamp, slots: &mut Slots<'_>, plan: &mut Plan) {
    if let Some(gone) = gone(snapshot, job) {
        slots.take_next();
        plan.decide(job, Action::Unbind { why: gone.message.clone(), verify: Some(gone) });
        return;
    }
    let Some(member) = job.status.assigned_to.as_ref().and_then(|uid| snapshot.members.get(uid)) else { return };
    if member.leaving {
        slots.take_next();
        let why = format!("pod {} is stopping", member.pod);
        plan.decide(job, Action::Unbind { why, verify: None });
        return;
    }
    let since = job.status.timing.bound_at.as_ref().map_or(job.created, |time| time.0);
    if !plan.reached(after(since, START_WITHIN), now) {
        return;
    }
    if let Some(other) = slots.best(|other| other.ready && other.uid != member.uid) {
        // The slot is kept for the job: it comes back as the first of those that wait.
        slots.take(&other.uid);
        let why = format!("pod {} did not start the build within {}", member.pod, text(START_WITHIN));
        plan.decide(job, Action::Unbind { why, verify: None });
    }
}

/// Whether the pod that a job is assigned to is gone.
fn gone(snapshot: &Snapshot, job: &Job) -> Option<Gone> {
    let uid = job.status.assigned_to.as_ref()?;
    match snapshot.members.get(uid) {
        Some(member) => member.gone.clone(),
        None => Some(Gone::absent(job.status.member.as_deref().unwrap_or(uid))),
    }
}

fn wait(job: &Job, reason: &'static str, message: String, now: Timestamp, plan: &mut Plan) {
    let lost = job.status.attempts.last().and_then(|attempt| attempt.finished_at.as_ref());
    let queued = lost.map_or(job.created, |time| time.0.max(job.created));
    let waiting = lifecycle::Waiting { reason, message: &message, pool: Some(&job.pool), position: None };
    if lifecycle::wait(&job.status, &waiting, now).is_some() && plan.reached(after(queued, WAIT_GRACE), now) {
        plan.decide(job, Action::Wait { reason, message });
    }
}

/// Free slots of the members that may get builds.
struct Slots<'a> {
    members: BTreeMap<&'a str, Slot<'a>>,
}

struct Slot<'a> {
    member: &'a Member,
    free: usize,
    builds: usize,
    closed: bool,
}

impl<'a> Slots<'a> {
    fn of(snapshot: &'a Snapshot, now: Timestamp, plan: &mut Plan) -> Self {
        let capacity = snapshot.pool.as_ref().map_or(0, |pool| pool.builds_per_member);
        let mut slots = Self { members: BTreeMap::new() };
        for (uid, member) in &snapshot.members {
            if member.leaving || member.gone.is_some() {
                continue;
            }
            let closed = snapshot.declined.get(uid).is_some_and(|until| !plan.reached(*until, now));
            slots.members.insert(uid, Slot { member, free: capacity, builds: 0, closed });
        }
        for job in snapshot.jobs.values() {
            let assigned = match job.status.phase {
                JobPhase::Bound | JobPhase::Running => job.status.assigned_to.as_deref(),
                _ => None,
            };
            let reserved = match snapshot.held.get(&job.uid) {
                Some(Hold::Writing(Claim::Slot(uid))) => Some(uid.as_str()),
                _ => None,
            };
            if let Some(uid) = assigned.or(reserved) {
                slots.take(uid);
            }
        }
        slots
    }

    fn take(&mut self, uid: &str) {
        if let Some(slot) = self.members.get_mut(uid) {
            slot.free = slot.free.saturating_sub(1);
            slot.builds += 1;
        }
    }

    fn take_next(&mut self) {
        if let Some(member) = self.best(|_| true) {
            self.take(&member.uid);
        }
    }

    fn best(&self, may: impl Fn(&Member) -> bool) -> Option<&'a Member> {
        self.members
            .values()
            .filter(|slot| slot.free > 0 && !slot.closed && may(slot.member))
            .min_by_key(|slot| (!slot.member.ready, slot.builds, slot.member.ordinal))
            .map(|slot| slot.member)
    }
}

fn after(time: Timestamp, duration: Duration) -> Timestamp {
    time.saturating_add(duration).unwrap_or(Timestamp::MAX)
}

/// `1h 30m`.
fn text(duration: Duration) -> String {
    SignedDuration::try_from(duration).map_or_else(|_| format!("{duration:?}"), |duration| format!("{duration:#}"))
}
