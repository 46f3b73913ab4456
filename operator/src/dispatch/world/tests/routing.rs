//! Jobs that name no pool.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::*;

fn labelled(size: &str) -> Pool {
    Pool { labels: [("size".to_owned(), size.to_owned())].into(), ..pool() }
}

fn put_pool(world: &mut World, name: &str, pool: Pool) {
    world.see(Seen::Pool(Change::Has(key(name), Ok(pool))), at(0));
    let member = Member { pod: format!("{name}-0"), uid: format!("pod-{name}"), ready: true, ..Member::default() };
    world.see(Seen::Pod(Change::Has(key(&format!("{name}-0")), Ok(Some((key(name), member))))), at(0));
}

fn selecting(name: &str, size: &str) -> Job {
    let selector: LabelSelector = serde_json::from_value(serde_json::json!({"matchLabels": {"size": size}})).unwrap();
    Job { target: Target::Matching(selector.into()), ..job(name, "1") }
}

fn nameless(name: &str) -> Job {
    Job { target: Target::Default, ..job(name, "1") }
}

/// Job and pool of each binding, and what else was decided.
fn told(decisions: &[Decision]) -> Vec<String> {
    let tell = |decision: &Decision| match &decision.action {
        Action::Bind { pool, .. } => format!("{} -> {pool}", decision.job.key.1),
        Action::Refuse { reason, .. } => format!("{} refused: {}", decision.job.key.1, reason.as_str()),
        other => format!("{} {}", decision.job.key.1, other.name()),
    };
    decisions.iter().map(tell).collect()
}

/// The bindings are acknowledged, and the builds run.
fn run(world: &mut World, decisions: Vec<Decision>, second: i64) {
    for Decision { job, action, .. } in decisions {
        let Action::Bind { pool, member, .. } = action else { panic!("{action:?}") };
        let status = lifecycle::bind(&job.status, &pool, &member, at(second)).unwrap();
        let status = lifecycle::start(&status, &job.uid, &member, "i", at(second)).unwrap();
        let now = Job { status, version: "9".into(), ..job.clone() };
        world.settle(&job, Settled::Now(Box::new(now)), at(second));
    }
}

#[test]
fn a_job_goes_to_a_pool_that_matches_whoever_comes_first() {
    // The pool that `world` makes has no label.
    let mut early = world(vec![selecting("a", "large")]);
    assert_eq!(decide(&mut early, 0), []);
    put_pool(&mut early, "small", labelled("small"));
    assert_eq!(decide(&mut early, 1), []);
    put_pool(&mut early, "large", labelled("large"));
    assert_eq!(told(&decide(&mut early, 1)), ["a -> large"]);
    let mut late = world(vec![]);
    put_pool(&mut late, "large", labelled("large"));
    late.see(has(selecting("a", "large")), at(0));
    assert_eq!(told(&decide(&mut late, 0)), ["a -> large"]);
    // None comes.
    let mut never = world(vec![selecting("a", "large")]);
    assert_eq!(told(&decide(&mut never, 29)), ["a Wait"]);
    assert_eq!(told(&decide(&mut world(vec![selecting("a", "large")]), 30)), ["a refused: PoolNotFound"]);
}

#[test]
fn jobs_that_name_nothing_go_to_the_default_pool() {
    let mut only = world(vec![nameless("a")]);
    assert_eq!(told(&decide(&mut only, 0)), ["a -> main"]);
    let mut several = world(vec![]);
    put_pool(&mut several, "second", Pool { is_default: true, ..pool() });
    several.see(has(nameless("a")), at(0));
    assert_eq!(told(&decide(&mut several, 0)), ["a -> second"]);
    let mut unmarked = world(vec![]);
    put_pool(&mut unmarked, "second", pool());
    unmarked.see(has(nameless("a")), at(0));
    assert_eq!(decide(&mut unmarked, 0), []);
    put_pool(&mut unmarked, "second", Pool { is_default: true, ..pool() });
    assert_eq!(told(&decide(&mut unmarked, 0)), ["a -> second"]);
}

