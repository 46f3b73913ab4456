//! What is wrong with a pool, and in which words.

use buildpools_operator::pool::dereference::Observed;
use buildpools_operator::pool::problem::Problem;
use buildpools_operator::pool::{reasons, validate};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, from_value, json};

use crate::fixtures::{full, minimal, observed, settings, user_namespace};

fn problems(observed: &Observed) -> Vec<Problem> {
    validate::validate(observed, &settings()).unwrap_err()
}

#[test]
fn defaults() {
    let valid = validate::validate(&observed(&minimal()), &settings()).unwrap();
    assert_eq!((valid.members, valid.grace_seconds), (1, 3600));
    assert_eq!((valid.buildkit_image, valid.runner_image), (settings().buildkit_image, settings().runner_image));
    assert_eq!(valid.cache.limits.max_used, 40 << 30);
    assert!(!valid.cache.retain);
}

#[test]
fn the_default_image_is_the_profiles() {
    let image = |spec: &Value| validate::validate(&observed(spec), &settings()).unwrap().buildkit_image;
    assert_eq!(image(&user_namespace()), settings().buildkit_user_namespace_image);
    let mut named = user_namespace();
    named["buildkit"] = json!({"image": "example.com/mine:1"});
    assert_eq!(image(&named), "example.com/mine:1");
}

#[test]
fn cache_limits_that_leave_no_room_are_named() {
    let mut spec = minimal();
    spec["cache"]["gc"] = json!({"maxUsed": "45Gi", "minFree": "20%"});
    let found = problems(&observed(&spec));
    assert_eq!(found[0].reason(), reasons::RESOURCES_INVALID);
    assert!(found[0].to_string().starts_with("spec.cache.gc: maxUsed"), "{}", found[0]);
}

#[test]
fn limits_follow_the_smallest_volume_that_does_not_grow() {
    let mut seen = observed(&minimal());
    seen.volumes = vec![from_value(crate::cache::claim("10Gi", &json!([]))).unwrap()];
    let max_used = |seen: &Observed| validate::validate(seen, &settings()).unwrap().cache.limits.max_used;
    assert_eq!(max_used(&seen), 8 << 30);
    let class = json!({"provisioner": "p", "allowVolumeExpansion": true});
    seen.classes = [("local-ssd".to_owned(), from_value(class).unwrap())].into();
    assert_eq!(max_used(&seen), 40 << 30);
}

#[test]
fn a_part_of_a_second_counts_as_one() {
    let mut spec = minimal();
    spec["maxBuildDuration"] = json!("1500ms");
    assert_eq!(validate::validate(&observed(&spec), &settings()).unwrap().grace_seconds, 2);
}

#[test]
fn missing_authorities_are_named_with_their_field() {
    let mut seen = observed(&full());
    seen.authorities.remove("corp-ca");
    seen.authorities.get_mut("lab-ca").unwrap().clear();
    let found = problems(&seen);
    let text: Vec<String> = found.iter().map(ToString::to_string).collect();
    assert_eq!(
        text,
        [
            "spec.registries[0].caRef: there is no ConfigMap corp-ca in this namespace: create it, or correct caRef",
            "spec.registries[1].caRef: there is no ConfigMap corp-ca in this namespace: create it, or correct caRef",
            "spec.registries[2].caRef: ConfigMap lab-ca has no key ca.crt: add it, or correct caRef.key",
        ]
    );
    assert!(found.iter().all(|problem| problem.reason() == reasons::CERTIFICATE_AUTHORITY_NOT_FOUND));
}

#[test]
fn an_authority_that_is_no_certificate_is_named() {
    let mut seen = observed(&full());
    seen.authorities.get_mut("lab-ca").unwrap().insert("ca.crt".into(), "-----BEGIN PRIVATE KEY-----".into());
    let found = problems(&seen);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].reason(), reasons::CERTIFICATE_AUTHORITY_INVALID);
    assert!(
        found[0].to_string().starts_with("spec.registries[2].caRef: key ca.crt of ConfigMap lab-ca"),
        "{}",
        found[0]
    );
    assert!(!found[0].to_string().contains("PRIVATE"), "what is there may be secret");
}

#[test]
fn quantities_that_cannot_be_are_named_with_their_field() {
    for (path, value, message) in [
        ("/cache/size", json!("0"), "spec.cache.size: \"0\" is not"),
        ("/cache/size", json!("many"), "spec.cache.size: \"many\" is not"),
        ("/pod/resources/limits/memory", json!("8GB"), "spec.pod.resources.limits.memory: \"8GB\" is not"),
        ("/pod/resources/requests/cpu", json!(-1), "spec.pod.resources.requests.cpu: \"-1\" is not"),
        (
            "/pod/resources/requests/memory",
            json!("9Gi"),
            "spec.pod.resources.requests.memory: 9Gi is more than the limit 8Gi",
        ),
        (
            "/pod/resources/limits/cpu",
            json!("1999m"),
            "spec.pod.resources.requests.cpu: 2 is more than the limit 1999m",
        ),
    ] {
        let mut spec = full();
        *spec.pointer_mut(path).unwrap() = value;
        let found = problems(&observed(&spec));
        assert_eq!(found.len(), 1, "{path}: {found:?}");
        assert_eq!(found[0].reason(), reasons::RESOURCES_INVALID);
        assert!(found[0].to_string().starts_with(message), "{}", found[0]);
    }
}

