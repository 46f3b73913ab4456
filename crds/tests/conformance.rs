//! The model of the claim protocol (`protocol/`) and the life cycle are the same: each transition is allowed in the
//! same situations, and leads to the same, in both.
#![allow(clippy::unwrap_used)]

use buildpools_crds::lifecycle::{self, Member, Outcome, Policy, failure};
use buildpools_crds::v1alpha1::{BuildJobStatus, FailureReason, JobPhase};
use buildpools_protocol::{self as model, Job, Phase, Pod, Write};
use jiff::Timestamp;

const WRITES: [Write; 9] = [
    Write::Bind,
    Write::Unbind,
    Write::Return,
    Write::Start,
    Write::Cancel,
    Write::Lost,
    Write::Outcome(model::Outcome::Done),
    Write::Outcome(model::Outcome::Lost),
    Write::Outcome(model::Outcome::Cancelled),
];
const PHASES: [Phase; 6] =
    [Phase::Pending, Phase::Bound, Phase::Running, Phase::Succeeded, Phase::Failed, Phase::Cancelled];
/// More than any test asks for, to make statuses with many attempts.
const MANY: Policy = Policy { infra_retries: 9, cancel: false };

fn now() -> Timestamp {
    Timestamp::UNIX_EPOCH
}

fn member(pod: Pod) -> Member {
    match pod {
        Pod::Of(number) => Member { pod: format!("main-{number}"), uid: format!("uid-{number}") },
        Pod::Replaced => Member { pod: "main-0".into(), uid: "uid-before".into() },
    }
}

fn lost() -> Outcome {
    Outcome::Failed(failure(FailureReason::DaemonLost, "lost"))
}

/// The write as the code does it.
fn write(status: &BuildJobStatus, write: Write, pod: Pod, policy: Policy) -> Option<BuildJobStatus> {
    let member = member(pod);
    match write {
        Write::Bind => lifecycle::bind(status, "main", &member, now()),
        Write::Unbind | Write::Return => lifecycle::unbind(status, &member.uid, "why", now()),
        Write::Start => lifecycle::start(status, "job", &member, "instance", now()),
        Write::Cancel => lifecycle::cancel(status, "why", now()),
        Write::Lost | Write::Outcome(model::Outcome::Lost) => {
            lifecycle::finish(status, &member.uid, &lost(), policy, now())
        }
        Write::Outcome(model::Outcome::Done) => {
            lifecycle::finish(status, &member.uid, &Outcome::Succeeded(None), policy, now())
        }
        Write::Outcome(model::Outcome::Cancelled) => {
            lifecycle::finish(status, &member.uid, &Outcome::Cancelled, policy, now())
        }
    }
    .ok()
}

/// A status of this phase with this number of attempts, made by the code alone. `None` when there is no such status.
fn status(phase: Phase, attempts: usize, pod: Pod) -> Option<BuildJobStatus> {
    let over = |status: &BuildJobStatus, how| write(status, how, pod, MANY).unwrap();
    let mut lost = BuildJobStatus::default();
    let before = if phase == Phase::Pending || phase == Phase::Bound { attempts } else { attempts.checked_sub(1)? };
    for _ in 0..before {
        lost = over(&over(&over(&lost, Write::Bind), Write::Start), Write::Lost);
    }
    if phase == Phase::Pending {
        return Some(lost);
    }
    let bound = over(&lost, Write::Bind);
    if phase == Phase::Bound {
        return Some(bound);
    }
    let running = over(&bound, Write::Start);
    Some(match phase {
        Phase::Succeeded => over(&running, Write::Outcome(model::Outcome::Done)),
        Phase::Cancelled => over(&running, Write::Outcome(model::Outcome::Cancelled)),
        Phase::Failed => {
            let user = Outcome::Failed(failure(FailureReason::BuildStepFailed, "exit code: 1"));
            lifecycle::finish(&running, &member(pod).uid, &user, MANY, now()).unwrap()
        }
        _ => running,
    })
}

/// What the model keeps of a status.
fn seen(status: &BuildJobStatus) -> (JobPhase, Option<String>, usize) {
    (status.phase, status.assigned_to.clone(), status.attempts.len())
}

