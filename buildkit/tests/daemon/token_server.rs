//! A token server with permissions per repository, in the way of docker_auth, and a registry that believes it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::get;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ed25519_dalek::{Signer, SigningKey};
use serde_json::json;

use crate::support::{Registry, TempDir};

/// How the server treats a request for a scope that the user does not have.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Denial {
    /// Gives a token without it.
    Intersect,
    /// Refuses the request.
    Refuse,
}

/// What a user may do, by prefix of the repository's path: `("team-a/", "pull,push")`.
pub type Rights = &'static [(&'static str, &'static str)];

#[derive(Clone)]
struct Server {
    key: SigningKey,
    users: Arc<BTreeMap<&'static str, (&'static str, Rights)>>,
    denial: Denial,
    asked: Arc<Mutex<Vec<String>>>,
    /// Answers every request with this instead.
    broken: Arc<Mutex<Option<StatusCode>>>,
}

/// The registry and its token server.
pub struct TokenRegistry {
    pub registry: Registry,
    server: Server,
    _dir: TempDir,
}

impl TokenRegistry {
    /// Users by name, with password and rights. The user "" is who comes without a credential.
    pub async fn start(denial: Denial, users: &[(&'static str, &'static str, Rights)]) -> Self {
        let server = Server {
            key: SigningKey::from_bytes(&[7; 32]),
            users: Arc::new(users.iter().map(|(name, password, rights)| (*name, (*password, *rights))).collect()),
            denial,
            asked: Arc::default(),
            broken: Arc::default(),
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let realm = format!("http://{}/token", listener.local_addr().unwrap());
        let router = Router::new().route("/token", get(token)).with_state(server.clone());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });

        let dir = TempDir::new();
        let jwks = dir.0.join("jwks.json");
        let public = URL_SAFE_NO_PAD.encode(server.key.verifying_key().to_bytes());
        let keys = json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": "test", "x": public}]});
        std::fs::write(&jwks, keys.to_string()).unwrap();
        let auth = format!(
            "auth: {{token: {{realm: \"{realm}\", service: registry, issuer: test, jwks: {}, signingalgorithms: [EdDSA]}}}}\n",
            jwks.display(),
        );
        Self { registry: Registry::start(&auth).await, server, _dir: dir }
    }

    /// What was asked so far, as `user: scope scope`, and forgets it.
    pub fn take_asked(&self) -> Vec<String> {
        std::mem::take(&mut self.server.asked.lock().unwrap())
    }

    pub fn answer_only(&self, status: StatusCode) {
        *self.server.broken.lock().unwrap() = Some(status);
    }
}

async fn token(State(server): State<Server>, RawQuery(query): RawQuery, headers: HeaderMap) -> (StatusCode, String) {
    let url = format!("http://x/?{}", query.unwrap_or_default());
    let url = reqwest::Url::parse(&url).unwrap();
    let scopes: Vec<String> =
        url.query_pairs().filter(|(key, _)| key == "scope").map(|(_, scope)| scope.into_owned()).collect();
    let login = headers.get("authorization").map(|value| {
        let encoded = value.to_str().unwrap().strip_prefix("Basic ").unwrap();
        String::from_utf8(STANDARD.decode(encoded).unwrap()).unwrap()
    });
    let (user, password) = login.as_deref().and_then(|login| login.split_once(':')).unwrap_or_default();
    server.asked.lock().unwrap().push(format!("{user}: {}", scopes.join(" ")));
    if let Some(status) = *server.broken.lock().unwrap() {
        return (status, String::new());
    }
    let Some((_, rights)) = server.users.get(user).filter(|(expected, _)| *expected == password) else {
        return (StatusCode::UNAUTHORIZED, "wrong user or password".to_owned());
    };
    let mut access = Vec::new();
    for scope in &scopes {
        let mut parts = scope.splitn(3, ':');
        let (kind, name, wanted) = (parts.next().unwrap(), parts.next().unwrap(), parts.next().unwrap());
        let granted = rights.iter().find(|(prefix, _)| name.starts_with(prefix)).map(|(_, actions)| *actions);
        let granted: Vec<&str> = granted
            .unwrap_or_default()
            .split(',')
            .filter(|action| wanted.contains(action) && !action.is_empty())
            .collect();
        if granted.len() < wanted.split(',').count() && server.denial == Denial::Refuse {
            return (StatusCode::FORBIDDEN, format!("denied: {scope}"));
        }
        access.push(json!({"type": kind, "name": name, "actions": granted}));
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let claims = json!({"iss": "test", "sub": user, "aud": "registry", "exp": now + 300, "nbf": now - 10, "iat": now,
        "jti": now.to_string(), "access": access});
    let head = URL_SAFE_NO_PAD.encode(json!({"alg": "EdDSA", "typ": "JWT", "kid": "test"}).to_string());
    let body = format!("{head}.{}", URL_SAFE_NO_PAD.encode(claims.to_string()));
    let signature = URL_SAFE_NO_PAD.encode(server.key.sign(body.as_bytes()).to_bytes());
    (StatusCode::OK, json!({"token": format!("{body}.{signature}"), "expires_in": 300}).to_string())
}
