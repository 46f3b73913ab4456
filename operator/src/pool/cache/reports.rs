//! What runners report of their caches in their pool's status: told as metrics each time, as Events when a cache was
//! emptied, and a reason to look at the pool when its condition may change.
//!
//! Runners write every minute while they build, so most reports are no reason for a pass, which is some ten requests.

use std::collections::HashMap;

use buildpools_crds::v1alpha1::{BuildPool, PoolMember};
use buildpools_crds::watch;
use futures::stream::StreamExt as _;
use jiff::Timestamp;
use kube::api::Api;
use kube::core::DeserializeGuard;
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher::{self, Event};
use kube::{Client, ResourceExt as _};

use super::events::{self, Emptied};
use super::health;
use super::limits::Limits;
use crate::pool::watch::Triggers;
use crate::runtime::metrics::{CacheFigures, Metrics};

type Key = (String, String);

/// What of a member's report is a reason to look at its pool.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Signal {
    uid: String,
    reports: bool,
    pressure: Vec<&'static str>,
    emptied: Vec<Emptied>,
}

impl Signal {
    fn of(member: &PoolMember, limits: Option<&Limits>) -> Self {
        Self {
            uid: member.uid.clone(),
            reports: member.cache.is_some(),
            pressure: health::pressure(member, limits),
            emptied: Emptied::of(member),
        }
    }
}

/// What was reported last, by pool.
#[derive(Debug, Default)]
struct Known {
    signals: HashMap<Key, Vec<Signal>>,
    listed: Vec<Key>,
}

/// What follows from a change of a pool.
#[derive(Debug, Default, PartialEq)]
struct News {
    look: bool,
    emptied: Vec<(PoolMember, Emptied)>,
}

impl Known {
    /// Takes a pool as it is. An operator that has just started does not know what was told already: events are named
    /// after what they tell, and the API server keeps one of a name.
    fn take(&mut self, key: Key, pool: &BuildPool) -> News {
        let members = pool.status.as_ref().map(|status| status.members.as_slice()).unwrap_or_default();
        let limits = Limits::of_pool(pool, None);
        let now: Vec<Signal> = members.iter().map(|member| Signal::of(member, limits.as_ref())).collect();
        let before = self.signals.insert(key, now.clone());
        let was = |uid: &str| before.iter().flatten().find(|signal| signal.uid == uid);
        let emptied = members.iter().zip(&now).flat_map(|(member, signal)| {
            let told = was(&signal.uid).map(|before| before.emptied.as_slice()).unwrap_or_default();
            let new = signal.emptied.iter().filter(move |emptied| !told.contains(emptied));
            new.map(|emptied| (member.clone(), emptied.clone()))
        });
        let emptied = emptied.collect();
        // The watch of the pools themselves has told of a pool that is new here.
        News { look: before.is_some_and(|before| before != now), emptied }
    }
}

/// Pools to look at because of what their members report.
pub fn watch(client: &Client, metrics: Metrics) -> Triggers {
    let api = Api::<DeserializeGuard<BuildPool>>::all(client.clone());
    let client = client.clone();
    let mut known = Known::default();
    watch::watch(api, watcher::Config::default())
        .filter_map(move |event| {
            let found = event.map(|event| seen(event, &mut known, &metrics, &client)).transpose();
            std::future::ready(found)
        })
        .boxed()
}

fn seen(
    event: Event<DeserializeGuard<BuildPool>>,
    known: &mut Known,
    metrics: &Metrics,
    client: &Client,
) -> Option<ObjectRef<crate::pool::watch::PoolMeta>> {
    let key = |pool: &DeserializeGuard<BuildPool>| (pool.namespace().unwrap_or_default(), pool.name_any());
    match event {
        Event::Init => {
            known.listed.clear();
            None
        }
        Event::InitDone => {
            let listed = std::mem::take(&mut known.listed);
            let gone: Vec<Key> = known.signals.keys().filter(|key| !listed.contains(key)).cloned().collect();
            for key in gone {
                known.signals.remove(&key);
                metrics.forget_cache(&key.0, &key.1);
            }
            None
        }
        Event::Delete(pool) => {
            let key = key(&pool);
            known.signals.remove(&key);
            metrics.forget_cache(&key.0, &key.1);
            None
        }
        Event::InitApply(pool) => {
            known.listed.push(key(&pool));
            applied(&key(&pool), pool, known, metrics, client)
        }
        Event::Apply(pool) => applied(&key(&pool), pool, known, metrics, client),
    }
}

