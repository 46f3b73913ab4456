use buildpools_crds::v1alpha1::{Attempt, JobPhase, WhenPoolMissing};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

use super::*;
use crate::dispatch::dice::Dice;
use crate::dispatch::job::Target;
use crate::dispatch::view::{Member, Pool};

mod rules;
mod waiting;

/// Time zero of the tests, in the past of no job.
fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + second).unwrap()
}

const LATER: i64 = 1000;

fn pool(builds_per_member: usize) -> Snapshot {
    let pool = Pool { builds_per_member, max_build_duration: Duration::from_hours(1), ..Pool::default() };
    Snapshot { key: ("team".into(), "main".into()), pool: Some(pool), ..Snapshot::default() }
}

fn member(ordinal: u32, ready: bool) -> Member {
    Member { pod: format!("main-{ordinal}"), uid: format!("pod-{ordinal}"), ordinal, ready, ..Member::default() }
}

fn job(name: &str, created: i64) -> Job {
    Job {
        key: ("team".into(), name.into()),
        uid: format!("uid-{name}").into(),
        version: "1".into(),
        created: at(created),
        target: Target::Named("main".into()),
        ..Job::default()
    }
}

fn bound(name: &str, created: i64, ordinal: u32, since: i64) -> Job {
    let mut job = job(name, created);
    let member = lifecycle::Member { pod: format!("main-{ordinal}"), uid: format!("pod-{ordinal}") };
    job.status = lifecycle::bind(&job.status, "main", &member, at(since)).unwrap();
    job
}

fn running(name: &str, created: i64, ordinal: u32) -> Job {
    let mut job = bound(name, created, ordinal, created);
    let member = lifecycle::Member { pod: format!("main-{ordinal}"), uid: format!("pod-{ordinal}") };
    job.status = lifecycle::start(&job.status, &job.uid, &member, "instance", at(created)).unwrap();
    job
}

impl Snapshot {
    fn with(mut self, member: Member) -> Self {
        self.members.insert(member.uid.clone(), member);
        self
    }

    fn and(mut self, job: Job) -> Self {
        self.put(job, at(0));
        self
    }

    fn held(mut self, name: &str, hold: Hold) -> Self {
        self.hold(&format!("uid-{name}").into(), hold, at(0));
        self
    }

    /// What is decided now, as the dispatcher asks for it.
    fn plan(&self, second: i64) -> Plan {
        let mut snapshot = self.clone();
        snapshot.advance(at(second));
        schedule(&snapshot, at(second))
    }

    /// Takes the decisions of a moment as written.
    fn write(mut self, second: i64) -> Self {
        self.advance(at(second));
        let plan = schedule(&self, at(second));
        self.apply(&plan);
        for Decision { job, action, .. } in plan.decisions {
            let status = match action {
                Action::Bind { member, pool, .. } => {
                    self.served(&job.uid, at(second));
                    lifecycle::bind(&job.status, &pool, &member, at(second)).unwrap()
                }
                Action::Wait { reason, message, pool, position } => {
                    let waiting = lifecycle::Waiting { reason, message: &message, pool: pool.as_deref(), position };
                    lifecycle::wait(&job.status, &waiting, at(second)).unwrap()
                }
                other => panic!("{other:?}"),
            };
            self.put(Job { status, ..job }, at(second));
        }
        self
    }
}

/// `a -> main-0`, `b: unbind`, ….
fn tell(plan: &Plan) -> Vec<String> {
    let tell = |decision: &Decision| {
        let name = &decision.job.key.1;
        match &decision.action {
            Action::Bind { member, .. } => format!("{name} -> {}", member.pod),
            Action::Unbind { verify, .. } if verify.is_some() => format!("{name}: unbind after a check"),
            Action::Unbind { .. } => format!("{name}: unbind"),
            Action::Lost { gone, .. } => format!("{name}: lost ({})", gone.reason.as_str()),
            Action::Cancel { .. } => format!("{name}: cancel"),
            Action::Refuse { reason, .. } => format!("{name}: refuse ({})", reason.as_str()),
            Action::Node { unreachable } => {
                format!("{name}: node {}", if unreachable.is_some() { "unreachable" } else { "back" })
            }
            Action::Wait { reason, .. } => format!("{name}: wait ({reason})"),
        }
    };
    plan.decisions.iter().map(tell).collect()
}

