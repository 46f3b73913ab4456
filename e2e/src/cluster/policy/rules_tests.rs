//! The semantics, sentence by sentence, as
//! <https://kubernetes.io/docs/concepts/services-networking/network-policies/> has them.

use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1::{Namespace, Pod as ApiPod};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use serde_json::{Value, from_value, json};

use super::super::snapshot::Snapshot;
use super::{Protocol, Rules, rules};

const OUTSIDE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 7);

fn address(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(198, 18, 16, last)
}

/// Namespace `default` has `db` (1; port 6379 is named redis), `frontend` (2), `other` (3); namespace `myproject`, with
/// the label project=myproject, `frontend` (4) and `plain` (5); namespace `stranger`, without labels, `frontend` (6).
fn rules_of(policies: &[Value]) -> Rules {
    let pod = |namespace: &str, name: &str, role: &str, last: u8, more: Value| -> ApiPod {
        let mut spec = json!({"containers": [{"name": "c"}]});
        spec["containers"][0]["ports"] = more;
        from_value(json!({
            "metadata": {"namespace": namespace, "name": name, "uid": name, "labels": {"role": role}},
            "spec": spec, "status": {"phase": "Running", "podIP": address(last)},
        }))
        .unwrap()
    };
    let redis =
        json!([{"name": "redis", "containerPort": 6379}, {"name": "dns", "containerPort": 53, "protocol": "UDP"}]);
    let pods = [
        pod("default", "db", "db", 1, redis),
        pod("default", "frontend", "frontend", 2, json!([{"name": "redis", "containerPort": 7000}])),
        pod("default", "other", "other", 3, json!([])),
        pod("myproject", "frontend", "frontend", 4, json!([])),
        pod("myproject", "plain", "plain", 5, json!([])),
        pod("stranger", "frontend", "frontend", 6, json!([])),
    ];
    let namespace = |name: &str, labels: Value| -> Namespace {
        from_value(json!({"metadata": {"name": name, "labels": labels}})).unwrap()
    };
    let namespaces = [
        namespace("default", json!({"kubernetes.io/metadata.name": "default"})),
        namespace("myproject", json!({"project": "myproject", "kubernetes.io/metadata.name": "myproject"})),
        namespace("stranger", json!({})),
    ];
    let policies = policies.iter().enumerate().map(|(n, spec)| -> NetworkPolicy {
        from_value(json!({"metadata": {"namespace": "default", "name": format!("p{n}")}, "spec": spec})).unwrap()
    });
    let policies: Vec<_> = policies.collect();
    rules(&Snapshot::of(&namespaces, &pods, &policies, &[].into()))
}

fn tcp(rules: &Rules, from: Ipv4Addr, to: Ipv4Addr, port: u16) -> bool {
    rules.allow(from, to, Protocol::Tcp, port)
}

/// Which of the pods 2 to 6 and of outside may connect to the pod `db`.
fn who_reaches_db(rules: &Rules, port: u16) -> Vec<Ipv4Addr> {
    let all = (2..=6).map(address).chain([OUTSIDE]);
    all.filter(|from| tcp(rules, *from, address(1), port)).collect()
}

/// The first example of the page.
fn example() -> Value {
    json!({
        "podSelector": {"matchLabels": {"role": "db"}},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [{
            "from": [
                {"ipBlock": {"cidr": "172.17.0.0/16", "except": ["172.17.1.0/24"]}},
                {"namespaceSelector": {"matchLabels": {"project": "myproject"}}},
                {"podSelector": {"matchLabels": {"role": "frontend"}}},
            ],
            "ports": [{"protocol": "TCP", "port": 6379}],
        }],
        "egress": [{
            "to": [{"ipBlock": {"cidr": "10.0.0.0/24"}}],
            "ports": [{"protocol": "TCP", "port": 5978}],
        }],
    })
}

