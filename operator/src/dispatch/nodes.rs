//! Nodes: whether members there take builds, and whether what ran there is gone.
//!
//! A node that is not heard of may go on: its builds are let alone, and nothing new is bound there. What ran on a node is
//! gone only when its object is deleted, or when somebody who knows has tainted it as out of service
//! (<https://kubernetes.io/docs/concepts/cluster-administration/node-shutdown/#non-graceful-node-shutdown>). Before
//! anything is written that follows from that, pod and node are read from the API server itself.

use std::collections::HashMap;

use buildpools_crds::conditions;
use buildpools_crds::v1alpha1::{FailureReason, JobPhase};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{Api, Client, ResourceExt as _};

use super::job::Job;
use super::view::{Gone, Member};
use crate::kube_ext::call;
use crate::kube_ext::listing::{Change, Listing};

#[cfg(test)]
mod tests;

const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

/// How a node stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Standing {
    /// Its members take builds.
    #[default]
    Fine,
    /// Nothing new goes there (`kubectl cordon`).
    Cordoned,
    /// Nothing is heard of it. What runs there may go on.
    Unreachable,
    /// Somebody has tainted it as out of service, and it does not say otherwise.
    OutOfService,
    /// There is no such node.
    Absent,
}

impl Standing {
    /// How a node stands by its object.
    pub fn of(node: &Node) -> Self {
        let spec = node.spec.as_ref();
        let tainted = |key: &str| spec.is_some_and(|spec| spec.taints.iter().flatten().any(|taint| taint.key == key));
        let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let ready = conditions.filter(|condition| condition.type_ == "Ready").map(|ready| ready.status.as_str()).next();
        if tainted(OUT_OF_SERVICE) && ready != Some("True") {
            Self::OutOfService
        } else if tainted(UNREACHABLE) || ready == Some("Unknown") {
            Self::Unreachable
        } else if spec.is_some_and(|spec| spec.unschedulable == Some(true)) {
            Self::Cordoned
        } else {
            Self::Fine
        }
    }

    /// Whether nothing runs there any more, and what is said of a pod that was there.
    pub fn gone(self, node: &str, pod: &str) -> Option<Gone> {
        let what = match self {
            Self::OutOfService => "is out of service",
            Self::Absent => "does not exist any more",
            Self::Fine | Self::Cordoned | Self::Unreachable => return None,
        };
        Some(Gone { reason: FailureReason::NodeLost, message: format!("node {node} of pod {pod} {what}") })
    }
}

/// All nodes.
#[derive(Debug, Default)]
pub struct Nodes {
    standings: HashMap<String, Standing>,
    listed: Listing,
}

impl Nodes {
    /// Whether all nodes are known.
    pub fn is_synced(&self) -> bool {
        self.listed.synced
    }

    /// How the node of this name stands. A pod without a node is fine: it will get one. So is everything until all nodes
    /// are known.
    pub fn standing(&self, node: &str) -> Standing {
        if node.is_empty() || !self.listed.synced {
            return Standing::Fine;
        }
        self.standings.get(node).copied().unwrap_or(Standing::Absent)
    }

    /// Takes in an event. Whether any node stands otherwise now.
    pub fn see(&mut self, change: Change<Standing>) -> bool {
        match change {
            Change::Begin => {
                self.listed.begin();
                false
            }
            // A node that cannot be read stands as it did.
            Change::Has(key, standing) => {
                self.listed.has(&key);
                let (_, node) = key;
                let standing = standing.unwrap_or_else(|_| self.standings.get(&node).copied().unwrap_or_default());
                self.standings.insert(node, standing) != Some(standing) && self.listed.synced
            }
            Change::Complete => {
                let first = !self.listed.synced;
                let (listed, known) = (self.listed.complete(), self.standings.len());
                self.standings.retain(|node, _| listed.contains(&(String::new(), node.clone())));
                first || self.standings.len() < known
            }
            Change::Gone((_, node), _) => self.standings.remove(&node).is_some(),
        }
    }
}

/// Whether nothing of a member runs any more.
pub fn gone(member: &Member) -> Option<Gone> {
    member.gone.clone().or_else(|| member.standing.gone(&member.node, &member.pod))
}

/// What a running job is to be told of its node: `Some(None)` that it is heard of again, `None` nothing new.
pub fn news(job: &Job, member: &Member) -> Option<Option<String>> {
    let told = conditions::is_true(&job.status.conditions, conditions::NODE_UNREACHABLE);
    let unreachable = member.standing == Standing::Unreachable;
    let running = job.status.phase == JobPhase::Running;
    (running && told != unreachable).then(|| {
        unreachable.then(|| {
            let (node, pod) = (&member.node, &member.pod);
            format!("node {node} of pod {pod} is not heard of; the build may go on, so no other is begun")
        })
    })
}

/// Asks the API server itself whether the node of a pod is gone. Why nothing of the pod runs any more, or why that is
/// not so.
///
/// # Errors
/// When it is not gone, or that cannot be found out.
pub async fn verify(client: Client, pod: &Pod) -> Result<Gone, String> {
    let name = pod.name_any();
    let there = || format!("pod {name} seemed to be gone but is there");
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).ok_or_else(there)?;
    let standing = match call::get(Api::<Node>::all(client).get(node)).await {
        Ok(Some(object)) => Standing::of(&object),
        Ok(None) => Standing::Absent,
        Err(error) => return Err(format!("cannot read node {node}: {error}")),
    };
    standing.gone(node, &name).ok_or_else(there)
}