#[test]
fn the_api_server_must_be_known() {
    let mut seen = observed(&minimal());
    seen.api_server.clear();
    let found = problems(&seen);
    assert_eq!(found, [Problem::ApiServerUnknown]);
    assert_eq!(found[0].reason(), reasons::API_SERVER_UNKNOWN);
    assert!(found[0].to_string().contains("EndpointSlice kubernetes in namespace default"), "{}", found[0]);
}

#[test]
fn a_network_that_cannot_be_opens_nothing() {
    for (cidr, except) in [("169.254.169.254/32", json!([])), ("10.0.0.0", json!([])), ("10.0.0.0/8", json!(["x"]))] {
        let mut spec = minimal();
        spec["network"] = json!({"egress": [{"internet": {}}, {"cidr": cidr, "except": except}]});
        let found = problems(&observed(&spec));
        assert_eq!(found, [Problem::EgressInvalid { index: 1, cidr: cidr.into() }]);
        assert_eq!(found[0].reason(), reasons::EGRESS_INVALID);
        assert!(found[0].to_string().starts_with(&format!("spec.network.egress[1]: cidr {cidr}")), "{}", found[0]);
    }
}

fn owned_by(owner: Option<&Value>) -> ObjectMeta {
    from_value(json!({"name": "x", "ownerReferences": owner.into_iter().collect::<Vec<_>>()})).unwrap()
}

fn pool_owner(name: &str, uid: &str) -> Value {
    json!({"apiVersion": "buildpools.dev/v1alpha1", "kind": "BuildPool", "name": name, "uid": uid, "controller": true})
}

#[test]
fn an_object_of_each_kind_that_is_not_ours_is_a_conflict() {
    let put: [fn(&mut Observed, ObjectMeta); 7] = [
        |o, m| o.live.stateful_set.get_or_insert_default().metadata = m,
        |o, m| o.live.config_map.get_or_insert_default().metadata = m,
        |o, m| o.live.service.get_or_insert_default().metadata = m,
        |o, m| o.live.service_account.get_or_insert_default().metadata = m,
        |o, m| {
            o.live.role_binding =
                Some(from_value(json!({"metadata": m, "roleRef": {"apiGroup": "", "kind": "", "name": ""}})).unwrap());
        },
        |o, m| o.live.network_policy.get_or_insert_default().metadata = m,
        |o, m| o.live.disruption_budget.get_or_insert_default().metadata = m,
    ];
    for (kind, put) in
        ["StatefulSet", "ConfigMap", "Service", "ServiceAccount", "RoleBinding", "NetworkPolicy", "PodDisruptionBudget"]
            .into_iter()
            .zip(put)
    {
        let mut seen = observed(&minimal());
        put(&mut seen, owned_by(Some(&pool_owner("fast", "pool-uid"))));
        validate::validate(&seen, &settings()).unwrap();

        let mut plain_owner = pool_owner("fast", "pool-uid");
        plain_owner["controller"] = json!(false);
        for owner in [None, Some(pool_owner("other", "uid")), Some(plain_owner)] {
            put(&mut seen, owned_by(owner.as_ref()));
            let found = problems(&seen);
            assert_eq!(found.len(), 1);
            assert_eq!(found[0].reason(), reasons::NAME_CONFLICT);
            assert_eq!(
                found[0].to_string(),
                format!("{kind} x does not belong to this pool: delete it, or give the pool another name")
            );
        }

        put(&mut seen, owned_by(Some(&pool_owner("fast", "earlier"))));
        assert_eq!(
            problems(&seen)[0].to_string(),
            format!("{kind} x belongs to a deleted pool of the same name: waiting until it is gone")
        );
    }
}

#[test]
fn a_volume_is_ours_by_its_labels() {
    let mut seen = observed(&minimal());
    let claim =
        |labels: Value| vec![from_value(json!({"metadata": {"name": "cache-fast-0", "labels": labels}})).unwrap()];
    seen.claims = claim(json!({"buildpools.dev/pool": "fast", "app.kubernetes.io/managed-by": "buildpools"}));
    validate::validate(&seen, &settings()).unwrap();
    for labels in [
        json!({}),
        json!({"buildpools.dev/pool": "fast"}),
        json!({"buildpools.dev/pool": "slow", "app.kubernetes.io/managed-by": "buildpools"}),
    ] {
        seen.claims = claim(labels);
        let found = problems(&seen);
        assert_eq!(found, [Problem::ForeignVolume { name: "cache-fast-0".into() }]);
        assert_eq!(found[0].reason(), reasons::NAME_CONFLICT);
    }
}

/// Its files belong to the other profile's users, and the daemon could not read them.
#[test]
fn a_retained_volume_of_the_other_profile_is_not_used() {
    let claim = |profile: Option<&str>| {
        let mut labels = json!({"buildpools.dev/pool": "fast", "app.kubernetes.io/managed-by": "buildpools"});
        if let Some(profile) = profile {
            labels["buildpools.dev/profile"] = json!(profile);
        }
        vec![from_value(json!({"metadata": {"name": "cache-fast-0", "labels": labels}})).unwrap()]
    };
    for (spec, own, other) in
        [(minimal(), None, Some("UserNamespace")), (user_namespace(), Some("UserNamespace"), None)]
    {
        let mut seen = observed(&spec);
        seen.claims = claim(own);
        validate::validate(&seen, &settings()).unwrap();
        seen.claims = claim(other);
        let found = problems(&seen);
        assert_eq!(found, [Problem::VolumeOfOtherProfile { name: "cache-fast-0".into() }]);
        assert_eq!(found[0].reason(), reasons::NAME_CONFLICT);
    }
}
