//! What somebody else has added to an object of ours.
//!
//! The API server fills in defaults, so that a field that we did not ask for says nothing. But it notes whose each field
//! is (`metadata.managedFields`), and defaults are nobody's: a field in a part that is all ours, that another manager owns
//! and that we did not ask for was added by somebody. Server-side apply leaves it there.
//!
//! Whoever writes says who he is, so a client that uses our name is taken for us. But in a part to which the API server
//! adds nothing, what is there and was not asked for was added by somebody, whoever he says he is (`COMPLETE`).

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use serde_json::{Map, Value, json};

/// Parts of an object that may be written by others: labels and annotations are everybody's, the status is its
/// controller's, and Kubernetes may put secrets into a ServiceAccount.
const SHARED: [&str; 6] = ["apiVersion", "kind", "metadata", "status", "secrets", "imagePullSecrets"];

/// Kinds and parts of which we say everything, so that the API server fills in nothing.
const COMPLETE: [(&str, &str); 1] = [("NetworkPolicy", "spec")];

/// The JSON patch that puts back, as a whole, each part to which somebody else has added something; `None` if nobody has.
/// `desired` is the object as we want it, `live` as it is. The patch holds for this version of the object only.
pub fn removal(desired: &Value, live: &Value, entries: &[ManagedFieldsEntry], manager: &str) -> Option<Value> {
    let others = entries.iter().filter(|entry| {
        entry.manager.as_deref() != Some(manager) && entry.subresource.as_deref().unwrap_or_default().is_empty()
    });
    let complete = COMPLETE.iter().filter(|(kind, _)| desired["kind"] == *kind).map(|(_, part)| *part);
    let mut parts: Vec<&str> = complete.filter(|part| plain(&desired[*part]) != plain(&live[*part])).collect();
    for entry in others {
        let Some(Value::Object(fields)) = entry.fields_v1.as_ref().map(|fields| &fields.0) else { continue };
        for (field, owned) in fields {
            let Some(part) = field.strip_prefix("f:").filter(|part| !SHARED.contains(part)) else { continue };
            if !parts.contains(&part) && adds(owned, desired.get(part), &live[part]) {
                parts.push(part);
            }
        }
    }
    if parts.is_empty() {
        return None;
    }
    let version =
        json!({"op": "replace", "path": "/metadata/resourceVersion", "value": live["metadata"]["resourceVersion"]});
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
fn adds(owned: &Value, desired: Option<&Value>, live: &Value) -> bool {
    let Some(desired) = desired else { return !is_empty(live) };
    let Value::Object(owned) = owned else { return false };
    // Owned as a whole, like a selector: it is ours if nothing is in it that we did not ask for.
    if owned.is_empty() && (desired.is_object() || desired.is_array()) {
        return desired != live && !(is_empty(desired) && is_empty(live));
    }
    owned.iter().any(|(key, inner)| match key.split_once(':') {
        Some(("f", field)) => adds(inner, desired.get(field), &live[field]),
        Some(("k", keys)) => adds(inner, item(desired, keys), item(live, keys).unwrap_or(&Value::Null)),
        // An item of a set. One that we want is there anyhow.
        Some(("v", value)) => {
            let value: Option<Value> = serde_json::from_str(value).ok();
            !desired.as_array().into_iter().flatten().any(|item| Some(item) == value.as_ref())
        }
        // "." is the field itself.
        _ => false,
    })
}

/// Without what means the same as its absence, because the API server drops it. An empty selector is not of that kind: it
/// selects everything.
fn plain(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let said = |field: &str, value: &Value| {
                !is_empty(value) || (value.is_object() && matches!(field, "podSelector" | "namespaceSelector"))
            };
            let fields = fields.iter().map(|(field, value)| (field.clone(), plain(value)));
            Value::Object(fields.filter(|(field, value)| said(field, value)).collect())
        }
        Value::Array(items) => items.iter().map(plain).collect(),
        _ => value.clone(),
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
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

    const US: &str = "us";

    fn entries(manager: &str, subresource: Option<&str>, fields: &Value) -> Vec<ManagedFieldsEntry> {
        serde_json::from_value(json!([
            {"manager": US, "operation": "Update", "fieldsV1": {"f:spec": {"f:serviceName": {}}}},
            {"manager": manager, "operation": "Update", "subresource": subresource, "fieldsV1": fields},
        ]))
        .unwrap()
    }

    fn desired() -> Value {
        json!({"spec": {"replicas": 1, "selector": {"matchLabels": {"a": "b"}}, "template": {"spec": {
            "containers": [{"name": "a", "image": "i", "args": ["1"]}],
        }}}})
    }

    /// With all that is added below.
    fn live() -> Value {
        let mut live = desired();
        live["metadata"] = json!({"resourceVersion": "7"});
        live["data"] = json!({"x": "y"});
        live["spec"]["selector"]["matchLabels"]["x"] = json!("y");
        live["spec"]["template"]["metadata"] = json!({"annotations": {"x": "y"}});
        live["spec"]["template"]["spec"]["hostNetwork"] = json!(true);
        live["spec"]["template"]["spec"]["containers"][0]["env"] = json!([{"name": "E"}]);
        live["spec"]["template"]["spec"]["initContainers"] = json!([{"name": "b"}]);
        live
    }

    fn found(manager: &str, subresource: Option<&str>, fields: &Value) -> Option<Value> {
        removal(&desired(), &live(), &entries(manager, subresource, fields), US)
    }

    #[test]
    fn what_nobody_asked_for_is_removed_with_the_whole_part() {
        let pod = |inner: &Value| json!({"f:spec": {"f:template": {"f:spec": inner}}});
        let container = |inner: &Value| pod(&json!({"f:containers": {r#"k:{"name":"a"}"#: inner}}));
        for added in [
            pod(&json!({"f:hostNetwork": {}})),
            json!({"f:spec": {"f:template": {"f:metadata": {"f:annotations": {"f:x": {}}}}}}),
            json!({"f:spec": {"f:selector": {}}}),
            container(&json!({"f:env": {".": {}, r#"k:{"name":"E"}"#: {".": {}, "f:name": {}}}})),
            pod(&json!({"f:initContainers": {".": {}, r#"k:{"name":"b"}"#: {".": {}}}})),
        ] {
            assert_eq!(
                found("kubectl", None, &added).expect("an addition"),
                json!([
                    {"op": "replace", "path": "/metadata/resourceVersion", "value": "7"},
                    {"op": "add", "path": "/spec", "value": desired()["spec"]},
                ]),
                "{added}"
            );
        }
        let patch = found("kubectl", None, &json!({"f:data": {".": {}, "f:x": {}}}));
        assert_eq!(patch.expect("an addition")[1], json!({"op": "remove", "path": "/data"}));

        for fine in [
            json!({"f:spec": {"f:replicas": {}}}),
            json!({"f:spec": {"f:paused": {}}}),
            json!({"f:metadata": {"f:labels": {"f:x": {}}}}),
            json!({"f:status": {"f:replicas": {}}}),
            json!({"f:secrets": {".": {}}}),
            container(&json!({".": {}, "f:image": {}, "f:args": {}})),
        ] {
            assert_eq!(found("kubectl", None, &fine), None, "{fine}");
        }
        let hidden = pod(&json!({"f:hostNetwork": {}}));
        assert_eq!(found(US, None, &hidden), None, "set by a webhook while we wrote");
        assert_eq!(found("controller", Some("status"), &hidden), None);
    }

    #[test]
    fn in_a_network_policy_our_name_hides_nothing() {
        let peer = json!({"podSelector": {"matchLabels": {"a": "b"}}});
        let all = json!({"namespaceSelector": {"matchLabels": {}}, "podSelector": {}});
        let policy = |change: fn(&mut Value)| {
            let egress = json!([{"to": [peer, all], "ports": [{"port": 53, "protocol": "UDP"}]}]);
            let mut policy = json!({
                "kind": "NetworkPolicy", "metadata": {"resourceVersion": "7"},
                "spec": {"podSelector": {"matchLabels": {"x": "y"}}, "ingress": [], "egress": egress},
            });
            change(&mut policy["spec"]);
            policy
        };
        let desired = policy(|_| {});
        let found = |change: fn(&mut Value)| {
            let fields = json!({"f:spec": {"f:egress": {}, "f:podSelector": {}}});
            removal(&desired, &policy(change), &entries(US, None, &fields), US)
        };
        let as_the_api_server_has_it: fn(&mut Value) = |spec| {
            spec["ingress"] = Value::Null;
            spec["egress"][0]["to"][1]["namespaceSelector"] = json!({});
        };
        assert_eq!(found(as_the_api_server_has_it), None);
        let additions: [fn(&mut Value); 4] = [
            |spec| spec["egress"][0]["ports"][0]["endPort"] = json!(60),
            |spec| spec["egress"][0]["to"][0]["namespaceSelector"] = json!({}),
            |spec| spec["podSelector"]["matchLabels"]["z"] = json!("1"),
            |spec| spec["ingress"] = json!([{}]),
        ];
        for added in additions {
            let patch = found(added).expect("an addition");
            assert_eq!(patch[1], json!({"op": "add", "path": "/spec", "value": desired["spec"]}));
        }
    }
}
