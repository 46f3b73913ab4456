//! One run: a namespace with the real operator, real runners, and the machinery of a cluster around them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use buildpools_operator::runtime::finished::Told;
use buildpools_operator::runtime::metrics::Metrics;
use buildpools_operator::runtime::readiness::Readiness;
use buildpools_operator::{dispatch, history, pool};
use kube::Client;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::control_plane::{OPERATOR, OPERATOR_NAMESPACE};
use crate::daemon::{Record, Script};
use crate::inject::{Door, Fault, Identity, Injector, Part, Point, Upstream};
use crate::lock;
use crate::members::{Admin, Machinery, Order, Site};
use crate::oracle::log::{Log, Observer};
use crate::oracle::state::{self, State};
use crate::process::Process;
use crate::trace::Trace;

/// How long nothing must be written for a run to be at rest. Longer than the time after which a pool that is not ready
/// is looked at again.
pub const QUIET: Duration = Duration::from_millis(2500);

/// How long nothing must be written for the stage to be set.
const SET: Duration = Duration::from_millis(300);

/// How often a condition is looked at when nothing is written.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What all runs share.
#[derive(Clone, Debug)]
pub struct Shared {
    /// The administrator.
    pub client: Admin,
    /// For the programs.
    pub upstream: Upstream,
    /// For the oracles.
    pub observer: Observer,
    /// How long a run may take until it is at rest.
    pub patience: Duration,
}

/// One run.
pub struct World {
    site: Site,
    orders: mpsc::UnboundedSender<Order>,
    operator: Arc<std::sync::Mutex<Option<Process>>>,
    shared: Shared,
    tasks: Vec<JoinHandle<()>>,
    deadline: Instant,
}

impl World {
    /// An empty namespace of this name, the operator in it.
    ///
    /// # Errors
    /// When the namespace cannot be made.
    pub async fn start(shared: &Shared, namespace: &str, script: Script, plan: Option<(Point, Fault)>) -> Result<Self> {
        let log = shared.observer.log(namespace);
        let trace = Trace::default();
        let (crashes, dead) = mpsc::unbounded_channel();
        let (orders, ordered) = mpsc::unbounded_channel();
        let site = Site {
            namespace: namespace.to_owned(),
            log,
            since: Arc::new(AtomicU64::new(0)),
            client: shared.client.clone(),
            upstream: shared.upstream.clone(),
            injector: Injector::new(plan, trace.clone(), crashes),
            record: Record::new(script),
            trace,
        };
        create_namespace(&shared.client.0, namespace).await?;
        let operator = Arc::new(std::sync::Mutex::new(Some(start_operator(&site))));
        let tasks = vec![
            tokio::spawn(Machinery::new(site.clone(), ordered).run()),
            tokio::spawn(restart(site.clone(), dead, orders.clone(), operator.clone())),
        ];
        let deadline = Instant::now() + shared.patience;
        Ok(Self { site, orders, operator, shared: shared.clone(), tasks, deadline })
    }

    /// What the run consists of.
    pub fn site(&self) -> &Site {
        &self.site
    }

    /// From now on points are counted. The time that is left begins anew.
    pub fn arm(&mut self) {
        self.site.since.store(self.site.log.version(), Ordering::SeqCst);
        self.site.injector.arm();
        self.deadline = Instant::now() + self.shared.patience;
    }

    /// Tells the kubelet something.
    pub fn order(&self, order: Order) {
        // The machinery lives as long as the run.
        let _ = self.orders.send(order);
    }

    /// Waits until the objects are as they should be.
    ///
    /// # Errors
    /// When they are not in time.
    pub async fn until(&self, what: &str, mut condition: impl FnMut(&Log) -> bool) -> Result<()> {
        let mut changes = self.site.log.subscribe();
        loop {
            changes.borrow_and_update();
            if condition(&self.site.log) {
                return Ok(());
            }
            if Instant::now() >= self.deadline {
                bail!("O4: in vain until {what}");
            }
            // What the daemons do is in no log.
            let _ = tokio::time::timeout(LOOK_EVERY, changes.changed()).await;
        }
    }

    /// Waits until a job is in one of these phases.
    ///
    /// # Errors
    /// When it is not in time.
    pub async fn phase(&self, job: &str, phases: &[&str]) -> Result<()> {
        self.until(&format!("job {job} is {phases:?}"), |log| {
            let job = log.get("buildjobs", job);
            job.is_some_and(|job| job["status"]["phase"].as_str().is_some_and(|phase| phases.contains(&phase)))
        })
        .await
    }

    /// Waits until the stage is set and points can be counted.
    ///
    /// # Errors
    /// When writes go on.
    pub async fn set(&self) -> Result<()> {
        let why = self.wait(SET, None, false).await;
        anyhow::ensure!(why.is_empty(), "{why:#?}");
        Ok(())
    }

