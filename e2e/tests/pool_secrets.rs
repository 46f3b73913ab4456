//! The registry Secrets that a pool mounts: missing, wrong, changed, added.

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use buildpools_crds::conditions;
use buildpools_crds::v1alpha1::{JobPhase, LocalReference, PoolCredential};
use buildpools_e2e::harness::{LOGIN, Tenant, wait};
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};

const APP: &str = "FROM scratch\nCOPY Dockerfile /\n";

fn secret(name: &str) -> PoolCredential {
    PoolCredential { secret_ref: LocalReference { name: name.into() } }
}

/// Waits until condition CredentialsReady has this reason; its message.
async fn until(tenant: &Tenant, reason: &str) -> anyhow::Result<String> {
    let what = format!("CredentialsReady says {reason}");
    let pool = wait::until(&tenant.pools(), "main", &what, wait::BUILD, |pool| {
        let status = pool.and_then(|pool| pool.status.as_ref());
        status
            .and_then(|status| conditions::find(&status.conditions, conditions::CREDENTIALS_READY))
            .is_some_and(|condition| condition.reason == reason)
    })
    .await?;
    let status = pool.and_then(|pool| pool.status).context("status")?;
    let condition = conditions::find(&status.conditions, conditions::CREDENTIALS_READY).context("condition")?;
    Ok(condition.message.clone())
}

fn restarts(pod: &Pod) -> i32 {
    let status = pod.status.iter();
    let containers = status.flat_map(|it| it.container_statuses.iter().chain(&it.init_container_statuses)).flatten();
    containers.map(|container| container.restart_count).sum()
}

#[tokio::test]
async fn a_missing_secret_is_named_the_pool_builds_and_the_secret_is_used_when_it_comes() {
    Tenant::with("secret-missing", async |tenant| {
        tenant.pool("main").spec(|spec| spec.credentials.push(secret("later"))).create_ready().await?;
        let message = until(tenant, "SecretMissing").await?;
        ensure!(message.contains("Secret later of spec.credentials does not exist"), "{message}");
        let status = tenant.job("app", "main").inline(APP).push("app:1").run().await?;
        ensure!(status.phase == JobPhase::Succeeded, "{:?}", status.failure);
        let before = tenant.pods().get("main-0").await?;

        let config = json!({"auths": {"r.example.com": {"username": "bob", "password": "bob-password"}}});
        tenant.docker_config("later", &config.to_string()).await?;
        until(tenant, "CredentialsReady").await?;
        tenant.api::<Secret>().delete("later", &DeleteParams::default()).await?;
        until(tenant, "SecretMissing").await?;
        let broken = json!({"auths": {"r.example.com": {"auth": "not base64: hunter2"}}});
        tenant.docker_config("later", &broken.to_string()).await?;
        let message = until(tenant, "EntryInvalid").await?;
        ensure!(message.contains("Secret later") && message.contains("r.example.com"), "{message}");
        ensure!(!message.contains("hunter2"), "a credential is shown: {message}");

        let after = tenant.pods().get("main-0").await?;
        ensure!(before.metadata.uid == after.metadata.uid && restarts(&after) == 0, "the member was restarted");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_rotated_password_reaches_the_next_build_without_a_restart() {
    Tenant::with("secret-rotated", async |tenant| {
        tenant.login("robot", "alice", "an-old-password").await?;
        tenant.pool("main").spec(|spec| spec.credentials = vec![secret("robot")]).create_ready().await?;
        let before = tenant.pods().get("main-0").await?;
        let refused = tenant.job("before", "main").inline(APP).push("app:1").run().await?;
        ensure!(refused.phase == JobPhase::Failed, "{refused:?}");

        let registry = &tenant.environment.cluster.registry;
        let config = json!({"auths": {registry: {"username": "alice", "password": "alice-password"}}}).to_string();
        let data = BTreeMap::from([(".dockerconfigjson".to_owned(), config)]);
        let patch = Patch::Merge(json!({"stringData": data}));
        tenant.api::<Secret>().patch("robot", &PatchParams::default(), &patch).await?;
        // The kubelet brings it into the pod within its sync period.
        let mut number = 0;
        wait::poll("a build pushes with the new password", wait::BUILD, async || {
            number += 1;
            let status = tenant.job(&format!("after-{number}"), "main").inline(APP).push("app:1").run().await?;
            Ok((status.phase == JobPhase::Succeeded).then_some(()))
        })
        .await?;
        let after = tenant.pods().get("main-0").await?;
        ensure!(before.metadata.uid == after.metadata.uid && restarts(&after) == 0, "the member was restarted");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn adding_and_removing_a_secret_replaces_the_member() {
    Tenant::with("secret-added", async |tenant| {
        tenant.pool("main").spec(|spec| spec.credentials.clear()).create_ready().await?;
        let list = |names: &[&str]| {
            let list: Vec<Value> = names.iter().map(|name| json!({"secretRef": {"name": name}})).collect();
            Patch::Merge(json!({"spec": {"credentials": list}}))
        };
        for (names, phase) in [(vec![LOGIN], JobPhase::Succeeded), (vec![], JobPhase::Failed)] {
            let old = tenant.pods().get("main-0").await?.metadata.uid;
            tenant.pools().patch("main", &PatchParams::default(), &list(&names)).await?;
            let mut upgrading = false;
            wait::until(&tenant.pools(), "main", "the change was shown as Upgrading", wait::BUILD, |pool| {
                let Some(status) = pool.and_then(|pool| pool.status.as_ref()) else { return false };
                let goes_on = conditions::is_true(&status.conditions, conditions::UPGRADING);
                upgrading |= goes_on;
                upgrading && !goes_on && status.ready_members == Some(1)
            })
            .await?;
            let new = tenant.pods().get("main-0").await?;
            ensure!(new.metadata.uid != old, "the member was not replaced");
            let mounts = serde_json::to_string(&new.spec.context("spec")?.containers[0].volume_mounts)?;
            ensure!(mounts.contains("credentials") != names.is_empty(), "{mounts}");
            let job = format!("push-{}", names.len());
            let status = tenant.job(&job, "main").inline(APP).push("app:1").run().await?;
            ensure!(status.phase == phase, "with {names:?}: {status:?}");
        }
        Ok(())
    })
    .await;
}
