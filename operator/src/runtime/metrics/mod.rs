//! Metrics, as `docs/observability.md` lists them.
//!
//! Label values come from closed lists, but for namespace and name of a pool on the gauges of its queue, its members and
//! its cache; those go with the pool. Nothing is labelled with a job's name.

mod caches;
mod pools;
mod queues;
mod requests;

use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use buildpools_crds::v1alpha1::{BuildJobStatus, FailureReason, JobPhase};
use jiff::Timestamp;
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

pub use self::caches::CacheFigures;
use self::caches::Caches;
pub use self::pools::PoolFigures;
use self::pools::Pools;
use self::queues::Queues;
pub use self::requests::{RequestMetrics, RequestMetricsService};

/// Media type of [`Metrics::text`].
const TEXT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Seconds, 1 ms to 1 h: a slot may be free at once or after hours.
const DISPATCH: [f64; 18] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1., 2.5, 5., 10., 30., 60., 300., 900., 3600.];

/// Seconds of one request. No call of ours takes longer than ten.
const REQUEST: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1., 5., 10.];

/// Seconds of a pass over one pool: up to some ten requests.
const RECONCILE: [f64; 10] = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1., 5., 10., 60.];

/// Seconds of a whole job. Creation times are whole seconds, so finer ones would say nothing.
const JOB: [f64; 12] = [1., 2., 5., 10., 30., 60., 120., 300., 600., 1800., 3600., 14400.];

/// The result of what did not fail.
const SUCCEEDED: &str = "Succeeded";

