//! What the operator says of itself: metrics, and why jobs wait.

use std::collections::BTreeMap;
use std::process::Stdio;

use anyhow::{Context as _, ensure};
use axum::http::Request;
use buildpools_crds::v1alpha1::{JobPhase, WhenPoolMissing};
use buildpools_e2e::harness::{Environment, Tenant, wait};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::ListParams;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

const SYSTEM: &str = "buildpools-system";

/// The text of /metrics of each replica that runs, through the API server.
async fn metrics(environment: &Environment) -> anyhow::Result<BTreeMap<String, String>> {
    let pods: Api<Pod> = Api::namespaced(environment.client.clone(), SYSTEM);
    let mut all = BTreeMap::new();
    for pod in pods.list(&ListParams::default().labels("app.kubernetes.io/component=operator")).await? {
        let name = pod.metadata.name.context("name")?;
        let path = format!("/api/v1/namespaces/{SYSTEM}/pods/{name}:8080/proxy/metrics");
        // A replica that a rollout has just stopped has none.
        if let Ok(text) = environment.client.request_text(Request::get(path).body(Vec::new())?).await {
            all.insert(name, text);
        }
    }
    Ok(all)
}

fn value(metrics: &str, series: &str) -> f64 {
    let line = metrics.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.and_then(|value| value.parse().ok()).unwrap_or(0.0)
}

/// The replica that leads, and its metrics.
async fn leader(environment: &Environment) -> anyhow::Result<(String, String)> {
    wait::poll("one replica leads", wait::SOON, async || {
        let mut leaders = metrics(environment).await?;
        leaders.retain(|_, text| value(text, "buildpools_leader") > 0.0);
        Ok(if leaders.len() == 1 { leaders.pop_first() } else { None })
    })
    .await
}

/// A port of this machine that leads to the pod's.
struct Forwarding {
    address: String,
    /// What kubectl prints. Without a reader it ends with its next line.
    _lines: Lines<BufReader<ChildStdout>>,
    _kubectl: Child,
}

async fn forward(environment: &Environment, pod: &str, port: u16) -> anyhow::Result<Forwarding> {
    let mut kubectl = Command::new(environment.cluster.tool("kubectl"))
        .args(["-n", SYSTEM, "port-forward", &format!("pod/{pod}"), &format!(":{port}"), "--address=127.0.0.1"])
        .env("KUBECONFIG", &environment.cluster.kubeconfig)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut lines = BufReader::new(kubectl.stdout.take().context("stdout")?).lines();
    let line = lines.next_line().await?.context("kubectl port-forward ended")?;
    // Forwarding from 127.0.0.1:41234 -> 8082
    let address = line.split_whitespace().nth(2).with_context(|| line.clone())?;
    Ok(Forwarding { address: format!("http://{address}"), _lines: lines, _kubectl: kubectl })
}

#[tokio::test]
async fn bindings_are_counted_by_the_replica_that_leads() {
    Tenant::with("metrics", async |tenant| {
        tenant.pool("main").create_ready().await?;
        let (name, before) = leader(&tenant.environment).await?;
        let status = tenant.job("app", "main").inline("FROM scratch\nCOPY Dockerfile /\n").run().await?;
        ensure!(status.phase == JobPhase::Succeeded, "{:?}", status.failure);
        let after = metrics(&tenant.environment).await?.remove(&name).context("the leader is another")?;
        let bound = "buildpools_dispatch_duration_seconds_count";
        ensure!(value(&after, bound) > value(&before, bound), "{after}");
        let length = format!("buildpools_queue_length{{namespace=\"{}\",pool=\"main\"}}", tenant.namespace);
        ensure!(after.contains(&format!("{length} 0\n")), "{after}");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn the_queue_can_be_read_through_a_forwarded_port() {
    Tenant::with("debug-queue", async |tenant| {
        let job = tenant.job("waits", "nowhere").inline("FROM scratch\n");
        job.spec(|spec| spec.when_pool_missing = WhenPoolMissing::Wait).create().await?;
        let (name, _) = leader(&tenant.environment).await?;
        let forwarding = forward(&tenant.environment, &name, 8082).await?;
        let page = format!("{}/debug/queue?namespace={}", forwarding.address, tenant.namespace);
        let text = wait::poll("the job is in the queue", wait::SOON, async || {
            let text = reqwest::get(&page).await?.error_for_status()?.text().await?;
            Ok(Some(text).filter(|text| text.contains("waits")))
        })
        .await?;
        ensure!(text.lines().count() == 2 && text.contains("PoolNotFound"), "{text}");
        Ok(())
    })
    .await;
}
