//! What happens when nothing goes wrong, or only what is meant to: limits, restarts, the end.

use std::collections::BTreeSet;
use std::time::Duration;

use buildpools_buildkit::{ErrorKind, HistoryState};
use buildpools_crds::lifecycle;
use buildpools_crds::v1alpha1::BuildJobStatus;
use buildpools_runner::decide::Event;
use serde_json::json;

use crate::api_server::POD;
use crate::world::{World, bound, building, error, job, pool, running};

#[tokio::test(start_paused = true)]
async fn a_job_costs_two_writes_and_its_log_begins_and_ends() {
    let world = building().await;
    assert_eq!(world.status("app")["phase"], "Running", "acknowledged before it was solved");
    assert_eq!(world.status("app")["runnerInstance"], "me");
    world.daemon.finish("a-1", Ok("sha256:1"));
    world.until_phase("app", "Succeeded").await;
    let status = world.status("app");
    assert_eq!(status["image"], json!({"digest": "sha256:1", "names": ["r.test/app:1"]}));
    assert!(status.get("assignedTo").is_none() && status.get("runnerInstance").is_none(), "{status}");
    assert_eq!(status["attempts"][0]["result"], "Succeeded");
    world.settle().await;
    assert_eq!(world.api.writes(), ["patch buildjobs/status app: Running", "patch buildjobs/status app: Succeeded"]);
    // The number of builds went up and down again before it was due: the pool got its first report and no other.
    let reports = world.api.requests().iter().filter(|r| r.starts_with("patch buildpools/status")).count();
    assert_eq!(reports, 1);
    let log = world.drain().await;
    let lines: Vec<&str> = log.lines().collect();
    assert_eq!(lines[..2], ["[app] attempt 1 starts on main-0", "[app] #1 [1/1] RUN make"]);
    assert!(lines[2].starts_with("[app] succeeded: r.test/app:1@sha256:1 in "), "{log}");
}

#[tokio::test(start_paused = true)]
async fn a_job_that_is_bound_later_is_built_too() {
    let world = World::start(vec![]);
    world.settle().await;
    world.api.set("buildjobs", "app", Some(job("a", &bound())));
    world.until_solved("a-1").await;
}

