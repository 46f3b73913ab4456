//! The benchmarks. Figures go to stdout, one JSON object per line; everything else to stderr.

use std::process::ExitCode;

use buildpools_e2e::bench;
use buildpools_e2e::bench::plan::{self, Plan, Rounds};
use clap::Parser;

#[derive(Parser)]
#[command(version, about = "Benchmarks on the test cluster; `make bench` runs them in the cluster's node")]
struct Arguments {
    /// Measures this figure only.
    #[arg(long, env = "ONLY")]
    only: Option<String>,
    /// Prints the names of the figures and ends.
    #[arg(long)]
    list: bool,
    /// Rounds on the warm pool: in each, one build as a BuildJob, by buildctl and by the ideal dispatcher.
    #[arg(long, env = "BENCH_WARM", default_value_t = 200)]
    warm: usize,
    /// Queues of 50 jobs.
    #[arg(long, env = "BENCH_QUEUE", default_value_t = 4)]
    queue: usize,
    /// Builds of two seconds, as a BuildJob and by buildctl.
    #[arg(long, env = "BENCH_LONG", default_value_t = 30)]
    long: usize,
    /// Builds as a BuildJob and by a bare Kubernetes Job.
    #[arg(long, env = "BENCH_KUBE_JOB", default_value_t = 30)]
    kube_job: usize,
    /// Cold starts of each kind.
    #[arg(long, env = "BENCH_COLD", default_value_t = 10)]
    cold: usize,
}

#[tokio::main]
async fn main() -> ExitCode {
    let Arguments { only, list, warm, queue, long, kube_job, cold } = Arguments::parse();
    if list {
        plan::figures().for_each(|name| println!("{name}"));
        return ExitCode::SUCCESS;
    }
    let only = only.filter(|name| !name.is_empty());
    let result = match Plan::new(Rounds { warm, queue, long, kube_job, cold }, only) {
        Ok(plan) => Box::pin(bench::run(&plan)).await,
        Err(error) => Err(error),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}
