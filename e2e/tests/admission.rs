//! Invalid objects are refused by the API server with a message that names the field.

use anyhow::{Context as _, ensure};
use buildpools_crds::conditions;
use buildpools_crds::v1alpha1::{BuildJob, BuildPool, LocalReference};
use buildpools_e2e::harness::Tenant;
use kube::api::{Api, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, Request};
use serde_json::{Value, json};

/// Path of the field to change, the new value (null removes it), what the refusal must contain.
type Case = (&'static str, Value, &'static [&'static str]);

fn job() -> Value {
    json!({
        "apiVersion": "buildpools.dev/v1alpha1", "kind": "BuildJob", "metadata": {"name": "job"},
        "spec": {
            "poolRef": {"name": "main"},
            "context": {"git": {"url": "https://git.example.com/team/app.git", "ref": "main", "path": "app"}},
            "dockerfile": {"path": "Dockerfile"},
            "target": "release",
            "args": {"VERSION": "1.2"},
            "output": {"image": {"names": ["registry.example.com:5000/team/app:1.2"]}},
            "timeout": "30m",
        },
    })
}

fn pool() -> Value {
    json!({
        "apiVersion": "buildpools.dev/v1alpha1", "kind": "BuildPool", "metadata": {"name": "main"},
        "spec": {
            "class": "Shared", "profile": "Rootless",
            "scaling": {"minMembers": 1, "buildsPerMember": 2},
            "maxBuildDuration": "1h",
            "cache": {"size": "10Gi", "storageClassName": "fast", "retain": true},
            "credentials": [{"secretRef": {"name": "login"}}],
            "registries": [{"host": "registry.example.com:5000", "caRef": {"configMap": "ca"}}],
            "network": {"egress": [
                {"internet": {}, "ports": [{"port": 443}]},
                {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"], "ports": [{"port": 5000, "endPort": 5010, "protocol": "TCP"}]},
                {"to": {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "registry"}}}},
            ]},
            "buildkit": {"image": "moby/buildkit:rootless"},
            "pod": {
                "resources": {"requests": {"cpu": 1, "memory": "1Gi"}, "limits": {"memory": "4Gi"}},
                "nodeSelector": {"example.com/purpose": "builds"},
                "tolerations": [{"key": "example.com/builds", "operator": "Exists", "effect": "NoSchedule"}],
                "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                    {"matchExpressions": [{"key": "example.com/disk", "operator": "In", "values": ["nvme"]}]},
                ]}}},
                "priorityClassName": "builds",
                "runtimeClassName": "sandboxed",
                "labels": {"example.com/team": "a"},
                "annotations": {"example.com/cost-centre": "42"},
                "imagePullSecrets": [{"name": "mirror"}],
            },
        },
    })
}

