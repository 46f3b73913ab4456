//! As many jobs as operator and runners can carry, against as many status writes as the API server takes.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, ensure};
use buildpools_crds::v1alpha1::{BuildJob, BuildJobSpec, JobPhase};
use buildpools_e2e::bench::figure::Figure;
use buildpools_e2e::bench::ideal::{self, Dispatcher, IdealJob};
use buildpools_e2e::bench::observer::Observer;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use kube::ResourceExt as _;
use kube::api::{Api, PostParams};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Jobs of one block.
const BLOCK: usize = 300;
/// Jobs that have been created and have not ended, at most: enough that operator, runners and API server always have
/// something to do, and no more than the pool has slots, so that no job waits so long that somebody has to say why.
const WINDOW: usize = 64;
/// Jobs that the ideal writer takes through their writes at a time. More does not make it faster.
const WRITERS: usize = 16;

/// Measures so many blocks of each, in turn.
///
/// # Errors
/// When a job fails.
pub async fn run(
    jobs: &Api<BuildJob>,
    ideal_jobs: &Api<IdealJob>,
    writer: &Arc<Dispatcher>,
    spec: &BuildJobSpec,
    blocks: usize,
) -> Result<Vec<Figure>> {
    let mut observer = Observer::start(jobs.clone()).await?;
    let (mut ours, mut ideal) = (vec![], vec![]);
    // The first block of each is not counted.
    for block in 0..=blocks {
        for place in 0..2 {
            if (block + place) % 2 == 0 {
                ours.push(carried(jobs, &mut observer, spec, block).await?);
            } else {
                ideal.push(written(ideal_jobs, writer, spec, block).await?);
            }
        }
        eprintln!("block {block} of {blocks}: {:.1} jobs/s, ideal writer {:.1}", ours[block], ideal[block]);
    }
    let (ours, ideal) = (ours.split_off(1), ideal.split_off(1));
    Ok(vec![
        Figure::rate("sustained_jobs_per_s", "jobs/s", &ours, &ideal, 100.0),
        Figure::share("sustained_over_ideal_writer", "jobs/s", &ours, &ideal, 0.7),
    ])
}

/// Jobs per second from the first creation until the last outcome is seen.
async fn carried(
    jobs: &Api<BuildJob>,
    observer: &mut Observer<BuildJob>,
    spec: &BuildJobSpec,
    block: usize,
) -> Result<f64> {
    let window = Arc::new(Semaphore::new(WINDOW));
    let names: Vec<String> = (0..BLOCK).map(|job| format!("carried-{block}-{job}")).collect();
    let mut left: HashSet<String> = names.iter().cloned().collect();
    let mut creations = JoinSet::new();
    let began = Instant::now();
    creations.spawn({
        let (jobs, spec, window) = (jobs.clone(), spec.clone(), window.clone());
        async move {
            let mut under_way = JoinSet::new();
            for name in names {
                window.acquire().await?.forget();
                let (jobs, job) = (jobs.clone(), BuildJob::new(&name, spec.clone()));
                under_way.spawn(async move { jobs.create(&PostParams::default(), &job).await });
            }
            while let Some(created) = under_way.join_next().await {
                created??;
            }
            anyhow::Ok(())
        }
    });
    let mut last = began;
    while !left.is_empty() {
        let end = observer.until("all jobs end", |seen| {
            let is_end = seen.object.status.as_ref().is_some_and(|status| status.phase.is_terminal());
            is_end && left.remove(&seen.object.name_any())
        });
        let seen = tokio::select! {
            seen = end => seen?,
            Some(created) = creations.join_next() => {
                created??;
                continue;
            }
        };
        let status = seen.object.status.unwrap_or_default();
        ensure!(status.phase == JobPhase::Succeeded && status.attempts.len() == 1, "{status:?}");
        window.add_permits(1);
        last = seen.at;
    }
    Ok(per_second(last - began))
}

/// Jobs per second that get their three status writes from whoever does nothing else. They are there before.
async fn written(jobs: &Api<IdealJob>, writer: &Arc<Dispatcher>, spec: &BuildJobSpec, block: usize) -> Result<f64> {
    let parameters = PostParams::default();
    let made = (0..BLOCK).map(|job| {
        let job = IdealJob::new(&format!("written-{block}-{job}"), &ideal::resource(), spec.clone());
        let parameters = &parameters;
        async move { jobs.create(parameters, &job).await }
    });
    let made: Vec<IdealJob> = stream::iter(made).buffer_unordered(WRITERS).try_collect().await?;
    let began = Instant::now();
    stream::iter(made.into_iter().map(|job| Box::pin(writer.take(job))))
        .buffer_unordered(WRITERS)
        .try_collect::<()>()
        .await?;
    Ok(per_second(began.elapsed()))
}

fn per_second(time: std::time::Duration) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a block is small")]
    let jobs = BLOCK as f64;
    jobs / time.as_secs_f64()
}
