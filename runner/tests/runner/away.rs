//! An API server that is away, or has forgotten; a log that cannot be written.

use std::io::ErrorKind;
use std::pin::pin;
use std::sync::mpsc;
use std::time::Duration;

use buildpools_buildkit::ErrorKind as Reason;
use buildpools_crds::v1alpha1::BuildJob;
use futures::StreamExt;
use kube::runtime::{WatchStreamExt, watcher};

use crate::api_server::Fault;
use crate::world::{World, bound, building, job, within};

#[tokio::test(start_paused = true)]
async fn five_minutes_without_the_api_server_cost_no_build() {
    for fault in [Fault::Refuse(503), Fault::Refuse(429), Fault::Hang] {
        let world = World::start(vec![("a", job("a", &bound())), ("b", job("b", &bound()))]);
        world.until_solved("a-1").await;
        world.until_solved("b-1").await;
        let before = world.api.requests().len();
        world.api.fault("all", fault, usize::MAX);
        world.api.forget();
        tokio::time::sleep(Duration::from_mins(1)).await;
        world.daemon.finish("a-1", Ok("sha256:1"));
        tokio::time::sleep(Duration::from_mins(4)).await;
        // One outcome every five seconds, a report of the member as often, two watches every half minute.
        let asked = world.api.requests().len() - before;
        assert!((10..200).contains(&asked), "{fault:?}: {asked} requests in five minutes");
        assert!(world.daemon.cancelled().is_empty());
        assert_eq!(world.status("a")["phase"], "Running");

        world.api.heal();
        let back = tokio::time::Instant::now();
        world.until_phase("a", "Succeeded").await;
        assert!(back.elapsed() < Duration::from_secs(20), "{fault:?}: written after {:?}", back.elapsed());
        // The watch is back: another job comes, and one that runs is taken away.
        world.api.set("buildjobs", "c", Some(job("c", &bound())));
        world.until_solved("c-1").await;
        world.api.set("buildjobs", "c", None);
        world.until_cancelled("c-1").await;
        world.daemon.finish("b-1", Ok("sha256:1"));
        world.until_phase("b", "Succeeded").await;
        assert_eq!(world.daemon.solved(), ["a-1", "b-1", "c-1"], "{fault:?}: each once");
    }
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_is_too_old_begins_with_a_list() {
    for by_status in [false, true] {
        let world = building().await;
        if by_status {
            world.api.refuse_old_watches();
        }
        world.api.forget();
        world.api.set("buildjobs", "b", Some(job("b", &bound())));
        world.until_solved("b-1").await;
        world.api.forget();
        world.api.set("buildjobs", "app", None);
        world.api.forget();
        world.until_cancelled("a-1").await;
    }
}

/// Why `buildpools_crds::watch` exists. When this fails, kube has mended it.
#[tokio::test(start_paused = true)]
async fn kube_alone_asks_for_a_forgotten_version_for_ever() {
    let world = World::start(vec![]);
    world.settle().await;
    world.api.refuse_old_watches();
    let jobs = kube::Api::<BuildJob>::namespaced(world.api.client(|| {}), "team-a");
    let mut stream = pin!(watcher(jobs, watcher::Config::default()).default_backoff());
    while !matches!(stream.next().await, Some(Ok(watcher::Event::InitDone))) {}
    world.api.forget();
    for _ in 0..100 {
        let event = stream.next().await;
        assert!(matches!(event, Some(Err(watcher::Error::WatchStartFailed(_)))), "{event:?}");
    }
}

/// Where a log cannot be written.
enum Broken {
    Fails(ErrorKind),
    /// Until the other end is dropped.
    Blocks(mpsc::Receiver<()>),
}

impl std::io::Write for Broken {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self {
            Self::Fails(kind) => Err((*kind).into()),
            Self::Blocks(receiver) => {
                let _ = receiver.recv();
                Ok(bytes.len())
            }
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn a_log_that_cannot_be_written_ends_no_build() {
    let (unblock, blocked) = mpsc::channel();
    let cases = [ErrorKind::StorageFull, ErrorKind::BrokenPipe, ErrorKind::WouldBlock].map(Broken::Fails);
    for out in cases.into_iter().chain([Broken::Blocks(blocked)]) {
        let world = World::start_with(Some(crate::world::pool(2)), vec![], Some(Box::new(out)));
        for uid in ["a", "b", "c"] {
            world.api.set("buildjobs", uid, Some(job(uid, &bound())));
            world.until_solved(&format!("{uid}-1")).await;
            world.daemon.finish(&format!("{uid}-1"), Err(Reason::BuildStepFailed));
            world.until_phase(uid, "Failed").await;
        }
        assert!(world.daemon.cancelled().is_empty());
        within(world.drain()).await;
    }
    drop(unblock);
}