fn job_cases() -> Vec<Case> {
    vec![
        ("spec.poolSelector", json!({"matchLabels": {"a": "b"}}), &["spec", "at most one of poolRef and poolSelector"]),
        ("spec.priority", json!(101), &["spec.priority", "100"]),
        ("spec.infraRetries", json!(11), &["spec.infraRetries", "10"]),
        ("spec.queueTimeout", json!("0s"), &["spec.queueTimeout", "between 1s and 168h"]),
        ("spec.ttlAfterFinished", json!("-1s"), &["spec.ttlAfterFinished", "between 0s and 8760h"]),
        ("spec.whenPoolMissing", json!("Maybe"), &["spec.whenPoolMissing", "Wait"]),
        ("spec.poolRef.name", json!("team-b/main"), &["spec.poolRef.name", "same namespace"]),
        ("spec.poolRef.name", json!("Main"), &["spec.poolRef.name", "lower-case"]),
        ("spec.poolRef.namespace", json!("team-b"), &["spec.poolRef.namespace", "unknown field"]),
        ("spec.context", json!({}), &["spec.context", "exactly one of git and inline"]),
        (
            "spec.context.inline",
            json!({"files": [{"path": "Dockerfile", "content": "FROM scratch"}]}),
            &["spec.context", "exactly one of git and inline"],
        ),
        ("spec.context.git.url", json!("git@example.com:team/app.git"), &["spec.context.git.url", "https://"]),
        ("spec.context.git.url", json!("https://git.example.com/team/app"), &["spec.context.git.url", ".git"]),
        ("spec.context.git.url", json!("https://u:p@git.example.com/a.git"), &["spec.context.git.url", "password"]),
        (
            "spec.context.git.url",
            json!("https://git.example.com/a.git#main"),
            &["spec.context.git.url", "ref and path"],
        ),
        ("spec.context.git.ref", json!("--upload-pack=x"), &["spec.context.git.ref", "a branch, a tag or a commit"]),
        ("spec.context.git.path", json!("../other"), &["spec.context.git.path", "'..'"]),
        (
            "spec.context",
            json!({"inline": {"files": [{"path": "../etc/passwd", "content": ""}]}}),
            &["spec.context.inline.files[0].path", "relative path"],
        ),
        (
            "spec.context",
            json!({"inline": {"files": [{"path": "main.c", "content": ""}]}}),
            &["spec", "context.inline.files has no Dockerfile"],
        ),
        (
            "spec.context",
            json!({"inline": {"files": [{"path": "Dockerfile", "content": ""}, {"path": "Dockerfile", "content": ""}]}}),
            &["spec.context.inline.files[1]", "Duplicate"],
        ),
        ("spec.dockerfile.inline", json!("FROM scratch"), &["spec.dockerfile", "at most one of path and inline"]),
        ("spec.dockerfile.path", json!("/etc/passwd"), &["spec.dockerfile.path", "relative path"]),
        ("spec.target", json!("a b"), &["spec.target", "stage"]),
        ("spec.args", json!({"NOT-AN-ARG": "1"}), &["spec.args", "ARG"]),
        ("spec.args", json!({"LONG": "x".repeat(5000)}), &["spec.args", "4096"]),
        ("spec.output.image.names", json!([]), &["spec.output.image.names", "at least 1"]),
        (
            "spec.output.image.names",
            json!(["registry.example.com/Team/App:1"]),
            &["spec.output.image.names", "lower case"],
        ),
        ("spec.output.image.names", json!(["app"]), &["spec.output.image.names", "registry/repository:tag"]),
        (
            "spec.output.image.names",
            json!(["registry.example.com/a@sha256:0000000000000000000000000000000000000000000000000000000000000000"]),
            &["spec.output.image.names", "without a digest"],
        ),
        ("spec.timeout", json!("half an hour"), &["spec.timeout", "for example"]),
        ("spec.timeout", json!("48h"), &["spec.timeout", "24h"]),
        ("spec.timeout", json!("-5m"), &["spec.timeout", "between 1s and 24h"]),
    ]
}

fn pool_cases() -> Vec<Case> {
    vec![
        ("metadata.name", json!("a".repeat(41)), &["metadata.name", "40 characters"]),
        ("metadata.name", json!("team.main"), &["metadata.name", "lower-case letters"]),
        ("spec.class", json!("Ephemeral"), &["spec.class", "Shared"]),
        ("spec.profile", json!("Privileged"), &["spec.profile", "Rootless"]),
        ("spec.scaling.minMembers", json!(0), &["spec.scaling.minMembers", "greater than or equal to 1"]),
        ("spec.scaling.buildsPerMember", json!(0), &["spec.scaling.buildsPerMember", "greater than or equal to 1"]),
        ("spec.maxBuildDuration", json!("0s"), &["spec.maxBuildDuration", "between 1s and 24h"]),
        ("spec.cache", Value::Null, &["spec.cache", "Required"]),
        ("spec.cache.size", json!("much"), &["spec.cache.size", "quantity"]),
        ("spec.cache.size", json!("0"), &["spec.cache.size", "above zero"]),
        (
            "spec.credentials",
            json!([{"secretRef": {"name": "a"}}, {"secretRef": {"name": "a"}}]),
            &["spec.credentials", "twice"],
        ),
        (
            "spec.credentials",
            json!([{"secretRef": {"name": "b/a"}}]),
            &["spec.credentials[0].secretRef.name", "same namespace"],
        ),
        (
            "spec.credentials",
            json!([{"secretRef": {"name": "a", "namespace": "b"}}]),
            &["spec.credentials[0].secretRef.namespace", "unknown field"],
        ),
        (
            "spec.registries",
            json!([{"host": "https://registry.example.com", "caRef": {"configMap": "ca"}}]),
            &["spec.registries[0].host", "without scheme"],
        ),
        (
            "spec.registries",
            json!([{"host": "r.example.com", "caRef": {"configMap": "a"}}, {"host": "r.example.com", "caRef": {"configMap": "b"}}]),
            &["spec.registries[1]", "Duplicate"],
        ),
        (
            "spec.registries",
            json!([{"host": "r.example.com", "caRef": {"configMap": "A B"}}]),
            &["caRef.configMap", "ConfigMap"],
        ),
        ("spec.buildkit.image", json!("moby/buildkit: rootless"), &["spec.buildkit.image", "without spaces"]),
    ]
}