fn decide(snapshot: &Snapshot, second: i64) -> Vec<String> {
    tell(&snapshot.plan(second))
}

#[test]
fn the_first_job_in_gets_the_first_slot() {
    let snapshot = pool(1).with(member(0, true)).and(job("a", 5)).and(job("b", 4));
    assert_eq!(decide(&snapshot, 5), ["b -> main-0"]);
    // Created in the same second: by name.
    let snapshot = pool(1).with(member(0, true)).and(job("b", 5)).and(job("a", 5));
    assert_eq!(decide(&snapshot, 5), ["a -> main-0"]);
}

#[test]
fn jobs_are_spread_over_ready_members_before_one_that_starts_gets_any() {
    let snapshot = pool(2).with(member(0, false)).with(member(1, true)).with(member(2, true));
    let snapshot = ["a", "b", "c", "d", "e"].into_iter().fold(snapshot, |snapshot, name| snapshot.and(job(name, 0)));
    let plan = decide(&snapshot, 0);
    assert_eq!((plan.len(), plan[4].as_str()), (5, "e -> main-0"), "{plan:?}");
}

#[test]
fn a_job_is_bound_to_a_member_that_is_still_starting() {
    let snapshot = pool(1).with(member(0, false)).and(job("a", 0));
    assert_eq!(decide(&snapshot, 0), ["a -> main-0"]);
}

#[test]
fn members_on_their_way_out_get_nothing() {
    let leaving = Member { leaving: true, ..member(0, true) };
    let snapshot = pool(2).with(leaving).and(job("a", 0));
    assert_eq!(decide(&snapshot, 0), [""; 0]);
    assert_eq!(decide(&snapshot, LATER), ["a: wait (PoolNotReady)"]);
}

#[test]
fn bound_and_running_jobs_take_slots() {
    let snapshot = pool(2).with(member(0, true)).and(bound("a", 0, 0, 0)).and(running("b", 0, 0)).and(job("c", 1));
    assert_eq!(decide(&snapshot, 1), [""; 0]);
    assert_eq!(decide(&snapshot, 3), ["c: wait (WaitingForSlot)"]);
}

#[test]
fn a_bind_that_is_being_written_takes_its_slot() {
    let snapshot = pool(1).with(member(0, true)).and(job("a", 0)).and(job("b", 0));
    let snapshot = snapshot.held("a", Hold::Writing(Claim::Slot("pod-0".into())));
    assert_eq!(decide(&snapshot, 0), [""; 0]);
}

#[test]
fn a_job_that_comes_back_is_not_overtaken_while_that_is_written() {
    let leaving = Member { leaving: true, ..member(0, true) };
    let snapshot = pool(1).with(leaving).with(member(1, true)).and(bound("a", 0, 0, 0)).and(job("b", 1));
    let first = snapshot.plan(1);
    assert_eq!(tell(&first), ["a: unbind"]);
    let claim = first.decisions[0].action.claim();
    assert_eq!(decide(&snapshot.held("a", Hold::Writing(claim)), 1), [""; 0]);
}

#[test]
fn a_job_that_is_being_told_that_it_waits_is_not_overtaken() {
    let snapshot = pool(1).with(member(0, true)).and(job("a", 0)).and(job("b", 1));
    assert_eq!(decide(&snapshot.held("a", Hold::Writing(Claim::Turn)), 1), [""; 0]);
}

#[test]
fn nothing_is_decided_on_a_version_that_is_known_to_be_out_of_date() {
    let snapshot = pool(1).with(member(0, true)).and(job("a", 0)).held("a", Hold::Outdated);
    let plan = snapshot.plan(LATER);
    assert_eq!((tell(&plan), plan.look_again), (vec![], None));
}

