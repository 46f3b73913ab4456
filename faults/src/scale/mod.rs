//! Scale: a thousand pools and ten thousand jobs, most of which have ended, and what the operator needs to be at rest
//! and to begin again.
//!
//! The operator is the real program as cargo has built it, at a real API server. Its memory and its processor time are
//! the kernel's figures, its writes those of the audit log.

pub mod idle;
pub mod proc;
pub mod seed;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use buildpools_crds::v1alpha1::{BuildJob, JobPhase};
use buildpools_e2e::bench::figure::Figure;
use buildpools_e2e::bench::stats::median;
use jiff::Timestamp;
use kube::api::DeleteParams;
use kube::runtime::wait::await_condition;
use kube::{Api, Client};
use rustix::process::Signal;

use self::proc::{Memory, Usage};
use crate::control_plane::{ControlPlane, Options, User};
use crate::kept::Kept;
use crate::operator;

/// How much there is and how long it is measured.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Pools, each with one member.
    pub pools: usize,
    /// Jobs; one of twenty has not ended.
    pub jobs: usize,
    /// Starts of the operator.
    pub starts: usize,
    /// Time of rest that is measured.
    pub idle: Duration,
}

/// How long anything may take.
const PATIENCE: Duration = Duration::from_hours(1);

/// Time over which the operator must do next to nothing to be at rest, and how much that is.
const REST: Duration = Duration::from_secs(10);
const REST_MCORE: f64 = 10.0;

struct Round {
    dispatch: f64,
    synced: f64,
    memory: Memory,
}

/// Measures. What is done is told on stderr.
///
/// # Errors
/// When something does not start or nothing moves any more.
pub async fn run(settings: Settings) -> Result<Vec<Figure>> {
    let plane = ControlPlane::start(Options { audit: true }).await?;
    let client = plane.client(User::Admin).await?;
    let began = Instant::now();
    let empty = idle::memory(&plane, settings.starts).await?;
    let (operator, _) = start(&plane)?;
    seed::pools(&client, settings.pools).await?;
    eprintln!("{} pools are ready after {:.0} s", settings.pools, began.elapsed().as_secs_f64());
    until_at_rest(&operator).await?;
    let passes = Box::pin(idle::passes(&plane, &client, &operator, settings.pools, settings.starts)).await?;
    for (request, count) in &passes.requests {
        eprintln!("looked at all pools {} times: {count} × {request}", settings.starts);
    }
    stop(operator).await?;
    let filled = idle::memory(&plane, settings.starts).await?;
    eprintln!("MiB without pools: {empty:.1?}, with {}: {filled:.1?}", settings.pools);
    let bytes = seed::jobs(&client, settings.jobs, settings.pools).await?;
    eprintln!("{} jobs of {bytes} bytes on average after {:.0} s", settings.jobs, began.elapsed().as_secs_f64());

    let mut rounds = Vec::new();
    let mut idle = None;
    for number in 1..=settings.starts {
        let (operator, round) = Box::pin(round(&plane, &client, number)).await?;
        let Round { dispatch, synced, memory: Memory { resident, anonymous, peak } } = round;
        eprintln!(
            "start {number}: first dispatch after {dispatch:.2} s, all known after {synced:.2} s; {resident:.1} MiB at \
             rest ({anonymous:.1} MiB anonymous), {peak:.1} MiB at most"
        );
        rounds.push(round);
        if number == settings.starts {
            idle = Some(rest(&plane, &operator, settings.idle).await?);
        }
        stop(operator).await?;
    }
    let (mcore, requests) = idle.context("there is at least one start")?;
    for (request, count) in &requests {
        eprintln!("at rest: {count} × {request}");
    }
    let of = |get: fn(&Round) -> f64| rounds.iter().map(get).collect::<Vec<_>>();
    #[allow(clippy::cast_precision_loss)]
    let kib_per_pool = |(filled, empty): (&f64, &f64)| (filled - empty) * 1024.0 / settings.pools as f64;
    let memory: Vec<f64> = filled.iter().zip(&empty).map(kib_per_pool).collect();
    Ok(vec![
        Figure::absolute("reconcile_idle_cpu_ms", "ms", &passes.millis, 1.0),
        Figure::absolute("reconcile_idle_writes", "writes", &[count(&passes.requests, proc::is_write)], 0.0),
        Figure::absolute("memory_per_idle_pool_kib", "KiB", &memory, 32.0),
        Figure::absolute("operator_rss_mib", "MiB", &of(|round| round.memory.resident), 96.0),
        Figure::ratio(
            "operator_rss_peak_over_steady",
            "MiB",
            &of(|round| round.memory.peak),
            &of(|round| round.memory.resident),
            1.5,
        ),
        Figure::absolute("operator_idle_mcore", "mcore", &[mcore], 5.0),
        Figure::absolute("operator_idle_writes", "writes", &[count(&requests, proc::is_write)], 0.0),
        Figure::absolute(
            "operator_idle_lists",
            "lists",
            &[count(&requests, |request| request.starts_with("list"))],
            0.0,
        ),
        Figure::absolute("restart_to_dispatch_s", "s", &of(|round| round.dispatch), 1.5),
        Figure::absolute("restart_to_sync_s", "s", &of(|round| round.synced), 4.0),
    ])
}

