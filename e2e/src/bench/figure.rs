//! One figure of a benchmark: a JSON object in a line.

use std::fmt;

use serde::Serialize;

use super::stats::{bootstrap, mean, median, pick, quantile};

/// What a figure should be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Goal {
    /// Not more than this.
    AtMost(f64),
    /// Not less than this.
    AtLeast(f64),
}

impl Goal {
    /// Whether this value reaches it.
    fn is_met_by(self, value: f64) -> bool {
        match self {
            Self::AtMost(most) => value <= most,
            Self::AtLeast(least) => value >= least,
        }
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(most) => write!(f, "at most {most}"),
            Self::AtLeast(least) => write!(f, "at least {least}"),
        }
    }
}

/// One figure. `value`, `baseline` and `ratio` are medians of `n` rounds (another quantile where the name ends with one,
/// means for counts); `ci95` is the 95 % interval of what the goal is about: of `ratio` where the name has `over`, of
/// `value` otherwise.
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
    /// What `value` or `ratio`, as for `ci95`, should be.
    #[serde(skip)]
    pub goal: Goal,
}

impl Figure {
    /// How much longer ours takes; the goal is about the median of the differences.
    pub fn difference(name: &'static str, unit: &'static str, ours: &[f64], baseline: &[f64], most: f64) -> Self {
        let differences: Vec<f64> = ours.iter().zip(baseline).map(|(ours, baseline)| ours - baseline).collect();
        let interval = bootstrap(differences.len(), |places| median(&pick(&differences, places)));
        Self { value: median(&differences), ci95: interval, ..Self::ratio(name, unit, ours, baseline, most) }.rounded()
    }

    /// How many times as long ours takes; the goal is about the ratio of the medians.
    pub fn ratio(name: &'static str, unit: &'static str, ours: &[f64], baseline: &[f64], most: f64) -> Self {
        Self::ratio_at(name, unit, ours, baseline, 0.5, most)
    }

    /// The same of another quantile, 0 to 1.
    pub fn ratio_at(name: &'static str, unit: &'static str, ours: &[f64], baseline: &[f64], q: f64, most: f64) -> Self {
        let n = ours.len().min(baseline.len());
        let at = |samples: &[f64]| quantile(samples, q);
        let ci95 = bootstrap(n, |places| at(&pick(ours, places)) / at(&pick(baseline, places)));
        Self::of(name, unit, (at(ours), at(baseline)), n, ci95, Goal::AtMost(most))
    }

    /// The same of rounds with many samples each, which depend on one another: the interval is from a bootstrap that
    /// draws whole rounds. `n` counts the samples.
    pub fn ratio_of_rounds(
        name: &'static str,
        unit: &'static str,
        ours: &[Vec<f64>],
        baseline: &[Vec<f64>],
        q: f64,
        most: f64,
    ) -> Self {
        let at = |rounds: &[Vec<f64>], places: &[usize]| {
            let samples: Vec<f64> = places.iter().flat_map(|place| &rounds[*place]).copied().collect();
            quantile(&samples, q)
        };
        let rounds = ours.len().min(baseline.len());
        let all: Vec<usize> = (0..rounds).collect();
        let ci95 = bootstrap(rounds, |places| at(ours, places) / at(baseline, places));
        let n = ours.iter().map(Vec::len).sum();
        Self::of(name, unit, (at(ours, &all), at(baseline, &all)), n, ci95, Goal::AtMost(most))
    }

    /// A rate that should be high in itself.
    pub fn rate(name: &'static str, unit: &'static str, ours: &[f64], baseline: &[f64], least: f64) -> Self {
        let n = ours.len().min(baseline.len());
        let ci95 = bootstrap(n, |places| median(&pick(ours, places)));
        Self::of(name, unit, (median(ours), median(baseline)), n, ci95, Goal::AtLeast(least))
    }

    /// A rate that should be high in comparison: the median of what each round's ratio is.
    pub fn share(name: &'static str, unit: &'static str, ours: &[f64], baseline: &[f64], least: f64) -> Self {
        let shares: Vec<f64> = ours.iter().zip(baseline).map(|(ours, baseline)| ours / baseline).collect();
        let ci95 = bootstrap(shares.len(), |places| median(&pick(&shares, places)));
        let figure = Self::of(name, unit, (median(ours), median(baseline)), shares.len(), ci95, Goal::AtLeast(least));
        Self { ratio: median(&shares), ..figure }.rounded()
    }

