//! What a pool consists of stays as it is, whatever people do to it; and who builds is not evicted.

use std::fmt::Debug;

use anyhow::{Context as _, ensure};
use axum::http::Request;
use buildpools_crds::v1alpha1::JobPhase;
use buildpools_crds::{conditions, names};
use buildpools_e2e::harness::{BASE, Tenant, wait};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::RoleBinding;
use kube::Resource;
use kube::api::{Api, DeleteParams, EvictParams, ListParams, Patch, PatchParams, PostParams, PropagationPolicy};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// How often drift of this kind was repaired, by any replica.
async fn repaired(tenant: &Tenant, kind: &str) -> anyhow::Result<f64> {
    let pods: Api<Pod> = Api::namespaced(tenant.environment.client.clone(), "buildpools-system");
    let series = format!("buildpools_pool_drift_repaired_total{{kind=\"{kind}\"}} ");
    let mut sum = 0.0;
    for pod in pods.list(&ListParams::default().labels("app.kubernetes.io/component=operator")).await? {
        let name = pod.metadata.name.context("name")?;
        let path = format!("/api/v1/namespaces/buildpools-system/pods/{name}:8080/proxy/metrics");
        let text = tenant.environment.client.request_text(Request::get(path).body(Vec::new())?).await?;
        let value = text.lines().find_map(|line| line.strip_prefix(&series)).context("the kind is counted")?;
        sum += value.parse::<f64>()?;
    }
    Ok(sum)
}

/// Without what changes with every write.
fn content<K: Serialize>(object: &K) -> anyhow::Result<Value> {
    let mut value = serde_json::to_value(object)?;
    for field in ["resourceVersion", "managedFields", "generation", "uid", "creationTimestamp"] {
        value["metadata"].as_object_mut().map(|metadata| metadata.remove(field));
    }
    value.as_object_mut().map(|object| object.remove("status"));
    // An address is given anew with every Service.
    value["spec"].as_object_mut().map(|spec| spec.remove("clusterIPs"));
    Ok(value)
}

async fn drift<K>(tenant: &Tenant, name: &str, edits: &[Value], survives_deletion: bool) -> anyhow::Result<()>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + Clone
        + Debug
        + Serialize
        + DeserializeOwned
        + Send
        + 'static,
{
    let kind = K::kind(&()).into_owned();
    let api = tenant.api::<K>();
    let before = api.get(name).await?;
    let wanted = content(&before)?;
    for edit in edits {
        let count = repaired(tenant, &kind).await?;
        let edited = api.patch(name, &PatchParams::default(), &Patch::Merge(edit)).await?;
        ensure!(content(&edited)? != wanted, "{kind}: {edit} changes nothing");
        wait::until(&api, name, &format!("{kind}: {edit} is undone"), wait::SOON, |object| {
            object.is_some_and(|object| content(object).is_ok_and(|is| is == wanted))
        })
        .await?;
        wait::poll("the repair is counted", wait::SOON, async || {
            Ok((repaired(tenant, &kind).await? > count).then_some(()))
        })
        .await?;
    }
    let count = repaired(tenant, &kind).await?;
    // As `kubectl delete --cascade=orphan`: the members live on.
    let orphan = DeleteParams { propagation_policy: Some(PropagationPolicy::Orphan), ..DeleteParams::default() };
    let before = api.get(name).await?.meta().uid.clone();
    api.delete(name, &orphan).await?;
    wait::until(&api, name, &format!("{kind} is back"), wait::SOON, |object| {
        object.is_some_and(|object| object.meta().uid != before && content(object).is_ok_and(|is| is == wanted))
    })
    .await?;
    if survives_deletion {
        wait::poll("the repair is counted", wait::SOON, async || {
            Ok((repaired(tenant, &kind).await? > count).then_some(()))
        })
        .await?;
    }
    Ok(())
}

