//! Where members may connect to: what `spec.network.egress` means, with what is never reached taken out. Pure.

use std::net::{IpAddr, SocketAddr};

use buildpools_crds::v1alpha1::{EgressPods, EgressPort, EgressRule, NetworkSettings};
use ipnet::IpNet;
use k8s_openapi::api::discovery::v1::EndpointSlice;

use super::problem::Problem;

/// Where clouds hand out the credentials of a machine to whoever asks from it. Also in the CEL rule of
/// `spec.network.egress[].cidr`.
///
/// - Link-local addresses: 169.254.169.254 of AWS, Azure, Google, OpenStack and others; 169.254.170.2 and .23 of ECS and
///   EKS; fe80::a9fe:a9fe of OpenStack.
/// - 168.63.129.16, Azure's WireServer; 100.100.100.200, Alibaba; 192.0.0.192, Oracle.
/// - fd00:ec2::254 and ::23, AWS; fd20:ce::254, Google; fd00:42::42, Scaleway; fd00:a9fe:a9fe::1, Akamai;
///   fd00:c1::a9fe:a9fe, Oracle; fd00:100::100:200, Alibaba.
pub const METADATA: [&str; 11] = [
    "169.254.0.0/16",
    "168.63.129.16/32",
    "100.100.100.200/32",
    "192.0.0.192/32",
    "fe80::/10",
    "fd00:ec2::/32",
    "fd20:ce::254/128",
    "fd00:42::42/128",
    "fd00:a9fe:a9fe::1/128",
    "fd00:c1::a9fe:a9fe/128",
    "fd00:100::100:200/128",
];

/// The public Internet: of IPv4 all but the networks that are not reachable globally
/// (<https://www.iana.org/assignments/iana-ipv4-special-registry>), of IPv6 the part that is given out.
const INTERNET: [(&str, &[&str]); 2] = [
    (
        "0.0.0.0/0",
        &[
            "0.0.0.0/8",
            "10.0.0.0/8",
            "100.64.0.0/10",
            "127.0.0.0/8",
            "169.254.0.0/16",
            "172.16.0.0/12",
            "192.0.0.0/24",
            "192.168.0.0/16",
            "198.18.0.0/15",
            "224.0.0.0/3",
        ],
    ),
    ("2000::/3", &[]),
];

/// What the cluster needs of a member's network, whatever the pool says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterNetwork {
    /// DNS servers that are not the pods `k8s-app: kube-dns` in `kube-system`.
    pub dns: Vec<IpNet>,
    /// The API server's Service, as the operator's own pod is told of it. Some network plugins compare the address
    /// before it is translated.
    pub api_service: Option<SocketAddr>,
}

/// Destinations of a member.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Network {
    /// DNS servers beside the cluster's own.
    pub dns: Vec<IpNet>,
    /// Addresses of the API server.
    pub api_server: Vec<SocketAddr>,
    /// What the pool allows.
    pub egress: Vec<Egress>,
}

/// Peers and ports that belong together.
#[derive(Clone, Debug, PartialEq)]
pub struct Egress {
    /// Who.
    pub peers: Vec<Peer>,
    /// Where; all ports when empty.
    pub ports: Vec<EgressPort>,
}

/// Who may be connected to.
#[derive(Clone, Debug, PartialEq)]
pub enum Peer {
    /// Addresses.
    Block {
        /// All of these
        cidr: IpNet,
        /// but these.
        except: Vec<IpNet>,
    },
    /// Pods.
    Pods(EgressPods),
}

/// What a pool's members may connect to. Adds what stands in the way.
pub(super) fn network(
    spec: &NetworkSettings,
    cluster: &ClusterNetwork,
    api_server: &[SocketAddr],
    problems: &mut Vec<Problem>,
) -> Network {
    if api_server.is_empty() {
        problems.push(Problem::ApiServerUnknown);
    }
    let mut addresses = api_server.to_vec();
    addresses.extend(cluster.api_service);
    addresses.sort_unstable();
    addresses.dedup();
    let egress = match &spec.egress {
        None => vec![Egress { peers: internet(), ports: Vec::new() }],
        Some(rules) => rules.iter().enumerate().filter_map(|(index, rule)| egress(index, rule, problems)).collect(),
    };
    Network { dns: cluster.dns.clone(), api_server: addresses, egress }
}

