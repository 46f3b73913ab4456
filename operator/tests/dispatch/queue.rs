//! Jobs that wait, as the API server sees it: few writes, and the right ones.

use std::collections::BTreeMap;

use buildpools_crds::v1alpha1::{BuildJob, BuildJobStatus, FailureReason, JobPhase};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::fixtures::{POOL, pending, put_pod, put_pool, running};
use crate::run::run_until;
use crate::support::{ApiServer, Received};

const JOBS: &str = "/apis/buildpools.dev/v1alpha1/namespaces/team/buildjobs";

/// Puts a job there that was created a minute ago.
fn put(server: &ApiServer, name: &str, status: &BuildJobStatus, spec: &Value) {
    let created = Timestamp::now() - SignedDuration::from_mins(1);
    let mut object = json!({
        "apiVersion": "buildpools.dev/v1alpha1",
        "kind": "BuildJob",
        "metadata": {
            "namespace": "team", "name": name, "uid": format!("uid-{name}"), "creationTimestamp": created.to_string(),
        },
        "spec": {"context": {"git": {"url": "https://git.example.com/app.git"}}},
        "status": status,
    });
    for (field, value) in spec.as_object().unwrap() {
        object["spec"][field] = value.clone();
    }
    server.put(&format!("{JOBS}/{name}"), object);
}

fn status(server: &ApiServer, name: &str) -> BuildJobStatus {
    let job: BuildJob = serde_json::from_value(server.object(&format!("{JOBS}/{name}")).unwrap()).unwrap();
    job.status.unwrap()
}

fn phase(server: &ApiServer, name: &str) -> JobPhase {
    status(server, name).phase
}

/// Status writes by job.
fn writes(received: &[Received]) -> BTreeMap<String, usize> {
    let mut writes = BTreeMap::new();
    for request in received.iter().filter(|request| request.permission().2 == "buildjobs/status") {
        *writes.entry(request.path.split('/').rev().nth(1).unwrap().to_owned()).or_default() += 1;
    }
    writes
}

fn ready_server() -> ApiServer {
    let server = ApiServer::default();
    put_pool(&server);
    put_pod(&server, "pod-uid", |_| {});
    server
}

#[tokio::test]
async fn a_hundred_waiting_jobs_are_told_their_places_by_one_write_each() {
    let server = ready_server();
    for number in 0..100 {
        put(&server, &format!("j{number:03}"), &pending(), &json!({"poolRef": {"name": "web"}}));
    }
    let all_told = |server: &ApiServer| {
        (0..100).all(|number| {
            let status = status(server, &format!("j{number:03}"));
            status.phase == JobPhase::Bound || status.queue_position.is_some()
        })
    };
    let received = run_until(&server, all_told).await;
    let writes = writes(&received);
    assert_eq!((writes.len(), writes.values().sum::<usize>()), (100, 100), "{writes:?}");
    assert_eq!(phase(&server, "j000"), JobPhase::Bound);
    let places: Vec<Option<i32>> =
        (1..100).map(|number| status(&server, &format!("j{number:03}")).queue_position).collect();
    assert_eq!(places, (1..100).map(Some).collect::<Vec<_>>());
    let third = status(&server, "j003");
    assert_eq!(third.pool.as_deref(), Some("web"));
    assert_eq!(third.conditions[0].message, "all slots of BuildPool \"web\" are taken; 2 jobs are before this one");
}

#[tokio::test]
async fn jobs_that_are_to_be_cancelled_end_before_they_get_a_slot() {
    let server = ready_server();
    let spec = json!({"poolRef": {"name": "web"}, "cancel": true});
    put(&server, "waits", &pending(), &spec);
    put(&server, "bound", &crate::fixtures::bound(), &spec);
    put(&server, "without-pool", &pending(), &json!({"poolRef": {"name": "none"}, "cancel": true}));
    let names = ["waits", "bound", "without-pool"];
    let received =
        run_until(&server, |server| names.iter().all(|name| phase(server, name) == JobPhase::Cancelled)).await;
    assert_eq!(writes(&received), names.map(|name| (name.to_owned(), 1)).into());
    assert_eq!(status(&server, "bound").assigned_to, None);
}

