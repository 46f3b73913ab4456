//! The calls to the API server, and what their answers mean.
//!
//! Every write is a compare-and-swap. After an answer that leaves open whether the write happened (time-out, lost
//! connection, 5xx), the job is read again: what is written there is what happened.

mod backoff;
mod client;

use std::sync::Arc;
use std::time::Duration;

use buildpools_crds::lifecycle::{self, Outcome, Policy};
use buildpools_crds::patch;
use buildpools_crds::v1alpha1::{BuildJob, BuildJobStatus, BuildPool, FailureReason, JobDefaults, JobPhase};
use jiff::Timestamp;
use kube::api::{ListParams, Patch, PatchParams};
use kube::core::{DeserializeGuard, NamespaceResourceScope};
use kube::{Api, Client, Resource, ResourceExt};
use serde_json::Value;

use crate::{Identity, outcome};
pub use backoff::Backoff;
pub use client::{connect, on_unauthorized};

/// How long one call may take. Longer than a slow etcd needs, and short enough that a dead connection is left behind
/// while the build runs on.
const CALL: Duration = Duration::from_secs(10);

/// An answer that is no success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There is no such object.
    Gone,
    /// The object has changed since it was read.
    Conflict,
    /// The API server understood and refused (4xx).
    Refused {
        /// HTTP status.
        code: u16,
        /// Its words.
        message: String,
    },
    /// Whether it was done is not known.
    Unsure(String),
}

/// The API server, as far as this runner needs it.
#[derive(Clone)]
pub struct ApiServer {
    client: Client,
    me: Arc<Identity>,
    jobs: Api<BuildJob>,
    pools: Api<BuildPool>,
}

impl ApiServer {
    /// Calls go to the runner's own namespace.
    pub fn new(client: Client, me: Arc<Identity>) -> Self {
        let jobs = Api::namespaced(client.clone(), &me.namespace);
        let pools = Api::namespaced(client.clone(), &me.namespace);
        Self { client, me, jobs, pools }
    }

    /// Objects of the runner's namespace, to watch them. One that cannot be read does not end the watch.
    pub fn guarded<K>(&self) -> Api<DeserializeGuard<K>>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), &self.me.namespace)
    }

    /// A small call that keeps a connection open, so that a write needs no TLS handshake, and that finds out whether
    /// the token is still good: a watch goes on with a revoked one.
    pub async fn touch(&self) -> Result<(), Refusal> {
        let own_pool = ListParams::default().fields(&format!("metadata.name={}", self.me.pool)).match_any().limit(1);
        call(self.pools.list_metadata(&own_pool)).await.map(|_| ())
    }

    /// The job as it is; `None` when it is deleted, also if there is another of its name.
    pub async fn read(&self, job: &BuildJob) -> Option<Arc<BuildJob>> {
        let mut backoff = Backoff::new();
        loop {
            match call(self.jobs.get(&job.name_any())).await {
                Ok(found) => return (found.metadata.uid == job.metadata.uid).then(|| Arc::new(found)),
                Err(Refusal::Gone) => return None,
                Err(refusal) => backoff.pause(&format!("reading {}", job.name_any()), &refusal).await,
            }
        }
    }

    /// Writes *running*. `None` when the job is not ours to run. Returns only when it is known which.
    pub async fn start(&self, job: Arc<BuildJob>) -> Option<(BuildJob, i32)> {
        let mut backoff = Backoff::new();
        let mut job = job;
        loop {
            let (uid, status) = (job.metadata.uid.as_deref()?, job.status.as_ref()?);
            let next = match lifecycle::start(status, uid, &self.me.pod, &self.me.instance, Timestamp::now()) {
                Ok(next) => next,
                Err(error) => {
                    tracing::info!(job = job.name_any(), "not started: {error}");
                    return None;
                }
            };
            let attempt = next.attempt?;
            let refusal = match self.write(&job, &next).await {
                Ok(running) => return Some((running, attempt)),
                Err(refusal) => refusal,
            };
            if refusal == Refusal::Gone {
                return None;
            }
            if refusal != Refusal::Conflict {
                backoff.pause(&format!("starting {}", job.name_any()), &refusal).await;
            }
            job = self.read(&job).await?;
            if job.spec.cancel && job.status.as_ref().is_some_and(|status| status.phase == JobPhase::Bound) {
                tracing::info!(job = job.name_any(), "not started: it is to be cancelled");
                return None;
            }
            if let Some(status) = job.status.as_ref()
                && is_attempt(status, &self.me, &self.me.instance, attempt)
            {
                // The write whose answer was lost had happened.
                return Some((Arc::unwrap_or_clone(job), attempt));
            }
        }
    }

    /// Gives a job back that was not started. If that fails, the operator does it in time.
    pub async fn unbind(&self, job: &BuildJob, why: &str) {
        let Some(status) = job.status.as_ref() else { return };
        let Ok(next) = lifecycle::unbind(status, &self.me.pod.uid, why, Timestamp::now()) else { return };
        match self.write(job, &next).await {
            Ok(_) => tracing::info!(job = job.name_any(), why, "given back"),
            // Changed or deleted meanwhile: the watch says how.
            Err(Refusal::Conflict | Refusal::Gone) => {}
            Err(refusal) => tracing::warn!(job = job.name_any(), "cannot give it back: {refusal}"),
        }
    }

    /// Writes the outcome of an attempt that ran under `instance`, however long the API server takes. `defaults` is what
    /// the pool says then where the job says nothing. Returns whether the API has it; it does not when the attempt is
    /// not ours any more.
    pub async fn finish(
        &self,
        job: Arc<BuildJob>,
        instance: &str,
        attempt: i32,
        result: &Outcome,
        ended: Timestamp,
        defaults: impl Fn() -> JobDefaults + Send,
    ) -> bool {
        let mut backoff = Backoff::new();
        let mut job = job;
        let mut result = result.clone();
        let name = job.name_any();
        loop {
            let Some(status) = job.status.as_ref() else { return false };
            if !is_attempt(status, &self.me, instance, attempt) {
                return is_finished(status, attempt, &result, &name);
            }
            let policy = Policy::of(&job.spec, &defaults());
            let next = match lifecycle::finish(status, &self.me.pod.uid, &result, policy, ended) {
                Ok(next) => next,
                Err(error) => {
                    tracing::warn!(job = name, attempt, "outcome dropped: {error}");
                    return false;
                }
            };
            match self.write(&job, &next).await {
                Ok(_) => return true,
                Err(Refusal::Gone) => {
                    tracing::info!(job = name, attempt, "outcome dropped: the job is deleted");
                    return false;
                }
                Err(Refusal::Conflict) => {}
                Err(refusal) => {
                    if matches!(refusal, Refusal::Refused { code: 422, .. }) {
                        // Something in it that the schema refuses; without the details it still says what happened.
                        result = outcome::reduced(&result);
                    }
                    backoff.pause(&format!("writing the outcome of {name}"), &refusal).await;
                }
            }
            let Some(found) = self.read(&job).await else {
                tracing::info!(job = name, attempt, "outcome dropped: the job is deleted");
                return false;
            };
            job = found;
        }
    }

    /// Applies this member's entry of the pool's status.
    pub async fn apply_member(&self, pool_status: &Value) -> Result<(), Refusal> {
        let manager = PatchParams::apply(&format!("buildpools-runner-{}", self.me.pod.uid)).force();
        call(self.pools.patch_status(&self.me.pool, &manager, &Patch::Apply(pool_status))).await.map(|_| ())
    }

    async fn write(&self, job: &BuildJob, next: &BuildJobStatus) -> Result<BuildJob, Refusal> {
        let patch = patch::job_status(job, next)
            .map_err(|error| Refusal::Refused { code: 0, message: format!("the status cannot be written: {error}") })?;
        call(self.jobs.patch_status(&job.name_any(), &PatchParams::default(), &Patch::Merge(patch))).await
    }
}

