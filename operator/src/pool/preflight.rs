//! Before members are made: would this namespace take their pod, and as it is?
//!
//! A dry run of the pod (`dryRun=All`) passes all admission of the cluster and leaves nothing behind. A StatefulSet says
//! only in events what becomes of its pods, tries again ever more seldom, and says nothing when a policy has changed
//! them. Asked only before the StatefulSet is made or changed, and while the pool is not ready.

use buildpools_crds::names;
use buildpools_crds::v1alpha1::PoolProfile;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaimVolumeSource, Pod, Volume};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;
use kube::api::{Api, PostParams};
use serde_json::{Map, Value};
use tracing::warn;

use super::apply::{Before, FIELD_MANAGER};
use super::problem::Problem;
use super::validate::ValidPool;
use crate::kube_ext::call::{CallError, call};
use crate::kube_ext::ensure;

/// A preflight that came to no answer.
#[derive(Debug, thiserror::Error)]
pub enum PreflightError {
    /// The API server gave none.
    #[error("cannot ask whether the namespace takes the members' pods: {0}")]
    Call(#[from] CallError),
    /// A pod does not become JSON. A fault of ours.
    #[error("cannot serialise a pod: {0}")]
    Serialise(#[from] serde_json::Error),
}

impl PreflightError {
    /// A word for logs and metrics.
    pub fn category(&self) -> &'static str {
        match self {
            Self::Call(error) => error.category(),
            Self::Serialise(_) => "Serialise",
        }
    }
}

/// Whether there is a reason to ask. Not while the StatefulSet is made anew: its members run without one meanwhile.
///
/// # Errors
/// When a StatefulSet does not become JSON.
pub fn is_due(desired: &StatefulSet, live: Option<&StatefulSet>, before: Before) -> Result<bool, PreflightError> {
    match live {
        None => Ok(!before.members),
        Some(_) if !before.ready => Ok(true),
        Some(live) => Ok(!ensure::is_as_desired(desired, live)?),
    }
}

/// Asks. `None`: members can be made.
///
/// # Errors
/// When there is no answer.
pub async fn check(client: &Client, pool: &ValidPool, set: &StatefulSet) -> Result<Option<Problem>, PreflightError> {
    let asked = pod(pool, set);
    let pods: Api<Pod> = Api::namespaced(client.clone(), &pool.namespace);
    let dry_run = PostParams { dry_run: true, field_manager: Some(FIELD_MANAGER.to_owned()) };
    match call(pods.create(&dry_run, &asked)).await {
        Ok(made) => Ok(judge(pool, &asked, &made)?),
        // Admission comes before storing. What it made of the pod is not known then.
        Err(error) if error.is_already_exists() => Ok(None),
        Err(error) => match error.refusal() {
            Some(message) if is_no_answer(message) => {
                warn!("whether the namespace takes the members' pods cannot be asked: {message}");
                Ok(None)
            }
            Some(message) if !is_ours(message) => Ok(Some(Problem::PodRefused { message: message.to_owned() })),
            // Then the StatefulSet's events tell what becomes of the pods.
            None if error.status().is_some_and(|status| status.message.contains("failed calling webhook")) => {
                warn!("whether the namespace takes the members' pods cannot be asked: {error}");
                Ok(None)
            }
            _ => Err(error.into()),
        },
    }
}

/// The pod as the StatefulSet controller makes it of the template, but for its name: that is taken.
pub fn pod(pool: &ValidPool, set: &StatefulSet) -> Pod {
    let template = set.spec.as_ref().map(|spec| spec.template.clone()).unwrap_or_default();
    let metadata = template.metadata.unwrap_or_default();
    let mut spec = template.spec.unwrap_or_default();
    let source = PersistentVolumeClaimVolumeSource { claim_name: names::cache_claim(&pool.name, 0), read_only: None };
    let cache = names::CACHE_CLAIM.to_owned();
    spec.volumes.get_or_insert_default().push(Volume {
        name: cache,
        persistent_volume_claim: Some(source),
        ..Volume::default()
    });
    Pod {
        metadata: ObjectMeta {
            // The same each time, because refusals name it, and no member's.
            name: Some(format!("{}-preflight", names::stateful_set(&pool.name))),
            namespace: Some(pool.namespace.clone()),
            labels: metadata.labels,
            annotations: metadata.annotations,
            ..ObjectMeta::default()
        },
        spec: Some(spec),
        status: None,
    }
}

/// A webhook that cannot be asked, and a quota, which counts the members that are there already.
fn is_no_answer(message: &str) -> bool {
    message.contains("does not support dry run") || message.contains("exceeded quota")
}

/// The operator itself may not ask.
fn is_ours(message: &str) -> bool {
    message.contains("cannot create resource \"pods\"")
}

/// What came back, against what was sent. Pure.
///
/// # Errors
/// When a pod does not become JSON.
pub fn judge(pool: &ValidPool, asked: &Pod, made: &Pod) -> Result<Option<Problem>, serde_json::Error> {
    let (asked, made) = (serde_json::to_value(&asked.spec)?, serde_json::to_value(&made.spec)?);
    if pool.profile == PoolProfile::UserNamespace {
        let unsupported = |what: &str| {
            let message = format!("the API server drops {what} from pods");
            Ok(Some(Problem::UserNamespacesUnsupported { message }))
        };
        if made["hostUsers"].is_null() {
            return unsupported("hostUsers");
        }
        let daemon = container(&made, "initContainers", names::DAEMON_CONTAINER);
        if matches!(daemon["securityContext"]["procMount"].as_str(), None | Some("Default")) {
            return unsupported("procMount");
        }
    }
    let changes = changes(&asked, &made);
    Ok((!changes.is_empty()).then(|| Problem::PodMutated { changes, pool: pool.name.clone() }))
}

/// Fields of a pod that open it to the node, to other containers, or to another identity.
const OF_POD: [&str; 7] = [
    "hostUsers",
    "hostNetwork",
    "hostPID",
    "hostIPC",
    "shareProcessNamespace",
    "automountServiceAccountToken",
    "serviceAccountName",
];

/// Fields of a container's security context that confine more or less than was asked for, if somebody adds them. Others,
/// such as SELinux labels, are a cluster's own business.
const OF_CONTAINER: [&str; 10] = [
    "allowPrivilegeEscalation",
    "appArmorProfile",
    "capabilities",
    "privileged",
    "procMount",
    "readOnlyRootFilesystem",
    "runAsGroup",
    "runAsNonRoot",
    "runAsUser",
    "seccompProfile",
];

fn changes(asked: &Value, made: &Value) -> Vec<String> {
    let mut changes = Vec::new();
    for field in OF_POD {
        change(&format!("spec.{field}"), &asked[field], &made[field], &mut changes);
    }
    for (field, value) in fields(&asked["securityContext"]) {
        change(&format!("spec.securityContext.{field}"), value, &made["securityContext"][field], &mut changes);
    }
    for list in ["initContainers", "containers"] {
        for asked in asked[list].as_array().into_iter().flatten() {
            let name = asked["name"].as_str().unwrap_or_default();
            let made = container(made, list, name);
            let path = format!("spec.{list}[{name}]");
            for field in ["command", "args"] {
                change(&format!("{path}.{field}"), &asked[field], &made[field], &mut changes);
            }
            let (asked, made) = (&asked["securityContext"], &made["securityContext"]);
            let asked_for = fields(asked).map(|(field, _)| field.as_str());
            let others = OF_CONTAINER.into_iter().filter(|field| asked[*field].is_null());
            for field in asked_for.chain(others) {
                change(&format!("{path}.securityContext.{field}"), &asked[field], &made[field], &mut changes);
            }
        }
    }
    changes
}

fn fields(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flat_map(Map::iter)
}

fn container<'a>(spec: &'a Value, list: &str, name: &str) -> &'a Value {
    spec[list].as_array().into_iter().flatten().find(|container| container["name"] == name).unwrap_or(&Value::Null)
}

