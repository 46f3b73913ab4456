use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode};

use super::*;

fn credentials(entries: &str) -> Credentials {
    let mut credentials = Credentials::default();
    let config = format!(r#"{{"auths":{{{entries}}}}}"#);
    assert_eq!(credentials.add_docker_config("secret robot", config.as_bytes()), []);
    credentials
}

fn scopes(scopes: &[&str]) -> Vec<String> {
    scopes.iter().map(|scope| (*scope).to_owned()).collect()
}

#[test]
fn decides_by_the_repositories_asked_for() {
    const ALICE: &str = r#""r.test/team-a":{"username":"alice","password":"pw"}"#;
    const BOB: &str = r#""r.test/team-b":{"username":"bob","password":"pw"}"#;
    const ROBOT: &str = r#""r.test":{"username":"robot","password":"pw"}"#;
    let push_a = "repository:team-a/app:pull,push";
    let pull_b = "repository:team-b/base:pull";
    for (known, asked, expected) in [
        (vec![], vec![push_a], "ask as nobody"),
        (vec![], vec![push_a, pull_b], "ask as nobody"),
        (vec![ALICE, BOB], vec![push_a], "ask as alice"),
        (vec![ALICE, BOB], vec![pull_b], "ask as bob"),
        (vec![ALICE, BOB], vec![push_a, "repository:team-a/base:pull"], "ask as alice"),
        (vec![ALICE, BOB], vec![pull_b, push_a], "empty"),
        (vec![ALICE], vec![pull_b, push_a], "empty"),
        (vec![ROBOT], vec![pull_b, push_a], "ask as robot"),
        (vec![ROBOT, BOB], vec![pull_b, push_a], "empty"),
        (vec![ROBOT, BOB], vec!["registry:catalog:*"], "ask as robot"),
        (vec![ALICE], vec![], "ask as nobody"),
        (vec![ALICE, ROBOT], vec!["repository:other/app:pull"], "ask as robot"),
    ] {
        let known = credentials(&known.join(","));
        let decided = match plan(&known, "r.test", &scopes(&asked)) {
            Plan::Empty => "empty".to_owned(),
            Plan::Ask(credential) => {
                format!("ask as {}", credential.and_then(|credential| credential.login.user()).unwrap_or("nobody"))
            }
        };
        assert_eq!(decided, expected, "{asked:?}");
    }
}

#[test]
fn mounts_name_both_repositories() {
    let request = |asked: &[&str]| TokenRequest { host: "r.test".into(), scopes: scopes(asked), ..Default::default() };
    let found = mounts(&request(&["repository:team-b/base:pull", "repository:team-a/app:pull,push"]));
    let found: Vec<_> = found.iter().map(|(to, from)| format!("{to} from {from}")).collect();
    assert_eq!(found, ["r.test/team-a/app from team-b/base"]);
    assert!(mounts(&request(&["repository:team-a/app:pull,push"])).is_empty());
    assert!(mounts(&request(&["repository:team-b/base:pull", "repository:team-a/app:pull"])).is_empty());
}

#[test]
fn problems_survive_the_daemon() {
    let problem = AuthProblem {
        kind: ErrorKind::RegistryRateLimited,
        image: ImageRepository { registry: "r.test:5000".into(), repository: "team-a/app".into() },
        text: "cannot pull: answered 429".into(),
    };
    let text = format!("failed to solve: x: failed to authorize: rpc error: {}", to_error_text(&problem));
    assert_eq!(from_error_text(&text), Some(problem));
    for text in ["", "buildpools-auth{", "buildpools-auth{Nonsense|a|b}: c", "buildpools-auth{DiskFull|a}: c"] {
        assert_eq!(from_error_text(text), None, "{text}");
    }
}

/// A token server that gives prepared answers, then the last one again, and keeps what it was asked.
struct Realm {
    url: String,
    asked: Arc<Mutex<Vec<String>>>,
}

type Answers = Arc<Mutex<VecDeque<(u16, &'static str)>>>;

async fn realm(answers: &[(u16, &'static str)]) -> Realm {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let answers: Answers = Arc::new(Mutex::new(answers.iter().copied().collect()));
    let answer = async |State((asked, answers)): State<(Arc<Mutex<Vec<String>>>, Answers)>,
                        RawQuery(query): RawQuery,
                        headers: HeaderMap,
                        body: String| {
        let authorization = headers.get("authorization").map(|value| value.to_str().unwrap());
        asked.lock().unwrap().push(format!("{} {} {body}", query.unwrap_or_default(), authorization.unwrap_or("-")));
        let mut answers = answers.lock().unwrap();
        let (status, body) = if answers.len() > 1 { answers.pop_front().unwrap() } else { answers[0] };
        (StatusCode::from_u16(status).unwrap(), body)
    };
    let router = Router::new().fallback(answer).with_state((asked.clone(), answers));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/token", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    Realm { url, asked }
}

fn request(realm: &str, asked: &[&str]) -> TokenRequest {
    TokenRequest {
        host: "r.test".into(),
        realm: realm.to_owned(),
        service: "registry".into(),
        client_id: "client".into(),
        scopes: scopes(asked),
    }
}

const PUSH: &str = "repository:team-a/app:pull,push";
const MOUNT: &str = "repository:team-a/base:pull";
const ROBOT: &str = r#""r.test":{"username":"robot","password":"secret-pw"}"#;

#[tokio::test]
async fn asks_as_each_kind_of_credential_wants() {
    let query = "service=registry&scope=repository%3Ateam-a%2Fapp%3Apull%2Cpush";
    for (entry, expected) in [
        ("", Some(format!("{query} - "))),
        // robot:secret-pw
        (ROBOT, Some(format!("{query} Basic cm9ib3Q6c2VjcmV0LXB3 "))),
        (
            r#""r.test":{"identitytoken":"refresh"}"#,
            Some(" - grant_type=refresh_token&refresh_token=refresh&service=registry&client_id=client&scope=repository%3Ateam-a%2Fapp%3Apull%2Cpush".to_owned()),
        ),
        (r#""r.test":{"registrytoken":"bearer"}"#, None),
    ] {
        let realm = realm(&[(200, r#"{"token":"bearer","expires_in":300,"issued_at":"2026-01-01T00:00:00Z"}"#)]).await;
        let token = fetch(&credentials(entry), &Trust::default(), &request(&realm.url, &[PUSH])).await.unwrap();
        assert_eq!(token.value.expose(), "bearer", "{entry}");
        assert_eq!(realm.asked.lock().unwrap().first().cloned(), expected);
        if expected.is_some() {
            assert_eq!((token.expires_in, token.issued_at), (300, 1_767_225_600));
        }
    }
}

#[tokio::test]
async fn refusals_are_typed_and_say_who_was_refused_what() {
    for (entry, answer, kind, says) in [
        (
            ROBOT,
            (401, "no"),
            ErrorKind::RegistryAccessDenied,
            "cannot push to r.test/team-a/app with user \"robot\" of secret robot",
        ),
        (ROBOT, (403, ""), ErrorKind::RegistryAccessDenied, "answered 403 Forbidden; check this credential"),
        ("", (401, "no"), ErrorKind::RegistryAuthRequired, "with no credential"),
        (
            r#""r.test":{"identitytoken":"refresh"}"#,
            (400, "invalid_grant"),
            ErrorKind::RegistryAccessDenied,
            "answered 400 Bad Request: invalid_grant",
        ),
        (ROBOT, (429, "slow\ndown"), ErrorKind::RegistryRateLimited, "429 Too Many Requests: slow down"),
        (ROBOT, (500, "oops"), ErrorKind::RegistryUnavailable, "500 Internal Server Error: oops"),
        (ROBOT, (302, ""), ErrorKind::RegistryUnavailable, "302 Found"),
        (ROBOT, (200, "<html>"), ErrorKind::RegistryUnavailable, "without the JSON of a token"),
        (ROBOT, (200, "{}"), ErrorKind::RegistryUnavailable, "without a token"),
    ] {
        let realm = realm(&[answer]).await;
        let problem = fetch(&credentials(entry), &Trust::default(), &request(&realm.url, &[PUSH])).await.unwrap_err();
        assert_eq!(problem.kind, kind, "{answer:?}");
        assert_eq!(problem.image.to_string(), "r.test/team-a/app");
        assert!(problem.text.contains(says), "{}", problem.text);
        assert!(!problem.text.contains("secret-pw"), "{}", problem.text);
        let tries = if kind == ErrorKind::RegistryUnavailable { 3 } else { 1 };
        assert_eq!(realm.asked.lock().unwrap().len(), tries, "{answer:?}");
    }
}

#[tokio::test]
async fn a_server_that_comes_back_is_asked_again() {
    let realm = realm(&[(503, ""), (200, r#"{"access_token":"bearer"}"#)]).await;
    let token = fetch(&credentials(ROBOT), &Trust::default(), &request(&realm.url, &[PUSH])).await.unwrap();
    assert_eq!(token, Token { value: SecretText::new("bearer"), expires_in: 60, issued_at: 0 });
}

#[tokio::test]
async fn a_refused_mount_becomes_an_upload() {
    let realm = realm(&[(403, "")]).await;
    let mount = request(&realm.url, &[MOUNT, PUSH]);
    let token = fetch(&credentials(ROBOT), &Trust::default(), &mount).await.unwrap();
    assert_eq!((token.value.expose(), realm.asked.lock().unwrap().len()), ("", 1));
    let foreign = request(&realm.url, &["repository:team-b/base:pull", PUSH]);
    let known = credentials(r#""r.test/team-a":{"username":"alice","password":"secret-pw"}"#);
    assert_eq!(fetch(&known, &Trust::default(), &foreign).await.unwrap().value.expose(), "");
    assert_eq!(realm.asked.lock().unwrap().len(), 1, "nobody is asked about foreign repositories");
}

#[tokio::test]
async fn servers_that_cannot_be_reached() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let nobody = Credentials::default();
    let to_closed = request(&format!("http://{closed}/t"), &[PUSH]);
    let problem = fetch(&nobody, &Trust::default(), &to_closed).await.unwrap_err();
    assert_eq!(problem.kind, ErrorKind::RegistryUnavailable);
    assert!(problem.text.contains("Connection refused"), "{}", problem.text);
    let problem = fetch(&nobody, &Trust::default(), &request("no url", &[PUSH])).await.unwrap_err();
    assert!(problem.text.contains("the token server (no URL) has an address that is no URL"), "{}", problem.text);
}

#[tokio::test]
async fn certificates_are_checked_and_extra_roots_believed() {
    let signed = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let pem = signed.cert.pem();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![signed.cert.der().clone()], signed.signing_key.serialize_der().try_into().unwrap())
        .unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let realm = format!("https://localhost:{}/t", listener.local_addr().unwrap().port());
    let router = Router::new().fallback(async || r#"{"token":"t"}"#);
    let config = axum_server::tls_rustls::RustlsConfig::from_config(Arc::new(config));
    let server = axum_server::from_tcp_rustls(listener, config).unwrap();
    tokio::spawn(async move { server.serve(router.into_make_service()).await.unwrap() });
    let problem = fetch(&Credentials::default(), &Trust::default(), &request(&realm, &[PUSH])).await.unwrap_err();
    assert_eq!(problem.kind, ErrorKind::CertificateUntrusted, "{}", problem.text);
    let mut trust = Trust::default();
    trust.add_host("r.test", pem.as_bytes()).unwrap();
    assert_eq!(fetch(&Credentials::default(), &trust, &request(&realm, &[PUSH])).await.unwrap().value.expose(), "t");
    let elsewhere = TokenRequest { host: "other.test".into(), ..request(&realm, &[PUSH]) };
    let problem = fetch(&Credentials::default(), &trust, &elsewhere).await.unwrap_err();
    assert_eq!(problem.kind, ErrorKind::CertificateUntrusted, "one registry's roots are not another's");
}
