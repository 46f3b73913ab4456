use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + second).unwrap()
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A job of pool `main` that succeeded at that second.
fn job(finished: i64) -> Record {
    let at = at(finished);
    Record {
        uid: "u".into(),
        version: "1".into(),
        pool: Some("main".into()),
        succeeded: true,
        finished: at,
        ..Record::default()
    }
}

fn namespace(rules: Rules, jobs: impl IntoIterator<Item = (&'static str, Record)>) -> Namespace {
    Namespace {
        jobs: jobs.into_iter().map(|(name, job)| (name.into(), job)).collect(),
        pools: [("main".into(), rules)].into(),
    }
}

/// What goes at that second, and the second of the next look.
fn go(namespace: &Namespace, second: i64) -> (Vec<(String, Why)>, Option<i64>) {
    let plan = plan(namespace, at(second));
    let deletions = plan.deletions.iter().map(|deletion| (deletion.name.to_string(), deletion.why)).collect();
    (deletions, plan.look_again.map(|when| when.as_second() - 1_000_000))
}

fn expired(names: &[&str]) -> Vec<(String, Why)> {
    names.iter().map(|name| ((*name).to_owned(), Why::Expired)).collect()
}

fn over(names: &[&str]) -> Vec<(String, Why)> {
    names.iter().map(|name| ((*name).to_owned(), Why::OverLimit)).collect()
}

#[test]
fn nothing_goes_unless_somebody_says_so() {
    let jobs = [("a", job(0)), ("b", Record { succeeded: false, ..job(0) }), ("c", Record { pool: None, ..job(0) })];
    assert_eq!(go(&namespace(Rules::default(), jobs), 1_000_000), (vec![], None));
}

#[test]
fn a_job_goes_when_its_time_is_over_by_its_own_word_or_else_by_its_pools() {
    let rules = Rules { ttl: Some(seconds(100)), ..Rules::default() };
    let namespace = namespace(
        rules,
        [
            ("own", Record { ttl: Some(seconds(10)), ..job(0) }),
            ("longer", Record { ttl: Some(seconds(1000)), ..job(0) }),
            ("pools", job(0)),
            ("elsewhere", Record { pool: Some("other".into()), ..job(0) }),
            ("nowhere", Record { pool: None, ttl: Some(seconds(20)), ..job(0) }),
        ],
    );
    assert_eq!(go(&namespace, 9), (vec![], Some(10)));
    assert_eq!(go(&namespace, 10), (expired(&["own"]), Some(20)));
    assert_eq!(go(&namespace, 20), (expired(&["nowhere", "own"]), Some(100)));
    assert_eq!(go(&namespace, 1000), (expired(&["longer", "nowhere", "own", "pools"]), None));
}

#[test]
fn a_time_of_zero_is_over_at_once_and_one_beyond_all_times_never() {
    let never = Record { ttl: Some(Duration::MAX), ..job(0) };
    let namespace = namespace(Rules::default(), [("a", Record { ttl: Some(seconds(0)), ..job(0) }), ("b", never)]);
    assert_eq!(plan(&namespace, at(0)).deletions.len(), 1);
    assert_eq!(plan(&namespace, at(0)).look_again, Some(Timestamp::MAX));
}

#[test]
fn of_too_many_the_oldest_go_by_their_end_then_by_name() {
    let rules = Rules { succeeded: Some(2), failed: Some(1), ..Rules::default() };
    let failed = |finished| Record { succeeded: false, ..job(finished) };
    let namespace = namespace(
        rules,
        [
            ("d", job(1)),
            ("c", job(1)),
            ("b", job(3)),
            ("a", job(0)),
            ("x", failed(5)),
            ("y", failed(4)),
            ("z", Record { pool: Some("other".into()), ..job(0) }),
        ],
    );
    assert_eq!(go(&namespace, 9), (over(&["y", "a", "c"]), None));
}

#[test]
fn a_limit_of_zero_keeps_none_and_one_that_is_not_reached_all() {
    let jobs = || [("a", job(0)), ("b", job(1))];
    for (limit, gone) in [(0, over(&["a", "b"])), (1, over(&["a"])), (2, vec![]), (3, vec![])] {
        let rules = Rules { succeeded: Some(limit), ..Rules::default() };
        assert_eq!(go(&namespace(rules, jobs()), 9).0, gone, "{limit}");
    }
}

#[test]
fn jobs_that_go_anyway_or_are_gone_are_not_counted() {
    let rules = Rules { succeeded: Some(1), ..Rules::default() };
    let namespace = namespace(
        rules,
        [
            ("a", job(0)),
            ("expired", Record { ttl: Some(seconds(1)), ..job(5) }),
            ("deleting", Record { deleting: true, ..job(6) }),
        ],
    );
    assert_eq!(go(&namespace, 9).0, expired(&["expired"]));
}

#[test]
fn jobs_that_somebody_else_keeps_are_neither_counted_nor_deleted_but_by_their_own_word() {
    let rules = Rules { succeeded: Some(1), ttl: Some(seconds(50)), ..Rules::default() };
    let owned = |finished| Record { owned: true, ..job(finished) };
    let namespace = namespace(
        rules,
        [
            ("a", job(0)),
            ("b", job(1)),
            ("owned-a", owned(0)),
            ("owned-b", owned(9)),
            ("owned-c", Record { ttl: Some(seconds(5)), ..owned(1) }),
        ],
    );
    assert_eq!(go(&namespace, 10), ([expired(&["owned-c"]), over(&["a"])].concat(), Some(50)));
    assert_eq!(go(&namespace, 1000).0, expired(&["a", "b", "owned-c"]));
}

#[test]
fn what_is_under_way_is_left_alone_and_what_failed_has_its_time() {
    let rules = Rules { succeeded: Some(0), ..Rules::default() };
    let held = |hold| Record { hold: Some(hold), ..job(0) };
    let namespace = namespace(
        rules,
        [
            ("failed", held(Hold::Until(at(20), 1))),
            ("outdated", held(Hold::Outdated)),
            ("writing", held(Hold::Writing { failures: 0 })),
        ],
    );
    assert_eq!(go(&namespace, 19), (vec![], Some(20)));
    assert_eq!(go(&namespace, 20), (over(&["failed"]), None));
}

#[test]
fn rules_are_those_of_the_pool() {
    let pool = serde_json::json!({
        "metadata": {"name": "main"},
        "spec": {
            "cache": {"size": "1Gi"}, "jobDefaults": {"ttlAfterFinished": "1h30m"},
            "successfulJobsHistoryLimit": 3, "failedJobsHistoryLimit": 0,
        },
    });
    let expected = Rules { ttl: Some(seconds(5400)), succeeded: Some(3), failed: Some(0) };
    assert_eq!(Rules::of(&serde_json::from_value(pool).unwrap()), expected);
}
