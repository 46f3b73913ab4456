//! Running a build: session, Solve and Status side by side on one connection.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use bollard_buildkit_proto::moby::buildkit::v1::control_client::ControlClient;
use bollard_buildkit_proto::moby::buildkit::v1::{SolveResponse, StatusRequest};
use tonic::transport::Channel;
use tonic::{Response, Status};

use crate::build::{Build, BuildResult, Context};
use crate::daemon::{Daemon, control};
use crate::error::classify::{Clues, classify};
use crate::error::{BuildError, Details, ErrorKind};
use crate::progress::{Event, Progress};
use crate::secret::Scrubber;
use crate::session::{Access, Session};

/// How long the progress stream may go on after the build has ended: it ends by itself, unless the daemon fails.
const LAST_EVENTS: Duration = Duration::from_secs(5);

impl Daemon {
    /// Builds, and calls `on_event` for each event of the progress, in order; it must not block. When this returns,
    /// every event has been delivered. Dropping the future cancels the build.
    pub async fn build(
        &self,
        build: &Build,
        access: &Access,
        mut on_event: impl FnMut(&Event) + Send,
    ) -> Result<BuildResult, BuildError> {
        // Built before anything is sent, so that a build that cannot be described costs the daemon nothing.
        let mut request = build.request().map_err(|problem| BuildError::new(ErrorKind::ContextNotFound, problem))?;
        let control = control(self.dial().await?);
        let mut session = Session::open(control.clone(), access);
        let auth_log = session.auth_log();
        session.id().clone_into(&mut request.session);
        let scrubber = scrubber(build, access);
        let mut progress = Progress::new(scrubber.clone());
        let mut solver = control.clone();
        let solve = solver.solve(request);
        let result = drive(solve, &mut session, control, &build.reference, &mut progress, &mut on_event).await;
        match result {
            Ok(response) => Ok(BuildResult::from_exporter_response(&response.into_inner().exporter_response)),
            Err(status) => {
                let details = Details::from_status(&status);
                let vertex = details.vertex.as_deref().or_else(|| progress.failed_step(&details.message));
                Err(classify(
                    &details,
                    Clues {
                        step: vertex.and_then(|digest| progress.step_name(digest)).map(str::to_owned),
                        log_tail: vertex.map(|digest| progress.tail(digest)).unwrap_or_default(),
                        auth: auth_log.problems(),
                        mounts: auth_log.mounts(),
                        credentials: Some(&access.credentials),
                        context: Some(&build.context),
                        scrubber,
                    },
                ))
            }
        }
    }
}

/// Polls everything that a build consists of in one task, so that dropping it ends it all.
async fn drive(
    solve: impl Future<Output = Result<Response<SolveResponse>, Status>>,
    session: &mut Session,
    control: ControlClient<Channel>,
    reference: &str,
    progress: &mut Progress,
    on_event: &mut (impl FnMut(&Event) + Send),
) -> Result<Response<SolveResponse>, Status> {
    let mut solve = pin!(solve);
    let mut follow = pin!(follow(control, reference, progress, on_event));
    let mut following = true;
    let mut session_open = true;
    let mut session_error = None;
    let result = loop {
        tokio::select! {
            result = &mut solve => break result,
            () = &mut follow, if following => following = false,
            // The daemon ends the build by itself when it misses the session; why it is gone is the better error.
            end = session.ended(), if session_open => {
                session_open = false;
                session_error = end;
            }
        }
    };
    if following {
        // A daemon that is gone ends the stream too; one that hangs must not hold the result back.
        let _ = tokio::time::timeout(LAST_EVENTS, follow).await;
    }
    match (result, session_error) {
        (Err(status), Some(cause)) if status.message().contains("no active session") => Err(cause),
        (result, _) => result,
    }
}

/// Follows the progress of a build until it ends. Its errors are not the build's: Solve reports those.
pub(crate) async fn follow(
    mut control: ControlClient<Channel>,
    reference: &str,
    progress: &mut Progress,
    on_event: &mut impl FnMut(&Event),
) {
    let request = StatusRequest { r#ref: reference.to_owned() };
    let mut stream = match control.status(request).await {
        Ok(stream) => stream.into_inner(),
        Err(status) => {
            tracing::debug!(%reference, error = status.message(), "no progress");
            return;
        }
    };
    loop {
        match stream.message().await {
            Ok(Some(message)) => progress.update(message, on_event),
            Ok(None) => return,
            Err(status) => {
                tracing::debug!(%reference, error = status.message(), "the progress ended");
                return;
            }
        }
    }
}

/// Every secret of a build.
fn scrubber(build: &Build, access: &Access) -> Scrubber {
    let mut values = access.credentials.secret_values();
    for secret in access.secrets.values() {
        values.extend(std::str::from_utf8(secret.expose()).ok().map(|text| text.trim().to_owned()));
    }
    if let Context::Git { url, .. } = &build.context
        && let Some((_, rest)) = url.split_once("://")
        && let Some((user, _)) = rest.split('/').next().unwrap_or_default().rsplit_once('@')
        && let Some((_, password)) = user.split_once(':')
    {
        values.push(password.to_owned());
    }
    Scrubber::new(values.iter().map(String::as_str))
}
