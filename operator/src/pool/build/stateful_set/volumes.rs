//! Volumes of a member's pod and where each container sees them. The daemon gets its socket, its configuration, its cache
//! and the public authorities; logins and the Kubernetes token are the runner's alone.

use std::collections::BTreeSet;

use buildpools_crds::member_config::{BUILDKITD_KEY, RUNC_KEY, RUNNER_KEY, START_KEY};
use buildpools_crds::names;
use buildpools_crds::v1alpha1::PoolProfile;
use k8s_openapi::api::core::v1::{
    ConfigMapProjection, ConfigMapVolumeSource, DownwardAPIProjection, DownwardAPIVolumeFile, EmptyDirVolumeSource,
    KeyToPath, ObjectFieldSelector, ProjectedVolumeSource, SecretVolumeSource, ServiceAccountTokenProjection, Volume,
    VolumeMount, VolumeProjection,
};

use super::super::super::validate::{Registry, ValidPool};
use super::super::paths;

const SOCKET: &str = "socket";
const DAEMON_CONFIG: &str = "daemon-config";
const RUNNER_CONFIG: &str = "runner-config";
const TOKEN: &str = "token";
const TMP: &str = "tmp";

/// Life of the runner's token; the kubelet renews it in time. The shortest that API servers do not lengthen.
const TOKEN_SECONDS: i64 = 3600;

/// Mode of a login's file. In profile Rootless the kubelet gives it to the pod's `fsGroup`, which is the runner's.
/// UserNamespace has no `fsGroup`, and the file is root's: others may read it, and the runner is the only one that
/// has it.
fn login_mode(profile: PoolProfile) -> i32 {
    match profile {
        PoolProfile::Rootless => 0o440,
        PoolProfile::UserNamespace => 0o444,
    }
}

pub(super) fn all(pool: &ValidPool) -> Vec<Volume> {
    let mut volumes = vec![
        empty(SOCKET),
        config_files(DAEMON_CONFIG, &names::config_map(&pool.name), daemon_files()),
        config(RUNNER_CONFIG, &names::config_map(&pool.name), RUNNER_KEY, RUNNER_KEY),
        token(),
        empty(TMP),
    ];
    let authorities = authorities(pool).enumerate();
    volumes.extend(
        authorities.map(|(n, ca)| config(&authority_volume(n), &ca.config_map, &ca.key, paths::AUTHORITY_FILE)),
    );
    volumes.extend(pool.credentials.iter().enumerate().map(|(n, secret)| login(pool, n, secret)));
    volumes
}

pub(super) fn daemon_mounts(pool: &ValidPool) -> Vec<VolumeMount> {
    let mut mounts = vec![
        mount(SOCKET, paths::SOCKET_DIRECTORY),
        read_only(DAEMON_CONFIG, paths::DAEMON_CONFIG),
        mount(names::CACHE_CLAIM, paths::state(pool.profile)),
    ];
    mounts.extend(authority_mounts(pool));
    mounts
}

pub(super) fn runner_mounts(pool: &ValidPool) -> Vec<VolumeMount> {
    let mut mounts = vec![
        mount(SOCKET, paths::SOCKET_DIRECTORY),
        read_only(RUNNER_CONFIG, paths::RUNNER_CONFIG),
        read_only(TOKEN, paths::TOKEN),
        mount(TMP, "/tmp"),
        // For what BuildKit does not tell: how full it is, and which reset it has seen (runner/src/cache/volume.rs).
        mount(names::CACHE_CLAIM, paths::RUNNER_CACHE),
    ];
    mounts.extend(authority_mounts(pool));
    let logins = pool.credentials.iter().enumerate();
    mounts.extend(logins.map(|(n, secret)| read_only(&login_volume(n), &paths::credential(secret))));
    mounts
}

