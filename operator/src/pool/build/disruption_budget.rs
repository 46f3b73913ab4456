//! PodDisruptionBudget: who builds is not evicted.

use buildpools_crds::names;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelectorRequirement;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::super::validate::ValidPool;
use super::{member_selector, metadata};

/// Label that the StatefulSet controller gives to each pod
/// (<https://kubernetes.io/docs/concepts/workloads/controllers/statefulset/#pod-name-label>).
const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";

/// Selects the members that build and no others, so that a drain waits for builds and for nothing else. There is none
/// while nobody builds.
pub(super) fn disruption_budget(pool: &ValidPool) -> Option<PodDisruptionBudget> {
    if pool.building.is_empty() {
        return None;
    }
    let mut selector = member_selector(pool);
    selector.match_expressions = Some(vec![LabelSelectorRequirement {
        key: POD_NAME.to_owned(),
        operator: "In".to_owned(),
        values: Some(pool.building.clone()),
    }]);
    Some(PodDisruptionBudget {
        metadata: metadata(pool, names::disruption_budget(&pool.name)),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(0)),
            selector: Some(selector),
            ..PodDisruptionBudgetSpec::default()
        }),
        ..PodDisruptionBudget::default()
    })
}
