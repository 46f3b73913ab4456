//! Pools: makes each BuildPool's objects and says in its status how it fares.
//!
//! A reconcile is five steps: [`dereference`] reads, [`validate`] and [`build`] think, [`apply`] and [`status`] write.
//! Nothing is branched on why it runs, and running it again changes nothing.

pub mod apply;
pub mod build;
pub mod dereference;
pub mod members;
pub mod network;
pub mod problem;
pub mod reasons;
pub mod status;
pub mod validate;
mod watch;

use std::sync::Arc;
use std::time::{Duration, Instant};

use buildpools_crds::conditions;
use buildpools_crds::v1alpha1::BuildPoolStatus;
use futures::{FutureExt as _, StreamExt as _};
use jiff::Timestamp;
use kube::runtime::applier;
use kube::runtime::controller::{self, Action};
use kube::{Client, ResourceExt as _};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, debug, error, info, info_span, warn};

use self::apply::ApplyError;
use self::watch::PoolMeta;
use crate::kube_ext::backoff::{Backoff, Limits};
use crate::runtime::metrics::Metrics;

/// Pools that are looked at at the same time.
const CONCURRENCY: u16 = 4;

/// Delays after errors of one pool.
const ERRORS: Limits = Limits { first: Duration::from_millis(500), most: Duration::from_mins(5) };

/// When a pool at rest is looked at again, in case a watch missed something. Not the same for all.
const RESYNC: Duration = Duration::from_hours(1);

/// Limits of the time after which a pool that is not ready is looked at again. What it waits for may be something that
/// is not watched: a ConfigMap of the user's, somebody else's object, an event.
const WAIT: Limits = Limits { first: Duration::from_secs(2), most: Duration::from_secs(30) };

/// Defaults of every pool.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Image of the runner.
    pub runner_image: String,
    /// Image of buildkitd for profile Rootless, where a pool names none.
    pub buildkit_image: String,
    /// What members need of the network, whatever their pool says.
    pub network: network::ClusterNetwork,
    /// Image of buildkitd for profile UserNamespace, where a pool names none.
    pub buildkit_user_namespace_image: String,
}

/// A reconcile that is to be tried again.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// Step 1.
    #[error(transparent)]
    Dereference(#[from] dereference::DereferenceError),
    /// Step 3.
    #[error(transparent)]
    Build(#[from] build::BuildError),
    /// Step 4.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// Step 5.
    #[error(transparent)]
    Status(#[from] status::StatusError),
}

impl PoolError {
    /// A word for logs and metrics.
    pub fn category(&self) -> &'static str {
        match self {
            Self::Dereference(error) => error.category(),
            Self::Build(error) => error.category(),
            Self::Apply(error) => error.category(),
            Self::Status(error) => error.category(),
        }
    }
}

/// How a reconcile ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The pool is gone or going: the garbage collector does the rest.
    Gone,
    /// Nothing is left to do.
    Ready,
    /// The pool waits for something, as its status says. To be looked at again after this time at the latest.
    NotYet(Duration),
}

impl Progress {
    /// A word for metrics.
    fn as_str(&self) -> &'static str {
        match self {
            Self::Gone => "Gone",
            Self::Ready => "Ready",
            Self::NotYet(_) => "NotYet",
        }
    }
}

/// Runs until stopped. A reconcile that has begun is finished.
///
/// # Errors
/// When watching ends without having been stopped.
pub async fn run(client: Client, settings: Settings, metrics: Metrics, stop: CancellationToken) -> anyhow::Result<()> {
    let (store, triggers) = watch::watch(&client);
    let context = Arc::new(Context { client, settings, metrics, errors: Backoff::new(ERRORS) });
    let config = controller::Config::default().concurrency(CONCURRENCY);
    let triggers = triggers.take_until(stop.clone().cancelled_owned());
    let passes = applier(
        |pool: Arc<PoolMeta>, context: Arc<Context>| Box::pin(pass(pool, context)),
        |pool, error, context| context.after_error(&pool, error),
        context.clone(),
        store.clone(),
        triggers,
        config,
    );
    let passes = passes.for_each(|result| {
        context.report(result);
        std::future::ready(())
    });
    // Before the pools are listed no pass begins, and the applier, which waits for the list, would never end.
    let stopped_before = async {
        stop.cancelled().await;
        if store.wait_until_ready().now_or_never().is_some() {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        () = passes => {}
        () = stopped_before => {}
    }
    anyhow::ensure!(stop.is_cancelled(), "the watches of the pools have ended");
    Ok(())
}

struct Context {
    client: Client,
    settings: Settings,
    metrics: Metrics,
    errors: Backoff<(String, String)>,
}

impl Context {
    fn after_error(&self, pool: &PoolMeta, _: &PoolError) -> Action {
        Action::requeue(self.errors.failed(key(pool), rand::random()))
    }

    fn report<Queue: std::fmt::Display + 'static>(
        &self,
        result: Result<(impl Sized, Action), controller::Error<PoolError, Queue>>,
    ) {
        match result {
            // Failures of passes were logged where they happened.
            Ok(_) | Err(controller::Error::ReconcilerFailed(..)) => {}
            // An object outlived its pool for a moment.
            Err(controller::Error::ObjectNotFound(pool)) => {
                self.errors.reset(&(pool.namespace.clone().unwrap_or_default(), pool.name.clone()));
            }
            Err(controller::Error::QueueError(cause)) => warn!("watching is interrupted: {cause}"),
            Err(controller::Error::RunnerError(cause)) => error!("pools are not looked at any more: {cause}"),
        }
    }
}

