//! A cold start: a pool's first member against a bare StatefulSet of the same images and volumes.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::Context as _;
use buildpools_crds::names;
use buildpools_crds::v1alpha1::{BuildJob, BuildPool};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec};
use k8s_openapi::api::core::v1::{Container, ExecAction, PersistentVolume, PersistentVolumeClaim, Pod, Probe};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use kube::{Resource, ResourceExt as _};

use super::figure::{Figure, spread};
use super::member::WarmMember;
use super::observer::Observer;
use super::sample;
use super::site::Site;
use super::warm::{self, POOL, SLOTS};
use crate::harness::{Tenant, wait};

/// Label of the bare StatefulSets.
const LABEL: &str = "app";

/// Measures `rounds` rounds. The pool [`POOL`] gives the shape of the bare StatefulSet.
///
/// # Errors
/// When a member does not start.
pub async fn run(tenant: &Tenant, site: &Site, rounds: usize) -> anyhow::Result<Vec<Figure>> {
    WarmMember::start(tenant, site, POOL, SLOTS).await?;
    let pattern = tenant.api::<StatefulSet>().get(&names::stateful_set(POOL)).await?;
    let pattern = pattern.spec.context("a StatefulSet has a spec")?;
    let mut pods = Observer::start(tenant.pods()).await?;
    let (mut members, mut bare, mut jobs) = (vec![], vec![], vec![]);
    // The first round is not counted.
    for round in 0..=rounds {
        let mut taken = [0.0; 3];
        for place in 0..3 {
            let which = (round + place) % 3;
            let name = format!("{}-{round}", ["cold-member", "cold-bare", "cold-job"][which]);
            taken[which] = match which {
                0 => member(tenant, &mut pods, &name).await?,
                1 => bare_stateful_set(tenant, &mut pods, &name, &pattern).await?,
                _ => first_job(tenant, site, &name).await?,
            };
        }
        eprintln!(
            "cold start, round {round} of {rounds}: member {:.0} ms, bare StatefulSet {:.0} ms, first job {:.0} ms",
            taken[0], taken[1], taken[2]
        );
        if round > 0 {
            members.push(taken[0]);
            bare.push(taken[1]);
            jobs.push(taken[2]);
        }
    }
    for (name, values) in [
        ("BuildPool created to member ready", &members),
        ("bare StatefulSet", &bare),
        ("to Solve of a first job", &jobs),
    ] {
        eprintln!("cold start, {name}: {} ms", spread(values));
    }
    Ok(vec![
        Figure::ratio("cold_member_over_statefulset", "ms", &members, &bare, 1.5),
        Figure::ratio("cold_job_over_statefulset", "ms", &jobs, &bare, 1.5),
    ])
}

/// From the creation of a pool until its member is ready.
async fn member(tenant: &Tenant, pods: &mut Observer<Pod>, name: &str) -> anyhow::Result<f64> {
    let began = Instant::now();
    tenant.pool(name).create().await?;
    let took = ready(pods, name, began).await?;
    remove(&tenant.pools(), tenant, name).await?;
    Ok(took)
}

/// The same of a StatefulSet that nobody manages.
async fn bare_stateful_set(
    tenant: &Tenant,
    pods: &mut Observer<Pod>,
    name: &str,
    pattern: &StatefulSetSpec,
) -> anyhow::Result<f64> {
    let api = tenant.api::<StatefulSet>();
    let object = bare(name, pattern)?;
    let began = Instant::now();
    api.create(&PostParams::default(), &object).await?;
    let took = ready(pods, name, began).await?;
    remove(&api, tenant, name).await?;
    Ok(took)
}

/// From the creation of a pool with a job until the daemon receives the job's build.
async fn first_job(tenant: &Tenant, site: &Site, name: &str) -> anyhow::Result<f64> {
    let job = tenant.job(name, name).inline(&warm::dockerfile(tenant)).push("cold:1").object();
    let created = Timestamp::now();
    tenant.pool(name).create().await?;
    let job: BuildJob = tenant.jobs().create(&PostParams::default(), &job).await?;
    tenant.ended(name).await?;
    let pod = tenant.pods().get(&pod_of(name)).await?;
    let daemon = site.daemon(&pod).await?;
    let (received, _) = sample::solved(&daemon, &job.uid().context("a job has a UID")?).await?;
    remove::<BuildPool>(&tenant.pools(), tenant, name).await?;
    Ok(sample::milliseconds(created, received))
}

fn pod_of(name: &str) -> String {
    format!("{name}-0")
}

async fn ready(pods: &mut Observer<Pod>, name: &str, began: Instant) -> anyhow::Result<f64> {
    let pod = pod_of(name);
    let what = format!("{pod} is ready");
    let seen = pods.until(&what, |seen| seen.object.name_any() == pod && is_ready(&seen.object)).await?;
    Ok(seen.at.duration_since(began).as_secs_f64() * 1000.0)
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Deletes the owner and waits until all of it is gone, the volume too: the provisioner clears it away in a pod.
async fn remove<K>(owners: &Api<K>, tenant: &Tenant, name: &str) -> anyhow::Result<()>
where
    K: Resource + Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    owners.delete(name, &DeleteParams::background()).await?;
    let claim = names::cache_claim(name, 0);
    wait::until(&tenant.pods(), &pod_of(name), "the pod is gone", wait::BUILD, |pod| pod.is_none()).await?;
    let claims = tenant.api::<PersistentVolumeClaim>();
    if claims.get_opt(&claim).await?.is_some_and(|claim| claim.metadata.owner_references.is_none()) {
        claims.delete(&claim, &DeleteParams::default()).await?;
    }
    wait::until(&claims, &claim, "the claim is gone", wait::SOON, |claim| claim.is_none()).await?;
    let volumes: Api<PersistentVolume> = Api::all(tenant.environment.client.clone());
    wait::poll("the volume is gone", wait::SOON, async || {
        let volumes = volumes.list(&ListParams::default()).await?;
        let claimed = volumes.iter().filter_map(|volume| volume.spec.as_ref()?.claim_ref.as_ref());
        let mut ours = claimed.filter(|reference| reference.namespace.as_deref() == Some(&tenant.namespace));
        Ok(ours.all(|reference| reference.name.as_deref() != Some(&claim)).then_some(()))
    })
    .await
}

