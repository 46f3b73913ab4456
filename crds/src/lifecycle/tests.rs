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
    bind(&BuildJobStatus::default(), "alpha", &member(), now()).unwrap()
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
    let done = finish(&status, "pod-1", &Outcome::Succeeded(Some(image.clone())), Policy::default(), now()).unwrap();
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
    let done = finish(&running(), "pod-1", &failure(FailureReason::BuildStepFailed), Policy::default(), now()).unwrap();
    assert_eq!(done.phase, JobPhase::Failed);
    assert_eq!(condition(&done, FAILED), Some(("True".into(), "BuildStepFailed".into())));
    assert_eq!(condition(&done, STALLED), Some(("True".into(), "BuildStepFailed".into())));
    assert_eq!(done.attempts[0].result.as_deref(), Some("BuildStepFailed"));
}

#[test]
fn a_lost_attempt_is_followed_by_two_others_and_every_one_is_kept() {
    let mut status = BuildJobStatus::default();
    for attempt in 1..=3 {
        status = bind(&status, "alpha", &member(), now()).unwrap();
        assert_eq!(status.attempt, Some(attempt));
        status = start(&status, "job", &member(), "instance", now()).unwrap();
        status = finish(&status, "pod-1", &failure(FailureReason::DaemonLost), Policy::default(), now()).unwrap();
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
    let again = bind(&status, "alpha", &member(), now()).unwrap();
    assert_eq!(again.attempt, Some(1));
}

#[test]
fn a_running_job_is_neither_bound_nor_unbound_nor_started_again() {
    let status = running();
    assert!(bind(&status, "alpha", &member(), now()).is_err());
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
    assert_eq!(finish(&running(), "pod-2", &Outcome::Succeeded(None), Policy::default(), now()), Err(not_assigned));
}

#[test]
fn nothing_follows_the_end() {
    let done = finish(&running(), "pod-1", &Outcome::Succeeded(None), Policy::default(), now()).unwrap();
    assert!(bind(&done, "alpha", &member(), now()).is_err());
    assert!(finish(&done, "pod-1", &Outcome::Succeeded(None), Policy::default(), now()).is_err());
    assert_eq!(wait(&done, &waiting("", None), now()), None);
}

fn waiting(message: &str, position: Option<i32>) -> Waiting<'_> {
    Waiting { reason: reasons::WAITING_FOR_SLOT, message, pool: Some("alpha"), position }
}

#[test]
fn waiting_for_the_same_reason_writes_once() {
    let status = wait(&BuildJobStatus::default(), &waiting("all slots are taken", Some(2)), now()).unwrap();
    assert_eq!((status.pool.as_deref(), status.queue_position), (Some("alpha"), Some(2)));
    assert_eq!(wait(&status, &waiting("all slots are taken", Some(2)), now()), None);
    assert!(wait(&status, &waiting("no member", Some(2)), now()).is_some());
    assert!(wait(&status, &waiting("all slots are taken", Some(1)), now()).is_some());
    assert_eq!(bind(&status, "alpha", &member(), now()).unwrap().queue_position, None);
}

#[test]
fn a_job_is_cancelled_at_once_until_it_runs() {
    for status in [BuildJobStatus::default(), bound()] {
        let done = cancel(&status, "it waited", now()).unwrap();
        assert_eq!((done.phase, done.assigned_to.clone()), (JobPhase::Cancelled, None));
        assert_eq!(condition(&done, FAILED), Some(("True".into(), "Cancelled".into())));
        assert_eq!(condition(&done, STALLED), Some(("True".into(), "Cancelled".into())));
        assert_eq!(condition(&done, RECONCILING), Some(("False".into(), "Finished".into())));
        assert!(cancel(&done, "", now()).is_err());
    }
    assert!(cancel(&running(), "", now()).is_err(), "its runner stops it");
}

