//! Requests to the API server: a layer around the client.

use std::fmt::{self, Write as _};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use http::{Method, Request, Response, Uri};
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use tower::{Layer, Service};

/// Counts what goes through the services that it is laid around. A clone counts into the same metrics.
#[derive(Clone, Debug)]
pub struct RequestMetrics {
    requests: Family<ByCode, Counter>,
    durations: Family<ByVerb, Histogram, fn() -> Histogram>,
}

/// A service whose requests are counted.
#[derive(Clone, Debug)]
pub struct RequestMetricsService<Inner> {
    inner: Inner,
    metrics: RequestMetrics,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByVerb {
    verb: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByCode {
    verb: &'static str,
    code: Code,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Code {
    /// With this status.
    Status(u16),
    /// Without an answer.
    Error,
    /// Nobody waits for the answer any more: it took too long, or the process stops.
    Dropped,
}

impl EncodeLabelValue for Code {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), fmt::Error> {
        match self {
            Self::Status(code) => write!(encoder, "{code}"),
            Self::Error => encoder.write_str("error"),
            Self::Dropped => encoder.write_str("dropped"),
        }
    }
}

impl Default for RequestMetrics {
    fn default() -> Self {
        Self { requests: Family::default(), durations: Family::new_with_constructor(|| Histogram::new(super::REQUEST)) }
    }
}

impl RequestMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        let help = "Requests to the API server by verb and status code";
        registry.register("api_requests", help, self.requests.clone());
        let help = "Time until the API server began to answer, by verb";
        registry.register_with_unit("api_request_duration", help, Unit::Seconds, self.durations.clone());
    }
}

impl<Inner> Layer<Inner> for RequestMetrics {
    type Service = RequestMetricsService<Inner>;

    fn layer(&self, inner: Inner) -> Self::Service {
        RequestMetricsService { inner, metrics: self.clone() }
    }
}

impl<Inner, Body, Answer> Service<Request<Body>> for RequestMetricsService<Inner>
where
    Inner: Service<Request<Body>, Response = Response<Answer>>,
    Inner::Future: Send + 'static,
{
    type Response = Inner::Response;
    type Error = Inner::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let verb = verb(request.method(), request.uri());
        let open = Open { metrics: self.metrics.clone(), verb, begun: Instant::now(), code: Code::Dropped };
        let answer = self.inner.call(request);
        Box::pin(async move {
            // All of it, not only the field that is set, so that it counts when this is dropped.
            let mut open = open;
            let answer = answer.await;
            open.code = answer.as_ref().map_or(Code::Error, |answer| Code::Status(answer.status().as_u16()));
            answer
        })
    }
}

/// A request under way. Dropping it counts it, whatever the reason.
struct Open {
    metrics: RequestMetrics,
    verb: &'static str,
    begun: Instant,
    code: Code,
}

impl Drop for Open {
    fn drop(&mut self) {
        let Self { metrics, verb, begun, code } = self;
        metrics.requests.get_or_create(&ByCode { verb, code: *code }).inc();
        metrics.durations.get_or_create(&ByVerb { verb }).observe(begun.elapsed().as_secs_f64());
    }
}

/// The API's own verb (<https://kubernetes.io/docs/reference/using-api/api-concepts/#standard-api-terminology>).
fn verb(method: &Method, uri: &Uri) -> &'static str {
    match *method {
        Method::GET if uri.query().is_some_and(|query| query.split('&').any(is_watch)) => "watch",
        Method::GET if is_collection(uri.path()) => "list",
        Method::GET => "get",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "other",
    }
}

fn is_watch(parameter: &str) -> bool {
    matches!(parameter, "watch=true" | "watch=1" | "watch")
}

/// `/api/v1/pods`, `/apis/apps/v1/namespaces/a/deployments`; not what stands below.
fn is_collection(path: &str) -> bool {
    let mut rest = path.split('/').filter(|part| !part.is_empty());
    match rest.next() {
        Some("api") => drop(rest.next()),
        Some("apis") => drop((rest.next(), rest.next())),
        _ => return false,
    }
    let rest: Vec<_> = rest.collect();
    matches!(rest[..], [_] | ["namespaces", _, _])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verbs_are_the_apis_own() {
        let cases = [
            (Method::GET, "/api/v1/pods?labelSelector=a", "list"),
            (Method::GET, "/api/v1/pods?watch=true&limit=5", "watch"),
            (Method::GET, "/apis/buildpools.dev/v1alpha1/buildjobs?fieldSelector=x&watch=true", "watch"),
            (Method::GET, "/api/v1/namespaces/a/pods", "list"),
            (Method::GET, "/api/v1/namespaces/a/pods/b", "get"),
            (Method::GET, "/api/v1/namespaces/a", "get"),
            (Method::GET, "/apis/apps/v1/namespaces/a/statefulsets/b/status", "get"),
            (Method::GET, "/version", "get"),
            (Method::PATCH, "/apis/buildpools.dev/v1alpha1/namespaces/a/buildjobs/b/status", "patch"),
            (Method::POST, "/apis/events.k8s.io/v1/namespaces/a/events", "create"),
            (Method::PUT, "/apis/coordination.k8s.io/v1/namespaces/a/leases/b", "update"),
        ];
        for (method, uri, wanted) in cases {
            assert_eq!(verb(&method, &uri.parse().unwrap()), wanted, "{method} {uri}");
        }
    }
}
