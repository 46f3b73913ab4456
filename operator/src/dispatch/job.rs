//! What the dispatcher keeps of a job: a few words, so that thousands with their inline contexts do not live in memory.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use buildpools_crds::conditions;
use buildpools_crds::lifecycle::{self, Policy, reasons};
use buildpools_crds::v1alpha1::{BuildJob, BuildJobStatus, WhenPoolMissing, std_duration};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::ResourceExt as _;

use super::cache_key;
use super::schedule::order::Place;
use super::view::{Key, Pool, key};

/// A job.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Job {
    /// Namespace and name.
    pub key: Key,
    /// UID.
    pub uid: Arc<str>,
    /// Version that `status` is of.
    pub version: String,
    /// When it was created; the API has whole seconds.
    pub created: Timestamp,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// Which pools may build it.
    pub target: Target,
    /// What becomes of it while there is none.
    pub when_pool_missing: WhenPoolMissing,
    /// Labels; one of them may say its group.
    pub labels: BTreeMap<String, String>,
    /// Priority, from −100 to 100.
    pub priority: i32,
    /// Hash of what its cache is found by.
    pub cache_key: u64,
    /// Time that the build may run, if the job says so.
    pub timeout: Option<Duration>,
    /// Time that the job may wait, if it says so.
    pub queue_timeout: Option<Duration>,
    /// How often it may be built again, if it says so.
    pub infra_retries: Option<usize>,
    /// Whether it is to be cancelled.
    pub cancel: bool,
    /// Status.
    pub status: BuildJobStatus,
}

/// Which pools of its namespace may build a job.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Target {
    /// The namespace's default pool.
    #[default]
    Default,
    /// The pool of this name.
    Named(String),
    /// One that matches.
    Matching(Arc<LabelSelector>),
}

impl Job {
    /// The job of an object.
    pub fn of(job: BuildJob) -> Self {
        let spec = &job.spec;
        let target = match (&spec.pool_ref, &spec.pool_selector) {
            (Some(pool), _) => Target::Named(pool.name.clone()),
            (None, Some(selector)) => Target::Matching(Arc::new(selector.clone())),
            (None, None) => Target::Default,
        };
        Self {
            key: key(&job.metadata),
            uid: job.uid().unwrap_or_default().into(),
            created: job.metadata.creation_timestamp.as_ref().map(|time| time.0).unwrap_or_default(),
            deleting: job.metadata.deletion_timestamp.is_some(),
            target,
            when_pool_missing: spec.when_pool_missing,
            priority: spec.priority,
            cache_key: cache_key::of(spec),
            timeout: spec.timeout.map(std_duration),
            queue_timeout: spec.queue_timeout.map(std_duration),
            infra_retries: spec.infra_retries.map(|retries| usize::try_from(retries).unwrap_or(0)),
            cancel: spec.cancel,
            labels: job.metadata.labels.unwrap_or_default(),
            version: job.metadata.resource_version.unwrap_or_default(),
            status: job.status.unwrap_or_default(),
        }
    }

    /// The object again, as far as a status write needs it.
    pub fn object(&self) -> BuildJob {
        let mut job = BuildJob::default();
        job.metadata.namespace = Some(self.key.0.clone());
        job.metadata.name = Some(self.key.1.clone());
        job.metadata.uid = Some(self.uid.to_string());
        job.metadata.resource_version = Some(self.version.clone());
        job.status = Some(self.status.clone());
        job
    }

    /// Where it stands by age.
    pub fn place(&self) -> Place {
        (self.created, self.key.1.as_str().into(), self.uid.clone())
    }

    /// Since when it waits for its next start: since it was created, or since its last attempt was lost.
    pub fn queued(&self) -> Timestamp {
        let lost = self.status.attempts.last().and_then(|attempt| attempt.finished_at.as_ref());
        lost.map_or(self.created, |time| time.0.max(self.created))
    }

    /// Time that it may wait for its start in this pool.
    pub fn may_wait(&self, pool: Option<&Pool>) -> Option<Duration> {
        self.queue_timeout.or_else(|| pool?.queue_timeout)
    }

    /// What the specs say about the end of an attempt.
    pub fn policy(&self, pool: Option<&Pool>) -> Policy {
        let retries = self.infra_retries.or_else(|| pool?.infra_retries);
        Policy { infra_retries: retries.unwrap_or(lifecycle::INFRA_RETRIES), cancel: self.cancel }
    }

    /// Whether its next attempt is to have a member for itself.
    pub fn alone(&self) -> bool {
        lifecycle::ran_out_of_memory(&self.status)
    }

    /// What it has been told about its wait, and the place that was named.
    pub fn told(&self) -> Option<(&str, Option<i32>)> {
        let told = self.status.conditions.iter().find(|condition| condition.type_ == conditions::RECONCILING)?;
        let waits = [reasons::WAITING_FOR_SLOT, reasons::POOL_NOT_FOUND, reasons::POOL_NOT_READY];
        waits.contains(&told.reason.as_str()).then_some((told.reason.as_str(), self.status.queue_position))
    }
}
