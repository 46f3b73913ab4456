//! Finished jobs: what is deleted, and how.

use std::cell::Cell;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use buildpools_operator::history::{self, Observer, job::Finished};
use buildpools_operator::runtime::readiness::Readiness;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::run::rules;
use crate::support::{ApiServer, Fault, Received};

const JOBS: &str = "/apis/buildpools.dev/v1alpha1/namespaces/team/buildjobs";

/// Puts a job of pool `web` there that ended so many minutes ago.
fn put(server: &ApiServer, name: &str, minutes: i64, change: impl FnOnce(&mut Value)) {
    let ended = Timestamp::now() - SignedDuration::from_mins(minutes);
    let mut job = json!({
        "apiVersion": "buildpools.dev/v1alpha1", "kind": "BuildJob",
        "metadata": {"namespace": "team", "creationTimestamp": ended.to_string()},
        "spec": {"context": {"git": {"url": "https://git.example.com/app.git"}}},
        "status": {"phase": "Succeeded", "pool": "web", "timing": {"finishedAt": ended.to_string()}},
    });
    change(&mut job);
    server.put(&format!("{JOBS}/{name}"), job);
}

fn put_pool(server: &ApiServer, spec: &Value) {
    let mut pool = json!({
        "apiVersion": "buildpools.dev/v1alpha1", "kind": "BuildPool",
        "metadata": {"namespace": "team"}, "spec": {"cache": {"size": "1Gi"}},
    });
    pool["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    server.put("/apis/buildpools.dev/v1alpha1/namespaces/team/buildpools/web", pool);
}

fn ttl(minutes: u32) -> impl FnOnce(&mut Value) {
    move |job| job["spec"]["ttlAfterFinished"] = json!(format!("{minutes}m"))
}

fn names(server: &ApiServer) -> Vec<String> {
    let jobs =
        server.objects().into_keys().filter_map(|path| Some(path.strip_prefix(JOBS)?.trim_matches('/').to_owned()));
    jobs.collect()
}

#[derive(Default)]
struct Told(Mutex<Vec<String>>);

impl Observer for Told {
    fn found(&self, job: &Finished) {
        let name = job.metadata.name.as_deref().unwrap();
        self.0.lock().unwrap().push(format!("{name} {:?}", job.status.phase));
    }

    fn ended(&self, job: &Finished) {
        panic!("{job:?}");
    }
}

/// Runs until the server's objects are so. What was asked, and of which jobs the observer was told.
async fn run_until(server: &ApiServer, so: impl Fn(&ApiServer) -> bool) -> (Vec<Received>, Vec<String>) {
    let gate = Readiness::default().gate("caches", "not listed");
    let told = Arc::new(Told::default());
    let stop = CancellationToken::new();
    let running = tokio::spawn(history::run(server.client(), told.clone(), gate.clone(), stop.clone()));
    tokio::task::yield_now().await;
    assert!(server.received().is_empty(), "the dispatcher comes first");
    gate.open();
    tokio::time::timeout(Duration::from_secs(10), server.until(so)).await.expect("in time");
    stop.cancel();
    running.await.unwrap().unwrap();
    let told = std::mem::take(&mut *told.0.lock().unwrap());
    (server.received(), told)
}

fn deletions(received: &[Received]) -> Vec<&Received> {
    received.iter().filter(|request| request.verb() == "delete").collect()
}

#[tokio::test]
async fn of_the_finished_jobs_those_go_that_are_not_to_be_kept() {
    let server = ApiServer::default();
    put_pool(&server, &json!({"failedJobsHistoryLimit": 1, "jobDefaults": {"ttlAfterFinished": "1h"}}));
    put(&server, "expired", 5, ttl(4));
    put(&server, "young", 5, ttl(6));
    put(&server, "old", 61, |_| {});
    put(&server, "of-git", 61, |job| job["metadata"]["labels"] = json!({"kustomize.toolkit.fluxcd.io/name": "x"}));
    for (name, age) in [("failed-1", 3), ("failed-2", 2)] {
        put(&server, name, age, |job| job["status"]["phase"] = json!("Failed"));
    }
    put(&server, "cancelled", 4, |job| job["status"]["phase"] = json!("Cancelled"));
    put(&server, "running", 500, |job| job["status"]["phase"] = json!("Running"));
    let (received, mut told) = run_until(&server, |server| names(server).len() == 4).await;
    assert_eq!(names(&server), ["failed-2", "of-git", "running", "young"]);
    told.sort_unstable();
    assert_eq!(told.len(), 7, "{told:?}");
    assert_eq!(told[..2], ["cancelled Cancelled", "expired Succeeded"]);

    let list = received.iter().find(|request| request.path == "/apis/buildpools.dev/v1alpha1/buildjobs").unwrap();
    assert_eq!(list.query["fieldSelector"], "status.phase!=Pending,status.phase!=Bound,status.phase!=Running");
    assert_eq!(list.query["limit"], "100");
    assert!(received.iter().all(|request| !request.is_write() || request.verb() == "delete"));
}

#[tokio::test]
async fn a_deletion_is_of_this_very_version_of_the_job() {
    let server = ApiServer::default();
    put_pool(&server, &json!({}));
    put(&server, "app", 5, ttl(0));
    let job = server.object(&format!("{JOBS}/app")).unwrap();
    let (received, _) = run_until(&server, |server| names(server).is_empty()).await;
    let deletions = deletions(&received);
    assert_eq!(deletions.len(), 1, "{deletions:?}");
    let expected = json!({
        "propagationPolicy": "Background",
        "preconditions": {
            "uid": job["metadata"]["uid"], "resourceVersion": job["metadata"]["resourceVersion"],
        },
    });
    assert_eq!(deletions[0].body, expected);
}

#[tokio::test]
async fn a_job_that_has_changed_meanwhile_is_left_alone() {
    let server = ApiServer::default();
    put_pool(&server, &json!({"jobDefaults": {"ttlAfterFinished": "0s"}}));
    put(&server, "app", 5, |_| {});
    server.fail(Fault::Status(409, "Conflict", "the resourceVersion is another"), |request| request.verb() == "delete");
    put(&server, "other", 5, |_| {});
    // "app" comes first by name; it is not tried again before the watch has brought another version.
    let (received, _) = run_until(&server, |server| names(server) == ["app"]).await;
    assert_eq!(deletions(&received).len(), 2);
}

#[tokio::test]
async fn a_deletion_that_fails_is_tried_again() {
    let server = ApiServer::default();
    put_pool(&server, &json!({}));
    put(&server, "app", 5, ttl(0));
    server.fail(Fault::Status(500, "InternalError", "x"), |request| request.verb() == "delete");
    server.fail(Fault::AnswerLost, |request| request.verb() == "delete");
    let (received, _) = run_until(&server, |server| names(server).is_empty()).await;
    assert_eq!(deletions(&received).len(), 2);
}

#[tokio::test]
async fn many_that_go_at_once_go_a_few_at_a_time() {
    let server = ApiServer::default();
    put_pool(&server, &json!({"successfulJobsHistoryLimit": 0}));
    for number in 0..20 {
        put(&server, &format!("job-{number:02}"), 5, |_| {});
    }
    for _ in 0..8 {
        server.fail(Fault::Hang, |request| request.verb() == "delete");
    }
    let count = Cell::new(0);
    let seen = |server: &ApiServer| {
        count.set(count.get() + deletions(&server.received()).len());
        count.get()
    };
    let gate = Readiness::default().gate("caches", "not listed");
    gate.open();
    let stop = CancellationToken::new();
    let running = tokio::spawn(history::run(server.client(), Arc::new(Told::default()), gate, stop.clone()));
    tokio::time::timeout(Duration::from_secs(10), server.until(|server| seen(server) == 8)).await.expect("in time");
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!((seen(&server), names(&server).len()), (8, 20));
    stop.cancel();
    running.await.unwrap().unwrap();
}

#[tokio::test]
async fn nothing_is_asked_that_is_not_granted() {
    let server = ApiServer::default();
    put_pool(&server, &json!({}));
    put(&server, "app", 5, ttl(0));
    let (received, _) = run_until(&server, |server| names(server).is_empty()).await;
    for (verb, group, resource) in received.iter().map(Received::permission) {
        let granted = rules().iter().any(|rule| {
            rule.verbs.contains(&verb)
                && rule.api_groups.iter().flatten().any(|name| *name == group)
                && rule.resources.iter().flatten().any(|name| *name == resource)
        });
        assert!(granted, "{verb} {group}/{resource} is not granted");
    }
}