#[test]
fn the_example_of_the_documentation() {
    let rules = rules_of(&[example()]);
    // "allows connections to all pods in the default namespace with the label role=db on TCP port 6379 from: any pod in
    // the default namespace with the label role=frontend; any pod in a namespace with the label project=myproject".
    assert_eq!(who_reaches_db(&rules, 6379), [address(2), address(4), address(5)]);
    assert!(who_reaches_db(&rules, 6380).is_empty());
    assert!(!rules.allow(address(2), address(1), Protocol::Udp, 6379));
    // "IP addresses in the ranges 172.17.0.0–172.17.0.255 and 172.17.2.0–172.17.255.255".
    for (from, allowed) in [
        ([172, 17, 0, 0], true),
        ([172, 17, 0, 255], true),
        ([172, 17, 1, 0], false),
        ([172, 17, 1, 255], false),
        ([172, 17, 2, 0], true),
        ([172, 17, 255, 255], true),
        ([172, 18, 0, 0], false),
    ] {
        assert_eq!(tcp(&rules, from.into(), address(1), 6379), allowed, "{from:?}");
    }
    // "allows connections from any pod in the default namespace with the label role=db to CIDR 10.0.0.0/24 on TCP port
    // 5978".
    assert!(tcp(&rules, address(1), [10, 0, 0, 255].into(), 5978));
    assert!(!tcp(&rules, address(1), [10, 0, 0, 1].into(), 5979));
    assert!(!tcp(&rules, address(1), [10, 0, 1, 0].into(), 5978));
    assert!(!tcp(&rules, address(1), address(3), 5978), "a pod is in no block that does not hold it");
    // "isolates role=db pods": others are as open as before.
    assert!(tcp(&rules, OUTSIDE, address(2), 1) && tcp(&rules, address(2), OUTSIDE, 1));
}

#[test]
fn without_a_policy_everything_is_allowed() {
    let rules = rules_of(&[]);
    assert_eq!(rules, Rules::default());
    assert!(tcp(&rules, OUTSIDE, address(1), 1) && tcp(&rules, address(1), OUTSIDE, 1));
}

#[test]
fn isolation_in_the_two_directions_is_declared_independently() {
    let ingress = rules_of(&[json!({"podSelector": {}, "policyTypes": ["Ingress"]})]);
    assert!(!tcp(&ingress, OUTSIDE, address(1), 1) && tcp(&ingress, address(1), OUTSIDE, 1));
    let egress = rules_of(&[json!({"podSelector": {}, "policyTypes": ["Egress"]})]);
    assert!(tcp(&egress, OUTSIDE, address(1), 1) && !tcp(&egress, address(1), OUTSIDE, 1));
    let both = rules_of(&[json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]})]);
    assert!(!tcp(&both, OUTSIDE, address(1), 1) && !tcp(&both, address(1), OUTSIDE, 1));
    // Only pods of the policy's own namespace are selected.
    assert!(tcp(&both, OUTSIDE, address(4), 1) && tcp(&both, address(4), OUTSIDE, 1));
}

#[test]
fn both_ends_must_allow_a_connection() {
    let all = json!({"podSelector": {"matchLabels": {"role": "db"}}, "policyTypes": ["Ingress"], "ingress": [{}]});
    let none = json!({"podSelector": {"matchLabels": {"role": "frontend"}}, "policyTypes": ["Egress"]});
    let rules = rules_of(&[all, none]);
    assert!(!tcp(&rules, address(2), address(1), 6379), "if either side does not allow it, it does not happen");
    assert!(tcp(&rules, address(3), address(1), 6379));
}

#[test]
fn policies_do_not_conflict_but_add_up() {
    let from = |role: &str, port: u16| {
        json!({
            "podSelector": {"matchLabels": {"role": "db"}},
            "ingress": [{"from": [{"podSelector": {"matchLabels": {"role": role}}}], "ports": [{"port": port}]}],
        })
    };
    let deny = json!({"podSelector": {}, "policyTypes": ["Ingress"]});
    let one_way = rules_of(&[from("frontend", 80), deny.clone(), from("other", 81)]);
    let other_way = rules_of(&[from("other", 81), from("frontend", 80), deny]);
    for rules in [&one_way, &other_way] {
        assert_eq!(who_reaches_db(rules, 80), [address(2)]);
        assert_eq!(who_reaches_db(rules, 81), [address(3)]);
    }
}

