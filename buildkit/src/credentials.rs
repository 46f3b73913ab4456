//! Registry credentials from docker configuration files, found by host and repository path.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use serde_json::{Map, Value};

use crate::secret::SecretText;

/// Registry credentials by host and repository path. For a repository the entry with the longest matching path
/// prefix wins, whatever the order of the entries.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    entries: Vec<Credential>,
}

/// One credential: where it applies, where it comes from, and what it is.
#[derive(Clone, Debug)]
pub(crate) struct Credential {
    pub(crate) host: String,
    pub(crate) path: String,
    pub(crate) source: String,
    pub(crate) login: Login,
}

/// What a registry or its token server is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Login {
    /// User and password.
    Password { user: String, password: SecretText },
    /// An OAuth2 refresh token, for token servers only.
    Identity(SecretText),
    /// A bearer token that the registry takes as it is.
    Bearer(SecretText),
}

impl Login {
    /// The user's name, where there is one.
    pub(crate) fn user(&self) -> Option<&str> {
        match self {
            Self::Password { user, .. } => Some(user),
            Self::Identity(_) | Self::Bearer(_) => None,
        }
    }

    pub(crate) fn secret(&self) -> &SecretText {
        match self {
            Self::Password { password: secret, .. } | Self::Identity(secret) | Self::Bearer(secret) => secret,
        }
    }
}

/// A part of a configuration that cannot be used; never shows a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// Which file or Secret, as the caller named it.
    pub source: String,
    /// The registry host concerned; none when the whole file is.
    pub host: Option<String>,
    /// What is wrong and what happens because of it.
    pub problem: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Some(host) => write!(f, "{}, entry {host}: {}", self.source, self.problem),
            None => write!(f, "{}: {}", self.source, self.problem),
        }
    }
}

/// Where a credential applies and where it comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CredentialInfo<'a> {
    /// The registry, as `host` or `host:port`.
    pub host: &'a str,
    /// The repository path that the credential is limited to; empty for the whole host.
    pub path: &'a str,
    /// The file or Secret it was read from.
    pub source: &'a str,
}

/// Two credentials for one host, where the registry's scheme has room for one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ambiguous {
    pub(crate) paths: Vec<String>,
}

impl Credentials {
    /// Adds a docker configuration (`.dockerconfigjson`, `config.json`), which `source` names in warnings. It never
    /// fails as a whole: one bad entry does not spoil the others. Of two entries for one host and path the first wins.
    pub fn add_docker_config(&mut self, source: &str, json: &[u8]) -> Vec<Warning> {
        let warning = |host: Option<&str>, problem: String| Warning {
            source: source.to_owned(),
            host: host.map(str::to_owned),
            problem,
        };
        let json = json.strip_prefix(b"\xef\xbb\xbf").unwrap_or(json);
        let config: Value = match serde_json::from_slice(json) {
            Ok(config) => config,
            // Only the position: the parser's own text could quote the input.
            Err(error) => {
                let problem = format!("not valid JSON (line {}, column {})", error.line(), error.column());
                return vec![warning(None, problem)];
            }
        };
        let Some(auths) = config.get("auths") else {
            return vec![warning(None, "has no \"auths\" object; the legacy dockercfg form is not read".to_owned())];
        };
        let Some(auths) = auths.as_object() else {
            return vec![warning(None, "\"auths\" is not an object".to_owned())];
        };
        let mut warnings = Vec::new();
        for (key, entry) in auths {
            let (host, path) = match split_key(key) {
                Ok(split) => split,
                Err(problem) => {
                    warnings.push(warning(Some(key), problem.to_owned()));
                    continue;
                }
            };
            match login(entry) {
                Ok(login) => {
                    if let Some(problem) = self.add(source, host, path, login) {
                        warnings.push(warning(Some(key), problem));
                    }
                }
                Err(problem) => warnings.push(warning(Some(key), problem.to_owned())),
            }
        }
        for helper in ["credsStore", "credHelpers"] {
            if config.get(helper).is_some_and(|value| !is_empty(value)) {
                let problem = format!("\"{helper}\" is ignored: credential helpers cannot run here");
                warnings.push(warning(None, problem));
            }
        }
        warnings
    }

    fn add(&mut self, source: &str, host: String, path: String, login: Login) -> Option<String> {
        match self.entries.iter().find(|entry| entry.host == host && entry.path == path) {
            Some(first) if first.login == login => None,
            Some(first) => Some(format!("ignored: {} has another credential for the same place", first.source)),
            None => {
                self.entries.push(Credential { host, path, source: source.to_owned(), login });
                None
            }
        }
    }

