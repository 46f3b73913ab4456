//! `buildpools-runner`: builds the BuildJobs of its pod in the buildkitd beside it.

use std::process::ExitCode;

use buildpools_runner::cli::{Args, Command};
use buildpools_runner::logs::{Flush, Logs};
use buildpools_runner::{probe, run};
use clap::Parser;
use tracing_subscriber::EnvFilter;

/// The client's own lines about failed calls are left out: whoever makes a call says what it means.
const LOG: &str = "info,kube_client=off";

fn main() -> ExitCode {
    let args = Args::parse();
    match args.command {
        Some(Command::Probe) => {
            if probe::is_ready() {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }
        Some(Command::Run(settings)) => start(settings),
        None => start(args.settings),
    }
}

fn start(settings: buildpools_runner::cli::Settings) -> ExitCode {
    let flush = start_log();
    // Fails only if a provider is installed already; one is enough.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "cannot start");
            return ExitCode::FAILURE;
        }
    };
    let code = match runtime.block_on(run::run(settings)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    };
    flush.wait();
    code
}

/// The runner's own log goes to stderr, because stdout belongs to the builds' logs. Neither may hold up a build, so it
/// is written by a thread of its own too.
fn start_log() -> Flush {
    let (log, flush) = Logs::start(std::io::stderr());
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(LOG)))
        .with_writer(move || log.clone())
        .with_ansi(false)
        // It would print to stderr, and panic if that fails.
        .log_internal_errors(false)
        .init();
    flush
}
