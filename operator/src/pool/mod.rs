//! Pools: makes each BuildPool's objects and says in its status how it fares.
//!
//! A reconcile is five steps: [`dereference`] reads, [`validate`] and [`build`] think, [`apply`] and [`status`] write.
//! Nothing is branched on why it runs, and running it again changes nothing. What a status says is told by pure functions,
//! one for each condition: [`roster`], [`upgrade`], [`credentials`], [`buildkit`]. A pool that is being deleted goes
//! another way: [`deletion`].

pub mod apply;
pub mod build;
pub mod buildkit;
mod busy;
pub mod cache;
pub mod credentials;
pub mod deletion;
pub mod dereference;
pub mod events;
pub mod members;
pub mod network;
pub mod preflight;
pub mod problem;
pub mod reasons;
pub mod roster;
pub mod status;
pub mod upgrade;
pub mod validate;
mod watch;

use std::sync::Arc;
use std::time::{Duration, Instant};

use buildpools_crds::conditions;
use buildpools_crds::v1alpha1::{BuildPool, BuildPoolStatus};
use futures::stream::select;
use futures::{FutureExt as _, StreamExt as _};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, Preconditions};
use kube::core::DeserializeGuard;
use kube::runtime::applier;
use kube::runtime::controller::{self, Action};
use kube::{Client, Resource as _, ResourceExt as _};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, debug, error, info, info_span, warn};

use self::apply::{ApplyError, Before};
use self::cache::{claims, reports};
use self::deletion::Departure;
use self::dereference::{Found, Observed};
use self::events::{Announcer, News};
use self::watch::PoolMeta;
use crate::kube_ext::backoff::{Backoff, Limits};
use crate::kube_ext::call::{CallError, call};
use crate::runtime::metrics::{Metrics, PoolFigures};

/// Pools that are looked at at the same time.
const CONCURRENCY: u16 = 4;

/// Delays after errors of one pool.
const ERRORS: Limits = Limits { first: Duration::from_millis(500), most: Duration::from_mins(5) };

/// When a pool at rest is looked at again, in case a watch missed something. Not the same for all.
const RESYNC: Duration = Duration::from_hours(1);

/// Limits of the time after which a pool that is not ready is looked at again. What it waits for may be something that
/// is not watched: a ConfigMap of the user's, somebody else's object, an event.
/// How often it is looked whether a StorageClass lets volumes grow by now.
const CLASS_LOOK: Duration = Duration::from_mins(5);
const WAIT: Limits = Limits { first: Duration::from_secs(2), most: Duration::from_secs(30) };

/// When a pool is looked at again that waits for its builds to end in order to go.
const DELETION_LOOK: Duration = Duration::from_secs(5);

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
    /// Where repaired drift is counted.
    pub metrics: Metrics,
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
    /// The finalizer, and what must be done before it goes.
    #[error(transparent)]
    Deletion(#[from] deletion::DeletionError),
    /// A member that is to be replaced could not be deleted.
    #[error("cannot delete pod {pod}: {source}")]
    Replace {
        /// Name of the pod.
        pod: String,
        /// Why not.
        source: CallError,
    },
}

impl PoolError {
    /// A word for logs and metrics.
    pub fn category(&self) -> &'static str {
        match self {
            Self::Dereference(error) => error.category(),
            Self::Build(error) => error.category(),
            Self::Apply(error) => error.category(),
            Self::Status(error) => error.category(),
            Self::Deletion(error) => error.category(),
            Self::Replace { source, .. } => source.category(),
        }
    }
}

