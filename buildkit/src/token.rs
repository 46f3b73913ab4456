//! Bearer tokens of registries: which credential a request for scopes is answered with, and asking the token server.

use std::time::Duration;

use reqwest::StatusCode;
use serde::Deserialize;

use crate::credentials::{Credential, Credentials, Login, canonical_host};
use crate::error::{ErrorKind, ImageRepository};
use crate::secret::SecretText;
use crate::trust::Trust;

/// How long a token lives when its server does not say (distribution's token specification).
const DEFAULT_LIFETIME: i64 = 60;
/// Pauses before another try when the token server is not reachable or answers 5xx. BuildKit retries such answers of
/// a registry, but not of a client that fetches tokens for it.
const RETRY_AFTER: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(1)];
/// How much of an error answer is shown.
const SHOWN_ANSWER: usize = 200;

/// What the daemon asks for on behalf of a registry.
#[derive(Clone, Debug, Default)]
pub(crate) struct TokenRequest {
    /// The registry, `host` or `host:port`.
    pub(crate) host: String,
    pub(crate) realm: String,
    pub(crate) service: String,
    pub(crate) client_id: String,
    pub(crate) scopes: Vec<String>,
}

/// A token for the daemon; an empty one makes it ask the registry without authorization.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) value: SecretText,
    /// Seconds.
    pub(crate) expires_in: i64,
    /// Seconds since the epoch; 0 when the server did not say.
    pub(crate) issued_at: i64,
}

/// Why there is no token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AuthProblem {
    pub(crate) kind: ErrorKind,
    pub(crate) image: ImageRepository,
    pub(crate) text: String,
}

/// How a request is answered, decided before anything is sent.
#[derive(Clone, Debug)]
pub(crate) enum Plan<'a> {
    /// Nobody's credential covers all repositories: this is a cross-repository mount of a foreign layer, and an empty
    /// token turns it into a plain upload with every registry (401, where a token without the scope may give 403).
    Empty,
    /// Ask the token server with this credential, or without one.
    Ask(Option<&'a Credential>),
}

/// The repository in `repository:team-a/app:pull,push`.
fn repository(scope: &str) -> Option<&str> {
    let rest = scope.strip_prefix("repository:")?;
    Some(rest.rsplit_once(':').map_or(rest, |(name, _)| name))
}

fn pushes(scope: &str) -> bool {
    scope.rsplit(':').next().is_some_and(|actions| actions.split(',').any(|action| action == "push"))
}

/// The repository that the request is about: the one that is pushed, else the first.
fn subject(scopes: &[String]) -> &str {
    let scope =
        scopes.iter().find(|scope| pushes(scope)).or_else(|| scopes.iter().find(|scope| repository(scope).is_some()));
    scope.and_then(|scope| repository(scope)).unwrap_or_default()
}

/// The mounts that a request prepares: the repository that is pushed to, and each that layers may come from.
pub(crate) fn mounts(request: &TokenRequest) -> Vec<(ImageRepository, String)> {
    let Some(to) = request.scopes.iter().find(|scope| pushes(scope)).and_then(|scope| repository(scope)) else {
        return Vec::new();
    };
    let to = ImageRepository { registry: canonical_host(&request.host), repository: to.to_owned() };
    let others = request.scopes.iter().filter_map(|scope| repository(scope)).filter(|from| *from != to.repository);
    others.map(|from| (to.clone(), from.to_owned())).collect()
}

pub(crate) fn plan<'a>(credentials: &'a Credentials, host: &str, scopes: &[String]) -> Plan<'a> {
    let chosen = credentials.find(host, subject(scopes));
    let foreign = scopes.iter().filter_map(|scope| repository(scope)).any(|repository| {
        credentials.find(host, repository).map(|other| &other.login) != chosen.map(|chosen| &chosen.login)
    });
    if foreign { Plan::Empty } else { Plan::Ask(chosen) }
}

