//! The benchmarks. Figures go to stdout, one JSON object per line; everything else to stderr.

use std::process::ExitCode;

use buildpools_e2e::bench::{self, Rounds};
use clap::Parser;

#[derive(Parser)]
#[command(version, about = "Benchmarks on the test cluster; `make bench` runs them in the cluster's node")]
struct Arguments {
    /// Rounds on the warm pool: in each, one build as a BuildJob, by buildctl and by the ideal dispatcher.
    #[arg(long, env = "BENCH_WARM", default_value_t = 200)]
    warm: usize,
    /// Cold starts of each kind; 0 leaves them out.
    #[arg(long, env = "BENCH_COLD", default_value_t = 10)]
    cold: usize,
}

#[tokio::main]
async fn main() -> ExitCode {
    let Arguments { warm, cold } = Arguments::parse();
    match Box::pin(bench::run(Rounds { warm, cold })).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}
