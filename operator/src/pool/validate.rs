//! Step 2: what was read becomes a [`ValidPool`], the only thing that objects are built from, or a list of problems.
//!
//! Pure. The API server has checked each field by the schema; here is what only the neighbourhood can tell.

use std::collections::{BTreeMap, BTreeSet};

use buildpools_crds::labels;
use buildpools_crds::v1alpha1::{BuildPool, PodResources, PodSettings, PoolProfile, std_duration};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::{Resource, ResourceExt as _};

use super::Settings;
use super::cache::claims;
use super::cache::limits::Limits;
use super::dereference::{Live, Observed};
use super::network::{self, Network};
use super::problem::Problem;
use crate::kube_ext::{owner, quantity};

/// A pool whose objects can be built.
#[derive(Clone, Debug, PartialEq)]
pub struct ValidPool {
    /// Name of the pool.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its UID.
    pub uid: String,
    /// Reference to it as controller.
    pub owner: OwnerReference,
    /// How the daemon is confined.
    pub profile: PoolProfile,
    /// Members that run.
    pub members: i32,
    /// Names of the members' pods that build now, in order.
    pub building: Vec<String>,
    /// Seconds that a member gets to finish its builds.
    pub grace_seconds: i64,
    /// Cache volume.
    pub cache: Cache,
    /// Names of the Secrets with registry logins.
    pub credentials: Vec<String>,
    /// Registries with a certificate authority of their own.
    pub registries: Vec<Registry>,
    /// Where members may connect to.
    pub network: Network,
    /// Image of the daemon.
    pub buildkit_image: String,
    /// Image of the runner.
    pub runner_image: String,
    /// Requests of the daemon's container.
    pub requests: BTreeMap<String, Quantity>,
    /// Limits of the daemon's container.
    pub limits: BTreeMap<String, Quantity>,
    /// Where the pods run and what others read from them, as it was written.
    pub pod: PodSettings,
}

/// Cache volume of a member.
#[derive(Clone, Debug, PartialEq)]
pub struct Cache {
    /// Size as it was written.
    pub size: Quantity,
    /// What garbage collection keeps to.
    pub limits: Limits,
    /// StorageClass; the cluster's default when absent.
    pub storage_class: Option<String>,
    /// Whether volumes outlive the pool.
    pub retain: bool,
}

/// A registry with a certificate authority of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registry {
    /// `host` or `host:port`.
    pub host: String,
    /// ConfigMap with the authority.
    pub config_map: String,
    /// Key in it.
    pub key: String,
    /// The authority, in PEM.
    pub authority: String,
}

/// Checks a pool.
///
/// # Errors
/// All problems, those first that keep the pool from existing at all.
pub fn validate(observed: &Observed, settings: &Settings) -> Result<ValidPool, Vec<Problem>> {
    let pool = &observed.pool;
    let mut problems = conflicts(pool, &observed.live);
    problems.extend(foreign_volumes(observed));

    let registries = registries(observed, &mut problems);
    let cache = cache(observed, &mut problems);
    let network = network::network(&pool.spec.network, &settings.network, &observed.api_server, &mut problems);
    let requests = quantities("requests", &pool.spec.pod.resources.requests, &mut problems);
    let limits = quantities("limits", &pool.spec.pod.resources.limits, &mut problems);
    problems.extend(requests_above_limits(&pool.spec.pod.resources));

    // An object from the API has a namespace, a UID and an owner reference.
    let (Some(cache), Some(owner), true) = (cache, pool.controller_owner_ref(&()), problems.is_empty()) else {
        return Err(problems);
    };
    let grace = std_duration(pool.spec.max_build_duration);
    Ok(ValidPool {
        name: pool.name_any(),
        namespace: pool.namespace().unwrap_or_default(),
        uid: owner.uid.clone(),
        owner,
        profile: pool.spec.profile,
        members: pool.spec.scaling.min_members,
        building: building(observed),
        grace_seconds: i64::try_from(grace.as_millis().div_ceil(1000)).unwrap_or(i64::MAX),
        cache,
        credentials: pool.spec.credentials.iter().map(|credential| credential.secret_ref.name.clone()).collect(),
        registries,
        network,
        buildkit_image: pool.spec.buildkit.image.clone().unwrap_or_else(|| default_image(pool.spec.profile, settings)),
        runner_image: settings.runner_image.clone(),
        requests,
        limits,
        pod: pool.spec.pod.clone(),
    })
}

/// Members that say so in the pool's status. They say it of builds that have run for ten seconds, so that short ones cost
/// nothing (`runner/src/member.rs`).
pub fn building(observed: &Observed) -> Vec<String> {
    let reported = observed.pool.status.iter().flat_map(|status| &status.members);
    let busy: BTreeSet<&str> = reported.filter(|member| member.builds > 0).map(|member| member.uid.as_str()).collect();
    let mut pods: Vec<String> = observed
        .members()
        .filter(|pod| pod.metadata.deletion_timestamp.is_none())
        .filter(|pod| pod.metadata.uid.as_deref().is_some_and(|uid| busy.contains(uid)))
        .map(kube::ResourceExt::name_any)
        .collect();
    pods.sort();
    pods
}

fn default_image(profile: PoolProfile, settings: &Settings) -> String {
    match profile {
        PoolProfile::Rootless => settings.buildkit_image.clone(),
        PoolProfile::UserNamespace => settings.buildkit_user_namespace_image.clone(),
    }
}

