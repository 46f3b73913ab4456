//! `moby.filesync.v1.Auth`: credentials that never leave this process where the registry takes tokens, and are chosen
//! by repository.

use std::sync::{Arc, OnceLock};

use bollard_buildkit_proto::moby::filesync::v1::auth_server::Auth;
use bollard_buildkit_proto::moby::filesync::v1::{
    CredentialsRequest, CredentialsResponse, FetchTokenRequest, FetchTokenResponse, GetTokenAuthorityRequest,
    GetTokenAuthorityResponse, VerifyTokenAuthorityRequest, VerifyTokenAuthorityResponse,
};
use ed25519_dalek::{Signer, SigningKey};
use hmac::{Hmac, Mac};
use sha2::Sha256;
use tonic::{Request, Response, Status};

use super::AuthLog;
use crate::credentials::{Credentials, Login, canonical_host};
use crate::error::{ErrorKind, ImageRepository};
use crate::token::{self, AuthProblem, TokenRequest};
use crate::trust::Trust;

pub(super) struct AuthService {
    credentials: Arc<Credentials>,
    trust: Arc<Trust>,
    log: AuthLog,
}

/// Random per process, so that a key says nothing about a credential to who cannot read this process.
fn seed() -> &'static [u8; 32] {
    static SEED: OnceLock<[u8; 32]> = OnceLock::new();
    SEED.get_or_init(|| {
        let mut seed = [0; 32];
        let (first, second) = seed.split_at_mut(16);
        first.copy_from_slice(uuid::Uuid::new_v4().as_bytes());
        second.copy_from_slice(uuid::Uuid::new_v4().as_bytes());
        seed
    })
}

impl AuthService {
    pub(super) fn new(credentials: Arc<Credentials>, trust: Arc<Trust>, log: AuthLog) -> Self {
        Self { credentials, trust, log }
    }

    /// The key with which this session proves to the daemon that it may use pull tokens that another one fetched. It
    /// depends on every credential of the host: builds with equal credentials share the daemon's tokens, others
    /// cannot.
    fn key(&self, host: &str, salt: &[u8]) -> Result<SigningKey, Status> {
        let mut mac = Hmac::<Sha256>::new_from_slice(salt).map_err(|_| Status::invalid_argument("unusable salt"))?;
        let mut field = |bytes: &[u8]| {
            mac.update(&(bytes.len() as u64).to_be_bytes());
            mac.update(bytes);
        };
        field(seed());
        field(canonical_host(host).as_bytes());
        let mut entries: Vec<_> = self.credentials.of_host(host).collect();
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        for entry in entries {
            let kind = match entry.login {
                Login::Password { .. } => b"password".as_slice(),
                Login::Identity(_) => b"identity",
                Login::Bearer(_) => b"bearer",
            };
            field(entry.path.as_bytes());
            field(kind);
            field(entry.login.user().unwrap_or_default().as_bytes());
            field(entry.login.secret().expose().as_bytes());
        }
        Ok(SigningKey::from_bytes(&mac.finalize().into_bytes().into()))
    }

    fn fail(&self, problem: &AuthProblem) -> Status {
        tracing::debug!(kind = %problem.kind, image = %problem.image, "{}", problem.text);
        self.log.add_problem(problem);
        let text = token::to_error_text(problem);
        match problem.kind {
            ErrorKind::RegistryAuthRequired => Status::unauthenticated(text),
            ErrorKind::RegistryAccessDenied => Status::permission_denied(text),
            ErrorKind::RegistryRateLimited => Status::resource_exhausted(text),
            // Not Unavailable, which BuildKit takes for a lost connection.
            _ => Status::failed_precondition(text),
        }
    }
}

#[tonic::async_trait]
impl Auth for AuthService {
    /// For registries with Basic authentication, which are asked without naming a repository.
    async fn credentials(&self, request: Request<CredentialsRequest>) -> Result<Response<CredentialsResponse>, Status> {
        let host = request.into_inner().host;
        let credential = self.credentials.only(&host).map_err(|ambiguous| {
            let registry = canonical_host(&host);
            let text = format!(
                "{registry} uses Basic authentication, which knows one credential per host, but there are several: for {}; \
                 give the host one credential, or these repositories pools of their own",
                ambiguous.paths.iter().map(|path| format!("{registry}/{path}")).collect::<Vec<_>>().join(", "),
            );
            let image = ImageRepository { registry, repository: String::new() };
            self.fail(&AuthProblem { kind: ErrorKind::RegistryAccessDenied, image, text })
        })?;
        let response = credential.map(|credential| CredentialsResponse {
            username: credential.login.user().unwrap_or_default().to_owned(),
            secret: credential.login.secret().expose().to_owned(),
        });
        Ok(Response::new(response.unwrap_or_default()))
    }