    /// Something that should be `most` at most, which is the baseline too.
    pub fn absolute(name: &'static str, unit: &'static str, samples: &[f64], most: f64) -> Self {
        let ci95 = bootstrap(samples.len(), |places| median(&pick(samples, places)));
        let figure = Self::of(name, unit, (median(samples), most), samples.len(), ci95, Goal::AtMost(most));
        // Of nothing, nothing is a share.
        if most > 0.0 { figure } else { Self { ratio: figure.value, ..figure } }
    }

    /// A count per round that is `baseline` at its best and should not be more than `most`.
    pub fn count(name: &'static str, unit: &'static str, counts: &[f64], baseline: f64, most: f64) -> Self {
        let ci95 = bootstrap(counts.len(), |places| mean(&pick(counts, places)));
        Self::of(name, unit, (mean(counts), baseline), counts.len(), ci95, Goal::AtMost(most))
    }

    fn of(
        name: &'static str,
        unit: &'static str,
        (value, baseline): (f64, f64),
        n: usize,
        ci95: [f64; 2],
        goal: Goal,
    ) -> Self {
        Self { name, value, unit, baseline, ratio: value / baseline, n, ci95, goal }.rounded()
    }

    /// Whether the goal is about the ratio.
    fn is_relative(&self) -> bool {
        self.name.contains("_over_")
    }

    /// Whether the figure reaches its goal; the point, not the interval.
    pub fn is_met(&self) -> bool {
        self.goal.is_met_by(if self.is_relative() { self.ratio } else { self.value })
    }

    /// The line that a person reads.
    pub fn summary(&self) -> String {
        let figure = if self.is_relative() { self.ratio } else { self.value };
        let verdict = if self.is_met() { "met" } else { "MISSED" };
        let [low, high] = self.ci95;
        format!("{}: {figure:.2} [{low:.2}, {high:.2}], goal {}: {verdict}", self.name, self.goal)
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
        assert!(Figure::count("writes", "writes", &[3.0, 3.0], 3.0, 3.0).is_met());
        let figure = Figure::count("writes", "writes", &[3.0, 3.0, 3.0, 5.0], 3.0, 3.0);
        assert_eq!((figure.value, figure.baseline), (3.5, 3.0));
        assert!(!figure.is_met());
    }

    #[test]
    fn a_tail_is_compared_with_a_tail() {
        let ours: Vec<f64> = (0..=100).map(f64::from).collect();
        let baseline: Vec<f64> = ours.iter().map(|value| value / 2.0).collect();
        let figure = Figure::ratio_at("a_over_b_p99", "ms", &ours, &baseline, 0.99, 2.0);
        assert_eq!((figure.value, figure.baseline, figure.ratio), (99.0, 49.5, 2.0));
        assert!(figure.is_met());
    }

    #[test]
    fn samples_of_one_round_do_not_make_the_interval_narrow() {
        // Two rounds that differ, a hundred equal samples in each: no more is known than from two samples.
        let ours = vec![vec![1.0; 100], vec![3.0; 100]];
        let figure = Figure::ratio_of_rounds("a_over_b", "ms", &ours, &vec![vec![1.0; 100]; 2], 0.5, 2.0);
        assert_eq!((figure.n, figure.ratio, figure.ci95), (200, 2.0, [1.0, 3.0]));
    }

    #[test]
    fn a_rate_should_be_high() {
        let (ours, ideal) = ([90.0, 120.0, 100.0], [100.0, 150.0, 200.0]);
        let rate = Figure::rate("jobs_per_s", "jobs/s", &ours, &ideal, 100.0);
        assert_eq!((rate.value, rate.baseline), (100.0, 150.0));
        assert!(rate.is_met());
        let share = Figure::share("jobs_over_ideal", "jobs/s", &ours, &ideal, 0.9);
        assert_eq!((share.value, share.ratio), (100.0, 0.8));
        assert!(share.summary().ends_with("goal at least 0.9: MISSED"), "{}", share.summary());
    }
}
