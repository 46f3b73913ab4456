//! The spans of one job: a pure function of the job.
//!
//! ```text
//!  BuildJob ───────────────────────────────────────────────
//!  queue ──── start ─ attempt 1 ───   queue ─ start ─ attempt 2
//!  created    bound   started  ended          bound   started
//! ```
//!
//! All ids follow from the job's UID: a job that is sent twice, by two leaders, is one trace.

use std::borrow::Cow;
use std::time::SystemTime;

use buildpools_crds::v1alpha1::{Attempt, BuildJobStatus, JobPhase};
use jiff::Timestamp;
use kube::core::ObjectMeta;
use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

/// The result of what did not fail.
const SUCCEEDED: &str = "Succeeded";

/// The spans of a job that has ended, the root first; nothing for one that has not. `pool` is the one that the job ran
/// in, or asked for.
pub fn spans(job: &ObjectMeta, pool: Option<&str>, status: &BuildJobStatus) -> Vec<SpanData> {
    let Some(trace) = Trace::of(job, pool, status) else { return Vec::new() };
    let mut spans = vec![trace.root()];
    spans.extend(trace.attempts());
    spans
}

/// What a trace is made from.
struct Trace<'a> {
    uid: Uuid,
    job: &'a ObjectMeta,
    pool: Option<&'a str>,
    status: &'a BuildJobStatus,
    created: Timestamp,
    ended: Timestamp,
}

impl<'a> Trace<'a> {
    fn of(job: &'a ObjectMeta, pool: Option<&'a str>, status: &'a BuildJobStatus) -> Option<Self> {
        if !status.phase.is_terminal() {
            return None;
        }
        Some(Self {
            uid: job.uid.as_deref()?.parse().ok()?,
            job,
            pool,
            status,
            created: job.creation_timestamp.as_ref()?.0,
            ended: status.timing.finished_at.as_ref()?.0,
        })
    }

    fn root(&self) -> SpanData {
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let mut attributes = vec![
            KeyValue::new("k8s.namespace.name", text(&self.job.namespace)),
            KeyValue::new("buildpools.job.name", text(&self.job.name)),
            KeyValue::new("buildpools.job.uid", text(&self.job.uid)),
            KeyValue::new("buildpools.pool", self.pool.unwrap_or_default().to_owned()),
            KeyValue::new("buildpools.attempts", i64::try_from(self.status.attempts.len()).unwrap_or(i64::MAX)),
        ];
        let status = match (self.status.phase, &self.status.failure) {
            (JobPhase::Succeeded, _) => {
                attributes.push(KeyValue::new("buildpools.result", SUCCEEDED));
                Status::Ok
            }
            (_, Some(failure)) => {
                attributes.push(KeyValue::new("buildpools.result", failure.reason.as_str()));
                Status::error(failure.message.clone())
            }
            (_, None) => Status::error(""),
        };
        if let Some(image) = &self.status.image {
            attributes.push(KeyValue::new("oci.manifest.digest", image.digest.clone()));
        }
        let root = SpanData { attributes, status, ..self.span("BuildJob".into(), self.created, self.ended) };
        SpanData { parent_span_id: SpanId::INVALID, ..root }
    }

    /// `queue`, `start` and `attempt n` of each attempt. When the binding of an earlier attempt was is not kept, so its
    /// `queue` reaches to its start.
    fn attempts(&self) -> Vec<SpanData> {
        let mut spans = Vec::new();
        let mut queued = self.created;
        let attempts = &self.status.attempts;
        for (index, attempt) in attempts.iter().enumerate() {
            let started = attempt.started_at.0;
            let bound = self.bound().filter(|bound| index + 1 == attempts.len() && (queued..=started).contains(bound));
            spans.push(self.waiting("queue", attempt.number, queued, bound.unwrap_or(started)));
            if let Some(bound) = bound {
                spans.push(self.waiting("start", attempt.number, bound, started));
            }
            queued = attempt.finished_at.as_ref().map_or(self.ended, |time| time.0);
            spans.push(self.attempt(attempt, started, queued));
        }
        // It was refused or cancelled, or waited too long, before it was started (again).
        if attempts.last().is_none_or(|last| last.result.as_deref() != self.result()) {
            let number = i32::try_from(attempts.len()).map_or(i32::MAX, |length| length.saturating_add(1));
            spans.push(self.waiting("queue", number, queued, self.ended));
        }
        spans
    }

    fn attempt(&self, attempt: &Attempt, started: Timestamp, ended: Timestamp) -> SpanData {
        let result = attempt.result.clone().unwrap_or_default();
        let status =
            if result == SUCCEEDED { Status::Ok } else { Status::error(attempt.message.clone().unwrap_or_default()) };
        let attributes = vec![
            KeyValue::new("buildpools.attempt", i64::from(attempt.number)),
            KeyValue::new("k8s.pod.name", attempt.pod.clone()),
            KeyValue::new("k8s.pod.uid", attempt.pod_uid.clone()),
            KeyValue::new("buildpools.result", result),
        ];
        SpanData { attributes, status, ..self.span(format!("attempt {}", attempt.number), started, ended) }
    }

    fn waiting(&self, name: &'static str, attempt: i32, from: Timestamp, to: Timestamp) -> SpanData {
        let id = span_id(&self.uid, &format!("{name} {attempt}"));
        let span = self.span(name.to_owned(), from, to);
        let attributes = vec![KeyValue::new("buildpools.attempt", i64::from(attempt))];
        SpanData { span_context: self.context(id), attributes, ..span }
    }

    fn span(&self, name: String, from: Timestamp, to: Timestamp) -> SpanData {
        SpanData {
            span_context: self.context(span_id(&self.uid, &name)),
            parent_span_id: span_id(&self.uid, "BuildJob"),
            parent_span_is_remote: false,
            span_kind: SpanKind::Internal,
            name: Cow::Owned(name),
            start_time: SystemTime::from(from),
            // The times are of several clocks.
            end_time: SystemTime::from(to.max(from)),
            attributes: Vec::new(),
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: Status::Unset,
            instrumentation_scope: InstrumentationScope::builder("buildpools").build(),
        }
    }

    fn context(&self, id: SpanId) -> SpanContext {
        let trace = TraceId::from_bytes(self.uid.into_bytes());
        SpanContext::new(trace, id, TraceFlags::SAMPLED, false, TraceState::NONE)
    }

    fn bound(&self) -> Option<Timestamp> {
        self.status.timing.bound_at.as_ref().map(|time| time.0)
    }

    fn result(&self) -> Option<&str> {
        match self.status.phase {
            JobPhase::Succeeded => Some(SUCCEEDED),
            _ => self.status.failure.as_ref().map(|failure| failure.reason.as_str()),
        }
    }
}

fn span_id(uid: &Uuid, name: &str) -> SpanId {
    let digest = Sha256::new().chain_update(uid.as_bytes()).chain_update(name).finalize();
    let mut id = [0; 8];
    id.copy_from_slice(&digest[..8]);
    SpanId::from_bytes(id)
}
