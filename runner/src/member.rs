//! This member's entry in the pool's status.
//!
//! It is written beside the builds and never for one to wait for: what is news about the daemon or the credentials at
//! once, the number of builds ten seconds after it changed, and not at all if it has changed back by then. So a short
//! build costs its three writes and no fourth. Figures of the cache follow once a minute at most; that it is getting full
//! is told at once.

use std::sync::Arc;
use std::time::Duration;

use buildpools_crds::v1alpha1::{BuildPool, MemberCache, PoolMember};
use kube::Resource;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::Identity;
use crate::api::{ApiServer, Backoff};
use crate::credentials::Problems;
use crate::hits::Total;

/// How long a changed number of builds may stay untold.
const BUILDS_AFTER: Duration = Duration::from_secs(10);
/// How often figures of the cache are told at most, unless it is getting full.
const FIGURES_EVERY: Duration = Duration::from_mins(1);

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
    /// The cache, without the steps of builds.
    pub cache: Option<MemberCache>,
    /// Steps of builds, and those that the cache had.
    pub hits: Total,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Urgency {
    Nothing,
    /// [`FIGURES_EVERY`] after the last write.
    InTime,
    /// [`BUILDS_AFTER`] the change.
    Soon,
    Now,
}

/// Writes the entry whenever it must be, for ever.
pub async fn publish(api: ApiServer, me: Arc<Identity>, mut reports: watch::Receiver<Report>) {
    let mut written: Option<Report> = None;
    let mut written_at = Instant::now();
    let mut changed_at: Option<Instant> = None;
    let mut backoff = Backoff::new();
    loop {
        let report = reports.borrow_and_update().clone();
        let due = match urgency(written.as_ref(), &report) {
            Urgency::Nothing => {
                changed_at = None;
                if reports.changed().await.is_err() {
                    return;
                }
                continue;
            }
            Urgency::InTime => {
                changed_at = None;
                Some(written_at + FIGURES_EVERY)
            }
            Urgency::Soon => Some(*changed_at.get_or_insert_with(Instant::now) + BUILDS_AFTER),
            Urgency::Now => None,
        };
        if let Some(due) = due {
            tokio::select! {
                () = tokio::time::sleep_until(due) => {}
                changed = reports.changed() => match changed {
                    // What has changed meanwhile changes nothing in when the rest is due.
                    Ok(()) if Instant::now() < due => continue,
                    Ok(()) => {}
                    Err(_) => return,
                }
            }
        }
        match api.apply_member(&entry(&me, &report)).await {
            Ok(()) => {
                written = Some(report);
                written_at = Instant::now();
                changed_at = None;
                backoff = Backoff::new();
            }
            Err(refusal) => backoff.pause("reporting to the pool", &refusal).await,
        }
    }
}

fn urgency(written: Option<&Report>, report: &Report) -> Urgency {
    if report.version.is_none() {
        return Urgency::Nothing;
    }
    let Some(written) = written else { return Urgency::Now };
    let about = |report: &Report| (report.version.clone(), report.snapshotter.clone(), report.problems.clone());
    if about(written) != about(report) {
        return Urgency::Now;
    }
    let builds = if written.builds == report.builds { Urgency::Nothing } else { Urgency::Soon };
    // Told with the cache.
    let hits = if written.hits == report.hits || report.cache.is_none() { Urgency::Nothing } else { Urgency::InTime };
    builds.max(hits).max(cache_urgency(written.cache.as_ref(), report.cache.as_ref()))
}

