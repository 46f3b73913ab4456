//! The events of a watch on their way to a program.

use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::body::{Body, Bytes};
use futures::StreamExt as _;
use serde_json::{Value, json};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tower::BoxError;

use super::door::{NEXT_WITHIN, status};
use super::{Door, Fault, Kind};

/// The body that the program reads, filled from the API server's.
pub(super) fn pass_on(from: Body, door: Door, watched: String, silence: Duration, runtime: &Handle) -> Body {
    let (sender, mut receiver) = mpsc::unbounded_channel();
    runtime.spawn(async move {
        let closed = sender.clone();
        tokio::select! {
            () = pump(from, &door, &watched, silence, &sender) => {}
            () = closed.closed() => {}
        }
    });
    Body::from_stream(futures::stream::poll_fn(move |context| receiver.poll_recv(context)))
}

type Sender = mpsc::UnboundedSender<Result<Bytes, BoxError>>;

async fn pump(from: Body, door: &Door, watched: &str, silence: Duration, sender: &Sender) {
    tokio::time::sleep(silence).await;
    let mut chunks = from.into_data_stream();
    let mut buffer = Vec::new();
    // When a watch from which an event was hidden ends.
    let mut ends: Option<Instant> = None;
    loop {
        let chunk = match ends {
            Some(end) => tokio::time::timeout_at(end, chunks.next()).await,
            None => Ok(chunks.next().await),
        };
        let chunk = match chunk {
            Err(_) => return send(sender, expired()),
            Ok(None) => return,
            Ok(Some(Err(error))) => {
                let _ = sender.send(Err(error.into()));
                return;
            }
            Ok(Some(Ok(chunk))) => chunk,
        };
        buffer.extend_from_slice(&chunk);
        while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = buffer.drain(..=end).collect();
            if door.dead.load(Ordering::SeqCst) {
                return std::future::pending().await;
            }
            let fault = label(&line, watched).and_then(|label| door.injector.pass(Kind::Event, &door.part, &label));
            match fault {
                None => {
                    send(sender, line);
                    if ends.is_some() {
                        return send(sender, expired());
                    }
                }
                Some(Fault::Unobserved) => ends = Some(Instant::now() + NEXT_WITHIN),
                Some(Fault::Expired) => return send(sender, expired()),
                Some(fault) => {
                    if fault == Fault::ExpiredAtStart {
                        door.injector.expire(&door.part, watched);
                    }
                    send(sender, line[..line.len() / 2].to_vec());
                    let _ = sender.send(Err("connection reset".into()));
                    return;
                }
            }
        }
    }
}

fn send(sender: &Sender, line: Vec<u8>) {
    // The receiver ends with the watch.
    let _ = sender.send(Ok(line.into()));
}

fn expired() -> Vec<u8> {
    format!("{}\n", json!({"type": "ERROR", "object": status(410, "Expired", "too old resource version")})).into_bytes()
}

/// `event buildjobs MODIFIED app`; bookmarks have no label.
fn label(line: &[u8], watched: &str) -> Option<String> {
    let event: Value = serde_json::from_slice(line).ok()?;
    let what = event["type"].as_str().filter(|what| matches!(*what, "ADDED" | "MODIFIED" | "DELETED"))?;
    Some(format!("event {watched} {what} {}", event["object"]["metadata"]["name"].as_str().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_have_labels_and_bookmarks_have_none() {
        let line = |what: &str| json!({"type": what, "object": {"metadata": {"name": "a"}}}).to_string();
        assert_eq!(label(line("ADDED").as_bytes(), "pods").as_deref(), Some("event pods ADDED a"));
        assert_eq!(label(line("BOOKMARK").as_bytes(), "pods"), None);
        assert_eq!(label(&expired(), "pods"), None);
    }
}
