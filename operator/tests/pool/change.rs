//! Members that are replaced, and pools that go: which requests, in which order.

use buildpools_operator::pool::events::News;
use buildpools_operator::pool::{Progress, visit};
use serde_json::{Value, json};

use crate::fixtures::{POOL, STATEFUL_SET, cluster, core, minimal, now, pass, pod, ready, ready_status, settings};
use crate::support::{ApiServer, Fault, Received};

const JOB: &str = "/apis/buildpools.dev/v1alpha1/namespaces/team-a/buildjobs/app";

fn writes(server: &ApiServer) -> Vec<String> {
    let received = server.received();
    let writes = received.iter().filter(|request| request.is_write());
    writes.map(|write| format!("{} {}", write.verb(), write.permission().2)).collect()
}

/// A pool with one member of this revision, which has said its version.
async fn member(revision: &str) -> ApiServer {
    let server = cluster(&minimal());
    pass(&server).await;
    server.change(STATEFUL_SET, |set| {
        set["status"] = json!({"replicas": 1, "observedGeneration": 1, "updateRevision": "fast-new"});
    });
    server.put(&core("pods", "fast-0"), of_revision(&server, revision));
    server.change(POOL, |pool| {
        pool["status"]["members"] =
            json!([{"uid": "uid-of-fast-0", "pod": "fast-0", "builds": 0, "version": "v0.34.2", "phase": "Ready"}]);
    });
    server
}

fn of_revision(server: &ApiServer, revision: &str) -> Value {
    let uid = server.object(STATEFUL_SET).unwrap()["metadata"]["uid"].as_str().unwrap().to_owned();
    let mut pod = pod("fast-0", &uid, &ready_status());
    pod["metadata"]["labels"]["controller-revision-hash"] = json!(revision);
    pod["spec"] = json!({"nodeName": "n", "containers": []});
    pod
}

fn upgrading(server: &ApiServer) -> String {
    let pool = server.object(POOL).unwrap();
    let conditions = pool["status"]["conditions"].as_array().unwrap().clone();
    let found = conditions.into_iter().find(|condition| condition["type"] == "Upgrading").unwrap();
    found["reason"].as_str().unwrap().to_owned()
}

fn assign(server: &ApiServer, to: Option<&str>) {
    let mut job = json!({"metadata": {"name": "app"}, "spec": {}, "status": {}});
    if let Some(uid) = to {
        job["status"]["assignedTo"] = json!(uid);
    }
    server.put(JOB, job);
}

#[tokio::test]
async fn a_member_is_marked_waited_for_and_deleted_with_its_uid() {
    let server = member("fast-old").await;
    assign(&server, Some("uid-of-fast-0"));
    server.received();

    let marked = pass(&server).await;
    assert_eq!(marked, Progress::NotYet(std::time::Duration::ZERO), "its jobs are to be read at once");
    assert_eq!(writes(&server), ["patch buildpools/status"]);
    let pool = server.object(POOL).unwrap();
    assert_eq!(pool["status"]["upgrade"]["draining"]["uid"], "uid-of-fast-0");
    assert_eq!(pool["status"]["members"][0]["phase"], "Draining");

    // A job is assigned to it: looked for after the mark, with a list by the member's UID.
    assert!(matches!(pass(&server).await, Progress::NotYet(_)));
    let received = server.received();
    let list = received.iter().find(|request| request.permission().2 == "buildjobs").unwrap();
    assert_eq!(list.query["fieldSelector"], "status.assignedTo=uid-of-fast-0");
    assert!(received.iter().all(|request| request.verb() != "delete"));
    assert_eq!(upgrading(&server), "Draining");
    pass(&server).await;
    assert_eq!(writes(&server), Vec::<String>::new(), "waiting is said once");

    assign(&server, None);
    pass(&server).await;
    let received = server.received();
    let delete = received.iter().find(|request| request.verb() == "delete").unwrap();
    assert_eq!(delete.path, core("pods", "fast-0"));
    assert_eq!(delete.body["preconditions"]["uid"], "uid-of-fast-0");
    assert!(delete.body["gracePeriodSeconds"].is_null(), "it has all the time that its builds may take");
    assert!(server.object(&core("pods", "fast-0")).is_none());

    // Its replacement.
    pass(&server).await;
    assert_eq!(upgrading(&server), "Replacing");
    let mut new = of_revision(&server, "fast-new");
    new["metadata"]["uid"] = json!("uid-of-the-next");
    server.put(&core("pods", "fast-0"), new);
    pass(&server).await;
    assert_eq!(upgrading(&server), "Replacing", "it has not said its version yet");
    server.change(POOL, |pool| pool["status"]["members"][0]["version"] = json!("v0.34.2"));
    pass(&server).await;
    assert_eq!(upgrading(&server), "UpToDate");
    let pool = server.object(POOL).unwrap();
    assert!(pool["status"]["upgrade"].is_null(), "{pool:#}");
    server.received();
    assert_eq!(pass(&server).await, Progress::Ready);
    assert_eq!(writes(&server), Vec::<String>::new());
}