/// Several registries may have one authority.
fn authorities(pool: &ValidPool) -> impl Iterator<Item = &Registry> {
    let mut seen = BTreeSet::new();
    pool.registries.iter().filter(move |registry| seen.insert((&registry.config_map, &registry.key)))
}

fn authority_mounts(pool: &ValidPool) -> impl Iterator<Item = VolumeMount> {
    authorities(pool).enumerate().map(|(n, ca)| read_only(&authority_volume(n), &paths::authority(ca)))
}

fn authority_volume(n: usize) -> String {
    format!("ca-{n}")
}

fn login_volume(n: usize) -> String {
    format!("credential-{n}")
}

fn mount(volume: &str, path: &str) -> VolumeMount {
    VolumeMount { name: volume.to_owned(), mount_path: path.to_owned(), ..VolumeMount::default() }
}

fn read_only(volume: &str, path: &str) -> VolumeMount {
    VolumeMount { read_only: Some(true), ..mount(volume, path) }
}

fn empty(name: &str) -> Volume {
    Volume { name: name.to_owned(), empty_dir: Some(EmptyDirVolumeSource::default()), ..Volume::default() }
}

fn item(key: &str, path: &str) -> KeyToPath {
    KeyToPath { key: key.to_owned(), path: path.to_owned(), mode: None }
}

fn daemon_files() -> Vec<KeyToPath> {
    let program = KeyToPath { mode: Some(0o555), ..item(RUNC_KEY, RUNC_KEY) };
    vec![item(BUILDKITD_KEY, BUILDKITD_KEY), item(START_KEY, START_KEY), program]
}

/// Whole directories, no `subPath`: only so do changes reach a running container.
fn config(name: &str, config_map: &str, key: &str, path: &str) -> Volume {
    config_files(name, config_map, vec![item(key, path)])
}

fn config_files(name: &str, config_map: &str, items: Vec<KeyToPath>) -> Volume {
    Volume {
        name: name.to_owned(),
        config_map: Some(ConfigMapVolumeSource {
            name: config_map.to_owned(),
            items: Some(items),
            ..ConfigMapVolumeSource::default()
        }),
        ..Volume::default()
    }
}

/// Optional: a pod starts without a Secret, and the login appears when the Secret does.
fn login(pool: &ValidPool, n: usize, secret: &str) -> Volume {
    Volume {
        name: login_volume(n),
        secret: Some(SecretVolumeSource {
            secret_name: Some(secret.to_owned()),
            items: Some(vec![item(".dockerconfigjson", paths::CREDENTIAL_FILE)]),
            default_mode: Some(login_mode(pool.profile)),
            optional: Some(true),
        }),
        ..Volume::default()
    }
}

/// What Kubernetes would mount by itself into every container.
fn token() -> Volume {
    let sources = vec![
        VolumeProjection {
            service_account_token: Some(ServiceAccountTokenProjection {
                expiration_seconds: Some(TOKEN_SECONDS),
                path: "token".to_owned(),
                audience: None,
            }),
            ..VolumeProjection::default()
        },
        VolumeProjection {
            config_map: Some(ConfigMapProjection {
                name: "kube-root-ca.crt".to_owned(),
                items: Some(vec![item("ca.crt", "ca.crt")]),
                optional: None,
            }),
            ..VolumeProjection::default()
        },
        VolumeProjection {
            downward_api: Some(DownwardAPIProjection {
                items: Some(vec![DownwardAPIVolumeFile {
                    path: "namespace".to_owned(),
                    field_ref: Some(ObjectFieldSelector {
                        field_path: "metadata.namespace".to_owned(),
                        api_version: Some("v1".to_owned()),
                    }),
                    ..DownwardAPIVolumeFile::default()
                }]),
            }),
            ..VolumeProjection::default()
        },
    ];
    Volume {
        name: TOKEN.to_owned(),
        projected: Some(ProjectedVolumeSource { sources: Some(sources), default_mode: None }),
        ..Volume::default()
    }
}
