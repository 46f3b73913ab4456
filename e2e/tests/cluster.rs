//! The test cluster itself: what runs on it works, and nothing is left of it afterwards.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use buildpools_e2e::cluster::process::Process;
use buildpools_e2e::cluster::{self, ClusterInfo, Layout, control_plane, start};
use buildpools_e2e::harness::wait::{SOON, poll, until};
use buildpools_e2e::harness::{Environment, Tenant};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::api::{DeleteParams, PostParams};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

/// Runs a script in a busybox pod to its end and returns what it printed.
async fn run(tenant: &Tenant, name: &str, image: &str, script: &str, claim: Option<&str>) -> Result<String> {
    let (mounts, volumes) = match claim {
        Some(claim) => (
            json!([{"name": "data", "mountPath": "/data"}]),
            json!([{"name": "data", "persistentVolumeClaim": {"claimName": claim}}]),
        ),
        None => (Value::Null, Value::Null),
    };
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": name},
        "spec": {
            "restartPolicy": "Never",
            "securityContext": {"fsGroup": 1000},
            "containers": [{
                "name": "main",
                "image": image,
                "command": ["sh", "-c", script],
                "securityContext": {"runAsUser": 1000, "runAsGroup": 1000},
                "volumeMounts": mounts,
            }],
            "volumes": volumes,
        },
    }))?;
    tenant.pods().create(&PostParams::default(), &pod).await?;
    let pod =
        until(&tenant.pods(), name, "the pod ends", SOON, |pod| matches!(phase(pod), Some("Succeeded" | "Failed")))
            .await?;
    let log = tenant.log(name, "main").await?;
    ensure!(phase(pod.as_ref()) == Some("Succeeded"), "pod {name} failed: {log}");
    Ok(log)
}

fn phase(pod: Option<&Pod>) -> Option<&str> {
    pod?.status.as_ref()?.phase.as_deref()
}

async fn claim(tenant: &Tenant, name: &str) -> Result<()> {
    let claim: PersistentVolumeClaim = serde_json::from_value(json!({
        "metadata": {"name": name},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }))?;
    tenant.api().create(&PostParams::default(), &claim).await?;
    Ok(())
}

