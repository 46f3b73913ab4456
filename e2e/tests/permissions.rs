//! The permissions that are granted are the permissions that are used.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Seek as _, SeekFrom};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use buildpools_crds::v1alpha1::{FailureReason, JobPhase};
use buildpools_crds::{conditions, names};
use buildpools_e2e::harness::{BASE, Tenant, wait};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule, Role, RoleBinding};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use serde_json::{Value, json};

/// verb, API group, resource with subresource.
type Permission = (String, String, String);

const OPERATOR: &str = "system:serviceaccount:buildpools-system:buildpools-operator";

#[tokio::test]
async fn granted_permissions_are_the_used_ones_and_none_is_on_secrets() {
    Tenant::with("permissions", async |tenant| {
        let client = tenant.environment.client.clone();
        let roles: Api<ClusterRole> = Api::all(client.clone());
        let lease: Api<Role> = Api::namespaced(client.clone(), "buildpools-system");
        let operator = roles.get("buildpools-operator").await?.rules.unwrap_or_default();
        let leases = lease.get("buildpools-operator-lease").await?.rules.unwrap_or_default();
        let runner = roles.get(names::RUNNER_CLUSTER_ROLE).await?.rules.unwrap_or_default();
        let mut operator = granted(operator.iter().chain(&leases));
        let runner = granted(&runner);
        for (verb, group, resource) in operator.iter().chain(&runner) {
            ensure!(!resource.starts_with("secrets"), "{verb} on Secrets is granted");
            ensure!(
                ![verb, group, resource].iter().any(|part| part.contains('*')),
                "wildcard: {verb} {group} {resource}"
            );
        }
        // Used by the API server's own check when a RoleBinding is made, never by a request.
        let bind = ("bind".into(), "rbac.authorization.k8s.io".into(), "clusterroles".into());
        ensure!(operator.remove(&bind), "bind is not granted");
        // Used when the answer to a write is lost, which cannot be brought about here: the dispatcher reads the job again.
        let read_again = ("get".into(), "buildpools.dev".into(), "buildjobs".into());
        ensure!(operator.remove(&read_again), "get buildjobs is not granted");

        // Used before an attempt is given up because its node is gone. There is one node here, and it stays.
        let look_at_node = ("get".into(), String::new(), "nodes".into());
        ensure!(operator.remove(&look_at_node), "get nodes is not granted");

        let start = std::fs::metadata(&tenant.environment.cluster.audit_log)?.len();
        exercise(tenant).await?;

        let account = format!("system:serviceaccount:{}:{}", tenant.namespace, names::runner("main"));
        wait::poll("all that is granted is used", wait::SOON, async || {
            let log = audit(tenant, start)?;
            let unused: Vec<_> = operator.difference(&used(&log, OPERATOR)).cloned().collect();
            Ok(unused.is_empty().then_some(()))
        })
        .await
        .or_else(|_| {
            let unused: Vec<_> = operator.difference(&used(&audit(tenant, start)?, OPERATOR)).cloned().collect();
            anyhow::bail!("granted to the operator and not used: {unused:#?}")
        })?;
        let log = audit(tenant, start)?;
        let unused: Vec<_> = runner.difference(&used(&log, &account)).cloned().collect();
        ensure!(unused.is_empty(), "granted to the runner and not used: {unused:#?}");
        for user in [OPERATOR, account.as_str()] {
            let denied: Vec<_> = log
                .iter()
                .filter(|entry| entry["user"]["username"] == user)
                .filter(|entry| entry["annotations"]["authorization.k8s.io/decision"] == "forbid")
                .map(|entry| entry["requestURI"].clone())
                .collect();
            ensure!(denied.is_empty(), "{user} was denied: {denied:?}");
        }
        Ok(())
    })
    .await;
}

