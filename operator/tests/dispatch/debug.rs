//! The page `/debug/queue`.

use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::header::ACCEPT;
use axum::http::{Request, StatusCode};
use buildpools_operator::dispatch::explain::Explainer;
use buildpools_operator::dispatch::{self, Settings};
use buildpools_operator::runtime::debug;
use buildpools_operator::runtime::lease::{Elector, Leader};
use buildpools_operator::runtime::readiness::Readiness;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use crate::fixtures::{pending, put_job, put_pool};
use crate::support::ApiServer;

async fn ask(explainer: &Explainer, leader: &Leader, uri: &str, accept: &str) -> (StatusCode, String) {
    let request = Request::get(uri).header(ACCEPT, accept).body(Body::empty()).unwrap();
    let answer = debug::router(explainer.clone(), leader.clone()).oneshot(request).await.unwrap();
    let status = answer.status();
    (status, String::from_utf8(to_bytes(answer.into_body(), 65536).await.unwrap().to_vec()).unwrap())
}

async fn until(what: &str, so: impl Fn() -> bool) {
    let wait = async {
        while !so() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), wait).await.unwrap_or_else(|_| panic!("{what}"));
}

#[tokio::test]
async fn the_leader_says_why_each_job_waits() {
    let server = ApiServer::default();
    put_pool(&server);
    put_job(&server, &pending());
    let readiness = Readiness::default();
    let gate = readiness.gate("caches", "not listed");
    let stop = CancellationToken::new();
    let (explainer, leader) = (Explainer::default(), Leader::default());
    let settings = Settings { explainer: explainer.clone(), ..Settings::default() };
    let running = tokio::spawn(dispatch::run(server.client(), settings, gate, stop.clone()));
    until("all is listed", || readiness.pending().is_empty()).await;

    let (status, text) = ask(&explainer, &leader, "/debug/queue", "*/*").await;
    assert_eq!(status, StatusCode::OK);
    let lines: Vec<_> = text.lines().collect();
    assert!(lines.len() == 2 && lines[0].starts_with("NAMESPACE") && lines[1].contains("Wait"), "{text}");
    for (uri, accept) in [("/debug/queue?format=json", "*/*"), ("/debug/queue?namespace=team", "application/json")] {
        let (_, text) = ask(&explainer, &leader, uri, accept).await;
        let jobs: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(jobs.as_array().unwrap().len(), 1, "{text}");
        assert_eq!((&jobs[0]["namespace"], &jobs[0]["pool"]), (&json!("team"), &json!("web")), "{text}");
    }
    let (_, text) = ask(&explainer, &leader, "/debug/queue?namespace=other", "*/*").await;
    assert_eq!(text, "no job waits\n");
    let (status, _) = ask(&explainer, &leader, "/debug/queue?format=xml", "*/*").await;
    assert_eq!(status, StatusCode::BAD_REQUEST);

    stop.cancel();
    running.await.unwrap().unwrap();
    let (status, _) = ask(&explainer, &leader, "/debug/queue", "*/*").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "it leads no more");
}

#[tokio::test]
async fn a_standby_says_who_leads() {
    let server = ApiServer::default();
    server.put(
        "/apis/coordination.k8s.io/v1/namespaces/system/leases/operator",
        json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"namespace": "system"},
            "spec": {"holderIdentity": "operator-2", "leaseDurationSeconds": 15, "leaseTransitions": 4},
        }),
    );
    let (explainer, leader) = (Explainer::default(), Leader::default());
    let (_, text) = ask(&explainer, &leader, "/debug/queue", "*/*").await;
    assert_eq!(text, "not the leader; the leader is not known yet\n");

    let elector = Elector::new(server.client(), "system", "operator", "operator-1").telling(leader.clone());
    let gate = Readiness::default().gate("leader-election", "not begun");
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    let candidate = tokio::spawn(async move { elector.acquire(&gate, &stopped).await.is_none() });
    until("the lease was read", || leader.name().is_some()).await;
    let (status, text) = ask(&explainer, &leader, "/debug/queue", "*/*").await;
    assert_eq!((status, &*text), (StatusCode::SERVICE_UNAVAILABLE, "not the leader; the leader is operator-2\n"));
    stop.cancel();
    assert!(candidate.await.unwrap());
}
