//! Twenty jobs a second, whether or not the last ones are done: operator and runner against the ideal dispatcher.
//!
//! One real daemon does not do so many builds on a small machine, so this is measured without builds
//! (`buildpools_faults::throughput`).

use std::time::Duration;

use anyhow::Context as _;
use jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, ResourceExt as _};
use tokio::task::JoinSet;

use super::figure::{Figure, spread};
use super::observer::Observer;
use super::sample::{self, Job};
use super::schedule::poisson;
use super::stats::{median, quantile};

/// Jobs per second.
const RATE: f64 = 20.0;
/// Jobs of one block: three seconds.
const BLOCK: usize = 60;
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

/// One of the two that are compared.
pub struct Side<'a, K> {
    /// Its jobs.
    pub api: &'a Api<K>,
    /// Makes the job of this name.
    pub make: &'a dyn Fn(&str) -> K,
}

/// Measures so many blocks of each, in turn, with the same arrivals in a block of ours and in the baseline's next to it.
/// `received` says when the daemon received the first build of the job with this UID.
///
/// # Errors
/// When a job fails.
pub async fn compare<A, B>(
    ours: Side<'_, A>,
    baseline: Side<'_, B>,
    received: impl AsyncFn(&str) -> anyhow::Result<Timestamp>,
    blocks: usize,
) -> anyhow::Result<Vec<Figure>>
where
    A: Job,
    B: Job,
{
    let mut our_jobs = Observer::start(ours.api.clone()).await?;
    let mut ideal_jobs = Observer::start(baseline.api.clone()).await?;
    let (mut of_ours, mut of_ideal) = (vec![], vec![]);
    // The first block of each is not counted.
    for block in 0..=blocks {
        let arrivals = poisson(RATE, BLOCK, block as u64);
        for place in 0..2 {
            if (block + place) % 2 == 0 {
                of_ours.push(measure(&ours, &mut our_jobs, &received, block, &arrivals).await?);
            } else {
                of_ideal.push(measure(&baseline, &mut ideal_jobs, &received, block, &arrivals).await?);
            }
        }
        eprintln!("{RATE} jobs/s: block {block} of {blocks}");
    }
    Ok(figures(&of_ours[1..], &of_ideal[1..]))
}

/// Creates a job at each of these times and waits until all have ended.
async fn measure<K>(
    side: &Side<'_, K>,
    observer: &mut Observer<K>,
    received: &impl AsyncFn(&str) -> anyhow::Result<Timestamp>,
    block: usize,
    arrivals: &[Duration],
) -> anyhow::Result<Block>
where
    K: Job,
{
    let names: Vec<String> = (0..arrivals.len()).map(|job| format!("arrival-{block}-{job}")).collect();
    let mut creations = JoinSet::new();
    let start = tokio::time::Instant::now();
    for (name, arrival) in names.iter().zip(arrivals) {
        let (api, job, planned) = (side.api.clone(), (side.make)(name), start + *arrival);
        creations.spawn(async move {
            tokio::time::sleep_until(planned).await;
            let (created, late) = (Timestamp::now(), planned.elapsed());
            let made = api.create(&PostParams::default(), &job).await?;
            Ok::<_, kube::Error>((made.uid().unwrap_or_default(), created, late))
        });
    }
    let ended = sample::all_ended(observer, names.into_iter().collect()).await?;
    let last = ended.iter().map(|seen| seen.at).max().context("a block has jobs")?;
    let mut dispatch = Vec::with_capacity(arrivals.len());
    let mut late = Duration::ZERO;
    while let Some(creation) = creations.join_next().await {
        let (uid, created, by) = creation??;
        dispatch.push(sample::milliseconds(created, received(&uid).await?));
        late = late.max(by);
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
