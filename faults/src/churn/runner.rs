//! The real runner of a pod, in a thread and a runtime of its own, so that it can be killed with all that it has spawned.

use std::sync::Arc;
use std::thread::JoinHandle;

use anyhow::Result;
use buildpools_crds::lifecycle::Member;
use buildpools_crds::member_config::MemberConfig;
use buildpools_runner::Identity;
use buildpools_runner::api::{self, ApiServer};
use buildpools_runner::assembly::Assembly;
use buildpools_runner::credentials::Mounted;
use buildpools_runner::decide::Event;
use buildpools_runner::logs::Logs;
use buildpools_runner::member::Report;
use kube::client::ClientBuilder;
use tokio::sync::{Notify, mpsc, oneshot};

use super::daemon::{Daemon, Place};
use super::lossy::Lossy;

/// A running runner. It is killed when this is dropped.
pub struct Runner {
    kill: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Runner {
    /// Starts the runner of a pod.
    ///
    /// # Errors
    /// When there are no threads left.
    pub fn start(member: &Member, place: &Place, daemon: &Daemon, way: &Lossy) -> Result<Self> {
        let me = Arc::new(Identity {
            pod: member.clone(),
            namespace: place.namespace.clone(),
            pool: place.pool.clone(),
            instance: uuid::Uuid::new_v4().to_string(),
        });
        let (kill, killed) = oneshot::channel();
        let (daemon, way) = (daemon.clone(), way.clone());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::Builder::new().name(member.pod.clone()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    biased;
                    _ = killed => {}
                    () = run(me, daemon, way) => {}
                }
            });
            // What it has spawned ends here, wherever it is.
            runtime.shutdown_background();
        })?;
        Ok(Self { kill: Some(kill), thread: Some(thread) })
    }

    /// Kills it, and returns when nothing of it runs any more.
    pub async fn kill(&mut self) {
        drop(self.kill.take());
        if let Some(thread) = self.thread.take() {
            // A thread that has panicked is dead too.
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }
}

/// As `buildpools_runner::run::run`, with another way to the API server and another daemon.
async fn run(me: Arc<Identity>, daemon: Daemon, way: Lossy) {
    let (events, received) = mpsc::unbounded_channel();
    let revoked = events.clone();
    let unauthorized = api::on_unauthorized(move || {
        let _ = revoked.send(Event::Revoked);
    });
    let client = ClientBuilder::new(way, me.namespace.clone()).with_layer(&unauthorized).build();
    let calls = ApiServer::new(client, me.clone());
    let (logs, _flush) = Logs::start(std::io::sink());
    let report = Report { version: Some("v0.0.0".into()), ..Report::default() };
    let mounted = Mounted::new(MemberConfig::default());
    let connected = (events.clone(), received);
    let runner = Assembly::new(me, calls, daemon.clone(), mounted, report, logs, connected);
    let doubt = runner.workshop.doubt.clone();
    let (supervisor, mut tasks) = runner.start(|| {});
    tasks.spawn(watch_daemon(daemon, doubt, events));
    supervisor.run().await;
}

/// As `buildpools_runner::daemon::watch`: tells whether the daemon answers, when that changes and when somebody doubts.
async fn watch_daemon(daemon: Daemon, doubt: Arc<Notify>, events: mpsc::UnboundedSender<Event>) {
    loop {
        let (answers, mut changed) = daemon.answers();
        let _ = events.send(Event::Daemon(answers));
        loop {
            tokio::select! {
                changed = changed.changed() => if changed.is_err() || daemon.answers().0 != answers { break },
                () = doubt.notified() => break,
            }
        }
    }
}
