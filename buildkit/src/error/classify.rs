//! From what the daemon said to what the user is told.

use tonic::Code;

use super::patterns::{self, Meaning};
use super::{BuildError, Details, ErrorKind, ImageRepository};
use crate::build::Context;
use crate::credentials::Credentials;
use crate::secret::Scrubber;
use crate::token::{self, AuthProblem};

/// The most that is shown of the daemon's words.
const SHOWN: usize = 1500;

/// What else is known when a build has failed.
#[derive(Debug, Default)]
pub(crate) struct Clues<'a> {
    /// The failed step's name and its last lines.
    pub(crate) step: Option<String>,
    pub(crate) log_tail: Vec<String>,
    /// Problems with credentials in this build's session, the oldest first.
    pub(crate) auth: Vec<AuthProblem>,
    /// Repositories for which a token was handed out that also allows mounting a foreign layer: (to, from).
    pub(crate) mounts: Vec<(ImageRepository, String)>,
    /// None when the build was another process's, as in the history.
    pub(crate) credentials: Option<&'a Credentials>,
    pub(crate) context: Option<&'a Context>,
    pub(crate) scrubber: Scrubber,
}

/// Makes the user's error.
pub(crate) fn classify(details: &Details, clues: Clues<'_>) -> BuildError {
    let mut error = BuildError::new(ErrorKind::Internal, String::new());
    error.location.clone_from(&details.location);
    error.exit_code = details.exit_code.or_else(|| patterns::exit_code(&details.message));
    decide(details, &clues, &mut error);
    error.message = clues.scrubber.scrub(&error.message);
    error.step = clues.step;
    error.log_tail = clues.log_tail;
    error
}

fn decide(details: &Details, clues: &Clues<'_>, error: &mut BuildError) {
    let text = details.message.as_str();
    if details.connection_lost {
        error.kind = ErrorKind::DaemonLost;
        error.message =
            format!("the connection to buildkitd ended during the build ({text}); the daemon was stopped or killed");
        return;
    }
    let cancelled = details.is(Code::Cancelled) || text.ends_with("context canceled");
    // A step that the daemon killed because its build was cancelled ended by SIGKILL too.
    if cancelled {
        error.exit_code = None;
    }
    if let Some(code) = error.exit_code {
        failed_process(code, details, clues, error);
        return;
    }
    if let Some(problem) = token::from_error_text(text) {
        registry_problem(problem, error);
        return;
    }
    if cancelled {
        error.kind = ErrorKind::Cancelled;
        "the build was cancelled".clone_into(&mut error.message);
        return;
    }
    if text.contains("no active session for") {
        error.kind = ErrorKind::DaemonLost;
        error.message = format!("the daemon lost the session of the build: {}", shown(text));
        return;
    }
    let image = patterns::image(text);
    error.kind = match patterns::meaning(text) {
        Some(Meaning::Kind(kind)) => kind,
        Some(Meaning::RegistryRefused) => {
            // The session may know more than the text does.
            if let Some(problem) = clues.auth.iter().find(|problem| about(problem, image.as_ref())) {
                registry_problem(problem.clone(), error);
                return;
            }
            refusal(text, image.as_ref(), clues)
        }
        Some(Meaning::Network) if image.is_some() || text.contains("failed to push") => ErrorKind::RegistryUnavailable,
        Some(Meaning::Network) => ErrorKind::ContextFetchFailed,
        // The frontend points at a line although no step has run: it does not accept what the line says.
        None if details.location.is_some() && details.vertex.is_none() => ErrorKind::DockerfileInvalid,
        None => ErrorKind::Internal,
    };
    error.message = message(error, text, image.as_ref(), clues);
    if is_about_registry(error.kind) {
        error.image = image;
    }
}

/// A process that ran as a step ended with a code other than 0.
fn failed_process(code: i32, details: &Details, clues: &Clues<'_>, error: &mut BuildError) {
    let step = clues.step.as_deref().unwrap_or("a step");
    let place = place(error);
    let disk_full = clues.log_tail.iter().any(|line| line.to_lowercase().contains("no space left on device"));
    // 137 is SIGKILL: the kernel's way to end a process for memory, unless the step itself kills.
    let killed = code == 137 && !step.contains("kill");
    let out_of_memory = details.is(Code::ResourceExhausted) || details.message.contains("cannot allocate memory");
    (error.kind, error.message) = if disk_full {
        (
            ErrorKind::DiskFull,
            format!(
                "{step} failed with exit code {code}{place}: no space left on the member's cache volume; make it larger or let it keep less"
            ),
        )
    } else if killed || out_of_memory {
        (
            ErrorKind::OutOfMemory,
            format!(
                "{step} was killed (exit code {code}){place}, probably at the memory limit of the pool's members; raise it or build with less parallelism"
            ),
        )
    } else {
        (ErrorKind::BuildStepFailed, format!("{step} failed with exit code {code}{place}"))
    };
}