fn network_cases() -> Vec<Case> {
    vec![
        ("spec.network.egress", json!([{}]), &["spec.network.egress[0]", "exactly one of internet, cidr and to"]),
        (
            "spec.network.egress",
            json!([{"internet": {}, "cidr": "10.0.0.0/8"}]),
            &["spec.network.egress[0]", "exactly one of internet, cidr and to"],
        ),
        (
            "spec.network.egress",
            json!([{"cidr": "10.0.0.1/8"}]),
            &["spec.network.egress[0].cidr", "without bits after the prefix"],
        ),
        ("spec.network.egress", json!([{"cidr": "registry.example.com"}]), &["spec.network.egress[0].cidr", "CIDR"]),
        ("spec.network.egress", json!([{"cidr": "10.0.0.1"}]), &["spec.network.egress[0].cidr", "CIDR"]),
        ("spec.network.egress", json!([{"cidr": "169.254.169.254/32"}]), &["spec.network.egress[0]", "credentials"]),
        ("spec.network.egress", json!([{"cidr": "fd00:ec2::254/128"}]), &["spec.network.egress[0]", "credentials"]),
        ("spec.network.egress", json!([{"cidr": "fd00:42::42/128"}]), &["spec.network.egress[0]", "credentials"]),
        (
            "spec.network.egress",
            json!([{"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16"]}]),
            &["spec.network.egress[0]", "must lie in cidr"],
        ),
        (
            "spec.network.egress",
            json!([{"cidr": "10.0.0.0/8", "except": ["10.0.0.0/8"]}]),
            &["spec.network.egress[0]", "be smaller"],
        ),
        (
            "spec.network.egress",
            json!([{"internet": {}, "except": ["10.0.0.0/8"]}]),
            &["spec.network.egress[0]", "except belongs to cidr"],
        ),
        ("spec.network.egress", json!([{"to": {}}]), &["spec.network.egress[0].to", "{} selects all"]),
        (
            "spec.network.egress",
            json!([{"internet": {}, "ports": [{"port": 0}]}]),
            &["spec.network.egress[0].ports[0].port", "greater than or equal to 1"],
        ),
        (
            "spec.network.egress",
            json!([{"internet": {}, "ports": [{"port": 80, "endPort": 79}]}]),
            &["spec.network.egress[0].ports[0]", "endPort must not be less"],
        ),
        (
            "spec.network.egress",
            json!([{"internet": {}, "ports": [{"port": 80, "protocol": "ICMP"}]}]),
            &["spec.network.egress[0].ports[0].protocol", "TCP"],
        ),
    ]
}

fn pod_cases() -> Vec<Case> {
    vec![
        ("spec.pod.resources.limits", json!({"memory": "lots"}), &["spec.pod.resources.limits", "quantities"]),
        ("spec.pod.labels", json!({"buildpools.dev/pool": "other"}), &["spec.pod.labels", "buildpools.dev/"]),
        ("spec.pod.labels", json!({"x.buildpools.dev/y": ""}), &["spec.pod.labels", "buildpools.dev/"]),
        ("spec.pod.labels", json!({"app.kubernetes.io/component": "x"}), &["spec.pod.labels", "component"]),
        ("spec.pod.labels", json!({"controller-revision-hash": "x"}), &["spec.pod.labels", "revision"]),
        ("spec.pod.annotations", json!({"buildpools.dev/config": "x"}), &["spec.pod.annotations", "buildpools.dev/"]),
        (
            "spec.pod.annotations",
            json!({"container.apparmor.security.beta.kubernetes.io/buildkitd": "unconfined"}),
            &["spec.pod.annotations", "confine"],
        ),
        ("spec.pod.annotations", json!({"k8s.v1.cni.cncf.io/networks": "lan"}), &["spec.pod.annotations", "networks"]),
        (
            "spec.pod.annotations",
            json!({"v1.multus-cni.io/default-network": "lan"}),
            &["spec.pod.annotations", "networks"],
        ),
        ("spec.pod.priorityClassName", json!("A B"), &["spec.pod.priorityClassName", "PriorityClass"]),
        ("spec.pod.runtimeClassName", json!("a/b"), &["spec.pod.runtimeClassName", "RuntimeClass"]),
        ("spec.pod.imagePullSecrets", json!([{"name": "b/a"}]), &["spec.pod.imagePullSecrets", "same namespace"]),
        (
            "spec.pod.affinity",
            json!({"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
                {"topologyKey": "kubernetes.io/hostname", "namespaces": ["team-b"]},
            ]}}),
            &["spec.pod.affinity", "namespaces", "unknown field"],
        ),
    ]
}

