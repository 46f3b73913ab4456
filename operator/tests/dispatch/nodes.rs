//! Nodes that are gone or not heard of: what is asked before an attempt is given up, and what is written.

use buildpools_crds::conditions::{self, NODE_UNREACHABLE};
use buildpools_crds::lifecycle::Policy;
use buildpools_crds::v1alpha1::{BuildJobStatus, FailureReason, JobPhase};
use buildpools_operator::dispatch::schedule::Action;
use buildpools_operator::dispatch::view::Gone;
use buildpools_operator::dispatch::world::Settled;
use serde_json::{Value, json};

use crate::fixtures::{NODE, POD, job, put_job, put_node, put_pod, put_pool, running};
use crate::run::run_until;
use crate::support::{ApiServer, Fault};
use crate::write::{verbs, write};

fn lost() -> Action {
    let gone =
        Gone { reason: FailureReason::NodeLost, message: "node node of pod web-0 does not exist any more".into() };
    Action::Lost { gone, policy: Policy::default() }
}

fn status(server: &ApiServer) -> BuildJobStatus {
    job(server).status.unwrap()
}

fn out_of_service(node: &mut Value) {
    node["spec"]["taints"] = json!([{"key": "node.kubernetes.io/out-of-service", "effect": "NoExecute"}]);
}

#[tokio::test]
async fn a_node_is_gone_only_when_the_api_server_itself_says_so() {
    let server = ApiServer::default();
    put_pod(&server, "pod-uid", |_| {});
    // The watch was behind, or wrong; or nobody knows.
    for ready in ["True", "False", "Unknown"] {
        put_node(&server, ready);
        let before = put_job(&server, &running());
        assert!(matches!(write(&server, before, lost()).await, Settled::Failed(_)));
        assert_eq!(verbs(&server), ["get pods", "get nodes"]);
    }
    server.change(NODE, |node| {
        out_of_service(node);
        node["status"]["conditions"][0]["status"] = json!("True");
    });
    let before = put_job(&server, &running());
    assert!(matches!(write(&server, before, lost()).await, Settled::Failed(_)), "it says that it runs");
    server.fail(Fault::Status(500, "InternalError", "x"), |request| request.path == NODE);
    let before = put_job(&server, &running());
    assert!(matches!(write(&server, before, lost()).await, Settled::Failed(_)));
    assert_eq!(status(&server).phase, JobPhase::Running);

    put_node(&server, "Unknown");
    server.change(NODE, out_of_service);
    let before = put_job(&server, &running());
    assert!(matches!(write(&server, before, lost()).await, Settled::Now(_)));
    let attempt = &status(&server).attempts[0];
    assert_eq!(attempt.result.as_deref(), Some("NodeLost"));
    assert_eq!(attempt.message.as_deref(), Some("node node of pod web-0 is out of service"));

    server.remove(NODE);
    let before = put_job(&server, &running());
    assert!(matches!(write(&server, before, lost()).await, Settled::Now(_)));
    let now = status(&server);
    assert_eq!((now.phase, now.attempts[0].result.as_deref()), (JobPhase::Pending, Some("NodeLost")));
}

#[tokio::test]
async fn a_node_that_is_not_heard_of_is_said_in_one_write_and_taken_back_in_one() {
    let server = ApiServer::default();
    put_pool(&server);
    put_pod(&server, "pod-uid", |pod| pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z"));
    put_node(&server, "Unknown");
    put_job(&server, &running());
    let said = |server: &ApiServer| conditions::is_true(&status(server).conditions, NODE_UNREACHABLE);
    let received = run_until(&server, said).await;
    let writes: Vec<_> = received.iter().filter(|request| request.verb() == "patch").collect();
    assert_eq!(writes.len(), 1, "{writes:?}");
    assert_eq!((status(&server).phase, status(&server).attempts.len()), (JobPhase::Running, 1));

    put_node(&server, "True");
    let received = run_until(&server, |server| !said(server)).await;
    assert_eq!(received.iter().filter(|request| request.verb() == "patch").count(), 1);
    assert_eq!(status(&server).phase, JobPhase::Running);
}

#[tokio::test]
async fn a_build_whose_node_was_deleted_is_built_again() {
    let server = ApiServer::default();
    put_pool(&server);
    put_pod(&server, "pod-uid", |_| {});
    server.remove(NODE);
    put_job(&server, &running());
    run_until(&server, |server| status(server).phase == JobPhase::Pending).await;
    assert_eq!(status(&server).attempts[0].result.as_deref(), Some("NodeLost"));
    assert!(server.object(POD).is_some());
}
