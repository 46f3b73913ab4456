//! One figure of a benchmark: a JSON object in a line.

use serde::Serialize;

use super::stats::{bootstrap, mean, median, pick, quantile};

/// One figure. `value`, `baseline` and `ratio` are medians of `n` rounds (means for counts); `ci95` is the 95 % interval
/// of what the goal is about: of `ratio` where the name has `over`, of `value` otherwise.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// The figure's name, under which a goal is set for it.
    pub name: &'static str,
    /// What was measured of buildpools.
    pub value: f64,
    /// Unit of `value` and `baseline`.
    pub unit: &'static str,
    /// What was measured of that which buildpools is compared with.
    pub baseline: f64,
    /// Ours over the baseline.
    pub ratio: f64,
    /// Rounds.
    pub n: usize,
    /// 95 % confidence interval.
    pub ci95: [f64; 2],
    /// The goal: the most that `value` or `ratio`, as for `ci95`, should be.
    #[serde(skip)]
    pub goal: f64,
}

impl Figure {
    /// How much longer ours takes; the goal is about the difference.
    pub fn difference(name: &'static str, unit: &'static str, ours: &[f64], baseline: &[f64], goal: f64) -> Self {
        let differences: Vec<f64> = ours.iter().zip(baseline).map(|(ours, baseline)| ours - baseline).collect();
        let interval = bootstrap(differences.len(), |places| median(&pick(&differences, places)));
        Self { value: median(&differences), ci95: interval, ..Self::ratio(name, unit, ours, baseline, goal) }.rounded()
    }

    /// How many times as long ours takes; the goal is about the ratio of the medians.
    pub fn ratio(name: &'static str, unit: &'static str, ours: &[f64], baseline: &[f64], goal: f64) -> Self {
        let n = ours.len().min(baseline.len());
        let ratio = |places: &[usize]| median(&pick(ours, places)) / median(&pick(baseline, places));
        Self {
            name,
            value: median(ours),
            unit,
            baseline: median(baseline),
            ratio: median(ours) / median(baseline),
            n,
            ci95: bootstrap(n, ratio),
            goal,
        }
        .rounded()
    }

    /// Something that should be `goal` at most, which is the baseline too.
    pub fn absolute(name: &'static str, unit: &'static str, samples: &[f64], goal: f64) -> Self {
        let value = median(samples);
        Self {
            name,
            value,
            unit,
            baseline: goal,
            // Of nothing, nothing is a share.
            ratio: if goal > 0.0 { value / goal } else { value },
            n: samples.len(),
            ci95: bootstrap(samples.len(), |places| median(&pick(samples, places))),
            goal,
        }
        .rounded()
    }

    /// A count per round that should be `expected`, which is baseline and goal.
    pub fn count(name: &'static str, unit: &'static str, counts: &[f64], expected: f64) -> Self {
        let value = mean(counts);
        Self {
            name,
            value,
            unit,
            baseline: expected,
            ratio: value / expected,
            n: counts.len(),
            ci95: bootstrap(counts.len(), |places| mean(&pick(counts, places))),
            goal: expected,
        }
        .rounded()
    }

    /// Whether the goal is about the ratio.
    fn is_relative(&self) -> bool {
        self.name.contains("_over_")
    }

    /// Whether the figure reaches its goal; the point, not the interval.
    pub fn is_met(&self) -> bool {
        let figure = if self.is_relative() { self.ratio } else { self.value };
        figure <= self.goal
    }

    /// The line that a person reads.
    pub fn summary(&self) -> String {
        let figure = if self.is_relative() { self.ratio } else { self.value };
        let verdict = if self.is_met() { "met" } else { "MISSED" };
        let [low, high] = self.ci95;
        format!("{}: {figure:.2} [{low:.2}, {high:.2}], goal at most {}: {verdict}", self.name, self.goal)
    }

    /// Microseconds are the finest that is measured here.
    fn rounded(self) -> Self {
        let round = |value: f64| (value * 1000.0).round() / 1000.0;
        Self {
            value: round(self.value),
            baseline: round(self.baseline),
            ratio: round(self.ratio),
            ci95: self.ci95.map(round),
            ..self
        }
    }
}

/// Median and tail in a few words.
pub fn spread(samples: &[f64]) -> String {
    format!("p50 {:.1}, p95 {:.1}, p99 {:.1}", median(samples), quantile(samples, 0.95), quantile(samples, 0.99))
}

#[cfg(test)]
mod tests {
    // The figures are exact by construction.
    #![allow(clippy::float_cmp)]

    use super::*;

    #[test]
    fn a_line_has_the_agreed_fields() {
        let figure = Figure::ratio("a_over_b", "ms", &[2.0, 4.0, 3.0], &[1.0, 2.0, 3.0], 1.5);
        let line = serde_json::to_value(&figure).unwrap();
        let fields: Vec<_> = line.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(fields, ["baseline", "ci95", "n", "name", "ratio", "unit", "value"]);
        assert_eq!(
            (line["value"].as_f64(), line["baseline"].as_f64(), line["ratio"].as_f64()),
            (Some(3.0), Some(2.0), Some(1.5))
        );
        assert!(figure.is_met());
    }

    #[test]
    fn a_difference_is_of_pairs_and_its_goal_is_absolute() {
        // Each pair differs by 4, whatever the machine did in that round.
        let figure = Figure::difference("a_minus_b_ms", "ms", &[14.0, 104.0, 24.0], &[10.0, 100.0, 20.0], 3.0);
        assert_eq!((figure.value, figure.baseline, figure.ratio), (4.0, 20.0, 1.2));
        assert_eq!(figure.ci95, [4.0, 4.0]);
        assert!(!figure.is_met());
        assert!(figure.summary().ends_with("goal at most 3: MISSED"), "{}", figure.summary());
    }

    #[test]
    fn a_goal_may_be_nothing() {
        let figure = Figure::absolute("a_writes", "writes", &[0.0], 0.0);
        assert!(figure.is_met());
        assert_eq!((figure.value, figure.ratio, figure.n), (0.0, 0.0, 1));
        assert!(!Figure::absolute("a_s", "s", &[1.0, 2.0, 4.0], 1.5).is_met());
    }

    #[test]
    fn a_count_that_varies_shows() {
        assert!(Figure::count("writes", "writes", &[3.0, 3.0], 3.0).is_met());
        let figure = Figure::count("writes", "writes", &[3.0, 3.0, 3.0, 5.0], 3.0);
        assert_eq!(figure.value, 3.5);
        assert!(!figure.is_met());
    }
}
