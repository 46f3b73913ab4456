//! Watches that come back whatever the API server answers.
//!
//! kube's watcher has two gaps. A watch that is refused with HTTP 410 at its start (the version that it would go on
//! from is compacted already, as after a long break) is begun again with the same version, for ever: [`watch`] begins
//! anew with a list. And a list, or the start of a watch, to which no answer comes (a connection that is dead at its
//! other end) is waited for without a limit: [`AnswerWithin`] sets one for every request of a client.

use std::fmt::Debug;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt as _, Stream, StreamExt as _, stream};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Config, Error, Event, watcher};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use tower::{BoxError, Layer, Service};

/// Watches these objects for ever; errors are for the log. After each comes a pause, which grows to half a minute. A
/// new list is told as in kube's watcher: `Init`, the objects, `InitDone`; whoever keeps state forgets what the list
/// does not show.
pub fn watch<K>(api: Api<K>, config: Config) -> impl Stream<Item = watcher::Result<Event<K>>> + Send
where
    K: Resource<DynamicType: Send> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    restarting(move || watcher(api.clone(), config.clone()).boxed()).default_backoff()
}

fn restarting<K, S>(start: impl Fn() -> S + Send) -> impl Stream<Item = S::Item> + Send
where
    K: Send,
    S: Stream<Item = watcher::Result<Event<K>>> + Unpin + Send,
{
    let stream = start();
    stream::unfold((start, stream), |(start, mut stream)| async move {
        let event = stream.next().await?;
        if event.as_ref().is_err_and(is_expired) {
            stream = start();
        }
        Some((event, (start, stream)))
    })
}

fn is_expired(error: &Error) -> bool {
    matches!(error, Error::WatchStartFailed(kube::Error::Api(status)) if status.code == 410)
}

/// A client's layer: how long the API server may take to begin its answer to a request. The answer itself, such as the
/// events of a watch, may take as long as it likes.
#[derive(Clone, Copy, Debug)]
pub struct AnswerWithin(pub Duration);

impl<S> Layer<S> for AnswerWithin {
    type Service = Answering<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Answering { inner, within: self.0 }
    }
}

/// The service of [`AnswerWithin`].
#[derive(Clone, Debug)]
pub struct Answering<S> {
    inner: S,
    within: Duration,
}

impl<S, R> Service<R> for Answering<S>
where
    S: Service<R, Error: Into<BoxError>, Future: Send + 'static>,
    S::Response: 'static,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<S::Response, BoxError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, request: R) -> Self::Future {
        let (answer, within) = (self.inner.call(request), self.within);
        async move {
            match tokio::time::timeout(within, answer).await {
                Ok(answer) => answer.map_err(Into::into),
                Err(_) => Err(format!("no answer within {} s", within.as_secs()).into()),
            }
        }
        .boxed()
    }
}
