//! The members' volumes: who they go with, and how large they are to be.
//!
//! The claims of a pool's members belong to the pool, not to its StatefulSet. Kubernetes has a policy for the latter
//! (`persistentVolumeClaimRetentionPolicy`), but then its controller writes each new claim a moment after it has made
//! it, while the scheduler and the provisioner write it too: one of them meets a conflict and waits, a second or many,
//! with each first start of a member. So the claim's template has the owner in it, and what changes later is patched here.

use std::collections::BTreeMap;
use std::fmt::Debug;

use buildpools_crds::labels;
use buildpools_crds::v1alpha1::BuildPool;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, Resource as _, ResourceExt as _};
use serde_json::{Value, json};
use tracing::info;

use crate::kube_ext::call::call;
use crate::kube_ext::ensure::EnsureError;
use crate::kube_ext::{owner, quantity};
use crate::pool::apply::FIELD_MANAGER;

/// A volume that cannot grow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unexpandable {
    /// Name of the claim.
    pub claim: String,
    /// What it asks for.
    pub size: String,
    /// Its class; `None` when it has none.
    pub class: Option<String>,
}

/// What is to be done about the claims.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Claims by name, and patches of whom they go with.
    pub owners: Vec<(String, Value)>,
    /// Claims by name, and patches of their sizes. Apart from the others: a quota may refuse them.
    pub sizes: Vec<(String, Value)>,
    /// Claims that are smaller than the pool wants and stay so.
    pub unexpandable: Vec<Unexpandable>,
    /// Bytes of the smallest of those: what daemons reckon with, because they all read one configuration.
    pub smallest: Option<i64>,
}

/// Whether the claim was made for a pool of this name. A volume that was retained has no owner any more, so its labels
/// say it.
pub fn is_of(claim: &PersistentVolumeClaim, pool: &str) -> bool {
    let label = |key: &str| claim.labels().get(key).map(String::as_str);
    label(labels::POOL) == Some(pool) && label(labels::MANAGED_BY) == Some(labels::MANAGED_BY_VALUE)
}

/// What a claim asks for.
pub fn requested(claim: &PersistentVolumeClaim) -> Option<&str> {
    let requests = claim.spec.as_ref()?.resources.as_ref()?.requests.as_ref()?;
    requests.get("storage").map(|quantity| quantity.0.as_str())
}

/// Classes of the claims that ask for less than the pool wants.
pub fn classes_to_ask(pool: &BuildPool, claims: &[PersistentVolumeClaim]) -> Vec<String> {
    let Some(wanted) = quantity::bytes(&pool.spec.cache.size) else { return Vec::new() };
    let mut classes: Vec<String> =
        claims.iter().filter(|claim| is_smaller(claim, wanted)).filter_map(class).map(str::to_owned).collect();
    classes.sort();
    classes.dedup();
    classes
}

fn class(claim: &PersistentVolumeClaim) -> Option<&str> {
    claim.spec.as_ref()?.storage_class_name.as_deref().filter(|name| !name.is_empty())
}

fn is_smaller(claim: &PersistentVolumeClaim, wanted: i64) -> bool {
    requested(claim).and_then(quantity::bytes).is_some_and(|bytes| bytes < wanted)
}

/// Looks at the pool's claims. `classes` are those that exist of [`classes_to_ask`].
pub fn plan(pool: &BuildPool, claims: &[PersistentVolumeClaim], classes: &BTreeMap<String, StorageClass>) -> Plan {
    let mut plan = Plan::default();
    let (Some(wanted), Some(owner)) = (quantity::bytes(&pool.spec.cache.size), pool.controller_owner_ref(&())) else {
        return plan;
    };
    for claim in claims.iter().filter(|claim| claim.metadata.deletion_timestamp.is_none()) {
        if let Some(owners) = owners(claim, &owner, pool.spec.cache.retain) {
            // The list is replaced as a whole, so nobody else may have changed it.
            let (uid, version) = (claim.uid(), claim.resource_version());
            let patch = json!({"metadata": {"uid": uid, "resourceVersion": version, "ownerReferences": owners}});
            plan.owners.push((claim.name_any(), patch));
        }
        if is_smaller(claim, wanted) {
            let expandable = class(claim)
                .and_then(|name| classes.get(name))
                .is_some_and(|class| class.allow_volume_expansion == Some(true));
            // The API server takes no other size of a claim that has no volume yet.
            let bound = claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound");
            if !expandable {
                let size = requested(claim).unwrap_or_default().to_owned();
                plan.smallest = plan.smallest.min(quantity::bytes(&size)).or(quantity::bytes(&size));
                let class = class(claim).map(str::to_owned);
                plan.unexpandable.push(Unexpandable { claim: claim.name_any(), size, class });
            } else if bound {
                let spec = json!({"resources": {"requests": {"storage": pool.spec.cache.size}}});
                plan.sizes.push((claim.name_any(), json!({"metadata": {"uid": claim.uid()}, "spec": spec})));
            }
        }
    }
    plan
}

/// The claim's owners as they should be, if they are not. Another controller's claim is left alone: that is the
/// StatefulSet's own reference, which its controller takes back, or somebody's reason that we do not know.
fn owners(claim: &PersistentVolumeClaim, pool: &OwnerReference, retain: bool) -> Option<Vec<OwnerReference>> {
    let now = claim.metadata.owner_references.clone().unwrap_or_default();
    let is_pool = |owner: &OwnerReference| owner.kind == BuildPool::kind(&()) && owner.name == pool.name;
    let owned = owner::is_controlled_by(&claim.metadata, &pool.uid);
    if retain {
        let kept: Vec<_> = now.iter().filter(|owner| !is_pool(owner)).cloned().collect();
        return (kept.len() != now.len()).then_some(kept);
    }
    // One of an earlier pool of this name is on its way out with it.
    if owned || now.iter().any(|owner| owner.controller == Some(true)) {
        return None;
    }
    Some(now.into_iter().chain([pool.clone()]).collect())
}

