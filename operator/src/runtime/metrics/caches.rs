//! The pools' caches, as the runners report them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

/// The caches of one pool's members, added up.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CacheFigures {
    /// Bytes of the daemons' records.
    pub bytes: i64,
    /// Bytes that are free on the fullest volume.
    pub available: i64,
    /// Dockerfile steps that builds came to since their runners started.
    pub steps: i64,
    /// Those of them that were in the cache.
    pub cached_steps: i64,
}

impl CacheFigures {
    /// Part of the steps that the cache had; `None` before the first.
    fn hit_ratio(self) -> Option<f64> {
        // Counts of steps are far below 2^52.
        #[allow(clippy::cast_precision_loss)]
        let ratio = self.cached_steps as f64 / self.steps as f64;
        (self.steps > 0).then_some(ratio)
    }
}

#[derive(Debug, Default)]
pub struct Caches(Mutex<BTreeMap<(String, String), CacheFigures>>);

impl Caches {
    pub fn set(&self, namespace: &str, pool: &str, figures: CacheFigures) {
        self.lock().insert((namespace.to_owned(), pool.to_owned()), figures);
    }

    pub fn forget(&self, namespace: &str, pool: &str) {
        self.lock().remove(&(namespace.to_owned(), pool.to_owned()));
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(String, String), CacheFigures>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Collector for Caches {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let caches = self.lock();
        let unit = Some(&Unit::Bytes);
        let help = "Bytes of the pool's caches";
        let mut used = encoder.encode_descriptor("pool_cache", help, unit, MetricType::Gauge)?;
        for (key, figures) in &*caches {
            ConstGauge::new(figures.bytes).encode(used.encode_family(&labels(key))?)?;
        }
        let help = "Bytes that are free on the fullest of the pool's cache volumes";
        let mut available = encoder.encode_descriptor("pool_cache_available", help, unit, MetricType::Gauge)?;
        for (key, figures) in &*caches {
            ConstGauge::new(figures.available).encode(available.encode_family(&labels(key))?)?;
        }
        let help = "Part of the Dockerfile steps that were in the cache, since the pool's runners started";
        let mut hits = encoder.encode_descriptor("pool_cache_hit_ratio", help, None, MetricType::Gauge)?;
        for (key, ratio) in caches.iter().filter_map(|(key, figures)| Some((key, figures.hit_ratio()?))) {
            ConstGauge::new(ratio).encode(hits.encode_family(&labels(key))?)?;
        }
        Ok(())
    }
}

fn labels((namespace, pool): &(String, String)) -> [(&'static str, &str); 2] {
    [("namespace", namespace), ("pool", pool)]
}
