//! The container `buildkitd`: a native sidecar, so that it starts before the runner and stops after it.

use buildpools_crds::member_config::BUILDKITD_KEY;
use buildpools_crds::names;
use buildpools_crds::v1alpha1::PoolProfile;
use k8s_openapi::api::core::v1::{
    AppArmorProfile, Capabilities, Container, ResourceRequirements, SeccompProfile, SecurityContext,
};

use super::super::super::validate::ValidPool;
use super::super::paths;
use super::{USER, volumes};

/// Capabilities in the pod's own user namespace. SYS_ADMIN is for the mounts of RUN steps, NET_ADMIN for those with
/// `--network=none`; the others are those of every RUN step, which fails if one cannot be given (`runc.sh` takes NET_RAW
/// from what BuildKit would give).
const USER_NAMESPACE_CAPABILITIES: [&str; 15] = [
    "SYS_ADMIN",
    "NET_ADMIN",
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// No probe: the runner knows when the daemon answers, a startup probe would only delay it, and a liveness probe could
/// end builds.
pub(super) fn container(pool: &ValidPool) -> Container {
    let some = |map: &std::collections::BTreeMap<_, _>| (!map.is_empty()).then(|| map.clone());
    Container {
        name: names::DAEMON_CONTAINER.to_owned(),
        image: Some(pool.buildkit_image.clone()),
        image_pull_policy: Some("IfNotPresent".to_owned()),
        restart_policy: Some("Always".to_owned()),
        command: Some(command(pool.profile)),
        args: Some(arguments(pool.profile)),
        resources: Some(ResourceRequirements {
            requests: some(&pool.requests),
            limits: some(&pool.limits),
            ..ResourceRequirements::default()
        }),
        security_context: Some(security_context(pool.profile)),
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        volume_mounts: Some(volumes::daemon_mounts(pool)),
        ..Container::default()
    }
}

/// The image's own program under an entry point that knows a damaged cache (`start.sh`). UserNamespace: plain buildkitd,
/// whatever the image's entry point is; the pod has its user namespace already.
fn command(profile: PoolProfile) -> Vec<String> {
    let program: &[&str] = match profile {
        PoolProfile::Rootless => &["rootlesskit", "buildkitd"],
        PoolProfile::UserNamespace => &["buildkitd"],
    };
    let entry = ["/bin/sh", paths::START, paths::state(profile)];
    entry.iter().chain(program).map(|word| (*word).to_owned()).collect()
}

fn arguments(profile: PoolProfile) -> Vec<String> {
    let mut arguments = vec![
        "--config".to_owned(),
        format!("{}/{BUILDKITD_KEY}", paths::DAEMON_CONFIG),
        "--addr".to_owned(),
        format!("unix://{}", paths::SOCKET),
    ];
    match profile {
        // A sandbox of its own would need a /proc that an unprivileged container may not mount.
        PoolProfile::Rootless => arguments.push("--oci-worker-no-process-sandbox".to_owned()),
        // The socket is for the runner too.
        PoolProfile::UserNamespace => arguments.extend(["--group".to_owned(), USER.to_string()]),
    }
    arguments
}

/// As measured; `docs/threats.md` says why each. `allowPrivilegeEscalation` stays unset. Rootless: newuidmap and
/// newgidmap have file capabilities, which mean nothing under no_new_privs. UserNamespace: the API server does not allow
/// `false` beside SYS_ADMIN.
fn security_context(profile: PoolProfile) -> SecurityContext {
    let unconfined = SecurityContext {
        seccomp_profile: Some(SeccompProfile { type_: "Unconfined".to_owned(), ..SeccompProfile::default() }),
        app_armor_profile: Some(AppArmorProfile { type_: "Unconfined".to_owned(), ..AppArmorProfile::default() }),
        ..SecurityContext::default()
    };
    let capabilities = |add: &[&str]| Capabilities {
        drop: Some(vec!["ALL".to_owned()]),
        add: Some(add.iter().map(|name| (*name).to_owned()).collect()),
    };
    match profile {
        PoolProfile::Rootless => SecurityContext {
            run_as_user: Some(USER),
            run_as_group: Some(USER),
            run_as_non_root: Some(true),
            capabilities: Some(capabilities(&["SETUID", "SETGID"])),
            ..unconfined
        },
        PoolProfile::UserNamespace => SecurityContext {
            run_as_user: Some(0),
            run_as_group: Some(0),
            // A RUN step gets a /proc of its own, and the kernel lets nobody mount one whose own is partly hidden.
            proc_mount: Some("Unmasked".to_owned()),
            capabilities: Some(capabilities(&USER_NAMESPACE_CAPABILITIES)),
            ..unconfined
        },
    }
}
