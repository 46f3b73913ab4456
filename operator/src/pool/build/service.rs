//! Headless Service: host names for the members.

use buildpools_crds::names;
use k8s_openapi::api::core::v1::{Service, ServiceSpec};

use super::super::validate::ValidPool;
use super::{member_selector, metadata};

/// Without ports: nothing listens in a member. A StatefulSet wants a governing Service all the same, and a pod's host
/// name resolves before the pod is ready.
pub(super) fn service(pool: &ValidPool) -> Service {
    Service {
        metadata: metadata(pool, names::service(&pool.name)),
        spec: Some(ServiceSpec {
            cluster_ip: Some("None".to_owned()),
            selector: member_selector(pool).match_labels,
            publish_not_ready_addresses: Some(true),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}
