//! Step 1: reads everything that a pool refers to and everything that bears a name that it needs.
//!
//! Plain reads, no cache: a reconcile sees what is there now, the operator keeps none of it in memory, and a pool at rest
//! is looked at once an hour.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::net::SocketAddr;

use buildpools_crds::v1alpha1::{BuildJob, BuildPool};
use buildpools_crds::{labels, names};
use futures::future::{try_join, try_join_all, try_join3, try_join4};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Node, PersistentVolumeClaim, Pod, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::RoleBinding;
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{Api, ListParams};
use kube::core::DeserializeGuard;
use kube::core::error_boundary::InvalidObject;
use kube::{Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;

use super::cache::claims;
use super::members;
use crate::dispatch::nodes::Standing;
use crate::kube_ext::call::{self, CallError, call};
use crate::kube_ext::owner;

use super::network;
use super::problem::Problem;

/// Namespace and name of the EndpointSlice with the API server's addresses, which API servers keep themselves.
pub const API_SERVER: (&str, &str) = ("default", "kubernetes");

/// A read that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {what}: {source}")]
pub struct DereferenceError {
    /// What was to be read.
    pub what: String,
    /// Why not.
    pub source: ReadError,
}

/// Why a read failed.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The call did.
    #[error(transparent)]
    Call(#[from] CallError),
    /// What was read is not understood: another version of buildpools has written it.
    #[error("it is not understood: {0}")]
    Invalid(String),
}

impl DereferenceError {
    /// A word for logs and metrics.
    pub fn category(&self) -> &'static str {
        match &self.source {
            ReadError::Call(error) => error.category(),
            ReadError::Invalid(_) => "Invalid",
        }
    }

    fn unreadable(name: &str, invalid: &InvalidObject) -> Self {
        Self { what: format!("BuildPool {name}"), source: ReadError::Invalid(invalid.error.clone()) }
    }
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// The pool itself, with its newest status.
    pub pool: BuildPool,
    /// The ConfigMaps that the pool names and that exist, with the keys that it names and that exist.
    pub authorities: BTreeMap<String, BTreeMap<String, String>>,
    /// Where the API server is.
    pub api_server: Vec<SocketAddr>,
    /// Objects of the names that the pool needs, whoever they belong to.
    pub live: Live,
    /// Pods with the pool's label.
    pub pods: Vec<Pod>,
    /// Volumes of the names that members without a pod will take, if they exist.
    pub claims: Vec<PersistentVolumeClaim>,
    /// All volumes that were made for a pool of this name.
    pub volumes: Vec<PersistentVolumeClaim>,
    /// Their StorageClasses, of those that are smaller than the pool wants.
    pub classes: BTreeMap<String, StorageClass>,
    /// Events of the StatefulSet, when pods are missing, and of members that have a node and do not start there.
    pub events: Vec<Event>,
    /// A volume that was not made larger, and why. Not read: known once the objects have been put.
    pub refused_volume: Option<Problem>,
    /// Names of the jobs that are assigned to the member which is marked for replacement, read after its mark.
    pub assigned: Vec<String>,
    /// Nodes of members that are not ready, of which nothing is heard.
    pub unreachable_nodes: BTreeSet<String>,
}

/// A pool as it was found.
#[derive(Debug)]
pub enum Found {
    /// There is none.
    Gone,
    /// It is being deleted.
    Leaving(Box<DeserializeGuard<BuildPool>>),
    /// It is there, with all that it refers to.
    There(Box<Observed>),
}

/// Objects of the names that the pool needs.
#[derive(Clone, Debug, Default)]
pub struct Live {
    /// The runner's identity.
    pub service_account: Option<ServiceAccount>,
    /// The runner's rights.
    pub role_binding: Option<RoleBinding>,
    /// The configuration of daemon and runner.
    pub config_map: Option<ConfigMap>,
    /// Who may connect to members, and where they may connect to.
    pub network_policy: Option<NetworkPolicy>,
    /// The members' host names.
    pub service: Option<Service>,
    /// Who is not evicted.
    pub disruption_budget: Option<PodDisruptionBudget>,
    /// The members.
    pub stateful_set: Option<StatefulSet>,
}

