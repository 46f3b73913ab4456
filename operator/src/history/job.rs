//! What is read and what is kept of a finished job: of ten thousand, a few megabytes.

use std::borrow::Cow;
use std::time::Duration;

use buildpools_crds::v1alpha1::{BuildJob, BuildJobStatus, JobPhase, std_duration};
use jiff::Timestamp;
use kube::Resource;
use kube::core::ObjectMeta;
use serde::Deserialize;

use super::owned;
use crate::dispatch::cache_key;

/// A finished job as the watch brings it. What is not needed goes away while a list is being read: specs with inline
/// files, annotations, managed fields.
#[derive(Clone, Debug, Deserialize)]
#[serde(from = "BuildJob")]
pub struct Finished {
    /// Namespace, name, UID, version, labels, and when it was created and is to be deleted.
    pub metadata: ObjectMeta,
    /// Status.
    pub status: BuildJobStatus,
    /// The pool that built it, or was to.
    pub pool: Option<String>,
    /// Hash of what its cache is found by.
    pub cache_key: u64,
    ttl: Option<Duration>,
    owned: bool,
}

impl From<BuildJob> for Finished {
    fn from(job: BuildJob) -> Self {
        let owned = owned::is_owned(&job.metadata);
        let ObjectMeta {
            namespace, name, uid, resource_version, labels, creation_timestamp, deletion_timestamp, ..
        } = job.metadata;
        let cache_key = cache_key::of(&job.spec);
        let status = job.status.unwrap_or_default();
        let metadata = ObjectMeta {
            namespace,
            name,
            uid,
            resource_version,
            labels,
            creation_timestamp,
            deletion_timestamp,
            ..ObjectMeta::default()
        };
        let pool = status.pool.clone().or_else(|| job.spec.pool_ref.map(|pool| pool.name));
        Self { metadata, status, pool, cache_key, ttl: job.spec.ttl_after_finished.map(std_duration), owned }
    }
}

impl Finished {
    /// What is kept of it. `None` for a job that has not ended.
    pub fn record(&self) -> Option<Record> {
        if !self.status.phase.is_terminal() {
            return None;
        }
        let text = |text: &Option<String>| text.clone().unwrap_or_default().into_boxed_str();
        let created = self.metadata.creation_timestamp.as_ref().map(|time| time.0);
        let finished = self.status.timing.finished_at.as_ref().map(|time| time.0);
        Some(Record {
            uid: text(&self.metadata.uid),
            version: text(&self.metadata.resource_version),
            pool: self.pool.as_deref().map(Into::into),
            succeeded: self.status.phase == JobPhase::Succeeded,
            finished: finished.or(created).unwrap_or_default(),
            ttl: self.ttl,
            owned: self.owned,
            deleting: self.metadata.deletion_timestamp.is_some(),
            hold: None,
        })
    }
}

impl Resource for Finished {
    type DynamicType = ();
    type Scope = <BuildJob as Resource>::Scope;

    fn kind((): &()) -> Cow<'_, str> {
        BuildJob::kind(&())
    }

    fn group((): &()) -> Cow<'_, str> {
        BuildJob::group(&())
    }

    fn version((): &()) -> Cow<'_, str> {
        BuildJob::version(&())
    }

    fn plural((): &()) -> Cow<'_, str> {
        BuildJob::plural(&())
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// What is kept of a finished job; its namespace and name are where it is kept.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Record {
    /// UID.
    pub uid: Box<str>,
    /// Version of the object.
    pub version: Box<str>,
    /// The pool that built it, or was to.
    pub pool: Option<Box<str>>,
    /// Whether it succeeded.
    pub succeeded: bool,
    /// When it ended.
    pub finished: Timestamp,
    /// Time after its end at which it is to be deleted, if it says so itself.
    pub ttl: Option<Duration>,
    /// Whether somebody else keeps it.
    pub owned: bool,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// Why nothing can be done about it now.
    pub hold: Option<Hold>,
}

/// Why nothing can be done about a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// It is being deleted by us.
    Writing {
        /// So many attempts in a row have failed.
        failures: u32,
    },
    /// It is not what it was. The watch brings what it is.
    Outdated,
    /// Not before that time: so many attempts to delete it have failed in a row.
    Until(Timestamp, u32),
}