    /// Waits until nothing is written for [`QUIET`], and until the state is this one, if it is known. What is still
    /// wrong when that does not come in time.
    pub async fn rest(&self, reference: Option<&State>, lossy: bool) -> Vec<String> {
        self.wait(QUIET, reference, lossy).await
    }

    async fn wait(&self, needed: Duration, reference: Option<&State>, lossy: bool) -> Vec<String> {
        loop {
            let last = [self.site.log.last_change(), self.site.injector.last_write(), self.site.injector.fired()];
            let quiet = last.iter().flatten().max().map_or(needed, Instant::elapsed);
            if quiet >= needed || Instant::now() >= self.deadline {
                let mut why =
                    reference.map(|reference| state::differences(&self.state(lossy), reference)).unwrap_or_default();
                if why.is_empty() && quiet < needed {
                    why.push(format!("O4: writes go on: the last {} ms ago", quiet.as_millis()));
                }
                if why.is_empty() || Instant::now() >= self.deadline {
                    return why;
                }
            }
            tokio::time::sleep(needed.saturating_sub(quiet).max(Duration::from_millis(100))).await;
        }
    }

    /// How things stand.
    pub fn state(&self, lossy: bool) -> State {
        let live = self.site.log.live();
        let live = live.iter().map(|((resource, name), object)| ((*resource, name.as_str()), object));
        state::state(live, &self.site.namespace, lossy)
    }

    /// Ends everything. Returns what ended by itself before.
    pub async fn end(self) -> Vec<String> {
        let mut faults = Vec::new();
        for task in &self.tasks {
            task.abort();
        }
        let operator = lock(&self.operator).take();
        if let Some(operator) = operator {
            faults.extend(operator.fault());
            operator.kill().await;
        }
        for task in self.tasks {
            let _ = task.await;
        }
        self.shared.observer.forget(&self.site.namespace);
        faults
    }
}

/// A namespace and the node on which its pods run.
async fn create_namespace(client: &Client, name: &str) -> Result<()> {
    for (path, kind, status) in
        [("/api/v1/namespaces", "Namespace", json!({})), ("/api/v1/nodes", "Node", ready_node())]
    {
        let object = json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name}, "status": status});
        let request = http::Request::post(path).header("content-type", "application/json");
        let _: Value = client.request(request.body(object.to_string().into_bytes())?).await?;
    }
    Ok(())
}

fn ready_node() -> Value {
    json!({"conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}]})
}

fn start_operator(site: &Site) -> Process {
    let dead = Arc::new(AtomicBool::new(false));
    let door = Door {
        part: Part::Operator,
        identity: Identity::service_account(OPERATOR_NAMESPACE, OPERATOR),
        namespace: site.namespace.clone(),
        log: site.log.clone(),
        since: site.since.load(Ordering::SeqCst),
        injector: site.injector.clone(),
        upstream: site.upstream.clone(),
        dead: dead.clone(),
    };
    Process::start("operator", &site.trace, dead, |stop| operator(door, stop))
}

/// All of the operator's work, as its process runs them once it leads.
async fn operator(door: Door, stop: CancellationToken) -> Result<()> {
    let client = door.client();
    let pools = pool::Settings {
        runner_image: "runner:v0".to_owned(),
        buildkit_image: "buildkit:v0".to_owned(),
        network: pool::network::ClusterNetwork::default(),
        buildkit_user_namespace_image: "buildkit:v0-plain".to_owned(),
        metrics: Metrics::default(),
    };
    let metrics = Metrics::default();
    let jobs = dispatch::Settings {
        instance: "operator-0".to_owned(),
        metrics: metrics.clone(),
        ..dispatch::Settings::default()
    };
    let gate = Readiness::default().gate("caches", "not yet");
    let told = Arc::new(Told { past: jobs.past.clone(), metrics: metrics.clone() });
    tokio::try_join!(
        pool::run(client.clone(), pools, metrics, stop.clone()),
        dispatch::run(client.clone(), jobs, gate.clone(), stop.clone()),
        history::run(client, told, gate, stop),
    )?;
    Ok(())
}

/// Starts again what has died.
async fn restart(
    site: Site,
    mut dead: mpsc::UnboundedReceiver<Part>,
    orders: mpsc::UnboundedSender<Order>,
    operator: Arc<std::sync::Mutex<Option<Process>>>,
) {
    while let Some(part) = dead.recv().await {
        match part {
            Part::Operator => {
                let last = lock(&operator).take();
                if let Some(last) = last {
                    last.kill().await;
                    let again = start_operator(&site);
                    *lock(&operator) = Some(again);
                }
            }
            Part::Runner(pod) => {
                let _ = orders.send(Order::RestartRunner(pod));
            }
        }
    }
}
