//! What a request is about.

use axum::body::Bytes;
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, Uri};
use serde_json::Value;

use super::Kind;

/// Resources without a namespace that the programs use.
const CLUSTER_SCOPED: [&str; 3] = ["nodes", "namespaces", "customresourcedefinitions"];

/// Whom a program's requests come from, as the API server sees it. The administrator's client impersonates.
#[derive(Clone, Debug, Default)]
pub struct Identity {
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Identity {
    /// A ServiceAccount.
    pub fn service_account(namespace: &str, name: &str) -> Self {
        Self::default()
            .with("impersonate-user", &format!("system:serviceaccount:{namespace}:{name}"))
            .with("impersonate-group", "system:serviceaccounts")
            .with("impersonate-group", &format!("system:serviceaccounts:{namespace}"))
            .with("impersonate-group", "system:authenticated")
    }

    /// With a token that is bound to a pod.
    #[must_use]
    pub fn of_pod(self, pod: &str, uid: &str) -> Self {
        // A header's name has no slash: the API server decodes it.
        self.with("impersonate-extra-authentication.kubernetes.io%2fpod-name", pod)
            .with("impersonate-extra-authentication.kubernetes.io%2fpod-uid", uid)
    }

    fn with(mut self, name: &'static str, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.push((HeaderName::from_static(name), value));
        }
        self
    }

    pub(super) fn stamp(&self, parts: &mut Parts) {
        for (name, value) in &self.headers {
            parts.headers.append(name.clone(), value.clone());
        }
    }
}

/// A request to the API server, taken apart.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub kind: Kind,
    pub verb: &'static str,
    /// With subresource.
    pub resource: String,
    pub name: Option<String>,
    /// Only the objects' metadata is asked for.
    meta: bool,
    /// A list in pages, as a watch begins with. Other lists are consistent reads, which are never behind.
    pub is_paged: bool,
    /// The phase that a status gets.
    phase: Option<String>,
}

impl Call {
    pub(super) fn of(parts: &Parts, body: &Bytes) -> Self {
        let query = parts.uri.query().unwrap_or_default();
        let (resource, name) = location(parts.uri.path());
        let header =
            |name| parts.headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok()).unwrap_or_default();
        let watch = query.split('&').any(|pair| pair == "watch=true" || pair == "watch=1");
        let verb = match parts.method {
            Method::GET if watch => "watch",
            Method::GET if name.is_some() => "get",
            Method::GET => "list",
            Method::POST => "create",
            Method::PUT => "update",
            Method::DELETE => "delete",
            _ if header("content-type").contains("apply-patch") => "apply",
            _ => "patch",
        };
        let kind = match verb {
            "watch" => Kind::Event,
            "get" | "list" => Kind::Read,
            _ => Kind::Write,
        };
        let body: Value =
            if kind == Kind::Write { serde_json::from_slice(body).unwrap_or_default() } else { Value::Null };
        let given = || body["metadata"]["name"].as_str().map(str::to_owned);
        Self {
            kind,
            verb,
            resource,
            name: name.or_else(given),
            meta: header("accept").contains("PartialObjectMetadata"),
            is_paged: query.contains("limit="),
            phase: body["status"]["phase"].as_str().map(str::to_owned),
        }
    }

    /// The same for every run.
    pub(super) fn label(&self) -> String {
        let Self { verb, name, .. } = self;
        let name = name.as_ref().map(|name| format!(" {name}")).unwrap_or_default();
        let phase = self.phase.as_ref().map(|phase| format!(": {phase}")).unwrap_or_default();
        format!("{verb} {}{name}{phase}", self.watched())
    }

    /// The resource, and whether whole objects are wanted: two watches of one resource are told apart by it.
    pub(super) fn watched(&self) -> String {
        if self.meta { format!("{} (metadata)", self.resource) } else { self.resource.clone() }
    }
}

/// Parts of a path below the API group: namespaced or not.
fn split(path: &str) -> (Vec<&str>, Vec<&str>) {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let group = if parts.first() == Some(&"api") { 2 } else { 3 };
    let (group, rest) = parts.split_at(group.min(parts.len()));
    (group.to_vec(), rest.to_vec())
}

fn location(path: &str) -> (String, Option<String>) {
    let (_, rest) = split(path);
    let rest = match rest.as_slice() {
        ["namespaces", _, rest @ ..] if !rest.is_empty() => rest,
        rest => rest,
    };
    let part = |index: usize| rest.get(index).map(|part| (*part).to_owned());
    let resource = part(0).unwrap_or_default();
    (part(2).map_or(resource.clone(), |sub| format!("{resource}/{sub}")), part(1))
}

