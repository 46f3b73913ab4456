//! From policies to the rules of each pod. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use k8s_openapi::api::networking::v1::{NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt as _;
use kube::core::{Selector, SelectorExt as _};

use super::snapshot::{Labels, Pod, Snapshot};

/// Protocol of a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// As the API has it; TCP when absent.
    pub fn of(text: Option<&str>) -> Self {
        match text {
            Some("UDP") => Self::Udp,
            Some("SCTP") => Self::Sctp,
            _ => Self::Tcp,
        }
    }
}

/// Rules of all pods that are isolated in a direction, by address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Pods that open only these connections.
    pub egress: BTreeMap<Ipv4Addr, Vec<Rule>>,
    /// Pods that take only these connections.
    pub ingress: BTreeMap<Ipv4Addr, Vec<Rule>>,
}

/// A connection is allowed if the other end and the port are such.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The other end.
    pub peer: Peer,
    /// The port at the end that is connected to. Every port of every protocol when absent; none when empty.
    pub ports: Option<Vec<Ports>>,
}

/// The other end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// Anything.
    Any,
    /// Addresses.
    Block {
        /// All of these
        cidr: Ipv4Net,
        /// but these.
        except: Vec<Ipv4Net>,
    },
    /// Pods.
    Pods(BTreeSet<Ipv4Addr>),
}

/// A range of ports of a protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ports {
    /// The protocol.
    pub protocol: Protocol,
    /// First and last; all when absent.
    pub range: Option<(u16, u16)>,
}

/// Works out the rules.
pub fn rules(snapshot: &Snapshot) -> Rules {
    let mut all = Rules::default();
    for policy in &snapshot.policies {
        let Some(spec) = &policy.spec else { continue };
        let Some(namespace) = policy.namespace() else { continue };
        let (ingress, egress) = directions(spec);
        let applies = |pod: &&Pod| pod.namespace == namespace && selects(spec.pod_selector.as_ref(), &pod.labels);
        for pod in snapshot.pods.iter().filter(applies) {
            let Some(address) = pod.address else { continue };
            if ingress {
                all.ingress.entry(address).or_default().extend(ingress_rules(snapshot, policy, spec, pod));
            }
            if egress {
                all.egress.entry(address).or_default().extend(egress_rules(snapshot, policy, spec));
            }
        }
    }
    all
}

/// "If no policyTypes are specified on a NetworkPolicy then by default Ingress will always be set and Egress will be set
/// if the NetworkPolicy has any egress rules."
fn directions(spec: &NetworkPolicySpec) -> (bool, bool) {
    match spec.policy_types.as_deref() {
        None | Some([]) => (true, spec.egress.as_ref().is_some_and(|rules| !rules.is_empty())),
        Some(types) => {
            let has = |direction: &str| types.iter().any(|this| this == direction);
            (has("Ingress"), has("Egress"))
        }
    }
}

fn ingress_rules(snapshot: &Snapshot, policy: &NetworkPolicy, spec: &NetworkPolicySpec, of: &Pod) -> Vec<Rule> {
    let rules = spec.ingress.iter().flatten();
    rules
        .flat_map(|rule| {
            // A name is one of the pod that is connected to.
            let ports = rule.ports.as_ref().filter(|ports| !ports.is_empty()).map(|ports| resolve(ports, of));
            peers(snapshot, policy, rule.from.as_deref())
                .into_iter()
                .map(move |peer| Rule { peer, ports: ports.clone() })
        })
        .collect()
}

fn egress_rules(snapshot: &Snapshot, policy: &NetworkPolicy, spec: &NetworkPolicySpec) -> Vec<Rule> {
    let mut all = Vec::new();
    for rule in spec.egress.iter().flatten() {
        let Some(ports) = rule.ports.as_ref().filter(|ports| !ports.is_empty()) else {
            all.extend(peers(snapshot, policy, rule.to.as_deref()).into_iter().map(|peer| Rule { peer, ports: None }));
            continue;
        };
        let (named, numbered): (Vec<_>, Vec<_>) =
            ports.iter().cloned().partition(|port| matches!(port.port, Some(IntOrString::String(_))));
        for peer in peers(snapshot, policy, rule.to.as_deref()) {
            // A name may be another number in each pod that is connected to.
            if !named.is_empty() {
                let targets = snapshot.pods.iter().filter_map(|pod| Some((pod, pod.address?)));
                for (pod, address) in targets.filter(|(_, address)| peer.holds(*address)) {
                    let ports = resolve(&named, pod);
                    all.push(Rule { peer: Peer::Pods([address].into()), ports: Some(ports) });
                }
            }
            if !numbered.is_empty() {
                all.push(Rule { peer, ports: Some(resolve(&numbered, &Pod::default())) });
            }
        }
    }
    all
}

