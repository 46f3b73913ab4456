//! Jobs that name no pool: which one they are in.

use std::collections::HashMap;

use buildpools_crds::v1alpha1::JobPhase;
use jiff::Timestamp;

use super::World;
use crate::dispatch::job::{Job, Target};
use crate::dispatch::routing::{self, Candidate};
use crate::dispatch::view::{Key, Pool};

impl World {
    /// Where a job belongs that was just seen. One that waits and whose pool is to be found stands under an empty name
    /// until it is.
    pub(super) fn pool_of(&mut self, job: &Job) -> Key {
        let namespace = || job.key.0.clone();
        match &job.target {
            Target::Named(name) => return (namespace(), name.clone()),
            _ if job.status.phase != JobPhase::Pending => {
                return (namespace(), job.status.pool.clone().unwrap_or_default());
            }
            _ => {}
        }
        match self.jobs.get(&job.key) {
            Some((pool, uid)) if *uid == job.uid => {
                let stays = !pool.1.is_empty() && self.takes_jobs(pool);
                if stays { pool.clone() } else { self.find_later(job) }
            }
            _ => self.find_later(job),
        }
    }

    fn find_later(&mut self, job: &Job) -> Key {
        self.routes.find(job.key.clone());
        (job.key.0.clone(), String::new())
    }

    pub(super) fn takes_jobs(&self, pool: &Key) -> bool {
        self.pool(pool).is_some_and(|pool| pool.deleting.is_none())
    }

    fn pool(&self, key: &Key) -> Option<&Pool> {
        self.pools.get(key)?.snapshot.pool.as_ref()
    }

    /// A pool has come, changed or gone: the jobs that could not be in it before may be now, or must leave it.
    pub(super) fn pool_changed(&mut self, key: &Key) {
        let unplaced = (key.0.clone(), String::new());
        let mut find: Vec<Key> = Vec::new();
        if let Some(state) = self.pools.get(&unplaced) {
            find.extend(state.snapshot.jobs().map(|job| job.key.clone()));
        }
        if !self.takes_jobs(key)
            && let Some(state) = self.pools.get(key)
        {
            let flexible = state.snapshot.jobs().filter(|job| !matches!(job.target, Target::Named(_)));
            find.extend(flexible.map(|job| job.key.clone()));
        }
        for job in find {
            self.routes.find(job);
        }
    }

    /// Finds the pools of the jobs that have none.
    pub(super) fn route(&mut self, now: Timestamp) {
        for key in self.routes.take_lost() {
            let Some((from, uid)) = self.jobs.get(&key).cloned() else { continue };
            let Some(state) = self.pools.get(&from) else { continue };
            // A job about which something is being written is asked for again when that is settled.
            let movable = state.snapshot.hold_of(&uid).is_none();
            let Some(job) = state.snapshot.job(&uid).filter(|job| movable && job.status.phase == JobPhase::Pending)
            else {
                continue;
            };
            let found = self.find_pool(job).map(|name| (key.0.clone(), name));
            let to = found.unwrap_or_else(|| (key.0.clone(), String::new()));
            self.hand_over(&key, &to, now);
        }
    }

    fn find_pool(&self, job: &Job) -> Option<String> {
        let namespace = &job.key.0;
        let pools = self.routes.pools(namespace).filter_map(|name| {
            let state = self.pools.get(&(namespace.clone(), name.clone()))?;
            let pool = state.snapshot.pool.as_ref().filter(|pool| pool.deleting.is_none())?;
            Some((name.as_str(), pool, &state.snapshot))
        });
        // Where it was, also before this process was there.
        let before = job.status.pool.as_deref();
        if job.target == Target::Default {
            let stays = pools.clone().map(|(name, ..)| name).find(|name| Some(*name) == before);
            let default = || routing::default_pool(pools.clone().map(|(name, pool, _)| (name, pool)));
            return stays.or_else(default).map(str::to_owned);
        }
        let ran_last = self.routes.ran_last(namespace, job.cache_key);
        let candidates: Vec<Candidate<'_>> = pools
            .filter(|(name, pool, _)| routing::matches(&job.target, name, pool))
            .map(|(name, _, snapshot)| Candidate {
                name,
                load: snapshot.load(),
                slots: snapshot.slots(),
                ran_last: ran_last == Some(name),
            })
            .collect();
        let stays = candidates.iter().find(|pool| Some(pool.name) == before && pool.load < pool.slots);
        let chosen = stays.map(|pool| pool.name).or_else(|| routing::choose(job.cache_key, &candidates));
        chosen.map(str::to_owned)
    }

    /// A pool with slots that nobody in it waits for takes over jobs that wait elsewhere for want of one.
    pub(super) fn take_over(&mut self, to: &Key, now: Timestamp) {
        let Some(state) = self.pools.get(to) else { return };
        let Some(pool) = state.snapshot.pool.as_ref().filter(|pool| pool.deleting.is_none()) else { return };
        let spare = state.snapshot.spare();
        if spare == 0 {
            return;
        }
        let mut over: HashMap<&Key, usize> = HashMap::new();
        let waits = |name: &str| {
            let key = (to.0.clone(), name.to_owned());
            let (from, uid) = self.jobs.get(&key)?;
            let there = &self.pools.get(from)?.snapshot;
            // Jobs for which there is no slot where they are.
            let over = over.entry(from).or_insert_with(|| there.load().saturating_sub(there.slots()));
            let movable = from != to && *over > 0 && there.hold_of(uid).is_none();
            *over -= usize::from(movable);
            movable.then_some(key)
        };
        let jobs: Vec<Key> = self.routes.flexible(to, pool).filter_map(waits).take(spare).collect();
        for job in jobs {
            self.hand_over(&job, to, now);
        }
    }

    fn hand_over(&mut self, key: &Key, to: &Key, now: Timestamp) {
        let Some((from, uid)) = self.jobs.get(key).cloned() else { return };
        if from == *to {
            return;
        }
        let Some(state) = self.pools.get_mut(&from) else { return };
        let Some(job) = state.snapshot.hand_over(&uid) else { return };
        let overtaken = state.overtaken.remove(&uid);
        self.dirty.insert(from);
        self.dirty.insert(to.clone());
        self.jobs.insert(key.clone(), (to.clone(), uid.clone()));
        self.routes.note(&job, !to.1.is_empty());
        let state = self.state(to, now);
        if let Some(overtaken) = overtaken {
            state.overtaken.insert(uid, overtaken);
        }
        state.snapshot.put(job, now);
    }
}
