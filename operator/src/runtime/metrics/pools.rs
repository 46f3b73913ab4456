//! The pools' members and upgrades, as the passes over the pools have seen them last.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use buildpools_crds::v1alpha1::MemberPhase;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;

/// Namespace and name of a pool.
type Key = (String, String);

/// What is counted of a pool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PoolFigures {
    /// Members by phase; all phases are there.
    pub members: BTreeMap<MemberPhase, usize>,
    /// Whether its upgrade goes on only when somebody does something.
    pub upgrade_held: bool,
}

#[derive(Debug, Default)]
pub struct Pools(Mutex<BTreeMap<Key, PoolFigures>>);

impl Pools {
    pub fn set(&self, namespace: &str, pool: &str, figures: PoolFigures) {
        self.lock().insert((namespace.to_owned(), pool.to_owned()), figures);
    }

    pub fn forget(&self, namespace: &str, pool: &str) {
        self.lock().remove(&(namespace.to_owned(), pool.to_owned()));
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Key, PoolFigures>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Collector for Pools {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let pools = self.lock();
        let help = "Members of the pool, by phase";
        let mut members = encoder.encode_descriptor("pool_members", help, None, MetricType::Gauge)?;
        for ((namespace, pool), figures) in &*pools {
            for (phase, count) in &figures.members {
                let labels = [("namespace", namespace.as_str()), ("pool", pool), ("phase", phase.as_str())];
                let count = i64::try_from(*count).unwrap_or(i64::MAX);
                ConstGauge::new(count).encode(members.encode_family(&labels)?)?;
            }
        }
        let help = "Whether the replacement of the pool's members goes on only when somebody does something: 1 or 0";
        let mut upgrades = encoder.encode_descriptor("pool_upgrade_held", help, None, MetricType::Gauge)?;
        for ((namespace, pool), figures) in &*pools {
            let labels = [("namespace", namespace.as_str()), ("pool", pool)];
            ConstGauge::new(i64::from(figures.upgrade_held)).encode(upgrades.encode_family(&labels)?)?;
        }
        Ok(())
    }
}
