//! What the dispatcher keeps of members and pools; [`super::job`] has what it keeps of jobs.

use std::collections::BTreeMap;
use std::time::Duration;

use buildpools_crds::buildkit::{self, Support};
use buildpools_crds::v1alpha1::{BuildPool, BuildPoolSpec, FailureReason, std_duration};
use buildpools_crds::{labels, names};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStateTerminated, Pod, PodCondition, PodStatus};
use kube::ResourceExt as _;

use super::nodes::Standing;
use crate::kube_ext::owner;

pub use crate::kube_ext::listing::{Key, key};

/// A pool.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pool {
    /// When it was created.
    pub created: Timestamp,
    /// Since when it is being deleted.
    pub deleting: Option<Timestamp>,
    /// Labels, by which jobs may find it.
    pub labels: BTreeMap<String, String>,
    /// Whether it is for the jobs that name no pool.
    pub is_default: bool,
    /// Builds that one member runs at a time.
    pub builds_per_member: usize,
    /// Longest time that a build may run.
    pub max_build_duration: Duration,
    /// Time that a job may wait that does not say it itself.
    pub queue_timeout: Option<Duration>,
    /// How often a job is built again that does not say it itself.
    pub infra_retries: Option<usize>,
    /// How waiting jobs share it.
    pub fair_share: Option<FairShare>,
    /// Members that get no builds, by pod UID.
    pub closed: BTreeMap<String, Closed>,
}

/// Why a member gets no builds although its pod and its node are well. Said in the pool's status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Closed {
    /// It is to be replaced (`status.upgrade.draining`).
    Draining,
    /// Its daemon reports a version that is too old.
    TooOld(String),
}

impl Closed {
    /// One word for it.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Draining => "MemberDraining",
            Self::TooOld(_) => "MemberUnsupported",
        }
    }

    fn of(pool: &BuildPool) -> BTreeMap<String, Self> {
        let Some(status) = &pool.status else { return BTreeMap::new() };
        let old = status.members.iter().filter_map(|member| {
            let version = member.version.as_deref().filter(|version| buildkit::support(version) == Support::TooOld)?;
            Some((member.uid.clone(), Self::TooOld(version.to_owned())))
        });
        let draining = status.upgrade.iter().filter_map(|upgrade| upgrade.draining.as_ref());
        old.chain(draining.map(|draining| (draining.uid.clone(), Self::Draining))).collect()
    }
}

/// How waiting jobs share a pool.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FairShare {
    /// Label whose value is a job's group.
    pub label: String,
    /// Weights by group; 1 for those that are not here.
    pub weights: BTreeMap<String, i32>,
    /// Time after which build time counts half.
    pub half_life: Duration,
}

impl Pool {
    /// A pool that exists and cannot be read: nothing is known but that it is there.
    pub fn unreadable() -> Self {
        Self { max_build_duration: Duration::MAX, ..Self::default() }
    }

    /// The pool of an object.
    pub fn of(pool: &BuildPool) -> Self {
        let BuildPoolSpec { scaling, max_build_duration, job_defaults, fair_share, .. } = &pool.spec;
        Self {
            created: pool.metadata.creation_timestamp.as_ref().map(|time| time.0).unwrap_or_default(),
            deleting: pool.metadata.deletion_timestamp.as_ref().map(|time| time.0),
            labels: pool.labels().clone(),
            is_default: pool.annotations().get(labels::DEFAULT_POOL).is_some_and(|value| value == "true"),
            builds_per_member: usize::try_from(scaling.builds_per_member).unwrap_or(0),
            max_build_duration: std_duration(*max_build_duration),
            queue_timeout: job_defaults.queue_timeout.map(std_duration),
            infra_retries: job_defaults.infra_retries.map(|retries| usize::try_from(retries).unwrap_or(0)),
            fair_share: fair_share.as_ref().map(|share| FairShare {
                label: share.label.clone(),
                weights: share.weights.clone(),
                half_life: std_duration(share.half_life),
            }),
            closed: Closed::of(pool),
        }
    }
}

