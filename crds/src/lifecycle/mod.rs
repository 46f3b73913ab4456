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
//! ```
//!
//! Every function is pure: from a status and an event to the next status. Who calls which: the operator `bind`,
//! `unbind`, `refuse`, `wait` and (for a member that is gone) `finish`; the runner `unbind`, `start` and `finish`. Each result
//! is written with the resourceVersion of the status it was made from, so of two writers one loses and reads again.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

use crate::conditions::{self, COMPLETE, FAILED, RECONCILING, STALLED, Status};
use crate::names;
use crate::v1alpha1::{Attempt, BuildJobStatus, BuiltImage, Failure, FailureReason, JobPhase};

#[cfg(test)]
mod tests;

/// How often a job is built again after an infrastructure failure.
pub const INFRA_RETRIES: usize = 2;

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
pub fn bind(status: &BuildJobStatus, member: &Member, now: Timestamp) -> Result<BuildJobStatus, TransitionError> {
    expect(status, "bind", &[JobPhase::Pending])?;
    let mut next = status.clone();
    let attempt = next_attempt(status);
    next.phase = JobPhase::Bound;
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

/// An attempt ended. A lost attempt is followed by another until [`INFRA_RETRIES`] are used up.
///
/// # Errors
/// When the job is not Running on this pod.
pub fn finish(
    status: &BuildJobStatus,
    uid: &str,
    outcome: &Outcome,
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
        };
        attempt.result = Some(result.to_owned());
        attempt.message = message;
    }
    release(&mut next);
    match outcome {
        Outcome::Succeeded(image) => {
            next.phase = JobPhase::Succeeded;
            next.image.clone_from(image);
            next.timing.finished_at = Some(MicroTime(now));
            let message = image.as_ref().map_or_else(String::new, |image| image.digest.clone());
            conditions_at_end(&mut next, COMPLETE, "Succeeded", &message, now);
        }
        Outcome::Failed(failure) if failure.reason.is_infrastructure() && retries_left(status) => {
            next.phase = JobPhase::Pending;
            let message = format!("attempt {} was lost: {}", next.attempts.len(), failure.message);
            reconciling(&mut next, reasons::RETRYING, &message, now);
        }
        Outcome::Failed(failure) => fail(&mut next, failure, now),
    }
    Ok(next)
}

fn retries_left(status: &BuildJobStatus) -> bool {
    status.attempts.len() <= INFRA_RETRIES
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
    let failure = Failure {
        reason,
        message: message.to_owned(),
        step: None,
        location: None,
        exit_code: None,
        log_tail: Vec::new(),
    };
    fail(&mut next, &failure, now);
    Ok(next)
}

/// Says why a job waits. `None` when that is said already, so that waiting costs one write and not one per look.
pub fn wait(status: &BuildJobStatus, reason: &str, message: &str, now: Timestamp) -> Option<BuildJobStatus> {
    if status.phase != JobPhase::Pending {
        return None;
    }
    let mut next = status.clone();
    reconciling(&mut next, reason, message, now).then_some(next)
}

fn fail(status: &mut BuildJobStatus, failure: &Failure, now: Timestamp) {
    status.phase = JobPhase::Failed;
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
