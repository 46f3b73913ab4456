//! An API server in memory: keeps objects, records requests, fails on demand.
//!
//! It knows as much of Kubernetes as the operator relies on: names are unique, `metadata.uid` and
//! `metadata.resourceVersion` in a patch are preconditions, the status is a subresource, every write has an owner in
//! `managedFields`. It does not fill in defaults and does not validate: that is tested on the real one.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::{Method, Request, Response, StatusCode};
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::Notify;

/// A request that was received.
#[derive(Clone, Debug)]
pub struct Received {
    pub method: Method,
    pub path: String,
    pub query: BTreeMap<String, String>,
    pub content_type: String,
    pub body: Value,
}

impl Received {
    /// `create`, `patch`, … as RBAC calls it.
    pub fn verb(&self) -> &'static str {
        let named = Location::of(&self.path).name.is_some();
        match self.method.as_str() {
            "GET" if self.query.contains_key("watch") => "watch",
            "GET" if named => "get",
            "GET" => "list",
            "POST" => "create",
            "PATCH" => "patch",
            "PUT" => "update",
            "DELETE" if named => "delete",
            other => panic!("no verb for {other} {}", self.path),
        }
    }

    pub fn is_dry_run(&self) -> bool {
        self.query.contains_key("dryRun")
    }

    pub fn is_write(&self) -> bool {
        self.method != Method::GET && !self.is_dry_run()
    }

    /// verb, API group and resource with subresource.
    pub fn permission(&self) -> (String, String, String) {
        let location = Location::of(&self.path);
        let resource = match location.subresource {
            Some(sub) => format!("{}/{sub}", location.resource),
            None => location.resource,
        };
        (self.verb().to_owned(), location.group, resource)
    }
}

/// What happens to a request instead of, or after, being served.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// Refused before anything happens.
    Status(u16, &'static str, &'static str),
    /// Served, but the answer is lost.
    AnswerLost,
    /// No answer.
    Hang,
}

type Matcher = Box<dyn Fn(&Received) -> bool + Send>;

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Value>,
    received: Vec<Received>,
    faults: Vec<(Matcher, Fault)>,
    sequence: u64,
}

/// The API server.
#[derive(Clone, Default)]
pub struct ApiServer(Arc<Mutex<State>>, Arc<Notify>);

/// Parts of a path.
struct Location {
    group: String,
    resource: String,
    name: Option<String>,
    subresource: Option<String>,
}

impl Location {
    fn of(path: &str) -> Self {
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let (group, rest) = match parts.as_slice() {
            ["api", _, rest @ ..] => ("", rest),
            ["apis", group, _, rest @ ..] => (*group, rest),
            _ => panic!("unknown path {path}"),
        };
        let rest = match rest {
            ["namespaces", _, rest @ ..] if !rest.is_empty() => rest,
            rest => rest,
        };
        let part = |index: usize| rest.get(index).map(|part| (*part).to_owned());
        Self { group: group.to_owned(), resource: part(0).unwrap_or_default(), name: part(1), subresource: part(2) }
    }
}

impl ApiServer {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A client of this server.
    pub fn client(&self) -> Client {
        let server = self.clone();
        Client::new(
            tower::service_fn(move |request: Request<Body>| {
                let server = server.clone();
                async move { server.serve(request).await }
            }),
            "default",
        )
    }

    /// Puts an object there, as somebody else would.
    pub fn put(&self, path: &str, mut object: Value) -> Value {
        let mut state = self.state();
        state.stamp(path, &mut object, None);
        state.objects.insert(path.to_owned(), object.clone());
        object
    }

    /// Changes an object, as somebody else would.
    pub fn change(&self, path: &str, change: impl FnOnce(&mut Value)) {
        let mut state = self.state();
        let rv = state.next().to_string();
        let object = state.objects.get_mut(path).unwrap_or_else(|| panic!("no {path}"));
        change(object);
        object["metadata"]["resourceVersion"] = json!(rv);
    }

    pub fn remove(&self, path: &str) {
        self.state().objects.remove(path);
    }

    pub fn object(&self, path: &str) -> Option<Value> {
        self.state().objects.get(path).cloned()
    }

