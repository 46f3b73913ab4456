//! A runner with an API server in memory and a daemon that does what the test says.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use buildpools_buildkit::{
    Access, Build, BuildError, BuildResult, ErrorKind, Event as Progress, EventKind, HistoryRecord, HistoryState, Step,
};
use buildpools_crds::lifecycle::{self, Member};
use buildpools_crds::member_config::MemberConfig;
use buildpools_crds::v1alpha1::{BuildJob, BuildJobStatus};
use buildpools_runner::api::ApiServer as Api;
use buildpools_runner::assembly::Assembly;
use buildpools_runner::credentials::Mounted;
use buildpools_runner::daemon::Builder;
use buildpools_runner::decide::Event;
use buildpools_runner::logs::Logs;
use buildpools_runner::member::Report;
use buildpools_runner::{Identity, logs};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};

use crate::api_server::{ApiServer, POD};

/// Virtual time: the tests run on a paused clock.
const SOON: Duration = Duration::from_hours(1);

#[derive(Default)]
struct Builds {
    solved: Vec<String>,
    cancelled: Vec<String>,
    results: HashMap<String, Result<BuildResult, BuildError>>,
    histories: HashMap<String, VecDeque<Option<HistoryState>>>,
    silent: bool,
}

/// The daemon: a build waits until the test says how it ends.
#[derive(Clone)]
pub struct Daemon {
    builds: Arc<Mutex<Builds>>,
    changed: Arc<watch::Sender<()>>,
}

struct Cancel<'a>(&'a Daemon, Option<String>);

impl Drop for Cancel<'_> {
    fn drop(&mut self) {
        if let Some(reference) = self.1.take() {
            self.0.builds.lock().unwrap().cancelled.push(reference);
            self.0.changed.send_replace(());
        }
    }
}

impl Builder for Daemon {
    async fn build(
        &self,
        build: &Build,
        _: &Access,
        mut on_event: impl FnMut(&Progress) + Send,
    ) -> Result<BuildResult, BuildError> {
        let mut changes = self.changed.subscribe();
        let mut cancel = Cancel(self, Some(build.reference.clone()));
        self.builds.lock().unwrap().solved.push(build.reference.clone());
        self.changed.send_replace(());
        on_event(&Progress { step: Step { number: 1, name: "[1/1] RUN make".into() }, kind: EventKind::Started });
        loop {
            if let Some(result) = self.builds.lock().unwrap().results.get(&build.reference).cloned() {
                cancel.1 = None;
                return result;
            }
            changes.changed().await.unwrap();
        }
    }

    async fn history(&self, reference: &str) -> Result<Option<HistoryRecord>, BuildError> {
        if self.builds.lock().unwrap().silent {
            std::future::pending::<()>().await;
        }
        let mut builds = self.builds.lock().unwrap();
        let Some(states) = builds.histories.get_mut(reference) else { return Ok(None) };
        let state = if states.len() > 1 { states.pop_front().unwrap() } else { states[0].clone() };
        Ok(state.map(|state| HistoryRecord { created_at: Timestamp::UNIX_EPOCH, completed_at: None, state }))
    }
}

impl Daemon {
    pub fn finish(&self, reference: &str, result: Result<&str, ErrorKind>) {
        let result = result.map(|digest| BuildResult { digest: Some(digest.to_owned()) }).map_err(error);
        self.builds.lock().unwrap().results.insert(reference.to_owned(), result);
        self.changed.send_replace(());
    }

    /// What the history says, one after the other; the last stays.
    pub fn remember(&self, reference: &str, states: impl IntoIterator<Item = Option<HistoryState>>) {
        self.builds.lock().unwrap().histories.insert(reference.to_owned(), states.into_iter().collect());
    }

    /// From now on it answers no question.
    pub fn hang(&self) {
        self.builds.lock().unwrap().silent = true;
    }

    pub fn solved(&self) -> Vec<String> {
        self.builds.lock().unwrap().solved.clone()
    }

    pub fn cancelled(&self) -> Vec<String> {
        self.builds.lock().unwrap().cancelled.clone()
    }
}

pub fn error(kind: ErrorKind) -> BuildError {
    BuildError::new(kind, format!("{kind} happened"))
}

pub struct World {
    pub api: ApiServer,
    pub daemon: Daemon,
    pub events: mpsc::UnboundedSender<Event>,
    changed: Arc<watch::Sender<()>>,
    supervisor: JoinHandle<()>,
    log: Arc<Mutex<Vec<u8>>>,
    flush: Option<logs::Flush>,
    // Ends the watches with the world.
    tasks: JoinSet<()>,
}

