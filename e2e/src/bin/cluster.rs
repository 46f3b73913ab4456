//! The test cluster's command line.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use buildpools_e2e::cluster::layout::DEFAULT_NAME;
use buildpools_e2e::cluster::process::Process;
use buildpools_e2e::cluster::{self, ClusterInfo, Layout};
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(version, about = "A real one-node Kubernetes on this machine, for tests")]
struct Arguments {
    /// The cluster's name.
    #[arg(long, global = true, env = "CLUSTER", default_value = DEFAULT_NAME)]
    name: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Starts the cluster unless it runs.
    Up,
    /// Removes the cluster with all it holds, whatever state it is in.
    Down,
    /// Prints the path of the administrator's kubeconfig.
    Kubeconfig,
    /// Compiles operator and runner and brings their images into the running cluster.
    Load {
        /// Takes the programs as they were compiled last.
        #[arg(long)]
        no_compile: bool,
    },
    /// Shows the cluster's processes; fails when the cluster is not sound.
    Status,
    /// Runs a command in the node's network and mount namespaces.
    Nsenter {
        /// The command, after `--`.
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(arguments).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cluster: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<()> {
    let layout = Layout::new(&arguments.name)?;
    match arguments.command {
        Command::Up => {
            let info = cluster::up(&layout).await?;
            println!("export KUBECONFIG={}", info.kubeconfig.display());
            Ok(())
        }
        Command::Down => cluster::down(&layout),
        Command::Kubeconfig => {
            println!("{}", ClusterInfo::load(&layout.name)?.kubeconfig.display());
            Ok(())
        }
        Command::Load { no_compile } => {
            ClusterInfo::load(&layout.name)?;
            if !no_compile {
                cluster::images::compile()?;
            }
            cluster::load(&layout)
        }
        Command::Status => status(&layout).await,
        Command::Nsenter { command } => {
            let (program, arguments) = command.split_first().context("a command is required")?;
            Err(cluster::node::command(&layout, program)?.args(arguments).exec()).context("nsenter")
        }
    }
}

async fn status(layout: &Layout) -> Result<()> {
    for process in Process::all(layout) {
        let state = if process.is_alive() { "runs" } else { "ended" };
        println!("{:<24} {:>8} {state:<6} {}", process.name, process.pid, process.log.display());
    }
    let info = cluster::start::check(layout).await?;
    println!("node {} at {}, registry {}, git {}", info.name, info.node_ip, info.registry, info.git_url);
    println!("kubeconfig {}", info.kubeconfig.display());
    Ok(())
}
