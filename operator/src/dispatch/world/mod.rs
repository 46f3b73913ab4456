//! What is known: the watches, put right by the answers to our own writes until the watch has caught up.
//!
//! A write of ours was acknowledged, yet the watch still shows the version that it was made from: deciding on that would
//! give the same slot away twice. The answer therefore stands in for the job for exactly as long as the watch shows a
//! version that the answer is known to follow. No versions are compared by size.

mod objects;
mod route;
mod state;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use buildpools_crds::v1alpha1::JobPhase;
use jiff::Timestamp;
use tracing::warn;

use self::state::PoolState;
use super::explain::Explained;
use super::job::{Job, Target};
use super::nodes::{Nodes, Standing};
use super::routing::{Finished, Routes};
use super::schedule::{Action, Decision, Hold, Plan, schedule};
use super::view::{Key, Member, Pool};
use crate::kube_ext::listing::{Change, Listing};

#[cfg(test)]
mod tests;

/// An event of one of the watches.
#[derive(Debug)]
pub enum Seen {
    /// Of the watch of jobs.
    Job(Change<Box<Job>>),
    /// Of the watch of pools.
    Pool(Change<Pool>),
    /// Of the watch of members: a member and the pool's key, `None` for a pod that is no member.
    Pod(Change<Option<(Key, Member)>>),
    /// Of the watch of nodes.
    Node(Change<Standing>),
    /// A job that had ended before this process began to watch. Those that end later are seen to.
    Finished(Finished),
}

/// How a write ended.
#[derive(Clone, Debug)]
pub enum Settled {
    /// It is done, or the job was read again; this is the job now.
    Now(Box<Job>),
    /// Somebody else wrote first.
    Conflict,
    /// The job is gone.
    Deleted,
    /// It was not done. To be tried again, if it is still wanted, at that time.
    Failed(Timestamp),
}

/// All pools.
#[derive(Debug, Default)]
pub struct World {
    pools: HashMap<Key, PoolState>,
    /// Where each job stands: its pool, and its UID.
    jobs: HashMap<Key, (Key, Arc<str>)>,
    pods: HashMap<Key, (Key, String)>,
    routes: Routes,
    listed_jobs: Listing,
    listed_pools: Listing,
    listed_pods: Listing,
    nodes: Nodes,
    dirty: HashSet<Key>,
    /// When to look at pools even if nothing changes.
    timers: BTreeSet<(Timestamp, Key)>,
    /// When the first event came.
    began: Option<Timestamp>,
    /// Builds of the past, until the pools are known.
    finished: Vec<Finished>,
}

impl World {
    /// Whether each watch has told everything once. Before that, nothing may be decided.
    pub fn is_synced(&self) -> bool {
        self.listed_jobs.synced && self.listed_pools.synced && self.listed_pods.synced && self.nodes.is_synced()
    }

    /// Takes in an event of a watch.
    pub fn see(&mut self, seen: Seen, now: Timestamp) {
        let began = *self.began.get_or_insert(now);
        match seen {
            Seen::Job(event) => self.see_job(event, now),
            Seen::Pool(event) => self.see_pool(event, now),
            Seen::Pod(event) => self.see_pod(event, now),
            Seen::Node(event) => self.see_node(event),
            // What ends later is seen by the watch of jobs, and is not to be counted twice.
            Seen::Finished(build) if build.finished < began => {
                self.finished.push(build);
                if self.is_synced() {
                    self.learn();
                }
            }
            Seen::Finished(_) => {}
        }
    }

    /// Pools to decide about: those of which something changed, and those whose time has come.
    pub fn due(&mut self, now: Timestamp) -> Vec<Key> {
        if !self.is_synced() {
            return Vec::new();
        }
        self.learn();
        self.route(now);
        let with_slots: Vec<Key> = self.dirty.iter().filter(|key| !key.1.is_empty()).cloned().collect();
        for key in with_slots {
            self.take_over(&key, now);
        }
        let timed = self.timers.iter().take_while(|(when, _)| *when <= now).map(|(_, key)| key.clone());
        self.dirty.extend(timed);
        let mut due: Vec<Key> = self.dirty.drain().collect();
        due.sort_unstable();
        due
    }

    /// When the time of the next pool comes.
    pub fn next_look(&self) -> Option<Timestamp> {
        self.timers.first().map(|(when, _)| *when).filter(|_| self.is_synced())
    }

    /// Decides about one pool.
    pub fn plan(&mut self, key: &Key, now: Timestamp) -> Plan {
        let Some(state) = self.pools.get_mut(key) else { return Plan::default() };
        state.snapshot.advance(now);
        let plan = schedule(&state.snapshot, now);
        state.snapshot.apply(&plan);
        state.look_again(plan.look_again, &mut self.timers);
        if state.snapshot.is_empty() {
            state.look_again(None, &mut self.timers);
            self.pools.remove(key);
        }
        plan
    }

    /// A write begins: nothing more is decided about the job until it is settled.
    pub fn begin(&mut self, Decision { job, action, .. }: &Decision, now: Timestamp) {
        let Some((pool, _)) = self.jobs.get(&job.key) else { return };
        let Some(state) = self.pools.get_mut(pool) else { return };
        if matches!(action, Action::Bind { .. }) {
            state.snapshot.served(&job.uid, now);
            self.routes.ran(pool, job.cache_key);
        }
        state.snapshot.hold(&job.uid, Hold::Writing(action.claim()), now);
    }

