//! The pools' queues. How long the oldest job has waited is worked out when it is asked for, so that it grows although
//! nothing happens.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

/// Namespace and name of a pool.
type Key = (String, String);

#[derive(Debug, Default)]
pub struct Queues(Mutex<BTreeMap<Key, Queue>>);

#[derive(Clone, Copy, Debug)]
struct Queue {
    waiting: i64,
    oldest: Option<Timestamp>,
}

impl Queues {
    pub fn set(&self, namespace: &str, pool: &str, waiting: usize, oldest: Option<Timestamp>) {
        let queue = Queue { waiting: i64::try_from(waiting).unwrap_or(i64::MAX), oldest };
        self.lock().insert((namespace.to_owned(), pool.to_owned()), queue);
    }

    pub fn forget(&self, namespace: &str, pool: &str) {
        self.lock().remove(&(namespace.to_owned(), pool.to_owned()));
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Key, Queue>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn encode_at(&self, mut encoder: DescriptorEncoder<'_>, now: Timestamp) -> Result<(), fmt::Error> {
        let queues = self.lock();
        let help = "Jobs that wait for a slot of the pool";
        let mut lengths = encoder.encode_descriptor("queue_length", help, None, MetricType::Gauge)?;
        for ((namespace, pool), queue) in &*queues {
            ConstGauge::new(queue.waiting).encode(lengths.encode_family(&labels(namespace, pool))?)?;
        }
        let help = "Time for which the oldest of those has waited";
        let unit = Some(&Unit::Seconds);
        let mut waits = encoder.encode_descriptor("queue_oldest_wait", help, unit, MetricType::Gauge)?;
        for ((namespace, pool), queue) in &*queues {
            let wait = queue.oldest.map_or(0.0, |since| now.duration_since(since).as_secs_f64().max(0.0));
            ConstGauge::new(wait).encode(waits.encode_family(&labels(namespace, pool))?)?;
        }
        Ok(())
    }
}

fn labels<'a>(namespace: &'a str, pool: &'a str) -> [(&'static str, &'a str); 2] {
    [("namespace", namespace), ("pool", pool)]
}

impl Collector for Queues {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        self.encode_at(encoder, Timestamp::now())
    }
}
