//! What a person does with jobs: puts them in order, cancels, limits, deletes, changes and looks at them.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use buildpools_crds::v1alpha1::{BuildJobStatus, FailureReason, JobPhase, WhenPoolMissing};
use buildpools_crds::{conditions, labels};
use buildpools_e2e::harness::{BASE, JobBuilder, Tenant, wait};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::json;

/// The smallest build.
const SMALL: &str = "FROM scratch\nCOPY Dockerfile /\n";

/// A build that ends only when it is stopped. The quotes are not printed: the step's name does not hold what it says.
fn endless() -> String {
    format!("FROM {BASE}\nRUN echo step-'has'-begun && sleep 600\n")
}

fn reason(status: &BuildJobStatus) -> anyhow::Result<FailureReason> {
    Ok(status.failure.as_ref().with_context(|| format!("{:?} has no failure", status.phase))?.reason)
}

fn message(status: &BuildJobStatus) -> anyhow::Result<String> {
    Ok(status.failure.as_ref().context("no failure")?.message.clone())
}

/// Waits until no step sleeps any more, and the daemon lives.
async fn until_the_step_is_gone(tenant: &Tenant, pod: &str) -> anyhow::Result<()> {
    wait::poll("the step's process ends", wait::SOON, async || {
        let running = tenant.processes(pod).await?;
        ensure!(running.contains("buildkitd"), "the daemon ended with it: {running}");
        Ok((!running.contains("sleep 600")).then_some(()))
    })
    .await
}

