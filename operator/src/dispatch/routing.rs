//! Which pool a job goes to that does not name one: a pure function, and what it needs to be remembered.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use buildpools_crds::v1alpha1::JobPhase;
use jiff::Timestamp;
use kube::core::{Selector, SelectorExt as _};

use super::job::{Job, Target};
use super::schedule::order::Place;
use super::schedule::placement::{score, stable_hash};
use super::view::{Key, Pool};

/// Pools of which it is remembered that they ran a key, in each of two generations.
const REMEMBERED: usize = 8192;

/// A pool that may build a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate<'a> {
    /// Name of the pool.
    pub name: &'a str,
    /// Slots that are taken or waited for.
    pub load: usize,
    /// Slots of its members.
    pub slots: usize,
    /// Whether it ran a build with this key last.
    pub ran_last: bool,
}

impl Candidate<'_> {
    fn has_slot(&self) -> bool {
        self.load < self.slots
    }
}

/// The pool for a build with this key: the one that ran it last, if it has a slot; else the least loaded for its slots,
/// of equals the one that the key's hash says.
pub fn choose<'a>(key: u64, candidates: &[Candidate<'a>]) -> Option<&'a str> {
    let warm = candidates.iter().find(|pool| pool.ran_last && pool.has_slot());
    let lightest = || {
        candidates.iter().min_by(|one, other| {
            // load / slots, without a division by zero: a pool without slots is behind all others.
            let (left, right) = (one.load * other.slots, other.load * one.slots);
            let empty = (one.slots == 0).cmp(&(other.slots == 0));
            let hash = |pool: &Candidate<'_>| (Reverse(score(key, stable_hash(pool.name))), pool.name.to_owned());
            empty.then(left.cmp(&right)).then_with(|| hash(one).cmp(&hash(other)))
        })
    };
    warm.or_else(lightest).map(|pool| pool.name)
}

/// The pool of a namespace for jobs that name none: of those that say so the youngest, as with StorageClasses; else the
/// only one.
pub fn default_pool<'a>(pools: impl Iterator<Item = (&'a str, &'a Pool)> + Clone) -> Option<&'a str> {
    let marked = pools.clone().filter(|(_, pool)| pool.is_default);
    if let Some((name, _)) = marked.min_by_key(|(name, pool)| (Reverse(pool.created), *name)) {
        return Some(name);
    }
    let mut pools = pools;
    match (pools.next(), pools.next()) {
        (Some((only, _)), None) => Some(only),
        _ => None,
    }
}

/// Whether a pool may build a job, other than as the default.
pub fn matches(target: &Target, name: &str, pool: &Pool) -> bool {
    match target {
        Target::Named(named) => named == name,
        // A selector that cannot be read matches nothing. The API server has checked it.
        Target::Matching(selector) => {
            Selector::try_from(selector.as_ref().clone()).is_ok_and(|selector| selector.matches(&pool.labels))
        }
        Target::Default => false,
    }
}

/// What is remembered about jobs and pools.
#[derive(Debug, Default)]
pub struct Routes {
    /// Names of the pools of each namespace.
    pools: HashMap<String, BTreeSet<String>>,
    /// Jobs of which the pool is to be found.
    lost: BTreeSet<Key>,
    /// Waiting jobs that other pools may build, by namespace and selector.
    flexible: HashMap<String, BTreeMap<String, Flexible>>,
    recent: HashMap<u64, Arc<str>>,
    former: HashMap<u64, Arc<str>>,
}

/// Waiting jobs with the same selector, in the order in which another pool takes them over.
#[derive(Debug)]
struct Flexible {
    target: Target,
    jobs: BTreeSet<(Reverse<i32>, Place)>,
}

impl Routes {
    /// A pool exists.
    pub fn has_pool(&mut self, (namespace, name): &Key) {
        self.pools.entry(namespace.clone()).or_default().insert(name.clone());
    }

    /// A pool does not exist any more.
    pub fn lost_pool(&mut self, (namespace, name): &Key) {
        if let Some(pools) = self.pools.get_mut(namespace) {
            pools.remove(name);
            if pools.is_empty() {
                self.pools.remove(namespace);
            }
        }
    }

    /// Names of the pools of a namespace.
    pub fn pools(&self, namespace: &str) -> impl Iterator<Item = &String> + Clone {
        self.pools.get(namespace).into_iter().flatten()
    }

    /// The pool of a job is to be found.
    pub fn find(&mut self, job: Key) {
        self.lost.insert(job);
    }

    /// Jobs of which the pool is to be found.
    pub fn take_lost(&mut self) -> BTreeSet<Key> {
        std::mem::take(&mut self.lost)
    }

    /// A job waits in some pool and another may build it, or not any more.
    pub fn note(&mut self, job: &Job, waits: bool) {
        let Target::Matching(selector) = &job.target else { return };
        let Ok(text) = serde_json::to_string(selector.as_ref()) else { return };
        let entry = (Reverse(job.priority), job.place());
        let selectors = self.flexible.entry(job.key.0.clone()).or_default();
        if waits && job.status.phase == JobPhase::Pending && !job.deleting {
            let new = || Flexible { target: job.target.clone(), jobs: BTreeSet::new() };
            selectors.entry(text).or_insert_with(new).jobs.insert(entry);
        } else if let Some(flexible) = selectors.get_mut(&text) {
            flexible.jobs.remove(&entry);
            if flexible.jobs.is_empty() {
                selectors.remove(&text);
            }
        }
        if selectors.is_empty() {
            self.flexible.remove(&job.key.0);
        }
    }

