//! Kubernetes Events about jobs. Beside the work: a job's fate never depends on one, and a failure is only logged.

use std::sync::Arc;
use std::time::Duration;

use buildpools_crds::conditions;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Resource as _};
use tokio::sync::Semaphore;
use tracing::{debug, info};

use super::job::Job;

/// Longest note that the API server takes, in bytes.
const NOTE_MAX: usize = 1024;

/// Time that an event gets.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Events that may be under way. When the API server is slower than that, further ones are left out.
const CONCURRENCY: usize = 8;

/// Publishes events.
#[derive(Clone)]
pub struct Announcer {
    recorder: Recorder,
    permits: Arc<Semaphore>,
}

impl Announcer {
    /// Publishes under the name of this process.
    pub fn new(client: Client, instance: String) -> Self {
        let reporter = Reporter { controller: "buildpools.dev/dispatch".to_owned(), instance: Some(instance) };
        Self { recorder: Recorder::new(client, reporter), permits: Arc::new(Semaphore::new(CONCURRENCY)) }
    }

    /// Publishes a warning about a job, some time.
    pub fn announce(&self, job: &Job, action: &str, reason: &str, note: &str) {
        let Ok(permit) = self.permits.clone().try_acquire_owned() else {
            debug!(namespace = job.key.0, job = job.key.1, reason, "an event was left out");
            return;
        };
        let event = Event {
            type_: EventType::Warning,
            reason: reason.to_owned(),
            note: Some(conditions::truncate(note, NOTE_MAX)),
            action: action.to_owned(),
            secondary: None,
        };
        let reference = job.object().object_ref(&());
        let recorder = self.recorder.clone();
        tokio::spawn(async move {
            let _permit = permit;
            let published = tokio::time::timeout(TIMEOUT, recorder.publish(&event, &reference)).await;
            match published {
                Ok(Ok(())) => {}
                Ok(Err(error)) => info!(%error, job = ?reference.name, "an event was not published"),
                Err(_) => info!(job = ?reference.name, "an event was not published in time"),
            }
        });
    }
}
