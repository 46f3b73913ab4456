//! The members' caches: what survives, what goes, what is kept, and what happens when a disk or a database fails.

#[path = "pool_cache/disk.rs"]
mod disk;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use axum::http::Request;
use buildpools_crds::v1alpha1::{BuildPool, CacheGc, FailureReason, JobPhase, MemberCache};
use buildpools_crds::{conditions, names};
use buildpools_e2e::harness::{BASE, Tenant, wait};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod, ServiceAccount};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::api::storage::v1::StorageClass;
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use disk::Disk;

/// The daemon collects garbage within a minute of a build's end, the runner asks for it once a minute and tells it once
/// a minute.
const COLLECTED: Duration = Duration::from_mins(5);

async fn change(tenant: &Tenant, pool: &str, cache: Value) -> anyhow::Result<BuildPool> {
    let patch = Patch::Merge(json!({"spec": {"cache": cache}}));
    Ok(tenant.pools().patch(pool, &PatchParams::default(), &patch).await?)
}

fn cache(pool: Option<&BuildPool>) -> Option<&MemberCache> {
    pool?.status.as_ref()?.members.first()?.cache.as_ref()
}

/// The condition `CacheHealthy`: status and reason.
fn healthy(pool: Option<&BuildPool>) -> Option<(&str, &str)> {
    let found = conditions::find(&pool?.status.as_ref()?.conditions, conditions::CACHE_HEALTHY)?;
    Some((&found.status, &found.reason))
}

async fn reported(
    tenant: &Tenant,
    what: &str,
    limit: Duration,
    so: impl Fn(&MemberCache) -> bool,
) -> anyhow::Result<MemberCache> {
    let pool = wait::until(&tenant.pools(), "main", what, limit, |pool| cache(pool).is_some_and(&so)).await?;
    cache(pool.as_ref()).cloned().context("it was there")
}

async fn says(tenant: &Tenant, reason: &str, limit: Duration) -> anyhow::Result<String> {
    let what = format!("CacheHealthy says {reason}");
    let status = if reason == "CacheHealthy" { "True" } else { "False" };
    let pool =
        wait::until(&tenant.pools(), "main", &what, limit, |pool| healthy(pool) == Some((status, reason))).await?;
    let conditions = pool.and_then(|pool| pool.status).context("status")?.conditions;
    Ok(conditions::find(&conditions, conditions::CACHE_HEALTHY).context("condition")?.message.clone())
}

async fn succeeds(tenant: &Tenant, job: &str, dockerfile: &str) -> anyhow::Result<()> {
    let status = tenant.job(job, "main").inline(dockerfile).run().await?;
    ensure!(status.phase == JobPhase::Succeeded, "{job}: {:?}", status.failure);
    Ok(())
}

/// Whether the job found a step in the cache.
async fn was_cached(tenant: &Tenant, job: &str) -> anyhow::Result<bool> {
    let log = tenant.log("main-0", "runner").await?;
    let prefix = format!("[{job}]");
    Ok(log.lines().any(|line| line.starts_with(&prefix) && line.ends_with("CACHED")))
}

async fn events(tenant: &Tenant, reason: &str) -> anyhow::Result<Vec<String>> {
    let found = tenant.api::<Event>().list(&ListParams::default()).await?;
    let found = found.into_iter().filter(|event| event.reason.as_deref() == Some(reason));
    Ok(found.filter_map(|event| event.note).collect())
}

/// A build that goes on until it is cancelled.
async fn begin_endless(tenant: &Tenant, job: &str, step: &str) -> anyhow::Result<()> {
    tenant.job(job, "main").inline(&format!("FROM {BASE}\nRUN {step}; sleep 3600\n")).create().await?;
    tenant.in_phase(job, JobPhase::Running).await?;
    Ok(())
}

const STEP: &str = "RUN echo an-expensive-step > /result";

