//! The cache beside the runner: how full it is, and emptying it when the pool asks for it.
//!
//! The daemon is asked for its records when builds have ended and once a minute, the file system every ten seconds,
//! which costs one system call. What becomes of it in the pool's status is [`crate::member`]'s business.

pub mod reset;
pub mod volume;

use std::future::Future;
use std::time::Duration;

use buildpools_buildkit::{BuildError, Daemon, Usage};
use buildpools_crds::v1alpha1::MemberCache;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use self::reset::{Facts, Step};
use self::volume::{Space, Volume};
use crate::decide::Event;
use crate::member::Report;
use crate::watch::PoolSettings;

/// How often the file system is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// How often the daemon is asked for its records when no build ends. It collects garbage within a minute of a build.
const ASK_EVERY: Duration = Duration::from_mins(1);
/// How long the daemon may take to count its records: a large cache that it has not measured takes a while.
const COUNT_WITHIN: Duration = Duration::from_secs(30);

/// How long the daemon may take to empty it. No build runs meanwhile.
const EMPTY_WITHIN: Duration = Duration::from_mins(10);

/// What is asked of a daemon: a trait, so that the tests need none.
pub trait Store: Send + Sync + 'static {
    /// See [`Daemon::disk_usage`].
    fn usage(&self) -> impl Future<Output = Result<Usage, BuildError>> + Send;
    /// See [`Daemon::prune_all`].
    fn empty(&self) -> impl Future<Output = Result<Usage, BuildError>> + Send;
}

impl Store for Daemon {
    async fn usage(&self) -> Result<Usage, BuildError> {
        self.disk_usage().await
    }

    async fn empty(&self) -> Result<Usage, BuildError> {
        self.prune_all().await
    }
}

/// Looks after the cache.
pub struct Keeper<S> {
    store: S,
    volume: Volume,
    pool: watch::Receiver<PoolSettings>,
    report: watch::Sender<Report>,
    events: mpsc::UnboundedSender<Event>,
    usage: Option<Usage>,
    new_volume: bool,
    asked_at: Option<Instant>,
    builds: usize,
    /// The reset that is dealt with, since when it waits, and whether builds are held back for it.
    pending: Option<Pending>,
    /// The pool as it was first seen.
    initial: Option<PoolSettings>,
    seen: MemberCache,
    /// Said once, not every ten seconds.
    blind: bool,
}

#[derive(Debug)]
struct Pending {
    value: String,
    since: Instant,
    holding: bool,
}

impl<S: Store> Keeper<S> {
    /// Nothing is known yet.
    pub fn new(
        store: S,
        volume: Volume,
        pool: watch::Receiver<PoolSettings>,
        report: watch::Sender<Report>,
        events: mpsc::UnboundedSender<Event>,
    ) -> Self {
        Self {
            store,
            volume,
            pool,
            report,
            events,
            usage: None,
            new_volume: false,
            asked_at: None,
            builds: 0,
            pending: None,
            initial: None,
            seen: MemberCache::default(),
            blind: false,
        }
    }

    /// Looks after it, for ever.
    pub async fn run(mut self) {
        // At once: the first build must not make a new volume look used.
        self.ask().await;
        self.new_volume = self.usage.is_some_and(|usage| usage.records == 0);
        let mut reports = self.report.subscribe();
        loop {
            self.look().await;
            let more = tokio::time::Instant::now() + LOOK_EVERY;
            let builds = self.builds;
            tokio::select! {
                () = tokio::time::sleep_until(more) => {}
                changed = self.pool.changed() => if changed.is_err() { return },
                // A build has ended: there may be more in the cache, and it may be time for a reset.
                ended = reports.wait_for(|report| report.builds < builds) => if ended.is_err() { return },
                () = more_builds(&self.report, builds) => {}
            }
        }
    }

    async fn look(&mut self) {
        let builds = self.report.borrow().builds;
        let ended = builds < self.builds;
        self.builds = builds;
        if ended || self.asked_at.is_none_or(|asked| asked.elapsed() >= ASK_EVERY) {
            self.ask().await;
        }
        self.look_at_volume().await;
        let wanted = self.pool.borrow_and_update().clone();
        // Until the pool is known there are no slots.
        if wanted.slots > 0 {
            self.initial.get_or_insert_with(|| wanted.clone());
            self.reset(wanted.cache_reset).await;
        }
        let seen = self.seen.clone();
        self.report.send_if_modified(|report| {
            let news = report.cache.as_ref() != Some(&seen);
            report.cache = Some(seen);
            news
        });
    }

