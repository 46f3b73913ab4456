//! A build's result as the API says it.

use std::time::Duration;

use buildpools_buildkit::{Build, BuildError, Context, Dockerfile, ErrorKind, Output};
use buildpools_crds::conditions::truncate;
use buildpools_crds::lifecycle::Outcome;
use buildpools_crds::v1alpha1::{BuildJob, BuiltImage, Failure, FailureReason, SourceLocation};

use crate::visible;

/// Path of the Dockerfile when the job names none.
const DEFAULT_DOCKERFILE: &str = "Dockerfile";

// The limits of the schema (crds `job_status.rs`): what is longer would be refused, and the outcome lost.
const MESSAGE_MAX: usize = 4096;
const STEP_MAX: usize = 1024;
const FILE_MAX: usize = 255;
const LOG_LINES_MAX: usize = 20;
const LOG_LINE_MAX: usize = 512;

/// What the job asks for, as the daemon's client takes it.
pub fn build(job: &BuildJob, reference: String) -> Result<Build, Failure> {
    let spec = &job.spec;
    let context = match (&spec.context.git, &spec.context.inline) {
        (Some(git), None) => {
            Context::Git { url: git.url.clone(), reference: git.reference.clone(), subdir: git.path.clone() }
        }
        (None, Some(inline)) => Context::Inline(
            inline.files.iter().map(|file| (file.path.clone(), file.content.clone().into_bytes())).collect(),
        ),
        // The API server refuses such a job; without its rule it must not become another build than meant.
        _ => return Err(failure(FailureReason::Internal, "spec.context must have exactly one of git and inline")),
    };
    let dockerfile = match (&spec.dockerfile.inline, &spec.dockerfile.path) {
        (Some(text), _) => Dockerfile::Inline(text.clone()),
        (None, path) => Dockerfile::Path(path.clone().unwrap_or_else(|| DEFAULT_DOCKERFILE.to_owned())),
    };
    let output = spec.output.image.as_ref().map(|image| Output { names: image.names.clone(), push: image.push });
    let build_args = spec.args.clone();
    Ok(Build { reference, context, dockerfile, target: spec.target.clone(), build_args, output })
}

/// A build that ended well, with the digest that the daemon names.
pub fn succeeded(job: &BuildJob, digest: Option<String>) -> Outcome {
    let Some(output) = &job.spec.output.image else { return Outcome::Succeeded(None) };
    let Some(digest) = digest else {
        return Outcome::Failed(failure(
            FailureReason::Internal,
            "the build succeeded, but the daemon did not say which digest the image has",
        ));
    };
    let names = if output.push { output.names.clone() } else { Vec::new() };
    Outcome::Succeeded(Some(BuiltImage { digest, names }))
}

/// A build that failed.
pub fn failed(error: &BuildError) -> Outcome {
    let failure = Failure {
        reason: reason(error.kind),
        message: error.message.clone(),
        step: error.step.clone(),
        location: error.location.as_ref().map(|location| SourceLocation {
            file: location.file.clone(),
            line: i32::try_from(location.line).unwrap_or(i32::MAX),
        }),
        exit_code: error.exit_code,
        log_tail: error.log_tail.clone(),
    };
    Outcome::Failed(fit(failure))
}

/// A build that was stopped at its timeout.
pub fn timed_out(limit: Duration, field: &str, step: Option<String>) -> Outcome {
    let limit = kube::core::Duration::from(limit);
    let what = step.as_ref().map_or_else(String::new, |step| format!(" It was at {step}."));
    let message = format!("the build was stopped after {limit:?}, the time that {field} allows.{what}");
    Outcome::Failed(fit(Failure { step, ..failure(FailureReason::Timeout, &message) }))
}

/// A failure that is no build's, with nothing but its reason and message.
pub fn failure(reason: FailureReason, message: &str) -> Failure {
    let message = truncate(&visible::text(message), MESSAGE_MAX);
    Failure { reason, message, step: None, location: None, exit_code: None, log_tail: Vec::new() }
}

/// The same outcome with as little as it can have, for an API server that refuses the whole.
pub fn reduced(outcome: &Outcome) -> Outcome {
    match outcome {
        Outcome::Succeeded(_) | Outcome::Cancelled | Outcome::PoolDeleted(_) => outcome.clone(),
        Outcome::Failed(full) => {
            let plain: String = full.message.chars().filter(|c| !c.is_control()).collect();
            Outcome::Failed(failure(full.reason, &truncate(&plain, 256)))
        }
    }
}

