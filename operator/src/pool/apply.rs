//! Step 4: puts the objects into the cluster.

use std::fmt::Debug;

use buildpools_crds::conditions;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::api::{Api, DeleteParams, Preconditions, PropagationPolicy};
use kube::{Client, Resource, ResourceExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tracing::info;

use super::build::Objects;
use super::cache::claims;
use super::dereference::{Live, Observed};
use super::preflight::{self, PreflightError};
use super::problem::Problem;
use super::reasons;
use super::validate::{self, ValidPool};
use crate::kube_ext::call::call;
use crate::kube_ext::ensure::{EnsureError, Manager, ensure, remove};
use crate::kube_ext::{owner, quantity};
use crate::runtime::metrics::Metrics;

/// Field manager of every object that a pool makes.
pub const FIELD_MANAGER: &str = "buildpools-operator/pool";

/// Objects that could not be put.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// Trying again will not help until somebody changes something: said in the pool's status.
    #[error("{0}")]
    Problem(Problem),
    /// The StatefulSet is being made anew, and its pods run on meanwhile. Looked at again when it is gone.
    #[error("the StatefulSet is being made anew")]
    Replacing,
    /// Tried again soon.
    #[error(transparent)]
    Ensure(#[from] EnsureError),
    /// Tried again soon.
    #[error(transparent)]
    Preflight(#[from] PreflightError),
}

impl ApplyError {
    /// A word for logs and metrics.
    pub fn category(&self) -> &'static str {
        match self {
            Self::Problem(problem) => problem.reason(),
            Self::Replacing => "Replacing",
            Self::Ensure(error) => error.category(),
            Self::Preflight(error) => error.category(),
        }
    }
}

/// How the pool was before, as its status says.
#[derive(Clone, Copy, Debug)]
pub struct Before {
    /// Members took builds, and nothing stood in the way of any.
    pub ready: bool,
    /// All objects had been put.
    pub put: bool,
    /// There are members, whether or not there is a StatefulSet at the moment.
    pub members: bool,
}

impl Before {
    /// From the pool's condition, and its pods.
    pub fn of(observed: &Observed) -> Self {
        let ready =
            observed.pool.status.as_ref().and_then(|status| conditions::find(&status.conditions, conditions::READY));
        Self {
            ready: ready.is_some_and(|ready| ready.status == "True"),
            put: ready.is_some_and(|ready| reasons::OF_MEMBERS.contains(&ready.reason.as_str())),
            members: observed.members().next().is_some(),
        }
    }
}

/// What has become of the objects.
#[derive(Clone, Debug)]
pub struct Applied {
    /// The StatefulSet as it is now.
    pub set: StatefulSet,
    /// A volume that was not made larger, and why. Nothing else waits for it.
    pub volume: Option<Problem>,
}

/// Puts all objects.
///
/// # Errors
/// With the first object that cannot be put.
pub async fn apply(
    client: &Client,
    pool: &ValidPool,
    objects: Objects,
    live: Live,
    before: Before,
    volumes: &claims::Plan,
    metrics: &Metrics,
) -> Result<Applied, ApplyError> {
    // Exhaustive: what is built is put.
    let Objects { service_account, role_binding, config_map, network_policy, service, disruption_budget, stateful_set } =
        objects;
    let put = Put { client, pool, put_before: before.put, metrics };
    // The StatefulSet last: a pod is made as soon as it is there, and needs its identity, its rights and its
    // configuration, and is closed to connections from the first moment.
    put.one(service_account, live.service_account).await?;
    put.one(role_binding, live.role_binding).await?;
    put.one(config_map, live.config_map).await?;
    put.one(network_policy, live.network_policy).await?;
    put.one(service, live.service).await?;
    put.while_wanted(disruption_budget, live.disruption_budget).await?;
    // Before the StatefulSet is made anew: the pool may be deleted meanwhile.
    claims::apply(client, &pool.namespace, &volumes.owners).await.map_err(classify)?;
    // The pod needs its ServiceAccount to be let in.
    if preflight::is_due(&stateful_set, live.stateful_set.as_ref(), before)?
        && let Some(problem) = Box::pin(preflight::check(client, pool, &stateful_set)).await?
    {
        return Err(ApplyError::Problem(problem));
    }
    if let Some(set) = &live.stateful_set {
        replace(client, pool, &stateful_set, set).await?;
    }
    let set = put.one(stateful_set, live.stateful_set).await?;
    // Last: a quota that refuses larger volumes is no reason to leave anything else undone.
    match claims::apply(client, &pool.namespace, &volumes.sizes).await.map_err(classify) {
        Ok(()) => Ok(Applied { set, volume: None }),
        Err(ApplyError::Problem(problem)) => Ok(Applied { set, volume: Some(problem) }),
        Err(error) => Err(error),
    }
}

/// A volume template cannot be changed, so a StatefulSet with another one is deleted without its pods (propagation
/// policy Orphan), and the new one takes them over. Builds run on.
async fn replace(
    client: &Client,
    pool: &ValidPool,
    desired: &StatefulSet,
    live: &StatefulSet,
) -> Result<(), ApplyError> {
    if !owner::is_controlled_by(&live.metadata, &pool.uid) {
        return Ok(());
    }
    if live.metadata.deletion_timestamp.is_some() {
        return Err(ApplyError::Replacing);
    }
    if same_volumes(desired, live) {
        return Ok(());
    }
    let api: Api<StatefulSet> = Api::namespaced(client.clone(), &pool.namespace);
    let name = live.name_any();
    let parameters = DeleteParams {
        propagation_policy: Some(PropagationPolicy::Orphan),
        preconditions: Some(Preconditions { uid: live.uid(), resource_version: live.resource_version() }),
        ..DeleteParams::default()
    };
    match call(api.delete(&name, &parameters)).await {
        Err(error) if !error.is_not_found() => {
            let kind = StatefulSet::kind(&()).into_owned();
            Err(classify(EnsureError::Call { verb: "delete", kind, name, source: error }))
        }
        _ => {
            info!(kind = "StatefulSet", name, "deleted without its pods: its volume template is another one");
            Err(ApplyError::Replacing)
        }
    }
}

/// Whether new members would get the volumes that they should: size, class and owner.
fn same_volumes(desired: &StatefulSet, live: &StatefulSet) -> bool {
    let claims =
        |set: &StatefulSet| set.spec.as_ref().and_then(|spec| spec.volume_claim_templates.clone()).unwrap_or_default();
    let owners = |claim: &PersistentVolumeClaim| claim.metadata.owner_references.clone().unwrap_or_default();
    let size = |claim: &PersistentVolumeClaim| claims::requested(claim).and_then(quantity::bytes);
    let (desired, live) = (claims(desired), claims(live));
    desired.len() == live.len()
        && desired
            .iter()
            .zip(&live)
            .all(|(a, b)| a.name_any() == b.name_any() && owners(a) == owners(b) && size(a) == size(b))
}

/// Removes what must not outlive its reason, of a pool that stands still for another one.
///
/// # Errors
/// When the call fails.
pub async fn retire(client: &Client, observed: &Observed) -> Result<(), ApplyError> {
    let uid = observed.pool.uid().unwrap_or_default();
    let Some(budget) = &observed.live.disruption_budget else { return Ok(()) };
    if validate::building(observed).is_empty() && owner::is_controlled_by(&budget.metadata, &uid) {
        let api = Api::namespaced(client.clone(), &observed.pool.namespace().unwrap_or_default());
        Box::pin(remove(&api, budget)).await.map_err(classify)?;
    }
    Ok(())
}

struct Put<'a> {
    client: &'a Client,
    pool: &'a ValidPool,
    put_before: bool,
    metrics: &'a Metrics,
}