/// A pod of a pool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "facts that do not exclude one another")]
pub struct Member {
    /// Name of the pod.
    pub pod: String,
    /// UID of the pod.
    pub uid: String,
    /// Number at the end of the pod's name.
    pub ordinal: u32,
    /// Whether the pod takes builds now.
    pub ready: bool,
    /// Whether the pod will take no build any more.
    pub leaving: bool,
    /// Whether it has no StatefulSet at the moment.
    pub adrift: bool,
    /// Why nothing of the pod runs any more; `None` while something may.
    pub gone: Option<Gone>,
    /// Whether the pod's object is not there any more.
    pub deleted: bool,
    /// Name of its node; empty while it has none.
    pub node: String,
    /// How that stands.
    pub standing: Standing,
    /// Why the pool gives it no builds.
    pub closed: Option<Closed>,
    /// When its daemon was killed last for its use of memory.
    pub daemon_out_of_memory: Option<Timestamp>,
}

/// A pod of which nothing runs any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gone {
    /// Reason for the attempts that ran there.
    pub reason: FailureReason,
    /// What happened.
    pub message: String,
}

impl Gone {
    /// The pod is not there, and nothing is known of its end.
    pub fn absent(pod: &str) -> Self {
        Self { reason: FailureReason::PodEvicted, message: format!("pod {pod} does not exist any more") }
    }
}

impl Member {
    /// The member and its pool, if the pod is one: a label alone, which anybody may set who may create pods, gives no
    /// builds away.
    pub fn of(pod: &Pod) -> Option<(Key, Self)> {
        let pool = pod.labels().get(labels::POOL)?;
        let adrift = match owner::controller(&pod.metadata) {
            Some(owner) if owner::is_stateful_set(owner, &names::stateful_set(pool)) => false,
            // Its StatefulSet is being made anew: it may have builds, and gets no more.
            None if labels::is_member(pod.labels()) => true,
            _ => return None,
        };
        let name = pod.name_any();
        let status = pod.status.as_ref();
        let ended = status
            .and_then(|status| status.phase.as_deref())
            .is_some_and(|phase| phase == "Failed" || phase == "Succeeded");
        let terminating = pod.metadata.deletion_timestamp.is_some();
        let member = Self {
            ordinal: name.rsplit('-').next().and_then(|number| number.parse().ok()).unwrap_or(u32::MAX),
            uid: pod.uid().unwrap_or_default(),
            ready: condition(pod, "Ready").is_some_and(|ready| ready.status == "True"),
            leaving: terminating || ended,
            adrift,
            gone: gone(pod),
            deleted: false,
            node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default(),
            standing: Standing::default(),
            closed: None,
            daemon_out_of_memory: status.and_then(daemon_out_of_memory),
            pod: name,
        };
        Some(((pod.namespace().unwrap_or_default(), pool.clone()), member))
    }

    /// Whether builds may be bound to it.
    pub fn takes_builds(&self) -> bool {
        !self.leaving && !self.adrift && self.gone.is_none() && self.standing == Standing::Fine && self.closed.is_none()
    }

    /// The member as it was seen last, now that its object is gone.
    pub fn last_of(pod: &Pod) -> Option<(Key, Self)> {
        let (pool, member) = Self::of(pod)?;
        let gone = member.gone.clone().unwrap_or_else(|| cause(pod));
        Some((pool, member.deleted(gone)))
    }

    /// The same member, now that its object is gone.
    #[must_use]
    pub fn deleted(self, gone: Gone) -> Self {
        Self { ready: false, leaving: true, deleted: true, gone: self.gone.or(Some(gone)), ..self }
    }
}

/// Whether nothing of the pod runs any more, and why: it has ended or is being deleted, and the kubelet has reported
/// the end of all its containers. A pod that was declared Failed from afar, because its node does not answer, still
/// has containers without an end: there the build may still run.
pub fn gone(pod: &Pod) -> Option<Gone> {
    let status = pod.status.as_ref()?;
    let ended = matches!(status.phase.as_deref(), Some("Failed" | "Succeeded"));
    if !ended && pod.metadata.deletion_timestamp.is_none() {
        return None;
    }
    all_terminated(status).then(|| cause(pod))
}

