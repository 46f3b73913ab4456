//! Pools and their surroundings.

use std::collections::BTreeMap;

use buildpools_crds::v1alpha1::BuildPool;
use buildpools_operator::pool::network::ClusterNetwork;
use buildpools_operator::pool::{Progress, Settings, dereference::Observed, reconcile};
use buildpools_operator::runtime::metrics::Metrics;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::support::ApiServer;

pub const PEM: &str = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";
pub const POOL: &str = "/apis/buildpools.dev/v1alpha1/namespaces/team-a/buildpools/fast";

pub fn settings() -> Settings {
    Settings {
        runner_image: "example.com/runner:v1".into(),
        buildkit_image: "example.com/buildkit:rootless".into(),
        network: ClusterNetwork {
            dns: vec!["169.254.20.10/32".parse().unwrap()],
            api_service: Some("10.96.0.1:443".parse().unwrap()),
        },
        buildkit_user_namespace_image: "example.com/buildkit:plain".into(),
        metrics: Metrics::default(),
    }
}

pub fn now() -> Timestamp {
    Timestamp::from_second(1_700_000_000).unwrap()
}

pub fn pool(spec: &Value) -> BuildPool {
    serde_json::from_value(pool_json(spec)).unwrap()
}

pub fn pool_json(spec: &Value) -> Value {
    json!({
        "apiVersion": "buildpools.dev/v1alpha1", "kind": "BuildPool",
        "metadata": {"name": "fast", "namespace": "team-a", "uid": "pool-uid", "generation": 1},
        "spec": spec,
    })
}

pub fn minimal() -> Value {
    json!({"cache": {"size": "50Gi"}})
}

/// Profile UserNamespace, with a login.
pub fn user_namespace() -> Value {
    json!({"profile": "UserNamespace", "cache": {"size": "50Gi"}, "credentials": [{"secretRef": {"name": "harbor-robot"}}]})
}

/// Every field of the API.
pub fn full() -> Value {
    json!({
        "class": "Shared",
        "profile": "Rootless",
        "scaling": {"minMembers": 3, "buildsPerMember": 4},
        "maxBuildDuration": "90m",
        "cache": {
            "size": "100Gi", "storageClassName": "local-ssd", "retain": true, "reset": "2026-01-31",
            "gc": {"maxUsed": "70%", "minFree": "20Gi", "keepFor": "720h"},
        },
        "credentials": [{"secretRef": {"name": "harbor-robot"}}, {"secretRef": {"name": "hub"}}],
        "registries": [
            {"host": "harbor.example.com", "caRef": {"configMap": "corp-ca", "key": "root.pem"}},
            {"host": "harbor.example.com:8443", "caRef": {"configMap": "corp-ca", "key": "root.pem"}},
            {"host": "lab.example.com:5000", "caRef": {"configMap": "lab-ca"}},
        ],
        "network": {"egress": [
            {"internet": {}, "ports": [{"port": 443}]},
            {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"], "ports": [{"port": 5000, "endPort": 5009}, {"port": 9418}]},
            {"cidr": "0.0.0.0/0", "ports": [{"port": 80, "endPort": 80, "protocol": "TCP"}, {"port": 443, "protocol": "UDP"}]},
            {"to": {
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "registry"}},
                "podSelector": {"matchExpressions": [{"key": "app", "operator": "In", "values": ["mirror"]}]},
            }},
        ]},
        "buildkit": {"image": "moby/buildkit:v0.34.2-rootless"},
        "pod": {
            "resources": {"requests": {"cpu": 2, "memory": "4Gi"}, "limits": {"cpu": "4", "memory": "8Gi"}},
            "nodeSelector": {"example.com/purpose": "builds"},
            "tolerations": [{"key": "example.com/builds", "operator": "Exists", "effect": "NoSchedule"}],
            "affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{
                "weight": 100,
                "podAffinityTerm": {
                    "topologyKey": "kubernetes.io/hostname",
                    "labelSelector": {"matchLabels": {"buildpools.dev/pool": "fast"}},
                },
            }]}},
            "priorityClassName": "builds",
            "runtimeClassName": "sandboxed",
            "labels": {"example.com/team": "a"},
            "annotations": {"example.com/cost-centre": "42"},
            "imagePullSecrets": [{"name": "mirror"}],
        },
    })
}

pub fn observed(spec: &Value) -> Observed {
    let authority = |key: &str| BTreeMap::from([(key.to_owned(), PEM.to_owned())]);
    Observed {
        pool: pool(spec),
        api_server: vec!["172.18.0.2:6443".parse().unwrap(), "172.18.0.3:6443".parse().unwrap()],
        authorities: BTreeMap::from([
            ("corp-ca".to_owned(), authority("root.pem")),
            ("lab-ca".to_owned(), authority("ca.crt")),
        ]),
        ..Observed::default()
    }
}

/// A cluster with this pool and the authorities that it names.
pub fn cluster(spec: &Value) -> ApiServer {
    let server = ApiServer::default();
    server.put(POOL, pool_json(spec));
    server.put(API_SERVER, api_server(&["172.18.0.2", "172.18.0.3"]));
    for (name, key) in [("corp-ca", "root.pem"), ("lab-ca", "ca.crt")] {
        server.put(&core("configmaps", name), json!({"metadata": {"name": name}, "data": {key: PEM, "other": "x"}}));
    }
    server
}

pub const API_SERVER: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes";

/// Where the API server says it is.
pub fn api_server(addresses: &[&str]) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {"name": "kubernetes", "namespace": "default"},
        "addressType": "IPv4", "endpoints": [{"addresses": addresses, "conditions": {"ready": true}}],
        "ports": [{"name": "https", "port": 6443, "protocol": "TCP"}],
    })
}

pub async fn pass(server: &ApiServer) -> Progress {
    reconcile(&server.client(), &settings(), "team-a", "fast", now()).await.unwrap()
}

pub fn core(resource: &str, name: &str) -> String {
    format!("/api/v1/namespaces/team-a/{resource}/{name}")
}

pub const STATEFUL_SET: &str = "/apis/apps/v1/namespaces/team-a/statefulsets/fast";
pub const NETWORK_POLICY: &str = "/apis/networking.k8s.io/v1/namespaces/team-a/networkpolicies/fast-members";
pub const ROLE_BINDING: &str =
    "/apis/rbac.authorization.k8s.io/v1/namespaces/team-a/rolebindings/buildpool-fast-runner";

/// The condition Ready as it stands in the cluster: status, reason, message.
pub fn ready(server: &ApiServer) -> (String, String, String) {
    let pool = server.object(POOL).unwrap();
    let condition = &pool["status"]["conditions"][0];
    let text = |field: &str| condition[field].as_str().unwrap_or_default().to_owned();
    (text("status"), text("reason"), text("message"))
}

/// A pod of the StatefulSet with this UID.
pub fn pod(name: &str, set_uid: &str, status: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name, "namespace": "team-a", "uid": format!("uid-of-{name}"),
            "labels": {
                "buildpools.dev/pool": "fast", "app.kubernetes.io/component": "build-member",
                "controller-revision-hash": "fast-new",
            },
            "ownerReferences": [
                {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "fast", "uid": set_uid, "controller": true},
            ],
        },
        "status": status,
    })
}

pub fn ready_status() -> Value {
    json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]})
}
