//! How long finished jobs are kept.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use buildpools_crds::v1alpha1::{BuildJob, JobPhase, WhenPoolMissing};
use buildpools_e2e::harness::{Tenant, wait};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::json;

const BUILD: &str = "FROM scratch\nCOPY Dockerfile /\n";

async fn names(tenant: &Tenant) -> anyhow::Result<BTreeSet<String>> {
    let jobs = tenant.jobs().list(&ListParams::default()).await?;
    Ok(jobs.items.into_iter().filter_map(|job| job.metadata.name).collect())
}

/// Waits until these jobs are left.
async fn left(tenant: &Tenant, expected: &[&str]) -> anyhow::Result<()> {
    let expected: BTreeSet<String> = expected.iter().map(|name| (*name).to_owned()).collect();
    let what = format!("{expected:?} are left");
    let found = wait::poll(&what, wait::SOON, async || Ok((names(tenant).await? == expected).then_some(()))).await;
    match found {
        Ok(()) => Ok(()),
        Err(error) => Err(error.context(format!("{:?} are there", names(tenant).await?))),
    }
}

#[tokio::test]
async fn a_finished_job_goes_when_its_time_is_over_which_may_be_set_afterwards() {
    Tenant::with("history-ttl", async |tenant| {
        tenant.pool("main").create_ready().await?;
        let status = tenant.job("stays", "main").inline(BUILD).run().await?;
        ensure!(status.phase == JobPhase::Succeeded, "{:?}", status.failure);
        tenant
            .job("brief", "main")
            .inline(BUILD)
            .spec(|spec| spec.ttl_after_finished = Some(Duration::from_secs(1).into()))
            .create()
            .await?;
        left(tenant, &["stays"]).await?;
        let now = Patch::Merge(json!({"spec": {"ttlAfterFinished": "0s"}}));
        tenant.jobs().patch("stays", &PatchParams::default(), &now).await?;
        left(tenant, &[]).await
    })
    .await;
}

#[tokio::test]
async fn of_too_many_finished_jobs_the_oldest_go_and_those_of_gitops_stay() {
    Tenant::with("history-limit", async |tenant| {
        tenant.pool("main").create_ready().await?;
        let mut flux = tenant.job("of-flux", "main").inline(BUILD).object();
        flux.metadata.labels = Some([("kustomize.toolkit.fluxcd.io/name".into(), "apps".into())].into());
        tenant.jobs().create(&PostParams::default(), &flux).await?;
        tenant.ended("of-flux").await?;
        for name in ["one", "two", "three"] {
            tenant.job(name, "main").inline(BUILD).run().await?;
        }
        for name in ["broken-1", "broken-2"] {
            let status = tenant.job(name, "main").inline("FROM scratch\nNONSENSE\n").run().await?;
            ensure!(status.phase == JobPhase::Failed, "{status:?}");
        }
        ensure!(names(tenant).await?.len() == 6, "without a limit all are kept");
        let limits = Patch::Merge(json!({"spec": {"successfulJobsHistoryLimit": 2, "failedJobsHistoryLimit": 1}}));
        tenant.pools().patch("main", &PatchParams::default(), &limits).await?;
        left(tenant, &["broken-2", "of-flux", "three", "two"]).await?;
        tenant.job("four", "main").inline(BUILD).create().await?;
        left(tenant, &["broken-2", "four", "of-flux", "three"]).await
    })
    .await;
}

#[tokio::test]
async fn the_operator_deletes_only_jobs_that_have_ended() {
    Tenant::with("history-fence", async |tenant| {
        tenant
            .job("waits", "nowhere")
            .inline(BUILD)
            .spec(|spec| {
                spec.when_pool_missing = WhenPoolMissing::Wait;
            })
            .create()
            .await?;
        let operator: Api<BuildJob> = Api::namespaced(tenant.environment.as_operator().await?, &tenant.namespace);
        let refused = operator.delete("waits", &DeleteParams::default()).await;
        let message = refused.err().context("the operator deleted a job that waits")?.to_string();
        ensure!(message.contains("only BuildJobs that have ended: waits is Pending"), "{message}");
        let refused = operator.delete_collection(&DeleteParams::default(), &ListParams::default()).await;
        let message = refused.err().context("the operator deleted all jobs")?.to_string();
        ensure!(message.contains("deletecollection"), "{message}");
        tenant.job("ended", "nowhere").inline(BUILD).run().await?;
        operator.delete("ended", &DeleteParams::default()).await?;
        left(tenant, &["waits"]).await
    })
    .await;
}
