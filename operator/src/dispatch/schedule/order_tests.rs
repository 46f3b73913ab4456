use std::time::Duration;

use super::*;
use crate::dispatch::dice::Dice;
use crate::dispatch::schedule::usage::Usage;

/// Milliseconds after time zero of the tests.
fn at(millis: i64) -> Timestamp {
    Timestamp::from_millisecond(1_000_000_000 + millis).unwrap()
}

const SECOND: i64 = 1000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;

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

/// A pool under load: builds of random lengths come, wait, run and end.
struct Simulation {
    slots: usize,
    queue: Queue,
    usage: Usage,
    weights: BTreeMap<String, f64>,
    lengths: HashMap<Arc<str>, i64>,
    running: Vec<Build>,
    done: BTreeMap<String, f64>,
    waits: BTreeMap<String, Vec<f64>>,
    now: i64,
}

struct Build {
    group: String,
    began: i64,
    ends: i64,
}

/// A job that comes.
#[derive(Clone)]
struct Arrival {
    at: i64,
    group: String,
    priority: i32,
    length: i64,
}

impl Shares for Simulation {
    fn used(&self, group: &str) -> f64 {
        let running = self.running.iter().filter(|build| build.group == group);
        let elapsed = running.map(|build| seconds(self.now - build.began).max(self.estimate()));
        self.usage.of(group, at(self.now)) + elapsed.sum::<f64>()
    }
    fn weight(&self, group: &str) -> f64 {
        self.weights.get(group).copied().unwrap_or(1.0)
    }
    fn estimate(&self) -> f64 {
        self.usage.estimate()
    }
}

fn seconds(millis: i64) -> f64 {
    Duration::from_millis(millis.try_into().unwrap()).as_secs_f64()
}

fn millis(seconds: f64) -> i64 {
    i64::try_from(Duration::from_secs_f64(seconds).as_millis()).unwrap()
}

impl Simulation {
    fn new(slots: usize) -> Self {
        Self {
            slots,
            queue: Queue::default(),
            usage: Usage::default(),
            weights: BTreeMap::new(),
            lengths: HashMap::new(),
            running: Vec::new(),
            done: BTreeMap::new(),
            waits: BTreeMap::new(),
            now: 0,
        }
    }

    /// Runs until then; what has not ended by then is not counted.
    fn run(&mut self, mut arrivals: Vec<Arrival>, until: i64) {
        arrivals.sort_by_key(|arrival| arrival.at);
        let mut arrivals = arrivals.into_iter().enumerate().peekable();
        loop {
            let next_end = self.running.iter().map(|build| build.ends).min();
            let next_arrival = arrivals.peek().map(|(_, arrival)| arrival.at);
            let Some(next) = [next_end, next_arrival].into_iter().flatten().min() else { break };
            if next > until {
                break;
            }
            self.now = next;
            let (ended, running) = std::mem::take(&mut self.running).into_iter().partition(|build| build.ends <= next);
            self.running = running;
            for build in ended {
                let length = Duration::from_millis((build.ends - build.began).try_into().unwrap());
                self.usage.charge(&build.group, length, at(next));
                *self.done.entry(build.group).or_default() += length.as_secs_f64();
            }
            while let Some((number, arrival)) = arrivals.next_if(|(_, arrival)| arrival.at <= next) {
                let ticket = ticket(&format!("{number:08}"), arrival.priority, &arrival.group, arrival.at);
                self.lengths.insert(ticket.place.2.clone(), arrival.length);
                self.queue.insert(ticket);
            }
            self.give_slots();
        }
    }

    fn give_slots(&mut self) {
        let free = self.slots - self.running.len();
        if free == 0 {
            return;
        }
        let turns: Vec<Ticket> = self
            .queue
            .order(self, at(self.now))
            .take(free)
            .map(|next| Ticket { priority: next.priority, group: next.group.to_owned(), place: next.place.clone() })
            .collect();
        for ticket in turns {
            self.queue.remove(&ticket);
            self.queue.served(ticket.priority, at(self.now));
            let waited = at(self.now).duration_since(ticket.place.0).as_secs_f64();
            self.waits.entry(ticket.group.clone()).or_default().push(waited);
            let length = self.lengths[&ticket.place.2];
            self.running.push(Build { group: ticket.group, began: self.now, ends: self.now + length });
        }
    }

    fn quantile(&self, group: &str, part: f64) -> f64 {
        let mut waits = self.waits[group].clone();
        waits.sort_by(f64::total_cmp);
        #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let index = ((waits.len() - 1) as f64 * part) as usize;
        waits[index]
    }
}

/// Jobs of a group that come at random, so many per hour on the average, of this mean length.
fn stream(dice: &mut Dice, group: &str, per_hour: f64, mean_length: f64, hours: i64) -> Vec<Arrival> {
    let mut now = 0;
    let mut arrivals = Vec::new();
    loop {
        now += millis(dice.exponential(3600.0 / per_hour));
        if now > hours * HOUR {
            return arrivals;
        }
        let length = millis(dice.exponential(mean_length)).max(1);
        arrivals.push(Arrival { at: now, group: group.into(), priority: 0, length });
    }
}

/// Jain's index of ten tenants of whom one offers 100 times as much as each other; they offer a little more than is
/// due to them, so that fairness and nothing else decides what they get.
pub fn jain(seed: u64) -> f64 {
    let mut dice = Dice::new(seed);
    let mut simulation = Simulation::new(10);
    // A slot does 60 builds of a minute an hour, and there is one for each tenant.
    let mut arrivals: Vec<Arrival> =
        (1..10).flat_map(|tenant| stream(&mut dice, &format!("tenant-{tenant}"), 66.0, 60.0, 12)).collect();
    arrivals.extend(stream(&mut dice, "tenant-0", 6600.0, 60.0, 12));
    simulation.run(arrivals, 12 * HOUR);
    let done: Vec<f64> = simulation.done.values().copied().collect();
    assert_eq!(done.len(), 10);
    let sum = done.iter().sum::<f64>();
    sum * sum / (10.0 * done.iter().map(|seconds| seconds * seconds).sum::<f64>())
}

#[test]
fn a_tenant_that_offers_a_hundred_times_as_much_gets_no_more_than_the_others() {
    for seed in 0..3 {
        let jain = jain(seed);
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

/// Waits (median, 99th percentile) of a tenant that comes with three builds per slot every two hours; beside it, if
/// asked for, one that offers far more than the pool can do.
pub fn light_waits(seed: u64, beside_heavy: bool) -> [f64; 2] {
    let mut dice = Dice::new(seed);
    let mut simulation = Simulation::new(10);
    let mut arrivals = Vec::new();
    for burst in 0..12 {
        for _ in 0..30 {
            let length = millis(dice.exponential(60.0)).max(1);
            arrivals.push(Arrival { at: (2 * burst + 1) * HOUR, group: "light".into(), priority: 0, length });
        }
    }
    if beside_heavy {
        arrivals.extend(stream(&mut dice, "heavy", 3000.0, 60.0, 24));
    }
    simulation.run(arrivals, 24 * HOUR);
    [0.5, 0.99].map(|part| simulation.quantile("light", part))
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
