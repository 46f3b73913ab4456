//! ConfigMap with `buildkitd.toml` and the runner's configuration.

use std::collections::BTreeMap;

use buildpools_crds::member_config::{BUILDKITD_KEY, MemberConfig, MountedCa, MountedCredential, RUNNER_KEY};
use buildpools_crds::names;
use buildpools_crds::v1alpha1::PoolProfile;
use k8s_openapi::api::core::v1::ConfigMap;
use serde::Serialize;

use super::super::validate::ValidPool;
use super::{BuildError, metadata, paths};
use crate::kube_ext::ensure::short_hash;

/// Builds that the daemon remembers. A runner that was restarted asks this history what became of its builds, so they
/// must not be pushed out by others meanwhile (BuildKit's default is 50).
const HISTORY_ENTRIES: u32 = 1000;
/// How long it remembers them.
const HISTORY_AGE: &str = "48h";

/// The two files.
pub(super) struct Configuration {
    buildkitd: String,
    runner: String,
}

impl Configuration {
    pub(super) fn of(pool: &ValidPool) -> Result<Self, BuildError> {
        Ok(Self { buildkitd: toml::to_string(&buildkitd(pool))?, runner: serde_json::to_string_pretty(&member(pool))? })
    }

    /// Hash of all that a member reads only when it starts; buildkitd keeps the authorities that it has read.
    pub(super) fn hash(&self, pool: &ValidPool) -> String {
        let mut bytes = format!("{}\0{}", self.buildkitd, self.runner);
        for registry in &pool.registries {
            bytes.push('\0');
            bytes.push_str(&registry.authority);
        }
        short_hash(bytes.as_bytes())
    }
}

pub(super) fn config_map(pool: &ValidPool, files: Configuration) -> ConfigMap {
    ConfigMap {
        metadata: metadata(pool, names::config_map(&pool.name)),
        data: Some(BTreeMap::from([
            (BUILDKITD_KEY.to_owned(), files.buildkitd),
            (RUNNER_KEY.to_owned(), files.runner),
        ])),
        ..ConfigMap::default()
    }
}

fn member(pool: &ValidPool) -> MemberConfig {
    let credentials = pool.credentials.iter().map(|secret| MountedCredential {
        secret: secret.clone(),
        path: format!("{}/{}", paths::credential(secret), paths::CREDENTIAL_FILE),
    });
    let registries = pool.registries.iter().map(|registry| MountedCa {
        host: registry.host.clone(),
        path: format!("{}/{}", paths::authority(registry), paths::AUTHORITY_FILE),
    });
    MemberConfig { credentials: credentials.collect(), registries: registries.collect() }
}

/// The part of `buildkitd.toml` that we write
/// (<https://github.com/moby/buildkit/blob/v0.33.1/cmd/buildkitd/config/config.go>). No `grpc` section: the only address
/// is the socket, by argument, and there is no debug address, which would serve everybody without asking.
#[derive(Serialize)]
struct Buildkitd {
    root: String,
    /// None: a build may not ask for the host's network or for privileges.
    #[serde(rename = "insecure-entitlements")]
    insecure_entitlements: [String; 0],
    worker: Workers,
    cdi: Cdi,
    history: History,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    registry: BTreeMap<String, RegistryConfig>,
}

#[derive(Serialize)]
struct Workers {
    oci: OciWorker,
    containerd: ContainerdWorker,
}

/// Space in bytes, reckoned from the volume's size and not from the file system's: some volumes are directories of a
/// larger one. A file system of this size has about 5 % less, so a tenth stays free for the build that runs when garbage
/// is collected, which happens between builds only.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(clippy::struct_excessive_bools, reason = "so it is in buildkitd.toml")]
struct OciWorker {
    enabled: bool,
    rootless: bool,
    no_process_sandbox: bool,
    gc: bool,
    /// Kept, however little space there is.
    reserved_space: i64,
    /// More than this is collected.
    max_used_space: i64,
    /// Collected until so much is free.
    min_free_space: i64,
}

#[derive(Serialize)]
struct ContainerdWorker {
    enabled: bool,
}

/// Devices of the host; `false` would also allow the entitlement `device`.
#[derive(Serialize)]
struct Cdi {
    disabled: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct History {
    max_age: &'static str,
    max_entries: u32,
}

#[derive(Serialize)]
struct RegistryConfig {
    ca: Vec<String>,
}

fn buildkitd(pool: &ValidPool) -> Buildkitd {
    let registry = pool.registries.iter().map(|registry| {
        let ca = vec![format!("{}/{}", paths::authority(registry), paths::AUTHORITY_FILE)];
        (registry.host.clone(), RegistryConfig { ca })
    });
    Buildkitd {
        root: paths::root(pool.profile),
        insecure_entitlements: [],
        worker: Workers {
            oci: OciWorker {
                enabled: true,
                // In either profile buildkitd is root of a user namespace only: no cgroups, no devices.
                rootless: true,
                // A sandbox needs a /proc of its own, which a container may mount only if nothing of its own is masked.
                no_process_sandbox: pool.profile == PoolProfile::Rootless,
                gc: true,
                reserved_space: pool.cache.bytes / 10,
                max_used_space: pool.cache.bytes / 10 * 8,
                min_free_space: pool.cache.bytes / 10,
            },
            containerd: ContainerdWorker { enabled: false },
        },
        cdi: Cdi { disabled: true },
        history: History { max_age: HISTORY_AGE, max_entries: HISTORY_ENTRIES },
        registry: registry.collect(),
    }
}
