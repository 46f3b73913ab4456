//! Credentials, with registries that check them.

use std::sync::Arc;

use axum::http::StatusCode;
use buildpools_buildkit::{Access, Build, BuildError, Credentials, ErrorKind, HistoryState};

use crate::support::{Buildkitd, Registry, TempDir, inline, pushed, with_shell};
use crate::token_server::{Denial, Rights, TokenRegistry};

const ALICE: Rights = &[("team-a/", "pull,push")];
const BOB: Rights = &[("team-b/", "pull,push")];
const USERS: &[(&str, &str, Rights)] = &[("alice", "alice-pw", ALICE), ("bob", "bob-pw", BOB), ("", "", &[])];

/// Credentials from `(path, user, password)`.
fn access(registry: &Registry, entries: &[(&str, &str, &str)]) -> Access {
    let auths: serde_json::Map<String, serde_json::Value> = entries
        .iter()
        .map(|(path, user, password)| {
            let key = format!("{}{path}", registry.host);
            (key, serde_json::json!({"username": user, "password": password}))
        })
        .collect();
    let config = serde_json::json!({ "auths": auths }).to_string();
    let mut credentials = Credentials::default();
    assert_eq!(credentials.add_docker_config("secret robot", config.as_bytes()), []);
    Access { credentials: Arc::new(credentials), ..Access::default() }
}

fn app(registry: &Registry, name: &str) -> Build {
    let content = uuid::Uuid::new_v4().to_string();
    Build { output: pushed(registry.image(name)), ..inline("FROM scratch\nCOPY a /", &[("a", content.as_bytes())]) }
}

async fn refused(buildkitd: &Buildkitd, build: &Build, access: &Access) -> BuildError {
    let error = buildkitd.daemon.build(build, access, |_| ()).await.unwrap_err();
    let shown = format!("{error:?} {error}");
    for password in ["alice-pw", "bob-pw", "wrong-pw"] {
        assert!(!shown.contains(password), "{shown}");
    }
    // The daemon passes the reason on to who asks later. Only whether a credential was missing is not in its words.
    let HistoryState::Failed(recorded) = buildkitd.daemon.history(&build.reference).await.unwrap().unwrap().state
    else {
        panic!("a failed build")
    };
    assert_eq!((recorded.kind, &recorded.image), (error.kind, &error.image), "{recorded:?}");
    error
}

#[tokio::test]
async fn each_repository_gets_the_token_of_its_own_credential() {
    for denial in [Denial::Intersect, Denial::Refuse] {
        let registry = TokenRegistry::start(denial, USERS).await;
        let buildkitd = Buildkitd::start(&[&registry.registry]).await;
        let both = access(&registry.registry, &[("/team-a", "alice", "alice-pw"), ("/team-b", "bob", "bob-pw")]);
        let base = Build { output: pushed(registry.registry.image("team-b/base:1")), ..with_shell("") };
        buildkitd.daemon.build(&base, &both, |_| ()).await.unwrap();
        assert!(registry.take_asked().iter().all(|asked| asked.starts_with("bob: repository:team-b/base:")));

        // The base's layers are known to be in team-b/base: the daemon tries to mount them from there.
        let dockerfile = format!("FROM {}\nRUN echo hi >/hi\n", registry.registry.image("team-b/base:1"));
        let app = Build { output: pushed(registry.registry.image("team-a/app:1")), ..inline(&dockerfile, &[]) };
        let result =
            buildkitd.daemon.build(&app, &both, |_| ()).await.unwrap_or_else(|error| panic!("{denial:?}: {error:?}"));
        assert!(result.digest.is_some());
        let asked = registry.take_asked();
        assert!(!asked.is_empty());
        for asked in asked {
            let (user, scopes) = asked.split_once(": ").unwrap();
            let own = if user == "alice" { "repository:team-a/app:" } else { "repository:team-b/base:" };
            assert!(scopes.split(' ').all(|scope| scope.starts_with(own)), "{denial:?}: {asked}");
        }
    }
}

