//! What pods tell of their members.

use buildpools_operator::pool::members::{self, Members};
use buildpools_operator::pool::reasons;
use jiff::ToSpan as _;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Event, Pod};
use serde_json::{Value, from_value, json};

use crate::fixtures::{now, pod, ready_status};

fn set(replicas: i32) -> StatefulSet {
    from_value(json!({
        "metadata": {"name": "fast", "uid": "set", "generation": 2},
        "spec": {"replicas": replicas, "selector": {}, "template": {}},
        "status": {"replicas": replicas, "observedGeneration": 2, "updateRevision": "fast-new"},
    }))
    .unwrap()
}

fn look(replicas: i32, pods: &[Value], events: &[Value]) -> Members {
    let pods: Vec<Pod> = pods.iter().map(|pod| from_value(pod.clone()).unwrap()).collect();
    let events: Vec<Event> = events.iter().map(|event| from_value(event.clone()).unwrap()).collect();
    members::look(&set(replicas), pods.iter(), &events, now())
}

/// The only problem of one pod with this status.
fn problem(status: &Value) -> (&'static str, String) {
    let found = look(1, &[pod("fast-0", "set", status)], &[]);
    assert_eq!((found.ready, found.problems.len()), (0, 1), "{found:?}");
    (found.problems[0].reason(), found.problems[0].to_string())
}

fn waiting(container: &str, reason: &str, message: &str) -> Value {
    json!({"containerStatuses": [{
        "name": container, "image": "example.com/x:1", "imageID": "", "ready": false, "restartCount": 0,
        "state": {"waiting": {"reason": reason, "message": message}},
    }]})
}