#[tokio::test]
async fn pool_cache_survives_the_pod_and_is_told_in_status_and_metrics() {
    Tenant::with("cache-survives", async |tenant| {
        tenant.pool("main").create_ready().await?;
        let dockerfile = format!("FROM {BASE}\n{STEP}\n");
        succeeds(tenant, "cold", &dockerfile).await?;
        let claims = tenant.api::<PersistentVolumeClaim>();
        let claim = claims.get(&names::cache_claim("main", 0)).await?;
        let first = tenant.pods().get("main-0").await?.uid();

        tenant.pods().delete("main-0", &DeleteParams::default()).await?;
        wait::until(&tenant.pods(), "main-0", "another pod is ready", wait::BUILD, |pod| {
            pod.is_some_and(|pod| pod.uid() != first && is_ready(pod))
        })
        .await?;
        succeeds(tenant, "warm", &dockerfile).await?;
        ensure!(was_cached(tenant, "warm").await?, "the cache was lost with the pod");
        ensure!(claims.get(&names::cache_claim("main", 0)).await?.uid() == claim.uid(), "another volume");

        let seen = reported(tenant, "the steps are told", COLLECTED, |cache| cache.cached_steps > 0).await?;
        ensure!(seen.bytes > 0 && seen.records > 0, "{seen:?}");
        ensure!(seen.capacity_bytes > seen.available_bytes && seen.available_bytes > 0, "{seen:?}");
        ensure!(seen.inodes > seen.inodes_free && seen.inodes_free > 0, "{seen:?}");
        ensure!(seen.steps >= seen.cached_steps, "{seen:?}");
        says(tenant, "CacheHealthy", wait::SOON).await?;

        let labels = format!("{{namespace=\"{}\",pool=\"main\"}}", tenant.namespace);
        let hit_ratio = wait::poll("the metrics have the cache", wait::SOON, async || {
            let text = metrics(tenant).await?;
            let value = |name: &str| {
                let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name}{labels} ")))?;
                line.parse::<f64>().ok()
            };
            Ok(value("buildpools_pool_cache_bytes")
                .filter(|bytes| *bytes > 0.0)
                .and(value("buildpools_pool_cache_hit_ratio")))
        })
        .await?;
        ensure!(hit_ratio > 0.0 && hit_ratio <= 1.0, "{hit_ratio}");
        Ok(())
    })
    .await;
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Of all replicas: the one that leads has the pools' figures.
async fn metrics(tenant: &Tenant) -> anyhow::Result<String> {
    let client = &tenant.environment.client;
    let pods: Api<Pod> = Api::namespaced(client.clone(), "buildpools-system");
    let mut all = String::new();
    for pod in pods.list(&ListParams::default().labels("app.kubernetes.io/component=operator")).await? {
        let path = format!("/api/v1/namespaces/buildpools-system/pods/{}:8080/proxy/metrics", pod.name_any());
        all += &client.request_text(Request::get(path).body(Vec::new())?).await.unwrap_or_default();
    }
    Ok(all)
}