#[test]
fn a_pod_cannot_block_access_to_itself() {
    let rules = rules_of(&[json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]})]);
    assert!(tcp(&rules, address(1), address(1), 1));
    assert!(!tcp(&rules, address(1), address(2), 1));
}

#[test]
fn default_policies() {
    let allow_all_ingress = json!({"podSelector": {}, "ingress": [{}], "policyTypes": ["Ingress"]});
    let allow_all_egress = json!({"podSelector": {}, "egress": [{}], "policyTypes": ["Egress"]});
    let deny = json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]});
    // "no additional policy or policies can cause any incoming connection to those pods to be denied".
    let rules = rules_of(&[allow_all_ingress, allow_all_egress, deny]);
    assert!(tcp(&rules, OUTSIDE, address(1), 1) && tcp(&rules, address(1), OUTSIDE, 1));
    assert!(rules.allow(OUTSIDE, address(1), Protocol::Sctp, 1));
}

#[test]
fn policy_types_have_defaults() {
    let ingress_only = rules_of(&[json!({"podSelector": {}})]);
    assert!(!tcp(&ingress_only, OUTSIDE, address(1), 1), "Ingress will always be set");
    assert!(tcp(&ingress_only, address(1), OUTSIDE, 1));
    let both = rules_of(&[json!({"podSelector": {}, "egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}]})]);
    assert!(!tcp(&both, address(1), OUTSIDE, 1), "Egress will be set if there are egress rules");
}

#[test]
fn two_selectors_in_one_peer_are_and_and_in_two_are_or() {
    let with = |from: Value| {
        who_reaches_db(
            &rules_of(&[json!({"podSelector": {"matchLabels": {"role": "db"}}, "ingress": [{"from": from}]})]),
            1,
        )
    };
    let (namespace, pod) =
        (json!({"matchLabels": {"project": "myproject"}}), json!({"matchLabels": {"role": "frontend"}}));
    assert_eq!(with(json!([{"namespaceSelector": namespace, "podSelector": pod}])), [address(4)]);
    assert_eq!(
        with(json!([{"namespaceSelector": namespace}, {"podSelector": pod}])),
        [address(2), address(4), address(5)]
    );
    // A podSelector alone means the policy's namespace; an empty one all pods of it.
    assert_eq!(with(json!([{"podSelector": {}}])), [address(2), address(3)]);
    assert_eq!(with(json!([{"namespaceSelector": {}}])), (2..=6).map(address).collect::<Vec<_>>());
    assert_eq!(with(json!([{"namespaceSelector": {}, "podSelector": pod}])), [address(2), address(4), address(6)]);
    // "The Kubernetes control plane sets an immutable label kubernetes.io/metadata.name on all namespaces."
    let by_name = json!({"matchExpressions": [{"key": "kubernetes.io/metadata.name", "operator": "In", "values": ["default", "myproject"]}]});
    assert_eq!(with(json!([{"namespaceSelector": by_name, "podSelector": pod}])), [address(2), address(4)]);
    let no_project = json!({"matchExpressions": [{"key": "project", "operator": "DoesNotExist"}]});
    assert_eq!(with(json!([{"namespaceSelector": no_project, "podSelector": pod}])), [address(2), address(6)]);
    let not_in = json!({"matchExpressions": [{"key": "project", "operator": "NotIn", "values": ["myproject"]}]});
    assert_eq!(with(json!([{"namespaceSelector": not_in}])), [address(2), address(3), address(6)]);
    // Everything, from everywhere.
    assert_eq!(with(json!([])).len(), 6);
}

#[test]
fn a_range_of_ports() {
    // The page's example of endPort.
    let rules = rules_of(&[json!({
        "podSelector": {"matchLabels": {"role": "db"}}, "policyTypes": ["Egress"],
        "egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/24"}}], "ports": [{"protocol": "TCP", "port": 32000, "endPort": 32768}]}],
    })]);
    let to = [10, 0, 0, 1].into();
    for (port, allowed) in [(31999, false), (32000, true), (32500, true), (32768, true), (32769, false)] {
        assert_eq!(tcp(&rules, address(1), to, port), allowed, "{port}");
    }
}

