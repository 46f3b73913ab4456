//! A bare Kubernetes Job that runs buildctl: what people do without an operator.
//!
//! The Job's pod gets the member's emptyDir with the daemon's socket as a hostPath, which a cluster would not allow its
//! tenants: it is the fastest way there is, without TCP and TLS, and nothing of buildpools changes for it.

use std::path::Path;

use anyhow::Context as _;
use buildpools_crds::names;
use buildpools_crds::v1alpha1::BuildJob;
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::ResourceExt as _;
use kube::api::{DeleteParams, ListParams, PostParams};
use serde_json::json;

use super::arrivals::LIGHTEST;
use super::figure::{Figure, spread};
use super::member::WarmMember;
use super::observer::Observer;
use super::sample;
use super::site::{self, Site};
use super::warm::{POOL, SLOTS, pause};
use crate::harness::{Tenant, wait};

/// ConfigMap with the Dockerfile.
const CONTEXT: &str = "context";

/// buildctl writes the build's reference beside a file and renames it, which cannot be done with the termination log.
const SCRIPT: &str = "buildctl --addr unix:///run/daemon/buildkitd.sock build --frontend dockerfile.v0 \
                      --local context=/context --local dockerfile=/context --ref-file /tmp/reference && \
                      cat /tmp/reference >/dev/termination-log";

/// Measures so many rounds: the same build as a BuildJob and in a Job, in turn.
///
/// # Errors
/// When a build fails.
pub async fn run(tenant: &Tenant, site: &Site, rounds: usize) -> anyhow::Result<Vec<Figure>> {
    let member = WarmMember::start(tenant, site, POOL, SLOTS).await?;
    let context = json!({"metadata": {"name": CONTEXT}, "data": {"Dockerfile": LIGHTEST}});
    tenant.api::<ConfigMap>().create(&PostParams::default(), &serde_json::from_value(context)?).await?;
    let mut jobs = Observer::start(tenant.jobs()).await?;
    let mut bare_jobs = Observer::start(tenant.api::<Job>()).await?;
    let spec = tenant.job("", POOL).inline(LIGHTEST).object().spec;
    let (mut ours, mut baseline) = (vec![], vec![]);
    // The first round is not counted.
    for round in 0..=rounds {
        for place in 0..2 {
            let name = format!("dispatch-{round}");
            if (round + place) % 2 == 0 {
                let job = BuildJob::new(&name, spec.clone());
                ours.push(sample::take(&tenant.jobs(), &mut jobs, &member.daemon, &job).await?.dispatch);
            } else {
                baseline.push(bare(tenant, &mut bare_jobs, &member, &name).await?);
            }
            pause().await;
        }
        eprintln!("bare Job: round {round} of {rounds}");
    }
    let (ours, baseline) = (ours.split_off(1), baseline.split_off(1));
    eprintln!("created to Solve, ms: BuildJob {}; bare Job {}", spread(&ours), spread(&baseline));
    Ok(vec![Figure::ratio("dispatch_over_job", "ms", &ours, &baseline, 0.10)])
}

/// From before the Job is created until the daemon receives its build. The pod is gone when this returns.
async fn bare(tenant: &Tenant, jobs: &mut Observer<Job>, member: &WarmMember, name: &str) -> anyhow::Result<f64> {
    let api = tenant.api::<Job>();
    let job = job(name, &member.pod)?;
    let created = Timestamp::now();
    api.create(&PostParams::default(), &job).await?;
    let ended = |job: &Job| {
        let conditions = job.status.as_ref().and_then(|status| status.conditions.as_ref());
        conditions
            .into_iter()
            .flatten()
            .any(|c| ["Complete", "Failed"].contains(&c.type_.as_str()) && c.status == "True")
    };
    jobs.until("the Job ends", |seen| seen.object.name_any() == name && ended(&seen.object)).await?;
    let pods = tenant.pods().list(&ListParams::default().labels(&format!("job-name={name}"))).await?;
    let pod = pods.items.first().context("the Job had a pod")?;
    let reference = message(pod).with_context(|| format!("the Job failed: {:?}", pod.status))?;
    let record = wait::poll("the daemon has a record of the build", wait::SOON, async || {
        Ok(member.daemon.history(&reference).await?)
    });
    let received = record.await?.created_at;
    api.delete(name, &DeleteParams::background()).await?;
    wait::until(&tenant.pods(), &pod.name_any(), "the pod is gone", wait::BUILD, |pod| pod.is_none()).await?;
    Ok(sample::milliseconds(created, received))
}

