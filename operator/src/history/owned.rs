//! Jobs that somebody else keeps: a job that is deleted under GitOps is applied again, and built again, for ever.

use kube::core::ObjectMeta;

/// Labels that say so, whatever their value.
///
/// Argo CD tracks by `argocd.argoproj.io/tracking-id`, or by a label: `app.kubernetes.io/instance` unless another is
/// configured (<https://argo-cd.readthedocs.io/en/stable/user-guide/resource_tracking/>). Flux labels what its
/// Kustomizations, HelmReleases and ResourceSets apply.
const LABELS: [&str; 5] = [
    "argocd.argoproj.io/instance",
    "app.kubernetes.io/instance",
    "kustomize.toolkit.fluxcd.io/name",
    "helm.toolkit.fluxcd.io/name",
    "resourceset.fluxcd.controlplane.io/name",
];

/// Annotations that say so, whatever their value.
const ANNOTATIONS: [&str; 2] = ["argocd.argoproj.io/tracking-id", "meta.helm.sh/release-name"];

/// The label by which Helm knows its objects, with its value.
const HELM: (&str, &str) = ("app.kubernetes.io/managed-by", "Helm");

/// Whether the object has an owner, or belongs to a tool that would make it again.
pub fn is_owned(meta: &ObjectMeta) -> bool {
    let owners = meta.owner_references.iter().flatten().next().is_some();
    let (labels, annotations) = (&meta.labels, &meta.annotations);
    let label = |key: &str| labels.as_ref().and_then(|labels| labels.get(key));
    owners
        || LABELS.iter().any(|key| label(key).is_some())
        || label(HELM.0).is_some_and(|value| value == HELM.1)
        || ANNOTATIONS.iter().any(|key| annotations.as_ref().is_some_and(|all| all.contains_key(*key)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn marks_of_those_who_would_make_the_job_again() {
        let owned = [
            json!({"labels": {"argocd.argoproj.io/instance": "app"}}),
            json!({"labels": {"app.kubernetes.io/instance": "app"}}),
            json!({"annotations": {"argocd.argoproj.io/tracking-id": "app:buildpools.dev/BuildJob:team/app-1"}}),
            json!({"labels": {"kustomize.toolkit.fluxcd.io/name": "apps"}}),
            json!({"labels": {"helm.toolkit.fluxcd.io/name": "app"}}),
            json!({"labels": {"resourceset.fluxcd.controlplane.io/name": "apps"}}),
            json!({"annotations": {"meta.helm.sh/release-name": "app"}}),
            json!({"labels": {"app.kubernetes.io/managed-by": "Helm"}}),
            json!({"ownerReferences": [{"apiVersion": "v1", "kind": "ConfigMap", "name": "c", "uid": "u"}]}),
        ];
        for meta in owned {
            assert!(is_owned(&serde_json::from_value(meta.clone()).unwrap()), "{meta}");
        }
        let free = [
            json!({}),
            json!({"labels": {"app.kubernetes.io/managed-by": "ci", "app.kubernetes.io/name": "app"}}),
            json!({"annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}"}, "ownerReferences": []}),
        ];
        for meta in free {
            assert!(!is_owned(&serde_json::from_value(meta.clone()).unwrap()), "{meta}");
        }
    }
}
