//! The client against a real buildkitd and a real registry. `make tools` builds both.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, unreachable_pub)]

mod builds;
mod failures;
mod registries;
mod support;
mod token_server;
