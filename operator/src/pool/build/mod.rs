//! Step 3: from a valid pool to every object that it consists of. Pure, and the only place that knows what they look
//! like; the golden files in `operator/tests/snapshots` show them in full.

mod config_map;
mod disruption_budget;
mod network_policy;
mod paths;
mod runner_access;
mod service;
mod stateful_set;

use std::collections::BTreeMap;

use buildpools_crds::labels;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::RoleBinding;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};

use super::validate::ValidPool;

/// Annotation of the pod template with the hash of what a member reads only when it starts. Its change makes the
/// template new, so that the pool can say which members still run with the old content.
pub const CONFIG_ANNOTATION: &str = "buildpools.dev/config";

/// Everything that a pool consists of.
#[derive(Clone, Debug, PartialEq)]
pub struct Objects {
    /// The runner's identity.
    pub service_account: ServiceAccount,
    /// The runner's rights.
    pub role_binding: RoleBinding,
    /// The configuration of daemon and runner.
    pub config_map: ConfigMap,
    /// Who may connect to members, and where they may connect to.
    pub network_policy: NetworkPolicy,
    /// The members' host names.
    pub service: Service,
    /// Who is not evicted; none while nobody builds.
    pub disruption_budget: Option<PodDisruptionBudget>,
    /// The members.
    pub stateful_set: StatefulSet,
}

/// Configuration that cannot be written. A fault of ours.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// `buildkitd.toml`.
    #[error("cannot write buildkitd.toml: {0}")]
    Toml(#[from] toml::ser::Error),
    /// `runner.json`.
    #[error("cannot write runner.json: {0}")]
    Json(#[from] serde_json::Error),
}

impl BuildError {
    /// A word for logs and metrics.
    pub fn category(&self) -> &'static str {
        "Build"
    }
}

/// Builds the pool's objects.
///
/// # Errors
/// When a configuration cannot be serialised.
pub fn build(pool: &ValidPool) -> Result<Objects, BuildError> {
    let config = config_map::Configuration::of(pool)?;
    Ok(Objects {
        service_account: runner_access::service_account(pool),
        role_binding: runner_access::role_binding(pool),
        network_policy: network_policy::network_policy(pool),
        service: service::service(pool),
        disruption_budget: disruption_budget::disruption_budget(pool),
        stateful_set: stateful_set::stateful_set(pool, &config.hash(pool)),
        config_map: config_map::config_map(pool, config),
    })
}

/// Labels of every object of the pool.
fn common_labels(pool: &ValidPool) -> BTreeMap<String, String> {
    BTreeMap::from([
        (labels::POOL.to_owned(), pool.name.clone()),
        (labels::MANAGED_BY.to_owned(), labels::MANAGED_BY_VALUE.to_owned()),
    ])
}

/// Labels of members and their volumes.
fn member_labels(pool: &ValidPool) -> BTreeMap<String, String> {
    let mut labels = common_labels(pool);
    labels.insert(labels::COMPONENT.to_owned(), labels::COMPONENT_MEMBER.to_owned());
    labels
}

/// Selects members. Immutable in a StatefulSet, so it stays as it is.
fn member_selector(pool: &ValidPool) -> LabelSelector {
    let labels = [(labels::POOL, pool.name.as_str()), (labels::COMPONENT, labels::COMPONENT_MEMBER)];
    LabelSelector {
        match_labels: Some(labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into()),
        ..LabelSelector::default()
    }
}

/// Metadata of an object of the pool.
fn metadata(pool: &ValidPool, name: String) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: Some(pool.namespace.clone()),
        labels: Some(common_labels(pool)),
        owner_references: Some(vec![pool.owner.clone()]),
        ..ObjectMeta::default()
    }
}
