//! How long a job waits after it has lost an attempt.

use std::time::Duration;

use buildpools_crds::v1alpha1::BuildJobStatus;
use jiff::Timestamp;

use super::placement::stable_hash;

/// Delay after the first lost attempt.
const FIRST: Duration = Duration::from_secs(2);

/// Longest delay, without the jitter.
const MOST: Duration = Duration::from_mins(5);

/// Part of the delay that is added at most, so that jobs that were lost together do not come back together.
const JITTER: f64 = 0.2;

/// Delay before the next attempt of a job that has lost so many. The jitter comes from the job's UID: the same job gets
/// the same delay from every process, and nothing has to be written down.
pub fn delay(lost: usize, uid: &str) -> Duration {
    let doublings = u32::try_from(lost.saturating_sub(1)).unwrap_or(u32::MAX);
    let delay = FIRST.saturating_mul(2_u32.saturating_pow(doublings)).min(MOST);
    // 16 bits of the hash, as a number from 0 to 1.
    let chance = f64::from(u16::try_from(stable_hash(uid) >> 48).unwrap_or(0)) / f64::from(u16::MAX);
    delay.mul_f64(1.0 + JITTER * chance)
}

/// Time before which the next attempt does not begin, if one was lost.
pub fn not_before(status: &BuildJobStatus, uid: &str) -> Option<Timestamp> {
    let lost = status.attempts.last()?.finished_at.as_ref()?.0;
    Some(lost.saturating_add(delay(status.attempts.len(), uid)).unwrap_or(Timestamp::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_five_minutes_and_a_fifth() {
        for (lost, least) in [(1, 2), (2, 4), (3, 8), (8, 256), (9, 300), (64, 300), (usize::MAX, 300)] {
            for uid in 0..1000 {
                let delay = delay(lost, &uid.to_string()).as_secs_f64();
                let least = f64::from(least);
                assert!((least..=least * 1.2).contains(&delay), "{lost} lost: {delay} s");
            }
        }
    }

    #[test]
    fn jobs_that_were_lost_together_come_back_spread_out() {
        let mut delays: Vec<Duration> = (0..1000).map(|uid| delay(9, &format!("uid-{uid}"))).collect();
        delays.sort_unstable();
        let spread = delays[949].abs_diff(delays[50]);
        assert!((50..=58).contains(&spread.as_secs()), "9 of 10 within {spread:?} of 60 s");
        assert_eq!(delay(3, "a"), delay(3, "a"));
    }
}
