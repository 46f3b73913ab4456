//! `churn`: many jobs while everything is killed. Prints one line of figures.

use std::process::ExitCode;
use std::time::Duration;

use buildpools_faults::churn;
use clap::Parser;

#[derive(Parser)]
#[command(version, about = "Many jobs on fake daemons while operators, runners, daemons and pods are killed")]
struct Arguments {
    /// Number of jobs.
    #[arg(long, env = "JOBS", default_value_t = 2000)]
    jobs: usize,
    /// Minutes after which no more jobs are made.
    #[arg(long, env = "MINUTES")]
    minutes: Option<u64>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let Arguments { jobs, minutes } = Arguments::parse();
    match Box::pin(churn::run(jobs, minutes.map(Duration::from_mins))).await {
        Ok(figures) => {
            println!("{figures}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("churn: {error:#}");
            ExitCode::FAILURE
        }
    }
}
