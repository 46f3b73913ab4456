//! What a pool consists of, what its builds can see, and what is left when it goes.

use anyhow::{Context as _, ensure};
use buildpools_crds::v1alpha1::{BuildPool, JobPhase};
use buildpools_crds::{conditions, labels, names};
use buildpools_e2e::harness::{BASE, Tenant, wait};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::rbac::v1::RoleBinding;
use kube::api::{DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

#[tokio::test]
async fn daemon_pod_has_exactly_the_intended_security_context() {
    Tenant::with("security-context", async |tenant| {
        tenant.pool("main").create_ready().await?;
        let pod: Pod = tenant.pods().get("main-0").await?;
        let spec = serde_json::to_value(pod.spec.context("spec")?)?;
        ensure!(spec["securityContext"] == json!({"fsGroup": 1000, "fsGroupChangePolicy": "OnRootMismatch"}), "{spec:#}");
        ensure!(spec["automountServiceAccountToken"] == json!(false), "{spec:#}");
        ensure!(spec["hostNetwork"].is_null() && spec["hostPID"].is_null() && spec["hostIPC"].is_null(), "{spec:#}");
        let volumes = spec["volumes"].as_array().context("volumes")?;
        ensure!(volumes.iter().all(|volume| volume["hostPath"].is_null()), "{spec:#}");

        ensure!(spec["initContainers"].as_array().is_some_and(|list| list.len() == 1), "{spec:#}");
        let daemon = &spec["initContainers"][0];
        let expected = json!({
            "runAsUser": 1000, "runAsGroup": 1000, "runAsNonRoot": true,
            "capabilities": {"drop": ["ALL"], "add": ["SETUID", "SETGID"]},
            "seccompProfile": {"type": "Unconfined"}, "appArmorProfile": {"type": "Unconfined"},
        });
        ensure!(daemon["securityContext"] == expected, "daemon: {:#}", daemon["securityContext"]);
        ensure!(daemon["restartPolicy"] == json!("Always"));
        ensure!(mounts(daemon).iter().all(|path| !path.contains("serviceaccount") && !path.contains("credentials")));

        ensure!(spec["containers"].as_array().is_some_and(|list| list.len() == 1), "{spec:#}");
        let runner = &spec["containers"][0];
        let expected = json!({
            "runAsUser": 1000, "runAsGroup": 1000, "runAsNonRoot": true, "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"},
        });
        ensure!(runner["securityContext"] == expected, "runner: {:#}", runner["securityContext"]);
        for container in [daemon, runner] {
            ensure!(container["livenessProbe"].is_null(), "a liveness probe could end a build: {container:#}");
            ensure!(container["ports"].is_null(), "a listener that RUN steps could reach: {container:#}");
        }
        Ok(())
    })
    .await;
}

fn mounts(container: &Value) -> Vec<String> {
    let mounts = container["volumeMounts"].as_array().cloned().unwrap_or_default();
    mounts.iter().filter_map(|mount| mount["mountPath"].as_str().map(str::to_owned)).collect()
}

/// A step that looks for what it must not find: files of the runner, tokens and logins, in its own file system, in the
/// environment and the command line of every process it can see, and through their roots in the daemon's file system.
/// To show that it would find them it hides one itself. (The patterns do not match themselves.)
const SEARCH: &str = r#"
CANARY=eyJhbGciOi-canary sleep 30 &
canary=$!
seen=0
for process in /proc/[0-9]*; do
  seen=$((seen + 1))
  for file in "$process/environ" "$process/cmdline"; do
    if tr '\0' '\n' 2>/dev/null < "$file" | grep -qE 'alice-passwor[d]|eyJhbGci[O]i'; then
      if [ "$process" = "/proc/$canary" ]; then echo "the canary was seen"; else echo "FOUND a credential in $file"; fi
    fi
  done
  for path in var/run/secrets/kubernetes.io run/secrets/kubernetes.io etc/buildpools-credentials etc/buildpools; do
    if ls "$process/root/$path" 2>/dev/null | grep -q .; then echo "FOUND $process/root/$path"; fi
  done
  if grep -q 'buildpools-runne[r]' "$process/cmdline" 2>/dev/null; then echo "FOUND the runner as $process"; fi
done
for root in / /proc/1/root/; do
  for directory in etc home run tmp var; do
    if grep -rqs 'alice-passwor[d]' "$root$directory"; then echo "FOUND a credential below $root$directory"; fi
  done
done
kill $canary
echo "searched $seen processes"
"#;

