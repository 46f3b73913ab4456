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

/// Schema of the time that a build may run.
pub(crate) fn duration_schema(_: &mut SchemaGenerator) -> Schema {
    duration_between("1s", "24h", "90s, 30m or 1h30m")
}

/// Schema of the time that a job may wait.
pub(crate) fn wait_schema(_: &mut SchemaGenerator) -> Schema {
    duration_between("1s", "168h", "5m or 1h30m")
}

/// Schema of the time that a job is kept after its end.
pub(crate) fn ttl_schema(_: &mut SchemaGenerator) -> Schema {
    duration_between("0s", "8760h", "1h or 168h")
}

/// Schema of a half-life of past use.
pub(crate) fn half_life_schema(_: &mut SchemaGenerator) -> Schema {
    duration_between("1m", "168h", "30m or 24h")
}

/// Schema of a duration in Go's syntax.
fn duration_between(least: &str, most: &str, examples: &str) -> Schema {
    json_schema!({
        "type": "string",
        "maxLength": 32,
        "x-kubernetes-validations": [{
            "rule": format!("self.matches('^([0-9]+(\\\\.[0-9]+)?(ms|s|m|h))+$') && duration(self) >= duration('{least}') && duration(self) <= duration('{most}')"),
            "message": format!("must be a duration between {least} and {most}, for example {examples}"),
        }],
    })
}

/// Schema of `metav1.LabelSelector`, bounded, with the rules that the API server has for it in its own kinds.
pub(crate) fn selector_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "properties": {
            "matchLabels": {
                "description": "Labels, with these values; all of them are there.",
                "type": "object",
                "maxProperties": 16,
                "additionalProperties": {"type": "string", "maxLength": 63},
            },
            "matchExpressions": {
                "description": "Conditions on the labels; all of them hold.",
                "type": "array",
                "maxItems": 16,
                "items": {
                    "type": "object",
                    "required": ["key", "operator"],
                    "properties": {
                        "key": {"description": "The label's name.", "type": "string", "minLength": 1, "maxLength": 317},
                        "operator": {
                            "description": "How the label relates to the values.",
                            "type": "string",
                            "enum": ["In", "NotIn", "Exists", "DoesNotExist"],
                        },
                        "values": {
                            "description": "The values of In and NotIn.",
                            "type": "array",
                            "maxItems": 32,
                            "items": {"type": "string", "maxLength": 63},
                        },
                    },
                    "x-kubernetes-validations": [{
                        "rule": "(self.operator in ['In', 'NotIn']) == (has(self.values) && self.values.size() > 0)",
                        "message": "values must be given for In and NotIn, and must be absent for Exists and DoesNotExist",
                    }],
                },
            },
        },
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

/// Schema of a part of a volume: a percentage of its size or a quantity of bytes.
pub(crate) fn share_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "maxLength": 32,
        "x-kubernetes-validations": [{
            "rule": "self.matches('^([1-9]|[1-8][0-9]|9[0-5])%$') || (isQuantity(self) && quantity(self).isGreaterThan(quantity('0')))",
            "message": "must be a percentage of cache.size from 1% to 95%, or a quantity of bytes above zero, for example 80% or 40Gi",
        }],
    })
}

/// Schema of the time that something unused is kept in a cache.
pub(crate) fn keep_schema(_: &mut SchemaGenerator) -> Schema {
    duration_between("1m", "8760h", "72h or 720h")
}

/// Schema of `metav1.Condition` lists, with the lengths that the Go type's markers give.
pub(crate) fn conditions_schema(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = generator.subschema_for::<Vec<Condition>>();
    schema.insert("x-kubernetes-list-type".into(), "map".into());
    schema.insert("x-kubernetes-list-map-keys".into(), serde_json::json!(["type"]));
    schema.insert("maxItems".into(), 16.into());
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