    /// A write that was made from this version of the job has ended.
    pub fn settle(&mut self, from: &Job, settled: Settled, now: Timestamp) {
        // Seen as deleted, or as ended, while the write was under way.
        let Some((pool, _)) = self.jobs.get(&from.key).filter(|(_, uid)| *uid == from.uid) else { return };
        let pool = pool.clone();
        let Some(state) = self.pools.get_mut(&pool) else { return };
        let Some(known) = state.snapshot.job(&from.uid) else { return };
        self.dirty.insert(pool.clone());
        let unchanged = known.version == from.version;
        state.snapshot.release(&from.uid, now);
        match settled {
            Settled::Now(job) if unchanged => {
                self.routes.note(from, false);
                self.routes.note(&job, !pool.1.is_empty());
                state.put_answer(from, *job, now);
            }
            Settled::Conflict | Settled::Deleted if unchanged => state.snapshot.hold(&from.uid, Hold::Outdated, now),
            // The watch was faster than the answer; what it says is newer or the same.
            Settled::Now(_) | Settled::Conflict | Settled::Deleted => {}
            Settled::Failed(until) => state.snapshot.hold(&from.uid, Hold::Until(until), now),
        }
        // Its pool may have gone while it was being written about.
        if !matches!(from.target, Target::Named(_)) && !self.takes_jobs(&pool) {
            self.routes.find(from.key.clone());
        }
    }

    /// When a job entered the queue.
    pub fn entered(&self, job: &Job) -> Timestamp {
        let pool = self.jobs.get(&job.key).and_then(|(pool, _)| self.pools.get(pool));
        pool.and_then(|state| state.snapshot.entered(&job.uid)).unwrap_or_else(|| job.queued())
    }

    /// Jobs of a pool that wait for a slot, and when the oldest of them was created; `None` if the pool is forgotten.
    pub fn queue(&self, pool: &Key) -> Option<(usize, Option<Timestamp>)> {
        self.pools.get(pool).map(|state| state.snapshot.waiting())
    }

    /// What would be decided now about each job that waits, and why.
    pub fn explain(&self, now: Timestamp) -> Vec<Explained> {
        let mut pools: Vec<&PoolState> = self.pools.values().collect();
        pools.sort_unstable_by(|one, other| one.snapshot.key.cmp(&other.snapshot.key));
        pools.into_iter().flat_map(|state| state.snapshot.explain(now)).collect()
    }

    fn see_job(&mut self, change: Change<Box<Job>>, now: Timestamp) {
        match change {
            Change::Begin => self.listed_jobs.begin(),
            Change::Has(key, job) => {
                // A job that cannot be read keeps what was known of it: forgetting it would give its slot away.
                self.listed_jobs.has(&key);
                match job {
                    Ok(job) => self.put_job(*job, now),
                    Err(error) => warn!(namespace = key.0, job = key.1, error, "a BuildJob cannot be read"),
                }
            }
            Change::Complete => {
                for key in self.listed_jobs.gone(self.jobs.keys()) {
                    self.drop_job(&key, now);
                }
            }
            Change::Gone(key, _) => self.drop_job(&key, now),
        }
    }

    fn put_job(&mut self, job: Job, now: Timestamp) {
        if self.jobs.get(&job.key).is_some_and(|(_, uid)| *uid != job.uid) {
            // Another job of the same name.
            self.drop_job(&job.key, now);
        }
        let known = self.jobs.get(&job.key).cloned();
        let there = known.as_ref().and_then(|(pool, _)| self.pools.get(pool));
        if there.is_some_and(|state| state.has_overtaken(&job)) {
            return;
        }
        let pool = self.pool_of(&job);
        if let Some((former, uid)) = known.filter(|(former, _)| *former != pool) {
            // Another process has put it there, or its pool went away.
            if let Some(state) = self.pools.get_mut(&former) {
                state.overtaken.remove(&uid);
                if let Some(old) = state.snapshot.hand_over(&uid) {
                    self.routes.note(&old, false);
                }
                self.dirty.insert(former);
            }
        } else if let Some(old) = self.pools.get(&pool).and_then(|state| state.snapshot.job(&job.uid)) {
            self.routes.note(old, false);
        }
        self.jobs.insert(job.key.clone(), (pool.clone(), job.uid.clone()));
        if job.status.phase == JobPhase::Running {
            self.routes.ran(&pool, job.cache_key);
        }
        let (key, uid) = (job.key.clone(), job.uid.clone());
        self.state(&pool, now).put(job, now);
        if let Some(job) = self.pools.get(&pool).and_then(|state| state.snapshot.job(&uid)) {
            self.routes.note(job, !pool.1.is_empty());
        }
        if pool.1.is_empty() {
            self.routes.find(key);
        }
        self.dirty.insert(pool);
    }

    fn drop_job(&mut self, key: &Key, now: Timestamp) {
        let Some((pool, uid)) = self.jobs.remove(key) else { return };
        if let Some(state) = self.pools.get_mut(&pool)
            && let Some(job) = state.remove(&uid, now)
        {
            self.routes.note(&job, false);
        }
        self.dirty.insert(pool);
    }

    /// Takes the builds of the past into account, now that the pools are known.
    fn learn(&mut self) {
        for build in std::mem::take(&mut self.finished) {
            if let Some(key) = build.cache_key {
                self.routes.ran(&build.pool, key);
            }
            if let Some(state) = self.pools.get_mut(&build.pool) {
                let group = state.snapshot.group(&build.labels);
                let length = build.finished.duration_since(build.started).try_into().unwrap_or_default();
                state.snapshot.usage.charge(&group, length, build.finished);
            }
        }
    }

    fn state(&mut self, key: &Key, now: Timestamp) -> &mut PoolState {
        self.pools.entry(key.clone()).or_insert_with(|| PoolState::new(key.clone(), now))
    }
}