/// Answers a token request.
pub(crate) async fn fetch(
    credentials: &Credentials,
    trust: &Trust,
    request: &TokenRequest,
) -> Result<Token, AuthProblem> {
    let credential = match plan(credentials, &request.host, &request.scopes) {
        Plan::Empty => return Ok(Token { expires_in: DEFAULT_LIFETIME, ..Token::default() }),
        Plan::Ask(credential) => credential,
    };
    if let Some(Login::Bearer(token)) = credential.map(|credential| &credential.login) {
        return Ok(Token { value: token.clone(), expires_in: DEFAULT_LIFETIME, issued_at: 0 });
    }
    let asker = Asker { request, credential };
    let refused = match asker.ask(trust).await {
        Ok(token) => return Ok(token),
        Err(problem) => problem,
    };
    // A strict token server refuses the whole request when one repository is denied. For a mount that must not fail
    // the push: without a token the registry says 401 and the layer is uploaded, under a request of its own.
    let is_mount = request.scopes.len() > 1 && request.scopes.iter().any(|scope| pushes(scope));
    let denied = matches!(refused.kind, ErrorKind::RegistryAccessDenied | ErrorKind::RegistryAuthRequired);
    if is_mount && denied {
        return Ok(Token { expires_in: DEFAULT_LIFETIME, ..Token::default() });
    }
    Err(refused)
}

/// One request to a token server.
struct Asker<'a> {
    request: &'a TokenRequest,
    credential: Option<&'a Credential>,
}

/// Both spellings of the answer: `token` (distribution) and `access_token` (OAuth2).
#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
    #[serde(default)]
    expires_in: i64,
    issued_at: Option<String>,
}

impl Asker<'_> {
    async fn ask(&self, trust: &Trust) -> Result<Token, AuthProblem> {
        let client = trust.client(&self.request.host).map_err(|error| {
            self.problem(ErrorKind::Internal, &format!("no HTTP client could be made: {}", chain(&error)))
        })?;
        let mut pauses = RETRY_AFTER.into_iter();
        loop {
            let problem = match self.once(&client).await {
                Ok(token) => return Ok(token),
                Err(problem) => problem,
            };
            match pauses.next() {
                Some(pause) if problem.kind == ErrorKind::RegistryUnavailable => tokio::time::sleep(pause).await,
                _ => return Err(problem),
            }
        }
    }

    async fn once(&self, client: &reqwest::Client) -> Result<Token, AuthProblem> {
        let request = self.request;
        let builder = match self.credential.map(|credential| &credential.login) {
            Some(Login::Identity(token)) => client.post(&request.realm).form(&[
                ("grant_type", "refresh_token"),
                ("refresh_token", token.expose()),
                ("service", &request.service),
                ("client_id", &request.client_id),
                ("scope", &request.scopes.join(" ")),
            ]),
            login => {
                let mut query: Vec<(&str, &str)> = Vec::new();
                if !request.service.is_empty() {
                    query.push(("service", &request.service));
                }
                query.extend(request.scopes.iter().map(|scope| ("scope", scope.as_str())));
                let builder = client.get(&request.realm).query(&query);
                match login {
                    Some(Login::Password { user, password }) => builder.basic_auth(user, Some(password.expose())),
                    _ => builder,
                }
            }
        };
        let response = builder.send().await.map_err(|error| self.unreachable(&error))?;
        let status = response.status();
        let body = response.bytes().await.map_err(|error| self.unreachable(&error))?;
        if !status.is_success() {
            return Err(self.refused(status, &body));
        }
        let unusable = |what: &str| self.problem(ErrorKind::RegistryUnavailable, &format!("answered {status} {what}"));
        let answer: Answer = serde_json::from_slice(&body).map_err(|_| unusable("without the JSON of a token"))?;
        let value = if answer.access_token.is_empty() { answer.token } else { answer.access_token };
        if value.is_empty() {
            return Err(unusable("without a token"));
        }
        let issued_at = answer.issued_at.and_then(|time| time.parse::<jiff::Timestamp>().ok());
        Ok(Token {
            value: SecretText::new(value),
            expires_in: if answer.expires_in > 0 { answer.expires_in } else { DEFAULT_LIFETIME },
            issued_at: issued_at.map_or(0, jiff::Timestamp::as_second),
        })
    }

    fn unreachable(&self, error: &reqwest::Error) -> AuthProblem {
        let text = chain(error);
        if error.is_builder() {
            return self.problem(ErrorKind::RegistryUnavailable, "has an address that is no URL");
        }
        if text.contains("certificate") {
            return self.problem(
                ErrorKind::CertificateUntrusted,
                &format!("has a certificate that is not trusted ({text}); add its CA to the registry's entry"),
            );
        }
        self.problem(ErrorKind::RegistryUnavailable, &format!("could not be asked: {text}"))
    }

    fn refused(&self, status: StatusCode, body: &[u8]) -> AuthProblem {
        let kind = match status.as_u16() {
            // 400 is how OAuth2 refuses a refresh token (`invalid_grant`).
            400 | 401 | 403 if self.credential.is_some() => ErrorKind::RegistryAccessDenied,
            401 | 403 => ErrorKind::RegistryAuthRequired,
            429 => ErrorKind::RegistryRateLimited,
            _ => ErrorKind::RegistryUnavailable,
        };
        let shown: String = String::from_utf8_lossy(body)
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .take(SHOWN_ANSWER)
            .collect();
        let shown = shown.trim();
        let answer =
            if shown.is_empty() { format!("answered {status}") } else { format!("answered {status}: {shown}") };
        self.problem(kind, &answer)
    }

    /// The problem as a sentence about the token server, with the repository, the credential used and what to do.
    fn problem(&self, kind: ErrorKind, what: &str) -> AuthProblem {
        let host = canonical_host(&self.request.host);
        let image = ImageRepository { registry: host, repository: subject(&self.request.scopes).to_owned() };
        let wanted = if self.request.scopes.iter().any(|scope| pushes(scope)) { "push to" } else { "pull from" };
        let used = match self.credential {
            None => "no credential".to_owned(),
            Some(credential) => match credential.login.user() {
                Some(user) => format!("user {user:?} of {}", credential.source),
                None => format!("the token of {}", credential.source),
            },
        };
        let advice = match kind {
            ErrorKind::RegistryAuthRequired => "; add a credential for this registry and repository to the pool",
            ErrorKind::RegistryAccessDenied => "; check this credential and its rights",
            _ => "",
        };
        let text = format!("cannot {wanted} {image} with {used}: the token server {} {what}{advice}", self.realm());
        AuthProblem { kind, image, text }
    }

    /// The token server's address without anything that could be secret.
    fn realm(&self) -> String {
        match reqwest::Url::parse(&self.request.realm) {
            Ok(url) => format!("{}{}", url.origin().ascii_serialization(), url.path()),
            Err(_) => "(no URL)".to_owned(),
        }
    }
}

