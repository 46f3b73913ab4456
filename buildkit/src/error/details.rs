//! The typed part of BuildKit's errors: JSON values inside the details of a gRPC status.

use std::error::Error;

use bollard_buildkit_proto::google::rpc;
use prost::Message;
use serde::Deserialize;
use tonic::Code;

use super::Location;

/// What a failed call said, without the transport around it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Details {
    /// The gRPC code's number.
    pub(crate) code: i32,
    pub(crate) message: String,
    /// The digest of the vertex that failed.
    pub(crate) vertex: Option<String>,
    pub(crate) location: Option<Location>,
    /// The exit code of a process that ran as a step.
    pub(crate) exit_code: Option<i32>,
    /// The call ended because the connection did.
    pub(crate) connection_lost: bool,
}

#[derive(Deserialize)]
struct Source {
    info: Option<SourceInfo>,
    #[serde(default)]
    ranges: Vec<Range>,
}

#[derive(Deserialize)]
struct SourceInfo {
    #[serde(default)]
    filename: String,
}

#[derive(Deserialize)]
struct Range {
    start: Option<Position>,
}

#[derive(Deserialize)]
struct Position {
    #[serde(default)]
    line: u32,
}

#[derive(Deserialize)]
struct Vertex {
    #[serde(default)]
    digest: String,
}

/// Go's JSON of a protobuf enum-free message keeps the Go field name here.
#[derive(Deserialize)]
struct Exit {
    #[serde(rename = "Code", default)]
    code: u32,
}

impl Details {
    /// From the status of a call.
    pub(crate) fn from_status(status: &tonic::Status) -> Self {
        let mut details = match rpc::Status::decode(status.details()) {
            Ok(rpc) => Self::from_rpc(&rpc),
            Err(_) => Self::default(),
        };
        details.code = i32::from(status.code());
        status.message().clone_into(&mut details.message);
        details.connection_lost = is_connection_loss(status);
        details
    }

    /// From a status in protobuf, as the history stores it.
    pub(crate) fn from_rpc(status: &rpc::Status) -> Self {
        let mut details = Self { code: status.code, message: status.message.clone(), ..Self::default() };
        for any in &status.details {
            // `github.com/moby/buildkit/errdefs.Source+json`, `github.com/moby/buildkit/stack.Stack+json`, …
            let name = any.type_url.rsplit('/').next().unwrap_or_default();
            match name.strip_suffix("+json").unwrap_or(name) {
                "errdefs.Source" => {
                    // The outermost source comes last and is the user's Dockerfile; an empty one adds nothing.
                    if let Some(location) = serde_json::from_slice(&any.value).ok().and_then(location) {
                        details.location = Some(location);
                    }
                }
                "errdefs.Vertex" => {
                    let vertex = serde_json::from_slice::<Vertex>(&any.value).ok().map(|vertex| vertex.digest);
                    details.vertex = vertex.filter(|digest| !digest.is_empty());
                }
                "gatewayapi.ExitMessage" => {
                    let exit = serde_json::from_slice::<Exit>(&any.value).ok();
                    details.exit_code = exit.and_then(|exit| i32::try_from(exit.code).ok());
                }
                _ => {}
            }
        }
        details
    }

    pub(crate) fn is(&self, code: Code) -> bool {
        self.code == i32::from(code)
    }
}

fn location(source: Source) -> Option<Location> {
    let file = source.info?.filename;
    let line = source.ranges.iter().find_map(|range| range.start.as_ref())?.line;
    (line > 0).then_some(Location { file, line })
}

/// Whether a call ended because the connection did. A daemon that is killed gives code Unknown with "transport
/// error", not Unavailable; what sets such errors apart is that they were made on this side, from another error.
pub(crate) fn is_connection_loss(status: &tonic::Status) -> bool {
    if !status.details().is_empty() {
        return false;
    }
    status.source().is_some() || status.code() == Code::Unavailable
}

#[cfg(test)]
mod tests {
    use bollard_buildkit_proto::google::protobuf::Any;

    use super::*;

    fn any(name: &str, value: &str) -> Any {
        Any { type_url: format!("github.com/moby/buildkit/{name}+json"), value: value.as_bytes().to_vec() }
    }

    #[test]
    fn reads_every_detail_of_a_failed_run() {
        let rpc = rpc::Status {
            code: 2,
            message: "process \"/bin/sh -c exit 7\" did not complete successfully: exit code: 7".to_owned(),
            details: vec![
                any("stack.Stack", r#"{"frames":[{"Name":"main.main","File":"x.go","Line":1}]}"#),
                any(
                    "errdefs.Source",
                    r#"{"info":{"filename":"docker/Dockerfile","data":"RlJPTSB4"},"ranges":[{"start":{"line":3},"end":{"line":3}}]}"#,
                ),
                any("errdefs.Vertex", r#"{"digest":"sha256:abc"}"#),
                any("gatewayapi.ExitMessage", r#"{"Code":7}"#),
                any("errdefs.Source", "not json"),
                any("unknown.Thing", "{}"),
            ],
        };
        let status = tonic::Status::with_details(Code::Unknown, rpc.message.clone(), rpc.encode_to_vec().into());
        for details in [Details::from_rpc(&rpc), Details::from_status(&status)] {
            assert_eq!(details.exit_code, Some(7));
            assert_eq!(details.vertex.as_deref(), Some("sha256:abc"));
            assert_eq!(details.location, Some(Location { file: "docker/Dockerfile".to_owned(), line: 3 }));
            assert_eq!((details.code, details.connection_lost), (2, false));
            assert!(details.message.starts_with("process"));
        }
    }

    #[test]
    fn tells_lost_connections_from_errors() {
        let broken = || std::io::Error::other("broken pipe");
        let transport = tonic::Status::from_error(Box::new(broken()));
        assert!(is_connection_loss(&transport), "{transport:?}");
        assert!(is_connection_loss(&tonic::Status::unavailable("connection refused")));
        assert!(!is_connection_loss(&tonic::Status::unknown("transport error")), "the daemon's own words");
        assert!(!is_connection_loss(&tonic::Status::cancelled("context canceled")));
    }
}
