//! What to do about each job: from an event and what is known to actions, without time, network or tasks.
//!
//! Correctness does not rest on this module alone: every write is a compare-and-swap, so an event that comes late costs
//! a request and nothing else. What this module does guarantee is that a job which is Running is never built again,
//! that there are never more builds than slots, and that a build which is no longer ours, or no longer wanted, is
//! stopped.

use std::collections::HashMap;
use std::sync::Arc;

use buildpools_crds::v1alpha1::{BuildJob, BuildJobStatus, JobPhase};

use crate::Identity;

#[cfg(test)]
mod tests;

/// Why a job is given back when no slot is free.
pub const FULL: &str = "the member is full";
/// Why a job is given back when the member stops.
pub const STOPPING: &str = "the member is stopping";
/// Why a job is given back when the pool is deleted.
pub const POOL_DELETED: &str = "the pool is being deleted";
/// Why a job is given back when the daemon may not build.
pub const UNSUPPORTED: &str = "the member's BuildKit is older than the oldest that is supported";

/// UID of a job.
pub type Uid = String;

/// Something that was learned.
#[derive(Clone, Debug)]
pub enum Event {
    /// The job is assigned to this pod, and looks like this.
    Seen(Arc<BuildJob>),
    /// The job is no longer among those that are assigned to this pod: deleted, unbound or finished.
    Left(Uid),
    /// The answer to [`Action::Read`]: the job as it is, unless it is deleted.
    Read(Uid, Option<Arc<BuildJob>>),
    /// All jobs that were assigned before this process began are seen.
    Synced,
    /// Builds that may run at a time.
    Slots(usize),
    /// The daemon answers, or does not.
    Daemon(bool),
    /// The daemon's version is supported, or is too old to be given builds.
    Supported(bool),
    /// Begin no build (or again): the cache is about to be emptied. Jobs that are bound wait.
    Hold(bool),
    /// Take nothing more.
    Drain,
    /// The pool is deleted and cancels its builds.
    PoolDeleted,
    /// The API server does not accept the pod's token any more.
    Revoked,
    /// *Running* is acknowledged for this attempt.
    Running(Uid, i32),
    /// The build is over and its slot free; the outcome is being written.
    Ended(Uid),
    /// The task of this job is over; it has dealt with this attempt, if it came that far.
    Done(Uid, Option<i32>),
    /// The task of this job died of a fault of its own.
    Crashed(Uid),
}

/// Something to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Write *running*, then build.
    Start(Arc<BuildJob>),
    /// Give the job back.
    Unbind(Arc<BuildJob>, &'static str),
    /// Find out what became of an attempt that no task of this process runs, and write it.
    Account(Arc<BuildJob>),
    /// Read the job and come back with [`Event::Read`].
    Read(Arc<BuildJob>),
    /// End the task of this job.
    Stop(Uid, Stop),
}

/// Why a task is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The job is deleted or not ours any more: there is nothing to write.
    NotOurs,
    /// The job is to be cancelled.
    Cancelled,
    /// The pool is deleted, and its builds are cancelled with it.
    PoolDeleted,
    /// The pod's token is refused: the pod is deleted, and another attempt may follow elsewhere.
    Revoked,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doing {
    /// Nothing, until the daemon answers and the number of slots is known.
    Waiting,
    /// Giving it back.
    Unbinding,
    /// Writing *running*.
    Starting,
    /// Building this attempt.
    Building(i32),
    /// Writing the outcome.
    Reporting,
    /// Accounting for an attempt of another process.
    Accounting,
}

#[derive(Debug)]
struct Entry {
    /// As it was seen last.
    job: Arc<BuildJob>,
    doing: Doing,
    /// It was seen again while a task is at work.
    news: bool,
    /// It is not among the assigned jobs any more.
    left: bool,
    /// The task was told to end.
    stopped: bool,
}

/// Why nothing is started any more.
#[derive(Clone, Copy, Debug, Default)]
struct Closed {
    /// The member stops.
    draining: bool,
    /// The pool is deleted, and cancels its builds.
    pool_deleted: bool,
    /// The daemon is too old.
    unsupported: bool,
}

impl Closed {
    /// For the job that is given back.
    fn why(self) -> Option<&'static str> {
        match self {
            Self { draining: true, .. } => Some(STOPPING),
            Self { pool_deleted: true, .. } => Some(POOL_DELETED),
            Self { unsupported: true, .. } => Some(UNSUPPORTED),
            Self { .. } => None,
        }
    }
}

/// What is known about the jobs of this pod.
#[derive(Debug)]
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own, and any combination is possible")]
pub struct Core {
    me: Identity,
    synced: bool,
    slots: Option<usize>,
    daemon: bool,
    closed: Closed,
    held: bool,
    jobs: HashMap<Uid, Entry>,
    /// Attempts that this process has dealt with, while the watch may still show them as they were.
    finished: HashMap<Uid, i32>,
}

