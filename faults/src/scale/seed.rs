//! Pools with members and jobs with a past, as a cluster has them after some weeks.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use buildpools_crds::lifecycle::{self, Member, Outcome, Policy};
use buildpools_crds::v1alpha1::{BuildJob, BuildJobStatus, BuildPool, BuiltImage, Failure, FailureReason};
use buildpools_crds::{conditions, labels, names, patch};
use buildpools_e2e::cluster::process::wait_until;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;

use super::PATIENCE;
use crate::sets;

/// Pools of a namespace.
const PER_NAMESPACE: usize = 20;

/// Requests that are under way at a time.
const CONCURRENCY: usize = 16;

fn namespace(pool: usize) -> String {
    format!("team-{}", pool / PER_NAMESPACE)
}

fn pool_name(pool: usize) -> String {
    format!("pool-{}", pool % PER_NAMESPACE)
}

/// Makes pools and, once the operator has made their StatefulSets, their members, and waits until the operator says that
/// all are ready.
///
/// # Errors
/// When the API server refuses or the operator does not do its part.
pub async fn pools(client: &Client, count: usize) -> Result<()> {
    sets::create_node(client).await?;
    for first in (0..count).step_by(PER_NAMESPACE) {
        sets::create_namespace(client, &namespace(first)).await?;
    }
    let create = async |number: usize| {
        let pool: BuildPool = serde_json::from_value(json!({
            "metadata": {"name": pool_name(number)},
            "spec": {
                "scaling": {"minMembers": 1, "buildsPerMember": 2},
                "cache": {"size": "50Gi"},
                "credentials": [{"secretRef": {"name": "registry"}}],
            },
        }))?;
        let api: Api<BuildPool> = Api::namespaced(client.clone(), &namespace(number));
        api.create(&PostParams::default(), &pool).await?;
        anyhow::Ok(())
    };
    stream::iter((0..count).map(create)).buffer_unordered(CONCURRENCY).try_collect::<Vec<_>>().await?;
    let all: Api<StatefulSet> = Api::all(client.clone());
    let sets = ListParams::default().labels(labels::POOL);
    wait_until("the pools' StatefulSets", PATIENCE, &[], async || {
        tokio::time::sleep(Duration::from_secs(1)).await;
        Ok(all.list_metadata(&sets).await?.items.len() == count)
    })
    .await?;
    let made = all.list(&sets).await?.items;
    let pods = made.iter().map(|set| sets::create_pod(client, set, 0));
    stream::iter(pods).buffer_unordered(CONCURRENCY).try_collect::<Vec<_>>().await?;
    let all: Api<BuildPool> = Api::all(client.clone());
    wait_until("the pools", PATIENCE, &[], async || {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let pools = all.list(&ListParams::default()).await?.items;
        Ok(pools.iter().all(|pool| {
            let conditions = pool.status.as_ref().map_or(&[][..], |status| &status.conditions);
            conditions::find(conditions, conditions::READY).is_some_and(|ready| ready.status == "True")
        }))
    })
    .await
}

/// Gives an object of every pool an annotation that nobody knows, with this value: a reason to look at the pool, and
/// nothing to do. (The pool's own annotations are none.)
///
/// # Errors
/// When the API server refuses.
pub async fn touch(client: &Client, pools: usize, value: usize) -> Result<()> {
    let touch = async |number: usize| {
        let api: Api<Service> = Api::namespaced(client.clone(), &namespace(number));
        let patch = json!({"metadata": {"annotations": {"example.com/touched": value.to_string()}}});
        let service = names::service(&pool_name(number));
        api.patch_metadata(&service, &PatchParams::default(), &Patch::Merge(&patch)).await?;
        anyhow::Ok(())
    };
    stream::iter((0..pools).map(touch)).buffer_unordered(CONCURRENCY).try_collect().await
}