/// The pool's own StatefulSet with another program in the main container: one that does nothing, in BuildKit's image,
/// whose probes ask the daemon. Volumes, mounts, periods and everything else stay.
fn bare(name: &str, pattern: &StatefulSetSpec) -> anyhow::Result<StatefulSet> {
    let labels = BTreeMap::from([(LABEL.to_owned(), name.to_owned())]);
    let mut spec = pattern.clone();
    spec.selector = LabelSelector { match_labels: Some(labels.clone()), ..LabelSelector::default() };
    spec.template.metadata = Some(ObjectMeta { labels: Some(labels.clone()), ..ObjectMeta::default() });
    for claim in spec.volume_claim_templates.iter_mut().flatten() {
        claim.metadata.labels = Some(labels.clone());
        // The pool's; `remove` deletes a claim that nobody owns.
        claim.metadata.owner_references = None;
        claim.status = None;
    }
    let pod = spec.template.spec.as_mut().context("a template has a pod")?;
    // Sleep does not end when it is asked to.
    pod.termination_grace_period_seconds = Some(1);
    let daemon = pod.init_containers.iter().flatten().find(|container| container.name == names::DAEMON_CONTAINER);
    let daemon = daemon.context("the pool's pod has a daemon")?;
    let image = daemon.image.clone();
    let address = argument(daemon, "--addr").context("the daemon has an address")?;
    let ask = ["buildctl", "--addr", &address, "debug", "workers"].map(str::to_owned).to_vec();
    let ask = |probe: &Probe| Probe { exec: Some(ExecAction { command: Some(ask.clone()) }), ..probe.clone() };
    let main = pod.containers.iter_mut().find(|container| container.name == names::RUNNER_CONTAINER);
    let main = main.context("the pool's pod has a runner")?;
    main.image = image;
    main.command = Some(vec!["sleep".to_owned(), "infinity".to_owned()]);
    main.args = None;
    main.startup_probe = main.startup_probe.as_ref().map(ask);
    main.readiness_probe = main.readiness_probe.as_ref().map(ask);
    let metadata = ObjectMeta { name: Some(name.to_owned()), labels: Some(labels), ..ObjectMeta::default() };
    Ok(StatefulSet { metadata, spec: Some(spec), ..StatefulSet::default() })
}

/// The argument that follows `flag`.
fn argument(container: &Container, flag: &str) -> Option<String> {
    let mut arguments = container.args.iter().flatten().skip_while(|argument| *argument != flag);
    arguments.nth(1).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_bare_stateful_set_keeps_volumes_and_periods_and_loses_what_is_ours() {
        let pattern: StatefulSetSpec = serde_json::from_value(json!({
            "serviceName": "main-members",
            "selector": {"matchLabels": {"buildpools.dev/pool": "main"}},
            "template": {
                "metadata": {"labels": {"buildpools.dev/pool": "main"}},
                "spec": {
                    "initContainers": [{"name": "buildkitd", "image": "buildkit", "restartPolicy": "Always",
                        "args": ["--config", "/c", "--addr", "unix:///s", "--x"]}],
                    "containers": [{"name": "runner", "image": "runner",
                        "volumeMounts": [{"name": "socket", "mountPath": "/run/buildpools"}],
                        "startupProbe": {"exec": {"command": ["runner", "probe"]}, "periodSeconds": 1}}],
                    "volumes": [{"name": "socket", "emptyDir": {}}],
                },
            },
            "volumeClaimTemplates": [{"metadata": {"name": "cache", "labels": {"buildpools.dev/pool": "main"}}, "spec": {}}],
        }))
        .unwrap();
        let text = serde_json::to_string(&bare("bare-1", &pattern).unwrap()).unwrap();
        assert!(!text.contains("buildpools.dev"), "{text}");
        let bare = bare("bare-1", &pattern).unwrap().spec.unwrap();
        let pod = bare.template.spec.unwrap();
        let mut before = pattern.template.spec.unwrap();
        assert_eq!((&pod.volumes, &pod.init_containers), (&before.volumes, &before.init_containers));
        let (main, runner) = (&pod.containers[0], before.containers.remove(0));
        assert_eq!((main.image.as_deref(), &main.volume_mounts), (Some("buildkit"), &runner.volume_mounts));
        let probe = main.startup_probe.clone().unwrap();
        assert_eq!(probe.period_seconds, Some(1));
        let command = probe.exec.unwrap().command.unwrap();
        assert_eq!(command, ["buildctl", "--addr", "unix:///s", "debug", "workers"]);
    }
}
