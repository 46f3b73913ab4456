//! What the daemon remembers about builds.

use bollard_buildkit_proto::google::protobuf::Timestamp;
use bollard_buildkit_proto::google::rpc;
use bollard_buildkit_proto::moby::buildkit::v1::{
    BuildHistoryEventType, BuildHistoryRecord, BuildHistoryRequest, Descriptor,
};
use prost::Message;
use tonic::transport::Channel;

use crate::daemon::Daemon;
use crate::error::classify::{Clues, classify};
use crate::error::{BuildError, Details, ErrorKind};
use crate::progress::Progress;
use crate::solve::follow;

/// The daemon's record of a build.
#[derive(Clone, Debug)]
pub struct HistoryRecord {
    /// When the daemon took the build on.
    pub created_at: jiff::Timestamp,
    /// When it ended; none while it is active.
    pub completed_at: Option<jiff::Timestamp>,
    /// How it stands.
    pub state: HistoryState,
}

/// How a recorded build stands.
#[derive(Clone, Debug)]
pub enum HistoryState {
    /// It runs.
    Active,
    /// It ended well.
    Succeeded {
        /// The image's digest; none for a build without an output.
        digest: Option<String>,
    },
    /// It failed.
    Failed(Box<BuildError>),
    /// Its client went away or cancelled it: the daemon does not tell these apart.
    Cancelled,
}

impl Daemon {
    /// What the daemon remembers about a Ref: none when it never saw it, has forgotten it, or was killed meanwhile.
    pub async fn history(&self, reference: &str) -> Result<Option<HistoryRecord>, BuildError> {
        let failed = |status: tonic::Status| BuildError::from_call("ListenBuildHistory", &status);
        let request = BuildHistoryRequest { r#ref: reference.to_owned(), early_exit: true, ..Default::default() };
        let mut stream = self.control().listen_build_history(request).await.map_err(failed)?.into_inner();
        let mut last = None;
        while let Some(event) = stream.message().await.map_err(failed)? {
            let deleted = event.r#type == i32::from(BuildHistoryEventType::Deleted);
            last = event.record.filter(|record| !deleted && record.r#ref == reference);
        }
        let Some(record) = last else { return Ok(None) };
        let created_at = record.created_at.as_ref().and_then(timestamp).unwrap_or_default();
        let completed_at = record.completed_at.as_ref().and_then(timestamp);
        let state = self.state(record).await?;
        Ok(Some(HistoryRecord { created_at, completed_at, state }))
    }

    async fn state(&self, record: BuildHistoryRecord) -> Result<HistoryState, BuildError> {
        if record.completed_at.is_none() {
            return Ok(HistoryState::Active);
        }
        let Some(error) = &record.error else { return Ok(HistoryState::Succeeded { digest: digest(&record) }) };
        // The record itself has only a text; the details are in a blob of their own.
        let status = match &record.external_error {
            Some(descriptor) => self.read_status(descriptor).await?,
            None => error.clone(),
        };
        let details = Details::from_rpc(&status);
        let mut progress = Progress::default();
        // The stored progress has the names and logs of the steps.
        follow(self.control(), &record.r#ref, &mut progress, &mut |_| {}).await;
        let vertex = details.vertex.as_deref().or_else(|| progress.failed_step(&details.message));
        let error = classify(
            &details,
            Clues {
                step: vertex.and_then(|digest| progress.step_name(digest)).map(str::to_owned),
                log_tail: vertex.map(|digest| progress.tail(digest)).unwrap_or_default(),
                ..Clues::default()
            },
        );
        Ok(if error.kind == ErrorKind::Cancelled {
            HistoryState::Cancelled
        } else {
            HistoryState::Failed(Box::new(error))
        })
    }

    async fn read_status(&self, descriptor: &Descriptor) -> Result<rpc::Status, BuildError> {
        let failed = |status: tonic::Status| BuildError::from_call("Content/Read", &status);
        let blob = read_blob(self.channel(), &descriptor.digest).await.map_err(failed)?;
        rpc::Status::decode(&blob[..]).map_err(|error| {
            BuildError::new(ErrorKind::Internal, format!("the daemon's record of an error cannot be read: {error}"))
        })
    }
}

/// The record's `exporter_response` has no image digest; its result has.
fn digest(record: &BuildHistoryRecord) -> Option<String> {
    let results = &record.result.as_ref()?.results;
    results.iter().min_by_key(|(index, _)| **index).map(|(_, descriptor)| descriptor.digest.clone())
}

fn timestamp(time: &Timestamp) -> Option<jiff::Timestamp> {
    jiff::Timestamp::new(time.seconds, time.nanos).ok()
}

/// `containerd.services.content.v1.ReadContentRequest`: the daemon serves containerd's content service, read-only.
#[derive(Clone, PartialEq, prost::Message)]
struct ReadContentRequest {
    #[prost(string, tag = "1")]
    digest: String,
    #[prost(int64, tag = "2")]
    offset: i64,
    /// 0 for all.
    #[prost(int64, tag = "3")]
    size: i64,
}

/// `containerd.services.content.v1.ReadContentResponse`.
#[derive(Clone, PartialEq, prost::Message)]
struct ReadContentResponse {
    #[prost(int64, tag = "1")]
    offset: i64,
    #[prost(bytes = "vec", tag = "2")]
    data: Vec<u8>,
}

async fn read_blob(channel: Channel, digest: &str) -> Result<Vec<u8>, tonic::Status> {
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.map_err(|error| tonic::Status::unavailable(error.to_string()))?;
    let codec = tonic_prost::ProstCodec::<ReadContentRequest, ReadContentResponse>::default();
    let request = tonic::Request::new(ReadContentRequest { digest: digest.to_owned(), ..Default::default() });
    let path = tonic::codegen::http::uri::PathAndQuery::from_static("/containerd.services.content.v1.Content/Read");
    let mut stream = client.server_streaming(request, path, codec).await?.into_inner();
    let mut blob = Vec::new();
    while let Some(part) = stream.message().await? {
        blob.extend_from_slice(&part.data);
    }
    Ok(blob)
}