#[tokio::test]
async fn of_the_jobs_that_wait_the_one_of_the_highest_priority_is_built_next() {
    Tenant::with("priority", async |tenant| {
        tenant.pool("main").spec(|spec| spec.scaling.builds_per_member = 1).create_ready().await?;
        tenant.job("first", "main").inline(&endless()).create().await?;
        tenant.in_phase("first", JobPhase::Running).await?;
        for (name, priority) in [("low", -10), ("normal", 0), ("raised", -20), ("high", 10)] {
            tenant.job(name, "main").inline(SMALL).spec(|spec| spec.priority = priority).create().await?;
        }
        for name in ["low", "normal", "raised", "high"] {
            tenant.status_when(name, "its place is told", |status| status.queue_position.is_some()).await?;
        }
        tenant.change("raised", json!({"priority": 20})).await?;
        // Only now is there a slot.
        tenant.cancel("first").await?;
        let mut started = BTreeMap::new();
        for name in ["low", "normal", "raised", "high"] {
            let status = tenant.ended(name).await?;
            ensure!(status.phase == JobPhase::Succeeded, "{name}: {:?}", status.failure);
            ensure!(status.queue_position.is_none(), "{name} still has a place in the queue");
            started.insert(status.attempts.first().context("attempt")?.started_at.0, name);
        }
        let order: Vec<_> = started.into_values().collect();
        ensure!(order == ["raised", "high", "normal", "low"], "{order:?}");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_build_that_runs_too_long_is_stopped_and_the_field_named() {
    Tenant::with("timeout", async |tenant| {
        let pool = tenant.pool("main").spec(|spec| {
            spec.job_defaults.timeout = Some(Duration::from_secs(5).into());
            spec.scaling.builds_per_member = 2;
        });
        pool.create_ready().await?;
        let own = tenant.job("own", "main").inline(&endless());
        own.spec(|spec| spec.timeout = Some(Duration::from_secs(4).into())).create().await?;
        tenant.job("pools", "main").inline(&endless()).create().await?;
        for (name, field) in [("own", "spec.timeout"), ("pools", "spec.jobDefaults.timeout of BuildPool main")] {
            let status = tenant.ended(name).await?;
            ensure!(reason(&status)? == FailureReason::Timeout, "{:?}", status.failure);
            let message = message(&status)?;
            ensure!(message.contains(&format!("the time that {field} allows")), "{message}");
            ensure!(status.attempts.len() == 1, "a timeout was tried again: {:?}", status.attempts);
        }
        until_the_step_is_gone(tenant, "main-0").await
    })
    .await;
}

#[tokio::test]
async fn a_job_waits_no_longer_than_it_says() {
    Tenant::with("queue-timeout", async |tenant| {
        tenant.pool("main").spec(|spec| spec.scaling.builds_per_member = 1).create_ready().await?;
        tenant.job("first", "main").inline(&endless()).create().await?;
        tenant.in_phase("first", JobPhase::Running).await?;
        let patient = tenant.job("patient", "main").inline(SMALL).create().await?;
        let second = tenant.job("second", "main").inline(SMALL);
        let status = second.spec(|spec| spec.queue_timeout = Some(Duration::from_secs(3).into())).run().await?;
        ensure!(reason(&status)? == FailureReason::Timeout, "{:?}", status.failure);
        let message = message(&status)?;
        ensure!(message.contains("queueTimeout"), "the field is not named: {message}");
        ensure!(status.attempts.is_empty(), "{:?}", status.attempts);
        // The time is the job's own: whoever does not limit it waits on.
        let found = tenant.jobs().get("patient").await?;
        ensure!(found.metadata.uid == patient.metadata.uid);
        ensure!(found.status.unwrap_or_default().phase == JobPhase::Pending);
        tenant.cancel("first").await?;
        ensure!(tenant.ended("patient").await?.phase == JobPhase::Succeeded);
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_running_build_that_is_cancelled_really_ends() {
    Tenant::with("cancel-running", async |tenant| {
        tenant.pool("main").spec(|spec| spec.scaling.builds_per_member = 1).create_ready().await?;
        tenant.job("endless", "main").inline(&endless()).push("endless:1").create().await?;
        tenant.printed("main-0", "step-has-begun").await?;
        ensure!(tenant.processes("main-0").await?.contains("sleep 600"), "the step does not run");
        let running = tenant.in_phase("endless", JobPhase::Running).await?;
        tenant.cancel("endless").await?;

        let waited = ["wait", "--for=condition=Failed", "--timeout=60s", "buildjob/endless"];
        let waited = tenant.environment.kubectl(&[&["-n", &tenant.namespace], &waited[..]].concat()).await?;
        ensure!(waited.status.success(), "kubectl wait: {}", String::from_utf8_lossy(&waited.stderr));
        let status = tenant.ended("endless").await?;
        ensure!(status.phase == JobPhase::Cancelled, "{:?}", status.phase);
        ensure!(reason(&status)? == FailureReason::Cancelled);
        ensure!(conditions::is_true(&status.conditions, conditions::STALLED), "{:?}", status.conditions);
        let results: Vec<_> = status.attempts.iter().map(|attempt| attempt.result.as_deref()).collect();
        ensure!(results == [Some("Cancelled")], "{results:?}");
        // It was written when the daemon had ended the build: its record is complete.
        let socket = "unix:///run/buildpools/buildkitd.sock";
        let command = ["buildctl", "--addr", socket, "debug", "histories", "--format", "{{json .}}"];
        let text = tenant.exec("main-0", "buildkitd", &command).await?;
        let record = text.lines().find(|line| line.contains(&running.attempts[0].reference)).context("no record")?;
        ensure!(record.to_lowercase().contains("\"completedat\":"), "the daemon's record is not complete: {record}");
        until_the_step_is_gone(tenant, "main-0").await?;

        let refused = tenant.change("endless", json!({"cancel": false})).await;
        let message = refused.err().context("the cancellation was taken back")?.to_string();
        ensure!(message.contains("cancel cannot be taken back"), "{message}");
        // The one slot is free.
        ensure!(tenant.job("next", "main").inline(SMALL).run().await?.phase == JobPhase::Succeeded);
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_job_that_has_not_started_is_cancelled_at_once() {
    Tenant::with("cancel-waiting", async |tenant| {
        // Its member never comes up, so a job is bound and then waits for its slot.
        let image = format!("{}/library/nothing:here", tenant.environment.cluster.registry);
        let pool = tenant.pool("main").spec(|spec| {
            spec.scaling.builds_per_member = 1;
            spec.buildkit.image = Some(image);
        });
        pool.create().await?;
        tenant.job("bound", "main").inline(SMALL).create().await?;
        tenant.in_phase("bound", JobPhase::Bound).await?;
        tenant.job("waiting", "main").inline(SMALL).create().await?;
        for name in ["waiting", "bound"] {
            tenant.cancel(name).await?;
            let status = tenant.ended(name).await?;
            ensure!(status.phase == JobPhase::Cancelled, "{name}: {:?}", status.phase);
            ensure!(reason(&status)? == FailureReason::Cancelled);
            ensure!(status.attempts.is_empty() && status.assigned_to.is_none(), "{name}: {status:?}");
        }
        let born_cancelled = tenant.job("born-cancelled", "main").inline(SMALL).spec(|spec| spec.cancel = true);
        ensure!(born_cancelled.run().await?.phase == JobPhase::Cancelled);
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn job_deleted_while_running_ends_its_build() {
    Tenant::with("job-deleted", async |tenant| {
        tenant.pool("main").create_ready().await?;
        tenant.job("endless", "main").inline(&endless()).create().await?;
        tenant.printed("main-0", "step-has-begun").await?;
        ensure!(tenant.processes("main-0").await?.contains("sleep 600"), "the step does not run");
        tenant.jobs().delete("endless", &DeleteParams::default()).await?;
        until_the_step_is_gone(tenant, "main-0").await?;
        // Its slot is free again.
        ensure!(tenant.job("next", "main").inline(SMALL).run().await?.phase == JobPhase::Succeeded);
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_job_without_a_pool_goes_to_the_default_one_and_a_selector_finds_its_own() {
    Tenant::with("routing", async |tenant| {
        let nameless = |name: &str| tenant.job(name, "").inline(SMALL).spec(|spec| spec.pool_ref = None);
        let selecting = |name: &str, team: &str| {
            let match_labels = Some(BTreeMap::from([("team".to_owned(), team.to_owned())]));
            let selector = LabelSelector { match_labels, ..LabelSelector::default() };
            nameless(name).spec(|spec| spec.pool_selector = Some(selector))
        };
        tenant.pool("first").create().await?;
        built_in(nameless("only"), "first").await?;
        let mut second = tenant.pool("second").object();
        second.metadata.labels = Some(BTreeMap::from([("team".to_owned(), "b".to_owned())]));
        tenant.pools().create(&kube::api::PostParams::default(), &second).await?;
        built_in(selecting("selected", "b"), "second").await?;
        // The default is chosen by its annotation.
        let annotation = json!({"metadata": {"annotations": {labels::DEFAULT_POOL: "true"}}});
        tenant.pools().patch("second", &PatchParams::default(), &Patch::Merge(annotation)).await?;
        wait::until(&tenant.pools(), "second", "it is the default", wait::SOON, |pool| {
            pool.and_then(|pool| pool.metadata.annotations.as_ref())
                .is_some_and(|a| a.contains_key(labels::DEFAULT_POOL))
        })
        .await?;
        built_in(nameless("by-default"), "second").await?;

        let limit = Some(Duration::from_secs(2).into());
        let waits = selecting("waits", "nobody").spec(|spec| {
            spec.when_pool_missing = WhenPoolMissing::Wait;
            spec.queue_timeout = limit;
        });
        ensure!(reason(&waits.run().await?)? == FailureReason::PoolUnavailable);
        let fails = selecting("fails", "nobody").run().await?;
        ensure!(reason(&fails)? == FailureReason::PoolNotFound, "{:?}", fails.failure);
        Ok(())
    })
    .await;
}

async fn built_in(job: JobBuilder<'_>, pool: &str) -> anyhow::Result<()> {
    let status = job.run().await?;
    ensure!(status.phase == JobPhase::Succeeded, "{:?}", status.failure);
    ensure!(status.pool.as_deref() == Some(pool), "built in {:?}", status.pool);
    ensure!(status.member == Some(format!("{pool}-0")), "built on {:?}", status.member);
    Ok(())
}

#[tokio::test]
async fn only_three_fields_of_a_job_can_be_changed() {
    Tenant::with("changes", async |tenant| {
        let job = tenant.job("app", "nobody").inline(SMALL).push("app:1");
        job.spec(|spec| spec.when_pool_missing = WhenPoolMissing::Wait).create().await?;
        for change in [
            json!({"poolRef": {"name": "other"}}),
            json!({"poolRef": null}),
            json!({"whenPoolMissing": null}),
            json!({"context": {"inline": {"files": [{"path": "Dockerfile", "content": "FROM scratch"}]}}}),
            json!({"dockerfile": {"path": "Dockerfile"}}),
            json!({"target": "release"}),
            json!({"args": {"VERSION": "2"}}),
            json!({"output": {"image": {"push": false}}}),
            json!({"cacheKey": "other"}),
            json!({"timeout": "1m"}),
            json!({"queueTimeout": "1m"}),
            json!({"infraRetries": 0}),
        ] {
            let refused = tenant.change("app", change.clone()).await.err();
            let message = refused.with_context(|| format!("{change} is accepted"))?.to_string();
            ensure!(message.contains("spec is immutable but for cancel, priority and ttlAfterFinished"), "{message}");
        }
        for change in [json!({"priority": 5}), json!({"ttlAfterFinished": "1h"}), json!({"ttlAfterFinished": null})] {
            tenant.change("app", change).await?;
        }
        tenant.cancel("app").await?;
        let status = tenant.ended("app").await?;
        ensure!(status.phase == JobPhase::Cancelled, "{:?}", status.phase);
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn kubectl_shows_where_a_job_is_and_why_it_failed() {
    Tenant::with("columns", async |tenant| {
        tenant.pool("main").create_ready().await?;
        let built = tenant.job("built", "main").inline(SMALL).push("app:1").run().await?;
        tenant.job("broken", "main").inline("FORM scratch\n").run().await?;
        let columns = ["get", "bj", "-o", "wide"];
        let output = tenant.environment.kubectl(&[&["-n", &tenant.namespace], &columns[..]].concat()).await?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let mut rows = text.lines();
        let header = rows.next().context("no header")?;
        let rows: BTreeMap<&str, &str> = rows.filter_map(|row| Some((row.split_whitespace().next()?, row))).collect();
        // Columns are where their names are: empty ones have no text of their own.
        let cell = |row: &str, column: &str| -> anyhow::Result<String> {
            let start = header.find(column).with_context(|| format!("no column {column}: {header}"))?;
            let row = rows.get(row).with_context(|| format!("no row {row}:\n{text}"))?;
            let cell = row.get(start..).unwrap_or_default();
            Ok(cell.split("  ").next().unwrap_or_default().trim().to_owned())
        };
        let digest = built.image.context("status.image")?.digest;
        for (row, column, expected) in [
            ("built", "PHASE", "Succeeded"),
            ("built", "POOL", "main"),
            ("built", "MEMBER", "main-0"),
            ("built", "REASON", ""),
            ("built", "DIGEST", digest.as_str()),
            ("built", "ATTEMPT", "1"),
            ("broken", "PHASE", "Failed"),
            ("broken", "REASON", "DockerfileInvalid"),
        ] {
            let found = cell(row, column)?;
            ensure!(found == expected, "{row} {column}: {found:?} instead of {expected:?}\n{text}");
        }
        Ok(())
    })
    .await;
}
