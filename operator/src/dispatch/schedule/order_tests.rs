use std::time::Duration;

use super::*;
use crate::dispatch::dice::Dice;
use crate::dispatch::schedule::simulation::{Arrival, HOUR, MINUTE, SECOND, Simulation, at, jain, light_waits, stream};

fn ticket(name: &str, priority: i32, group: &str, created: i64) -> Ticket {
    Ticket { priority, group: group.into(), place: (at(created), name.into(), format!("uid-{name}").into()) }
}

fn queue(tickets: impl IntoIterator<Item = Ticket>) -> Queue {
    let mut queue = Queue::default();
    for ticket in tickets {
        queue.insert(ticket);
    }
    queue
}

/// Fixed shares.
struct Fixed {
    used: BTreeMap<&'static str, f64>,
    weights: BTreeMap<&'static str, f64>,
    estimate: f64,
}

impl Shares for Fixed {
    fn used(&self, group: &str) -> f64 {
        self.used.get(group).copied().unwrap_or(0.0)
    }
    fn weight(&self, group: &str) -> f64 {
        self.weights.get(group).copied().unwrap_or(1.0)
    }
    fn estimate(&self) -> f64 {
        self.estimate
    }
}

fn fixed<const N: usize, const M: usize>(used: [(&'static str, f64); N], weights: [(&'static str, f64); M]) -> Fixed {
    Fixed { used: used.into(), weights: weights.into(), estimate: 10.0 }
}

fn names(queue: &Queue, shares: &Fixed, now: i64) -> Vec<String> {
    queue.order(shares, at(now)).map(|next| next.place.1.to_string()).collect()
}

#[test]
fn whose_turn_it_is() {
    let fair = fixed([], []);
    for (why, tickets, shares, expected) in [
        ("the oldest", vec![ticket("b", 0, "", 1), ticket("a", 0, "", 2)], &fair, vec!["b", "a"]),
        ("created together: by name", vec![ticket("b", 0, "", 1), ticket("a", 0, "", 1)], &fair, vec!["a", "b"]),
        ("priority above age", vec![ticket("a", 0, "", 1), ticket("b", 1, "", 2)], &fair, vec!["b", "a"]),
        (
            "groups take turns",
            vec![ticket("a1", 0, "a", 1), ticket("a2", 0, "a", 2), ticket("b1", 0, "b", 3), ticket("b2", 0, "b", 4)],
            &fair,
            vec!["a1", "b1", "a2", "b2"],
        ),
        (
            "the group that has used less",
            vec![ticket("a1", 0, "a", 1), ticket("b1", 0, "b", 2), ticket("b2", 0, "b", 3)],
            &fixed([("a", 15.0)], []),
            vec!["b1", "b2", "a1"],
        ),
        (
            "for its weight",
            vec![ticket("a1", 0, "a", 2), ticket("a2", 0, "a", 3), ticket("b1", 0, "b", 1), ticket("b2", 0, "b", 1)],
            &fixed([("a", 10.0), ("b", 10.0)], [("a", 4.0)]),
            vec!["a1", "a2", "b1", "b2"],
        ),
        (
            "fractions of a second do not count",
            vec![ticket("a", 0, "a", 1), ticket("b", 0, "b", 2)],
            &fixed([("a", 7.9), ("b", 7.1)], []),
            vec!["a", "b"],
        ),
        (
            "what a group gets in one level counts in the next",
            vec![ticket("a1", 5, "a", 1), ticket("a2", 0, "a", 2), ticket("b1", 0, "b", 3)],
            &fair,
            vec!["a1", "b1", "a2"],
        ),
    ] {
        assert_eq!(names(&queue(tickets), shares, 10), expected, "{why}");
    }
}

#[test]
fn a_level_rises_by_one_each_minute_until_one_of_its_jobs_gets_a_slot() {
    let fair = fixed([], []);
    let mut queue = queue([ticket("low1", 0, "", 0), ticket("low2", 0, "", 0), ticket("high", 3, "", 4 * MINUTE)]);
    assert_eq!(names(&queue, &fair, 4 * MINUTE - 1), ["high", "low1", "low2"]);
    assert_eq!(names(&queue, &fair, 4 * MINUTE + 1), ["low1", "high", "low2"], "one of them");
    queue.served(0, at(4 * MINUTE));
    assert_eq!(names(&queue, &fair, 4 * MINUTE + 1), ["high", "low1", "low2"]);
}

#[test]
fn jobs_leave_the_queue_as_they_came() {
    let groups = ["a", "b"].into_iter().cycle();
    let tickets: Vec<Ticket> = (0..200)
        .zip(groups)
        .map(|(number, group)| ticket(&number.to_string(), number % 3, group, (number * 7 % 50).into()))
        .collect();
    let mut queue = queue(tickets.clone());
    queue.insert(tickets[0].clone());
    assert_eq!((queue.len(), queue.oldest()), (200, Some(at(0))));
    for (left, ticket) in (0..200).rev().zip(&tickets) {
        queue.remove(ticket);
        queue.remove(ticket);
        assert_eq!(queue.len(), left);
        let heads: BTreeSet<&Place> = queue.levels.values().flat_map(|level| &level.heads).collect();
        let firsts = queue.levels.values().flat_map(|level| level.groups.values()).filter_map(BTreeSet::first);
        assert_eq!(heads, firsts.collect());
    }
    assert!(queue.is_empty() && queue.levels.is_empty() && queue.oldest().is_none());
}

