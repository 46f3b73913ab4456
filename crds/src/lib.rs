//! The API of buildpools: the custom resources, their names and their life cycle.
//!
//! - [`v1alpha1`]: `BuildPool` and `BuildJob`, with the CEL rules that the API server enforces.
//! - [`lifecycle`]: the transitions of a `BuildJob`'s status as pure functions. Operator and runner both use them, so
//!   there is one place that says what may follow what.
//! - [`conditions`]: condition types and reasons, and how a condition is set without needless writes.
//! - [`patch`]: status writes as compare-and-swap.
//! - [`buildkit`]: which versions of BuildKit are supported.
//! - [`labels`], [`names`]: what objects are called and how they are found.
//! - [`member_config`]: the file by which the operator tells a runner about its pool.
//! - [`watch`]: watches that come back whatever the API server answers.
//! - [`crd`]: the CustomResourceDefinitions, as `crdgen` prints them.

pub mod buildkit;
pub mod conditions;
pub mod crd;
pub mod labels;
pub mod lifecycle;
pub mod member_config;
pub mod names;
pub mod patch;
pub mod v1alpha1;
pub mod watch;

/// API group of every resource of this project.
pub const GROUP: &str = "buildpools.dev";
