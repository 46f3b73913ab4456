//! The life of a BuildJob: what may follow what, and what each step writes.
//!
//! ```text
//!            bind                start               finish(Succeeded)
//!  Pending ────────▶ Bound ───────────────▶ Running ─────────────────▶ Succeeded
//!   ▲  │  ◀──────────  │                    │   │  finish(Failed: the build's fault,
//!   │  │     unbind                         │   │         or no attempt left)
//!   │  └── refuse ─▶ Failed ◀───────────────┼───┘
//!   └───────────────────────────────────────┘
//!        finish(Failed: infrastructure, attempts left)
//!
//!  Pending, Bound ── cancel ──▶ Cancelled ◀── finish(Cancelled, or lost while a cancellation was wanted) ── Running
//! ```
//!
//! Every function is pure: from a status and an event to the next status. Who calls which: the operator `bind`,
//! `unbind`, `refuse`, `cancel`, `wait` and (for a member that is gone) `finish`; the runner `unbind`, `start` and `finish`. Each result
//! is written with the resourceVersion of the status it was made from, so of two writers one loses and reads again.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

use crate::conditions::{self, COMPLETE, FAILED, NODE_UNREACHABLE, RECONCILING, STALLED, Status};
use crate::names;
use crate::v1alpha1::{
    Attempt, BuildJobSpec, BuildJobStatus, BuiltImage, Failure, FailureReason, JobDefaults, JobPhase,
};

#[cfg(test)]
mod tests;

/// How often a job is built again after an infrastructure failure, if neither it nor its pool says so.
pub const INFRA_RETRIES: usize = 2;

/// What the specs of a job and of its pool say about the end of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// How often the job may be built again after an infrastructure failure.
    pub infra_retries: usize,
    /// Whether the job is to be cancelled: no attempt follows.
    pub cancel: bool,
}

impl Default for Policy {
    fn default() -> Self {
        Self { infra_retries: INFRA_RETRIES, cancel: false }
    }
}

impl Policy {
    /// What a job's spec says, and what its pool says where it says nothing.
    pub fn of(spec: &BuildJobSpec, defaults: &JobDefaults) -> Self {
        let retries = spec.infra_retries.or(defaults.infra_retries);
        let infra_retries = retries.map_or(INFRA_RETRIES, |retries| usize::try_from(retries).unwrap_or(0));
        Self { infra_retries, cancel: spec.cancel }
    }
}

/// Reasons of the condition `Reconciling`, while the job is not at its end.
pub mod reasons {
    /// No dispatcher has seen the job yet. Also the default that the API server sets.
    pub const QUEUED: &str = "Queued";
    /// All slots of the pool are taken.
    pub const WAITING_FOR_SLOT: &str = "WaitingForSlot";
    /// The pool does not exist (yet).
    pub const POOL_NOT_FOUND: &str = "PoolNotFound";
    /// The pool has no member that may take builds.
    pub const POOL_NOT_READY: &str = "PoolNotReady";
    /// A member has a slot for the job.
    pub const BOUND: &str = "Bound";
    /// The build runs.
    pub const BUILDING: &str = "Building";
    /// The last attempt was lost and another follows.
    pub const RETRYING: &str = "Retrying";
    /// The job has ended.
    pub const FINISHED: &str = "Finished";
}

/// A member that a job is bound to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Name of the pod.
    pub pod: String,
    /// UID of the pod.
    pub uid: String,
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// The build succeeded; the image, if there is an output.
    Succeeded(Option<BuiltImage>),
    /// The build failed, or was lost.
    Failed(Failure),
    /// The build was stopped because the job is to be cancelled.
    Cancelled,
    /// The build was stopped because the pool of this name is deleted, which cancels its builds.
    PoolDeleted(String),
}

/// Why a job waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting<'a> {
    /// One word.
    pub reason: &'a str,
    /// What it waits for.
    pub message: &'a str,
    /// The pool whose queue it is in.
    pub pool: Option<&'a str>,
    /// Its place there, from 1.
    pub position: Option<i32>,
}

