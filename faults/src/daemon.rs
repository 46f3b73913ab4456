//! A buildkitd that builds nothing: takes Solves by Ref, remembers them, and ends them as it was told.
//!
//! What is true of a real one is true of it: a Ref that is active is refused, a client that goes away cancels its build,
//! builds end with the daemon, and the history outlives a runner.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use buildpools_buildkit::{
    Access, Build, BuildError, BuildResult, ErrorKind, Event as Progress, EventKind, HistoryRecord, HistoryState, Step,
};
use buildpools_runner::daemon::Builder;
use jiff::Timestamp;
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::inject::{Door, Fault};
use crate::lock;

/// How long a build takes unless it is told otherwise.
const USUAL: Duration = Duration::from_millis(30);

/// Time from the cancellation of a build to its end.
const CANCELLING: Duration = Duration::from_millis(20);

/// How long a call hangs.
const HANG: Duration = Duration::from_secs(3);

/// How a build ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// With an image.
    Succeeds,
    /// A step fails.
    Fails,
    /// The step is killed because memory is short.
    OutOfMemory,
    /// The daemon dies with all its builds and is there again a moment later; with its history or without.
    DaemonDies {
        /// Whether the history survives.
        keeps_history: bool,
    },
    /// Never, unless it is cancelled.
    Never,
}

/// How the builds of a run end: by job and attempt. The others succeed.
pub type Script = BTreeMap<(String, i32), End>;

/// A Solve that the daemon took on.
#[derive(Clone, Debug)]
pub struct Solve {
    /// UID of the job.
    pub uid: String,
    /// Attempt.
    pub attempt: i32,
    /// Pod of the daemon.
    pub pod_uid: String,
    /// When it began.
    pub begin: Instant,
    /// When it ended.
    pub end: Option<Instant>,
    /// How.
    pub result: String,
}

/// The record of all daemons of a run, and what their builds are to do.
#[derive(Clone, Debug, Default)]
pub struct Record {
    solves: Arc<Mutex<Vec<Solve>>>,
    script: Arc<Script>,
    /// Names of the jobs.
    names: Arc<Mutex<HashMap<String, String>>>,
}

impl Record {
    /// For builds that end like this.
    pub fn new(script: Script) -> Self {
        Self { script: Arc::new(script), ..Self::default() }
    }

    /// A job exists.
    pub fn name(&self, uid: &str, name: &str) {
        lock(&self.names).insert(uid.to_owned(), name.to_owned());
    }

    /// All Solves, in the order of their beginning.
    pub fn solves(&self) -> Vec<Solve> {
        lock(&self.solves).clone()
    }

    fn name_of(&self, uid: &str) -> String {
        lock(&self.names).get(uid).cloned().unwrap_or_else(|| uid.to_owned())
    }
}

#[derive(Debug, Default)]
struct State {
    up: bool,
    /// Counts the daemon's lives.
    life: u64,
    history: HashMap<String, Known>,
}

#[derive(Clone, Debug)]
struct Known {
    /// Place in the record.
    solve: usize,
    state: HistoryState,
    cancelled: bool,
}

/// The daemon of one pod. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Daemon {
    pod_uid: String,
    record: Record,
    state: Arc<Mutex<State>>,
    changed: watch::Sender<u64>,
    runtime: Handle,
}

impl Daemon {
    /// Starts it. It runs in the current runtime, so it outlives the runner.
    pub fn start(pod_uid: &str, record: &Record) -> Self {
        let state = Arc::new(Mutex::new(State { up: true, ..State::default() }));
        let (record, runtime) = (record.clone(), Handle::current());
        Self { pod_uid: pod_uid.to_owned(), record, state, changed: watch::channel(0).0, runtime }
    }

    /// It dies with all its builds.
    pub fn die(&self, keeps_history: bool) {
        let mut state = lock(&self.state);
        state.up = false;
        state.life += 1;
        for known in state.history.values_mut() {
            if matches!(known.state, HistoryState::Active) {
                self.record.end(known.solve, "the daemon died");
                known.state = HistoryState::Cancelled;
            }
        }
        if !keeps_history {
            state.history.clear();
        }
        drop(state);
        self.tell();
    }

