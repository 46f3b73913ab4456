//! One attempt: *running* acknowledged, then Solve, then the outcome.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use buildpools_buildkit::{
    Access, Build, BuildError, BuildResult, ErrorKind, Event as Progress, EventKind, HistoryState,
};
use buildpools_crds::lifecycle::Outcome;
use buildpools_crds::names;
use buildpools_crds::v1alpha1::{BuildJob, Failure, std_duration};
use jiff::Timestamp;
use kube::ResourceExt;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;

use crate::accounting::{account, cut_off, ended};
use crate::api::ApiServer;
use crate::credentials::Mounted;
use crate::daemon::Builder;
use crate::decide::{Event, Stop};
use crate::hits::Hits;
use crate::logs::{JobLog, Logs};
use crate::member::Report;
use crate::watch::PoolSettings;
use crate::{Identity, outcome};

/// What every attempt of this process needs.
pub struct Workshop<B> {
    /// Who builds.
    pub me: Arc<Identity>,
    /// Where the jobs are.
    pub api: ApiServer,
    /// The daemon.
    pub builder: B,
    /// Its credentials.
    pub mounted: Mounted,
    /// The pool, as it is now.
    pub pool: watch::Receiver<PoolSettings>,
    /// What is said in the pool's status.
    pub report: watch::Sender<Report>,
    /// The builds' logs.
    pub logs: Logs,
    /// Where to tell that the daemon may be gone.
    pub doubt: Arc<Notify>,
    /// Where to tell how far an attempt is.
    pub events: mpsc::UnboundedSender<Event>,
}

/// Told to a task when it should end.
pub type StopSignal = watch::Receiver<Option<Stop>>;

enum End {
    Impossible(Failure),
    Built(Result<BuildResult, BuildError>),
    TimedOut { limit: Duration, field: String, step: Option<String> },
    Stopped(Stop),
}

impl<B: Builder> Workshop<B> {
    /// Starts and builds a job that is bound to this pod. Returns the attempt that it has dealt with, if it started one.
    pub async fn attempt(&self, job: Arc<BuildJob>, mut stop: StopSignal) -> Option<i32> {
        let start = async {
            tokio::select! {
                started = self.api.start(job) => started,
                _ = stopped(&mut stop) => None,
            }
        };
        // What the build needs is read while the API server writes.
        let (started, access) = tokio::join!(start, async { self.access() });
        let (job, attempt) = started?;
        let uid = job.metadata.uid.clone()?;
        self.tell(Event::Running(uid.clone(), attempt));
        let began = Instant::now();
        let log = self.logs.job(&job.name_any());
        log.line(format_args!("attempt {attempt} starts on {}", self.me.pod.pod));
        let reference = names::attempt_ref(&uid, attempt);
        let end = match outcome::build(&job, reference.clone()) {
            // Nothing was solved yet, so nothing is to be stopped.
            _ if job.spec.cancel => End::Stopped(Stop::Cancelled),
            Ok(build) => self.build(&job, &build, &access, &log, &mut stop).await,
            Err(failure) => End::Impossible(failure),
        };
        let success = match &end {
            End::TimedOut { .. } | End::Stopped(Stop::NotOurs | Stop::Cancelled | Stop::PoolDeleted) => {
                self.stopped_build(&job, &reference, &log).await
            }
            End::Built(Err(error)) if matches!(error.kind, ErrorKind::DaemonLost | ErrorKind::Cancelled) => {
                cut_off(&self.builder, &reference).await;
                None
            }
            End::Built(_) | End::Impossible(_) | End::Stopped(Stop::Revoked) => None,
        };
        self.tell(Event::Ended(uid));
        let result = match end {
            End::Built(Ok(built)) => outcome::succeeded(&job, built.digest),
            End::Built(Err(error)) => {
                if matches!(error.kind, ErrorKind::DaemonLost | ErrorKind::Cancelled) {
                    // Before the outcome is written: the next attempt may come back here at once.
                    self.tell(Event::Daemon(false));
                    self.doubt.notify_one();
                }
                outcome::failed(&error)
            }
            End::Impossible(failure) => Outcome::Failed(failure),
            // The end of the build came before the stop.
            End::TimedOut { .. } | End::Stopped(Stop::Cancelled | Stop::PoolDeleted) if success.is_some() => success?,
            End::TimedOut { limit, field, step } => outcome::timed_out(limit, &field, step),
            End::Stopped(Stop::Cancelled) => Outcome::Cancelled,
            End::Stopped(Stop::PoolDeleted) => Outcome::PoolDeleted(self.me.pool.clone()),
            End::Stopped(Stop::NotOurs) => {
                log.line(format_args!("stopped: the job was deleted or taken from {}", self.me.pod.pod));
                return Some(attempt);
            }
            End::Stopped(Stop::Revoked) => {
                let cause = format!("the API server refuses the token of pod {}, which was deleted", self.me.pod.pod);
                account(&self.builder, &job, &reference, &cause).await
            }
        };
        self.report_outcome(job, attempt, &result, began, &log).await;
        Some(attempt)
    }