    async fn fetch_token(&self, request: Request<FetchTokenRequest>) -> Result<Response<FetchTokenResponse>, Status> {
        let request = request.into_inner();
        let request = TokenRequest {
            host: request.host,
            realm: request.realm,
            service: request.service,
            client_id: request.client_id,
            scopes: request.scopes,
        };
        let token = token::fetch(&self.credentials, &self.trust, &request).await;
        let token = token.map_err(|problem| self.fail(&problem))?;
        if !token.value.expose().is_empty() {
            for (to, from) in token::mounts(&request) {
                self.log.add_mount(to, from);
            }
        }
        Ok(Response::new(FetchTokenResponse {
            token: token.value.expose().to_owned(),
            expires_in: token.expires_in,
            issued_at: token.issued_at,
        }))
    }

    async fn get_token_authority(
        &self,
        request: Request<GetTokenAuthorityRequest>,
    ) -> Result<Response<GetTokenAuthorityResponse>, Status> {
        let request = request.into_inner();
        let public_key = self.key(&request.host, &request.salt)?.verifying_key().to_bytes().to_vec();
        Ok(Response::new(GetTokenAuthorityResponse { public_key }))
    }

    /// NaCl's `crypto_sign`: the signature, then the message.
    async fn verify_token_authority(
        &self,
        request: Request<VerifyTokenAuthorityRequest>,
    ) -> Result<Response<VerifyTokenAuthorityResponse>, Status> {
        let request = request.into_inner();
        let mut signed = self.key(&request.host, &request.salt)?.sign(&request.payload).to_bytes().to_vec();
        signed.extend_from_slice(&request.payload);
        Ok(Response::new(VerifyTokenAuthorityResponse { signed }))
    }
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::{Signature, VerifyingKey};

    use super::*;

    fn service(config: &str) -> AuthService {
        let mut credentials = Credentials::default();
        assert_eq!(credentials.add_docker_config("test", config.as_bytes()), []);
        AuthService::new(Arc::new(credentials), Arc::default(), AuthLog::default())
    }

    async fn public_key(service: &AuthService, host: &str, salt: &[u8]) -> Vec<u8> {
        let request = GetTokenAuthorityRequest { host: host.to_owned(), salt: salt.to_vec() };
        service.get_token_authority(Request::new(request)).await.unwrap().into_inner().public_key
    }

    const ALICE: &str = r#"{"auths":{"r.test":{"username":"alice","password":"pw"}}}"#;

    #[tokio::test]
    async fn signs_with_the_key_it_announced() {
        let service = service(ALICE);
        let key = public_key(&service, "r.test", b"salt").await;
        let request =
            VerifyTokenAuthorityRequest { host: "r.test".into(), payload: b"nonce".to_vec(), salt: b"salt".to_vec() };
        let signed = service.verify_token_authority(Request::new(request)).await.unwrap().into_inner().signed;
        let (signature, message) = signed.split_at(64);
        assert_eq!(message, b"nonce");
        let key = VerifyingKey::from_bytes(key.as_slice().try_into().unwrap()).unwrap();
        key.verify_strict(message, &Signature::from_slice(signature).unwrap()).unwrap();
    }

    #[tokio::test]
    async fn only_equal_credentials_share_a_key() {
        let first = public_key(&service(ALICE), "r.test", b"salt").await;
        let again = public_key(&service(ALICE), "r.test", b"salt").await;
        assert_eq!(first, again);
        for (other, host, salt) in [
            (r#"{"auths":{"r.test":{"username":"alice","password":"pw2"}}}"#, "r.test", b"salt"),
            (r#"{"auths":{"r.test/a":{"username":"alice","password":"pw"}}}"#, "r.test", b"salt"),
            (r#"{"auths":{"r.test":{"identitytoken":"pw"}}}"#, "r.test", b"salt"),
            (r#"{"auths":{}}"#, "r.test", b"salt"),
            (ALICE, "other.test", b"salt"),
            (ALICE, "r.test", b"tlas"),
        ] {
            assert_ne!(first, public_key(&service(other), host, salt).await, "{other} {host}");
        }
    }

    #[tokio::test]
    async fn basic_registries_get_the_one_credential_or_an_error() {
        let credentials = async |config: &str| {
            let service = service(config);
            let request = CredentialsRequest { host: "r.test".to_owned() };
            (service.credentials(Request::new(request)).await.map(Response::into_inner), service.log.problems())
        };
        let (answer, log) = credentials(ALICE).await;
        let answer = answer.unwrap();
        assert_eq!((answer.username.as_str(), answer.secret.as_str(), log.len()), ("alice", "pw", 0));
        let (answer, _) = credentials(r#"{"auths":{}}"#).await;
        assert_eq!(answer.unwrap(), CredentialsResponse::default());
        let (answer, log) = credentials(
            r#"{"auths":{"r.test/a":{"username":"a","password":"pw-a"},"r.test/b":{"username":"b","password":"pw-b"}}}"#,
        )
        .await;
        let problem = token::from_error_text(answer.unwrap_err().message()).unwrap();
        assert_eq!(problem.kind, ErrorKind::RegistryAccessDenied);
        assert!(problem.text.contains("r.test/a, r.test/b"), "{}", problem.text);
        assert_eq!(log, [problem]);
    }
}
