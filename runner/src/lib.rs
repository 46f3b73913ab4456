//! The runner of a pool member: takes the BuildJobs that are bound to its pod and builds them in the buildkitd beside
//! it.
//!
//! - [`decide`]: what is done about each job: a pure function of what was seen, with a table of tests.
//! - [`assembly`]: how the parts are connected.
//! - [`supervisor`]: the loop around it, which starts and stops the tasks.
//! - [`attempt`]: one attempt, from the *running* write to the outcome.
//! - [`accounting`]: what became of an attempt whose process is gone.
//! - [`api`]: the calls to the API server, and what an answer means.
//! - [`watch`], [`daemon`], [`credentials`]: where events and inputs come from.
//! - [`cache`]: how full the cache is, and emptying it when the pool asks for it.
//! - [`outcome`]: a build's result as the API says it.
//! - [`hits`]: which steps of a build the cache had.
//! - [`member`], [`logs`], [`probe`]: what others see of the runner.

pub mod accounting;
pub mod api;
pub mod assembly;
pub mod attempt;
pub mod cache;
pub mod cli;
pub mod credentials;
pub mod daemon;
pub mod decide;
pub mod hits;
pub mod logs;
pub mod member;
pub mod outcome;
pub mod probe;
pub mod run;
pub mod supervisor;
pub mod visible;
pub mod watch;

use buildpools_crds::lifecycle::Member;

/// Who this runner is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The pod.
    pub pod: Member,
    /// Its namespace.
    pub namespace: String,
    /// The BuildPool that it is a member of.
    pub pool: String,
    /// This process: a job that runs under another instance is never solved again.
    pub instance: String,
}
