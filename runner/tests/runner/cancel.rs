//! `spec.cancel`.

use std::time::Duration;

use buildpools_buildkit::{ErrorKind, HistoryState};
use buildpools_runner::decide::Event;
use serde_json::{Value, json};

use crate::api_server::Fault;
use crate::world::{World, bound, building, error, job, running, within};

fn to_be_cancelled(mut job: Value) -> Value {
    job["spec"]["cancel"] = json!(true);
    job
}

fn succeeded() -> HistoryState {
    HistoryState::Succeeded { digest: Some("sha256:1".into()) }
}

#[tokio::test(start_paused = true)]
async fn a_running_build_is_stopped_and_the_outcome_written_when_the_daemon_has_ended_it() {
    let world = building().await;
    world.daemon.remember("a-1", [Some(HistoryState::Active)]);
    world.cancel("app");
    world.until_cancelled("a-1").await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(world.status("app")["phase"], "Running", "its steps may still run");
    // Nor is its slot free.
    world.api.set("buildjobs", "b", Some(job("b", &bound())));
    world.until_solved("b-1").await;
    world.api.set("buildjobs", "c", Some(job("c", &bound())));
    world.until_phase("c", "Pending").await;
    world.daemon.remember("a-1", [Some(HistoryState::Cancelled)]);
    world.until_phase("app", "Cancelled").await;
    let status = world.status("app");
    assert_eq!(status["failure"]["reason"], "Cancelled");
    assert_eq!(status["attempts"][0]["result"], "Cancelled");
    assert!(status.get("assignedTo").is_none() && status.get("runnerInstance").is_none(), "{status}");
    world.api.set("buildjobs", "d", Some(job("d", &bound())));
    world.until_solved("d-1").await;
    // Running, the outcome, and in between the conflict with the change of the spec.
    assert_eq!(world.api.writes().iter().filter(|write| write.contains(" app: ")).count(), 3);
    assert_eq!(world.daemon.cancelled(), ["a-1"]);
    world.daemon.finish("b-1", Ok("sha256:1"));
    world.daemon.finish("d-1", Ok("sha256:1"));
    let log = world.drain().await;
    assert!(log.contains("[app] cancelled after "), "{log}");
}

#[tokio::test(start_paused = true)]
async fn what_the_daemon_had_done_by_then_decides() {
    let failed = |kind| Some(HistoryState::Failed(Box::new(error(kind))));
    for (found, phase) in [
        (Some(succeeded()), "Succeeded"),
        // There should be an image, and nobody knows which.
        (Some(HistoryState::Succeeded { digest: None }), "Cancelled"),
        // In their own words, steps fail because they were stopped.
        (failed(ErrorKind::RegistryUnavailable), "Cancelled"),
        (failed(ErrorKind::Cancelled), "Cancelled"),
        (Some(HistoryState::Cancelled), "Cancelled"),
        (None, "Cancelled"),
    ] {
        let world = building().await;
        world.daemon.remember("a-1", [found.clone()]);
        world.cancel("app");
        world.until_phase("app", phase).await;
        assert_eq!(world.status("app")["attempts"][0]["result"], phase, "{found:?}");
        assert_eq!(world.status("app").get("image").is_some(), phase == "Succeeded");
    }
}

