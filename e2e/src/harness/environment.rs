//! The running cluster and clients to talk to it.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Output;

use anyhow::Context as _;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use kube::Client;
use kube::api::{Api, PostParams};
use kube::config::{AuthInfo, KubeConfigOptions, Kubeconfig};

use crate::cluster::ClusterInfo;
use crate::fixtures::registry;

/// The running cluster and clients to talk to it.
#[derive(Clone)]
pub struct Environment {
    /// The cluster.
    pub cluster: ClusterInfo,
    /// A client with all rights.
    pub client: Client,
}

impl Environment {
    /// The cluster that `CLUSTER` names (default `buildpools`).
    ///
    /// # Errors
    /// When it does not run: `make cluster` starts it.
    pub async fn load() -> anyhow::Result<Self> {
        let name = std::env::var("CLUSTER").unwrap_or_else(|_| "buildpools".to_owned());
        let cluster = ClusterInfo::load(&name)
            .with_context(|| format!("cluster {name} does not run: start it with `make cluster CLUSTER={name}`"))?;
        // Two users of rustls are in this process; both take ring. A second install is not an error.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::try_from(config_for(&cluster.kubeconfig).await?)?;
        Ok(Self { cluster, client })
    }

    /// A client of the same cluster that authenticates with this token and nothing else.
    ///
    /// # Errors
    /// When the kubeconfig cannot be read.
    pub async fn client_with_token(&self, token: &str) -> anyhow::Result<Client> {
        let mut config = config_for(&self.cluster.kubeconfig).await?;
        config.auth_info = AuthInfo { token: Some(token.to_owned().into()), ..AuthInfo::default() };
        Ok(Client::try_from(config)?)
    }

    /// A client that acts as this user, and may do what he may.
    ///
    /// # Errors
    /// When the kubeconfig cannot be read.
    pub async fn client_as(&self, user: &str) -> anyhow::Result<Client> {
        let mut config = config_for(&self.cluster.kubeconfig).await?;
        config.auth_info.impersonate = Some(user.to_owned());
        Ok(Client::try_from(config)?)
    }

    /// A client with the identity of the operator.
    ///
    /// # Errors
    /// When the API gives no token.
    pub async fn as_operator(&self) -> anyhow::Result<Client> {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), "buildpools-system");
        let request = TokenRequest { spec: TokenRequestSpec::default(), ..TokenRequest::default() };
        let answer = accounts.create_token_request("buildpools-operator", &PostParams::default(), &request).await?;
        self.client_with_token(&answer.status.context("token")?.token).await
    }

    /// Runs kubectl against the cluster.
    ///
    /// # Errors
    /// When kubectl cannot be started.
    pub async fn kubectl(&self, args: &[&str]) -> anyhow::Result<Output> {
        Ok(tokio::process::Command::new(self.cluster.tool("kubectl"))
            .args(args)
            .env("KUBECONFIG", &self.cluster.kubeconfig)
            .stdin(std::process::Stdio::null())
            .output()
            .await?)
    }

    /// Kills the first process of a container, as the kernel does when memory is short.
    ///
    /// # Errors
    /// When there is no such container.
    pub async fn kill_container(&self, pod: &Pod, container: &str) -> anyhow::Result<()> {
        let status = pod.status.as_ref().context("pod status")?;
        let statuses = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
        let found = statuses.into_iter().find(|s| s.name == container).context("container")?;
        let id =
            found.container_id.as_deref().and_then(|id| id.strip_prefix("containerd://")).context("container ID")?;
        let output = tokio::process::Command::new(self.cluster.tool("ctr"))
            .arg("--address")
            .arg(&self.cluster.containerd_socket)
            .args(["-n", "k8s.io", "tasks", "kill", "--signal", "SIGKILL", id])
            .output()
            .await?;
        anyhow::ensure!(output.status.success(), "ctr: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// A client of the cluster's registry that logs in as this user.
    ///
    /// # Errors
    /// When the CA cannot be read.
    pub fn registry(&self, user: &str) -> anyhow::Result<registry::Client> {
        let (host, port) = self.cluster.registry.split_once(':').context("registry is host:port")?;
        let address = SocketAddr::new(self.cluster.node_ip.into(), port.parse()?);
        let ca = std::fs::read(&self.cluster.ca)?;
        let client = registry::Client::new(&format!("https://{}", self.cluster.registry), &ca, &[(host, address)])?;
        Ok(client.login(user, &crate::fixtures::token::Config::password(user)))
    }
}

async fn config_for(kubeconfig: &Path) -> anyhow::Result<kube::Config> {
    let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
    let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    // An eviction that is refused is answered with 429: an answer, and not a reason to ask fifteen times.
    config.default_retry = false;
    Ok(config)
}
