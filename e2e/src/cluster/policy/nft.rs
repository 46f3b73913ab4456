//! The rules in nft's language.

use std::fmt::{self, Write as _};
use std::net::Ipv4Addr;
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use ipnet::Ipv4Net;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use super::rules::{Peer, Ports, Protocol, Rule, Rules};

const TABLE: &str = "network_policy";

/// The whole table. It replaces the one that is there, at once: packets see the old or the new one.
pub fn render(rules: &Rules) -> String {
    let mut text = format!("table inet {TABLE} {{}}\ndelete table inet {TABLE}\ntable inet {TABLE} {{\n");
    // Writing to a String cannot fail.
    let _ = chains(&mut text, rules);
    text.push_str("}\n");
    text
}

fn chains(text: &mut String, rules: &Rules) -> fmt::Result {
    for (address, rules) in &rules.egress {
        chain(text, "egress", "daddr", *address, rules)?;
    }
    for (address, rules) in &rules.ingress {
        chain(text, "ingress", "saddr", *address, rules)?;
    }
    // From a pod: with its own address only, and not by IPv6, which the cluster does not have but interfaces do.
    let own_address =
        "\t\tiifname \"veth*\" meta nfproto ipv6 drop\n\t\tiifname \"veth*\" fib saddr . iif oif 0 drop\n";
    let open = "\t\tct state established,related accept\n";
    let out = jumps("saddr", "egress", rules.egress.keys());
    let into = jumps("daddr", "ingress", rules.ingress.keys());
    // After kube-proxy has put a pod in the place of a Service.
    writeln!(text, "\tchain forward {{\n\t\ttype filter hook forward priority filter; policy accept;")?;
    writeln!(text, "{own_address}{open}{out}{into}\t}}")?;
    // From a pod to its node. What the node itself opens is never stopped: the kubelet reaches every pod.
    writeln!(text, "\tchain input {{\n\t\ttype filter hook input priority filter; policy accept;")?;
    writeln!(text, "{own_address}{open}{out}\t}}")
}

fn jumps<'a>(field: &str, direction: &str, addresses: impl Iterator<Item = &'a Ipv4Addr>) -> String {
    let elements: Vec<_> = addresses.map(|address| format!("{address} : jump {}", name(direction, *address))).collect();
    if elements.is_empty() {
        return String::new();
    }
    format!("\t\tip {field} vmap {{ {} }}\n", elements.join(", "))
}

fn name(direction: &str, address: Ipv4Addr) -> String {
    format!("{direction}_{}", address.to_string().replace('.', "_"))
}

/// A chain that is returned from when the connection is allowed: the other end has a word in it too.
fn chain(text: &mut String, direction: &str, field: &str, of: Ipv4Addr, rules: &[Rule]) -> fmt::Result {
    writeln!(text, "\tchain {} {{\n\t\tip {field} {of} return", name(direction, of))?;
    for rule in rules {
        let Some(peer) = peer(field, &rule.peer) else { continue };
        match &rule.ports {
            None => writeln!(text, "\t\t{peer}return")?,
            Some(ports) => ports.iter().try_for_each(|ports| writeln!(text, "\t\t{peer}{}return", port(ports)))?,
        }
    }
    writeln!(text, "\t\treject with icmpx admin-prohibited\n\t}}")
}

/// `None` when nothing is meant.
fn peer(field: &str, peer: &Peer) -> Option<String> {
    let list = |parts: Vec<String>| parts.join(", ");
    match peer {
        Peer::Any => Some(String::new()),
        Peer::Block { cidr, except } if except.is_empty() => Some(format!("ip {field} {cidr} ")),
        Peer::Block { cidr, except } => {
            let except: Vec<Ipv4Net> = Ipv4Net::aggregate(except);
            let except = list(except.iter().map(ToString::to_string).collect());
            Some(format!("ip {field} {cidr} ip {field} != {{ {except} }} "))
        }
        Peer::Pods(addresses) if addresses.is_empty() => None,
        Peer::Pods(addresses) => {
            Some(format!("ip {field} {{ {} }} ", list(addresses.iter().map(ToString::to_string).collect())))
        }
    }
}

fn port(ports: &Ports) -> String {
    let protocol = match ports.protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Sctp => "sctp",
    };
    match ports.range {
        None => format!("meta l4proto {protocol} "),
        Some((first, last)) if first == last => format!("{protocol} dport {first} "),
        Some((first, last)) => format!("{protocol} dport {first}-{last} "),
    }
}

/// Loads the text into the kernel.
///
/// # Errors
/// When nft refuses it; then what was there stays.
pub async fn load(text: &str) -> Result<()> {
    let mut nft = Command::new("nft");
    nft.args(["-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut nft = nft.spawn().context("nft")?;
    let mut input = nft.stdin.take().context("nft's input is a pipe")?;
    input.write_all(text.as_bytes()).await?;
    drop(input);
    let output = nft.wait_with_output().await?;
    ensure!(output.status.success(), "nft: {}\n{text}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table() {
        let pod = Ipv4Addr::new(198, 18, 16, 2);
        let block = Peer::Block {
            cidr: "10.0.0.0/8".parse().unwrap(),
            except: vec!["10.1.0.0/24".parse().unwrap(), "10.1.0.0/16".parse().unwrap()],
        };
        let tcp = |range| Ports { protocol: Protocol::Tcp, range };
        let rules = Rules {
            egress: [(
                pod,
                vec![
                    Rule { peer: block, ports: Some(vec![tcp(Some((80, 80))), tcp(Some((8000, 8100)))]) },
                    Rule { peer: Peer::Pods([Ipv4Addr::new(198, 18, 16, 3)].into()), ports: None },
                    Rule { peer: Peer::Pods([].into()), ports: None },
                    Rule { peer: Peer::Any, ports: Some(vec![Ports { protocol: Protocol::Udp, range: None }]) },
                    Rule { peer: Peer::Any, ports: Some(Vec::new()) },
                ],
            )]
            .into(),
            ingress: [(pod, Vec::new())].into(),
        };
        let text = render(&rules);
        let egress = "\tchain egress_198_18_16_2 {\n\t\tip daddr 198.18.16.2 return\n\
            \t\tip daddr 10.0.0.0/8 ip daddr != { 10.1.0.0/16 } tcp dport 80 return\n\
            \t\tip daddr 10.0.0.0/8 ip daddr != { 10.1.0.0/16 } tcp dport 8000-8100 return\n\
            \t\tip daddr { 198.18.16.3 } return\n\
            \t\tmeta l4proto udp return\n\
            \t\treject with icmpx admin-prohibited\n\t}\n";
        assert!(text.contains(egress), "{text}");
        let ingress = "\tchain ingress_198_18_16_2 {\n\t\tip saddr 198.18.16.2 return\n\t\treject with icmpx admin-prohibited\n\t}\n";
        assert!(text.contains(ingress), "{text}");
        assert!(text.contains("\t\tip daddr vmap { 198.18.16.2 : jump ingress_198_18_16_2 }\n"), "{text}");
        assert!(!render(&Rules::default()).contains("vmap"), "an empty map is none of nft's language");
    }
}