#[tokio::test]
async fn pool_cache_goes_or_stays_as_the_pool_says_when_it_is_deleted() {
    Tenant::with("cache-retain", async |tenant| {
        let claims = tenant.api::<PersistentVolumeClaim>();
        let owners = |claim: &PersistentVolumeClaim| claim.owner_references().len();
        for (pool, first, last) in [("kept", false, true), ("gone", true, false)] {
            tenant.pool(pool).spec(|spec| spec.cache.retain = first).create_ready().await?;
            let name = names::cache_claim(pool, 0);
            ensure!(owners(&claims.get(&name).await?) == usize::from(!first));
            let pod = tenant.pods().get(&format!("{pool}-0")).await?.uid();
            change(tenant, pool, json!({"retain": last})).await?;
            let what = "the volume has another owner";
            wait::until(&claims, &name, what, wait::SOON, |claim| {
                claim.is_some_and(|claim| owners(claim) == usize::from(!last))
            })
            .await?;
            // The StatefulSet was made anew for members to come, and this one did not notice.
            wait::until(&tenant.api::<StatefulSet>(), pool, "the new one has taken the pod over", wait::SOON, |set| {
                set.and_then(|set| set.status.as_ref()).is_some_and(|status| status.ready_replicas == Some(1))
            })
            .await?;
            ensure!(tenant.pods().get(&format!("{pool}-0")).await?.uid() == pod, "the pod was replaced");
            tenant.pools().delete(pool, &DeleteParams::default()).await?;
        }
        let gone = "the volume is gone";
        wait::until(&claims, &names::cache_claim("gone", 0), gone, wait::BUILD, |claim| claim.is_none()).await?;
        wait::until(&tenant.pods(), "kept-0", "the pod is gone", wait::BUILD, |pod| pod.is_none()).await?;
        let kept = claims.get(&names::cache_claim("kept", 0)).await?;
        ensure!(kept.metadata.deletion_timestamp.is_none(), "{kept:#?}");

        // A pool that is deleted a moment after it was made leaves no volume behind.
        tenant.pool("brief").create().await?;
        let brief = names::cache_claim("brief", 0);
        wait::until(&claims, &brief, "there is a volume", wait::SOON, |claim| claim.is_some()).await?;
        tenant.pools().delete("brief", &DeleteParams::default()).await?;
        wait::until(&claims, &brief, gone, wait::BUILD, |claim| claim.is_none()).await?;
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn pool_cache_grows_where_its_class_allows_it_and_builds_run_on() {
    Tenant::with("cache-grows", async |tenant| {
        // The provisioner cannot grow a volume. That the claim asks for it is what is ours.
        let class = format!("expandable-{}", tenant.namespace);
        let classes: Api<StorageClass> = Api::all(tenant.environment.client.clone());
        let expandable = json!({
            "metadata": {"name": class, "annotations": {"defaultVolumeType": "local"}},
            "provisioner": "rancher.io/local-path", "volumeBindingMode": "WaitForFirstConsumer",
            "allowVolumeExpansion": true,
        });
        classes.create(&PostParams::default(), &serde_json::from_value(expandable)?).await?;
        let pool = tenant.pool("main").spec(|spec| spec.cache.storage_class_name = Some(class.clone()));
        let tested = async {
            pool.create_ready().await?;
            let sets = tenant.api::<StatefulSet>();
            let before = sets.get("main").await?.uid();
            begin_endless(tenant, "running", "true").await?;
            change(tenant, "main", json!({"size": "2Gi"})).await?;
            let claims = tenant.api::<PersistentVolumeClaim>();
            wait::until(&claims, &names::cache_claim("main", 0), "the volume is to grow", wait::SOON, |claim| {
                claim.is_some_and(|claim| requested(claim) == "2Gi")
            })
            .await?;
            let set = wait::until(&sets, "main", "the new StatefulSet has the pod", wait::SOON, |set| {
                set.is_some_and(|set| {
                    set.uid() != before && set.status.as_ref().is_some_and(|status| status.ready_replicas == Some(1))
                })
            })
            .await?;
            let templates = set.and_then(|set| set.spec?.volume_claim_templates).context("templates")?;
            ensure!(requested(&templates[0]) == "2Gi", "members to come: {templates:?}");
            let shrink = change(tenant, "main", json!({"size": "1Gi"})).await.unwrap_err().to_string();
            ensure!(shrink.contains("size may grow and not shrink"), "{shrink}");
            tenant.cancel("running").await?;
            let status = tenant.ended("running").await?;
            ensure!(status.attempts.len() == 1, "the build was begun again: {:?}", status.attempts);
            ensure!(status.phase == JobPhase::Cancelled, "{:?}", status.failure);
            Ok(())
        }
        .await;
        classes.delete(&class, &DeleteParams::default()).await?;
        tested
    })
    .await;
}

fn requested(claim: &PersistentVolumeClaim) -> String {
    let requests = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref()?.requests.as_ref());
    requests.and_then(|requests| requests.get("storage")).map(|quantity| quantity.0.clone()).unwrap_or_default()
}

#[tokio::test]
async fn pool_cache_that_cannot_grow_says_which_class_is_in_the_way() {
    Tenant::with("cache-stuck", async |tenant| {
        tenant.pool("main").create_ready().await?;
        change(tenant, "main", json!({"size": "2Gi"})).await?;
        let message = says(tenant, "VolumeExpansionUnsupported", wait::SOON).await?;
        ensure!(message.contains("StorageClass local-path") && message.contains("spec.cache.size is 2Gi"), "{message}");
        // As the message says: delete claim and pod.
        let claims = tenant.api::<PersistentVolumeClaim>();
        let name = names::cache_claim("main", 0);
        let before = claims.get(&name).await?;
        ensure!(requested(&before) == "1Gi");
        claims.delete(&name, &DeleteParams::default()).await?;
        tenant.pods().delete("main-0", &DeleteParams::default()).await?;
        wait::until(&claims, &name, "another and larger volume", wait::BUILD, |claim| {
            claim.is_some_and(|claim| claim.uid() != before.uid() && requested(claim) == "2Gi")
        })
        .await?;
        says(tenant, "CacheHealthy", wait::BUILD).await?;
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn pool_cache_garbage_is_collected_to_the_bound() {
    Tenant::with("cache-gc", async |tenant| {
        let most = 256_i64 << 20;
        let gc = CacheGc { max_used: Some("256Mi".into()), ..CacheGc::default() };
        tenant.pool("main").spec(|spec| spec.cache.gc = gc).create_ready().await?;
        for n in 1..=5 {
            let dockerfile = format!("FROM {BASE}\nRUN dd if=/dev/urandom of=/large bs=1M count=100 && echo {n}\n");
            succeeds(tenant, &format!("large-{n}"), &dockerfile).await?;
        }
        let seen = reported(tenant, "garbage is collected", COLLECTED, |cache| {
            cache.collected_at.is_some() && cache.bytes <= most
        })
        .await?;
        ensure!(seen.bytes > 0, "what fits is kept: {seen:?}");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn pool_cache_is_reset_once_and_not_twice() {
    Tenant::with("cache-reset", async |tenant| {
        // A pool that is made with the field does not begin with a reset.
        tenant.pool("main").spec(|spec| spec.cache.reset = Some("1".into())).create_ready().await?;
        let done = |value: &'static str| move |cache: &MemberCache| cache.reset_done.as_deref() == Some(value);
        let seen = reported(tenant, "the new volume counts as emptied", wait::SOON, done("1")).await?;
        ensure!(seen.reset_at.is_none(), "{seen:?}");
        let dockerfile = format!("FROM {BASE}\n{STEP}\n");
        succeeds(tenant, "first", &dockerfile).await?;

        // Not while a build runs, and not to its harm.
        let running = format!("FROM {BASE}\nRUN echo has-begun; sleep 20\n");
        tenant.job("running", "main").inline(&running).create().await?;
        tenant.printed("main-0", " has-begun").await?;
        change(tenant, "main", json!({"reset": "2"})).await?;
        let running = tenant.ended("running").await?;
        ensure!(running.phase == JobPhase::Succeeded && running.attempts.len() == 1, "{running:?}");
        let seen = reported(tenant, "it is emptied", wait::BUILD, done("2")).await?;
        ensure!(seen.records == 0, "{seen:?}");
        // In whole seconds.
        let (emptied, ended) = (seen.reset_at.context("when")?, running.timing.finished_at.context("when")?);
        ensure!(emptied.0.as_second() + 1 >= ended.0.as_second(), "{emptied:?} before the end of the build, {ended:?}");
        let told = wait::poll("an event says so", wait::SOON, async || {
            let told = events(tenant, "CacheReset").await?;
            Ok((!told.is_empty()).then_some(told))
        })
        .await?;
        ensure!(told == ["main-0 has emptied its cache (spec.cache.reset: 2)"], "{told:?}");

        succeeds(tenant, "again", &dockerfile).await?;
        ensure!(!was_cached(tenant, "again").await?, "it was not emptied");

        // Another pod on the same volume.
        let first = tenant.pods().get("main-0").await?.uid();
        tenant.pods().delete("main-0", &DeleteParams::default()).await?;
        wait::until(&tenant.pools(), "main", "the new pod has seen the reset", wait::BUILD, |pool| {
            let members = pool.and_then(|pool| pool.status.as_ref()).map(|status| status.members.as_slice());
            members
                .unwrap_or_default()
                .iter()
                .any(|member| Some(&member.uid) != first.as_ref() && member.cache.as_ref().is_some_and(done("2")))
        })
        .await?;
        succeeds(tenant, "after", &dockerfile).await?;
        ensure!(was_cached(tenant, "after").await?, "emptied a second time");
        ensure!(events(tenant, "CacheReset").await?.len() == 1);
        Ok(())
    })
    .await;
}

/// Where the first member's volume lies on the node.
async fn volume(tenant: &Tenant) -> anyhow::Result<PathBuf> {
    let claim = tenant.api::<PersistentVolumeClaim>().get(&names::cache_claim("main", 0)).await?;
    let name = claim.spec.and_then(|spec| spec.volume_name).context("it is bound")?;
    let volumes: Api<PersistentVolume> = Api::all(tenant.environment.client.clone());
    let spec = volumes.get(&name).await?.spec.context("spec")?;
    Ok(spec.local.context("a local volume")?.path.into())
}

#[tokio::test]
async fn pool_cache_with_a_damaged_database_heals() {
    Tenant::with("cache-damaged", async |tenant| {
        tenant.pool("main").create_ready().await?;
        let dockerfile = format!("FROM {BASE}\n{STEP}\n");
        succeeds(tenant, "before", &dockerfile).await?;
        let root = volume(tenant).await?.join("root");
        let database = root.join("runc-overlayfs/metadata_v2.db");
        let garbage: Vec<u8> = (0..16384_u32).map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[2]).collect();
        let good = std::fs::read(&database).with_context(|| database.display().to_string())?;
        ensure!(good.len() >= garbage.len());
        std::fs::write(&database, &garbage)?;
        let pod = tenant.pods().get("main-0").await?;
        tenant.environment.kill_container(&pod, names::DAEMON_CONTAINER).await?;

        let message = says(tenant, "CacheCorrupted", wait::BUILD).await?;
        ensure!(message.contains("main-0"), "{message}");
        let healed = reported(tenant, "it is healed", wait::BUILD, |cache| cache.healed_at.is_some()).await?;
        let told = wait::poll("an event says so", wait::SOON, async || {
            let told = events(tenant, "CacheCorrupted").await?;
            Ok((!told.is_empty()).then_some(told))
        })
        .await?;
        ensure!(told.len() == 1 && told[0].contains("main-0"), "{told:?}");
        says(tenant, "CacheHealthy", wait::BUILD).await?;
        ensure!(tenant.pods().get("main-0").await?.uid() == pod.uid(), "another pod");
        succeeds(tenant, "after", &dockerfile).await?;
        ensure!(!was_cached(tenant, "after").await?, "{healed:?}");
        ensure!(!root.with_file_name("root.damaged").exists(), "the damaged cache still takes room");
        Ok(())
    })
    .await;
}

/// A pool whose only member has this disk.
async fn on_disk(tenant: &Tenant, disk: &Disk, size: &str) -> anyhow::Result<()> {
    disk.offer(tenant, &names::cache_claim("main", 0), size).await?;
    tenant
        .pool("main")
        .spec(|spec| {
            spec.cache.storage_class_name = Some(disk.class.clone());
            size.clone_into(&mut spec.cache.size);
        })
        .create_ready()
        .await?;
    Ok(())
}

#[tokio::test]
async fn pool_cache_disk_full_is_pressure_and_a_reason() {
    Tenant::with("cache-full", async |tenant| {
        let disk = Disk::new(tenant, 512, None)?;
        on_disk(tenant, &disk, "512Mi").await?;
        says(tenant, "CacheHealthy", wait::SOON).await?;
        // It ends by itself: of a step that is cancelled, BuildKit keeps what it has written until the daemon ends.
        let hog = format!("FROM {BASE}\nRUN dd if=/dev/zero of=/full bs=1M; sleep 60; false\n");
        tenant.job("hog", "main").inline(&hog).create().await?;
        let message = says(tenant, "BytesPressure", wait::BUILD).await?;
        ensure!(message.contains("main-0"), "{message}");
        let status = tenant
            .job("victim", "main")
            .inline(&format!("FROM {BASE}\nRUN dd if=/dev/zero of=/more bs=1M count=100\n"))
            .run()
            .await?;
        let failure = status.failure.context("it had no room")?;
        ensure!(failure.reason == FailureReason::DiskFull, "{failure:?}");
        tenant.ended("hog").await?;
        says(tenant, "CacheHealthy", COLLECTED).await?;
        succeeds(tenant, "after", &format!("FROM {BASE}\n{STEP}\n")).await
    })
    .await;
}

#[tokio::test]
async fn pool_cache_without_inodes_is_pressure() {
    Tenant::with("cache-inodes", async |tenant| {
        let disk = Disk::new(tenant, 512, Some(4096))?;
        on_disk(tenant, &disk, "512Mi").await?;
        says(tenant, "CacheHealthy", wait::SOON).await?;
        begin_endless(tenant, "hog", "i=0; while : > /f$i; do i=$((i+1)); done").await?;
        let message = says(tenant, "InodePressure", wait::BUILD).await?;
        ensure!(message.contains("inodes"), "{message}");
        tenant.cancel("hog").await?;
        tenant.ended("hog").await?;
        says(tenant, "CacheHealthy", COLLECTED).await?;
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn the_operator_changes_only_claims_of_pools() {
    Tenant::with("cache-fence", async |tenant| {
        let claims = tenant.api::<PersistentVolumeClaim>();
        let spec = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
        let foreign: PersistentVolumeClaim =
            serde_json::from_value(json!({"metadata": {"name": "foreign"}, "spec": spec}))?;
        claims.create(&PostParams::default(), &foreign).await?;
        let labels = BTreeMap::from([
            ("buildpools.dev/pool".to_owned(), "main".to_owned()),
            ("app.kubernetes.io/managed-by".to_owned(), "buildpools".to_owned()),
        ]);
        let ours = PersistentVolumeClaim {
            metadata: ObjectMeta { name: Some("ours".into()), labels: Some(labels), ..ObjectMeta::default() },
            ..foreign
        };
        claims.create(&PostParams::default(), &ours).await?;
        let set = json!({
            "metadata": {"name": "foreign"},
            "spec": {"replicas": 0, "serviceName": "none", "selector": {"matchLabels": {"a": "b"}}, "template": {
                "metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": BASE}]},
            }},
        });
        tenant.api::<StatefulSet>().create(&PostParams::default(), &serde_json::from_value(set)?).await?;

        let accounts: Api<ServiceAccount> = Api::namespaced(tenant.environment.client.clone(), "buildpools-system");
        let request = TokenRequest::default();
        let token = accounts.create_token_request("buildpools-operator", &PostParams::default(), &request).await?;
        let operator = tenant.environment.client_with_token(&token.status.context("token")?.token).await?;
        let as_operator: Api<PersistentVolumeClaim> = Api::namespaced(operator.clone(), &tenant.namespace);
        let owner = json!([{"apiVersion": "buildpools.dev/v1alpha1", "kind": "BuildPool", "name": "main", "uid": "u"}]);
        let by = PatchParams::default();
        let allowed = Patch::Merge(json!({"metadata": {"ownerReferences": owner}}));
        // As a dry run: the garbage collector would take what belongs to a pool that is not there.
        let dry_run = PatchParams { dry_run: true, ..PatchParams::default() };
        as_operator.patch("ours", &dry_run, &allowed).await?;
        for (claim, patch, why) in [
            (
                "foreign",
                json!({"metadata": {"ownerReferences": owner}}),
                "only the PersistentVolumeClaims of pool members",
            ),
            ("ours", json!({"metadata": {"labels": {"buildpools.dev/pool": "other"}}}), "only whether it belongs"),
            ("ours", json!({"metadata": {"annotations": {"a": "b"}}}), "only whether it belongs"),
            ("ours", json!({"spec": {"volumeName": "stolen"}}), "only the requested size"),
        ] {
            let refused = as_operator.patch(claim, &by, &Patch::Merge(&patch)).await;
            let refused = refused.err().with_context(|| format!("{claim} {patch}"))?.to_string();
            ensure!(refused.contains(why), "{claim} {patch}: {refused}");
        }
        let sets: Api<StatefulSet> = Api::namespaced(operator, &tenant.namespace);
        let refused = sets.delete("foreign", &DeleteParams::default()).await.err().context("deleted")?.to_string();
        ensure!(refused.contains("only StatefulSets and PodDisruptionBudgets that belong to a BuildPool"), "{refused}");
        Ok(())
    })
    .await;
}
