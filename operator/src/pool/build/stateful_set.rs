//! StatefulSet: the members, their pods and their cache volumes.

mod daemon;
mod runner;
mod volumes;

use std::collections::BTreeMap;

use buildpools_crds::v1alpha1::PoolProfile;
use buildpools_crds::{labels, names};
use k8s_openapi::api::apps::v1::{
    StatefulSet, StatefulSetPersistentVolumeClaimRetentionPolicy, StatefulSetSpec, StatefulSetUpdateStrategy,
};
use k8s_openapi::api::core::v1::{
    LocalObjectReference, PersistentVolumeClaim, PersistentVolumeClaimSpec, PodSecurityContext, PodSpec,
    PodTemplateSpec, VolumeResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::super::validate::{ValidPool, profile_label};
use super::{CONFIG_ANNOTATION, member_labels, member_selector, metadata};

/// User and group of the runner, and in profile Rootless of the daemon: the user of BuildKit's rootless image. The
/// daemon's socket is this group's, so that the runner may use it.
const USER: i64 = 1000;

/// Templates that the API server keeps. Members may run an older one, so the last few can be looked up.
const REVISIONS: i32 = 3;

pub(super) fn stateful_set(pool: &ValidPool, config_hash: &str) -> StatefulSet {
    let when_deleted = if pool.cache.retain { "Retain" } else { "Delete" };
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
            // A member that comes back finds its cache again.
            persistent_volume_claim_retention_policy: Some(StatefulSetPersistentVolumeClaimRetentionPolicy {
                when_deleted: Some(when_deleted.to_owned()),
                when_scaled: Some("Retain".to_owned()),
            }),
            volume_claim_templates: Some(vec![cache_claim(pool)]),
            template: template(pool, config_hash),
            ..StatefulSetSpec::default()
        }),
        ..StatefulSet::default()
    }
}

/// Labelled, so that a volume that outlived its pool is known as the pool's when it comes again.
fn cache_claim(pool: &ValidPool) -> PersistentVolumeClaim {
    let mut labels = member_labels(pool);
    labels.extend(profile_label(pool.profile).map(|profile| (labels::PROFILE.to_owned(), profile.to_owned())));
    PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(names::CACHE_CLAIM.to_owned()),
            labels: Some(labels),
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
    let wish = &pool.pod;
    // Ours win: the schema refuses others of the same name.
    let mut labels = wish.labels.clone();
    labels.extend(member_labels(pool));
    let mut annotations = wish.annotations.clone();
    annotations.insert(CONFIG_ANNOTATION.to_owned(), config_hash.to_owned());
    let pull_secrets = wish.image_pull_secrets.iter().map(|secret| LocalObjectReference { name: secret.name.clone() });
    PodTemplateSpec {
        metadata: Some(ObjectMeta { labels: Some(labels), annotations: Some(annotations), ..ObjectMeta::default() }),
        spec: Some(PodSpec {
            service_account_name: Some(names::runner(&pool.name)),
            // The token is projected into the runner's container only.
            automount_service_account_token: Some(false),
            // The namespace's Services are none of a build's business.
            enable_service_links: Some(false),
            termination_grace_period_seconds: Some(pool.grace_seconds),
            host_users: (pool.profile == PoolProfile::UserNamespace).then_some(false),
            security_context: security_context(pool.profile),
            node_selector: (!wish.node_selector.is_empty()).then(|| wish.node_selector.clone()),
            tolerations: (!wish.tolerations.is_empty()).then(|| wish.tolerations.clone()),
            affinity: wish.affinity.clone(),
            priority_class_name: wish.priority_class_name.clone(),
            runtime_class_name: wish.runtime_class_name.clone(),
            image_pull_secrets: (!wish.image_pull_secrets.is_empty()).then(|| pull_secrets.collect()),
            init_containers: Some(vec![daemon::container(pool)]),
            containers: vec![runner::container(pool)],
            volumes: Some(volumes::all(pool)),
            ..PodSpec::default()
        }),
    }
}

fn security_context(profile: PoolProfile) -> Option<PodSecurityContext> {
    match profile {
        PoolProfile::Rootless => Some(PodSecurityContext {
            // The daemon must write to its volume. Without OnRootMismatch the kubelet would change group and mode of
            // every file of every cached layer at each start.
            fs_group: Some(USER),
            fs_group_change_policy: Some("OnRootMismatch".to_owned()),
            ..PodSecurityContext::default()
        }),
        // The daemon is root and owns its volume. An fsGroup would give the volume's root a group and the setgid bit,
        // which every directory of every layer below it would inherit.
        PoolProfile::UserNamespace => None,
    }
}