/// "If this field is empty or missing, this rule matches all".
fn peers(snapshot: &Snapshot, policy: &NetworkPolicy, peers: Option<&[NetworkPolicyPeer]>) -> Vec<Peer> {
    match peers {
        None | Some([]) => vec![Peer::Any],
        Some(peers) => peers.iter().filter_map(|peer| resolve_peer(snapshot, policy, peer)).collect(),
    }
}

fn resolve_peer(snapshot: &Snapshot, policy: &NetworkPolicy, peer: &NetworkPolicyPeer) -> Option<Peer> {
    if let Some(block) = &peer.ip_block {
        // There is no IPv6 on this node.
        let except = block.except.iter().flatten().filter_map(|part| part.parse().ok()).collect();
        return Some(Peer::Block { cidr: block.cidr.parse().ok()?, except });
    }
    let own = policy.namespace();
    let chosen = |pod: &&Pod| {
        let namespace = match &peer.namespace_selector {
            None => own.as_ref() == Some(&pod.namespace),
            some => snapshot.namespaces.get(&pod.namespace).is_some_and(|labels| selects(some.as_ref(), labels)),
        };
        namespace && selects(peer.pod_selector.as_ref(), &pod.labels)
    };
    Some(Peer::Pods(snapshot.pods.iter().filter(chosen).filter_map(|pod| pod.address).collect()))
}

/// An empty or absent selector selects all. One that cannot be understood, which the API server refuses, none.
fn selects(selector: Option<&LabelSelector>, labels: &Labels) -> bool {
    let Some(selector) = selector else { return true };
    Selector::try_from(selector.clone()).is_ok_and(|selector| selector.matches(labels))
}

fn resolve(ports: &[NetworkPolicyPort], of: &Pod) -> Vec<Ports> {
    let mut all = Vec::new();
    for port in ports {
        let protocol = Protocol::of(port.protocol.as_deref());
        match &port.port {
            None => all.push(Ports { protocol, range: None }),
            Some(IntOrString::Int(first)) => {
                let last = port.end_port.unwrap_or(*first);
                let range = u16::try_from(*first).ok().zip(u16::try_from(last).ok());
                all.extend(range.map(|range| Ports { protocol, range: Some(range) }));
            }
            Some(IntOrString::String(name)) => {
                let same = of.ports.iter().filter(|port| port.name == *name && port.protocol == protocol);
                all.extend(same.map(|port| Ports { protocol, range: Some((port.number, port.number)) }));
            }
        }
    }
    all
}

impl Peer {
    /// Whether the other end may be this address.
    pub fn holds(&self, address: Ipv4Addr) -> bool {
        match self {
            Self::Any => true,
            Self::Block { cidr, except } => {
                cidr.contains(&address) && !except.iter().any(|part| part.contains(&address))
            }
            Self::Pods(addresses) => addresses.contains(&address),
        }
    }
}

impl Rules {
    /// Whether a connection may be opened: the end that opens it must be allowed to, and the other one to take it.
    pub fn allow(&self, from: Ipv4Addr, to: Ipv4Addr, protocol: Protocol, port: u16) -> bool {
        let allowed = |rules: Option<&Vec<Rule>>, other: Ipv4Addr| {
            rules.is_none_or(|rules| rules.iter().any(|rule| rule.peer.holds(other) && rule.open(protocol, port)))
        };
        // "A Pod cannot block access to itself."
        from == to || (allowed(self.egress.get(&from), to) && allowed(self.ingress.get(&to), from))
    }
}

impl Rule {
    fn open(&self, protocol: Protocol, port: u16) -> bool {
        self.ports.as_ref().is_none_or(|ports| {
            ports.iter().any(|this| {
                this.protocol == protocol && this.range.is_none_or(|(first, last)| (first..=last).contains(&port))
            })
        })
    }
}

#[cfg(test)]
#[path = "rules_tests.rs"]
mod tests;
