//! Kubernetes Events about pools: what a person must know, and once. They follow from what changes in the status, which
//! outlives the process, so a restart repeats none; what flaps is one Event that counts.

use std::time::Duration;

use buildpools_crds::conditions;
use buildpools_crds::v1alpha1::BuildPoolStatus;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use tracing::info;

use super::reasons;

/// Longest note that the API server takes, in bytes.
const NOTE_MAX: usize = 1024;

/// Time that an event gets.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Something that a person should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct News {
    /// Whether something is wrong.
    pub warning: bool,
    /// One word.
    pub reason: &'static str,
    /// What happened.
    pub note: String,
}

/// What is news in the next status.
pub fn news(before: &BuildPoolStatus, next: &BuildPoolStatus) -> Vec<News> {
    let mut all = Vec::new();
    let pair = |type_| (conditions::find(&before.conditions, type_), conditions::find(&next.conditions, type_));
    let is =
        |condition: Option<&Condition>, status: &str| condition.is_some_and(|condition| condition.status == status);

    let (was, upgrading) = pair(conditions::UPGRADING);
    let (went_on, goes_on) = (is(was, "True"), is(upgrading, "True"));
    let say = |reason, condition: Option<&Condition>| News {
        warning: false,
        reason,
        note: condition.map(|condition| condition.message.clone()).unwrap_or_default(),
    };
    if goes_on && !went_on {
        all.push(say("UpgradeStarted", upgrading));
    }
    if went_on && is(upgrading, "False") {
        all.push(say("UpgradeFinished", upgrading));
    }
    let held =
        [reasons::upgrading::DRAIN_TIMEOUT, reasons::upgrading::REPLACEMENT_NOT_READY, reasons::upgrading::PAUSED];
    all.extend(warning(was, upgrading, &held));

    let (was, ready) = pair(conditions::READY);
    if ready.is_some_and(|ready| ready.reason == reasons::DELETING) {
        if was.is_none_or(|was| was.reason != reasons::DELETING) {
            all.push(say(reasons::DELETING, ready));
        }
        return all;
    }
    let quiet = [reasons::READY, reasons::MEMBERS_NOT_READY, reasons::DELETING];
    let loud: Vec<&'static str> = reasons::ALL.iter().copied().filter(|reason| !quiet.contains(reason)).collect();
    all.extend(warning(was, ready, &loud));

    let (was, credentials) = pair(conditions::CREDENTIALS_READY);
    all.extend(warning(was, credentials, &[reasons::credentials::SECRET_MISSING, reasons::credentials::ENTRY_INVALID]));
    all
}

/// A condition that has come to one of these reasons.
fn warning(was: Option<&Condition>, is: Option<&Condition>, loud: &[&'static str]) -> Option<News> {
    let is = is?;
    let reason = loud.iter().find(|reason| **reason == is.reason)?;
    let new = was.is_none_or(|was| was.reason != is.reason);
    new.then(|| News { warning: true, reason, note: is.message.clone() })
}

/// Publishes news.
#[derive(Clone)]
pub struct Announcer(Recorder);

impl Announcer {
    /// Publishes with this client.
    pub fn new(client: Client) -> Self {
        // Without the process's name: whoever leads next counts on.
        Self(Recorder::new(client, Reporter { controller: "buildpools.dev/pool".to_owned(), instance: None }))
    }

    /// Publishes some time. What becomes of an event changes nothing.
    pub fn announce(&self, pool: &ObjectReference, news: Vec<News>) {
        for News { warning, reason, note } in news {
            let event = Event {
                type_: if warning { EventType::Warning } else { EventType::Normal },
                reason: reason.to_owned(),
                note: Some(conditions::truncate(&note, NOTE_MAX)),
                action: "Reconcile".to_owned(),
                secondary: None,
            };
            let (recorder, pool) = (self.0.clone(), pool.clone());
            tokio::spawn(async move {
                match tokio::time::timeout(TIMEOUT, recorder.publish(&event, &pool)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => info!(%error, pool = ?pool.name, "an event was not published"),
                    Err(_) => info!(pool = ?pool.name, "an event was not published in time"),
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use buildpools_crds::conditions::Status;
    use jiff::Timestamp;

    use super::*;

    fn status(said: &[(&str, Status, &str)]) -> BuildPoolStatus {
        let mut next = BuildPoolStatus::default();
        for (type_, status, reason) in said {
            let _ = conditions::set(&mut next.conditions, type_, *status, reason, "m", None, Timestamp::UNIX_EPOCH);
        }
        next
    }

    #[test]
    fn a_change_is_told_once_and_what_goes_well_is_not() {
        let ready = (conditions::READY, Status::True, reasons::READY);
        let not_ready = |reason| (conditions::READY, Status::False, reason);
        let upgrading = |status, reason| (conditions::UPGRADING, status, reason);
        let rest = upgrading(Status::False, reasons::upgrading::UP_TO_DATE);
        let drains = upgrading(Status::True, reasons::upgrading::DRAINING);
        let held = upgrading(Status::True, reasons::upgrading::DRAIN_TIMEOUT);
        let missing = (conditions::CREDENTIALS_READY, Status::False, reasons::credentials::SECRET_MISSING);
        for (before, next, expected) in [
            (vec![], vec![not_ready(reasons::MEMBERS_NOT_READY), rest], vec![]),
            (vec![not_ready(reasons::MEMBERS_NOT_READY), rest], vec![ready, rest], vec![]),
            (vec![ready, rest], vec![ready, drains], vec!["UpgradeStarted"]),
            (vec![ready, drains], vec![ready, drains], vec![]),
            (vec![ready, drains], vec![ready, held], vec!["!DrainTimeoutExceeded"]),
            (vec![ready, held], vec![ready, held], vec![]),
            (vec![ready, held], vec![ready, rest], vec!["UpgradeFinished"]),
            (vec![ready], vec![not_ready(reasons::IMAGE_PULL_FAILED)], vec!["!ImagePullFailed"]),
            (vec![ready], vec![ready, missing], vec!["!SecretMissing"]),
            (vec![ready, missing], vec![ready, missing], vec![]),
            (vec![ready], vec![not_ready(reasons::DELETING)], vec!["Deleting"]),
            (vec![not_ready(reasons::DELETING)], vec![not_ready(reasons::DELETING)], vec![]),
        ] {
            let told: Vec<String> = news(&status(&before), &status(&next))
                .iter()
                .map(|news| format!("{}{}", if news.warning { "!" } else { "" }, news.reason))
                .collect();
            assert_eq!(told, expected, "{before:?} → {next:?}");
        }
    }
}