#[tokio::test]
async fn the_least_that_is_needed_is_accepted() {
    Tenant::with("minimal", async |tenant| {
        let dry = PostParams { dry_run: true, ..PostParams::default() };
        for context in [
            json!({"git": {"url": "https://git.example.com/app.git"}}),
            json!({"inline": {"files": [{"path": "Dockerfile", "content": "FROM scratch"}]}}),
        ] {
            let job = json!({"metadata": {"name": "job"}, "spec": {"poolRef": {"name": "main"}, "context": context}});
            let job = tenant.jobs().create(&dry, &serde_json::from_value(job)?).await?;
            let status = job.status.context("a new job has a status")?;
            ensure!(conditions::is_true(&status.conditions, conditions::RECONCILING), "{status:?}");
        }
        let pool = json!({"metadata": {"name": "main"}, "spec": {"cache": {"size": "1Gi"}}});
        let pool = tenant.pools().create(&dry, &serde_json::from_value(pool)?).await?;
        ensure!(pool.spec.scaling.min_members == 1 && pool.spec.scaling.builds_per_member == 2, "{:?}", pool.spec);
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn invalid_specs_are_refused_with_the_name_of_the_field() {
    Tenant::with("invalid", async |tenant| {
        let jobs = ApiResource::erase::<BuildJob>(&());
        let pools = ApiResource::erase::<BuildPool>(&());
        let of_pool = [pool_cases(), network_cases(), pod_cases()].concat();
        for (resource, valid, cases) in [(jobs, job(), job_cases()), (pools, pool(), of_pool)] {
            let client = tenant.environment.client.clone();
            let api = Api::<DynamicObject>::namespaced_with(client, &tenant.namespace, &resource);
            // As kubectl does it: unknown fields are an error.
            let strict = PostParams { dry_run: true, ..PostParams::default() };
            create(&api, &strict, &valid).await.with_context(|| format!("the valid {} is refused", resource.kind))?;
            for (path, value, expected) in cases {
                let mut object = valid.clone();
                set(&mut object, path, value.clone());
                let refused = create(&api, &strict, &object).await;
                let Err(error) = refused else { anyhow::bail!("{} {path} = {value} is accepted", resource.kind) };
                let message = error.to_string();
                for part in expected {
                    ensure!(message.contains(part), "{} {path} = {value}: no {part:?} in: {message}", resource.kind);
                }
            }
        }
        Ok(())
    })
    .await;
}

async fn create(api: &Api<DynamicObject>, parameters: &PostParams, object: &Value) -> anyhow::Result<()> {
    let mut request = Request::new(api.resource_url()).create(parameters, serde_json::to_vec(object)?)?;
    *request.uri_mut() = format!("{}&fieldValidation=Strict", request.uri()).parse()?;
    api.clone().into_client().request::<DynamicObject>(request).await?;
    Ok(())
}

fn set(object: &mut Value, path: &str, value: Value) {
    let (parents, last) = path.rsplit_once('.').unwrap_or_else(|| panic!("{path} has one part only"));
    let parent = parents.split('.').fold(object, |object, key| &mut object[key]);
    if value.is_null() {
        parent.as_object_mut().map(|parent| parent.remove(last));
    } else {
        parent[last] = value;
    }
}

#[tokio::test]
async fn what_is_immutable_cannot_be_changed() {
    Tenant::with("immutable", async |tenant| {
        let mut pool: BuildPool = serde_json::from_value(pool())?;
        pool.spec.credentials.clear();
        pool.spec.registries.clear();
        pool.spec.cache.storage_class_name = None;
        tenant.pools().create(&PostParams::default(), &pool).await?;
        let cases = [
            (json!({"spec": {"profile": "UserNamespace"}}), "spec.profile"),
            (json!({"spec": {"cache": {"size": "5Gi"}}}), "spec.cache.size"),
            (json!({"spec": {"cache": {"storageClassName": "other"}}}), "storageClassName cannot be changed"),
        ];
        for (patch, expected) in cases {
            let refused = tenant.pools().patch("main", &PatchParams::default(), &Patch::Merge(&patch)).await;
            let message = refused.err().with_context(|| format!("{patch} is accepted"))?.to_string();
            ensure!(message.contains(expected), "{message}");
        }
        let grown = Patch::Merge(json!({"spec": {"cache": {"size": "20Gi"}}}));
        tenant.pools().patch("main", &PatchParams::default(), &grown).await.context("a cache that grows")?;
        let mut job: BuildJob = serde_json::from_value(job())?;
        job.spec.pool_ref = Some(LocalReference { name: "nobody".into() });
        tenant.jobs().create(&PostParams::default(), &job).await?;
        let patch = json!({"spec": {"target": "other"}});
        let refused = tenant.jobs().patch("job", &PatchParams::default(), &Patch::Merge(&patch)).await;
        let message = refused.err().context("a job's spec was changed")?.to_string();
        ensure!(message.contains("create a new BuildJob"), "{message}");
        Ok(())
    })
    .await;
}
