//! Jobs that have a slot: whether they keep it.

use std::time::Duration;

use buildpools_crds::buildkit;
use buildpools_crds::v1alpha1::JobPhase;
use jiff::Timestamp;

use super::slots::Slots;
use super::snapshot::Snapshot;
use super::{Action, Decision, Plan, after, text};
use crate::dispatch::job::Job;
use crate::dispatch::nodes::{self, Standing};
use crate::dispatch::view::{Closed, Gone, Member};

/// Time that a member has to start a bound job before another member, that could start it at once, gets it.
pub const START_WITHIN: Duration = Duration::from_secs(30);

/// Looks at one job that is Bound or Running.
pub(super) fn keep(snapshot: &Snapshot, job: &Job, now: Timestamp, slots: &mut Slots<'_>, plan: &mut Plan) {
    match job.status.phase {
        JobPhase::Bound => bound(snapshot, job, now, slots, plan),
        JobPhase::Running => running(snapshot, job, plan),
        _ => {}
    }
}

fn running(snapshot: &Snapshot, job: &Job, plan: &mut Plan) {
    if let Some(gone) = gone(snapshot, job) {
        let reason = gone.reason.as_str();
        let action = Action::Lost { gone, policy: job.policy(snapshot.pool.as_ref()) };
        plan.decide(Decision { job: job.clone(), action, reason });
    } else if let Some(unreachable) = member(snapshot, job).and_then(|member| nodes::news(job, member)) {
        let reason = if unreachable.is_some() { "NodeUnreachable" } else { "NodeReachable" };
        plan.decide(Decision { job: job.clone(), action: Action::Node { unreachable }, reason });
    }
}

fn bound(snapshot: &Snapshot, job: &Job, now: Timestamp, slots: &mut Slots<'_>, plan: &mut Plan) {
    let mut unbind = |why: String, verify: Option<Gone>, reason: &'static str| {
        // It comes back as one of those that wait, and nobody is to be faster meanwhile.
        slots.find(job, false);
        plan.decide(Decision { job: job.clone(), action: Action::Unbind { why, verify }, reason });
    };
    if let Some(gone) = gone(snapshot, job) {
        return unbind(gone.message.clone(), Some(gone), "MemberGone");
    }
    let Some(member) = member(snapshot, job) else { return };
    if member.leaving {
        return unbind(format!("pod {} is stopping", member.pod), None, "MemberLeaving");
    }
    if let Some(closed) = &member.closed {
        let why = match closed {
            Closed::Draining => format!("pod {} is to be replaced", member.pod),
            Closed::TooOld(version) => {
                format!("BuildKit {version} of pod {} is older than v{}", member.pod, buildkit::MINIMUM)
            }
        };
        return unbind(why, None, closed.reason());
    }
    if member.standing == Standing::Unreachable {
        return unbind(format!("node {} of pod {} is not heard of", member.node, member.pod), None, "NodeUnreachable");
    }
    let since = job.status.timing.bound_at.as_ref().map_or(job.created, |time| time.0);
    let late = after(since, START_WITHIN);
    if let Some(most) = job.may_wait(snapshot.pool.as_ref()) {
        let end = after(job.queued(), most);
        let end = if member.ready { end.max(late) } else { end };
        if plan.reached(end, now) {
            let why = format!("pod {} did not start the build within {} (queueTimeout)", member.pod, text(most));
            plan.decide(Decision { job: job.clone(), action: Action::Unbind { why, verify: None }, reason: "Timeout" });
            return;
        }
    }
    if !plan.reached(late, now) {
        return;
    }
    if let Some(other) = slots.better_than(&member.uid, job.cache_key) {
        // The slot is kept for the job.
        slots.take(&other.uid, job.alone());
        let why = format!("pod {} did not start the build within {}", member.pod, text(START_WITHIN));
        plan.decide(Decision { job: job.clone(), action: Action::Unbind { why, verify: None }, reason: "NotStarted" });
    }
}

/// Whether the pod that a job is assigned to is gone.
fn gone(snapshot: &Snapshot, job: &Job) -> Option<Gone> {
    let uid = job.status.assigned_to.as_ref()?;
    match snapshot.members.get(uid) {
        Some(member) => nodes::gone(member),
        None => Some(Gone::absent(job.status.member.as_deref().unwrap_or(uid))),
    }
}

fn member<'a>(snapshot: &'a Snapshot, job: &Job) -> Option<&'a Member> {
    snapshot.members.get(job.status.assigned_to.as_ref()?)
}
