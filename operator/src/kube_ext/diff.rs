//! Whether an object in the cluster still says what we want it to say.
//!
//! The API server fills in defaults, so an object is never equal to what was sent: what counts is that everything that
//! we want is there. What we wanted once and no longer want cannot be seen this way; for that, an object carries the
//! hash of what was applied last ([`crate::kube_ext::ensure`]).

use serde_json::Value;

use super::quantity;

/// Path of the first field that differs from what is wanted.
pub fn first_difference(desired: &Value, live: &Value) -> Option<String> {
    differs(desired, Some(live), "", false)
}

/// `quantity`: strings are quantities, whose spelling the API server changes.
fn differs(desired: &Value, live: Option<&Value>, path: &str, quantity: bool) -> Option<String> {
    let here = || Some(path.to_owned());
    // Empty and absent are the same in the API: `omitempty` drops empty lists and maps.
    let live = match live {
        None | Some(Value::Null) => return if is_empty(desired) { None } else { here() },
        Some(live) => live,
    };
    match (desired, live) {
        (Value::Object(desired), Value::Object(live)) => desired.iter().find_map(|(key, value)| {
            let quantity = quantity || matches!(key.as_str(), "requests" | "limits");
            differs(value, live.get(key), &format!("{path}.{key}"), quantity)
        }),
        (Value::Array(desired), Value::Array(live)) => {
            if desired.len() != live.len() {
                return here();
            }
            let key = merge_key(desired).filter(|key| merge_key(live) == Some(key));
            desired.iter().enumerate().find_map(|(index, item)| {
                let other = match key {
                    Some(key) => live.iter().find(|other| other[key] == item[key]),
                    None => live.get(index),
                };
                differs(item, other, &format!("{path}[{index}]"), quantity)
            })
        }
        (Value::String(desired), Value::String(live)) if quantity && quantity::equal(desired, live) => None,
        (Value::Null, _) => {
            if is_empty(live) {
                None
            } else {
                here()
            }
        }
        _ if desired == live => None,
        _ => here(),
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

/// Server-side apply may order a list by key as it likes: the field that tells its items apart. `mountPath` first,
/// because several mounts may name one volume.
fn merge_key(items: &[Value]) -> Option<&'static str> {
    ["mountPath", "name"].into_iter().find(|key| {
        let mut seen = Vec::with_capacity(items.len());
        items.iter().all(|item| match item.get(*key) {
            Some(Value::String(value)) if !seen.contains(&value) => {
                seen.push(value);
                true
            }
            _ => false,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn same(desired: &Value, live: &Value) {
        assert_eq!(first_difference(desired, live), None, "{desired} {live}");
    }

    fn different(desired: &Value, live: &Value, path: &str) {
        assert_eq!(first_difference(desired, live).as_deref(), Some(path), "{desired} {live}");
    }

    #[test]
    fn defaults_of_the_api_server_are_no_difference() {
        same(&json!({"a": {"b": 1}}), &json!({"a": {"b": 1, "c": 2}, "d": 3}));
        same(&json!({"ingress": [], "labels": {}, "x": null}), &json!({}));
        same(
            &json!({"limits": {"memory": "1024Mi", "cpu": "1000m"}}),
            &json!({"limits": {"memory": "1Gi", "cpu": "1"}}),
        );
    }

    #[test]
    fn changes_are_seen() {
        different(&json!({"a": {"b": 1}}), &json!({"a": {"b": 2}}), ".a.b");
        different(&json!({"a": {"b": 1}}), &json!({"a": {}}), ".a.b");
        different(&json!({"ingress": []}), &json!({"ingress": [{}]}), ".ingress");
        different(
            &json!({"subjects": [{"name": "a"}]}),
            &json!({"subjects": [{"name": "a"}, {"name": "b"}]}),
            ".subjects",
        );
        different(&json!({"data": {"x": "1000m"}}), &json!({"data": {"x": "1"}}), ".data.x");
    }

    #[test]
    fn lists_with_a_key_may_be_in_another_order_and_others_not() {
        let (a, b) = (json!({"name": "a", "v": 1}), json!({"name": "b", "v": 2}));
        same(&json!([a, b]), &json!([b, a]));
        different(&json!([a, b]), &json!([b, {"name": "a", "v": 3}]), "[0].v");
        different(&json!(["x", "y"]), &json!(["y", "x"]), "[0]");
        let mounts = |list: &[(&str, &str)]| -> Value {
            list.iter().map(|(name, path)| json!({"name": name, "mountPath": path})).collect()
        };
        same(&mounts(&[("v", "/1"), ("v", "/2")]), &mounts(&[("v", "/2"), ("v", "/1")]));
        different(&mounts(&[("v", "/1"), ("v", "/2")]), &mounts(&[("v", "/2"), ("w", "/1")]), "[0].name");
    }
}
