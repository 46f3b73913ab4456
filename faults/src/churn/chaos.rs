//! What is killed, when.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::AddAssign;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use buildpools_crds::lifecycle::Member;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, Client};
use rustix::process::Signal;
use serde_json::json;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use super::daemon::{Daemon, Ledger, Place};
use super::lossy::{Counts, Lossy};
use super::runner::Runner;
use crate::control_plane::{ControlPlane, OPERATOR, OPERATOR_NAMESPACE, User};
use crate::kept::Kept;
use crate::{operator, sets};

/// Time between two kills of an operator, in milliseconds.
const OPERATOR_EVERY: std::ops::Range<u64> = 1000..5000;

/// Time between two kills of something of a member, in milliseconds.
const MEMBER_EVERY: std::ops::Range<u64> = 300..2000;

/// Time that a daemon is away, in milliseconds.
const DAEMON_AWAY: std::ops::Range<u64> = 50..400;

/// How often each was killed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Kills {
    /// Operators by SIGKILL, in a container that is started again.
    pub restarted: usize,
    /// Operators by SIGKILL, and another pod came instead.
    pub replaced: usize,
    /// Operators by SIGTERM, and another pod came instead.
    pub rolled: usize,
    /// Operators that ended by themselves, for instance because they lost their lease, and were started again.
    pub ended: usize,
    /// Runners.
    pub runners: usize,
    /// Daemons.
    pub daemons: usize,
    /// Pods with runner and daemon.
    pub pods: usize,
}

impl AddAssign for Kills {
    fn add_assign(&mut self, other: Self) {
        self.restarted += other.restarted;
        self.replaced += other.replaced;
        self.rolled += other.rolled;
        self.ended += other.ended;
        self.runners += other.runners;
        self.daemons += other.daemons;
        self.pods += other.pods;
    }
}

impl fmt::Display for Kills {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { restarted, replaced, rolled, ended, runners, daemons, pods } = self;
        let killed = restarted + replaced;
        write!(
            f,
            "{killed} operators by SIGKILL ({replaced} with a new name), {rolled} by SIGTERM; {ended} operators ended by themselves; {runners} runners, \
             {daemons} daemons, {pods} pods"
        )
    }
}

/// Two processes of the operator, one of which leads.
pub struct Operators {
    plane: Arc<ControlPlane>,
    kubeconfig: String,
    processes: [(String, Option<Kept>); 2],
    names: usize,
}

impl Operators {
    /// Starts them, to reach the API server at this address.
    ///
    /// # Errors
    /// When they cannot be started.
    pub fn start(plane: Arc<ControlPlane>, way: SocketAddr) -> Result<Self> {
        let kubeconfig = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "lossy", "cluster": {"server": format!("http://{way}")}}],
            "users": [{"name": "operator", "user": {}}],
            "contexts": [{"name": "lossy", "context": {"cluster": "lossy", "user": "operator"}}],
            "current-context": "lossy",
        })
        .to_string();
        let process = |number: usize| {
            let pod = name(number);
            start(&plane, &pod, &kubeconfig).map(|process| (pod, Some(process)))
        };
        let processes = [process(0)?, process(1)?];
        Ok(Self { plane, kubeconfig, processes, names: 2 })
    }

    /// Kills the leader, or now and then the other, until stopped.
    ///
    /// # Errors
    /// When one does not start again.
    pub async fn kill_now_and_then(mut self, stop: CancellationToken) -> Result<Kills> {
        let mut kills = Kills::default();
        let client = self.plane.client(User::Admin).await?;
        while pause(OPERATOR_EVERY, &stop).await {
            // The kubelet starts a container again that has ended, for instance because it lost its lease.
            for (pod, process) in &mut self.processes {
                if process.as_ref().is_none_or(Kept::has_ended) {
                    kills.ended += 1;
                    drop(process.take());
                    *process = Some(start(&self.plane, pod, &self.kubeconfig)?);
                }
            }
            let leader = holder(&client).await?;
            // While nobody leads, nobody is killed: a candidate takes over after it has watched a dead leader's lease for
            // its whole time, and one that dies meanwhile begins anew.
            let Some(leads) = self.processes.iter().position(|(pod, _)| Some(pod) == leader.as_ref()) else { continue };
            let victim = if rand::random_ratio(4, 5) { leads } else { 1 - leads };
            let fate = rand::random_range(0..20);
            // A container that is started again keeps its pod's name and finds its own lease. A pod that comes instead
            // has another name and waits until the lease runs out, unless it was given back.
            let pod = if fate < 14 {
                kills.restarted += 1;
                self.processes[victim].0.clone()
            } else {
                self.names += 1;
                name(self.names)
            };
            let old = self.processes[victim].1.take();
            if fate < 15 {
                kills.replaced += usize::from(fate == 14);
                // SIGKILL; the next is started when nothing of it runs any more.
                drop(old);
                self.processes[victim] = (pod.clone(), Some(start(&self.plane, &pod, &self.kubeconfig)?));
            } else {
                kills.rolled += 1;
                self.processes[victim] = (pod.clone(), Some(start(&self.plane, &pod, &self.kubeconfig)?));
                if let Some(old) = old {
                    old.signal(Signal::TERM);
                    tokio::task::spawn_blocking(move || old.wait()).await?;
                }
            }
        }
        Ok(kills)
    }
}

