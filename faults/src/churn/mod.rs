//! Churn: many jobs on fake daemons while operators, runners, daemons and pods are killed and answers get lost.
//!
//! The operator is the real program in two processes, which reach the API server over a way that loses answers; the
//! runners are the real ones, in this process; only the daemons build nothing. At the end every job must have ended,
//! each attempt must have been solved once at most, in the job's own pool, and what the API says must be what the
//! daemons did.

pub mod chaos;
pub mod daemon;
pub mod lossy;
pub mod oracle;
pub mod runner;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use buildpools_crds::v1alpha1::{BuildJob, BuildPool};
use buildpools_e2e::cluster::process::wait_until;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::apps::v1::StatefulSet;
use kube::api::{ListParams, PostParams};
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use self::chaos::{Fleet, Kills};
use self::daemon::Ledger;
use self::lossy::{Counts, Lossy};
use crate::control_plane::{ControlPlane, Options, User};
use crate::sets;

/// Share of the writes whose answer is lost.
const LOSS: f64 = 0.05;

/// Namespaces, pools in each, members of each, builds in each.
const NAMESPACES: usize = 3;
const POOLS: [&str; 2] = ["main", "side"];
const MEMBERS: i32 = 2;
const SLOTS: i32 = 4;

/// Jobs that have not ended, at most: some more than there are slots, so that there is always a queue.
const WINDOW: usize = 120;

/// Jobs that are created at a time.
const CREATE: usize = 8;

/// Time between two looks at how many jobs have ended.
const LOOK: Duration = Duration::from_millis(500);

/// How long nothing may end before the run is given up.
const PATIENCE: Duration = Duration::from_mins(3);

/// Where a job belongs: namespace and pool.
pub type Home = (String, String);

/// The figures of a run.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// Jobs, all ended.
    pub jobs: usize,
    /// Of these, with an image.
    pub succeeded: usize,
    /// Of these, failed as their build did.
    pub failed: usize,
    /// Of these, failed because no attempt was left.
    pub exhausted: usize,
    /// Solves, each of another Ref.
    pub attempts: usize,
    /// What was killed.
    pub kills: Kills,
    /// How often the lease changed hands.
    pub terms: i32,
    /// Writes of operators and runners.
    pub writes: u64,
    /// Of these, carried out with a false answer.
    pub injected: u64,
    /// Time from the first job to the last end.
    pub took: Duration,
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { jobs, succeeded, failed, exhausted, attempts, kills, terms, writes, injected, took } = self;
        #[allow(clippy::cast_precision_loss)]
        let rate = *jobs as f64 / took.as_secs_f64();
        write!(
            f,
            "{jobs} jobs ended ({succeeded} succeeded, {failed} failed as built, {exhausted} out of retries), 0 lost; \
             {attempts} attempts, 0 solved twice, 0 in a wrong pool; killed: {kills}; the lease changed hands {terms} \
             times; {injected} of {writes} writes with a false answer; {:.0} s, {rate:.1} jobs/s",
            took.as_secs_f64()
        )
    }
}

/// Runs `jobs` jobs, or as many as are made within `limit`.
///
/// # Errors
/// When something does not start, when nothing moves any more, or when something happened that must never happen.
pub async fn run(jobs: usize, limit: Option<Duration>) -> Result<Figures> {
    let plane = Arc::new(ControlPlane::start(Options::default()).await?);
    let client = plane.client(User::Admin).await?;
    let counts = Arc::new(Counts::default());
    let ledger = Arc::new(Ledger::default());
    sets::create_node(&client).await?;

    let way = Lossy::new(plane.client(User::Operator).await?, LOSS, counts.clone());
    let operators = chaos::Operators::start(plane.clone(), lossy::serve(way).await?)?;
    let fleet = Fleet::new(plane.clone(), ledger.clone(), counts.clone(), LOSS);
    let homes = create_pools(&client, &fleet).await.context("making the pools")?;

    let stop = CancellationToken::new();
    let chaos =
        [tokio::spawn(operators.kill_now_and_then(stop.clone())), tokio::spawn(fleet.kill_now_and_then(stop.clone()))];
    let began = Instant::now();
    let created = Box::pin(drive(&client, jobs, limit, &homes)).await;
    let took = began.elapsed();
    stop.cancel();
    let mut kills = Kills::default();
    for task in chaos {
        kills += task.await?.context("killing")?;
    }
    let created = created?;
    let terms = chaos::terms(&client).await?;
    let (solves, violations) = ledger.close();
    ensure!(violations.is_empty(), "{} violations:\n{}", violations.len(), violations.join("\n"));
    let mut figures = oracle::judge(&client, &created, &solves).await?;
    figures.kills = kills;
    figures.terms = terms;
    figures.writes = counts.writes.load(Ordering::Relaxed);
    figures.injected = counts.injected.load(Ordering::Relaxed);
    figures.took = took;
    Ok(figures)
}