/// Figures that hardly differ are not told at all: where the volume is a directory of the node's disk, the free space is
/// never the same for long.
fn cache_urgency(written: Option<&MemberCache>, now: Option<&MemberCache>) -> Urgency {
    let (Some(before), Some(now)) = (written, now) else {
        return if written == now { Urgency::Nothing } else { Urgency::Now };
    };
    let told = |cache: &MemberCache| (cache.reset_done.clone(), cache.reset_at.clone(), cache.healed_at.clone());
    let fuller = |of: fn(&MemberCache) -> i64| scarcity(of(now)) > scarcity(of(before));
    if told(before) != told(now) || fuller(MemberCache::percent_available) || fuller(MemberCache::percent_inodes_free) {
        return Urgency::Now;
    }
    let moved =
        |of: fn(&MemberCache) -> i64| of(now).abs_diff(of(before)) >= 2 || scarcity(of(now)) < scarcity(of(before));
    let same = before.records == now.records
        && before.capacity_bytes == now.capacity_bytes
        && before.collected_at == now.collected_at
        && !moved(MemberCache::percent_available)
        && !moved(MemberCache::percent_inodes_free);
    if same { Urgency::Nothing } else { Urgency::InTime }
}

/// How scarce something is of which so many percent are free.
fn scarcity(percent: i64) -> usize {
    [20, 10, 5, 2, 1].into_iter().filter(|step| percent < *step).count()
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
        cache: report.cache.clone().map(|cache| MemberCache {
            steps: report.hits.steps,
            cached_steps: report.hits.cached,
            ..cache
        }),
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
        let snapshotter = Some("overlayfs".into());
        Report { version: Some("v0.33.1".into()), snapshotter, builds, ..Report::default() }
    }

    #[test]
    fn what_is_urgent() {
        let problems = Problems { warnings: vec!["w".into()], ..Problems::default() };
        let warned = Report { problems, ..report(1) };
        let hits = Total { steps: 1, cached: 0 };
        let cached = |builds| Report { cache: Some(MemberCache::default()), ..report(builds) };
        for (written, now, expected) in [
            (None, Report::default(), Urgency::Nothing),
            (None, report(0), Urgency::Now),
            (Some(report(0)), report(0), Urgency::Nothing),
            (Some(report(0)), report(1), Urgency::Soon),
            (Some(cached(0)), Report { hits, ..cached(0) }, Urgency::InTime),
            (Some(cached(0)), Report { hits, ..cached(1) }, Urgency::Soon),
            (Some(report(0)), Report { hits, ..report(0) }, Urgency::Nothing),
            (Some(report(0)), warned.clone(), Urgency::Now),
            (Some(warned), report(1), Urgency::Now),
        ] {
            assert_eq!(urgency(written.as_ref(), &now), expected, "{written:?} -> {now:?}");
        }
    }

    #[test]
    fn how_urgent_the_cache_is() {
        let full = |percent: i64, records: i64| MemberCache {
            records,
            capacity_bytes: 1000,
            available_bytes: percent * 10,
            ..MemberCache::default()
        };
        let reset = |done: &str| MemberCache { reset_done: Some(done.into()), ..full(50, 1) };
        for (written, now, expected) in [
            (None, None, Urgency::Nothing),
            (None, Some(full(50, 1)), Urgency::Now),
            (Some(full(50, 1)), Some(full(50, 1)), Urgency::Nothing),
            (Some(full(50, 1)), Some(full(49, 1)), Urgency::Nothing),
            (Some(full(50, 1)), Some(full(48, 1)), Urgency::InTime),
            (Some(full(50, 1)), Some(full(50, 2)), Urgency::InTime),
            (Some(full(20, 1)), Some(full(19, 1)), Urgency::Now),
            (Some(full(3, 1)), Some(full(1, 1)), Urgency::Now),
            // That there is room again is no alarm.
            (Some(full(1, 1)), Some(full(50, 1)), Urgency::InTime),
            (Some(full(19, 1)), Some(full(20, 1)), Urgency::InTime),
            (Some(full(50, 1)), Some(reset("1")), Urgency::Now),
            (Some(reset("1")), Some(reset("2")), Urgency::Now),
        ] {
            assert_eq!(cache_urgency(written.as_ref(), now.as_ref()), expected, "{written:?} -> {now:?}");
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
