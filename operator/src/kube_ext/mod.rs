//! What the Kubernetes client needs beyond itself: bounded calls, back-off, comparing and putting objects, lists.

pub mod additions;
pub mod backoff;
pub mod call;
pub mod diff;
pub mod ensure;
pub mod listing;
pub mod owner;
pub mod quantity;
