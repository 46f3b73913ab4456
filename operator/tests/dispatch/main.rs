//! The dispatcher's writes, the history of jobs and the leader election against an API server in memory.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "../support/mod.rs"]
mod support;

mod debug;
mod documentation;
mod fixtures;
mod history;
mod lease;
mod nodes;
mod queue;
mod run;
mod write;
