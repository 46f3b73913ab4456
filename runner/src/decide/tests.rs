use super::*;
use buildpools_crds::lifecycle::{self, Member, Outcome, Policy};
use buildpools_crds::v1alpha1::FailureReason;
use jiff::Timestamp;

fn member(uid: &str) -> Member {
    Member { pod: "main-0".into(), uid: uid.into() }
}

fn core() -> Core {
    let me = Identity { pod: member("pod"), namespace: "team-a".into(), pool: "main".into(), instance: "me".into() };
    let mut core = Core::new(me);
    assert!(core.handle(Event::Synced).is_empty());
    core
}

/// Ready, with this many slots.
fn ready(slots: usize) -> Core {
    let mut core = core();
    assert!(core.handle(Event::Slots(slots)).is_empty());
    assert!(core.handle(Event::Daemon(true)).is_empty());
    core
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn job(uid: &str, status: BuildJobStatus) -> Arc<BuildJob> {
    let mut job = BuildJob::default();
    job.metadata.uid = Some(uid.to_owned());
    job.metadata.name = Some(format!("job-{uid}"));
    job.status = Some(status);
    Arc::new(job)
}

fn bound_status() -> BuildJobStatus {
    lifecycle::bind(&BuildJobStatus::default(), "main", &member("pod"), at(1)).unwrap()
}

fn running_status(instance: &str) -> BuildJobStatus {
    lifecycle::start(&bound_status(), "uid", &member("pod"), instance, at(2)).unwrap()
}

/// After a lost first attempt, bound again.
fn bound_again_status() -> BuildJobStatus {
    let lost = Outcome::Failed(crate::outcome::failure(FailureReason::DaemonLost, "lost"));
    let pending = lifecycle::finish(&running_status("me"), "pod", &lost, Policy::default(), at(3)).unwrap();
    lifecycle::bind(&pending, "main", &member("pod"), at(4)).unwrap()
}

/// Actions in short.
fn tell(actions: &[Action]) -> Vec<String> {
    let uid = |job: &BuildJob| job.metadata.uid.clone().unwrap();
    actions
        .iter()
        .map(|action| match action {
            Action::Start(job) => format!("start {}", uid(job)),
            Action::Unbind(job, why) => format!("unbind {}: {why}", uid(job)),
            Action::Account(job) => format!("account {}", uid(job)),
            Action::Read(job) => format!("read {}", uid(job)),
            Action::Stop(uid, why) => format!("stop {uid}: {why:?}"),
        })
        .collect()
}

fn seen(uid: &str, status: BuildJobStatus) -> Event {
    Event::Seen(job(uid, status))
}

/// A core that builds attempt 1 of job `a`.
fn building() -> Core {
    let mut core = ready(1);
    assert_eq!(tell(&core.handle(seen("a", bound_status()))), ["start a"]);
    assert!(core.handle(Event::Running("a".into(), 1)).is_empty());
    core
}

#[test]
fn each_phase_of_a_job_that_no_task_works_on() {
    let succeeded =
        lifecycle::finish(&running_status("me"), "pod", &Outcome::Succeeded(None), Policy::default(), at(3)).unwrap();
    let elsewhere = lifecycle::bind(&BuildJobStatus::default(), "main", &member("other pod"), at(1)).unwrap();
    for (status, expected) in [
        (BuildJobStatus::default(), vec![]),
        (bound_status(), vec!["start a"]),
        (running_status("another process"), vec!["account a"]),
        // No task of this process runs it, so it must not be built, whoever wrote Running.
        (running_status("me"), vec!["account a"]),
        (succeeded, vec![]),
        (elsewhere, vec![]),
    ] {
        assert_eq!(tell(&ready(1).handle(seen("a", status.clone()))), expected, "{status:?}");
    }
}

#[test]
fn jobs_wait_for_the_daemon_and_the_slots_and_start_in_order() {
    let mut core = core();
    let later = lifecycle::bind(&BuildJobStatus::default(), "main", &member("pod"), at(9)).unwrap();
    assert!(core.handle(seen("a", later)).is_empty());
    assert!(core.handle(seen("b", bound_status())).is_empty());
    assert!(core.handle(seen("c", running_status("another process"))).is_empty());
    assert!(core.handle(Event::Slots(1)).is_empty());
    let actions = tell(&core.handle(Event::Daemon(true)));
    assert_eq!(actions, ["account c"], "the daemon may still be ending the build of c");
    assert_eq!(tell(&core.handle(Event::Ended("c".into()))), ["start b", "unbind a: the member is full"]);
    assert_eq!(core.builds(), 1);
}

#[test]
fn nothing_starts_before_all_earlier_jobs_are_seen() {
    let me = Identity { pod: member("pod"), namespace: "team-a".into(), pool: "main".into(), instance: "me".into() };
    let mut core = Core::new(me);
    assert!(core.handle(Event::Slots(1)).is_empty());
    assert!(core.handle(Event::Daemon(true)).is_empty());
    assert!(core.handle(seen("a", bound_status())).is_empty());
    assert_eq!(tell(&core.handle(seen("b", running_status("another process")))), ["account b"]);
    assert!(core.handle(Event::Synced).is_empty());
    assert_eq!(tell(&core.handle(Event::Ended("b".into()))), ["start a"]);
}

#[test]
fn there_are_never_more_builds_than_slots() {
    let mut core = ready(2);
    for (uid, expected) in [("a", "start a"), ("b", "start b"), ("c", "unbind c: the member is full")] {
        assert_eq!(tell(&core.handle(seen(uid, bound_status()))), [expected]);
    }
    assert_eq!(core.builds(), 2);
    // The slot is free when the build is over, before the API server has the outcome: the next job comes with it.
    core.handle(Event::Running("a".into(), 1));
    core.handle(Event::Ended("a".into()));
    assert_eq!(core.builds(), 1);
    assert_eq!(tell(&core.handle(seen("d", bound_status()))), ["start d"]);
    // Fewer slots end no build.
    assert!(core.handle(Event::Slots(1)).is_empty());
    assert_eq!(core.builds(), 2);
    assert_eq!(tell(&core.handle(seen("e", bound_status()))), ["unbind e: the member is full"]);
}

#[test]
fn a_lost_daemon_starts_nothing_and_ends_nothing() {
    let mut core = ready(2);
    assert_eq!(tell(&core.handle(seen("a", bound_status()))), ["start a"]);
    assert!(core.handle(Event::Daemon(false)).is_empty());
    assert!(core.handle(seen("b", bound_status())).is_empty());
    assert_eq!(tell(&core.handle(Event::Daemon(true))), ["start b"]);
}

#[test]
fn a_job_that_left_is_read_and_its_build_stopped_only_if_it_is_not_ours() {
    for (found, expected) in [
        (None, vec!["stop a: NotOurs"]),
        (Some(job("a", BuildJobStatus::default())), vec!["stop a: NotOurs"]),
        (Some(job("a", running_status("another process"))), vec!["stop a: NotOurs"]),
        (Some(job("a", running_status("me"))), vec![]),
        // As it was before: it cannot contradict.
        (Some(job("a", bound_status())), vec![]),
        (Some(job("a", bound_again_status())), vec!["stop a: NotOurs"]),
    ] {
        let mut core = building();
        assert_eq!(tell(&core.handle(Event::Left("a".into()))), ["read a"]);
        assert_eq!(tell(&core.handle(Event::Read("a".into(), found.clone()))), expected, "{found:?}");
        // Told once.
        assert!(core.handle(Event::Read("a".into(), None)).iter().all(|_| expected.is_empty()));
    }
}

#[test]
fn our_own_writes_make_a_job_leave_without_a_question() {
    let mut core = building();
    core.handle(Event::Ended("a".into()));
    assert!(core.handle(Event::Left("a".into())).is_empty());
    assert!(core.handle(Event::Done("a".into(), Some(1))).is_empty());
    assert!(core.jobs.is_empty() && core.finished.is_empty(), "nothing is remembered: {core:?}");
    let mut core = ready(0);
    assert_eq!(tell(&core.handle(seen("a", bound_status()))), ["unbind a: the member is full"]);
    assert!(core.handle(Event::Left("a".into())).is_empty());
    assert!(core.handle(Event::Done("a".into(), None)).is_empty());
    assert!(core.jobs.is_empty());
}

#[test]
fn a_watch_that_is_behind_starts_nothing_again() {
    let mut core = building();
    core.handle(Event::Ended("a".into()));
    assert!(core.handle(Event::Done("a".into(), Some(1))).is_empty());
    assert!(core.handle(seen("a", bound_status())).is_empty());
    assert!(core.handle(seen("a", running_status("me"))).is_empty());
    assert!(core.handle(Event::Left("a".into())).is_empty());
    assert!(core.finished.is_empty());
    // The next attempt may come here.
    assert_eq!(tell(&core.handle(seen("a", bound_again_status()))), ["start a"]);
}

#[test]
fn the_next_attempt_waits_for_the_end_of_the_task_of_the_last() {
    let mut core = building();
    core.handle(Event::Ended("a".into()));
    assert!(core.handle(Event::Left("a".into())).is_empty());
    assert!(core.handle(seen("a", bound_again_status())).is_empty());
    assert_eq!(tell(&core.handle(Event::Done("a".into(), Some(1)))), ["start a"]);
}

#[test]
fn a_state_that_contradicts_the_build_stops_it() {
    let mut core = building();
    assert!(core.handle(seen("a", running_status("me"))).is_empty());
    assert_eq!(tell(&core.handle(seen("a", bound_again_status()))), ["stop a: NotOurs"]);
    // When the old build is gone, the new attempt starts.
    assert!(core.handle(Event::Ended("a".into())).is_empty());
    assert_eq!(tell(&core.handle(Event::Done("a".into(), Some(1)))), ["start a"]);
}

#[test]
fn a_refused_token_stops_every_build_once_and_nothing_else() {
    let mut core = ready(3);
    core.handle(seen("a", bound_status()));
    core.handle(seen("b", bound_status()));
    core.handle(seen("c", bound_status()));
    core.handle(Event::Running("a".into(), 1));
    core.handle(Event::Running("b".into(), 1));
    core.handle(Event::Ended("b".into()));
    assert_eq!(tell(&core.handle(Event::Revoked)), ["stop a: Revoked"]);
    assert!(core.handle(Event::Revoked).is_empty());
}

#[test]
fn draining_gives_jobs_back_and_waits_for_the_tasks() {
    let mut core = building();
    assert!(core.handle(Event::Drain).is_empty());
    assert!(!core.drained());
    assert_eq!(tell(&core.handle(seen("b", bound_status()))), ["unbind b: the member is stopping"]);
    core.handle(Event::Ended("a".into()));
    core.handle(Event::Done("a".into(), Some(1)));
    assert!(!core.drained(), "b is being given back");
    core.handle(Event::Done("b".into(), None));
    assert!(core.drained());
}

#[test]
fn draining_gives_back_what_waits_for_the_daemon() {
    let mut core = core();
    core.handle(seen("a", bound_status()));
    core.handle(seen("b", running_status("another process")));
    assert_eq!(tell(&core.handle(Event::Drain)), ["unbind a: the member is stopping"]);
    core.handle(Event::Done("a".into(), None));
    // The daemon is not there to account for b: the operator does when the pod is gone.
    assert!(core.drained());
}

#[test]
fn a_crashed_task_is_accounted_for() {
    let mut core = building();
    assert_eq!(tell(&core.handle(Event::Crashed("a".into()))), ["read a"]);
    assert_eq!(core.builds(), 0);
    let found = Some(job("a", running_status("me")));
    assert_eq!(tell(&core.handle(Event::Read("a".into(), found))), ["account a"]);
}

#[test]
fn a_job_that_is_unbound_while_it_waits_is_forgotten() {
    let mut core = core();
    core.handle(seen("a", bound_status()));
    assert!(core.handle(Event::Left("a".into())).is_empty());
    core.handle(Event::Slots(1));
    assert!(core.handle(Event::Daemon(true)).is_empty());
}

#[test]
fn a_start_that_did_not_succeed_leaves_no_trace() {
    let mut core = ready(1);
    core.handle(seen("a", bound_status()));
    assert_eq!(tell(&core.handle(Event::Left("a".into()))), ["read a"]);
    assert_eq!(tell(&core.handle(Event::Read("a".into(), None))), ["stop a: NotOurs"]);
    assert!(core.handle(Event::Done("a".into(), None)).is_empty());
    assert!(core.jobs.is_empty() && core.finished.is_empty());
    assert_eq!(core.builds(), 0);
}

fn to_be_cancelled(uid: &str, status: BuildJobStatus) -> Event {
    let mut job = Arc::unwrap_or_clone(job(uid, status));
    job.spec.cancel = true;
    Event::Seen(Arc::new(job))
}

#[test]
fn a_build_that_is_to_be_cancelled_is_stopped_once() {
    let mut core = building();
    assert_eq!(tell(&core.handle(to_be_cancelled("a", running_status("me")))), ["stop a: Cancelled"]);
    assert!(core.handle(to_be_cancelled("a", running_status("me"))).is_empty());
    assert!(core.handle(Event::Revoked).is_empty());
    assert_eq!(core.builds(), 1, "its slot is taken until the daemon has ended it");
    assert!(core.handle(Event::Ended("a".into())).is_empty());
    assert!(core.handle(Event::Left("a".into())).is_empty());
    assert!(core.handle(Event::Done("a".into(), Some(1))).is_empty());
    assert!(core.jobs.is_empty());
}

#[test]
fn the_wish_to_cancel_may_be_seen_before_running_is_acknowledged() {
    for status in [bound_status(), running_status("me")] {
        let mut core = ready(1);
        assert_eq!(tell(&core.handle(seen("a", bound_status()))), ["start a"]);
        // The write decides: it fails, because the job has changed, or it was earlier.
        assert!(core.handle(to_be_cancelled("a", status)).is_empty());
        assert_eq!(tell(&core.handle(Event::Running("a".into(), 1))), ["stop a: Cancelled"]);
    }
}

#[test]
fn a_job_that_is_to_be_cancelled_before_its_start_is_left_alone() {
    for slots in [0, 1] {
        let mut core = ready(slots);
        assert!(core.handle(to_be_cancelled("a", bound_status())).is_empty());
        assert!(core.handle(Event::Drain).is_empty());
        assert!(core.drained());
    }
    let mut core = core();
    assert!(core.handle(seen("a", bound_status())).is_empty());
    assert!(core.handle(to_be_cancelled("a", bound_status())).is_empty());
    assert!(core.handle(Event::Slots(1)).is_empty());
    assert!(core.handle(Event::Daemon(true)).is_empty());
}

#[test]
fn an_attempt_of_another_process_is_accounted_for_when_the_pool_is_known() {
    let mut core = core();
    assert!(core.handle(Event::Daemon(true)).is_empty());
    assert!(core.handle(to_be_cancelled("a", running_status("another process"))).is_empty());
    assert_eq!(tell(&core.handle(Event::Slots(0))), ["account a"]);
    assert!(core.handle(to_be_cancelled("a", running_status("another process"))).is_empty());
}

#[test]
fn a_deleted_pool_that_cancels_stops_its_builds_and_gives_the_others_back() {
    let mut core = building();
    assert!(core.handle(seen("b", bound_status())).iter().all(|action| matches!(action, Action::Unbind(..))));
    assert_eq!(tell(&core.handle(Event::PoolDeleted)), ["stop a: PoolDeleted"]);
    assert!(core.handle(Event::PoolDeleted).is_empty(), "once");
    assert_eq!(tell(&core.handle(seen("c", bound_status()))), ["unbind c: the pool is being deleted"]);
    assert!(!core.drained(), "its pod is not being stopped");
}

#[test]
fn what_is_being_started_when_its_pool_is_deleted_is_stopped_when_it_runs() {
    let mut core = ready(1);
    assert_eq!(tell(&core.handle(seen("a", bound_status()))), ["start a"]);
    assert!(core.handle(Event::PoolDeleted).is_empty());
    assert_eq!(tell(&core.handle(Event::Running("a".into(), 1))), ["stop a: PoolDeleted"]);
}

#[test]
fn a_daemon_that_is_too_old_is_given_no_builds() {
    let mut core = core();
    assert!(core.handle(Event::Slots(1)).is_empty());
    assert!(core.handle(seen("a", bound_status())).is_empty(), "its daemon starts");
    let given_back = format!("unbind a: {UNSUPPORTED}");
    assert_eq!(tell(&core.handle(Event::Supported(false))), [given_back]);
    assert!(core.handle(Event::Done("a".into(), None)).is_empty());
    assert!(core.handle(Event::Daemon(true)).is_empty());
    assert!(core.handle(Event::Supported(true)).is_empty());
    assert_eq!(tell(&core.handle(seen("b", bound_status()))), ["start b"]);
}
