//! `Control.Session`: HTTP/2 in the frames of a bidirectional stream, with the server on the client's side.

use bollard_buildkit_proto::moby::buildkit::v1::BytesMessage;
use bollard_buildkit_proto::moby::buildkit::v1::control_client::ControlClient;
use futures::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::transport::server::Router;
use tonic::{Request, Status};

/// Bytes in one frame. Token requests and secrets (at most 500 KiB) are small.
const FRAME: usize = 64 << 10;
/// Frames under way in one direction.
const FRAMES: usize = 16;

/// A running tunnel. Dropping it ends it, and with it everything that it started.
#[derive(Debug)]
pub(super) struct Tunnel {
    task: Option<JoinHandle<Result<(), Status>>>,
}

impl Tunnel {
    /// Returns when the tunnel has ended.
    pub(super) async fn ended(&mut self) -> Option<Status> {
        let task = self.task.as_mut()?;
        let end = task.await;
        self.task = None;
        match end {
            Ok(end) => end.err(),
            Err(error) => Some(Status::internal(format!("the session's task failed: {error}"))),
        }
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// Opens the tunnel and serves the router through it.
pub(super) fn open(
    control: ControlClient<Channel>,
    id: &str,
    methods: &'static [&'static str],
    router: Router,
) -> Tunnel {
    let id = id.to_owned();
    Tunnel { task: Some(tokio::spawn(run(control, id, methods, router))) }
}

async fn run(
    mut control: ControlClient<Channel>,
    id: String,
    methods: &'static [&'static str],
    router: Router,
) -> Result<(), Status> {
    let (near, far) = tokio::io::duplex(FRAMES * FRAME);
    let (frames, outgoing) = mpsc::channel(FRAMES);
    let (from_server, mut to_server) = tokio::io::split(far);

    // Owned by this task: they end with it, however it ends.
    let mut helpers = JoinSet::new();
    // An accept loop that ends would shut the connection down, so it stays pending after the one connection.
    let incoming = futures::stream::iter([Ok::<_, std::io::Error>(near)]).chain(futures::stream::pending());
    helpers.spawn(async move {
        if let Err(error) = router.serve_with_incoming(incoming).await {
            tracing::debug!(%error, "the session's server ended");
        }
    });
    helpers.spawn(pump(from_server, frames));

    let mut request = Request::new(ReceiverStream::new(outgoing));
    let metadata = request.metadata_mut();
    let id = MetadataValue::try_from(id).map_err(|_| Status::internal("a session id that is no header"))?;
    metadata.insert("x-docker-expose-session-uuid", id);
    metadata.insert("x-docker-expose-session-sharedkey", MetadataValue::from_static(""));
    for method in methods {
        metadata.append("x-docker-expose-session-grpc-method", MetadataValue::from_static(method));
    }
    let mut incoming = control.session(request).await?.into_inner();
    while let Some(frame) = incoming.message().await? {
        if to_server.write_all(&frame.data).await.is_err() {
            return Err(Status::internal("the session's server closed its connection"));
        }
    }
    Ok(())
}

/// What the server writes goes out as frames, until either side ends.
async fn pump(mut from_server: tokio::io::ReadHalf<DuplexStream>, frames: mpsc::Sender<BytesMessage>) {
    let mut buffer = vec![0; FRAME];
    while let Ok(length) = from_server.read(&mut buffer).await {
        if length == 0 || frames.send(BytesMessage { data: buffer[..length].to_vec() }).await.is_err() {
            break;
        }
    }
}