fn kept(job: &Job) -> (JobPhase, Option<String>, usize) {
    let phase = match job.phase {
        Phase::Pending => JobPhase::Pending,
        Phase::Bound => JobPhase::Bound,
        Phase::Running => JobPhase::Running,
        Phase::Succeeded => JobPhase::Succeeded,
        Phase::Failed => JobPhase::Failed,
        Phase::Cancelled => JobPhase::Cancelled,
        Phase::Absent => unreachable!("no write deletes a job"),
    };
    (phase, job.pod.map(|pod| member(pod).uid), usize::from(job.attempts))
}

#[test]
fn the_model_allows_and_forbids_what_the_life_cycle_does() {
    let pods = [Pod::Of(0), Pod::Of(1), Pod::Replaced];
    let (mut allowed, mut forbidden) = (0, 0);
    for (phase, attempts, pod) in
        PHASES.into_iter().flat_map(|phase| (0..4).flat_map(move |n| pods.map(|pod| (phase, n, pod))))
    {
        let Some(before) = status(phase, usize::from(attempts), pod) else { continue };
        let assigned = matches!(phase, Phase::Bound | Phase::Running).then_some(pod);
        for (how, by, retries, cancel) in WRITES.into_iter().flat_map(|how| {
            pods.into_iter().flat_map(move |by| (0..4).flat_map(move |r| [true, false].map(|c| (how, by, r, c))))
        }) {
            let job = Job { phase, attempts, pod: assigned, cancel, ..Job::NEW };
            assert_eq!(seen(&before), kept(&job), "{job:?}");
            let policy = Policy { infra_retries: usize::from(retries), cancel };
            let code = write(&before, how, by, policy);
            let model = model::transition(&job, how, by, retries);
            assert_eq!(code.as_ref().map(seen), model.as_ref().map(kept), "{how:?} by {by:?}, {policy:?}: {job:?}");
            if code.is_some() { allowed += 1 } else { forbidden += 1 }
        }
    }
    assert!(allowed > 100 && forbidden > 1000, "{allowed} {forbidden}");
}

/// The model has one outcome for success and for a failure of the build itself: both end the job, whatever is left of
/// its retries. And memory that runs out is lost like everything else, but only once.
#[test]
fn a_failure_of_the_build_ends_the_job_as_a_success_does() {
    let running = status(Phase::Running, 1, Pod::Of(0)).unwrap();
    for reason in [FailureReason::BuildStepFailed, FailureReason::Timeout, FailureReason::Internal] {
        for cancel in [true, false] {
            let outcome = Outcome::Failed(failure(reason, "why"));
            let policy = Policy { infra_retries: 2, cancel };
            let ended = lifecycle::finish(&running, "uid-0", &outcome, policy, now()).unwrap();
            assert_eq!(seen(&ended), (JobPhase::Failed, None, 1), "{reason:?}");
        }
    }
    let memory = Outcome::Failed(failure(FailureReason::OutOfMemory, "why"));
    let once = lifecycle::finish(&running, "uid-0", &memory, MANY, now()).unwrap();
    assert_eq!(seen(&once), (JobPhase::Pending, None, 1));
    let again = write(&once, Write::Bind, Pod::Of(0), MANY).unwrap();
    let again = write(&again, Write::Start, Pod::Of(0), MANY).unwrap();
    let twice = lifecycle::finish(&again, "uid-0", &memory, MANY, now()).unwrap();
    assert_eq!(seen(&twice), (JobPhase::Failed, None, 2));
}

/// A rule of the model that holds also between the writes: what has ended takes no write at all.
#[test]
fn what_has_ended_takes_no_write() {
    for phase in [Phase::Succeeded, Phase::Failed, Phase::Cancelled] {
        let ended = status(phase, 1, Pod::Of(0)).unwrap();
        for how in WRITES {
            assert_eq!(write(&ended, how, Pod::Of(0), MANY), None, "{how:?}");
        }
        let waiting = lifecycle::Waiting { reason: "r", message: "m", pool: None, position: None };
        assert_eq!(lifecycle::wait(&ended, &waiting, now()), None);
        assert_eq!(lifecycle::node_unreachable(&ended, Some("m"), now()), None);
        assert!(lifecycle::refuse(&ended, FailureReason::PoolNotFound, "m", now()).is_err());
    }
}
