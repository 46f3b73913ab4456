//! A collector gets the trace of a job as OTLP over gRPC.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::time::Duration;

use buildpools_crds::v1alpha1::BuildJob;
use buildpools_operator::runtime::traces::{self, Traces};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use serde_json::{Value as Json, json};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

const UID: &str = "01020304-0506-4708-890a-0b0c0d0e0f10";

/// A collector that hands over what it gets.
struct Collector(mpsc::UnboundedSender<ExportTraceServiceRequest>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.0.send(request.into_inner()).map_err(|_| Status::internal("the test has ended"))?;
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

/// What arrives when this job has ended.
async fn collected(job: &BuildJob) -> ExportTraceServiceRequest {
    let (sender, mut received) = mpsc::unbounded_channel();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let server = tonic::transport::Server::builder().add_service(TraceServiceServer::new(Collector(sender)));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    let (traces, exporter) = Traces::to(&endpoint, "operator-1").unwrap();
    let running = tokio::spawn(exporter.run());
    for job in [&unfinished(), job] {
        traces.job_ended(&job.metadata, Some("main"), job.status.as_ref().unwrap());
    }
    drop(traces);
    tokio::time::timeout(Duration::from_secs(30), running).await.expect("sent what was there").unwrap();
    received.try_recv().expect("one request")
}

fn job(status: &Json) -> BuildJob {
    serde_json::from_value(json!({
        "apiVersion": "buildpools.dev/v1alpha1",
        "kind": "BuildJob",
        "metadata": {"name": "app", "namespace": "team-a", "uid": UID, "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"context": {"inline": {"files": [{"path": "Dockerfile", "content": "FROM scratch"}]}}},
        "status": status,
    }))
    .unwrap()
}

fn unfinished() -> BuildJob {
    job(&json!({"phase": "Running", "timing": {"boundAt": "2026-01-01T00:00:01.000000Z"}}))
}

fn attempt(number: i32, started: &str, finished: &str, result: &str) -> Json {
    json!({
        "number": number, "pod": "main-0", "podUid": "pod-uid", "ref": format!("{UID}-{number}"), "message": "why",
        "startedAt": format!("2026-01-01T00:00:{started}Z"), "finishedAt": format!("2026-01-01T00:00:{finished}Z"),
        "result": result,
    })
}

/// Name, begin and end in milliseconds since the job's creation.
fn times(spans: &[Span]) -> Vec<(&str, u64, u64)> {
    let zero = spans[0].start_time_unix_nano;
    let milliseconds = |time: u64| (time - zero) / 1_000_000;
    spans
        .iter()
        .map(|span| (&*span.name, milliseconds(span.start_time_unix_nano), milliseconds(span.end_time_unix_nano)))
        .collect()
}

fn attribute(attributes: &[KeyValue], key: &str) -> String {
    let found = attributes.iter().find(|attribute| attribute.key == key);
    match found.and_then(|attribute| attribute.value.as_ref()?.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        other => panic!("{key}: {other:?} in {attributes:?}"),
    }
}

fn spans(request: &ExportTraceServiceRequest) -> &[Span] {
    &request.resource_spans[0].scope_spans[0].spans
}

fn code(span: &Span) -> StatusCode {
    span.status.as_ref().unwrap().code()
}

#[tokio::test]
async fn a_job_that_needed_two_attempts_is_one_trace() {
    let request = collected(&job(&json!({
        "phase": "Succeeded",
        "attempts": [attempt(1, "02.000000", "05.000000", "DaemonLost"), attempt(2, "08.500000", "10.000000", "Succeeded")],
        "image": {"digest": "sha256:abc"},
        "timing": {
            "boundAt": "2026-01-01T00:00:08.000000Z",
            "startedAt": "2026-01-01T00:00:08.500000Z",
            "finishedAt": "2026-01-01T00:00:10.000000Z",
        },
    })))
    .await;
    let spans = spans(&request);
    let wanted = [
        ("BuildJob", 0, 10_000),
        ("queue", 0, 2_000),
        ("attempt 1", 2_000, 5_000),
        ("queue", 5_000, 8_000),
        ("start", 8_000, 8_500),
        ("attempt 2", 8_500, 10_000),
    ];
    assert_eq!(times(spans), wanted);
    let trace: Vec<u8> = UID.replace('-', "").as_bytes().chunks(2).map(hex).collect();
    assert!(spans.iter().all(|span| span.trace_id == trace), "{spans:#?}");
    let (root, children) = spans.split_first().unwrap();
    assert!(root.parent_span_id.is_empty(), "{root:#?}");
    assert!(children.iter().all(|child| child.parent_span_id == root.span_id), "{children:#?}");
    let ids: std::collections::BTreeSet<_> = spans.iter().map(|span| &span.span_id).collect();
    assert_eq!(ids.len(), spans.len(), "each span has an id of its own");

    assert_eq!(code(root), StatusCode::Ok);
    assert_eq!(attribute(&root.attributes, "k8s.namespace.name"), "team-a");
    assert_eq!(attribute(&root.attributes, "buildpools.job.name"), "app");
    assert_eq!(attribute(&root.attributes, "buildpools.pool"), "main");
    assert_eq!(attribute(&root.attributes, "buildpools.result"), "Succeeded");
    assert_eq!(attribute(&root.attributes, "oci.manifest.digest"), "sha256:abc");
    assert_eq!(code(&spans[2]), StatusCode::Error);
    assert_eq!(spans[2].status.as_ref().unwrap().message, "why");
    assert_eq!(attribute(&spans[2].attributes, "buildpools.result"), "DaemonLost");
    assert_eq!(attribute(&spans[5].attributes, "buildpools.attempt"), "2");
    assert_eq!(attribute(&spans[5].attributes, "k8s.pod.name"), "main-0");
    let resource = request.resource_spans[0].resource.as_ref().unwrap();
    assert_eq!(attribute(&resource.attributes, "service.name"), "buildpools-operator");
    assert_eq!(attribute(&resource.attributes, "service.instance.id"), "operator-1");
}

#[tokio::test]
async fn a_job_that_was_never_started_has_waited() {
    let request = collected(&job(&json!({
        "phase": "Failed",
        "failure": {"reason": "PoolNotFound", "message": "there is no such pool"},
        "timing": {"finishedAt": "2026-01-01T00:00:30.000000Z"},
    })))
    .await;
    let spans = spans(&request);
    assert_eq!(times(spans), [("BuildJob", 0, 30_000), ("queue", 0, 30_000)]);
    assert_eq!(code(&spans[0]), StatusCode::Error);
    assert_eq!(spans[0].status.as_ref().unwrap().message, "there is no such pool");
    assert_eq!(attribute(&spans[0].attributes, "buildpools.result"), "PoolNotFound");
}

#[test]
fn ids_follow_from_the_job() {
    let ended = job(&json!({
        "phase": "Succeeded", "attempts": [attempt(1, "02.000000", "05.000000", "Succeeded")],
        "timing": {"finishedAt": "2026-01-01T00:00:05.000000Z"},
    }));
    let spans = || traces::spans(&ended.metadata, Some("main"), ended.status.as_ref().unwrap());
    let once = spans();
    assert_eq!(once, spans());
    assert_eq!(once.len(), 3);
}

fn hex(digits: &[u8]) -> u8 {
    u8::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap()
}