#[tokio::test]
async fn run_steps_find_no_credential_and_no_token() {
    Tenant::with("run-steps", async |tenant| {
        tenant.pool("main").create_ready().await?;
        let dockerfile = format!("FROM {BASE}\nCOPY search.sh /\nRUN sh /search.sh\n");
        let job = tenant.job("search", "main").files(&[("Dockerfile", &dockerfile), ("search.sh", SEARCH)]);
        let status = job.push("search:1").run().await?;
        ensure!(status.phase == JobPhase::Succeeded, "{:?}", status.failure);
        let log = tenant.log("main-0", "runner").await?;
        // Without the process sandbox a step sees the daemon's processes: the search must have looked at several.
        let seen = log.lines().find_map(|line| line.split("searched ").nth(1)?.split(' ').next()?.parse::<u32>().ok());
        ensure!(seen.is_some_and(|seen| seen >= 4), "the search looked at {seen:?} processes:\n{log}");
        ensure!(log.contains("the canary was seen"), "the search finds nothing:\n{log}");
        let found: Vec<_> = log.lines().filter(|line| line.contains(" FOUND ")).collect();
        ensure!(found.is_empty(), "{found:#?}");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn deleted_pool_leaves_nothing_but_a_retained_cache() {
    Tenant::with("pool-deleted", async |tenant| {
        tenant.pool("gone").create_ready().await?;
        tenant.pool("kept").spec(|spec| spec.cache.retain = true).create_ready().await?;
        let job = tenant.job("warm", "kept").inline(&format!("FROM {BASE}\nRUN echo expensive-step\n"));
        ensure!(job.run().await?.phase == JobPhase::Succeeded);
        let claims = tenant.api::<PersistentVolumeClaim>();
        let kept = claims.get(&names::cache_claim("kept", 0)).await?;

        for pool in ["gone", "kept"] {
            tenant.pools().delete(pool, &DeleteParams::default()).await?;
        }
        for pool in ["gone", "kept"] {
            everything_is_gone(tenant, pool).await?;
        }
        let cache = names::cache_claim("gone", 0);
        wait::until(&claims, &cache, "the cache is gone", wait::SOON, |claim| claim.is_none()).await?;
        ensure!(claims.get(&names::cache_claim("kept", 0)).await?.metadata.uid == kept.metadata.uid, "another volume");

        // A pool of the same name takes the volume over, with what is in it.
        tenant.pool("kept").spec(|spec| spec.cache.retain = true).create_ready().await?;
        ensure!(claims.get(&names::cache_claim("kept", 0)).await?.metadata.uid == kept.metadata.uid);
        let job = tenant.job("warm-again", "kept").inline(&format!("FROM {BASE}\nRUN echo expensive-step\n"));
        ensure!(job.run().await?.phase == JobPhase::Succeeded);
        let log = tenant.log("kept-0", "runner").await?;
        let cached = log.lines().any(|line| line.starts_with("[warm-again]") && line.ends_with("CACHED"));
        ensure!(cached, "the cache was not used:\n{log}");
        Ok(())
    })
    .await;
}

async fn everything_is_gone(tenant: &Tenant, pool: &str) -> anyhow::Result<()> {
    let gone = "it is gone";
    wait::until(&tenant.api::<StatefulSet>(), &names::stateful_set(pool), gone, wait::SOON, |o| o.is_none()).await?;
    wait::until(&tenant.api::<Service>(), &names::service(pool), gone, wait::SOON, |o| o.is_none()).await?;
    wait::until(&tenant.api::<ConfigMap>(), &names::config_map(pool), gone, wait::SOON, |o| o.is_none()).await?;
    wait::until(&tenant.api::<ServiceAccount>(), &names::runner(pool), gone, wait::SOON, |o| o.is_none()).await?;
    wait::until(&tenant.api::<RoleBinding>(), &names::runner(pool), gone, wait::SOON, |o| o.is_none()).await?;
    wait::until(&tenant.api::<NetworkPolicy>(), &names::network_policy(pool), gone, wait::SOON, |o| o.is_none())
        .await?;
    wait::until(&tenant.pods(), &format!("{pool}-0"), gone, wait::SOON, |o| o.is_none()).await?;
    Ok(())
}

#[tokio::test]
async fn foreign_object_of_the_same_name_blocks_the_pool_and_stays_untouched() {
    Tenant::with("name-conflict", async |tenant| {
        let data = std::collections::BTreeMap::from([("somebody".to_owned(), "else".to_owned())]);
        let metadata = ObjectMeta { name: Some(names::config_map("config")), ..ObjectMeta::default() };
        let foreign = ConfigMap { metadata, data: Some(data.clone()), ..ConfigMap::default() };
        tenant.api().create(&PostParams::default(), &foreign).await?;
        let claim: PersistentVolumeClaim = serde_json::from_value(json!({
            "metadata": {"name": names::cache_claim("volume", 0)},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
        }))?;
        tenant.api().create(&PostParams::default(), &claim).await?;
        let set: StatefulSet = serde_json::from_value(json!({
            "metadata": {"name": names::stateful_set("set")},
            "spec": {
                "replicas": 0, "serviceName": "x", "selector": {"matchLabels": {"app": "x"}},
                "template": {
                    "metadata": {"labels": {"app": "x"}},
                    "spec": {"containers": [{"name": "x", "image": "docker.io/library/busybox:stable"}]},
                },
            },
        }))?;
        tenant.api().create(&PostParams::default(), &set).await?;

        for pool in ["config", "volume", "set"] {
            tenant.pool(pool).create().await?;
        }
        let foreign = [names::config_map("config"), names::cache_claim("volume", 0), names::stateful_set("set")];
        for (pool, object) in ["config", "volume", "set"].into_iter().zip(foreign) {
            let what = format!("Ready names {object}");
            wait::until(&tenant.pools(), pool, &what, wait::SOON, |pool| {
                not_ready(pool).is_some_and(|(reason, message)| reason == "NameConflict" && message.contains(&object))
            })
            .await?;
        }
        let found: ConfigMap = tenant.api().get(&names::config_map("config")).await?;
        ensure!(found.data == Some(data) && found.metadata.owner_references.is_none(), "{found:?}");
        let sets = tenant.api::<StatefulSet>();
        ensure!(sets.get("set").await?.metadata.owner_references.is_none());
        ensure!(sets.get_opt("volume").await?.is_none(), "a daemon would have been given a foreign volume");

        // When the foreign object goes, the pool comes.
        let named = names::config_map("config");
        tenant.api::<ConfigMap>().delete(&named, &DeleteParams::default()).await?;
        wait::until(&tenant.pools(), "config", "the pool is ready", wait::BUILD, |pool| {
            pool.and_then(|p| p.status.as_ref()).is_some_and(|s| conditions::is_true(&s.conditions, conditions::READY))
        })
        .await?;
        Ok(())
    })
    .await;
}

fn not_ready(pool: Option<&BuildPool>) -> Option<(String, String)> {
    let status = pool?.status.as_ref()?;
    let condition = conditions::find(&status.conditions, conditions::READY).filter(|c| c.status == "False")?;
    Some((condition.reason.clone(), condition.message.clone()))
}

#[tokio::test]
async fn pod_that_the_namespace_refuses_shows_in_the_ready_message() {
    let environment = buildpools_e2e::harness::Environment::load().await.unwrap();
    let restricted = Tenant::create_with(environment, "restricted", "restricted").await.unwrap();
    restricted.pool("main").create().await.unwrap();
    let shown = wait::until(&restricted.pools(), "main", "Ready explains the refusal", wait::SOON, |pool| {
        not_ready(pool).is_some_and(|(_, message)| {
            message.contains("violates PodSecurity")
                && message.contains("pod-security.kubernetes.io/enforce=privileged")
        })
    })
    .await;
    restricted.delete().await;
    shown.unwrap();
}

#[tokio::test]
async fn changed_and_deleted_objects_are_repaired() {
    Tenant::with("repair", async |tenant| {
        tenant.pool("main").create_ready().await?;
        let policies = tenant.api::<NetworkPolicy>();
        let name = names::network_policy("main");
        let opened = json!({"spec": {"ingress": [{}]}});
        policies.patch(&name, &PatchParams::default(), &Patch::Merge(opened)).await?;
        wait::until(&policies, &name, "ingress is denied again", wait::SOON, |policy| {
            policy.and_then(|p| p.spec.as_ref()).is_some_and(|spec| spec.ingress.as_ref().is_none_or(Vec::is_empty))
        })
        .await?;
        let before = policies.get(&name).await?.metadata.uid;
        policies.delete(&name, &DeleteParams::default()).await?;
        wait::until(&policies, &name, "the NetworkPolicy is back", wait::SOON, |policy| {
            policy.is_some_and(|policy| policy.metadata.uid != before)
        })
        .await?;
        let pods = tenant.pods().list(&ListParams::default().labels(&format!("{}=main", labels::POOL))).await?;
        ensure!(pods.items.len() == 1, "repairing a policy must not touch the member");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn missing_registry_ca_is_named_and_healed_when_it_appears() {
    Tenant::with("missing-ca", async |tenant| {
        let pool = tenant.pool("main").spec(|spec| spec.registries[0].ca_ref.config_map = "not-yet".into());
        pool.create().await?;
        wait::until(&tenant.pools(), "main", "Ready names the ConfigMap", wait::SOON, |pool| {
            not_ready(pool).is_some_and(|(_, message)| message.contains("not-yet") && message.contains("caRef"))
        })
        .await?;
        let ca = std::fs::read_to_string(&tenant.environment.cluster.ca)?;
        let data = Some(std::collections::BTreeMap::from([("ca.crt".to_owned(), ca)]));
        let metadata = ObjectMeta { name: Some("not-yet".into()), ..ObjectMeta::default() };
        tenant.api().create(&PostParams::default(), &ConfigMap { metadata, data, ..ConfigMap::default() }).await?;
        let status = tenant.job("push", "main").inline("FROM scratch\nCOPY Dockerfile /\n").push("app:1").run().await?;
        ensure!(status.phase == JobPhase::Succeeded, "{:?}", status.failure);
        Ok(())
    })
    .await;
}
