//! Why a pool is ready or not, and how its caches fare: reasons of its conditions and Events. A closed list;
//! `docs/errors.md` explains each.

/// True: members take builds, and nothing stands in the way of any of them.
pub const READY: &str = "Ready";
/// Members are missing or not ready yet, and nothing is known to stand in their way.
pub const MEMBERS_NOT_READY: &str = "MembersNotReady";
/// Somebody else's object has a name that the pool needs.
pub const NAME_CONFLICT: &str = "NameConflict";
/// A ConfigMap that `spec.registries[].caRef` names, or its key, does not exist.
pub const CERTIFICATE_AUTHORITY_NOT_FOUND: &str = "CertificateAuthorityNotFound";
/// What `spec.registries[].caRef` names is no PEM certificate.
pub const CERTIFICATE_AUTHORITY_INVALID: &str = "CertificateAuthorityInvalid";
/// `spec.cache.size` or `spec.pod.resources` cannot be: no quantity, or more requested than allowed.
pub const RESOURCES_INVALID: &str = "ResourcesInvalid";
/// The API server refuses an object of the pool: validation, admission or quota.
pub const OBJECT_REFUSED: &str = "ObjectRefused";
/// The namespace refuses the members' pods: Pod Security, another admission, or quota.
pub const POD_REFUSED: &str = "PodRefused";
/// No node can take a member, or its volume cannot be had.
pub const UNSCHEDULABLE: &str = "Unschedulable";
/// An image cannot be pulled.
pub const IMAGE_PULL_FAILED: &str = "ImagePullFailed";
/// A container of a member cannot be started, or ends again and again.
pub const MEMBER_CRASHING: &str = "MemberCrashing";

/// `CacheHealthy`, True: the caches have room and nothing is known against them.
pub const CACHE_HEALTHY: &str = "CacheHealthy";
/// `CacheHealthy`: a cache's volume is nearly full.
pub const BYTES_PRESSURE: &str = "BytesPressure";
/// `CacheHealthy`: a cache's file system has nearly no inodes left.
pub const INODE_PRESSURE: &str = "InodePressure";
/// `CacheHealthy`: a daemon copies every layer.
pub const NATIVE_SNAPSHOTTER: &str = "NativeSnapshotter";
/// `CacheHealthy`: a daemon does not run because its database is damaged. Also the Event after the cache was emptied.
pub const CACHE_CORRUPTED: &str = "CacheCorrupted";
/// `CacheHealthy`: `spec.cache.size` has grown and the volumes cannot.
pub const VOLUME_EXPANSION_UNSUPPORTED: &str = "VolumeExpansionUnsupported";
/// Event: a cache was emptied because `spec.cache.reset` asked for it.
pub const CACHE_RESET: &str = "CacheReset";

/// All of them.
pub const ALL: &[&str] = &[
    CACHE_HEALTHY,
    BYTES_PRESSURE,
    INODE_PRESSURE,
    NATIVE_SNAPSHOTTER,
    CACHE_CORRUPTED,
    VOLUME_EXPANSION_UNSUPPORTED,
    CACHE_RESET,
    READY,
    MEMBERS_NOT_READY,
    NAME_CONFLICT,
    CERTIFICATE_AUTHORITY_NOT_FOUND,
    CERTIFICATE_AUTHORITY_INVALID,
    RESOURCES_INVALID,
    OBJECT_REFUSED,
    POD_REFUSED,
    UNSCHEDULABLE,
    IMAGE_PULL_FAILED,
    MEMBER_CRASHING,
];

#[cfg(test)]
mod tests {
    #[test]
    fn every_reason_is_explained() {
        let catalogue = include_str!("../../../docs/errors.md");
        for reason in super::ALL {
            assert!(catalogue.contains(&format!("| `{reason}` |")), "docs/errors.md does not explain {reason}");
        }
    }
}