/// Carries a part of the plan out.
///
/// # Errors
/// With the first claim that cannot be patched; the others are, nonetheless.
pub async fn apply(client: &Client, namespace: &str, patches: &[(String, Value)]) -> Result<(), EnsureError> {
    let api: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), namespace);
    let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    let mut result = Ok(());
    for (name, patch) in patches {
        match call(api.patch(name, &params, &Patch::Merge(patch))).await {
            Ok(_) => info!(kind = "PersistentVolumeClaim", name, %patch, "changed"),
            Err(source) => {
                let (verb, kind) = ("change", PersistentVolumeClaim::kind(&()).into_owned());
                result = result.and(Err(EnsureError::Call { verb, kind, name: name.clone(), source }));
            }
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(retain: bool) -> BuildPool {
        serde_json::from_value(json!({
            "metadata": {"name": "main", "namespace": "team-a", "uid": "pool"},
            "spec": {"cache": {"size": "20Gi", "retain": retain}},
        }))
        .unwrap()
    }

    fn claim(size: &str, owners: &Value) -> PersistentVolumeClaim {
        serde_json::from_value(json!({
            "metadata": {
                "name": "cache-main-0", "uid": "claim", "resourceVersion": "7", "ownerReferences": owners,
                "labels": {"buildpools.dev/pool": "main", "app.kubernetes.io/managed-by": "buildpools"},
            },
            "spec": {"storageClassName": "disk", "resources": {"requests": {"storage": size}}},
            "status": {"phase": "Bound"},
        }))
        .unwrap()
    }

    fn owned_by(kind: &str, uid: &str) -> Value {
        json!([{"apiVersion": "v1", "kind": kind, "name": "main", "uid": uid, "controller": true}])
    }

    fn classes(expansion: bool) -> BTreeMap<String, StorageClass> {
        let class = json!({"provisioner": "p", "allowVolumeExpansion": expansion});
        BTreeMap::from([("disk".to_owned(), serde_json::from_value(class).unwrap())])
    }

    fn owners_after(pool: &BuildPool, claim: PersistentVolumeClaim) -> Option<Vec<String>> {
        let plan = plan(pool, &[claim], &BTreeMap::new());
        let (_, patch) = plan.owners.first()?;
        let owners = patch["metadata"]["ownerReferences"].as_array()?;
        Some(owners.iter().map(|owner| owner["uid"].as_str().unwrap().to_owned()).collect())
    }

    #[test]
    fn claims_go_with_the_pool_unless_they_are_retained() {
        let owned = || claim("20Gi", &owned_by("BuildPool", "pool"));
        assert_eq!(owners_after(&pool(false), owned()), None);
        assert_eq!(owners_after(&pool(true), owned()), Some(vec![]));
        assert_eq!(owners_after(&pool(false), claim("20Gi", &json!([]))), Some(vec!["pool".into()]));
        assert_eq!(owners_after(&pool(true), claim("20Gi", &json!([]))), None);
    }

    #[test]
    fn others_references_stay() {
        for owner in [owned_by("StatefulSet", "set"), owned_by("BuildPool", "earlier")] {
            assert_eq!(owners_after(&pool(false), claim("20Gi", &owner)), None, "{owner}");
        }
        let mut both = claim("20Gi", &owned_by("BuildPool", "pool"));
        let backup = json!({"apiVersion": "v1", "kind": "Backup", "name": "b", "uid": "backup"});
        both.owner_references_mut().push(serde_json::from_value(backup).unwrap());
        assert_eq!(owners_after(&pool(true), both), Some(vec!["backup".into()]));
    }

    #[test]
    fn a_claim_grows_if_its_class_lets_it() {
        let small = claim("10Gi", &owned_by("BuildPool", "pool"));
        assert_eq!(classes_to_ask(&pool(false), std::slice::from_ref(&small)), ["disk"]);
        let grown = plan(&pool(false), std::slice::from_ref(&small), &classes(true));
        let expected = json!({
            "metadata": {"uid": "claim"},
            "spec": {"resources": {"requests": {"storage": "20Gi"}}},
        });
        assert_eq!((grown.sizes, grown.smallest), (vec![("cache-main-0".to_owned(), expected)], None));

        let mut waiting = small.clone();
        waiting.status = None;
        assert_eq!(plan(&pool(false), &[waiting], &classes(true)), Plan::default(), "it has no volume yet");

        for classes in [classes(false), BTreeMap::new()] {
            let stuck = plan(&pool(false), std::slice::from_ref(&small), &classes);
            let size = "10Gi".to_owned();
            let unexpandable = Unexpandable { claim: "cache-main-0".into(), size, class: Some("disk".into()) };
            assert_eq!((stuck.sizes, stuck.unexpandable, stuck.smallest), (vec![], vec![unexpandable], Some(10 << 30)));
        }
    }

    #[test]
    fn a_claim_that_is_large_enough_is_left_alone() {
        for size in ["20Gi", "20480Mi", "30Gi"] {
            let large = [claim(size, &owned_by("BuildPool", "pool"))];
            assert!(classes_to_ask(&pool(false), &large).is_empty());
            assert_eq!(plan(&pool(false), &large, &BTreeMap::new()), Plan::default());
        }
    }
}