#[tokio::test]
async fn pool_isolation_drift_of_every_kind_is_repaired_and_counted() {
    Tenant::with("drift", async |tenant| {
        tenant.pool("main").create_ready().await?;
        let member = tenant.pods().get("main-0").await?.metadata.uid;
        let labels = json!({"metadata": {"labels": {"buildpools.dev/pool": "drifted"}}});

        let edits =
            [labels.clone(), json!({"data": {"buildkitd.toml": "debug = true"}}), json!({"data": {"more": "x"}})];
        drift::<ConfigMap>(tenant, &names::config_map("main"), &edits, true).await?;
        let edits = [
            labels.clone(),
            json!({"spec": {"ingress": [{}]}}),
            json!({"spec": {"podSelector": {"matchLabels": {"x": "y"}}}}),
        ];
        drift::<NetworkPolicy>(tenant, &names::network_policy("main"), &edits, true).await?;
        let edits =
            [labels.clone(), json!({"spec": {"ports": [{"port": 80}]}}), json!({"spec": {"selector": {"x": "y"}}})];
        drift::<Service>(tenant, &names::service("main"), &edits, true).await?;
        let edits = [labels.clone(), json!({"automountServiceAccountToken": true})];
        drift::<ServiceAccount>(tenant, &names::runner("main"), &edits, true).await?;
        let more = json!([{"kind": "ServiceAccount", "name": "default", "namespace": tenant.namespace}]);
        let edits = [labels.clone(), json!({"subjects": more})];
        drift::<RoleBinding>(tenant, &names::runner("main"), &edits, true).await?;
        let edits = [
            labels,
            json!({"spec": {"replicas": 2}}),
            json!({"spec": {"template": {"spec": {"hostNetwork": true}}}}),
            json!({"spec": {"template": {"spec": {"automountServiceAccountToken": true}}}}),
            json!({"spec": {"template": {"metadata": {"annotations": {"kubectl.kubernetes.io/restartedAt": "now"}}}}}),
        ];
        drift::<StatefulSet>(tenant, &names::stateful_set("main"), &edits, true).await?;
        ensure!(tenant.pods().get("main-0").await?.metadata.uid == member, "a repair touched the member");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn pool_isolation_a_member_that_builds_is_not_evicted_and_an_idle_one_is() {
    Tenant::with("budget", async |tenant| {
        tenant.pool("main").spec(|spec| spec.scaling.min_members = 2).create_ready().await?;
        let budgets = tenant.api::<PodDisruptionBudget>();
        let name = names::disruption_budget("main");
        ensure!(budgets.get_opt(&name).await?.is_none(), "an idle pool has one");

        tenant.job("long", "main").inline(&format!("FROM {BASE}\nRUN sleep 600\n")).create().await?;
        let status = tenant.in_phase("long", JobPhase::Running).await?;
        let busy = status.attempts.last().context("attempt")?.pod.clone();
        let idle = ["main-0", "main-1"].into_iter().find(|pod| *pod != busy).context("idle")?;
        wait::until(&budgets, &name, "it protects the member that builds", wait::SOON, |budget| {
            budget.and_then(|b| b.status.as_ref()).is_some_and(|status| status.observed_generation.is_some())
        })
        .await?;

        let refused = tenant.pods().evict(&busy, &EvictParams::default()).await.err().context("it is evicted")?;
        ensure!(matches!(&refused, kube::Error::Api(status) if status.code == 429), "{refused}");
        let before = tenant.pods().get(idle).await?.metadata.uid;
        tenant.pods().evict(idle, &EvictParams::default()).await?;
        wait::until(&tenant.pods(), idle, "the idle one goes", wait::BUILD, |pod| {
            pod.is_none_or(|pod| pod.metadata.uid != before)
        })
        .await?;

        // Drift of this kind too.
        let edits =
            [json!({"spec": {"maxUnavailable": 1}}), json!({"spec": {"unhealthyPodEvictionPolicy": "AlwaysAllow"}})];
        drift::<PodDisruptionBudget>(tenant, &name, &edits, false).await?;

        tenant.cancel("long").await?;
        tenant.ended("long").await?;
        wait::until(&budgets, &name, "it goes with the build", wait::SOON, |budget| budget.is_none()).await?;
        tenant.pods().evict(&busy, &EvictParams::default()).await?;
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn pool_isolation_a_budget_of_somebody_else_is_left_alone() {
    Tenant::with("budget-foreign", async |tenant| {
        let name = names::disruption_budget("main");
        let theirs =
            json!({"metadata": {"name": name}, "spec": {"maxUnavailable": 1, "selector": {"matchLabels": {"a": "b"}}}});
        let budgets = tenant.api::<PodDisruptionBudget>();
        let theirs = budgets.create(&PostParams::default(), &serde_json::from_value(theirs)?).await?;
        tenant.pool("main").create().await?;
        let condition = |pool: &buildpools_crds::v1alpha1::BuildPool, reason: &str| {
            let conditions = pool.status.as_ref().map(|status| status.conditions.clone()).unwrap_or_default();
            conditions::find(&conditions, conditions::READY).is_some_and(|ready| ready.reason == reason)
        };
        wait::until(&tenant.pools(), "main", "Ready names it", wait::SOON, |pool| {
            pool.is_some_and(|pool| condition(pool, "NameConflict"))
        })
        .await?;
        ensure!(budgets.get(&name).await?.spec == theirs.spec);
        budgets.delete(&name, &DeleteParams::default()).await?;
        wait::until(&tenant.pools(), "main", "the pool comes", wait::BUILD, |pool| {
            pool.is_some_and(|pool| condition(pool, conditions::READY))
        })
        .await?;
        Ok(())
    })
    .await;
}