    /// Names of waiting jobs that this pool may build, in the order in which it takes them over.
    pub fn flexible<'a>(&'a self, (namespace, name): &'a Key, pool: &'a Pool) -> impl Iterator<Item = &'a str> {
        let selectors = self.flexible.get(namespace).into_iter().flat_map(BTreeMap::values);
        let matching = selectors.filter(move |flexible| matches(&flexible.target, name, pool));
        let mut jobs: Vec<_> = matching.map(|flexible| flexible.jobs.iter().peekable()).collect();
        std::iter::from_fn(move || {
            let next = jobs.iter_mut().filter_map(|jobs| Some((*jobs.peek()?, jobs))).min_by_key(|(job, _)| *job)?;
            next.1.next().map(|(_, place)| place.1.as_ref())
        })
    }

    /// A pool ran a build with this key.
    pub fn ran(&mut self, (namespace, name): &Key, cache_key: u64) {
        if self.recent.len() >= REMEMBERED {
            self.former = std::mem::take(&mut self.recent);
        }
        self.recent.insert(remembered(namespace, cache_key), name.as_str().into());
    }

    /// The pool that ran a build with this key last.
    pub fn ran_last(&self, namespace: &str, cache_key: u64) -> Option<&str> {
        let key = remembered(namespace, cache_key);
        self.recent.get(&key).or_else(|| self.former.get(&key)).map(AsRef::as_ref)
    }
}

fn remembered(namespace: &str, cache_key: u64) -> u64 {
    score(cache_key, stable_hash(namespace))
}

/// A build that has ended before this process knew of it: what its group has used, and where its cache is.
#[derive(Clone, Debug, PartialEq)]
pub struct Finished {
    /// Namespace and name of the pool.
    pub pool: Key,
    /// Labels of the job.
    pub labels: BTreeMap<String, String>,
    /// When its last attempt was begun.
    pub started: Timestamp,
    /// When it ended.
    pub finished: Timestamp,
    /// Hash of what its cache is found by, if that is known.
    pub cache_key: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(name: &str, load: usize, slots: usize) -> Candidate<'_> {
        Candidate { name, load, slots, ran_last: false }
    }

    #[test]
    fn of_several_pools_the_warm_one_then_the_least_loaded() {
        let warm = |candidate| Candidate { ran_last: true, ..candidate };
        for (why, candidates, expected) in [
            ("none", vec![], None),
            ("warm", vec![pool("a", 0, 4), warm(pool("b", 3, 4))], Some("b")),
            ("warm and full", vec![pool("a", 2, 4), warm(pool("b", 4, 4))], Some("a")),
            ("least loaded for its slots", vec![pool("a", 2, 4), pool("b", 3, 8)], Some("b")),
            ("one that has no member is the last", vec![pool("a", 0, 0), pool("b", 9, 2)], Some("b")),
            ("but better than none", vec![pool("a", 3, 0)], Some("a")),
        ] {
            assert_eq!(choose(7, &candidates), expected, "{why}");
        }
        let names: BTreeSet<&str> = (0..50)
            .filter_map(|key| choose(stable_hash(&key.to_string()), &[pool("a", 1, 2), pool("b", 2, 4)]))
            .collect();
        assert_eq!(names.len(), 2, "equals share the keys");
    }

    #[test]
    fn the_default_is_marked_or_the_only_one() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let pool = |second, is_default| Pool { created: at(second), is_default, ..Pool::default() };
        let (old, young, plain) = (pool(1, true), pool(2, true), pool(3, false));
        for (pools, expected) in [
            (vec![], None),
            (vec![("a", &plain)], Some("a")),
            (vec![("a", &plain), ("b", &plain)], None),
            (vec![("a", &plain), ("b", &old)], Some("b")),
            (vec![("a", &young), ("b", &old), ("c", &plain)], Some("a")),
            (vec![("a", &old), ("b", &old)], Some("a")),
        ] {
            assert_eq!(default_pool(pools.iter().copied()), expected, "{pools:?}");
        }
    }

    #[test]
    fn what_ran_where_is_remembered_for_a_while() {
        let mut routes = Routes::default();
        let pool = |name: &str| ("team".to_owned(), name.to_owned());
        routes.ran(&pool("a"), 1);
        assert_eq!((routes.ran_last("team", 1), routes.ran_last("other", 1)), (Some("a"), None));
        routes.ran(&pool("b"), 1);
        for key in 2..REMEMBERED as u64 + 100 {
            routes.ran(&pool("c"), key);
        }
        assert_eq!(routes.ran_last("team", 1), Some("b"));
        for key in 0..2 * REMEMBERED as u64 {
            routes.ran(&pool("c"), key + 100_000);
        }
        assert_eq!(routes.ran_last("team", 1), None);
        assert!(routes.recent.len() + routes.former.len() <= 2 * REMEMBERED);
    }
}
