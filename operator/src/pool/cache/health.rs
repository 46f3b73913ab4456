//! The condition `CacheHealthy`: whether the members' caches have room and work as they should. Pure.

use buildpools_crds::conditions::Status;
use buildpools_crds::v1alpha1::{MemberCache, PoolMember};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;

use super::claims::Unexpandable;
use super::limits::Limits;
use crate::pool::members::is_ready;
use crate::pool::reasons::cache as reasons;

/// What the daemon's entry point (`start.sh`) says last when the daemon cannot run for a damaged database.
pub const DAMAGED: &str = "buildpools: the cache's database is damaged";

/// Percent of the file system's inodes below which they are short. BuildKit collects by bytes alone, so nothing makes
/// them more but a smaller `gc.maxUsed`, `gc.keepFor`, or a reset.
const INODES_SHORT: i64 = 5;

/// What the condition is told from.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// What the members report.
    pub members: &'a [PoolMember],
    /// Their pods.
    pub pods: &'a [Pod],
    /// Volumes that do not grow.
    pub unexpandable: &'a [Unexpandable],
    /// What the cache may take. `None` when the pool's spec cannot be.
    pub limits: Option<&'a Limits>,
    /// `spec.cache.size`.
    pub size: &'a str,
}

/// Status, reason and message; `None` while nothing is known.
pub fn condition(facts: Facts<'_>) -> Option<(Status, &'static str, String)> {
    let mut problems: Vec<(&'static str, String)> = facts.pods.iter().filter_map(corrupted).collect();
    let caches = || facts.members.iter().filter_map(|member| Some((member, member.cache.as_ref()?)));
    problems.extend(caches().filter_map(|(member, cache)| bytes(member, cache, facts.limits?)));
    problems.extend(caches().filter_map(|(member, cache)| inodes(member, cache)));
    problems.extend(facts.members.iter().filter_map(native));
    problems.extend(unexpandable(facts));
    if let Some((reason, _)) = problems.first() {
        let all: Vec<&str> = problems.iter().map(|(_, text)| text.as_str()).collect();
        return Some((Status::False, reason, all.join("; ")));
    }
    // Not how full they are: a message that changes with each build would be written with each build.
    let reporting = caches().count();
    let s = if reporting == 1 { "cache has" } else { "caches have" };
    (reporting > 0).then(|| (Status::True, reasons::CACHE_HEALTHY, format!("{reporting} {s} room")))
}

/// Reasons that one member's report is for the condition to be False.
pub fn pressure(member: &PoolMember, limits: Option<&Limits>) -> Vec<&'static str> {
    let cache = member.cache.as_ref();
    let found = [
        cache.and_then(|cache| bytes(member, cache, limits?)),
        cache.and_then(|cache| inodes(member, cache)),
        native(member),
    ];
    found.into_iter().flatten().map(|(reason, _)| reason).collect()
}

fn bytes(member: &PoolMember, cache: &MemberCache, limits: &Limits) -> Option<(&'static str, String)> {
    let pod = &member.pod;
    // Garbage collection keeps twice as much free, if it can.
    if cache.capacity_bytes > 0 && cache.available_bytes < limits.min_free / 2 {
        return Some((
            reasons::BYTES_PRESSURE,
            format!(
                "the cache volume of {pod} has {} of {} free: builds that run use the rest, or something else does; if it stays so, raise spec.cache.size, or empty the cache by spec.cache.reset",
                human(cache.available_bytes),
                human(cache.capacity_bytes),
            ),
        ));
    }
    let most = limits.max_used.saturating_add(limits.min_free);
    (cache.bytes > most).then(|| {
        let (used, max) = (human(cache.bytes), human(limits.max_used));
        let text = format!("the cache of {pod} takes {used} and may keep {max}: builds that run use more, and garbage is collected after them");
        (reasons::BYTES_PRESSURE, text)
    })
}

fn inodes(member: &PoolMember, cache: &MemberCache) -> Option<(&'static str, String)> {
    (cache.percent_inodes_free() < INODES_SHORT).then(|| {
        let text = format!(
            "the cache volume of {} has {} of {} inodes free, and builds fail without them although there are bytes: empty the cache by spec.cache.reset, and keep less (spec.cache.gc.maxUsed or keepFor) or use a file system with more inodes",
            member.pod, cache.inodes_free, cache.inodes,
        );
        (reasons::INODE_PRESSURE, text)
    })
}

fn native(member: &PoolMember) -> Option<(&'static str, String)> {
    (member.snapshotter.as_deref() == Some("native")).then(|| {
        let text = format!(
            "the daemon of {} copies every layer (snapshotter native), because the file system of its cache volume cannot hold an overlayfs upper layer: use a StorageClass with ext4 or xfs",
            member.pod,
        );
        (reasons::NATIVE_SNAPSHOTTER, text)
    })
}

/// A daemon that does not run because of its database. Once it runs again, what its container died of before is past.
fn corrupted(pod: &Pod) -> Option<(&'static str, String)> {
    let daemon = pod
        .status
        .as_ref()?
        .init_container_statuses
        .as_ref()?
        .iter()
        .find(|status| status.name == buildpools_crds::names::DAEMON_CONTAINER)?;
    let states = [daemon.state.as_ref(), daemon.last_state.as_ref()];
    let last = states.into_iter().flatten().find_map(|state| state.terminated.as_ref())?;
    let damaged = last.message.as_deref().is_some_and(|message| message.contains(DAMAGED));
    (damaged && !is_ready(pod)).then(|| {
        let text = format!(
            "the daemon of {} cannot run because its cache's database is damaged; after the third time the cache is emptied by itself",
            pod.name_any(),
        );
        (reasons::CACHE_CORRUPTED, text)
    })
}

fn unexpandable(facts: Facts<'_>) -> Option<(&'static str, String)> {
    let first = facts.unexpandable.first()?;
    let claims: Vec<&str> = facts.unexpandable.iter().map(|volume| volume.claim.as_str()).collect();
    let why = match &first.class {
        Some(class) => format!("StorageClass {class} has no allowVolumeExpansion: true"),
        None => "they have no StorageClass".to_owned(),
    };
    let text = format!(
        "spec.cache.size is {}, and the volumes of {} stay at {}, because {why}: allow it, or delete claim and pod of a member, which then gets a new and empty volume",
        facts.size,
        claims.join(" "),
        first.size,
    );
    Some((reasons::VOLUME_EXPANSION_UNSUPPORTED, text))
}

/// As `kubectl` writes memory, with one digit after the point.
fn human(bytes: i64) -> String {
    let units = [(1_i64 << 40, "Ti"), (1 << 30, "Gi"), (1 << 20, "Mi"), (1 << 10, "Ki")];
    match units.into_iter().find(|(unit, _)| bytes >= *unit) {
        Some((unit, name)) => {
            let tenths = i128::from(bytes) * 10 / i128::from(unit);
            format!("{}.{}{name}", tenths / 10, tenths % 10)
        }
        None => bytes.to_string(),
    }
}

#[cfg(test)]
mod tests;
