//! One job, from its creation to the sight of its outcome.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::time::Instant;

use anyhow::{Context as _, ensure};
use buildpools_buildkit::Daemon;
use buildpools_crds::names;
use buildpools_crds::v1alpha1::{BuildJobStatus, JobPhase};
use jiff::Timestamp;
use kube::api::PostParams;
use kube::core::object::HasStatus;
use kube::{Api, Resource, ResourceExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::observer::{Observer, Seen};
use super::stats::median;
use crate::harness::wait;

/// A job of either side: a BuildJob, or what stands for one beside the baseline.
pub trait Job:
    Resource + HasStatus<Status = BuildJobStatus> + Clone + Debug + Serialize + DeserializeOwned + Send + Sync + 'static
{
}

impl<K> Job for K where
    K: Resource
        + HasStatus<Status = BuildJobStatus>
        + Clone
        + Debug
        + Serialize
        + DeserializeOwned
        + Send
        + Sync
        + 'static
{
}

/// When a job came to what, in milliseconds. All clocks are this machine's.
#[derive(Clone, Debug)]
pub struct Sample {
    /// The job's name.
    pub name: String,
    /// From before the job was created until its outcome was seen.
    pub total: f64,
    /// From before the job was created until the daemon received the build.
    pub dispatch: f64,
    /// The parts of `total`, in the order of [`PARTS`].
    parts: [f64; 6],
}

/// What lies between two moments of a job. The moments of the writes are when the writer decided on them: the write
/// itself, its way through the watch and what the next one does before it decides count for the part that follows.
const PARTS: [&str; 6] =
    ["create → bind", "bind → running", "running → Solve", "Solve → built", "built → outcome", "outcome → seen"];

/// Creates the job and watches it to its end.
///
/// # Errors
/// When it does not succeed at the first attempt.
pub async fn take<K>(api: &Api<K>, observer: &mut Observer<K>, daemon: &Daemon, job: &K) -> anyhow::Result<Sample>
where
    K: Job,
{
    let name = job.name_any();
    let (began, created) = (Instant::now(), Timestamp::now());
    let made = api.create(&PostParams::default(), job).await?;
    let seen = observer
        .until("the job ends", |seen| {
            seen.object.name_any() == name && seen.object.status().is_some_and(|status| status.phase.is_terminal())
        })
        .await?;
    let total = seen.at.duration_since(began).as_secs_f64() * 1000.0;
    let status = check(&seen.object)?;
    let uid = made.uid().context("a job has a UID")?;
    let (received, built) = solved(daemon, &uid).await?;
    let time = |time: &Option<k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime>| {
        time.as_ref().map(|time| time.0).context("the job's timing is complete")
    };
    let timing = &status.timing;
    let moments =
        [created, time(&timing.bound_at)?, time(&timing.started_at)?, received, built, time(&timing.finished_at)?];
    let dispatch = milliseconds(created, received);
    let mut parts = [0.0; 6];
    for (part, pair) in parts.iter_mut().zip(moments.windows(2)) {
        *part = milliseconds(pair[0], pair[1]);
    }
    parts[5] = total - milliseconds(created, moments[5]);
    Ok(Sample { name, total, dispatch, parts })
}

/// Waits until all these jobs have succeeded at the first attempt. Returns them with the time at which that was seen.
///
/// # Errors
/// When one does not.
pub async fn all_ended<K>(observer: &mut Observer<K>, mut names: BTreeSet<String>) -> anyhow::Result<Vec<Seen<K>>>
where
    K: Job,
{
    let mut ended = Vec::with_capacity(names.len());
    while !names.is_empty() {
        let seen = observer
            .until("all jobs end", |seen| {
                let is_end = seen.object.status().is_some_and(|status| status.phase.is_terminal());
                is_end && names.remove(&seen.object.name_any())
            })
            .await?;
        check(&seen.object)?;
        ended.push(seen);
    }
    Ok(ended)
}

/// That the job succeeded at the first attempt.
///
/// # Errors
/// When it did not.
pub fn check<K>(job: &K) -> anyhow::Result<&BuildJobStatus>
where
    K: Resource + HasStatus<Status = BuildJobStatus>,
{
    let (name, status) = (job.name_any(), job.status().context("status")?);
    ensure!(status.phase == JobPhase::Succeeded, "job {name} failed: {:?}", status.failure);
    ensure!(status.attempts.len() == 1, "job {name} took more than one attempt: {:?}", status.attempts);
    Ok(status)
}

/// When the daemon received the first attempt of this job, and when it was done with it.
///
/// # Errors
/// When the daemon has no finished record of it.
pub async fn solved(daemon: &Daemon, uid: &str) -> anyhow::Result<(Timestamp, Timestamp)> {
    let reference = names::attempt_ref(uid, 1);
    wait::poll("the daemon has a record of the build", wait::SOON, async || {
        let record = daemon.history(&reference).await?;
        Ok(record.and_then(|record| Some((record.created_at, record.completed_at?))))
    })
    .await
}

/// From one moment to a later one.
pub fn milliseconds(from: Timestamp, to: Timestamp) -> f64 {
    to.duration_since(from).as_secs_f64() * 1000.0
}

/// Where the time goes: medians of the parts.
pub fn parts(samples: &[Sample]) -> String {
    let medians = PARTS.iter().enumerate().map(|(place, name)| {
        let part: Vec<f64> = samples.iter().map(|sample| sample.parts[place]).collect();
        format!("{name} {:.1}", median(&part))
    });
    medians.collect::<Vec<_>>().join(", ")
}