/// Makes operator and runner do everything that they can do.
async fn exercise(tenant: &Tenant) -> anyhow::Result<()> {
    // A new start: waits for the definitions, takes the lease. The lease itself is made anew.
    let system = "buildpools-system";
    let client = tenant.environment.client.clone();
    let operators: Api<Pod> = Api::namespaced(client.clone(), system);
    let selector = ListParams::default().labels("app.kubernetes.io/component=operator");
    operators.delete_collection(&DeleteParams::default(), &selector).await?;
    let leases: Api<k8s_openapi::api::coordination::v1::Lease> = Api::namespaced(client, system);
    leases.delete("buildpools-operator", &DeleteParams::default()).await?;

    // Builds, for a job that is refused an event.
    tenant.pool("main").create_ready().await?;
    let status = tenant.job("app", "main").inline("FROM scratch\nCOPY Dockerfile /\n").push("app:1").run().await?;
    ensure!(status.phase == JobPhase::Succeeded, "{:?}", status.failure);
    let refused = tenant.job("refused", "nowhere").inline("FROM scratch\n").run().await?;
    ensure!(refused.failure.context("failure")?.reason == FailureReason::PoolNotFound);

    // A finished job that is not to be kept.
    tenant
        .job("brief", "main")
        .inline("FROM scratch\n")
        .spec(|spec| spec.ttl_after_finished = Some(Duration::from_secs(1).into()))
        .create()
        .await?;
    wait::until(&tenant.jobs(), "brief", "it is gone", wait::SOON, |job| job.is_none()).await?;

    // An attempt that is lost with its pod: looked at closely, and told. The second time is a repetition of the event.
    let endless = format!("FROM {BASE}\nRUN echo step-has-begun && sleep 600\n");
    tenant.job("endless", "main").inline(&endless).create().await?;
    for lost in 1..=2 {
        let what = format!("attempt {lost} runs");
        tenant.status_when("endless", &what, |s| s.phase == JobPhase::Running && s.attempts.len() == lost).await?;
        let now = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
        tenant.pods().delete("main-0", &now).await?;
    }
    tenant
        .status_when("endless", "two attempts are lost", |s| {
            s.attempts.get(1).is_some_and(|attempt| attempt.result.is_some())
        })
        .await?;

    // The third attempt builds long enough to be protected from eviction.
    let drift = Patch::Merge(json!({"metadata": {"labels": {"buildpools.dev/pool": "drifted"}}}));
    let by = PatchParams::default();
    let (budgets, budget) = (tenant.api::<PodDisruptionBudget>(), names::disruption_budget("main"));
    wait::until(&budgets, &budget, "the build is protected", wait::BUILD, |budget| budget.is_some()).await?;
    budgets.patch(&budget, &by, &drift).await?;
    wait::until(&budgets, &budget, "the label is repaired", wait::SOON, |budget| {
        budget
            .and_then(|budget| budget.metadata.labels.as_ref())
            .is_some_and(|l| l.get("buildpools.dev/pool").is_some_and(|v| v == "main"))
    })
    .await?;
    tenant.jobs().delete("endless", &DeleteParams::default()).await?;
    wait::until(&budgets, &budget, "nobody builds", wait::SOON, |budget| budget.is_none()).await?;

    // Drift in every kind of object is repaired, by a patch.
    let set = names::stateful_set("main");
    tenant.api::<StatefulSet>().patch(&set, &by, &drift).await?;
    tenant.api::<Service>().patch(&names::service("main"), &by, &drift).await?;
    tenant.api::<ConfigMap>().patch(&names::config_map("main"), &by, &drift).await?;
    tenant.api::<ServiceAccount>().patch(&names::runner("main"), &by, &drift).await?;
    tenant.api::<RoleBinding>().patch(&names::runner("main"), &by, &drift).await?;
    tenant.api::<NetworkPolicy>().patch(&names::network_policy("main"), &by, &drift).await?;
    wait::until(&tenant.api::<StatefulSet>(), &set, "the label is repaired", wait::SOON, |set| {
        set.and_then(|set| set.metadata.labels.as_ref())
            .is_some_and(|l| l.get("buildpools.dev/pool").is_some_and(|v| v == "main"))
    })
    .await?;

    // Another form of the pool: the member is replaced.
    let spec = json!({"spec": {"pod": {"resources": {"requests": {"cpu": "51m"}}}}});
    let changed = tenant.pools().patch("main", &by, &Patch::Merge(spec)).await?;
    wait::until(&tenant.pools(), "main", "the member is replaced", wait::BUILD, |pool| {
        let status = pool.and_then(|pool| pool.status.as_ref());
        status.is_some_and(|status| {
            status.observed_generation == changed.metadata.generation
                && conditions::find(&status.conditions, conditions::UPGRADING).is_some_and(|it| it.status == "False")
        })
    })
    .await?;

    // A volume that goes with its pool, and is to grow: the class is asked, and the StatefulSet made anew.
    let grown = Patch::Merge(json!({"spec": {"cache": {"size": "2Gi", "retain": true}}}));
    tenant.pools().patch("main", &by, &grown).await?;
    let claim = names::cache_claim("main", 0);
    wait::until(&tenant.api::<PersistentVolumeClaim>(), &claim, "it has no owner", wait::SOON, |claim| {
        claim.is_some_and(|claim| claim.metadata.owner_references.iter().flatten().count() == 0)
    })
    .await?;

    // A pool whose pods are refused: the operator looks for the reason.
    let restricted = Tenant::create_with(tenant.environment.clone(), "permissions-psa", "restricted").await?;
    restricted.pool("main").create().await?;
    let said = wait::until(&restricted.pools(), "main", "Ready explains the refusal", wait::SOON, |pool| {
        pool.and_then(|p| p.status.as_ref())
            .and_then(|s| conditions::find(&s.conditions, conditions::READY))
            .is_some_and(|c| c.message.contains("PodSecurity"))
    })
    .await;
    restricted.delete().await;
    said.map(drop)
}

fn granted<'a>(rules: impl IntoIterator<Item = &'a PolicyRule>) -> BTreeSet<Permission> {
    let mut all = BTreeSet::new();
    for rule in rules {
        for group in rule.api_groups.iter().flatten() {
            for resource in rule.resources.iter().flatten() {
                all.extend(rule.verbs.iter().map(|verb| (verb.clone(), group.clone(), resource.clone())));
            }
        }
    }
    all
}

/// The audit log from this offset on.
fn audit(tenant: &Tenant, offset: u64) -> anyhow::Result<Vec<Value>> {
    let mut file = std::fs::File::open(&tenant.environment.cluster.audit_log)?;
    // A log that was rotated since is shorter than the offset.
    let start = if file.metadata()?.len() < offset { 0 } else { offset };
    file.seek(SeekFrom::Start(start))?;
    // The last line may still be being written.
    Ok(BufReader::new(file).lines().map_while(Result::ok).filter_map(|line| serde_json::from_str(&line).ok()).collect())
}

fn used(log: &[Value], user: &str) -> BTreeSet<Permission> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    log.iter()
        .filter(|entry| entry["user"]["username"] == user && entry["objectRef"].is_object())
        .map(|entry| {
            let object = &entry["objectRef"];
            let (resource, sub) = (text(&object["resource"]), text(&object["subresource"]));
            let resource = if sub.is_empty() { resource } else { format!("{resource}/{sub}") };
            (text(&entry["verb"]), text(&object["apiGroup"]), resource)
        })
        .collect()
}