async fn create_pools(client: &Client, fleet: &Fleet) -> Result<Vec<Home>> {
    let mut homes = Vec::new();
    for number in 0..NAMESPACES {
        let namespace = format!("team-{number}");
        sets::create_namespace(client, &namespace).await?;
        for pool in POOLS {
            let object: BuildPool = serde_json::from_value(json!({
                "metadata": {"name": pool},
                "spec": {"scaling": {"minMembers": MEMBERS, "buildsPerMember": SLOTS}, "cache": {"size": "1Gi"}},
            }))?;
            let pools: Api<BuildPool> = Api::namespaced(client.clone(), &namespace);
            pools.create(&PostParams::default(), &object).await?;
            homes.push((namespace.clone(), pool.to_owned()));
        }
    }
    for (namespace, pool) in &homes {
        let api: Api<StatefulSet> = Api::namespaced(client.clone(), namespace);
        wait_until(&format!("StatefulSet {namespace}/{pool}"), PATIENCE, &[], async || {
            Ok(api.get_opt(pool).await?.is_some())
        })
        .await?;
        let set = api.get(pool).await?;
        for ordinal in 0..MEMBERS {
            fleet.add(namespace, pool, &set, ordinal, usize::try_from(SLOTS)?).await?;
        }
    }
    Ok(homes)
}

/// Creates the jobs, never more than [`WINDOW`] ahead of what has ended, and waits until all have. Returns where each
/// belongs, by UID.
async fn drive(
    client: &Client,
    mut jobs: usize,
    limit: Option<Duration>,
    homes: &[Home],
) -> Result<BTreeMap<String, Home>> {
    let mut created = BTreeMap::new();
    let mut last_end = (0, Instant::now());
    let mut told = Instant::now();
    let began = Instant::now();
    loop {
        if limit.is_some_and(|limit| began.elapsed() > limit) {
            jobs = created.len();
        }
        let active = active(client).await?;
        let ended = created.len() - active.len();
        if ended > last_end.0 {
            last_end = (ended, Instant::now());
        }
        if told.elapsed() > Duration::from_secs(30) {
            eprintln!("{ended} of {jobs} jobs have ended, {} are under way", active.len());
            told = Instant::now();
        }
        if created.len() == jobs && active.is_empty() {
            return Ok(created);
        }
        if last_end.1.elapsed() > PATIENCE {
            bail!("no job has ended for {PATIENCE:?}; {} are under way:\n{}", active.len(), describe(&active));
        }
        let more = (jobs - created.len()).min(WINDOW.saturating_sub(active.len()));
        let next = created.len()..created.len() + more;
        let made = stream::iter(next.map(|number| create(client, number, &homes[number % homes.len()])));
        let made: Vec<_> = made.buffer_unordered(CREATE).try_collect().await?;
        created.extend(made);
        tokio::time::sleep(LOOK).await;
    }
}

async fn create(client: &Client, number: usize, home: &Home) -> Result<(String, Home)> {
    let job: BuildJob = serde_json::from_value(json!({
        "metadata": {"name": format!("job-{number}")},
        "spec": {
            "poolRef": {"name": home.1},
            "context": {"inline": {"files": [{"path": "Dockerfile", "content": "FROM scratch\nCOPY Dockerfile /\n"}]}},
            "output": {"image": {"names": [format!("registry.test/{}/app:{number}", home.0)]}},
        },
    }))?;
    let jobs: Api<BuildJob> = Api::namespaced(client.clone(), &home.0);
    let job = match jobs.create(&PostParams::default(), &job).await {
        // An earlier try was carried out and its answer lost.
        Err(kube::Error::Api(status)) if status.is_already_exists() => jobs.get(&job.name_any()).await?,
        created => created?,
    };
    Ok((job.uid().context("a created object has a UID")?, home.clone()))
}

/// Jobs that have not ended.
async fn active(client: &Client) -> Result<Vec<BuildJob>> {
    let selector = "status.phase!=Succeeded,status.phase!=Failed,status.phase!=Cancelled";
    let params = ListParams::default().fields(selector);
    Ok(Api::all(client.clone()).list(&params).await?.items)
}

fn describe(jobs: &[BuildJob]) -> String {
    let lines = jobs.iter().take(20).map(|job| {
        let status = job.status.clone().unwrap_or_default();
        format!("{}/{} {}", job.namespace().unwrap_or_default(), job.name_any(), json!(status))
    });
    lines.collect::<Vec<_>>().join("\n")
}
