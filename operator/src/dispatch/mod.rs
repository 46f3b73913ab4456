//! Jobs: gives waiting BuildJobs to members of their pools.
//!
//! ```text
//!  watches ──▶ world ──▶ schedule ──▶ write ──▶ API server
//!                ▲        (pure)        │
//!                └── answers to writes ─┘
//! ```
//!
//! One task owns the [`world`]. It wakes with every event, decides about the pools that the event touches, and starts
//! the writes; from the creation of a job to its binding there is one hop of a watch and one write. Nothing is polled:
//! the one timer runs to the next moment at which time alone changes a decision.

pub mod cache_key;
pub mod events;
pub mod explain;
pub mod job;
pub mod nodes;
pub mod past;
pub mod routing;
pub mod schedule;
pub mod view;
pub mod world;
pub mod write;

#[cfg(test)]
mod dice;

use std::time::Duration;

use buildpools_crds::v1alpha1::{BuildJob, BuildPool};
use buildpools_crds::{labels, watch};
use futures::stream::{BoxStream, FuturesUnordered, Stream, StreamExt as _};
use futures::{FutureExt as _, future};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::core::DeserializeGuard;
use kube::runtime::watcher;
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use self::events::Announcer;
use self::explain::{Explainer, Question};
use self::job::Job;
use self::nodes::Standing;
use self::past::Past;
use self::schedule::{Action, Decision};
use self::view::{Member, Pool};
use self::world::{Seen, Settled, World};
use self::write::Writer;
use crate::kube_ext::listing::Change;
use crate::runtime::metrics::Metrics;
use crate::runtime::readiness::Gate;

/// Events that are taken in before decisions are made. More would delay the first of a burst.
const BURST: usize = 256;

/// Jobs that have not ended: those that have may be many, and nothing is decided about them.
const UNFINISHED: &str = "status.phase!=Succeeded,status.phase!=Failed,status.phase!=Cancelled";

/// Objects in one page of a list. A page is in memory as a whole, in the API server's words too, and a process keeps the
/// memory that it once needed. Pods and nodes are large.
const PAGE: u32 = 50;

/// Time that writes under way get when the dispatcher is stopped.
const DRAIN: Duration = Duration::from_secs(5);

/// Settings of the dispatcher.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Name of this process in events.
    pub instance: String,
    /// Where the dispatcher can be asked why jobs wait.
    pub explainer: Explainer,
    /// Where it is told of builds of the past.
    pub past: Past,
    /// Where it counts what it does.
    pub metrics: Metrics,
}

/// Runs until stopped, then finishes the writes that are under way.
///
/// # Errors
/// When a watch ends without having been stopped.
pub async fn run(client: Client, settings: Settings, gate: Gate, stop: CancellationToken) -> anyhow::Result<()> {
    let writer = Writer::new(client.clone(), Announcer::new(client.clone(), settings.instance));
    let questions = settings.explainer.attach();
    let seen = futures::stream::select(watch(&client), settings.past.attach());
    Dispatcher::new(writer, settings.metrics).run(seen, questions, gate, stop).await
}

struct Dispatcher {
    world: World,
    writer: Writer,
    metrics: Metrics,
    writes: FuturesUnordered<future::BoxFuture<'static, (Job, Settled)>>,
}

impl Dispatcher {
    fn new(writer: Writer, metrics: Metrics) -> Self {
        Self { world: World::default(), writer, metrics, writes: FuturesUnordered::new() }
    }

