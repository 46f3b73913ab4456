//! Leader election on a Lease, by the protocol of client-go (`tools/leaderelection`).
//!
//! Clocks of machines differ, so a lease has run out when it has not changed for its duration *as observed here*, on
//! this process's own clock; the times that are written into it are for people. It is taken over with `replace` and the
//! resourceVersion that was read, so of two candidates one loses. A lease keeps two leaders apart most of the time and
//! proves nothing: what must not happen twice is a compare-and-swap on the object itself.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::readiness::Gate;

/// How long a lease is valid without being renewed: the time after which another process takes over from one that
/// has died (client-go: `LeaseDuration`).
pub const DURATION: Duration = Duration::from_secs(15);

/// A leader that could not renew for so long gives up, well before others may take over (`RenewDeadline`).
pub const RENEW_DEADLINE: Duration = Duration::from_secs(10);

/// Time between two renewals (`RetryPeriod`).
pub const RENEW_PERIOD: Duration = Duration::from_secs(2);

/// Time between two looks of a process that waits. Shorter than client-go's, so that a leader that stops in good order
/// is followed within a second.
pub const LOOK_PERIOD: Duration = Duration::from_secs(1);

/// Time between a renewal that failed and the next: several must fit into [`RENEW_DEADLINE`].
const RETRY_PERIOD: Duration = Duration::from_secs(1);

/// Time of one call.
const CALL: Duration = Duration::from_secs(3);

/// Who leads, as far as this process knows. A clone knows the same.
#[derive(Clone, Debug, Default)]
pub struct Leader(Arc<Mutex<Option<String>>>);

impl Leader {
    /// Its identity; `None` before the lease was read for the first time.
    pub fn name(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn is(&self, identity: &str) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(identity.to_owned());
    }
}

/// A process that leads or wants to.
pub struct Elector {
    leases: Api<Lease>,
    name: String,
    identity: String,
    leader: Leader,
    observed: Option<(LeaseSpec, Instant)>,
}

/// The lease is held. Renewing it is the holder's business.
pub struct Leadership {
    elector: Elector,
    lease: Lease,
    /// When the request that renewed it last was begun.
    renewed: Instant,
}

impl Elector {
    /// A candidate. The identity must be its own: two processes with one identity do not see each other, until one
    /// takes the lease anew and the other finds the number of transitions changed.
    pub fn new(client: Client, namespace: &str, name: &str, identity: &str) -> Self {
        Self {
            leases: Api::namespaced(client, namespace),
            name: name.to_owned(),
            identity: identity.to_owned(),
            leader: Leader::default(),
            observed: None,
        }
    }

    /// Tells who leads.
    #[must_use]
    pub fn telling(self, leader: Leader) -> Self {
        Self { leader, ..self }
    }

    /// Waits until the lease is held, or until stopped. The gate is open while the API server answers: a process that
    /// waits for its turn is ready.
    pub async fn acquire(mut self, gate: &Gate, stop: &CancellationToken) -> Option<Leadership> {
        let mut told = None;
        loop {
            let begun = Instant::now();
            match self.attempt().await {
                Ok(Attempt::Held(lease)) => {
                    gate.open();
                    self.leader.is(&self.identity);
                    info!(lease = self.name, identity = self.identity, "leading");
                    return Some(Leadership { elector: self, lease: *lease, renewed: begun });
                }
                Ok(Attempt::Other(holder)) => {
                    gate.open();
                    self.leader.is(&holder);
                    if told.as_ref() != Some(&holder) {
                        info!(lease = self.name, leader = holder, "standing by");
                        told = Some(holder);
                    }
                }
                Err(error) => {
                    warn!(lease = self.name, error = format!("{error:#}"), "the lease cannot be had");
                    gate.close(&format!("{error:#}"));
                }
            }
            // Not in step with other candidates.
            let wait = LOOK_PERIOD.mul_f64(0.8 + 0.4 * rand::random::<f64>());
            tokio::select! {
                () = stop.cancelled() => return None,
                () = sleep(wait) => {}
            }
        }
    }

