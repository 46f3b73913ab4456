//! The process: connects everything, and ends when it is told to and its builds are done.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use buildpools_crds::lifecycle::Member;
use buildpools_crds::member_config::MemberConfig;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::Identity;
use crate::api::{self, ApiServer};
use crate::assembly::Assembly;
use crate::attempt::Workshop;
use crate::cache::Keeper;
use crate::cache::volume::Volume;
use crate::cli::Settings;
use crate::credentials::Mounted;
use crate::daemon::{self, Builder};
use crate::decide::Event;
use crate::logs::Logs;
use crate::member::Report;
use crate::probe::Probe;

/// How often the API server is asked for something small (see [`ApiServer::touch`]). Less than the 90 s after which the
/// API server closes an idle connection.
const TOUCH_EVERY: Duration = Duration::from_secs(45);

/// How often the mounted files are looked at between builds, so that the pool says soon what is wrong with them. A few
/// small files in memory.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Takes jobs until SIGTERM, then finishes those that run.
pub async fn run(settings: Settings) -> anyhow::Result<()> {
    if let Some(name) = settings.missing() {
        bail!("{name} is not set: the pod's template sets it");
    }
    let me = Arc::new(Identity {
        pod: Member { pod: settings.pod_name, uid: settings.pod_uid },
        namespace: settings.pod_namespace,
        pool: settings.pool_name,
        instance: uuid::Uuid::new_v4().to_string(),
    });
    tracing::info!(version = env!("CARGO_PKG_VERSION"), pod = me.pod.pod, instance = me.instance, "runner starts");
    let probe = Arc::new(Mutex::new(Probe::new(&me.instance)));
    let config = std::fs::read(&settings.config).with_context(|| format!("reading {}", settings.config.display()))?;
    let config: MemberConfig =
        serde_json::from_slice(&config).with_context(|| format!("{} is not understood", settings.config.display()))?;
    let mut terminate = signal(SignalKind::terminate())?;

    let (events, received) = mpsc::unbounded_channel();
    let refused = events.clone();
    let client = api::connect(move || {
        tracing::error!("the API server answers 401: this pod's token is revoked or expired");
        let _ = refused.send(Event::Revoked);
    });
    let api = ApiServer::new(client.await.context("connecting to the API server")?, me.clone());
    // The first connection is made while the daemon starts.
    let touched = tokio::spawn({
        let api = api.clone();
        async move { api.touch().await }
    });
    let daemon = tokio::select! {
        daemon = daemon::connect(&settings.buildkit_socket) => daemon,
        // Nothing was taken yet. What is bound to this pod goes elsewhere when the pod is gone.
        _ = terminate.recv() => return Ok(()),
    };
    if let Ok(Err(refusal)) = touched.await {
        tracing::warn!("first call to the API server: {refusal}");
    }

    let (logs, flush) = Logs::start(std::io::stdout());
    let mounted = Mounted::new(config);
    let connected = (events.clone(), received);
    let runner = Assembly::new(me, api, daemon.clone(), mounted, Report::default(), logs, connected);
    let workshop = runner.workshop.clone();
    workshop.access();

    let stop = CancellationToken::new();
    let synced = probe.clone();
    let (supervisor, mut tasks) = runner.start(move || lock(&synced).watching(true));
    let (pool, report) = (workshop.pool.clone(), workshop.report.clone());
    tasks.spawn(Keeper::new(daemon.clone(), Volume::new(&settings.cache), pool, report, events.clone()).run());
    tasks.spawn(touch(workshop.clone()));
    tasks.spawn(look_at_credentials(workshop.clone()));
    tasks.spawn(drain_at(terminate, events.clone(), probe.clone()));
    tasks.spawn(watch_daemon(daemon, workshop, probe, stop.clone()));

    supervisor.run().await;
    stop.cancel();
    tasks.shutdown().await;
    tracing::info!("all builds are done");
    let _ = tokio::task::spawn_blocking(move || flush.wait()).await;
    Ok(())
}

/// SIGTERM means: take nothing more and finish. A second one does not kill the builds of the first.
async fn drain_at(mut terminate: Signal, events: mpsc::UnboundedSender<Event>, probe: Arc<Mutex<Probe>>) {
    while terminate.recv().await.is_some() {
        lock(&probe).stopping();
        let _ = events.send(Event::Drain);
    }
}

async fn touch<B: Builder>(workshop: Arc<Workshop<B>>) {
    loop {
        tokio::time::sleep(TOUCH_EVERY).await;
        if let Err(refusal) = workshop.api.touch().await {
            tracing::debug!("the API server: {refusal}");
        }
    }
}

async fn look_at_credentials<B: Builder>(workshop: Arc<Workshop<B>>) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        workshop.access();
    }
}

async fn watch_daemon<B: Builder>(
    daemon: buildpools_buildkit::Daemon,
    workshop: Arc<Workshop<B>>,
    probe: Arc<Mutex<Probe>>,
    stop: CancellationToken,
) {
    let on_change = |about: Option<&daemon::About>| {
        lock(&probe).daemon(about.is_some());
        if let Some(about) = about {
            workshop.report.send_modify(|report| {
                report.version = Some(about.version.clone());
                report.snapshotter.clone_from(&about.snapshotter);
            });
        }
    };
    daemon::watch(daemon, &workshop.doubt, &workshop.events, on_change, stop).await;
}

fn lock(probe: &Mutex<Probe>) -> std::sync::MutexGuard<'_, Probe> {
    probe.lock().unwrap_or_else(PoisonError::into_inner)
}
