//! What breaks in the middle of a build, and what must not break with it.

use anyhow::{Context as _, ensure};
use buildpools_crds::v1alpha1::{BuildJob, JobPhase};
use buildpools_crds::{conditions, names};
use buildpools_e2e::harness::{BASE, Tenant};
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::json;

/// A build that takes about ten seconds and prints when its step has begun.
fn slow() -> String {
    format!("FROM {BASE}\nRUN echo step-has-begun && sleep 10 && echo step-has-ended\n")
}

#[tokio::test]
async fn operator_killed_mid_build_the_build_ends_well() {
    Tenant::with("operator-killed", async |tenant| {
        tenant.pool("main").create_ready().await?;
        tenant.job("slow", "main").inline(&slow()).push("slow:1").create().await?;
        tenant.printed("main-0", "step-has-begun").await?;
        let before = tenant.in_phase("slow", JobPhase::Running).await?;

        let operators: Api<Pod> = Api::namespaced(tenant.environment.client.clone(), "buildpools-system");
        let selector = ListParams::default().labels("app.kubernetes.io/component=operator");
        let now = DeleteParams { grace_period_seconds: Some(0), ..Default::default() };
        operators.delete_collection(&now, &selector).await?;

        let status = tenant.ended("slow").await?;
        ensure!(status.phase == JobPhase::Succeeded, "{:?}", status.failure);
        ensure!(status.attempts.len() == 1, "built again: {:?}", status.attempts);
        ensure!(status.attempts[0].started_at == before.attempts[0].started_at, "another attempt");
        let digest = status.image.context("status.image")?.digest;
        let registry = tenant.environment.registry("alice")?;
        ensure!(registry.digest(&tenant.repository("slow"), "1").await? == Some(digest));

        // The next job finds an operator again.
        let status = tenant.job("next", "main").inline("FROM scratch\nCOPY Dockerfile /\n").run().await?;
        ensure!(status.phase == JobPhase::Succeeded, "{:?}", status.failure);
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn pod_deleted_gracefully_lets_its_build_end_first() {
    Tenant::with("drain", async |tenant| {
        tenant.pool("main").create_ready().await?;
        tenant.job("slow", "main").inline(&slow()).push("slow:1").create().await?;
        tenant.printed("main-0", "step-has-begun").await?;
        tenant.pods().delete("main-0", &DeleteParams::default()).await?;
        let status = tenant.ended("slow").await?;
        ensure!(status.phase == JobPhase::Succeeded, "{:?}", status.failure);
        ensure!(status.attempts.len() == 1, "the build was not drained: {:?}", status.attempts);
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_runner_cannot_write_a_job_of_another_pod() {
    Tenant::with("fence", async |tenant| {
        tenant.pool("main").spec(|spec| spec.scaling.min_members = 2).create_ready().await?;
        tenant.job("slow", "main").inline(&slow()).create().await?;
        let status = tenant.in_phase("slow", JobPhase::Running).await?;
        let owner = status.member.clone().context("status.member")?;
        let other = if owner == "main-0" { "main-1" } else { "main-0" };

        let outcome = json!({"status": {"phase": "Succeeded", "assignedTo": null}});
        let foreign = as_runner(tenant, "main", other).await?;
        let refused = patch_status(&foreign, tenant, "slow", &outcome).await;
        let message = refused.err().context("a foreign runner wrote the job's outcome")?.to_string();
        ensure!(message.contains("assigned to its own pod"), "{message}");

        // A token of the same ServiceAccount that is not bound to a pod is refused as well.
        let unbound = token_client(tenant, "main", None).await?;
        ensure!(patch_status(&unbound, tenant, "slow", &outcome).await.is_err(), "an unbound token wrote the outcome");

        // Nor may the right runner hand the job to somebody else.
        let own = as_runner(tenant, "main", &owner).await?;
        let handed = json!({"status": {"assignedTo": "00000000-0000-0000-0000-000000000000"}});
        let message = patch_status(&own, tenant, "slow", &handed).await.err().context("handed over")?.to_string();
        ensure!(message.contains("cannot assign"), "{message}");

        let pools: Api<buildpools_crds::v1alpha1::BuildPool> = Api::namespaced(own, &tenant.namespace);
        let lie = json!({"status": {"conditions": []}});
        let refused = pools.patch_status("main", &PatchParams::default(), &Patch::Merge(lie)).await;
        let message = refused.err().context("a runner wrote the pool's conditions")?.to_string();
        ensure!(message.contains("own entry of members"), "{message}");

        let status = tenant.ended("slow").await?;
        ensure!(status.phase == JobPhase::Succeeded, "{:?}", status.failure);

        // The end is the end, for everybody.
        let admin = tenant.environment.client.clone();
        let rewritten = patch_status(&admin, tenant, "slow", &json!({"status": {"phase": "Failed"}})).await;
        let message = rewritten.err().context("a terminal status was changed")?.to_string();
        ensure!(message.contains("the job has ended"), "{message}");
        ensure!(conditions::is_true(&status.conditions, conditions::COMPLETE));
        Ok(())
    })
    .await;
}

async fn patch_status(
    client: &kube::Client,
    tenant: &Tenant,
    job: &str,
    patch: &serde_json::Value,
) -> Result<BuildJob, kube::Error> {
    let jobs: Api<BuildJob> = Api::namespaced(client.clone(), &tenant.namespace);
    jobs.patch_status(job, &PatchParams::default(), &Patch::Merge(patch)).await
}

/// A client with the identity of the runner in that pod: a token of its ServiceAccount, bound to the pod.
async fn as_runner(tenant: &Tenant, pool: &str, pod: &str) -> anyhow::Result<kube::Client> {
    let uid = tenant.pods().get(pod).await?.metadata.uid;
    let bound =
        BoundObjectReference { api_version: Some("v1".into()), kind: Some("Pod".into()), name: Some(pod.into()), uid };
    token_client(tenant, pool, Some(bound)).await
}

async fn token_client(
    tenant: &Tenant,
    pool: &str,
    bound_object_ref: Option<BoundObjectReference>,
) -> anyhow::Result<kube::Client> {
    let accounts: Api<ServiceAccount> = tenant.api();
    let request = TokenRequest {
        spec: TokenRequestSpec { bound_object_ref, ..TokenRequestSpec::default() },
        ..TokenRequest::default()
    };
    let answer = accounts.create_token_request(&names::runner(pool), &PostParams::default(), &request).await?;
    tenant.environment.client_with_token(&answer.status.context("token")?.token).await
}
