//! What a pool says of itself.

use buildpools_crds::conditions;
use buildpools_operator::pool::problem::Problem;
use buildpools_operator::pool::status::compute;
use jiff::ToSpan as _;
use k8s_openapi::api::apps::v1::StatefulSet;
use serde_json::{from_value, json};

use crate::fixtures::{minimal, now, observed, pod, ready_status};

fn set() -> StatefulSet {
    from_value(json!({
        "metadata": {"name": "fast", "uid": "set", "generation": 1},
        "spec": {"replicas": 2, "selector": {}, "template": {}},
        "status": {"replicas": 2, "observedGeneration": 1, "updateRevision": "fast-newer"},
    }))
    .unwrap()
}

#[test]
fn ready_with_one_member_and_the_outdated_are_named() {
    let mut seen = observed(&minimal());
    seen.live.stateful_set = Some(set());
    seen.pods = vec![from_value(pod("fast-0", "set", &ready_status())).unwrap()];
    let status = compute(&seen, Ok(&set()), now());
    let ready = conditions::find(&status.conditions, "Ready").unwrap();
    assert_eq!((ready.status.as_str(), ready.reason.as_str()), ("True", "Ready"));
    assert_eq!(
        ready.message,
        "1 of 2 members are ready; of an older form of the pool: fast-0; to replace them: kubectl delete pod fast-0 (each finishes its builds first)"
    );
    assert_eq!((status.ready_members, status.observed_generation), (Some(1), Some(1)));
}

#[test]
fn without_members_it_is_not_ready() {
    let status = compute(&observed(&minimal()), Ok(&set()), now());
    let ready = conditions::find(&status.conditions, "Ready").unwrap();
    assert_eq!((ready.status.as_str(), ready.reason.as_str()), ("False", "MembersNotReady"));
    assert_eq!(ready.message, "0 of 2 members are ready");

    let problem = [Problem::ForeignVolume { name: "cache-fast-0".into() }];
    let status = compute(&observed(&minimal()), Err(&problem), now());
    let message = &conditions::find(&status.conditions, "Ready").unwrap().message;
    assert!(message.starts_with("0 of 1 members are ready; "), "{message}");
}

#[test]
fn a_pool_that_cannot_be_changed_still_counts_its_members() {
    let mut seen = observed(&minimal());
    seen.live.stateful_set = Some(set());
    seen.pods = vec![from_value(pod("fast-0", "set", &ready_status())).unwrap()];
    let problems = [
        Problem::ForeignVolume { name: "cache-fast-1".into() },
        Problem::QuantityInvalid { field: "spec.cache.size".into(), value: "x".into() },
    ];
    let status = compute(&seen, Err(&problems), now());
    let ready = conditions::find(&status.conditions, "Ready").unwrap();
    assert_eq!((ready.status.as_str(), ready.reason.as_str()), ("False", "NameConflict"));
    assert!(
        ready.message.starts_with("1 of 2 members are ready; PersistentVolumeClaim cache-fast-1"),
        "{}",
        ready.message
    );
    assert!(ready.message.contains("; spec.cache.size: \"x\" is not"), "{}", ready.message);
    assert_eq!(status.ready_members, Some(1));
}

#[test]
fn nothing_new_is_no_change_and_time_alone_is_nothing_new() {
    let mut seen = observed(&minimal());
    let first = compute(&seen, Ok(&set()), now());
    seen.pool.status = Some(first.clone());
    assert_eq!(compute(&seen, Ok(&set()), now() + 1.hour()), first);
}

#[test]
fn entries_of_pods_that_are_gone_are_dropped_and_others_kept_as_they_are() {
    let mut seen = observed(&minimal());
    // A pod that ends still has its entry: its runner drains.
    let mut ending = pod("fast-1", "set", &ready_status());
    ending["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    seen.pods = [pod("fast-0", "set", &ready_status()), ending].into_iter().map(|p| from_value(p).unwrap()).collect();
    let entry = |uid: &str| json!({"uid": uid, "pod": "p", "builds": 1, "version": "v0.33.1", "warnings": ["w"]});
    let members = json!([entry("uid-of-fast-0"), entry("gone"), entry("uid-of-fast-1")]);
    seen.pool.status = Some(from_value(json!({"members": members})).unwrap());
    let status = compute(&seen, Ok(&set()), now());
    assert_eq!(serde_json::to_value(&status.members).unwrap(), json!([entry("uid-of-fast-0"), entry("uid-of-fast-1")]));
}
