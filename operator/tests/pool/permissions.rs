//! What the reconciler asks of the API server is what its ClusterRole grants.

use std::collections::BTreeSet;
use std::time::Duration;

use buildpools_operator::pool;
use buildpools_operator::runtime::metrics::Metrics;
use k8s_openapi::api::rbac::v1::ClusterRole;
use serde::Deserialize as _;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::cache::{STORAGE_CLASS, claim};
use crate::fixtures::{NETWORK_POLICY, POOL, ROLE_BINDING, STATEFUL_SET, cluster, core, full, pass, ready, settings};
use crate::support::Received;

type Permission = (String, String, String);

fn granted(role: &str) -> BTreeSet<Permission> {
    let manifest = include_str!("../../../manifests/base/rbac.yaml");
    let documents = serde_yaml::Deserializer::from_str(manifest);
    let rules = documents
        .map(|document| serde_json::Value::deserialize(document).unwrap())
        .filter(|document| document["kind"] == "ClusterRole" && document["metadata"]["name"] == role)
        .flat_map(|document| serde_json::from_value::<ClusterRole>(document).unwrap().rules.unwrap_or_default());
    let mut all = BTreeSet::new();
    for rule in rules {
        for group in rule.api_groups.iter().flatten() {
            for resource in rule.resources.iter().flatten() {
                all.extend(rule.verbs.iter().map(|verb| (verb.clone(), group.clone(), resource.clone())));
            }
        }
    }
    all
}

#[tokio::test]
async fn nothing_is_asked_that_is_not_granted() {
    let server = cluster(&full());
    let stop = CancellationToken::new();
    let running = tokio::spawn(pool::run(server.client(), settings(), Metrics::default(), stop.clone()));
    // Watches begin, the pool is made and says so.
    let ready_is_said = server.until(|server| ready(server).1 == "MembersNotReady");
    tokio::time::timeout(Duration::from_secs(10), ready_is_said).await.expect("the pool is made");
    stop.cancel();
    tokio::time::timeout(Duration::from_secs(10), running).await.expect("it stops").unwrap().unwrap();

    // Everything differs once.
    let objects = [
        core("serviceaccounts", "buildpool-fast-runner"),
        core("configmaps", "fast-buildkitd"),
        core("services", "fast-members"),
        NETWORK_POLICY.to_owned(),
        ROLE_BINDING.to_owned(),
        STATEFUL_SET.to_owned(),
    ];
    for path in &objects {
        server.change(path, |object| object["metadata"]["labels"] = json!({}));
    }
    pass(&server).await;

    // A volume that is to grow and to outlive the pool, and the StatefulSet that makes such ones.
    server.put(&core("persistentvolumeclaims", "cache-fast-0"), claim("10Gi", &json!([])));
    server.put(STORAGE_CLASS, json!({"provisioner": "p", "allowVolumeExpansion": true}));
    server.change(POOL, |pool| pool["spec"]["cache"]["size"] = json!("200Gi"));
    pass(&server).await;
    pass(&server).await;

    let used: BTreeSet<Permission> = server.received().iter().map(Received::permission).collect();
    let granted = granted("buildpools-operator");
    let missing: Vec<_> = used.difference(&granted).collect();
    assert!(missing.is_empty(), "not granted: {missing:#?}");

    // What only pools are the reason for is used.
    let others = ["buildjobs", "buildjobs/status", "customresourcedefinitions", "clusterroles", "nodes"];
    let unused: Vec<_> = granted
        .difference(&used)
        .filter(|(verb, group, resource)| {
            let of_dispatch = others.contains(&resource.as_str()) || group == "events.k8s.io";
            !of_dispatch && (verb.as_str(), resource.as_str()) != ("get", "pods")
        })
        .collect();
    assert!(unused.is_empty(), "granted without use: {unused:#?}");
}