impl Put<'_> {
    async fn one<K>(&self, desired: K, live: Option<K>) -> Result<K, ApplyError>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned,
    {
        let api = Api::<K>::namespaced(self.client.clone(), &self.pool.namespace);
        Box::pin(ensure(&api, desired, live, self.manager())).await.map_err(classify)
    }

    /// An object that comes and goes.
    async fn while_wanted<K>(&self, desired: Option<K>, live: Option<K>) -> Result<(), ApplyError>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned,
    {
        let api = Api::<K>::namespaced(self.client.clone(), &self.pool.namespace);
        // That it is missing says nothing.
        let by = Manager { put_before: false, ..self.manager() };
        match (desired, live) {
            (Some(desired), live) => Box::pin(ensure(&api, desired, live, by)).await.map(drop).map_err(classify),
            (None, Some(live)) => Box::pin(remove(&api, &live)).await.map_err(classify),
            (None, None) => Ok(()),
        }
    }

    fn manager(&self) -> Manager<'_> {
        Manager { name: FIELD_MANAGER, owner_uid: &self.pool.uid, put_before: self.put_before, metrics: self.metrics }
    }
}

fn classify(error: EnsureError) -> ApplyError {
    match error {
        EnsureError::Foreign { kind, name } => {
            ApplyError::Problem(Problem::NameConflict { kind, name, earlier_pool: false })
        }
        EnsureError::Call { kind, name, source, verb } => match source.refusal().map(str::to_owned) {
            Some(message) => ApplyError::Problem(Problem::ObjectRefused { kind, name, message }),
            None => ApplyError::Ensure(EnsureError::Call { kind, name, source, verb }),
        },
        error @ EnsureError::Serialise { .. } => ApplyError::Ensure(error),
    }
}

/// The namespace is being deleted: nothing can be created in it, and nothing needs to be.
pub fn is_namespace_terminating(error: &ApplyError) -> bool {
    match error {
        ApplyError::Ensure(EnsureError::Call { source, .. }) | ApplyError::Preflight(PreflightError::Call(source)) => {
            source.is_namespace_terminating()
        }
        _ => false,
    }
}