#[test]
fn several_pools_share_the_load_and_a_project_returns_to_its_cache() {
    let mut world = world(vec![]);
    put_pool(&mut world, "one", labelled("large"));
    put_pool(&mut world, "two", labelled("large"));
    for name in ["a", "b", "c"] {
        world.see(has(Job { cache_key: 7, ..selecting(name, "large") }), at(0));
    }
    let first = decide(&mut world, 0);
    let mut pools: Vec<String> = told(&first).iter().map(|line| line[5..].to_owned()).collect();
    run(&mut world, first, 0);
    pools.sort();
    assert_eq!(pools, ["one", "two"], "the third waits");
    // A slot becomes free in the pool for which it does not wait.
    let [waiting, other] = if world.jobs[&key("c")].0 == key("one") { ["one", "two"] } else { ["two", "one"] };
    let done = ["a", "b"].map(key).into_iter().find(|job| world.jobs[job].0 == key(other)).unwrap();
    world.see(Seen::Job(Change::Gone(done, None)), at(5));
    let taken_over = decide(&mut world, 5);
    assert_eq!(told(&taken_over), [format!("c -> {other}")]);
    run(&mut world, taken_over, 5);
    // All are free: the project goes where it was last.
    for name in ["a", "b", "c"] {
        world.see(Seen::Job(Change::Gone(key(name), None)), at(6));
    }
    assert_eq!(decide(&mut world, 6), []);
    world.see(has(Job { cache_key: 7, ..selecting("d", "large") }), at(6));
    assert_eq!(told(&decide(&mut world, 6)), [format!("d -> {other}")]);
    assert_ne!(waiting, other);
}

#[test]
fn a_pool_that_goes_sends_its_waiting_jobs_on() {
    let mut world = world(vec![]);
    put_pool(&mut world, "one", Pool { builds_per_member: 0, ..labelled("large") });
    world.see(has(selecting("a", "large")), at(0));
    assert_eq!(decide(&mut world, 0), []);
    assert_eq!(world.jobs[&key("a")].0, key("one"));
    put_pool(&mut world, "two", labelled("large"));
    assert_eq!(told(&decide(&mut world, 0)), ["a -> two"], "a pool that has a slot takes it over");
    let mut gone = super::world(vec![]);
    put_pool(&mut gone, "one", Pool { builds_per_member: 0, ..labelled("large") });
    gone.see(has(selecting("a", "large")), at(0));
    assert_eq!(decide(&mut gone, 0), []);
    put_pool(&mut gone, "two", Pool { builds_per_member: 0, ..labelled("large") });
    gone.see(Seen::Pool(Change::Has(key("one"), Ok(Pool { deleting: Some(at(1)), ..labelled("large") }))), at(1));
    assert_eq!(decide(&mut gone, 1), []);
    assert_eq!(gone.jobs[&key("a")].0, key("two"));
    gone.see(Seen::Pool(Change::Gone(key("two"), None)), at(1));
    assert_eq!(decide(&mut gone, 1), []);
    assert_eq!(gone.jobs[&key("a")].0, key(""));
}

#[test]
fn a_job_stays_in_its_pool_when_the_operator_is_restarted() {
    let mut told = selecting("a", "large");
    told.status.pool = Some("two".into());
    let mut world = world(vec![told]);
    for name in ["one", "two", "three"] {
        put_pool(&mut world, name, labelled("large"));
    }
    assert_eq!(super::routing::told(&decide(&mut world, 0)), ["a -> two"]);
}

#[test]
fn an_old_version_does_not_take_a_job_out_of_a_pool_that_goes() {
    let mut world = world(vec![]);
    put_pool(&mut world, "one", labelled("large"));
    world.see(has(selecting("a", "large")), at(0));
    let bound = decide(&mut world, 0);
    run(&mut world, bound, 0);
    world.see(Seen::Pool(Change::Has(key("one"), Ok(Pool { deleting: Some(at(1)), ..labelled("large") }))), at(1));
    // The watch still shows what was before the bind.
    world.see(has(selecting("a", "large")), at(1));
    assert_eq!(decide(&mut world, 1), []);
    assert_eq!(world.jobs[&key("a")].0, key("one"));
}

#[test]
fn nothing_is_kept_of_jobs_that_are_gone() {
    let mut world = world(vec![selecting("a", "large"), nameless("b")]);
    put_pool(&mut world, "large", Pool { builds_per_member: 0, ..labelled("large") });
    let _ = decide(&mut world, 0);
    for name in ["a", "b"] {
        world.see(Seen::Job(Change::Gone(key(name), None)), at(0));
    }
    let large = key("large");
    assert_eq!(world.routes.flexible(&large, &labelled("large")).count(), 0);
    assert_eq!(decide(&mut world, 0), []);
    assert!(world.jobs.is_empty() && !world.pools.contains_key(&key("")));
}
