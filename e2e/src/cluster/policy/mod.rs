//! NetworkPolicies of the test node, enforced with nftables.
//!
//! The network plugin `ptp` routes every packet of a pod through the node, so rules in the node's `forward` and `input`
//! chains see all of them. A process of the node watches NetworkPolicies, Pods and Namespaces, works out who may talk to
//! whom, and loads that as one table, all at once.
//!
//! | module | concern |
//! |---|---|
//! | [`snapshot`] | what the watches say, as far as it matters |
//! | [`rules`] | from policies to rules of each pod, as one pure function, and what they say of a connection |
//! | [`nft`] | the rules in nft's language |
//! | [`enforcer`] | the process: watches, loads, and lets new pods wait |
//! | [`plugin`] | the network plugin that makes a new pod wait |
//!
//! The semantics are those of <https://kubernetes.io/docs/concepts/services-networking/network-policies/>. Where that
//! leaves a choice, or we differ:
//!
//! - A connection that is not allowed is refused (ICMP "administratively prohibited") instead of being lost, so that a
//!   test tells it at once from a server that does not answer.
//! - A pod may be reached by its node always, but it reaches its node only if its policies let it. By the documentation
//!   that is always allowed; on a node that bears everything, a policy that forgot something would not be noticed.
//! - A new pod gets its network when its rules are loaded: there is no moment in which it is open. Real plugins do not
//!   all promise that.
//! - Addresses and ports are compared after those of Services were translated.
//! - A pod of the host's network is the node.
//! - A connection that was open when a policy forbids it stays open.

pub mod enforcer;
pub mod nft;
pub mod plugin;
pub mod rules;
pub mod snapshot;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use anyhow::Result;

use super::Layout;
use super::node::target_directory;
use super::pki::kubeconfig_path;
use super::process::{self, Process};
use super::storage::apply;

/// Name of the network plugin that makes new pods wait.
pub const PLUGIN: &str = "network-policy";
const MANIFEST: &str = include_str!("../manifests/network-policy.yaml");

fn socket(layout: &Layout) -> PathBuf {
    layout.run("network-policy.sock")
}

/// Starts the process.
pub fn start(layout: &Layout) -> Result<Process> {
    apply(layout, MANIFEST)?;
    let arguments = [
        "network-policy".to_owned(),
        format!("--kubeconfig={}", kubeconfig_path(layout, "network-policy").display()),
        format!("--socket={}", socket(layout).display()),
    ];
    process::start(layout, "network-policy", &target_directory().join("fixtures"), &arguments)
}

/// Makes the network plugin and returns its directory.
pub fn install_plugin(layout: &Layout) -> Result<PathBuf> {
    let directory = layout.config("cni-bin");
    fs::create_dir_all(&directory)?;
    let program = directory.join(PLUGIN);
    let fixtures = target_directory().join("fixtures");
    let script =
        format!("#!/bin/sh\nexec '{}' network-plugin --socket='{}'\n", fixtures.display(), socket(layout).display());
    fs::write(&program, script)?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    Ok(directory)
}