#[test]
fn a_build_that_was_stopped_or_lost_under_a_cancellation_is_cancelled() {
    let policy = Policy { cancel: true, ..Policy::default() };
    for (outcome, result) in [(Outcome::Cancelled, "Cancelled"), (failure(FailureReason::PodEvicted), "PodEvicted")] {
        let done = finish(&running(), "pod-1", &outcome, policy, now()).unwrap();
        assert_eq!(done.phase, JobPhase::Cancelled);
        assert_eq!(done.attempts[0].result.as_deref(), Some(result));
        assert_eq!(done.failure.unwrap().reason, FailureReason::Cancelled);
    }
    let done = finish(&running(), "pod-1", &Outcome::Succeeded(None), policy, now()).unwrap();
    assert_eq!(done.phase, JobPhase::Succeeded, "what is done is done");
}

#[test]
fn a_build_that_its_deleted_pool_has_stopped_says_so() {
    let done = finish(&running(), "pod-1", &Outcome::PoolDeleted("main".into()), Policy::default(), now()).unwrap();
    assert_eq!((done.phase, done.attempts[0].result.as_deref()), (JobPhase::Cancelled, Some("Cancelled")));
    let failure = done.failure.unwrap();
    assert_eq!(failure.reason, FailureReason::Cancelled);
    assert_eq!(failure.message, "the build was stopped because BuildPool main is deleted, with whenDeleted: Cancel");
}

#[test]
fn the_specs_say_how_often_a_lost_build_is_begun_again() {
    let defaults = JobDefaults { infra_retries: Some(1), ..JobDefaults::default() };
    let mut spec = BuildJobSpec::default();
    assert_eq!(Policy::of(&spec, &JobDefaults::default()).infra_retries, INFRA_RETRIES);
    assert_eq!(Policy::of(&spec, &defaults).infra_retries, 1);
    spec.infra_retries = Some(0);
    let policy = Policy::of(&spec, &defaults);
    let done = finish(&running(), "pod-1", &failure(FailureReason::NodeLost), policy, now()).unwrap();
    assert_eq!(done.phase, JobPhase::Failed);
}

#[test]
fn a_build_that_ran_out_of_memory_is_begun_again_once() {
    let oom = failure(FailureReason::OutOfMemory);
    let again = finish(&running(), "pod-1", &oom, Policy::default(), now()).unwrap();
    assert_eq!(again.phase, JobPhase::Pending);
    assert!(ran_out_of_memory(&again));
    let alone = start(&bind(&again, "alpha", &member(), now()).unwrap(), "job", &member(), "i", now()).unwrap();
    let done = finish(&alone, "pod-1", &oom, Policy::default(), now()).unwrap();
    assert_eq!((done.phase, done.failure.unwrap().reason), (JobPhase::Failed, FailureReason::OutOfMemory));
}

#[test]
fn a_lost_attempt_can_be_found_to_have_run_out_of_memory() {
    let lost = finish(&running(), "pod-1", &failure(FailureReason::DaemonLost), Policy::default(), now()).unwrap();
    assert!(!ran_out_of_memory(&lost));
    let amended = amend_out_of_memory(&lost, "the daemon was killed for its use of memory");
    assert!(ran_out_of_memory(&amended));
    assert_eq!(amend_out_of_memory(&running(), "it runs"), running());
}

#[test]
fn an_unreachable_node_is_said_once_and_taken_back() {
    let unreachable = node_unreachable(&running(), Some("node a"), now()).unwrap();
    assert_eq!(condition(&unreachable, NODE_UNREACHABLE), Some(("True".into(), "NodeUnreachable".into())));
    assert_eq!(node_unreachable(&unreachable, Some("node a"), now()), None);
    assert_eq!(node_unreachable(&unreachable, None, now()), Some(running()));
    assert_eq!(node_unreachable(&bound(), Some("node a"), now()), None);
    let done = finish(&unreachable, "pod-1", &Outcome::Succeeded(None), Policy::default(), now()).unwrap();
    assert_eq!(condition(&done, NODE_UNREACHABLE), None);
}