/// Objects of names that we need and that are not ours.
fn conflicts(pool: &BuildPool, live: &Live) -> Vec<Problem> {
    // Exhaustive: a new kind of object must be checked too.
    let Live { service_account, role_binding, config_map, network_policy, service, disruption_budget, stateful_set } =
        live;
    [
        conflict(pool, stateful_set.as_ref()),
        conflict(pool, config_map.as_ref()),
        conflict(pool, service.as_ref()),
        conflict(pool, service_account.as_ref()),
        conflict(pool, role_binding.as_ref()),
        conflict(pool, network_policy.as_ref()),
        conflict(pool, disruption_budget.as_ref()),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn conflict<K: Resource<DynamicType = ()>>(pool: &BuildPool, live: Option<&K>) -> Option<Problem> {
    let live = live?;
    let uid = pool.meta().uid.as_deref().unwrap_or_default();
    if !uid.is_empty() && owner::is_controlled_by(live.meta(), uid) {
        return None;
    }
    let kind = K::kind(&()).into_owned();
    Some(Problem::NameConflict { kind, name: live.name_any(), earlier_pool: is_of_earlier_pool(pool, live.meta()) })
}

fn is_of_earlier_pool(pool: &BuildPool, meta: &ObjectMeta) -> bool {
    owner::controller(meta).is_some_and(|owner| {
        owner.kind == BuildPool::kind(&())
            && owner.api_version.starts_with(&format!("{}/", buildpools_crds::GROUP))
            && owner.name == pool.name_any()
    })
}

/// Volumes of the names that members will take and that no pool of this name made, or one of the other profile. Its
/// labels say so: a volume that was retained has no owner any more.
fn foreign_volumes(observed: &Observed) -> impl Iterator<Item = Problem> {
    let (pool, profile) = (observed.pool.name_any(), observed.pool.spec.profile);
    observed.claims.iter().filter_map(move |claim| {
        if !claims::is_of(claim, &pool) {
            return Some(Problem::ForeignVolume { name: claim.name_any() });
        }
        let other = claim.labels().get(labels::PROFILE).map(String::as_str) != profile_label(profile);
        other.then(|| Problem::VolumeOfOtherProfile { name: claim.name_any() })
    })
}

/// Value of [`labels::PROFILE`] on cache volumes of this profile.
pub fn profile_label(profile: PoolProfile) -> Option<&'static str> {
    match profile {
        PoolProfile::Rootless => None,
        PoolProfile::UserNamespace => Some("UserNamespace"),
    }
}

fn registries(observed: &Observed, problems: &mut Vec<Problem>) -> Vec<Registry> {
    let mut valid = Vec::new();
    for (index, registry) in observed.pool.spec.registries.iter().enumerate() {
        let (config_map, key) = (registry.ca_ref.config_map.clone(), registry.ca_ref.key.clone());
        match observed.authorities.get(&config_map).map(|data| data.get(&key)) {
            None => problems.push(Problem::AuthorityNotFound { index, config_map, key: None }),
            Some(None) => problems.push(Problem::AuthorityNotFound { index, config_map, key: Some(key) }),
            Some(Some(pem)) if !pem.contains("-----BEGIN CERTIFICATE-----") => {
                problems.push(Problem::AuthorityInvalid { index, config_map, key });
            }
            Some(Some(pem)) => {
                valid.push(Registry { host: registry.host.clone(), config_map, key, authority: pem.clone() });
            }
        }
    }
    valid
}

fn cache(observed: &Observed, problems: &mut Vec<Problem>) -> Option<Cache> {
    let pool = &observed.pool;
    let spec = &pool.spec.cache;
    let Some(bytes) = quantity::bytes(&spec.size).filter(|bytes| *bytes > 0) else {
        problems.push(Problem::QuantityInvalid { field: "spec.cache.size".into(), value: spec.size.clone() });
        return None;
    };
    // All members read one configuration, so the smallest volume counts that does not grow.
    let smallest = claims::plan(pool, &observed.volumes, &observed.classes).smallest;
    let limits = match Limits::of(&spec.gc, smallest.map_or(bytes, |smallest| smallest.min(bytes))) {
        Ok(limits) => limits,
        Err(problem) => {
            problems.push(problem);
            return None;
        }
    };
    Some(Cache {
        size: Quantity(spec.size.clone()),
        limits,
        storage_class: spec.storage_class_name.clone(),
        retain: spec.retain,
    })
}

fn text(value: &IntOrString) -> String {
    match value {
        IntOrString::Int(number) => number.to_string(),
        IntOrString::String(text) => text.clone(),
    }
}

fn quantities(
    list: &str,
    fields: &BTreeMap<String, IntOrString>,
    problems: &mut Vec<Problem>,
) -> BTreeMap<String, Quantity> {
    let mut valid = BTreeMap::new();
    for (resource, value) in fields {
        let value = text(value);
        if quantity::thousandths(&value).is_some_and(|thousandths| thousandths >= 0) {
            valid.insert(resource.clone(), Quantity(value));
        } else {
            problems.push(Problem::QuantityInvalid { field: format!("spec.pod.resources.{list}.{resource}"), value });
        }
    }
    valid
}

fn requests_above_limits(resources: &PodResources) -> impl Iterator<Item = Problem> {
    resources.requests.iter().filter_map(|(resource, request)| {
        let (request, limit) = (text(request), text(resources.limits.get(resource)?));
        let above = quantity::thousandths(&request)? > quantity::thousandths(&limit)?;
        above.then(|| Problem::RequestAboveLimit { resource: resource.clone(), request, limit })
    })
}
