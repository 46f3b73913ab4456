//! Flags. Each can be given as an environment variable.

use std::net::{IpAddr, SocketAddr};

use clap::{Parser, ValueEnum};
use ipnet::IpNet;

use crate::dispatch::explain::Explainer;
use crate::runtime::metrics::Metrics;
use crate::{dispatch, pool};

/// The operator of buildpools.
#[derive(Clone, Debug, Parser)]
#[command(name = "buildpools-operator", version)]
pub struct Cli {
    /// Image of the runner, the container beside each daemon
    #[arg(long, env = "RUNNER_IMAGE")]
    pub runner_image: String,

    /// Image of buildkitd in its rootless variant, for pools of profile Rootless that name none
    #[arg(long, env = "BUILDKIT_IMAGE")]
    pub buildkit_image: String,

    /// Image of buildkitd for pools of profile UserNamespace that name none
    #[arg(long, env = "BUILDKIT_USER_NAMESPACE_IMAGE")]
    pub buildkit_user_namespace_image: String,

    /// DNS servers of the cluster, as networks, if they are not the pods k8s-app=kube-dns of kube-system. The default is
    /// where NodeLocal DNSCache listens
    #[arg(long, env = "DNS_CIDRS", value_delimiter = ',', default_value = "169.254.20.10/32")]
    pub dns_cidrs: Vec<IpNet>,

    /// Address of the API server's Service. Kubernetes tells every pod
    #[arg(long, env = "KUBERNETES_SERVICE_HOST")]
    pub api_service_host: Option<String>,

    /// Its port
    #[arg(long, env = "KUBERNETES_SERVICE_PORT", default_value_t = 443)]
    pub api_service_port: u16,

    /// Name of this pod: the identity in leader election, unique among the operator's processes
    #[arg(long, env = "POD_NAME")]
    pub pod_name: String,

    /// Namespace of this pod, where the lease is
    #[arg(long, env = "POD_NAMESPACE")]
    pub pod_namespace: String,

    /// Name of the lease
    #[arg(long, env = "LEASE_NAME", default_value = "buildpools-operator")]
    pub lease_name: String,

    /// Address of /livez and /readyz
    #[arg(long, env = "HEALTH_ADDR", default_value = "0.0.0.0:8081")]
    pub health_addr: SocketAddr,

    /// Address of /debug/queue. It names jobs of all tenants, so it is served to this pod alone: use kubectl port-forward
    #[arg(long, env = "DEBUG_ADDR", default_value = "127.0.0.1:8082")]
    pub debug_addr: SocketAddr,

    /// Address of /metrics
    #[arg(long, env = "METRICS_ADDR", default_value = "0.0.0.0:8080")]
    pub metrics_addr: SocketAddr,

    /// Which log lines to write, for example `info,buildpools_operator=debug`
    #[arg(long, env = "RUST_LOG", default_value = "info,kube_runtime=warn")]
    pub log: String,

    /// How to write log lines
    #[arg(long, env = "LOG_FORMAT", default_value = "text")]
    pub log_format: LogFormat,
}

/// Form of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

impl Cli {
    /// Identity in leader election.
    pub fn identity(&self) -> String {
        self.pod_name.clone()
    }

    /// Settings of the pools' controller.
    pub fn pool_settings(&self) -> pool::Settings {
        // Some clusters put a host name there; then the addresses behind the Service must do.
        let host = self.api_service_host.as_deref().and_then(|host| host.parse::<IpAddr>().ok());
        pool::Settings {
            runner_image: self.runner_image.clone(),
            buildkit_image: self.buildkit_image.clone(),
            buildkit_user_namespace_image: self.buildkit_user_namespace_image.clone(),
            metrics: Metrics::default(),
            network: pool::network::ClusterNetwork {
                dns: self.dns_cidrs.clone(),
                api_service: host.map(|host| SocketAddr::new(host, self.api_service_port)),
            },
        }
    }

    /// Settings of the dispatcher.
    pub fn dispatch_settings(&self, metrics: Metrics, explainer: Explainer) -> dispatch::Settings {
        dispatch::Settings { instance: self.pod_name.clone(), explainer, metrics, ..dispatch::Settings::default() }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::Cli;

    #[test]
    fn every_flag_has_a_variable() {
        let command = Cli::command();
        command.clone().debug_assert();
        let without: Vec<_> =
            command.get_arguments().filter(|arg| arg.get_env().is_none()).map(|arg| arg.get_id().as_str()).collect();
        assert!(without.iter().all(|id| ["help", "version"].contains(id)), "{without:?}");
    }
}
