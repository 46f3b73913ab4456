//! What stands between a pool and everything else, in both profiles, on the live pod.

use std::collections::BTreeSet;

use anyhow::{Context as _, ensure};
use buildpools_crds::v1alpha1::{JobPhase, PoolProfile};
use buildpools_crds::{labels, names};
use buildpools_e2e::harness::{BASE, Tenant, wait};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::node::v1::RuntimeClass;
use k8s_openapi::api::rbac::v1::RoleBinding;
use k8s_openapi::api::scheduling::v1::PriorityClass;
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use kube::{Resource, ResourceExt as _};
use serde_json::json;

const PROFILES: [PoolProfile; 2] = [PoolProfile::Rootless, PoolProfile::UserNamespace];

async fn in_each_profile(name: &str, test: impl AsyncFn(&Tenant) -> anyhow::Result<()>) {
    for profile in PROFILES {
        let tenant = format!("{name}-{profile:?}").to_lowercase();
        Tenant::with(&tenant, async |tenant| {
            tenant.pool("main").spec(|spec| spec.profile = profile).create_ready().await?;
            test(tenant).await.with_context(|| format!("profile {profile:?}"))
        })
        .await;
    }
}

#[tokio::test]
async fn pool_isolation_builds_and_pushes_in_both_profiles() {
    in_each_profile("isolation-build", async |tenant| {
        let dockerfile = format!(
            "FROM {BASE}\nCOPY Dockerfile /made/of/\nRUN mkdir /by-a-step && stat -c 'mode %a %u:%g %n' / /made /by-a-step\n\
             RUN echo the-second-step > /by-a-step/file\n"
        );
        let status = tenant.job("app", "main").inline(&dockerfile).push("app:1").run().await?;
        ensure!(status.phase == JobPhase::Succeeded, "{:?}", status.failure);
        let digest = status.image.context("status.image")?.digest;
        let pushed = tenant.environment.registry("alice")?.digest(&tenant.repository("app"), "1").await?;
        ensure!(pushed.as_deref() == Some(digest.as_str()), "pushed {pushed:?}, status says {digest}");
        // What a step sees is what the image holds: users and modes are not those of the volume.
        let log = tenant.log("main-0", names::RUNNER_CONTAINER).await?;
        for directory in ["/", "/made", "/by-a-step"] {
            ensure!(log.contains(&format!("mode 755 0:0 {directory}")), "{directory}:\n{log}");
        }
        let snapshotter = wait::until(&tenant.pools(), "main", "the member reports itself", wait::SOON, |pool| {
            pool.and_then(|p| p.status.as_ref()).is_some_and(|s| s.members.iter().any(|m| m.snapshotter.is_some()))
        })
        .await?
        .and_then(|pool| pool.status?.members.into_iter().next()?.snapshotter);
        ensure!(snapshotter.as_deref() == Some("overlayfs"), "layers are copied: {snapshotter:?}");
        Ok(())
    })
    .await;
}

/// Prints the command lines of all processes that it can see.
const LOOK: &str =
    r#"RUN for process in /proc/[0-9]*; do echo "sees: $(tr '\0' ' ' 2>/dev/null < "$process/cmdline")"; done"#;