fn all_terminated(status: &PodStatus) -> bool {
    let mut containers =
        status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten()).peekable();
    containers.peek().is_some()
        && containers.all(|container| container.state.as_ref().is_some_and(|state| state.terminated.is_some()))
}

/// When the daemon's container, a native sidecar, was ended last by the kernel for want of memory.
fn daemon_out_of_memory(status: &PodStatus) -> Option<Timestamp> {
    let daemons =
        status.init_container_statuses.iter().flatten().filter(|container| container.name == names::DAEMON_CONTAINER);
    let ends = daemons.flat_map(|daemon| [&daemon.state, &daemon.last_state]).flatten();
    let killed = ends.filter_map(|state| state.terminated.as_ref()).filter(|end| is_out_of_memory(end));
    killed.filter_map(|end| Some(end.finished_at.as_ref()?.0)).max()
}

fn is_out_of_memory(end: &ContainerStateTerminated) -> bool {
    end.reason.as_deref() == Some("OOMKilled")
}

fn condition<'a>(pod: &'a Pod, type_: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.iter().flatten().find(|condition| condition.type_ == type_)
}

/// Why a pod came to its end (<https://kubernetes.io/docs/concepts/workloads/pods/disruptions/#pod-disruption-conditions>).
fn cause(pod: &Pod) -> Gone {
    let name = pod.name_any();
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or("unknown");
    let disruption = condition(pod, "DisruptionTarget").filter(|condition| condition.status == "True");
    let word = disruption
        .and_then(|condition| condition.reason.as_deref())
        .or_else(|| pod.status.as_ref().and_then(|status| status.reason.as_deref()));
    let detail = disruption
        .and_then(|condition| condition.message.as_deref())
        .or_else(|| pod.status.as_ref().and_then(|status| status.message.as_deref()))
        .filter(|message| !message.is_empty())
        .map(|message| format!(": {message}"))
        .unwrap_or_default();
    match word {
        Some("DeletionByPodGC" | "NodeLost") => {
            Gone { reason: FailureReason::NodeLost, message: format!("node {node} of pod {name} is gone{detail}") }
        }
        Some(word) => Gone {
            reason: FailureReason::PodEvicted,
            message: format!("pod {name} was {} ({word}){detail}", ended_by(word)),
        },
        None if pod.metadata.deletion_timestamp.is_some() => {
            Gone { reason: FailureReason::PodEvicted, message: format!("pod {name} was deleted during the build") }
        }
        None if gone_by_itself(pod) => Gone {
            reason: FailureReason::RunnerLost,
            message: format!("all containers of pod {name} ended during the build"),
        },
        None => Gone::absent(&name),
    }
}

/// What a reason of `DisruptionTarget`, or of a pod that was ended, means.
fn ended_by(word: &str) -> &'static str {
    match word {
        "EvictionByEvictionAPI" => "evicted, as by kubectl drain",
        "PreemptionByScheduler" => "preempted by a pod of higher priority",
        "DeletionByTaintManager" => "deleted because of a taint of its node",
        "TerminationByKubelet" | "Evicted" | "Preempting" => {
            "ended by its node, which is short of resources or shuts down"
        }
        _ => "ended",
    }
}

