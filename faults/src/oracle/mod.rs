//! What must be true of every run, whatever went wrong in it.
//!
//! - O1 [`state`]: the end is the same as without a fault.
//! - O2 [`counts`]: no object was made or removed more often than without a fault.
//! - O3 [`invariants`]: at no moment was a promise broken that holds at every moment.
//! - O4 (in [`crate::matrix`]): the end comes, and then nothing is written any more.

pub mod counts;
pub mod invariants;
pub mod log;
pub mod state;
