//! Letting a deleted pool go, after its builds and not before.
//!
//! A runner writes the outcome of its builds with rights that belong to the pool, so the pods end before the rest: the
//! StatefulSet is scaled to nothing, which stops every runner, and a runner that is stopped takes nothing more, gives back
//! what it has not started, and finishes what it has. Only when no pod is left does the finalizer go, and the garbage
//! collector takes what the pool made. `spec.whenDeleted: Cancel` concerns the runners: they see it in the pool and stop
//! their builds.

use std::collections::BTreeMap;

use buildpools_crds::conditions::{self, Status};
use buildpools_crds::v1alpha1::{BuildPool, BuildPoolStatus, WhenDeleted};
use buildpools_crds::{labels, names};
use futures::future::try_join_all;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{Api, ListParams, Patch, PatchParams};
use kube::core::DeserializeGuard;
use kube::{Client, Resource as _, ResourceExt as _};
use serde_json::{Value, json};

use super::cache::claims;
use super::dereference::{DereferenceError, Live, Observed, assigned, volumes};
use super::{apply, delete_member, members, reasons, roster, upgrade};
use crate::kube_ext::call::{self, CallError, call};
use crate::kube_ext::ensure::EnsureError;
use crate::kube_ext::owner;

/// How much longer than its grace period a pod may be there until it is no longer waited for: its node is lost.
const OVERDUE: SignedDuration = SignedDuration::from_mins(1);