#[tokio::test]
async fn pool_isolation_a_step_sees_other_builds_in_profile_rootless_only() {
    in_each_profile("isolation-view", async |tenant| {
        let profile = tenant.pools().get("main").await?.spec.profile;
        let neighbour = format!("FROM {BASE}\nRUN echo step-has-begun && sleep 599\n");
        tenant.job("neighbour", "main").inline(&neighbour).create().await?;
        tenant.printed("main-0", "[neighbour] ").await?;
        wait::poll("the neighbour's step runs", wait::BUILD, async || {
            Ok(tenant.processes("main-0").await?.contains("sleep 599").then_some(()))
        })
        .await?;
        let status = tenant.job("looks", "main").inline(&format!("FROM {BASE}\n{LOOK}\n")).run().await?;
        ensure!(status.phase == JobPhase::Succeeded, "{:?}", status.failure);
        let log = tenant.log("main-0", names::RUNNER_CONTAINER).await?;
        let seen: Vec<&str> =
            log.lines().filter(|l| l.starts_with("[looks]")).filter_map(|l| Some(l.split_once("sees: ")?.1)).collect();
        ensure!(seen.iter().any(|line| line.contains("/bin/sh -c")), "it does not see itself:\n{log}");
        let others: Vec<_> =
            seen.iter().filter(|line| ["sleep 599", "buildkitd"].iter().any(|word| line.contains(word))).collect();
        match profile {
            // What docs/threats.md says of this profile. If it were not so, it would have to be changed.
            PoolProfile::Rootless => ensure!(others.iter().any(|line| line.contains("sleep 599")), "{seen:#?}"),
            PoolProfile::UserNamespace => ensure!(others.is_empty(), "{seen:#?}"),
        }
        // No runner in either: it is another container.
        ensure!(seen.iter().all(|line| !line.contains("buildpools-runner")), "{seen:#?}");
        tenant.cancel("neighbour").await?;
        tenant.ended("neighbour").await?;
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn pool_isolation_the_daemon_has_no_token_and_no_login() {
    in_each_profile("isolation-daemon", async |tenant| {
        let files = "cat /proc/self/mountinfo; ls -aR /var/run/secrets /run/secrets /etc/buildpools* 2>&1; env";
        let found = tenant.exec("main-0", names::DAEMON_CONTAINER, &["sh", "-c", files]).await?;
        ensure!(found.contains(" /run/buildpools "), "the mounts are not listed: {found}");
        for word in ["serviceaccount", "buildpools-credentials", "config.json", "token"] {
            ensure!(!found.contains(word), "{word}: {found}");
        }
        let pod = tenant.pods().get("main-0").await?;
        let spec = pod.spec.context("spec")?;
        ensure!(spec.automount_service_account_token == Some(false), "{spec:?}");
        Ok(())
    })
    .await;
}

/// What the API server says of the live pod where only `restricted` pods are let in.
#[tokio::test]
async fn pool_isolation_the_live_pod_deviates_from_restricted_as_documented() {
    let environment = buildpools_e2e::harness::Environment::load().await.unwrap();
    let restricted = Tenant::create_with(environment, "isolation-restricted", "restricted").await.unwrap();
    in_each_profile("isolation-pod", async |tenant| {
        let profile = tenant.pools().get("main").await?.spec.profile;
        let live = tenant.pods().get("main-0").await?;
        let mut pod: Pod = serde_json::from_value(json!({"metadata": {"name": "copy"}, "spec": live.spec}))?;
        if let Some(spec) = &mut pod.spec {
            spec.node_name = None;
            spec.service_account_name = None;
            spec.service_account = None;
            spec.priority = None;
        }
        let dry_run = PostParams { dry_run: true, ..PostParams::default() };
        let refused = restricted.pods().create(&dry_run, &pod).await.err();
        let Some(kube::Error::Api(refused)) = refused else { anyhow::bail!("not refused: {refused:?}") };
        let (_, violations) = refused
            .message
            .split_once("violates PodSecurity \"restricted:latest\": ")
            .context(refused.message.clone())?;
        let expected = match profile {
            PoolProfile::Rootless => ROOTLESS_DEVIATIONS,
            PoolProfile::UserNamespace => USER_NAMESPACE_DEVIATIONS,
        };
        ensure!(violations == expected, "{profile:?}:\n{violations}\nexpected:\n{expected}");
        Ok(())
    })
    .await;
    restricted.delete().await;
}

const ROOTLESS_DEVIATIONS: &str = concat!(
    r#"forbidden AppArmor profile (container "buildkitd" must not set AppArmor profile type to "Unconfined"), "#,
    r#"allowPrivilegeEscalation != false (container "buildkitd" must set securityContext.allowPrivilegeEscalation=false), "#,
    r#"unrestricted capabilities (container "buildkitd" must not include "SETGID", "SETUID" in securityContext.capabilities.add), "#,
    r#"seccompProfile (container "buildkitd" must not set securityContext.seccompProfile.type to "Unconfined")"#,
);

/// In a user namespace of its own a pod's root is nobody on the node, and Pod Security lets it be.
const USER_NAMESPACE_DEVIATIONS: &str = concat!(
    r#"forbidden AppArmor profile (container "buildkitd" must not set AppArmor profile type to "Unconfined"), "#,
    r#"allowPrivilegeEscalation != false (container "buildkitd" must set securityContext.allowPrivilegeEscalation=false), "#,
    r#"unrestricted capabilities (container "buildkitd" must not include "AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "#,
    r#""FSETID", "KILL", "MKNOD", "NET_ADMIN", "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_ADMIN", "SYS_CHROOT" "#,
    r#"in securityContext.capabilities.add), "#,
    r#"procMount (container "buildkitd" must not set securityContext.procMount to "Unmasked"), "#,
    r#"seccompProfile (container "buildkitd" must not set securityContext.seccompProfile.type to "Unconfined")"#,
);

/// Names of the objects of one kind that carry the pool's label.
async fn of_pool<K>(tenant: &Tenant, pool: &str) -> anyhow::Result<BTreeSet<String>>
where
    K: Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned,
{
    let found = tenant.api::<K>().list(&ListParams::default().labels(&format!("{}={pool}", labels::POOL))).await?;
    Ok(found.items.iter().map(K::name_any).collect())
}

#[tokio::test]
async fn pool_isolation_every_pool_has_objects_of_its_own() {
    Tenant::with("isolation-objects", async |tenant| {
        tenant.pool("one").create_ready().await?;
        tenant.pool("two").spec(|spec| spec.profile = PoolProfile::UserNamespace).create_ready().await?;
        for pool in ["one", "two"] {
            let only = |name: String| BTreeSet::from([name]);
            ensure!(of_pool::<StatefulSet>(tenant, pool).await? == only(names::stateful_set(pool)));
            ensure!(of_pool::<PersistentVolumeClaim>(tenant, pool).await? == only(names::cache_claim(pool, 0)));
            ensure!(of_pool::<ServiceAccount>(tenant, pool).await? == only(names::runner(pool)));
            ensure!(of_pool::<RoleBinding>(tenant, pool).await? == only(names::runner(pool)));
            ensure!(of_pool::<ConfigMap>(tenant, pool).await? == only(names::config_map(pool)));
            ensure!(of_pool::<NetworkPolicy>(tenant, pool).await? == only(names::network_policy(pool)));
            ensure!(of_pool::<Service>(tenant, pool).await? == only(names::service(pool)));
            let pod = tenant.pods().get(&format!("{pool}-0")).await?.spec.context("spec")?;
            ensure!(pod.service_account_name == Some(names::runner(pool)), "{:?}", pod.service_account_name);
        }
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn pool_isolation_what_the_spec_says_of_pods_reaches_them() {
    Tenant::with("isolation-pass", async |tenant| {
        let client = tenant.environment.client.clone();
        let name = tenant.namespace.as_str();
        let class: PriorityClass = serde_json::from_value(json!({"metadata": {"name": name}, "value": 1000}))?;
        let runtime: RuntimeClass = serde_json::from_value(json!({"metadata": {"name": name}, "handler": "runc"}))?;
        let (classes, runtimes) = (Api::<PriorityClass>::all(client.clone()), Api::<RuntimeClass>::all(client));
        classes.create(&PostParams::default(), &class).await?;
        runtimes.create(&PostParams::default(), &runtime).await?;
        let passed = passes_through(tenant, name).await;
        classes.delete(name, &DeleteParams::default()).await?;
        runtimes.delete(name, &DeleteParams::default()).await?;
        passed
    })
    .await;
}

async fn passes_through(tenant: &Tenant, class: &str) -> anyhow::Result<()> {
    let settings = json!({
        "resources": {"requests": {"cpu": "10m", "memory": "64Mi"}, "limits": {"memory": "2Gi"}},
        "nodeSelector": {"kubernetes.io/os": "linux"},
        "tolerations": [{"key": "example.com/builds", "operator": "Exists", "effect": "NoSchedule"}],
        "affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{
            "weight": 100,
            "podAffinityTerm": {
                "topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"buildpools.dev/pool": "main"}},
            },
        }]}},
        "priorityClassName": class,
        "runtimeClassName": class,
        "labels": {"example.com/team": "a"},
        "annotations": {"example.com/cost-centre": "42"},
        "imagePullSecrets": [{"name": "mirror"}],
    });
    let pod_settings = serde_json::from_value(settings.clone())?;
    tenant.pool("main").spec(|spec| spec.pod = pod_settings).create_ready().await?;
    let pod = tenant.pods().get("main-0").await?;
    ensure!(pod.labels().get("example.com/team").is_some_and(|team| team == "a"), "{:?}", pod.labels());
    ensure!(pod.annotations().get("example.com/cost-centre").is_some_and(|c| c == "42"), "{:?}", pod.annotations());
    let spec = serde_json::to_value(pod.spec)?;
    for field in ["nodeSelector", "affinity", "priorityClassName", "runtimeClassName", "imagePullSecrets"] {
        ensure!(spec[field] == settings[field], "{field}: {:#}", spec[field]);
    }
    ensure!(spec["priority"] == json!(1000), "{spec:#}");
    // Kubernetes adds its own.
    let tolerations = spec["tolerations"].as_array().context("tolerations")?;
    ensure!(tolerations.contains(&settings["tolerations"][0]), "{tolerations:#?}");
    ensure!(spec["initContainers"][0]["resources"] == settings["resources"], "{spec:#}");
    let status = tenant.job("app", "main").inline(&format!("FROM {BASE}\nRUN true\n")).run().await?;
    ensure!(status.phase == JobPhase::Succeeded, "{:?}", status.failure);
    Ok(())
}
