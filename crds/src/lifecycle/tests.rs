use super::*;

fn now() -> Timestamp {
    "2026-01-01T00:00:00Z".parse().unwrap()
}

fn member() -> Member {
    Member { pod: "alpha-0".into(), uid: "pod-1".into() }
}

fn failure(reason: FailureReason) -> Outcome {
    Outcome::Failed(Failure {
        reason,
        message: "what happened".into(),
        step: None,
        location: None,
        exit_code: None,
        log_tail: vec![],
    })
}

fn bound() -> BuildJobStatus {
    bind(&BuildJobStatus::default(), &member(), now()).unwrap()
}

fn running() -> BuildJobStatus {
    start(&bound(), "job", &member(), "instance", now()).unwrap()
}

fn condition(status: &BuildJobStatus, type_: &str) -> Option<(String, String)> {
    conditions::find(&status.conditions, type_).map(|c| (c.status.clone(), c.reason.clone()))
}

#[test]
fn a_job_goes_from_pending_to_succeeded() {
    let status = running();
    assert_eq!(status.phase, JobPhase::Running);
    assert_eq!(status.attempts[0].reference, "job-1");
    let image = BuiltImage { digest: "sha256:1".into(), names: vec!["r/a:1".into()] };
    let done = finish(&status, "pod-1", &Outcome::Succeeded(Some(image.clone())), now()).unwrap();
    assert_eq!(done.phase, JobPhase::Succeeded);
    assert_eq!(done.assigned_to, None);
    assert_eq!(done.member.as_deref(), Some("alpha-0"));
    assert_eq!(done.image, Some(image));
    assert_eq!(condition(&done, COMPLETE), Some(("True".into(), "Succeeded".into())));
    assert_eq!(condition(&done, RECONCILING), Some(("False".into(), "Finished".into())));
    assert_eq!(condition(&done, STALLED), None);
}

#[test]
fn a_fault_of_the_build_is_not_retried() {
    let done = finish(&running(), "pod-1", &failure(FailureReason::BuildStepFailed), now()).unwrap();
    assert_eq!(done.phase, JobPhase::Failed);
    assert_eq!(condition(&done, FAILED), Some(("True".into(), "BuildStepFailed".into())));
    assert_eq!(condition(&done, STALLED), Some(("True".into(), "BuildStepFailed".into())));
    assert_eq!(done.attempts[0].result.as_deref(), Some("BuildStepFailed"));
}

#[test]
fn a_lost_attempt_is_followed_by_two_others_and_every_one_is_kept() {
    let mut status = BuildJobStatus::default();
    for attempt in 1..=3 {
        status = bind(&status, &member(), now()).unwrap();
        assert_eq!(status.attempt, Some(attempt));
        status = start(&status, "job", &member(), "instance", now()).unwrap();
        status = finish(&status, "pod-1", &failure(FailureReason::DaemonLost), now()).unwrap();
        assert_eq!(status.phase, if attempt < 3 { JobPhase::Pending } else { JobPhase::Failed });
    }
    let refs: Vec<_> = status.attempts.iter().map(|a| a.reference.as_str()).collect();
    assert_eq!(refs, ["job-1", "job-2", "job-3"]);
    assert_eq!(status.failure.unwrap().reason, FailureReason::DaemonLost);
}

#[test]
fn unbinding_keeps_the_attempt_number_because_nothing_ran() {
    let status = unbind(&bound(), "pod-1", "member is full", now()).unwrap();
    assert_eq!((status.phase, status.assigned_to.clone(), status.attempt), (JobPhase::Pending, None, Some(1)));
    let again = bind(&status, &member(), now()).unwrap();
    assert_eq!(again.attempt, Some(1));
}

#[test]
fn a_running_job_is_neither_bound_nor_unbound_nor_started_again() {
    let status = running();
    assert!(bind(&status, &member(), now()).is_err());
    assert!(unbind(&status, "pod-1", "", now()).is_err());
    assert!(start(&status, "job", &member(), "other", now()).is_err());
    assert!(refuse(&status, FailureReason::PoolNotFound, "", now()).is_err());
}

#[test]
fn another_pod_can_neither_start_nor_finish_nor_unbind() {
    let other = Member { pod: "alpha-0".into(), uid: "pod-2".into() };
    let not_assigned = TransitionError::NotAssigned { expected: "pod-2".into(), actual: Some("pod-1".into()) };
    assert_eq!(start(&bound(), "job", &other, "i", now()), Err(not_assigned.clone()));
    assert_eq!(unbind(&bound(), "pod-2", "", now()), Err(not_assigned.clone()));
    assert_eq!(finish(&running(), "pod-2", &Outcome::Succeeded(None), now()), Err(not_assigned));
}

#[test]
fn nothing_follows_the_end() {
    let done = finish(&running(), "pod-1", &Outcome::Succeeded(None), now()).unwrap();
    assert!(bind(&done, &member(), now()).is_err());
    assert!(finish(&done, "pod-1", &Outcome::Succeeded(None), now()).is_err());
    assert_eq!(wait(&done, reasons::WAITING_FOR_SLOT, "", now()), None);
}

#[test]
fn waiting_for_the_same_reason_writes_once() {
    let status = wait(&BuildJobStatus::default(), reasons::WAITING_FOR_SLOT, "all slots are taken", now()).unwrap();
    assert_eq!(wait(&status, reasons::WAITING_FOR_SLOT, "all slots are taken", now()), None);
    assert!(wait(&status, reasons::POOL_NOT_READY, "no member", now()).is_some());
}
