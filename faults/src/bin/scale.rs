//! `scale`: what the operator needs for many pools and jobs. Figures go to stdout, one JSON object per line.

use std::process::ExitCode;
use std::time::Duration;

use buildpools_faults::scale::{self, Settings};
use clap::Parser;

#[derive(Parser)]
#[command(version, about = "Memory, processor time, writes and start of the operator with many pools and jobs")]
struct Arguments {
    /// Number of pools.
    #[arg(long, env = "POOLS", default_value_t = 1000)]
    pools: usize,
    /// Number of jobs; one of twenty has not ended.
    #[arg(long, env = "JOBS", default_value_t = 10_000)]
    jobs: usize,
    /// Number of starts.
    #[arg(long, env = "STARTS", default_value_t = 5)]
    starts: usize,
    /// Seconds of rest that are measured.
    #[arg(long, env = "IDLE", default_value_t = 180)]
    idle: u64,
}

#[tokio::main]
async fn main() -> ExitCode {
    let Arguments { pools, jobs, starts, idle } = Arguments::parse();
    let settings = Settings { pools, jobs, starts, idle: Duration::from_secs(idle) };
    let done = async {
        for figure in Box::pin(scale::run(settings)).await? {
            eprintln!("{}", figure.summary());
            println!("{}", serde_json::to_string(&figure)?);
        }
        anyhow::Ok(())
    };
    match done.await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("scale: {error:#}");
            ExitCode::FAILURE
        }
    }
}
