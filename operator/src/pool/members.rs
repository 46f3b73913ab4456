//! How a pool's members fare, told from their pods. Pure.

use buildpools_crds::labels;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ContainerStatus, Event, Pod};
use kube::ResourceExt;

use super::problem::Problem;
use crate::kube_ext::owner;

/// How long a pod may be without a node before that is called a problem. The scheduler's first try often fails for a
/// moment's reason: the volume's claim was just made, or just got its owner.
const SCHEDULING_PATIENCE: SignedDuration = SignedDuration::from_secs(5);

/// How the members fare.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    /// Members that should run.
    pub desired: i32,
    /// Members whose pods are ready.
    pub ready: i32,
    /// What stands in the way of the others, each thing once.
    pub problems: Vec<Problem>,
    /// Pods that run an older form of the pool.
    pub outdated: Vec<String>,
}

/// Looks at the pods of a StatefulSet. `events` are the StatefulSet's, read when pods are missing.
pub fn look<'a>(set: &StatefulSet, pods: impl Iterator<Item = &'a Pod>, events: &[Event], now: Timestamp) -> Members {
    let desired = set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or_default();
    let mut pods: Vec<&Pod> = pods.filter(|pod| pod.metadata.deletion_timestamp.is_none()).collect();
    pods.sort_by_key(|pod| by_name(&pod.name_any()));
    let mut members = Members { desired, ..Members::default() };
    for pod in &pods {
        if is_ready(pod) {
            members.ready += 1;
        } else {
            members
                .problems
                .extend(problem(pod, now).or_else(|| held(pod, events)).map(|problem| in_user_namespace(pod, problem)));
        }
    }
    if i32::try_from(pods.len()).is_ok_and(|found| found < desired) {
        members.problems.extend(refusal(events));
    }
    members.outdated = outdated(set, &pods);
    members
}

/// Whether a pod is a member of this StatefulSet. One that was made anew for another volume template takes its
/// predecessor's pods over as soon as its controller has seen it; until then they have no owner, and are its members
/// nonetheless.
pub fn is_of(set: Option<&StatefulSet>, pod: &Pod) -> bool {
    let observed = set.and_then(|set| set.status.as_ref()?.observed_generation);
    let seen = set.is_some_and(|set| set.metadata.deletion_timestamp.is_none() && observed == set.metadata.generation);
    match owner::controller(&pod.metadata) {
        Some(owner) => set.and_then(ResourceExt::uid).as_ref() == Some(&owner.uid),
        None => !(seen && observed.is_some()) && labels::is_member(pod.labels()),
    }
}

/// The order of pods: `main-10` comes after `main-9`.
pub fn by_name(name: &str) -> (usize, String) {
    (name.len(), name.to_owned())
}

fn condition<'a>(pod: &'a Pod, type_: &str) -> Option<&'a k8s_openapi::api::core::v1::PodCondition> {
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == type_)
}

/// Whether the pod takes builds.
pub fn is_ready(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_none() && condition(pod, "Ready").is_some_and(|c| c.status == "True")
}

/// What stands in the way of one pod, if it can be told.
fn problem(pod: &Pod, now: Timestamp) -> Option<Problem> {
    let name = pod.name_any();
    let unschedulable = condition(pod, "PodScheduled").filter(|c| c.status == "False" && c.message.is_some());
    if let Some(condition) = unschedulable {
        let since = condition.last_transition_time.as_ref().map(|time| now.duration_since(time.0));
        if since.is_some_and(|since| since < SCHEDULING_PATIENCE) {
            return None;
        }
        let message = condition.message.clone().unwrap_or_default();
        return Some(Problem::Unschedulable { pod: name, message });
    }
    let status = pod.status.as_ref()?;
    let containers = status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
    containers.into_iter().find_map(|container| container_problem(&name, container))
}

/// Whether the pod has a node and no network and no process there yet.
pub fn is_held_by_kubelet(pod: &Pod) -> bool {
    let is = |type_: &str, status: &str| condition(pod, type_).is_some_and(|c| c.status == status);
    is("PodScheduled", "True") && is("PodReadyToStartContainers", "False") && !is("Initialized", "True")
}

/// Why the kubelet cannot begin with a pod: the newest such event of it.
fn held(pod: &Pod, events: &[Event]) -> Option<Problem> {
    if !is_held_by_kubelet(pod) {
        return None;
    }
    let of_pod = events.iter().filter(|event| event.involved_object.uid == pod.metadata.uid);
    let newest = of_pod
        .filter(|event| event.reason.as_deref() == Some("FailedCreatePodSandBox"))
        .max_by_key(|event| time(event))?;
    let message = newest.message.clone().unwrap_or_default();
    Some(Problem::Held { pod: pod.name_any(), message })
}

/// What the kubelet and the container runtimes say when a node has no user namespaces for pods, or the file system of a
/// volume cannot be mounted with mapped IDs.
const USER_NAMESPACE_WORDS: [&str; 4] = ["user namespace", "hostUsers", "idmap", "MOUNT_ATTR_IDMAP"];

