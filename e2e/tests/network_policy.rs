//! The test cluster enforces NetworkPolicies as the Kubernetes documentation describes them: tests of pools rely on it.

use std::process::Stdio;

use anyhow::{Context as _, ensure};
use buildpools_e2e::cluster::{Layout, node};
use buildpools_e2e::harness::Reach::{Blocked, Closed, Open};
use buildpools_e2e::harness::reach::{BUSYBOX, Target, script};
use buildpools_e2e::harness::{Reach, Tenant, wait};
use futures::future::try_join_all;
use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use serde_json::{Value, from_value, json};

const IMAGE: &str = "docker.io/library/busybox:stable";

#[tokio::test]
async fn network_policies_are_enforced() {
    Tenant::with_others("policy", ["policy-other"], async |tenant, [other]| semantics(tenant, other).await).await;
}

/// Pods that do nothing, with two web servers in each.
async fn pods(tenant: &Tenant, roles: &[&str]) -> anyhow::Result<Vec<String>> {
    let serve = "mkdir -p /srv && echo up >/srv/index.html && httpd -p 8080 -h /srv && httpd -p 8081 -h /srv && exec sleep 100000";
    for role in roles {
        let pod: Pod = from_value(json!({
            "metadata": {"name": role, "labels": {"role": role}},
            "spec": {"terminationGracePeriodSeconds": 0, "containers": [{
                "name": "main", "image": IMAGE, "imagePullPolicy": "Never", "command": ["sh", "-c", serve],
                "ports": [{"name": "web", "containerPort": 8080}],
                "readinessProbe": {"httpGet": {"port": 8080, "path": "/"}, "periodSeconds": 1, "failureThreshold": 100},
            }]},
        }))?;
        tenant.pods().create(&PostParams::default(), &pod).await?;
    }
    let addresses = roles.iter().map(|role| async move {
        let runs = |pod: Option<&Pod>| {
            let status = pod.and_then(|pod| pod.status.as_ref());
            status
                .and_then(|status| status.container_statuses.as_ref())
                .is_some_and(|all| all.iter().all(|c| c.started == Some(true)))
        };
        let pod = wait::until(&tenant.pods(), role, "the pod runs", wait::SOON, runs).await?;
        pod.and_then(|pod| pod.status?.pod_ip).context("the pod has an address")
    });
    try_join_all(addresses).await
}

async fn policy(tenant: &Tenant, name: &str, spec: Value) -> anyhow::Result<()> {
    let object: NetworkPolicy = from_value(json!({"metadata": {"name": name}, "spec": spec}))?;
    let by = PatchParams::apply("test").force();
    let object = json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": object.metadata, "spec": object.spec});
    tenant.api::<NetworkPolicy>().patch(name, &by, &Patch::Apply(object)).await?;
    Ok(())
}

async fn expect(tenant: &Tenant, from: &str, expected: &[(&str, u16, Reach)]) -> anyhow::Result<()> {
    let expected: Vec<(Target, Reach)> = expected
        .iter()
        .map(|(host, port, reach)| ((format!("{host}:{port}"), (*host).to_owned(), *port), *reach))
        .collect();
    tenant.reaches((from, "main", BUSYBOX), &expected).await
}

