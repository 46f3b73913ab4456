//! Why a pool is ready or not: reasons of the condition `Ready`. A closed list; `docs/errors.md` explains each.

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
/// No node can take a member, or its volume cannot be had.
pub const UNSCHEDULABLE: &str = "Unschedulable";
/// An image cannot be pulled.
pub const IMAGE_PULL_FAILED: &str = "ImagePullFailed";
/// A container of a member cannot be started, or ends again and again.
pub const MEMBER_CRASHING: &str = "MemberCrashing";

/// All of them.
pub const ALL: &[&str] = &[
    READY,
    MEMBERS_NOT_READY,
    NAME_CONFLICT,
    CERTIFICATE_AUTHORITY_NOT_FOUND,
    CERTIFICATE_AUTHORITY_INVALID,
    RESOURCES_INVALID,
    EGRESS_INVALID,
    API_SERVER_UNKNOWN,
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
