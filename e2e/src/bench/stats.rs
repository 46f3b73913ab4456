//! Medians and their confidence intervals, without a client.
//!
//! A run measures two things in turn, so sample *i* of one and sample *i* of the other had the same machine: the bootstrap
//! draws rounds, not samples, and noise that both share does not widen the interval.

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

/// Drawings of the bootstrap. The 2.5 % tails then rest on 100 values each.
const DRAWINGS: usize = 4000;

/// The same samples always give the same interval.
const SEED: u64 = 20_240_501;

/// The value that a part `q` (0 to 1) of the samples does not exceed, linear between neighbours; NaN without samples.
pub fn quantile(samples: &[f64], q: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    #[expect(clippy::cast_precision_loss, reason = "numbers of samples are small")]
    let place = q.clamp(0.0, 1.0) * last as f64;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and the number of samples")]
    let below = place.floor() as usize;
    let above = (below + 1).min(last);
    sorted[below] + (sorted[above] - sorted[below]) * (place - place.floor())
}

/// Half of the samples are below, half above.
pub fn median(samples: &[f64]) -> f64 {
    quantile(samples, 0.5)
}

/// The arithmetic mean; NaN without samples.
pub fn mean(samples: &[f64]) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "numbers of samples are small")]
    let count = samples.len() as f64;
    samples.iter().sum::<f64>() / count
}

/// What the samples at these places are, in their order.
pub fn pick(samples: &[f64], places: &[usize]) -> Vec<f64> {
    places.iter().map(|place| samples[*place]).collect()
}

/// The 95 % interval of a statistic over `rounds` rounds: percentiles of its values over rounds drawn with replacement.
/// `statistic` gets the places of the drawn rounds.
pub fn bootstrap(rounds: usize, statistic: impl Fn(&[usize]) -> f64) -> [f64; 2] {
    if rounds == 0 {
        return [f64::NAN; 2];
    }
    let mut random = StdRng::seed_from_u64(SEED);
    let mut places = vec![0; rounds];
    let values: Vec<f64> = (0..DRAWINGS)
        .map(|_| {
            places.fill_with(|| random.random_range(0..rounds));
            statistic(&places)
        })
        .collect();
    [quantile(&values, 0.025), quantile(&values, 0.975)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-9
    }

    #[test]
    fn quantiles_lie_between_neighbours() {
        let samples = [4.0, 1.0, 3.0, 2.0];
        for (q, expected) in [(0.0, 1.0), (0.5, 2.5), (1.0, 4.0), (0.25, 1.75)] {
            assert!(close(quantile(&samples, q), expected), "{q}");
        }
        assert!(close(median(&[7.0]), 7.0) && close(median(&[1.0, 9.0, 2.0]), 2.0));
        assert!(median(&[]).is_nan() && mean(&[]).is_nan());
        assert!(close(mean(&samples), 2.5));
    }

    #[test]
    fn one_outlier_moves_the_mean_and_not_the_median() {
        let mut samples = vec![10.0; 20];
        samples.push(1000.0);
        assert!(close(median(&samples), 10.0) && mean(&samples) > 50.0);
    }

    #[test]
    fn the_interval_holds_the_median_and_shrinks_with_more_samples() {
        let mut random = StdRng::seed_from_u64(1);
        let samples: Vec<f64> = (0..400).map(|_| random.random_range(0.0..100.0)).collect();
        let width = |count: usize| {
            let samples = &samples[..count];
            let [low, high] = bootstrap(count, |places| median(&pick(samples, places)));
            assert!(low <= median(samples) && median(samples) <= high, "{low} {high}");
            high - low
        };
        assert!(width(400) < width(25) / 2.0, "{} {}", width(400), width(25));
        // 95 % of the interval for the median of 100 uniform samples is about ±10 around it.
        assert!((10.0..35.0).contains(&width(100)), "{}", width(100));
    }

    #[test]
    fn the_interval_is_the_same_every_time() {
        let samples = [3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0, 6.0];
        let interval = || bootstrap(samples.len(), |places| median(&pick(&samples, places)));
        assert_eq!(interval().map(f64::to_bits), interval().map(f64::to_bits));
    }

    #[test]
    fn noise_that_both_sides_share_does_not_widen_the_interval() {
        let mut random = StdRng::seed_from_u64(2);
        let base: Vec<f64> = (0..100).map(|_| random.random_range(50.0..500.0)).collect();
        let ours: Vec<f64> = base.iter().map(|base| base + 5.0).collect();
        let differences: Vec<f64> = ours.iter().zip(&base).map(|(a, b)| a - b).collect();
        let [low, high] = bootstrap(100, |places| median(&pick(&differences, places)));
        assert!(close(low, 5.0) && close(high, 5.0));
    }
}
