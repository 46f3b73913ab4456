//! The CustomResourceDefinitions, as they are applied to a cluster.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSON, JSONSchemaProps,
};
use kube::CustomResourceExt;
use serde_json::json;

use crate::conditions::RECONCILING;
use crate::lifecycle::reasons::QUEUED;
use crate::v1alpha1::{BuildJob, BuildPool};

/// The definition of BuildPool.
pub fn build_pool() -> CustomResourceDefinition {
    BuildPool::crd()
}

/// The definition of BuildJob.
///
/// The API server itself gives a new job its first status: without a status, kstatus would call a job that nobody has
/// looked at yet Current, and `helm --wait` would return at once
/// (<https://github.com/kubernetes-sigs/cli-utils/blob/master/pkg/kstatus/README.md>).
pub fn build_job() -> CustomResourceDefinition {
    let mut crd = BuildJob::crd();
    for version in &mut crd.spec.versions {
        let schema = version.schema.as_mut().and_then(|s| s.open_api_v3_schema.as_mut());
        if let Some(status) = schema.and_then(|s| property(s, "status")) {
            status.default = Some(JSON(json!({
                "phase": "Pending",
                "conditions": [{
                    "type": RECONCILING,
                    "status": "True",
                    "reason": QUEUED,
                    "message": "waiting for the operator",
                    "lastTransitionTime": "1970-01-01T00:00:00Z",
                }],
            })));
        }
    }
    crd
}

fn property<'a>(schema: &'a mut JSONSchemaProps, name: &str) -> Option<&'a mut JSONSchemaProps> {
    schema.properties.as_mut()?.get_mut(name)
}

/// Every definition with the name of the file that holds it in `manifests/base/crds/`.
pub fn all() -> [(&'static str, CustomResourceDefinition); 2] {
    [("buildpools.dev_buildpools.yaml", build_pool()), ("buildpools.dev_buildjobs.yaml", build_job())]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walk(value: &serde_json::Value, visit: &mut impl FnMut(&str, &serde_json::Value)) {
        match value {
            serde_json::Value::Object(map) => {
                for (key, value) in map {
                    visit(key, value);
                    walk(value, visit);
                }
            }
            serde_json::Value::Array(list) => list.iter().for_each(|value| walk(value, visit)),
            _ => {}
        }
    }

    #[test]
    fn no_format_that_api_servers_warn_about() {
        for (name, crd) in all() {
            walk(&serde_json::to_value(crd).unwrap(), &mut |key, value| {
                assert!(
                    key != "format" || !value.as_str().is_some_and(|f| f.starts_with("uint")),
                    "{name}: format {value}: use a signed integer"
                );
            });
        }
    }

    #[test]
    fn no_reference_has_a_namespace() {
        for (name, crd) in all() {
            walk(&serde_json::to_value(&crd.spec.versions[0].schema).unwrap(), &mut |key, _| {
                // Of a NetworkPolicy's peer: it chooses whom pods may speak to, and nothing is read from there.
                let selects = key == "namespaceSelector";
                assert!(selects || !key.to_lowercase().contains("namespace"), "{name}: field {key}");
            });
        }
    }

    #[test]
    fn a_new_job_has_a_status_that_says_in_progress() {
        let crd = build_job();
        let schema = crd.spec.versions[0].schema.clone().unwrap().open_api_v3_schema.unwrap();
        let status = &schema.properties.unwrap()["status"];
        let default = &status.default.as_ref().unwrap().0;
        assert_eq!(default["phase"], "Pending");
        let parsed: crate::v1alpha1::BuildJobStatus = serde_json::from_value(default.clone()).unwrap();
        assert!(crate::conditions::is_true(&parsed.conditions, RECONCILING));
    }

    #[test]
    fn every_field_of_a_job_is_immutable_or_is_known_to_change() {
        let crd = build_job();
        let schema = crd.spec.versions[0].schema.clone().unwrap().open_api_v3_schema.unwrap();
        let spec = &schema.properties.unwrap()["spec"];
        let rules = serde_json::to_string(&spec.x_kubernetes_validations).unwrap();
        for field in spec.properties.as_ref().unwrap().keys() {
            let fixed = rules.contains(&format!("self.{field} == oldSelf.{field}"));
            let mutable = crate::v1alpha1::MUTABLE_FIELDS.contains(&field.as_str());
            assert!(fixed != mutable, "spec.{field}: fixed {fixed}, mutable {mutable}");
        }
    }
}
