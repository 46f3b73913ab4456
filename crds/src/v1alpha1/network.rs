//! Where the members of a pool may connect to.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::shared::selector_schema;

/// Network of a pool's members. Nobody may open a connection to a member, and a member may open one only to the
/// cluster's DNS, to the API server and to what is listed here. The cluster's network plugin enforces it
/// (NetworkPolicy).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct NetworkSettings {
    /// Destinations of the members, hence of all builds in them: registries, git servers, mirrors of packages. The
    /// public Internet when absent; nothing but DNS and API server when empty. A change takes effect at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub egress: Option<Vec<EgressRule>>,
}

impl NetworkSettings {
    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// A destination: exactly one of `internet`, `cidr` and `to`. Addresses where clouds hand out the credentials of their
/// machines are excepted from all of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.internet), has(self.cidr), has(self.to)].filter(given, given).size() == 1").message("exactly one of internet, cidr and to must be given"))]
#[x_kube(validation = Rule::new("!has(self.except) || self.except.size() == 0 || has(self.cidr)").message("except belongs to cidr: give cidr, or remove except"))]
#[x_kube(validation = Rule::new("!has(self.except) || !has(self.cidr) || !isCIDR(self.cidr) || self.except.all(part, !isCIDR(part) || (cidr(self.cidr).containsCIDR(part) && cidr(part).prefixLength() > cidr(self.cidr).prefixLength()))").message("each network of except must lie in cidr and be smaller"))]
#[x_kube(validation = Rule::new("!has(self.cidr) || !isCIDR(self.cidr) || !['169.254.0.0/16', '168.63.129.16/32', '100.100.100.200/32', '192.0.0.192/32', 'fe80::/10', 'fd00:ec2::/32', 'fd20:ce::254/128', 'fd00:42::42/128', 'fd00:a9fe:a9fe::1/128', 'fd00:c1::a9fe:a9fe/128', 'fd00:100::100:200/128'].exists(metadata, cidr(metadata).containsCIDR(self.cidr))").message("cidr holds nothing but addresses where the cloud hands out the credentials of its machines, which no build may reach: remove it"))]
pub struct EgressRule {
    /// All public addresses: no private, link-local or otherwise special network. Written `internet: {}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub internet: Option<Internet>,

    /// A network in CIDR notation, IPv4 or IPv6: `203.0.113.0/24`, or `203.0.113.7/32` for a single address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 43))]
    #[x_kube(validation = Rule::new("isCIDR(self) && cidr(self) == cidr(self).masked()").message("must be a network in CIDR notation without bits after the prefix, for example 203.0.113.0/24 or 203.0.113.7/32"))]
    pub cidr: Option<String>,

    /// Parts of `cidr` that are not meant.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 43)))]
    #[x_kube(validation = Rule::new("self.all(part, isCIDR(part) && cidr(part) == cidr(part).masked())").message("must be networks in CIDR notation without bits after the prefix, for example 203.0.113.0/28"))]
    pub except: Vec<String>,

    /// Pods of the cluster, such as a registry or a mirror that runs in it. Members of other pools are never reached:
    /// they take no connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<EgressPods>,

    /// Ports there. All ports of all protocols when empty. Network plugins compare the port of the pod, not that of a
    /// Service in front of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub ports: Vec<EgressPort>,
}

/// All public addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Internet {}

/// Pods of the cluster, by their labels and those of their namespaces.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.namespaceSelector) || has(self.podSelector)").message("namespaceSelector or podSelector must be given: {} selects all"))]
pub struct EgressPods {
    /// Namespaces of the pods; `{}` means all. The pool's own namespace when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "selector_schema")]
    pub namespace_selector: Option<LabelSelector>,

    /// The pods in those namespaces. All of them when absent or `{}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "selector_schema")]
    pub pod_selector: Option<LabelSelector>,
}

/// A port, or a range of ports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.endPort) || self.endPort >= self.port").message("endPort must not be less than port"))]
pub struct EgressPort {
    /// The port, or the first one of a range.
    #[schemars(range(min = 1, max = 65535))]
    pub port: i32,

    /// The last port of a range. `port` alone when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub end_port: Option<i32>,

    /// Protocol above IP.
    #[serde(default)]
    pub protocol: Protocol,
}

/// Protocol above IP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Protocol {
    /// TCP.
    #[default]
    #[serde(rename = "TCP")]
    Tcp,
    /// UDP.
    #[serde(rename = "UDP")]
    Udp,
    /// SCTP.
    #[serde(rename = "SCTP")]
    Sctp,
}

impl Protocol {
    /// As Kubernetes writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        }
    }
}
