//! When a pool is looked at: it changed, or something that it made did.
//!
//! The reconciler reads what it needs, so nothing but names is kept in memory: of pools a hash of what concerns it, of
//! everything else metadata only. An object that cannot be parsed does not stop the watch.

use std::fmt::Debug;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use buildpools_crds::v1alpha1::{BuildPool, PoolMember};
use buildpools_crds::{labels, watch};
use futures::stream::{BoxStream, StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::RoleBinding;
use kube::api::Api;
use kube::core::{DeserializeGuard, PartialObjectMeta};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::watcher::Event;
use kube::runtime::{Predicate as _, PredicateConfig, WatchStreamExt as _, predicates, reflector, watcher};
use kube::{Client, Resource, ResourceExt as _};

use super::busy;
use super::dereference::API_SERVER;
use crate::kube_ext::owner;

/// A pool, as far as the watch keeps it.
pub type PoolMeta = PartialObjectMeta<BuildPool>;
/// Annotation of a pool in memory: a hash of what its runners report.
const REPORTED: &str = "reported";

/// Pools to look at.
pub type Triggers = BoxStream<'static, Result<ObjectRef<PoolMeta>, watcher::Error>>;

/// The pools that there are, and the stream of those to look at.
pub fn watch(client: &Client) -> (Store<PoolMeta>, Triggers) {
    let (store, writer) = reflector::store();
    let pools = watch::watch(Api::<DeserializeGuard<BuildPool>>::all(client.clone()), watcher::Config::default())
        .map_ok(each)
        .reflect(writer)
        .touched_objects()
        // Runners report their builds in the pool's status: no reason to look at it.
        .predicate_filter(predicates::generation.combine(predicates::annotations), PredicateConfig::default())
        .map_ok(|pool| ObjectRef::from_obj(&pool));
    let triggers = futures::stream::select_all([
        pools.boxed(),
        owned::<StatefulSet>(client),
        owned::<Service>(client),
        owned::<ConfigMap>(client),
        owned::<ServiceAccount>(client),
        owned::<RoleBinding>(client),
        owned::<NetworkPolicy>(client),
        owned::<PodDisruptionBudget>(client),
        busy::triggers(client),
        pods(client),
        api_server(client, store.clone()),
    ]);
    (store, triggers.boxed())
}

/// The same event with a pool's metadata alone, and with a hash of what its runners report, but for their builds.
fn each(event: Event<DeserializeGuard<BuildPool>>) -> Event<PoolMeta> {
    match event {
        Event::Apply(pool) => Event::Apply(meta(&pool)),
        Event::Delete(pool) => Event::Delete(meta(&pool)),
        Event::Init => Event::Init,
        Event::InitApply(pool) => Event::InitApply(meta(&pool)),
        Event::InitDone => Event::InitDone,
    }
}

fn meta(pool: &DeserializeGuard<BuildPool>) -> PoolMeta {
    let mut meta = PoolMeta { metadata: pool.meta().clone(), ..PoolMeta::default() };
    prune(&mut meta);
    let mut hasher = DefaultHasher::new();
    if let Some(status) = pool.0.as_ref().ok().and_then(|pool| pool.status.as_ref()) {
        for member in &status.members {
            let PoolMember {
                uid,
                pod: _,
                phase: _,
                version,
                snapshotter,
                builds: _,
                missing_secrets,
                warnings,
                cache: _,
            } = member;
            (uid, version, snapshotter, missing_secrets, warnings).hash(&mut hasher);
        }
    }
    meta.metadata.annotations = Some([(REPORTED.to_owned(), hasher.finish().to_string())].into());
    meta
}

fn ours() -> watcher::Config {
    watcher::Config::default().labels(&format!("{}={}", labels::MANAGED_BY, labels::MANAGED_BY_VALUE))
}

/// Objects that a pool made: by their owner, because a label may have been changed by somebody.
fn owned<K>(client: &Client) -> Triggers
where
    K: Resource<DynamicType = ()> + Clone + Debug + Send + Sync + 'static,
{
    watch::watch(Api::<PartialObjectMeta<K>>::all(client.clone()), ours())
        .modify(prune)
        .touched_objects()
        .try_filter_map(|object| async move { Ok(pool_of_owned(&object)) })
        .boxed()
}

fn pool_of_owned<K: Resource>(object: &K) -> Option<ObjectRef<PoolMeta>> {
    let owner = owner::controller(object.meta()).filter(|owner| owner.kind == BuildPool::kind(&()))?;
    Some(ObjectRef::new(&owner.name).within(object.meta().namespace.as_deref()?))
}

/// Members: they belong to the StatefulSet, and bear the pool's name in a label.
fn pods(client: &Client) -> Triggers {
    watch::watch(Api::<PartialObjectMeta<Pod>>::all(client.clone()), ours())
        .modify(prune)
        .touched_objects()
        .try_filter_map(|pod| async move {
            let pool = pod.labels().get(labels::POOL).cloned();
            Ok(pool.zip(pod.namespace()).map(|(pool, namespace)| ObjectRef::new(&pool).within(&namespace)))
        })
        .boxed()
}

/// When the API server moves, every pool's members must be let through to where it is now.
fn api_server(client: &Client, pools: Store<PoolMeta>) -> Triggers {
    let (namespace, name) = API_SERVER;
    let this = watcher::Config::default().fields(&format!("metadata.name={name}"));
    watch::watch(Api::<PartialObjectMeta<EndpointSlice>>::namespaced(client.clone(), namespace), this)
        .modify(prune)
        .touched_objects()
        .predicate_filter(predicates::generation, PredicateConfig::default())
        .map_ok(move |_| {
            let all = pools.state().into_iter().map(|pool| Ok(ObjectRef::from_obj(pool.as_ref())));
            futures::stream::iter(all.collect::<Vec<_>>())
        })
        .try_flatten()
        .boxed()
}

fn prune<K: Resource>(object: &mut PartialObjectMeta<K>) {
    object.metadata.managed_fields = None;
    object.metadata.annotations = None;
}
