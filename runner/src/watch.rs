//! What the API server tells by itself: the jobs of this pod, and its pool.

use std::collections::HashSet;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use buildpools_crds::v1alpha1::{BuildJob, BuildPool, JobDefaults, WhenDeleted, std_duration};
use buildpools_crds::watch::watch as watch_api;
use futures::StreamExt;
use kube::core::DeserializeGuard;
use kube::runtime::watcher::{self, Event as Watched};
use kube::{Resource, ResourceExt};
use tokio::sync::{mpsc, watch};

use crate::Identity;
use crate::api::{ApiServer, describe};
use crate::decide::{Event, Uid};

/// What the pool says about builds, as it is now.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PoolSettings {
    /// `spec.scaling.buildsPerMember`.
    pub slots: usize,
    /// `spec.maxBuildDuration`.
    pub max_build_duration: Duration,
    /// `spec.jobDefaults`.
    pub job_defaults: JobDefaults,
    /// `spec.cache.reset`.
    pub cache_reset: Option<String>,
}

impl PoolSettings {
    fn of(pool: &BuildPool) -> Self {
        Self {
            slots: usize::try_from(pool.spec.scaling.builds_per_member).unwrap_or(0),
            max_build_duration: std_duration(pool.spec.max_build_duration),
            job_defaults: pool.spec.job_defaults.clone(),
            cache_reset: pool.spec.cache.reset.clone(),
        }
    }
}

/// Tells of the jobs that are assigned to this pod, for ever. `on_synced` is called once the jobs are known that were
/// assigned before.
pub async fn jobs(
    api: ApiServer,
    me: Arc<Identity>,
    events: mpsc::UnboundedSender<Event>,
    mut on_synced: impl FnMut(),
) {
    let config = watcher::Config::default().fields(&format!("status.assignedTo={}", me.pod.uid));
    // No debounce: this is the way that a job takes to its build.
    let mut stream = pin!(watch_api(api.guarded::<BuildJob>(), config));
    let mut assigned = Assigned::default();
    while let Some(event) = stream.next().await {
        match event {
            Ok(event) => {
                let synced = matches!(event, Watched::InitDone);
                for event in assigned.take(event) {
                    let _ = events.send(event);
                }
                if synced {
                    let _ = events.send(Event::Synced);
                    on_synced();
                }
            }
            Err(error) => tracing::warn!("watching jobs: {}", describe(&error)),
        }
    }
}

/// Follows this runner's pool, for ever.
pub async fn pool(
    api: ApiServer,
    me: Arc<Identity>,
    events: mpsc::UnboundedSender<Event>,
    settings: watch::Sender<PoolSettings>,
) {
    let config = watcher::Config::default().fields(&format!("metadata.name={}", me.pool));
    let mut stream = pin!(watch_api(api.guarded::<BuildPool>(), config));
    let mut told = None;
    let mut cancelled = false;
    while let Some(event) = stream.next().await {
        match event {
            Ok(Watched::Apply(DeserializeGuard(Ok(pool))) | Watched::InitApply(DeserializeGuard(Ok(pool)))) => {
                if !cancelled && cancels_builds(&pool) {
                    cancelled = true;
                    tracing::warn!("the pool is deleted, with whenDeleted: Cancel: its builds are stopped");
                    let _ = events.send(Event::PoolDeleted);
                }
                let now = PoolSettings::of(&pool);
                if told.as_ref() != Some(&now) {
                    tracing::info!(slots = now.slots, max_build_duration = ?now.max_build_duration, "pool");
                    // Before the slots: a build that starts by them reads its timeout here.
                    settings.send_replace(now.clone());
                    let _ = events.send(Event::Slots(now.slots));
                    told = Some(now);
                }
            }
            Ok(Watched::Apply(DeserializeGuard(Err(error))) | Watched::InitApply(DeserializeGuard(Err(error)))) => {
                tracing::error!("the pool cannot be read: {error}");
            }
            // Deleted while this member drains: it takes nothing more, but attempts of an earlier process are still to be
            // accounted for.
            Ok(Watched::InitDone) if told.is_none() => {
                tracing::warn!(pool = me.pool, "there is no such pool");
                let _ = events.send(Event::Slots(0));
            }
            // A pool that is deleted takes its pods with it: builds that run may end by what they were started with.
            Ok(Watched::Delete(_) | Watched::Init | Watched::InitDone) => {}
            Err(error) => tracing::warn!("watching the pool: {}", describe(&error)),
        }
    }
}

/// Whether the pool is on its way out and its builds are to be cancelled.
fn cancels_builds(pool: &BuildPool) -> bool {
    pool.metadata.deletion_timestamp.is_some() && pool.spec.when_deleted == WhenDeleted::Cancel
}

/// Which jobs the watch has shown, to notice by a new list what left while it was away.
#[derive(Debug, Default)]
struct Assigned {
    known: HashSet<Uid>,
    listed: HashSet<Uid>,
}

impl Assigned {
    fn take(&mut self, event: Watched<DeserializeGuard<BuildJob>>) -> Vec<Event> {
        match event {
            Watched::Init => {
                self.listed.clear();
                vec![]
            }
            Watched::InitApply(job) => {
                self.listed.extend(job.meta().uid.clone());
                seen(job)
            }
            Watched::InitDone => {
                let listed = std::mem::take(&mut self.listed);
                let known = std::mem::replace(&mut self.known, listed);
                known.into_iter().filter(|uid| !self.known.contains(uid)).map(Event::Left).collect()
            }
            Watched::Apply(job) => {
                self.known.extend(job.meta().uid.clone());
                seen(job)
            }
            Watched::Delete(job) => {
                let Some(uid) = job.meta().uid.clone() else { return vec![] };
                self.known.remove(&uid);
                vec![Event::Left(uid)]
            }
        }
    }
}

fn seen(job: DeserializeGuard<BuildJob>) -> Vec<Event> {
    let name = job.name_any();
    match job.0 {
        Ok(job) => vec![Event::Seen(Arc::new(job))],
        Err(error) => {
            tracing::error!(job = name, "the job cannot be read: {error}");
            vec![]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(uid: &str) -> DeserializeGuard<BuildJob> {
        let mut job = BuildJob::default();
        job.metadata.uid = Some(uid.to_owned());
        DeserializeGuard(Ok(job))
    }

    fn tell(events: &[Event]) -> Vec<String> {
        events
            .iter()
            .map(|event| match event {
                Event::Seen(job) => format!("seen {}", job.metadata.uid.as_deref().unwrap()),
                Event::Left(uid) => format!("left {uid}"),
                other => panic!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn what_a_new_list_does_not_show_has_left() {
        let mut assigned = Assigned::default();
        let mut take = |event| tell(&assigned.take(event));
        assert!(take(Watched::Init).is_empty());
        assert_eq!(take(Watched::InitApply(job("a"))), ["seen a"]);
        assert!(take(Watched::InitDone).is_empty());
        assert_eq!(take(Watched::Apply(job("b"))), ["seen b"]);
        assert_eq!(take(Watched::Delete(job("a"))), ["left a"]);
        assert_eq!(take(Watched::Apply(job("c"))), ["seen c"]);
        // The watch broke, and b left meanwhile.
        assert!(take(Watched::Init).is_empty());
        assert_eq!(take(Watched::InitApply(job("c"))), ["seen c"]);
        assert_eq!(take(Watched::InitDone), ["left b"]);
    }
}
