//! The operator of buildpools.
//!
//! - [`pool`]: makes each BuildPool's objects.
//! - [`dispatch`]: gives BuildJobs to members of their pools.
//! - [`history`]: deletes finished BuildJobs that are not to be kept.
//! - [`runtime`]: the process around them: leader election, health, start and stop.
//! - [`kube_ext`]: what they need of the Kubernetes client.

pub mod cli;
pub mod dispatch;
pub mod history;
pub mod kube_ext;
pub mod pool;
pub mod runtime;