#[tokio::test]
async fn refusals_of_a_token_server_are_named() {
    let registry = TokenRegistry::start(Denial::Intersect, USERS).await;
    let buildkitd = Buildkitd::start(&[&registry.registry]).await;
    let host = registry.registry.host.clone();
    let push = app(&registry.registry, "team-a/app:1");
    for (access, kind, says) in [
        (
            access(&registry.registry, &[("", "alice", "wrong-pw")]),
            ErrorKind::RegistryAccessDenied,
            "with user \"alice\" of secret robot: the token server",
        ),
        (access(&registry.registry, &[("", "bob", "bob-pw")]), ErrorKind::RegistryAccessDenied, "secret robot"),
        (Access::default(), ErrorKind::RegistryAuthRequired, "add"),
    ] {
        let build = Build { reference: uuid::Uuid::new_v4().to_string(), ..push.clone() };
        let error = match kind {
            // The history of an anonymous push does not know that no credential was there.
            ErrorKind::RegistryAuthRequired => buildkitd.daemon.build(&build, &access, |_| ()).await.unwrap_err(),
            _ => refused(&buildkitd, &build, &access).await,
        };
        assert_eq!(error.kind, kind, "{error:?}");
        assert_eq!(error.image.as_ref().unwrap().to_string(), format!("{host}/team-a/app"));
        assert!(error.message.contains(says), "{error}");
    }

    let pull = inline(&format!("FROM {host}/team-b/base:1\n"), &[]);
    let error = refused(&buildkitd, &pull, &access(&registry.registry, &[("", "alice", "wrong-pw")])).await;
    assert_eq!(error.kind, ErrorKind::RegistryAccessDenied, "{error:?}");
    assert_eq!(error.image.as_ref().unwrap().to_string(), format!("{host}/team-b/base"));
    assert!(error.message.starts_with("cannot pull from "), "{error}");
}

#[tokio::test]
async fn a_token_server_that_fails() {
    let registry = TokenRegistry::start(Denial::Intersect, USERS).await;
    let buildkitd = Buildkitd::start(&[&registry.registry]).await;
    let alice = access(&registry.registry, &[("", "alice", "alice-pw")]);
    for (status, kind) in [
        (StatusCode::TOO_MANY_REQUESTS, ErrorKind::RegistryRateLimited),
        (StatusCode::INTERNAL_SERVER_ERROR, ErrorKind::RegistryUnavailable),
        (StatusCode::FORBIDDEN, ErrorKind::RegistryAccessDenied),
    ] {
        registry.answer_only(status);
        let error = refused(&buildkitd, &app(&registry.registry, "team-a/app:1"), &alice).await;
        assert_eq!(error.kind, kind, "{error:?}");
        assert!(error.message.contains(status.as_str()), "{error}");
    }
}

/// htpasswd's bcrypt line for `basic` with password `basic-pw`.
const HTPASSWD: &str = "basic:$2b$04$abcdefghijklmnopqrstuu2irb/TUHqCLziCjLH49LkZftx0ZIzYC\n";

#[tokio::test]
async fn basic_registries_take_one_credential() {
    let dir = TempDir::new();
    let path = dir.0.join("htpasswd");
    std::fs::write(&path, HTPASSWD).unwrap();
    let registry = Registry::start(&format!("auth: {{htpasswd: {{realm: test, path: {}}}}}\n", path.display())).await;
    let buildkitd = Buildkitd::start(&[&registry]).await;
    let push = || app(&registry, "team-a/app:1");

    let right = access(&registry, &[("", "basic", "basic-pw")]);
    assert!(buildkitd.daemon.build(&push(), &right, |_| ()).await.unwrap().digest.is_some());

    let wrong = access(&registry, &[("", "basic", "wrong-pw")]);
    let error = refused(&buildkitd, &push(), &wrong).await;
    assert_eq!(error.kind, ErrorKind::RegistryAccessDenied, "{error:?}");
    assert_eq!(error.image.unwrap().to_string(), registry.image("team-a/app"));

    let error = buildkitd.daemon.build(&push(), &Access::default(), |_| ()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::RegistryAuthRequired, "{error:?}");

    let two = access(&registry, &[("/team-a", "basic", "basic-pw"), ("/team-b", "bob", "bob-pw")]);
    let error = refused(&buildkitd, &push(), &two).await;
    assert_eq!(error.kind, ErrorKind::RegistryAccessDenied, "{error:?}");
    assert!(error.message.contains("one credential per host"), "{error}");
}
