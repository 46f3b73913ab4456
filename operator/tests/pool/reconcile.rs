//! Whole passes: which requests, in which order, and none too many.

use buildpools_operator::pool::{Progress, reconcile};
use serde_json::{Value, json};

use crate::fixtures::{
    API_SERVER, NETWORK_POLICY, POOL, ROLE_BINDING, STATEFUL_SET, api_server, cluster, core, full, minimal, now, pass,
    pod, pool_json, ready, ready_status, settings,
};
use crate::support::{ApiServer, Fault, Received};

fn writes(server: &ApiServer) -> Vec<Received> {
    server.received().into_iter().filter(Received::is_write).collect()
}

fn said(writes: &[Received]) -> Vec<String> {
    writes.iter().map(|w| format!("{} {}", w.verb(), w.permission().2)).collect()
}

/// Makes the pool's members ready, as Kubernetes would.
fn members_come(server: &ApiServer) {
    let set = server.object(STATEFUL_SET).unwrap();
    let uid = set["metadata"]["uid"].as_str().unwrap();
    for ordinal in 0..set["spec"]["replicas"].as_i64().unwrap() {
        let name = format!("fast-{ordinal}");
        server.put(&core("pods", &name), pod(&name, uid, &ready_status()));
    }
}

/// Where members may connect to by the NetworkPolicy that is there: all addresses.
fn let_through(server: &ApiServer) -> String {
    server.object(NETWORK_POLICY).unwrap()["spec"]["egress"].to_string()
}

#[tokio::test]
async fn members_are_let_through_to_where_the_api_server_is_now() {
    let server = cluster(&minimal());
    pass(&server).await;
    assert!(let_through(&server).contains("172.18.0.3/32"));
    server.put(API_SERVER, api_server(&["172.18.0.2", "172.18.0.9"]));
    pass(&server).await;
    let egress = let_through(&server);
    assert!(egress.contains("172.18.0.9/32") && !egress.contains("172.18.0.3/32"), "{egress}");

    // Nothing is taken away while nobody says where it is.
    server.remove(API_SERVER);
    pass(&server).await;
    assert_eq!(ready(&server).1, "ApiServerUnknown");
    assert_eq!(let_through(&server), egress);
}

#[tokio::test]
async fn a_new_pool_is_made_in_order_and_the_second_pass_writes_nothing() {
    let server = cluster(&full());
    assert!(matches!(pass(&server).await, Progress::NotYet(_)));
    let made = writes(&server);
    assert_eq!(
        said(&made),
        [
            "patch buildpools",
            "create serviceaccounts",
            "create rolebindings",
            "create configmaps",
            "create networkpolicies",
            "create services",
            "create statefulsets",
            "patch buildpools/status",
        ]
    );
    assert_eq!(made[0].body["metadata"]["finalizers"], json!(["buildpools.dev/builds"]));
    for create in &made[1..7] {
        let owner = &create.body["metadata"]["ownerReferences"][0];
        assert_eq!(owner["uid"], "pool-uid");
        assert_eq!((&owner["controller"], &owner["blockOwnerDeletion"]), (&json!(true), &Value::Null));
        assert_eq!(create.query["fieldManager"], "buildpools-operator/pool");
    }
    assert_eq!(ready(&server), ("False".into(), "MembersNotReady".into(), "0 of 3 members are ready".into()));

    members_come(&server);
    assert_eq!(pass(&server).await, Progress::Ready);
    assert_eq!(said(&writes(&server)), ["patch buildpools/status"]);
    assert_eq!(ready(&server).0, "True");

    assert_eq!(pass(&server).await, Progress::Ready);
    assert_eq!(said(&writes(&server)), Vec::<String>::new());
}

#[tokio::test]
async fn changed_objects_are_put_right_by_apply_with_their_uid() {
    let server = cluster(&full());
    pass(&server).await;
    members_come(&server);
    pass(&server).await;
    server.received();

    server.change(NETWORK_POLICY, |policy| policy["spec"]["ingress"] = json!([{}]));
    pass(&server).await;
    let written = writes(&server);
    // The object was made by POST: its fields become the apply's before the first apply.
    assert_eq!(said(&written), ["patch networkpolicies", "patch networkpolicies"]);
    assert!(written[0].content_type.contains("merge-patch"));
    assert_eq!(written[0].body["metadata"]["managedFields"][0]["operation"], "Apply");
    assert!(written[1].content_type.contains("apply-patch"));
    assert_eq!(written[1].query["force"], "true");
    assert_eq!(written[1].body["metadata"]["uid"], server.object(NETWORK_POLICY).unwrap()["metadata"]["uid"]);
    assert_eq!(server.object(NETWORK_POLICY).unwrap()["spec"]["ingress"], json!([]));

    server.change(NETWORK_POLICY, |policy| policy["metadata"]["labels"]["buildpools.dev/pool"] = json!("x"));
    pass(&server).await;
    assert_eq!(said(&writes(&server)), ["patch networkpolicies"], "taken over once");

    server.remove(ROLE_BINDING);
    pass(&server).await;
    assert_eq!(said(&writes(&server)), ["create rolebindings"]);
}

