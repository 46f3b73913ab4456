//! The kubelet and kube-proxy.

use std::fs;
use std::time::Duration;

use anyhow::Result;
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use serde_json::json;

use super::Layout;
use super::layout::Addresses;
use super::pki::kubeconfig_path;
use super::process::{self, Process, wait_until};

/// Starts both.
pub fn start(layout: &Layout, addresses: &Addresses) -> Result<Vec<Process>> {
    let kubelet = layout.config("kubelet.yaml");
    fs::write(&kubelet, kubelet_config(layout, addresses))?;
    let proxy = layout.config("kube-proxy.yaml");
    fs::write(&proxy, proxy_config(layout, addresses))?;
    let kubelet = [
        format!("--config={}", kubelet.display()),
        format!("--kubeconfig={}", kubeconfig_path(layout, "kubelet").display()),
        format!("--cert-dir={}", layout.dir.join("pki/kubelet").display()),
        format!("--hostname-override={}", layout.name),
        format!("--node-ip={}", addresses.node),
    ];
    let proxy = [format!("--config={}", proxy.display())];
    Ok(vec![
        process::start(layout, "kubelet", &layout.tool("kubelet"), &kubelet)?,
        process::start(layout, "kube-proxy", &layout.tool("kube-proxy"), &proxy)?,
    ])
}

/// Waits until the node takes pods.
pub async fn wait(layout: &Layout, client: &kube::Client, processes: &[Process]) -> Result<()> {
    let nodes: Api<Node> = Api::all(client.clone());
    let processes: Vec<_> = processes.iter().collect();
    let ready = async || Ok(takes_pods(&nodes.get(&layout.name).await?));
    wait_until("the node", Duration::from_secs(90), &processes, ready).await
}

/// Ready, and the controller has noticed.
pub fn takes_pods(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    let ready =
        conditions.into_iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True");
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
    ready && taints.is_none_or(Vec::is_empty)
}

fn kubelet_config(layout: &Layout, addresses: &Addresses) -> String {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true},
            "x509": {"clientCAFile": layout.pki("ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "containerRuntimeEndpoint": format!("unix://{}", layout.containerd_socket().display()),
        "cgroupDriver": "cgroupfs",
        // All pods are below the cluster's group, where the teardown finds them.
        "cgroupRoot": format!("/{}", layout.cgroup()),
        "failCgroupV1": false,
        "failSwapOn": false,
        "clusterDNS": [addresses.dns_service],
        "clusterDomain": "cluster.local",
        "resolvConf": "/etc/resolv.conf",
        "podLogsDir": layout.dir.join("logs/pods"),
        "volumePluginDir": "/var/lib/kubelet/volume-plugins",
        // An imported image that is also pulled under another name would count as pulled, and be refused under the first.
        "imagePullCredentialsVerificationPolicy": "NeverVerify",
        "maxPods": 250,
        // What a fork bomb meets; no test needs as many.
        "podPidsLimit": 4096,
        // The machine's disk is shared with everything else on it; 1 % is the least that the kubelet takes.
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        // Never: an image that is collected is gone, because none can be pulled again.
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "nodeStatusUpdateFrequency": "5s",
        "shutdownGracePeriod": "0s",
    })
    .to_string()
}

fn proxy_config(layout: &Layout, addresses: &Addresses) -> String {
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "bindAddress": addresses.node,
        "healthzBindAddress": "127.0.0.1:10256",
        "metricsBindAddress": "127.0.0.1:10249",
        "clusterCIDR": addresses.pods,
        "hostnameOverride": layout.name,
        "clientConnection": {"kubeconfig": kubeconfig_path(layout, "kube-proxy")},
        // The connection tracking table is the whole machine's.
        "conntrack": {"maxPerCore": 0, "min": 0},
    })
    .to_string()
}
