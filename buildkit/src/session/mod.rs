//! The session: a gRPC server of this process that the daemon calls for credentials and secrets during a build.

mod auth;
mod health;
mod secrets;
mod tunnel;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bollard_buildkit_proto::health::health_server::HealthServer;
use bollard_buildkit_proto::moby::buildkit::secrets::v1::secrets_server::SecretsServer;
use bollard_buildkit_proto::moby::buildkit::v1::control_client::ControlClient;
use bollard_buildkit_proto::moby::filesync::v1::auth_server::AuthServer;
use tonic::transport::Channel;

use crate::credentials::Credentials;
use crate::error::ImageRepository;
use crate::secret::Secret;
use crate::token::AuthProblem;
use crate::trust::Trust;

/// What a build may use. Cheap to clone; the parts are shared.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// Registry credentials.
    pub credentials: Arc<Credentials>,
    /// Certificates of token servers.
    pub trust: Arc<Trust>,
    /// Secrets for `RUN --mount=type=secret`, by id.
    pub secrets: Arc<BTreeMap<String, Secret>>,
}

/// What a session saw of registries, for the error of a build that failed because of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct AuthLog(Arc<Mutex<Seen>>);

#[derive(Debug, Default)]
struct Seen {
    problems: Vec<AuthProblem>,
    mounts: Vec<(ImageRepository, String)>,
}

impl AuthLog {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add_problem(&self, problem: &AuthProblem) {
        let problems = &mut self.seen().problems;
        if !problems.contains(problem) {
            problems.push(problem.clone());
        }
    }

    fn add_mount(&self, to: ImageRepository, from: String) {
        let mounts = &mut self.seen().mounts;
        let mount = (to, from);
        if !mounts.contains(&mount) {
            mounts.push(mount);
        }
    }

    /// Problems with credentials, the oldest first.
    pub(crate) fn problems(&self) -> Vec<AuthProblem> {
        self.seen().problems.clone()
    }

    /// Repositories that were pushed to with a token that also allows pulling from another: (to, from).
    pub(crate) fn mounts(&self) -> Vec<(ImageRepository, String)> {
        self.seen().mounts.clone()
    }
}

/// The methods that the daemon may call, which it is told when the session opens.
const METHODS: [&str; 6] = [
    "/moby.filesync.v1.Auth/Credentials",
    "/moby.filesync.v1.Auth/FetchToken",
    "/moby.filesync.v1.Auth/GetTokenAuthority",
    "/moby.filesync.v1.Auth/VerifyTokenAuthority",
    "/moby.buildkit.secrets.v1.Secrets/GetSecret",
    // Not optional: the daemon ends a session whose health it cannot check.
    "/grpc.health.v1.Health/Check",
];

/// An open session. Dropping it closes it.
#[derive(Debug)]
pub(crate) struct Session {
    id: String,
    auth_log: AuthLog,
    tunnel: tunnel::Tunnel,
}

impl Session {
    /// Opens a session without waiting for the daemon: a build that names its id waits for it there.
    pub(crate) fn open(control: ControlClient<Channel>, access: &Access) -> Self {
        let id = uuid::Uuid::new_v4().simple().to_string();
        let auth_log = AuthLog::default();
        let auth = auth::AuthService::new(access.credentials.clone(), access.trust.clone(), auth_log.clone());
        let secrets = secrets::SecretsService::new(access.secrets.clone());
        let router = tonic::transport::Server::builder()
            .add_service(AuthServer::new(auth))
            .add_service(SecretsServer::new(secrets))
            .add_service(HealthServer::new(health::HealthService));
        let tunnel = tunnel::open(control, &id, &METHODS, router);
        Self { id, auth_log, tunnel }
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    pub(crate) fn auth_log(&self) -> AuthLog {
        self.auth_log.clone()
    }

    /// Returns when the session has ended, with the reason if it was an error.
    pub(crate) async fn ended(&mut self) -> Option<tonic::Status> {
        self.tunnel.ended().await
    }
}
