//! Which finished jobs of a namespace go: a pure function.

use std::collections::BTreeMap;
use std::time::Duration;

use buildpools_crds::v1alpha1::{BuildPool, std_duration};
use jiff::Timestamp;

use super::job::{Hold, Record};

#[cfg(test)]
mod tests;

/// Finished jobs of a namespace, and its pools, by name.
#[derive(Clone, Debug, Default)]
pub struct Namespace {
    /// Jobs.
    pub jobs: BTreeMap<Box<str>, Record>,
    /// Pools.
    pub pools: BTreeMap<Box<str>, Rules>,
}

impl Namespace {
    /// Whether nothing is known of it.
    pub fn is_empty(&self) -> bool {
        self.jobs.is_empty() && self.pools.is_empty()
    }
}

/// What a pool says about its finished jobs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Time after which jobs go that do not say it themselves.
    pub ttl: Option<Duration>,
    /// How many succeeded jobs are kept.
    pub succeeded: Option<usize>,
    /// How many failed and cancelled jobs are kept.
    pub failed: Option<usize>,
}

impl Rules {
    /// The rules of a pool.
    pub fn of(pool: &BuildPool) -> Self {
        let count = |limit: Option<i32>| limit.map(|limit| usize::try_from(limit).unwrap_or(0));
        Self {
            ttl: pool.spec.job_defaults.ttl_after_finished.map(std_duration),
            succeeded: count(pool.spec.successful_jobs_history_limit),
            failed: count(pool.spec.failed_jobs_history_limit),
        }
    }

    fn limit(self, succeeded: bool) -> Option<usize> {
        if succeeded { self.succeeded } else { self.failed }
    }
}

/// Why a job goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Its `ttlAfterFinished` is over.
    Expired,
    /// Its pool keeps fewer.
    OverLimit,
}

/// A job that goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deletion {
    /// Its name.
    pub name: Box<str>,
    /// Its UID.
    pub uid: Box<str>,
    /// The version that this was decided on.
    pub version: Box<str>,
    /// Why.
    pub why: Why,
}

/// What goes now, and when to look again even if nothing changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// What goes, by name; then, of each pool, the oldest first.
    pub deletions: Vec<Deletion>,
    /// The next time at which time alone changes something.
    pub look_again: Option<Timestamp>,
}

impl Plan {
    fn look(&mut self, when: Timestamp) {
        self.look_again = Some(self.look_again.map_or(when, |earlier| earlier.min(when)));
    }

    fn delete(&mut self, name: &str, job: &Record, why: Why, now: Timestamp) {
        match job.hold {
            Some(Hold::Until(when, _)) if when > now => self.look(when),
            Some(Hold::Writing { .. } | Hold::Outdated) => {}
            None | Some(Hold::Until(..)) => self.deletions.push(Deletion {
                name: name.into(),
                uid: job.uid.clone(),
                version: job.version.clone(),
                why,
            }),
        }
    }
}

/// Jobs that a limit counts.
struct Counted<'a> {
    limit: usize,
    jobs: Vec<(Timestamp, &'a str, &'a Record)>,
}

/// Decides about the finished jobs of a namespace.
///
/// A job that somebody else keeps is not counted, and goes by its own `ttlAfterFinished` only: that was written into it
/// by whoever keeps it.
pub fn plan(namespace: &Namespace, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let mut counted: BTreeMap<(&str, bool), Counted<'_>> = BTreeMap::new();
    for (name, job) in namespace.jobs.iter().filter(|(_, job)| !job.deleting) {
        let pool = job.pool.as_deref().filter(|_| !job.owned);
        let rules = pool.and_then(|pool| Some((pool, namespace.pools.get(pool)?)));
        let ttl = job.ttl.or_else(|| rules?.1.ttl);
        let end = ttl.map(|ttl| job.finished.saturating_add(ttl).unwrap_or(Timestamp::MAX));
        if end.is_some_and(|end| end <= now) {
            plan.delete(name, job, Why::Expired, now);
            continue;
        }
        if let Some(end) = end {
            plan.look(end);
        }
        if let Some((pool, rules)) = rules
            && let Some(limit) = rules.limit(job.succeeded)
        {
            let counted = counted.entry((pool, job.succeeded)).or_insert(Counted { limit, jobs: Vec::new() });
            counted.jobs.push((job.finished, name, job));
        }
    }
    for Counted { limit, mut jobs } in counted.into_values() {
        let over = jobs.len().saturating_sub(limit);
        if over > 0 {
            jobs.sort_unstable_by_key(|(finished, name, _)| (*finished, *name));
            for (_, name, job) in &jobs[..over] {
                plan.delete(name, job, Why::OverLimit, now);
            }
        }
    }
    plan
}
