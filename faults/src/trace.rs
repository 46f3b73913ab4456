//! What happened in one case, for people: every request with its fault, every line that the programs logged.

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::lock;

/// What of the programs' logs is kept.
const LOGGED: &str = "warn,buildpools_operator=debug,buildpools_runner=debug,kube_client=off";

/// Lines with the time and who wrote them. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Trace {
    began: Instant,
    lines: Arc<Mutex<Vec<(Instant, String)>>>,
}

impl Default for Trace {
    fn default() -> Self {
        Self { began: Instant::now(), lines: Arc::default() }
    }
}

impl Trace {
    /// One line.
    pub fn line(&self, text: impl Into<String>) {
        self.at(Instant::now(), text);
    }

    /// A line of an earlier moment.
    pub fn at(&self, when: Instant, text: impl Into<String>) {
        lock(&self.lines).push((when, text.into()));
    }

    /// All lines in their order, each with the seconds since the beginning.
    pub fn render(&self) -> String {
        let mut lines = lock(&self.lines).clone();
        lines.sort_by_key(|(when, _)| *when);
        let lines = lines
            .iter()
            .map(|(when, text)| format!("{:9.3} {text}\n", when.saturating_duration_since(self.began).as_secs_f64()));
        lines.collect()
    }

    /// What the programs of this thread log goes to the trace under this name until the guard is dropped.
    pub fn capture(&self, who: &str) -> tracing::subscriber::DefaultGuard {
        let subscriber = tracing_subscriber::fmt()
            .with_env_filter(EnvFilter::new(LOGGED))
            .without_time()
            .with_ansi(false)
            .with_writer(Lines { trace: self.clone(), who: who.to_owned() })
            .finish();
        tracing::subscriber::set_default(subscriber)
    }
}

#[derive(Clone)]
struct Lines {
    trace: Trace,
    who: String,
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        self.trace.line(format!("{:<12} {}", self.who, text.trim_end()));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}
