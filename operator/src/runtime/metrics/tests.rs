use std::collections::BTreeSet;
use std::convert::Infallible;

use buildpools_crds::v1alpha1::{Attempt, Failure, MemberPhase};
use http::{Request, Response, StatusCode};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use tower::{Layer as _, ServiceExt as _};

use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn attempt(number: i32, started: i64, finished: i64, result: &str) -> Attempt {
    Attempt {
        number,
        pod: "main-0".to_owned(),
        pod_uid: "u".to_owned(),
        reference: format!("u-{number}"),
        started_at: MicroTime(at(started)),
        finished_at: Some(MicroTime(at(finished))),
        result: Some(result.to_owned()),
        message: None,
    }
}

/// Every metric with one event at least.
async fn used() -> Metrics {
    let metrics = Metrics::default();
    metrics.leader(true);
    metrics.bound(Duration::from_millis(7));
    metrics.bind_conflict();
    metrics.decided("Bind", "CacheHit");
    metrics.queue("team-a", "main", 3, Some(Timestamp::now() - Duration::from_secs(90)));
    metrics.cache("team-a", "main", CacheFigures { bytes: 7, available: 3, steps: 4, cached_steps: 3 });
    metrics.reconciled("Ready", Duration::from_millis(30));
    metrics.repaired("NetworkPolicy");
    let members = [(MemberPhase::Ready, 2), (MemberPhase::Draining, 1)].into();
    metrics.pool("team-a", "main", Some(PoolFigures { members, upgrade_held: true }));
    let mut status = BuildJobStatus {
        phase: JobPhase::Failed,
        attempts: vec![attempt(1, 110, 120, "DaemonLost"), attempt(2, 130, 150, "made up by a hostile runner")],
        failure: Some(Failure {
            reason: FailureReason::BuildStepFailed,
            message: String::new(),
            step: None,
            location: None,
            exit_code: None,
            log_tail: vec![],
        }),
        ..BuildJobStatus::default()
    };
    status.timing.finished_at = Some(MicroTime(at(150)));
    metrics.job_ended(at(100), &status);
    let service = metrics.requests().layer(tower::service_fn(async |request: Request<()>| {
        let mut answer = Response::new(());
        if request.uri().path().ends_with("/missing") {
            *answer.status_mut() = StatusCode::NOT_FOUND;
        }
        Ok::<_, Infallible>(answer)
    }));
    for path in ["/api/v1/namespaces/a/pods/b", "/api/v1/namespaces/a/pods/missing"] {
        service.clone().oneshot(Request::get(path).body(()).unwrap()).await.unwrap();
    }
    metrics
}

fn assert_has(text: &str, line: &str) {
    assert!(text.lines().any(|have| have == line), "{line:?} is not in:\n{text}");
}

#[tokio::test]
async fn what_happened_can_be_read() {
    let text = used().await.text().unwrap();
    for line in [
        "buildpools_leader 1",
        "buildpools_dispatch_duration_seconds_bucket{le=\"0.005\"} 0",
        "buildpools_dispatch_duration_seconds_bucket{le=\"0.01\"} 1",
        "buildpools_dispatch_duration_seconds_count 1",
        "buildpools_bind_conflicts_total 1",
        "buildpools_decisions_total{decision=\"Bind\",reason=\"CacheHit\"} 1",
        "buildpools_queue_length{namespace=\"team-a\",pool=\"main\"} 3",
        "buildpools_pool_members{namespace=\"team-a\",pool=\"main\",phase=\"Ready\"} 2",
        "buildpools_pool_upgrade_held{namespace=\"team-a\",pool=\"main\"} 1",
        "buildpools_attempts_total{result=\"DaemonLost\"} 1",
        "buildpools_attempts_total{result=\"Unknown\"} 1",
        "buildpools_attempts_total{result=\"Succeeded\"} 0",
        "buildpools_job_queue_duration_seconds_sum{result=\"BuildStepFailed\"} 10.0",
        "buildpools_job_run_duration_seconds_sum{result=\"BuildStepFailed\"} 20.0",
        "buildpools_pool_reconcile_duration_seconds_count{outcome=\"Ready\"} 1",
        "buildpools_api_requests_total{verb=\"get\",code=\"200\"} 1",
        "buildpools_api_requests_total{verb=\"get\",code=\"404\"} 1",
        "buildpools_api_request_duration_seconds_count{verb=\"get\"} 2",
        "# EOF",
    ] {
        assert_has(&text, line);
    }
    let oldest = "buildpools_queue_oldest_wait_seconds{namespace=\"team-a\",pool=\"main\"} ";
    let waited: f64 = text.lines().find_map(|line| line.strip_prefix(oldest)).unwrap().parse().unwrap();
    assert!(waited >= 90.0, "{waited}");
}

#[tokio::test]
async fn a_pool_that_goes_takes_its_series_along() {
    let metrics = used().await;
    metrics.queue("team-b", "main", 1, None);
    assert_has(&metrics.text().unwrap(), "buildpools_pool_cache_hit_ratio{namespace=\"team-a\",pool=\"main\"} 0.75");
    metrics.forget_pool("team-a", "main");
    metrics.pool("team-a", "main", None);
    metrics.forget_cache("team-a", "main");
    let text = metrics.text().unwrap();
    assert!(!text.contains("team-a"), "{text}");
    assert_has(&text, "buildpools_queue_oldest_wait_seconds{namespace=\"team-b\",pool=\"main\"} 0.0");
}

#[tokio::test]
async fn a_request_that_nobody_waits_for_is_counted() {
    let metrics = Metrics::default();
    let service = metrics
        .requests()
        .layer(tower::service_fn(|_: Request<()>| std::future::pending::<Result<Response<()>, Infallible>>()));
    drop(service.oneshot(Request::get("/api/v1/pods").body(()).unwrap()));
    assert!(!metrics.text().unwrap().contains("dropped"), "it was not even begun");
    let service = metrics
        .requests()
        .layer(tower::service_fn(|_: Request<()>| std::future::pending::<Result<Response<()>, Infallible>>()));
    let begun = futures::FutureExt::now_or_never(service.oneshot(Request::get("/api/v1/pods").body(()).unwrap()));
    assert!(begun.is_none());
    assert_has(&metrics.text().unwrap(), "buildpools_api_requests_total{verb=\"list\",code=\"dropped\"} 1");
}

#[tokio::test]
async fn the_documentation_lists_every_metric_and_no_other() {
    let text = used().await.text().unwrap();
    let kinds: BTreeSet<(String, String)> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
        .map(|(name, kind)| (name.to_owned() + if kind == "counter" { "_total" } else { "" }, kind.to_owned()))
        .collect();
    let rows: BTreeSet<(String, String)> = include_str!("../../../../docs/observability.md")
        .lines()
        .filter_map(|line| line.strip_prefix("| `buildpools_")?.split_once("` | "))
        .map(|(name, rest)| (format!("buildpools_{name}"), rest.split(" |").next().unwrap_or_default().to_owned()))
        .collect();
    assert_eq!(rows, kinds, "left: docs/observability.md, right: what the operator has");
}