fn key(pool: &PoolMeta) -> (String, String) {
    (pool.namespace().unwrap_or_default(), pool.name_any())
}

async fn pass(pool: Arc<PoolMeta>, context: Arc<Context>) -> Result<Action, PoolError> {
    let (namespace, name) = key(&pool);
    let span = info_span!("pool", namespace, name, generation = pool.metadata.generation);
    let work = Box::pin(reconcile(&context.client, &context.settings, &namespace, &name, Timestamp::now()));
    async {
        let begun = Instant::now();
        let done = work.await;
        let outcome = done.as_ref().map_or_else(PoolError::category, Progress::as_str);
        context.metrics.reconciled(outcome, begun.elapsed());
        match done {
            Ok(progress) => {
                context.errors.reset(&key(&pool));
                Ok(match progress {
                    Progress::Gone => Action::await_change(),
                    Progress::Ready => Action::requeue(jittered(RESYNC)),
                    Progress::NotYet(after) => Action::requeue(jittered(after)),
                })
            }
            Err(error) => {
                let category = error.category();
                if category == "Conflict" {
                    debug!(category, "{error}");
                } else {
                    warn!(category, "{error}");
                }
                Err(error)
            }
        }
    }
    .instrument(span)
    .await
}

/// Two thirds to all of it.
fn jittered(delay: Duration) -> Duration {
    delay.mul_f64(1.0 - rand::random::<f64>() / 3.0)
}

/// One pass over one pool.
///
/// # Errors
/// When a call fails in a way that trying again may mend.
pub async fn reconcile(
    client: &Client,
    settings: &Settings,
    namespace: &str,
    name: &str,
    now: Timestamp,
) -> Result<Progress, PoolError> {
    let Some(observed) = Box::pin(dereference::dereference(client, namespace, name)).await? else {
        return Ok(Progress::Gone);
    };
    let objects = match validate::validate(&observed, settings) {
        Ok(valid) => {
            let objects = build::build(&valid)?;
            match Box::pin(apply::apply(client, &valid, objects, observed.live.clone())).await {
                Ok(set) => Ok(set),
                Err(ApplyError::Problem(problem)) => Err(vec![problem]),
                Err(error) if apply::is_namespace_terminating(&error) => return Ok(Progress::Gone),
                Err(error) => return Err(error.into()),
            }
        }
        Err(problems) => Err(problems),
    };
    let next = status::compute(&observed, objects.as_ref().map_err(Vec::as_slice), now);
    match status::write(client, &observed.pool, &next).await {
        Err(status::StatusError::Call(error)) if error.is_not_found() => return Ok(Progress::Gone),
        written => written?,
    }
    Ok(progress(&observed.pool.status.unwrap_or_default(), &next, now))
}

fn progress(before: &BuildPoolStatus, next: &BuildPoolStatus, now: Timestamp) -> Progress {
    let Some(ready) = conditions::find(&next.conditions, conditions::READY) else {
        return Progress::NotYet(WAIT.first);
    };
    let known = conditions::find(&before.conditions, conditions::READY);
    if known.is_none_or(|known| (&known.status, &known.reason) != (&ready.status, &ready.reason)) {
        info!(ready = ready.status, reason = ready.reason, "{}", ready.message);
    }
    if ready.status == "True" {
        return Progress::Ready;
    }
    // The longer it has waited, the rarer.
    let waited = Duration::try_from(now.duration_since(ready.last_transition_time.0)).unwrap_or_default();
    Progress::NotYet((waited / 2).clamp(WAIT.first, WAIT.most))
}
