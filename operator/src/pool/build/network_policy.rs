//! NetworkPolicy: nobody opens a connection to a member, and a member opens one only to DNS, to the API server and to
//! what its pool names.

use std::collections::BTreeMap;

use buildpools_crds::names;
use buildpools_crds::v1alpha1::{EgressPort, Protocol};
use ipnet::IpNet;
use k8s_openapi::api::networking::v1::{
    IPBlock, NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::super::network::{Egress, Network, Peer, host};
use super::super::validate::ValidPool;
use super::{member_selector, metadata};

const DNS_PORT: i32 = 53;

/// Both directions are restricted. `ingress` is sent as an empty list, so that the field is ours and a rule that somebody
/// adds is removed. Policies of others for the same pods can only allow more: they add up.
pub(super) fn network_policy(pool: &ValidPool) -> NetworkPolicy {
    let Network { dns, api_server, egress } = &pool.network;
    let mut rules = vec![dns_rule(dns)];
    // A rule for each port, which is one: all addresses of the API server have the same, its Service another.
    let mut by_port: BTreeMap<u16, Vec<NetworkPolicyPeer>> = BTreeMap::new();
    for address in api_server {
        by_port.entry(address.port()).or_default().push(block(host(address.ip()), &[]));
    }
    rules.extend(by_port.into_iter().map(|(number, to)| NetworkPolicyEgressRule {
        to: Some(to),
        ports: Some(vec![port(i32::from(number), None, Protocol::Tcp)]),
    }));
    rules.extend(egress.iter().map(rule));
    NetworkPolicy {
        metadata: metadata(pool, names::network_policy(&pool.name)),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(member_selector(pool)),
            policy_types: Some(vec!["Ingress".to_owned(), "Egress".to_owned()]),
            ingress: Some(Vec::new()),
            egress: Some(rules),
        }),
    }
}

/// The pods of the cluster's DNS as kubeadm, k3s, RKE2, kOps, EKS, AKS and GKE label them, and the servers that the
/// operator was told of. Port 53 only.
fn dns_rule(servers: &[IpNet]) -> NetworkPolicyEgressRule {
    let labels = |key: &str, value: &str| LabelSelector {
        match_labels: Some(BTreeMap::from([(key.to_owned(), value.to_owned())])),
        ..LabelSelector::default()
    };
    let mut to = vec![NetworkPolicyPeer {
        namespace_selector: Some(labels("kubernetes.io/metadata.name", "kube-system")),
        pod_selector: Some(labels("k8s-app", "kube-dns")),
        ip_block: None,
    }];
    to.extend(servers.iter().map(|server| block(*server, &[])));
    let ports = [Protocol::Udp, Protocol::Tcp].map(|protocol| port(DNS_PORT, None, protocol));
    NetworkPolicyEgressRule { to: Some(to), ports: Some(ports.to_vec()) }
}

fn rule(egress: &Egress) -> NetworkPolicyEgressRule {
    let to = egress.peers.iter().map(|peer| match peer {
        Peer::Block { cidr, except } => block(*cidr, except),
        Peer::Pods(pods) => NetworkPolicyPeer {
            namespace_selector: pods.namespace_selector.clone(),
            pod_selector: pods.pod_selector.clone(),
            ip_block: None,
        },
    });
    let ports = egress.ports.iter().map(|EgressPort { port: first, end_port, protocol }| {
        // Some network plugins do not know a range of one.
        port(*first, end_port.filter(|last| last != first), *protocol)
    });
    NetworkPolicyEgressRule { to: Some(to.collect()), ports: (!egress.ports.is_empty()).then(|| ports.collect()) }
}

fn block(cidr: IpNet, except: &[IpNet]) -> NetworkPolicyPeer {
    let except = except.iter().map(ToString::to_string).collect::<Vec<_>>();
    NetworkPolicyPeer {
        ip_block: Some(IPBlock { cidr: cidr.to_string(), except: (!except.is_empty()).then_some(except) }),
        ..NetworkPolicyPeer::default()
    }
}

fn port(port: i32, end_port: Option<i32>, protocol: Protocol) -> NetworkPolicyPort {
    NetworkPolicyPort { port: Some(IntOrString::Int(port)), end_port, protocol: Some(protocol.as_str().to_owned()) }
}
