//! What the API server does with a status write: compare-and-swap, admission, and then the transition.
//!
//! [`transition`] is the part that `buildpools_crds::lifecycle` is in the code; a test holds the two together.

use crate::state::{Job, Message, Outcome, Phase, Pod, Write};
use crate::{Invariant, Protocol, Rule};

/// The answer to a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// 200: written.
    Written,
    /// 409: made from an older version.
    Conflict,
    /// 403 or 422: admission or the schema refuses it.
    Refused,
    /// 404: there is no such job.
    NotFound,
}

/// What a write makes of a job, if it may. `retries`: see [`Bounds::retries`].
pub fn transition(job: &Job, write: Write, pod: Pod, retries: u8) -> Option<Job> {
    let here = job.pod == Some(pod);
    let allowed = match write {
        Write::Bind => job.phase == Phase::Pending,
        Write::Unbind | Write::Return | Write::Start => job.phase == Phase::Bound && here,
        Write::Lost | Write::Outcome(_) => job.phase == Phase::Running && here,
        Write::Cancel => matches!(job.phase, Phase::Pending | Phase::Bound),
    };
    allowed.then(|| write_over(job, write, pod, job.attempts, retries))
}

/// The merge patch that `write`, made from a status with this number of attempts, turns out to be on `job`, whatever
/// has become of that.
pub fn write_over(job: &Job, write: Write, pod: Pod, attempts: u8, retries: u8) -> Job {
    let mut next = *job;
    let (phase, attempts) = match write {
        Write::Bind => (Phase::Bound, job.attempts),
        Write::Unbind | Write::Return => (Phase::Pending, job.attempts),
        Write::Start => (Phase::Running, attempts + 1),
        Write::Cancel | Write::Outcome(Outcome::Cancelled) => (Phase::Cancelled, job.attempts),
        Write::Outcome(Outcome::Done) => (Phase::Succeeded, attempts),
        Write::Lost | Write::Outcome(Outcome::Lost) if job.cancel => (Phase::Cancelled, attempts),
        Write::Lost | Write::Outcome(Outcome::Lost) if attempts <= retries => (Phase::Pending, attempts),
        Write::Lost | Write::Outcome(Outcome::Lost) => (Phase::Failed, attempts),
    };
    next.phase = phase;
    next.attempts = attempts;
    match phase {
        Phase::Bound => next.pod = Some(pod),
        Phase::Running => {}
        _ => {
            next.pod = None;
            next.instance = false;
        }
    }
    next
}

impl Protocol {
    /// Takes a write. `instance`: whether the process that sent it still runs.
    pub fn write(&self, job: &mut Job, message: Message) -> (Answer, Option<Invariant>) {
        if job.phase == Phase::Absent {
            return (Answer::NotFound, None);
        }
        if self.has(Rule::CompareAndSwap) && !message.fresh {
            return (Answer::Conflict, None);
        }
        let foreign = message.write.by_runner() && job.pod != Some(message.pod);
        if foreign && self.has(Rule::FencedByPodUid) {
            return (Answer::Refused, None);
        }
        let retries = if self.has(Rule::RetriesBounded) { self.bounds.retries } else { u8::MAX - 1 };
        let mut next = write_over(job, message.write, message.pod, message.attempts, retries);
        if message.write == Write::Start {
            next.instance = message.live && message.pod != Pod::Replaced;
        }
        let this_attempt = job.phase == Phase::Running && job.attempts == message.attempts;
        let broken = match message.write {
            _ if foreign => Some(Invariant::OwnJobsOnly),
            Write::Outcome(_) if !this_attempt || job.pod != Some(message.pod) => Some(Invariant::OutcomeOfThisAttempt),
            Write::Lost if !this_attempt => Some(Invariant::OutcomeOfThisAttempt),
            Write::Start if job.cancel => Some(Invariant::NoStartAfterCancel),
            _ if next.attempts > self.bounds.retries + 1 => Some(Invariant::RetryBound),
            _ => None,
        };
        self.store(job, next, broken)
    }

    /// What the schema says (CEL), for every writer.
    pub fn store(&self, job: &mut Job, next: Job, broken: Option<Invariant>) -> (Answer, Option<Invariant>) {
        if job.phase.is_terminal() && self.has(Rule::TerminalImmutable) {
            return (Answer::Refused, None);
        }
        if next.attempts < job.attempts && self.has(Rule::AttemptNeverDecreases) {
            return (Answer::Refused, None);
        }
        let broken = if job.phase.is_terminal() {
            Some(Invariant::TerminalIsFinal)
        } else if next.attempts < job.attempts {
            Some(Invariant::AttemptMonotone)
        } else {
            broken
        };
        *job = next;
        job.changed();
        (Answer::Written, broken)
    }
}