#[test]
fn after_a_failed_write_the_job_is_looked_at_when_its_time_has_come() {
    let snapshot = pool(1).with(member(0, true)).and(job("a", 0)).held("a", Hold::Until(at(9)));
    let plan = snapshot.plan(8);
    assert_eq!((tell(&plan), plan.look_again), (vec![], Some(at(9))));
    assert_eq!(decide(&snapshot, 9), ["a -> main-0"]);
}

#[test]
fn a_member_that_turned_a_job_down_is_let_alone_for_a_moment() {
    let mut snapshot = pool(1).with(member(0, true)).and(job("a", 0));
    snapshot.declined.insert("pod-0".into(), at(2));
    let plan = snapshot.plan(1);
    assert_eq!((tell(&plan), plan.look_again), (vec![], Some(at(2))));
    assert_eq!(decide(&snapshot, 2), ["a -> main-0"]);
}

#[test]
fn a_job_bound_long_ago_moves_only_to_a_ready_member_with_a_free_slot() {
    let stuck = pool(1).with(member(0, false)).and(bound("a", 0, 0, 0));
    assert_eq!(stuck.plan(29).look_again, Some(at(30)));
    let plan = stuck.plan(LATER);
    assert_eq!((tell(&plan), plan.look_again), (vec![], None), "there is no better member");
    assert_eq!(decide(&stuck.clone().with(member(1, false)), LATER), [""; 0]);
    let better = stuck.with(member(1, true));
    assert_eq!(decide(&better, 29), [""; 0]);
    assert_eq!(decide(&better, 30), ["a: unbind"]);
    let busy = better.and(running("b", 0, 1));
    assert_eq!(decide(&busy, LATER), [""; 0]);
}

#[test]
fn one_free_slot_moves_one_job() {
    let snapshot = pool(2).with(member(0, false)).with(member(1, true));
    let snapshot = snapshot.and(running("r", 0, 1)).and(bound("a", 0, 0, 0)).and(bound("b", 0, 0, 0)).and(job("c", 1));
    assert_eq!(decide(&snapshot, 30), ["a: unbind", "c: wait (WaitingForSlot)"]);
}

#[test]
fn a_bound_job_leaves_a_pod_that_is_gone_or_going() {
    let leaving = Member { leaving: true, ..member(0, true) };
    assert_eq!(decide(&pool(1).with(leaving.clone()).and(bound("a", 0, 0, 0)), 0), ["a: unbind"]);
    assert_eq!(decide(&pool(1).and(bound("a", 0, 0, 0)), 0), ["a: unbind after a check"]);
    let gone = leaving.deleted(Gone::absent("main-0"));
    assert_eq!(decide(&pool(1).with(gone).and(bound("a", 0, 0, 0)), 0), ["a: unbind after a check"]);
}

#[test]
fn a_running_job_is_lost_only_with_its_pod() {
    let leaving = Member { leaving: true, ..member(0, false) };
    assert_eq!(decide(&pool(1).with(leaving.clone()).and(running("a", 0, 0)), LATER), [""; 0]);
    let gone = Gone { reason: FailureReason::NodeLost, message: "node n is gone".into() };
    let gone = Member { gone: Some(gone), ..leaving };
    assert_eq!(decide(&pool(1).with(gone).and(running("a", 0, 0)), 0), ["a: lost (NodeLost)"]);
    assert_eq!(decide(&pool(1).and(running("a", 0, 0)), 0), ["a: lost (PodEvicted)"]);
    // Another pod of the same name is another member.
    let successor = Member { uid: "pod-new".into(), ..member(0, true) };
    assert_eq!(decide(&pool(1).with(successor).and(running("a", 0, 0)), 0), ["a: lost (PodEvicted)"]);
}

#[test]
fn running_jobs_are_accounted_for_after_their_pool_is_gone() {
    let mut snapshot = pool(1).and(running("a", 0, 0));
    snapshot.pool = None;
    assert_eq!(decide(&snapshot, 0), ["a: lost (PodEvicted)"]);
}

