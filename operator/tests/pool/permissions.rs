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
use crate::fixtures::{
    NETWORK_POLICY, POOL, ROLE_BINDING, STATEFUL_SET, cluster, core, full, pass, pod, ready, ready_status, settings,
};
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

    // A member builds, then none does.
    let budget = "/apis/policy/v1/namespaces/team-a/poddisruptionbudgets/fast-members".to_owned();
    let uid = server.object(STATEFUL_SET).unwrap()["metadata"]["uid"].as_str().unwrap().to_owned();
    server.put(&core("pods", "fast-0"), pod("fast-0", &uid, &ready_status()));
    let builds = |builds: i32| {
        let members = json!([{"uid": "uid-of-fast-0", "pod": "fast-0", "builds": builds}]);
        server.change(POOL, |pool| pool["status"]["members"] = members);
    };
    builds(1);
    pass(&server).await;

    // Everything differs once.
    let objects = [
        core("serviceaccounts", "buildpool-fast-runner"),
        core("configmaps", "fast-buildkitd"),
        core("services", "fast-members"),
        NETWORK_POLICY.to_owned(),
        ROLE_BINDING.to_owned(),
        STATEFUL_SET.to_owned(),
        budget,
    ];
    for path in &objects {
        server.change(path, |object| object["metadata"]["labels"] = json!({}));
    }
    pass(&server).await;
    builds(0);
    pass(&server).await;

    // A member of an older form is replaced.
    server.change(STATEFUL_SET, |set| {
        set["status"] = json!({"replicas": 3, "observedGeneration": 1, "updateRevision": "fast-newer"});
    });
    let set = server.object(STATEFUL_SET).unwrap()["metadata"]["uid"].as_str().unwrap().to_owned();
    for ordinal in 0..3 {
        let name = format!("fast-{ordinal}");
        server.put(&core("pods", &name), pod(&name, &set, &ready_status()));
    }
    for _ in 0..2 {
        pass(&server).await;
    }

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
