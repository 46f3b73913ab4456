//! The cache of a BuildPool's members: the volume, what is kept in it, and what a member reports of it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::KubeSchema;
use kube::core::Duration;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::shared::{bytes_schema, keep_schema, share_schema};

/// Cache volume of a member.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.storageClassName) == has(oldSelf.storageClassName)").message("storageClassName cannot be changed: create a new pool"))]
pub struct CacheVolume {
    /// Size that each member's PersistentVolumeClaim asks for. It may grow; volumes that exist grow with it if their
    /// StorageClass has `allowVolumeExpansion`, otherwise the condition `CacheHealthy` says so.
    #[schemars(schema_with = "bytes_schema")]
    #[x_kube(validation = Rule::new("!isQuantity(self) || !isQuantity(oldSelf) || quantity(self).compareTo(quantity(oldSelf)) >= 0").message("size may grow and not shrink, because volumes cannot: create a new pool for a smaller cache"))]
    pub size: String,

    /// StorageClass; the cluster's default when absent. The file system must be able to hold an overlayfs upper
    /// layer: ext4 or xfs, not NFS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("storageClassName cannot be changed: create a new pool"))]
    pub storage_class_name: Option<String>,

    /// Whether the volumes outlive the pool. A later pool of the same name in the same namespace uses them again.
    /// Counts as it is when the pool is deleted.
    #[serde(default)]
    pub retain: bool,

    /// What is kept in the cache. The daemon collects garbage between builds.
    #[serde(default, skip_serializing_if = "CacheGc::is_default")]
    pub gc: CacheGc,

    /// Any text. When it changes, each member empties its cache once, as soon as it has no build. A new volume counts
    /// as emptied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = Rule::new("self.matches('^[-._:+A-Za-z0-9]+$')").message("must hold only letters, digits and -._:+, for example 2026-01-31 or 2"))]
    pub reset: Option<String>,
}

/// What is kept in a cache: BuildKit's `gcpolicy`
/// (<https://github.com/moby/buildkit/blob/v0.33.1/docs/buildkitd.toml.md>).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!(has(self.maxUsed) ? self.maxUsed : '80%').endsWith('%') || !(has(self.minFree) ? self.minFree : '10%').endsWith('%') || int((has(self.maxUsed) ? self.maxUsed : '80%').replace('%', '')) + int((has(self.minFree) ? self.minFree : '10%').replace('%', '')) <= 100").message("maxUsed (80% when absent) and minFree (10% when absent) together must not be more than 100%: lower one of them"))]
pub struct CacheGc {
    /// Space that the cache may take: more is collected, what was used longest ago first. A percentage of
    /// `cache.size` or a quantity of bytes; 80% when absent. Builds that run may use more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "share_schema")]
    pub max_used: Option<String>,

    /// Space that is to be free between builds: so much is collected. A percentage of `cache.size` or a quantity of
    /// bytes; 10% when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "share_schema")]
    pub min_free: Option<String>,

    /// Time after its last use at which a record is collected although there is room. No end when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "keep_schema")]
    pub keep_for: Option<Duration>,
}

impl CacheGc {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// What a member reports of its cache. Written when something material has changed, and then at most once a minute.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MemberCache {
    /// Bytes of the daemon's records, as BuildKit counts them (`buildctl du`).
    #[serde(default)]
    pub bytes: i64,

    /// Number of the daemon's records.
    #[serde(default)]
    pub records: i64,

    /// Bytes of the file system that the cache lies on. More than `cache.size` where volumes are directories of a
    /// larger file system.
    #[serde(default)]
    pub capacity_bytes: i64,

    /// Bytes of it that are free for the daemon.
    #[serde(default)]
    pub available_bytes: i64,

    /// Inodes of the file system; 0 where it does not count them.
    #[serde(default)]
    pub inodes: i64,

    /// Inodes that are free.
    #[serde(default)]
    pub inodes_free: i64,

    /// Dockerfile steps that builds of this runner have come to, since it started.
    #[serde(default)]
    pub steps: i64,

    /// Those of them whose result was in the cache.
    #[serde(default)]
    pub cached_steps: i64,

    /// When the cache was last seen to have become smaller without a reset: garbage was collected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collected_at: Option<Time>,

    /// The value of `spec.cache.reset` that this volume has been emptied for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub reset_done: Option<String>,

    /// When this member emptied its cache for `resetDone`; absent if an earlier one did, or the volume was new.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reset_at: Option<Time>,

    /// When the cache was last emptied because its database was damaged and the daemon could not run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub healed_at: Option<Time>,
}

impl MemberCache {
    /// Whole percent of the file system's bytes that are free; 100 when nothing is known.
    pub fn percent_available(&self) -> i64 {
        percent(self.available_bytes, self.capacity_bytes)
    }

    /// Whole percent of the file system's inodes that are free; 100 where they are not counted.
    pub fn percent_inodes_free(&self) -> i64 {
        percent(self.inodes_free, self.inodes)
    }
}

fn percent(part: i64, whole: i64) -> i64 {
    if whole <= 0 { 100 } else { i64::try_from(i128::from(part) * 100 / i128::from(whole)).unwrap_or(100) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_counted_is_free() {
        let cache = MemberCache { capacity_bytes: 200, available_bytes: 19, ..MemberCache::default() };
        assert_eq!((cache.percent_available(), cache.percent_inodes_free()), (9, 100));
    }
}