    /// Everything that is known, without the secrets.
    pub fn entries(&self) -> impl Iterator<Item = CredentialInfo<'_>> {
        self.entries.iter().map(|entry| CredentialInfo { host: &entry.host, path: &entry.path, source: &entry.source })
    }

    /// Whether there is no credential at all.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The credential for a repository (no tag) of a host: the longest path prefix wins.
    pub(crate) fn find(&self, host: &str, repository: &str) -> Option<&Credential> {
        self.of_host(host).filter(|entry| covers(&entry.path, repository)).max_by_key(|entry| entry.path.len())
    }

    /// Every credential of a host, in the order in which they were added.
    pub(crate) fn of_host(&self, host: &str) -> impl Iterator<Item = &Credential> {
        let host = canonical_host(host);
        self.entries.iter().filter(move |entry| entry.host == host)
    }

    /// The one credential of a host, for registries that are asked without naming a repository.
    pub(crate) fn only(&self, host: &str) -> Result<Option<&Credential>, Ambiguous> {
        let mut entries = self.of_host(host);
        let first = entries.next();
        match first {
            Some(one) if entries.any(|other| other.login != one.login) => {
                Err(Ambiguous { paths: self.of_host(host).map(|entry| entry.path.clone()).collect() })
            }
            _ => Ok(first),
        }
    }

    /// Every secret value, in the forms in which it could turn up in text.
    pub(crate) fn secret_values(&self) -> Vec<String> {
        let mut values = Vec::new();
        for entry in &self.entries {
            values.push(entry.login.secret().expose().to_owned());
            if let Login::Password { user, password } = &entry.login {
                values.push(STANDARD.encode(format!("{user}:{}", password.expose())));
            }
        }
        values
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

/// Whether a repository lies at or below a path.
fn covers(path: &str, repository: &str) -> bool {
    path.is_empty() || repository.strip_prefix(path).is_some_and(|below| below.is_empty() || below.starts_with('/'))
}

/// Docker Hub has four names; the one in image references stands for all.
pub(crate) fn canonical_host(host: &str) -> String {
    let host = host.to_ascii_lowercase();
    match host.as_str() {
        "index.docker.io" | "registry-1.docker.io" | "registry.hub.docker.com" => "docker.io".to_owned(),
        _ => host,
    }
}

/// Splits a key of `auths` into host and path: `https://h/v1/`, `h:5000`, `h/team/app`.
fn split_key(key: &str) -> Result<(String, String), &'static str> {
    let key = key.trim();
    let rest = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://"));
    let has_scheme = rest.is_some();
    let (host, path) = rest.unwrap_or(key).split_once('/').unwrap_or((rest.unwrap_or(key), ""));
    if host.is_empty() {
        return Err("names no host");
    }
    if host.contains('*') || path.contains('*') {
        return Err("wildcards are not supported; name the host");
    }
    if host.contains('@') || host.chars().any(char::is_whitespace) {
        return Err("is not a host with an optional path");
    }
    // `https://h/v1/` and `h/v2/` name the registry's API, not a repository (so does the kubelet read them).
    let path = match path.split_once('/') {
        Some(("v1" | "v2", rest)) => rest,
        None if has_scheme && (path == "v1" || path == "v2") => "",
        _ => path,
    };
    Ok((canonical_host(host), path.trim_matches('/').to_owned()))
}

/// Reads one entry. `auth` wins over `username` and `password`, as in docker's own loader; a token wins over both.
fn login(entry: &Value) -> Result<Login, &'static str> {
    let entry = entry.as_object().ok_or("is not an object")?;
    if let Some(token) = text(entry, "registrytoken")? {
        return Ok(Login::Bearer(SecretText::new(token)));
    }
    if let Some(token) = text(entry, "identitytoken")? {
        return Ok(Login::Identity(SecretText::new(token)));
    }
    let (user, password) = if let Some(auth) = text(entry, "auth")? {
        decode_auth(auth)?
    } else {
        match (text(entry, "username")?, text(entry, "password")?) {
            (Some(user), Some(password)) => (user.to_owned(), password.to_owned()),
            (None, None) => return Err("holds no credential"),
            (None, Some(_)) => return Err("has a password but no username"),
            (Some(_), None) => return Err("has a username but no password"),
        }
    };
    Ok(Login::Password { user, password: SecretText::new(password) })
}

fn text<'a>(entry: &'a Map<String, Value>, key: &'static str) -> Result<Option<&'a str>, &'static str> {
    match entry.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.is_empty() => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(match key {
            "auth" => "\"auth\" is not a string",
            "username" => "\"username\" is not a string",
            "password" => "\"password\" is not a string",
            _ => "a token is not a string",
        }),
    }
}

fn decode_auth(auth: &str) -> Result<(String, String), &'static str> {
    let auth = auth.trim();
    let bytes = STANDARD
        .decode(auth)
        .or_else(|_| STANDARD_NO_PAD.decode(auth))
        .map_err(|_| "\"auth\" is not base64; it must be base64 of user:password")?;
    let decoded = String::from_utf8(bytes).map_err(|_| "\"auth\" is not base64 of user:password")?;
    let (user, password) =
        decoded.split_once(':').ok_or("\"auth\" has no colon; it must be base64 of user:password")?;
    if user.is_empty() {
        return Err("\"auth\" has an empty user");
    }
    let password = password.trim_end_matches('\0');
    if password.is_empty() {
        return Err("\"auth\" has an empty password");
    }
    Ok((user.to_owned(), password.to_owned()))
}

#[cfg(test)]
#[path = "credentials_tests.rs"]
mod tests;
