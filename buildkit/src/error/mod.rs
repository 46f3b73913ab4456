//! What goes wrong in a build, as types.

pub(crate) mod classify;
mod details;
mod patterns;

use std::fmt;

pub(crate) use details::Details;

/// Why a build failed. The names are the failure reasons that users see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// A RUN step ended with an exit code other than 0.
    BuildStepFailed,
    /// The Dockerfile, or what it asks for, cannot be built.
    DockerfileInvalid,
    /// The context, its ref or a file in it does not exist.
    ContextNotFound,
    /// The server that holds the context wants a login, or another one.
    ContextAccessDenied,
    /// The context could not be fetched for another reason, such as the network.
    ContextFetchFailed,
    /// The registry wants a login and there is no credential for the repository.
    RegistryAuthRequired,
    /// The registry or its token server refused the credential.
    RegistryAccessDenied,
    /// The registry or its token server does not answer or answers with an error of its own.
    RegistryUnavailable,
    /// The registry or its token server limits how often it is asked.
    RegistryRateLimited,
    /// The registry refused to link a layer from another repository.
    CrossRepositoryMountDenied,
    /// An image that the build needs does not exist.
    ImageNotFound,
    /// A server's certificate is not trusted.
    CertificateUntrusted,
    /// The memory limit was reached.
    OutOfMemory,
    /// The cache volume is full.
    DiskFull,
    /// The connection to the daemon ended.
    DaemonLost,
    /// The build was cancelled.
    Cancelled,
    /// Anything else.
    Internal,
}

impl ErrorKind {
    /// Every kind.
    pub const ALL: [Self; 17] = [
        Self::BuildStepFailed,
        Self::DockerfileInvalid,
        Self::ContextNotFound,
        Self::ContextAccessDenied,
        Self::ContextFetchFailed,
        Self::RegistryAuthRequired,
        Self::RegistryAccessDenied,
        Self::RegistryUnavailable,
        Self::RegistryRateLimited,
        Self::CrossRepositoryMountDenied,
        Self::ImageNotFound,
        Self::CertificateUntrusted,
        Self::OutOfMemory,
        Self::DiskFull,
        Self::DaemonLost,
        Self::Cancelled,
        Self::Internal,
    ];

    /// The failure reason.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BuildStepFailed => "BuildStepFailed",
            Self::DockerfileInvalid => "DockerfileInvalid",
            Self::ContextNotFound => "ContextNotFound",
            Self::ContextAccessDenied => "ContextAccessDenied",
            Self::ContextFetchFailed => "ContextFetchFailed",
            Self::RegistryAuthRequired => "RegistryAuthRequired",
            Self::RegistryAccessDenied => "RegistryAccessDenied",
            Self::RegistryUnavailable => "RegistryUnavailable",
            Self::RegistryRateLimited => "RegistryRateLimited",
            Self::CrossRepositoryMountDenied => "CrossRepositoryMountDenied",
            Self::ImageNotFound => "ImageNotFound",
            Self::CertificateUntrusted => "CertificateUntrusted",
            Self::OutOfMemory => "OutOfMemory",
            Self::DiskFull => "DiskFull",
            Self::DaemonLost => "DaemonLost",
            Self::Cancelled => "Cancelled",
            Self::Internal => "Internal",
        }
    }

    /// Whether another attempt may end differently without anybody changing anything.
    pub fn is_infrastructure(self) -> bool {
        matches!(
            self,
            Self::ContextFetchFailed | Self::RegistryUnavailable | Self::RegistryRateLimited | Self::DaemonLost
        )
    }

    pub(crate) fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A place in a Dockerfile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// The Dockerfile's path as the build named it.
    pub file: String,
    /// The line, from 1.
    pub line: u32,
}

/// A repository in a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageRepository {
    /// The registry, as `host` or `host:port`.
    pub registry: String,
    /// The repository, without tag; empty when only the registry is known.
    pub repository: String,
}

impl fmt::Display for ImageRepository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.registry)?;
        if !self.repository.is_empty() {
            write!(f, "/{}", self.repository)?;
        }
        Ok(())
    }
}

/// Why a build, or a question to the daemon, failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct BuildError {
    /// The reason.
    pub kind: ErrorKind,
    /// What happened, where, and what to do. Holds no secret.
    pub message: String,
    /// The step that failed, as progress names it: `[2/3] RUN make`.
    pub step: Option<String>,
    /// The line of the Dockerfile.
    pub location: Option<Location>,
    /// The exit code of a RUN step.
    pub exit_code: Option<i32>,
    /// The last lines that the failed step wrote, oldest first.
    pub log_tail: Vec<String>,
    /// The repository, when the failure is about a registry.
    pub image: Option<ImageRepository>,
}

impl BuildError {
    /// An error of which nothing but kind and message is known.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            step: None,
            location: None,
            exit_code: None,
            log_tail: Vec::new(),
            image: None,
        }
    }

    /// A failed call that is no build, such as `Info`.
    pub(crate) fn from_call(call: &str, status: &tonic::Status) -> Self {
        if details::is_connection_loss(status) {
            Self::new(
                ErrorKind::DaemonLost,
                format!("the connection to buildkitd ended during {call}: {}", status.message()),
            )
        } else {
            Self::new(ErrorKind::Internal, format!("buildkitd refused {call}: {}", status.message()))
        }
    }
}
