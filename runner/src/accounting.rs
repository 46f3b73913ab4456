//! What became of an attempt that no task of this process runs: the daemon's history knows, because the Ref of an
//! attempt is used once.
//!
//! A build cannot outlive the process that asked for it (its session is gone), so it can be accounted for, and never
//! adopted. The daemon says "context canceled" both when a client goes away and when a user cancels; nobody here
//! cancels and then accounts, so it means that the process was lost, or, if the job is to be cancelled, that it is.

use std::time::Duration;

use buildpools_buildkit::{BuildError, ErrorKind, HistoryRecord, HistoryState};
use buildpools_crds::lifecycle::Outcome;
use buildpools_crds::v1alpha1::{BuildJob, FailureReason};

use tokio::time::error::Elapsed;

use crate::daemon::Builder;
use crate::outcome;

/// How often a build that has not ended yet, or a daemon that does not answer, is asked for again.
const ASK_EVERY: Duration = Duration::from_millis(100);
/// When it is said that a build whose client is gone still runs: it should end within a tenth of a second.
const STRANGE_AFTER: u32 = 100;

/// How long the daemon may take to end a build that was stopped.
const END_WITHIN: Duration = Duration::from_secs(5);

/// Waits until the daemon has ended a build that was stopped, so that nothing is said, and no slot given away, while
/// its steps still run. `Err` when it has not within five seconds: a stop must not depend on a daemon that hangs.
pub async fn ended(builder: &impl Builder, reference: &str) -> Result<Option<HistoryState>, Elapsed> {
    let ask = async {
        loop {
            match builder.history(reference).await {
                Ok(Some(HistoryRecord { state: HistoryState::Active, .. })) | Err(_) => {}
                Ok(record) => return record.map(|record| record.state),
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
    };
    tokio::time::timeout(END_WITHIN, ask).await
}

/// Waits until the daemon has ended a build to which the connection broke, or does not answer either, and so is gone with
/// it: another attempt may follow at once, and must not meet this one.
pub async fn cut_off(builder: &impl Builder, reference: &str) {
    while let Ok(Some(HistoryRecord { state: HistoryState::Active, .. })) = builder.history(reference).await {
        tokio::time::sleep(ASK_EVERY).await;
    }
}

/// How the attempt with this Ref ended. Returns when the daemon has answered and the build is over, however long that
/// takes: until then, nothing may be said about the attempt. `cause` says why its process does not know.
pub async fn account(builder: &impl Builder, job: &BuildJob, reference: &str, cause: &str) -> Outcome {
    let mut round = 0_u32;
    loop {
        round = round.saturating_add(1);
        match builder.history(reference).await {
            Ok(record) => {
                if let Some(outcome) = judge(job, record, cause) {
                    return outcome;
                }
                if round == STRANGE_AFTER {
                    tracing::warn!(
                        reference,
                        "the daemon still runs a build whose client is gone; waiting for its end"
                    );
                }
            }
            Err(error) if round % STRANGE_AFTER == 1 => {
                tracing::warn!(reference, "cannot read the daemon's history: {error}");
            }
            Err(_) => {}
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

/// `None` while the build runs.
fn judge(job: &BuildJob, record: Option<HistoryRecord>, cause: &str) -> Option<Outcome> {
    let lost = |reason, what: &str| Some(Outcome::Failed(outcome::failure(reason, &format!("{cause}; {what}"))));
    let Some(record) = record else {
        return lost(
            FailureReason::DaemonLost,
            "the daemon has no record of the build: it was restarted too, or never got it",
        );
    };
    match record.state {
        HistoryState::Active => None,
        HistoryState::Cancelled if job.spec.cancel => Some(Outcome::Cancelled),
        HistoryState::Cancelled => lost(FailureReason::RunnerLost, "the build ended with it"),
        HistoryState::Failed(error) if job.spec.cancel && was_cut_off(&error) => Some(Outcome::Cancelled),
        HistoryState::Failed(error) if was_cut_off(&error) => {
            lost(FailureReason::RunnerLost, &format!("the build ended with it ({})", error.message))
        }
        HistoryState::Failed(error) => Some(outcome::failed(&error)),
        HistoryState::Succeeded { digest: None } if job.spec.output.image.is_some() => {
            lost(FailureReason::RunnerLost, "the daemon's record of the build has no digest")
        }
        HistoryState::Succeeded { digest } => Some(outcome::succeeded(job, digest)),
    }
}

/// Whether the failure may be nothing but the client's disappearance: a step that needed the session fails in its own
/// words. A step's exit code or a Dockerfile's fault cannot come from that.
fn was_cut_off(error: &BuildError) -> bool {
    let traces = ["context canceled", "session", "connection", "transport", "EOF"];
    match error.kind {
        ErrorKind::Cancelled | ErrorKind::DaemonLost => true,
        ErrorKind::DockerfileInvalid | ErrorKind::BuildStepFailed => error.message.contains("context canceled"),
        _ => traces.iter().any(|trace| error.message.contains(trace)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use buildpools_crds::v1alpha1::ImageOutput;

    fn reason(state: Option<HistoryState>, cancel: bool) -> Option<&'static str> {
        let mut job = BuildJob::default();
        job.spec.cancel = cancel;
        job.spec.output.image = Some(ImageOutput { names: vec!["r.test/app:1".into()], push: true });
        let record =
            state.map(|state| HistoryRecord { created_at: jiff::Timestamp::UNIX_EPOCH, completed_at: None, state });
        judge(&job, record, "the runner was restarted").map(|outcome| match outcome {
            Outcome::Succeeded(image) => {
                assert_eq!(image.unwrap().digest, "sha256:1");
                "Succeeded"
            }
            Outcome::Failed(failure) => failure.reason.as_str(),
            Outcome::Cancelled | Outcome::PoolDeleted(_) => "Cancelled",
        })
    }

    fn is_without_digest(state: Option<&HistoryState>) -> bool {
        matches!(state, Some(HistoryState::Succeeded { digest: None }))
    }

    #[test]
    fn what_the_history_means() {
        let failed = |kind, message| Some(HistoryState::Failed(Box::new(BuildError::new(kind, message))));
        for (state, expected) in [
            (None, Some("DaemonLost")),
            (Some(HistoryState::Active), None),
            (Some(HistoryState::Cancelled), Some("RunnerLost")),
            (Some(HistoryState::Succeeded { digest: Some("sha256:1".into()) }), Some("Succeeded")),
            (Some(HistoryState::Succeeded { digest: None }), Some("RunnerLost")),
            (failed(ErrorKind::BuildStepFailed, "exit code: 7"), Some("BuildStepFailed")),
            (failed(ErrorKind::Cancelled, "the build was cancelled"), Some("RunnerLost")),
            (failed(ErrorKind::OutOfMemory, "RUN make was killed (exit code 137)"), Some("OutOfMemory")),
            (failed(ErrorKind::RegistryAccessDenied, "403 Forbidden"), Some("RegistryAccessDenied")),
            (failed(ErrorKind::Internal, "no active session for abc"), Some("RunnerLost")),
            (failed(ErrorKind::Internal, "boom"), Some("Internal")),
        ] {
            assert_eq!(reason(state.clone(), false), expected, "{state:?}");
            // What was only cut off was cancelled, if that was wanted; everything else is what it is.
            let expected = if expected == Some("RunnerLost") && !is_without_digest(state.as_ref()) {
                Some("Cancelled")
            } else {
                expected
            };
            assert_eq!(reason(state.clone(), true), expected, "to be cancelled: {state:?}");
        }
    }
}