    /// Everything that is there, without what differs from run to run.
    pub fn objects(&self) -> BTreeMap<String, Value> {
        let mut objects = self.state().objects.clone();
        for object in objects.values_mut() {
            for field in ["resourceVersion", "uid", "managedFields"] {
                object["metadata"].as_object_mut().map(|meta| meta.remove(field));
            }
        }
        objects
    }

    /// Requests since the last call.
    pub fn received(&self) -> Vec<Received> {
        std::mem::take(&mut self.state().received)
    }

    /// The next request that matches meets this fault.
    pub fn fail(&self, fault: Fault, matches: impl Fn(&Received) -> bool + Send + 'static) {
        self.state().faults.push((Box::new(matches), fault));
    }

    /// Waits until the objects are so.
    pub async fn until(&self, so: impl Fn(&Self) -> bool) {
        loop {
            let changed = self.1.notified();
            if so(self) {
                return;
            }
            changed.await;
        }
    }

    async fn serve(&self, request: Request<Body>) -> Result<Response<Body>, std::convert::Infallible> {
        let (parts, body) = request.into_parts();
        let bytes = body.collect_bytes().await.expect("body");
        let query = parts.uri.query().unwrap_or_default();
        let received = Received {
            method: parts.method,
            path: parts.uri.path().to_owned(),
            query: query.split('&').filter_map(|pair| pair.split_once('=')).map(decode).collect(),
            content_type: parts
                .headers
                .get("content-type")
                .map(|v| v.to_str().expect("text").to_owned())
                .unwrap_or_default(),
            body: if bytes.is_empty() { Value::Null } else { serde_json::from_slice(&bytes).expect("JSON") },
        };
        let fault = {
            let mut state = self.state();
            state.received.push(received.clone());
            let found = state.faults.iter().position(|(matches, _)| matches(&received));
            found.map(|index| state.faults.remove(index).1)
        };
        self.1.notify_waiters();
        if received.query.contains_key("watch") {
            return std::future::pending().await;
        }
        let (code, body) = match fault {
            None => self.state().answer(&received),
            Some(Fault::Status(code, reason, message)) => failure(code, reason, message),
            Some(Fault::AnswerLost) => {
                let _ = self.state().answer(&received);
                failure(500, "InternalError", "the answer was lost")
            }
            Some(Fault::Hang) => return std::future::pending().await,
        };
        self.1.notify_waiters();
        let response = Response::builder().status(StatusCode::from_u16(code).expect("code"));
        Ok(response.body(Body::from(body.to_string().into_bytes())).expect("response"))
    }
}

fn decode((key, value): (&str, &str)) -> (String, String) {
    let value = value.replace("%3D", "=").replace("%2F", "/").replace("%2C", ",").replace("%21", "!");
    (key.to_owned(), value)
}

fn failure(code: u16, reason: &str, message: &str) -> (u16, Value) {
    (
        code,
        json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": message}),
    )
}

impl State {
    fn next(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }

    fn stamp(&mut self, path: &str, object: &mut Value, manager: Option<&String>) {
        let next = self.next();
        let meta = &mut object["metadata"];
        if meta["uid"].is_null() {
            meta["uid"] = json!(format!("uid-{next}"));
        }
        meta["name"] = json!(path.rsplit('/').next());
        meta["resourceVersion"] = json!(next.to_string());
        meta["generation"] = json!(1);
        if let Some(manager) = manager {
            meta["managedFields"] = json!([{"manager": manager, "operation": "Update"}]);
        }
    }

    fn answer(&mut self, request: &Received) -> (u16, Value) {
        let location = Location::of(&request.path);
        let path = match &location.subresource {
            Some(sub) => request.path.trim_end_matches(&format!("/{sub}")).to_owned(),
            None => request.path.clone(),
        };
        match (request.verb(), self.objects.get(&path).cloned()) {
            ("list", _) => (200, self.list(request)),
            ("create", _) => self.create(request),
            ("get", Some(object)) => (200, object),
            ("patch", Some(object)) => self.patch(request, &path, object, location.subresource.as_deref()),
            ("update", Some(object)) => self.update(request, &path, &object),
            ("delete", Some(object)) => self.delete(request, &path, &object),
            ("get" | "patch" | "update" | "delete", None) => failure(404, "NotFound", &format!("{path} not found")),
            (verb, _) => panic!("{verb} is not served"),
        }
    }

