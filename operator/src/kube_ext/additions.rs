//! What somebody else has added to an object of ours.
//!
//! The API server fills in defaults, so that a field that we did not ask for says nothing. But it notes whose each field
//! is (`metadata.managedFields`), and defaults are nobody's: a field in a part that is all ours, that another manager owns
//! and that we did not ask for was added by somebody. Server-side apply leaves it there.

use kube::{Resource, ResourceExt as _};
use serde_json::{Map, Value, json};

/// Parts of an object that may be written by others: labels and annotations are everybody's, the status is its
/// controller's, and Kubernetes may put secrets into a ServiceAccount.
const SHARED: [&str; 6] = ["apiVersion", "kind", "metadata", "status", "secrets", "imagePullSecrets"];

/// The JSON patch that puts back, as a whole, each part to which somebody else has added something; `None` if nobody has.
/// `desired` is the object as we want it. The patch holds for this version of the object only.
pub fn removal<K: Resource>(desired: &Value, live: &K, manager: &str) -> Option<Value> {
    let entries = live.meta().managed_fields.as_deref().unwrap_or_default();
    let others = entries.iter().filter(|entry| {
        entry.manager.as_deref() != Some(manager) && entry.subresource.as_deref().unwrap_or_default().is_empty()
    });
    let mut parts: Vec<&str> = Vec::new();
    for entry in others {
        let Some(Value::Object(fields)) = entry.fields_v1.as_ref().map(|fields| &fields.0) else { continue };
        for (field, owned) in fields {
            let Some(part) = field.strip_prefix("f:").filter(|part| !SHARED.contains(part)) else { continue };
            if !parts.contains(&part) && adds(owned, desired.get(part)) {
                parts.push(part);
            }
        }
    }
    if parts.is_empty() {
        return None;
    }
    let version = json!({"op": "replace", "path": "/metadata/resourceVersion", "value": live.resource_version()});
    let parts = parts.into_iter().map(|part| {
        let path = format!("/{part}");
        match desired.get(part) {
            Some(value) => json!({"op": "add", "path": path, "value": value}),
            None => json!({"op": "remove", "path": path}),
        }
    });
    Some([version].into_iter().chain(parts).collect())
}

/// Whether the owned fields (FieldsV1) hold one that is not wanted. Values of those that are wanted are compared
/// elsewhere.
fn adds(owned: &Value, desired: Option<&Value>) -> bool {
    let Some(desired) = desired else { return true };
    let Value::Object(owned) = owned else { return false };
    owned.iter().any(|(key, inner)| match key.split_once(':') {
        Some(("f", field)) => adds(inner, desired.get(field)),
        Some(("k", keys)) => adds(inner, item(desired, keys)),
        // An item of a set. One that we want is there anyhow.
        Some(("v", value)) => {
            let value: Option<Value> = serde_json::from_str(value).ok();
            !desired.as_array().into_iter().flatten().any(|item| Some(item) == value.as_ref())
        }
        // "." is the field itself.
        _ => false,
    })
}

/// The item of a list with these keys. A key that the item does not say has its default.
fn item<'a>(list: &'a Value, keys: &str) -> Option<&'a Value> {
    let keys: Map<String, Value> = serde_json::from_str(keys).ok()?;
    let fits = |item: &&Value| keys.iter().all(|(key, value)| item.get(key).is_none_or(|own| own == value));
    list.as_array()?.iter().find(fits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::apps::v1::StatefulSet;

    const US: &str = "us";

    fn set(manager: &str, subresource: Option<&str>, fields: &Value) -> StatefulSet {
        serde_json::from_value(json!({
            "metadata": {"name": "x", "resourceVersion": "7", "managedFields": [
                {"manager": US, "operation": "Update", "fieldsV1": {"f:spec": {"f:serviceName": {}}}},
                {"manager": manager, "operation": "Update", "subresource": subresource, "fieldsV1": fields},
            ]},
            "spec": {"selector": {}, "template": {}},
        }))
        .unwrap()
    }

    fn desired() -> Value {
        json!({"spec": {"replicas": 1, "template": {"spec": {
            "containers": [{"name": "a", "image": "i", "args": ["1"]}],
        }}}})
    }

    #[test]
    fn what_nobody_asked_for_is_removed_with_the_whole_part() {
        let container = |inner: &Value| json!({"f:spec": {"f:template": {"f:spec": {"f:containers": {r#"k:{"name":"a"}"#: inner}}}}});
        for added in [
            json!({"f:spec": {"f:template": {"f:spec": {"f:hostNetwork": {}}}}}),
            json!({"f:spec": {"f:template": {"f:metadata": {"f:annotations": {"f:x": {}}}}}}),
            container(&json!({"f:env": {".": {}, r#"k:{"name":"E"}"#: {".": {}, "f:name": {}}}})),
            json!({"f:spec": {"f:template": {"f:spec": {"f:containers": {r#"k:{"name":"b"}"#: {".": {}}}}}}}),
        ] {
            let patch = removal(&desired(), &set("kubectl", None, &added), US).expect("an addition");
            assert_eq!(
                patch,
                json!([
                    {"op": "replace", "path": "/metadata/resourceVersion", "value": "7"},
                    {"op": "add", "path": "/spec", "value": desired()["spec"]},
                ])
            );
        }
        let patch = removal(&desired(), &set("kubectl", None, &json!({"f:data": {".": {}, "f:x": {}}})), US);
        assert_eq!(patch.expect("an addition")[1], json!({"op": "remove", "path": "/data"}));

        for fine in [
            json!({"f:spec": {"f:replicas": {}}}),
            json!({"f:metadata": {"f:labels": {"f:x": {}}}}),
            json!({"f:status": {"f:replicas": {}}}),
            json!({"f:secrets": {".": {}}}),
            container(&json!({".": {}, "f:image": {}, "f:args": {}})),
        ] {
            assert_eq!(removal(&desired(), &set("kubectl", None, &fine), US), None, "{fine}");
        }
        let hidden = json!({"f:spec": {"f:template": {"f:spec": {"f:hostNetwork": {}}}}});
        assert_eq!(removal(&desired(), &set(US, None, &hidden), US), None, "set by a webhook while we wrote");
        assert_eq!(removal(&desired(), &set("controller", Some("status"), &hidden), US), None);
    }
}