/// What the container left in its termination log.
fn message(pod: &Pod) -> Option<String> {
    let containers = pod.status.as_ref()?.container_statuses.as_ref()?;
    let end = containers.first()?.state.as_ref()?.terminated.as_ref()?;
    end.message.clone().filter(|_| end.exit_code == 0)
}

/// In the image of the member's daemon, which is on the node, as the daemon's user.
fn job(name: &str, member: &Pod) -> anyhow::Result<Job> {
    let spec = member.spec.as_ref().context("a pod has a spec")?;
    let daemon = spec.init_containers.iter().flatten().find(|container| container.name == names::DAEMON_CONTAINER);
    let daemon = daemon.context("the pool's pod has a daemon")?;
    let socket = site::socket_volume(&member.uid().context("a pod has a UID")?);
    let user = daemon.security_context.as_ref().and_then(|context| context.run_as_user);
    let user = user.or(spec.security_context.as_ref().and_then(|context| context.run_as_user));
    Ok(serde_json::from_value(json!({
        "metadata": {"name": name},
        "spec": {
            "backoffLimit": 0,
            "template": {
                "spec": {
                    "restartPolicy": "Never",
                    "automountServiceAccountToken": false,
                    "terminationGracePeriodSeconds": 1,
                    "securityContext": {"runAsUser": user, "runAsGroup": user},
                    "containers": [{
                        "name": "buildctl",
                        "image": daemon.image,
                        "imagePullPolicy": "IfNotPresent",
                        "command": ["sh", "-c", SCRIPT],
                        "volumeMounts": [
                            {"name": "socket", "mountPath": "/run/daemon"},
                            {"name": "context", "mountPath": "/context/Dockerfile", "subPath": "Dockerfile"},
                        ],
                    }],
                    "volumes": [
                        {"name": "socket", "hostPath": {"path": path(&socket), "type": "Directory"}},
                        {"name": "context", "configMap": {"name": CONTEXT}},
                    ],
                },
            },
        },
    }))?)
}

fn path(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member() -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "main-0", "uid": "u-1"},
            "spec": {
                "securityContext": {"runAsUser": 1000},
                "initContainers": [{"name": "buildkitd", "image": "buildkit:v0"}],
                "containers": [{"name": "runner", "image": "runner:v0"}],
            },
        }))
        .unwrap()
    }

    #[test]
    fn the_job_runs_the_daemons_image_beside_its_socket() {
        let template = job("bare", &member()).unwrap().spec.unwrap().template.spec.unwrap();
        assert_eq!(template.containers[0].image.as_deref(), Some("buildkit:v0"));
        assert_eq!(template.security_context.unwrap().run_as_user, Some(1000));
        let volume = template.volumes.unwrap().remove(0).host_path.unwrap();
        assert_eq!(volume.path, "/var/lib/kubelet/pods/u-1/volumes/kubernetes.io~empty-dir/socket");
    }

    #[test]
    fn only_a_build_that_succeeded_has_a_reference() {
        let ended = |code: i32| -> Pod {
            let state = json!({"terminated": {"exitCode": code, "message": "abc"}});
            let container = json!({"name": "buildctl", "state": state, "ready": false, "restartCount": 0, "image": "i", "imageID": "i"});
            serde_json::from_value(json!({"status": {"containerStatuses": [container]}})).unwrap()
        };
        assert_eq!(message(&ended(0)).as_deref(), Some("abc"));
        assert_eq!(message(&ended(1)), None);
        assert_eq!(message(&Pod::default()), None);
    }
}