impl Observed {
    /// Pods of the pool's own StatefulSet. While it is made anew, those that it left behind.
    pub fn members(&self) -> impl Iterator<Item = &Pod> {
        let set = self.live.stateful_set.as_ref();
        self.pods.iter().filter(move |pod| members::is_of(set, pod))
    }

    /// Pods of this StatefulSet, which may be newer than the one that was read.
    pub fn members_of(&self, set: &StatefulSet) -> impl Iterator<Item = &Pod> {
        self.pods.iter().filter(move |pod| members::is_of(Some(set), pod))
    }
}

/// Reads the pool and all that it refers to.
///
/// # Errors
/// When a read fails for another reason than that the object is not there.
pub async fn dereference(client: &Client, namespace: &str, name: &str) -> Result<Found, DereferenceError> {
    let read = Reader { client, namespace };
    // The pool before its pods and jobs: an entry of status.members whose pod is not in the list is then truly an old one,
    // and a job that was bound before a mark is seen.
    let pool = match read.guarded::<BuildPool>(name).await? {
        None => return Ok(Found::Gone),
        // Also one whose spec is not understood: nothing but its metadata is needed to let it go.
        Some(pool) if pool.meta().deletion_timestamp.is_some() => return Ok(Found::Leaving(Box::new(pool))),
        Some(pool) => pool.0.map_err(|invalid| DereferenceError::unreadable(name, &invalid))?,
    };
    let runner = names::runner(name);
    let (service, config_map, network_policy) =
        (names::service(name), names::config_map(name), names::network_policy(name));
    let (stateful_set, disruption_budget) = (names::stateful_set(name), names::disruption_budget(name));
    // The StatefulSet before its pods: one that has seen all pods is then not taken for the one of pods without an owner.
    let set = read.get::<StatefulSet>(&stateful_set).await?;
    let (identity, objects, pods) = try_join3(
        try_join(read.get(&runner), read.get(&runner)),
        try_join4(read.get(&config_map), read.get(&network_policy), read.get(&service), read.get(&disruption_budget)),
        read.pods(name),
    )
    .await?;
    let (service_account, role_binding) = identity;
    let (config_map, network_policy, service, disruption_budget) = objects;
    let live = Live {
        service_account,
        role_binding,
        config_map,
        network_policy,
        service,
        disruption_budget,
        stateful_set: set,
    };

    let mut observed = Box::new(Observed { pool, live, pods, ..Observed::default() });
    observed.api_server = read.api_server().await?;
    observed.authorities = read.authorities(&observed.pool).await?;
    observed.claims = read.claims(&observed).await?;
    observed.volumes = volumes(client, namespace, name).await?;
    observed.classes = read.classes(&observed).await?;
    observed.events = read.events(&observed).await?;
    observed.assigned = read.assigned_to_marked(&observed.pool).await?;
    observed.unreachable_nodes = read.unreachable_nodes(&observed).await?;
    Ok(Found::There(observed))
}

/// Names of the jobs that are assigned to the pod with this UID, Bound or Running, by the API server's own word.
///
/// # Errors
/// When they cannot be listed.
pub async fn assigned(client: &Client, namespace: &str, uid: &str) -> Result<Vec<String>, DereferenceError> {
    let jobs: Api<BuildJob> = Api::namespaced(client.clone(), namespace);
    let selector = ListParams::default().fields(&format!("status.assignedTo={uid}"));
    match call(jobs.list_metadata(&selector)).await {
        Ok(list) => Ok(list.items.iter().map(ResourceExt::name_any).collect()),
        Err(source) => Err(DereferenceError { what: "the jobs of a member".to_owned(), source: source.into() }),
    }
}

