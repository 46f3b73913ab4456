//! The machinery that a cluster has beside buildpools, for one namespace: StatefulSet controller, kubelet, garbage
//! collector. Level-based like the real ones: they look at what is there, after every change, and do what is missing.

mod pods;
mod runner;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use buildpools_crds::lifecycle::Member;
use kube::Client;
use serde_json::Value;
use tokio::sync::mpsc;

use crate::daemon::{Daemon, Record};
use crate::inject::{Injector, Upstream};
use crate::oracle::log::Log;
use crate::process::Process;
use crate::trace::Trace;

/// Time that a runner gets to finish its builds when its pod is deleted.
const GRACE: Duration = Duration::from_millis(300);

/// Objects that are there, by resource and name.
type Live = BTreeMap<(&'static str, String), Arc<Value>>;

/// What somebody wants of the kubelet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// The runner of this pod died or is to die: its container is started again.
    RestartRunner(String),
    /// The daemon of this pod is killed by the kernel because memory is short, and its container started again.
    KillDaemon(String),
}

/// What the machinery needs.
#[derive(Clone, Debug)]
pub struct Site {
    /// The namespace.
    pub namespace: String,
    /// What happens there.
    pub log: Arc<Log>,
    /// Version at which the run began.
    pub since: Arc<std::sync::atomic::AtomicU64>,
    /// The administrator.
    pub client: Admin,
    /// For the runners.
    pub upstream: Upstream,
    /// For the runners.
    pub injector: Injector,
    /// For the daemons.
    pub record: Record,
    /// For people.
    pub trace: Trace,
}

/// A client with all rights.
#[derive(Clone)]
pub struct Admin(pub Client);

impl std::fmt::Debug for Admin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Admin")
    }
}

/// A pod that runs.
struct Container {
    member: Member,
    pool: String,
    daemon: Daemon,
    runner: Process,
    runner_restarts: i32,
    daemon_restarts: i32,
    /// Status of the daemon's container while and after it was restarted.
    last_state: Option<Value>,
}

/// The machinery. It ends, and with it all pods, when this is dropped.
pub struct Machinery {
    site: Site,
    containers: HashMap<String, Container>,
    orders: mpsc::UnboundedReceiver<Order>,
}

impl Machinery {
    /// For a namespace that is still empty.
    pub fn new(site: Site, orders: mpsc::UnboundedReceiver<Order>) -> Self {
        Self { site, containers: HashMap::new(), orders }
    }

    /// Works until it is dropped.
    pub async fn run(mut self) {
        let mut changes = self.site.log.subscribe();
        loop {
            changes.borrow_and_update();
            if let Err(error) = self.sync().await {
                self.site.trace.line(format!("machinery    {error:#}"));
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
            tokio::select! {
                seen = changes.changed() => if seen.is_err() { return },
                order = self.orders.recv() => match order {
                    Some(order) => self.obey(order).await,
                    None => return,
                },
            }
        }
    }

    /// One look at everything.
    async fn sync(&mut self) -> Result<()> {
        let live = self.site.log.live();
        for ((resource, _), job) in live.iter().filter(|((resource, _), _)| *resource == "buildjobs") {
            debug_assert_eq!(*resource, "buildjobs");
            self.site.record.name(uid(job), name(job));
        }
        self.collect_garbage(&live).await?;
        for set in live.iter().filter(|((resource, _), _)| *resource == "statefulsets").map(|(_, set)| set) {
            self.site.keep_set(set, &live).await?;
        }
        let pods: Vec<&Arc<Value>> =
            live.iter().filter(|((resource, _), _)| *resource == "pods").map(|(_, pod)| pod).collect();
        for pod in &pods {
            self.keep_pod(pod).await?;
        }
        let there: HashSet<&str> = pods.iter().map(|pod| uid(pod)).collect();
        let gone: Vec<String> = self.containers.keys().filter(|uid| !there.contains(uid.as_str())).cloned().collect();
        for uid in gone {
            if let Some(container) = self.containers.remove(&uid) {
                container.daemon.die(false);
                container.runner.kill().await;
            }
        }
        Ok(())
    }

    /// Deletes what belongs to an owner that is not there any more.
    async fn collect_garbage(&self, live: &Live) -> Result<()> {
        let there: HashSet<&str> = live.values().map(|object| uid(object)).collect();
        for ((resource, name), object) in live {
            let owners = object["metadata"]["ownerReferences"].as_array().into_iter().flatten();
            let orphan = owners.clone().count() > 0
                && owners.clone().all(|owner| owner["uid"].as_str().is_none_or(|uid| !there.contains(uid)));
            if orphan && object["metadata"]["deletionTimestamp"].is_null() {
                self.site.delete(resource, name, uid(object), None).await?;
            }
        }
        Ok(())
    }

    async fn keep_pod(&mut self, pod: &Value) -> Result<()> {
        let uid = uid(pod);
        if !pod["metadata"]["deletionTimestamp"].is_null() {
            if let Some(mut container) = self.containers.remove(uid) {
                container.runner.stop();
                let _ = tokio::time::timeout(GRACE, container.runner.wait()).await;
                container.runner.kill().await;
                container.daemon.die(false);
            }
            self.site.report(pod, &pods::ended()).await?;
            return self.site.delete("pods", name(pod), uid, Some(0)).await;
        }
        if !self.containers.contains_key(uid) {
            let member = Member { pod: name(pod).to_owned(), uid: uid.to_owned() };
            let label = |key: &str| pod["metadata"]["labels"][key].as_str().unwrap_or_default().to_owned();
            let pool = label(buildpools_crds::labels::POOL);
            let daemon = Daemon::start(uid, &self.site.record);
            let runner = runner::start(&self.site, &member, &pool, &daemon);
            let container =
                Container { member, pool, daemon, runner, runner_restarts: 0, daemon_restarts: 0, last_state: None };
            self.containers.insert(uid.to_owned(), container);
        }
        if let Some(container) = self.containers.get(uid) {
            let Container { runner_restarts, daemon_restarts, last_state, .. } = container;
            self.site.report(pod, &pods::running(*runner_restarts, *daemon_restarts, last_state.as_ref())).await?;
        }
        Ok(())
    }

    async fn obey(&mut self, order: Order) {
        match order {
            Order::RestartRunner(pod) => {
                let Some(uid) = self.uid_of(&pod) else { return };
                let Some(container) = self.containers.remove(&uid) else { return };
                container.runner.kill().await;
                let runner = runner::start(&self.site, &container.member, &container.pool, &container.daemon);
                let runner_restarts = container.runner_restarts + 1;
                self.containers.insert(uid, Container { runner, runner_restarts, ..container });
            }
            Order::KillDaemon(pod) => {
                let Some(container) = self.uid_of(&pod).and_then(|uid| self.containers.get_mut(&uid)) else { return };
                container.daemon_restarts += 1;
                container.last_state = Some(pods::killed());
                container.daemon.die(true);
                container.daemon.come_up();
            }
        }
    }

    fn uid_of(&self, pod: &str) -> Option<String> {
        self.containers.values().find(|container| container.member.pod == pod).map(|c| c.member.uid.clone())
    }

    /// Runners that ended by themselves, and why.
    pub fn faults(&self) -> Vec<String> {
        self.containers.values().filter_map(|container| container.runner.fault()).collect()
    }
}

/// UID of an object.
pub fn uid(object: &Value) -> &str {
    object["metadata"]["uid"].as_str().unwrap_or_default()
}

/// Name of an object.
pub fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}