#[tokio::test]
async fn cluster_pods_resolve_names_of_services_and_of_the_test_servers() {
    Tenant::with("cluster-dns", async |tenant| {
        let node = tenant.environment.cluster.node_ip.to_string();
        let script = "nslookup kubernetes.default.svc.cluster.local && nslookup registry.buildpools.test \
             && nslookup git.buildpools.test && ! nslookup nowhere.example.com";
        let log = run(tenant, "lookup", "busybox:stable", script, None).await?;
        ensure!(log.contains("Name:\tkubernetes.default.svc.cluster.local"), "{log}");
        for name in ["registry.buildpools.test", "git.buildpools.test"] {
            ensure!(log.contains(&format!("Name:\t{name}\nAddress: {node}\n")), "{name}: {log}");
        }
        ensure!(log.contains("nowhere.example.com: NXDOMAIN"), "{log}");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn cluster_node_pulls_from_the_registry_without_a_login_what_is_public() {
    Tenant::with("cluster-pull", async |tenant| {
        let image = format!("{}/library/busybox:stable", tenant.environment.cluster.registry);
        let log = run(tenant, "pulled", &image, "echo pulled", None).await?;
        ensure!(log == "pulled\n", "{log}");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn cluster_volume_survives_its_pod() {
    Tenant::with("cluster-volume", async |tenant| {
        claim(tenant, "data").await?;
        run(tenant, "writer", "busybox:stable", "echo kept > /data/file", Some("data")).await?;
        tenant.pods().delete("writer", &DeleteParams::default()).await?;
        until(&tenant.pods(), "writer", "the first pod is gone", SOON, |pod| pod.is_none()).await?;
        let log = run(tenant, "reader", "busybox:stable", "cat /data/file", Some("data")).await?;
        ensure!(log == "kept\n", "{log}");
        Ok(())
    })
    .await;
}

/// Another cluster beside the one that the tests run on: starts, heals after a crash, and leaves nothing behind when it
/// is removed after another one.
#[tokio::test]
async fn cluster_down_leaves_nothing() -> Result<()> {
    let first = Environment::load().await?;
    let layout = Layout::new(&format!("{}-side", first.cluster.name))?;
    cluster::down(&layout)?;
    let before = Traces::of(&layout)?;
    let result = side_cluster(&first, &layout).await;
    cluster::down(&layout)?;
    result?;
    let after = Traces::of(&layout)?;
    assert_eq!(before, after);
    // The first cluster has not noticed.
    start::check(&Layout::new(&first.cluster.name)?).await?;
    Ok(())
}

async fn side_cluster(first: &Environment, layout: &Layout) -> Result<()> {
    let cluster = cluster::up(layout).await?;
    ensure!(cluster.node_ip != first.cluster.node_ip, "both nodes have {}", cluster.node_ip);
    work(layout, cluster.clone()).await?;
    let start = Instant::now();
    let again = cluster::up(layout).await?;
    ensure!(start.elapsed().as_secs() < 5, "a running cluster was found after {:?} only", start.elapsed());
    ensure!(again.node_ip == cluster.node_ip);

    kill(layout, "kube-apiserver").await?;
    let cluster = cluster::up(layout).await?;
    work(layout, cluster).await?;
    // The pod and its volume are still there, and nobody is left to clear them away.
    kill(layout, "containerd").await?;
    kill(layout, "kubelet").await?;
    ensure!(start::check(layout).await.is_err(), "a cluster without a kubelet passes for sound");
    ensure!(Traces::of(layout)?.processes > 0);
    Ok(())
}

/// Lets the cluster run a pod with a volume, and keeps a pod running on it.
async fn work(layout: &Layout, cluster: ClusterInfo) -> Result<()> {
    let client = control_plane::client(layout).await?;
    let tenant = Tenant::create(Environment { cluster, client }, "work").await?;
    claim(&tenant, "data").await?;
    run(&tenant, "writer", "busybox:stable", "echo kept > /data/file", Some("data")).await?;
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "stays"},
        "spec": {
            "containers": [{
                "name": "main",
                "image": "busybox:stable",
                "command": ["sleep", "3600"],
                "volumeMounts": [{"name": "data", "mountPath": "/data"}],
            }],
            "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}],
        },
    }))?;
    tenant.pods().create(&PostParams::default(), &pod).await?;
    until(&tenant.pods(), "stays", "the pod runs", SOON, |pod| phase(pod) == Some("Running")).await?;
    Ok(())
}

async fn kill(layout: &Layout, name: &str) -> Result<()> {
    let process = Process::load(layout, name)?;
    let pid = Pid::from_raw(i32::try_from(process.pid)?).context("a process has a number")?;
    kill_process(pid, Signal::KILL).with_context(|| name.to_owned())?;
    poll("the killed process ends", SOON, async || Ok((!process.is_alive()).then_some(()))).await
}

/// What a cluster could leave on the machine.
#[derive(Debug, PartialEq, Eq)]
struct Traces {
    /// Processes that have the cluster's directory in their command line, or its network namespace.
    processes: usize,
    /// The cluster's directory, network namespace and interface, where they exist.
    files: BTreeSet<String>,
    /// Its control groups.
    groups: BTreeSet<String>,
    /// Lines of the host's table of mounts that name it.
    mounts: Vec<String>,
    /// The host's routes that name it.
    routes: Vec<String>,
    /// The host's firewall.
    firewall: String,
}

impl Traces {
    fn of(layout: &Layout) -> Result<Self> {
        let interface = layout.host_interface();
        let netns = format!("/run/netns/{}", layout.netns());
        let paths = [layout.dir.display().to_string(), netns.clone(), format!("/sys/class/net/{interface}")];
        let names = |line: &&str| line.contains(&paths[0]) || line.contains(&layout.netns());
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        let routes = print("ip", &["route", "show", "table", "all"])?;
        Ok(Self {
            processes: processes(&paths[0], &netns)?,
            files: paths.iter().filter(|path| Path::new(path).exists()).cloned().collect(),
            groups: groups(&layout.cgroup())?,
            mounts: mounts.lines().filter(names).map(str::to_owned).collect(),
            routes: routes.lines().filter(|line| line.contains(&interface)).map(str::to_owned).collect(),
            firewall: print("nft", &["list", "ruleset"])?,
        })
    }
}

fn print(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program).args(arguments).output().context(program.to_owned())?;
    ensure!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

fn processes(directory: &str, netns: &str) -> Result<usize> {
    use std::os::unix::fs::MetadataExt as _;
    let inode = fs::metadata(netns).map(|metadata| metadata.ino()).ok();
    let mut count = 0;
    for entry in fs::read_dir("/proc")?.flatten() {
        let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let own = fs::metadata(entry.path().join("ns/net")).map(|metadata| metadata.ino()).ok();
        if String::from_utf8_lossy(&command).contains(directory) || (inode.is_some() && own == inode) {
            count += 1;
        }
    }
    Ok(count)
}

fn groups(name: &str) -> Result<BTreeSet<String>> {
    let root = Path::new("/sys/fs/cgroup");
    let mut found = BTreeSet::new();
    let hierarchies = fs::read_dir(root)?.flatten().map(|entry| entry.path()).chain([root.to_owned()]);
    for group in hierarchies.map(|hierarchy| hierarchy.join(name)).filter(|group| group.exists()) {
        found.insert(group.display().to_string());
    }
    Ok(found)
}
