//! What goes to stdout (the builds' logs) and stderr (the runner's own). Writing must never hold up or end a build: a
//! thread of its own writes, what does not fit into the buffer is dropped and counted, and a write that fails (a full
//! disk behind the pipe) is tried again. The count is said in the log itself as soon as it can be written.

use std::io::{ErrorKind, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use crate::visible;

/// Bytes that may wait to be written.
const BUFFER: usize = 4 << 20;
/// Bytes that are written at once.
const BATCH: usize = 64 << 10;
/// How long the last lines may take at the end of the process.
const FLUSH: Duration = Duration::from_secs(2);
/// Pause after a write that failed; it doubles.
const RETRY_FIRST: Duration = Duration::from_millis(20);
/// Longest pause after a write that failed.
const RETRY_LONGEST: Duration = Duration::from_secs(2);

/// Where lines go. Cheap to clone; writing never blocks and never fails.
#[derive(Clone, Debug)]
pub struct Logs {
    lines: Sender<Message>,
    shared: Arc<Shared>,
}

enum Message {
    Line(String),
    /// Tell when everything before is written.
    Flush(Sender<()>),
}

#[derive(Debug, Default)]
struct Shared {
    waiting: AtomicUsize,
    dropped: AtomicU64,
}

/// Waits for the lines that are still to be written.
#[derive(Debug)]
pub struct Flush(Sender<Message>);

impl Logs {
    /// Writes to `out` from a thread of its own.
    pub fn start(out: impl Write + Send + 'static) -> (Self, Flush) {
        let (lines, receiver) = channel();
        let shared = Arc::new(Shared::default());
        let theirs = shared.clone();
        std::thread::spawn(move || write_all(&receiver, &theirs, out));
        let flush = Flush(lines.clone());
        (Self { lines, shared }, flush)
    }

    /// The log of one job.
    pub fn job(&self, name: &str) -> JobLog {
        JobLog { prefix: format!("[{name}] "), logs: self.clone() }
    }

    fn push(&self, line: String) {
        let size = line.len();
        let waiting = self.shared.waiting.fetch_add(size, Ordering::Relaxed);
        // The channel is closed when the log has no reader any more.
        if waiting + size > BUFFER || self.lines.send(Message::Line(line)).is_err() {
            self.shared.waiting.fetch_sub(size, Ordering::Relaxed);
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// For whoever wants to write bytes: each call is one line, or several, with its end.
impl Write for Logs {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.push(String::from_utf8_lossy(bytes).into_owned());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Flush {
    /// Returns when every line is written that was there before, or can never be, or after two seconds.
    pub fn wait(&self) {
        let (done, finished) = channel();
        if self.0.send(Message::Flush(done)).is_ok() {
            let _ = finished.recv_timeout(FLUSH);
        }
    }
}

/// The log of one job: every line begins with its name.
#[derive(Clone, Debug)]
pub struct JobLog {
    prefix: String,
    logs: Logs,
}

impl JobLog {
    /// Writes one line, or as many as the text has: an error may quote what a program printed.
    pub fn line(&self, text: impl std::fmt::Display) {
        let text = text.to_string();
        self.logs.push(visible::lines(&text).flat_map(|line| [self.prefix.clone(), line, "\n".to_owned()]).collect());
    }
}

fn write_all(lines: &Receiver<Message>, shared: &Shared, mut out: impl Write) {
    let mut failed = None;
    while let Some(batch) = next_batch(lines) {
        let written = write_batch(&mut out, batch.text.as_bytes(), &mut failed);
        shared.waiting.fetch_sub(batch.text.len(), Ordering::Relaxed);
        let said = written.and_then(|()| {
            let dropped = shared.dropped.swap(0, Ordering::Relaxed);
            if dropped == 0 {
                return Ok(());
            }
            let why = failed.take().unwrap_or_else(|| "it was not read in time".to_owned());
            let text = format!("[buildpools-runner] {dropped} lines dropped: the log could not be written ({why})\n");
            write_batch(&mut out, text.as_bytes(), &mut failed)
        });
        if let Err(error) = said {
            // On stderr, if that is another pipe.
            tracing::warn!("a log has no reader any more ({error}): what follows is dropped");
            return;
        }
        if let Some(done) = batch.done {
            let _ = done.send(());
        }
    }
}

#[derive(Default)]
struct Batch {
    text: String,
    done: Option<Sender<()>>,
}

/// What waits, up to the size of a batch; `None` when nobody is left who could write.
fn next_batch(lines: &Receiver<Message>) -> Option<Batch> {
    let mut batch = Batch::default();
    let mut message = Some(lines.recv().ok()?);
    while let Some(next) = message {
        match next {
            Message::Line(line) => batch.text.push_str(&line),
            Message::Flush(done) => {
                batch.done = Some(done);
                break;
            }
        }
        message = if batch.text.len() < BATCH { lines.try_recv().ok() } else { None };
    }
    Some(batch)
}

/// Writes all of it, however long that takes. Fails only when there is no reader any more.
fn write_batch(out: &mut impl Write, mut bytes: &[u8], failed: &mut Option<String>) -> std::io::Result<()> {
    let mut pause = RETRY_FIRST;
    loop {
        // An empty write flushes nothing, so the flush belongs into the same loop.
        let result = if bytes.is_empty() { out.flush().map(|()| 0) } else { out.write(bytes) };
        match result {
            Ok(_) if bytes.is_empty() => return Ok(()),
            Ok(written) if written > 0 => {
                bytes = &bytes[written..];
                pause = RETRY_FIRST;
                continue;
            }
            Ok(_) => *failed = Some(ErrorKind::WriteZero.to_string()),
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) if error.kind() == ErrorKind::BrokenPipe => return Err(error),
            Err(error) => *failed = Some(error.to_string()),
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(RETRY_LONGEST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;
    use std::sync::atomic::AtomicBool;

    #[derive(Clone, Default)]
    struct Memory(Arc<Mutex<Vec<u8>>>);

    impl Write for Memory {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn every_line_of_a_text_begins_with_the_jobs_name() {
        let out = Memory::default();
        let (logs, flush) = Logs::start(out.clone());
        logs.job("app").line("#1 ERROR: git:\nfatal: no\n\n: exit status 128");
        drop(logs);
        flush.wait();
        let text = String::from_utf8(out.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text, "[app] #1 ERROR: git:\n[app] fatal: no\n[app] \n[app] : exit status 128\n");
    }

    /// Blocks until it may write.
    struct Stuck {
        allowed: Arc<Mutex<()>>,
        written: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let _allowed = self.allowed.lock().unwrap();
            self.written.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_have_the_name_of_their_job() {
        let (allowed, written) = (Arc::default(), Arc::default());
        let (logs, flush) = Logs::start(Stuck { allowed, written: Arc::clone(&written) });
        logs.job("app").line("#5 [2/3] RUN make");
        logs.job("web").line(format_args!("attempt {} starts", 1));
        drop(logs);
        flush.wait();
        assert_eq!(
            String::from_utf8_lossy(&written.lock().unwrap()),
            "[app] #5 [2/3] RUN make\n[web] attempt 1 starts\n"
        );
    }

    #[test]
    fn a_reader_that_is_stuck_costs_lines_and_no_time() {
        let (allowed, written) = (Arc::new(Mutex::new(())), Arc::default());
        let stuck = allowed.lock().unwrap();
        let (logs, flush) = Logs::start(Stuck { allowed: Arc::clone(&allowed), written: Arc::clone(&written) });
        let log = logs.job("app");
        let line = "x".repeat(1 << 20);
        for _ in 0..20 {
            log.line(&line);
        }
        assert!(logs.shared.waiting.load(Ordering::Relaxed) <= BUFFER);
        drop(stuck);
        drop((log, logs));
        flush.wait();
        let written = written.lock().unwrap();
        let text = String::from_utf8_lossy(&written);
        let kept = text.matches("[app] ").count();
        let said: usize = text
            .lines()
            .filter_map(|line| line.strip_prefix("[buildpools-runner] ")?.split(' ').next()?.parse::<usize>().ok())
            .sum();
        assert_eq!(kept + said, 20, "every line is written or counted");
        assert!(said >= 15, "{said} lines were dropped");
    }

    /// Takes three bytes, and then fails until it is mended.
    struct Failing {
        error: ErrorKind,
        mended: Arc<AtomicBool>,
        written: Arc<Mutex<Vec<u8>>>,
        failed: Sender<()>,
    }

    impl Write for Failing {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let mut written = self.written.lock().unwrap();
            if written.is_empty() {
                written.extend_from_slice(&bytes[..3]);
                return Ok(3);
            }
            if !self.mended.load(Ordering::Relaxed) {
                let _ = self.failed.send(());
                return Err(self.error.into());
            }
            written.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_full_disk_costs_no_line_that_fits_into_the_buffer_and_every_other_is_counted() {
        let (mended, written) = (Arc::<AtomicBool>::default(), Arc::default());
        let (failed, failure) = channel();
        let error = ErrorKind::StorageFull;
        let out = Failing { error, mended: Arc::clone(&mended), written: Arc::clone(&written), failed };
        let (logs, flush) = Logs::start(out);
        let log = logs.job("app");
        log.line("first");
        failure.recv().unwrap();
        let line = "x".repeat(BUFFER / 4);
        for _ in 0..10 {
            log.line(&line);
        }
        log.line("last");
        mended.store(true, Ordering::Relaxed);
        let text = loop {
            flush.wait();
            let text = String::from_utf8(written.lock().unwrap().clone()).unwrap();
            if text.ends_with("[app] last\n") {
                break text;
            }
        };
        let expected = [
            "[app] first".to_owned(),
            "[buildpools-runner] 7 lines dropped: the log could not be written (no storage space)".to_owned(),
            format!("[app] {line}"),
            format!("[app] {line}"),
            format!("[app] {line}"),
            "[app] last".to_owned(),
        ];
        assert!(text.lines().eq(&expected), "{:?}", text.lines().map(|l| &l[..l.len().min(100)]).collect::<Vec<_>>());
    }

    #[test]
    fn a_log_without_a_reader_costs_nothing_and_is_counted() {
        let (failed, failure) = channel();
        let error = ErrorKind::BrokenPipe;
        let out = Failing { error, mended: Arc::default(), written: Arc::default(), failed };
        let (mut logs, flush) = Logs::start(out);
        logs.write_all(b"first\n").unwrap();
        failure.recv().unwrap();
        flush.wait();
        let dropped = logs.shared.dropped.load(Ordering::Relaxed);
        for _ in 0..10 {
            logs.write_all(b"later\n").unwrap();
        }
        assert_eq!(logs.shared.dropped.load(Ordering::Relaxed), dropped + 10);
        assert_eq!(logs.shared.waiting.load(Ordering::Relaxed), 0, "nothing is kept");
    }
}
