//! The node's network namespace and its connection to the host.
//!
//! One pair of virtual interfaces joins the two; there is no default route in the node, so nothing of a cluster reaches
//! any other network, and a pod that tries is refused at once instead of waiting for a time-out.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use super::Layout;
use super::layout::Addresses;
use super::tools::output;

/// Where `ip netns` keeps the namespace.
pub fn path(layout: &Layout) -> PathBuf {
    PathBuf::from("/run/netns").join(layout.netns())
}

/// The host's addresses, to stay clear of them.
pub fn host_addresses() -> Result<String> {
    ip(["-oneline", "-4", "address", "show"])
}

/// Makes the namespace, the pair of interfaces and the host's route to the cluster.
pub fn create(layout: &Layout, addresses: &Addresses) -> Result<()> {
    let (netns, interface) = (layout.netns(), layout.host_interface());
    let Addresses { host, node, node_prefix, all, services, .. } = addresses;
    ip(["netns", "add", &netns])?;
    ip(["link", "add", &interface, "type", "veth", "peer", "name", "eth0", "netns", &netns])?;
    ip(["address", "add", &format!("{host}/{node_prefix}"), "dev", &interface])?;
    ip(["link", "set", &interface, "up"])?;
    ip(["-n", &netns, "address", "add", &format!("{node}/{node_prefix}"), "dev", "eth0"])?;
    ip(["-n", &netns, "link", "set", "lo", "up"])?;
    ip(["-n", &netns, "link", "set", "eth0", "up"])?;
    // Pods and services, as seen from the host.
    ip(["route", "add", all, "via", &node.to_string()])?;
    // Services, as seen from the node itself: kube-proxy rewrites the destination, after a route was found.
    ip(["-n", &netns, "route", "add", services, "dev", "eth0"])?;
    Ok(())
}

/// Removes what is there of it.
pub fn destroy(layout: &Layout) -> Result<()> {
    let interface = layout.host_interface();
    if PathBuf::from("/sys/class/net").join(&interface).exists() {
        // Its address, its route and the node's end go with it.
        ip(["link", "delete", &interface])?;
    }
    if path(layout).exists() {
        ip(["netns", "delete", &layout.netns()])?;
    }
    Ok(())
}

fn ip<const N: usize>(arguments: [&str; N]) -> Result<String> {
    output(Command::new("ip").args(arguments))
}
