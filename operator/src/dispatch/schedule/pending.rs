//! Jobs that wait: whether they may go on waiting.

use std::time::Duration;

use buildpools_crds::v1alpha1::{FailureReason, JobPhase, WhenPoolMissing};
use jiff::Timestamp;

use super::snapshot::Snapshot;
use super::{Action, after, earlier, retry, text};
use crate::dispatch::job::{Job, Target};

/// Time that a job waits for a pool that does not exist, unless it is to wait for it.
pub const POOL_GRACE: Duration = Duration::from_secs(30);

/// What is to become of a job, whether or not there is a slot for it.
pub(super) enum Verdict {
    /// It ends.
    End(Action),
    /// It may wait, or get a slot; to be looked at again then.
    Wait(Option<Timestamp>),
}

/// Looks at one job.
pub(super) fn look(snapshot: &Snapshot, job: &Job, now: Timestamp) -> Verdict {
    match job.status.phase {
        _ if job.deleting => Verdict::Wait(None),
        JobPhase::Pending | JobPhase::Bound if job.cancel => {
            let message = if job.status.phase == JobPhase::Bound { "it had a slot" } else { "it waited" };
            Verdict::End(Action::Cancel { message: format!("{message}, and no build was started") })
        }
        JobPhase::Pending => waiting(snapshot, job, now),
        _ => Verdict::Wait(None),
    }
}

fn waiting(snapshot: &Snapshot, job: &Job, now: Timestamp) -> Verdict {
    let refuse = |reason, message| Verdict::End(Action::Refuse { reason, message, amend: None });
    let mut again = None;
    let missing = match &snapshot.pool {
        None => Some((snapshot.missing_since, FailureReason::PoolNotFound, no_pool(snapshot, job))),
        Some(pool) => {
            pool.deleting.map(|since| (Some(since), FailureReason::PoolUnavailable, pool_goes(&snapshot.key.1)))
        }
    };
    if let Some((since, reason, message)) = missing
        && job.when_pool_missing == WhenPoolMissing::Fail
    {
        let since = since.map_or(job.created, |since| since.max(job.created));
        let until = after(since, POOL_GRACE);
        if until <= now {
            return refuse(reason, message);
        }
        again = Some(until);
    }
    if let Some(pool) = &snapshot.pool
        && let Some(timeout) = job.timeout.filter(|timeout| *timeout > pool.max_build_duration)
    {
        let message = format!(
            "spec.timeout ({}) is longer than spec.maxBuildDuration ({}) of BuildPool \"{}\": ask for less time, or for a \
             pool that gives more",
            text(timeout),
            text(pool.max_build_duration),
            snapshot.key.1
        );
        return refuse(FailureReason::PolicyDenied, message);
    }
    if let Some(most) = job.may_wait(snapshot.pool.as_ref()) {
        let until = after(job.queued(), most);
        if until <= now {
            let (reason, why) = time_is_up(snapshot, job);
            return refuse(reason, format!("the build was not started within {} (queueTimeout): {why}", text(most)));
        }
        again = earlier(again, Some(until));
    }
    let back = retry::not_before(&job.status, &job.uid).filter(|when| *when > now);
    Verdict::Wait(earlier(again, back))
}

fn time_is_up(snapshot: &Snapshot, job: &Job) -> (FailureReason, String) {
    let name = &snapshot.key.1;
    match &snapshot.pool {
        None => (FailureReason::PoolUnavailable, no_pool(snapshot, job)),
        Some(pool) if pool.deleting.is_some() => (FailureReason::PoolUnavailable, pool_goes(name)),
        Some(_) if !snapshot.members.values().any(|member| member.ready && member.takes_builds()) => (
            FailureReason::PoolUnavailable,
            format!("no member of BuildPool \"{name}\" is ready; its condition Ready says why"),
        ),
        Some(_) => (FailureReason::Timeout, format!("all slots of BuildPool \"{name}\" were taken")),
    }
}

/// Why there is no pool for a job, and what to do.
pub(super) fn no_pool(snapshot: &Snapshot, job: &Job) -> String {
    let namespace = &snapshot.key.0;
    match &job.target {
        Target::Named(name) => format!(
            "there is no BuildPool \"{name}\" in namespace \"{namespace}\"; a BuildJob can use only pools of its own \
             namespace: create the pool there or correct spec.poolRef.name"
        ),
        Target::Matching(_) => format!(
            "no BuildPool in namespace \"{namespace}\" matches spec.poolSelector: label a pool there or correct the selector"
        ),
        Target::Default => format!(
            "the job names no pool, and namespace \"{namespace}\" has no default: set spec.poolRef, or annotate one of its \
             pools with {}: \"true\"",
            buildpools_crds::labels::DEFAULT_POOL
        ),
    }
}

pub(super) fn pool_goes(name: &str) -> String {
    format!("BuildPool \"{name}\" is being deleted")
}
