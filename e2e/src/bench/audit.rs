//! What the API server's audit log says about jobs.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::path::Path;

use anyhow::Context as _;
use jiff::Timestamp;
use serde::Deserialize;

/// One request of the log that wrote something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// Who sent it.
    pub user: String,
    /// Whether it was a status write; otherwise it made the object.
    pub is_status: bool,
    /// When the API server received it.
    pub received: Timestamp,
    /// When it had answered.
    pub answered: Timestamp,
    /// The HTTP status.
    pub code: i32,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    stage: String,
    verb: String,
    user: User,
    object_ref: Option<ObjectRef>,
    response_status: Option<ResponseStatus>,
    request_received_timestamp: Timestamp,
    stage_timestamp: Timestamp,
}

#[derive(Deserialize)]
struct User {
    username: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ObjectRef {
    #[serde(default)]
    resource: String,
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    api_group: String,
    #[serde(default)]
    subresource: String,
}

#[derive(Deserialize)]
struct ResponseStatus {
    #[serde(default)]
    code: i32,
}

/// Every write to a BuildJob of this namespace, by the job's name, in the order of their arrival. `log` is the current
/// file; the API server keeps older parts beside it under its name with a time.
///
/// # Errors
/// When the log cannot be read.
pub fn writes(log: &Path, namespace: &str) -> anyhow::Result<BTreeMap<String, Vec<Write>>> {
    let directory = log.parent().context("the audit log lies in a directory")?;
    let stem = log.file_stem().and_then(|stem| stem.to_str()).context("the audit log has a name")?;
    let mut writes = BTreeMap::<String, Vec<Write>>::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(stem)) {
            let file = File::open(&path).with_context(|| path.display().to_string())?;
            for line in BufReader::new(file).lines() {
                if let Some((job, write)) = job_write(&line?, namespace) {
                    writes.entry(job).or_default().push(write);
                }
            }
        }
    }
    for of_job in writes.values_mut() {
        of_job.sort_by_key(|write| write.received);
    }
    Ok(writes)
}

/// How many status writes among these were accepted.
pub fn accepted(writes: &[Write]) -> f64 {
    let count = writes.iter().filter(|write| write.is_status && (200..300).contains(&write.code)).count();
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

fn job_write(line: &str, namespace: &str) -> Option<(String, Write)> {
    // Most lines are about something else: they are not worth a parser.
    if !line.contains(namespace) || !line.contains("buildjobs") {
        return None;
    }
    let entry: Entry = serde_json::from_str(line).ok()?;
    let object = entry.object_ref?;
    let is_ours =
        object.api_group == "buildpools.dev" && object.resource == "buildjobs" && object.namespace == namespace;
    let is_write = ["create", "update", "patch", "apply"].contains(&entry.verb.as_str());
    let write = Write {
        user: entry.user.username,
        is_status: object.subresource == "status",
        received: entry.request_received_timestamp,
        answered: entry.stage_timestamp,
        code: entry.response_status.map_or(0, |status| status.code),
    };
    (is_ours && is_write && entry.stage == "ResponseComplete").then_some((object.name, write))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn line(verb: &str, subresource: &str, namespace: &str, stage: &str) -> String {
        json!({
            "kind": "Event", "level": "Metadata", "stage": stage, "verb": verb,
            "user": {"username": "system:serviceaccount:buildpools-system:buildpools-operator"},
            "objectRef": {"resource": "buildjobs", "namespace": namespace, "name": "job-1", "apiGroup": "buildpools.dev",
                "apiVersion": "v1alpha1", "subresource": subresource},
            "responseStatus": {"metadata": {}, "code": 200},
            "requestReceivedTimestamp": "2026-01-01T00:00:00.000100Z", "stageTimestamp": "2026-01-01T00:00:00.004100Z",
        })
        .to_string()
    }

    #[test]
    fn only_finished_writes_to_jobs_of_the_namespace_count() {
        let (name, write) = job_write(&line("patch", "status", "bench-1", "ResponseComplete"), "bench-1").unwrap();
        assert_eq!((name.as_str(), write.is_status, write.code), ("job-1", true, 200));
        assert_eq!((write.answered - write.received).total(jiff::Unit::Millisecond).unwrap().to_bits(), 4f64.to_bits());
        for other in [
            line("get", "status", "bench-1", "ResponseComplete"),
            line("patch", "status", "bench-2", "ResponseComplete"),
            line("patch", "status", "bench-1", "ResponseStarted"),
            "not json, but bench-1 and buildjobs".to_owned(),
        ] {
            assert_eq!(job_write(&other, "bench-1"), None, "{other}");
        }
        let (_, made) = job_write(&line("create", "", "bench-1", "ResponseComplete"), "bench-1").unwrap();
        assert!(!made.is_status);
    }
}
