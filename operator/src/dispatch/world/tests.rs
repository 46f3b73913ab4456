use std::collections::BTreeMap;
use std::time::Duration;

use buildpools_crds::lifecycle;
use buildpools_crds::v1alpha1::FailureReason;

use super::*;
use crate::dispatch::view::FairShare;

mod change;
mod many;
mod nodes;
mod routing;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + second).unwrap()
}

fn key(name: &str) -> Key {
    ("team".into(), name.into())
}

fn job(name: &str, version: &str) -> Job {
    Job {
        key: key(name),
        uid: format!("uid-{name}").into(),
        version: version.into(),
        created: at(0),
        target: Target::Named("main".into()),
        ..Job::default()
    }
}

fn bound(name: &str, version: &str) -> Job {
    let member = lifecycle::Member { pod: "main-0".into(), uid: "pod-0".into() };
    let job = job(name, version);
    Job { status: lifecycle::bind(&job.status, "main", &member, at(0)).unwrap(), ..job }
}

fn running(name: &str, version: &str) -> Job {
    let member = lifecycle::Member { pod: "main-0".into(), uid: "pod-0".into() };
    let job = bound(name, version);
    Job { status: lifecycle::start(&job.status, &job.uid, &member, "i", at(0)).unwrap(), ..job }
}

fn pool() -> Pool {
    Pool { builds_per_member: 1, max_build_duration: Duration::from_hours(1), ..Pool::default() }
}

fn member(uid: &str) -> (Key, Member) {
    (key("main"), Member { pod: "main-0".into(), uid: uid.into(), ready: true, ..Member::default() })
}

fn leaving(uid: &str) -> (Key, Member) {
    let (pool, member) = member(uid);
    (pool, Member { leaving: true, ..member })
}

fn has(job: Job) -> Seen {
    Seen::Job(Change::Has(job.key.clone(), Ok(Box::new(job))))
}

/// One pool with one member that has one slot, and these jobs.
fn world(jobs: Vec<Job>) -> World {
    let mut world = World::default();
    for seen in
        [Seen::Job(Change::Begin), Seen::Pool(Change::Begin), Seen::Pod(Change::Begin), Seen::Node(Change::Begin)]
    {
        world.see(seen, at(0));
    }
    for job in jobs {
        world.see(has(job), at(0));
    }
    world.see(Seen::Pool(Change::Has(key("main"), Ok(pool()))), at(0));
    world.see(Seen::Pod(Change::Has(key("main-0"), Ok(Some(member("pod-0"))))), at(0));
    for seen in [
        Seen::Job(Change::Complete),
        Seen::Pool(Change::Complete),
        Seen::Pod(Change::Complete),
        Seen::Node(Change::Complete),
    ] {
        world.see(seen, at(0));
    }
    world
}

/// Decides about everything that is due, and begins to write it, as the dispatcher does.
fn decide(world: &mut World, second: i64) -> Vec<Decision> {
    let mut all = Vec::new();
    for pool in world.due(at(second)) {
        for decision in world.plan(&pool, at(second)).decisions {
            world.begin(&decision, at(second));
            all.push(decision);
        }
    }
    all
}

fn bind(world: &mut World, second: i64) -> Job {
    let decisions = decide(world, second);
    assert!(matches!(decisions.as_slice(), [Decision { action: Action::Bind { .. }, .. }]), "{decisions:?}");
    decisions[0].job.clone()
}

#[test]
fn nothing_is_decided_before_each_watch_has_told_everything() {
    let mut world = World::default();
    for (seen, complete) in [
        (Seen::Pool(Change::Complete), false),
        (Seen::Pod(Change::Complete), false),
        (Seen::Node(Change::Complete), false),
        (has(job("a", "1")), false),
        (Seen::Job(Change::Begin), false),
        (Seen::Job(Change::Complete), true),
    ] {
        assert!(world.due(at(100)).is_empty() && world.next_look().is_none());
        world.see(seen, at(0));
        assert_eq!(world.is_synced(), complete);
    }
    assert_eq!(world.due(at(100)), [key("main")]);
}

#[test]
fn a_slot_is_given_once_though_the_watch_has_not_caught_up() {
    let mut world = world(vec![job("a", "1"), job("b", "2")]);
    let a = bind(&mut world, 0);
    assert_eq!(decide(&mut world, 0), []);
    world.settle(&a, Settled::Now(Box::new(bound("a", "3"))), at(0));
    assert_eq!(decide(&mut world, 0), [], "the answer stands in for the watch");
    // A list that is older than our write brings the old version once more.
    world.see(has(job("a", "1")), at(0));
    assert_eq!(decide(&mut world, 0), []);
    world.see(has(bound("a", "3")), at(0));
    assert_eq!(decide(&mut world, 0), []);
    // What comes after our write counts again.
    world.see(Seen::Job(Change::Gone(key("a"), None)), at(0));
    assert_eq!(bind(&mut world, 0).key, key("b"));
}

