//! This member's entry in the pool's status.
//!
//! It is written beside the builds and never for one to wait for: what is news about the daemon or the credentials at
//! once, the number of builds ten seconds after it changed, and not at all if it has changed back by then. So a short
//! build costs its three writes and no fourth.

use std::sync::Arc;
use std::time::Duration;

use buildpools_crds::v1alpha1::{BuildPool, PoolMember};
use kube::Resource;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::Identity;
use crate::api::{ApiServer, Backoff};
use crate::credentials::Problems;

/// How long a changed number of builds may stay untold.
const BUILDS_AFTER: Duration = Duration::from_secs(10);

/// What there is to say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Version of the daemon; `None` until it has answered once.
    pub version: Option<String>,
    /// Snapshotter of the daemon.
    pub snapshotter: Option<String>,
    /// Builds that run.
    pub builds: usize,
    /// Problems with the mounted credentials and certificates.
    pub problems: Problems,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Urgency {
    Nothing,
    Later,
    Now,
}

/// Writes the entry whenever it must be, for ever.
pub async fn publish(api: ApiServer, me: Arc<Identity>, mut reports: watch::Receiver<Report>) {
    let mut written: Option<Report> = None;
    let mut changed_at: Option<Instant> = None;
    let mut backoff = Backoff::new();
    loop {
        let report = reports.borrow_and_update().clone();
        match urgency(written.as_ref(), &report) {
            Urgency::Nothing => {
                changed_at = None;
                if reports.changed().await.is_err() {
                    return;
                }
                continue;
            }
            Urgency::Later => {
                let due = *changed_at.get_or_insert_with(Instant::now) + BUILDS_AFTER;
                tokio::select! {
                    () = tokio::time::sleep_until(due) => {}
                    changed = reports.changed() => match changed {
                        Ok(()) => continue,
                        Err(_) => return,
                    }
                }
            }
            Urgency::Now => {}
        }
        match api.apply_member(&entry(&me, &report)).await {
            Ok(()) => {
                written = Some(report);
                changed_at = None;
                backoff = Backoff::new();
            }
            Err(refusal) => backoff.pause("reporting to the pool", &refusal).await,
        }
    }
}

fn urgency(written: Option<&Report>, report: &Report) -> Urgency {
    match written {
        _ if report.version.is_none() => Urgency::Nothing,
        Some(written) if written == report => Urgency::Nothing,
        Some(written) if Report { builds: report.builds, ..written.clone() } == *report => Urgency::Later,
        _ => Urgency::Now,
    }
}

/// The object to apply: this entry and nothing else is this field manager's.
fn entry(me: &Identity, report: &Report) -> Value {
    let member = PoolMember {
        uid: me.pod.uid.clone(),
        pod: me.pod.pod.clone(),
        version: report.version.clone(),
        snapshotter: report.snapshotter.clone(),
        builds: i32::try_from(report.builds).unwrap_or(i32::MAX),
        missing_secrets: report.problems.missing_secrets.clone(),
        warnings: report.problems.warnings.clone(),
        // The operator's.
        phase: None,
    };
    json!({
        "apiVersion": BuildPool::api_version(&()),
        "kind": BuildPool::kind(&()),
        "metadata": {"name": me.pool},
        "status": {"members": [member]},
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use buildpools_crds::lifecycle::Member;

    fn report(builds: usize) -> Report {
        Report {
            version: Some("v0.33.1".into()),
            snapshotter: Some("overlayfs".into()),
            builds,
            problems: Problems::default(),
        }
    }

    #[test]
    fn what_is_urgent() {
        let problems = Problems { warnings: vec!["w".into()], ..Problems::default() };
        let warned = Report { problems, ..report(1) };
        for (written, now, expected) in [
            (None, Report::default(), Urgency::Nothing),
            (None, report(0), Urgency::Now),
            (Some(report(0)), report(0), Urgency::Nothing),
            (Some(report(0)), report(1), Urgency::Later),
            (Some(report(0)), warned.clone(), Urgency::Now),
            (Some(warned), report(1), Urgency::Now),
        ] {
            assert_eq!(urgency(written.as_ref(), &now), expected, "{written:?} -> {now:?}");
        }
    }

    #[test]
    fn the_entry_is_this_member_alone() {
        let me = Identity {
            pod: Member { pod: "main-0".into(), uid: "u".into() },
            namespace: "team-a".into(),
            pool: "main".into(),
            instance: "i".into(),
        };
        assert_eq!(
            entry(&me, &report(2)),
            json!({
                "apiVersion": "buildpools.dev/v1alpha1",
                "kind": "BuildPool",
                "metadata": {"name": "main"},
                "status": {"members": [
                    {"uid": "u", "pod": "main-0", "version": "v0.33.1", "snapshotter": "overlayfs", "builds": 2},
                ]},
            })
        );
    }
}
