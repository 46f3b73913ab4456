//! The runner's identity and rights.

use buildpools_crds::names;
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::api::rbac::v1::{RoleBinding, RoleRef, Subject};

use super::super::validate::ValidPool;
use super::metadata;

/// Its token is projected into the runner's container and nowhere else.
pub(super) fn service_account(pool: &ValidPool) -> ServiceAccount {
    ServiceAccount {
        metadata: metadata(pool, names::runner(&pool.name)),
        automount_service_account_token: Some(false),
        ..ServiceAccount::default()
    }
}

/// The one ClusterRole that the operator may bind, to a ServiceAccount of the pool's own namespace.
pub(super) fn role_binding(pool: &ValidPool) -> RoleBinding {
    RoleBinding {
        metadata: metadata(pool, names::runner(&pool.name)),
        role_ref: RoleRef {
            api_group: "rbac.authorization.k8s.io".to_owned(),
            kind: "ClusterRole".to_owned(),
            name: names::RUNNER_CLUSTER_ROLE.to_owned(),
        },
        subjects: Some(vec![Subject {
            kind: "ServiceAccount".to_owned(),
            name: names::runner(&pool.name),
            namespace: Some(pool.namespace.clone()),
            ..Subject::default()
        }]),
    }
}