/// The claims of a pool's members, those that there were too.
///
/// # Errors
/// When they cannot be listed.
pub async fn volumes(
    client: &Client,
    namespace: &str,
    pool: &str,
) -> Result<Vec<PersistentVolumeClaim>, DereferenceError> {
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), namespace);
    let ours = format!("{}={pool},{}={}", labels::POOL, labels::MANAGED_BY, labels::MANAGED_BY_VALUE);
    match call(claims.list(&ListParams::default().labels(&ours))).await {
        Ok(list) => Ok(list.items),
        Err(source) => Err(DereferenceError { what: "the pool's volumes".to_owned(), source: source.into() }),
    }
}

fn doubtful_node(pod: &Pod) -> Option<&str> {
    let status = pod.status.as_ref()?;
    let mut containers = status.container_statuses.iter().flatten().peekable();
    let running = containers.peek().is_some() && containers.all(|container| container.ready);
    let node = pod.spec.as_ref()?.node_name.as_deref()?;
    (running && !members::is_ready(pod)).then_some(node)
}

struct Reader<'a> {
    client: &'a Client,
    namespace: &'a str,
}

impl Reader<'_> {
    fn api<K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>>(&self) -> Api<K> {
        Api::namespaced(self.client.clone(), self.namespace)
    }

    async fn get<K>(&self, name: &str) -> Result<Option<K>, DereferenceError>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + Debug + DeserializeOwned,
    {
        let api = self.api::<K>();
        let found = Box::pin(call::get(api.get(name))).await;
        found.map_err(|source| DereferenceError { what: format!("{} {name}", K::kind(&())), source: source.into() })
    }

    /// An object that is there, whether or not it is understood.
    async fn guarded<K>(&self, name: &str) -> Result<Option<DeserializeGuard<K>>, DereferenceError>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + Debug + DeserializeOwned,
    {
        let api = Api::<DeserializeGuard<K>>::namespaced(self.client.clone(), self.namespace);
        let found = Box::pin(call::get(api.get(name))).await;
        found.map_err(|source| DereferenceError { what: format!("{} {name}", K::kind(&())), source: source.into() })
    }

    /// Jobs that are assigned to the member that is marked for replacement. The mark was in the pool that was read before.
    async fn assigned_to_marked(&self, pool: &BuildPool) -> Result<Vec<String>, DereferenceError> {
        let upgrade = pool.status.as_ref().and_then(|status| status.upgrade.as_ref());
        match upgrade.and_then(|upgrade| upgrade.draining.as_ref()) {
            Some(marked) => assigned(self.client, self.namespace, &marked.uid).await,
            None => Ok(Vec::new()),
        }
    }

    /// The kubelet has said that all containers are ready and somebody else that the pod is not: its node may be lost.
    async fn unreachable_nodes(&self, observed: &Observed) -> Result<BTreeSet<String>, DereferenceError> {
        let doubtful: BTreeSet<&str> = observed.members().filter_map(doubtful_node).collect();
        let nodes: Api<Node> = Api::all(self.client.clone());
        let nodes = &nodes;
        let found = try_join_all(doubtful.iter().map(|name| async move {
            let node = call::get(nodes.get(name)).await;
            node.map_err(|source| DereferenceError { what: format!("Node {name}"), source: source.into() })
        }))
        .await?;
        let lost = |node: &Option<Node>| {
            node.as_ref().is_none_or(|node| !matches!(Standing::of(node), Standing::Fine | Standing::Cordoned))
        };
        Ok(doubtful.iter().zip(found).filter(|(_, node)| lost(node)).map(|(name, _)| (*name).to_owned()).collect())
    }

    async fn api_server(&self) -> Result<Vec<SocketAddr>, DereferenceError> {
        let (namespace, name) = API_SERVER;
        let found = Reader { client: self.client, namespace }.get::<EndpointSlice>(name).await?;
        Ok(found.as_ref().map(network::api_server).unwrap_or_default())
    }

    async fn pods(&self, pool: &str) -> Result<Vec<Pod>, DereferenceError> {
        let selector = ListParams::default().labels(&format!("{}={pool}", labels::POOL));
        match call(self.api::<Pod>().list(&selector)).await {
            Ok(list) => Ok(list.items),
            Err(source) => Err(DereferenceError { what: "the pool's pods".to_owned(), source: source.into() }),
        }
    }

    async fn authorities(
        &self,
        pool: &BuildPool,
    ) -> Result<BTreeMap<String, BTreeMap<String, String>>, DereferenceError> {
        let mut wanted: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for registry in &pool.spec.registries {
            wanted.entry(&registry.ca_ref.config_map).or_default().push(&registry.ca_ref.key);
        }
        let found = try_join_all(wanted.keys().map(|name| self.get::<ConfigMap>(name))).await?;
        let existing = wanted.into_iter().zip(found).filter_map(|((name, keys), found)| {
            let mut data = found?.data.unwrap_or_default();
            data.retain(|key, _| keys.contains(&key.as_str()));
            Some((name.to_owned(), data))
        });
        Ok(existing.collect())
    }

    /// A running member has its volume already.
    async fn claims(&self, observed: &Observed) -> Result<Vec<PersistentVolumeClaim>, DereferenceError> {
        let pool = observed.pool.name_any();
        let missing = (0..observed.pool.spec.scaling.min_members).filter(|ordinal| {
            let pod = format!("{}-{ordinal}", names::stateful_set(&pool));
            !observed.members().any(|member| member.metadata.name.as_deref() == Some(&pod))
        });
        let claims: Vec<String> = missing.map(|ordinal| names::cache_claim(&pool, ordinal)).collect();
        let found = try_join_all(claims.iter().map(|name| self.get::<PersistentVolumeClaim>(name))).await?;
        Ok(found.into_iter().flatten().collect())
    }

    async fn classes(&self, observed: &Observed) -> Result<BTreeMap<String, StorageClass>, DereferenceError> {
        let names = claims::classes_to_ask(&observed.pool, &observed.volumes);
        let api: Api<StorageClass> = Api::all(self.client.clone());
        let found = try_join_all(names.iter().map(|name| Box::pin(call::get(api.get(name))))).await;
        let found = found.map_err(|source| DereferenceError {
            what: "the volumes' StorageClass".to_owned(),
            source: source.into(),
        })?;
        Ok(names.into_iter().zip(found).filter_map(|(name, class)| Some((name, class?))).collect())
    }

    /// A StatefulSet says only in events why it cannot make a pod, and a kubelet why it cannot begin with one.
    async fn events(&self, observed: &Observed) -> Result<Vec<Event>, DereferenceError> {
        let Some(set) = &observed.live.stateful_set else { return Ok(Vec::new()) };
        if !owner::is_controlled_by(&set.metadata, &observed.pool.uid().unwrap_or_default()) {
            return Ok(Vec::new());
        }
        let desired = set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or_default();
        let complete = i32::try_from(observed.members().count()).is_ok_and(|members| members >= desired);
        let incomplete = (!complete).then(|| set.uid()).flatten();
        let held = observed.members().filter(|pod| members::is_held_by_kubelet(pod)).filter_map(ResourceExt::uid);
        let of = incomplete.into_iter().chain(held);
        Ok(try_join_all(of.map(|uid| self.events_of(uid))).await?.concat())
    }

    async fn events_of(&self, uid: String) -> Result<Vec<Event>, DereferenceError> {
        let selector = ListParams::default().fields(&format!("involvedObject.uid={uid}"));
        match call(self.api::<Event>().list(&selector)).await {
            Ok(list) => Ok(list.items),
            Err(source) => Err(DereferenceError { what: format!("the events of {uid}"), source: source.into() }),
        }
    }
}
