//! What a pool says of itself.

use buildpools_crds::conditions;
use buildpools_operator::pool::problem::Problem;
use buildpools_operator::pool::status::compute;
use jiff::ToSpan as _;
use k8s_openapi::api::apps::v1::StatefulSet;
use serde_json::{Value, from_value, json};

use crate::fixtures::{minimal, now, observed, pod, ready_status};

fn set() -> StatefulSet {
    from_value(json!({
        "metadata": {"name": "fast", "uid": "set", "generation": 1},
        "spec": {"replicas": 2, "selector": {}, "template": {}},
        "status": {"replicas": 2, "observedGeneration": 1, "updateRevision": "fast-newer"},
    }))
    .unwrap()
}

/// The same with the revision that pods have.
fn current() -> StatefulSet {
    let mut set = set();
    set.status.as_mut().unwrap().update_revision = Some("fast-new".to_owned());
    set
}

#[test]
fn ready_with_one_member_and_the_outdated_is_to_be_replaced() {
    let mut seen = observed(&minimal());
    seen.live.stateful_set = Some(set());
    seen.pods = vec![from_value(pod("fast-0", "set", &ready_status())).unwrap()];
    let status = compute(&seen, Ok(&set()), now());
    let ready = conditions::find(&status.conditions, "Ready").unwrap();
    assert_eq!((ready.status.as_str(), ready.reason.as_str()), ("True", "Ready"));
    assert_eq!(ready.message, "1 of 2 members are ready");
    assert_eq!((status.ready_members, status.observed_generation), (Some(1), Some(1)));
    assert_eq!(status.member_summary.as_deref(), Some("1/2"));
    // The other member is missing, so this one is let alone.
    let upgrading = conditions::find(&status.conditions, "Upgrading").unwrap();
    assert_eq!((upgrading.status.as_str(), upgrading.reason.as_str()), ("True", "Replacing"));
    assert!(conditions::is_true(&status.conditions, "Reconciling"), "for kstatus it is not done");
    assert_eq!(status.upgrade.unwrap().draining, None);
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
    seen.live.stateful_set = Some(set());
    let status = compute(&seen, Ok(&set()), now());
    let kept = |uid: &str, phase: &str| {
        let mut kept = entry(uid);
        kept["phase"] = json!(phase);
        kept
    };
    assert_eq!(
        serde_json::to_value(&status.members).unwrap(),
        json!([kept("uid-of-fast-0", "Ready"), kept("uid-of-fast-1", "Terminating")])
    );
}

#[test]
fn every_member_has_a_phase_from_the_beginning() {
    let mut seen = observed(&minimal());
    seen.live.stateful_set = Some(current());
    let on_node = |name: &str, status: Value| {
        let mut pod = pod(name, "set", &status);
        pod["spec"] = json!({"nodeName": "n", "containers": []});
        pod
    };
    let lost = json!({
        "phase": "Running", "conditions": [{"type": "Ready", "status": "False"}],
        "containerStatuses": [{"name": "runner", "image": "", "imageID": "", "restartCount": 0, "ready": true}],
    });
    let mut far = on_node("fast-3", lost);
    far["spec"]["nodeName"] = json!("lost");
    let pods = [
        on_node("fast-10", ready_status()),
        on_node("fast-2", json!({"phase": "Pending"})),
        pod("fast-1", "set", &json!({"phase": "Pending"})),
        far,
        on_node("fast-0", ready_status()),
    ];
    seen.pods = pods.into_iter().map(|pod| from_value(pod).unwrap()).collect();
    seen.unreachable_nodes = ["lost".to_owned()].into();
    let old = json!({"uid": "uid-of-fast-0", "pod": "fast-0", "builds": 0, "version": "v0.22.0"});
    seen.pool.status = Some(from_value(json!({"members": [old]})).unwrap());
    let status = compute(&seen, Ok(&current()), now());
    let phases: Vec<(&str, &str)> =
        status.members.iter().map(|member| (member.pod.as_str(), member.phase.unwrap().as_str())).collect();
    assert_eq!(
        phases,
        [
            ("fast-0", "Unsupported"),
            ("fast-1", "Pending"),
            ("fast-2", "Starting"),
            ("fast-3", "Unreachable"),
            ("fast-10", "Ready"),
        ]
    );
}

#[test]
fn a_buildkit_that_is_too_old_makes_the_pool_not_ready_and_says_which_field() {
    let mut seen = observed(&minimal());
    seen.live.stateful_set = Some(current());
    seen.pods = vec![from_value(pod("fast-0", "set", &ready_status())).unwrap()];
    let entry = |version: &str| json!({"members": [{"uid": "uid-of-fast-0", "pod": "fast-0", "version": version}]});
    seen.pool.status = Some(from_value(entry("v0.31.1")).unwrap());
    let status = compute(&seen, Ok(&current()), now());
    let ready = conditions::find(&status.conditions, "Ready").unwrap();
    assert_eq!((ready.status.as_str(), ready.reason.as_str()), ("False", "BuildKitTooOld"));
    assert_eq!(
        ready.message,
        "0 of 2 members are ready; BuildKit v0.31.1 of pod fast-0 is older than v0.31.2, so it takes no builds: set \
         spec.buildkit.image to an image of v0.31.2 or newer"
    );
    assert!(
        conditions::is_true(&status.conditions, "Stalled") && !conditions::is_true(&status.conditions, "Reconciling")
    );
    assert_eq!((status.version.as_deref(), status.ready_members), (Some("v0.31.1"), Some(0)));

    // Not a version: reported, and allowed.
    seen.pool.status = Some(from_value(entry("3f1c9a7e")).unwrap());
    let status = compute(&seen, Ok(&current()), now());
    assert!(conditions::is_true(&status.conditions, "Ready"));
    let said = conditions::find(&status.conditions, "BuildKitUpToDate").unwrap();
    assert_eq!((said.status.as_str(), said.reason.as_str()), ("Unknown", "VersionUnknown"));
    assert!(conditions::find(&status.conditions, "Stalled").is_none());
}
