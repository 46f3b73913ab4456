//! Who an object belongs to.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

/// The object's controller.
pub fn controller(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))
}

/// Whether this is Kubernetes' StatefulSet of that name. Other APIs may have a kind of the same name.
pub fn is_stateful_set(owner: &OwnerReference, name: &str) -> bool {
    owner.api_version.starts_with("apps/") && owner.kind == "StatefulSet" && owner.name == name
}

/// Whether the object with this UID controls the object. A name is not enough: it may be an earlier object's.
pub fn is_controlled_by(meta: &ObjectMeta, uid: &str) -> bool {
    controller(meta).is_some_and(|owner| owner.uid == uid)
}
