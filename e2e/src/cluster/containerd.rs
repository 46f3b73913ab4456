//! containerd, its network plugins and what it needs to pull from the cluster's registry.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use tokio::net::UnixStream;

use super::images::PAUSE;
use super::layout::{Addresses, Layout, REGISTRY_HOST, REGISTRY_PORT};
use super::node;
use super::policy;
use super::process::{self, Process, wait_until};
use super::tools;

/// Starts containerd and waits until it answers.
pub async fn start(layout: &Layout, addresses: &Addresses) -> Result<Process> {
    let plugins = tools::resolve(layout, "ptp")?;
    let plugins = plugins.parent().context("a program has a directory")?;
    let config = layout.config("containerd.toml");
    let gate = policy::install_plugin(layout)?;
    fs::write(&config, containerd_toml(layout, [plugins, &gate]))?;
    write(&layout.config("cni/10-ptp.conflist"), &cni(addresses))?;
    write(&layout.config(&format!("certs.d/{REGISTRY_HOST}:{REGISTRY_PORT}/hosts.toml")), &hosts_toml(layout))?;
    let process =
        process::start(layout, "containerd", &layout.tool("containerd"), [Path::new("--config"), config.as_path()])?;
    let socket = layout.containerd_socket();
    let answers = async || Ok(UnixStream::connect(&socket).await.is_ok());
    wait_until("containerd", Duration::from_secs(30), &[&process], answers).await?;
    Ok(process)
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::create_dir_all(path.parent().context("a file has a directory")?)?;
    fs::write(path, text).with_context(|| path.display().to_string())
}

fn containerd_toml(layout: &Layout, plugins: [&Path; 2]) -> String {
    format!(
        r#"version = 3
root = "{root}"
# On the node's own /run.
state = "/run/containerd"
disabled_plugins = ["io.containerd.nri.v1.nri", "io.containerd.internal.v1.tracing"]

[grpc]
address = "{socket}"

[plugins.'io.containerd.cri.v1.runtime']
# Without CAP_SYS_RESOURCE the score cannot be lowered, and every pod would fail.
restrict_oom_score_adj = true
# Pod network namespaces then are mounted where nobody else has theirs.
netns_mounts_under_state_dir = true

[plugins.'io.containerd.cri.v1.runtime'.cni]
bin_dirs = {plugins:?}
conf_dir = "{cni}"

[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
options.SystemdCgroup = false
options.BinaryName = "{runc}"

[plugins.'io.containerd.cri.v1.images']
snapshotter = "overlayfs"

[plugins.'io.containerd.cri.v1.images'.pinned_images]
sandbox = "{PAUSE}"

[plugins.'io.containerd.cri.v1.images'.registry]
config_path = "{certs}"
"#,
        root = layout.data("containerd").display(),
        socket = layout.containerd_socket().display(),
        cni = layout.config("cni").display(),
        runc = layout.tool("runc").display(),
        certs = layout.config("certs.d").display(),
    )
}

/// `ptp` sends every packet between pods through the node's forward chain, where NetworkPolicies are enforced.
fn cni(addresses: &Addresses) -> String {
    json!({
        "cniVersion": "1.0.0",
        "name": "pods",
        "plugins": [
            {
                "type": "ptp",
                "ipMasq": false,
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{"subnet": addresses.pods}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": true}},
            {"type": policy::PLUGIN},
        ],
    })
    .to_string()
}

/// The node resolves the registry's name through its own hosts file.
fn hosts_toml(layout: &Layout) -> String {
    format!("server = \"https://{REGISTRY_HOST}:{REGISTRY_PORT}\"\nca = \"{}\"\n", layout.ca_cert().display())
}

/// Imports an OCI layout directory, so that pods can use the image without a registry.
pub fn import(layout: &Layout, image: &Path) -> Result<()> {
    let mut tar = Command::new("tar")
        .args(["--create", "--file=-", "--directory"])
        .arg(image)
        .args(["oci-layout", "index.json", "blobs"])
        .stdout(Stdio::piped())
        .spawn()
        .context("tar")?;
    let archive = tar.stdout.take().context("tar's output is a pipe")?;
    let mut import = node::command(layout, layout.tool("ctr"))?;
    import.arg("--address").arg(layout.containerd_socket());
    import.args(["--namespace", "k8s.io", "images", "import", "--local", "--snapshotter", "overlayfs", "-"]);
    tools::output(import.stdin(archive)).with_context(|| format!("import of {}", image.display()))?;
    ensure!(tar.wait()?.success(), "tar of {} failed", image.display());
    Ok(())
}
