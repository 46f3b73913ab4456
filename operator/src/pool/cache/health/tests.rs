use super::*;
use serde_json::{Value, json};

const GI: i64 = 1 << 30;

fn limits() -> Limits {
    Limits { max_used: 80 * GI, min_free: 10 * GI, reserved: 10 * GI, keep_seconds: None }
}

fn member(cache: &Value, snapshotter: &str) -> PoolMember {
    serde_json::from_value(json!({"uid": "u", "pod": "main-0", "snapshotter": snapshotter, "cache": cache})).unwrap()
}

fn cache(available: i64, inodes_free: i64) -> Value {
    json!({
        "bytes": 7 * GI, "records": 3, "capacityBytes": 98 * GI, "availableBytes": available,
        "inodes": 1000, "inodesFree": inodes_free,
    })
}

fn of(
    members: &[PoolMember],
    pods: &[Pod],
    unexpandable: &[Unexpandable],
) -> Option<(&'static str, &'static str, String)> {
    let facts = Facts { members, pods, unexpandable, limits: Some(&limits()), size: "100Gi" };
    condition(facts).map(|(status, reason, message)| (status.as_str(), reason, message))
}

fn one(cache: &Value, snapshotter: &str) -> (&'static str, &'static str, String) {
    of(&[member(cache, snapshotter)], &[], &[]).unwrap()
}

#[test]
fn nothing_is_said_before_something_is_known() {
    assert_eq!(of(&[], &[], &[]), None);
    assert_eq!(of(&[member(&Value::Null, "overlayfs")], &[], &[]), None);
}

#[test]
fn room_is_health() {
    assert_eq!(one(&cache(50 * GI, 500), "overlayfs"), ("True", "CacheHealthy", "1 cache has room".into()));
    // Half of what garbage collection keeps free is still enough.
    assert_eq!(one(&cache(5 * GI, 50), "overlayfs").0, "True");
    // A file system that does not count inodes (btrfs).
    let mut uncounted = cache(50 * GI, 0);
    uncounted["inodes"] = json!(0);
    assert_eq!(one(&uncounted, "overlayfs").0, "True");
}

#[test]
fn pressure_has_a_reason() {
    let (status, reason, message) = one(&cache(GI, 500), "overlayfs");
    assert_eq!((status, reason), ("False", "BytesPressure"));
    assert!(message.starts_with("the cache volume of main-0 has 1.0Gi of 98.0Gi free"), "{message}");
    // A volume that is a directory of a large disk.
    let mut large = cache(500 * GI, 500);
    (large["bytes"], large["capacityBytes"]) = (json!(91 * GI), json!(1000 * GI));
    assert_eq!(one(&large, "overlayfs").1, "BytesPressure");

    assert_eq!(one(&cache(50 * GI, 49), "overlayfs").1, "InodePressure");
    assert_eq!(one(&cache(50 * GI, 500), "native").1, "NativeSnapshotter");
    let (_, reason, message) = one(&cache(GI, 1), "native");
    assert_eq!((reason, message.matches("; ").count() >= 2), ("BytesPressure", true), "all are named: {message}");
}

#[test]
fn a_volume_that_does_not_grow_is_named_with_its_class() {
    let volume = |class: Option<&str>| Unexpandable {
        claim: "cache-main-0".into(),
        size: "50Gi".into(),
        class: class.map(Into::into),
    };
    let (status, reason, message) = of(&[], &[], &[volume(Some("disk"))]).unwrap();
    assert_eq!((status, reason), ("False", "VolumeExpansionUnsupported"));
    assert!(message.contains("spec.cache.size is 100Gi") && message.contains("StorageClass disk"), "{message}");
    assert!(of(&[], &[], &[volume(None)]).unwrap().2.contains("no StorageClass"));
}

fn pod(ready: &str, message: &str) -> Pod {
    let ended = json!({"terminated": {"exitCode": 1, "message": message}});
    serde_json::from_value(json!({
        "metadata": {"name": "main-0"},
        "status": {
            "conditions": [{"type": "Ready", "status": ready}],
            "initContainerStatuses": [{
                "name": "buildkitd", "image": "", "imageID": "", "ready": true, "restartCount": 2,
                "state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": ended,
            }],
        },
    }))
    .unwrap()
}

#[test]
fn a_damaged_database_is_told_until_the_daemon_runs_again() {
    let last_words = format!("panic: bolt\n{DAMAGED} (1 of 3 times before the cache is emptied)");
    assert_eq!(of(&[], &[pod("False", &last_words)], &[]).unwrap().1, "CacheCorrupted");
    assert_eq!(of(&[], &[pod("True", &last_words)], &[]), None);
    assert_eq!(of(&[], &[pod("False", "invalid option")], &[]), None);
}

#[test]
fn the_entry_point_says_what_is_looked_for() {
    assert!(include_str!("../../build/start.sh").contains(DAMAGED));
}

#[test]
fn bytes_for_people() {
    for (bytes, text) in
        [(0, "0"), (1023, "1023"), (1536, "1.5Ki"), (5 * GI + GI / 4, "5.2Gi"), (i64::MAX, "8388607.9Ti")]
    {
        assert_eq!(human(bytes), text);
    }
}
