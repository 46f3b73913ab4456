//! The client of the API server.

use std::time::Duration;

use anyhow::Context as _;
use buildpools_crds::watch::AnswerWithin;
use kube::client::ClientBuilder;
use kube::{Client, Config};

use super::metrics::Metrics;

/// Time for a connection to the API server, TLS included.
const CONNECT: Duration = Duration::from_secs(5);

/// Of lists and watches too; single calls have a limit of their own. A list of thousands of objects begins late on an API
/// server under load.
const ANSWER: AnswerWithin = AnswerWithin(Duration::from_secs(30));

/// Longest silence of a connection. The API server ends a watch by itself after 290 s (kube's default) and sends
/// bookmarks before that.
const SILENCE: Duration = Duration::from_mins(5);

/// Connects as the surroundings say: in a pod by its ServiceAccount, elsewhere by the kubeconfig.
///
/// The client retries nothing by itself (kube's default is fifteen times, for minutes): whoever calls decides anew from
/// what is then true. Single calls are bounded where they are made; what is bounded here holds for lists and watches too.
///
/// # Errors
/// When there is no usable configuration.
pub async fn connect(metrics: &Metrics) -> anyhow::Result<Client> {
    let mut config = Config::infer()
        .await
        .context("no configuration for the Kubernetes API: run in a pod with a ServiceAccount, or set KUBECONFIG")?;
    config.default_retry = false;
    config.connect_timeout = Some(CONNECT);
    config.read_timeout = Some(SILENCE);
    let builder = ClientBuilder::try_from(config).context("the configuration for the Kubernetes API cannot be used")?;
    Ok(builder.with_layer(&ANSWER).with_layer(&metrics.requests()).build())
}
