//! The operator ends in every way that there is, while builds run.
//!
//! The time until the next job is bound is printed and not judged: it depends on the machine. See docs/benchmarks.md.

use std::time::Instant;

use anyhow::{Context as _, ensure};
use buildpools_crds::v1alpha1::{BuildJobStatus, JobPhase};
use buildpools_e2e::harness::{BASE, Tenant, wait};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use serde_json::json;

const NAMESPACE: &str = "buildpools-system";
const OPERATOR: &str = "buildpools-operator";
const BUILDS: [&str; 2] = ["one", "two"];

/// How the leading operator ends.
#[derive(Clone, Copy, Debug)]
enum End {
    /// Its Deployment is rolled out anew: every pod is replaced.
    RolledOut,
    /// Its pod is deleted: SIGTERM.
    Terminated,
    /// Its process is killed, and its container started again.
    Crashed,
    /// Its pod is deleted without grace: another name comes instead, and nobody gives the lease back.
    Killed,
}

#[tokio::test]
async fn operator_restart_loses_no_build_and_the_next_job_is_dispatched() {
    Tenant::with("operator-restart", async |tenant| {
        tenant.pool("main").spec(|spec| spec.scaling.builds_per_member = 3).create_ready().await?;
        for end in [End::RolledOut, End::Terminated, End::Crashed, End::Killed] {
            survive(tenant, end).await.with_context(|| format!("{end:?}"))?;
        }
        Ok(())
    })
    .await;
}

async fn survive(tenant: &Tenant, end: End) -> anyhow::Result<()> {
    // A replica that stands by is there again.
    rolled_out(tenant).await?;
    let name = |build: &str| format!("{build}-{}", format!("{end:?}").to_lowercase());
    let mut before: Vec<BuildJobStatus> = Vec::new();
    for build in BUILDS {
        let slow = format!("FROM {BASE}\nRUN echo {0}-has-begun && sleep 20 && echo {0}-has-ended\n", name(build));
        tenant.job(&name(build), "main").inline(&slow).push(&format!("{build}:1")).create().await?;
    }
    for build in BUILDS {
        tenant.printed("main-0", &format!("{}-has-begun", name(build))).await?;
        before.push(tenant.in_phase(&name(build), JobPhase::Running).await?);
    }

    let began = Instant::now();
    make(tenant, end).await?;
    tenant.job(&name("next"), "main").inline("FROM scratch\nCOPY Dockerfile /\n").create().await?;
    let is_bound = |status: &BuildJobStatus| status.timing.bound_at.is_some();
    tenant.status_when(&name("next"), "it is bound", is_bound).await?;
    println!("{end:?}: the next job was bound after {:.2} s", began.elapsed().as_secs_f64());

    for (build, before) in BUILDS.into_iter().zip(&before) {
        let status = tenant.ended(&name(build)).await?;
        ensure!(status.phase == JobPhase::Succeeded, "{build}: {:?}", status.failure);
        let [attempt] = &status.attempts[..] else { anyhow::bail!("{build} was built again: {:?}", status.attempts) };
        let first = before.attempts.first().context("it was running")?;
        ensure!(
            (&attempt.reference, &attempt.pod_uid, &attempt.started_at)
                == (&first.reference, &first.pod_uid, &first.started_at),
            "{build} is another attempt: {first:?}, then {attempt:?}"
        );
    }
    let next = tenant.ended(&name("next")).await?;
    ensure!(next.phase == JobPhase::Succeeded, "{:?}", next.failure);
    Ok(())
}

async fn make(tenant: &Tenant, end: End) -> anyhow::Result<()> {
    let client = &tenant.environment.client;
    let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    let leases: Api<Lease> = Api::namespaced(client.clone(), NAMESPACE);
    let leader = leases.get(OPERATOR).await?.spec.and_then(|spec| spec.holder_identity).context("nobody leads")?;
    match end {
        End::RolledOut => {
            let deployments: Api<Deployment> = Api::namespaced(client.clone(), NAMESPACE);
            let annotation = json!({"kubectl.kubernetes.io/restartedAt": Timestamp::now().to_string()});
            let patch = json!({"spec": {"template": {"metadata": {"annotations": annotation}}}});
            deployments.patch(OPERATOR, &PatchParams::default(), &Patch::Merge(patch)).await?;
            rolled_out(tenant).await?;
        }
        End::Terminated => {
            pods.delete(&leader, &DeleteParams::default()).await?;
        }
        End::Crashed => tenant.environment.kill_container(&pods.get(&leader).await?, "operator").await?,
        End::Killed => {
            let pod = pods.get(&leader).await?;
            // Its object first, so that the kubelet does not start the container again.
            let now = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
            pods.delete(&leader, &now).await?;
            // The kubelet may have been faster.
            let _ = tenant.environment.kill_container(&pod, "operator").await;
        }
    }
    Ok(())
}

/// Waits until all replicas are of the newest form and available.
async fn rolled_out(tenant: &Tenant) -> anyhow::Result<()> {
    let deployments: Api<Deployment> = Api::namespaced(tenant.environment.client.clone(), NAMESPACE);
    wait::until(&deployments, OPERATOR, "all replicas are available", wait::BUILD, |deployment| {
        let Some((spec, status)) = deployment.and_then(|d| Some((d.spec.as_ref()?, d.status.as_ref()?))) else {
            return false;
        };
        let generation = deployment.and_then(|deployment| deployment.metadata.generation);
        let all = |count: Option<i32>| count == spec.replicas;
        status.observed_generation == generation
            && all(status.replicas)
            && all(status.updated_replicas)
            && all(status.available_replicas)
    })
    .await?;
    Ok(())
}
