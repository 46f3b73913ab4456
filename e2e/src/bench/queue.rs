//! Jobs that wait behind fifty others: what they cost in writes.

use anyhow::Context as _;
use buildpools_crds::v1alpha1::BuildJob;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use jiff::Timestamp;
use kube::ResourceExt;
use kube::api::PostParams;

use super::audit;
use super::figure::{Figure, spread};
use super::member::WarmMember;
use super::observer::Observer;
use super::sample;
use super::site::Site;
use super::warm;
use crate::harness::Tenant;

/// Jobs of a queue.
const QUEUE: usize = 50;
/// Name of the pool.
const POOL: &str = "queue";

/// Measures so many queues: fifty jobs at once for a member with one slot.
///
/// # Errors
/// When a job fails.
pub async fn run(tenant: &Tenant, site: &Site, queues: usize) -> anyhow::Result<Vec<Figure>> {
    WarmMember::start(tenant, site, POOL, 1).await?;
    let spec = tenant.job("", POOL).inline(&warm::dockerfile(tenant)).object().spec;
    let api = tenant.jobs();
    let mut jobs = Observer::start(api.clone()).await?;
    let parameters = PostParams::default();
    let (mut names, mut waited) = (vec![], vec![]);
    for queue in 0..queues {
        let began = Timestamp::now();
        let made =
            (0..QUEUE).map(|job| BuildJob::new(&format!("queued-{queue}-{job}"), spec.clone())).collect::<Vec<_>>();
        let mut creations: FuturesUnordered<_> = made.iter().map(|job| api.create(&parameters, job)).collect();
        while let Some(created) = creations.next().await {
            created?;
        }
        let together: Vec<_> = made.iter().map(ResourceExt::name_any).collect();
        for seen in sample::all_ended(&mut jobs, together.iter().cloned().collect()).await? {
            let bound = seen.object.status.and_then(|status| status.timing.bound_at).context("the job was bound")?.0;
            waited.push(sample::milliseconds(began, bound));
        }
        names.extend(together);
        eprintln!("queue {} of {queues}", queue + 1);
    }
    let mut known = audit::writes(&tenant.environment.cluster.audit_log, &tenant.namespace)?;
    let counts = names.iter().map(|name| {
        let writes = known.remove(name).with_context(|| format!("the audit log does not know {name}"))?;
        Ok(audit::accepted(&writes))
    });
    let counts: Vec<f64> = counts.collect::<anyhow::Result<_>>()?;
    eprintln!("queue of {QUEUE}: waited, ms: {}", spread(&waited));
    // One write says that a job waits and why, if it waits for more than a moment.
    Ok(vec![Figure::count("writes_per_queued_job", "writes", &counts, 3.0, 4.0)])
}
