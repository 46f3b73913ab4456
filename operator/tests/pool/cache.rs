//! Volumes that grow, stay or go, and what is said of them.

use buildpools_operator::pool::Progress;
use serde_json::{Value, json};

use crate::fixtures::{POOL, STATEFUL_SET, cluster, core, minimal, pass, pod, ready, ready_status};
use crate::support::{ApiServer, Fault, Received};

pub const STORAGE_CLASS: &str = "/apis/storage.k8s.io/v1/storageclasses/local-ssd";

/// The volume of the first member.
pub fn claim(size: &str, owners: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {
            "name": "cache-fast-0", "namespace": "team-a", "ownerReferences": owners,
            "labels": {"buildpools.dev/pool": "fast", "app.kubernetes.io/managed-by": "buildpools"},
        },
        "spec": {"storageClassName": "local-ssd", "resources": {"requests": {"storage": size}}},
        "status": {"phase": "Bound"},
    })
}

fn ours() -> Value {
    json!([{"apiVersion": "buildpools.dev/v1alpha1", "kind": "BuildPool", "name": "fast", "uid": "pool-uid", "controller": true}])
}

/// A pool with a ready member and its volume.
async fn running() -> ApiServer {
    let server = cluster(&minimal());
    pass(&server).await;
    server.put(&core("persistentvolumeclaims", "cache-fast-0"), claim("50Gi", &ours()));
    member(&server);
    assert_eq!(pass(&server).await, Progress::Ready);
    server.received();
    server
}

fn member(server: &ApiServer) {
    let set = server.object(STATEFUL_SET).unwrap()["metadata"]["uid"].clone();
    server.put(&core("pods", "fast-0"), pod("fast-0", set.as_str().unwrap(), &ready_status()));
}

fn writes(server: &ApiServer) -> Vec<Received> {
    server.received().into_iter().filter(Received::is_write).collect()
}

fn said(writes: &[Received]) -> Vec<String> {
    writes.iter().map(|w| format!("{} {}", w.verb(), w.permission().2)).collect()
}

fn volume(server: &ApiServer) -> Value {
    server.object(&core("persistentvolumeclaims", "cache-fast-0")).unwrap()
}

fn spec(server: &ApiServer, change: impl Fn(&mut Value)) {
    server.change(POOL, |pool| {
        change(&mut pool["spec"]);
        pool["metadata"]["generation"] = json!(pool["metadata"]["generation"].as_i64().unwrap() + 1);
    });
}

fn cache_healthy(server: &ApiServer) -> Option<(String, String, String)> {
    let pool = server.object(POOL).unwrap();
    let conditions = pool["status"]["conditions"].as_array().unwrap();
    let found = conditions.iter().find(|condition| condition["type"] == "CacheHealthy")?;
    let text = |field: &str| found[field].as_str().unwrap().to_owned();
    Some((text("status"), text("reason"), text("message")))
}

#[tokio::test]
async fn a_larger_cache_reaches_volumes_and_the_template_of_new_ones() {
    let server = running().await;
    server.put(STORAGE_CLASS, json!({"provisioner": "p", "allowVolumeExpansion": true}));
    spec(&server, |spec| spec["cache"]["size"] = json!("80Gi"));
    assert!(matches!(pass(&server).await, Progress::NotYet(_)));
    let deleted = writes(&server).pop().unwrap();
    assert_eq!((deleted.verb(), deleted.permission().2.as_str()), ("delete", "statefulsets"));
    assert_eq!(deleted.body["propagationPolicy"], "Orphan");
    assert!(deleted.body["preconditions"]["uid"].is_string(), "{}", deleted.body);
    assert_eq!(ready(&server).0, "True", "the pod runs on");

    // Orphaned, as the garbage collector leaves it.
    server.change(&core("pods", "fast-0"), |pod| pod["metadata"]["ownerReferences"] = json!([]));
    pass(&server).await;
    let written = writes(&server);
    let changed: Vec<String> = said(&written);
    assert_eq!(changed, ["create statefulsets", "patch persistentvolumeclaims", "patch buildpools/status"]);
    assert_eq!(written[1].body["spec"], json!({"resources": {"requests": {"storage": "80Gi"}}}));
    let template = &server.object(STATEFUL_SET).unwrap()["spec"]["volumeClaimTemplates"][0];
    assert_eq!(template["spec"]["resources"]["requests"]["storage"], "80Gi");
    assert_eq!(ready(&server).0, "True", "a pod that is not taken over yet is a member still: {:?}", ready(&server));

    member(&server);
    server.change(STATEFUL_SET, |set| set["status"] = json!({"replicas": 1, "observedGeneration": 1}));
    assert_eq!(pass(&server).await, Progress::Ready);
    assert_eq!(said(&writes(&server)), Vec::<String>::new());
    assert_eq!(cache_healthy(&server), None);
}

