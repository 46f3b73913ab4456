//! Conditions: types, reasons and how they are set.
//!
//! Rules: <https://github.com/kubernetes/community/blob/master/contributors/devel/sig-architecture/api-conventions.md>.
//! `lastTransitionTime` moves only when the status changes, and a condition that says the same as before is not a
//! change, so that a controller at rest writes nothing.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// BuildPool: at least one member is ready for builds and nothing stands in the way of the others.
pub const READY: &str = "Ready";
/// BuildPool: members that run an older form of the pool are being replaced, one at a time.
pub const UPGRADING: &str = "Upgrading";
/// BuildPool: all Secrets of `spec.credentials` are there, and all of their entries can be used.
pub const CREDENTIALS_READY: &str = "CredentialsReady";
/// BuildPool: all members run the advised version of BuildKit, or a newer one.
pub const BUILDKIT_UP_TO_DATE: &str = "BuildKitUpToDate";
/// BuildPool: the members' caches have room and work as they should.
pub const CACHE_HEALTHY: &str = "CacheHealthy";
/// BuildJob: the build succeeded (`kubectl wait --for=condition=Complete`).
pub const COMPLETE: &str = "Complete";
/// BuildJob: the build failed for good (`kubectl wait --for=condition=Failed`).
pub const FAILED: &str = "Failed";
/// kstatus: work is going on (Helm `--wait`, Flux and kpt read it as InProgress).
pub const RECONCILING: &str = "Reconciling";
/// kstatus: no progress will be made (read as Failed).
pub const STALLED: &str = "Stalled";

/// BuildJob: nothing is heard of the node that the build runs on. Whether it goes on is unknown, so nothing else is done.
pub const NODE_UNREACHABLE: &str = "NodeUnreachable";

/// `status` of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// `"True"`.
    True,
    /// `"False"`.
    False,
    /// `"Unknown"`.
    Unknown,
}

impl Status {
    /// The API's spelling.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::True => "True",
            Status::False => "False",
            Status::Unknown => "Unknown",
        }
    }
}

/// Longest message of a condition that we write. The API allows 32768; a status should stay readable.
const MESSAGE_MAX: usize = 2048;

/// Sets a condition; returns whether anything changed.
#[must_use = "a status needs to be written only if a condition changed"]
pub fn set(
    conditions: &mut Vec<Condition>,
    type_: &str,
    status: Status,
    reason: &str,
    message: &str,
    observed_generation: Option<i64>,
    now: Timestamp,
) -> bool {
    let message = truncate(message, MESSAGE_MAX);
    let transition = Time(whole_seconds(now));
    let Some(old) = conditions.iter_mut().find(|c| c.type_ == type_) else {
        conditions.push(Condition {
            type_: type_.to_owned(),
            status: status.as_str().to_owned(),
            reason: reason.to_owned(),
            message,
            observed_generation,
            last_transition_time: transition,
        });
        return true;
    };
    let same = old.status == status.as_str()
        && old.reason == reason
        && old.message == message
        && old.observed_generation == observed_generation;
    if same {
        return false;
    }
    if old.status != status.as_str() {
        status.as_str().clone_into(&mut old.status);
        old.last_transition_time = transition;
    }
    reason.clone_into(&mut old.reason);
    old.message = message;
    old.observed_generation = observed_generation;
    true
}

/// The condition of this type.
pub fn find<'a>(conditions: &'a [Condition], type_: &str) -> Option<&'a Condition> {
    conditions.iter().find(|c| c.type_ == type_)
}

/// Whether the condition of this type is True.
pub fn is_true(conditions: &[Condition], type_: &str) -> bool {
    find(conditions, type_).is_some_and(|c| c.status == "True")
}

/// Cuts a text to at most `max` bytes at a character boundary.
pub fn truncate(text: &str, max: usize) -> String {
    if text.len() <= max {
        return text.to_owned();
    }
    let end = (0..=max.saturating_sub('…'.len_utf8())).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
    format!("{}…", &text[..end])
}

/// metav1.Time has whole seconds: a finer time would differ from what the API returns.
fn whole_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn saying_the_same_again_is_no_change() {
        let mut conditions = vec![];
        assert!(set(&mut conditions, READY, Status::False, "A", "m", Some(1), at(1)));
        assert!(!set(&mut conditions, READY, Status::False, "A", "m", Some(1), at(2)));
        assert_eq!(conditions[0].last_transition_time.0, at(1));
    }

    #[test]
    fn transition_time_moves_with_the_status_only() {
        let mut conditions = vec![];
        let _ = set(&mut conditions, READY, Status::False, "A", "m", Some(1), at(1));
        assert!(set(&mut conditions, READY, Status::False, "B", "n", Some(2), at(2)));
        assert_eq!(conditions[0].last_transition_time.0, at(1));
        assert!(set(&mut conditions, READY, Status::True, "C", "", Some(2), at(3)));
        assert_eq!(conditions[0].last_transition_time.0, at(3));
    }

    #[test]
    fn a_long_message_is_cut_at_a_character() {
        let cut = truncate(&"ä".repeat(10), 8);
        assert_eq!(cut, "ää…");
        assert_eq!(truncate("short", 8), "short");
    }
}
