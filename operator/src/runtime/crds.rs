//! Waits for the CustomResourceDefinitions.

use std::time::Duration;

use buildpools_crds::v1alpha1::{BuildJob, BuildPool};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::runtime::conditions;
use kube::runtime::wait::Condition as _;
use kube::{Api, Client, CustomResourceExt as _};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::readiness::Gate;
use crate::kube_ext::call;

/// Time between two looks. Installing is when this matters: manifests are applied in one go, in any order.
const PERIOD: Duration = Duration::from_secs(1);

/// Waits until all are established, or until stopped; returns whether they are. A missing definition does not end the
/// process, because starting it again would not make the definition appear.
pub async fn wait(client: &Client, gate: &Gate, stop: &CancellationToken) -> bool {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let mut told = String::new();
    loop {
        let Some(missing) = missing(&api).await else {
            gate.open();
            return true;
        };
        gate.close(&missing);
        if missing != told {
            warn!(missing, "waiting");
            told = missing;
        }
        tokio::select! {
            () = stop.cancelled() => return false,
            () = tokio::time::sleep(PERIOD) => {}
        }
    }
}

async fn missing(api: &Api<CustomResourceDefinition>) -> Option<String> {
    for name in [BuildPool::crd_name(), BuildJob::crd_name()] {
        match call::get(api.get(name)).await {
            Ok(crd) if conditions::is_crd_established().matches_object(crd.as_ref()) => {}
            Ok(Some(_)) => return Some(format!("CustomResourceDefinition {name} is not established yet")),
            Ok(None) => return Some(format!("CustomResourceDefinition {name} is not installed")),
            Err(error) => return Some(format!("CustomResourceDefinition {name} cannot be read: {error}")),
        }
    }
    None
}
