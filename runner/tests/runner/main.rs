//! The runner against an API server with faults. The daemon is not a real one here, because a real one has no faults on
//! request; builds by a real one are tested in `e2e/`.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod api_server;
mod away;
mod cancel;
mod faults;
mod life;
mod world;