/// How a reconcile ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The pool is gone, or nothing of ours holds it: the garbage collector does the rest.
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
    let triggers = select(triggers, reports::watch(&client, metrics.clone())).boxed();
    let settings = Settings { metrics: metrics.clone(), ..settings };
    let announcer = Announcer::new(client.clone());
    let context = Arc::new(Context { client, settings, metrics, announcer, errors: Backoff::new(ERRORS) });
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
    announcer: Announcer,
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
                let key = (pool.namespace.clone().unwrap_or_default(), pool.name.clone());
                self.metrics.pool(&key.0, &key.1, None);
                self.errors.reset(&key);
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
    let work = Box::pin(visit(&context.client, &context.settings, &namespace, &name, Timestamp::now()));
    async {
        let begun = Instant::now();
        let done = work.await;
        let outcome = done.as_ref().map_or_else(PoolError::category, |visit| visit.progress.as_str());
        context.metrics.reconciled(outcome, begun.elapsed());
        match done {
            Ok(visit) => {
                context.errors.reset(&key(&pool));
                context.metrics.pool(&namespace, &name, visit.figures);
                context.announcer.announce(&pool.object_ref(&()), visit.news);
                Ok(match visit.progress {
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

/// What a pass over one pool has led to.
#[derive(Clone, Debug, PartialEq)]
pub struct Visit {
    /// How it ended.
    pub progress: Progress,
    /// What people should be told of.
    pub news: Vec<News>,
    /// What is counted; `None` when the pool is gone.
    pub figures: Option<PoolFigures>,
}

impl Visit {
    fn gone() -> Self {
        Self { progress: Progress::Gone, news: Vec::new(), figures: None }
    }
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
    Ok(visit(client, settings, namespace, name, now).await?.progress)
}

/// The same, and what is to be told of it.
///
/// # Errors
/// When a call fails in a way that trying again may mend.
pub async fn visit(
    client: &Client,
    settings: &Settings,
    namespace: &str,
    name: &str,
    now: Timestamp,
) -> Result<Visit, PoolError> {
    let mut observed = match Box::pin(dereference::dereference(client, namespace, name)).await? {
        Found::Gone => return Ok(Visit::gone()),
        Found::Leaving(pool) => return Box::pin(leave(client, &pool, now)).await,
        Found::There(observed) => observed,
    };
    observed.pool = deletion::hold(client, observed.pool).await?;
    let objects = match validate::validate(&observed, settings) {
        Ok(valid) => {
            let objects = build::build(&valid)?;
            let before = Before::of(&observed);
            let live = observed.live.clone();
            let volumes = claims::plan(&observed.pool, &observed.volumes, &observed.classes);
            match Box::pin(apply::apply(client, &valid, objects, live, before, &volumes, &settings.metrics)).await {
                Ok(applied) => {
                    observed.refused_volume = applied.volume;
                    Ok(applied.set)
                }
                Err(ApplyError::Problem(problem)) => Err(vec![problem]),
                Err(ApplyError::Replacing) => return Box::pin(meanwhile(client, &observed, now)).await,
                Err(error) if apply::is_namespace_terminating(&error) => return Ok(Visit::gone()),
                Err(error) => return Err(error.into()),
            }
        }
        Err(problems) => {
            Box::pin(apply::retire(client, &observed)).await?;
            Err(problems)
        }
    };
    let objects = objects.as_ref().map_err(Vec::as_slice);
    let next = status::compute(&observed, objects, now);
    match status::write(client, &observed.pool, &next).await {
        Err(status::StatusError::Call(error)) if error.is_not_found() => return Ok(Visit::gone()),
        written => written?,
    }
    let step = upgrade::of(&observed, objects, now);
    if let Some(target) = step.as_ref().and_then(|step| step.delete.as_ref()) {
        replace(client, namespace, target).await?;
    }
    let before = observed.pool.status.clone().unwrap_or_default();
    let members = roster::roster(&observed, objects.ok(), next.upgrade.as_ref());
    Ok(Visit {
        progress: progress(&before, &next, step.as_ref(), now),
        news: events::news(&before, &next),
        figures: Some(PoolFigures {
            members: roster::by_phase(&members),
            upgrade_held: step.is_some_and(|step| step.is_held()),
        }),
    })
}

/// One pass while the StatefulSet is made anew: what becomes of the members is told, and nothing else is done. That the
/// StatefulSet is gone is watched; looking again soon is for the case that the watch misses it.
async fn meanwhile(client: &Client, observed: &Observed, now: Timestamp) -> Result<Visit, PoolError> {
    let before = observed.pool.status.clone().unwrap_or_default();
    let mut next = before.clone();
    let set = observed.live.stateful_set.as_ref();
    if let Some(set) = set.filter(|set| set.metadata.deletion_timestamp.is_some()) {
        // It is not the newest form that this is about.
        let observed_generation = before.observed_generation;
        next = BuildPoolStatus { observed_generation, ..status::compute(observed, Ok(set), now) };
        match status::write(client, &observed.pool, &next).await {
            Err(status::StatusError::Call(error)) if error.is_not_found() => return Ok(Visit::gone()),
            written => written?,
        }
    }
    let members = roster::roster(observed, set, next.upgrade.as_ref());
    Ok(Visit {
        progress: Progress::NotYet(WAIT.first),
        news: events::news(&before, &next),
        figures: Some(PoolFigures { members: roster::by_phase(&members), upgrade_held: false }),
    })
}

/// One pass over a pool that is being deleted.
async fn leave(client: &Client, pool: &DeserializeGuard<BuildPool>, now: Timestamp) -> Result<Visit, PoolError> {
    let (observed, next) = match deletion::let_go(client, pool, now).await? {
        Departure::Gone => return Ok(Visit::gone()),
        Departure::Waits(observed, next) => (observed, next),
    };
    let before = observed.pool.status.clone().unwrap_or_default();
    if let Some(next) = &next {
        match status::write(client, &observed.pool, next).await {
            Err(status::StatusError::Call(error)) if error.is_not_found() => return Ok(Visit::gone()),
            written => written?,
        }
    }
    let members = roster::roster(&observed, None, None);
    Ok(Visit {
        progress: Progress::NotYet(DELETION_LOOK),
        news: next.map(|next| events::news(&before, &next)).unwrap_or_default(),
        figures: Some(PoolFigures { members: roster::by_phase(&members), upgrade_held: false }),
    })
}

/// Deletes a member that has no builds. Its runner would finish one that came since.
async fn replace(client: &Client, namespace: &str, target: &upgrade::Target) -> Result<(), PoolError> {
    match delete_member(client, namespace, &target.pod, &target.uid).await {
        Ok(true) => {
            info!(pod = target.pod, "replaced: it runs an older form of the pool");
            Ok(())
        }
        Ok(false) => Ok(()),
        Err(source) => Err(PoolError::Replace { pod: target.pod.clone(), source }),
    }
}

/// Deletes the pod with this UID, which gets its whole grace period. False when it is gone, or replaced by somebody else.
async fn delete_member(client: &Client, namespace: &str, pod: &str, uid: &str) -> Result<bool, CallError> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let this = Preconditions { uid: Some(uid.to_owned()), resource_version: None };
    let params = DeleteParams { preconditions: Some(this), ..DeleteParams::default() };
    match call(pods.delete(pod, &params)).await {
        Ok(_) => Ok(true),
        Err(error) if error.is_not_found() || error.is_conflict() => Ok(false),
        Err(error) => Err(error),
    }
}

fn progress(
    before: &BuildPoolStatus,
    next: &BuildPoolStatus,
    step: Option<&upgrade::Step>,
    now: Timestamp,
) -> Progress {
    let Some(ready) = conditions::find(&next.conditions, conditions::READY) else {
        return Progress::NotYet(WAIT.first);
    };
    let known = conditions::find(&before.conditions, conditions::READY);
    if known.is_none_or(|known| (&known.status, &known.reason) != (&ready.status, &ready.reason)) {
        info!(ready = ready.status, reason = ready.reason, "{}", ready.message);
    }
    let asked = step.and_then(|step| step.look_again);
    let upgrading = conditions::find(&next.conditions, conditions::UPGRADING).filter(|it| it.status == "True");
    let Some(waits) = upgrading.or_else(|| Some(ready).filter(|ready| ready.status != "True")) else {
        // StorageClasses are not watched.
        let cache = conditions::find(&next.conditions, conditions::CACHE_HEALTHY);
        let class =
            cache.filter(|cache| cache.reason == reasons::cache::VOLUME_EXPANSION_UNSUPPORTED).map(|_| CLASS_LOOK);
        return asked.into_iter().chain(class).min().map_or(Progress::Ready, Progress::NotYet);
    };
    // The longer it has waited, the rarer.
    let waited = Duration::try_from(now.duration_since(waits.last_transition_time.0)).unwrap_or_default();
    let rarer = (waited / 2).clamp(WAIT.first, WAIT.most);
    Progress::NotYet(asked.map_or(rarer, |asked| asked.min(rarer)))
}
