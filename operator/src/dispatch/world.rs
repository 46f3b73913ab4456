//! What is known: the three watches, put right by the answers to our own writes until the watch has caught up.
//!
//! A write of ours was acknowledged, yet the watch still shows the version that it was made from: deciding on that would
//! give the same slot away twice. The answer therefore stands in for the job for exactly as long as the watch shows a
//! version that the answer is known to follow. No versions are compared by size.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use buildpools_crds::v1alpha1::JobPhase;
use jiff::Timestamp;
use kube::Resource;
use kube::core::DeserializeGuard;
use kube::runtime::watcher::Event;
use tracing::warn;

use super::schedule::{Decision, Hold, Place, Plan, Snapshot, schedule};
use super::view::{Gone, Job, Key, Member, Pool, key};

#[cfg(test)]
mod tests;

/// Time for which a member that has turned a job down gets no other.
const DECLINED_FOR: Duration = Duration::from_secs(1);

/// An event of one of the watches.
#[derive(Debug)]
pub enum Seen {
    /// Of the watch of jobs.
    Job(Change<Box<Job>>),
    /// Of the watch of pools.
    Pool(Change<Pool>),
    /// Of the watch of members: a member and the pool's key, `None` for a pod that is no member.
    Pod(Change<Option<(Key, Member)>>),
}

/// A change of the objects of one kind.
#[derive(Debug)]
pub enum Change<T> {
    /// A complete list begins.
    Begin,
    /// The object is there. Or it is there and cannot be read, which must not stop the watch.
    Has(Key, Result<T, String>),
    /// The list is complete: what it did not have is gone.
    Complete,
    /// The object is gone; what it was last, if that can be read.
    Gone(Key, Option<T>),
}

impl<T> Change<T> {
    /// From a watch that guards against objects that cannot be read.
    pub fn of<K: Resource>(
        event: Event<DeserializeGuard<K>>,
        has: impl FnOnce(K) -> T,
        gone: impl FnOnce(K) -> T,
    ) -> Self {
        match event {
            Event::Init => Self::Begin,
            Event::InitDone => Self::Complete,
            Event::InitApply(object) | Event::Apply(object) => {
                let key = key(object.meta());
                Self::Has(key, object.0.map(has).map_err(|invalid| invalid.error))
            }
            Event::Delete(object) => Self::Gone(key(object.meta()), object.0.ok().map(gone)),
        }
    }
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

#[derive(Debug, Default)]
struct Listing {
    synced: bool,
    /// What the list that is being received has had so far.
    seen: Option<HashSet<Key>>,
}

#[derive(Debug, Default)]
struct PoolState {
    snapshot: Snapshot,
    /// Versions that our writes have overtaken and that the watch may still show, by UID of the job.
    overtaken: HashMap<String, Vec<String>>,
    look_again: Option<Timestamp>,
}

/// All pools.
#[derive(Debug, Default)]
pub struct World {
    pools: HashMap<Key, PoolState>,
    /// Where each job stands: its pool and its place there.
    jobs: HashMap<Key, (Key, Place)>,
    pods: HashMap<Key, (Key, String)>,
    listed_jobs: Listing,
    listed_pools: Listing,
    listed_pods: Listing,
    dirty: HashSet<Key>,
}

impl World {
    /// Whether each watch has told everything once. Before that, nothing may be decided.
    pub fn is_synced(&self) -> bool {
        self.listed_jobs.synced && self.listed_pools.synced && self.listed_pods.synced
    }

    /// Takes in an event of a watch.
    pub fn see(&mut self, seen: Seen, now: Timestamp) {
        match seen {
            Seen::Job(event) => self.see_job(event, now),
            Seen::Pool(event) => self.see_pool(event, now),
            Seen::Pod(event) => self.see_pod(event, now),
        }
    }

    /// Pools to decide about: those of which something changed, and those whose time has come.
    pub fn due(&mut self, now: Timestamp) -> Vec<Key> {
        if !self.is_synced() {
            return Vec::new();
        }
        let mut due: Vec<Key> = self.dirty.drain().collect();
        let timed = self.pools.iter().filter(|(_, state)| state.look_again.is_some_and(|when| when <= now));
        due.extend(timed.map(|(key, _)| key.clone()));
        due
    }

    /// When the time of the next pool comes.
    pub fn next_look(&self) -> Option<Timestamp> {
        if !self.is_synced() {
            return None;
        }
        self.pools.values().filter_map(|state| state.look_again).min()
    }

