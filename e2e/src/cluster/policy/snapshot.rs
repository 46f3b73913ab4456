//! What the watches say, as far as it matters.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1::{Container, Namespace, Pod as ApiPod};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::ResourceExt as _;

use super::rules::Protocol;

/// Labels of an object.
pub type Labels = BTreeMap<String, String>;

/// Everything at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Labels of each namespace.
    pub namespaces: BTreeMap<String, Labels>,
    /// Pods with an address of their own.
    pub pods: Vec<Pod>,
    /// All policies.
    pub policies: Vec<NetworkPolicy>,
}

/// A pod with an address of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: Labels,
    /// Its addresses, of which there is one on this node.
    pub address: Option<Ipv4Addr>,
    /// Its named ports.
    pub ports: Vec<NamedPort>,
}

/// A named port of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedPort {
    /// Its name.
    pub name: String,
    /// Its number.
    pub number: u16,
    /// Its protocol.
    pub protocol: Protocol,
}

impl Snapshot {
    /// From objects. `starting` has the addresses of pods, by their UID, whose status does not have it yet.
    pub fn of<'a>(
        namespaces: impl IntoIterator<Item = &'a Namespace>,
        pods: impl IntoIterator<Item = &'a ApiPod>,
        policies: impl IntoIterator<Item = &'a NetworkPolicy>,
        starting: &BTreeMap<String, Ipv4Addr>,
    ) -> Self {
        let mut pods: Vec<_> = pods.into_iter().filter_map(|pod| Pod::of(pod, starting)).collect();
        pods.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        let mut policies: Vec<_> = policies.into_iter().cloned().collect();
        policies.sort_by_key(|policy| (policy.namespace(), policy.name_any()));
        Self {
            namespaces: namespaces.into_iter().map(|ns| (ns.name_any(), ns.labels().clone())).collect(),
            pods,
            policies,
        }
    }
}

impl Pod {
    /// `None` for a pod of the host's network, and for one that has ended: its address may be another pod's by now.
    fn of(pod: &ApiPod, starting: &BTreeMap<String, Ipv4Addr>) -> Option<Self> {
        let spec = pod.spec.as_ref()?;
        let status = pod.status.clone().unwrap_or_default();
        let ended = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
        if ended || spec.host_network == Some(true) {
            return None;
        }
        let started = pod.uid().and_then(|uid| starting.get(&uid).copied());
        let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
        Some(Self {
            namespace: pod.namespace()?,
            name: pod.name_any(),
            labels: pod.labels().clone(),
            // A sandbox that was made anew has another address than the status says.
            address: started.or_else(|| status.pod_ip?.parse().ok()),
            ports: containers.flat_map(named_ports).collect(),
        })
    }
}

fn named_ports(container: &Container) -> impl Iterator<Item = NamedPort> {
    container.ports.iter().flatten().filter_map(|port| {
        Some(NamedPort {
            name: port.name.clone()?,
            number: u16::try_from(port.container_port).ok()?,
            protocol: Protocol::of(port.protocol.as_deref()),
        })
    })
}
