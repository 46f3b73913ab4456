//! `/debug/queue`: what would be decided now about each job that waits.
//!
//! It names jobs of all tenants, so it is served to this pod alone; `kubectl port-forward` reaches it, which asks the API
//! server for permission.

use std::fmt::Write as _;

use axum::extract::{RawQuery, State};
use axum::http::header::ACCEPT;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use axum::{Json, Router};
use jiff::{SignedDuration, Timestamp};

use super::lease::Leader;
use crate::dispatch::explain::{Explained, Explainer};

/// The page. `leader` is who leads, for when it is not this process.
pub fn router(explainer: Explainer, leader: Leader) -> Router {
    Router::new().route("/debug/queue", get(queue)).with_state((explainer, leader))
}

async fn queue(
    State((explainer, leader)): State<(Explainer, Leader)>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let Some(mut jobs) = explainer.explain().await else {
        let leader = leader.name().unwrap_or_else(|| "not known yet".to_owned());
        return (StatusCode::SERVICE_UNAVAILABLE, format!("not the leader; the leader is {leader}\n")).into_response();
    };
    let query = query.unwrap_or_default();
    let parameter = |wanted: &str| {
        form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == wanted).map(|(_, value)| value)
    };
    if let Some(namespace) = parameter("namespace") {
        jobs.retain(|job| job.namespace == namespace);
    }
    let accepts = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    match parameter("format").as_deref() {
        Some("json") => Json(jobs).into_response(),
        None if accepts.contains("application/json") => Json(jobs).into_response(),
        None | Some("text") => table(&jobs, Timestamp::now()).into_response(),
        Some(other) => {
            (StatusCode::BAD_REQUEST, format!("format={other} is not known: text or json\n")).into_response()
        }
    }
}

/// One line for each job.
fn table(jobs: &[Explained], now: Timestamp) -> String {
    if jobs.is_empty() {
        return "no job waits\n".to_owned();
    }
    let heading = ["NAMESPACE", "JOB", "POOL", "GROUP", "PRIORITY", "POSITION", "WAITS", "DECISION", "REASON"];
    let mut rows = vec![heading.map(str::to_owned)];
    rows.extend(jobs.iter().map(|job| {
        [
            job.namespace.clone(),
            job.job.clone(),
            or_dash(&job.pool),
            or_dash(&job.group),
            job.priority.to_string(),
            job.position.map_or_else(|| "-".to_owned(), |position| position.to_string()),
            format!("{:#}", SignedDuration::from_secs(now.duration_since(job.since).as_secs().max(0))),
            job.decision.to_owned(),
            job.reason.replace(['\n', '\r', '\t'], " "),
        ]
    }));
    let mut widths = [0; 9];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in &rows {
        let cells = row.iter().zip(widths).fold(String::new(), |mut line, (cell, width)| {
            // Writing to a string cannot fail.
            let _ = write!(line, "{cell:width$}   ");
            line
        });
        text.push_str(cells.trim_end());
        text.push('\n');
    }
    text
}

fn or_dash(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(namespace: &str, name: &str, position: Option<i32>) -> Explained {
        Explained {
            namespace: namespace.to_owned(),
            job: name.to_owned(),
            pool: "main".to_owned(),
            group: String::new(),
            priority: -5,
            position,
            decision: "Wait",
            reason: "WaitingForSlot: all slots\nare taken".to_owned(),
            since: Timestamp::UNIX_EPOCH,
        }
    }

    #[test]
    fn the_table_has_a_line_for_each_job() {
        let now = Timestamp::from_second(3700).unwrap();
        let wanted = [
            "NAMESPACE   JOB             POOL   GROUP   PRIORITY   POSITION   WAITS       DECISION   REASON",
            "team-a      app             main   -       -5         1          1h 1m 40s   Wait       WaitingForSlot: all slots are taken",
            "b           a-longer-name   main   -       -5         -          1h 1m 40s   Wait       WaitingForSlot: all slots are taken",
        ];
        let text = table(&[job("team-a", "app", Some(1)), job("b", "a-longer-name", None)], now);
        assert_eq!(text.lines().collect::<Vec<_>>(), wanted);
        assert_eq!(table(&[], now), "no job waits\n");
    }
}
