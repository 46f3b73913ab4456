//! CoreDNS as a node process, behind the cluster's DNS service.

use std::fs;
use std::time::Duration;

use anyhow::Result;
use tokio::net::TcpStream;

use super::layout::{Addresses, GIT_HOST, Layout, REGISTRY_HOST};
use super::pki::kubeconfig_path;
use super::process::{self, Process, wait_until};
use super::storage::apply;

const MANIFEST: &str = include_str!("manifests/dns.yaml");

/// Starts CoreDNS; it serves once it has read the API.
pub fn start(layout: &Layout, addresses: &Addresses) -> Result<Process> {
    let config = layout.config("Corefile");
    fs::write(&config, corefile(layout, addresses))?;
    process::start(layout, "coredns", &layout.tool("coredns"), [format!("-conf={}", config.display())])
}

/// Makes the service that pods ask, and waits until it has somebody to ask.
pub async fn serve(layout: &Layout, addresses: &Addresses, process: &Process) -> Result<()> {
    let manifest =
        MANIFEST.replace("NODE_IP", &addresses.node.to_string()).replace("DNS_IP", &addresses.dns_service.to_string());
    apply(layout, &manifest)?;
    let answers = async || Ok(TcpStream::connect((addresses.node, 53)).await.is_ok());
    wait_until("CoreDNS", Duration::from_secs(30), &[process], answers).await
}

/// There is no other DNS: what is not known here does not exist, and is said not to exist at once.
fn corefile(layout: &Layout, addresses: &Addresses) -> String {
    let node = addresses.node;
    let kubeconfig = kubeconfig_path(layout, "coredns").display().to_string();
    // One block for each zone, as within a block the order of the plugins is fixed: `template` would come first.
    format!(
        "cluster.local:53 in-addr.arpa:53 {{
    bind {node}
    errors
    kubernetes cluster.local in-addr.arpa {{
        kubeconfig {kubeconfig}
        pods insecure
        ttl 5
    }}
}}
{REGISTRY_HOST}:53 {GIT_HOST}:53 {{
    bind {node}
    errors
    hosts {{
        {node} {REGISTRY_HOST} {GIT_HOST}
    }}
}}
.:53 {{
    bind {node}
    errors
    template ANY ANY . {{
        rcode NXDOMAIN
    }}
}}
"
    )
}
