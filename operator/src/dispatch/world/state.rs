//! One pool, and what the watch may still show of it.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use buildpools_crds::v1alpha1::JobPhase;
use jiff::Timestamp;

use crate::dispatch::job::Job;
use crate::dispatch::schedule::{Claim, Hold, Snapshot};
use crate::dispatch::view::Key;

/// Time for which a member that has turned a job down gets no other.
const DECLINED_FOR: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(super) struct PoolState {
    pub snapshot: Snapshot,
    /// Versions that our writes have overtaken and that the watch may still show, by UID of the job.
    pub overtaken: HashMap<Arc<str>, Vec<String>>,
    look_again: Option<Timestamp>,
}

impl PoolState {
    pub fn new(key: Key, now: Timestamp) -> Self {
        Self { snapshot: Snapshot::new(key, now), ..Self::default() }
    }

    /// Whether one of our writes is known to have followed this version.
    pub fn has_overtaken(&self, job: &Job) -> bool {
        self.overtaken.get(&job.uid).is_some_and(|versions| versions.contains(&job.version))
    }

    /// The watch has brought a job.
    pub fn put(&mut self, job: Job, now: Timestamp) {
        self.overtaken.remove(&job.uid);
        self.note_declined(&job, now);
        let uid = job.uid.clone();
        let newer = self.snapshot.job(&uid).is_none_or(|known| known.version != job.version);
        self.snapshot.put(job, now);
        if newer && matches!(self.snapshot.hold_of(&uid), Some(Hold::Outdated)) {
            self.snapshot.release(&uid, now);
        }
    }

    /// The answer to a write stands in for the watch.
    pub fn put_answer(&mut self, from: &Job, job: Job, now: Timestamp) {
        self.overtaken.entry(from.uid.clone()).or_default().push(from.version.clone());
        self.snapshot.put(job, now);
    }

    pub fn remove(&mut self, uid: &str, now: Timestamp) -> Option<Job> {
        self.overtaken.remove(uid);
        self.snapshot.remove(uid, now)
    }

    /// When to look again, kept in step with all pools' times.
    pub fn look_again(&mut self, when: Option<Timestamp>, timers: &mut BTreeSet<(Timestamp, Key)>) {
        if self.look_again != when {
            let key = &self.snapshot.key;
            if let Some(old) = self.look_again {
                timers.remove(&(old, key.clone()));
            }
            timers.extend(when.map(|when| (when, key.clone())));
            self.look_again = when;
        }
    }

    /// A member that gives a job back has no room that we know of: it is let alone for a moment, else both would write
    /// in turns as fast as they can.
    fn note_declined(&mut self, now_seen: &Job, now: Timestamp) {
        let Some(before) = self.snapshot.job(&now_seen.uid) else { return };
        let ours = matches!(self.snapshot.hold_of(&now_seen.uid), Some(Hold::Writing(Claim::Next)));
        if !ours
            && before.status.phase == JobPhase::Bound
            && now_seen.status.phase == JobPhase::Pending
            && let Some(uid) = before.status.assigned_to.clone()
            && let Ok(until) = now.saturating_add(DECLINED_FOR)
        {
            self.snapshot.declined.insert(uid, until);
        }
    }
}
