//! What the operator tells a runner through the pool's ConfigMap.
//!
//! Only what the pod's template fixes is here: paths of files that the kubelet mounts. What may change while a member
//! runs (slots, longest build), the runner reads from its BuildPool.

use serde::{Deserialize, Serialize};

/// Key of the ConfigMap that holds [`MemberConfig`] as JSON.
pub const RUNNER_KEY: &str = "runner.json";

/// Key of the ConfigMap that holds buildkitd's configuration.
pub const BUILDKITD_KEY: &str = "buildkitd.toml";

/// Key of the ConfigMap that holds the daemon's entry point.
pub const START_KEY: &str = "start.sh";

/// Key of the ConfigMap that holds what the daemon starts as runc.
pub const RUNC_KEY: &str = "runc";

/// File in the root of a cache volume with the value of `spec.cache.reset` that the volume was emptied for. The
/// runner's.
pub const CACHE_RESET_FILE: &str = ".buildpools-reset";

/// File in the root of a cache volume with the time, in seconds since 1970, at which it was emptied because its database
/// was damaged. The daemon's entry point writes it.
pub const CACHE_HEALED_FILE: &str = ".buildpools-healed";

/// Configuration of a runner.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MemberConfig {
    /// Mounted registry Secrets, in the order of `spec.credentials`. The first that fits a repository best wins.
    #[serde(default)]
    pub credentials: Vec<MountedCredential>,
    /// Certificate authorities of registries.
    #[serde(default)]
    pub registries: Vec<MountedCa>,
}

/// A Secret of type `kubernetes.io/dockerconfigjson` that the kubelet mounts into the runner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MountedCredential {
    /// Name of the Secret, for messages.
    pub secret: String,
    /// File with the docker configuration. Absent while the Secret does not exist; its content may change any time.
    pub path: String,
}

/// A CA bundle that the kubelet mounts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MountedCa {
    /// Registry, `host` or `host:port`.
    pub host: String,
    /// PEM file.
    pub path: String,
}