fn registry_problem(problem: AuthProblem, error: &mut BuildError) {
    error.kind = problem.kind;
    error.message = problem.text;
    error.image = Some(problem.image);
}

fn about(problem: &AuthProblem, image: Option<&ImageRepository>) -> bool {
    image.is_none_or(|image| {
        image.registry == problem.image.registry
            && (problem.image.repository.is_empty() || image.repository == problem.image.repository)
    })
}

/// A registry said no. Mount, missing credential or missing right?
fn refusal(text: &str, image: Option<&ImageRepository>, clues: &Clues<'_>) -> ErrorKind {
    if let Some(image) = image {
        if patterns::may_be_mount(text) && clues.mounts.iter().any(|(to, _)| to == image) {
            return ErrorKind::CrossRepositoryMountDenied;
        }
        let has_credential = |credentials: &Credentials| credentials.find(&image.registry, &image.repository).is_some();
        if clues.credentials.is_some_and(|credentials| !has_credential(credentials)) {
            return ErrorKind::RegistryAuthRequired;
        }
    }
    ErrorKind::RegistryAccessDenied
}

fn is_about_registry(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::RegistryAuthRequired
            | ErrorKind::RegistryAccessDenied
            | ErrorKind::RegistryUnavailable
            | ErrorKind::RegistryRateLimited
            | ErrorKind::CrossRepositoryMountDenied
            | ErrorKind::ImageNotFound
            | ErrorKind::CertificateUntrusted
    )
}

/// ` (Dockerfile:3)`
fn place(error: &BuildError) -> String {
    error.location.as_ref().map(|location| format!(" ({}:{})", location.file, location.line)).unwrap_or_default()
}

fn message(error: &BuildError, text: &str, image: Option<&ImageRepository>, clues: &Clues<'_>) -> String {
    let image = image.map_or_else(|| "the registry".to_owned(), ToString::to_string);
    let context = match clues.context {
        Some(Context::Git { url, .. }) => url.as_str(),
        _ => "the context",
    };
    let place = place(error);
    let text = shown(text);
    match error.kind {
        ErrorKind::RegistryAuthRequired => {
            format!(
                "{image} wants a login and the pool has no credential for it{place}: {text}; add one to the pool's credentials"
            )
        }
        ErrorKind::RegistryAccessDenied => {
            let used = clues
                .credentials
                .zip(error_image(&image))
                .and_then(|(credentials, of)| credentials.find(&of.registry, &of.repository));
            let used = used.map(|used| format!(" to the credential of {}", used.source)).unwrap_or_default();
            format!(
                "{image} refused access{used}{place}: {text}; check the credential's rights and that the repository exists"
            )
        }
        ErrorKind::RegistryUnavailable => format!("{image} cannot be reached or fails{place}: {text}"),
        ErrorKind::RegistryRateLimited => {
            format!("{image} limits requests{place}: {text}; use a credential or a mirror, or wait")
        }
        ErrorKind::CrossRepositoryMountDenied => {
            let from: Vec<&str> =
                clues.mounts.iter().filter(|(to, _)| to.to_string() == image).map(|(_, from)| from.as_str()).collect();
            let from = if from.is_empty() { "another repository".to_owned() } else { from.join(", ") };
            format!(
                "{image} refused to take a layer over from {from}{place}: {text}; give the credential pull rights there"
            )
        }
        ErrorKind::ImageNotFound => format!("{image} or its tag does not exist{place}: {text}"),
        ErrorKind::CertificateUntrusted => {
            format!(
                "a server's certificate is not trusted{place}: {text}; add its CA to the registry's entry in the pool"
            )
        }
        ErrorKind::ContextNotFound => format!("a part of {context} was not found{place}: {text}"),
        ErrorKind::ContextAccessDenied => {
            format!(
                "access to {context} was refused{place}: {text}; check that it exists and that the build may read it"
            )
        }
        ErrorKind::ContextFetchFailed => format!("{context} could not be fetched{place}: {text}"),
        ErrorKind::DockerfileInvalid => format!("the Dockerfile cannot be built{place}: {text}"),
        ErrorKind::DiskFull => {
            format!("the member's cache volume is full{place}: {text}; make it larger or let it keep less")
        }
        ErrorKind::OutOfMemory => format!("memory ran out{place}: {text}; raise the limit of the pool's members"),
        _ => format!("the build failed{place}: {text}"),
    }
}

fn error_image(image: &str) -> Option<ImageRepository> {
    patterns::parse_reference(image)
}

/// The daemon's words without the wrapping that says nothing, and not endless.
fn shown(text: &str) -> String {
    let text = text.trim().trim_start_matches("failed to solve: ");
    if text.len() <= SHOWN {
        return text.to_owned();
    }
    // The cause is at the end.
    let start = text.ceil_char_boundary(text.len() - SHOWN);
    format!("…{}", &text[start..])
}

#[cfg(test)]
#[path = "classify_tests.rs"]
mod tests;
