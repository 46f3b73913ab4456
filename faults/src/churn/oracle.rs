//! What must be true at the end: what the API says of each job is what the daemons did.

use std::collections::{BTreeMap, HashMap};

use anyhow::{Result, ensure};
use buildpools_crds::lifecycle::INFRA_RETRIES;
use buildpools_crds::v1alpha1::{BuildJob, BuildJobStatus, JobPhase};
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt as _};

use super::daemon::{Solve, digest, fails};
use super::{Figures, Home};

/// Jobs in one answer of the API server.
const PAGE: u32 = 500;

/// Violations that are told.
const TOLD: usize = 20;

/// Judges every job. `created` has where each belongs, by UID.
///
/// # Errors
/// When something happened that must never happen.
pub async fn judge(client: &Client, created: &BTreeMap<String, Home>, solves: &[Solve]) -> Result<Figures> {
    let mut of_job: HashMap<&str, Vec<&Solve>> = HashMap::new();
    for solve in solves {
        of_job.entry(solve.job().0).or_default().push(solve);
    }
    let mut figures = Figures { attempts: solves.len(), ..Figures::default() };
    let mut violations = Vec::new();
    let api: Api<BuildJob> = Api::all(client.clone());
    let mut params = ListParams::default().limit(PAGE);
    loop {
        let page = api.list(&params).await?;
        for job in page.items {
            let uid = job.uid().unwrap_or_default();
            let Some(home) = created.get(&uid) else { continue };
            let solves = of_job.remove(uid.as_str()).unwrap_or_default();
            let status = job.status.unwrap_or_default();
            figures.jobs += 1;
            match verdict(&uid, home, &status, &solves) {
                Ok(End::Succeeded) => figures.succeeded += 1,
                Ok(End::Failed) => figures.failed += 1,
                Ok(End::Exhausted) => figures.exhausted += 1,
                Err(why) => violations.push(format!("{}: {why}; {}", uid, serde_json::to_string(&status)?)),
            }
        }
        params.continue_token = page.metadata.continue_.filter(|token| !token.is_empty());
        if params.continue_token.is_none() {
            break;
        }
    }
    violations.extend(of_job.into_keys().map(|uid| format!("{uid} was built and does not exist")));
    let told: Vec<_> = violations.iter().take(TOLD).map(String::as_str).collect();
    ensure!(violations.is_empty(), "{} violations:\n{}", violations.len(), told.join("\n"));
    ensure!(figures.jobs == created.len(), "{} jobs were created, {} are there", created.len(), figures.jobs);
    Ok(figures)
}

#[derive(Debug, PartialEq, Eq)]
enum End {
    Succeeded,
    Failed,
    Exhausted,
}

fn verdict(uid: &str, home: &Home, status: &BuildJobStatus, solves: &[&Solve]) -> Result<End> {
    ensure!(status.phase.is_terminal(), "has not ended");
    ensure!(status.assigned_to.is_none(), "is still assigned");
    for (number, attempt) in (1..).zip(&status.attempts) {
        ensure!(attempt.number == number, "attempts are not numbered one after the other");
        ensure!(attempt.result.is_some(), "attempt {number} has no result");
    }
    for solve in solves {
        ensure!((&solve.place.namespace, &solve.place.pool) == (&home.0, &home.1), "built in {:?}", solve.place);
        let attempt = status.attempts.iter().find(|attempt| attempt.reference == solve.reference);
        ensure!(attempt.is_some_and(|a| a.pod_uid == solve.place.pod_uid), "{} is no attempt of it", solve.reference);
    }
    let last = status.attempts.last();
    let last_solve = solves.iter().find(|solve| last.is_some_and(|last| last.reference == solve.reference));
    if status.phase == JobPhase::Succeeded {
        ensure!(last_solve.is_some_and(|solve| solve.succeeded), "succeeded, and no daemon has built it");
        let image = status.image.as_ref().map(|image| image.digest.as_str());
        ensure!(image == last.map(|last| digest(&last.reference)).as_deref(), "has another attempt's digest");
        return Ok(End::Succeeded);
    }
    let failure = status.failure.as_ref().map(|failure| failure.reason.as_str()).unwrap_or_default();
    if failure == "BuildStepFailed" {
        ensure!(fails(uid) && last_solve.is_some(), "failed, and its build does not");
        return Ok(End::Failed);
    }
    let infrastructure = ["DaemonLost", "RunnerLost", "PodEvicted"];
    ensure!(infrastructure.contains(&failure), "failed with {failure:?}");
    ensure!(status.attempts.len() > INFRA_RETRIES, "was given up after {} attempts", status.attempts.len());
    Ok(End::Exhausted)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;
    use crate::churn::daemon::Place;

    fn job(change: impl FnOnce(&mut Value), solves: &[(&str, &str, bool)]) -> Result<End> {
        // Of the UID "job", builds do not fail.
        assert!(!fails("job"));
        let attempt = |number: i32, result: &str| {
            json!({"number": number, "pod": "main-0", "podUid": "pod", "ref": format!("job-{number}"),
                "startedAt": "2026-01-01T00:00:00.000000Z", "result": result})
        };
        let mut status = json!({
            "phase": "Succeeded",
            "attempts": [attempt(1, "RunnerLost"), attempt(2, "DaemonLost"), attempt(3, "Succeeded")],
            "image": {"digest": digest("job-3")},
        });
        change(&mut status);
        let place = |pool: &str| {
            Arc::new(Place { namespace: "team".into(), pool: pool.into(), pod_uid: "pod".into(), slots: 1 })
        };
        let solves: Vec<_> = solves
            .iter()
            .map(|(reference, pool, succeeded)| Solve {
                reference: (*reference).into(),
                place: place(pool),
                succeeded: *succeeded,
            })
            .collect();
        let home = ("team".to_owned(), "main".to_owned());
        verdict("job", &home, &serde_json::from_value(status).unwrap(), &solves.iter().collect::<Vec<_>>())
    }

    #[test]
    fn what_is_said_is_what_was_done() {
        let built = [("job-1", "main", false), ("job-3", "main", true)];
        assert_eq!(job(|_| {}, &built).unwrap(), End::Succeeded);
        let refused = |change: fn(&mut Value), solves: &[(&str, &str, bool)], why: &str| {
            let error = job(change, solves).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        };
        refused(|_| {}, &built[..1], "no daemon has built it");
        refused(|_| {}, &[("job-1", "main", false), ("job-3", "side", true)], "built in");
        refused(|_| {}, &[("job-4", "main", true)], "no attempt of it");
        refused(|status| status["phase"] = json!("Running"), &built, "has not ended");
        refused(|status| status["image"]["digest"] = json!(digest("job-1")), &built, "another attempt's digest");
        refused(|status| status["assignedTo"] = json!("pod"), &built, "still assigned");
        refused(|status| status["attempts"][0]["result"] = json!(null), &built, "no result");
        let fail = |status: &mut Value, reason: &str| {
            status["phase"] = json!("Failed");
            status["failure"] = json!({"reason": reason, "message": "m"});
        };
        let exhausted = job(|status| fail(status, "DaemonLost"), &built[..1]);
        assert_eq!(exhausted.unwrap(), End::Exhausted);
        let given_up = |status: &mut Value| {
            fail(status, "DaemonLost");
            status["attempts"].as_array_mut().unwrap().pop();
        };
        assert!(job(given_up, &built[..1]).is_err(), "there was a retry left");
        assert!(job(|status| fail(status, "BuildStepFailed"), &built).is_err());
        assert!(job(|status| fail(status, "Internal"), &built).is_err());
    }
}
