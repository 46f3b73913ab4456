//! StatefulSet: the members, their pods and their cache volumes.

mod daemon;
mod runner;
mod volumes;

use std::collections::BTreeMap;

use buildpools_crds::names;
use k8s_openapi::api::apps::v1::{
    StatefulSet, StatefulSetPersistentVolumeClaimRetentionPolicy, StatefulSetSpec, StatefulSetUpdateStrategy,
};
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimSpec, PodSecurityContext, PodSpec, PodTemplateSpec,
    VolumeResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::super::validate::ValidPool;
use super::{CONFIG_ANNOTATION, member_labels, member_selector, metadata};

/// User and group of daemon and runner: the user of BuildKit's rootless image. The same for both, so that the runner
/// may use the daemon's socket.
const USER: i64 = 1000;

/// Templates that the API server keeps. Members may run an older one, so the last few can be looked up.
const REVISIONS: i32 = 3;

pub(super) fn stateful_set(pool: &ValidPool, config_hash: &str) -> StatefulSet {
    StatefulSet {
        metadata: metadata(pool, names::stateful_set(&pool.name)),
        spec: Some(StatefulSetSpec {
            replicas: Some(pool.members),
            service_name: Some(names::service(&pool.name)),
            selector: member_selector(pool),
            // A member does not wait for another one. Immutable.
            pod_management_policy: Some("Parallel".to_owned()),
            // Kubernetes never replaces a member by itself: that would end its builds.
            update_strategy: Some(StatefulSetUpdateStrategy {
                type_: Some("OnDelete".to_owned()),
                ..StatefulSetUpdateStrategy::default()
            }),
            revision_history_limit: Some(REVISIONS),
            // A member that comes back finds its cache again. The claims belong to the pool: see `cache/claims.rs`.
            persistent_volume_claim_retention_policy: Some(StatefulSetPersistentVolumeClaimRetentionPolicy {
                when_deleted: Some("Retain".to_owned()),
                when_scaled: Some("Retain".to_owned()),
            }),
            volume_claim_templates: Some(vec![cache_claim(pool)]),
            template: template(pool, config_hash),
            ..StatefulSetSpec::default()
        }),
        ..StatefulSet::default()
    }
}

/// Labelled, so that a volume that outlived its pool is known as the pool's when it comes again. With its owner from the
/// beginning, so that no volume is left behind by a pool that is deleted a moment after a member was made. A template
/// cannot be changed: `apply` makes the StatefulSet anew for another one.
fn cache_claim(pool: &ValidPool) -> PersistentVolumeClaim {
    PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(names::CACHE_CLAIM.to_owned()),
            labels: Some(member_labels(pool)),
            owner_references: (!pool.cache.retain).then(|| vec![pool.owner.clone()]),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec!["ReadWriteOnce".to_owned()]),
            storage_class_name: pool.cache.storage_class.clone(),
            resources: Some(VolumeResourceRequirements {
                requests: Some(BTreeMap::from([("storage".to_owned(), pool.cache.size.clone())])),
                ..VolumeResourceRequirements::default()
            }),
            ..PersistentVolumeClaimSpec::default()
        }),
        ..PersistentVolumeClaim::default()
    }
}

fn template(pool: &ValidPool, config_hash: &str) -> PodTemplateSpec {
    PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some(member_labels(pool)),
            annotations: Some(BTreeMap::from([(CONFIG_ANNOTATION.to_owned(), config_hash.to_owned())])),
            ..ObjectMeta::default()
        }),
        spec: Some(PodSpec {
            service_account_name: Some(names::runner(&pool.name)),
            // The token is projected into the runner's container only.
            automount_service_account_token: Some(false),
            // The namespace's Services are none of a build's business.
            enable_service_links: Some(false),
            termination_grace_period_seconds: Some(pool.grace_seconds),
            security_context: Some(PodSecurityContext {
                // The daemon must write to its volume. Without OnRootMismatch the kubelet would change group and mode
                // of every file of every cached layer at each start.
                fs_group: Some(USER),
                fs_group_change_policy: Some("OnRootMismatch".to_owned()),
                ..PodSecurityContext::default()
            }),
            init_containers: Some(vec![daemon::container(pool)]),
            containers: vec![runner::container(pool)],
            volumes: Some(volumes::all(pool)),
            ..PodSpec::default()
        }),
    }
}