#[test]
fn a_port_without_a_number_is_every_port_of_its_protocol() {
    let rules = rules_of(&[json!({"podSelector": {}, "ingress": [{"ports": [{"protocol": "UDP"}]}]})]);
    assert!(rules.allow(OUTSIDE, address(1), Protocol::Udp, 7));
    assert!(!rules.allow(OUTSIDE, address(1), Protocol::Tcp, 7));
    let rules = rules_of(&[json!({"podSelector": {}, "ingress": [{"ports": [{"port": 7}]}]})]);
    assert!(tcp(&rules, OUTSIDE, address(1), 7), "the protocol is TCP when absent");
    assert!(!rules.allow(OUTSIDE, address(1), Protocol::Udp, 7));
}

#[test]
fn a_named_port_is_that_of_the_pod_that_is_connected_to() {
    let rules = rules_of(&[json!({"podSelector": {}, "ingress": [{"ports": [{"port": "redis"}]}]})]);
    assert!(tcp(&rules, OUTSIDE, address(1), 6379) && !tcp(&rules, OUTSIDE, address(1), 7000));
    assert!(tcp(&rules, OUTSIDE, address(2), 7000) && !tcp(&rules, OUTSIDE, address(2), 6379));
    assert!(!tcp(&rules, OUTSIDE, address(3), 6379), "a pod without such a port takes nothing");
    let rules = rules_of(&[json!({"podSelector": {}, "ingress": [{"ports": [{"port": "dns"}]}]})]);
    assert!(!rules.allow(OUTSIDE, address(1), Protocol::Udp, 53), "its protocol is another");

    let egress = rules_of(&[json!({
        "podSelector": {"matchLabels": {"role": "other"}}, "policyTypes": ["Egress"],
        "egress": [{"to": [{"podSelector": {}}], "ports": [{"port": "redis"}, {"port": 9}]}],
    })]);
    assert!(tcp(&egress, address(3), address(1), 6379) && !tcp(&egress, address(3), address(1), 7000));
    assert!(tcp(&egress, address(3), address(2), 7000) && tcp(&egress, address(3), address(2), 9));
    assert!(!tcp(&egress, address(3), OUTSIDE, 7000));
}

#[test]
fn pods_of_the_host_and_pods_that_have_ended_are_no_pods() {
    let pod = |uid: &str, spec: Value, status: Value| -> ApiPod {
        let mut spec = spec;
        spec["containers"] = json!([{"name": "c"}]);
        from_value(json!({"metadata": {"namespace": "n", "name": uid, "uid": uid}, "spec": spec, "status": status}))
            .unwrap()
    };
    let pods = [
        pod("host", json!({"hostNetwork": true}), json!({"phase": "Running", "podIP": "198.18.0.2"})),
        pod("done", json!({}), json!({"phase": "Succeeded", "podIP": "198.18.16.1"})),
        pod("failed", json!({}), json!({"phase": "Failed", "podIP": "198.18.16.1"})),
        pod("starting", json!({}), json!({"phase": "Pending"})),
        pod("waiting", json!({}), json!({"phase": "Pending"})),
    ];
    let starting = [("starting".to_owned(), address(9))].into();
    let snapshot = Snapshot::of(&[], &pods, &[], &starting);
    let found: Vec<_> = snapshot.pods.iter().map(|pod| (pod.name.as_str(), pod.address)).collect();
    assert_eq!(found, [("starting", Some(address(9))), ("waiting", None)]);
}