/// Fields whose absence is not the same as `false`.
const THREE_VALUED: [&str; 3] = ["allowPrivilegeEscalation", "automountServiceAccountToken", "hostUsers"];

/// Says it if the two differ. Absent is the same as the field's default.
fn change(path: &str, asked: &Value, made: &Value, changes: &mut Vec<String>) {
    let three_valued = THREE_VALUED.iter().any(|field| path.ends_with(field));
    let is_default =
        |value: &Value| value.is_null() || value == "Default" || (value == &Value::Bool(false) && !three_valued);
    if asked == made || (is_default(asked) && is_default(made)) {
        return;
    }
    let text = |value: &Value| if value.is_null() { "unset".to_owned() } else { value.to_string() };
    changes.push(format!("{path} was {} and became {}", text(asked), text(made)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(container: &Value) -> Value {
        json!({"initContainers": [{"name": "buildkitd", "securityContext": container}], "containers": []})
    }

    #[test]
    fn what_a_policy_changes_is_said_with_its_path() {
        let asked = of(&json!({"capabilities": {"drop": ["ALL"], "add": ["SETUID"]}, "runAsUser": 1000}));
        let context = "spec.initContainers[buildkitd].securityContext";
        for (made, expected) in [
            (
                json!({"capabilities": {"drop": ["ALL"], "add": ["SETUID"]}, "runAsUser": 1000, "allowPrivilegeEscalation": false}),
                format!("{context}.allowPrivilegeEscalation was unset and became false"),
            ),
            (
                json!({"capabilities": {"drop": ["ALL"]}, "runAsUser": 1000}),
                format!(
                    "{context}.capabilities was {} and became {}",
                    json!({"drop": ["ALL"], "add": ["SETUID"]}),
                    json!({"drop": ["ALL"]})
                ),
            ),
            (
                json!({"capabilities": {"drop": ["ALL"], "add": ["SETUID"]}}),
                format!("{context}.runAsUser was 1000 and became unset"),
            ),
        ] {
            assert_eq!(changes(&asked, &of(&made)), [expected]);
        }
        let whole = |field: &str, value: Value| {
            let mut spec = asked.clone();
            spec[field] = value;
            changes(&asked, &spec)
        };
        assert_eq!(whole("hostNetwork", json!(true)), ["spec.hostNetwork was unset and became true"]);
        assert_eq!(whole("initContainers", json!([])).len(), 2, "a container is gone");
        assert_eq!(whole("automountServiceAccountToken", json!(true)).len(), 1);
    }

    #[test]
    fn what_a_cluster_adds_of_its_own_is_none_of_our_business() {
        let asked = of(&json!({"runAsUser": 1000}));
        let mut made = of(&json!({"runAsUser": 1000, "seLinuxOptions": {"level": "s0:c1"}, "procMount": "Default"}));
        made["securityContext"] = json!({"seLinuxOptions": {"level": "s0:c1"}});
        made["hostNetwork"] = json!(false);
        made["containers"] = json!([{"name": "injected-proxy", "securityContext": {"runAsUser": 1337}}]);
        assert_eq!(changes(&asked, &made), Vec::<String>::new());
    }
}
