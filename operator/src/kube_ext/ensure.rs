//! Putting one object into the cluster, without ever touching somebody else's.
//!
//! - An object is made by POST, so that an object of that name that somebody else made is noticed and not overwritten.
//! - An object that is there is changed only if its controller is our owner, by its UID.
//! - Changes are server-side applies with force and the object's UID: if the object was replaced since we looked, the
//!   API server refuses.
//! - What somebody else has added where everything is ours (`spec`, `data`, …) is removed.
//! - Nothing is written when nothing differs.

use std::fmt::Debug;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Resource, ResourceExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tracing::info;

use super::call::{self, CallError, call};
use super::{additions, diff, owner};
use crate::runtime::metrics::Metrics;

/// Annotation with the hash of what was applied last. Tells that a field is no longer wanted, which comparing what is
/// wanted with what is there cannot tell.
pub const APPLIED: &str = "buildpools.dev/applied";

/// An object that could not be put.
#[derive(Debug, thiserror::Error)]
pub enum EnsureError {
    /// Somebody else's object has the name.
    #[error("{kind} {name} exists and belongs to somebody else")]
    Foreign {
        /// Kind of the object.
        kind: String,
        /// Its name.
        name: String,
    },
    /// A call failed.
    #[error("cannot {verb} {kind} {name}: {source}")]
    Call {
        /// What was tried.
        verb: &'static str,
        /// Kind of the object.
        kind: String,
        /// Its name.
        name: String,
        /// Why not.
        source: CallError,
    },
    /// The object does not become JSON. A fault of ours.
    #[error("cannot serialise {kind}: {source}")]
    Serialise {
        /// Kind of the object.
        kind: String,
        /// Why not.
        source: serde_json::Error,
    },
}

impl EnsureError {
    /// A word for logs and metrics.
    pub fn category(&self) -> &'static str {
        match self {
            Self::Call { source, .. } => source.category(),
            Self::Foreign { .. } => "Foreign",
            Self::Serialise { .. } => "Serialise",
        }
    }
}

/// Who puts objects, and for whom.
#[derive(Clone, Copy, Debug)]
pub struct Manager<'a> {
    /// Field manager of every write.
    pub name: &'a str,
    /// UID of the object that controls all of them.
    pub owner_uid: &'a str,
    /// Whether all of them had been put before: one that is missing now was deleted by somebody.
    pub put_before: bool,
    /// Where repaired drift is counted.
    pub metrics: &'a Metrics,
}

/// Makes the object be as desired. `live` is what was read before; returns what is there now.
///
/// # Errors
/// When the object is somebody else's, or a call fails.
pub async fn ensure<K>(api: &Api<K>, desired: K, live: Option<K>, by: Manager<'_>) -> Result<K, EnsureError>
where
    K: Resource<DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned,
{
    let kind = K::kind(&()).into_owned();
    let name = desired.name_any();
    let fail = |verb: &'static str| {
        let (kind, name) = (kind.clone(), name.clone());
        move |source| EnsureError::Call { verb, kind, name, source }
    };
    let desired = with_hash(desired)?;

    let live = if let Some(live) = live {
        live
    } else {
        let params = PostParams { field_manager: Some(by.name.to_owned()), ..PostParams::default() };
        match call(api.create(&params, &desired)).await {
            Ok(created) => {
                info!(kind, name, "created");
                if by.put_before {
                    by.metrics.repaired(&kind);
                }
                return Ok(created);
            }
            // Made since we looked, or by a create of ours whose answer was lost.
            Err(error) if error.is_already_exists() => match call::get(api.get(&name)).await {
                Ok(Some(live)) => live,
                Ok(None) => return Err(fail("create")(error)),
                Err(error) => return Err(fail("get")(error)),
            },
            Err(error) => return Err(fail("create")(error)),
        }
    };
    if !owner::is_controlled_by(live.meta(), by.owner_uid) {
        return Err(EnsureError::Foreign { kind, name });
    }

    let serialise = |source| EnsureError::Serialise { kind: kind.clone(), source };
    let mut body = serde_json::to_value(&desired).map_err(serialise)?;
    let current = serde_json::to_value(&live).map_err(serialise)?;
    // What was applied last is what is wanted now: if it is not there, somebody has changed it.
    let drift = applied(&desired) == applied(&live);
    let Some(field) = difference(&desired, &live, &body, &current) else {
        let entries = live.meta().managed_fields.as_deref().unwrap_or_default();
        let Some(patch) = additions::removal(&body, &current, entries, by.name) else { return Ok(live) };
        let patch = Patch::<K>::Json(serde_json::from_value(patch).map_err(serialise)?);
        let put = call(api.patch(&name, &params(by, false), &patch)).await.map_err(fail("restore"))?;
        info!(kind, name, "restored: somebody had added to it");
        by.metrics.repaired(&kind);
        return Ok(put);
    };

    if let Some(takeover) = takeover(live.meta().managed_fields.as_deref().unwrap_or_default(), by.name) {
        let patch = json!({"metadata": {
            "uid": live.uid(), "resourceVersion": live.resource_version(), "managedFields": takeover,
        }});
        call(api.patch(&name, &params(by, false), &Patch::Merge(patch))).await.map_err(fail("take over"))?;
    }
    body["metadata"]["uid"] = json!(live.uid());
    let changed = call(api.patch(&name, &params(by, true), &Patch::Apply(&body))).await.map_err(fail("change"))?;
    info!(kind, name, field, drift, "changed");
    if drift {
        by.metrics.repaired(&kind);
    }
    Ok(changed)
}

