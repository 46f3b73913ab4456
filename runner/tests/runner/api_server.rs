//! An API server in memory: two resources, watches with field selectors, compare-and-swap, and faults on request.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::body::{Body, Bytes};
use buildpools_crds::watch::AnswerWithin;
use futures::channel::mpsc;
use http::{Method, Request, Response};
use kube::Client;
use kube::client::ClientBuilder;
use serde_json::{Value, json};

pub const POD: &str = "pod-uid";

/// What happens to a request instead of what should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Refused with this status; nothing is done.
    Refuse(u16),
    /// Done, and the answer is this status.
    DoThen(u16),
    /// Done, and no answer ever comes.
    DoAndHang,
    /// Nothing is done and no answer ever comes.
    Hang,
}

/// Which requests a fault hits: `start` and `finish` are the writes of *running* and of an outcome.
struct Rule {
    what: &'static str,
    fault: Fault,
    times: usize,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<(String, String), Value>,
    version: u64,
    /// Nothing is known of what happened up to this version.
    forgotten: u64,
    /// Whether that is said by the HTTP status, and not by an event.
    gone_by_status: bool,
    /// (version, resource, before, after)
    history: Vec<(u64, String, Option<Value>, Option<Value>)>,
    watchers: Vec<Watcher>,
    rules: Vec<Rule>,
    /// `patch buildjobs/status app: Running`, in order.
    requests: Vec<String>,
    /// (verb, resource) of every request.
    used: BTreeSet<(String, String)>,
}

struct Watcher {
    resource: String,
    selector: Selector,
    sender: mpsc::UnboundedSender<Result<Bytes, std::io::Error>>,
}

#[derive(Clone)]
struct Selector(Option<(String, String)>);

impl Selector {
    fn of(query: &BTreeMap<String, String>) -> Self {
        Self(
            query.get("fieldSelector").and_then(|text| text.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned())),
        )
    }

    fn matches(&self, object: Option<&Value>) -> bool {
        let Some(object) = object else { return false };
        self.0.as_ref().is_none_or(|(path, value)| {
            path.split('.').try_fold(object, |at, key| at.get(key)).and_then(Value::as_str) == Some(value)
        })
    }
}

/// Cheap to clone; every change is told to `changed`.
#[derive(Clone)]
pub struct ApiServer {
    state: Arc<Mutex<State>>,
    changed: Arc<dyn Fn() + Send + Sync>,
}