    /// Decides about one pool.
    pub fn plan(&mut self, key: &Key, now: Timestamp) -> Plan {
        let Some(state) = self.pools.get_mut(key) else { return Plan::default() };
        state.tidy(now);
        let plan = schedule(&state.snapshot, now);
        state.look_again = plan.look_again;
        if state.is_empty() {
            self.pools.remove(key);
        }
        plan
    }

    /// A write begins: nothing more is decided about the job until it is settled.
    pub fn begin(&mut self, Decision { job, action }: &Decision) {
        if let Some(state) = self.pools.get_mut(&job.pool_key()) {
            state.snapshot.held.insert(job.uid.clone(), Hold::Writing(action.claim()));
        }
    }

    /// A write that was made from this version of the job has ended.
    pub fn settle(&mut self, from: &Job, settled: Settled) {
        let pool = from.pool_key();
        let Some(state) = self.pools.get_mut(&pool) else { return };
        state.snapshot.held.remove(&from.uid);
        self.dirty.insert(pool);
        let place = place(from);
        // Seen as deleted, or as ended, while the write was under way.
        let Some(known) = state.snapshot.jobs.get_mut(&place).filter(|known| known.uid == from.uid) else { return };
        match settled {
            Settled::Now(job) if known.version == from.version => {
                state.overtaken.entry(from.uid.clone()).or_default().push(from.version.clone());
                *known = *job;
            }
            // The watch was faster than the answer; what it says is newer or the same.
            Settled::Now(_) => {}
            Settled::Conflict | Settled::Deleted => {
                if known.version == from.version {
                    let hold = Hold::Outdated { version: from.version.clone() };
                    state.snapshot.held.insert(from.uid.clone(), hold);
                }
            }
            Settled::Failed(until) => {
                state.snapshot.held.insert(from.uid.clone(), Hold::Until(until));
            }
        }
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
                for key in self.listed_jobs.complete(self.jobs.keys()) {
                    self.drop_job(&key);
                }
            }
            Change::Gone(key, _) => self.drop_job(&key),
        }
    }

    fn put_job(&mut self, job: Job, now: Timestamp) {
        let place = place(&job);
        let pool = job.pool_key();
        if self.jobs.get(&job.key).is_some_and(|(_, known)| *known != place) {
            // Another job of the same name.
            self.drop_job(&job.key);
        }
        self.jobs.insert(job.key.clone(), (pool.clone(), place.clone()));
        let state = state(&mut self.pools, &pool, now);
        if state.overtaken.get(&job.uid).is_some_and(|versions| versions.contains(&job.version)) {
            return;
        }
        state.overtaken.remove(&job.uid);
        state.note_declined(&place, &job, now);
        state.snapshot.jobs.insert(place, job);
        self.dirty.insert(pool);
    }

    fn drop_job(&mut self, key: &Key) {
        let Some((pool, place)) = self.jobs.remove(key) else { return };
        if let Some(state) = self.pools.get_mut(&pool) {
            state.snapshot.jobs.remove(&place);
            state.snapshot.held.remove(&place.2);
            state.overtaken.remove(&place.2);
        }
        self.dirty.insert(pool);
    }

    fn see_pool(&mut self, change: Change<Pool>, now: Timestamp) {
        match change {
            Change::Begin => self.listed_pools.begin(),
            Change::Has(key, pool) => {
                self.listed_pools.has(&key);
                let state = state(&mut self.pools, &key, now);
                let pool = pool.unwrap_or_else(|error| {
                    warn!(namespace = key.0, pool = key.1, error, "a BuildPool cannot be read");
                    // It exists, so its jobs wait. With what was known of it, or else without a slot.
                    state.snapshot.pool.clone().unwrap_or_else(Pool::unreadable)
                });
                // Members report in the pool's status: nothing to decide anew.
                if state.snapshot.pool.as_ref() != Some(&pool) {
                    state.snapshot.pool = Some(pool);
                    state.snapshot.missing_since = None;
                    self.dirty.insert(key);
                }
            }
            Change::Complete => {
                let known = self.pools.iter().filter(|(_, state)| state.snapshot.pool.is_some()).map(|(key, _)| key);
                for key in self.listed_pools.complete(known) {
                    self.drop_pool(&key, now);
                }
            }
            Change::Gone(key, _) => self.drop_pool(&key, now),
        }
    }

    fn drop_pool(&mut self, key: &Key, now: Timestamp) {
        if let Some(state) = self.pools.get_mut(key) {
            state.snapshot.pool = None;
            state.snapshot.missing_since = Some(now);
            self.dirty.insert(key.clone());
        }
    }

    fn see_pod(&mut self, change: Change<Option<(Key, Member)>>, now: Timestamp) {
        match change {
            Change::Begin => self.listed_pods.begin(),
            Change::Has(key, member) => {
                self.listed_pods.has(&key);
                match member {
                    Ok(Some((pool, member))) => self.put_pod(key, pool, member, now),
                    Ok(None) => self.drop_pod(&key, None),
                    Err(error) => warn!(namespace = key.0, pod = key.1, error, "a pod cannot be read"),
                }
            }
            Change::Complete => {
                for key in self.listed_pods.complete(self.pods.keys()) {
                    self.drop_pod(&key, None);
                }
            }
            Change::Gone(key, last) => self.drop_pod(&key, last.flatten().map(|(_, member)| member)),
        }
    }

    fn put_pod(&mut self, key: Key, pool: Key, member: Member, now: Timestamp) {
        if self.pods.get(&key).is_some_and(|known| (&known.0, &known.1) != (&pool, &member.uid)) {
            // A StatefulSet's pods come again under the same name.
            self.drop_pod(&key, None);
        }
        self.pods.insert(key, (pool.clone(), member.uid.clone()));
        let state = state(&mut self.pools, &pool, now);
        if state.snapshot.members.get(&member.uid) != Some(&member) {
            state.snapshot.members.insert(member.uid.clone(), member);
            self.dirty.insert(pool);
        }
    }

    fn drop_pod(&mut self, key: &Key, last: Option<Member>) {
        let Some((pool, uid)) = self.pods.remove(key) else { return };
        let Some(state) = self.pools.get_mut(&pool) else { return };
        if let Some(known) = state.snapshot.members.remove(&uid) {
            // Kept until no job is assigned to it, because it knows why it went.
            let last = last.filter(|last| last.uid == uid).unwrap_or(known);
            let gone = Gone::absent(&last.pod);
            state.snapshot.members.insert(uid, last.deleted(gone));
            self.dirty.insert(pool);
        }
    }
}

