use crate::dispatch::nodes::Standing;

use super::*;

fn node(standing: Standing) -> Seen {
    Seen::Node(Change::Has((String::new(), "n".into()), Ok(standing)))
}

/// One pool with one member that has one slot, on a node that stands so, and this job.
fn on_node(standing: Standing, job: Job) -> World {
    let mut world = world(vec![job]);
    world.see(node(standing), at(0));
    let (pool, member) = member("pod-0");
    world.see(Seen::Pod(Change::Has(key("main-0"), Ok(Some((pool, Member { node: "n".into(), ..member }))))), at(0));
    world
}

fn actions(world: &mut World, second: i64) -> Vec<Action> {
    decide(world, second).into_iter().map(|decision| decision.action).collect()
}

#[test]
fn nothing_is_bound_where_a_node_is_cordoned_or_not_heard_of_until_it_is_fine() {
    for standing in [Standing::Cordoned, Standing::Unreachable, Standing::OutOfService] {
        let mut world = on_node(standing, job("a", "1"));
        assert_eq!(actions(&mut world, 0), [], "{standing:?}");
        world.see(node(Standing::Fine), at(1));
        assert_eq!(bind(&mut world, 1).key, key("a"));
    }
}

#[test]
fn what_is_bound_stays_on_a_cordoned_node_and_leaves_one_that_is_not_heard_of() {
    assert_eq!(actions(&mut on_node(Standing::Cordoned, bound("a", "1")), 0), []);
    let unbind = Action::Unbind { why: "node n of pod main-0 is not heard of".into(), verify: None };
    assert_eq!(actions(&mut on_node(Standing::Unreachable, bound("a", "1")), 0), [unbind]);
}

#[test]
fn a_running_build_is_told_of_its_node_once_and_lost_only_with_it() {
    let mut world = on_node(Standing::Cordoned, running("a", "1"));
    assert_eq!(actions(&mut world, 0), []);
    world.see(node(Standing::Unreachable), at(1));
    let told = decide(&mut world, 1).remove(0);
    let Action::Node { unreachable: Some(message) } = &told.action else { panic!("{told:?}") };
    let status = lifecycle::node_unreachable(&told.job.status, Some(message), at(1)).unwrap();
    let after = Job { version: "2".into(), status, ..told.job.clone() };
    world.settle(&told.job, Settled::Now(Box::new(after.clone())), at(1));
    world.see(has(after), at(1));
    // Its pod is to be deleted, five minutes later, but nobody is there to do it.
    let (pool, member) = leaving("pod-0");
    let leaving = Member { node: "n".into(), ..member };
    world.see(Seen::Pod(Change::Has(key("main-0"), Ok(Some((pool, leaving))))), at(300));
    assert_eq!(actions(&mut world, 100_000), [], "the build may go on");

    let mut back = on_node(
        Standing::Unreachable,
        Job { status: lifecycle::node_unreachable(&told.job.status, Some("m"), at(1)).unwrap(), ..told.job.clone() },
    );
    assert_eq!(actions(&mut back, 2), []);
    back.see(node(Standing::Fine), at(3));
    assert_eq!(actions(&mut back, 3), [Action::Node { unreachable: None }]);

    for lost in [node(Standing::OutOfService), Seen::Node(Change::Gone((String::new(), "n".into()), None))] {
        let mut world = on_node(Standing::Unreachable, running("a", "1"));
        world.see(lost, at(1));
        let actions = actions(&mut world, 1);
        let [Action::Lost { gone, .. }] = actions.as_slice() else { panic!("{actions:?}") };
        assert_eq!(gone.reason, FailureReason::NodeLost);
    }
}
