//! Calls to the API server that end.
//!
//! The client itself may retry and wait for minutes (`RetryPolicy::server_retry`); a reconcile that hangs is worse than
//! one that fails and is tried again.

use std::future::Future;
use std::time::Duration;

use kube::core::Status;

/// Longest time of one call. Far above what an API server under load needs for one object, far below a lease.
pub const TIMEOUT: Duration = Duration::from_secs(10);

/// A call that failed.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The API server or the way to it said no.
    #[error("{}", describe(.0))]
    Kube(#[source] Box<kube::Error>),
    /// No answer in time. Whether a write took place is unknown.
    #[error("no answer from the API server within {} s", TIMEOUT.as_secs())]
    Timeout,
}

/// The API server's own words, without the debug form that `kube::Error` adds.
fn describe(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => format!("{} ({})", status.message, status.reason),
        other => other.to_string(),
    }
}

impl CallError {
    /// The API server's answer, if there was one.
    pub fn status(&self) -> Option<&Status> {
        match self {
            Self::Kube(error) => match error.as_ref() {
                kube::Error::Api(status) => Some(status),
                _ => None,
            },
            Self::Timeout => None,
        }
    }

    /// The object is not there.
    pub fn is_not_found(&self) -> bool {
        self.status().is_some_and(Status::is_not_found)
    }

    /// An object of this name is there already.
    pub fn is_already_exists(&self) -> bool {
        self.status().is_some_and(Status::is_already_exists)
    }

    /// Somebody else wrote first, or the object was replaced by another of the same name: read again.
    pub fn is_conflict(&self) -> bool {
        self.status().is_some_and(|status| {
            let replaced = status.is_invalid() && status.message.contains("metadata.uid");
            (status.is_conflict() && !status.is_already_exists()) || replaced
        })
    }

    /// The namespace is on its way out; nothing can be created in it any more.
    pub fn is_namespace_terminating(&self) -> bool {
        self.status().is_some_and(|status| {
            let causes = status.details.iter().flat_map(|details| &details.causes);
            causes.into_iter().any(|cause| cause.reason == "NamespaceTerminating")
        })
    }

    /// The API server understood the object and does not take it (validation, admission, quota, RBAC). Its text, made
    /// for people.
    pub fn refusal(&self) -> Option<&str> {
        let status = self.status()?;
        let refused = (status.is_invalid() || status.is_forbidden() || status.code == 400)
            && !self.is_conflict()
            && !self.is_namespace_terminating();
        refused.then_some(status.message.as_str())
    }

    /// A word for logs and metrics.
    pub fn category(&self) -> &'static str {
        match self {
            Self::Timeout => "Timeout",
            Self::Kube(_) if self.is_conflict() => "Conflict",
            Self::Kube(_) if self.is_namespace_terminating() => "NamespaceTerminating",
            Self::Kube(_) if self.refusal().is_some() => "Refused",
            Self::Kube(_) if self.status().is_some() => "ApiServer",
            Self::Kube(_) => "Connection",
        }
    }
}

/// Waits for an answer, but not longer than [`TIMEOUT`].
pub async fn call<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T, CallError> {
    match tokio::time::timeout(TIMEOUT, request).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(CallError::Kube(Box::new(error))),
        Err(_) => Err(CallError::Timeout),
    }
}

/// The same; `None` when the object is not there.
pub async fn get<T>(request: impl Future<Output = kube::Result<T>>) -> Result<Option<T>, CallError> {
    match call(request).await {
        Ok(object) => Ok(Some(object)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn api(code: u16, reason: &str, message: &str) -> CallError {
        CallError::Kube(Box::new(kube::Error::Api(Status::failure(message, reason).with_code(code).boxed())))
    }

    #[test]
    fn answers_are_told_apart() {
        let exists = api(409, "AlreadyExists", "x");
        assert!(exists.is_already_exists() && !exists.is_conflict());
        let replaced = api(422, "Invalid", "metadata.uid: Invalid value: field is immutable");
        assert!(replaced.is_conflict() && replaced.refusal().is_none());
        let invalid = api(422, "Invalid", "spec.replicas: Invalid value");
        assert_eq!(invalid.refusal(), Some("spec.replicas: Invalid value"));
        assert_eq!(invalid.to_string(), "spec.replicas: Invalid value (Invalid)");
        assert_eq!(api(409, "Conflict", "").category(), "Conflict");
        assert_eq!(api(500, "InternalError", "").category(), "ApiServer");
        assert_eq!(api(403, "Forbidden", "exceeded quota").category(), "Refused");
    }

    #[test]
    fn a_namespace_that_goes_is_no_refusal() {
        let status = serde_json::json!({
            "code": 403, "reason": "Forbidden", "message": "namespace is being terminated",
            "details": {"causes": [{"reason": "NamespaceTerminating", "message": "", "field": ""}]},
        });
        let status: Status = serde_json::from_value(status).unwrap();
        let error = CallError::Kube(Box::new(kube::Error::Api(status.boxed())));
        assert!(error.is_namespace_terminating() && error.refusal().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_without_an_answer_ends() {
        let error = call(std::future::pending::<kube::Result<()>>()).await.unwrap_err();
        assert!(matches!(error, CallError::Timeout), "{error}");
    }
}