/// Whether the object in the cluster says what is wanted.
///
/// # Errors
/// When it does not become JSON.
pub fn is_as_desired<K>(desired: &K, live: &K) -> Result<bool, serde_json::Error>
where
    K: Resource<DynamicType = ()> + Serialize,
{
    Ok(diff::first_difference(&serde_json::to_value(desired)?, &serde_json::to_value(live)?).is_none())
}

/// Removes an object that is ours and no longer wanted.
///
/// # Errors
/// When the call fails.
pub async fn remove<K>(api: &Api<K>, live: &K) -> Result<(), EnsureError>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    let (kind, name) = (K::kind(&()).into_owned(), live.name_any());
    let preconditions = Preconditions { uid: live.uid(), resource_version: None };
    let ours_only = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
    match call(api.delete(&name, &ours_only)).await {
        Ok(_) => info!(kind, name, "removed"),
        Err(error) if error.is_not_found() => {}
        Err(source) => return Err(EnsureError::Call { verb: "remove", kind, name, source }),
    }
    Ok(())
}

fn params(by: Manager<'_>, force: bool) -> PatchParams {
    PatchParams { field_manager: Some(by.name.to_owned()), force, ..PatchParams::default() }
}

fn with_hash<K: Resource<DynamicType = ()> + Serialize>(mut object: K) -> Result<K, EnsureError> {
    let bytes = serde_json::to_vec(&object)
        .map_err(|source| EnsureError::Serialise { kind: K::kind(&()).into_owned(), source })?;
    object.annotations_mut().insert(APPLIED.to_owned(), short_hash(&bytes));
    Ok(object)
}

/// The first 16 hexadecimal digits of SHA-256: enough to tell versions of one object apart.
pub fn short_hash(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    Sha256::digest(bytes).iter().take(8).fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// What differs, if anything.
fn difference<K: Resource>(desired: &K, live: &K, body: &Value, current: &Value) -> Option<String> {
    diff::first_difference(body, current)
        .or_else(|| (applied(desired) != applied(live)).then(|| format!("annotation {APPLIED}")))
}

fn applied<K: Resource>(object: &K) -> Option<&String> {
    object.annotations().get(APPLIED)
}

/// The fields of an object that we made by POST are ours by "Update". An apply would be a second owner, and a field that
/// is no longer wanted would stay for the sake of the first. So the entry becomes one of "Apply" before the first apply
/// (client-go does the same: `k8s.io/client-go/util/csaupgrade`).
fn takeover(entries: &[ManagedFieldsEntry], manager: &str) -> Option<Vec<ManagedFieldsEntry>> {
    let ours = |entry: &ManagedFieldsEntry, operation: &str| {
        entry.manager.as_deref() == Some(manager)
            && entry.operation.as_deref() == Some(operation)
            && entry.subresource.as_deref().unwrap_or_default().is_empty()
    };
    if !entries.iter().any(|entry| ours(entry, "Update")) {
        return None;
    }
    let applied_before = entries.iter().any(|entry| ours(entry, "Apply"));
    let taken = entries.iter().filter(|entry| !(applied_before && ours(entry, "Update"))).cloned();
    Some(
        taken
            .map(|mut entry| {
                if ours(&entry, "Update") {
                    entry.operation = Some("Apply".to_owned());
                }
                entry
            })
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(manager: &str, operation: &str, subresource: Option<&str>) -> ManagedFieldsEntry {
        ManagedFieldsEntry {
            manager: Some(manager.into()),
            operation: Some(operation.into()),
            subresource: subresource.map(Into::into),
            ..ManagedFieldsEntry::default()
        }
    }

    #[test]
    fn only_our_own_update_of_the_object_is_taken_over() {
        let foreign =
            [entry("kubectl", "Update", None), entry("us", "Update", Some("status")), entry("us", "Apply", None)];
        assert_eq!(takeover(&foreign, "us"), None);

        let created = [entry("kubectl", "Update", None), entry("us", "Update", None)];
        assert_eq!(takeover(&created, "us"), Some(vec![entry("kubectl", "Update", None), entry("us", "Apply", None)]));

        let both = [entry("us", "Apply", None), entry("us", "Update", None)];
        assert_eq!(takeover(&both, "us"), Some(vec![entry("us", "Apply", None)]));
    }
}