async fn semantics(tenant: &Tenant, other: &Tenant) -> anyhow::Result<()> {
    let here = pods(tenant, &["server", "client", "third"]).await?;
    let there = pods(other, &["client", "third"]).await?;
    let (server, client, theirs) = (here[0].as_str(), here[1].as_str(), there[0].as_str());
    let node = tenant.environment.cluster.node_ip.to_string();
    let node = node.as_str();
    let service: Service = from_value(json!({
        "metadata": {"name": "web"}, "spec": {"selector": {"role": "server"}, "ports": [{"port": 80, "targetPort": 8080}]},
    }))?;
    tenant.api::<Service>().create(&PostParams::default(), &service).await?;
    let name = format!("web.{}.svc.cluster.local", tenant.namespace);
    let name = name.as_str();
    let namespaces: Api<Namespace> = Api::all(tenant.environment.client.clone());
    let label = Patch::Merge(json!({"metadata": {"labels": {"project": tenant.namespace}}}));
    namespaces.patch(&other.namespace, &PatchParams::default(), &label).await?;

    // Without a policy everything is open.
    let open = [(server, 8080, Open), (server, 8081, Open), (server, 8082, Closed), (name, 80, Open)];
    expect(tenant, "client", &open).await?;
    expect(other, "client", &open).await?;

    // A pod that is selected takes what is allowed and nothing else.
    policy(tenant, "deny", json!({"podSelector": {"matchLabels": {"role": "server"}}, "policyTypes": ["Ingress"]}))
        .await?;
    let blocked = [(server, 8080, Blocked), (server, 8081, Blocked), (server, 8082, Blocked), (name, 80, Blocked)];
    expect(tenant, "client", &blocked).await?;
    expect(other, "client", &blocked).await?;
    expect(tenant, "server", &[(server, 8080, Open), (client, 8080, Open)]).await?;
    expect(tenant, "third", &[(client, 8080, Open)]).await?;
    ensure!(from_node(tenant, server, 8080).await? == Open, "a node reaches its pods whatever their policies say");

    // Policies add up. Named ports, a range, selectors together, addresses with an exception.
    let select_server = json!({"matchLabels": {"role": "server"}});
    policy(
        tenant,
        "by-pod",
        json!({"podSelector": select_server, "ingress": [{
            "from": [{"podSelector": {"matchLabels": {"role": "client"}}}], "ports": [{"port": "web"}],
        }]}),
    )
    .await?;
    expect(tenant, "client", &[(server, 8080, Open), (server, 8081, Blocked), (name, 80, Open)]).await?;
    expect(tenant, "third", &[(server, 8080, Blocked), (name, 80, Blocked)]).await?;
    expect(other, "client", &[(server, 8080, Blocked)]).await?;
    policy(
        tenant,
        "by-both",
        json!({"podSelector": select_server, "ingress": [{
            "from": [{
                "namespaceSelector": {"matchLabels": {"project": tenant.namespace}},
                "podSelector": {"matchLabels": {"role": "client"}},
            }],
            "ports": [{"port": 8081, "endPort": 8082}],
        }]}),
    )
    .await?;
    expect(other, "client", &[(server, 8080, Blocked), (server, 8081, Open), (server, 8082, Closed)]).await?;
    expect(other, "third", &[(server, 8081, Blocked)]).await?;
    expect(tenant, "client", &[(server, 8080, Open), (server, 8081, Blocked)]).await?;
    policy(
        tenant,
        "by-block",
        json!({"podSelector": select_server, "ingress": [{
            "from": [{"ipBlock": {"cidr": "198.18.0.0/15", "except": [format!("{}/32", there[1])]}}],
            "ports": [{"protocol": "TCP", "port": 8081}],
        }]}),
    )
    .await?;
    expect(tenant, "third", &[(server, 8081, Open), (server, 8080, Blocked)]).await?;
    expect(other, "third", &[(server, 8081, Blocked)]).await?;
    // A rule that is taken away is gone.
    tenant.api::<NetworkPolicy>().delete("by-block", &DeleteParams::default()).await?;
    expect(tenant, "third", &[(server, 8081, Blocked)]).await?;

    // What a pod opens. Its node is no exception here.
    let select_client = json!({"matchLabels": {"role": "client"}});
    policy(other, "deny", json!({"podSelector": select_client, "policyTypes": ["Egress"]})).await?;
    expect(other, "client", &[(server, 8081, Blocked), (node, 6443, Blocked), (theirs, 8080, Open)]).await?;
    ensure!(!resolves(other, name).await?, "DNS is not allowed");
    expect(other, "third", &[(node, 6443, Open), (theirs, 8080, Open)]).await?;
    policy(
        other,
        "dns",
        json!({"podSelector": select_client, "policyTypes": ["Egress"], "egress": [
            {"to": [{"ipBlock": {"cidr": format!("{node}/32")}}], "ports": [{"protocol": "UDP", "port": 53}]},
            {"to": [{"ipBlock": {"cidr": format!("{node}/32")}}], "ports": [{"port": 6443}]},
        ]}),
    )
    .await?;
    expect(other, "client", &[(node, 6443, Open), (node, 53, Blocked), (server, 8081, Blocked)]).await?;
    ensure!(resolves(other, name).await?, "DNS by UDP is allowed, through its Service");
    // Both ends must allow it: by-both lets this pod in at 8081.
    policy(
        other,
        "to-pods",
        json!({"podSelector": select_client, "policyTypes": ["Egress"], "egress": [{
            "to": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": tenant.namespace}}}],
        }]}),
    )
    .await?;
    expect(other, "client", &[(server, 8081, Open), (server, 8080, Blocked), (client, 8080, Open)]).await?;

    no_open_moment(tenant, other, client).await
}

async fn resolves(tenant: &Tenant, name: &str) -> anyhow::Result<bool> {
    let command = format!("timeout 5 nslookup {name} >/dev/null 2>&1 && echo yes || echo no");
    Ok(tenant.exec("client", "main", &["sh", "-c", &command]).await?.contains("yes"))
}

async fn from_node(tenant: &Tenant, host: &str, port: u16) -> anyhow::Result<Reach> {
    let layout = Layout::new(&tenant.environment.cluster.name)?;
    let target = ("node".to_owned(), host.to_owned(), port);
    let mut command: tokio::process::Command = node::command(&layout, "busybox")?.into();
    let script = script(BUSYBOX, &[target]);
    let output = command.args(["sh", "-c", &script]).stdin(Stdio::null()).output().await?;
    let found = buildpools_e2e::harness::reach::results(&String::from_utf8_lossy(&output.stdout))?;
    found.get("node").copied().context("a result")
}

/// A pod that tries at once, and goes on, never gets through; the same pod without a policy does.
async fn no_open_moment(tenant: &Tenant, other: &Tenant, open: &str) -> anyhow::Result<()> {
    policy(other, "early", json!({"podSelector": {"matchLabels": {"role": "early"}}, "policyTypes": ["Egress"]}))
        .await?;
    let tries = format!("{BUSYBOX}for i in 1 2 3 4 5 6 7 8 9 10; do reach try-$i {open} 8080; done\n");
    for (place, first) in [(tenant, Open), (other, Blocked)] {
        let pod: Pod = from_value(json!({
            "metadata": {"name": "early", "labels": {"role": "early"}},
            "spec": {"restartPolicy": "Never", "containers": [
                {"name": "main", "image": IMAGE, "imagePullPolicy": "Never", "command": ["sh", "-c", tries]},
            ]},
        }))?;
        place.pods().create(&PostParams::default(), &pod).await?;
        wait::until(&place.pods(), "early", "the pod has ended", wait::SOON, |pod| {
            pod.and_then(|pod| pod.status.as_ref()?.phase.as_deref()).is_some_and(|phase| phase == "Succeeded")
        })
        .await?;
        let log = place.log("early", "main").await?;
        let found = buildpools_e2e::harness::reach::results(&log)?;
        ensure!(found.len() == 10 && found.values().all(|reach| *reach == first), "expected {first:?}: {log}");
    }
    Ok(())
}
