//! A long queue.

use std::time::Instant;

use super::*;

#[test]
fn a_long_queue_makes_no_event_expensive() {
    const WAITING: usize = 10_000;
    const EVENTS: usize = 500;
    let mut jobs: Vec<Job> = (0..8).map(|number| running(&format!("r{number}"), "1")).collect();
    jobs.extend((0..WAITING).map(|number| Job {
        labels: [("team".to_owned(), format!("t{}", number % 20))].into(),
        priority: i32::try_from(number % 3).unwrap(),
        ..job(&format!("w{number:05}"), "1")
    }));
    let mut world = world(jobs);
    let share = FairShare { label: "team".into(), half_life: Duration::from_hours(1), ..FairShare::default() };
    let pool = Pool { builds_per_member: 8, fair_share: Some(share), ..pool() };
    world.see(Seen::Pool(Change::Has(key("main"), Ok(pool))), at(0));
    assert_eq!(decide(&mut world, 0), []);

    // One build after the other ends, and the next gets its slot: a bind, its answer, what the watch says of it.
    let mut ends: Vec<Key> = (0..8).map(|number| key(&format!("r{number}"))).collect();
    let begun = Instant::now();
    for event in 0..EVENTS {
        world.see(Seen::Job(Change::Gone(ends[event].clone(), None)), at(1));
        let bound = bind(&mut world, 1);
        ends.push(bound.key.clone());
        let status = running(&bound.key.1, "2").status;
        let now = Job { status, version: "2".into(), ..bound.clone() };
        world.settle(&bound, Settled::Now(Box::new(now.clone())), at(1));
        assert_eq!(decide(&mut world, 1), []);
        world.see(has(now), at(1));
        assert_eq!(decide(&mut world, 1), []);
    }
    let each = begun.elapsed() / u32::try_from(3 * EVENTS).unwrap();
    println!("with {WAITING} waiting jobs an event costs {each:?}");

    // Two seconds later they are told, part by part.
    let begun = Instant::now();
    let told = decide(&mut world, 2);
    println!("working out {} places costs {:?}", WAITING - EVENTS, begun.elapsed());
    assert_eq!(told.len(), 50);
    assert!(told.iter().all(|decision| matches!(decision.action, Action::Wait { .. })));
}