#[test]
fn a_longer_timeout_than_the_pool_allows_is_refused_and_both_fields_are_named() {
    let mut greedy = job("a", 0);
    greedy.timeout = Some(Duration::from_mins(90));
    let plan = schedule(&pool(1).with(member(0, true)).and(greedy), at(0));
    let Action::Refuse { reason: FailureReason::PolicyDenied, message, .. } = &plan.decisions[0].action else {
        panic!("{plan:?}")
    };
    for word in ["spec.timeout (1h 30m)", "spec.maxBuildDuration (1h)", "\"main\""] {
        assert!(message.contains(word), "{message}");
    }
    let mut fitting = job("a", 0);
    fitting.timeout = Some(Duration::from_hours(1));
    assert_eq!(decide(&pool(1).with(member(0, true)).and(fitting), 0), ["a -> main-0"]);
}

#[test]
fn a_job_waits_half_a_minute_for_a_pool_that_is_not_there() {
    let mut snapshot = pool(1).and(job("a", 0));
    snapshot.pool = None;
    assert_eq!(snapshot.plan(0).look_again, Some(at(2)));
    assert_eq!(decide(&snapshot, 2), ["a: wait (PoolNotFound)"]);
    let plan = snapshot.plan(30);
    let Action::Refuse { reason: FailureReason::PoolNotFound, message, .. } = &plan.decisions[0].action else {
        panic!("{plan:?}")
    };
    assert!(message.starts_with("there is no BuildPool \"main\" in namespace \"team\"; "), "{message}");
    // The pool was there when the job came, and was deleted later.
    snapshot.missing_since = Some(at(20));
    assert_eq!(decide(&snapshot, 49), ["a: wait (PoolNotFound)"]);
    assert_eq!(decide(&snapshot, 50), ["a: refuse (PoolNotFound)"]);
}

#[test]
fn a_pool_that_is_being_deleted_gets_no_jobs() {
    let mut snapshot = pool(1).with(member(0, true)).and(job("a", 0));
    snapshot.pool.as_mut().unwrap().deleting = Some(at(10));
    assert_eq!(decide(&snapshot, 12), ["a: wait (PoolNotReady)"]);
    assert_eq!(decide(&snapshot, 39), ["a: wait (PoolNotReady)"]);
    assert_eq!(decide(&snapshot, 40), ["a: refuse (PoolUnavailable)"]);
    let mut patient = snapshot.job("uid-a").unwrap().clone();
    patient.when_pool_missing = WhenPoolMissing::Wait;
    assert_eq!(decide(&snapshot.and(patient), LATER), ["a: wait (PoolNotReady)"]);
}

#[test]
fn a_job_that_is_being_deleted_gets_no_slot_and_keeps_the_one_it_has() {
    let deleting = Job { deleting: true, ..job("a", 0) };
    assert_eq!(decide(&pool(1).with(member(0, true)).and(deleting).and(job("b", 1)), LATER), ["b -> main-0"]);
    let deleting = Job { deleting: true, ..running("a", 0, 0) };
    assert_eq!(decide(&pool(1).with(member(0, true)).and(deleting).and(job("b", 1)), 1), [""; 0]);
}

/// A job that has lost its attempts at these times, with these results.
fn lost(name: &str, attempts: &[(i64, &str)]) -> Job {
    let mut job = job(name, 0);
    job.status.attempts = (1..)
        .zip(attempts)
        .map(|(number, (finished, result))| Attempt {
            number,
            pod: "main-0".into(),
            pod_uid: "pod-0".into(),
            reference: format!("uid-{name}-{number}"),
            started_at: MicroTime(at(finished - 40)),
            finished_at: Some(MicroTime(at(*finished))),
            result: Some((*result).into()),
            message: None,
        })
        .collect();
    job
}