    async fn ask(&mut self) {
        self.asked_at = Some(Instant::now());
        let usage = match tokio::time::timeout(COUNT_WITHIN, self.store.usage()).await {
            Ok(Ok(usage)) => usage,
            // A daemon that is gone is others' news.
            Ok(Err(error)) => return tracing::debug!("the cache's records are not known: {error}"),
            Err(_) => return tracing::debug!("the cache's records are not known within {} s", COUNT_WITHIN.as_secs()),
        };
        if self.usage.is_some_and(|before| usage.records < before.records && usage.bytes < before.bytes) {
            self.seen.collected_at = Some(now());
        }
        self.note_usage(usage);
    }

    fn note_usage(&mut self, usage: Usage) {
        self.usage = Some(usage);
        (self.seen.bytes, self.seen.records) = (usage.bytes, usage.records);
    }

    async fn look_at_volume(&mut self) {
        let volume = self.volume.clone();
        let look = tokio::task::spawn_blocking(move || (volume.space(), volume.healed_at()));
        let Ok((space, healed_at)) = look.await else { return };
        self.seen.healed_at = healed_at.map(Time);
        match space {
            Ok(Space { capacity, available, inodes, inodes_free }) => {
                self.blind = false;
                (self.seen.capacity_bytes, self.seen.available_bytes) = (capacity, available);
                (self.seen.inodes, self.seen.inodes_free) = (inodes, inodes_free);
            }
            Err(error) if !std::mem::replace(&mut self.blind, true) => {
                tracing::warn!("the cache volume's space is not known: {error}");
            }
            Err(_) => {}
        }
    }

    async fn reset(&mut self, wanted: Option<String>) {
        let Some(value) = wanted else {
            self.seen.reset_done = None;
            self.seen.reset_at = None;
            return self.release();
        };
        if self.seen.reset_done.as_deref() == Some(&value) {
            return;
        }
        if self.pending.as_ref().is_none_or(|pending| pending.value != value) {
            self.release();
            self.pending = Some(Pending { value: value.clone(), since: Instant::now(), holding: false });
        }
        let Some(pending) = &mut self.pending else { return };
        let facts = Facts {
            done: self.volume.was_reset_for(&value),
            new_volume: self.new_volume,
            initial: self.initial.as_ref().is_some_and(|initial| initial.cache_reset.as_ref() == Some(&value)),
            builds: self.builds,
            waited: pending.since.elapsed(),
        };
        match reset::next(facts) {
            Step::Wait => {}
            Step::Hold => {
                if !std::mem::replace(&mut pending.holding, true) {
                    tracing::info!(reset = value, "no build begins until the cache is emptied");
                    let _ = self.events.send(Event::Hold(true));
                }
            }
            Step::Nothing => self.settled(value, None),
            Step::Note => {
                self.note(&value);
                self.settled(value, None);
            }
            Step::Empty => match self.empty().await {
                Ok(removed) => {
                    tracing::info!(reset = value, records = removed.records, bytes = removed.bytes, "cache emptied");
                    self.note(&value);
                    self.settled(value, Some(now()));
                    if let Ok(usage) = self.store.usage().await {
                        self.note_usage(usage);
                    }
                }
                Err(why) => {
                    tracing::warn!(reset = value, "the cache is not emptied yet, builds go on until then: {why}");
                    // It is waited for anew: a cache that cannot be emptied must not stop the pool.
                    self.release();
                }
            },
        }
    }

    /// Empties the cache: what was removed, or why it was not.
    async fn empty(&self) -> Result<Usage, String> {
        match tokio::time::timeout(EMPTY_WITHIN, self.store.empty()).await {
            Ok(emptied) => emptied.map_err(|error| error.to_string()),
            Err(_) => Err(format!("no answer within {} s", EMPTY_WITHIN.as_secs())),
        }
    }

    /// After the cache was emptied: a runner that dies in between empties it once more, and nothing is lost but a
    /// moment's cache.
    fn note(&self, value: &str) {
        if let Err(error) = self.volume.note_reset(value) {
            tracing::warn!(
                reset = value,
                "the reset cannot be noted on the volume; a restart would repeat it: {error}"
            );
        }
    }

    fn settled(&mut self, value: String, at: Option<Time>) {
        self.release();
        self.seen.reset_done = Some(value);
        self.seen.reset_at = at;
    }

    fn release(&mut self) {
        if self.pending.take().is_some_and(|pending| pending.holding) {
            let _ = self.events.send(Event::Hold(false));
        }
    }
}

/// Returns when more builds run than were counted, so that their end is seen.
async fn more_builds(report: &watch::Sender<Report>, counted: usize) {
    if report.subscribe().wait_for(|report| report.builds > counted).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// As the API keeps it: in whole seconds.
fn now() -> Time {
    let now = Timestamp::now();
    Time(Timestamp::from_second(now.as_second()).unwrap_or(now))
}

#[cfg(test)]
mod tests;