impl Core {
    /// Nothing is known yet.
    pub fn new(me: Identity) -> Self {
        Self {
            me,
            synced: false,
            slots: None,
            daemon: false,
            closed: Closed::default(),
            held: false,
            jobs: HashMap::new(),
            finished: HashMap::new(),
        }
    }

    /// Builds that take a slot.
    pub fn builds(&self) -> usize {
        self.count(|doing| matches!(doing, Doing::Starting | Doing::Building(_)))
    }

    fn count(&self, what: impl Fn(&Doing) -> bool) -> usize {
        self.jobs.values().filter(|entry| what(&entry.doing)).count()
    }

    /// Whether the runner may end: it takes nothing more and no task is at work.
    pub fn drained(&self) -> bool {
        self.closed.draining && self.jobs.values().all(|entry| entry.doing == Doing::Waiting)
    }

    /// Takes an event.
    pub fn handle(&mut self, event: Event) -> Vec<Action> {
        match event {
            Event::Seen(job) => self.seen(job),
            Event::Left(uid) => self.left(&uid),
            Event::Read(uid, job) => self.read(&uid, job),
            Event::Synced => {
                self.synced = true;
                self.consider()
            }
            Event::Slots(slots) => {
                self.slots = Some(slots);
                self.consider()
            }
            Event::Daemon(answers) => {
                self.daemon = answers;
                self.consider()
            }
            Event::Hold(held) => {
                self.held = held;
                self.consider()
            }
            Event::Supported(supported) => {
                self.closed.unsupported = !supported;
                self.consider()
            }
            Event::Drain => {
                self.closed.draining = true;
                self.consider()
            }
            Event::PoolDeleted => self.pool_deleted(),
            Event::Revoked => self.revoked(),
            Event::Running(uid, attempt) => {
                self.set(&uid, Doing::Building(attempt));
                // The wish may have been seen before the acknowledgement.
                self.cancel_if_wanted(uid)
            }
            Event::Ended(uid) => {
                self.set(&uid, Doing::Reporting);
                self.consider()
            }
            Event::Done(uid, attempt) => self.done(&uid, attempt),
            Event::Crashed(uid) => {
                let Some(entry) = self.jobs.remove(&uid) else { return vec![] };
                vec![Action::Read(entry.job)]
            }
        }
    }

    fn set(&mut self, uid: &str, doing: Doing) {
        if let Some(entry) = self.jobs.get_mut(uid) {
            entry.doing = doing;
        }
    }

    fn seen(&mut self, job: Arc<BuildJob>) -> Vec<Action> {
        let (Some(uid), Some(status)) = (job.metadata.uid.clone(), job.status.as_ref()) else { return vec![] };
        if status.assigned_to.as_deref() != Some(self.me.pod.uid.as_str()) {
            return self.left(&uid);
        }
        if self.finished.get(&uid).is_some_and(|finished| is_past(status, *finished)) {
            return vec![];
        }
        if let Some(entry) = self.jobs.get_mut(&uid) {
            let contradicted = matches!(entry.doing, Doing::Building(n) if contradicts(status, n, &self.me.instance));
            entry.job = job;
            entry.left = false;
            entry.news = entry.doing != Doing::Waiting;
            if contradicted && !entry.stopped {
                entry.stopped = true;
                return vec![Action::Stop(uid, Stop::NotOurs)];
            }
            let stops = self.cancel_if_wanted(uid);
            if !stops.is_empty() {
                return stops;
            }
        } else {
            let entry = Entry { job, doing: Doing::Waiting, news: false, left: false, stopped: false };
            self.jobs.insert(uid, entry);
        }
        self.consider()
    }

    /// A wish to cancel cannot be taken back, so it holds whichever version of the job shows it.
    fn cancel_if_wanted(&mut self, uid: Uid) -> Vec<Action> {
        let Some(entry) = self.jobs.get_mut(&uid) else { return vec![] };
        let why = match () {
            () if entry.job.spec.cancel => Stop::Cancelled,
            () if self.closed.pool_deleted => Stop::PoolDeleted,
            () => return vec![],
        };
        if !matches!(entry.doing, Doing::Building(_)) || std::mem::replace(&mut entry.stopped, true) {
            return vec![];
        }
        vec![Action::Stop(uid, why)]
    }

    /// Nothing more is started, and what is being started is stopped when it has come to that.
    fn pool_deleted(&mut self) -> Vec<Action> {
        self.closed.pool_deleted = true;
        let mut uids: Vec<Uid> = self.jobs.keys().cloned().collect();
        uids.sort_unstable();
        let mut actions: Vec<Action> = uids.into_iter().flat_map(|uid| self.cancel_if_wanted(uid)).collect();
        actions.extend(self.consider());
        actions
    }

    fn left(&mut self, uid: &str) -> Vec<Action> {
        self.finished.remove(uid);
        let Some(entry) = self.jobs.get_mut(uid) else { return vec![] };
        entry.left = true;
        entry.news = false;
        match entry.doing {
            Doing::Waiting => {
                self.jobs.remove(uid);
                vec![]
            }
            // Our own write makes it leave.
            Doing::Unbinding | Doing::Reporting => vec![],
            Doing::Starting | Doing::Building(_) | Doing::Accounting => vec![Action::Read(entry.job.clone())],
        }
    }