    async fn attempt(&mut self) -> anyhow::Result<Attempt> {
        let read = timeout(CALL, self.leases.get_opt(&self.name)).await.context("no answer")??;
        let Some(mut lease) = read else {
            return self.create().await;
        };
        let spec = lease.spec.clone().unwrap_or_default();
        let holder = spec.holder_identity.clone().unwrap_or_default();
        let valid = self.is_valid(&spec, Instant::now());
        if valid && !holder.is_empty() && holder != self.identity {
            return Ok(Attempt::Other(holder));
        }
        let now = MicroTime(Timestamp::now());
        lease.spec = Some(LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: Some(seconds(DURATION)),
            acquire_time: Some(now.clone()),
            renew_time: Some(now),
            lease_transitions: Some(spec.lease_transitions.unwrap_or(0).saturating_add(1)),
            ..spec
        });
        let params = PostParams::default();
        let write = self.leases.replace(&self.name, &params, &lease);
        taken(timeout(CALL, write).await.context("no answer")?)
    }

    async fn create(&self) -> anyhow::Result<Attempt> {
        let now = MicroTime(Timestamp::now());
        let mut lease = Lease::default();
        lease.metadata.name = Some(self.name.clone());
        lease.spec = Some(LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: Some(seconds(DURATION)),
            acquire_time: Some(now.clone()),
            renew_time: Some(now),
            lease_transitions: Some(0),
            ..LeaseSpec::default()
        });
        let params = PostParams::default();
        let write = self.leases.create(&params, &lease);
        taken(timeout(CALL, write).await.context("no answer")?)
    }

    /// Whether the lease has changed within its duration, as seen from here. A candidate that has only just begun to
    /// look grants the holder the full duration.
    fn is_valid(&mut self, spec: &LeaseSpec, now: Instant) -> bool {
        match &self.observed {
            Some((known, since)) if known == spec => {
                let duration = spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
                now.duration_since(*since) < duration.map_or(DURATION, Duration::from_secs)
            }
            _ => {
                self.observed = Some((spec.clone(), now));
                true
            }
        }
    }
}

enum Attempt {
    Held(Box<Lease>),
    Other(String),
}

fn taken(written: kube::Result<Lease>) -> anyhow::Result<Attempt> {
    match written {
        Ok(lease) => Ok(Attempt::Held(Box::new(lease))),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(Attempt::Other("another candidate".to_owned())),
        Err(error) => Err(error.into()),
    }
}

impl Leadership {
    /// Renews the lease for as long as that works. Returns why it is lost. May be dropped and called again.
    pub async fn keep(&mut self) -> anyhow::Error {
        let mut period = RENEW_PERIOD;
        loop {
            sleep(period).await;
            let deadline = self.renewed + RENEW_DEADLINE;
            let begun = Instant::now();
            match timeout_at(deadline.min(begun + CALL), self.change(renew)).await {
                Ok(Ok(lease)) => {
                    self.lease = lease;
                    self.renewed = begun;
                    period = RENEW_PERIOD;
                    continue;
                }
                Ok(Err(Failure::Lost(why))) => return why,
                Ok(Err(Failure::Again(error))) => warn!(%error, "the lease was not renewed"),
                Err(_) => warn!("the renewal of the lease was not answered"),
            }
            period = RETRY_PERIOD;
            if Instant::now() >= deadline {
                let name = &self.elector.name;
                return anyhow!("the lease {name} could not be renewed for {} s", RENEW_DEADLINE.as_secs());
            }
        }
    }

    /// Gives the lease back, so that the next candidate need not wait until it runs out. Only after all work has
    /// stopped.
    pub async fn release(self) {
        match timeout(CALL, self.change(give_back)).await {
            Ok(Ok(_)) => info!(lease = self.elector.name, "lease given back"),
            Ok(Err(Failure::Lost(why))) => warn!(why = %why, "the lease is not ours any more"),
            Ok(Err(Failure::Again(error))) => warn!(%error, "the lease was not given back; it runs out by itself"),
            Err(_) => warn!("the lease was not given back in time; it runs out by itself"),
        }
    }

    /// Changes the lease if it is still held in the same term.
    async fn change(&self, edit: fn(&mut LeaseSpec)) -> Result<Lease, Failure> {
        match self.replace(&self.lease, edit).await {
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            other => return other.map_err(Failure::Again),
        }
        // The answer to an earlier renewal was lost, or somebody has annotated the object.
        let name = &self.elector.name;
        let Some(current) = self.elector.leases.get_opt(name).await.map_err(Failure::Again)? else {
            return Err(Failure::Lost(anyhow!("the lease {name} was deleted")));
        };
        let term =
            |lease: &Lease| lease.spec.as_ref().map(|spec| (spec.holder_identity.clone(), spec.lease_transitions));
        if term(&current) != term(&self.lease) {
            let holder = current.spec.and_then(|spec| spec.holder_identity).unwrap_or_default();
            return Err(Failure::Lost(anyhow!("the lease {name} was taken by {holder:?}")));
        }
        self.replace(&current, edit).await.map_err(Failure::Again)
    }

    async fn replace(&self, lease: &Lease, edit: fn(&mut LeaseSpec)) -> kube::Result<Lease> {
        let mut lease = lease.clone();
        let spec = lease.spec.get_or_insert_default();
        spec.renew_time = Some(MicroTime(Timestamp::now()));
        edit(spec);
        self.elector.leases.replace(&self.elector.name, &PostParams::default(), &lease).await
    }
}

fn renew(_: &mut LeaseSpec) {}

fn give_back(spec: &mut LeaseSpec) {
    spec.holder_identity = Some(String::new());
    spec.lease_duration_seconds = Some(1);
}

enum Failure {
    /// May work the next time.
    Again(kube::Error),
    Lost(anyhow::Error),
}

fn seconds(duration: Duration) -> i32 {
    i32::try_from(duration.as_secs()).unwrap_or(i32::MAX)
}
