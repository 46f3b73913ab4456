//! The PodDisruptionBudget is there while members build, and for those that do.

use serde_json::{Value, json};

use crate::fixtures::{POOL, STATEFUL_SET, cluster, core, full, pass, pod, ready, ready_status};
use crate::support::{ApiServer, Received};

const BUDGET: &str = "/apis/policy/v1/namespaces/team-a/poddisruptionbudgets/fast-members";

/// A pool of three ready members.
async fn at_rest() -> ApiServer {
    let server = cluster(&full());
    pass(&server).await;
    let uid = server.object(STATEFUL_SET).unwrap()["metadata"]["uid"].as_str().unwrap().to_owned();
    for name in ["fast-0", "fast-1", "fast-2"] {
        server.put(&core("pods", name), pod(name, &uid, &ready_status()));
    }
    pass(&server).await;
    pass(&server).await;
    server.received();
    server
}

/// The members' reports, as runners write them.
fn report(server: &ApiServer, builds: &[(&str, i32)]) {
    let members: Vec<Value> = builds
        .iter()
        .map(|(pod, builds)| json!({"uid": format!("uid-of-{pod}"), "pod": pod, "phase": "Ready", "builds": builds}))
        .collect();
    server.change(POOL, |pool| pool["status"]["members"] = json!(members));
}

fn written(server: &ApiServer) -> Vec<String> {
    let writes = server.received().into_iter().filter(Received::is_write);
    writes.map(|write| format!("{} {}", write.verb(), write.permission().2)).collect()
}

#[tokio::test]
async fn it_follows_the_members_that_build() {
    let server = at_rest().await;
    assert_eq!(server.object(BUDGET), None, "an idle pool holds up no drain");

    report(&server, &[("fast-0", 0), ("fast-1", 2), ("fast-2", 1)]);
    pass(&server).await;
    assert_eq!(written(&server), ["create poddisruptionbudgets"]);
    let budget = server.object(BUDGET).unwrap();
    assert_eq!(budget["spec"]["maxUnavailable"], json!(0));
    assert_eq!(
        budget["spec"]["selector"],
        json!({
            "matchLabels": {"buildpools.dev/pool": "fast", "app.kubernetes.io/component": "build-member"},
            "matchExpressions": [
                {"key": "statefulset.kubernetes.io/pod-name", "operator": "In", "values": ["fast-1", "fast-2"]},
            ],
        })
    );
    pass(&server).await;
    assert_eq!(written(&server), Vec::<String>::new());

    report(&server, &[("fast-0", 0), ("fast-1", 0), ("fast-2", 1)]);
    pass(&server).await;
    let values = server.object(BUDGET).unwrap()["spec"]["selector"]["matchExpressions"][0]["values"].clone();
    assert_eq!(values, json!(["fast-2"]), "the idle one may go");
    server.received();

    report(&server, &[("fast-0", 0), ("fast-1", 0), ("fast-2", 0)]);
    pass(&server).await;
    assert_eq!(written(&server), ["delete poddisruptionbudgets"]);
    assert_eq!(server.object(BUDGET), None);
}

#[tokio::test]
async fn a_report_of_a_pod_that_is_no_member_protects_nobody() {
    let server = at_rest().await;
    report(&server, &[("gone-0", 1)]);
    pass(&server).await;
    assert_eq!(server.object(BUDGET), None);
}

/// Otherwise a drain would wait for a pool that somebody has to mend first.
#[tokio::test]
async fn it_goes_even_when_something_stands_in_the_pools_way() {
    let server = at_rest().await;
    report(&server, &[("fast-0", 1)]);
    pass(&server).await;
    server.remove(&core("configmaps", "lab-ca"));
    pass(&server).await;
    assert_eq!(ready(&server).1, "CertificateAuthorityNotFound");
    assert!(server.object(BUDGET).is_some(), "the build goes on");
    report(&server, &[("fast-0", 0)]);
    pass(&server).await;
    assert_eq!(server.object(BUDGET), None);
}

#[tokio::test]
async fn one_of_somebody_else_is_left_alone() {
    let server = at_rest().await;
    let theirs = server.put(BUDGET, json!({"spec": {"maxUnavailable": 1}}));
    for builds in [1, 0] {
        report(&server, &[("fast-0", builds)]);
        pass(&server).await;
        assert_eq!(ready(&server).1, "NameConflict");
        assert_eq!(server.object(BUDGET).as_ref(), Some(&theirs));
    }
}
