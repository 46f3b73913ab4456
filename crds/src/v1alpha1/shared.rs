//! Types that both resources use.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::KubeSchema;
use kube::core::Duration;
use schemars::{Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// Reference to an object of the same namespace. There is no `namespace` field in any reference of this API: a
/// namespace is a tenant, and what is named here is used with the tenant's rights.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct LocalReference {
    /// Name of the object, in the same namespace.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new("self.matches('^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$')").message("must be the name of an object in the same namespace: lower-case letters, digits, '-' and '.'; a namespace cannot be named"))]
    pub name: String,
}

/// Schema of a duration in Go's syntax.
pub(crate) fn duration_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "maxLength": 32,
        "x-kubernetes-validations": [{
            "rule": "self.matches('^([0-9]+(\\\\.[0-9]+)?(ms|s|m|h))+$') && duration(self) >= duration('1s') && duration(self) <= duration('24h')",
            "message": "must be a duration between 1s and 24h, for example 90s, 30m or 1h30m",
        }],
    })
}

/// Schema of a quantity of bytes.
pub(crate) fn bytes_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "maxLength": 32,
        "x-kubernetes-validations": [{
            "rule": "isQuantity(self) && quantity(self).isGreaterThan(quantity('0'))",
            "message": "must be a quantity of bytes above zero, for example 50Gi",
        }],
    })
}

/// Schema of `metav1.Condition` lists, with the lengths that the Go type's markers give.
pub(crate) fn conditions_schema(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = generator.subschema_for::<Vec<Condition>>();
    schema.insert("x-kubernetes-list-type".into(), "map".into());
    schema.insert("x-kubernetes-list-map-keys".into(), serde_json::json!(["type"]));
    schema.insert("maxItems".into(), 8.into());
    if let Some(items) = schema.get_mut("items") {
        for (field, max) in [("type", 316), ("status", 16), ("reason", 1024), ("message", 32768)] {
            items["properties"][field]["maxLength"] = max.into();
        }
    }
    schema
}

/// Length of a duration field. Negative values are refused by the schema; one that got past it counts as zero.
pub fn std_duration(duration: Duration) -> std::time::Duration {
    if duration.is_negative() { std::time::Duration::ZERO } else { duration.into() }
}
