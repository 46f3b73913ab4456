//! The test cluster and the tests on it.

pub mod fixtures;