/// A program that serves a whole cluster gets a namespace of its own, so that many runs share an API server: what it
/// asks for all namespaces is asked for this one, and of the nodes it sees the one that bears the namespace's name.
pub(super) fn confine(uri: &Uri, namespace: &str) -> Uri {
    let (group, rest) = split(uri.path());
    let mut path = uri.path().to_owned();
    let mut query = uri.query().unwrap_or_default().to_owned();
    match rest.as_slice() {
        ["namespaces", _, _, ..] => {}
        ["nodes"] => query = format!("{query}&fieldSelector=metadata.name%3D{namespace}"),
        [resource, ..] if CLUSTER_SCOPED.contains(resource) => {}
        rest => path = format!("/{}/namespaces/{namespace}/{}", group.join("/"), rest.join("/")),
    }
    with(uri, &path, &query)
}

/// The same list as of an older version.
pub(super) fn as_of(uri: &Uri, version: u64) -> Uri {
    let query = uri.query().unwrap_or_default();
    let kept = query.split('&').filter(|pair| !pair.is_empty() && !pair.starts_with("resourceVersion"));
    let mut query: Vec<String> = kept.map(str::to_owned).collect();
    query.push(format!("resourceVersion={version}&resourceVersionMatch=Exact"));
    with(uri, uri.path(), &query.join("&"))
}

fn with(uri: &Uri, path: &str, query: &str) -> Uri {
    let text = if query.is_empty() { path.to_owned() } else { format!("{path}?{}", query.trim_start_matches('&')) };
    text.parse().unwrap_or_else(|_| uri.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_of_the_whole_cluster_is_confined() {
        for (uri, expected) in [
            ("/api/v1/pods?watch=true", "/api/v1/namespaces/n/pods?watch=true"),
            (
                "/apis/buildpools.dev/v1alpha1/buildjobs?limit=5",
                "/apis/buildpools.dev/v1alpha1/namespaces/n/buildjobs?limit=5",
            ),
            ("/apis/apps/v1/namespaces/n/statefulsets/main", "/apis/apps/v1/namespaces/n/statefulsets/main"),
            ("/api/v1/nodes?", "/api/v1/nodes?fieldSelector=metadata.name%3Dn"),
            ("/api/v1/nodes/a", "/api/v1/nodes/a"),
        ] {
            assert_eq!(confine(&uri.parse().unwrap(), "n").to_string(), expected);
        }
        let old = as_of(&"/api/v1/pods?limit=5&resourceVersion=0".parse().unwrap(), 7);
        assert_eq!(old.to_string(), "/api/v1/pods?limit=5&resourceVersion=7&resourceVersionMatch=Exact");
    }

    #[test]
    fn calls_have_names_that_stay() {
        let label = |method: &str, uri: &str, headers: &[(&str, &str)], body: &str| {
            let mut request = http::Request::builder().method(method).uri(uri);
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            let call = Call::of(&request.body(()).unwrap().into_parts().0, &Bytes::copy_from_slice(body.as_bytes()));
            (call.kind, call.label())
        };
        let jobs = "/apis/buildpools.dev/v1alpha1/namespaces/n/buildjobs";
        assert_eq!(
            label("PATCH", &format!("{jobs}/app/status?"), &[], r#"{"status": {"phase": "Bound"}}"#),
            (Kind::Write, "patch buildjobs/status app: Bound".to_owned())
        );
        assert_eq!(label("GET", &format!("{jobs}/app"), &[], ""), (Kind::Read, "get buildjobs app".to_owned()));
        assert_eq!(
            label("POST", "/api/v1/namespaces/n/services", &[], r#"{"metadata": {"name": "s"}}"#),
            (Kind::Write, "create services s".to_owned())
        );
        let meta = [("accept", "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1")];
        assert_eq!(label("GET", "/api/v1/pods?limit=1", &meta, "").1, "list pods (metadata)");
        assert_eq!(label("GET", "/api/v1/pods?watch=true", &[], "").0, Kind::Event);
        let apply = [("content-type", "application/apply-patch+yaml")];
        assert_eq!(label("PATCH", "/api/v1/namespaces/n/services/s", &apply, "{}").1, "apply services s");
    }
}
