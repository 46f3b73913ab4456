//! Objects as the API server has them.

use buildpools_crds::lifecycle;
use buildpools_crds::v1alpha1::{BuildJob, BuildJobStatus};
use buildpools_operator::dispatch::job::Job;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::support::ApiServer;

pub const JOB: &str = "/apis/buildpools.dev/v1alpha1/namespaces/team/buildjobs/app";
pub const POOL: &str = "/apis/buildpools.dev/v1alpha1/namespaces/team/buildpools/web";
pub const POD: &str = "/api/v1/namespaces/team/pods/web-0";
pub const NODE: &str = "/api/v1/nodes/node";

pub fn member() -> lifecycle::Member {
    lifecycle::Member { pod: "web-0".into(), uid: "pod-uid".into() }
}

pub fn pending() -> BuildJobStatus {
    serde_json::from_value(json!({
        "phase": "Pending",
        "conditions": [{
            "type": "Reconciling", "status": "True", "reason": "Queued", "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }],
    }))
    .unwrap()
}

pub fn bound() -> BuildJobStatus {
    lifecycle::bind(&pending(), "web", &member(), Timestamp::now()).unwrap()
}

pub fn running() -> BuildJobStatus {
    lifecycle::start(&bound(), "job-uid", &member(), "instance", Timestamp::now()).unwrap()
}

/// Puts a job with this status on the server; it was created a minute ago.
pub fn put_job(server: &ApiServer, status: &BuildJobStatus) -> Job {
    let created = Timestamp::now() - jiff::SignedDuration::from_mins(1);
    let object = json!({
        "apiVersion": "buildpools.dev/v1alpha1",
        "kind": "BuildJob",
        "metadata": {"namespace": "team", "name": "app", "uid": "job-uid", "creationTimestamp": created.to_string()},
        "spec": {"poolRef": {"name": "web"}, "context": {"git": {"url": "https://git.example.com/app.git"}}},
        "status": status,
    });
    Job::of(serde_json::from_value(server.put(JOB, object)).unwrap())
}

pub fn put_pool(server: &ApiServer) {
    let pool = json!({
        "apiVersion": "buildpools.dev/v1alpha1",
        "kind": "BuildPool",
        "metadata": {"namespace": "team", "name": "web"},
        "spec": {"scaling": {"minMembers": 1, "buildsPerMember": 1}, "cache": {"size": "1Gi"}, "maxBuildDuration": "1h"},
    });
    server.put(POOL, pool);
}

pub fn put_pod(server: &ApiServer, uid: &str, change: impl FnOnce(&mut Value)) {
    let mut pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "namespace": "team", "name": "web-0", "uid": uid,
            "labels": {"buildpools.dev/pool": "web", "app.kubernetes.io/component": "build-member"},
            "ownerReferences": [
                {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "web", "uid": "s", "controller": true}
            ],
        },
        "spec": {"nodeName": "node", "containers": []},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
    });
    change(&mut pod);
    server.put(POD, pod);
    put_node(server, "True");
}

/// Puts the pod's node there; what it says of itself: `True`, `False` or `Unknown`.
pub fn put_node(server: &ApiServer, ready: &str) {
    let node = json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {}, "spec": {},
        "status": {"conditions": [{"type": "Ready", "status": ready}]},
    });
    server.put(NODE, node);
}

pub fn job(server: &ApiServer) -> BuildJob {
    serde_json::from_value(server.object(JOB).unwrap()).unwrap()
}
