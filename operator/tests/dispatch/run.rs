//! The dispatcher as a whole.

use std::collections::BTreeSet;
use std::time::Duration;

use buildpools_crds::v1alpha1::JobPhase;
use buildpools_operator::dispatch::{self, Settings};
use buildpools_operator::runtime::readiness::Readiness;
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use serde::Deserialize as _;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::fixtures::{JOB, job, pending, put_job, put_pod, put_pool};
use crate::support::{ApiServer, Fault, Received};

/// Runs the dispatcher until the server's objects are so, stops it, and returns what it asked.
pub async fn run_until(server: &ApiServer, so: impl Fn(&ApiServer) -> bool) -> Vec<Received> {
    let readiness = Readiness::default();
    let gate = readiness.gate("caches", "not listed");
    let stop = CancellationToken::new();
    let settings = Settings { instance: "test".into(), ..Settings::default() };
    let running = tokio::spawn(dispatch::run(server.client(), settings, gate, stop.clone()));
    tokio::time::timeout(Duration::from_secs(10), server.until(so)).await.expect("in time");
    assert_eq!(readiness.pending(), [""; 0]);
    stop.cancel();
    running.await.unwrap().unwrap();
    server.received()
}

fn phase(server: &ApiServer) -> JobPhase {
    job(server).status.unwrap().phase
}

#[tokio::test]
async fn a_waiting_job_is_bound_by_one_write() {
    let server = ApiServer::default();
    put_pool(&server);
    put_pod(&server, "pod-uid", |_| {});
    put_job(&server, &pending());
    let received = run_until(&server, |server| phase(server) == JobPhase::Bound).await;
    let writes: Vec<_> = received.iter().filter(|request| request.is_write()).collect();
    assert_eq!(writes.len(), 1, "{writes:?}");
    let jobs = received.iter().find(|request| request.permission().2 == "buildjobs").unwrap();
    assert_eq!(jobs.query["fieldSelector"], "status.phase!=Succeeded,status.phase!=Failed,status.phase!=Cancelled");
}

#[tokio::test]
async fn objects_that_cannot_be_read_stop_nothing() {
    let server = ApiServer::default();
    put_pool(&server);
    put_pod(&server, "pod-uid", |_| {});
    put_job(&server, &pending());
    for path in [JOB, crate::fixtures::POOL, crate::fixtures::POD] {
        let bad = path.replace("/app", "/bad").replace("/web-0", "/bad").replace("/web", "/bad");
        let object = server.object(path).unwrap();
        let labels = object["metadata"]["labels"].clone();
        server.put(
            &bad,
            json!({
                "apiVersion": object["apiVersion"], "kind": object["kind"],
                "metadata": {"namespace": "team", "labels": labels}, "spec": "text", "status": [],
            }),
        );
    }
    run_until(&server, |server| phase(server) == JobPhase::Bound).await;
}

#[tokio::test]
async fn a_write_that_is_under_way_is_finished_before_the_dispatcher_stops() {
    let server = ApiServer::default();
    put_pool(&server);
    put_pod(&server, "pod-uid", |_| {});
    put_job(&server, &pending());
    server.fail(Fault::AnswerLost, |request| request.verb() == "patch");
    // Stopped when the write is done and its answer is not there.
    let received = run_until(&server, |server| phase(server) == JobPhase::Bound).await;
    assert_eq!(received.last().unwrap().verb(), "get", "it found out what became of its write");
}

#[tokio::test]
async fn what_is_asked_is_granted() {
    let server = ApiServer::default();
    put_pool(&server);
    put_pod(&server, "another-uid", |_| {});
    put_job(&server, &crate::fixtures::running());
    let mut asked = run_until(&server, |server| phase(server) == JobPhase::Bound).await;
    server.fail(Fault::AnswerLost, |request| request.verb() == "patch");
    put_job(&server, &pending());
    asked.extend(run_until(&server, |server| phase(server) == JobPhase::Bound).await);
    let asked: BTreeSet<_> = asked.iter().map(Received::permission).collect();
    let rules = rules();
    for (verb, group, resource) in &asked {
        let granted = rules.iter().any(|rule| {
            rule.verbs.contains(verb)
                && rule.api_groups.iter().flatten().any(|name| name == group)
                && rule.resources.iter().flatten().any(|name| name == resource)
        });
        assert!(granted, "{verb} {group}/{resource} is not granted");
    }
    let expected: BTreeSet<_> = [
        ("list", "buildpools.dev", "buildjobs"),
        ("get", "buildpools.dev", "buildjobs"),
        ("patch", "buildpools.dev", "buildjobs/status"),
        ("list", "buildpools.dev", "buildpools"),
        ("list", "", "pods"),
        ("get", "", "pods"),
        ("list", "", "nodes"),
        ("create", "events.k8s.io", "events"),
    ]
    .map(|(verb, group, resource)| (verb.to_owned(), group.to_owned(), resource.to_owned()))
    .into();
    let without_watches: BTreeSet<_> = asked.into_iter().filter(|(verb, ..)| verb != "watch").collect();
    assert_eq!(without_watches, expected);
}

pub fn rules() -> Vec<PolicyRule> {
    let manifest = include_str!("../../../manifests/base/rbac.yaml");
    serde_yaml::Deserializer::from_str(manifest)
        .map(|document| serde_json::Value::deserialize(document).unwrap())
        .filter(|document| document["kind"] == "ClusterRole" && document["metadata"]["name"] == "buildpools-operator")
        .flat_map(|role| serde_json::from_value::<ClusterRole>(role).unwrap().rules.unwrap_or_default())
        .collect()
}
