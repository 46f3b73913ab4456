//! What becomes of single jobs, and who is next.

use super::*;
use crate::dispatch::view::FairShare;

#[test]
fn a_job_is_cancelled_before_its_build_and_left_to_its_runner_while_it_builds() {
    let cancel = |job: Job| Job { cancel: true, ..job };
    let snapshot = pool(2).with(member(0, true));
    assert_eq!(decide(&snapshot.clone().and(cancel(job("a", 0))), 0), ["a: cancel"]);
    assert_eq!(decide(&snapshot.clone().and(cancel(bound("a", 0, 0, 0))), 0), ["a: cancel"]);
    assert_eq!(decide(&snapshot.clone().and(cancel(running("a", 0, 0))), 0), [""; 0]);
    assert_eq!(decide(&snapshot.clone().and(cancel(lost("a", &[(50, "PodEvicted")]))), 50), ["a: cancel"]);
    // Also while there is no pool.
    let mut without = snapshot.and(cancel(job("a", 0)));
    without.pool = None;
    assert_eq!(decide(&without, LATER), ["a: cancel"]);
    // Its pod is gone with it: the policy says that no attempt follows.
    let plan = pool(2).and(cancel(running("a", 0, 0))).plan(0);
    assert!(matches!(plan.decisions[0].action, Action::Lost { policy: Policy { cancel: true, .. }, .. }), "{plan:?}");
}

#[test]
fn the_time_that_a_job_may_wait_runs_out() {
    let hurried = |job: Job| Job { queue_timeout: Some(Duration::from_secs(10)), ..job };
    let full = pool(1).with(member(0, true)).and(running("r", 0, 0)).and(hurried(job("a", 0)));
    assert_eq!(full.clone().write(2).plan(2).look_again, Some(at(10)));
    assert_eq!(decide(&full.clone().write(2), 9), [""; 0]);
    let plan = full.plan(10);
    assert_eq!(tell(&plan), ["a: refuse (Timeout)"]);
    let Action::Refuse { message, .. } = &plan.decisions[0].action else { unreachable!() };
    assert_eq!(
        message,
        "the build was not started within 10s (queueTimeout): all slots of BuildPool \"main\" were taken"
    );
    // The pool's word for jobs that say nothing.
    let mut defaults = pool(1).with(member(0, true)).and(running("r", 0, 0)).and(job("a", 0));
    defaults.pool.as_mut().unwrap().queue_timeout = Some(Duration::from_secs(20));
    assert_eq!(
        (decide(&defaults, 19), decide(&defaults, 20)),
        (vec!["a: wait (WaitingForSlot)".to_owned()], vec!["a: refuse (Timeout)".to_owned()])
    );
    // From the loss of the last attempt.
    let again = pool(1).with(member(0, true)).and(running("r", 0, 0)).and(hurried(lost("a", &[(50, "PodEvicted")])));
    assert_eq!(decide(&again, 59), ["a: wait (WaitingForSlot)"]);
    assert_eq!(decide(&again, 60), ["a: refuse (Timeout)"]);
    // No member, no pool.
    assert_eq!(decide(&pool(1).and(hurried(job("a", 0))), 10), ["a: refuse (PoolUnavailable)"]);
    let patient = Job { when_pool_missing: WhenPoolMissing::Wait, ..hurried(job("a", 0)) };
    let mut without = pool(1).and(Job { queue_timeout: Some(Duration::from_mins(2)), ..patient });
    without.pool = None;
    assert_eq!(decide(&without, 119), ["a: wait (PoolNotFound)"]);
    assert_eq!(decide(&without, 120), ["a: refuse (PoolUnavailable)"]);
}

#[test]
fn a_job_that_its_member_does_not_start_in_time_does_not_stay_bound() {
    let hurried = |job: Job| Job { queue_timeout: Some(Duration::from_secs(10)), ..job };
    let starting = pool(1).with(member(0, false)).and(hurried(bound("a", 0, 0, 0)));
    assert_eq!((decide(&starting, 9), decide(&starting, 10)), (vec![], vec!["a: unbind".to_owned()]));
    let ready = pool(1).with(member(0, true)).and(hurried(bound("a", 0, 0, 0)));
    assert_eq!((decide(&ready, 29), decide(&ready, 30)), (vec![], vec!["a: unbind".to_owned()]));
}

