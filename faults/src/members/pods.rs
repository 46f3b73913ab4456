//! What StatefulSet controller and kubelet write.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash as _, Hasher as _};

use anyhow::{Result, ensure};
use axum::body::Bytes;
use http::{Method, Request};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Live, Site, name, uid};

/// Label with the revision of a pod's template.
const REVISION: &str = "controller-revision-hash";

fn path(namespace: &str, resource: &str, name: &str) -> String {
    let group = match resource {
        "buildjobs" | "buildpools" => "/apis/buildpools.dev/v1alpha1",
        "statefulsets" => "/apis/apps/v1",
        "rolebindings" => "/apis/rbac.authorization.k8s.io/v1",
        "networkpolicies" => "/apis/networking.k8s.io/v1",
        _ => "/api/v1",
    };
    let name = if name.is_empty() { String::new() } else { format!("/{name}") };
    format!("{group}/namespaces/{namespace}/{resource}{name}")
}

impl Site {
    async fn call(&self, method: Method, path: &str, body: &Value) -> Result<u16> {
        let kind = if method == Method::PATCH { "application/merge-patch+json" } else { "application/json" };
        let body = kube::client::Body::from(Bytes::from(body.to_string()).to_vec());
        let request = Request::builder().method(method).uri(path).header("content-type", kind).body(body)?;
        let answer = self.client.0.send(request).await?;
        let code = answer.status().as_u16();
        if !answer.status().is_success() {
            let text = answer.into_body().collect_bytes().await?;
            // Somebody was faster, or it is gone: the next look shows it.
            ensure!(matches!(code, 404 | 409), "{path}: {}", String::from_utf8_lossy(&text));
        }
        Ok(code)
    }

    /// Deletes an object, if it is still this one.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn delete(&self, resource: &str, name: &str, uid: &str, grace: Option<i64>) -> Result<()> {
        let mut options = json!({"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"});
        options["preconditions"] = json!({"uid": uid});
        if let Some(grace) = grace {
            options["gracePeriodSeconds"] = json!(grace);
        }
        self.call(Method::DELETE, &path(&self.namespace, resource, name), &options).await?;
        Ok(())
    }

    /// Creates an object.
    ///
    /// # Errors
    /// When the API server refuses; not when it is there already.
    pub async fn create(&self, resource: &str, object: &Value) -> Result<()> {
        self.call(Method::POST, &path(&self.namespace, resource, ""), object).await?;
        Ok(())
    }

    /// Changes an object.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn patch(&self, resource: &str, name: &str, patch: &Value) -> Result<()> {
        self.call(Method::PATCH, &path(&self.namespace, resource, name), patch).await?;
        Ok(())
    }

    /// Writes a pod's status, if it is another.
    pub(super) async fn report(&self, pod: &Value, status: &Value) -> Result<()> {
        if contains(&pod["status"], status) {
            return Ok(());
        }
        let patch = json!({"metadata": {"uid": uid(pod)}, "status": status});
        self.call(Method::PATCH, &format!("{}/status", path(&self.namespace, "pods", name(pod))), &patch).await?;
        Ok(())
    }

    /// Makes and removes the pods of a StatefulSet.
    pub(super) async fn keep_set(&self, set: &Value, live: &Live) -> Result<()> {
        let replicas = set["spec"]["replicas"].as_u64().unwrap_or(1);
        let revision = format!("{}-{}", name(set), hash(&set["spec"]["template"]));
        let pods: Vec<&Value> = live
            .iter()
            .filter(|((resource, _), pod)| {
                *resource == "pods" && pod["metadata"]["ownerReferences"][0]["uid"] == uid(set)
            })
            .map(|(_, pod)| &**pod)
            .collect();
        for ordinal in 0..replicas {
            let pod = format!("{}-{ordinal}", name(set));
            if !live.contains_key(&("pods", pod.clone())) {
                self.create("pods", &self.pod(set, &pod, &revision)).await?;
            }
        }
        for pod in &pods {
            let ordinal = name(pod).rsplit('-').next().and_then(|number| number.parse::<u64>().ok());
            if ordinal.is_none_or(|ordinal| ordinal >= replicas) && pod["metadata"]["deletionTimestamp"].is_null() {
                self.delete("pods", name(pod), uid(pod), None).await?;
            }
        }
        let ready = pods.iter().filter(|pod| !pod["status"]["containerStatuses"].is_null()).count();
        let status = json!({
            "observedGeneration": set["metadata"]["generation"],
            "replicas": pods.len(),
            "readyReplicas": ready,
            "availableReplicas": ready,
            "updateRevision": revision,
        });
        // Its count of zero is left out.
        if !contains(&set["status"], &status)
            && (!pods.is_empty() || set["status"]["updateRevision"] != json!(revision))
        {
            let status = json!({"metadata": {"uid": uid(set)}, "status": status});
            self.call(Method::PATCH, &format!("{}/status", path(&self.namespace, "statefulsets", name(set))), &status)
                .await?;
        }
        Ok(())
    }

    fn pod(&self, set: &Value, name_: &str, revision: &str) -> Value {
        let template = &set["spec"]["template"];
        let mut spec = template["spec"].clone();
        spec["nodeName"] = json!(self.namespace);
        spec["hostname"] = json!(name_);
        let claims = set["spec"]["volumeClaimTemplates"].as_array().into_iter().flatten();
        let claims = claims.map(|claim| {
            json!({"name": name(claim), "persistentVolumeClaim": {"claimName": format!("{}-{name_}", name(claim))}})
        });
        let volumes = spec["volumes"].as_array().cloned().unwrap_or_default().into_iter().chain(claims);
        spec["volumes"] = volumes.collect();
        let mut metadata = template["metadata"].clone();
        metadata["name"] = json!(name_);
        metadata["labels"][REVISION] = json!(revision);
        metadata["ownerReferences"] = json!([{
            "apiVersion": "apps/v1", "kind": "StatefulSet", "name": name(set), "uid": uid(set),
            "controller": true, "blockOwnerDeletion": true,
        }]);
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
    }
}