    fn read(&mut self, uid: &str, job: Option<Arc<BuildJob>>) -> Vec<Action> {
        let assigned = |job: &Arc<BuildJob>| {
            job.status.as_ref().is_some_and(|status| status.assigned_to.as_deref() == Some(self.me.pod.uid.as_str()))
        };
        if let Some(job) = job.filter(assigned) {
            return self.seen(job);
        }
        let Some(entry) = self.jobs.get_mut(uid) else { return vec![] };
        match entry.doing {
            Doing::Waiting => {
                self.jobs.remove(uid);
                vec![]
            }
            Doing::Unbinding | Doing::Reporting => vec![],
            Doing::Starting | Doing::Building(_) | Doing::Accounting => {
                entry.left = true;
                if std::mem::replace(&mut entry.stopped, true) {
                    return vec![];
                }
                vec![Action::Stop(uid.to_owned(), Stop::NotOurs)]
            }
        }
    }

    fn revoked(&mut self) -> Vec<Action> {
        let mut stops = Vec::new();
        for (uid, entry) in &mut self.jobs {
            if matches!(entry.doing, Doing::Building(_)) && !std::mem::replace(&mut entry.stopped, true) {
                stops.push(Action::Stop(uid.clone(), Stop::Revoked));
            }
        }
        stops
    }

    fn done(&mut self, uid: &str, attempt: Option<i32>) -> Vec<Action> {
        let Some(entry) = self.jobs.remove(uid) else { return vec![] };
        if entry.left {
            return vec![];
        }
        if let Some(attempt) = attempt {
            self.finished.insert(uid.to_owned(), attempt);
        }
        if entry.news { self.seen(entry.job) } else { vec![] }
    }

    /// Decides about every job that waits: those of an earlier process before the others, because the daemon may still be
    /// ending their builds, which take slots until then; then the one that was bound first.
    fn consider(&mut self) -> Vec<Action> {
        let mut waiting: Vec<_> =
            self.jobs.iter().filter(|(_, entry)| entry.doing == Doing::Waiting).map(|(uid, _)| uid.clone()).collect();
        waiting.sort_by_cached_key(|uid| {
            let status = self.jobs.get(uid).and_then(|entry| entry.job.status.as_ref());
            let running = status.is_some_and(|status| status.phase == JobPhase::Running);
            let bound_at = status.and_then(|status| status.timing.bound_at.clone());
            (!running, bound_at.map(|time| time.0), uid.clone())
        });
        let mut actions = Vec::new();
        let closed = self.closed.why();
        for uid in waiting {
            let builds = self.builds();
            let ending = self.count(|doing| *doing == Doing::Accounting);
            let Some(entry) = self.jobs.get_mut(&uid) else { continue };
            let phase = entry.job.status.as_ref().map(|status| status.phase);
            let ready = self.synced && self.daemon && !self.held && closed.is_none();
            match (phase, self.slots) {
                // The operator writes that it is cancelled; a write of ours would only be in the way.
                (Some(JobPhase::Bound), _) if entry.job.spec.cancel => {}
                (Some(JobPhase::Bound), _) if closed.is_some() => {
                    entry.doing = Doing::Unbinding;
                    actions.push(Action::Unbind(entry.job.clone(), closed.unwrap_or(STOPPING)));
                }
                (Some(JobPhase::Bound), Some(slots)) if ready && builds + ending < slots => {
                    entry.doing = Doing::Starting;
                    actions.push(Action::Start(entry.job.clone()));
                }
                (Some(JobPhase::Bound), Some(slots)) if ready && builds >= slots => {
                    entry.doing = Doing::Unbinding;
                    actions.push(Action::Unbind(entry.job.clone(), FULL));
                }
                // Whatever the instance: no task of this process runs it. What follows from its end depends on the pool.
                (Some(JobPhase::Running), Some(_)) if self.daemon => {
                    entry.doing = Doing::Accounting;
                    actions.push(Action::Account(entry.job.clone()));
                }
                _ => {}
            }
        }
        actions
    }
}

/// Whether this is how the job looked before attempt `finished` was dealt with: the watch is behind.
fn is_past(status: &BuildJobStatus, finished: i32) -> bool {
    let started = attempts(status);
    started < finished || (started == finished && status.phase == JobPhase::Running)
}

/// Whether the job can no longer be what it is while this process builds `attempt`. An older state cannot contradict.
fn contradicts(status: &BuildJobStatus, attempt: i32, instance: &str) -> bool {
    let started = attempts(status);
    let ours = status.phase == JobPhase::Running && status.runner_instance.as_deref() == Some(instance);
    started > attempt || (started == attempt && !ours)
}

fn attempts(status: &BuildJobStatus) -> i32 {
    i32::try_from(status.attempts.len()).unwrap_or(i32::MAX)
}
