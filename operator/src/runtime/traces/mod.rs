//! Traces of jobs, sent to a collector by OTLP when `--otlp-endpoint` says where.
//!
//! A job's trace is made from its status when it has ended. So it needs nothing of the processes that worked on it, and
//! a crash of any of them takes nothing away from it.

mod export;
mod spans;

pub use self::export::{Exporter, Traces};
pub use self::spans::spans;
