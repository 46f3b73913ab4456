//! What the groups of a pool have used: build-seconds, of which those of long ago count less.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;

/// Build-seconds that are too few to be told from none: shares are compared in whole seconds.
const NOTHING: f64 = 0.5;

/// Groups that are kept before those that have used next to nothing are dropped.
const GROUPS: usize = 1024;

/// Length of a build before any has ended, in seconds.
const FIRST_ESTIMATE: f64 = 60.0;

/// How far one build moves the mean.
const MEAN_STEP: f64 = 0.1;

/// Build-seconds of each group, decayed exponentially, and the mean length of a build. In memory only: seeded from the
/// finished jobs that still exist.
#[derive(Clone, Debug)]
pub struct Usage {
    half_life: Duration,
    groups: HashMap<String, Decayed>,
    mean: Option<f64>,
}

/// So many seconds, as seen at that time.
#[derive(Clone, Copy, Debug)]
struct Decayed {
    seconds: f64,
    at: Timestamp,
}

impl Default for Usage {
    fn default() -> Self {
        Self { half_life: Duration::from_hours(1), groups: HashMap::new(), mean: None }
    }
}

impl Usage {
    /// A group's build has ended, now or long ago. In any order.
    pub fn charge(&mut self, group: &str, build: Duration, finished: Timestamp) {
        let build = build.as_secs_f64();
        self.mean = Some(self.mean.map_or(build, |mean| mean + (build - mean) * MEAN_STEP));
        let half_life = self.half_life;
        let used = self.groups.entry(group.to_owned()).or_insert(Decayed { seconds: 0.0, at: finished });
        if finished > used.at {
            *used = Decayed { seconds: used.at(finished, half_life), at: finished };
            used.seconds += build;
        } else {
            used.seconds += Decayed { seconds: build, at: finished }.at(used.at, half_life);
        }
        if self.groups.len() > GROUPS {
            self.groups.retain(|_, used| used.at(finished, half_life) >= NOTHING);
        }
    }

    /// Build-seconds of a group, as they count now.
    pub fn of(&self, group: &str, now: Timestamp) -> f64 {
        self.groups.get(group).map_or(0.0, |used| used.at(now, self.half_life))
    }

    /// How long a build of this pool takes, in seconds, as far as is known.
    pub fn estimate(&self) -> f64 {
        self.mean.unwrap_or(FIRST_ESTIMATE)
    }

    /// Time after which a build-second counts half.
    pub fn set_half_life(&mut self, half_life: Duration, now: Timestamp) {
        if half_life != self.half_life {
            for used in self.groups.values_mut() {
                *used = Decayed { seconds: used.at(now, self.half_life), at: now };
            }
            self.half_life = half_life;
        }
    }
}

impl Decayed {
    /// The same, seen at another time; from before itself it is not less.
    fn at(self, now: Timestamp, half_life: Duration) -> f64 {
        let age = now.duration_since(self.at).as_secs_f64().max(0.0);
        self.seconds * (-age / half_life.as_secs_f64().max(1.0)).exp2()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + second).unwrap()
    }

    fn seconds(usage: &Usage, second: i64) -> f64 {
        (usage.of("g", at(second)) * 1000.0).round() / 1000.0
    }

    #[test]
    #[allow(clippy::float_cmp, reason = "rounded")]
    fn what_was_used_counts_half_after_each_half_life() {
        let mut usage = Usage::default();
        assert_eq!(seconds(&usage, 0), 0.0);
        usage.charge("g", Duration::from_secs(100), at(0));
        usage.charge("other", Duration::from_secs(7), at(0));
        assert_eq!([0, 3600, 7200].map(|second| seconds(&usage, second)), [100.0, 50.0, 25.0]);
        usage.charge("g", Duration::from_secs(100), at(3600));
        assert_eq!([3600, 7200].map(|second| seconds(&usage, second)), [150.0, 75.0]);
        usage.set_half_life(Duration::from_mins(30), at(3600));
        assert_eq!([3600, 7200].map(|second| seconds(&usage, second)), [150.0, 37.5]);
    }

    #[test]
    fn builds_may_be_told_of_in_any_order() {
        let builds = [(10, 500), (20, 3000), (30, 100), (40, 9000)];
        let sum = |builds: &mut dyn Iterator<Item = &(u64, i64)>| {
            let mut usage = Usage::default();
            for (length, finished) in builds {
                usage.charge("g", Duration::from_secs(*length), at(*finished));
            }
            usage.of("g", at(10_000))
        };
        let (forth, back) = (sum(&mut builds.iter()), sum(&mut builds.iter().rev()));
        assert!((forth - back).abs() < 1e-9, "{forth} {back}");
    }

    #[test]
    fn the_mean_build_is_estimated_from_what_was_seen() {
        let mut usage = Usage::default();
        assert!((usage.estimate() - 60.0).abs() < 1e-9);
        for _ in 0..100 {
            usage.charge("g", Duration::from_secs(5), at(0));
        }
        assert!((usage.estimate() - 5.0).abs() < 1e-9);
    }

    #[test]
    fn groups_that_came_once_are_forgotten() {
        let mut usage = Usage::default();
        for group in 0..10_000 {
            usage.charge(&format!("g{group}"), Duration::from_secs(1), at(group * 60));
        }
        assert!(usage.groups.len() <= GROUPS, "{}", usage.groups.len());
        assert!(usage.of("g9999", at(600_000)) > NOTHING);
    }
}
