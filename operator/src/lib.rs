//! The operator of buildpools.

pub mod kube_ext;
pub mod pool;