impl Listing {
    fn begin(&mut self) {
        self.seen = Some(HashSet::new());
    }

    fn has(&mut self, key: &Key) {
        if let Some(seen) = &mut self.seen {
            seen.insert(key.clone());
        }
    }

    /// What is known and was not in the list.
    fn complete<'a>(&mut self, known: impl Iterator<Item = &'a Key>) -> Vec<Key> {
        self.synced = true;
        let seen = self.seen.take().unwrap_or_default();
        known.filter(|key| !seen.contains(*key)).cloned().collect()
    }
}

impl PoolState {
    /// A member that gives a job back has no room that we know of: it is let alone for a moment, else both would write
    /// in turns as fast as they can.
    fn note_declined(&mut self, place: &Place, now_seen: &Job, now: Timestamp) {
        let Some(before) = self.snapshot.jobs.get(place) else { return };
        let ours = matches!(self.snapshot.held.get(&now_seen.uid), Some(Hold::Writing(_)));
        if !ours
            && before.status.phase == JobPhase::Bound
            && now_seen.status.phase == JobPhase::Pending
            && let Some(uid) = &before.status.assigned_to
            && let Ok(until) = now.saturating_add(DECLINED_FOR)
        {
            self.snapshot.declined.insert(uid.clone(), until);
        }
    }

    /// Forgets what no decision depends on any more.
    fn tidy(&mut self, now: Timestamp) {
        let Snapshot { members, jobs, held, declined, .. } = &mut self.snapshot;
        declined.retain(|_, until| *until > now);
        held.retain(|_, hold| !matches!(hold, Hold::Until(until) if *until <= now));
        if members.values().any(|member| member.deleted) {
            let assigned: HashSet<&String> = jobs.values().filter_map(|job| job.status.assigned_to.as_ref()).collect();
            members.retain(|uid, member| !member.deleted || assigned.contains(uid));
        }
    }

    fn is_empty(&self) -> bool {
        let Snapshot { pool, members, jobs, .. } = &self.snapshot;
        pool.is_none() && members.is_empty() && jobs.is_empty()
    }
}

fn state<'a>(pools: &'a mut HashMap<Key, PoolState>, key: &Key, now: Timestamp) -> &'a mut PoolState {
    if !pools.contains_key(key) {
        let snapshot = Snapshot { key: key.clone(), missing_since: Some(now), ..Snapshot::default() };
        pools.insert(key.clone(), PoolState { snapshot, ..PoolState::default() });
    }
    pools.entry(key.clone()).or_default()
}

/// Where a job stands in its pool's queue.
pub fn place(job: &Job) -> Place {
    (job.created, job.key.1.clone(), job.uid.clone())
}
