//! Sends traces, beside the work: nothing waits for the collector, and what it does not take in time is left out.

use anyhow::Context as _;
use buildpools_crds::v1alpha1::BuildJobStatus;
use kube::core::ObjectMeta;
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanExporter as _};
use tokio::sync::mpsc;
use tracing::{debug, warn};

use super::spans::spans;

/// Jobs whose spans may wait for the collector.
const QUEUE: usize = 1024;

/// Jobs in one request.
const BATCH: usize = 128;

/// Where the traces of jobs go. A clone goes to the same place.
#[derive(Clone, Debug, Default)]
pub struct Traces(Option<mpsc::Sender<Vec<SpanData>>>);

/// The sending half, to be run beside the work.
#[derive(Debug)]
pub struct Exporter {
    jobs: mpsc::Receiver<Vec<SpanData>>,
    exporter: SpanExporter,
}

impl Traces {
    /// To the collector at this endpoint, for example `http://collector.monitoring:4317`; `https` uses the system's
    /// certificates. Timeout, headers and resource attributes are those of OpenTelemetry's environment variables
    /// (<https://opentelemetry.io/docs/specs/otel/protocol/exporter/>). `instance` is the name of this process.
    ///
    /// # Errors
    /// When the endpoint cannot be understood. It is not called yet.
    pub fn to(endpoint: &str, instance: &str) -> anyhow::Result<(Self, Exporter)> {
        let built = SpanExporter::builder().with_tonic().with_endpoint(endpoint).build();
        let mut exporter = built.with_context(|| format!("traces cannot be sent to {endpoint:?}"))?;
        let resource = Resource::builder()
            .with_service_name("buildpools-operator")
            .with_attribute(opentelemetry::KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .with_attribute(opentelemetry::KeyValue::new("service.instance.id", instance.to_owned()))
            .build();
        exporter.set_resource(&resource);
        let (sender, jobs) = mpsc::channel(QUEUE);
        Ok((Self(Some(sender)), Exporter { jobs, exporter }))
    }

    /// Sends the trace of a job that has ended, some time. To be told once of each.
    pub fn job_ended(&self, job: &ObjectMeta, pool: Option<&str>, status: &BuildJobStatus) {
        let Some(sender) = &self.0 else { return };
        let spans = spans(job, pool, status);
        if !spans.is_empty() && sender.try_send(spans).is_err() {
            debug!(job = ?job.name, "a trace was left out: the collector is slow or away");
        }
    }
}

impl Exporter {
    /// Sends until every [`Traces`] is dropped.
    pub async fn run(mut self) {
        let mut jobs = Vec::with_capacity(BATCH);
        while self.jobs.recv_many(&mut jobs, BATCH).await > 0 {
            let count = jobs.len();
            // It retries by itself, for some seconds.
            if let Err(error) = self.exporter.export(jobs.drain(..).flatten().collect()).await {
                warn!(count, %error, "traces were not taken by the collector");
            }
        }
    }
}
