//! The way of a program's requests to the API server.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use kube::Client;
use kube::client::ClientBuilder;
use serde_json::{Value, json};
use tokio::runtime::Handle;
use tower::{BoxError, Service};

use super::request::{self, Call};
use super::{ANSWER, BEHIND, Fault, HANG, Identity, Injector, Kind, LATE, Part, SLOW, events};
use crate::oracle::log::Log;

/// Annotation by which somebody else changes an object.
pub const TOUCHED: &str = "faults.buildpools.dev/touched";

/// The API server, from a runtime that outlives the programs: what was sent arrives, even if the sender dies.
#[derive(Clone)]
pub struct Upstream {
    client: Client,
    runtime: Handle,
}

impl std::fmt::Debug for Upstream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Upstream")
    }
}

impl Upstream {
    /// `client` is the administrator's, made in the current runtime.
    pub fn new(client: Client) -> Self {
        Self { client, runtime: Handle::current() }
    }

    async fn send(&self, parts: Parts, body: Bytes) -> Result<Response<Body>, BoxError> {
        let client = self.client.clone();
        let request = Request::from_parts(parts, kube::client::Body::from(body.to_vec()));
        let answer = self.runtime.spawn(async move { client.send(request).await }).await??;
        Ok(answer.map(Body::new))
    }
}

/// One life of a program: its requests go through here, until it dies.
#[derive(Clone, Debug)]
pub struct Door {
    /// Who it is.
    pub part: Part,
    /// As whom it calls.
    pub identity: Identity,
    /// Its namespace.
    pub namespace: String,
    /// What has happened there.
    pub log: Arc<Log>,
    /// Version at which the run began.
    pub since: u64,
    /// Faults.
    pub injector: Injector,
    /// The API server.
    pub upstream: Upstream,
    /// Whether it is dead.
    pub dead: Arc<AtomicBool>,
}

impl Door {
    /// A client for the program, to be made in its own runtime.
    pub fn client(self) -> Client {
        let namespace = self.namespace.clone();
        ClientBuilder::new(self, namespace).with_layer(&ANSWER).build()
    }

    /// Does what is to happen to the program at this point of a call to somebody else than the API server, before the
    /// call. Returns what is left to do.
    pub async fn external(&self, call: &str) -> Option<Fault> {
        self.alive().await;
        let fault = self.injector.pass(Kind::External, &self.part, call);
        if fault == Some(Fault::CrashBefore) {
            self.die().await;
        }
        fault
    }

    /// Dies here.
    pub async fn die(&self) {
        self.dead.store(true, Ordering::SeqCst);
        self.injector.crash(&self.part);
        std::future::pending::<()>().await;
    }

    async fn alive(&self) {
        if self.dead.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
    }

    async fn answer(self, request: Request<kube::client::Body>) -> Result<Response<Body>, BoxError> {
        self.alive().await;
        let (mut parts, body) = request.into_parts();
        let body = body.collect_bytes().await?;
        parts.uri = request::confine(&parts.uri, &self.namespace);
        self.identity.stamp(&mut parts);
        let call = Call::of(&parts, &body);
        if call.kind == Kind::Event {
            return self.watch(parts, &call).await;
        }
        let label = call.label();
        let fault = self.injector.pass(call.kind, &self.part, &label);
        let answer = self.carry_out(fault, &call, parts, body).await;
        let said = match &answer {
            Ok(answer) => answer.status().as_u16().to_string(),
            Err(error) => error.to_string(),
        };
        if call.kind == Kind::Write {
            self.injector.trace().line(format!("{:<12} {label} -> {said}", self.part.to_string()));
        }
        self.alive().await;
        answer
    }

