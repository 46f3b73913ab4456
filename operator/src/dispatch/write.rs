//! Writing a decision: one compare-and-swap of the job's status.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use buildpools_crds::lifecycle::{self, Outcome, TransitionError, Waiting};
use buildpools_crds::v1alpha1::{BuildJob, BuildJobStatus, FailureReason};
use buildpools_crds::{conditions, patch};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, ResourceExt as _};
use tokio::sync::Semaphore;
use tracing::{debug, info, warn};

use super::events::Announcer;
use super::job::Job;
use super::nodes;
use super::schedule::{Action, Decision};
use super::view::{self, Gone};
use super::world::Settled;
use crate::kube_ext::backoff::{Backoff, Limits};
use crate::kube_ext::call::{self, CallError};

/// Name of the dispatcher among the writers of a job.
pub const FIELD_MANAGER: &str = "buildpools-operator/dispatch";

/// Writes that are under way at the same time.
const CONCURRENCY: usize = 32;

/// Of them, beside the others, those that tell jobs that they wait.
const NOTICES: usize = 8;

/// Delays after failures of one job.
const FAILURES: Limits = Limits { first: Duration::from_millis(500), most: Duration::from_mins(1) };

/// Writes decisions.
#[derive(Clone)]
pub struct Writer(Arc<Inner>);

struct Inner {
    client: Client,
    permits: Semaphore,
    notices: Semaphore,
    failures: Backoff<Arc<str>>,
    announcer: Announcer,
}

/// What the API server has to say to a decision.
enum Answer {
    Done(Box<Job>),
    Conflict,
    Deleted,
    /// Not done, and nothing is unclear about it.
    No(String),
    /// Perhaps done, perhaps not.
    Unclear(String),
}

impl Writer {
    /// Writes with this client.
    pub fn new(client: Client, announcer: Announcer) -> Self {
        Self(Arc::new(Inner {
            client,
            permits: Semaphore::new(CONCURRENCY),
            notices: Semaphore::new(NOTICES),
            failures: Backoff::new(FAILURES),
            announcer,
        }))
    }

    /// Begins no other write. Those that wait for their turn are not done: whoever leads next decides anew.
    pub fn close(&self) {
        self.0.permits.close();
        self.0.notices.close();
    }

    /// Writes one decision and says how that ended. Takes as long as it takes to be certain.
    pub async fn write(&self, decision: &Decision) -> Settled {
        let Decision { job, action, .. } = decision;
        // What a waiting job is told keeps no other job from its slot.
        let permits = if matches!(action, Action::Wait { .. }) { &self.0.notices } else { &self.0.permits };
        let Ok(_permit) = permits.acquire().await else { return Settled::Failed(Timestamp::now()) };
        match self.try_write(job, action).await {
            Answer::Done(now) => {
                self.0.failures.reset(&job.uid);
                self.report(job, &now, action);
                Settled::Now(now)
            }
            Answer::Conflict => {
                debug!(namespace = job.key.0, job = job.key.1, "the job has changed since it was read");
                self.0.failures.reset(&job.uid);
                Settled::Conflict
            }
            Answer::Deleted => {
                self.0.failures.reset(&job.uid);
                Settled::Deleted
            }
            Answer::No(why) => {
                info!(namespace = job.key.0, job = job.key.1, why, "the job's status was not written");
                self.failed(job)
            }
            Answer::Unclear(why) => {
                warn!(namespace = job.key.0, job = job.key.1, why, "whether the job's status was written is unknown");
                self.find_out(job, action).await
            }
        }
    }

    async fn try_write(&self, job: &Job, action: &Action) -> Answer {
        let certain = match action {
            Action::Lost { gone, .. } | Action::Unbind { verify: Some(gone), .. } => {
                self.verify(job, gone).await.map(Some)
            }
            _ => Ok(None),
        };
        let gone = match certain {
            Ok(gone) => gone,
            Err(why) => return Answer::No(why),
        };
        let next = match next(job, action, gone.as_ref(), Timestamp::now()) {
            Ok(next) => next,
            Err(error) => return Answer::No(error.to_string()),
        };
        let body = match patch::job_status(&job.object(), &next) {
            Ok(body) => body,
            Err(error) => return Answer::No(error.to_string()),
        };
        let jobs = self.jobs(job);
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        match call::call(jobs.patch_status(&job.key.1, &params, &Patch::Merge(&body))).await {
            Ok(written) => Answer::Done(Box::new(Job::of(written))),
            Err(error) if error.is_conflict() => Answer::Conflict,
            Err(error) if error.is_not_found() => Answer::Deleted,
            Err(error) if is_definite(&error) => Answer::No(error.to_string()),
            Err(error) => Answer::Unclear(error.to_string()),
        }
    }

