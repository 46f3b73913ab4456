//! Tools that wait for a BuildJob understand how it ended: Helm 4, whose `--wait` reads the conditions of kstatus, and
//! `kubectl wait`.

use std::path::Path;
use std::process::{Output, Stdio};

use anyhow::{Context as _, ensure};
use buildpools_crds::v1alpha1::JobPhase;
use buildpools_e2e::harness::{BASE, Tenant};
use kube::api::DeleteParams;

const SUCCEEDS: &str = "FROM scratch\nCOPY Dockerfile /\n";

/// Runs Helm as a user of the tenant would, with nothing of this machine's user.
async fn helm(tenant: &Tenant, args: &[&str]) -> anyhow::Result<Output> {
    let home = tempfile::tempdir()?;
    let environment = &tenant.environment;
    tokio::process::Command::new(environment.cluster.tool("helm"))
        .args(["--namespace", &tenant.namespace])
        .args(args)
        .env("KUBECONFIG", &environment.cluster.kubeconfig)
        .env("HELM_CACHE_HOME", home.path())
        .env("HELM_CONFIG_HOME", home.path())
        .env("HELM_DATA_HOME", home.path())
        .stdin(Stdio::null())
        .output()
        .await
        .context("helm does not start: `make tools` builds it")
}

/// Installs the chart with this Dockerfile and waits. The timeout is for a test that hangs: no outcome here takes so long.
async fn install(tenant: &Tenant, release: &str, dockerfile: &str) -> anyhow::Result<Output> {
    let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("charts/image");
    let chart = chart.to_str().context("path")?;
    let value = format!("dockerfile={}", serde_json::to_string(dockerfile)?);
    helm(tenant, &["install", release, chart, "--set-json", &value, "--wait", "--timeout", "10m"]).await
}

/// How the job has ended, without waiting for it.
async fn ended(tenant: &Tenant, job: &str) -> anyhow::Result<JobPhase> {
    Ok(tenant.jobs().get(job).await?.status.context("status")?.phase)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test]
async fn helm_install_waits_for_the_build() {
    Tenant::with("helm-wait", async |tenant| {
        tenant.pool("main").create_ready().await?;
        let installed = install(tenant, "app", &format!("FROM {BASE}\nRUN sleep 2\n")).await?;
        ensure!(installed.status.success(), "helm install: {}", text(&installed.stderr));
        let phase = ended(tenant, "app-1").await?;
        ensure!(phase == JobPhase::Succeeded, "helm did not wait: the job is {phase:?}");

        let removed = helm(tenant, &["uninstall", "app", "--wait"]).await?;
        ensure!(removed.status.success(), "helm uninstall: {}", text(&removed.stderr));
        ensure!(tenant.jobs().get_opt("app-1").await?.is_none(), "the job outlived its release");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn helm_install_fails_with_the_builds_message() {
    Tenant::with("helm-fail", async |tenant| {
        tenant.pool("main").create_ready().await?;
        let failed = install(tenant, "app", &format!("FROM {BASE}\nRUN exit 7\n")).await?;
        let said = text(&failed.stderr);
        ensure!(!failed.status.success(), "helm says that all is well: {}", text(&failed.stdout));
        ensure!(ended(tenant, "app-1").await? == JobPhase::Failed, "helm did not wait: {said}");
        let status = tenant.jobs().get("app-1").await?.status.unwrap_or_default();
        let message = status.failure.context("failure")?.message;
        ensure!(message.contains("exit code 7"), "{message}");
        ensure!(said.contains("status: Failed") && said.contains(&message), "helm does not say {message:?}: {said}");
        ensure!(!said.contains("deadline exceeded"), "helm waited until its timeout: {said}");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn helm_install_fails_when_the_job_is_refused() {
    Tenant::with("helm-refused", async |tenant| {
        let failed = install(tenant, "app", SUCCEEDS).await?;
        let said = text(&failed.stderr);
        ensure!(!failed.status.success() && said.contains("there is no BuildPool"), "{said}");
        ensure!(!said.contains("deadline exceeded"), "helm waited until its timeout: {said}");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn kubectl_waits_for_either_outcome() {
    Tenant::with("kubectl-wait", async |tenant| {
        tenant.pool("main").create_ready().await?;
        let fails = format!("FROM {BASE}\nRUN exit 7\n");
        for (job, condition, dockerfile) in [("good", "Complete", SUCCEEDS), ("bad", "Failed", fails.as_str())] {
            tenant.job(job, "main").inline(dockerfile).create().await?;
            let condition = format!("--for=condition={condition}");
            let job = format!("buildjob/{job}");
            let wait = ["-n", &tenant.namespace, "wait", &condition, "--timeout=180s", &job];
            let waited = tenant.environment.kubectl(&wait).await?;
            ensure!(waited.status.success(), "{condition} {job}: {}", text(&waited.stderr));
        }
        // A job that has ended has one of the two, never both.
        let both = ["-n", &tenant.namespace, "wait", "--for=condition=Complete", "--timeout=0", "buildjob/bad"];
        ensure!(!tenant.environment.kubectl(&both).await?.status.success(), "the failed job is complete");
        tenant.jobs().delete_collection(&DeleteParams::default(), &kube::api::ListParams::default()).await?;
        Ok(())
    })
    .await;
}
