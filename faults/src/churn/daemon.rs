//! A buildkitd that builds nothing, and the ledger of all that such daemons were asked to build.
//!
//! What is true of a real one is true of it: a Ref that is active is refused, a client that goes away cancels its build,
//! builds end with the daemon, the history tells what became of a Ref.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use buildpools_buildkit::{
    Access, Build, BuildError, BuildResult, ErrorKind, Event as Progress, HistoryRecord, HistoryState,
};

use crate::lock;
use buildpools_runner::daemon::Builder;
use jiff::Timestamp;
use tokio::runtime::Handle;
use tokio::sync::watch;

/// Time from the cancellation of a build to its end.
const CANCELLING: Duration = Duration::from_millis(10);

/// Where a daemon is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Namespace of the pool.
    pub namespace: String,
    /// The pool.
    pub pool: String,
    /// UID of the pod.
    pub pod_uid: String,
    /// Builds that it may run at a time.
    pub slots: usize,
}

/// A Solve that a daemon took on.
#[derive(Clone, Debug)]
pub struct Solve {
    /// The Ref: `<UID of the job>-<attempt>`.
    pub reference: String,
    /// Where.
    pub place: Arc<Place>,
    /// Whether the daemon ended it with an image.
    pub succeeded: bool,
}

impl Solve {
    /// UID of the job, and the attempt.
    pub fn job(&self) -> (&str, &str) {
        self.reference.rsplit_once('-').unwrap_or((&self.reference, ""))
    }
}

/// All Solves of a run, and what was seen in them that must never be.
#[derive(Debug, Default)]
pub struct Ledger(Mutex<Pages>);

#[derive(Debug, Default)]
struct Pages {
    solves: Vec<Solve>,
    places: HashMap<String, usize>,
    /// Jobs that are being built.
    live: HashSet<String>,
    /// Builds that each pod runs.
    running: HashMap<String, usize>,
    violations: Vec<String>,
}

impl Ledger {
    /// All Solves, in the order of their beginning, and every violation.
    pub fn close(&self) -> (Vec<Solve>, Vec<String>) {
        let mut pages = lock(&self.0);
        (std::mem::take(&mut pages.solves), std::mem::take(&mut pages.violations))
    }

    fn begin(&self, reference: &str, place: &Arc<Place>) {
        let mut pages = lock(&self.0);
        let solve = Solve { reference: reference.to_owned(), place: place.clone(), succeeded: false };
        let (uid, _) = solve.job();
        let uid = uid.to_owned();
        let number = pages.solves.len();
        if let Some(first) = pages.places.insert(reference.to_owned(), number) {
            let first = pages.solves[first].place.pod_uid.clone();
            pages.violations.push(format!("{reference} was solved twice: by {first} and by {}", place.pod_uid));
        }
        if !pages.live.insert(uid) {
            pages.violations.push(format!("{reference} was begun while another attempt of the job was being built"));
        }
        let running = pages.running.entry(place.pod_uid.clone()).or_default();
        *running += 1;
        if *running > place.slots {
            let running = *running;
            pages.violations.push(format!("pod {} has {} slots and {running} builds", place.pod_uid, place.slots));
        }
        pages.solves.push(solve);
    }

    fn end(&self, reference: &str, succeeded: bool) {
        let mut pages = lock(&self.0);
        let Some(number) = pages.places.get(reference).copied() else { return };
        pages.solves[number].succeeded = succeeded;
        let solve = pages.solves[number].clone();
        pages.live.remove(solve.job().0);
        if let Some(running) = pages.running.get_mut(&solve.place.pod_uid) {
            *running -= 1;
        }
    }
}

/// Whether the builds of this job fail, whatever the attempt: one of twenty.
pub fn fails(uid: &str) -> bool {
    checksum(uid).is_multiple_of(20)
}

/// The digest of what this Ref makes, and no other.
pub fn digest(reference: &str) -> String {
    format!("sha256:{:064x}", checksum(reference))
}

