//! buildpools under faults: real operator and runners at a real API server, without kubelet and containers.
//!
//! | module | concern |
//! |---|---|
//! | [`control_plane`] | etcd and kube-apiserver alone, with buildpools' definitions, roles and policies installed |
//! | [`kept`], [`operator`] | processes that end with this one; the operator as such a process |
//! | [`sets`] | what a cluster's controllers would write: pods |
//! | [`throughput`] | jobs a second on daemons that are done at once |
//! | [`churn`] | many jobs, and everything is killed again and again |
//! | [`scale`] | many pools and finished jobs, and what the operator needs at rest |
//! | [`matrix`] | every point of every story with every fault: what is run |
//! | [`inject`] | the faults, between a program and the API server |
//! | [`members`], [`daemon`], [`process`] | a cluster's controllers, buildkitd, programs that can be killed at a point |
//! | [`oracle`], [`trace`] | how a run is judged, and told to people |

pub mod churn;
pub mod control_plane;
pub mod daemon;
pub mod inject;
pub mod kept;
pub mod matrix;
pub mod members;
pub mod operator;
pub mod oracle;
pub mod process;
pub mod scale;
pub mod sets;
pub mod throughput;
pub mod trace;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks. Whoever panicked while holding the lock has said so; the others go on.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