/// An event that does not fit the status: the caller worked on an old one. Read again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransitionError {
    /// The job is in another phase.
    #[error("cannot {event} a job that is {phase:?}")]
    Phase {
        /// What was tried.
        event: &'static str,
        /// What the job is.
        phase: JobPhase,
    },
    /// The job belongs to another pod or to another process.
    #[error("the job is assigned to {actual:?}, not to {expected:?}")]
    NotAssigned {
        /// Who tried.
        expected: String,
        /// Whose it is.
        actual: Option<String>,
    },
}

fn expect(status: &BuildJobStatus, event: &'static str, phases: &[JobPhase]) -> Result<(), TransitionError> {
    if phases.contains(&status.phase) { Ok(()) } else { Err(TransitionError::Phase { event, phase: status.phase }) }
}

fn reconciling(status: &mut BuildJobStatus, reason: &str, message: &str, now: Timestamp) -> bool {
    conditions::set(&mut status.conditions, RECONCILING, Status::True, reason, message, None, now)
}

fn release(status: &mut BuildJobStatus) {
    status.assigned_to = None;
    status.runner_instance = None;
}

/// The operator found a slot.
///
/// # Errors
/// When the job is not Pending.
pub fn bind(
    status: &BuildJobStatus,
    pool: &str,
    member: &Member,
    now: Timestamp,
) -> Result<BuildJobStatus, TransitionError> {
    expect(status, "bind", &[JobPhase::Pending])?;
    let mut next = status.clone();
    let attempt = next_attempt(status);
    next.phase = JobPhase::Bound;
    next.pool = Some(pool.to_owned());
    next.queue_position = None;
    next.assigned_to = Some(member.uid.clone());
    next.member = Some(member.pod.clone());
    next.attempt = Some(attempt);
    next.timing.bound_at = Some(MicroTime(now));
    next.timing.started_at = None;
    reconciling(&mut next, reasons::BOUND, &format!("bound to {}", member.pod), now);
    Ok(next)
}

/// Number of the attempt that comes next. An attempt counts from its start, so a job that was bound and unbound again
/// keeps its number: nothing was solved under it.
fn next_attempt(status: &BuildJobStatus) -> i32 {
    i32::try_from(status.attempts.len() + 1).unwrap_or(i32::MAX)
}

/// The member cannot take the job, and has not started it.
///
/// # Errors
/// When the job is not Bound: a started attempt ends by [`finish`] only.
pub fn unbind(
    status: &BuildJobStatus,
    uid: &str,
    why: &str,
    now: Timestamp,
) -> Result<BuildJobStatus, TransitionError> {
    expect(status, "unbind", &[JobPhase::Bound])?;
    expect_assigned(status, uid)?;
    let mut next = status.clone();
    next.phase = JobPhase::Pending;
    next.member = None;
    next.timing.bound_at = None;
    release(&mut next);
    reconciling(&mut next, reasons::QUEUED, why, now);
    Ok(next)
}

/// The runner takes the job. It may solve only after this was written and acknowledged.
///
/// # Errors
/// When the job is not Bound to this pod.
pub fn start(
    status: &BuildJobStatus,
    job_uid: &str,
    member: &Member,
    instance: &str,
    now: Timestamp,
) -> Result<BuildJobStatus, TransitionError> {
    expect(status, "start", &[JobPhase::Bound])?;
    expect_assigned(status, &member.uid)?;
    let mut next = status.clone();
    let number = next_attempt(status);
    next.phase = JobPhase::Running;
    next.attempt = Some(number);
    next.runner_instance = Some(instance.to_owned());
    next.timing.started_at = Some(MicroTime(now));
    next.attempts.push(Attempt {
        number,
        pod: member.pod.clone(),
        pod_uid: member.uid.clone(),
        reference: names::attempt_ref(job_uid, number),
        started_at: MicroTime(now),
        finished_at: None,
        result: None,
        message: None,
    });
    reconciling(&mut next, reasons::BUILDING, &format!("attempt {number} runs on {}", member.pod), now);
    Ok(next)
}

