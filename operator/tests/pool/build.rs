//! What a pool is made of, in full.

use buildpools_crds::member_config::{BUILDKITD_KEY, MemberConfig, RUNNER_KEY, START_KEY};
use buildpools_operator::pool::{build, validate};
use serde_json::{Value, json};

use crate::fixtures::{full, minimal, observed, settings, user_namespace};

fn objects(spec: &Value) -> build::Objects {
    build::build(&validate::validate(&observed(spec), &settings()).unwrap()).unwrap()
}

fn golden(name: &str, objects: build::Objects) {
    let build::Objects {
        service_account,
        role_binding,
        config_map,
        network_policy,
        service,
        disruption_budget,
        stateful_set,
    } = objects;
    assert_eq!(disruption_budget, None, "nobody builds");
    insta::with_settings!({snapshot_path => "../snapshots", prepend_module_to_snapshot => false}, {
        insta::assert_yaml_snapshot!(format!("{name}_stateful_set"), stateful_set);
        insta::assert_yaml_snapshot!(format!("{name}_config_map"), config_map);
        insta::assert_yaml_snapshot!(format!("{name}_network"), (network_policy, service));
        insta::assert_yaml_snapshot!(format!("{name}_runner_access"), (service_account, role_binding));
    });
}

#[test]
fn minimal_pool() {
    golden("minimal", objects(&minimal()));
}

#[test]
fn full_pool() {
    golden("full", objects(&full()));
}

#[test]
fn user_namespace_pool() {
    golden("user_namespace", objects(&user_namespace()));
}

#[test]
fn the_configuration_is_what_its_readers_read() {
    let data = objects(&full()).config_map.data.unwrap();
    let member: MemberConfig = serde_json::from_str(&data[RUNNER_KEY]).unwrap();
    assert_eq!(member.credentials[1].path, "/etc/buildpools-credentials/hub/config.json");
    let toml: toml::Table = data[BUILDKITD_KEY].parse().unwrap();
    assert!(toml.get("grpc").is_none(), "an address beside the socket");
    assert_eq!(toml["insecure-entitlements"].as_array().map(Vec::len), Some(0));
    let hosts: Vec<&String> = toml["registry"].as_table().unwrap().keys().collect();
    assert_eq!(hosts, ["harbor.example.com", "harbor.example.com:8443", "lab.example.com:5000"]);
    // Both read the same file of an authority.
    let of_daemon: Vec<&str> =
        toml["registry"].as_table().unwrap().values().map(|r| r["ca"][0].as_str().unwrap()).collect();
    let of_runner: Vec<&str> = member.registries.iter().map(|registry| registry.path.as_str()).collect();
    assert_eq!(of_daemon, of_runner);
}

#[test]
fn garbage_is_collected_within_the_pools_limits() {
    let policy = |spec: &Value| {
        let toml: toml::Table = objects(spec).config_map.data.unwrap()[BUILDKITD_KEY].parse().unwrap();
        assert!(toml["worker"]["oci"].get("maxUsedSpace").is_none(), "no part where there is a policy");
        toml["worker"]["oci"]["gcpolicy"].as_array().unwrap().clone()
    };
    let gi = |number: i64| Some(number << 30);
    let space = |rule: &toml::Value, field: &str| rule.get(field).and_then(toml::Value::as_integer);
    let rules = policy(&minimal());
    assert_eq!(rules.len(), 3);
    for rule in &rules[1..] {
        let limits = ["reservedSpace", "maxUsedSpace", "minFreeSpace"].map(|field| space(rule, field));
        assert_eq!(limits, [gi(5), gi(40), gi(5)], "{rule}");
        assert!(rule.get("keepDuration").is_none() && rule.get("filters").is_none(), "a bound for all: {rule}");
    }
    assert_eq!(rules[2].get("all").and_then(toml::Value::as_bool), Some(true));

    let rules = policy(&full());
    assert_eq!(rules.len(), 4);
    assert_eq!(rules[1].as_table().unwrap().len(), 1, "without limits of space, all that is older goes");
    assert_eq!(rules[1]["keepDuration"].as_str(), Some("2592000s"));
    assert_eq!((space(&rules[3], "maxUsedSpace"), space(&rules[3], "minFreeSpace")), (gi(70), gi(20)));
}

#[test]
fn the_daemons_entry_point_is_a_shell_script() {
    let script = &objects(&minimal()).config_map.data.unwrap()[START_KEY];
    let template = objects(&minimal()).stateful_set.spec.unwrap().template.spec.unwrap();
    let daemon = &template.init_containers.unwrap()[0];
    let command = daemon.command.as_ref().unwrap();
    assert_eq!((command[0].as_str(), command[1].as_str()), ("/bin/sh", "/etc/buildkit/start.sh"));
    assert!(script.starts_with("#!/bin/sh\n"));
    let volume = template.volumes.unwrap().into_iter().find(|volume| volume.name == "daemon-config").unwrap();
    let files: Vec<String> = volume.config_map.unwrap().items.unwrap().into_iter().map(|item| item.path).collect();
    assert_eq!(files, ["buildkitd.toml", "start.sh", "runc"]);
}

