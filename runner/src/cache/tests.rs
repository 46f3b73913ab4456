//! The keeper with a store that is played.

use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::*;

#[derive(Clone, Default)]
struct Played(Arc<State>);

#[derive(Default)]
struct State {
    records: AtomicI64,
    emptied: AtomicUsize,
    failures: Mutex<usize>,
}

impl Store for Played {
    async fn usage(&self) -> Result<Usage, BuildError> {
        let records = self.0.records.load(Ordering::SeqCst);
        Ok(Usage { records, bytes: records * 1000 })
    }

    async fn empty(&self) -> Result<Usage, BuildError> {
        let mut failures = self.0.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if *failures > 0 {
            *failures -= 1;
            return Err(BuildError {
                kind: buildpools_buildkit::ErrorKind::DaemonLost,
                message: "gone".into(),
                step: None,
                location: None,
                exit_code: None,
                log_tail: vec![],
                image: None,
            });
        }
        self.0.emptied.fetch_add(1, Ordering::SeqCst);
        let records = self.0.records.swap(0, Ordering::SeqCst);
        Ok(Usage { records, bytes: records * 1000 })
    }
}

struct World {
    store: Played,
    directory: tempfile::TempDir,
    pool: watch::Sender<PoolSettings>,
    report: watch::Sender<Report>,
    events: mpsc::UnboundedReceiver<Event>,
    keeper: tokio::task::JoinHandle<()>,
}

impl World {
    /// A keeper over a store with so many records, on this volume.
    fn start(records: i64, directory: tempfile::TempDir, reset: Option<&str>) -> Self {
        let store = Played::default();
        store.0.records.store(records, Ordering::SeqCst);
        let (pool, settings) =
            watch::channel(PoolSettings { slots: 2, cache_reset: owned(reset), ..Default::default() });
        let (report, _) = watch::channel(Report::default());
        let (sender, events) = mpsc::unbounded_channel();
        let keeper = Keeper::new(store.clone(), Volume::new(directory.path()), settings, report.clone(), sender);
        let keeper = tokio::spawn(keeper.run());
        Self { store, directory, pool, report, events, keeper }
    }

    fn ask_for(&self, reset: &str) {
        self.pool.send_modify(|settings| settings.cache_reset = owned(Some(reset)));
    }

    fn builds(&self, builds: usize) {
        self.report.send_modify(|report| report.builds = builds);
    }

    async fn reported(&self, what: impl Fn(&MemberCache) -> bool) -> MemberCache {
        let mut reports = self.report.subscribe();
        let found = reports.wait_for(|report| report.cache.as_ref().is_some_and(&what)).await.unwrap();
        found.cache.clone().unwrap()
    }

    async fn done(&self, value: &str) -> MemberCache {
        self.reported(|cache| cache.reset_done.as_deref() == Some(value)).await
    }

    fn emptied(&self) -> usize {
        self.store.0.emptied.load(Ordering::SeqCst)
    }
}

fn owned(text: Option<&str>) -> Option<String> {
    text.map(str::to_owned)
}

#[tokio::test(start_paused = true)]
async fn a_changed_reset_empties_once_and_a_restart_does_not_repeat_it() {
    let world = World::start(5, tempfile::tempdir().unwrap(), None);
    let before = world.reported(|cache| cache.records == 5).await;
    assert_eq!((before.bytes, before.reset_done), (5000, None));
    world.ask_for("1");
    let after = world.done("1").await;
    assert!(after.reset_at.is_some() && after.records == 0, "{after:?}");
    assert_eq!(world.emptied(), 1);

    // Another runner on the same volume, with records again.
    world.keeper.abort();
    let world = World::start(7, world.directory, Some("1"));
    let again = world.done("1").await;
    assert_eq!((world.emptied(), again.records, again.reset_at), (0, 7, None));
    world.ask_for("2");
    world.done("2").await;
    assert_eq!(world.emptied(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_new_volume_is_not_reset_by_the_value_that_the_pool_begins_with() {
    let world = World::start(0, tempfile::tempdir().unwrap(), Some("1"));
    world.done("1").await;
    assert_eq!(world.emptied(), 0);
    world.ask_for("2");
    world.done("2").await;
    assert_eq!(world.emptied(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_volume_that_was_new_once_is_reset_when_it_is_asked_for_later() {
    let world = World::start(0, tempfile::tempdir().unwrap(), None);
    world.reported(|_| true).await;
    world.store.0.records.store(3, Ordering::SeqCst);
    world.ask_for("1");
    world.done("1").await;
    assert_eq!(world.emptied(), 1);
}

#[tokio::test(start_paused = true)]
async fn it_waits_for_the_builds_and_then_holds_others_back() {
    let mut world = World::start(5, tempfile::tempdir().unwrap(), None);
    world.reported(|cache| cache.records == 5).await;
    world.builds(1);
    world.ask_for("1");
    // Patience runs out.
    let held = tokio::time::timeout(reset::PATIENCE * 2, world.events.recv()).await.unwrap();
    assert!(matches!(held, Some(Event::Hold(true))), "{held:?}");
    assert_eq!(world.emptied(), 0);
    world.builds(0);
    world.done("1").await;
    assert_eq!(world.emptied(), 1);
    assert!(matches!(world.events.recv().await, Some(Event::Hold(false))));
}

#[tokio::test(start_paused = true)]
async fn it_is_tried_again_when_the_daemon_fails() {
    let world = World::start(5, tempfile::tempdir().unwrap(), None);
    world.reported(|cache| cache.records == 5).await;
    *world.store.0.failures.lock().unwrap() = 2;
    world.ask_for("1");
    world.done("1").await;
    assert_eq!(world.emptied(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_cache_that_became_smaller_by_itself_was_collected() {
    let world = World::start(5, tempfile::tempdir().unwrap(), None);
    assert!(world.reported(|cache| cache.records == 5).await.collected_at.is_none());
    world.store.0.records.store(3, Ordering::SeqCst);
    assert!(world.reported(|cache| cache.records == 3).await.collected_at.is_some());
}