impl ApiServer {
    pub fn new(changed: impl Fn() + Send + Sync + 'static) -> Self {
        let server = Self { state: Arc::default(), changed: Arc::new(changed) };
        server.state().version = 100;
        server
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub fn client(&self, unauthorized: impl Fn() + Clone + Send + Sync + 'static) -> Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<kube::client::Body>| {
            let server = server.clone();
            async move { server.answer(request).await }
        });
        ClientBuilder::new(service, "team-a")
            .with_layer(&buildpools_runner::api::on_unauthorized(unauthorized))
            .with_layer(&AnswerWithin(Duration::from_secs(30)))
            .build()
    }

    /// The next `times` requests of this kind go wrong.
    pub fn fault(&self, what: &'static str, fault: Fault, times: usize) {
        self.state().rules.push(Rule { what, fault, times });
    }

    pub fn heal(&self) {
        self.state().rules.clear();
    }

    pub fn requests(&self) -> Vec<String> {
        self.state().requests.clone()
    }

    /// Status writes of jobs.
    pub fn writes(&self) -> Vec<String> {
        self.requests().into_iter().filter(|request| request.starts_with("patch buildjobs/status")).collect()
    }

    pub fn used(&self) -> BTreeSet<(String, String)> {
        self.state().used.clone()
    }

    pub fn get(&self, resource: &str, name: &str) -> Option<Value> {
        self.state().objects.get(&(resource.to_owned(), name.to_owned())).cloned()
    }

    /// Creates, replaces or deletes an object, as somebody else would.
    pub fn set(&self, resource: &str, name: &str, object: Option<Value>) {
        self.state().set(resource, name, object);
        (self.changed)();
    }

    /// Changes an object, as somebody else would.
    pub fn change(&self, resource: &str, name: &str, change: impl FnOnce(&mut Value)) {
        let mut object = self.get(resource, name).unwrap();
        change(&mut object);
        self.set(resource, name, Some(object));
    }

    /// From now on, a watch that would have to tell what is forgotten is refused with HTTP status 410. A real API
    /// server may also begin it and tell the same by an event.
    pub fn refuse_old_watches(&self) {
        self.state().gone_by_status = true;
    }

    /// Ends every watch, and forgets what happened, so that the next must begin with a list.
    pub fn forget(&self) {
        let mut state = self.state();
        state.history.clear();
        state.watchers.clear();
        // Also for a watch that has seen everything.
        state.version += 1;
        state.forgotten = state.version;
    }

    async fn answer(&self, request: Request<kube::client::Body>) -> Result<Response<Body>, std::io::Error> {
        let (parts, body) = request.into_parts();
        let body = body.collect_bytes().await.map_err(std::io::Error::other)?;
        let body: Value = if body.is_empty() { Value::Null } else { serde_json::from_slice(&body)? };
        let query: BTreeMap<String, String> = parts
            .uri
            .query()
            .unwrap_or_default()
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(key, value)| (key.to_owned(), value.replace("%3D", "=")))
            .collect();
        let path: Vec<&str> = parts.uri.path().trim_start_matches('/').split('/').collect();
        assert_eq!(path[..4], ["apis", "buildpools.dev", "v1alpha1", "namespaces"], "{}", parts.uri);
        assert_eq!(path[4], "team-a", "{}", parts.uri);
        let (resource, name) = (path[5], path.get(6).copied());
        let subresource = path.get(7).map(|sub| format!("/{sub}")).unwrap_or_default();
        let verb = match (&parts.method, name, query.contains_key("watch")) {
            (&Method::GET, Some(_), _) => "get",
            (&Method::GET, None, true) => "watch",
            (&Method::GET, None, false) => "list",
            (&Method::PATCH, ..) => "patch",
            other => panic!("unexpected request {other:?}"),
        };
        let kind = match (verb, body["status"].get("phase").and_then(Value::as_str)) {
            ("patch", Some("Running")) => "start",
            ("patch", Some("Succeeded" | "Failed" | "Cancelled")) => "finish",
            ("patch", Some("Pending")) if body["status"].get("runnerInstance").is_some() => "finish",
            (verb, _) => verb,
        };
        let fault = {
            let mut state = self.state();
            state.used.insert((verb.to_owned(), format!("{resource}{subresource}")));
            let what = body["status"]["phase"].as_str().map(|phase| format!(": {phase}")).unwrap_or_default();
            state.requests.push(format!("{verb} {resource}{subresource} {}{what}", name.unwrap_or("*")));
            let rule = state.rules.iter_mut().find(|rule| rule.times > 0 && [kind, verb, "all"].contains(&rule.what));
            rule.map(|rule| {
                rule.times -= 1;
                rule.fault
            })
        };
        (self.changed)();
        match fault {
            Some(Fault::Hang) => std::future::pending().await,
            Some(Fault::Refuse(code)) => return Ok(failure(code)),
            Some(Fault::DoThen(_) | Fault::DoAndHang) | None => {}
        }
        let answer = {
            let mut state = self.state();
            match (verb, name) {
                ("get", Some(name)) => {
                    state.objects.get(&(resource.to_owned(), name.to_owned())).map_or_else(|| failure(404), success)
                }
                ("list", _) => state.list(resource, &Selector::of(&query)),
                ("watch", _) => state.watch(resource, Selector::of(&query), &query),
                ("patch", Some(name)) => state.patch(resource, name, &body),
                other => panic!("unexpected request {other:?}"),
            }
        };
        (self.changed)();
        match fault {
            Some(Fault::DoThen(code)) => Ok(failure(code)),
            Some(Fault::DoAndHang) => std::future::pending().await,
            _ => Ok(answer),
        }
    }
}