    fn list(&self, request: &Received) -> Value {
        let within = |path: &str| {
            let (a, b) = (Location::of(path), Location::of(&request.path));
            let namespaced = request.path.contains("/namespaces/");
            a.group == b.group && a.resource == b.resource && (!namespaced || path.starts_with(&request.path))
        };
        let selected = |object: &Value| {
            let terms = |selector: &str| -> Vec<String> {
                request.query.get(selector).into_iter().flat_map(|terms| terms.split(',')).map(str::to_owned).collect()
            };
            let field = |key: &str| key.split('.').fold(object, |object, part| &object[part]);
            let label = |key: &str| &object["metadata"]["labels"][key];
            terms("labelSelector").iter().all(|term| holds(term, label))
                && terms("fieldSelector").iter().all(|term| holds(term, field))
        };
        let found = self.objects.iter().filter(|(path, object)| within(path) && selected(object));
        let items: Vec<&Value> = found.map(|(_, object)| object).collect();
        json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": self.sequence.to_string()}, "items": items})
    }

    fn update(&mut self, request: &Received, path: &str, object: &Value) -> (u16, Value) {
        if request.body["metadata"]["resourceVersion"] != object["metadata"]["resourceVersion"] {
            return failure(409, "Conflict", "resourceVersion is another");
        }
        let mut object = request.body.clone();
        self.stamp(path, &mut object, request.query.get("fieldManager"));
        self.objects.insert(path.to_owned(), object.clone());
        (200, object)
    }

    fn delete(&mut self, request: &Received, path: &str, object: &Value) -> (u16, Value) {
        for precondition in ["uid", "resourceVersion"] {
            let wanted = &request.body["preconditions"][precondition];
            if !wanted.is_null() && *wanted != object["metadata"][precondition] {
                return failure(409, "Conflict", &format!("{precondition} is another"));
            }
        }
        self.objects.remove(path);
        (200, json!({"kind": "Status", "apiVersion": "v1", "status": "Success"}))
    }

    fn create(&mut self, request: &Received) -> (u16, Value) {
        let mut object = request.body.clone();
        if request.query.get("dryRun").is_some_and(|dry_run| dry_run == "All") {
            return (201, object);
        }
        let path = format!("{}/{}", request.path, object["metadata"]["name"].as_str().expect("name"));
        if self.objects.contains_key(&path) {
            return failure(409, "AlreadyExists", &format!("{path} already exists"));
        }
        self.stamp(&path, &mut object, request.query.get("fieldManager"));
        self.objects.insert(path, object.clone());
        (201, object)
    }

    fn patch(&mut self, request: &Received, path: &str, mut object: Value, sub: Option<&str>) -> (u16, Value) {
        for precondition in ["uid", "resourceVersion"] {
            let wanted = &request.body["metadata"][precondition];
            if !wanted.is_null() && *wanted != object["metadata"][precondition] {
                return failure(409, "Conflict", &format!("{precondition} is another"));
            }
        }
        let apply = request.content_type.contains("apply-patch");
        let body = match sub {
            Some(sub) => json!({sub: request.body[sub]}),
            None => request.body.clone(),
        };
        merge(&mut object, &body);
        if apply {
            let manager = &request.query["fieldManager"];
            let entries = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
            let ours = json!({"manager": manager, "operation": "Apply"});
            assert!(
                !entries.contains(&json!({"manager": manager, "operation": "Update"})),
                "{path}: an apply beside an Update entry of the same manager would not remove fields"
            );
            let others = entries.into_iter().filter(|entry| *entry != ours);
            object["metadata"]["managedFields"] = others.chain([ours.clone()]).collect();
        }
        object["metadata"]["resourceVersion"] = json!(self.next().to_string());
        self.objects.insert(path.to_owned(), object.clone());
        (200, object)
    }
}

/// Whether a term of a selector holds: `key=value`, `key!=value` or `key`.
fn holds<'a>(term: &str, of: impl Fn(&str) -> &'a Value) -> bool {
    if let Some((key, value)) = term.split_once("!=") {
        return of(key) != &json!(value);
    }
    match term.split_once('=') {
        Some((key, value)) => of(key) == &json!(value),
        None => !of(term).is_null(),
    }
}

/// JSON merge patch (RFC 7386).
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (key, value) in patch {
        if value.is_null() {
            target.as_object_mut().expect("object").remove(key);
        } else {
            merge(&mut target[key], value);
        }
    }
}