fn hash(template: &Value) -> String {
    let mut hasher = DefaultHasher::new();
    template.to_string().hash(&mut hasher);
    format!("{:x}", hasher.finish())
}

/// Whether all of `part` is in `whole`.
fn contains(whole: &Value, part: &Value) -> bool {
    match (whole, part) {
        (Value::Object(whole), Value::Object(part)) => {
            part.iter().all(|(key, value)| whole.get(key).is_some_and(|whole| contains(whole, value)))
        }
        (Value::Array(whole), Value::Array(part)) => {
            whole.len() == part.len() && whole.iter().zip(part).all(|(whole, part)| contains(whole, part))
        }
        _ => whole == part,
    }
}

fn container(name: &str, restarts: i32, state: &Value) -> Value {
    let running = !state["running"].is_null();
    json!({
        "name": name, "image": "image", "imageID": "id", "ready": running, "started": running,
        "restartCount": restarts, "state": state,
    })
}

/// Status of a pod that runs and is ready.
pub(super) fn running(runner_restarts: i32, daemon_restarts: i32, last_state: Option<&Value>) -> Value {
    let running = json!({"running": {}});
    let mut daemon = container(buildpools_crds::names::DAEMON_CONTAINER, daemon_restarts, &running);
    if let Some(last) = last_state {
        daemon["lastState"] = last.clone();
    }
    json!({
        "phase": "Running",
        "conditions": [
            {"type": "PodScheduled", "status": "True"},
            {"type": "Initialized", "status": "True"},
            {"type": "ContainersReady", "status": "True"},
            {"type": "Ready", "status": "True"},
        ],
        "initContainerStatuses": [daemon],
        "containerStatuses": [container(buildpools_crds::names::RUNNER_CONTAINER, runner_restarts, &running)],
    })
}

/// Status of a pod of which nothing runs any more.
pub(super) fn ended() -> Value {
    let ended = json!({"terminated": {"exitCode": 0}});
    json!({
        "initContainerStatuses": [container(buildpools_crds::names::DAEMON_CONTAINER, 0, &ended)],
        "containerStatuses": [container(buildpools_crds::names::RUNNER_CONTAINER, 0, &ended)],
    })
}

/// Last state of a container that the kernel killed because memory was short.
pub(super) fn killed() -> Value {
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    json!({"terminated": {"exitCode": 137, "reason": "OOMKilled", "startedAt": now, "finishedAt": now}})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_already_is_not_written_again() {
        let live = json!({"a": {"b": 1, "c": 2}, "list": [{"x": 1, "y": 2}]});
        for (part, expected) in [
            (json!({"a": {"b": 1}}), true),
            (json!({"a": {"b": 2}}), false),
            (json!({"list": [{"x": 1}]}), true),
            (json!({"list": []}), false),
            (json!({"z": 1}), false),
        ] {
            assert_eq!(contains(&live, &part), expected, "{part}");
        }
    }
}