struct Written(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Written {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl World {
    /// A pool with two slots, a runner whose daemon answers, and these jobs.
    pub fn start(jobs: Vec<(&str, Value)>) -> Self {
        Self::start_with(Some(pool(2)), jobs, None)
    }

    /// The same with another pool, and with another place for the builds' log.
    pub fn start_with(
        pool: Option<Value>,
        jobs: Vec<(&str, Value)>,
        out: Option<Box<dyn std::io::Write + Send>>,
    ) -> Self {
        let changed = Arc::new(watch::channel(()).0);
        let tell = changed.clone();
        let api = ApiServer::new(move || {
            tell.send_replace(());
        });
        api.set("buildpools", "main", pool);
        for (name, job) in jobs {
            api.set("buildjobs", name, Some(job));
        }
        let daemon = Daemon { builds: Arc::default(), changed: changed.clone() };
        let me = Arc::new(Identity {
            pod: member(),
            namespace: "team-a".into(),
            pool: "main".into(),
            instance: "me".into(),
        });
        let (events, received) = mpsc::unbounded_channel();
        let revoked = events.clone();
        let client = api.client(move || {
            let _ = revoked.send(Event::Revoked);
        });
        let calls = Api::new(client, me.clone());
        let log = Arc::default();
        let (logs, flush) = Logs::start(out.unwrap_or_else(|| Box::new(Written(Arc::clone(&log)))));
        let report = Report { version: Some("v1".into()), ..Report::default() };
        let mounted = Mounted::new(MemberConfig::default());
        let runner = Assembly::new(me, calls, daemon.clone(), mounted, report, logs, (events.clone(), received));
        let (supervisor, tasks) = runner.start(|| {});
        events.send(Event::Daemon(true)).unwrap();
        let supervisor = tokio::spawn(supervisor.run());
        Self { api, daemon, events, changed, supervisor, log, flush: Some(flush), tasks }
    }

    /// Waits for a condition, which changes with the API server or the daemon only.
    pub async fn until(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        let mut changes = self.changed.subscribe();
        let wait = async {
            while !condition(self) {
                changes.changed().await.unwrap();
            }
        };
        let met = tokio::time::timeout(SOON, wait).await;
        assert!(met.is_ok(), "waiting in vain: {what}; requests {:#?}", self.api.requests());
    }

    pub async fn until_solved(&self, reference: &str) {
        self.until(&format!("{reference} is solved"), |world| world.daemon.solved().iter().any(|r| r == reference))
            .await;
    }

    pub async fn until_phase(&self, job: &str, phase: &str) {
        self.until(&format!("{job} is {phase}"), |world| world.status(job)["phase"] == phase).await;
    }

    /// As a person does it.
    pub fn cancel(&self, job: &str) {
        self.api.change("buildjobs", job, |job| job["spec"]["cancel"] = json!(true));
    }

    pub async fn until_cancelled(&self, reference: &str) {
        self.until(&format!("{reference} is cancelled"), |world| world.daemon.cancelled() == [reference]).await;
    }

    pub fn status(&self, job: &str) -> Value {
        self.api.get("buildjobs", job).map_or(Value::Null, |job| job["status"].clone())
    }

    /// Waits until the runner has nothing left to do for what has happened: time passes on the paused clock only when
    /// no task can go on.
    pub async fn settle(&self) {
        tokio::time::sleep(Duration::from_mins(2)).await;
    }

    /// Drains the runner and returns the builds' log.
    pub async fn drain(mut self) -> String {
        // It may have ended already.
        let _ = self.events.send(Event::Drain);
        tokio::time::timeout(SOON, &mut self.supervisor).await.expect("the runner ends").unwrap();
        self.tasks.shutdown().await;
        let flush = self.flush.take().unwrap();
        tokio::task::spawn_blocking(move || flush.wait()).await.unwrap();
        String::from_utf8(self.log.lock().unwrap().clone()).unwrap()
    }
}

pub fn member() -> Member {
    Member { pod: "main-0".into(), uid: POD.into() }
}

pub fn pool(slots: i32) -> Value {
    json!({
        "apiVersion": "buildpools.dev/v1alpha1",
        "kind": "BuildPool",
        "metadata": {"uid": "pool"},
        "spec": {
            "scaling": {"minMembers": 1, "buildsPerMember": slots},
            "maxBuildDuration": "1h",
            "cache": {"size": "1Gi"},
        },
    })
}

/// A job with this UID and status.
pub fn job(uid: &str, status: &BuildJobStatus) -> Value {
    let mut job = BuildJob::default();
    job.metadata.uid = Some(uid.to_owned());
    job.spec = serde_json::from_value(json!({
        "poolRef": {"name": "main"},
        "context": {"inline": {"files": [{"path": "Dockerfile", "content": "FROM scratch"}]}},
        "output": {"image": {"names": ["r.test/app:1"]}},
    }))
    .unwrap();
    job.status = Some(status.clone());
    serde_json::to_value(job).unwrap()
}

pub fn bound() -> BuildJobStatus {
    lifecycle::bind(&BuildJobStatus::default(), "main", &member(), Timestamp::UNIX_EPOCH).unwrap()
}

pub fn running(uid: &str, instance: &str) -> BuildJobStatus {
    lifecycle::start(&bound(), uid, &member(), instance, Timestamp::UNIX_EPOCH).unwrap()
}

/// A world in which job `app` (UID `a`) is being built.
pub async fn building() -> World {
    let world = World::start(vec![("app", job("a", &bound()))]);
    world.until_solved("a-1").await;
    world
}

/// Runs to the end and says so if it takes too long.
pub async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, future).await.expect("in time")
}
