//! The connection to the API server.

use std::time::Duration;

use buildpools_crds::watch::AnswerWithin;
use http::{Response, StatusCode};
use kube::client::ClientBuilder;
use kube::{Client, Config};
use tower::util::MapResponseLayer;

const CONNECT: Duration = Duration::from_secs(5);
/// For lists and watches; single calls have a limit of their own.
const ANSWER: AnswerWithin = AnswerWithin(Duration::from_secs(30));

/// A client from the pod's ServiceAccount. `unauthorized` is called whenever an answer is 401, whatever the call.
pub async fn connect(unauthorized: impl Fn() + Clone + Send + Sync + 'static) -> anyhow::Result<Client> {
    let mut config = Config::infer().await?;
    config.connect_timeout = Some(CONNECT);
    // Every call here has its own way of trying again, and one that is repeated behind its back is no longer "one
    // call within ten seconds".
    config.default_retry = false;
    Ok(ClientBuilder::try_from(config)?.with_layer(&on_unauthorized(unauthorized)).with_layer(&ANSWER).build())
}

/// The layer that notices 401.
pub fn on_unauthorized<B>(
    unauthorized: impl Fn() + Clone + Send + Sync + 'static,
) -> MapResponseLayer<impl Fn(Response<B>) -> Response<B> + Clone + Send + Sync + 'static> {
    MapResponseLayer::new(move |response: Response<B>| {
        if response.status() == StatusCode::UNAUTHORIZED {
            unauthorized();
        }
        response
    })
}
