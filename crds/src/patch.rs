//! Status writes as compare-and-swap.

use serde_json::{Map, Value, json};

use crate::v1alpha1::{BuildJob, BuildJobStatus};

/// The merge patch that turns the status of this very version of the job into `next`. The resourceVersion makes it a
/// compare-and-swap: the API server answers 409 when the job has changed since it was read.
///
/// # Errors
/// When a status cannot be written as JSON, which no status of this crate's making does.
pub fn job_status(job: &BuildJob, next: &BuildJobStatus) -> Result<Value, serde_json::Error> {
    let from = serde_json::to_value(job.status.as_ref())?;
    let to = serde_json::to_value(next)?;
    let status = merge_diff(&from, &to).unwrap_or_else(|| json!({}));
    Ok(json!({"metadata": {"resourceVersion": job.metadata.resource_version}, "status": status}))
}

/// The merge patch (RFC 7386) from one value to another; `None` when they are equal. A field that is gone becomes
/// `null`: leaving it out would keep it.
fn merge_diff(from: &Value, to: &Value) -> Option<Value> {
    if from == to {
        return None;
    }
    let (Value::Object(from), Value::Object(to)) = (from, to) else { return Some(to.clone()) };
    let gone = from.keys().filter(|key| !to.contains_key(*key)).map(|key| (key.clone(), Value::Null));
    let changed = to.iter().filter_map(|(key, value)| {
        let change = from.get(key).map_or_else(|| Some(value.clone()), |old| merge_diff(old, value))?;
        Some((key.clone(), change))
    });
    Some(Value::Object(gone.chain(changed).collect::<Map<_, _>>()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_gone_becomes_null_at_every_depth() {
        for (from, to, expected) in [
            (json!({"a": 1}), json!({"a": 1}), None),
            (json!({"a": 1, "b": 2}), json!({"a": 1}), Some(json!({"b": null}))),
            (json!({"a": {"x": 1, "y": 2}}), json!({"a": {"y": 3}}), Some(json!({"a": {"x": null, "y": 3}}))),
            (json!({"list": [1, 2]}), json!({"list": [1]}), Some(json!({"list": [1]}))),
            (json!(null), json!({"a": 1}), Some(json!({"a": 1}))),
            (json!({"a": 1}), json!({"a": {"x": 1}}), Some(json!({"a": {"x": 1}}))),
        ] {
            assert_eq!(merge_diff(&from, &to), expected, "{from} -> {to}");
        }
    }

    #[test]
    fn a_status_patch_names_the_version_that_it_was_made_from() {
        let mut job = BuildJob::default();
        job.metadata.resource_version = Some("7".to_owned());
        job.status = Some(BuildJobStatus { assigned_to: Some("pod".to_owned()), ..BuildJobStatus::default() });
        let patch = job_status(&job, &BuildJobStatus::default()).unwrap();
        assert_eq!(patch, json!({"metadata": {"resourceVersion": "7"}, "status": {"assignedTo": null}}));
    }
}
