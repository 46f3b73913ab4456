//! Reasons of a pool's conditions: those of `Ready` here, those of the others in modules of their own. Closed lists;
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
/// `spec.network.egress` names a network that cannot be, or that no build may reach.
pub const EGRESS_INVALID: &str = "EgressInvalid";
/// The addresses of the API server, which every member needs, are not known.
pub const API_SERVER_UNKNOWN: &str = "ApiServerUnknown";
/// The API server refuses an object of the pool: validation, admission or quota.
pub const OBJECT_REFUSED: &str = "ObjectRefused";
/// The namespace refuses the members' pods: Pod Security, another admission, or quota.
pub const POD_REFUSED: &str = "PodRefused";
/// A policy of the cluster changes the members' pods so that they do not work.
pub const POD_MUTATED: &str = "PodMutated";
/// Profile `UserNamespace`, and the cluster, the node or the volume has no user namespaces for pods.
pub const USER_NAMESPACES_UNSUPPORTED: &str = "UserNamespacesUnsupported";
/// No node can take a member, or its volume cannot be had.
pub const UNSCHEDULABLE: &str = "Unschedulable";
/// An image cannot be pulled.
pub const IMAGE_PULL_FAILED: &str = "ImagePullFailed";
/// A container of a member cannot be started, or ends again and again.
pub const MEMBER_CRASHING: &str = "MemberCrashing";

/// Those that a pool has when all of its objects are there.
pub const OF_MEMBERS: &[&str] =
    &[READY, MEMBERS_NOT_READY, UNSCHEDULABLE, IMAGE_PULL_FAILED, MEMBER_CRASHING, BUILDKIT_TOO_OLD];

/// A member's BuildKit is older than the oldest that is supported.
pub const BUILDKIT_TOO_OLD: &str = "BuildKitTooOld";
/// The pool is being deleted, and waits for its builds to end.
pub const DELETING: &str = "Deleting";

/// Reasons of `Upgrading`.
pub mod upgrading {
    /// False: all members are of the newest form.
    pub const UP_TO_DATE: &str = "UpToDate";
    /// True: a member finishes its builds and gets no new ones.
    pub const DRAINING: &str = "Draining";
    /// True: a member is being stopped, or its replacement started.
    pub const REPLACING: &str = "Replacing";
    /// True: a member has not finished its builds within `spec.drainTimeout`.
    pub const DRAIN_TIMEOUT: &str = "DrainTimeoutExceeded";
    /// True: a member of the newest form does not become ready, so no other is replaced.
    pub const REPLACEMENT_NOT_READY: &str = "ReplacementNotReady";
    /// True: the newest form of the pool cannot be had, so no other member is replaced.
    pub const PAUSED: &str = "Paused";

    /// All of them.
    pub const ALL: &[&str] = &[UP_TO_DATE, DRAINING, REPLACING, DRAIN_TIMEOUT, REPLACEMENT_NOT_READY, PAUSED];
}

/// Reasons of `CredentialsReady`.
pub mod credentials {
    /// True: all Secrets are there and can be used.
    pub const READY: &str = "CredentialsReady";
    /// False: a Secret of `spec.credentials` does not exist, or has no key `.dockerconfigjson`.
    pub const SECRET_MISSING: &str = "SecretMissing";
    /// False: an entry of a Secret, or a certificate, cannot be used.
    pub const ENTRY_INVALID: &str = "EntryInvalid";
    /// Unknown: no member has looked at them yet.
    pub const MEMBERS_NOT_READY: &str = "NotLookedAtYet";

    /// All of them.
    pub const ALL: &[&str] = &[READY, SECRET_MISSING, ENTRY_INVALID, MEMBERS_NOT_READY];
}

/// Reasons of `BuildKitUpToDate`.
pub mod buildkit {
    /// True: all members run the advised version or a newer one.
    pub const UP_TO_DATE: &str = "BuildKitUpToDate";
    /// False: a member's version has known security advisories.
    pub const BELOW_ADVISED: &str = "BelowAdvisedVersion";
    /// False: a member's version is given no builds.
    pub const TOO_OLD: &str = super::BUILDKIT_TOO_OLD;
    /// Unknown: a member reports no version that could be compared.
    pub const VERSION_UNKNOWN: &str = "VersionUnknown";

    /// All of them.
    pub const ALL: &[&str] = &[UP_TO_DATE, BELOW_ADVISED, TOO_OLD, VERSION_UNKNOWN];
}

/// Reasons of `CacheHealthy`, and of Events of caches.
pub mod cache {
    /// True: the caches have room and nothing is known against them.
    pub const CACHE_HEALTHY: &str = "CacheHealthy";
    /// False: a cache's volume is nearly full.
    pub const BYTES_PRESSURE: &str = "BytesPressure";
    /// False: a cache's file system has nearly no inodes left.
    pub const INODE_PRESSURE: &str = "InodePressure";
    /// False: a daemon copies every layer.
    pub const NATIVE_SNAPSHOTTER: &str = "NativeSnapshotter";
    /// False: a daemon does not run because its database is damaged. Also the Event after the cache was emptied.
    pub const CACHE_CORRUPTED: &str = "CacheCorrupted";
    /// False: `spec.cache.size` has grown and the volumes cannot.
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
    ];
}

/// Reasons of `Ready` that nothing but a change by somebody ends. kstatus is told of them by condition `Stalled`.
pub const STALLED: &[&str] = &[
    NAME_CONFLICT,
    CERTIFICATE_AUTHORITY_NOT_FOUND,
    CERTIFICATE_AUTHORITY_INVALID,
    RESOURCES_INVALID,
    EGRESS_INVALID,
    API_SERVER_UNKNOWN,
    OBJECT_REFUSED,
    POD_REFUSED,
    POD_MUTATED,
    USER_NAMESPACES_UNSUPPORTED,
    BUILDKIT_TOO_OLD,
];

/// All reasons of `Ready`.
pub const ALL: &[&str] = &[
    READY,
    MEMBERS_NOT_READY,
    BUILDKIT_TOO_OLD,
    DELETING,
    NAME_CONFLICT,
    CERTIFICATE_AUTHORITY_NOT_FOUND,
    CERTIFICATE_AUTHORITY_INVALID,
    RESOURCES_INVALID,
    EGRESS_INVALID,
    API_SERVER_UNKNOWN,
    OBJECT_REFUSED,
    POD_REFUSED,
    POD_MUTATED,
    USER_NAMESPACES_UNSUPPORTED,
    UNSCHEDULABLE,
    IMAGE_PULL_FAILED,
    MEMBER_CRASHING,
];

#[cfg(test)]
mod tests {
    #[test]
    fn every_reason_is_explained() {
        let catalogue = include_str!("../../../docs/errors.md");
        let others = [super::upgrading::ALL, super::credentials::ALL, super::buildkit::ALL, super::cache::ALL];
        for reason in others.into_iter().flatten().chain(super::ALL) {
            assert!(catalogue.contains(&format!("| `{reason}` |")), "docs/errors.md does not explain {reason}");
        }
    }
}