#[test]
fn a_watch_that_is_faster_than_the_answer_is_believed() {
    let mut world = world(vec![job("a", "1")]);
    let a = bind(&mut world, 0);
    world.see(has(bound("a", "2")), at(0));
    world.see(has(running("a", "3")), at(0));
    world.settle(&a, Settled::Now(Box::new(bound("a", "2"))), at(0));
    // Were the answer believed, the job would be unbound from a stopping pod. A running job is not.
    world.see(Seen::Pod(Change::Has(key("main-0"), Ok(Some(leaving("pod-0"))))), at(0));
    assert_eq!(decide(&mut world, 0), []);
}

#[test]
fn a_chain_of_writes_overtakes_every_version_that_the_watch_may_still_show() {
    let mut world = world(vec![job("a", "1")]);
    let first = bind(&mut world, 0);
    world.settle(&first, Settled::Now(Box::new(bound("a", "2"))), at(0));
    world.see(Seen::Pod(Change::Has(key("main-0"), Ok(Some(leaving("pod-0"))))), at(0));
    let second = decide(&mut world, 0).remove(0);
    assert!(matches!(second.action, Action::Unbind { .. }));
    assert_eq!(second.job.version, "2");
    world.settle(&second.job, Settled::Now(Box::new(job("a", "3"))), at(0));
    for late in [job("a", "1"), bound("a", "2"), job("a", "3")] {
        world.see(has(late), at(0));
        assert_eq!(decide(&mut world, 0), []);
    }
}

#[test]
fn after_a_conflict_the_job_waits_for_the_watch() {
    let mut world = world(vec![job("a", "1")]);
    let a = bind(&mut world, 0);
    world.settle(&a, Settled::Conflict, at(0));
    assert_eq!(decide(&mut world, 100), []);
    assert_eq!(world.next_look(), None, "and not for a timer");
    world.see(has(job("a", "2")), at(100));
    assert_eq!(bind(&mut world, 100).version, "2");
}

#[test]
fn a_conflict_that_the_watch_has_explained_already_holds_nothing_up() {
    let mut world = world(vec![job("a", "1")]);
    let a = bind(&mut world, 0);
    world.see(has(job("a", "2")), at(0));
    assert_eq!(decide(&mut world, 0), []);
    world.settle(&a, Settled::Conflict, at(0));
    assert_eq!(bind(&mut world, 0).version, "2");
}

#[test]
fn a_failed_write_is_decided_anew_when_its_time_has_come() {
    let mut world = world(vec![job("a", "1")]);
    let a = bind(&mut world, 0);
    world.settle(&a, Settled::Failed(at(5)), at(0));
    assert_eq!(decide(&mut world, 4), []);
    assert_eq!(world.next_look(), Some(at(5)));
    assert_eq!(bind(&mut world, 5).key, key("a"));
}

#[test]
fn an_answer_for_a_job_that_is_gone_changes_nothing() {
    let mut world = world(vec![job("a", "1")]);
    let a = bind(&mut world, 0);
    world.see(Seen::Job(Change::Gone(key("a"), None)), at(0));
    // Another job of the same name.
    world.see(has(Job { uid: "other".into(), ..job("a", "7") }), at(0));
    world.settle(&a, Settled::Now(Box::new(bound("a", "2"))), at(0));
    assert_eq!(&*bind(&mut world, 0).uid, "other");
}

#[test]
fn what_a_new_list_does_not_have_is_gone() {
    let mut world = world(vec![bound("a", "1"), job("b", "2")]);
    assert_eq!(decide(&mut world, 0), []);
    world.see(Seen::Job(Change::Begin), at(0));
    world.see(has(job("b", "2")), at(0));
    assert_eq!(decide(&mut world, 0), [], "a list that is not complete takes nothing away");
    world.see(Seen::Job(Change::Complete), at(0));
    assert_eq!(bind(&mut world, 0).key, key("b"));
}

