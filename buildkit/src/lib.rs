//! A BuildKit client that knows which credential belongs to which repository and says why a build failed.
//!
//! A [`Daemon`] is a buildkitd behind a unix socket. [`Daemon::build`] runs one [`Build`] with the credentials and
//! secrets of an [`Access`]: it opens a session, a small gRPC server that the daemon calls back, in which registry
//! passwords stay in this process and only tokens for single repositories go to the daemon. Progress comes as
//! [`Event`]s, failures as a [`BuildError`] with a closed list of [`ErrorKind`]s. [`Daemon::history`] tells what became
//! of a build whose client is gone.
//!
//! TLS uses rustls with ring; no process-wide default provider is needed.

mod build;
mod cache;
mod credentials;
mod daemon;
mod error;
mod history;
mod llb;
mod progress;
mod secret;
mod session;
mod solve;
mod token;
mod trust;

pub use build::{Build, BuildResult, Context, Dockerfile, Output};
pub use cache::Usage;
pub use credentials::{CredentialInfo, Credentials, Warning};
pub use daemon::{Daemon, Info, Worker};
pub use error::{BuildError, ErrorKind, ImageRepository, Location};
pub use history::{HistoryRecord, HistoryState};
pub use progress::{Event, EventKind, Step};
pub use secret::Secret;
pub use session::Access;
pub use trust::Trust;