/// Makes jobs: one of twenty is Running, the others have ended. Returns their mean size in bytes, as the API server
/// sends them.
///
/// # Errors
/// When the API server refuses.
pub async fn jobs(client: &Client, count: usize, pools: usize) -> Result<usize> {
    let pods: Api<Pod> = Api::all(client.clone());
    let members: HashMap<(String, String), Member> = pods
        .list(&ListParams::default().labels(labels::POOL))
        .await?
        .items
        .into_iter()
        .map(|pod| {
            let key = (pod.namespace().unwrap_or_default(), pod.labels()[labels::POOL].clone());
            (key, Member { uid: pod.uid().unwrap_or_default(), pod: pod.name_any() })
        })
        .collect();
    let bytes = AtomicUsize::new(0);
    let create = async |number: usize| {
        let pool = number % pools;
        let (namespace, name) = (namespace(pool), pool_name(pool));
        let api: Api<BuildJob> = Api::namespaced(client.clone(), &namespace);
        let made = api.create(&PostParams::default(), &job(&format!("app-{number}"), &name)?).await?;
        let member = members.get(&(namespace, name.clone())).context("each pool has a member")?;
        let is_running = number.is_multiple_of(20);
        let status = past(&made, &name, member, (!is_running).then_some(number))?;
        let patch = Patch::Merge(patch::job_status(&made, &status)?);
        let job = api.patch_status(&made.name_any(), &PatchParams::default(), &patch).await?;
        bytes.fetch_add(serde_json::to_vec(&job)?.len(), Ordering::Relaxed);
        anyhow::Ok(())
    };
    stream::iter((0..count).map(create)).buffer_unordered(CONCURRENCY).try_collect::<Vec<_>>().await?;
    Ok(bytes.into_inner() / count.max(1))
}

/// Makes a job that can be bound at once. Returns its namespace and name.
///
/// # Errors
/// When the API server refuses.
pub async fn waiting(client: &Client, number: usize) -> Result<(String, String)> {
    let (namespace, name) = (namespace(number), format!("now-{number}"));
    let api: Api<BuildJob> = Api::namespaced(client.clone(), &namespace);
    api.create(&PostParams::default(), &job(&name, &pool_name(number))?).await?;
    Ok((namespace, name))
}

fn job(name: &str, pool: &str) -> Result<BuildJob> {
    let args: serde_json::Map<_, _> =
        (0..6).map(|n| (format!("BUILD_SETTING_{n}"), json!(format!("value-{n}-of-{name}")))).collect();
    Ok(serde_json::from_value(json!({
        "metadata": {"name": name, "labels": {"app.kubernetes.io/part-of": "shop", "team": "a"}},
        "spec": {
            "poolRef": {"name": pool},
            "context": {"git": {"url": format!("https://git.example.com/team/{name}.git"), "ref": "main"}},
            "dockerfile": {"path": "build/Dockerfile"},
            "args": args,
            "output": {"image": {"names": [format!("registry.example.com/team/{name}:1.2.3")]}},
            "timeout": "30m",
        },
    }))?)
}

/// The status of a job that was bound and started, and that has ended if there is a number to tell how: one of ten
/// failed.
fn past(job: &BuildJob, pool: &str, member: &Member, ended: Option<usize>) -> Result<BuildJobStatus> {
    let now = Timestamp::now();
    let status = lifecycle::bind(&BuildJobStatus::default(), pool, member, now)?;
    let uid = job.uid().unwrap_or_default();
    let status = lifecycle::start(&status, &uid, member, "0d3c5b0e-2b9f-4d5e-9d0a-5a4c8f2f6f10", now)?;
    let Some(number) = ended else { return Ok(status) };
    let outcome = if number % 10 == 1 {
        let lines =
            (0..12).map(|line| format!("src/main.c:{line}:1: error: unknown type name 'imt'; did you mean 'int'?"));
        Outcome::Failed(Failure {
            reason: FailureReason::BuildStepFailed,
            message: "[build 3/4] RUN make failed with exit code 2 (Dockerfile:7)".into(),
            step: Some("[build 3/4] RUN make".into()),
            location: None,
            exit_code: Some(2),
            log_tail: lines.collect(),
        })
    } else {
        let names = job.spec.output.image.clone().map(|image| image.names).unwrap_or_default();
        Outcome::Succeeded(Some(BuiltImage { digest: format!("sha256:{number:064x}"), names }))
    };
    Ok(lifecycle::finish(&status, &member.uid, &outcome, Policy::default(), now)?)
}
