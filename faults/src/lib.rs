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

pub mod churn;
pub mod control_plane;
pub mod kept;
pub mod operator;
pub mod scale;
pub mod sets;
pub mod throughput;