    /// Writes what became of an attempt that no task of this process runs.
    pub async fn account(&self, job: Arc<BuildJob>, mut stop: StopSignal) -> Option<i32> {
        let status = job.status.as_ref()?;
        let last = status.attempts.last()?;
        let instance = status.runner_instance.clone()?;
        let log = self.logs.job(&job.name_any());
        let attempt = last.number;
        log.line(format_args!("attempt {attempt} was lost with its runner; asking the daemon what became of it"));
        let cause = format!("the runner of pod {} was restarted during the build", self.me.pod.pod);
        let result = tokio::select! {
            result = account(&self.builder, &job, &last.reference, &cause) => result,
            _ = stopped(&mut stop) => return Some(attempt),
        };
        self.tell(Event::Ended(job.metadata.uid.clone()?));
        log.line(outcome::line(&result, Duration::ZERO));
        self.finish(job.clone(), &instance, attempt, &result).await;
        Some(attempt)
    }

    /// Waits until the daemon has ended a build that was stopped. An image that it has pushed by then is there, so the
    /// build succeeded, whoever stopped it.
    async fn stopped_build(&self, job: &BuildJob, reference: &str, log: &JobLog) -> Option<Outcome> {
        match ended(&self.builder, reference).await {
            Ok(Some(HistoryState::Succeeded { digest })) => {
                Some(outcome::succeeded(job, digest)).filter(|outcome| matches!(outcome, Outcome::Succeeded(_)))
            }
            Ok(_) => None,
            Err(_) => {
                log.line("the build was stopped, but the daemon has not ended it within 5 s");
                tracing::warn!(job = job.name_any(), reference, "the daemon does not end a build that was stopped");
                None
            }
        }
    }

    async fn finish(&self, job: Arc<BuildJob>, instance: &str, attempt: i32, result: &Outcome) {
        let ended = Timestamp::now();
        // The pool as it is when the outcome is written.
        let defaults = || self.pool.borrow().job_defaults.clone();
        self.api.finish(job, instance, attempt, result, ended, defaults).await;
    }

    async fn report_outcome(&self, job: BuildJob, attempt: i32, result: &Outcome, began: Instant, log: &JobLog) {
        log.line(outcome::line(result, began.elapsed()));
        self.finish(Arc::new(job), &self.me.instance, attempt, result).await;
    }

    /// Builds. When this returns, the build is over or cancelled.
    async fn build(&self, job: &BuildJob, build: &Build, access: &Access, log: &JobLog, stop: &mut StopSignal) -> End {
        let mut steps = Steps::default();
        let mut hits = Hits::default();
        let (limit, field) = self.limit(job);
        let end = {
            let building = self.builder.build(build, access, |event| {
                log.line(event);
                steps.take(event);
                hits.take(event);
            });
            // Dropping `building` at the end of this block cancels it.
            tokio::select! {
                result = tokio::time::timeout(limit, building) => result.ok().map(End::Built),
                why = stopped(stop) => Some(End::Stopped(why)),
            }
        };
        self.report.send_if_modified(|report| hits.add_to(&mut report.hits));
        end.unwrap_or_else(|| End::TimedOut { limit, field, step: steps.last() })
    }

    /// How long the build may run, and which field says so.
    fn limit(&self, job: &BuildJob) -> (Duration, String) {
        let settings = self.pool.borrow();
        let longest = settings.max_build_duration;
        let of_pool = |field: &str| format!("{field} of BuildPool {}", self.me.pool);
        let (asked, field) = match (job.spec.timeout, settings.job_defaults.timeout) {
            (Some(timeout), _) => (std_duration(timeout), "spec.timeout".to_owned()),
            (None, Some(timeout)) => (std_duration(timeout), of_pool("spec.jobDefaults.timeout")),
            (None, None) => (longest, String::new()),
        };
        if asked < longest { (asked, field) } else { (longest, of_pool("spec.maxBuildDuration")) }
    }

    /// What a build may use now; its problems go into the pool's status.
    pub fn access(&self) -> Access {
        let (access, problems) = self.mounted.load();
        self.report.send_if_modified(|report| {
            let news = report.problems != problems;
            report.problems = problems;
            news
        });
        access
    }

    fn tell(&self, event: Event) {
        // The receiver ends with the process.
        let _ = self.events.send(event);
    }
}

/// Returns when the task should end.
async fn stopped(stop: &mut StopSignal) -> Stop {
    let told = stop.wait_for(Option::is_some).await.ok().and_then(|why| *why);
    match told {
        Some(why) => why,
        // Nobody is left who could say so.
        None => std::future::pending().await,
    }
}

/// The steps that run.
#[derive(Debug, Default)]
struct Steps(BTreeMap<usize, String>);

impl Steps {
    fn take(&mut self, event: &Progress) {
        match event.kind {
            EventKind::Started => {
                self.0.insert(event.step.number, event.step.name.clone());
            }
            EventKind::Cached | EventKind::Done { .. } | EventKind::Failed { .. } | EventKind::Canceled => {
                self.0.remove(&event.step.number);
            }
            EventKind::Log { .. } | EventKind::Warning { .. } => {}
        }
    }

    /// The one that began last.
    fn last(mut self) -> Option<String> {
        self.0.pop_last().map(|(_, name)| name)
    }
}
