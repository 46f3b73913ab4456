//! A build's progress: the daemon's status stream as events, and these as plain lines.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;

use bollard_buildkit_proto::google::protobuf::Timestamp;
use bollard_buildkit_proto::moby::buildkit::v1::{StatusResponse, Vertex, VertexLog};

use crate::secret::Scrubber;

/// Log lines kept per step for the report of a failure.
const TAIL_LINES: usize = 20;
/// Bytes kept of one such line: a step may write megabytes without a newline.
const TAIL_LINE_BYTES: usize = 2048;
/// A step that is done again, within this many seconds, is not worth a second line.
const NEGLIGIBLE: f64 = 0.05;
/// A line that grows longer than this is delivered in parts.
const MAX_LINE_BYTES: usize = 64 << 10;

/// A change in one step.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// The step.
    pub step: Step,
    /// What happened to it.
    pub kind: EventKind,
}

/// A step of a build: a Dockerfile instruction, loading an image, pushing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// From 1, in the order in which steps start.
    pub number: usize,
    /// The name, such as `[2/3] RUN make`.
    pub name: String,
}

/// What happened to a step.
#[derive(Clone, Debug, PartialEq)]
pub enum EventKind {
    /// It began.
    Started,
    /// It wrote a line.
    Log {
        /// Since the step started.
        seconds: f64,
        /// The line without its end.
        text: String,
    },
    /// Something that does not stop the build.
    Warning {
        /// The warning in one line.
        text: String,
    },
    /// Its result was in the cache.
    Cached,
    /// It is done.
    Done {
        /// How long it took.
        seconds: f64,
    },
    /// It failed.
    Failed {
        /// The daemon's words.
        error: String,
    },
    /// It was stopped because the build was.
    Canceled,
}

/// The event as one plain line: `#5 [2/3] RUN make`, `#5 0.123 text`, `#5 DONE 0.3s`, `#5 CACHED`.
impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{} ", self.step.number)?;
        match &self.kind {
            EventKind::Started => f.write_str(&self.step.name),
            EventKind::Log { seconds, text } => write!(f, "{seconds:.3} {text}"),
            EventKind::Warning { text } => write!(f, "WARN: {text}"),
            EventKind::Cached => f.write_str("CACHED"),
            EventKind::Done { seconds } => write!(f, "DONE {seconds:.1}s"),
            EventKind::Failed { error } => write!(f, "ERROR: {error}"),
            EventKind::Canceled => f.write_str("CANCELED"),
        }
    }
}

/// Turns status messages into events and remembers what a failure's report needs.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    scrubber: Scrubber,
    steps: HashMap<String, State>,
    started: usize,
}

#[derive(Debug, Default)]
struct State {
    name: String,
    /// 0 until it starts.
    number: usize,
    started: Option<f64>,
    completed: bool,
    /// The daemon's words when it failed.
    error: String,
    /// The beginning of a line whose end has not come yet, by stream: standard output and error are separate.
    partial: BTreeMap<i64, Vec<u8>>,
    tail: VecDeque<String>,
}

impl Progress {
    pub(crate) fn new(scrubber: Scrubber) -> Self {
        Self { scrubber, ..Self::default() }
    }

    /// The name of the step with this digest.
    pub(crate) fn step_name(&self, digest: &str) -> Option<&str> {
        self.steps.get(digest).map(|state| state.name.as_str()).filter(|name| !name.is_empty())
    }

    /// The digest of the step that failed with this error, for errors that do not name theirs: the build's error ends
    /// with the step's.
    pub(crate) fn failed_step(&self, error: &str) -> Option<&str> {
        let failed = self.steps.iter().filter(|(_, state)| !state.error.is_empty() && error.ends_with(&state.error));
        failed.max_by_key(|(_, state)| (state.error.len(), state.number)).map(|(digest, _)| digest.as_str())
    }

    /// The last lines that a step wrote.
    pub(crate) fn tail(&self, digest: &str) -> Vec<String> {
        self.steps.get(digest).map(|state| state.tail.iter().cloned().collect()).unwrap_or_default()
    }

    /// Takes a message of the status stream.
    pub(crate) fn update(&mut self, response: StatusResponse, on_event: &mut impl FnMut(&Event)) {
        let mut completed = Vec::new();
        for vertex in response.vertexes {
            self.begin(&vertex, on_event);
            if vertex.completed.is_some() {
                completed.push(vertex);
            }
        }
        for log in &response.logs {
            self.log(log, on_event);
        }
        for warning in &response.warnings {
            let text = self.scrubber.scrub(&String::from_utf8_lossy(&warning.short));
            self.emit(&warning.vertex, EventKind::Warning { text }, on_event);
        }
        // A message may hold a step's last lines and its end: the lines come first.
        for vertex in &completed {
            self.end(vertex, on_event);
        }
    }

