//! What a RUN step has started ends with the step, also where there is no process sandbox.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use buildpools_crds::v1alpha1::{JobPhase, PoolProfile};
use buildpools_e2e::harness::{BASE, Tenant, wait};
use kube::api::DeleteParams;

async fn in_each_profile(name: &str, test: impl AsyncFn(&Tenant) -> anyhow::Result<()>) {
    for profile in [PoolProfile::Rootless, PoolProfile::UserNamespace] {
        Tenant::with(&format!("{name}-{profile:?}").to_lowercase(), async |tenant| {
            tenant.pool("main").spec(|spec| spec.profile = profile).create_ready().await?;
            test(tenant).await.with_context(|| format!("profile {profile:?}"))
        })
        .await;
    }
}

/// Waits until no process of the daemon's container has this in its command line.
async fn none_is_left(tenant: &Tenant, word: &str) -> anyhow::Result<()> {
    wait::poll(&format!("no process {word} is left"), wait::SOON, async || {
        Ok((!tenant.processes("main-0").await?.contains(word)).then_some(()))
    })
    .await
}

#[tokio::test]
async fn pool_steps_end_with_all_that_they_have_started() {
    in_each_profile("steps-left", async |tenant| {
        // One holds the step's output, one has left its session, one has neither.
        let step =
            "(sleep 627 &) ; setsid sleep 627 & (sleep 627 >/dev/null 2>&1 &) ; sleep 0.2; echo the-step-is-done";
        let job = tenant.job("app", "main").inline(&format!("FROM {BASE}\nRUN {step}\nRUN echo the-next\n"));
        let status = job.spec(|spec| spec.timeout = Some(Duration::from_mins(2).into())).run().await?;
        ensure!(status.phase == JobPhase::Succeeded, "{:?}", status.failure);
        none_is_left(tenant, "sleep 627").await
    })
    .await;
}

#[tokio::test]
async fn pool_steps_that_are_cancelled_leave_nothing_and_hold_up_nobody() {
    in_each_profile("steps-cancelled", async |tenant| {
        let step = "(sleep 628 &) ; setsid sleep 628 & sleep 628 || echo on";
        tenant.job("app", "main").inline(&format!("FROM {BASE}\nRUN {step}\n")).create().await?;
        wait::poll("the step runs", wait::BUILD, async || {
            Ok(tenant.processes("main-0").await.is_ok_and(|all| all.contains("sleep 628")).then_some(()))
        })
        .await?;
        tenant.cancel("app").await?;
        let status = tenant.ended("app").await?;
        ensure!(status.phase == JobPhase::Cancelled, "{status:?}");
        none_is_left(tenant, "sleep 628").await?;
        let log = tenant.log("main-0", "runner").await?;
        ensure!(!log.contains("the daemon has not ended it"), "the daemon did not end the build: {log}");
        // Nor is its pod's end held up: the grace period is an hour.
        let before = tenant.pods().get("main-0").await?.metadata.uid;
        tenant.pods().delete("main-0", &DeleteParams::default()).await?;
        wait::until(&tenant.pods(), "main-0", "the pod is replaced", wait::SOON, |pod| {
            pod.is_some_and(|pod| pod.metadata.uid != before)
        })
        .await
        .map(drop)
    })
    .await;
}
