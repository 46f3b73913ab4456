//! Starts a cluster.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::Node;
use kube::Api;

use super::cgroup::Group;
use super::info::ClusterInfo;
use super::layout::Layout;
use super::process::Process;
use super::steps::Step;
use super::{
    containerd, control_plane, dns, images, kubelet, network, node, outside, pki, policy, registry, storage, teardown,
    tools,
};
use crate::fixtures::{git, samples};

/// How long a running cluster has to answer before it counts as broken.
const ANSWER: Duration = Duration::from_secs(5);

/// Starts the cluster, or returns at once when it runs. One that does not run any more, or not as a whole, is removed
/// with all its content and started afresh.
pub async fn up(layout: &Layout) -> Result<ClusterInfo> {
    tools::build(layout)?;
    pki::ensure_test_ca(layout)?;
    let _lock = layout.lock_cluster()?;
    if layout.dir.exists() {
        match check(layout).await {
            Ok(info) => {
                println!("cluster: {} runs", layout.name);
                return Ok(info);
            }
            Err(error) => println!("cluster: {} is started afresh, as it is not sound: {error:#}", layout.name),
        }
    }
    let whole = Step::new(format!("{} is ready", layout.name));
    let images = images::Images::ensure(layout)?;
    let step = Step::new("leftovers removed");
    teardown::remove(layout)?;
    step.done();
    let info = start(layout, &images)
        .await
        .with_context(|| format!("{} was not started; its logs: {}", layout.name, layout.dir.join("logs").display()))?;
    whole.done();
    Ok(info)
}

/// The cluster, when all its processes run and the node takes pods.
pub async fn check(layout: &Layout) -> Result<ClusterInfo> {
    let info = ClusterInfo::load(&layout.name)?;
    for process in Process::all(layout) {
        process.check()?;
    }
    let nodes: Api<Node> = Api::all(control_plane::client(layout).await?);
    let node = tokio::time::timeout(ANSWER, nodes.get(&layout.name)).await.context("the API server is silent")??;
    anyhow::ensure!(kubelet::takes_pods(&node), "the node is not ready");
    Ok(info)
}

async fn start(layout: &Layout, images: &images::Images) -> Result<ClusterInfo> {
    let step = Step::new("namespaces, keys, configuration");
    for directory in ["config", "pki", "logs", "run", "data/volumes"] {
        fs::create_dir_all(layout.dir.join(directory))?;
    }
    let addresses = layout.take_slot(&network::host_addresses()?)?;
    let info = ClusterInfo::of(layout)?;
    let group = Group::new(&layout.cgroup())?;
    group.create()?;
    network::create(layout, &addresses)?;
    pki::create(layout, &addresses)?;
    node::create(layout, &addresses, &group).await?;
    step.done();

    let step = Step::new("API server, containerd and registry answer");
    let api_server = control_plane::start(layout, &addresses)?;
    containerd::start(layout, &addresses).await?;
    registry::start(layout, &info).await?;
    outside::start(layout)?;
    // Unpacking images takes as long as the API server takes to start.
    let imports = {
        let (layout, images) = (layout.clone(), images.clone());
        tokio::task::spawn_blocking(move || images.import(&layout))
    };
    let client = control_plane::wait(layout, &api_server).await?;
    step.done();

    let step = Step::new("node takes pods");
    control_plane::start_controllers(layout)?;
    // Before the kubelet: no pod gets a network without it.
    policy::start(layout)?;
    let node = kubelet::start(layout, &addresses)?;
    let coredns = dns::start(layout, &addresses)?;
    dns::serve(layout, &addresses, &coredns).await?;
    storage::start(layout)?;
    kubelet::wait(layout, &client, &node).await?;
    step.done();

    let step = Step::new("images imported, registry and git server seeded");
    imports.await??;
    registry::push(layout, &info, &images.busybox, "library/busybox:stable")?;
    git::publish(&info.git_root, "demo/hello.git", &samples::hello(), "main").await?;
    step.done();
    for process in Process::all(layout) {
        process.check()?;
    }
    info.save(layout)?;
    Ok(info)
}
