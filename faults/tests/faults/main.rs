//! Operator and runners under faults, at a real API server.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod churn;
mod control_plane;
