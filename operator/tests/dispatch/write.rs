//! One decision, one compare-and-swap; and what follows from each answer.

use std::time::Duration;

use buildpools_crds::lifecycle::{self, Outcome, Policy};
use buildpools_crds::v1alpha1::{BuildJobStatus, FailureReason, JobPhase};
use buildpools_operator::dispatch::events::Announcer;
use buildpools_operator::dispatch::job::Job;
use buildpools_operator::dispatch::schedule::{Action, Decision};
use buildpools_operator::dispatch::view::Gone;
use buildpools_operator::dispatch::world::Settled;
use buildpools_operator::dispatch::write::Writer;
use jiff::Timestamp;
use serde_json::json;

use crate::fixtures::{JOB, bound, job, member, pending, put_job, put_pod, running};
use crate::support::{ApiServer, Fault, Received};

fn is_patch(request: &Received) -> bool {
    request.verb() == "patch"
}

fn writer(server: &ApiServer) -> Writer {
    let client = server.client();
    Writer::new(client.clone(), Announcer::new(client, "test".into()))
}

pub async fn write(server: &ApiServer, job: Job, action: Action) -> Settled {
    writer(server).write(&Decision { job, action, reason: "Test" }).await
}

pub fn verbs(server: &ApiServer) -> Vec<String> {
    let received = server.received();
    received.iter().map(|request| format!("{} {}", request.verb(), request.permission().2)).collect()
}

fn bind() -> Action {
    Action::Bind { pool: "web".into(), member: member(), amend: None }
}

fn lost() -> Action {
    let gone = Gone { reason: FailureReason::NodeLost, message: "node n is gone".into() };
    Action::Lost { gone, policy: Policy::default() }
}

#[tokio::test]
async fn a_bind_is_one_merge_patch_of_the_version_that_was_decided_on() {
    let server = ApiServer::default();
    let before = put_job(&server, &pending());
    let version = before.version.clone();
    let Settled::Now(now) = write(&server, before, bind()).await else { panic!() };
    assert_eq!((now.status.phase, now.status.assigned_to.as_deref()), (JobPhase::Bound, Some("pod-uid")));
    assert_ne!(now.version, version);

    let received = server.received();
    assert_eq!(received.len(), 1, "{received:?}");
    assert_eq!(received[0].path, format!("{JOB}/status"));
    assert_eq!(received[0].content_type, "application/merge-patch+json");
    assert_eq!(received[0].query["fieldManager"], "buildpools-operator/dispatch");
    let mut body = received[0].body.clone();
    let bound_at = body["status"]["timing"]["boundAt"].take();
    assert!(bound_at.as_str().unwrap().parse::<Timestamp>().is_ok(), "{bound_at}");
    let expected = json!({
        "metadata": {"resourceVersion": version},
        "status": {
            "phase": "Bound",
            "pool": "web",
            "assignedTo": "pod-uid",
            "member": "web-0",
            "attempt": 1,
            "timing": {"boundAt": null},
            "conditions": [{
                "type": "Reconciling", "status": "True", "reason": "Bound", "message": "bound to web-0",
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            }],
        },
    });
    assert_eq!(body, expected);
}

#[tokio::test]
async fn a_writer_that_is_closed_begins_nothing() {
    let server = ApiServer::default();
    let job = put_job(&server, &pending());
    let writer = writer(&server);
    writer.close();
    let settled = writer.write(&Decision { job, action: bind(), reason: "Test" }).await;
    assert!(matches!(settled, Settled::Failed(_)), "{settled:?}");
    assert_eq!(verbs(&server), [""; 0]);
}

#[tokio::test]
async fn a_job_that_somebody_else_has_changed_is_left_alone() {
    let server = ApiServer::default();
    let before = put_job(&server, &pending());
    server.change(JOB, |job| job["metadata"]["labels"] = json!({"a": "b"}));
    assert!(matches!(write(&server, before, bind()).await, Settled::Conflict));
    assert_eq!(verbs(&server), ["patch buildjobs/status"]);
    assert_eq!(job(&server).status.unwrap().phase, JobPhase::Pending);
}

