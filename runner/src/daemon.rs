//! The daemon beside the runner: what is asked of it, and whether it answers.

use std::future::Future;
use std::path::Path;
use std::time::Duration;

use buildpools_buildkit::{Access, Build, BuildError, BuildResult, Daemon, Event as Progress, HistoryRecord};
use buildpools_crds::buildkit::{self, Support};
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::decide::Event;

/// How often a daemon that answers is asked again. A build notices a lost daemon by itself; this is for idle ones.
const CHECK_EVERY: Duration = Duration::from_secs(5);
/// How often one that does not answer is asked again.
const RETRY_EVERY: Duration = Duration::from_millis(200);
/// How long an answer may take. A daemon under load answers `Info` within milliseconds.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// How long to try before it is said that the daemon does not come up.
const SAY_AFTER: Duration = Duration::from_secs(10);

/// What an attempt needs of a daemon: a trait, so that the tests can put faults where a real daemon has none.
pub trait Builder: Send + Sync + 'static {
    /// See [`Daemon::build`]. Dropping the future cancels the build.
    fn build(
        &self,
        build: &Build,
        access: &Access,
        on_event: impl FnMut(&Progress) + Send,
    ) -> impl Future<Output = Result<BuildResult, BuildError>> + Send;

    /// See [`Daemon::history`].
    fn history(&self, reference: &str) -> impl Future<Output = Result<Option<HistoryRecord>, BuildError>> + Send;
}

impl Builder for Daemon {
    async fn build(
        &self,
        build: &Build,
        access: &Access,
        on_event: impl FnMut(&Progress) + Send,
    ) -> Result<BuildResult, BuildError> {
        Daemon::build(self, build, access, on_event).await
    }

    async fn history(&self, reference: &str) -> Result<Option<HistoryRecord>, BuildError> {
        Daemon::history(self, reference).await
    }
}

/// What a daemon says about itself, for the pool's status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    /// Its version.
    pub version: String,
    /// Its snapshotter; `None` when it does not say.
    pub snapshotter: Option<String>,
}

/// Connects, however long the daemon takes to start.
pub async fn connect(socket: &Path) -> Daemon {
    loop {
        match Daemon::connect_until(socket, Instant::now() + SAY_AFTER).await {
            Ok(daemon) => return daemon,
            Err(error) => tracing::warn!("waiting for the daemon: {error}"),
        }
    }
}

/// Asks the daemon about itself.
async fn about(daemon: &Daemon) -> Result<About, String> {
    let ask = async {
        let info = daemon.info().await?;
        let workers = daemon.workers().await?;
        let snapshotter = workers.into_iter().map(|worker| worker.snapshotter).find(|name| !name.is_empty());
        Ok::<_, BuildError>(About { version: info.version, snapshotter })
    };
    match tokio::time::timeout(ANSWER_WITHIN, ask).await {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no answer within {} s", ANSWER_WITHIN.as_secs())),
    }
}

/// Tells whether the daemon answers, whenever that changes, until `stop`. `doubt` makes it ask at once, and its answer
/// is told then in any case: who doubts has told that the daemon is gone.
pub async fn watch(
    daemon: Daemon,
    doubt: &Notify,
    events: &mpsc::UnboundedSender<Event>,
    mut on_change: impl FnMut(Option<&About>),
    stop: CancellationToken,
) {
    let mut known: Option<bool> = None;
    loop {
        let answer = tokio::select! {
            answer = about(&daemon) => answer,
            () = stop.cancelled() => return,
        };
        if known != Some(answer.is_ok()) {
            match &answer {
                Ok(about) => tracing::info!(version = about.version, snapshotter = about.snapshotter, "daemon answers"),
                Err(error) => tracing::warn!("daemon: {error}"),
            }
            if let Ok(about) = &answer {
                // Before it is said that the daemon answers: nothing is to be started by one that is too old.
                let supported = buildkit::support(&about.version) != Support::TooOld;
                if !supported {
                    tracing::error!(
                        version = about.version,
                        minimum = %buildkit::MINIMUM,
                        "this BuildKit is too old: the member takes no builds; correct spec.buildkit.image of the pool"
                    );
                }
                let _ = events.send(Event::Supported(supported));
            }
            on_change(answer.as_ref().ok());
            let _ = events.send(Event::Daemon(answer.is_ok()));
        }
        known = Some(answer.is_ok());
        let pause = if answer.is_ok() { CHECK_EVERY } else { RETRY_EVERY };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = doubt.notified() => known = None,
            () = stop.cancelled() => return,
        }
    }
}