#[tokio::test(start_paused = true)]
async fn what_does_not_fit_is_given_back_and_the_number_of_slots_is_the_pools_now() {
    let jobs = ["a", "b", "c"].map(|uid| (uid, job(uid, &bound())));
    let world = World::start(jobs.into());
    world
        .until("one is given back", |world| {
            ["a", "b", "c"].iter().filter(|job| world.status(job)["phase"] == "Pending").count() == 1
        })
        .await;
    world.until("two are solved", |world| world.daemon.solved().len() == 2).await;
    assert_eq!(world.status("c")["phase"], "Pending", "the last");
    assert!(world.status("c").get("assignedTo").is_none());
    assert_eq!(world.status("c")["conditions"][0]["message"], "the member is full");
    // A third slot.
    world.api.set("buildpools", "main", Some(pool(3)));
    world.settle().await;
    world.api.set("buildjobs", "c", Some(job("c", &bound())));
    world.until_solved("c-1").await;
    assert!(world.daemon.cancelled().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_failed_build_says_what_failed() {
    let world = building().await;
    world.daemon.finish("a-1", Err(ErrorKind::BuildStepFailed));
    world.until_phase("app", "Failed").await;
    let status = world.status("app");
    assert_eq!(status["failure"], json!({"reason": "BuildStepFailed", "message": "BuildStepFailed happened"}));
    let log = world.drain().await;
    assert!(log.ends_with("[app] failed: BuildStepFailed: BuildStepFailed happened\n"), "{log}");
}

#[tokio::test(start_paused = true)]
async fn a_lost_daemon_is_another_attempt_and_not_before_it_answers() {
    let world = building().await;
    world.daemon.finish("a-1", Err(ErrorKind::DaemonLost));
    world.until_phase("app", "Pending").await;
    let status = world.status("app");
    assert_eq!(status["attempts"][0]["result"], "DaemonLost");
    // Bound here again at once.
    let pending: BuildJobStatus = serde_json::from_value(status).unwrap();
    let again = lifecycle::bind(&pending, "main", &crate::world::member(), jiff::Timestamp::now()).unwrap();
    world.api.set("buildjobs", "app", Some(job("a", &again)));
    world.settle().await;
    assert_eq!(world.daemon.solved(), ["a-1"]);
    world.events.send(Event::Daemon(true)).unwrap();
    world.until_solved("a-2").await;
}

#[tokio::test(start_paused = true)]
async fn a_broken_connection_is_told_when_the_daemon_has_ended_the_build() {
    let world = building().await;
    world.daemon.remember("a-1", [Some(HistoryState::Active)]);
    world.daemon.finish("a-1", Err(ErrorKind::DaemonLost));
    world.settle().await;
    assert_eq!(world.status("app")["phase"], "Running", "another attempt would meet it");
    world.daemon.remember("a-1", [Some(HistoryState::Cancelled)]);
    world.until_phase("app", "Pending").await;
}

#[tokio::test(start_paused = true)]
async fn a_build_that_takes_too_long_is_stopped() {
    for (timeout, of_pool, seconds, field) in [
        (Some("90s"), None, 90, "spec.timeout"),
        (Some("90s"), Some("1m"), 90, "spec.timeout"),
        (None, Some("2m"), 120, "spec.jobDefaults.timeout of BuildPool main"),
        (None, None, 3600, "spec.maxBuildDuration of BuildPool main"),
        (None, Some("2h"), 3600, "spec.maxBuildDuration of BuildPool main"),
        (Some("2h"), None, 3600, "spec.maxBuildDuration of BuildPool main"),
    ] {
        let mut limited = job("a", &bound());
        if let Some(timeout) = timeout {
            limited["spec"]["timeout"] = json!(timeout);
        }
        let mut pool = pool(2);
        if let Some(timeout) = of_pool {
            pool["spec"]["jobDefaults"] = json!({"timeout": timeout});
        }
        let world = World::start_with(Some(pool), vec![("app", limited)], None);
        world.until_solved("a-1").await;
        let began = tokio::time::Instant::now();
        // The limit of a build that runs does not change.
        world.api.change("buildpools", "main", |pool| pool["spec"]["jobDefaults"] = json!({"timeout": "1s"}));
        tokio::time::sleep(Duration::from_secs(seconds - 1)).await;
        assert_eq!(world.status("app")["phase"], "Running");
        world.until_phase("app", "Failed").await;
        assert_eq!(began.elapsed().as_secs(), seconds);
        assert_eq!(world.daemon.cancelled(), ["a-1"]);
        let failure = world.status("app")["failure"].clone();
        assert_eq!(failure["reason"], "Timeout");
        let message = failure["message"].as_str().unwrap();
        assert!(message.contains(&format!("that {field} allows. It was at [1/1] RUN make.")), "{message}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_number_of_retries_is_the_jobs_or_the_pools_at_the_end() {
    for (of_job, before, now, phase) in [
        (None, None, None, "Pending"),
        (None, None, Some(0), "Failed"),
        (None, Some(0), Some(1), "Pending"),
        (Some(0), None, Some(5), "Failed"),
        (Some(1), None, Some(0), "Pending"),
    ] {
        let mut bound = job("a", &bound());
        if let Some(retries) = of_job {
            bound["spec"]["infraRetries"] = json!(retries);
        }
        let mut pool = pool(2);
        pool["spec"]["jobDefaults"] = json!({"infraRetries": before});
        let world = World::start_with(Some(pool), vec![("app", bound)], None);
        world.until_solved("a-1").await;
        world.api.change("buildpools", "main", |pool| pool["spec"]["jobDefaults"] = json!({"infraRetries": now}));
        world.settle().await;
        world.daemon.finish("a-1", Err(ErrorKind::DaemonLost));
        world.until_phase("app", phase).await;
        assert_eq!(world.status("app")["attempts"][0]["result"], "DaemonLost");
    }
}

#[tokio::test(start_paused = true)]
async fn a_pool_that_is_deleted_leaves_nothing_unaccounted_for() {
    let world = World::start_with(None, vec![("app", job("a", &running("a", "the process before")))], None);
    world.until_phase("app", "Pending").await;
    assert_eq!(world.status("app")["attempts"][0]["result"], "DaemonLost");
    // There are no slots, and so no builds.
    world.api.set("buildjobs", "b", Some(job("b", &bound())));
    world.until_phase("b", "Pending").await;
    assert!(world.daemon.solved().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_restarted_runner_accounts_for_its_jobs_and_solves_none_again() {
    let succeeded = || Some(HistoryState::Succeeded { digest: Some("sha256:1".into()) });
    let failed = || Some(HistoryState::Failed(Box::new(error(ErrorKind::DockerfileInvalid))));
    for (history, phase, result) in [
        (vec![succeeded()], "Succeeded", "Succeeded"),
        (vec![failed()], "Failed", "DockerfileInvalid"),
        (vec![Some(HistoryState::Active), Some(HistoryState::Active), succeeded()], "Succeeded", "Succeeded"),
        (vec![Some(HistoryState::Active), Some(HistoryState::Cancelled)], "Pending", "RunnerLost"),
        (vec![Some(HistoryState::Failed(Box::new(error(ErrorKind::Cancelled))))], "Pending", "RunnerLost"),
        (vec![Some(HistoryState::Failed(Box::new(error(ErrorKind::OutOfMemory))))], "Pending", "OutOfMemory"),
        (vec![Some(HistoryState::Succeeded { digest: None })], "Pending", "RunnerLost"),
        (vec![None], "Pending", "DaemonLost"),
    ] {
        let world = World::start(vec![]);
        world.daemon.remember("a-1", history.clone());
        world.api.set("buildjobs", "app", Some(job("a", &running("a", "the process before"))));
        world.until_phase("app", phase).await;
        assert_eq!(world.status("app")["attempts"][0]["result"], result, "{history:?}");
        assert!(world.status("app").get("assignedTo").is_none());
        world.settle().await;
        assert!(world.daemon.solved().is_empty());
        assert_eq!(world.api.writes().len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn at_the_end_builds_finish_and_bound_jobs_go_elsewhere() {
    let world = building().await;
    world.events.send(Event::Drain).unwrap();
    world.api.set("buildjobs", "late", Some(job("l", &bound())));
    world.until_phase("late", "Pending").await;
    assert_eq!(world.status("late")["conditions"][0]["message"], "the member is stopping");
    // A second SIGTERM.
    world.events.send(Event::Drain).unwrap();
    world.settle().await;
    assert_eq!(world.status("app")["phase"], "Running");
    assert!(world.daemon.cancelled().is_empty());
    world.daemon.finish("a-1", Ok("sha256:1"));
    world.until_phase("app", "Succeeded").await;
    world.drain().await;
}

#[tokio::test(start_paused = true)]
async fn the_pool_learns_of_builds_that_take_long() {
    let world = building().await;
    world
        .until("one build is reported", |world| {
            world.api.get("buildpools", "main").unwrap()["status"]["members"][0]["builds"] == 1
        })
        .await;
    let member = world.api.get("buildpools", "main").unwrap()["status"]["members"][0].clone();
    assert_eq!(member, json!({"uid": POD, "pod": "main-0", "version": "v1", "builds": 1}));
}

#[tokio::test(start_paused = true)]
async fn the_role_allows_what_is_used_and_nothing_else() {
    let world = building().await;
    world.daemon.finish("a-1", Ok("sha256:1"));
    world.until_phase("app", "Succeeded").await;
    // Another is deleted while it builds: it is read.
    world.api.set("buildjobs", "gone", Some(job("g", &bound())));
    world.until_solved("g-1").await;
    world.api.set("buildjobs", "gone", None);
    world.until_cancelled("g-1").await;

    let manifest = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/base/rbac.yaml");
    let manifest = std::fs::read_to_string(manifest).unwrap();
    let documents = manifest.split("\n---\n").map(|text| serde_yaml::from_str::<serde_json::Value>(text).unwrap());
    let role = documents
        .into_iter()
        .find(|object| object["kind"] == "ClusterRole" && object["metadata"]["name"] == "buildpools-runner")
        .unwrap();
    let mut allowed = BTreeSet::new();
    for rule in role["rules"].as_array().unwrap() {
        assert_eq!(rule["apiGroups"], json!(["buildpools.dev"]));
        for (resource, verb) in rule["resources"]
            .as_array()
            .unwrap()
            .iter()
            .flat_map(|resource| rule["verbs"].as_array().unwrap().iter().map(move |verb| (resource, verb)))
        {
            allowed.insert((verb.as_str().unwrap().to_owned(), resource.as_str().unwrap().to_owned()));
        }
    }
    assert_eq!(world.api.used(), allowed);
}
