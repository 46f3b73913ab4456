//! One tenant's builds stay in that tenant's pool.

use anyhow::{Context as _, ensure};
use buildpools_crds::v1alpha1::{FailureReason, JobPhase};
use buildpools_e2e::harness::Tenant;

#[tokio::test]
async fn each_job_runs_in_the_pool_of_its_own_namespace() {
    Tenant::with_others("tenant-a", ["tenant-b"], async |a, [b]| two_tenants(a, b).await).await;
}

async fn two_tenants(a: &Tenant, b: &Tenant) -> anyhow::Result<()> {
    a.pool("main").create().await?;
    b.pool("main").create().await?;
    b.pool("only-in-b").create().await?;
    for tenant in [a, b] {
        tenant.job("app", "main").inline("FROM scratch\nCOPY Dockerfile /\n").push("app:1").create().await?;
    }
    a.job("trespasser", "only-in-b").inline("FROM scratch\n").create().await?;

    for tenant in [a, b] {
        let status = tenant.ended("app").await?;
        ensure!(status.phase == JobPhase::Succeeded, "{:?}", status.failure);
        let pod = tenant.pods().get("main-0").await?;
        ensure!(pod.metadata.uid.as_deref() == Some(status.attempts[0].pod_uid.as_str()), "built in a foreign pod");
    }
    let status = a.ended("trespasser").await?;
    let failure = status.failure.context("the job that names a foreign pool failed")?;
    ensure!(failure.reason == FailureReason::PoolNotFound, "{failure:?}");
    ensure!(failure.message.contains("only-in-b") && failure.message.contains(&a.namespace), "{}", failure.message);
    ensure!(status.attempts.is_empty(), "it was given to a member: {:?}", status.attempts);
    Ok(())
}
