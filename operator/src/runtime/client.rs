//! The client of the API server.

use std::time::Duration;

use anyhow::Context as _;
use buildpools_crds::watch::AnswerWithin;
use kube::client::ClientBuilder;
use kube::{Client, Config};

/// Time for a connection to the API server, TLS included.
const CONNECT: Duration = Duration::from_secs(5);

/// For lists and watches; single calls have a limit of their own.
const ANSWER: AnswerWithin = AnswerWithin(Duration::from_secs(30));

/// Connects as the surroundings say: in a pod by its ServiceAccount, elsewhere by the kubeconfig.
///
/// The client retries nothing by itself (kube's default is fifteen times, for minutes): whoever calls decides anew from
/// what is then true. No read timeout either, because watches are silent for long; each call is bounded where it is
/// made.
///
/// # Errors
/// When there is no usable configuration.
pub async fn connect() -> anyhow::Result<Client> {
    let mut config = Config::infer()
        .await
        .context("no configuration for the Kubernetes API: run in a pod with a ServiceAccount, or set KUBECONFIG")?;
    config.default_retry = false;
    config.connect_timeout = Some(CONNECT);
    let client = ClientBuilder::try_from(config).context("the configuration for the Kubernetes API cannot be used")?;
    Ok(client.with_layer(&ANSWER).build())
}
