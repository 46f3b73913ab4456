//! The node's mount namespace, held by one process that does nothing else.
//!
//! All node processes share it. Their mounts (container root file systems, volumes, pod network namespaces) never appear
//! on the host and vanish with the last process, and the well-known directories that Kubernetes insists on
//! (`/run`, `/var/lib/kubelet`, `/var/log/containers`, …) are the cluster's own. `node.sh` sets it up.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use super::cgroup::Group;
use super::layout::{Addresses, GIT_HOST, Layout, REGISTRY_HOST};
use super::process::{self, Process, wait_until};
use super::{layout, network};

/// Name of the process that holds the namespace.
pub const HOLDER: &str = "node";

const SETUP: &str = include_str!("node.sh");

/// Makes the namespace.
pub async fn create(layout: &Layout, addresses: &Addresses, group: &Group) -> Result<Process> {
    let Layout { name, dir, cache } = layout;
    let node = addresses.node;
    fs::write(
        layout.config("hosts"),
        format!("127.0.0.1 localhost\n{node} {name}\n{node} {REGISTRY_HOST} {GIT_HOST}\n"),
    )?;
    fs::write(layout.config("resolv.conf"), format!("nameserver {node}\n"))?;
    let script = layout.config("node.sh");
    fs::write(&script, SETUP)?;
    let mut command = Command::new("setsid");
    command.arg("nsenter").arg(format!("--net={}", network::path(layout).display()));
    command.args(["unshare", "--mount", "--propagation", "private", "sh"]).arg(&script);
    command.args([&group.node_procs(), dir, dir]);
    // What the node's processes need besides the cluster's directory, should it lie where the node has its own files.
    command.args([cache, &target_directory(), &layout::repository().to_owned()]);
    let process = process::spawn(layout, HOLDER, &mut command)?;
    let ready = layout.run("node.ready");
    wait_until("the node's namespaces", Duration::from_secs(10), &[&process], async || Ok(ready.exists())).await?;
    Ok(process)
}

/// Where cargo put the running program, and with it the test servers.
pub fn target_directory() -> PathBuf {
    let target = std::env::current_exe().ok().and_then(|program| {
        // `target/debug/cluster`, or `target/debug/deps/test-…`.
        program.ancestors().find(|path| path.ends_with("debug") || path.ends_with("release")).map(PathBuf::from)
    });
    target.unwrap_or_else(|| layout::repository().join("target/debug"))
}

/// A command that runs `program` in the node's namespaces; the caller adds its arguments.
pub fn command(layout: &Layout, program: impl AsRef<std::ffi::OsStr>) -> Result<Command> {
    let holder = Process::load(layout, HOLDER)?;
    let mut command = Command::new("nsenter");
    command
        .arg(format!("--net={}", network::path(layout).display()))
        .arg(format!("--mount=/proc/{}/ns/mnt", holder.pid))
        .args(["--wd=/", "--"])
        .arg(program)
        .env("PATH", layout.search_path())
        .env("KUBECONFIG", layout.kubeconfig());
    Ok(command)
}
