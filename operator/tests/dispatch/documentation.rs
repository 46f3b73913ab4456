//! The examples of the documentation are what the API takes, and mean what is said of them.

use buildpools_crds::v1alpha1::{BuildJob, BuildPool, WhenPoolMissing};
use buildpools_operator::dispatch::job::{Job, Target};
use buildpools_operator::dispatch::routing;
use buildpools_operator::dispatch::view::Pool;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

const JOBS: &str = include_str!("../../../docs/jobs.md");
const POOLS: &str = include_str!("../../../docs/pools.md");

/// The examples of one kind, each with all of its fields known to the API.
fn examples<K: Serialize + DeserializeOwned>(page: &str, kind: &str) -> Vec<K> {
    let blocks = page.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let values = blocks.map(|block| serde_yaml::from_str::<Value>(block).unwrap());
    let of_kind = values.filter(|value| value["kind"] == kind);
    of_kind
        .map(|value| {
            let object: K = serde_json::from_value(value.clone()).unwrap();
            assert_has(&serde_json::to_value(&object).unwrap(), &value, kind);
            object
        })
        .collect()
}

/// Whether everything that is written down is there.
fn assert_has(object: &Value, example: &Value, path: &str) {
    match example {
        Value::Object(fields) => {
            for (name, field) in fields {
                assert_has(&object[name], field, &format!("{path}.{name}"));
            }
        }
        // A duration is read as such and written in seconds.
        Value::String(_) if object != example => assert_eq!(duration(object), duration(example), "{path}"),
        _ => assert_eq!(object, example, "{path}"),
    }
}

fn duration(value: &Value) -> kube::core::Duration {
    serde_json::from_value(value.clone()).unwrap()
}

#[test]
fn the_examples_mean_what_is_said_of_them() {
    let jobs: Vec<Job> = examples::<BuildJob>(JOBS, "BuildJob").into_iter().map(Job::of).collect();
    let pools: Vec<Pool> = examples::<BuildPool>(POOLS, "BuildPool").iter().map(Pool::of).collect();
    let ([hotfix, large], [pool]) = (jobs.as_slice(), pools.as_slice()) else { panic!("{jobs:?} {pools:?}") };

    assert_eq!(hotfix.priority, 50);
    assert_eq!(hotfix.may_wait(Some(pool)).unwrap().as_secs(), 15 * 60);
    assert_eq!(large.may_wait(Some(pool)).unwrap().as_secs(), 60 * 60, "the pool's");
    assert_eq!(large.when_pool_missing, WhenPoolMissing::Wait);

    let share = pool.fair_share.as_ref().unwrap();
    assert_eq!(share.weights[&hotfix.labels[&share.label]], 3);

    assert!(matches!(large.target, Target::Matching(_)) && routing::matches(&large.target, "main", pool));
    assert!(routing::matches(&hotfix.target, "main", pool) && !routing::matches(&hotfix.target, "other", pool));
    let plain = Pool::default();
    assert_eq!(routing::default_pool([("main", pool), ("other", &plain)].into_iter()), Some("main"));
}
