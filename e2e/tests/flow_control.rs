//! Requests of operator and runners get the API server's seats that `manifests/base/flow-control.yaml` sets aside.

use std::collections::BTreeMap;

use anyhow::ensure;
use axum::http::Request;
use buildpools_crds::v1alpha1::JobPhase;
use buildpools_e2e::harness::{Environment, Tenant, wait};

/// Flow schema and priority level.
type Flow = (&'static str, &'static str);

const FLOWS: [Flow; 3] = [
    ("buildpools-leader-election", "leader-election"),
    ("buildpools-operator", "buildpools-operator"),
    ("buildpools-runners", "buildpools-runners"),
];

/// Requests of each flow that the API server let through, as it says itself.
async fn requests(environment: &Environment) -> anyhow::Result<BTreeMap<Flow, f64>> {
    let request = Request::get("/metrics").body(Vec::new())?;
    let metrics = environment.client.request_text(request).await?;
    let dispatched =
        metrics.lines().filter(|line| line.starts_with("apiserver_flowcontrol_dispatched_requests_total{"));
    let mut requests = BTreeMap::from(FLOWS.map(|flow| (flow, 0.0)));
    for line in dispatched {
        let has = |label: &str, value: &str| line.contains(&format!("{label}=\"{value}\""));
        for (flow, count) in &mut requests {
            if has("flow_schema", flow.0) && has("priority_level", flow.1) {
                *count += line.rsplit(' ').next().unwrap_or_default().parse::<f64>()?;
            }
        }
    }
    Ok(requests)
}

#[tokio::test]
async fn operator_and_runners_have_seats_of_their_own() {
    Tenant::with("flow-control", async |tenant| {
        let before = requests(&tenant.environment).await?;
        tenant.pool("main").create_ready().await?;
        let status = tenant.job("app", "main").inline("FROM scratch\nCOPY Dockerfile /\n").run().await?;
        ensure!(status.phase == JobPhase::Succeeded, "{:?}", status.failure);
        // The lease is renewed every two seconds, whether there is work or not.
        wait::poll("each flow has had requests", wait::SOON, async || {
            let now = requests(&tenant.environment).await?;
            Ok(FLOWS.iter().all(|flow| now[flow] > before[flow]).then_some(()))
        })
        .await
        .or_else(|error| anyhow::bail!("{error:#}; before: {before:?}"))
    })
    .await;
}
