//! What is known of finished jobs and of pools, namespace by namespace, and when to look at which.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use jiff::Timestamp;
use tracing::warn;

use super::job::{Finished, Hold};
use super::plan::{Deletion, Namespace, Rules, plan};
use crate::kube_ext::backoff::{self, Limits};
use crate::kube_ext::listing::{Change, Key, Listing};

#[cfg(test)]
mod tests;

/// Time for which changes of a namespace are collected before it is looked at. Nothing here is urgent, and a look costs
/// as much as the namespace has finished jobs.
pub const COLLECT: Duration = Duration::from_secs(1);

/// Delays after failures to delete one job.
const FAILURES: Limits = Limits { first: Duration::from_secs(1), most: Duration::from_mins(5) };

/// An event of one of the watches.
#[derive(Debug)]
pub enum Seen {
    /// Of the watch of finished jobs.
    Job(Change<Box<Finished>>),
    /// Of the watch of pools.
    Pool(Change<Rules>),
}

/// What an event was news of.
#[derive(Debug)]
pub enum News {
    /// A job that had ended before this process began to watch.
    Found(Box<Finished>),
    /// A job that has ended since.
    Ended(Box<Finished>),
}

/// How a deletion went.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Settled {
    /// It is done, or the job is not what it was: the watch says which.
    Watch,
    /// It failed. The jitter of the next attempt, from 0 to 1.
    Failed(f64),
}

/// All namespaces.
#[derive(Debug, Default)]
pub struct Known {
    namespaces: HashMap<Box<str>, Namespace>,
    agenda: Agenda,
    jobs: Listing,
    pools: Listing,
}

impl Known {
    /// Takes in an event of a watch.
    pub fn see(&mut self, seen: Seen, now: Timestamp) -> Option<News> {
        match seen {
            Seen::Job(change) => self.see_job(change, now),
            Seen::Pool(change) => {
                self.see_pool(change, now);
                None
            }
        }
    }

    /// When to look at the next namespace. Before each watch has told everything, never.
    pub fn next_look(&self) -> Option<Timestamp> {
        self.agenda.first().filter(|_| self.jobs.synced && self.pools.synced)
    }

    /// What goes now, with its namespace. It is held until it is [settled](Self::settle).
    pub fn due(&mut self, now: Timestamp) -> Vec<(Box<str>, Deletion)> {
        let mut due = Vec::new();
        while self.next_look().is_some_and(|when| when <= now) {
            let Some(name) = self.agenda.pop() else { break };
            let Some(namespace) = self.namespaces.get_mut(&name) else { continue };
            let plan = plan(namespace, now);
            if let Some(when) = plan.look_again {
                self.agenda.look(&name, when);
            }
            for deletion in plan.deletions {
                if let Some(job) = namespace.jobs.get_mut(&deletion.name) {
                    let failures = if let Some(Hold::Until(_, failures)) = job.hold { failures } else { 0 };
                    job.hold = Some(Hold::Writing { failures });
                }
                due.push((name.clone(), deletion));
            }
        }
        due
    }

    /// A deletion has ended.
    pub fn settle(&mut self, namespace: &str, deletion: &Deletion, settled: Settled, now: Timestamp) {
        let jobs = self.namespaces.get_mut(namespace).map(|namespace| &mut namespace.jobs);
        let Some(job) = jobs.and_then(|jobs| jobs.get_mut(&deletion.name)) else { return };
        let Some(Hold::Writing { failures }) = job.hold.filter(|_| job.uid == deletion.uid) else { return };
        job.hold = match settled {
            Settled::Watch if job.version == deletion.version => Some(Hold::Outdated),
            // The watch was faster.
            Settled::Watch => None,
            Settled::Failed(jitter) => {
                let delay = backoff::delay(FAILURES, failures, jitter);
                Some(Hold::Until(now.saturating_add(delay).unwrap_or(Timestamp::MAX), failures.saturating_add(1)))
            }
        };
        self.agenda.collect(namespace, now);
    }

