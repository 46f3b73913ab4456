//! Where things lie in a member's containers.
//!
//! Directories are named after what they hold and not numbered: when a container is restarted in an older pod, it may
//! read newer configuration, and what that names is then either what it says or absent, never something else.

use buildpools_crds::v1alpha1::PoolProfile;

use super::super::validate::Registry;

/// emptyDir that daemon and runner share. A RUN step can reach it through the daemon: nothing secret, nothing trusted.
pub const SOCKET_DIRECTORY: &str = "/run/buildpools";
/// The daemon's only address.
pub const SOCKET: &str = "/run/buildpools/buildkitd.sock";
/// Directory of `buildkitd.toml`.
pub const DAEMON_CONFIG: &str = "/etc/buildkit";
/// The daemon's entry point.
pub const START: &str = "/etc/buildkit/start.sh";
/// What the daemon starts as runc.
pub const RUNC: &str = "/etc/buildkit/runc";
/// Where the runner sees the cache volume.
pub const RUNNER_CACHE: &str = "/var/cache/buildkit";
/// Directory of `runner.json`.
pub const RUNNER_CONFIG: &str = "/etc/buildpools";
/// Where Kubernetes clients look for their identity.
pub const TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// File of a mounted login in its directory.
pub const CREDENTIAL_FILE: &str = "config.json";
/// File of a mounted authority in its directory.
pub const AUTHORITY_FILE: &str = "ca.crt";

/// The cache volume. The profile's image has a VOLUME there; a volume of the image itself would be lost with the
/// container.
pub fn state(profile: PoolProfile) -> &'static str {
    match profile {
        PoolProfile::Rootless => "/home/user/.local/share/buildkit",
        PoolProfile::UserNamespace => "/var/lib/buildkit",
    }
}

/// The daemon's state, below the volume's root, which holds `lost+found` and belongs to root.
pub fn root(profile: PoolProfile) -> String {
    format!("{}/root", state(profile))
}

/// Directory of a mounted login.
pub fn credential(secret: &str) -> String {
    format!("/etc/buildpools-credentials/{secret}")
}

/// Directory of a mounted authority.
pub fn authority(registry: &Registry) -> String {
    format!("/etc/buildpools-ca/{}/{}", registry.config_map, registry.key)
}