fn count(requests: &[(String, usize)], what: fn(&str) -> bool) -> f64 {
    #[allow(clippy::cast_precision_loss)]
    let count = proc::count(requests, what) as f64;
    count
}

fn start(plane: &ControlPlane) -> Result<(Kept, SocketAddr)> {
    let health = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
    let kubeconfig = plane.kubeconfig_of(User::Operator)?;
    Ok((operator::start(plane, "buildpools-operator-0", &kubeconfig, health)?, health))
}

/// In good order: the lease is given back.
async fn stop(operator: Kept) -> Result<()> {
    operator.signal(Signal::TERM);
    Ok(tokio::task::spawn_blocking(move || operator.wait()).await?)
}

/// One start, with a job that comes at the same moment, until the operator is at rest.
async fn round(plane: &ControlPlane, client: &Client, number: usize) -> Result<(Kept, Round)> {
    let began = Instant::now();
    let (operator, health) = start(plane)?;
    let (namespace, job) = seed::waiting(client, number).await?;
    let jobs: Api<BuildJob> = Api::namespaced(client.clone(), &namespace);
    let bound = |job: Option<&BuildJob>| {
        job.and_then(|job| job.status.as_ref()).is_some_and(|status| status.phase == JobPhase::Bound)
    };
    let dispatched = async {
        tokio::time::timeout(PATIENCE, await_condition(jobs.clone(), &job, bound)).await??;
        anyhow::Ok(began.elapsed())
    };
    let synced = async {
        until_ready(&operator, health).await?;
        anyhow::Ok(began.elapsed())
    };
    let (dispatched, synced) = tokio::try_join!(dispatched, synced)?;
    until_at_rest(&operator).await?;
    let memory = proc::memory(operator.process().pid)?;
    jobs.delete(&job, &DeleteParams::default()).await?;
    let round = Round { dispatch: dispatched.as_secs_f64(), synced: synced.as_secs_f64(), memory };
    Ok((operator, round))
}

/// Waits until the operator says that it leads and knows everything.
async fn until_ready(operator: &Kept, health: SocketAddr) -> Result<()> {
    let began = Instant::now();
    while !is_ready(health).await {
        operator.process().check()?;
        ensure!(began.elapsed() < PATIENCE, "the operator is not ready");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

/// Waits until the operator does next to nothing.
async fn until_at_rest(operator: &Kept) -> Result<()> {
    let (pid, began) = (operator.process().pid, Instant::now());
    loop {
        let before = Usage::of(pid)?;
        tokio::time::sleep(REST).await;
        if Usage::of(pid)?.mcore_since(before, REST) < REST_MCORE {
            return Ok(());
        }
        ensure!(began.elapsed() < PATIENCE, "the operator does not come to rest");
    }
}

/// Whether /readyz says so. The connection is made anew each time, as the kubelet does.
async fn is_ready(health: SocketAddr) -> bool {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let ask = async {
        let mut connection = tokio::net::TcpStream::connect(health).await?;
        connection.write_all(b"GET /readyz HTTP/1.1\r\nHost: operator\r\nConnection: close\r\n\r\n").await?;
        let mut answer = String::new();
        connection.read_to_string(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    ask.await.is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
}

/// Thousandths of a core, and the operator's requests by kind.
async fn rest(plane: &ControlPlane, operator: &Kept, time: Duration) -> Result<(f64, Vec<(String, usize)>)> {
    let pid = operator.process().pid;
    // In parts, so that one moment's work does not hide in the mean.
    let parts = 6;
    let mut mcores = Vec::new();
    let since = Timestamp::now();
    for _ in 0..parts {
        let (before, began) = (Usage::of(pid)?, Instant::now());
        tokio::time::sleep(time / parts).await;
        mcores.push(Usage::of(pid)?.mcore_since(before, began.elapsed()));
    }
    eprintln!("at rest: {mcores:.1?} mcore, median {:.1}", median(&mcores));
    #[allow(clippy::cast_precision_loss)]
    let mean = mcores.iter().sum::<f64>() / mcores.len() as f64;
    let requests = proc::requests(&plane.audit_log(), since)?;
    Ok((mean, requests))
}
