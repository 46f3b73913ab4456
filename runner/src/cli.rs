//! Command line and environment.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// Builds the BuildJobs that are bound to its pod, in the buildkitd beside it.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
pub struct Args {
    /// What to do; `run` when absent.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Settings of `run`.
    #[command(flatten)]
    pub settings: Settings,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Takes jobs until SIGTERM, and then finishes those that run.
    Run(Settings),
    /// Exits with 0 when the runner of this container is connected to its daemon and watches its jobs.
    Probe,
}

/// Settings of `run`. The pod's template sets them all.
#[derive(Clone, Debug, clap::Args)]
pub struct Settings {
    /// Name of the pod.
    #[arg(long, env = "POD_NAME", default_value = "")]
    pub pod_name: String,
    /// UID of the pod: jobs whose `status.assignedTo` is this are this runner's.
    #[arg(long, env = "POD_UID", default_value = "")]
    pub pod_uid: String,
    /// Namespace of the pod, its pool and its jobs.
    #[arg(long, env = "POD_NAMESPACE", default_value = "")]
    pub pod_namespace: String,
    /// The BuildPool that the pod is a member of.
    #[arg(long, env = "POOL_NAME", default_value = "")]
    pub pool_name: String,
    /// Socket of buildkitd.
    #[arg(long, env = "BUILDKIT_SOCKET", default_value = "/run/buildpools/buildkitd.sock")]
    pub buildkit_socket: PathBuf,
    /// The pool's configuration for its runners.
    #[arg(long, env = "CONFIG", default_value = "/etc/buildpools/runner.json")]
    pub config: PathBuf,
    /// The cache volume.
    #[arg(long, env = "CACHE", default_value = "/var/cache/buildkit")]
    pub cache: PathBuf,
}

impl Settings {
    /// The first setting that has no value.
    pub fn missing(&self) -> Option<&'static str> {
        let required = [
            ("POD_NAME", &self.pod_name),
            ("POD_UID", &self.pod_uid),
            ("POD_NAMESPACE", &self.pod_namespace),
            ("POOL_NAME", &self.pool_name),
        ];
        required.into_iter().find(|(_, value)| value.is_empty()).map(|(name, _)| name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn run_is_the_default_and_takes_the_same_flags() {
        let flags = ["--pod-name=main-0", "--pod-uid=u", "--pod-namespace=team-a", "--pool-name=main"];
        let bare = Args::try_parse_from(["runner"].into_iter().chain(flags)).unwrap();
        assert!(bare.command.is_none());
        assert_eq!(bare.settings.missing(), None);
        let named = Args::try_parse_from(["runner", "run"].into_iter().chain(flags)).unwrap();
        let Some(Command::Run(settings)) = named.command else { panic!("{named:?}") };
        assert_eq!((settings.pod_name.as_str(), settings.pool_name.as_str()), ("main-0", "main"));
    }

    #[test]
    fn the_probe_needs_no_settings() {
        let args = Args::try_parse_from(["runner", "probe"]).unwrap();
        assert!(matches!(args.command, Some(Command::Probe)));
        assert_eq!(args.settings.missing(), Some("POD_NAME"));
    }
}
