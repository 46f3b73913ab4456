//! `moby.buildkit.secrets.v1.Secrets`.

use std::collections::BTreeMap;
use std::sync::Arc;

use bollard_buildkit_proto::moby::buildkit::secrets::v1::secrets_server::Secrets;
use bollard_buildkit_proto::moby::buildkit::secrets::v1::{GetSecretRequest, GetSecretResponse};
use tonic::{Request, Response, Status};

use crate::secret::Secret;

pub(super) struct SecretsService {
    secrets: Arc<BTreeMap<String, Secret>>,
}

impl SecretsService {
    pub(super) fn new(secrets: Arc<BTreeMap<String, Secret>>) -> Self {
        Self { secrets }
    }
}

#[tonic::async_trait]
impl Secrets for SecretsService {
    /// A miss must be NotFound: the daemon probes for git and HTTP credentials (`GIT_AUTH_TOKEN.<host>`, …) and
    /// takes any other error as fatal.
    async fn get_secret(&self, request: Request<GetSecretRequest>) -> Result<Response<GetSecretResponse>, Status> {
        let id = request.into_inner().id;
        match self.secrets.get(&id) {
            Some(secret) => Ok(Response::new(GetSecretResponse { data: secret.expose().to_vec() })),
            None => Err(Status::not_found(format!("secret {id} not found"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_miss_is_not_found() {
        let secrets = BTreeMap::from([("npm".to_owned(), Secret::new("token"))]);
        let service = SecretsService::new(Arc::new(secrets));
        let get =
            |id: &str| service.get_secret(Request::new(GetSecretRequest { id: id.to_owned(), ..Default::default() }));
        assert_eq!(get("npm").await.unwrap().into_inner().data, b"token");
        for probe in ["other", "GIT_AUTH_TOKEN.git.test:443", "HTTP_AUTH_HEADER_a.test"] {
            assert_eq!(get(probe).await.unwrap_err().code(), tonic::Code::NotFound, "{probe}");
        }
    }
}