/// 64-bit FNV-1a.
fn checksum(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// The daemon of one pod. Cheap to clone.
#[derive(Clone)]
pub struct Daemon {
    place: Arc<Place>,
    ledger: Arc<Ledger>,
    state: Arc<Mutex<State>>,
    changed: watch::Sender<()>,
    runtime: Handle,
}

#[derive(Default)]
struct State {
    down: bool,
    builds: HashMap<String, Known>,
}

struct Known {
    state: HistoryState,
    cancelled: bool,
}

impl Daemon {
    /// Starts it in the current runtime, so that it outlives the runner.
    pub fn start(place: Place, ledger: Arc<Ledger>) -> Self {
        Self {
            place: Arc::new(place),
            ledger,
            state: Arc::default(),
            changed: watch::channel(()).0,
            runtime: Handle::current(),
        }
    }

    /// It dies with all its builds. With its volume it keeps its history.
    pub fn die(&self) {
        let mut state = lock(&self.state);
        state.down = true;
        for (reference, known) in &mut state.builds {
            if matches!(known.state, HistoryState::Active) {
                known.state = HistoryState::Cancelled;
                self.ledger.end(reference, false);
            }
        }
        drop(state);
        self.changed.send_replace(());
    }

    /// It is there again.
    pub fn come_up(&self) {
        lock(&self.state).down = false;
        self.changed.send_replace(());
    }

    /// Whether it answers, and whatever changes.
    pub fn answers(&self) -> (bool, watch::Receiver<()>) {
        (!lock(&self.state).down, self.changed.subscribe())
    }

    fn solve(&self, reference: &str) -> Result<(), Box<BuildError>> {
        let mut state = lock(&self.state);
        if state.down {
            return Err(Box::new(BuildError::new(ErrorKind::DaemonLost, "connection refused")));
        }
        if state.builds.get(reference).is_some_and(|known| matches!(known.state, HistoryState::Active)) {
            return Err(Box::new(BuildError::new(ErrorKind::Internal, format!("job ID {reference} exists"))));
        }
        self.ledger.begin(reference, &self.place);
        state.builds.insert(reference.to_owned(), Known { state: HistoryState::Active, cancelled: false });
        drop(state);
        let (daemon, reference) = (self.clone(), reference.to_owned());
        self.runtime.spawn(async move { daemon.run(&reference).await });
        Ok(())
    }

    async fn run(&self, reference: &str) {
        let mut changed = self.changed.subscribe();
        let duration = Duration::from_millis(5 + checksum(reference) % 60);
        let ended = tokio::time::timeout(duration, async {
            loop {
                let cancelled = lock(&self.state).builds.get(reference).is_none_or(|known| known.cancelled);
                if cancelled || changed.changed().await.is_err() {
                    return;
                }
            }
        });
        let (uid, _) = reference.rsplit_once('-').unwrap_or((reference, ""));
        let end = if ended.await.is_ok() {
            tokio::time::sleep(CANCELLING).await;
            HistoryState::Cancelled
        } else if fails(uid) {
            let words = "process \"make\" did not complete successfully: exit code: 2";
            HistoryState::Failed(Box::new(BuildError::new(ErrorKind::BuildStepFailed, words)))
        } else {
            HistoryState::Succeeded { digest: Some(digest(reference)) }
        };
        let mut state = lock(&self.state);
        // Not if the daemon has died meanwhile.
        if let Some(known) = state.builds.get_mut(reference).filter(|known| matches!(known.state, HistoryState::Active))
        {
            self.ledger.end(reference, matches!(end, HistoryState::Succeeded { .. }));
            known.state = end;
        }
        drop(state);
        self.changed.send_replace(());
    }

    /// What became of a Ref; `None` while it is being built. A daemon that died in between has lost the connection.
    fn outcome(&self, reference: &str) -> Option<Result<BuildResult, BuildError>> {
        let state = lock(&self.state);
        let lost = || Some(Err(BuildError::new(ErrorKind::DaemonLost, "the connection to the daemon broke")));
        match state.builds.get(reference).map(|known| (&known.state, known.cancelled)) {
            Some((HistoryState::Active, _)) => None,
            Some((HistoryState::Succeeded { digest }, _)) => Some(Ok(BuildResult { digest: digest.clone() })),
            Some((HistoryState::Failed(error), _)) => Some(Err((**error).clone())),
            Some((HistoryState::Cancelled, true)) => {
                Some(Err(BuildError::new(ErrorKind::Cancelled, "context canceled")))
            }
            Some((HistoryState::Cancelled, false)) | None => lost(),
        }
    }
}

/// A client that goes away ends its build.
struct Session<'a>(&'a Daemon, &'a str);

impl Drop for Session<'_> {
    fn drop(&mut self) {
        if let Some(known) = lock(&self.0.state).builds.get_mut(self.1) {
            known.cancelled |= matches!(known.state, HistoryState::Active);
        }
        self.0.changed.send_replace(());
    }
}