#[test]
fn the_order_holds_each_job_once_and_does_not_depend_on_who_came_first() {
    for seed in 0..300 {
        let mut dice = Dice::new(seed);
        let mut tickets: Vec<Ticket> = (0..dice.below(40))
            .map(|n| {
                let created = i64::try_from(dice.below(10)).unwrap() * MINUTE;
                let priority = i32::try_from(dice.below(4)).unwrap();
                ticket(&n.to_string(), priority, ["a", "b", "c"][dice.below(3)], created)
            })
            .collect();
        let shares = fixed([("a", 17.3), ("b", 5.0)], [("c", 3.0)]);
        let forth = names(&queue(tickets.clone()), &shares, 10 * MINUTE);
        tickets.reverse();
        let queue = queue(tickets.clone());
        assert_eq!(forth, names(&queue, &shares, 10 * MINUTE), "seed {seed}");
        let all: BTreeSet<&String> = forth.iter().collect();
        assert_eq!((forth.len(), all.len()), (tickets.len(), tickets.len()), "seed {seed}");
    }
}

#[test]
fn a_place_in_the_queue_is_one_less_when_the_first_has_got_its_slot() {
    for seed in 0..300 {
        let mut dice = Dice::new(seed);
        let mut queue = queue((0..30).map(|n| {
            let created = i64::try_from(dice.below(10)).unwrap() * MINUTE;
            ticket(&n.to_string(), i32::try_from(dice.below(4)).unwrap(), ["a", "b", "c"][dice.below(3)], created)
        }));
        let mut shares = fixed([("a", 17.3), ("b", 5.0), ("c", 0.0)], [("c", 3.0)]);
        let mut before = names(&queue, &shares, 10 * MINUTE);
        while let Some(first) = { queue.order(&shares, at(10 * MINUTE)).next() } {
            let (priority, group) = (first.priority, first.group.to_owned());
            let first = Ticket { priority, group: group.clone(), place: first.place.clone() };
            queue.remove(&first);
            queue.served(priority, at(10 * MINUTE));
            *shares.used.get_mut(group.as_str()).unwrap() += shares.estimate;
            let after = names(&queue, &shares, 10 * MINUTE);
            assert_eq!(before[1..], after, "seed {seed}");
            before = after;
        }
    }
}

#[test]
fn a_tenant_that_offers_a_hundred_times_as_much_gets_no_more_than_the_others() {
    for seed in 0..3 {
        let jain = jain(seed, true);
        println!("seed {seed}: Jain index {jain:.4}");
        assert!(jain >= 0.98, "seed {seed}: {jain}");
    }
}

#[test]
fn groups_get_what_their_weights_say() {
    for seed in 0..3 {
        let mut dice = Dice::new(seed);
        let mut simulation = Simulation::new(16);
        simulation.weights = [("a", 1.0), ("b", 2.0), ("c", 5.0)].map(|(group, weight)| (group.into(), weight)).into();
        // They do not differ in weight only: the heaviest has the shortest builds.
        let arrivals = [("a", 1000.0, 120.0), ("b", 2000.0, 60.0), ("c", 4000.0, 30.0)]
            .into_iter()
            .flat_map(|(group, per_hour, length)| stream(&mut dice, group, per_hour, length, 12))
            .collect();
        simulation.run(arrivals, 12 * HOUR);
        let all: f64 = simulation.done.values().sum();
        for (group, weight) in &simulation.weights {
            let error = (simulation.done[group] / all) / (weight / 8.0) - 1.0;
            println!("seed {seed}: {group} {:+.2} %", error * 100.0);
            assert!(error.abs() <= 0.05, "seed {seed}: {group} is off by {error}");
        }
    }
}

#[test]
fn a_light_tenant_waits_little_longer_than_if_it_were_alone() {
    for seed in 0..3 {
        let (alone, beside) = (light_waits(seed, false), light_waits(seed, true));
        println!("seed {seed}: median and p99 {alone:.0?} s alone, {beside:.0?} s beside a heavy tenant");
        assert!(beside[1] <= 2.0 * alone[1], "seed {seed}: {alone:?} {beside:?}");
    }
}

#[test]
fn no_level_starves_under_a_stream_of_higher_priority() {
    let mut simulation = Simulation::new(2);
    // Twice as much as two slots can do, for eight hours, and one job of the lowest level.
    let mut arrivals: Vec<Arrival> = stream(&mut Dice::new(1), "high", 240.0, 60.0, 8);
    for arrival in &mut arrivals {
        arrival.priority = 100;
    }
    for (group, priority) in [("low", -100), ("middle", 0)] {
        arrivals.push(Arrival { at: 10 * MINUTE, group: group.into(), priority, length: MINUTE });
    }
    simulation.run(arrivals, 8 * HOUR);
    // The difference of the priorities in minutes, and until the next slot is free.
    for (group, minutes) in [("low", 200.0), ("middle", 100.0)] {
        let waited = simulation.waits[group][0] / 60.0;
        assert!((minutes..=minutes + 10.0).contains(&waited), "{group} waited {waited} minutes");
    }
}

#[test]
fn no_group_starves_under_a_stream_of_builds_that_take_no_time() {
    let mut simulation = Simulation::new(1);
    // Ten days of build time are on its account.
    simulation.usage.charge("heavy", Duration::from_hours(240), at(0));
    simulation.usage.charge("quick", Duration::from_millis(1), at(0));
    let quick = (0..60 * 60 * 2).map(|tick| Arrival {
        at: tick * 10 * SECOND,
        group: "quick".into(),
        priority: 0,
        length: 10 * SECOND - 1,
    });
    let mut arrivals: Vec<Arrival> = quick.collect();
    arrivals.push(Arrival { at: 5 * SECOND, group: "heavy".into(), priority: 0, length: SECOND });
    simulation.run(arrivals, 20 * HOUR);
    let waited = simulation.waits["heavy"][0] / 3600.0;
    assert!(waited < 12.0, "{waited} hours");
}