#[test]
fn a_volume_belongs_to_its_pool_from_the_beginning_unless_it_is_retained() {
    let owners = |spec: &Value| {
        let set = objects(spec).stateful_set.spec.unwrap();
        let policy = set.persistent_volume_claim_retention_policy.unwrap();
        assert_eq!((policy.when_deleted.as_deref(), policy.when_scaled.as_deref()), (Some("Retain"), Some("Retain")));
        set.volume_claim_templates.unwrap()[0].metadata.owner_references.clone()
    };
    assert_eq!(owners(&minimal()).unwrap()[0].uid, "pool-uid");
    assert_eq!(owners(&full()), None);
}

#[test]
fn logins_and_tokens_are_mounted_into_the_runner_only() {
    for profile in ["Rootless", "UserNamespace"] {
        let mut spec = full();
        spec["profile"] = json!(profile);
        logins_and_tokens_are_the_runners(objects(&spec));
    }
}

fn logins_and_tokens_are_the_runners(objects: build::Objects) {
    let template = objects.stateful_set.spec.unwrap().template.spec.unwrap();
    let secret: Vec<String> = template
        .volumes
        .unwrap()
        .into_iter()
        .filter(|volume| volume.secret.is_some() || volume.projected.is_some())
        .map(|volume| volume.name)
        .collect();
    assert_eq!(secret, ["token", "credential-0", "credential-1"]);
    let daemon = &template.init_containers.unwrap()[0];
    let mounts = daemon.volume_mounts.as_ref().unwrap();
    assert!(mounts.iter().all(|mount| !secret.contains(&mount.name)), "{mounts:#?}");
    assert!(daemon.env.is_none());
}

/// The rules of a pool's NetworkPolicy for what its members open.
fn egress(spec: &Value) -> Value {
    serde_json::to_value(objects(spec).network_policy.spec.unwrap().egress).unwrap()
}

#[test]
fn without_egress_a_member_reaches_dns_and_the_api_server_alone() {
    let mut spec = minimal();
    spec["network"] = json!({"egress": []});
    assert_eq!(
        egress(&spec),
        json!([
            {
                "to": [
                    {
                        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}},
                        "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}},
                    },
                    {"ipBlock": {"cidr": "169.254.20.10/32"}},
                ],
                "ports": [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}],
            },
            {"to": [{"ipBlock": {"cidr": "10.96.0.1/32"}}], "ports": [{"port": 443, "protocol": "TCP"}]},
            {
                "to": [{"ipBlock": {"cidr": "172.18.0.2/32"}}, {"ipBlock": {"cidr": "172.18.0.3/32"}}],
                "ports": [{"port": 6443, "protocol": "TCP"}],
            },
        ])
    );
}

#[test]
fn the_internet_is_what_a_pool_reaches_that_says_nothing() {
    let mut spec = minimal();
    spec["network"] = json!({"egress": [{"internet": {}}]});
    assert_eq!(egress(&spec), egress(&minimal()));
    let rules = egress(&spec);
    let block = &rules[3]["to"][0]["ipBlock"];
    assert_eq!(block["cidr"], "0.0.0.0/0");
    for private in
        ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "169.254.0.0/16", "168.63.129.16/32"]
    {
        assert!(block["except"].as_array().unwrap().contains(&json!(private)), "{private} is not excepted: {block:#}");
    }
}

#[test]
fn nothing_is_let_in_whatever_the_pool_says() {
    for spec in [minimal(), full()] {
        let policy = objects(&spec).network_policy.spec.unwrap();
        assert_eq!(policy.ingress, Some(Vec::new()));
        assert_eq!(policy.policy_types.unwrap(), ["Ingress", "Egress"]);
    }
}

#[test]
fn what_only_a_restart_takes_up_changes_the_template_and_slots_do_not() {
    let template = |spec: &Value| objects(spec).stateful_set.spec.unwrap().template;
    let base = template(&full());
    let mut slots = full();
    slots["scaling"] = json!({"minMembers": 5, "buildsPerMember": 1});
    assert_eq!(template(&slots), base, "a change that takes effect at once must not make members look old");
    let mut cache = full();
    (cache["cache"]["reset"], cache["cache"]["retain"]) = (json!("again"), json!(false));
    assert_eq!(template(&cache), base, "a reset needs no other member");

    for (path, value) in [
        ("/maxBuildDuration", json!("2h")),
        ("/cache/size", json!("200Gi")),
        ("/cache/gc/maxUsed", json!("60%")),
        ("/registries/2/host", json!("lab.example.com")),
        ("/credentials/0/secretRef/name", json!("other")),
        ("/buildkit/image", json!("moby/buildkit:v0.35.1-rootless")),
        ("/pod/resources/limits/memory", json!("16Gi")),
        ("/pod/nodeSelector/example.com~1purpose", json!("other")),
        ("/pod/tolerations", json!([])),
        ("/pod/affinity", Value::Null),
        ("/pod/priorityClassName", json!("other")),
        ("/pod/runtimeClassName", json!("other")),
        ("/pod/labels/example.com~1team", json!("b")),
        ("/pod/annotations", json!({})),
        ("/pod/imagePullSecrets/0/name", json!("other")),
    ] {
        let mut changed = full();
        *changed.pointer_mut(path).unwrap() = value;
        assert_ne!(template(&changed), base, "{path}");
    }

    let mut rotated = observed(&full());
    rotated
        .authorities
        .get_mut("lab-ca")
        .unwrap()
        .insert("ca.crt".into(), crate::fixtures::PEM.replace("MIIB", "MIIC"));
    let rotated = build::build(&validate::validate(&rotated, &settings()).unwrap()).unwrap();
    assert_ne!(rotated.stateful_set.spec.unwrap().template, base, "the daemon keeps the authority that it has read");
}
