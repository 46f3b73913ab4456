//! The runner of a pod: the real one, with a daemon that is not.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use buildpools_crds::lifecycle::Member;
use buildpools_crds::member_config::MemberConfig;
use buildpools_crds::names;
use buildpools_runner::Identity as Me;
use buildpools_runner::api::{self, ApiServer};
use buildpools_runner::assembly::Assembly;
use buildpools_runner::attempt::Workshop;
use buildpools_runner::credentials::Mounted;
use buildpools_runner::decide::Event;
use buildpools_runner::logs::Logs;
use buildpools_runner::member::Report;
use kube::client::ClientBuilder;
use tokio::sync::mpsc;
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

/// As `buildpools_runner::run::run`, with another way to the API server and another daemon.
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
    let daemon = connection.daemon.clone();
    let mounted = Mounted::new(MemberConfig::default());
    let connected = (events.clone(), received);
    let runner = Assembly::new(me, calls, connection, mounted, Report::default(), logs, connected);
    let workshop = runner.workshop.clone();
    let (supervisor, mut tasks) = runner.start(|| {});
    tasks.spawn(watch_daemon(daemon, workshop));
    tasks.spawn(async move {
        stop.cancelled().await;
        let _ = events.send(Event::Drain);
    });
    supervisor.run().await;
    tasks.shutdown().await;
    Ok(())
}

/// As `buildpools_runner::daemon::watch`: tells whether the daemon answers, when that changes and when somebody doubts.
async fn watch_daemon(daemon: Daemon, workshop: Arc<Workshop<Connection>>) {
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
                () = workshop.doubt.notified() => break,
            }
        }
    }
}
