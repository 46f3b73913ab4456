//! ConfigMap with `buildkitd.toml` and the runner's configuration.

use std::collections::BTreeMap;

use buildpools_crds::member_config::{
    BUILDKITD_KEY, MemberConfig, MountedCa, MountedCredential, RUNC_KEY, RUNNER_KEY, START_KEY,
};
use buildpools_crds::names;
use buildpools_crds::v1alpha1::PoolProfile;
use k8s_openapi::api::core::v1::ConfigMap;
use serde::Serialize;

use super::super::cache::limits::Limits;
use super::super::validate::ValidPool;
use super::{BuildError, metadata, paths};
use crate::kube_ext::ensure::short_hash;

/// Builds that the daemon remembers. A runner that was restarted asks this history what became of its builds, so they
/// must not be pushed out by others meanwhile (BuildKit's default is 50).
const HISTORY_ENTRIES: u32 = 1000;
/// How long it remembers them.
const HISTORY_AGE: &str = "48h";

/// The daemon's entry point.
const START: &str = include_str!("start.sh");
/// What the daemon starts as runc.
const RUNC: &str = include_str!("runc.sh");

/// The two files that depend on the pool.
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
        let mut bytes = format!("{}\0{}\0{START}\0{RUNC}", self.buildkitd, self.runner);
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
            (START_KEY.to_owned(), START.to_owned()),
            (RUNC_KEY.to_owned(), RUNC.to_owned()),
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

#[derive(Serialize)]
#[allow(clippy::struct_excessive_bools, reason = "so it is in buildkitd.toml")]
struct OciWorker {
    enabled: bool,
    rootless: bool,
    #[serde(rename = "noProcessSandbox")]
    no_process_sandbox: bool,
    /// In the place of runc.
    binary: &'static str,
    gc: bool,
    gcpolicy: Vec<GcPolicy>,
}

/// A rule of garbage collection; all are applied in order, within a minute of a build's end and never during one. Space
/// in bytes, reckoned from the volume's size and not from the file system's: some volumes are directories of a larger
/// one.
#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct GcPolicy {
    /// Kinds of records; all when empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    filters: Vec<&'static str>,
    /// Records of frontends and the daemon's own too.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    all: bool,
    /// Only records that were not used for so many seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    keep_duration: Option<String>,
    /// Kept, however little space there is.
    #[serde(skip_serializing_if = "Option::is_none")]
    reserved_space: Option<i64>,
    /// More than this is collected. Without any of the three, all is.
    #[serde(skip_serializing_if = "Option::is_none")]
    max_used_space: Option<i64>,
    /// Collected until so much is free.
    #[serde(skip_serializing_if = "Option::is_none")]
    min_free_space: Option<i64>,
}

/// BuildKit's own default rules (`cmd/buildkitd/config/gcpolicy.go`, v0.33) with the pool's limits, but for the one that
/// spares for 60 days what is over the limit, and with `keepFor`.
fn gc_policy(limits: &Limits) -> Vec<GcPolicy> {
    let within = |all| GcPolicy {
        all,
        reserved_space: Some(limits.reserved),
        max_used_space: Some(limits.max_used),
        min_free_space: Some(limits.min_free),
        ..GcPolicy::default()
    };
    let keep_for = limits
        .keep_seconds
        .map(|seconds| GcPolicy { keep_duration: Some(format!("{seconds}s")), ..GcPolicy::default() });
    // What is made again most easily: local sources, cache mounts and git checkouts of two days ago, beyond 512 MB.
    let easy = GcPolicy {
        filters: vec!["type==source.local", "type==exec.cachemount", "type==source.git.checkout"],
        keep_duration: Some("48h".to_owned()),
        max_used_space: Some(512_000_000),
        ..GcPolicy::default()
    };
    [Some(easy), keep_for, Some(within(false)), Some(within(true))].into_iter().flatten().collect()
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
                binary: paths::RUNC,
                gc: true,
                gcpolicy: gc_policy(&pool.cache.limits),
            },
            containerd: ContainerdWorker { enabled: false },
        },
        cdi: Cdi { disabled: true },
        history: History { max_age: HISTORY_AGE, max_entries: HISTORY_ENTRIES },
        registry: registry.collect(),
    }
}