#[tokio::test(start_paused = true)]
async fn an_outcome_that_came_first_stays() {
    for (result, phase) in [(Ok("sha256:1"), "Succeeded"), (Err(ErrorKind::BuildStepFailed), "Failed")] {
        let world = building().await;
        world.api.fault("finish", Fault::Refuse(503), 1);
        world.daemon.finish("a-1", result);
        world.until("the outcome is being written", |world| world.api.writes().len() == 2).await;
        world.cancel("app");
        world.until_phase("app", phase).await;
        assert!(world.daemon.cancelled().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_build_that_is_to_be_cancelled_is_not_built_again() {
    let world = building().await;
    world.api.fault("finish", Fault::Refuse(503), 1);
    world.daemon.finish("a-1", Err(ErrorKind::DaemonLost));
    world.until("the outcome is being written", |world| world.api.writes().len() == 2).await;
    world.cancel("app");
    world.until_phase("app", "Cancelled").await;
    assert_eq!(world.status("app")["attempts"][0]["result"], "DaemonLost");
}

#[tokio::test(start_paused = true)]
async fn a_daemon_that_does_not_end_the_build_holds_the_job_for_five_seconds() {
    for hangs in [false, true] {
        let world = building().await;
        world.daemon.remember("a-1", [Some(HistoryState::Active)]);
        if hangs {
            world.daemon.hang();
        }
        let began = tokio::time::Instant::now();
        world.cancel("app");
        world.until_phase("app", "Cancelled").await;
        assert_eq!(began.elapsed().as_secs(), 5);
        let log = world.drain().await;
        assert!(log.contains("[app] the build was stopped, but the daemon has not ended it within 5 s\n"), "{log}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_bound_job_that_is_to_be_cancelled_is_left_to_the_operator() {
    let world = World::start(vec![("app", to_be_cancelled(job("a", &bound())))]);
    world.settle().await;
    // Also while the member stops: it would only be in the operator's way.
    world.events.send(Event::Drain).unwrap();
    world.settle().await;
    assert!(world.daemon.solved().is_empty());
    assert!(world.api.writes().is_empty());
    within(world.drain()).await;
}

#[tokio::test(start_paused = true)]
async fn a_job_that_is_cancelled_while_running_is_written_is_not_solved() {
    // (what becomes of the write, the writes in all)
    for (fault, solved_state, writes) in [
        // Not written: the change of the spec makes it a conflict.
        (Fault::Hang, "Bound", 1),
        (Fault::Refuse(503), "Bound", 1),
        // Written: then it must be ended.
        (Fault::DoAndHang, "Cancelled", 2),
    ] {
        let world = World::start(vec![]);
        world.api.fault("start", fault, 1);
        world.api.set("buildjobs", "app", Some(job("a", &bound())));
        world.until("running is being written", |world| world.api.writes().len() == 1).await;
        world.cancel("app");
        world.until_phase("app", solved_state).await;
        world.settle().await;
        assert!(world.daemon.solved().is_empty(), "{fault:?}");
        assert_eq!(world.api.writes().len(), writes, "{fault:?}");
        assert_eq!(world.status("app")["phase"], solved_state);
        // The slots are free.
        for uid in ["b", "c"] {
            world.api.set("buildjobs", uid, Some(job(uid, &bound())));
            world.until_solved(&format!("{uid}-1")).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_attempt_of_an_earlier_process_is_accounted_for() {
    let failed = |kind| Some(HistoryState::Failed(Box::new(error(kind))));
    for (history, phase, result) in [
        (vec![Some(HistoryState::Active), Some(HistoryState::Cancelled)], "Cancelled", "Cancelled"),
        (vec![failed(ErrorKind::Cancelled)], "Cancelled", "Cancelled"),
        (vec![None], "Cancelled", "DaemonLost"),
        (vec![failed(ErrorKind::BuildStepFailed)], "Failed", "BuildStepFailed"),
        (vec![Some(succeeded())], "Succeeded", "Succeeded"),
    ] {
        let world = World::start(vec![]);
        world.daemon.remember("a-1", history.clone());
        let running = job("a", &running("a", "the process before"));
        world.api.set("buildjobs", "app", Some(to_be_cancelled(running)));
        world.until_phase("app", phase).await;
        assert_eq!(world.status("app")["attempts"][0]["result"], result, "{history:?}");
        assert!(world.daemon.solved().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_build_is_reported_when_the_api_server_is_back() {
    let world = building().await;
    world.daemon.remember("a-1", [Some(HistoryState::Cancelled)]);
    world.api.fault("finish", Fault::Refuse(503), 100);
    world.cancel("app");
    world.until_phase("app", "Cancelled").await;
    assert_eq!(world.daemon.cancelled(), ["a-1"]);
}

#[tokio::test(start_paused = true)]
async fn a_member_that_stops_still_cancels() {
    let world = building().await;
    world.events.send(Event::Drain).unwrap();
    world.cancel("app");
    world.until_phase("app", "Cancelled").await;
    within(world.drain()).await;
}
