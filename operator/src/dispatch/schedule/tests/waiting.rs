//! What waiting jobs are told.

use super::*;

#[test]
fn waiting_is_told_once_and_only_if_it_lasts() {
    let snapshot = pool(1).with(member(0, true)).and(running("a", 0, 0)).and(job("b", 10));
    let plan = snapshot.plan(10);
    assert_eq!((tell(&plan), plan.look_again), (vec![], Some(at(12))));
    let plan = snapshot.plan(12);
    assert_eq!(tell(&plan), ["b: wait (WaitingForSlot)"]);
    let Action::Wait { position, pool, message, .. } = &plan.decisions[0].action else { unreachable!() };
    assert_eq!((*position, pool.as_deref()), (Some(1), Some("main")));
    assert_eq!(message, "all slots of BuildPool \"main\" are taken; this job is the next");
    // Its own write is no news.
    let told = snapshot.write(12).write(LATER);
    let plan = told.plan(2 * LATER);
    assert_eq!((tell(&plan), plan.look_again), (vec![], None), "at rest there is nothing to write or to wait for");
}

#[test]
fn a_place_is_told_again_when_it_has_halved() {
    const JOBS: i32 = 64;
    let mut snapshot = pool(1).with(member(0, true)).and(running("r", 0, 0));
    for number in 0..JOBS {
        snapshot = snapshot.and(job(&format!("j{number:02}"), 0));
    }
    let mut writes = 0;
    let mut write = |snapshot: Snapshot, second| {
        let count = snapshot.plan(second).decisions.len();
        writes += count;
        (snapshot.write(second), count)
    };
    for second in [2, 3] {
        snapshot = write(snapshot, second).0;
    }
    for gone in 0..JOBS {
        let second = 40 * (i64::from(gone) + 1);
        snapshot.remove(&format!("uid-j{gone:02}"), at(second));
        snapshot = write(snapshot, second).0;
        for (place, number) in (1..).zip(gone + 1..JOBS) {
            let told = snapshot.job(&format!("uid-j{number:02}")).unwrap().status.queue_position.unwrap();
            assert!((place..=2 * place + 1).contains(&told), "after {second} s number {place} was told {told}");
        }
    }
    // Once at first, and then as often as 64 can be halved.
    assert!(writes <= 64 * 7, "{writes} writes for 64 jobs");
    assert!(writes > 64 * 3, "{writes} writes for 64 jobs");
}

#[test]
fn a_place_is_not_told_again_within_half_a_minute() {
    let snapshot = pool(1).with(member(0, true)).and(running("r", 0, 0)).and(job("a", 0)).and(job("b", 0));
    let mut snapshot = snapshot.write(2);
    snapshot.remove("uid-a", at(4));
    for second in [4, 12, 31] {
        assert_eq!(decide(&snapshot, second), [""; 0], "{second} s");
        snapshot = snapshot.write(second);
    }
    assert_eq!(snapshot.plan(31).look_again, Some(at(32)));
    assert_eq!(decide(&snapshot, 32), ["b: wait (WaitingForSlot)"]);
    assert_eq!(snapshot.write(32).job("uid-b").unwrap().status.queue_position, Some(1));
}

#[test]
fn a_burst_is_told_in_parts() {
    let mut snapshot = pool(1).with(member(0, true)).and(running("r", 0, 0));
    for number in 0..120 {
        snapshot = snapshot.and(job(&format!("j{number:03}"), 0));
    }
    for (second, expected) in [(2, 50), (3, 50), (4, 20), (5, 0)] {
        assert_eq!(decide(&snapshot, second).len(), expected, "{second} s");
        snapshot = snapshot.write(second);
    }
}
