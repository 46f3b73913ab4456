//! The scheduler's figures for `make bench`, one JSON object per line. They need no cluster: everything that decides is
//! pure.

use std::cmp::Reverse;

use serde_json::json;

use super::placement::tests::{locality, moved};
use super::placement::{Candidate, choose};
use super::simulation::{jain, light_waits};

/// Prints a figure: the mean over runs with different seeds. The 95 % interval is that of the ratio where the name has
/// `over`, as with all figures; each run then has a baseline of its own.
fn print(name: &str, unit: &str, ours: &[f64], baseline: &[f64]) {
    let ((value, spread), (base, _)) = (mean(ours), mean(baseline));
    let (middle, spread) = if name.contains("_over_") {
        let ratios: Vec<f64> = ours.iter().zip(baseline).map(|(ours, baseline)| ours / baseline).collect();
        mean(&ratios)
    } else {
        (value, spread)
    };
    let round = |number: f64| (number * 10_000.0).round() / 10_000.0;
    let line = json!({
        "name": name, "value": round(value), "unit": unit, "baseline": round(base),
        "ratio": round(value / base), "n": ours.len(), "ci95": [round(middle - spread), round(middle + spread)],
    });
    // On a line of its own, whatever the test harness has printed.
    println!("\n{line}");
}

/// Mean, and half of its 95 % interval.
fn mean(runs: &[f64]) -> (f64, f64) {
    let count = f64::from(u32::try_from(runs.len()).unwrap());
    let mean = runs.iter().sum::<f64>() / count;
    let variance = runs.iter().map(|run| (run - mean).powi(2)).sum::<f64>() / (count - 1.0);
    (mean, 1.96 * (variance / count).sqrt())
}

/// The least loaded member, whatever it has in its cache.
fn least_loaded(_: u64, members: &[Candidate<'_>]) -> Option<usize> {
    let open = members.iter().enumerate().filter(|(_, member)| member.has_slot());
    open.max_by_key(|(index, member)| (Reverse(member.builds), Reverse(*index))).map(|(index, _)| index)
}

#[test]
#[ignore = "a benchmark: e2e/scripts/bench"]
fn scheduler_figures() {
    let seeds = || 0..5_u64;
    let waits = |beside| -> Vec<f64> { seeds().map(|seed| light_waits(seed, beside)[1]).collect() };
    print("light_wait_over_solo", "s (p99)", &waits(true), &waits(false));
    let pools = [(3, 8), (5, 8), (10, 8), (10, 4)];
    let localities = |choose| -> Vec<f64> {
        let pools = pools.iter().flat_map(|(members, slots)| seeds().map(move |seed| (*members, *slots, seed)));
        // A quarter of the slots are taken on the average.
        pools.map(|(members, slots, seed)| locality(choose, members, slots, members * slots / 4, seed)).collect()
    };
    print("cache_locality", "share at home", &localities(choose), &localities(least_loaded));
    let times_ideal = |count: usize| {
        let share = f64::from(u32::try_from(moved(count) * (count + 1)).unwrap());
        share / 10_000.0
    };
    let moves: Vec<f64> = (1..=31).map(times_ideal).collect();
    print("keys_moved", "times 1/(N+1)", &moves, &vec![1.0; moves.len()]);
    let index = |fair| -> Vec<f64> { seeds().map(|seed| jain(seed, fair)).collect() };
    print("fairness_jain", "Jain index", &index(true), &index(false));
}
