//! Whether members can be made is asked before they are.

use buildpools_operator::pool::{Progress, reconcile};
use buildpools_operator::pool::{preflight, problem::Problem, validate};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use crate::fixtures::{
    POOL, STATEFUL_SET, cluster, core, full, minimal, now, observed, pass, pod, ready, ready_status, settings,
    user_namespace,
};
use crate::support::{ApiServer, Fault, Received};

fn asked(server: &ApiServer) -> Vec<Received> {
    server.received().into_iter().filter(Received::is_dry_run).collect()
}

fn refuse(server: &ApiServer, words: &'static str) {
    server.fail(Fault::Status(403, "Forbidden", words), Received::is_dry_run);
}

#[tokio::test]
async fn refused_pods_keep_the_stateful_set_from_being_made_until_they_are_not() {
    let server = cluster(&minimal());
    refuse(&server, "pods \"fast-\" is forbidden: violates PodSecurity \"restricted:latest\": seccompProfile");
    assert!(matches!(pass(&server).await, Progress::NotYet(_)));
    let (status, reason, message) = ready(&server);
    assert_eq!((status.as_str(), reason.as_str()), ("False", "PodRefused"));
    assert!(message.contains("enforce=privileged"), "{message}");
    assert_eq!(server.object(STATEFUL_SET), None);

    pass(&server).await;
    assert!(server.object(STATEFUL_SET).is_some());
    assert_eq!(ready(&server).1, "MembersNotReady");
}

#[tokio::test]
async fn a_pool_at_rest_asks_nothing_and_a_changed_one_asks_first() {
    let server = cluster(&full());
    pass(&server).await;
    let first = asked(&server);
    assert_eq!(first.len(), 1);
    assert_eq!(first[0].path, "/api/v1/namespaces/team-a/pods");
    assert_eq!(first[0].body["metadata"]["labels"]["buildpools.dev/pool"], "fast");
    let claims = first[0].body["spec"]["volumes"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|v| v["persistentVolumeClaim"]["claimName"].as_str());
    assert_eq!(claims.collect::<Vec<_>>(), ["cache-fast-0"]);

    let uid = server.object(STATEFUL_SET).unwrap()["metadata"]["uid"].as_str().unwrap().to_owned();
    for name in ["fast-0", "fast-1", "fast-2"] {
        server.put(&core("pods", name), pod(name, &uid, &ready_status()));
    }
    pass(&server).await;
    assert_eq!(asked(&server).len(), 1, "not ready yet");
    assert_eq!(pass(&server).await, Progress::Ready);
    assert_eq!(asked(&server).len(), 0);

    server.change(POOL, |pool| pool["spec"]["pod"]["priorityClassName"] = json!("missing"));
    let before = server.object(STATEFUL_SET);
    refuse(&server, "pods \"fast-\" is forbidden: no PriorityClass with name missing was found");
    pass(&server).await;
    assert_eq!(ready(&server).1, "PodRefused");
    assert_eq!(server.object(STATEFUL_SET), before, "members keep the form that they have");
}

#[tokio::test]
async fn what_says_nothing_about_the_pod_does_not_stop_the_pool() {
    for words in [
        "pods \"fast-\" is forbidden: exceeded quota: few, requested: pods=1, used: pods=1, limited: pods=1",
        "admission webhook \"a.example.com\" does not support dry run",
    ] {
        let server = cluster(&minimal());
        refuse(&server, words);
        pass(&server).await;
        assert_eq!(ready(&server).1, "MembersNotReady", "{words}");
    }
    let server = cluster(&minimal());
    let silent = Fault::Status(500, "InternalError", "failed calling webhook \"a.example.com\": connection refused");
    server.fail(silent, |request| request.is_write() && request.path.ends_with("/pods"));
    pass(&server).await;
    assert_eq!(ready(&server).1, "MembersNotReady", "a webhook that does not answer");
    let server = cluster(&minimal());
    refuse(&server, "pods is forbidden: User \"x\" cannot create resource \"pods\" in API group \"\"");
    let error = reconcile(&server.client(), &settings(), "team-a", "fast", now()).await.unwrap_err();
    assert_eq!(error.category(), "Refused", "the operator's own rights are no fault of the pool's");
}

fn judged(spec: &Value, change: impl FnOnce(&mut Value)) -> Option<Problem> {
    let valid = validate::validate(&observed(spec), &settings()).unwrap();
    let set = buildpools_operator::pool::build::build(&valid).unwrap().stateful_set;
    let asked = preflight::pod(&valid, &set);
    let mut made = serde_json::to_value(&asked).unwrap();
    change(&mut made);
    let made: Pod = serde_json::from_value(made).unwrap();
    preflight::judge(&valid, &asked, &made).unwrap()
}

#[test]
fn what_came_back_is_compared_with_what_was_sent() {
    for spec in [minimal(), user_namespace()] {
        assert_eq!(judged(&spec, |_| ()), None);
        let problem = judged(&spec, |pod| {
            pod["spec"]["initContainers"][0]["securityContext"]["allowPrivilegeEscalation"] = json!(false);
        })
        .unwrap();
        assert_eq!(problem.reason(), "PodMutated");
        let text = problem.to_string();
        assert!(
            text.contains(
                "spec.initContainers[buildkitd].securityContext.allowPrivilegeEscalation was unset and became false"
            ),
            "{text}"
        );
        assert!(text.contains("exempt pods with the label buildpools.dev/pool=fast"), "{text}");
        let problem = judged(&spec, |pod| pod["spec"]["containers"][0]["securityContext"] = Value::Null).unwrap();
        assert_eq!(problem.reason(), "PodMutated", "less confined than it should be");
        let problem = judged(&spec, |pod| pod["spec"]["automountServiceAccountToken"] = json!(true)).unwrap();
        assert_eq!(problem.reason(), "PodMutated");
    }
}

#[test]
fn a_cluster_without_user_namespaces_drops_the_field() {
    for field in ["hostUsers", "procMount"] {
        let problem = judged(&user_namespace(), |pod| match field {
            "hostUsers" => pod["spec"]["hostUsers"] = Value::Null,
            _ => pod["spec"]["initContainers"][0]["securityContext"]["procMount"] = json!("Default"),
        })
        .unwrap();
        assert_eq!(problem.reason(), "UserNamespacesUnsupported");
        assert!(problem.to_string().contains(&format!("drops {field} from pods")), "{problem}");
    }
}
