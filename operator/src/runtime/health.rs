//! `/livez`: the process runs. `/readyz`: it can do its work, or what it waits for.

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;

use super::readiness::Readiness;

/// The two pages.
pub fn router(readiness: Readiness) -> Router {
    // Waiting for something is no reason to be restarted: that would not make it appear.
    Router::new().route("/livez", get(async || "ok\n")).route("/readyz", get(ready)).with_state(readiness)
}

async fn ready(State(readiness): State<Readiness>) -> (StatusCode, String) {
    let pending = readiness.pending();
    if pending.is_empty() {
        (StatusCode::OK, "ok\n".to_owned())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, format!("waiting for\n{}\n", pending.join("\n")))
    }
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, to_bytes};
    use axum::http::Request;
    use tower::ServiceExt as _;

    use super::*;

    async fn ask(readiness: &Readiness, path: &str) -> (StatusCode, String) {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let answer = router(readiness.clone()).oneshot(request).await.unwrap();
        let status = answer.status();
        (status, String::from_utf8(to_bytes(answer.into_body(), 4096).await.unwrap().to_vec()).unwrap())
    }

    #[tokio::test]
    async fn readyz_names_what_is_missing_and_livez_does_not_mind() {
        let readiness = Readiness::default();
        let gate = readiness.gate("crds", "buildjobs.buildpools.dev does not exist");
        let (status, text) = ask(&readiness, "/readyz").await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(text, "waiting for\ncrds: buildjobs.buildpools.dev does not exist\n");
        assert_eq!(ask(&readiness, "/livez").await.0, StatusCode::OK);
        gate.open();
        assert_eq!(ask(&readiness, "/readyz").await, (StatusCode::OK, "ok\n".to_owned()));
    }
}
