//! Who is told of finished jobs.

use crate::dispatch::past::Past;
use crate::dispatch::routing;
use crate::history::Observer;
use crate::history::job::Finished;

use super::metrics::Metrics;

/// The dispatcher, of those of the past; the metrics, of those that end now.
#[derive(Clone, Debug)]
pub struct Told {
    /// The way to the dispatcher.
    pub past: Past,
    /// Where they are counted.
    pub metrics: Metrics,
}

impl Observer for Told {
    fn found(&self, job: &Finished) {
        let Finished { metadata, status, pool: Some(pool), cache_key, .. } = job else { return };
        let timing = &status.timing;
        // A job that was never started has used nothing.
        let (Some(started), Some(finished)) = (&timing.started_at, &timing.finished_at) else { return };
        self.past.tell(routing::Finished {
            pool: (metadata.namespace.clone().unwrap_or_default(), pool.clone()),
            labels: metadata.labels.clone().unwrap_or_default(),
            started: started.0,
            finished: finished.0,
            cache_key: Some(*cache_key),
        });
    }

    fn ended(&self, job: &Finished) {
        if let Some(created) = &job.metadata.creation_timestamp {
            self.metrics.job_ended(created.0, &job.status);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt as _, StreamExt as _};
    use serde_json::{Value, json};

    use super::*;
    use crate::dispatch::world::Seen;

    fn job(status: &Value) -> Finished {
        let job = json!({
            "metadata": {"namespace": "team", "name": "app", "labels": {"team": "a"}},
            "spec": {"poolRef": {"name": "main"}, "context": {"inline": {"files": []}}, "cacheKey": "k"},
            "status": status,
        });
        serde_json::from_value(job).unwrap()
    }

    #[test]
    fn the_dispatcher_is_told_what_builds_of_the_past_have_used() {
        let told = Told { past: Past::default(), metrics: Metrics::default() };
        let ended = json!({
            "phase": "Succeeded", "pool": "other",
            "timing": {"startedAt": "2026-01-01T00:00:00Z", "finishedAt": "2026-01-01T00:01:00Z"},
        });
        told.found(&job(&ended));
        let mut dispatcher = told.past.attach();
        assert!(dispatcher.next().now_or_never().is_none(), "there was no dispatcher");
        told.found(&job(&json!({"phase": "Failed", "timing": {"finishedAt": "2026-01-01T00:01:00Z"}})));
        assert!(dispatcher.next().now_or_never().is_none(), "it was never started");
        told.found(&job(&ended));
        let Some(Some(Seen::Finished(build))) = dispatcher.next().now_or_never() else { panic!() };
        assert_eq!(build.pool, ("team".to_owned(), "other".to_owned()));
        assert_eq!(build.finished.duration_since(build.started).as_secs(), 60);
        assert_eq!((build.labels["team"].as_str(), build.cache_key.is_some()), ("a", true));
    }
}