    fn see_job(&mut self, change: Change<Box<Finished>>, now: Timestamp) -> Option<News> {
        match change {
            Change::Begin => self.jobs.begin(),
            Change::Has(key, Ok(finished)) => {
                self.jobs.has(&key);
                return self.put_job(&key, finished, now);
            }
            Change::Has(key, Err(error)) => {
                // What was known of it stays: it is not deleted for being odd, nor counted twice.
                self.jobs.has(&key);
                warn!(namespace = key.0, job = key.1, error, "a finished BuildJob cannot be read");
            }
            Change::Complete => {
                let seen = self.jobs.complete();
                for (name, namespace) in &mut self.namespaces {
                    namespace.jobs.retain(|job, _| seen.contains(&(name.to_string(), job.to_string())));
                }
                self.tidy_all();
            }
            Change::Gone(key, _) => self.drop_job(&key),
        }
        None
    }

    fn put_job(&mut self, key: &Key, finished: Box<Finished>, now: Timestamp) -> Option<News> {
        let Some(mut record) = finished.record() else {
            self.drop_job(key);
            return None;
        };
        let jobs = &mut self.namespaces.entry(key.0.as_str().into()).or_default().jobs;
        let known = jobs.get(key.1.as_str()).filter(|known| known.uid == record.uid);
        let new = known.is_none();
        record.hold = known.and_then(|known| {
            known.hold.filter(|hold| match hold {
                Hold::Outdated => known.version == record.version,
                Hold::Writing { .. } | Hold::Until(..) => true,
            })
        });
        jobs.insert(key.1.as_str().into(), record);
        self.agenda.collect(&key.0, now);
        match (new, self.jobs.synced) {
            (true, true) => Some(News::Ended(finished)),
            (true, false) => Some(News::Found(finished)),
            (false, _) => None,
        }
    }

    fn drop_job(&mut self, key: &Key) {
        // One job less makes none of the others go.
        if let Some(namespace) = self.namespaces.get_mut(key.0.as_str()) {
            namespace.jobs.remove(key.1.as_str());
        }
        self.tidy(&key.0);
    }

    fn see_pool(&mut self, change: Change<Rules>, now: Timestamp) {
        match change {
            Change::Begin => self.pools.begin(),
            Change::Has(key, Ok(rules)) => {
                self.pools.has(&key);
                let pools = &mut self.namespaces.entry(key.0.as_str().into()).or_default().pools;
                // Members report in the pool's status: nothing to decide anew.
                if pools.insert(key.1.as_str().into(), rules) != Some(rules) {
                    self.agenda.collect(&key.0, now);
                }
            }
            Change::Has(key, Err(error)) => {
                self.pools.has(&key);
                warn!(namespace = key.0, pool = key.1, error, "a BuildPool cannot be read");
            }
            Change::Complete => {
                let seen = self.pools.complete();
                for (name, namespace) in &mut self.namespaces {
                    namespace.pools.retain(|pool, _| seen.contains(&(name.to_string(), pool.to_string())));
                }
                self.tidy_all();
            }
            Change::Gone(key, _) => {
                if let Some(namespace) = self.namespaces.get_mut(key.0.as_str()) {
                    namespace.pools.remove(key.1.as_str());
                }
                self.tidy(&key.0);
            }
        }
    }

    fn tidy(&mut self, name: &str) {
        if self.namespaces.get(name).is_some_and(Namespace::is_empty) {
            self.namespaces.remove(name);
        }
    }

    fn tidy_all(&mut self) {
        self.namespaces.retain(|_, namespace| !namespace.is_empty());
    }
}

/// When to look at which namespace.
#[derive(Debug, Default)]
struct Agenda {
    order: BTreeSet<(Timestamp, Box<str>)>,
    times: HashMap<Box<str>, Timestamp>,
}

impl Agenda {
    fn first(&self) -> Option<Timestamp> {
        self.order.first().map(|(when, _)| *when)
    }

    fn pop(&mut self) -> Option<Box<str>> {
        let (_, name) = self.order.pop_first()?;
        self.times.remove(&name);
        Some(name)
    }

    /// A namespace has changed.
    fn collect(&mut self, name: &str, now: Timestamp) {
        self.look(name, now.saturating_add(COLLECT).unwrap_or(Timestamp::MAX));
    }

    /// At that time, if not before.
    fn look(&mut self, name: &str, when: Timestamp) {
        match self.times.get(name) {
            Some(earlier) if *earlier <= when => return,
            Some(later) => {
                self.order.remove(&(*later, name.into()));
            }
            None => {}
        }
        self.times.insert(name.into(), when);
        self.order.insert((when, name.into()));
    }
}