#[tokio::test]
async fn a_write_whose_answer_was_lost_is_found_by_reading() {
    let server = ApiServer::default();
    let before = put_job(&server, &pending());
    server.fail(Fault::AnswerLost, is_patch);
    let Settled::Now(now) = write(&server, before, bind()).await else { panic!() };
    assert_eq!(now.status.phase, JobPhase::Bound);
    assert_eq!(verbs(&server), ["patch buildjobs/status", "get buildjobs"]);
}

#[tokio::test(start_paused = true)]
async fn a_write_that_is_never_answered_is_found_out_about_by_reading_until_that_works() {
    let server = ApiServer::default();
    let before = put_job(&server, &pending());
    server.fail(Fault::Hang, is_patch);
    for _ in 0..3 {
        server.fail(Fault::Status(503, "ServiceUnavailable", "starting"), |request| request.verb() == "get");
    }
    let Settled::Failed(until) = write(&server, before, bind()).await else { panic!() };
    assert!(until > Timestamp::now(), "not at once");
    assert_eq!(
        verbs(&server),
        ["patch buildjobs/status", "get buildjobs", "get buildjobs", "get buildjobs", "get buildjobs"]
    );
    assert_eq!(job(&server).status.unwrap().phase, JobPhase::Pending);
}

#[tokio::test]
async fn a_refused_write_is_not_read_after_and_tried_later() {
    let server = ApiServer::default();
    let before = put_job(&server, &pending());
    server.fail(Fault::Status(403, "Forbidden", "no"), is_patch);
    assert!(matches!(write(&server, before, bind()).await, Settled::Failed(_)));
    assert_eq!(verbs(&server), ["patch buildjobs/status"]);
}

#[tokio::test]
async fn a_job_that_was_deleted_is_gone() {
    let server = ApiServer::default();
    let before = put_job(&server, &pending());
    server.remove(JOB);
    assert!(matches!(write(&server, before.clone(), bind()).await, Settled::Deleted));
    // And also when nobody knows whether the write came first.
    server.fail(Fault::Status(500, "InternalError", "x"), is_patch);
    assert!(matches!(write(&server, before, bind()).await, Settled::Deleted));
}

#[tokio::test]
async fn an_attempt_is_lost_only_when_the_api_server_itself_says_that_the_pod_is_gone() {
    let deleted = |pod: &mut serde_json::Value| {
        pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        pod["status"]["containerStatuses"] = json!([{
            "name": "runner", "image": "", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"terminated": {"exitCode": 0}},
        }]);
    };
    // The watch was behind: the pod runs.
    let server = ApiServer::default();
    let before = put_job(&server, &running());
    put_pod(&server, "pod-uid", |_| {});
    assert!(matches!(write(&server, before, lost()).await, Settled::Failed(_)));
    assert_eq!(verbs(&server), ["get pods", "get nodes"]);

    // Whether it runs is unknown.
    let before = put_job(&server, &running());
    server.fail(Fault::Status(500, "InternalError", "x"), |request| request.verb() == "get");
    assert!(matches!(write(&server, before, lost()).await, Settled::Failed(_)));
    assert_eq!(job(&server).status.unwrap().phase, JobPhase::Running);

    // It has ended: what the pod says counts.
    put_pod(&server, "pod-uid", deleted);
    let before = put_job(&server, &running());
    server.received();
    let status = written(write(&server, before, lost()).await);
    assert_eq!(verbs(&server)[..2], ["get pods", "patch buildjobs/status"]);
    assert_eq!(status.attempts[0].result.as_deref(), Some("PodEvicted"));
    assert_eq!((status.phase, status.assigned_to, status.runner_instance), (JobPhase::Pending, None, None));

    // A successor has its name; or there is none.
    put_pod(&server, "another-uid", |_| {});
    let before = put_job(&server, &running());
    assert_eq!(written(write(&server, before, lost()).await).attempts[0].result.as_deref(), Some("NodeLost"));
    server.remove(crate::fixtures::POD);
    let before = put_job(&server, &running());
    assert_eq!(written(write(&server, before, lost()).await).attempts[0].result.as_deref(), Some("NodeLost"));
}

