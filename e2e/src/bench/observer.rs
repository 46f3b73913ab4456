//! A watch that notes when each event arrived.

use std::fmt::Debug;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures::StreamExt as _;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// How long any single event of a benchmark may take.
const LIMIT: Duration = Duration::from_mins(3);

/// What a watch showed, with the time at which it arrived here.
pub struct Seen<K> {
    /// When it arrived.
    pub at: Instant,
    /// The object.
    pub object: K,
    /// Whether it was deleted.
    pub deleted: bool,
}

/// A watch in a task of its own, so that an event's time does not depend on what the benchmark does meanwhile.
pub struct Observer<K> {
    events: mpsc::UnboundedReceiver<Seen<K>>,
    task: JoinHandle<()>,
}

impl<K> Drop for Observer<K> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl<K> Observer<K>
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
{
    /// Watches all objects of this kind. The watch is established when this returns.
    ///
    /// # Errors
    /// When it is not within the limit.
    pub async fn start(api: Api<K>) -> anyhow::Result<Self> {
        let (sender, events) = mpsc::unbounded_channel();
        let (ready, is_ready) = tokio::sync::oneshot::channel();
        let mut ready = Some(ready);
        let task = tokio::spawn(async move {
            let mut stream = watcher(api, watcher::Config::default()).default_backoff().boxed();
            while let Some(event) = stream.next().await {
                let at = Instant::now();
                let (object, deleted) = match event {
                    Ok(Event::Apply(object) | Event::InitApply(object)) => (object, false),
                    Ok(Event::Delete(object)) => (object, true),
                    Ok(Event::InitDone) => {
                        let _ = ready.take().map(|ready| ready.send(()));
                        continue;
                    }
                    Ok(Event::Init) => continue,
                    Err(error) => {
                        eprintln!("a watch broke and starts again: {error}");
                        continue;
                    }
                };
                if sender.send(Seen { at, object, deleted }).is_err() {
                    return;
                }
            }
        });
        tokio::time::timeout(LIMIT, is_ready).await.context("a watch could not be started")??;
        Ok(Self { events, task })
    }

    /// The first event that `wanted` accepts; those before it are forgotten.
    ///
    /// # Errors
    /// When it does not come within the limit.
    pub async fn until(&mut self, what: &str, mut wanted: impl FnMut(&Seen<K>) -> bool) -> anyhow::Result<Seen<K>> {
        let found = async {
            loop {
                let seen = self.events.recv().await.context("the watch ended")?;
                if wanted(&seen) {
                    return Ok(seen);
                }
            }
        };
        tokio::time::timeout(LIMIT, found).await.with_context(|| format!("waited {LIMIT:?} in vain: {what}"))?
    }
}