/// An attempt ended. A lost attempt is followed by another until the retries are used up, or the job is to be cancelled.
///
/// # Errors
/// When the job is not Running on this pod.
pub fn finish(
    status: &BuildJobStatus,
    uid: &str,
    outcome: &Outcome,
    policy: Policy,
    now: Timestamp,
) -> Result<BuildJobStatus, TransitionError> {
    expect(status, "finish", &[JobPhase::Running])?;
    expect_assigned(status, uid)?;
    let mut next = status.clone();
    if let Some(attempt) = next.attempts.last_mut() {
        attempt.finished_at = Some(MicroTime(now));
        let (result, message) = match outcome {
            Outcome::Succeeded(_) => ("Succeeded", None),
            Outcome::Failed(failure) => (failure.reason.as_str(), Some(conditions::truncate(&failure.message, 1024))),
            Outcome::Cancelled | Outcome::PoolDeleted(_) => (FailureReason::Cancelled.as_str(), None),
        };
        attempt.result = Some(result.to_owned());
        attempt.message = message;
    }
    release(&mut next);
    next.conditions.retain(|condition| condition.type_ != NODE_UNREACHABLE);
    match outcome {
        Outcome::Succeeded(image) => {
            next.phase = JobPhase::Succeeded;
            next.image.clone_from(image);
            next.timing.finished_at = Some(MicroTime(now));
            let message = image.as_ref().map_or_else(String::new, |image| image.digest.clone());
            conditions_at_end(&mut next, COMPLETE, "Succeeded", &message, now);
        }
        Outcome::Cancelled => stop(&mut next, "the build was stopped", now),
        Outcome::PoolDeleted(pool) => {
            let message =
                format!("the build was stopped because BuildPool {pool} is deleted, with whenDeleted: Cancel");
            cancelled(&mut next, &message, now);
        }
        Outcome::Failed(failure) if failure.reason.is_infrastructure() && policy.cancel => {
            stop(&mut next, &format!("the build was lost: {}", failure.message), now);
        }
        Outcome::Failed(failure) if may_retry(status, failure.reason, policy) => {
            next.phase = JobPhase::Pending;
            let message = format!("attempt {} was lost: {}", next.attempts.len(), failure.message);
            reconciling(&mut next, reasons::RETRYING, &message, now);
        }
        Outcome::Failed(failure) => fail(&mut next, failure, now),
    }
    Ok(next)
}

/// Whether another attempt follows one that ended for this reason. Status is that of the running attempt.
fn may_retry(status: &BuildJobStatus, reason: FailureReason, policy: Policy) -> bool {
    // Alone on its member it may fit; twice it would only take the memory from others again.
    let again = reason.is_infrastructure() || (reason == FailureReason::OutOfMemory && !ran_out_of_memory(status));
    again && !policy.cancel && status.attempts.len() <= policy.infra_retries
}

/// Whether an attempt ran out of memory: the next one is alone on its member.
pub fn ran_out_of_memory(status: &BuildJobStatus) -> bool {
    status.attempts.iter().any(|attempt| attempt.result.as_deref() == Some(FailureReason::OutOfMemory.as_str()))
}

/// What is known now of the last attempt, which was thought to be lost with its daemon: the daemon was killed for its
/// use of memory. Written with the decision that follows from it, so that it costs no write of its own.
#[must_use]
pub fn amend_out_of_memory(status: &BuildJobStatus, message: &str) -> BuildJobStatus {
    let mut next = status.clone();
    if let Some(attempt) = next.attempts.last_mut().filter(|attempt| attempt.finished_at.is_some()) {
        attempt.result = Some(FailureReason::OutOfMemory.as_str().to_owned());
        attempt.message = Some(conditions::truncate(message, 1024));
    }
    next
}