    /// It is there again.
    pub fn come_up(&self) {
        lock(&self.state).up = true;
        self.tell();
    }

    /// Whether it answers, and whenever that changes.
    pub fn up(&self) -> (bool, watch::Receiver<u64>) {
        (lock(&self.state).up, self.changed.subscribe())
    }

    fn tell(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    /// Takes a Solve on and lets it run in a task.
    #[allow(clippy::result_large_err, reason = "as the client of a real daemon has it")]
    fn solve(&self, reference: &str) -> Result<(), BuildError> {
        let (uid, attempt) = reference.rsplit_once('-').unwrap_or((reference, "0"));
        let attempt = attempt.parse().unwrap_or(0);
        let mut state = lock(&self.state);
        if !state.up {
            return Err(BuildError::new(ErrorKind::DaemonLost, "connection refused"));
        }
        if state.history.get(reference).is_some_and(|known| matches!(known.state, HistoryState::Active)) {
            return Err(BuildError::new(ErrorKind::Internal, format!("job ID {reference} exists")));
        }
        let place = self.record.begin(uid, attempt, &self.pod_uid);
        let known = Known { solve: place, state: HistoryState::Active, cancelled: false };
        state.history.insert(reference.to_owned(), known);
        let life = state.life;
        drop(state);
        let end = self.record.script.get(&(self.record.name_of(uid), attempt)).copied().unwrap_or(End::Succeeds);
        let (daemon, reference) = (self.clone(), reference.to_owned());
        self.runtime.spawn(async move { daemon.run(&reference, life, end).await });
        Ok(())
    }

    async fn run(&self, reference: &str, life: u64, end: End) {
        let mut changed = self.changed.subscribe();
        let cancelled = async {
            loop {
                let over = {
                    let state = lock(&self.state);
                    state.life != life || state.history.get(reference).is_none_or(|known| known.cancelled)
                };
                if over || changed.changed().await.is_err() {
                    return;
                }
            }
        };
        let duration = if end == End::Never { Duration::from_hours(1) } else { USUAL };
        tokio::select! {
            () = cancelled => {
                tokio::time::sleep(CANCELLING).await;
                self.finish(reference, life, HistoryState::Cancelled, "cancelled");
            }
            () = tokio::time::sleep(duration) => match end {
                End::Succeeds | End::Never => {
                    let digest = Some(format!("sha256:{}", "1".repeat(64)));
                    self.finish(reference, life, HistoryState::Succeeded { digest }, "succeeded");
                }
                End::Fails => {
                    let failure = BuildError::new(ErrorKind::BuildStepFailed, "process \"make\" did not complete: exit code: 2");
                    self.finish(reference, life, HistoryState::Failed(Box::new(failure)), "failed");
                }
                End::OutOfMemory => {
                    let failure = BuildError::new(ErrorKind::OutOfMemory, "process \"make\" did not complete: exit code: 137");
                    self.finish(reference, life, HistoryState::Failed(Box::new(failure)), "out of memory");
                }
                End::DaemonDies { keeps_history } => {
                    self.die(keeps_history);
                    tokio::time::sleep(CANCELLING).await;
                    self.come_up();
                }
            },
        }
    }

    fn finish(&self, reference: &str, life: u64, end: HistoryState, how: &str) {
        let mut state = lock(&self.state);
        if state.life == life
            && let Some(known) = state.history.get_mut(reference)
        {
            self.record.end(known.solve, how);
            known.state = end;
        }
        drop(state);
        self.tell();
    }

    fn cancel(&self, reference: &str) {
        if let Some(known) = lock(&self.state).history.get_mut(reference) {
            known.cancelled = true;
        }
        self.tell();
    }

    /// Waits for the end of a build.
    async fn wait(&self, reference: &str) -> Result<BuildResult, BuildError> {
        let mut changed = self.changed.subscribe();
        let life = lock(&self.state).life;
        loop {
            {
                let state = lock(&self.state);
                let known = state.history.get(reference).filter(|_| state.life == life && state.up);
                match known.map(|known| known.state.clone()) {
                    None => return Err(BuildError::new(ErrorKind::DaemonLost, "the connection to the daemon broke")),
                    Some(HistoryState::Active) => {}
                    Some(HistoryState::Succeeded { digest }) => return Ok(BuildResult { digest }),
                    Some(HistoryState::Failed(error)) => return Err(*error),
                    Some(HistoryState::Cancelled) => {
                        return Err(BuildError::new(ErrorKind::Cancelled, "context canceled"));
                    }
                }
            }
            if changed.changed().await.is_err() {
                return Err(BuildError::new(ErrorKind::DaemonLost, "the connection to the daemon broke"));
            }
        }
    }
}

impl Record {
    fn begin(&self, uid: &str, attempt: i32, pod_uid: &str) -> usize {
        let mut solves = lock(&self.solves);
        let (uid, pod_uid) = (uid.to_owned(), pod_uid.to_owned());
        solves.push(Solve { uid, attempt, pod_uid, begin: Instant::now(), end: None, result: String::new() });
        solves.len() - 1
    }

