//! The pool reconciler against an API server in memory, and its pure steps by themselves.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "../support/mod.rs"]
mod support;

mod budget;
mod build;
mod cache;
mod change;
mod faults;
mod fixtures;
mod members;
mod permissions;
mod preflight;
mod reconcile;
mod start;
mod status;
mod validate;
