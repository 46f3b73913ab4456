//! Nodes that are to take nothing new.

use anyhow::ensure;
use buildpools_crds::conditions;
use buildpools_crds::lifecycle::reasons;
use buildpools_crds::v1alpha1::{BuildJobStatus, JobPhase};
use buildpools_e2e::harness::Tenant;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, ListParams};

/// Other tests run beside this one and need the node: it is cordoned for no longer than a job needs to say why it waits.
#[tokio::test]
async fn nothing_is_bound_to_a_member_on_a_cordoned_node() {
    Tenant::with("cordon", async |tenant| {
        tenant.pool("main").create_ready().await?;
        let nodes: Api<Node> = Api::all(tenant.environment.client.clone());
        let all = nodes.list(&ListParams::default()).await?;
        let names: Vec<String> = all.items.into_iter().filter_map(|node| node.metadata.name).collect();
        for name in &names {
            nodes.cordon(name).await?;
        }
        let waited = waits(tenant).await;
        for name in &names {
            nodes.uncordon(name).await?;
        }
        let waiting = waited?;
        let status = tenant.ended(&waiting).await?;
        ensure!(status.phase == JobPhase::Succeeded, "{:?}", status.failure);
        Ok(())
    })
    .await;
}

/// Creates jobs until one says that its pool has no member for it; that one. Those before it were created before the
/// operator had heard of the node.
async fn waits(tenant: &Tenant) -> anyhow::Result<String> {
    let refused = |status: &BuildJobStatus| {
        conditions::find(&status.conditions, conditions::RECONCILING)
            .is_some_and(|condition| condition.reason == reasons::POOL_NOT_READY)
    };
    for number in 0..10 {
        let name = format!("app-{number}");
        tenant.job(&name, "main").inline("FROM scratch\nCOPY Dockerfile /\n").create().await?;
        let told = tenant.status_when(&name, "the job waits for a member or ends", |status| {
            refused(status) || status.phase.is_terminal()
        });
        let status = told.await?;
        if refused(&status) {
            ensure!(status.attempts.is_empty() && status.assigned_to.is_none(), "{status:?}");
            return Ok(name);
        }
    }
    anyhow::bail!("jobs are bound on a cordoned node")
}
