//! What happens when something goes wrong at the worst moment.

use std::time::Duration;

use buildpools_buildkit::{ErrorKind, HistoryState};
use buildpools_crds::v1alpha1::BuildJobStatus;
use serde_json::json;

use crate::api_server::Fault;
use crate::world::{World, bound, building, job, running, within};

/// A job that is bound after the fault is set.
fn with_fault(what: &'static str, fault: Fault, times: usize) -> World {
    let world = World::start(vec![]);
    world.api.fault(what, fault, times);
    world.api.set("buildjobs", "app", Some(job("a", &bound())));
    world
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_to_running_is_read_and_the_job_solved_once() {
    for fault in [
        Fault::DoAndHang,
        Fault::DoThen(500),
        Fault::DoThen(504),
        Fault::Hang,
        Fault::Refuse(500),
        Fault::Refuse(429),
        Fault::Refuse(409),
        Fault::Refuse(403),
    ] {
        let world = with_fault("start", fault, 1);
        world.until_solved("a-1").await;
        let done = matches!(fault, Fault::DoAndHang | Fault::DoThen(_));
        assert_eq!(world.api.writes().len(), if done { 1 } else { 2 }, "{fault:?}");
        world.daemon.finish("a-1", Ok("sha256:1"));
        world.until_phase("app", "Succeeded").await;
        world.settle().await;
        assert_eq!(world.daemon.solved(), ["a-1"], "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_job_that_is_taken_away_before_running_is_acknowledged_is_never_solved() {
    for taken in [None, Some(job("a", &BuildJobStatus::default())), Some(job("another", &BuildJobStatus::default()))] {
        let world = with_fault("start", Fault::Hang, 1);
        world.until("running is being written", |world| world.api.writes().len() == 1).await;
        world.api.set("buildjobs", "app", taken.clone());
        world.settle().await;
        assert!(world.daemon.solved().is_empty(), "{taken:?}");
        assert_eq!(world.api.writes().len(), 1);
        // The slot is free.
        world.api.set("buildjobs", "b", Some(job("b", &bound())));
        world.api.set("buildjobs", "c", Some(job("c", &bound())));
        world.until_solved("b-1").await;
        world.until_solved("c-1").await;
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_solved_while_running_cannot_be_written() {
    let world = with_fault("start", Fault::Refuse(500), usize::MAX);
    world.settle().await;
    assert!(world.daemon.solved().is_empty());
    assert_eq!(world.status("app")["phase"], "Bound");
    world.api.heal();
    world.until_solved("a-1").await;
}

#[tokio::test(start_paused = true)]
async fn an_outcome_is_kept_until_it_is_written() {
    for (fault, times) in [
        (Fault::Refuse(503), 50),
        (Fault::Refuse(403), 5),
        (Fault::Refuse(409), 3),
        (Fault::Refuse(401), 3),
        (Fault::Hang, 3),
        (Fault::DoAndHang, 1),
        (Fault::DoThen(500), 1),
    ] {
        let world = building().await;
        world.api.fault("finish", fault, times);
        world.daemon.finish("a-1", Ok("sha256:1"));
        world.until_phase("app", "Succeeded").await;
        world.settle().await;
        assert_eq!(world.daemon.solved(), ["a-1"], "{fault:?}");
        let done = matches!(fault, Fault::DoAndHang | Fault::DoThen(_));
        assert_eq!(world.api.writes().len(), if done { 2 } else { 2 + times }, "{fault:?}");
        within(world.drain()).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_outcome_outlives_an_api_server_that_is_away() {
    let world = building().await;
    world.api.fault("all", Fault::Refuse(503), usize::MAX);
    world.api.forget();
    world.daemon.finish("a-1", Ok("sha256:1"));
    tokio::time::sleep(Duration::from_mins(30)).await;
    assert_eq!(world.status("app")["phase"], "Running");
    world.api.heal();
    world.until_phase("app", "Succeeded").await;
}

#[tokio::test(start_paused = true)]
async fn an_outcome_that_the_schema_refuses_is_written_without_its_details() {
    let world = building().await;
    world.api.fault("finish", Fault::Refuse(422), 1);
    world.daemon.finish("a-1", Err(ErrorKind::DiskFull));
    world.until_phase("app", "Failed").await;
    assert_eq!(world.status("app")["failure"], json!({"reason": "DiskFull", "message": "DiskFull happened"}));
}

#[tokio::test(start_paused = true)]
async fn an_outcome_meets_a_job_that_has_changed() {
    // (what became of the job, whether the outcome may be written)
    let mut labelled = job("a", &running("a", "me"));
    labelled["metadata"]["labels"] = json!({"team": "a"});
    for (now, written) in [
        (Some(labelled), true),
        (Some(job("a", &running("a", "another process"))), false),
        (Some(job("a", &BuildJobStatus::default())), false),
        (Some(job("another", &running("a", "me"))), false),
        (None, false),
    ] {
        let world = building().await;
        world.api.fault("finish", Fault::Refuse(500), 1);
        world.daemon.finish("a-1", Ok("sha256:1"));
        // That is another job, whose attempt this process knows nothing of: it is accounted for.
        let other = now.as_ref().is_some_and(|now| now["metadata"]["uid"] == "another");
        world.until("the outcome is being written", |world| world.api.writes().len() == 2).await;
        world.api.set("buildjobs", "app", now.clone());
        world.settle().await;
        assert_eq!(world.status("app")["phase"] == "Succeeded", written, "{now:?}");
        assert_eq!(world.api.writes().len(), if written || other { 3 } else { 2 });
        assert_eq!(world.status("app")["attempts"][0]["result"] == "DaemonLost", other);
        assert_eq!(world.daemon.solved(), ["a-1"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_job_that_is_deleted_or_taken_away_while_it_builds_is_cancelled() {
    for now in [None, Some(job("a", &BuildJobStatus::default())), Some(job("another", &BuildJobStatus::default()))] {
        let world = building().await;
        world.api.set("buildjobs", "app", now.clone());
        world.until_cancelled("a-1").await;
        world.settle().await;
        assert_eq!(world.api.writes().len(), 1, "nothing to write: {now:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_job_that_left_while_the_watch_was_away_is_cancelled() {
    let world = building().await;
    world.api.fault("watch", Fault::Refuse(503), 2);
    world.api.forget();
    world.api.set("buildjobs", "app", None);
    world.api.forget();
    world.until_cancelled("a-1").await;
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_is_away_cancels_nothing() {
    let world = building().await;
    world.api.fault("all", Fault::Refuse(503), usize::MAX);
    world.api.forget();
    tokio::time::sleep(Duration::from_mins(50)).await;
    world.api.heal();
    world.settle().await;
    assert!(world.daemon.cancelled().is_empty());
    world.daemon.finish("a-1", Ok("sha256:1"));
    world.until_phase("app", "Succeeded").await;
}

#[tokio::test(start_paused = true)]
async fn a_refused_token_cancels_every_build_at_once() {
    let world = building().await;
    world.daemon.remember("a-1", [Some(HistoryState::Active), Some(HistoryState::Cancelled)]);
    world.api.fault("all", Fault::Refuse(401), 20);
    // Whatever the call.
    world.api.forget();
    world.until_cancelled("a-1").await;
    // If the token is good again after all, the attempt is written off and nothing is built twice.
    world.until_phase("app", "Pending").await;
    assert_eq!(world.status("app")["attempts"][0]["result"], "RunnerLost");
    assert_eq!(world.daemon.solved(), ["a-1"]);
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_another_process_started_is_never_solved_whatever_fails() {
    for (what, fault) in [("get", Fault::Refuse(500)), ("finish", Fault::DoAndHang), ("finish", Fault::Refuse(500))] {
        let world = World::start(vec![]);
        world.api.fault(what, fault, 1);
        world.api.set("buildjobs", "app", Some(job("a", &running("a", "the process before"))));
        world.until_phase("app", "Pending").await;
        world.settle().await;
        assert!(world.daemon.solved().is_empty());
        assert_eq!(world.status("app")["attempts"].as_array().unwrap().len(), 1);
    }
}