fn internet() -> Vec<Peer> {
    INTERNET.iter().filter_map(|(cidr, except)| block(cidr, except.iter().copied())).collect()
}

fn egress(index: usize, rule: &EgressRule, problems: &mut Vec<Problem>) -> Option<Egress> {
    let peers = if let Some(cidr) = &rule.cidr {
        // The schema has refused what cannot be meant; a CIDR that our library reads otherwise must not open anything.
        let Some(block) = block(cidr, rule.except.iter().map(String::as_str)) else {
            problems.push(Problem::EgressInvalid { index, cidr: cidr.clone() });
            return None;
        };
        vec![block]
    } else if let Some(pods) = &rule.to {
        vec![Peer::Pods(pods.clone())]
    } else {
        internet()
    };
    Some(Egress { peers, ports: rule.ports.clone() })
}

/// A network without what is never reached. `None` when nothing remains, or a part is no network.
fn block<'a>(cidr: &str, except: impl Iterator<Item = &'a str>) -> Option<Peer> {
    let cidr: IpNet = cidr.parse().ok()?;
    let mut except = except.map(str::parse).collect::<Result<Vec<IpNet>, _>>().ok()?;
    for metadata in METADATA.iter().filter_map(|network| network.parse::<IpNet>().ok()) {
        if metadata.contains(&cidr) {
            return None;
        }
        if cidr.contains(&metadata) && !except.iter().any(|part| part.contains(&metadata)) {
            except.push(metadata);
        }
    }
    Some(Peer::Block { cidr, except })
}

/// The addresses that the EndpointSlice `kubernetes` in namespace `default` names. API servers keep it themselves; the
/// addresses are those behind the Service, which most network plugins compare.
pub(super) fn api_server(slice: &EndpointSlice) -> Vec<SocketAddr> {
    let ports = slice.ports.iter().flatten().filter_map(|port| u16::try_from(port.port?).ok());
    let addresses = || slice.endpoints.iter().flat_map(|endpoint| &endpoint.addresses);
    ports.flat_map(|port| addresses().filter_map(move |text| Some(SocketAddr::new(text.parse().ok()?, port)))).collect()
}

/// The network that is this address alone.
pub(super) fn host(address: IpAddr) -> IpNet {
    IpNet::from(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_never_reached_is_refused_by_the_schema_too() {
        let rules = serde_json::to_string(&buildpools_crds::crd::all()).unwrap();
        for network in METADATA {
            assert!(rules.contains(&format!("'{network}'")), "the rule of EgressRule does not name {network}");
        }
    }

    #[test]
    fn constants_are_networks() {
        let parsed = |text: &str| text.parse::<IpNet>().unwrap();
        for network in METADATA {
            assert_eq!(parsed(network).trunc(), parsed(network));
        }
        for (cidr, except) in INTERNET {
            assert!(except.iter().all(|part| parsed(cidr).contains(&parsed(part))));
        }
        assert_eq!(internet().len(), INTERNET.len());
    }

    #[test]
    fn metadata_is_taken_out_of_every_network_that_holds_it() {
        let except = |cidr: &str, except: &[&str]| match block(cidr, except.iter().copied()) {
            Some(Peer::Block { except, .. }) => Some(except.iter().map(ToString::to_string).collect::<Vec<_>>()),
            _ => None,
        };
        assert_eq!(except("10.0.0.0/8", &["10.1.0.0/16"]).unwrap(), ["10.1.0.0/16"]);
        assert_eq!(except("0.0.0.0/0", &[]).unwrap(), METADATA[..4]);
        assert_eq!(except("0.0.0.0/0", &["128.0.0.0/1"]).unwrap(), ["128.0.0.0/1", "100.100.100.200/32"]);
        assert_eq!(except("fd00::/8", &[]).unwrap(), METADATA[5..]);
        assert_eq!(except("fd00:42::/32", &[]).unwrap(), ["fd00:42::42/128"]);
        assert_eq!(except("fd00:c1::a9fe:a9fe/128", &[]), None);
        assert_eq!(except("169.254.169.254/32", &[]), None);
        assert_eq!(except("169.254.0.0/16", &[]), None);
        assert_eq!(except("10.0.0.0", &[]), None, "no network");
        assert_eq!(except("10.0.0.0/8", &["x"]), None, "an exception that is not understood must not be left out");
    }
}