fn written(settled: Settled) -> BuildJobStatus {
    let Settled::Now(now) = settled else { panic!("{settled:?}") };
    now.status
}

#[tokio::test]
async fn an_unbound_job_is_nobodys() {
    let server = ApiServer::default();
    let before = put_job(&server, &bound());
    let unbind = Action::Unbind { why: "pod web-0 is stopping".into(), verify: None };
    let status = written(write(&server, before, unbind).await);
    assert_eq!((status.phase, status.assigned_to, status.member), (JobPhase::Pending, None, None));
    assert_eq!(verbs(&server), ["patch buildjobs/status"], "and there is no event about it");
    assert_eq!(job(&server).status.unwrap().assigned_to, None);
}

#[tokio::test]
async fn a_refusal_is_told_in_an_event_that_fits() {
    let server = ApiServer::default();
    let before = put_job(&server, &pending());
    let refuse = Action::Refuse { reason: FailureReason::PoolNotFound, message: "ä".repeat(1500), amend: None };
    assert_eq!(written(write(&server, before, refuse).await).phase, JobPhase::Failed);
    let event = |server: &ApiServer| server.objects().into_iter().find(|(path, _)| path.contains("/events/"));
    tokio::time::timeout(Duration::from_secs(5), server.until(|server| event(server).is_some())).await.unwrap();
    let (path, event) = event(&server).unwrap();
    assert!(path.starts_with("/apis/events.k8s.io/v1/namespaces/team/events/"), "{path}");
    assert_eq!((&event["type"], &event["reason"]), (&json!("Warning"), &json!("PoolNotFound")));
    assert_eq!((&event["regarding"]["name"], &event["regarding"]["uid"]), (&json!("app"), &json!("job-uid")));
    assert!(event["note"].as_str().unwrap().len() <= 1024);
}

#[tokio::test]
async fn an_event_that_fails_changes_nothing() {
    let server = ApiServer::default();
    let before = put_job(&server, &pending());
    server.fail(Fault::Status(403, "Forbidden", "no"), |request| request.path.contains("/events"));
    let refuse = Action::Refuse { reason: FailureReason::PoolNotFound, message: "m".into(), amend: None };
    assert_eq!(written(write(&server, before, refuse).await).phase, JobPhase::Failed);
}

#[tokio::test]
async fn a_job_is_cancelled_by_one_write_whether_it_waits_or_is_bound() {
    for before in [pending(), bound()] {
        let server = ApiServer::default();
        let before = put_job(&server, &before);
        let status = written(write(&server, before, Action::Cancel { message: "it waited".into() }).await);
        assert_eq!((status.phase, status.assigned_to.as_deref()), (JobPhase::Cancelled, None));
        assert_eq!(status.failure.unwrap().reason, FailureReason::Cancelled);
        assert_eq!(verbs(&server), ["patch buildjobs/status"]);
    }
}

#[tokio::test]
async fn what_is_known_later_of_an_attempt_is_written_with_the_next_bind() {
    let server = ApiServer::default();
    let mut lost = lifecycle::finish(
        &running(),
        "pod-uid",
        &Outcome::Failed(lifecycle::failure(FailureReason::DaemonLost, "the connection broke")),
        Policy::default(),
        Timestamp::now(),
    )
    .unwrap();
    lost.queue_position = Some(3);
    let before = put_job(&server, &lost);
    let amend = Some("the daemon was killed".to_owned());
    let status = written(write(&server, before, Action::Bind { pool: "web".into(), member: member(), amend }).await);
    assert_eq!((status.phase, status.queue_position), (JobPhase::Bound, None));
    assert_eq!(status.attempts[0].result.as_deref(), Some("OutOfMemory"));
    assert_eq!(status.attempts[0].message.as_deref(), Some("the daemon was killed"));
    assert_eq!(verbs(&server), ["patch buildjobs/status"]);
}