#[test]
fn a_job_without_a_pool_is_told_which_field_is_to_be_corrected() {
    let selector: k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector =
        serde_json::from_value(serde_json::json!({"matchLabels": {"size": "large"}})).unwrap();
    for (target, text) in [
        (Target::Default, "annotate one of its pools with buildpools.dev/is-default-pool"),
        (Target::Matching(selector.into()), "matches spec.poolSelector"),
    ] {
        let unplaced = Snapshot::new(("team".into(), String::new()), at(0)).and(Job { target, ..job("a", 0) });
        let plan = unplaced.plan(30);
        assert_eq!(tell(&plan), ["a: refuse (PoolNotFound)"]);
        let Action::Refuse { message, .. } = &plan.decisions[0].action else { unreachable!() };
        assert!(message.contains(text) && message.contains("\"team\""), "{message}");
    }
}

#[test]
fn priorities_and_groups_decide_who_is_next() {
    let grouped = |name: &str, created: i64, group: &str| Job {
        labels: [("team".to_owned(), group.to_owned())].into(),
        ..job(name, created)
    };
    let mut snapshot = pool(2)
        .with(member(0, true))
        .and(grouped("a1", 0, "a"))
        .and(grouped("a2", 0, "a"))
        .and(grouped("b1", 1, "b"))
        .and(Job { priority: 1, ..grouped("c1", 2, "c") });
    assert_eq!(
        decide(&snapshot, 3),
        ["c1 -> main-0", "a1 -> main-0", "a2: wait (WaitingForSlot)", "b1: wait (WaitingForSlot)"]
    );
    let share = FairShare { label: "team".into(), half_life: Duration::from_hours(1), ..FairShare::default() };
    let pool = Pool { fair_share: Some(share), ..snapshot.pool.clone().unwrap() };
    snapshot.set_pool(Some(pool), at(0));
    let places = |snapshot: &Snapshot| -> Vec<String> {
        snapshot.explain(at(3)).into_iter().map(|job| format!("{} {} {}", job.job, job.group, job.decision)).collect()
    };
    assert_eq!(places(&snapshot), ["c1 c Bind", "a1 a Bind", "b1 b Wait", "a2 a Wait"]);
    snapshot.usage.charge("a", Duration::from_secs(100), at(0));
    assert_eq!(places(&snapshot), ["c1 c Bind", "b1 b Bind", "a1 a Wait", "a2 a Wait"]);
}

#[test]
fn what_runs_counts_for_its_group() {
    let grouped = |job: Job, group: &str| Job { labels: [("team".to_owned(), group.to_owned())].into(), ..job };
    let mut snapshot = pool(3).with(member(0, true));
    let share = FairShare { label: "team".into(), half_life: Duration::from_hours(1), ..FairShare::default() };
    snapshot.set_pool(Some(Pool { fair_share: Some(share), ..snapshot.pool.clone().unwrap() }), at(0));
    let snapshot = snapshot
        .and(grouped(running("a1", 0, 0), "a"))
        .and(grouped(bound("a2", 0, 0, 0), "a"))
        .and(grouped(job("a3", 0), "a"))
        .and(grouped(job("b1", 1), "b"));
    assert_eq!(decide(&snapshot, 1), ["b1 -> main-0"]);
    // An hour of building is on its account when it has ended.
    let mut snapshot = snapshot;
    snapshot.remove("uid-a1", at(3600));
    assert!((snapshot.usage.of("a", at(3600)) - 3600.0).abs() < 1e-6);
    assert!((snapshot.usage.of("b", at(3600))).abs() < 1e-6);
}

#[test]
fn builds_of_one_project_go_where_they_were() {
    let members = |snapshot: Snapshot| (0..4).fold(snapshot, |snapshot, ordinal| snapshot.with(member(ordinal, true)));
    let build = |name: &str, key| Job { cache_key: key, ..job(name, 0) };
    for key in 0..20 {
        let key = placement::stable_hash(&key.to_string());
        let alone = decide(&members(pool(2)).and(build("a", key)), 0);
        let among = members(pool(2)).and(running("x", 0, 1)).and(running("y", 0, 2)).and(build("a", key));
        assert_eq!(decide(&among, 0), alone);
        let plan = members(pool(1)).and(build("a", key)).and(build("b", key)).plan(0);
        assert_eq!(plan.decisions.iter().map(|decision| decision.reason).collect::<Vec<_>>(), ["Home", "HomeTaken"]);
    }
}