/// Whether the job is Running here, under this instance and in this attempt.
fn is_attempt(status: &BuildJobStatus, me: &Identity, instance: &str, attempt: i32) -> bool {
    status.phase == JobPhase::Running
        && status.assigned_to.as_deref() == Some(me.pod.uid.as_str())
        && status.runner_instance.as_deref() == Some(instance)
        && status.attempts.last().is_some_and(|last| last.number == attempt)
}

/// Whether an attempt that is no longer running has ended by our own write, whose answer was lost.
fn is_finished(status: &BuildJobStatus, attempt: i32, result: &Outcome, name: &str) -> bool {
    let expected = match result {
        Outcome::Succeeded(_) => "Succeeded",
        Outcome::Failed(failure) => failure.reason.as_str(),
        Outcome::Cancelled | Outcome::PoolDeleted(_) => FailureReason::Cancelled.as_str(),
    };
    let found = status.attempts.iter().find(|found| found.number == attempt).and_then(|found| found.result.as_deref());
    if found != Some(expected) {
        tracing::warn!(job = name, attempt, found, "outcome {expected} dropped: the attempt is not ours any more");
    }
    found == Some(expected)
}

/// An error with its causes: kube's own text of a connection error is "client error (Connect)".
pub fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

async fn call<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T, Refusal> {
    match tokio::time::timeout(CALL, request).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(refusal(error)),
        Err(_) => Err(Refusal::Unsure(format!("no answer within {} s", CALL.as_secs()))),
    }
}

fn refusal(error: kube::Error) -> Refusal {
    match error {
        kube::Error::Api(status) => match status.code {
            404 => Refusal::Gone,
            409 => Refusal::Conflict,
            429 | 500.. => Refusal::Unsure(format!("{} {}", status.code, status.message)),
            code => Refusal::Refused { code, message: status.message },
        },
        error => Refusal::Unsure(describe(&error)),
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Gone => f.write_str("not found"),
            Self::Conflict => f.write_str("conflict"),
            Self::Refused { code, message } => write!(f, "{code} {message}"),
            Self::Unsure(what) => f.write_str(what),
        }
    }
}
