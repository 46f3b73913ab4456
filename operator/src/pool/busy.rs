//! When other members of a pool build than before: its PodDisruptionBudget is to follow.

use std::collections::{BTreeSet, HashMap};

use buildpools_crds::v1alpha1::BuildPool;
use buildpools_crds::watch;
use futures::stream::StreamExt as _;
use kube::api::Api;
use kube::core::{ApiResource, Object};
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher::{self, Event};
use kube::{Client, ResourceExt as _};
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::watch::{PoolMeta, Triggers};

/// A pool, as far as this watch keeps it.
type Pool = Object<IgnoredAny, Reported>;

/// What members say of themselves, as far as it counts here.
#[derive(Clone, Debug, Default, Deserialize)]
struct Reported {
    #[serde(default)]
    members: Vec<Member>,
}

#[derive(Clone, Debug, Deserialize)]
struct Member {
    uid: String,
    #[serde(default)]
    builds: i64,
}

/// Pools whose members begin or cease to build.
pub fn triggers(client: &Client) -> Triggers {
    let api = Api::<Pool>::all_with(client.clone(), &ApiResource::erase::<BuildPool>(&()));
    let mut known = Known::default();
    watch::watch(api, watcher::Config::default())
        .filter_map(move |event| std::future::ready(event.map(|event| known.take(&event)).transpose()))
        .boxed()
}

/// Who builds, of the pools in which somebody does.
#[derive(Default)]
struct Known(HashMap<ObjectRef<PoolMeta>, BTreeSet<String>>);

impl Known {
    /// The pool, if others build than before.
    fn take(&mut self, event: &Event<Pool>) -> Option<ObjectRef<PoolMeta>> {
        let (Event::Apply(pool) | Event::InitApply(pool) | Event::Delete(pool)) = event else { return None };
        let key = ObjectRef::new(&pool.name_any()).within(&pool.namespace()?);
        if matches!(event, Event::Delete(_)) {
            self.0.remove(&key);
            return None;
        }
        let members = pool.status.iter().flat_map(|status| &status.members);
        let busy: BTreeSet<String> =
            members.filter(|member| member.builds > 0).map(|member| member.uid.clone()).collect();
        if self.0.get(&key).map_or(busy.is_empty(), |before| *before == busy) {
            return None;
        }
        if busy.is_empty() {
            self.0.remove(&key);
        } else {
            self.0.insert(key.clone(), busy);
        }
        Some(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pool(builds: &[(&str, i64)]) -> Pool {
        let members: Vec<_> = builds.iter().map(|(uid, builds)| json!({"uid": uid, "builds": builds})).collect();
        serde_json::from_value(json!({
            "metadata": {"name": "main", "namespace": "team-a"}, "spec": {"cache": {}}, "status": {"members": members},
        }))
        .unwrap()
    }

    #[test]
    fn only_a_change_of_who_builds_counts() {
        let mut known = Known::default();
        let mut changed = |builds: &[(&str, i64)]| known.take(&Event::Apply(pool(builds))).is_some();
        assert!(!changed(&[("a", 0)]), "nobody builds");
        assert!(changed(&[("a", 1)]));
        assert!(!changed(&[("a", 2)]), "the same one has more");
        assert!(changed(&[("a", 2), ("b", 1)]));
        assert!(changed(&[("b", 1)]), "an entry is gone");
        assert!(changed(&[("b", 0)]));
        assert!(!changed(&[("b", 0)]));
        known.take(&Event::Apply(pool(&[("a", 1)])));
        known.take(&Event::Delete(pool(&[("a", 1)])));
        assert!(known.0.is_empty());
    }
}
