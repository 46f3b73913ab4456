//! The members' caches: how much they may keep, their volumes, and how they fare.

pub mod claims;
pub mod events;
pub mod health;
pub mod limits;
pub mod reports;