impl State {
    fn set(&mut self, resource: &str, name: &str, object: Option<Value>) {
        self.version += 1;
        let key = (resource.to_owned(), name.to_owned());
        let after = object.map(|mut object| {
            object["metadata"]["resourceVersion"] = json!(self.version.to_string());
            object["metadata"]["name"] = json!(name);
            object["metadata"]["namespace"] = json!("team-a");
            object
        });
        let before = match &after {
            Some(after) => self.objects.insert(key, after.clone()),
            None => self.objects.remove(&key),
        };
        let change = (self.version, resource.to_owned(), before, after);
        self.watchers.retain(|watcher| match event(&change, &watcher.resource, &watcher.selector) {
            Some(line) => watcher.sender.unbounded_send(Ok(line)).is_ok(),
            None => !watcher.sender.is_closed(),
        });
        self.history.push(change);
    }

    fn list(&self, resource: &str, selector: &Selector) -> Response<Body> {
        let items: Vec<&Value> = self
            .objects
            .iter()
            .filter(|((of, _), object)| of == resource && selector.matches(Some(object)))
            .map(|(_, object)| object)
            .collect();
        success(&json!({
            "apiVersion": "buildpools.dev/v1alpha1",
            "kind": "List",
            "metadata": {"resourceVersion": self.version.to_string()},
            "items": items,
        }))
    }

    fn watch(&mut self, resource: &str, selector: Selector, query: &BTreeMap<String, String>) -> Response<Body> {
        let from: u64 = query.get("resourceVersion").and_then(|version| version.parse().ok()).unwrap_or(0);
        if from < self.forgotten && self.gone_by_status {
            return failure(410);
        }
        if from < self.forgotten {
            // As a real one says it: the request itself is fine.
            let gone = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 410, "message": "too old resource version", "reason": "Expired"});
            return success(&json!({"type": "ERROR", "object": gone}));
        }
        let (sender, receiver) = mpsc::unbounded();
        for change in self.history.iter().filter(|(version, ..)| *version > from) {
            if let Some(line) = event(change, resource, &selector) {
                sender.unbounded_send(Ok(line)).unwrap();
            }
        }
        self.watchers.push(Watcher { resource: resource.to_owned(), selector, sender });
        Response::new(Body::from_stream(receiver))
    }

    fn patch(&mut self, resource: &str, name: &str, patch: &Value) -> Response<Body> {
        let key = (resource.to_owned(), name.to_owned());
        let Some(mut object) = self.objects.get(&key).cloned() else { return failure(404) };
        let expected = &patch["metadata"]["resourceVersion"];
        if !expected.is_null() && *expected != object["metadata"]["resourceVersion"] {
            return failure(409);
        }
        merge(&mut object, patch);
        self.set(resource, name, Some(object));
        success(&self.objects[&key])
    }
}

fn event(
    (version, of, before, after): &(u64, String, Option<Value>, Option<Value>),
    resource: &str,
    selector: &Selector,
) -> Option<Bytes> {
    if of != resource {
        return None;
    }
    let (kind, object) = match (selector.matches(before.as_ref()), selector.matches(after.as_ref())) {
        (false, true) => ("ADDED", after.clone()),
        (true, true) => ("MODIFIED", after.clone()),
        (true, false) => ("DELETED", before.clone()),
        (false, false) => return None,
    };
    let mut object = object?;
    object["metadata"]["resourceVersion"] = json!(version.to_string());
    Some(format!("{}\n", json!({"type": kind, "object": object})).into())
}

/// RFC 7386.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    let target = target.as_object_mut().unwrap();
    for (key, value) in patch {
        if value.is_null() {
            target.remove(key);
        } else {
            merge(target.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

fn success(object: &Value) -> Response<Body> {
    Response::new(Body::from(object.to_string()))
}

fn failure(code: u16) -> Response<Body> {
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": "fault", "reason": ""});
    Response::builder().status(code).body(Body::from(status.to_string())).unwrap()
}
