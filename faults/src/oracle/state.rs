//! O1: how things stand at the end, without what differs from run to run.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value};

/// Objects without what differs from run to run, by resource and name.
pub type State = BTreeMap<(String, String), Value>;

/// What of metadata says when and how often something was written, and not what.
const BOOKKEEPING: [&str; 6] =
    ["uid", "resourceVersion", "creationTimestamp", "managedFields", "generation", "deletionTimestamp"];

/// The state of a namespace. `lossy`: a program or a daemon died, so that attempts may have been lost beside those of the
/// reference run; what an attempt leaves behind is then not compared.
pub fn state<'a>(
    live: impl Iterator<Item = ((&'a str, &'a str), &'a Arc<Value>)>,
    namespace: &str,
    lossy: bool,
) -> State {
    let mask = Mask { namespace, lossy };
    live.map(|((resource, name), object)| ((resource.to_owned(), name.to_owned()), mask.object(resource, object)))
        .collect()
}

struct Mask<'a> {
    namespace: &'a str,
    lossy: bool,
}

impl Mask<'_> {
    fn object(&self, resource: &str, object: &Value) -> Value {
        let mut object = self.value(object);
        if let Some(metadata) = object["metadata"].as_object_mut() {
            metadata.retain(|key, _| !BOOKKEEPING.contains(&key.as_str()));
            if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
                annotations.remove(crate::inject::TOUCHED);
                // A hash over the owner's UID too.
                annotations.remove(buildpools_operator::kube_ext::ensure::APPLIED);
                if annotations.is_empty() {
                    metadata.remove("annotations");
                }
            }
        }
        match resource {
            "pods" => {
                for list in ["containerStatuses", "initContainerStatuses"] {
                    for container in object["status"][list].as_array_mut().into_iter().flatten() {
                        strip(container, &["restartCount", "lastState"]);
                    }
                }
            }
            "statefulsets" => {
                strip(&mut object["status"], &["observedGeneration", "currentRevision", "collisionCount"]);
            }
            "buildjobs" => {
                // How often it had to wait is no part of the outcome.
                for condition in object["status"]["conditions"].as_array_mut().into_iter().flatten() {
                    strip(condition, &["lastTransitionTime"]);
                }
                // Why it was lost is told less exactly by an operator that has not seen it.
                for attempt in object["status"]["attempts"].as_array_mut().into_iter().flatten() {
                    strip(attempt, &["message"]);
                }
                if self.lossy {
                    strip(&mut object["status"], &["attempt", "attempts", "member"]);
                    // Whether it waited again or was built when the cancellation came.
                    if object["status"]["phase"] == "Cancelled" {
                        strip(&mut object["status"]["failure"], &["message"]);
                        for condition in object["status"]["conditions"].as_array_mut().into_iter().flatten() {
                            strip(condition, &["message"]);
                        }
                    }
                }
            }
            _ => {}
        }
        object
    }

    fn value(&self, value: &Value) -> Value {
        match value {
            Value::Object(fields) => {
                fields.iter().map(|(key, value)| (key.clone(), self.value(value))).collect::<Map<_, _>>().into()
            }
            Value::Array(items) => items.iter().map(|item| self.value(item)).collect(),
            Value::String(text) => self.text(text).into(),
            other => other.clone(),
        }
    }

    fn text(&self, text: &str) -> String {
        if text.parse::<jiff::Timestamp>().is_ok() {
            return "<time>".to_owned();
        }
        without_uuids(&text.replace(self.namespace, "<namespace>"))
    }
}

fn strip(value: &mut Value, fields: &[&str]) {
    if let Some(object) = value.as_object_mut() {
        object.retain(|key, _| !fields.contains(&key.as_str()));
    }
}

/// Replaces everything of the form of a UUID.
fn without_uuids(text: &str) -> String {
    const LENGTH: usize = 36;
    let mut masked = String::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let width = if rest.get(..LENGTH).is_some_and(is_uuid) {
            masked.push_str("<uuid>");
            LENGTH
        } else {
            masked.push(first);
            first.len_utf8()
        };
        rest = &rest[width..];
    }
    masked
}

fn is_uuid(text: &str) -> bool {
    text.bytes().enumerate().all(|(index, byte)| match index {
        8 | 13 | 18 | 23 => byte == b'-',
        _ => byte.is_ascii_hexdigit(),
    })
}

/// What differs, each as `resource name .path: is …, should be …`.
pub fn differences(state: &State, reference: &State) -> Vec<String> {
    let mut found = Vec::new();
    for key in state.keys().chain(reference.keys().filter(|key| !state.contains_key(*key))) {
        let (resource, name) = key;
        match (state.get(key), reference.get(key)) {
            (Some(is), Some(should)) => differ(is, should, &format!("O1: {resource} {name} "), &mut found),
            (Some(_), None) => found.push(format!("O1: {resource} {name} is there and should not be")),
            (None, _) => found.push(format!("O1: {resource} {name} is missing")),
        }
    }
    found
}

fn differ(is: &Value, should: &Value, path: &str, found: &mut Vec<String>) {
    match (is, should) {
        (Value::Object(a), Value::Object(b)) => {
            for key in a.keys().chain(b.keys().filter(|key| !a.contains_key(*key))) {
                differ(&is[key], &should[key], &format!("{path}.{key}"), found);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (index, (a, b)) in a.iter().zip(b).enumerate() {
                differ(a, b, &format!("{path}[{index}]"), found);
            }
        }
        _ if is == should => {}
        _ => found.push(format!("{path}: is {is}, should be {should}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(object: Value) -> State {
        state([(("buildjobs", "a"), &Arc::new(object))].into_iter(), "case-1", false)
    }

    #[test]
    fn times_and_identities_do_not_count_and_everything_else_does() {
        let job = |uid: &str, time: &str, phase: &str, namespace: &str| {
            json!({
                "metadata": {"name": "a", "namespace": namespace, "uid": uid, "resourceVersion": time},
                "status": {"phase": phase, "ref": format!("{uid}-1"), "at": time},
            })
        };
        let (uid, other) = ("0d2bafc9-2a95-4b70-9e45-9a0a3c9a6a10", "ffffffff-2a95-4b70-9e45-9a0a3c9a6a10");
        let reference = of(job(uid, "2026-01-01T00:00:00Z", "Failed", "case-1"));
        assert!(differences(&of(job(other, "2026-01-02T00:00:00.5Z", "Failed", "case-1")), &reference).is_empty());
        let different = differences(&of(job(uid, "2026-01-01T00:00:00Z", "Succeeded", "case-1")), &reference);
        assert_eq!(different, [r#"O1: buildjobs a .status.phase: is "Succeeded", should be "Failed""#]);
        assert_eq!(differences(&State::new(), &reference), ["O1: buildjobs a is missing"]);
    }

    #[test]
    fn uuids_are_found_wherever_they_are() {
        let uid = "0d2bafc9-2a95-4b70-9e45-9a0a3c9a6a10";
        assert_eq!(without_uuids(&format!("a {uid}-1 é {uid}")), "a <uuid>-1 é <uuid>");
        assert_eq!(without_uuids("0d2bafc9-2a95"), "0d2bafc9-2a95");
    }
}