fn gone_by_itself(pod: &Pod) -> bool {
    pod.status.as_ref().is_some_and(all_terminated)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(change: impl FnOnce(&mut Value)) -> Pod {
        let mut pod = json!({
            "metadata": {
                "name": "main-10", "namespace": "team", "uid": "u",
                "labels": {labels::POOL: "main"},
                "ownerReferences": [
                    {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "main", "uid": "s", "controller": true}
                ],
            },
            "spec": {"nodeName": "n", "containers": []},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
        });
        change(&mut pod);
        serde_json::from_value(pod).unwrap()
    }

    fn ended(exit: i32) -> Value {
        json!({"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"terminated": {"exitCode": exit}}})
    }

    #[test]
    fn a_member_is_a_pod_of_the_pools_stateful_set() {
        let (pool, member) = Member::of(&pod(|_| {})).unwrap();
        assert_eq!(pool, ("team".to_owned(), "main".to_owned()));
        assert_eq!((member.ordinal, member.ready, member.leaving, member.gone), (10, true, false, None));
        assert_eq!(Member::of(&pod(|pod| pod["metadata"]["ownerReferences"] = json!([]))), None);
        assert_eq!(Member::of(&pod(|pod| pod["metadata"]["ownerReferences"][0]["kind"] = json!("ReplicaSet"))), None);
        assert_eq!(Member::of(&pod(|pod| pod["metadata"]["ownerReferences"][0]["name"] = json!("other"))), None);
        let foreign = json!("apps.kruise.io/v1");
        assert_eq!(Member::of(&pod(|pod| pod["metadata"]["ownerReferences"][0]["apiVersion"] = foreign)), None);
    }

    #[test]
    fn a_pod_is_gone_when_it_is_to_end_and_all_its_containers_have() {
        let deleting = |pod: &mut Value| pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        let stopped = |pod: &mut Value| {
            pod["status"]["containerStatuses"] = json!([ended(0)]);
            pod["status"]["initContainerStatuses"] = json!([ended(0)]);
        };
        assert_eq!(gone(&pod(|_| {})), None);
        assert_eq!(gone(&pod(stopped)), None, "its containers are started again");
        assert_eq!(gone(&pod(deleting)), None);
        assert_eq!(gone(&pod(|pod| pod["status"]["phase"] = json!("Failed"))), None, "said from afar");
        let daemon_runs = |pod: &mut Value| {
            deleting(pod);
            stopped(pod);
            pod["status"]["initContainerStatuses"][0]["state"] = json!({"running": {}});
        };
        assert_eq!(gone(&pod(daemon_runs)), None);
        let deleted = gone(&pod(|pod| {
            deleting(pod);
            stopped(pod);
        }));
        assert_eq!(deleted.unwrap().message, "pod main-10 was deleted during the build");
    }

    #[test]
    fn the_end_of_a_pod_says_why() {
        let disrupted = |reason: &'static str| {
            pod(move |pod| {
                pod["status"]["conditions"] =
                    json!([{"type": "DisruptionTarget", "status": "True", "reason": reason, "message": "m"}]);
            })
        };
        let status = |reason: &'static str| pod(move |pod| pod["status"]["reason"] = json!(reason));
        let ends = vec![
            (disrupted("DeletionByPodGC"), FailureReason::NodeLost, "node n of pod main-10 is gone: m"),
            (
                disrupted("EvictionByEvictionAPI"),
                FailureReason::PodEvicted,
                "was evicted, as by kubectl drain (EvictionByEvictionAPI): m",
            ),
            (
                disrupted("PreemptionByScheduler"),
                FailureReason::PodEvicted,
                "was preempted by a pod of higher priority (PreemptionByScheduler): m",
            ),
            (
                disrupted("TerminationByKubelet"),
                FailureReason::PodEvicted,
                "was ended by its node, which is short of resources or shuts down (TerminationByKubelet): m",
            ),
            (
                status("Evicted"),
                FailureReason::PodEvicted,
                "was ended by its node, which is short of resources or shuts down (Evicted)",
            ),
            (status("Other"), FailureReason::PodEvicted, "was ended (Other)"),
            (
                pod(|pod| pod["status"]["containerStatuses"] = json!([ended(1)])),
                FailureReason::RunnerLost,
                "all containers of pod main-10 ended",
            ),
            (pod(|_| {}), FailureReason::PodEvicted, "does not exist any more"),
        ];
        for (pod, reason, text) in ends {
            let (_, member) = Member::last_of(&pod).unwrap();
            let gone = member.gone.unwrap();
            assert!(gone.reason == reason && gone.message.contains(text), "{gone:?}");
            assert!(member.deleted && member.leaving && !member.ready);
        }
    }
}