#[tokio::test]
async fn a_class_that_lets_nothing_grow_is_named_and_nothing_is_patched() {
    let server = running().await;
    server.put(STORAGE_CLASS, json!({"provisioner": "p"}));
    spec(&server, |spec| spec["cache"]["size"] = json!("80Gi"));
    pass(&server).await;
    pass(&server).await;
    assert_eq!(volume(&server)["spec"]["resources"]["requests"]["storage"], "50Gi");
    let (status, reason, message) = cache_healthy(&server).unwrap();
    assert_eq!((status.as_str(), reason.as_str()), ("False", "VolumeExpansionUnsupported"));
    assert!(message.contains("spec.cache.size is 80Gi") && message.contains("StorageClass local-ssd"), "{message}");
    let toml = server.object(&core("configmaps", "fast-buildkitd")).unwrap()["data"]["buildkitd.toml"].clone();
    let bound = format!("maxUsedSpace = {}", 40_i64 << 30);
    assert!(toml.as_str().unwrap().contains(&bound), "daemons reckon with the volume that there is: {toml}");
}

#[tokio::test]
async fn retaining_and_no_longer_retaining_reaches_the_volumes_that_there_are() {
    let server = running().await;
    for (retain, owners) in [(true, json!([])), (false, ours())] {
        spec(&server, |spec| spec["cache"]["retain"] = json!(retain));
        pass(&server).await;
        server.change(&core("pods", "fast-0"), |pod| pod["metadata"]["ownerReferences"] = json!([]));
        pass(&server).await;
        assert_eq!(volume(&server)["metadata"]["ownerReferences"], owners);
        let template = &server.object(STATEFUL_SET).unwrap()["spec"]["volumeClaimTemplates"][0]["metadata"];
        let of_new = template["ownerReferences"].as_array().map(Vec::len).unwrap_or_default();
        assert_eq!(of_new, owners.as_array().unwrap().len(), "of members to come: {template}");
    }
    assert!(writes(&server).iter().all(|w| w.verb() != "delete" || w.body["propagationPolicy"] == "Orphan"));
}

#[tokio::test]
async fn a_stateful_set_of_somebody_else_is_not_deleted() {
    let server = running().await;
    server.change(STATEFUL_SET, |set| set["metadata"]["ownerReferences"] = json!([]));
    spec(&server, |spec| spec["cache"]["size"] = json!("80Gi"));
    pass(&server).await;
    assert!(writes(&server).iter().all(|w| w.verb() != "delete"));
    assert_eq!(ready(&server).1, "NameConflict");
}

