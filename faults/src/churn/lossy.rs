//! A way to the API server on which answers to writes get lost after they were carried out.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use axum::Router;
use axum::body::{Body as AxumBody, to_bytes};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode, header};
use kube::Client;
use kube::client::Body;
use serde_json::json;
use tower::{BoxError, Service};

/// Longest body of a request: more than any object has.
const BODY_MAX: usize = 8 << 20;

/// How many writes there were, and how many of their answers got lost.
#[derive(Debug, Default)]
pub struct Counts {
    /// Writes.
    pub writes: AtomicU64,
    /// Of these, with a false answer.
    pub injected: AtomicU64,
}

/// The way. Cheap to clone.
#[derive(Clone)]
pub struct Lossy {
    client: Client,
    /// Share of the writes whose answer is lost.
    rate: f64,
    counts: Arc<Counts>,
}

/// What the sender gets instead of the answer.
#[derive(Clone, Copy)]
enum Lie {
    Status(StatusCode, &'static str),
    Broken,
}

impl Lie {
    fn any() -> Self {
        match rand::random_range(0..4) {
            0 => Self::Status(StatusCode::GATEWAY_TIMEOUT, "Timeout"),
            1 => Self::Status(StatusCode::INTERNAL_SERVER_ERROR, "InternalError"),
            2 => Self::Status(StatusCode::CONFLICT, "Conflict"),
            _ => Self::Broken,
        }
    }
}

impl Lossy {
    /// Over this client.
    pub fn new(client: Client, rate: f64, counts: Arc<Counts>) -> Self {
        Self { client, rate, counts }
    }

    /// A client whose requests go this way.
    pub fn client(&self) -> Client {
        Client::new(self.clone(), "default")
    }

    async fn send(&self, request: Request<Body>) -> Result<Response<Body>, BoxError> {
        let is_write = request.method() != Method::GET;
        let answer = self.client.send(request).await?;
        if !is_write {
            return Ok(answer);
        }
        self.counts.writes.fetch_add(1, Ordering::Relaxed);
        if rand::random::<f64>() >= self.rate {
            return Ok(answer);
        }
        self.counts.injected.fetch_add(1, Ordering::Relaxed);
        match Lie::any() {
            Lie::Status(code, reason) => Ok(status(code, reason)),
            Lie::Broken => Err("connection closed before message completed".into()),
        }
    }
}

impl Service<Request<Body>> for Lossy {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let way = self.clone();
        Box::pin(async move { way.send(request).await })
    }
}

/// Opens the way to processes of their own: HTTP on the loopback address, for as long as the runtime lives.
///
/// # Errors
/// When no port is free.
pub async fn serve(way: Lossy) -> std::io::Result<SocketAddr> {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    let router = Router::new().fallback(move |request: Request<AxumBody>| {
        let way = way.clone();
        async move { pass_on(&way, request).await }
    });
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok(address)
}

async fn pass_on(way: &Lossy, request: Request<AxumBody>) -> Response<AxumBody> {
    let (mut parts, body): (Parts, _) = request.into_parts();
    let Ok(body) = to_bytes(body, BODY_MAX).await else { return broken() };
    for own in [header::HOST, header::CONNECTION, header::CONTENT_LENGTH, header::TRANSFER_ENCODING] {
        parts.headers.remove(own);
    }
    match way.send(Request::from_parts(parts, Body::from(body.to_vec()))).await {
        Ok(mut answer) => {
            for own in [header::CONNECTION, header::TRANSFER_ENCODING] {
                answer.headers_mut().remove(own);
            }
            answer.map(AxumBody::new)
        }
        Err(_) => broken(),
    }
}

/// An answer in the middle of which the connection breaks.
fn broken() -> Response<AxumBody> {
    let broken = futures::stream::once(async { Err::<Vec<u8>, _>(std::io::Error::other("broken")) });
    Response::new(AxumBody::from_stream(broken))
}

fn status(code: StatusCode, reason: &str) -> Response<Body> {
    let text = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code.as_u16(), "reason": reason,
        "message": "injected after the write was carried out",
    });
    let mut answer = Response::new(Body::from(text.to_string().into_bytes()));
    *answer.status_mut() = code;
    answer.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    answer
}