#[test]
fn a_job_that_cannot_be_read_keeps_its_slot_and_stops_nobody() {
    let mut world = world(vec![bound("a", "1"), job("b", "2")]);
    world.see(Seen::Job(Change::Has(key("a"), Err("attempt: expected i32".into()))), at(0));
    world.see(Seen::Job(Change::Has(key("never-read"), Err("spec: missing".into()))), at(0));
    assert_eq!(decide(&mut world, 0), []);
    for seen in [Change::Begin, Change::Has(key("a"), Err(String::new())), Change::Complete] {
        world.see(Seen::Job(seen), at(0));
    }
    world.see(has(job("c", "3")), at(0));
    assert_eq!(decide(&mut world, 0), [], "a has the slot");
    world.see(Seen::Job(Change::Gone(key("a"), None)), at(0));
    assert_eq!(bind(&mut world, 0).key, key("c"));
}

#[test]
fn a_pool_that_cannot_be_read_is_there() {
    let mut world = world(vec![]);
    world.see(Seen::Pool(Change::Has(key("odd"), Err("spec.scaling: …".into()))), at(0));
    world.see(has(Job { target: Target::Named("odd".into()), ..job("a", "1") }), at(0));
    let actions: Vec<_> = decide(&mut world, 1000).into_iter().map(|decision| decision.action).collect();
    assert!(matches!(actions.as_slice(), [Action::Wait { .. }]), "{actions:?}");
}

#[test]
fn a_pod_that_was_replaced_under_its_name_is_gone_and_told_until_its_job_is_written() {
    let mut world = world(vec![running("a", "1")]);
    let evicted = Member {
        gone: Some(super::super::view::Gone { reason: FailureReason::NodeLost, message: "node n is gone".into() }),
        ..member("pod-0").1
    };
    world.see(Seen::Pod(Change::Gone(key("main-0"), Some(Some((key("main"), evicted))))), at(0));
    world.see(Seen::Pod(Change::Has(key("main-0"), Ok(Some(member("pod-1"))))), at(0));
    let lost = decide(&mut world, 0).remove(0);
    assert!(matches!(&lost.action, Action::Lost { gone, .. } if gone.reason == FailureReason::NodeLost), "{lost:?}");
    world.settle(&lost.job, Settled::Now(Box::new(job("a", "2"))), at(0));
    let again = decide(&mut world, 0).remove(0);
    assert!(matches!(&again.action, Action::Bind { member, .. } if member.uid == "pod-1"), "{again:?}");
}

#[test]
fn a_member_that_gives_a_job_back_gets_it_again_after_a_moment_only() {
    let mut world = world(vec![bound("a", "1")]);
    assert_eq!(decide(&mut world, 0), []);
    world.see(has(job("a", "2")), at(0));
    assert_eq!(decide(&mut world, 0), []);
    assert_eq!(world.next_look(), Some(at(1)));
    assert_eq!(bind(&mut world, 1).key, key("a"));
}

#[test]
fn members_that_report_in_the_pools_status_wake_nobody() {
    let mut world = world(vec![]);
    let _ = decide(&mut world, 0);
    world.see(Seen::Pool(Change::Has(key("main"), Ok(pool()))), at(0));
    world.see(Seen::Pod(Change::Has(key("main-0"), Ok(Some(member("pod-0"))))), at(0));
    assert!(world.due(at(0)).is_empty());
}

#[test]
fn nothing_is_kept_of_what_is_gone() {
    let mut world = world(vec![bound("a", "1")]);
    world.see(Seen::Job(Change::Gone(key("a"), None)), at(0));
    world.see(Seen::Pod(Change::Gone(key("main-0"), None)), at(0));
    world.see(Seen::Pool(Change::Gone(key("main"), None)), at(0));
    assert_eq!(decide(&mut world, 0), []);
    assert!(world.pools.is_empty() && world.jobs.is_empty() && world.pods.is_empty());
}

#[test]
fn what_a_group_has_built_counts_once_whether_seen_or_told() {
    let used = |world: &World| world.pools[&key("main")].snapshot.usage.of("", at(600)).round();
    let told = |finished: i64| {
        Seen::Finished(Finished {
            pool: key("main"),
            labels: BTreeMap::new(),
            started: at(finished - 100),
            finished: at(finished),
            cache_key: Some(7),
        })
    };
    let mut world = world(vec![running("a", "1")]);
    world.see(told(-5), at(1));
    assert_eq!(decide(&mut world, 1), []);
    let seeded = used(&world);
    assert!((80.0..100.0).contains(&seeded), "{seeded}");
    world.see(Seen::Job(Change::Gone(key("a"), None)), at(600));
    assert!((used(&world) - seeded - 600.0).abs() <= 1.0, "{}", used(&world));
    // The same build, from the list of those that have ended.
    let before = used(&world);
    world.see(told(600), at(601));
    assert!((used(&world) - before).abs() <= 1.0);
}
