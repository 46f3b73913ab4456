//! The registry with its token server and the git server, as processes on this machine's loopback. No cluster needed.
//!
//! Needs the distribution registry in `$BUILDPOOLS_CACHE/tools/bin`, nginx, git and setpriv.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "fixtures/git.rs"]
mod git;
#[path = "fixtures/process.rs"]
mod process;
#[path = "fixtures/registry.rs"]
mod registry;
#[path = "fixtures/setup.rs"]
mod setup;