/// The job is cancelled before a build was started. A build that runs ends by [`finish`].
///
/// # Errors
/// When the job is Running or has ended.
pub fn cancel(status: &BuildJobStatus, message: &str, now: Timestamp) -> Result<BuildJobStatus, TransitionError> {
    expect(status, "cancel", &[JobPhase::Pending, JobPhase::Bound])?;
    let mut next = status.clone();
    release(&mut next);
    stop(&mut next, message, now);
    Ok(next)
}

/// Says whether the node of a running build is heard of. `None` when that is said already.
pub fn node_unreachable(status: &BuildJobStatus, message: Option<&str>, now: Timestamp) -> Option<BuildJobStatus> {
    if status.phase != JobPhase::Running {
        return None;
    }
    let mut next = status.clone();
    if let Some(message) = message {
        let reason = NODE_UNREACHABLE;
        conditions::set(&mut next.conditions, NODE_UNREACHABLE, Status::True, reason, message, None, now)
            .then_some(next)
    } else {
        next.conditions.retain(|condition| condition.type_ != NODE_UNREACHABLE);
        (next.conditions.len() < status.conditions.len()).then_some(next)
    }
}

/// The job can never run. Only before any slot was given to it.
///
/// # Errors
/// When the job is not Pending.
pub fn refuse(
    status: &BuildJobStatus,
    reason: FailureReason,
    message: &str,
    now: Timestamp,
) -> Result<BuildJobStatus, TransitionError> {
    expect(status, "refuse", &[JobPhase::Pending])?;
    let mut next = status.clone();
    fail(&mut next, &failure(reason, message), now);
    Ok(next)
}

/// Says why a job waits, and where. `None` when that is said already, so that waiting costs one write and not one per
/// look.
pub fn wait(status: &BuildJobStatus, waiting: &Waiting<'_>, now: Timestamp) -> Option<BuildJobStatus> {
    if status.phase != JobPhase::Pending {
        return None;
    }
    let mut next = status.clone();
    next.pool = waiting.pool.map(str::to_owned);
    next.queue_position = waiting.position;
    let _ = reconciling(&mut next, waiting.reason, waiting.message, now);
    (next != *status).then_some(next)
}

fn stop(status: &mut BuildJobStatus, message: &str, now: Timestamp) {
    cancelled(status, &format!("cancelled by spec.cancel: {message}"), now);
}

fn cancelled(status: &mut BuildJobStatus, message: &str, now: Timestamp) {
    status.phase = JobPhase::Cancelled;
    end(status, &failure(FailureReason::Cancelled, message), now);
}

/// A failure with nothing but its reason and message.
pub fn failure(reason: FailureReason, message: &str) -> Failure {
    Failure { reason, message: message.to_owned(), step: None, location: None, exit_code: None, log_tail: Vec::new() }
}

fn fail(status: &mut BuildJobStatus, failure: &Failure, now: Timestamp) {
    status.phase = JobPhase::Failed;
    end(status, failure, now);
}

fn end(status: &mut BuildJobStatus, failure: &Failure, now: Timestamp) {
    status.queue_position = None;
    status.timing.finished_at = Some(MicroTime(now));
    conditions_at_end(status, FAILED, failure.reason.as_str(), &failure.message, now);
    let _ = conditions::set(
        &mut status.conditions,
        STALLED,
        Status::True,
        failure.reason.as_str(),
        &failure.message,
        None,
        now,
    );
    status.failure = Some(failure.clone());
}

fn conditions_at_end(status: &mut BuildJobStatus, type_: &str, reason: &str, message: &str, now: Timestamp) {
    let _ = conditions::set(&mut status.conditions, type_, Status::True, reason, message, None, now);
    let _ = conditions::set(&mut status.conditions, RECONCILING, Status::False, reasons::FINISHED, "", None, now);
}

fn expect_assigned(status: &BuildJobStatus, uid: &str) -> Result<(), TransitionError> {
    if status.assigned_to.as_deref() == Some(uid) {
        Ok(())
    } else {
        Err(TransitionError::NotAssigned { expected: uid.to_owned(), actual: status.assigned_to.clone() })
    }
}
