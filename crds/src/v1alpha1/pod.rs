//! What a BuildPool may say of its members' pods: where they run and what others read from them. What confines the daemon
//! is the profile's and cannot be said here.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Affinity, Toleration};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::KubeSchema;
use schemars::{Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::shared::LocalReference;
use crate::labels;

/// The members' pods. The fields are those of a Kubernetes pod; a change reaches a member when it is replaced.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PodSettings {
    /// Resources of the container that builds.
    #[serde(default, skip_serializing_if = "PodResources::is_default")]
    pub resources: PodResources,

    /// Labels that a node must have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "node_selector_schema")]
    pub node_selector: BTreeMap<String, String>,

    /// Taints of nodes that the members bear.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "tolerations_schema")]
    pub tolerations: Vec<Toleration>,

    /// Which nodes, and which other pods of the same namespace, the members are to be near to or far from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "affinity_schema")]
    pub affinity: Option<Affinity>,

    /// PriorityClass of the members. The cluster's default when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new("self.matches('^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$')").message("must be the name of a PriorityClass: lower-case letters, digits, '-' and '.'"))]
    pub priority_class_name: Option<String>,

    /// RuntimeClass of the members, for example of a sandbox. The cluster's default when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new("self.matches('^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$')").message("must be the name of a RuntimeClass: lower-case letters, digits, '-' and '.'"))]
    pub runtime_class_name: Option<String>,

    /// Further labels of the members' pods. Those of buildpools and of the StatefulSet controller are refused.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "labels_schema")]
    pub labels: BTreeMap<String, String>,

    /// Further annotations of the members' pods. Those of buildpools, those that confine containers, and those that
    /// attach networks are refused.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "annotations_schema")]
    pub annotations: BTreeMap<String, String>,

    /// Secrets with which the kubelet pulls the images of the members themselves. They are not used by builds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub image_pull_secrets: Vec<LocalReference>,
}

impl PodSettings {
    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Resource requests and limits, as in a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PodResources {
    /// What the scheduler reserves.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16))]
    #[x_kube(validation = Rule::new("self.all(k, type(self[k]) == int || isQuantity(self[k]))").message("must hold quantities, for example cpu: 500m, memory: 1Gi"))]
    pub requests: BTreeMap<String, IntOrString>,

    /// What the container may use at most.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16))]
    #[x_kube(validation = Rule::new("self.all(k, type(self[k]) == int || isQuantity(self[k]))").message("must hold quantities, for example cpu: 2, memory: 4Gi"))]
    pub limits: BTreeMap<String, IntOrString>,
}

impl PodResources {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

fn node_selector_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "object", "maxProperties": 32, "additionalProperties": {"type": "string", "maxLength": 63}})
}

/// Labels that somebody else sets on the members' pods, or selects them by.
const RESERVED_LABELS: [&str; 5] = [
    labels::MANAGED_BY,
    labels::COMPONENT,
    "controller-revision-hash",
    "statefulset.kubernetes.io/pod-name",
    "apps.kubernetes.io/pod-index",
];

/// Annotations that confine containers: older forms of fields that the profile sets.
const RESERVED_ANNOTATIONS: [&str; 2] =
    ["container.apparmor.security.beta.kubernetes.io/", "container.seccomp.security.alpha.kubernetes.io/"];

fn labels_schema(_: &mut SchemaGenerator) -> Schema {
    let list = RESERVED_LABELS.map(|label| format!("'{label}'")).join(", ");
    json_schema!({
        "type": "object",
        "maxProperties": 32,
        "additionalProperties": {"type": "string", "maxLength": 63},
        "x-kubernetes-validations": [{
            "rule": format!("self.all(k, {NOT_OURS} && !(k in [{list}]))"),
            "message": format!("must not hold labels that buildpools or the StatefulSet controller sets: buildpools.dev/…, {}", RESERVED_LABELS.join(", ")),
        }],
    })
}

fn annotations_schema(_: &mut SchemaGenerator) -> Schema {
    let confining = RESERVED_ANNOTATIONS.map(|prefix| format!("!k.startsWith('{prefix}')")).join(" && ");
    json_schema!({
        "type": "object",
        "maxProperties": 32,
        "additionalProperties": {"type": "string", "maxLength": 8192},
        "x-kubernetes-validations": [{
            "rule": format!("self.all(k, {NOT_OURS} && {confining})"),
            "message": format!("must not hold annotations of buildpools (buildpools.dev/…), nor those that confine containers, which the profile does: {}…", RESERVED_ANNOTATIONS.join("…, ")),
        }, {
            "rule": format!("self.all(k, {NO_NETWORK})"),
            "message": "must not hold annotations that attach networks, because NetworkPolicy does not hold there: k8s.v1.cni.cncf.io/… and others of cni.cncf.io and multus-cni.io",
        }],
    })
}

/// A key that does not give a pod further network interfaces, or another one: those of Multus and its like.
const NO_NETWORK: &str =
    "!k.startsWith('cni.cncf.io/') && !k.contains('.cni.cncf.io/') && !k.contains('.multus-cni.io/')";

/// A key that is not of buildpools.
const NOT_OURS: &str = "!k.startsWith('buildpools.dev/') && !k.contains('.buildpools.dev/')";

fn tolerations_schema(generator: &mut SchemaGenerator) -> Schema {
    bounded(generator.subschema_for::<Vec<Toleration>>())
}

fn affinity_schema(generator: &mut SchemaGenerator) -> Schema {
    bounded(generator.subschema_for::<Affinity>())
}

/// The schema of a Kubernetes type, fit for ours: bounded, without Kubernetes' own descriptions (`kubectl explain pod`
/// has them), and without its ways to speak of other namespaces, because a namespace is a tenant.
fn bounded(schema: Schema) -> Schema {
    let mut value = schema.to_value();
    bound(&mut value);
    Schema::try_from(value).unwrap_or_default()
}

fn bound(schema: &mut Value) {
    let Value::Object(fields) = schema else { return };
    fields.remove("description");
    match fields.get("type").and_then(Value::as_str) {
        Some("array") => drop(fields.insert("maxItems".into(), 32.into())),
        // The longest is the key of a label with its prefix.
        Some("string") => drop(fields.insert("maxLength".into(), 317.into())),
        _ => {}
    }
    if let Some(Value::Object(properties)) = fields.get_mut("properties") {
        properties.remove("namespaces");
        properties.remove("namespaceSelector");
        properties.values_mut().for_each(bound);
    }
    for inner in ["items", "additionalProperties"] {
        if let Some(inner) = fields.get_mut(inner) {
            bound(inner);
        }
    }
}