/// One line about the outcome, for the job's log.
pub fn line(outcome: &Outcome, took: Duration) -> String {
    let seconds = took.as_secs_f64();
    match outcome {
        Outcome::Succeeded(None) => format!("succeeded in {seconds:.1} s"),
        Outcome::Succeeded(Some(image)) => match image.names.first() {
            Some(name) => format!("succeeded: {name}@{} in {seconds:.1} s", image.digest),
            None => format!("succeeded: {} (not pushed) in {seconds:.1} s", image.digest),
        },
        Outcome::Cancelled => format!("cancelled after {seconds:.1} s"),
        Outcome::PoolDeleted(pool) => format!("cancelled after {seconds:.1} s: BuildPool {pool} is deleted"),
        Outcome::Failed(failure) => {
            let message = failure.message.lines().collect::<Vec<_>>().join(" ");
            format!("failed: {}: {message}", failure.reason.as_str())
        }
    }
}

fn reason(kind: ErrorKind) -> FailureReason {
    match kind {
        ErrorKind::BuildStepFailed => FailureReason::BuildStepFailed,
        ErrorKind::DockerfileInvalid => FailureReason::DockerfileInvalid,
        ErrorKind::ContextNotFound => FailureReason::ContextNotFound,
        ErrorKind::ContextAccessDenied => FailureReason::ContextAccessDenied,
        ErrorKind::ContextFetchFailed => FailureReason::ContextFetchFailed,
        ErrorKind::RegistryAuthRequired => FailureReason::RegistryAuthRequired,
        ErrorKind::RegistryAccessDenied => FailureReason::RegistryAccessDenied,
        ErrorKind::RegistryUnavailable => FailureReason::RegistryUnavailable,
        ErrorKind::RegistryRateLimited => FailureReason::RegistryRateLimited,
        ErrorKind::CrossRepositoryMountDenied => FailureReason::CrossRepositoryMountDenied,
        ErrorKind::ImageNotFound => FailureReason::ImageNotFound,
        ErrorKind::CertificateUntrusted => FailureReason::CertificateUntrusted,
        ErrorKind::OutOfMemory => FailureReason::OutOfMemory,
        ErrorKind::DiskFull => FailureReason::DiskFull,
        // This runner has cancelled nothing when it gets to see an error: the daemon gave up, because it stops.
        ErrorKind::DaemonLost | ErrorKind::Cancelled => FailureReason::DaemonLost,
        ErrorKind::Internal => FailureReason::Internal,
    }
}