/// An error with its causes, without the URL that reqwest puts first.
fn chain(error: &reqwest::Error) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut next: Option<&dyn std::error::Error> = std::error::Error::source(error);
    while let Some(cause) = next {
        let text = cause.to_string();
        if parts.last() != Some(&text) {
            parts.push(text);
        }
        next = cause.source();
    }
    if parts.is_empty() {
        parts.push(if error.is_timeout() { "timed out".to_owned() } else { "the request failed".to_owned() });
    }
    parts.join(": ")
}

/// The problem as the text of a gRPC error. BuildKit passes on only text, to this build, to others that wait for the
/// same step, and to the history; the prefix carries the type through it.
pub(crate) fn to_error_text(problem: &AuthProblem) -> String {
    format!("{MARK}{}|{}|{}}}: {}", problem.kind, problem.image.registry, problem.image.repository, problem.text)
}

const MARK: &str = "buildpools-auth{";

/// Finds a problem in an error text of the daemon.
pub(crate) fn from_error_text(text: &str) -> Option<AuthProblem> {
    // The innermost, which is the last, is the original.
    let (_, rest) = text.rsplit_once(MARK)?;
    let (head, text) = rest.split_once("}: ")?;
    let mut fields = head.split('|');
    let kind = ErrorKind::parse(fields.next()?)?;
    let image = ImageRepository { registry: fields.next()?.to_owned(), repository: fields.next()?.to_owned() };
    Some(AuthProblem { kind, image, text: text.to_owned() })
}

#[cfg(test)]
#[path = "token_tests.rs"]
mod tests;