    async fn run(
        mut self,
        mut watches: impl Stream<Item = Seen> + Unpin,
        mut questions: mpsc::Receiver<Question>,
        gate: Gate,
        stop: CancellationToken,
    ) -> anyhow::Result<()> {
        loop {
            let look = self.world.next_look();
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some((job, settled)) = self.writes.next() => self.world.settle(&job, settled, Timestamp::now()),
                seen = watches.next() => {
                    let Some(seen) = seen else { anyhow::bail!("the watches of the dispatcher have ended") };
                    self.world.see(seen, Timestamp::now());
                }
                () = until(look) => {}
                // Last, so that nobody who asks keeps a job waiting.
                Some(question) = questions.recv() => {
                    question.answer(self.world.explain(Timestamp::now()));
                    continue;
                }
            }
            self.take_in_what_is_there(&mut watches);
            if self.world.is_synced() && gate.open() {
                info!("all jobs, pools, members and nodes are known");
            }
            self.decide(Timestamp::now());
        }
        self.drain().await;
        Ok(())
    }

    /// Events that came together are decided about together.
    fn take_in_what_is_there(&mut self, watches: &mut (impl Stream<Item = Seen> + Unpin)) {
        for _ in 0..BURST {
            match watches.next().now_or_never() {
                Some(Some(seen)) => self.world.see(seen, Timestamp::now()),
                _ => break,
            }
        }
        while let Some(Some((job, settled))) = self.writes.next().now_or_never() {
            self.world.settle(&job, settled, Timestamp::now());
        }
    }

    fn decide(&mut self, now: Timestamp) {
        for pool in self.world.due(now) {
            for decision in self.world.plan(&pool, now).decisions {
                self.metrics.decided(decision.action.name(), decision.reason);
                let entered = self.world.entered(&decision.job);
                self.world.begin(&decision, now);
                self.start(decision, entered);
            }
            match self.world.queue(&pool) {
                _ if pool.1.is_empty() => {}
                Some((waiting, oldest)) => self.metrics.queue(&pool.0, &pool.1, waiting, oldest),
                None => self.metrics.forget_pool(&pool.0, &pool.1),
            }
        }
    }

    fn start(&mut self, decision: Decision, entered: Timestamp) {
        let (writer, metrics) = (self.writer.clone(), self.metrics.clone());
        // A task of its own: a write goes on while the loop decides about others.
        let task = tokio::spawn(async move {
            let settled = writer.write(&decision).await;
            if let Action::Bind { .. } = decision.action {
                count(&settled, entered, &metrics);
            }
            (settled, decision.job)
        });
        self.writes.push(
            async move {
                match task.await {
                    Ok((settled, job)) => (job, settled),
                    // The task is not aborted, so it has panicked: what it did is unknown, and so is the state.
                    Err(error) => std::panic::resume_unwind(error.into_panic()),
                }
            }
            .boxed(),
        );
    }

    async fn drain(mut self) {
        self.writer.close();
        let pending = self.writes.len();
        let rest = async { while self.writes.next().await.is_some() {} };
        if tokio::time::timeout(DRAIN, rest).await.is_err() {
            warn!(pending, "stopped before all writes were answered");
        }
    }
}

/// Counts a binding.
fn count(settled: &Settled, entered: Timestamp, metrics: &Metrics) {
    match settled {
        Settled::Now(job) if job.status.assigned_to.is_some() => {
            metrics.bound(Timestamp::now().duration_since(entered).try_into().unwrap_or_default());
        }
        Settled::Conflict => metrics.bind_conflict(),
        _ => {}
    }
}

/// Waits until this time; for ever without one.
pub(crate) async fn until(time: Option<Timestamp>) {
    match time {
        Some(time) => {
            let wait = time.duration_since(Timestamp::now());
            tokio::time::sleep(wait.try_into().unwrap_or_default()).await;
        }
        None => future::pending().await,
    }
}

/// The watches. Jobs that have ended are not among what is watched.
fn watch(client: &Client) -> BoxStream<'static, Seen> {
    let listed = || watcher::Config::default().page_size(PAGE);
    let jobs = listed().fields(UNFINISHED);
    let members = format!("{},{}={}", labels::POOL, labels::COMPONENT, labels::COMPONENT_MEMBER);
    let members = listed().labels(&members);
    futures::stream::select_all([
        guarded::<BuildJob, _, _>(client, jobs, |event| {
            Seen::Job(Change::of(event, |job| Box::new(Job::of(job)), |job| Box::new(Job::of(job))))
        }),
        guarded::<BuildPool, _, _>(client, listed(), |event| {
            Seen::Pool(Change::of(event, |pool| Pool::of(&pool), |pool| Pool::of(&pool)))
        }),
        guarded::<Pod, _, _>(client, members, |event| {
            Seen::Pod(Change::of(event, |pod| Member::of(&pod), |pod| Member::last_of(&pod)))
        }),
        guarded::<Node, _, _>(client, listed(), |event| {
            Seen::Node(Change::of(event, |node| Standing::of(&node), |node| Standing::of(&node)))
        }),
    ])
    .boxed()
}

/// A watch that goes on whatever happens: one object that cannot be read does not stop it.
pub(crate) fn guarded<K, T, F>(client: &Client, config: watcher::Config, mut map: F) -> BoxStream<'static, T>
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned + Send + Sync + 'static,
    T: Send + 'static,
    F: FnMut(watcher::Event<DeserializeGuard<K>>) -> T + Send + 'static,
{
    watch::watch(Api::<DeserializeGuard<K>>::all(client.clone()), config)
        .filter_map(move |event| {
            future::ready(match event {
                Ok(event) => Some(map(event)),
                Err(error) => {
                    warn!(kind = %K::kind(&()), %error, "a watch failed and is begun again");
                    None
                }
            })
        })
        .boxed()
}