fn fit(failure: Failure) -> Failure {
    let skip = failure.log_tail.len().saturating_sub(LOG_LINES_MAX);
    Failure {
        reason: failure.reason,
        message: truncate(&visible::text(&failure.message), MESSAGE_MAX),
        step: failure.step.map(|step| truncate(&visible::text(&step), STEP_MAX)),
        location: failure
            .location
            .map(|place| SourceLocation { file: truncate(&visible::text(&place.file), FILE_MAX), line: place.line }),
        exit_code: failure.exit_code,
        log_tail: failure.log_tail.iter().skip(skip).map(|line| truncate(&visible::text(line), LOG_LINE_MAX)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use buildpools_crds::v1alpha1::{GitContext, ImageOutput, InlineContext, InlineFile};

    fn job() -> BuildJob {
        let mut job = BuildJob::default();
        job.spec.context.git = Some(GitContext {
            url: "https://git.test/app.git".into(),
            reference: Some("main".into()),
            path: Some("web".into()),
        });
        job.spec.output.image = Some(ImageOutput { names: vec!["r.test/app:1".into()], push: true });
        job
    }

    #[test]
    fn every_part_of_the_job_reaches_the_build() {
        let mut job = job();
        job.spec.target = Some("release".into());
        job.spec.args = [("VERSION".to_owned(), "1".to_owned())].into();
        job.spec.dockerfile.path = Some("docker/Dockerfile".into());
        let build = build(&job, "uid-1".into()).unwrap();
        assert_eq!(build.reference, "uid-1");
        assert_eq!(build.target.as_deref(), Some("release"));
        assert_eq!(build.build_args["VERSION"], "1");
        assert!(matches!(build.dockerfile, Dockerfile::Path(path) if path == "docker/Dockerfile"));
        let output = build.output.unwrap();
        assert_eq!((output.names.as_slice(), output.push), (["r.test/app:1".to_owned()].as_slice(), true));
        let Context::Git { url, reference, subdir } = build.context else { panic!("not git") };
        assert_eq!(
            (url.as_str(), reference.as_deref(), subdir.as_deref()),
            ("https://git.test/app.git", Some("main"), Some("web"))
        );
    }

    #[test]
    fn inline_files_and_dockerfile() {
        let mut job = job();
        job.spec.context.git = None;
        job.spec.context.inline =
            Some(InlineContext { files: vec![InlineFile { path: "a/b".into(), content: "text".into() }] });
        job.spec.dockerfile.inline = Some("FROM scratch".into());
        let build = build(&job, "r".into()).unwrap();
        assert!(matches!(build.context, Context::Inline(files) if files["a/b"] == b"text"));
        assert!(matches!(build.dockerfile, Dockerfile::Inline(text) if text == "FROM scratch"));
        job.spec.context.inline = None;
        assert_eq!(super::build(&job, "r".into()).unwrap_err().reason, FailureReason::Internal);
    }

    #[test]
    fn an_image_has_names_only_when_it_was_pushed() {
        let mut job = job();
        let digest = Some("sha256:1".to_owned());
        let Outcome::Succeeded(Some(image)) = succeeded(&job, digest.clone()) else { panic!("failed") };
        assert_eq!(image, BuiltImage { digest: "sha256:1".into(), names: vec!["r.test/app:1".into()] });
        job.spec.output.image.as_mut().unwrap().push = false;
        let Outcome::Succeeded(Some(image)) = succeeded(&job, digest.clone()) else { panic!("failed") };
        assert!(image.names.is_empty());
        job.spec.output.image = None;
        assert_eq!(succeeded(&job, digest), Outcome::Succeeded(None));
    }

    #[test]
    fn a_success_without_the_digest_of_its_image_is_a_fault() {
        let Outcome::Failed(failure) = succeeded(&job(), None) else { panic!("succeeded") };
        assert_eq!(failure.reason, FailureReason::Internal);
    }

    #[test]
    fn every_kind_of_error_has_the_reason_of_its_name() {
        for kind in ErrorKind::ALL {
            let expected = if kind == ErrorKind::Cancelled { "DaemonLost" } else { kind.as_str() };
            assert_eq!(reason(kind).as_str(), expected);
        }
    }

    #[test]
    fn a_failure_fits_the_schema() {
        let error = BuildError {
            kind: ErrorKind::BuildStepFailed,
            message: "m".repeat(10_000),
            step: Some("s".repeat(2000)),
            location: Some(buildpools_buildkit::Location { file: "f".repeat(300), line: u32::MAX }),
            exit_code: Some(7),
            log_tail: (0..30).map(|line| format!("{line} {}", "l".repeat(600))).collect(),
            image: None,
        };
        let Outcome::Failed(failure) = failed(&error) else { panic!("succeeded") };
        assert!(failure.message.len() <= 4096);
        assert!(failure.step.unwrap().len() <= 1024);
        let location = failure.location.unwrap();
        assert!(location.file.len() <= 255 && location.line == i32::MAX);
        assert_eq!(failure.log_tail.len(), 20);
        assert!(failure.log_tail[19].starts_with("29 ") && failure.log_tail.iter().all(|line| line.len() <= 512));
        assert_eq!(failure.exit_code, Some(7));
    }

    #[test]
    fn a_timeout_names_the_field_and_the_step() {
        let outcome = timed_out(Duration::from_secs(90), "spec.timeout", Some("[2/3] RUN make".into()));
        let Outcome::Failed(failure) = outcome else { panic!("succeeded") };
        assert_eq!(failure.reason, FailureReason::Timeout);
        assert_eq!(
            failure.message,
            "the build was stopped after 90s, the time that spec.timeout allows. It was at [2/3] RUN make."
        );
    }

    #[test]
    fn the_last_line_of_a_log() {
        let took = Duration::from_millis(12_340);
        assert_eq!(
            line(&succeeded(&job(), Some("sha256:1".into())), took),
            "succeeded: r.test/app:1@sha256:1 in 12.3 s"
        );
        assert_eq!(line(&Outcome::Succeeded(None), took), "succeeded in 12.3 s");
        let failure = failure(FailureReason::BuildStepFailed, "first\nsecond");
        assert_eq!(line(&Outcome::Failed(failure), took), "failed: BuildStepFailed: first second");
    }
}