#[test]
fn after_a_lost_attempt_there_is_a_pause_and_only_then_a_wait_is_told() {
    let snapshot = pool(1).with(member(0, true)).and(lost("a", &[(50, "PodEvicted")]));
    assert_eq!(decide(&snapshot, 51), [""; 0]);
    let again = snapshot.plan(51).look_again.unwrap();
    assert_eq!(again, at(50) + retry::delay(1, "uid-a"));
    assert_eq!(decide(&snapshot, 53), ["a -> main-0"]);
    let full = snapshot.and(running("b", 0, 0));
    assert_eq!(decide(&full, 52), [""; 0]);
    assert_eq!(decide(&full, 53), ["a: wait (WaitingForSlot)"]);
    let twice = pool(1).with(member(0, true)).and(lost("a", &[(20, "PodEvicted"), (50, "DaemonLost")]));
    assert_eq!((decide(&twice, 53), decide(&twice, 55)), (vec![], vec!["a -> main-0".to_owned()]));
}

#[test]
fn whatever_the_state_slots_suffice_no_job_is_decided_twice_and_nobody_is_overtaken() {
    for seed in 0..3000_u64 {
        let mut dice = Dice::new(seed);
        let capacity = 1 + dice.below(3);
        let mut snapshot = pool(capacity);
        for ordinal in 0..dice.below(4) {
            let ordinal = u32::try_from(ordinal).unwrap();
            let leaving = dice.below(4) == 0;
            snapshot = snapshot.with(Member { leaving, ..member(ordinal, dice.below(2) == 0) });
        }
        for index in 0..dice.below(12) {
            let (name, created) = (format!("j{index}"), i64::try_from(dice.below(20)).unwrap());
            let ordinal = u32::try_from(dice.below(4)).unwrap();
            let next = match dice.below(4) {
                0 => bound(&name, created, ordinal, created),
                1 => running(&name, created, ordinal),
                _ => job(&name, created),
            };
            if next.status.phase == JobPhase::Pending && dice.below(6) == 0 {
                snapshot = snapshot.held(&name, Hold::Writing(Claim::Slot(format!("pod-{ordinal}"))));
            }
            snapshot = snapshot.and(next);
        }
        check(&snapshot, &snapshot.plan(40), capacity, seed);
    }
}

fn check(snapshot: &Snapshot, plan: &Plan, capacity: usize, seed: u64) {
    let mut decided: Vec<&str> = plan.decisions.iter().map(|decision| decision.job.uid.as_ref()).collect();
    let count = decided.len();
    decided.sort_unstable();
    decided.dedup();
    assert_eq!(decided.len(), count, "seed {seed}: a job was decided about twice: {plan:?}");

    let binds: Vec<(&Job, &str)> = plan
        .decisions
        .iter()
        .filter_map(|decision| match &decision.action {
            Action::Bind { member, .. } => Some((&decision.job, member.uid.as_str())),
            _ => None,
        })
        .collect();
    for member in snapshot.members.values() {
        let on = |uid: Option<&str>| uid == Some(member.uid.as_str());
        let had = snapshot.jobs().filter(|job| on(job.status.assigned_to.as_deref())).count();
        let reserved = snapshot.held.values().filter(|hold| **hold == Hold::Writing(Claim::Slot(member.uid.clone())));
        let new = binds.iter().filter(|(_, uid)| on(Some(*uid))).count();
        let used = had + reserved.count() + new;
        assert!(new == 0 || used <= capacity, "seed {seed}: {used} builds on {} with {capacity} slots", member.pod);
        assert!(new == 0 || !member.leaving, "seed {seed}: bound to a member on its way out");
    }
    let last = binds.iter().map(|(job, _)| (job.created, &job.key.1)).max();
    let free = |job: &&Job| job.status.phase == JobPhase::Pending && !snapshot.held.contains_key(&job.uid);
    for job in snapshot.jobs().filter(free) {
        let bound = binds.iter().any(|(other, _)| other.uid == job.uid);
        assert!(bound || last < Some((job.created, &job.key.1)), "seed {seed}: {} was overtaken", job.key.1);
    }
}