fn name(number: usize) -> String {
    format!("buildpools-operator-{number}")
}

fn start(plane: &ControlPlane, pod: &str, kubeconfig: &str) -> Result<Kept> {
    operator::start(plane, pod, kubeconfig, (Ipv4Addr::LOCALHOST, 0).into())
}

async fn lease(client: &Client) -> Result<Option<Lease>> {
    Ok(Api::<Lease>::namespaced(client.clone(), OPERATOR_NAMESPACE).get_opt(OPERATOR).await?)
}

async fn holder(client: &Client) -> Result<Option<String>> {
    Ok(lease(client).await?.and_then(|lease| lease.spec?.holder_identity))
}

/// How often the lease changed hands.
///
/// # Errors
/// When it cannot be read.
pub async fn terms(client: &Client) -> Result<i32> {
    Ok(lease(client).await?.and_then(|lease| lease.spec?.lease_transitions).unwrap_or_default())
}

/// All members with their runners and daemons.
pub struct Fleet {
    plane: Arc<ControlPlane>,
    ledger: Arc<Ledger>,
    counts: Arc<Counts>,
    loss: f64,
    members: Mutex<Vec<Slot>>,
}

struct Slot {
    set: StatefulSet,
    ordinal: i32,
    member: Member,
    place: Place,
    daemon: Daemon,
    way: Lossy,
    runner: Runner,
}

impl Fleet {
    /// Without a member yet.
    pub fn new(plane: Arc<ControlPlane>, ledger: Arc<Ledger>, counts: Arc<Counts>, loss: f64) -> Self {
        Self { plane, ledger, counts, loss, members: Mutex::default() }
    }

    /// Makes the pod of this ordinal and what runs in it.
    ///
    /// # Errors
    /// When the API server refuses the pod.
    pub async fn add(&self, namespace: &str, pool: &str, set: &StatefulSet, ordinal: i32, slots: usize) -> Result<()> {
        let slot = self.slot(namespace, pool, set, ordinal, slots).await?;
        self.members.lock().await.push(slot);
        Ok(())
    }

    async fn slot(&self, namespace: &str, pool: &str, set: &StatefulSet, ordinal: i32, slots: usize) -> Result<Slot> {
        let client = self.plane.client(User::Admin).await?;
        let member = sets::create_pod(&client, set, ordinal).await?;
        let place =
            Place { namespace: namespace.to_owned(), pool: pool.to_owned(), pod_uid: member.uid.clone(), slots };
        let daemon = Daemon::start(place.clone(), self.ledger.clone());
        let client = self.plane.client(User::Runner { namespace, pool, pod: &member }).await?;
        let way = Lossy::new(client, self.loss, self.counts.clone());
        let runner = Runner::start(&member, &place, &daemon, &way)?;
        Ok(Slot { set: set.clone(), ordinal, member, place, daemon, way, runner })
    }

    /// Kills runners, daemons and pods, until stopped.
    ///
    /// # Errors
    /// When one does not come again.
    pub async fn kill_now_and_then(self, stop: CancellationToken) -> Result<Kills> {
        let mut kills = Kills::default();
        let client = self.plane.client(User::Admin).await?;
        while pause(MEMBER_EVERY, &stop).await {
            let mut members = self.members.lock().await;
            let victim = rand::random_range(0..members.len());
            match rand::random_range(0..10) {
                0 => {
                    kills.pods += 1;
                    let Slot { set, ordinal, member, place, daemon, mut runner, .. } = members.swap_remove(victim);
                    // First nothing of it runs any more, then its object goes.
                    runner.kill().await;
                    daemon.die();
                    sets::delete_pod(&client, &place.namespace, &member.pod).await.context("deleting a pod")?;
                    let next = self.slot(&place.namespace, &place.pool, &set, ordinal, place.slots).await?;
                    members.push(next);
                }
                1..=4 => {
                    kills.daemons += 1;
                    let daemon = members[victim].daemon.clone();
                    daemon.die();
                    let away = Duration::from_millis(rand::random_range(DAEMON_AWAY));
                    tokio::spawn(async move {
                        tokio::time::sleep(away).await;
                        daemon.come_up();
                    });
                }
                _ => {
                    kills.runners += 1;
                    let slot = &mut members[victim];
                    slot.runner.kill().await;
                    slot.runner = Runner::start(&slot.member, &slot.place, &slot.daemon, &slot.way)?;
                }
            }
        }
        Ok(kills)
    }
}

/// Waits for a while. Whether to go on.
async fn pause(range: std::ops::Range<u64>, stop: &CancellationToken) -> bool {
    let wait = Duration::from_millis(rand::random_range(range));
    tokio::select! {
        () = stop.cancelled() => false,
        () = tokio::time::sleep(wait) => true,
    }
}