    fn end(&self, place: usize, how: &str) {
        let mut solves = lock(&self.solves);
        if let Some(solve) = solves.get_mut(place).filter(|solve| solve.end.is_none()) {
            solve.end = Some(Instant::now());
            how.clone_into(&mut solve.result);
        }
    }
}

/// The daemon as a runner reaches it: its calls pass the runner's door.
#[derive(Clone, Debug)]
pub struct Connection {
    /// The daemon.
    pub daemon: Daemon,
    /// The runner's way out.
    pub door: Door,
}

/// A client that goes away ends its build.
struct Session<'a> {
    daemon: &'a Daemon,
    reference: &'a str,
    open: bool,
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        if self.open {
            self.daemon.cancel(self.reference);
        }
    }
}

impl Connection {
    fn call(&self, verb: &str, reference: &str) -> String {
        let (uid, attempt) = reference.rsplit_once('-').unwrap_or((reference, ""));
        format!("{verb} {}-{attempt}", self.daemon.record.name_of(uid))
    }
}

impl Builder for Connection {
    async fn build(
        &self,
        build: &Build,
        _: &Access,
        mut on_event: impl FnMut(&Progress) + Send,
    ) -> Result<BuildResult, BuildError> {
        let reference = build.reference.as_str();
        let call = self.call("solve", reference);
        let fault = self.door.external(&call).await;
        self.door.injector.trace().line(format!("{:<12} {call}", self.door.part.to_string()));
        match fault {
            Some(Fault::Unavailable) => return Err(BuildError::new(ErrorKind::DaemonLost, "connection refused")),
            Some(Fault::Hang) => {
                tokio::time::sleep(HANG).await;
                return Err(BuildError::new(ErrorKind::DaemonLost, "no answer"));
            }
            _ => {}
        }
        self.daemon.solve(reference)?;
        let mut session = Session { daemon: &self.daemon, reference, open: true };
        on_event(&Progress { step: Step { number: 1, name: "[1/1] RUN make".into() }, kind: EventKind::Started });
        if fault == Some(Fault::CrashAfter) {
            self.door.die().await;
        }
        let result = self.daemon.wait(reference).await;
        session.open = false;
        if fault == Some(Fault::AnswerLost) {
            return Err(BuildError::new(ErrorKind::DaemonLost, "the connection to the daemon broke"));
        }
        result
    }

    async fn history(&self, reference: &str) -> Result<Option<HistoryRecord>, BuildError> {
        let call = self.call("history", reference);
        match self.door.external(&call).await {
            None => {}
            Some(Fault::CrashAfter) => self.door.die().await,
            Some(Fault::Hang) => {
                tokio::time::sleep(HANG).await;
                return Err(BuildError::new(ErrorKind::DaemonLost, "no answer"));
            }
            Some(_) => return Err(BuildError::new(ErrorKind::DaemonLost, "the connection to the daemon broke")),
        }
        let state = lock(&self.daemon.state);
        if !state.up {
            return Err(BuildError::new(ErrorKind::DaemonLost, "connection refused"));
        }
        let known = state.history.get(reference).map(|known| known.state.clone());
        Ok(known.map(|state| HistoryRecord { created_at: Timestamp::UNIX_EPOCH, completed_at: None, state }))
    }
}
