//! NetworkPolicy: nobody opens a connection to a member.

use buildpools_crds::names;
use k8s_openapi::api::networking::v1::{NetworkPolicy, NetworkPolicySpec};

use super::super::validate::ValidPool;
use super::{member_selector, metadata};

/// Ingress is restricted and no rule lets anything in. `ingress` is sent as an empty list, so that the field is ours
/// and a rule that somebody adds is removed.
pub(super) fn network_policy(pool: &ValidPool) -> NetworkPolicy {
    NetworkPolicy {
        metadata: metadata(pool, names::network_policy(&pool.name)),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(member_selector(pool)),
            policy_types: Some(vec!["Ingress".to_owned()]),
            ingress: Some(Vec::new()),
            egress: None,
        }),
    }
}
