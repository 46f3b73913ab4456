//! What is built again, how often, and what is not: real losses of the daemon, the runner, the pod, the memory.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use buildpools_crds::names;
use buildpools_crds::v1alpha1::{BuildJobStatus, FailureReason, JobPhase};
use buildpools_e2e::harness::{BASE, Tenant};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::api::{DeleteParams, PostParams};
use kube::core::Status;
use serde_json::json;

/// A build that runs for ever, unless the member's cache knows that it has been begun before.
fn stuck_once() -> String {
    let again = "echo step-has-ended";
    // The quotes are not printed: the step's name does not hold what the step says.
    let first = "touch /cache/seen; echo step-'has'-begun; sleep 600";
    format!("FROM {BASE}\nRUN --mount=type=cache,target=/cache if [ -e /cache/seen ]; then {again}; else {first}; fi\n")
}

/// How each attempt ended.
fn results(status: &BuildJobStatus) -> Vec<&str> {
    status.attempts.iter().map(|attempt| attempt.result.as_deref().unwrap_or("none")).collect()
}

#[tokio::test]
async fn runner_killed_mid_build_leads_to_a_second_attempt_and_one_outcome() {
    Tenant::with("runner-killed", async |tenant| {
        tenant.pool("main").create_ready().await?;
        tenant.job("app", "main").inline(&stuck_once()).push("app:1").create().await?;
        tenant.printed("main-0", "step-has-begun").await?;
        let before = tenant.in_phase("app", JobPhase::Running).await?;
        let pod = tenant.pods().get("main-0").await?;
        tenant.environment.kill_container(&pod, names::RUNNER_CONTAINER).await?;

        let status = tenant.ended("app").await?;
        ensure!(status.phase == JobPhase::Succeeded, "{:?}", status.failure);
        ensure!(results(&status) == ["RunnerLost", "Succeeded"], "{:?}", status.attempts);
        ensure!(status.attempts[0].reference == before.attempts[0].reference, "the first attempt was rewritten");
        ensure!(status.attempts[1].reference != status.attempts[0].reference, "the old Ref was solved again");
        let uid = pod.metadata.uid.context("uid")?;
        ensure!(
            status.attempts.iter().all(|a| a.pod_uid == uid),
            "the pod was replaced: this test is about its container"
        );

        // The daemon itself remembers each Ref once, with what became of it.
        let socket = "unix:///run/buildpools/buildkitd.sock";
        let command = ["buildctl", "--addr", socket, "debug", "histories", "--format", "{{json .}}"];
        let text = tenant.exec("main-0", names::DAEMON_CONTAINER, &command).await?;
        for attempt in &status.attempts {
            let records = text.lines().filter(|line| line.contains(&attempt.reference)).count();
            ensure!(records == 1, "{} has {records} records in the daemon's history:\n{text}", attempt.reference);
        }
        Ok(())
    })
    .await;
}

/// Kills buildkitd itself; its container ends with it.
async fn kill_daemon(tenant: &Tenant, pod: &str) -> anyhow::Result<()> {
    let script = "for p in /proc/[0-9]*; do tr '\\0' ' ' <$p/cmdline 2>/dev/null | grep -q '^buildkitd ' && kill -9 ${p#/proc/}; done; true";
    match tenant.exec(pod, names::DAEMON_CONTAINER, &["sh", "-c", script]).await {
        // The shell is a process of that container, too.
        Err(error) if error.to_string().contains("exit code 137") => Ok(()),
        killed => killed.map(drop),
    }
}