    fn begin(&mut self, vertex: &Vertex, on_event: &mut impl FnMut(&Event)) {
        let name = self.scrubber.scrub(&vertex.name);
        let state = self.steps.entry(vertex.digest.clone()).or_default();
        if !name.is_empty() {
            state.name = name;
        }
        let Some(started) = vertex.started.as_ref().map(seconds) else { return };
        // A step can start again after it completed: for another part of the build, or to load a cached result.
        if state.started.is_none() || state.completed {
            state.started = Some(started);
        }
        if state.number == 0 {
            self.started += 1;
            state.number = self.started;
            self.emit(&vertex.digest, EventKind::Started, on_event);
        }
    }

    fn log(&mut self, log: &VertexLog, on_event: &mut impl FnMut(&Event)) {
        let at = log.timestamp.as_ref().map(seconds);
        let state = self.steps.entry(log.vertex.clone()).or_default();
        let seconds = match (at, state.started) {
            (Some(at), Some(started)) => (at - started).max(0.0),
            _ => 0.0,
        };
        let partial = state.partial.entry(log.stream).or_default();
        partial.extend_from_slice(&log.msg);
        let mut lines = Vec::new();
        let mut rest = partial.as_slice();
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            lines.push(String::from_utf8_lossy(&rest[..end]).into_owned());
            rest = &rest[end + 1..];
        }
        if rest.len() > MAX_LINE_BYTES {
            lines.push(String::from_utf8_lossy(rest).into_owned());
            rest = &[];
        }
        *partial = rest.to_vec();
        for line in lines {
            self.line(&log.vertex, &line, seconds, on_event);
        }
    }

    fn line(&mut self, digest: &str, line: &str, seconds: f64, on_event: &mut impl FnMut(&Event)) {
        // A carriage return redraws the line: what it ends with is what a reader would see.
        let line = line.trim_end_matches('\r');
        let text = self.scrubber.scrub(line.rsplit('\r').next().unwrap_or(line));
        let state = self.steps.entry(digest.to_owned()).or_default();
        if state.tail.len() == TAIL_LINES {
            state.tail.pop_front();
        }
        state.tail.push_back(shorten(&text));
        self.emit(digest, EventKind::Log { seconds, text }, on_event);
    }

    fn end(&mut self, vertex: &Vertex, on_event: &mut impl FnMut(&Event)) {
        let Some(state) = self.steps.get_mut(&vertex.digest) else { return };
        if state.number == 0 {
            return;
        }
        let again = std::mem::replace(&mut state.completed, true);
        let partial = std::mem::take(&mut state.partial);
        let took = match (state.started, vertex.completed.as_ref().map(seconds)) {
            (Some(started), Some(completed)) => (completed - started).max(0.0),
            _ => 0.0,
        };
        let news = vertex.error != state.error;
        state.error.clone_from(&vertex.error);
        let rest: Vec<_> = partial.into_values().filter(|line| !line.is_empty()).collect();
        if again && rest.is_empty() && !news && (took < NEGLIGIBLE || vertex.cached || !vertex.error.is_empty()) {
            return;
        }
        for line in rest {
            self.line(&vertex.digest, &String::from_utf8_lossy(&line), took, on_event);
        }
        let kind = if vertex.error.ends_with("context canceled") {
            EventKind::Canceled
        } else if !vertex.error.is_empty() {
            EventKind::Failed { error: self.scrubber.scrub(&vertex.error) }
        } else if vertex.cached {
            EventKind::Cached
        } else {
            EventKind::Done { seconds: took }
        };
        self.emit(&vertex.digest, kind, on_event);
    }

    fn emit(&self, digest: &str, kind: EventKind, on_event: &mut impl FnMut(&Event)) {
        if let Some(state) = self.steps.get(digest) {
            on_event(&Event { step: Step { number: state.number, name: state.name.clone() }, kind });
        }
    }
}

fn shorten(text: &str) -> String {
    if text.len() <= TAIL_LINE_BYTES {
        return text.to_owned();
    }
    format!("{}…", &text[..text.floor_char_boundary(TAIL_LINE_BYTES)])
}

fn seconds(time: &Timestamp) -> f64 {
    // A build's times differ in the 31 bits below a second's 2^33: a double holds them to a microsecond.
    #[allow(clippy::cast_precision_loss)]
    let whole = time.seconds as f64;
    whole + f64::from(time.nanos) / 1e9
}

#[cfg(test)]
#[path = "progress_tests.rs"]
mod tests;
