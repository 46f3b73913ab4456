//! Step 1: reads everything that a pool refers to and everything that bears a name that it needs.
//!
//! Plain reads, no cache: a reconcile sees what is there now, the operator keeps none of it in memory, and a pool at rest
//! is looked at once an hour.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::net::SocketAddr;

use buildpools_crds::v1alpha1::BuildPool;
use buildpools_crds::{labels, names};
use futures::future::{try_join, try_join_all, try_join4};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, Event, PersistentVolumeClaim, Pod, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::rbac::v1::RoleBinding;
use kube::api::{Api, ListParams};
use kube::{Client, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;

use crate::kube_ext::call::{self, CallError, call};
use crate::kube_ext::owner;

use super::network;

/// Namespace and name of the EndpointSlice with the API server's addresses, which API servers keep themselves.
pub const API_SERVER: (&str, &str) = ("default", "kubernetes");

/// A read that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {what}: {source}")]
pub struct DereferenceError {
    /// What was to be read.
    pub what: String,
    /// Why not.
    pub source: CallError,
}

impl DereferenceError {
    /// A word for logs and metrics.
    pub fn category(&self) -> &'static str {
        self.source.category()
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
    /// Events of the StatefulSet, when pods are missing.
    pub events: Vec<Event>,
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
    /// The members.
    pub stateful_set: Option<StatefulSet>,
}

impl Observed {
    /// Pods of the pool's own StatefulSet.
    pub fn members(&self) -> impl Iterator<Item = &Pod> {
        let set = self.live.stateful_set.as_ref().and_then(kube::ResourceExt::uid).unwrap_or_default();
        self.pods.iter().filter(move |pod| !set.is_empty() && owner::is_controlled_by(&pod.metadata, &set))
    }
}

/// Reads the pool and all that it refers to. `None` when the pool is gone or going.
///
/// # Errors
/// When a read fails for another reason than that the object is not there.
pub async fn dereference(
    client: &Client,
    namespace: &str,
    name: &str,
) -> Result<Option<Box<Observed>>, DereferenceError> {
    let read = Reader { client, namespace };
    // The pool before its pods: an entry of status.members whose pod is not in the list is then truly an old one.
    let Some(pool) = read.get::<BuildPool>(name).await?.filter(|pool| pool.metadata.deletion_timestamp.is_none())
    else {
        return Ok(None);
    };
    let runner = names::runner(name);
    let (service, config_map, network_policy) =
        (names::service(name), names::config_map(name), names::network_policy(name));
    let stateful_set = names::stateful_set(name);
    let (identity, objects, set, pods) = try_join4(
        try_join(read.get(&runner), read.get(&runner)),
        try_join(try_join(read.get(&config_map), read.get(&network_policy)), read.get(&service)),
        read.get::<StatefulSet>(&stateful_set),
        read.pods(name),
    )
    .await?;
    let (service_account, role_binding) = identity;
    let ((config_map, network_policy), service) = objects;
    let live = Live { service_account, role_binding, config_map, network_policy, service, stateful_set: set };

    let mut observed = Box::new(Observed { pool, live, pods, ..Observed::default() });
    observed.api_server = read.api_server().await?;
    observed.authorities = read.authorities(&observed.pool).await?;
    observed.claims = read.claims(&observed).await?;
    observed.events = read.events(&observed).await?;
    Ok(Some(observed))
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
        found.map_err(|source| DereferenceError { what: format!("{} {name}", K::kind(&())), source })
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
            Err(source) => Err(DereferenceError { what: "the pool's pods".to_owned(), source }),
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

    /// A StatefulSet says only in events why it cannot make a pod.
    async fn events(&self, observed: &Observed) -> Result<Vec<Event>, DereferenceError> {
        let Some(set) = &observed.live.stateful_set else { return Ok(Vec::new()) };
        let desired = set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or_default();
        let complete = i32::try_from(observed.members().count()).is_ok_and(|members| members >= desired);
        let ours = owner::is_controlled_by(&set.metadata, &observed.pool.uid().unwrap_or_default());
        if complete || !ours {
            return Ok(Vec::new());
        }
        let uid = set.uid().unwrap_or_default();
        let selector = ListParams::default().fields(&format!("involvedObject.uid={uid}"));
        match call(self.api::<Event>().list(&selector)).await {
            Ok(list) => Ok(list.items),
            Err(source) => Err(DereferenceError { what: "the StatefulSet's events".to_owned(), source }),
        }
    }
}