#[tokio::test]
async fn a_set_on_its_way_out_is_waited_for() {
    let server = running().await;
    spec(&server, |spec| spec["cache"]["size"] = json!("80Gi"));
    server.change(STATEFUL_SET, |set| {
        set["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        set["metadata"]["finalizers"] = json!(["orphan"]);
    });
    assert!(matches!(pass(&server).await, Progress::NotYet(_)));
    assert!(said(&writes(&server)).iter().all(|write| !write.ends_with("statefulsets")));

    // Its members run, and need no leave to come.
    server.remove(STATEFUL_SET);
    server.change(&core("pods", "fast-0"), |pod| pod["metadata"]["ownerReferences"] = json!([]));
    server.received();
    pass(&server).await;
    assert!(said(&writes(&server)).iter().all(|write| write != "create pods"));
    assert_eq!(ready(&server).0, "True");
}

#[tokio::test]
async fn a_pool_that_is_deleted_while_its_set_is_made_anew_stops_the_members_one_by_one() {
    let server = running().await;
    server.remove(STATEFUL_SET);
    server.change(&core("pods", "fast-0"), |pod| pod["metadata"]["ownerReferences"] = json!([]));
    server.change(POOL, |pool| pool["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z"));
    assert!(matches!(pass(&server).await, Progress::NotYet(_)));
    let deleted = writes(&server).into_iter().find(|write| write.verb() == "delete").unwrap();
    assert_eq!(deleted.permission().2, "pods");
    assert_eq!(deleted.body["preconditions"]["uid"], "uid-of-fast-0");
    assert!(server.object(POOL).unwrap()["metadata"]["finalizers"].to_string().contains("buildpools.dev/builds"));
    server.remove(&core("pods", "fast-0"));
    assert_eq!(pass(&server).await, Progress::Gone);
}

#[tokio::test]
async fn what_a_pool_says_of_its_volumes_counts_when_it_is_deleted_at_once() {
    for (retain, owners) in [(true, json!([])), (false, ours())] {
        let server = running().await;
        let before = if retain { ours() } else { json!([]) };
        server.put(&core("persistentvolumeclaims", "cache-fast-0"), claim("50Gi", &before));
        spec(&server, |spec| spec["cache"]["retain"] = json!(retain));
        server.change(POOL, |pool| pool["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z"));
        server.remove(&core("pods", "fast-0"));
        server.change(STATEFUL_SET, |set| {
            set["spec"]["replicas"] = json!(0);
            set["status"] = json!({"observedGeneration": set["metadata"]["generation"]});
        });
        assert_eq!(pass(&server).await, Progress::Gone);
        assert_eq!(volume(&server)["metadata"]["ownerReferences"], owners, "retain: {retain}");
    }
}

#[tokio::test]
async fn a_quota_that_refuses_a_larger_volume_is_said() {
    let server = running().await;
    server.put(STORAGE_CLASS, json!({"provisioner": "p", "allowVolumeExpansion": true}));
    spec(&server, |spec| spec["cache"]["size"] = json!("80Gi"));
    pass(&server).await;
    let refused = Fault::Status(403, "Forbidden", "exceeded quota: requests.storage");
    server.fail(refused, |request| request.is_write() && request.path.contains("persistentvolumeclaims"));
    pass(&server).await;
    let (_, reason, message) = ready(&server);
    assert_eq!(reason, "ObjectRefused");
    assert!(message.contains("PersistentVolumeClaim cache-fast-0") && message.contains("exceeded quota"), "{message}");

    // Nothing else waits for it.
    spec(&server, |spec| spec["pod"] = json!({"priorityClassName": "urgent"}));
    pass(&server).await;
    let template = server.object(STATEFUL_SET).unwrap()["spec"]["template"]["spec"].clone();
    assert_eq!(template["priorityClassName"], "urgent");
    let upgrading = server.object(POOL).unwrap()["status"]["conditions"].to_string();
    assert!(!upgrading.contains("Paused"), "{upgrading}");
}

#[tokio::test]
async fn what_a_member_reports_becomes_the_condition() {
    let server = running().await;
    let member = |available: i64| {
        json!([{"uid": "uid-of-fast-0", "pod": "fast-0", "builds": 0, "cache": {
            "bytes": 1, "records": 1, "capacityBytes": 50_i64 << 30, "availableBytes": available,
            "inodes": 100, "inodesFree": 50, "steps": 0, "cachedSteps": 0,
        }}])
    };
    for (available, expected) in [(40_i64 << 30, "CacheHealthy"), (1 << 30, "BytesPressure"), (4 << 30, "CacheHealthy")]
    {
        server.change(POOL, |pool| pool["status"]["members"] = member(available));
        pass(&server).await;
        assert_eq!(cache_healthy(&server).unwrap().1, expected);
    }
}
