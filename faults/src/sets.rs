//! What StatefulSet controller, scheduler and kubelet would write: the pods of a pool.

use anyhow::{Context as _, Result};
use buildpools_crds::lifecycle::Member;
use buildpools_crds::names;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt as _};
use serde_json::{Value, json};

/// The node that all pods are on.
pub const NODE: &str = "node";

/// Makes the node. It is ready for ever.
///
/// # Errors
/// When the API server refuses.
pub async fn create_node(client: &Client) -> Result<()> {
    let nodes: Api<Node> = Api::all(client.clone());
    nodes.create(&PostParams::default(), &serde_json::from_value(json!({"metadata": {"name": NODE}}))?).await?;
    let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}]}});
    nodes.patch_status(NODE, &PatchParams::default(), &Patch::Merge(&ready)).await?;
    // Admission taints each new node until its kubelet has reported.
    let clean = json!({"spec": {"taints": null}});
    nodes.patch(NODE, &PatchParams::default(), &Patch::Merge(&clean)).await?;
    Ok(())
}

/// Makes a namespace.
///
/// # Errors
/// When the API server refuses.
pub async fn create_namespace(client: &Client, name: &str) -> Result<()> {
    let namespace = serde_json::from_value(json!({"metadata": {"name": name}}))?;
    Api::<Namespace>::all(client.clone()).create(&PostParams::default(), &namespace).await?;
    Ok(())
}

/// Makes the pod of this ordinal as its StatefulSet says, running and ready.
///
/// # Errors
/// When the API server refuses.
pub async fn create_pod(client: &Client, set: &StatefulSet, ordinal: i32) -> Result<Member> {
    let namespace = set.namespace().context("a StatefulSet has a namespace")?;
    let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    let pod = pods.create(&PostParams::default(), &serde_json::from_value(pod(set, ordinal)?)?).await?;
    let name = pod.name_any();
    pods.patch_status(&name, &PatchParams::default(), &Patch::Merge(&running())).await?;
    Ok(Member { pod: name, uid: pod.uid().unwrap_or_default() })
}

/// Deletes a pod without grace, as when nothing of it runs any more.
///
/// # Errors
/// When the API server refuses.
pub async fn delete_pod(client: &Client, namespace: &str, name: &str) -> Result<()> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    pods.delete(name, &DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() }).await?;
    Ok(())
}

fn pod(set: &StatefulSet, ordinal: i32) -> Result<Value> {
    let name = format!("{}-{ordinal}", set.name_any());
    let spec = set.spec.as_ref().context("a StatefulSet has a spec")?;
    let mut pod = serde_json::to_value(&spec.template)?;
    pod["metadata"]["name"] = json!(name);
    pod["metadata"]["ownerReferences"] = json!([{
        "apiVersion": "apps/v1", "kind": "StatefulSet", "name": set.name_any(), "uid": set.uid(),
        "controller": true, "blockOwnerDeletion": true,
    }]);
    pod["spec"]["nodeName"] = json!(NODE);
    let claims = spec.volume_claim_templates.iter().flatten().map(|claim| {
        let claim = claim.name_any();
        json!({"name": claim, "persistentVolumeClaim": {"claimName": format!("{claim}-{name}")}})
    });
    let volumes = pod["spec"]["volumes"].as_array().cloned().unwrap_or_default();
    pod["spec"]["volumes"] = volumes.into_iter().chain(claims).collect();
    Ok(pod)
}

fn running() -> Value {
    let container = |name: &str| {
        json!({
            "name": name, "image": "image", "imageID": "id", "ready": true, "started": true, "restartCount": 0,
            "state": {"running": {}},
        })
    };
    let conditions = ["PodScheduled", "Initialized", "ContainersReady", "Ready"];
    let conditions = conditions.map(|condition| json!({"type": condition, "status": "True"}));
    json!({"status": {
        "phase": "Running",
        "conditions": conditions,
        "initContainerStatuses": [container(names::DAEMON_CONTAINER)],
        "containerStatuses": [container(names::RUNNER_CONTAINER)],
    }})
}
