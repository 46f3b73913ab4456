//! How much a member's daemon may keep: `spec.cache.gc` in bytes of the volume. Pure.

use buildpools_crds::v1alpha1::{BuildPool, CacheGc, std_duration};

use crate::kube_ext::quantity;
use crate::pool::problem::Problem;

/// Share of the volume that the cache may take when the pool does not say it.
const MAX_USED: &str = "80%";
/// Share of the volume that is to be free between builds when the pool does not say it. A file system of the volume's
/// size has about 5 % less than that, so that the two leave another 5 %.
const MIN_FREE: &str = "10%";
/// Percent of the volume that the cache may take at most: a bound that is the disk itself bounds nothing.
const MOST: i64 = 95;

/// What garbage collection keeps to, in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// More is collected.
    pub max_used: i64,
    /// So much is to be free.
    pub min_free: i64,
    /// Kept, however little space there is.
    pub reserved: i64,
    /// Seconds after its last use at which a record goes.
    pub keep_seconds: Option<u64>,
}

impl Limits {
    /// The limits of a pool, of whose volumes the smallest that does not grow has so many bytes. `None` if they cannot
    /// be: its condition Ready says why.
    pub fn of_pool(pool: &BuildPool, smallest: Option<i64>) -> Option<Self> {
        let bytes = quantity::bytes(&pool.spec.cache.size).filter(|bytes| *bytes > 0)?;
        Self::of(&pool.spec.cache.gc, smallest.map_or(bytes, |smallest| smallest.min(bytes))).ok()
    }

    /// The limits in a volume of so many bytes.
    ///
    /// # Errors
    /// When they leave no room, or are no quantities.
    pub fn of(gc: &CacheGc, bytes: i64) -> Result<Self, Problem> {
        let share = |field: &str, value: Option<&str>, default: &str| {
            let value = value.unwrap_or(default);
            part(value, bytes).ok_or_else(|| Problem::QuantityInvalid {
                field: format!("spec.cache.gc.{field}"),
                value: value.to_owned(),
            })
        };
        let max_used = share("maxUsed", gc.max_used.as_deref(), MAX_USED)?;
        let min_free = share("minFree", gc.min_free.as_deref(), MIN_FREE)?;
        let room = max_used <= part_of(bytes, MOST) && max_used.checked_add(min_free).is_some_and(|sum| sum <= bytes);
        if !room {
            return Err(Problem::CacheLimits { max_used, min_free, bytes });
        }
        let reserved = (bytes / 10).min(max_used);
        Ok(Self { max_used, min_free, reserved, keep_seconds: gc.keep_for.map(|time| std_duration(time).as_secs()) })
    }
}

fn part(value: &str, bytes: i64) -> Option<i64> {
    match value.strip_suffix('%') {
        Some(percent) => percent.parse().ok().filter(|percent| (1..=MOST).contains(percent)).map(|p| part_of(bytes, p)),
        None => quantity::bytes(value).filter(|part| *part > 0),
    }
}

fn part_of(bytes: i64, percent: i64) -> i64 {
    i64::try_from(i128::from(bytes) * i128::from(percent) / 100).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GI: i64 = 1 << 30;

    fn of(max_used: Option<&str>, min_free: Option<&str>) -> Result<(i64, i64, i64), Problem> {
        let gc = CacheGc { max_used: max_used.map(Into::into), min_free: min_free.map(Into::into), keep_for: None };
        Limits::of(&gc, 100 * GI).map(|limits| (limits.max_used / GI, limits.min_free / GI, limits.reserved / GI))
    }

    #[test]
    fn shares_and_quantities() {
        assert_eq!(of(None, None), Ok((80, 10, 10)));
        assert_eq!(of(Some("40Gi"), Some("20%")), Ok((40, 20, 10)));
        assert_eq!(of(Some("90%"), None), Ok((90, 10, 10)));
        assert_eq!(of(Some("5Gi"), None), Ok((5, 10, 5)), "what is reserved is not more than what is allowed");
    }

    #[test]
    fn a_bound_leaves_room() {
        for (max_used, min_free) in [
            (Some("95Gi"), Some("6Gi")),
            (Some("200Gi"), None),
            (Some("96Gi"), Some("1Gi")),
            (None, Some("21%")),
            (Some("9223372036854775807"), None),
        ] {
            assert!(matches!(of(max_used, min_free), Err(Problem::CacheLimits { .. })), "{max_used:?} {min_free:?}");
        }
        assert!(matches!(of(Some("100%"), None), Err(Problem::QuantityInvalid { .. })));
        assert!(matches!(of(None, Some("x")), Err(Problem::QuantityInvalid { .. })));
    }
}