#[tokio::test]
async fn a_changed_spec_reaches_what_it_concerns() {
    let server = cluster(&full());
    pass(&server).await;
    members_come(&server);
    pass(&server).await;
    server.received();
    server.change(POOL, |pool| {
        pool["spec"]["credentials"] = json!([]);
        pool["metadata"]["generation"] = json!(2);
    });
    pass(&server).await;
    let written = writes(&server);
    let changed: Vec<String> = said(&written);
    assert_eq!(
        changed,
        ["patch configmaps", "patch configmaps", "patch statefulsets", "patch statefulsets", "patch buildpools/status",]
    );
    assert_eq!(server.object(POOL).unwrap()["status"]["observedGeneration"], 2);
}

#[tokio::test]
async fn an_object_of_ours_that_appears_meanwhile_is_adopted() {
    let server = cluster(&minimal());
    pass(&server).await;
    server.received();
    // A create whose answer was lost: reading first says nothing is there.
    let path = core("configmaps", "fast-buildkitd");
    let first = path.clone();
    server.fail(Fault::Status(404, "NotFound", ""), move |r| r.path == first && r.verb() == "get");
    pass(&server).await;
    let asked: Vec<String> =
        server.received().iter().filter(|r| r.path.contains("configmaps")).map(|r| r.verb().to_owned()).collect();
    assert_eq!(asked, ["get", "create", "get"]);
    assert_eq!(ready(&server).1, "MembersNotReady");
}

#[tokio::test]
async fn foreign_objects_block_the_pool_and_stay_as_they_are() {
    for (path, foreign) in [
        (STATEFUL_SET.to_owned(), json!({"spec": {"replicas": 0, "selector": {}, "template": {}}})),
        (core("configmaps", "fast-buildkitd"), json!({"data": {"a": "b"}})),
        (core("services", "fast-members"), json!({})),
        (core("serviceaccounts", "buildpool-fast-runner"), json!({})),
        (ROLE_BINDING.to_owned(), json!({"roleRef": {"apiGroup": "a", "kind": "b", "name": "c"}})),
        (NETWORK_POLICY.to_owned(), json!({})),
        (core("persistentvolumeclaims", "cache-fast-0"), json!({})),
    ] {
        let server = cluster(&minimal());
        let before = server.put(&path, foreign.clone());
        assert!(matches!(pass(&server).await, Progress::NotYet(_)));
        let (status, reason, message) = ready(&server);
        assert_eq!((status.as_str(), reason.as_str()), ("False", "NameConflict"), "{path}");
        assert!(message.contains(path.rsplit('/').next().unwrap()), "{message}");
        assert_eq!(said(&writes(&server)), ["patch buildpools", "patch buildpools/status"], "{path}");
        assert_eq!(server.object(&path), Some(before), "{path}");

        // The same when it appears between reading and making.
        if path.contains("persistentvolumeclaims") {
            continue;
        }
        let server = cluster(&minimal());
        let before = server.put(&path, foreign);
        let hidden = path.clone();
        server.fail(Fault::Status(404, "NotFound", ""), move |r| r.path == hidden && r.verb() == "get");
        pass(&server).await;
        assert_eq!(ready(&server).1, "NameConflict", "{path}");
        assert_eq!(server.object(&path), Some(before), "{path}");
        if path != STATEFUL_SET {
            assert!(server.object(STATEFUL_SET).is_none(), "{path}: members without all that they need");
        }

        // It goes, and the pool comes.
        server.remove(&path);
        pass(&server).await;
        assert!(server.object(STATEFUL_SET).is_some());
    }
}

#[tokio::test]
async fn what_the_api_server_refuses_is_said_in_its_words() {
    let server = cluster(&minimal());
    let words = "StatefulSet.apps \"fast\" is invalid: spec: Forbidden: no";
    server.fail(Fault::Status(422, "Invalid", words), |r| r.verb() == "create" && r.path.contains("statefulsets"));
    assert!(matches!(pass(&server).await, Progress::NotYet(_)));
    let (_, reason, message) = ready(&server);
    assert_eq!(reason, "ObjectRefused");
    assert!(message.contains(words), "{message}");
}

