//! The pool reconciler against an API server in memory, and its pure steps by themselves.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "../support/mod.rs"]
mod support;

mod build;
mod cache;
mod faults;
mod fixtures;
mod members;
mod permissions;
mod reconcile;
mod start;
mod status;
mod validate;
