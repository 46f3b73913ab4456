//! What a test on the cluster needs: a tenant of its own, waiting for conditions, and a dump of everything when it fails.
//!
//! ```no_run
//! # use buildpools_e2e::harness::Tenant;
//! # async fn example() {
//! Tenant::with("git-build", async |tenant| {
//!     tenant.pool("main").create_ready().await?;
//!     let job = tenant.job("app", "main").inline("FROM scratch\nCOPY Dockerfile /\n").push("app:1").run().await?;
//!     assert_eq!(job.status.unwrap_or_default().failure, None);
//!     Ok(())
//! })
//! .await;
//! # }
//! ```

mod builders;
mod dump;
mod environment;
pub mod reach;
mod tenant;
pub mod wait;

pub use builders::{JobBuilder, PoolBuilder};
pub use environment::Environment;
pub use reach::Reach;
pub use tenant::{BASE, LOGIN, LOGIN_CANARY_HOST, Tenant};