    /// Reads the job until it is known whether the write was done.
    async fn find_out(&self, job: &Job, action: &Action) -> Settled {
        loop {
            match call::get(self.jobs(job).get(&job.key.1)).await {
                Ok(Some(now)) if now.uid().as_deref() == Some(job.uid.as_ref()) => {
                    let now = Job::of(now);
                    if now.version == job.version {
                        return self.failed(job);
                    }
                    self.0.failures.reset(&job.uid);
                    self.report(job, &now, action);
                    return Settled::Now(Box::new(now));
                }
                Ok(_) => return Settled::Deleted,
                Err(error) => {
                    let delay = self.0.failures.failed(job.uid.clone(), rand::random());
                    warn!(namespace = job.key.0, job = job.key.1, %error, ?delay, "the job cannot be read");
                    tokio::time::sleep(delay).await;
                }
            }
        }
    }

    /// Asks the API server itself whether the pod is gone, because a watch may be behind. Why it is gone, or why that
    /// is not so.
    async fn verify(&self, job: &Job, seen: &Gone) -> Result<Gone, String> {
        let (Some(uid), Some(name)) = (&job.status.assigned_to, &job.status.member) else {
            return Ok(seen.clone());
        };
        let pods: Api<Pod> = Api::namespaced(self.0.client.clone(), &job.key.0);
        match call::get(pods.get(name)).await {
            Ok(Some(pod)) if pod.uid().as_ref() == Some(uid) => match view::gone(&pod) {
                Some(gone) => Ok(gone),
                None if seen.reason == FailureReason::NodeLost => nodes::verify(self.0.client.clone(), &pod).await,
                None => Err(format!("pod {name} seemed to be gone but is there")),
            },
            Ok(_) => Ok(seen.clone()),
            Err(error) => Err(format!("cannot read pod {name}: {error}")),
        }
    }

    fn failed(&self, job: &Job) -> Settled {
        let delay = self.0.failures.failed(job.uid.clone(), rand::random());
        Settled::Failed(Timestamp::now().saturating_add(delay).unwrap_or(Timestamp::MAX))
    }

    fn jobs(&self, job: &Job) -> Api<BuildJob> {
        Api::namespaced(self.0.client.clone(), &job.key.0)
    }

    fn report(&self, before: &Job, now: &Job, action: &Action) {
        let (namespace, job) = &before.key;
        match action {
            Action::Bind { pool, member, .. } => info!(namespace, job, pool, pod = member.pod, "bound"),
            Action::Unbind { why, .. } => info!(namespace, job, why, "unbound"),
            Action::Wait { reason, .. } => debug!(namespace, job, reason, "waits"),
            Action::Cancel { .. } => info!(namespace, job, "cancelled"),
            Action::Node { unreachable: Some(message) } => {
                warn!(namespace, job, detail = message, "the node of a running build is not heard of");
                self.0.announcer.announce(now, "Dispatch", conditions::NODE_UNREACHABLE, message);
            }
            Action::Node { unreachable: None } => {
                info!(namespace, job, "the node of a running build is heard of again");
            }
            Action::Lost { gone, .. } => {
                warn!(namespace, job, reason = gone.reason.as_str(), detail = gone.message, "attempt lost");
                self.0.announcer.announce(now, "Dispatch", gone.reason.as_str(), &gone.message);
            }
            Action::Refuse { reason, message, .. } => {
                info!(namespace, job, reason = reason.as_str(), detail = message, "refused");
                self.0.announcer.announce(now, "Dispatch", reason.as_str(), message);
            }
        }
    }
}

/// The status that a decision leads to.
///
/// # Errors
/// When the decision does not fit the job.
fn next(job: &Job, action: &Action, gone: Option<&Gone>, now: Timestamp) -> Result<BuildJobStatus, TransitionError> {
    let status = &job.status;
    let uid = status.assigned_to.as_deref().unwrap_or_default();
    let amended = |amend: &Option<String>| match amend {
        Some(message) => Cow::Owned(lifecycle::amend_out_of_memory(status, message)),
        None => Cow::Borrowed(status),
    };
    match action {
        Action::Bind { pool, member, amend } => lifecycle::bind(&amended(amend), pool, member, now),
        Action::Unbind { why, .. } => lifecycle::unbind(status, uid, why, now),
        Action::Lost { gone: seen, policy } => {
            let gone = gone.unwrap_or(seen);
            let outcome = Outcome::Failed(lifecycle::failure(gone.reason, &gone.message));
            lifecycle::finish(status, uid, &outcome, *policy, now)
        }
        Action::Refuse { reason, message, amend } => lifecycle::refuse(&amended(amend), *reason, message, now),
        Action::Cancel { message } => lifecycle::cancel(status, message, now),
        Action::Node { unreachable } => {
            let next = lifecycle::node_unreachable(status, unreachable.as_deref(), now);
            Ok(next.unwrap_or_else(|| status.clone()))
        }
        Action::Wait { reason, message, pool, position } => {
            let waiting = Waiting { reason, message, pool: pool.as_deref(), position: *position };
            Ok(lifecycle::wait(status, &waiting, now).unwrap_or_else(|| status.clone()))
        }
    }
}

/// Whether the answer says that nothing was written.
fn is_definite(error: &CallError) -> bool {
    error.status().is_some_and(|status| (400..500).contains(&status.code) && status.code != 408)
}
