//! A pool under load, without a cluster: builds of random lengths come, wait, run and end.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::order::{Queue, Shares, Ticket};
use super::usage::Usage;
use crate::dispatch::dice::Dice;

/// Milliseconds after time zero of the simulation.
pub fn at(millis: i64) -> Timestamp {
    Timestamp::from_millisecond(1_000_000_000 + millis).unwrap()
}

pub const SECOND: i64 = 1000;
pub const MINUTE: i64 = 60 * SECOND;
pub const HOUR: i64 = 60 * MINUTE;

/// A pool.
pub struct Simulation {
    slots: usize,
    /// Whether there are groups; else first in, first out.
    pub fair: bool,
    pub usage: Usage,
    pub weights: BTreeMap<String, f64>,
    /// Build-seconds by tenant.
    pub done: BTreeMap<String, f64>,
    /// Seconds from arrival to start, by tenant.
    pub waits: BTreeMap<String, Vec<f64>>,
    queue: Queue,
    /// Tenant and length of each build.
    builds: HashMap<Arc<str>, (String, i64)>,
    running: Vec<Build>,
    now: i64,
}

struct Build {
    tenant: String,
    began: i64,
    ends: i64,
}

/// A job that comes.
#[derive(Clone)]
pub struct Arrival {
    pub at: i64,
    pub group: String,
    pub priority: i32,
    pub length: i64,
}

impl Shares for Simulation {
    fn used(&self, group: &str) -> f64 {
        let running = self.running.iter().filter(|build| build.tenant == group);
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
    pub fn new(slots: usize) -> Self {
        Self {
            slots,
            queue: Queue::default(),
            usage: Usage::default(),
            weights: BTreeMap::new(),
            fair: true,
            builds: HashMap::new(),
            running: Vec::new(),
            done: BTreeMap::new(),
            waits: BTreeMap::new(),
            now: 0,
        }
    }

    /// Runs until then; what has not ended by then is not counted.
    pub fn run(&mut self, mut arrivals: Vec<Arrival>, until: i64) {
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
                self.usage.charge(&build.tenant, length, at(next));
                *self.done.entry(build.tenant).or_default() += length.as_secs_f64();
            }
            while let Some((number, arrival)) = arrivals.next_if(|(_, arrival)| arrival.at <= next) {
                let name: Arc<str> = format!("{number:08}").into();
                let group = if self.fair { arrival.group.clone() } else { String::new() };
                self.builds.insert(name.clone(), (arrival.group, arrival.length));
                let place = (at(arrival.at), name.clone(), name);
                self.queue.insert(Ticket { priority: arrival.priority, group, place });
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
            let (tenant, length) = self.builds[&ticket.place.2].clone();
            self.waits.entry(tenant.clone()).or_default().push(waited);
            self.running.push(Build { tenant, began: self.now, ends: self.now + length });
        }
    }

    pub fn quantile(&self, group: &str, part: f64) -> f64 {
        let mut waits = self.waits[group].clone();
        waits.sort_by(f64::total_cmp);
        #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let index = ((waits.len() - 1) as f64 * part) as usize;
        waits[index]
    }
}

/// Jobs of a group that come at random, so many per hour on the average, of this mean length.
pub fn stream(dice: &mut Dice, group: &str, per_hour: f64, mean_length: f64, hours: i64) -> Vec<Arrival> {
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
pub fn jain(seed: u64, fair: bool) -> f64 {
    let mut dice = Dice::new(seed);
    let mut simulation = Simulation::new(10);
    simulation.fair = fair;
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
