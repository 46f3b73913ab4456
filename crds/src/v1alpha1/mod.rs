//! Version `v1alpha1` of the API.

mod job;
mod job_status;
mod network;
mod pod;
mod pool;
mod pool_cache;
mod pool_change;
mod shared;

pub use job::*;
pub use job_status::*;
pub use network::*;
pub use pod::*;
pub use pool::*;
pub use pool_cache::*;
pub use pool_change::*;
pub use shared::*;