#[test]
fn ready_members_are_counted_and_those_that_end_are_not() {
    let mut ending = pod("fast-1", "set", &ready_status());
    ending["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    let starting = pod("fast-2", "set", &json!({"phase": "Pending"}));
    let found = look(3, &[pod("fast-0", "set", &ready_status()), ending, starting], &[]);
    assert_eq!(found, Members { desired: 3, ready: 1, ..Members::default() });
}

#[test]
fn a_pod_without_a_node() {
    let since = |ago: i64| {
        json!({"conditions": [{
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
            "message": "0/1 nodes are available: 1 Insufficient memory.", "lastTransitionTime": (now() - ago.seconds()).to_string(),
        }]})
    };
    assert_eq!(look(1, &[pod("fast-0", "set", &since(4))], &[]).problems, [], "the scheduler's first try may fail");
    let (reason, message) = problem(&since(5));
    assert_eq!(reason, reasons::UNSCHEDULABLE);
    assert_eq!(message, "no node takes pod fast-0: 0/1 nodes are available: 1 Insufficient memory.");
}

#[test]
fn an_image_that_cannot_be_pulled_is_said_the_same_way_each_time() {
    let first = problem(&waiting("buildkitd", "ErrImagePull", "no such host"));
    let later = problem(&waiting(
        "buildkitd",
        "ImagePullBackOff",
        "Back-off pulling image \"example.com/x:1\": ErrImagePull: no such host",
    ));
    assert_eq!(first, later);
    assert_eq!(first.0, reasons::IMAGE_PULL_FAILED);
    assert_eq!(first.1, "pod fast-0 cannot pull image example.com/x:1 of container buildkitd: no such host");
}

#[test]
fn a_container_that_cannot_be_made() {
    let (reason, message) = problem(&waiting("runner", "CreateContainerConfigError", "configmap not found"));
    assert_eq!(reason, reasons::MEMBER_CRASHING);
    assert_eq!(message, "container runner of pod fast-0 does not run: configmap not found");
}

#[test]
fn a_crashing_container_says_its_last_words() {
    let crashed = |state: Value, restarts: i32| {
        json!({"initContainerStatuses": [{
            "name": "buildkitd", "image": "x", "imageID": "", "ready": false, "restartCount": restarts, "state": state,
            "lastState": {"terminated": {"exitCode": 1, "reason": "Error", "message": "info\nbuildkitd: no space left on device\n"}},
        }]})
    };
    let back_off = problem(&crashed(json!({"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}}), 1));
    let running = problem(&crashed(json!({"running": {}}), 2));
    assert_eq!(back_off, running, "the status must not change with each crash");
    assert_eq!(back_off.0, reasons::MEMBER_CRASHING);
    assert_eq!(
        back_off.1,
        "container buildkitd of pod fast-0 does not run: it ended with exit code 1: buildkitd: no space left on device"
    );
    let once = look(1, &[pod("fast-0", "set", &crashed(json!({"running": {}}), 1))], &[]);
    assert_eq!(once.problems, [], "one restart is no pattern");
}

#[test]
fn killed_for_memory_is_said() {
    let (_, message) = problem(&json!({"containerStatuses": [{
        "name": "runner", "image": "x", "imageID": "", "ready": false, "restartCount": 3,
        "state": {"waiting": {"reason": "CrashLoopBackOff"}},
        "lastState": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}},
    }]}));
    assert_eq!(message, "container runner of pod fast-0 does not run: it ended with exit code 137 (OOMKilled)");
}

fn event(reason: &str, message: &str, second: u32) -> Value {
    json!({
        "metadata": {}, "involvedObject": {}, "reason": reason, "message": message,
        "lastTimestamp": format!("2026-01-01T00:00:{second:02}Z"),
    })
}

const REFUSED: &str = "create Pod fast-0 in StatefulSet fast failed error: pods \"fast-0\" is forbidden: violates PodSecurity \"restricted:latest\": unrestricted capabilities";

#[test]
fn pods_that_the_namespace_refuses() {
    let found = look(1, &[], &[event("FailedCreate", REFUSED, 5), event("Other", "later", 9)]);
    assert_eq!(found.problems.len(), 1);
    assert_eq!(found.problems[0].reason(), reasons::POD_REFUSED);
    assert_eq!(
        found.problems[0].to_string(),
        "pods are refused: pods \"fast-0\" is forbidden: violates PodSecurity \"restricted:latest\": unrestricted capabilities; \
         BuildKit needs a namespace with the label pod-security.kubernetes.io/enforce=privileged"
    );
    let quota =
        "create Pod fast-0 in StatefulSet fast failed error: pods \"fast-0\" is forbidden: exceeded quota: pods";
    let found = look(1, &[], &[event("FailedCreate", quota, 5)]);
    assert!(!found.problems[0].to_string().contains("pod-security"), "{}", found.problems[0]);
}

#[test]
fn an_old_refusal_means_nothing_when_a_pod_was_made_since() {
    let made = event("SuccessfulCreate", "create Pod fast-0 in StatefulSet fast successful", 6);
    assert_eq!(look(1, &[], &[event("FailedCreate", REFUSED, 5), made.clone()]).problems, []);
    assert_eq!(look(1, &[], &[event("FailedCreate", REFUSED, 7), made]).problems.len(), 1);
    let there = [pod("fast-0", "set", &json!({"phase": "Pending"}))];
    assert_eq!(look(1, &there, &[event("FailedCreate", REFUSED, 5)]).problems, [], "no pod is missing");
}

#[test]
fn members_of_an_older_template_are_named_in_order() {
    let old = |name: &str| {
        let mut pod = pod(name, "set", &ready_status());
        pod["metadata"]["labels"]["controller-revision-hash"] = json!("fast-old");
        pod
    };
    let pods = [old("fast-10"), old("fast-9"), pod("fast-0", "set", &ready_status())];
    assert_eq!(look(3, &pods, &[]).outdated, ["fast-9", "fast-10"]);

    let pods: Vec<Pod> = vec![from_value(old("fast-0")).unwrap()];
    let mut unseen = set(1);
    unseen.metadata.generation = Some(3);
    assert!(
        members::look(&unseen, pods.iter(), &[], now()).outdated.is_empty(),
        "the newest revision is not known yet"
    );
}

#[test]
fn a_node_without_user_namespaces_is_told_from_other_causes() {
    let held = |host_users: bool| {
        let mut pod = pod(
            "fast-0",
            "set",
            &json!({"phase": "Pending", "conditions": [
                {"type": "PodScheduled", "status": "True"}, {"type": "PodReadyToStartContainers", "status": "False"},
            ]}),
        );
        pod["spec"] = json!({"containers": [], "hostUsers": host_users});
        pod
    };
    let failed = |message: &str, second: u32| {
        let mut event = event("FailedCreatePodSandBox", message, second);
        event["involvedObject"] = json!({"uid": "uid-of-fast-0"});
        event
    };
    // The kubelet's words (pkg/kubelet/userns/userns_manager.go).
    let words =
        "Failed to create pod sandbox: can't set `spec.hostUsers: false`, runtime does not support user namespaces";
    let said = |pod: Value, events: &[Value]| {
        let found = look(1, &[pod], events).problems;
        found.first().map(|problem| (problem.reason(), problem.to_string()))
    };
    let (reason, message) = said(held(false), &[failed("no network", 1), failed(words, 2)]).unwrap();
    assert_eq!(reason, reasons::USER_NAMESPACES_UNSUPPORTED);
    assert!(message.contains(words) && message.contains("profile Rootless"), "{message}");
    let (reason, message) = said(held(false), &[failed(words, 1), failed("plugin type=\"ptp\" failed", 2)]).unwrap();
    assert_eq!(
        (reason, message.as_str()),
        (reasons::MEMBER_CRASHING, "the node does not start pod fast-0: plugin type=\"ptp\" failed")
    );
    assert_eq!(said(held(true), &[failed(words, 1)]).unwrap().0, reasons::MEMBER_CRASHING);
    assert_eq!(said(held(false), &[event("FailedCreatePodSandBox", words, 2)]), None, "of another pod");

    // runc's words for a volume that cannot be mounted with mapped IDs.
    let mut unmapped = held(false);
    unmapped["status"] = waiting(
        "buildkitd",
        "RunContainerError",
        "failed to set MOUNT_ATTR_IDMAP on /cache: invalid argument (maybe the filesystem used doesn't support idmap mounts on this kernel?)",
    );
    assert_eq!(said(unmapped, &[]).unwrap().0, reasons::USER_NAMESPACES_UNSUPPORTED);
}
