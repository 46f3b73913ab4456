//! Twenty jobs a second, whether or not the last ones are done: operator and runner against the ideal dispatcher.

use std::collections::{HashMap, HashSet};
use std::fmt::Debug;
use std::time::Duration;

use anyhow::Context as _;
use buildpools_crds::v1alpha1::{BuildJob, BuildJobSpec, BuildJobStatus};
use jiff::Timestamp;
use kube::api::PostParams;
use kube::core::object::HasStatus;
use kube::{Api, Resource, ResourceExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::task::JoinSet;

use super::figure::{Figure, spread};
use super::ideal::{self, IdealJob};
use super::member::WarmMember;
use super::observer::Observer;
use super::sample;
use super::schedule::poisson;
use super::site::Site;
use super::stats::{median, quantile};
use crate::harness::Tenant;

/// Jobs per second.
const RATE: f64 = 20.0;
/// Jobs of one block: three seconds.
const BLOCK: usize = 60;
/// Name of the pool.
const POOL: &str = "arrivals";
/// Slots of its member. More than twenty jobs a second can fill, because the ideal dispatcher has no slots at all.
const SLOTS: i32 = 64;
/// The lightest build there is: one cached step, nothing to resolve, nothing to push.
pub const LIGHTEST: &str = "FROM scratch\nCOPY Dockerfile /\n";

/// What a block of jobs showed.
struct Block {
    /// From before each job's creation until the daemon received its build, in milliseconds.
    dispatch: Vec<f64>,
    /// Jobs per second that ended: the number of jobs over the time from the block's beginning to its last outcome.
    reached: f64,
    /// The same if the last job had ended when it arrived.
    offered: f64,
    /// How much later than planned the job was created that was created latest, in milliseconds.
    late: f64,
}

/// Measures so many blocks of each, in turn, with the same arrivals in a block of ours and the ideal's next to it.
///
/// # Errors
/// When a job fails.
pub async fn run(tenant: &Tenant, site: &Site, blocks: usize) -> anyhow::Result<Vec<Figure>> {
    let member = WarmMember::start(tenant, site, POOL, SLOTS).await?;
    let client = tenant.environment.client.clone();
    ideal::install(&client).await?;
    let ideal_api: Api<IdealJob> = Api::namespaced_with(client, &tenant.namespace, &ideal::resource());
    let mut jobs = Observer::start(tenant.jobs()).await?;
    let mut ideal_jobs = Observer::start(ideal_api.clone()).await?;
    let mut dispatcher =
        ideal::start(&tenant.environment, &tenant.namespace, member.daemon.clone(), member.member.clone())?;
    let spec = tenant.job("", POOL).inline(LIGHTEST).object().spec;
    let (mut ours, mut ideals) = (vec![], vec![]);
    // The first block of each is not counted.
    for block in 0..=blocks {
        let arrivals = poisson(RATE, BLOCK, block as u64);
        for place in 0..2 {
            let name = |job: usize| format!("arrival-{block}-{job}");
            if (block + place) % 2 == 0 {
                let make = |job| BuildJob::new(&name(job), spec.clone());
                ours.push(measure(&tenant.jobs(), &mut jobs, &member, &arrivals, make).await?);
            } else {
                let make = |job| ideal_job(&name(job), &spec);
                let measured = tokio::select! {
                    measured = measure(&ideal_api, &mut ideal_jobs, &member, &arrivals, make) => measured,
                    error = dispatcher.failure() => Err(error),
                };
                ideals.push(measured?);
            }
        }
        eprintln!("{RATE} jobs/s: block {block} of {blocks}");
    }
    (ours.remove(0), ideals.remove(0));
    Ok(figures(&ours, &ideals))
}

fn ideal_job(name: &str, spec: &BuildJobSpec) -> IdealJob {
    IdealJob::new(name, &ideal::resource(), spec.clone())
}

/// Creates a job at each of these times and waits until all have ended.
async fn measure<K>(
    api: &Api<K>,
    observer: &mut Observer<K>,
    member: &WarmMember,
    arrivals: &[Duration],
    make: impl Fn(usize) -> K,
) -> anyhow::Result<Block>
where
    K: Resource
        + HasStatus<Status = BuildJobStatus>
        + Clone
        + Debug
        + Serialize
        + DeserializeOwned
        + Send
        + Sync
        + 'static,
{
    let mut creations = JoinSet::new();
    let mut names = HashSet::new();
    let start = tokio::time::Instant::now();
    for (job, arrival) in arrivals.iter().enumerate() {
        let (api, job, planned) = (api.clone(), make(job), start + *arrival);
        names.insert(job.name_any());
        creations.spawn(async move {
            tokio::time::sleep_until(planned).await;
            let (created, late) = (Timestamp::now(), planned.elapsed());
            let made = api.create(&PostParams::default(), &job).await?;
            Ok::<_, kube::Error>((made.uid().unwrap_or_default(), created, late))
        });
    }
    let ended = sample::all_ended(observer, names).await?;
    let last = ended.iter().map(|seen| seen.at).max().context("a block has jobs")?;
    let mut created = HashMap::new();
    let mut late = Duration::ZERO;
    while let Some(creation) = creations.join_next().await {
        let (uid, at, by) = creation??;
        created.insert(uid, at);
        late = late.max(by);
    }
    let mut dispatch = Vec::with_capacity(arrivals.len());
    // Off the clock: whoever asks the daemon keeps it from building.
    for (uid, at) in created {
        let (received, _) = sample::solved(&member.daemon, &uid).await?;
        dispatch.push(sample::milliseconds(at, received));
    }
    #[expect(clippy::cast_precision_loss, reason = "a block is small")]
    let count = arrivals.len() as f64;
    let offered = count / arrivals.last().context("a block has jobs")?.as_secs_f64();
    let reached = count / last.duration_since(start.into_std()).as_secs_f64();
    Ok(Block { dispatch, reached, offered, late: late.as_secs_f64() * 1000.0 })
}

fn figures(ours: &[Block], ideals: &[Block]) -> Vec<Figure> {
    let column = |blocks: &[Block], value: fn(&Block) -> f64| blocks.iter().map(value).collect::<Vec<_>>();
    let dispatch = |blocks: &[Block]| blocks.iter().map(|block| block.dispatch.clone()).collect::<Vec<_>>();
    for (name, blocks) in [("BuildJob", ours), ("ideal", ideals)] {
        let all = dispatch(blocks).concat();
        eprintln!(
            "{RATE} jobs/s, {name}: dispatch {} ms; {:.1} jobs/s ended of {:.1} offered; created at most {:.1} ms late",
            spread(&all),
            median(&column(blocks, |block| block.reached)),
            median(&column(blocks, |block| block.offered)),
            quantile(&column(blocks, |block| block.late), 1.0),
        );
    }
    let (of_ours, of_ideals) = (dispatch(ours), dispatch(ideals));
    let (reached, offered) = (column(ours, |block| block.reached), column(ours, |block| block.offered));
    vec![
        Figure::ratio_of_rounds("dispatch_over_ideal_20ps", "ms", &of_ours, &of_ideals, 0.5, 1.5),
        Figure::ratio_of_rounds("dispatch_over_ideal_20ps_p99", "ms", &of_ours, &of_ideals, 0.99, 2.0),
        Figure::share("reached_over_offered_20ps", "jobs/s", &reached, &offered, 0.9),
    ]
}
