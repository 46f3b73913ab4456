//! The runner of a pod: the real one, with a daemon that is not.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use buildpools_crds::lifecycle::Member;
use buildpools_crds::member_config::MemberConfig;
use buildpools_crds::names;
use buildpools_runner::Identity as Me;
use buildpools_runner::api::{self, ApiServer};
use buildpools_runner::attempt::Workshop;
use buildpools_runner::credentials::Mounted;
use buildpools_runner::decide::Event;
use buildpools_runner::logs::Logs;
use buildpools_runner::member::{self, Report};
use buildpools_runner::supervisor::Supervisor;
use buildpools_runner::watch::{self as watches, PoolSettings};
use kube::client::ClientBuilder;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Site;
use crate::daemon::{Connection, Daemon};
use crate::inject::{ANSWER, Door, Identity, Part};
use crate::process::Process;

/// Starts the runner of a pod.
pub(super) fn start(site: &Site, member: &Member, pool: &str, daemon: &Daemon) -> Process {
    let dead = Arc::new(AtomicBool::new(false));
    let identity = Identity::service_account(&site.namespace, &names::runner(pool)).of_pod(&member.pod, &member.uid);
    let door = Door {
        part: Part::Runner(member.pod.clone()),
        identity,
        namespace: site.namespace.clone(),
        log: site.log.clone(),
        since: site.since.load(Ordering::SeqCst),
        injector: site.injector.clone(),
        upstream: site.upstream.clone(),
        dead: dead.clone(),
    };
    let me = Arc::new(Me {
        pod: member.clone(),
        namespace: site.namespace.clone(),
        pool: pool.to_owned(),
        instance: uuid::Uuid::new_v4().to_string(),
    });
    let connection = Connection { daemon: daemon.clone(), door: door.clone() };
    Process::start(&door.part.to_string(), &site.trace, dead, |stop| run(me, door, connection, stop))
}

/// As `buildpools_runner::run::run` connects everything.
async fn run(me: Arc<Me>, door: Door, connection: Connection, stop: CancellationToken) -> anyhow::Result<()> {
    let (events, received) = mpsc::unbounded_channel();
    let revoked = events.clone();
    let unauthorized = api::on_unauthorized(move || {
        let _ = revoked.send(Event::Revoked);
    });
    let namespace = door.namespace.clone();
    let client = ClientBuilder::new(door, namespace).with_layer(&unauthorized).with_layer(&ANSWER).build();
    let calls = ApiServer::new(client, me.clone());
    let (logs, _flush) = Logs::start(std::io::sink());
    let (settings, pool) = watch::channel(PoolSettings::default());
    let (report, reports) = watch::channel(Report::default());
    let doubt = Arc::new(Notify::new());
    let daemon = connection.daemon.clone();
    let workshop = Arc::new(Workshop {
        me: me.clone(),
        api: calls.clone(),
        builder: connection,
        mounted: Mounted::new(MemberConfig::default()),
        pool,
        report,
        logs,
        doubt: doubt.clone(),
        events: events.clone(),
    });
    let mut tasks = JoinSet::new();
    tasks.spawn(watches::pool(calls.clone(), me.clone(), events.clone(), settings));
    tasks.spawn(watches::jobs(calls.clone(), me.clone(), events.clone(), || {}));
    tasks.spawn(member::publish(calls, me, reports));
    tasks.spawn(watch_daemon(daemon, doubt, workshop.clone()));
    tasks.spawn(async move {
        stop.cancelled().await;
        let _ = events.send(Event::Drain);
    });
    Supervisor::new(workshop, received).run().await;
    tasks.shutdown().await;
    Ok(())
}

/// As `buildpools_runner::daemon::watch`: tells whether the daemon answers, when that changes and when somebody doubts.
async fn watch_daemon(daemon: Daemon, doubt: Arc<Notify>, workshop: Arc<Workshop<Connection>>) {
    loop {
        let (up, mut changed) = daemon.up();
        if up {
            workshop.report.send_if_modified(|report| {
                let version = Some("v0.0.0".to_owned());
                std::mem::replace(&mut report.version, version.clone()) != version
            });
        }
        let _ = workshop.events.send(Event::Daemon(up));
        loop {
            tokio::select! {
                changed = changed.changed() => if changed.is_err() || daemon.up().0 != up { break },
                () = doubt.notified() => break,
            }
        }
    }
}