impl Builder for Daemon {
    async fn build(
        &self,
        build: &Build,
        _: &Access,
        _: impl FnMut(&Progress) + Send,
    ) -> Result<BuildResult, BuildError> {
        let mut changed = self.changed.subscribe();
        self.solve(&build.reference).map_err(|error| *error)?;
        let _session = Session(self, &build.reference);
        loop {
            if let Some(outcome) = self.outcome(&build.reference) {
                return outcome;
            }
            if changed.changed().await.is_err() {
                return Err(BuildError::new(ErrorKind::DaemonLost, "the connection to the daemon broke"));
            }
        }
    }

    async fn history(&self, reference: &str) -> Result<Option<HistoryRecord>, BuildError> {
        let state = lock(&self.state);
        if state.down {
            return Err(BuildError::new(ErrorKind::DaemonLost, "connection refused"));
        }
        let known = state.builds.get(reference).map(|known| known.state.clone());
        Ok(known.map(|state| HistoryRecord { created_at: Timestamp::UNIX_EPOCH, completed_at: None, state }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn daemon(ledger: &Arc<Ledger>, pod: &str) -> Daemon {
        let place = Place { namespace: "n".into(), pool: "p".into(), pod_uid: pod.into(), slots: 1 };
        Daemon::start(place, ledger.clone())
    }

    #[tokio::test]
    async fn what_must_never_be_is_noticed() {
        let ledger = Arc::new(Ledger::default());
        let (a, b) = (daemon(&ledger, "a"), daemon(&ledger, "b"));
        a.solve("job-1").unwrap();
        assert!(a.solve("job-1").is_err(), "an active Ref is refused");
        b.solve("job-2").unwrap();
        b.solve("job-1").unwrap();
        let (solves, violations) = ledger.close();
        assert_eq!(solves.len(), 3);
        let expected = ["another attempt", "solved twice", "another attempt", "has 1 slots and 2 builds"];
        assert_eq!(violations.len(), expected.len(), "{violations:?}");
        assert!(violations.iter().zip(expected).all(|(is, part)| is.contains(part)), "{violations:?}");
    }

    #[tokio::test]
    async fn builds_end_with_their_client_and_with_the_daemon() {
        let ledger = Arc::new(Ledger::default());
        let a = daemon(&ledger, "a");
        a.solve("gone-1").unwrap();
        drop(Session(&a, "gone-1"));
        let mut changed = a.changed.subscribe();
        while a.outcome("gone-1").is_none() {
            changed.changed().await.unwrap();
        }
        assert!(matches!(a.history("gone-1").await.unwrap().unwrap().state, HistoryState::Cancelled));
        a.solve("killed-1").unwrap();
        a.die();
        assert_eq!(a.outcome("killed-1").unwrap().unwrap_err().kind, ErrorKind::DaemonLost);
        assert!(a.history("killed-1").await.is_err());
        a.come_up();
        a.solve("next-1").unwrap();
        assert!(ledger.close().1.is_empty());
    }
}
