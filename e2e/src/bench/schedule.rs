//! When jobs arrive; pure.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

/// The first `count` arrivals of a Poisson process with `rate` arrivals per second, as times from its beginning: nobody
/// waits for anybody. The same seed gives the same arrivals.
pub fn poisson(rate: f64, count: usize, seed: u64) -> Vec<Duration> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut now = 0.0;
    let arrivals = (0..count).map(|_| {
        // 1 − [0, 1) is never 0, whose logarithm is not a number.
        now -= (1.0 - random.random::<f64>()).ln() / rate;
        Duration::from_secs_f64(now)
    });
    arrivals.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::stats::{mean, quantile};

    #[test]
    fn arrivals_have_the_rate_and_the_spread_of_a_poisson_process() {
        let arrivals = poisson(20.0, 20_000, 7);
        let gaps: Vec<f64> =
            arrivals.windows(2).map(|pair| (pair[1].as_secs_f64() - pair[0].as_secs_f64()) * 1000.0).collect();
        // Exponential with mean 50 ms: so are its quantiles, and its spread is as large as its mean.
        let spread = mean(&gaps.iter().map(|gap| (gap - 50.0).powi(2)).collect::<Vec<_>>()).sqrt();
        for (value, expected) in
            [(mean(&gaps), 50.0), (spread, 50.0), (quantile(&gaps, 0.5), 34.7), (quantile(&gaps, 0.99), 230.3)]
        {
            assert!((value / expected - 1.0).abs() < 0.06, "{value} is not {expected}");
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_arrivals() {
        assert_eq!(poisson(20.0, 50, 3), poisson(20.0, 50, 3));
        assert_ne!(poisson(20.0, 50, 3), poisson(20.0, 50, 4));
        assert!(poisson(20.0, 50, 3).is_sorted());
    }
}