    async fn carry_out(
        &self,
        fault: Option<Fault>,
        call: &Call,
        mut parts: Parts,
        body: Bytes,
    ) -> Result<Response<Body>, BoxError> {
        let upstream = &self.upstream;
        match fault {
            None => {
                if call.verb == "list" {
                    self.injector.is_expired(&self.part, &call.watched(), true);
                    if let Some(depth) = self.injector.behind(&self.part).filter(|_| call.is_paged) {
                        let version = self.log.version_back(&call.resource, depth, self.since);
                        parts.uri = request::as_of(&parts.uri, version);
                    }
                }
                upstream.send(parts, body).await
            }
            Some(Fault::CrashBefore) => {
                self.die().await;
                Err("dead".into())
            }
            Some(Fault::CrashAfter | Fault::Stale(_)) => {
                let answer = upstream.send(parts, body).await;
                self.note(&answer);
                self.die().await;
                answer
            }
            Some(Fault::AnswerLost) => {
                self.note(&upstream.send(parts, body).await);
                Err("connection closed before message completed".into())
            }
            Some(Fault::GatewayTimeout) => {
                self.note(&upstream.send(parts, body).await);
                Ok(failure(504, "Timeout", "the server did not answer in time"))
            }
            Some(Fault::Conflict) if call.verb == "create" => Ok(failure(
                409,
                "Conflict",
                "the object has been modified; please apply your changes to the latest version",
            )),
            Some(Fault::Conflict) => {
                self.touch(&parts).await?;
                upstream.send(parts, body).await
            }
            Some(Fault::TooManyRequests) => {
                let mut answer = failure(429, "TooManyRequests", "too many requests, please try again later");
                answer.headers_mut().insert("retry-after", http::HeaderValue::from_static("1"));
                Ok(answer)
            }
            Some(Fault::Hang) => {
                tokio::time::sleep(HANG).await;
                Err("connection reset".into())
            }
            Some(Fault::Late) => {
                let (late, trace, part) = (upstream.clone(), self.injector.trace().clone(), self.part.clone());
                upstream.runtime.spawn(async move {
                    tokio::time::sleep(LATE).await;
                    let answer = late.send(parts, body).await;
                    trace.line(format!("{part:<12} the late request -> {}", said(&answer)));
                });
                tokio::time::sleep(HANG).await;
                Err("connection reset".into())
            }
            Some(Fault::Slow) => {
                tokio::time::sleep(SLOW).await;
                upstream.send(parts, body).await
            }
            Some(Fault::Duplicate) => {
                self.note(&upstream.send(parts.clone(), body.clone()).await);
                upstream.send(parts, body).await
            }
            Some(Fault::Unavailable | Fault::Unobserved | Fault::Expired | Fault::ExpiredAtStart | Fault::Cut) => {
                Ok(failure(503, "ServiceUnavailable", "the server is currently unable to handle the request"))
            }
        }
    }

    fn note(&self, answer: &Result<Response<Body>, BoxError>) {
        self.injector.trace().line(format!("{:<12} the API server's answer: {}", self.part.to_string(), said(answer)));
    }

    /// Changes the object as somebody else.
    async fn touch(&self, parts: &Parts) -> Result<(), BoxError> {
        let path = parts.uri.path().trim_end_matches("/status").to_owned();
        let change = json!({"metadata": {"annotations": {TOUCHED: "yes"}}});
        let request = Request::builder()
            .method(Method::PATCH)
            .uri(path)
            .header("content-type", "application/merge-patch+json")
            .body(())?;
        let (parts, ()) = request.into_parts();
        let answer = self.upstream.send(parts, Bytes::from(change.to_string())).await?;
        if answer.status().is_success() { Ok(()) } else { Err(format!("touching: {}", answer.status()).into()) }
    }

    async fn watch(self, parts: Parts, call: &Call) -> Result<Response<Body>, BoxError> {
        let watched = call.watched();
        if self.injector.is_expired(&self.part, &watched, false) {
            return Ok(failure(410, "Expired", "too old resource version"));
        }
        let answer = self.upstream.send(parts, Bytes::new()).await?;
        if answer.status() != StatusCode::OK {
            return Ok(answer);
        }
        let silence = self.injector.silence(&self.part);
        let runtime = self.upstream.runtime.clone();
        Ok(answer.map(|body| events::pass_on(body, self, watched, silence, &runtime)))
    }
}

impl Service<Request<kube::client::Body>> for Door {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<kube::client::Body>) -> Self::Future {
        Box::pin(self.clone().answer(request))
    }
}

fn said(answer: &Result<Response<Body>, BoxError>) -> String {
    match answer {
        Ok(answer) => answer.status().as_u16().to_string(),
        Err(error) => error.to_string(),
    }
}

/// An answer of the API server that is no success.
pub(super) fn failure(code: u16, reason: &str, message: &str) -> Response<Body> {
    let mut answer = Response::new(Body::from(status(code, reason, message).to_string()));
    *answer.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    answer.headers_mut().insert("content-type", http::HeaderValue::from_static("application/json"));
    answer
}

pub(super) fn status(code: u16, reason: &str, message: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": message})
}

/// Silence of a watch that waits for the next event to hide one.
pub(super) const NEXT_WITHIN: std::time::Duration = BEHIND;
