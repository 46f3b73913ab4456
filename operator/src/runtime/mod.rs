//! The process: starts, leads or stands by, stops in good order.

pub mod client;
pub mod crds;
pub mod debug;
pub mod finished;
pub mod health;
pub mod http;
pub mod lease;
pub mod metrics;
pub mod readiness;
pub mod telemetry;
pub mod traces;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use kube::Client;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use self::http::Servers;
use self::lease::{Elector, Leader, Leadership};
use self::metrics::Metrics;
use self::readiness::Readiness;
use crate::cli::Cli;
use crate::dispatch::explain::Explainer;
use crate::{dispatch, history, pool};

/// Time that work under way gets when the process stops. The pod has 15 seconds
/// (`terminationGracePeriodSeconds` in `manifests/base/operator.yaml`).
const DRAIN: Duration = Duration::from_secs(8);

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// When the process cannot do its work: bad settings, leadership lost, a controller ended.
pub async fn run(cli: Cli) -> anyhow::Result<()> {
    let stop = CancellationToken::new();
    stop_on_signals(&stop)?;
    let readiness = Readiness::default();
    let turn_gate = readiness.gate("leader-election", "not begun");
    let crd_gate = readiness.gate("crds", "not looked for yet");
    let metrics = Metrics::default();
    let (explainer, leader) = (Explainer::default(), Leader::default());
    let mut servers = Servers::default();
    servers.begin(cli.health_addr, "--health-addr", health::router(readiness.clone())).await?;
    servers.begin(cli.metrics_addr, "--metrics-addr", metrics::router(metrics.clone())).await?;
    servers.begin(cli.debug_addr, "--debug-addr", debug::router(explainer.clone(), leader.clone())).await?;
    let client = client::connect(&metrics).await?;
    info!(version = env!("CARGO_PKG_VERSION"), pod = cli.pod_name, namespace = cli.pod_namespace, "started");

    let replica = Replica { cli, client, metrics, readiness, explainer, leader };
    tokio::select! {
        done = replica.lead(&turn_gate, &crd_gate, stop) => done,
        error = servers.failed() => Err(error),
    }
}

/// What the parts of a process share that leads or wants to.
struct Replica {
    cli: Cli,
    client: Client,
    metrics: Metrics,
    readiness: Readiness,
    explainer: Explainer,
    leader: Leader,
}

impl Replica {
    async fn lead(
        &self,
        turn_gate: &readiness::Gate,
        crd_gate: &readiness::Gate,
        stop: CancellationToken,
    ) -> anyhow::Result<()> {
        let Self { cli, client, metrics, .. } = self;
        if !crds::wait(client, crd_gate, &stop).await {
            return Ok(());
        }
        let elector = Elector::new(client.clone(), &cli.pod_namespace, &cli.lease_name, &cli.identity());
        let elector = elector.telling(self.leader.clone());
        let Some(mut leadership) = elector.acquire(turn_gate, &stop).await else { return Ok(()) };
        metrics.leader(true);

        let work = stop.child_token();
        let mut tasks = self.begin(&work);
        let result = tokio::select! {
            // Work under way is dropped with the tasks: another process may lead already.
            lost = leadership.keep() => return Err(lost.context("leadership lost")),
            () = stop.cancelled() => Ok(()),
            Some(ended) = tasks.join_next() => Err(why(ended)),
        };
        info!("stopping");
        work.cancel();
        let drained = drain(&mut tasks, &mut leadership).await;
        tasks.shutdown().await;
        leadership.release().await;
        metrics.leader(false);
        result.and(drained)
    }

    /// Begins the work of a leader.
    fn begin(&self, work: &CancellationToken) -> JoinSet<anyhow::Result<()>> {
        let Self { cli, client, metrics, readiness, explainer, .. } = self;
        let caches = readiness.gate("caches", "jobs, pools, members and nodes are being listed");
        let settings = cli.dispatch_settings(metrics.clone(), explainer.clone());
        let told = finished::Told { past: settings.past.clone(), metrics: metrics.clone() };
        let mut tasks = JoinSet::new();
        tasks.spawn(pool::run(client.clone(), cli.pool_settings(), metrics.clone(), work.clone()));
        tasks.spawn(dispatch::run(client.clone(), settings, caches.clone(), work.clone()));
        tasks.spawn(history::run(client.clone(), Arc::new(told), caches, work.clone()));
        tasks
    }
}

/// Waits until the tasks have finished what they had begun. The lease is kept meanwhile.
async fn drain(tasks: &mut JoinSet<anyhow::Result<()>>, leadership: &mut Leadership) -> anyhow::Result<()> {
    let rest = async {
        let mut result = Ok(());
        while let Some(ended) = tasks.join_next().await {
            if !matches!(ended, Ok(Ok(()))) {
                result = Err(why(ended));
            }
        }
        result
    };
    tokio::select! {
        lost = leadership.keep() => Err(lost.context("leadership lost while stopping")),
        result = tokio::time::timeout(DRAIN, rest) => result.unwrap_or_else(|_| {
            warn!("stopped with work under way");
            Ok(())
        }),
    }
}

fn why(ended: Result<anyhow::Result<()>, tokio::task::JoinError>) -> anyhow::Error {
    match ended {
        Ok(Ok(())) => anyhow::anyhow!("a controller ended by itself"),
        Ok(Err(error)) => error,
        Err(error) => anyhow::Error::new(error).context("a controller failed"),
    }
}

fn stop_on_signals(stop: &CancellationToken) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be handled")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT cannot be handled")?;
    let stop = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stop.cancel();
    });
    Ok(())
}

/// Logs an error that ends the process.
pub fn report(error: &anyhow::Error) {
    error!(error = format!("{error:#}"), "stopped");
}