/// A pool that could not be let go.
#[derive(Debug, thiserror::Error)]
pub enum DeletionError {
    /// Something could not be read.
    #[error(transparent)]
    Read(#[from] DereferenceError),
    /// A volume could not be kept, or not given to the pool.
    #[error(transparent)]
    Volume(#[from] EnsureError),
    /// Something could not be written.
    #[error("cannot {what}: {source}")]
    Write {
        /// What was to be done.
        what: &'static str,
        /// Why not.
        source: CallError,
    },
}

impl DeletionError {
    /// A word for logs and metrics.
    pub fn category(&self) -> &'static str {
        match self {
            Self::Read(error) => error.category(),
            Self::Volume(error) => error.category(),
            Self::Write { source, .. } => source.category(),
        }
    }
}

/// How far a pool is on its way out.
#[derive(Clone, Debug)]
pub enum Departure {
    /// Nothing holds it any more.
    Gone,
    /// It waits for its members; what its status is to say.
    Waits(Box<Observed>, Option<Box<BuildPoolStatus>>),
}

/// Makes a pool keep until its builds have ended, if it does not yet. The pool as it is then.
///
/// # Errors
/// When the finalizer cannot be written.
pub async fn hold(client: &Client, pool: BuildPool) -> Result<BuildPool, DeletionError> {
    if is_held(&pool.metadata) {
        return Ok(pool);
    }
    let mut finalizers = pool.metadata.finalizers.clone().unwrap_or_default();
    finalizers.push(labels::FINALIZER.to_owned());
    let patch = finalizers_patch(&pool.metadata, &finalizers);
    let what = "add the finalizer";
    call(pools(client, &pool.metadata).patch(&pool.name_any(), &params(), &Patch::Merge(patch)))
        .await
        .map_err(|source| DeletionError::Write { what, source })
}

fn is_held(meta: &ObjectMeta) -> bool {
    meta.finalizers.iter().flatten().any(|finalizer| finalizer == labels::FINALIZER)
}

fn finalizers_patch(meta: &ObjectMeta, finalizers: &[String]) -> Value {
    json!({"metadata": {"resourceVersion": meta.resource_version, "finalizers": finalizers}})
}

fn params() -> PatchParams {
    PatchParams { field_manager: Some(apply::FIELD_MANAGER.to_owned()), ..PatchParams::default() }
}

fn pools(client: &Client, meta: &ObjectMeta) -> Api<BuildPool> {
    Api::namespaced(client.clone(), meta.namespace.as_deref().unwrap_or_default())
}

/// One step towards the end of a pool that is being deleted.
///
/// # Errors
/// When a call fails in a way that trying again may mend.
pub async fn let_go(
    client: &Client,
    pool: &DeserializeGuard<BuildPool>,
    now: Timestamp,
) -> Result<Departure, DeletionError> {
    let meta = pool.meta();
    if !is_held(meta) {
        return Ok(Departure::Gone);
    }
    let left = Left::read(client, meta).await?;
    left.stop(client, meta).await?;
    let waited_for = left.waited_for(now);
    if waited_for.is_empty() && left.is_stopped() {
        settle_volumes(client, pool).await?;
        let others = meta.finalizers.iter().flatten().filter(|finalizer| *finalizer != labels::FINALIZER);
        let patch = finalizers_patch(meta, &others.cloned().collect::<Vec<_>>());
        let (api, name, params, patch) = (pools(client, meta), pool.name_any(), params(), Patch::Merge(patch));
        return match call(api.patch_metadata(&name, &params, &patch)).await {
            Ok(_) => Ok(Departure::Gone),
            Err(error) if error.is_not_found() => Ok(Departure::Gone),
            Err(source) => Err(DeletionError::Write { what: "remove the finalizer", source }),
        };
    }
    // Of a pool that is not understood, nothing is said.
    let readable = pool.0.as_ref().ok();
    let namespace = meta.namespace.clone().unwrap_or_default();
    let jobs = waited_for.iter().filter_map(|pod| pod.metadata.uid.as_deref());
    let jobs = try_join_all(jobs.map(|uid| assigned(client, &namespace, uid))).await?;
    let jobs: Vec<String> = jobs.into_iter().flatten().collect();
    let pods: Vec<String> = waited_for.iter().map(|pod| pod.name_any()).collect();
    let live = Live { stateful_set: left.set.clone(), ..Live::default() };
    let observed =
        Observed { pool: readable.cloned().unwrap_or_default(), live, pods: left.pods.clone(), ..Observed::default() };
    let status = readable.map(|pool| Box::new(status(pool, &observed, &pods, &jobs, now)));
    Ok(Departure::Waits(Box::new(observed), status))
}

/// Volumes go or stay as the pool says at its end, whatever there was no time for before.
async fn settle_volumes(client: &Client, pool: &DeserializeGuard<BuildPool>) -> Result<(), DeletionError> {
    let (Ok(pool), namespace) = (&pool.0, pool.meta().namespace.as_deref().unwrap_or_default()) else { return Ok(()) };
    let claims = volumes(client, namespace, &pool.name_any()).await?;
    let plan = claims::plan(pool, &claims, &BTreeMap::new());
    Ok(claims::apply(client, namespace, &plan.owners).await?)
}

/// What a pool that waits says.
fn status(pool: &BuildPool, observed: &Observed, pods: &[String], jobs: &[String], now: Timestamp) -> BuildPoolStatus {
    let mut next = pool.status.clone().unwrap_or_default();
    let members = roster::roster(observed, observed.live.stateful_set.as_ref(), None);
    next.members = roster::entries(&next.members, &members);
    next.upgrade = None;
    let pods = if pods.is_empty() { "its members".to_owned() } else { pods.join(", ") };
    let message = match (jobs, pool.spec.when_deleted) {
        ([], _) => format!("the pool is being deleted: waits for {pods} to end"),
        (jobs, WhenDeleted::Cancel) => {
            format!("the pool is being deleted: its builds are being cancelled ({})", upgrade::named(jobs))
        }
        (jobs, WhenDeleted::Finish) => format!(
            "the pool is being deleted: waits for {} of its builds ({}) on {pods}; set spec.whenDeleted to Cancel to cancel them",
            jobs.len(),
            upgrade::named(jobs)
        ),
    };
    let generation = pool.metadata.generation;
    let conditions = &mut next.conditions;
    conditions.retain(|condition| ![conditions::UPGRADING, conditions::STALLED].contains(&condition.type_.as_str()));
    for (type_, status) in [(conditions::READY, Status::False), (conditions::RECONCILING, Status::True)] {
        let _ = conditions::set(conditions, type_, status, reasons::DELETING, &message, generation, now);
    }
    next.ready_members = Some(0);
    next.member_summary = Some(format!("0/{}", pool.spec.scaling.min_members));
    next.observed_generation = generation;
    next
}

/// What is left of a pool.
struct Left {
    /// Its StatefulSet, unless it is somebody else's.
    set: Option<StatefulSet>,
    /// Its pods.
    pods: Vec<Pod>,
}

impl Left {
    async fn read(client: &Client, meta: &ObjectMeta) -> Result<Self, DereferenceError> {
        let (pool, namespace) =
            (meta.name.as_deref().unwrap_or_default(), meta.namespace.as_deref().unwrap_or_default());
        let name = names::stateful_set(pool);
        let sets: Api<StatefulSet> = Api::namespaced(client.clone(), namespace);
        let set = call::get(sets.get(&name)).await;
        let set =
            set.map_err(|source| DereferenceError { what: format!("StatefulSet {name}"), source: source.into() })?;
        let foreign =
            |set: &StatefulSet| !owner::is_controlled_by(&set.metadata, meta.uid.as_deref().unwrap_or_default());
        let is_foreign = set.as_ref().is_some_and(foreign);
        let selector = ListParams::default().labels(&format!("{}={pool}", labels::POOL));
        let pods = match call(Api::<Pod>::namespaced(client.clone(), namespace).list(&selector)).await {
            Ok(list) => list.items,
            Err(source) => {
                return Err(DereferenceError { what: "the pool's pods".to_owned(), source: source.into() });
            }
        };
        // The set is gone before its pods when the namespace is deleted.
        let left = |pod: &Pod| {
            let by_name = |it: &OwnerReference| owner::is_stateful_set(it, &name);
            set.is_none() && owner::controller(&pod.metadata).is_some_and(by_name)
        };
        let ours = |pod: &Pod| members::is_of(set.as_ref(), pod) || left(pod);
        let pods = if is_foreign { Vec::new() } else { pods.into_iter().filter(ours).collect() };
        Ok(Self { set: set.filter(|_| !is_foreign), pods })
    }

