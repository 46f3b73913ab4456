//! Labels that buildpools sets and selects by.

use std::collections::BTreeMap;

/// Name of the pool that an object belongs to. On every object that a pool makes, and on its pods.
pub const POOL: &str = "buildpools.dev/pool";

/// `app.kubernetes.io/managed-by`
/// (<https://kubernetes.io/docs/concepts/overview/working-with-objects/common-labels/>).
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";

/// `app.kubernetes.io/component`.
pub const COMPONENT: &str = "app.kubernetes.io/component";

/// Value of [`MANAGED_BY`] on objects that a pool makes.
pub const MANAGED_BY_VALUE: &str = "buildpools";

/// Value of [`COMPONENT`] on pool members.
pub const COMPONENT_MEMBER: &str = "build-member";

/// Whether an object's labels say that it was made as a pool member. They prove nothing: anybody sets them who may create
/// the object.
pub fn is_member(labels: &BTreeMap<String, String>) -> bool {
    labels.get(COMPONENT).is_some_and(|component| component == COMPONENT_MEMBER)
}

/// Label of a cache volume with the profile whose users own its files; a volume without it is of profile Rootless.
pub const PROFILE: &str = "buildpools.dev/profile";

/// Annotation of the pool that builds the jobs of its namespace that name none: `"true"`, as with StorageClasses.
pub const DEFAULT_POOL: &str = "buildpools.dev/is-default-pool";

/// Finalizer of a BuildPool: it goes when its builds have ended, and not before.
pub const FINALIZER: &str = "buildpools.dev/builds";