#[test]
fn a_job_that_ran_out_of_memory_gets_a_member_for_itself() {
    let again = || lost("a", &[(50, "OutOfMemory")]);
    // An empty member.
    let snapshot = pool(2).with(member(0, true)).with(member(1, true)).and(running("r", 0, 0)).and(again());
    assert_eq!(decide(&snapshot, 53), ["a -> main-1"]);
    assert_eq!(snapshot.plan(53).decisions[0].reason, "Alone");
    // Nothing else goes there, neither now nor later.
    assert_eq!(decide(&snapshot.clone().and(job("b", 60)), 60), ["a -> main-1", "b -> main-0"]);
    let later = snapshot.write(53).and(job("b", 60)).and(job("c", 60));
    assert_eq!(decide(&later, 60), ["b -> main-0"]);
    // None is empty: the one with the fewest builds is kept for it.
    let busy = pool(3).with(member(0, true)).with(member(1, true));
    let busy = busy.and(running("r", 0, 0)).and(running("s", 0, 0)).and(running("t", 0, 1)).and(again());
    let busy = busy.and(job("b", 60)).and(job("c", 60));
    assert_eq!(decide(&busy, 61), ["b -> main-0", "a: wait (WaitingForSlot)"]);
    let mut free = busy;
    free.remove("uid-t", at(61));
    assert_eq!(decide(&free, 61), ["a -> main-1", "b -> main-0"]);
}

#[test]
fn a_daemon_that_was_killed_for_its_memory_is_told_from_one_that_was_lost() {
    let killed = |second| Member { daemon_out_of_memory: Some(at(second)), ..member(0, true) };
    let amended = |snapshot: &Snapshot| match &snapshot.plan(53).decisions[0].action {
        Action::Bind { amend, .. } => amend.clone(),
        other => panic!("{other:?}"),
    };
    let again = || lost("a", &[(50, "DaemonLost")]);
    let message = amended(&pool(2).with(killed(49)).and(again())).unwrap();
    assert!(message.contains("main-0 was killed for its use of memory"), "{message}");
    // The kubelet may be later than the runner.
    assert!(amended(&pool(2).with(killed(52)).and(again())).is_some());
    // Another time, or another reason.
    assert_eq!(amended(&pool(2).with(killed(9)).and(again())), None);
    assert_eq!(amended(&pool(2).with(member(0, true)).and(again())), None);
    assert_eq!(amended(&pool(2).with(killed(49)).and(lost("a", &[(50, "PodEvicted")]))), None);
    // It needs a member for itself.
    assert_eq!(
        decide(&pool(2).with(killed(49)).and(running("r", 0, 0)).and(again()), 53),
        ["a: wait (WaitingForSlot)"]
    );
    // Also while that is being written.
    let claim = Hold::Writing(Claim::Slot("pod-0".into()));
    assert_eq!(decide(&pool(2).with(killed(49)).and(again()).held("a", claim).and(job("b", 52)), 53), [""; 0]);
    // Once only.
    let twice = lost("a", &[(5, "OutOfMemory"), (50, "DaemonLost")]);
    let plan = pool(2).with(killed(49)).and(twice).plan(60);
    assert_eq!(tell(&plan), ["a: refuse (OutOfMemory)"]);
    assert!(matches!(&plan.decisions[0].action, Action::Refuse { amend: Some(_), .. }));
}

#[test]
fn retries_are_the_jobs_or_the_pools() {
    let mut snapshot = pool(1);
    snapshot.pool.as_mut().unwrap().infra_retries = Some(5);
    for (own, retries) in [(None, 5), (Some(0), 0)] {
        let plan = snapshot.clone().and(Job { infra_retries: own, ..running("a", 0, 0) }).plan(0);
        assert!(matches!(plan.decisions[0].action, Action::Lost { policy, .. } if policy.infra_retries == retries));
    }
}

#[test]
fn everybody_who_waits_is_explained() {
    let snapshot = pool(1)
        .with(member(0, true))
        .and(running("r", 0, 0))
        .and(job("a", 1))
        .and(lost("b", &[(50, "PodEvicted")]))
        .and(Job { cancel: true, ..job("c", 2) })
        .and(job("d", 3))
        .held("d", Hold::Outdated);
    let explained = snapshot.explain(at(51));
    let lines: Vec<String> = explained
        .iter()
        .map(|job| format!("{} {:?} {}: {}", job.job, job.position, job.decision, job.reason))
        .collect();
    assert_eq!(
        lines[0],
        "a Some(1) Wait: WaitingForSlot: all slots of BuildPool \"main\" are taken; this job is the next"
    );
    assert!(lines.iter().any(|line| line.starts_with("b None BackOff: the last attempt was lost")), "{lines:?}");
    assert!(lines.iter().any(|line| line.starts_with("c Some(2) Cancel: Cancelled: it waited")), "{lines:?}");
    assert!(lines.iter().any(|line| line.starts_with("d None Write: ")), "{lines:?}");
    assert_eq!(lines.len(), 4);
}