#[tokio::test]
async fn a_job_that_waited_too_long_fails_and_says_why() {
    let server = ready_server();
    put(&server, "builds", &running(), &json!({"poolRef": {"name": "web"}}));
    put(&server, "late", &pending(), &json!({"poolRef": {"name": "web"}, "queueTimeout": "30s"}));
    put(&server, "patient", &pending(), &json!({"poolRef": {"name": "web"}, "queueTimeout": "1h"}));
    let missing =
        json!({"poolSelector": {"matchLabels": {"size": "large"}}, "whenPoolMissing": "Wait", "queueTimeout": "30s"});
    put(&server, "without-pool", &pending(), &missing);
    run_until(&server, |server| {
        ["late", "without-pool"].iter().all(|name| phase(server, name) == JobPhase::Failed)
            && status(server, "patient").queue_position == Some(1)
    })
    .await;
    let failure = |name| status(&server, name).failure.unwrap();
    assert_eq!(failure("late").reason, FailureReason::Timeout);
    assert_eq!(failure("without-pool").reason, FailureReason::PoolUnavailable);
    assert!(failure("without-pool").message.contains("spec.poolSelector"), "{}", failure("without-pool").message);
}

#[tokio::test]
async fn jobs_that_name_no_pool_find_theirs() {
    let server = ready_server();
    server.change(POOL, |pool| pool["metadata"]["labels"] = json!({"size": "large"}));
    server.change(POOL, |pool| pool["spec"]["scaling"]["buildsPerMember"] = json!(2));
    put(&server, "default", &pending(), &json!({}));
    put(&server, "selects", &pending(), &json!({"poolSelector": {"matchLabels": {"size": "large"}}}));
    put(
        &server,
        "finds-none",
        &pending(),
        &json!({"poolSelector": {"matchLabels": {"size": "small"}}, "whenPoolMissing": "Wait"}),
    );
    let received = run_until(&server, |server| {
        ["default", "selects"].iter().all(|name| phase(server, name) == JobPhase::Bound)
            && status(server, "finds-none").conditions[0].reason == "PoolNotFound"
    })
    .await;
    assert!(writes(&received).values().all(|writes| *writes == 1), "{received:?}");
    assert_eq!(status(&server, "selects").pool.as_deref(), Some("web"));
    assert_eq!(status(&server, "finds-none").pool, None);
}

#[tokio::test]
async fn a_job_whose_daemon_was_killed_for_its_memory_gets_the_member_for_itself() {
    let server = ApiServer::default();
    put_pool(&server);
    server.change(POOL, |pool| pool["spec"]["scaling"]["buildsPerMember"] = json!(4));
    let now = Timestamp::now();
    let ago = |seconds| (now - SignedDuration::from_secs(seconds)).to_string();
    put_pod(&server, "pod-uid", |pod| {
        pod["status"]["initContainerStatuses"] = json!([{
            "name": "buildkitd", "image": "", "imageID": "", "ready": true, "restartCount": 1,
            "state": {"running": {}},
            "lastState": {"terminated": {"exitCode": 137, "reason": "OOMKilled", "finishedAt": ago(21)}},
        }]);
    });
    let mut lost = pending();
    lost.attempts = serde_json::from_value(json!([{
        "number": 1, "pod": "web-0", "podUid": "pod-uid", "ref": "uid-hungry-1",
        "startedAt": ago(40), "finishedAt": ago(20), "result": "DaemonLost", "message": "the connection broke",
    }]))
    .unwrap();
    put(&server, "hungry", &lost, &json!({"poolRef": {"name": "web"}}));
    put(&server, "next", &pending(), &json!({"poolRef": {"name": "web"}}));
    run_until(&server, |server| {
        phase(server, "hungry") == JobPhase::Bound && status(server, "next").queue_position.is_some()
    })
    .await;
    assert_eq!(status(&server, "hungry").attempts[0].result.as_deref(), Some("OutOfMemory"));
    assert_eq!(phase(&server, "next"), JobPhase::Pending, "three slots are free and none is given away");
}