fn applied(
    key: &Key,
    pool: DeserializeGuard<BuildPool>,
    known: &mut Known,
    metrics: &Metrics,
    client: &Client,
) -> Option<ObjectRef<crate::pool::watch::PoolMeta>> {
    // One that cannot be read is told of by whoever must read it.
    let pool = pool.0.ok()?;
    match figures(&pool) {
        Some(figures) => metrics.cache(&key.0, &key.1, figures),
        None => metrics.forget_cache(&key.0, &key.1),
    }
    let news = known.take(key.clone(), &pool);
    for (member, emptied) in news.emptied {
        if emptied.is_recent(Timestamp::now()) {
            tokio::spawn(events::publish(client.clone(), emptied.event(&pool, &member)));
        }
    }
    news.look.then(|| ObjectRef::new(&key.1).within(&key.0))
}

fn figures(pool: &BuildPool) -> Option<CacheFigures> {
    let caches = pool.status.iter().flat_map(|status| &status.members).filter_map(|member| member.cache.as_ref());
    caches.fold(None, |sum: Option<CacheFigures>, cache| {
        let sum = sum.unwrap_or(CacheFigures { available: i64::MAX, ..CacheFigures::default() });
        Some(CacheFigures {
            bytes: sum.bytes.saturating_add(cache.bytes),
            available: sum.available.min(cache.available_bytes),
            steps: sum.steps.saturating_add(cache.steps),
            cached_steps: sum.cached_steps.saturating_add(cache.cached_steps),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pool(members: &Value) -> BuildPool {
        serde_json::from_value(json!({
            "metadata": {"name": "main", "namespace": "team-a", "uid": "pool"},
            "spec": {"cache": {"size": "100Gi"}},
            "status": {"members": members},
        }))
        .unwrap()
    }

    fn cache(available: i64, more: &Value) -> Value {
        let mut cache = json!({
            "bytes": 5, "capacityBytes": 100_i64 << 30, "availableBytes": available << 30, "steps": 4, "cachedSteps": 1,
        });
        for (field, value) in more.as_object().into_iter().flatten() {
            cache[field] = value.clone();
        }
        json!([{"uid": "u", "pod": "main-0", "cache": cache}])
    }

    #[test]
    fn only_what_changes_the_condition_is_a_reason_to_look() {
        let mut known = Known::default();
        let mut look = |members: &Value| known.take(("team-a".into(), "main".into()), &pool(members)).look;
        assert!(!look(&json!([])), "the other watch tells of a new pool");
        assert!(look(&cache(50, &json!({}))), "the first report");
        assert!(!look(&cache(40, &json!({"bytes": 7, "steps": 9}))));
        assert!(look(&cache(1, &json!({}))), "pressure");
        assert!(!look(&cache(2, &json!({}))));
        assert!(look(&cache(50, &json!({}))), "no pressure any more");
        assert!(look(&cache(50, &json!({"healedAt": "2026-01-01T00:00:00Z"}))));
    }

    #[test]
    fn each_emptied_cache_is_told_once() {
        let mut known = Known::default();
        let mut emptied = |more: &Value| {
            let news = known.take(("team-a".into(), "main".into()), &pool(&cache(50, more)));
            news.emptied.into_iter().map(|(member, emptied)| (member.pod, emptied)).collect::<Vec<_>>()
        };
        assert_eq!(emptied(&json!({})), []);
        let reset = json!({"resetDone": "1", "resetAt": "2026-01-01T00:00:00Z"});
        assert_eq!(emptied(&reset).len(), 1);
        assert_eq!(emptied(&reset), []);
        let both = json!({"resetDone": "1", "resetAt": "2026-01-01T00:00:00Z", "healedAt": "2026-01-02T00:00:00Z"});
        assert!(matches!(emptied(&both).as_slice(), [(_, Emptied::Healed { .. })]));
        // A volume that an earlier pod has emptied.
        assert_eq!(emptied(&json!({"resetDone": "2"})), []);
    }

    #[test]
    fn figures_are_of_all_members() {
        let one = cache(50, &json!({}))[0].clone();
        let other = cache(7, &json!({"bytes": 6, "cachedSteps": 3}))[0].clone();
        let expected = CacheFigures { bytes: 11, available: 7 << 30, steps: 8, cached_steps: 4 };
        assert_eq!(figures(&pool(&json!([one, other]))), Some(expected));
        assert_eq!(figures(&pool(&json!([{"uid": "u", "pod": "main-0"}]))), None);
    }
}
