//! Deleting one job: only this one, and only as it was when that was decided.

use buildpools_crds::v1alpha1::BuildJob;
use kube::api::{DeleteParams, Preconditions};
use kube::{Api, Client};
use tracing::{debug, info, warn};

use super::known::Settled;
use super::plan::Deletion;
use crate::kube_ext::call;

/// Deletes a job. Says which one, and how it went.
pub async fn delete(client: Client, namespace: Box<str>, deletion: Deletion) -> (Box<str>, Deletion, Settled) {
    let Deletion { name, uid, version, why } = &deletion;
    let only_this = Preconditions { uid: Some(uid.to_string()), resource_version: Some(version.to_string()) };
    let params = DeleteParams::background().preconditions(only_this);
    let jobs = Api::<BuildJob>::namespaced(client, &namespace);
    let settled = match call::call(jobs.delete(name, &params)).await {
        Ok(_) => {
            info!(%namespace, job = %name, ?why, "finished job deleted");
            Settled::Watch
        }
        Err(error) if error.is_not_found() => Settled::Watch,
        Err(error) if error.is_conflict() => {
            debug!(%namespace, job = %name, "the job has changed since it was read");
            Settled::Watch
        }
        Err(error) => {
            warn!(%namespace, job = %name, %error, "a finished job was not deleted");
            Settled::Failed(rand::random())
        }
    };
    (namespace, deletion, settled)
}