#[tokio::test]
async fn daemon_killed_mid_build_leads_to_a_second_attempt() {
    Tenant::with("daemon-killed", async |tenant| {
        tenant.pool("main").create_ready().await?;
        tenant.job("app", "main").inline(&stuck_once()).create().await?;
        tenant.printed("main-0", "step-has-begun").await?;
        kill_daemon(tenant, "main-0").await?;
        let status = tenant.ended("app").await?;
        ensure!(status.phase == JobPhase::Succeeded, "{:?}", status.failure);
        ensure!(results(&status) == ["DaemonLost", "Succeeded"], "{:?}", status.attempts);
        let message = status.attempts[0].message.as_deref().unwrap_or_default();
        ensure!(message.contains("buildkitd"), "the attempt does not say what happened: {message}");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn without_retries_the_first_loss_is_the_end() {
    Tenant::with("no-retries", async |tenant| {
        let pool = tenant.pool("main").spec(|spec| {
            spec.scaling.builds_per_member = 2;
            spec.job_defaults.infra_retries = Some(0);
        });
        pool.create_ready().await?;
        tenant.job("pools", "main").inline(&stuck_once()).create().await?;
        // What the job says goes before what the pool says. Both wait for the same step.
        tenant.job("own", "main").inline(&stuck_once()).spec(|spec| spec.infra_retries = Some(1)).create().await?;
        for name in ["pools", "own"] {
            tenant.in_phase(name, JobPhase::Running).await?;
        }
        tenant.printed("main-0", "step-has-begun").await?;
        kill_daemon(tenant, "main-0").await?;
        let status = tenant.ended("pools").await?;
        ensure!(status.phase == JobPhase::Failed && results(&status) == ["DaemonLost"], "{status:?}");
        ensure!(status.failure.context("status.failure")?.reason == FailureReason::DaemonLost);
        let status = tenant.ended("own").await?;
        ensure!(status.phase == JobPhase::Succeeded, "{:?}", status.failure);
        ensure!(results(&status) == ["DaemonLost", "Succeeded"], "{:?}", status.attempts);
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn pod_killed_mid_build_leads_to_a_second_attempt_in_its_successor() {
    Tenant::with("pod-killed", async |tenant| {
        tenant.pool("main").create_ready().await?;
        tenant.job("app", "main").inline(&stuck_once()).create().await?;
        tenant.printed("main-0", "step-has-begun").await?;
        // No grace: the runner has no time to drain, as when a node dies.
        let now = DeleteParams { grace_period_seconds: Some(0), ..Default::default() };
        tenant.pods().delete("main-0", &now).await?;
        second_attempt_elsewhere(tenant).await
    })
    .await;
}

#[tokio::test]
async fn pod_evicted_mid_build_leads_to_a_second_attempt_in_its_successor() {
    Tenant::with("pod-evicted", async |tenant| {
        tenant.pool("main").create_ready().await?;
        tenant.job("app", "main").inline(&stuck_once()).create().await?;
        tenant.printed("main-0", "step-has-begun").await?;
        // Less grace than the build needs. (kube's own `evict` sends its options under a name that nobody reads.)
        let eviction = json!({
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": "main-0"},
            "deleteOptions": {"gracePeriodSeconds": 1},
        });
        let _: Status =
            tenant.pods().create_subresource("eviction", "main-0", &PostParams::default(), &eviction).await?;
        second_attempt_elsewhere(tenant).await
    })
    .await;
}

async fn second_attempt_elsewhere(tenant: &Tenant) -> anyhow::Result<()> {
    let status = tenant.ended("app").await?;
    ensure!(status.phase == JobPhase::Succeeded, "{:?}", status.failure);
    ensure!(results(&status) == ["PodEvicted", "Succeeded"], "{:?}", status.attempts);
    ensure!(status.attempts[0].pod_uid != status.attempts[1].pod_uid, "{:?}", status.attempts);
    Ok(())
}

#[tokio::test]
async fn a_step_that_runs_out_of_memory_is_tried_once_more_and_no_oftener() {
    Tenant::with("out-of-memory", async |tenant| {
        let pool = tenant.pool("main").spec(|spec| {
            spec.scaling.builds_per_member = 2;
            let limit = IntOrString::String("256Mi".into());
            spec.pod.resources.limits.insert("memory".into(), limit);
        });
        pool.create_ready().await?;
        // tail keeps a whole line in memory, and this one has no end.
        let dockerfile = format!("FROM {BASE}\nRUN tail /dev/zero\n");
        let job = tenant.job("greedy", "main").inline(&dockerfile).spec(|spec| spec.infra_retries = Some(5));
        let status = job.run().await?;
        ensure!(status.phase == JobPhase::Failed, "{:?}", status.phase);
        ensure!(results(&status) == ["OutOfMemory", "OutOfMemory"], "{:?}", status.attempts);
        let failure = status.failure.context("status.failure")?;
        ensure!(failure.reason == FailureReason::OutOfMemory, "{failure:?}");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_pool_whose_members_do_not_start_is_unavailable() {
    Tenant::with("unavailable", async |tenant| {
        // Nothing that the cluster has: no member is ever scheduled, and no job starts.
        let image = format!("{}/library/nothing:here", tenant.environment.cluster.registry);
        tenant.pool("main").spec(|spec| spec.buildkit.image = Some(image)).create().await?;
        let job = tenant.job("app", "main").inline("FROM scratch\nCOPY Dockerfile /\n");
        let job = job.spec(|spec| spec.queue_timeout = Some(Duration::from_secs(5).into()));
        let status = job.run().await?;
        let failure = status.failure.context("status.failure")?;
        ensure!(failure.reason == FailureReason::PoolUnavailable, "{failure:?}");
        ensure!(status.attempts.is_empty(), "{:?}", status.attempts);
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_failure_of_the_builds_own_is_not_tried_again() {
    Tenant::with("own-failure", async |tenant| {
        tenant.pool("main").create_ready().await?;
        let dockerfile = format!("FROM {BASE}\nRUN exit 7\n");
        let job = tenant.job("broken", "main").inline(&dockerfile).spec(|spec| spec.infra_retries = Some(5));
        let status = job.run().await?;
        ensure!(status.phase == JobPhase::Failed && results(&status) == ["BuildStepFailed"], "{status:?}");
        Ok(())
    })
    .await;
}
