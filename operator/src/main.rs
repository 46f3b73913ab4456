//! The operator's process.

use std::process::ExitCode;

use buildpools_operator::cli::Cli;
use buildpools_operator::runtime;
use clap::Parser as _;

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    // One TLS provider for the process, before the first connection.
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        eprintln!("error: another TLS provider is installed already");
        return ExitCode::FAILURE;
    }
    if let Err(error) = runtime::telemetry::init(&cli.log, cli.log_format) {
        eprintln!("error: {error:#}");
        return ExitCode::FAILURE;
    }
    match runtime::run(cli).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            runtime::report(&error);
            ExitCode::FAILURE
        }
    }
}