    fn replicas(&self) -> i32 {
        self.set.as_ref().and_then(|set| set.spec.as_ref()).and_then(|spec| spec.replicas).unwrap_or_default()
    }

    /// Stops all members: by their StatefulSet, or one by one where it was about to be made anew and is not any more.
    async fn stop(&self, client: &Client, meta: &ObjectMeta) -> Result<(), DeletionError> {
        let Some(set) = &self.set else { return self.stop_each(client, meta).await };
        if self.replicas() == 0 || set.metadata.deletion_timestamp.is_some() {
            return Ok(());
        }
        let patch = json!({"metadata": {"uid": set.metadata.uid}, "spec": {"replicas": 0}});
        let sets: Api<StatefulSet> = Api::namespaced(client.clone(), meta.namespace.as_deref().unwrap_or_default());
        match call(sets.patch(&set.name_any(), &params(), &Patch::Merge(patch))).await {
            Ok(_) => Ok(()),
            // Gone, or replaced: the next look shows which.
            Err(error) if error.is_not_found() || error.is_conflict() => Ok(()),
            Err(source) => Err(DeletionError::Write { what: "stop the members", source }),
        }
    }

    async fn stop_each(&self, client: &Client, meta: &ObjectMeta) -> Result<(), DeletionError> {
        let namespace = meta.namespace.as_deref().unwrap_or_default();
        let on = |pod: &&Pod| pod.metadata.deletion_timestamp.is_none() && owner::controller(&pod.metadata).is_none();
        for pod in self.pods.iter().filter(on) {
            delete_member(client, namespace, &pod.name_any(), &pod.uid().unwrap_or_default())
                .await
                .map_err(|source| DeletionError::Write { what: "stop a member", source })?;
        }
        Ok(())
    }

    /// Whether no pod will be made any more, and none is without an owner that had one.
    fn is_stopped(&self) -> bool {
        let Some(set) = &self.set else { return true };
        if set.metadata.deletion_timestamp.is_some() {
            return false;
        }
        let seen = set.status.as_ref().and_then(|status| status.observed_generation);
        self.replicas() == 0 && seen >= set.metadata.generation
    }

    /// Pods that are there, but for those that should have ended long ago.
    fn waited_for(&self, now: Timestamp) -> Vec<&Pod> {
        let overdue = |pod: &&Pod| {
            // The time at which its grace period ends.
            let until = pod.metadata.deletion_timestamp.as_ref();
            until.is_some_and(|until| now.duration_since(until.0) > OVERDUE)
        };
        self.pods.iter().filter(|pod| !overdue(pod)).collect()
    }
}