#[tokio::test]
async fn an_object_that_was_replaced_meanwhile_is_not_overwritten() {
    let server = cluster(&minimal());
    pass(&server).await;
    let path = core("services", "fast-members");
    server.change(&path, |service| {
        service["metadata"]["labels"] = json!({});
        service["metadata"]["managedFields"] = json!([]);
    });
    let replaced = server.clone();
    let foreign = json!({"metadata": {"uid": "another"}, "spec": {}});
    let (at, put) = (path.clone(), foreign.clone());
    // Replaced after the pass has read it.
    server.fail(Fault::Status(409, "Conflict", "Precondition failed: UID in precondition"), move |r| {
        let ours = r.verb() == "patch" && r.path == at;
        if ours {
            assert_ne!(r.body["metadata"]["uid"], put["metadata"]["uid"]);
        }
        ours
    });
    let error = reconcile(&server.client(), &settings(), "team-a", "fast", now()).await.unwrap_err();
    assert_eq!(error.category(), "Conflict");
    replaced.put(&path, foreign);
    pass(&server).await;
    assert_eq!(ready(&server).1, "NameConflict");
}

#[tokio::test]
async fn runners_entries_survive_and_entries_of_pods_that_are_gone_do_not() {
    let server = cluster(&minimal());
    pass(&server).await;
    members_come(&server);
    pass(&server).await;
    server.received();
    let entry = |uid: &str| json!({"uid": uid, "pod": "fast-0", "builds": 0, "phase": "Ready"});
    server.change(POOL, |pool| pool["status"]["members"] = json!([entry("gone"), entry("uid-of-fast-0")]));
    let version = server.object(POOL).unwrap()["metadata"]["resourceVersion"].clone();
    pass(&server).await;
    let written = writes(&server);
    assert_eq!(said(&written), ["patch buildpools/status"]);
    assert_eq!(written[0].body["status"], json!({"members": [entry("uid-of-fast-0")]}), "only what changes");
    assert_eq!(written[0].body["metadata"]["resourceVersion"], version, "a runner may write at the same time");

    server.change(POOL, |pool| pool["status"]["members"] = json!([entry("uid-of-fast-0"), entry("gone")]));
    server.remove(&core("pods", "fast-0"));
    pass(&server).await;
    assert_eq!(server.object(POOL).unwrap()["status"]["members"], json!([]));
}

#[tokio::test]
async fn a_status_that_a_runner_changed_meanwhile_is_a_conflict_and_no_fault() {
    let server = cluster(&minimal());
    server.fail(Fault::Status(409, "Conflict", "modified"), |r| r.path.ends_with("/status"));
    let error = reconcile(&server.client(), &settings(), "team-a", "fast", now()).await.unwrap_err();
    assert_eq!(error.category(), "Conflict");
}

#[tokio::test]
async fn a_missing_authority_is_named_and_healed() {
    let server = cluster(&full());
    server.remove(&core("configmaps", "lab-ca"));
    pass(&server).await;
    assert_eq!(ready(&server).1, "CertificateAuthorityNotFound");
    assert!(server.object(STATEFUL_SET).is_none());
    server.put(&core("configmaps", "lab-ca"), json!({"data": {"ca.crt": crate::fixtures::PEM}}));
    pass(&server).await;
    assert!(server.object(STATEFUL_SET).is_some());
}

#[tokio::test]
async fn refused_pods_are_found_in_the_events_of_the_stateful_set() {
    let server = cluster(&minimal());
    pass(&server).await;
    let uid = server.object(STATEFUL_SET).unwrap()["metadata"]["uid"].clone();
    let event = |uid: &Value, message: &str| {
        json!({
            "involvedObject": {"uid": uid}, "reason": "FailedCreate", "message": message, "lastTimestamp": "2026-01-01T00:00:00Z",
        })
    };
    server.put(
        &core("events", "a"),
        event(&uid, "create Pod fast-0 in StatefulSet fast failed error: violates PodSecurity"),
    );
    server.put(&core("events", "b"), event(&json!("other"), "something else"));
    pass(&server).await;
    let (_, reason, message) = ready(&server);
    assert_eq!(reason, "PodRefused");
    assert!(message.contains("violates PodSecurity; BuildKit needs"), "{message}");

    // Events, and volumes by name, are read only while pods are missing.
    members_come(&server);
    server.received();
    assert_eq!(pass(&server).await, Progress::Ready);
    assert!(
        server.received().iter().all(|r| !r.path.contains("events") && !r.path.contains("persistentvolumeclaims/"))
    );
}

#[tokio::test]
async fn a_pool_that_is_gone_or_that_nothing_of_ours_holds_is_left_to_the_garbage_collector() {
    let server = ApiServer::default();
    assert_eq!(pass(&server).await, Progress::Gone);
    let mut going = pool_json(&minimal());
    going["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    server.put(POOL, going);
    assert_eq!(pass(&server).await, Progress::Gone);
    assert!(writes(&server).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_call_without_an_answer_ends_the_pass() {
    let server = cluster(&minimal());
    server.fail(Fault::Hang, |r| r.verb() == "create" && r.path.contains("networkpolicies"));
    let error = reconcile(&server.client(), &settings(), "team-a", "fast", now()).await.unwrap_err();
    assert_eq!(error.category(), "Timeout");
    pass(&server).await;
    assert!(server.object(STATEFUL_SET).is_some());
}
