//! Members that the pool's status has closed: to be replaced, or with a daemon that is too old.

use buildpools_crds::v1alpha1::BuildPool;
use serde_json::json;

use super::*;
use crate::dispatch::view::Closed;

fn closed(uid: &str, why: Closed) -> Seen {
    let closed = BTreeMap::from([(uid.to_owned(), why)]);
    Seen::Pool(Change::Has(key("main"), Ok(Pool { closed, ..pool() })))
}

fn actions(world: &mut World, second: i64) -> Vec<Action> {
    decide(world, second).into_iter().map(|decision| decision.action).collect()
}

#[test]
fn the_pools_status_says_which_members_are_closed() {
    let pool: BuildPool = serde_json::from_value(json!({
        "metadata": {"name": "main", "namespace": "team"},
        "spec": {"cache": {"size": "1Gi"}},
        "status": {
            "members": [
                {"uid": "old", "pod": "main-0", "version": "v0.31.1"},
                {"uid": "least", "pod": "main-1", "version": "v0.31.2"},
                {"uid": "unknown", "pod": "main-2", "version": "3f1c9a7"},
                {"uid": "silent", "pod": "main-3"},
            ],
            "upgrade": {
                "startedAt": "2026-01-01T00:00:00Z", "updated": 0, "outdated": 1,
                "draining": {"pod": "main-1", "uid": "least", "since": "2026-01-01T00:00:00Z"},
            },
        },
    }))
    .unwrap();
    let expected = [("least".to_owned(), Closed::Draining), ("old".to_owned(), Closed::TooOld("v0.31.1".into()))];
    assert_eq!(Pool::of(&pool).closed, BTreeMap::from(expected));
}

#[test]
fn nothing_is_bound_to_a_closed_member_and_its_successor_is_open() {
    for why in [Closed::Draining, Closed::TooOld("v0.22.0".into())] {
        let mut world = world(vec![job("a", "1")]);
        world.see(closed("pod-0", why.clone()), at(0));
        assert_eq!(actions(&mut world, 0), [], "{why:?}");
        // Its pod is seen again: it stays closed.
        let (pool, again) = member("pod-0");
        world.see(Seen::Pod(Change::Has(key("main-0"), Ok(Some((pool, Member { node: "n".into(), ..again }))))), at(1));
        assert_eq!(actions(&mut world, 1), [], "{why:?}");
        // The replacement, not ready yet.
        let (pool, next) = member("pod-1");
        world.see(Seen::Pod(Change::Has(key("main-0"), Ok(Some((pool, Member { ready: false, ..next }))))), at(2));
        assert_eq!(bind(&mut world, 2).key, key("a"), "{why:?}");
    }
}

#[test]
fn what_is_bound_to_a_closed_member_comes_back_and_what_runs_there_stays() {
    let mut world = world(vec![bound("a", "1")]);
    world.see(closed("pod-0", Closed::Draining), at(0));
    let unbind = Action::Unbind { why: "pod main-0 is to be replaced".into(), verify: None };
    assert_eq!(actions(&mut world, 0), [unbind]);

    let mut world = super::world(vec![bound("a", "1")]);
    world.see(closed("pod-0", Closed::TooOld("v0.22.0".into())), at(0));
    let why = "BuildKit v0.22.0 of pod main-0 is older than v0.31.2".into();
    assert_eq!(actions(&mut world, 0), [Action::Unbind { why, verify: None }]);

    let mut world = super::world(vec![running("a", "1")]);
    world.see(closed("pod-0", Closed::Draining), at(0));
    assert_eq!(actions(&mut world, 0), []);
}

#[test]
fn a_drain_that_is_called_off_opens_the_member_again() {
    let mut world = world(vec![job("a", "1")]);
    world.see(closed("pod-0", Closed::Draining), at(0));
    assert_eq!(actions(&mut world, 0), []);
    world.see(Seen::Pool(Change::Has(key("main"), Ok(pool()))), at(1));
    assert_eq!(bind(&mut world, 1).key, key("a"));
}