#[tokio::test]
async fn the_next_process_goes_on_where_one_ended() {
    let server = member("fast-old").await;
    pass(&server).await;
    // The pod was deleted, and the answer lost with the process.
    server.fail(Fault::AnswerLost, |request| request.verb() == "delete");
    let failed = visit(&server.client(), &settings(), "team-a", "fast", now()).await.unwrap_err();
    assert_eq!(failed.category(), "ApiServer");
    pass(&server).await;
    assert_eq!(upgrading(&server), "Replacing");
    let deletions: Vec<Received> = server.received().into_iter().filter(|request| request.verb() == "delete").collect();
    assert_eq!(deletions.len(), 1);
}

#[tokio::test]
async fn what_people_must_know_is_news_once() {
    let server = member("fast-old").await;
    let told = async || -> Vec<String> {
        let visit = visit(&server.client(), &settings(), "team-a", "fast", now()).await.unwrap();
        visit.news.into_iter().map(|News { reason, .. }| reason.to_owned()).collect()
    };
    assert_eq!(told().await, ["UpgradeStarted"]);
    assign(&server, Some("uid-of-fast-0"));
    assert_eq!(told().await, Vec::<String>::new());
    assert_eq!(told().await, Vec::<String>::new());
}

#[tokio::test]
async fn a_deleted_pool_stops_its_members_waits_for_them_and_lets_go() {
    let server = member("fast-new").await;
    pass(&server).await;
    assign(&server, Some("uid-of-fast-0"));
    server.change(POOL, |pool| pool["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z"));
    server.received();

    assert!(matches!(pass(&server).await, Progress::NotYet(_)));
    assert_eq!(writes(&server), ["patch statefulsets", "patch buildpools/status"]);
    assert_eq!(server.object(STATEFUL_SET).unwrap()["spec"]["replicas"], 0);
    let (status, reason, message) = ready(&server);
    assert_eq!((status.as_str(), reason.as_str()), ("False", "Deleting"));
    assert_eq!(
        message,
        "the pool is being deleted: waits for 1 of its builds (app) on fast-0; set spec.whenDeleted to Cancel to cancel them"
    );
    pass(&server).await;
    assert_eq!(writes(&server), Vec::<String>::new(), "waiting is said once");

    assign(&server, None);
    server.remove(&core("pods", "fast-0"));
    assert_eq!(pass(&server).await, Progress::Gone);
    assert_eq!(writes(&server), ["patch buildpools"]);
    assert_eq!(server.object(POOL).unwrap()["metadata"]["finalizers"], json!([]));
    assert!(server.object(STATEFUL_SET).is_some(), "the garbage collector's");
}

#[tokio::test]
async fn a_pool_is_let_go_whatever_its_spec_and_whoever_elses_objects_are_there() {
    // A spec that no version understands, and a foreign StatefulSet of its name with a pod.
    let server = cluster(&minimal());
    server.put(STATEFUL_SET, json!({"spec": {"replicas": 1, "selector": {}, "template": {}}}));
    let uid = server.object(STATEFUL_SET).unwrap()["metadata"]["uid"].as_str().unwrap().to_owned();
    server.put(&core("pods", "fast-0"), pod("fast-0", &uid, &ready_status()));
    server.change(POOL, |pool| {
        pool["spec"] = json!({"profile": "OfAnotherVersion"});
        pool["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        pool["metadata"]["finalizers"] = json!(["example.com/other", "buildpools.dev/builds"]);
    });
    assert_eq!(pass(&server).await, Progress::Gone);
    assert_eq!(writes(&server), ["patch buildpools"]);
    assert_eq!(server.object(POOL).unwrap()["metadata"]["finalizers"], json!(["example.com/other"]));
}

#[tokio::test]
async fn a_pod_on_a_lost_node_holds_the_pool_for_no_longer_than_it_may_build() {
    let server = member("fast-new").await;
    let overdue = |minutes: i64| {
        let at = now() - jiff::SignedDuration::from_mins(minutes);
        server.change(&core("pods", "fast-0"), |pod| pod["metadata"]["deletionTimestamp"] = json!(at.to_string()));
    };
    server.change(POOL, |pool| pool["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z"));
    overdue(0);
    assert!(matches!(pass(&server).await, Progress::NotYet(_)));
    overdue(2);
    assert_eq!(pass(&server).await, Progress::Gone);
}