fn in_user_namespace(pod: &Pod, problem: Problem) -> Problem {
    let mapped = pod.spec.as_ref().is_some_and(|spec| spec.host_users == Some(false));
    match problem {
        Problem::Held { pod, message } | Problem::Crashing { pod, message, .. }
            if mapped && USER_NAMESPACE_WORDS.iter().any(|word| message.contains(word)) =>
        {
            Problem::UserNamespacesUnsupported { message: format!("pod {pod}: {message}") }
        }
        other => other,
    }
}

fn container_problem(pod: &str, container: &ContainerStatus) -> Option<Problem> {
    let crashing =
        |message: String| Some(Problem::Crashing { pod: pod.to_owned(), container: container.name.clone(), message });
    let waiting = container.state.as_ref().and_then(|state| state.waiting.as_ref());
    let reason = waiting.and_then(|waiting| waiting.reason.as_deref()).unwrap_or_default();
    let message = waiting.and_then(|waiting| waiting.message.clone()).unwrap_or_default();
    match reason {
        "ErrImagePull"
        | "ImagePullBackOff"
        | "InvalidImageName"
        | "ErrImageNeverPull"
        | "ImageInspectError"
        | "RegistryUnavailable"
        | "SignatureValidationFailed" => Some(Problem::ImagePull {
            pod: pod.to_owned(),
            container: container.name.clone(),
            image: container.image.clone(),
            message: pull_error(&message, reason),
        }),
        "CreateContainerConfigError" | "CreateContainerError" | "RunContainerError" => {
            crashing(if message.is_empty() { reason.to_owned() } else { message })
        }
        "CrashLoopBackOff" => crashing(last_words(container)),
        // Between two crashes it runs for a moment.
        _ if container.restart_count >= 2 && !container.ready && ended_badly(container) => {
            crashing(last_words(container))
        }
        _ => None,
    }
}

/// The kubelet alternates between the error and `Back-off pulling image "x": ErrImagePull: <the error>`. Said the same
/// way each time, so that the pool's status does not change with it.
fn pull_error(message: &str, reason: &str) -> String {
    let error = message.rsplit_once("ErrImagePull: ").map_or(message, |(_, error)| error);
    if error.is_empty() { reason.to_owned() } else { error.to_owned() }
}

fn ended_badly(container: &ContainerStatus) -> bool {
    let last = container.last_state.as_ref().and_then(|state| state.terminated.as_ref());
    last.is_some_and(|last| last.exit_code != 0)
}

/// How the container ended last. Without times and counts, which change with each crash.
fn last_words(container: &ContainerStatus) -> String {
    let now = container.state.as_ref().and_then(|state| state.terminated.as_ref());
    let Some(last) = now.or_else(|| container.last_state.as_ref().and_then(|state| state.terminated.as_ref())) else {
        return "it ends again and again".to_owned();
    };
    let reason = last.reason.as_deref().filter(|reason| *reason != "Error").unwrap_or_default();
    let mut text = format!("it ended with exit code {}", last.exit_code);
    if !reason.is_empty() {
        text.extend([" (", reason, ")"]);
    }
    if let Some(line) = last.message.as_deref().and_then(|message| message.trim().lines().next_back()) {
        text.push_str(": ");
        text.push_str(line.trim());
    }
    text
}

fn time(event: &Event) -> Option<Timestamp> {
    let last = event.last_timestamp.as_ref().map(|time| time.0);
    let series = event.series.as_ref().and_then(|series| series.last_observed_time.as_ref()).map(|time| time.0);
    last.max(series).max(event.event_time.as_ref().map(|time| time.0))
}

/// Why the StatefulSet cannot make a pod: its newest event about a pod, if that was a failure. Events live for an hour,
/// so an older failure means nothing when a pod was made since.
fn refusal(events: &[Event]) -> Option<Problem> {
    let failed = |event: &Event| event.reason.as_deref() == Some("FailedCreate");
    let newest = events
        .iter()
        .filter(|event| failed(event) || event.reason.as_deref() == Some("SuccessfulCreate"))
        // In the same second, the failure counts: a pod that was made is there.
        .max_by_key(|event| (time(event), failed(event)))?;
    let message = newest.message.as_deref().filter(|_| failed(newest))?;
    // `create Pod main-0 in StatefulSet main failed error: pods "main-0" is forbidden: …`
    let message = message.split_once("failed error: ").map_or(message, |(_, error)| error);
    Some(Problem::PodRefused { message: message.to_owned() })
}

/// Pods of another template than the newest. Unknown until the StatefulSet's controller has seen the newest.
fn outdated(set: &StatefulSet, pods: &[&Pod]) -> Vec<String> {
    pods.iter().filter(|pod| is_outdated(set, pod)).map(|pod| pod.name_any()).collect()
}

/// Whether the StatefulSet's controller has seen the newest template.
pub fn knows_newest(set: &StatefulSet) -> bool {
    newest(set).is_some()
}

/// Whether the pod is of another template than the newest, if that is known.
pub fn is_outdated(set: &StatefulSet, pod: &Pod) -> bool {
    newest(set).is_some_and(|newest| pod.labels().get("controller-revision-hash").is_some_and(|is| is != newest))
}

fn newest(set: &StatefulSet) -> Option<&String> {
    let stays = set.metadata.deletion_timestamp.is_none();
    let status = set.status.as_ref().filter(|status| stays && status.observed_generation == set.metadata.generation)?;
    status.update_revision.as_ref()
}
