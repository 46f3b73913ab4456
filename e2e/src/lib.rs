//! The test cluster and the tests on it.

pub mod bench;
pub mod cluster;
pub mod fixtures;
pub mod harness;
