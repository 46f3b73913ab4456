//! Deterministic names of the objects that a pool makes.
//!
//! A name depends on the pool's name only, so a create whose answer was lost finds its own object again.

/// Longest name of a BuildPool. The pool's StatefulSet carries the same name, and a StatefulSet's pods get the label
/// `controller-revision-hash: <name>-<10 characters>`, which must fit into 63; the rest is room for our suffixes.
pub const POOL_NAME_MAX: usize = 40;

/// ClusterRole that every runner is bound to. The only role that the operator may bind.
pub const RUNNER_CLUSTER_ROLE: &str = "buildpools-runner";

/// Name of the volumeClaimTemplate of a member's cache.
pub const CACHE_CLAIM: &str = "cache";

/// Name of the container that runs buildkitd (an init container that keeps running: a native sidecar, KEP-753).
pub const DAEMON_CONTAINER: &str = "buildkitd";

/// Name of the container that runs the runner.
pub const RUNNER_CONTAINER: &str = "runner";

/// StatefulSet of a pool; its pods are `<pool>-0`, `<pool>-1`, ….
pub fn stateful_set(pool: &str) -> String {
    pool.to_owned()
}

/// Headless Service that governs the StatefulSet.
pub fn service(pool: &str) -> String {
    format!("{pool}-members")
}

/// NetworkPolicy of the members.
pub fn network_policy(pool: &str) -> String {
    format!("{pool}-members")
}

/// PodDisruptionBudget of the members that build.
pub fn disruption_budget(pool: &str) -> String {
    format!("{pool}-members")
}

/// ConfigMap with `buildkitd.toml` and the runner's configuration.
pub fn config_map(pool: &str) -> String {
    format!("{pool}-buildkitd")
}

/// ServiceAccount of the runner and the RoleBinding that binds it. The admission policy that fences runners matches
/// this form: see `manifests/base/admission.yaml`.
pub fn runner(pool: &str) -> String {
    format!("buildpool-{pool}-runner")
}

/// PersistentVolumeClaim of the member with this ordinal.
pub fn cache_claim(pool: &str, ordinal: i32) -> String {
    format!("{CACHE_CLAIM}-{pool}-{ordinal}")
}

/// `SolveRequest.Ref` of one attempt. Unique for ever, because a Ref that finished more than ten seconds ago would be
/// built again (BuildKit `solver/jobs.go`).
pub fn attempt_ref(job_uid: &str, attempt: i32) -> String {
    format!("{job_uid}-{attempt}")
}
