//! Version `v1alpha1` of the API.

mod job;
mod job_status;
mod pool;
mod pool_cache;
mod shared;

pub use job::*;
pub use job_status::*;
pub use pool::*;
pub use pool_cache::*;
pub use shared::*;