/// A result that is in no list: something else than buildpools has written it.
const UNKNOWN: &str = "Unknown";

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByResult {
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByDecision {
    decision: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByOutcome {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByKind {
    kind: String,
}

/// Kinds of which a pool's objects are.
const KINDS: [&str; 7] =
    ["ConfigMap", "NetworkPolicy", "PodDisruptionBudget", "RoleBinding", "Service", "ServiceAccount", "StatefulSet"];

type Histograms<Labels> = Family<Labels, Histogram, fn() -> Histogram>;

/// All metrics of the process. A clone is the same metrics.
#[derive(Clone, Debug)]
pub struct Metrics(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    registry: Registry,
    leader: Gauge<i64, AtomicI64>,
    dispatch: Histogram,
    queues: Arc<Queues>,
    pools: Arc<Pools>,
    caches: Arc<Caches>,
    decisions: Family<ByDecision, Counter>,
    conflicts: Counter,
    attempts: Family<ByResult, Counter>,
    queued: Histograms<ByResult>,
    ran: Histograms<ByResult>,
    reconciles: Histograms<ByOutcome>,
    repairs: Family<ByKind, Counter>,
    requests: RequestMetrics,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("buildpools");
        let inner = Inner {
            leader: Gauge::default(),
            dispatch: Histogram::new(DISPATCH),
            queues: Arc::default(),
            pools: Arc::default(),
            caches: Arc::default(),
            decisions: Family::default(),
            conflicts: Counter::default(),
            attempts: Family::default(),
            queued: Family::new_with_constructor(|| Histogram::new(JOB)),
            ran: Family::new_with_constructor(|| Histogram::new(JOB)),
            reconciles: Family::new_with_constructor(|| Histogram::new(RECONCILE)),
            repairs: Family::default(),
            requests: RequestMetrics::default(),
            registry: Registry::default(),
        };
        registry.register("leader", "Whether this replica leads: 1 or 0", inner.leader.clone());
        let seconds = || Unit::Seconds;
        registry.register_with_unit(
            "dispatch_duration",
            "Time from a job's entry into the queue to the acknowledgement of its binding",
            seconds(),
            inner.dispatch.clone(),
        );
        registry.register_collector(Box::new(inner.queues.clone()));
        registry.register_collector(Box::new(inner.pools.clone()));
        registry.register_collector(Box::new(inner.caches.clone()));
        registry.register("decisions", "Decisions of the scheduler by kind and reason", inner.decisions.clone());
        registry.register(
            "bind_conflicts",
            "Bindings that were not made because somebody else had written the job first",
            inner.conflicts.clone(),
        );
        registry.register("attempts", "Attempts of jobs that have ended, by result", inner.attempts.clone());
        registry.register_with_unit(
            "job_queue_duration",
            "Time from a job's creation to the start of its first attempt, by the job's result",
            seconds(),
            inner.queued.clone(),
        );
        registry.register_with_unit(
            "job_run_duration",
            "Time that a job's last attempt took, by the job's result",
            seconds(),
            inner.ran.clone(),
        );
        registry.register_with_unit(
            "pool_reconcile_duration",
            "Time of a pass over one pool, by its outcome",
            seconds(),
            inner.reconciles.clone(),
        );
        registry.register(
            "pool_drift_repaired",
            "Objects of pools that somebody had changed or deleted and that were put right, by kind",
            inner.repairs.clone(),
        );
        inner.requests.register(&mut registry);
        // A series that appears with its first event hides that event from rate().
        for result in FailureReason::ALL.map(FailureReason::as_str).into_iter().chain([SUCCEEDED]) {
            drop(inner.attempts.get_or_create(&ByResult { result }));
        }
        for kind in KINDS {
            drop(inner.repairs.get_or_create(&ByKind { kind: kind.to_owned() }));
        }
        Self(Arc::new(Inner { registry, ..inner }))
    }
}

impl Metrics {
    /// This replica leads, or does not.
    pub fn leader(&self, leads: bool) {
        self.0.leader.set(i64::from(leads));
    }

    /// A binding was acknowledged, so long after the job had entered the queue.
    pub fn bound(&self, waited: Duration) {
        self.0.dispatch.observe(waited.as_secs_f64());
    }

    /// A binding met a newer version of the job.
    pub fn bind_conflict(&self) {
        self.0.conflicts.inc();
    }

    /// The scheduler decided something. Both words are from closed lists.
    pub fn decided(&self, decision: &'static str, reason: &'static str) {
        self.0.decisions.get_or_create(&ByDecision { decision, reason }).inc();
    }

    /// So many jobs wait in the pool's queue, the oldest since then.
    pub fn queue(&self, namespace: &str, pool: &str, waiting: usize, oldest: Option<Timestamp>) {
        self.0.queues.set(namespace, pool, waiting, oldest);
    }

    /// What a pass over a pool has seen; `None` when the pool is gone.
    pub fn pool(&self, namespace: &str, pool: &str, figures: Option<PoolFigures>) {
        match figures {
            Some(figures) => self.0.pools.set(namespace, pool, figures),
            None => self.0.pools.forget(namespace, pool),
        }
    }

    /// What the pool's members report of their caches.
    pub fn cache(&self, namespace: &str, pool: &str, figures: CacheFigures) {
        self.0.caches.set(namespace, pool, figures);
    }

    /// The pool is gone, or none of its members reports.
    pub fn forget_cache(&self, namespace: &str, pool: &str) {
        self.0.caches.forget(namespace, pool);
    }

    /// The pool's queue is gone.
    pub fn forget_pool(&self, namespace: &str, pool: &str) {
        self.0.queues.forget(namespace, pool);
    }

    /// A job has ended. To be told once of each, and not of those that had ended before this process began to look.
    pub fn job_ended(&self, created: Timestamp, status: &BuildJobStatus) {
        for attempt in &status.attempts {
            let result = attempt.result.as_deref().map_or(UNKNOWN, known_result);
            self.0.attempts.get_or_create(&ByResult { result }).inc();
        }
        let result = match (status.phase, &status.failure) {
            (JobPhase::Succeeded, _) => SUCCEEDED,
            (_, Some(failure)) => failure.reason.as_str(),
            _ => UNKNOWN,
        };
        let ended = status.timing.finished_at.as_ref().map(|time| time.0);
        let first = status.attempts.first().map(|attempt| attempt.started_at.0);
        if let Some(waited) = first.or(ended).and_then(|until| between(created, until)) {
            self.0.queued.get_or_create(&ByResult { result }).observe(waited);
        }
        let last = status.attempts.last();
        let ran = last.and_then(|last| between(last.started_at.0, last.finished_at.as_ref().map(|time| time.0)?));
        if let Some(ran) = ran {
            self.0.ran.get_or_create(&ByResult { result }).observe(ran);
        }
    }

    /// A pass over a pool has ended. The outcome is a word from a closed list.
    pub fn reconciled(&self, outcome: &'static str, took: Duration) {
        self.0.reconciles.get_or_create(&ByOutcome { outcome }).observe(took.as_secs_f64());
    }

    /// An object of a pool was put right that somebody had changed or deleted. Kinds are a closed list.
    pub fn repaired(&self, kind: &str) {
        self.0.repairs.get_or_create(&ByKind { kind: kind.to_owned() }).inc();
    }

    /// Counts the requests of the client that it is put into.
    pub fn requests(&self) -> RequestMetrics {
        self.0.requests.clone()
    }

    /// All of it, in the text format of OpenMetrics, which Prometheus reads.
    ///
    /// # Errors
    /// When a metric cannot be written down.
    pub fn text(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        text::encode(&mut text, &self.0.registry)?;
        Ok(text)
    }
}

/// The word of the closed list. A status is written by runners, so that its text is not trusted to be from the list.
fn known_result(text: &str) -> &'static str {
    let failure = FailureReason::ALL.map(FailureReason::as_str).into_iter().find(|reason| *reason == text);
    failure.unwrap_or(if text == SUCCEEDED { SUCCEEDED } else { UNKNOWN })
}

/// Seconds, `None` if they are negative: clocks differ.
fn between(from: Timestamp, to: Timestamp) -> Option<f64> {
    Duration::try_from(to.duration_since(from)).ok().map(|duration| duration.as_secs_f64())
}

/// The page `/metrics`.
pub fn router(metrics: Metrics) -> Router {
    let page = async |State(metrics): State<Metrics>| match metrics.text() {
        Ok(text) => Ok(([(CONTENT_TYPE, TEXT)], text)),
        Err(error) => Err((StatusCode::INTERNAL_SERVER_ERROR, error.to_string())),
    };
    Router::new().route("/metrics", get(page)).with_state(metrics)
}

#[cfg(test)]
mod tests;
