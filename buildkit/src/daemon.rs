//! The connection to a buildkitd.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bollard_buildkit_proto::moby::buildkit::v1::control_client::ControlClient;
use bollard_buildkit_proto::moby::buildkit::v1::{InfoRequest, ListWorkersRequest};
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};

use crate::error::{BuildError, ErrorKind};

/// Errors carry the whole Dockerfile in a trailer: with the default limit a 22 KB Dockerfile loses all details.
const MAX_HEADERS: u32 = 4 << 20;
/// The daemon's own limit of a message.
const MAX_MESSAGE: usize = 16 << 20;
/// How often a daemon that is starting is asked again.
const RETRY: Duration = Duration::from_millis(20);
/// How long a daemon that accepts a connection may take to answer a small call while it starts.
const ANSWER: Duration = Duration::from_secs(5);

/// A buildkitd behind a unix socket. Cheap to clone. Small calls share one connection; every build dials its own,
/// because streams of one connection wait for each other.
#[derive(Clone, Debug)]
pub struct Daemon {
    socket: PathBuf,
    channel: Channel,
}

/// What a daemon says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// Such as `v0.33.1`.
    pub version: String,
    /// The commit.
    pub revision: String,
}

/// A worker of a daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Worker {
    /// The worker's id.
    pub id: String,
    /// Such as `overlayfs`; empty when the worker does not say.
    pub snapshotter: String,
    /// Such as `linux/amd64`.
    pub platforms: Vec<String>,
}

impl Daemon {
    /// Connects once.
    pub async fn connect(socket: impl AsRef<Path>) -> Result<Self, BuildError> {
        let socket = socket.as_ref().to_owned();
        let channel = dial(&socket).await?;
        Ok(Self { socket, channel })
    }

    /// Connects again and again until the daemon answers, which may still be starting, or the deadline has passed.
    pub async fn connect_until(socket: impl AsRef<Path>, deadline: Instant) -> Result<Self, BuildError> {
        let attempt = async || {
            let daemon = Self::connect(socket.as_ref()).await?;
            match tokio::time::timeout(ANSWER, daemon.info()).await {
                Ok(info) => info.map(|_| daemon),
                Err(_) => {
                    Err(BuildError::new(ErrorKind::DaemonLost, "buildkitd accepts connections but does not answer"))
                }
            }
        };
        let mut last = None;
        loop {
            match tokio::time::timeout_at(deadline, attempt()).await {
                Ok(Ok(daemon)) => return Ok(daemon),
                Ok(Err(error)) => last = Some(error),
                Err(_) => {}
            }
            if Instant::now() + RETRY >= deadline {
                let silent = || BuildError::new(ErrorKind::DaemonLost, "buildkitd did not answer in time");
                return Err(last.unwrap_or_else(silent));
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// The daemon's version.
    pub async fn info(&self) -> Result<Info, BuildError> {
        let response =
            self.control().info(InfoRequest {}).await.map_err(|status| BuildError::from_call("Info", &status))?;
        let version = response.into_inner().buildkit_version.unwrap_or_default();
        Ok(Info { version: version.version, revision: version.revision })
    }

    /// The daemon's workers.
    pub async fn workers(&self) -> Result<Vec<Worker>, BuildError> {
        let response = self.control().list_workers(ListWorkersRequest::default()).await;
        let response = response.map_err(|status| BuildError::from_call("ListWorkers", &status))?;
        Ok(response.into_inner().record.into_iter().map(Worker::from_record).collect())
    }

    /// A connection of its own.
    pub(crate) async fn dial(&self) -> Result<Channel, BuildError> {
        dial(&self.socket).await
    }

    /// The shared connection.
    pub(crate) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    pub(crate) fn control(&self) -> ControlClient<Channel> {
        control(self.channel())
    }
}

impl Worker {
    fn from_record(record: bollard_buildkit_proto::moby::buildkit::v1::types::WorkerRecord) -> Self {
        let snapshotter = record.labels.get("org.mobyproject.buildkit.worker.snapshotter").cloned().unwrap_or_default();
        let platforms = record.platforms.into_iter().map(|platform| {
            let mut name = format!("{}/{}", platform.os, platform.architecture);
            if !platform.variant.is_empty() {
                name.push('/');
                name.push_str(&platform.variant);
            }
            name
        });
        Self { id: record.id, snapshotter, platforms: platforms.collect() }
    }
}

pub(crate) fn control(channel: Channel) -> ControlClient<Channel> {
    ControlClient::new(channel).max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_MESSAGE)
}

async fn dial(socket: &Path) -> Result<Channel, BuildError> {
    let lost = |reason: &dyn std::fmt::Display| {
        let text = format!("buildkitd does not answer at {}: {reason}", socket.display());
        BuildError::new(ErrorKind::DaemonLost, text)
    };
    let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display())).map_err(|error| lost(&error))?;
    let endpoint = endpoint.http2_max_header_list_size(MAX_HEADERS);
    endpoint.connect().await.map_err(|error| {
        let mut cause: &dyn std::error::Error = &error;
        while let Some(next) = cause.source() {
            cause = next;
        }
        lost(&cause)
    })
}
