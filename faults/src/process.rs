//! A program in a thread and a runtime of its own, so that it can be killed at any moment with all that it has spawned.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::lock;
use crate::trace::Trace;

/// A program that runs. It is killed when this is dropped.
#[derive(Debug)]
pub struct Process {
    dead: Arc<AtomicBool>,
    kill: Arc<Notify>,
    stop: CancellationToken,
    ended: watch::Receiver<bool>,
    /// Why it ended by itself.
    fault: Arc<Mutex<Option<String>>>,
}

impl Process {
    /// Starts a program. `dead` is shared with its [`crate::inject::Door`]; `main` gets what asks it to stop in good order.
    pub fn start<F>(
        name: &str,
        trace: &Trace,
        dead: Arc<AtomicBool>,
        main: impl FnOnce(CancellationToken) -> F + Send + 'static,
    ) -> Self
    where
        F: Future<Output = anyhow::Result<()>>,
    {
        let (kill, stop) = (Arc::new(Notify::new()), CancellationToken::new());
        let (told, ended) = watch::channel(false);
        let fault = Arc::default();
        let process = Self { dead, kill: kill.clone(), stop: stop.clone(), ended, fault: Arc::clone(&fault) };
        let (name, trace, dead) = (name.to_owned(), trace.clone(), process.dead.clone());
        thread::spawn(move || {
            trace.line(format!("{name:<12} starts"));
            let life =
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| live(&name, &trace, &kill, main, stop)));
            let why = match life {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(format!("{name} ended: {error:#}")),
                Err(_) => Some(format!("{name} panicked")),
            };
            // Whoever is killed may break in any way.
            if let Some(why) = why.filter(|_| !dead.load(Ordering::SeqCst)) {
                trace.line(&why);
                *lock(&fault) = Some(why);
            }
            trace.line(format!("{name:<12} is gone"));
            told.send_replace(true);
        });
        process
    }

    /// Kills it and waits until nothing of it runs.
    pub async fn kill(mut self) {
        self.dead.store(true, Ordering::SeqCst);
        self.kill.notify_one();
        self.wait().await;
    }

    /// Asks it to stop.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Waits until it has ended.
    pub async fn wait(&mut self) {
        // An error means that the thread is gone.
        let _ = self.ended.wait_for(|ended| *ended).await;
    }

    /// Why it ended, if nobody has killed it.
    pub fn fault(&self) -> Option<String> {
        lock(&self.fault).clone()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.dead.store(true, Ordering::SeqCst);
        self.kill.notify_one();
    }
}

fn live<F: Future<Output = anyhow::Result<()>>>(
    name: &str,
    trace: &Trace,
    kill: &Notify,
    main: impl FnOnce(CancellationToken) -> F,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let _logs = trace.capture(name);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(async {
        tokio::select! {
            biased;
            () = kill.notified() => Ok(()),
            ended = main(stop) => ended,
        }
    });
    // Tasks end here, at whatever they were waiting for.
    runtime.shutdown_background();
    result
}
