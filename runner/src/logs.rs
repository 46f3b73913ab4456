//! The builds' logs on stdout. A reader that is slow or stuck must not hold up a build: what does not fit into the
//! buffer is dropped and counted.

use std::io::Write;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Bytes that may wait to be written.
const BUFFER: usize = 4 << 20;
/// How long the last lines may take at the end of the process.
const FLUSH: Duration = Duration::from_secs(2);

/// Where lines go. Cheap to clone; writing never blocks.
#[derive(Clone, Debug)]
pub struct Logs {
    lines: Sender<String>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    waiting: AtomicUsize,
    dropped: AtomicU64,
}

/// Waits for the lines that are still to be written.
#[derive(Debug)]
pub struct Flush(Mutex<Receiver<()>>);

impl Logs {
    /// Writes to `out` from a thread of its own.
    pub fn start(out: impl Write + Send + 'static) -> (Self, Flush) {
        let (lines, receiver) = channel();
        let (done, finished) = channel();
        let shared = Arc::new(Shared::default());
        let theirs = shared.clone();
        std::thread::spawn(move || {
            write_all(&receiver, &theirs, out);
            let _ = done.send(());
        });
        (Self { lines, shared }, Flush(Mutex::new(finished)))
    }

    /// The log of one job.
    pub fn job(&self, name: &str) -> JobLog {
        JobLog { prefix: format!("[{name}] "), logs: self.clone() }
    }

    fn push(&self, line: String) {
        let size = line.len();
        let waiting = self.shared.waiting.fetch_add(size, Ordering::Relaxed);
        if waiting + size > BUFFER {
            self.shared.waiting.fetch_sub(size, Ordering::Relaxed);
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
        } else if self.lines.send(line).is_err() {
            // stdout is closed: nobody wants to know.
            self.shared.waiting.fetch_sub(size, Ordering::Relaxed);
        }
    }
}

impl Flush {
    /// Returns when every line is written, after the last [`Logs`] is gone, or after two seconds.
    pub fn wait(&self) {
        let _ = self.0.lock().unwrap_or_else(PoisonError::into_inner).recv_timeout(FLUSH);
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
        self.logs.push(text.lines().flat_map(|line| [self.prefix.as_str(), line, "\n"]).collect());
    }
}

fn write_all(lines: &Receiver<String>, shared: &Shared, out: impl Write) {
    let mut out = std::io::BufWriter::new(out);
    loop {
        let line = match lines.try_recv() {
            Ok(line) => line,
            Err(TryRecvError::Disconnected) => {
                let _ = out.flush();
                return;
            }
            Err(TryRecvError::Empty) => {
                if out.flush().is_err() {
                    return;
                }
                match lines.recv() {
                    Ok(line) => line,
                    Err(_) => return,
                }
            }
        };
        let written = out.write_all(line.as_bytes());
        shared.waiting.fetch_sub(line.len(), Ordering::Relaxed);
        let dropped = shared.dropped.swap(0, Ordering::Relaxed);
        let said = if dropped > 0 {
            writeln!(out, "[buildpools-runner] {dropped} lines dropped: the log was not read in time")
        } else {
            Ok(())
        };
        if written.and(said).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
