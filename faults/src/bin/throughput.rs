//! `throughput`: jobs a second, and dispatch at twenty of them, without a cluster. Figures go to stdout, one JSON object
//! per line; everything else to stderr.

use std::process::ExitCode;

use anyhow::bail;
use buildpools_e2e::bench;
use buildpools_faults::throughput::{self, FIGURES};
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

#[derive(Parser)]
#[command(version, about = "Jobs a second on daemons that are done at once; `make bench` runs it")]
struct Arguments {
    /// Measures this figure only.
    #[arg(long, env = "ONLY")]
    only: Option<String>,
    /// Prints the names of the figures and ends.
    #[arg(long)]
    list: bool,
    /// Blocks of 60 jobs, 20 a second, as BuildJobs and for the ideal dispatcher.
    #[arg(long, env = "BENCH_ARRIVALS", default_value_t = 20)]
    arrivals: usize,
    /// Blocks of 300 jobs as fast as they go, as BuildJobs and for the ideal writer.
    #[arg(long, env = "BENCH_SUSTAINED", default_value_t = 20)]
    sustained: usize,
}

async fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let only = arguments.only.as_deref().filter(|name| !name.is_empty());
    let wanted = |figure: &str| only.is_none_or(|only| only == figure);
    let blocks = [arguments.arrivals, arguments.sustained];
    let [arriving, carried] =
        [0, 1].map(|part| if FIGURES[part].iter().any(|figure| wanted(figure)) { blocks[part] } else { 0 });
    let mut terminate = signal(SignalKind::terminate())?;
    // What was started ends with what is dropped here.
    tokio::select! {
        figures = Box::pin(throughput::run(arriving, carried)) => bench::print(&figures?, wanted),
        _ = tokio::signal::ctrl_c() => bail!("interrupted"),
        _ = terminate.recv() => bail!("interrupted"),
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.list {
        FIGURES.concat().iter().for_each(|name| println!("{name}"));
        return ExitCode::SUCCESS;
    }
    match run(&arguments).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("throughput: {error:#}");
            ExitCode::FAILURE
        }
    }
}
